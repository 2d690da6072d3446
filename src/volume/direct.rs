//! Files that the kernel hands to programs past this process: large ones, by their overlay files.
//!
//! Their reads and writes raise no request, and a mapping may be written to when its descriptor
//! is closed and the inode forgotten. So, for one that somebody may write to:
//!
//! - the journal names it, durably, before anybody can write ([`Patch::Bind`]); a restart compares
//!   its bytes with those that it had;
//! - it is looked at whenever somebody asks for its attributes, syncs, closes or acts on it, and
//!   now and then: what changed its times is a write ([`Live::observe`]);
//! - it stays bound until nobody has it open and a lease says that nobody has it mapped for writing
//!   ([`Volume::let_go`]).
//!
//! A program that outlives this process writes on: the kernel does not end what it gave him. What
//! he wrote by the next start is in a commit of that start. His file is kept aside then, until he
//! has closed it, and for good if he wrote more.
//!
//! Invariant: an inode's opens all go to its overlay file, or none does: the kernel mixes no two
//! caches of one inode. Threads: any, under the table's lock, but for what says otherwise.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, MutexGuard, PoisonError};

use super::commit::Blobs;
use super::inode::{Data, Direct, Dirty, Ino, Told};
use super::live::{Live, Stale};
use super::recover::{aside_of, move_aside};
use super::spill::Spill;
use super::{Volume, VolumeResult};
use crate::base::id::FileId;
use crate::base::stamp::Dot;
use crate::base::sys;
use crate::journal::{Entry, Patch};
use crate::record::change::{Change, OWN};

impl Live {
    /// Sees what programs wrote by themselves: it is for the next commit. Whether there was any.
    pub fn observe(&mut self, ino: Ino) -> bool {
        let Some(i) = self.inodes.get_mut(&ino) else {
            return false;
        };
        let (true, Data::Spilled(s)) = (i.is_shared(), &i.data) else {
            return false;
        };
        let times = match s.changed() {
            Ok(Some(t)) => t,
            Ok(None) => return false,
            Err(e) => {
                tracing::warn!(ino, error = %e, "an overlay file cannot be looked at");
                return false;
            }
        };
        s.note(times);
        i.attr.mtime = times.mtime;
        i.attr.ctime = i.attr.ctime.max(times.ctime);
        if i.removed {
            return true;
        }
        i.dirty = Some(i.dirty.unwrap_or_else(|| Dirty::new(self.taken)).more());
        let id = i.id();
        self.dirty.insert(ino);
        if self.writer_of(id).is_none() {
            self.writing.insert(id, ino);
        }
        true
    }

    /// What the journal has to say of an overlay file that programs may write to; nothing while
    /// what it says of bytes that are in no commit names the file.
    fn bound(&self, ino: Ino, blobs: Option<&Blobs>) -> Option<Told> {
        let i = self.inodes.get(&ino)?;
        let base: Vec<Dot> = i.shown.versions.iter().map(|v| v.content).collect();
        if !i.is_shared() || i.removed || i.born || base.contains(&OWN) {
            return None;
        }
        let sealed = blobs.and_then(|b| b.get(&ino).copied());
        let (kind, blob) = match self.sealing.get(&ino) {
            Some(known) => sealed.or(*known)?,
            None => (i.shown.kind, i.shown.blob),
        };
        let id = i.id();
        let told = Told {
            id,
            base,
            kind,
            blob,
        };
        (!blob.is_null()).then_some(told)
    }
}

impl Volume {
    /// Says in the journal that programs may write to an inode's overlay file, which holds what the
    /// inode shows and is durable. The journal has to be synced before anybody can.
    pub(crate) fn bind(&self, live: &mut Live, ino: Ino) -> VolumeResult<()> {
        let Data::Spilled(s) = live.inode(ino)?.data.clone() else {
            return Ok(());
        };
        if live.inode(ino)?.is_shared() {
            return Ok(());
        }
        // The journal would name what others name, too.
        if s.is_sealed() {
            return Err(io::Error::from(io::ErrorKind::ResourceBusy).into());
        }
        s.note(s.times()?);
        let i = live.inode_mut(ino)?;
        let d = i.direct.get_or_insert_default();
        d.writable = true;
        i.old_pages = true;
        live.directs.insert(ino);
        if let Err(e) = self.tell_journal(live, ino, None) {
            live.directs.remove(&ino);
            if let Some(d) = &mut live.inode_mut(ino)?.direct {
                d.writable = false;
            }
            return Err(e);
        }
        Ok(())
    }

