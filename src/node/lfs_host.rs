//! The node behind the git-lfs door.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;
use tempfile::TempPath;

use super::git_host::Host;
use super::shelf::{self, Found, Shelf, ShelfError};
use crate::base::id::VolumeName;
use crate::chunk::Sha256;
use crate::chunk::manifest::{Cursor, Head};
use crate::doors::git::Access;
use crate::doors::lfs::{LfsHost, LfsId, LfsRefusal, Presence, Source};
use crate::volume::Volume;

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

/// A large file in one file.
struct Whole {
    file: File,
    len: u64,
}

impl Source for Whole {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(&mut self, at: u64, most: usize) -> io::Result<Bytes> {
        let mut piece = vec![0; most];
        let n = self.file.read_at(&mut piece, at)?;
        piece.truncate(n);
        Ok(piece.into())
    }
}

/// A large file in pieces. The last one that was read is kept: at most 1 MiB.
struct Pieces {
    shelf: Arc<Shelf>,
    len: u64,
    cursor: Cursor,
    at: u64,
    piece: Bytes,
}

impl Pieces {
    fn new(shelf: Arc<Shelf>, head: &Head) -> Self {
        Self {
            shelf,
            len: head.len,
            cursor: Cursor::new(head, 0),
            at: 0,
            piece: Bytes::new(),
        }
    }

    /// What is kept, from there on.
    fn kept(&self, at: u64) -> Option<Bytes> {
        let skip = usize::try_from(at.checked_sub(self.at)?).ok()?;
        (skip < self.piece.len()).then(|| self.piece.slice(skip..))
    }
}

impl Source for Pieces {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(&mut self, at: u64, most: usize) -> io::Result<Bytes> {
        if self.kept(at).is_none() {
            self.cursor.seek(at);
            let shelf = &self.shelf;
            let next = self.cursor.next(&mut |id, kind| shelf.node(id, kind));
            let place = next.map_err(io::Error::other)?;
            let place = place.ok_or(io::ErrorKind::UnexpectedEof)?;
            let bytes = shelf.chunks().read(&place.piece.id);
            let bytes = bytes.map_err(io::Error::other)?.unwrap_or_default();
            if bytes.len() != place.piece.len as usize {
                return Err(io::Error::other("a piece has gone"));
            }
            (self.at, self.piece) = (place.at, bytes.into());
        }
        let kept = self.kept(at).ok_or(io::ErrorKind::UnexpectedEof)?;
        let n = kept.len().min(most);
        Ok(kept.slice(..n))
    }
}

impl Host {
    fn volume(&self, name: &VolumeName) -> Result<Arc<Volume>, LfsRefusal> {
        let v = self.0.volume(name);
        v.ok_or_else(|| LfsRefusal::NotFound(name.clone()))
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
    ) -> Result<Vec<Presence>, LfsRefusal> {
        self.shelved(name, move |shelf| {
            let find = |id: &LfsId| {
                Ok(match shelf.find(&Sha256(id.0))? {
                    Found::Whole(len) => Presence::Here(len),
                    Found::Partly(len) => Presence::Partly(len),
                    Found::Nothing => Presence::Absent,
                })
            };
            ids.iter().map(find).collect()
        })
        .await
    }

    async fn open(&self, name: &VolumeName, id: LfsId) -> Result<Box<dyn Source>, LfsRefusal> {
        let opened = self.shelved(name, move |shelf| {
            let sha256 = Sha256(id.0);
            let source: Box<dyn Source> = match shelf.bytes(&sha256)? {
                Some((shelf::Bytes::File(file), len)) => Box::new(Whole { file, len }),
                Some((shelf::Bytes::Pieces(head), _)) => {
                    Box::new(Pieces::new(shelf.clone(), &head))
                }
                None => return Ok(Err(shelf.find(&sha256)?)),
            };
            Ok(Ok(source))
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
