//! What the mount knows of one file: an inode of the kernel's view of this volume.

use std::collections::HashMap;
use std::sync::Arc;

use super::spill::Spill;
use crate::base::clock;
use crate::base::id::{FileId, Oid};
use crate::base::name::EntryName;
use crate::base::stamp::Dot;
use crate::merge::shown::{Role, Shown, Version};
use crate::record::model::Kind;

/// Number of an inode, as the kernel sees it. Never reused while the node runs.
pub type Ino = u64;

/// The root directory's number, fixed by FUSE.
pub const ROOT_INO: Ino = 1;

/// Times and permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// Permission bits.
    pub mode: u32,
    /// Owner; `None`: the owner of the mount.
    pub uid: Option<u32>,
    /// Group; `None`: the group of the mount.
    pub gid: Option<u32>,
    /// Modification time, nanoseconds since 1970.
    pub mtime: i64,
    /// Change time: local.
    pub ctime: i64,
    /// Access time: local, set only by `utimensat`.
    pub atime: i64,
}

/// Where the bytes of a regular file or link are.
#[derive(Debug, Clone)]
pub enum Data {
    /// A directory has none.
    None,
    /// In the store.
    Blob {
        /// Which object.
        id: Oid,
        /// Bytes in it, or in what it lists.
        len: u64,
        /// It is the head of a manifest, which lists the chunks that hold the bytes.
        chunked: bool,
    },
    /// In memory, and in the journal if they differ from the store.
    Memory(Arc<Vec<u8>>),
    /// In an overlay file.
    Spilled(Arc<Spill>),
}

impl Data {
    /// Size in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::None => 0,
            Self::Blob { len, .. } => *len,
            Self::Memory(v) => v.len() as u64,
            Self::Spilled(s) => s.len(),
        }
    }

    /// Whether they are in an overlay file.
    #[must_use]
    pub fn is_spilled(&self) -> bool {
        matches!(self, Self::Spilled(_))
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A name in a directory, where what the mount shows may differ from the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Child {
    /// The name is this inode. `since`: number of the journal entry that made it so, until
    /// that entry is in the view.
    Bound {
        /// The inode.
        ino: Ino,
        /// See above; 0: as in the view.
        since: u64,
    },
    /// The name was removed here by this journal entry, which is not in the view yet.
    Absent {
        /// Number of the entry.
        since: u64,
    },
}

impl Child {
    /// The journal entry that the view lacks; 0 for none.
    #[must_use]
    pub fn since(self) -> u64 {
        match self {
            Self::Bound { since, .. } | Self::Absent { since } => since,
        }
    }
}

/// Bytes that are not in a commit yet.
#[derive(Debug, Clone, Copy)]
pub struct Dirty {
    /// When they began to be, milliseconds since 1970.
    pub since_ms: u64,
    /// The journal has nothing of them in entries up to this one.
    pub behind: u64,
    /// Someone closed or fsynced the file after the last write: a good moment to commit.
    pub settled: bool,
    /// Someone fsynced the file since: what it held then must not be lost.
    pub synced: bool,
    /// Counts writes, so that the committer knows whether more came meanwhile.
    pub generation: u64,
}

impl Dirty {
    /// No write yet, after the last of the journal's entries that a commit took up.
    #[must_use]
    pub fn new(behind: u64) -> Self {
        Self {
            since_ms: clock::now_ms(),
            behind,
            settled: false,
            synced: false,
            generation: 0,
        }
    }

    /// One more write.
    #[must_use]
    pub fn more(self) -> Self {
        Self {
            settled: false,
            generation: self.generation + 1,
            ..self
        }
    }
}

/// A name of a file beside the one that it is shown under.
#[derive(Debug, Clone)]
pub struct OtherName {
    /// The directory.
    pub dir: Ino,
    /// The name in it.
    pub name: EntryName,
    /// All ids of the directory.
    pub parents: Vec<FileId>,
    /// Whether another file has the name, and this one is beside it.
    pub role: Role,
    /// The records of this name; none if it is the file's own.
    pub link: Vec<Version>,
}

/// Directories in a directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Subdirs {
    /// Nobody has listed it since somebody else changed its names.
    #[default]
    Unknown,
    /// So many.
    Count(u32),
}

