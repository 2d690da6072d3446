//! The words in which authors say what they did, and what they do to a state.
//!
//! A change names by their dots the parts that it replaces, so what its author did not see
//! stays. An operation re-asserts, as its own, the parts of its file and of all directories
//! above it that only stood in for missing ones (rule 6 of the merge): who works in a
//! directory that lives for its children keeps it alive from then on.
//!
//! Changes belong on the state that their author saw. On a later state they still do what they
//! can: a write to a file that is gone brings it back, a directory that is not empty is not
//! dropped.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::base::id::{BranchId, FileId, Oid};
use crate::base::name::EntryName;
use crate::base::stamp::Dot;
use crate::record::model::{Kind, XattrName, maybe_oid_bytes, oid_bytes};

pub use crate::record::author::apply;

/// Stands in a change for the dot of the commit that the change will be part of.
///
/// A second write or move of a file in one batch replaces the first without naming it; a
/// [`Change::Drop`] ends what the batch did before only if it names it, by this or by its dot.
pub const OWN: Dot = Dot {
    branch: BranchId(0),
    seq: 0,
};

/// One thing that an author did.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum Change {
    /// A file that was not there before.
    Born {
        /// Its id, minted by the author.
        id: FileId,
        /// Its directory.
        parent: FileId,
        /// Its name.
        name: EntryName,
        /// What it is.
        kind: Kind,
        /// Its bytes; the null id for a directory.
        #[serde(with = "oid_bytes")]
        blob: Oid,
    },
    /// New bytes for a file.
    Write {
        /// The file.
        id: FileId,
        /// The versions that these bytes replace.
        base: Vec<Dot>,
        /// What it is now.
        kind: Kind,
        /// Its bytes.
        #[serde(with = "oid_bytes")]
        blob: Oid,
    },
    /// A new place for a file.
    Move {
        /// The file.
        id: FileId,
        /// The places (their dots) that this one replaces.
        base: Vec<Dot>,
        /// Its directory.
        parent: FileId,
        /// Its name.
        name: EntryName,
        /// Where it was.
        prev: Option<(FileId, EntryName)>,
    },
    /// An end of versions and places. The file is gone when none is left.
    Drop {
        /// The file.
        id: FileId,
        /// The versions that end.
        content: Vec<Dot>,
        /// The places that end.
        location: Vec<Dot>,
    },
    /// One of a file's several names is taken away: its own place, or one whose record
    /// ([`Kind::Link`]) was dropped before. The file lives on under the others, if there are any.
    Unlink {
        /// The file.
        id: FileId,
        /// The versions seen: they end with the last name, and do not bring this one back.
        content: Vec<Dot>,
        /// The places of the name.
        location: Vec<Dot>,
    },
    /// A version that shall not take the plain name at a place, because someone took the name
    /// away from above it.
    MarkCopy {
        /// The file.
        id: FileId,
        /// The version.
        content: Dot,
        /// The place.
        location: Dot,
    },
    /// A new value of a field.
    Field {
        /// The file.
        id: FileId,
        /// The value.
        field: SetField,
    },
    /// A new value of a branch or tag, or its end.
    Ref {
        /// Full name, as `refs/heads/x`.
        name: String,
        /// The values (their dots) that this one replaces.
        base: Vec<Dot>,
        /// What it points to.
        #[serde(with = "maybe_oid_bytes")]
        to: Option<Oid>,
    },
}

/// A value for one field.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum SetField {
    /// Permission bits.
    SetMode(u32),
    /// Modification time, nanoseconds since 1970.
    SetMtime(i64),
    /// Owner.
    SetUid(u32),
    /// Group.
    SetGid(u32),
    /// An extended attribute, or its end.
    SetXattr {
        /// Its name.
        name: XattrName,
        /// Its value.
        value: Option<Vec<u8>>,
    },
}

impl SetField {
    /// What makes one file's extended attributes those of another.
    #[must_use]
    pub fn xattrs(
        old: &BTreeMap<XattrName, Vec<u8>>,
        new: &BTreeMap<XattrName, Vec<u8>>,
    ) -> Vec<Self> {
        let gone = old.keys().filter(|n| !new.contains_key(*n));
        let gone = gone.map(|name| Self::SetXattr {
            name: name.clone(),
            value: None,
        });
        let set = new.iter().filter(|(n, v)| old.get(*n) != Some(v));
        let set = set.map(|(name, value)| Self::SetXattr {
            name: name.clone(),
            value: Some(value.clone()),
        });
        gone.chain(set).collect()
    }
}

impl Change {
    /// The file that the change is about; none for a ref.
    #[must_use]
    pub fn id(&self) -> Option<FileId> {
        match self {
            Self::Born { id, .. }
            | Self::Write { id, .. }
            | Self::Move { id, .. }
            | Self::Drop { id, .. }
            | Self::Unlink { id, .. }
            | Self::MarkCopy { id, .. }
            | Self::Field { id, .. } => Some(*id),
            Self::Ref { .. } => None,
        }
    }

    /// The bytes that the change names; the null id for those that are not known yet.
    #[must_use]
    pub fn blob(&self) -> Option<Oid> {
        match self {
            Self::Born { blob, .. } | Self::Write { blob, .. } => Some(*blob),
            _ => None,
        }
    }

    /// What the bytes that the change names are of.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Self::Born { kind, .. } | Self::Write { kind, .. } => Some(*kind),
            _ => None,
        }
    }

    /// The same change with other dots in place of those it names.
    #[must_use]
    pub fn map_dots(mut self, f: impl Fn(Dot) -> Dot) -> Self {
        let all = |dots: &mut Vec<Dot>| dots.iter_mut().for_each(|d| *d = f(*d));
        match &mut self {
            Self::Write { base, .. } | Self::Move { base, .. } | Self::Ref { base, .. } => {
                all(base);
            }
            Self::Drop {
                content, location, ..
            }
            | Self::Unlink {
                content, location, ..
            } => {
                all(content);
                all(location);
            }
            Self::MarkCopy {
                content, location, ..
            } => {
                *content = f(*content);
                *location = f(*location);
            }
            Self::Born { .. } | Self::Field { .. } => {}
        }
        self
    }

    /// The versions of a file's bytes that it replaces or ends.
    pub fn replaced(&mut self) -> Option<(FileId, &mut Vec<Dot>)> {
        match self {
            Self::Write { id, base, .. } => Some((*id, base)),
            Self::Drop { id, content, .. } | Self::Unlink { id, content, .. } => {
                Some((*id, content))
            }
            _ => None,
        }
    }
}
