//! Directories that would be inside themselves after concurrent moves (rule 8 of the merge).
//!
//! In each cycle the directory with the latest move falls back: to its next surviving place,
//! then to where it was before its latest move, then to the root under a conflict name. It
//! starts from the latest places every time, so the outcome follows from the surviving dots
//! alone. All cycles of a round are broken at once: they have no directory in common.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::id::FileId;
use crate::record::Result;
use crate::record::draft::Draft;
use crate::record::fill::at_root;
use crate::record::model::{Location, Record};

impl Draft<'_> {
    pub(crate) fn break_cycles(&mut self) -> Result<()> {
        loop {
            let cycles = self.find_cycles()?;
            if cycles.is_empty() {
                return Ok(());
            }
            for cycle in cycles {
                if let Some(id) = self.youngest(&cycle)? {
                    self.fall_back(id)?;
                }
            }
        }
    }

    /// The cycles among the places shown now. Each has a moved directory in it.
    fn find_cycles(&self) -> Result<Vec<Vec<FileId>>> {
        let mut done: BTreeSet<FileId> = BTreeSet::new();
        let mut cycles = Vec::new();
        for start in &self.moved {
            let (mut path, round) = self.climb(*start, &done)?;
            done.extend(path.iter().copied());
            if let Some(at) = round {
                cycles.push(path.split_off(at));
            }
        }
        Ok(cycles)
    }

    /// The directories from `start` upwards, until the root or one that was looked at before;
    /// and where among them they began to repeat, if they do.
    fn climb(
        &self,
        start: FileId,
        done: &BTreeSet<FileId>,
    ) -> Result<(Vec<FileId>, Option<usize>)> {
        let mut path: Vec<FileId> = Vec::new();
        let mut index: BTreeMap<FileId, usize> = BTreeMap::new();
        let mut at = start;
        while at != FileId::ROOT && !done.contains(&at) {
            if let Some(i) = index.get(&at) {
                return Ok((path, Some(*i)));
            }
            index.insert(at, path.len());
            path.push(at);
            match self.record(at)?.and_then(|r| r.place()) {
                Some(place) => at = place.parent,
                None => break,
            }
        }
        Ok((path, None))
    }

    fn youngest(&self, cycle: &[FileId]) -> Result<Option<FileId>> {
        let mut best = None;
        for id in cycle {
            let record = self.record(*id)?;
            let shown = record.as_ref().and_then(Record::shown_location);
            best = best.max(shown.map(|l| (l.stamp, *id)));
        }
        Ok(best.map(|(_, id)| id))
    }

    fn fall_back(&mut self, id: FileId) -> Result<()> {
        let Some(mut record) = self.record(id)? else {
            return Ok(());
        };
        let times = self.fallbacks.entry(id).or_insert(0);
        *times += 1;
        let place = candidate(&record, *times);
        let mut parents: BTreeSet<FileId> = record.place().map(|p| p.parent).into_iter().collect();
        parents.extend(place.as_ref().map(|l| l.parent));
        record.filled.location = place.map(Box::new);
        self.displaced.insert(id);
        self.set(id, Some(record))?;
        self.keep_for_children(parents)
    }
}

/// The place after that many falls.
fn candidate(record: &Record, times: usize) -> Option<Location> {
    if let Some(next) = record.location.get(times) {
        return Some(next.clone());
    }
    let shown = record.shown_location()?;
    let Some(first) = record.location.first() else {
        return Some(at_root(record.id, shown.stamp, Some(shown)));
    };
    match &first.prev {
        Some((parent, name)) if times == record.location.len() => Some(Location {
            stamp: first.stamp,
            parent: *parent,
            name: name.clone(),
            prev: None,
        }),
        _ => Some(at_root(record.id, first.stamp, Some(first))),
    }
}
