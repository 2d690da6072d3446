//! After a crash: the heads that were known, and what was written after the last commit.
//!
//! What the journal holds beyond the last head record becomes one commit before anything is
//! mounted, so that a restarted node shows what was written up to the crash. [`replay`] decides;
//! the rest is the disk.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::chain::{Desk, Numbers};
use super::commit::{self, Batch, Cut, Keep, Over, Written};
use super::derive;
use super::error::VolumeError;
use super::inode::{Data, Told};
use super::spill::Spill;
use super::view::{HeadInfo, View};
use super::{Volume, VolumeResult, large, room};
use crate::base::clock;
use crate::base::durable;
use crate::base::id::{BranchId, FileId, Oid};
use crate::base::limit::FILE_BYTES_MAX;
use crate::base::stamp::Dot;
use crate::chunk::manifest;
use crate::journal::{Committed, Entry, Patch, Recovered};
use crate::record::change::Change;
use crate::record::model::Kind;
use crate::store::objects::{Memory, Object, ObjectError, ObjectKind, Objects};
use crate::store::{closure, incoming};

/// What an earlier run left on the disk.
#[derive(Debug)]
pub struct Found<'a> {
    /// The journal's entries by their numbers.
    pub entries: &'a [(u64, Entry)],
    /// Heads that refs name: not synced, so any may be missing or outdated.
    pub refs: Vec<Oid>,
    /// Where files of larger bytes are.
    pub overlay: &'a Path,
    /// Bytes that a file may have.
    pub len_max: u64,
}

/// What the new run starts with.
#[derive(Debug)]
pub struct Replayed {
    /// What is shown.
    pub view: View,
    /// The last head record in the journal.
    pub committed: Option<Committed>,
    /// Number of files that a crash had left uncommitted and that are now in a commit.
    pub caught_up: Option<usize>,
}

/// Finds the heads that were known, begins the branch of this run, and commits on it what the
/// journal holds beyond the last head record. Objects are here already. `keep` keeps the bytes
/// of what was written; the time is in nanoseconds since 1970.
///
/// # Errors
/// As the store and the journal.
pub fn replay(
    desk: &Desk<'_>,
    found: Found<'_>,
    numbers: &mut Numbers,
    now_ns: i64,
    keep: &Keep<'_>,
) -> VolumeResult<Replayed> {
    let heads = known_heads(desk, &found)?;
    let view = derive::derive(desk.objects.clone(), desk.cache, heads)?;
    numbers.saw(&view.heads);
    let tail = Tail::read(&*view.stage, &found, now_ns)?;
    let committed = tail.committed.clone();
    desk.disk.append(&Entry::Started(numbers.branch))?;
    let wall_ms = u64::try_from(now_ns / 1_000_000).unwrap_or(0);
    let mut done = Replayed {
        view,
        committed,
        caught_up: None,
    };
    let mut tail = tail;
    while let Some(batch) = tail.next_batch(numbers, wall_ms) {
        let made = commit::write(desk, &done.view, &batch, keep, &|_| Ok(()))?;
        numbers.took(batch.stamp);
        done.view = made.view;
        done.committed = Some(made.record);
        *done.caught_up.get_or_insert(0) += batch.written.len();
    }
    Ok(done)
}

/// What an earlier run left, as the journal has it.
#[derive(Debug)]
pub(super) struct Left {
    recovered: Recovered,
    refs: Vec<Oid>,
    overlay: PathBuf,
    len_max: u64,
    /// Of this start: who recovers the same twice makes the same of it.
    now_ns: i64,
}

impl Left {
    pub(super) fn found(&self) -> Found<'_> {
        Found {
            entries: &self.recovered.entries,
            refs: self.refs.clone(),
            overlay: &self.overlay,
            len_max: self.len_max,
        }
    }

    fn was_empty(&self) -> bool {
        self.recovered.entries.is_empty() && self.recovered.damage.is_none()
    }
}

