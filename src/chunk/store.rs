//! Chunks on disk: in packs, and in containers, which are whole large files as they are.
//!
//! A large file that is in use is one container: its bytes are there once, in one file that
//! programs can be given to read. Its chunks can be read by their names as well. When the
//! container goes, the chunks that are wanted and are nowhere else move into packs.
//!
//! Invariants: bytes that are read by a name hash to it; what does not is taken out and said to
//! be damaged, once. What [`Chunks::flush`] returned for is there after a loss of power, until it
//! is removed. After an error the store is as sound as before. Who opens a container's file reads
//! it unchecked: that is sound as far as its pieces were when they were filled in or scrubbed.
//!
//! Memory: 48 bytes for each chunk in a hash table that is between half and seven eighths full,
//! and 48 for each piece of a container: about 350 MB for each TB. Opening reads the indices, not
//! the chunks: 44 bytes for each chunk, 36 for each piece.
//!
//! Threads: any; reads and writes of bytes of containers and reads of packs hold no lock, an
//! append to a pack holds that of the table for one write. What reorganises (`flush`, `adopt`,
//! `begin`, `evict`, `remove`, `reclaim`, `scrub`) takes turns. Lock order: turn, table.
//! One process opens a directory at a time; the caller sees to that.
//!
//! Descriptors: one for each pack and container with something that is not flushed, and 64 of
//! those at most; who would open one more flushes. Reads open and close.

mod care;
mod container;
mod disk;
mod hold;
mod pack;
mod whole;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use care::{Evicted, Scrubbed, Wrong};
use container::Container;
pub use hold::Adopted;
use pack::{Pack, Packs, Record};
pub use whole::Held;

use super::{ChunkId, PIECE_BYTES_MAX, Sha256};
use crate::base::durable;

/// A pack takes no more above this size.
const PACK_BYTES_MAX: u64 = 256 << 20;
/// Files with something that is not flushed, which stay open until it is.
const OPEN_FILES_MAX: usize = 64;

/// Why the store did not do something. It is sound, and what it says is here is here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChunkError {
    /// No room on the disk.
    #[error("no space left on the disk that holds the chunks")]
    Full,
    /// The disk failed. What was put or filled in since the last flush may be gone again: what
    /// [`Chunks::has`] says counts.
    #[error("could not {0}")]
    Io(&'static str, #[source] io::Error),
    /// Bytes that do not hash to the name that they were given for, or that no chunk has.
    #[error("these are not the bytes of chunk {0}")]
    Mismatch(ChunkId),
    /// The bytes here were not what they should be, and are not here any more.
    #[error("chunk {0} was damaged on disk and was taken out")]
    Damaged(ChunkId),
    /// A file or a container that is not what its list of pieces says.
    #[error("{0} is not what its list of pieces says")]
    Survey(Sha256),
    /// No such container or piece of it.
    #[error("there is no container {0} with piece {1}")]
    Absent(Sha256, u32),
    /// A chunk that is needed and not here.
    #[error("chunk {0} is not here")]
    Lacking(ChunkId),
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> ChunkError {
    move |e| match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ChunkError::Full,
        _ => ChunkError::Io(what, e),
    }
}

/// Where a chunk is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spot {
    Pack { pack: u32, at: u32, len: u32 },
    Container { slot: u32, index: u32 },
}

#[derive(Debug, Default)]
struct Table {
    chunks: HashMap<ChunkId, Spot>,
    packs: Packs,
    /// The pack that takes what comes.
    active: Option<u32>,
    /// Numbers from here on are free: one that a pack had is not given to another.
    next_pack: u32,
    /// Containers by numbers that are never used again while the store is open.
    containers: BTreeMap<u32, Container>,
    slots: HashMap<Sha256, u32>,
    next_slot: u32,
}

impl Table {
    /// Says where a chunk is read from now, and counts it there.
    fn place(&mut self, id: ChunkId, to: Option<Spot>) {
        let from = match to {
            Some(spot) => self.chunks.insert(id, spot),
            None => self.chunks.remove(&id),
        };
        for (spot, is_new) in [(from, false), (to, true)] {
            let Some(Spot::Pack { pack, len, .. }) = spot else {
                continue;
            };
            if let Some(p) = self.packs.get_mut(&pack) {
                let bytes = pack::FRAME_HEAD + u64::from(len);
                p.live = if is_new {
                    p.live + bytes
                } else {
                    p.live - bytes
                };
            }
        }
    }

