//! Volumes without a kernel: what operations do, what survives, what two nodes make of it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{Caller, Fs, RenameMode, SetAttr};
use crate::base::id::{NodeId, Oid, VolumeName};
use crate::record::model::Kind;
use crate::replicator::exchange::{self, Known};
use crate::store::{closure, incoming};
use crate::volume::inode::{Ino, ROOT_INO};
use crate::volume::large::NEVER;
use crate::volume::view::HeadInfo;
use crate::volume::{Identity, Outlet, Volume};

mod anything;
mod attributes;
mod direct;
mod evict;
mod failing;
mod held;
mod large;
mod large_more;
mod liars;
mod links;
mod overlay;
mod past;
mod posix;
mod racing;
mod saves;
mod told;

#[derive(Default)]
struct Heads(Mutex<Vec<Oid>>);

impl Outlet for Heads {
    fn committed(&self, _: &VolumeName, head: &HeadInfo, _: Option<Vec<u8>>) {
        self.0.lock().unwrap().push(head.id);
    }
}

const ME: Caller = Caller {
    uid: 0,
    gid: 0,
    umask: 0,
};

fn volume(dir: &Path, node: u8) -> Arc<Volume> {
    let who = Identity {
        node: NodeId([node; 32]),
        name: format!("n{node}"),
    };
    let (name, outlet) = ("cell".parse().unwrap(), Arc::<Heads>::default());
    Volume::open_with(dir, name, who, outlet, ABOVE.get()).unwrap()
}

thread_local! {
    /// Files above this are cut into chunks, on volumes that this test opens.
    static ABOVE: Cell<u64> = Cell::new(anything::number("CELLFS_LARGE", NEVER));
}

/// The process dies, and a new one opens what is on the disk: the volume in `dir`, of node `n`.
fn crash(v: &Volume, dir: &Path, n: u8) -> Arc<Volume> {
    crash_after(v, dir, n, || ())
}

/// The same right after this, of which nothing is committed.
fn crash_after(v: &Volume, dir: &Path, n: u8, last: impl FnOnce() + Send + 'static) -> Arc<Volume> {
    let (from, to) = (dir.to_owned(), dir.with_extension("crashed"));
    let copied = {
        let to = to.clone();
        v.while_still(move || {
            last();
            Command::new("cp").arg("-a").args([from, to]).status()
        })
    };
    assert!(copied.unwrap().unwrap().success());
    v.stop().unwrap();
    std::fs::remove_dir_all(dir).unwrap();
    std::fs::rename(to, dir).unwrap();
    volume(dir, n)
}

fn fs(v: &Arc<Volume>) -> Fs {
    Fs::new(v.clone(), 1, false, ME)
}

