//! Changes that no mount and no git client made: what a person asked the node for.

use super::chain::{self, Deed};
use super::view::View;
use super::worker::Worker;
use super::{Volume, VolumeResult, Work};
use crate::base::id::{FileId, Oid};
use crate::record::change::Change;
use crate::store::gc::{self, Size};
use crate::store::objects::Memory;
use std::sync::mpsc::sync_channel;

use super::error::VolumeError;

/// What the volume's thread is to do.
pub(super) type Job = Box<dyn FnOnce(&mut Worker<'_>) + Send>;

/// Changes and what to say of them.
#[derive(Debug)]
pub struct Amendment<T> {
    /// For the view that they were worked out on. None: nothing is to be done.
    pub changes: Vec<Change>,
    /// What was done, for the commit.
    pub message: String,
    /// Handed back to who asked.
    pub told: T,
}

impl Volume {
    /// Makes one commit of changes that `make` works out on the view, after all that was written
    /// and closed is in it. `make` may put objects into the stage that it is given, and mint ids.
    /// Returns what it tells, and the content commit; no commit if nothing changes.
    ///
    /// # Errors
    /// As the store and the journal; nothing is changed then. The inner error is that of `make`.
    pub fn amend<T: Send + 'static, E: Send + 'static>(
        &self,
        make: impl FnOnce(&View, &Memory, &mut dyn FnMut() -> FileId) -> Result<Amendment<T>, E>
        + Send
        + 'static,
    ) -> VolumeResult<Result<(T, Option<Oid>), E>> {
        let done = self.run(move |w| w.amend(make))?;
        // Who asked looks at the folder next.
        self.shown();
        done
    }

    /// Returns when git, run by hand in the repository, finds all commits that are shown.
    ///
    /// # Errors
    /// As the store.
    pub fn settle(&self) -> VolumeResult<()> {
        self.run(|w| w.settle())?
    }

    /// Returns when what was closed so far is in a commit.
    pub(crate) fn commit_now(&self) -> VolumeResult<()> {
        self.run(|w| w.commit(false))?
    }

    /// Makes one well compressed pack of all packs; what they took before and after. For threads
    /// that may wait: it takes minutes for millions of objects, and nobody waits for it.
    ///
    /// # Errors
    /// As the store and git; nothing is lost then.
    pub fn gc(&self) -> VolumeResult<(Size, Size)> {
        self.settle()?;
        Ok(gc::gc(self.repo())?)
    }

    /// From now on nothing is committed but what somebody waits for.
    #[cfg(test)]
    pub(crate) fn be_still(&self) {
        self.still.store(true, std::sync::atomic::Ordering::Release);
    }

    /// Does this while nothing is committed and no packs are rolled up.
    #[cfg(test)]
    pub(crate) fn while_still<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> VolumeResult<T> {
        self.run(|w| {
            w.await_repack();
            work()
        })
    }

    pub(super) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Worker<'_>) -> T + Send + 'static,
    ) -> VolumeResult<T> {
        let (tx, rx) = sync_channel(1);
        let job: Job = Box::new(move |w| {
            if tx.try_send(work(w)).is_err() {
                tracing::debug!("nobody waits for the answer any more");
            }
        });
        self.work
            .send(Work::Run(job))
            .map_err(|_| VolumeError::Stopped)?;
        rx.recv().map_err(|_| VolumeError::Stopped)
    }
}

impl Worker<'_> {
    pub(super) fn amend<T, E>(
        &mut self,
        make: impl FnOnce(&View, &Memory, &mut dyn FnMut() -> FileId) -> Result<Amendment<T>, E>,
    ) -> VolumeResult<Result<(T, Option<Oid>), E>> {
        self.commit(false)?;
        let v = self.volume;
        let base = v.view();
        let stage = Memory::over(base.stage.clone());
        let made = match make(&base, &stage, &mut || v.lock().mint()) {
            Ok(made) => made,
            Err(e) => return Ok(Err(e)),
        };
        if made.changes.is_empty() {
            return Ok(Ok((made.told, None)));
        }
        let (stamp, births) = self.next_stamp();
        let deed = Deed {
            stamp,
            births,
            changes: &made.changes,
            message: &made.message,
        };
        let sealed = chain::change(&v.desk(), &base, &stage, &deed)?;
        let content = sealed.content;
        self.publish(&base, &stage, sealed)?;
        Ok(Ok((made.told, content)))
    }
}
