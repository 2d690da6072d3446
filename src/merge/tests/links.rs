//! Several names of one file.

use super::world::World;
use crate::base::id::FileId;
use crate::merge::shown::Shown;

/// Paths of what shows these bytes.
fn paths(w: &World, commits: &[usize], text: &str) -> Vec<String> {
    let disk = w.disk(commits);
    let same = disk.into_iter().filter(|(_, t)| t == text);
    same.map(|(p, _)| p).collect()
}

fn file(w: &World, commits: &[usize], path: &str) -> Option<(FileId, u32)> {
    let tree = w.tree(&w.state(commits));
    tree.get(path).map(|s: &Shown| (s.versions[0].id, s.links))
}

/// `/p`, with `/d/q` as another name of it.
fn start() -> (World, usize) {
    let mut w = World::default();
    let o = w.act(0, &[], 1, &["+/p=O", "^/d"]);
    let o = w.act(0, &[o], 2, &["/p~~/d/q"]);
    (w, o)
}

#[test]
fn both_names_show_one_file_and_an_edit_by_either_is_seen_by_both() {
    let (mut w, o) = start();
    assert_eq!(paths(&w, &[o], "O"), ["/d/q", "/p"]);
    assert_eq!(file(&w, &[o], "/p"), file(&w, &[o], "/d/q"));
    assert_eq!(file(&w, &[o], "/p").map(|f| f.1), Some(1));
    let a = w.act(1, &[o], 3, &["=/p=v1"]);
    assert_eq!(paths(&w, &[a], "v1"), ["/d/q", "/p"]);
    let b = w.act(1, &[a], 4, &["=/d/q=v2"]);
    assert_eq!(paths(&w, &[b], "v2"), ["/d/q", "/p"]);
    // A third name, by way of the second.
    let c = w.act(1, &[b], 5, &["/d/q~~/r"]);
    assert_eq!(paths(&w, &[c], "v2"), ["/d/q", "/p", "/r"]);
    assert_eq!(file(&w, &[c], "/r").map(|f| f.1), Some(2));
    // All go, one after the other; the last takes the bytes along.
    let d = w.act(1, &[c], 6, &["-/p"]);
    assert_eq!(paths(&w, &[d], "v2"), ["/d/q", "/r"]);
    let e = w.act(1, &[d], 7, &["-/r"]);
    assert_eq!(paths(&w, &[e], "v2"), ["/d/q"]);
    assert_eq!(file(&w, &[e], "/d/q").map(|f| f.1), Some(0));
    let f = w.act(1, &[e], 8, &["=/d/q=v3"]);
    assert_eq!(paths(&w, &[f], "v3"), ["/d/q"]);
    let g = w.act(1, &[f], 9, &["-/d/q"]);
    assert_eq!(w.disk(&[g]).into_keys().collect::<Vec<_>>(), ["/d"]);
}

#[test]
fn an_edit_meets_an_unlink_of_the_other_name() {
    let (mut w, o) = start();
    for (edited, unlinked) in [("/p", "/d/q"), ("/d/q", "/p")] {
        let a = w.act(1, &[o], 3, &[&format!("={edited}=v1")]);
        let b = w.act(2, &[o], 4, &[&format!("-{unlinked}")]);
        assert_eq!(paths(&w, &[a, b], "v1"), [edited]);
        assert_eq!(paths(&w, &[a, b], "O"), [""; 0]);
    }
}

#[test]
fn unlinks_of_all_names_are_a_delete_and_an_edit_meanwhile_brings_one_back() {
    let (mut w, o) = start();
    let a = w.act(1, &[o], 3, &["-/p"]);
    let b = w.act(2, &[o], 4, &["-/d/q"]);
    assert_eq!(paths(&w, &[a, b], "O"), [""; 0]);
    let s = w.seal(4, &[a, b], 5);
    assert_eq!(paths(&w, &[s], "O"), [""; 0]);
    let c = w.act(3, &[o], 6, &["=/p=v1"]);
    for set in [[a, b, c].as_slice(), &[s, c]] {
        assert_eq!(paths(&w, set, "v1").len(), 1, "{:?}", w.disk(set));
    }
}

