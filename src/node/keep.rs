//! Bytes of large files: what a node keeps of them, and who brings what is read and is not here.
//!
//! A look at a volume follows each change of its view, in its own time: which large files are in it
//! that were not, and what of them is not here, which is then fetched. Invariant: a look that is
//! asked for comes after that, however many are asked for at once. Tasks: one, whose looks run on
//! threads that may wait for the disk. Which files are wanted here is said in [`rules`] and kept in
//! mind in [`desk`]; what is not wanted goes by [`tidy`].

pub(super) mod desk;
pub(super) mod rules;
pub(super) mod scrub;
pub(super) mod tags;
pub(super) mod tidy;

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::NodeInner;
use super::transfer::{Library, Transfers};
use crate::base::id::{Oid, VolumeName};
use crate::chunk::store::Chunks;
use crate::store::objects::Objects;
use crate::volume::large::{Lacking, Meeting, Supply};
use crate::volume::{Volume, VolumeResult};

/// A look that failed is tried again after this long.
const AGAIN: Duration = Duration::from_secs(2);

/// The volumes of a node, for those who move bytes of large files.
pub(super) struct Volumes(pub(super) Weak<NodeInner>);

impl Library for Volumes {
    fn chunks(&self, volume: &VolumeName) -> Option<Arc<Chunks>> {
        let v = self.0.upgrade()?.volume(volume)?;
        let opened = v.chunks();
        opened
            .map_err(|e| tracing::warn!(%volume, error = %e, "its chunks cannot be opened"))
            .ok()
    }

    fn objects(&self, volume: &VolumeName) -> Option<Arc<dyn Objects>> {
        let v = self.0.upgrade()?.volume(volume)?;
        let repo: Arc<dyn Objects> = v.repo().clone();
        Some(repo)
    }

    fn is_whole(&self, volume: &VolumeName, head: &Oid) {
        let v = self.0.upgrade().and_then(|n| n.volume(volume));
        if let Some(Err(e)) = v.map(|v| v.count_in(&[*head])) {
            tracing::warn!(%volume, %head, error = %e, "it does not count as a copy yet");
        }
    }

    fn replaces(&self, volume: &VolumeName, old: &Oid, new: &Oid) {
        let v = self.0.upgrade().and_then(|n| n.volume(volume));
        if let Some(Err(e)) = v.map(|v| v.give_up_version(old, new)) {
            tracing::warn!(%volume, %old, error = %e, "an older version stays a container");
        }
    }

    fn is_cached(&self, volume: &VolumeName, head: &Oid) -> bool {
        let v = self.0.upgrade().and_then(|n| n.volume(volume));
        v.is_some_and(|v| v.is_away(head))
    }
}

/// Brings to a volume what its peers have.
pub(super) struct FromPeers {
    pub(super) node: Weak<NodeInner>,
    pub(super) volume: VolumeName,
    pub(super) transfers: Transfers,
}

impl Supply for FromPeers {
    fn fetch(&self, head: Oid, range: Range<u64>, deadline: Instant) -> Result<(), Lacking> {
        // Who reads at once what has just come to the view would be before who knows which version
        // it is like.
        if let Some(node) = self.node.upgrade()
            && let Some(v) = node.volume(&self.volume)
            && let Ok(one) = node.looks.looking.try_lock()
            && node.look(&v, &one).is_err()
        {
            node.looks.ask(&self.volume);
        }
        let came = self.transfers.fetch(&self.volume, head, range, deadline);
        came.map_err(|e| Lacking(e.0))
    }
}

/// Volumes to be looked at.
#[derive(Debug, Default)]
pub(super) struct Looks {
    volumes: Mutex<BTreeSet<VolumeName>>,
    asked: Notify,
    /// Held by who looks.
    looking: Mutex<()>,
}

impl Looks {
    /// The view of a volume has changed.
    pub(super) fn ask(&self, volume: &VolumeName) {
        let mut all = self.volumes.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(volume.clone());
        drop(all);
        self.asked.notify_one();
    }

    fn next(&self) -> Option<VolumeName> {
        let mut all = self.volumes.lock().unwrap_or_else(PoisonError::into_inner);
        all.pop_first()
    }
}

/// Looks at what is asked for until the node stops.
pub(super) async fn run(node: Arc<NodeInner>) {
    loop {
        tokio::select! {
            () = node.stop.cancelled() => return,
            () = node.looks.asked.notified() => {}
        }
        while let Some(name) = node.looks.next() {
            let Some(v) = node.volume(&name) else {
                continue;
            };
            let n = node.clone();
            let looked = tokio::task::spawn_blocking(move || {
                let one = n.looks.looking.lock();
                n.look(&v, &one.unwrap_or_else(PoisonError::into_inner))
            });
            let looked = looked.await;
            let why = match looked {
                Ok(Ok(())) => continue,
                Ok(Err(e)) => e.to_string(),
                Err(e) => e.to_string(),
            };
            tracing::warn!(volume = %name, error = why, "its large files are looked at again");
            let n = node.clone();
            tokio::spawn(async move {
                tokio::time::sleep(AGAIN).await;
                n.looks.ask(&name);
            });
        }
    }
}

impl NodeInner {
    /// Looks at a volume now. Blocking.
    pub(super) fn look_now(&self, v: &Arc<Volume>) -> VolumeResult<()> {
        let one = self.looks.looking.lock();
        self.look(v, &one.unwrap_or_else(PoisonError::into_inner))
    }

    /// One at a time: who comes second finds that all is on its way.
    fn look(&self, v: &Arc<Volume>, _one: &MutexGuard<'_, ()>) -> VolumeResult<()> {
        let met = v.meet()?;
        let done = self.wish(v, &met);
        if done.is_err() {
            v.meet_anew();
        }
        done
    }

    fn wish(&self, v: &Arc<Volume>, m: &Meeting) -> VolumeResult<()> {
        let w = self.wishes(v, m)?;
        // git-lfs asks for them by the SHA-256 that their pointers have.
        let heads = m.met.iter().map(|m| m.head);
        let noted = self.shelf(v).and_then(|s| s.note(heads));
        if let Err(e) = noted {
            tracing::warn!(volume = %v.name(), error = %e, "large files are not known to git-lfs");
        }
        let back: Vec<Oid> = w.wanted.iter().map(|(h, _)| *h).collect();
        v.take_back(&back)?;
        let met: HashMap<Oid, bool> = m.met.iter().map(|m| (m.head, m.lacks)).collect();
        let (mut lacking, mut whole) = (Vec::new(), Vec::new());
        for (head, over) in w.wanted {
            let lacks = match met.get(&head) {
                Some(lacks) => *lacks,
                None => !v.lacks(&head, 1)?.is_empty(),
            };
            match lacks {
                true => lacking.push((head, over)),
                false => whole.push(head),
            }
        }
        let met = m.met.iter().filter(|m| !m.lacks);
        whole.extend(met.map(|m| m.head));
        v.count_in(&whole)?;
        if !lacking.is_empty() {
            self.transfers.keep(v.name(), lacking);
        }
        if !w.unwanted.is_empty() {
            self.transfers.unkeep(v.name(), w.unwanted.clone());
            self.forgo(v, &w.unwanted)?;
            self.tidying.notify_one();
        }
        Ok(())
    }
}
