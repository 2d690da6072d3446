//! Bytes of large files that go: nothing goes with them that others need.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::large::{CUT, LEN, bytes, head, line, noise, put_bytes};
use super::*;
use crate::fs::{Access, Opened};
use crate::volume::evict::Known;

fn known(heads: &[Oid]) -> Known {
    let heads = heads.to_vec();
    Arc::new(move || heads.clone())
}

/// Two that are the same for their first two thirds.
fn alike() -> [Vec<u8>; 2] {
    let mut a = noise(71, LEN);
    let mut b = a.clone();
    a[LEN * 2 / 3..].copy_from_slice(&noise(72, LEN - LEN * 2 / 3));
    b[LEN * 2 / 3..].copy_from_slice(&noise(73, LEN - LEN * 2 / 3));
    [a, b]
}

/// Commits a file while it is open: its bytes are in packs, but for those that are here already.
fn put_open(v: &Arc<Volume>, name: &str, bytes: &[u8]) -> Ino {
    let f = fs(v);
    let ino = f.create(ROOT_INO, name.as_bytes(), 0o644, ME, true);
    let ino = ino.unwrap().ino;
    for (n, part) in bytes.chunks(1 << 20).enumerate() {
        f.write(ino, (n << 20) as u64, part).unwrap();
    }
    v.flush_all().unwrap();
    ino
}

fn is_container(v: &Volume, head: &Oid) -> bool {
    let sha256 = v.large_head(head).unwrap().sha256;
    v.chunks().unwrap().container(&sha256).unwrap().is_some()
}

fn lacks(v: &Volume, head: &Oid) -> usize {
    v.lacks(head, usize::MAX).unwrap().len()
}

#[test]
fn what_goes_takes_nothing_of_a_file_that_stays() {
    ABOVE.set(CUT);
    let root = tempfile::tempdir().unwrap();
    let [x, y] = alike();
    let other = volume(&root.path().join("other"), 2);
    put_bytes(&fs(&other), "x", &x);
    other.flush_all().unwrap();
    let v = volume(&root.path().join("v"), 1);
    put_bytes(&fs(&v), "x", &x);
    v.flush_all().unwrap();
    put_open(&v, "y", &y);
    let (hx, hy) = (head(&v, "x"), head(&v, "y"));
    v.meet().unwrap();
    let v = crash(&v, &root.path().join("v"), 1);
    let all = known(&[hx, hy]);
    assert!(is_container(&v, &hx) && !is_container(&v, &hy));
    assert!(v.evict(vec![hx], &all).unwrap().is_empty(), "it counts");
    assert_eq!(lacks(&v, &hx), 0);
    v.give_away(&[hx]).unwrap();
    assert_eq!(v.evict(vec![hx], &all).unwrap(), [hx]);
    let gone = lacks(&v, &hx);
    assert!(gone > 0 && lacks(&v, &hy) == 0, "{gone}");
    // The same after a crash, and once more.
    let v = crash(&v, &root.path().join("v"), 1);
    assert_eq!((lacks(&v, &hx), lacks(&v, &hy)), (gone, 0));
    assert!(v.is_away(&hx));
    assert_eq!(v.evict(vec![hx], &all).unwrap(), [hx]);
    let f = fs(&v);
    assert!(bytes(&f, "y") == y);
    // It is read from elsewhere, all that lacks and no more.
    let asked = line(&other, &v);
    let out = root.path().join("out");
    v.write_out(&hx, &std::fs::File::create(&out).unwrap())
        .unwrap();
    assert!(std::fs::read(&out).unwrap() == x);
    assert_eq!(asked.load(Ordering::Relaxed), gone);
}

#[test]
fn what_a_program_has_open_stays() {
    ABOVE.set(CUT);
    let root = tempfile::tempdir().unwrap();
    let v = volume(&root.path().join("v"), 1);
    let content = noise(5, LEN);
    put_bytes(&fs(&v), "x", &content);
    v.flush_all().unwrap();
    let hx = head(&v, "x");
    v.stop().unwrap();
    drop(v);
    let v = volume(&root.path().join("v"), 1);
    let f = fs(&v);
    let ino = walk(&f, "x");
    let access = Access {
        write: false,
        keeps: true,
        direct: true,
    };
    let Opened::Direct(open) = f.open_as(ino, access).unwrap() else {
        panic!("no container")
    };
    v.give_away(&[hx]).unwrap();
    assert!(v.evict(vec![hx], &known(&[hx])).unwrap().is_empty());
    assert_eq!(lacks(&v, &hx), 0);
    drop(open);
    f.release(ino, false);
    v.lock().inodes.remove(&ino);
    assert_eq!(v.evict(vec![hx], &known(&[hx])).unwrap(), [hx]);
    assert!(lacks(&v, &hx) > 0);
}

#[test]
fn what_is_written_again_counts_again() {
    ABOVE.set(CUT);
    let root = tempfile::tempdir().unwrap();
    let home = root.path().join("v");
    let v = volume(&home, 1);
    let content = noise(6, LEN);
    let f = fs(&v);
    put_bytes(&f, "x", &content);
    v.flush_all().unwrap();
    let hx = head(&v, "x");
    // Who saw that it was not all here before it was written does not take it away.
    v.forgo(&[hx]).unwrap();
    assert!(!v.is_away(&hx));
    v.give_away(&[hx]).unwrap();
    put_bytes(&f, "again", &content);
    v.flush_all().unwrap();
    assert_eq!(head(&v, "again"), hx);
    assert!(!v.is_away(&hx), "nobody promised to keep this one");
    v.stop().unwrap();
    drop((f, v));
    let v = volume(&home, 1);
    assert!(!v.is_away(&hx));
    assert!(v.evict(vec![hx], &known(&[])).unwrap().is_empty());
    assert!(bytes(&fs(&v), "again") == content);
}

#[test]
fn a_file_that_came_meanwhile_keeps_its_pieces() {
    ABOVE.set(CUT);
    let root = tempfile::tempdir().unwrap();
    let v = volume(&root.path().join("v"), 1);
    let [x, y] = alike();
    put_bytes(&fs(&v), "x", &x);
    v.flush_all().unwrap();
    let hx = head(&v, "x");
    v.meet().unwrap();
    v.stop().unwrap();
    drop(v);
    let v = volume(&root.path().join("v"), 1);
    v.meet().unwrap();
    v.give_away(&[hx]).unwrap();
    // Between the first look at what is known and the last.
    let looked = Arc::new(AtomicUsize::new(0));
    let (n, weak, late) = (looked.clone(), Arc::downgrade(&v), y.clone());
    let all: Known = Arc::new(move || {
        if n.fetch_add(1, Ordering::Relaxed) == 0 {
            put_open(&weak.upgrade().unwrap(), "y", &late);
        }
        Vec::new()
    });
    assert_eq!(v.evict(vec![hx], &all).unwrap(), [hx]);
    assert_eq!(looked.load(Ordering::Relaxed), 2);
    assert!(lacks(&v, &hx) > 0);
    let hy = head(&v, "y");
    assert!(!is_container(&v, &hy));
    let v = crash(&v, &root.path().join("v"), 1);
    assert_eq!(lacks(&v, &hy), 0);
    assert!(bytes(&fs(&v), "y") == y);
}
