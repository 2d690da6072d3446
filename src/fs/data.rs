//! Reading, writing, cutting and syncing regular files.

use std::sync::{Arc, MutexGuard};

use super::{Fs, Result, own};
use crate::base::clock;
use crate::base::id::Oid;
use crate::base::limit::SMALL_FILE_BYTES_MAX;
use crate::journal::Patch;
use crate::record::model::Kind;
use crate::volume::error::VolumeError;
use crate::volume::inode::{Data, Dirty, Ino, Inode};
use crate::volume::live::{Live, Stale, null_oid};
use crate::volume::spill::Spill;

impl Fs {
    /// As [`Fs::read`], by a handle of [`Fs::open`].
    ///
    /// # Errors
    /// As [`Fs::read`].
    pub fn read_by(&self, ino: Ino, handle: u64, at: u64, len: u32) -> Result<Vec<u8>> {
        if own::is_own(ino) {
            return self.own.read(ino, handle, at, len);
        }
        self.read(ino, at, len)
    }

    /// Up to `len` bytes at `at`; fewer only at the end of the file.
    ///
    /// # Errors
    /// `IsDir`, the store's.
    pub fn read(&self, ino: Ino, at: u64, len: u32) -> Result<Vec<u8>> {
        let data = {
            let live = self.volume.lock();
            let i = live.inode(ino)?;
            if i.kind == Kind::Dir {
                return Err(VolumeError::IsDir);
            }
            i.data.clone()
        };
        self.volume.supplied(|| self.volume.read(&data, at, len))
    }

    /// Whether a read or change of a file may have to wait for bytes that are not on this node.
    #[must_use]
    pub fn may_wait(&self, ino: Ino) -> bool {
        if !self.volume.is_supplied() {
            return false;
        }
        if own::is_own(ino) {
            return self.own.may_wait(ino);
        }
        let data = {
            let live = self.volume.lock();
            live.inodes.get(&ino).map(|i| i.data.clone())
        };
        data.is_some_and(|d| self.volume.may_lack(&d).unwrap_or(false))
    }

    /// Writes bytes at `at`; how many, which are fewer only when the disk fails or is full.
    ///
    /// # Errors
    /// `ReadOnly`, `IsDir`, the journal's and the disk's; nothing is changed then.
    pub fn write(&self, ino: Ino, at: u64, bytes: &[u8]) -> Result<u32> {
        self.may_write()?;
        let mut n = u32::try_from(bytes.len()).map_err(|_| VolumeError::Invalid("write size"))?;
        let end = at.saturating_add(u64::from(n));
        let (mut live, moved) = self.lock_for(ino, end)?;
        self.begin(&mut live, ino, end, moved)?;
        let i = live.inode(ino)?;
        let id = i.id();
        match i.data.clone() {
            Data::Memory(_) => {
                if !i.removed {
                    let data = bytes.to_vec();
                    let mtime = clock::now_ns();
                    let entry = vec![Patch::Bytes {
                        id,
                        at,
                        data,
                        mtime,
                    }];
                    self.volume.log(&mut live, entry)?;
                }
                overwrite(&mut live, ino, at, bytes)?;
            }
            Data::Spilled(s) => {
                n = write_at(&*s.writer()?, bytes, at)?;
            }
            Data::None | Data::Blob { .. } => return Err(VolumeError::IsDir),
        }
        self.wrote(&mut live, ino)?;
        drop(live);
        self.tell_others(vec![Stale::Content { ino }]);
        Ok(n)
    }

