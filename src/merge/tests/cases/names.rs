//! Names of files: renames, hard links (more of them in `tests::links`), names that look alike.

use super::{id, shows, start};

/// An edit follows the file to its new name.
#[test]
fn a_rename_and_an_edit() {
    for (ta, tb) in [(2, 3), (3, 2)] {
        let (mut w, o) = start(&["+/x=O"]);
        let a = w.act(1, &[o], ta, &["/x>/y"]);
        let b = w.act(2, &[o], tb, &["=/x=B"]);
        shows(&mut w, &[a, b], &["/y = B"]);
        assert_eq!(id(&w, &[a, b], "/y"), id(&w, &[o], "/x"));
    }
}

/// A rename is work on the file, so it wins over a delete, as an edit does.
#[test]
fn a_rename_and_a_delete() {
    for (ta, tb) in [(2, 3), (3, 2)] {
        let (mut w, o) = start(&["+/x=O"]);
        let a = w.act(1, &[o], ta, &["/x>/y"]);
        let b = w.act(2, &[o], tb, &["-/x"]);
        shows(&mut w, &[a, b], &["/y = O"]);
    }
}

/// A delete, a rename and an edit of one file: the edited file, at its new name.
#[test]
fn a_rename_an_edit_and_a_delete() {
    let (mut w, o) = start(&["+/x=O"]);
    let a = w.act(1, &[o], 2, &["/x>/y"]);
    let b = w.act(2, &[o], 3, &["=/x=B"]);
    let c = w.act(3, &[o], 4, &["-/x"]);
    shows(&mut w, &[a, b, c], &["/y = B"]);
}

/// One file has one place: W's. It is not there twice.
#[test]
fn a_rename_and_a_rename_of_one_file() {
    for (ta, tb, expected) in [(2, 3, "/b = O"), (3, 2, "/a = O"), (2, 2, "/b = O")] {
        let (mut w, o) = start(&["+/x=O"]);
        let a = w.act(1, &[o], ta, &["/x>/a"]);
        let b = w.act(2, &[o], tb, &["/x>/b"]);
        shows(&mut w, &[a, b], &[expected]);
        // Who sees it there can move it again; the other place does not come back.
        let c = w.act(3, &[a, b], 4, &[&format!("{}>/c", &expected[..2])]);
        shows(&mut w, &[c, a, b], &["/c = O"]);
    }
}

/// The same rename twice is one.
#[test]
fn the_same_rename_twice() {
    let (mut w, o) = start(&["+/x=O"]);
    let a = w.act(1, &[o], 2, &["/x>/y"]);
    let b = w.act(2, &[o], 3, &["/x>/y"]);
    shows(&mut w, &[a, b], &["/y = O"]);
}

/// W has the name, the other is a copy beside it: both files go on.
#[test]
fn renames_of_two_files_to_one_name() {
    for (ta, tb) in [(2, 3), (3, 2)] {
        let (mut w, o) = start(&["+/a=A", "+/b=B"]);
        let a = w.act(1, &[o], ta, &["/a>/x"]);
        let b = w.act(2, &[o], tb, &["/b>/x"]);
        let later_a = ["/x = A", "/x.conflict-1f7a7b45 = B, copy of x"];
        let later_b = ["/x = B", "/x.conflict-f6787c85 = A, copy of x"];
        let expected = if ta > tb { later_a } else { later_b };
        shows(&mut w, &[a, b], &expected);
        // An edit that somebody made at the old name comes along.
        let c = w.act(3, &[o], 1, &["=/a=A2"]);
        let later_a = ["/x = A2", "/x.conflict-1f7a7b45 = B, copy of x"];
        let later_b = ["/x = B", "/x.conflict-544dbe7e = A2, copy of x"];
        let expected = if ta > tb { later_a } else { later_b };
        shows(&mut w, &[a, b, c], &expected);
    }
}

/// Two files change their names with each other, while each is edited: the edits follow.
#[test]
fn a_swap_of_names_and_edits() {
    let (mut w, o) = start(&["+/a=A", "+/b=B"]);
    let s = w.act(1, &[o], 2, &["/a>/t"]);
    let s = w.act(1, &[s], 3, &["/b>/a"]);
    let s = w.act(1, &[s], 4, &["/t>/b"]);
    shows(&mut w, &[s], &["/a = B", "/b = A"]);
    let e = w.act(2, &[o], 5, &["=/a=A2", "=/b=B2"]);
    shows(&mut w, &[s, e], &["/a = B2", "/b = A2"]);
}

