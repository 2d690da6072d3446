//! Edits: a batch of insertions, replacements and removals that touches affected nodes only.

use crate::base::id::Oid;
use crate::record::trie::key::{DIGITS, Key};
use crate::record::trie::leaf::Item;
use crate::record::trie::{
    Branch, Entry, LEAF_MAX, Link, Node, load, load_root, put_branch, put_leaf,
};
use crate::record::{Result, Source};

/// One edit of a trie.
#[derive(Clone, Debug)]
pub enum Edit<T: Entry> {
    /// Puts an entry in, in place of the one with its identity.
    Put(T),
    /// Takes an entry out, if it is there.
    Remove(T::Id),
}

/// An edit with where it applies.
struct Keyed<T: Entry> {
    key: Key,
    id: T::Id,
    entry: Option<T>,
}

/// A subtree while it is being edited: parts that nobody touched stay links.
enum Work<T: Entry> {
    Leaf(Vec<Item<T>>),
    Branch { skip: Vec<u8>, kids: Kids<T> },
}

enum Kid<T: Entry> {
    Stored(Link),
    Fresh(Work<T>),
}

/// So many edits are in the works at a time: their nodes are taken apart in memory.
const AT_ONCE: usize = 1 << 14;

/// Applies edits to the trie at `root` and returns the new root. The last edit of an identity
/// holds.
///
/// # Errors
/// When the trie cannot be read or written.
pub fn edit<T: Entry>(
    src: Source<'_>,
    mut root: Oid,
    edits: impl IntoIterator<Item = Edit<T>>,
) -> Result<Oid> {
    let mut keyed: Vec<Keyed<T>> = edits
        .into_iter()
        .map(|e| {
            let (id, entry) = match e {
                Edit::Put(entry) => (entry.id(), Some(entry)),
                Edit::Remove(id) => (id, None),
            };
            Keyed {
                key: T::key(&id),
                id,
                entry,
            }
        })
        .collect();
    // A stable sort, so that of several edits of one identity the last is the last.
    keyed.sort_by(|a, b| (a.key, &a.id).cmp(&(b.key, &b.id)));
    let mut rest = keyed.into_iter();
    loop {
        let part: Vec<Keyed<T>> = rest.by_ref().take(AT_ONCE).collect();
        if part.is_empty() {
            return Ok(root);
        }
        root = edit_sorted(src, root, &part)?;
    }
}

fn edit_sorted<T: Entry>(src: Source<'_>, root: Oid, keyed: &[Keyed<T>]) -> Result<Oid> {
    let work = unpack(load_root(src, root)?);
    let keyed: Vec<&Keyed<T>> = keyed.iter().collect();
    let work = apply(src, Some(work), 0, &keyed)?;
    let link = match work {
        Some(work) => store(src, work)?,
        None => put_leaf::<T>(src, &[])?,
    };
    Ok(link.id)
}

fn unpack<T: Entry>(node: Node<T>) -> Work<T> {
    match node {
        Node::Leaf(leaf) => Work::Leaf(Item::all(&leaf)),
        Node::Branch(b) => Work::Branch {
            skip: b.skip.clone(),
            kids: b.kids.map(|k| k.map(|link| Box::new(Kid::Stored(link)))),
        },
    }
}

fn store<T: Entry>(src: Source<'_>, work: Work<T>) -> Result<Link> {
    match work {
        Work::Leaf(entries) => put_leaf(src, &entries),
        Work::Branch { skip, kids } => {
            let mut links = [None; 8];
            for (slot, kid) in links.iter_mut().zip(kids) {
                *slot = match kid.map(|k| *k) {
                    None => None,
                    Some(Kid::Stored(link)) => Some(link),
                    Some(Kid::Fresh(work)) => Some(store(src, work)?),
                };
            }
            put_branch::<T>(src, Branch { skip, kids: links })
        }
    }
}

/// The subtree after the edits, or `None` when nothing is left. `depth` digits lead to it.
fn apply<T: Entry>(
    src: Source<'_>,
    work: Option<Work<T>>,
    depth: usize,
    edits: &[&Keyed<T>],
) -> Result<Option<Work<T>>> {
    let (skip, mut kids) = match work {
        None => return Ok(build(merge(Vec::new(), edits), depth)),
        Some(Work::Leaf(entries)) => return Ok(build(merge(entries, edits), depth)),
        Some(Work::Branch { skip, kids }) => make_room(skip, kids, depth, edits),
    };
    let at = depth + skip.len();
    // Now only removals can miss the prefix; there is nothing for them to remove.
    let edits: Vec<&Keyed<T>> = edits
        .iter()
        .copied()
        .filter(|e| common(&skip, &e.key, depth) == skip.len())
        .collect();
    for group in edits.chunk_by(|a, b| a.key.digit(at) == b.key.digit(at)) {
        let digit = group.first().map_or(0, |e| e.key.digit(at));
        let Some(slot) = kids.get_mut(usize::from(digit)) else {
            continue;
        };
        let kid = match slot.take().map(|k| *k) {
            None => None,
            Some(Kid::Fresh(work)) => Some(work),
            Some(Kid::Stored(link)) => Some(unpack(load(src, link, at + 1)?)),
        };
        *slot = apply(src, kid, at + 1, group)?.map(|w| Box::new(Kid::Fresh(w)));
    }
    if edits.iter().any(|e| e.entry.is_none()) {
        return shrink(src, skip, kids, depth);
    }
    Ok(Some(Work::Branch { skip, kids }))
}

