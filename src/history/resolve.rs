//! One version for a name that several claim.
//!
//! The chosen bytes are written anew, over every version that its author saw, and the other files
//! at the name end. So a choice is a change like any other: it brings the same to every node, what
//! somebody wrote meanwhile is merged with it, and two people who choose differently without
//! knowing of each other see one conflict between their choices.

use super::conflicts::{Claimed, Conflict};
use super::{History, HistoryError, Keep, Now, Result};
use crate::base::clock;
use crate::base::id::Oid;
use crate::base::name::EntryName;
use crate::base::path::VolumePath;
use crate::base::stamp::Dot;
use crate::merge::shown::{self, Role, Shown};
use crate::record::change::{Change, SetField};
use crate::record::model::Kind;
use crate::store::objects::ObjectKind;

/// Which version to take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Take {
    /// The one that has the name.
    Main,
    /// The copy of this name.
    Copy(EntryName),
    /// The one that this node wrote: its name, or the start of its id.
    Node(String),
    /// Other bytes.
    Bytes(Oid),
}

impl std::fmt::Display for Take {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Main => f.write_str("main"),
            Self::Copy(name) => name.fmt(f),
            Self::Node(node) => write!(f, "node:{node}"),
            Self::Bytes(_) => f.write_str("other bytes"),
        }
    }
}

impl History {
    /// What claims a name, for people and for [`Self::resolve`].
    ///
    /// # Errors
    /// When there is nothing to settle.
    pub fn conflict(&self, now: &Now, path: &VolumePath) -> Result<Conflict> {
        let claimed = self.claimed(now, path)?;
        let mut told = self.told(now, vec![claimed])?;
        told.pop()
            .ok_or_else(|| HistoryError::NoConflict(path.clone()))
    }

    /// What tells the versions at a name from others that may be there later.
    ///
    /// # Errors
    /// As [`Self::conflict`].
    pub fn seen(&self, now: &Now, path: &VolumePath) -> Result<String> {
        let claimed = self.claimed(now, path)?;
        let mut all: Vec<_> = claimed.shown.iter().flat_map(|s| &s.versions).collect();
        all.sort_unstable();
        let mut h = blake3::Hasher::new();
        for v in all {
            h.update(&v.id.as_u128().to_le_bytes());
            h.update(&v.content.branch.0.to_le_bytes());
            h.update(&v.content.seq.to_le_bytes());
        }
        Ok(h.finalize().to_hex().to_string())
    }

    fn claimed(&self, now: &Now, path: &VolumePath) -> Result<Claimed> {
        let src = self.source(&*now.stage);
        let mut names = path.names();
        let no = || HistoryError::NoConflict(path.clone());
        let name = names.pop().ok_or_else(no)?;
        let mut dirs = vec![crate::base::id::FileId::ROOT];
        for n in &names {
            let at = shown::lookup(src, &now.state, &dirs, n)?;
            dirs = at
                .filter(|s| s.kind == Kind::Dir)
                .ok_or_else(|| HistoryError::NotNow(path.clone()))?
                .dirs;
        }
        let at = (dirs, name);
        let claimed = Claimed::read(src, &now.state, &at)?;
        if claimed.has_copies() {
            return Ok(claimed);
        }
        match shown::lookup(src, &now.state, &at.0, &at.1)?.map(|s| s.role) {
            Some(Role::Copy { of }) => Err(HistoryError::IsCopy {
                copy: path.clone(),
                of: VolumePath::of(&names).join(&of),
            }),
            Some(Role::Main) => Err(no()),
            None => Err(HistoryError::NotNow(path.clone())),
        }
    }

