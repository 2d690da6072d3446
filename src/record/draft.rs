//! A state while it is being changed: a base and what differs from it.
//!
//! Whoever merges or applies changes sets the asserted parts of records here; [`Draft::settle`]
//! then derives the rest (what stands in for missing parts, which directories live for their
//! children, who must fall back so that no directory is inside itself), and [`Draft::finish`]
//! writes the tries. Invariant: what is derived is a function of the asserted parts of all
//! records, not of the base; the base only saves the work for what did not change.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::base::id::{FileId, Oid};
use crate::base::name::EntryName;
use crate::base::stamp::{Dot, Stamp};
use crate::record::attributes::names_drivers;
use crate::record::model::{Kind, Record};
use crate::record::refs::{self, Refs};
use crate::record::state::{CONTESTED, DISPLACED, Placed, State, listed};
use crate::record::trie::{self, Edit};
use crate::record::{Result, Source, commit};

/// Finds the record commit that a dot names: fills look into the states of the past.
pub trait Dots {
    /// The record commit, or `None` when there is no record of that commit here.
    ///
    /// # Errors
    /// When the store fails.
    fn record_commit(&self, dot: Dot) -> Result<Option<Oid>>;
}

/// No commits at all: enough for a state that is the first of its volume.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoDots;

impl Dots for NoDots {
    fn record_commit(&self, _: Dot) -> Result<Option<Oid>> {
        Ok(None)
    }
}

/// See the module.
pub struct Draft<'a> {
    pub(crate) src: Source<'a>,
    dots: &'a dyn Dots,
    pub(crate) base: State,
    /// The commit being made: for its own dots the base stands in for the commit's state.
    own: Option<Dot>,
    records: BTreeMap<FileId, Option<Record>>,
    added: BTreeMap<FileId, BTreeSet<(EntryName, FileId)>>,
    removed: BTreeMap<FileId, BTreeSet<(EntryName, FileId)>>,
    displaced_before: BTreeSet<FileId>,
    pub(crate) displaced: BTreeSet<FileId>,
    /// Directories whose place changed: every new cycle has one of them in it.
    pub(crate) moved: BTreeSet<FileId>,
    /// Lists of other names that changed.
    pub(crate) relinked: BTreeSet<FileId>,
    /// How often each directory had to fall back.
    pub(crate) fallbacks: BTreeMap<FileId, usize>,
    states: HashMap<Dot, Option<State>>,
    /// What `.gitattributes` say, by the ids of their directory, once they are merged.
    pub(crate) attributes: HashMap<Vec<FileId>, Option<Arc<Vec<u8>>>>,
    refs: Option<Refs>,
}

impl std::fmt::Debug for Draft<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Draft")
            .field("base", &self.base)
            .field("records", &self.records)
            .finish_non_exhaustive()
    }
}

impl<'a> Draft<'a> {
    /// A draft that starts as `base`. `own` is the commit that is being made, if one is.
    ///
    /// # Errors
    /// When the base cannot be read.
    pub fn new(src: Source<'a>, dots: &'a dyn Dots, base: State, own: Option<Dot>) -> Result<Self> {
        let before: BTreeSet<FileId> = listed(src, &base, DISPLACED)?.into_iter().collect();
        Ok(Self {
            src,
            dots,
            base,
            own,
            records: BTreeMap::new(),
            added: BTreeMap::new(),
            removed: BTreeMap::new(),
            displaced: before.clone(),
            displaced_before: before,
            moved: BTreeSet::new(),
            relinked: BTreeSet::new(),
            fallbacks: BTreeMap::new(),
            states: HashMap::new(),
            attributes: HashMap::new(),
            refs: None,
        })
    }

    /// The record of a file as it is now.
    ///
    /// # Errors
    /// When the base cannot be read.
    pub fn record(&self, id: FileId) -> Result<Option<Record>> {
        match self.records.get(&id) {
            Some(r) => Ok(r.clone()),
            None => self.base.record(self.src, id),
        }
    }

    /// The record, or an empty one.
    ///
    /// # Errors
    /// When the base cannot be read.
    pub fn record_or_new(&self, id: FileId) -> Result<Record> {
        Ok(self.record(id)?.unwrap_or_else(|| Record::new(id)))
    }

    /// All files whose records were set.
    pub(crate) fn changed_ids(&self) -> Vec<FileId> {
        self.records.keys().copied().collect()
    }

    /// Where the file is in the base.
    pub(crate) fn base_place(&self, id: FileId) -> Result<Option<Placed>> {
        Ok(self.base.record(self.src, id)?.and_then(|r| r.place()))
    }

