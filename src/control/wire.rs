//! What goes over the control socket, and with it the JSON that commands print.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::failure::Failure;
use crate::base::id::VolumeName;
use crate::base::mount_options::MountOptions;
use crate::base::path::VolumePath;

mod copies;
mod gc;
mod objects;
mod past;

pub use copies::{FileAt, Holder, PinOf, Pinned, Stay, Tagged, TagsOf, Whereabouts};
pub use gc::{Gathered, Kept, Scrubbed};
pub use objects::{AddTo, Added, Object, ObjectOf};
pub use past::{
    Changed, Checkout, Conflict, Conflicts, ConflictsOf, DiffOf, Differing, Merge, Merges,
    MergesOf, PathOf, ResolveOf, RestoreOf, Side, Take, Version,
};

/// A request line: the protocol's version and what is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RequestLine {
    /// [`super::PROTOCOL_VERSION`] of the sender.
    pub v: u32,
    /// What is asked.
    #[serde(flatten)]
    pub request: Request,
}

/// An answer line: the protocol's version, and either a value or a failure.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AnswerLine {
    /// [`super::PROTOCOL_VERSION`] of the sender.
    pub v: u32,
    /// The answer, shaped by the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ok: Option<serde_json::Value>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

/// What a node can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Request {
    /// How it goes: [`Status`].
    Status,
    /// Mount another folder: [`super::readiness::Ready`].
    Attach(Attach),
    /// Unmount a folder.
    Detach {
        /// The folder.
        dir: PathBuf,
    },
    /// Make a ticket: its text.
    Invite(Invite),
    /// Make a git URL that carries a token: its text.
    Url(UrlOf),
    /// Who is in the cell or wants in: [`Member`]s.
    Members,
    /// Let a pending node in.
    Admit {
        /// The code that it shows.
        code: String,
    },
    /// Leave the cell.
    Leave {
        /// Also when nobody else has what is here.
        #[serde(default)]
        force: bool,
    },
    /// Put a node out of the cell.
    Forget {
        /// Its id, the start of it, or its name.
        node: String,
    },
    /// What happened: [`LogEntry`]s, newest first.
    Log(LogOf),
    /// Conflict copies: [`Conflicts`].
    Conflicts(ConflictsOf),
    /// Settle a conflict: [`Changed`].
    Resolve(ResolveOf),
    /// Versions of a conflict as files: [`Checkout`].
    Checkout(PathOf),
    /// What merges did: [`Merges`].
    Merges(MergesOf),
    /// Two states of a path as files: [`Differing`].
    Diff(DiffOf),
    /// Bring a path back: [`Changed`].
    Restore(RestoreOf),
    /// Keep bytes, which follow: [`Added`].
    Add(AddTo),
    /// Bytes by their id: how many, then they follow, then the end.
    Get(ObjectOf),
    /// What is known of bytes: [`Object`].
    Object(ObjectOf),
    /// Where large files are: [`Whereabouts`].
    Where(PathOf),
    /// Keep large files on the node, or not: [`Pinned`].
    Pin(PinOf),
    /// What nodes are for: [`Tagged`] of each.
    Tags(TagsOf),
    /// Make the repositories small: [`Gathered`] of each volume.
    Gc,
    /// Read all bytes of large files: [`Scrubbed`] of each volume.
    Scrub,
    /// Unmount all and end.
    Shutdown,
}

/// A folder to mount on a running node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// The folder, absolute.
    pub dir: PathBuf,
    /// What to show; the node's own default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeName>,
    /// Whether writes are refused, for a start.
    #[serde(default)]
    pub read_only: bool,
    /// What the kernel is to do differently.
    #[serde(default)]
    pub options: MountOptions,
}

/// A ticket to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invite {
    /// How many nodes may join with it.
    pub uses: u32,
    /// For how many seconds.
    pub expires_s: u64,
    /// Only the secret, for who is told the host in another way.
    #[serde(default)]
    pub only_token: bool,
}

/// A git URL to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UrlOf {
    /// Whose; the node's own default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeName>,
    /// Whether its token may push.
    #[serde(default)]
    pub write: bool,
    /// Host in it, perhaps with a port; the node's choice when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

/// A history to show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogOf {
    /// Whose; the node's own default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeName>,
    /// Only what happened to this path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<VolumePath>,
    /// At most so many entries.
    #[serde(default = "LogOf::default_limit")]
    pub limit: u32,
}

