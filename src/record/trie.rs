//! A radix trie stored as git objects, whose shape and ids depend on its entries alone.
//!
//! Invariant (canonical form): a subtree of at most [`limit::TRIE_LEAF_ENTRIES_MAX`] entries is
//! one blob with the sorted entries; a larger one is a git tree, one entry for each digit that
//! follows the longest prefix common to all its keys, named by that prefix and the digit. Only
//! entries with one equal key may share a larger leaf. So equal sets of entries have equal ids,
//! and subtrees with equal ids need not be opened to know that they are equal.

mod diff;
mod edit;
pub mod key;
mod leaf;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex};

use serde::Serialize;

pub use diff::{Row, differing, visit_differing};
pub use edit::{Edit, edit};
pub use leaf::Leaf;

use crate::base::bytes_lru::BytesLru;
use crate::base::id::Oid;
use crate::base::limit;
use crate::record::cache::Cache;
use crate::record::git_tree::{self, TreeEntry};
use crate::record::{RecordError, Result, Source};
use crate::store::objects::ObjectKind;
use key::{DIGITS, Key};
use leaf::Item;

/// First byte of a leaf.
const LEAF_VERSION: u8 = crate::base::format::TRIES;

/// What a trie holds.
pub trait Entry: Clone + PartialEq + Serialize + Send + Sync + 'static {
    /// What tells an entry from all others. Among equal keys it gives the order.
    type Id: Ord + Clone + Send + Sync;

    /// The entry's identity.
    fn id(&self) -> Self::Id;

    /// Where entries of that identity are.
    fn key(id: &Self::Id) -> Key;

    /// The identity and the length of the encoded entry that begins here, or nothing if none
    /// does.
    fn take(data: &[u8]) -> Option<(Self::Id, usize)>;

    /// Shows the entry of this identity and these bytes.
    ///
    /// # Errors
    /// When the bytes are no entry.
    fn show(id: &Self::Id, data: &[u8], f: &mut dyn FnMut(&Self)) -> postcard::Result<()>;

    /// Where the entry is.
    fn place(&self) -> Key {
        Self::key(&self.id())
    }

    /// Where decoded nodes of this trie are kept.
    fn nodes(cache: &Cache) -> &Mutex<BytesLru<Oid, Node<Self>>>;
}

/// The root of a trie or of a subtree: what a git tree says about a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) id: Oid,
    pub(crate) is_tree: bool,
}

/// A decoded node.
#[derive(Clone, Debug)]
pub enum Node<T: Entry> {
    /// Entries, sorted by key and identity.
    Leaf(Arc<Leaf<T>>),
    /// Children by digit.
    Branch(Arc<Branch>),
}

impl<T: Entry> Node<T> {
    /// Memory that it takes, about.
    fn bytes(&self) -> usize {
        match self {
            Self::Leaf(leaf) => leaf.memory(),
            Self::Branch(b) => size_of::<Branch>() + b.skip.len() + NODE_BYTES,
        }
    }
}

/// What a cache needs for a node besides.
const NODE_BYTES: usize = 128;

/// A decoded git tree: the digits common to all below it, then one child for each digit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    pub(crate) skip: Vec<u8>,
    pub(crate) kids: [Option<Link>; 8],
}

/// The id of the trie without entries, which it puts to the store.
///
/// # Errors
/// When the store fails.
pub fn empty<T: Entry>(src: Source<'_>) -> Result<Oid> {
    put_leaf::<T>(src, &[]).map(|l| l.id)
}

/// The entry of that identity.
///
/// # Errors
/// When the trie cannot be read.
pub fn get<T: Entry>(src: Source<'_>, root: Oid, id: &T::Id) -> Result<Option<T>> {
    let key = T::key(id);
    let (mut node, mut depth) = (load_root::<T>(src, root)?, 0);
    loop {
        let b = match node {
            Node::Leaf(leaf) => return leaf.find(id),
            Node::Branch(b) => b,
        };
        let at = depth + b.skip.len();
        let leads = (depth..).zip(&b.skip).all(|(i, d)| key.digit(i) == *d);
        let kid = b.kids.get(usize::from(key.digit(at))).copied().flatten();
        let Some(kid) = kid.filter(|_| leads) else {
            return Ok(None);
        };
        node = load(src, kid, at + 1)?;
        depth = at + 1;
    }
}

/// Shows all entries whose keys start with the first `digits` digits of `prefix`, in order.
///
/// # Errors
/// When the trie cannot be read.
pub fn visit<T: Entry>(
    src: Source<'_>,
    root: Oid,
    prefix: &Key,
    digits: usize,
    f: &mut dyn FnMut(&T),
) -> Result<()> {
    // The root may be either kind of object; below it the tree says which.
    match load_root(src, root)? {
        Node::Leaf(leaf) => visit_leaf(&leaf, prefix, digits, f)?,
        Node::Branch(b) => visit_branch(src, &b, 0, prefix, digits, f)?,
    }
    Ok(())
}

fn visit_leaf<T: Entry>(
    leaf: &Leaf<T>,
    prefix: &Key,
    digits: usize,
    f: &mut dyn FnMut(&T),
) -> Result<()> {
    for (i, id) in leaf.ids().iter().enumerate() {
        // Whole keys are compared by identity by those who ask for them, which is cheaper.
        if digits == 0 || digits >= DIGITS || T::key(id).common(prefix, 0) >= digits {
            leaf.show(i, f)?;
        }
    }
    Ok(())
}

