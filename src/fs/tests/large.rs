//! Files whose bytes are chunks: with a low threshold, so that all of it happens with little.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::anything::Rng;
use super::*;
use crate::chunk::pointer::parse_pointer;
use crate::record::git_tree;
use crate::store::objects::{ObjectKind, Objects};
use crate::volume::error::VolumeError;
use crate::volume::inode::Data;
use crate::volume::large::{Lacking, Supply};

/// Files above this are cut.
pub(super) const CUT: u64 = 100_000;
pub(super) const LEN: usize = 3 << 20;

pub(super) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = Rng(seed);
    let mut out = Vec::with_capacity(len);
    while out.len() < len {
        out.extend((rng.below(usize::MAX) as u64).to_le_bytes());
    }
    out.truncate(len);
    out
}

pub(super) fn put_bytes(f: &Fs, name: &str, bytes: &[u8]) -> Ino {
    let ino = match f.lookup(ROOT_INO, name.as_bytes()).unwrap() {
        Some(s) => {
            f.open(s.ino, true, true).unwrap();
            s.ino
        }
        None => {
            let made = f.create(ROOT_INO, name.as_bytes(), 0o644, ME, true);
            made.unwrap().ino
        }
    };
    for (n, part) in bytes.chunks(1 << 20).enumerate() {
        f.write(ino, (n << 20) as u64, part).unwrap();
    }
    f.release(ino, true);
    ino
}

pub(super) fn bytes(f: &Fs, name: &str) -> Vec<u8> {
    f.read(walk(f, name), 0, u32::MAX).unwrap()
}

pub(super) fn kind(v: &Arc<Volume>, name: &str) -> Kind {
    let ino = walk(&fs(v), name);
    let live = v.lock();
    live.inodes.get(&ino).unwrap().shown.kind
}

/// What git has at a name.
fn in_git(v: &Volume, name: &str) -> Vec<u8> {
    let tree = v.view().tree;
    let all = git_tree::read(&*v.view().stage, &tree).unwrap();
    let e = all.iter().find(|e| e.name == name.as_bytes()).unwrap();
    let blob = v.view().stage.get(&e.id, ObjectKind::Blob).unwrap();
    blob.as_ref().clone()
}

pub(super) fn head(v: &Arc<Volume>, name: &str) -> Oid {
    let ino = walk(&fs(v), name);
    v.lock().inodes.get(&ino).unwrap().shown.blob
}

pub(super) fn is_contained(v: &Volume, ino: Ino) -> bool {
    let live = v.lock();
    let i = live.inodes.get(&ino);
    i.is_none_or(|i| matches!(i.data, Data::Blob { chunked: true, .. }))
}

