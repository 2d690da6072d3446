//! `.cellfs` at the top of a folder: the past under `at/`, and the list of conflicts. It is in no
//! listing, so that who walks through the folder does not walk through its past, and nothing in it
//! can be changed.
//!
//! Its inodes have numbers of their own range, which follow from the past that is looked at, the
//! directory above and the name. So the table of them is a cache of fixed size: what fell out of
//! it, while nobody had it open, is found again by its path, as the kernel does by itself when it
//! hears that an inode is stale.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

use super::dir::{DirEntry, cookie};
use super::holes::blocks_of;
use super::{Caller, Result, Stat, xattr};
use crate::base::clock;
use crate::base::id::Oid;
use crate::base::name::{EntryName, OWN_NAME};
use crate::history::past::{Entry, Past};
use crate::history::{History, HistoryError, Now};
use crate::record::model::{Kind, XattrName};
use crate::volume::error::VolumeError;
use crate::volume::inode::{Attr, Data, Ino, ROOT_INO};
use crate::volume::{Volume, view::View};

/// No other inode's number has both.
const RANGE: Ino = 3 << 62;
const TOP: Ino = RANGE | 1;
const AT: Ino = RANGE | 2;
const CONFLICTS: Ino = RANGE | 3;
/// Inodes kept that nobody has open.
const NODES_MAX: usize = 65_536;
/// Names below `at/` whose meaning is kept, for so long.
const SPECS_MAX: usize = 16;
const SPEC_FOR: Duration = Duration::from_secs(1);
/// Handles of files below this are not ours.
const FIRST_HANDLE: u64 = 1 << 32;

/// Whether an inode is in `.cellfs`, or `.cellfs` itself.
pub(super) fn is_own(ino: Ino) -> bool {
    ino & RANGE == RANGE
}

/// Whether a name is that of `.cellfs`.
pub(super) fn is_own_name(dir: Ino, name: &[u8]) -> bool {
    dir == ROOT_INO && name == OWN_NAME
}

/// What is shown by a volume's view, for its history.
#[must_use]
pub fn now_of(view: &View) -> Now {
    Now {
        heads: view.heads.iter().map(|h| h.id).collect(),
        state: view.state,
        commit: view.commit,
        stage: view.stage.clone(),
    }
}

/// An inode of the past.
#[derive(Debug, Clone)]
struct Node {
    past: Past,
    entry: Arc<Entry>,
    parent: Ino,
    size: u64,
}

