//! The vocabulary of the journal.

use serde::{Deserialize, Serialize};

use crate::base::id::{BranchId, FileId, Oid};
use crate::base::stamp::{Dot, Stamp};
use crate::record::change::Change;
use crate::record::model::{Kind, oid_bytes};

/// One entry: applied whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// The node started and will write this branch.
    Started(BranchId),
    /// What one operation on the mount did.
    Op(Vec<Patch>),
    /// A commit is durable: the head record.
    Committed(Committed),
    /// A head of another node was admitted; its closure is durable.
    Admitted(#[serde(with = "oid_bytes")] Oid),
    /// Objects that are in no pack of the store yet, as a pack stream.
    Objects(#[serde(with = "whole")] Vec<u8>),
}

/// A change to one file, as it came through the mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Patch {
    /// Metadata. Dots of [`Dot::default`] name the commit that these changes will be in.
    Meta(Change),
    /// The file starts to differ from the version it had: later patches apply to that.
    Open {
        /// The file.
        id: FileId,
        /// The versions that the writer saw.
        base: Vec<Dot>,
        /// What it is.
        kind: Kind,
        /// The bytes it had; the null id for none.
        #[serde(with = "oid_bytes")]
        blob: Oid,
    },
    /// Bytes written.
    Bytes {
        /// The file.
        id: FileId,
        /// Offset in bytes.
        at: u64,
        /// The bytes.
        #[serde(with = "whole")]
        data: Vec<u8>,
        /// When, nanoseconds since 1970.
        mtime: i64,
    },
    /// The size was set: cut, or grown with zeros.
    Size {
        /// The file.
        id: FileId,
        /// Bytes.
        len: u64,
        /// When, nanoseconds since 1970.
        mtime: i64,
    },
    /// From here on the bytes are in a file of their own: `overlay/<number>`.
    Spill {
        /// The file.
        id: FileId,
        /// The overlay file.
        file: u64,
    },
    /// Programs may write to `overlay/<number>` without anybody knowing. It stands, whatever is
    /// committed, until the next one of this overlay file or its [`Patch::Unbind`].
    Bind {
        /// The file.
        id: FileId,
        /// What it is.
        kind: Kind,
        /// The versions that the bytes began as. Those of a commit that did not come to be: then
        /// the one before this stands.
        base: Vec<Dot>,
        /// The bytes that it has if nobody wrote.
        #[serde(with = "oid_bytes")]
        blob: Oid,
        /// The overlay file.
        file: u64,
    },
    /// They may not any more, and what they wrote is known.
    Unbind {
        /// The overlay file.
        file: u64,
    },
}

impl Patch {
    /// The file that the patch is about, if about one.
    #[must_use]
    pub fn id(&self) -> Option<FileId> {
        match self {
            Self::Meta(c) => c.id(),
            Self::Open { id, .. }
            | Self::Bytes { id, .. }
            | Self::Size { id, .. }
            | Self::Spill { id, .. }
            | Self::Bind { id, .. } => Some(*id),
            Self::Unbind { .. } => None,
        }
    }
}

/// The head record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// Branch, place on it and time.
    pub stamp: Stamp,
    /// The record commit.
    #[serde(with = "oid_bytes")]
    pub head: Oid,
    /// Files born on the branch so far.
    pub births: u64,
    /// All entries up to this number are in the commit, but those about `held`.
    pub upto: u64,
    /// Files that were still being written.
    pub held: Vec<FileId>,
}

/// Bytes as one piece; serde would take them one by one. The encoding is the same.
mod whole {
    use serde::de::{Deserializer, Error, Visitor};
    use serde::ser::Serializer;

    pub(super) fn serialize<S: Serializer>(b: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(b)
    }

    struct Bytes;

    impl Visitor<'_> for Bytes {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("bytes")
        }

        fn visit_bytes<E: Error>(self, b: &[u8]) -> Result<Vec<u8>, E> {
            Ok(b.to_vec())
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        from.deserialize_bytes(Bytes)
    }
}
