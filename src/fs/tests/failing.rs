//! Commits that fail for a while, what programs do meanwhile, and journals that were damaged.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::base::clock;
use crate::base::id::FileId;
use crate::journal::{Entry, JournalError};
use crate::record::change::{Change, SetField};
use crate::store::objects::{Memory, Object, Objects};
use crate::volume::VolumeResult;
use crate::volume::chain::{self, Deed, Desk, Disk, Reach};

/// Commits of more than a few bytes fail until this goes.
pub(super) struct Broken(Arc<Volume>);

impl Broken {
    pub(super) fn disk(v: &Arc<Volume>) -> Self {
        let dir = v.repo().pack_dir();
        std::fs::rename(&dir, dir.with_extension("away")).unwrap();
        Self(v.clone())
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        let dir = self.0.repo().pack_dir();
        std::fs::rename(dir.with_extension("away"), &dir).unwrap();
    }
}

fn large(letter: &str, len: usize) -> String {
    letter.repeat(len)
}

fn rename(f: &Fs, from: &str, to: &str) {
    let place = (ROOT_INO, from.as_bytes());
    f.rename(place, (ROOT_INO, to.as_bytes()), RenameMode::Replace)
        .unwrap();
}

#[test]
fn a_save_while_commits_fail_makes_no_copy() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("v");
    let v = volume(&dir, 1);
    let f = fs(&v);
    put(&f, "large", &large("a", 300_000));
    v.flush_all().unwrap();
    let broken = Broken::disk(&v);
    put(&f, "large", &large("b", 200_000));
    v.flush_all().unwrap_err();
    put(&f, "new", &large("c", 180_000));
    v.flush_all().unwrap_err();
    rename(&f, "new", "large");
    v.flush_all().unwrap_err();
    put(&f, "large", &large("d", 150_000));
    drop(broken);
    v.flush_all().unwrap();
    let names: Vec<_> = manifest(&f).into_keys().collect();
    assert_eq!(names, ["/large"]);
    assert_eq!(get(&f, "large"), large("d", 150_000));
}

#[test]
fn the_same_bytes_written_again_are_what_the_next_write_replaces() {
    for len in [10, 200_000] {
        let dir = tempfile::tempdir().unwrap();
        let v = volume(&dir.path().join("v"), 1);
        let f = fs(&v);
        put(&f, "file", &large("a", len));
        v.flush_all().unwrap();
        for letter in ["a", "b", "b", "c"] {
            put(&f, "file", &large(letter, len));
            v.flush_all().unwrap();
            let names: Vec<_> = manifest(&f).into_keys().collect();
            assert_eq!(names, ["/file"], "{letter} {len}");
        }
        put(&f, "file", &large("c", len));
        v.flush_all().unwrap();
        put(&f, "new", &large("d", len));
        rename(&f, "new", "file");
        v.flush_all().unwrap();
        let names: Vec<_> = manifest(&f).into_keys().collect();
        assert_eq!(names, ["/file"], "{len}");
    }
}

#[test]
fn bytes_that_a_commit_took_before_its_time_make_no_copy() {
    let dir = tempfile::tempdir().unwrap();
    let v = volume(&dir.path().join("v"), 1);
    let f = fs(&v);
    put(&f, "file", &large("a", 200_000));
    v.flush_all().unwrap();
    let broken = Broken::disk(&v);
    put(&f, "file", &large("b", 200_000));
    v.flush_all().unwrap_err();
    // In the same overlay file: the commit that is tried again has these bytes, too.
    let ino = walk(&f, "file");
    f.open(ino, true, false).unwrap();
    f.write(ino, 0, b"later").unwrap();
    f.release(ino, true);
    drop(broken);
    v.flush_all().unwrap();
    put(&f, "new", &large("c", 180_000));
    rename(&f, "new", "file");
    v.flush_all().unwrap();
    let names: Vec<_> = manifest(&f).into_keys().collect();
    assert_eq!(names, ["/file"]);
}

#[test]
fn a_file_is_emptied_by_one_entry_of_the_journal_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let v = volume(&dir.path().join("v"), 1);
    let f = fs(&v);
    put(&f, "file", "text");
    v.flush_all().unwrap();
    let ino = walk(&f, "file");
    v.while_still({
        let v = v.clone();
        move || {
            let before = v.journal().last();
            f.open(ino, true, true).unwrap();
            assert_eq!(v.journal().last(), before + 1);
            f.release(ino, true);
        }
    })
    .unwrap();
    v.stop().unwrap();
}

