//! Files put together, read in part, taken over or found to be here; and which there are.

use std::time::{Duration, SystemTime};

use super::*;
use crate::chunk::manifest::Place;

fn places(s: &Survey) -> Vec<Place> {
    let mut at = 0;
    let place = |(index, piece): (u32, &Piece)| {
        let place = Place {
            index,
            at,
            piece: *piece,
        };
        at = place.end();
        place
    };
    (0u32..).zip(&s.pieces).map(place).collect()
}

/// A file of chunks that are in packs, in a container, and zeros.
fn spread(c: &Chunks) -> (Survey, Vec<u8>) {
    let (mut s, mut bytes) = file_of(&[1, 2, 3, 4]);
    let zeros = vec![0; PIECE_BYTES_MAX as usize];
    let id = ChunkId::of(&zeros);
    let len = PIECE_BYTES_MAX;
    s.pieces.insert(0, Piece { id, len });
    s.len += u64::from(len);
    bytes.splice(0..0, zeros);
    let tail = vec![0; 700];
    let id = ChunkId::of(&tail);
    s.pieces.push(Piece { id, len: 700 });
    s.len += 700;
    bytes.extend_from_slice(&tail);
    c.put(&id, &tail).unwrap();
    for n in [1, 4] {
        c.put(&chunk(n).0, &chunk(n).1).unwrap();
    }
    adopt(c, &[2, 3]).unwrap();
    (s, bytes)
}

#[test]
fn a_file_is_put_together_from_wherever_its_chunks_are() {
    let dir = folder();
    let c = open(dir.path());
    let (s, bytes) = spread(&c);
    assert!(c.lacks(&s.pieces, 9).is_empty());
    let mut to = tempfile::tempfile_in(dir.path()).unwrap();
    to.write_all_at(&[9; 5000], 3 << 20).unwrap();
    assert_eq!(c.copy_out(&s.pieces, &to).unwrap(), s.len);
    let mut got = Vec::new();
    io::Read::read_to_end(&mut to, &mut got).unwrap();
    assert!(got == bytes);
    assert!(to.metadata().unwrap().blocks() * 512 < 100_000, "a hole");
    // One is not here.
    c.remove(&[chunk(4).0]).unwrap();
    assert_eq!(c.lacks(&s.pieces, 9), [4]);
    assert!(c.lacks(&s.pieces, 0).is_empty());
    let got = c.copy_out(&s.pieces, &to);
    assert!(matches!(got, Err(ChunkError::Lacking(id)) if id == chunk(4).0));
    // One that is here is said to have another length.
    let wrong = Piece {
        id: chunk(1).0,
        len: 7,
    };
    let got = c.copy_piece(&wrong, 0, &to);
    assert!(matches!(got, Err(ChunkError::Mismatch(id)) if id == chunk(1).0));
    // One is damaged.
    let (two, _) = file_of(&[2, 3]);
    flip(&container::data_path(dir.path(), &two.sha256), 5);
    let got = c.copy_piece(&two.pieces[0], 0, &to);
    assert!(matches!(got, Err(ChunkError::Damaged(id)) if id == chunk(2).0));
}

#[test]
fn a_part_is_read_from_the_pieces_that_have_it() {
    let dir = folder();
    let c = open(dir.path());
    let (s, bytes) = spread(&c);
    let all = places(&s);
    let mb = 1u64 << 20;
    for (from, len) in [
        (0, 10),
        (mb - 5, 9),
        (mb - 5, 3000),
        (mb, 1),
        (mb + 1000, 100_000),
        (s.len - 1, 5),
        (s.len, 5),
        (5, 0),
    ] {
        let got = c.range(&all, from, len).unwrap();
        let at = usize::try_from(from).unwrap();
        let end = (at + len).min(bytes.len());
        assert!(got == bytes[at..end], "{len} from {from}");
        // Those that are behind are not needed, nor those before.
        let first = all.iter().position(|p| p.end() > from);
        let some: Vec<_> = all[first.unwrap_or(all.len())..].to_vec();
        assert!(c.range(&some, from, len).unwrap() == got);
    }
    // As far as they reach.
    assert_eq!(c.range(&all[1..2], mb + 5, 9999).unwrap(), chunk(1).1[5..]);
    assert!(c.range(&all[2..], mb + 5, 9999).unwrap().is_empty());
    c.remove(&[chunk(4).0]).unwrap();
    assert!(matches!(
        c.range(&all, mb, 9999),
        Err(ChunkError::Lacking(_))
    ));
    assert_eq!(c.range(&all, mb, 20).unwrap(), chunk(1).1[..20]);
}

