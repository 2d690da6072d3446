//! Which large files of a volume this node wants, as of the last look.
//!
//! Invariant: a file that is wanted is not away, and comes if it is not here; one that is not
//! wanted is let go of only as [`crate::copies`] allows, or if it was never all here. Threads: who
//! looks, one at a time, and who asks.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::rules::{Reason, Rules};
use crate::base::id::{FileId, Oid, VolumeName};
use crate::config::Keep;
use crate::node::NodeInner;
use crate::volume::large::Meeting;
use crate::volume::place::Places;
use crate::volume::{Volume, VolumeResult};

/// See the module.
#[derive(Debug, Default)]
pub(in crate::node) struct Desk {
    pub(in crate::node) rules: Rules,
    /// Each large file of the view: its versions, and whether they are wanted.
    files: BTreeMap<FileId, (Vec<Oid>, bool)>,
    /// The rules or tags have changed.
    is_stale: bool,
    /// Files that could not be let go of: when that is to be tried again, and how often it was.
    pub(super) tried: HashMap<Oid, (Instant, u32)>,
}

impl Desk {
    /// Versions that some file of the view wants.
    pub(in crate::node) fn wanted(&self) -> HashSet<Oid> {
        let all = self.files.values().filter(|(_, wanted)| *wanted);
        all.flat_map(|(heads, _)| heads.iter().copied()).collect()
    }

    /// Whether it is too early to try again to let go of a file.
    pub(super) fn waits(&self, head: &Oid) -> bool {
        let until = self.tried.get(head);
        until.is_some_and(|(until, _)| *until > Instant::now())
    }

    /// Versions that the view shows, of the files that are looked at.
    pub(super) fn shown(&self) -> HashSet<Oid> {
        let all = self.files.values();
        all.flat_map(|(heads, _)| heads.iter().copied()).collect()
    }
}

/// The desks of all volumes.
#[derive(Debug, Default)]
pub(in crate::node) struct Desks(Mutex<BTreeMap<VolumeName, Arc<Mutex<Desk>>>>);

pub(in crate::node) fn lock(desk: &Mutex<Desk>) -> MutexGuard<'_, Desk> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is to be done about versions of files.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    /// Wanted, with the version before.
    pub(super) wanted: Vec<(Oid, Option<Oid>)>,
    /// Not wanted.
    pub(super) unwanted: Vec<Oid>,
}

impl NodeInner {
    /// What is said and known of a volume's large files. Blocking the first time.
    pub(in crate::node) fn desk_of(&self, v: &Volume) -> VolumeResult<Arc<Mutex<Desk>>> {
        let mut all = self.desks.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(d) = all.get(v.name()) {
            return Ok(d.clone());
        }
        let rules = Rules::open(&v.dir().join("pins"))?;
        let desk = Desk {
            rules,
            ..Desk::default()
        };
        let desk = Arc::new(Mutex::new(desk));
        all.insert(v.name().clone(), desk.clone());
        Ok(desk)
    }

    /// Whether all large files of a volume are wanted, whatever their paths.
    pub(in crate::node) fn wants_all(&self, desk: &Desk) -> bool {
        self.options.keep == Keep::All && desk.rules.is_empty()
    }

    /// Says of a path that it is kept here, is not, or nothing any more. Blocking.
    pub(in crate::node) fn say(
        &self,
        v: &Arc<Volume>,
        path: &[u8],
        kept: Option<bool>,
    ) -> VolumeResult<()> {
        let desk = self.desk_of(v)?;
        {
            let mut desk = lock(&desk);
            desk.rules.say(path, kept)?;
            desk.is_stale = true;
            if desk.files.is_empty() {
                v.meet_anew();
            }
        }
        self.look_now(v)
    }

    /// The tags of this node have changed. Blocking.
    pub(in crate::node) fn looks_anew(&self) -> VolumeResult<()> {
        for v in self.all_volumes() {
            lock(&*self.desk_of(&v)?).is_stale = true;
            self.look_now(&v)?;
        }
        Ok(())
    }

    /// What the last look and what is new come to.
    pub(super) fn wishes(&self, v: &Volume, m: &Meeting) -> VolumeResult<Wishes> {
        let desk = self.desk_of(v)?;
        let mut desk = lock(&desk);
        let mut out = Wishes::default();
        if self.wants_all(&desk) && desk.files.is_empty() {
            out.wanted = m.met.iter().map(|m| (m.head, m.over)).collect();
            return Ok(out);
        }
        let over: HashMap<Oid, Option<Oid>> = m.met.iter().map(|m| (m.head, m.over)).collect();
        let mut news: BTreeSet<Oid> = over.keys().copied().collect();
        let tags = self.tags.own();
        let view = v.view();
        let mut places = Places::new(v, &view);
        let mut ids: BTreeSet<FileId> = BTreeSet::new();
        for (id, heads) in &m.files {
            // What is gone, or is not that version any more, is of no one.
            if let Some((before, _)) = desk.files.remove(id) {
                news.extend(before);
            }
            if !heads.is_empty() {
                desk.files.insert(*id, (heads.clone(), false));
                ids.insert(*id);
            }
        }
        if std::mem::take(&mut desk.is_stale) || m.is_moved {
            ids.extend(desk.files.keys());
        }
        let keep = self.options.keep;
        for id in ids {
            let wants = match places.path(id)? {
                Some(path) => desk.rules.judge(keep, &tags, &path, &mut places)?.0,
                None => false,
            };
            if let Some((heads, wanted)) = desk.files.get_mut(&id) {
                news.extend(heads.iter().copied());
                *wanted = wants;
            }
        }
        let wanted = desk.wanted();
        let shown = desk.shown();
        for head in news {
            if wanted.contains(&head) {
                let over = over.get(&head).copied().flatten();
                out.wanted.push((head, over));
            } else if keep != Keep::All || shown.contains(&head) {
                out.unwanted.push(head);
            }
        }
        Ok(out)
    }

    /// Whether a file at a path is kept here, and why.
    pub(in crate::node) fn judge(
        &self,
        v: &Volume,
        path: &[u8],
        places: &mut Places<'_>,
    ) -> VolumeResult<(bool, Reason)> {
        let desk = self.desk_of(v)?;
        let tags = self.tags.own();
        let desk = lock(&desk);
        desk.rules.judge(self.options.keep, &tags, path, places)
    }
}
