//! One volume on one node: its repository, its journal, the table behind its mounts, and the
//! thread that commits, merges and moves the view.
//!
//! Invariants: only the volume's own thread changes the view, by one swap under the lock.
//! Objects are durable before a head record, a head record before an announcement. The lock is
//! never held during an fsync, a network wait or a kernel notice. Threads: one per volume, plus
//! the callers' own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::thread::JoinHandle;

use crate::base::durable;
use crate::base::id::{NodeId, Oid, VolumeName};
use crate::base::name::EntryName;
use crate::journal::{Entry, Journal, Patch};
use crate::record::Source;
use crate::record::cache::Cache;
use crate::record::change::Change;
use crate::store::objects::{Object, Objects};
use crate::store::pack;
use crate::store::repo::Repo;

mod amend;
mod away;
pub mod blobs;
pub mod chain;
mod commit;
mod contain;
pub mod derive;
mod direct;
mod dots;
pub mod error;
pub mod evict;
mod git;
pub mod inode;
pub mod large;
pub mod live;
mod names;
pub mod place;
pub mod recover;
mod room;
mod root;
pub mod spill;
mod threshold;
pub mod view;
mod worker;

use chain::{Desk, Disk, Numbers};
use error::VolumeError;
use live::{Context, Live, Stale};
use view::{HeadInfo, View};

pub use amend::Amendment;
pub use git::{RefUpdate, RefVerdict};

/// Result of an operation on a volume.
pub type VolumeResult<T> = Result<T, VolumeError>;

/// Which mount of a volume.
pub type MountId = u64;

/// Messages to the worker that may wait. Senders of wake-ups never block: one waiting wake-up
/// is as good as many, so there is one. Senders of requests wait for room.
const WORK_QUEUE: usize = 256;

/// Tells the kernel of one mount that it holds outdated names or attributes. Called by a
/// thread that holds no lock.
pub trait Invalidate: Send + Sync {
    /// Forget these.
    fn invalidate(&self, stale: &[Stale]);

    /// Returns when the kernel has forgotten what it was told to, or soon in any case. Not for
    /// threads that serve the kernel or hold a lock.
    fn settled(&self) {}
}

/// What a volume tells the node that carries it.
pub trait Outlet: Send + Sync {
    /// A commit of ours is durable: announce it. `pack` holds what it adds to its parents, if
    /// that is little.
    fn committed(&self, volume: &VolumeName, head: &HeadInfo, pack: Option<Vec<u8>>);
}

/// Who we are, for a volume.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The node's key.
    pub node: NodeId,
    /// The node's name, for authors of commits.
    pub name: String,
}

impl Identity {
    /// The address that goes with the name.
    #[must_use]
    pub fn email(&self) -> String {
        format!("{}@cellfs", self.node.short())
    }
}

enum Work {
    Wake,
    Heads(Vec<Oid>, SyncSender<VolumeResult<()>>),
    Cover(Vec<Oid>, SyncSender<VolumeResult<()>>),
    HandOut(SyncSender<VolumeResult<Option<Oid>>>),
    Push(
        Vec<RefUpdate>,
        bool,
        SyncSender<VolumeResult<Vec<RefVerdict>>>,
    ),
    Run(amend::Job),
    Flush(SyncSender<VolumeResult<()>>),
    Stop(SyncSender<VolumeResult<()>>),
}

/// See the module.
pub struct Volume {
    name: VolumeName,
    dir: PathBuf,
    who: Identity,
    repo: Arc<Repo>,
    cache: Cache,
    journal: Journal,
    live: Mutex<Live>,
    work: SyncSender<Work>,
    /// A wake-up waits for the worker.
    woken: AtomicBool,
    /// It sleeps on.
    #[cfg(test)]
    still: AtomicBool,
    notices: RwLock<BTreeMap<MountId, Arc<dyn Invalidate>>>,
    outlet: Arc<dyn Outlet>,
    blobs: blobs::Blobs,
    large: large::Large,
    away: away::Away,
    /// Held to write while bytes of large files go, to read while some are put that are in no
    /// commit yet.
    letting: RwLock<()>,
    git: git::GitSide,
    spills: AtomicU64,
    worker: Mutex<Option<JoinHandle<()>>>,
    trouble: Mutex<Option<String>>,
    damage: OnceLock<String>,
    /// What is recovered when there is room; see [`room`].
    left: Mutex<Option<room::Waits>>,
    waits: AtomicBool,
}

