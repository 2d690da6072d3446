//! The daemon: the one place where all rooms meet.
//!
//! Wires volumes to peers, git, HTTP, control and mounts; owns start, supervision and the
//! order of the end: mounts detached, journals flushed into commits, peers told. Invariant: an
//! announcement leaves only after its commit is durable here. Threads: one tokio runtime for
//! sockets and child processes, one thread per volume, the kernel adapter's workers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::base::id::{NodeId, VolumeName};
use crate::config::Options;
use crate::control::failure::{Answer, Failure};
use crate::doors::git::repo;
use crate::fuse::Mount;
use crate::history::History;
use crate::peers::{NodeKey, Peers};
use crate::replicator::HeadNotice;
use crate::volume::view::HeadInfo;
use crate::volume::{Identity, Outlet, Volume};

mod address;
mod answers;
mod copies;
mod fetching;
mod git_host;
mod history;
mod keep;
mod leave;
mod lfs_host;
mod mounts;
mod objects;
mod replicate;
mod serve;
mod shelf;
mod start;
mod tokens;
pub mod transfer;
mod whereabouts;

pub use start::run;

/// Volumes that one node carries at most: a peer cannot make it fill its disk with empty ones.
const VOLUMES_MAX: usize = 1024;

/// Files with more bytes than this are cut into pieces, which come one by one.
const LARGE_ABOVE: u64 = 4 << 20;

/// The running node.
pub(crate) struct NodeInner {
    options: Options,
    key: NodeKey,
    peers: OnceLock<Arc<Peers>>,
    volumes: RwLock<BTreeMap<VolumeName, Arc<Volume>>>,
    /// Held while a volume is opened, so that it is opened once.
    opening: Mutex<()>,
    mounts: Mutex<Vec<Mount>>,
    next_mount: AtomicU64,
    core: mpsc::Sender<replicate::Message>,
    tokens: tokens::Tokens,
    behind: Mutex<BTreeMap<VolumeName, usize>>,
    /// What is being fetched.
    fetches: Mutex<BTreeMap<VolumeName, Arc<fetching::Fetching>>>,
    /// Bytes of large files that come and go.
    transfers: transfer::Transfers,
    /// Volumes whose large files are to be looked at.
    looks: keep::Looks,
    /// Which of those are wanted here.
    desks: keep::desk::Desks,
    /// What this node is for.
    tags: keep::tags::Tags,
    /// Some file is not wanted any more.
    tidying: tokio::sync::Notify,
    /// What is promised to others, and who lets go here.
    copies: copies::Promises,
    skews: Mutex<BTreeMap<NodeId, i64>>,
    /// Large files that came by git-lfs, of the volumes where somebody asked for some.
    shelves: Mutex<BTreeMap<VolumeName, Arc<shelf::Shelf>>>,
    /// What is kept in mind of volumes' pasts.
    histories: Mutex<BTreeMap<VolumeName, History>>,
    /// This node is about to leave the cell: nothing new is taken in.
    leaving: AtomicBool,
    stop: CancellationToken,
    me: std::sync::Weak<Self>,
}

impl std::fmt::Debug for NodeInner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeInner").finish_non_exhaustive()
    }
}

/// Tells the replicator what a volume committed.
struct ToCore {
    core: mpsc::Sender<replicate::Message>,
}

impl Outlet for ToCore {
    fn committed(&self, volume: &VolumeName, head: &HeadInfo, pack: Option<Vec<u8>>) {
        let m = replicate::Message::Committed(volume.clone(), head.clone(), pack);
        if self.core.blocking_send(m).is_err() {
            tracing::debug!("a commit after the end of the replicator");
        }
    }
}

impl NodeInner {
    fn state(&self) -> &Path {
        &self.options.state
    }

    fn volumes_dir(&self) -> PathBuf {
        self.options.state.join("volumes")
    }

    fn id(&self) -> NodeId {
        self.key.node()
    }

    fn peers(&self) -> Option<&Arc<Peers>> {
        self.peers.get()
    }

    /// A volume that is carried here.
    fn volume(&self, name: &VolumeName) -> Option<Arc<Volume>> {
        let v = self.volumes.read().unwrap_or_else(PoisonError::into_inner);
        v.get(name).cloned()
    }

