//! The past of a folder and of a file is read, compared and brought back.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use crate::harness::tree::{assert_same, manifest};
use crate::harness::{self, Lab, Node, SOON, agree, git, wait_until};
use crate::living::{json, lines, names, refused};

fn errno(r: std::io::Result<impl Sized>) -> Option<i32> {
    r.err().and_then(|e| e.raw_os_error())
}

fn past_of(n: &Node, path: &str) -> Vec<(String, String)> {
    let all = json(n, &["log", path, "--volume", "cell"]);
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let what = |e: &Value| {
        let all: Vec<String> = e["what"]
            .as_array()
            .expect("what")
            .iter()
            .map(text)
            .collect();
        all.join(",")
    };
    let list = all["log"].as_array().expect("a list");
    list.iter().map(|e| (what(e), text(&e["path"]))).collect()
}

#[test]
fn a_file_is_followed_through_moves_deletes_and_restores() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let nodes = lab.cell(2);
    let (a, b) = (&nodes[0], &nodes[1]);
    let step = |n: &Node| {
        n.settled();
        agree(&[a, b], "cell", SOON);
    };
    a.write("f0", "one");
    step(a);
    for i in 0..10 {
        let n = [a, b][i % 2];
        fs::rename(n.at(format!("f{i}")), n.at(format!("f{}", i + 1))).expect("renamed");
        step(n);
    }
    b.write("f10", "two");
    step(b);
    fs::create_dir(a.at("d")).expect("made");
    fs::rename(a.at("f10"), a.at("d/f")).expect("moved");
    step(a);
    fs::rename(b.at("d"), b.at("e")).expect("moved");
    step(b);
    fs::set_permissions(a.at("e/f"), Permissions::from_mode(0o600)).expect("set");
    step(a);
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    let past = past_of(b, "e/f");
    assert_eq!(
        past[..4],
        [
            pair("mode", "e/f"),
            pair("moved", "e/f"),
            pair("moved", "d/f"),
            pair("edited", "f10")
        ]
    );
    assert_eq!(past.len(), 15, "{past:?}");
    assert_eq!(past[13], pair("moved", "f1"));
    assert_eq!(past[14], pair("created", "f0"));
    let all = json(b, &["log", "e/f", "--volume", "cell"]);
    let first = &all["log"][14];
    assert_eq!(
        (&first["author"], &first["node"]),
        (&"n1".into(), &a.id.as_str().into())
    );
    assert_eq!(all["log"][13]["from"], "f0");
    assert_eq!(all["log"][3]["author"], "n2");
    assert_eq!(
        json(b, &["log", "e/f", "-n", "2", "--volume", "cell"])["log"]
            .as_array()
            .map(Vec::len),
        Some(2)
    );

    fs::remove_file(a.at("e/f")).expect("removed");
    step(a);
    let past = past_of(a, "e/f");
    assert_eq!(past[..2], [pair("deleted", "e/f"), pair("mode", "e/f")]);
    assert_eq!(past.len(), 16);
    // Back by the commit of the edit: it is the same file, at the path that is asked for.
    let edited = all["log"][3]["id"].as_str().expect("an id").to_owned();
    b.ask(&["restore", "f10", "--at", &edited[..12], "--volume", "cell"]);
    assert_eq!(b.read("f10"), "two");
    step(b);
    let past = past_of(a, "f10");
    assert_eq!(past[..2], [pair("restored", "f10"), pair("deleted", "e/f")]);
    assert_eq!(past.len(), 17);

    // A directory's log is what touched anything in it.
    assert!(a.ask(&["log", "e", "--volume", "cell"]).lines().count() >= 2);
    let said = refused(a, &["log", "never", "--volume", "cell"]).1;
    assert!(said.contains("never was"), "{said}");
    let said = refused(a, &["log", "/etc/passwd"]).1;
    assert!(said.contains("in no mounted folder"), "{said}");
}

