//! From which length on a file is cut into pieces, where `.gitattributes` says so of its path.
//!
//! `filter=lfs` means every file that has bytes, `large=SIZE` those above that; of others the
//! volume's own threshold holds. Invariant: what is answered follows from the view below the commit
//! and its changes, so a commit that is made again after a crash is the same. Threads: the volume's.

use std::collections::HashMap;

use super::VolumeResult;
use super::place::attributes_in;
use super::view::View;
use crate::base::id::FileId;
use crate::base::limit::FILE_BYTES_MAX;
use crate::base::name::EntryName;
use crate::base::size;
use crate::driver::attributes::{self, Attributes};
use crate::record::Source;
use crate::record::change::Change;

/// Deeper files go by the volume's threshold.
const DEPTH_MAX: usize = 4096;

type Place = (FileId, EntryName);

/// Answers for the files of one commit.
pub(super) struct Thresholds<'a> {
    src: Source<'a>,
    base: &'a View,
    /// Where the commit puts files.
    places: HashMap<FileId, Place>,
    files: HashMap<Vec<u8>, Option<Vec<u8>>>,
}

impl<'a> Thresholds<'a> {
    pub(super) fn new(src: Source<'a>, base: &'a View, changes: &[Change]) -> Self {
        let mut places = HashMap::new();
        for c in changes {
            if let Change::Born {
                id, parent, name, ..
            }
            | Change::Move {
                id, parent, name, ..
            } = c
            {
                places.insert(*id, (*parent, name.clone()));
            }
        }
        Self {
            src,
            base,
            places,
            files: HashMap::new(),
        }
    }

    /// The most bytes that a file may have and be one object of git; none if nothing is said.
    pub(super) fn of(&mut self, id: FileId) -> VolumeResult<Option<u64>> {
        let Some(names) = self.names(id)? else {
            return Ok(None);
        };
        let mut files: Vec<Attributes> = Vec::new();
        let mut path = Vec::new();
        for name in &names {
            if let Some(bytes) = self.said_in(&path)? {
                files.push((path.clone(), bytes));
            }
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name.as_bytes());
        }
        if files.is_empty() {
            return Ok(None);
        }
        if attributes::value(&files, &path, "filter").as_deref() == Some("lfs") {
            return Ok(Some(0));
        }
        let said = attributes::value(&files, &path, "large");
        let said = said.and_then(|text| size::parse(&text).ok());
        Ok(said.map(|bytes| bytes.min(FILE_BYTES_MAX)))
    }

    fn place(&self, id: FileId) -> VolumeResult<Option<Place>> {
        if let Some(place) = self.places.get(&id) {
            return Ok(Some(place.clone()));
        }
        let record = self.base.state.record(self.src, id)?;
        let place = record.and_then(|r| r.place());
        Ok(place.map(|p| (p.parent, p.name)))
    }

    fn names(&self, id: FileId) -> VolumeResult<Option<Vec<EntryName>>> {
        let mut names = Vec::new();
        let mut at = id;
        while at != FileId::ROOT {
            let place = self.place(at)?.filter(|_| names.len() < DEPTH_MAX);
            let Some((above, name)) = place else {
                return Ok(None);
            };
            names.push(name);
            at = above;
        }
        names.reverse();
        Ok(Some(names))
    }

    /// The attributes of a directory, if they may be about this.
    fn said_in(&mut self, dir: &[u8]) -> VolumeResult<Option<Vec<u8>>> {
        if let Some(known) = self.files.get(dir) {
            return Ok(known.clone());
        }
        let found = attributes_in(&*self.base.stage, &self.base.tree, dir)?;
        let has = |bytes: &[u8], word: &[u8]| bytes.windows(word.len()).any(|w| w == word);
        let found = found.filter(|b| has(b, b"large") || has(b, b"filter"));
        let found = found.map(|b| b.as_ref().clone());
        self.files.insert(dir.to_vec(), found.clone());
        Ok(found)
    }
}
