//! Bytes by their ids, with real nodes: added, got from another, kept through kills.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::harness::{Lab, Node, SOON, program, run, wait_until};
use crate::lfs_door::client::{noise, sha256};

/// Of `hello world` and a newline, of no bytes, of the git object with the first: by Python.
const HELLO: &str = "bafkreifjjcie6lypi6ny7amxnfftagclbuxndqonfipmb64f2km2devei4";
const NOTHING: &str = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku";
const HELLO_BLOB: &str = "baf4bcfb3ddsrfw5htzgigag5bcxlg74ookfy3li";

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn file(lab: &Lab, name: &str, bytes: &[u8]) -> PathBuf {
    let path = lab.path(name);
    fs::write(&path, bytes).expect("written");
    path
}

fn add(node: &Node, path: &Path) -> String {
    node.ask(&["add", text(path)])
}

/// Gets bytes that must be these.
fn is_got(lab: &Lab, node: &Node, id: &str, bytes: &[u8]) {
    let dir = lab.dir("got");
    let out = dir.join("out");
    node.ask(&["get", id, text(&out)]);
    let got = fs::read(&out).expect("there");
    assert!(got == bytes, "{id}: {} bytes", got.len());
    fs::remove_file(out).expect("removed");
    assert_eq!(count(&dir), 0);
}

fn count(dir: &Path) -> usize {
    fs::read_dir(dir).map_or(0, Iterator::count)
}

/// What a command that must fail says, and its exit code.
fn refused(node: &Node, words: &[&str]) -> (String, i32) {
    said(&node.try_ask(words))
}

fn said(out: &Output) -> (String, i32) {
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    let code = out.status.code().expect("an exit code");
    assert_ne!(code, 0, "{out:?}");
    (text, code)
}

fn stat(node: &Node, id: &str) -> Value {
    let json = node.ask(&["object", "stat", id, "--json"]);
    serde_json::from_str(&json).expect("JSON")
}

/// Two nodes of one cell that know of one another.
fn two(lab: &Lab) -> (Node, Node) {
    let a = lab.node("a").serve().start();
    let b = lab.node("b").serve().join(&a.invite(1)).start();
    let both = || [&a, &b].iter().all(|n| is_connected(n));
    wait_until(SOON, both, || format!("{:?}", b.status().peers));
    (a, b)
}

fn is_connected(n: &Node) -> bool {
    n.status().peers.iter().any(|p| p.state == "connected")
}

#[test]
fn what_is_added_on_one_node_is_got_on_another_and_outlives_the_first() {
    let lab = Lab::new();
    let (a, b) = two(&lab);
    let large = noise(20 << 20);
    let middle = noise(3 << 20);
    let hello = file(&lab, "hello", b"hello world\n");
    let large_id = add(&a, &file(&lab, "large", &large));
    let middle_id = add(&a, &file(&lab, "middle", &middle));
    assert_eq!(add(&a, &hello), HELLO);
    assert_eq!(add(&a, &file(&lab, "nothing", b"")), NOTHING);
    let left = add(&a, &file(&lab, "left", b"nobody gets this"));
    // Nothing of it is in the folder or in git.
    assert_eq!(a.cell().dirty, 0);
    assert_eq!(a.cell().view, None);

    let there = stat(&b, &large_id);
    assert_eq!(
        (&there["kind"], &there["length"]),
        (&"file".into(), &(20 << 20).into())
    );
    assert_eq!(
        (&there["pieces_here"], &there["length_here"]),
        (&0.into(), &0.into())
    );
    assert!(there["pieces"].as_u64().expect("a number") > 20);
    is_got(&lab, &b, &large_id, &large);
    let here = stat(&b, &large_id);
    assert_eq!(
        (&here["pieces_here"], &here["length_here"]),
        (&there["pieces"], &there["length"])
    );
    let told = b.ask(&["object", "stat", &large_id]);
    assert!(
        told.contains("20971520 bytes") && told.contains("all"),
        "{told}"
    );

    is_got(&lab, &b, &sha256(&middle), &middle);
    is_got(&lab, &b, HELLO, b"hello world\n");
    is_got(&lab, &b, NOTHING, b"");
    assert_eq!(b.try_ask(&["get", HELLO, "-"]).stdout, b"hello world\n");
    a.stop();
    // From what is here alone, by a node that was killed since.
    let b = b.kill().start();
    is_got(&lab, &b, &large_id, &large);
    is_got(&lab, &b, &middle_id, &middle);
    is_got(&lab, &b, HELLO, b"hello world\n");
    is_got(&lab, &b, NOTHING, b"");
    let out = lab.dir("empty").join("out");
    let (why, code) = refused(&b, &["get", &left, text(&out)]);
    assert!(
        why.contains(&left) && why.contains("no other node"),
        "{why}"
    );
    assert_eq!((code, count(&lab.path("empty"))), (1, 0));
    assert!(!b.log().contains("panicked"), "{}", b.log());
    b.stop();
}

