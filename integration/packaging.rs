//! What is delivered beside the program: the sample configuration and the systemd unit.

use std::fs;
use std::path::Path;
use std::process::Command;

use cellfs::config::{KEYS, Source};

fn packaging(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("packaging")
        .join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn the_sample_configuration_has_every_key_and_is_valid() {
    let sample = packaging("cellfs.toml");
    let is_key = |l: &&str| l.starts_with(|c: char| c.is_ascii_lowercase());
    assert!(
        !sample.lines().any(|l| is_key(&l)),
        "the sample itself sets nothing"
    );
    let keys: Vec<&str> = sample
        .lines()
        .filter_map(|l| l.strip_prefix('#'))
        .filter(is_key)
        .collect();
    let mut named: Vec<&str> = keys
        .iter()
        .filter_map(|l| Some(l.split_once(" = ")?.0))
        .collect();
    let mut known = KEYS.to_vec();
    named.sort_unstable();
    known.sort_unstable();
    assert_eq!(named, known);
    let f = tempfile::NamedTempFile::new().expect("a file");
    fs::write(f.path(), keys.join("\n")).expect("written");
    let source = Source::read(f.path()).expect("all keys together are valid");
    source.options(None).expect("and so are their values");
    fs::write(f.path(), &sample).expect("written");
    assert_eq!(
        Source::read(f.path()).expect("as delivered"),
        Source::default()
    );
}

#[test]
fn systemd_has_nothing_to_say_against_the_unit() {
    let unit = packaging("cellfs.service");
    let here = unit.replace("/usr/local/bin/cellfs", env!("CARGO_BIN_EXE_cellfs"));
    assert_ne!(unit, here);
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("cellfs.service");
    fs::write(&path, here).expect("written");
    let out = Command::new("systemd-analyze")
        .arg("verify")
        .arg(&path)
        .output();
    let out = out.expect("systemd-analyze runs: apt-get install systemd");
    let said = String::from_utf8_lossy(&out.stderr);
    // It warns of units of the machine, too; ours are named.
    let ours: Vec<&str> = said.lines().filter(|l| l.contains("cellfs")).collect();
    assert!(out.status.success() && ours.is_empty(), "{said}");
}

#[test]
fn the_unit_makes_no_mount_namespace() {
    const HIDES: &[&str] = &[
        "Private",
        "Protect",
        "ReadWritePaths",
        "ReadOnlyPaths",
        "InaccessiblePaths",
        "ExecPaths",
        "NoExecPaths",
        "Bind",
        "Root",
        "TemporaryFileSystem",
        "MountFlags",
        "MountAPIVFS",
        "MountImages",
        "ExtensionImages",
        "ExtensionDirectories",
        "ProcSubset",
        "DynamicUser",
        "LogNamespace",
        "JoinsNamespaceOf",
        "LoadCredential",
        "SetCredential",
        "ConfigurationDirectory",
    ];
    for line in packaging("cellfs.service").lines() {
        let hides = HIDES.iter().any(|h| line.starts_with(h));
        assert!(!hides, "{line} would hide the folder from everybody else");
    }
}