#[derive(Debug)]
struct Table {
    nodes: LruCache<Ino, Node>,
    /// Those that are open, and how often.
    open: HashMap<Ino, (u32, Node)>,
    /// What lists read by handle hold.
    texts: HashMap<u64, Arc<Vec<u8>>>,
    /// What names below `at/` meant lately, by the heads of that moment.
    specs: LruCache<Vec<u8>, (Instant, Vec<Oid>, Past)>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Own {
    volume: Arc<Volume>,
    history: History,
    owner: Caller,
    since: i64,
    table: Mutex<Table>,
    next: AtomicU64,
}

impl From<HistoryError> for VolumeError {
    fn from(e: HistoryError) -> Self {
        match e {
            HistoryError::Records(e) => Self::Records(e),
            other => {
                tracing::debug!(error = %other, "no such past");
                Self::NotFound
            }
        }
    }
}

fn number(parent: Ino, name: &[u8], what: &[u8]) -> Ino {
    let mut h = blake3::Hasher::new();
    h.update(&parent.to_le_bytes())
        .update(name)
        .update(b"/")
        .update(what);
    let mut b = [0; 8];
    h.finalize_xof().fill(&mut b);
    // The first few are the fixed ones.
    RANGE | u64::from_le_bytes(b).max(16)
}

impl Own {
    pub(super) fn new(volume: Arc<Volume>, owner: Caller) -> Self {
        let n = |n| NonZeroUsize::new(n).unwrap_or(NonZeroUsize::MIN);
        Self {
            history: History::new(volume.repo().clone()),
            volume,
            owner,
            since: clock::now_ns(),
            table: Mutex::new(Table {
                nodes: LruCache::new(n(NODES_MAX)),
                open: HashMap::new(),
                texts: HashMap::new(),
                specs: LruCache::new(n(SPECS_MAX)),
            }),
            next: AtomicU64::new(FIRST_HANDLE),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn node(&self, ino: Ino) -> Result<Node> {
        let mut t = self.table();
        if let Some(n) = t.nodes.get(&ino) {
            return Ok(n.clone());
        }
        let open = t.open.get(&ino).map(|(_, n)| n.clone());
        open.ok_or(VolumeError::Stale)
    }

    fn fixed(&self, ino: Ino) -> Option<Stat> {
        let (kind, mode) = match ino {
            TOP | AT => (Kind::Dir, 0o555),
            CONFLICTS => (Kind::File, 0o444),
            _ => return None,
        };
        let at = self.since;
        let attr = Attr {
            mode,
            uid: None,
            gid: None,
            mtime: at,
            ctime: at,
            atime: at,
        };
        Some(Stat {
            ino,
            kind,
            attr,
            size: 0,
            blocks: 0,
            nlink: if kind == Kind::Dir { 2 } else { 1 },
            uid: self.owner.uid,
            gid: self.owner.gid,
        })
    }

    fn stat(&self, ino: Ino, n: &Node) -> Stat {
        let e = &n.entry;
        let attr = Attr {
            mode: e.mode,
            uid: e.uid,
            gid: e.gid,
            mtime: e.mtime,
            ctime: e.mtime,
            atime: e.mtime,
        };
        Stat {
            ino,
            kind: e.kind.plain(),
            attr,
            size: n.size,
            blocks: blocks_of(n.size),
            nlink: if e.kind == Kind::Dir { 2 } else { 1 },
            uid: e.uid.unwrap_or(self.owner.uid),
            gid: e.gid.unwrap_or(self.owner.gid),
        }
    }

    pub(super) fn getattr(&self, ino: Ino) -> Result<Stat> {
        match self.fixed(ino) {
            Some(s) => Ok(s),
            None => Ok(self.stat(ino, &self.node(ino)?)),
        }
    }

    pub(super) fn top(&self) -> Result<Option<Stat>> {
        Ok(self.fixed(TOP))
    }

    /// Whether the kernel may keep what it learned of names in a directory: the past does not
    /// change, but what a name such as `10min` means does.
    pub(super) fn may_keep(dir: Ino) -> bool {
        dir != AT
    }

    pub(super) fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Option<Stat>> {
        let name = EntryName::new(name)?;
        match (dir, name.as_bytes()) {
            (TOP, b"at") => return Ok(self.fixed(AT)),
            (TOP, b"conflicts") => return Ok(self.fixed(CONFLICTS)),
            (TOP, _) => return Ok(None),
            (AT, spec) => {
                let Some(past) = self.past(spec)? else {
                    return Ok(None);
                };
                let entry = past.root_entry()?;
                return self.bind(AT, &past, entry, &past.key()).map(Some);
            }
            (CONFLICTS, _) => return Err(VolumeError::NotDir),
            _ => {}
        }
        let above = self.node(dir)?;
        let Some(d) = &above.entry.dir else {
            return Err(VolumeError::NotDir);
        };
        match above.past.lookup(d, &name)? {
            Some(e) => self.bind(dir, &above.past, e, &[]).map(Some),
            None => Ok(None),
        }
    }

    fn bind(&self, parent: Ino, past: &Past, e: Entry, what: &[u8]) -> Result<Stat> {
        let ino = number(parent, e.name.as_bytes(), what);
        let node = Node {
            size: past.size(&e)?,
            past: past.clone(),
            entry: Arc::new(e),
            parent,
        };
        let stat = self.stat(ino, &node);
        self.table().nodes.put(ino, node);
        Ok(stat)
    }

    /// The past that a name below `at/` means, if it means one.
    fn past(&self, spec: &[u8]) -> Result<Option<Past>> {
        let Ok(text) = std::str::from_utf8(spec) else {
            return Ok(None);
        };
        let now = now_of(&self.volume.view());
        if let Some((since, heads, past)) = self.table().specs.get(spec)
            && since.elapsed() < SPEC_FOR
            && *heads == now.heads
        {
            return Ok(Some(past.clone()));
        }
        match self.history.at(&now, text) {
            Ok(past) => {
                let kept = (Instant::now(), now.heads, past.clone());
                self.table().specs.put(spec.to_vec(), kept);
                Ok(Some(past))
            }
            Err(HistoryError::Records(e)) => Err(e.into()),
            Err(e) => {
                tracing::debug!(spec = text, error = %e, "no such past");
                Ok(None)
            }
        }
    }

    pub(super) fn list(&self, dir: Ino) -> Result<Vec<DirEntry>> {
        let entry = |ino, name: &EntryName, kind| DirEntry {
            cookie: cookie(name),
            ino,
            name: name.clone(),
            kind,
        };
        let mut out = Vec::new();
        match dir {
            TOP => {
                for (ino, name, kind) in [
                    (AT, &b"at"[..], Kind::Dir),
                    (CONFLICTS, b"conflicts", Kind::File),
                ] {
                    out.push(entry(ino, &EntryName::new(name)?, kind));
                }
            }
            AT => {}
            CONFLICTS => return Err(VolumeError::NotDir),
            _ => {
                let n = self.node(dir)?;
                let d = n.entry.dir.as_ref().ok_or(VolumeError::NotDir)?;
                for e in n.past.list(d)? {
                    let ino = number(dir, e.name.as_bytes(), &[]);
                    out.push(entry(ino, &e.name, e.kind));
                }
            }
        }
        out.sort_unstable_by_key(|e| e.cookie);
        Ok(out)
    }

    pub(super) fn parent(&self, dir: Ino) -> Result<Ino> {
        Ok(match dir {
            TOP => ROOT_INO,
            AT | CONFLICTS => TOP,
            _ => self.node(dir)?.parent,
        })
    }

    /// Extended attributes, as programs see them.
    pub(super) fn xattrs(&self, ino: Ino) -> Result<BTreeMap<XattrName, Vec<u8>>> {
        if self.fixed(ino).is_some() {
            return Ok(BTreeMap::new());
        }
        let n = self.node(ino)?;
        Ok(xattr::all_shown(&n.entry.xattrs, n.entry.mode))
    }

    /// Opens for reading. A handle is returned for what is made anew at each open.
    pub(super) fn open(&self, ino: Ino) -> Result<Option<u64>> {
        if ino == CONFLICTS {
            let now = now_of(&self.volume.view());
            let all = self.history.conflicts(&now)?;
            let json = serde_json::json!({ "conflicts": *all, "v": 1 });
            let mut text = serde_json::to_vec_pretty(&json).map_err(std::io::Error::other)?;
            text.push(b'\n');
            let handle = self.next.fetch_add(1, Ordering::Relaxed);
            self.table().texts.insert(handle, Arc::new(text));
            return Ok(Some(handle));
        }
        if self.fixed(ino).is_some() {
            return Err(VolumeError::IsDir);
        }
        let n = self.node(ino)?;
        self.table().open.entry(ino).or_insert((0, n)).0 += 1;
        Ok(None)
    }

    pub(super) fn release(&self, ino: Ino, handle: u64) {
        let mut t = self.table();
        t.texts.remove(&handle);
        if let Some((n, _)) = t.open.get_mut(&ino) {
            *n -= 1;
            if *n == 0 {
                t.open.remove(&ino);
            }
        }
    }

    pub(super) fn read(&self, ino: Ino, handle: u64, at: u64, len: u32) -> Result<Vec<u8>> {
        if ino == CONFLICTS {
            let text = self.table().texts.get(&handle).cloned();
            let data = Data::Memory(text.ok_or(VolumeError::Stale)?);
            return self.volume.read(&data, at, len);
        }
        let n = self.node(ino)?;
        if n.entry.kind == Kind::Dir {
            return Err(VolumeError::IsDir);
        }
        let data = data_of(&n);
        self.volume.supplied(|| self.volume.read(&data, at, len))
    }

    /// See [`super::Fs::may_wait`].
    pub(super) fn may_wait(&self, ino: Ino) -> bool {
        let has_bytes = ino != CONFLICTS && self.fixed(ino).is_none();
        let n = self.node(ino).ok().filter(|_| has_bytes);
        n.is_some_and(|n| self.volume.may_lack(&data_of(&n)).unwrap_or(false))
    }

    /// How many bytes can be read by a handle.
    pub(super) fn len(&self, ino: Ino, handle: u64) -> Result<u64> {
        if ino == CONFLICTS {
            let text = self.table().texts.get(&handle).map(|t| t.len() as u64);
            return text.ok_or(VolumeError::Stale);
        }
        let n = self.node(ino)?;
        match n.entry.kind {
            Kind::Dir => Err(VolumeError::IsDir),
            _ => Ok(n.size),
        }
    }

    pub(super) fn readlink(&self, ino: Ino) -> Result<Vec<u8>> {
        if self.fixed(ino).is_some() || self.node(ino)?.entry.kind != Kind::Symlink {
            return Err(VolumeError::Invalid("not a symbolic link"));
        }
        self.read(ino, 0, 0, u32::MAX)
    }

    pub(super) fn forget(&self, ino: Ino) {
        self.table().nodes.pop(&ino);
    }
}

/// Where the bytes of a file or link of the past are.
fn data_of(n: &Node) -> Data {
    match n.past.staged(&n.entry.blob) {
        Some(bytes) if n.entry.kind != Kind::Large => Data::Memory(bytes),
        _ => Data::Blob {
            id: n.entry.blob,
            len: n.size,
            chunked: n.entry.kind == Kind::Large,
        },
    }
}
