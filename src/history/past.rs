//! A tree of the past, to be looked into.

use std::collections::BTreeMap;
use std::sync::Arc;

use lru::LruCache;

use super::{History, Result};
use crate::base::id::{FileId, Oid};
use crate::base::name::EntryName;
use crate::base::path::VolumePath;
use crate::chunk::{manifest, pointer};
use crate::merge::escape::unescape;
use crate::merge::shown::{self, Shown, default_mode};
use crate::record::git_tree::{self, EXECUTABLE, GITLINK, LINK, TREE};
use crate::record::model::{Kind, XattrName};
use crate::record::state::State;
use crate::store::objects::{Memory, ObjectKind, Objects};

/// Entries of listings that are kept, for who lists a directory and then looks at each name.
const LISTED_MAX: usize = 1 << 17;

/// Directories by the past that they are of.
type Which = ([u8; 32], Dir);

/// A directory's entries by name.
type Names = Arc<BTreeMap<EntryName, Entry>>;

/// The listings that were made last, up to a number of entries in all.
#[derive(Debug)]
pub(super) struct Listings {
    kept: LruCache<Which, Names>,
    entries: usize,
}

impl Default for Listings {
    fn default() -> Self {
        Self {
            kept: LruCache::unbounded(),
            entries: 0,
        }
    }
}

impl Listings {
    fn keep(&mut self, which: Which, names: Names) {
        // An empty directory takes room, too.
        let room = |n: &Names| n.len() + 16;
        self.entries += room(&names);
        if let Some(old) = self.kept.put(which, names) {
            self.entries -= room(&old);
        }
        while self.entries > LISTED_MAX
            && let Some((_, old)) = self.kept.pop_lru()
        {
            self.entries -= room(&old);
        }
    }
}

/// See the module. Clones share it.
#[derive(Clone)]
pub struct Past {
    history: History,
    stage: Arc<Memory>,
    what: What,
    key: [u8; 32],
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
    /// Extended attributes, as they are stored.
    pub xattrs: BTreeMap<XattrName, Vec<u8>>,
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
            xattrs: s.xattrs,
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
        let mut h = blake3::Hasher::new();
        match what {
            What::Records(s) => h.update(s.ids.as_slice()).update(s.names.as_slice()),
            What::Tree(t, at) => h.update(t.as_slice()).update(&at.to_le_bytes()),
        };
        Self {
            history,
            stage,
            what,
            key: *h.finalize().as_bytes(),
        }
    }

    /// What tells this past from others that show anything else.
    #[must_use]
    pub fn key(&self) -> [u8; 32] {
        self.key
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

    /// The same as git has them: of a large file, a pointer.
    ///
    /// # Errors
    /// When they are missing.
    pub fn git_bytes(&self, e: &Entry) -> Result<Arc<Vec<u8>>> {
        let bytes = self.bytes(&e.blob)?;
        match manifest::head(&bytes) {
            Ok(head) if e.kind == Kind::Large => Ok(Arc::new(pointer::pointer(&head))),
            _ => Ok(bytes),
        }
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
            Kind::Large => self.history.large_size(&self.stage, &e.blob),
            Kind::File | Kind::Symlink => self.history.size(&self.stage, &e.blob),
            _ => Ok(0),
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
            xattrs: BTreeMap::new(),
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
                let set = f.xattrs.into_iter();
                let set = set.filter_map(|(name, v)| Some((name, v.value?)));
                e.xattrs = set.collect();
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
        let which = (self.key, dir.clone());
        if let Some(names) = self.history.listings().kept.get(&which) {
            return Ok(names.get(name).cloned());
        }
        match (self.what, dir) {
            (What::Records(state), Dir::Ids(ids)) => {
                let src = self.history.source(&*self.stage);
                let found = shown::lookup(src, &state, ids, name)?;
                Ok(found.filter(|s| s.kind != Kind::Gitlink).map(Entry::from))
            }
            // git has no index of names.
            (_, Dir::Tree(_)) => Ok(self.names(dir)?.get(name).cloned()),
            (What::Tree(..), Dir::Ids(_)) => Ok(None),
        }
    }

    /// All entries of a directory, by name. Submodules are not among them.
    ///
    /// # Errors
    /// When the past cannot be read.
    pub fn list(&self, dir: &Dir) -> Result<Vec<Entry>> {
        Ok(self.names(dir)?.values().cloned().collect())
    }

    fn names(&self, dir: &Dir) -> Result<Names> {
        let which = (self.key, dir.clone());
        if let Some(names) = self.history.listings().kept.get(&which) {
            return Ok(names.clone());
        }
        let mut all: Vec<Entry> = match (self.what, dir) {
            (What::Records(state), Dir::Ids(ids)) => {
                let src = self.history.source(&*self.stage);
                let shown = shown::list(src, &state, ids)?;
                shown.into_iter().map(Entry::from).collect()
            }
            (_, Dir::Tree(tree)) => self.parsed(*tree)?,
            (What::Tree(..), Dir::Ids(_)) => Vec::new(),
        };
        all.retain(|e| e.kind != Kind::Gitlink);
        let names = all.into_iter().map(|e| (e.name.clone(), e));
        let names: Names = Arc::new(names.collect());
        self.history.listings().keep(which, names.clone());
        Ok(names)
    }

    fn parsed(&self, tree: Oid) -> Result<Vec<Entry>> {
        let seconds = match self.what {
            What::Tree(_, at) => at,
            What::Records(_) => 0,
        };
        let mut out = Vec::new();
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
            out.push(Entry {
                name,
                kind,
                blob: e.id,
                mode,
                mtime: seconds.saturating_mul(1_000_000_000),
                uid: None,
                gid: None,
                xattrs: BTreeMap::new(),
                id: None,
                dir: (kind == Kind::Dir).then_some(Dir::Tree(e.id)),
            });
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_are_kept_up_to_a_number_of_entries() {
        let names = |n: usize| -> Names {
            let e = Entry {
                name: EntryName::new(b"x").expect("a name"),
                kind: Kind::File,
                blob: Oid::null(gix::hash::Kind::Sha1),
                mode: 0,
                mtime: 0,
                uid: None,
                gid: None,
                xattrs: BTreeMap::new(),
                id: None,
                dir: None,
            };
            let name = |i: usize| EntryName::new(i.to_string()).expect("a name");
            Arc::new((0..n).map(|i| (name(i), e.clone())).collect())
        };
        let which = |n: u8| ([n; 32], Dir::Ids(Vec::new()));
        let mut all = Listings::default();
        let third = LISTED_MAX / 3;
        for n in 0..10 {
            all.keep(which(n), names(third));
            all.keep(which(n), names(third));
            assert!(all.entries <= LISTED_MAX);
        }
        assert_eq!(all.kept.len(), 2);
        assert!(all.kept.contains(&which(9)) && !all.kept.contains(&which(0)));
        all.keep(which(0), names(LISTED_MAX));
        assert_eq!((all.kept.len(), all.entries), (0, 0));
    }
}
