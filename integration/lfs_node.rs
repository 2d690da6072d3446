//! Stock git-lfs against real nodes.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use crate::harness::{Lab, Node, SOON, git, run, wait_until};
use crate::lfs_door::client::{Client, noise, sha256};

const SKIP: [&str; 4] = [
    "-c",
    "filter.lfs.smudge=git-lfs smudge --skip -- %f",
    "-c",
    "filter.lfs.process=git-lfs filter-process --skip",
];

/// A node without a folder, and a repository with these files pushed to it.
fn pushed(lab: &Lab, files: &[(&str, &[u8])]) -> (Node, Client) {
    let node = lab.node("a").serve().start();
    let client = Client::new();
    let first = client.repo("first");
    for (name, bytes) in files {
        fs::write(first.join(name), bytes).expect("written");
    }
    client.commit(&first, "large files");
    client.ok(&first, &["remote", "add", "origin", &node.url("cell")]);
    client.ok(&first, &["push", "-q", "origin", "main"]);
    (node, client)
}

fn clone(client: &Client, node: &Node, name: &str) {
    let url = node.ask(&["url", "--volume", "cell"]);
    client.ok(&client.home(), &["clone", "-q", &url, name]);
}

/// A clone with pointers in the place of large files.
fn clone_pointers(client: &Client, node: &Node, name: &str) {
    let url = node.url("cell");
    let words = [&SKIP[..], &["clone", "-q", &url, name]].concat();
    client.ok(&client.home(), &words);
}

fn is(path: &Path, bytes: &[u8]) {
    let is = fs::read(path).expect("there");
    assert!(is == bytes, "{}: {} bytes", path.display(), is.len());
}

fn count(dir: &Path) -> usize {
    fs::read_dir(dir).map_or(0, Iterator::count)
}

#[test]
fn large_files_go_round_through_a_node_and_outlive_it() {
    let lab = Lab::new();
    let large = noise(9 << 20);
    let files: [(&str, &[u8]); 3] = [("a.bin", b"a"), ("b.bin", &large), ("c.bin", b"")];
    let (node, client) = pushed(&lab, &files);
    clone(&client, &node, "one");
    for (name, bytes) in files {
        is(&client.path("one").join(name), bytes);
    }
    client.ok(&client.path("one"), &["lfs", "fsck"]);
    let chunks = node.state().join("volumes/cell/chunks/containers");
    is(&chunks.join(format!("{}.data", sha256(&large))), &large);
    assert_eq!(count(&node.state().join("volumes/cell/lfs/incoming")), 0);
    client.ok(&client.path("first"), &["lfs", "lock", "b.bin"]);
    let node = node.kill().start();
    clone(&client, &node, "two");
    is(&client.path("two/b.bin"), &large);
    let first = client.path("first");
    client.ok(&first, &["remote", "set-url", "origin", &node.url("cell")]);
    let said = client.ok(&first, &["lfs", "locks"]);
    assert!(said.contains("b.bin"), "{said}");
    client.ok(&first, &["lfs", "unlock", "b.bin"]);
    git::fsck(&node.repo("cell"));
    assert!(node.ask(&["gc"]).contains("cell"));
    clone(&client, &node, "three");
    is(&client.path("three/b.bin"), &large);
    assert!(!node.log().contains("panicked"), "{}", node.log());
    node.stop();
}

/// What the main branch of a node is.
fn main_of(client: &Client, node: &Node) -> String {
    let words = ["ls-remote", &node.url("cell"), "refs/heads/main"];
    client.ok(&client.home(), &words)
}

#[test]
fn what_is_pushed_to_one_node_is_had_from_another() {
    let lab = Lab::new();
    let (small, large) = (noise(3000), noise(9 << 20));
    let (node, client) = pushed(&lab, &[("a.bin", &small), ("b.bin", &large)]);
    let other = lab.node("b").join(&node.invite(1)).start();
    let there = other.dir().to_owned();
    // Nobody has to pull before the next push.
    let first = client.path("first");
    fs::write(first.join("text"), "two").expect("written");
    client.commit(&first, "more");
    client.ok(&first, &["push", "-q", "origin", "main"]);
    let came = || main_of(&client, &other);
    wait_until(SOON, || came() == main_of(&client, &node), came);
    let (dir, is_there) = (there.join("text"), || there.join("text").exists());
    wait_until(SOON, is_there, || dir.display().to_string());
    is(&there.join("a.bin"), &small);
    is(&there.join("b.bin"), &large);
    // Also when its own copy is all that there is.
    node.stop();
    clone(&client, &other, "cloned");
    let cloned = client.path("cloned");
    is(&cloned.join("a.bin"), &small);
    is(&cloned.join("b.bin"), &large);
    client.ok(&cloned, &["lfs", "fsck"]);
    assert_eq!(client.ok(&cloned, &["status", "--porcelain"]), "");
    other.stop();
}