#[test]
fn what_is_added_survives_a_kill_right_after_and_what_is_not_whole_leaves_nothing() {
    let lab = Lab::new();
    let mut node = lab.node("a").serve().start();
    for round in 0..3 {
        let files = [noise(5 << 20), noise(2 << 20), noise(round), noise(70_000)];
        let mut ids = Vec::new();
        for (n, bytes) in files.iter().enumerate() {
            let path = file(&lab, &format!("f{n}"), bytes);
            ids.push(add(&node, &path));
            node = node.kill().start();
        }
        for (id, bytes) in ids.iter().zip(&files) {
            is_got(&lab, &node, id, bytes);
        }
    }
    // Some of it came, then whoever sent it died, and then the node.
    let adding = node.state().join("volumes/cell/adding");
    let begin = |node: &Node| {
        Command::new(program())
            .args(["add", "-"])
            .env("CELLFS_STATE", node.state())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("it starts")
    };
    let feed = |child: &mut std::process::Child| {
        let mut stdin = child.stdin.take().expect("piped");
        std::io::Write::write_all(&mut stdin, &noise(3 << 20)).expect("sent");
        stdin
    };
    let mut child = begin(&node);
    let stdin = feed(&mut child);
    let comes = || count(&adding) == 1;
    wait_until(SOON, comes, || "it does not come".to_owned());
    child.kill().expect("killed");
    child.wait().expect("a child");
    drop(stdin);
    wait_until(SOON, || count(&adding) == 0, || "it stays".to_owned());
    let mut child = begin(&node);
    let stdin = feed(&mut child);
    wait_until(SOON, comes, || "it does not come".to_owned());
    let node = node.kill().start();
    drop(stdin);
    assert_eq!(child.wait().expect("a child").code(), Some(4));
    add(&node, &file(&lab, "f", b"f"));
    assert_eq!(count(&adding), 0);
    // git's own tidying takes nothing away.
    let id = add(&node, &file(&lab, "g", &noise(1 << 20)));
    node.ask(&["gc"]);
    let g = fs::read(lab.path("g")).expect("there");
    is_got(&lab, &node, &id, &g);
    node.stop();
}

#[test]
fn a_get_that_breaks_off_leaves_no_file_and_goes_on_when_its_source_is_back() {
    let lab = Lab::new();
    let (a, b) = two(&lab);
    let large = noise(100 << 20);
    let id = add(&a, &file(&lab, "large", &large));
    let dir = lab.dir("dir");
    let out = dir.join("out");
    let begin = || {
        Command::new(program())
            .args(["get", &id, text(&out)])
            .env("CELLFS_STATE", b.state())
            .spawn()
            .expect("it starts")
    };
    let here = || stat(&b, &id)["length_here"].as_u64().expect("a number");
    let mut child = begin();
    let comes = || here() > 1 << 20;
    wait_until(SOON, comes, || "nothing comes".to_owned());
    child.kill().expect("killed");
    child.wait().expect("a child");
    assert_eq!(count(&dir), 0);
    let mut child = begin();
    // A fast machine may have all of it by now.
    let enough = (here() + (4 << 20)).min(100 << 20);
    let more = || here() >= enough;
    wait_until(SOON, more, || "no more comes".to_owned());
    let a = a.kill();
    assert_eq!(count(&dir), 0);
    let a = a.start();
    let ended = child.wait().expect("a child");
    assert!(ended.success(), "{ended}");
    assert!(fs::read(&out).expect("there") == large);
    assert_eq!(count(&dir), 1);
    a.stop();
    b.stop();
}