type Kids<T> = [Option<Box<Kid<T>>>; 8];

fn no_kids<T: Entry>() -> Kids<T> {
    std::array::from_fn(|_| None)
}

/// How many of the digits `skip` the key has, from `depth` on.
fn common(skip: &[u8], key: &Key, depth: usize) -> usize {
    skip.iter()
        .zip(depth..)
        .take_while(|(d, i)| key.digit(*i) == **d)
        .count()
}

/// Shortens the prefix of a branch until all new entries are below it.
fn make_room<T: Entry>(
    mut skip: Vec<u8>,
    kids: Kids<T>,
    depth: usize,
    edits: &[&Keyed<T>],
) -> (Vec<u8>, Kids<T>) {
    let shared = edits
        .iter()
        .filter(|e| e.entry.is_some())
        .map(|e| common(&skip, &e.key, depth))
        .min()
        .unwrap_or(skip.len());
    let mut below = skip.split_off(shared);
    if below.is_empty() {
        return (skip, kids);
    }
    let digit = usize::from(below.remove(0));
    let mut above = no_kids();
    if let Some(slot) = above.get_mut(digit) {
        *slot = Some(Box::new(Kid::Fresh(Work::Branch { skip: below, kids })));
    }
    (skip, above)
}

/// The entries after the edits; both are sorted by key and identity.
fn merge<T: Entry>(old: Vec<Item<T>>, edits: &[&Keyed<T>]) -> Vec<(Key, Item<T>)> {
    let mut out: Vec<(Key, Item<T>)> = Vec::with_capacity(old.len() + edits.len());
    let mut old = old.into_iter().map(|e| (e.place(), e)).peekable();
    let mut edits = edits.iter().peekable();
    while let Some(edit) = edits.next() {
        let order = |key: Key, e: &Item<T>| key.cmp(&edit.key).then_with(|| e.cmp_id(&edit.id));
        while let Some(e) = old.next_if(|(key, e)| order(*key, e).is_lt()) {
            out.push(e);
        }
        let _replaced = old.next_if(|(key, e)| order(*key, e).is_eq());
        if edits.peek().is_some_and(|next| next.id == edit.id) {
            continue;
        }
        if let Some(entry) = &edit.entry {
            out.push((edit.key, Item::New(entry.clone())));
        }
    }
    out.extend(old);
    out
}

/// The canonical subtree of these sorted entries.
fn build<T: Entry>(entries: Vec<(Key, Item<T>)>, depth: usize) -> Option<Work<T>> {
    let (first, last) = (entries.first()?.0, entries.last()?.0);
    let shared = first.common(&last, depth);
    let at = depth + shared;
    if entries.len() <= LEAF_MAX || at >= DIGITS {
        return Some(Work::Leaf(entries.into_iter().map(|(_, e)| e).collect()));
    }
    let skip = (depth..at).map(|i| first.digit(i)).collect();
    let mut groups: [Vec<(Key, Item<T>)>; 8] = std::array::from_fn(|_| Vec::new());
    for e in entries {
        if let Some(group) = groups.get_mut(usize::from(e.0.digit(at))) {
            group.push(e);
        }
    }
    let kids = groups.map(|g| build(g, at + 1).map(|w| Box::new(Kid::Fresh(w))));
    Some(Work::Branch { skip, kids })
}

/// Restores the canonical form of a branch that may have become too small to be one.
fn shrink<T: Entry>(
    src: Source<'_>,
    mut skip: Vec<u8>,
    mut kids: Kids<T>,
    depth: usize,
) -> Result<Option<Work<T>>> {
    let at = depth + skip.len();
    let mut live = (0_u8..8).filter(|d| kids.get(usize::from(*d)).is_some_and(Option::is_some));
    let (first, second) = (live.next(), live.next());
    let Some(digit) = first else { return Ok(None) };
    if second.is_none() {
        let Some(kid) = kids.get_mut(usize::from(digit)).and_then(Option::take) else {
            return Ok(None);
        };
        return Ok(Some(match open(src, *kid, at + 1)? {
            Work::Leaf(entries) => Work::Leaf(entries),
            Work::Branch { skip: below, kids } => {
                skip.push(digit);
                skip.extend(below);
                Work::Branch { skip, kids }
            }
        }));
    }
    let is_branch = |kid: &Kid<T>| match kid {
        Kid::Stored(link) => link.is_tree,
        Kid::Fresh(work) => matches!(work, Work::Branch { .. }),
    };
    if kids.iter().flatten().any(|k| is_branch(k)) {
        return Ok(Some(Work::Branch { skip, kids }));
    }
    // Leaves only, at most eight: count them, and stop as soon as they are too many for one.
    let mut all = Vec::new();
    for slot in &mut kids {
        let Some(kid) = slot.take() else { continue };
        let opened = open(src, *kid, at + 1)?;
        if let Work::Leaf(entries) = &opened
            && all.len() <= LEAF_MAX
        {
            all.extend(entries.iter().cloned());
        }
        *slot = Some(Box::new(Kid::Fresh(opened)));
    }
    if all.len() <= LEAF_MAX {
        return Ok(Some(Work::Leaf(all)));
    }
    Ok(Some(Work::Branch { skip, kids }))
}

fn open<T: Entry>(src: Source<'_>, kid: Kid<T>, depth: usize) -> Result<Work<T>> {
    match kid {
        Kid::Fresh(work) => Ok(work),
        Kid::Stored(link) => Ok(unpack(load(src, link, depth)?)),
    }
}