fn walk(f: &Fs, path: &str) -> Ino {
    let parts = path.split('/').filter(|p| !p.is_empty());
    parts.fold(ROOT_INO, |dir, name| {
        f.lookup(dir, name.as_bytes()).unwrap().expect(path).ino
    })
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// As a program writes: create or truncate, write, close.
fn put(f: &Fs, path: &str, text: &str) {
    let (dir, name) = split(path);
    let dir = walk(f, dir);
    let ino = match f.lookup(dir, name.as_bytes()).unwrap() {
        Some(s) => {
            f.open(s.ino, true, true).unwrap();
            s.ino
        }
        None => f.create(dir, name.as_bytes(), 0o644, ME, true).unwrap().ino,
    };
    f.write(ino, 0, text.as_bytes()).unwrap();
    f.release(ino, true);
}

fn get(f: &Fs, path: &str) -> String {
    let ino = walk(f, path);
    String::from_utf8(f.read(ino, 0, 1 << 20).unwrap()).unwrap()
}

/// Everything that is shown, with bytes, modes and times.
fn manifest(f: &Fs) -> BTreeMap<String, (Kind, u32, i64, Vec<u8>)> {
    let mut out = BTreeMap::new();
    let mut queue = vec![(String::new(), ROOT_INO)];
    while let Some((path, dir)) = queue.pop() {
        for e in f.list(dir).unwrap() {
            let s = f.lookup_entry(dir, &e).unwrap().unwrap();
            let here = format!("{path}/{}", e.name);
            let bytes = match s.kind {
                Kind::Dir => {
                    queue.push((here.clone(), s.ino));
                    Vec::new()
                }
                Kind::Symlink => f.readlink(s.ino).unwrap(),
                _ => f.read(s.ino, 0, u32::MAX).unwrap(),
            };
            out.insert(here, (s.kind, s.attr.mode, s.attr.mtime, bytes));
        }
    }
    out
}

fn fsck(v: &Volume) {
    let out = Command::new("git")
        .args(["fsck", "--strict", "--full"])
        .current_dir(v.repo().path())
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
}

/// Large files that came, of which something is not here.
fn wanted(v: &Volume) -> Vec<Oid> {
    let met = v.meet().unwrap().met;
    met.iter().filter(|m| m.lacks).map(|m| m.head).collect()
}

/// What the network does: one way, heads with all they need.
fn pull(from: &Volume, to: &Volume) {
    pull_records(from, to);
    for head in wanted(to) {
        for p in to.lacks(&head, usize::MAX).unwrap() {
            // A version of somebody else's may be on its way still.
            if let Some(bytes) = from.chunks().unwrap().read(&p.piece.id).unwrap() {
                to.chunks().unwrap().put(&p.piece.id, &bytes).unwrap();
            }
        }
    }
}

/// The same without bytes that are chunks.
fn pull_records(from: &Volume, to: &Volume) {
    let ids = |v: &Volume| -> Vec<Oid> { v.view().heads.iter().map(|h| h.id).collect() };
    let (want, known) = (ids(from), Known::new(ids(to), to.view().seen()));
    let mut stream = Vec::new();
    exchange::give(&**from.repo(), from.cache(), &want, &known, &mut stream).unwrap();
    if stream.get(8..12) != Some(&[0; 4]) {
        let came = incoming::receive(to.repo(), stream.as_slice()).unwrap();
        came.admit(to.repo(), &want, || Ok(())).unwrap();
    }
    to.admit(want).unwrap();
}

#[test]
fn heads_taken_in_become_durable_without_a_write() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (
        volume(&dir.path().join("a"), 1),
        volume(&dir.path().join("b"), 2),
    );
    put(&fs(&a), "x", "one");
    a.flush_all().unwrap();
    pull(&a, &b);
    let last = b.journal().last();
    let began = Instant::now();
    while !b.journal().is_durable(last) {
        assert!(began.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A start begins the journal anew, and the next one reads what that one wrote.
#[test]
fn all_heads_are_known_after_each_start_by_the_journal_alone() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("a");
    let mut a = volume(&home, 1);
    put(&fs(&a), "own", "one");
    a.flush_all().unwrap();
    for n in 2..5 {
        let other = volume(&dir.path().join(n.to_string()), n);
        put(&fs(&other), &n.to_string(), "one");
        other.flush_all().unwrap();
        pull(&other, &a);
        other.stop().unwrap();
    }
    let heads = |v: &Volume| -> Vec<Oid> { v.view().heads.iter().map(|h| h.id).collect() };
    let all = heads(&a);
    assert_eq!(all.len(), 4);
    for start in 0..4 {
        let refs = home.join("git/refs/cellfs/heads");
        match start % 2 {
            0 => a.stop().unwrap(),
            _ => a = crash(&a, &home, 1),
        }
        if start % 2 == 0 {
            // They are not synced, so a loss of power may take them.
            std::fs::remove_dir_all(refs).unwrap();
            a = volume(&home, 1);
        }
        assert_eq!(heads(&a), all, "{start}");
    }
    a.stop().unwrap();
}

fn sync(a: &Volume, b: &Volume) {
    a.flush_all().unwrap();
    b.flush_all().unwrap();
    pull(a, b);
    pull(b, a);
    assert_eq!(a.view().commit, b.view().commit);
    assert_eq!(a.view().state, b.view().state);
}

#[test]
fn what_is_written_becomes_a_commit_that_git_accepts() {
    let dir = tempfile::tempdir().unwrap();
    let v = volume(dir.path(), 1);
    let f = fs(&v);
    f.mkdir(ROOT_INO, b"d", 0o750, ME).unwrap();
    put(&f, "d/x", "one");
    put(&f, "d/x", "two");
    f.symlink(ROOT_INO, b"l", b"d/x", ME).unwrap();
    let ino = walk(&f, "d/x");
    let set = SetAttr {
        mode: Some(0o755),
        mtime: Some(1_234_567_890_123_456_789),
        ..SetAttr::default()
    };
    f.setattr(ino, set).unwrap();
    v.flush_all().unwrap();
    assert_eq!(v.dirty(), 0);
    let commit = v.view().commit.unwrap().to_string();
    let out = Command::new("git")
        .args(["ls-tree", "-r", &commit])
        .current_dir(v.repo().path())
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(
        text.contains("100755 blob") && text.contains("120000 blob"),
        "{text}"
    );
    fsck(&v);
    v.stop().unwrap();
}

#[test]
fn a_reopened_volume_shows_what_was_written_up_to_the_crash() {
    let dir = tempfile::tempdir().unwrap();
    let v = volume(dir.path(), 1);
    let f = fs(&v);
    f.mkdir(ROOT_INO, b"d", 0o755, ME).unwrap();
    put(&f, "d/kept", "kept");
    put(&f, "d/gone", "gone");
    v.flush_all().unwrap();
    let before = {
        put(&f, "d/kept", "kept and changed");
        f.unlink(walk(&f, "d"), b"gone").unwrap();
        let d = walk(&f, "d");
        f.rename((d, b"kept"), (ROOT_INO, b"moved"), RenameMode::Replace)
            .unwrap();
        put(&f, "new", "new");
        let open = f.create(ROOT_INO, b"open", 0o600, ME, true).unwrap().ino;
        f.write(open, 5, b"late").unwrap();
        let big = f.create(ROOT_INO, b"big", 0o600, ME, true).unwrap().ino;
        f.write(big, 0, &vec![7; 200_000]).unwrap();
        f.write(big, 200_000, b"end").unwrap();
        f.fsync(big).unwrap();
        manifest(&f)
    };
    // No stop: as if the process had died. The journal and overlay files are all there is.
    // The volume goes on while it is copied: what an entry names must be copied after it, but
    // for the overlay, which a commit may empty.
    let copy = tempfile::tempdir().unwrap();
    std::fs::create_dir(copy.path().join("v")).unwrap();
    let ok = Command::new("cp")
        .arg("-a")
        .args(["overlay", "journal", "git"].map(|part| dir.path().join(part)))
        .arg(copy.path().join("v"))
        .status();
    assert!(ok.unwrap().success());
    let again = volume(&copy.path().join("v"), 1);
    let after = manifest(&fs(&again));
    let strip =
        |m: BTreeMap<String, (Kind, u32, i64, Vec<u8>)>| -> BTreeMap<String, (Kind, u32, Vec<u8>)> {
            m.into_iter()
                .map(|(k, (a, b, _, d))| (k, (a, b, d)))
                .collect()
        };
    assert_eq!(strip(after), strip(before));
    fsck(&again);
    again.stop().unwrap();
    v.stop().unwrap();
}

/// Two programs write by turns: one of two files is in no commit at any time.
#[test]
fn the_journal_does_not_grow_while_somebody_always_writes() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("v");
    let v = volume(&home, 1);
    let f = fs(&v);
    for name in ["a", "b"] {
        put(&f, name, "");
    }
    v.flush_all().unwrap();
    v.be_still();
    let segments = || -> Vec<_> {
        let all = std::fs::read_dir(home.join("journal")).unwrap();
        all.map(|e| e.unwrap().file_name()).collect()
    };
    let (first, text) = (segments(), "x".repeat(2 << 10));
    let open = |name| {
        let ino = walk(&f, name);
        f.open(ino, true, false).unwrap();
        f.write(ino, 0, text.as_bytes()).unwrap();
        ino
    };
    let mut writing = open("a");
    for turn in 0.. {
        let next = open(["b", "a"][turn % 2]);
        f.release(writing, true);
        v.commit_now().unwrap();
        v.settle().unwrap();
        assert!(v.dirty() > 0, "nothing waits");
        if !segments().iter().any(|s| first.contains(s)) {
            break;
        }
        assert!(turn < 100, "segments stay");
        writing = next;
    }
    f.write(writing, 5, b"last").unwrap();
    let v = crash(&v, &home, 1);
    let all = get(&fs(&v), "a") + &get(&fs(&v), "b");
    assert_eq!((all.len(), all.matches("last").count()), (4 << 10, 1));
    v.stop().unwrap();
}

#[test]
fn two_nodes_that_wrote_apart_show_the_same_with_both_edits() {
    let (da, db) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (a, b) = (volume(da.path(), 1), volume(db.path(), 2));
    let (fa, fb) = (fs(&a), fs(&b));
    let text: String = (0..40).map(|n| format!("line {n}\n")).collect();
    put(&fa, "text", &text);
    fa.mkdir(ROOT_INO, b"d", 0o755, ME).unwrap();
    sync(&a, &b);
    assert_eq!(get(&fb, "text"), text);
    put(&fa, "text", &text.replace("line 3\n", "line 3 of a\n"));
    put(&fb, "text", &text.replace("line 33\n", "line 33 of b\n"));
    put(&fa, "d/one", "of a");
    put(&fb, "d/two", "of b");
    put(&fa, "same", "of a\0");
    put(&fb, "same", "of b\0");
    sync(&a, &b);
    let merged = get(&fa, "text");
    assert!(
        merged.contains("line 3 of a\n") && merged.contains("line 33 of b\n"),
        "{merged}"
    );
    let (ma, mb) = (manifest(&fa), manifest(&fb));
    assert_eq!(ma, mb);
    assert_eq!(ma.keys().filter(|k| k.contains(".conflict-")).count(), 1);
    // Life goes on from there.
    put(&fb, "same", "settled");
    let copy = ma
        .keys()
        .find(|k| k.contains(".conflict-"))
        .unwrap()
        .clone();
    fb.unlink(ROOT_INO, copy.trim_start_matches('/').as_bytes())
        .unwrap();
    sync(&a, &b);
    assert_eq!(manifest(&fa), manifest(&fb));
    assert_eq!(get(&fa, "same"), "settled");
    assert!(!manifest(&fa).contains_key(&copy));
    for v in [&a, &b] {
        v.hand_out().unwrap();
        fsck(v);
        v.stop().unwrap();
    }
}

#[test]
fn a_file_held_open_keeps_its_version_and_merges_when_written() {
    let (da, db) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (a, b) = (volume(da.path(), 1), volume(db.path(), 2));
    let (fa, fb) = (fs(&a), fs(&b));
    let text: String = (0..40).map(|n| format!("line {n}\n")).collect();
    put(&fa, "text", &text);
    sync(&a, &b);
    // b opens and changes without closing; a's edit arrives; b closes.
    let ino = walk(&fb, "text");
    fb.open(ino, true, false).unwrap();
    let mine = text.replace("line 3\n", "LINE 3\n");
    fb.write(ino, 0, mine.as_bytes()).unwrap();
    put(&fa, "text", &text.replace("line 33\n", "LINE 33\n"));
    a.flush_all().unwrap();
    pull(&a, &b);
    let held = String::from_utf8(fb.read(ino, 0, 1 << 20).unwrap()).unwrap();
    assert_eq!(held, mine, "an open handle never sees a mix");
    fb.release(ino, true);
    sync(&a, &b);
    for f in [&fa, &fb] {
        let got = get(f, "text");
        assert!(
            got.contains("LINE 3\n") && got.contains("LINE 33\n"),
            "{got}"
        );
    }
    assert_eq!(manifest(&fa), manifest(&fb));
    a.stop().unwrap();
    b.stop().unwrap();
}

#[test]
fn a_directory_removed_there_while_a_file_is_made_here_lives() {
    let (da, db) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (a, b) = (volume(da.path(), 1), volume(db.path(), 2));
    let (fa, fb) = (fs(&a), fs(&b));
    fa.mkdir(ROOT_INO, b"d", 0o755, ME).unwrap();
    put(&fa, "d/old", "old");
    sync(&a, &b);
    fa.unlink(walk(&fa, "d"), b"old").unwrap();
    fa.rmdir(ROOT_INO, b"d").unwrap();
    put(&fb, "d/new", "new");
    sync(&a, &b);
    assert_eq!(manifest(&fa), manifest(&fb));
    assert_eq!(get(&fa, "d/new"), "new");
    a.stop().unwrap();
    b.stop().unwrap();
}

#[test]
fn quick_life_and_death_in_one_batch_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let v = volume(dir.path(), 1);
    let f = fs(&v);
    for n in 0..50 {
        put(&f, "tmp", &format!("bytes {n}"));
        f.rename((ROOT_INO, b"tmp"), (ROOT_INO, b"file"), RenameMode::Replace)
            .unwrap();
        f.mkdir(ROOT_INO, b"dir", 0o755, ME).unwrap();
        put(&f, "dir/x", "x");
        f.unlink(walk(&f, "dir"), b"x").unwrap();
        f.rmdir(ROOT_INO, b"dir").unwrap();
    }
    assert_eq!(get(&f, "file"), "bytes 49");
    v.flush_all().unwrap();
    let shown = manifest(&f);
    assert_eq!(shown.keys().collect::<Vec<_>>(), ["/file"]);
    fsck(&v);
    v.stop().unwrap();
    drop(f);
    drop(v);
    let again = volume(dir.path(), 1);
    assert_eq!(manifest(&fs(&again)).keys().collect::<Vec<_>>(), ["/file"]);
    again.stop().unwrap();
}

