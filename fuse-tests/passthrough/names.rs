//! What happens to files that the kernel has: they are cut, renamed, removed, linked, their node
//! dies.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;

use super::{LET_GO, LINE, MANY, MORE, Program, ends_well, has, lines, made, requests, shown};
use crate::harness::{self, Lab, SOON, agree, git, wait_until};

const PUNCH: u32 = 3;
const ZERO: u32 = 16;

#[test]
fn cut_grown_punched_and_appended_as_on_a_disk() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let nodes = lab.cell(2);
    let (a, b) = (&nodes[0], &nodes[1]);
    let disk = lab.dir("disk").join("f");
    fs::write(&disk, made(a, "f", MORE)).expect("written");
    let steps = [
        "pwrite f 1000000 INSIDE".to_owned(),
        "ftruncate f 600000".to_owned(),
        "ftruncate f 900000".to_owned(),
        "pwrite f 899990 ACROSS-THE-END".to_owned(),
        format!("fallocate f {PUNCH} 1234 70000"),
        format!("fallocate f {ZERO} 950000 70000"),
        "fallocate f 0 2000000 1000".to_owned(),
        "fallocate f 1 2000000 100000".to_owned(),
        "pwrite f 2500000 BEHIND".to_owned(),
        "map m f".to_owned(),
        "store m 2000 MAPPED".to_owned(),
        "ftruncate f 150".to_owned(),
        "pwrite f 500 AGAIN".to_owned(),
        "ftruncate f 0".to_owned(),
        "pwrite f 0 ANEW".to_owned(),
        "ftruncate f 300000".to_owned(),
        "store m 2000 MAPPED".to_owned(),
        "msync m".to_owned(),
    ];
    let mut here = Program::with(&a.at("f"), "both");
    let mut there = Program::with(&disk, "both");
    let before = requests(a.pid());
    here.tell("burst f 2000 by-itself");
    there.tell("burst f 2000 by-itself");
    assert!(
        requests(a.pid()) - before < 1_000,
        "it is not passed through"
    );
    for step in &steps {
        assert_eq!(here.ask(step), there.ask(step), "{step}");
        let want = fs::read(&disk).expect("read");
        assert!(has(a, "f", &want), "{step}: other bytes");
        assert_eq!(here.tell("size f"), want.len().to_string(), "{step}");
        let len = a.at("f").metadata().expect("there").len();
        assert_eq!(len, want.len() as u64, "{step}");
    }
    // Cut by its name, while it is open.
    for f in [&a.at("f"), &disk] {
        let file = fs::OpenOptions::new().write(true).open(f).expect("opened");
        file.set_len(250_000).expect("cut");
    }
    assert_eq!(here.tell("size f"), "250000");
    here.tell("fsync f");
    let want = fs::read(&disk).expect("read");
    shown(&[a, b], "f", &want);
    // Two programs append.
    let mut p = Program::with(&a.at("f"), "append");
    let mut q = Program::with(&a.at("f"), "append");
    p.begin("appends f one 3000");
    q.begin("appends f two 3000");
    p.end().expect("appended");
    q.end().expect("appended");
    drop((p, q, here));
    let is = fs::read(a.at("f")).expect("read");
    assert_eq!(is.len(), want.len() + 6_000 * 9);
    assert!(is.starts_with(&want));
    let text = String::from_utf8_lossy(&is[want.len()..]).into_owned();
    let all: BTreeSet<&str> = text.lines().collect();
    assert_eq!(all.len(), 6_000, "each line once");
    shown(&[a, b], "f", &is);
    // Who begins with an empty file.
    let mut p = Program::with(&a.at("f"), "trunc");
    p.tell("pwrite f 0 SHORT");
    drop(p);
    shown(&[a, b], "f", b"SHORT");
    ends_well(nodes);
}

#[test]
fn renamed_over_removed_and_linked_while_programs_have_it() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let nodes = lab.cell(2);
    let (a, b) = (&nodes[0], &nodes[1]);
    let put = |bytes: &mut [u8], at: usize, what: &str| {
        bytes[at..at + what.len()].copy_from_slice(what.as_bytes());
    };
    let mut new = made(a, "new", MORE);
    let mut old = made(a, "old", MANY);
    made(a, "removed", MANY);
    let mut linked = made(a, "linked", MORE);
    agree(&[a, b], "cell", SOON);
    let [mut p, mut q, mut r, mut s] =
        ["new", "old", "removed", "linked"].map(|name| Program::with(&a.at(name), "both"));
    p.tell("pwrite f 100 BEFORE");
    q.tell("map m f");
    q.tell("store m 100 BEFORE");
    fs::rename(a.at("new"), a.at("old")).expect("renamed over");
    p.tell("pwrite f 200 AFTER");
    q.tell("store m 200 AFTER");
    q.tell("pwrite f 300 AFTER");
    for b in [&mut new, &mut old] {
        put(b, 100, "BEFORE");
        put(b, 200, "AFTER");
    }
    put(&mut old, 300, "AFTER");
    assert!(has(a, "old", &new), "the name is that of the new file");
    assert_eq!(q.tell("pread f 200 5"), "AFTER");
    assert_eq!(q.tell("pread f 300 5"), "AFTER");

    fs::remove_file(a.at("removed")).expect("removed");
    r.tell("pwrite f 0 STILL-THERE");
    r.tell("fsync f");
    r.tell(&format!("pwrite f {} LONGER", MANY * LINE));
    assert_eq!(r.tell("pread f 0 11"), "STILL-THERE");
    assert_eq!(r.tell("size f"), (MANY * LINE + 6).to_string());
    b.wait_gone("removed");

    fs::hard_link(a.at("linked"), a.at("name")).expect("linked");
    s.tell("pwrite f 0 BY-A-LINK");
    put(&mut linked, 0, "BY-A-LINK");
    assert!(has(a, "name", &linked) && has(a, "linked", &linked));
    let mut t = Program::with(&a.at("name"), "both");
    t.tell("pwrite f 100 BY-THE-OTHER");
    put(&mut linked, 100, "BY-THE-OTHER");
    assert_eq!(s.tell("pread f 100 12"), "BY-THE-OTHER");
    fs::remove_file(a.at("linked")).expect("removed");
    s.tell("pwrite f 200 THE-LAST");
    put(&mut linked, 200, "THE-LAST");
    // What a program has stays what it is while all of it is committed and looked at.
    std::thread::sleep(2 * LET_GO);
    assert_eq!(r.tell("pread f 0 11"), "STILL-THERE");
    assert_eq!(q.tell("load m 200 5"), "AFTER");
    p.tell("pwrite f 400 AT-LAST");
    put(&mut new, 400, "AT-LAST");
    drop((p, q, r, s, t));
    shown(&[a, b], "old", &new);
    shown(&[a, b], "name", &linked);
    b.wait_gone("linked");
    b.wait_gone("new");
    assert_eq!(b.at("name").metadata().expect("there").nlink(), 1);
    agree(&[a, b], "cell", SOON);
    let names = fs::read_dir(a.dir()).expect("listed").count();
    assert_eq!(names, 2, "no copies");
    ends_well(nodes);
}

