//! What went wrong once: each of these failed before it was mended.

use super::tape::{self, Op};
use super::*;

/// Files below a directory that this process has open.
fn open_files(dir: &Path) -> usize {
    let all = fs::read_dir("/proc/self/fd").unwrap();
    let paths = all.filter_map(|e| fs::read_link(e.ok()?.path()).ok());
    paths.filter(|p| p.starts_with(dir)).count()
}

#[test]
fn a_container_that_was_filled_and_not_flushed_goes_without_loss() {
    let dir = folder();
    let c = open(dir.path());
    let (survey, _) = file_of(&[1, 2, 3]);
    c.begin(survey.sha256, &survey.pieces).unwrap();
    for n in [0, 1, 2] {
        c.fill(&survey.sha256, n, &chunk(u64::from(n) + 1).1)
            .unwrap();
    }
    let got = c.evict(&survey.sha256, &mut |_| true).unwrap();
    assert_eq!(got.moved, 3);
    for c in [c, open(dir.path())] {
        for n in [1, 2, 3] {
            assert_eq!(c.read(&chunk(n).0).unwrap(), Some(chunk(n).1), "{n}");
        }
    }
}

#[test]
fn a_fill_that_was_refused_keeps_no_file_open() {
    let dir = folder();
    let c = open(dir.path());
    let (survey, _) = file_of(&[1, 2]);
    c.begin(survey.sha256, &survey.pieces).unwrap();
    c.fill(&survey.sha256, 0, &chunk(2).1).unwrap_err();
    assert_eq!(open_files(dir.path()), 0);
    tape::fail(Some((0, io::ErrorKind::StorageFull)));
    let got = c.fill(&survey.sha256, 0, &chunk(1).1);
    assert!(matches!(got, Err(ChunkError::Full)));
    assert_eq!(open_files(dir.path()), 0);
}

#[test]
fn what_is_not_flushed_keeps_few_files_open() {
    let dir = folder();
    let c = open(dir.path());
    for n in 0..200 {
        let (survey, _) = file_of(&[n, 5000]);
        c.begin(survey.sha256, &survey.pieces).unwrap();
        c.fill(&survey.sha256, 0, &chunk(n).1).unwrap();
        assert!(open_files(dir.path()) < 80);
    }
    for n in 1000..2000 {
        c.put(&chunk(n).0, &chunk(n).1).unwrap();
        assert!(open_files(dir.path()) < 80);
    }
    assert!(c.stats().packs > 80);
    c.flush().unwrap();
    assert_eq!(open_files(dir.path()), 0);
    for n in (0..200).chain(1000..2000) {
        assert!(c.has(&chunk(n).0), "{n}");
    }
}

#[test]
fn a_file_that_cannot_be_taken_over_costs_nothing_of_what_came_of_it() {
    for at in 0.. {
        let dir = folder();
        let c = open(dir.path());
        let (survey, _) = file_of(&[5, 6]);
        c.begin(survey.sha256, &survey.pieces).unwrap();
        c.fill(&survey.sha256, 0, &chunk(5).1).unwrap();
        c.flush().unwrap();
        tape::fail(Some((at, io::ErrorKind::StorageFull)));
        let done = adopt(&c, &[5, 6]);
        let is_through = tape::fail(None);
        if !is_through {
            done.unwrap_err();
        }
        for c in [c, open(dir.path())] {
            assert_eq!(c.read(&chunk(5).0).unwrap(), Some(chunk(5).1), "{at}");
        }
        if is_through {
            assert!(at > 3);
            break;
        }
    }
}

#[test]
fn packs_are_given_back_without_room_for_all_that_lives_in_them() {
    let dir = folder();
    let c = open(dir.path());
    for n in 0..200 {
        c.put(&chunk(n).0, &chunk(n).1).unwrap();
    }
    c.flush().unwrap();
    let most: Vec<_> = (0..200)
        .filter(|n| n % 4 != 0)
        .map(|n| chunk(n).0)
        .collect();
    tape::record();
    c.remove(&most).unwrap();
    let (mut extra, mut extra_most) = (0, 0);
    for op in tape::stop() {
        match op {
            Op::Write(path, _, b) if path.extension().is_some_and(|e| e == "pack") => {
                extra += b.len();
            }
            Op::Remove(path) if path.extension().is_some_and(|e| e == "pack") => extra = 0,
            _ => {}
        }
        extra_most = extra_most.max(extra);
    }
    assert!(extra_most < 6000, "{extra_most} more bytes than before");
    for n in (0..200).step_by(4) {
        assert_eq!(c.read(&chunk(n).0).unwrap(), Some(chunk(n).1));
    }
}

#[test]
fn zeros_that_are_filled_in_stay_a_hole() {
    let dir = folder();
    let c = open(dir.path());
    let zeros = vec![0; PIECE_BYTES_MAX as usize];
    let id = ChunkId::of(&zeros);
    let len = PIECE_BYTES_MAX;
    let sha256 = Sha256([9; 32]);
    c.begin(sha256, &[Piece { id, len }; 8]).unwrap();
    for n in 0..8 {
        c.fill(&sha256, n, &zeros).unwrap();
    }
    c.flush().unwrap();
    let (file, is_complete) = c.container(&sha256).unwrap().unwrap();
    assert!(is_complete);
    assert!(file.metadata().unwrap().blocks() * 512 < 100_000);
    // Where something else was, too.
    let path = container::data_path(dir.path(), &sha256);
    disk::open(&path)
        .unwrap()
        .write_all_at(&[1; 5000], 3 << 20)
        .unwrap();
    assert_eq!(c.scrub(u64::MAX).unwrap().wrong.len(), 1);
    c.fill(&sha256, 3, &zeros).unwrap();
    c.flush().unwrap();
    assert!(content(&c, &sha256).unwrap().0.iter().all(|b| *b == 0));
}
