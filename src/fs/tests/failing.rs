//! Commits that fail for a while, what programs do meanwhile, and journals that were damaged.

use super::*;

/// Commits of more than a few bytes fail until this goes.
struct Broken<'a>(&'a Volume);

impl<'a> Broken<'a> {
    fn disk(v: &'a Volume) -> Self {
        let dir = v.repo().pack_dir();
        std::fs::rename(&dir, dir.with_extension("away")).unwrap();
        Self(v)
    }
}

impl Drop for Broken<'_> {
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