/// Brings the volume to where it was.
pub(super) fn recover(volume: &Volume, found: Recovered) -> VolumeResult<()> {
    if found.torn_bytes > 0 {
        tracing::info!(bytes = found.torn_bytes, "the journal's torn end was cut");
    }
    if let Some(d) = &found.damage {
        tracing::error!(volume = %volume.name(), "{d}");
        volume.set_damage(d.to_string());
    }
    let left = Left {
        refs: head_refs(volume)?,
        overlay: volume.overlay_dir(),
        len_max: volume.file_bytes_max(),
        now_ns: clock::now_ns(),
        recovered: found,
    };
    restore_objects(volume, &left.recovered)?;
    let (done, numbers) = match replay_left(volume, &volume.desk(), &left, &keep_all(volume)) {
        Ok(done) => done,
        Err(e) if e.is_full() && left.recovered.damage.is_none() => {
            tracing::error!(volume = %volume.name(), error = %e, "nothing is written until there is room");
            return room::show(volume, left);
        }
        Err(e) => return Err(e),
    };
    {
        let mut live = volume.lock();
        live.numbers = numbers;
        live.view = done.view.clone();
        live.last_committed = done.committed;
    }
    match finish(volume, &left, done.caught_up) {
        Err(e) if e.is_full() && left.recovered.damage.is_none() => {
            tracing::error!(volume = %volume.name(), error = %e, "nothing is written until there is room");
            room::wait(volume, room::Waits::End(Arc::new(left)));
            Ok(())
        }
        done => done,
    }
}

/// [`replay`] of what was left; what is used up then of the branch of this run.
pub(super) fn replay_left(
    volume: &Volume,
    desk: &Desk<'_>,
    left: &Left,
    keep: &Keep<'_>,
) -> VolumeResult<(Replayed, Numbers)> {
    let mut numbers = volume.lock().numbers;
    let done = replay(desk, left.found(), &mut numbers, left.now_ns, keep)?;
    Ok((done, numbers))
}

/// Keeps what an earlier run left. A file that no program has from then becomes a container as it
/// is.
pub(super) fn keep_all(
    volume: &Volume,
) -> impl Fn(&dyn Objects, Cut, &Data) -> VolumeResult<(Kind, Oid)> {
    |stage, cut, data| {
        if let Data::Spilled(s) = data
            && volume.is_for_container(cut.0, data)
            && !s.has_writers().unwrap_or(true)
        {
            let _is_sealed = s.seal();
        }
        volume.keep(stage, cut, data)
    }
}

/// All is in a commit: the rest of what the earlier run left goes.
pub(super) fn finish(volume: &Volume, left: &Left, caught_up: Option<usize>) -> VolumeResult<()> {
    if let Some(files) = caught_up {
        tracing::info!(files, "committed what a crash had left");
    }
    settle_if_room(volume)?;
    volume
        .restore_refs(&volume.view())
        .or_else(|e| match e.is_full() {
            true => Ok(()),
            false => Err(e),
        })?;
    let bound = bound_in(&left.recovered.entries);
    volume.keep_orphans(&bound)?;
    unbind_all(volume, &bound)?;
    clear_overlay(volume)?;
    let is_damaged = left.recovered.damage.is_some();
    begin_anew(volume, left.was_empty(), is_damaged)
}

/// What the journal alone holds goes into a pack; on a full disk it stays there for now.
fn settle_if_room(volume: &Volume) -> VolumeResult<()> {
    match volume.repo().settle().map_err(VolumeError::from) {
        Err(e) if e.is_full() => {
            tracing::warn!(volume = %volume.name(), error = %e, "objects stay in the journal");
            Ok(())
        }
        done => done,
    }
}

