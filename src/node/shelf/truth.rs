//! Which list of pieces is that of a file: what members say of it is not believed twice.
//!
//! A list is proven when its bytes were hashed here, and refuted when they are not the file. While
//! one alone is known it is used as it is, and hashed as it is read ([`Proving`]): nothing is read
//! twice for that. If there are several, those that are here are hashed first: once for each start of
//! the node. Invariant: of a list that is not of its file, the last bytes are not given to who
//! reads it from the start. Who reads a part has to look himself, as git-lfs does.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use sha2::Digest;

use super::{Found, Shelf, ShelfError, failed, id};
use crate::base::id::Oid;
use crate::chunk::Sha256;
use crate::chunk::manifest::{self, Head};
use crate::chunk::store::ChunkError;
use crate::doors::lfs::Source;

impl Shelf {
    /// Notes a list whose bytes were hashed, durable.
    pub(super) fn note_proven(&self, head: Head) -> Result<(), ShelfError> {
        let mut heads = self.heads();
        heads.refuted.remove(&head);
        heads.add([head]).map_err(failed("note a manifest"))?;
        heads.proven.insert(head.sha256, head);
        Ok(())
    }

    pub(super) fn is_proven(&self, head: &Head) -> bool {
        self.heads().proven.get(&head.sha256) == Some(head)
    }

    pub(super) fn judge(&self, head: &Head, is_true: bool) {
        let mut heads = self.heads();
        if is_true {
            heads.proven.insert(head.sha256, *head);
            return;
        }
        let (file, list) = (head.sha256, id(head));
        tracing::warn!(%file, %list, "a list of pieces is not of the file that it is called");
        heads.refuted.insert(*head);
        if let Some(all) = heads.known.get_mut(&file) {
            all.retain(|h| h != head);
        }
    }

    /// The list of a file: the one that is proven, or the only one. Of several, hashes what is
    /// here.
    pub(in crate::node) fn choose(&self, sha256: &Sha256) -> Result<Option<Head>, ShelfError> {
        let mut all = {
            let heads = self.heads();
            if let Some(head) = heads.proven.get(sha256) {
                return Ok(Some(*head));
            }
            heads.known.get(sha256).cloned().unwrap_or_default()
        };
        // That of a commit that was made just now is not noted yet.
        if let Some(list) = self.chunks.head_of(sha256)
            && !all.iter().any(|h| id(h) == list)
            && let Ok(head) = self.volume.large_head(&list)
            && !self.heads().refuted.contains(&head)
        {
            all.push(head);
        }
        if let [_, _, ..] = all.as_slice() {
            let mut left = Vec::new();
            for head in all {
                match self.check(&head) {
                    Ok(true) => return Ok(Some(head)),
                    Ok(false) => {}
                    // Some of it is not here, or cannot be read.
                    Err(e) => {
                        tracing::debug!(file = %sha256, error = %e, "a list is not judged");
                        left.push(head);
                    }
                }
            }
            all = left;
        }
        Ok(all.last().copied())
    }

    /// Reads and hashes all of a file, which has to be here: whether it is what its head says.
    pub(super) fn check(&self, head: &Head) -> Result<bool, ShelfError> {
        let mut hash = sha2::Sha256::new();
        let mut get = |id: &Oid, kind| self.node(id, kind);
        if !self.has_pieces(head)? {
            return Err(failed("read all of it")(io::ErrorKind::NotFound.into()));
        }
        for place in manifest::pieces(head, &mut get) {
            let piece = place?.piece.id;
            let bytes = self.chunks.read(&piece)?;
            hash.update(bytes.ok_or(ChunkError::Lacking(piece))?);
        }
        let is_true = Sha256(hash.finalize().into()) == head.sha256;
        self.judge(head, is_true);
        Ok(is_true)
    }

    /// As [`Shelf::find`], for who gives it only if it is not here: what was not hashed is, up to so
    /// many bytes, and what is not proven then counts as not here.
    pub(in crate::node) fn find_proven(
        &self,
        sha256: &Sha256,
        hash_bytes: &mut u64,
    ) -> Result<Found, ShelfError> {
        while let Some(head) = self.choose(sha256)? {
            if self.is_proven(&head) {
                return self.find(sha256);
            }
            let Some(left) = hash_bytes.checked_sub(head.len) else {
                break;
            };
            if !self.has_pieces(&head)? {
                break;
            }
            *hash_bytes = left;
            // If it is not the file, it is another list's turn.
            self.check(&head)?;
        }
        Ok(Found::Nothing)
    }
}

/// Bytes that are hashed as they are read, and what that says is kept in mind.
pub(super) struct Proving {
    shelf: Arc<Shelf>,
    head: Head,
    bytes: Box<dyn Source>,
    hash: sha2::Sha256,
    at: u64,
}

impl Proving {
    /// Nothing more is to be done for a list that is proven.
    pub(super) fn unless_proven(
        shelf: &Arc<Shelf>,
        head: &Head,
        bytes: Box<dyn Source>,
    ) -> Box<dyn Source> {
        if shelf.is_proven(head) {
            return bytes;
        }
        Box::new(Self {
            shelf: shelf.clone(),
            head: *head,
            bytes,
            hash: sha2::Sha256::new(),
            at: 0,
        })
    }
}

impl Source for Proving {
    fn len(&self) -> u64 {
        self.head.len
    }

    fn read(&mut self, at: u64, most: usize) -> io::Result<Bytes> {
        let bytes = self.bytes.read(at, most)?;
        if at == 0 {
            self.hash = sha2::Sha256::new();
            self.at = 0;
        }
        if at != self.at || bytes.is_empty() {
            return Ok(bytes);
        }
        self.hash.update(&bytes);
        self.at += bytes.len() as u64;
        if self.at == self.head.len {
            let hash = self.hash.finalize_reset();
            let is_true = Sha256(hash.into()) == self.head.sha256;
            self.shelf.judge(&self.head, is_true);
            if !is_true {
                let wrong = ShelfError::Wrong(self.head.sha256);
                return Err(io::Error::other(wrong.to_string()));
            }
        }
        Ok(bytes)
    }
}
