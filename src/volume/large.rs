//! Files whose bytes are chunks: committed from overlay files, read, and copied to be written.
//!
//! A file that is larger than a volume's threshold when it is committed becomes a manifest, which
//! is in the commit, and pieces in the chunk store. Nobody holds all of it in memory.
//!
//! One that nobody writes to becomes a container as it is (`contain.rs`). Of others the pieces
//! that are not here are put into packs as they are read.
//!
//! Invariants: what a commit names of the store is durable before the commit's head is in the
//! journal. Reads wait for nobody: what is not here is [`VolumeError::Lacking`], and who may wait
//! asks [`Supply`]. Threads: any; nothing here is done under the table's lock but what says so.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use lru::LruCache;

use super::blobs::read_at;
use super::commit::Cut;
use super::error::VolumeError;
use super::inode::{Data, Ino};
use super::spill::Spill;
use super::view::View;
use super::{Volume, VolumeResult};
use crate::base::id::{FileId, Oid};
use crate::base::limit::FILE_BYTES_MAX;
use crate::chunk::manifest::{self, Cursor, Head, NODE_BYTES_MAX, NodeKind, Place};
use crate::chunk::pointer::{self, POINTER_BYTES_MAX};
use crate::chunk::store::{ChunkError, Chunks};
use crate::chunk::{self, ChunkId, Sha256, Survey, cut};
use crate::record::attributes::names_drivers;
use crate::record::model::{Kind, Record};
use crate::record::trie;
use crate::store::objects::{Both, ObjectError, ObjectKind, Objects, id_of};

/// A threshold that no file reaches.
pub const NEVER: u64 = u64::MAX;
/// Files whose heads are parsed and whose containers are open.
const KNOWN_MAX: usize = 64;
/// Pieces that were read last: who reads on gets the rest of one.
const PIECES_MAX: usize = 8;
/// Bytes that are asked for at a time when all of a file is needed.
const STEP_BYTES: u64 = 64 << 20;
/// How long a program waits for a step.
const WAIT: Duration = Duration::from_secs(30);
/// Who asks again for what did not come waits again after this long.
const FAILED_FOR: Duration = Duration::from_secs(2);
/// What did not come and is kept in mind.
const FAILED_MAX: usize = 256;

/// Brings bytes that are not here.
pub trait Supply: Send + Sync {
    /// Blocks until these bytes of the file whose manifest has this head are in the chunk store,
    /// or the deadline.
    ///
    /// # Errors
    /// When they did not come.
    fn fetch(&self, head: Oid, range: Range<u64>, deadline: Instant) -> Result<(), Lacking>;
}

/// Bytes did not come in time, or nobody has them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bytes of a large file did not come: {0}")]
pub struct Lacking(pub String);

/// A large file that came into the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Met {
    /// The head of its manifest.
    pub head: Oid,
    /// Whether some of it is not here.
    pub lacks: bool,
    /// The version of the same file that it came instead of.
    pub over: Option<Oid>,
}

/// What is new of a volume's large files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meeting {
    /// Large files that came.
    pub met: Vec<Met>,
    /// Files that are large or were, and the heads of their versions now.
    pub files: Vec<(FileId, Vec<Oid>)>,
    /// Others may have other paths than before, or other attributes.
    pub is_moved: bool,
}

/// A large file that is read.
#[derive(Debug)]
pub(super) struct Known {
    id: Oid,
    pub(super) head: Head,
    /// Its container, while all of it is there and its pieces are those of the manifest. Who takes
    /// the container away empties this.
    file: RwLock<Option<File>>,
}

