//! Files of a volume by their SHA-256: large ones of its folder, what came by git-lfs, what was added.
//!
//! The bytes are in the volume's store of chunks; the manifests are git objects in its
//! repository, where nothing may name them; `lfs/heads` says which is of which file.
//!
//! Invariants: a manifest is durable before it is noted, and noted before the bytes are taken, so
//! whatever bytes are here can be named again. A note says nothing about which bytes are here, nor
//! that the list is of the file that it is called: members may lie. Of several lists of one file
//! those are hashed that are here, and what is read of one that was not is hashed on the way
//! (`truth.rs`).
//! Threads: any, and one of its own, which surveys.
//!
//! `lfs/heads` is `cellfsL1`, then records of 66 bytes: a manifest's head and the CRC-32 of it.
//! What follows the last sound record at the end is cut off at the next opening.

mod add;
mod source;
mod survey;
mod truth;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tempfile::TempPath;

use crate::base::id::Oid;
use crate::base::limit::LOGGED_COMMIT_BYTES_MAX;
use crate::base::{durable, format};
use crate::chunk::manifest::{self, HEAD_BYTES, Head, NODE_BYTES_MAX, NodeKind};
use crate::chunk::store::{ChunkError, Chunks};
use crate::chunk::{Sha256, Survey};
use crate::store::objects::{Object, ObjectError, ObjectKind, Objects, id_of};
use crate::store::pack;
use crate::volume::Volume;
use crate::volume::chain::{self, Disk};
use crate::volume::error::VolumeError;

const MAGIC: [u8; 8] = [
    b'c',
    b'e',
    b'l',
    b'l',
    b'f',
    b's',
    b'L',
    b'0' + format::LFS_HEADS,
];
const RECORD_BYTES: usize = HEAD_BYTES + 4;

