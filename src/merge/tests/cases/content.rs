//! Bytes: edits, creates and deletes of one file.

use super::{listing, shows, start};
use crate::base::id::Oid;
use crate::merge::join::join;
use crate::merge::tests::world::World;
use crate::record::Source;
use crate::record::cache::Cache;
use crate::store::objects::{Memory, Object, ObjectError, ObjectKind, Objects};
use std::collections::BTreeSet;
use std::sync::Mutex;

/// Equal bytes are one version, whoever wrote them.
#[test]
fn the_same_edit_and_the_same_file_twice() {
    let (mut w, o) = start(&["+/x=O", "+/y=O"]);
    let a = w.act(1, &[o], 2, &["=/x=v", "+/new=n", "!/y:mode=755"]);
    let b = w.act(2, &[o], 3, &["=/x=v", "+/new=n", "!/y:mode=755"]);
    shows(&mut w, &[a, b], &["/new = n", "/x = v", "/y = O"]);
    // An edit of the one entry ends both versions of it.
    let c = w.act(3, &[a, b], 4, &["=/x=v2", "=/new=n2"]);
    shows(&mut w, &[c, a, b], &["/new = n2", "/x = v2", "/y = O"]);
}

/// W has the name. The other is beside it, under a name that follows from its bytes.
#[test]
fn an_edit_and_an_edit() {
    for (ta, tb) in [(2, 3), (3, 2), (2, 2)] {
        let (mut w, o) = start(&["+/x.txt=O"]);
        let a = w.act(1, &[o], ta, &["=/x.txt=A"]);
        let b = w.act(2, &[o], tb, &["=/x.txt=B"]);
        let later_a = ["/x.conflict-1f7a7b45.txt = B, copy of x.txt", "/x.txt = A"];
        let later_b = ["/x.conflict-f6787c85.txt = A, copy of x.txt", "/x.txt = B"];
        // Of one time: the larger branch.
        let expected = if ta > tb { later_a } else { later_b };
        shows(&mut w, &[a, b], &expected);
    }
}

/// Each loser has a copy of its own; equal losers have one.
#[test]
fn four_edits_of_three_kinds() {
    let (mut w, o) = start(&["+/x=O"]);
    let a = w.act(1, &[o], 2, &["=/x=A"]);
    let b = w.act(2, &[o], 3, &["=/x=B"]);
    let c = w.act(3, &[o], 4, &["=/x=A"]);
    let d = w.act(4, &[o], 5, &["=/x=D"]);
    shows(
        &mut w,
        &[a, b, c, d],
        &[
            "/x = D",
            "/x.conflict-1f7a7b45 = B, copy of x",
            "/x.conflict-f6787c85 = A, copy of x",
        ],
    );
}

/// Edits of different lines are one text.
#[test]
fn an_edit_and_an_edit_elsewhere_in_the_file() {
    let (mut w, o) = start(&["+/x=1\n2\n3\n4\n5\n"]);
    let a = w.act(1, &[o], 2, &["=/x=1a\n2\n3\n4\n5\n"]);
    let b = w.act(2, &[o], 3, &["=/x=1\n2\n3\n4\n5b\n"]);
    shows(&mut w, &[a, b], &["/x = 1a\n2\n3\n4\n5b\n"]);
    // A third one that conflicts with one of them undoes the merge: all are there.
    let c = w.act(3, &[o], 4, &["=/x=1c\n2\n3\n4\n5\n"]);
    let three = [
        "/x = 1c\n2\n3\n4\n5\n",
        "/x.conflict-1f06c1b1 = 1\n2\n3\n4\n5b\n, copy of x",
        "/x.conflict-e6ba6299 = 1a\n2\n3\n4\n5\n, copy of x",
    ];
    shows(&mut w, &[a, b, c], &three);
    // A write over the merged text ends both, also for who has only one of them.
    let d = w.act(1, &[a, b], 5, &["=/x=done\n"]);
    shows(&mut w, &[a, d], &["/x = done\n"]);
}

/// Two files of one name: as two edits.
#[test]
fn a_create_and_a_create() {
    for (ta, tb) in [(2, 3), (3, 2)] {
        let (mut w, o) = start(&["+/o=O"]);
        let a = w.act(1, &[o], ta, &["+/x=A"]);
        let b = w.act(2, &[o], tb, &["+/x=B"]);
        let later_a = ["/o = O", "/x = A", "/x.conflict-1f7a7b45 = B, copy of x"];
        let later_b = ["/o = O", "/x = B", "/x.conflict-f6787c85 = A, copy of x"];
        shows(&mut w, &[a, b], if ta > tb { &later_a } else { &later_b });
    }
}

/// Two new texts have no base, so they are never merged, whatever their lines.
#[test]
fn a_create_and_a_create_of_texts_that_would_merge() {
    let (mut w, o) = start(&["+/other=O"]);
    let a = w.act(1, &[o], 2, &["+/x=1a\n2\n3\n"]);
    let b = w.act(2, &[o], 3, &["+/x=1\n2\n3b\n"]);
    shows(
        &mut w,
        &[a, b],
        &[
            "/other = O",
            "/x = 1\n2\n3b\n",
            "/x.conflict-211c88fe = 1a\n2\n3\n, copy of x",
        ],
    );
}

