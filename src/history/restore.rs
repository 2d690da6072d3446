//! What brings a file or a directory back as it was.
//!
//! A file that has its path still stays the file that it is, and gets the bytes of then. A file
//! that is gone comes back as itself; one that lives elsewhere by now stays there, and its bytes
//! of then become a new file. A directory becomes what it was, whole: what it did not hold then
//! ends, as by `rm`, and what was moved about within it is moved back.

use std::collections::{BTreeMap, BTreeSet};

use super::past::{Dir, Entry, Past};
use super::{History, HistoryError, Keep, Now, Result};
use crate::base::id::FileId;
use crate::base::name::EntryName;
use crate::base::path::VolumePath;
use crate::merge::intent::{self, Sight, Target};
use crate::merge::shown::{self, Role, Shown};
use crate::record::change::{Change, SetField};
use crate::record::model::{Kind, Record, XattrName};

/// What a restore comes to.
#[derive(Debug, Default)]
pub struct Restore {
    /// The changes.
    pub changes: Vec<Change>,
    /// Files, links and directories that came back.
    pub made: u64,
    /// Those that were there and became what they had been.
    pub changed: u64,
    /// Those that ended.
    pub removed: u64,
}

impl History {
    /// The changes after which a path is what it was in a past; see the module. `mint` makes ids
    /// for new files, `keep` puts bytes where the commit to come finds them.
    ///
    /// # Errors
    /// When the path was not there then, or cannot be there now.
    pub fn restore(
        &self,
        now: &Now,
        path: &VolumePath,
        (past, spec): (&Past, &str),
        mint: &mut dyn FnMut() -> FileId,
        keep: &mut Keep<'_>,
    ) -> Result<Restore> {
        let src = self.source(&*now.stage);
        let sight = Sight {
            src,
            state: &now.state,
        };
        let mut work = Work {
            sight,
            past,
            mint,
            keep,
            extra: Vec::new(),
            missing: Vec::new(),
            moved: BTreeSet::new(),
            out: Restore::default(),
        };
        let mut names = path.names();
        let Some(last) = names.pop() else {
            let (root, now) = (past.root_entry()?, self.present(now).root_entry()?);
            work.fields(&[FileId::ROOT], &root, Some(facts(&now)), &now.xattrs);
            work.compare(&past.root(), &[FileId::ROOT])?;
            return work.finish();
        };
        if names.is_empty() && last.as_bytes() == crate::base::name::OWN_NAME {
            return Err(HistoryError::Own(path.clone()));
        }
        let then = work.then(path)?.ok_or_else(|| HistoryError::NotThen {
            path: path.clone(),
            when: spec.to_owned(),
        })?;
        let dirs = work.parents(path, &names)?;
        let there = shown::lookup(src, &now.state, &dirs, &last)?;
        match (&there, &then.dir) {
            (Some(s), None) if s.kind == Kind::Dir => {
                return Err(HistoryError::IsDirectory(path.clone()));
            }
            (Some(s), Some(_)) if s.kind != Kind::Dir => {
                return Err(HistoryError::NotDirectory(path.clone()));
            }
            _ => {}
        }
        work.pair(&dirs, &last, &then, there)?;
        work.finish()
    }
}

/// A name that was there then and is not now: the ids of its directory, and what it was.
type Missing = (Vec<FileId>, EntryName, Entry);

struct Work<'a, 'b> {
    sight: Sight<'a>,
    past: &'a Past,
    mint: &'b mut dyn FnMut() -> FileId,
    keep: &'b mut Keep<'b>,
    /// What is there now and was not then.
    extra: Vec<Shown>,
    missing: Vec<Missing>,
    /// Files that came back to where they were.
    moved: BTreeSet<FileId>,
    out: Restore,
}

