//! Bytes of large files go, of files that are away.
//!
//! Invariant: a piece that a file lists which is not away stays, also of one that comes meanwhile:
//! the last look at which those are, and the going, are done on the volume's thread, where nothing
//! is committed, and while nobody adds bytes outside of commits ([`Volume::keep_still`]). A file
//! that a program has open stays. Threads: any that may wait; the volume's.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, PoisonError, RwLockReadGuard};

use super::large::{lock, node};
use super::{Volume, VolumeResult};
use crate::base::id::Oid;
use crate::chunk::manifest::Cursor;
use crate::chunk::store::ChunkError;
use crate::chunk::{ChunkId, Sha256};

/// Pieces of files that go at a time, which are in memory meanwhile.
const PIECES_MAX: usize = 1 << 20;

/// Lists all files that are known and in no commit, or were once in the view.
pub type Known = Arc<dyn Fn() -> Vec<Oid> + Send + Sync>;

/// What goes.
struct Going {
    head: Oid,
    sha256: Sha256,
    pieces: Vec<ChunkId>,
}

impl Volume {
    /// Nothing goes while this is held: for who puts bytes that are in no commit, and of which
    /// some may be here already. What [`Known`] lists has to have them before it is let go.
    pub fn keep_still(&self) -> RwLockReadGuard<'_, ()> {
        self.letting.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the bytes of these large files, of those that are away and that nobody has open;
    /// which those were. Blocks. Time: a look at each piece of each file that is known.
    ///
    /// # Errors
    /// As the store; what did not go is away all the same.
    pub fn evict(&self, heads: Vec<Oid>, known: &Known) -> VolumeResult<Vec<Oid>> {
        let mut gone = Vec::new();
        let mut heads = heads.into_iter().peekable();
        while heads.peek().is_some() {
            let (mut some, mut pieces) = (Vec::new(), 0);
            while pieces < PIECES_MAX
                && let Some(head) = heads.next()
            {
                if self.is_away(&head) {
                    let of = self.pieces_of(&head)?;
                    pieces += of.len();
                    let sha256 = self.known(&head)?.head.sha256;
                    some.push(Going {
                        head,
                        sha256,
                        pieces: of,
                    });
                }
            }
            gone.append(&mut self.evict_some(some, known)?);
        }
        Ok(gone)
    }

    fn evict_some(&self, some: Vec<Going>, known: &Known) -> VolumeResult<Vec<Oid>> {
        let mut free: HashSet<ChunkId> = some.iter().flat_map(|g| &g.pieces).copied().collect();
        let mut seen = BTreeSet::new();
        let mut early = known();
        early.extend(self.all_counted());
        self.keep_wanted(early, &mut seen, &mut free)?;
        let known = known.clone();
        self.run(move |w| {
            let v = w.volume;
            let _nothing_comes = v.letting.write().unwrap_or_else(PoisonError::into_inner);
            let mut late = known();
            late.extend(v.all_counted());
            late.extend(v.not_met()?);
            v.keep_wanted(late, &mut seen, &mut free)?;
            let mut gone = Vec::new();
            for g in some {
                if v.is_away(&g.head) && v.evict_one(&g, &free)? {
                    gone.push(g.head);
                }
            }
            Ok(gone)
        })?
    }

    /// Takes the pieces of files that are to stay out of those that may go.
    fn keep_wanted(
        &self,
        all: Vec<Oid>,
        seen: &mut BTreeSet<Oid>,
        free: &mut HashSet<ChunkId>,
    ) -> VolumeResult<()> {
        for head in all {
            // One that was away and is not any more is looked at again.
            if free.is_empty() || self.is_away(&head) || !seen.insert(head) {
                continue;
            }
            self.each_piece(&head, &mut |id| {
                free.remove(&id);
            })?;
        }
        Ok(())
    }

    fn pieces_of(&self, head: &Oid) -> VolumeResult<Vec<ChunkId>> {
        let mut out = Vec::new();
        self.each_piece(head, &mut |id| out.push(id))?;
        Ok(out)
    }

    fn each_piece(&self, head: &Oid, f: &mut dyn FnMut(ChunkId)) -> VolumeResult<()> {
        let k = self.known(head)?;
        let mut cursor = Cursor::new(&k.head, 0);
        let mut get = |id: &Oid, kind| node(&**self.repo(), id, kind);
        while let Some(p) = cursor.next(&mut get)? {
            f(p.piece.id);
        }
        Ok(())
    }

    /// False if a program has it open.
    fn evict_one(&self, g: &Going, free: &HashSet<ChunkId>) -> VolumeResult<bool> {
        if !self.begin_leaving(&g.sha256) {
            return Ok(false);
        }
        let done = self.remove_bytes(g, free);
        lock(&self.large.leaving).remove(&g.sha256);
        done.map(|()| true)
    }

    fn remove_bytes(&self, g: &Going, free: &HashSet<ChunkId>) -> VolumeResult<()> {
        self.large.let_go(&g.sha256);
        let chunks = self.chunks()?;
        match chunks.evict_of(&g.sha256, &g.head, &mut |id| !free.contains(id)) {
            Ok(_) | Err(ChunkError::Absent(..)) => {}
            Err(e) => return Err(e.into()),
        }
        let gone: Vec<ChunkId> = g
            .pieces
            .iter()
            .filter(|id| free.contains(id))
            .copied()
            .collect();
        chunks.remove(&gone)?;
        chunks.flush()?;
        Ok(())
    }

    /// From now on nobody opens a container, unless somebody has it already or takes it away: false
    /// then.
    pub(super) fn begin_leaving(&self, sha256: &Sha256) -> bool {
        let mut held = lock(&self.large.held);
        held.retain(|_, s| s.strong_count() > 0);
        if held.keys().any(|(of, _)| of == sha256) {
            return false;
        }
        lock(&self.large.leaving).insert(*sha256)
    }
}