    /// The lock, once bytes up to `end` can be changed without an fsync: a file that will be in
    /// the overlay is there, and durable as far as it holds what must not be lost. A record
    /// that it is there may survive a power cut alone.
    pub(super) fn lock_for(&self, ino: Ino, end: u64) -> Result<(MutexGuard<'_, Live>, Moved)> {
        let max = self.volume.file_bytes_max();
        if end > max {
            return Err(VolumeError::TooLarge(max));
        }
        let mut moved = Moved::default();
        loop {
            let live = self.lock_alone(|_| Ok(vec![ino]))?;
            let i = live.inode(ino)?;
            let opens = is_opening(i);
            match &i.data {
                Data::Spilled(s) if s.is_sealed() => {
                    let s = s.clone();
                    drop(live);
                    self.volume.open_seal(&s)?;
                }
                // Synced when it was bound.
                Data::Spilled(_) if i.is_shared() => return Ok((live, moved)),
                Data::Spilled(s) if opens && !moved.is_synced(s) => {
                    let s = s.clone();
                    drop(live);
                    self.volume.sync_spill(&s)?;
                    moved.synced = Some(s);
                }
                Data::Memory(_) | Data::Blob { .. }
                    if is_for_overlay(&i.data, end) && !moved.is_copy_of(i) =>
                {
                    let data = i.data.clone();
                    let precious = !(i.removed || i.born && i.dirty.is_some_and(|d| !d.synced));
                    drop(live);
                    let copy = self.volume.spill(&data)?;
                    if precious {
                        self.volume.sync_spill(&copy)?;
                    }
                    moved.copy = Some((data, copy));
                }
                _ => return Ok((live, moved)),
            }
        }
    }

    /// The lock, once a file can be made empty. What it has is not read.
    pub(super) fn lock_to_cut(&self, ino: Ino) -> Result<(MutexGuard<'_, Live>, Moved)> {
        if self.is_direct(ino) {
            return self.lock_for(ino, 0);
        }
        Ok((self.lock_alone(|_| Ok(vec![ino]))?, Moved::default()))
    }

