//! Group commit: what is pending becomes objects in one pack, then a head record.
//!
//! Three steps: [`take`] snapshots the table under the lock and costs no I/O; [`write()`] makes
//! objects, fsyncs one pack and appends the head record; [`settle`] tells the table. A batch
//! whose write failed is written again later, unchanged, before anything else.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::chain::{self, Deed, Desk, Fixed};
use super::inode::{Data, Ino, Inode};
use super::live::{Live, Pending};
use super::spill::Spill;
use super::threshold::Thresholds;
use super::view::{HeadInfo, View};
use super::{Volume, VolumeResult};
use crate::base::clock;
use crate::base::id::{FileId, Oid};
use crate::base::name::EntryName;
use crate::base::stamp::{Dot, Stamp};
use crate::journal::Committed;
use crate::merge::intent::{self, Sight};
use crate::merge::shown::{self, Role, Shown};
use crate::record::Source;
use crate::record::change::{Change, OWN, SetField as Field};
use crate::record::conflict;
use crate::record::model::{Kind, Record};
use crate::record::state::State;
use crate::store::objects::{Memory, Objects};

/// A file that is not closed is committed all the same after this long, milliseconds.
const OPEN_COMMIT_MS: u64 = 1_000;
/// Once more for each so many bytes of it, up to a minute.
const OPEN_COMMIT_BYTES: u64 = 64 << 20;
const OPEN_COMMIT_MS_MAX: u64 = 60_000;

/// What written bytes replace.
#[derive(Debug)]
pub(super) enum Over {
    /// Nothing: the file is born in this commit.
    Nothing,
    /// What the writer was shown.
    Shown(Box<Shown>),
    /// These versions: all that is left to know after a crash.
    Dots(Vec<Dot>),
}

/// Bytes of one file for a commit.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) ino: Ino,
    pub(super) id: FileId,
    /// An id for the bytes if they need a file of their own.
    pub(super) fresh: FileId,
    /// They do: what is written is a copy beside another version of its file.
    pub(super) apart: bool,
    pub(super) over: Over,
    pub(super) kind: Kind,
    pub(super) data: Data,
    pub(super) mtime: i64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) stamp: Stamp,
    pub(super) births: u64,
    pub(super) upto: u64,
    pub(super) held: BTreeSet<FileId>,
    pub(super) held_entries: BTreeSet<u64>,
    pub(super) changes: Vec<Change>,
    pub(super) written: Vec<Written>,
    /// Some file lost its name to a version from elsewhere while it was being written.
    pub(super) detached: bool,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.written.is_empty()
    }
}

/// Files of so many bytes are read beside the commits, before they are in one.
const BESIDE_BYTES: u64 = if cfg!(test) { 200_000 } else { 32 << 20 };

/// What a commit takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// What is closed, but for what is to be read first.
    Read,
    /// What is closed.
    Closed,
    /// Also what is being written.
    All,
}

/// A large file that nobody writes to, and that is to be read before it is in a commit.
pub(super) fn to_be_read(volume: &Volume, i: &Inode) -> Option<Arc<Spill>> {
    let Data::Spilled(s) = &i.data else {
        return None;
    };
    let is_idle = i.writers == 0 && i.data.len() >= BESIDE_BYTES;
    let is_it = is_idle && volume.is_for_container(i.kind, &i.data) && !s.was_looked_at();
    is_it.then(|| s.clone())
}

/// Which dirty inodes are fit for a commit now.
fn ready(volume: &Volume, live: &Live, what: Reach) -> BTreeSet<Ino> {
    let (all, len_max) = (what == Reach::All, volume.file_bytes_max());
    let now = clock::now_ms();
    let mut ids = HashSet::new();
    let fit = |ino: &Ino| {
        let i = live.inodes.get(ino)?;
        let d = i.dirty?;
        // A pending change has bytes of the file: those that programs wrote by themselves meanwhile
        // go into the commit after it.
        let next = i.is_shared() && live.rewritten.contains(&i.id());
        let is_read = what != Reach::Read || to_be_read(volume, i).is_none();
        if next || i.data.len() > len_max || !is_read {
            return None;
        }
        // Who looks at all of a large file does so less often.
        let wait = OPEN_COMMIT_MS.saturating_mul(1 + i.data.len() / OPEN_COMMIT_BYTES);
        let old = now.saturating_sub(d.since_ms) >= wait.min(OPEN_COMMIT_MS_MAX);
        (all || d.settled || i.writers == 0 || old).then_some(*ino)
    };
    live.dirty
        .iter()
        .filter_map(fit)
        // One version of a file in one commit: a dot names one operation on an id.
        .filter(|ino| live.inodes.get(ino).is_some_and(|i| ids.insert(i.id())))
        .collect()
}

