//! POSIX semantics on a volume: what the operations of a mount mean. No kernel types here;
//! tests call it without a mount.
//!
//! Invariant: each operation that changes something appends one journal entry, then changes
//! the table, both under the volume's lock, in that order and visibly in one function; the
//! caller is answered after that. Threads: any number of FUSE workers.

use std::sync::Arc;

use crate::base::clock;
use crate::base::name::EntryName;
use crate::merge::shown::Role;
use crate::record::change::SetField as Field;
use crate::record::model::Kind;
use crate::volume::error::VolumeError;
use crate::volume::inode::{Attr, Ino, Inode, Subdirs};
use crate::volume::live::{Live, Stale};
use crate::volume::{MountId, Volume};

mod acl;
mod copy;
mod data;
mod dir;
mod errno;
mod exchange;
mod holes;
mod link;
mod make;
mod names;
mod open;
mod own;
mod save;
mod space;
#[cfg(test)]
mod tests;
mod xattr;

pub use dir::{DirEntry, FIRST_COOKIE};
pub use errno::errno;
pub use holes::Seek;
pub use names::RenameMode;
pub use open::{Access, Opened};
pub use own::now_of;
pub use space::Allocate;
pub use xattr::SetXattr;

/// Result of an operation.
pub type Result<T> = std::result::Result<T, VolumeError>;

/// Who asks: decides the owner and the permission bits of what is created.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Permission bits that it does not give, where nothing else says what to give.
    pub umask: u32,
}

/// What the kernel is told of an inode.
#[derive(Debug, Clone, Copy)]
pub struct Stat {
    /// Number.
    pub ino: Ino,
    /// Type.
    pub kind: Kind,
    /// Times and permissions.
    pub attr: Attr,
    /// Bytes.
    pub size: u64,
    /// Room they take, in units of 512 bytes.
    pub blocks: u64,
    /// Names it has.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What `setattr` asks for.
#[derive(Debug, Clone, Copy, Default)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<i64>,
    /// Modification time.
    pub mtime: Option<i64>,
}

/// One mount of a volume.
#[derive(Debug, Clone)]
pub struct Fs {
    volume: Arc<Volume>,
    mount: MountId,
    read_only: bool,
    owner: Caller,
    own: Arc<own::Own>,
}

impl Fs {
    /// A mount of `volume`, whose files without a recorded owner belong to `owner`.
    #[must_use]
    pub fn new(volume: Arc<Volume>, mount: MountId, read_only: bool, owner: Caller) -> Self {
        let own = Arc::new(own::Own::new(volume.clone(), owner));
        Self {
            own,
            volume,
            mount,
            read_only,
            owner,
        }
    }

    /// The volume that is mounted.
    #[must_use]
    pub fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    fn may_write(&self) -> Result<()> {
        if self.read_only {
            return Err(VolumeError::ReadOnly);
        }
        // Not all bytes go through the journal; nothing is written that it could not make last.
        Ok(self.volume.may_write()?)
    }

    /// As [`Self::may_write`], for an inode that may be in the past.
    fn may_change(&self, ino: Ino) -> Result<()> {
        if own::is_own(ino) {
            return Err(VolumeError::ReadOnly);
        }
        self.may_write()
    }

    /// As [`Self::may_change`], for a name in a directory.
    fn may_name(&self, dir: Ino, name: &EntryName) -> Result<()> {
        if own::is_own_name(dir, name.as_bytes()) {
            return Err(VolumeError::ReadOnly);
        }
        self.may_change(dir)
    }

    fn stat_of(&self, i: &Inode) -> Stat {
        let nlink = match (i.removed, i.kind) {
            (true, _) => 0,
            // To count them means to read it; 1 is for directories that are not counted.
            (false, Kind::Dir) => match i.subdirs {
                Subdirs::Count(n) => n.saturating_add(2),
                Subdirs::Unknown => 1,
            },
            (false, _) => i.names.max(1),
        };
        Stat {
            ino: i.ino,
            kind: i.kind,
            attr: i.attr,
            size: i.data.len(),
            blocks: holes::blocks(&i.data),
            nlink,
            uid: i.attr.uid.unwrap_or(self.owner.uid),
            gid: i.attr.gid.unwrap_or(self.owner.gid),
        }
    }

    /// Attributes of an inode.
    ///
    /// # Errors
    /// `Stale`.
    pub fn getattr(&self, ino: Ino) -> Result<Stat> {
        if own::is_own(ino) {
            return self.own.getattr(ino);
        }
        let mut live = self.volume.lock();
        self.refresh_root(&mut live, ino)?;
        live.observe(ino);
        Ok(self.stat_of(live.inode(ino)?))
    }

