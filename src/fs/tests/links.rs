//! Several names of one file: random programs on two directories, against a model of POSIX.

use super::*;
use std::collections::BTreeSet;

/// The files of a model: their bytes, and which name leads to which.
#[derive(Debug, Clone, Default)]
struct Model {
    files: Vec<String>,
    names: BTreeMap<String, usize>,
}

impl Model {
    fn names_of(&self, file: usize) -> u32 {
        let all = self.names.values().filter(|f| **f == file);
        u32::try_from(all.count()).unwrap()
    }

    fn check(&self, f: &Fs, said: &str) {
        let found: BTreeSet<String> = manifest(f)
            .into_iter()
            .filter(|(_, e)| e.0 == Kind::File)
            .map(|(n, _)| n.trim_start_matches('/').to_owned())
            .collect();
        let wanted: BTreeSet<String> = self.names.keys().cloned().collect();
        assert_eq!(found, wanted, "{said}");
        let mut inos: BTreeMap<usize, Ino> = BTreeMap::new();
        for (name, file) in &self.names {
            assert_eq!(get(f, name), self.files[*file], "{name} {said}");
            let ino = walk(f, name);
            let stat = f.getattr(ino).unwrap();
            assert_eq!(stat.nlink, self.names_of(*file), "names of {name} {said}");
            assert_eq!(
                *inos.entry(*file).or_insert(ino),
                ino,
                "inode of {name} {said}"
            );
        }
        let all: BTreeSet<Ino> = inos.values().copied().collect();
        assert_eq!(all.len(), inos.len(), "one inode a file {said}");
    }
}

fn number(name: &str, default: u64) -> u64 {
    let set = std::env::var(name).ok();
    set.and_then(|s| s.parse().ok()).unwrap_or(default)
}

fn dir_and_name<'a>(f: &Fs, path: &'a str) -> (Ino, &'a [u8]) {
    let (dir, name) = split(path);
    (walk(f, dir), name.as_bytes())
}

fn history(seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let at = |n: u8| dir.path().join(n.to_string());
    let (mut v, other) = (volume(&at(1), 1), volume(&at(2), 2));
    let mut f = fs(&v);
    f.mkdir(ROOT_INO, b"d", 0o755, ME).unwrap();
    let mut chance = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = |below: usize| {
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        usize::try_from(chance >> 11).unwrap() % below
    };
    let paths = ["a", "b", "c", "d/a", "d/b"];
    let mut m = Model::default();
    let mut said: Vec<String> = vec![format!("seed {seed}")];
    for step in 0..60 {
        let (one, two) = (paths[random(5)], paths[random(5)]);
        let (from, to) = (dir_and_name(&f, one), dir_and_name(&f, two));
        let (old, new) = (m.names.get(one).copied(), m.names.get(two).copied());
        let text = format!("{step} of {seed}");
        match (random(12), old, new) {
            (0 | 1, None, _) => {
                put(&f, one, &text);
                m.names.insert(one.to_owned(), m.files.len());
                m.files.push(text);
                said.push(format!("create {one}"));
            }
            (0 | 1, Some(file), _) => {
                put(&f, one, &text);
                m.files[file] = text;
                said.push(format!("write {one}"));
            }
            (2..=4, Some(file), None) => {
                f.link(walk(&f, one), to.0, to.1).unwrap();
                m.names.insert(two.to_owned(), file);
                said.push(format!("ln {one} {two}"));
            }
            (5 | 6, Some(_), _) => {
                f.unlink(from.0, from.1).unwrap();
                m.names.remove(one);
                said.push(format!("rm {one}"));
            }
            (7 | 8, Some(file), _) => {
                f.rename(from, to, RenameMode::Replace).unwrap();
                // Two names of one file: POSIX leaves both.
                if new != old {
                    m.names.remove(one);
                    m.names.insert(two.to_owned(), file);
                }
                said.push(format!("mv {one} {two}"));
            }
            (9, Some(a), Some(b)) => {
                f.exchange(from, to).unwrap();
                m.names.insert(one.to_owned(), b);
                m.names.insert(two.to_owned(), a);
                said.push(format!("exchange {one} {two}"));
            }
            (10, _, _) => {
                v.flush_all().unwrap();
                said.push("commit".to_owned());
            }
            (11, _, _) if random(3) == 0 => {
                drop(f);
                v = crash(&v, &at(1), 1);
                f = fs(&v);
                said.push("crash".to_owned());
            }
            _ => continue,
        }
        if random(2) == 0 {
            m.check(&f, &said.join(", "));
            said.push("look".to_owned());
        }
        if random(20) == 0 {
            sync(&v, &other);
            said.push("sync".to_owned());
            m.check(&fs(&other), &format!("elsewhere: {}", said.join(", ")));
        }
    }
    m.check(&f, &said.join(", "));
    sync(&v, &other);
    m.check(&fs(&other), &format!("elsewhere: {}", said.join(", ")));
    m.check(&f, &said.join(", "));
    for v in [&v, &other] {
        v.hand_out().unwrap();
        fsck(v);
        v.stop().unwrap();
    }
}

