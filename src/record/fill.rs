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
            record.filled.location = self.location_for(&record)?.map(Box::new);
        }
        if record.content.is_empty() {
            record.filled.content = self.content_for(&record)?.map(Box::new);
        }
        self.set(id, Some(record))
    }

    fn location_for(&mut self, record: &Record) -> Result<Option<Location>> {
        let mut unlinked = false;
        for version in &record.content {
            let Some(state) = self.state_at(version.stamp)? else {
                continue;
            };
            let Some(then) = state.record(self.src, record.id)? else {
                continue;
            };
            let at = |parent, name| Location {
                stamp: version.stamp,
                parent,
                name,
                prev: None,
            };
            if let Some(l) = then.shown_location() {
                if !version.gone_from.contains(&l.stamp.dot()) {
                    return Ok(Some(at(l.parent, l.name.clone())));
                }
                unlinked = true;
            } else if then.filled.links > 0 {
                // It had no name of its own then, only others.
                for link in listed(self.src, &state, link_list(record.id))? {
                    let link = state.record(self.src, link)?;
                    let Some(l) = link.as_ref().and_then(Record::shown_location) else {
                        continue;
                    };
                    if !version.gone_from.contains(&l.stamp.dot()) {
                        return Ok(Some(at(l.parent, l.name.clone())));
                    }
                    unlinked = true;
                }
            }
        }
        if unlinked {
            return Ok(None);
        }
        let first = record.content.first();
        Ok(first.map(|c| at_root(record.id, c.stamp, None)))
    }

    fn content_for(&mut self, record: &Record) -> Result<Option<Content>> {
        let Some(first) = record.location.first() else {
            return Ok(None);
        };
        let then = self.record_at(first.stamp, record.id)?;
        let version = then.as_ref().and_then(|r| r.shown_content().first());
        Ok(version.map(|c| Content {
            copy_at: Vec::new(),
            gone_from: Vec::new(),
            ..c.clone()
        }))
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
        record.filled.content = then.shown_content().first().map(|c| {
            Box::new(Content {
                copy_at: Vec::new(),
                gone_from: Vec::new(),
                ..c.clone()
            })
        });
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
        record.filled.content = Some(Box::new(Content {
            stamp,
            kind: Kind::Dir,
            blob: Oid::null(gix::hash::Kind::Sha1),
            over: Vec::new(),
            copy_at: Vec::new(),
            gone_from: Vec::new(),
        }));
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

/// A place in the root directory, where what cannot be anywhere else is found.
pub(crate) fn at_root(id: FileId, stamp: Stamp, was: Option<&Location>) -> Location {
    Location {
        stamp,
        parent: FileId::ROOT,
        name: conflict::lost(id, was.map(|l| &l.name)),
        prev: None,
    }
}