fn visit_branch<T: Entry>(
    src: Source<'_>,
    b: &Branch,
    depth: usize,
    prefix: &Key,
    digits: usize,
    f: &mut dyn FnMut(&T),
) -> Result<()> {
    for (i, d) in b.skip.iter().enumerate() {
        if depth + i < digits && prefix.digit(depth + i) != *d {
            return Ok(());
        }
    }
    let at = depth + b.skip.len();
    for (d, kid) in b.kids.iter().enumerate() {
        let Some(kid) = kid else { continue };
        if at < digits && usize::from(prefix.digit(at)) != d {
            continue;
        }
        match load(src, *kid, at + 1)? {
            Node::Leaf(leaf) => visit_leaf(&leaf, prefix, digits, f)?,
            Node::Branch(b) => visit_branch(src, &b, at + 1, prefix, digits, f)?,
        }
    }
    Ok(())
}

fn load_root<T: Entry>(src: Source<'_>, id: Oid) -> Result<Node<T>> {
    if let Some(node) = cached(src, &id) {
        return Ok(node);
    }
    let object = src.objs.find(&id)?.ok_or_else(|| missing(id))?;
    let node = decode(id, object.kind == ObjectKind::Tree, object.data, 0)?;
    keep(src, id, &node);
    Ok(node)
}

pub(crate) fn load<T: Entry>(src: Source<'_>, link: Link, depth: usize) -> Result<Node<T>> {
    if let Some(node) = cached(src, &link.id) {
        return Ok(node);
    }
    let kind = if link.is_tree {
        ObjectKind::Tree
    } else {
        ObjectKind::Blob
    };
    let data = src.objs.get(&link.id, kind)?;
    let node = decode(link.id, link.is_tree, data, depth)?;
    keep(src, link.id, &node);
    Ok(node)
}

fn missing(id: Oid) -> RecordError {
    RecordError::Objects(crate::store::objects::ObjectError::Missing(id))
}

fn cached<T: Entry>(src: Source<'_>, id: &Oid) -> Option<Node<T>> {
    T::nodes(src.cache).lock().ok()?.get(id).cloned()
}

fn keep<T: Entry>(src: Source<'_>, id: Oid, node: &Node<T>) {
    if let Ok(mut nodes) = T::nodes(src.cache).lock() {
        nodes.put(id, node.clone(), node.bytes());
    }
}

fn decode<T: Entry>(id: Oid, is_tree: bool, data: Arc<Vec<u8>>, depth: usize) -> Result<Node<T>> {
    if is_tree {
        let branch = decode_branch(&data, depth)
            .ok_or_else(|| RecordError::malformed(id, "a trie node", "its names are no digits"))?;
        return Ok(Node::Branch(Arc::new(branch)));
    }
    Ok(Node::Leaf(Arc::new(Leaf::parse(id, data)?)))
}

fn decode_branch(data: &[u8], depth: usize) -> Option<Branch> {
    let entries = git_tree::parse(data)?;
    let mut branch = Branch {
        skip: Vec::new(),
        kids: [None; 8],
    };
    for (i, e) in entries.iter().enumerate() {
        let (last, skip) = e.name.split_last()?;
        if !e.name.iter().all(|b| matches!(b, b'0'..=b'7')) || depth + e.name.len() > DIGITS {
            return None;
        }
        let skip: Vec<u8> = skip.iter().map(|b| b - b'0').collect();
        if i == 0 {
            branch.skip = skip;
        } else if branch.skip != skip {
            return None;
        }
        let slot = branch.kids.get_mut(usize::from(last - b'0'))?;
        let is_leaf = e.mode == git_tree::FILE;
        if slot.is_some() || !(is_leaf || e.is_tree()) {
            return None;
        }
        *slot = Some(Link {
            id: e.id,
            is_tree: e.is_tree(),
        });
    }
    (entries.len() >= 2).then_some(branch)
}

pub(crate) fn put_leaf<T: Entry>(src: Source<'_>, items: &[Item<T>]) -> Result<Link> {
    let data = leaf::encode(items)?;
    let id = src.objs.put(ObjectKind::Blob, data.clone())?;
    keep(
        src,
        id,
        &Node::Leaf(Arc::new(Leaf::<T>::parse(id, Arc::new(data))?)),
    );
    Ok(Link { id, is_tree: false })
}

pub(crate) fn put_branch<T: Entry>(src: Source<'_>, branch: Branch) -> Result<Link> {
    let mut entries = Vec::with_capacity(8);
    for (d, kid) in (b'0'..).zip(&branch.kids) {
        let Some(kid) = kid else { continue };
        let mut name: Vec<u8> = branch.skip.iter().map(|s| s + b'0').collect();
        name.push(d);
        entries.push(TreeEntry {
            mode: if kid.is_tree {
                git_tree::TREE
            } else {
                git_tree::FILE
            },
            name,
            id: kid.id,
        });
    }
    let id = git_tree::put(src.objs, entries)?;
    keep::<T>(src, id, &Node::Branch(Arc::new(branch)));
    Ok(Link { id, is_tree: true })
}

/// How many entries one leaf may hold.
pub(crate) const LEAF_MAX: usize = limit::TRIE_LEAF_ENTRIES_MAX;
