//! Opening and closing regular files: which way their bytes go while they are open.

use std::sync::Arc;

use super::data::settle;
use super::{Fs, Result, own, xattr};
use crate::base::id::Oid;
use crate::base::limit::SMALL_FILE_BYTES_MAX;
use crate::record::model::Kind;
use crate::volume::Volume;
use crate::volume::error::VolumeError;
use crate::volume::inode::{Data, Ino, Inode};
use crate::volume::live::Live;
use crate::volume::spill::Spill;

/// Files above this are handed to programs that read them: below it the kernel's own cache does as
/// well.
const DIRECT_READ_MIN: u64 = 1 << 20;

/// How an open file is read and written.
#[derive(Debug, Clone)]
pub enum Opened {
    /// Its bytes are those of the inode, and may be cached.
    Bytes,
    /// The same, and what the kernel has cached of them is outdated.
    Afresh,
    /// The same, and nothing may be cached: others have the file itself.
    Uncached,
    /// Its bytes were made for this handle; their number is not that of the inode.
    Text(u64),
    /// By the overlay file itself.
    Direct(Arc<Spill>),
}

/// What somebody wants to do with a file.
#[derive(Debug, Clone, Copy, Default)]
pub struct Access {
    /// Write to it, too.
    pub write: bool,
    /// He is not likely to begin with an empty file.
    pub keeps: bool,
    /// The kernel can hand him the file itself.
    pub direct: bool,
}

impl Fs {
    /// Opens a file.
    ///
    /// # Errors
    /// `IsDir`, `Stale`, `ReadOnly`.
    pub fn open(&self, ino: Ino, write: bool, truncate: bool) -> Result<Opened> {
        let access = Access {
            write,
            ..Access::default()
        };
        let opened = self.open_as(ino, access)?;
        if truncate && write {
            let done = self
                .lock_to_cut(ino)
                .and_then(|(mut live, moved)| self.resize(&mut live, ino, 0, moved));
            if let Err(e) = done {
                self.release(ino, write);
                return Err(e);
            }
        }
        Ok(opened)
    }

    /// Opens a file, by its overlay file if that earns its cost.
    ///
    /// # Errors
    /// `IsDir`, `Stale`, `ReadOnly`; the journal's.
    pub fn open_as(&self, ino: Ino, access: Access) -> Result<Opened> {
        if access.write {
            self.may_change(ino)?;
        }
        if own::is_own(ino) {
            return Ok(self.own.open(ino)?.map_or(Opened::Bytes, Opened::Text));
        }
        let mut access = access;
        let mut ready = Ready::default();
        loop {
            let mut live = self.volume.lock();
            let i = live.inode_mut(ino)?;
            if i.kind == Kind::Dir {
                return Err(VolumeError::IsDir);
            }
            // The kernel opens pipes, sockets and devices by itself.
            if !i.kind.has_bytes() {
                return Err(VolumeError::Invalid("a node without bytes"));
            }
            match self.way(i, access, &ready) {
                Way::Cached => {
                    let old_pages = i.old_pages;
                    count(i, access.write);
                    return Ok(match (i.direct.is_some(), old_pages) {
                        (true, _) => Opened::Uncached,
                        (false, true) => Opened::Afresh,
                        (false, false) => Opened::Bytes,
                    });
                }
                Way::Direct(s) => {
                    let entry = self.hand_over(&mut live, ino, access.write, &s)?;
                    drop(live);
                    if let Some(n) = entry
                        && let Err(e) = self.volume.journal().sync(n)
                    {
                        self.release(ino, access.write);
                        return Err(e.into());
                    }
                    return Ok(Opened::Direct(s));
                }
                Way::Prepare(data) => {
                    drop(live);
                    // Who has no room for that reads and writes through us.
                    if let Err(e) = self.prepare(&data, access.write, &mut ready) {
                        tracing::debug!(ino, error = %e, "not opened by the file itself");
                        access.direct = false;
                    }
                }
            }
        }
    }

    /// Which way a file is opened. While it is open, all go the same way.
    fn way(&self, i: &Inode, access: Access, ready: &Ready) -> Way {
        let is_open = i.opens > 0;
        // What a write takes away from a file goes when we are told of the write.
        let direct = access.direct && !(access.write && xattr::is_privileged(i));
        let plain = i.kind == Kind::File && !(i.removed && i.direct.is_none());
        match (&i.data, &i.direct) {
            (Data::Spilled(s), Some(d)) if direct => {
                let waits = s.is_sealed() || !(d.writable || ready.is_synced(s));
                if access.write && waits {
                    return Way::Prepare(i.data.clone());
                }
                Way::Direct(s.clone())
            }
            (_, Some(_)) => Way::Cached,
            _ if is_open || !plain || !direct => Way::Cached,
            (Data::Spilled(s), None) => {
                if access.write && (s.is_sealed() || !ready.is_synced(s)) {
                    return Way::Prepare(i.data.clone());
                }
                Way::Direct(s.clone())
            }
            (Data::Blob { id, len, chunked }, None) => {
                let large = match access.write {
                    true => *len > SMALL_FILE_BYTES_MAX,
                    false => *len > DIRECT_READ_MIN,
                };
                // Who begins with an empty file needs no copy of the old one.
                let is_there = match chunked {
                    true => !access.write,
                    false => self.volume.is_cached(id),
                };
                let cheap = access.keeps || is_there;
                match ready.of(id).filter(|s| !(access.write && s.is_sealed())) {
                    Some(s) => Way::Direct(s),
                    None if large && cheap => Way::Prepare(i.data.clone()),
                    None => Way::Cached,
                }
            }
            // What a merge of two versions made, and is in no commit.
            (Data::Memory(m), None) if access.write && i.dirty.is_none() && !i.born => {
                let large = m.len() as u64 > SMALL_FILE_BYTES_MAX;
                match ready.copy_of(m) {
                    Some(s) => Way::Direct(s),
                    None if large && access.keeps => Way::Prepare(i.data.clone()),
                    None => Way::Cached,
                }
            }
            _ => Way::Cached,
        }
    }