#[test]
fn a_file_whose_chunks_are_here_is_removed_or_kept_as_the_caller_says() {
    let dir = folder();
    let c = open(dir.path());
    let (survey, bytes) = file_of(&[1, 2, 3]);
    adopt(&c, &[1, 2]).unwrap();
    let path = dir.path().join("given");
    let give = |as_container| {
        fs::write(&path, &bytes).unwrap();
        let got = c.adopt(&path, &survey, as_container).unwrap();
        assert!(!path.exists());
        got
    };
    c.put(&chunk(3).0, &chunk(3).1).unwrap();
    assert_eq!(give(false), Adopted::Here);
    assert!(c.container(&survey.sha256).unwrap().is_none());
    // What it rests on is durable.
    let again = open(dir.path());
    assert_eq!(again.read(&chunk(3).0).unwrap(), Some(chunk(3).1));
    c.remove(&[chunk(3).0]).unwrap();
    assert_eq!(give(false), Adopted::Container);
    assert_eq!(give(true), Adopted::Here);
    c.evict(&survey.sha256, &mut |_| true).unwrap();
    assert_eq!(give(true), Adopted::Container);
    assert_eq!(content(&c, &survey.sha256), Some((bytes.clone(), true)));
}

#[test]
fn a_file_that_is_here_completes_the_container_that_was_being_filled() {
    let dir = folder();
    let c = open(dir.path());
    let (survey, bytes) = file_of(&[1, 2, 3]);
    c.put(&chunk(3).0, &chunk(3).1).unwrap();
    c.begin(survey.sha256, &survey.pieces).unwrap();
    c.fill(&survey.sha256, 1, &chunk(2).1).unwrap();
    assert!(c.fill_from_here(&survey.sha256, 2).unwrap());
    assert!(!c.fill_from_here(&survey.sha256, 0).unwrap());
    assert_eq!(c.read(&chunk(1).0).unwrap(), None);
    adopt(&c, &[1, 2, 3]).unwrap();
    for c in [c, open(dir.path())] {
        assert_eq!(content(&c, &survey.sha256), Some((bytes.clone(), true)));
        for n in [1, 2, 3] {
            assert_eq!(c.read(&chunk(n).0).unwrap(), Some(chunk(n).1));
        }
        assert_eq!(c.stats().live_bytes, 0, "not in packs any more");
    }
}

#[test]
fn what_was_not_used_for_long_is_known_also_after_a_restart() {
    let dir = folder();
    let c = open(dir.path());
    let all = [[1, 2], [3, 4], [5, 6]].map(|ns| adopt(&c, &ns).unwrap());
    let past = SystemTime::now() - Duration::from_secs(1000);
    for (n, sha256) in (0u32..).zip(&all) {
        let path = container::sidecar_path(dir.path(), sha256);
        let then = past + n * Duration::from_secs(9);
        disk::open(&path).unwrap().set_modified(then).unwrap();
    }
    c.container(&all[0]).unwrap().unwrap();
    c.read(&chunk(3).0).unwrap().unwrap();
    c.scrub(u64::MAX).unwrap();
    let (half, _) = file_of(&[7, 8]);
    c.begin(half.sha256, &half.pieces).unwrap();
    for c in [c, open(dir.path())] {
        let mut got = c.containers();
        got.sort_by_key(|h| h.used);
        let order: Vec<_> = got.iter().map(|h| h.sha256).collect();
        assert_eq!(order, [all[1], all[2], all[0], half.sha256]);
        let sizes: Vec<_> = got.iter().map(|h| h.len == h.bytes).collect();
        assert_eq!(sizes, [true, true, true, false]);
        assert_eq!(got[0].len, file_of(&[3, 4]).0.len);
        assert_eq!(got[3].bytes, 0);
    }
}
