//! Conflicts are seen and settled, merges are seen and undone.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::harness::tree::assert_same;
use crate::harness::{self, Lab, Node, SOON, agree, git, program, wait_until};

/// Two nodes that agree on what `before` did, then each did something that the other did not know
/// of, and now agree again.
fn cut(
    lab: &Lab,
    before: impl FnOnce(&Node),
    here: impl FnOnce(&Node),
    there: impl FnOnce(&Node),
) -> (Node, Node) {
    let mut nodes = lab.cell(2);
    let (b, a) = (nodes.pop().expect("two"), nodes.pop().expect("two"));
    before(&a);
    a.write("ready", "1");
    b.wait_for("ready", "1");
    agree(&[&a, &b], "cell", SOON);
    apart(a, b, here, there)
}

fn apart(a: Node, b: Node, here: impl FnOnce(&Node), there: impl FnOnce(&Node)) -> (Node, Node) {
    let b = b.stop();
    here(&a);
    a.settled();
    let a = a.stop();
    let b = b.start();
    there(&b);
    b.settled();
    let a = a.start();
    agree(&[&a, &b], "cell", SOON);
    (a, b)
}

pub(crate) fn json(n: &Node, words: &[&str]) -> Value {
    let words = [words, &["--json"]].concat();
    serde_json::from_str(&n.ask(&words)).expect("JSON")
}

/// What a command that must fail said, and its exit code.
pub(crate) fn refused(n: &Node, words: &[&str]) -> (Option<i32>, String) {
    let out = n.try_ask(words);
    assert!(!out.status.success(), "{words:?}: {out:?}");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(said.starts_with("Error: "), "{words:?}: {said}");
    assert!(said.contains("\nHint: "), "{words:?}: {said}");
    (out.status.code(), said)
}