/// All is in packs: the journal needs no entries of earlier runs any more. They may be in the memory
/// of the machine alone, if an fsync of them failed.
fn begin_anew(volume: &Volume, was_empty: bool, is_damaged: bool) -> VolumeResult<()> {
    let waits = volume.repo().waiting().is_some();
    if was_empty || (waits && !is_damaged) {
        return Ok(());
    }
    let opening = {
        let live = volume.lock();
        opening(
            live.numbers.branch,
            &live.view,
            live.last_committed.as_ref(),
        )
    };
    match volume.journal().renew(opening) {
        // Behind damage nothing would be replayed.
        Err(e) if is_damaged => Err(e.into()),
        Err(e) => {
            tracing::warn!(volume = %volume.name(), error = %e, "the journal goes on in its old file");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// What programs wrote by themselves is in a commit: the journal forgets the files before they go,
/// since others will have their numbers.
fn unbind_all(volume: &Volume, bound: &[u64]) -> VolumeResult<()> {
    if bound.is_empty() {
        return Ok(());
    }
    let all = bound.iter().map(|file| Patch::Unbind { file: *file });
    let n = volume.journal().append(&Entry::Op(all.collect()))?;
    Ok(volume.journal().sync(n)?)
}

/// Overlay files that the journal says programs could write to.
fn bound_in(entries: &[(u64, Entry)]) -> Vec<u64> {
    let mut out = BTreeSet::new();
    for (_, e) in entries {
        let Entry::Op(patches) = e else { continue };
        for p in patches {
            match p {
                Patch::Bind { file, .. } => {
                    out.insert(*file);
                }
                Patch::Unbind { file } => {
                    out.remove(file);
                }
                _ => {}
            }
        }
    }
    out.into_iter().collect()
}

/// What was in the journal alone goes into a pack.
fn restore_objects(volume: &Volume, found: &Recovered) -> VolumeResult<()> {
    let repo = volume.repo();
    for (n, e) in &found.entries {
        let Entry::Objects(pack) = e else { continue };
        // Of none: a commit was tried again whose objects were held already.
        if pack.get(8..12) == Some(&[0; 4]) {
            continue;
        }
        let came = incoming::parse(pack).map_err(|e| VolumeError::Record(e.to_string()))?;
        let mut objects = came.into_objects();
        objects.retain(|(id, _)| !repo.has(id).unwrap_or(false));
        if found.damage.is_some() && !is_whole(volume, &objects)? {
            tracing::error!(volume = %volume.name(), entry = n, "objects are not used, as others that they name are gone");
            continue;
        }
        if !objects.is_empty() {
            repo.hold(objects, || Ok::<_, VolumeError>(*n))?;
        }
    }
    settle_if_room(volume)
}

/// Whether all that these objects name is among them or here: whatever is here is taken to be whole.
fn is_whole(volume: &Volume, objects: &[(Oid, Object)]) -> VolumeResult<bool> {
    let held: Arc<dyn Objects> = volume.repo().clone();
    let new = Memory::over(held);
    for (id, o) in objects {
        new.keep(*id, o.clone());
    }
    let ids = objects.iter().map(|(id, _)| *id).collect();
    match closure::verify(&new, &**volume.repo(), &[], &ids) {
        Ok(()) => Ok(true),
        Err(ObjectError::Missing(_)) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Numbers of overlay files begin anew: none of an earlier run may come back under one.
fn clear_overlay(volume: &Volume) -> VolumeResult<()> {
    let dir = volume.overlay_dir();
    for e in fs::read_dir(&dir)? {
        fs::remove_file(e?.path())?;
    }
    durable::sync_dir(&dir)?;
    Ok(())
}

/// What the refs of heads name.
fn head_refs(volume: &Volume) -> VolumeResult<Vec<Oid>> {
    let mut ids = Vec::new();
    let refs = volume.repo().path().join("refs/cellfs/heads");
    if refs.exists() {
        for e in fs::read_dir(refs)? {
            let bytes = fs::read(e?.path())?;
            ids.extend(Oid::from_hex(bytes.trim_ascii_end()).ok());
        }
    }
    Ok(ids)
}

/// Heads named by the journal and by refs, as far as they are here.
pub(super) fn known_heads(desk: &Desk<'_>, found: &Found<'_>) -> VolumeResult<Vec<HeadInfo>> {
    let mut ids: BTreeSet<Oid> = found.refs.iter().copied().collect();
    let mut entries = found.entries.iter().map(|(_, e)| e).rev().peekable();
    for e in entries.by_ref() {
        match e {
            // It has all heads that were known before it in its history.
            Entry::Committed(c) if desk.objects.has(&c.head)? => {
                ids.insert(c.head);
                break;
            }
            Entry::Admitted(id) => {
                ids.insert(*id);
            }
            Entry::Committed(_) | Entry::Started(_) | Entry::Op(_) | Entry::Objects(_) => {}
        }
    }
    // But for those that a segment begins with, which may be later: see [`opening`].
    let mut opening = Vec::new();
    while let Some(Entry::Admitted(id)) = entries.peek() {
        opening.push(*id);
        entries.next();
    }
    if matches!(entries.next(), Some(Entry::Started(_))) {
        ids.extend(opening);
    }
    let src = desk.source(&*desk.objects);
    let mut heads = Vec::new();
    for id in ids {
        if desk.objects.has(&id)? {
            heads.push(derive::read_head(src, id)?);
        }
    }
    Ok(derive::maximal(heads))
}

#[derive(Debug)]
struct Bytes {
    over: Over,
    kind: Kind,
    data: Data,
    mtime: i64,
}

/// What the journal holds beyond the last head record.
#[derive(Debug, Default)]
struct Tail {
    changes: Vec<Change>,
    files: BTreeMap<FileId, Bytes>,
    committed: Option<Committed>,
    /// Commits that came to be, by the branches that this journal began.
    done: HashMap<BranchId, u64>,
    /// What overlay files that programs could write to began as, by their numbers.
    bound: BTreeMap<u64, Vec<Told>>,
    /// What such files began as whose entries an operation ended, by its number and their ids.
    ended: HashMap<(u64, FileId), Vec<Told>>,
    /// Other versions of files that are in `files`: each goes into a commit of its own.
    later: Vec<(FileId, Bytes)>,
    last: u64,
    now_ns: i64,
}

impl Tail {
    fn read(objs: &dyn Objects, found: &Found<'_>, now_ns: i64) -> VolumeResult<Self> {
        let mut tail = Self {
            now_ns,
            ..Self::default()
        };
        // In order, since a file may be held back by one commit and be in the next.
        let mut waiting: Vec<(u64, &Patch)> = Vec::new();
        for (n, e) in found.entries {
            tail.last = *n;
            match e {
                Entry::Op(patches) => {
                    for p in patches {
                        match p {
                            Patch::Bind { .. } | Patch::Unbind { .. } => tail.bind(*n, p.clone()),
                            p => waiting.push((*n, p)),
                        }
                    }
                }
                Entry::Started(branch) => {
                    tail.done.entry(*branch).or_default();
                }
                // Behind damage there may be one whose objects are gone: it did not come to be.
                Entry::Committed(c) if !objs.has(&c.head)? => {
                    tracing::error!(head = %c.head, "a commit is gone");
                }
                Entry::Committed(c) => {
                    let held: HashSet<FileId> = c.held.iter().copied().collect();
                    waiting.retain(|(n, p)| {
                        *n > c.upto || p.id().is_some_and(|id| held.contains(&id))
                    });
                    let seq = tail.done.entry(c.stamp.branch).or_default();
                    *seq = c.stamp.seq.max(*seq);
                    tail.committed = Some(c.clone());
                }
                Entry::Admitted(_) | Entry::Objects(_) => {}
            }
        }
        for (n, p) in waiting {
            tail.patch(objs, found.overlay, n, p.clone())?;
        }
        for (number, told) in std::mem::take(&mut tail.bound) {
            tail.compare(found, number, told)?;
        }
        Ok(tail)
    }

    fn bind(&mut self, n: u64, p: Patch) {
        match p {
            Patch::Bind {
                id,
                kind,
                base,
                blob,
                file,
            } => {
                let told = self.bound.entry(file).or_default();
                told.push(Told {
                    id,
                    base,
                    kind,
                    blob,
                });
            }
            Patch::Unbind { file } => {
                for told in self.bound.remove(&file).into_iter().flatten() {
                    self.ended.entry((n, told.id)).or_default().push(told);
                }
            }
            _ => {}
        }
    }

    /// What the versions of a file that an entry names stand for: those that came to be, and for
    /// one that did not, if the entry ends what was said of an overlay file, those that it was to
    /// replace.
    fn came_to_be(&self, n: u64, id: FileId, dots: &mut Vec<Dot>) {
        let is_known = |t: &&Told| !t.base.iter().any(|d| lost(&self.done, *d));
        if dots.iter().any(|d| lost(&self.done, *d))
            && let Some(all) = self.ended.get(&(n, id))
            && let Some(told) = all.iter().rev().find(is_known)
        {
            dots.extend(&told.base);
        }
    }

    /// What programs wrote by themselves into an overlay file is a version over those that it began
    /// as. What else the journal says of the file names the overlay file already.
    fn compare(&mut self, found: &Found<'_>, number: u64, told: Vec<Told>) -> VolumeResult<()> {
        let is_it = |b: &Bytes| matches!(&b.data, Data::Spilled(s) if s.number == number);
        if self.files.values().any(is_it) {
            return Ok(());
        }
        let came = |t: &&Told| !t.base.iter().any(|d| lost(&self.done, *d));
        let Some(told) = told.iter().rev().find(came) else {
            return Ok(());
        };
        let kind = told.kind.plain();
        let mut b = Bytes::empty(Over::Dots(told.base.clone()), kind, self.now_ns);
        b.spill(found.overlay, number);
        let Data::Spilled(s) = &b.data else {
            return Ok(());
        };
        let size = s.len();
        if size > found.len_max {
            return set_aside(found.overlay, number, size);
        }
        // One that was a blob and is too long to be one has changed.
        let is_same = match told.kind != Kind::Large && size > FILE_BYTES_MAX {
            true => false,
            false => large::name_of(told.kind, s.file())? == told.blob,
        };
        if !is_same {
            // One version of a file in one commit.
            match self.files.contains_key(&told.id) {
                true => self.later.push((told.id, b)),
                false => drop(self.files.insert(told.id, b)),
            }
        }
        Ok(())
    }

    fn patch(&mut self, objs: &dyn Objects, overlay: &Path, n: u64, p: Patch) -> VolumeResult<()> {
        match p {
            Patch::Meta(mut c) => {
                if let Some((id, dots)) = c.replaced() {
                    self.came_to_be(n, id, dots);
                }
                let c = c.map_dots(|d| match lost(&self.done, d) {
                    true => Dot::default(),
                    false => d,
                });
                match &c {
                    // One that has bytes already is a file that was moved aside.
                    Change::Born { id, kind, blob, .. } if kind.has_bytes() && blob.is_null() => {
                        let born = Bytes::empty(Over::Nothing, *kind, self.now_ns);
                        self.files.insert(*id, born);
                    }
                    Change::Drop { id, content, .. } if !content.is_empty() => {
                        self.files.remove(id);
                    }
                    _ => {}
                }
                self.changes.push(c);
            }
            Patch::Open {
                id,
                mut base,
                kind,
                blob,
            } => {
                self.came_to_be(n, id, &mut base);
                let bytes = match blob.is_null() {
                    true => Arc::default(),
                    false => objs.get(&blob, ObjectKind::Blob)?,
                };
                let data = match manifest::head(&bytes) {
                    Ok(head) if kind == Kind::Large => Data::Blob {
                        id: blob,
                        len: head.len,
                        chunked: true,
                    },
                    _ => Data::Memory(bytes),
                };
                // A file may begin anew before the commit of what it was came to be. What follows
                // builds on this, not on what was; an overlay file would hide it.
                let b = self.files.entry(id).or_insert_with(|| {
                    let base = base.into_iter().filter(|d| !lost(&self.done, *d)).collect();
                    Bytes::empty(Over::Dots(base), kind.plain(), self.now_ns)
                });
                b.data = data;
            }
            Patch::Bytes {
                id,
                at,
                data,
                mtime,
            } => {
                if let Some(b) = self.files.get_mut(&id) {
                    b.write(at, &data, mtime);
                }
            }
            Patch::Size { id, len, mtime } => {
                if let Some(b) = self.files.get_mut(&id) {
                    b.resize(len, mtime);
                }
            }
            Patch::Spill { id, file } => {
                if let Some(b) = self.files.get_mut(&id) {
                    b.spill(overlay, file);
                }
            }
            Patch::Bind { .. } | Patch::Unbind { .. } => self.bind(n, p),
        }
        Ok(())
    }

    /// What goes into the next commit; nothing when all is in one.
    fn next_batch(&mut self, numbers: &Numbers, wall_ms: u64) -> Option<Batch> {
        let changes = std::mem::take(&mut self.changes);
        let files = std::mem::take(&mut self.files);
        for (id, b) in std::mem::take(&mut self.later) {
            match self.files.contains_key(&id) {
                true => self.later.push((id, b)),
                false => drop(self.files.insert(id, b)),
            }
        }
        if changes.is_empty() && files.is_empty() {
            return None;
        }
        let stamp = numbers.next(wall_ms);
        let written = files.into_iter().enumerate().map(|(n, (id, b))| Written {
            ino: n as u64,
            id,
            apart: false,
            fresh: id,
            over: b.over,
            kind: b.kind,
            data: b.data,
            mtime: b.mtime,
        });
        Some(Batch {
            stamp,
            births: numbers.births,
            upto: self.last,
            changes,
            written: written.collect(),
            ..Batch::default()
        })
    }
}

/// A dot of a commit that did not come to be: it stands for the commit to come.
fn lost(done: &HashMap<BranchId, u64>, d: Dot) -> bool {
    done.get(&d.branch).is_some_and(|seq| d.seq > *seq)
}

impl Bytes {
    fn empty(over: Over, kind: Kind, mtime: i64) -> Self {
        Self {
            over,
            kind,
            data: Data::Memory(Arc::default()),
            mtime,
        }
    }

    fn write(&mut self, at: u64, bytes: &[u8], mtime: i64) {
        self.mtime = mtime;
        if let Data::Memory(m) = &mut self.data
            && let Ok(at) = usize::try_from(at)
        {
            let m = Arc::make_mut(m);
            let end = at.saturating_add(bytes.len());
            if m.len() < end {
                m.resize(end, 0);
            }
            if let Some(room) = m.get_mut(at..end) {
                room.copy_from_slice(bytes);
            }
        }
    }

    fn resize(&mut self, len: u64, mtime: i64) {
        self.mtime = mtime;
        if len == 0 && matches!(self.data, Data::Blob { .. }) {
            self.data = Data::Memory(Arc::default());
        }
        if let Data::Memory(m) = &mut self.data
            && let Ok(len) = usize::try_from(len)
        {
            Arc::make_mut(m).resize(len, 0);
        }
    }

    /// The overlay file holds all bytes from here on. Without it what memory has stands.
    fn spill(&mut self, overlay: &Path, number: u64) {
        let spill = match Spill::open(overlay, number) {
            Ok(s) => s,
            Err(e) => {
                tracing::warn!(error = %e, number, "an overlay file is gone");
                return;
            }
        };
        if let Ok(t) = spill.times() {
            self.mtime = t.mtime;
        }
        self.data = Data::Spilled(Arc::new(spill));
    }
}

/// Bytes that cannot go into a commit are kept beside the repository.
fn set_aside(overlay: &Path, number: u64, size: u64) -> VolumeResult<()> {
    let to = move_aside(overlay, number)?;
    tracing::error!(bytes = size, path = %to.display(), "a file that was being written can be in no commit: it is kept there");
    Ok(())
}

/// Where files are kept that can be in no commit.
pub(super) fn aside_of(overlay: &Path) -> PathBuf {
    overlay.with_file_name("aside")
}

/// Where an overlay file is from now on.
pub(super) fn move_aside(overlay: &Path, number: u64) -> VolumeResult<PathBuf> {
    let dir = aside_of(overlay);
    durable::dirs(&dir)?;
    let name = format!("{}-{number}", clock::now_ms());
    let to = dir.join(name);
    fs::rename(overlay.join(number.to_string()), &to)?;
    durable::sync_dir(&dir)?;
    Ok(to)
}

/// Entries that stand for all that dropped journal segments said.
#[must_use]
pub fn opening(branch: BranchId, view: &View, last: Option<&Committed>) -> Vec<Entry> {
    let mut out = vec![Entry::Started(branch)];
    out.extend(view.heads.iter().map(|h| Entry::Admitted(h.id)));
    out.extend(last.cloned().map(Entry::Committed));
    out
}
