//! The rules by example.

use super::world::{World, copies};

/// The texts shown at a path and in copies of it, the plain one first.
fn at(w: &World, commits: &[usize], path: &str) -> (Option<String>, Vec<String>) {
    let tree = w.tree(&w.state(commits));
    let main = tree.get(path).map(|s| w.text(&s.blob));
    let beside = copies(&tree);
    let mut texts: Vec<String> = beside
        .iter()
        .filter(|(p, _)| p == path)
        .map(|(_, b)| w.text(b))
        .collect();
    texts.sort();
    (main, texts)
}

fn some(main: &str, copies: &[&str]) -> (Option<String>, Vec<String>) {
    (
        Some(main.to_owned()),
        copies.iter().map(|s| (*s).to_owned()).collect(),
    )
}

fn start(acts: &[&str]) -> (World, usize) {
    let mut w = World::default();
    let o = w.act(0, &[], 1, acts);
    (w, o)
}

#[test]
fn two_commits_of_one_name_end_nothing_of_each_other() {
    let mut w = World::default();
    let o = w.act(0, &[], 1, &["+/p=O", "+/q=O"]);
    let a = w.act(1, &[o], 3, &["=/p=v1"]);
    w.roll_back(1);
    let b = w.act(1, &[o], 4, &["=/q=v2"]);
    assert_eq!(w.heads[a].stamp.dot(), w.heads[b].stamp.dot());
    for heads in [[a, b], [b, a]] {
        let disk = w.disk(&heads);
        assert_eq!((disk["/p"].as_str(), disk["/q"].as_str()), ("v1", "v2"));
    }
}

#[test]
fn writing_what_is_shown_is_no_operation_and_writing_over_a_merge_ends_both_sides() {
    // W(b) > W(a): c's write of v1 replaces the shown v2, so nothing is left of v2.
    let (mut w, o) = start(&["+/p=O"]);
    let a = w.act(1, &[o], 2, &["=/p=v1"]);
    let b = w.act(2, &[o], 3, &["=/p=v2"]);
    let c = w.act(3, &[a, b], 4, &["=/p=v1"]);
    let d = w.act(2, &[b], 5, &["+/other=x"]);
    assert_eq!(at(&w, &[c, d], "/p"), some("v1", &[]));
    // W(a) > W(b): c writes what is shown already, so v2 stays beside it.
    let (mut w, o) = start(&["+/p=O"]);
    let a = w.act(1, &[o], 3, &["=/p=v1"]);
    let b = w.act(2, &[o], 2, &["=/p=v2"]);
    let c = w.act(3, &[a, b], 4, &["=/p=v1"]);
    let d = w.act(2, &[b], 5, &["+/other=x"]);
    assert_eq!(at(&w, &[c, d], "/p"), some("v1", &["v2"]));
}

#[test]
fn a_seal_does_not_hide_who_wrote_what() {
    let (mut w, o) = start(&["+/p=O"]);
    let a = w.act(1, &[o], 2, &["=/p=v1"]);
    let b = w.act(2, &[o], 3, &["=/p=v2"]);
    let s = w.seal(3, &[a, b], 4);
    let e = w.act(2, &[b], 5, &["=/p=v3"]);
    assert_eq!(at(&w, &[s, e], "/p"), some("v3", &["v1"]));
}

#[test]
fn a_restored_file_and_a_concurrent_write_are_both_kept() {
    let (mut w, o) = start(&["+/p=O"]);
    let a = w.act(1, &[o], 2, &["-/p"]);
    let c = w.act(1, &[a], 3, &["+/p=O"]);
    let d = w.act(2, &[o], 4, &["=/p=v1"]);
    assert_eq!(at(&w, &[c, d], "/p"), some("v1", &["O"]));
}

#[test]
fn the_same_edit_twice_is_one_entry() {
    let (mut w, o) = start(&["+/p=O"]);
    let a = w.act(1, &[o], 2, &["=/p=v", "+/q=n"]);
    let b = w.act(2, &[o], 3, &["=/p=v", "+/q=n"]);
    assert_eq!(at(&w, &[a, b], "/p"), some("v", &[]));
    assert_eq!(at(&w, &[a, b], "/q"), some("n", &[]));
}