#[test]
fn nothing_is_written_once_the_journal_is_poisoned() {
    let dir = tempfile::tempdir().unwrap();
    let v = volume(&dir.path().join("v"), 1);
    let f = fs(&v);
    put(&f, "large", &large("a", 200_000));
    let ino = walk(&f, "large");
    f.open(ino, true, false).unwrap();
    f.write(ino, 0, b"before").unwrap();
    v.journal().poison("a test");
    // Its bytes are not in the journal.
    let refused = f.write(ino, 0, b"after!").unwrap_err();
    assert!(refused.to_string().contains("poisoned"), "{refused}");
    let set = SetAttr {
        size: Some(5),
        ..SetAttr::default()
    };
    f.setattr(ino, set).unwrap_err();
    f.fsync(ino).unwrap_err();
    assert!(get(&f, "large").starts_with("before"));
    assert_eq!(get(&f, "large").len(), 200_000);
    v.stop().unwrap_err();
}

/// A disk that is full when the line that makes a commit one is to be written.
struct FullOnce<'a>(&'a Volume, AtomicBool);

impl Disk for FullOnce<'_> {
    fn hold(&self, pack: Vec<u8>, objects: Vec<(Oid, Object)>) -> VolumeResult<()> {
        Disk::hold(self.0, pack, objects)
    }

    fn flush(&self, objects: Vec<(Oid, Object)>) -> VolumeResult<()> {
        Disk::flush(self.0, objects)
    }

    fn append(&self, entry: &Entry) -> VolumeResult<u64> {
        if matches!(entry, Entry::Committed(_)) && !self.1.swap(true, Ordering::Relaxed) {
            return Err(JournalError::Full.into());
        }
        self.0.append(entry)
    }

    fn last(&self) -> u64 {
        Disk::last(self.0)
    }

    fn sync(&self, number: u64) -> VolumeResult<()> {
        Disk::sync(self.0, number)
    }
}

#[test]
fn a_commit_whose_head_had_no_room_is_made_later_and_the_volume_opens() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("v");
    let v = volume(&dir, 1);
    put(&fs(&v), "file", "text");
    v.flush_all().unwrap();
    let base = v.view();
    let disk = FullOnce(&v, AtomicBool::new(false));
    let desk = Desk {
        disk: &disk,
        ..v.desk()
    };
    let stamp = {
        let mut live = v.lock();
        let stamp = live.numbers.next(clock::now_ms());
        live.numbers.took(stamp);
        stamp
    };
    let changes = [Change::Field {
        id: FileId::ROOT,
        field: SetField::SetMtime(7),
    }];
    let make = || {
        let stage = Memory::over(base.stage.clone());
        let deed = Deed {
            stamp,
            births: 1,
            changes: &changes,
            message: "tried",
        };
        let sealed = chain::change(&desk, &base, &stage, &deed)?;
        let reach = Reach {
            upto: v.journal().last(),
            held: Vec::new(),
        };
        chain::fix(&desk, &base, &stage, sealed, reach)
    };
    make().unwrap_err();
    let head = make().unwrap().head.id;
    let v = crash(&v, &dir, 1);
    assert_eq!(get(&fs(&v), "file"), "text");
    assert!(v.repo().has(&head).unwrap());
    v.stop().unwrap();
}

#[test]
fn a_journal_that_the_disk_damaged_brings_nothing_old_back_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("v");
    let v = volume(&dir, 1);
    let f = fs(&v);
    for text in ["first", "second", "third"] {
        put(&f, "file", text);
        put(&f, text, text);
        v.flush_all().unwrap();
    }
    put(&f, "late", "late");
    v.stop().unwrap();
    let journal = dir.join("journal");
    // The first: what stands last of all may as well be what a crash cut off.
    let segments = std::fs::read_dir(&journal).unwrap();
    let segment = segments.map(Result::unwrap).min_by_key(|e| e.file_name());
    let segment = segment.unwrap();
    let whole = std::fs::read(segment.path()).unwrap();
    // Any place.
    let written = whole.len() - whole.iter().rev().take_while(|b| **b == 0).count();
    for part in 0..12 {
        let at = 8 + (written - 9) * part / 12;
        let copy = dir.with_extension(format!("{part}"));
        let done = Command::new("cp").arg("-a").args([&dir, &copy]).status();
        assert!(done.unwrap().success());
        let mut bytes = whole.clone();
        bytes[at] ^= 4;
        std::fs::write(copy.join("journal").join(segment.file_name()), &bytes).unwrap();
        let v = volume(&copy, 1);
        let told = v.damage().unwrap_or_else(|| panic!("{at} of {written}"));
        assert!(told.contains("is damaged at byte"), "{told}");
        let f = fs(&v);
        assert_eq!(get(&f, "file"), "third", "{at}");
        for text in ["first", "second", "third"] {
            assert_eq!(get(&f, text), text, "{at}");
        }
        let names: Vec<_> = manifest(&f).into_keys().collect();
        assert!(
            names.iter().all(|n| !n.contains("conflict")),
            "{at}: {names:?}"
        );
        let kept = copy.join("journal/damaged").join(segment.file_name());
        assert_eq!(std::fs::read(kept).unwrap(), bytes);
        put(&f, "file", "fourth");
        let v = crash(&v, &copy, 1);
        assert_eq!(v.damage(), None);
        assert_eq!(get(&fs(&v), "file"), "fourth");
        v.stop().unwrap();
    }
}
