//! What a node wrote outlives its membership, and nothing comes from it afterwards.

use std::fs;
use std::io::Write;
use std::time::Duration;

use crate::harness::{self, Lab, Node, SOON, agree, git, wait_until};

/// Nodes that commit nothing while nobody writes: their heads stay the same.
fn quiet(nodes: &[&Node]) {
    let heads = || -> Vec<_> { nodes.iter().map(|n| n.cell().heads).collect() };
    let before = heads();
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(heads(), before, "commits without writes");
}

/// Waits until all heads of all nodes are by these nodes.
fn covered(nodes: &[&Node]) {
    let by_others = || {
        let known = |id: &String| nodes.iter().any(|n| n.id == *id);
        let of = |n: &&Node| n.cell().heads.iter().any(|h| !known(&h.node));
        nodes.iter().any(of)
    };
    wait_until(SOON, || !by_others(), || format!("{:?}", nodes[0].cell()));
}

#[test]
fn what_a_node_wrote_reaches_who_joins_after_it_left() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let mut nodes = lab.cell(4);
    let leaver = nodes.pop().expect("four");
    leaver.write("first", "1");
    let all: Vec<&Node> = nodes.iter().collect();
    all[0].wait_for("first", "1");
    // Written just before, and not even closed.
    let mut open = fs::File::create(leaver.at("last")).expect("created");
    open.write_all(b"last words").expect("written");
    leaver.ask(&["leave"]);
    drop(open);
    wait_until(
        SOON,
        || leaver.try_ask(&["status"]).status.code() == Some(4),
        || "it does not end".to_owned(),
    );
    for n in &all {
        n.wait_for("last", "last words");
    }
    covered(&all);
    agree(&all, "cell", SOON);
    quiet(&all);
    // Of those who stay, nobody wrote anything since.
    let late = lab.node("late").join(&all[1].invite(1)).start();
    late.wait_for("first", "1");
    late.wait_for("last", "last words");
    let all: Vec<&Node> = all.into_iter().chain([&late]).collect();
    agree(&all, "cell", SOON);
    quiet(&all);
    git::fsck(&late.repo("cell"));
    late.write("after", "2");
    for n in &all {
        n.wait_for("after", "2");
    }
}

#[test]
fn what_a_forgotten_node_wrote_before_reaches_who_joins_later() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let mut nodes = lab.cell(3);
    let gone = nodes.pop().expect("three");
    gone.write("before", "1");
    let all: Vec<&Node> = nodes.iter().collect();
    for n in &all {
        n.wait_for("before", "1");
    }
    agree(&all, "cell", SOON);
    all[0].ask(&["forget", &gone.id]);
    covered(&all);
    // It goes on for itself, with its key, and comes back with what it wrote then.
    gone.write("since", "2");
    gone.settled();
    let back = gone.stop().begin().try_ready();
    let late = lab.node("late").join(&all[1].invite(1)).start();
    late.wait_for("before", "1");
    let all: Vec<&Node> = all.into_iter().chain([&late]).collect();
    agree(&all, "cell", SOON);
    std::thread::sleep(Duration::from_secs(3));
    for n in &all {
        assert!(!n.at("since").exists(), "{} took what it wrote", n.name());
    }
    quiet(&all);
    drop(back);
}

#[test]
fn a_head_that_one_offline_node_has_comes_with_it() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let mut nodes = lab.cell(3);
    let (c, b) = (nodes.pop().expect("three"), nodes.pop().expect("two"));
    let a = nodes.pop().expect("one");
    a.write("f", "1");
    b.wait_for("f", "1");
    c.wait_for("f", "1");
    // Only the second node takes in what the third wrote last.
    let a = a.stop();
    c.write("g", "2");
    b.wait_for("g", "2");
    let b = b.stop();
    let id = c.id.clone();
    c.kill();
    let a = a.start();
    a.ask(&["forget", &id]);
    assert!(!a.at("g").exists());
    let b = b.start();
    b.wait_for("g", "2");
    a.wait_for("g", "2");
    covered(&[&a, &b]);
    agree(&[&a, &b], "cell", SOON);
}

#[test]
fn a_head_whose_notice_was_lost_is_passed_on_all_the_same() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let mut nodes = lab.cell(2);
    let (b, a) = (nodes.pop().expect("two"), nodes.pop().expect("one"));
    a.write("f", "1");
    b.wait_for("f", "1");
    agree(&[&a, &b], "cell", SOON);
    // The author's disk is gone, and with the power went the file that proves its words.
    a.kill();
    let notices = b.state().join("volumes/cell/notices");
    let b = b.stop();
    fs::remove_file(notices).expect("there");
    let b = b.start();
    let late = lab.node("late").join(&b.invite(1)).start();
    late.wait_for("f", "1");
    agree(&[&b, &late], "cell", SOON);
}

#[test]
fn a_node_does_not_leave_with_what_nobody_else_has() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let mut nodes = lab.cell(2);
    let (b, a) = (nodes.pop().expect("two"), nodes.pop().expect("one"));
    a.write("f", "1");
    b.wait_for("f", "1");
    let a = a.stop();
    b.write("mine", "2");
    let out = b.try_ask(&["leave"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(
        said.contains("would be lost") && said.contains("--force"),
        "{said}"
    );
    // It is a member still, and its folder is there.
    assert_eq!(b.read("mine"), "2");
    let a = a.start();
    a.wait_for("mine", "2");
    b.ask(&["leave"]);
    covered(&[&a]);
    let late = lab.node("late").join(&a.invite(1)).start();
    late.wait_for("mine", "2");
    // The last one may go without asking anybody.
    late.ask(&["leave"]);
    wait_until(
        SOON,
        || a.ask(&["members"]).contains("left"),
        || a.ask(&["members"]),
    );
    a.ask(&["leave"]);
}
