//! The table behind the mount: inodes, the names that differ from the view, changes to commit.
//!
//! Invariant: what the mount shows = the view + the names and bytes marked here. An inode's
//! bytes change only by writes through the mount; a version that comes from elsewhere gets an
//! inode of its own. All of it is under one mutex of [`super::Volume`], which is never held
//! while waiting for the kernel, the disk's fsync or the network.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;

use super::chain::Numbers;
use super::error::VolumeError;
use super::inode::{Child, Data, Ino, Inode, Inodes, ROOT_INO, Subdirs};
use super::names::attr_of;
use super::view::View;
use crate::base::id::{FileId, Oid};
use crate::base::name::EntryName;
use crate::base::stamp::Dot;
use crate::merge::shown::{self, Role, Shown};
use crate::record::Source;
use crate::record::cache::Cache;
use crate::record::change::Change;
use crate::record::model::Kind;
use crate::store::objects::{ObjectKind, id_of};
use crate::store::repo::Repo;

/// What lookups need beside the table.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The repository.
    pub repo: &'a Repo,
    /// Decoded records.
    pub cache: &'a Cache,
}

/// A name that the kernel may hold an outdated idea of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stale {
    /// The entry of a directory.
    Entry {
        /// The directory.
        dir: Ino,
        /// The name in it.
        name: EntryName,
    },
    /// Times and permissions of an inode.
    Attr {
        /// The inode.
        ino: Ino,
    },
    /// Times and permissions, and the bytes of a file or the listing of a directory.
    Content {
        /// The inode.
        ino: Ino,
    },
}

/// A change with the journal entry that it stands in.
#[derive(Debug, Clone)]
pub struct Pending {
    /// Number of the journal entry.
    pub entry: u64,
    /// The change.
    pub change: Change,
}

/// A name of a directory, for a listing.
#[derive(Debug)]
pub struct Listed {
    /// The name.
    pub name: EntryName,
    /// What it is.
    pub kind: Kind,
    /// Its inode, if it has one.
    pub ino: Option<Ino>,
    /// What the view shows there, if it is not bound.
    pub shown: Option<Shown>,
}

/// See the module.
#[derive(Debug)]
pub struct Live {
    /// What all nodes with the same heads show.
    pub view: View,
    /// All inodes.
    pub inodes: Inodes,
    /// The inode of an id, while it is bound or may be again.
    pub by_id: HashMap<FileId, Ino>,
    /// Metadata changes for the next commit, in order.
    pub pending: Vec<Pending>,
    /// Inodes with bytes for the next commit.
    pub dirty: BTreeSet<Ino>,
    /// The journal's last entry when a commit was last begun.
    pub taken: u64,
    /// Inodes in the commit that is being made.
    pub committing: BTreeSet<Ino>,
    /// Inodes whose overlay files programs may write to by themselves.
    pub directs: BTreeSet<Ino>,
    /// Inodes whose bytes are in the commit that is being made, and what they are there once that
    /// is known.
    pub sealing: HashMap<Ino, Option<(Kind, Oid)>>,
    /// Which inode a file was last written through: a version that lost its name to one from
    /// elsewhere, or a copy beside it, has the same id. One at a time has bytes for a commit.
    pub writing: HashMap<FileId, Ino>,
    /// Files of which a pending change itself holds bytes: no other bytes go into its commit.
    pub rewritten: HashSet<FileId>,
    /// Inodes whose names or attributes wait for the commit to come; their dots may stand
    /// for it.
    pub touched: HashSet<Ino>,
    /// Names that differ from the view, by the journal entry that made them so.
    pub overrides: BTreeMap<u64, Vec<(Ino, EntryName)>>,
    /// Names that changed elsewhere while they were being written here.
    pub stale: HashSet<(Ino, EntryName)>,
    /// What this run of the node has used up of its branch.
    pub numbers: Numbers,
    /// The last head record in the journal.
    pub last_committed: Option<crate::journal::Committed>,
    /// The state that the root's attributes were read from.
    pub root_of: Option<crate::record::state::State>,
    /// Names that files were taken away from lately.
    pub left: LruCache<(Ino, EntryName), Left>,
    next_ino: Ino,
}

/// A file that lost its name.
#[derive(Debug, Clone)]
pub struct Left {
    /// What was shown of it.
    pub shown: Shown,
    /// Where it was moved to, if it was not removed.
    pub moved: Option<(Ino, EntryName)>,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
}

/// Names that are remembered.
const LEFT_MAX: NonZeroUsize = NonZeroUsize::new(256).expect("256");

