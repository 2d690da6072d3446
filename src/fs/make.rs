//! Creating files, directories, links and nodes.

use std::collections::{BTreeMap, HashMap};

use super::{Caller, Fs, Result, Stat, acl, save};
use crate::base::clock;
use crate::base::id::FileId;
use crate::base::limit::SYMLINK_BYTES_MAX;
use crate::base::name::EntryName;
use crate::journal::Patch;
use crate::merge::shown::{Role, Shown, Version};
use crate::record::change::{Change, OWN, SetField as Field};
use crate::record::model::Kind;
use crate::volume::error::VolumeError;
use crate::volume::inode::{Attr, Child, Data, Dirty, Ino, Inode, Subdirs};
use crate::volume::live::{Live, Stale, memory, null_oid};

/// The set-group-id bit.
const SET_GROUP: u32 = 0o2000;

impl Fs {
    /// Creates a directory.
    ///
    /// # Errors
    /// `Exists`, `ReadOnly`, the journal's.
    pub fn mkdir(&self, dir: Ino, name: &[u8], mode: u32, who: Caller) -> Result<Stat> {
        self.make(dir, name, Kind::Dir, mode, who, Vec::new(), false)
    }

    /// Creates a symbolic link.
    ///
    /// # Errors
    /// As [`Fs::mkdir`]; `Invalid` for a target that Linux would not take.
    pub fn symlink(&self, dir: Ino, name: &[u8], target: &[u8], who: Caller) -> Result<Stat> {
        if target.is_empty() || target.len() > SYMLINK_BYTES_MAX {
            return Err(VolumeError::Invalid("length of the link's target"));
        }
        self.make(dir, name, Kind::Symlink, 0o777, who, target.to_vec(), false)
    }

    /// Creates a fifo, the name of a socket, or a device.
    ///
    /// # Errors
    /// As [`Fs::mkdir`]; `Invalid` for what another call makes.
    pub fn mknod(&self, dir: Ino, name: &[u8], kind: Kind, mode: u32, who: Caller) -> Result<Stat> {
        match kind {
            Kind::Fifo | Kind::Socket | Kind::CharDevice(_) | Kind::BlockDevice(_) => {
                self.make(dir, name, kind, mode, who, Vec::new(), false)
            }
            _ => Err(VolumeError::Invalid("a node that is none")),
        }
    }

