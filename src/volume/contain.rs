//! Containers of large files, and the overlay files that they are as long as nobody writes to them.
//!
//! - A new file that nobody writes to becomes a container when it is committed: its overlay file
//!   gets a second name there (a hard link), and is sealed from before it is read until somebody
//!   writes to it. Then its pieces move into packs, the container goes, and it is an overlay file
//!   alone.
//! - One that began as a copy becomes a container when nobody touched it for a while: who writes
//!   a file again and again would have all of it moved about each time.
//! - A container is handed to programs that read it, as overlay files are: one inode at a time has
//!   it, since a writer takes it along.
//!
//! Invariants: a sealed file is not written to. The journal's overlay file stays until a commit has
//! its bytes; whatever step a crash falls behind, they are in one of the two places. Threads: any,
//! under no lock but what says so; the volume's own makes containers. Lock order: a seal comes
//! before all locks of the store and of [`super::large::Large`].

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::inode::{Data, Ino};
use super::large::{lock, node};
use super::spill::{Seal, Spill};
use super::{Volume, VolumeResult};
use crate::base::id::Oid;
use crate::chunk::store::{Adopted, ChunkError, Evicted};
use crate::chunk::{Sha256, Survey, cut, manifest};
use crate::record::model::Kind;

/// A file that began as a copy becomes a container when nobody touched it for so long.
const CONTAIN_AFTER: Duration = match cfg!(test) {
    true => Duration::from_millis(500),
    false => Duration::from_secs(60),
};
/// Or when more than so many wait.
const CONTAIN_MAX: usize = 8;

impl Volume {
    /// Whether bytes that nobody writes to become a container: those of a new file. Who writes a
    /// file again and again would have it moved about each time.
    pub(super) fn is_for_container(&self, kind: Kind, data: &Data) -> bool {
        match data {
            Data::Spilled(s) => {
                self.is_large(kind, None, data) && !s.is_derived() && !s.is_watched()
            }
            _ => false,
        }
    }

    /// Makes a sealed overlay file the container of what it holds, durable. False if somebody
    /// opened the seal.
    pub(super) fn contain(&self, s: &Arc<Spill>, survey: &Survey) -> VolumeResult<bool> {
        let chunks = self.chunks()?;
        self.sync_spill(s)?;
        let mut seal = s.sealed();
        if *seal == Seal::Open {
            return Ok(false);
        }
        let link = s.path().with_extension("link");
        match fs::remove_file(&link) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
        fs::hard_link(s.path(), &link)?;
        let adopted = chunks.adopt(&link, survey, true);
        let adopted = match adopted {
            Ok(adopted) => adopted,
            Err(e) => {
                let _first_error_counts = fs::remove_file(&link);
                return Err(e.into());
            }
        };
        // With the same content already here, both stay what they are.
        if adopted == Adopted::Container {
            let head = manifest::name(survey);
            *seal = Seal::Container(survey.sha256, head);
            lock(&self.large.held).insert((survey.sha256, head), Arc::downgrade(s));
        }
        Ok(true)
    }

    /// A sealed overlay file may be written to when this returns. If it was a container, its pieces
    /// are in packs then. Not under the table's lock.
    pub(crate) fn open_seal(&self, s: &Arc<Spill>) -> VolumeResult<()> {
        let seal = s.sealed();
        if let Seal::Container(sha256, head) = *seal {
            let chunks = self.chunks()?;
            if let Err(e) = fs::metadata(s.path()) {
                if e.kind() != ErrorKind::NotFound {
                    return Err(e.into());
                }
                self.take_along(s, &sha256)?;
                self.list_overlay(s);
            }
            let is_first = lock(&self.large.leaving).insert(sha256);
            self.large.let_go(&sha256);
            let moved = chunks.evict_of(&sha256, &head, &mut |_| true);
            if is_first {
                lock(&self.large.leaving).remove(&sha256);
            }
            let moved = match moved {
                // It went already, or made room for the file that its name is of.
                Err(ChunkError::Absent(..)) => Evicted::default(),
                moved => moved?,
            };
            if !moved.lost.is_empty() {
                tracing::error!(file = %sha256, pieces = moved.lost.len(), "an older version of a file is damaged");
            }
            lock(&self.large.held).remove(&(sha256, head));
        }
        s.open_seal(seal);
        Ok(())
    }

    /// Gives a container that programs have a name in the overlay. One that went, as the file came that
    /// its name is of, is nowhere else as a file: nobody writes to it as long as they have it.
    fn take_along(&self, s: &Spill, sha256: &Sha256) -> VolumeResult<()> {
        let busy = || io::Error::from(ErrorKind::ResourceBusy);
        let linked = fs::hard_link(self.container_path(sha256), s.path());
        linked.map_err(|e| match e.kind() {
            ErrorKind::NotFound => busy(),
            _ => e,
        })?;
        let (named, had) = (fs::metadata(s.path())?, s.file().metadata()?);
        if (named.dev(), named.ino()) != (had.dev(), had.ino()) {
            fs::remove_file(s.path())?;
            return Err(busy().into());
        }
        Ok(())
    }

    fn container_path(&self, sha256: &Sha256) -> PathBuf {
        let dir = self.dir.join("chunks/containers");
        dir.join(format!("{sha256}.data"))
    }

