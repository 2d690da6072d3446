//! Reading bytes: small blobs from memory, large ones from a file in the cache; and overlay
//! files for large files that are being written.
//!
//! Invariant: everything under `cache/` can be removed at any time while the node is down.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

use super::inode::{Data, Ino, Spill};
use super::live::Live;
use super::{Volume, VolumeResult};
use crate::base::id::Oid;
use crate::store::objects::{ObjectKind, Objects};

/// Blobs above this are read from a file in the cache.
const LARGE_BYTES: u64 = 1 << 20;
/// Files of large blobs kept open.
const OPEN_MAX: usize = 64;
/// Blobs between the store's own cache and `LARGE_BYTES` kept in memory: at most 32 MiB.
const MEMORY_MAX: usize = 32;

/// See the module.
#[derive(Debug)]
pub struct Blobs {
    dir: PathBuf,
    open: Mutex<LruCache<Oid, Arc<File>>>,
    memory: Mutex<LruCache<Oid, Arc<Vec<u8>>>>,
}

impl Blobs {
    /// A cache in `dir`, emptied.
    ///
    /// # Errors
    /// As the file system.
    pub fn new(dir: &Path) -> std::io::Result<Self> {
        if dir.exists() {
            fs::remove_dir_all(dir)?;
        }
        fs::create_dir_all(dir)?;
        let n = |n| NonZeroUsize::new(n).unwrap_or(NonZeroUsize::MIN);
        Ok(Self {
            dir: dir.to_owned(),
            open: Mutex::new(LruCache::new(n(OPEN_MAX))),
            memory: Mutex::new(LruCache::new(n(MEMORY_MAX))),
        })
    }
}

fn part(bytes: &[u8], at: u64, len: u32) -> Vec<u8> {
    let at = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
    let end = at.saturating_add(len as usize).min(bytes.len());
    bytes.get(at..end).unwrap_or_default().to_vec()
}

fn read_at(file: &File, at: u64, len: u64) -> VolumeResult<Vec<u8>> {
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
            Data::Spilled(s) => read_at(&s.file, at, want),
            Data::Blob { id, len: size } if *size > LARGE_BYTES => {
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

    /// A large blob as a file.
    fn large(&self, id: &Oid) -> VolumeResult<Arc<File>> {
        let lock = || {
            self.blobs
                .open
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        if let Some(f) = lock().get(id) {
            return Ok(f.clone());
        }
        let path = self.blobs.dir.join(id.to_string());
        if !path.exists() {
            let bytes = self.repo.get(id, ObjectKind::Blob)?;
            let mut t = tempfile::NamedTempFile::new_in(&self.blobs.dir)?;
            t.write_all(&bytes)?;
            t.persist(&path).map_err(|e| e.error)?;
        }
        let f = Arc::new(File::open(&path)?);
        if let Some((old, _)) = lock().push(*id, f.clone())
            && old != *id
        {
            // Readers that hold it keep their descriptor.
            fs::remove_file(self.blobs.dir.join(old.to_string()))?;
        }
        Ok(f)
    }

    /// Whether an object is on disk.
    pub(crate) fn is_stored(&self, id: &Oid) -> VolumeResult<bool> {
        Ok(self.repo.has(id)?)
    }

    /// Copies bytes into a new overlay file. It is not durable yet.
    pub(crate) fn spill(&self, data: &Data) -> VolumeResult<Spill> {
        let number = self.next_spill();
        let path = self.overlay_dir().join(number.to_string());
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(path)?;
        let mut at = 0;
        loop {
            let bytes = self.read(data, at, 1 << 20)?;
            if bytes.is_empty() {
                break;
            }
            file.write_all(&bytes)?;
            at += bytes.len() as u64;
        }
        Ok(Spill {
            number,
            file,
            len: AtomicU64::new(at),
        })
    }

    /// Makes an overlay file and its name durable.
    pub(crate) fn sync_spill(&self, s: &Spill) -> VolumeResult<()> {
        if let Err(e) = s
            .file
            .sync_data()
            .and_then(|()| File::open(self.overlay_dir())?.sync_all())
        {
            self.journal
                .poison(&format!("an fsync of an overlay file failed: {e}"));
            return Err(e.into());
        }
        Ok(())
    }

    /// Removes an overlay file that nothing refers to.
    pub(crate) fn discard_spill(&self, s: Option<Spill>) {
        if let Some(s) = s
            && let Err(e) = fs::remove_file(self.overlay_dir().join(s.number.to_string()))
        {
            tracing::warn!(error = %e, number = s.number, "an overlay file stays");
        }
    }

    /// A closed file whose bytes are in a commit needs no overlay file any more.
    pub(crate) fn unspill_if_clean(&self, live: &mut Live, ino: Ino) {
        let Some(i) = live.inodes.get_mut(&ino) else {
            return;
        };
        let Data::Spilled(s) = &i.data else { return };
        let clean = i.dirty.is_none() && !i.born && i.opens == 0;
        if !clean || live.committing.contains(&ino) {
            return;
        }
        let number = s.number;
        if !i.removed {
            i.data = Data::Blob {
                id: i.shown.blob,
                len: i.data.len(),
            };
        }
        if let Err(e) = fs::remove_file(self.overlay_dir().join(number.to_string())) {
            tracing::warn!(error = %e, number, "an overlay file stays");
        }
    }
}
