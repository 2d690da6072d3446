//! What the store promises, against a model, damage and a disk that fails.

mod crash;
mod liars;
mod trouble;
mod whole;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};

use proptest::prelude::*;

use super::disk::tape;
use super::*;
use crate::chunk::cut;
use crate::chunk::{Piece, Survey};

pub(super) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    let mut hash = blake3::Hasher::new();
    hash.update(&seed.to_le_bytes());
    hash.finalize_xof().fill(&mut out);
    out
}

/// Small chunks: their number says what is in them.
pub(super) fn chunk(n: u64) -> (ChunkId, Vec<u8>) {
    let bytes = noise(n, 200 + usize::try_from(n * 37 % 900).unwrap());
    (ChunkId::of(&bytes), bytes)
}

/// A file of such chunks.
pub(super) fn file_of(ns: &[u64]) -> (Survey, Vec<u8>) {
    let mut all = Vec::new();
    let mut pieces = Vec::new();
    for n in ns {
        let (id, bytes) = chunk(*n);
        all.extend_from_slice(&bytes);
        let len = u32::try_from(bytes.len()).unwrap();
        pieces.push(Piece { id, len });
    }
    let sha256 = Sha256(<sha2::Sha256 as sha2::Digest>::digest(&all).into());
    let len = all.len() as u64;
    (
        Survey {
            len,
            sha256,
            pieces,
        },
        all,
    )
}

/// Small packs.
pub(super) fn open(dir: &Path) -> Chunks {
    Chunks::open_with(dir, 6000).unwrap()
}

/// On a disk of memory, where there is one: the tests here sync a lot.
pub(super) fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

fn adopt(c: &Chunks, ns: &[u64]) -> Result<Sha256, ChunkError> {
    let (survey, bytes) = file_of(ns);
    let path = c.dir.join("given");
    fs::write(&path, &bytes).unwrap();
    c.adopt(&path, &survey, true)?;
    assert!(!path.exists());
    Ok(survey.sha256)
}

fn content(c: &Chunks, sha256: &Sha256) -> Option<(Vec<u8>, bool)> {
    let (file, is_complete) = c.container(sha256).unwrap()?;
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    Some((bytes, is_complete))
}

#[test]
fn what_was_put_is_read_also_after_a_restart() {
    let dir = folder();
    let c = open(dir.path());
    for n in 0..40 {
        let (id, bytes) = chunk(n);
        assert!(!c.has(&id));
        assert_eq!(c.read(&id).unwrap(), None);
        assert!(c.put(&id, &bytes).unwrap());
        assert!(!c.put(&id, &bytes).unwrap(), "is here");
    }
    assert!(c.stats().packs > 3);
    c.flush().unwrap();
    let (late, bytes) = chunk(99);
    c.put(&late, &bytes).unwrap();
    let before = c.stats();
    drop(c);
    // Killed: what was put and not flushed is here, too.
    let c = open(dir.path());
    assert_eq!(c.stats(), before);
    for n in (0..40).chain([99]) {
        let (id, bytes) = chunk(n);
        assert_eq!(c.read(&id).unwrap(), Some(bytes.clone()));
        assert_eq!(c.read_part(&id, 10, 20).unwrap().unwrap(), bytes[10..30]);
        assert_eq!(c.read_part(&id, 150, 9999).unwrap().unwrap(), bytes[150..]);
        assert!(c.read_part(&id, 9999, 1).unwrap().unwrap().is_empty());
    }
}

#[test]
fn bytes_that_are_not_the_chunk_are_refused() {
    let dir = folder();
    let c = open(dir.path());
    let (id, mut bytes) = chunk(1);
    bytes[5] ^= 1;
    let large = vec![1; PIECE_BYTES_MAX as usize + 1];
    for (id, bytes) in [
        (id, &bytes[..]),
        (ChunkId::of(&[]), &[]),
        (ChunkId::of(&large), &large),
    ] {
        let got = c.put(&id, bytes);
        assert!(matches!(got, Err(ChunkError::Mismatch(i)) if i == id));
        assert!(!c.has(&id));
    }
    let (survey, _) = file_of(&[1, 2]);
    c.begin(survey.sha256, &survey.pieces).unwrap();
    let got = c.fill(&survey.sha256, 0, &bytes);
    assert!(matches!(got, Err(ChunkError::Mismatch(_))));
    let got = c.fill(&survey.sha256, 2, &bytes);
    assert!(matches!(got, Err(ChunkError::Absent(_, 2))));
    assert_eq!(c.stats().container_bytes, 0);
    let got = c.begin(Sha256([1; 32]), &[Piece { id, len: 0 }]);
    assert!(matches!(got, Err(ChunkError::Survey(_))));
}

