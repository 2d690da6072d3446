//! How changes become a commit that lasts, and what this node's commits are called.
//!
//! Nothing here knows of mounts, threads or files: objects are read through a seam, and what
//! must last goes to a [`Disk`]. A volume and a simulation of many run the same code. Invariant:
//! when [`fix`] returns, the commit and all that it names outlive a loss of power; before, nobody
//! has heard of it.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::derive;
use super::dots::Ancestry;
use super::error::VolumeError;
use super::view::{HeadInfo, View};
use super::{Identity, VolumeResult};
use crate::base::id::{BranchId, FileId, Oid};
use crate::base::limit::{CARRIED_PACK_BYTES_MAX, LOGGED_COMMIT_BYTES_MAX};
use crate::base::stamp::{Hlc, Stamp};
use crate::chunk::manifest;
use crate::journal::{Committed, Entry};
use crate::merge::{project, view as merge_view};
use crate::record::Source;
use crate::record::cache::Cache;
use crate::record::change::{self, Change};
use crate::record::commit::{self as record_commit, Carried};
use crate::record::model::Kind;
use crate::record::state::State;
use crate::store::closure;
use crate::store::objects::{Memory, Object, ObjectError, ObjectKind, Objects};
use crate::store::pack;

/// Where what must last goes.
pub trait Disk: Send + Sync {
    /// Makes objects readable at once, and appends the pack of them to the journal: what names
    /// them must stand behind them there.
    ///
    /// # Errors
    /// As the journal; the objects are not here then.
    fn hold(&self, pack: Vec<u8>, objects: Vec<(Oid, Object)>) -> VolumeResult<()>;

    /// Makes objects durable and readable, by themselves: see [`flush`].
    ///
    /// # Errors
    /// As the store.
    fn flush(&self, objects: Vec<(Oid, Object)>) -> VolumeResult<()>;

    /// Appends an entry to the journal and returns its number.
    ///
    /// # Errors
    /// As the journal.
    fn append(&self, entry: &Entry) -> VolumeResult<u64>;

    /// The number of the last entry.
    fn last(&self) -> u64;

    /// Returns when the journal is durable up to this entry.
    ///
    /// # Errors
    /// As the journal.
    fn sync(&self, number: u64) -> VolumeResult<()>;
}

/// What a commit is made with.
#[derive(Clone)]
pub struct Desk<'a> {
    /// All objects that are here.
    pub objects: Arc<dyn Objects>,
    /// Decoded records.
    pub cache: &'a Cache,
    /// Who writes.
    pub who: &'a Identity,
    /// Where it is written.
    pub disk: &'a dyn Disk,
}

impl std::fmt::Debug for Desk<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

impl<'a> Desk<'a> {
    /// A stage before the objects that are here.
    #[must_use]
    pub fn stage(&self) -> Arc<Memory> {
        Arc::new(Memory::over(self.objects.clone()))
    }

    /// Reads records through a stage.
    #[must_use]
    pub fn source(&'a self, stage: &'a dyn Objects) -> Source<'a> {
        Source::new(stage, self.cache)
    }
}

/// What one run of a node has used up of its branch. Invariant: no branch is written by two
/// runs, so no number is given twice, whatever a disk forgot.
#[derive(Debug, Clone, Copy)]
pub struct Numbers {
    /// The branch that this run writes.
    pub branch: BranchId,
    /// Commits on it so far.
    pub seq: u64,
    /// Ids minted on it so far.
    pub births: u64,
    /// The latest clock reading seen or made.
    pub hlc: Hlc,
}

impl Numbers {
    /// Those of a run that begins, on a branch of its own.
    #[must_use]
    pub fn begin(random: u64) -> Self {
        Self {
            // The top bit is for ids that are hashes.
            branch: BranchId(random >> 1 | 1),
            seq: 0,
            births: 0,
            hlc: Hlc::default(),
        }
    }

