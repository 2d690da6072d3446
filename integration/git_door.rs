//! Stock git against the git door, over HTTP, before a plain bare repository.

pub(crate) mod host;

use std::path::Path;
use std::process::{Command, Output};

use host::{READ, Served, WRITE};

/// git as a client: nobody's configuration, a fixed author, nobody to ask for a password.
pub(crate) fn git(dir: &Path, words: &[&str]) -> Command {
    let mut c = Command::new("git");
    c.args(["-c", "init.defaultBranch=main", "-c", "gc.auto=0"])
        .args(words)
        .current_dir(dir)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", dir)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("LC_ALL", "C");
    for who in ["AUTHOR", "COMMITTER"] {
        c.env(format!("GIT_{who}_NAME"), "A U Thor")
            .env(format!("GIT_{who}_EMAIL"), "author@example.com");
    }
    c
}

pub(crate) fn both(out: &Output) -> String {
    String::from_utf8_lossy(&[&out.stdout[..], &out.stderr[..]].concat()).into_owned()
}

fn ok(dir: &Path, words: &[&str]) -> String {
    let out = git(dir, words).output().expect("git runs");
    assert!(out.status.success(), "git {words:?}: {}", both(&out));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

fn fails(dir: &Path, words: &[&str]) -> String {
    let out = git(dir, words).output().expect("git runs");
    assert!(
        !out.status.success(),
        "git {words:?} succeeded: {}",
        both(&out)
    );
    both(&out)
}

fn commit(repo: &Path, file: &str, text: &str) -> String {
    std::fs::write(repo.join(file), text).expect("written");
    ok(repo, &["add", "-A"]);
    ok(repo, &["commit", "-q", "-m", &format!("write {file}")]);
    ok(repo, &["rev-parse", "HEAD"])
}

/// A door with a repository of one commit in it, and a clone.
fn begun() -> (Served, tempfile::TempDir) {
    let served = Served::start();
    let home = tempfile::tempdir().expect("tempdir");
    let first = home.path().join("first");
    std::fs::create_dir(&first).expect("made");
    ok(&first, &["init", "-q"]);
    commit(&first, "a", "1\n");
    ok(&first, &["push", "-q", &served.url(WRITE, "cell"), "main"]);
    ok(
        home.path(),
        &["clone", "-q", &served.url(WRITE, "cell"), "clone"],
    );
    (served, home)
}

#[test]
fn clone_fetch_pull_push_round_trip() {
    let (served, home) = begun();
    let (first, clone) = (home.path().join("first"), home.path().join("clone"));
    ok(
        &first,
        &["remote", "add", "origin", &served.url(READ, "cell")],
    );
    for round in 0..5 {
        let id = commit(&clone, "b", &format!("{round}\n"));
        ok(&clone, &["push", "-q"]);
        assert_eq!(served.repo_ref("cell", "refs/heads/main"), Some(id.clone()));
        ok(&first, &["pull", "-q", "--ff-only", "origin", "main"]);
        assert_eq!(ok(&first, &["rev-parse", "HEAD"]), id);
    }
    let fsck = git(&served.repo("cell"), &["fsck", "--strict"]).output();
    assert!(fsck.expect("git runs").status.success());
    assert!(served.host.handed_out() > 0);
}

#[test]
fn branches_tags_and_deletions_reach_the_host() {
    let (served, home) = begun();
    let clone = home.path().join("clone");
    ok(&clone, &["checkout", "-q", "-b", "topic"]);
    let id = commit(&clone, "t", "t\n");
    ok(&clone, &["tag", "-a", "v1", "-m", "one"]);
    ok(&clone, &["push", "-q", "origin", "topic", "v1"]);
    assert_eq!(served.repo_ref("cell", "refs/heads/topic"), Some(id));
    assert!(served.repo_ref("cell", "refs/tags/v1").is_some());
    ok(&clone, &["push", "-q", "origin", ":topic"]);
    assert_eq!(served.repo_ref("cell", "refs/heads/topic"), None);
    let last = served.host.pushes().pop().expect("pushed");
    assert!(
        last.updates
            .iter()
            .all(|u| u.new.is_none() && u.old.is_some())
    );
}

#[test]
fn a_diverged_push_is_refused_by_the_client_and_a_forced_one_asks_the_host() {
    let (served, home) = begun();
    let (first, clone) = (home.path().join("first"), home.path().join("clone"));
    let theirs = commit(&clone, "c", "theirs\n");
    ok(&clone, &["push", "-q"]);
    let ours = commit(&first, "c", "ours\n");
    let url = served.url(WRITE, "cell");
    let before = served.host.pushes().len();
    let why = fails(&first, &["push", &url, "main"]);
    assert!(why.contains("fetch first"), "{why}");
    assert_eq!(served.host.pushes().len(), before);
    ok(&first, &["push", "-q", &url, "+main"]);
    let last = served.host.pushes().pop().expect("pushed");
    let update = last.updates.first().expect("one ref");
    assert_eq!(update.old.map(|o| o.to_string()), Some(theirs));
    assert_eq!(update.new.map(|o| o.to_string()), Some(ours));
}

#[test]
fn tokens_decide() {
    let (served, home) = begun();
    let clone = home.path().join("clone");
    commit(&clone, "d", "d\n");
    let before = served.host.pushes().len();
    for (token, why) in [
        (READ, "may read but not push"),
        ("wrong", "Authentication failed"),
    ] {
        let said = fails(&clone, &["push", &served.url(token, "cell"), "main"]);
        let status = said.contains("403") || said.contains(why);
        assert!(status, "{token}: {said}");
    }
    fails(home.path(), &["clone", &served.url("wrong", "cell"), "x"]);
    let open = format!("http://{}/cell.git", served.addr);
    let said = fails(home.path(), &["ls-remote", &open]);
    assert!(said.contains("could not read Username"), "{said}");
    assert_eq!(served.host.pushes().len(), before);
    ok(
        home.path(),
        &["clone", "-q", &served.url(READ, "cell"), "y"],
    );
}

#[test]
fn a_push_to_an_unknown_volume_makes_it_and_a_look_does_not() {
    let (served, home) = begun();
    let clone = home.path().join("clone");
    let url = served.url(WRITE, "new");
    let said = fails(&clone, &["fetch", &url]);
    assert!(said.contains("not found"), "{said}");
    ok(&clone, &["push", "-q", "--dry-run", &url, "main"]);
    assert!(!served.repo("new").exists());
    ok(&clone, &["push", "-q", &url, "main"]);
    let id = ok(&clone, &["rev-parse", "HEAD"]);
    assert_eq!(served.repo_ref("new", "refs/heads/main"), Some(id));
    assert!(fails(&clone, &["push", &served.url(WRITE, "..x"), "main"]).contains("not found"));
}

#[test]
fn a_large_push_streams_and_a_large_fetch_too() {
    let (served, home) = begun();
    let clone = home.path().join("clone");
    let mut bytes = vec![0; 6 << 20];
    getrandom::fill(&mut bytes).expect("chance");
    std::fs::write(clone.join("big"), &bytes).expect("written");
    ok(&clone, &["add", "-A"]);
    ok(&clone, &["commit", "-q", "-m", "big"]);
    ok(&clone, &["push", "-q"]);
    ok(
        home.path(),
        &["clone", "-q", &served.url(READ, "cell"), "again"],
    );
    let again = std::fs::read(home.path().join("again/big")).expect("there");
    assert!(again == bytes);
    // One pack for each push, nothing loose: synced, and little in number.
    let count = ok(&served.repo("cell"), &["count-objects", "-v"]);
    assert!(
        count.contains("count: 0\n") && count.contains("packs: 2"),
        "{count}"
    );
}

#[test]
fn many_refs_are_listed_and_negotiated_with_gzip() {
    let (served, home) = begun();
    let clone = home.path().join("clone");
    let head = ok(&clone, &["rev-parse", "HEAD"]);
    // Packed at once: a file for each is slow on some disks.
    let refs: String = (0..1_500)
        .map(|n| format!("{head} refs/tags/t{n:04}\n"))
        .collect();
    std::fs::write(clone.join(".git/packed-refs"), refs).expect("written");
    ok(&clone, &["push", "-q", "--tags"]);
    assert_eq!(
        served.host.pushes().pop().expect("pushed").updates.len(),
        1_500
    );
    let listed = ok(home.path(), &["ls-remote", &served.url(READ, "cell")]);
    assert_eq!(listed.lines().count(), 1_502);
    // Diverged histories make the client send hundreds of haves, gzipped.
    let commits: String = (1..=300)
        .map(|n| {
            let from = if n == 1 {
                format!("from {head}\n")
            } else {
                String::new()
            };
            format!(
                "commit refs/heads/main\ncommitter A <a@b> {} +0000\ndata 0\n{from}\n",
                2_000_000_000 + n
            )
        })
        .collect();
    feed(
        &mut git(&clone, &["fast-import", "--quiet", "--force"]),
        &commits,
    );
    let other = home.path().join("first");
    commit(&other, "z", "z\n");
    ok(
        &other,
        &["push", "-q", &served.url(WRITE, "cell"), "main:other"],
    );
    let trace = git(&clone, &["fetch", "-q", "origin", "other"])
        .env("GIT_TRACE_CURL", "1")
        .output()
        .expect("git runs");
    let trace = both(&trace);
    assert!(
        trace.to_lowercase().contains("content-encoding: gzip"),
        "{trace}"
    );
    ok(&clone, &["cat-file", "-e", "FETCH_HEAD"]);
}

fn feed(command: &mut Command, text: &str) {
    use std::io::Write;
    let mut child = command
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("git runs");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(text.as_bytes()).expect("fed");
    drop(stdin);
    assert!(child.wait().expect("waited").success());
}

#[test]
fn all_protocol_versions_work() {
    let (served, home) = begun();
    for (version, hand_outs) in [(0, 1), (1, 1), (2, 1)] {
        let before = served.host.handed_out();
        let name = format!("v{version}");
        let url = served.url(READ, "cell");
        let protocol = format!("protocol.version={version}");
        let out = git(home.path(), &["-c", &protocol, "clone", &url, &name])
            .env("GIT_TRACE_PACKET", "1")
            .output()
            .expect("git runs");
        let said = both(&out);
        assert!(out.status.success(), "{said}");
        assert_eq!(said.contains("< version 2"), version == 2, "{said}");
        assert_eq!(
            served.host.handed_out() - before,
            hand_outs,
            "version {version}"
        );
    }
}

#[test]
fn all_or_nothing_when_atomic() {
    let (served, home) = begun();
    let clone = home.path().join("clone");
    commit(&clone, "e", "e\n");
    served.host.refuse("refs/heads/bad");
    let url = served.url(WRITE, "cell");
    let words = ["push", "--atomic", &url, "main:good", "main:bad"];
    let said = fails(&clone, &words);
    assert!(said.contains("not this one"), "{said}");
    assert_eq!(served.repo_ref("cell", "refs/heads/good"), None);
    assert!(served.host.pushes().last().is_some_and(|p| p.atomic));
    // git itself refuses hidden refs; the rest of an atomic push must not pass.
    let words = ["push", "--atomic", &url, "main:good", "main:refs/cellfs/x"];
    let before = served.host.pushes().len();
    fails(&clone, &words);
    assert_eq!(served.repo_ref("cell", "refs/heads/good"), None);
    assert_eq!(served.host.pushes().len(), before);
    fails(&clone, &["push", &url, "main:good", "main:bad"]);
    assert!(served.repo_ref("cell", "refs/heads/good").is_some());
}

#[test]
fn a_vetoed_push_leaves_no_object() {
    let (served, home) = begun();
    let clone = home.path().join("clone");
    let id = commit(&clone, "f", "f\n");
    served.host.veto("the disk is full");
    let said = fails(&clone, &["push", "origin", "main"]);
    assert!(said.contains("the disk is full"), "{said}");
    fails(&served.repo("cell"), &["cat-file", "-e", &id]);
    assert_eq!(served.host.pushes().len(), 1);
}

#[test]
fn history_with_old_faults_can_be_pushed_and_poison_cannot() {
    use std::io::Write;
    let (served, home) = begun();
    let clone = home.path().join("clone");
    let blob = ok(&clone, &["rev-parse", "HEAD:a"]);
    let write = |kind: &str, bytes: &[u8]| {
        let words = ["hash-object", "-t", kind, "-w", "--stdin", "--literally"];
        let mut c = git(&clone, &words);
        c.stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped());
        let mut child = c.spawn().expect("git runs");
        child
            .stdin
            .take()
            .expect("piped")
            .write_all(bytes)
            .expect("fed");
        let out = child.wait_with_output().expect("waited");
        String::from_utf8(out.stdout)
            .expect("hex")
            .trim()
            .to_owned()
    };
    let raw = |id: &str| data_encoding::HEXLOWER.decode(id.as_bytes()).expect("hex");
    let entry = |mode: &str, name: &str, id: &str| {
        [format!("{mode} {name}\0").as_bytes(), &raw(id)].concat()
    };
    let inner = write("tree", &entry("100644", "x", &blob));
    let old = write("tree", &entry("040000", "dir", &inner));
    let commit_of = |tree: &str| {
        let text = format!("tree {tree}\nauthor <a@b> 1 +051800\ncommitter A <a> 1 +0000\n\nold\n");
        write("commit", text.as_bytes())
    };
    let url = served.url(WRITE, "old");
    ok(
        &clone,
        &[
            "push",
            "-q",
            &url,
            &format!("{}:refs/heads/main", commit_of(&old)),
        ],
    );
    let fsck = git(&served.repo("old"), &["fsck", "--strict"]).output();
    assert!(fsck.expect("git runs").status.success());
    let evil = write("tree", &entry("100644", ".git", &blob));
    let said = fails(
        &clone,
        &[
            "push",
            &url,
            &format!("{}:refs/heads/evil", commit_of(&evil)),
        ],
    );
    assert!(said.contains("hasDotgit"), "{said}");
    assert_eq!(served.repo_ref("old", "refs/heads/evil"), None);
}