#[test]
fn a_container_is_filled_and_complete_and_costs_no_pack() {
    let dir = folder();
    let c = open(dir.path());
    let (survey, bytes) = file_of(&[1, 2, 3, 1]);
    for n in [2, 7] {
        let (id, bytes) = chunk(n);
        c.put(&id, &bytes).unwrap();
    }
    c.begin(survey.sha256, &survey.pieces).unwrap();
    for (index, n) in [(3, 1), (1, 2), (0, 1)] {
        c.fill(&survey.sha256, index, &chunk(n).1).unwrap();
    }
    assert!(c.has(&chunk(1).0));
    assert!(!content(&c, &survey.sha256).unwrap().1);
    c.flush().unwrap();
    let c = open(dir.path());
    assert_eq!(c.read(&chunk(1).0).unwrap(), Some(chunk(1).1));
    let (got, is_complete) = content(&c, &survey.sha256).unwrap();
    assert!(!is_complete && got.len() == bytes.len() && got != bytes);
    c.fill(&survey.sha256, 2, &chunk(3).1).unwrap();
    c.flush().unwrap();
    assert_eq!(content(&c, &survey.sha256), Some((bytes, true)));
    let stats = c.stats();
    assert_eq!(
        stats.live_bytes,
        40 + chunk(7).1.len() as u64,
        "2 is not there twice"
    );
    assert_eq!(stats.chunks, 4);
}

#[test]
fn a_file_is_taken_over_without_a_copy() {
    let dir = folder();
    let c = open(dir.path());
    let (survey, bytes) = file_of(&[1, 2, 3]);
    let path = dir.path().join("given");
    fs::write(&path, &bytes).unwrap();
    let inode = fs::metadata(&path).unwrap().ino();
    c.adopt(&path, &survey, true).unwrap();
    let (file, is_complete) = c.container(&survey.sha256).unwrap().unwrap();
    assert!(is_complete);
    assert_eq!(file.metadata().unwrap().ino(), inode);
    // Once more: the same content is here.
    adopt(&c, &[1, 2, 3]).unwrap();
    assert_eq!(c.stats().containers, 1);
    // What is not what its survey says stays where it is.
    fs::write(&path, &bytes[1..]).unwrap();
    assert!(matches!(
        c.adopt(&path, &survey, true),
        Err(ChunkError::Survey(_))
    ));
    assert!(path.exists());
    // Instead of one that others began, of other pieces.
    let (other, _) = file_of(&[5, 6]);
    c.begin(other.sha256, &file_of(&[6, 5, 4]).0.pieces)
        .unwrap();
    c.fill(&other.sha256, 0, &chunk(6).1).unwrap();
    adopt(&c, &[5, 6]).unwrap();
    assert!(content(&c, &other.sha256).unwrap().1);
    assert_eq!(c.stats().chunks, 5);
    let c = open(dir.path());
    assert!(content(&c, &other.sha256).unwrap().1);
    for n in [1, 2, 3, 5, 6] {
        assert_eq!(c.read(&chunk(n).0).unwrap(), Some(chunk(n).1));
    }
}

/// Somebody calls another file by the name of one that is written here.
#[test]
fn a_file_is_taken_over_also_where_another_one_has_its_name() {
    let dir = folder();
    let c = open(dir.path());
    let (truth, bytes) = file_of(&[1, 2, 3]);
    let (other, _) = file_of(&[7, 8]);
    c.begin(truth.sha256, &other.pieces).unwrap();
    for (n, chunk_of) in (0..).zip([7, 8]) {
        c.fill(&truth.sha256, n, &chunk(chunk_of).1).unwrap();
    }
    c.flush().unwrap();
    assert!(content(&c, &truth.sha256).unwrap().1, "it looks whole");
    assert_eq!(adopt(&c, &[1, 2, 3]).unwrap(), truth.sha256);
    assert!(content(&c, &truth.sha256) == Some((bytes, true)));
    drop(c);
    let c = open(dir.path());
    assert!(c.lacks(&truth.pieces, 9).is_empty());
}