/// An edit wins over a delete, however late the delete is.
#[test]
fn a_delete_and_an_edit() {
    for (ta, tb) in [(2, 3), (3, 2)] {
        let (mut w, o) = start(&["+/x=O"]);
        let a = w.act(1, &[o], ta, &["-/x"]);
        let b = w.act(2, &[o], tb, &["=/x=B"]);
        shows(&mut w, &[a, b], &["/x = B"]);
        // Whoever saw the edit can delete it.
        let c = w.act(1, &[a, b], 4, &["-/x"]);
        shows(&mut w, &[c, b], &[]);
    }
}

/// A delete ends the version that its author saw: what somebody wrote on top of that one stays,
/// what he did not touch goes.
#[test]
fn a_delete_of_one_edit_and_another_edit() {
    let (mut w, o) = start(&["+/x=O", "+/y=O"]);
    let a = w.act(1, &[o], 2, &["=/x=A", "=/y=A"]);
    let b = w.act(2, &[o], 3, &["=/x=B"]);
    let c = w.act(3, &[a], 4, &["-/x", "-/y"]);
    shows(&mut w, &[b, c], &["/x = B"]);
}

/// Gone.
#[test]
fn a_delete_and_a_delete() {
    let (mut w, o) = start(&["+/x=O", "+/y=O"]);
    let a = w.act(1, &[o], 2, &["-/x"]);
    let b = w.act(2, &[o], 3, &["-/x"]);
    shows(&mut w, &[a, b], &["/y = O"]);
    // Who made it anew made it.
    let c = w.act(1, &[a], 4, &["+/x=O"]);
    shows(&mut w, &[c, b], &["/x = O", "/y = O"]);
}

/// Who never heard of a file does not bring it back, in whatever company.
#[test]
fn a_delete_and_somebody_who_never_heard_of_the_file() {
    // The times only make for other ids of the commits, so for other orders of the heads.
    for time in 3..15 {
        let (mut w, o) = start(&["+/o=O"]);
        let made = w.act(1, &[o], 2, &["+/x=X"]);
        let gone = w.act(2, &[made], time, &["-/x"]);
        let kept = w.act(3, &[made], time, &["+/k=K"]);
        let unaware = w.act(4, &[o], time, &["+/u=U"]);
        let expected = ["/k = K", "/o = O", "/u = U"];
        shows(&mut w, &[gone, kept, unaware], &expected);
    }
}

/// As two edits of one line: what is at the end is one place. With `merge=union` both.
#[test]
fn an_append_and_an_append() {
    let (mut w, o) = start(&["+/x=1\n"]);
    let a = w.act(1, &[o], 2, &["=/x=1\na\n"]);
    let b = w.act(2, &[o], 3, &["=/x=1\nb\n"]);
    let expected = ["/x = 1\nb\n", "/x.conflict-a8b02fba = 1\na\n, copy of x"];
    shows(&mut w, &[a, b], &expected);
    let (mut w, o) = start(&["+/x=1\n", "+/.gitattributes=x merge=union\n"]);
    let a = w.act(1, &[o], 2, &["=/x=1\na\n"]);
    let b = w.act(2, &[o], 3, &["=/x=1\nb\n"]);
    let c = w.act(3, &[o], 4, &["=/x=1\nc\n"]);
    let expected = ["/.gitattributes = x merge=union\n", "/x = 1\na\nb\nc\n"];
    shows(&mut w, &[a, b, c], &expected);
}

/// A version is the whole file: nobody gets the head of one and the tail of the other.
#[test]
fn a_write_and_a_truncation() {
    for (ta, tb) in [(2, 3), (3, 2)] {
        let (mut w, o) = start(&["+/x=0123456789"]);
        let a = w.act(1, &[o], ta, &["=/x=01234"]);
        let b = w.act(2, &[o], tb, &["=/x=0123456789abc"]);
        let short = [
            "/x = 01234",
            "/x.conflict-7297d469 = 0123456789abc, copy of x",
        ];
        let long = [
            "/x = 0123456789abc",
            "/x.conflict-e6241b38 = 01234, copy of x",
        ];
        shows(&mut w, &[a, b], if ta > tb { &short } else { &long });
        let c = w.act(3, &[o], 4, &["=/x="]);
        let empty = ["/x = ", "/x.conflict-e6241b38 = 01234, copy of x"];
        shows(&mut w, &[a, c], &empty);
    }
    // Of a text, the lines at its end are lines like all others.
    let (mut w, o) = start(&["+/x=1\n2\n3\n4\n5\n"]);
    let a = w.act(1, &[o], 2, &["=/x=1\n2\n3\n"]);
    let b = w.act(2, &[o], 3, &["=/x=1b\n2\n3\n4\n5\n"]);
    shows(&mut w, &[a, b], &["/x = 1b\n2\n3\n"]);
}