    /// The lock, once no other inode of the files that `of` names has bytes for a commit: the
    /// journal and a commit know one version of a file at a time. What is in the way is
    /// committed first.
    pub(super) fn lock_alone(
        &self,
        of: impl Fn(&mut Live) -> Result<Vec<Ino>>,
    ) -> Result<MutexGuard<'_, Live>> {
        for _ in 0..TURNS_MAX {
            let mut live = self.volume.lock();
            let inos = of(&mut live)?;
            for ino in &inos {
                live.observe(*ino);
            }
            let id = |i: &Ino| live.inodes.get(i).map(Inode::id);
            let rewritten = inos
                .iter()
                .filter_map(id)
                .any(|id| live.rewritten.contains(&id));
            let other = inos.iter().find_map(|i| live.other_writer(*i));
            if other.is_none() && !rewritten {
                return Ok(live);
            }
            // A file that is being written keeps its changes waiting, and all that were made
            // together with them: those of other files, too.
            let all: Vec<Ino> = live.dirty.iter().copied().collect();
            for ino in all {
                settle(&mut live, ino)?;
            }
            drop(live);
            self.volume.commit_now()?;
        }
        Err(std::io::Error::from(std::io::ErrorKind::ResourceBusy).into())
    }

    /// Makes the bytes changeable: in memory, or in an overlay file if they are many.
    pub(super) fn begin(&self, live: &mut Live, ino: Ino, end: u64, moved: Moved) -> Result<()> {
        let i = live.inode(ino)?;
        if i.kind != Kind::File {
            return Err(VolumeError::IsDir);
        }
        if i.direct.is_some() {
            // The journal says so for as long as anybody may write.
            return self.volume.bind(live, ino);
        }
        let (id, opens) = (i.id(), is_opening(i));
        let mut patches = Vec::new();
        let mut data = None;
        let mut untold = None;
        match &i.data {
            Data::None => {}
            Data::Spilled(s) => {
                untold = s.is_untold().then(|| s.clone());
                patches.push(Patch::Spill { id, file: s.number });
            }
            Data::Memory(_) | Data::Blob { .. } if is_for_overlay(&i.data, end) => {
                let copy = moved.copy.map(|(_, s)| s);
                let copy = copy.ok_or(VolumeError::Invalid("a file that moved meanwhile"))?;
                let file = copy.number;
                patches.push(Patch::Spill { id, file });
                data = Some(Data::Spilled(copy));
            }
            Data::Blob { .. } => {
                let bytes = self.volume.read(&i.data.clone(), 0, u32::MAX)?;
                data = Some(Data::Memory(Arc::new(bytes)));
            }
            Data::Memory(_) => {}
        }
        if opens {
            // What is being committed, or was merged and is in no commit, is no object yet.
            // Nor does the journal change chunks.
            let is_cut = i.shown.kind == Kind::Large && data.is_none() && !i.data.is_spilled();
            let known = !live.committing.contains(&ino)
                && !is_cut
                && !i.shown.blob.is_null()
                && self.volume.is_stored(&i.shown.blob)?;
            if let (false, Data::Memory(m)) = (known, data.as_ref().unwrap_or(&i.data))
                && !m.is_empty()
            {
                let (data, mtime) = (m.as_ref().clone(), i.attr.mtime);
                patches.push(Patch::Size { id, len: 0, mtime });
                patches.push(Patch::Bytes {
                    id,
                    at: 0,
                    data,
                    mtime,
                });
            }
            let blob = if known { i.shown.blob } else { null_oid() };
            patches.insert(0, open_patch(i, blob));
        } else if data.is_none() && untold.is_none() {
            // Its overlay file is in the journal already.
            patches.clear();
        }
        if !i.removed && !patches.is_empty() {
            self.volume.log(live, patches)?;
        }
        if let Some(s) = untold {
            s.told();
        }
        if let Some(data) = data {
            live.inode_mut(ino)?.data = data;
        }
        Ok(())
    }

    /// Bytes changed: note it for the committer, and the time.
    pub(super) fn wrote(&self, live: &mut Live, ino: Ino) -> Result<()> {
        let now = clock::now_ns();
        let taken = live.taken;
        let i = live.inode_mut(ino)?;
        i.attr.mtime = now;
        i.attr.ctime = now;
        if i.removed {
            return Ok(());
        }
        i.dirty = Some(i.dirty.unwrap_or_else(|| Dirty::new(taken)).more());
        let id = i.id();
        live.dirty.insert(ino);
        live.writing.insert(id, ino);
        Ok(())
    }

    /// Sets the size. For 0, the bytes are not read, and `moved` may be empty.
    pub(super) fn resize(&self, live: &mut Live, ino: Ino, len: u64, moved: Moved) -> Result<()> {
        if live.inode(ino)?.kind == Kind::Dir {
            return Err(VolumeError::IsDir);
        }
        if live.inode(ino)?.kind != Kind::File {
            return Err(VolumeError::IsDir);
        }
        // An overlay file that programs have stays, and the journal knows of it.
        let direct = live.inode(ino)?.direct.is_some();
        if len > 0 || direct {
            self.begin(live, ino, len, moved)?;
        }
        let i = live.inode(ino)?;
        let is_sealed = matches!(&i.data, Data::Spilled(s) if s.is_sealed());
        let (id, removed) = (i.id(), i.removed);
        let opens = (is_opening(i) || is_sealed && !removed) && !direct;
        let is_anew = len == 0 && (opens || is_sealed || matches!(i.data, Data::Blob { .. }));
        let is_anew = is_anew && !direct;
        let mut patches = Vec::new();
        if len == 0 && opens {
            // In one entry with the size: were there no room for that, the old bytes would be gone.
            patches.push(open_patch(i, null_oid()));
        }
        if !removed && !direct {
            let mtime = clock::now_ns();
            patches.push(Patch::Size { id, len, mtime });
            self.volume.log(live, patches)?;
        }
        let i = live.inode_mut(ino)?;
        if is_anew {
            i.data = Data::Memory(Arc::default());
        }
        match &mut i.data {
            Data::Memory(m) => {
                let n = usize::try_from(len).map_err(|_| VolumeError::Invalid("size"))?;
                Arc::make_mut(m).resize(n, 0);
            }
            Data::Spilled(s) => {
                s.writer()?.set_len(len)?;
            }
            Data::None | Data::Blob { .. } => return Err(VolumeError::IsDir),
        }
        self.wrote(live, ino)?;
        // `truncate` without a handle has no close that would settle it.
        if live.inode(ino)?.writers == 0 {
            settle(live, ino)?;
        }
        Ok(())
    }

    /// Returns when the file survives a power cut.
    ///
    /// # Errors
    /// The journal's and the disk's.
    pub fn fsync(&self, ino: Ino) -> Result<()> {
        if own::is_own(ino) {
            return Ok(());
        }
        let (data, last) = {
            let mut live = self.volume.lock();
            live.observe(ino);
            settle(&mut live, ino)?;
            if let Some(d) = &mut live.inode_mut(ino)?.dirty {
                d.synced = true;
            }
            (live.inode(ino)?.data.clone(), self.volume.journal().last())
        };
        if let Data::Spilled(s) = data {
            self.volume.sync_spill(&s)?;
        }
        self.volume.journal().sync(last)?;
        self.volume.wake();
        Ok(())
    }
}

