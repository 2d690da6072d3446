//! Files that programs read and write past the node: by their overlay files, as the kernel hands
//! them over.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

use super::anything::{Rng, number};
use super::failing::Broken;
use super::*;
use crate::fs::{Access, Opened};
use crate::volume::inode::Data;

const LINES: usize = 6_000;

/// Large enough for an overlay file.
fn text() -> String {
    (0..LINES).map(|n| line(n, "as it was")).collect()
}

/// A line of a fixed length.
fn line(n: usize, what: &str) -> String {
    format!("{n:05} {what:>25}\n")
}

const LINE: u64 = 32;

/// What a program has: a descriptor, or a mapping that outlived one.
struct Program {
    ino: Ino,
    file: File,
    write: bool,
}

/// As the kernel opens a file by itself.
fn open(f: &Fs, ino: Ino, write: bool) -> Option<Program> {
    let access = Access {
        write,
        keeps: true,
        direct: true,
    };
    match f.open_as(ino, access).unwrap() {
        Opened::Direct(s) => {
            let file = match write {
                true => OpenOptions::new().read(true).write(true).open(s.path()),
                false => s.file().try_clone(),
            };
            Some(Program {
                ino,
                file: file.unwrap(),
                write,
            })
        }
        _ => {
            f.release(ino, write);
            None
        }
    }
}

impl Program {
    fn put(&self, n: usize, what: &str) {
        let at = n as u64 * LINE;
        self.file
            .write_all_at(line(n, what).as_bytes(), at)
            .unwrap();
    }

    /// The descriptor is closed; a mapping stays.
    fn close(self, f: &Fs) -> File {
        f.release(self.ino, self.write);
        self.file
    }
}

fn start() -> (tempfile::TempDir, std::path::PathBuf, Arc<Volume>) {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("v");
    let v = volume(&home, 1);
    put(&fs(&v), "text", &text());
    v.flush_all().unwrap();
    (dir, home, v)
}

fn has(f: &Fs, path: &str, n: usize, what: &str) -> bool {
    let ino = walk(f, path);
    f.read(ino, n as u64 * LINE, 32).unwrap() == line(n, what).as_bytes()
}

