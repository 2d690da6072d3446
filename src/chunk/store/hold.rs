//! Making durable, and containers that come.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, MutexGuard};

use super::container::{self, Container};
use super::pack::Record;
use super::{ChunkError, Chunks, OPEN_FILES_MAX, Spot, Table, disk, failed, pack};
use crate::chunk::{ChunkId, Piece, Sha256, Survey};

/// What became of a file that was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adopted {
    /// It is a container.
    Container,
    /// Its content was here, and it is removed.
    Here,
}

/// What of a pack is made durable.
struct PackWork {
    n: u32,
    file: Option<Arc<File>>,
    end: u64,
    listed: u64,
    records: Vec<u8>,
    count: usize,
}

/// What of a container is made durable.
struct ContainerWork {
    slot: u32,
    sha256: Sha256,
    file: Option<Arc<File>>,
    listed: u64,
    marks: Vec<u8>,
    count: usize,
}

/// Appends to an index or sidecar, durable. After an error the same is appended at the same
/// place again; what of it is there until then is true.
fn append(path: &Path, bytes: &[u8], at: u64) -> io::Result<()> {
    let file = disk::open(path)?;
    disk::write(path, &file, bytes, at)?;
    disk::sync(path, &file)
}

impl Chunks {
    /// Makes durable what is here: bytes first, then what says that they are there.
    ///
    /// # Errors
    /// As the disk. Of what came since the last flush, what is not certain to become durable is
    /// not here any more: a failed fsync is not to be repeated.
    pub fn flush(&self) -> Result<(), ChunkError> {
        let turn = self.turn();
        self.flush_in(&turn)
    }

    pub(super) fn flush_in(&self, _turn: &MutexGuard<'_, ()>) -> Result<(), ChunkError> {
        let (packs, containers, is_unnamed) = {
            let t = self.table();
            (
                pack_work(&t),
                container_work(&t),
                t.packs.values().any(|p| p.unnamed),
            )
        };
        let mut first: Result<(), ChunkError> = Ok(());
        let mut note = |e: io::Error| {
            let e = failed("make chunks durable")(e);
            if first.is_ok() {
                first = Err(e);
            }
        };
        if is_unnamed {
            match disk::sync_dir(&self.dir.join("packs")) {
                Ok(()) => {
                    let mut t = self.table();
                    for w in &packs {
                        t.packs.entry(w.n).and_modify(|p| p.unnamed = false);
                    }
                }
                Err(e) => {
                    note(e);
                    return first;
                }
            }
        }
        for w in packs {
            if let Err(e) = self.flush_pack(&w) {
                note(e);
            }
        }
        for w in containers {
            if let Err(e) = self.flush_container(&w) {
                note(e);
            }
        }
        first
    }

    fn flush_pack(&self, w: &PackWork) -> io::Result<()> {
        if let Some(file) = &w.file
            && let Err(e) = disk::sync(&pack::pack_path(&self.dir, w.n), file)
        {
            self.give_up_pack(w.n);
            return Err(e);
        }
        append(&pack::index_path(&self.dir, w.n), &w.records, w.listed)?;
        let mut t = self.table();
        if let Some(p) = t.packs.get_mut(&w.n) {
            p.durable = w.end;
            p.listed = w.listed + w.records.len() as u64;
            p.pending.drain(..w.count);
            if p.pending.is_empty() {
                p.file = None;
            }
        }
        Ok(())
    }

    /// Takes out what was not durable in a pack, and puts nothing into it any more.
    fn give_up_pack(&self, n: u32) {
        let mut t = self.table();
        t.active = t.active.filter(|a| *a != n);
        let Some(p) = t.packs.get_mut(&n) else { return };
        p.end = p.durable;
        let (durable, file) = (p.durable, p.file.take());
        let is_durable = |r: &Record| u64::from(r.at) < durable;
        let (kept, lost): (Vec<_>, Vec<_>) = p.pending.drain(..).partition(is_durable);
        p.pending = kept;
        let mut ids = HashSet::new();
        for r in lost {
            let (at, len) = (r.at, r.len);
            let spot = Spot::Pack { pack: n, at, len };
            if t.chunks.get(&r.id) == Some(&spot) {
                t.place(r.id, None);
                ids.insert(r.id);
            }
        }
        t.find_again(&mut ids);
        if let Some(file) = file {
            // If it stays, the next to open the store checks it.
            let _best = disk::set_len(&pack::pack_path(&self.dir, n), &file, durable);
        }
    }

