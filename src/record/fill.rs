//! Parts that nobody asserts any more but that must be shown (rule 6 of the merge).
//!
//! A file lives while a version or a place of it survives, a directory also while something
//! is shown in it. What is missing comes from the commit that the latest surviving dot names,
//! never from a head: which commits are heads changes when someone seals them, dots do not.

use std::collections::BTreeSet;

use crate::base::id::{FileId, Oid};
use crate::base::stamp::Stamp;
use crate::record::conflict;
use crate::record::draft::Draft;
use crate::record::model::{Content, Filled, Kind, Location, Record};
use crate::record::state::{link_list, listed};
use crate::record::{Result, model};

/// A directory may have to be looked at again when one in it moves; this often at most.
const ROUNDS_MAX: usize = 1 << 20;

impl Draft<'_> {
    /// Derives what stands in for a missing place or missing content of an asserted file.
    pub(crate) fn refill(&mut self, id: FileId) -> Result<()> {
        let Some(mut record) = self.record(id)? else {
            return Ok(());
        };
        if !record.has_dots() {
            return Ok(());
        }
        record.filled = Filled {
            links: self.count_links(id)?,
            ..Filled::default()
        };
        if record.location.is_empty() && record.filled.links == 0 {
            self.bring_to_a_place(&mut record)?;
        }
        if record.content.is_empty() {
            record.filled.content = self.content_for(&record)?;
        }
        self.set(id, Some(record))
    }

    /// A place for a file whose last name is gone: the one that its latest version had. Versions
    /// that were taken away from every place they had stay away.
    fn bring_to_a_place(&mut self, record: &mut Record) -> Result<()> {
        let mut place: Option<Location> = None;
        let mut left = Vec::new();
        for version in &record.content {
            match self.place_of(version, record.id)? {
                Before::Gone => {}
                Before::Unknown => left.push(version.clone()),
                Before::At(l) => {
                    let stays_copy = version.copy_at.contains(&l.stamp.dot());
                    let place = place.get_or_insert(Location {
                        stamp: version.stamp,
                        prev: None,
                        ..l
                    });
                    let mut version = version.clone();
                    if stays_copy {
                        version.copy_at.push(place.stamp.dot());
                        version.copy_at.sort_unstable();
                        version.copy_at.dedup();
                    }
                    left.push(version);
                }
            }
        }
        let lost = |c: &Content| at_root(record.id, c.stamp, None);
        let place = place.or_else(|| left.first().map(lost));
        record.filled.location = place.map(Box::new);
        if left.len() < record.content.len() {
            record.filled.content = left;
        }
        Ok(())
    }

    /// Where a version was when it was written, if nobody took that name away from it.
    fn place_of(&mut self, version: &Content, file: FileId) -> Result<Before> {
        let Some(state) = self.state_at(version.stamp)? else {
            return Ok(Before::Unknown);
        };
        let Some(then) = state.record(self.src, file)? else {
            return Ok(Before::Unknown);
        };
        let mut places = Vec::new();
        places.extend(then.shown_location().cloned());
        if then.filled.links > 0 {
            for link in listed(self.src, &state, link_list(file))? {
                let link = state.record(self.src, link)?;
                places.extend(link.as_ref().and_then(Record::shown_location).cloned());
            }
        }
        if places.is_empty() {
            return Ok(Before::Unknown);
        }
        let stays = |l: &Location| !version.gone_from.contains(&l.stamp.dot());
        Ok((places.into_iter().find(stays)).map_or(Before::Gone, Before::At))
    }

    fn content_for(&mut self, record: &Record) -> Result<Vec<Content>> {
        let Some(first) = record.location.first() else {
            return Ok(Vec::new());
        };
        let then = self.record_at(first.stamp, record.id)?;
        let version = then.as_ref().and_then(|r| r.shown_content().first());
        Ok(version.map(stand_in).into_iter().collect())
    }

    /// Looks at directories that nobody asserts: they live as long as something is in them.
    pub(crate) fn keep_for_children(&mut self, mut todo: BTreeSet<FileId>) -> Result<()> {
        for _ in 0..ROUNDS_MAX {
            let Some(id) = todo.pop_first() else {
                return Ok(());
            };
            if id == FileId::ROOT {
                continue;
            }
            let old = self.record(id)?;
            if old.as_ref().is_some_and(Record::has_dots) {
                continue;
            }
            let new = self.held_by_children(id, old.as_ref())?;
            if new == old {
                continue;
            }
            for r in [&old, &new].into_iter().flatten() {
                todo.extend(r.place().map(|p| p.parent));
            }
            self.set(id, new)?;
        }
        Ok(())
    }

    /// When the latest of these was put where it is.
    fn latest_of(&self, ids: &[FileId]) -> Result<Option<Stamp>> {
        let mut latest: Option<Stamp> = None;
        for id in ids {
            let record = self.record(*id)?;
            let shown = record.as_ref().and_then(Record::shown_location);
            latest = latest.max(shown.map(|l| l.stamp));
        }
        Ok(latest)
    }

    /// The record of a file that lives for its other names only: what it was when the latest of
    /// them came to be where it is. It has no place of its own.
    fn held_by_links(&mut self, id: FileId, old: Option<&Record>) -> Result<Option<Record>> {
        let links = self.links(id)?;
        let Some(stamp) = self.latest_of(&links)? else {
            return Ok(None);
        };
        let Some(then) = self.record_at(stamp, id)? else {
            return Ok(None);
        };
        let mut record = Record::new(id);
        record.fields = old.map_or_else(|| then.fields.clone(), |r| r.fields.clone());
        record
            .filled
            .content
            .extend(then.shown_content().first().map(stand_in));
        record.filled.links = u32::try_from(links.len()).unwrap_or(u32::MAX);
        Ok(Some(record))
    }

    /// The other names of a file, as they are now.
    pub(crate) fn links(&self, id: FileId) -> Result<Vec<FileId>> {
        self.children(link_list(id))
    }

    fn count_links(&self, id: FileId) -> Result<u32> {
        // If the file is new here, names of it may have been here before it.
        if !self.relinked.contains(&link_list(id))
            && let Some(base) = self.base.record(self.src, id)?
        {
            return Ok(base.filled.links);
        }
        Ok(u32::try_from(self.links(id)?.len()).unwrap_or(u32::MAX))
    }

    /// The record of a directory that lives for its children only: it is where it was when the
    /// latest of them was put into it.
    fn held_by_children(&mut self, id: FileId, old: Option<&Record>) -> Result<Option<Record>> {
        let Some(stamp) = self.latest_of(&self.children(id)?)? else {
            return self.held_by_links(id, old);
        };
        let then = self.record_at(stamp, id)?;
        let mut record = Record::new(id);
        record.fields = match (old, &then) {
            (Some(r), _) | (None, Some(r)) => r.fields.clone(),
            (None, None) => model::Fields::default(),
        };
        record.filled.content.push(Content {
            stamp,
            kind: Kind::Dir,
            blob: Oid::null(gix::hash::Kind::Sha1),
            over: Vec::new(),
            copy_at: Vec::new(),
            gone_from: Vec::new(),
        });
        let was = then.as_ref().and_then(Record::shown_location);
        let fell_back = self.fallbacks.contains_key(&id);
        record.filled.location = Some(Box::new(match was {
            Some(l) if !fell_back => Location {
                stamp,
                prev: None,
                ..l.clone()
            },
            _ => at_root(id, stamp, was),
        }));
        Ok(Some(record))
    }
}

/// Where a version was.
enum Before {
    /// It was taken away from every name that it had.
    Gone,
    /// Here.
    At(Location),
    /// No record says.
    Unknown,
}

/// A version of former times, without what was said of its places.
fn stand_in(was: &Content) -> Content {
    Content {
        copy_at: Vec::new(),
        gone_from: Vec::new(),
        ..was.clone()
    }
}

/// A place in the root directory, where what cannot be anywhere else is found.
pub(crate) fn at_root(id: FileId, stamp: Stamp, was: Option<&Location>) -> Location {
    Location {
        stamp,
        parent: FileId::ROOT,
        name: conflict::lost(id, was.map(|l| &l.name)),
        prev: None,
    }
}