pub(crate) fn names(dir: &Path) -> Vec<String> {
    let mut all: Vec<String> = fs::read_dir(dir)
        .expect("listed")
        .map(|e| {
            e.expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    all.sort();
    all
}

fn conflict_in(lab: &Lab) -> (Node, Node) {
    let write = |text: &'static str| move |n: &Node| n.write("d/f.txt", text);
    cut(
        lab,
        |a| {
            fs::create_dir(a.at("d")).expect("made");
            a.write("d/f.txt", "base\n");
        },
        write("from one\n"),
        write("from two\n"),
    )
}

/// The path of the only copy.
fn copy_of(n: &Node) -> String {
    let all = json(n, &["conflicts"]);
    let copies = all["conflicts"][0]["copies"].as_array().expect("copies");
    assert_eq!(copies.len(), 1, "{all}");
    copies[0]["path"].as_str().expect("a path").to_owned()
}

#[test]
fn a_conflict_is_listed_and_settled_everywhere() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let (a, b) = conflict_in(&lab);
    let all = json(&a, &["conflicts"]);
    let one = &all["conflicts"][0];
    assert_eq!(all["conflicts"].as_array().map(Vec::len), Some(1), "{all}");
    assert_eq!(one["path"], "d/f.txt");
    // The later one has the name.
    assert_eq!(
        (&one["main"]["name"], &one["main"]["size"]),
        (&"n2".into(), &9.into())
    );
    assert_eq!(one["main"]["node"], b.id.as_str());
    assert_eq!(one["copies"][0]["name"], "n1");
    assert_eq!(one["copies"][0]["node"], a.id.as_str());
    let (early, late) = (&one["copies"][0]["time"], &one["main"]["time"]);
    assert!(early.as_i64() > Some(1_700_000_000) && early.as_i64() <= late.as_i64());
    let copy = copy_of(&a);
    assert_eq!(a.read(&copy), "from one\n");
    // The same in the folder, on the other node, too; by the path of a directory.
    let listed: Value = serde_json::from_str(&b.read(".cellfs/conflicts")).expect("JSON");
    assert_eq!(listed["conflicts"], all["conflicts"]);
    let below = b.at("d");
    let below = below.to_str().expect("UTF-8");
    assert!(b.ask(&["conflicts", below]).contains(&copy));
    assert_eq!(b.ask(&["conflicts", "ready", "--volume", "cell"]), "");

    let path = a.at("d/f.txt");
    let path = path.to_str().expect("UTF-8");
    let (code, said) = refused(&a, &["resolve", path, "--take", "node:nobody"]);
    assert_eq!(code, Some(1));
    assert!(said.contains(&copy), "{said}");
    let said = refused(
        &a,
        &["resolve", "ready", "--volume", "cell", "--take", "main"],
    )
    .1;
    assert!(said.contains("no conflict at ready"), "{said}");
    let of_copy = a.at(&copy);
    let said = refused(
        &a,
        &[
            "resolve",
            of_copy.to_str().expect("UTF-8"),
            "--take",
            "main",
        ],
    )
    .1;
    assert!(said.contains("cellfs resolve d/f.txt --take"), "{said}");
    refused(
        &a,
        &["resolve", "no/such", "--volume", "cell", "--take", "main"],
    );

    a.ask(&["resolve", path, "--take", &copy]);
    assert_eq!(a.read("d/f.txt"), "from one\n");
    for n in [&a, &b] {
        n.wait_for("d/f.txt", "from one\n");
        n.wait_gone(&copy);
        assert_eq!(names(&n.at("d")), ["f.txt"]);
        assert_eq!(json(n, &["conflicts"])["conflicts"], Value::Array(vec![]));
    }
    // What lost is in the history still.
    let repo = a.repo("cell");
    a.stop();
    git::fsck(&repo);
    let found = Command::new("git")
        .args(["log", "--all", "-p", "--format="])
        .current_dir(&repo)
        .output()
        .expect("git");
    assert!(String::from_utf8_lossy(&found.stdout).contains("from two"));
}

#[test]
fn a_conflict_is_settled_by_node_or_by_editing() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let (a, b) = conflict_in(&lab);
    let copy = copy_of(&a);
    let path = b.at("d/f.txt");
    let path = path.to_str().expect("UTF-8");
    let editor = |script: &str| -> Output {
        let file = lab.path("editor.sh");
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("set");
        Command::new(program())
            .args(["resolve", path, "--edit"])
            .env("CELLFS_STATE", b.state())
            .env("EDITOR", format!("{} --wait", file.display()))
            .env_remove("VISUAL")
            .output()
            .expect("it starts")
    };
    // Nothing edited, an editor that fails, marks left in: nothing happens.
    for script in ["true", "exit 3", "echo more >> \"$2\""] {
        let out = editor(script);
        assert_eq!(out.status.code(), Some(1), "{script}: {out:?}");
        assert_eq!(b.read(&copy), "from one\n");
    }
    // Somebody else is faster.
    let faster = format!(
        "echo mine > \"$2\"; CELLFS_STATE={} {} resolve {path} --take main",
        b.state().display(),
        program().display()
    );
    let out = editor(&faster);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    agree(&[&a, &b], "cell", SOON);
    assert_eq!(b.read("d/f.txt"), "from two\n");
    a.wait_gone(&copy);

    let text = |text: &'static str| move |n: &Node| n.write("d/f.txt", text);
    let (a, b) = apart(a, b, text("1\n2\nA\n4\n"), text("1\n2\nB\n4\n"));
    let editor = |n: &Node, script: &str| -> Output {
        let file = lab.path("editor.sh");
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).expect("written");
        Command::new(program())
            .args(["resolve", "d/f.txt", "--edit", "--volume", "cell"])
            .env("CELLFS_STATE", n.state())
            .env("VISUAL", &file)
            .output()
            .expect("it starts")
    };
    // The editor sees both versions, what they have in common once.
    let seen = lab.path("seen");
    let script = format!(
        "cp \"$1\" {}; printf '1\\nboth\\n' > \"$1\"",
        seen.display()
    );
    let out = editor(&a, &script);
    assert!(out.status.success(), "{out:?}");
    let seen = fs::read_to_string(seen).expect("seen");
    assert_eq!(seen.matches("2\n").count(), 1, "{seen}");
    assert!(
        seen.contains("\nA\n") && seen.contains("\nB\n") && seen.contains("n1"),
        "{seen}"
    );
    for n in [&a, &b] {
        n.wait_for("d/f.txt", "1\nboth\n");
        wait_until(
            SOON,
            || names(&n.at("d")) == ["f.txt"],
            || "a copy stays".into(),
        );
    }
    assert_eq!(
        fs::read_dir(a.state().join("tmp")).expect("listed").count(),
        0
    );

    // By the node that wrote it, with its mode.
    let (a, b) = apart(
        a,
        b,
        |a| {
            a.write("d/f.txt", "#!/bin/sh\n");
            fs::set_permissions(a.at("d/f.txt"), fs::Permissions::from_mode(0o755)).expect("set");
        },
        text("plain\n"),
    );
    a.ask(&[
        "resolve", "d/f.txt", "--take", "node:n1", "--volume", "cell",
    ]);
    b.wait_for("d/f.txt", "#!/bin/sh\n");
    let mode = || b.at("d/f.txt").metadata().expect("there").mode() & 0o7777;
    wait_until(SOON, || mode() == 0o755, || format!("{:o}", mode()));
    assert_eq!(names(&b.at("d")), ["f.txt"]);
}

