//! A descriptor that is kept open while versions from elsewhere take the name.

use super::*;
use crate::volume::Amendment;

fn lines(count: usize) -> String {
    (0..count).map(|n| format!("line {n}\n")).collect()
}

/// Two nodes, and an inode of the first that is open for writing and lost its name to a version
/// of the second, which differs in line 3.
struct Detached {
    _dirs: [tempfile::TempDir; 2],
    a: Arc<Volume>,
    b: Arc<Volume>,
    held: Ino,
    text: String,
}

fn detached() -> Detached {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (a, b) = (volume(dirs[0].path(), 1), volume(dirs[1].path(), 2));
    let (fa, fb) = (fs(&a), fs(&b));
    let text = lines(40);
    put(&fa, "text", &text);
    sync(&a, &b);
    let held = walk(&fa, "text");
    fa.open(held, true, false).unwrap();
    put(&fb, "text", &text.replace("line 3\n", "LINE 3\n"));
    b.flush_all().unwrap();
    pull(&b, &a);
    assert_ne!(walk(&fa, "text"), held);
    Detached {
        _dirs: dirs,
        a,
        b,
        held,
        text,
    }
}

#[test]
fn two_inodes_of_one_file_are_both_written() {
    let d = detached();
    let (fa, fb) = (fs(&d.a), fs(&d.b));
    let end = d.text.len() as u64;
    // Through the old inode and at the name, in turns, and nobody closes the old one.
    for n in 0..5 {
        fa.write(d.held, end + n * 4, format!("a {n}\n").as_bytes())
            .unwrap();
        let now = get(&fa, "text");
        let (old, new) = (format!("line 1{n}\n"), format!("LINE 1{n}\n"));
        put(&fa, "text", &now.replace(&old, &new));
        fa.fsync(d.held).unwrap();
    }
    d.a.flush_all().unwrap();
    assert_eq!(d.a.lock().dirty_count(), 0);
    fa.release(d.held, true);
    sync(&d.a, &d.b);
    for f in [&fa, &fb] {
        let got = get(f, "text");
        for n in 0..5 {
            assert!(got.contains(&format!("a {n}\n")), "{n} in {got}");
            assert!(got.contains(&format!("LINE 1{n}\n")), "1{n} in {got}");
        }
        assert!(got.contains("LINE 3\n"));
        assert_eq!(manifest(f).len(), 1, "no copies");
    }
    d.a.stop().unwrap();
    d.b.stop().unwrap();
}

#[test]
fn two_inodes_of_one_file_survive_a_crash() {
    let d = detached();
    let fa = fs(&d.a);
    let end = d.text.len() as u64;
    fa.write(d.held, end, b"through the old one\n").unwrap();
    let now = get(&fa, "text");
    put(&fa, "text", &now.replace("line 20\n", "LINE 20\n"));
    fa.write(d.held, end, b"THROUGH the old one\n").unwrap();
    let Detached {
        _dirs: dirs, a, b, ..
    } = d;
    drop((fa, a, b));
    let a = volume(dirs[0].path(), 1);
    let got = get(&fs(&a), "text");
    for part in ["LINE 3\n", "LINE 20\n", "THROUGH the old one\n"] {
        assert!(got.contains(part), "{part:?} in {got}");
    }
    assert_eq!(got.lines().count(), 41, "{got}");
    a.stop().unwrap();
}

#[test]
fn bytes_that_the_same_commit_merges_are_kept() {
    let d = detached();
    let (fa, fb) = (fs(&d.a), fs(&d.b));
    let end = d.text.len() as u64;
    fa.write(d.held, end, b"a\n").unwrap();
    fa.release(d.held, true);
    let now = get(&fb, "text");
    put(&fb, "text", &now.replace("line 20\n", "LINE 20\n"));
    // What b wrote replaces one of the two versions that a merged; the other is needed again.
    sync(&d.a, &d.b);
    for f in [&fa, &fb] {
        let got = get(f, "text");
        for part in ["LINE 3\n", "LINE 20\n", "line 39\na\n"] {
            assert!(got.contains(part), "{part:?} in {got}");
        }
    }
    fsck(&d.a);
    fsck(&d.b);
    d.a.stop().unwrap();
    d.b.stop().unwrap();
}

