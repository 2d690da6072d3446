//! Large files taken, read, lost and found again.

mod liars;

use std::os::unix::fs::FileExt;
use std::process::Command;

use sha2::Digest;

use super::*;
use crate::base::id::{NodeId, VolumeName};
use crate::chunk::cut;
use crate::volume::view::HeadInfo;
use crate::volume::{Identity, Outlet};

struct Nobody;

impl Outlet for Nobody {
    fn committed(&self, _: &VolumeName, _: &HeadInfo, _: Option<Vec<u8>>) {}
}

fn open(dir: &Path) -> Arc<Shelf> {
    let who = Identity {
        node: NodeId([1; 32]),
        name: "n1".to_owned(),
    };
    let volume = Volume::open(dir, "cell".parse().unwrap(), who, Arc::new(Nobody)).unwrap();
    Arc::new(Shelf::open(volume).unwrap())
}

fn begin() -> (tempfile::TempDir, Arc<Shelf>) {
    let dir = tempfile::tempdir().unwrap();
    let shelf = open(&dir.path().join("v"));
    (dir, shelf)
}

fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

fn name(bytes: &[u8]) -> Sha256 {
    Sha256(sha2::Sha256::digest(bytes).into())
}

fn take_as(shelf: &Shelf, sha256: &Sha256, bytes: &[u8]) -> Result<(), ShelfError> {
    let dir = dir_of(&shelf.volume);
    let path = tempfile::NamedTempFile::new_in(dir).unwrap();
    path.as_file().write_all_at(bytes, 0).unwrap();
    shelf.take(sha256, path.into_temp_path())
}

fn take(shelf: &Shelf, bytes: &[u8]) -> Sha256 {
    let sha256 = name(bytes);
    take_as(shelf, &sha256, bytes).unwrap();
    sha256
}

/// Reads all of a file in steps of so many bytes.
fn read(shelf: &Arc<Shelf>, sha256: &Sha256, step: usize) -> Vec<u8> {
    let mut source = shelf.source(sha256, false).unwrap().expect("it is here");
    let mut out = Vec::new();
    while (out.len() as u64) < source.len() {
        let piece = source.read(out.len() as u64, step).unwrap();
        assert!((1..=step).contains(&piece.len()));
        out.extend_from_slice(&piece);
    }
    out
}

fn uploads(shelf: &Shelf) -> usize {
    let all = std::fs::read_dir(dir_of(&shelf.volume)).unwrap().flatten();
    all.filter(|e| e.file_name() != "heads").count()
}

/// The process dies, and another one opens what it left.
fn crash(shelf: &Shelf, to: &Path) -> Arc<Shelf> {
    let mut cp = Command::new("cp");
    let copied = cp.arg("-a").args([shelf.volume.dir(), to]).status();
    assert!(copied.unwrap().success());
    shelf.volume.stop().unwrap();
    open(to)
}

#[test]
fn what_was_taken_is_read_back_and_its_manifest_says_what_it_is_made_of() {
    let (_dir, shelf) = begin();
    for len in [1, 65_536, 3_000_000] {
        let bytes = noise(len);
        let sha256 = take(&shelf, &bytes);
        assert_eq!(shelf.find(&sha256).unwrap(), Found::Whole(len as u64));
        assert!(read(&shelf, &sha256, 65_536) == bytes);
        let head = shelf.head(&sha256).unwrap();
        let survey = manifest::read(&head, &mut |id, kind| shelf.node(id, kind)).unwrap();
        assert_eq!((survey.len, survey.sha256), (len as u64, sha256));
        let mut at = 0;
        for p in &survey.pieces {
            let piece = &bytes[at..at + p.len as usize];
            assert_eq!(shelf.chunks.read(&p.id).unwrap().as_deref(), Some(piece));
            at += piece.len();
        }
        assert_eq!(at, len);
    }
    assert_eq!(uploads(&shelf), 0);
    let absent = name(b"absent");
    assert_eq!(shelf.find(&absent).unwrap(), Found::Nothing);
    assert!(shelf.source(&absent, false).unwrap().is_none());
    shelf.volume.stop().unwrap();
}

