//! A tree of the past, to be looked into.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

use super::{History, Result};
use crate::base::id::{FileId, Oid};
use crate::base::name::EntryName;
use crate::base::path::VolumePath;
use crate::merge::escape::unescape;
use crate::merge::shown::{self, Shown, default_mode};
use crate::record::git_tree::{self, EXECUTABLE, GITLINK, LINK, TREE};
use crate::record::model::Kind;
use crate::record::state::State;
use crate::store::objects::{Memory, ObjectKind, Objects};

/// Trees of git kept parsed, for who looks names up one by one.
const TREES_MAX: usize = 8;

type Trees = Mutex<LruCache<Oid, Arc<BTreeMap<EntryName, Entry>>>>;

/// See the module. Clones share it.
#[derive(Clone)]
pub struct Past {
    history: History,
    stage: Arc<Memory>,
    what: What,
    trees: Arc<Trees>,
}

#[derive(Clone, Copy, Debug)]
enum What {
    /// All that is known, in records.
    Records(State),
    /// A commit of stock git: names, bytes and executable bits; its time stands for all times.
    Tree(Oid, i64),
}

impl std::fmt::Debug for Past {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Past").field(&self.what).finish()
    }
}

/// A directory of the past.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Dir {
    /// By all its ids.
    Ids(Vec<FileId>),
    /// By git's tree.
    Tree(Oid),
}

/// What a name led to.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The name.
    pub name: EntryName,
    /// What it was.
    pub kind: Kind,
    /// Its bytes; the null id for a directory.
    pub blob: Oid,
    /// Permission bits.
    pub mode: u32,
    /// Modification time, nanoseconds since 1970.
    pub mtime: i64,
    /// Owner, if anyone had set it.
    pub uid: Option<u32>,
    /// Group, if anyone had set it.
    pub gid: Option<u32>,
    /// The file, if the records tell.
    pub id: Option<FileId>,
    /// What to look into, for a directory.
    pub dir: Option<Dir>,
}

impl From<Shown> for Entry {
    fn from(s: Shown) -> Self {
        let id = Some(s.id());
        Self {
            kind: s.kind,
            blob: s.blob,
            mode: s.mode,
            mtime: s.mtime,
            uid: s.uid,
            gid: s.gid,
            id,
            dir: (s.kind == Kind::Dir).then_some(Dir::Ids(s.dirs)),
            name: s.name,
        }
    }
}

impl Past {
    pub(super) fn records(history: History, state: State, stage: Arc<Memory>) -> Self {
        Self::new(history, What::Records(state), stage)
    }

    pub(super) fn tree(history: History, tree: Oid, seconds: i64) -> Self {
        let stage = history.stage();
        Self::new(history, What::Tree(tree, seconds), stage)
    }

    fn new(history: History, what: What, stage: Arc<Memory>) -> Self {
        let n = NonZeroUsize::new(TREES_MAX).unwrap_or(NonZeroUsize::MIN);
        Self {
            history,
            stage,
            what,
            trees: Arc::new(Mutex::new(LruCache::new(n))),
        }
    }

    /// What tells this past from others that show anything else.
    #[must_use]
    pub fn key(&self) -> [u8; 32] {
        let mut h = blake3::Hasher::new();
        match self.what {
            What::Records(s) => h.update(s.ids.as_slice()).update(s.names.as_slice()),
            What::Tree(t, at) => h.update(t.as_slice()).update(&at.to_le_bytes()),
        };
        *h.finalize().as_bytes()
    }

    /// The state, if it is known by records.
    pub(super) fn state(&self) -> Option<State> {
        match self.what {
            What::Records(s) => Some(s),
            What::Tree(..) => None,
        }
    }

    /// Reads what this past refers to.
    pub(crate) fn stage(&self) -> &Arc<Memory> {
        &self.stage
    }

    /// The bytes of a file or link.
    ///
    /// # Errors
    /// When they are missing.
    pub fn bytes(&self, blob: &Oid) -> Result<Arc<Vec<u8>>> {
        Ok(self.stage.get(blob, ObjectKind::Blob)?)
    }

    /// The bytes, if only a merge of then derived them, so that they are on no disk.
    #[must_use]
    pub fn staged(&self, blob: &Oid) -> Option<Arc<Vec<u8>>> {
        self.stage.staged(blob).map(|o| o.data)
    }

    /// How many bytes a file or link has.
    ///
    /// # Errors
    /// When they are missing.
    pub fn size(&self, e: &Entry) -> Result<u64> {
        match e.kind {
            Kind::Dir | Kind::Gitlink => Ok(0),
            Kind::File | Kind::Symlink => self.history.size(&self.stage, &e.blob),
        }
    }

