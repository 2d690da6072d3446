//! What changes do to a state; see [`crate::record::change`].
//!
//! Invariant: afterwards every part that a changed file shows, and every directory above it,
//! is asserted by someone.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::id::{FileId, Oid};
use crate::base::name::EntryName;
use crate::base::stamp::{Dot, Stamp};
use crate::record::change::{Change, OWN, SetField};
use crate::record::draft::{Dots, Draft};
use crate::record::fill::at_root;
use crate::record::model::{Content, Filled, Kind, Location, Lww, Record};
use crate::record::state::State;
use crate::record::{Result, Source};

/// The state after these changes, made by the commit `stamp`.
///
/// # Errors
/// When a state cannot be read or written.
pub fn apply(
    src: Source<'_>,
    dots: &dyn Dots,
    state: &State,
    stamp: Stamp,
    changes: &[Change],
) -> Result<State> {
    let mut author = Author {
        draft: Draft::new(src, dots, *state, Some(stamp.dot()))?,
        stamp,
        touched: BTreeSet::from([FileId::ROOT]),
        dropped: BTreeMap::new(),
        formerly: BTreeMap::new(),
        unlinked: BTreeMap::new(),
        nameless: BTreeMap::new(),
    };
    for change in changes {
        author.change(change)?;
    }
    author.end_nameless()?;
    author.restore_kept_directories()?;
    author.draft.settle()?;
    author.draft.finish()
}

struct Author<'a> {
    draft: Draft<'a>,
    stamp: Stamp,
    /// Files whose parts, and those of all directories above, are asserted by now.
    touched: BTreeSet<FileId>,
    /// Directories that were dropped, as they were.
    dropped: BTreeMap<FileId, Record>,
    /// Dots that parts had before they were asserted again: who names those means the parts.
    formerly: BTreeMap<FileId, Former>,
    /// Places of other names of a file whose records were dropped: what is unlinked next is these,
    /// also if the file's own place was made by the same commit and has the same dot.
    unlinked: BTreeMap<FileId, Vec<Dot>>,
    /// Files that had no name left at some point, with the versions whose author saw them so. The
    /// commit may have given them another one since.
    nameless: BTreeMap<FileId, BTreeSet<Dot>>,
}

#[derive(Default)]
struct Former {
    content: Vec<Dot>,
    location: Vec<Dot>,
    /// Versions were marked as copies at the place that is asserted.
    marked: bool,
}