#[test]
fn concurrent_edits_and_creates_keep_all_bytes() {
    let (mut w, o) = start(&["+/p.txt=O"]);
    let a = w.act(1, &[o], 2, &["=/p.txt=v1", "+/q=n1"]);
    let b = w.act(2, &[o], 3, &["=/p.txt=v2", "+/q=n2"]);
    assert_eq!(at(&w, &[a, b], "/p.txt"), some("v2", &["v1"]));
    assert_eq!(at(&w, &[a, b], "/q"), some("n2", &["n1"]));
    let paths: Vec<String> = w.disk(&[a, b]).into_keys().collect();
    assert!(
        paths
            .iter()
            .any(|p| p.starts_with("/p.conflict-") && p.ends_with(".txt"))
    );
}

#[test]
fn edits_of_different_lines_merge() {
    let (mut w, o) = start(&["+/p=1\n2\n3\n4\n5\n"]);
    let a = w.act(1, &[o], 2, &["=/p=1a\n2\n3\n4\n5\n"]);
    let b = w.act(2, &[o], 3, &["=/p=1\n2\n3\n4\n5b\n"]);
    assert_eq!(at(&w, &[a, b], "/p"), some("1a\n2\n3\n4\n5b\n", &[]));
    // A third one that conflicts undoes the merge: all three are kept.
    let c = w.act(3, &[o], 4, &["=/p=1c\n2\n3\n4\n5\n"]);
    let three = at(&w, &[a, b, c], "/p");
    assert_eq!(three.0.as_deref(), Some("1c\n2\n3\n4\n5\n"));
    assert_eq!(three.1.len(), 2);
    // A write over the merged text ends both; an older head does not bring them back.
    let d = w.act(1, &[a, b], 5, &["=/p=done\n"]);
    assert_eq!(at(&w, &[d, a], "/p"), some("done\n", &[]));
    // Both sides merged, and edited apart again: the base is the merge.
    let e = w.act(1, &[a, b], 6, &["=/p=1a\n2\n3e\n4\n5b\n"]);
    let f = w.act(2, &[a, b], 7, &["=/p=1a\n2\n3\n4\n5b\n6f\n"]);
    assert_eq!(at(&w, &[e, f], "/p"), some("1a\n2\n3e\n4\n5b\n6f\n", &[]));
}

#[test]
fn directories_of_one_name_unify() {
    let (mut w, o) = start(&["+/x=x"]);
    let a1 = w.act(1, &[o], 2, &["^/d"]);
    let a = w.act(1, &[a1], 3, &["+/d/a=1", "+/d/both=same"]);
    let b1 = w.act(2, &[o], 2, &["^/d"]);
    let b = w.act(2, &[b1], 3, &["+/d/b=2", "+/d/both=same"]);
    let disk = w.disk(&[a, b]);
    let expected = ["/d", "/d/a", "/d/b", "/d/both", "/x"];
    assert_eq!(disk.into_keys().collect::<Vec<_>>(), expected);
    // Moving or deleting it takes all of it.
    let c = w.act(3, &[a, b], 4, &["/d>/e"]);
    let disk = w.disk(&[c]);
    let expected = ["/e", "/e/a", "/e/b", "/e/both", "/x"];
    assert_eq!(disk.into_keys().collect::<Vec<_>>(), expected);
    let c = w.act(3, &[c], 5, &["-/e"]);
    assert_eq!(w.disk(&[c]).into_keys().collect::<Vec<_>>(), ["/x"]);
}

#[test]
fn an_edit_wins_over_a_delete() {
    let (mut w, o) = start(&["^/d"]);
    let o = w.act(0, &[o], 2, &["+/d/p=O", "+/d/q=Q"]);
    let a = w.act(1, &[o], 5, &["-/d/p"]);
    let b = w.act(2, &[o], 3, &["=/d/p=v"]);
    assert_eq!(at(&w, &[a, b], "/d/p"), some("v", &[]));
    // The same with the whole directory: it is kept with the edited file alone.
    let c = w.act(3, &[o], 6, &["-/d"]);
    let paths: Vec<String> = w.disk(&[b, c]).into_keys().collect();
    assert_eq!(paths, ["/d", "/d/p"]);
    let created = w.act(4, &[o], 4, &["+/d/new=n"]);
    let paths: Vec<String> = w.disk(&[created, c]).into_keys().collect();
    assert_eq!(paths, ["/d", "/d/new"]);
}

