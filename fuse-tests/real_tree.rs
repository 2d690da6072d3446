//! A real tree, copied as people copy: the same on every node, by rsync's judgement.

use std::time::{Duration, Instant};

use crate::harness::tree::{assert_rsync_same, copy, real_tree};
use crate::harness::{self, Lab, agree, git, rounds};

#[test]
fn a_copied_tree_is_the_same_on_three_nodes() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let from = lab.path("tree");
    let files = real_tree(&from, rounds("CELLFS_TEST_FILES", 5_000));
    let nodes = lab.cell(3);
    let begin = Instant::now();
    copy(&from, &nodes[0].at("tree"));
    let copied = begin.elapsed();
    let all: Vec<_> = nodes.iter().collect();
    agree(&all, "cell", Duration::from_secs(120));
    let there = begin.elapsed();
    let cpu: Vec<_> = nodes.iter().map(harness::Node::cpu).collect();
    let memory: Vec<_> = nodes.iter().map(|n| n.memory_mib().1).collect();
    eprintln!(
        "{files} files: cp {copied:.1?}, all there {there:.1?}, CPU s {cpu:.1?}, peak MiB {memory:?}"
    );
    for n in &nodes {
        assert_rsync_same(&from, &n.at("tree"));
    }
    for m in memory {
        assert!(m < 200, "a node took {m} MiB");
    }
    // The same after a restart, from the store instead of from what was written just now.
    for n in nodes {
        let n = n.stop().start();
        assert_rsync_same(&from, &n.at("tree"));
        git::fsck(&n.repo("cell"));
    }
}

#[test]
fn a_tree_goes_as_it_came() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let from = lab.path("tree");
    real_tree(&from, 1_000);
    let nodes = lab.cell(2);
    let [a, b] = &nodes[..] else { panic!("two") };
    copy(&from, &a.at("tree"));
    agree(&[a, b], "cell", Duration::from_secs(60));
    std::fs::rename(b.at("tree"), b.at("moved")).expect("renamed");
    a.wait_gone("tree");
    agree(&[a, b], "cell", Duration::from_secs(60));
    assert_rsync_same(&from, &a.at("moved"));
    std::fs::remove_dir_all(a.at("moved")).expect("removed");
    b.wait_gone("moved");
    agree(&[a, b], "cell", Duration::from_secs(60));
    assert_eq!(std::fs::read_dir(b.dir()).expect("listed").count(), 0);
}
