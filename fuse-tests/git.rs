//! Stock git beside the mounts.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::harness::git::{command, commit_all, fsck, git, init, rev, try_git};
use crate::harness::{self, Lab, Node, SOON, agree, wait_until};

/// A repository with so many commits on `main`, a side branch merged now and then.
fn long_history(dir: PathBuf, commits: usize) -> PathBuf {
    let dir = init(dir);
    let mut s = String::new();
    for i in 1..=commits {
        let who = ["Ann <ann@example.invalid>", "Bo <bo@example.invalid>"][i % 2];
        let when = 1_500_000_000 + i * 3600;
        let _ = writeln!(s, "commit refs/heads/main\nmark :{i}");
        let _ = writeln!(s, "author {who} {when} +0200\ncommitter {who} {when} +0200");
        let message = format!("change {i}\n\nwith a body\n");
        let _ = write!(s, "data {}\n{message}", message.len());
        if i > 1 {
            let _ = writeln!(s, "from :{}", i - 1);
        }
        if i > 30 && i % 25 == 0 {
            let _ = writeln!(s, "merge :{}", i - 10);
        }
        let text: String = (0..40)
            .map(|l| format!("line {l} of file {}, {}\n", i % 97, (i * (l % 3)) / 7))
            .collect();
        let mode = if i % 10 == 0 { "100755" } else { "100644" };
        let path = format!("dir{}/sub{}/file{}", i % 7, i % 3, i % 97);
        let _ = write!(s, "M {mode} inline {path}\ndata {}\n{text}\n", text.len());
        if i % 50 == 0 {
            let _ = write!(s, "M 120000 inline link{i}\ndata 4\ndir0\n");
        }
        if i % 60 == 0 {
            let _ = writeln!(s, "D link{}", i - i % 50);
        }
        if i % 100 == 0 {
            let _ = writeln!(s, "reset refs/tags/light{i}\nfrom :{i}\n");
            let _ = write!(
                s,
                "tag v{i}\nfrom :{i}\ntagger {who} {when} +0000\ndata 7\nrelease\n"
            );
            let _ = writeln!(s, "reset refs/heads/branch{i}\nfrom :{}\n", i - 3);
        }
    }
    let mut child = command(&dir, &["fast-import", "--quiet"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("git starts");
    child
        .stdin
        .take()
        .expect("piped")
        .write_all(s.as_bytes())
        .expect("taken");
    assert!(child.wait().expect("a child").success());
    git(&dir, &["reset", "-q", "--hard", "main"]);
    dir
}

/// Fails unless the folder shows what a checkout has.
fn assert_checkout(checkout: &Path, folder: &Path) {
    let said = harness::run(std::process::Command::new("diff").args([
        "-r".as_ref(),
        "--no-dereference".as_ref(),
        "--exclude=.git".as_ref(),
        checkout.as_os_str(),
        folder.as_os_str(),
    ]));
    assert_eq!(said, "");
}

/// Pulls by fast-forward only, adds a line to `log`, commits, pushes.
fn pull_edit_push(clone: &Path, line: &str) {
    git(clone, &["pull", "-q", "--ff-only", "origin", "main"]);
    let mut log = fs::read_to_string(clone.join("log")).unwrap_or_default();
    log.push_str(line);
    log.push('\n');
    fs::write(clone.join("log"), log).expect("written");
    commit_all(clone, line);
    git(clone, &["push", "-q", "origin", "main"]);
}

#[test]
fn a_long_history_pushed_cloned_and_worked_on() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let nodes = lab.cell(3);
    let all: Vec<&Node> = nodes.iter().collect();
    let source = long_history(lab.path("source"), 1_200);
    let tip = git(&source, &["rev-parse", "main"]);
    git(&source, &["push", "-q", &nodes[2].url("cell"), "main"]);
    wait_until(
        SOON,
        || all.iter().all(|n| n.cell().view.as_deref() == Some(&tip)),
        || {
            format!(
                "the view is not the pushed commit {tip}: {:?}",
                nodes[0].cell()
            )
        },
    );
    agree(&all, "cell", SOON);
    for n in &all {
        assert_checkout(&source, n.dir());
    }
    let clone = lab.path("clone");
    let url = nodes[0].url("cell");
    git(&lab.path(""), &["clone", "-q", &url, "clone"]);
    assert_eq!(
        git(&clone, &["rev-list", "--topo-order", "HEAD"]),
        git(&source, &["rev-list", "--topo-order", "main"]),
    );
    fsck(&clone);
    // Work goes on in the folders and in the clone.
    for i in 0..20 {
        let path = format!("dir{}/mount-{i}", i % 7);
        let node = all[i % 3];
        node.write(&path, format!("{i}\n"));
        all[0].wait_for(&path, &format!("{i}\n"));
        pull_edit_push(&clone, &format!("round {i}"));
        assert_eq!(
            fs::read_to_string(clone.join(&path)).expect("pulled"),
            format!("{i}\n")
        );
        let log = fs::read_to_string(clone.join("log")).expect("there");
        for n in &all {
            n.wait_for("log", &log);
        }
    }
    agree(&all, "cell", SOON);
    git(&clone, &["pull", "-q", "--ff-only", "origin", "main"]);
    for n in &all {
        assert_checkout(&clone, n.dir());
        fsck(&n.repo("cell"));
    }
    let n = git(&clone, &["rev-list", "--count", "HEAD"]);
    eprintln!("{n} commits after 20 rounds on 1200");
}

#[test]
fn a_push_makes_a_volume_with_tags_and_branches() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let nodes = lab.cell(3);
    let source = long_history(lab.path("source"), 300);
    let url = nodes[1].url("project");
    git(&source, &["push", "-q", &url, "main"]);
    git(&source, &["push", "-q", &url, "--all"]);
    git(&source, &["push", "-q", &url, "--tags"]);
    let names = git(
        &source,
        &[
            "for-each-ref",
            "--format=%(objectname) %(refname)",
            "refs/heads",
            "refs/tags",
        ],
    );
    for n in &nodes {
        let remote = || {
            let out = try_git(
                &source,
                &[
                    "ls-remote",
                    "--heads",
                    "--tags",
                    "--refs",
                    &n.url("project"),
                ],
            );
            String::from_utf8_lossy(&out.stdout)
                .replace('\t', " ")
                .trim_end()
                .to_owned()
        };
        wait_until(
            SOON,
            || remote() == names,
            || format!("{} has\n{}\nand not\n{names}", n.name(), remote()),
        );
        let folder = lab.mount_point(&format!("{}.project", n.name()));
        n.ask(&[
            "mount",
            "--volume",
            "project",
            &folder.display().to_string(),
        ]);
        assert_checkout(&source, &folder);
        let clone = lab.path(&format!("{}.clone", n.name()));
        git(
            &lab.path(""),
            &[
                "clone",
                "-q",
                &n.url("project"),
                &clone.display().to_string(),
            ],
        );
        for name in ["origin/main", "origin/branch100", "v200", "light300"] {
            let source_name = name.trim_start_matches("origin/");
            assert_eq!(rev(&clone, name), rev(&source, source_name), "{name}");
        }
        fsck(&n.repo("project"));
    }
    // Deleting a tag and a branch, and moving a branch, reach every node too.
    git(
        &source,
        &["push", "-q", &url, ":refs/tags/light100", ":branch100"],
    );
    git(
        &source,
        &["push", "-q", "-f", &url, "main~5:refs/heads/branch200"],
    );
    for n in &nodes {
        wait_until(
            SOON,
            || {
                let out = git(&source, &["ls-remote", &n.url("project")]);
                let moved = format!(
                    "{}\trefs/heads/branch200",
                    git(&source, &["rev-parse", "main~5"])
                );
                !out.contains("light100") && !out.contains("branch100") && out.contains(&moved)
            },
            || format!("refs on {}", n.name()),
        );
    }
}

