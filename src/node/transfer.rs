//! Bytes of large files between nodes: the sockets, disk and clock around [`crate::swarm`].
//!
//! Who lacks bytes calls [`Transfers::fetch`] and waits, or has files kept ([`Transfers::keep`]),
//! which come in the background. Pieces of files that are kept go into their containers, others
//! into packs. A piece that changed comes as a splice ([`crate::chunk::splice`]) of those of the
//! version before, which is named with the file. What members ask for is served by [`Transfers::serve`], on the streams that carry
//! all else.
//!
//! Invariants: what others are told to be held here was flushed. A piece counts as here only after
//! the store took it, which hashes it. Memory is bounded: pieces under way by
//! [`crate::swarm::UNDER_WAY_BYTES_MAX`] and a little, pieces that are given by
//! [`crate::swarm::turns::SERVED_MAX`], what they are like by `SPLICERS` and `WRITERS`,
//! lists of pieces by `PIECES_MAX`, but for one file that has more alone.
//!
//! Tasks, on the node's runtime: one around the core, one for each piece that is under way or
//! given; the disk is read and written by blocking threads, at most `WRITERS` writing.

mod core;
mod entry;
mod give;
mod like;
mod take;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use self::entry::Entry;
use self::give::Given;
pub use self::give::read_request;
use crate::base::id::{NodeId, Oid, VolumeName};
use crate::chunk::ChunkId;
use crate::chunk::store::Chunks;
use crate::peers::Peers;
use crate::store::objects::Objects;
use crate::swarm::pieces::{Holding, Pieces};
use crate::swarm::{Failure, File};

/// Messages to the core that wait; senders wait for room.
const MESSAGES: usize = 1024;
/// Files that wait to be kept. What does not fit is left out until it is asked for again.
const KEEP_MAX: usize = 1 << 20;
/// Pieces of files that are worked on, and of the versions before them, together.
const PIECES_MAX: usize = 1 << 20;
/// Pieces that are written at a time.
const WRITERS: usize = 4;
/// Pieces that are compared at a time with what is like them.
const SPLICERS: usize = 2;
/// Who waits gets the core's answer, if it has one, rather than none.
const GRACE: Duration = Duration::from_millis(500);

/// Where files and bytes of volumes are.
pub trait Library: Send + Sync + 'static {
    /// The chunk store of a volume, if it is here and has one.
    fn chunks(&self, volume: &VolumeName) -> Option<Arc<Chunks>>;

    /// The git objects of a volume, which has manifests among them.
    fn objects(&self, volume: &VolumeName) -> Option<Arc<dyn Objects>>;

    /// All of a file is here, durable.
    fn is_whole(&self, volume: &VolumeName, head: &Oid) {
        let _counts_anyway = (volume, head);
    }

    /// Of a file that is here as a container, an older version need be none any more, if most of
    /// it is in the new one.
    fn replaces(&self, volume: &VolumeName, old: &Oid, new: &Oid) {
        let _all_stay = (volume, old, new);
    }

    /// Whether what is read of a file goes into a container, with which it can be removed.
    fn is_cached(&self, volume: &VolumeName, head: &Oid) -> bool {
        let _all_are_kept = (volume, head);
        false
    }
}

/// Bytes did not come in time, or nobody has them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bytes of a large file did not come: {0}")]
pub struct Lacking(pub String);

/// How far all is, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Files of which something comes.
    pub files: u64,
    /// Files that wait for their turn.
    pub waiting: u64,
    /// Bytes that came since the node started: of a piece that was told by others, those that
    /// were sent.
    pub bytes_done: u64,
    /// Bytes that lack of the files of which something comes.
    pub bytes_left: u64,
    /// Bytes of files a second of late.
    pub rate: u64,
    /// From whom: bytes since the start, and a second of late.
    pub from: Vec<(NodeId, u64, u64)>,
    /// Why files do not get on.
    pub stuck: Vec<String>,
    /// The files of which something comes.
    pub each: Vec<Coming>,
}

/// How far a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coming {
    /// Of which volume.
    pub volume: VolumeName,
    /// The head of its manifest.
    pub head: Oid,
    /// Bytes that lacked when it was begun.
    pub total: u64,
    /// Bytes that still lack.
    pub left: u64,
    /// Bytes a second of late.
    pub rate: u64,
    /// Why it does not get on, if so.
    pub stuck: Option<&'static str>,
}

impl Status {
    /// Seconds until what lacks is here at this rate.
    pub fn seconds_left(&self) -> Option<u64> {
        (self.rate > 0).then(|| self.bytes_left.div_ceil(self.rate))
    }
}

/// A file: the volume, and the head of its manifest.
type Name = (VolumeName, Oid);

/// What the core is told.
#[derive(Debug)]
enum Message {
    Keep(VolumeName, Vec<(Oid, Option<Oid>)>),
    Unkeep(VolumeName, Vec<Oid>),
    Fetch(Fetch),
    Loaded(Name, Option<(Arc<Entry>, Pieces)>),
    Held(NodeId, Vec<File>, Option<Vec<Holding>>),
    /// A piece came, by so many bytes, or did not.
    Piece(NodeId, File, u32, Result<u32, Failure>),
    /// A piece that a peer was to be asked for is here.
    Here(NodeId, File, u32),
    /// Whether all of a file is in its container, durable.
    Finished(File, bool),
    /// A version was made a container, or not.
    Ripened,
    Flushed(VolumeName, bool),
}

