//! What machines do to a node: a full disk, a clock that is off.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;

use rustix::mount::{MountFlags, mount, mount_remount};

use crate::harness::{self, Lab, SOON, agree, run, wait_until};

fn noise(bytes: usize) -> Vec<u8> {
    let mut b = vec![0; bytes];
    getrandom::fill(&mut b).expect("randomness");
    b
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut f = fs::File::create(path)?;
    f.write_all(bytes)?;
    f.sync_all()
}

#[test]
fn a_full_disk_loses_nothing_and_mends_when_there_is_room() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let disk = lab.mount_point("a.state");
    let flags = MountFlags::empty();
    mount("none", &disk, "tmpfs", flags, c"size=24m").expect("a small disk");
    let a = lab.node("a").start();
    let b = lab.node("b").join(&a.invite(1)).start();
    a.write("early", "early");
    b.wait_for("early", "early");
    let mut kept = Vec::new();
    let refused = loop {
        let name = format!("f{}", kept.len());
        let bytes = noise(500 << 10);
        match write_durably(&a.at(&name), &bytes) {
            Ok(()) => kept.push((name, bytes)),
            Err(e) => break e,
        }
        assert!(kept.len() < 60, "24 MiB never fill up");
    };
    assert_eq!(refused.kind(), io::ErrorKind::StorageFull, "{refused}");
    assert!(kept.len() > 3, "only {} files fit", kept.len());
    for (name, bytes) in &kept {
        assert_eq!(fs::read(a.at(name)).expect("read"), *bytes, "{name}");
    }
    let warned = || a.ask(&["status"]).contains("No space left on device");
    wait_until(SOON, warned, || a.ask(&["status"]));
    mount_remount(&disk, flags, c"size=200m").expect("more room");
    a.write("late", "late");
    b.wait_for("late", "late");
    agree(&[&a, &b], "cell", SOON);
    for (name, bytes) in &kept {
        assert_eq!(fs::read(b.at(name)).expect("read"), *bytes, "{name}");
    }
    assert!(!warned());
    let a = a.kill().start();
    for (name, bytes) in &kept {
        assert_eq!(fs::read(a.at(name)).expect("read"), *bytes, "{name}");
    }
    let mut fsck = Command::new("git");
    run(fsck.args(["fsck", "--strict"]).current_dir(a.repo("cell")));
}

#[test]
fn a_clock_an_hour_off_refuses_no_write_and_is_told() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let a = lab.first("a");
    let ahead = ["faketime", "-m", "-f", "+1h"];
    let b = lab.node("b").under(ahead).join(&a.invite(1)).start();
    b.write("x", "by b, an hour ahead");
    a.wait_for("x", "by b, an hour ahead");
    // What came after it comes after it, whatever the clocks say.
    a.write("x", "then by a");
    b.wait_for("x", "then by a");
    agree(&[&a, &b], "cell", SOON);
    assert_eq!(a.read("x"), "then by a");
    for n in [&a, &b] {
        let told = || n.ask(&["status"]).contains("clock");
        wait_until(SOON, told, || n.ask(&["status"]));
    }
}
