//! What a node answers: implemented by the daemon, called by the control server.

use std::path::PathBuf;

use async_trait::async_trait;

use super::failure::Answer;
use super::flow::Flow;
use super::readiness::Ready;
use super::wire::{
    AddTo, Added, Attach, Changed, Checkout, Conflicts, ConflictsOf, DiffOf, Differing, Gathered,
    Invite, LogEntry, LogOf, Member, Merges, MergesOf, Object, ObjectOf, PathOf, PinOf, Pinned,
    ResolveOf, RestoreOf, Scrubbed, Status, Tagged, TagsOf, UrlOf, Whereabouts,
};

/// The daemon as commands see it. Calls may come at once from several connections.
#[async_trait]
pub trait Node: Send + Sync + 'static {
    /// How it goes. Answers at once, whatever the node is doing.
    async fn status(&self) -> Answer<Status>;
    /// Mounts another folder; answers when the folder does.
    async fn attach(&self, what: Attach) -> Answer<Ready>;
    /// Unmounts a folder; answers when it is gone.
    async fn detach(&self, dir: PathBuf) -> Answer<()>;
    /// Makes a ticket, on one line; or its token alone.
    async fn invite(&self, what: Invite) -> Answer<String>;
    /// Makes a git URL with a token in it.
    async fn url(&self, what: UrlOf) -> Answer<String>;
    /// Lists members and those who want to be.
    async fn members(&self) -> Answer<Vec<Member>>;
    /// Lets the pending node in that shows this code, and names it.
    async fn admit(&self, code: String) -> Answer<Member>;
    /// Leaves the cell when others have what is here, or by force: tells them and ends the
    /// membership here.
    async fn leave(&self, force: bool) -> Answer<()>;
    /// Puts a node out of the cell, and names it.
    async fn forget(&self, node: String) -> Answer<Member>;
    /// Lists commits, newest first.
    async fn log(&self, what: LogOf) -> Answer<Vec<LogEntry>>;
    /// Lists conflict copies.
    async fn conflicts(&self, what: ConflictsOf) -> Answer<Conflicts>;
    /// Settles a conflict.
    async fn resolve(&self, what: ResolveOf) -> Answer<Changed>;
    /// Writes the versions of a conflict to files.
    async fn checkout(&self, what: PathOf) -> Answer<Checkout>;
    /// Lists what merges did, the latest first.
    async fn merges(&self, what: MergesOf) -> Answer<Merges>;
    /// Writes two states of a path to files, as far as they differ.
    async fn diff(&self, what: DiffOf) -> Answer<Differing>;
    /// Brings a path back as it was.
    async fn restore(&self, what: RestoreOf) -> Answer<Changed>;
    /// Keeps bytes, and answers when they are durable.
    async fn add(&self, what: AddTo, bytes: &mut dyn Flow) -> Answer<Added>;
    /// Finds bytes: how many there are, and they.
    async fn get(&self, what: ObjectOf) -> Answer<(u64, Box<dyn Flow>)>;
    /// Tells what is known of bytes.
    async fn object(&self, what: ObjectOf) -> Answer<Object>;
    /// Tells which large files are at a path, and who has them.
    async fn whereabouts(&self, what: PathOf) -> Answer<Whereabouts>;
    /// Says of a path whether its large files are kept here; of what is not, lets go.
    async fn pin(&self, what: PinOf) -> Answer<Pinned>;
    /// Gives the node tags, and tells those of all members.
    async fn tags(&self, what: TagsOf) -> Answer<Vec<Tagged>>;
    /// Makes the repositories of all volumes small; answers when it is done.
    async fn gc(&self) -> Answer<Vec<Gathered>>;
    /// Reads all bytes of large files; what is damaged is brought again.
    async fn scrub(&self) -> Answer<Vec<Scrubbed>>;
    /// Begins to drain and end; answers before it has.
    async fn shutdown(&self) -> Answer<()>;
}
