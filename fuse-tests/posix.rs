//! What we did not write about POSIX: `pjdfstest`, while a second node changes other files.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness::{self, Lab, SOON, agree, git, tool};

const CONFIG: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.01
allow_remount = false
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

/// What fails, and why.
const FAILS: [(&str, &str); 0] = [];

/// Cases of which fewer would mean that they did not run.
const CASES_MIN: usize = 375;

#[test]
fn pjdfstest_finds_nothing_while_another_node_writes() {
    if !harness::fuse() {
        return;
    }
    let program = tool("pjdfstest");
    let lab = Lab::new();
    let nodes = lab.cell(2);
    let (a, b) = (&nodes[0], &nodes[1]);
    let config = lab.path("pjdfstest.toml");
    fs::write(&config, CONFIG).expect("written");
    fs::create_dir(a.at("tests")).expect("made");
    fs::create_dir(a.at("elsewhere")).expect("made");
    fs::set_permissions(a.at("tests"), Permissions::from_mode(0o777)).expect("set");
    a.settled();
    agree(&[a, b], "cell", SOON);
    let done = AtomicBool::new(false);
    let (out, edits) = std::thread::scope(|s| {
        let writer = s.spawn(|| {
            let mut edits = 0_u32;
            while !done.load(Ordering::Relaxed) {
                b.write(&format!("elsewhere/{}", edits % 50), edits.to_string());
                edits += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            edits
        });
        let mut tests = Command::new(program);
        tests.arg("-c").arg(&config).arg("-p").arg(a.at("tests"));
        let out = tests.output();
        done.store(true, Ordering::Relaxed);
        (out.expect("it runs"), writer.join().expect("written"))
    });
    let text = String::from_utf8_lossy(&out.stdout);
    let ended = |how: &str| -> BTreeSet<&str> {
        let lines = text.lines().filter(|l| l.trim_end().ends_with(how));
        lines.filter_map(|l| l.split_whitespace().next()).collect()
    };
    let wanted: BTreeSet<&str> = FAILS.iter().map(|f| f.0).collect();
    let errors = String::from_utf8_lossy(&out.stderr);
    assert_eq!(ended("FAILED"), wanted, "{text}{errors}");
    assert!(ended("ok").len() >= CASES_MIN, "{text}{errors}");
    assert!(edits > 10, "{edits} edits elsewhere");
    b.settled();
    a.settled();
    agree(&[a, b], "cell", SOON);
    let repo = a.repo("cell");
    assert_eq!(nodes.into_iter().map(harness::Node::stop).count(), 2);
    git::fsck(&repo);
}

#[test]
fn a_program_that_runs_is_not_truncated() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let a = lab.first("n1");
    let program = a.at("sleep");
    fs::copy("/bin/sleep", &program).expect("copied");
    let bytes = fs::read(&program).expect("read");
    let mut runs = Command::new(&program).arg("60").spawn().expect("runs");
    let truncate = |path| {
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::TRUNC;
        rustix::fs::open(path, flags, rustix::fs::Mode::empty())
    };
    assert_eq!(truncate(&program).err(), Some(rustix::io::Errno::TXTBSY));
    std::thread::sleep(Duration::from_millis(200));
    let ended = runs.try_wait().expect("asked");
    assert_eq!(ended, None, "it goes on");
    runs.kill().expect("ended");
    runs.wait().expect("ended");
    assert_eq!(fs::read(&program).expect("read"), bytes);
    // A file that nobody runs has no bytes then, as on other file systems of Linux.
    drop(truncate(&program).expect("opened"));
    assert_eq!(fs::read(&program).expect("read"), b"");
    a.stop();
}