#[derive(Debug)]
struct Fetch {
    name: Name,
    range: Range<u64>,
    deadline: Instant,
    reply: SyncSender<Result<(), Lacking>>,
}

/// What of a volume's chunks is here and not durable.
#[derive(Debug, Default)]
struct Unflushed {
    ids: HashSet<ChunkId>,
    bytes: u64,
    since: Option<Instant>,
    /// What is being flushed now.
    flushing: Option<HashSet<ChunkId>>,
}

/// What tasks and threads share.
struct Shared {
    library: Arc<dyn Library>,
    peers: OnceLock<Arc<Peers>>,
    to_core: mpsc::Sender<Message>,
    unflushed: Mutex<BTreeMap<VolumeName, Unflushed>>,
    /// Peers that bytes came from since this was looked at.
    alive: Mutex<BTreeSet<NodeId>>,
    given: Given,
    writers: Semaphore,
    splicers: Semaphore,
    status: Mutex<Status>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Transfers {
    shared: Arc<Shared>,
}

/// What [`Transfers::run`] needs.
#[derive(Debug)]
pub struct Inbox(mpsc::Receiver<Message>);

impl Transfers {
    /// Nothing is asked or served before [`Transfers::run`].
    pub fn new(library: Arc<dyn Library>) -> (Self, Inbox) {
        let (to_core, from) = mpsc::channel(MESSAGES);
        let shared = Shared {
            library,
            peers: OnceLock::new(),
            to_core,
            unflushed: Mutex::default(),
            alive: Mutex::default(),
            given: Given::default(),
            writers: Semaphore::new(WRITERS),
            splicers: Semaphore::new(SPLICERS),
            status: Mutex::default(),
        };
        let shared = Arc::new(shared);
        (Self { shared }, Inbox(from))
    }

    /// Runs until it is stopped.
    pub async fn run(&self, peers: Arc<Peers>, inbox: Inbox, stop: CancellationToken) {
        if self.shared.peers.set(peers).is_err() {
            tracing::error!("transfers were started twice");
            return;
        }
        tokio::select! {
            () = core::run(self.shared.clone(), inbox.0) => {}
            () = stop.cancelled() => {}
        }
        // What came since the last flush is not to come again.
        let shared = self.shared.clone();
        let work = tokio::task::spawn_blocking(move || {
            let volumes: Vec<VolumeName> = lock(&shared.unflushed).keys().cloned().collect();
            volumes.iter().all(|v| shared.flush(v))
        });
        if !matches!(work.await, Ok(true)) {
            tracing::warn!("some of what came last may have to come again");
        }
    }

    /// Blocks until these bytes of the file whose manifest has this head are in the chunk store,
    /// or the deadline. Not for threads of the runtime.
    ///
    /// # Errors
    /// When they did not come, and why if that is known.
    pub fn fetch(
        &self,
        volume: &VolumeName,
        head: Oid,
        range: Range<u64>,
        deadline: Instant,
    ) -> Result<(), Lacking> {
        let (reply, answer) = sync_channel(1);
        let fetch = Fetch {
            name: (volume.clone(), head),
            range,
            deadline,
            reply,
        };
        let ending = || Lacking("the node is ending".to_owned());
        let sent = self.shared.to_core.blocking_send(Message::Fetch(fetch));
        sent.map_err(|_| ending())?;
        let left = deadline.saturating_duration_since(Instant::now());
        match answer.recv_timeout(left + GRACE) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => Err(Lacking("they took too long".to_owned())),
            Err(RecvTimeoutError::Disconnected) => Err(ending()),
        }
    }

    /// From now on all of these files is to be here. Beside each, the head of the version before
    /// it if there is one: what of that is here need not come again, also if a piece has changed.
    /// Blocks while the core has much to do; not for threads of the runtime.
    pub fn keep(&self, volume: &VolumeName, heads: Vec<(Oid, Option<Oid>)>) {
        let m = Message::Keep(volume.clone(), heads);
        if self.shared.to_core.blocking_send(m).is_err() {
            tracing::debug!("files to keep after the end");
        }
    }

    /// These files need not be here any more. What is here stays.
    pub fn unkeep(&self, volume: &VolumeName, heads: Vec<Oid>) {
        let m = Message::Unkeep(volume.clone(), heads);
        if self.shared.to_core.blocking_send(m).is_err() {
            tracing::debug!("files not to keep after the end");
        }
    }

    /// How far all is.
    pub fn status(&self) -> Status {
        lock(&self.shared.status).clone()
    }
}

impl Shared {
    async fn tell(&self, m: Message) {
        if self.to_core.send(m).await.is_err() {
            tracing::debug!("a transfer after the end");
        }
    }

    /// Takes note of a chunk that comes into the store: it is not told to others until a flush.
    fn comes(&self, volume: &VolumeName, id: ChunkId, len: u32) {
        let mut all = lock(&self.unflushed);
        let u = all.entry(volume.clone()).or_default();
        u.ids.insert(id);
        u.bytes += u64::from(len);
        u.since.get_or_insert_with(Instant::now);
    }

    /// Flushes a volume's chunks. Blocking. Says whether all that came before is durable.
    fn flush(&self, volume: &VolumeName) -> bool {
        let Some(chunks) = self.library.chunks(volume) else {
            return false;
        };
        match chunks.flush() {
            Ok(()) => true,
            Err(e) => {
                tracing::warn!(%volume, error = %e, "chunks that came are not durable");
                false
            }
        }
    }
}
