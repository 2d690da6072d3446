//! What is done in one folder appears in the other.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, Instant};

use crate::harness::tree::assert_same;
use crate::harness::{self, Lab, SOON, agree, git, wait_until};

#[test]
fn create_edit_rename_delete() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let nodes = lab.cell(2);
    let [a, b] = &nodes[..] else { panic!("two") };
    a.write("f", "one");
    b.wait_for("f", "one");
    b.write("f", "two");
    a.wait_for("f", "two");
    a.write("f", "");
    b.wait_for("f", "");
    a.write("f", "three");
    b.wait_for("f", "three");

    fs::create_dir_all(a.at("d/e")).expect("made");
    a.write("d/e/g", "g");
    b.wait_for("d/e/g", "g");
    symlink("e/g", a.at("d/l")).expect("linked");
    b.wait_for("d/l", "g");
    fs::set_permissions(a.at("d/e/g"), Permissions::from_mode(0o750)).expect("set");
    let mode = || b.at("d/e/g").metadata().expect("there").mode() & 0o7777;
    wait_until(SOON, || mode() == 0o750, || format!("mode {:o}", mode()));

    fs::rename(a.at("f"), a.at("h")).expect("renamed");
    b.wait_for("h", "three");
    b.wait_gone("f");
    fs::rename(b.at("d"), b.at("D")).expect("renamed");
    a.wait_for("D/e/g", "g");
    a.wait_gone("d");
    b.write("over", "over");
    a.wait_for("over", "over");
    fs::rename(a.at("over"), a.at("h")).expect("renamed over");
    b.wait_for("h", "over");
    b.wait_gone("over");

    fs::remove_file(b.at("h")).expect("removed");
    a.wait_gone("h");
    fs::remove_dir_all(a.at("D")).expect("removed");
    b.wait_gone("D");
    fs::create_dir(b.at("empty")).expect("made");
    wait_until(
        SOON,
        || a.at("empty").is_dir(),
        || "an empty directory".into(),
    );
    a.write("last", "last");
    b.wait_for("last", "last");
    agree(&[a, b], "cell", SOON);
    assert_same(a.dir(), b.dir());
    for n in nodes {
        let repo = n.repo("cell");
        n.stop();
        git::fsck(&repo);
    }
}

#[test]
fn both_write_at_once() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let nodes = lab.cell(2);
    let [a, b] = &nodes[..] else { panic!("two") };
    a.write("both", "base\n");
    b.wait_for("both", "base\n");
    std::thread::scope(|s| {
        for n in [a, b] {
            s.spawn(move || {
                for i in 0..100 {
                    n.write(&format!("{}-{i}", n.name()), format!("{i}"));
                    if i % 10 == 0 {
                        n.write("both", format!("{} {i}\n", n.name()));
                    }
                }
            });
        }
    });
    agree(&[a, b], "cell", SOON);
    for i in 0..100 {
        assert!(a.has(&format!("n2-{i}"), &format!("{i}")));
        assert!(b.has(&format!("n1-{i}"), &format!("{i}")));
    }
    assert_same(a.dir(), b.dir());
}

#[test]
fn a_node_that_was_away_catches_up() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let mut nodes = lab.cell(3);
    let c = nodes.pop().expect("three");
    nodes[0].write("before", "1");
    c.wait_for("before", "1");
    let away = c.stop();
    nodes[0].write("while-away", "2");
    nodes[1].write("before", "3");
    nodes[1].wait_for("while-away", "2");
    nodes[0].wait_for("before", "3");
    let c = away.start();
    c.wait_for("while-away", "2");
    c.wait_for("before", "3");
    // Alone, it still reads and writes; then it meets the others again.
    let away: Vec<_> = nodes.into_iter().map(harness::Node::stop).collect();
    c.write("alone", "4");
    assert_eq!(c.read("before"), "3");
    let back: Vec<_> = away.into_iter().map(harness::Setup::start).collect();
    for n in &back {
        n.wait_for("alone", "4");
    }
    let all: Vec<_> = back.iter().chain([&c]).collect();
    agree(&all, "cell", SOON);
}

#[test]
fn a_write_is_seen_in_milliseconds() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let nodes = lab.cell(2);
    let [a, b] = &nodes[..] else { panic!("two") };
    a.write("f", "start");
    b.wait_for("f", "start");
    let mut took: Vec<Duration> = (0..200)
        .map(|i| {
            let text = format!("edit {i}");
            let begin = Instant::now();
            a.write("f", &text);
            while !b.has("f", &text) {
                assert!(begin.elapsed() < SOON, "edit {i} did not come");
                std::thread::sleep(Duration::from_micros(200));
            }
            begin.elapsed()
        })
        .collect();
    took.sort();
    let (median, p99) = (took[100], took[197]);
    eprintln!("200 edits, write to read on the other node: median {median:?}, p99 {p99:?}");
    // The promise is 5 and 20 ms on an idle machine with an optimised build; this one is neither.
    assert!(median < Duration::from_millis(100), "median {median:?}");
}

#[test]
fn nothing_is_committed_when_nothing_is_written() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let nodes = lab.cell(3);
    for n in &nodes {
        for i in 0..20 {
            n.write(&format!("{}-{i}", n.name()), "x");
        }
        n.write("same", n.name());
    }
    let all: Vec<_> = nodes.iter().collect();
    agree(&all, "cell", SOON);
    // What follows from the last writes, such as a seal, has its time.
    std::thread::sleep(Duration::from_secs(3));
    let heads = || -> Vec<_> { nodes.iter().map(|n| n.cell().heads).collect() };
    let before = heads();
    std::thread::sleep(Duration::from_secs(
        harness::rounds("CELLFS_TEST_QUIET_S", 5) as u64,
    ));
    for n in &nodes {
        for e in fs::read_dir(n.dir()).expect("listed") {
            fs::read(e.expect("an entry").path()).expect("read");
        }
    }
    assert_eq!(heads(), before);
}
