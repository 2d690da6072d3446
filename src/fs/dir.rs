//! Listing directories.

use super::{Fs, Result, Stat};
use crate::base::name::EntryName;
use crate::record::model::Kind;
use crate::volume::inode::Ino;
use crate::volume::live::stable_ino;

/// One entry of a listing.
#[derive(Debug, Clone)]
pub struct DirEntry {
    /// The inode's number.
    pub ino: Ino,
    /// The name.
    pub name: EntryName,
    /// What it is.
    pub kind: Kind,
}

impl Fs {
    /// The names in a directory at this moment, sorted; `.` and `..` are not among them.
    ///
    /// # Errors
    /// `NotDir`, the store's.
    pub fn list(&self, dir: Ino) -> Result<Vec<DirEntry>> {
        let live = self.volume.lock();
        let names = live.list(self.volume.cx(), dir)?;
        drop(live);
        Ok(names
            .into_iter()
            .map(|l| DirEntry {
                ino: l
                    .ino
                    .or_else(|| l.shown.as_ref().map(stable_ino))
                    .unwrap_or_default(),
                name: l.name,
                kind: l.kind,
            })
            .collect())
    }

    /// The directory that a directory is in.
    ///
    /// # Errors
    /// `Stale`.
    pub fn parent(&self, dir: Ino) -> Result<Ino> {
        let live = self.volume.lock();
        Ok(live.inode(dir)?.place.as_ref().map_or(dir, |(p, _)| *p))
    }

    /// As [`Fs::lookup`], for an entry of a listing; `None` when it is gone since.
    ///
    /// # Errors
    /// As [`Fs::lookup`].
    pub fn lookup_entry(&self, dir: Ino, e: &DirEntry) -> Result<Option<Stat>> {
        self.lookup(dir, e.name.as_bytes())
    }
}