impl Fs {
    /// Returns when all names made and removed so far survive a power cut.
    ///
    /// # Errors
    /// The journal's.
    pub fn fsync_dir(&self) -> Result<()> {
        let last = self.volume.journal().last();
        Ok(self.volume.journal().sync(last)?)
    }
}

/// How often a writer lets another one of the same file go first.
const TURNS_MAX: usize = 1_000;

/// What was done without the lock so that bytes can be changed under it.
#[derive(Debug, Default)]
pub(super) struct Moved {
    /// An overlay file with these bytes.
    copy: Option<(Data, Arc<Spill>)>,
    /// This overlay file is durable.
    synced: Option<Arc<Spill>>,
}

impl Moved {
    fn is_synced(&self, s: &Arc<Spill>) -> bool {
        self.synced.as_ref().is_some_and(|m| Arc::ptr_eq(m, s))
    }

    fn is_copy_of(&self, i: &Inode) -> bool {
        match (self.copy.as_ref().map(|(d, _)| d), &i.data) {
            (Some(Data::Memory(a)), Data::Memory(b)) => Arc::ptr_eq(a, b),
            (Some(Data::Blob { id: a, .. }), Data::Blob { id: b, .. }) => a == b,
            _ => false,
        }
    }
}

/// Whether the next change is the first since the last commit. A file that is born with bytes, as
/// one that was moved aside, has them by their name: the journal is told what changes begin with.
fn is_opening(i: &Inode) -> bool {
    let is_new = i.born && i.shown.blob.is_null();
    i.dirty.is_none() && !is_new && !i.removed
}

fn open_patch(i: &Inode, blob: Oid) -> Patch {
    Patch::Open {
        id: i.id(),
        base: i.shown.versions.iter().map(|v| v.content).collect(),
        // What the name is one of.
        kind: if blob.is_null() { i.kind } else { i.shown.kind },
        blob,
    }
}

/// Whether bytes that end there at least are changed in an overlay file.
fn is_for_overlay(data: &Data, end: u64) -> bool {
    let chunked = matches!(data, Data::Blob { chunked: true, .. });
    chunked || data.len().max(end) > SMALL_FILE_BYTES_MAX
}

/// Marks written bytes as fit for a commit, with the time they were written.
pub(super) fn settle(live: &mut Live, ino: Ino) -> Result<bool> {
    let i = live.inode_mut(ino)?;
    let Some(d) = i.dirty.as_mut() else {
        return Ok(false);
    };
    d.settled = true;
    Ok(true)
}

/// Puts bytes into a file that is in memory.
pub(super) fn overwrite(live: &mut Live, ino: Ino, at: u64, bytes: &[u8]) -> Result<()> {
    match &mut live.inode_mut(ino)?.data {
        Data::Memory(m) => put(Arc::make_mut(m), at, bytes),
        _ => Ok(()),
    }
}

fn put(to: &mut Vec<u8>, at: u64, bytes: &[u8]) -> Result<()> {
    let at = usize::try_from(at).map_err(|_| VolumeError::Invalid("offset"))?;
    let end = at + bytes.len();
    if to.len() < end {
        to.resize(end, 0);
    }
    if let Some(room) = to.get_mut(at..end) {
        room.copy_from_slice(bytes);
    }
    Ok(())
}

/// Writes as much as goes; an error only if that is nothing.
fn write_at(file: &std::fs::File, bytes: &[u8], at: u64) -> std::io::Result<u32> {
    let mut done = 0;
    while let Some(rest) = bytes.get(done..)
        && !rest.is_empty()
    {
        let to = at + done as u64;
        match rustix::io::retry_on_intr(|| rustix::io::pwrite(file, rest, to)) {
            Ok(n) => done += n,
            Err(e) if done == 0 => return Err(e.into()),
            Err(_) => break,
        }
    }
    u32::try_from(done).map_err(std::io::Error::other)
}