impl LogOf {
    /// Entries shown when nobody says how many.
    #[must_use]
    pub fn default_limit() -> u32 {
        50
    }
}

/// How a node is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The node's id.
    pub node: String,
    /// Its process.
    pub pid: u32,
    /// Version of cellfs that it runs.
    pub version: String,
    /// Its name, for people.
    pub name: String,
    /// Where it listens.
    pub listen: String,
    /// The cell's id.
    pub cell: String,
    /// The state directory.
    #[serde(default)]
    pub state: PathBuf,
    /// Clocks that are far off, and whatever else a person should know.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// The other members, as seen from here.
    #[serde(default)]
    pub peers: Vec<Peer>,
    /// Folders that show volumes.
    #[serde(default)]
    pub mounts: Vec<Mounted>,
    /// The volumes carried here.
    #[serde(default)]
    pub volumes: Vec<Volume>,
    /// Bytes of large files that come; absent when none did since the node started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer: Option<Transfer>,
}

/// Bytes of large files that come from other nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// Files of which something comes.
    pub files: u64,
    /// Files that wait for their turn.
    pub waiting: u64,
    /// Bytes that came since the node started.
    pub bytes_done: u64,
    /// Bytes that lack of the files of which something comes.
    pub bytes_left: u64,
    /// Bytes a second of late.
    pub rate: u64,
    /// Seconds until those are here at this rate; null when nothing comes.
    pub seconds_left: Option<u64>,
    /// From whom.
    pub from: Vec<Source>,
    /// Why files do not get on.
    pub stuck: Vec<String>,
}

/// A node that bytes of large files come from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Its id.
    pub node: String,
    /// Bytes that came from it since the node started.
    pub bytes_done: u64,
    /// Bytes a second of late.
    pub rate: u64,
}

/// Another member, as seen from a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its id.
    pub node: String,
    /// Its name.
    pub name: String,
    /// `connected`, `unreachable`, `left` and the like.
    pub state: String,
    /// Where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addr: Option<String>,
    /// Round trip, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_ms: Option<u64>,
}

/// A folder that shows a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mounted {
    /// The folder.
    pub dir: PathBuf,
    /// The volume's name.
    pub volume: String,
    /// Whether writes are refused.
    pub read_only: bool,
}

/// A volume, as carried by a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Commit that the mount shows; null while it is empty.
    pub view: Option<String>,
    /// What the view is derived from.
    pub heads: Vec<Head>,
    /// Inodes that are not yet in a commit.
    pub dirty: u64,
    /// Heads that were announced and whose objects are not all here.
    pub behind: u64,
    /// `ok`, or `poisoned: ` and why.
    pub journal: String,
    /// What is being fetched; absent when nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync: Option<SyncProgress>,
}

/// What a node last wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Who.
    pub node: String,
    /// On which branch.
    pub branch: String,
    /// The how-manieth of it.
    pub seq: u64,
    /// The record commit.
    pub id: String,
    /// The content commit.
    pub content: String,
}

/// How far a fetch is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncProgress {
    /// Objects here.
    pub objects_done: u64,
    /// Objects in all; 0 while unknown.
    pub objects_total: u64,
    /// Bytes received.
    pub bytes_done: u64,
    /// Id of the node they come from.
    #[serde(default)]
    pub from: String,
}

/// A node that is in the cell, was, or wants in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its id.
    pub node: String,
    /// Its name.
    pub name: String,
    /// `member`, `pending`, `left`, `forgotten`.
    pub state: String,
    /// What a pending node shows, to be compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addr: Option<String>,
    /// Since when, in seconds since 1970; 0 for a pending node.
    #[serde(default)]
    pub since: i64,
}

/// A commit, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// The content commit.
    pub id: String,
    /// When, in seconds since 1970.
    pub time: i64,
    /// Who.
    pub author: String,
    /// First line of its message; of one file's history, what happened to it.
    pub summary: String,
    /// Id of the node, in one file's history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// What happened, in one file's history: `created`, `edited`, `moved`, `mode`, `owner`,
    /// `time`, `deleted`, `restored`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub what: Vec<String>,
    /// Where the file was then, in one file's history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<VolumePath>,
    /// Where it was before, if it was moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<VolumePath>,
}