    /// Replaces the record of a file; its parts are brought into order.
    ///
    /// # Errors
    /// When the base cannot be read.
    pub fn set(&mut self, id: FileId, record: Option<Record>) -> Result<()> {
        let old = self.record(id)?;
        let record = record.map(|mut r| {
            r.content.sort_by_key(|c| Reverse(c.stamp));
            r.content.dedup_by(|a, b| a.stamp == b.stamp);
            r.location.sort_by_key(|l| Reverse(l.stamp));
            r.location.dedup_by(|a, b| a.stamp == b.stamp);
            r
        });
        let (from, to) = (
            old.as_ref().and_then(Record::place),
            record.as_ref().and_then(Record::place),
        );
        if from != to {
            if let Some(p) = from {
                toggle(&mut self.removed, &mut self.added, p);
            }
            if let Some(p) = to {
                if record.as_ref().and_then(Record::kind) == Some(Kind::Dir) {
                    self.moved.insert(id);
                }
                toggle(&mut self.added, &mut self.removed, p);
            }
        }
        let other_name = |r: &Option<Record>| r.as_ref().and_then(Record::link_entry);
        let (was_of, is_of) = (other_name(&old), other_name(&record));
        if was_of != is_of {
            if let Some(p) = was_of {
                self.relinked.insert(p.parent);
                toggle(&mut self.removed, &mut self.added, p);
            }
            if let Some(p) = is_of {
                self.relinked.insert(p.parent);
                toggle(&mut self.added, &mut self.removed, p);
            }
        }
        let contested = |r: &Option<Record>| r.as_ref().is_some_and(Record::is_contested);
        match (contested(&old), contested(&record)) {
            (false, true) => toggle(&mut self.added, &mut self.removed, mark(CONTESTED, id)),
            (true, false) => toggle(&mut self.removed, &mut self.added, mark(CONTESTED, id)),
            _ => {}
        }
        self.records.insert(id, record);
        Ok(())
    }

    /// The files that are at exactly this name now.
    pub(crate) fn placed(&self, dir: FileId, name: &EntryName) -> Result<Vec<FileId>> {
        let gone = self.removed.get(&dir);
        let is_gone = |id: &FileId| gone.is_some_and(|g| g.contains(&(name.clone(), *id)));
        let mut out = self.base.placed(self.src, dir, name)?;
        out.retain(|id| !is_gone(id));
        let new = self.added.get(&dir).into_iter().flatten();
        out.extend(new.filter(|(n, _)| n == name).map(|(_, id)| *id));
        Ok(out)
    }

    /// The files that are shown in a directory now.
    ///
    /// # Errors
    /// When the base cannot be read.
    pub fn children(&self, dir: FileId) -> Result<Vec<FileId>> {
        let gone = self.removed.get(&dir);
        let mut out: Vec<FileId> = self
            .base
            .placed_in(self.src, dir)?
            .into_iter()
            .filter(|p| !gone.is_some_and(|g| g.contains(p)))
            .map(|(_, id)| id)
            .collect();
        out.extend(self.added.get(&dir).into_iter().flatten().map(|(_, id)| id));
        Ok(out)
    }

    /// The state at the commit that a stamp names, or `None` when it is not known here.
    pub(crate) fn state_at(&mut self, stamp: Stamp) -> Result<Option<State>> {
        let dot = stamp.dot();
        if self.own == Some(dot) {
            return Ok(Some(self.base));
        }
        if let Some(known) = self.states.get(&dot) {
            return Ok(*known);
        }
        let state = match self.dots.record_commit(dot)? {
            Some(id) => Some(commit::state_of(self.src.objs, &id)?),
            None => None,
        };
        self.states.insert(dot, state);
        Ok(state)
    }

    /// The record of a file at the commit that a stamp names.
    pub(crate) fn record_at(&mut self, stamp: Stamp, id: FileId) -> Result<Option<Record>> {
        match self.state_at(stamp)? {
            Some(state) => state.record(self.src, id),
            None => Ok(None),
        }
    }

    /// The refs as they are now, to be changed.
    ///
    /// # Errors
    /// When the base cannot be read.
    pub fn refs_mut(&mut self) -> Result<&mut Refs> {
        let refs = match self.refs.take() {
            Some(refs) => refs,
            None => self.base.refs(self.src)?,
        };
        Ok(self.refs.insert(refs))
    }