    fn flush_container(&self, w: &ContainerWork) -> io::Result<()> {
        if let Some(file) = &w.file
            && let Err(e) = disk::sync(&container::data_path(&self.dir, &w.sha256), file)
        {
            self.give_up_pieces(w.slot);
            return Err(e);
        }
        let sidecar = container::sidecar_path(&self.dir, &w.sha256);
        append(&sidecar, &w.marks, w.listed)?;
        let mut t = self.table();
        if let Some(c) = t.containers.get_mut(&w.slot) {
            c.listed = w.listed + w.marks.len() as u64;
            c.pending.drain(..w.count);
            if c.pending.is_empty() {
                c.file = None;
            }
            t.prefer(w.slot);
        }
        Ok(())
    }

    /// Takes out the pieces of a container that were filled in and not durable.
    fn give_up_pieces(&self, slot: u32) {
        let mut t = self.table();
        let Some(c) = t.containers.get_mut(&slot) else {
            return;
        };
        c.faults += 1;
        c.file = None;
        let (filled, kept): (Vec<_>, Vec<_>) = c.pending.drain(..).partition(|(_, there)| *there);
        c.pending = kept;
        let mut ids = HashSet::new();
        for (index, _) in filled {
            c.set(index, false);
            if let Some((piece, _)) = c.pieces.get(index as usize) {
                ids.insert((index, piece.id));
            }
        }
        let mut lost = HashSet::new();
        for (index, id) in ids {
            if t.chunks.get(&id) == Some(&Spot::Container { slot, index }) {
                t.place(id, None);
                lost.insert(id);
            }
        }
        t.find_again(&mut lost);
    }

    /// Makes an empty container for a file of these pieces, durable. One that is there stays. False
    /// if that has other pieces, whoever gave it the name: these belong into packs.
    ///
    /// # Errors
    /// When no file has these pieces, or as the disk.
    pub fn begin(&self, sha256: Sha256, pieces: &[Piece]) -> Result<bool, ChunkError> {
        let _turn = self.turn();
        {
            let t = self.table();
            let slot = t.slots.get(&sha256);
            if let Some(c) = slot.and_then(|s| t.containers.get(s)) {
                return Ok(c.is_of(pieces));
            }
        }
        let mut c = Container::new(sha256, pieces);
        if !container::adds_up(pieces, c.len) {
            return Err(ChunkError::Survey(sha256));
        }
        let data = container::data_path(&self.dir, &sha256);
        // What could not be removed before may have another name, by which somebody writes to it.
        let done = disk::remove(&data).and_then(|()| {
            c.write_sidecar(&self.dir, false)?;
            c.publish_sidecar(&self.dir)?;
            let file = disk::create(&data)?;
            disk::set_len(&data, &file, c.len)?;
            disk::sync(&data, &file)?;
            disk::sync_dir(&self.dir.join("containers"))
        });
        if let Err(e) = done {
            let sidecar = container::sidecar_path(&self.dir, &sha256);
            let _first_error_counts = (disk::remove(&data), disk::remove(&sidecar));
            return Err(failed("make a container")(e));
        }
        self.table().add_container(c);
        Ok(true)
    }

    /// Writes a piece of a container that is being filled. It is here at once, but outlives the
    /// process only after a [`Chunks::flush`]. Zeros stay a hole.
    ///
    /// # Errors
    /// When these are not the piece's bytes, there is no such piece, or as the disk.
    pub fn fill(&self, sha256: &Sha256, index: u32, bytes: &[u8]) -> Result<(), ChunkError> {
        let (slot, piece, at, is_there) = self.place_of(sha256, index)?;
        // Also if it is there: who fills it in may mean another container of this name.
        if bytes.len() != piece.len as usize || ChunkId::of(bytes) != piece.id {
            return Err(ChunkError::Mismatch(piece.id));
        }
        if is_there {
            return Ok(());
        }
        self.fill_in(sha256, slot, index, (&piece, at), bytes)
    }

    /// Fills in a piece from what is here, wherever. Says whether it is there now; if it is not,
    /// its chunk is not here.
    ///
    /// # Errors
    /// When the chunk is damaged, there is no such piece, or as the disk.
    pub fn fill_from_here(&self, sha256: &Sha256, index: u32) -> Result<bool, ChunkError> {
        let (slot, piece, at, is_there) = self.place_of(sha256, index)?;
        if is_there {
            return Ok(true);
        }
        let Some(bytes) = self.read(&piece.id)? else {
            return Ok(false);
        };
        if bytes.len() != piece.len as usize {
            return Err(ChunkError::Mismatch(piece.id));
        }
        self.fill_in(sha256, slot, index, (&piece, at), &bytes)?;
        Ok(true)
    }

