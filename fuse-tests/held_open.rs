//! A file is held open with changed bytes while a remote edit of it arrives.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use crate::harness::{self, Lab, Node, SOON, agree, wait_until};

const LINES: usize = 40;

fn text(first: &str, last: &str) -> String {
    let mut lines: Vec<String> = (0..LINES).map(|i| format!("line {i:04}")).collect();
    lines[0] = first.to_owned();
    lines[LINES - 1] = last.to_owned();
    lines.join("\n") + "\n"
}

/// Opens `f` on `b`, changes its last line, lets `change` happen on `a`, and waits until `b` knows
/// of it.
fn held(lab: &Lab, change: impl FnOnce(&Node)) -> (Vec<Node>, File) {
    let nodes = lab.cell(2);
    let (a, b) = (&nodes[0], &nodes[1]);
    a.write("f", text("line 0000", "line 0039"));
    a.write("marker", "0");
    agree(&[a, b], "cell", SOON);
    let held = OpenOptions::new()
        .read(true)
        .write(true)
        .open(b.at("f"))
        .expect("opened");
    let at = text("line 0000", "").len() as u64 - 1;
    held.write_all_at(b"HERE 0039", at).expect("written");
    change(a);
    a.write("marker", "1");
    b.wait_for("marker", "1");
    std::thread::sleep(Duration::from_millis(300));
    (nodes, held)
}

#[test]
fn edits_of_different_lines_are_both_there() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let there = text("THERE 0000", "line 0039");
    let (nodes, held) = held(&lab, |a| a.write("f", &there));
    let mut seen = vec![0; 10_000];
    let n = held.read_at(&mut seen, 0).expect("read");
    let seen = String::from_utf8_lossy(&seen[..n]).into_owned();
    assert_eq!(
        seen,
        text("line 0000", "HERE 0039"),
        "the handle sees its own version"
    );
    drop(held);
    let both = text("THERE 0000", "HERE 0039");
    for n in &nodes {
        n.wait_for("f", &both);
    }
    agree(&[&nodes[0], &nodes[1]], "cell", SOON);
    let names = fs::read_dir(nodes[0].dir()).expect("listed").count();
    assert_eq!(names, 2, "no conflict copy");
}

#[test]
fn edits_of_the_same_line_are_both_there() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let there = text("line 0000", "THERE 0039");
    let (nodes, held) = held(&lab, |a| a.write("f", &there));
    drop(held);
    let here = text("line 0000", "HERE 0039");
    wait_until(
        SOON,
        || {
            nodes.iter().all(|n| {
                let all: Vec<String> = fs::read_dir(n.dir())
                    .expect("listed")
                    .filter_map(|e| fs::read_to_string(e.ok()?.path()).ok())
                    .collect();
                let has = |line: &str| all.iter().any(|t| t.contains(line));
                has("THERE 0039") && has("HERE 0039")
            })
        },
        || format!("{here:?} and {there:?}"),
    );
    agree(&[&nodes[0], &nodes[1]], "cell", SOON);
    let conflicts = nodes[0].ask(&["conflicts", "--json"]);
    assert!(conflicts.contains("\"f\""), "listed: {conflicts}");
}

#[test]
fn more_writes_after_the_remote_edit() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let there = text("THERE 0000", "line 0039");
    let (nodes, held) = held(&lab, |a| a.write("f", &there));
    held.sync_all().expect("synced");
    let at = text("line 0000", "").len() as u64 - 1;
    held.write_all_at(b"MORE 0039", at).expect("written");
    held.sync_all().expect("synced");
    held.write_all_at(b"LAST 0039", at).expect("written");
    drop(held);
    let both = text("THERE 0000", "LAST 0039");
    for n in &nodes {
        n.wait_for("f", &both);
    }
    agree(&[&nodes[0], &nodes[1]], "cell", SOON);
    let names = fs::read_dir(nodes[1].dir()).expect("listed").count();
    assert_eq!(names, 2, "no copy after copy");
}

#[test]
fn a_remote_delete_loses_against_an_edit() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let (nodes, held) = held(&lab, |a| fs::remove_file(a.at("f")).expect("removed"));
    drop(held);
    let here = text("line 0000", "HERE 0039");
    for n in &nodes {
        wait_until(
            SOON,
            || {
                fs::read_dir(n.dir()).expect("listed").any(|e| {
                    fs::read_to_string(e.expect("an entry").path()).is_ok_and(|t| t == here)
                })
            },
            || format!("the edit is nowhere on {}", n.name()),
        );
    }
    agree(&[&nodes[0], &nodes[1]], "cell", SOON);
}

#[test]
fn a_reader_keeps_the_version_that_it_opened() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let nodes = lab.cell(2);
    let (a, b) = (&nodes[0], &nodes[1]);
    let old = "o".repeat(300_000);
    let new = "n".repeat(200_000);
    a.write("f", &old);
    b.wait_for("f", &old);
    let held = File::open(b.at("f")).expect("opened");
    a.write("f", &new);
    b.wait_for("f", &new);
    let mut all = vec![0; 400_000];
    let mut got = 0;
    loop {
        let n = held.read_at(&mut all[got..], got as u64).expect("read");
        if n == 0 {
            break;
        }
        got += n;
    }
    assert!(&all[..got] == old.as_bytes(), "{got} bytes");
}