/// Splits the pending changes: those of files still being written stay.
fn split(live: &mut Live, held: &mut BTreeSet<FileId>) -> (Vec<Change>, BTreeSet<u64>) {
    let is_field = |c: &Change| matches!(c, Change::Field { .. });
    let mut entries: BTreeSet<u64> = BTreeSet::new();
    // What came in one entry stays together, whichever of its files waits, and so on.
    let mut known = 0;
    while !held.is_empty() && known != held.len() + entries.len() {
        known = held.len() + entries.len();
        let links: Vec<FileId> = held.iter().flat_map(|id| links_of(live, *id)).collect();
        held.extend(links);
        for p in &live.pending {
            if p.change.id().is_some_and(|id| held.contains(&id)) && !is_field(&p.change) {
                entries.insert(p.entry);
            }
            // Another name of a file waits with it.
            if let Change::Born { kind, .. } = &p.change
                && kind.target().is_some_and(|file| held.contains(&file))
            {
                entries.insert(p.entry);
            }
            let bound = entries.contains(&p.entry) && !is_field(&p.change);
            held.extend(p.change.id().filter(|_| bound));
        }
    }
    let stays = |p: &Pending| p.change.id().is_some_and(|id| held.contains(&id));
    let (keep, go): (Vec<_>, Vec<_>) = live.pending.drain(..).partition(stays);
    let held_entries = keep.iter().map(|p| p.entry).collect();
    live.pending = keep;
    let waits = live.pending.iter().filter_map(|p| match &p.change {
        Change::Write { id, .. } => Some(*id),
        _ => None,
    });
    live.rewritten = waits.collect();
    (go.into_iter().map(|p| p.change).collect(), held_entries)
}

/// The records of a file's other names: what was done to them waits with it.
fn links_of(live: &Live, file: FileId) -> Vec<FileId> {
    let ino = live.by_id.get(&file);
    let Some(i) = ino.and_then(|ino| live.inodes.get(ino)) else {
        return Vec::new();
    };
    let others = i.others.iter().flat_map(|o| &o.link);
    i.shown.link.iter().chain(others).map(|l| l.id).collect()
}

/// Where these changes found or left a file elsewhere than they say: somebody else did something to
/// it too.
fn odd(
    src: Source<'_>,
    (base, state): (&State, &State),
    changes: &[Change],
) -> VolumeResult<Vec<(FileId, EntryName)>> {
    let mut last: HashMap<FileId, Option<(FileId, &EntryName)>> = HashMap::new();
    let mut first: HashMap<FileId, Option<(FileId, &EntryName)>> = HashMap::new();
    let mut out = Vec::new();
    for c in changes {
        let prev = match c {
            Change::Move { prev, .. } => prev.as_ref().map(|(dir, name)| (*dir, name)),
            _ => None,
        };
        if let Change::Move { id, .. } = c {
            first.entry(*id).or_insert(prev);
        }
        // Who did this saw it at another name than the one that it was given before: as when that
        // name waited, and the file had come to this one from elsewhere.
        if let Change::Move { id, .. } | Change::Drop { id, .. } = c
            && let Some(Some((dir, name))) = last.get(id)
            && Some((*dir, *name)) != prev
        {
            out.push((*dir, (*name).clone()));
        }
        match c {
            Change::Born {
                id, parent, name, ..
            }
            | Change::Move {
                id, parent, name, ..
            } => {
                last.insert(*id, Some((*parent, name)));
            }
            Change::Drop { id, .. } => {
                last.insert(*id, None);
            }
            _ => {}
        }
    }
    for (id, wanted) in last {
        let record = state.record(src, id)?;
        let place = record.as_ref().and_then(Record::place);
        let found = place.as_ref().map(|p| (p.parent, &p.name));
        // Another name of a file that is gone shows nothing.
        let file = match record.as_ref().and_then(|r| r.kind()?.target()) {
            Some(file) => state.record(src, file)?.is_some_and(|f| f.is_shown()),
            None => true,
        };
        if found != wanted || !file {
            let both = found.into_iter().chain(wanted);
            out.extend(both.map(|(dir, name)| (dir, name.clone())));
        }
        // It leaves this name, too.
        if let Some(prev) = first.get(&id) {
            let was = base.record(src, id)?.and_then(|r| r.place());
            let at = was.as_ref().map(|p| (p.parent, &p.name));
            let left = at.filter(|_| at != *prev && at != wanted);
            out.extend(left.map(|(dir, name)| (dir, name.clone())));
        }
    }
    Ok(out)
}