#[test]
fn writes_never_refuse_a_push() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let nodes = lab.cell(2);
    let [a, b] = &nodes[..] else { panic!("two") };
    a.write("f", "f\n");
    b.wait_for("f", "f\n");
    let clone = lab.path("clone");
    git(&lab.path(""), &["clone", "-q", &a.url("cell"), "clone"]);
    for i in 0..10 {
        // After the clone's last fetch both folders were written to.
        a.write("from-a", format!("{i}\n"));
        b.write("from-b", format!("{i}\n"));
        a.wait_for("from-b", &format!("{i}\n"));
        fs::write(clone.join("from-git"), format!("{i}\n")).expect("written");
        commit_all(&clone, "edit");
        git(&clone, &["push", "-q", "origin", "main"]);
        a.wait_for("from-git", &format!("{i}\n"));
        b.wait_for("from-git", &format!("{i}\n"));
        assert_eq!(a.read("from-a"), format!("{i}\n"));
        let head = git(&clone, &["rev-parse", "HEAD"]);
        git(&clone, &["pull", "-q", "--ff-only", "origin", "main"]);
        git(&clone, &["merge-base", "--is-ancestor", &head, "HEAD"]);
        assert_eq!(
            fs::read_to_string(clone.join("from-b")).expect("pulled"),
            format!("{i}\n")
        );
    }
    agree(&[a, b], "cell", SOON);
}