#[test]
fn a_file_and_its_copy_are_both_written() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (a, b) = (volume(dirs[0].path(), 1), volume(dirs[1].path(), 2));
    let (fa, fb) = (fs(&a), fs(&b));
    put(&fa, "text", "base\n");
    sync(&a, &b);
    put(&fa, "text", "of a\n");
    put(&fb, "text", "of b\n");
    sync(&a, &b);
    let names: Vec<String> = manifest(&fa)
        .into_keys()
        .map(|p| p[1..].to_owned())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    // Both stay open, and are written in turns.
    let inos: Vec<Ino> = names.iter().map(|n| walk(&fa, n)).collect();
    for ino in &inos {
        fa.open(*ino, true, false).unwrap();
    }
    for n in 0..5 {
        for (ino, name) in inos.iter().zip(&names) {
            fa.write(*ino, 5 + 32 * n, format!("{n} {name:.28}\n").as_bytes())
                .unwrap();
        }
    }
    a.flush_all().unwrap();
    assert_eq!(a.lock().dirty_count(), 0);
    for ino in &inos {
        fa.release(*ino, true);
    }
    sync(&a, &b);
    let all: Vec<Vec<u8>> = manifest(&fb).into_values().map(|e| e.3).collect();
    for name in &names {
        let last = format!("4 {name:.28}\n");
        let has = |t: &Vec<u8>| String::from_utf8_lossy(t).contains(&last);
        assert!(all.iter().any(has), "{last:?}");
    }
    assert_eq!(manifest(&fa), manifest(&fb));
    a.stop().unwrap();
    b.stop().unwrap();
}

#[test]
fn a_file_saved_over_one_that_is_written_through_an_old_inode() {
    let d = detached();
    let (fa, fb) = (fs(&d.a), fs(&d.b));
    let end = d.text.len() as u64;
    for n in 0..5 {
        fa.write(d.held, end + n * 4, format!("a {n}\n").as_bytes())
            .unwrap();
        let now = get(&fa, "text");
        let (old, new) = (format!("line 1{n}\n"), format!("LINE 1{n}\n"));
        put(&fa, ".tmp", &now.replace(&old, &new));
        let (from, to) = ((ROOT_INO, &b".tmp"[..]), (ROOT_INO, &b"text"[..]));
        fa.rename(from, to, RenameMode::Replace).unwrap();
    }
    fa.release(d.held, true);
    sync(&d.a, &d.b);
    for f in [&fa, &fb] {
        let all: String = manifest(f)
            .into_values()
            .map(|e| String::from_utf8(e.3).unwrap())
            .collect();
        for n in 0..5 {
            assert!(all.contains(&format!("a {n}\n")), "{n} in {all}");
            assert!(all.contains(&format!("LINE 1{n}\n")), "1{n} in {all}");
        }
    }
    assert_eq!(manifest(&fa), manifest(&fb));
    d.a.stop().unwrap();
    d.b.stop().unwrap();
}

/// Two nodes that show one text, merged from an edit of each.
fn merged() -> ([tempfile::TempDir; 2], Arc<Volume>, Arc<Volume>) {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (a, b) = (volume(dirs[0].path(), 1), volume(dirs[1].path(), 2));
    let text = lines(40);
    put(&fs(&a), "text", &text);
    put(&fs(&a), "other", "other");
    sync(&a, &b);
    put(&fs(&a), "text", &text.replace("line 33\n", "LINE 33\n"));
    put(&fs(&b), "text", &text.replace("line 3\n", "LINE 3\n"));
    sync(&a, &b);
    // The second made none of the files, so that no move of one passes for a save.
    (dirs, b, a)
}