#[test]
fn a_push_cut_off_moves_nothing_and_leaves_no_quarantine() {
    use std::io::Write;
    let (served, _home) = begun();
    let before = served.host.pushes().len();
    let body = format!(
        "POST /cell.git/git-receive-pack HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {}\r\n\
         Content-Type: application/x-git-receive-pack-request\r\nContent-Length: 1000000\r\n\r\n",
        data_encoding::BASE64.encode(format!("cell:{WRITE}").as_bytes())
    );
    let line = format!(
        "{} {} refs/heads/x\0report-status",
        "0".repeat(40),
        "1".repeat(40)
    );
    let mut stream = std::net::TcpStream::connect(served.addr).expect("connected");
    stream.write_all(body.as_bytes()).expect("sent");
    write!(
        stream,
        "{:04x}{line}0000PACK\0\0\0\x02\0\0\0\x09",
        line.len() + 4
    )
    .expect("sent");
    let objects = served.repo("cell").join("objects");
    let quarantined = || {
        std::fs::read_dir(&objects).is_ok_and(|entries| {
            entries
                .flatten()
                .any(|e| e.file_name().to_string_lossy().starts_with("tmp_objdir"))
        })
    };
    host::eventually("the quarantine is there", quarantined);
    drop(stream);
    host::eventually("the quarantine has gone", || !quarantined());
    assert_eq!(served.host.pushes().len(), before);
}

