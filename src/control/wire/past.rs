//! What commands ask of the past and of conflicts, and the JSON that they print.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::base::id::VolumeName;
use crate::base::path::VolumePath;

/// A path in a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathOf {
    /// The volume; the node's own default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeName>,
    /// The path.
    pub path: VolumePath,
}

/// Which conflicts to list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictsOf {
    /// The volume; the node's own default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeName>,
    /// Only those at or below this path.
    #[serde(default)]
    pub below: VolumePath,
    /// So many are known already.
    #[serde(default)]
    pub skip: u64,
}

/// Some of the conflicts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflicts {
    /// By path.
    pub conflicts: Vec<Conflict>,
    /// How many there are in all.
    pub total: u64,
}

/// A name that several versions claim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// Its path.
    pub path: VolumePath,
    /// The version that has it; null when someone took the name away.
    pub main: Option<Version>,
    /// The others, as copies beside it.
    pub copies: Vec<Version>,
}

/// One version of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Where its bytes are.
    pub path: VolumePath,
    /// `file`, `link` or `directory`.
    pub kind: String,
    /// Id of the node that wrote it; empty if that is not known.
    pub node: String,
    /// That node's name; empty if that is not known.
    pub name: String,
    /// When it was written, in seconds since 1970.
    pub time: i64,
    /// Bytes.
    pub size: u64,
}

/// A conflict to settle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolveOf {
    /// Where.
    #[serde(flatten)]
    pub of: PathOf,
    /// What to take.
    pub take: Take,
}

/// Which version a conflict is settled with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Take {
    /// The one that has the name.
    Main,
    /// The copy of this name, in the same directory.
    Copy(VolumePath),
    /// The one that this node wrote: its name, or the start of its id.
    Node(String),
    /// What a person made of the versions that [`Checkout`] named.
    Edited {
        /// A file that the node made.
        file: PathBuf,
        /// [`Checkout::seen`].
        seen: String,
    },
}

/// Versions of a conflict as files, to be edited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkout {
    /// What there is.
    pub conflict: Conflict,
    /// A directory that the caller removes.
    pub dir: PathBuf,
    /// In it, a file for each version: that of the name, if there is one, then the copies.
    pub files: Vec<PathBuf>,
    /// In it, an empty file for the result.
    pub result: PathBuf,
    /// Tells these versions from others.
    pub seen: String,
}

/// A path to bring back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreOf {
    /// Where.
    #[serde(flatten)]
    pub of: PathOf,
    /// As of when: a time, a commit, a branch or a tag.
    pub at: String,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// The path.
    pub path: VolumePath,
    /// The content commit that it is in; null if nothing was to be done.
    pub commit: Option<String>,
    /// Files, links and directories that came back.
    pub made: u64,
    /// Those that were there and became what they had been.
    pub changed: u64,
    /// Those that ended.
    pub removed: u64,
}

/// Merges to list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MergesOf {
    /// The volume; the node's own default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeName>,
    /// At most so many.
    pub limit: u32,
}

/// What merges did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merges {
    /// The latest first.
    pub merges: Vec<Merge>,
    /// Whether all of history was looked at, or as many were found as asked for.
    pub complete: bool,
}

/// What a merge made of two changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merge {
    /// `text`: edits of one file are both in it. `directory`: directories of one name are one.
    /// `copy`: one version has the name, others are conflict copies.
    pub what: String,
    /// Where.
    pub path: VolumePath,
    /// When the later of the changes was made, in seconds since 1970.
    pub time: i64,
    /// The changes.
    pub sides: Vec<Side>,
}

/// One of the changes that came together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// Id of the node that made it.
    pub node: String,
    /// Its name; empty if that is not known.
    pub name: String,
    /// When, in seconds since 1970.
    pub time: i64,
    /// The commit at which the path shows this side alone.
    pub commit: String,
    /// The command that brings this side back.
    pub undo: String,
}

/// Two states of a path to compare.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffOf {
    /// Where.
    #[serde(flatten)]
    pub of: PathOf,
    /// The one: a time, a commit, a branch or a tag.
    pub a: String,
    /// The other.
    pub b: String,
}

/// Two states of a path as files, to be compared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Differing {
    /// A directory that the caller removes; below it, `a/PATH` and `b/PATH`.
    pub dir: PathBuf,
    /// Files that differ. One that is on one side only is not on the other.
    pub paths: Vec<VolumePath>,
}
