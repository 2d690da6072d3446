//! The state of a volume at one commit: who is there, where, and which refs.
//!
//! Invariant: `names` holds one entry for each file that has a place, and that place is the
//! one which [`Record::place`] tells; a directory's names are one range of the trie. Both
//! tries are in the record commit, so any state of the past can be walked without an index.

use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::base::bytes_lru::BytesLru;
use crate::base::id::{FileId, Oid};
use crate::base::name::EntryName;
use crate::record::cache::Cache;
use crate::record::model::{Kind, Record, oid_bytes};
use crate::record::refs;
use crate::record::skip;
use crate::record::trie::key::{DIGITS, Key, PARENT_DIGITS};
use crate::record::trie::{self, Entry, Node};
use crate::record::{Result, Source};

/// A file's place: an entry of the names trie.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
pub struct Placed {
    /// The directory.
    pub parent: FileId,
    /// The name in it; several files may have the same after concurrent creates.
    pub name: EntryName,
    /// The file.
    pub id: FileId,
}

impl Entry for Placed {
    type Id = Self;

    fn id(&self) -> Self {
        self.clone()
    }

    fn take(data: &[u8]) -> Option<(Self, usize)> {
        let (place, rest) = postcard::take_from_bytes(data).ok()?;
        Some((place, data.len() - rest.len()))
    }

    fn show(id: &Self, _: &[u8], f: &mut dyn FnMut(&Self)) -> postcard::Result<()> {
        f(id);
        Ok(())
    }

    fn key(id: &Self) -> Key {
        Key::of_name(id.parent, &id.name)
    }

    fn place(&self) -> Key {
        Key::of_name(self.parent, &self.name)
    }

    fn nodes(cache: &Cache) -> &Mutex<BytesLru<Oid, Node<Self>>> {
        &cache.names
    }
}

impl Entry for Record {
    type Id = FileId;

    fn id(&self) -> FileId {
        self.id
    }

    fn take(data: &[u8]) -> Option<(FileId, usize)> {
        skip::record(data)
    }

    fn show(_: &FileId, data: &[u8], f: &mut dyn FnMut(&Self)) -> postcard::Result<()> {
        f(&postcard::from_bytes(data)?);
        Ok(())
    }

    fn key(id: &FileId) -> Key {
        Key::of_id(*id)
    }

    fn nodes(cache: &Cache) -> &Mutex<BytesLru<Oid, Node<Self>>> {
        &cache.ids
    }
}

impl Record {
    /// A record of nothing yet.
    #[must_use]
    pub fn new(id: FileId) -> Self {
        Self {
            id,
            content: Vec::new(),
            location: Vec::new(),
            fields: crate::record::model::Fields::default(),
            filled: crate::record::model::Filled::default(),
        }
    }

    /// The location that is shown: the one that stands in, or the latest of the survivors.
    #[must_use]
    pub fn shown_location(&self) -> Option<&crate::record::model::Location> {
        self.filled
            .location
            .as_deref()
            .or_else(|| self.location.first())
    }

    /// The versions that are shown: the survivors, or what stands in for them.
    #[must_use]
    pub fn shown_content(&self) -> &[crate::record::model::Content] {
        if self.filled.content.is_empty() {
            &self.content
        } else {
            &self.filled.content
        }
    }

    /// What the file is, by its latest version.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        self.shown_content().first().map(|c| c.kind)
    }

    /// Where the file is shown, if it is.
    #[must_use]
    pub fn place(&self) -> Option<Placed> {
        if self.id == FileId::ROOT || self.shown_content().is_empty() {
            return None;
        }
        self.shown_location().map(|l| Placed {
            parent: l.parent,
            name: l.name.clone(),
            id: self.id,
        })
    }

    /// For a file's other name, the entry by which the file finds it.
    #[must_use]
    pub fn link_entry(&self) -> Option<Placed> {
        let target = self.kind()?.target()?;
        self.place()?;
        Some(crate::record::draft::mark(link_list(target), self.id))
    }

    /// Whether several versions survive.
    #[must_use]
    pub fn is_contested(&self) -> bool {
        self.content.len() > 1
    }

    /// Whether any name shows it.
    #[must_use]
    pub fn is_shown(&self) -> bool {
        self.place().is_some() || (self.filled.links > 0 && !self.shown_content().is_empty())
    }

    /// Whether anybody asserts the file: else it lives for its children only.
    #[must_use]
    pub fn has_dots(&self) -> bool {
        !self.content.is_empty() || !self.location.is_empty()
    }
}

