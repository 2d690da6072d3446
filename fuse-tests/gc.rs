//! `cellfs gc` beside everything else, killed at any point, and peers that were away.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::tree::assert_same;
use crate::harness::{self, Lab, Node, SOON, agree, cellfs, git, rounds, wait_until};

/// Writes a file that makes a pack of its own, and a small one.
fn write(node: &Node, kept: &mut BTreeMap<String, String>, i: usize) {
    let mut put = |path: String, text: String| {
        node.write(&path, &text);
        kept.insert(path, text);
    };
    put(
        format!("large{}", i % 3),
        format!("{i:06}\n").repeat(12_000),
    );
    put(format!("small{}", i % 7), format!("edit {i}\n"));
    node.settled();
}

fn check(node: &Node, kept: &BTreeMap<String, String>) {
    for (path, text) in kept {
        assert!(node.has(path, text), "{path} on {}", node.name());
    }
}

fn packs(node: &Node) -> usize {
    let dir = node.repo("cell").join("objects/pack");
    let all = std::fs::read_dir(dir).expect("packs");
    let idx = |p: PathBuf| p.extension().is_some_and(|x| x == "idx");
    all.filter(|e| idx(e.as_ref().expect("an entry").path()))
        .count()
}

#[test]
fn a_peer_that_was_away_gets_all_from_one_that_gathered() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let mut nodes = lab.cell(2);
    let mut kept = BTreeMap::new();
    write(&nodes[0], &mut kept, 0);
    agree(&[&nodes[0], &nodes[1]], "cell", SOON);
    let away = nodes.pop().expect("two").stop();
    let node = nodes.pop().expect("one");
    for i in 1..15 {
        write(&node, &mut kept, i);
    }
    // What a client pushed and nobody mounts.
    let clone = lab.path("clone");
    git::git(
        &lab.dir("."),
        &["clone", "-q", &node.url("cell"), &clone.to_string_lossy()],
    );
    std::fs::write(clone.join("side"), "side").expect("written");
    git::git(&clone, &["checkout", "-q", "-b", "side"]);
    let side = git::commit_all(&clone, "side");
    git::git(&clone, &["push", "-q", "origin", "side"]);
    assert!(packs(&node) > 10);
    let done: serde_json::Value = serde_json::from_str(&node.ask(&["gc", "--json"])).expect("JSON");
    let one = &done["gc"][0];
    assert_eq!(one["volume"], "cell");
    let n = |when: &str, what: &str| one[when][what].as_u64().expect("a number");
    assert!(n("before", "packs") > 10, "{done}");
    assert_eq!(n("after", "packs"), 1, "{done}");
    assert!(n("after", "bytes") < n("before", "bytes"), "{done}");
    assert!(n("after", "objects") <= n("before", "objects"), "{done}");
    check(&node, &kept);
    git::fsck(&node.repo("cell"));
    assert_eq!(git::git(&node.repo("cell"), &["rev-parse", "side"]), side);
    let back = away.start();
    agree(&[&node, &back], "cell", SOON);
    assert_same(node.dir(), back.dir());
    check(&back, &kept);
    // Both go on, and a restart finds all.
    write(&back, &mut kept, 20);
    node.ask(&["gc"]);
    let node = node.stop().start();
    agree(&[&node, &back], "cell", SOON);
    check(&node, &kept);
    assert_same(node.dir(), back.dir());
    let state = node.state().to_owned();
    node.stop();
    let said = cellfs(&state, &["gc"]);
    assert_eq!(said.status.code(), Some(4), "no node, no work");
}

#[test]
fn edits_go_on_while_packs_are_gathered() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let nodes = lab.cell(2);
    let mut kept = BTreeMap::new();
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        let gathering = s.spawn(|| {
            let mut turns = 0;
            while !stop.load(Ordering::Relaxed) {
                nodes[turns % 2].ask(&["gc"]);
                turns += 1;
            }
            turns
        });
        for i in 0..rounds("CELLFS_TEST_GC_EDITS", 30) {
            write(&nodes[i % 2], &mut kept, i);
            nodes[i % 2].wait_for(&format!("small{}", i % 7), &format!("edit {i}\n"));
            agree(&[&nodes[0], &nodes[1]], "cell", SOON);
        }
        stop.store(true, Ordering::Relaxed);
        assert!(gathering.join().expect("it gathers") > 1);
    });
    for n in &nodes {
        check(n, &kept);
        git::fsck(&n.repo("cell"));
    }
    assert_same(nodes[0].dir(), nodes[1].dir());
}

