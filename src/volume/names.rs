//! What names lead to: an inode for what the view shows, and what becomes of it when the view
//! shows something else.
//!
//! Invariant: a name is bound to an inode only while that inode's kind, bytes and files are those
//! of the view there, or what was done to it here is not in the view yet. All of it is under the
//! table's lock.

use std::collections::{BTreeSet, HashMap};

use super::error::VolumeError;
use super::inode::{Attr, Child, Data, Ino, Inode, OtherName, Subdirs};
use super::live::{Context, Live, Stale};
use crate::base::id::FileId;
use crate::base::name::EntryName;
use crate::chunk::manifest;
use crate::merge::shown::{self, Role, Shown};
use crate::record::Source;
use crate::record::model::Kind;
use crate::store::objects::{ObjectKind, Objects};

impl Live {
    /// The inode that a name leads to, if any.
    ///
    /// # Errors
    /// As the store; `NotDir` when `dir` is none.
    pub fn child(
        &mut self,
        cx: Context<'_>,
        dir: Ino,
        name: &EntryName,
    ) -> Result<Option<Ino>, VolumeError> {
        let d = self.inode(dir)?;
        if d.kind != Kind::Dir {
            return Err(VolumeError::NotDir);
        }
        match d.children.get(name) {
            Some(Child::Bound { ino, .. }) => return Ok(Some(*ino)),
            Some(Child::Absent { .. }) => return Ok(None),
            None => {}
        }
        let src = Source::new(&*self.view.stage, cx.cache);
        let found = shown::lookup(src, &self.view.state, &d.shown.dirs, name)?;
        match found {
            Some(s) if s.kind != Kind::Gitlink => Ok(Some(self.bind(cx, dir, s)?)),
            _ => Ok(None),
        }
    }

    /// Gives what the view shows an inode: the one it had, or a new one.
    ///
    /// # Errors
    /// As the store.
    pub fn bind(&mut self, cx: Context<'_>, dir: Ino, s: Shown) -> Result<Ino, VolumeError> {
        let name = s.name.clone();
        let id = s
            .dirs
            .first()
            .copied()
            .or_else(|| s.versions.first().map(|v| v.id));
        let id = id.unwrap_or_default();
        let known = self.by_id.get(&id).copied();
        if let Some(ino) = known.filter(|k| self.is_name_of(*k, &s)) {
            self.add_name(ino, dir, s);
            return Ok(ino);
        }
        let ino = match known.filter(|k| self.may_rebind(*k, &s)) {
            Some(ino) => ino,
            None => {
                let ino = self.ino_for(&s);
                let data = self.data_of(cx, &s)?;
                let inode = Inode {
                    ino,
                    kind: s.kind.plain(),
                    attr: attr_of(&s),
                    shown: s.clone(),
                    place: None,
                    others: Vec::new(),
                    names: names_of(&s),
                    subdirs: Subdirs::default(),
                    data,
                    direct: None,
                    old_pages: false,
                    dirty: None,
                    born: false,
                    removed: false,
                    before: Vec::new(),
                    made_ms: 0,
                    lookups: 0,
                    opens: 0,
                    writers: 0,
                    children: HashMap::new(),
                };
                self.inodes.insert(ino, inode);
                let known = known.and_then(|k| self.inodes.get(&k));
                let is_linked = s.links > 0 || !s.link.is_empty();
                // An inode without a name stands for its file no longer.
                let gone = |k: &Inode| is_copy(&k.shown) || k.place.is_none();
                let names_it = is_linked && !is_copy(&s) && known.is_none_or(gone);
                if s.role == Role::Main || names_it || !self.by_id.contains_key(&id) {
                    self.by_id.insert(id, ino);
                }
                ino
            }
        };
        if let Some(i) = self.inodes.get_mut(&ino) {
            let ctime = i.attr.ctime;
            i.attr = attr_of(&s);
            i.attr.ctime = i.attr.ctime.max(ctime);
            i.names = names_of(&s);
            i.shown = s;
            i.place = Some((dir, name.clone()));
        }
        if let Some(d) = self.inodes.get_mut(&dir) {
            d.children.insert(name, Child::Bound { ino, since: 0 });
        }
        Ok(ino)
    }