    /// The stamp that the next commit would get.
    #[must_use]
    pub fn next(&self, wall_ms: u64) -> Stamp {
        Stamp {
            hlc: self.hlc.tick(wall_ms),
            branch: self.branch,
            seq: self.seq + 1,
        }
    }

    /// A commit has this stamp, whether or not it comes to be.
    pub fn took(&mut self, stamp: Stamp) {
        self.hlc = self.hlc.max(stamp.hlc);
        self.seq = stamp.seq;
    }

    /// Commits of others came: what is made from now on is later.
    pub fn saw(&mut self, heads: &[HeadInfo]) {
        let latest = heads.iter().map(|h| h.stamp.hlc).max();
        self.hlc = self.hlc.max(latest.unwrap_or_default());
    }

    /// A new id.
    pub fn mint(&mut self) -> FileId {
        self.births += 1;
        FileId {
            branch: self.branch.0,
            n: self.births,
        }
    }
}

/// What goes into a record commit.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// Its name and time.
    pub stamp: Stamp,
    /// Ids minted so far.
    pub births: u64,
    /// The content commit that it describes.
    pub content: Option<Oid>,
    /// The state that it pins.
    pub state: State,
    /// The content's tree.
    pub tree: Oid,
    /// Commits known by their content only, besides those that the view's heads know.
    pub carried: Vec<Carried>,
    /// A commit of the versions that it adds and that the content shows merged with others.
    pub kept: Option<Oid>,
}

impl Sealed {
    /// A commit without changes: its content is the view itself, the same bytes on every node,
    /// so that a later view descends from what a client was given.
    #[must_use]
    pub fn seal(view: &View, stamp: Stamp, births: u64) -> Self {
        Self {
            stamp,
            births,
            content: view.commit,
            state: view.state,
            tree: view.tree,
            carried: Vec::new(),
            kept: None,
        }
    }
}

/// How far the journal is in a commit.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    /// All entries up to this number are, but those about `held`.
    pub upto: u64,
    /// Files that are still being written.
    pub held: Vec<FileId>,
}

impl Reach {
    /// As far as the commit before was.
    #[must_use]
    pub fn of(last: Option<&Committed>) -> Self {
        last.map_or_else(Self::default, |l| Self {
            upto: l.upto,
            held: l.held.clone(),
        })
    }
}

/// A commit that lasts, and the view of it.
#[derive(Debug)]
pub struct Fixed {
    /// What is shown with this commit as the only head.
    pub view: View,
    /// The commit.
    pub head: HeadInfo,
    /// All that was written for it, if it is little: to go with its announcement.
    pub pack: Option<Vec<u8>>,
    /// What the journal says of it.
    pub record: Committed,
}

/// What an author did, and what people are told of it.
#[derive(Debug)]
pub struct Deed<'a> {
    /// The name and time of the commit to be made.
    pub stamp: Stamp,
    /// Ids minted so far.
    pub births: u64,
    /// The changes, in order.
    pub changes: &'a [Change],
    /// The message of the content commit.
    pub message: &'a str,
}

/// Applies changes to a view.
///
/// # Errors
/// As the store; when bytes that the changes name are nowhere.
pub fn change(
    desk: &Desk<'_>,
    base: &View,
    stage: &Memory,
    deed: &Deed<'_>,
) -> VolumeResult<Sealed> {
    for c in deed.changes {
        // The commit of a submodule is elsewhere.
        let (Change::Born { kind, blob, .. } | Change::Write { kind, blob, .. }) = c else {
            continue;
        };
        if *kind != Kind::Gitlink && !blob.is_null() && !stage.has(blob)? {
            return Err(ObjectError::Missing(*blob).into());
        }
    }
    let src = desk.source(stage);
    let dots = Ancestry::new(desk.objects.clone(), &base.heads);
    let state = change::apply(src, &dots, &base.state, deed.stamp, deed.changes)?;
    let tree = project::project(src, Some((&base.state, base.tree)), &state)?;
    let content = content_commit(desk, stage, base, deed, tree)?;
    Ok(Sealed {
        stamp: deed.stamp,
        births: deed.births,
        content,
        state,
        tree,
        carried: Vec::new(),
        kept: keep(base, stage, content, deed)?,
    })
}

