//! Whatever the network does, all nodes come to show the same.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::net::{Net, cell, cell_with, namespaces};
use crate::harness::git::{commit_all, fsck, try_git};
use crate::harness::tree::{assert_same, manifest};
use crate::harness::{Lab, Node, SOON, agree, rounds, run, wait_until};

/// Every content that is in any folder, and those of conflict copies too.
fn contents(dir: &Path) -> BTreeSet<String> {
    manifest(dir).into_values().map(|e| e.content).collect()
}

fn heads(nodes: &[&Node]) -> Vec<Vec<(String, u64)>> {
    let of = |n: &&Node| {
        let heads = n.cell().heads.into_iter();
        heads.map(|h| (h.branch, h.seq)).collect()
    };
    nodes.iter().map(of).collect()
}

/// git beside a node: it runs in that machine's namespace, and yet comes from another address
/// than loopback, so that the nodes need `--plain-http`.
fn git(net: &Net, machine: usize, words: &[&str]) {
    let mut c = Command::new("nsenter");
    c.args(net.inside(machine).get(1..).expect("a namespace"));
    run(c.arg("git").args(words));
}

fn clone(net: &Net, lab: &Lab, nodes: &[&Node], machine: usize) -> PathBuf {
    let to = lab.path(&format!("clone{machine}"));
    let url = nodes[machine - 1].url("cell");
    git(
        net,
        machine,
        &["clone", "-q", &url, to.to_str().expect("UTF-8")],
    );
    to
}

fn push(net: &Net, machine: usize, from: &Path) {
    let from = from.to_str().expect("UTF-8");
    git(net, machine, &["-C", from, "push", "-q", "origin", "main"]);
}

/// Whether a pushed commit is in the history of some head that the node shows.
fn has_commit(n: &Node, commit: &str) -> bool {
    let within = |content: &str| {
        let words = ["merge-base", "--is-ancestor", commit, content];
        try_git(&n.repo("cell"), &words).status.success()
    };
    n.cell().heads.iter().any(|h| within(&h.content))
}

#[test]
fn five_nodes_two_sides() {
    if !namespaces() {
        return;
    }
    let files = rounds("CELLFS_TEST_CUT_FILES", 500);
    let lab = Lab::new();
    let net = Net::bridge(5);
    let mut nodes = cell_with(&net, &lab, &["--plain-http"]);
    nodes[0].write("both", "base\n");
    nodes[0].write("text", "1\n2\n3\n4\n5\n6\n7\n8\n9\n");
    let clones = {
        let all: Vec<&Node> = nodes.iter().collect();
        agree(&all, "cell", SOON);
        [1, 3].map(|machine| (machine, clone(&net, &lab, &all, machine)))
    };
    // Two on one side, three on the other.
    let side = |i: usize| i <= 2;
    net.only(|a, b| side(a) == side(b));
    let mut written = BTreeSet::new();
    std::thread::scope(|s| {
        for at in [0, 2] {
            let n = &nodes[at];
            s.spawn(move || {
                for i in 0..files {
                    n.write(
                        &format!("{}/f{i}", dir_of(n)),
                        format!("{} {i}\n", n.name()),
                    );
                }
                for i in 0..20 {
                    n.write(&format!("same-{i}"), format!("{} {i}\n", n.name()));
                }
                n.write("both", format!("{}\n", n.name()));
            });
        }
    });
    nodes[0].write("text", "ONE\n2\n3\n4\n5\n6\n7\n8\n9\n");
    nodes[2].write("text", "1\n2\n3\n4\n5\n6\n7\n8\nNINE\n");
    let mut pushed = Vec::new();
    for (machine, clone) in &clones {
        for path in ["same-0", "both", "pushed"] {
            let text = format!("{path}, pushed to {machine}\n");
            fs::write(clone.join(path), &text).expect("written");
            written.insert(text);
        }
        pushed.push(commit_all(clone, "on one side"));
        push(&net, *machine, clone);
    }
    for at in [0, 2] {
        for i in 0..20 {
            written.insert(format!("{} {i}\n", nodes[at].name()));
        }
        written.insert(format!("{}\n", nodes[at].name()));
    }
    let (left, right): (Vec<&Node>, Vec<&Node>) =
        (nodes[..2].iter().collect(), nodes[2..].iter().collect());
    agree(&left, "cell", SOON);
    agree(&right, "cell", SOON);
    assert_ne!(left[0].cell().view, right[0].cell().view, "the cut cuts");

    // One node of each side dies while the sides meet again.
    net.heal();
    let healed = Instant::now();
    std::thread::sleep(Duration::from_millis(300));
    let five = nodes.pop().expect("five").kill();
    let two = nodes.remove(1).kill();
    std::thread::sleep(Duration::from_millis(500));
    nodes.push(two.start());
    nodes.push(five.start());
    let all: Vec<&Node> = nodes.iter().collect();
    agree(&all, "cell", Duration::from_secs(60));
    let took = healed.elapsed();
    eprintln!("five nodes: all the same {took:.1?} after the heal");
    assert!(took < Duration::from_secs(10), "{took:?}");
    for n in &all[1..] {
        assert_same(all[0].dir(), n.dir());
    }
    let shown = contents(all[0].dir());
    for text in &written {
        let hash = blake3::hash(text.as_bytes()).to_hex().to_string();
        assert!(shown.contains(&hash), "{text:?} is nowhere");
    }
    for dir in ["n1", "n3"] {
        let n = fs::read_dir(all[4].at(dir)).expect("listed").count();
        assert_eq!(n, files, "{dir}");
    }
    assert_eq!(all[4].read("text"), "ONE\n2\n3\n4\n5\n6\n7\n8\nNINE\n");
    for (n, commit) in all.iter().flat_map(|n| pushed.iter().map(move |c| (n, c))) {
        assert!(
            has_commit(n, commit),
            "{commit} is in no head of {}",
            n.name()
        );
    }

    // Quiet: nobody commits because somebody else did.
    std::thread::sleep(Duration::from_secs(3));
    let before = heads(&all);
    std::thread::sleep(Duration::from_secs(rounds("CELLFS_TEST_QUIET_S", 10) as u64));
    assert_eq!(heads(&all), before, "commits without writes");
    agree(&all, "cell", SOON);
    for n in &all {
        fsck(&n.repo("cell"));
    }
    // Any one of them may go, the others still agree.
    let gone = nodes.remove(0).kill();
    nodes[0].write("after", "after\n");
    let all: Vec<&Node> = nodes.iter().collect();
    agree(&all, "cell", SOON);
    assert_eq!(all[3].read("after"), "after\n");
    let back = gone.start();
    back.wait_for("after", "after\n");
}