    /// Whether what is shown is another name of an inode's file, with the version that the inode
    /// has or one before what was done to it here.
    fn is_name_of(&self, ino: Ino, s: &Shown) -> bool {
        let Some(i) = self.inodes.get(&ino) else {
            return false;
        };
        let has_names = s.links > 0 || !s.link.is_empty();
        let names = !is_copy(s) && !is_copy(&i.shown);
        let same = i.kind == s.kind.plain() && ids(&i.shown) == ids(s) && i.names > 0 && !i.removed;
        let contents = |s: &Shown| {
            s.versions
                .iter()
                .map(|v| (v.id, v.content))
                .collect::<Vec<_>>()
        };
        let ours = contents(&i.shown) == contents(s) || self.is_being_written(ino);
        has_names && names && same && ours && s.kind != Kind::Dir
    }

    /// Another name leads to an inode, as the view shows it.
    fn add_name(&mut self, ino: Ino, dir: Ino, s: Shown) {
        let settled = !self.is_being_written(ino);
        let name = s.name.clone();
        if let Some(i) = self.inodes.get_mut(&ino) {
            let other = OtherName {
                dir,
                name: name.clone(),
                parents: s.parents.clone(),
                role: s.role.clone(),
                link: s.link.clone(),
            };
            i.others.push(other);
            if settled {
                // It may have been without a name when its file changed.
                i.turn(dir, &name);
                i.show_now(s);
            } else if i.place.is_none() {
                i.turn(dir, &name);
            }
        }
        if let Some(d) = self.inodes.get_mut(&dir) {
            d.children.insert(name, Child::Bound { ino, since: 0 });
        }
    }

    /// An inode is acted on by this name of it from now on.
    pub fn turn(&mut self, ino: Ino, dir: Ino, name: &EntryName) {
        if let Some(i) = self.inodes.get_mut(&ino) {
            i.turn(dir, name);
        }
    }

    /// Whether an inode that lost its name is what is shown now.
    fn may_rebind(&self, ino: Ino, s: &Shown) -> bool {
        let Some(i) = self.inodes.get(&ino) else {
            return false;
        };
        // Who writes to a file goes on with it, not with a copy beside it: also who is about to
        // open it by a name that the kernel has yet to forget.
        let apart = s.role != Role::Main && (i.writers > 0 || i.shown.role == Role::Main);
        let free = i.place.is_none() && !i.removed && i.kind == s.kind.plain() && !apart;
        let clean = i.dirty.is_none() && !i.born && !self.committing.contains(&ino);
        free && (s.kind == Kind::Dir || (clean && i.shown.blob == s.blob))
    }

    /// The bytes that are shown: those that only this view derives are kept in memory.
    fn data_of(&self, cx: Context<'_>, s: &Shown) -> Result<Data, VolumeError> {
        if !s.kind.has_bytes() {
            return Ok(Data::None);
        }
        let id = s.blob;
        if s.kind == Kind::Large {
            let head = self.view.stage.get(&id, ObjectKind::Blob)?;
            let len = manifest::head(&head).map_or(0, |h| h.len);
            let chunked = true;
            return Ok(Data::Blob { id, len, chunked });
        }
        if let Some(o) = self.view.stage.staged(&id) {
            return Ok(Data::Memory(o.data));
        }
        let len = cx.repo.size(&id)?;
        let chunked = false;
        Ok(Data::Blob { id, len, chunked })
    }

    /// Takes over what the view now shows under a name. Pushes what the kernel must be told.
    ///
    /// # Errors
    /// As the store.
    pub fn reconcile(
        &mut self,
        cx: Context<'_>,
        dir: Ino,
        name: &EntryName,
        out: &mut Vec<Stale>,
    ) -> Result<(), VolumeError> {
        let mut next = self.reconcile_one(cx, dir, name, out)?;
        // What else leads to the same inode has a name less beside it.
        while let Some((dir, name)) = next {
            next = self.reconcile_one(cx, dir, &name, out)?;
        }
        Ok(())
    }