#[test]
fn two_times_are_compared() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let a = lab.first("n1");
    a.write("f", lines("first", "last"));
    a.write("bin", b"\0\x01\x02");
    fs::create_dir(a.at("d")).expect("made");
    a.write("d/x", "x\n");
    a.settled();
    let before = a.cell().view.expect("a commit");
    a.write("f", lines("FIRST", "last"));
    a.write("bin", b"\0\x01\x03");
    a.write("d/y", "y\n");
    fs::remove_file(a.at("d/x")).expect("removed");
    fs::set_permissions(a.at("f"), Permissions::from_mode(0o755)).expect("set");
    a.settled();
    let diff = |path: &str| a.ask(&["diff", &before[..8], "main", path, "--volume", "cell"]);
    let text = diff("f");
    assert!(text.contains("--- a/f\n+++ b/f\n@@ "), "{text}");
    assert!(
        text.contains("-first\n+FIRST\n") && text.contains("new mode 100755"),
        "{text}"
    );
    let text = diff("bin");
    assert!(
        text.contains("Binary files a/bin and b/bin differ"),
        "{text}"
    );
    let text = diff("d");
    assert!(
        text.contains("+++ /dev/null") && text.contains("--- /dev/null"),
        "{text}"
    );
    assert!(text.contains("\n-x\n") && text.ends_with("\n+y"), "{text}");
    assert_eq!(
        a.ask(&["diff", "main", "main", "f", "--volume", "cell"]),
        ""
    );
    let in_folder = a.at("f");
    let path = in_folder.to_str().expect("UTF-8");
    assert_eq!(a.ask(&["diff", &before, "main", path]), diff("f"));
    for (from, said) in [
        ("2001-01-01", "nothing was written before"),
        ("2999-01-01T00:00", "has not come yet"),
        ("yesterday", "no time, commit, branch or tag"),
        ("ffffffffffff", "no time, commit, branch or tag"),
    ] {
        let (code, told) = refused(&a, &["diff", from, "main", path]);
        assert_eq!(code, Some(1));
        assert!(told.contains(said), "{told}");
    }
    let told = refused(&a, &["diff", &before, "main", "no", "--volume", "cell"]).1;
    assert!(told.contains("there was no no at"), "{told}");
    assert_eq!(
        fs::read_dir(a.state().join("tmp")).expect("listed").count(),
        0
    );
}

