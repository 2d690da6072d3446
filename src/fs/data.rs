//! Opening, reading, writing, cutting and syncing regular files.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Fs, Result};
use crate::base::clock;
use crate::base::limit::{FILE_BYTES_MAX, SMALL_FILE_BYTES_MAX};
use crate::journal::Patch;
use crate::record::model::Kind;
use crate::volume::error::VolumeError;
use crate::volume::inode::{Data, Dirty, Ino};
use crate::volume::live::{Live, Stale};

impl Fs {
    /// Opens a file.
    ///
    /// # Errors
    /// `IsDir`, `Stale`, `ReadOnly`.
    pub fn open(&self, ino: Ino, write: bool, truncate: bool) -> Result<()> {
        if write {
            self.may_write()?;
        }
        let mut live = self.volume.lock();
        let i = live.inode_mut(ino)?;
        if i.kind == Kind::Dir {
            return Err(VolumeError::IsDir);
        }
        i.opens += 1;
        i.writers += u32::from(write);
        if truncate
            && write
            && let Err(e) = self.resize(&mut live, ino, 0)
        {
            let i = live.inode_mut(ino)?;
            i.opens -= 1;
            i.writers -= 1;
            return Err(e);
        }
        Ok(())
    }

    /// The last reference to a handle is gone.
    pub fn release(&self, ino: Ino, write: bool) {
        let mut live = self.volume.lock();
        let mut ready = false;
        if let Some(i) = live.inodes.get_mut(&ino) {
            i.opens = i.opens.saturating_sub(1);
            i.writers = i.writers.saturating_sub(u32::from(write));
            // A shell closes a copy of the descriptor before it writes: only the last close
            // says that the writer is done.
            ready = i.writers == 0 && settle(&mut live, ino).unwrap_or(false);
            self.volume.unspill_if_clean(&mut live, ino);
        }
        live.drop_if_idle(ino);
        drop(live);
        if ready {
            self.volume.wake();
        }
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
        self.volume.read(&data, at, len)
    }