    /// Takes a chunk out of the pack that it is in; it stays in a container that has it, too.
    fn take_out(&mut self, id: ChunkId) {
        let Some(Spot::Pack { pack, at, len }) = self.chunks.get(&id).copied() else {
            return;
        };
        self.place(id, None);
        if let Some(p) = self.packs.get_mut(&pack) {
            p.pending.push(Record {
                id,
                at,
                len,
                gone: true,
            });
        }
    }

    /// Whether a chunk is here, and will be when a container that is leaving has left.
    fn holds(&self, id: &ChunkId) -> bool {
        match self.chunks.get(id) {
            Some(Spot::Pack { .. }) => true,
            Some(Spot::Container { slot, .. }) => {
                self.containers.get(slot).is_some_and(|c| !c.leaving)
            }
            None => false,
        }
    }

    /// Finds the containers that have some chunks whose place is not known any more, and takes
    /// those chunks out of the set. Looks through all pieces of all containers.
    fn find_again(&mut self, ids: &mut HashSet<ChunkId>) {
        let mut found = Vec::new();
        for (slot, c) in &self.containers {
            if ids.is_empty() || c.leaving {
                continue;
            }
            for (index, id) in c.present() {
                if ids.remove(&id) {
                    found.push((id, Spot::Container { slot: *slot, index }));
                }
            }
        }
        for (id, spot) in found {
            self.place(id, Some(spot));
        }
    }

    /// Notes that a piece of a container is there, or is not.
    fn mark(&mut self, slot: u32, index: u32, there: bool) {
        if let Some(c) = self.containers.get_mut(&slot) {
            c.set(index, there);
            c.pending.push((index, there));
        }
    }

    /// Files that are open.
    fn open_files(&self) -> usize {
        let packs = self.packs.values().filter(|p| p.file.is_some()).count();
        let all = self.containers.values();
        packs + all.filter(|c| c.file.is_some()).count()
    }

    /// Whether a chunk of so many bytes would need a pack that is not open.
    fn opens_pack(&self, frame: u64, pack_bytes_max: u64) -> bool {
        let active = self.active.and_then(|n| self.packs.get(&n));
        active.is_none_or(|p| p.file.is_none() || p.end + frame > pack_bytes_max)
    }

    fn add_container(&mut self, c: Container) -> u32 {
        let slot = self.next_slot;
        self.next_slot += 1;
        self.slots.insert(c.sha256, slot);
        self.containers.insert(slot, c);
        slot
    }

    /// Reads the chunks of a complete container from it. What packs have of them is of no more
    /// use: a large file is on disk once.
    fn prefer(&mut self, slot: u32) {
        let Some(c) = self.containers.get(&slot).filter(|c| !c.leaving) else {
            return;
        };
        let is_complete = c.is_complete();
        let present: Vec<_> = c.present().collect();
        for (index, id) in present {
            let spot = Spot::Container { slot, index };
            match self.chunks.get(&id) {
                Some(Spot::Pack { .. }) if is_complete => {
                    self.take_out(id);
                    self.place(id, Some(spot));
                }
                Some(_) => {}
                None => self.place(id, Some(spot)),
            }
        }
    }
}

/// What a store holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Chunks that can be read.
    pub chunks: u64,
    /// Packs.
    pub packs: u64,
    /// Bytes in packs that chunks are read from, with their frames.
    pub live_bytes: u64,
    /// Bytes in packs that nothing is read from any more.
    pub dead_bytes: u64,
    /// Containers, complete or not.
    pub containers: u64,
    /// Bytes of pieces that are in containers.
    pub container_bytes: u64,
}

/// See [`crate::chunk::store`].
#[derive(Debug)]
pub struct Chunks {
    dir: PathBuf,
    table: Mutex<Table>,
    turn: Mutex<()>,
    scrub: Mutex<Option<care::Cursor>>,
    damage: AtomicU64,
    pack_bytes_max: u64,
}

impl Chunks {
    /// Opens the store in a directory, or makes one.
    ///
    /// # Errors
    /// As the file system. Damage is no error: what is damaged is not here.
    pub fn open(dir: &Path) -> Result<Self, ChunkError> {
        Self::open_with(dir, PACK_BYTES_MAX)
    }