#[test]
fn a_refused_push_changes_nothing() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let nodes = lab.cell(2);
    let [a, b] = &nodes[..] else { panic!("two") };
    a.write("f", "f\n");
    b.wait_for("f", "f\n");
    let at = |name: &str| lab.path(name);
    git(&at(""), &["clone", "-q", &a.url("cell"), "one"]);
    git(&at(""), &["clone", "-q", &a.url("cell"), "two"]);
    fs::write(at("one").join("one"), "1\n").expect("written");
    commit_all(&at("one"), "one");
    git(&at("one"), &["push", "-q", "origin", "main"]);
    agree(&[a, b], "cell", SOON);
    std::thread::sleep(Duration::from_millis(500));
    let state = || {
        let refs = |n: &Node| git(&n.repo("cell"), &["for-each-ref"]);
        (a.cell(), b.cell(), refs(a), refs(b))
    };
    let before = state();
    fs::write(at("two").join("two"), "2\n").expect("written");
    let refused = commit_all(&at("two"), "two");

    // Another client's push came first.
    let out = try_git(&at("two"), &["push", "origin", "main"]);
    assert!(!out.status.success(), "{out:?}");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(
        said.contains("fetch first") || said.contains("non-fast-forward"),
        "{said}"
    );
    // Not a token that may push.
    let read = a.ask(&["url"]);
    let out = try_git(&at("one"), &["push", &read, "main:refs/heads/other"]);
    assert!(!out.status.success(), "{out:?}");
    // No token that anybody gave.
    let (scheme, rest) = read.split_once("://").expect("a URL");
    let (_, host) = rest.split_once('@').expect("a token");
    let wrong = format!("{scheme}://cell:{}@{host}", "x".repeat(32));
    let out = try_git(&at("one"), &["ls-remote", &wrong]);
    assert!(!out.status.success(), "{out:?}");
    let out = try_git(&at("one"), &["push", &wrong, "main:refs/heads/other"]);
    assert!(!out.status.success(), "{out:?}");
    // Names that a volume cannot have refuse the whole of an atomic push.
    let out = try_git(
        &at("one"),
        &[
            "push",
            "--atomic",
            "origin",
            "main:refs/heads/good",
            "main:refs/cellfs/heads/bad",
        ],
    );
    assert!(!out.status.success(), "{out:?}");

    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(state(), before);
    for n in [a, b] {
        assert!(!n.at("two").exists());
        let there = try_git(&n.repo("cell"), &["cat-file", "-e", &refused]);
        assert!(
            !there.status.success(),
            "{} keeps the refused commit",
            n.name()
        );
    }
    // After a pull it goes.
    git(
        &at("two"),
        &["pull", "-q", "--no-rebase", "--no-edit", "origin", "main"],
    );
    git(&at("two"), &["push", "-q", "origin", "main"]);
    b.wait_for("two", "2\n");
}
