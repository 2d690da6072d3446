//! What goes, what is moved so that it can go, and looking after what stays.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::{MutexGuard, PoisonError};

use rustix::io::Errno;

use super::container::{self, Container, data_path, sidecar_path};
use super::whole::is_zeros;
use super::{ChunkError, Chunks, Spot, disk, failed, is_damage, pack};
use crate::base::id::Oid;
use crate::chunk::{ChunkId, Sha256};

/// What became of the chunks of a container that went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Evicted {
    /// Chunks that moved into packs.
    pub moved: u64,
    /// Their bytes.
    pub moved_bytes: u64,
    /// Chunks that were wanted and were damaged.
    pub lost: Vec<ChunkId>,
}

/// A chunk that was not what it should be, and is not here any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wrong {
    /// Which chunk.
    pub id: ChunkId,
    /// The container that it was a piece of; none if it was in a pack.
    pub container: Option<Sha256>,
}

/// What a scrub saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Bytes that were read.
    pub bytes: u64,
    /// What was taken out.
    pub wrong: Vec<Wrong>,
    /// All was looked at: the next scrub begins at the start.
    pub is_round: bool,
}

/// Where a scrub goes on: packs first, containers then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cursor {
    Pack(u32, u32),
    Container(Sha256, u32),
}

impl Cursor {
    const START: Self = Self::Pack(0, 0);

    fn to_text(self) -> String {
        match self {
            Self::Pack(n, at) => format!("pack {n} {at}\n"),
            Self::Container(sha256, index) => format!("container {sha256} {index}\n"),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.strip_suffix('\n')?.split(' ');
        let (kind, which, at) = (words.next()?, words.next()?, words.next()?.parse().ok()?);
        match kind {
            "pack" => Some(Self::Pack(which.parse().ok()?, at)),
            "container" => Some(Self::Container(which.parse().ok()?, at)),
            _ => None,
        }
    }
}

/// What a scrub reads next.
struct Due {
    id: ChunkId,
    spot: Spot,
    container: Option<Sha256>,
    at: u64,
    len: u32,
    after: Cursor,
}

impl Chunks {
    /// Removes a container. The chunks of it that `keep` wants and that are nowhere else move
    /// into packs first, durable. Time: a look at each piece of each container, and what moves.
    ///
    /// # Errors
    /// When there is no such container, or as the disk; the container is there then, unless its
    /// file could not be removed.
    pub fn evict(
        &self,
        sha256: &Sha256,
        keep: &mut dyn FnMut(&ChunkId) -> bool,
    ) -> Result<Evicted, ChunkError> {
        self.evict_in(&self.turn(), sha256, None, keep)
    }

    /// The same with one whose pieces are those of the manifest with this head.
    ///
    /// # Errors
    /// As [`Chunks::evict`].
    pub fn evict_of(
        &self,
        sha256: &Sha256,
        head: &Oid,
        keep: &mut dyn FnMut(&ChunkId) -> bool,
    ) -> Result<Evicted, ChunkError> {
        self.learn_head(sha256);
        self.evict_in(&self.turn(), sha256, Some(head), keep)
    }

    pub(super) fn evict_in(
        &self,
        turn: &MutexGuard<'_, ()>,
        sha256: &Sha256,
        head: Option<&Oid>,
        keep: &mut dyn FnMut(&ChunkId) -> bool,
    ) -> Result<Evicted, ChunkError> {
        let (slot, only_here) = {
            let mut t = self.table();
            let absent = ChunkError::Absent(*sha256, 0);
            let is_it = |c: &Container| head.is_none() || c.head.as_ref() == head;
            let slot = t.slots.get(sha256).copied();
            let slot = slot.filter(|s| t.containers.get(s).is_some_and(is_it));
            let slot = slot.ok_or(absent)?;
            let mut there = Vec::new();
            if let Some(c) = t.containers.get_mut(&slot) {
                c.leaving = true;
                there.extend(c.present());
            }
            let read_there = |(index, id): &(u32, ChunkId)| {
                t.chunks.get(id)
                    == Some(&Spot::Container {
                        slot,
                        index: *index,
                    })
            };
            there.retain(read_there);
            let mut ids = there.iter().map(|(_, id)| *id).collect();
            t.find_again(&mut ids);
            // In the order of the file.
            there.retain(|(_, id)| ids.contains(id));
            (
                slot,
                there.into_iter().map(|(_, id)| id).collect::<Vec<_>>(),
            )
        };
        let moved = self
            .move_out(turn, &only_here, keep)
            .and_then(|m| self.flush_in(turn).map(|()| m));
        let mut t = self.table();
        let moved = match moved {
            Ok(moved) => moved,
            Err(e) => {
                if let Some(c) = t.containers.get_mut(&slot) {
                    c.leaving = false;
                }
                t.prefer(slot);
                return Err(e);
            }
        };
        for id in &only_here {
            if let Some(Spot::Container { slot: s, .. }) = t.chunks.get(id)
                && *s == slot
            {
                t.place(*id, None);
            }
        }
        t.containers.remove(&slot);
        t.slots.remove(sha256);
        drop(t);
        self.remove_files(sha256)
            .map_err(failed("remove a container"))?;
        Ok(moved)
    }