    fn open_with(dir: &Path, pack_bytes_max: u64) -> Result<Self, ChunkError> {
        let read = || {
            for sub in ["packs", "containers", "lost"] {
                durable::dirs(&dir.join(sub))?;
            }
            read_table(dir, pack_bytes_max)
        };
        Ok(Self {
            dir: dir.to_owned(),
            table: Mutex::new(read().map_err(failed("open the store of chunks"))?),
            turn: Mutex::default(),
            scrub: Mutex::default(),
            damage: AtomicU64::new(0),
            pack_bytes_max,
        })
    }

    /// The table is changed by steps that each leave it true; who died left it so.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a chunk is here, as far as is known without reading it. The largest piece of zeros
    /// always is.
    #[must_use]
    pub fn has(&self, id: &ChunkId) -> bool {
        whole::is_zeros(id) || self.table().holds(id)
    }

    /// Chunks that were found damaged since the store was opened, by whoever read them.
    #[must_use]
    pub fn damage(&self) -> u64 {
        self.damage.load(Ordering::Relaxed)
    }

    /// What is here.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let t = self.table();
        let live = t.packs.values().map(|p| p.live).sum();
        let all: u64 = t.packs.values().map(|p| p.end).sum();
        Stats {
            chunks: t.chunks.len() as u64,
            packs: t.packs.len() as u64,
            live_bytes: live,
            dead_bytes: all - live,
            containers: t.containers.len() as u64,
            container_bytes: t.containers.values().map(|c| c.bytes).sum(),
        }
    }

    /// Puts a chunk into a pack if it is not here, and says whether it was new. If it was, it
    /// survives the death of the process from now on; that of the machine, or if a container that
    /// is being filled has it, after a [`Chunks::flush`].
    ///
    /// # Errors
    /// When these are not its bytes, or as the disk.
    pub fn put(&self, id: &ChunkId, bytes: &[u8]) -> Result<bool, ChunkError> {
        let fits = (1..=PIECE_BYTES_MAX as usize).contains(&bytes.len());
        if self.has(id) {
            return Ok(false);
        }
        if !fits || ChunkId::of(bytes) != *id {
            return Err(ChunkError::Mismatch(*id));
        }
        let frame = pack::FRAME_HEAD + bytes.len() as u64;
        let mut t = self.table();
        if t.opens_pack(frame, self.pack_bytes_max) && t.open_files() >= OPEN_FILES_MAX {
            drop(t);
            self.flush()?;
            t = self.table();
        }
        if t.holds(id) {
            return Ok(false);
        }
        self.append(&mut t, id, bytes)?;
        Ok(true)
    }

    /// Puts checked bytes into the pack that takes what comes, and reads them from there.
    fn append(&self, t: &mut Table, id: &ChunkId, bytes: &[u8]) -> Result<(), ChunkError> {
        let len = u32::try_from(bytes.len()).map_err(|_| ChunkError::Mismatch(*id))?;
        let frame = pack::FRAME_HEAD + u64::from(len);
        let room = |p: &Pack| p.end + frame <= self.pack_bytes_max;
        let active = t.active.filter(|n| t.packs.get(n).is_some_and(room));
        let n = match active {
            Some(n) => n,
            None => {
                let n = t.next_pack;
                let made = pack::create(&self.dir, n).map_err(failed("make a pack"))?;
                t.next_pack += 1;
                t.packs.insert(n, made);
                n
            }
        };
        t.active = Some(n);
        let path = pack::pack_path(&self.dir, n);
        let p = t.packs.entry(n).or_default();
        let write = || -> io::Result<Arc<File>> {
            let file = match &p.file {
                Some(file) => file.clone(),
                None => Arc::new(disk::open(&path)?),
            };
            let head = pack::frame_head(id, len);
            let done = disk::write(&path, &file, bytes, p.end + pack::FRAME_HEAD)
                .and_then(|()| disk::write(&path, &file, &head, p.end));
            if done.is_err() {
                // If this fails, too, the next frame overwrites what is there.
                let _first_error_counts = disk::set_len(&path, &file, p.end);
            }
            done.map(|()| file)
        };
        let file = write().map_err(failed("write a chunk"))?;
        let at = u32::try_from(p.end).expect("packs are shorter");
        p.file = Some(file);
        p.pending.push(Record {
            id: *id,
            at,
            len,
            gone: false,
        });
        p.end += frame;
        t.place(*id, Some(Spot::Pack { pack: n, at, len }));
        Ok(())
    }

    /// The bytes of a chunk, if it is here.
    ///
    /// # Errors
    /// When it was damaged, or as the disk.
    pub fn read(&self, id: &ChunkId) -> Result<Option<Vec<u8>>, ChunkError> {
        if whole::is_zeros(id) {
            return Ok(Some(vec![0; PIECE_BYTES_MAX as usize]));
        }
        loop {
            let Some((spot, read)) = self.look(id) else {
                return Ok(None);
            };
            if let Ok(bytes) = &read
                && ChunkId::of(bytes) == *id
            {
                return read.map(Some).map_err(failed("read a chunk"));
            }
            // Who reorganises moves chunks first and removes files then: look again.
            if self.table().chunks.get(id) != Some(&spot) {
                continue;
            }
            return match read {
                Err(e) if !is_damage(&e) => Err(failed("read a chunk")(e)),
                _ => {
                    self.quarantine(id, spot);
                    Err(ChunkError::Damaged(*id))
                }
            };
        }
    }

    /// So many bytes of a chunk from one on, as far as it has them. The whole chunk is read, as
    /// its name says nothing of a part.
    ///
    /// # Errors
    /// As [`Chunks::read`].
    pub fn read_part(
        &self,
        id: &ChunkId,
        at: u32,
        len: u32,
    ) -> Result<Option<Vec<u8>>, ChunkError> {
        Ok(self.read(id)?.map(|mut bytes| {
            bytes.truncate((at as usize).saturating_add(len as usize));
            bytes.drain(..bytes.len().min(at as usize));
            bytes
        }))
    }

    /// What is at the place of a chunk, unchecked.
    fn look(&self, id: &ChunkId) -> Option<(Spot, io::Result<Vec<u8>>)> {
        let t = self.table();
        let spot = *t.chunks.get(id)?;
        Some(match spot {
            Spot::Pack { pack, at, len } => {
                drop(t);
                (spot, pack::read(&self.dir, pack, at, len))
            }
            Spot::Container { slot, index } => {
                let c = t.containers.get(&slot)?;
                let (piece, at) = *c.pieces.get(index as usize)?;
                let sha256 = c.sha256;
                drop(t);
                (spot, container::read(&self.dir, &sha256, at, piece.len))
            }
        })
    }

    /// Takes out what is damaged; a container may have the chunk, too.
    fn quarantine(&self, id: &ChunkId, spot: Spot) {
        tracing::error!(chunk = %id, ?spot, "damaged on disk");
        self.damage.fetch_add(1, Ordering::Relaxed);
        let mut t = self.table();
        if let Spot::Container { slot, index } = spot {
            t.mark(slot, index, false);
        }
        if t.chunks.get(id) != Some(&spot) {
            return;
        }
        t.take_out(*id);
        t.place(*id, None);
        t.find_again(&mut HashSet::from([*id]));
    }
}