#[test]
fn what_is_wrong_is_said_and_files_that_are_there_stay() {
    let lab = Lab::new();
    let node = lab.node("a").serve().start();
    let hello = file(&lab, "hello", b"hello world\n");
    assert_eq!(add(&node, &hello), HELLO);
    let dir = lab.dir("dir");
    let out = file(&lab, "dir/out", b"mine");
    let fails = |words: &[&str], code: i32, what: &str| {
        let (why, is) = refused(&node, words);
        assert!(is == code && why.contains(what), "{words:?}: {is}: {why}");
    };
    fails(&["get", HELLO, text(&out)], 1, "--force");
    assert_eq!(fs::read(&out).expect("there"), b"mine");
    let unknown = sha256(b"something else");
    fails(
        &["get", &unknown, text(&out), "--force"],
        1,
        "not in volume cell",
    );
    fails(&["object", "stat", &unknown], 1, "not in volume cell");
    fails(&["get", &"0".repeat(40), "-"], 1, "not in volume cell");
    assert_eq!(fs::read(&out).expect("there"), b"mine");
    fails(
        &["get", "bafkreinonsense", "-"],
        2,
        "an id is a CID that begins with bafkrei",
    );
    fails(&["get", HELLO, text(&dir), "--force"], 1, "is no file");
    fails(&["get", HELLO, "/nowhere/out"], 1, "/nowhere/out");
    fails(
        &["get", HELLO, "-", "--volume", "other"],
        1,
        "no volume other",
    );
    fails(
        &["add", text(&hello), "--volume", "other"],
        1,
        "no volume other",
    );
    fails(&["add", text(&lab.path("not"))], 1, "No such file");
    fails(&["add", text(&dir)], 2, "cellfs import");
    fails(&["import", text(&hello)], 2, "cellfs add");
    assert_eq!(count(&dir), 1);
    node.ask(&["get", HELLO, text(&out), "--force"]);
    assert_eq!(fs::read(&out).expect("there"), b"hello world\n");
    // A disk that damages bytes is found out before they have a name.
    let large = noise(6 << 20);
    let id = add(&node, &file(&lab, "large", &large));
    let data = format!("volumes/cell/chunks/containers/{}.data", sha256(&large));
    let mut damaged = large;
    damaged[4_000_000] ^= 1;
    fs::write(node.state().join(data), damaged).expect("written");
    fails(&["get", &id, text(&dir.join("new"))], 1, "damaged");
    assert_eq!(count(&dir), 1);
    let setup = node.stop();
    let out = crate::harness::cellfs(&setup.state, &["add", text(&hello)]);
    assert_eq!(said(&out).1, 4);
}

#[test]
fn git_objects_are_got_by_their_ids_too() {
    let lab = Lab::new();
    let (a, b) = two(&lab);
    let hello = file(&lab, "hello", b"hello world\n");
    let mut git = Command::new("git");
    let words = ["hash-object", "-w", "--no-filters", text(&hello)];
    let hex = run(git.arg("-C").arg(a.repo("cell")).args(words));
    for node in [&a, &b] {
        for id in [HELLO_BLOB, hex.trim()] {
            is_got(&lab, node, id, b"hello world\n");
        }
        let told = stat(node, HELLO_BLOB);
        assert_eq!(
            (&told["kind"], &told["length"]),
            (&"blob".into(), &12.into())
        );
        assert_eq!(told["pieces"], Value::Null);
    }
    // It is not kept, as what a tree or a commit names would not be here.
    assert_eq!(stat(&b, HELLO_BLOB)["length_here"], 0);
    assert_eq!(stat(&a, HELLO_BLOB)["length_here"], 12);
    a.stop();
    b.stop();
}

