//! Directories: made, moved and removed while others work in them.

use super::{id, shows, start};

/// Two directories of one name are one, all the way down.
#[test]
fn a_mkdir_and_a_mkdir() {
    let (mut w, o) = start(&["+/o=O"]);
    let a = w.act(1, &[o], 2, &["^/d"]);
    let a = w.act(
        1,
        &[a],
        3,
        &["^/d/s", "+/d/a=A", "+/d/both=same", "+/d/x=A"],
    );
    let a = w.act(1, &[a], 4, &["+/d/s/a=A"]);
    let b = w.act(2, &[o], 2, &["^/d"]);
    let b = w.act(
        2,
        &[b],
        4,
        &["^/d/s", "+/d/b=B", "+/d/both=same", "+/d/x=B"],
    );
    let b = w.act(2, &[b], 5, &["+/d/s/b=B"]);
    let whole = [
        "/d/",
        "/d/a = A",
        "/d/b = B",
        "/d/both = same",
        "/d/s/",
        "/d/s/a = A",
        "/d/s/b = B",
        "/d/x = B",
        "/d/x.conflict-f6787c85 = A, copy of x",
        "/o = O",
    ];
    shows(&mut w, &[a, b], &whole);
    // A move of it is a move of all, and so is an end.
    let c = w.act(3, &[a, b], 6, &["/d>/e"]);
    let moved = whole.map(|l| l.replacen("/d/", "/e/", 1));
    shows(&mut w, &[a, b, c], &moved.each_ref().map(String::as_str));
    let c = w.act(3, &[c], 7, &["-/e"]);
    shows(&mut w, &[a, b, c], &["/o = O"]);
}

/// The mode of two directories that became one is the one set last.
#[test]
fn a_mkdir_and_a_mkdir_with_modes() {
    let (mut w, o) = start(&["+/o=O"]);
    let a = w.act(1, &[o], 2, &["^/d"]);
    let a = w.act(1, &[a], 5, &["!/d:mode=700"]);
    let b = w.act(2, &[o], 3, &["^/d"]);
    let b = w.act(2, &[b], 4, &["!/d:mode=770", "!/d:user.b=B"]);
    shows(&mut w, &[a, b], &["/d/", "/o = O"]);
    let shown = w.tree(&w.state(&[a, b]))["/d"].clone();
    assert_eq!((shown.mode, shown.dirs.len()), (0o700, 2));
    assert_eq!(shown.xattrs[b"user.b".as_slice()], b"B");
}

/// What somebody made or edited stays, and the directories above it; all else goes.
#[test]
fn a_tree_removed_and_worked_in() {
    let (mut w, o) = start(&["^/d"]);
    let o = w.act(0, &[o], 2, &["^/d/s", "+/d/x=X", "+/d/y=Y"]);
    let o = w.act(0, &[o], 3, &["+/d/s/z=Z"]);
    for time in [4, 6] {
        let a = w.act(1, &[o], 5, &["-/d"]);
        let b = w.act(2, &[o], time, &["=/d/x=B"]);
        shows(&mut w, &[a, b], &["/d/", "/d/x = B"]);
        let b = w.act(2, &[o], time, &["+/d/s/new=N"]);
        shows(&mut w, &[a, b], &["/d/", "/d/s/", "/d/s/new = N"]);
        let b = w.act(2, &[o], time, &["^/d/e"]);
        shows(&mut w, &[a, b], &["/d/", "/d/e/"]);
        let b = w.act(2, &[o], time, &["/d/s/z>/z"]);
        shows(&mut w, &[a, b], &["/z = Z"]);
        let b = w.act(2, &[o], time, &["/d/s>/s"]);
        shows(&mut w, &[a, b], &["/s/"]);
    }
}