/// A rename over a file ends the version of it that was seen; a later edit of that file and the
/// renamed one are two versions of the name. W has it, be it the renamed one or the edited one.
#[test]
fn a_rename_over_an_edited_file() {
    for (ta, tb) in [(2, 3), (3, 2)] {
        let (mut w, o) = start(&["+/new=N", "+/x=O"]);
        let a = w.act(1, &[o], ta, &["/new>/x"]);
        let b = w.act(2, &[o], tb, &["=/x=B"]);
        let later_a = ["/x = N", "/x.conflict-1f7a7b45 = B, copy of x"];
        let later_b = ["/x = B", "/x.conflict-fe976890 = N, copy of x"];
        let expected = if ta > tb { later_a } else { later_b };
        shows(&mut w, &[a, b], &expected);
    }
}

/// Of a file that is saved by a rename over it, the save is an edit: it merges as one.
#[test]
fn a_save_by_rename_over_an_edited_file() {
    let (mut w, o) = start(&["+/x=1\n2\n3\n"]);
    let n = w.act(1, &[o], 2, &["+/tmp=1a\n2\n3\n"]);
    let a = w.act(1, &[n], 3, &["/tmp>>/x"]);
    let b = w.act(2, &[o], 4, &["=/x=1\n2\n3b\n"]);
    shows(&mut w, &[a, b], &["/x = 1a\n2\n3b\n"]);
    let c = w.act(3, &[o], 5, &["=/x=1c\n2\n3\n"]);
    let expected = [
        "/x = 1c\n2\n3\n",
        "/x.conflict-211c88fe = 1a\n2\n3\n, copy of x",
    ];
    shows(&mut w, &[a, c], &expected);
}

/// A rename over a file that was renamed away meanwhile, or deleted, has the name to itself.
#[test]
fn a_rename_over_a_file_that_went() {
    let (mut w, o) = start(&["+/new=N", "+/x=O"]);
    let a = w.act(1, &[o], 2, &["/new>/x"]);
    let b = w.act(2, &[o], 3, &["/x>/y"]);
    shows(&mut w, &[a, b], &["/x = N", "/y = O"]);
    let c = w.act(3, &[o], 4, &["-/x"]);
    shows(&mut w, &[a, c], &["/x = N"]);
}

/// Names are bytes: case and the way of composing letters tell names apart.
#[test]
fn names_that_differ_in_case_or_composition() {
    let (mut w, o) = start(&["+/other=O"]);
    let a = w.act(1, &[o], 2, &["+/README=1", "+/caf\u{e9}=1", "^/D"]);
    let b = w.act(2, &[o], 3, &["+/readme=2", "+/cafe\u{301}=2", "^/d"]);
    let expected = [
        "/D/",
        "/README = 1",
        "/cafe\u{301} = 2",
        "/caf\u{e9} = 1",
        "/d/",
        "/other = O",
        "/readme = 2",
    ];
    shows(&mut w, &[a, b], &expected);
    // A rename to the twin is a rename, and an edit follows it.
    let (mut w, o) = start(&["+/README=1"]);
    let a = w.act(1, &[o], 2, &["/README>/readme"]);
    let b = w.act(2, &[o], 3, &["=/README=2"]);
    shows(&mut w, &[a, b], &["/readme = 2"]);
}

/// A hard link and an edit: all names show the edit.
#[test]
fn a_link_and_an_edit() {
    let (mut w, o) = start(&["+/x=O"]);
    let a = w.act(1, &[o], 2, &["/x~~/y"]);
    let b = w.act(2, &[o], 3, &["=/x=B"]);
    shows(&mut w, &[a, b], &["/x = B", "/y = B"]);
    assert_eq!(id(&w, &[a, b], "/x"), id(&w, &[a, b], "/y"));
}

/// Edits by two names of one file are two edits of that file: the copy is there once.
#[test]
fn edits_by_two_names_of_one_file() {
    for (ta, tb) in [(3, 4), (4, 3)] {
        let (mut w, o) = start(&["+/x=O"]);
        let o = w.act(0, &[o], 2, &["/x~~/y"]);
        let a = w.act(1, &[o], ta, &["=/x=A"]);
        let b = w.act(2, &[o], tb, &["=/y=B"]);
        let later_a = ["/x = A", "/x.conflict-1f7a7b45 = B, copy of x", "/y = A"];
        let later_b = ["/x = B", "/x.conflict-f6787c85 = A, copy of x", "/y = B"];
        let expected = if ta > tb { later_a } else { later_b };
        shows(&mut w, &[a, b], &expected);
    }
}

/// Each name of a file is moved on its own, and a name that two moved is at W's place.
#[test]
fn renames_of_the_names_of_one_file() {
    let (mut w, o) = start(&["+/x=O"]);
    let o = w.act(0, &[o], 2, &["/x~~/y"]);
    let a = w.act(1, &[o], 3, &["/x>/a"]);
    let b = w.act(2, &[o], 4, &["/y>/b"]);
    shows(&mut w, &[a, b], &["/a = O", "/b = O"]);
    let c = w.act(3, &[o], 5, &["/y>/c"]);
    shows(&mut w, &[a, b, c], &["/a = O", "/c = O"]);
}