    fn move_out(
        &self,
        turn: &MutexGuard<'_, ()>,
        ids: &[ChunkId],
        keep: &mut dyn FnMut(&ChunkId) -> bool,
    ) -> Result<Evicted, ChunkError> {
        let mut out = Evicted::default();
        let mut flushed = 0;
        for id in ids.iter().filter(|id| !is_zeros(id) && keep(id)) {
            if out.moved_bytes - flushed >= self.pack_bytes_max {
                self.flush_in(turn)?;
                flushed = out.moved_bytes;
            }
            match self.look(id) {
                // Somebody put it into a pack meanwhile, or found it damaged.
                None | Some((Spot::Pack { .. }, _)) => {}
                Some((_, Ok(bytes))) if ChunkId::of(&bytes) == *id => {
                    self.append(&mut self.table(), id, &bytes)?;
                    out.moved += 1;
                    out.moved_bytes += bytes.len() as u64;
                }
                Some((_, Err(e))) if !is_damage(&e) => return Err(failed("read a chunk")(e)),
                Some((spot, _)) => {
                    self.quarantine(id, spot);
                    out.lost.push(*id);
                }
            }
        }
        Ok(out)
    }

    /// The file first: a sidecar alone is nothing.
    pub(super) fn remove_files(&self, sha256: &Sha256) -> io::Result<()> {
        disk::remove(&data_path(&self.dir, sha256))?;
        disk::sync_dir(&self.dir.join("containers"))?;
        disk::remove(&sidecar_path(&self.dir, sha256))
    }

    /// Removes chunks from packs, and gives back packs of which more than half is dead. What a
    /// container has stays in it. Says how many are not here any more. A removal that is not
    /// flushed may be forgotten.
    ///
    /// # Errors
    /// As the disk; the chunks are removed all the same.
    pub fn remove(&self, ids: &[ChunkId]) -> Result<usize, ChunkError> {
        let turn = self.turn();
        let count = {
            let mut t = self.table();
            let mut gone = HashSet::new();
            for id in ids {
                if let Some(Spot::Pack { .. }) = t.chunks.get(id) {
                    t.take_out(*id);
                    gone.insert(*id);
                }
            }
            t.find_again(&mut gone);
            gone.len()
        };
        self.reclaim_in(&turn)?;
        Ok(count)
    }

    /// Gives back packs of which more than half is dead: the living are copied, durable, then
    /// the pack is removed. Needs room for half a pack. Time: a look at each chunk, and what is
    /// copied.
    ///
    /// # Errors
    /// As the disk; no chunk is lost by it.
    pub fn reclaim(&self) -> Result<(), ChunkError> {
        let turn = self.turn();
        self.reclaim_in(&turn)
    }

