//! Checks on objects that come from outside, so that every store passes `git fsck --strict`.

use gix::objs::tree::EntryKind;

use super::objects::{ObjectError, ObjectKind};
use crate::base::id::Oid;

fn bad(id: &Oid, expected: &'static str, why: &str) -> ObjectError {
    ObjectError::Malformed {
        id: *id,
        expected,
        why: why.to_owned(),
    }
}

/// Checks an object's form by its kind.
///
/// # Errors
/// Says what git would not accept.
pub fn object(id: &Oid, kind: ObjectKind, data: &[u8]) -> Result<(), ObjectError> {
    match kind {
        ObjectKind::Blob => Ok(()),
        ObjectKind::Tree => tree(id, data),
        ObjectKind::Commit => gix::objs::CommitRef::from_bytes(data, gix::hash::Kind::Sha1)
            .map(|_| ())
            .map_err(|e| bad(id, "a commit", &e.to_string())),
        ObjectKind::Tag => gix::objs::TagRef::from_bytes(data, gix::hash::Kind::Sha1)
            .map(|_| ())
            .map_err(|e| bad(id, "a tag", &e.to_string())),
    }
}

/// Checks a tree: canonical modes, sound names, git's order, no name twice.
///
/// # Errors
/// Says what git would not accept.
pub fn tree(id: &Oid, data: &[u8]) -> Result<(), ObjectError> {
    let mut last: Option<(Vec<u8>, bool)> = None;
    let mut names = std::collections::HashSet::new();
    for e in gix::objs::TreeRefIter::from_bytes(data, gix::hash::Kind::Sha1) {
        let e = e.map_err(|e| bad(id, "a tree", &e.to_string()))?;
        let name = e.filename.to_vec();
        if matches!(name.as_slice(), b"" | b"." | b"..") || name.contains(&b'/') {
            return Err(bad(id, "a tree", "a name in it is no file name"));
        }
        if name.eq_ignore_ascii_case(b".git") {
            return Err(bad(id, "a tree", "a name in it is '.git'"));
        }
        let is_tree = e.mode.kind() == EntryKind::Tree;
        if e.oid.is_null() {
            return Err(bad(id, "a tree", "an entry has the null id"));
        }
        let key = sort_key(&name, is_tree);
        if let Some((l, t)) = &last
            && sort_key(l, *t) >= key
        {
            return Err(bad(id, "a tree", "its entries are out of order"));
        }
        if !names.insert(name.clone()) {
            return Err(bad(id, "a tree", "a name is in it twice"));
        }
        last = Some((name, is_tree));
    }
    Ok(())
}

/// Git sorts a directory as if its name ended in a slash.
fn sort_key(name: &[u8], is_tree: bool) -> Vec<u8> {
    let mut k = name.to_vec();
    if is_tree {
        k.push(b'/');
    }
    k
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(mode: &str, name: &str) -> Vec<u8> {
        let mut b = format!("{mode} {name}\0").into_bytes();
        b.extend_from_slice(&[1; 20]);
        b
    }

    #[test]
    fn trees_that_git_refuses_are_refused() {
        let id = Oid::from([9; 20]);
        let ok = [
            entry("100644", "a.b"),
            entry("40000", "a"),
            entry("100644", "a0"),
        ]
        .concat();
        assert!(tree(&id, &ok).is_ok());
        for bad in [
            [entry("100644", "b"), entry("100644", "a")].concat(),
            [entry("100644", "a"), entry("100644", "a")].concat(),
            [entry("100644", "a"), entry("40000", "a")].concat(),
            entry("100644", ".GIT"),
            entry("100644", ".."),
            entry("100644", "a/b"),
            b"100644 a\0short".to_vec(),
        ] {
            assert!(
                tree(&id, &bad).is_err(),
                "{}",
                String::from_utf8_lossy(&bad)
            );
        }
    }
}