/// New versions that the content does not show, because it shows what a merge made of them and
/// others, or a pointer: no tree names their bytes, and whoever merges or reads them needs them.
///
/// # Errors
/// As the store.
pub fn keep(
    base: &View,
    stage: &Memory,
    content: Option<Oid>,
    deed: &Deed<'_>,
) -> VolumeResult<Option<Oid>> {
    let mut blobs: BTreeSet<Oid> = deed.changes.iter().filter_map(Change::blob).collect();
    blobs.retain(|b| !b.is_null());
    if let (Some(content), false) = (content, blobs.is_empty()) {
        let (_, named) = unwritten(stage, &base.stage, content)?;
        blobs.retain(|b| !named.contains(b));
    }
    if blobs.is_empty() {
        return Ok(None);
    }
    let is_large = |c: &&Change| c.kind() == Some(Kind::Large);
    let large = deed.changes.iter().filter(is_large);
    let mut lists = BTreeSet::new();
    for head in large.filter_map(Change::blob) {
        let head = stage.get(&head, ObjectKind::Blob)?;
        // What is none names nothing.
        lists.extend(manifest::head(&head).ok().map(|h| h.top));
    }
    let kept = record_commit::keep_alive(stage, blobs, lists, deed.stamp)?;
    Ok(Some(kept))
}

fn content_commit(
    desk: &Desk<'_>,
    stage: &Memory,
    base: &View,
    deed: &Deed<'_>,
    tree: Oid,
) -> VolumeResult<Option<Oid>> {
    if tree == base.tree
        && let [only] = base.heads.as_slice()
        && only.content.is_some()
    {
        // Only records changed: the content commit stands.
        return Ok(only.content);
    }
    let parents: BTreeSet<Oid> = base.heads.iter().filter_map(|h| h.content).collect();
    let new = merge_view::NewContent {
        tree,
        parents: parents.into_iter().collect(),
        dot: deed.stamp.dot(),
        name: &desk.who.name,
        email: &desk.who.email(),
        seconds: i64::try_from(deed.stamp.hlc.wall_ms() / 1000).unwrap_or(i64::MAX),
        message: deed.message,
        placed: merge_view::placed_by(deed.changes),
    };
    Ok(Some(merge_view::mint(stage, new)?))
}

/// Makes the record commit: writes all that it needs and the disk lacks, then the line in the
/// journal by which it is a commit, and waits until both last.
///
/// # Errors
/// As the store and the journal. The same commit may be tried again.
pub fn fix(
    desk: &Desk<'_>,
    base: &View,
    stage: &Memory,
    s: Sealed,
    reach: Reach,
) -> VolumeResult<Fixed> {
    let own = [(s.stamp.branch, s.stamp.seq)];
    let known = base.heads.iter().map(|h| h.seen.as_slice());
    let seen = record_commit::join_seen(known.chain([own.as_slice()]));
    let known = base.heads.iter().map(|h| h.carried.as_slice());
    let carried = record_commit::join_carried(known.chain([s.carried.as_slice()]), &seen);
    let new = record_commit::NewCommit {
        head: record_commit::Head {
            stamp: s.stamp,
            node: desk.who.node,
            content: s.content,
            births: s.births,
            seen: seen.clone(),
            carried: carried.clone(),
            frontier: 0,
        },
        state: s.state,
        frontier: base.heads.iter().map(|h| h.id).collect(),
        tips: tips(desk, stage, base, &s.state)?
            .into_iter()
            .chain(s.kept)
            .collect(),
    };
    let id = record_commit::encode(stage, new)?;
    let pack = write(desk, unwritten(stage, &base.stage, id)?.0)?;
    let record = Committed {
        stamp: s.stamp,
        head: id,
        births: s.births,
        upto: reach.upto,
        held: reach.held,
    };
    let n = desk.disk.append(&Entry::Committed(record.clone()))?;
    desk.disk.sync(n)?;
    let head = HeadInfo {
        node: desk.who.node,
        stamp: s.stamp,
        id,
        content: s.content,
        seen: Arc::new(seen),
        carried: Arc::new(carried),
        state: s.state,
    };
    let view = View {
        heads: Arc::new(vec![head.clone()]),
        state: s.state,
        tree: s.tree,
        commit: s.content,
        stage: desk.stage(),
    };
    Ok(Fixed {
        view,
        head,
        pack,
        record,
    })
}

