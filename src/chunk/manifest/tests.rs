//! Shapes, sizes and bounds of manifests.

use std::cell::RefCell;
use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// Blobs by their names, and which were asked for.
#[derive(Default)]
struct Blobs {
    all: HashMap<Oid, Vec<u8>>,
    asked: RefCell<Vec<Oid>>,
}

impl Blobs {
    fn write(&mut self, s: &Survey) -> Oid {
        let mut put = |bytes: Vec<u8>| {
            assert!(bytes.len() <= NODE_BYTES_MAX);
            let hash = blake3::hash(&bytes);
            let id = Oid::from(*hash.as_bytes().first_chunk::<20>().unwrap());
            self.all.insert(id, bytes);
            Ok::<_, ()>(id)
        };
        write(s, &mut put).unwrap()
    }

    fn get(&self) -> impl FnMut(&Oid) -> Result<Vec<u8>, ()> {
        |id| {
            self.asked.borrow_mut().push(*id);
            self.all.get(id).cloned().ok_or(())
        }
    }

    fn asked(&self) -> usize {
        self.asked.take().len()
    }

    /// Bytes of what a write of this survey adds, as blobs are before zlib.
    fn added(&mut self, s: &Survey) -> (usize, usize) {
        let before = self.all.clone();
        self.write(s);
        let new = self.all.iter().filter(|(id, _)| !before.contains_key(*id));
        new.fold((0, 0), |(n, sum), (_, b)| (n + 1, sum + b.len()))
    }
}

fn piece(n: u64) -> Piece {
    let id = ChunkId::of(&n.to_le_bytes());
    let more = u32::from(id.0[9]) * 1000 + u32::from(id.0[10]);
    let len = PIECE_BYTES_MIN + more;
    Piece { id, len }
}

fn survey(pieces: Vec<Piece>) -> Survey {
    let len = pieces.iter().map(|p| u64::from(p.len)).sum();
    Survey {
        len,
        sha256: Sha256([len.to_le_bytes()[0]; 32]),
        pieces,
    }
}

fn pieces(n: u64) -> Vec<Piece> {
    (0..n).map(piece).collect()
}

#[test]
fn what_was_written_is_read_and_found_by_offset() {
    for n in [0, 1, 2, 128, 129, 1000, 20_000] {
        let mut blobs = Blobs::default();
        let mut s = survey(pieces(n));
        if let Some(last) = s.pieces.last_mut() {
            s.len -= u64::from(last.len - 1);
            last.len = 1;
        }
        let root = blobs.write(&s);
        assert_eq!(read(&root, &mut blobs.get()).unwrap(), s);
        let all = blobs.asked();
        assert_eq!(all, blobs.all.len());
        let root_bytes = &blobs.all[&root];
        let said = head(root_bytes).unwrap();
        assert_eq!((said.len, said.sha256), (s.len, s.sha256));
        let mut at = 0;
        for (index, p) in s.pieces.iter().enumerate() {
            let end = at + u64::from(p.len);
            if index % 97 == 0 || end == s.len {
                for offset in [at, end - 1] {
                    let got = piece_at(&root, offset, &mut blobs.get()).unwrap().unwrap();
                    assert_eq!((got.index as usize, got.at, got.piece), (index, at, *p));
                    assert!(blobs.asked() <= 4, "a path");
                }
            }
            at = end;
        }
        let behind = piece_at(&root, s.len, &mut blobs.get()).unwrap();
        assert_eq!(behind, None);
    }
}

#[test]
fn the_shape_is_a_format() {
    let mut blobs = Blobs::default();
    let root = blobs.write(&survey(pieces(5000)));
    assert_eq!(blobs.all.len(), 84);
    assert_eq!(root.to_string(), "59ed391237817ccf5ba574fc665c9bdb0852758f");
}