    fn reclaim_in(&self, turn: &MutexGuard<'_, ()>) -> Result<(), ChunkError> {
        // Packs, and what lives in them.
        let mut dead: BTreeMap<u32, Vec<(ChunkId, Spot)>> = {
            let mut t = self.table();
            let is_dead = |p: &pack::Pack| p.end > 8 && (p.end - 8 - p.live) * 2 > p.end - 8;
            let all = t.packs.iter().filter(|(_, p)| is_dead(p));
            let mut dead: BTreeMap<_, _> = all.map(|(n, _)| (*n, Vec::new())).collect();
            if dead.is_empty() {
                return Ok(());
            }
            t.active = t.active.filter(|n| !dead.contains_key(n));
            for (id, spot) in &t.chunks {
                if let Spot::Pack { pack, .. } = spot
                    && let Some(living) = dead.get_mut(pack)
                {
                    living.push((*id, *spot));
                }
            }
            dead
        };
        while !dead.is_empty() {
            // Some at a time: as many as half a pack has room for, and one.
            let (mut some, mut living, mut bytes) = (Vec::new(), Vec::new(), 0);
            while bytes <= self.pack_bytes_max / 2
                && let Some((n, mut chunks)) = dead.pop_first()
            {
                let place = |s: &Spot| match s {
                    Spot::Pack { at, len, .. } => (*at, *len),
                    Spot::Container { .. } => (0, 0),
                };
                chunks.sort_unstable_by_key(|(_, s)| place(s));
                let lens = chunks.iter().map(|(_, s)| u64::from(place(s).1));
                bytes += lens.sum::<u64>();
                living.append(&mut chunks);
                some.push(n);
            }
            self.give_back(turn, &some, &living)?;
        }
        Ok(())
    }

    /// Removes packs when what lives in them is durable elsewhere.
    fn give_back(
        &self,
        turn: &MutexGuard<'_, ()>,
        packs: &[u32],
        living: &[(ChunkId, Spot)],
    ) -> Result<(), ChunkError> {
        let moved = self.move_living(living).and_then(|()| {
            if living.is_empty() {
                return Ok(());
            }
            self.flush_in(turn)
        });
        let mut t = self.table();
        if moved.is_err() {
            // What could not be made durable where it went is still where it was.
            for (id, spot) in living {
                if !t.chunks.contains_key(id) {
                    t.place(*id, Some(*spot));
                }
            }
        }
        moved?;
        t.packs.retain(|n, _| !packs.contains(n));
        drop(t);
        for n in packs {
            disk::remove(&pack::pack_path(&self.dir, *n)).map_err(failed("remove a pack"))?;
            disk::remove(&pack::index_path(&self.dir, *n)).map_err(failed("remove an index"))?;
        }
        Ok(())
    }

    fn move_living(&self, living: &[(ChunkId, Spot)]) -> Result<(), ChunkError> {
        for (id, spot) in living {
            match self.look(id) {
                Some((now, _)) if now != *spot => {}
                None => {}
                Some((_, Ok(bytes))) if ChunkId::of(&bytes) == *id => {
                    self.append(&mut self.table(), id, &bytes)?;
                }
                Some((_, Err(e))) if !is_damage(&e) => return Err(failed("read a chunk")(e)),
                Some(_) => self.quarantine(id, *spot),
            }
        }
        Ok(())
    }

    /// Reads about so many bytes of what is here, from where the last scrub ended, and takes out
    /// what is damaged or cannot be read. Goes on after a restart where it was, or a bit before.
    /// Time: what is read, and the index of each pack that is reached.
    ///
    /// # Errors
    /// When reading fails for another reason than what is read.
    pub fn scrub(&self, budget_bytes: u64) -> Result<Scrubbed, ChunkError> {
        let mut kept = self.scrub.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.dir.join("scrub");
        let mut cursor = kept.unwrap_or_else(|| {
            let text = std::fs::read_to_string(&path);
            text.ok()
                .and_then(|t| Cursor::parse(&t))
                .unwrap_or(Cursor::START)
        });
        let mut out = Scrubbed::default();
        let mut result = Ok(());
        'read: while out.bytes < budget_bytes {
            let Some((due, after)) = self.due(cursor) else {
                cursor = Cursor::START;
                out.is_round = true;
                break;
            };
            for d in due {
                if out.bytes >= budget_bytes {
                    break 'read;
                }
                if let Err(e) = self.check(&d, &mut out) {
                    result = Err(failed("scrub chunks")(e));
                    break 'read;
                }
                cursor = d.after;
            }
            cursor = after;
        }
        *kept = Some(cursor);
        let text = cursor.to_text();
        let noted = disk::create(&path).and_then(|f| disk::write(&path, &f, text.as_bytes(), 0));
        if let Err(e) = noted {
            tracing::warn!(error = %e, "where the scrub was is not noted");
        }
        result.map(|()| out)
    }