fn dir_of(n: &Node) -> String {
    let dir = n.name().to_owned();
    fs::create_dir_all(n.at(&dir)).expect("made");
    dir
}

#[test]
fn pushes_on_both_sides_of_a_cut() {
    if !namespaces() {
        return;
    }
    let lab = Lab::new();
    let net = Net::bridge(4);
    let nodes = cell_with(&net, &lab, &["--plain-http"]);
    nodes[0].write("f", "1\n2\n3\n4\n5\n6\n7\n8\n9\n");
    let all: Vec<&Node> = nodes.iter().collect();
    agree(&all, "cell", SOON);
    let [one, four] = [1, 4].map(|machine| clone(&net, &lab, &all, machine));
    net.only(|a, b| (a <= 2) == (b <= 2));
    fs::write(one.join("f"), "ONE\n2\n3\n4\n5\n6\n7\n8\n9\n").expect("written");
    fs::write(one.join("left"), "left\n").expect("written");
    let left = commit_all(&one, "left");
    push(&net, 1, &one);
    fs::write(four.join("f"), "1\n2\n3\n4\n5\n6\n7\n8\nNINE\n").expect("written");
    fs::write(four.join("right"), "right\n").expect("written");
    let right = commit_all(&four, "right");
    push(&net, 4, &four);
    agree(&all[..2], "cell", SOON);
    agree(&all[2..], "cell", SOON);
    net.heal();
    for n in &all {
        n.wait_for("f", "ONE\n2\n3\n4\n5\n6\n7\n8\nNINE\n");
        n.wait_for("left", "left\n");
        n.wait_for("right", "right\n");
    }
    agree(&all, "cell", SOON);
    for n in &all {
        for commit in [&left, &right] {
            assert!(
                has_commit(n, commit),
                "{commit} is in no head of {}",
                n.name()
            );
        }
        fsck(&n.repo("cell"));
    }
}

