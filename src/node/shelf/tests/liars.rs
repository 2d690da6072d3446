//! Lists of members that say they are of a file and are not.

use super::*;

/// What a member says is this file: its list is noted, and nothing of it was hashed here.
fn told(shelf: &Shelf, sha256: Sha256, bytes: &[u8]) -> (Survey, Oid) {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    let survey = cut::survey(&file).unwrap();
    let survey = Survey { sha256, ..survey };
    let head = shelf.keep_manifest(&survey).unwrap();
    let id = id_of(ObjectKind::Blob, &head.encode());
    shelf.note([id].into_iter()).unwrap();
    (survey, id)
}

/// Its bytes come and are in its container, as far as that is its own.
fn comes(shelf: &Shelf, survey: &Survey, bytes: &[u8], in_container: bool) {
    if in_container {
        let begun = shelf.chunks.begin(survey.sha256, &survey.pieces);
        begun.unwrap();
    }
    let mut at = 0;
    for (n, p) in (0..).zip(&survey.pieces) {
        let piece = &bytes[at..at + p.len as usize];
        match in_container {
            true => shelf.chunks.fill(&survey.sha256, n, piece).unwrap(),
            false => drop(shelf.chunks.put(&p.id, piece).unwrap()),
        }
        at += piece.len();
    }
    shelf.chunks.flush().unwrap();
}

fn try_read(shelf: &Arc<Shelf>, sha256: &Sha256) -> io::Result<Vec<u8>> {
    let mut source = shelf.source(sha256, false).unwrap().expect("it is here");
    // As the door asks whether there is anything.
    source.read(0, 1)?;
    let mut out = Vec::new();
    while (out.len() as u64) < source.len() {
        out.extend_from_slice(&source.read(out.len() as u64, 65_536)?);
    }
    Ok(out)
}

#[test]
fn the_true_list_of_several_is_found_whichever_came_first() {
    for true_first in [false, true] {
        let (dir, shelf) = begin();
        let (truth, lie) = (noise(3_000_000), noise(2_000_000));
        let sha256 = name(&truth);
        let mut all = [(&lie, true), (&truth, false)];
        if true_first {
            all.reverse();
        }
        for (bytes, in_container) in all {
            let (survey, _) = told(&shelf, sha256, bytes);
            comes(&shelf, &survey, bytes, in_container);
        }
        let whole = Found::Whole(3_000_000);
        assert_eq!(shelf.find(&sha256).unwrap(), whole, "{true_first}");
        assert!(try_read(&shelf, &sha256).unwrap() == truth);
        assert_eq!(shelf.head(&sha256).unwrap().len, 3_000_000);
        let shelf = crash(&shelf, &dir.path().join("w"));
        assert_eq!(shelf.find(&sha256).unwrap(), whole, "{true_first}");
        assert!(try_read(&shelf, &sha256).unwrap() == truth);
        shelf.volume.stop().unwrap();
    }
}

#[test]
fn the_end_of_a_false_file_is_not_given_and_it_is_not_known_by_that_name_again() {
    for in_container in [false, true] {
        let (_dir, shelf) = begin();
        let lie = noise(2_000_000);
        let sha256 = name(b"what it is not");
        let (survey, id) = told(&shelf, sha256, &lie);
        comes(&shelf, &survey, &lie, in_container);
        assert!(try_read(&shelf, &sha256).is_err(), "{in_container}");
        assert_eq!(shelf.find(&sha256).unwrap(), Found::Nothing);
        assert!(shelf.source(&sha256, false).unwrap().is_none());
        // It is met again, with the next look at the folder.
        shelf.note([id].into_iter()).unwrap();
        assert_eq!(shelf.find(&sha256).unwrap(), Found::Nothing);
        shelf.volume.stop().unwrap();
    }
}

#[test]
fn what_is_uploaded_by_a_name_that_a_false_file_has_is_given_back() {
    let (dir, shelf) = begin();
    let (truth, lie) = (noise(3_000_000), noise(3_000_000));
    let sha256 = name(&truth);
    let (survey, _) = told(&shelf, sha256, &lie);
    comes(&shelf, &survey, &lie, true);
    assert_eq!(take(&shelf, &truth), sha256);
    assert!(try_read(&shelf, &sha256).unwrap() == truth);
    // And the false list comes again.
    told(&shelf, sha256, &lie);
    assert!(try_read(&shelf, &sha256).unwrap() == truth);
    shelf.chunks.evict(&sha256, &mut |_| true).unwrap();
    assert!(try_read(&shelf, &sha256).unwrap() == truth);
    let shelf = crash(&shelf, &dir.path().join("w"));
    assert!(try_read(&shelf, &sha256).unwrap() == truth);
    shelf.volume.stop().unwrap();
}

/// A client that is told that it is here sends nothing, and may remove its own.
#[test]
fn what_nobody_hashed_is_here_for_who_sends_it_only_if_it_is_hashed() {
    let (_dir, shelf) = begin();
    let (truth, lie, part) = (noise(2_000_000), noise(2_000_000), noise(2_000_000));
    let said = name(b"what it is not");
    for (sha256, bytes) in [(name(&truth), &truth), (said, &lie)] {
        let (survey, _) = told(&shelf, sha256, bytes);
        comes(&shelf, &survey, bytes, true);
        assert_eq!(shelf.find(&sha256).unwrap(), Found::Whole(2_000_000));
    }
    told(&shelf, name(&part), &part);
    let proven = |bytes: u64, sha256: &Sha256| {
        let mut left = bytes;
        let found = shelf.find_proven(sha256, &mut left).unwrap();
        (found, bytes - left)
    };
    let sha256 = name(&truth);
    assert_eq!(proven(1_999_999, &sha256), (Found::Nothing, 0));
    let whole = Found::Whole(2_000_000);
    assert_eq!(proven(3_000_000, &sha256), (whole, 2_000_000));
    assert_eq!(proven(0, &sha256), (whole, 0), "once");
    assert_eq!(proven(3_000_000, &said), (Found::Nothing, 2_000_000));
    assert_eq!(shelf.find(&said).unwrap(), Found::Nothing);
    assert_eq!(proven(3_000_000, &name(&part)), (Found::Nothing, 0));
    // What was taken here was hashed then.
    let mine = take(&shelf, &noise(100_000));
    assert_eq!(proven(0, &mine), (Found::Whole(100_000), 0));
    shelf.volume.stop().unwrap();
}