#[test]
fn our_own_refs_are_hidden_and_what_was_handed_out_stays_wanted() {
    let (served, home) = begun();
    let clone = home.path().join("clone");
    let old = ok(&clone, &["rev-parse", "HEAD"]);
    let repo = served.repo("cell");
    ok(&repo, &["update-ref", "refs/cellfs/heads/n1", &old]);
    let url = served.url(READ, "cell");
    assert!(!ok(home.path(), &["ls-remote", &url]).contains("refs/cellfs"));
    ok(&clone, &["commit", "-q", "--amend", "-m", "another"]);
    ok(&clone, &["push", "-q", "-f"]);
    let empty = home.path().join("empty");
    std::fs::create_dir(&empty).expect("made");
    ok(&empty, &["init", "-q"]);
    ok(&empty, &["fetch", "-q", &url, &old]);
    ok(
        &empty,
        &[
            "clone",
            "-q",
            "--filter=blob:none",
            "--bare",
            &url,
            "../partial",
        ],
    );
}

/// git processes at work on a repository.
fn at_work(repo: &Path) -> usize {
    let repo = repo.display().to_string();
    let all = std::fs::read_dir("/proc").expect("proc");
    all.flatten()
        .filter_map(|p| std::fs::read(p.path().join("cmdline")).ok())
        .filter(|c| String::from_utf8_lossy(c).contains(&repo))
        .count()
}

