//! git trees: parsed with every byte checked, written in git's order.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::base::id::Oid;
use crate::record::{RecordError, Result};
use crate::store::objects::{ObjectKind, Objects};

/// Mode of a directory.
pub const TREE: u32 = 0o040_000;
/// Mode of a plain file.
pub const FILE: u32 = 0o100_644;
/// Mode of a file that may be executed.
pub const EXECUTABLE: u32 = 0o100_755;
/// Mode of a symbolic link.
pub const LINK: u32 = 0o120_000;
/// Mode of a submodule.
pub const GITLINK: u32 = 0o160_000;

/// One entry of a git tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeEntry {
    /// git's mode: kind and executable bit.
    pub mode: u32,
    /// The name.
    pub name: Vec<u8>,
    /// The object.
    pub id: Oid,
}

impl TreeEntry {
    /// Whether the entry is a tree.
    #[must_use]
    pub fn is_tree(&self) -> bool {
        self.mode == TREE
    }

    /// The name as git sorts it: a directory's ends in `/`.
    #[must_use]
    pub fn sort_key(&self) -> Vec<u8> {
        let mut key = self.name.clone();
        if self.is_tree() {
            key.push(b'/');
        }
        key
    }
}

/// The entries of a stored tree.
///
/// # Errors
/// When the tree is missing or not a tree.
pub fn read(objs: &dyn Objects, id: &Oid) -> Result<Vec<TreeEntry>> {
    let data = objs.get(id, ObjectKind::Tree)?;
    parse(&data).ok_or_else(|| RecordError::malformed(*id, "a tree", "its entries do not parse"))
}

/// Keeps a tree of these entries, which may come in any order.
///
/// # Errors
/// When the store fails.
pub fn put(objs: &dyn Objects, entries: Vec<TreeEntry>) -> Result<Oid> {
    Ok(objs.put(ObjectKind::Tree, encode(entries))?)
}

/// What becomes of names of a tree: they have these entries, or none any more.
pub type Edits = BTreeMap<Vec<u8>, Option<TreeEntry>>;

/// Keeps what a stored tree becomes by these edits. What is not edited is copied as it stands: of a
/// directory of a hundred thousand names nobody makes as many entries.
///
/// # Errors
/// When the tree is missing or not a tree, or the store fails.
pub fn edit(objs: &dyn Objects, id: &Oid, edits: Edits) -> Result<Oid> {
    let data = objs.get(id, ObjectKind::Tree)?;
    let out = edited(&data, edits)
        .ok_or_else(|| RecordError::malformed(*id, "a tree", "its entries do not parse"))?;
    Ok(objs.put(ObjectKind::Tree, out)?)
}

fn edited(data: &[u8], edits: Edits) -> Option<Vec<u8>> {
    let mut fresh: Vec<&TreeEntry> = edits.values().flatten().collect();
    fresh.sort_by(|a, b| order((&a.name, a.is_tree()), (&b.name, b.is_tree())));
    let mut fresh = fresh.into_iter().peekable();
    let mut out = Vec::with_capacity(data.len() + 64 * edits.len());
    let mut rest = data;
    while !rest.is_empty() {
        let entry = rest;
        let (mode, name, _) = next(&mut rest)?;
        let entry = entry.get(..entry.len() - rest.len())?;
        let here = (name, mode == TREE);
        while let Some(e) = fresh.next_if(|e| order((&e.name, e.is_tree()), here).is_lt()) {
            push(&mut out, e);
        }
        if !edits.contains_key(name) {
            out.extend_from_slice(entry);
        }
    }
    fresh.for_each(|e| push(&mut out, e));
    Some(out)
}

/// git's order: that of the names, where a directory's ends in `/`.
fn order((a, a_is_tree): (&[u8], bool), (b, b_is_tree): (&[u8], bool)) -> Ordering {
    let common = a.len().min(b.len());
    let end = |name: &[u8], is_tree: bool| match name.get(common) {
        Some(byte) => Some(*byte),
        None => is_tree.then_some(b'/'),
    };
    (a.get(..common).cmp(&b.get(..common)))
        .then_with(|| end(a, a_is_tree).cmp(&end(b, b_is_tree)))
        .then_with(|| a.len().cmp(&b.len()))
}

/// The entry of a name in a stored tree.
///
/// # Errors
/// When the tree is missing or not a tree.
pub fn find(objs: &dyn Objects, id: &Oid, name: &[u8]) -> Result<Option<TreeEntry>> {
    let data = objs.get(id, ObjectKind::Tree)?;
    let mut rest = data.as_slice();
    while !rest.is_empty() {
        let (mode, found, oid) = next(&mut rest)
            .ok_or_else(|| RecordError::malformed(*id, "a tree", "its entries do not parse"))?;
        if found == name {
            return Ok(Some(TreeEntry {
                mode,
                name: name.to_vec(),
                id: oid,
            }));
        }
    }
    Ok(None)
}