#[test]
fn merged_bytes_that_a_move_names_are_kept() {
    let (_dirs, a, b) = merged();
    let fa = fs(&a);
    let text = walk(&fa, "text");
    let blob = a.lock().inode(text).unwrap().shown.blob;
    assert!(!a.is_stored(&blob).unwrap(), "the merge alone has it");
    // While the volume's thread is at something else, nothing is committed.
    let (go, going) = std::sync::mpsc::sync_channel::<()>(0);
    let v = a.clone();
    let busy = std::thread::spawn(move || {
        v.amend(move |_, _, _| {
            going.recv().unwrap();
            going.recv().unwrap();
            Err::<Amendment<()>, ()>(())
        })
        .unwrap()
    });
    go.send(()).unwrap();
    let (from, to) = ((ROOT_INO, &b"text"[..]), (ROOT_INO, &b"other"[..]));
    fa.rename(from, to, RenameMode::Replace).unwrap();
    let named: Vec<Oid> = {
        let live = a.lock();
        live.pending
            .iter()
            .filter_map(|p| p.change.blob())
            .collect()
    };
    assert!(named.contains(&blob), "{named:?}");
    for blob in named {
        assert!(a.is_stored(&blob).unwrap(), "{blob} is nowhere");
    }
    go.send(()).unwrap();
    assert!(busy.join().unwrap().is_err());
    a.flush_all().unwrap();
    fsck(&a);
    a.stop().unwrap();
    b.stop().unwrap();
}

/// Two nodes made one name at once, or wrote to one file: the volume of one, and the name of the
/// copy.
fn with_a_copy(dir: &Path, of_one_file: bool) -> (Arc<Volume>, String) {
    let (a, b) = (volume(&dir.join("1"), 1), volume(&dir.join("2"), 2));
    if of_one_file {
        put(&fs(&a), "same", "before\0");
        sync(&a, &b);
    }
    put(&fs(&a), "same", "of a\0");
    put(&fs(&b), "same", "of b\0");
    sync(&a, &b);
    b.stop().unwrap();
    let names = manifest(&fs(&a));
    let copy = names.into_keys().find(|k| k.contains(".conflict-"));
    (a, copy.unwrap().trim_start_matches('/').to_owned())
}

#[test]
fn what_is_written_to_a_copy_that_is_moved_survives_a_crash() {
    let ways = ["moved", "exchanged", "replaced", "saved over", "linked"];
    for (way, of_one_file) in ways.iter().flat_map(|w| [(*w, false), (*w, true)]) {
        let dir = tempfile::tempdir().unwrap();
        let (v, copy) = with_a_copy(dir.path(), of_one_file);
        let f = fs(&v);
        put(&f, "other", "other");
        v.flush_all().unwrap();
        let was = get(&f, &copy);
        let ino = walk(&f, &copy);
        f.open(ino, true, false).unwrap();
        f.write(ino, 0, b"IT").unwrap();
        f.fsync(ino).unwrap();
        let (from, to) = ((ROOT_INO, copy.as_bytes()), (ROOT_INO, b"other".as_slice()));
        match way {
            "moved" => f
                .rename(from, (ROOT_INO, b"away"), RenameMode::NoReplace)
                .unwrap(),
            "exchanged" => f.exchange(from, to).unwrap(),
            "linked" => drop(f.link(ino, ROOT_INO, b"x").unwrap()),
            "replaced" => f.rename(from, to, RenameMode::Replace).unwrap(),
            _ => {
                put(&f, "new", "new");
                f.rename((ROOT_INO, b"new"), from, RenameMode::Replace)
                    .unwrap();
            }
        }
        f.write(ino, 2, b"!").unwrap();
        f.fsync(ino).unwrap();
        let before = contents(&f);
        drop(f);
        let v = crash(&v, &dir.path().join("1"), 1);
        let f = fs(&v);
        let after = contents(&f);
        assert_eq!(after, before, "{way}");
        let text = format!("IT!{}", &was[3..]);
        assert_eq!(
            after.values().any(|t| *t == text),
            way != "saved over",
            "{way}: {after:?}"
        );
        v.stop().unwrap();
    }
}

fn contents(f: &Fs) -> BTreeMap<String, String> {
    let names = manifest(f).into_keys();
    names
        .map(|n| (n.clone(), get(f, n.trim_start_matches('/'))))
        .collect()
}

#[test]
fn a_copy_of_a_linked_file_that_is_removed_stays_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (v, copy) = with_a_copy(dir.path(), true);
    let f = fs(&v);
    f.link(walk(&f, "same"), ROOT_INO, b"other").unwrap();
    v.flush_all().unwrap();
    let ino = walk(&f, &copy);
    assert_eq!(f.getattr(ino).unwrap().nlink, 1);
    assert_eq!(f.getattr(walk(&f, "same")).unwrap().nlink, 2);
    f.open(ino, true, false).unwrap();
    f.unlink(ROOT_INO, copy.as_bytes()).unwrap();
    assert_eq!(f.getattr(ino).unwrap().nlink, 0);
    f.write(ino, 0, b"late").unwrap();
    f.release(ino, true);
    v.flush_all().unwrap();
    let names: Vec<String> = manifest(&f).into_keys().collect();
    assert_eq!(names, ["/other", "/same"]);
    v.stop().unwrap();
}

