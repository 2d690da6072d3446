//! Reading bytes: small blobs from memory, large ones from a file in the cache; and overlay
//! files for large files that are being written.
//!
//! Invariants: everything under `cache/` can be removed at any time while the node is down. An
//! overlay file stays until nothing refers to it and the journal that says so is durable; what
//! refers to one at the end stays for the next start.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use lru::LruCache;

use super::inode::{Data, Ino, Inode};
use super::live::Live;
use super::spill::Spill;
use super::{Volume, VolumeResult};
use crate::base::id::Oid;
use crate::record::model::Kind;
use crate::store::objects::{ObjectKind, Objects};

/// Blobs above this are read from a file in the cache.
const LARGE_BYTES: u64 = 1 << 20;
/// Files of large blobs kept open, and the room that they may take together. The latest stays
/// whatever it takes.
const OPEN_MAX: usize = 64;
const CACHED_BYTES_MAX: u64 = 8 << 30;
/// Closed files whose bytes are in a commit keep their overlay files no more than so many, and no
/// longer than this: who writes one again and again need not copy it each time.
pub(crate) const OVERLAYS_KEPT_MAX: usize = 32;
pub(crate) const OVERLAY_KEPT: Duration = Duration::from_secs(5);
/// Blobs between the store's own cache and `LARGE_BYTES` kept in memory: at most 32 MiB.
const MEMORY_MAX: usize = 32;

/// See the module.
#[derive(Debug)]
pub struct Blobs {
    dir: PathBuf,
    open: Mutex<LruCache<Oid, (Arc<File>, u64)>>,
    memory: Mutex<LruCache<Oid, Arc<Vec<u8>>>>,
    /// Overlay files that this run made and that are on the disk.
    overlays: Mutex<BTreeMap<u64, Weak<Spill>>>,
    /// Of an earlier run, and written to by programs of that: no name leads to them.
    pub(super) orphans: Mutex<Vec<(PathBuf, File)>>,
}

impl Blobs {
    /// A cache in `dir`, emptied.
    ///
    /// # Errors
    /// As the file system.
    pub fn new(dir: &Path) -> std::io::Result<Self> {
        fs::create_dir_all(dir)?;
        // The directory stays: on a full disk no other could be made.
        for e in fs::read_dir(dir)? {
            fs::remove_file(e?.path())?;
        }
        let n = |n| NonZeroUsize::new(n).unwrap_or(NonZeroUsize::MIN);
        Ok(Self {
            dir: dir.to_owned(),
            open: Mutex::new(LruCache::new(n(OPEN_MAX))),
            memory: Mutex::new(LruCache::new(n(MEMORY_MAX))),
            overlays: Mutex::default(),
            orphans: Mutex::default(),
        })
    }
}

fn part(bytes: &[u8], at: u64, len: u32) -> Vec<u8> {
    let at = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
    let end = at.saturating_add(len as usize).min(bytes.len());
    bytes.get(at..end).unwrap_or_default().to_vec()
}

pub(super) fn read_at(file: &File, at: u64, len: u64) -> VolumeResult<Vec<u8>> {
    let mut buf = vec![0; usize::try_from(len).map_err(std::io::Error::other)?];
    let mut done = 0;
    while let Some(room) = buf.get_mut(done..)
        && !room.is_empty()
    {
        let n = rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut *room, at + done as u64))
            .map_err(std::io::Error::from)?;
        if n == 0 {
            break;
        }
        done += n;
    }
    buf.truncate(done);
    Ok(buf)
}