#[test]
fn a_new_name_meets_a_delete_and_a_move() {
    let mut w = World::default();
    let o = w.act(0, &[], 1, &["+/p=O", "^/d"]);
    let a = w.act(1, &[o], 2, &["/p~~/d/q"]);
    let b = w.act(2, &[o], 3, &["-/p"]);
    assert_eq!(paths(&w, &[a, b], "O"), ["/d/q"]);
    let c = w.act(2, &[o], 3, &["/p>/r"]);
    assert_eq!(paths(&w, &[a, c], "O"), ["/d/q", "/r"]);
    assert_eq!(file(&w, &[a, c], "/r"), file(&w, &[a, c], "/d/q"));
    // The name that is left is edited, moved and unlinked as any.
    let d = w.act(3, &[a, b], 4, &["=/d/q=v1"]);
    let d = w.act(3, &[d], 5, &["/d/q>/p"]);
    assert_eq!(paths(&w, &[d], "v1"), ["/p"]);
    let d = w.act(3, &[d], 6, &["-/p"]);
    assert_eq!(paths(&w, &[d], "v1"), [""; 0]);
}

#[test]
fn two_new_names_and_files_of_one_name() {
    let mut w = World::default();
    let o = w.act(0, &[], 1, &["+/p=O", "+/r=R"]);
    // The same link twice is one entry.
    let a = w.act(1, &[o], 2, &["/p~~/q"]);
    let b = w.act(2, &[o], 3, &["/p~~/q"]);
    assert_eq!(paths(&w, &[a, b], "O"), ["/p", "/q"]);
    // Links to two files, or a link and a file: the later one has the name.
    let c = w.act(2, &[o], 3, &["/r~~/q"]);
    assert_eq!(w.disk(&[a, c])["/q"], "R");
    assert_eq!(paths(&w, &[a, c], "O").len(), 2, "{:?}", w.disk(&[a, c]));
    let d = w.act(2, &[o], 3, &["+/q=new"]);
    assert_eq!(w.disk(&[a, d])["/q"], "new");
    assert_eq!(paths(&w, &[a, d], "O").len(), 2);
    // The copy is the file, too: an edit of it is seen at the plain name.
    let copy = paths(&w, &[a, d], "O").into_iter().find(|p| p != "/p");
    let copy = copy.expect("a copy");
    let e = w.act(3, &[a, d], 4, &[&format!("={copy}=v1")]);
    assert_eq!(paths(&w, &[e], "v1").len(), 2);
    assert_eq!(w.disk(&[e])["/q"], "new");
}

#[test]
fn two_versions_of_a_file_of_several_names_are_both_shown() {
    let (mut w, o) = start();
    let a = w.act(1, &[o], 3, &["=/p=v1"]);
    let b = w.act(2, &[o], 4, &["=/d/q=v2"]);
    assert_eq!(paths(&w, &[a, b], "v2"), ["/d/q", "/p"]);
    assert_eq!(paths(&w, &[a, b], "v1").len(), 1);
    // Without a place of its own, the file shows the other version beside a name that it has.
    let c = w.act(3, &[o], 5, &["-/p"]);
    assert_eq!(paths(&w, &[a, b, c], "v2"), ["/d/q"]);
    let beside = paths(&w, &[a, b, c], "v1");
    assert!(
        beside.len() == 1 && beside[0].starts_with("/d/q.conflict-"),
        "{beside:?}"
    );
    // It can be removed and taken over the name like any copy.
    let d = w.act(4, &[a, b, c], 6, &[&format!("-{}", beside[0])]);
    assert_eq!(w.disk(&[d]).into_keys().collect::<Vec<_>>(), ["/d", "/d/q"]);
    let e = w.act(4, &[a, b, c], 6, &[&format!("{}>/d/q", beside[0])]);
    assert_eq!(paths(&w, &[e], "v1"), ["/d/q"]);
}

#[test]
fn a_rename_over_one_of_several_names_leaves_the_others() {
    for (over, left) in [("/p", "/d/q"), ("/d/q", "/p")] {
        let (mut w, o) = start();
        let o = w.act(0, &[o], 3, &["+/n=N"]);
        let a = w.act(1, &[o], 4, &[&format!("/n>{over}")]);
        assert_eq!(paths(&w, &[a], "N"), [over]);
        assert_eq!(paths(&w, &[a], "O"), [left]);
        // And one of several names over a file.
        let (mut w, o) = start();
        let o = w.act(0, &[o], 3, &["+/n=N"]);
        let a = w.act(1, &[o], 4, &[&format!("{over}>/n")]);
        assert_eq!(paths(&w, &[a], "N"), [""; 0]);
        let mut both = paths(&w, &[a], "O");
        both.sort();
        let mut expected = [left, "/n"];
        expected.sort_unstable();
        assert_eq!(both, expected);
    }
}
