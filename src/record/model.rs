//! The record of one file, as it is stored and merged.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::base::id::{FileId, Oid};
use crate::base::name::EntryName;
use crate::base::stamp::{Dot, Stamp};

/// What a file is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
pub enum Kind {
    /// A directory. Its content is no blob: [`Content::blob`] is the null id.
    Dir,
    /// A regular file; the blob holds its bytes.
    File,
    /// A symbolic link; the blob holds its target.
    Symlink,
    /// A submodule of a repository that came by git: carried, not shown in the mount.
    Gitlink,
    /// A pipe with a name. No blob: git has no such thing, records alone hold it.
    Fifo,
    /// A socket's name. As a fifo.
    Socket,
    /// A character device with its number, as Linux encodes it in 32 bits. As a fifo.
    CharDevice(u32),
    /// A block device with its number. As a fifo.
    BlockDevice(u32),
    /// Another name of a file: a hard link. What the name shows is that file's.
    Link(FileId),
    /// A regular file whose bytes are chunks; the blob is the head of their manifest
    /// ([`crate::chunk::manifest`]). git sees a pointer of git-lfs.
    Large,
}

impl Kind {
    /// Whether git can hold it: the others are in records only.
    #[must_use]
    pub fn is_in_git(self) -> bool {
        matches!(
            self,
            Self::Dir | Self::File | Self::Symlink | Self::Gitlink | Self::Large
        )
    }

    /// Whether it has bytes that the mount writes and shows.
    #[must_use]
    pub fn has_bytes(self) -> bool {
        matches!(self, Self::File | Self::Symlink | Self::Large)
    }

    /// What programs take it for: a regular file is one whatever its size.
    #[must_use]
    pub fn plain(self) -> Self {
        match self {
            Self::Large => Self::File,
            other => other,
        }
    }

    /// The file that it is another name of, if it is one.
    #[must_use]
    pub fn target(self) -> Option<FileId> {
        match self {
            Self::Link(id) => Some(id),
            _ => None,
        }
    }
}

/// One surviving version of a file's bytes, named by the commit that wrote it.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct Content {
    /// The commit that wrote it.
    pub stamp: Stamp,
    /// What it made the file.
    pub kind: Kind,
    /// Its bytes.
    #[serde(with = "oid_bytes")]
    pub blob: Oid,
    /// The versions that its writer saw and replaced (sorted): the ground of a text merge.
    pub over: Vec<Dot>,
    /// Locations (their dots, sorted) at which this version stays a conflict copy for good,
    /// because someone took the plain name away from under it.
    pub copy_at: Vec<Dot>,
    /// Locations (their dots, sorted), of the file or of other names of it, that this version
    /// does not bring back, because they were unlinked while the file had other names.
    pub gone_from: Vec<Dot>,
}

/// One surviving place of a file.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct Location {
    /// The commit that put it there.
    pub stamp: Stamp,
    /// The directory.
    pub parent: FileId,
    /// The name in it.
    pub name: EntryName,
    /// Where the file was before, for a move that has to be undone to break a cycle.
    pub prev: Option<(FileId, EntryName)>,
}

/// A value with the stamp of the commit that set it: the later one wins.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct Lww<T> {
    /// The commit that set it.
    pub stamp: Stamp,
    /// The value.
    pub value: T,
}

/// Metadata. Each field is merged on its own, the later stamp wins, so it never conflicts.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug, Default)]
pub struct Fields {
    /// Permission bits (12 bits, no file type).
    pub mode: Option<Lww<u32>>,
    /// Modification time, nanoseconds since 1970.
    pub mtime: Option<Lww<i64>>,
    /// Owner; absent: the owner of the mount.
    pub uid: Option<Lww<u32>>,
    /// Group; absent: the group of the mount.
    pub gid: Option<Lww<u32>>,
    /// Extended attributes, ACLs among them, by name: each is merged on its own.
    pub xattrs: BTreeMap<XattrName, Lww<Option<Vec<u8>>>>,
}

/// Name of an extended attribute, with its namespace: `user.x`.
pub type XattrName = Vec<u8>;

/// All that is known of one file.
///
/// `content` and `location` are sorted by stamp, latest first, without duplicates.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct Record {
    /// Which file.
    pub id: FileId,
    /// Surviving versions; more than one after concurrent edits.
    pub content: Vec<Content>,
    /// Surviving places; more than one after concurrent moves: the first is shown.
    pub location: Vec<Location>,
    /// Metadata.
    pub fields: Fields,
    /// Parts that nobody asserts any more but that must be shown, because a child or the
    /// other part is alive. Derived: the same on every node with the same heads.
    pub filled: Filled,
}

/// See [`Record::filled`]. Few files have any of it, so it takes little room in all others.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug, Default)]
pub struct Filled {
    /// Content that stands in for none; or, of a file that lost its last name while versions of
    /// it were beside that name, those: the others are gone from every place they had.
    pub content: Vec<Content>,
    /// A place that stands in for none, or for the latest one if that would put a directory
    /// inside itself.
    pub location: Option<Box<Location>>,
    /// What several versions make together, if their texts merge without a conflict.
    pub text: Option<Box<MergedText>>,
    /// How many other names the file has: see [`Kind::Link`].
    pub links: u32,
}

/// Bytes that stand for several versions at once.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct MergedText {
    /// The bytes.
    #[serde(with = "oid_bytes")]
    pub blob: Oid,
    /// The versions in it (their dots), latest first.
    pub versions: Vec<Dot>,
}

/// Object ids as 20 raw bytes.
pub mod oid_bytes {
    use gix::ObjectId;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// Writes the 20 bytes.
    ///
    /// # Errors
    /// As the serializer.
    pub fn serialize<S: Serializer>(id: &ObjectId, s: S) -> Result<S::Ok, S::Error> {
        <[u8; 20]>::try_from(id.as_slice())
            .map_err(serde::ser::Error::custom)?
            .serialize(s)
    }

    /// Reads 20 bytes.
    ///
    /// # Errors
    /// As the deserializer.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<ObjectId, D::Error> {
        Ok(ObjectId::from(<[u8; 20]>::deserialize(d)?))
    }
}

/// Optional object ids as 20 raw bytes.
pub mod maybe_oid_bytes {
    use gix::ObjectId;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// Writes the 20 bytes, if there are any.
    ///
    /// # Errors
    /// As the serializer.
    pub fn serialize<S: Serializer>(id: &Option<ObjectId>, s: S) -> Result<S::Ok, S::Error> {
        let bytes: Option<[u8; 20]> = match id {
            None => None,
            Some(id) => Some(
                id.as_slice()
                    .try_into()
                    .map_err(serde::ser::Error::custom)?,
            ),
        };
        bytes.serialize(s)
    }

    /// Reads 20 bytes, if there are any.
    ///
    /// # Errors
    /// As the deserializer.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<ObjectId>, D::Error> {
        Ok(Option::<[u8; 20]>::deserialize(d)?.map(ObjectId::from))
    }
}