/// Whether more than one version could be shown at the file's name. `dirs` is for the next call.
fn is_contested(
    src: Source<'_>,
    state: &State,
    id: FileId,
    dirs: &mut HashMap<FileId, Vec<FileId>>,
) -> VolumeResult<bool> {
    let Some(record) = state.record(src, id)? else {
        return Ok(false);
    };
    if record.is_contested() || record.filled.links > 0 {
        return Ok(true);
    }
    // What lies beside a file goes from one of its names to another.
    if let Some(file) = record.kind().and_then(Kind::target)
        && state.record(src, file)?.is_some_and(|f| f.is_contested())
    {
        return Ok(true);
    }
    let Some(place) = record.place() else {
        return Ok(false);
    };
    // A file with the name of a copy: the copy has a longer name while it is there.
    if conflict::parse(&place.name).is_some() {
        return Ok(true);
    }
    let all = match dirs.entry(place.parent) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(new) => new.insert(shown::unified(src, state, place.parent)?),
    };
    let mut files = 0;
    for dir in all {
        files += state.placed(src, *dir, &place.name)?.len();
    }
    Ok(files > 1)
}

/// Snapshots what is fit for a commit.
pub(super) fn take(volume: &Volume, live: &mut Live, what: Reach) -> Batch {
    let ready = ready(volume, live, what);
    let ids: HashSet<FileId> = ready
        .iter()
        .filter_map(|i| live.inodes.get(i).map(Inode::id))
        .collect();
    let waits = live.dirty.iter().filter(|i| !ready.contains(*i));
    // What programs write by themselves to a file that others have bytes for goes into the commit
    // after theirs, which does not wait for it.
    let is_next = |id: FileId| ids.contains(&id) || live.rewritten.contains(&id);
    let mut held: BTreeSet<FileId> = waits
        .filter_map(|i| live.inodes.get(i))
        .filter(|i| !(i.is_shared() && is_next(i.id())))
        .map(Inode::id)
        .collect();
    let (changes, held_entries) = split(live, &mut held);
    let stamp = live.numbers.next(clock::now_ms());
    live.taken = volume.journal().last();
    let mut batch = Batch {
        stamp,
        births: 0,
        upto: live.taken,
        held,
        held_entries,
        changes,
        written: Vec::new(),
        detached: false,
    };
    let view = live.view.clone();
    let sight = Sight {
        src: volume.source(&view),
        state: &view.state,
    };
    for ino in ready {
        let fresh = live.mint();
        let Some(i) = live.inodes.get_mut(&ino) else {
            continue;
        };
        if batch.held.contains(&i.id()) {
            continue;
        }
        i.dirty = None;
        live.dirty.remove(&ino);
        live.committing.insert(ino);
        live.sealing.insert(ino, None);
        batch.detached |= i.place.is_none();
        if i.writers == 0
            && let Data::Spilled(s) = &i.data
            && volume.is_for_container(i.kind, &i.data)
        {
            // If somebody has it in hand it is read like others.
            let _is_sealed = s.seal();
        }
        let is_copy = !i.born && i.shown.role != Role::Main && i.shown.link.is_empty();
        // Errors come again when it is written.
        let apart = is_copy && intent::goes_apart(sight, &i.shown).unwrap_or(false);
        // It goes by the copy's name from then on, if it is there still.
        let is_there = || {
            let now = shown::lookup(sight.src, sight.state, &i.shown.parents, &i.shown.name);
            now.is_ok_and(|now| now.is_some_and(|n| n.versions == i.shown.versions))
        };
        let named = apart || (is_copy && is_there());
        batch.written.push(Written {
            ino,
            id: i.id(),
            fresh,
            apart,
            over: if i.born {
                Over::Nothing
            } else {
                Over::Shown(Box::new(i.shown.clone()))
            },
            kind: i.kind,
            data: i.data.clone(),
            mtime: i.attr.mtime,
        });
        i.born = false;
        i.remember();
        let was = i.id();
        i.shown.versions.truncate(1);
        for v in &mut i.shown.versions {
            v.content = stamp.dot();
            if named {
                v.location = stamp.dot();
            }
            if apart {
                (v.id, v.first) = (fresh, true);
            }
        }
        if named {
            i.shown.role = Role::Main;
            i.shown.merged = false;
        }
        if apart {
            if live.by_id.get(&was) == Some(&ino) {
                live.by_id.remove(&was);
            }
            live.by_id.insert(fresh, ino);
            live.writing.insert(fresh, ino);
        }
    }
    if batch.is_empty() {
        return batch;
    }
    batch.births = live.numbers.births;
    live.numbers.took(stamp);
    // Files that wait keep standing for the commit to come.
    let touched: Vec<Ino> = live.touched.iter().copied().collect();
    let (stay, go): (HashSet<Ino>, HashSet<Ino>) = touched.into_iter().partition(|i| {
        live.inodes
            .get(i)
            .is_some_and(|i| batch.held.contains(&i.id()))
    });
    live.committing.extend(&go);
    for ino in &go {
        if let Some(i) = live.inodes.get_mut(ino) {
            i.born = false;
        }
    }
    live.touched = go;
    live.settle_dots(stamp.dot());
    live.touched = stay;
    batch
}