#[test]
fn a_delete_twice_is_a_delete() {
    let (mut w, o) = start(&["+/p=O", "^/d"]);
    let a = w.act(1, &[o], 2, &["-/p", "-/d"]);
    let b = w.act(2, &[o], 3, &["-/p", "-/d"]);
    assert!(w.disk(&[a, b]).is_empty());
}

#[test]
fn a_directory_keeps_the_name_and_the_file_is_shown_beside_it() {
    let (mut w, o) = start(&["+/x=x"]);
    let a = w.act(1, &[o], 5, &["+/n=file"]);
    let b = w.act(2, &[o], 3, &["^/n"]);
    let tree = w.tree(&w.state(&[a, b]));
    assert_eq!(tree["/n"].dirs.len(), 1);
    assert_eq!(copies(&tree).len(), 1);
    // The file does not come back under the name when the directory goes.
    let c = w.act(3, &[a, b], 6, &["-/n"]);
    let tree = w.tree(&w.state(&[c]));
    assert!(!tree.contains_key("/n"));
    assert_eq!(copies(&tree).len(), 1);
}

#[test]
fn a_copy_is_edited_moved_and_deleted_as_the_file_that_it_looks_like() {
    let (mut w, o) = start(&["+/p.txt=O"]);
    let a = w.act(1, &[o], 2, &["=/p.txt=v1"]);
    let b = w.act(2, &[o], 3, &["=/p.txt=v2"]);
    let disk = w.disk(&[a, b]);
    let copy = disk
        .keys()
        .find(|p| p.contains("conflict"))
        .expect("one")
        .clone();
    let edited = w.act(3, &[a, b], 4, &[&format!("={copy}=v3")]);
    assert_eq!(at(&w, &[edited], "/p.txt").0.as_deref(), Some("v2"));
    assert_eq!(w.disk(&[edited]).get(&copy).map(String::as_str), Some("v3"));
    let deleted = w.act(4, &[a, b], 5, &[&format!("-{copy}")]);
    assert_eq!(
        w.disk(&[deleted]).into_keys().collect::<Vec<_>>(),
        ["/p.txt"]
    );
    let moved = w.act(5, &[a, b], 6, &[&format!("{copy}>/kept")]);
    assert_eq!(
        w.disk(&[moved]).into_iter().collect::<Vec<_>>(),
        [
            ("/kept".into(), "v1".into()),
            ("/p.txt".into(), "v2".into())
        ]
    );
    let chosen = w.act(6, &[a, b], 7, &[&format!("{copy}>/p.txt")]);
    assert_eq!(
        w.disk(&[chosen]).into_iter().collect::<Vec<_>>(),
        [("/p.txt".into(), "v1".into())]
    );
    // Edited on both sides: no copy of a copy.
    let again = w.act(4, &[edited], 8, &[&format!("={copy}=v4")]);
    let other = w.act(5, &[edited], 9, &[&format!("={copy}=v5")]);
    let disk = w.disk(&[again, other]);
    assert_eq!(disk.len(), 3);
    assert!(disk.keys().all(|p| p.matches("conflict").count() <= 1));
}

#[test]
fn moves_of_directories_into_each_other_lose_nothing() {
    let (mut w, o) = start(&["^/a", "^/b"]);
    let o = w.act(0, &[o], 2, &["+/a/x=1", "+/b/y=2"]);
    let a = w.act(1, &[o], 3, &["/a>/b/a"]);
    let b = w.act(2, &[o], 4, &["/b>/a/b"]);
    let paths: Vec<String> = w.disk(&[a, b]).into_keys().collect();
    assert_eq!(paths, ["/b", "/b/a", "/b/a/x", "/b/y"]);
    // Whoever goes on from there keeps what he sees.
    let c = w.act(3, &[a, b], 5, &["/b/a>/c"]);
    let paths: Vec<String> = w.disk(&[c, a, b]).into_keys().collect();
    assert_eq!(paths, ["/b", "/b/y", "/c", "/c/x"]);
}