#[test]
fn a_copy_that_is_moved_after_the_file_above_it_went_has_the_name_it_was_given() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (a, b) = (volume(dirs[0].path(), 1), volume(dirs[1].path(), 2));
    let (fa, fb) = (fs(&a), fs(&b));
    put(&fa, "f", "old");
    fa.link(walk(&fa, "f"), ROOT_INO, b"other").unwrap();
    sync(&a, &b);
    // It lives on without a name of its own, beside another file at the name it had.
    put(&fa, "f", "of a");
    fb.unlink(ROOT_INO, b"other").unwrap();
    fb.unlink(ROOT_INO, b"f").unwrap();
    b.flush_all().unwrap();
    put(&fb, "f", "of b");
    sync(&a, &b);
    let names = |f: &Fs| -> Vec<String> { manifest(f).into_keys().collect() };
    let [_, copy] = names(&fa).try_into().unwrap();
    let kept = get(&fa, &copy);
    let copy = copy.trim_start_matches('/').as_bytes();
    let main = walk(&fa, "f");
    a.while_still({
        let (fa, copy) = (fa.clone(), copy.to_vec());
        move || {
            fa.unlink(ROOT_INO, b"f").unwrap();
            let to = (ROOT_INO, b"g".as_slice());
            fa.rename((ROOT_INO, &copy), to, RenameMode::NoReplace)
                .unwrap();
        }
    })
    .unwrap();
    fa.forget(main, u64::MAX);
    a.flush_all().unwrap();
    sync(&a, &b);
    assert_eq!(names(&fb), ["/g"]);
    assert_eq!(names(&fa), ["/g"]);
    assert_eq!(get(&fa, "g"), kept);
    a.stop().unwrap();
    b.stop().unwrap();
}

#[test]
fn a_name_that_a_file_had_elsewhere_goes_when_it_is_moved_from_another_one_here() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (a, b) = (volume(dirs[0].path(), 1), volume(dirs[1].path(), 2));
    let (fa, fb) = (fs(&a), fs(&b));
    put(&fa, "f", "one");
    sync(&a, &b);
    let from = (ROOT_INO, b"f".as_slice());
    let there = (ROOT_INO, b"there".as_slice());
    fb.rename(from, there, RenameMode::NoReplace).unwrap();
    b.flush_all().unwrap();
    // It waits with the bytes that are being written.
    let ino = walk(&fa, "f");
    fa.open(ino, true, false).unwrap();
    fa.write(ino, 0, b"two").unwrap();
    let here = (ROOT_INO, b"here".as_slice());
    fa.rename(from, here, RenameMode::NoReplace).unwrap();
    pull(&b, &a);
    walk(&fa, "there");
    fa.release(ino, true);
    sync(&a, &b);
    for f in [&fa, &fb] {
        assert_eq!(manifest(f).into_keys().collect::<Vec<_>>(), ["/here"]);
        assert_eq!(get(f, "here"), "two");
    }
    a.stop().unwrap();
    b.stop().unwrap();
}

#[test]
fn a_copy_that_takes_the_plain_name_and_another_one_at_once_is_no_copy_there() {
    for of_one_file in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (v, copy) = with_a_copy(dir.path(), of_one_file);
        let f = fs(&v);
        f.unlink(ROOT_INO, b"same").unwrap();
        put(&f, "other", "other");
        v.flush_all().unwrap();
        let was = get(&f, &copy);
        v.while_still({
            let (f, copy) = (f.clone(), copy.clone());
            move || {
                for (from, to) in [(&*copy, "same"), ("same", "other")] {
                    let (from, to) = ((ROOT_INO, from.as_bytes()), (ROOT_INO, to.as_bytes()));
                    f.rename(from, to, RenameMode::Replace).unwrap();
                }
            }
        })
        .unwrap();
        v.flush_all().unwrap();
        let now: Vec<_> = contents(&f).into_iter().collect();
        assert_eq!(now, [("/other".to_owned(), was)], "{of_one_file}");
        v.stop().unwrap();
    }
}
