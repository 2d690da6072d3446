//! Containers that are called by one file's SHA-256 and have the pieces of another.

use super::*;

/// A container of these chunks, by the name of a file that they are not.
fn lie(c: &Chunks, name: &Sha256, ns: &[u64]) {
    let (other, _) = file_of(ns);
    c.begin(*name, &other.pieces).unwrap();
    for (n, of) in (0..).zip(ns) {
        c.fill(name, n, &chunk(*of).1).unwrap();
    }
    c.flush().unwrap();
}

#[test]
fn what_a_container_of_others_took_from_packs_does_not_go_with_it() {
    let dir = folder();
    let c = open(dir.path());
    let (mine, _) = file_of(&[1, 2]);
    for n in [1, 2] {
        c.put(&chunk(n).0, &chunk(n).1).unwrap();
    }
    c.flush().unwrap();
    let (truth, bytes) = file_of(&[3, 4]);
    lie(&c, &truth.sha256, &[1, 2, 9]);
    assert_eq!(c.stats().live_bytes, 0, "they are in the container");
    adopt(&c, &[3, 4]).unwrap();
    let check = |c: &Chunks| {
        assert!(c.lacks(&mine.pieces, 9).is_empty());
        for n in [1, 2] {
            assert_eq!(c.read(&chunk(n).0).unwrap(), Some(chunk(n).1), "{n}");
        }
        assert!(content(c, &truth.sha256) == Some((bytes.clone(), true)));
    };
    check(&c);
    drop(c);
    check(&open(dir.path()));
}

/// It was sent, and nobody sends it again.
#[test]
fn a_piece_is_not_taken_for_another_that_is_in_its_place() {
    let dir = folder();
    let c = open(dir.path());
    let (truth, _) = file_of(&[1, 2]);
    lie(&c, &truth.sha256, &[7, 8]);
    let filled = c.fill(&truth.sha256, 0, &chunk(1).1);
    assert!(matches!(filled, Err(ChunkError::Mismatch(_))), "{filled:?}");
}