impl Work<'_, '_> {
    /// What the path was; if it was not there, what the file at the path now was.
    fn then(&self, path: &VolumePath) -> Result<Option<Entry>> {
        if let Some(e) = self.past.find(path)? {
            return Ok(Some(e));
        }
        let Sight { src, state } = self.sight;
        let mut dirs = vec![FileId::ROOT];
        let mut found: Option<Shown> = None;
        for name in path.names() {
            match shown::lookup(src, state, &dirs, &name)? {
                Some(s) => {
                    dirs.clone_from(&s.dirs);
                    found = Some(s);
                }
                None => return Ok(None),
            }
        }
        let (Some(now), Some(then)) = (found, self.past.state()) else {
            return Ok(None);
        };
        // It had another name.
        let stage = self.past.stage();
        let src = crate::record::Source::new(&**stage, src.cache);
        let Some(place) = then.record(src, now.id())?.and_then(|r| r.place()) else {
            return Ok(None);
        };
        let dirs = shown::unified(src, &then, place.parent)?;
        let all = shown::group(src, &then, &dirs, &place.name)?;
        let same = |s: &Shown| s.id() == now.id();
        Ok(all.into_iter().find(same).map(Entry::from))
    }

    /// The ids of the directory that a path is in, which is made if it is not there.
    fn parents(&mut self, path: &VolumePath, names: &[EntryName]) -> Result<Vec<FileId>> {
        let Sight { src, state } = self.sight;
        let mut dirs = vec![FileId::ROOT];
        let mut then = Some(self.past.root());
        let mut is_new = false;
        for name in names {
            let now = match is_new {
                false => shown::lookup(src, state, &dirs, name)?,
                true => None,
            };
            let e = match &then {
                Some(d) => self.past.lookup(d, name)?,
                None => None,
            };
            then = e.as_ref().and_then(|e| e.dir.clone());
            dirs = match (now, e) {
                (Some(s), _) if s.kind == Kind::Dir => s.dirs,
                (Some(_), _) => return Err(HistoryError::NotDirectory(path.clone())),
                (None, Some(e)) if e.dir.is_some() => {
                    is_new = true;
                    vec![self.make(&dirs, name, &e)?]
                }
                (None, _) => return Err(HistoryError::NotNow(path.clone())),
            };
        }
        Ok(dirs)
    }

    /// A directory of then and one of now.
    fn compare(&mut self, then: &Dir, now: &[FileId]) -> Result<()> {
        let Sight { src, state } = self.sight;
        let mut todo = vec![(then.clone(), now.to_vec())];
        while let Some((then, now)) = todo.pop() {
            let mut there: BTreeMap<EntryName, Shown> = BTreeMap::new();
            for s in shown::list(src, state, &now)? {
                let own =
                    now.contains(&FileId::ROOT) && s.name.as_bytes() == crate::base::name::OWN_NAME;
                if s.kind != Kind::Gitlink && !own {
                    there.insert(s.name.clone(), s);
                }
            }
            for e in self.past.list(&then)? {
                let own =
                    now.contains(&FileId::ROOT) && e.name.as_bytes() == crate::base::name::OWN_NAME;
                if own {
                    continue;
                }
                let s = there.remove(&e.name);
                let name = e.name.clone();
                if let Some(below) = self.pair_one(&now, &name, &e, s)? {
                    todo.push(below);
                }
            }
            self.extra.extend(there.into_values());
        }
        Ok(())
    }

    fn pair(
        &mut self,
        dirs: &[FileId],
        name: &EntryName,
        e: &Entry,
        s: Option<Shown>,
    ) -> Result<()> {
        if let Some((then, now)) = self.pair_one(dirs, name, e, s)? {
            self.compare(&then, &now)?;
        }
        Ok(())
    }

    /// What was at a name and what is. Directories that are both are still to be compared.
    fn pair_one(
        &mut self,
        dirs: &[FileId],
        name: &EntryName,
        e: &Entry,
        s: Option<Shown>,
    ) -> Result<Option<(Dir, Vec<FileId>)>> {
        match (s.filter(|s| !self.moved.contains(&s.id())), &e.dir) {
            (Some(s), Some(dir)) if s.kind == Kind::Dir => {
                self.fields(&s.dirs, e, Some(facts_now(&s)), &s.xattrs);
                return Ok(Some((dir.clone(), s.dirs)));
            }
            (Some(s), None) if s.kind != Kind::Dir => self.rewrite(&s, e)?,
            (s, _) => {
                self.extra.extend(s);
                self.missing.push((dirs.to_vec(), name.clone(), e.clone()));
            }
        }
        Ok(None)
    }

