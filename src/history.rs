//! What was: the past of a volume, of one of its files, and of its merges; and what brings some
//! of it back.
//!
//! The record commits are all there is to know; nothing is kept beside them but caches of a fixed
//! size, apart from those of the mounts, so that who walks through the past does not slow down who
//! works in the present. Walks go from the latest commit to the earliest, in the order of their
//! stamps, which agrees with causality, and end as soon as what was asked for is found.
//!
//! Invariant: nothing here writes. What is to change is told as changes, which a volume makes a
//! commit of: so all of history stays. Whatever is read follows from the commits alone: every
//! node that has the same ones gives the same answer. Threads: any.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use crate::base::id::{NodeId, Oid};
use crate::base::stamp::Stamp;
use crate::chunk::manifest;
use crate::record::cache::Cache;
use crate::record::commit::{self, RecordCommit};
use crate::record::state::State;
use crate::record::{RecordError, Source};
use crate::store::objects::{Memory, ObjectError, ObjectKind, Objects};
use crate::store::repo::Repo;

pub mod conflicts;
pub mod error;
pub mod file;
pub mod merges;
pub mod past;
pub mod resolve;
pub mod restore;
mod spec;
mod timeline;

pub use error::HistoryError;
pub use timeline::Origin;

/// Result of this room.
pub type Result<T> = std::result::Result<T, HistoryError>;

/// Puts bytes where the commit to come finds them.
pub type Keep<'a> = dyn FnMut(&Oid, Arc<Vec<u8>>) -> Result<()> + 'a;

/// Record commits kept in mind: 250 bytes each.
const STEPS_MAX: usize = 32_768;
/// Room for nodes of each of the two tries.
const NODES_BYTES_MAX: usize = 4 << 20;

/// A record commit, as far as walks look at it.
#[derive(Debug)]
pub struct Step {
    /// Its id.
    pub id: Oid,
    /// Its name and time.
    pub stamp: Stamp,
    /// Who made it.
    pub node: NodeId,
    /// The content commit that it describes.
    pub content: Option<Oid>,
    /// The state that it pins.
    pub state: State,
    /// Files born on its branch so far.
    pub births: u64,
    /// The record commits that it was made on.
    pub frontier: Vec<Oid>,
}

impl From<RecordCommit> for Step {
    fn from(c: RecordCommit) -> Self {
        Self {
            id: c.id,
            stamp: c.head.stamp,
            node: c.head.node,
            content: c.head.content,
            state: c.state,
            births: c.head.births,
            frontier: c.frontier,
        }
    }
}

/// What a volume shows at the moment.
#[derive(Debug, Clone)]
pub struct Now {
    /// Its heads.
    pub heads: Vec<Oid>,
    /// What they make together.
    pub state: State,
    /// The content commit of that.
    pub commit: Option<Oid>,
    /// Reads the repository, and holds what was derived and is not on disk.
    pub stage: Arc<Memory>,
}

struct Caches {
    steps: Mutex<LruCache<Oid, Arc<Step>>>,
    records: Cache,
    /// The conflicts of the state that was looked at last.
    conflicts: Mutex<Option<(State, Arc<Vec<conflicts::Conflict>>)>>,
    listings: Mutex<past::Listings>,
}

/// The history of one volume. Clones share its caches.
#[derive(Clone)]
pub struct History {
    repo: Arc<Repo>,
    caches: Arc<Caches>,
}

impl std::fmt::Debug for History {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("History").finish_non_exhaustive()
    }
}

impl History {
    /// The history that a repository holds.
    #[must_use]
    pub fn new(repo: Arc<Repo>) -> Self {
        let n = |n| NonZeroUsize::new(n).unwrap_or(NonZeroUsize::MIN);
        Self {
            repo,
            caches: Arc::new(Caches {
                steps: Mutex::new(LruCache::new(n(STEPS_MAX))),
                records: Cache::new(NODES_BYTES_MAX),
                conflicts: Mutex::default(),
                listings: Mutex::default(),
            }),
        }
    }

    /// Where records are read that `objs` reads.
    pub(crate) fn source<'a>(&'a self, objs: &'a dyn Objects) -> Source<'a> {
        Source::new(objs, &self.caches.records)
    }

    fn listings(&self) -> MutexGuard<'_, past::Listings> {
        let l = self.caches.listings.lock();
        l.unwrap_or_else(PoisonError::into_inner)
    }

    /// A stage for what is derived.
    fn stage(&self) -> Arc<Memory> {
        let below: Arc<dyn Objects> = self.repo.clone();
        Arc::new(Memory::over(below))
    }

    /// A record commit.
    fn step(&self, id: &Oid) -> Result<Arc<Step>> {
        let lock = || {
            let steps = self.caches.steps.lock();
            steps.unwrap_or_else(PoisonError::into_inner)
        };
        if let Some(s) = lock().get(id) {
            return Ok(s.clone());
        }
        let step = Arc::new(Step::from(commit::decode(&*self.repo, id)?));
        lock().put(*id, step.clone());
        Ok(step)
    }

    /// Bytes of an object that is on disk or in `stage`.
    ///
    /// # Errors
    /// When it is missing.
    pub fn size(&self, stage: &Memory, id: &Oid) -> Result<u64> {
        if let Some(o) = stage.staged(id) {
            return Ok(o.data.len() as u64);
        }
        Ok(self.repo.size(id)?)
    }

    /// Bytes of a large file, by the head of its manifest; 0 if that is none.
    ///
    /// # Errors
    /// When it is missing.
    pub fn large_size(&self, stage: &Memory, head: &Oid) -> Result<u64> {
        let head = stage.get(head, ObjectKind::Blob)?;
        Ok(manifest::head(&head).map_or(0, |h| h.len))
    }
}

impl From<ObjectError> for HistoryError {
    fn from(e: ObjectError) -> Self {
        Self::Records(RecordError::Objects(e))
    }
}