    /// The root directory.
    #[must_use]
    pub fn root(&self) -> Dir {
        match self.what {
            What::Records(_) => Dir::Ids(vec![FileId::ROOT]),
            What::Tree(t, _) => Dir::Tree(t),
        }
    }

    /// The root directory's own attributes: mode, time, owner, group.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub fn root_entry(&self) -> Result<Entry> {
        let mut e = Entry {
            name: EntryName::new(b"root").unwrap_or_else(|_| unreachable!("a name")),
            kind: Kind::Dir,
            blob: Oid::null(gix::hash::Kind::Sha1),
            mode: default_mode(Kind::Dir),
            mtime: 0,
            uid: None,
            gid: None,
            id: Some(FileId::ROOT),
            dir: Some(self.root()),
        };
        match self.what {
            What::Records(state) => {
                let f = shown::root_fields(self.history.source(&*self.stage), &state)?;
                e.mode = f.mode.map_or(e.mode, |m| m.value & 0o7777);
                e.mtime = f.mtime.map_or(0, |m| m.value);
                e.uid = f.uid.map(|u| u.value);
                e.gid = f.gid.map(|g| g.value);
            }
            What::Tree(_, at) => e.mtime = at.saturating_mul(1_000_000_000),
        }
        Ok(e)
    }

    /// What a name in a directory led to. Submodules are not shown.
    ///
    /// # Errors
    /// When the past cannot be read.
    pub fn lookup(&self, dir: &Dir, name: &EntryName) -> Result<Option<Entry>> {
        let found = match (self.what, dir) {
            (What::Records(state), Dir::Ids(ids)) => {
                let src = self.history.source(&*self.stage);
                shown::lookup(src, &state, ids, name)?.map(Entry::from)
            }
            (_, Dir::Tree(tree)) => self.parsed(*tree)?.get(name).cloned(),
            (What::Tree(..), Dir::Ids(_)) => None,
        };
        Ok(found.filter(|e| e.kind != Kind::Gitlink))
    }

    /// All entries of a directory, by name. Submodules are not among them.
    ///
    /// # Errors
    /// When the past cannot be read.
    pub fn list(&self, dir: &Dir) -> Result<Vec<Entry>> {
        let mut all: Vec<Entry> = match (self.what, dir) {
            (What::Records(state), Dir::Ids(ids)) => {
                let src = self.history.source(&*self.stage);
                let shown = shown::list(src, &state, ids)?;
                shown.into_iter().map(Entry::from).collect()
            }
            (_, Dir::Tree(tree)) => self.parsed(*tree)?.values().cloned().collect(),
            (What::Tree(..), Dir::Ids(_)) => Vec::new(),
        };
        all.retain(|e| e.kind != Kind::Gitlink);
        Ok(all)
    }

    fn parsed(&self, tree: Oid) -> Result<Arc<BTreeMap<EntryName, Entry>>> {
        let lock = || self.trees.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(t) = lock().get(&tree) {
            return Ok(t.clone());
        }
        let seconds = match self.what {
            What::Tree(_, at) => at,
            What::Records(_) => 0,
        };
        let mut out = BTreeMap::new();
        for e in git_tree::read(&*self.stage, &tree)? {
            let Ok(name) = EntryName::new(unescape(&e.name)) else {
                continue;
            };
            let kind = match e.mode {
                TREE => Kind::Dir,
                LINK => Kind::Symlink,
                GITLINK => Kind::Gitlink,
                _ => Kind::File,
            };
            let mode = match e.mode {
                EXECUTABLE => 0o755,
                _ => default_mode(kind),
            };
            let is_dir = kind == Kind::Dir;
            let entry = Entry {
                name: name.clone(),
                kind,
                blob: e.id,
                mode,
                mtime: seconds.saturating_mul(1_000_000_000),
                uid: None,
                gid: None,
                id: None,
                dir: is_dir.then_some(Dir::Tree(e.id)),
            };
            out.insert(name, entry);
        }
        let out = Arc::new(out);
        lock().put(tree, out.clone());
        Ok(out)
    }

    /// What a path led to; the root for the empty one.
    ///
    /// # Errors
    /// When the past cannot be read.
    pub fn find(&self, path: &VolumePath) -> Result<Option<Entry>> {
        let mut at = self.root_entry()?;
        for name in path.names() {
            let Some(dir) = &at.dir else {
                return Ok(None);
            };
            match self.lookup(dir, &name)? {
                Some(e) => at = e,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }
}