#[test]
fn a_directory_comes_back_as_it_was() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let nodes = lab.cell(2);
    let (a, b) = (&nodes[0], &nodes[1]);
    let odd = OsStr::from_bytes(b"odd \xff\xfe name");
    for d in ["d", "d/sub", "d/sub/deep", "d/empty", "d/moved"] {
        fs::create_dir(a.at(d)).expect("made");
    }
    a.write("d/f", "f");
    a.write("d/sub/g", "g");
    a.write("d/sub/deep/h", "h");
    a.write("d/moved/i", "i");
    a.write("d/leaves", "l");
    fs::write(a.at("d").join(odd), "odd").expect("written");
    symlink("f", a.at("d/link")).expect("linked");
    fs::set_permissions(a.at("d/f"), Permissions::from_mode(0o640)).expect("set");
    a.settled();
    agree(&[a, b], "cell", SOON);
    let was = manifest(&a.at("d"));
    // Git does not see 0640: if a commit of its own has it, the view is the commit before it.
    let commit = a.cell().heads[0].id.clone();
    let at = format!(".cellfs/at/{commit}/d");
    assert_same(&a.at(&at), &a.at("d"));
    assert_same(&b.at(&at), &a.at("d"));

    // Everything about it changes.
    b.write("d/f", "other");
    b.write("d/new", "n");
    fs::remove_dir_all(b.at("d/sub")).expect("removed");
    fs::remove_dir(b.at("d/empty")).expect("removed");
    fs::rename(b.at("d/moved"), b.at("d/elsewhere")).expect("moved");
    b.write("d/elsewhere/j", "j");
    b.write("d/elsewhere/i", "changed");
    fs::rename(b.at("d/leaves"), b.at("left")).expect("moved");
    fs::remove_file(b.at("d").join(odd)).expect("removed");
    b.settled();
    agree(&[a, b], "cell", SOON);
    assert_same(&a.at(&at), &b.at(&at));
    b.ask(&["restore", "d", "--at", &commit, "--volume", "cell"]);
    agree(&[a, b], "cell", SOON);
    let now = manifest(&a.at("d"));
    // A directory's own time is that of then only where nothing was put into it since.
    let facts = |m: &std::collections::BTreeMap<_, harness::tree::Entry>| -> Vec<_> {
        m.iter()
            .map(|(p, e): (&std::path::PathBuf, _)| (p.clone(), e.mode, e.content.clone()))
            .collect()
    };
    assert_eq!(facts(&now), facts(&was));
    let files =
        |m: &std::collections::BTreeMap<std::path::PathBuf, harness::tree::Entry>| -> Vec<_> {
            m.iter()
                .filter(|(_, e)| !e.content.is_empty())
                .map(|(p, e)| (p.clone(), e.mtime))
                .collect()
        };
    assert_eq!(files(&now), files(&was));
    assert_eq!(a.read("left"), "l", "what lives elsewhere stays there");
    // What was moved within it was moved back; what was gone is what it was.
    let past = past_of(a, "d/moved/i");
    assert_eq!(past.last().map(|p| p.0.as_str()), Some("created"));
    assert!(past.iter().any(|p| p.1 == "d/elsewhere/i"), "{past:?}");
    assert_eq!(past_of(a, "d/sub/deep/h")[0].0, "restored");

    // A directory that is gone, with the one above it.
    fs::remove_dir_all(a.at("d")).expect("removed");
    a.settled();
    a.ask(&["restore", "d/sub", "--at", &commit, "--volume", "cell"]);
    assert_eq!(names(&a.at("d")), ["sub"]);
    assert_eq!(a.read("d/sub/deep/h"), "h");
    a.ask(&["restore", "d", "--at", &commit, "--volume", "cell"]);
    assert_eq!(facts(&manifest(&a.at("d"))), facts(&was));
    let again = a.ask(&["restore", "d", "--at", &commit, "--volume", "cell"]);
    assert!(again.contains("is as it was"), "{again}");
    agree(&[a, b], "cell", SOON);
    assert_same(a.dir(), b.dir());

    // What is in the way, and what never was.
    let said = refused(
        a,
        &["restore", "nothing", "--at", &commit, "--volume", "cell"],
    )
    .1;
    assert!(said.contains("there was no nothing at"), "{said}");
    fs::remove_file(a.at("d/f")).expect("removed");
    fs::create_dir(a.at("d/f")).expect("made");
    a.settled();
    let said = refused(a, &["restore", "d/f", "--at", &commit, "--volume", "cell"]).1;
    assert!(said.contains("is a directory now"), "{said}");
    // The whole folder.
    a.ask(&["restore", a.dir().to_str().expect("UTF-8"), "--at", &commit]);
    assert_eq!(facts(&manifest(&a.at("d"))), facts(&was));
    assert!(!a.at("left").exists());
    let repo = a.repo("cell");
    let last = nodes.into_iter().map(Node::stop).count();
    assert_eq!(last, 2);
    git::fsck(&repo);
}

