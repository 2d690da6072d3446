//! Removing and renaming.

use std::sync::MutexGuard;

use super::{Fs, Result, data, link, save};
use crate::base::clock;
use crate::base::id::FileId;
use crate::base::name::EntryName;
use crate::base::stamp::Dot;
use crate::journal::Patch;
use crate::merge::intent::{self, Sight, Target};
use crate::merge::shown::{self, Role, Shown, Version};
use crate::record::change::{Change, OWN, SetField as Field};
use crate::record::model::Kind;
use crate::volume::Volume;
use crate::volume::error::VolumeError;
use crate::volume::inode::{Child, Ino, Inode};
use crate::volume::live::{Live, Stale};

/// A file with its versions and its places.
pub(super) type DotsOf = (FileId, Vec<Dot>, Vec<Dot>);

/// What `rename` may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameMode {
    /// Replace what has the new name.
    Replace,
    /// Fail when the new name is taken.
    NoReplace,
}

/// How often what is under way is committed before a name is acted on.
const COMMITS_MAX: usize = 8;

impl Fs {
    /// Removes a name of anything but a directory.
    ///
    /// # Errors
    /// `NotFound`, `IsDir`, `ReadOnly`, the journal's.
    pub fn unlink(&self, dir: Ino, name: &[u8]) -> Result<()> {
        self.remove(dir, name, false)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `NotFound`, `NotDir`, `NotEmpty`, `ReadOnly`, the journal's.
    pub fn rmdir(&self, dir: Ino, name: &[u8]) -> Result<()> {
        self.remove(dir, name, true)
    }

    fn remove(&self, dir: Ino, name: &[u8], want_dir: bool) -> Result<()> {
        let name = EntryName::new(name)?;
        self.may_name(dir, &name)?;
        let seen = self.leads_to(dir, &name)?;
        if seen.is_none() {
            return Err(VolumeError::NotFound);
        }
        let mut live = self.lock_plain(|live| {
            let ino = self.named(live, dir, &name)?;
            Ok(ino.into_iter().collect())
        })?;
        let ino = self.named(&mut live, dir, &name)?;
        let ino = ino.ok_or(VolumeError::NotFound)?;
        if !is_seen(&live, ino, seen) || is_newer(&live, ino, seen) {
            // It went, and another file or version came to its name, while that was waited for.
            drop(live);
            self.tell_others(vec![Stale::Entry { dir, name }]);
            return Ok(());
        }
        let is_dir = live.inode(ino)?.kind == Kind::Dir;
        match (is_dir, want_dir) {
            (true, false) => return Err(VolumeError::IsDir),
            (false, true) => return Err(VolumeError::NotDir),
            (true, true) if !live.list(self.volume.cx(), ino)?.is_empty() => {
                return Err(VolumeError::NotEmpty);
            }
            _ => {}
        }
        let heir = link::heir(&live, ino)?;
        let mut changes = match &heir {
            Some(heir) => self.inherit_changes(&live, ino, heir)?,
            None => self.drop_changes(&live, ino)?,
        };
        let now = clock::now_ns();
        let parent = live.inode(dir)?.id();
        changes.push(Change::Field {
            id: parent,
            field: Field::SetMtime(now),
        });
        let patches = changes.into_iter().map(Patch::Meta).collect();
        let entry = self.volume.log(&mut live, patches)?;
        save::leave(&mut live, ino, (dir, &name), None);
        live.set_child(dir, name.clone(), Child::Absent { since: entry });
        live.mark_removed(ino, now);
        if let Some(heir) = heir {
            link::inherit(&mut live, ino, heir, entry);
        }
        live.touch_dir(dir, now);
        if is_dir {
            live.inode_mut(dir)?.subdirs.change(-1);
        }
        drop(live);
        self.volume.wake();
        self.tell_others(vec![Stale::Entry { dir, name }, Stale::Attr { ino }]);
        Ok(())
    }

    /// The inode that a name leads to, to be acted on by it.
    pub(super) fn named(&self, live: &mut Live, dir: Ino, name: &EntryName) -> Result<Option<Ino>> {
        let ino = live.child(self.volume.cx(), dir, name)?;
        if let Some(ino) = ino {
            live.turn(ino, dir, name);
        }
        Ok(ino)
    }

    /// The changes that take an inode's name away.
    pub(super) fn drop_changes(&self, live: &Live, ino: Ino) -> Result<Vec<Change>> {
        let i = live.inode(ino)?;
        if self.is_as_shown(live, ino)? {
            let src = self.volume.source(&live.view);
            let state = &live.view.state;
            let mut out = intent::delete(Sight { src, state }, &i.shown)?;
            // Also for who reads the journal after a crash: its bytes go with its last name.
            if i.kind != Kind::Dir && !i.has_other_names() {
                out.extend(link::end_unlinked(&out));
            }
            return Ok(out);
        }
        let beside = match i.kind {
            Kind::Dir => Vec::new(),
            _ => self.beside_other_names(live, i)?,
        };
        let mut out = link::drop_name(i, &self.all_dots(live, i)?, &beside);
        if i.kind != Kind::Dir && i.has_other_names() {
            return Ok(out);
        }
        for (id, content, location) in self.all_dots(live, i)? {
            out.push(Change::Drop {
                id,
                content,
                location,
            });
        }
        for v in self.beside(live, i)? {
            let stays = !i.shown.link.is_empty() && v.id == i.id();
            if stays {
                // The last name of its file becomes the file's own, with copies alone.
                out.push(Change::Move {
                    id: v.id,
                    base: vec![OWN],
                    parent: i.shown.parents.first().copied().unwrap_or(FileId::ROOT),
                    name: i.shown.name.clone(),
                    prev: None,
                });
            }
            out.push(Change::MarkCopy {
                id: v.id,
                content: v.content,
                location: if stays { OWN } else { v.location },
            });
        }
        Ok(out)
    }

    /// The lock, once the view says all that there is to say of these names: what is under way to
    /// it is committed first where a file has several versions. A file of one version alone can be
    /// named before it is in a commit.
    pub(super) fn lock_plain(
        &self,
        of: impl Fn(&mut Live) -> Result<Vec<Ino>>,
    ) -> Result<MutexGuard<'_, Live>> {
        for n in 0..COMMITS_MAX {
            let mut live = self.lock_alone(&of)?;
            let mut inos = of(&mut live)?;
            let mut all = true;
            let mut beside = Vec::new();
            for ino in &inos {
                // What is done to a copy may give its bytes to another file.
                let waits = is_dirty_copy(live.inode(*ino)?);
                let alone = self.is_alone(&live, *ino)?;
                let plain = alone || self.is_as_shown(&live, *ino)?;
                all = all && plain && !waits;
                if !alone {
                    beside.extend(self.writers_beside(&live, *ino)?);
                }
            }
            // What is done above a copy may be said of its bytes, too.
            all = all && beside.is_empty();
            inos.extend(beside);
            if all {
                return Ok(live);
            }
            if n > 0 {
                // What was done to them was done together with what still waits.
                inos.extend(&live.dirty);
            }
            for ino in inos {
                data::settle(&mut live, ino)?;
            }
            drop(live);
            if self.volume.commit_now().is_err() {
                // Who has no room left may remove something.
                break;
            }
        }
        // Or others change it all the time: then it follows from what was shown.
        self.lock_alone(of)
    }

