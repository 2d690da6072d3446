//! A large file as its manifest lists it, and what of it lacks.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use super::like::Likes;
use super::{Library, Name};
use crate::base::id::Oid;
use crate::chunk::manifest::{self, HEAD_BYTES, Head, NODE_BYTES_MAX, NodeKind};
use crate::chunk::{Piece, Sha256};
use crate::store::objects::{ObjectError, ObjectKind, Objects};
use crate::swarm::pieces::Pieces;

/// Why a file's list was not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum EntryError {
    #[error("there is no such volume, or it has no chunks")]
    NoVolume,
    #[error("its list of pieces is not here: {0}")]
    Objects(#[from] ObjectError),
    #[error("its list of pieces is wrong: {0}")]
    Manifest(String),
}

/// A file that is worked on.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: Name,
    pub(super) sha256: Sha256,
    pub(super) pieces: Vec<Piece>,
    /// Where each ends.
    ends: Vec<u64>,
    /// Of pieces that lack and are in the file more than once, which the first is: it is asked
    /// for, and the others are it.
    firsts: BTreeMap<u32, u32>,
    /// All of it is to be here, and is looked after when it has come.
    pub(super) is_kept: bool,
    /// Pieces go into its container, not into packs. That of another file may have its name.
    pub(super) in_container: bool,
    /// Most of it is here, with the version before it: it is no container before it is ripe.
    pub(super) is_late: bool,
    /// What the version before it has that is like what lacks.
    pub(super) likes: Likes,
}

pub(super) fn node(
    objs: &dyn Objects,
    id: &Oid,
    kind: NodeKind,
) -> Result<Arc<Vec<u8>>, ObjectError> {
    let kind = match kind {
        NodeKind::Blob => ObjectKind::Blob,
        NodeKind::Tree => ObjectKind::Tree,
    };
    let bytes = objs.get(id, kind)?;
    if bytes.len() > NODE_BYTES_MAX {
        return Err(ObjectError::Malformed {
            id: *id,
            expected: "a node of a manifest",
            why: "it is too long".to_owned(),
        });
    }
    Ok(bytes)
}

/// The head of a manifest.
pub(super) fn head_of(objs: &dyn Objects, head: &Oid) -> Result<Head, EntryError> {
    let bytes = objs.get(head, ObjectKind::Blob)?;
    let short = bytes
        .get(..HEAD_BYTES)
        .filter(|_| bytes.len() == HEAD_BYTES);
    let bytes = short.ok_or_else(|| EntryError::Manifest("it is of another length".to_owned()))?;
    manifest::head(bytes).map_err(|e| EntryError::Manifest(e.to_string()))
}

/// Goes through the pieces of a file, some at a time, with the number of the first of them.
pub(super) fn each_some(
    objs: &dyn Objects,
    head: &Head,
    some: usize,
    mut f: impl FnMut(u32, &[Piece]),
) -> Result<u32, EntryError> {
    let mut get = |id: &Oid, kind| node(objs, id, kind);
    let mut batch = Vec::with_capacity(some);
    let mut first = 0u32;
    for place in manifest::pieces(head, &mut get) {
        let place = place.map_err(|e| EntryError::Manifest(e.to_string()))?;
        batch.push(place.piece);
        if batch.len() == some {
            f(first, &batch);
            first = place.index + 1;
            batch.clear();
        }
    }
    f(first, &batch);
    Ok(first + u32::try_from(batch.len()).unwrap_or(0))
}

impl Entry {
    /// Reads a file's list of pieces, and looks which lack, and if some do, where the version with
    /// another head is like them. Blocking.
    pub(super) fn load(
        library: &dyn Library,
        name: &Name,
        over: Option<Oid>,
    ) -> Result<(Self, Pieces), EntryError> {
        let (volume, head) = name;
        let objs = library.objects(volume).ok_or(EntryError::NoVolume)?;
        let chunks = library.chunks(volume).ok_or(EntryError::NoVolume)?;
        let head = head_of(&*objs, head)?;
        let (mut pieces, mut lacks) = (Vec::new(), Vec::new());
        let count = each_some(&*objs, &head, 4096, |first, some| {
            for n in chunks.lacks(some, some.len()) {
                lacks.push(first + u32::try_from(n).unwrap_or(0));
            }
            pieces.extend_from_slice(some);
        })?;
        let mut lacking = Pieces::none(count);
        let mut firsts = BTreeMap::new();
        let mut met = HashMap::new();
        for n in lacks {
            let Some(p) = pieces.get(n as usize) else {
                continue;
            };
            let first = *met.entry(p.id).or_insert(n);
            if first == n {
                lacking.insert(n);
            } else {
                firsts.insert(n, first);
            }
        }
        let ends = pieces.iter().scan(0, |at, p| {
            *at += u64::from(p.len);
            Some(*at)
        });
        let over = over.filter(|_| !lacking.is_empty());
        let likes = over.map(|o| Likes::find(&*objs, &head_of(&*objs, &o)?, &head));
        let likes = likes.transpose().unwrap_or_else(|e| {
            tracing::debug!(volume = %volume, error = %e, "nothing is known of the version before");
            None
        });
        let entry = Self {
            name: name.clone(),
            sha256: head.sha256,
            ends: ends.collect(),
            pieces,
            firsts,
            is_kept: false,
            in_container: false,
            is_late: false,
            likes: likes.unwrap_or_default(),
        };
        Ok((entry, lacking))
    }

    pub(super) fn len(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    pub(super) fn len_of(&self, index: u32) -> u64 {
        let piece = self.pieces.get(index as usize);
        piece.map_or(0, |p| p.len.into())
    }

    pub(super) fn lens(&self) -> Arc<[u32]> {
        self.pieces.iter().map(|p| p.len).collect()
    }

    /// Pieces in memory for it.
    pub(super) fn weight(&self) -> usize {
        self.pieces.len() + self.likes.len()
    }

    /// Where a piece is.
    pub(super) fn place(&self, index: u32) -> Range<u64> {
        let n = index as usize;
        let end = |n: usize| self.ends.get(n).copied().unwrap_or(0);
        n.checked_sub(1).map_or(0, end)..end(n)
    }

    /// The pieces that hold these bytes.
    pub(super) fn pieces_of(&self, range: &Range<u64>) -> Range<u32> {
        let at = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let first = self.ends.partition_point(|end| *end <= range.start);
        if range.end <= range.start {
            return at(first)..at(first);
        }
        let last = self.ends.partition_point(|end| *end < range.end);
        at(first)..at((last + 1).min(self.ends.len()))
    }

    /// What is to be waited for instead of pieces of this range that are the same as others.
    pub(super) fn instead(&self, range: &Range<u32>) -> Vec<Range<u32>> {
        if range.is_empty() {
            return Vec::new();
        }
        let same = self.firsts.range(range.clone());
        let other: BTreeSet<u32> = same.map(|(_, first)| *first).collect();
        let other = other.into_iter().filter(|n| !range.contains(n));
        other.map(|n| n..n + 1).collect()
    }
}