#[test]
fn errors_are_those_of_posix() {
    let dir = tempfile::tempdir().unwrap();
    let v = volume(dir.path(), 1);
    let f = fs(&v);
    let no = |r: super::Result<()>| super::errno(&r.unwrap_err());
    f.mkdir(ROOT_INO, b"d", 0o755, ME).unwrap();
    put(&f, "d/x", "x");
    put(&f, "f", "f");
    let d = walk(&f, "d");
    assert_eq!(no(f.rmdir(ROOT_INO, b"d")), libc::ENOTEMPTY);
    assert_eq!(no(f.rmdir(ROOT_INO, b"f")), libc::ENOTDIR);
    assert_eq!(no(f.unlink(ROOT_INO, b"d")), libc::EISDIR);
    assert_eq!(no(f.unlink(ROOT_INO, b"nope")), libc::ENOENT);
    assert_eq!(no(f.mkdir(ROOT_INO, b"f", 0, ME).map(|_| ())), libc::EEXIST);
    let into_itself = f.rename((ROOT_INO, b"d"), (d, b"d"), RenameMode::Replace);
    assert_eq!(no(into_itself), libc::EINVAL);
    let taken = f.rename((ROOT_INO, b"f"), (d, b"x"), RenameMode::NoReplace);
    assert_eq!(no(taken), libc::EEXIST);
    assert_eq!(
        no(f.mkdir(ROOT_INO, &[b'x'; 256], 0, ME).map(|_| ())),
        libc::ENAMETOOLONG
    );
    let ro = Fs::new(v.clone(), 2, true, ME);
    assert_eq!(no(ro.unlink(ROOT_INO, b"f")), libc::EROFS);
    v.stop().unwrap();
}