    /// The inodes with bytes for a commit of files that have copies beside an inode's name.
    fn writers_beside(&self, live: &Live, ino: Ino) -> Result<Vec<Ino>> {
        let beside = self.beside(live, live.inode(ino)?)?;
        let writers = beside.iter().filter_map(|v| live.writer_of(v.id));
        Ok(writers.filter(|w| *w != ino).collect())
    }

    /// Whether nothing else has to do with an inode's file: no other version, no copy.
    fn is_alone(&self, live: &Live, ino: Ino) -> Result<bool> {
        let i = live.inode(ino)?;
        let s = &i.shown;
        if i.kind == Kind::Dir {
            return Ok(true);
        }
        if s.role != Role::Main || s.versions.len() > 1 || s.link.len() > 1 {
            return Ok(false);
        }
        let (src, state) = (self.volume.source(&live.view), &live.view.state);
        let record = state.record(src, i.id())?;
        if record.is_some_and(|r| r.is_contested()) {
            return Ok(false);
        }
        Ok(shown::group(src, state, &s.parents, &s.name)?.len() <= 1)
    }

    /// Whether the view has what an inode shows, at its name: what is done to it follows from the
    /// view then. Else it follows from what was shown.
    pub(super) fn is_as_shown(&self, live: &Live, ino: Ino) -> Result<bool> {
        let s = &live.inode(ino)?.shown;
        if !live.is_settled(ino) {
            return Ok(false);
        }
        let (src, state) = (self.volume.source(&live.view), &live.view.state);
        let now = shown::lookup(src, state, &s.parents, &s.name)?;
        let same = |n: &Shown| n.versions == s.versions && n.link == s.link;
        Ok(now.is_some_and(|n| n.dirs == s.dirs && (s.kind == Kind::Dir || same(&n))))
    }

