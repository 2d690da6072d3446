//! After a crash: the heads that were known, and what was written after the last commit.
//!
//! What the journal holds beyond the last head record becomes one commit before anything is
//! mounted, so that a restarted node shows what was written up to the crash.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{self, OpenOptions};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::commit::{self, Batch, Over, Written};
use super::derive;
use super::inode::{Data, Spill};
use super::live::Live;
use super::view::View;
use super::{Volume, VolumeResult};
use crate::base::clock;
use crate::base::id::{BranchId, FileId, Oid};
use crate::base::stamp::{Dot, Stamp};
use crate::journal::{Committed, Entry, Patch, Recovered};
use crate::record::change::Change;
use crate::record::model::Kind;
use crate::store::objects::{ObjectKind, Objects};

/// Brings the volume to where it was.
pub(super) fn recover(volume: &Volume, found: Recovered) -> VolumeResult<()> {
    if found.torn_bytes > 0 {
        tracing::info!(bytes = found.torn_bytes, "the journal's torn end was cut");
    }
    let heads = known_heads(volume, &found)?;
    let view = derive::derive(volume, heads)?;
    let tail = Tail::read(volume, found.entries)?;
    {
        let mut live = volume.lock();
        let latest = view.heads.iter().map(|h| h.stamp.hlc).max();
        live.hlc = latest.unwrap_or_default();
        live.view = view.clone();
    }
    let branch = volume.lock().branch;
    volume.journal().append(&Entry::Started(branch))?;
    if let Some(batch) = tail.into_batch(volume) {
        let done = commit::write(volume, &view, &batch)?;
        let mut live = volume.lock();
        live.last_committed = Some(done.record.clone());
        live.seq = batch.stamp.seq;
        live.hlc = batch.stamp.hlc;
        live.view = done.view.clone();
        drop(live);
        volume.project(&done.view, &view);
        tracing::info!(
            files = batch.written.len(),
            "committed what a crash had left"
        );
    } else {
        volume.project(&view, &view);
    }
    let overlay = volume.overlay_dir();
    if overlay.exists() {
        fs::remove_dir_all(&overlay)?;
    }
    fs::create_dir_all(&overlay)?;
    Ok(())
}