impl Subdirs {
    /// One came to be, or went.
    pub fn change(&mut self, by: i32) {
        if let Self::Count(n) = self {
            *self = n.checked_add_signed(by).map_or(Self::Unknown, Self::Count);
        }
    }
}

/// What the journal says of an overlay file that programs write to by themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The file.
    pub id: FileId,
    /// The versions that the bytes began as.
    pub base: Vec<Dot>,
    /// What its bytes were in the commit: those of a large file have another name.
    pub kind: Kind,
    /// The name they had there.
    pub blob: Oid,
}

/// The kernel hands programs the overlay file itself: reads and writes do not come here. While
/// anybody has the file open it stays so, and so it does while a mapping may outlive its descriptor.
#[derive(Debug, Clone, Default)]
pub struct Direct {
    /// Somebody may write to it.
    pub writable: bool,
    /// What the journal says of it, beside what it says of bytes that are in no commit.
    pub told: Option<Told>,
    /// Number of the journal's entry that has to last before anybody writes.
    pub entry: u64,
}

/// Versions that an inode remembers.
const BEFORE_MAX: usize = 8;

/// See the module.
#[derive(Debug)]
pub struct Inode {
    /// Its number.
    pub ino: Ino,
    /// What it is.
    pub kind: Kind,
    /// What is shown: ids, versions, the name it was found under. Dots of
    /// [`crate::base::stamp::Dot::default`] stand for the commit to come.
    pub shown: Shown,
    /// What was shown before that and may be in the view still, the latest last.
    pub before: Vec<Version>,
    /// Times and permissions.
    pub attr: Attr,
    /// Directory and name, while it has one: the name that [`Self::shown`] is about.
    pub place: Option<(Ino, EntryName)>,
    /// Its other names, as far as anybody looked at them.
    pub others: Vec<OtherName>,
    /// Number of names the file has, whether anybody looked at them or not; 0 once it has gone on
    /// without this inode.
    pub names: u32,
    /// For a directory.
    pub subdirs: Subdirs,
    /// The bytes.
    pub data: Data,
    /// Set while programs have the overlay file itself, or may have.
    pub direct: Option<Direct>,
    /// The kernel's pages of it may be older than its bytes.
    pub old_pages: bool,
    /// Set while the bytes differ from those of the last commit.
    pub dirty: Option<Dirty>,
    /// Born here and not in a commit yet.
    pub born: bool,
    /// Removed here: what is written from now on goes with the last handle.
    pub removed: bool,
    /// When it was made through a mount, milliseconds since 1970; 0 if it was not.
    pub made_ms: u64,
    /// References that the kernels hold.
    pub lookups: u64,
    /// Open handles.
    pub opens: u32,
    /// Open handles that may write.
    pub writers: u32,
    /// A directory's names, as far as the kernel or the journal knows them.
    pub children: HashMap<EntryName, Child>,
}

impl Inode {
    /// The file's id; of a directory that unites several, the smallest.
    #[must_use]
    pub fn id(&self) -> FileId {
        self.shown.id()
    }

    /// What is shown is about to be another version, or at another place.
    pub fn remember(&mut self) {
        for v in &self.shown.versions {
            if !self.before.contains(v) {
                self.before.reserve_exact(1);
                self.before.push(*v);
            }
        }
        let over = self.before.len().saturating_sub(BEFORE_MAX);
        self.before.drain(..over);
    }

    /// Makes one of its names the one that is shown and acted upon.
    pub fn turn(&mut self, dir: Ino, name: &EntryName) {
        let Some(at) = self.find_other(dir, name) else {
            return;
        };
        let new = self.others.swap_remove(at);
        if let Some((dir, name)) = self.place.take() {
            self.others.push(OtherName {
                dir,
                name,
                parents: std::mem::take(&mut self.shown.parents),
                role: std::mem::replace(&mut self.shown.role, Role::Main),
                link: std::mem::take(&mut self.shown.link),
            });
        }
        self.show(new);
    }

