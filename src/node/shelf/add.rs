//! Files that are put on the shelf by what they are, and looked up by it.
//!
//! Small ones go into packs of chunks, as two files on the disk for each would be too many; large
//! ones become containers as they are. Invariants: those of the shelf; and what comes is in
//! `adding` until it is whole, of which the next opening finds nothing.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use sha2::Digest;
use tempfile::{NamedTempFile, TempPath};

use super::source::Pieces;
use super::{Shelf, ShelfError, failed, id, survey};
use crate::base::durable;
use crate::chunk::manifest::{self, Head};
use crate::chunk::{Sha256, Survey};
use crate::doors::lfs::Source;
use crate::node::LARGE_ABOVE;
use crate::volume::Volume;

/// What of a file is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::node) struct Part {
    pub(in crate::node) pieces: u64,
    pub(in crate::node) pieces_here: u64,
    pub(in crate::node) bytes_here: u64,
}

/// Removes what was coming when an earlier run ended.
pub(super) fn sweep(volume: &Volume) -> io::Result<()> {
    let dir = volume.dir().join("adding");
    match std::fs::remove_dir_all(&dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    durable::dirs_with(&dir, 0o700)
}

impl Shelf {
    /// A file for bytes that are coming.
    pub(in crate::node) fn begin(&self) -> Result<NamedTempFile, ShelfError> {
        let made = NamedTempFile::new_in(self.volume.dir().join("adding"));
        made.map_err(failed("keep what comes"))
    }

    /// Takes a file over as whatever it is, durable; its name and length.
    pub(in crate::node) fn add(&self, path: TempPath) -> Result<(Sha256, u64), ShelfError> {
        let open = || File::open(&path).map_err(failed("read what came"));
        let survey = survey::survey(open()?).map_err(failed("read what came"))?;
        let named = (survey.sha256, survey.len);
        if survey.len > LARGE_ABOVE {
            self.keep(&survey, path)?;
            return Ok(named);
        }
        let head = self.keep_manifest(&survey)?;
        let _still = self.volume.keep_still();
        self.note_proven(head)?;
        self.counts(&head)?;
        self.put_pieces(&open()?, &survey)?;
        Ok(named)
    }

    /// Puts a file's pieces into packs, durable.
    fn put_pieces(&self, file: &File, survey: &Survey) -> Result<(), ShelfError> {
        let mut at = 0;
        for piece in &survey.pieces {
            let mut bytes = vec![0; piece.len as usize];
            let read = file.read_exact_at(&mut bytes, at);
            read.map_err(failed("read what came"))?;
            self.chunks.put(&piece.id, &bytes)?;
            at += u64::from(piece.len);
        }
        Ok(self.chunks.flush()?)
    }

    /// What the pieces of a file come to that are here.
    pub(in crate::node) fn part(&self, head: &Head) -> Result<Part, ShelfError> {
        let mut part = Part {
            pieces: 0,
            pieces_here: 0,
            bytes_here: 0,
        };
        let mut get = |id: &_, kind| self.node(id, kind);
        for place in manifest::pieces(head, &mut get) {
            let piece = place?.piece;
            part.pieces += 1;
            if self.chunks.has(&piece.id) {
                part.pieces_here += 1;
                part.bytes_here += u64::from(piece.len);
            }
        }
        Ok(part)
    }

    /// Brings the first piece of a file that lacks: then somebody has it, who will give the rest.
    pub(in crate::node) fn begin_to_bring(&self, head: &Head) -> Result<(), ShelfError> {
        let id = id(head);
        match self.volume.lacks(&id, 1)?.first() {
            Some(p) => Ok(self
                .volume
                .bring(&id, p.at..p.at + u64::from(p.piece.len))?),
            None => Ok(()),
        }
    }

    /// Brings and hashes all of a file, and notes it if it is what its head says, durable. Who gave
    /// the head is not believed before. It is hashed while what is behind comes.
    pub(in crate::node) fn check_in(self: &Arc<Self>, head: &Head) -> Result<(), ShelfError> {
        let mut bytes = Pieces::new(self.clone(), head);
        let (mut hash, mut at) = (sha2::Sha256::new(), 0);
        while at < head.len {
            let some = bytes.read(at, usize::MAX);
            let some = some.map_err(failed("bring and read all of it"))?;
            hash.update(&some);
            at += some.len() as u64;
        }
        let is_true = Sha256(hash.finalize().into()) == head.sha256;
        self.judge(head, is_true);
        if !is_true {
            return Err(ShelfError::Wrong(head.sha256));
        }
        self.chunks.flush()?;
        self.note_proven(*head)
    }
}
