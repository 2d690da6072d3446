//! Who has the bytes of large files, and who is to have them.

use std::fs;
use std::time::Duration;

use cellfs::control::wire::{FileAt, Pinned, Whereabouts};

use super::{Node, wait_until};

/// What is not wanted goes within this time, also beside other tests.
pub(crate) const LONG: Duration = Duration::from_secs(90);

pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    getrandom::fill(&mut bytes).expect("noise");
    bytes
}

pub(crate) fn all(node: &Node, path: &str) -> Whereabouts {
    let at = node.at(path);
    let told = node.ask(&["where", "--json", at.to_str().expect("UTF-8")]);
    serde_json::from_str(&told).unwrap_or_else(|e| panic!("{e}: {told}"))
}

/// What is told of one file.
pub(crate) fn told(node: &Node, path: &str) -> FileAt {
    let mut all = all(node, path);
    assert_eq!(all.files.len(), 1, "{all:?}");
    all.files.remove(0)
}

/// Whether a node's copy counts, and how much of it is there, as another one tells.
pub(crate) fn copy(file: &FileAt, of: &Node) -> (bool, u64) {
    let found = file.nodes.iter().find(|h| h.node == of.id);
    found.map_or((false, 0), |h| (h.keeps, h.bytes))
}

pub(crate) fn say(node: &Node, what: &str, path: &str) -> Result<Pinned, String> {
    let at = node.at(path);
    let out = node.try_ask(&[what, "--json", at.to_str().expect("UTF-8")]);
    if !out.status.success() {
        return Err(String::from_utf8_lossy(&out.stderr).into_owned());
    }
    Ok(serde_json::from_slice(&out.stdout).expect("JSON"))
}

pub(crate) fn wait_for_file(node: &Node, path: &str, len: usize) {
    let is_there = || fs::metadata(node.at(path)).is_ok_and(|m| m.len() == len as u64);
    wait_until(LONG, is_there, || format!("{path} on {}", node.name()));
}

/// Waits until a node's copy counts, or does not.
pub(crate) fn wait_for_copy(by: &Node, path: &str, of: &Node, keeps: bool) {
    let is_so = || copy(&told(by, path), of).0 == keeps;
    wait_until(LONG, is_so, || format!("{:?}", told(by, path)));
}

/// Drops, also if others are not connected yet.
pub(crate) fn wait_for_drop(node: &Node, path: &str) -> Pinned {
    let mut last = say(node, "drop", path);
    wait_until(
        LONG,
        || {
            if last.is_err() {
                std::thread::sleep(Duration::from_millis(300));
                last = say(node, "drop", path);
            }
            last.is_ok()
        },
        || format!("{path} stays on {}", node.name()),
    );
    last.expect("dropped")
}

/// How many of these nodes keep all of a file.
pub(crate) fn keepers(nodes: &[Node], path: &str, len: usize) -> usize {
    let all = nodes.iter().map(|n| copy(&told(n, path), n));
    all.filter(|(keeps, here)| *keeps && *here == len as u64)
        .count()
}

/// Waits until all of these nodes read the same.
pub(crate) fn wait_for_same(nodes: &[Node], path: &str, bytes: &[u8]) {
    for n in nodes {
        let is_same = || fs::read(n.at(path)).is_ok_and(|b| b == bytes);
        wait_until(LONG, is_same, || format!("{path} on {}", n.name()));
    }
}
