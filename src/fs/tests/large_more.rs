//! Large files: what falls between the steps of a commit, who has a container, and the past.

use std::os::unix::fs::{FileExt, MetadataExt};

use super::large::{CUT, LEN, bytes, head, is_contained, kind, line, noise, put_bytes, soon};
use super::*;
use crate::fs::{Access, Opened};
use crate::history::resolve::Take;
use crate::volume::inode::Data;
use crate::volume::spill::Spill;

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    let done = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(done.unwrap().success());
}

/// As the kernel opens a file by itself.
pub(super) fn direct(f: &Fs, ino: Ino, write: bool) -> Option<Arc<Spill>> {
    let access = Access {
        write,
        keeps: true,
        direct: true,
    };
    match f.open_as(ino, access).unwrap() {
        Opened::Direct(s) => Some(s),
        _ => None,
    }
}

pub(super) fn write_at(f: &Fs, name: &str, at: u64, text: &[u8]) {
    let ino = walk(f, name);
    f.open(ino, true, false).unwrap();
    f.write(ino, at, text).unwrap();
    f.release(ino, true);
}

#[test]
fn a_crash_between_any_two_steps_of_a_commit_loses_nothing() {
    ABOVE.set(CUT);
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    let content = noise(20, LEN);
    let v = volume(&at("v"), 1);
    let f = fs(&v);
    put(&f, "small", "text");
    v.flush_all().unwrap();
    let (before, after) = (at("before"), at("after"));
    let (to, c) = (before.clone(), content.clone());
    let home = at("v");
    v.while_still(move || {
        let ino = put_bytes(&f, "big", &c);
        f.fsync(ino).unwrap();
        copy(&home, &to);
    })
    .unwrap();
    v.commit_now().unwrap();
    let (from, to) = (at("v"), after.clone());
    v.while_still(move || copy(&from, &to)).unwrap();
    v.stop().unwrap();
    let overlays = |home: &Path| -> Vec<std::path::PathBuf> {
        let all = std::fs::read_dir(home.join("overlay")).unwrap();
        all.map(|e| e.unwrap().path()).collect()
    };
    assert_eq!(overlays(&before).len(), 1);
    let parts = ["git", "journal", "overlay", "chunks"];
    // Which state each part is of; what else is done to it.
    type Harm = fn(&Path);
    let states: [(&str, [bool; 4], Harm); 7] = [
        ("nothing is done", [false, false, false, false], |_| ()),
        ("the link is left", [false, false, false, false], |home| {
            let overlay = home.join("overlay");
            let file = std::fs::read_dir(&overlay).unwrap().next().unwrap();
            let file = file.unwrap().path();
            std::fs::hard_link(&file, file.with_extension("link")).unwrap();
        }),
        (
            "the sidecar is there",
            [false, false, false, true],
            |home| {
                for e in std::fs::read_dir(home.join("chunks/containers")).unwrap() {
                    let path = e.unwrap().path();
                    if path.extension().is_some_and(|e| e == "data") {
                        std::fs::remove_file(path).unwrap();
                    }
                }
            },
        ),
        (
            "the container is there",
            [false, false, false, true],
            |_| (),
        ),
        (
            "the objects are there",
            [true, false, false, true],
            |home| {
                // Refs follow the journal.
                std::fs::remove_dir_all(home.join("git/refs/cellfs")).unwrap();
            },
        ),
        ("it is a commit", [true, true, false, true], |_| ()),
        ("the overlay file went", [true, true, false, true], |home| {
            for e in std::fs::read_dir(home.join("overlay")).unwrap() {
                std::fs::remove_file(e.unwrap().path()).unwrap();
            }
        }),
    ];
    for (what, of, harm) in states {
        let home = at("again");
        for (part, is_after) in parts.into_iter().zip(of) {
            let from = if is_after { &after } else { &before };
            if from.join(part).exists() {
                copy(&from.join(part), &home.join(part));
            }
        }
        harm(&home);
        let v = volume(&home, 1);
        let f = fs(&v);
        assert!(bytes(&f, "big") == content, "{what}");
        assert_eq!(kind(&v, "big"), Kind::Large, "{what}");
        assert_eq!(get(&f, "small"), "text", "{what}");
        assert!(overlays(&home).is_empty(), "{what}");
        let s = v.chunks().unwrap().stats();
        assert_eq!((s.containers, s.live_bytes), (1, 0), "{what}");
        fsck(&v);
        v.stop().unwrap();
        // And nothing of it is only in memory.
        let v = volume(&home, 1);
        assert!(bytes(&fs(&v), "big") == content, "{what}");
        v.stop().unwrap();
        std::fs::remove_dir_all(&home).unwrap();
    }
}