    fn tell_journal(&self, live: &mut Live, ino: Ino, blobs: Option<&Blobs>) -> VolumeResult<()> {
        let told = live.bound(ino, blobs);
        let i = live.inode_mut(ino)?;
        let number = overlay_number(&i.data);
        let (Some(d), Some(file)) = (&mut i.direct, number) else {
            return Ok(());
        };
        let last = self.journal.last();
        match told {
            Some(t) if d.told.as_ref() != Some(&t) => {
                let bind = bind_patch(&t, file);
                d.entry = self.journal.append(&Entry::Op(vec![bind]))?;
                d.told = Some(t);
            }
            _ => d.entry = d.entry.max(last),
        }
        Ok(())
    }

    /// What is about to be committed of files that programs write to by themselves is what they
    /// began as from then on. Before the head record is in the journal.
    pub(super) fn pin(&self, blobs: &Blobs) -> VolumeResult<()> {
        let mut live = self.lock();
        for (ino, blob) in blobs {
            if let Some(known) = live.sealing.get_mut(ino) {
                *known = Some(*blob);
            }
        }
        let all: Vec<Ino> = live.directs.iter().copied().collect();
        for ino in all {
            self.tell_journal(&mut live, ino, Some(blobs))?;
        }
        Ok(())
    }

    /// The patch that ends what the journal says of an inode's overlay file, if it says something.
    pub(crate) fn unbind(live: &mut Live, ino: Ino) -> Option<Patch> {
        let i = live.inodes.get_mut(&ino)?;
        let file = overlay_number(&i.data)?;
        i.direct.as_mut()?.told.take()?;
        Some(Patch::Unbind { file })
    }

    /// The patches that end what the journal says of overlay files of files that these changes end.
    pub(super) fn unbind_ended(live: &mut Live, changes: &[Change]) -> Vec<Patch> {
        if live.directs.is_empty() {
            return Vec::new();
        }
        let ended = |id: FileId| {
            changes.iter().any(|c| {
                matches!(c, Change::Drop { id: d, content, .. } if *d == id && !content.is_empty())
            })
        };
        let all: Vec<Ino> = live.directs.iter().copied().collect();
        let mut out = Vec::new();
        for ino in all {
            let Some(i) = live.inodes.get_mut(&ino) else {
                continue;
            };
            let (id, number) = (i.id(), overlay_number(&i.data));
            let (Some(d), Some(file)) = (&mut i.direct, number) else {
                continue;
            };
            if d.told.as_ref().is_some_and(|t| t.id == id) && ended(id) {
                d.told = None;
                out.push(Patch::Unbind { file });
            }
        }
        out
    }

    /// What a new segment of the journal says of overlay files that programs may write to.
    pub(super) fn bound_now(live: &Live) -> Vec<Patch> {
        let each = live.directs.iter().filter_map(|ino| {
            let i = live.inodes.get(ino)?;
            let told = i.direct.as_ref()?.told.as_ref()?;
            Some(bind_patch(told, overlay_number(&i.data)?))
        });
        each.collect()
    }