#[test]
fn a_container_that_goes_leaves_what_is_wanted_and_nowhere_else() {
    let dir = folder();
    let c = open(dir.path());
    let old = adopt(&c, &[1, 2, 3, 4]).unwrap();
    adopt(&c, &[1, 2, 9]).unwrap();
    let (three, _) = chunk(3);
    let got = c.evict(&old, &mut |id| *id != three).unwrap();
    assert_eq!((got.moved, got.lost.len()), (1, 0));
    assert!(c.container(&old).unwrap().is_none());
    let check = |c: &Chunks| {
        for n in [1, 2, 4, 9] {
            assert_eq!(c.read(&chunk(n).0).unwrap(), Some(chunk(n).1), "{n}");
        }
        assert_eq!(c.read(&three).unwrap(), None);
        assert_eq!(c.stats().live_bytes, 40 + chunk(4).1.len() as u64);
    };
    check(&c);
    check(&open(dir.path()));
    assert!(matches!(
        c.evict(&old, &mut |_| true),
        Err(ChunkError::Absent(..))
    ));
}

#[test]
fn packs_of_the_dead_are_given_back() {
    let dir = folder();
    let c = open(dir.path());
    let ids: Vec<_> = (0..60).map(|n| chunk(n).0).collect();
    for n in 0..60 {
        c.put(&chunk(n).0, &chunk(n).1).unwrap();
    }
    c.flush().unwrap();
    let before = c.stats();
    assert_eq!(before.dead_bytes, before.packs * 8, "magics");
    let most: Vec<_> = (0..60).filter(|n| n % 5 != 0).map(|n| ids[n]).collect();
    assert_eq!(c.remove(&most).unwrap(), 48);
    assert_eq!(c.remove(&most).unwrap(), 0);
    c.flush().unwrap();
    let after = c.stats();
    assert_eq!(after.chunks, 12);
    assert!(after.dead_bytes <= after.live_bytes, "{after:?}");
    assert!(after.packs < before.packs);
    let c = open(dir.path());
    assert_eq!(c.stats(), after);
    for n in 0..60 {
        let want = (n % 5 == 0).then(|| chunk(n).1);
        assert_eq!(c.read(&chunk(n).0).unwrap(), want);
    }
    c.remove(&ids).unwrap();
    assert_eq!(c.stats(), Stats::default());
    assert_eq!(fs::read_dir(dir.path().join("packs")).unwrap().count(), 0);
}