#[test]
fn an_edit_follows_a_moved_file_and_a_create_a_moved_directory() {
    let (mut w, o) = start(&["^/d", "+/p=O"]);
    let a = w.act(1, &[o], 3, &["/d>/e", "/p>/q"]);
    let b = w.act(2, &[o], 4, &["+/d/new=n", "=/p=v"]);
    let disk: Vec<(String, String)> = w.disk(&[a, b]).into_iter().collect();
    let expected = [("/e", "/"), ("/e/new", "n"), ("/q", "v")];
    let expected = expected.map(|(p, t)| (p.to_owned(), t.to_owned()));
    assert_eq!(disk, expected);
    // Moved and deleted: the move wins. Moved twice: the later place, once.
    let c = w.act(3, &[o], 9, &["-/p"]);
    assert_eq!(at(&w, &[a, c], "/q"), some("O", &[]));
    let d = w.act(4, &[o], 8, &["/p>/r"]);
    let disk = w.disk(&[a, d]);
    assert!(disk.contains_key("/r") && !disk.contains_key("/q"));
}

#[test]
fn attributes_of_the_merged_tree_decide_how_files_merge() {
    let (mut w, o) = start(&["+/p=O", "^/d"]);
    let o = w.act(0, &[o], 1, &["+/d/p=O"]);
    let a = w.act(1, &[o], 2, &["=/p=v1\n", "=/d/p=v1\n"]);
    let b = w.act(2, &[o], 3, &["=/p=v2\n", "=/d/p=v2\n"]);
    assert_eq!(at(&w, &[a, b], "/p"), some("v2\n", &["v1\n"]));
    // The rules come from a third side: what was merged long ago is merged anew.
    let s = w.seal(4, &[a, b], 4);
    let c = w.act(3, &[o], 5, &["+/.gitattributes=d/* merge=union\n"]);
    for set in [[a, b, c].as_slice(), &[s, c]] {
        assert_eq!(at(&w, set, "/p"), some("v2\n", &["v1\n"]));
        assert_eq!(at(&w, set, "/d/p"), some("v1\nv2\n", &[]));
    }
    // A directory that moves takes its files to other rules, and rules that change take effect.
    let d = w.act(4, &[s, c], 6, &["/d>/e"]);
    assert_eq!(at(&w, &[d], "/e/p"), some("v2\n", &["v1\n"]));
    let e = w.act(4, &[d], 7, &["=/.gitattributes=e/* merge=lww\n"]);
    assert_eq!(at(&w, &[e], "/e/p"), some("v2\n", &[]));
    let f = w.act(4, &[e], 8, &["=/.gitattributes=e/* merge=none-of-ours\n"]);
    assert_eq!(at(&w, &[f], "/e/p"), some("v2\n", &["v1\n"]));
    // Rules in a directory count for what is in it, and two sides' rules merge as text.
    let g = w.act(5, &[e], 9, &["+/e/.gitattributes=p merge=union\n"]);
    assert_eq!(at(&w, &[f, g], "/e/p"), some("v1\nv2\n", &[]));
    // Who writes over what is shown ends all that is in it.
    let h = w.act(6, &[g], 10, &["=/e/p=v3\n"]);
    let i = w.act(6, &[h], 11, &["-/e/.gitattributes"]);
    assert_eq!(at(&w, &[i], "/e/p"), some("v3\n", &[]));
}

#[test]
fn a_merged_copy_stays_one_when_the_name_beside_it_is_moved_away() {
    let base = "1\n2\n3\n4\n5\n6\n";
    let (mut w, o) = start(&[&format!("+/p={base}"), "+/q=v"]);
    let a = w.act(1, &[o], 2, &[&format!("=/p={}", base.replace('1', "a"))]);
    let b = w.act(2, &[o], 3, &[&format!("=/p={}", base.replace('6', "b"))]);
    // Another file takes the name; what the edits make together is a copy beside it.
    let c = w.act(3, &[o], 4, &["-/p"]);
    let c = w.act(3, &[c], 5, &["/q>/p"]);
    let both = base.replace('1', "a").replace('6', "b");
    assert_eq!(at(&w, &[a, b, c], "/p"), some("v", &[&both]));
    let d = w.act(4, &[a, b, c], 6, &["/p>/elsewhere"]);
    assert_eq!(at(&w, &[d], "/elsewhere"), some("v", &[]));
    assert_eq!(at(&w, &[d], "/p"), (None, vec![both]));
}
