//! Somebody else's file that is called by the SHA-256 of another one.

use std::os::unix::fs::FileExt;

use super::large::{CUT, LEN, bytes, head, is_contained, line, noise, put_bytes, soon};
use super::large_more::{direct, write_at};
use super::*;
use crate::base::id::FileId;
use crate::base::name::EntryName;
use crate::chunk::manifest::{self as list, NodeKind};
use crate::chunk::{Sha256, Survey, cut};
use crate::record::change::Change;
use crate::store::objects::{ObjectKind, Objects};
use crate::volume::Amendment;
use crate::volume::error::VolumeError;

fn survey_of(content: &[u8]) -> Survey {
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, content).unwrap();
    cut::survey(&file).unwrap()
}

/// Commits a file of these bytes, and says that they have this SHA-256. The head of its manifest.
fn forge(v: &Volume, name: &str, content: &[u8], as_of: Sha256) -> Oid {
    let survey = survey_of(content);
    let mut at = 0;
    for p in &survey.pieces {
        let piece = &content[at..at + p.len as usize];
        v.chunks().unwrap().put(&p.id, piece).unwrap();
        at += piece.len();
    }
    let survey = Survey {
        sha256: as_of,
        ..survey
    };
    let name = EntryName::new(name).unwrap();
    let made = v.amend(move |_, stage, mint| {
        let mut put = |kind, data| match kind {
            NodeKind::Blob => stage.put(ObjectKind::Blob, data),
            NodeKind::Tree => stage.put(ObjectKind::Tree, data),
        };
        let (head, _) = list::write(&survey, &mut put)?;
        let born = Change::Born {
            id: mint(),
            parent: FileId::ROOT,
            name,
            kind: Kind::Large,
            blob: head,
        };
        Ok::<_, crate::store::objects::ObjectError>(Amendment {
            changes: vec![born],
            message: "forged".to_owned(),
            told: head,
        })
    });
    made.unwrap().unwrap().0
}

/// As who keeps a file does: what came is in its container.
fn keep(from: &Volume, to: &Volume, head: &Oid) {
    let (there, here) = (from.chunks().unwrap(), to.chunks().unwrap());
    let pieces: Vec<_> = to.lacks(head, usize::MAX).unwrap();
    let pieces: Vec<_> = pieces.into_iter().map(|p| p.piece).collect();
    let sha256 = to.large_head(head).unwrap().sha256;
    here.begin(sha256, &pieces).unwrap();
    for (n, p) in (0..).zip(&pieces) {
        let piece = there.read(&p.id).unwrap().unwrap();
        here.fill(&sha256, n, &piece).unwrap();
    }
    here.flush().unwrap();
}

struct Believed {
    dir: tempfile::TempDir,
    /// Who wrote the true file.
    a: Arc<Volume>,
    /// Who believed the false one first.
    b: Arc<Volume>,
    truth: Vec<u8>,
    lie: Vec<u8>,
    sha256: Sha256,
}

/// One node has all of a false file, and hears of the true one.
fn believed(seed: u64) -> Believed {
    ABOVE.set(CUT);
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (a, b, liar) = (
        volume(&at("a"), 1),
        volume(&at("b"), 2),
        volume(&at("liar"), 3),
    );
    // Of one length, so that nothing else tells them apart.
    let (truth, lie) = (noise(seed, LEN), noise(seed + 1, LEN));
    let sha256 = survey_of(&truth).sha256;
    let forged = forge(&liar, "lie", &lie, sha256);
    pull_records(&liar, &b);
    assert_eq!(wanted(&b), [forged]);
    keep(&liar, &b, &forged);
    liar.stop().unwrap();
    put_bytes(&fs(&a), "true", &truth);
    a.flush_all().unwrap();
    pull_records(&a, &b);
    Believed {
        dir,
        a,
        b,
        truth,
        lie,
        sha256,
    }
}

impl Believed {
    fn is_true(&self, f: &Fs, name: &str) {
        assert!(bytes(f, name) == self.truth, "{name}");
    }

    /// Nobody has to show it.
    fn lies_or_fails(&self, f: &Fs) {
        let read = f.read(walk(f, "lie"), 0, u32::MAX);
        assert!(read.is_err() || read.is_ok_and(|r| r == self.lie));
    }

    fn end(self) {
        for v in [&self.a, &self.b] {
            fsck(v);
            v.stop().unwrap();
        }
    }
}

#[test]
fn the_true_file_is_lacking_where_another_one_has_its_name_and_comes() {
    let t = believed(200);
    let f = fs(&t.b);
    let ino = walk(&f, "true");
    let of = head(&t.b, "true");
    assert_eq!(wanted(&t.b), [of]);
    let lacks = f.read(ino, 0, 10);
    assert!(
        matches!(lacks, Err(VolumeError::Unsupplied(_))),
        "{lacks:?}"
    );
    let pieces = line(&t.a, &t.b);
    assert!(f.may_wait(ino));
    t.is_true(&f, "true");
    assert!(pieces.load(std::sync::atomic::Ordering::Relaxed) > 0);
    assert!(t.b.lacks(&of, 9).unwrap().is_empty());
    t.lies_or_fails(&f);
    t.end();
}