fn flip(path: &Path, at: u64) {
    let file = disk::open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

#[test]
fn damage_is_found_and_taken_out_and_can_be_mended() {
    let dir = folder();
    let c = open(dir.path());
    for n in 0..20 {
        c.put(&chunk(n).0, &chunk(n).1).unwrap();
    }
    let sha256 = adopt(&c, &[30, 31, 32]).unwrap();
    c.flush().unwrap();
    let Some(Spot::Pack { pack, at, .. }) = c.table().chunks.get(&chunk(4).0).copied() else {
        panic!("in a pack");
    };
    flip(&pack::pack_path(dir.path(), pack), u64::from(at) + 90);
    let data = container::data_path(dir.path(), &sha256);
    flip(&data, chunk(30).1.len() as u64 + 5);
    // In steps, with a restart between: each is looked at once.
    let (mut wrong, mut bytes, mut rounds) = (Vec::new(), 0, 0);
    let mut c = c;
    while rounds == 0 {
        let got = c.scrub(1500).unwrap();
        assert!(got.bytes < 3000);
        bytes += got.bytes;
        wrong.extend(got.wrong);
        rounds += usize::from(got.is_round);
        c.flush().unwrap();
        c = open(dir.path());
    }
    let all: u64 = (0..20).chain(30..33).map(|n| chunk(n).1.len() as u64).sum();
    assert_eq!(bytes, all);
    let want = [(4, None), (31, Some(sha256))].map(|(n, container)| Wrong {
        id: chunk(n).0,
        container,
    });
    assert_eq!(wrong, want);
    for n in [4, 31] {
        assert!(!c.has(&chunk(n).0));
    }
    assert!(!content(&c, &sha256).unwrap().1);
    c.put(&chunk(4).0, &chunk(4).1).unwrap();
    c.fill(&sha256, 1, &chunk(31).1).unwrap();
    c.flush().unwrap();
    let c = open(dir.path());
    assert_eq!(c.read(&chunk(4).0).unwrap(), Some(chunk(4).1));
    assert_eq!(content(&c, &sha256), Some((file_of(&[30, 31, 32]).1, true)));
    let again = c.scrub(u64::MAX).unwrap();
    assert_eq!((again.wrong, again.is_round), (Vec::new(), true));
    // Who reads finds it, too, and once.
    flip(&data, 3);
    let id = chunk(30).0;
    assert!(matches!(c.read(&id), Err(ChunkError::Damaged(i)) if i == id));
    assert_eq!(c.read(&id).unwrap(), None);
}

/// A store with something of everything.
fn sample(dir: &Path) -> BTreeMap<ChunkId, Vec<u8>> {
    let c = open(dir);
    let mut all = BTreeMap::new();
    all.extend((0..30).map(chunk));
    all.extend((40..44).map(chunk));
    for n in 0..25 {
        c.put(&chunk(n).0, &chunk(n).1).unwrap();
    }
    c.flush().unwrap();
    c.remove(&[chunk(3).0, chunk(9).0]).unwrap();
    adopt(&c, &[40, 41, 42]).unwrap();
    let (survey, _) = file_of(&[43, 44, 45]);
    c.begin(survey.sha256, &survey.pieces).unwrap();
    c.fill(&survey.sha256, 0, &chunk(43).1).unwrap();
    c.flush().unwrap();
    for n in 25..30 {
        c.put(&chunk(n).0, &chunk(n).1).unwrap();
    }
    all
}

/// All files of a store.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for sub in ["packs", "containers"] {
        let all = fs::read_dir(dir.join(sub)).unwrap();
        out.extend(all.map(|e| e.unwrap().path()));
    }
    out.sort();
    out
}

#[derive(Debug, Clone)]
enum Harm {
    Flip(usize, usize),
    Cut(usize, usize),
    Grow(usize, u8, usize),
    Gone(usize),
}

