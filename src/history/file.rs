//! The history of one file, through edits and moves, by its id.
//!
//! A record names the commits that made each of its parts. So a walk back looks into the records
//! of those commits only, as long as it knows them: of the commit that made a part, of the ones
//! that made the parts before that, and of those that moved a directory above. Where the file was
//! not there, before a restore, each commit is looked at.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;

use super::conflicts::path_of;
use super::past::{Dir, Past};
use super::{History, HistoryError, Now, Result, Step};
use crate::base::id::{FileId, Oid};
use crate::base::path::VolumePath;
use crate::base::stamp::{Dot, Stamp};
use crate::merge::stock::PATH_BIT;
use crate::record::Source;
use crate::record::model::{Kind, Record};
use crate::record::state::State;

/// What one commit did to a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// The content commit, for `git` and for other commands; the record commit, for these alone,
    /// if the content stayed the same.
    pub id: String,
    /// When, in seconds since 1970.
    pub time: i64,
    /// Which node.
    pub node: String,
    /// Its name then, empty if the commit does not tell; the author, if the commit came by git.
    pub author: String,
    /// What the author said, if the commit came by git.
    pub message: Option<String>,
    /// `created`, `edited`, `moved`, `mode`, `owner`, `time`, `deleted`, `restored`.
    pub what: Vec<&'static str>,
    /// Where the file was afterwards; where it had been, if it was deleted.
    pub path: VolumePath,
    /// Where it was before, if it was moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<VolumePath>,
}

/// A file at a commit: its record, its path, and the commits that decide both.
struct Sight {
    record: Record,
    path: VolumePath,
    dots: BTreeSet<Dot>,
    /// The commits that put it, or a directory above it, where it is.
    places: BTreeSet<Dot>,
}

fn see(src: Source<'_>, state: &State, id: FileId) -> Result<Option<Sight>> {
    let Some(record) = state.record(src, id)? else {
        return Ok(None);
    };
    let Some(place) = record.place() else {
        return Ok(None);
    };
    let mut places: BTreeSet<Dot> = BTreeSet::new();
    let mut at = Some(record.clone());
    let mut met = BTreeSet::new();
    while let Some(r) = at.take() {
        let Some(l) = r.shown_location().filter(|_| met.insert(r.id)) else {
            break;
        };
        places.insert(l.stamp.dot());
        at = state.record(src, l.parent)?;
    }
    let f = &record.fields;
    let fields = [f.mode.map(|m| m.stamp), f.mtime.map(|m| m.stamp)];
    let owner = [f.uid.map(|u| u.stamp), f.gid.map(|g| g.stamp)];
    let content = record.shown_content().iter().map(|c| c.stamp);
    let stamps = content.chain(fields.into_iter().chain(owner).flatten());
    let mut dots: BTreeSet<Dot> = stamps.map(Stamp::dot).collect();
    dots.extend(&places);
    Ok(Some(Sight {
        path: path_of(src, state, place.parent)?.join(&place.name),
        record,
        dots,
        places,
    }))
}

/// One file that is followed.
struct Track {
    id: FileId,
    /// It was not there at the commit that was looked at last.
    cold: bool,
    /// The last event seen brought it, perhaps not for the first time.
    came: Option<usize>,
    done: bool,
}

impl History {
    /// What happened to the file at a path, the latest first: the one that is there now, or else
    /// the last one that was.
    ///
    /// # Errors
    /// When there never was one, or a directory is there.
    pub fn file(&self, now: &Now, path: &VolumePath, limit: usize) -> Result<Vec<Event>> {
        let ids = self.ids_at(now, path)?;
        let src = self.source(&*now.stage);
        let mut wanted = BTreeSet::new();
        let mut tracks = Vec::new();
        for id in ids {
            let seen = see(src, &now.state, id)?;
            tracks.push(Track {
                id,
                cold: seen.is_none(),
                came: None,
                done: false,
            });
            wanted.extend(seen.into_iter().flat_map(|s| s.dots));
        }
        let mut out: Vec<Event> = Vec::new();
        let mut walk = self.walk(&now.heads)?;
        while let Some(step) = walk.next()? {
            let open = |t: &Track| !t.done && (out.len() < limit || t.came.is_some());
            if !tracks.iter().any(open) {
                break;
            }
            let named = wanted.contains(&step.stamp.dot());
            for t in tracks.iter_mut().filter(|t| !t.done) {
                if named || t.cold {
                    self.look(&step, t, &mut wanted, &mut out)?;
                }
                let minted = t.id.branch & PATH_BIT == 0 && t.id.branch == step.stamp.branch.0;
                if minted && (step.births < t.id.n || step.stamp.seq == 1) {
                    // Nobody knew it before.
                    t.done = true;
                }
            }
        }
        // What came and was never there before was made then.
        for at in tracks.iter().filter_map(|t| t.came) {
            if let Some(w) = out.get_mut(at).and_then(|e| e.what.first_mut()) {
                *w = "created";
            }
        }
        out.truncate(limit);
        Ok(out)
    }

