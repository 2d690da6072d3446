//! What git trees cannot hold: one record per file, in tries that git stores for us.
//!
//! A state is two tries (file id to record, and directory and name to file id) and a blob of
//! refs; a record commit pins it. Invariant: the objects are a pure function of the entries in
//! them, so equal states have equal ids on every node. No threads, no disk: objects come and
//! go through [`crate::store::objects::Objects`].

pub mod attributes;
mod author;
pub mod cache;
pub mod change;
pub mod commit;
pub mod conflict;
mod cycle;
pub mod draft;
mod fill;
pub mod git_commit;
pub mod git_tree;
pub mod model;
pub mod refs;
mod skip;
pub mod state;
mod text;
pub mod trie;

use crate::base::id::Oid;
use crate::store::objects::{ObjectError, Objects};

/// Why records could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The objects below could not be used.
    #[error("records could not be read or written: {0}")]
    Objects(#[from] ObjectError),
    /// A commit that is no record commit, or one that contradicts itself.
    #[error("commit {id} is no record commit: {why}")]
    Commit {
        /// The commit.
        id: Oid,
        /// What is wrong with it.
        why: &'static str,
    },
    /// More parents than one commit may have.
    #[error("a record commit has at most {max} parents, this one would have {count}")]
    TooManyParents {
        /// How many there would be.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// A value that has no encoding.
    #[error("a record could not be encoded: {0}")]
    Encode(postcard::Error),
}

impl RecordError {
    pub(crate) fn malformed(id: Oid, expected: &'static str, why: impl Into<String>) -> Self {
        Self::Objects(ObjectError::Malformed {
            id,
            expected,
            why: why.into(),
        })
    }
}

/// Result of this room.
pub type Result<T> = std::result::Result<T, RecordError>;

/// Where records are read from and put to: the objects, with a cache of decoded ones before
/// them.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// The objects.
    pub objs: &'a dyn Objects,
    /// Decoded nodes of the tries.
    pub cache: &'a cache::Cache,
}

impl<'a> Source<'a> {
    /// A source over `objs`.
    #[must_use]
    pub fn new(objs: &'a dyn Objects, cache: &'a cache::Cache) -> Self {
        Self { objs, cache }
    }
}

impl std::fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").finish_non_exhaustive()
    }
}