impl Volume {
    /// Up to `len` bytes at `at`.
    ///
    /// # Errors
    /// As the store and the disk.
    pub(crate) fn read(&self, data: &Data, at: u64, len: u32) -> VolumeResult<Vec<u8>> {
        let size = data.len();
        let want = u64::from(len).min(size.saturating_sub(at));
        match data {
            Data::None => Ok(Vec::new()),
            Data::Memory(v) => Ok(part(v, at, len)),
            Data::Spilled(s) => read_at(s.file(), at, want),
            Data::Blob { id, chunked, .. } if *chunked => self.read_large(id, at, len),
            Data::Blob { id, len: size, .. } if *size > LARGE_BYTES => {
                read_at(&*self.large(id)?, at, want)
            }
            Data::Blob { id, .. } => {
                let kept = {
                    let mut m = self
                        .blobs
                        .memory
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner);
                    m.get(id).cloned()
                };
                let bytes = match kept {
                    Some(b) => b,
                    None => {
                        let b = self.repo.get(id, ObjectKind::Blob)?;
                        let memory = self.blobs.memory.lock();
                        let mut m = memory.unwrap_or_else(PoisonError::into_inner);
                        m.put(*id, b.clone());
                        b
                    }
                };
                Ok(part(&bytes, at, len))
            }
        }
    }

    fn cached(&self) -> MutexGuard<'_, LruCache<Oid, (Arc<File>, u64)>> {
        let open = self.blobs.open.lock();
        open.unwrap_or_else(PoisonError::into_inner)
    }

    /// A large blob as a file.
    fn large(&self, id: &Oid) -> VolumeResult<Arc<File>> {
        if let Some((f, _)) = self.cached().get(id) {
            return Ok(f.clone());
        }
        let path = self.blobs.dir.join(id.to_string());
        let bytes = self.repo.get(id, ObjectKind::Blob)?;
        let mut t = tempfile::NamedTempFile::new_in(&self.blobs.dir)?;
        t.write_all(&bytes)?;
        let mut all = self.cached();
        if let Some((f, _)) = all.get(id) {
            return Ok(f.clone());
        }
        t.persist(&path).map_err(|e| e.error)?;
        self.keep_cached(&mut all, *id, &path, bytes.len() as u64)
    }

    /// Notes a file of the cache, and removes what is too much.
    fn keep_cached(
        &self,
        all: &mut LruCache<Oid, (Arc<File>, u64)>,
        id: Oid,
        path: &Path,
        len: u64,
    ) -> VolumeResult<Arc<File>> {
        let f = Arc::new(File::open(path)?);
        let mut gone: Vec<Oid> = Vec::new();
        if let Some((old, _)) = all.push(id, (f.clone(), len))
            && old != id
        {
            gone.push(old);
        }
        let mut sum: u64 = all.iter().map(|(_, (_, len))| len).sum();
        while sum > CACHED_BYTES_MAX
            && all.len() > 1
            && let Some((old, (_, len))) = all.pop_lru()
        {
            sum -= len;
            gone.push(old);
        }
        for old in gone {
            // Readers that hold it keep their descriptor.
            fs::remove_file(self.blobs.dir.join(old.to_string()))?;
        }
        Ok(f)
    }

    /// Whether a large blob is a file in the cache.
    pub(crate) fn is_cached(&self, id: &Oid) -> bool {
        self.cached().contains(id)
    }

    /// Moves a large blob's file from the cache to the overlay: it is one inode's from then on.
    pub(crate) fn take_cached(&self, id: &Oid) -> VolumeResult<Arc<Spill>> {
        self.large(id)?;
        let from = self.blobs.dir.join(id.to_string());
        let number = self.next_spill();
        let moved = {
            let mut all = self.cached();
            all.pop(id).is_some() && fs::rename(&from, self.overlay(number)).is_ok()
        };
        if !moved {
            // Somebody else took it just now.
            let bytes = self.repo.get(id, ObjectKind::Blob)?;
            let spill = Spill::create(&self.overlay_dir(), number)?;
            (&*spill.writer()?).write_all(&bytes)?;
            return Ok(self.know(spill));
        }
        Ok(self.know(Spill::open(&self.overlay_dir(), number)?))
    }

    fn know(&self, spill: Spill) -> Arc<Spill> {
        let spill = Arc::new(spill);
        self.list_overlay(&spill);
        spill
    }

    /// An overlay file is on the disk, and goes when nothing refers to it.
    pub(super) fn list_overlay(&self, spill: &Arc<Spill>) {
        let weak = Arc::downgrade(spill);
        self.overlays().insert(spill.number, weak);
    }

    /// Moves an overlay file, which nobody writes to any more, to the cache as that blob's file.
    fn give_to_cache(&self, s: &Spill, id: Oid) -> VolumeResult<()> {
        let path = self.blobs.dir.join(id.to_string());
        let len = s.len();
        let mut all = self.cached();
        if len <= LARGE_BYTES || all.contains(&id) {
            return Ok(());
        }
        fs::rename(s.path(), &path)?;
        self.overlays().remove(&s.number);
        self.keep_cached(&mut all, id, &path, len)?;
        Ok(())
    }

    /// Whether an object is on disk.
    pub(crate) fn is_stored(&self, id: &Oid) -> VolumeResult<bool> {
        Ok(self.repo.has(id)?)
    }

    /// Copies bytes into a new overlay file. It is not durable yet.
    pub(crate) fn spill(&self, data: &Data) -> VolumeResult<Arc<Spill>> {
        let number = self.next_spill();
        let spill = self.know(Spill::create(&self.overlay_dir(), number)?);
        let to = spill.writer()?;
        if let Data::Blob { id, chunked, .. } = data
            && *chunked
        {
            self.write_out(id, &to)?;
            spill.set_derived();
            return Ok(spill);
        }
        let mut at = 0;
        loop {
            let bytes = self.read(data, at, 1 << 20)?;
            if bytes.is_empty() {
                break;
            }
            (&*to).write_all(&bytes)?;
            at += bytes.len() as u64;
        }
        Ok(spill)
    }

    /// The bytes of a file for a commit.
    ///
    /// # Errors
    /// As the store and the disk.
    pub(crate) fn snapshot(&self, data: &Data) -> VolumeResult<Vec<u8>> {
        if let Data::Spilled(s) = data
            && s.is_watched()
        {
            s.begin_snapshot()?;
        }
        self.read(data, 0, u32::MAX)
    }

    fn overlay(&self, number: u64) -> PathBuf {
        self.overlay_dir().join(number.to_string())
    }

    fn overlays(&self) -> MutexGuard<'_, BTreeMap<u64, Weak<Spill>>> {
        let o = self.blobs.overlays.lock();
        o.unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes an overlay file and its name durable.
    pub(crate) fn sync_spill(&self, s: &Spill) -> VolumeResult<()> {
        // Opened first: that is no fsync, and may be tried again.
        let dir = File::open(self.overlay_dir())?;
        if let Err(e) = s.file().sync_data().and_then(|()| dir.sync_all()) {
            self.journal
                .poison(&format!("an fsync of an overlay file failed: {e}"));
            return Err(e.into());
        }
        Ok(())
    }

    /// Removes overlay files that nothing refers to any more, once the journal cannot lose what
    /// was written in their place.
    pub(crate) fn sweep_overlays(&self) {
        let left: Vec<u64> = {
            let all = self.overlays();
            let dead = all.iter().filter(|(_, s)| s.strong_count() == 0);
            dead.map(|(n, _)| *n).collect()
        };
        if left.is_empty() {
            return;
        }
        if let Err(e) = self.journal.sync(self.journal.last()) {
            tracing::warn!(error = %e, "overlay files stay");
            return;
        }
        for number in left {
            self.overlays().remove(&number);
            if let Err(e) = fs::remove_file(self.overlay(number)) {
                tracing::warn!(error = %e, number, "an overlay file stays");
            }
        }
    }

    /// Whether a file is closed and its bytes are in a commit.
    pub(super) fn is_clean(live: &Live, ino: Ino) -> bool {
        let is_clean = |i: &Inode| {
            let idle = i.opens == 0 && i.direct.is_none();
            i.dirty.is_none() && !i.born && idle && !i.removed && !i.shown.blob.is_null()
        };
        live.inodes.get(&ino).is_some_and(is_clean) && !live.committing.contains(&ino)
    }

    /// A closed file whose bytes are in a commit needs no overlay file any more.
    pub(crate) fn unspill_if_clean(&self, live: &mut Live, ino: Ino) {
        if !Self::is_clean(live, ino) {
            return;
        }
        let Some(i) = live.inodes.get_mut(&ino) else {
            return;
        };
        let Data::Spilled(s) = &i.data else { return };
        let s = s.clone();
        let (id, len) = (i.shown.blob, s.len());
        let chunked = i.shown.kind == Kind::Large;
        if chunked && !s.is_sealed() {
            self.wait_to_contain(ino);
            return;
        }
        if chunked && self.large_head(&id).is_ok() {
            i.data = Data::Blob { id, len, chunked };
            return;
        }
        if !self.repo.has(&id).unwrap_or(false) {
            // A merge made it, and only the view has it.
            let staged = live.view.stage.staged(&id);
            if let (Some(o), Some(i)) = (staged, live.inodes.get_mut(&ino)) {
                i.data = Data::Memory(o.data);
            }
            return;
        }
        i.data = Data::Blob { id, len, chunked };
        if let Err(e) = self.give_to_cache(&s, id) {
            tracing::warn!(error = %e, "an overlay file is not kept as a cache");
        }
    }
}
