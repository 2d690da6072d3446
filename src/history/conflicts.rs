//! Conflict copies: which there are, of what, and whose.
//!
//! One pass over both tries finds the names that may have copies: files with several versions,
//! versions that someone marked, names with several files. Only those are looked at by name, and
//! the directories that are one of several, whose names may clash across them. What was found is
//! kept until the state is another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

use serde::Serialize;

use super::{History, Now, Result};
use crate::base::id::FileId;
use crate::base::name::EntryName;
use crate::base::path::VolumePath;
use crate::base::stamp::{Dot, Stamp};
use crate::merge::shown::{self, Role, Shown};
use crate::record::Source;
use crate::record::model::{Kind, Record};
use crate::record::state::{Placed, State};
use crate::record::trie::{self, key::Key};

/// A name that several versions claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Conflict {
    /// Its path.
    pub path: VolumePath,
    /// The version that has it; none when someone took the name away.
    pub main: Option<Version>,
    /// The others, as copies beside it.
    pub copies: Vec<Version>,
}

/// One version of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Version {
    /// Where its bytes are.
    pub path: VolumePath,
    /// `file`, `link` or `directory`.
    pub kind: &'static str,
    /// Who wrote it; empty if that is not known.
    pub node: String,
    /// That node's name then; empty if the commit does not tell.
    pub name: String,
    /// When it was written, in seconds since 1970.
    pub time: i64,
    /// Bytes.
    pub size: u64,
}

/// What a kind is called in answers.
pub(super) fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Dir => "directory",
        Kind::File | Kind::Large => "file",
        Kind::Symlink => "link",
        Kind::Gitlink => "submodule",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
        Kind::CharDevice(_) => "character device",
        Kind::BlockDevice(_) => "block device",
        Kind::Link(_) => "hard link",
    }
}

/// A path, by the way up from a directory to the root.
pub(super) fn path_of(src: Source<'_>, state: &State, dir: FileId) -> Result<VolumePath> {
    let mut names = Vec::new();
    let mut at = dir;
    let mut met = BTreeSet::new();
    while at != FileId::ROOT && met.insert(at) {
        let Some(place) = state.record(src, at)?.and_then(|r| r.place()) else {
            break;
        };
        names.push(place.name);
        at = place.parent;
    }
    names.reverse();
    Ok(VolumePath::of(&names))
}

/// A name, by all ids of its directory.
type Name = (Vec<FileId>, EntryName);

/// The names that copies may belong to.
fn candidates(src: Source<'_>, state: &State) -> Result<BTreeSet<Name>> {
    let all = Key::of_id(FileId::ROOT);
    let mut found: BTreeSet<(FileId, EntryName)> = BTreeSet::new();
    trie::visit::<Record>(src, state.ids, &all, 0, &mut |r| {
        let Some(place) = r.shown_location() else {
            return;
        };
        let at = place.stamp.dot();
        let marked = |c: &crate::record::model::Content| c.copy_at.contains(&at);
        let content = r.shown_content();
        if r.kind() != Some(Kind::Dir) && (content.len() > 1 || content.iter().any(marked)) {
            found.insert((place.parent, place.name.clone()));
        }
    })?;
    let mut last: Option<Placed> = None;
    trie::visit::<Placed>(src, state.names, &all, 0, &mut |p| {
        let same = |l: &Placed| l.parent == p.parent && l.name == p.name;
        if last.as_ref().is_some_and(same) {
            found.insert((p.parent, p.name.clone()));
        }
        last = Some(p.clone());
    })?;
    let mut out = BTreeSet::new();
    let mut unified = Vec::new();
    for (parent, name) in found {
        let dirs = shown::unified(src, state, parent)?;
        let here = shown::dirs_at(src, state, &dirs, &name)?;
        if here.len() > 1 {
            unified.push(here);
        }
        out.insert((dirs, name));
    }
    // Names of a directory that is several lie in different places of the trie.
    while let Some(dirs) = unified.pop() {
        for s in shown::list(src, state, &dirs)? {
            if s.dirs.len() > 1 {
                unified.push(s.dirs);
            } else if let Role::Copy { of } = s.role {
                out.insert((dirs.clone(), of));
            }
        }
    }
    Ok(out)
}

