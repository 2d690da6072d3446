//! Whole files and parts of them, from wherever their chunks are; and which containers there are.
//!
//! Invariant: bytes that go out were hashed on the way, but for those that are read from a
//! container's file. The largest piece of zeros is always here and is nowhere. Threads: any.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::LazyLock;
use std::time::SystemTime;

use super::container::{self, Container};
use super::{ChunkError, Chunks, disk, failed};
use crate::base::id::Oid;
use crate::chunk::manifest::{self, Place};
use crate::chunk::{ChunkId, PIECE_BYTES_MAX, Piece, Sha256};

/// Pieces that are looked for while others wait.
const LOOK_UPS: usize = 4096;

static ZEROS: LazyLock<ChunkId> = LazyLock::new(|| ChunkId::of(&vec![0; PIECE_BYTES_MAX as usize]));

/// Whether this is the name of the largest piece of zeros, of which holes are made.
pub(super) fn is_zeros(id: &ChunkId) -> bool {
    *id == *ZEROS
}

/// A container, for choosing which is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Names the file.
    pub sha256: Sha256,
    /// Its length.
    pub len: u64,
    /// How much of it is there.
    pub bytes: u64,
    /// When it was last filled or asked for with [`Chunks::container`].
    pub used: SystemTime,
}

impl Chunks {
    /// The file of a container, open for reading, and whether all of it is there. Counts as a
    /// use.
    ///
    /// # Errors
    /// As the disk.
    pub fn container(&self, sha256: &Sha256) -> Result<Option<(File, bool)>, ChunkError> {
        self.open_container(sha256, |_| true)
    }

    /// The same, if its pieces are those of the manifest with this head. Who gave a container its
    /// name may have lied: only this says that its bytes are those of the manifest.
    ///
    /// # Errors
    /// As the disk.
    pub fn container_of(
        &self,
        sha256: &Sha256,
        head: &Oid,
    ) -> Result<Option<(File, bool)>, ChunkError> {
        self.learn_head(sha256);
        self.open_container(sha256, |c| c.head == Some(*head))
    }

    /// The head of the manifest of what the container of this name is.
    #[must_use]
    pub fn head_of(&self, sha256: &Sha256) -> Option<Oid> {
        self.learn_head(sha256);
        let t = self.table();
        t.containers.get(t.slots.get(sha256)?)?.head
    }

    /// Whether there is a container for this file that has these pieces, or some of them.
    #[must_use]
    pub fn is_begun(&self, sha256: &Sha256, pieces: &[Piece]) -> bool {
        let t = self.table();
        let slot = t.slots.get(sha256);
        let found = slot.and_then(|s| t.containers.get(s));
        found.is_some_and(|c| !c.leaving && c.is_of(pieces))
    }

    /// Works out which manifest the pieces of a container are of, unless that is known. Once for
    /// each: see [`manifest::name`].
    pub(super) fn learn_head(&self, sha256: &Sha256) {
        let (slot, survey) = {
            let t = self.table();
            let slot = t.slots.get(sha256).copied();
            let found = slot.and_then(|s| Some((s, t.containers.get(&s)?)));
            match found.filter(|(_, c)| c.head.is_none()) {
                Some((slot, c)) => (slot, c.survey()),
                None => return,
            }
        };
        let head = manifest::name(&survey);
        if let Some(c) = self.table().containers.get_mut(&slot) {
            c.head = Some(head);
        }
    }

    fn open_container(
        &self,
        sha256: &Sha256,
        is_it: impl Fn(&Container) -> bool,
    ) -> Result<Option<(File, bool)>, ChunkError> {
        let t = self.table();
        let slot = t.slots.get(sha256).copied();
        let found = slot.and_then(|s| t.containers.get(&s));
        let Some(c) = found.filter(|c| !c.leaving && is_it(c)) else {
            return Ok(None);
        };
        let file = File::open(container::data_path(&self.dir, sha256));
        let file = file.map_err(failed("open a container"))?;
        let is_complete = c.is_complete();
        drop(t);
        if let Err(e) = disk::touch(&container::sidecar_path(&self.dir, sha256)) {
            tracing::debug!(%sha256, error = %e, "the use of a large file is not noted");
        }
        Ok(Some((file, is_complete)))
    }