impl Live {
    /// A table that knows only the root.
    #[must_use]
    pub fn new(view: View, numbers: Numbers, first_ino: Ino) -> Self {
        let mut live = Self {
            view,
            inodes: Inodes::default(),
            by_id: HashMap::new(),
            pending: Vec::new(),
            dirty: BTreeSet::new(),
            taken: 0,
            committing: BTreeSet::new(),
            directs: BTreeSet::new(),
            sealing: HashMap::new(),
            writing: HashMap::new(),
            rewritten: HashSet::new(),
            touched: HashSet::new(),
            overrides: BTreeMap::new(),
            stale: HashSet::new(),
            numbers,
            last_committed: None,
            root_of: None,
            left: LruCache::new(LEFT_MAX),
            next_ino: first_ino,
        };
        live.inodes.insert(ROOT_INO, root_inode());
        live.by_id.insert(FileId::ROOT, ROOT_INO);
        live
    }

    /// The first of the journal's entries that tell of what is in no commit.
    pub(super) fn first_waiting(&self) -> u64 {
        if !self.committing.is_empty() {
            return 0;
        }
        let bytes = self.dirty.iter().filter_map(|i| self.inodes.get(i)?.dirty);
        let bytes = bytes.map(|d| d.behind + 1).min();
        let changes = self.pending.iter().map(|p| p.entry).min();
        bytes.into_iter().chain(changes).min().unwrap_or(u64::MAX)
    }

    /// A number that no inode of this node ever had.
    pub fn fresh_ino(&mut self) -> Ino {
        self.next_ino += 1;
        self.next_ino
    }

    /// The number for what is shown: the same at each look, another one for other bytes.
    pub(super) fn ino_for(&mut self, s: &Shown) -> Ino {
        let ino = stable_ino(s);
        if self.inodes.contains_key(&ino) {
            return self.fresh_ino();
        }
        ino
    }

    /// An id for a new file.
    pub fn mint(&mut self) -> FileId {
        self.numbers.mint()
    }

    /// The inode, which the kernel said it knows.
    ///
    /// # Errors
    /// `Stale` when it does not.
    pub fn inode(&self, ino: Ino) -> Result<&Inode, VolumeError> {
        self.inodes.get(&ino).ok_or(VolumeError::Stale)
    }

    /// The inode, to change it.
    ///
    /// # Errors
    /// `Stale` when there is none.
    pub fn inode_mut(&mut self, ino: Ino) -> Result<&mut Inode, VolumeError> {
        self.inodes.get_mut(&ino).ok_or(VolumeError::Stale)
    }

    /// The names of a directory, sorted.
    ///
    /// # Errors
    /// As the store; `NotDir`.
    pub fn list(&self, cx: Context<'_>, dir: Ino) -> Result<Vec<Listed>, VolumeError> {
        let d = self.inode(dir)?;
        if d.kind != Kind::Dir {
            return Err(VolumeError::NotDir);
        }
        let src = Source::new(&*self.view.stage, cx.cache);
        let mut out = BTreeMap::new();
        for s in shown::list(src, &self.view.state, &d.shown.dirs)? {
            if s.kind != Kind::Gitlink {
                out.insert(
                    s.name.clone(),
                    Listed {
                        name: s.name.clone(),
                        kind: s.kind,
                        ino: None,
                        shown: Some(s),
                    },
                );
            }
        }
        for (name, child) in &d.children {
            match child {
                Child::Absent { .. } => {
                    out.remove(name);
                }
                Child::Bound { ino, .. } => {
                    if let Some(i) = self.inodes.get(ino) {
                        let l = Listed {
                            name: name.clone(),
                            kind: i.kind,
                            ino: Some(*ino),
                            shown: None,
                        };
                        out.insert(name.clone(), l);
                    }
                }
            }
        }
        Ok(out.into_values().collect())
    }

    /// Marks a name as differing from the view since a journal entry.
    pub fn set_child(&mut self, dir: Ino, name: EntryName, child: Child) {
        self.overrides
            .entry(child.since())
            .or_default()
            .push((dir, name.clone()));
        if let Some(d) = self.inodes.get_mut(&dir) {
            d.children.insert(name, child);
        }
    }

