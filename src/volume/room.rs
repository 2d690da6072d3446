//! A start on a full disk: what an earlier run left can be read, and is recovered when there is room.
//!
//! Recovery makes a commit of what the journal holds, which needs room. Without, the commit is made
//! in memory alone: the mounts show its state, and nobody else hears of it. Nothing is written
//! meanwhile; the journal and the overlay files stay as they are. Invariant: heads that the view
//! names last, also now. Threads: the volume's own; any may ask whether it waits.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::chain::{Desk, Disk};
use super::derive;
use super::inode::Data;
use super::recover::{self, Left};
use super::view::View;
use super::worker::Worker;
use super::{Volume, VolumeResult};
use crate::base::id::Oid;
use crate::journal::{Entry, JournalError};
use crate::store::objects::{Object, Objects};

/// A disk on which nothing can be written.
struct NoRoom<'a>(&'a Volume);

impl Disk for NoRoom<'_> {
    fn hold(&self, _: Vec<u8>, objects: Vec<(Oid, Object)>) -> VolumeResult<()> {
        self.flush(objects)
    }

    fn flush(&self, objects: Vec<(Oid, Object)>) -> VolumeResult<()> {
        // Made of what the journal has, which stays until they are in a pack.
        self.0.repo().hold(objects, || Ok(self.last()))
    }

    fn append(&self, _: &Entry) -> VolumeResult<u64> {
        Ok(self.last())
    }

    fn last(&self) -> u64 {
        self.0.journal().last()
    }

    fn sync(&self, _: u64) -> VolumeResult<()> {
        Ok(())
    }
}

/// What there was no room for.
#[derive(Debug, Clone)]
pub(super) enum Waits {
    /// A commit of what an earlier run left.
    Recovery(Arc<Left>),
    /// The commit lasts; the journal is still to forget what it was made of.
    End(Arc<Left>),
}

/// Shows what an earlier run left, and keeps it for when there is room.
pub(super) fn show(volume: &Volume, left: Left) -> VolumeResult<()> {
    let no_room = NoRoom(volume);
    let desk = Desk {
        disk: &no_room,
        ..volume.desk()
    };
    let heads = recover::known_heads(&desk, &left.found())?;
    let base = derive::derive(desk.objects.clone(), desk.cache, heads)?;
    let keep = |stage: &dyn Objects, what, data: &Data| volume.keep_in_mind(stage, what, data);
    let (done, _) = recover::replay_left(volume, &desk, &left, &keep)?;
    volume.lock().view = View {
        state: done.view.state,
        stage: done.view.stage,
        ..base
    };
    wait(volume, Waits::Recovery(Arc::new(left)));
    Ok(())
}

/// Takes no writes until this is done.
pub(super) fn wait(volume: &Volume, what: Waits) {
    *volume.left.lock().unwrap_or_else(PoisonError::into_inner) = Some(what);
    volume.waits.store(true, Ordering::Release);
}

impl Volume {
    /// Whether the disk was full when this volume was opened, and still is: it is shown, and takes
    /// no writes.
    #[must_use]
    pub fn waits_for_room(&self) -> bool {
        self.waits.load(Ordering::Acquire)
    }

    /// Fails while nothing may be written.
    pub(crate) fn may_write(&self) -> Result<(), JournalError> {
        if self.waits_for_room() {
            return Err(JournalError::Full);
        }
        match self.journal().poisoned() {
            Some(why) => Err(JournalError::Poisoned(why)),
            None => Ok(()),
        }
    }
}

impl Worker<'_> {
    /// Recovers what waits for room, if anything does.
    pub(super) fn recover_what_waits(&mut self) -> VolumeResult<()> {
        let volume = self.volume;
        if !volume.waits_for_room() {
            return Ok(());
        }
        let waits = volume.left.lock();
        let waits = waits.unwrap_or_else(PoisonError::into_inner).clone();
        let (left, caught_up) = match waits {
            None => return Ok(()),
            Some(Waits::End(left)) => (left, None),
            Some(Waits::Recovery(left)) => {
                let caught_up = self.recover_now(&left)?;
                // Not twice, whatever comes.
                wait(volume, Waits::End(left.clone()));
                (left, caught_up)
            }
        };
        recover::finish(volume, &left, caught_up)?;
        *volume.left.lock().unwrap_or_else(PoisonError::into_inner) = None;
        volume.waits.store(false, Ordering::Release);
        tracing::info!(volume = %volume.name(), "there is room again");
        Ok(())
    }

    /// Makes the commit, if one is to be made, and shows it. Of how many files.
    fn recover_now(&mut self, left: &Left) -> VolumeResult<Option<usize>> {
        let volume = self.volume;
        // What was made in memory lasts before a head names it.
        volume.repo().settle()?;
        let keep = recover::keep_all(volume);
        let (done, numbers) = recover::replay_left(volume, &volume.desk(), left, &keep)?;
        let base = volume.view();
        let mut stale = Vec::new();
        {
            let mut live = volume.lock();
            live.numbers = numbers;
            live.view = done.view.clone();
            live.last_committed = done.committed;
            self.reconcile_all(&mut live, &base, &done.view, &mut stale)?;
        }
        volume.out_of_mind();
        volume.tell(None, stale);
        if let (Some(_), Some(head)) = (done.caught_up, done.view.heads.first()) {
            volume.outlet.committed(volume.name(), head, None);
        }
        Ok(done.caught_up)
    }
}