pub(super) fn soon(what: &str, mut is: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is() {
        assert!(begin.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn give(from: &Volume, to: &Volume, head: &Oid, range: &Range<u64>) -> usize {
    let (there, here) = (from.chunks().unwrap(), to.chunks().unwrap());
    let mut n = 0;
    for p in to.lacks(head, usize::MAX).unwrap() {
        if p.at < range.end && range.start < p.end() {
            let bytes = there.read(&p.piece.id).unwrap().unwrap();
            here.put(&p.piece.id, &bytes).unwrap();
            n += 1;
        }
    }
    n
}

/// Another node, as if its connections were calls.
struct Line {
    from: Arc<Volume>,
    to: std::sync::Weak<Volume>,
    pieces: Arc<AtomicUsize>,
}

impl Supply for Line {
    fn fetch(&self, head: Oid, range: Range<u64>, _: Instant) -> Result<(), Lacking> {
        let to = self.to.upgrade().unwrap();
        let n = give(&self.from, &to, &head, &range);
        self.pieces.fetch_add(n, Ordering::Relaxed);
        Ok(())
    }
}

/// `to` is given what it lacks by `from`; how many pieces were.
pub(super) fn line(from: &Arc<Volume>, to: &Arc<Volume>) -> Arc<AtomicUsize> {
    let pieces = Arc::new(AtomicUsize::new(0));
    to.set_supply(Arc::new(Line {
        from: from.clone(),
        to: Arc::downgrade(to),
        pieces: pieces.clone(),
    }));
    pieces
}

#[test]
fn a_large_file_is_in_the_store_once_and_a_pointer_in_git() {
    ABOVE.set(CUT);
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("v");
    let v = volume(&home, 1);
    let f = fs(&v);
    let content = noise(1, LEN);
    let ino = put_bytes(&f, "big", &content);
    put(&f, "small", "text");
    v.flush_all().unwrap();
    assert_eq!(
        (kind(&v, "big"), kind(&v, "small")),
        (Kind::Large, Kind::File)
    );
    let (_, len) = parse_pointer(&in_git(&v, "big")).unwrap();
    assert_eq!(len, LEN as u64);
    assert_eq!(f.getattr(ino).unwrap().size, LEN as u64);
    let s = v.chunks().unwrap().stats();
    assert_eq!((s.containers, s.live_bytes), (1, 0), "{s:?}");
    assert!(bytes(&f, "big") == content);
    fsck(&v);
    soon("no overlay file", || {
        std::fs::read_dir(home.join("overlay")).unwrap().count() == 0
    });
    assert!(bytes(&f, "big") == content);
    assert_eq!(v.chunks().unwrap().stats(), s);
    v.stop().unwrap();
    drop(f);
    let v = volume(&home, 1);
    assert!(bytes(&fs(&v), "big") == content);
    assert_eq!(f_read(&v, "big", LEN as u64 - 3, 100), content[LEN - 3..]);
    v.stop().unwrap();
}

fn f_read(v: &Arc<Volume>, name: &str, at: u64, len: u32) -> Vec<u8> {
    let f = fs(v);
    f.read(walk(&f, name), at, len).unwrap()
}

#[test]
fn a_file_that_was_committed_while_it_grew_is_on_the_disk_once_when_it_is_closed() {
    ABOVE.set(CUT);
    let dir = tempfile::tempdir().unwrap();
    let v = volume(dir.path(), 1);
    let f = fs(&v);
    let content = noise(22, LEN);
    let made = f.create(ROOT_INO, b"log", 0o644, ME, true);
    let ino = made.unwrap().ino;
    for (n, part) in content.chunks(LEN / 3).enumerate() {
        f.write(ino, (n * (LEN / 3)) as u64, part).unwrap();
        v.flush_all().unwrap();
    }
    let before = v.chunks().unwrap().stats();
    assert!(before.live_bytes >= LEN as u64, "{before:?}");
    // The last line is in no commit when it is closed.
    let content = [&content[..], b"the end"].concat();
    f.write(ino, LEN as u64, b"the end").unwrap();
    f.release(ino, true);
    v.flush_all().unwrap();
    soon("one on the disk", || {
        let s = v.chunks().unwrap().stats();
        s.containers == 1 && s.live_bytes + s.dead_bytes < LEN as u64 / 2
    });
    assert!(bytes(&f, "log") == content);
    v.stop().unwrap();
}

#[test]
fn a_change_of_a_large_file_costs_what_changed_and_the_old_one_stays() {
    ABOVE.set(CUT);
    let dir = tempfile::tempdir().unwrap();
    let v = volume(dir.path(), 1);
    let f = fs(&v);
    let mut content = noise(2, LEN);
    let ino = put_bytes(&f, "big", &content);
    v.flush_all().unwrap();
    let old = head(&v, "big");
    soon("a container", || is_contained(&v, ino));
    for n in 0..4_usize {
        let at = (n + 1) * 500_000;
        f.open(ino, true, false).unwrap();
        f.write(ino, at as u64, b"changed").unwrap();
        f.release(ino, true);
        content[at..at + 7].copy_from_slice(b"changed");
        v.flush_all().unwrap();
        assert!(bytes(&f, "big") == content, "{n}");
        assert_ne!(head(&v, "big"), old);
    }
    let s = v.chunks().unwrap().stats();
    assert!(s.live_bytes < 5 << 20, "{s:?}");
    assert!(f_copy(&v, &old) == noise(2, LEN), "the old version");
    soon("the new one is a container", || is_contained(&v, ino));
    assert!(bytes(&f, "big") == content);
    assert!(f_copy(&v, &old) == noise(2, LEN), "the old version");
    // Cut short it is a plain file, and grown again a large one.
    let set = SetAttr {
        size: Some(1000),
        ..SetAttr::default()
    };
    f.setattr(ino, set).unwrap();
    v.flush_all().unwrap();
    assert_eq!(
        (kind(&v, "big"), bytes(&f, "big")),
        (Kind::File, content[..1000].to_vec())
    );
    assert_eq!(in_git(&v, "big"), content[..1000]);
    put_bytes(&f, "big", &content);
    v.flush_all().unwrap();
    assert_eq!(kind(&v, "big"), Kind::Large);
    assert!(bytes(&f, "big") == content);
    fsck(&v);
    v.stop().unwrap();
}

fn f_copy(v: &Volume, head: &Oid) -> Vec<u8> {
    let mut to = tempfile::NamedTempFile::new().unwrap();
    v.copy_large(head, to.as_file()).unwrap();
    let mut out = Vec::new();
    std::io::Read::read_to_end(to.as_file_mut(), &mut out).unwrap();
    out
}

#[test]
fn what_others_wrote_is_read_when_its_bytes_come() {
    ABOVE.set(CUT);
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (
        volume(&dir.path().join("a"), 1),
        volume(&dir.path().join("b"), 2),
    );
    let (fa, fb) = (fs(&a), fs(&b));
    let content = noise(3, LEN);
    put_bytes(&fa, "big", &content);
    put_bytes(&fa, "cut", &noise(4, LEN));
    a.flush_all().unwrap();
    pull_records(&a, &b);
    assert_eq!(wanted(&b).len(), 2);
    assert!(b.meet().unwrap().met.is_empty(), "told twice");
    let ino = walk(&fb, "big");
    assert_eq!(fb.getattr(ino).unwrap().size, LEN as u64);
    assert_eq!(in_git(&a, "big"), in_git(&b, "big"));
    // Nobody brings it.
    let lacks = fb.read(ino, 0, 10);
    assert!(
        matches!(lacks, Err(VolumeError::Unsupplied(_))),
        "{lacks:?}"
    );
    let pieces = line(&a, &b);
    // To cut a file takes nothing of it.
    put_bytes(&fb, "cut", b"short");
    assert_eq!(pieces.load(Ordering::Relaxed), 0);
    let (at, offset) = (1_500_000, 1_500_000);
    assert!(fb.may_wait(ino));
    assert_eq!(fb.read(ino, offset, 100).unwrap(), content[at..][..100]);
    assert!((1..=2).contains(&pieces.load(Ordering::Relaxed)));
    // To write to it takes all.
    fb.open(ino, true, false).unwrap();
    fb.write(ino, offset, b"of b").unwrap();
    fb.release(ino, true);
    let mut changed = content;
    changed[at..][..4].copy_from_slice(b"of b");
    assert!(bytes(&fb, "big") == changed);
    line(&b, &a);
    sync(&a, &b);
    assert!(bytes(&fa, "big") == changed);
    // Both change it: neither is lost, and nobody merges them.
    for (f, text) in [(&fa, b"of a"), (&fb, b"of B")] {
        let ino = walk(f, "big");
        f.open(ino, true, false).unwrap();
        f.write(ino, 7, text).unwrap();
        f.release(ino, true);
    }
    sync(&a, &b);
    let all = manifest(&fa);
    assert_eq!(all.keys().filter(|k| k.contains(".conflict-")).count(), 1);
    assert!(all == manifest(&fb));
    for v in [&a, &b] {
        fsck(v);
        v.stop().unwrap();
    }
}

#[test]
fn a_large_file_survives_a_crash_before_and_after_its_commit() {
    ABOVE.set(CUT);
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("v");
    let content = noise(5, LEN);
    let mut v = volume(&home, 1);
    // Before.
    let (f, c) = (fs(&v), content.clone());
    v = crash_after(&v, &home, 1, move || {
        let ino = put_bytes(&f, "big", &c);
        f.fsync(ino).unwrap();
    });
    assert!(bytes(&fs(&v), "big") == content);
    assert_eq!(kind(&v, "big"), Kind::Large);
    // After.
    let f = fs(&v);
    put_bytes(&f, "more", &content);
    put_bytes(&f, "other", &noise(6, LEN));
    drop(f);
    v.commit_now().unwrap();
    v = crash(&v, &home, 1);
    assert!(bytes(&fs(&v), "more") == content);
    assert!(bytes(&fs(&v), "other") == noise(6, LEN));
    // A change of a container, with and without a commit after it.
    let f = fs(&v);
    v = crash_after(&v, &home, 1, move || {
        let ino = walk(&f, "more");
        f.open(ino, true, false).unwrap();
        f.write(ino, 0, b"more").unwrap();
        f.fsync(ino).unwrap();
    });
    let mut more = content.clone();
    more[..4].copy_from_slice(b"more");
    assert!(bytes(&fs(&v), "more") == more);
    assert!(bytes(&fs(&v), "big") == content);
    // A save over it by a new name that was committed, and a write after that.
    let f = fs(&v);
    put_bytes(&f, "tmp", &noise(7, LEN));
    v.flush_all().unwrap();
    v = crash_after(&v, &home, 1, move || {
        let ino = walk(&f, "tmp");
        let (from, to) = ((ROOT_INO, &b"tmp"[..]), (ROOT_INO, &b"big"[..]));
        f.rename(from, to, RenameMode::Replace).unwrap();
        f.open(ino, true, false).unwrap();
        f.write(ino, 9, b"saved").unwrap();
        f.fsync(ino).unwrap();
    });
    let mut saved = noise(7, LEN);
    saved[9..14].copy_from_slice(b"saved");
    assert!(bytes(&fs(&v), "big") == saved);
    // The same without the write.
    let f = fs(&v);
    put_bytes(&f, "tmp", &noise(8, LEN));
    v.flush_all().unwrap();
    v = crash_after(&v, &home, 1, move || {
        let (from, to) = ((ROOT_INO, &b"tmp"[..]), (ROOT_INO, &b"big"[..]));
        f.rename(from, to, RenameMode::Replace).unwrap();
        f.fsync(walk(&f, "big")).unwrap();
    });
    assert!(bytes(&fs(&v), "big") == noise(8, LEN));
    assert_eq!(kind(&v, "big"), Kind::Large);
    fsck(&v);
    v.stop().unwrap();
}

/// Bytes that the process has had in memory at most.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

#[test]
fn a_file_of_3_gib_takes_no_memory() {
    const CHILD: &str = "CELLFS_TEST_3_GIB";
    const NAME: &str = "fs::tests::large::a_file_of_3_gib_takes_no_memory";
    const LEN: u64 = 3 << 30;
    if std::env::var_os(CHILD).is_none() {
        // Other tests' memory does not count.
        let mut child = Command::new(std::env::current_exe().unwrap());
        let out = child.args(["--exact", NAME]).env(CHILD, "1").output();
        let out = out.unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success() && text.contains("1 passed"), "{text}");
        return;
    }
    ABOVE.set(4 << 20);
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("v");
    let v = volume(&home, 1);
    let f = fs(&v);
    let before = peak();
    let made = f.create(ROOT_INO, b"big", 0o644, ME, true);
    let ino = made.unwrap().ino;
    let set = SetAttr {
        size: Some(LEN),
        ..SetAttr::default()
    };
    f.setattr(ino, set).unwrap();
    let part = |n: u64| (n * 150_000_000, noise(n, 1 << 20));
    for (at, part) in (0..20).map(part) {
        f.write(ino, at, &part).unwrap();
    }
    f.release(ino, true);
    v.flush_all().unwrap();
    assert_eq!(kind(&v, "big"), Kind::Large);
    for (at, part) in (0..20).map(part) {
        assert!(f_read(&v, "big", at, 1 << 20) == part, "at {at}");
    }
    assert_eq!(f_read(&v, "big", LEN - 5, 100), [0; 5]);
    // Another version, by a copy, and a crash before its commit.
    let v = crash_after(&v, &home, 1, move || {
        f.open(ino, true, false).unwrap();
        f.write(ino, LEN - 3, b"end").unwrap();
        f.fsync(ino).unwrap();
    });
    assert_eq!(f_read(&v, "big", LEN - 5, 100), b"\0\0end");
    v.stop().unwrap();
    let used = peak() - before;
    assert!(used < 64 << 20, "{} MiB", used >> 20);
}

#[test]
fn a_copy_of_a_large_file_copies_nothing() {
    ABOVE.set(CUT);
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("v");
    let v = volume(&home, 1);
    let f = fs(&v);
    let mut content = noise(9, LEN);
    let from = put_bytes(&f, "big", &content);
    v.flush_all().unwrap();
    let before = v.chunks().unwrap().stats();
    let copy = move |f: &Fs, from, name: &str| {
        let made = f.create(ROOT_INO, name.as_bytes(), 0o644, ME, true);
        let to = made.unwrap().ino;
        let n = f.copy_range((from, 0, 0), (to, 0), 1 << 40).unwrap();
        assert_eq!(n as usize, LEN);
        let end = LEN as u64;
        assert_eq!(f.copy_range((from, 0, end), (to, end), 1).unwrap(), 0);
        f.release(to, true);
    };
    copy(&f, from, "copy");
    assert!(bytes(&f, "copy") == content);
    v.flush_all().unwrap();
    assert_eq!(head(&v, "copy"), head(&v, "big"));
    assert_eq!(v.chunks().unwrap().stats(), before);
    // What is written to it is its own.
    let to = walk(&f, "copy");
    f.open(to, true, false).unwrap();
    f.write(to, 100, b"copy").unwrap();
    f.release(to, true);
    assert!(bytes(&f, "big") == content);
    let v = crash_after(&v, &home, 1, move || copy(&f, from, "another"));
    let f = fs(&v);
    assert!(bytes(&f, "another") == content && bytes(&f, "big") == content);
    content[100..104].copy_from_slice(b"copy");
    assert!(bytes(&f, "copy") == content);
    assert_eq!(kind(&v, "another"), Kind::Large);
    fsck(&v);
    v.stop().unwrap();
}

/// Runs git in a volume's repository; what it says, without the end of the line.
fn git(v: &Volume, args: &[&str], stdin: &[u8]) -> String {
    let mut child = Command::new("git")
        .args(args)
        .current_dir(v.repo().path())
        .envs(["GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"].map(|k| (k, "somebody")))
        .envs(["GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"].map(|k| (k, "s@example.org")))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), stdin).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{args:?}");
    String::from_utf8(out.stdout).unwrap().trim_end().to_owned()
}