    fn look(
        &self,
        step: &Arc<Step>,
        t: &mut Track,
        wanted: &mut BTreeSet<Dot>,
        out: &mut Vec<Event>,
    ) -> Result<()> {
        let stage = self.stage();
        let src = self.source(&*stage);
        let after = see(src, &step.state, t.id)?;
        let mut before = Vec::new();
        let mut last_births = 0;
        for p in &step.frontier {
            let p = self.step(p)?;
            if p.stamp.branch == step.stamp.branch {
                last_births = p.births;
            }
            before.push(see(src, &p.state, t.id)?);
        }
        let all_had = !before.is_empty() && before.iter().all(Option::is_some);
        let none_had = before.iter().all(Option::is_none);
        for s in before.iter().flatten() {
            wanted.extend(&s.dots);
        }
        let was = before.iter().flatten().next();
        let (what, path, from) = match &after {
            None if all_had => {
                t.cold = false;
                let Some(was) = was else { return Ok(()) };
                (vec!["deleted"], was.path.clone(), None)
            }
            None => {
                t.cold = none_had;
                return Ok(());
            }
            Some(now) if none_had => {
                t.cold = true;
                wanted.extend(&now.dots);
                let minted = t.id.branch & PATH_BIT == 0 && t.id.branch == step.stamp.branch.0;
                let born = minted && t.id.n > last_births;
                t.done |= born;
                (
                    vec![if born { "created" } else { "restored" }],
                    now.path.clone(),
                    None,
                )
            }
            Some(now) => {
                t.cold = false;
                wanted.extend(&now.dots);
                let (what, from) = changed(step.stamp.dot(), now, &before);
                if what.is_empty() {
                    return Ok(());
                }
                (what, now.path.clone(), from)
            }
        };
        t.came = (what == ["restored"]).then_some(out.len());
        let o = self.origin(step);
        let id = self.name_of(step)?;
        let pushed = self.pushed(id);
        let (author, message) = match pushed {
            Some((author, message)) => (author, Some(message)),
            None => (o.name.unwrap_or_default(), None),
        };
        out.push(Event {
            id: id.to_string(),
            time: i64::try_from(o.time_ms / 1000).unwrap_or(0),
            node: o.node.to_string(),
            author,
            message,
            what,
            path,
            from,
        });
        Ok(())
    }

    /// The files that a path means: those there now, or the last ones that were.
    fn ids_at(&self, now: &Now, path: &VolumePath) -> Result<Vec<FileId>> {
        let ids = |past: &Past| -> Result<Option<Vec<FileId>>> {
            let Some(e) = past.find(path)? else {
                return Ok(None);
            };
            match e.dir {
                Some(Dir::Ids(_) | Dir::Tree(_)) => Err(HistoryError::NotFile(path.clone())),
                None => Ok(Some(e.id.into_iter().collect())),
            }
        };
        if let Some(found) = ids(&self.present(now))? {
            return Ok(found);
        }
        self.last_with(now, path)?
            .map(|past| ids(&past))
            .transpose()?
            .flatten()
            .ok_or_else(|| HistoryError::NoPath(path.clone()))
    }

    /// The latest commit at which there was something at a path.
    pub(super) fn last_with(&self, now: &Now, path: &VolumePath) -> Result<Option<Past>> {
        let mut walk = self.walk(&now.heads)?;
        let mut last: Option<Oid> = None;
        while let Some(step) = walk.next()? {
            // Most commits leave the names as they were.
            if last.replace(step.state.names) == Some(step.state.names) {
                continue;
            }
            let past = self.joined(&[step.id])?;
            if past.find(path)?.is_some() {
                return Ok(Some(past));
            }
        }
        Ok(None)
    }
}

/// What a commit changed of a file that was there before and after.
fn changed(
    own: Dot,
    now: &Sight,
    before: &[Option<Sight>],
) -> (Vec<&'static str>, Option<VolumePath>) {
    let mut what = Vec::new();
    let was: Vec<&Sight> = before.iter().flatten().collect();
    let mut from = None;
    if now.places.contains(&own) && !was.iter().any(|w| w.path == now.path) {
        what.push("moved");
        from = was.first().map(|w| w.path.clone());
    }
    let is_new = |blob: &Oid| {
        let all = was.iter().flat_map(|w| w.record.shown_content());
        !all.into_iter().any(|c| c.blob == *blob)
    };
    let is_dir = now.record.kind() == Some(Kind::Dir);
    let mut own_content = now.record.content.iter().filter(|c| c.stamp.dot() == own);
    if !is_dir && own_content.any(|c| is_new(&c.blob) || c.over.len() > 1) {
        what.push("edited");
    }
    let (f, old) = (&now.record.fields, |w: &&Sight| w.record.fields.clone());
    let set = |at: Option<Stamp>, differs: bool| at.map(Stamp::dot) == Some(own) && differs;
    let differs = |other: fn(&crate::record::model::Fields) -> Option<i64>| {
        was.iter().all(|w| other(&old(w)) != other(f))
    };
    if set(
        f.mode.map(|m| m.stamp),
        differs(|f| f.mode.map(|m| m.value.into())),
    ) {
        what.push("mode");
    }
    let owner = set(
        f.uid.map(|u| u.stamp),
        differs(|f| f.uid.map(|u| u.value.into())),
    ) || set(
        f.gid.map(|g| g.stamp),
        differs(|f| f.gid.map(|g| g.value.into())),
    );
    if owner {
        what.push("owner");
    }
    let mtime = set(
        f.mtime.map(|m| m.stamp),
        differs(|f| f.mtime.map(|m| m.value)),
    );
    if mtime && what.is_empty() && !is_dir {
        what.push("time");
    }
    (what, from)
}
