//! The order of system calls: nothing is announced, and no push is answered, before what it
//! names is on disk.
//!
//! The node runs under strace, which also makes each of its fsyncs take long: were something
//! announced before an fsync ended, another node, or git, would know of it meanwhile.

// The tests of power loss read traces, too.
#[expect(dead_code, reason = "some of it is for the replay")]
#[path = "../integration/power/trace.rs"]
mod trace;

use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::Digest;

use crate::harness::{self, Lab, git};
use trace::{Call, Trace};

/// How long each fsync takes at least.
const FSYNC: Duration = Duration::from_millis(150);

fn strace(to: &Path) -> Vec<OsString> {
    let mut line: Vec<OsString> = vec!["strace".into(), "-f".into(), "-y".into(), "-xx".into()];
    line.extend(["-ttt", "-T", "-s", "16777216", "-e"].map(Into::into));
    line.push(format!("trace={},sendto,sendmsg", trace::CALLS).into());
    line.push("-e".into());
    let us = FSYNC.as_micros();
    line.push(format!("inject=fsync,fdatasync:delay_enter={us}").into());
    line.extend(["-o".into(), to.into()]);
    line
}

fn now() -> f64 {
    let t = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    t.expect("after 1970").as_secs_f64()
}

fn path(c: &Call) -> PathBuf {
    let a = c.args.first();
    a.and_then(|a| a.path.clone()).unwrap_or_default()
}

fn is_sync(c: &Call) -> bool {
    matches!(c.name.as_str(), "fsync" | "fdatasync") && c.ret == 0
}

/// Where a call among those from `from` on ended, by its place in the trace.
fn find(t: &Trace, from: usize, what: &str, is: impl Fn(&Call) -> bool) -> usize {
    let found = t.calls.iter().skip(from).position(is);
    from + found.unwrap_or_else(|| panic!("no {what} after call {from} of {}", t.calls.len()))
}

/// The calls that make a large commit durable, in their order, from `from` on; the last one.
fn large_commit(t: &Trace, from: usize) -> usize {
    let ends = |c: &Call, e: &str| path(c).to_string_lossy().ends_with(e);
    let within = |c: &Call, d: &str| path(c).to_string_lossy().contains(d);
    let synced = |ext: &str| {
        find(t, from, ext, |c| {
            is_sync(c) && within(c, "/git/incoming/") && ends(c, ext)
        })
    };
    let both = synced(".pack").max(synced(".idx"));
    let named = find(t, both, "rename of an index", |c| {
        let to = c.args.last().map(|a| a.bytes.clone()).unwrap_or_default();
        c.name.starts_with("rename") && String::from_utf8_lossy(&to).ends_with(".idx")
    });
    let dir = find(t, named, "fsync of the packs' directory", |c| {
        is_sync(c) && ends(c, "/git/objects/pack")
    });
    let record = find(t, dir, "head record", |c| {
        c.name == "write" && within(c, "/journal/")
    });
    find(t, record, "fsync of the journal", |c| {
        is_sync(c) && within(c, "/journal/")
    })
}

/// The same of a small commit, whose objects go to the journal.
fn small_commit(t: &Trace, from: usize) -> usize {
    let journal = |c: &Call| path(c).to_string_lossy().contains("/journal/");
    let objects = find(t, from, "entry with objects", |c| {
        let holds = |b: &[u8]| b.windows(8).any(|w| w == b"PACK\0\0\0\x02");
        c.name == "write" && journal(c) && c.args.iter().any(|a| holds(&a.bytes))
    });
    let record = find(t, objects + 1, "head record", |c| {
        c.name == "write" && journal(c)
    });
    find(t, record, "fsync of the journal", |c| {
        is_sync(c) && journal(c)
    })
}

/// A node under strace writes an edit; another must not know of it before the call that
/// `durable` finds ended. `fsyncs` of them come one after the other.
fn order_of_an_edit(edit: &str, fsyncs: f64, durable: fn(&Trace, usize) -> usize) {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let log = lab.path("trace");
    let a = lab.node("a").under(strace(&log)).start();
    let b = lab.node("b").join(&a.invite(1)).start();
    a.write("first", "first");
    b.wait_for("first", "first");
    let began = now();
    a.write("edit", edit);
    b.wait_for("edit", edit);
    let seen = now();
    assert!(a.end(), "it ended in order");
    drop(b);
    let t = trace::read(&log);
    let from = find(&t, 0, "call after the edit", |c| c.time >= began);
    let durable = t.calls[durable(&t, from)].time;
    assert!(
        durable <= seen,
        "the other node showed it {} s before it was durable",
        durable - seen
    );
    assert!(
        durable - began > FSYNC.as_secs_f64() * fsyncs,
        "fsyncs were not slowed"
    );
}

#[test]
fn no_announcement_before_a_small_commit_is_durable() {
    order_of_an_edit("the edit that is looked for", 1.0, small_commit);
}

#[test]
fn no_announcement_before_a_large_commit_is_durable() {
    let line = "an edit that is too large for the journal\n";
    order_of_an_edit(&line.repeat((70 << 10) / line.len() + 1), 3.0, large_commit);
}