/// Heads named by the journal and by refs, as far as they are here.
fn known_heads(volume: &Volume, found: &Recovered) -> VolumeResult<Vec<super::view::HeadInfo>> {
    let mut ids = BTreeSet::new();
    for (_, e) in &found.entries {
        match e {
            Entry::Committed(c) => {
                ids.insert(c.head);
            }
            Entry::Admitted(id) => {
                ids.insert(*id);
            }
            Entry::Started(_) | Entry::Op(_) => {}
        }
    }
    let refs = volume.repo().path().join("refs/cellfs/heads");
    if refs.exists() {
        for e in fs::read_dir(refs)? {
            let bytes = fs::read(e?.path())?;
            ids.extend(Oid::from_hex(bytes.trim_ascii_end()).ok());
        }
    }
    let view = volume.view();
    let src = volume.source(&view);
    let mut heads = Vec::new();
    for id in ids {
        if volume.repo().has(&id)? {
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
    files: HashMap<FileId, Bytes>,
    last: u64,
}

impl Tail {
    fn read(volume: &Volume, entries: Vec<(u64, Entry)>) -> VolumeResult<Self> {
        let mut committed: Option<Committed> = None;
        let mut branch = BranchId::default();
        for (_, e) in &entries {
            match e {
                Entry::Committed(c) => committed = Some(c.clone()),
                Entry::Started(b) => branch = *b,
                _ => {}
            }
        }
        let upto = committed.as_ref().map_or(0, |c| c.upto);
        let held: HashSet<FileId> = committed
            .iter()
            .flat_map(|c| c.held.iter().copied())
            .collect();
        let done = committed
            .filter(|c| c.stamp.branch == branch)
            .map_or(0, |c| c.stamp.seq);
        let mut tail = Self::default();
        for (n, e) in entries {
            tail.last = n;
            let Entry::Op(patches) = e else { continue };
            for p in patches {
                let wanted = n > upto || p.id().is_some_and(|id| held.contains(&id));
                if wanted {
                    tail.patch(volume, p, branch, done)?;
                }
            }
        }
        Ok(tail)
    }

    fn patch(
        &mut self,
        volume: &Volume,
        p: Patch,
        branch: BranchId,
        done: u64,
    ) -> VolumeResult<()> {
        // A commit that did not come to be: its dots stand for the commit to come.
        let lost = |d: Dot| d.branch == branch && d.seq > done;
        match p {
            Patch::Meta(c) => {
                let c = c.map_dots(|d| if lost(d) { Dot::default() } else { d });
                match &c {
                    Change::Born { id, kind, .. } if *kind != Kind::Dir => {
                        self.files.insert(*id, Bytes::empty(Over::Nothing, *kind));
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
                base,
                kind,
                blob,
            } => {
                if let std::collections::hash_map::Entry::Vacant(v) = self.files.entry(id) {
                    let base = base.into_iter().filter(|d| !lost(*d)).collect();
                    let mut b = Bytes::empty(Over::Dots(base), kind);
                    if !blob.is_null() {
                        b.data = Data::Memory(volume.repo().get(&blob, ObjectKind::Blob)?);
                    }
                    v.insert(b);
                }
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
                    b.spill(volume, file);
                }
            }
        }
        Ok(())
    }

    fn into_batch(self, volume: &Volume) -> Option<Batch> {
        if self.changes.is_empty() && self.files.is_empty() {
            return None;
        }
        let live = volume.lock();
        let stamp = Stamp {
            hlc: live.hlc.tick(clock::now_ms()),
            branch: live.branch,
            seq: live.seq + 1,
        };
        let written = self
            .files
            .into_iter()
            .enumerate()
            .map(|(n, (id, b))| Written {
                ino: n as u64,
                id,
                fresh: id,
                over: b.over,
                kind: b.kind,
                data: b.data,
                mtime: b.mtime,
            });
        Some(Batch {
            stamp,
            births: live.births,
            upto: self.last,
            changes: self.changes,
            written: written.collect(),
            ..Batch::default()
        })
    }
}

impl Bytes {
    fn empty(over: Over, kind: Kind) -> Self {
        Self {
            over,
            kind,
            data: Data::Memory(Arc::default()),
            mtime: clock::now_ns(),
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
        if let Data::Memory(m) = &mut self.data
            && let Ok(len) = usize::try_from(len)
        {
            Arc::make_mut(m).resize(len, 0);
        }
    }

    /// The overlay file holds all bytes from here on. Without it what memory has stands.
    fn spill(&mut self, volume: &Volume, number: u64) {
        let path = volume.overlay_dir().join(number.to_string());
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(f) => f,
            Err(e) => {
                tracing::warn!(error = %e, path = %path.display(), "an overlay file is gone");
                return;
            }
        };
        let meta = file.metadata();
        if let Ok(m) = &meta
            && let Ok(t) = m.modified()
            && let Ok(d) = t.duration_since(std::time::UNIX_EPOCH)
        {
            self.mtime = i64::try_from(d.as_nanos()).unwrap_or(self.mtime);
        }
        let len = AtomicU64::new(meta.map_or(0, |m| m.len()));
        self.data = Data::Spilled(Arc::new(Spill { number, file, len }));
    }
}

impl Volume {
    /// Entries that stand for all that dropped journal segments said.
    pub(super) fn opening(&self, view: &View, live: &Live) -> Vec<Entry> {
        let mut out = vec![Entry::Started(live.branch)];
        out.extend(view.heads.iter().map(|h| Entry::Admitted(h.id)));
        out.extend(live.last_committed.clone().map(Entry::Committed));
        out
    }
}
