//! Cut points as a format, and cutting anew against cutting all.

use std::io::Write;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::*;

/// Bytes that anybody can make again: BLAKE3's stream for a seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    let mut hash = blake3::Hasher::new();
    hash.update(&seed.to_le_bytes());
    hash.finalize_xof().fill(&mut out);
    out
}

fn file_of(bytes: &[u8]) -> File {
    let mut f = tempfile::tempfile().unwrap();
    f.write_all(bytes).unwrap();
    f
}

fn small() -> Cutter {
    Cutter::new(64, 256, 1024)
}

/// Without blocks, holes or threads.
fn plainly(cutter: &Cutter, bytes: &[u8]) -> Vec<Piece> {
    let mut out = Vec::new();
    assert!(cutter.pieces(bytes, true, &mut out).is_empty());
    out
}

fn lengths(s: &Survey) -> Vec<u32> {
    assert_eq!(
        s.pieces.iter().map(|p| u64::from(p.len)).sum::<u64>(),
        s.len
    );
    s.pieces.iter().map(|p| p.len).collect()
}

#[test]
fn cut_points_are_a_format() {
    let bytes = noise(1, 5 << 20);
    let s = survey(&file_of(&bytes)).unwrap();
    let cuts = [
        491_952, 274_245, 519_854, 255_535, 134_248, 517_331, 532_654, 383_019, 398_386, 553_806,
        724_494, 454_944, 2_412,
    ];
    assert_eq!(lengths(&s), cuts);
    assert_eq!(
        s.sha256.to_string(),
        "6da14d3fcc08b30effb34a9406e14a011bf5e82ee888f99d1d6fb52bb8a623d3"
    );
    let all = s.pieces.iter().fold(blake3::Hasher::new(), |mut h, p| {
        h.update(&p.id.0);
        h
    });
    assert_eq!(
        all.finalize().to_hex().as_str(),
        "e6e7f4d3c1dc1fbc566f4cca6aeb06454054803475025fafbc1cd8f9b279fd85"
    );
}

/// As the paper has it: a byte at a time.
#[test]
fn cuts_are_where_a_plain_reading_of_the_algorithm_has_them() {
    let (gear, _) = fastcdc::v2020::get_gear_with_seed(0);
    let plain = |bytes: &[u8]| {
        let mut hash = 0u64;
        for n in 65_536..bytes.len().min(1 << 20) {
            hash = (hash << 1).wrapping_add(gear[usize::from(bytes[n])]);
            let mask = if n < 262_144 {
                0x0000_d917_0753_7000
            } else {
                0x0000_d907_0353_7000
            };
            if hash & mask == 0 {
                return n;
            }
        }
        bytes.len().min(1 << 20)
    };
    for seed in 0..4 {
        let bytes = noise(seed, 3 << 20);
        let mut rest = &bytes[..];
        for p in plainly(&Cutter::standard(), &bytes) {
            assert_eq!(p.len as usize, plain(rest));
            rest = &rest[p.len as usize..];
        }
    }
}