    /// The versions that the view shows as copies beside an inode's name.
    fn beside(&self, live: &Live, i: &Inode) -> Result<Vec<Version>> {
        let (src, state) = (self.volume.source(&live.view), &live.view.state);
        if i.kind == Kind::Dir || i.shown.role != Role::Main {
            return Ok(Vec::new());
        }
        let all = shown::group(src, state, &i.shown.parents, &i.shown.name)?;
        let copies = all.into_iter().filter(|s| s.role != Role::Main);
        // A copy that was moved to the name itself is beside nothing, though the view has it so.
        let is_own = |v: &Version| {
            let mut own = i.shown.versions.iter();
            own.any(|o| (o.id, o.content) == (v.id, v.content))
        };
        let all = copies.flat_map(|s| s.versions);
        Ok(all.filter(|v| !is_own(v)).collect())
    }

    /// The versions that the view shows as copies beside all names of a file.
    pub(super) fn beside_other_names(&self, live: &Live, i: &Inode) -> Result<Vec<Version>> {
        let (src, state) = (self.volume.source(&live.view), &live.view.state);
        let mut out = Vec::new();
        let record = state.record(src, i.id())?;
        let places = record.map_or(Ok(Vec::new()), |r| state.places(src, &r))?;
        for place in places {
            let dirs = shown::unified(src, state, place.parent)?;
            let all = shown::group(src, state, &dirs, &place.name)?;
            let copies = all.into_iter().filter(|s| s.role != Role::Main);
            let own = copies.flat_map(|s| s.versions);
            out.extend(own.filter(|v| v.id == i.id() && !i.shown.versions.contains(v)));
        }
        Ok(out)
    }

    /// The versions and places of the files that an inode stands for, those in the view and
    /// those on their way there, but for copies beside any name of it.
    pub(super) fn all_dots(&self, live: &Live, i: &Inode) -> Result<Vec<DotsOf>> {
        let mut beside = self.beside(live, i)?;
        if i.has_other_names() {
            beside.extend(self.beside_other_names(live, i)?);
        }
        let src = self.volume.source(&live.view);
        let mut ids: Vec<FileId> = i.shown.dirs.clone();
        ids.extend(i.shown.versions.iter().map(|v| v.id));
        ids.sort_unstable();
        ids.dedup();
        let mut out = Vec::new();
        for id in ids {
            let own = i.shown.versions.iter().filter(|v| v.id == id);
            let mut content: Vec<Dot> = own.clone().map(|v| v.content).collect();
            let mut location: Vec<Dot> = own.map(|v| v.location).collect();
            if let Some(r) = live.view.state.record(src, id)? {
                // Whatever else is there came from elsewhere, and nobody saw it here.
                let own = |dot: &Dot| dot.branch == live.numbers.branch || i.kind == Kind::Dir;
                let was = |dot: &Dot, part: fn(&Version) -> Dot| {
                    let mut before = i.before.iter().filter(|v| v.id == id);
                    own(dot) || before.any(|v| part(v) == *dot)
                };
                let is_beside = |dot: &Dot| beside.iter().any(|v| v.id == id && v.content == *dot);
                let others = r.content.iter().map(|c| c.stamp.dot());
                content.extend(others.filter(|d| was(d, |v| v.content) && !is_beside(d)));
                let others = r.location.iter().map(|l| l.stamp.dot());
                location.extend(others.filter(|d| was(d, |v| v.location)));
            }
            out.push((id, content, location));
        }
        Ok(out)
    }

