//! Files that are too large for memory while they are written: their overlay files.

use super::*;
use crate::base::limit::SMALL_FILE_BYTES_MAX;
use crate::volume::inode::Data;

const LARGE: usize = 256 << 10;
const _: () = assert!(LARGE as u64 > SMALL_FILE_BYTES_MAX);

fn large(letter: &str) -> String {
    letter.repeat(LARGE)
}

/// Overlay files on the disk.
fn overlays(v: &Volume) -> usize {
    std::fs::read_dir(v.dir().join("overlay")).unwrap().count()
}

fn wait_for_overlays(v: &Volume, at_most: usize) {
    let begin = Instant::now();
    while overlays(v) > at_most {
        let n = overlays(v);
        assert!(begin.elapsed() < Duration::from_secs(20), "{n} stay");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_small_file_saved_over_a_large_one_that_is_written_survives_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("v");
    let v = volume(&home, 1);
    let f = fs(&v);
    put(&f, "text", &large("a"));
    v.flush_all().unwrap();
    let v = crash_after(&v, &home, 1, move || {
        let old = walk(&f, "text");
        f.open(old, true, false).unwrap();
        f.write(old, 0, b"B").unwrap();
        put(&f, "tmp", "saved");
        let (from, to) = (
            (ROOT_INO, b"tmp".as_slice()),
            (ROOT_INO, b"text".as_slice()),
        );
        f.rename(from, to, RenameMode::Replace).unwrap();
        f.fsync(walk(&f, "text")).unwrap();
    });
    let is = get(&fs(&v), "text");
    assert_eq!(is.get(..5), Some("saved"), "{} bytes", is.len());
    assert_eq!(is.len(), 5);
    v.stop().unwrap();
}

#[test]
fn overlay_files_go_when_nothing_needs_them() {
    let dir = tempfile::tempdir().unwrap();
    let v = volume(dir.path(), 1);
    let f = fs(&v);
    // Closed before their commit, which the kernel still knows.
    for n in 0..100 {
        put(&f, &format!("closed{n}"), &large("a"));
    }
    v.flush_all().unwrap();
    wait_for_overlays(&v, crate::volume::blobs::OVERLAYS_KEPT_MAX);
    wait_for_overlays(&v, 0);
    assert!(get(&f, "closed7") == large("a"));
    // Cut while it is open; removed before its first commit.
    let open = f.create(ROOT_INO, b"open", 0o644, ME, true).unwrap().ino;
    f.write(open, 0, large("b").as_bytes()).unwrap();
    v.flush_all().unwrap();
    f.open(open, true, true).unwrap();
    put(&f, "gone", &large("c"));
    let gone = walk(&f, "gone");
    f.unlink(ROOT_INO, b"gone").unwrap();
    f.forget(gone, u64::MAX);
    v.flush_all().unwrap();
    wait_for_overlays(&v, 0);
    f.write(open, 0, b"d").unwrap();
    assert_eq!(get(&f, "open"), "d");
    v.stop().unwrap();
}

#[test]
fn a_large_file_that_is_written_again_and_again_keeps_its_overlay_file() {
    let dir = tempfile::tempdir().unwrap();
    let v = volume(dir.path(), 1);
    let f = fs(&v);
    put(&f, "log", &large("a"));
    v.flush_all().unwrap();
    let first: Vec<_> = std::fs::read_dir(v.dir().join("overlay"))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    let ino = walk(&f, "log");
    for n in 0..5 {
        f.open(ino, true, false).unwrap();
        f.write(ino, LARGE as u64 + n, b"b").unwrap();
        f.release(ino, true);
        v.flush_all().unwrap();
    }
    assert!(v.dir().join("overlay").join(&first[0]).exists());
    assert!(get(&f, "log") == large("a") + "bbbbb");
    v.stop().unwrap();
}

#[test]
fn bytes_that_are_in_a_commit_are_not_kept_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let v = volume(dir.path(), 1);
    let f = fs(&v);
    let in_memory = |ino| {
        matches!(
            v.lock().inodes.get(&ino).map(|i| &i.data),
            Some(Data::Memory(_))
        )
    };
    put(&f, "closed", "one");
    let closed = walk(&f, "closed");
    put(&f, "open", "two");
    let open = walk(&f, "open");
    f.open(open, true, false).unwrap();
    f.write(open, 0, b"TWO").unwrap();
    assert!(in_memory(closed) && in_memory(open));
    v.flush_all().unwrap();
    assert!(!in_memory(closed));
    // Who has it open may go on; then it is in the commit, too.
    assert!(in_memory(open));
    f.release(open, true);
    assert!(!in_memory(open));
    assert_eq!(
        (get(&f, "closed"), get(&f, "open")),
        ("one".into(), "TWO".into())
    );
    f.open(closed, true, false).unwrap();
    f.write(closed, 3, b" more").unwrap();
    f.release(closed, true);
    assert_eq!(get(&f, "closed"), "one more");
    v.flush_all().unwrap();
    assert_eq!(get(&f, "closed"), "one more");
    v.stop().unwrap();
}