#[test]
fn equal_pieces_in_a_row_are_few_nodes() {
    let mut blobs = Blobs::default();
    let zeros = Piece {
        len: PIECE_BYTES_MAX,
        ..piece(0)
    };
    let s = survey(vec![zeros; 20_000]);
    let root = blobs.write(&s);
    assert!(blobs.all.len() < 12, "{}", blobs.all.len());
    assert_eq!(read(&root, &mut blobs.get()).unwrap(), s);
}

/// Of a file of 1 GiB.
#[test]
fn a_small_change_is_a_few_nodes() {
    let base = pieces(4096);
    let mut blobs = Blobs::default();
    blobs.write(&survey(base.clone()));
    let whole: usize = blobs.all.values().map(Vec::len).sum();
    assert!((147_000..153_000).contains(&whole), "{whole}");
    let (mut most, mut sum) = (0, 0);
    for n in 0..64 {
        let mut edited = base.clone();
        edited[n * 61 + 7] = piece(1_000_000 + n as u64);
        let (nodes, bytes) = blobs.added(&survey(edited));
        assert!(nodes <= 4, "{nodes}");
        most = most.max(bytes);
        sum += bytes;
    }
    assert!(sum / 64 < 8_000, "{} in the mean", sum / 64);
    assert!(most < 20_000, "{most}");
    // A byte at the start: the first piece is another, or is two.
    let mut first = base;
    first.splice(0..1, [piece(2_000_000), piece(2_000_001)]);
    let (nodes, bytes) = blobs.added(&survey(first));
    assert!(nodes <= 6 && bytes < 25_000, "{nodes} nodes, {bytes} bytes");
    println!(
        "1 GiB: {whole} bytes in all; an edit: {} in the mean, {most} at most; a piece more at the start: {bytes}",
        sum / 64
    );
}

#[test]
fn what_is_missing_is_found_in_what_differs() {
    let base = pieces(20_000);
    let mut blobs = Blobs::default();
    let old = blobs.write(&survey(base.clone()));
    let mut edited = base;
    edited[9_000] = piece(5_000_000);
    edited.insert(15_000, piece(5_000_001));
    edited.remove(100);
    let new = blobs.write(&survey(edited));
    let got = missing(&new, &old, &mut blobs.get()).unwrap();
    let got: Vec<_> = got.iter().map(|p| (p.index, p.piece)).collect();
    assert_eq!(got, [(8_999, piece(5_000_000)), (14_999, piece(5_000_001))]);
    assert!(blobs.asked() < 40);
    assert!(missing(&new, &new, &mut blobs.get()).unwrap().is_empty());
    assert_eq!(blobs.asked(), 0);
}

