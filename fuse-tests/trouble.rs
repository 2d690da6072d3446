//! What machines do to a node: a disk that is full or was so at the start, a clock that is off.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::mount::{MountFlags, mount, mount_remount};

use crate::harness::{self, Lab, Node, SOON, Setup, agree, git, run, wait_until};

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

/// An ext4 of so many MiB, without blocks that are root's alone.
fn small_ext4(lab: &Lab, mib: u64) -> PathBuf {
    let image = lab.path("image");
    let file = fs::File::create(&image).expect("an image");
    file.set_len(mib << 20).expect("long");
    run(Command::new("mkfs.ext4")
        .args(["-q", "-m", "0"])
        .arg(&image));
    let disk = lab.mount_point("disk");
    run(Command::new("mount")
        .args(["-o", "loop"])
        .arg(&image)
        .arg(&disk));
    disk
}

/// Writes files of these sizes in turn until there is no room, also not a moment later; those
/// that were acknowledged.
fn fill(a: &Node, kept: &mut Vec<(String, Vec<u8>)>) {
    let mut refused = 0;
    for size in [700_000, 150_000, 20_000, 900, 5] {
        while refused < 3 {
            let name = format!("f{}", kept.len());
            let bytes = noise(size);
            match write_durably(&a.at(&name), &bytes) {
                Ok(()) => {
                    kept.push((name, bytes));
                    refused = 0;
                }
                Err(e) => {
                    assert_eq!(e.kind(), io::ErrorKind::StorageFull, "{e}");
                    refused += 1;
                    std::thread::sleep(Duration::from_millis(150));
                    // It may be there without its bytes. A name of another round is not this one.
                    let aside = format!("refused-{}-{size}-{refused}", kept.len());
                    let _ = fs::rename(a.at(&name), a.at(aside));
                }
            }
        }
        refused = 0;
    }
}

fn holds(a: &Node, kept: &[(String, Vec<u8>)], when: &str) {
    for (name, bytes) in kept {
        let is = fs::read(a.at(name)).unwrap_or_else(|e| panic!("{when}: {name}: {e}"));
        assert!(is == *bytes, "{when}: {name} has {} bytes", is.len());
    }
}

fn room(path: &Path) -> (u64, u64) {
    let s = rustix::fs::statvfs(path).expect("told");
    (s.f_bavail * s.f_frsize, s.f_blocks * s.f_frsize)
}

#[test]
fn a_disk_that_is_full_at_the_start_is_shown_and_written_when_there_is_room() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let disk = small_ext4(&lab, 56);
    let others = disk.join("of-others");
    fs::write(&others, noise(28 << 20)).expect("room");
    let state = disk.join("state");
    let mut setup = lab.node("a");
    setup.state = state;
    let mut a = setup.start();
    let mut kept = Vec::new();
    fill(&a, &mut kept);
    assert!(kept.len() > 20, "only {} files fit", kept.len());
    holds(&a, &kept, "full");
    assert_eq!(
        room(a.dir()),
        room(&disk),
        "the folder tells of another disk"
    );
    let warned = |a: &Node, what: &str| a.ask(&["status"]).contains(what);
    // What is removed stays in the history: there is no more room than before.
    let (gone, _) = kept.remove(0);
    let (before, _) = room(&disk);
    if fs::remove_file(a.at(&gone)).is_ok() {
        assert!(!a.at(&gone).exists());
    }
    assert!(room(&disk).0 <= before);
    for round in 0..2 {
        a = a.kill().start();
        let when = format!("full, after kill {round}");
        holds(&a, &kept, &when);
        assert!(
            warned(&a, "nothing is written until there is room"),
            "{}",
            a.ask(&["status"])
        );
        let refused = write_durably(&a.at("refused"), b"x").expect_err("there is no room");
        assert_eq!(refused.kind(), io::ErrorKind::StorageFull, "{refused}");
        let refused = fs::remove_file(a.at(&kept[0].0)).expect_err("nothing is written");
        assert_eq!(refused.kind(), io::ErrorKind::StorageFull, "{refused}");
    }
    fs::remove_file(&others).expect("removed");
    let written = || write_durably(&a.at("late"), b"late").is_ok();
    wait_until(SOON, written, || a.ask(&["status"]));
    kept.push(("late".to_owned(), b"late".to_vec()));
    holds(&a, &kept, "with room");
    a.settled();
    let calm = || !warned(&a, "warning");
    wait_until(SOON, calm, || a.ask(&["status"]));
    assert!(!a.log().contains("panicked"), "{}", a.log());
    let a = a.kill().start();
    holds(&a, &kept, "with room, after a kill");
    let names = fs::read_dir(a.dir()).expect("read").flatten();
    let copies = names.filter(|e| e.file_name().to_string_lossy().contains("conflict"));
    assert_eq!(copies.count(), 0);
    git::fsck(&a.repo("cell"));
    a.stop();
}

/// What a program that held a file open gets from it, and whoever goes by the path.
fn held_over_a_restart(end: impl Fn(Node) -> Setup) -> (Vec<Option<i32>>, Option<i32>) {
    let lab = Lab::new();
    let a = lab.first("a");
    a.write("held", "before");
    let path = a.at("held");
    let held = fs::OpenOptions::new().read(true).write(true).open(&path);
    let mut held = held.expect("opened");
    held.write_all(b"BEFORE").expect("written");
    held.sync_all().expect("synced");
    let setup = end(a);
    let code = |r: io::Result<()>| r.err().and_then(|e| e.raw_os_error());
    let by_path = code(fs::metadata(&path).map(drop));
    let a = setup.start();
    let of_held = vec![
        code(held.write_all(b"after")),
        code(held.sync_all()),
        code(held.metadata().map(drop)),
    ];
    // Who opens it again goes on; nothing acknowledged is missing.
    assert_eq!(a.read("held"), "BEFORE");
    a.write("held", "again");
    assert_eq!(a.read("held"), "again");
    a.stop();
    (of_held, by_path)
}

#[test]
fn who_holds_a_file_over_a_restart_has_to_open_it_again() {
    if !harness::fuse() {
        return;
    }
    let not_connected = Some(libc::ENOTCONN);
    let (held, by_path) = held_over_a_restart(Node::stop);
    assert_eq!(held, vec![not_connected; 3], "after an end in order");
    // The folder was taken off: the directory below it is there.
    assert_eq!(by_path, Some(libc::ENOENT));
    let (held, by_path) = held_over_a_restart(Node::kill);
    assert_eq!(held, vec![not_connected; 3], "after a kill");
    assert_eq!(by_path, not_connected);
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
