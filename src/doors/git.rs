//! The git door: volumes as smart HTTP repositories for unmodified git.
//!
//! Stock `git upload-pack` and `git receive-pack` do the talking; what they may show and
//! whether refs move is decided by the node through [`GitHost`]. For a push, git unpacks
//! into a quarantine and checks connectivity, then runs our `proc-receive` hook, which asks
//! this process over `hook.sock`; [`GitHost::push`] moves the refs. A push whose connection
//! has gone is no longer known here, so its hook is refused.
//!
//! Invariant: nothing is buffered whole; at most [`CHILDREN_MAX`] git processes run at once;
//! a client that goes takes its git processes with it.

mod body;
mod child;
pub mod hook;
mod hook_server;
mod pkt;
pub mod repo;
mod service;
mod session;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use hyper::body::Incoming;
use hyper::{Request, Response};
use tokio::sync::Semaphore;

use super::http::{Body, Door, Peer};
use crate::base::id::{Oid, VolumeName};

/// Most git processes at once; further requests wait.
pub const CHILDREN_MAX: usize = 8;

/// What a token lets its bearer do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Nothing.
    None,
    /// Clone and fetch.
    Read,
    /// Push too.
    Write,
}

/// One ref that a push would move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefUpdate {
    /// Its full name, `refs/...`.
    pub name: String,
    /// Where the client saw it; none if it did not.
    pub old: Option<Oid>,
    /// Where it shall be; none to delete it.
    pub new: Option<Oid>,
}

/// Why a volume is not served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GitRefusal {
    /// There is no such volume.
    #[error("there is no volume {0}")]
    NotFound(VolumeName),
    /// Not allowed, and why.
    #[error("{0}")]
    Refused(String),
    /// Not now, and why; to be tried again.
    #[error("{0}")]
    Busy(String),
    /// The node failed.
    #[error("{0}")]
    Failed(String),
}

/// The node, as the git door sees it.
#[async_trait]
pub trait GitHost: Send + Sync + 'static {
    /// What a token allows. Compares in constant time, or by a hash.
    async fn access(&self, token: &str) -> Access;

    /// The volume's repository, made by [`repo::create`]. With `create`, a volume that does
    /// not exist is made; it needs to be told to nobody until something is pushed.
    async fn repo(&self, volume: &VolumeName, create: bool) -> Result<PathBuf, GitRefusal>;

    /// Called before refs are listed for a client that fetches: what is to be handed out is
    /// sealed and `refs/heads/main` set to it.
    async fn hand_out(&self, volume: &VolumeName) -> Result<(), GitRefusal>;

    /// Called while the push's objects are still in quarantine: a refusal here leaves
    /// nothing behind. Objects named by the updates cannot be read yet.
    async fn vet(&self, _volume: &VolumeName, _updates: &[RefUpdate]) -> Result<(), String> {
        Ok(())
    }

    /// Decides a push whose objects are in the repository, complete, connected and durable
    /// (`objects/pack` too), and moves the refs: git moves none. One verdict per update, in
    /// order; when `atomic`, all are accepted or none.
    async fn push(
        &self,
        volume: &VolumeName,
        updates: Vec<RefUpdate>,
        atomic: bool,
    ) -> Vec<Result<(), String>>;
}

/// The git door of a node.
pub struct GitDoor {
    host: Arc<dyn GitHost>,
    children: Arc<Semaphore>,
    sessions: Arc<session::Sessions>,
    hook_socket: PathBuf,
    /// Shown to those who push to a volume that does not exist yet.
    empty: PathBuf,
    _hooks: tokio_util::task::AbortOnDropHandle<()>,
}

impl std::fmt::Debug for GitDoor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GitDoor").finish_non_exhaustive()
    }
}

impl GitDoor {
    /// Opens the door, which keeps its socket and an empty repository in `dir`. Within a
    /// tokio runtime; `cellfs` is the program that hooks run.
    ///
    /// # Errors
    /// When git is not there, or the directory cannot be used.
    pub fn open(host: Arc<dyn GitHost>, dir: &Path, cellfs: &Path) -> io::Result<Self> {
        // Hooks run elsewhere.
        let (dir, cellfs) = (std::path::absolute(dir)?, std::path::absolute(cellfs)?);
        std::fs::create_dir_all(&dir)?;
        let empty = dir.join("empty.git");
        repo::create(&empty, &cellfs).map_err(io::Error::other)?;
        let sessions = Arc::default();
        let (hook_socket, hooks) =
            hook_server::start(&dir, Arc::clone(&host), Arc::clone(&sessions))?;
        Ok(Self {
            host,
            children: Arc::new(Semaphore::new(CHILDREN_MAX)),
            sessions,
            hook_socket,
            empty,
            _hooks: hooks,
        })
    }
}

#[async_trait]
impl Door for GitDoor {
    async fn call(&self, request: Request<Incoming>, _peer: Peer) -> Response<Body> {
        service::call(self, request).await
    }
}
