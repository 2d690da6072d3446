//! Bytes by their ids: what is asked for, and what is told of them.

use serde::{Deserialize, Serialize};

use crate::base::cid::Cid;
use crate::base::id::VolumeName;

/// Where bytes are to be kept. They follow the request, as [`crate::control::flow`] says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddTo {
    /// In which volume; in the node's own default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeName>,
}

/// Bytes that somebody means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectOf {
    /// Of which volume; of the node's own default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeName>,
    /// Which.
    pub id: Cid,
}

/// What is kept and durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Added {
    /// Its id.
    pub id: Cid,
    /// Its length in bytes.
    pub length: u64,
}

/// What is known of bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Their id.
    pub id: Cid,
    /// `file`, or of a git object `blob`, `tree`, `commit` or `tag`.
    pub kind: String,
    /// How many there are.
    pub length: u64,
    /// How many of them are on this node.
    pub length_here: u64,
    /// Pieces that a file is kept in; null for a git object.
    pub pieces: Option<u64>,
    /// How many of those are on this node.
    pub pieces_here: Option<u64>,
}
