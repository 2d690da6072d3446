//! git-lfs's server: stock git-lfs against it, and what no git-lfs would send.

mod api;
pub(crate) mod client;
mod host;

use std::path::Path;
use std::sync::atomic::Ordering;

use cellfs::doors::http::load_tls;
use client::{Client, noise, sha256};

use crate::git_door::both;
use crate::git_door::host::{READ, Served, WRITE};
use crate::http_door::certificate;

/// A door, and a repository with these files of git-lfs in it, pushed.
fn pushed(files: &[(&str, &[u8])]) -> (Served, Client) {
    let served = Served::start();
    let client = Client::new();
    let first = client.repo("first");
    for (name, bytes) in files {
        std::fs::write(first.join(name), bytes).expect("written");
    }
    client.commit(&first, "large files");
    let url = served.url(WRITE, "cell");
    client.ok(&first, &["remote", "add", "origin", &url]);
    client.ok(&first, &["push", "-q", "origin", "main"]);
    (served, client)
}

fn is(path: &Path, bytes: &[u8]) {
    let is = std::fs::read(path).expect("there");
    assert!(is == bytes, "{}: {} bytes", path.display(), is.len());
}

#[test]
fn what_git_lfs_pushes_a_clone_gets_back() {
    let large = noise(3 << 20);
    let files: [(&str, &[u8]); 4] = [
        ("a.bin", b"a"),
        ("b.bin", &large[..65_536]),
        ("c.bin", &large),
        ("empty.bin", b""),
    ];
    let (served, client) = pushed(&files);
    let mut ids: Vec<String> = files[..3].iter().map(|(_, b)| sha256(b)).collect();
    ids.sort();
    assert_eq!(served.objects("cell"), (ids, 0));
    let text = client.ok(&client.path("first"), &["show", "HEAD:c.bin"]);
    assert!(text.starts_with("version https://git-lfs"), "{text}");
    client.ok(
        &client.home(),
        &["clone", "-q", &served.url(READ, "cell"), "clone"],
    );
    let clone = client.path("clone");
    for (name, bytes) in files {
        is(&clone.join(name), bytes);
    }
    client.ok(&clone, &["lfs", "fsck"]);
    // Once more, and a change: only that is sent.
    let first = client.path("first");
    std::fs::write(first.join("d.bin"), b"another").expect("written");
    client.commit(&first, "another");
    let said = client.traced(&first, &["push", "origin", "main"]);
    let sent = said.matches("HTTP: PUT").count();
    assert_eq!(sent, 1, "{said}");
    client.ok(&clone, &["pull", "-q"]);
    is(&clone.join("d.bin"), b"another");
    client.ok(&clone, &["lfs", "fetch", "--all"]);
    client.ok(&clone, &["lfs", "prune", "--verify-remote"]);
}

#[test]
fn the_same_over_tls() {
    let client = Client::new();
    let (cert, key) = certificate(&client.home());
    let tls = load_tls(&cert, &key).expect("good");
    let served = Served::start_with("127.0.0.1:0", |site| site.tls = Some(tls));
    let url = served.url(WRITE, "cell").replace("http:", "https:");
    let first = client.repo("first");
    let bytes = noise(1 << 20);
    std::fs::write(first.join("a.bin"), &bytes).expect("written");
    client.commit(&first, "a");
    let said = client.traced(&first, &["push", &url, "main"]);
    assert!(said.contains("PUT https://"), "{said}");
    assert!(!said.contains("PUT http://"), "{said}");
    client.ok(&client.home(), &["clone", "-q", &url, "clone"]);
    is(&client.path("clone/a.bin"), &bytes);
}

