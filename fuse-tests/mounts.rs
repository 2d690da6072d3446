//! Folders: the commands that make them and take them away, several at once, dead ones.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::harness::{self, Lab, SOON, cellfs, wait_until};

fn mounted(dir: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("Linux");
    let dir = format!(" {} ", dir.display());
    table
        .lines()
        .any(|l| l.contains(&dir) && l.contains(" fuse.cellfs "))
}

#[test]
fn mount_returns_when_the_folder_answers() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let dir = lab.mount_point("mnt");
    let state = lab.path("state");
    let folder = dir.display().to_string();
    let listen = format!("127.0.0.1:{}", harness::free_port());
    let out = cellfs(&state, &["mount", &folder, "--listen", &listen]);
    assert!(out.status.success(), "{out:?}");
    assert!(mounted(&dir));
    fs::write(dir.join("x"), "x").expect("written at once");
    let said = String::from_utf8(out.stdout).expect("UTF-8");
    let words: Vec<&str> = said.lines().filter_map(|l| l.split(' ').next()).collect();
    assert_eq!(words, ["node", "join", "git"], "{said}");
    let again = cellfs(&state, &["mount", &folder]);
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    // Nor may another node put its folder on top.
    let other = lab.path("other.state");
    let on_top = cellfs(&other, &["mount", &folder, "--listen", "127.0.0.1:0"]);
    assert_eq!(on_top.status.code(), Some(1), "{on_top:?}");
    let said = String::from_utf8_lossy(&on_top.stderr);
    assert!(said.contains("is mounted already"), "{said}");
    let out = cellfs(&state, &["umount", "--all"]);
    assert!(out.status.success(), "{out:?}");
    assert!(!mounted(&dir));
    let out = cellfs(&state, &["status"]);
    assert_eq!(out.status.code(), Some(4), "the node has ended: {out:?}");
    // What was written is there the next time.
    let out = cellfs(&state, &["mount", &folder, "--listen", &listen]);
    assert!(out.status.success(), "{out:?}");
    assert_eq!(fs::read(dir.join("x")).expect("read"), b"x");
    let out = cellfs(&state, &["umount", "--all"]);
    assert!(out.status.success(), "{out:?}");
}

#[test]
fn the_join_line_stays_the_same_until_it_is_used() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let ticket = |said: &str| {
        let line = said.lines().find(|l| l.starts_with("join "));
        let last = line.and_then(|l| l.split(' ').next_back());
        last.expect("a ticket").to_owned()
    };
    let node = lab.first("n1");
    let first = ticket(&node.said.join("\n"));
    let mounted_again = |node: &harness::Node, name: &str| {
        let dir = lab.mount_point(name).display().to_string();
        ticket(&node.ask(&["mount", &dir]))
    };
    assert_eq!(mounted_again(&node, "second"), first);
    let node = node.stop().start();
    assert_eq!(ticket(&node.said.join("\n")), first);
    assert_ne!(node.invite(1), first, "who asks for a ticket gets his own");
    let other = lab.node("n2").join(&first).start();
    let next = mounted_again(&node, "third");
    assert_ne!(next, first);
    assert!(
        lab.node("n3")
            .join(&first)
            .serve()
            .begin()
            .try_ready()
            .is_err()
    );
    lab.node("n3").join(&next).start();
    drop(other);
}

#[test]
fn two_folders_of_one_node_show_the_same() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let node = lab.first("n1");
    let other = lab.mount_point("other");
    node.write("before", "1");
    node.ask(&["mount", &other.display().to_string()]);
    assert_eq!(fs::read(other.join("before")).expect("read"), b"1");
    // Both kernels' caches are warm, so each change must be told to the other.
    for i in 0..50 {
        let text = format!("{i}");
        node.write("a", &text);
        let seen = |path: &Path| fs::read_to_string(path).is_ok_and(|t| t == text);
        wait_until(SOON, || seen(&other.join("a")), || format!("a: {i}"));
        fs::write(other.join("b"), &text).expect("written");
        wait_until(SOON, || seen(&node.at("b")), || format!("b: {i}"));
    }
    fs::create_dir(other.join("d")).expect("made");
    node.write("d/f", "f");
    let seen = || other.join("d/f").exists();
    wait_until(SOON, seen, || "d/f in the other folder".into());
    fs::rename(node.at("d"), node.at("e")).expect("renamed");
    let gone = || !other.join("d").exists() && other.join("e/f").exists();
    wait_until(SOON, gone, || "the rename in the other folder".into());
    fs::remove_file(other.join("e/f")).expect("removed");
    wait_until(SOON, || !node.at("e/f").exists(), || "e/f".into());
    let folder = other.display().to_string();
    node.ask(&["umount", &folder]);
    assert!(!mounted(&other) && mounted(node.dir()));
    assert!(fs::read_dir(&other).expect("listed").next().is_none());
    node.write("after", "1");
    let again = node.try_ask(&["umount", &folder]);
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    node.stop();
}