    /// All containers, complete or not, in no order. Looks at a file for each.
    #[must_use]
    pub fn containers(&self) -> Vec<Held> {
        let all: Vec<_> = {
            let t = self.table();
            let there = t.containers.values().filter(|c| !c.leaving);
            there.map(|c| (c.sha256, c.len, c.bytes)).collect()
        };
        let held = |(sha256, len, bytes)| {
            // Unless it went meanwhile.
            let sidecar = fs::metadata(container::sidecar_path(&self.dir, &sha256)).ok()?;
            Some(Held {
                sha256,
                len,
                bytes,
                used: sidecar.modified().ok()?,
            })
        };
        all.into_iter().filter_map(held).collect()
    }

    /// The first so many of these pieces, by their places in the list, that are not here. Nothing
    /// is read.
    #[must_use]
    pub fn lacks(&self, pieces: &[Piece], most: usize) -> Vec<usize> {
        let mut out = Vec::new();
        for (n, some) in pieces.chunks(LOOK_UPS).enumerate() {
            let t = self.table();
            for (m, p) in some.iter().enumerate() {
                if out.len() == most {
                    return out;
                }
                if !is_zeros(&p.id) && !t.holds(&p.id) {
                    out.push(n * LOOK_UPS + m);
                }
            }
        }
        out
    }

    /// The bytes of a piece.
    fn piece(&self, piece: &Piece) -> Result<Vec<u8>, ChunkError> {
        let bytes = self.read(&piece.id)?.ok_or(ChunkError::Lacking(piece.id))?;
        if bytes.len() != piece.len as usize {
            return Err(ChunkError::Mismatch(piece.id));
        }
        Ok(bytes)
    }

    /// Writes a piece to where it belongs in a file that has a hole there. Zeros are not written.
    ///
    /// # Errors
    /// When it is not here or damaged, or as the disk.
    pub fn copy_piece(&self, piece: &Piece, at: u64, to: &File) -> Result<(), ChunkError> {
        if is_zeros(&piece.id) && piece.len == PIECE_BYTES_MAX {
            return Ok(());
        }
        let bytes = self.piece(piece)?;
        if bytes.iter().all(|b| *b == 0) {
            return Ok(());
        }
        to.write_all_at(&bytes, at)
            .map_err(failed("put a file together"))
    }

    /// Makes a file be these pieces and nothing else, with holes for zeros. It is not synced.
    /// Gives its length.
    ///
    /// # Errors
    /// When one of them is not here or damaged, or as the disk. The file is of no use then.
    pub fn copy_out(&self, pieces: &[Piece], to: &File) -> Result<u64, ChunkError> {
        let len = pieces.iter().map(|p| u64::from(p.len)).sum();
        to.set_len(0)
            .and_then(|()| to.set_len(len))
            .map_err(failed("put a file together"))?;
        let mut at = 0;
        for p in pieces {
            self.copy_piece(p, at, to)?;
            at += u64::from(p.len);
        }
        Ok(len)
    }

    /// Bytes of a file from one on, so many or as far as these pieces reach, which follow one
    /// another. Whole pieces are read, as their names say nothing of a part.
    ///
    /// # Errors
    /// When a piece is not here or damaged, or as the disk.
    pub fn range(&self, places: &[Place], from: u64, len: usize) -> Result<Vec<u8>, ChunkError> {
        let mut out = Vec::new();
        for p in places {
            let at = from + out.len() as u64;
            if out.len() == len || at < p.at {
                break;
            }
            if at >= p.end() {
                continue;
            }
            let bytes = self.piece(&p.piece)?;
            let skip = usize::try_from(at - p.at).unwrap_or(usize::MAX);
            let rest = bytes.get(skip..).unwrap_or_default();
            out.extend_from_slice(rest.get(..len - out.len()).unwrap_or(rest));
        }
        Ok(out)
    }
}