#[test]
fn programs_have_the_container_itself_until_somebody_writes() {
    ABOVE.set(CUT);
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("v");
    let v = volume(&home, 1);
    let f = fs(&v);
    let content = noise(21, LEN);
    put_bytes(&f, "one", &content);
    put_bytes(&f, "two", &content);
    v.flush_all().unwrap();
    let (one, two) = (walk(&f, "one"), walk(&f, "two"));
    soon("containers", || {
        is_contained(&v, one) && is_contained(&v, two)
    });
    let old = head(&v, "one");
    assert_eq!(head(&v, "two"), old);
    let reader = direct(&f, one, false).expect("by the file itself");
    let sha256 = v.large_head(&old).unwrap().sha256;
    let container = home.join(format!("chunks/containers/{sha256}.data"));
    let number = |m: std::fs::Metadata| m.ino();
    let same = number(reader.file().metadata().unwrap());
    assert_eq!(same, number(std::fs::metadata(&container).unwrap()));
    // Another inode reads it through the node: a writer takes the file with it.
    assert!(direct(&f, two, false).is_none());
    f.release(two, false);
    let writer = direct(&f, one, true).expect("by the file itself");
    assert!(!container.exists(), "it is the writer's now");
    assert!(Arc::ptr_eq(&reader, &writer));
    let file = std::fs::OpenOptions::new().write(true).open(writer.path());
    file.unwrap().write_all_at(b"changed", 100).unwrap();
    let mut seen = [0; 7];
    reader.file().read_exact_at(&mut seen, 100).unwrap();
    assert_eq!(&seen, b"changed");
    assert!(bytes(&f, "two") == content, "the other file");
    drop((reader, writer));
    f.release(one, true);
    f.release(one, false);
    v.flush_all().unwrap();
    let mut changed = content.clone();
    changed[100..107].copy_from_slice(b"changed");
    assert!(bytes(&f, "one") == changed);
    soon("it is let go and contained", || {
        v.flush_all().unwrap();
        is_contained(&v, one)
    });
    let new = v.large_head(&head(&v, "one")).unwrap().sha256;
    assert!(home.join(format!("chunks/containers/{new}.data")).exists());
    assert!(bytes(&f, "one") == changed && bytes(&f, "two") == content);
    // A writer through the node, while a program reads the file itself.
    let reader = direct(&f, one, false).expect("by the file itself");
    write_at(&f, "one", 0, b"first");
    reader.file().read_exact_at(&mut seen[..5], 0).unwrap();
    assert_eq!(&seen[..5], b"first");
    f.release(one, false);
    let v = crash(&v, &home, 1);
    changed[..5].copy_from_slice(b"first");
    let f = fs(&v);
    assert!(bytes(&f, "one") == changed && bytes(&f, "two") == content);
    fsck(&v);
    v.stop().unwrap();
}

#[test]
fn a_large_file_of_the_past_is_read_and_comes_back() {
    ABOVE.set(CUT);
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (
        volume(&dir.path().join("a"), 1),
        volume(&dir.path().join("b"), 2),
    );
    let (fa, fb) = (fs(&a), fs(&b));
    let content = noise(22, LEN);
    put_bytes(&fa, "big", &content);
    let first = past::head(&a);
    write_at(&fa, "big", 7, b"later");
    let second = past::head(&a);
    fa.unlink(ROOT_INO, b"big").unwrap();
    a.flush_all().unwrap();
    let mut later = content.clone();
    later[7..12].copy_from_slice(b"later");
    let then = |f: &Fs, spec: &str| {
        let ino = walk(f, &format!(".cellfs/at/{spec}/big"));
        f.read_by(ino, 0, 0, u32::MAX).unwrap()
    };
    assert!(then(&fa, &first) == content && then(&fa, &second) == later);
    past::restore(&a, "big", &first).unwrap().unwrap();
    assert!(bytes(&fa, "big") == content);
    assert_eq!(kind(&a, "big"), Kind::Large);
    // Who joins has what names all of it.
    sync(&a, &b);
    line(&a, &b);
    assert!(bytes(&fb, "big") == content);
    assert!(then(&fb, &second) == later);
    // Two versions: one is chosen, and comes back whole.
    write_at(&fa, "big", 0, b"of a");
    write_at(&fb, "big", 0, b"of b");
    sync(&a, &b);
    let copy = |f: &Fs| {
        let all = f.list(ROOT_INO).unwrap();
        let mut names = all.into_iter().map(|e| e.name);
        names.find(|n| n.to_string().contains(".conflict-"))
    };
    let mine = copy(&fa).unwrap();
    let chosen = bytes(&fa, &mine.to_string());
    past::resolve(&a, "big", Take::Copy(mine)).unwrap();
    sync(&a, &b);
    assert_eq!(copy(&fb), None);
    assert!(bytes(&fa, "big") == chosen && bytes(&fb, "big") == chosen);
    for v in [&a, &b] {
        fsck(v);
        v.stop().unwrap();
    }
}