#[test]
fn the_true_file_is_copied_handed_over_and_written_to_where_another_one_has_its_name() {
    let mut t = believed(210);
    line(&t.a, &t.b);
    let f = fs(&t.b);
    let ino = walk(&f, "true");
    // A program that reads it has its bytes, by the file itself or through the node.
    match direct(&f, ino, false) {
        Some(s) => {
            let mut read = vec![0; LEN];
            s.file().read_exact_at(&mut read, 0).unwrap();
            assert!(read == t.truth);
        }
        None => t.is_true(&f, "true"),
    }
    f.release(ino, false);
    let out = tempfile::tempfile().unwrap();
    t.b.write_out(&head(&t.b, "true"), &out).unwrap();
    let mut copied = vec![0; LEN];
    out.read_exact_at(&mut copied, 0).unwrap();
    assert!(copied == t.truth);
    write_at(&f, "true", 100, b"changed");
    let mut changed = t.truth.clone();
    changed[100..107].copy_from_slice(b"changed");
    assert!(bytes(&f, "true") == changed);
    t.b.flush_all().unwrap();
    drop(f);
    t.b = crash(&t.b, &t.dir.path().join("b"), 2);
    line(&t.a, &t.b);
    let f = fs(&t.b);
    assert!(bytes(&f, "true") == changed);
    t.lies_or_fails(&f);
    t.end();
}

#[test]
fn the_bytes_of_a_false_file_are_its_own_when_the_true_one_is_written_here() {
    let t = believed(220);
    line(&t.a, &t.b);
    let f = fs(&t.b);
    let lie = walk(&f, "lie");
    let reader = direct(&f, lie, false).expect("by the file itself");
    let mine = put_bytes(&f, "mine", &t.truth);
    t.b.flush_all().unwrap();
    soon("a container", || is_contained(&t.b, mine));
    t.is_true(&f, "mine");
    t.is_true(&f, "true");
    // The program that has the false one reads what it was.
    let mut read = vec![0; LEN];
    reader.file().read_exact_at(&mut read, 0).unwrap();
    assert!(read == t.lie);
    t.lies_or_fails(&f);
    // Another one has the true one meanwhile, which a writer of the false one does not take along.
    let other = direct(&f, mine, false).expect("by the file itself");
    other.file().read_exact_at(&mut read, 0).unwrap();
    assert!(read == t.truth);
    if direct(&f, lie, true).is_some() {
        f.write(lie, 0, b"changed").unwrap();
    }
    f.release(lie, true);
    other.file().read_exact_at(&mut read, 0).unwrap();
    assert!(read == t.truth);
    let container = t.b.chunks().unwrap().container(&t.sha256).unwrap();
    assert!(container.is_some_and(|(_, whole)| whole), "it is held");
    f.release(mine, false);
    f.release(lie, false);
    drop((reader, other));
    // When nobody has it any more, it is written to as any file.
    write_at(&f, "lie", 7, b"later");
    let mut later = t.lie.clone();
    later[7..12].copy_from_slice(b"later");
    assert_eq!(bytes(&f, "lie")[7..], later[7..]);
    t.b.flush_all().unwrap();
    t.is_true(&f, "mine");
    t.is_true(&f, "true");
    t.end();
}

#[test]
fn a_container_that_is_given_up_is_not_handed_to_a_program_meanwhile() {
    ABOVE.set(CUT);
    let dir = tempfile::tempdir().unwrap();
    let v = volume(&dir.path().join("v"), 1);
    let f = fs(&v);
    let content = noise(230, LEN);
    let ino = put_bytes(&f, "big", &content);
    v.flush_all().unwrap();
    soon("a container", || is_contained(&v, ino));
    let of = head(&v, "big");
    let sha256 = v.large_head(&of).unwrap().sha256;
    std::thread::scope(|s| {
        // Who gives it up waits for who reads it.
        let (gives, got) = v.while_read(&of, || {
            let gives = s.spawn(|| v.give_container_up(&sha256).unwrap());
            std::thread::sleep(Duration::from_millis(200));
            assert!(!gives.is_finished());
            (gives, v.hand_container(&of).unwrap())
        });
        gives.join().unwrap();
        assert!(got.is_none(), "it has gone");
    });
    let container = || v.chunks().unwrap().container(&sha256).unwrap();
    assert!(container().is_none());
    assert!(bytes(&f, "big") == content);
    // And the other way round.
    let path = dir.path().join("again");
    std::fs::write(&path, &content).unwrap();
    let survey = survey_of(&content);
    v.chunks().unwrap().adopt(&path, &survey, true).unwrap();
    let held = v.hand_container(&of).unwrap().expect("it is there");
    v.give_container_up(&sha256).unwrap();
    assert!(container().is_some());
    drop(held);
    v.give_container_up(&sha256).unwrap();
    assert!(container().is_none());
    fsck(&v);
    v.stop().unwrap();
}