#[test]
fn short_files_are_one_piece_and_nothing_is_none() {
    let s = survey(&file_of(b"")).unwrap();
    assert_eq!((s.len, s.pieces.len()), (0, 0));
    assert_eq!(
        s.sha256.to_string(),
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    );
    for len in [1, 63, 4096, 64 << 10] {
        let bytes = noise(2, len);
        let s = survey(&file_of(&bytes)).unwrap();
        assert_eq!(s.pieces.len(), 1);
        assert_eq!(s.pieces[0].id, ChunkId::of(&bytes));
    }
    let s = survey(&file_of(b"abc")).unwrap();
    assert_eq!(
        s.sha256.to_string(),
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
}

#[test]
fn zeros_are_cut_at_the_largest_size_whether_a_hole_or_written() {
    let (head, tail) = (noise(3, 100_000), noise(4, 700_000));
    let gap = (9 << 20) + 12_345;
    let mut all = head.clone();
    all.resize(head.len() + gap, 0);
    all.extend_from_slice(&tail);
    let sparse = tempfile::tempfile().unwrap();
    sparse.write_all_at(&head, 0).unwrap();
    sparse
        .write_all_at(&tail, (head.len() + gap) as u64)
        .unwrap();
    let (real, hole) = (survey(&file_of(&all)).unwrap(), survey(&sparse).unwrap());
    assert_eq!(real, hole);
    assert_eq!(real.pieces, plainly(&Cutter::standard(), &all));
    assert_eq!(sha256(&sparse).unwrap(), real.sha256);
    let zeros = Cutter::standard().zeros();
    assert_eq!(zeros.len, PIECE_BYTES_MAX);
    let same = real.pieces.iter().filter(|p| **p == zeros).count();
    assert!(same >= 8, "{same}");
    // A hole at the end, and nothing but a hole.
    for len in [0, 1, 5 << 20, (5 << 20) + 1] {
        let f = tempfile::tempfile().unwrap();
        f.set_len(len).unwrap();
        let real = survey(&file_of(&vec![0; usize::try_from(len).unwrap()])).unwrap();
        assert_eq!(survey(&f).unwrap(), real);
    }
}

#[test]
fn a_file_that_gets_shorter_meanwhile_is_an_error() {
    let f = tempfile::tempfile().unwrap();
    let too_long = FILE_BYTES_MAX + 1;
    f.set_len(too_long).unwrap();
    assert_eq!(survey(&f).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    let mut blocks = Blocks {
        made: 0,
        back: sync_channel(1).1,
    };
    let f = file_of(&noise(5, 1000));
    let (give, _parts) = sync_channel(9);
    let got = read_pieces(&small(), (&f, 2000), &mut blocks, &give, &mut |_, _| Ok(()));
    assert_eq!(got.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

/// Bytes with runs in them that repeat, and holes.
fn content() -> impl Strategy<Value = Vec<(u8, u64, usize)>> {
    prop::collection::vec((0..4u8, 0..5u64, 1..6000usize), 0..12)
}

fn build(parts: &[(u8, u64, usize)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (kind, seed, len) in parts {
        match kind {
            0 => out.resize(out.len() + len * 3, 0),
            1 => out.resize(out.len() + len, 7),
            _ => out.extend_from_slice(&noise(*seed, *len)),
        }
    }
    out
}

/// A file where pages of zeros are holes.
fn sparse(bytes: &[u8]) -> File {
    let f = tempfile::tempfile().unwrap();
    for (n, page) in bytes.chunks(4096).enumerate() {
        if page.iter().any(|b| *b != 0) {
            f.write_all_at(page, n as u64 * 4096).unwrap();
        }
    }
    f.set_len(bytes.len() as u64).unwrap();
    f
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn holes_and_blocks_do_not_matter(parts in content()) {
        let bytes = build(&parts);
        let mut handed = Vec::new();
        let s = survey_with(&small(), &sparse(&bytes), &mut |p, b| {
            assert_eq!(p.id, ChunkId::of(b));
            handed.push(*p);
            Ok(())
        })
        .unwrap();
        let zeros = small().zeros();
        let all: Vec<_> = s.pieces.iter().filter(|p| **p != zeros).copied().collect();
        handed.retain(|p| *p != zeros);
        assert_eq!(handed, all);
        prop_assert_eq!(&s.pieces, &plainly(&small(), &bytes));
        let whole = Sha256(sha2::Sha256::digest(&bytes).into());
        prop_assert_eq!(s.sha256, whole);
        prop_assert_eq!(sha256(&sparse(&bytes)).unwrap(), whole);
    }
}

#[derive(Debug, Clone)]
enum Edit {
    Write(usize, u64, usize),
    Zero(usize, usize),
    Resize(usize),
    /// To a cut or next to it.
    ResizeToCut(usize, usize),
    Append(u64, usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        (any::<usize>(), 0..99u64, 1..700usize).prop_map(|(a, s, l)| Edit::Write(a, s, l)),
        (any::<usize>(), 1..9000usize).prop_map(|(a, l)| Edit::Zero(a, l)),
        any::<usize>().prop_map(Edit::Resize),
        (any::<usize>(), 0..6usize).prop_map(|(a, d)| Edit::ResizeToCut(a, d)),
        (0..99u64, 1..3000usize).prop_map(|(s, l)| Edit::Append(s, l)),
    ]
}

/// Edits the bytes; says what may differ.
fn apply(edit: &Edit, bytes: &mut Vec<u8>) -> Option<Range<u64>> {
    let len = bytes.len();
    let within = |at: usize, n: usize| {
        let at = at % len.max(1);
        at..(at + n).min(len)
    };
    match edit {
        Edit::Write(at, seed, n) => {
            let r = within(*at, *n);
            bytes[r.clone()].copy_from_slice(&noise(*seed, r.len()));
            Some(r.start as u64..r.end as u64)
        }
        Edit::Zero(at, n) => {
            let r = within(*at, *n);
            bytes[r.clone()].fill(0);
            Some(r.start as u64..r.end as u64)
        }
        Edit::Resize(n) => {
            bytes.resize(n % (2 * len + 1), 0);
            None
        }
        Edit::ResizeToCut(n, beside) => {
            let pieces = plainly(&small(), bytes);
            let n = n % pieces.len().max(1);
            let cut: u64 = pieces.iter().take(n).map(|p| u64::from(p.len)).sum();
            bytes.resize(
                (usize::try_from(cut).unwrap() + beside).saturating_sub(3),
                9,
            );
            None
        }
        Edit::Append(seed, n) => {
            bytes.extend_from_slice(&noise(*seed, *n));
            None
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn cutting_what_changed_is_cutting_all(
        parts in content(),
        edits in prop::collection::vec(edit(), 0..4),
    ) {
        let mut bytes = build(&parts);
        let old = plainly(&small(), &bytes);
        let mut least = bytes.len() as u64;
        let mut changed = Vec::new();
        for e in &edits {
            changed.extend(apply(e, &mut bytes));
            least = least.min(bytes.len() as u64);
        }
        // What was cut off and grew again may differ, too.
        changed.push(least..bytes.len() as u64);
        let new = resurvey_with(&small(), &sparse(&bytes), &old, &changed).unwrap();
        prop_assert_eq!(new, plainly(&small(), &bytes));
    }
}

#[test]
fn a_change_reads_a_few_pieces() {
    let mut bytes = noise(6, 24 << 20);
    let old = survey(&file_of(&bytes)).unwrap();
    let at = 9 << 20;
    bytes[at..at + 4096].copy_from_slice(&noise(7, 4096));
    let new = survey(&file_of(&bytes)).unwrap();
    // What lies elsewhere is wrong in the file that is read: it must not matter.
    let mut elsewhere = vec![1; bytes.len()];
    let around = at - (2 << 20)..at + (5 << 20);
    elsewhere[around.clone()].copy_from_slice(&bytes[around]);
    let changed = at as u64..at as u64 + 4096;
    let got = resurvey(&file_of(&elsewhere), &old.pieces, &[changed]);
    assert_eq!(got.unwrap(), new.pieces);
    let fresh = new
        .pieces
        .iter()
        .filter(|p| !old.pieces.contains(p))
        .count();
    assert!((1..4).contains(&fresh), "{fresh}");
}
