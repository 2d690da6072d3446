//! Rules that several people and steps are needed for, by example; for two, see `cases`.

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