impl Author<'_> {
    fn change(&mut self, change: &Change) -> Result<()> {
        match change {
            Change::Born {
                id,
                parent,
                name,
                kind,
                blob,
            } => self.born(*id, (*parent, name), *kind, *blob),
            Change::Write {
                id,
                base,
                kind,
                blob,
            } => self.write(*id, base, *kind, *blob),
            Change::Move {
                id,
                base,
                parent,
                name,
                prev,
            } => self.move_to(*id, base, (*parent, name), prev.clone()),
            Change::Drop {
                id,
                content,
                location,
            } => self.drop_parts(*id, content, location),
            Change::Unlink {
                id,
                content,
                location,
            } => self.unlink(*id, content, location),
            Change::MarkCopy {
                id,
                content,
                location,
            } => self.mark_copy(*id, *content, *location),
            Change::Field { id, field } => self.set_field(*id, field.clone()),
            Change::Ref { name, base, to } => {
                let stamp = self.stamp;
                self.draft.refs_mut()?.set(name, base, stamp, *to);
                Ok(())
            }
        }
    }

    fn is_named(&self, stamp: Stamp, base: &[Dot]) -> bool {
        stamp == self.stamp || base.contains(&stamp.dot())
    }

    fn content(&self, kind: Kind, blob: Oid, mut over: Vec<Dot>) -> Content {
        let own = self.stamp.dot();
        over.retain(|d| *d != OWN && *d != own);
        over.sort_unstable();
        over.dedup();
        Content {
            stamp: self.stamp,
            kind,
            blob,
            over,
            copy_at: Vec::new(),
            gone_from: Vec::new(),
        }
    }

    fn location(
        &self,
        (parent, name): (FileId, &EntryName),
        prev: Option<(FileId, EntryName)>,
    ) -> Location {
        Location {
            stamp: self.stamp,
            parent,
            name: name.clone(),
            prev,
        }
    }

    fn born(&mut self, id: FileId, at: (FileId, &EntryName), kind: Kind, blob: Oid) -> Result<()> {
        self.touch(at.0)?;
        let mut record = self.draft.record_or_new(id)?;
        record.content.retain(|c| c.stamp != self.stamp);
        record.location.retain(|l| l.stamp != self.stamp);
        record.content.push(self.content(kind, blob, Vec::new()));
        record.location.push(self.location(at, None));
        record.filled = Filled::default();
        self.draft.set(id, Some(record))
    }

    fn write(&mut self, id: FileId, base: &[Dot], kind: Kind, blob: Oid) -> Result<()> {
        self.bring_back(id, base)?;
        self.touch(id)?;
        let mut record = self.draft.record_or_new(id)?;
        let mut over = base.to_vec();
        let own = record.content.iter().find(|c| c.stamp == self.stamp);
        over.extend(own.iter().flat_map(|c| &c.over));
        // A mark that the batch itself made stays: the version is new, the name taken.
        let marks = own.map(|c| c.copy_at.clone()).unwrap_or_default();
        record.content.retain(|c| !self.is_named(c.stamp, base));
        let mut content = self.content(kind, blob, over);
        content.copy_at = marks;
        record.content.push(content);
        record.filled.content.clear();
        self.formerly.entry(id).or_default().content.clear();
        // The version that stood in, and that went with the last name, had the same dot.
        if let Some(ended) = self.nameless.get_mut(&id) {
            ended.remove(&self.stamp.dot());
        }
        self.draft.set(id, Some(record))
    }

    fn move_to(
        &mut self,
        id: FileId,
        base: &[Dot],
        to: (FileId, &EntryName),
        prev: Option<(FileId, EntryName)>,
    ) -> Result<()> {
        self.bring_back(id, base)?;
        self.touch(id)?;
        let mut record = self.draft.record_or_new(id)?;
        if record.kind() == Some(Kind::Dir) {
            self.assert_fallbacks()?;
            record = self.draft.record_or_new(id)?;
        }
        self.touch(to.0)?;
        record.location.retain(|l| !self.is_named(l.stamp, base));
        record.location.push(self.location(to, prev));
        record.filled.location = None;
        let former = self.formerly.entry(id).or_default();
        former.location.clear();
        // The place that the batch asserted has the same dot as this one; marks there stay there.
        if std::mem::take(&mut former.marked) {
            let own = self.stamp.dot();
            for c in &mut record.content {
                c.copy_at.retain(|d| *d != own);
            }
        }
        self.draft.set(id, Some(record))
    }

    fn drop_parts(&mut self, id: FileId, content: &[Dot], location: &[Dot]) -> Result<()> {
        let Some(before) = self.draft.record(id)? else {
            return Ok(());
        };
        if let Some(place) = before.place() {
            self.touch(place.parent)?;
        }
        let is_dir = before.kind() == Some(Kind::Dir);
        if is_dir {
            self.assert_fallbacks()?;
        }
        if let Some(file) = before.kind().and_then(Kind::target) {
            let places = before.shown_location().map(|l| l.stamp.dot());
            self.unlinked.entry(file).or_default().extend(places);
        }
        let mut record = self.draft.record_or_new(id)?;
        let old = record.clone();
        // What the batch itself did before ends only if it is meant.
        let former = self.formerly.get(&id);
        let own = |dots: &[Dot], formerly: Option<&Vec<Dot>>| {
            let mut formerly = formerly.into_iter().flatten();
            dots.contains(&OWN) || formerly.any(|d| dots.contains(d))
        };
        let own_content = own(content, former.map(|f| &f.content));
        let own_location = own(location, former.map(|f| &f.location));
        let named = |at: Stamp, dots: &[Dot], own: bool| {
            dots.contains(&at.dot()) || (own && at == self.stamp)
        };
        record
            .content
            .retain(|c| !named(c.stamp, content, own_content));
        record
            .location
            .retain(|l| !named(l.stamp, location, own_location));
        if !record.content.is_empty() {
            // What is left keeps its place, which its author did not see go.
            record.location = old.location;
        } else if !record.location.is_empty() && !location.is_empty() {
            // It was moved meanwhile: the move keeps it alive.
            record.content = old.content;
        } else {
            record.location.clear();
            record.filled = Filled::default();
            if is_dir {
                self.dropped.entry(id).or_insert(before);
            }
        }
        let dead = !record.has_dots() && record.filled == Filled::default();
        self.draft.set(id, (!dead).then_some(record))
    }

    /// Takes one of a file's names away: its own place, or another name, whose record was dropped
    /// before. The versions are left for the names that remain, and marked, so that they do not
    /// bring this one back once those are gone, too. Without any left, they end.
    fn unlink(&mut self, id: FileId, content: &[Dot], location: &[Dot]) -> Result<()> {
        if self.draft.record(id)?.is_none() {
            return Ok(());
        }
        self.touch(id)?;
        let mut record = self.draft.record_or_new(id)?;
        let own = self.stamp.dot();
        let former = self.formerly.get(&id);
        let resolve = |dot: Dot, formerly: Option<&Vec<Dot>>| {
            let is_own = dot == OWN || formerly.is_some_and(|f| f.contains(&dot));
            if is_own { own } else { dot }
        };
        let named = |dots: &[Dot], formerly: Option<&Vec<Dot>>| -> BTreeSet<Dot> {
            let both = dots.iter().flat_map(|d| [*d, resolve(*d, formerly)]);
            both.filter(|d| *d != OWN).collect()
        };
        let content = named(content, former.map(|f| &f.content));
        let location = named(location, former.map(|f| &f.location));
        for c in &mut record.content {
            if content.contains(&c.stamp.dot()) {
                let all = c.gone_from.iter().chain(&location).copied();
                c.gone_from = all.collect::<BTreeSet<Dot>>().into_iter().collect();
            }
        }
        let others = self.unlinked.get_mut(&id);
        let other = others.as_ref().and_then(|all| {
            let named = |d: &Dot| location.contains(d);
            all.iter().position(named)
        });
        if let (Some(all), Some(at)) = (others, other) {
            all.remove(at);
        } else {
            record
                .location
                .retain(|l| !location.contains(&l.stamp.dot()));
        }
        record.filled.location = None;
        if record.location.is_empty() && self.draft.links(id)?.is_empty() {
            self.nameless.entry(id).or_default().extend(content);
        }
        self.draft.set(id, Some(record))
    }

    /// Files whose last name was taken away end.
    fn end_nameless(&mut self) -> Result<()> {
        for (id, content) in std::mem::take(&mut self.nameless) {
            let Some(mut record) = self.draft.record(id)? else {
                continue;
            };
            if !record.location.is_empty() || !self.draft.links(id)?.is_empty() {
                continue;
            }
            record.content.retain(|c| !content.contains(&c.stamp.dot()));
            let lives = !record.content.is_empty();
            self.draft.set(id, lives.then_some(record))?;
        }
        Ok(())
    }

    fn mark_copy(&mut self, id: FileId, content: Dot, location: Dot) -> Result<()> {
        let Some(record) = self.draft.record(id)? else {
            return Ok(());
        };
        if !record.has_dots() || record.content.is_empty() || record.location.is_empty() {
            self.touch(id)?;
        }
        let own = self.stamp.dot();
        let former = self.formerly.get(&id);
        let resolve = |dot: Dot, formerly: Option<&Vec<Dot>>| {
            let is_own = dot == OWN || formerly.is_some_and(|f| f.contains(&dot));
            if is_own { own } else { dot }
        };
        let content = resolve(content, former.map(|f| &f.content));
        let meant = location == OWN;
        let location = resolve(location, former.map(|f| &f.location));
        if location == own {
            self.formerly.entry(id).or_default().marked = !meant;
        }
        let mut record = self.draft.record_or_new(id)?;
        if let Some(c) = record.content.iter_mut().find(|c| c.stamp.dot() == content) {
            c.copy_at.push(location);
            c.copy_at.sort_unstable();
            c.copy_at.dedup();
        }
        self.draft.set(id, Some(record))
    }

    fn set_field(&mut self, id: FileId, field: SetField) -> Result<()> {
        let mut record = match self.draft.record(id)? {
            Some(r) => r,
            None if id == FileId::ROOT => Record::new(id),
            None => return Ok(()),
        };
        let stamp = self.stamp;
        let fields = &mut record.fields;
        match field {
            SetField::SetMode(value) => fields.mode = Some(Lww { stamp, value }),
            SetField::SetMtime(value) => fields.mtime = Some(Lww { stamp, value }),
            SetField::SetUid(value) => fields.uid = Some(Lww { stamp, value }),
            SetField::SetGid(value) => fields.gid = Some(Lww { stamp, value }),
            SetField::SetXattr { name, value } => {
                fields.xattrs.insert(name, Lww { stamp, value });
            }
        }
        self.draft.set(id, Some(record))
    }

    /// Asserts the parts of a file, and of all directories above it, that only stand in.
    fn touch(&mut self, id: FileId) -> Result<()> {
        let mut next = Some(id);
        while let Some(id) = next {
            if !self.touched.insert(id) {
                return Ok(());
            }
            let Some(mut record) = self.draft.record(id)? else {
                return Ok(());
            };
            let place = record.place();
            next = place.map(|p| p.parent);
            if record.filled == Filled::default() {
                continue;
            }
            let asserts = record.location.is_empty();
            let stood_in = record.filled.location.as_ref().map(|l| l.stamp.dot());
            if record.location.is_empty()
                && let Some(l) = record.filled.location.take()
            {
                let former = self.formerly.entry(id).or_default();
                former.location.push(l.stamp.dot());
                record
                    .location
                    .push(self.location((l.parent, &l.name), None));
            }
            let own = self.stamp.dot();
            let mut stands_in = std::mem::take(&mut record.filled.content);
            if !record.content.is_empty() && !stands_in.is_empty() {
                // The versions that are gone end; the others are where they were shown.
                let stays_copy = |c: &Content| stood_in.is_some_and(|l| c.copy_at.contains(&l));
                for c in stands_in.iter_mut().filter(|c| stays_copy(c)) {
                    c.copy_at.push(own);
                    c.copy_at.sort_unstable();
                    self.formerly.entry(id).or_default().marked = true;
                }
                record.content = stands_in;
            } else if let Some(c) = stands_in.pop() {
                let former = self.formerly.entry(id).or_default();
                former.content.push(c.stamp.dot());
                let over = match c.kind {
                    Kind::Dir => Vec::new(),
                    _ => vec![c.stamp.dot()],
                };
                record.content.push(self.content(c.kind, c.blob, over));
            }
            let is_placed = asserts && record.kind() == Some(Kind::Dir);
            self.draft.set(id, Some(record))?;
            if is_placed {
                self.assert_fallbacks()?;
            }
        }
        Ok(())
    }

    /// Asserts the place of each directory that is not where its latest move put it: a commit
    /// that changes what the directories are must not set others moving again.
    fn assert_fallbacks(&mut self) -> Result<()> {
        for id in std::mem::take(&mut self.draft.displaced) {
            self.touch(id)?;
            let Some(mut record) = self.draft.record(id)? else {
                continue;
            };
            if let Some(l) = record.filled.location.take() {
                let former = self.formerly.entry(id).or_default();
                let replaced = record.location.iter().map(|l| l.stamp.dot());
                former.location.extend(replaced);
                record.location = vec![self.location((l.parent, &l.name), None)];
                self.draft.set(id, Some(record))?;
            }
        }
        Ok(())
    }

    /// Gives a place and bytes to a file that is gone from this state, from the commits that
    /// wrote the parts which the change replaces.
    fn bring_back(&mut self, id: FileId, base: &[Dot]) -> Result<()> {
        let record = self.draft.record(id)?;
        if id == FileId::ROOT || record.as_ref().is_some_and(|r| r.place().is_some()) {
            return Ok(());
        }
        // Or has other names, if only by this commit, which may be about to give it some.
        let may_have = self.nameless.contains_key(&id);
        if record.is_some() && (may_have || !self.draft.links(id)?.is_empty()) {
            return Ok(());
        }
        let mut record = record.unwrap_or_else(|| Record::new(id));
        for dot in base {
            let stamp = Stamp {
                branch: dot.branch,
                seq: dot.seq,
                ..Stamp::default()
            };
            let Some(then) = self.draft.record_at(stamp, id)? else {
                continue;
            };
            if let (Some(l), Some(c)) = (then.shown_location(), then.shown_content().first()) {
                self.bring_back_directory(l.parent, stamp)?;
                let over = vec![c.stamp.dot()];
                record.content = vec![self.content(c.kind, c.blob, over)];
                record.location = vec![self.location((l.parent, &l.name), None)];
                let former = self.formerly.entry(id).or_default();
                former.content.push(c.stamp.dot());
                former.location.push(l.stamp.dot());
                return self.draft.set(id, Some(record));
            }
        }
        let lost = at_root(id, self.stamp, None);
        record.location = vec![lost];
        self.draft.set(id, Some(record))
    }

    fn bring_back_directory(&mut self, id: FileId, then: Stamp) -> Result<()> {
        let mut next = id;
        while next != FileId::ROOT {
            let now = self.draft.record(next)?;
            if now.is_some_and(|r| r.place().is_some()) {
                return Ok(());
            }
            let mut record = Record::new(next);
            let was = self.draft.record_at(then, next)?;
            let location = match was.as_ref().and_then(Record::shown_location) {
                Some(l) => self.location((l.parent, &l.name), None),
                None => at_root(next, self.stamp, None),
            };
            let parent = location.parent;
            let null = Oid::null(gix::hash::Kind::Sha1);
            record.content = vec![self.content(Kind::Dir, null, Vec::new())];
            record.location = vec![location];
            self.draft.set(next, Some(record))?;
            next = parent;
        }
        Ok(())
    }

    /// A directory is not dropped while something is shown in it.
    fn restore_kept_directories(&mut self) -> Result<()> {
        let mut again = true;
        while again {
            again = false;
            for (id, before) in std::mem::take(&mut self.dropped) {
                let gone = self.draft.record(id)?.is_none();
                if !gone {
                    continue;
                }
                if self.draft.children(id)?.is_empty() {
                    self.dropped.insert(id, before);
                } else {
                    self.draft.set(id, Some(before))?;
                    again = true;
                }
            }
        }
        Ok(())
    }
}
