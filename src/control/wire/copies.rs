//! Where the bytes of large files are, and where they are to be.

use serde::{Deserialize, Serialize};

use crate::base::cid::Cid;
use crate::base::id::VolumeName;
use crate::base::path::VolumePath;

/// What is said of a path on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinOf {
    /// The volume; the node's own default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeName>,
    /// A file or a directory.
    pub path: VolumePath,
    /// Whether the bytes of large files there are kept on the node; nothing is said any more when
    /// absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<bool>,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinned {
    /// Large files at the path or below it.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of those, bytes that are on the node.
    pub bytes_here: u64,
    /// Files that are not to be kept and stay for now, and why; the first of them.
    pub stays: Vec<Stay>,
    /// How many more there are.
    pub stays_more: u64,
}

/// A file that stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stay {
    /// Which.
    pub path: VolumePath,
    /// Why.
    pub why: String,
}

/// Large files, and who has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whereabouts {
    /// The files, by path; the first of them.
    pub files: Vec<FileAt>,
    /// How many more there are.
    pub more: u64,
    /// Members that could not be asked, by name.
    pub silent: Vec<String>,
}

/// A large file, and who has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileAt {
    /// Where it is in the volume.
    pub path: VolumePath,
    /// Its id.
    pub id: Cid,
    /// Its length in bytes.
    pub length: u64,
    /// Whether it is to be kept on this node.
    pub kept: bool,
    /// Why it is or is not.
    pub because: String,
    /// Why it is not all here and does not come, or how it comes; null if all of it is here.
    pub coming: Option<String>,
    /// Who has some of it, this node first.
    pub nodes: Vec<Holder>,
}

/// A node that has some of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its id.
    pub node: String,
    /// Its name.
    pub name: String,
    /// Bytes that it has.
    pub bytes: u64,
    /// Whether it keeps them: else they may go at any time.
    pub keeps: bool,
}

/// Tags to be given to a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagsOf {
    /// Its tags from now on; as they are when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<Vec<String>>,
}

/// A node's tags.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tagged {
    /// Its id.
    pub node: String,
    /// Its name.
    pub name: String,
    /// Whether it is this one.
    pub us: bool,
    /// Which large files it keeps: `all`, `pinned` or `tagged`; empty while unknown.
    pub keeps: String,
    /// Its tags.
    pub tags: Vec<String>,
}