    /// Creates a regular file; `open` also opens it for writing.
    ///
    /// # Errors
    /// As [`Fs::mkdir`].
    pub fn create(
        &self,
        dir: Ino,
        name: &[u8],
        mode: u32,
        who: Caller,
        open: bool,
    ) -> Result<Stat> {
        self.make(dir, name, Kind::File, mode, who, Vec::new(), open)
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one place that creates all kinds"
    )]
    fn make(
        &self,
        dir: Ino,
        name: &[u8],
        kind: Kind,
        mode: u32,
        who: Caller,
        bytes: Vec<u8>,
        open: bool,
    ) -> Result<Stat> {
        let name = EntryName::new(name)?;
        self.may_name(dir, &name)?;
        let mut live = self.volume.lock();
        if live.inode(dir)?.removed {
            return Err(VolumeError::NotFound);
        }
        if live.child(self.volume.cx(), dir, &name)?.is_some() {
            return Err(VolumeError::Exists);
        }
        let now = clock::now_ns();
        let parent = live.inode(dir)?.id();
        let id = live.mint();
        self.refresh_root(&mut live, dir)?;
        let above = live.inode(dir)?;
        let acl::Given { mut mode, xattrs } =
            acl::inherit(&above.shown.xattrs, kind, mode & 0o7777, who.umask);
        let uid = (who.uid != self.owner.uid).then_some(who.uid);
        let mut gid = (who.gid != self.owner.gid).then_some(who.gid);
        // A directory with this bit gives its group to all that is made in it.
        if above.attr.mode & SET_GROUP != 0 {
            gid = above.attr.gid;
            mode |= if kind == Kind::Dir { SET_GROUP } else { 0 };
        }
        let mut resumed = None;
        if kind == Kind::File {
            resumed = self.resumes(&mut live, dir, &name)?;
        }
        let id = resumed.as_ref().map_or(id, |r| r.id);
        let field = |id, field| Patch::Meta(Change::Field { id, field });
        let mut patches = match &resumed {
            Some(r) => r.patches.clone(),
            None => vec![Patch::Meta(Change::Born {
                id,
                parent,
                name: name.clone(),
                kind,
                blob: null_oid(),
            })],
        };
        patches.push(field(id, Field::SetMode(mode)));
        patches.push(field(id, Field::SetMtime(now)));
        patches.extend(uid.map(|u| field(id, Field::SetUid(u))));
        patches.extend(gid.map(|g| field(id, Field::SetGid(g))));
        let given = Field::xattrs(&BTreeMap::new(), &xattrs);
        patches.extend(given.into_iter().map(|f| field(id, f)));
        if !bytes.is_empty() {
            let data = bytes.clone();
            patches.push(Patch::Bytes {
                id,
                at: 0,
                data,
                mtime: now,
            });
        }
        patches.push(field(parent, Field::SetMtime(now)));
        let entry = self.volume.log(&mut live, patches)?;
        let attr = Attr {
            mode,
            uid,
            gid,
            mtime: now,
            ctime: now,
            atime: now,
        };
        let parents = live.inode(dir)?.shown.dirs.clone();
        let ino = add_inode(
            &mut live,
            id,
            kind,
            attr,
            name.clone(),
            bytes,
            open,
            parents,
        );
        if let Some(r) = resumed {
            save::resume(&mut live, ino, r)?;
        }
        let i = live.inode_mut(ino)?;
        i.shown.xattrs = xattrs;
        i.place = Some((dir, name.clone()));
        i.lookups = 1;
        live.set_child(dir, name.clone(), Child::Bound { ino, since: entry });
        live.touch_dir(dir, now);
        if kind == Kind::Dir {
            live.inode_mut(dir)?.subdirs.change(1);
        }
        let stat = self.stat_of(live.inode(ino)?);
        drop(live);
        self.volume.wake();
        self.tell_others(vec![Stale::Entry { dir, name }]);
        Ok(stat)
    }
}

#[expect(clippy::too_many_arguments, reason = "the parts of one inode")]
fn add_inode(
    live: &mut Live,
    id: FileId,
    kind: Kind,
    attr: Attr,
    name: EntryName,
    bytes: Vec<u8>,
    open: bool,
    parents: Vec<FileId>,
) -> Ino {
    let is_dir = kind == Kind::Dir;
    let shown = Shown {
        name,
        role: Role::Main,
        dirs: if is_dir { vec![id] } else { Vec::new() },
        kind,
        blob: null_oid(),
        mode: attr.mode,
        mtime: attr.mtime,
        uid: attr.uid,
        gid: attr.gid,
        parents,
        versions: vec![Version {
            id,
            content: OWN,
            location: OWN,
            first: true,
        }],
        merged: false,
        link: Vec::new(),
        links: 0,
        xattrs: BTreeMap::new(),
    };
    let ino = live.fresh_ino();
    let dirty = kind.has_bytes().then(|| Dirty {
        settled: !open,
        ..Dirty::new(live.taken).more()
    });
    let inode = Inode {
        ino,
        kind,
        shown,
        attr,
        place: None,
        others: Vec::new(),
        names: 1,
        subdirs: Subdirs::Count(0),
        data: if kind.has_bytes() {
            memory(bytes)
        } else {
            Data::None
        },
        direct: None,
        old_pages: false,
        dirty,
        born: true,
        removed: false,
        before: Vec::new(),
        made_ms: clock::now_ms(),
        lookups: 0,
        opens: u32::from(open),
        writers: u32::from(open),
        children: HashMap::new(),
    };
    live.inodes.insert(ino, inode);
    live.by_id.insert(id, ino);
    live.touched.insert(ino);
    if kind.has_bytes() {
        live.dirty.insert(ino);
    }
    ino
}