#[test]
fn read_only() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let node = lab.first("n1");
    node.write("f", "f");
    let ro = lab.mount_point("ro");
    node.ask(&["mount", "--read-only", &ro.display().to_string()]);
    let denied = |r: std::io::Result<()>| {
        let e = r.expect_err("refused");
        assert_eq!(e.raw_os_error(), Some(libc::EROFS), "{e}");
    };
    denied(fs::write(ro.join("f"), "g"));
    denied(fs::write(ro.join("new"), "g"));
    denied(fs::create_dir(ro.join("d")));
    denied(fs::remove_file(ro.join("f")));
    denied(fs::rename(ro.join("f"), ro.join("g")));
    denied(std::os::unix::fs::symlink("f", ro.join("l")));
    assert_eq!(fs::read(ro.join("f")).expect("read"), b"f");
    node.write("f", "changed");
    let seen = || fs::read(ro.join("f")).is_ok_and(|b| b == b"changed");
    wait_until(SOON, seen, || "a change through the other folder".into());
    node.stop();
    let node = lab.node("n2").words(["--read-only"]).start();
    denied(fs::write(node.at("f"), "g"));
    node.stop();
}

/// The options of a mount, as the kernel has them.
fn options(dir: &Path) -> String {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("Linux");
    let dir = format!(" {} ", dir.display());
    let line = table.lines().find(|l| l.contains(&dir)).expect("mounted");
    line.split(' ').nth(5).expect("options").to_owned()
}

#[test]
fn options_of_a_mount_are_those_that_were_asked_for() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let node = lab.first("n1");
    node.write("run", "#!/bin/sh\ntrue\n");
    let run = node.at("run");
    fs::set_permissions(&run, fs::Permissions::from_mode(0o755)).expect("set");
    let may_run = |p: &Path| Command::new(p).status().map(|s| s.success());
    assert!(may_run(&run).expect("runs"));
    let one = lab.mount_point("one");
    let words = ["mount", "-o", "noexec,noatime", "-o", "_netdev,nofail"];
    let one_text = one.display().to_string();
    node.ask(&[&words[..], &[one_text.as_str()]].concat());
    let said = options(&one);
    for word in ["rw", "nosuid", "nodev", "noexec", "noatime"] {
        assert!(said.split(',').any(|o| o == word), "{word} of {said}");
    }
    let refused = may_run(&one.join("run")).expect_err("refused");
    assert_eq!(refused.raw_os_error(), Some(libc::EACCES), "{refused}");
    fs::write(one.join("run"), "written").expect("written");
    let two = lab.mount_point("two").display().to_string();
    for (word, wants) in [("noexce", "no option noexce"), ("suid", "nosuid")] {
        let bad = node.try_ask(&["mount", "-o", word, &two]);
        assert_eq!(bad.status.code(), Some(2), "{bad:?}");
        let said = String::from_utf8_lossy(&bad.stderr);
        assert!(said.contains(wants) && said.contains("Hint:"), "{said}");
    }
    node.stop();
}

