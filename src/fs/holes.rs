//! Where a file has bytes and where holes, and how much room it takes.
//!
//! Holes are known of files in the overlay alone: in a commit they are bytes like others. Who asks
//! of another file hears that all of it is bytes, which is never wrong.
//!
//! Nor are they told of a file that somebody has open for writing through this process. He may have
//! mapped it, and what he puts into a hole by that the kernel keeps to itself for a while, and does
//! not look at when it passes the question on: a copy made by such answers would lack bytes that
//! every reader sees. Who has the overlay file itself has nothing that it does not know of.

use super::{Fs, Result, own};
use crate::record::model::Kind;
use crate::volume::error::VolumeError;
use crate::volume::inode::{Data, Ino};

/// What `lseek` looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    /// The next bytes.
    Data,
    /// The next hole; the end of the file counts as one.
    Hole,
}

impl Fs {
    /// Where the next bytes or hole of a file are, from `at` on.
    ///
    /// # Errors
    /// `PastEnd` at or after the end, or when only a hole is left; `IsDir`, `Stale`.
    pub fn seek(&self, ino: Ino, handle: u64, what: Seek, at: u64) -> Result<u64> {
        let end = if own::is_own(ino) {
            self.own.len(ino, handle)?
        } else {
            let live = self.volume.lock();
            let i = live.inode(ino)?;
            if i.kind == Kind::Dir {
                return Err(VolumeError::IsDir);
            }
            let overlay = match &i.data {
                Data::Spilled(s) if i.writers == 0 || i.direct.is_some() => Some(s.clone()),
                _ => None,
            };
            let end = i.data.len();
            drop(live);
            if let Some(s) = overlay {
                let from = match what {
                    Seek::Data => rustix::fs::SeekFrom::Data(at),
                    Seek::Hole => rustix::fs::SeekFrom::Hole(at),
                };
                // Nobody reads or writes where the descriptor stands.
                return match rustix::fs::seek(s.file(), from) {
                    Err(rustix::io::Errno::NXIO) => Err(VolumeError::PastEnd),
                    other => Ok(other.map_err(std::io::Error::from)?),
                };
            }
            end
        };
        match what {
            _ if at >= end => Err(VolumeError::PastEnd),
            Seek::Data => Ok(at),
            Seek::Hole => Ok(end),
        }
    }
}

/// The room that bytes take, in units of 512: what the disk says of a file in the overlay, else as
/// many as hold them. None at all only without bytes: programs take such a file for one hole and
/// look no further, also when somebody has mapped it.
pub(super) fn blocks(data: &Data) -> u64 {
    let said = match data {
        Data::Spilled(s) => rustix::fs::fstat(s.file()).ok(),
        _ => None,
    };
    let said = said.and_then(|s| u64::try_from(s.st_blocks).ok());
    let least = u64::from(!data.is_empty());
    said.map_or_else(|| blocks_of(data.len()), |n| n.max(least))
}

/// As many as hold so many bytes.
pub(super) fn blocks_of(len: u64) -> u64 {
    len.div_ceil(512)
}
