//! What `cellfs gc` tells: what a volume's repository took before and after.

use serde::{Deserialize, Serialize};

/// What was done to one volume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Gathered {
    /// The volume's name.
    pub volume: String,
    /// What there was.
    pub before: Kept,
    /// What there is.
    pub after: Kept,
    /// How long it took.
    pub seconds: f64,
}

/// What a repository holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Packs.
    pub packs: u64,
    /// Objects in them; one that is in two packs counts twice.
    pub objects: u64,
    /// Bytes on the disk, with indexes.
    pub bytes: u64,
}

/// What was read of a volume's large files.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scrubbed {
    /// Its name.
    pub volume: String,
    /// Bytes that were read.
    pub bytes: u64,
    /// Pieces that were damaged, and are not here any more.
    pub damaged: u64,
    /// How long it took.
    pub seconds: f64,
}