#[test]
fn a_client_that_goes_takes_its_git_with_it() {
    use std::io::Write;
    let (served, home) = begun();
    let clone = home.path().join("clone");
    let mut bytes = vec![0; 24 << 20];
    getrandom::fill(&mut bytes).expect("chance");
    std::fs::write(clone.join("big"), &bytes).expect("written");
    ok(&clone, &["add", "-A"]);
    ok(&clone, &["commit", "-q", "-m", "big"]);
    ok(&clone, &["push", "-q"]);
    let id = ok(&clone, &["rev-parse", "HEAD"]);
    let body = format!("0011command=fetch00010032want {id}\n0009done\n0000");
    let head = format!(
        "POST /cell.git/git-upload-pack HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {}\r\n\
         Content-Type: application/x-git-upload-pack-request\r\nGit-Protocol: version=2\r\n\
         Content-Length: {}\r\n\r\n",
        data_encoding::BASE64.encode(format!("cell:{READ}").as_bytes()),
        body.len()
    );
    let mut stream = std::net::TcpStream::connect(served.addr).expect("connected");
    stream.write_all(head.as_bytes()).expect("sent");
    stream.write_all(body.as_bytes()).expect("sent");
    let repo = served.repo("cell");
    host::eventually("git is at work", || at_work(&repo) > 0);
    // It waits for a client that does not read.
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(at_work(&repo) > 0);
    drop(stream);
    host::eventually("git has gone", || at_work(&repo) == 0);
}

#[test]
fn more_clients_than_git_processes_all_get_their_turn() {
    let (served, home) = begun();
    let url = served.url(READ, "cell");
    std::thread::scope(|s| {
        for n in 0..20 {
            let (url, home) = (&url, home.path());
            s.spawn(move || ok(home, &["clone", "-q", url, &format!("c{n}")]));
        }
    });
}