impl std::fmt::Debug for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Volume")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Volume {
    /// Opens or creates the volume kept in `dir`, recovers what a crash left, and starts its
    /// thread.
    ///
    /// # Errors
    /// As the file system, the store and the journal.
    pub fn open(
        dir: &Path,
        name: VolumeName,
        who: Identity,
        outlet: Arc<dyn Outlet>,
    ) -> VolumeResult<Arc<Self>> {
        Self::open_with(dir, name, who, outlet, large::NEVER)
    }

    /// The same, whose files with more bytes than `large_above` are cut into chunks.
    ///
    /// # Errors
    /// As [`Volume::open`].
    pub fn open_with(
        dir: &Path,
        name: VolumeName,
        who: Identity,
        outlet: Arc<dyn Outlet>,
        large_above: u64,
    ) -> VolumeResult<Arc<Self>> {
        durable::dirs(dir)?;
        durable::dirs(&dir.join("overlay"))?;
        let repo = Arc::new(Repo::create(&dir.join("git"))?);
        let (journal, found) = Journal::open(&dir.join("journal"))?;
        let (work, inbox) = sync_channel(WORK_QUEUE);
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|e| std::io::Error::other(e.to_string()))?;
        let numbers = Numbers::begin(u64::from_le_bytes(random));
        let below: Arc<dyn Objects> = repo.clone();
        let cache = Cache::default();
        let view = derive::derive(below, &cache, Vec::new())?;
        let volume = Arc::new(Self {
            name,
            blobs: blobs::Blobs::new(&dir.join("cache"))?,
            large: large::Large::new(large_above),
            away: away::Away::open(dir.join("away"))?,
            letting: RwLock::default(),
            dir: dir.to_owned(),
            who,
            repo,
            cache,
            journal,
            live: Mutex::new(Live::new(view, numbers, 1 << 63)),
            work,
            woken: AtomicBool::new(false),
            #[cfg(test)]
            still: AtomicBool::new(false),
            notices: RwLock::default(),
            outlet,
            git: git::GitSide::default(),
            spills: AtomicU64::new(1),
            worker: Mutex::default(),
            trouble: Mutex::default(),
            damage: OnceLock::new(),
            left: Mutex::default(),
            waits: AtomicBool::new(false),
        });
        recover::recover(&volume, found)?;
        volume.start(inbox)?;
        Ok(volume)
    }

    fn start(self: &Arc<Self>, inbox: Receiver<Work>) -> VolumeResult<()> {
        let me = Arc::clone(self);
        let handle = std::thread::Builder::new()
            .name(format!("vol-{}", self.name))
            .spawn(move || worker::run(&me, &inbox))?;
        *self.worker.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle);
        Ok(())
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &VolumeName {
        &self.name
    }

    /// Where it is kept.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its repository.
    #[must_use]
    pub fn repo(&self) -> &Arc<Repo> {
        &self.repo
    }

    /// Decoded records of its states.
    #[must_use]
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Its journal.
    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The node that carries it.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.who.node
    }

    pub(crate) fn who(&self) -> &Identity {
        &self.who
    }

    /// What commits of this volume are made with.
    pub(crate) fn desk(&self) -> Desk<'_> {
        Desk {
            objects: self.repo.clone(),
            cache: &self.cache,
            who: &self.who,
            disk: self,
        }
    }

    /// The table. A thread that died with the lock left at worst a name that is out of date.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn cx(&self) -> Context<'_> {
        Context {
            repo: &self.repo,
            cache: &self.cache,
        }
    }

    pub(crate) fn source<'a>(&'a self, view: &'a View) -> Source<'a> {
        Source::new(&*view.stage, &self.cache)
    }

    pub(crate) fn source_of<'a>(&'a self, objs: &'a dyn Objects) -> Source<'a> {
        Source::new(objs, &self.cache)
    }

    /// Appends an entry and notes its metadata changes for the next commit.
    pub(crate) fn log(&self, live: &mut Live, patches: Vec<Patch>) -> VolumeResult<u64> {
        let changes: Vec<_> = patches
            .iter()
            .filter_map(|p| match p {
                Patch::Meta(c) => Some(c.clone()),
                _ => None,
            })
            .collect();
        self.hold_named(live, &changes)?;
        let mut patches = patches;
        patches.extend(Self::unbind_ended(live, &changes));
        let n = self.journal.append(&Entry::Op(patches))?;
        live.note(n, changes);
        Ok(n)
    }

    /// Bytes that a change names and only the view derives go to the journal before it: the view
    /// that the change goes into may be one that derives others.
    fn hold_named(&self, live: &Live, changes: &[Change]) -> VolumeResult<()> {
        let mut objects = Vec::new();
        for blob in changes.iter().filter_map(Change::blob) {
            if let Some(o) = live.view.stage.staged(&blob)
                && !self.repo.has(&blob)?
            {
                objects.push((blob, o));
            }
        }
        if objects.is_empty() {
            return Ok(());
        }
        let pack = pack::encode(&objects)?;
        Disk::hold(self, pack, objects)
    }

    /// Something waits for a commit.
    pub(crate) fn wake(&self) {
        if self.woken.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Err(e) = self.work.try_send(Work::Wake) {
            self.woken.store(false, Ordering::Release);
            if matches!(e, TrySendError::Disconnected(_)) {
                tracing::debug!("wake-up after the end");
            }
        }
    }

    fn ask<T>(&self, make: impl FnOnce(SyncSender<VolumeResult<T>>) -> Work) -> VolumeResult<T> {
        let (tx, rx) = sync_channel(1);
        self.work.send(make(tx)).map_err(|_| VolumeError::Stopped)?;
        rx.recv().map_err(|_| VolumeError::Stopped)?
    }

    /// Takes in heads whose closure is durable here, and returns when the view shows them.
    ///
    /// # Errors
    /// As the store; nothing is changed then.
    pub fn admit(&self, heads: Vec<Oid>) -> VolumeResult<()> {
        self.ask(|tx| Work::Heads(heads, tx))
    }

    /// If any of these is a head of the view, makes a commit without changes on top, a head of
    /// this node's own.
    ///
    /// # Errors
    /// As the store and the journal.
    pub fn cover(&self, heads: Vec<Oid>) -> VolumeResult<()> {
        self.ask(|tx| Work::Cover(heads, tx))
    }

    /// Fixes the view as a commit for git clients and points `refs/heads/main` at it.
    ///
    /// # Errors
    /// As the store.
    pub fn hand_out(&self) -> VolumeResult<Option<Oid>> {
        self.ask(Work::HandOut)
    }

    /// Applies what a git client pushed; its objects are in the repository, durable. When
    /// `atomic`, all updates are accepted or none.
    ///
    /// # Errors
    /// As the store; a single ref's refusal is its verdict.
    pub fn push(&self, updates: Vec<RefUpdate>, atomic: bool) -> VolumeResult<Vec<RefVerdict>> {
        self.repo.refresh();
        self.ask(|tx| Work::Push(updates, atomic, tx))
    }

    /// Returns when all that was written so far is in a commit.
    ///
    /// # Errors
    /// As the store and the journal.
    pub fn flush_all(&self) -> VolumeResult<()> {
        self.ask(Work::Flush)
    }

    /// Commits what is left and ends the thread.
    ///
    /// # Errors
    /// As [`Volume::flush_all`]; the journal still holds what could not be committed.
    pub fn stop(&self) -> VolumeResult<()> {
        let done = self.ask(Work::Stop);
        let handle = self
            .worker
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(h) = handle
            && h.join().is_err()
        {
            tracing::error!(volume = %self.name, "the volume's thread died");
        }
        done
    }

    /// What is shown now.
    #[must_use]
    pub fn view(&self) -> View {
        self.lock().view.clone()
    }

    /// Number of files that are not in a commit yet.
    #[must_use]
    pub fn dirty(&self) -> usize {
        self.lock().dirty_count()
    }

    /// Why commits fail at the moment, if they do; what was written is in the journal.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let t = self.trouble.lock();
        t.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the disk did to the journal, as this run found it.
    #[must_use]
    pub fn damage(&self) -> Option<&str> {
        self.damage.get().map(String::as_str)
    }

    fn set_damage(&self, what: String) {
        self.damage.get_or_init(|| what);
    }

    fn set_trouble(&self, why: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// A mount wants to be told of changes.
    pub fn watch(&self, mount: MountId, to: Arc<dyn Invalidate>) {
        let mut n = self.notices.write().unwrap_or_else(PoisonError::into_inner);
        n.insert(mount, to);
    }

    /// A mount ended.
    pub fn unwatch(&self, mount: MountId) {
        let mut n = self.notices.write().unwrap_or_else(PoisonError::into_inner);
        n.remove(&mount);
    }

    /// Tells all mounts but one.
    pub(crate) fn tell(&self, but: Option<MountId>, stale: Vec<Stale>) {
        let to: Vec<Arc<dyn Invalidate>> = {
            let n = self.notices.read().unwrap_or_else(PoisonError::into_inner);
            n.iter()
                .filter(|(id, _)| Some(**id) != but)
                .map(|(_, t)| t.clone())
                .collect()
        };
        for t in to {
            t.invalidate(&stale);
        }
    }

    /// Returns when all mounts show what the view shows; see [`Invalidate::settled`].
    fn shown(&self) {
        let to: Vec<Arc<dyn Invalidate>> = {
            let n = self.notices.read().unwrap_or_else(PoisonError::into_inner);
            n.values().cloned().collect()
        };
        for t in to {
            t.settled();
        }
    }

    fn overlay_dir(&self) -> PathBuf {
        self.dir.join("overlay")
    }

    fn next_spill(&self) -> u64 {
        self.spills.fetch_add(1, Ordering::Relaxed)
    }

    /// The path of an inode from the root, for messages; what has no name is `?`.
    #[must_use]
    pub fn path_of(live: &Live, ino: inode::Ino) -> Vec<EntryName> {
        let mut out = Vec::new();
        let mut at = ino;
        while let Some((dir, name)) = live.inodes.get(&at).and_then(|i| i.place.clone()) {
            out.push(name);
            at = dir;
            if out.len() > 4096 {
                break;
            }
        }
        out.reverse();
        out
    }
}

impl Disk for Volume {
    fn hold(&self, pack: Vec<u8>, objects: Vec<(Oid, Object)>) -> VolumeResult<()> {
        let log = || self.journal.append(&Entry::Objects(pack));
        self.repo.hold(objects, log)?;
        Ok(())
    }

    fn flush(&self, objects: Vec<(Oid, Object)>) -> VolumeResult<()> {
        Ok(self.repo.flush(objects)?)
    }

    fn append(&self, entry: &Entry) -> VolumeResult<u64> {
        Ok(self.journal.append(entry)?)
    }

    fn last(&self) -> u64 {
        self.journal.last()
    }

    fn sync(&self, number: u64) -> VolumeResult<()> {
        Ok(self.journal.sync(number)?)
    }
}