#[test]
fn no_ok_to_a_push_before_its_objects_are_durable() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let log = lab.path("trace");
    let a = lab.node("a").under(strace(&log)).start();
    let client = git::init(lab.path("client"));
    std::fs::write(client.join("pushed"), "pushed\n").expect("written");
    // One blob, one tree, one commit.
    git::commit_all(&client, "three objects");
    let began = now();
    git::git(&client, &["push", "-q", &a.url("cell"), "main"]);
    let answered = now();
    assert_eq!(a.read("pushed"), "pushed\n");
    assert!(a.end(), "it ended in order");
    let t = trace::read(&log);
    let from = find(&t, 0, "call after the push", |c| c.time >= began);
    let ok = find(&t, from, "ok", |c| {
        let says = |b: &[u8]| b.windows(10).any(|w| w == b"ok refs/he");
        matches!(c.name.as_str(), "write" | "writev" | "sendto" | "sendmsg")
            && c.args.iter().any(|a| says(&a.bytes))
    });
    // What git brought, by the last name that it gave in the packs' directory.
    let is_pack = |c: &Call| {
        let to = |a: &trace::Arg| {
            let to = String::from_utf8_lossy(&a.bytes).into_owned();
            to.contains("objects/pack/pack-") && to.ends_with(".idx")
        };
        let made = c.name.starts_with("link") || c.name.starts_with("rename");
        made && c.ret == 0 && c.args.iter().any(to)
    };
    let named = find(&t, from, "pack of the push", is_pack);
    let dir = find(&t, named, "fsync of the packs' directory", |c| {
        is_sync(c) && path(c).ends_with("git/objects/pack")
    });
    let durable = small_commit(&t, dir);
    assert!(durable < ok, "ok was said in call {ok}, before {durable}");
    assert!(t.calls[durable].time <= answered);
}

#[test]
fn no_answer_to_an_upload_by_git_lfs_before_it_is_durable() {
    let lab = Lab::new();
    let log = lab.path("trace");
    let a = lab.node("a").serve().under(strace(&log)).start();
    let url = a.url("cell");
    let rest = url.strip_prefix("http://").expect("plain");
    let (user, rest) = rest.split_once('@').expect("with a token");
    let (addr, _) = rest.split_once('/').expect("a path");
    let bytes = b"large".repeat(50_000);
    let id = data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(&bytes));
    let head = format!(
        "PUT /cell.git/info/lfs/objects/{id} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\
         Authorization: Basic {}\r\nConnection: close\r\n\r\n",
        bytes.len(),
        data_encoding::BASE64.encode(user.as_bytes())
    );
    let began = now();
    let mut stream = std::net::TcpStream::connect(addr).expect("connected");
    stream.write_all(head.as_bytes()).expect("sent");
    stream.write_all(&bytes).expect("sent");
    let mut said = String::new();
    stream.read_to_string(&mut said).expect("an answer");
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    assert!(a.end(), "it ended in order");
    let t = trace::read(&log);
    let from = find(&t, 0, "call after the upload", |c| c.time >= began);
    let ok = find(&t, from, "ok", |c| {
        let says = |b: &[u8]| b.starts_with(b"HTTP/1.1 200");
        matches!(c.name.as_str(), "write" | "writev" | "sendto" | "sendmsg")
            && c.args.iter().any(|a| says(&a.bytes))
    });
    let synced = |from: usize, what: &str| {
        find(&t, from, what, |c| {
            is_sync(c) && path(c).to_string_lossy().contains(what)
        })
    };
    let manifest = synced(from, "/journal/");
    let noted = synced(manifest, "/lfs/heads");
    let whole = synced(noted, "/lfs/incoming/");
    let named = find(&t, whole, "rename of the file", |c| {
        let to = c.args.last().map(|a| a.bytes.clone()).unwrap_or_default();
        c.name.starts_with("rename") && String::from_utf8_lossy(&to).ends_with(".data")
    });
    let durable = synced(named, "/chunks/containers");
    assert!(durable < ok, "ok was said in call {ok}, before {durable}");
}

#[test]
fn no_id_of_added_bytes_before_they_are_durable() {
    let lab = Lab::new();
    let log = lab.path("trace");
    let a = lab.node("a").serve().under(strace(&log)).start();
    let (small, large) = (lab.path("small"), lab.path("large"));
    std::fs::write(&small, b"small".repeat(50_000)).expect("written");
    std::fs::write(&large, b"large".repeat(1_000_000)).expect("written");
    let add = |path: &Path| {
        let began = now();
        (began, a.ask(&["add", path.to_str().expect("UTF-8")]))
    };
    let (began, small) = add(&small);
    let (then, large) = add(&large);
    assert!(a.end(), "it ended in order");
    let t = trace::read(&log);
    let after = |time: f64| find(&t, 0, "call after it", |c| c.time >= time);
    let told = |from: usize, id: &str| {
        find(&t, from, "answer", |c| {
            let says = |b: &[u8]| String::from_utf8_lossy(b).contains(id);
            matches!(c.name.as_str(), "write" | "writev" | "sendto" | "sendmsg")
                && c.args.iter().any(|a| says(&a.bytes))
        })
    };
    let synced = |from: usize, what: &str, end: &str| {
        find(&t, from, what, |c| {
            let path = path(c).to_string_lossy().into_owned();
            is_sync(c) && path.contains(what) && path.ends_with(end)
        })
    };
    let known = |from: usize| synced(synced(from, "/journal/", ""), "/lfs/heads", "");
    let packed = synced(known(after(began)), "/chunks/packs/", ".pack");
    let listed = synced(packed, "/chunks/packs/", ".index");
    let ok = told(after(began), &small);
    assert!(listed < ok, "its id was told in call {ok}, before {listed}");
    let whole = synced(known(after(then)), "/adding/", "");
    let durable = synced(whole, "/chunks/containers", "");
    let ok = told(after(then), &large);
    assert!(
        durable < ok,
        "its id was told in call {ok}, before {durable}"
    );
}