    /// The rest of the pack or container that a scrub is at, and where it goes on behind that.
    fn due(&self, cursor: Cursor) -> Option<(Vec<Due>, Cursor)> {
        let (sha256, from) = match cursor {
            Cursor::Pack(n, at) => {
                let pack = self.table().packs.range(n..).next().map(|(n, _)| *n);
                if let Some(pack) = pack {
                    let from = if pack == n { at } else { 0 };
                    let mut due = self.due_of_pack(pack);
                    due.retain(|d| d.at >= u64::from(from));
                    return Some((due, Cursor::Pack(pack.saturating_add(1), 0)));
                }
                (Sha256([0; 32]), 0)
            }
            Cursor::Container(sha256, index) => (sha256, index),
        };
        let t = self.table();
        let reached = |c: &&(u32, &Container)| {
            c.1.sha256 > sha256 || (c.1.sha256 == sha256 && from < c.1.total())
        };
        let all = t.containers.iter().map(|(slot, c)| (*slot, c));
        let (slot, c) = all.filter(|c| reached(&c)).min_by_key(|(_, c)| c.sha256)?;
        let from = if c.sha256 == sha256 { from } else { 0 };
        let mut due = Vec::new();
        for (index, id) in c.present().filter(|(n, _)| *n >= from) {
            let Some((piece, at)) = c.pieces.get(index as usize) else {
                continue;
            };
            due.push(Due {
                id,
                spot: Spot::Container { slot, index },
                container: Some(c.sha256),
                at: *at,
                len: piece.len,
                after: Cursor::Container(c.sha256, index + 1),
            });
        }
        Some((due, Cursor::Container(c.sha256, c.total())))
    }

    /// What is read from a pack, in its order: as its index says, if that says all.
    fn due_of_pack(&self, n: u32) -> Vec<Due> {
        let (listed, mut records) = {
            let t = self.table();
            let Some(p) = t.packs.get(&n) else {
                return Vec::new();
            };
            (p.listed, p.pending.clone())
        };
        records.append(&mut pack::records(&self.dir, n, listed));
        let t = self.table();
        let due = |id, at, len| Due {
            id,
            spot: Spot::Pack { pack: n, at, len },
            container: None,
            at: u64::from(at),
            len,
            after: Cursor::Pack(n, at + 1),
        };
        let mut out: Vec<Due> = records
            .iter()
            .filter(|r| !r.gone)
            .map(|r| due(r.id, r.at, r.len))
            .filter(|d| t.chunks.get(&d.id) == Some(&d.spot))
            .collect();
        out.sort_unstable_by_key(|d| d.at);
        out.dedup_by_key(|d| d.at);
        let bytes = out.iter().map(|d| pack::FRAME_HEAD + u64::from(d.len));
        let live = t.packs.get(&n).map_or(0, |p| p.live);
        if bytes.sum::<u64>() < live {
            // The index is damaged. The next to open the store makes it again.
            let all = t.chunks.iter().filter_map(|(id, spot)| match *spot {
                Spot::Pack { pack, at, len } if pack == n => Some(due(*id, at, len)),
                _ => None,
            });
            out = all.collect();
            out.sort_unstable_by_key(|d| d.at);
        }
        out
    }

    fn check(&self, d: &Due, out: &mut Scrubbed) -> io::Result<()> {
        let read = match (d.spot, &d.container) {
            (Spot::Pack { pack, at, len }, _) => pack::read(&self.dir, pack, at, len),
            (_, Some(sha256)) => container::read(&self.dir, sha256, d.at, d.len),
            (Spot::Container { .. }, None) => return Ok(()),
        };
        out.bytes += u64::from(d.len);
        match read {
            Ok(bytes) if ChunkId::of(&bytes) == d.id => return Ok(()),
            Err(e) if !is_damage(&e) && e.raw_os_error() != Some(Errno::IO.raw_os_error()) => {
                return Err(e);
            }
            _ => {}
        }
        // What moved or went meanwhile is not wrong.
        let is_there = {
            let t = self.table();
            match d.spot {
                Spot::Pack { .. } => t.chunks.get(&d.id) == Some(&d.spot),
                Spot::Container { slot, index } => {
                    t.containers.get(&slot).is_some_and(|c| c.has(index))
                }
            }
        };
        if is_there {
            self.quarantine(&d.id, d.spot);
            let (id, container) = (d.id, d.container);
            out.wrong.push(Wrong { id, container });
        }
        Ok(())
    }
}