/// Leaves out files that were born and removed within the batch, and all but the last value
/// of each field.
fn fold(changes: Vec<Change>) -> Vec<Change> {
    let mut born = HashSet::new();
    let mut gone = HashSet::new();
    for c in &changes {
        match c {
            Change::Born { id, .. } => {
                born.insert(*id);
            }
            Change::Drop { id, content, .. } if born.contains(id) && content.contains(&OWN) => {
                gone.insert(*id);
            }
            _ => {}
        }
    }
    // A name that nobody ever saw is taken away from nothing. That it was not in a commit yet was
    // not known when a crash came before the commit that it was in was whole.
    let links: HashMap<FileId, FileId> = (changes.iter())
        .filter_map(|c| match c {
            Change::Born { id, kind, .. } if gone.contains(id) => Some((*id, kind.target()?)),
            _ => None,
        })
        .collect();
    let pairs = changes.iter().zip(changes.iter().skip(1)).enumerate();
    let unseen: HashSet<usize> = pairs
        .filter(|(_, pair)| match pair {
            (Change::Drop { id, .. }, Change::Unlink { id: file, .. }) => {
                links.get(id) == Some(file)
            }
            _ => false,
        })
        .map(|(n, _)| n + 1)
        .collect();
    let mut last: HashMap<(FileId, FieldName<'_>), usize> = HashMap::new();
    for (n, c) in changes.iter().enumerate() {
        if let Change::Field { id, field } = c {
            last.insert((*id, name_of(field)), n);
        }
    }
    let keep = |(n, c): &(usize, &Change)| match c {
        Change::Field { id, field } => {
            !gone.contains(id) && last.get(&(*id, name_of(field))) == Some(n)
        }
        _ => c.id().is_none_or(|id| !gone.contains(&id)),
    };
    let kept: HashSet<usize> = changes
        .iter()
        .enumerate()
        .filter(keep)
        .map(|(n, _)| n)
        .filter(|n| !unseen.contains(n))
        .collect();
    let numbered = changes.into_iter().enumerate();
    numbered
        .filter(|(n, _)| kept.contains(n))
        .map(|(_, c)| c)
        .collect()
}

/// A field, and which of the extended attributes.
type FieldName<'a> = (u8, &'a [u8]);

fn name_of(f: &Field) -> FieldName<'_> {
    match f {
        Field::SetMode(_) => (0, &[]),
        Field::SetMtime(_) => (1, &[]),
        Field::SetUid(_) => (2, &[]),
        Field::SetGid(_) => (3, &[]),
        Field::SetXattr { name, .. } => (4, name),
    }
}

/// The result of a written batch.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) view: View,
    pub(super) head: HeadInfo,
    pub(super) pack: Option<Vec<u8>>,
    pub(super) record: Committed,
    /// Some file has several versions: what is shown beside it may be another now.
    pub(super) contested: bool,
    /// Names at which the state shows something else than the changes say.
    pub(super) odd: Vec<(FileId, EntryName)>,
    blobs: Blobs,
}