    fn all_volumes(&self) -> Vec<Arc<Volume>> {
        let v = self.volumes.read().unwrap_or_else(PoisonError::into_inner);
        v.values().cloned().collect()
    }

    /// What is being fetched, by volume.
    fn fetches(&self) -> MutexGuard<'_, BTreeMap<VolumeName, Arc<fetching::Fetching>>> {
        self.fetches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a volume, made if need be. Blocking.
    fn open_volume(&self, name: &VolumeName) -> Answer<Arc<Volume>> {
        let _one = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(v) = self.volume(name) {
            return Ok(v);
        }
        if self.all_volumes().len() >= VOLUMES_MAX {
            return Err(Failure::failed(format!(
                "this node carries {VOLUMES_MAX} volumes already, the most it may"
            )));
        }
        let who = Identity {
            node: self.id(),
            name: self.options.name.clone(),
        };
        let outlet = Arc::new(ToCore {
            core: self.core.clone(),
        });
        let dir = self.volumes_dir().join(name.as_str());
        repo::sweep(&dir.join("git")).map_err(Failure::failed)?;
        let v = Volume::open_with(&dir, name.clone(), who, outlet, LARGE_ABOVE)
            .map_err(|e| Failure::failed(format!("volume {name} cannot be opened: {e}")))?;
        v.set_supply(Arc::new(keep::FromPeers {
            node: self.me.clone(),
            volume: name.clone(),
            transfers: self.transfers.clone(),
        }));
        let exe = std::env::current_exe().map_err(Failure::failed)?;
        repo::configure(v.repo().path(), &exe).map_err(Failure::failed)?;
        let mut all = self.volumes.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(name.clone(), v.clone());
        drop(all);
        self.looks.ask(name);
        let notices = self.load_notices(name);
        let m = replicate::Message::Opened(name.clone(), notices);
        if self.core.blocking_send(m).is_err() {
            tracing::debug!("a volume after the end of the replicator");
        }
        Ok(v)
    }

    /// The large files of a volume, opened if need be. Blocking.
    fn shelf(&self, volume: &Arc<Volume>) -> Result<Arc<shelf::Shelf>, shelf::ShelfError> {
        let mut all = self.shelves.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(s) = all.get(volume.name()) {
            return Ok(s.clone());
        }
        let s = Arc::new(shelf::Shelf::open(volume.clone())?);
        all.insert(volume.name().clone(), s.clone());
        Ok(s)
    }

    fn notices_path(&self, name: &VolumeName) -> PathBuf {
        self.volumes_dir().join(name.as_str()).join("notices")
    }

    /// The signed heads that were known when the node last ran, so that it can pass them on
    /// while their authors are away.
    fn load_notices(&self, name: &VolumeName) -> Vec<HeadNotice> {
        let bytes = std::fs::read(self.notices_path(name)).unwrap_or_default();
        postcard::from_bytes(&bytes).unwrap_or_default()
    }

    /// Not synced: a lost notice is heard again, or its head covered (`replicator::cover`).
    fn save_notices(&self, name: &VolumeName, heads: &Vec<HeadNotice>) {
        let saved = postcard::to_stdvec(heads)
            .map_err(std::io::Error::other)
            .and_then(|b| {
                let path = self.notices_path(name);
                let tmp = path.with_extension("new");
                std::fs::write(&tmp, b)?;
                std::fs::rename(tmp, path)
            });
        if let Err(e) = saved {
            tracing::warn!(volume = %name, error = %e, "known heads were not saved");
        }
    }

    /// Runs blocking work off the async threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Answer<T> + Send + 'static,
    ) -> Answer<T> {
        let me = self
            .me
            .upgrade()
            .ok_or_else(|| Failure::failed("the node is ending"))?;
        tokio::task::spawn_blocking(move || work(&me))
            .await
            .map_err(|e| Failure::bug(format!("a task died: {e}")))?
    }

    fn mount_number(&self) -> u64 {
        self.next_mount.fetch_add(1, Ordering::Relaxed)
    }
}