#[test]
fn a_token_that_reads_gets_files_and_sends_none() {
    let (served, client) = pushed(&[("a.bin", b"one")]);
    let first = client.path("first");
    std::fs::write(first.join("b.bin"), b"two").expect("written");
    client.commit(&first, "two");
    let before = served.objects("cell");
    let said = client.fails(&first, &["lfs", "push", &served.url(READ, "cell"), "main"]);
    assert!(said.contains("may read but not upload"), "{said}");
    client.fails(
        &first,
        &["lfs", "push", &served.url("wrong", "cell"), "main"],
    );
    client.fails(
        &first,
        &[
            "lfs",
            "lock",
            "a.bin",
            "--remote",
            &served.url(READ, "cell"),
        ],
    );
    assert_eq!(served.objects("cell"), before);
    let said = client.fails(
        &client.home(),
        &["clone", &served.url("wrong", "cell"), "never"],
    );
    assert!(said.contains("Authentication failed"), "{said}");
    client.ok(
        &client.home(),
        &["clone", "-q", &served.url(READ, "cell"), "clone"],
    );
    is(&client.path("clone/a.bin"), b"one");
}

#[test]
fn a_download_that_was_cut_off_goes_on_where_it_was() {
    let bytes = noise(2 << 20);
    let (served, client) = pushed(&[("a.bin", &bytes)]);
    let url = served.url(READ, "cell");
    let skip = "filter.lfs.smudge=git-lfs smudge --skip -- %f";
    let process = "filter.lfs.process=git-lfs filter-process --skip";
    let words = ["-c", skip, "-c", process, "clone", "-q", &url, "clone"];
    client.ok(&client.home(), &words);
    let clone = client.path("clone");
    let part = clone.join(format!(".git/lfs/incomplete/{}.part", sha256(&bytes)));
    std::fs::create_dir_all(part.parent().expect("a folder")).expect("made");
    std::fs::write(&part, &bytes[..1_500_000]).expect("written");
    let said = client.traced(&clone, &["lfs", "pull"]);
    assert!(said.contains("server accepted resume"), "{said}");
    assert!(said.contains("Range: bytes=1500000-2097151"), "{said}");
    is(&clone.join("a.bin"), &bytes);
    client.ok(&clone, &["lfs", "fsck"]);
}

#[test]
fn an_object_that_is_not_here_is_named_and_the_others_come() {
    let (served, client) = pushed(&[("a.bin", b"one"), ("b.bin", b"two")]);
    let gone = served.lfs("cell").join("objects").join(sha256(b"two"));
    std::fs::remove_file(gone).expect("removed");
    let url = served.url(READ, "cell");
    let skip = "filter.lfs.smudge=git-lfs smudge --skip -- %f";
    let process = "filter.lfs.process=git-lfs filter-process --skip";
    let words = ["-c", skip, "-c", process, "clone", "-q", &url, "clone"];
    client.ok(&client.home(), &words);
    let clone = client.path("clone");
    let said = client.fails(&clone, &["lfs", "pull"]);
    assert!(said.contains("is not on this node"), "{said}");
    assert!(said.contains(&sha256(b"two")), "{said}");
    client.ok(&clone, &["lfs", "pull", "--include", "a.bin"]);
    is(&clone.join("a.bin"), b"one");
}

#[test]
fn a_full_disk_is_said_and_takes_nothing() {
    let (served, client) = pushed(&[("a.bin", b"one")]);
    let before = served.objects("cell");
    served.host.is_full.store(true, Ordering::SeqCst);
    let first = client.path("first");
    std::fs::write(first.join("b.bin"), noise(1 << 20)).expect("written");
    client.commit(&first, "two");
    let said = client.fails(&first, &["push", "origin", "main"]);
    assert!(said.contains("the disk of this node is full"), "{said}");
    assert_eq!(served.objects("cell"), before);
    served.host.is_full.store(false, Ordering::SeqCst);
    client.ok(&first, &["push", "-q", "origin", "main"]);
    assert_eq!(served.objects("cell").0.len(), 2);
}