    /// Records changes of a journal entry for the next commit.
    pub fn note(&mut self, entry: u64, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            if let Change::Write { id, .. } = &change {
                self.rewritten.insert(*id);
            }
            self.pending.push(Pending { entry, change });
        }
    }

    /// The kernel gives up `n` references.
    pub fn forget(&mut self, ino: Ino, n: u64) {
        if let Some(i) = self.inodes.get_mut(&ino) {
            i.lookups = i.lookups.saturating_sub(n);
        }
        self.drop_if_idle(ino);
    }

    /// A closed file whose bytes are those of its blob, in a commit, needs them in memory no more.
    /// Whoever calls this knows that they are.
    fn give_bytes_up(&mut self, ino: Ino) {
        let Some(i) = self.inodes.get_mut(&ino) else {
            return;
        };
        let id = i.shown.blob;
        let clean = i.dirty.is_none() && !i.born && !i.removed && i.opens == 0;
        let len = match &i.data {
            Data::Memory(bytes) if clean => bytes.len() as u64,
            _ => return,
        };
        // What a merge made is in no commit: only the view has it.
        if self.committing.contains(&ino) || self.view.stage.staged(&id).is_some() {
            return;
        }
        let chunked = i.shown.kind == Kind::Large;
        i.data = Data::Blob { id, len, chunked };
    }

    /// The same of a file with these bytes, which a commit has as this blob.
    pub(super) fn give_up_committed(&mut self, ino: Ino, written: &Data, blob: Oid) {
        let is_it = |i: &Inode| match (&i.data, written) {
            (Data::Memory(now), Data::Memory(then)) => Arc::ptr_eq(now, then),
            _ => false,
        };
        let i = self.inodes.get(&ino);
        if i.is_some_and(|i| i.shown.blob == blob && is_it(i)) {
            self.give_bytes_up(ino);
        }
    }

    /// The same of one that was open when its bytes were committed.
    pub fn give_up_closed(&mut self, ino: Ino) {
        let is_it = |i: &Inode| match &i.data {
            Data::Memory(m) if i.dirty.is_none() && i.opens == 0 => {
                let merged = self.view.stage.staged(&i.shown.blob).is_some();
                !merged && id_of(ObjectKind::Blob, m) == i.shown.blob
            }
            _ => false,
        };
        if self.inodes.get(&ino).is_some_and(is_it) {
            self.give_bytes_up(ino);
        }
    }

    /// Removes an inode that nobody needs, and then its directory if that is idle too.
    pub fn drop_if_idle(&mut self, ino: Ino) {
        let mut at = ino;
        loop {
            let Some(i) = self.inodes.get(&at) else {
                return;
            };
            let bound_by_journal = i.places().any(|(d, n)| {
                let c = self.inodes.get(&d).and_then(|d| d.children.get(n));
                c.is_some_and(|c| c.since() > 0)
            });
            let busy = self.committing.contains(&at) || self.touched.contains(&at);
            if !i.is_idle() || bound_by_journal || busy {
                return;
            }
            let id = i.id();
            let Some(gone) = self.inodes.remove(&at) else {
                return;
            };
            if self.by_id.get(&id) == Some(&at) {
                self.by_id.remove(&id);
            }
            for o in &gone.others {
                self.unlist(o.dir, &o.name, at);
                self.drop_if_idle(o.dir);
            }
            let Some((dir, name)) = gone.place else {
                return;
            };
            self.unlist(dir, &name, at);
            at = dir;
        }
    }

    /// A directory's name leads nowhere that is known, if it led to this inode.
    pub(super) fn unlist(&mut self, dir: Ino, name: &EntryName, to: Ino) {
        if let Some(d) = self.inodes.get_mut(&dir)
            && matches!(d.children.get(name), Some(Child::Bound { ino, .. }) if *ino == to)
        {
            d.children.remove(name);
        }
    }

    /// A dot that stands for the commit to come becomes that commit's.
    pub fn settle_dots(&mut self, dot: Dot) {
        for ino in std::mem::take(&mut self.touched) {
            if let Some(i) = self.inodes.get_mut(&ino) {
                for d in i.dots_mut().filter(|d| **d == Dot::default()) {
                    *d = dot;
                }
            }
        }
    }

    /// Whether everything about an inode is in the view.
    #[must_use]
    pub fn is_settled(&self, ino: Ino) -> bool {
        let born = self.inodes.get(&ino).is_some_and(|i| i.born);
        !born && !self.committing.contains(&ino) && !self.touched.contains(&ino)
    }

    /// Another inode of the same file whose bytes are in no commit yet.
    #[must_use]
    pub fn other_writer(&self, ino: Ino) -> Option<Ino> {
        let id = self.inodes.get(&ino)?.id();
        self.writer_of(id).filter(|other| *other != ino)
    }

    /// The inode whose bytes are the next version of a file, and in no commit yet.
    #[must_use]
    pub fn writer_of(&self, id: FileId) -> Option<Ino> {
        let ino = *self.writing.get(&id)?;
        let i = self.inodes.get(&ino)?;
        let waits = i.dirty.is_some() || self.committing.contains(&ino);
        (waits && i.id() == id && !i.removed).then_some(ino)
    }

    pub(super) fn is_being_written(&self, ino: Ino) -> bool {
        let unsettled = self
            .inodes
            .get(&ino)
            .is_some_and(|i| (i.dirty.is_some() || i.born) && !i.removed);
        unsettled || self.committing.contains(&ino) || self.touched.contains(&ino)
    }

    /// A name was made or removed in a directory.
    pub fn touch_dir(&mut self, dir: Ino, now: i64) {
        if let Some(d) = self.inodes.get_mut(&dir) {
            d.attr.mtime = now;
            d.attr.ctime = now;
            self.touched.insert(dir);
        }
    }

    /// An inode lost the name that it was shown under, here. It goes on under its others; with
    /// the last, only its bytes stay, for those who have it open.
    pub fn mark_removed(&mut self, ino: Ino, now: i64) {
        if let Some(i) = self.inodes.get_mut(&ino) {
            if i.has_other_names() {
                if let Some((dir, name)) = i.place.clone() {
                    i.unbind(dir, &name);
                }
                i.names = i.names.saturating_sub(1).max(1);
                i.attr.ctime = now;
                self.touched.insert(ino);
                return;
            }
            i.removed = true;
            i.names = 0;
            i.place = None;
            i.dirty = None;
            i.attr.ctime = now;
        }
        self.dirty.remove(&ino);
        self.drop_if_idle(ino);
    }

    /// An inode has a new name.
    pub fn moved(&mut self, ino: Ino, dir: Ino, name: EntryName, now: i64) {
        let parents = self.inodes.get(&dir).map(|d| d.shown.dirs.clone());
        let Some(i) = self.inodes.get_mut(&ino) else {
            return;
        };
        i.remember();
        i.place = Some((dir, name.clone()));
        i.attr.ctime = now;
        i.shown.name = name;
        i.shown.role = Role::Main;
        i.shown.parents = parents.unwrap_or_default();
        // Whatever it was before, it is one file, and this is one name of it now.
        let first = i.shown.versions.first().map(|v| v.id);
        i.shown.versions.retain(|v| Some(v.id) == first);
        i.shown.link.truncate(1);
        let moved = match i.shown.link.as_mut_slice() {
            [] => i.shown.versions.as_mut_slice(),
            link => link,
        };
        for v in moved {
            v.location = Dot::default();
        }
        self.touched.insert(ino);
    }

    /// Names that wait, in the journal or as bytes, for a commit.
    #[must_use]
    pub fn dirty_count(&self) -> usize {
        let mut all: BTreeSet<FileId> = self.pending.iter().filter_map(|p| p.change.id()).collect();
        let inos = self.dirty.iter().chain(&self.committing);
        all.extend(inos.filter_map(|i| Some(self.inodes.get(i)?.id())));
        all.len()
    }
}