    /// Derives all that is not asserted; see the module.
    ///
    /// # Errors
    /// When a state cannot be read.
    pub fn settle(&mut self) -> Result<()> {
        let mut ids = self.changed_ids();
        ids.extend(std::mem::take(&mut self.displaced));
        ids.sort_unstable();
        ids.dedup();
        // Other names first: whether a file has a place of its own may hang on them.
        let mut rest = BTreeSet::new();
        for id in ids {
            let now = self.record(id)?;
            // What only stands in may tell that it is another name.
            if now.is_some_and(|r| r.content.is_empty() && r.has_dots()) {
                self.refill(id)?;
            }
            let target = self.record(id)?.and_then(|r| r.kind()?.target());
            let was = self
                .base
                .record(self.src, id)?
                .and_then(|r| r.kind()?.target());
            if target.is_some() || was.is_some() {
                self.refill(id)?;
                rest.extend(target.into_iter().chain(was));
            }
            rest.insert(id);
        }
        let ids: Vec<FileId> = rest.into_iter().collect();
        let mut without: BTreeSet<FileId> = BTreeSet::new();
        for id in &ids {
            self.refill(*id)?;
            without.extend(self.base_place(*id)?.map(|p| p.parent));
            let now = self.record(*id)?;
            if !now.as_ref().is_some_and(Record::has_dots) {
                without.insert(*id);
            }
            without.extend(now.and_then(|r| r.place()).map(|p| p.parent));
        }
        self.keep_for_children(without)?;
        self.break_cycles()?;
        self.merge_texts(ids)
    }

    /// Merges what has several versions: first what tells how the others are merged. Other
    /// files than those that changed are looked at if their drivers may be others now.
    fn merge_texts(&mut self, ids: Vec<FileId>) -> Result<()> {
        let mut paths_changed = !self.moved.is_empty();
        let mut todo: BTreeSet<FileId> = BTreeSet::new();
        for id in ids {
            let now = self.record(id)?.and_then(|r| r.place());
            let is_first = now.as_ref().is_some_and(names_drivers);
            if is_first {
                self.merge_text(id)?;
            } else {
                todo.insert(id);
            }
            paths_changed |= is_first || self.base_place(id)?.as_ref().is_some_and(names_drivers);
        }
        if paths_changed {
            todo.extend(self.children(CONTESTED)?);
        }
        for id in todo {
            self.merge_text(id)?;
        }
        Ok(())
    }

    /// Writes what changed and returns the new state.
    ///
    /// # Errors
    /// When the store fails.
    pub fn finish(self) -> Result<State> {
        let src = self.src;
        let records = self.records.into_iter().map(|(id, r)| match r {
            Some(r) if r.has_dots() || r.is_shown() || id == FileId::ROOT => Edit::Put(r),
            _ => Edit::Remove(id),
        });
        let ids = trie::edit(src, self.base.ids, records)?;
        let mut places: Vec<Edit<Placed>> = Vec::new();
        let placed = |parent, (name, id)| Placed { parent, name, id };
        for (parent, gone) in self.removed {
            places.extend(gone.into_iter().map(|p| Edit::Remove(placed(parent, p))));
        }
        for (parent, new) in self.added {
            places.extend(new.into_iter().map(|p| Edit::Put(placed(parent, p))));
        }
        let (before, now) = (&self.displaced_before, &self.displaced);
        places.extend(
            before
                .difference(now)
                .map(|id| Edit::Remove(mark(DISPLACED, *id))),
        );
        places.extend(
            now.difference(before)
                .map(|id| Edit::Put(mark(DISPLACED, *id))),
        );
        let names = trie::edit(src, self.base.names, places)?;
        let refs = match &self.refs {
            Some(r) => refs::put(src.objs, r)?,
            None => self.base.refs,
        };
        Ok(State { ids, names, refs })
    }
}

/// A file's entry in a list of state.
pub(crate) fn mark(list: FileId, id: FileId) -> Placed {
    let name = EntryName::new(format!("{:032x}", id.as_u128()));
    Placed {
        parent: list,
        name: name.unwrap_or_else(|_| unreachable!("digits are a name")),
        id,
    }
}

type Places = BTreeMap<FileId, BTreeSet<(EntryName, FileId)>>;

/// Undoes the opposite, or else notes the place.
fn toggle(note: &mut Places, opposite: &mut Places, place: Placed) {
    let pair = (place.name, place.id);
    let undone = opposite
        .get_mut(&place.parent)
        .is_some_and(|set| set.remove(&pair));
    if !undone {
        note.entry(place.parent).or_default().insert(pair);
    }
}