    /// What takes long, without the lock.
    fn prepare(&self, data: &Data, write: bool, ready: &mut Ready) -> Result<()> {
        let s = match data {
            Data::Spilled(s) => {
                if write && s.is_sealed() {
                    self.volume.open_seal(s)?;
                }
                s.clone()
            }
            Data::Blob { id, chunked, .. } if *chunked => {
                let s = match write {
                    true => self.volume.spill(data)?,
                    false => {
                        let found = self.volume.hand_container(id)?;
                        found.ok_or(VolumeError::Unsupported("a container of several"))?
                    }
                };
                ready.taken = Some((*id, s.clone()));
                s
            }
            Data::Blob { id, .. } => {
                let s = self.volume.take_cached(id)?;
                ready.taken = Some((*id, s.clone()));
                s
            }
            Data::Memory(m) => {
                let s = self.volume.spill(data)?;
                ready.copied = Some((m.clone(), s.clone()));
                s
            }
            Data::None => return Ok(()),
        };
        if write {
            self.volume.sync_spill(&s)?;
            ready.synced = Some(s);
        }
        Ok(())
    }

    /// One more has the overlay file. The journal's entry that must last first.
    fn hand_over(
        &self,
        live: &mut Live,
        ino: Ino,
        write: bool,
        s: &Arc<Spill>,
    ) -> Result<Option<u64>> {
        if live.inode(ino)?.direct.is_none() {
            Volume::hand_over(live, ino, s.clone())?;
        }
        if write && let Err(e) = self.volume.bind(live, ino) {
            if live.inode(ino)?.opens == 0 {
                self.volume.end_reading(live, ino);
            }
            return Err(e);
        }
        let i = live.inode_mut(ino)?;
        count(i, write);
        Ok(i.direct.as_ref().filter(|_| write).map(|d| d.entry))
    }

    /// Whether programs have the overlay file itself.
    pub(super) fn is_direct(&self, ino: Ino) -> bool {
        let live = self.volume.lock();
        live.inodes.get(&ino).is_some_and(|i| i.direct.is_some())
    }

    /// As [`Fs::release`], by a handle of [`Fs::open`].
    pub fn release_by(&self, ino: Ino, handle: u64, write: bool) {
        if own::is_own(ino) {
            return self.own.release(ino, handle);
        }
        self.release(ino, write);
    }

    /// The last reference to a handle is gone.
    pub fn release(&self, ino: Ino, write: bool) {
        let mut live = self.volume.lock();
        let mut ready = false;
        live.observe(ino);
        if let Some(i) = live.inodes.get_mut(&ino) {
            i.opens = i.opens.saturating_sub(1);
            i.writers = i.writers.saturating_sub(u32::from(write));
            let last = i.opens == 0;
            // A shell closes a copy of the descriptor before it writes: only the last close
            // says that the writer is done.
            ready = i.writers == 0 && settle(&mut live, ino).unwrap_or(false);
            if last {
                self.volume.end_reading(&mut live, ino);
                // What an earlier view alone made is on no disk.
                let blob = live.inode(ino).map(|i| i.shown.blob);
                if blob.is_ok_and(|b| self.volume.is_stored(&b).unwrap_or(false)) {
                    live.give_up_closed(ino);
                }
            }
        }
        live.drop_if_idle(ino);
        drop(live);
        if ready {
            self.volume.wake();
        }
    }
}

fn count(i: &mut Inode, write: bool) {
    i.opens += 1;
    i.writers += u32::from(write);
}

/// What was done without the lock so that a file can be handed over under it.
#[derive(Debug, Default)]
struct Ready {
    /// An overlay file with the bytes of this blob.
    taken: Option<(Oid, Arc<Spill>)>,
    /// One with these bytes.
    copied: Option<(Arc<Vec<u8>>, Arc<Spill>)>,
    /// This overlay file is durable.
    synced: Option<Arc<Spill>>,
}

impl Ready {
    fn of(&self, id: &Oid) -> Option<Arc<Spill>> {
        let (of, s) = self.taken.as_ref()?;
        (of == id).then(|| s.clone())
    }

    fn copy_of(&self, bytes: &Arc<Vec<u8>>) -> Option<Arc<Spill>> {
        let (of, s) = self.copied.as_ref()?;
        Arc::ptr_eq(of, bytes).then(|| s.clone())
    }

    fn is_synced(&self, s: &Arc<Spill>) -> bool {
        self.synced.as_ref().is_some_and(|m| Arc::ptr_eq(m, s))
    }
}

#[derive(Debug)]
enum Way {
    /// Through this process.
    Cached,
    /// By this overlay file.
    Direct(Arc<Spill>),
    /// By the overlay file that is made or synced first.
    Prepare(Data),
}