#[test]
fn two_who_settle_one_conflict_at_once_are_both_heard() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let (a, b) = conflict_in(&lab);
    let copy = copy_of(&a);
    let take = |what: &str| {
        let what = what.to_owned();
        move |n: &Node| {
            n.ask(&["resolve", "d/f.txt", "--volume", "cell", "--take", &what]);
        }
    };
    // Different choices: one conflict, between the two.
    let (a, b) = apart(a, b, take(&copy), take("main"));
    let all = json(&a, &["conflicts"]);
    assert_eq!(all["conflicts"].as_array().map(Vec::len), Some(1), "{all}");
    let copy = copy_of(&b);
    let mut both = [a.read("d/f.txt"), a.read(&copy)];
    both.sort();
    assert_eq!(both, ["from one\n", "from two\n"]);
    assert_eq!(names(&a.at("d")).len(), 2);
    // The same choice: settled.
    let (a, b) = apart(a, b, take(&copy), take(&copy));
    assert_same(a.dir(), b.dir());
    assert_eq!(names(&a.at("d")), ["f.txt"]);
    assert_eq!(json(&b, &["conflicts"])["conflicts"], Value::Array(vec![]));
    // Two new files of one name.
    let write = |text: &'static str| move |n: &Node| n.write("new", text);
    let (a, b) = apart(a, b, write("a"), write("b"));
    let copy = copy_of(&a);
    let (a, b) = apart(a, b, take_new(&copy), |b| b.write("new", "b, edited"));
    // The choice of one and the edit of the other are both there.
    let copy = copy_of(&a);
    let mut both = [b.read("new"), b.read(&copy)];
    both.sort();
    assert_eq!(both, ["a", "b, edited"]);
}

fn take_new(copy: &str) -> impl FnOnce(&Node) + use<> {
    let copy = copy.to_owned();
    move |n: &Node| {
        n.ask(&["resolve", "new", "--volume", "cell", "--take", &copy]);
    }
}

pub(crate) fn lines(first: &str, last: &str) -> String {
    let mut all: Vec<String> = (0..30).map(|i| format!("line {i}")).collect();
    first.clone_into(&mut all[0]);
    last.clone_into(&mut all[29]);
    all.join("\n") + "\n"
}

/// A directory that never was without its file.
fn made_whole(n: &Node, name: &str) {
    fs::create_dir(n.at("new")).expect("made");
    n.write(&format!("new/{name}"), name);
    n.settled();
    fs::rename(n.at("new"), n.at("dir")).expect("renamed");
}