#[test]
fn the_past_is_a_folder() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let a = lab.first("n1");
    fs::create_dir(a.at("d")).expect("made");
    a.write("d/f", "one");
    symlink("d/f", a.at("l")).expect("linked");
    fs::set_permissions(a.at("d/f"), Permissions::from_mode(0o751)).expect("set");
    a.settled();
    let first = a.cell().view.expect("a commit");
    std::thread::sleep(Duration::from_millis(2_100));
    let big = "x".repeat(3 << 20);
    a.write("d/f", &big);
    a.settled();
    let second = a.cell().view.expect("a commit");
    let at = |spec: &str, path: &str| a.at(format!(".cellfs/at/{spec}/{path}"));
    assert_eq!(fs::read_to_string(at(&first, "d/f")).expect("read"), "one");
    assert_eq!(
        fs::read_to_string(at(&first[..7], "l")).expect("read"),
        "one"
    );
    assert_eq!(fs::read_to_string(at("1s", "d/f")).expect("read"), "one");
    assert_eq!(fs::read_to_string(at(&second, "d/f")).expect("read"), big);
    assert_eq!(fs::read_to_string(at("main", "d/f")).expect("read"), big);
    let meta = at(&first, "d/f").metadata().expect("there");
    assert_eq!((meta.len(), meta.mode() & 0o7777), (3, 0o751));
    assert_eq!(
        fs::read_link(at(&first, "l")).expect("a link"),
        Path::new("d/f")
    );
    assert_same(&at(&second, ""), a.dir());
    // What a name like 1s means goes on.
    wait_until(
        SOON,
        || fs::read(at("1s", "d/f")).is_ok_and(|b| b.len() == big.len()),
        || "1s ago".into(),
    );
    // By time: now in RFC 3339, by the minute, and a time before.
    let now = harness::run(Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]));
    assert_eq!(
        fs::read(at(now.trim(), "d/f")).expect("read").len(),
        big.len()
    );
    let now = harness::run(Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M"]));
    assert_eq!(
        fs::read(at(now.trim(), "d/f")).expect("read").len(),
        big.len()
    );
    for none in [
        "2001-01-01",
        "2999-01-01",
        "1000000h",
        "zzz",
        "abc",
        "0000000",
        "1h",
        "x y",
        "...",
    ] {
        assert_eq!(errno(at(none, "").read_dir()), Some(libc::ENOENT), "{none}");
    }
    // Nobody wanders in.
    assert_eq!(names(a.dir()), ["d", "l"]);
    let grep = Command::new("grep")
        .args(["-rl", "one"])
        .arg(a.dir())
        .output()
        .expect("grep");
    assert_eq!(String::from_utf8_lossy(&grep.stdout), "");
    let find = harness::run(Command::new("find").arg(a.dir()).args(["-name", ".cellfs"]));
    assert_eq!(find, "");
    assert_eq!(names(&a.at(".cellfs")), ["at", "conflicts"]);
    assert_eq!(names(&a.at(".cellfs/at")), Vec::<String>::new());
    // Whoever wants to can.
    let find = harness::run(Command::new("find").arg(at(&first, "")).arg("-ls"));
    assert_eq!(find.lines().count(), 4, "{find}");
    let to = lab.dir("copy");
    harness::run(Command::new("cp").arg("-a").arg(at(&first, "d")).arg(&to));
    assert_eq!(fs::read_to_string(to.join("d/f")).expect("read"), "one");

    // Nothing in it changes.
    let erofs = Some(libc::EROFS);
    assert_eq!(errno(fs::write(at(&first, "d/f"), "x")), erofs);
    assert_eq!(errno(fs::write(at(&first, "d/new"), "x")), erofs);
    assert_eq!(errno(fs::remove_file(at(&first, "d/f"))), erofs);
    assert_eq!(errno(fs::create_dir(at(&first, "new"))), erofs);
    assert_eq!(errno(fs::rename(at(&first, "d/f"), a.at("g"))), erofs);
    assert_eq!(errno(fs::rename(a.at("d/f"), at(&first, "d/f"))), erofs);
    assert_eq!(errno(fs::create_dir(a.at(".cellfs/at/x"))), erofs);
    assert_eq!(
        errno(fs::set_permissions(
            at(&first, "d"),
            Permissions::from_mode(0o700)
        )),
        erofs
    );
    assert_eq!(errno(fs::remove_dir(a.at(".cellfs"))), erofs);
    assert_eq!(errno(fs::write(a.at(".cellfs/conflicts"), "x")), erofs);
    assert_eq!(errno(fs::rename(a.at(".cellfs"), a.at("other"))), erofs);
    assert_eq!(errno(fs::create_dir(a.at(".cellfs"))), Some(libc::EEXIST));
    assert_eq!(errno(fs::write(a.at(".cellfs"), "x")), Some(libc::EISDIR));
    fs::create_dir(a.at("mine")).expect("made");
    assert_eq!(errno(fs::rename(a.at("mine"), a.at(".cellfs"))), erofs);
    // Only at the top.
    fs::create_dir(a.at("mine/.cellfs")).expect("made");
    assert_eq!(names(&a.at("mine")), [".cellfs"]);
    // A reader of the past keeps what it reads.
    let held = fs::File::open(at("main", "d/f")).expect("opened");
    a.write("d/f", "later");
    assert_eq!(std::io::read_to_string(held).expect("read"), big);
}