/// Whether a failed read means that the bytes are not there, rather than that the disk failed.
fn is_damage(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound
    )
}

fn read_table(dir: &Path, pack_bytes_max: u64) -> io::Result<Table> {
    let mut t = Table::default();
    for n in pack::numbers(dir)? {
        let Some((p, records)) = pack::open(dir, n)? else {
            tracing::error!(pack = n, "not a pack; it is in lost/");
            let path = pack::pack_path(dir, n);
            let name = path.file_name().unwrap_or_default();
            disk::rename(&path, &dir.join("lost").join(name))?;
            disk::remove(&pack::index_path(dir, n))?;
            continue;
        };
        t.next_pack = n + 1;
        t.active = Some(n).filter(|_| p.end < pack_bytes_max);
        t.packs.insert(n, p);
        for r in records {
            let (at, len) = (r.at, r.len);
            let spot = Spot::Pack { pack: n, at, len };
            // The newest counts: what came again after damage, or what was moved here.
            if !r.gone {
                t.place(r.id, Some(spot));
            } else if t.chunks.get(&r.id) == Some(&spot) {
                t.place(r.id, None);
            }
        }
    }
    let containers = container::open_all(dir)?;
    // The same with names.
    for sub in ["packs", "containers"] {
        disk::sync_dir(&dir.join(sub))?;
    }
    for c in containers {
        let slot = t.add_container(c);
        t.prefer(slot);
    }
    Ok(t)
}

#[cfg(test)]
mod tests;