    fn chosen(&self, now: &Now, claimed: &Claimed, take: &Take) -> Result<Option<Shown>> {
        let told = || -> Result<Conflict> { self.conflict(now, &claimed.path) };
        let all = |c: &Conflict| -> Vec<String> {
            let main = c.main.iter().map(|_| "main".to_owned());
            let copies = c.copies.iter().map(|v| v.path.to_string());
            main.chain(copies).collect()
        };
        let none = || -> Result<HistoryError> {
            Ok(HistoryError::NoVersion {
                path: claimed.path.clone(),
                take: take.to_string(),
                have: all(&told()?),
            })
        };
        let found = match take {
            Take::Bytes(_) => return Ok(None),
            Take::Main => claimed.shown.iter().find(|s| s.role == Role::Main),
            Take::Copy(name) => claimed
                .shown
                .iter()
                .find(|s| s.role != Role::Main && s.name == *name),
            Take::Node(node) => {
                let c = told()?;
                let of = |v: &&super::conflicts::Version| {
                    v.name == *node || (node.len() >= 4 && v.node.starts_with(node.as_str()))
                };
                let hits: Vec<_> = c.main.iter().chain(&c.copies).filter(of).collect();
                match hits.as_slice() {
                    [] => None,
                    [one] => claimed
                        .shown
                        .iter()
                        .find(|s| one.path.names().last() == Some(&s.name)),
                    many => {
                        return Err(HistoryError::ManyVersions {
                            path: claimed.path.clone(),
                            take: take.to_string(),
                            have: many.iter().map(|v| v.path.to_string()).collect(),
                        });
                    }
                }
            }
        };
        match found {
            Some(s) => Ok(Some(s.clone())),
            None => Err(none()?),
        }
    }

    /// The changes after which the name shows what was chosen, and no copies are beside it.
    /// `keep` puts bytes where the commit to come finds them.
    ///
    /// # Errors
    /// When there is no conflict at the path, no such version, or a directory in the way.
    pub fn resolve(
        &self,
        now: &Now,
        path: &VolumePath,
        take: &Take,
        keep: &mut Keep<'_>,
    ) -> Result<Vec<Change>> {
        let claimed = self.claimed(now, path)?;
        let src = self.source(&*now.stage);
        let chosen = self.chosen(now, &claimed, take)?;
        let main = claimed.shown.iter().find(|s| s.role == Role::Main);
        let is_dir = main.is_some_and(|m| m.kind == Kind::Dir);
        if is_dir && *take != Take::Main {
            return Err(HistoryError::IsDirectory(path.clone()));
        }
        let keeper = if is_dir {
            None
        } else {
            let of = main.or(chosen.as_ref()).or_else(|| claimed.shown.first());
            of.and_then(|s| s.versions.first()).map(|v| v.id)
        };
        let files = claimed.shown.iter().filter(|s| s.kind != Kind::Dir);
        let versions: Vec<shown::Version> = files.flat_map(|s| s.versions.clone()).collect();
        let mut out = Vec::new();
        if let Some(id) = keeper {
            let own = versions.iter().filter(|v| v.id == id);
            let mut base: Vec<Dot> = own.map(|v| v.content).collect();
            base.sort_unstable();
            base.dedup();
            let (kind, blob) = match (take, &chosen) {
                (Take::Bytes(blob), _) => (Kind::File, *blob),
                (_, Some(s)) => (s.kind, s.blob),
                (_, None) => return Err(HistoryError::NoConflict(path.clone())),
            };
            if let Some(o) = now.stage.staged(&blob)
                && o.kind == ObjectKind::Blob
            {
                keep(&blob, o.data)?;
            }
            out.push(Change::Write {
                id,
                base,
                kind,
                blob,
            });
            let mut set = |field| out.push(Change::Field { id, field });
            if let Some(s) = &chosen {
                set(SetField::SetMode(s.mode));
            }
            set(SetField::SetMtime(clock::now_ns()));
        }
        let mut others: Vec<_> = versions.iter().map(|v| v.id).collect();
        others.sort_unstable();
        others.dedup();
        for id in others.into_iter().filter(|id| Some(*id) != keeper) {
            let Some(r) = now.state.record(src, id)? else {
                continue;
            };
            let content = r.content.iter().chain(&r.filled.content);
            let location = r.location.iter().chain(r.filled.location.as_deref());
            out.push(Change::Drop {
                id,
                content: content.map(|c| c.stamp.dot()).collect(),
                location: location.map(|l| l.stamp.dot()).collect(),
            });
        }
        Ok(out)
    }
}