    /// Writes bytes at `at`.
    ///
    /// # Errors
    /// `ReadOnly`, `IsDir`, the journal's and the disk's; nothing is changed then.
    pub fn write(&self, ino: Ino, at: u64, bytes: &[u8]) -> Result<u32> {
        self.may_write()?;
        let n = u32::try_from(bytes.len()).map_err(|_| VolumeError::Invalid("write size"))?;
        let mut live = self.volume.lock();
        self.begin(&mut live, ino, at.saturating_add(u64::from(n)))?;
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
                if let Data::Memory(m) = &mut live.inode_mut(ino)?.data {
                    put(Arc::make_mut(m), at, bytes)?;
                }
            }
            Data::Spilled(s) => {
                rustix::io::retry_on_intr(|| write_all_at(&s.file, bytes, at))
                    .map_err(std::io::Error::from)?;
                s.len.fetch_max(at + u64::from(n), Ordering::AcqRel);
            }
            Data::None | Data::Blob { .. } => return Err(VolumeError::IsDir),
        }
        self.wrote(&mut live, ino)?;
        drop(live);
        self.tell_others(vec![Stale::Attr { ino }]);
        Ok(n)
    }

    /// Makes the bytes changeable: in memory, or in an overlay file if they are many.
    fn begin(&self, live: &mut Live, ino: Ino, end: u64) -> Result<()> {
        if end > FILE_BYTES_MAX {
            return Err(VolumeError::TooLarge(FILE_BYTES_MAX));
        }
        let i = live.inode(ino)?;
        if i.kind != Kind::File {
            return Err(VolumeError::IsDir);
        }
        let (id, removed) = (i.id(), i.removed);
        if i.dirty.is_none() && !i.born && !removed {
            let mut open = vec![Patch::Open {
                id,
                base: i.shown.versions.iter().map(|v| v.content).collect(),
                kind: i.kind,
                blob: i.shown.blob,
            }];
            match &i.data {
                Data::Spilled(s) => open.push(Patch::Spill { id, file: s.number }),
                // The commit that is being written holds these bytes, under an id that nobody
                // knows yet; recovery will not find them under the blob above.
                Data::Memory(m) if live.committing.contains(&ino) => open.extend([
                    Patch::Size {
                        id,
                        len: 0,
                        mtime: i.attr.mtime,
                    },
                    Patch::Bytes {
                        id,
                        at: 0,
                        data: m.to_vec(),
                        mtime: i.attr.mtime,
                    },
                ]),
                Data::Memory(_) | Data::Blob { .. } | Data::None => {}
            }
            self.volume.log(live, open)?;
        }
        let i = live.inode(ino)?;
        let size = i.data.len().max(end);
        match &i.data {
            Data::Spilled(_) | Data::None => Ok(()),
            Data::Memory(_) if size <= SMALL_FILE_BYTES_MAX => Ok(()),
            Data::Blob { .. } if size <= SMALL_FILE_BYTES_MAX => {
                let bytes = self.volume.read(&i.data.clone(), 0, u32::MAX)?;
                live.inode_mut(ino)?.data = Data::Memory(Arc::new(bytes));
                Ok(())
            }
            Data::Memory(_) | Data::Blob { .. } => {
                let spill = self.volume.spill(&i.data.clone())?;
                if !removed {
                    let file = spill.number;
                    self.volume.log(live, vec![Patch::Spill { id, file }])?;
                }
                live.inode_mut(ino)?.data = Data::Spilled(Arc::new(spill));
                Ok(())
            }
        }
    }

    /// Bytes changed: note it for the committer, and the time.
    fn wrote(&self, live: &mut Live, ino: Ino) -> Result<()> {
        let now = clock::now_ns();
        let i = live.inode_mut(ino)?;
        i.attr.mtime = now;
        i.attr.ctime = now;
        if i.removed {
            return Ok(());
        }
        let fresh = i.dirty.is_none();
        let before = i.dirty.unwrap_or_else(|| Dirty {
            since_ms: clock::now_ms(),
            settled: false,
            generation: 0,
        });
        i.dirty = Some(Dirty {
            settled: false,
            generation: before.generation + 1,
            ..before
        });
        live.dirty.insert(ino);
        if fresh {
            self.volume.wake_later();
        }
        Ok(())
    }

    /// Sets the size.
    pub(super) fn resize(&self, live: &mut Live, ino: Ino, len: u64) -> Result<()> {
        if live.inode(ino)?.kind == Kind::Dir {
            return Err(VolumeError::IsDir);
        }
        if len == 0 {
            self.begin_empty(live, ino)?;
        } else {
            self.begin(live, ino, len)?;
        }
        let i = live.inode(ino)?;
        let (id, removed) = (i.id(), i.removed);
        if !removed {
            self.volume.log(
                live,
                vec![Patch::Size {
                    id,
                    len,
                    mtime: clock::now_ns(),
                }],
            )?;
        }
        let i = live.inode_mut(ino)?;
        match &mut i.data {
            Data::Memory(m) => {
                let n = usize::try_from(len).map_err(|_| VolumeError::Invalid("size"))?;
                Arc::make_mut(m).resize(n, 0);
            }
            Data::Spilled(s) => {
                s.file.set_len(len)?;
                s.len.store(len, Ordering::Release);
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

    /// As `begin`, for a file whose bytes are about to be dropped: they are not read.
    fn begin_empty(&self, live: &mut Live, ino: Ino) -> Result<()> {
        let i = live.inode_mut(ino)?;
        if matches!(i.data, Data::Blob { .. }) && i.kind == Kind::File {
            let (id, base) = (i.id(), i.shown.versions.iter().map(|v| v.content).collect());
            let open = Patch::Open {
                id,
                base,
                kind: i.kind,
                blob: i.shown.blob,
            };
            let removed = i.removed;
            if !removed {
                self.volume.log(
                    live,
                    vec![
                        open,
                        Patch::Size {
                            id,
                            len: 0,
                            mtime: clock::now_ns(),
                        },
                    ],
                )?;
            }
            live.inode_mut(ino)?.data = Data::Memory(Arc::new(Vec::new()));
            return self.wrote(live, ino);
        }
        self.begin(live, ino, 0)
    }

    /// Returns when the file survives a power cut.
    ///
    /// # Errors
    /// The journal's and the disk's.
    pub fn fsync(&self, ino: Ino) -> Result<()> {
        let (data, last) = {
            let mut live = self.volume.lock();
            settle(&mut live, ino)?;
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

/// Marks written bytes as fit for a commit, with the time they were written.
fn settle(live: &mut Live, ino: Ino) -> Result<bool> {
    let i = live.inode_mut(ino)?;
    let Some(d) = i.dirty.as_mut() else {
        return Ok(false);
    };
    d.settled = true;
    Ok(true)
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

fn write_all_at(file: &std::fs::File, bytes: &[u8], at: u64) -> rustix::io::Result<()> {
    let (mut rest, mut at) = (bytes, at);
    while !rest.is_empty() {
        let n = rustix::io::pwrite(file, rest, at)?;
        rest = rest.get(n..).unwrap_or_default();
        at += n as u64;
    }
    Ok(())
}