/// A directory keeps the name; the file is beside it, and stays there when the directory goes.
#[test]
fn a_file_and_a_directory() {
    for (ta, tb) in [(2, 3), (3, 2)] {
        let (mut w, o) = start(&["+/o=O"]);
        let a = w.act(1, &[o], ta, &["+/n=A"]);
        let b = w.act(2, &[o], tb, &["^/n"]);
        let b = w.act(2, &[b], 4, &["+/n/x=X"]);
        let copy = "/n.conflict-f6787c85 = A, copy of n";
        shows(&mut w, &[a, b], &["/n/", copy, "/n/x = X", "/o = O"]);
        let c = w.act(3, &[a, b], 5, &["-/n"]);
        shows(&mut w, &[c, a, b], &[copy, "/o = O"]);
        // An edit of the file meanwhile is one of the copy.
        let d = w.act(1, &[a], 6, &["=/n=A2"]);
        let copy = "/n.conflict-544dbe7e = A2, copy of n";
        shows(&mut w, &[b, d], &["/n/", copy, "/n/x = X", "/o = O"]);
    }
}

/// A file is replaced by a directory while it is edited: both are there.
#[test]
fn a_file_edited_and_replaced_by_a_directory() {
    let (mut w, o) = start(&["+/n=O"]);
    let a = w.act(1, &[o], 2, &["-/n"]);
    let a = w.act(1, &[a], 3, &["^/n"]);
    let b = w.act(2, &[o], 4, &["=/n=B"]);
    let copy = "/n.conflict-1f7a7b45 = B, copy of n";
    shows(&mut w, &[a, b], &["/n/", copy]);
    // And the other way round: a directory that is worked in, replaced by a file.
    let (mut w, o) = start(&["^/n"]);
    let a = w.act(1, &[o], 2, &["-/n"]);
    let a = w.act(1, &[a], 3, &["+/n=A"]);
    let b = w.act(2, &[o], 4, &["+/n/x=X"]);
    let copy = "/n.conflict-f6787c85 = A, copy of n";
    shows(&mut w, &[a, b], &["/n/", copy, "/n/x = X"]);
}

/// Of two moves that would put each into the other, the later one is undone.
#[test]
fn directories_moved_into_each_other() {
    for (ta, tb) in [(3, 4), (4, 3)] {
        let (mut w, o) = start(&["^/a", "^/b"]);
        let o = w.act(0, &[o], 2, &["+/a/x=1", "+/b/y=2"]);
        let a = w.act(1, &[o], ta, &["/a>/b/a"]);
        let b = w.act(2, &[o], tb, &["/b>/a/b"]);
        let b_stays = ["/b/", "/b/a/", "/b/a/x = 1", "/b/y = 2"];
        let a_stays = ["/a/", "/a/b/", "/a/b/y = 2", "/a/x = 1"];
        shows(&mut w, &[a, b], if ta < tb { &b_stays } else { &a_stays });
        // Whoever goes on from there keeps what he sees.
        let from = if ta < tb { "/b/a" } else { "/a/b" };
        let c = w.act(3, &[a, b], 5, &[&format!("{from}>/c")]);
        let b_stays = ["/b/", "/b/y = 2", "/c/", "/c/x = 1"];
        let a_stays = ["/a/", "/a/x = 1", "/c/", "/c/y = 2"];
        shows(
            &mut w,
            &[a, b, c],
            if ta < tb { &b_stays } else { &a_stays },
        );
    }
}

/// The same with three: two of the moves stand.
#[test]
fn three_directories_moved_round() {
    let (mut w, o) = start(&["^/a", "^/b", "^/c", "+/o=O"]);
    let o = w.act(0, &[o], 2, &["+/a/x=1", "+/b/y=2", "+/c/z=3"]);
    let a = w.act(1, &[o], 3, &["/a>/b/a"]);
    let b = w.act(2, &[o], 4, &["/b>/c/b"]);
    let c = w.act(3, &[o], 5, &["/c>/a/c"]);
    let expected = [
        "/c/",
        "/c/b/",
        "/c/b/a/",
        "/c/b/a/x = 1",
        "/c/b/y = 2",
        "/c/z = 3",
        "/o = O",
    ];
    shows(&mut w, &[a, b, c], &expected);
}