/// Why a large file was not taken or read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ShelfError {
    #[error("the store of chunks: {0}")]
    Chunks(#[from] ChunkError),
    #[error("the volume: {0}")]
    Volume(#[from] VolumeError),
    #[error("a manifest cannot be read: {0}")]
    Manifest(#[from] manifest::ReadError<ObjectError>),
    #[error("could not {0}: {1}")]
    Io(&'static str, #[source] io::Error),
    #[error("the bytes are not those of {0}")]
    Wrong(Sha256),
}

impl ShelfError {
    /// Whether there was no room.
    pub(super) fn is_full(&self) -> bool {
        match self {
            Self::Chunks(e) => matches!(e, ChunkError::Full),
            Self::Volume(e) => e.is_full(),
            Self::Io(_, e) => matches!(
                e.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ),
            _ => false,
        }
    }
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> ShelfError {
    move |e| ShelfError::Io(what, e)
}

/// What is here of a large file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Whole(u64),
    Partly(u64),
    Nothing,
}

/// Which manifests are known, and the file that says so.
#[derive(Debug)]
struct Heads {
    path: PathBuf,
    /// What is said to be the list of each file. More than one if somebody lies.
    known: HashMap<Sha256, Vec<Head>>,
    /// Those whose bytes were hashed since the node started, and are the file.
    proven: HashMap<Sha256, Head>,
    /// Those that are not.
    refuted: HashSet<Head>,
    end: u64,
}

impl Heads {
    fn open(path: &Path) -> io::Result<Self> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(e),
        };
        let mut heads = Self {
            path: path.to_owned(),
            known: HashMap::new(),
            proven: HashMap::new(),
            refuted: HashSet::new(),
            end: 0,
        };
        if bytes.is_empty() {
            return Ok(heads);
        }
        let Some(records) = bytes.strip_prefix(&MAGIC) else {
            let why = format!("{} is of another version, or damaged", path.display());
            return Err(io::Error::other(why));
        };
        heads.end = MAGIC.len() as u64;
        for record in records.chunks_exact(RECORD_BYTES) {
            let Some((head, sum)) = record.split_at_checked(HEAD_BYTES) else {
                break;
            };
            if sum != crc32fast::hash(head).to_le_bytes() {
                break;
            }
            let Ok(head) = manifest::head(head) else {
                break;
            };
            heads.know(head);
            heads.end += RECORD_BYTES as u64;
        }
        if heads.end < bytes.len() as u64 {
            let lost = bytes.len() as u64 - heads.end;
            tracing::warn!(path = %path.display(), bytes = lost, "a damaged end was cut off");
            File::options().write(true).open(path)?.set_len(heads.end)?;
        }
        Ok(heads)
    }

    fn know(&mut self, head: Head) {
        let all = self.known.entry(head.sha256).or_default();
        if !all.contains(&head) {
            all.push(head);
        }
    }

    /// Notes manifests, durable.
    fn add(&mut self, heads: impl IntoIterator<Item = Head>) -> io::Result<()> {
        let is_known = |h: &Head| {
            let all = self.known.get(&h.sha256);
            all.is_some_and(|all| all.contains(h)) || self.refuted.contains(h)
        };
        let is_news = |h: &Head| !is_known(h);
        let new: Vec<Head> = heads.into_iter().filter(is_news).collect();
        if new.is_empty() {
            return Ok(());
        }
        if self.end == 0 {
            durable::replace(&self.path, &MAGIC, 0o600)?;
            self.end = MAGIC.len() as u64;
        }
        let mut records = Vec::with_capacity(new.len() * RECORD_BYTES);
        for head in &new {
            let record = head.encode();
            records.extend_from_slice(&record);
            records.extend_from_slice(&crc32fast::hash(&record).to_le_bytes());
        }
        // What of them is there after an error is overwritten by the next ones.
        let file = File::options().write(true).open(&self.path)?;
        file.write_all_at(&records, self.end)?;
        file.sync_all()?;
        self.end += records.len() as u64;
        for head in new {
            self.know(head);
        }
        Ok(())
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Shelf {
    volume: Arc<Volume>,
    chunks: Arc<Chunks>,
    heads: Mutex<Heads>,
}

/// The directory for what comes by git-lfs.
pub(super) fn dir_of(volume: &Volume) -> PathBuf {
    volume.dir().join("lfs")
}

impl Shelf {
    /// Opens what is here of a volume's large files. Once for each volume.
    pub(super) fn open(volume: Arc<Volume>) -> Result<Self, ShelfError> {
        let dir = dir_of(&volume);
        let what = "open what is known of large files";
        durable::dirs_with(&dir, 0o700).map_err(failed(what))?;
        let heads = Heads::open(&dir.join("heads")).map_err(failed(what))?;
        add::sweep(&volume).map_err(failed(what))?;
        Ok(Self {
            chunks: volume.chunks()?,
            volume,
            heads: Mutex::new(heads),
        })
    }

    fn heads(&self) -> MutexGuard<'_, Heads> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of a file, as far as nothing has to be hashed to know it.
    pub(super) fn head(&self, sha256: &Sha256) -> Option<Head> {
        let heads = self.heads();
        let proven = heads.proven.get(sha256);
        let last = || heads.known.get(sha256)?.last();
        proven.or_else(last).copied()
    }

    /// All files that are known, by the heads of their manifests.
    pub(super) fn all(&self) -> Vec<Oid> {
        let heads = self.heads();
        let all = heads.known.values().flatten();
        all.map(|h| id_of(ObjectKind::Blob, &h.encode())).collect()
    }

    /// Notes files of the volume's folder by the heads of their manifests.
    pub(super) fn note(&self, heads: impl Iterator<Item = Oid>) -> Result<(), ShelfError> {
        let heads = heads.map(|id| Ok(self.volume.large_head(&id)?));
        let heads: Vec<Head> = heads.collect::<Result<_, ShelfError>>()?;
        self.heads().add(heads).map_err(failed("note manifests"))
    }

    /// A node of a manifest.
    fn node(&self, id: &Oid, kind: NodeKind) -> Result<Arc<Vec<u8>>, ObjectError> {
        let repo = self.volume.repo();
        let malformed = |why: String| ObjectError::Malformed {
            id: *id,
            expected: "a node of a manifest",
            why,
        };
        if repo.has(id)? {
            let size = repo.size(id)?;
            if size > NODE_BYTES_MAX as u64 {
                return Err(malformed(format!("it has {size} bytes")));
            }
        }
        repo.get(id, git_kind(kind))
    }

    /// What is here of a large file. Of one that is in no container, looks at all its pieces.
    pub(super) fn find(&self, sha256: &Sha256) -> Result<Found, ShelfError> {
        let Some(head) = self.choose(sha256)? else {
            return Ok(Found::Nothing);
        };
        Ok(if self.is_contained(&head)? || self.has_pieces(&head)? {
            Found::Whole(head.len)
        } else {
            Found::Partly(head.len)
        })
    }

    /// Whether all of it is in its container.
    fn is_contained(&self, head: &Head) -> Result<bool, ShelfError> {
        let found = self.chunks.container_of(&head.sha256, &id(head))?;
        Ok(found.is_some_and(|(_, is_whole)| is_whole))
    }

    fn has_pieces(&self, head: &Head) -> Result<bool, ShelfError> {
        let mut get = |id: &Oid, kind| self.node(id, kind);
        for place in manifest::pieces(head, &mut get) {
            if !self.chunks.has(&place?.piece.id) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes a file over as this one, durable.
    pub(super) fn take(&self, sha256: &Sha256, path: TempPath) -> Result<(), ShelfError> {
        // Also if something is here by that name: others may have given that.
        let file = File::open(&path).map_err(failed("read an upload"))?;
        let survey = survey::survey(file).map_err(failed("read an upload"))?;
        if survey.sha256 != *sha256 {
            return Err(ShelfError::Wrong(*sha256));
        }
        self.keep(&survey, path)
    }

    /// Makes a file that was surveyed a container, durable.
    fn keep(&self, survey: &Survey, path: TempPath) -> Result<(), ShelfError> {
        let head = self.keep_manifest(survey)?;
        let _still = self.volume.keep_still();
        self.note_proven(head)?;
        self.counts(&head)?;
        self.chunks.adopt(&path, survey, true)?;
        // The name is gone, and may be another upload's by now.
        let _moved = path.keep();
        Ok(())
    }

    /// What is put here counts as a copy: who put it has no promise that others keep it.
    fn counts(&self, head: &Head) -> Result<(), ShelfError> {
        let id = id_of(ObjectKind::Blob, &head.encode());
        Ok(self.volume.has_written(&id)?)
    }

    /// Puts the manifest's objects that are not here into the repository, durable.
    fn keep_manifest(&self, survey: &Survey) -> Result<Head, ShelfError> {
        let mut objects = Vec::new();
        let mut bytes = 0;
        let mut head = None;
        let mut put = |kind: NodeKind, data: Vec<u8>| {
            let kind = git_kind(kind);
            let id = id_of(kind, &data);
            // The head comes last.
            head = manifest::head(&data).ok();
            if !self.volume.repo().has(&id)? {
                bytes += data.len();
                let data = Arc::new(data);
                objects.push((id, Object { kind, data }));
            }
            Ok(id)
        };
        manifest::write(survey, &mut put).map_err(VolumeError::Objects)?;
        let volume = &*self.volume;
        if bytes > LOGGED_COMMIT_BYTES_MAX {
            chain::flush(volume, objects)?;
        } else {
            if !objects.is_empty() {
                let pack = pack::encode(&objects).map_err(failed("keep a manifest"))?;
                volume.hold(pack, objects)?;
            }
            volume.sync(volume.last())?;
        }
        head.ok_or_else(|| failed("keep a manifest")(io::Error::other("it has no head")))
    }
}

/// The name of a head in git.
fn id(head: &Head) -> Oid {
    id_of(ObjectKind::Blob, &head.encode())
}

fn git_kind(kind: NodeKind) -> ObjectKind {
    match kind {
        NodeKind::Blob => ObjectKind::Blob,
        NodeKind::Tree => ObjectKind::Tree,
    }
}

#[cfg(test)]
mod tests;