#[test]
fn names_of_files_are_those_of_posix() {
    let first = number("CELLFS_SEED", 0);
    for seed in first..first + number("CELLFS_HISTORIES", 12) {
        history(seed);
    }
}

#[test]
fn a_link_of_a_backup_stays_a_link_of_the_backup() {
    let dir = tempfile::tempdir().unwrap();
    let v = volume(dir.path(), 1);
    let f = fs(&v);
    put(&f, "a", "old");
    v.flush_all().unwrap();
    let a = (ROOT_INO, b"a".as_slice());
    f.rename(a, (ROOT_INO, b"a~"), RenameMode::NoReplace)
        .unwrap();
    f.link(walk(&f, "a~"), ROOT_INO, b"x").unwrap();
    put(&f, "a", "new");
    v.flush_all().unwrap();
    let all = ["a", "a~", "x"].map(|n| get(&f, n));
    assert_eq!(all, ["new", "old", "old"]);
    assert_eq!(walk(&f, "x"), walk(&f, "a~"));
    v.stop().unwrap();
}

#[test]
fn what_is_removed_by_its_last_name_stays_removed_after_a_crash() {
    for way in ["removed", "replaced"] {
        let dir = tempfile::tempdir().unwrap();
        let v = volume(dir.path(), 1);
        let f = fs(&v);
        put(&f, "a", "old");
        f.mkdir(ROOT_INO, b"d", 0o755, ME).unwrap();
        v.flush_all().unwrap();
        f.link(walk(&f, "a"), ROOT_INO, b"b").unwrap();
        v.flush_all().unwrap();
        f.unlink(ROOT_INO, b"a").unwrap();
        put(&f, "other", "other");
        v.flush_all().unwrap();
        let b = walk(&f, "b");
        f.open(b, true, false).unwrap();
        f.write(b, 0, b"new").unwrap();
        f.fsync(b).unwrap();
        let b = (ROOT_INO, b"b".as_slice());
        if way == "removed" {
            f.unlink(b.0, b.1).unwrap();
        } else {
            let other = (ROOT_INO, b"other".as_slice());
            f.rename(other, b, RenameMode::Replace).unwrap();
        }
        let before = manifest(&f);
        drop(f);
        let v = crash(&v, dir.path(), 1);
        let f = fs(&v);
        let names: Vec<String> = manifest(&f).into_keys().collect();
        assert_eq!(names, before.into_keys().collect::<Vec<_>>(), "{way}");
        v.stop().unwrap();
    }
}

#[test]
fn a_link_of_what_two_files_show_is_of_one_file() {
    for turn in 0..4 {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let (a, b) = (volume(dirs[0].path(), 1), volume(dirs[1].path(), 2));
        let (fa, fb) = (fs(&a), fs(&b));
        put(&fa, "f", "same");
        put(&fb, "f", "same");
        sync(&a, &b);
        let f = walk(&fa, "f");
        fa.link(f, ROOT_INO, b"g").unwrap();
        a.flush_all().unwrap();
        assert_eq!([walk(&fa, "f"), walk(&fa, "g")], [f, f], "{turn}");
        if turn % 2 == 0 {
            fb.unlink(ROOT_INO, b"f").unwrap();
            put(&fb, "f", "same");
        }
        sync(&a, &b);
        assert_eq!(manifest(&fa), manifest(&fb), "{turn}");
        let one = |f: &Fs| walk(f, "f") == walk(f, "g");
        assert_eq!(one(&fa), one(&fb), "{turn}");
        a.stop().unwrap();
        b.stop().unwrap();
    }
}

