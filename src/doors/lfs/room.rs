//! What this door keeps of a volume on disk: files that are coming, and the locks.
//!
//! Invariant: what an earlier run was receiving when it died is removed before anything comes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::locks::{LockError, Locks};
use super::wire::disk;
use super::{LfsDoor, LfsRefusal};
use crate::base::durable;
use crate::base::id::VolumeName;

/// See the module.
#[derive(Debug)]
pub(super) struct Room {
    incoming: PathBuf,
    locks_path: PathBuf,
    /// Read when somebody first asks for them: locks that cannot be read keep no file from coming.
    locks: Mutex<Option<Locks>>,
}

impl Room {
    fn open(dir: &Path) -> io::Result<Self> {
        let incoming = dir.join("incoming");
        durable::dirs_with(&incoming, 0o700)?;
        for e in std::fs::read_dir(&incoming)? {
            std::fs::remove_file(e?.path())?;
        }
        Ok(Self {
            incoming,
            locks_path: dir.join("locks"),
            locks: Mutex::default(),
        })
    }

    /// Where files that are coming are.
    pub(super) fn incoming(&self) -> &Path {
        &self.incoming
    }

    /// Does something with the locks. Uses the disk: not on a thread of the runtime.
    pub(super) fn with_locks<T>(
        &self,
        work: impl FnOnce(&mut Locks) -> Result<T, LockError>,
    ) -> Result<T, LockError> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *locks {
            Some(locks) => work(locks),
            none => {
                let read = Locks::open(&self.locks_path);
                work(none.insert(read.map_err(|e| LockError::Io("read the locks", e))?))
            }
        }
    }
}

impl LfsDoor {
    /// What is kept of a volume. With `create`, a volume that does not exist is made.
    pub(super) async fn room(
        &self,
        volume: &VolumeName,
        create: bool,
    ) -> Result<Arc<Room>, LfsRefusal> {
        let dir = self.host.dir(volume, create).await?;
        let mut rooms = self.rooms.lock().await;
        if let Some(room) = rooms.get(volume) {
            return Ok(Arc::clone(room));
        }
        let opened = tokio::task::spawn_blocking(move || Room::open(&dir));
        let opened = opened.await.map_err(io::Error::other);
        let room = opened
            .flatten()
            .map_err(|e| disk("open what is kept of large files", &e))?;
        let room = Arc::new(room);
        rooms.insert(volume.clone(), Arc::clone(&room));
        Ok(room)
    }
}