#[test]
fn who_went_on_apart_is_sent_what_is_new_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (
        volume(&dir.path().join("a"), 1),
        volume(&dir.path().join("b"), 2),
    );
    for n in 0..40 {
        put(&fs(&a), &format!("f{n}"), "text");
        a.flush_all().unwrap();
    }
    sync(&a, &b);
    let heads = |v: &Volume| -> Vec<Oid> { v.view().heads.iter().map(|h| h.id).collect() };
    let both = heads(&a);
    for n in 0..5 {
        put(&fs(&a), "f1", &format!("text of a {n}"));
        put(&fs(&b), "f2", &format!("text of b {n}"));
        a.flush_all().unwrap();
        b.flush_all().unwrap();
    }
    let sent = |known: &Known| {
        let mut out = Vec::new();
        exchange::give(&**a.repo(), a.cache(), &heads(&a), known, &mut out).unwrap()
    };
    let known = Known::new(heads(&b), b.view().seen());
    let new = closure::missing(&**a.repo(), &heads(&a), &both).unwrap();
    assert_eq!(sent(&known), u32::try_from(new.len()).unwrap());
    // All of it, if nothing is known of what both have.
    assert!(sent(&known.without_seen().unwrap()) > 4 * sent(&known));
    pull(&a, &b);
    assert_eq!(get(&fs(&b), "f1"), "text of a 4");
    fsck(&b);
}