/// A client takes what one side wrote to the other side, which cannot know the records of it.
#[test]
fn a_client_carries_content_across_a_cut() {
    if !namespaces() {
        return;
    }
    let lab = Lab::new();
    let net = Net::bridge(2);
    let nodes = cell_with(&net, &lab, &["--plain-http"]);
    let nine = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";
    for path in ["edited", "reverted", "old", "gone", "back"] {
        nodes[0].write(path, format!("{path}\n{nine}"));
    }
    let all: Vec<&Node> = nodes.iter().collect();
    agree(&all, "cell", SOON);
    net.only(|_, _| false);
    let one = all[0];
    one.write("edited", format!("edited\n{nine}by the first\n"));
    one.write("reverted", "something else\n");
    fs::create_dir_all(one.at("new/deep")).expect("made");
    fs::create_dir(one.at("empty")).expect("made");
    one.write("new/deep/file", nine);
    fs::rename(one.at("old"), one.at("new/moved")).expect("renamed");
    fs::remove_file(one.at("back")).expect("removed");
    one.settled();
    let client = clone(&net, &lab, &all, 1);
    // What the first side goes on with, nobody carries.
    one.write("new/deep/file", format!("ONE\n{}", &nine[2..]));
    fs::write(
        client.join("edited"),
        format!("edited\n{nine}by the first\nby the client\n"),
    )
    .expect("written");
    for path in ["reverted", "back"] {
        fs::write(client.join(path), format!("{path}\n{nine}")).expect("written");
    }
    let eight = nine.strip_suffix("9\n").expect("a ninth line");
    fs::write(client.join("new/deep/file"), format!("{eight}NINE\n")).expect("written");
    fs::write(client.join("new/moved"), format!("moved\n{nine}")).expect("written");
    fs::remove_file(client.join("gone")).expect("removed");
    commit_all(&client, "across");
    let to = client.to_str().expect("UTF-8");
    let url = all[1].url("cell");
    git(&net, 2, &["-C", to, "push", "-q", &url, "main"]);
    all[1].wait_for("new/moved", &format!("moved\n{nine}"));
    let told = all[1].read("new/deep/file");
    assert_eq!(told, format!("{eight}NINE\n"));

    net.heal();
    agree(&all, "cell", SOON);
    let expected = [
        ("back", format!("back\n{nine}")),
        (
            "edited",
            format!("edited\n{nine}by the first\nby the client\n"),
        ),
        ("new/deep/file", format!("ONE\n{}NINE\n", &eight[2..])),
        ("new/moved", format!("moved\n{nine}")),
        ("reverted", format!("reverted\n{nine}")),
    ];
    for n in &all {
        let mut files: Vec<(String, String)> = Vec::new();
        for (path, e) in manifest(n.dir()) {
            let path = path.to_string_lossy().into_owned();
            if !n.at(&path).is_dir() {
                files.push((path, e.content));
            }
        }
        let hash = |text: &str| blake3::hash(text.as_bytes()).to_hex().to_string();
        let wanted = expected.each_ref().map(|(p, t)| ((*p).to_owned(), hash(t)));
        assert_eq!(files, wanted, "on {}", n.name());
        assert!(n.at("empty").is_dir(), "git knows nothing of it");
    }
    assert_same(all[0].dir(), all[1].dir());
    for n in &all {
        fsck(&n.repo("cell"));
    }
}

#[test]
fn a_chain_where_only_neighbours_talk() {
    if !namespaces() {
        return;
    }
    let lab = Lab::new();
    let net = Net::bridge(5);
    let nodes = cell(&net, &lab);
    let all: Vec<&Node> = nodes.iter().collect();
    all[0].write("start", "start");
    agree(&all, "cell", SOON);
    net.only(|a, b| a.abs_diff(b) == 1);
    for (i, n) in all.iter().enumerate() {
        n.write(&format!("from-{}", i + 1), n.name());
    }
    let took = agree_on_files(&all, 5);
    eprintln!("a chain of five: {took:.1?}");
    all[4].write("start", "from the far end");
    all[0].wait_for("start", "from the far end");
    fs::remove_file(all[0].at("from-3")).expect("removed");
    all[4].wait_gone("from-3");
    agree(&all, "cell", SOON);
    for n in &all[1..] {
        assert_same(all[0].dir(), n.dir());
    }
}

fn agree_on_files(all: &[&Node], n: usize) -> Duration {
    let begin = Instant::now();
    for node in all {
        for i in 1..=n {
            let path = format!("from-{i}");
            wait_until(
                SOON,
                || node.at(&path).exists(),
                || format!("{path} is not on {}", node.name()),
            );
        }
    }
    agree(all, "cell", SOON);
    begin.elapsed()
}

#[test]
fn a_lost_announcement_is_repaired() {
    if !namespaces() {
        return;
    }
    let lab = Lab::new();
    let net = Net::bridge(2);
    let nodes = cell(&net, &lab);
    let all: Vec<&Node> = nodes.iter().collect();
    all[0].write("f", "1");
    all[1].wait_for("f", "1");
    // Written and announced while the other hears nothing, for so long that no connection is
    // left which would send it again; nothing is written afterwards.
    net.only(|_, _| false);
    all[0].write("f", "2");
    all[0].settled();
    let apart = || {
        let connected = |n: &&Node| n.status().peers.iter().any(|p| p.state == "connected");
        !all.iter().any(connected)
    };
    wait_until(Duration::from_secs(60), apart, || {
        format!("{:?}", all[0].status().peers)
    });
    net.heal();
    let begin = Instant::now();
    all[1].wait_for("f", "2");
    eprintln!("a lost announcement: there after {:.1?}", begin.elapsed());
}