/// The view that also has these heads, whose closure is here; `None` when they change nothing.
/// The journal knows of them then, so that a commit of ours that names them stands behind them.
///
/// # Errors
/// As the store and the journal; nothing is changed then.
pub fn take_in(desk: &Desk<'_>, base: &View, ids: &[Oid]) -> VolumeResult<Option<View>> {
    let Some(view) = derive::grow(desk.objects.clone(), desk.cache, base, ids)? else {
        return Ok(None);
    };
    for id in ids {
        desk.disk.append(&Entry::Admitted(*id))?;
    }
    Ok(Some(view))
}

/// Makes objects durable, or as durable as the journal: those of a large commit as a pack of the
/// store, those of a small one as an entry of the journal, which must be synced before they are
/// named. Returns the pack if it may go with an announcement.
fn write(desk: &Desk<'_>, objects: Vec<(Oid, Object)>) -> VolumeResult<Option<Vec<u8>>> {
    // A commit that is tried again, once its objects are held.
    if objects.is_empty() {
        return Ok(None);
    }
    let bytes: usize = objects.iter().map(|(_, o)| o.data.len()).sum();
    if bytes > LOGGED_COMMIT_BYTES_MAX {
        flush(desk.disk, objects)?;
        return Ok(None);
    }
    let pack = pack::encode(&objects)?;
    let small = (pack.len() <= CARRIED_PACK_BYTES_MAX).then(|| pack.clone());
    desk.disk.hold(pack, objects)?;
    Ok(small)
}

/// Makes objects durable in a pack of their own. What the journal alone holds may be named by
/// them, so it lasts first: whatever a pack has is taken to be whole from then on.
///
/// # Errors
/// As the store and the journal.
pub fn flush(disk: &dyn Disk, objects: Vec<(Oid, Object)>) -> VolumeResult<()> {
    disk.sync(disk.last())?;
    disk.flush(objects)
}

/// The commits that refs of this state lead to and those of the base do not: they become
/// parents, which keeps them alive for git. A tag itself can hang on no commit; it travels by
/// the refs of the state ([`State::ref_values`]).
fn tips(desk: &Desk<'_>, stage: &Memory, base: &View, state: &State) -> VolumeResult<Vec<Oid>> {
    if base.state.refs == state.refs {
        return Ok(Vec::new());
    }
    let src = desk.source(stage);
    let old: BTreeSet<Oid> = base.state.ref_values(src)?.into_iter().collect();
    let new: BTreeSet<Oid> = state.ref_values(src)?.into_iter().collect();
    let mut out = BTreeSet::new();
    for t in new.difference(&old) {
        out.extend(closure::peeled_commit(stage, *t)?);
    }
    Ok(out.into_iter().collect())
}

/// The objects reachable from `id` that are in memory only.
fn unwritten(stage: &Memory, below: &Memory, id: Oid) -> VolumeResult<Unwritten> {
    let mut out = Vec::new();
    let mut seen = HashSet::new();
    let mut stack = vec![id];
    while let Some(id) = stack.pop() {
        if !seen.insert(id) {
            continue;
        }
        let Some(o) = stage.staged(&id).or_else(|| below.staged(&id)) else {
            continue;
        };
        closure::children(&id, &o, &mut stack).map_err(VolumeError::from)?;
        out.push((id, o));
    }
    Ok((out, seen))
}

/// Objects that are not in the store, and the ids of all that they name.
type Unwritten = (Vec<(Oid, Object)>, HashSet<Oid>);