    /// Gives a file or directory another name, in the same or another directory.
    ///
    /// # Errors
    /// As POSIX `rename`.
    pub fn rename(
        &self,
        (from, old): (Ino, &[u8]),
        (to, new): (Ino, &[u8]),
        mode: RenameMode,
    ) -> Result<()> {
        let (old, new) = (EntryName::new(old)?, EntryName::new(new)?);
        self.may_name(from, &old)?;
        self.may_name(to, &new)?;
        let cx = self.volume.cx();
        let named = |live: &mut Live| -> Result<Vec<Ino>> {
            let both = [self.named(live, to, &new)?, self.named(live, from, &old)?];
            Ok(both.into_iter().flatten().collect())
        };
        let over = self.seen_at(to, &new)?;
        let seen = self.leads_to(to, &new)?;
        let mut live = self.lock_plain(named)?;
        let mut target = self.named(&mut live, to, &new)?;
        let moved = self.named(&mut live, from, &old)?;
        let is_other = |t: &Ino| {
            let saved = || moved.is_some_and(|ino| save::saves(&live, ino, *t));
            !is_seen(&live, *t, seen) || (is_newer(&live, *t, seen) && !saved())
        };
        // What came to the name while that was waited for stays, beside what comes now.
        let stays = target.filter(|t| mode == RenameMode::Replace && is_other(t));
        // But for the same file, of which nothing happens to either name.
        let stays = stays.filter(|t| Some(*t) != moved);
        if stays.is_some() {
            target = None;
        }
        let ino = self.named(&mut live, from, &old)?;
        let ino = ino.ok_or(VolumeError::NotFound)?;
        if live.inode(to)?.removed {
            return Err(VolumeError::NotFound);
        }
        if target == Some(ino) {
            return Ok(());
        }
        if target.is_some() && mode == RenameMode::NoReplace {
            return Err(VolumeError::Exists);
        }
        let is_dir = live.inode(ino)?.kind == Kind::Dir;
        if is_dir && is_inside(&live, to, ino) {
            return Err(VolumeError::Invalid("a directory cannot move into itself"));
        }
        if let Some(t) = target {
            match (is_dir, live.inode(t)?.kind == Kind::Dir) {
                (true, false) => return Err(VolumeError::NotDir),
                (false, true) => return Err(VolumeError::IsDir),
                (true, true) if !live.list(cx, t)?.is_empty() => {
                    return Err(VolumeError::NotEmpty);
                }
                _ => {}
            }
        }
        let now = clock::now_ns();
        let saved = target.filter(|t| save::saves(&live, ino, *t));
        // What was committed just now for another writer of the file, nobody has seen yet.
        let over = match saved {
            Some(file) => {
                let now = &live.inode(file)?.shown;
                let unseen = |o: &Shown| o.id() == now.id() && o.versions != now.versions;
                // Nor what came beside the bytes that were seen, once these were in a commit, too.
                let own = seen.filter(|(before, _)| *before != file);
                let own = own.and_then(|(before, _)| Some(live.inodes.get(&before)?.shown.clone()));
                match over.or(own).filter(unseen) {
                    Some(over) => {
                        // It is merged with that, and then the name shows both.
                        live.stale.insert((to, new.clone()));
                        over
                    }
                    None => now.clone(),
                }
            }
            None => live.inode(ino)?.shown.clone(),
        };
        let mut parted = None;
        let mut patches: Vec<Patch> = match saved {
            Some(file) => {
                let mut patches = self.save_patches(&live, ino, (file, &over))?;
                // What programs still write to the old inode goes with it.
                patches.extend(Volume::unbind(&mut live, file));
                patches
            }
            None => {
                let changes = self.move_changes(&mut live, (ino, target), (to, &new))?;
                parted = born_in(&changes);
                changes.into_iter().map(Patch::Meta).collect()
            }
        };
        for d in [from, to] {
            patches.push(Patch::Meta(Change::Field {
                id: live.inode(d)?.id(),
                field: Field::SetMtime(now),
            }));
        }
        let entry = self.volume.log(&mut live, patches)?;
        if let Some(t) = stays {
            live.inode_mut(t)?.unbind(to, &new);
            live.stale.insert((to, new.clone()));
        }
        if target.is_none() {
            save::leave(&mut live, ino, (from, &old), Some((to, &new)));
        }
        match (saved, target) {
            (Some(file), _) => save::take_over(&mut live, ino, (file, over), now)?,
            (None, Some(t)) => live.mark_removed(t, now),
            (None, None) => {}
        }
        live.set_child(from, old.clone(), Child::Absent { since: entry });
        live.set_child(to, new.clone(), Child::Bound { ino, since: entry });
        if saved.is_none() {
            live.moved(ino, to, new.clone(), now);
        }
        if is_dir {
            live.inode_mut(from)?.subdirs.change(-1);
            if target.is_none() {
                live.inode_mut(to)?.subdirs.change(1);
            }
        }
        if let Some(id) = parted {
            save::part(&mut live, ino, id)?;
        }
        self.names_changed(live, [(from, old), (to, new)], now);
        Ok(())
    }

    /// The end of what changed two names: it waits for a commit, and other mounts are told.
    pub(super) fn names_changed(
        &self,
        mut live: MutexGuard<'_, Live>,
        names: [(Ino, EntryName); 2],
        now: i64,
    ) {
        for (dir, _) in &names {
            live.touch_dir(*dir, now);
        }
        drop(live);
        self.volume.wake();
        let entry = |(dir, name)| Stale::Entry { dir, name };
        self.tell_others(names.map(entry).to_vec());
    }

    /// The inode and the file that a name leads to.
    fn leads_to(&self, dir: Ino, name: &EntryName) -> Result<Option<(Ino, FileId)>> {
        let mut live = self.volume.lock();
        let ino = live.child(self.volume.cx(), dir, name)?;
        ino.map_or(Ok(None), |i| Ok(Some((i, live.inode(i)?.id()))))
    }