/// A state, by the ids of its three objects. Copying it costs nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct State {
    /// Trie of the records by file id.
    #[serde(with = "oid_bytes")]
    pub ids: Oid,
    /// Trie of the places by directory and name.
    #[serde(with = "oid_bytes")]
    pub names: Oid,
    /// Blob of the refs.
    #[serde(with = "oid_bytes")]
    pub refs: Oid,
}

impl State {
    /// The state of an empty volume, whose objects are put to the store.
    ///
    /// # Errors
    /// When the store fails.
    pub fn empty(src: Source<'_>) -> Result<Self> {
        Ok(Self {
            ids: trie::empty::<Record>(src)?,
            names: trie::empty::<Placed>(src)?,
            refs: refs::put(src.objs, &refs::Refs::default())?,
        })
    }

    /// The record of a file.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn record(&self, src: Source<'_>, id: FileId) -> Result<Option<Record>> {
        trie::get(src, self.ids, &id)
    }

    /// The files at exactly this name, sorted.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn placed(&self, src: Source<'_>, parent: FileId, name: &EntryName) -> Result<Vec<FileId>> {
        let mut out = Vec::new();
        let key = Key::of_name(parent, name);
        trie::visit(src, self.names, &key, DIGITS, &mut |p: &Placed| {
            if p.parent == parent && p.name == *name {
                out.push(p.id);
            }
        })?;
        Ok(out)
    }

    /// All files in a directory with their names, in no order that means anything to people.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn placed_in(&self, src: Source<'_>, parent: FileId) -> Result<Vec<(EntryName, FileId)>> {
        let mut out = Vec::new();
        let key = Key::of_id(parent);
        trie::visit(src, self.names, &key, PARENT_DIGITS, &mut |p: &Placed| {
            if p.parent == parent {
                out.push((p.name.clone(), p.id));
            }
        })?;
        Ok(out)
    }

    /// All places where a file is shown: its own, then those of its other names in the order of
    /// their ids.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn places(&self, src: Source<'_>, record: &Record) -> Result<Vec<Placed>> {
        let mut out: Vec<Placed> = record.place().into_iter().collect();
        if record.filled.links > 0 {
            for link in listed(src, self, link_list(record.id))? {
                out.extend(self.record(src, link)?.and_then(|r| r.place()));
            }
        }
        Ok(out)
    }

    /// All records, in the order of their ids. For checks and exports: it opens everything.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn records(&self, src: Source<'_>) -> Result<Vec<Record>> {
        let mut out = Vec::new();
        let key = Key::of_id(FileId::ROOT);
        trie::visit(src, self.ids, &key, 0, &mut |r: &Record| {
            out.push(r.clone());
        })?;
        Ok(out)
    }

    /// The refs.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn refs(&self, src: Source<'_>) -> Result<refs::Refs> {
        refs::get(src.objs, &self.refs)
    }

    /// All that the branches and tags point to.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn ref_values(&self, src: Source<'_>) -> Result<Vec<Oid>> {
        let refs = self.refs(src)?;
        Ok(refs.0.values().flatten().map(|v| v.to).collect())
    }
}

/// A directory that does not exist: its names are the directories that are not shown where
/// their latest move put them, because that would close a cycle. Whoever merges finds them
/// here without looking at all directories.
pub const DISPLACED: FileId = FileId {
    branch: u64::MAX,
    n: u64::MAX,
};

/// Another one: the files of which several versions survive. What these show depends on more
/// than their own records.
pub const CONTESTED: FileId = FileId {
    branch: u64::MAX,
    n: u64::MAX - 1,
};

/// Another one for each file: the names that it has besides its own, by their ids.
#[must_use]
pub fn link_list(file: FileId) -> FileId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"links\0");
    hasher.update(&file.as_u128().to_be_bytes());
    let mut halves = [[0; 8]; 2];
    let mut bytes = hasher.finalize_xof();
    halves.iter_mut().for_each(|h| bytes.fill(h));
    let [branch, n] = halves.map(u64::from_be_bytes);
    FileId { branch, n }
}

/// The files listed in one of the directories that do not exist, sorted.
///
/// # Errors
/// When the state cannot be read.
pub fn listed(src: Source<'_>, state: &State, list: FileId) -> Result<Vec<FileId>> {
    let placed = state.placed_in(src, list)?;
    let mut ids: Vec<FileId> = placed.into_iter().map(|(_, id)| id).collect();
    ids.sort_unstable();
    Ok(ids)
}