/// See the module.
pub(super) struct Large {
    /// Files with more bytes than this are cut.
    pub(super) above: u64,
    pub(super) store: Mutex<Option<Arc<Chunks>>>,
    pub(super) supply: OnceLock<Arc<dyn Supply>>,
    pub(super) known: Mutex<LruCache<Oid, Arc<Known>>>,
    pub(super) pieces: Mutex<LruCache<ChunkId, Arc<Vec<u8>>>>,
    /// Containers that are overlay files, too, or that programs have: by the file's name, and the
    /// head of its manifest, as somebody else's file may be called the same.
    pub(super) held: Mutex<BTreeMap<(Sha256, Oid), Weak<Spill>>>,
    /// Containers that are being taken away: nobody opens them any more. Who takes one that no
    /// program has puts it here under the lock of `held`, where who hands one out looks, too.
    pub(super) leaving: Mutex<HashSet<Sha256>>,
    /// Of commits made in memory on a full disk: where the bytes are.
    pub(super) instead: Mutex<HashMap<Oid, Arc<Spill>>>,
    /// Inodes that may become containers, and since when nobody touched them.
    pub(super) waiting: Mutex<BTreeMap<Ino, Instant>>,
    /// What such inodes replaced since they were containers last.
    pub(super) replaced: Mutex<BTreeMap<Ino, Vec<Oid>>>,
    /// A container was made of what packs may have: they have it for nothing.
    pub(super) repeats: AtomicBool,
    /// What did not come lately: a file's head and where in it, when, and why.
    pub(super) failed: Mutex<LruCache<(Oid, u64), (Instant, Lacking)>>,
    /// The view whose large files are known to who keeps them.
    pub(super) told: Mutex<Option<View>>,
}

impl std::fmt::Debug for Large {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Large").finish_non_exhaustive()
    }
}