/// The entries in the bytes of a tree, or `None` when they are not a tree.
#[must_use]
pub fn parse(mut data: &[u8]) -> Option<Vec<TreeEntry>> {
    let mut entries = Vec::new();
    while !data.is_empty() {
        let (mode, name, id) = next(&mut data)?;
        entries.push(TreeEntry {
            mode,
            name: name.to_vec(),
            id,
        });
    }
    Some(entries)
}

fn next<'a>(data: &mut &'a [u8]) -> Option<(u32, &'a [u8], Oid)> {
    let space = data.iter().position(|b| *b == b' ')?;
    let (mode, rest) = data.split_at_checked(space)?;
    let rest = rest.get(1..)?;
    let end = rest.iter().position(|b| *b == 0)?;
    let (name, rest) = rest.split_at_checked(end)?;
    let (id, rest) = rest.get(1..)?.split_at_checked(20)?;
    if name.is_empty() || name.contains(&b'/') {
        return None;
    }
    *data = rest;
    Some((parse_mode(mode)?, name, Oid::try_from(id).ok()?))
}

/// The bytes of a tree of these entries, which may come in any order.
#[must_use]
pub fn encode(mut entries: Vec<TreeEntry>) -> Vec<u8> {
    entries.sort_by_cached_key(TreeEntry::sort_key);
    let mut out = Vec::with_capacity(entries.len() * 40);
    for e in &entries {
        push(&mut out, e);
    }
    out
}

fn push(out: &mut Vec<u8>, e: &TreeEntry) {
    out.extend_from_slice(format!("{:o} ", e.mode).as_bytes());
    out.extend_from_slice(&e.name);
    out.push(0);
    out.extend_from_slice(e.id.as_slice());
}

fn parse_mode(text: &[u8]) -> Option<u32> {
    if text.is_empty() || text.len() > 7 {
        return None;
    }
    text.iter().try_fold(0_u32, |mode, b| {
        matches!(b, b'0'..=b'7').then(|| (mode << 3) | u32::from(b - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entries() -> impl Strategy<Value = BTreeMap<Vec<u8>, (bool, u8)>> {
        // Names that begin alike, with bytes on either side of `/`.
        let name = proptest::collection::vec(proptest::sample::select(b"a.0-".to_vec()), 1..4);
        proptest::collection::btree_map(name, any::<(bool, u8)>(), 0..12)
    }

    fn entry(name: &[u8], (is_tree, byte): (bool, u8)) -> TreeEntry {
        TreeEntry {
            mode: if is_tree { TREE } else { FILE },
            name: name.to_vec(),
            id: Oid::from([byte; 20]),
        }
    }

    proptest! {
        #[test]
        fn a_tree_that_is_edited_is_what_it_would_be_made_anew(
            old in entries(),
            new in entries(),
            gone in entries(),
        ) {
            let tree = encode(old.iter().map(|(n, e)| entry(n, *e)).collect());
            let mut edits: Edits = gone.into_keys().map(|n| (n, None)).collect();
            edits.extend(new.iter().map(|(n, e)| (n.clone(), Some(entry(n, *e)))));
            let mut all: Edits = old.iter().map(|(n, e)| (n.clone(), Some(entry(n, *e)))).collect();
            all.extend(edits.clone());
            let anew = encode(all.into_values().flatten().collect());
            prop_assert_eq!(edited(&tree, edits), Some(anew));
        }
    }

    #[test]
    fn a_tree_is_written_in_the_order_of_git_and_read_back() {
        let id = Oid::null(gix::hash::Kind::Sha1);
        let entry = |mode, name: &str| TreeEntry {
            mode,
            name: name.into(),
            id,
        };
        let sorted = vec![
            entry(FILE, "a.b"),
            entry(TREE, "a"),
            entry(EXECUTABLE, "a0"),
        ];
        let mut mixed = sorted.clone();
        mixed.reverse();
        assert_eq!(parse(&encode(mixed)), Some(sorted));
    }

    #[test]
    fn bytes_that_are_no_tree_are_refused() {
        let good = encode(vec![TreeEntry {
            mode: FILE,
            name: b"x".to_vec(),
            id: Oid::null(gix::hash::Kind::Sha1),
        }]);
        for cut in 1..good.len() {
            assert_eq!(parse(&good[..cut]), None);
        }
        assert_eq!(parse(b"9 x\0aaaaaaaaaaaaaaaaaaaa"), None);
        assert_eq!(parse(b"100644 a/b\0aaaaaaaaaaaaaaaaaaaa"), None);
    }
}
