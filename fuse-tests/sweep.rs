//! A node is killed at its first fsync, at its second, and so on until it gets through: the same
//! for renames and for writes. `strace` does it, and counts for each thread by itself.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use cellfs::control::wire::Status;

use crate::harness::{self, Lab, Node, SOON, Setup, agree, git, rounds};

fn strace() -> bool {
    let there = std::process::Command::new("strace")
        .arg("-V")
        .output()
        .is_ok();
    assert!(there, "strace is not installed: apt-get install strace");
    there
}

/// Runs the node so that its `when`-th call of these ends it.
fn killed_at(setup: Setup, calls: &str, when: usize, out: &Path) -> Setup {
    let words: Vec<OsString> = vec![
        "strace".into(),
        "-f".into(),
        "-qq".into(),
        "-o".into(),
        out.into(),
        "-e".into(),
        format!("trace={calls}").into(),
        "-e".into(),
        format!("inject={calls}:signal=SIGKILL:when={when}").into(),
    ];
    setup.under(words)
}

/// Whether a node that lives has something that is in no commit.
fn dirty(node: &Node) -> bool {
    let out = node.try_ask(&["status", "--json"]);
    let status = serde_json::from_slice::<Status>(&out.stdout);
    status.is_ok_and(|s| s.volumes.iter().any(|v| v.dirty > 0))
}

/// What is done while the node may die at any call. What was acknowledged, in order.
fn work(node: &Node, k: usize) -> Vec<(String, String)> {
    let mut kept = Vec::new();
    let mut go = || -> std::io::Result<()> {
        let synced = |path: &str, text: &str| -> std::io::Result<()> {
            let mut f = File::create(node.at(path))?;
            f.write_all(text.as_bytes())?;
            f.sync_all()
        };
        for i in 0..6 {
            let (path, text) = (format!("k{k}-{i}"), format!("text {k} {i}"));
            synced(&path, &text)?;
            kept.push((path, text));
            synced("tmp", &format!("saved {k:04} {i}"))?;
            fs::rename(node.at("tmp"), node.at("saved"))?;
            File::open(node.dir())?.sync_all()?;
            kept.push(("saved".into(), format!("saved {k:04} {i}")));
            let big = format!("{k:04} {i}").repeat(30_000);
            synced("big", &big)?;
            kept.push(("big".into(), big));
            // Time for the committer, whose calls are swept too.
            let end = Instant::now() + Duration::from_secs(2);
            while Instant::now() < end && dirty(node) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        Ok(())
    };
    if let Err(e) = go() {
        // The node died, which is what is wanted.
        let dead = e.raw_os_error() == Some(libc::ENOTCONN)
            || e.raw_os_error() == Some(libc::ECONNABORTED);
        assert!(dead, "the node lives and says: {e}");
    }
    kept
}

fn check(node: &Node, kept: &[(String, String)]) {
    let mut last = std::collections::BTreeMap::new();
    for (path, text) in kept {
        last.insert(path, text);
    }
    for (path, text) in last {
        let is = fs::read_to_string(node.at(path)).unwrap_or_else(|e| format!("{e}"));
        // A later version may have come through without being acknowledged.
        // `big` is written in place: cut to nothing first, which may come through, too.
        let later = match path.as_str() {
            "saved" => is > *text,
            "big" => is > *text || is.is_empty(),
            _ => false,
        };
        assert!(
            is == *text || later,
            "{path}: {:.40} and not {text:.40}",
            is
        );
    }
}

/// Kills at the first such call, the second and so on, until a run gets through.
fn sweep(calls: &str, step: usize, most: usize) {
    if !harness::fuse() || !strace() {
        return;
    }
    let lab = Lab::with_patience(Duration::from_secs(600));
    let mut nodes = lab.cell(2);
    nodes[0].write("first", "first");
    agree(&[&nodes[0], &nodes[1]], "cell", SOON);
    let other = nodes.pop().expect("two");
    let mut setup = nodes.pop().expect("one").stop();
    let trace = lab.path("trace");
    let (mut k, mut killed, mut clean) = (1, 0, false);
    let mut kept = Vec::new();
    while !clean && k <= most {
        let plain = setup.clone();
        let starting = killed_at(setup, calls, k, &trace).begin();
        match starting.try_ready() {
            // It died while it started.
            Err(_) => killed += 1,
            Ok(node) => {
                kept.extend(work(&node, k));
                clean = node.end();
                killed += usize::from(!clean);
            }
        }
        git::fsck(&plain.state.join("volumes/cell/git"));
        let node = plain.start();
        check(&node, &kept);
        agree(&[&node, &other], "cell", SOON);
        check(&other, &kept);
        setup = node.stop();
        k += step;
    }
    eprintln!(
        "{calls}: killed at {killed} points, up to the {}th call",
        k - step
    );
    assert!(killed > 0, "nothing was killed");
    let node = setup.start();
    agree(&[&node, &other], "cell", SOON);
    git::fsck(&node.repo("cell"));
}

/// A sample of the points; all of them when the variable says up to where.
fn bounds(step: usize, most: usize) -> (usize, usize) {
    match rounds("CELLFS_TEST_SWEEP", 0) {
        0 => (step, most),
        all => (1, all),
    }
}

#[test]
fn killed_at_each_fsync() {
    let (step, most) = bounds(4, 40);
    sweep("fsync,fdatasync", step, most);
}

#[test]
fn killed_at_each_rename() {
    let (step, most) = bounds(3, 24);
    sweep("rename,renameat,renameat2", step, most);
}

#[test]
fn killed_at_each_write() {
    let (step, most) = bounds(23, 230);
    sweep("write,pwrite64,writev", step, most);
}