    fn rewrite(&mut self, s: &Shown, e: &Entry) -> Result<()> {
        let bytes_differ = (s.kind, s.blob) != (e.kind, e.blob);
        let mut none = None;
        let mut ids: Vec<FileId> = s.versions.iter().map(|v| v.id).collect();
        if bytes_differ {
            self.hold(e)?;
            let fresh = (self.mint)();
            let made = intent::write(self.sight, s, (e.kind, e.blob), fresh)?;
            if made.iter().any(|c| matches!(c, Change::Born { .. })) {
                ids = vec![fresh];
                none = Some(Xattrs::new());
            }
            self.out.changes.extend(made);
        }
        let before = self.out.changes.len();
        let has = none.as_ref().unwrap_or(&s.xattrs);
        self.fields(&ids, e, (!bytes_differ).then(|| facts_now(s)), has);
        self.out.changed += u64::from(bytes_differ || self.out.changes.len() > before);
        Ok(())
    }

    /// Modes, owners, times and extended attributes of then, as far as they differ from what is
    /// shown now; `has`: what attributes the files have.
    fn fields(&mut self, ids: &[FileId], e: &Entry, now: Option<Facts>, has: &Xattrs) {
        let (mode, mtime, uid, gid) = facts(e);
        let mut set = Vec::new();
        if now.is_none_or(|n| n.0 != mode) {
            set.push(SetField::SetMode(mode));
        }
        // What has no id came by git, which has no times and owners.
        if e.id.is_some() {
            if now.is_none_or(|n| n.1 != mtime) {
                set.push(SetField::SetMtime(mtime));
            }
            if now.is_none_or(|n| n.2 != uid) {
                set.extend(uid.map(SetField::SetUid));
            }
            if now.is_none_or(|n| n.3 != gid) {
                set.extend(gid.map(SetField::SetGid));
            }
            set.extend(SetField::xattrs(has, &e.xattrs));
        }
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids.dedup();
        for id in ids {
            let all = set.iter().map(|field| Change::Field {
                id,
                field: field.clone(),
            });
            self.out.changes.extend(all);
        }
    }

    /// Bytes that only a merge of then derived are in no pack.
    fn hold(&mut self, e: &Entry) -> Result<()> {
        let has_bytes = e.kind.has_bytes();
        if has_bytes && !self.sight.src.objs.has(&e.blob)? {
            (self.keep)(&e.blob, self.past.bytes(&e.blob)?)?;
        }
        Ok(())
    }

    /// A file or an empty directory at a name where nothing is.
    fn make(&mut self, dirs: &[FileId], name: &EntryName, e: &Entry) -> Result<FileId> {
        self.hold(e)?;
        let Sight { src, state } = self.sight;
        let mut has = Xattrs::new();
        let mut own = None;
        if let Some(id) = e.id.filter(|id| !self.moved.contains(id)) {
            let record = state.record(src, id)?;
            if record.as_ref().and_then(Record::place).is_none() {
                own = Some(id);
                let left = record.map(|r| r.fields.xattrs).unwrap_or_default();
                let left = left.into_iter();
                has.extend(left.filter_map(|(n, v)| Some((n, v.value?))));
            }
        }
        let id = own.unwrap_or_else(|| (self.mint)());
        self.moved.insert(id);
        let target = Target { dirs, name };
        let made = intent::create(target, id, (e.kind, e.blob));
        self.out.changes.extend(made);
        self.fields(&[id], e, None, &has);
        self.out.made += 1;
        Ok(id)
    }