/// When the latest version of an entry was written.
pub(super) fn stamp_of(src: Source<'_>, state: &State, s: &Shown) -> Result<Option<Stamp>> {
    let Some(v) = s.versions.first() else {
        return Ok(None);
    };
    let record = state.record(src, v.id)?;
    let all = record.iter().flat_map(Record::shown_content);
    Ok(all.map(|c| c.stamp).find(|at| at.dot() == v.content))
}

/// A name with all that claims it.
pub(super) struct Claimed {
    pub(super) path: VolumePath,
    pub(super) shown: Vec<Shown>,
    stamps: Vec<Option<Stamp>>,
}

impl Claimed {
    pub(super) fn read(src: Source<'_>, state: &State, (dirs, name): &Name) -> Result<Self> {
        let shown = shown::group(src, state, dirs, name)?;
        let dir = dirs.first().copied().unwrap_or(FileId::ROOT);
        let mut stamps = Vec::with_capacity(shown.len());
        for s in &shown {
            stamps.push(stamp_of(src, state, s)?);
        }
        Ok(Self {
            path: path_of(src, state, dir)?.join(name),
            shown,
            stamps,
        })
    }

    pub(super) fn has_copies(&self) -> bool {
        self.shown.iter().any(|s| s.role != Role::Main)
    }

    fn into_conflict(
        self,
        history: &History,
        now: &Now,
        authors: &BTreeMap<Dot, (String, String)>,
    ) -> Result<Conflict> {
        let mut main = None;
        let mut copies = Vec::new();
        let dir = self.path.as_bytes();
        let dir = VolumePath::new(match dir.iter().rposition(|b| *b == b'/') {
            Some(at) => dir.get(..at).unwrap_or_default(),
            None => b"",
        })
        .unwrap_or_default();
        for (s, stamp) in self.shown.into_iter().zip(self.stamps) {
            let author = stamp.and_then(|at| authors.get(&at.dot()).cloned());
            let (node, name) = author.unwrap_or_default();
            let ms = stamp.map_or(0, |at| at.hlc.wall_ms());
            let version = Version {
                path: dir.join(&s.name),
                kind: kind_name(s.kind),
                node,
                name,
                time: i64::try_from(ms / 1000).unwrap_or(0),
                size: match s.kind {
                    Kind::Large => history.large_size(&now.stage, &s.blob)?,
                    Kind::File | Kind::Symlink => history.size(&now.stage, &s.blob)?,
                    _ => 0,
                },
            };
            match s.role {
                Role::Main => main = Some(version),
                Role::Copy { .. } => copies.push(version),
            }
        }
        copies.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Conflict {
            path: self.path,
            main,
            copies,
        })
    }
}

impl History {
    /// All conflict copies that are shown, by path.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub fn conflicts(&self, now: &Now) -> Result<Arc<Vec<Conflict>>> {
        {
            let kept = self.caches.conflicts.lock();
            if let Some((state, all)) = &*kept.unwrap_or_else(PoisonError::into_inner)
                && *state == now.state
            {
                return Ok(all.clone());
            }
        }
        let src = self.source(&*now.stage);
        let mut claimed = Vec::new();
        for name in candidates(src, &now.state)? {
            let c = Claimed::read(src, &now.state, &name)?;
            if c.has_copies() {
                claimed.push(c);
            }
        }
        let all = Arc::new(self.told(now, claimed)?);
        let mut kept = self
            .caches
            .conflicts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *kept = Some((now.state, all.clone()));
        Ok(all)
    }

    /// Names with what people want to know of all that claims them.
    pub(super) fn told(&self, now: &Now, claimed: Vec<Claimed>) -> Result<Vec<Conflict>> {
        let stamps = claimed.iter().flat_map(|c| c.stamps.iter().flatten());
        let steps = self.steps_of(&now.heads, &stamps.copied().collect())?;
        let mut authors = BTreeMap::new();
        for (dot, step) in steps {
            let o = self.origin(&step);
            authors.insert(dot, (o.node.to_string(), o.name.unwrap_or_default()));
        }
        let mut out = Vec::with_capacity(claimed.len());
        for c in claimed {
            out.push(c.into_conflict(self, now, &authors)?);
        }
        out.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(out)
    }
}
