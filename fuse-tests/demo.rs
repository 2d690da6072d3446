//! The demonstration of the README is the script that runs here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_readme_prints_the_demonstration() {
    let readme = fs::read_to_string(top().join("README.md")).expect("a README");
    let script = fs::read_to_string(top().join("packaging/demo.sh")).expect("a script");
    let (_, shown) = script.split_once("\n\n").expect("a head and the rest");
    let block = format!("```sh\n{shown}```\n");
    assert!(
        readme.contains(&block),
        "README.md does not print:\n{block}"
    );
}

#[test]
fn the_demonstration_runs() {
    let home = tempfile::tempdir().expect("a folder");
    let built = PathBuf::from(env!("CARGO_BIN_EXE_cellfs"));
    let path = std::env::var("PATH").expect("a PATH");
    let out = Command::new("timeout")
        .arg("--kill-after=10")
        .arg("60")
        .arg(top().join("packaging/demo.sh"))
        .env_clear()
        .env(
            "PATH",
            format!("{}:{path}", built.parent().expect("a folder").display()),
        )
        .env("HOME", home.path())
        .env("TMPDIR", home.path())
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{out:?}");
    for line in [
        "written in folder 1\n",
        "pushed by git\n",
        "connected",
        "a line from git\n",
    ] {
        assert!(said.contains(line), "{line:?} is not in\n{said}");
    }
}