    /// The same of this name alone; another name of an inode that lost this one.
    fn reconcile_one(
        &mut self,
        cx: Context<'_>,
        dir: Ino,
        name: &EntryName,
        out: &mut Vec<Stale>,
    ) -> Result<Option<(Ino, EntryName)>, VolumeError> {
        let entry = Stale::Entry {
            dir,
            name: name.clone(),
        };
        let Some(d) = self.inodes.get(&dir) else {
            return Ok(None);
        };
        let child = d.children.get(name).copied();
        let busy = child.is_some_and(|c| {
            c.since() > 0 || matches!(c, Child::Bound { ino, .. } if self.is_being_written(ino))
        });
        if busy {
            self.stale.insert((dir, name.clone()));
            return Ok(None);
        }
        let src = Source::new(&*self.view.stage, cx.cache);
        let now = shown::lookup(src, &self.view.state, &d.shown.dirs, name)?;
        self.recount_subdirs(dir, child, now.as_ref());
        let Some(Child::Bound { ino, .. }) = child else {
            out.push(entry);
            out.extend(now.and_then(|s| self.recount(&s)));
            return Ok(None);
        };
        let same = match (&now, self.inodes.get(&ino)) {
            (Some(s), Some(i)) if s.kind == i.shown.kind => match s.kind {
                Kind::Dir => s.dirs.iter().any(|d| i.shown.dirs.contains(d)),
                // Under several names it is the same files by each, or none of them is it.
                _ if !i.others.is_empty() => s.blob == i.shown.blob && ids(s) == ids(&i.shown),
                _ => s.blob == i.shown.blob && s.versions.iter().any(|v| v.id == i.id()),
            },
            _ => false,
        };
        if let (true, Some(s)) = (same, now.clone()) {
            if let Some(i) = self.inodes.get_mut(&ino) {
                for d in &s.dirs {
                    self.by_id.insert(*d, ino);
                }
                i.turn(dir, name);
                let was = i.id();
                i.show_now(s);
                // Of files that showed the same bytes another one may be left.
                let is = i.id();
                if was != is && self.by_id.get(&was) == Some(&ino) {
                    self.by_id.remove(&was);
                    self.by_id.insert(is, ino);
                }
            }
            out.push(Stale::Attr { ino });
            return Ok(None);
        }
        if let Some(i) = self.inodes.get_mut(&ino) {
            i.unbind(dir, name);
            if i.place.is_none() {
                i.names = 0;
            }
        }
        if let Some(d) = self.inodes.get_mut(&dir) {
            d.children.remove(name);
        }
        out.push(entry);
        out.extend(now.and_then(|s| self.recount(&s)));
        let next = self.inodes.get(&ino).and_then(|i| i.place.clone());
        self.drop_if_idle(ino);
        Ok(next)
    }

    /// A name that was another thing before may have been a directory, or be one now.
    fn recount_subdirs(&mut self, dir: Ino, was: Option<Child>, now: Option<&Shown>) {
        let was = match was {
            Some(Child::Bound { ino, .. }) => self.inodes.get(&ino).map(|i| i.kind),
            _ => None,
        };
        let stays =
            was.is_some() && (was == Some(Kind::Dir)) == now.is_some_and(|n| n.kind == Kind::Dir);
        if let (false, Some(d)) = (stays, self.inodes.get_mut(&dir)) {
            d.subdirs = Subdirs::Unknown;
        }
    }

    /// The file of a name that came has another number of names.
    fn recount(&mut self, s: &Shown) -> Option<Stale> {
        let ino = *self.by_id.get(&s.id())?;
        if s.kind == Kind::Dir || is_copy(s) || !self.is_settled(ino) {
            return None;
        }
        let i = self.inodes.get_mut(&ino)?;
        let is_news = i.names > 0 && i.names != names_of(s) && !is_copy(&i.shown);
        is_news.then(|| {
            i.names = names_of(s);
            Stale::Attr { ino }
        })
    }
}

impl Inode {
    /// All that the view says of it now, under the name that it is acted on by. When it was read
    /// last and when something of it changed last are known here alone.
    fn show_now(&mut self, s: Shown) {
        let old = self.attr;
        self.attr = attr_of(&s);
        self.attr.ctime = old.ctime.max(self.attr.ctime);
        self.attr.atime = old.atime;
        self.names = names_of(&s);
        self.shown = s;
    }
}

/// Whether an entry is a version beside another one, and not a name of a file.
fn is_copy(s: &Shown) -> bool {
    s.role != Role::Main && s.link.is_empty() && !s.versions.iter().any(|v| v.first)
}

/// Number of names of what an entry shows.
fn names_of(s: &Shown) -> u32 {
    if is_copy(s) {
        return 1;
    }
    s.links.saturating_add(1)
}

/// The files that an entry stands for.
fn ids(s: &Shown) -> BTreeSet<FileId> {
    s.versions.iter().map(|v| v.id).collect()
}

pub(super) fn attr_of(s: &Shown) -> Attr {
    Attr {
        mode: s.mode,
        uid: s.uid,
        gid: s.gid,
        mtime: s.mtime,
        ctime: s.mtime,
        atime: s.mtime,
    }
}