/// strace on a running node: its threads' `when`-th call of these from now on ends it.
fn trap(node: &Node, calls: &str, when: usize) -> Child {
    let mut child = Command::new("strace")
        .args(["-f", "-o", "/dev/null", "-e", &format!("trace={calls}")])
        .args(["-e", &format!("inject={calls}:signal=SIGKILL:when={when}")])
        .args(["-p", &node.pid().to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("strace starts");
    let mut said = BufReader::new(child.stderr.take().expect("its words"));
    let mut line = String::new();
    said.read_line(&mut line).expect("a line");
    assert!(line.contains("attached"), "{line}");
    // It goes on talking of threads.
    std::thread::spawn(move || {
        let mut rest = String::new();
        while said.read_line(&mut rest).is_ok_and(|n| n > 0) {
            rest.clear();
        }
    });
    child
}

/// Kills a node at the first such call of a `gc`, at the second, and so on until one gets
/// through. What git does on its behalf is swept, too: then only git dies.
fn sweep(calls: &str, points: &[usize]) {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::with_patience(Duration::from_secs(600));
    let mut nodes = lab.cell(2);
    let mut kept = BTreeMap::new();
    let other = nodes.pop().expect("two");
    let mut node = nodes.pop().expect("one");
    let (mut died, mut failed, mut through) = (0, 0, 0);
    for (turn, k) in points.iter().enumerate() {
        for i in 0..4 {
            write(&node, &mut kept, turn * 4 + i);
        }
        agree(&[&node, &other], "cell", SOON);
        // Nothing else is under way.
        node.ask(&["log", "-n", "1"]);
        std::thread::sleep(Duration::from_millis(300));
        let mut strace = trap(&node, calls, *k);
        let said = node.try_ask(&["gc"]);
        let lives = node.try_ask(&["status"]).status.success();
        let plain = match (lives, said.status.success()) {
            (true, ok) => {
                *(if ok { &mut through } else { &mut failed }) += 1;
                strace.kill().expect("it is there");
                strace.wait().expect("a child");
                check(&node, &kept);
                git::fsck(&node.repo("cell"));
                node.kill()
            }
            (false, _) => {
                died += 1;
                strace.wait().expect("a child");
                node.kill()
            }
        };
        git::fsck(&plain.state.join("volumes/cell/git"));
        node = plain.start();
        check(&node, &kept);
        agree(&[&node, &other], "cell", SOON);
        let incoming = node.repo("cell").join("incoming");
        assert_eq!(std::fs::read_dir(incoming).expect("a folder").count(), 0);
    }
    eprintln!("{calls}: the node died {died} times, git {failed} times, {through} got through");
    assert!(died > 0, "nothing was killed");
    node.ask(&["gc"]);
    assert_eq!(packs(&node), 1);
    git::fsck(&node.repo("cell"));
    check(&node, &kept);
    assert_same(node.dir(), other.dir());
}

/// A sample of the points; all of them when the variable says up to where.
fn points(sample: &[usize]) -> Vec<usize> {
    match rounds("CELLFS_TEST_SWEEP", 0) {
        0 => sample.to_vec(),
        all => (1..=all.min(40)).collect(),
    }
}

#[test]
fn killed_at_each_fsync_of_a_gc() {
    sweep("fsync,fdatasync", &points(&[1, 3, 4, 5]));
}

#[test]
fn killed_at_each_rename_of_a_gc() {
    sweep("rename,renameat,renameat2", &points(&[1, 2, 3, 4]));
}

#[test]
fn killed_at_each_unlink_of_a_gc() {
    sweep("unlink,unlinkat", &points(&[1, 2, 3, 5]));
}

#[test]
fn killed_at_any_time_of_a_gc() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::with_patience(Duration::from_secs(600));
    let mut node = lab.first("n1");
    let mut kept = BTreeMap::new();
    for turn in 0..rounds("CELLFS_TEST_KILLS", 6) {
        for i in 0..4 {
            write(&node, &mut kept, turn * 4 + i);
        }
        let state = node.state().to_owned();
        let asking = std::thread::spawn(move || cellfs(&state, &["gc"]));
        let begin = Instant::now();
        let at = Duration::from_millis(turn as u64 * 37 % 160);
        wait_until(SOON, || begin.elapsed() > at, String::new);
        let plain = node.kill();
        asking.join().expect("it ends");
        git::fsck(&plain.state.join("volumes/cell/git"));
        node = plain.start();
        check(&node, &kept);
    }
    node.ask(&["gc"]);
    git::fsck(&node.repo("cell"));
    check(&node, &kept);
}