#[test]
fn mount_and_fstab_find_us_by_the_name_of_their_helper() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let helper = lab.path("mount.cellfs");
    std::os::unix::fs::symlink(harness::program(), &helper).expect("linked");
    let (dir, state) = (lab.mount_point("mnt"), lab.path("state"));
    let list = format!(
        "ro,_netdev,x-systemd.automount,state={},listen=127.0.0.1:{},noexec",
        state.display(),
        harness::free_port()
    );
    let mount = |volume: &str, flags: &[&str]| {
        let mut c = Command::new(&helper);
        c.arg(volume).arg(&dir).args(flags).args(["-o", &list]);
        c.output().expect("runs")
    };
    let rehearsed = mount("photos", &["-f"]);
    assert!(
        rehearsed.status.success() && !mounted(&dir),
        "{rehearsed:?}"
    );
    let out = mount("photos", &["-n"]);
    assert!(out.status.success(), "{out:?}");
    let said = options(&dir);
    assert!(said.starts_with("ro,") && said.contains("noexec"), "{said}");
    let denied = fs::write(dir.join("f"), "f").expect_err("refused");
    assert_eq!(denied.raw_os_error(), Some(libc::EROFS), "{denied}");
    let status = cellfs(&state, &["status", "--json"]);
    let text = String::from_utf8_lossy(&status.stdout);
    assert!(text.contains("photos"), "{text}");
    let out = cellfs(&state, &["umount", "--all"]);
    assert!(out.status.success(), "{out:?}");
    let bad = Command::new(&helper).arg("cell").output().expect("runs");
    assert_eq!(bad.status.code(), Some(2), "{bad:?}");
}

#[test]
fn a_folder_of_another_volume() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let node = lab.first("n1");
    node.write("here", "cell");
    let other = lab.mount_point("other");
    let folder = other.display().to_string();
    node.ask(&["mount", "--volume", "photos", &folder]);
    fs::write(other.join("there"), "photos").expect("written");
    assert!(!node.at("there").exists() && !other.join("here").exists());
    let mut names: Vec<_> = node.status().volumes.into_iter().map(|v| v.name).collect();
    names.sort();
    assert_eq!(names, ["cell", "photos"]);
    node.settled();
    let setup = node.stop();
    assert!(!mounted(&other) && !mounted(&setup.dir));
    let node = setup.start();
    node.ask(&["mount", "--volume", "photos", &folder]);
    assert_eq!(fs::read(other.join("there")).expect("read"), b"photos");
    let bad = node.try_ask(&["mount", "--volume", "no/such", &folder]);
    assert_eq!(bad.status.code(), Some(2), "{bad:?}");
    node.stop();
}

#[test]
fn after_a_kill_mount_takes_the_dead_mount_off() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let node = lab.first("n1");
    node.write("f", "f");
    fs::File::open(node.at("f"))
        .expect("opened")
        .sync_all()
        .expect("synced");
    let setup = node.kill();
    // Not by its attributes: the kernel has them cached.
    let dead = fs::read_dir(&setup.dir).expect_err("dead");
    assert_eq!(dead.raw_os_error(), Some(libc::ENOTCONN));
    let node = setup.start();
    assert_eq!(node.read("f"), "f");
    let folder = node.dir().display().to_string();
    node.ask(&["umount", &folder]);
    assert!(!mounted(node.dir()));
    node.ask(&["mount", &folder]);
    assert_eq!(node.read("f"), "f");
    node.stop();
}

#[test]
fn somebody_elses_umount() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let node = lab.first("n1");
    node.write("f", "f");
    harness::run(Command::new("umount").arg(node.dir()));
    let folder = node.dir().display().to_string();
    node.ask(&["mount", &folder]);
    assert_eq!(node.read("f"), "f");
    // A busy folder goes away at once, and what is open stays usable until it is closed.
    let held = fs::File::open(node.at("f")).expect("opened");
    node.ask(&["umount", &folder]);
    assert!(!mounted(node.dir()));
    drop(held);
    node.stop();
}

#[test]
fn a_state_has_one_node() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let node = lab.first("n1");
    let state = node.state().display().to_string();
    let out = cellfs(node.state(), &["serve", "-f", "--state", &state]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(said.contains("in use"), "{said}");
    let listen = node.status().listen;
    let taken = cellfs(&lab.path("another"), &["serve", "-f", "--listen", &listen]);
    assert_eq!(taken.status.code(), Some(1), "{taken:?}");
    let said = String::from_utf8_lossy(&taken.stderr);
    assert!(
        said.contains(listen.rsplit(':').next().expect("a port")),
        "{said}"
    );
    let nowhere = node.try_ask(&["mount", "/no/such/folder"]);
    assert_ne!(nowhere.status.code(), Some(0));
    node.stop();
}