    /// Whether the file has other names than the one that it is shown under: in the view, or here,
    /// where a name may lead to it that the view took away while it was written to.
    #[must_use]
    pub fn has_other_names(&self) -> bool {
        self.names > 1 || !self.others.is_empty()
    }

    fn find_other(&self, dir: Ino, name: &EntryName) -> Option<usize> {
        let is = |o: &OtherName| o.dir == dir && o.name == *name;
        self.others.iter().position(is)
    }

    fn show(&mut self, new: OtherName) {
        self.shown.name = new.name.clone();
        self.shown.parents = new.parents;
        self.shown.role = new.role;
        self.shown.link = new.link;
        self.place = Some((new.dir, new.name));
    }

    /// A name leads to it no more. Another one is shown from now on, if one is known.
    pub fn unbind(&mut self, dir: Ino, name: &EntryName) {
        if let Some(at) = self.find_other(dir, name) {
            self.others.swap_remove(at);
        } else if self
            .place
            .as_ref()
            .is_some_and(|(d, n)| *d == dir && n == name)
        {
            self.place = None;
            if let Some(next) = self.others.pop() {
                self.show(next);
            }
        }
    }

    /// All names that are known to lead to it.
    pub fn places(&self) -> impl Iterator<Item = (Ino, &EntryName)> {
        let first = self.place.iter().map(|(d, n)| (*d, n));
        first.chain(self.others.iter().map(|o| (o.dir, &o.name)))
    }

    /// The dots of what it shows and of its names.
    pub fn dots_mut(&mut self) -> impl Iterator<Item = &mut Dot> {
        let links = self.others.iter_mut().flat_map(|o| &mut o.link);
        let all = self.shown.versions.iter_mut().chain(&mut self.shown.link);
        all.chain(links)
            .flat_map(|v| [&mut v.content, &mut v.location])
    }

    /// Whether somebody may write to its overlay file without telling.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.direct.as_ref().is_some_and(|d| d.writable)
    }

    /// Nobody refers to it and nothing would be lost with it.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.lookups == 0
            && self.opens == 0
            && self.direct.is_none()
            && self.ino != ROOT_INO
            && self.children.is_empty()
            && (self.removed || (self.dirty.is_none() && !self.born))
    }
}

/// Inodes by their numbers. The table holds pointers: a table grows by doubling, and one of the
/// inodes themselves had room for up to twice as many as there are.
#[derive(Debug, Default)]
pub struct Inodes(HashMap<Ino, Box<Inode>>);

impl Inodes {
    /// The inode of this number, if there is one.
    #[must_use]
    pub fn get(&self, ino: &Ino) -> Option<&Inode> {
        self.0.get(ino).map(|i| &**i)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, ino: &Ino) -> Option<&mut Inode> {
        self.0.get_mut(ino).map(|i| &mut **i)
    }

    /// Whether there is one of this number.
    #[must_use]
    pub fn contains_key(&self, ino: &Ino) -> bool {
        self.0.contains_key(ino)
    }

    /// Adds one, in place of another of its number.
    pub fn insert(&mut self, ino: Ino, inode: Inode) {
        self.0.insert(ino, Box::new(inode));
    }

    /// Takes one out.
    pub fn remove(&mut self, ino: &Ino) -> Option<Inode> {
        self.0.remove(ino).map(|i| *i)
    }

    /// All of them, in no order.
    pub fn values(&self) -> impl Iterator<Item = &Inode> {
        self.0.values().map(|i| &**i)
    }
}

#[cfg(test)]
impl std::ops::Index<&Ino> for Inodes {
    type Output = Inode;

    fn index(&self, ino: &Ino) -> &Inode {
        &self.0[ino]
    }
}

// There are as many as the kernel remembers.
const _: () = assert!(size_of::<Inode>() <= 640);