#[test]
fn a_copy_can_be_moved_while_what_was_done_above_it_waits_for_another_file() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (a, b) = (volume(dirs[0].path(), 1), volume(dirs[1].path(), 2));
    let (fa, fb) = (fs(&a), fs(&b));
    put(&fb, "f", "there");
    b.flush_all().unwrap();
    std::thread::sleep(Duration::from_millis(5));
    put(&fa, "f", "here");
    fa.link(walk(&fa, "f"), ROOT_INO, b"other").unwrap();
    sync(&a, &b);
    let copy = manifest(&fa).into_keys().find(|n| n.contains("conflict"));
    let copy = copy.unwrap().trim_start_matches('/').to_owned();
    assert_eq!(get(&fa, &copy), "there");
    // The end of its name waits with the bytes that are being written.
    let ino = walk(&fa, "other");
    fa.open(ino, true, false).unwrap();
    fa.write(ino, 0, b"more").unwrap();
    put(&fa, "tmp", "new");
    let name = |name| (ROOT_INO, name);
    fa.rename(name(b"tmp".as_slice()), name(b"f"), RenameMode::Replace)
        .unwrap();
    put(&fa, &copy, "mine");
    fa.rename(name(copy.as_bytes()), name(b"g"), RenameMode::NoReplace)
        .unwrap();
    fa.release(ino, true);
    sync(&a, &b);
    for f in [&fa, &fb] {
        let names: Vec<String> = manifest(f).into_keys().collect();
        assert_eq!(names, ["/f", "/g", "/other"]);
        assert_eq!((get(f, "f"), get(f, "g")), ("new".into(), "mine".into()));
        assert_eq!(get(f, "other"), "more");
    }
    a.stop().unwrap();
    b.stop().unwrap();
}

#[test]
fn what_is_written_to_a_file_whose_last_name_went_with_a_commit_is_not_lost() {
    let dir = tempfile::tempdir().unwrap();
    let at = |n: u8| dir.path().join(n.to_string());
    let (a, b) = (volume(&at(1), 1), volume(&at(2), 2));
    let (f, g) = (fs(&a), fs(&b));
    put(&g, "f", "first\n");
    sync(&a, &b);
    // One removes the file, not knowing of its other name, and makes another one.
    let (from, to) = ((ROOT_INO, &b"f"[..]), (ROOT_INO, &b"h"[..]));
    f.rename(from, to, RenameMode::NoReplace).unwrap();
    f.unlink(ROOT_INO, b"h").unwrap();
    put(&f, "f", "another\n");
    a.flush_all().unwrap();
    let ino = walk(&g, "f");
    g.link(ino, ROOT_INO, b"g").unwrap();
    b.flush_all().unwrap();
    b.be_still();
    g.open(ino, true, false).unwrap();
    g.write(ino, 6, b"second\n").unwrap();
    pull(&a, &b);
    // The other takes the other name away, and writes on by the one that he still sees.
    put(&g, ".tmp", "third\n");
    let (from, to) = ((ROOT_INO, &b".tmp"[..]), (ROOT_INO, &b"g"[..]));
    g.rename(from, to, RenameMode::Replace).unwrap();
    g.write(ino, 13, b"fourth\n").unwrap();
    g.release(ino, true);
    sync(&a, &b);
    let shown = manifest(&f);
    assert_eq!(shown, manifest(&g));
    let text = String::from_utf8(shown.into_values().flat_map(|e| e.3).collect()).unwrap();
    for line in ["another", "second", "third", "fourth"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    a.stop().unwrap();
    b.stop().unwrap();
}
