//! The node behind the git-lfs door.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use tempfile::TempPath;

use super::git_host::Host;
use super::shelf::{self, Found, Shelf, ShelfError};
use crate::base::id::VolumeName;
use crate::chunk::Sha256;
use crate::doors::git::Access;
use crate::doors::lfs::{LfsHost, LfsId, LfsRefusal, Presence, Source};
use crate::volume::Volume;

/// Bytes that are hashed for one question about what a client is to send; it is sent otherwise.
const HASHED_BYTES_MAX: u64 = 2 << 30;

fn failed(e: impl std::fmt::Display) -> LfsRefusal {
    LfsRefusal::Failed(e.to_string())
}

impl From<ShelfError> for LfsRefusal {
    fn from(e: ShelfError) -> Self {
        match e {
            ShelfError::Wrong(sha256) => Self::Wrong(LfsId(sha256.0)),
            e if e.is_full() => Self::Full,
            e => failed(e),
        }
    }
}

impl Host {
    fn volume(&self, name: &VolumeName) -> Result<Arc<Volume>, LfsRefusal> {
        let v = self.0.volume(name);
        v.ok_or_else(|| LfsRefusal::NotFound(name.clone()))
    }

    fn has_peers(&self) -> bool {
        self.0.peers().is_some_and(|p| !p.connected().is_empty())
    }

    /// Does something with a volume's large files on a thread that may wait for the disk.
    async fn shelved<T: Send + 'static>(
        &self,
        name: &VolumeName,
        work: impl FnOnce(&Arc<Shelf>) -> Result<T, ShelfError> + Send + 'static,
    ) -> Result<T, LfsRefusal> {
        let (node, volume) = (self.0.clone(), self.volume(name)?);
        let done = tokio::task::spawn_blocking(move || work(&node.shelf(&volume)?));
        Ok(done.await.map_err(failed)??)
    }
}

#[async_trait]
impl LfsHost for Host {
    async fn access(&self, token: &str) -> Access {
        self.0.tokens.access(token)
    }

    async fn dir(&self, name: &VolumeName, create: bool) -> Result<PathBuf, LfsRefusal> {
        if create && self.0.leaving.load(Ordering::SeqCst) {
            let why = "this node is leaving the cell".to_owned();
            return Err(LfsRefusal::Busy(why));
        }
        let volume = match self.volume(name) {
            Err(LfsRefusal::NotFound(_)) if create => {
                let n = name.clone();
                let made = self.0.blocking(move |node| node.open_volume(&n)).await;
                made.map_err(failed)?
            }
            found => found?,
        };
        Ok(shelf::dir_of(&volume))
    }

    async fn presence(
        &self,
        name: &VolumeName,
        ids: Vec<LfsId>,
        proven: bool,
    ) -> Result<Vec<Presence>, LfsRefusal> {
        let near = self.has_peers();
        self.shelved(name, move |shelf| {
            let mut left = HASHED_BYTES_MAX;
            let find = |id: &LfsId| {
                let sha256 = Sha256(id.0);
                let found = match proven {
                    true => shelf.find_proven(&sha256, &mut left)?,
                    false => shelf.find(&sha256)?,
                };
                Ok(match found {
                    Found::Whole(len) => Presence::Here(len),
                    Found::Partly(len) if near => Presence::Near(len),
                    Found::Partly(len) => Presence::Partly(len),
                    Found::Nothing => Presence::Absent,
                })
            };
            ids.iter().map(find).collect()
        })
        .await
    }

    async fn open(&self, name: &VolumeName, id: LfsId) -> Result<Box<dyn Source>, LfsRefusal> {
        let near = self.has_peers();
        let opened = self.shelved(name, move |shelf| {
            let sha256 = Sha256(id.0);
            let found = match shelf.source(&sha256, near)? {
                // Who waits for nothing hears it at once.
                Some(mut source) => source.read(0, 1).is_ok().then_some(source),
                None => None,
            };
            Ok(match found {
                Some(source) => Ok(source),
                None => Err(shelf.find(&sha256)?),
            })
        });
        opened.await?.map_err(|found| match found {
            Found::Partly(_) => LfsRefusal::Partly(id),
            _ => LfsRefusal::Absent(id),
        })
    }

    async fn take(&self, name: &VolumeName, id: LfsId, file: TempPath) -> Result<(), LfsRefusal> {
        self.shelved(name, move |shelf| shelf.take(&Sha256(id.0), file))
            .await
    }
}
