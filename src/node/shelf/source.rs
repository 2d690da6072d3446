//! The bytes of a large file, as somebody reads them from one place to another.
//!
//! Invariant: what is read in pieces was hashed; a container's file was when it was filled.
//! Memory: what is asked for, and of a file in pieces the last piece, at most 1 MiB.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;

use super::{Shelf, ShelfError, failed};
use crate::chunk::Sha256;
use crate::chunk::manifest::{Cursor, Head};
use crate::doors::lfs::Source;

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
            let bytes = shelf.chunks.read(&place.piece.id);
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

impl Shelf {
    /// The bytes of a large file, if all of it is here.
    pub(in crate::node) fn source(
        self: &Arc<Self>,
        sha256: &Sha256,
    ) -> Result<Option<Box<dyn Source>>, ShelfError> {
        if let Some((file, true)) = self.chunks.container(sha256)? {
            let meta = file.metadata().map_err(failed("look at a container"))?;
            let len = meta.len();
            return Ok(Some(Box::new(Whole { file, len })));
        }
        Ok(match self.head(sha256) {
            Some(head) if self.has_pieces(&head)? => {
                Some(Box::new(Pieces::new(self.clone(), &head)))
            }
            _ => None,
        })
    }
}