#[test]
fn git_names_the_past_and_cannot_have_its_name() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let a = lab.first("n1");
    a.write("f", "one");
    a.settled();
    let clone = lab.path("clone");
    let url = a.url("cell");
    harness::run(Command::new("git").args(["clone", "-q", &url]).arg(&clone));
    let sh = |script: &str| -> Output {
        Command::new("sh")
            .args(["-ec", script])
            .current_dir(&clone)
            .env("GIT_AUTHOR_NAME", "p")
            .env("GIT_AUTHOR_EMAIL", "p@example.org")
            .env("GIT_COMMITTER_NAME", "p")
            .env("GIT_COMMITTER_EMAIL", "p@example.org")
            .output()
            .expect("sh")
    };
    let ok = |script: &str| {
        let out = sh(script);
        assert!(out.status.success(), "{script}: {out:?}");
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    };
    // Three commits at once: the middle one was never what a folder showed.
    ok(
        "echo 2 > f; git commit -qam 2; git tag two; chmod +x f; echo 3 > f; git commit -qam 3; \
        git checkout -q -b side/way; mkdir d; echo s > d/s; git add d; git commit -qm s; \
        git checkout -q main; echo 4 > f; git commit -qam 4; git push -q origin main side/way two",
    );
    a.wait_for("f", "4\n");
    let middle = ok("git rev-parse main~1");
    let read =
        |spec: &str, path: &str| fs::read_to_string(a.at(format!(".cellfs/at/{spec}/{path}")));
    assert_eq!(read("two", "f").expect("read"), "2\n");
    assert_eq!(read(&middle[..10], "f").expect("read"), "3\n");
    let meta = a
        .at(format!(".cellfs/at/{middle}/f"))
        .metadata()
        .expect("there");
    assert_eq!(meta.mode() & 0o777, 0o755);
    assert_eq!(
        meta.mtime().to_string(),
        ok("git log -1 --format=%ct main~1")
    );
    assert_eq!(read("side:way", "d/s").expect("read"), "s\n");
    a.ask(&["restore", "f", "--at", "two", "--volume", "cell"]);
    assert_eq!(a.read("f"), "2\n");
    a.ask(&["restore", "d", "--at", "side/way", "--volume", "cell"]);
    assert_eq!(a.read("d/s"), "s\n");
    // The name is the folder's own.
    let out = sh(
        "git pull -q --no-edit origin main; mkdir .cellfs; echo x > .cellfs/x; git add .cellfs; \
                  git commit -qm own; git push -q origin main",
    );
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(
        !out.status.success() && said.contains(".cellfs at the top is the folder's own"),
        "{said}"
    );
    ok("git mv .cellfs own; git commit -qm renamed; git push -q origin main");
    a.wait_for("own/x", "x\n");
    assert_eq!(names(&a.at(".cellfs")), ["at", "conflicts"]);
}
