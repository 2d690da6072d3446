//! Conflict copies: what is done with them, and copies of copies.

use super::{id, shows, start};
use crate::merge::tests::world::World;

/// `/x.txt` with B, and A beside it.
fn two() -> (World, [usize; 2], &'static str) {
    let (mut w, o) = start(&["+/x.txt=O"]);
    let a = w.act(1, &[o], 2, &["=/x.txt=A"]);
    let b = w.act(2, &[o], 3, &["=/x.txt=B"]);
    (w, [a, b], "/x.conflict-f6787c85.txt")
}

/// A copy is an ordinary file to whoever touches it, and everybody has that file then.
#[test]
fn a_copy_edited_moved_deleted_or_chosen() {
    let (mut w, both, copy) = two();
    let edited = w.act(3, &both, 4, &[&format!("={copy}=C")]);
    shows(&mut w, &[edited], &[&format!("{copy} = C"), "/x.txt = B"]);
    let deleted = w.act(3, &both, 4, &[&format!("-{copy}")]);
    shows(&mut w, &[deleted], &["/x.txt = B"]);
    let moved = w.act(3, &both, 4, &[&format!("{copy}>/kept")]);
    shows(&mut w, &[moved], &["/kept = A", "/x.txt = B"]);
    let chosen = w.act(3, &both, 4, &[&format!("{copy}>/x.txt")]);
    shows(&mut w, &[chosen], &["/x.txt = A"]);
    // An edit of the name leaves the copy where it is.
    let written = w.act(3, &both, 4, &["=/x.txt=C"]);
    let left = ["/x.conflict-f6787c85.txt = A, copy of x.txt", "/x.txt = C"];
    shows(&mut w, &[written], &left);
    // A delete of the name does not lift the copy into it.
    let cleared = w.act(3, &both, 4, &["-/x.txt"]);
    shows(&mut w, &[cleared], &left[..1]);
}

/// Settled by one and edited by another: both are heard.
#[test]
fn a_copy_settled_and_a_name_edited() {
    let (mut w, both, copy) = two();
    let e = w.act(4, &both, 5, &["=/x.txt=E"]);
    let deleted = w.act(3, &both, 4, &[&format!("-{copy}")]);
    shows(&mut w, &[deleted, e], &["/x.txt = E"]);
    let chosen = w.act(3, &both, 4, &[&format!("{copy}>/x.txt")]);
    let expected = ["/x.conflict-f6787c85.txt = A, copy of x.txt", "/x.txt = E"];
    shows(&mut w, &[chosen, e], &expected);
}

/// Two who delete the copy agree, and an edit of it wins over a delete of it.
#[test]
fn a_copy_deleted_and_deleted_or_edited() {
    let (mut w, both, copy) = two();
    let a = w.act(3, &both, 4, &[&format!("-{copy}")]);
    let b = w.act(4, &both, 5, &[&format!("-{copy}")]);
    shows(&mut w, &[a, b], &["/x.txt = B"]);
    let c = w.act(5, &both, 6, &[&format!("={copy}=C")]);
    shows(&mut w, &[a, c], &[&format!("{copy} = C"), "/x.txt = B"]);
}

/// Two who edit a copy: the later one has its name; the other is a copy of that with one
/// suffix, of 16 digits.
#[test]
fn a_copy_edited_and_edited() {
    let (mut w, both, copy) = two();
    let a = w.act(3, &both, 4, &[&format!("={copy}=C")]);
    let b = w.act(4, &both, 5, &[&format!("={copy}=D")]);
    let expected = [
        "/x.conflict-602ea8b19e067a01.txt = C, copy of x.conflict-f6787c85.txt",
        "/x.conflict-f6787c85.txt = D",
        "/x.txt = B",
    ];
    shows(&mut w, &[a, b], &expected);
}

/// However often conflicts meet conflicts, names do not grow.
#[test]
fn copies_of_copies_of_copies() {
    let (mut w, both, copy) = two();
    let a = w.act(3, &both, 4, &[&format!("={copy}=C")]);
    let c = w.act(3, &[a], 5, &[&format!("={copy}=C1")]);
    let d = w.act(4, &[a], 6, &[&format!("={copy}=C2")]);
    shows(
        &mut w,
        &[c, d],
        &[
            "/x.conflict-195cfcf2d87538a4.txt = C1, copy of x.conflict-f6787c85.txt",
            "/x.conflict-f6787c85.txt = C2",
            "/x.txt = B",
        ],
    );
    let second = "/x.conflict-195cfcf2d87538a4.txt";
    let e = w.act(3, &[c, d], 7, &[&format!("={second}=E1")]);
    shows(
        &mut w,
        &[e],
        &[
            "/x.conflict-195cfcf2d87538a4.txt = E1",
            "/x.conflict-f6787c85.txt = C2",
            "/x.txt = B",
        ],
    );
    let e1 = w.act(3, &[e], 8, &[&format!("={second}=E2")]);
    let e2 = w.act(4, &[e], 9, &[&format!("={second}=E3")]);
    shows(
        &mut w,
        &[e1, e2],
        &[
            "/x.conflict-195cfcf2d87538a4.txt = E3",
            "/x.conflict-52fef71b42e04ce8.txt = E2, copy of x.conflict-195cfcf2d87538a4.txt",
            "/x.conflict-f6787c85.txt = C2",
            "/x.txt = B",
        ],
    );
}

/// Three rounds of edits without anybody settling: a copy each, all of the one name.
#[test]
fn conflicts_that_nobody_settles() {
    let (mut w, both, _) = two();
    let c = w.act(3, &both, 4, &["=/x.txt=C"]);
    let d = w.act(4, &both, 5, &["=/x.txt=D"]);
    shows(
        &mut w,
        &[c, d],
        &[
            "/x.conflict-136d02c9.txt = C, copy of x.txt",
            "/x.conflict-f6787c85.txt = A, copy of x.txt",
            "/x.txt = D",
        ],
    );
    let e = w.act(3, &[c, d], 6, &["=/x.txt=E"]);
    let f = w.act(4, &[c, d], 7, &["=/x.txt=F"]);
    shows(
        &mut w,
        &[e, f],
        &[
            "/x.conflict-136d02c9.txt = C, copy of x.txt",
            "/x.conflict-bbc6db0f.txt = E, copy of x.txt",
            "/x.conflict-f6787c85.txt = A, copy of x.txt",
            "/x.txt = F",
        ],
    );
}

/// A file that somebody gave the very name keeps it: the copy gets more digits.
#[test]
fn a_file_with_the_name_that_a_copy_would_have() {
    let (mut w, [a, b], copy) = two();
    let c = w.act(3, &[a], 4, &[&format!("+{copy}=mine")]);
    shows(
        &mut w,
        &[b, c],
        &[
            "/x.conflict-f6787c85.txt = mine",
            "/x.conflict-f6787c85d4d2.txt = A, copy of x.txt",
            "/x.txt = B",
        ],
    );
}

/// Bytes that the name has are not shown beside it as well.
#[test]
fn a_name_that_gets_the_bytes_of_its_copy() {
    let (mut w, both, _) = two();
    let c = w.act(3, &both, 4, &["=/x.txt=A"]);
    shows(&mut w, &[c], &["/x.txt = A"]);
    let before = id(&w, &both, "/x.txt");
    assert_eq!(id(&w, &[c], "/x.txt"), before);
}