/// As a client pushes one more commit, in which a name has these bytes.
fn push(v: &Volume, name: &str, content: &[u8]) {
    let old = v.hand_out().unwrap().map(|id| id.to_string());
    let blob = git(v, &["hash-object", "-w", "--stdin"], content);
    let mut tree = String::new();
    if let Some(old) = &old {
        let all = git(v, &["ls-tree", old], b"");
        let others = all.lines().filter(|l| !l.ends_with(&format!("\t{name}")));
        tree.extend(others.map(|l| format!("{l}\n")));
    }
    tree += &format!("100644 blob {blob}\t{name}\n");
    let tree = git(v, &["mktree"], tree.as_bytes());
    let mut args = vec!["commit-tree", "-m", "by git", &tree];
    if let Some(old) = &old {
        args.extend(["-p", old]);
    }
    let new = git(v, &args, b"");
    let oid = |hex: &str| Oid::from_hex(hex.as_bytes()).unwrap();
    let update = crate::volume::RefUpdate {
        name: "refs/heads/main".to_owned(),
        old: old.as_deref().map(oid),
        new: Some(oid(&new)),
    };
    assert_eq!(v.push(vec![update], false).unwrap(), [Ok(())]);
}

#[test]
fn a_pointer_that_is_pushed_becomes_the_file_if_that_is_here() {
    ABOVE.set(CUT);
    let dir = tempfile::tempdir().unwrap();
    let v = volume(&dir.path().join("v"), 1);
    let f = fs(&v);
    let content = noise(10, LEN);
    put(&f, "small", "text");
    v.flush_all().unwrap();
    // As the door of git-lfs does with what is uploaded.
    let path = dir.path().join("uploaded");
    std::fs::write(&path, &content).unwrap();
    let survey = crate::chunk::cut::survey(&std::fs::File::open(&path).unwrap()).unwrap();
    v.chunks().unwrap().adopt(&path, &survey, true).unwrap();
    let text = |sha256| {
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {LEN}\n")
    };
    let pointer = text(survey.sha256);
    push(&v, "big", pointer.as_bytes());
    push(&v, "else", text(crate::chunk::Sha256([7; 32])).as_bytes());
    v.flush_all().unwrap();
    assert_eq!(kind(&v, "big"), Kind::Large);
    assert!(bytes(&f, "big") == content);
    assert_eq!(in_git(&v, "big"), pointer.as_bytes());
    assert_eq!(kind(&v, "else"), Kind::File);
    // A commit on top that changes something else leaves it what it is.
    push(&v, "small", b"by git");
    assert_eq!(kind(&v, "big"), Kind::Large);
    assert_eq!(get(&f, "small"), "by git");
    assert!(bytes(&f, "big") == content);
    // With another content by git it is a plain file.
    push(&v, "big", b"plain");
    assert_eq!(kind(&v, "big"), Kind::File);
    assert_eq!(get(&f, "big"), "plain");
    fsck(&v);
    v.stop().unwrap();
}