#[test]
fn what_is_not_a_manifest_is_refused() {
    let mut blobs = Blobs::default();
    let root = blobs.write(&survey(pieces(3000)));
    let good = blobs.all[&root].clone();
    let bad = |at: usize, to: u8| {
        let mut bytes = good.clone();
        bytes[at] = to;
        head(&bytes).unwrap_err()
    };
    assert_eq!(bad(0, 9), BadManifest::Version(9));
    assert_eq!(bad(1, 9), BadManifest::Level(9));
    assert!(matches!(bad(2, !good[2]), BadManifest::Sum(..)));
    assert!(matches!(bad(9, 1), BadManifest::Length(_)));
    assert!(matches!(bad(42 + 20 + 7, 1), BadManifest::Length(_)));
    assert!(matches!(bad(42 + 28 + 3, 1), BadManifest::Length(_)));
    for len in 0..good.len() {
        assert!(head(&good[..len]).is_err(), "{len}");
    }
    let mut long = good.clone();
    long.extend(std::iter::repeat_n(good[42..].to_vec(), 9).flatten());
    assert!(matches!(head(&long).unwrap_err(), BadManifest::Size(_)));
    // A piece shorter than any but the last may be.
    let mut short = survey(pieces(3));
    short.pieces[1].len = 1;
    short.len = short.pieces.iter().map(|p| u64::from(p.len)).sum();
    let root = blobs.write(&short);
    assert!(matches!(
        read(&root, &mut blobs.get()),
        Err(ReadError::Bad(id, BadManifest::Length(1))) if id == root
    ));
    // A node in the place of another.
    let root = Oid::from([1; 20]);
    let child = Oid::from(*good[42..].first_chunk::<20>().unwrap());
    let node = blobs.all[&child].clone();
    let mut wrong = node.clone();
    wrong[1] = 1;
    blobs.all.insert(root, good);
    blobs.all.insert(child, wrong);
    assert!(matches!(
        read(&root, &mut blobs.get()),
        Err(ReadError::Bad(id, BadManifest::Level(1))) if id == child
    ));
    blobs.all.insert(child, node[..node.len() - 36].to_vec());
    assert!(matches!(
        read(&root, &mut blobs.get()),
        Err(ReadError::Bad(_, BadManifest::Sum(..)))
    ));
    blobs.all.remove(&child);
    assert!(matches!(
        piece_at(&root, 5, &mut blobs.get()),
        Err(ReadError::Get(()))
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_edit_ships_what_is_missing(
        len in 0..3000u64,
        edits in prop::collection::vec((0..3u8, any::<usize>(), 0..20u64), 0..6),
    ) {
        let old = pieces(len);
        let mut new = old.clone();
        for (kind, at, n) in edits {
            let at = at % (new.len() + 1);
            match kind {
                0 => new.insert(at, piece(10_000 + n)),
                1 if at < new.len() => new[at] = piece(20_000 + n),
                // Something that the old file has, too, elsewhere.
                2 => new.insert(at, piece(n)),
                _ => drop(new.drain(at.saturating_sub(40)..at)),
            }
        }
        let mut blobs = Blobs::default();
        let (old, new) = (survey(old), survey(new));
        let (old_root, new_root) = (blobs.write(&old), blobs.write(&new));
        prop_assert_eq!(&read(&new_root, &mut blobs.get()).unwrap(), &new);
        let got = missing(&new_root, &old_root, &mut blobs.get()).unwrap();
        for p in &got {
            prop_assert_eq!(new.pieces[p.index as usize], p.piece);
            let before = &new.pieces[..p.index as usize];
            prop_assert_eq!(p.at, before.iter().map(|p| u64::from(p.len)).sum::<u64>());
        }
        let got: HashSet<_> = got.iter().map(|p| p.piece.id).collect();
        for p in &new.pieces {
            prop_assert!(got.contains(&p.id) || old.pieces.contains(p));
        }
    }

    #[test]
    fn no_bytes_break_a_manifest(
        flips in prop::collection::vec((any::<usize>(), any::<usize>(), any::<u8>()), 1..4),
        cut in any::<Option<usize>>(),
        offset in any::<u64>(),
    ) {
        let mut blobs = Blobs::default();
        let old = blobs.write(&survey(pieces(700)));
        let root = blobs.write(&survey(pieces(3000)));
        let mut ids: Vec<Oid> = blobs.all.keys().copied().collect();
        ids.sort_unstable();
        ids.extend([root; 20]);
        for (node, at, to) in flips {
            let bytes = blobs.all.get_mut(&ids[node % ids.len()]).unwrap();
            let at = at % bytes.len();
            bytes[at] = to;
        }
        if let Some(n) = cut {
            let bytes = blobs.all.get_mut(&ids[n % ids.len()]).unwrap();
            bytes.truncate(n % (bytes.len() + 1));
        }
        if let Ok(s) = read(&root, &mut blobs.get()) {
            prop_assert_eq!(s.len, s.pieces.iter().map(|p| u64::from(p.len)).sum::<u64>());
        }
        let _any = piece_at(&root, offset, &mut blobs.get());
        let _any = piece_at(&root, offset >> 32, &mut blobs.get());
        let _any = missing(&root, &old, &mut blobs.get());
        let _any = missing(&old, &root, &mut blobs.get());
    }
}
