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
use crate::record::state::State;
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

/// What differs between two states.
///
/// # Errors
/// When a state cannot be read.
pub fn diff(src: Source<'_>, a: &State, b: &State) -> Result<Changes> {
    let mut differ = Differ {
        src,
        a,
        b,
        names: BTreeMap::new(),
        todo: BTreeSet::new(),
        done: BTreeSet::new(),
        out: BTreeMap::new(),
    };
    let mut own = BTreeSet::new();
    for (id, row) in trie::differing::<Record>(src, &[a.ids, b.ids])? {
        for place in row.iter().flatten().filter_map(Record::place) {
            differ.note(place.parent, place.name)?;
        }
        let [before, after] = row.as_slice() else {
            continue;
        };
        let is_dir = |r: &Record| id == FileId::ROOT || r.kind() == Some(Kind::Dir);
        let after = after.as_ref().filter(|r| is_dir(r));
        if after.is_some_and(|r| before.as_ref().map(|b| &b.fields) != Some(&r.fields)) {
            own.extend(group_of(src, b, id)?.first());
        }
    }
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

struct Differ<'a> {
    src: Source<'a>,
    a: &'a State,
    b: &'a State,
    /// Names at which files were or are whose records differ, by canonical directory.
    names: BTreeMap<FileId, BTreeSet<EntryName>>,
    todo: BTreeSet<FileId>,
    done: BTreeSet<FileId>,
    out: BTreeMap<(FileId, EntryName), ChangedName>,
}

impl Differ<'_> {
    /// Notes a name of a directory, under all ids that stand or stood for it.
    fn note(&mut self, dir: FileId, name: EntryName) -> Result<()> {
        for state in [self.a, self.b] {
            if let Some(first) = group_of(self.src, state, dir)?.first() {
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
        let before = stands(group_of(self.src, self.a, dir)?);
        let after = stands(group_of(self.src, self.b, dir)?);
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
        self.look_below(&old, self.b)?;
        self.look_below(&new, self.a)?;
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
    fn look_below(&mut self, shown: &[Shown], other: &State) -> Result<()> {
        for s in shown.iter().filter(|s| s.kind == Kind::Dir) {
            for dir in &s.dirs {
                let there = group_of(self.src, other, *dir)?;
                if there != s.dirs {
                    self.todo.extend(s.dirs.first());
                    self.todo.extend(there.first());
                }
            }
        }
        Ok(())
    }
}