/// A number that follows from what is shown: for a directory from its id, for a file from the
/// versions too. The upper half of the range is left to [`Live::fresh_ino`].
#[must_use]
pub fn stable_ino(s: &Shown) -> Ino {
    let mut h = blake3::Hasher::new();
    match s.dirs.first() {
        Some(d) => {
            h.update(&d.as_u128().to_le_bytes());
        }
        None => {
            for v in &s.versions {
                h.update(&v.id.as_u128().to_le_bytes());
                h.update(&v.content.branch.0.to_le_bytes());
                h.update(&v.content.seq.to_le_bytes());
            }
        }
    }
    let mut b = [0; 8];
    h.finalize_xof().fill(&mut b);
    (u64::from_le_bytes(b) >> 1).max(ROOT_INO + 1)
}

/// Default permission bits by kind.
#[must_use]
pub fn default_mode(kind: Kind) -> u32 {
    match kind {
        Kind::Dir | Kind::Gitlink => 0o755,
        Kind::Symlink => 0o777,
        _ => 0o644,
    }
}

fn root_inode() -> Inode {
    let shown = Shown {
        name: EntryName::new(b"root").expect("four letters are a name"),
        role: Role::Main,
        dirs: vec![FileId::ROOT],
        kind: Kind::Dir,
        blob: null_oid(),
        mode: default_mode(Kind::Dir),
        mtime: 0,
        uid: None,
        gid: None,
        parents: Vec::new(),
        versions: Vec::new(),
        merged: false,
        link: Vec::new(),
        links: 0,
        xattrs: BTreeMap::new(),
    };
    Inode {
        ino: ROOT_INO,
        kind: Kind::Dir,
        attr: attr_of(&shown),
        shown,
        place: None,
        others: Vec::new(),
        names: 1,
        subdirs: Subdirs::default(),
        data: Data::None,
        direct: None,
        old_pages: false,
        dirty: None,
        born: false,
        removed: false,
        before: Vec::new(),
        made_ms: 0,
        lookups: 1,
        opens: 0,
        writers: 0,
        children: HashMap::new(),
    }
}

/// The null object id: no bytes.
#[must_use]
pub fn null_oid() -> Oid {
    Oid::null(gix::hash::Kind::Sha1)
}

/// Bytes held in memory.
#[must_use]
pub fn memory(bytes: Vec<u8>) -> Data {
    Data::Memory(Arc::new(bytes))
}