    /// A piece of a container: of which, where in it, and whether it is there.
    fn place_of(&self, sha256: &Sha256, index: u32) -> Result<(u32, Piece, u64, bool), ChunkError> {
        let absent = || ChunkError::Absent(*sha256, index);
        let t = self.table();
        let slot = t.slots.get(sha256).copied();
        let found = slot.and_then(|s| Some((s, t.containers.get(&s)?)));
        let (slot, c) = found.filter(|(_, c)| !c.leaving).ok_or_else(absent)?;
        let (piece, at) = c.pieces.get(index as usize).copied().ok_or_else(absent)?;
        Ok((slot, piece, at, c.has(index)))
    }

    /// Writes bytes that were checked.
    fn fill_in(
        &self,
        sha256: &Sha256,
        slot: u32,
        index: u32,
        (piece, at): (&Piece, u64),
        bytes: &[u8],
    ) -> Result<(), ChunkError> {
        let absent = || ChunkError::Absent(*sha256, index);
        let data = container::data_path(&self.dir, sha256);
        let (file, faults) = {
            let mut t = self.table();
            let is_closed = |t: &Table| t.containers.get(&slot).is_none_or(|c| c.file.is_none());
            if is_closed(&t) && t.open_files() >= OPEN_FILES_MAX {
                drop(t);
                self.flush()?;
                t = self.table();
            }
            let c = t.containers.get_mut(&slot).filter(|c| !c.leaving);
            let c = c.ok_or_else(absent)?;
            let file = match &c.file {
                Some(file) => file.clone(),
                None => Arc::new(disk::open(&data).map_err(failed("open a container"))?),
            };
            c.file = Some(file.clone());
            (file, c.faults)
        };
        let done = if bytes.iter().all(|b| *b == 0) {
            disk::zeros(&data, &file, at, piece.len)
        } else {
            disk::write(&data, &file, bytes, at)
        };
        let mut t = self.table();
        let c = t.containers.get_mut(&slot).filter(|c| !c.leaving);
        let c = c.ok_or_else(absent)?;
        if let Err(e) = done {
            if c.pending.is_empty() {
                c.file = None;
            }
            return Err(failed("fill a container")(e));
        }
        if c.faults != faults {
            let e = io::Error::other("a sync failed meanwhile");
            return Err(failed("fill a container")(e));
        }
        // A flush may have let go of it meanwhile: the next one syncs it again.
        c.file = Some(file);
        t.mark(slot, index, true);
        if !t.holds(&piece.id) {
            t.place(piece.id, Some(Spot::Container { slot, index }));
        }
        Ok(())
    }

    /// Whether the content of a file is here: as a container, or in pieces if that is enough.
    fn is_here(&self, survey: &Survey, as_container: bool) -> bool {
        let is_complete = {
            let t = self.table();
            let slot = t.slots.get(&survey.sha256);
            let c = slot.and_then(|s| t.containers.get(s));
            // One that a list of somebody else's was filled by may be of other bytes, whatever it
            // is called.
            c.is_some_and(|c| c.is_complete() && c.is_of(&survey.pieces))
        };
        is_complete || (!as_container && self.lacks(&survey.pieces, 1).is_empty())
    }

    /// Takes a file over as a container, durable: no bytes are copied, the name it had is gone.
    /// It must be on the same file system, nobody may write to it any more, and the survey must
    /// be of what it holds: it is not read. When its content is here already, as a container or,
    /// unless `as_container`, all its pieces wherever they are, the file is removed. The directory
    /// it was in is not synced. Other calls wait while its name changes, not while it is synced.
    ///
    /// # Errors
    /// When its length is not that of the survey, or as the disk. The file is where it was then,
    /// but for a disk that fails to sync the new name of one that was being filled before: that
    /// has all of it then.
    pub fn adopt(
        &self,
        path: &Path,
        survey: &Survey,
        as_container: bool,
    ) -> Result<Adopted, ChunkError> {
        let io = failed("take a file over");
        let file = File::open(path).map_err(&io)?;
        let len = file.metadata().map_err(&io)?.len();
        if len != survey.len || !container::adds_up(&survey.pieces, len) {
            return Err(ChunkError::Survey(survey.sha256));
        }
        if self.is_here(survey, as_container) {
            let turn = self.turn();
            self.flush_in(&turn)?;
            // It may have gone before our turn came.
            if self.is_here(survey, as_container) {
                disk::remove(path).map_err(&io)?;
                return Ok(Adopted::Here);
            }
        }
        disk::sync(path, &file).map_err(&io)?;
        let turn = self.turn();
        let found = {
            let t = self.table();
            let slot = t.slots.get(&survey.sha256).copied();
            slot.and_then(|s| Some((s, t.containers.get(&s)?.is_of(&survey.pieces))))
        };
        if let Some((slot, true)) = found {
            self.complete(path, slot, &survey.sha256).map_err(&io)?;
        } else {
            self.take_in(&turn, path, survey, found.is_some())?;
        }
        self.flush_in(&turn)?;
        Ok(Adopted::Container)
    }