#[test]
fn a_piece_that_the_disk_damaged_comes_again() {
    ABOVE.set(CUT);
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (
        volume(&dir.path().join("a"), 1),
        volume(&dir.path().join("b"), 2),
    );
    let content = noise(23, LEN);
    put_bytes(&fs(&a), "big", &content);
    sync(&a, &b);
    b.chunks().unwrap().flush().unwrap();
    let pack = dir.path().join("b/chunks/packs/00000000.pack");
    let file = std::fs::OpenOptions::new().write(true).open(&pack).unwrap();
    file.write_all_at(b"damage", 1 << 20).unwrap();
    let pieces = line(&a, &b);
    assert!(bytes(&fs(&b), "big") == content);
    assert_eq!(pieces.load(std::sync::atomic::Ordering::Relaxed), 1);
    a.stop().unwrap();
    b.stop().unwrap();
}

#[test]
fn nothing_is_lost_of_one_who_writes_while_commits_are_made() {
    ABOVE.set(CUT);
    const LINES: u64 = 60;
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("v");
    let v = volume(&home, 1);
    let f = fs(&v);
    put_bytes(&f, "big", &noise(24, 1 << 20));
    let text = |n: u64| format!("line {n:04}");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                v.commit_now().unwrap();
            }
        });
        for n in 0..LINES {
            let tmp = format!("new{}", n % 3);
            match n % 4 {
                // A new one that is sealed when it is closed, and written to at once.
                0 => {
                    put_bytes(&f, &tmp, &bytes(&f, "big"));
                    std::thread::sleep(Duration::from_millis(n % 7));
                    write_at(&f, &tmp, n * 16_000, text(n).as_bytes());
                    let (from, to) = ((ROOT_INO, tmp.as_bytes()), (ROOT_INO, &b"big"[..]));
                    f.rename(from, to, RenameMode::Replace).unwrap();
                }
                _ => write_at(&f, "big", n * 16_000, text(n).as_bytes()),
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let check = |f: &Fs| {
        let all = bytes(f, "big");
        for n in 0..LINES {
            let at = usize::try_from(n * 16_000).unwrap();
            assert!(all[at..].starts_with(text(n).as_bytes()), "{n}");
        }
    };
    check(&f);
    f.fsync(walk(&f, "big")).unwrap();
    drop(f);
    let v = crash(&v, &home, 1);
    check(&fs(&v));
    fsck(&v);
    v.stop().unwrap();
}

#[test]
fn who_lacks_a_version_is_told_which_one_it_came_instead_of() {
    ABOVE.set(CUT);
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (
        volume(&dir.path().join("a"), 1),
        volume(&dir.path().join("b"), 2),
    );
    let fa = fs(&a);
    let content = noise(31, LEN);
    put_bytes(&fa, "big", &content);
    put_bytes(&fa, "other", &noise(32, LEN));
    a.flush_all().unwrap();
    pull_records(&a, &b);
    let met = b.meet().unwrap().met;
    assert!(met.len() == 2 && met.iter().all(|m| m.over.is_none()));
    let met_after = |what: &str| {
        a.flush_all().unwrap();
        pull_records(&a, &b);
        let met = b.meet().unwrap().met;
        let [m] = met[..] else {
            panic!("{what}: {met:?}");
        };
        assert_eq!(m.head, head(&a, "big"), "{what}");
        m.over
    };
    let before = head(&a, "big");
    write_at(&fa, "big", 100_000, &[7; 4096]);
    assert_eq!(met_after("a write"), Some(before));
    // A save of an editor: another file, renamed over it.
    let before = head(&a, "big");
    put_bytes(&fa, "new", &content[..LEN - 5]);
    fa.rename((ROOT_INO, b"new"), (ROOT_INO, b"big"), RenameMode::Replace)
        .unwrap();
    assert_eq!(met_after("a save"), Some(before));
    // The same bytes in another way replace nothing.
    let ino = walk(&fa, "big");
    let mode = SetAttr {
        mode: Some(0o600),
        ..SetAttr::default()
    };
    fa.setattr(ino, mode).unwrap();
    assert_eq!(met_after("a mode"), None);
    b.stop().unwrap();
    a.stop().unwrap();
}

#[test]
fn a_large_file_that_is_read_holds_no_commit_up_and_is_in_the_next() {
    ABOVE.set(CUT);
    let dir = tempfile::tempdir().unwrap();
    let v = volume(dir.path(), 1);
    let f = fs(&v);
    let content = noise(31, LEN);
    // Nobody looks at it while this goes on: as if that took for ever.
    v.be_still();
    let ino = put_bytes(&f, "big", &content);
    let s = match &v.lock().inodes.get(&ino).unwrap().data {
        Data::Spilled(s) => s.clone(),
        other => panic!("{other:?}"),
    };
    assert!(s.seal());
    let turn = s.begin_look().unwrap();
    put(&f, "small", "text");
    let other = volume(&dir.path().with_extension("other"), 2);
    let fo = fs(&other);
    put(&fo, "there", "too");
    other.flush_all().unwrap();
    // What others wrote comes, and what is small goes out.
    pull(&other, &v);
    let names = |v: &Volume| git_names(v);
    assert_eq!(names(&v), ["small", "there"]);
    assert_eq!(get(&f, "there"), "too");
    // It is opened and written to: what was read of it is of no use.
    f.open(ino, true, false).unwrap();
    f.write(ino, 0, b"new").unwrap();
    f.release(ino, true);
    s.end_look(turn, None);
    assert!(!s.was_looked_at());
    let mut changed = content;
    changed[..3].copy_from_slice(b"new");
    v.commit_now().unwrap();
    assert_eq!(names(&v), ["big", "small", "there"]);
    assert!(bytes(&f, "big") == changed);
    assert_eq!(kind(&v, "big"), Kind::Large);
    fsck(&v);
    for v in [v, other] {
        v.stop().unwrap();
    }
}

fn git_names(v: &Volume) -> Vec<String> {
    let all = crate::record::git_tree::read(&*v.view().stage, &v.view().tree).unwrap();
    let names = all.into_iter().map(|e| String::from_utf8(e.name).unwrap());
    names.collect()
}

#[test]
fn large_files_that_nobody_waits_for_are_committed_one_after_the_other() {
    ABOVE.set(CUT);
    let dir = tempfile::tempdir().unwrap();
    let v = volume(dir.path(), 1);
    let f = fs(&v);
    let all: Vec<Vec<u8>> = (0..4).map(|n| noise(40 + n, 600_000)).collect();
    for (n, content) in all.iter().enumerate() {
        put_bytes(&f, &format!("f{n}"), content);
    }
    soon("all are in commits", || git_names(&v).len() == 4);
    for (n, content) in all.iter().enumerate() {
        assert!(bytes(&f, &format!("f{n}")) == *content);
        assert_eq!(kind(&v, &format!("f{n}")), Kind::Large);
    }
    v.stop().unwrap();
}

#[test]
fn what_others_write_to_a_file_that_is_read_for_a_commit_is_kept_and_so_is_that() {
    ABOVE.set(CUT);
    for is_removed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let v = volume(&dir.path().join("v"), 1);
        let other = volume(&dir.path().join("other"), 2);
        let (f, fo) = (fs(&v), fs(&other));
        put_bytes(&f, "big", &noise(50, LEN));
        v.flush_all().unwrap();
        pull(&v, &other);
        line(&v, &other);
        line(&other, &v);
        v.be_still();
        let (ours, theirs) = (noise(51, LEN), noise(52, LEN));
        let ino = put_bytes(&f, "big", &ours);
        let s = match &v.lock().inodes.get(&ino).unwrap().data {
            Data::Spilled(s) => s.clone(),
            data => panic!("{data:?}"),
        };
        assert!(s.seal());
        let turn = s.begin_look().unwrap();
        match is_removed {
            true => fo.unlink(ROOT_INO, b"big").unwrap(),
            false => drop(put_bytes(&fo, "big", &theirs)),
        }
        other.flush_all().unwrap();
        pull(&other, &v);
        s.end_look(turn, None);
        v.commit_now().unwrap();
        pull(&v, &other);
        for v in [&v, &other] {
            let mut all: Vec<Vec<u8>> = git_names(v)
                .iter()
                .map(|name| {
                    let head = head(v, name);
                    let out = dir.path().join("out");
                    let to = std::fs::File::create(&out).unwrap();
                    v.write_out(&head, &to).unwrap();
                    std::fs::read(&out).unwrap()
                })
                .collect();
            all.sort();
            let mut both = vec![ours.clone(), theirs.clone()];
            both.truncate(if is_removed { 1 } else { 2 });
            both.sort();
            assert!(all == both, "{:?}", git_names(v));
        }
        assert_eq!(git_names(&v), git_names(&other));
        for v in [v, other] {
            v.stop().unwrap();
        }
    }
}