#[test]
fn a_large_file_of_a_folder_is_one_of_git_lfs() {
    let lab = Lab::new();
    let node = lab.first("a");
    let (first, second) = (noise(5 << 20), noise(6 << 20));
    node.write(
        ".gitattributes",
        "*.bin filter=lfs diff=lfs merge=lfs -text\n",
    );
    node.settled();
    node.write("a.bin", &first);
    node.write("small.bin", b"small");
    node.write("plain", &first);
    node.settled();
    let client = Client::new();
    client.ok(&client.home(), &["clone", "-q", &node.url("cell"), "clone"]);
    let clone = client.path("clone");
    is(&clone.join("a.bin"), &first);
    is(&clone.join("small.bin"), b"small");
    client.ok(&clone, &["lfs", "fsck"]);
    // What no attribute says is git-lfs's stays a text.
    let text = fs::read_to_string(clone.join("plain")).expect("there");
    assert!(
        text.contains(&format!("oid sha256:{}", sha256(&first))),
        "{text}"
    );
    assert_eq!(client.ok(&clone, &["status", "--porcelain"]), "");
    // There and back, both ways.
    fs::write(clone.join("a.bin"), &second).expect("written");
    fs::rename(clone.join("plain"), clone.join("moved")).expect("renamed");
    client.commit(&clone, "changed and moved");
    client.ok(&clone, &["push", "-q", "origin", "main"]);
    let is_there = |name: &str, bytes: &[u8]| fs::read(node.at(name)).is_ok_and(|b| b == bytes);
    let came = || is_there("a.bin", &second) && is_there("moved", &first);
    wait_until(SOON, came, || "both come to the folder".to_owned());
    node.write("a.bin", &first);
    node.write("small.bin", b"smaller");
    node.settled();
    client.ok(&clone, &["pull", "-q"]);
    is(&clone.join("a.bin"), &first);
    is(&clone.join("small.bin"), b"smaller");
    assert_eq!(client.ok(&clone, &["status", "--porcelain"]), "");
    client.ok(&clone, &["lfs", "fsck"]);
    git::fsck(&node.repo("cell"));
    node.stop();
}

#[test]
fn what_is_not_on_a_node_is_said_and_can_be_pushed_again() {
    let lab = Lab::new();
    let large = noise(5 << 20);
    let (node, client) = pushed(&lab, &[("a.bin", b"a"), ("b.bin", &large)]);
    // It is nowhere when the disk lost it; what is known is that there was something.
    let mut setup = node.kill();
    let chunks = setup.state.join("volumes/cell/chunks/containers");
    let data = chunks.join(format!("{}.data", sha256(&large)));
    fs::remove_file(&data).expect("removed");
    setup = setup.serve();
    let node = setup.start();
    clone_pointers(&client, &node, "here");
    let here = client.path("here");
    let said = client.fails(&here, &["lfs", "pull"]);
    assert!(said.contains(&sha256(&large)), "{said}");
    is(&here.join("a.bin"), b"a");
    let first = client.path("first");
    client.ok(&first, &["remote", "set-url", "origin", &node.url("cell")]);
    client.ok(&first, &["lfs", "push", "--all", "origin"]);
    client.ok(&here, &["remote", "set-url", "origin", &node.url("cell")]);
    client.ok(&here, &["lfs", "pull"]);
    is(&here.join("b.bin"), &large);
    is(&data, &large);
    node.stop();
}

#[test]
fn an_upload_to_a_node_that_dies_or_has_no_room_leaves_nothing() {
    let lab = Lab::new();
    let disk = lab.mount_point("disk");
    run(Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=48m", "none"])
        .arg(&disk));
    let mut setup = lab.node("a").serve();
    setup.state = disk.join("state");
    let node = setup.start();
    let client = Client::new();
    let first = client.repo("first");
    fs::write(first.join("a.bin"), noise(60 << 20)).expect("written");
    client.commit(&first, "too large");
    let url = node.url("cell");
    client.ok(&first, &["remote", "add", "origin", &url]);
    let said = client.fails(&first, &["push", "origin", "main"]);
    assert!(said.contains("the disk of this node is full"), "{said}");
    let incoming = node.state().join("volumes/cell/lfs/incoming");
    assert_eq!(count(&incoming), 0);
    let kept = noise(6 << 20);
    client.ok(&first, &["checkout", "-q", "--orphan", "other"]);
    fs::write(first.join("a.bin"), &kept).expect("written");
    client.commit(&first, "small enough");
    client.ok(&first, &["push", "-q", "origin", "HEAD:refs/heads/main"]);
    // It dies while one comes.
    let head = format!(
        "PUT /cell.git/info/lfs/objects/{} HTTP/1.1\r\nHost: x\r\nContent-Length: 8000000\r\n\
         Authorization: Basic {}\r\n\r\n",
        sha256(b"x"),
        data_encoding::BASE64.encode(user_of(&url).as_bytes())
    );
    let addr = url
        .rsplit_once('@')
        .and_then(|(_, rest)| rest.split_once('/'));
    let mut stream = TcpStream::connect(addr.expect("a host").0).expect("connected");
    stream.write_all(head.as_bytes()).expect("sent");
    stream.write_all(&noise(4 << 20)).expect("sent");
    wait_until(
        SOON,
        || count(&incoming) == 1,
        || "it does not come".to_owned(),
    );
    let node = node.kill().start();
    assert_eq!(count(&incoming), 1);
    clone(&client, &node, "clone");
    is(&client.path("clone/a.bin"), &kept);
    client.ok(&first, &["remote", "set-url", "origin", &node.url("cell")]);
    fs::write(first.join("b.bin"), b"b").expect("written");
    client.commit(&first, "b");
    client.ok(&first, &["push", "-q", "origin", "HEAD:refs/heads/main"]);
    assert_eq!(count(&incoming), 0);
    node.stop();
}

fn user_of(url: &str) -> &str {
    let rest = url.strip_prefix("http://").expect("plain");
    rest.split_once('@').expect("with a token").0
}