#[test]
fn merges_are_listed_with_what_undoes_them() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let (a, b) = cut(
        &lab,
        |a| {
            a.write("text", lines("first", "last"));
            a.write("both", "base\n");
        },
        |a| {
            a.write("text", lines("FIRST", "last"));
            a.write("both", "a\n");
            made_whole(a, "a");
        },
        |b| {
            b.write("text", lines("first", "LAST"));
            b.write("both", "b\n");
            made_whole(b, "b");
        },
    );
    let merged = lines("FIRST", "LAST");
    assert_eq!(a.read("text"), merged);
    for mark in ["<<<<<<<", "=======", ">>>>>>>", "|||||||"] {
        assert!(!merged.contains(mark));
    }
    let look = |n: &Node| -> Vec<(String, String)> {
        let all = json(n, &["merges"]);
        assert_eq!(all["complete"], true);
        let of = |m: &Value, key: &str| m[key].as_str().expect("text").to_owned();
        let mut found: Vec<_> = all["merges"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|m| {
                let mut who: Vec<_> = m["sides"].as_array().expect("sides").iter().collect();
                who.sort_by_key(|s| s["name"].as_str());
                assert_eq!(
                    (&who[0]["name"], &who[1]["name"]),
                    (&"n1".into(), &"n2".into()),
                    "{m}"
                );
                (of(m, "what"), of(m, "path"))
            })
            .collect();
        found.sort();
        found
    };
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    let expected = [
        pair("copy", "both"),
        pair("directory", "dir"),
        pair("text", "text"),
    ];
    assert_eq!(look(&a), expected);
    assert_eq!(look(&b), expected);
    // Also when somebody went on from there, and once only.
    a.write("text", merged.replace("line 7", "LINE 7"));
    agree(&[&a, &b], "cell", SOON);
    assert_eq!(look(&b), expected);
    assert_eq!(
        json(&a, &["merges", "-n", "1"])["merges"]
            .as_array()
            .map(Vec::len),
        Some(1)
    );

    // The very commands that are printed.
    let all = json(&a, &["merges"]);
    let undo = |what: &str, who: &str| -> String {
        let m = all["merges"].as_array().expect("a list").iter();
        let m = m.clone().find(|m| m["what"] == what).expect("listed");
        let side = m["sides"]
            .as_array()
            .expect("sides")
            .iter()
            .find(|s| s["name"] == who);
        side.expect("a side")["undo"]
            .as_str()
            .expect("text")
            .to_owned()
    };
    assert!(a.ask(&["merges"]).contains(&undo("text", "n2")));
    let run = |line: String| {
        let line = line.replacen("cellfs", &program().to_string_lossy(), 1);
        let mut sh = Command::new("sh");
        harness::run(sh.args(["-c", &line]).env("CELLFS_STATE", a.state()));
    };
    fs::rename(a.at("text"), a.at("renamed")).expect("renamed");
    a.settled();
    let line = {
        let all = json(&a, &["merges"]);
        let m = all["merges"]
            .as_array()
            .expect("a list")
            .iter()
            .find(|m| m["what"] == "text");
        let sides = m.expect("listed")["sides"].clone();
        let of = sides
            .as_array()
            .expect("sides")
            .iter()
            .find(|s| s["name"] == "n2");
        of.expect("a side")["undo"]
            .as_str()
            .expect("text")
            .to_owned()
    };
    run(line);
    assert_eq!(a.read("renamed"), lines("first", "LAST"));
    run(undo("directory", "n1"));
    assert_eq!(names(&a.at("dir")), ["a"]);
    run(undo("directory", "n2"));
    assert_eq!(names(&a.at("dir")), ["b"]);
    run(undo("copy", "n1"));
    assert_eq!(a.read("both"), "a\n");
    agree(&[&a, &b], "cell", SOON);
    assert_same(a.dir(), b.dir());
}