/// Each of two merged the same two edits in his way: both ways stay, the edits are gone.
#[test]
fn two_who_settle_the_same_two_edits_apart() {
    let (mut w, o) = start(&["+/x=O"]);
    let a = w.act(1, &[o], 2, &["=/x=A"]);
    let b = w.act(2, &[o], 3, &["=/x=B"]);
    let copy = "/x.conflict-f6787c85";
    let c = w.act(3, &[a, b], 4, &["=/x=C", &format!("-{copy}")]);
    let d = w.act(4, &[a, b], 5, &["=/x=D", &format!("-{copy}")]);
    let expected = ["/x = D", "/x.conflict-136d02c9 = C, copy of x"];
    shows(&mut w, &[c, d], &expected);
    // One settled for what the copy had, the other only took the copy away: that is C's choice.
    let c = w.act(3, &[a, b], 4, &[&format!("{copy}>/x")]);
    let d = w.act(4, &[a, b], 5, &[&format!("-{copy}")]);
    shows(&mut w, &[c, d], &["/x = A"]);
    // The same choice twice is one.
    let d = w.act(4, &[a, b], 5, &[&format!("{copy}>/x")]);
    shows(&mut w, &[c, d], &["/x = A"]);
}

/// Texts that were merged and edited apart again: the base is what both merged.
#[test]
fn edits_on_both_merges_of_two_edits() {
    let (mut w, o) = start(&["+/x=1\n2\n3\n4\n5\n6\n7\n"]);
    let a = w.act(1, &[o], 2, &["=/x=1a\n2\n3\n4\n5\n6\n7\n"]);
    let b = w.act(2, &[o], 3, &["=/x=1\n2\n3\n4\n5\n6\n7b\n"]);
    let c = w.act(3, &[a, b], 4, &["=/x=1a\n2\n3c\n4\n5\n6\n7b\n"]);
    let d = w.act(4, &[b, a], 5, &["=/x=1a\n2\n3\n4\n5d\n6\n7b\n"]);
    shows(&mut w, &[c, d], &["/x = 1a\n2\n3c\n4\n5d\n6\n7b\n"]);
    // One of them took the first edit back: it stays taken back.
    let e = w.act(3, &[a, b], 6, &["=/x=1\n2\n3\n4\n5\n6\n7b\n"]);
    shows(&mut w, &[e, d], &["/x = 1\n2\n3\n4\n5d\n6\n7b\n"]);
    // Edited at the merge, and on one of the edits alone.
    let f = w.act(1, &[a], 7, &["=/x=1a\n2\n3f\n4\n5\n6\n7\n"]);
    shows(&mut w, &[f, d], &["/x = 1a\n2\n3f\n4\n5d\n6\n7b\n"]);
}

/// Objects without one of them, and with a note of what was asked for.
struct Without<'a> {
    objs: &'a Memory,
    lacks: Option<Oid>,
    asked: Mutex<BTreeSet<Oid>>,
}

impl Objects for Without<'_> {
    fn find(&self, id: &Oid) -> Result<Option<Object>, ObjectError> {
        if self.lacks == Some(*id) {
            return Ok(None);
        }
        let found = self.objs.find(id)?;
        if found.is_some() {
            self.asked.lock().expect("whole").insert(*id);
        }
        Ok(found)
    }

    fn put(&self, kind: ObjectKind, data: Vec<u8>) -> Result<Oid, ObjectError> {
        self.objs.put(kind, data)
    }
}

/// While anything is missing that the outcome hangs on, there is no new view: never another
/// one, never the loser in the winner's place, nor a name that cannot be read.
#[test]
fn bytes_that_are_not_here_yet() {
    let attributes = "+/.gitattributes=t merge=union\n";
    let (mut w, o) = start(&["+/x=O", "+/t=1\n2\n", attributes, "^/d"]);
    let o = w.act(0, &[o], 2, &["+/d/y=O"]);
    let a = w.act(1, &[o], 3, &["=/x=A", "=/t=1a\n2\n", "/d>/e"]);
    let b = w.act(2, &[o], 4, &["=/x=B", "=/t=1b\n2\n", "-/d"]);
    let heads = w.heads(&[a, b]);
    let merge = |w: &World, lacks| {
        let objs = Without {
            objs: &w.objs,
            lacks,
            asked: Mutex::default(),
        };
        let cache = Cache::default();
        let state = join(Source::new(&objs, &cache), w, &heads);
        (state, objs.asked.into_inner().expect("whole"))
    };
    let (whole, asked) = merge(&w, None);
    let whole = whole.expect("joins");
    assert!(asked.len() > 10);
    for id in asked {
        assert!(merge(&w, Some(id)).0.is_err(), "{id} was not missed");
    }
    let expected = [
        "/.gitattributes = t merge=union\n",
        "/e/",
        "/t = 1a\n1b\n2\n",
        "/x = B",
        "/x.conflict-f6787c85 = A, copy of x",
    ];
    assert_eq!(listing(&w, &whole), expected);
}
