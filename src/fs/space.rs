//! Room in a file: what is set aside, and holes.

use super::{Fs, Result, data, own};
use crate::base::clock;
use crate::journal::Patch;
use crate::volume::error::VolumeError;
use crate::volume::inode::{Data, Ino};
use crate::volume::live::Stale;

/// What `fallocate` may be asked for, over a range of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocate {
    /// Room is set aside; the file grows to the end of the range. Nothing is promised: a later
    /// write may find the disk full, since each version of a file takes room of its own.
    Grow,
    /// The same, and the size stays.
    Keep,
    /// Zeros, up to the end of the file.
    Punch,
    /// Zeros; the file grows to the end of the range.
    Zero,
    /// Zeros up to the end of the file, whose size stays.
    ZeroKeep,
}

impl Fs {
    /// Changes what room a range of a file has.
    ///
    /// # Errors
    /// `Invalid` for an empty range, `TooLarge`, `ReadOnly`, `IsDir`; the journal's and the disk's.
    pub fn allocate(&self, ino: Ino, what: Allocate, at: u64, len: u64) -> Result<()> {
        self.may_change(ino)?;
        if len == 0 {
            return Err(VolumeError::Invalid("an empty range"));
        }
        let end = at.saturating_add(len);
        let grows = matches!(what, Allocate::Grow | Allocate::Zero);
        let max = self.volume.file_bytes_max();
        if grows && end > max {
            return Err(VolumeError::TooLarge(max));
        }
        if own::is_own(ino) {
            return Err(VolumeError::ReadOnly);
        }
        if !matches!(what, Allocate::Grow | Allocate::Keep) {
            self.clear(ino, at, end)?;
        }
        if grows {
            let (mut live, moved) = self.lock_for(ino, end)?;
            if live.inode(ino)?.data.len() < end {
                self.resize(&mut live, ino, end, moved)?;
            }
            drop(live);
            self.volume.wake();
        }
        self.tell_others(vec![Stale::Content { ino }]);
        Ok(())
    }

    /// Zeros from `at` to `end`, as far as there are bytes.
    fn clear(&self, ino: Ino, at: u64, end: u64) -> Result<()> {
        let (mut live, moved) = self.lock_for(ino, 0)?;
        let end = live.inode(ino)?.data.len().min(end);
        if at >= end {
            return Ok(());
        }
        self.begin(&mut live, ino, 0, moved)?;
        let i = live.inode(ino)?;
        let (id, removed) = (i.id(), i.removed);
        match i.data.clone() {
            Data::Memory(_) => {
                let len = usize::try_from(end - at).map_err(|_| VolumeError::Invalid("range"))?;
                let zeros = vec![0; len];
                if !removed {
                    let (data, mtime) = (zeros.clone(), clock::now_ns());
                    let patch = Patch::Bytes {
                        id,
                        at,
                        data,
                        mtime,
                    };
                    self.volume.log(&mut live, vec![patch])?;
                }
                data::overwrite(&mut live, ino, at, &zeros)?;
            }
            Data::Spilled(s) => {
                let flags =
                    rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(&*s.writer()?, flags, at, end - at)
                    .map_err(std::io::Error::from)?;
            }
            Data::None | Data::Blob { .. } => return Err(VolumeError::IsDir),
        }
        self.wrote(&mut live, ino)
    }
}
