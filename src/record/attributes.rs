//! The merge driver of a file (rule 15 of the merge): by its path, from the `.gitattributes`
//! files that the draft itself shows.
//!
//! Those files are merged before all others, as text whatever they say themselves. A file's own
//! record does not tell when its driver changes; [`Draft::settle`] looks at all files of several
//! versions when it may have.

use std::sync::Arc;

use crate::base::id::FileId;
use crate::base::name::EntryName;
use crate::base::stamp::Stamp;
use crate::driver::attributes::{self, FILE_NAME};
use crate::driver::{BYTES_MAX, Driver};
use crate::record::Result;
use crate::record::draft::Draft;
use crate::record::model::{Kind, Record};
use crate::record::state::Placed;
use crate::store::objects::ObjectKind;

/// Deeper files go by the default driver.
const DEPTH_MAX: usize = 4096;

/// Whether a file at this place names drivers.
pub fn names_drivers(place: &Placed) -> bool {
    place.name.as_bytes() == FILE_NAME.as_bytes()
}

impl Draft<'_> {
    /// The driver for the place where the record is shown.
    pub(crate) fn driver_of(&mut self, record: &Record) -> Result<Driver> {
        let Some(place) = record.place().filter(|p| !names_drivers(p)) else {
            return Ok(Driver::default());
        };
        let mut names = vec![place.name];
        let mut at = place.parent;
        while at != FileId::ROOT {
            let above = self.record(at)?.and_then(|r| r.place());
            let Some(above) = above.filter(|_| names.len() < DEPTH_MAX) else {
                return Ok(Driver::default());
            };
            names.push(above.name);
            at = above.parent;
        }
        names.reverse();
        let mut files = Vec::new();
        let mut dirs = vec![FileId::ROOT];
        let mut path: Vec<u8> = Vec::new();
        for name in &names {
            if let Some(bytes) = self.attributes_in(&dirs)? {
                files.push((path.clone(), bytes.to_vec()));
            }
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend(name.as_bytes());
            dirs = self.dirs_at(&dirs, name)?;
        }
        Ok(attributes::driver(&files, &path))
    }

    /// The files at a name of directories that are one.
    fn placed_at(&self, dirs: &[FileId], name: &EntryName) -> Result<Vec<Record>> {
        let mut out = Vec::new();
        for dir in dirs {
            for id in self.placed(*dir, name)? {
                out.extend(self.record(id)?);
            }
        }
        Ok(out)
    }

    fn dirs_at(&self, dirs: &[FileId], name: &EntryName) -> Result<Vec<FileId>> {
        let all = self.placed_at(dirs, name)?;
        let dirs = all.iter().filter(|r| r.kind() == Some(Kind::Dir));
        let mut ids: Vec<FileId> = dirs.map(|r| r.id).collect();
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// What the `.gitattributes` of a directory says, if it shows one.
    fn attributes_in(&mut self, dirs: &[FileId]) -> Result<Option<Arc<Vec<u8>>>> {
        if let Some(known) = self.attributes.get(dirs) {
            return Ok(known.clone());
        }
        let Ok(name) = EntryName::new(FILE_NAME) else {
            return Ok(None);
        };
        let all = self.placed_at(dirs, &name)?;
        let mut bytes = None;
        if all.iter().all(|r| r.kind() != Some(Kind::Dir)) {
            let best = all.iter().filter_map(latest).max();
            if let Some((_, _, _, Kind::File, blob)) = best {
                let read = self.src.objs.get(&blob, ObjectKind::Blob)?;
                bytes = Some(read).filter(|b| b.len() <= BYTES_MAX);
            }
        }
        self.attributes.insert(dirs.to_vec(), bytes.clone());
        Ok(bytes)
    }
}

type Ranked = (Stamp, Stamp, FileId, Kind, crate::base::id::Oid);

/// The version of a file that comes first among those which may take the plain name.
fn latest(record: &Record) -> Option<Ranked> {
    let place = record.shown_location()?;
    let text = record.filled.text.as_ref();
    let free = record.shown_content().iter();
    let free = free.filter(|c| !c.copy_at.contains(&place.stamp.dot()));
    free.map(|c| {
        let merged = text.filter(|t| t.versions.contains(&c.stamp.dot()));
        let blob = merged.map_or(c.blob, |t| t.blob);
        (c.stamp.max(place.stamp), c.stamp, record.id, c.kind, blob)
    })
    .max()
}