#[test]
fn a_full_disk_is_said_and_leaves_room() {
    let lab = Lab::new();
    let disk = lab.mount_point("disk");
    run(Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=48m", "none"])
        .arg(&disk));
    let mut setup = lab.node("a").serve();
    setup.state = disk.join("state");
    let node = setup.start();
    let large = file(&lab, "large", &noise(60 << 20));
    let (why, code) = refused(&node, &["add", text(&large)]);
    assert!(
        code == 1 && why.contains("disk of the node is full"),
        "{why}"
    );
    assert_eq!(count(&node.state().join("volumes/cell/adding")), 0);
    let some = noise(5 << 20);
    let id = add(&node, &file(&lab, "some", &some));
    is_got(&lab, &node, &id, &some);
    node.stop();
}

/// Files in directories, by their paths.
fn tree(lab: &Lab, files: usize) -> (PathBuf, Vec<PathBuf>) {
    let top = lab.dir("tree");
    let mut all = Vec::new();
    for n in 0..files {
        let dir = lab.dir(&format!("tree/d{}", n % 7));
        let path = dir.join(format!("f{n} a\tb"));
        fs::write(&path, noise(20_000 + n)).expect("written");
        all.push(path);
    }
    std::os::unix::fs::symlink("/etc/passwd", top.join("link")).expect("made");
    (top, all)
}

fn lines(record: &Path) -> Vec<String> {
    let text = fs::read_to_string(record).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Bytes of a node's packs of chunks.
fn size(node: &Node) -> u64 {
    let packs = node.state().join("volumes/cell/chunks/packs");
    let all = fs::read_dir(packs).expect("there").flatten();
    all.map(|e| e.metadata().expect("there").len()).sum()
}

#[test]
fn an_import_that_was_killed_goes_on_and_adds_nothing_twice() {
    let lab = Lab::new();
    let node = lab.node("a").serve().start();
    let (top, files) = tree(&lab, 300);
    let record = lab.path("record");
    let words = [
        "import",
        text(&top),
        "--parallel",
        "3",
        "--record",
        text(&record),
    ];
    let mut child = Command::new(program())
        .args(words)
        .env("CELLFS_STATE", node.state())
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts");
    let some = || lines(&record).len() >= 20;
    wait_until(SOON, some, || "nothing is recorded".to_owned());
    child.kill().expect("killed");
    child.wait().expect("a child");
    let before = lines(&record);
    assert!(
        before.len() < files.len(),
        "it was not killed in the middle"
    );
    let import = || {
        let out = node.try_ask(&words);
        assert!(out.status.success(), "{out:?}");
        let told = String::from_utf8(out.stderr).expect("text");
        (
            String::from_utf8(out.stdout).expect("text").lines().count(),
            told,
        )
    };
    let (added, told) = import();
    let whole = before.len().min(lines(&record).len());
    assert!(
        added == files.len() - whole || added == files.len() + 1 - whole,
        "{added}: {told}"
    );
    let all = lines(&record);
    assert_eq!(all.len(), files.len());
    assert!(all.starts_with(&before[..before.len() - 1]));
    for line in &all {
        let mut fields = line.split('\t');
        let (id, path) = (
            fields.next().expect("an id"),
            fields.next().expect("a path"),
        );
        let path = PathBuf::from(path.replace("\\t", "\t"));
        assert!(files.contains(&path), "{line}");
        is_got(&lab, &node, id, &fs::read(path).expect("there"));
    }
    let (added, told) = import();
    assert_eq!(
        (added, told.trim()),
        (0, "0 added, 300 known from the record, 0 failed")
    );
    // By a link to the directory they are other paths, and the bytes are kept already.
    let link = lab.path("link");
    std::os::unix::fs::symlink(&top, &link).expect("made");
    let kept = size(&node);
    let listed = node.ask(&["import", text(&link)]);
    assert_eq!((listed.lines().count(), size(&node)), (files.len(), kept));
    // What changed is added again, and what is new.
    fs::write(&files[5], b"changed").expect("written");
    fs::write(top.join("new"), b"new").expect("written");
    assert_eq!(import().0, 2);
    assert_eq!(import().0, 0);
    // The node goes: the rest is for later.
    fs::write(&files[5], b"changed again").expect("written");
    let setup = node.stop();
    let out = crate::harness::cellfs(&setup.state, &words);
    assert_eq!(said(&out).1, 4);
}