    /// Puts a whole file in the place of one that was being filled: what was there of that is as
    /// right in this.
    fn complete(&self, path: &Path, slot: u32, sha256: &Sha256) -> io::Result<()> {
        disk::rename(path, &container::data_path(&self.dir, sha256))?;
        disk::sync_dir(&self.dir.join("containers"))?;
        let mut t = self.table();
        let Some(c) = t.containers.get(&slot) else {
            return Ok(());
        };
        let all = (0u32..).zip(&c.pieces);
        let lacking = all.filter(|(n, _)| !c.has(*n));
        let lacking: Vec<_> = lacking.map(|(n, (p, _))| (n, p.id)).collect();
        for (index, id) in lacking {
            t.mark(slot, index, true);
            // What is in packs stays there until the marks are durable.
            if !t.holds(&id) {
                t.place(id, Some(Spot::Container { slot, index }));
            }
        }
        Ok(())
    }

    /// Makes a container of a file, instead of one of other pieces if there is one: that came
    /// from others. What is only in that is somebody's all the same, and moves into packs.
    fn take_in(
        &self,
        turn: &MutexGuard<'_, ()>,
        path: &Path,
        survey: &Survey,
        is_named: bool,
    ) -> Result<(), ChunkError> {
        let io = failed("take a file over");
        let sha256 = survey.sha256;
        let mut c = Container::new(sha256, &survey.pieces);
        let data = container::data_path(&self.dir, &sha256);
        let sidecar = container::sidecar_path(&self.dir, &sha256);
        // First what takes room.
        c.write_sidecar(&self.dir, true).map_err(&io)?;
        if is_named {
            match self.evict_in(turn, &sha256, None, &mut |_| true) {
                Ok(gone) if gone.lost.is_empty() => {}
                Ok(gone) => {
                    let pieces = gone.lost.len();
                    tracing::error!(%sha256, pieces, "another file of this name is damaged");
                }
                Err(e) => {
                    let _first_error_counts = disk::remove(&sidecar.with_extension("new"));
                    return Err(e);
                }
            }
        }
        // One that could not be removed when its container went.
        if data.exists() {
            self.remove_files(&sha256).map_err(&io)?;
        }
        c.publish_sidecar(&self.dir).map_err(&io)?;
        if let Err(e) = disk::rename(path, &data) {
            let _first_error_counts = disk::remove(&sidecar);
            return Err(io(e));
        }
        if let Err(e) = disk::sync_dir(&self.dir.join("containers")) {
            let _first_error_counts = (disk::rename(&data, path), disk::remove(&sidecar));
            return Err(io(e));
        }
        let mut t = self.table();
        let slot = t.add_container(c);
        t.prefer(slot);
        Ok(())
    }
}

fn pack_work(t: &Table) -> Vec<PackWork> {
    let due = t
        .packs
        .iter()
        .filter(|(_, p)| !p.pending.is_empty() || p.unnamed);
    due.map(|(n, p)| PackWork {
        n: *n,
        file: p.file.clone(),
        end: p.end,
        listed: p.listed,
        records: pack::encode_records(&p.pending),
        count: p.pending.len(),
    })
    .collect()
}

fn container_work(t: &Table) -> Vec<ContainerWork> {
    let due = t.containers.iter().filter(|(_, c)| !c.pending.is_empty());
    due.map(|(slot, c)| ContainerWork {
        slot: *slot,
        sha256: c.sha256,
        file: c.file.clone(),
        listed: c.listed,
        marks: container::encode_marks(&container::marks_of(c.pending.clone())),
        count: c.pending.len(),
    })
    .collect()
}