    fn finish(mut self) -> Result<Restore> {
        let mut ending = Ending::new();
        self.end_extra(&mut ending)?;
        loop {
            let missing = std::mem::take(&mut self.missing);
            if missing.is_empty() {
                break;
            }
            for (dirs, name, e) in missing {
                if let Some(s) = home(&ending, &e) {
                    self.spare(&mut ending, &s)?;
                    self.move_back(&dirs, &name, &e, &s)?;
                    self.end_extra(&mut ending)?;
                    continue;
                }
                let id = self.make(&dirs, &name, &e)?;
                if let Some(dir) = &e.dir {
                    for below in self.past.list(dir)? {
                        self.missing.push((vec![id], below.name.clone(), below));
                    }
                }
            }
        }
        let mut ending: Vec<(u64, Shown)> = ending.into_values().collect();
        // The inner ones first.
        ending.sort_by_key(|(n, _)| std::cmp::Reverse(*n));
        let all: Vec<_> = ending
            .iter()
            .flat_map(|(_, s)| s.versions.clone())
            .collect();
        for (_, s) in &ending {
            let made = intent::delete_with(self.sight, s, &all)?;
            self.out.changes.extend(made);
            self.out.removed += 1;
        }
        Ok(self.out)
    }

    /// All that is there and was not ends, but for what goes back.
    fn end_extra(&mut self, ending: &mut Ending) -> Result<()> {
        let mut todo = std::mem::take(&mut self.extra);
        while let Some(s) = todo.pop() {
            if self.moved.contains(&s.id()) {
                continue;
            }
            if s.kind == Kind::Dir {
                todo.extend(shown::list(self.sight.src, self.sight.state, &s.dirs)?);
            }
            let n = ending.len() as u64;
            ending.insert(key(&s), (n, s));
        }
        Ok(())
    }

    /// It goes back; of what is in it, its directory of then decides.
    fn spare(&mut self, ending: &mut Ending, s: &Shown) -> Result<()> {
        let mut todo = vec![s.clone()];
        while let Some(s) = todo.pop() {
            if s.kind == Kind::Dir {
                todo.extend(shown::list(self.sight.src, self.sight.state, &s.dirs)?);
            }
            ending.remove(&key(&s));
        }
        self.moved.insert(s.id());
        Ok(())
    }

    fn move_back(&mut self, dirs: &[FileId], name: &EntryName, e: &Entry, s: &Shown) -> Result<()> {
        let fresh = (self.mint)();
        let target = Target { dirs, name };
        let made = intent::rename(self.sight, s, target, None, fresh)?;
        self.out.changes.extend(made);
        match &e.dir {
            Some(dir) => {
                self.out.changed += 1;
                self.fields(&s.dirs, e, Some(facts_now(s)), &s.xattrs);
                self.compare(dir, &s.dirs)
            }
            None => {
                let before = self.out.changed;
                self.rewrite(s, e)?;
                self.out.changed = before + 1;
                Ok(())
            }
        }
    }
}

/// Extended attributes.
type Xattrs = BTreeMap<XattrName, Vec<u8>>;

/// Mode, time, owner and group.
type Facts = (u32, i64, Option<u32>, Option<u32>);

fn facts(e: &Entry) -> Facts {
    (e.mode & 0o7777, e.mtime, e.uid, e.gid)
}

fn facts_now(s: &Shown) -> Facts {
    (s.mode & 0o7777, s.mtime, s.uid, s.gid)
}

/// What ends, by file, directory and name, with the order in which it was met.
type Ending = BTreeMap<(FileId, FileId, EntryName), (u64, Shown)>;

fn key(s: &Shown) -> (FileId, FileId, EntryName) {
    let dir = s.parents.first().copied().unwrap_or(FileId::ROOT);
    (s.id(), dir, s.name.clone())
}

/// Where the file that an entry was is now, if it would end there.
fn home(ending: &Ending, e: &Entry) -> Option<Shown> {
    let id = e.id?;
    let first = EntryName::new([1]).ok()?;
    let all = ending.range((id, FileId::ROOT, first)..);
    let mut own = all.take_while(|((i, ..), _)| *i == id).map(|(_, (_, s))| s);
    own.find(|s| s.role == Role::Main && (s.kind == Kind::Dir) == e.dir.is_some())
        .cloned()
}
