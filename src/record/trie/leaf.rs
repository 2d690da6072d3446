//! A leaf as it is stored. Merges look at thousands of leaves for a few entries each, so an entry
//! is decoded when somebody asks for it, compared as bytes, and copied as bytes.
//!
//! Invariant: each entry's bytes and identity are found once, when the leaf is read; a leaf that
//! cannot be taken apart is malformed. Whether an entry says something sensible shows when it is
//! decoded.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::base::id::Oid;
use crate::record::trie::key::Key;
use crate::record::trie::{Entry, LEAF_VERSION};
use crate::record::{RecordError, Result};

/// See the module.
pub struct Leaf<T: Entry> {
    of: Oid,
    data: Arc<Vec<u8>>,
    /// Identities of the entries, in their order.
    ids: Vec<T::Id>,
    /// Where the entries begin, and the end of the last.
    bounds: Vec<usize>,
}

impl<T: Entry> std::fmt::Debug for Leaf<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leaf")
            .field("of", &self.of)
            .finish_non_exhaustive()
    }
}

impl<T: Entry> Leaf<T> {
    /// Takes the object's bytes apart.
    pub(crate) fn parse(of: Oid, data: Arc<Vec<u8>>) -> Result<Self> {
        let bad = |why: &str| RecordError::malformed(of, "a trie leaf", why);
        let (version, body) = data.split_first().ok_or_else(|| bad("it is empty"))?;
        if *version != LEAF_VERSION {
            return Err(bad("another version of cellfs wrote it, in another format"));
        }
        let (count, mut rest): (usize, _) =
            postcard::take_from_bytes(body).map_err(|e| bad(&e.to_string()))?;
        // A lie about the number must not cost memory.
        let room = count.min(rest.len());
        let (mut ids, mut bounds) = (Vec::with_capacity(room), Vec::with_capacity(room + 1));
        bounds.push(data.len() - rest.len());
        for _ in 0..count {
            let (id, len) = T::take(rest).ok_or_else(|| bad("its entries do not parse"))?;
            rest = rest.get(len..).ok_or_else(|| bad("an entry is cut off"))?;
            ids.push(id);
            bounds.push(data.len() - rest.len());
        }
        if !rest.is_empty() {
            return Err(bad("bytes follow its entries"));
        }
        Ok(Self {
            of,
            data,
            ids,
            bounds,
        })
    }

    /// Identities of the entries, in their order.
    pub(crate) fn ids(&self) -> &[T::Id] {
        &self.ids
    }

    /// Memory that it takes, about.
    pub(crate) fn memory(&self) -> usize {
        let each = size_of::<T::Id>() + size_of::<usize>();
        self.data.len() + self.ids.len() * each + size_of::<Self>() + super::NODE_BYTES
    }

    /// The identity of an entry that was found here.
    fn id(&self, i: usize) -> &T::Id {
        &self.ids[i]
    }

    /// The bytes of an entry.
    pub(crate) fn bytes(&self, i: usize) -> &[u8] {
        let from = self.bounds.get(i).copied().unwrap_or(usize::MAX);
        let to = self.bounds.get(i + 1).copied().unwrap_or(usize::MAX);
        self.data.get(from..to).unwrap_or_default()
    }

    /// Shows an entry.
    pub(crate) fn show(&self, i: usize, f: &mut dyn FnMut(&T)) -> Result<()> {
        let id = self.ids.get(i);
        id.map_or(Ok(()), |id| T::show(id, self.bytes(i), f))
            .map_err(|e| RecordError::malformed(self.of, "a trie leaf", e.to_string()))
    }

    /// An entry.
    pub(crate) fn entry(&self, i: usize) -> Result<Option<T>> {
        let mut found = None;
        self.show(i, &mut |e| found = Some(e.clone()))?;
        Ok(found)
    }

    /// The entry of that identity.
    pub(crate) fn find(&self, id: &T::Id) -> Result<Option<T>> {
        match self.ids.iter().rposition(|i| i == id) {
            Some(i) => self.entry(i),
            None => Ok(None),
        }
    }
}

/// An entry of a leaf that is being made.
#[derive(Clone)]
pub(crate) enum Item<T: Entry> {
    /// As it stands in another leaf.
    Kept(Arc<Leaf<T>>, usize),
    /// A new one.
    New(T),
}

impl<T: Entry> Item<T> {
    /// All entries of a leaf.
    pub(crate) fn all(leaf: &Arc<Leaf<T>>) -> Vec<Self> {
        let each = (0..leaf.ids.len()).map(|i| Self::Kept(Arc::clone(leaf), i));
        each.collect()
    }

    pub(crate) fn place(&self) -> Key {
        match self {
            Self::Kept(leaf, i) => T::key(leaf.id(*i)),
            Self::New(e) => e.place(),
        }
    }

    /// How its identity stands to another one.
    pub(crate) fn cmp_id(&self, id: &T::Id) -> Ordering {
        match self {
            Self::Kept(leaf, i) => leaf.id(*i).cmp(id),
            Self::New(e) => e.id().cmp(id),
        }
    }
}

/// The bytes of a leaf of these entries.
pub(crate) fn encode<T: Entry>(items: &[Item<T>]) -> Result<Vec<u8>> {
    let mut data = vec![LEAF_VERSION];
    data = postcard::to_extend(&items.len(), data).map_err(RecordError::Encode)?;
    for item in items {
        data = match item {
            Item::Kept(leaf, i) => {
                data.extend_from_slice(leaf.bytes(*i));
                data
            }
            Item::New(e) => postcard::to_extend(e, data).map_err(RecordError::Encode)?,
        };
    }
    Ok(data)
}