pub(super) fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Large {
    pub(super) fn new(above: u64) -> Self {
        let n = |n| NonZeroUsize::new(n).unwrap_or(NonZeroUsize::MIN);
        Self {
            above,
            store: Mutex::default(),
            supply: OnceLock::new(),
            known: Mutex::new(LruCache::new(n(KNOWN_MAX))),
            pieces: Mutex::new(LruCache::new(n(PIECES_MAX))),
            held: Mutex::default(),
            leaving: Mutex::default(),
            instead: Mutex::default(),
            waiting: Mutex::default(),
            replaced: Mutex::default(),
            repeats: AtomicBool::new(false),
            failed: Mutex::new(LruCache::new(n(FAILED_MAX))),
            told: Mutex::default(),
        }
    }

    /// Whoever reads the container of a file by a name of its own does so no more.
    pub(super) fn let_go(&self, sha256: &Sha256) {
        let all: Vec<Arc<Known>> = {
            let known = lock(&self.known);
            let of = known.iter().filter(|(_, k)| k.head.sha256 == *sha256);
            of.map(|(_, k)| k.clone()).collect()
        };
        for k in all {
            *k.file.write().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
}

/// Puts the nodes of a manifest into a stage; the id of the head.
fn put_manifest(stage: &dyn Objects, survey: &Survey) -> Result<Oid, ObjectError> {
    let mut put = |kind, bytes| match kind {
        NodeKind::Blob => stage.put(ObjectKind::Blob, bytes),
        NodeKind::Tree => stage.put(ObjectKind::Tree, bytes),
    };
    Ok(manifest::write(survey, &mut put)?.0)
}

/// Reads nodes of manifests.
pub(super) fn node(
    objs: &dyn Objects,
    id: &Oid,
    kind: NodeKind,
) -> Result<Arc<Vec<u8>>, ObjectError> {
    let bytes = objs.get(
        id,
        match kind {
            NodeKind::Blob => ObjectKind::Blob,
            NodeKind::Tree => ObjectKind::Tree,
        },
    )?;
    if bytes.len() > NODE_BYTES_MAX {
        return Err(malformed(*id, "it is too long for a node".to_owned()));
    }
    Ok(bytes)
}

fn malformed(id: Oid, why: String) -> ObjectError {
    ObjectError::Malformed {
        id,
        expected: "a manifest",
        why,
    }
}

/// Whether a change of this record may be one of others' paths or attributes.
fn moves_others(r: &Record) -> bool {
    let is_dir = r.content.iter().any(|c| c.kind == Kind::Dir);
    is_dir || r.place().is_some_and(|p| names_drivers(&p))
}

/// The large versions of a file, the one that is shown first.
pub(super) fn large_of(record: Option<&Record>) -> Vec<Oid> {
    let all = record.into_iter().flat_map(|r| &r.content);
    let large = all.filter(|c| c.kind == Kind::Large);
    large.map(|c| c.blob).collect()
}

/// The name that bytes of a file have in commits, as this kind.
pub(super) fn name_of(kind: Kind, file: &File) -> VolumeResult<Oid> {
    if kind == Kind::Large {
        return Ok(manifest::name(&cut::survey(file)?));
    }
    let len = file.metadata()?.len();
    if len > FILE_BYTES_MAX {
        return Err(VolumeError::TooLarge(FILE_BYTES_MAX));
    }
    Ok(id_of(ObjectKind::Blob, &read_at(file, 0, len)?))
}

impl Volume {
    /// The chunk store, opened when it is first needed: on a full disk it cannot be made.
    ///
    /// # Errors
    /// As the disk.
    pub fn chunks(&self) -> VolumeResult<Arc<Chunks>> {
        let mut store = lock(&self.large.store);
        if let Some(c) = &*store {
            return Ok(c.clone());
        }
        let opened = Arc::new(Chunks::open(&self.dir.join("chunks"))?);
        *store = Some(opened.clone());
        Ok(opened)
    }

    /// Whether there is a chunk store, which is made when it is first needed.
    #[must_use]
    pub fn has_chunks(&self) -> bool {
        lock(&self.large.store).is_some() || self.dir.join("chunks").exists()
    }

    /// Who brings what is not here. Once.
    pub fn set_supply(&self, supply: Arc<dyn Supply>) {
        if self.large.supply.set(supply).is_err() {
            tracing::warn!(volume = %self.name, "missing bytes are brought by another already");
        }
    }

    /// Shows the records in which a view differs from one before, or from none.
    pub(super) fn visit_news(
        &self,
        before: Option<&View>,
        view: &View,
        visit: &mut dyn FnMut(FileId, &[Option<&Record>]),
    ) -> VolumeResult<()> {
        let stage = before.unwrap_or(view).stage.clone();
        let both = Both::new(stage, view.stage.clone());
        let both: &dyn Objects = &both;
        let src = self.source_of(both);
        let was = match before {
            Some(before) => before.state.ids,
            None => trie::empty::<Record>(src)?,
        };
        trie::visit_differing(src, &[was, view.state.ids], &mut |id, row| {
            visit(id, row);
            Ok(())
        })?;
        Ok(())
    }

    /// All large files are new to who asks [`Volume::meet`] next.
    pub fn meet_anew(&self) {
        *lock(&self.large.told) = None;
    }

    /// Large files that are in the view and were not when [`Volume::meet`] was asked.
    pub(super) fn not_met(&self) -> VolumeResult<BTreeSet<Oid>> {
        let told = lock(&self.large.told).clone();
        let mut heads = BTreeSet::new();
        self.visit_news(told.as_ref(), &self.view(), &mut |_, row| {
            heads.extend(large_of(row.last().copied().flatten()));
        })?;
        Ok(heads)
    }

    /// Large files that are in the view and were not when this was asked before. Cost follows the
    /// difference; the first time it is all files.
    ///
    /// # Errors
    /// As the store; then all of that is for the next time.
    pub fn meet(&self) -> VolumeResult<Meeting> {
        let mut told = lock(&self.large.told);
        let view = self.view();
        let mut heads: BTreeMap<Oid, Option<Oid>> = BTreeMap::new();
        let (mut files, mut is_moved) = (Vec::new(), told.is_none());
        self.visit_news(told.as_ref(), &view, &mut |id, row| {
            let rows = [row.first(), row.last()].map(|r| r.copied().flatten());
            is_moved |= rows.iter().flatten().any(|r| moves_others(r));
            let [was, now] = rows.map(large_of);
            if !was.is_empty() || !now.is_empty() {
                files.push((id, now.clone()));
            }
            for head in now {
                let over = was.first().filter(|_| !was.contains(&head)).copied();
                let of = heads.entry(head).or_default();
                *of = of.or(over);
            }
        })?;
        let mut out = Vec::new();
        for (head, over) in heads {
            match self.lacks(&head, 1) {
                Ok(lacking) => out.push(Met {
                    head,
                    lacks: !lacking.is_empty(),
                    over,
                }),
                // Whoever wrote that lies.
                Err(VolumeError::Objects(ObjectError::Malformed { why, .. })) => {
                    tracing::warn!(%head, why, "not the manifest of a file");
                }
                Err(e) => return Err(e),
            }
        }
        *told = Some(view);
        Ok(Meeting {
            met: out,
            files,
            is_moved,
        })
    }

    /// What a file of git means whose bytes are a pointer to what is a container here: the head of
    /// its manifest, which is put into the stage.
    pub(super) fn meant_by(&self, stage: &dyn Objects, blob: &Oid) -> VolumeResult<Option<Oid>> {
        if stage
            .find(blob)?
            .is_none_or(|o| o.data.len() >= POINTER_BYTES_MAX)
        {
            return Ok(None);
        }
        let text = stage.get(blob, ObjectKind::Blob)?;
        let Some((sha256, len)) = pointer::parse_pointer(&text) else {
            return Ok(None);
        };
        let chunks = self.chunks()?;
        let Some((file, true)) = chunks.container(&sha256)? else {
            return Ok(None);
        };
        let survey = cut::survey(&file)?;
        let is_it = (survey.sha256, survey.len) == (sha256, len);
        if !is_it || self.large.above == NEVER || !chunks.lacks(&survey.pieces, 1).is_empty() {
            return Ok(None);
        }
        let head = put_manifest(stage, &survey)?;
        self.has_written(&head)?;
        Ok(Some(head))
    }

    /// Whether there is somebody to wait for.
    pub(crate) fn is_supplied(&self) -> bool {
        self.large.supply.get().is_some()
    }

    /// Bytes that a file may have.
    pub(crate) fn file_bytes_max(&self) -> u64 {
        match self.large.above <= FILE_BYTES_MAX {
            true => chunk::FILE_BYTES_MAX,
            false => FILE_BYTES_MAX,
        }
    }

    /// Whether bytes are cut when they are committed; `above`: what is said of the file.
    pub(super) fn is_large(&self, kind: Kind, above: Option<u64>, data: &Data) -> bool {
        // Without chunks no attribute brings them.
        let above = above.filter(|_| self.large.above != NEVER);
        kind == Kind::File && data.len() > above.unwrap_or(self.large.above)
    }

    /// Puts bytes where the commit to come finds them: into the stage, or the store. What they are
    /// there, and their name.
    ///
    /// # Errors
    /// As the disk and the store. The same may be tried again.
    pub(super) fn keep(
        &self,
        stage: &dyn Objects,
        (kind, above): Cut,
        data: &Data,
    ) -> VolumeResult<(Kind, Oid)> {
        match data {
            Data::Blob { id, chunked, .. } if *chunked => return Ok((Kind::Large, *id)),
            Data::Spilled(s) if self.is_large(kind, above, data) => {
                return Ok((Kind::Large, self.keep_large(stage, s)?));
            }
            // As when a merge made them.
            Data::Memory(_) if self.is_large(kind, above, data) => {
                let s = self.spill(data)?;
                return Ok((Kind::Large, self.keep_large(stage, &s)?));
            }
            _ => {}
        }
        if data.len() > FILE_BYTES_MAX {
            return Err(VolumeError::TooLarge(FILE_BYTES_MAX));
        }
        let bytes = self.snapshot(data)?;
        Ok((kind, stage.put(ObjectKind::Blob, bytes)?))
    }

    /// Also of what was away: who wrote it here has no promise that others keep it.
    fn keep_large(&self, stage: &dyn Objects, s: &Arc<Spill>) -> VolumeResult<Oid> {
        let head = self.put_large(stage, s)?;
        self.has_written(&head)?;
        Ok(head)
    }

    fn put_large(&self, stage: &dyn Objects, s: &Arc<Spill>) -> VolumeResult<Oid> {
        if let Some((_, head)) = s.contained()
            && self.repo.has(&head)?
        {
            return Ok(head);
        }
        if s.is_sealed() {
            let survey = match s.survey() {
                Some(known) => known,
                None => Arc::new(cut::survey(s.file())?),
            };
            match self.contain(s, &survey) {
                Ok(true) => {
                    self.large.repeats.store(true, Ordering::Relaxed);
                    return Ok(put_manifest(stage, &survey)?);
                }
                Ok(false) => {}
                Err(e) if e.is_full() => return Err(e),
                Err(e) => tracing::warn!(error = %e, "a large file is put into packs"),
            }
        }
        if s.is_watched() {
            s.begin_snapshot()?;
        }
        let chunks = self.chunks()?;
        // What is read is what is kept, whoever writes meanwhile: he is in the commit after this.
        let mut failed = None;
        let survey = cut::survey_into(s.file(), &mut |piece, bytes| {
            chunks.put(&piece.id, bytes).map(drop).map_err(|e| {
                failed = Some(e);
                io::Error::other("a piece was not put")
            })
        });
        let survey = match (survey, failed) {
            (_, Some(e)) => return Err(e.into()),
            (survey, None) => survey?,
        };
        chunks.flush()?;
        Ok(put_manifest(stage, &survey)?)
    }

    /// Whether the history has the bytes of a file, as whichever it would be in a commit.
    pub(super) fn has_bytes_of(&self, file: &File) -> VolumeResult<bool> {
        let len = file.metadata()?.len();
        if len <= FILE_BYTES_MAX && self.is_stored(&name_of(Kind::File, file)?)? {
            return Ok(true);
        }
        self.is_stored(&name_of(Kind::Large, file)?)
    }

    /// What the head of a manifest says.
    ///
    /// # Errors
    /// When it is missing or is none.
    pub fn large_head(&self, head: &Oid) -> VolumeResult<Head> {
        Ok(self.known(head)?.head)
    }

    pub(super) fn known(&self, id: &Oid) -> VolumeResult<Arc<Known>> {
        if let Some(k) = lock(&self.large.known).get(id) {
            return Ok(k.clone());
        }
        let bytes = self.repo.get(id, ObjectKind::Blob)?;
        let head = manifest::head(&bytes).map_err(|e| malformed(*id, e.to_string()))?;
        let k = Arc::new(Known {
            id: *id,
            head,
            file: RwLock::default(),
        });
        lock(&self.large.known).put(*id, k.clone());
        Ok(k)
    }

    /// Up to `len` bytes of a large file from `at` on; [`VolumeError::Lacking`] if one of them is
    /// not here.
    pub(super) fn read_large(&self, id: &Oid, at: u64, len: u32) -> VolumeResult<Vec<u8>> {
        if let Some(s) = lock(&self.large.instead).get(id).cloned() {
            return read_at(s.file(), at, len.into());
        }
        let k = self.known(id)?;
        let end = at.saturating_add(len.into()).min(k.head.len);
        if at >= end {
            return Ok(Vec::new());
        }
        {
            let file = k.file.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(f) = &*file {
                return read_at(f, at, end - at);
            }
        }
        let chunks = self.chunks()?;
        if let Some(bytes) = self.by_container(&k, |f| read_at(f, at, end - at))? {
            return bytes;
        }
        let mut out = Vec::new();
        let mut cursor = Cursor::new(&k.head, at);
        let mut get = |id: &Oid, kind| node(&*self.repo, id, kind);
        while at + (out.len() as u64) < end {
            let place = cursor.next(&mut get).map_err(VolumeError::from)?;
            let Some(p) = place else { break };
            let bytes = self.piece(&chunks, &p).map_err(|e| match e {
                VolumeError::Chunks(ChunkError::Lacking(_)) => VolumeError::Lacking {
                    head: *id,
                    range: at..end,
                },
                e => e,
            })?;
            let from = usize::try_from(at + out.len() as u64 - p.at).unwrap_or(usize::MAX);
            let to = usize::try_from(end - p.at).unwrap_or(usize::MAX);
            let part = bytes.get(from..to.min(bytes.len())).unwrap_or_default();
            out.extend_from_slice(part);
        }
        Ok(out)
    }

    /// Does something with the container of a file, if all of it is here and nobody takes it away.
    /// One of other pieces is not its container, whatever it is called.
    fn by_container<T>(&self, k: &Known, work: impl FnOnce(&File) -> T) -> VolumeResult<Option<T>> {
        let sha256 = k.head.sha256;
        let mut file = k.file.write().unwrap_or_else(PoisonError::into_inner);
        if file.is_none() && !lock(&self.large.leaving).contains(&sha256) {
            let found = self.chunks()?.container_of(&sha256, &k.id)?;
            *file = found.filter(|(_, is_whole)| *is_whole).map(|(f, _)| f);
        }
        Ok(file.as_ref().map(work))
    }

    /// Does something while it has the container of a file in hand as a reader has it.
    #[cfg(test)]
    pub(crate) fn while_read<T>(&self, head: &Oid, work: impl FnOnce() -> T) -> T {
        let k = self.known(head).expect("it is here");
        let done = self.by_container(&k, |_| work()).expect("it can be opened");
        done.expect("it is a container")
    }

    fn piece(&self, chunks: &Chunks, p: &Place) -> VolumeResult<Arc<Vec<u8>>> {
        let id = p.piece.id;
        if let Some(bytes) = lock(&self.large.pieces).get(&id) {
            return Ok(bytes.clone());
        }
        let bytes = match chunks.read(&id) {
            Ok(Some(bytes)) => bytes,
            // It comes again, as what was never here does.
            Ok(None) | Err(ChunkError::Damaged(_)) => return Err(ChunkError::Lacking(id).into()),
            Err(e) => return Err(e.into()),
        };
        if bytes.len() != p.piece.len as usize {
            return Err(ChunkError::Mismatch(id).into());
        }
        let bytes = Arc::new(bytes);
        lock(&self.large.pieces).put(id, bytes.clone());
        Ok(bytes)
    }

    /// Writes all of a large file to another, which is empty, with holes for zeros; its length.
    ///
    /// # Errors
    /// [`VolumeError::Lacking`] when a piece is not here; as the disk.
    pub fn copy_large(&self, id: &Oid, to: &File) -> VolumeResult<u64> {
        if let Some(s) = lock(&self.large.instead).get(id).cloned() {
            return Ok(io::copy(&mut s.file(), &mut &*to)?);
        }
        let k = self.known(id)?;
        let chunks = self.chunks()?;
        let cloned = self.by_container(&k, |from| rustix::fs::ioctl_ficlone(to, from).is_ok())?;
        if cloned == Some(true) {
            return Ok(k.head.len);
        }
        to.set_len(k.head.len)?;
        let mut cursor = Cursor::new(&k.head, 0);
        let mut get = |id: &Oid, kind| node(&*self.repo, id, kind);
        while let Some(p) = cursor.next(&mut get).map_err(VolumeError::from)? {
            let lacks = |e| match e {
                ChunkError::Lacking(_) | ChunkError::Damaged(_) => VolumeError::Lacking {
                    head: *id,
                    range: p.at..k.head.len.min(p.at + STEP_BYTES),
                },
                e => e.into(),
            };
            chunks.copy_piece(&p.piece, p.at, to).map_err(lacks)?;
        }
        Ok(k.head.len)
    }

    /// The same, once all of it is here. For threads that may wait.
    ///
    /// # Errors
    /// [`VolumeError::Unsupplied`] when something did not come; as the disk.
    pub fn write_out(&self, id: &Oid, to: &File) -> VolumeResult<u64> {
        self.bring_all(id)?;
        self.supplied(|| self.copy_large(id, to))
    }

    /// Pieces of a large file that are not here, the first so many.
    ///
    /// # Errors
    /// As the store.
    pub fn lacks(&self, head: &Oid, most: usize) -> VolumeResult<Vec<Place>> {
        let k = self.known(head)?;
        let chunks = self.chunks()?;
        let mut out = Vec::new();
        if let Some((_, true)) = chunks.container_of(&k.head.sha256, head)? {
            return Ok(out);
        }
        let mut cursor = Cursor::new(&k.head, 0);
        let mut get = |id: &Oid, kind| node(&*self.repo, id, kind);
        while out.len() < most
            && let Some(p) = cursor.next(&mut get).map_err(VolumeError::from)?
        {
            if !chunks.has(&p.piece.id) {
                out.push(p);
            }
        }
        Ok(out)
    }

    /// Brings these bytes of a large file. For threads that may wait.
    ///
    /// # Errors
    /// [`VolumeError::Unsupplied`] when they did not come.
    pub fn bring(&self, head: &Oid, range: Range<u64>) -> VolumeResult<()> {
        self.fetch(*head, range)
    }

    fn fetch(&self, head: Oid, range: Range<u64>) -> VolumeResult<()> {
        let Some(supply) = self.large.supply.get() else {
            return Err(Lacking("nobody brings them".to_owned()).into());
        };
        // The kernel asks once more for what it was to read ahead: nobody waits twice for that.
        let asked = (head, range.start);
        if let Some((at, why)) = lock(&self.large.failed).get(&asked)
            && at.elapsed() < FAILED_FOR
        {
            return Err(why.clone().into());
        }
        let came = supply.fetch(head, range, Instant::now() + WAIT);
        let mut failed = lock(&self.large.failed);
        match &came {
            Ok(()) => drop(failed.pop(&asked)),
            Err(why) => drop(failed.put(asked, (Instant::now(), why.clone()))),
        }
        Ok(came?)
    }

    /// Does something that reads, and brings what is lacking for it. For threads that may wait.
    ///
    /// # Errors
    /// [`VolumeError::Unsupplied`] when something did not come.
    pub(crate) fn supplied<T>(&self, work: impl Fn() -> VolumeResult<T>) -> VolumeResult<T> {
        let mut before = None;
        loop {
            let (head, range) = match work() {
                Err(VolumeError::Lacking { head, range }) => (head, range),
                done => return done,
            };
            if before.replace((head, range.clone())) == Some((head, range.clone())) {
                return Err(Lacking("they went again".to_owned()).into());
            }
            self.fetch(head, range)?;
        }
    }

    /// Brings all of a large file that is lacking. For threads that may wait.
    ///
    /// # Errors
    /// [`VolumeError::Unsupplied`] when something did not come; what came stays.
    pub fn bring_all(&self, head: &Oid) -> VolumeResult<()> {
        if lock(&self.large.instead).contains_key(head) {
            return Ok(());
        }
        let k = self.known(head)?;
        let chunks = self.chunks()?;
        if self.by_container(&k, |_| ())?.is_some() {
            return Ok(());
        }
        let mut cursor = Cursor::new(&k.head, 0);
        let mut get = |id: &Oid, kind| node(&*self.repo, id, kind);
        while let Some(p) = cursor.next(&mut get).map_err(VolumeError::from)? {
            if !chunks.has(&p.piece.id) {
                let step = p.at..k.head.len.min(p.at.saturating_add(STEP_BYTES));
                self.fetch(*head, step)?;
            }
        }
        Ok(())
    }

    /// Whether something with these bytes may have to wait for some that are not here.
    ///
    /// # Errors
    /// As the store.
    pub(crate) fn may_lack(&self, data: &Data) -> VolumeResult<bool> {
        match data {
            Data::Blob { id, chunked, .. } if *chunked => {
                if lock(&self.large.instead).contains_key(id) {
                    return Ok(false);
                }
                let k = self.known(id)?;
                Ok(self.by_container(&k, |_| ())?.is_none())
            }
            _ => Ok(false),
        }
    }

    /// What a commit on a full disk would be named by, and where its bytes are until there is room.
    pub(super) fn keep_in_mind(
        &self,
        stage: &dyn Objects,
        (kind, above): Cut,
        data: &Data,
    ) -> VolumeResult<(Kind, Oid)> {
        let s = match data {
            Data::Spilled(s) if self.is_large(kind, above, data) => s,
            // There is no room to cut it.
            Data::Memory(bytes) => {
                return Ok((kind, stage.put(ObjectKind::Blob, bytes.as_ref().clone())?));
            }
            _ => return self.keep(stage, (kind, above), data),
        };
        let head = put_manifest(stage, &cut::survey(s.file())?)?;
        lock(&self.large.instead).insert(head, s.clone());
        Ok((Kind::Large, head))
    }

    /// There is room: the store has what [`Self::keep_in_mind`] kept.
    pub(super) fn out_of_mind(&self) {
        lock(&self.large.instead).clear();
    }
}

impl From<manifest::ReadError<ObjectError>> for VolumeError {
    fn from(e: manifest::ReadError<ObjectError>) -> Self {
        match e {
            manifest::ReadError::Get(e) => e.into(),
            manifest::ReadError::Bad(id, e) => malformed(id, e.to_string()).into(),
        }
    }
}