#[test]
fn locks_are_taken_shown_kept_and_given_back() {
    let (served, client) = pushed(&[("a.bin", b"one"), ("b.bin", b"two")]);
    let as_who = |who: &str| {
        served
            .url(WRITE, "cell")
            .replace("cell:", &format!("cell+{who}:"))
    };
    let clones = ["anna", "ben"].map(|who| {
        client.ok(&client.home(), &["clone", "-q", &as_who(who), who]);
        client.path(who)
    });
    let [anna, ben] = &clones;
    let said = client.ok(anna, &["lfs", "lock", "a.bin"]);
    assert!(said.contains("Locked a.bin"), "{said}");
    let said = client.fails(ben, &["lfs", "lock", "a.bin"]);
    assert!(said.contains("a.bin is locked already"), "{said}");
    let said = client.ok(ben, &["lfs", "locks"]);
    assert!(said.contains("a.bin") && said.contains("anna"), "{said}");
    let said = client.ok(ben, &["lfs", "locks", "--verify"]);
    assert!(said.starts_with("  a.bin"), "{said}");
    let said = client.ok(anna, &["lfs", "locks", "--verify"]);
    assert!(said.starts_with("O a.bin"), "{said}");
    client.ok(ben, &["lfs", "lock", "b.bin"]);
    let said = client.ok(anna, &["lfs", "locks", "--path", "b.bin"]);
    assert!(said.contains("b.bin") && !said.contains("a.bin"), "{said}");
    // What somebody else has locked is not pushed.
    std::fs::write(ben.join("b.bin"), b"mine").expect("written");
    client.commit(ben, "mine");
    client.ok(ben, &["push", "-q", "origin", "main"]);
    std::fs::write(ben.join("a.bin"), b"not mine").expect("written");
    client.commit(ben, "not mine");
    let said = client.fails(
        ben,
        &["-c", "lfs.locksverify=true", "push", "origin", "main"],
    );
    assert!(said.contains("a.bin") && said.contains("anna"), "{said}");
    let said = client.fails(ben, &["lfs", "unlock", "a.bin"]);
    assert!(said.contains("the lock is of anna"), "{said}");
    client.ok(ben, &["lfs", "unlock", "--force", "a.bin"]);
    client.ok(ben, &["lfs", "unlock", "b.bin"]);
    assert_eq!(client.ok(anna, &["lfs", "locks"]), "");
    client.ok(ben, &["push", "-q", "origin", "main"]);
}

#[test]
fn many_files_and_many_locks_take_many_requests() {
    let served = Served::start();
    let client = Client::new();
    let first = client.repo("first");
    for n in 0..250 {
        std::fs::write(first.join(format!("{n}.bin")), format!("file {n}")).expect("written");
    }
    client.commit(&first, "many");
    client.ok(
        &first,
        &["remote", "add", "origin", &served.url(WRITE, "cell")],
    );
    client.ok(&first, &["push", "-q", "origin", "main"]);
    assert_eq!(served.objects("cell").0.len(), 250);
    for n in 0..205 {
        let body = format!(r#"{{"path":"{n}.bin"}}"#);
        let r = api::json(&served, "POST", "cell", "locks", WRITE, &body);
        assert_eq!(r.status, 201, "{}", r.text());
    }
    let all = client.ok(&first, &["lfs", "locks"]);
    assert_eq!(all.lines().count(), 205);
    let few = client.ok(&first, &["lfs", "locks", "--limit", "7"]);
    assert_eq!(few.lines().count(), 7);
    let said = client.both(&first, &["lfs", "locks", "--verify"]);
    assert_eq!(
        said.lines().filter(|l| l.starts_with("O ")).count(),
        205,
        "{said}"
    );
    client.ok(
        &client.home(),
        &["clone", "-q", &served.url(READ, "cell"), "clone"],
    );
    is(&client.path("clone/249.bin"), b"file 249");
}

#[test]
fn a_volume_that_nobody_made_is_made_by_the_first_push_only() {
    let served = Served::start();
    let client = Client::new();
    let first = client.repo("first");
    std::fs::write(first.join("a.bin"), b"one").expect("written");
    client.commit(&first, "one");
    let url = served.url(WRITE, "new");
    client.ok(&first, &["remote", "add", "origin", &url]);
    client.fails(
        &first,
        &["lfs", "fetch", "origin", "main", "--all", "--refetch"],
    );
    let out = client.run(&first, &["lfs", "locks", "--verify"]);
    assert!(out.status.success(), "{}", both(&out));
    assert!(!served.repo("new").exists());
    client.ok(&first, &["push", "-q", "origin", "main"]);
    client.ok(&client.home(), &["clone", "-q", &url, "clone"]);
    is(&client.path("clone/a.bin"), b"one");
}
