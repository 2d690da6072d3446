//! Times, set-id bits and capabilities of files that the kernel has.

use std::fs::{File, FileTimes, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{XattrFlags, getxattr, setxattr};

use super::{LET_GO, MANY, MORE, Program, ends_well, has, lines, made, shown};
use crate::harness::{self, Lab, SOON, agree, wait_until};
use crate::ordinary_user::USER;

fn mtime(path: &Path) -> SystemTime {
    path.metadata().expect("there").modified().expect("a time")
}

fn set_mtime(path: &Path, to: SystemTime) {
    let times = FileTimes::new().set_modified(to);
    File::open(path)
        .and_then(|f| f.set_times(times))
        .expect("set");
}

#[test]
fn a_write_is_a_new_time_at_once() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let nodes = lab.cell(2);
    let (a, b) = (&nodes[0], &nodes[1]);
    made(a, "source", MANY);
    let (source, target) = (a.at("source"), a.at("target"));
    let mut p = Program::with(&source, "both");
    for n in 0..20 {
        a.write("target", "made of the source");
        assert!(mtime(&target) >= mtime(&source), "round {n}");
        std::thread::sleep(Duration::from_millis(20));
        p.tell(&format!("pwrite f {} {n:05}", n * 50));
        if n % 2 == 0 {
            p.tell("fsync f");
        }
        let (s, t) = (mtime(&source), mtime(&target));
        assert!(s > t, "round {n}: {s:?} {t:?}: make would not make it");
    }
    // A store to a mapping tells nobody: it is seen at the next look.
    p.tell("map m f");
    a.write("target", "made of the source");
    std::thread::sleep(Duration::from_millis(20));
    p.tell("store m 2000 MAPPED");
    p.tell("msync m");
    let took = wait_until(
        SOON,
        || mtime(&source) > mtime(&target),
        || "a mapping's store changes no time".to_owned(),
    );
    eprintln!("the time of a store is seen after {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    p.tell("munmap m");
    p.tell("close f");
    agree(&[a, b], "cell", SOON);
    assert_eq!(mtime(&source), mtime(&b.at("source")));
    ends_well(nodes);
}

#[test]
fn a_time_that_is_set_holds_while_the_file_is_open_and_afterwards() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let mut nodes = lab.cell(2);
    let b = nodes.pop().expect("two");
    let mut a = nodes.pop().expect("two");
    let then = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    let mut ps = Vec::new();
    for name in ["written", "mapped", "cut", "quiet"] {
        made(&a, name, MANY);
        let path = a.at(name);
        let mut p = Program::with(&path, "both");
        match name {
            "written" => drop(p.tell("pwrite f 0 WRITTEN")),
            "mapped" => {
                p.tell("map m f");
                p.tell("store m 0 STORED");
            }
            "cut" => drop(p.tell("ftruncate f 180000")),
            _ => {}
        }
        // At once, so that nobody had looked before.
        set_mtime(&path, then);
        assert_eq!(mtime(&path), then, "{name}, at once");
        ps.push((name, p));
    }
    let hold = |a: &harness::Node, when: &str| {
        for name in ["written", "mapped", "cut", "quiet"] {
            assert_eq!(mtime(&a.at(name)), then, "{name}, {when}");
        }
    };
    std::thread::sleep(LET_GO);
    hold(&a, "after looks");
    a.settled();
    hold(&a, "in a commit");
    ps.iter_mut().for_each(|(_, p)| drop(p.tell("fsync f")));
    hold(&a, "synced");
    drop(ps);
    std::thread::sleep(LET_GO);
    hold(&a, "let go");
    agree(&[&a, &b], "cell", SOON);
    hold(&b, "on the other node");
    a = a.kill().start();
    hold(&a, "after a restart");
    agree(&[&a, &b], "cell", SOON);
    hold(&b, "on the other node, after a restart");
    // A write after it is later.
    let mut p = Program::with(&a.at("quiet"), "both");
    set_mtime(&a.at("quiet"), then);
    p.tell("pwrite f 0 LATER");
    assert!(mtime(&a.at("quiet")) > then);
    drop(p);
    ends_well(vec![a, b]);
}

const ID_BITS: u32 = 0o6000;
const CAPABILITY: &str = "security.capability";

fn mode(path: &Path) -> u32 {
    path.metadata().expect("there").mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("set");
}

fn set_capability(path: &Path) {
    // CAP_NET_RAW, permitted and effective.
    let mut value = [0; 20];
    value[..6].copy_from_slice(&[1, 0, 0, 2, 0, 0x20]);
    setxattr(path, CAPABILITY, &value, XattrFlags::empty()).expect("set");
}

fn is_capable(path: &Path) -> bool {
    getxattr(path, CAPABILITY, &mut [0; 100]).is_ok()
}

