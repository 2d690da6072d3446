//! Where files are and what is said of them there, for rules that go by path.
//!
//! Invariant: what is answered follows from the view. Threads: any.

use std::collections::HashMap;
use std::sync::Arc;

use super::view::View;
use super::{Volume, VolumeResult};
use crate::base::id::{FileId, Oid};
use crate::driver::BYTES_MAX;
use crate::driver::attributes::{self, Attributes, FILE_NAME};
use crate::record::git_tree;
use crate::record::model::Kind;
use crate::store::objects::{ObjectKind, Objects};

/// Deeper files have no path.
const DEPTH_MAX: usize = 4096;

/// Answers about files of one view; directories that were met are kept in mind.
pub struct Places<'a> {
    volume: &'a Volume,
    view: &'a View,
    dirs: HashMap<FileId, Option<Arc<Vec<u8>>>>,
    files: HashMap<Vec<u8>, Option<Arc<Vec<u8>>>>,
}

impl std::fmt::Debug for Places<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Places").finish_non_exhaustive()
    }
}

impl<'a> Places<'a> {
    /// Answers about this view.
    #[must_use]
    pub fn new(volume: &'a Volume, view: &'a View) -> Self {
        Self {
            volume,
            view,
            dirs: HashMap::from([(FileId::ROOT, Some(Arc::default()))]),
            files: HashMap::new(),
        }
    }

    /// The path of a file from the root, without a slash at the front; none if it has no name.
    ///
    /// # Errors
    /// As the store.
    pub fn path(&mut self, id: FileId) -> VolumeResult<Option<Arc<Vec<u8>>>> {
        let src = self.volume.source(self.view);
        let mut below = Vec::new();
        let mut at = id;
        let mut path = loop {
            if let Some(known) = self.dirs.get(&at) {
                break known.clone();
            }
            let place = self.view.state.record(src, at)?.and_then(|r| r.place());
            let Some(place) = place.filter(|_| below.len() < DEPTH_MAX) else {
                break None;
            };
            below.push((at, place.name));
            at = place.parent;
        };
        while let Some((id, name)) = below.pop() {
            path = path.map(|p| {
                let mut longer = p.as_ref().clone();
                if !longer.is_empty() {
                    longer.push(b'/');
                }
                longer.extend_from_slice(name.as_bytes());
                Arc::new(longer)
            });
            if !below.is_empty() {
                self.dirs.insert(id, path.clone());
            }
        }
        Ok(path)
    }

    /// The value of an attribute that `.gitattributes` files set for a path.
    ///
    /// # Errors
    /// As the store.
    pub fn attribute(&mut self, path: &[u8], name: &str) -> VolumeResult<Option<String>> {
        let mut files: Vec<Attributes> = Vec::new();
        let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/');
        let dirs = std::iter::once(0).chain(ends.map(|(n, _)| n));
        for end in dirs {
            let dir = path.get(..end).unwrap_or_default();
            let found = match self.files.get(dir) {
                Some(known) => known.clone(),
                None => {
                    let found = attributes_in(&*self.view.stage, &self.view.tree, dir)?;
                    self.files.insert(dir.to_vec(), found.clone());
                    found
                }
            };
            if let Some(bytes) = found {
                files.push((dir.to_vec(), bytes.as_ref().clone()));
            }
        }
        Ok(attributes::value(&files, path, name))
    }
}

/// What the `.gitattributes` of a directory says, if it shows one.
pub(super) fn attributes_in(
    objs: &dyn Objects,
    root: &Oid,
    dir: &[u8],
) -> VolumeResult<Option<Arc<Vec<u8>>>> {
    let mut tree = *root;
    for name in dir.split(|b| *b == b'/').filter(|n| !n.is_empty()) {
        match git_tree::find(objs, &tree, name)? {
            Some(e) if e.is_tree() => tree = e.id,
            _ => return Ok(None),
        }
    }
    let found = git_tree::find(objs, &tree, FILE_NAME.as_bytes())?;
    let Some(e) = found.filter(|e| !e.is_tree()) else {
        return Ok(None);
    };
    let bytes = objs.get(&e.id, ObjectKind::Blob)?;
    Ok(Some(bytes).filter(|b| b.len() <= BYTES_MAX))
}

/// A large file at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The file.
    pub id: FileId,
    /// From the root, without a slash at the front.
    pub path: Vec<u8>,
    /// The head of its manifest, of the version that is shown.
    pub head: Oid,
    /// Those of all its versions.
    pub heads: Vec<Oid>,
}

impl Volume {
    /// The large files of the view at a path or below it, by path. Looks at all of the volume's
    /// files. No slash at either end of the path; all files for none.
    ///
    /// # Errors
    /// As the store.
    pub fn large_below(&self, view: &View, path: &[u8]) -> VolumeResult<Vec<Placed>> {
        let mut files = Vec::new();
        self.visit_news(None, view, &mut |id, row| {
            let record = row.last().copied().flatten();
            let heads = super::large::large_of(record);
            let shown = record.and_then(crate::record::model::Record::kind);
            if let (Some(Kind::Large), Some(head)) = (shown, heads.first().copied()) {
                files.push((id, head, heads));
            }
        })?;
        let mut places = Places::new(self, view);
        let mut out = Vec::new();
        for (id, head, heads) in files {
            if let Some(p) = places.path(id)?
                && is_below(&p, path)
            {
                let path = p.as_ref().clone();
                out.push(Placed {
                    id,
                    path,
                    head,
                    heads,
                });
            }
        }
        out.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(out)
    }
}

/// Whether a path is another one or below it; all are below none.
#[must_use]
pub fn is_below(path: &[u8], above: &[u8]) -> bool {
    above.is_empty()
        || path
            .strip_prefix(above)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

#[cfg(test)]
mod tests {
    use super::is_below;

    #[test]
    fn what_is_below_a_path() {
        for (path, above, is) in [
            ("a/b", "a", true),
            ("a", "a", true),
            ("ab", "a", false),
            ("a", "a/b", false),
            ("a", "", true),
        ] {
            assert_eq!(
                is_below(path.as_bytes(), above.as_bytes()),
                is,
                "{path} {above}"
            );
        }
    }
}