    /// Overlay files that programs of an earlier run may write to are kept aside. What they held is
    /// in a commit. What is aside already is looked at again: its programs may have ended.
    pub(super) fn keep_orphans(&self, bound: &[u64]) -> VolumeResult<()> {
        for path in self.aside()? {
            // People may take files away from there, and put others there.
            match File::open(&path) {
                Ok(file) => self.orphans().push((path, file)),
                Err(e) => tracing::warn!(path = %path.display(), error = %e, "it stays"),
            }
        }
        let mut kept = Vec::new();
        for number in bound {
            let file = match File::open(self.overlay_dir().join(number.to_string())) {
                Ok(f) => f,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e.into()),
            };
            if sys::has_writers(&file).unwrap_or(false) {
                kept.push((*number, file));
            }
        }
        if kept.is_empty() {
            return Ok(());
        }
        // What an overlay file held is where it is no more: the commit must last.
        self.journal.sync(self.journal.last())?;
        for (number, file) in kept {
            let path = move_aside(&self.overlay_dir(), number)?;
            tracing::warn!(path = %path.display(), "a program of before the start has this file still");
            self.orphans().push((path, file));
        }
        Ok(())
    }

    /// Files with bytes that could be in no commit.
    ///
    /// # Errors
    /// When they cannot be listed.
    fn aside(&self) -> io::Result<Vec<PathBuf>> {
        let all = match std::fs::read_dir(aside_of(&self.overlay_dir())) {
            Ok(all) => all,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let mut files = Vec::new();
        for e in all {
            let e = e?;
            if e.file_type()?.is_file() {
                files.push(e.path());
            }
        }
        Ok(files)
    }

    /// Where files are kept whose bytes are in no commit and never will be, and how many, if any.
    /// People are to take from them what they need, and remove them.
    #[must_use]
    pub fn kept_aside(&self) -> Option<(PathBuf, usize)> {
        let all = self.aside().unwrap_or_default();
        let watched = self.orphans();
        let left = all.iter().filter(|p| !watched.iter().any(|(w, _)| w == *p));
        match left.count() {
            0 => None,
            n => Some((aside_of(&self.overlay_dir()), n)),
        }
    }

    fn orphans(&self) -> MutexGuard<'_, Vec<(PathBuf, File)>> {
        let all = self.blobs.orphans.lock();
        all.unwrap_or_else(PoisonError::into_inner)
    }

    /// Files of [`Self::keep_orphans`] that nobody has any more go, if the history has their bytes.
    fn end_orphans(&self) {
        let all = std::mem::take(&mut *self.orphans());
        for (path, file) in all {
            if sys::has_writers(&file).unwrap_or(false) {
                self.orphans().push((path, file));
                continue;
            }
            let known = || {
                if file.metadata()?.len() > self.file_bytes_max() {
                    return Ok(false);
                }
                self.has_bytes_of(&file)
            };
            match known() {
                Ok(true) => {
                    if let Err(e) = std::fs::remove_file(&path) {
                        tracing::warn!(path = %path.display(), error = %e, "it stays");
                    }
                }
                Ok(false) => {
                    tracing::error!(path = %path.display(), "a program wrote to a file that it had from before the start: it is in no commit, and kept there");
                }
                Err(e) => tracing::warn!(path = %path.display(), error = %e, "it stays"),
            }
        }
    }

    /// Looks at all files that programs may write to, and lets those go that nobody can any more.
    pub(super) fn watch_directs(&self) {
        self.end_orphans();
        let mut stale = Vec::new();
        let mut live = self.lock();
        let all: Vec<Ino> = live.directs.iter().copied().collect();
        for ino in all {
            if live.observe(ino) {
                stale.push(Stale::Attr { ino });
            }
            if let Err(e) = self.let_go(&mut live, ino, &mut stale) {
                tracing::warn!(ino, error = %e, "an overlay file stays bound");
            }
        }
        drop(live);
        if !stale.is_empty() {
            self.tell(None, stale);
        }
    }

    /// Ends what `bind` began, once nobody can write any more and all is in a commit.
    fn let_go(&self, live: &mut Live, ino: Ino, stale: &mut Vec<Stale>) -> VolumeResult<()> {
        let busy = live.committing.contains(&ino);
        let Some(i) = live.inodes.get(&ino) else {
            live.directs.remove(&ino);
            return Ok(());
        };
        let waits = i.dirty.is_some() || i.born;
        let Data::Spilled(s) = &i.data else {
            live.directs.remove(&ino);
            return Ok(());
        };
        // Whoever holds the bytes reads them.
        let is_read = Arc::strong_count(s) > 1;
        if i.opens > 0 || is_read || (!i.removed && (busy || waits)) {
            return Ok(());
        }
        let s = s.clone();
        if s.has_writers()? || live.observe(ino) {
            return Ok(());
        }
        let i = live.inode_mut(ino)?;
        let told = i.direct.as_ref().is_some_and(|d| d.told.is_some());
        if told {
            let file = s.number;
            self.journal
                .append(&Entry::Op(vec![Patch::Unbind { file }]))?;
        }
        live.inode_mut(ino)?.direct = None;
        live.directs.remove(&ino);
        stale.push(Stale::Content { ino });
        drop(s);
        self.unspill_if_clean(live, ino);
        live.drop_if_idle(ino);
        Ok(())
    }

    /// Nobody has the file open any more, and nobody could write to it.
    pub(crate) fn end_reading(&self, live: &mut Live, ino: Ino) {
        if let Some(i) = live.inodes.get_mut(&ino)
            && i.direct.as_ref().is_some_and(|d| !d.writable)
        {
            i.direct = None;
        }
        self.unspill_if_clean(live, ino);
    }

    /// Programs have the inode's overlay file from now on.
    pub(crate) fn hand_over(live: &mut Live, ino: Ino, s: Arc<Spill>) -> VolumeResult<()> {
        let i = live.inode_mut(ino)?;
        i.data = Data::Spilled(s);
        i.direct = Some(Direct::default());
        Ok(())
    }
}

fn overlay_number(data: &Data) -> Option<u64> {
    match data {
        Data::Spilled(s) => Some(s.number),
        _ => None,
    }
}

fn bind_patch(t: &Told, file: u64) -> Patch {
    Patch::Bind {
        id: t.id,
        kind: t.kind,
        base: t.base.clone(),
        blob: t.blob,
        file,
    }
}
