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

#[test]
fn what_is_not_on_a_node_is_said_and_can_be_pushed_again() {
    let lab = Lab::new();
    let large = noise(5 << 20);
    let (node, client) = pushed(&lab, &[("a.bin", b"a"), ("b.bin", &large)]);
    // The bytes stay with the node that they were sent to.
    let other = lab.node("b").join(&node.invite(1)).serve().start();
    let main = |n: &Node| {
        let words = ["ls-remote", &n.url("cell"), "refs/heads/main"];
        client.ok(&client.home(), &words)
    };
    let (want, came) = (main(&node), || main(&other));
    wait_until(SOON, || came() == want, came);
    clone_pointers(&client, &other, "there");
    let there = client.path("there");
    let said = client.fails(&there, &["lfs", "pull"]);
    assert!(said.contains(&sha256(&large)), "{said}");
    assert!(said.contains("is not on this node"), "{said}");
    // Nor are they anywhere when the disk lost them; what is known is that there were some.
    let mut setup = node.kill();
    let chunks = setup.state.join("volumes/cell/chunks/containers");
    let data = chunks.join(format!("{}.data", sha256(&large)));
    fs::remove_file(&data).expect("removed");
    setup = setup.serve();
    let node = setup.start();
    clone_pointers(&client, &node, "here");
    let here = client.path("here");
    let said = client.fails(&here, &["lfs", "pull"]);
    assert!(said.contains("not all of object"), "{said}");
    is(&here.join("a.bin"), b"a");
    let first = client.path("first");
    client.ok(&first, &["remote", "set-url", "origin", &node.url("cell")]);
    client.ok(&first, &["lfs", "push", "--all", "origin"]);
    client.ok(&here, &["remote", "set-url", "origin", &node.url("cell")]);
    client.ok(&here, &["lfs", "pull"]);
    is(&here.join("b.bin"), &large);
    is(&data, &large);
    other.stop();
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
