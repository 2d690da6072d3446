//! Listing directories.

use super::{Fs, Result, Stat, own};
use crate::base::name::EntryName;
use crate::record::model::Kind;
use crate::volume::inode::{Ino, ROOT_INO, Subdirs};
use crate::volume::live::stable_ino;

/// Cookies below this are for `.` and `..`.
pub const FIRST_COOKIE: u64 = 16;

/// One entry of a listing.
#[derive(Debug, Clone)]
pub struct DirEntry {
    /// Where a reader goes on after this entry. It follows from the name alone, so it means
    /// the same in a listing that is made later, when other names have come and gone.
    pub cookie: u64,
    /// The inode's number.
    pub ino: Ino,
    /// The name.
    pub name: EntryName,
    /// What it is.
    pub kind: Kind,
}

pub(super) fn cookie(name: &EntryName) -> u64 {
    let hash = blake3::hash(name.as_bytes());
    let (first, _) = hash
        .as_bytes()
        .split_first_chunk()
        .unwrap_or((&[0; 8], &[]));
    // Kept positive for those who read it as signed.
    (u64::from_le_bytes(*first) >> 1).max(FIRST_COOKIE)
}

impl Fs {
    /// The names in a directory at this moment, by cookie; `.` and `..` are not among them.
    ///
    /// # Errors
    /// `NotDir`, the store's.
    pub fn list(&self, dir: Ino) -> Result<Vec<DirEntry>> {
        if own::is_own(dir) {
            return self.own.list(dir);
        }
        let mut live = self.volume.lock();
        let mut names = live.list(self.volume.cx(), dir)?;
        let dirs = names.iter().filter(|l| l.kind == Kind::Dir).count();
        live.inode_mut(dir)?.subdirs = Subdirs::Count(u32::try_from(dirs).unwrap_or(u32::MAX));
        drop(live);
        if dir == ROOT_INO {
            names.retain(|l| !own::is_own_name(dir, l.name.as_bytes()));
        }
        let mut entries: Vec<DirEntry> = names
            .into_iter()
            .map(|l| DirEntry {
                cookie: cookie(&l.name),
                ino: l
                    .ino
                    .or_else(|| l.shown.as_ref().map(stable_ino))
                    .unwrap_or_default(),
                name: l.name,
                kind: l.kind.plain(),
            })
            .collect();
        entries.sort_unstable_by_key(|e| e.cookie);
        Ok(entries)
    }

    /// The directory that a directory is in.
    ///
    /// # Errors
    /// `Stale`.
    pub fn parent(&self, dir: Ino) -> Result<Ino> {
        if own::is_own(dir) {
            return self.own.parent(dir);
        }
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