#[test]
fn a_file_without_its_container_is_read_from_pieces_anywhere() {
    let (_dir, shelf) = begin();
    let mut bytes = noise(4_000_000);
    // A piece of zeros, which is in no pack.
    bytes.extend(vec![0; 3 << 20]);
    bytes.extend(noise(100_000));
    let sha256 = take(&shelf, &bytes);
    shelf.chunks.evict(&sha256, &mut |_| true).unwrap();
    assert!(shelf.chunks.container(&sha256).unwrap().is_none());
    let len = bytes.len() as u64;
    assert_eq!(shelf.find(&sha256).unwrap(), Found::Whole(len));
    for step in [65_536, 10_000_000] {
        assert!(read(&shelf, &sha256, step) == bytes);
    }
    let mut source = shelf.source(&sha256, false).unwrap().unwrap();
    for at in [7_000_000, 0, 3_999_999, 4_000_000, 5_000_000, 4_000_001, 1] {
        let piece = source.read(at as u64, 1_000).unwrap();
        assert!(piece[..] == bytes[at..at + piece.len()], "{at}");
    }
    shelf.volume.stop().unwrap();
}

#[test]
fn what_is_lost_in_part_is_said_so_and_comes_again() {
    let (_dir, shelf) = begin();
    let bytes = noise(3_000_000);
    let sha256 = take(&shelf, &bytes);
    shelf.chunks.evict(&sha256, &mut |_| true).unwrap();
    let head = shelf.head(&sha256).unwrap();
    let survey = manifest::read(&head, &mut |id, kind| shelf.node(id, kind)).unwrap();
    let one = survey.pieces[survey.pieces.len() / 2].id;
    assert_eq!(shelf.chunks.remove(&[one]).unwrap(), 1);
    assert_eq!(shelf.find(&sha256).unwrap(), Found::Partly(3_000_000));
    assert!(shelf.source(&sha256, false).unwrap().is_none());
    take(&shelf, &bytes);
    assert!(read(&shelf, &sha256, 65_536) == bytes);
    shelf.volume.stop().unwrap();
}

#[test]
fn a_piece_that_goes_while_it_is_read_ends_the_reading() {
    let (_dir, shelf) = begin();
    let bytes = noise(3_000_000);
    let sha256 = take(&shelf, &bytes);
    shelf.chunks.evict(&sha256, &mut |_| true).unwrap();
    let mut source = shelf.source(&sha256, false).unwrap().unwrap();
    source.read(0, 10).unwrap();
    let head = shelf.head(&sha256).unwrap();
    let survey = manifest::read(&head, &mut |id, kind| shelf.node(id, kind)).unwrap();
    let last = survey.pieces.last().unwrap().id;
    shelf.chunks.remove(&[last]).unwrap();
    assert!(source.read(2_999_999, 10).is_err());
    assert_eq!(source.read(5, 10).unwrap()[..], bytes[5..15]);
    shelf.volume.stop().unwrap();
}

#[test]
fn other_bytes_than_were_said_are_not_taken() {
    let (_dir, shelf) = begin();
    let sha256 = name(b"said");
    let done = take_as(&shelf, &sha256, b"sent");
    assert!(matches!(done, Err(ShelfError::Wrong(s)) if s == sha256));
    assert_eq!(shelf.find(&sha256).unwrap(), Found::Nothing);
    assert_eq!(shelf.find(&name(b"sent")).unwrap(), Found::Nothing);
    assert_eq!((uploads(&shelf), shelf.chunks.stats().chunks), (0, 0));
    shelf.volume.stop().unwrap();
}

#[test]
fn what_was_taken_outlives_the_process_with_its_manifest() {
    let (dir, shelf) = begin();
    // The manifest of the second is too large for the journal.
    let small = noise(200_000);
    let sparse = {
        let path = tempfile::NamedTempFile::new_in(dir_of(&shelf.volume)).unwrap();
        let file = path.as_file();
        for n in 0..900_u64 {
            file.write_all_at(&noise(100), n << 20).unwrap();
        }
        let survey = cut::survey(file).unwrap();
        shelf.take(&survey.sha256, path.into_temp_path()).unwrap();
        survey
    };
    let sha256 = take(&shelf, &small);
    let shelf = crash(&shelf, &dir.path().join("w"));
    for (sha256, len) in [(sha256, 200_000), (sparse.sha256, sparse.len)] {
        assert_eq!(shelf.find(&sha256).unwrap(), Found::Whole(len));
        shelf.chunks.evict(&sha256, &mut |_| true).unwrap();
        assert_eq!(shelf.find(&sha256).unwrap(), Found::Whole(len));
    }
    // Nothing names the manifests; they stay all the same.
    shelf.volume.gc().unwrap();
    let head = shelf.head(&sparse.sha256).unwrap();
    let again = manifest::read(&head, &mut |id, kind| shelf.node(id, kind)).unwrap();
    assert_eq!(again, sparse);
    assert!(read(&shelf, &sha256, 65_536) == small);
    shelf.volume.stop().unwrap();
}