/// What bytes are in a commit, and their name there.
pub(super) type Blobs = HashMap<Ino, (Kind, Oid)>;

/// What a file is, and the most bytes that it has as one object, if that is said of it.
pub(super) type Cut = (Kind, Option<u64>);

/// Puts bytes where a commit finds them: into its stage, or, if they are too many, into the store.
pub(super) type Keep<'a> = dyn Fn(&dyn Objects, Cut, &Data) -> VolumeResult<(Kind, Oid)> + 'a;

/// Makes the batch durable on top of `base`. `keep` keeps what was written; `pin` is told of it
/// before there is a head record.
pub(super) fn write(
    desk: &Desk<'_>,
    base: &View,
    batch: &Batch,
    keep: &Keep<'_>,
    pin: &dyn Fn(&Blobs) -> VolumeResult<()>,
) -> VolumeResult<Done> {
    let below: Arc<dyn Objects> = base.stage.clone();
    let stage = Memory::over(below);
    let src = desk.source(&stage);
    let mut blobs = HashMap::new();
    let mut by_id = HashMap::new();
    let mut thresholds = Thresholds::new(src, base, &batch.changes);
    for w in &batch.written {
        let above = match w.kind {
            Kind::File => thresholds.of(w.id)?,
            _ => None,
        };
        let blob = keep(&stage, (w.kind, above), &w.data)?;
        blobs.insert(w.ino, blob);
        by_id.insert(w.id, (blob, matches!(w.over, Over::Nothing)));
    }
    let mut changes = batch.changes.clone();
    for c in &mut changes {
        if let Change::Born { id, kind, blob, .. } = c
            && let Some((b, true)) = by_id.get(id)
        {
            (*kind, *blob) = *b;
        }
    }
    for w in &batch.written {
        let none = || (w.kind, super::live::null_oid());
        let (kind, blob) = blobs.get(&w.ino).copied().unwrap_or_else(none);
        match &w.over {
            Over::Nothing => {}
            Over::Shown(s) => {
                changes.extend(write_over(src, &base.state, s, (kind, blob), w)?);
            }
            Over::Dots(base) => changes.push(Change::Write {
                id: w.id,
                base: base.clone(),
                kind,
                blob,
            }),
        }
        let mut fields = vec![Field::SetMtime(w.mtime)];
        let id = if w.apart { w.fresh } else { w.id };
        if let (true, Over::Shown(s)) = (w.apart, &w.over) {
            fields.extend(intent::attributes_of(s));
        }
        changes.extend(fields.into_iter().map(|field| Change::Field { id, field }));
    }
    let changes = fold(changes);
    let deed = Deed {
        stamp: batch.stamp,
        births: batch.births,
        changes: &changes,
        message: &message(batch),
    };
    let sealed = chain::change(desk, base, &stage, &deed)?;
    let mut contested = false;
    let born: BTreeSet<FileId> = (changes.iter())
        .filter(|c| matches!(c, Change::Born { .. }))
        .filter_map(Change::id)
        .collect();
    let ids: BTreeSet<FileId> = changes.iter().filter_map(Change::id).collect();
    for state in [&base.state, &sealed.state] {
        let mut dirs: HashMap<FileId, Vec<FileId>> = HashMap::new();
        for id in &ids {
            let is_here = *state != base.state || !born.contains(id);
            if !contested && is_here {
                contested = is_contested(src, state, *id, &mut dirs)?;
            }
        }
    }
    let reach = chain::Reach {
        upto: batch.upto,
        held: batch.held.iter().copied().collect(),
    };
    let sealed_state = sealed.state;
    pin(&blobs)?;
    let fixed = chain::fix(desk, base, &stage, sealed, reach)?;
    let Fixed {
        view,
        head,
        pack,
        record,
    } = fixed;
    Ok(Done {
        view,
        head,
        pack,
        record,
        contested,
        odd: odd(src, (&base.state, &sealed_state), &changes)?,
        blobs,
    })
}

