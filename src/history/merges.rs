//! What merges did by themselves: texts put together, directories united, copies made.
//!
//! A merge is seen where several heads came together, and where a commit brought in what was made
//! on an older state: there the state is compared with each of those that went into it, at the
//! cost of what differs. Walks go back until as many were found as were asked for, or as far as is
//! bearable.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde::Serialize;

use super::conflicts::path_of;
use super::{History, Now, Result, Step};
use crate::base::id::{FileId, Oid};
use crate::base::name::EntryName;
use crate::base::path::VolumePath;
use crate::base::stamp::{Dot, Stamp};
use crate::merge::shown;
use crate::record::model::{Kind, Record};
use crate::record::state::State;
use crate::record::{Source, git_commit, trie};
use crate::store::objects::Memory;

/// Commits looked at, at most.
const STEPS_MAX: usize = 20_000;

/// What a merge made of two changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Merge {
    /// `text`: edits of one file are both in it. `directory`: directories of one name are one.
    /// `copy`: one version has the name, others are conflict copies.
    pub what: &'static str,
    /// Where.
    pub path: VolumePath,
    /// When the later of the changes was made, in seconds since 1970.
    pub time: i64,
    /// The changes.
    pub sides: Vec<Side>,
}

/// One of the changes that came together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Side {
    /// Which node made it.
    pub node: String,
    /// Its name then; empty if the commit does not tell.
    pub name: String,
    /// When, in seconds since 1970.
    pub time: i64,
    /// The commit at which the path shows this side alone.
    pub commit: String,
    /// The command that brings this side back.
    pub undo: String,
}

/// See [`History::merges`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Merges {
    /// The latest first.
    pub merges: Vec<Merge>,
    /// Whether all of history was looked at, or as many were found as asked for.
    pub complete: bool,
}

/// What was found, before anybody is named.
struct Found {
    what: &'static str,
    id: FileId,
    at: (FileId, EntryName),
    stamps: BTreeSet<Stamp>,
}

/// The states that came together and what they made.
struct Meeting<'a> {
    src: Source<'a>,
    before: Vec<State>,
    after: State,
    /// Whether names may have met, too, and not only versions of files.
    names: bool,
}

impl Meeting<'_> {
    fn found(&self) -> Result<Vec<Found>> {
        let mut out = Vec::new();
        let mut names: BTreeSet<(FileId, EntryName)> = BTreeSet::new();
        let mut roots: Vec<Oid> = self.before.iter().map(|s| s.ids).collect();
        roots.push(self.after.ids);
        trie::visit_differing(self.src, &roots, &mut |id, row: &[Option<&Record>]| {
            let Some((Some(after), before)) = row.split_last() else {
                return Ok(());
            };
            let Some(place) = after.place() else {
                return Ok(());
            };
            let had = |b: &Option<&Record>| b.and_then(|b| b.place()).as_ref() == Some(&place);
            if self.names && !before.iter().all(had) {
                names.insert((place.parent, place.name.clone()));
            }
            let stamps = |r: &Record| -> BTreeSet<Stamp> {
                match &r.filled.text {
                    Some(t) => {
                        let all = r.content.iter().map(|c| c.stamp);
                        all.filter(|s| t.versions.contains(&s.dot())).collect()
                    }
                    None => r.content.iter().map(|c| c.stamp).collect(),
                }
            };
            let is_dir = after.kind() == Some(Kind::Dir);
            let now = stamps(after);
            let text = after.filled.text.is_some();
            let fewer = |r: &Record| {
                stamps(r).len() < now.len() || (r.filled.text.is_some() != text && text)
            };
            let blobs: BTreeSet<&Oid> = after.content.iter().map(|c| &c.blob).collect();
            if !is_dir
                && now.len() > 1
                && blobs.len() > 1
                && before.iter().flatten().all(|r| fewer(r))
            {
                out.push(Found {
                    what: if text { "text" } else { "copy" },
                    id,
                    at: (place.parent, place.name),
                    stamps: now,
                });
            }
            Ok(())
        })?;
        if self.names {
            for (parent, name) in names {
                out.extend(self.met(parent, name)?);
            }
        }
        Ok(out)
    }

    /// Files that met at a name.
    fn met(&self, parent: FileId, name: EntryName) -> Result<Option<Found>> {
        let at = |state: &State| -> Result<Vec<FileId>> {
            let mut out = Vec::new();
            for dir in shown::unified(self.src, state, parent)? {
                out.extend(state.placed(self.src, dir, &name)?);
            }
            Ok(out)
        };
        let now = at(&self.after)?;
        if now.len() < 2 {
            return Ok(None);
        }
        for state in &self.before {
            if at(state)?.len() >= now.len() {
                return Ok(None);
            }
        }
        let mut dirs = BTreeSet::new();
        let mut files = BTreeSet::new();
        let mut blobs = BTreeSet::new();
        for id in &now {
            let Some(r) = self.after.record(self.src, *id)? else {
                continue;
            };
            let born = r.shown_content().first().map(|c| c.stamp);
            let came = r.shown_location().map(|l| l.stamp);
            let stamp = born.max(came);
            if r.kind() == Some(Kind::Dir) {
                dirs.extend(stamp);
            } else {
                blobs.extend(r.shown_content().iter().map(|c| c.blob));
                files.extend(stamp);
            }
        }
        let id = now.first().copied().unwrap_or_default();
        let found = |what, stamps| Found {
            what,
            id,
            at: (parent, name.clone()),
            stamps,
        };
        if dirs.len() > 1 {
            return Ok(Some(found("directory", dirs)));
        }
        let copies = blobs.len() > 1 || !dirs.is_empty();
        files.extend(dirs);
        Ok((copies && files.len() > 1).then(|| found("copy", files)))
    }
}