    /// The root's attributes live in a record of its own.
    fn refresh_root(&self, live: &mut Live, ino: Ino) -> Result<()> {
        if ino == crate::volume::inode::ROOT_INO {
            self.volume.load_root(live)?;
        }
        Ok(())
    }

    /// Follows a name and counts a reference of the kernel. `None`: no such name.
    ///
    /// # Errors
    /// As the store; `NotDir`.
    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Option<Stat>> {
        if own::is_own(dir) {
            return self.own.lookup(dir, name);
        }
        if own::is_own_name(dir, name) {
            return self.own.top();
        }
        let name = EntryName::new(name)?;
        let mut live = self.volume.lock();
        let Some(ino) = live.child(self.volume.cx(), dir, &name)? else {
            return Ok(None);
        };
        live.observe(ino);
        let i = live.inode_mut(ino)?;
        i.lookups += 1;
        Ok(Some(self.stat_of(live.inode(ino)?)))
    }

    /// Whether what is known of the names in a directory holds until it is told otherwise.
    #[must_use]
    pub fn may_keep(&self, dir: Ino) -> bool {
        own::Own::may_keep(dir)
    }

    /// The kernel gives up references.
    pub fn forget(&self, ino: Ino, n: u64) {
        if own::is_own(ino) {
            return self.own.forget(ino);
        }
        self.volume.lock().forget(ino, n);
    }

    /// Changes attributes.
    ///
    /// # Errors
    /// `ReadOnly`, the journal's, `Stale`, `IsDir` for the size of a directory.
    pub fn setattr(&self, ino: Ino, set: SetAttr) -> Result<Stat> {
        self.may_change(ino)?;
        let (mut live, moved) = match set.size {
            Some(len) if len > 0 => self.lock_for(ino, len)?,
            Some(_) => self.lock_to_cut(ino)?,
            None => (self.volume.lock(), data::Moved::default()),
        };
        live.observe(ino);
        if let Some(len) = set.size {
            self.resize(&mut live, ino, len, moved)?;
        }
        let mut fields = Vec::new();
        if let Some(m) = set.mode {
            fields.push(Field::SetMode(m & 0o7777));
        }
        fields.extend(set.uid.map(Field::SetUid));
        fields.extend(set.gid.map(Field::SetGid));
        fields.extend(set.mtime.map(Field::SetMtime));
        self.log_fields(&mut live, ino, &fields)?;
        let now = clock::now_ns();
        let i = live.inode_mut(ino)?;
        let a = &mut i.attr;
        if let Some(m) = set.mode {
            a.mode = m & 0o7777;
        }
        a.uid = set.uid.or(a.uid);
        a.gid = set.gid.or(a.gid);
        a.mtime = set.mtime.unwrap_or(a.mtime);
        a.atime = set.atime.unwrap_or(a.atime);
        a.ctime = now;
        let stat = self.stat_of(live.inode(ino)?);
        drop(live);
        self.volume.wake();
        self.tell_others(vec![Stale::Content { ino }]);
        Ok(stat)
    }

    /// The ids whose records hold an inode's attributes.
    fn field_ids(&self, i: &Inode) -> Vec<crate::base::id::FileId> {
        if i.kind == Kind::Dir {
            return i.shown.dirs.clone();
        }
        let mut ids: Vec<_> = i.shown.versions.iter().map(|v| v.id).collect();
        ids.dedup();
        ids
    }

    /// Tells the other mounts of this volume on this machine what this one changed.
    fn tell_others(&self, stale: Vec<Stale>) {
        self.volume.tell(Some(self.mount), stale);
    }

    /// Totals of the disk under the volume: (block size, blocks, free, available) and file
    /// counts.
    ///
    /// # Errors
    /// As the system call.
    pub fn statfs(&self) -> Result<rustix::fs::StatVfs> {
        Ok(rustix::fs::statvfs(self.volume.dir()).map_err(std::io::Error::from)?)
    }

    /// Target of a symbolic link.
    ///
    /// # Errors
    /// `Invalid` when it is no link; the store's.
    pub fn readlink(&self, ino: Ino) -> Result<Vec<u8>> {
        if own::is_own(ino) {
            return self.own.readlink(ino);
        }
        let live = self.volume.lock();
        let i = live.inode(ino)?;
        if i.kind != Kind::Symlink {
            return Err(VolumeError::Invalid("not a symbolic link"));
        }
        let data = i.data.clone();
        drop(live);
        self.volume.read(&data, 0, u32::MAX)
    }

    /// Whether an inode is shown as a conflict copy.
    ///
    /// # Errors
    /// `Stale`.
    pub fn is_copy(&self, ino: Ino) -> Result<bool> {
        let live = self.volume.lock();
        Ok(live.inode(ino)?.shown.role != Role::Main)
    }
}
