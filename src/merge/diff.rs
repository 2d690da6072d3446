//! What names show differently in two states: what a cache of the one must forget to be right
//! about the other.
//!
//! Invariant: applied to a listing of the first state, the changes give the second. Directories
//! go by their canonical id. Cost follows the difference.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::id::FileId;
use crate::base::name::EntryName;
use crate::merge::shown::{self, Shown};
use crate::record::model::{Kind, Record};
use crate::record::state::{Placed, State};
use crate::record::{Result, Source, conflict, trie};

/// A name that shows something else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedName {
    /// The directory, by the id that stands for all of its.
    pub dir: FileId,
    /// The name.
    pub name: EntryName,
    /// What it showed.
    pub before: Option<Shown>,
    /// What it shows.
    pub after: Option<Shown>,
}

/// What differs between two states.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Names that show something else, by directory and name.
    pub names: Vec<ChangedName>,
    /// Directories whose own attributes were set, by canonical id in the second state.
    pub dirs: Vec<FileId>,
}

/// What differs between two states in the directories that are known: those of whose ids `known`
/// holds for one. What is in others costs no more than to see that it differs.
///
/// # Errors
/// When a state cannot be read.
pub fn diff(
    src: Source<'_>,
    a: &State,
    b: &State,
    known: &dyn Fn(FileId) -> bool,
) -> Result<Changes> {
    let mut differ = Differ {
        src,
        a,
        b,
        known,
        groups: [BTreeMap::new(), BTreeMap::new()],
        names: BTreeMap::new(),
        todo: BTreeSet::new(),
        done: BTreeSet::new(),
        out: BTreeMap::new(),
    };
    let mut own = BTreeSet::new();
    trie::visit_differing(src, &[a.ids, b.ids], &mut |id, row: &[Option<&Record>]| {
        let is_dir = |r: &Record| id == FileId::ROOT || r.kind() == Some(Kind::Dir);
        let moves_names = row.iter().flatten().any(|r| is_dir(r));
        let mut places: Vec<Placed> = row.iter().flatten().filter_map(|r| r.place()).collect();
        // What a file is shows under all its names.
        for (r, state) in row.iter().zip([a, b]) {
            if let Some(r) = r.filter(|r| r.filled.links > 0) {
                places.extend(state.places(src, r)?);
            }
        }
        for place in places {
            // Files elsewhere change no name of a directory that is known.
            if moves_names || differ.is_known(place.parent)? {
                differ.note(place.parent, place.name)?;
            }
        }
        let [before, after] = row else {
            return Ok(());
        };
        let after = after.filter(|r| is_dir(r));
        if after.is_some_and(|r| before.map(|b| &b.fields) != Some(&r.fields)) {
            own.extend(differ.group_of(B, id)?.first());
        }
        Ok(())
    })?;
    differ.run()?;
    Ok(Changes {
        names: differ.out.into_values().collect(),
        dirs: own.into_iter().collect(),
    })
}

/// All ids of a directory; none if it is not shown in the state.
fn group_of(src: Source<'_>, state: &State, dir: FileId) -> Result<Vec<FileId>> {
    let record = state.record(src, dir)?;
    if dir != FileId::ROOT && record.and_then(|r| r.place()).is_none() {
        return Ok(Vec::new());
    }
    shown::unified(src, state, dir)
}

/// The two states of a [`Differ`].
const A: usize = 0;
const B: usize = 1;

struct Differ<'a> {
    src: Source<'a>,
    a: &'a State,
    b: &'a State,
    known: &'a dyn Fn(FileId) -> bool,
    /// Groups of directories in both states, as far as they were asked for.
    groups: [BTreeMap<FileId, Vec<FileId>>; 2],
    /// Names at which files were or are whose records differ, by canonical directory.
    names: BTreeMap<FileId, BTreeSet<EntryName>>,
    todo: BTreeSet<FileId>,
    done: BTreeSet<FileId>,
    out: BTreeMap<(FileId, EntryName), ChangedName>,
}

impl Differ<'_> {
    fn group_of(&mut self, state: usize, dir: FileId) -> Result<Vec<FileId>> {
        if let Some(group) = self.groups.get(state).and_then(|g| g.get(&dir)) {
            return Ok(group.clone());
        }
        let group = group_of(self.src, if state == A { self.a } else { self.b }, dir)?;
        if let Some(groups) = self.groups.get_mut(state) {
            groups.insert(dir, group.clone());
        }
        Ok(group)
    }

    /// Whether a directory is known by any id that it has or had.
    fn is_known(&mut self, dir: FileId) -> Result<bool> {
        let (before, after) = (self.group_of(A, dir)?, self.group_of(B, dir)?);
        Ok(before.iter().chain(&after).any(|d| (self.known)(*d)))
    }

    /// Notes a name of a directory, under all ids that stand or stood for it.
    fn note(&mut self, dir: FileId, name: EntryName) -> Result<()> {
        for state in [A, B] {
            if let Some(first) = self.group_of(state, dir)?.first() {
                self.names.entry(*first).or_default().insert(name.clone());
                self.todo.insert(*first);
            }
        }
        Ok(())
    }

    fn run(&mut self) -> Result<()> {
        while let Some(dir) = self.todo.pop_first() {
            if self.done.insert(dir) {
                self.compare(dir)?;
            }
        }
        Ok(())
    }

    fn compare(&mut self, dir: FileId) -> Result<()> {
        let stands = |group: Vec<FileId>| {
            if group.first() == Some(&dir) {
                group
            } else {
                Vec::new()
            }
        };
        let before = stands(self.group_of(A, dir)?);
        let after = stands(self.group_of(B, dir)?);
        let names = self.names.remove(&dir).unwrap_or_default();
        let simple = !names
            .iter()
            .any(|n| conflict::parse(n).is_some() || conflict::may_be_cut(n));
        let (mut old, mut new) = (Vec::new(), Vec::new());
        if before == after && simple {
            for name in &names {
                old.extend(shown::group(self.src, self.a, &before, name)?);
                new.extend(shown::group(self.src, self.b, &after, name)?);
            }
        } else {
            old = shown::list(self.src, self.a, &before)?;
            new = shown::list(self.src, self.b, &after)?;
        }
        self.look_below(&old, B)?;
        self.look_below(&new, A)?;
        if !before.iter().chain(&after).any(|d| (self.known)(*d)) {
            return Ok(());
        }
        let mut pairs: BTreeMap<EntryName, (Option<Shown>, Option<Shown>)> = BTreeMap::new();
        for s in old {
            let name = s.name.clone();
            pairs.entry(name).or_default().0 = Some(s);
        }
        for s in new {
            let name = s.name.clone();
            pairs.entry(name).or_default().1 = Some(s);
        }
        for (name, (before, after)) in pairs {
            if before != after {
                let changed = ChangedName {
                    dir,
                    name: name.clone(),
                    before,
                    after,
                };
                self.out.insert((dir, name), changed);
            }
        }
        Ok(())
    }

    /// Directories that have other ids in the other state show other names, whoever changed.
    fn look_below(&mut self, shown: &[Shown], other: usize) -> Result<()> {
        for s in shown.iter().filter(|s| s.kind == Kind::Dir) {
            for dir in &s.dirs {
                let there = self.group_of(other, *dir)?;
                // What is below one that is in one state only and not known is not known, or
                // was moved and is looked at for that.
                let matters = !there.is_empty() || s.dirs.iter().any(|d| (self.known)(*d));
                if there != s.dirs && matters {
                    self.todo.extend(s.dirs.first());
                    self.todo.extend(there.first());
                }
            }
        }
        Ok(())
    }
}