impl History {
    /// What merges did, the latest first, at most so many. `volume` goes into commands.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub fn merges(&self, now: &Now, volume: &str, limit: usize) -> Result<Merges> {
        let mut met: HashSet<(&'static str, FileId, Vec<Dot>)> = HashSet::new();
        let mut out: Vec<Merge> = Vec::new();
        if now.heads.len() > 1 {
            let found = self.meeting(&now.heads, now.state, &now.stage)?;
            self.name_all(
                now,
                volume,
                (&now.heads, now.state, &now.stage),
                found,
                &mut met,
                &mut out,
            )?;
        }
        let mut walk = self.walk(&now.heads)?;
        let mut left = STEPS_MAX;
        while out.len() < limit
            && left > 0
            && let Some(step) = walk.next()?
        {
            left -= 1;
            self.at_step(now, volume, &step, &mut met, &mut out)?;
        }
        out.sort_by_key(|m| std::cmp::Reverse(m.time));
        let complete = left > 0 || out.len() >= limit;
        out.truncate(limit);
        Ok(Merges {
            merges: out,
            complete,
        })
    }

    fn meeting(&self, heads: &[Oid], after: State, stage: &Memory) -> Result<Vec<Found>> {
        let mut before = Vec::with_capacity(heads.len());
        for h in heads {
            before.push(self.step(h)?.state);
        }
        let src = self.source(stage);
        let meeting = Meeting {
            src,
            before,
            after,
            names: true,
        };
        meeting.found()
    }

    fn at_step(
        &self,
        now: &Now,
        volume: &str,
        step: &Step,
        met: &mut HashSet<(&'static str, FileId, Vec<Dot>)>,
        out: &mut Vec<Merge>,
    ) -> Result<()> {
        let frontier = step.frontier.as_slice();
        if frontier.is_empty() {
            return Ok(());
        }
        let base = self.joined(frontier)?;
        let Some(joined) = base.state() else {
            return Ok(());
        };
        let stage = base.stage();
        if frontier.len() > 1 {
            let found = self.meeting(frontier, joined, stage)?;
            self.name_all(now, volume, (frontier, joined, stage), found, met, out)?;
        }
        if joined.ids == step.state.ids {
            return Ok(());
        }
        let names = match step.content {
            // A push that was made on an older state.
            Some(c) => git_commit::read(&**stage, &c)?
                .message
                .starts_with(b"merge a push"),
            None => false,
        };
        let meeting = Meeting {
            src: self.source(&**stage),
            before: vec![joined],
            after: step.state,
            names,
        };
        let found = meeting.found()?;
        self.name_all(
            now,
            volume,
            (&[step.id], step.state, stage),
            found,
            met,
            out,
        )
    }

    /// Adds who made the changes, and what undoes the merge.
    fn name_all(
        &self,
        now: &Now,
        volume: &str,
        (heads, state, stage): (&[Oid], State, &Memory),
        found: Vec<Found>,
        met: &mut HashSet<(&'static str, FileId, Vec<Dot>)>,
        out: &mut Vec<Merge>,
    ) -> Result<()> {
        let fresh: Vec<Found> = found
            .into_iter()
            .filter(|f| {
                let dots = f.stamps.iter().map(|s| s.dot()).collect();
                met.insert((f.what, f.id, dots))
            })
            .collect();
        let stamps = fresh
            .iter()
            .flat_map(|f| f.stamps.iter().copied())
            .collect();
        let steps = self.steps_of(heads, &stamps)?;
        let src = self.source(stage);
        for f in fresh {
            let path = path_of(src, &state, f.at.0)?.join(&f.at.1);
            let sides = self.sides(now, volume, &f, &path, &steps)?;
            let last = f.stamps.last().map_or(0, |s| s.hlc.wall_ms() / 1000);
            out.push(Merge {
                what: f.what,
                path,
                time: i64::try_from(last).unwrap_or(0),
                sides,
            });
        }
        Ok(())
    }

    fn sides(
        &self,
        now: &Now,
        volume: &str,
        f: &Found,
        path: &VolumePath,
        steps: &BTreeMap<Dot, std::sync::Arc<Step>>,
    ) -> Result<Vec<Side>> {
        // The file may have another name by now.
        let src = self.source(&*now.stage);
        let place = now.state.record(src, f.id)?.and_then(|r| r.place());
        let path = match place {
            Some(p) => path_of(src, &now.state, p.parent)?.join(&p.name),
            None => path.clone(),
        };
        let mut out = Vec::new();
        for step in f.stamps.iter().filter_map(|s| steps.get(&s.dot())) {
            let o = self.origin(step);
            let commit = self.name_of(step)?.to_string();
            let short: String = commit.chars().take(12).collect();
            out.push(Side {
                node: o.node.to_string(),
                name: o.name.unwrap_or_default(),
                time: i64::try_from(o.time_ms / 1000).unwrap_or(0),
                undo: format!(
                    "cellfs restore {} --at {short} --volume {volume}",
                    path.for_shell()
                ),
                commit,
            });
        }
        Ok(out)
    }
}
