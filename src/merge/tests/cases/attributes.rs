//! Kinds of files, modes, times and extended attributes.

use super::{shows, start};
use crate::merge::project::mode_of;
use crate::record::model::Kind;

/// A link and a file at one name: W has it, and each stays what it is.
#[test]
fn a_symbolic_link_and_a_file() {
    for (ta, tb) in [(2, 3), (3, 2)] {
        let (mut w, o) = start(&["+/o=O"]);
        let a = w.act(1, &[o], ta, &["@/x=o"]);
        let b = w.act(2, &[o], tb, &["+/x=B"]);
        let later_a = ["/o = O", "/x -> o", "/x.conflict-1f7a7b45 = B, copy of x"];
        let later_b = ["/o = O", "/x = B", "/x.conflict-c64e0c20 -> o, copy of x"];
        let expected = if ta > tb { later_a } else { later_b };
        shows(&mut w, &[a, b], &expected);
    }
}

/// A link and a file of the same bytes are two versions: the kind is part of what they are.
#[test]
fn a_symbolic_link_and_a_file_of_equal_bytes() {
    let (mut w, o) = start(&["+/o=O"]);
    let a = w.act(1, &[o], 2, &["@/x=o"]);
    let b = w.act(2, &[o], 3, &["+/x=o"]);
    let expected = ["/o = O", "/x = o", "/x.conflict-c64e0c20 -> o, copy of x"];
    shows(&mut w, &[a, b], &expected);
}

/// Two links of one name to different targets: as two files. Targets are never merged as text.
#[test]
fn a_symbolic_link_and_a_symbolic_link() {
    let (mut w, o) = start(&["+/o=O"]);
    let a = w.act(1, &[o], 2, &["@/x=a"]);
    let b = w.act(2, &[o], 3, &["@/x=b"]);
    let expected = ["/o = O", "/x -> b", "/x.conflict-0b71e528 -> a, copy of x"];
    shows(&mut w, &[a, b], &expected);
    let c = w.act(3, &[o], 4, &["@/x=b"]);
    shows(&mut w, &[b, c], &["/o = O", "/x -> b"]);
}

/// A file is replaced by a link while it is edited: both stay, the link a link.
#[test]
fn a_file_edited_and_replaced_by_a_symbolic_link() {
    let (mut w, o) = start(&["+/x=O"]);
    let a = w.act(1, &[o], 2, &["-/x"]);
    let a = w.act(1, &[a], 4, &["@/x=y"]);
    let b = w.act(2, &[o], 3, &["=/x=B"]);
    let expected = ["/x -> y", "/x.conflict-1f7a7b45 = B, copy of x"];
    shows(&mut w, &[a, b], &expected);
}

/// Modes never conflict, and an edit here and a `chmod` there are both kept.
#[test]
fn modes() {
    for (ta, tb, mode) in [(2, 3, 0o700), (3, 2, 0o644)] {
        let (mut w, o) = start(&["+/x=O"]);
        let a = w.act(1, &[o], ta, &["!/x:mode=644"]);
        let b = w.act(2, &[o], tb, &["!/x:mode=700"]);
        let c = w.act(3, &[o], 1, &["=/x=C"]);
        shows(&mut w, &[a, b, c], &["/x = C"]);
        let shown = &w.tree(&w.state(&[a, b, c]))["/x"];
        assert_eq!(shown.mode, mode);
        let git = if mode == 0o700 { 0o100_755 } else { 0o100_644 };
        assert_eq!(mode_of(shown), git);
        assert_eq!(shown.kind, Kind::File);
    }
}

/// A `chmod` does not keep what somebody deleted.
#[test]
fn a_mode_and_a_delete() {
    let (mut w, o) = start(&["+/x=O", "^/d"]);
    let a = w.act(
        1,
        &[o],
        3,
        &["!/x:mode=700", "!/d:mode=700", "!/d:user.a=A"],
    );
    let b = w.act(2, &[o], 2, &["-/x", "-/d"]);
    shows(&mut w, &[a, b], &[]);
}

/// Each attribute on its own, the later value; one that was taken away stays away. The values
/// that lost are in history alone.
#[test]
fn extended_attributes_and_times() {
    let (mut w, o) = start(&["+/x=O"]);
    let o = w.act(0, &[o], 2, &["!/x:user.gone=1", "!/x:user.kept=1"]);
    let a = w.act(
        1,
        &[o],
        3,
        &["!/x:user.a=A", "!/x:user.both=A", "!/x:mtime=7"],
    );
    let b = w.act(
        2,
        &[o],
        4,
        &["!/x:user.b=B", "!/x:user.both=B", "!/x:user.gone="],
    );
    let c = w.act(3, &[o], 5, &["!/x:mtime=5", "!/x:mode=600"]);
    shows(&mut w, &[a, b, c], &["/x = O"]);
    let shown = &w.tree(&w.state(&[a, b, c]))["/x"];
    let all = shown
        .xattrs
        .iter()
        .map(|(k, v)| [k, v].map(|s| String::from_utf8_lossy(s)));
    let all: Vec<String> = all.map(|pair| pair.join("=")).collect();
    assert_eq!(all, ["user.a=A", "user.b=B", "user.both=B", "user.kept=1"]);
    assert_eq!((shown.mtime, shown.mode), (5, 0o600));
    // Taken away and set anew: the later one, either way round.
    let d = w.act(4, &[o], 3, &["!/x:user.gone=2"]);
    let e = w.act(5, &[o], 6, &["!/x:user.gone=3"]);
    let gone = |w: &super::World, heads: &[usize]| {
        let shown = &w.tree(&w.state(heads))["/x"];
        shown.xattrs.get(b"user.gone".as_slice()).cloned()
    };
    assert_eq!(gone(&w, &[b, d]), None);
    assert_eq!(gone(&w, &[b, e]), Some(b"3".to_vec()));
}

/// Files that are two versions of one name have their own modes.
#[test]
fn a_create_and_a_create_with_modes() {
    let (mut w, o) = start(&["+/o=O"]);
    let a = w.act(1, &[o], 2, &["+/x=A"]);
    let a = w.act(1, &[a], 5, &["!/x:mode=755"]);
    let b = w.act(2, &[o], 3, &["+/x=B"]);
    let copy = "/x.conflict-f6787c85";
    shows(
        &mut w,
        &[a, b],
        &["/o = O", "/x = B", &format!("{copy} = A, copy of x")],
    );
    let tree = w.tree(&w.state(&[a, b]));
    assert_eq!((tree["/x"].mode, tree[copy].mode), (0o644, 0o755));
}