/// Whoever takes the later move away sees the other one stand.
#[test]
fn a_cycle_of_which_one_move_was_taken_back() {
    let (mut w, o) = start(&["^/a", "^/b"]);
    let a = w.act(1, &[o], 3, &["/a>/b/a"]);
    let b = w.act(2, &[o], 4, &["/b>/a/b"]);
    shows(&mut w, &[a, b], &["/b/", "/b/a/"]);
    let c = w.act(1, &[a], 5, &["/b/a>/a"]);
    shows(&mut w, &[b, c], &["/a/", "/a/b/"]);
}

/// What is made in a directory, edited or removed there is so wherever the directory went.
#[test]
fn a_directory_moved_and_worked_in() {
    for (ta, tb) in [(3, 4), (4, 3)] {
        let (mut w, o) = start(&["^/d"]);
        let o = w.act(0, &[o], 2, &["+/d/x=X", "+/d/y=Y"]);
        let a = w.act(1, &[o], ta, &["/d>/e"]);
        let b = w.act(2, &[o], tb, &["+/d/new=N", "^/d/s", "=/d/x=B", "-/d/y"]);
        let expected = ["/e/", "/e/new = N", "/e/s/", "/e/x = B"];
        shows(&mut w, &[a, b], &expected);
        assert_eq!(id(&w, &[a, b], "/e"), id(&w, &[o], "/d"));
    }
}

/// A directory moved by two is at W's place, with what both did in it.
#[test]
fn a_directory_moved_and_moved() {
    for (ta, tb, at) in [(3, 4, "/f"), (4, 3, "/e")] {
        let (mut w, o) = start(&["^/d"]);
        let o = w.act(0, &[o], 2, &["+/d/x=X"]);
        let a = w.act(1, &[o], ta, &["/d>/e"]);
        let a = w.act(1, &[a], 5, &["+/e/a=A"]);
        let b = w.act(2, &[o], tb, &["/d>/f"]);
        let b = w.act(2, &[b], 5, &["+/f/b=B"]);
        let expected = ["/", "/a = A", "/b = B", "/x = X"].map(|l| format!("{at}{l}"));
        shows(&mut w, &[a, b], &expected.each_ref().map(String::as_str));
    }
}

/// A directory into which another was moved lives on for that, although it was removed.
#[test]
fn a_directory_moved_into_one_that_was_removed() {
    for (ta, tb) in [(3, 4), (4, 3)] {
        let (mut w, o) = start(&["^/d", "^/e"]);
        let o = w.act(0, &[o], 2, &["+/d/x=X", "+/e/y=Y"]);
        let a = w.act(1, &[o], ta, &["/d>/e/d"]);
        let b = w.act(2, &[o], tb, &["-/e"]);
        shows(&mut w, &[a, b], &["/e/", "/e/d/", "/e/d/x = X"]);
    }
}

/// A directory that was moved and one that was made there are one; of two that were moved to
/// one name also.
#[test]
fn a_directory_moved_to_where_another_is() {
    let (mut w, o) = start(&["^/d", "^/f"]);
    let o = w.act(0, &[o], 2, &["+/d/x=X", "+/f/x=F"]);
    let a = w.act(1, &[o], 3, &["/d>/e"]);
    let b = w.act(2, &[o], 4, &["^/e"]);
    let b = w.act(2, &[b], 5, &["+/e/y=Y"]);
    shows(
        &mut w,
        &[a, b],
        &["/e/", "/e/x = X", "/e/y = Y", "/f/", "/f/x = F"],
    );
    let c = w.act(3, &[o], 6, &["/f>/e"]);
    shows(
        &mut w,
        &[a, c],
        &["/e/", "/e/x = F", "/e/x.conflict-1af35b14 = X, copy of x"],
    );
}