/// The changes for bytes written over what the writer was shown.
///
/// If the view shows that still, the bytes replace it and all else at the name stays beside
/// it. If a version from elsewhere came meanwhile, only what the writer saw is replaced: the
/// rest is merged with it.
fn write_over(
    src: Source<'_>,
    state: &State,
    s: &Shown,
    (kind, blob): (Kind, Oid),
    w: &Written,
) -> VolumeResult<Vec<Change>> {
    let sight = Sight { src, state };
    if w.apart {
        return Ok(intent::write_apart(sight, s, (kind, blob), w.fresh)?);
    }
    let now = shown::lookup(src, state, &s.parents, &s.name)?;
    // Its bytes count, not those that were shown: a commit that was under way then has made others.
    if let Some(now) = now.filter(|n| n.versions == s.versions) {
        return Ok(intent::write_anew(sight, &now, (kind, blob), w.fresh)?);
    }
    let dots = |id| s.versions.iter().filter(move |v| v.id == id);
    let mut out = vec![Change::Write {
        id: w.id,
        base: dots(w.id).map(|v| v.content).collect(),
        kind,
        blob,
    }];
    let others: BTreeSet<FileId> = s.versions.iter().map(|v| v.id).collect();
    for id in others.into_iter().filter(|id| *id != w.id) {
        out.push(Change::Drop {
            id,
            content: dots(id).map(|v| v.content).collect(),
            location: dots(id).map(|v| v.location).collect(),
        });
    }
    Ok(out)
}

fn message(batch: &Batch) -> String {
    let mut names: Vec<String> = batch
        .changes
        .iter()
        .filter_map(|c| match c {
            Change::Born { name, .. } | Change::Move { name, .. } => Some(name.to_string()),
            _ => None,
        })
        .collect();
    names.extend(batch.written.iter().filter_map(|w| match &w.over {
        Over::Shown(s) => Some(s.name.to_string()),
        _ => None,
    }));
    names.dedup();
    match names.as_slice() {
        [] => "change metadata\n".to_owned(),
        [one] => format!("{one}\n"),
        [first, rest @ ..] => format!("{first} and {} more\n", rest.len()),
    }
}

/// Tells the table that a batch is durable.
pub(super) fn settle(live: &mut Live, batch: &Batch, done: &Done) {
    for w in &batch.written {
        // One that goes on as another file since then has other bytes to be compared with.
        let Some(blob) = done.blobs.get(&w.ino) else {
            continue;
        };
        let id = if w.apart { w.fresh } else { w.id };
        // Another one may have taken the file over.
        for ino in [Some(w.ino), live.by_id.get(&id).copied()]
            .into_iter()
            .flatten()
        {
            let has_it = |i: &&mut Inode| {
                let version = i.shown.versions.first();
                i.id() == id && version.is_some_and(|v| v.content == batch.stamp.dot())
            };
            if let Some(i) = live.inodes.get_mut(&ino).filter(has_it) {
                (i.shown.kind, i.shown.blob) = *blob;
            }
        }
    }
    for (dir, name) in &done.odd {
        if let Some(ino) = live.by_id.get(dir) {
            live.stale.insert((*ino, name.clone()));
        }
    }
    live.view = done.view.clone();
    live.last_committed = Some(done.record.clone());
    let committed: Vec<u64> = live
        .overrides
        .range(..=batch.upto)
        .map(|(n, _)| *n)
        .filter(|n| !batch.held_entries.contains(n))
        .collect();
    for n in committed {
        for (dir, name) in live.overrides.remove(&n).unwrap_or_default() {
            settle_name(live, n, dir, &name);
        }
    }
    live.sealing.clear();
    let all = std::mem::take(&mut live.committing);
    for w in &batch.written {
        if let Some((_, blob)) = done.blobs.get(&w.ino) {
            live.give_up_committed(w.ino, &w.data, *blob);
        }
    }
    for ino in all {
        live.drop_if_idle(ino);
    }
    let inodes = &live.inodes;
    live.writing
        .retain(|_, i| inodes.get(i).is_some_and(|i| i.dirty.is_some()));
}

fn settle_name(live: &mut Live, n: u64, dir: Ino, name: &EntryName) {
    use super::inode::Child;
    let Some(d) = live.inodes.get_mut(&dir) else {
        return;
    };
    let mut idle = None;
    match d.children.get_mut(name) {
        Some(Child::Bound { ino, since }) if *since == n => {
            *since = 0;
            idle = Some(*ino);
        }
        Some(Child::Absent { since }) if *since == n => {
            d.children.remove(name);
            idle = Some(dir);
        }
        _ => {}
    }
    if let Some(ino) = idle {
        live.drop_if_idle(ino);
    }
}

impl Batch {
    /// Whether the whole view has to be compared after this batch.
    pub(super) fn detached(&self) -> bool {
        self.detached
    }
}