#[test]
fn a_torn_end_of_the_notes_is_cut_off_and_another_version_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("heads");
    let head = |n: u8| Head {
        len: u64::from(n),
        sha256: Sha256([n; 32]),
        top: Oid::from([n; 20]),
        level: 1,
    };
    let mut heads = Heads::open(&path).unwrap();
    assert!(!path.exists());
    for n in 1..=3 {
        heads.add([head(n)]).unwrap();
        heads.add([head(n)]).unwrap();
    }
    let whole = std::fs::read(&path).unwrap();
    assert_eq!(whole.len(), 8 + 3 * RECORD_BYTES);
    for cut in 8..whole.len() {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let mut heads = Heads::open(&path).unwrap();
        let sound = (cut - 8) / RECORD_BYTES;
        assert_eq!(heads.known.len(), sound, "{cut}");
        heads.add([head(9)]).unwrap();
        let again = Heads::open(&path).unwrap();
        assert_eq!(again.known.len(), sound + 1, "{cut}");
        assert_eq!(again.known.get(&Sha256([9; 32])), Some(&vec![head(9)]));
    }
    for at in 8..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let heads = Heads::open(&path).unwrap();
        assert_eq!(heads.known.len(), (at - 8) / RECORD_BYTES, "{at}");
    }
    for bad in [&b"cellfsL2"[..], b"x", b"cellfsL"] {
        std::fs::write(&path, bad).unwrap();
        assert!(Heads::open(&path).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), bad);
    }
}

fn add(shelf: &Shelf, bytes: &[u8]) -> Result<(Sha256, u64), ShelfError> {
    let coming = shelf.begin().unwrap();
    coming.as_file().write_all_at(bytes, 0).unwrap();
    shelf.add(coming.into_temp_path())
}

fn coming(shelf: &Shelf) -> usize {
    std::fs::read_dir(shelf.volume.dir().join("adding"))
        .unwrap()
        .count()
}

#[test]
fn what_is_added_is_kept_once_and_small_files_make_no_files_of_their_own() {
    let (dir, shelf) = begin();
    let files = [noise(9 << 20), noise(4 << 20), noise(5), Vec::new()];
    for bytes in &files {
        let named = (name(bytes), bytes.len() as u64);
        assert_eq!(add(&shelf, bytes).unwrap(), named);
        let stats = shelf.chunks.stats();
        assert_eq!(add(&shelf, bytes).unwrap(), named);
        assert_eq!(shelf.chunks.stats(), stats);
    }
    assert_eq!(shelf.chunks.stats().containers, 1);
    assert_eq!(coming(&shelf), 0);
    std::mem::forget(shelf.begin().unwrap());
    assert_eq!(coming(&shelf), 1);
    let shelf = crash(&shelf, &dir.path().join("after"));
    assert_eq!(coming(&shelf), 0);
    for bytes in &files {
        assert_eq!(read(&shelf, &name(bytes), 99_999), *bytes);
        let head = shelf.head(&name(bytes)).unwrap();
        let part = shelf.part(&head).unwrap();
        assert_eq!(part.bytes_here, bytes.len() as u64);
        assert_eq!(part.pieces_here, part.pieces);
    }
    // Git-lfs has them by the same names.
    assert_eq!(shelf.find(&name(&files[2])).unwrap(), Found::Whole(5));
}

#[test]
fn pieces_that_are_not_the_file_that_their_list_is_said_to_be_of_are_not_known_by_it() {
    let (_dir, shelf) = begin();
    let (bytes, claimed) = (noise(300_000), name(b"another file"));
    let (sha256, _) = add(&shelf, &bytes).unwrap();
    let truth = shelf.head(&sha256).unwrap();
    let lie = Head {
        sha256: claimed,
        ..truth
    };
    let repo = shelf.volume.repo();
    repo.put(ObjectKind::Blob, lie.encode()).unwrap();
    let checked = shelf.check_in(&lie);
    assert!(matches!(checked, Err(ShelfError::Wrong(s)) if s == claimed));
    assert_eq!(shelf.head(&claimed), None);
    assert_eq!(shelf.find(&claimed).unwrap(), Found::Nothing);
    shelf.check_in(&truth).unwrap();
}