#[test]
fn what_is_written_before_and_after_a_kill_is_kept() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let mut nodes = lab.cell(2);
    let b = nodes.pop().expect("two");
    let mut a = nodes.pop().expect("two");
    let mut before = 0;
    for round in 0..3 {
        let name = |n: usize| format!("r{round}-{n}");
        let mut want = Vec::new();
        let mut programs = Vec::new();
        for n in 0..4 {
            a.write(&name(n), lines(if n % 2 == 0 { MANY } else { MORE }));
        }
        agree(&[&a, &b], "cell", SOON);
        for n in 0..4 {
            let mut bytes = lines(if n % 2 == 0 { MANY } else { MORE });
            let mut p = Program::with(&a.at(name(n)), "both");
            let text = format!("WRITTEN-{round}-{n}");
            p.tell(&format!("pwrite f {} {text}", 50 * n));
            bytes[50 * n..50 * n + text.len()].copy_from_slice(text.as_bytes());
            if n > 1 {
                p.tell("map m f");
                p.tell("store m 5000 STORED");
                bytes[5_000..5_006].copy_from_slice(b"STORED");
            }
            if n == 1 {
                p.tell("fsync f");
            }
            want.push(bytes);
            programs.push(p);
        }
        // Before it looked, or while it commits, or afterwards.
        std::thread::sleep(std::time::Duration::from_millis(round * 600));
        let setup = a.kill();
        git::fsck(&setup.state.join("volumes/cell/git"));
        // What goes through the node is refused; the kernel does not end what it gave away.
        let dead = Err("ENOTCONN".to_owned());
        for (n, p) in programs.iter_mut().enumerate() {
            for what in ["fsync f", "size f", "ftruncate f 5"] {
                assert_eq!(p.ask(what), dead, "{n}: {what}");
            }
            match p.ask("pwrite f 10000 LATE") {
                Ok(_) => want[n][10_000..10_004].copy_from_slice(b"LATE"),
                Err(e) => assert_eq!(e, "ENOTCONN", "{n}"),
            }
        }
        a = setup.start();
        for (n, bytes) in want.iter().enumerate() {
            shown(&[&a, &b], &name(n), bytes);
        }
        if round == 1 {
            // What was put aside is looked at by each start.
            a = a.kill().start();
        }
        // What such a program writes later still is no part of the folder, and is not lost.
        let aside = a.state().join("volumes/cell/aside");
        let kept = || {
            let all = fs::read_dir(&aside).into_iter().flatten();
            let files = all.filter_map(|e| fs::read(e.ok()?.path()).ok());
            files.collect::<Vec<_>>()
        };
        let late = programs[0].ask("pwrite f 12000 TOO-LATE").is_ok();
        assert_eq!(programs[0].ask("fsync f"), dead);
        // The same programs go on with descriptors of the new folder.
        for (n, p) in programs.iter_mut().enumerate() {
            p.open("g", &a.at(name(n)), "both");
            p.tell("pwrite g 20000 AGAIN");
            p.tell("close g");
            want[n][20_000..20_005].copy_from_slice(b"AGAIN");
        }
        for (n, bytes) in want.iter().enumerate() {
            shown(&[&a, &b], &name(n), bytes);
        }
        drop(programs);
        // The others wrote nothing: what they had is in the history.
        let others = |k: &[Vec<u8>]| k.len() <= usize::from(late) + before;
        wait_until(
            SOON,
            || others(&kept()),
            || format!("{} files stay aside", kept().len()),
        );
        std::thread::sleep(LET_GO);
        assert_eq!(kept().len(), usize::from(late) + before);
        before = kept().len();
        if late {
            let has = |b: &Vec<u8>| b[12_000..].starts_with(b"TOO-LATE");
            assert!(kept().iter().all(has));
            assert!(a.log().contains("it is in no commit, and kept there"));
            let told = a.status().warnings;
            let path = aside.display().to_string();
            assert!(told.iter().any(|w| w.contains(&path)), "{told:?}");
        }
    }
    wait_until(SOON, || a.cell().dirty == 0, || "it is dirty".to_owned());
    ends_well(vec![a, b]);
}