    /// The container of a large file, for one inode's readers; none if it is not complete or
    /// another inode has it.
    pub(crate) fn hand_container(&self, head: &Oid) -> VolumeResult<Option<Arc<Spill>>> {
        let sha256 = self.known(head)?.head.sha256;
        let mut held = lock(&self.large.held);
        let is_held = held
            .get(&(sha256, *head))
            .is_some_and(|s| s.strong_count() > 0);
        if is_held || lock(&self.large.leaving).contains(&sha256) {
            return Ok(None);
        }
        let Some((file, true)) = self.chunks()?.container_of(&sha256, head)? else {
            return Ok(None);
        };
        let number = self.next_spill();
        let s = Spill::container(&self.overlay_dir(), number, file, (sha256, *head));
        let s = Arc::new(s);
        held.insert((sha256, *head), Arc::downgrade(&s));
        Ok(Some(s))
    }

    /// An inode whose bytes are in a commit and in an overlay file may become a container.
    pub(super) fn wait_to_contain(&self, ino: Ino) {
        lock(&self.large.waiting).insert(ino, Instant::now());
    }

    /// Makes containers of overlay files that nobody touched for a while.
    pub(super) fn contain_waiting(&self, all: bool) {
        let due: Vec<Ino> = {
            let mut waiting = lock(&self.large.waiting);
            let over = waiting.len().saturating_sub(CONTAIN_MAX);
            let mut by_age: Vec<(Instant, Ino)> = waiting.iter().map(|(i, t)| (*t, *i)).collect();
            by_age.sort_unstable();
            let is_due = |(n, (t, _)): &(usize, (Instant, Ino))| {
                all || *n < over || t.elapsed() >= CONTAIN_AFTER
            };
            let due = by_age.into_iter().enumerate().filter(is_due);
            let due: Vec<Ino> = due.map(|(_, (_, ino))| ino).collect();
            for ino in &due {
                waiting.remove(ino);
            }
            due
        };
        for ino in due {
            if let Err(e) = self.contain_inode(ino) {
                tracing::warn!(ino, error = %e, "a large file stays in the overlay");
            }
        }
        // A file that was committed while somebody wrote to it was put into packs then.
        if self.large.repeats.swap(false, Ordering::Relaxed)
            && let Err(e) = self.chunks().and_then(|c| Ok(c.reclaim()?))
        {
            tracing::warn!(error = %e, "packs keep what is in containers");
        }
    }

    fn contain_inode(&self, ino: Ino) -> VolumeResult<()> {
        let (s, blob) = {
            let live = self.lock();
            let is_clean = Self::is_clean(&live, ino);
            let Some(i) = live.inodes.get(&ino).filter(|_| is_clean) else {
                return Ok(());
            };
            let Data::Spilled(s) = &i.data else {
                return Ok(());
            };
            if i.shown.kind != Kind::Large || !s.seal() {
                return Ok(());
            }
            (s.clone(), i.shown.blob)
        };
        if s.contained().is_none() {
            let survey = cut::survey(s.file())?;
            if manifest::name(&survey) != blob {
                // Whoever wrote it has said so by now.
                return self.open_seal(&s);
            }
            self.contain(&s, &survey)?;
        }
        drop(s);
        self.unspill_if_clean(&mut self.lock(), ino);
        self.give_up_replaced(ino, &blob)?;
        self.chunks()?.reclaim()?;
        Ok(())
    }

    /// Bytes that a commit replaces by those of this inode.
    pub(super) fn replaces(&self, ino: Ino, head: Oid) {
        lock(&self.large.replaced)
            .entry(ino)
            .or_default()
            .push(head);
    }

    /// Versions that an inode replaced, and that are mostly in what it is now, are containers no
    /// more: what is in them alone moves into packs.
    fn give_up_replaced(&self, ino: Ino, now: &Oid) -> VolumeResult<()> {
        let olds = lock(&self.large.replaced).remove(&ino).unwrap_or_default();
        for old in olds.iter().filter(|o| *o != now) {
            self.give_up_version(old, now)?;
        }
        Ok(())
    }

    /// A version is a container no more if most of it is in another, newer one: what is in it
    /// alone moves into packs.
    ///
    /// # Errors
    /// As the store.
    pub fn give_up_version(&self, old: &Oid, now: &Oid) -> VolumeResult<()> {
        let (from, to) = (self.known(now)?.head, self.known(old)?.head);
        if self.chunks()?.container_of(&to.sha256, old)?.is_none() {
            return Ok(());
        }
        let mut get = |id: &Oid, kind| node(&*self.repo, id, kind);
        let alone = manifest::diff(&from, &to, &mut get)?.bytes();
        if alone <= to.len / 2 {
            self.give_container_up(&to.sha256)?;
        }
        Ok(())
    }

    /// Gives a container up, unless somebody reads it by the file itself. What is in it alone moves
    /// into packs. Who wants room goes by this: the store does not know who has a container.
    ///
    /// # Errors
    /// As the store.
    pub fn give_container_up(&self, sha256: &Sha256) -> VolumeResult<()> {
        let sha256 = *sha256;
        if !self.begin_leaving(&sha256) {
            return Ok(());
        }
        let done = self.move_into_packs(&sha256);
        lock(&self.large.leaving).remove(&sha256);
        done
    }

    fn move_into_packs(&self, sha256: &Sha256) -> VolumeResult<()> {
        let chunks = self.chunks()?;
        if chunks.container(sha256)?.is_none() {
            return Ok(());
        }
        self.large.let_go(sha256);
        chunks.evict(sha256, &mut |_| true)?;
        Ok(())
    }
}