fn soon(what: &str, mut is: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is() {
        assert!(begin.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn is_let_go(v: &Volume, ino: Ino) -> bool {
    let live = v.lock();
    let i = live.inodes.get(&ino);
    i.is_none_or(|i| i.direct.is_none() && matches!(i.data, Data::Blob { .. }))
}

#[test]
fn what_a_program_writes_by_itself_is_seen_and_committed() {
    let (_dir, _, v) = start();
    let f = fs(&v);
    let ino = walk(&f, "text");
    let before = f.getattr(ino).unwrap();
    let p = open(&f, ino, true).unwrap();
    std::thread::sleep(Duration::from_millis(5));
    p.put(7, "by itself");
    p.file.write_all_at(b"more\n", LINES as u64 * LINE).unwrap();
    let now = f.getattr(ino).unwrap();
    assert_eq!(now.size, before.size + 5);
    assert!(now.attr.mtime > before.attr.mtime);
    assert!(has(&f, "text", 7, "by itself"));
    // Nobody closes it: it is committed after a while all the same.
    let head = v.view().heads;
    soon("a commit", || v.view().heads != head && v.dirty() == 0);
    p.put(8, "closed");
    drop(p.close(&f));
    soon("it is let go", || is_let_go(&v, ino));
    assert_eq!(v.dirty(), 0);
    assert!(has(&f, "text", 8, "closed"));
    // What nobody writes to makes no commit.
    let head = v.view().heads;
    let p = open(&f, ino, true).unwrap();
    drop(p.close(&f));
    soon("it is let go again", || is_let_go(&v, ino));
    assert_eq!(v.view().heads, head);
    fsck(&v);
    v.stop().unwrap();
}

#[test]
fn what_a_program_writes_by_itself_survives_a_crash_wherever_it_falls() {
    for (committed, closed, again) in [
        (false, false, false),
        (false, true, false),
        (true, false, true),
        (true, true, true),
        (true, false, false),
        (true, true, false),
    ] {
        let (_dir, home, v) = start();
        let f = fs(&v);
        let ino = walk(&f, "text");
        let p = open(&f, ino, true).unwrap();
        p.put(1, "first");
        if committed {
            f.fsync(ino).unwrap();
            v.commit_now().unwrap();
        }
        if !committed || again {
            p.put(2, "second");
        }
        let commits = v.view().heads[0].stamp.seq;
        // A mapping may be written to when its descriptor is closed.
        let mapped = match closed {
            true => Some(p.close(&f)),
            false => {
                std::mem::forget(p);
                None
            }
        };
        let v = crash_after(&v, &home, 1, move || {
            if let Some(m) = mapped {
                m.write_all_at(line(3, "mapped").as_bytes(), 3 * LINE)
                    .unwrap();
                std::mem::forget(m);
            }
        });
        let f = fs(&v);
        let about = format!("committed {committed}, closed {closed}, again {again}");
        assert!(has(&f, "text", 1, "first"), "{about}");
        assert_eq!(has(&f, "text", 2, "second"), !committed || again, "{about}");
        assert_eq!(has(&f, "text", 3, "mapped"), closed, "{about}");
        // One version, and no commit for what is in one already.
        assert_eq!(f.list(ROOT_INO).unwrap().len(), 1, "{about}");
        if committed && !again && !closed {
            assert_eq!(v.view().heads[0].stamp.seq, commits, "{about}");
        }
        // Another crash finds nothing of the first.
        let v = crash(&v, &home, 1);
        let f = fs(&v);
        assert!(has(&f, "text", 1, "first"), "{about}");
        assert_eq!(f.list(ROOT_INO).unwrap().len(), 1, "{about}");
        v.stop().unwrap();
    }
}

#[test]
fn two_versions_of_a_file_that_programs_wrote_survive_a_crash() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let home = dirs[0].path().join("v");
    let (a, b) = (volume(&home, 1), volume(dirs[1].path(), 2));
    let (fa, fb) = (fs(&a), fs(&b));
    put(&fa, "text", &text());
    sync(&a, &b);
    let old = open(&fa, walk(&fa, "text"), true).unwrap();
    let edited = text().replace(&line(100, "as it was"), &line(100, "there"));
    put(&fb, "text", &edited);
    sync(&a, &b);
    let new = open(&fa, walk(&fa, "text"), true).unwrap();
    assert_ne!(old.ino, new.ino);
    let a = crash_after(&a, &home, 1, move || {
        old.put(10, "old");
        new.put(20, "new");
        std::mem::forget((old, new));
    });
    let fa = fs(&a);
    assert_eq!(fa.list(ROOT_INO).unwrap().len(), 1);
    for (n, what) in [(10, "old"), (20, "new"), (100, "there")] {
        assert!(has(&fa, "text", n, what), "{what}");
    }
    fsck(&a);
    a.stop().unwrap();
    b.stop().unwrap();
}

#[test]
fn a_mapping_that_outlives_its_descriptor_is_watched_until_it_goes() {
    let (_dir, _, v) = start();
    let f = fs(&v);
    let ino = walk(&f, "text");
    let mapped = open(&f, ino, true).unwrap().close(&f);
    f.forget(ino, u64::MAX);
    std::thread::sleep(Duration::from_millis(700));
    mapped
        .write_all_at(line(9, "later").as_bytes(), 9 * LINE)
        .unwrap();
    let head = v.view().heads;
    soon("a commit", || v.view().heads != head);
    assert!(has(&f, "text", 9, "later"));
    assert!(!is_let_go(&v, ino));
    drop(mapped);
    soon("it is let go", || is_let_go(&v, ino));
    v.stop().unwrap();
}

#[test]
fn who_only_reads_costs_the_journal_nothing_and_a_writer_may_join_him() {
    let (_dir, _, v) = start();
    let f = fs(&v);
    let ino = walk(&f, "text");
    let big = "x".repeat(2 << 20);
    put(&f, "big", &big);
    v.flush_all().unwrap();
    let big = walk(&f, "big");
    soon("it is in the repository", || {
        is_let_go(&v, big) && is_let_go(&v, ino)
    });
    let last = v.journal().last();
    let reader = open(&f, big, false).unwrap();
    let other = open(&f, big, false).unwrap();
    assert_eq!(v.journal().last(), last);
    drop(other.close(&f));
    let writer = open(&f, big, true).unwrap();
    assert!(v.journal().last() > last);
    writer.file.write_all_at(b"written", 5).unwrap();
    let mut seen = [0; 7];
    reader.file.read_exact_at(&mut seen, 5).unwrap();
    assert_eq!(&seen, b"written");
    // Small ones are as fast from the kernel's own cache, and new ones are not known to be large.
    put(&f, "small", "small");
    v.flush_all().unwrap();
    assert!(open(&f, walk(&f, "small"), true).is_none());
    drop(writer.close(&f));
    drop(reader.close(&f));
    soon("it is let go", || is_let_go(&v, big));
    v.stop().unwrap();
}

#[test]
fn a_file_that_is_removed_while_a_program_has_it_does_not_come_back() {
    for committed in [false, true] {
        let (_dir, home, v) = start();
        let f = fs(&v);
        let ino = walk(&f, "text");
        let p = open(&f, ino, true).unwrap();
        p.put(1, "first");
        f.unlink(ROOT_INO, b"text").unwrap();
        p.put(2, "after");
        if committed {
            v.flush_all().unwrap();
        }
        p.put(3, "later");
        let v = crash(&v, &home, 1);
        assert!(fs(&v).list(ROOT_INO).unwrap().is_empty(), "{committed}");
        v.stop().unwrap();
    }
}

#[test]
fn what_a_program_wrote_to_a_file_that_was_saved_over_does_not_come_back() {
    for closed in [false, true] {
        let (_dir, home, v) = start();
        let f = fs(&v);
        let p = open(&f, walk(&f, "text"), true).unwrap();
        p.put(1, "first");
        v.flush_all().unwrap();
        p.put(2, "second");
        match closed {
            true => drop(p.close(&f)),
            false => std::mem::forget(p),
        }
        let v = crash_after(&v, &home, 1, move || {
            put(&f, "tmp", "new");
            let (from, to) = ((ROOT_INO, &b"tmp"[..]), (ROOT_INO, &b"text"[..]));
            f.rename(from, to, RenameMode::Replace).unwrap();
        });
        let f = fs(&v);
        let names: Vec<String> = (f.list(ROOT_INO).unwrap().iter())
            .map(|e| e.name.to_string())
            .collect();
        assert_eq!(
            (names, get(&f, "text")),
            (vec!["text".into()], "new".into())
        );
        v.stop().unwrap();
    }
}

#[test]
fn what_a_commit_had_that_did_not_come_to_be_ends_what_it_was_to_replace() {
    for (saved, wrote_on) in [(true, false), (true, true), (false, false), (false, true)] {
        let (_dir, home, v) = start();
        let f = fs(&v);
        let p = open(&f, walk(&f, "text"), true).unwrap();
        p.put(1, "first");
        v.flush_all().unwrap();
        let mut rng = Rng(7);
        let noise: Vec<u8> = (0..150_000)
            .map(|_| u8::try_from(rng.below(256)).unwrap())
            .collect();
        p.file.write_all_at(&noise, 1_000).unwrap();
        let broken = Broken::disk(&v);
        v.flush_all().unwrap_err();
        if wrote_on {
            p.put(3, "third");
        }
        std::mem::forget(p);
        let v = crash_after(&v, &home, 1, move || {
            if saved {
                put(&f, "tmp", "new");
                let (from, to) = ((ROOT_INO, &b"tmp"[..]), (ROOT_INO, &b"text"[..]));
                f.rename(from, to, RenameMode::Replace).unwrap();
            } else {
                f.unlink(ROOT_INO, b"text").unwrap();
            }
            drop(broken);
        });
        let names: Vec<_> = manifest(&fs(&v)).into_keys().collect();
        let wanted: &[&str] = if saved { &["/text"] } else { &[] };
        assert_eq!(names, wanted, "saved {saved}, wrote on {wrote_on}");
        v.stop().unwrap();
    }
}

#[test]
fn a_file_that_a_program_has_is_cut_renamed_and_saved_over() {
    let (_dir, home, v) = start();
    let f = fs(&v);
    let ino = walk(&f, "text");
    let p = open(&f, ino, true).unwrap();
    p.put(1, "first");
    let cut = SetAttr {
        size: Some(10 * LINE),
        ..SetAttr::default()
    };
    assert_eq!(f.setattr(ino, cut).unwrap().size, 10 * LINE);
    f.allocate(ino, crate::fs::Allocate::Punch, 2 * LINE, LINE)
        .unwrap();
    p.put(3, "third");
    put(&f, "other", "other\n");
    v.flush_all().unwrap();
    let (from, to) = ((ROOT_INO, &b"text"[..]), (ROOT_INO, &b"other"[..]));
    f.rename(from, to, RenameMode::Replace).unwrap();
    p.put(4, "fourth");
    drop(p.close(&f));
    v.flush_all().unwrap();
    let v = crash(&v, &home, 1);
    let f = fs(&v);
    let names: Vec<String> = (f.list(ROOT_INO).unwrap().iter())
        .map(|e| e.name.to_string())
        .collect();
    assert_eq!(names, ["other"]);
    assert_eq!(f.getattr(walk(&f, "other")).unwrap().size, 10 * LINE);
    for (n, what) in [(1, "first"), (3, "third"), (4, "fourth")] {
        assert!(has(&f, "other", n, what), "{what}");
    }
    let zeros = f.read(walk(&f, "other"), 2 * LINE, 32).unwrap();
    assert!(zeros.iter().all(|b| *b == 0));
    v.stop().unwrap();
}

#[test]
fn a_version_from_elsewhere_merges_with_what_a_program_writes_on() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (a, b) = (volume(dirs[0].path(), 1), volume(dirs[1].path(), 2));
    let (fa, fb) = (fs(&a), fs(&b));
    put(&fa, "text", &text());
    sync(&a, &b);
    let held = walk(&fa, "text");
    let p = open(&fa, held, true).unwrap();
    p.put(10, "before");
    put(
        &fb,
        "text",
        &text().replace(&line(100, "as it was"), &line(100, "there")),
    );
    sync(&a, &b);
    // The program goes on with the version that it has.
    let mut seen = [0; 32];
    p.file.read_exact_at(&mut seen, 100 * LINE).unwrap();
    assert_eq!(seen, line(100, "as it was").as_bytes());
    p.put(20, "after");
    // And so does another one, at the name.
    let now = open(&fa, walk(&fa, "text"), true).unwrap();
    now.put(30, "at the name");
    p.put(40, "at once");
    drop(now.close(&fa));
    drop(p.close(&fa));
    soon("all is committed", || {
        a.flush_all().unwrap();
        a.dirty() == 0 && a.lock().directs.is_empty()
    });
    sync(&a, &b);
    for f in [&fa, &fb] {
        assert_eq!(f.list(ROOT_INO).unwrap().len(), 1);
        for (n, what) in [
            (10, "before"),
            (20, "after"),
            (30, "at the name"),
            (40, "at once"),
            (100, "there"),
        ] {
            assert!(has(f, "text", n, what), "{what}");
        }
    }
    a.stop().unwrap();
    b.stop().unwrap();
}

#[test]
fn a_file_is_known_to_the_journal_when_its_segments_go() {
    let (_dir, home, v) = start();
    let f = fs(&v);
    let ino = walk(&f, "text");
    let p = open(&f, ino, true).unwrap();
    let filler = "x".repeat(100 << 10);
    let names = || -> Vec<_> {
        let all = std::fs::read_dir(home.join("journal")).unwrap();
        all.map(|e| e.unwrap().file_name()).collect()
    };
    let first = names();
    let mut n = 0;
    while names().iter().any(|name| first.contains(name)) {
        put(&f, "filler", &format!("{n}{filler}"));
        if n % 50 == 0 {
            v.flush_all().unwrap();
        }
        n += 1;
        assert!(n < 5_000, "segments stay");
    }
    p.put(5, "still known");
    let v = crash(&v, &home, 1);
    assert!(has(&fs(&v), "text", 5, "still known"));
    v.stop().unwrap();
}

/// Programs on two nodes write lines of one file, each line once, by descriptors and mappings that
/// stay open for a while, among commits, versions from elsewhere and crashes of one node.
#[test]
fn no_line_that_programs_write_by_themselves_is_lost() {
    let first = number("CELLFS_SEED", 0);
    for seed in first..first + number("CELLFS_HISTORIES", 6) {
        eprintln!("seed {seed}");
        history(seed);
    }
}

/// The same of a file whose bytes are chunks: nobody merges its versions, so what is not in one is
/// in another beside it.
#[test]
fn no_line_that_programs_write_to_a_large_file_is_lost() {
    ABOVE.set(100_000);
    let first = number("CELLFS_SEED", 0);
    for seed in first..first + number("CELLFS_HISTORIES", 6) {
        eprintln!("seed {seed}");
        history(seed);
    }
}

fn history(seed: u64) {
    let mut rng = Rng(seed);
    let root = tempfile::tempdir().unwrap();
    let homes = [root.path().join("a"), root.path().join("b")];
    let mut nodes = [volume(&homes[0], 1), volume(&homes[1], 2)];
    put(&fs(&nodes[0]), "text", &text());
    sync(&nodes[0], &nodes[1]);
    let mut open_: [Vec<Program>; 2] = [Vec::new(), Vec::new()];
    let mut mapped: [Vec<File>; 2] = [Vec::new(), Vec::new()];
    let mut written: Vec<(usize, String)> = Vec::new();
    let mut slot = 0;
    let mut story = Vec::new();
    for step in 0..70 {
        let side = rng.below(2);
        let v = nodes[side].clone();
        let f = fs(&v);
        let did = match rng.below(16) {
            0 | 1 if open_[side].len() < 3 => {
                let ino = walk(&f, "text");
                let write = rng.below(4) > 0;
                match open(&f, ino, write) {
                    Some(p) => open_[side].push(p),
                    None => assert!(!write, "seed {seed}: not by itself\n{story:?}"),
                }
                format!("open {ino} {write}")
            }
            2 | 3 if !open_[side].is_empty() => {
                let at = rng.below(open_[side].len());
                let p = open_[side].remove(at);
                let (ino, write) = (p.ino, p.write);
                let file = p.close(&f);
                let stays = write && rng.below(2) == 0;
                if stays {
                    mapped[side].push(file);
                }
                format!("close {ino}, mapped {stays}")
            }
            4..=7 if !open_[side].is_empty() || !mapped[side].is_empty() => {
                let programs = open_[side].iter().filter(|p| p.write).map(|p| &p.file);
                let files: Vec<&File> = programs.chain(&mapped[side]).collect();
                let Some(file) = files.get(rng.below(files.len().max(1))) else {
                    continue;
                };
                // Not beside a line that somebody else writes.
                slot += 8;
                let what = format!("{side} {step}");
                file.write_all_at(line(slot, &what).as_bytes(), slot as u64 * LINE)
                    .unwrap();
                written.push((slot, what.clone()));
                format!("write {what}")
            }
            8 => {
                v.commit_now().unwrap();
                "commit".to_owned()
            }
            9 => {
                let ino = open_[side]
                    .first()
                    .map_or_else(|| walk(&f, "text"), |p| p.ino);
                f.fsync(ino).unwrap();
                "fsync".to_owned()
            }
            10..=12 => {
                v.flush_all().unwrap();
                pull(&nodes[side], &nodes[1 - side]);
                "tells".to_owned()
            }
            13 => {
                let to = format!("text{}", rng.below(3));
                let now = walk(&f, "text");
                let (from, to) = ((ROOT_INO, &b"text"[..]), (ROOT_INO, to.as_bytes()));
                f.rename(from, to, RenameMode::Replace).unwrap();
                f.rename(to, from, RenameMode::Replace).unwrap();
                format!("there and back {now}")
            }
            14 if rng.below(3) == 0 => {
                open_[side].clear();
                mapped[side].clear();
                nodes[side] = crash(&v, &homes[side], u8::try_from(side).unwrap() + 1);
                "crash".to_owned()
            }
            _ => {
                std::thread::sleep(Duration::from_millis(rng.below(30) as u64));
                continue;
            }
        };
        story.push(format!("{}: {did}", ["a", "b"][side]));
    }
    for side in 0..2 {
        let f = fs(&nodes[side]);
        for p in open_[side].drain(..) {
            p.close(&f);
        }
        mapped[side].clear();
        soon("all is committed", || {
            nodes[side].flush_all().unwrap();
            nodes[side].dirty() == 0 && nodes[side].lock().directs.is_empty()
        });
    }
    sync(&nodes[0], &nodes[1]);
    for v in &nodes {
        let f = fs(v);
        let names: Vec<String> = (f.list(ROOT_INO).unwrap().iter())
            .map(|e| e.name.to_string())
            .collect();
        let about = format!("seed {seed}: {names:?}\n{}", story.join("\n"));
        match ABOVE.get() {
            NEVER => assert_eq!(names, ["text"], "{about}"),
            _ => assert!(names.iter().all(|n| n.starts_with("text")), "{about}"),
        }
        let is_there = |n, w: &str| names.iter().any(|name| has(&f, name, n, w));
        let lost = written.iter().filter(|(n, w)| !is_there(*n, w));
        let lost: Vec<&String> = lost.map(|(_, what)| what).collect();
        assert!(lost.is_empty(), "{lost:?} are lost\n{about}");
        assert_eq!(
            f.getattr(walk(&f, "text")).unwrap().size,
            LINES as u64 * LINE
        );
        fsck(v);
        v.stop().unwrap();
    }
}