/// What is left of set-id bits and capabilities after a write; as files on a disk have it.
#[test]
fn a_write_past_the_node_ends_set_id_bits_and_capabilities_as_on_a_disk() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let nodes = lab.cell(2);
    let (a, b) = (&nodes[0], &nodes[1]);
    let disk = lab.dir("disk");
    std::fs::set_permissions(lab.path(""), Permissions::from_mode(0o755)).expect("we may");
    let mut wrong = Vec::new();
    // Who writes, how, and whether the bits are set when he has the file open already.
    for who in ["user", "root"] {
        for how in ["write", "map", "capable"] {
            for late in [false, true] {
                // Who sets them while a program writes past the node has them until another
                // writer comes.
                if late && how == "write" {
                    continue;
                }
                let name = format!("{who}-{how}-{late}");
                std::fs::write(disk.join(&name), lines(MORE)).expect("written");
                a.write(&name, lines(MORE));
                a.settled();
                let found: Vec<_> = [&disk, a.dir()]
                    .map(|dir| {
                        let path = dir.join(&name);
                        chown(&path, Some(USER), Some(USER)).expect("we may");
                        set_mode(&path, 0o777);
                        let set = || match how {
                            "capable" => set_capability(&path),
                            _ => set_mode(&path, 0o777 | ID_BITS),
                        };
                        if !late {
                            set();
                        }
                        let mut p = Program::new();
                        if who == "user" {
                            p.tell(&format!("user {USER}"));
                        }
                        p.open("f", &path, "both");
                        if how == "map" {
                            p.tell("map m f");
                        }
                        if late {
                            set();
                        }
                        match how {
                            "map" => drop(p.tell("store m 0 STORED")),
                            _ => drop(p.tell("pwrite f 0 STORED")),
                        }
                        drop(p);
                        std::thread::sleep(LET_GO);
                        (mode(&path) & ID_BITS, is_capable(&path))
                    })
                    .into();
                if found[0] != found[1] {
                    wrong.push(format!(
                        "{name}: disk {:?}, folder {:?}",
                        found[0], found[1]
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    agree(&[a, b], "cell", SOON);
    for e in std::fs::read_dir(a.dir()).expect("listed") {
        let name = e.expect("an entry").file_name();
        assert_eq!(mode(&a.at(&name)), mode(&b.at(&name)), "{name:?}");
    }
    ends_well(nodes);
}

/// Beyond what a commit can hold.
const LIMIT: u64 = 1 << 40;

#[test]
fn what_grows_beyond_the_limit_stays_here_and_is_not_lost() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let mut nodes = lab.cell(2);
    let b = nodes.pop().expect("two");
    let mut a = nodes.pop().expect("two");
    let old = made(&a, "back", MANY);
    made(&a, "stays", MANY);
    agree(&[&a, &b], "cell", SOON);
    let mut p = Program::with(&a.at("back"), "both");
    let mut q = Program::with(&a.at("stays"), "both");
    for p in [&mut p, &mut q] {
        p.tell("pwrite f 0 CHANGED");
        p.tell(&format!("pwrite f {LIMIT} END"));
        p.tell("fsync f");
        assert_eq!(p.tell("size f"), (LIMIT + 3).to_string());
        assert_eq!(p.tell(&format!("pread f {LIMIT} 9")), "END");
        // By the node it is refused.
        let refused = p.ask(&format!("ftruncate f {}", LIMIT + 100));
        assert_eq!(refused, Err("EFBIG".to_owned()));
    }
    p.tell("close f");
    q.tell("close f");
    a.write("after", "the others go on");
    b.wait_for("after", "the others go on");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(a.at("stays").metadata().expect("there").len(), LIMIT + 3);
    assert!(
        has(&b, "stays", &old) && has(&b, "back", &old),
        "not in a commit"
    );
    assert_eq!(
        a.cell().dirty,
        2,
        "status says that they wait: {:?}",
        a.cell()
    );
    // One that is cut back is in a commit.
    p.open("f", &a.at("back"), "both");
    p.tell(&format!("ftruncate f {}", old.len()));
    p.tell("close f");
    let mut new = old.clone();
    new[..7].copy_from_slice(b"CHANGED");
    shown(&[&a, &b], "back", &new);
    drop((p, q));
    // A restart puts the other aside, whole.
    a = a.stop().start();
    let aside = a.state().join("volumes/cell/aside");
    let kept: Vec<_> = std::fs::read_dir(&aside)
        .expect("there")
        .map(|e| e.expect("an entry").path())
        .collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!(kept[0].metadata().expect("there").len(), LIMIT + 3);
    let mut first = [0; 7];
    let file = File::open(&kept[0]).expect("opened");
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut first, 0).expect("read");
    assert_eq!(&first, b"CHANGED");
    assert!(a.log().contains("aside"), "the log names it");
    assert!(has(&a, "stays", &old), "what was in a commit");
    ends_well(vec![a, b]);
}