fn harm() -> impl Strategy<Value = Harm> {
    let (file, at) = (any::<usize>(), any::<usize>());
    prop_oneof![
        4 => (file, at).prop_map(|(f, a)| Harm::Flip(f, a)),
        2 => (file, at).prop_map(|(f, a)| Harm::Cut(f, a)),
        1 => (file, any::<u8>(), 1..200usize).prop_map(|(f, b, n)| Harm::Grow(f, b, n)),
        1 => file.prop_map(Harm::Gone),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_damage_gives_wrong_bytes(harms in prop::collection::vec(harm(), 1..4)) {
        let dir = folder();
        let all = sample(dir.path());
        for h in &harms {
            let files = files(dir.path());
            let (Harm::Flip(n, _) | Harm::Cut(n, _) | Harm::Grow(n, ..) | Harm::Gone(n)) = h;
            let path = &files[n % files.len()];
            let mut bytes = fs::read(path).unwrap();
            let len = bytes.len().max(1);
            match h {
                Harm::Flip(_, at) if !bytes.is_empty() => bytes[at % len] ^= 1 << (at / 7 % 8),
                Harm::Flip(..) => {}
                Harm::Cut(_, at) => bytes.truncate(at % len),
                Harm::Grow(_, b, n) => bytes.resize(len + n, *b),
                Harm::Gone(_) => fs::remove_file(path).unwrap(),
            }
            if !matches!(h, Harm::Gone(_)) {
                fs::write(path, &bytes).unwrap();
            }
        }
        let c = open(dir.path());
        let mut lost = BTreeSet::new();
        for (id, bytes) in &all {
            match c.read(id) {
                Ok(Some(got)) => prop_assert_eq!(&got, bytes),
                Ok(None) => {
                    lost.insert(*id);
                }
                Err(e) => {
                    prop_assert!(matches!(e, ChunkError::Damaged(i) if i == *id));
                    lost.insert(*id);
                }
            }
        }
        c.scrub(u64::MAX).unwrap();
        // It goes on, and what comes is there to stay.
        for id in &lost {
            c.put(id, &all[id]).unwrap();
        }
        let (id, bytes) = chunk(77);
        c.put(&id, &bytes).unwrap();
        c.flush().unwrap();
        c.reclaim().unwrap();
        drop(c);
        let c = open(dir.path());
        prop_assert_eq!(c.read(&id).unwrap(), Some(bytes));
        for id in &lost {
            prop_assert_eq!(c.read(id).unwrap(), Some(all[id].clone()));
        }
    }
}

#[derive(Debug, Clone)]
enum Act {
    Put(u64),
    Remove(Vec<u64>),
    Begin(u8),
    Fill(u8, u32),
    Adopt(u8),
    Evict(u8, u64),
    Scrub(u64),
    Reclaim,
    Flush,
    Reopen,
}

fn act() -> impl Strategy<Value = Act> {
    let (n, f) = (0..24u64, 0..4u8);
    prop_oneof![
        6 => n.clone().prop_map(Act::Put),
        2 => prop::collection::vec(n, 1..8).prop_map(Act::Remove),
        1 => f.clone().prop_map(Act::Begin),
        6 => (f.clone(), 0..8u32).prop_map(|(f, n)| Act::Fill(f, n)),
        2 => f.clone().prop_map(Act::Adopt),
        2 => (f, 1..4u64).prop_map(|(f, k)| Act::Evict(f, k)),
        1 => (1..9000u64).prop_map(Act::Scrub),
        1 => Just(Act::Reclaim),
        1 => Just(Act::Flush),
        1 => Just(Act::Reopen),
    ]
}

/// The chunks of some files, which share some.
fn parts(file: u8) -> Vec<u64> {
    match file {
        0 => vec![0, 1, 2, 3],
        1 => vec![2, 3, 4, 5, 2],
        2 => vec![4, 5, 6, 7, 8, 9],
        _ => vec![20, 0, 9],
    }
}

#[derive(Debug, Default)]
struct Model {
    packs: BTreeSet<u64>,
    /// Files, and which of their pieces are there.
    files: BTreeMap<u8, BTreeSet<usize>>,
}

impl Model {
    fn in_file(&self, file: u8, n: u64) -> bool {
        let there = self.files.get(&file).into_iter().flatten();
        there.into_iter().any(|i| parts(file)[*i] == n)
    }

    fn has(&self, n: u64) -> bool {
        self.packs.contains(&n) || self.files.keys().any(|f| self.in_file(*f, n))
    }

    /// Complete files need no packs.
    fn settle(&mut self) {
        for (f, there) in &self.files {
            if there.len() == parts(*f).len() {
                self.packs.retain(|n| !parts(*f).contains(n));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn it_is_a_map(acts in prop::collection::vec(act(), 1..60)) {
        let dir = folder();
        let mut c = open(dir.path());
        let mut m = Model::default();
        for a in &acts {
            match a {
                Act::Put(n) => {
                    let (id, bytes) = chunk(*n);
                    prop_assert_eq!(c.put(&id, &bytes).unwrap(), !m.has(*n));
                    if !m.has(*n) {
                        m.packs.insert(*n);
                    }
                }
                Act::Remove(ns) => {
                    let ids: Vec<_> = ns.iter().map(|n| chunk(*n).0).collect();
                    let had: BTreeSet<_> = ns.iter().filter(|n| m.has(**n)).collect();
                    m.packs.retain(|n| !ns.contains(n));
                    let gone = had.iter().filter(|n| !m.has(***n)).count();
                    prop_assert_eq!(c.remove(&ids).unwrap(), gone);
                }
                Act::Begin(f) => {
                    let (s, _) = file_of(&parts(*f));
                    c.begin(s.sha256, &s.pieces).unwrap();
                    m.files.entry(*f).or_default();
                }
                Act::Fill(f, index) => {
                    let (s, _) = file_of(&parts(*f));
                    let n = parts(*f).get(*index as usize).copied();
                    let bytes = n.map_or(Vec::new(), |n| chunk(n).1);
                    let done = c.fill(&s.sha256, *index, &bytes);
                    match m.files.get_mut(f) {
                        Some(there) if n.is_some() => {
                            done.unwrap();
                            there.insert(*index as usize);
                        }
                        _ => prop_assert!(matches!(done, Err(ChunkError::Absent(..)))),
                    }
                }
                Act::Adopt(f) => {
                    adopt(&c, &parts(*f)).unwrap();
                    m.files.insert(*f, (0..parts(*f).len()).collect());
                    m.settle();
                }
                Act::Evict(f, k) => {
                    let (s, _) = file_of(&parts(*f));
                    let keep: BTreeSet<_> =
                        (0..24).filter(|n| n % k == 0).map(|n| chunk(n).0).collect();
                    let done = c.evict(&s.sha256, &mut |id| keep.contains(id));
                    prop_assert_eq!(done.is_ok(), m.files.contains_key(f));
                    let mut moved = 0;
                    if let Some(there) = m.files.remove(f) {
                        for i in there {
                            let n = parts(*f)[i];
                            if n.is_multiple_of(*k) && !m.has(n) {
                                m.packs.insert(n);
                                moved += 1;
                            }
                        }
                        // It flushes on the way.
                        m.settle();
                    }
                    prop_assert_eq!(done.map_or(0, |d| d.moved), moved);
                }
                Act::Scrub(n) => prop_assert!(c.scrub(*n).unwrap().wrong.is_empty()),
                Act::Reclaim => c.reclaim().unwrap(),
                Act::Flush => {
                    c.flush().unwrap();
                    m.settle();
                }
                Act::Reopen => {
                    c.flush().unwrap();
                    m.settle();
                    drop(c);
                    c = open(dir.path());
                }
            }
            for n in 0..24 {
                let (id, bytes) = chunk(n);
                prop_assert_eq!(c.has(&id), m.has(n), "{}", n);
                let want = m.has(n).then_some(bytes);
                prop_assert_eq!(c.read(&id).unwrap(), want);
            }
            for (f, there) in &m.files {
                let (s, bytes) = file_of(&parts(*f));
                let got = content(&c, &s.sha256).unwrap();
                prop_assert_eq!(got.1, there.len() == s.pieces.len());
                prop_assert!(!got.1 || got.0 == bytes);
            }
            prop_assert_eq!(c.stats().containers, m.files.len() as u64);
        }
        c.flush().unwrap();
        m.settle();
        let live: u64 = m.packs.iter().map(|n| 40 + chunk(*n).1.len() as u64).sum();
        prop_assert_eq!(c.stats().live_bytes, live);
    }
}

/// What each step of a life does, for failing at any place within.
fn life(c: &Chunks, step: usize) -> Result<(), ChunkError> {
    match step {
        0..=11 => c
            .put(&chunk(step as u64).0, &chunk(step as u64).1)
            .map(drop),
        12 => c.flush(),
        13 => adopt(c, &[1, 2, 20]).map(drop),
        14 => {
            let (s, _) = file_of(&[20, 21, 5]);
            c.begin(s.sha256, &s.pieces)?;
            c.fill(&s.sha256, 1, &chunk(21).1)
        }
        15 => c.flush(),
        16 => c.remove(&[3, 6, 7, 8, 9].map(|n| chunk(n).0)).map(drop),
        17 => {
            let (s, _) = file_of(&[1, 2, 20]);
            let gone = c.evict(&s.sha256, &mut |_| true);
            if matches!(gone, Err(ChunkError::Absent(..))) {
                return Ok(());
            }
            gone.map(drop)
        }
        18 => {
            let (s, _) = file_of(&[20, 21, 5]);
            c.fill(&s.sha256, 0, &chunk(20).1)?;
            c.fill(&s.sha256, 2, &chunk(5).1)?;
            c.flush()
        }
        // Another file of a name, and the file that the name is of.
        19 => {
            let (s, _) = file_of(&[23, 24]);
            c.begin(s.sha256, &file_of(&[4, 22]).0.pieces)?;
            c.fill(&s.sha256, 0, &chunk(4).1)?;
            c.fill(&s.sha256, 1, &chunk(22).1)?;
            c.flush()
        }
        _ => adopt(c, &[23, 24]).map(drop),
    }
}

#[test]
fn after_any_failure_all_is_sound_and_the_same_can_be_done_again() {
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
        let mut failures = 0;
        for at in 0.. {
            let dir = folder();
            let mut c = open(dir.path());
            tape::fail(Some((at, kind)));
            for step in 0..21 {
                let done = life(&c, step);
                if let Err(e) = &done {
                    failures += 1;
                    let is_full = matches!(e, ChunkError::Full);
                    assert_eq!(is_full, kind == io::ErrorKind::StorageFull, "{e:?}");
                    for n in 0..22 {
                        let (id, bytes) = chunk(n);
                        let got = c.read(&id).unwrap();
                        assert_eq!(got.is_some(), c.has(&id), "{at} {step} {n}");
                        assert!(got.is_none_or(|g| g == bytes));
                    }
                    // What a failed sync took has to be put again.
                    for n in 0..12.min(step as u64) {
                        if step <= 16 || [0, 4, 5, 10, 11].contains(&n) {
                            c.put(&chunk(n).0, &chunk(n).1).unwrap();
                        }
                    }
                    if at % 2 == 0 {
                        c = open(dir.path());
                    }
                    if step == 15 {
                        life(&c, 14).unwrap();
                    }
                    life(&c, step).unwrap();
                }
            }
            let is_through = tape::fail(None);
            c.flush().unwrap();
            for c in [c, open(dir.path())] {
                for n in [0, 1, 2, 4, 5, 10, 11, 20, 21, 22, 23, 24] {
                    let got = c.read(&chunk(n).0).unwrap();
                    assert_eq!(got, Some(chunk(n).1), "{at} {n}");
                }
                for ns in [&[20, 21, 5][..], &[23, 24]] {
                    let (s, bytes) = file_of(ns);
                    assert_eq!(content(&c, &s.sha256), Some((bytes, true)));
                }
            }
            if is_through {
                break;
            }
        }
        assert!(failures > 60, "{failures}");
    }
}

/// Bytes that a folder takes on the disk.
fn disk_bytes(dir: &Path) -> u64 {
    let mut sum = 0;
    for e in fs::read_dir(dir).unwrap() {
        let m = e.as_ref().unwrap().metadata().unwrap();
        sum += if m.is_dir() {
            disk_bytes(&e.unwrap().path())
        } else {
            m.blocks() * 512
        };
    }
    sum
}

#[test]
fn what_is_left_of_a_container_is_not_written_to_by_another_name() {
    let dir = tempfile::tempdir().unwrap();
    let c = open(dir.path());
    let (survey, _) = file_of(&[1, 2]);
    // It could not be removed when it went, and somebody writes to it by now.
    let left = container::data_path(dir.path(), &survey.sha256);
    fs::write(&left, "somebody's").unwrap();
    let name = dir.path().join("overlay");
    fs::hard_link(&left, &name).unwrap();
    c.begin(survey.sha256, &survey.pieces).unwrap();
    assert_eq!(fs::read(&name).unwrap(), b"somebody's");
    assert_eq!(fs::metadata(&left).unwrap().len(), survey.len);
}

#[test]
fn a_large_file_is_on_disk_once_and_a_new_version_costs_what_changed() {
    let dir = tempfile::tempdir().unwrap();
    let c = Chunks::open(dir.path()).unwrap();
    let mut bytes = noise(1, 100 << 20);
    let path = dir.path().join("given");
    let bring = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        cut::survey(&File::open(&path).unwrap()).unwrap()
    };
    // As chunks, twice; then as a file, twice.
    let survey = bring(&bytes);
    for _ in 0..2 {
        let mut at = 0;
        for p in &survey.pieces {
            let end = at + p.len as usize;
            c.put(&p.id, &bytes[at..end]).unwrap();
            at = end;
        }
        c.flush().unwrap();
    }
    fs::remove_file(&path).unwrap();
    let one = (100u64 << 20) * 101 / 100;
    let got = disk_bytes(dir.path());
    assert!(got < one, "{got} bytes of packs");
    for _ in 0..2 {
        bring(&bytes);
        c.adopt(&path, &survey, true).unwrap();
        c.reclaim().unwrap();
        let got = disk_bytes(dir.path());
        assert!(got < one, "{got} bytes with a container");
    }
    // A new version: the old one goes, and is kept.
    bytes[50 << 20..][..4096].copy_from_slice(&noise(2, 4096));
    let next = bring(&bytes);
    c.adopt(&path, &next, true).unwrap();
    let moved = c.evict(&survey.sha256, &mut |_| true).unwrap();
    assert!((1..4).contains(&moved.moved), "{moved:?}");
    let got = disk_bytes(dir.path());
    assert!(got < one + (3 << 20), "{got} bytes of two versions");
    for p in survey.pieces.iter().chain(&next.pieces) {
        assert!(c.has(&p.id));
    }
    assert_eq!(c.scrub(u64::MAX).unwrap().wrong, []);
}
