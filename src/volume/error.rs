//! Why an operation on a volume failed.

use std::ops::Range;

use super::large::Lacking;
use crate::base::id::Oid;
use crate::base::name::BadName;
use crate::chunk::store::ChunkError;
use crate::journal::JournalError;
use crate::store::objects::ObjectError;

/// See the module. Each variant is one situation; `fs` gives each its errno.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VolumeError {
    /// No such name.
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken.
    #[error("file exists")]
    Exists,
    /// A directory was needed.
    #[error("not a directory")]
    NotDir,
    /// Anything but a directory was needed.
    #[error("is a directory")]
    IsDir,
    /// No extended attribute of this name.
    #[error("no such attribute")]
    NoData,
    /// More extended attributes than a file may have.
    #[error("no room for the attribute")]
    NoRoom,
    /// The directory has names in it.
    #[error("directory not empty")]
    NotEmpty,
    /// An inode that is no more.
    #[error("stale file handle")]
    Stale,
    /// Asked for something that makes no sense.
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    /// Larger than a file may be.
    #[error("a file has at most {0} bytes")]
    TooLarge(u64),
    /// Nothing to be found from there to the end of the file.
    #[error("past the end of the file")]
    PastEnd,
    /// Mounted read-only.
    #[error("read-only file system")]
    ReadOnly,
    /// Not offered.
    #[error("not supported: {0}")]
    Unsupported(&'static str),
    /// Bytes that cannot name a file.
    #[error(transparent)]
    Name(#[from] BadName),
    /// The journal refused.
    #[error("journal: {0}")]
    Journal(#[from] JournalError),
    /// The object store failed.
    #[error("objects: {0}")]
    Objects(#[from] ObjectError),
    /// The disk failed or is full.
    #[error("disk: {0}")]
    Io(#[from] std::io::Error),
    /// The records are not what they should be.
    #[error("records: {0}")]
    Record(String),
    /// The records could not be read or written.
    #[error("records: {0}")]
    Records(#[from] crate::record::RecordError),
    /// The chunk store failed.
    #[error("chunks: {0}")]
    Chunks(#[from] ChunkError),
    /// Bytes of a large file are not here; they may be fetched.
    #[error("bytes {range:?} of the file {head} are not here")]
    Lacking {
        /// The head of its manifest.
        head: Oid,
        /// Which bytes are needed.
        range: Range<u64>,
    },
    /// So many wait for such bytes that there is no room for more.
    #[error("too many wait for bytes that are not here")]
    TooMany,
    /// They did not come.
    #[error(transparent)]
    Unsupplied(#[from] Lacking),
    /// The node is shutting down.
    #[error("the node is shutting down")]
    Stopped,
}

impl VolumeError {
    /// Whether the disk has no room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        match self {
            Self::Journal(e) => matches!(e, JournalError::Full),
            Self::Chunks(e) => matches!(e, ChunkError::Full),
            Self::Io(e) => matches!(e.kind(), StorageFull | QuotaExceeded),
            _ => false,
        }
    }
}
