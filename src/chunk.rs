//! Large files as chunks: where a file is cut, what lists its chunks, and where their bytes are.
//!
//! [`cut`] cuts a file where its content says so and names each piece by its BLAKE3, the whole
//! by its SHA-256. [`manifest`] keeps the list of the pieces as a tree of small git objects, so
//! that a small change of a large file is a small change of the list. [`mod@pointer`] is what git has
//! in the file's place. [`store`] keeps the bytes on disk.
//!
//! Invariants: equal content has equal pieces and an equal manifest, wherever and however often
//! it was surveyed. Bytes that the store hands out for a name hash to that name. No threads but
//! the one that [`cut::survey`] starts and ends; everything is synchronous, callers bring the
//! threads. Formats, and what was rejected: `chunk/DESIGN.md`.

pub mod cut;
pub mod manifest;
pub mod pointer;
pub mod splice;
pub mod store;

use std::fmt;
use std::str::FromStr;

use crate::base::id::BadId;

/// Smallest piece, but for the last one of a file.
pub const PIECE_BYTES_MIN: u32 = 64 << 10;
/// Where a cut becomes likelier. Pieces of content without repetition are 317 KiB in the mean.
pub const PIECE_BYTES_USUAL: u32 = 256 << 10;
/// Largest piece.
pub const PIECE_BYTES_MAX: u32 = 1 << 20;
/// Longest file that is cut into pieces.
pub const FILE_BYTES_MAX: u64 = 1 << 40;

macro_rules! hash_name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&data_encoding::HEXLOWER.encode(&self.0[..5]))
            }
        }

        impl FromStr for $name {
            type Err = BadId;

            fn from_str(s: &str) -> Result<Self, BadId> {
                let bytes = data_encoding::HEXLOWER.decode(s.as_bytes());
                let bytes = bytes.ok().and_then(|b| <[u8; 32]>::try_from(b).ok());
                bytes.map(Self).ok_or_else(|| BadId($what, s.to_owned()))
            }
        }
    };
}

hash_name!(
    /// The name of a chunk: the BLAKE3 of its bytes.
    ChunkId,
    "the name of a chunk"
);
hash_name!(
    /// The name of a whole file: the SHA-256 of its bytes, as large-file pointers of git have it.
    Sha256,
    "a SHA-256"
);

impl ChunkId {
    /// The name of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(blake3::hash(bytes).into())
    }
}

/// A part of a file between two cuts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Piece {
    /// Names the bytes.
    pub id: ChunkId,
    /// How many they are; never 0.
    pub len: u32,
}

/// What a file is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// Bytes of the file; the sum of the pieces.
    pub len: u64,
    /// Names the whole.
    pub sha256: Sha256,
    /// The pieces, in the order of the file.
    pub pieces: Vec<Piece>,
}