    /// What a name shows, if another inode of that file has bytes for a commit.
    fn seen_at(&self, dir: Ino, name: &EntryName) -> Result<Option<Shown>> {
        let mut live = self.volume.lock();
        let Some(ino) = live.child(self.volume.cx(), dir, name)? else {
            return Ok(None);
        };
        let known = live.other_writer(ino).is_some() && live.is_settled(ino);
        Ok(known.then_some(&live.inode(ino)?.shown).cloned())
    }

    pub(super) fn move_changes(
        &self,
        live: &mut Live,
        (ino, target): (Ino, Option<Ino>),
        (to, new): (Ino, &EntryName),
    ) -> Result<Vec<Change>> {
        must_be_in_a_commit(live.inode(ino)?)?;
        let fresh = live.mint();
        let dirs = live.inode(to)?.shown.dirs.clone();
        let known = self.is_as_shown(live, ino)?;
        if known && target.map_or(Ok(true), |t| self.is_as_shown(live, t))? {
            let src = self.volume.source(&live.view);
            let state = &live.view.state;
            let place = Target {
                dirs: &dirs,
                name: new,
            };
            let replaced = match target {
                Some(t) => Some(&live.inode(t)?.shown),
                None => None,
            };
            let shown = &live.inode(ino)?.shown;
            return Ok(intent::rename(
                Sight { src, state },
                shown,
                place,
                replaced,
                fresh,
            )?);
        }
        let mut out = Vec::new();
        if let Some(t) = target {
            out.extend(self.drop_changes(live, t)?);
        }
        let i = live.inode(ino)?;
        let prev = i.shown.parents.first().map(|p| (*p, i.shown.name.clone()));
        let ids: Vec<FileId> = i.shown.versions.iter().map(|v| v.id).collect();
        let beside = self.beside(live, i)?;
        let own = match i.shown.link.is_empty() {
            true => self.all_dots(live, i)?,
            false => link::dots_of_name(i),
        };
        for (id, _, base) in own {
            out.push(Change::Move {
                id,
                base,
                parent: dirs.first().copied().unwrap_or(FileId::ROOT),
                name: new.clone(),
                prev: prev.clone(),
            });
        }
        for v in beside {
            // Those of the file itself go along.
            let goes = ids.contains(&v.id);
            out.push(Change::MarkCopy {
                id: v.id,
                content: v.content,
                location: if goes { OWN } else { v.location },
            });
        }
        Ok(out)
    }
}

/// Whether what a name leads to is what it led to before. A directory has nothing to lose.
fn is_seen(live: &Live, ino: Ino, before: Option<(Ino, FileId)>) -> bool {
    let same = |i: &Inode| before.is_some_and(|(b, id)| b == ino || id == i.id());
    let now = live.inode(ino);
    now.is_ok_and(|i| i.kind == Kind::Dir || same(i))
}

/// Whether a version of the file that nobody has seen came to the name meanwhile. What is written
/// through an inode stays there; what comes from elsewhere has another.
fn is_newer(live: &Live, ino: Ino, before: Option<(Ino, FileId)>) -> bool {
    let now = live.inode(ino);
    let same = |i: &Inode| before.is_some_and(|(b, id)| b != ino && id == i.id());
    now.is_ok_and(|i| i.kind != Kind::Dir && same(i))
}

/// The file of its own that what is moved becomes by these changes, if it does.
pub(super) fn born_in(changes: &[Change]) -> Option<FileId> {
    changes.iter().find_map(|c| match c {
        Change::Born { id, .. } => Some(*id),
        _ => None,
    })
}

fn is_dirty_copy(i: &Inode) -> bool {
    i.shown.role != Role::Main && i.dirty.is_some()
}

/// A copy whose bytes could not be committed is not moved or linked: after a crash they would be
/// looked for under another file. It may be removed.
pub(super) fn must_be_in_a_commit(i: &Inode) -> Result<()> {
    if is_dirty_copy(i) {
        return Err(std::io::Error::from(std::io::ErrorKind::ResourceBusy).into());
    }
    Ok(())
}

/// Whether `dir` is `top` or below it.
pub(super) fn is_inside(live: &Live, dir: Ino, top: Ino) -> bool {
    let mut at = dir;
    for _ in 0..4096 {
        if at == top {
            return true;
        }
        match live.inodes.get(&at).and_then(|i| i.place.as_ref()) {
            Some((p, _)) => at = *p,
            None => return false,
        }
    }
    true
}
