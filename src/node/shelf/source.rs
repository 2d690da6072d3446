//! The bytes of a large file, as somebody reads them from one place to another.
//!
//! Invariant: what is read in pieces was hashed; a container's file was when it was filled. Whose
//! bytes nobody hashed as a whole, they are as they are read (`truth.rs`).
//! Memory: what is asked for, and of a file in pieces the last piece, at most 1 MiB.
//! Who reads waits for what is not here.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;

use super::truth::Proving;
use super::{Shelf, ShelfError, id};
use crate::base::id::Oid;
use crate::chunk::Sha256;
use crate::chunk::manifest::{Cursor, Head};
use crate::doors::lfs::Source;

/// Bytes that are waited for at a time: what is behind them comes meanwhile, and is not waited for.
const STEP_BYTES: u64 = 4 << 20;

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

/// A large file in pieces. The last one that was read is kept: at most 1 MiB. What is not here is
/// brought.
pub(super) struct Pieces {
    shelf: Arc<Shelf>,
    head: Oid,
    len: u64,
    cursor: Cursor,
    at: u64,
    piece: Bytes,
}

impl Pieces {
    pub(super) fn new(shelf: Arc<Shelf>, head: &Head) -> Self {
        Self {
            shelf,
            head: id(head),
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
            let read = || shelf.chunks.read(&place.piece.id).map_err(io::Error::other);
            let bytes = match read()? {
                Some(bytes) => bytes,
                None => {
                    let end = self.len.min(place.at.saturating_add(STEP_BYTES));
                    let came = shelf.volume.bring(&self.head, place.at..end);
                    came.map_err(io::Error::other)?;
                    read()?.unwrap_or_default()
                }
            };
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

impl Shelf {
    /// The bytes of a file that a manifest which is here lists: what lacks is brought.
    pub(in crate::node) fn listed(self: &Arc<Self>, head: &Head) -> Box<dyn Source> {
        let pieces = Box::new(Pieces::new(self.clone(), head));
        Proving::unless_proven(self, head, pieces)
    }

    /// The bytes of a large file, if all of it is here or, for one who may wait, can be brought.
    pub(in crate::node) fn source(
        self: &Arc<Self>,
        sha256: &Sha256,
        may_wait: bool,
    ) -> Result<Option<Box<dyn Source>>, ShelfError> {
        let Some(head) = self.choose(sha256)? else {
            return Ok(None);
        };
        if let Some((file, true)) = self.chunks.container_of(sha256, &id(&head))? {
            let len = head.len;
            let whole = Box::new(Whole { file, len });
            return Ok(Some(Proving::unless_proven(self, &head, whole)));
        }
        let is_given = may_wait || self.has_pieces(&head)?;
        Ok(is_given.then(|| self.listed(&head)))
    }
}
