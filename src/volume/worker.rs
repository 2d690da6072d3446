//! The volume's thread: commits what was written, takes in heads, serves git clients.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::blobs::{OVERLAY_KEPT, OVERLAYS_KEPT_MAX};
use super::chain;
use super::commit::{self, Batch, Over, Reach};
use super::inode::{Ino, ROOT_INO};
use super::live::Stale;
use super::recover;
use super::view::View;
use super::{Volume, VolumeResult, Work};
use crate::base::id::{FileId, Oid};
use crate::base::stamp::Dot;
use crate::chunk::cut;
use crate::journal::Entry;
use crate::merge::diff;
use crate::record::model::Kind;
use crate::store::objects::Objects;
use crate::store::repack::{PACKS_WANTED_MAX, packs, repack};

/// How often files that stay open are looked at.
const OPEN_FILES_EVERY: Duration = Duration::from_millis(250);
/// When nothing happened for this long, what the journal alone holds goes into a pack, heads
/// that were taken in become durable, and git is shown the heads.
const SETTLE_WHEN_QUIET: Duration = Duration::from_millis(50);
/// The same under load: after this long, or when this much waits.
const SETTLE_AFTER: Duration = Duration::from_secs(1);
const SETTLE_BYTES: usize = 4 << 20;
/// Packs are counted after this many commits and merges.
const COUNT_PACKS_EVERY: u32 = 64;
/// Who writes for longer without a pause is better served by fewer and larger commits.
const BUSY_AFTER: Duration = Duration::from_millis(50);
/// How long a request may wait for the end of a rest.
const NAP: Duration = Duration::from_millis(2);
/// Pause after a failed commit.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// Heads of other nodes that wait are taken in together, at most this many requests.
const HEADS_TOGETHER: usize = 64;

/// Commits that all of what is written may need: of one file, each version that programs write by
/// themselves needs one.
const TURNS_MAX: usize = 16;

/// What the thread owns.
pub(super) struct Worker<'a> {
    pub(super) volume: &'a Arc<Volume>,
    /// A batch whose write failed.
    failed: Option<Batch>,
    /// Since when heads that were taken in are not synced.
    admitted: Option<Instant>,
    /// When the journal's objects last could not be written as a pack.
    unsettled: Option<Instant>,
    /// What git is shown.
    projected: View,
    /// Packs are being rolled up.
    repacking: Option<std::thread::JoinHandle<()>>,
    /// Commits and merges since packs were counted.
    uncounted: u32,
    /// Files that were committed from overlay files, and when; the latest last.
    spilled: VecDeque<(Instant, Ino)>,
    /// How long there was always something to commit.
    busy: Duration,
    /// When files that programs write to by themselves were last looked at.
    watched: Instant,
    /// Reads a large file.
    looking: Option<std::thread::JoinHandle<()>>,
    /// Files that git clients pushed, which may be pointers to what is here.
    pub(super) pushed: Vec<(FileId, Dot, Oid)>,
}

/// Runs until told to stop or until nobody can tell it any more.
pub(super) fn run(volume: &Arc<Volume>, inbox: &Receiver<Work>) {
    let mut w = Worker {
        volume,
        failed: None,
        admitted: None,
        unsettled: None,
        projected: volume.view(),
        repacking: None,
        uncounted: 0,
        spilled: VecDeque::new(),
        busy: Duration::ZERO,
        watched: Instant::now(),
        looking: None,
        pushed: Vec::new(),
    };
    let mut next: Option<Work> = None;
    loop {
        let work = match next.take() {
            Some(work) => Ok(work),
            None => inbox.recv_timeout(w.patience()),
        };
        let began = Instant::now();
        if matches!(work, Err(RecvTimeoutError::Timeout)) || w.must_settle() {
            w.settle_or_warn();
        }
        match work {
            Ok(Work::Wake) | Err(RecvTimeoutError::Timeout) => {
                // Before the table is looked at: what comes later wakes again.
                volume.woken.store(false, Ordering::Release);
                #[cfg(test)]
                if volume.still.load(Ordering::Acquire) {
                    continue;
                }
                if let Err(e) = w.commit_beside() {
                    tracing::warn!(volume = %volume.name(), error = %e, "commit failed, will be tried again");
                    std::thread::sleep(RETRY_AFTER);
                }
                next = w.rest(inbox, began.elapsed());
            }
            Ok(Work::Heads(heads, reply)) => {
                let mut all = heads;
                let mut replies = vec![reply];
                while replies.len() < HEADS_TOGETHER {
                    match inbox.try_recv() {
                        Ok(Work::Heads(more, r)) => {
                            all.extend(more);
                            replies.push(r);
                        }
                        Ok(other) => {
                            next = Some(other);
                            break;
                        }
                        Err(_) => break,
                    }
                }
                let done = w.take_in(&all);
                if let Err(e) = &done {
                    tracing::warn!(volume = %volume.name(), error = %e, "heads were not taken in");
                }
                for r in replies {
                    let answer = match &done {
                        Ok(()) => Ok(()),
                        Err(e) => Err(super::error::VolumeError::Record(e.to_string())),
                    };
                    reply_to(&r, answer);
                }
            }
            Ok(Work::Cover(heads, reply)) => reply_to(&reply, w.cover(&heads)),
            Ok(Work::HandOut(reply)) => reply_to(&reply, w.hand_out()),
            Ok(Work::Push(updates, atomic, reply)) => {
                reply_to(&reply, w.push(&updates, atomic));
                if let Err(e) = w.promote() {
                    tracing::warn!(volume = %volume.name(), error = %e, "pushed pointers stay what they are");
                }
            }
            Ok(Work::Run(job)) => job(&mut w),
            Ok(Work::Flush(reply)) => {
                let done = w.commit(true).and_then(|()| w.settle());
                reply_to(&reply, done);
            }
            Ok(Work::Stop(reply)) => {
                let done = w.commit(true).and_then(|()| w.settle());
                reply_to(&reply, done);
                return;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn reply_to<T>(to: &std::sync::mpsc::SyncSender<VolumeResult<T>>, answer: VolumeResult<T>) {
    if to.try_send(answer).is_err() {
        tracing::debug!("nobody waits for the answer any more");
    }
}

impl Worker<'_> {
    /// Commits what is fit; `all` takes open files, too.
    ///
    /// # Errors
    /// As the store and the journal.
    pub(super) fn commit(&mut self, all: bool) -> VolumeResult<()> {
        self.commit_what(if all { Reach::All } else { Reach::Closed })
    }

    /// Commits what is fit and needs no reading of large files: that is done beside it.
    fn commit_beside(&mut self) -> VolumeResult<()> {
        self.look_beside();
        self.commit_what(Reach::Read)
    }

    /// Has a large file read that nobody writes to, one at a time. A commit takes it when that is
    /// done.
    fn look_beside(&mut self) {
        if self.looking.as_ref().is_some_and(|l| !l.is_finished()) {
            return;
        }
        let next = {
            let live = self.volume.lock();
            let dirty = live.dirty.iter().filter_map(|ino| live.inodes.get(ino));
            let mut files = dirty.filter_map(|i| commit::to_be_read(self.volume, i));
            files.find_map(|s| s.seal().then(|| Some((s.begin_look()?, s)))?)
        };
        let Some((turn, s)) = next else { return };
        let (volume, file) = (self.volume.clone(), s.clone());
        let looks = std::thread::Builder::new()
            .name("vol-look".to_owned())
            .spawn(move || {
                let found = cut::survey(file.file());
                let found =
                    found.map_err(|e| tracing::warn!(error = %e, "a large file is not read"));
                // The commit does that, too, and has little left to wait for.
                if let Err(e) = volume.sync_spill(&file) {
                    tracing::error!(error = %e, "a large file is not durable");
                }
                file.end_look(turn, found.ok());
                volume.wake();
            });
        match looks {
            Ok(l) => self.looking = Some(l),
            // It is read when it is committed.
            Err(e) => {
                tracing::warn!(error = %e, "no thread to read a large file");
                s.end_look(turn, None);
            }
        }
    }

    fn commit_what(&mut self, what: Reach) -> VolumeResult<()> {
        let all = what == Reach::All;
        self.recover_what_waits()?;
        if all {
            self.watched = Instant::now();
            self.volume.watch_directs();
        }
        self.give_overlays_up();
        if let Some(b) = self.failed.take() {
            self.finish(b)?;
        }
        for _ in 0..TURNS_MAX {
            let batch = {
                let mut live = self.volume.lock();
                commit::take(self.volume, &mut live, what)
            };
            if batch.is_empty() {
                break;
            }
            self.finish(batch)?;
            // Of several versions of one file each has a commit of its own.
            if !all || self.volume.lock().dirty.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Files that were written a while ago are read from the repository, and what nothing needs any
    /// more is removed.
    fn give_overlays_up(&mut self) {
        while let Some((since, ino)) = self.spilled.front().copied()
            && (self.spilled.len() > OVERLAYS_KEPT_MAX || since.elapsed() > OVERLAY_KEPT)
        {
            self.spilled.pop_front();
            if !self.spilled.iter().any(|(_, later)| *later == ino) {
                self.volume.unspill_if_clean(&mut self.volume.lock(), ino);
            }
        }
        if self.watched.elapsed() >= OPEN_FILES_EVERY {
            self.watched = Instant::now();
            self.volume.watch_directs();
        }
        self.volume.contain_waiting(false);
        self.volume.sweep_overlays();
    }

    fn finish(&mut self, batch: Batch) -> VolumeResult<()> {
        let base = self.volume.view();
        let keep = |stage: &dyn Objects, what, data: &_| self.volume.keep(stage, what, data);
        let pin = |blobs: &_| self.volume.pin(blobs);
        let mut done = match commit::write(&self.volume.desk(), &base, &batch, &keep, &pin) {
            Ok(done) => done,
            Err(e) => {
                self.failed = Some(batch);
                self.volume.set_trouble(Some(e.to_string()));
                return Err(e);
            }
        };
        self.volume.set_trouble(None);
        let now = Instant::now();
        let spilled = batch.written.iter().filter(|w| w.data.is_spilled());
        self.spilled.extend(spilled.map(|w| (now, w.ino)));
        for w in &batch.written {
            if let Over::Shown(s) = &w.over
                && s.kind == Kind::Large
            {
                self.volume.replaces(w.ino, s.blob);
            }
        }
        let mut stale = Vec::new();
        {
            let mut live = self.volume.lock();
            commit::settle(&mut live, &batch, &done);
            let compare = batch.detached() || done.contested || !live.stale.is_empty();
            if compare {
                self.reconcile_all(&mut live, &base, &done.view, &mut stale)?;
            }
        }
        let pack = done.pack.take();
        self.volume
            .outlet
            .committed(self.volume.name(), &done.head, pack);
        if !stale.is_empty() {
            self.volume.tell(None, stale);
        }
        self.volume.trim_journal(&done.view);
        self.keep_packs_few();
        Ok(())
    }

    /// After work that took this long, leaves a core to those who write: most of it to those who
    /// write on and on. A request ends it.
    fn rest(&mut self, inbox: &Receiver<Work>, took: Duration) -> Option<Work> {
        let took = took.min(Duration::from_millis(100));
        let goes_on = self.volume.woken.load(Ordering::Acquire);
        self.busy = if goes_on {
            self.busy + took
        } else {
            Duration::ZERO
        };
        let pause = match self.busy > BUSY_AFTER {
            true => took * 2,
            false => took / 2,
        };
        let mut left = pause;
        let mut woken = false;
        while !left.is_zero() {
            let nap = left.min(NAP);
            std::thread::sleep(nap);
            left -= nap;
            while let Ok(work) = inbox.try_recv() {
                if !matches!(work, Work::Wake) {
                    if woken {
                        self.volume.woken.store(false, Ordering::Release);
                        self.volume.wake();
                    }
                    return Some(work);
                }
                woken = true;
            }
        }
        woken.then_some(Work::Wake)
    }

    /// Takes in heads of other nodes.
    fn take_in(&mut self, ids: &[Oid]) -> VolumeResult<()> {
        // First what was written here, on the base it had; then the merge. What has to be read
        // first keeps its base, as what is being written does.
        self.commit_beside()?;
        let base = self.volume.view();
        let Some(view) = chain::take_in(&self.volume.desk(), &base, ids)? else {
            return Ok(());
        };
        self.admitted.get_or_insert_with(Instant::now);
        let mut stale = Vec::new();
        {
            let mut live = self.volume.lock();
            live.numbers.saw(&view.heads);
            live.view = view.clone();
            self.reconcile_all(&mut live, &base, &view, &mut stale)?;
        }
        if !stale.is_empty() {
            self.volume.tell(None, stale);
        }
        self.keep_packs_few();
        Ok(())
    }

    /// Syncs the journal for heads that were taken in, off the way from a write there to a read
    /// here. A commit of ours needs no such care: it is in the journal after the heads that it
    /// names, and is synced with them. Nor does the view: whoever lacks a head after a loss of
    /// power hears of it again, as long as somebody has it. This is for when nobody does, so
    /// that what was shown here for a while is not lost with its author.
    fn sync_admitted(&mut self) {
        if self.admitted.take().is_none() {
            return;
        }
        let journal = self.volume.journal();
        if let Err(e) = journal.sync(journal.last()) {
            tracing::warn!(volume = %self.volume.name(), error = %e, "heads taken in may be forgotten");
        }
    }

    /// How long to wait for work.
    fn patience(&self) -> Duration {
        let shown = self.projected.heads == self.volume.lock().view.heads;
        if self.unsettled.is_some() {
            return RETRY_AFTER;
        }
        if shown && self.volume.repo().waiting().is_none() {
            return OPEN_FILES_EVERY;
        }
        SETTLE_WHEN_QUIET
    }

    fn must_settle(&self) -> bool {
        let waiting = self.volume.repo().waiting();
        waiting.is_some_and(|w| w.since.elapsed() > SETTLE_AFTER || w.bytes > SETTLE_BYTES)
            || self.admitted.is_some_and(|t| t.elapsed() > SETTLE_AFTER)
    }

    /// Whether [`Self::settle`] did; it is tried again later if not.
    pub(super) fn settle_or_warn(&mut self) -> bool {
        if self.unsettled.is_some_and(|t| t.elapsed() < RETRY_AFTER) {
            return false;
        }
        let done = self.settle();
        if let Err(e) = &done {
            tracing::warn!(volume = %self.volume.name(), error = %e, "the journal's objects are in no pack yet");
            self.volume.set_trouble(Some(e.to_string()));
        } else if self.unsettled.is_some() {
            self.volume.set_trouble(None);
        }
        self.unsettled = done.is_err().then(Instant::now);
        done.is_ok()
    }

    /// Writes a pack of what the journal alone holds, makes heads that were taken in durable, and
    /// shows git the view.
    pub(super) fn settle(&mut self) -> VolumeResult<()> {
        self.sync_admitted();
        self.volume.repo().settle()?;
        if self.volume.waits_for_room() {
            return Ok(());
        }
        let view = self.volume.view();
        if view.heads != self.projected.heads {
            self.volume.project(&view, &self.projected);
            self.projected = view;
        }
        Ok(())
    }

    /// See [`Volume::cover`].
    fn cover(&mut self, heads: &[Oid]) -> VolumeResult<()> {
        self.commit(false)?;
        let view = self.volume.view();
        if view.heads.iter().any(|h| heads.contains(&h.id)) {
            self.seal(&view)?;
        }
        Ok(())
    }

    /// Now and then rolls small packs up, beside everything else.
    fn keep_packs_few(&mut self) {
        self.uncounted += 1;
        if self.uncounted < COUNT_PACKS_EVERY
            || self.repacking.as_ref().is_some_and(|t| !t.is_finished())
        {
            return;
        }
        self.uncounted = 0;
        if !packs(self.volume.repo().path()).is_ok_and(|n| n > PACKS_WANTED_MAX) {
            return;
        }
        let repo = self.volume.repo().clone();
        let work = move || {
            if let Err(e) = repack(&repo) {
                tracing::warn!(error = %e, "packs were not rolled up");
            }
        };
        match std::thread::Builder::new()
            .name("repack".to_owned())
            .spawn(work)
        {
            Ok(t) => self.repacking = Some(t),
            Err(e) => tracing::warn!(error = %e, "no thread to roll packs up"),
        }
    }

    #[cfg(test)]
    pub(super) fn await_repack(&mut self) {
        if let Some(Err(e)) = self.repacking.take().map(std::thread::JoinHandle::join) {
            std::panic::resume_unwind(e);
        }
    }

    /// Moves the table from one view to another and to names that waited.
    pub(super) fn reconcile_all(
        &self,
        live: &mut super::live::Live,
        from: &View,
        to: &View,
        stale: &mut Vec<Stale>,
    ) -> VolumeResult<()> {
        let cx = self.volume.cx();
        let waiting: Vec<_> = live.stale.drain().collect();
        // The older view's stage reads everything that either view needs.
        let both = crate::store::objects::Both::new(from.stage.clone(), to.stage.clone());
        let both: &dyn Objects = &both;
        let src = self.volume.source_of(both);
        let known = |id| live.by_id.contains_key(&id);
        let changes = diff::diff(src, &from.state, &to.state, &known)?;
        let mut dirs = std::collections::BTreeSet::new();
        for c in changes.names {
            if let Some(dir) = live.by_id.get(&c.dir).copied() {
                live.reconcile(cx, dir, &c.name, stale)?;
                dirs.insert(dir);
            }
        }
        for id in changes.dirs {
            dirs.extend(live.by_id.get(&id).copied());
        }
        for (dir, name) in waiting {
            live.reconcile(cx, dir, &name, stale)?;
            dirs.insert(dir);
        }
        for dir in dirs {
            if dir == ROOT_INO {
                self.volume.load_root(live)?;
            } else if let Some((p, n)) = live.inodes.get(&dir).and_then(|i| i.place.clone()) {
                live.reconcile(cx, p, &n, stale)?;
            }
            stale.push(Stale::Content { ino: dir });
        }
        Ok(())
    }
}

impl Volume {
    /// Writes refs that show the heads to git; they follow, they do not decide.
    pub(super) fn project(&self, view: &View, before: &View) {
        for h in view.heads.iter() {
            let name = format!("refs/cellfs/heads/{}", h.stamp.branch);
            if let Err(e) = self.repo.set_ref(&name, Some(&h.id)) {
                tracing::warn!(error = %e, name, "a ref was not written");
            }
        }
        for old in before.heads.iter() {
            if !view
                .heads
                .iter()
                .any(|h| h.stamp.branch == old.stamp.branch)
            {
                let name = format!("refs/cellfs/heads/{}", old.stamp.branch);
                if let Err(e) = self.repo.set_ref(&name, None) {
                    tracing::warn!(error = %e, name, "a ref was not removed");
                }
            }
        }
        if view.state.refs != before.state.refs {
            self.project_refs(view, before);
        }
    }

    pub(super) fn trim_journal(&self, view: &View) {
        // In this order: what comes in between has a larger number.
        let last = self.journal.last();
        let waiting = self.repo.waiting().map_or(u64::MAX, |w| w.entry);
        let (needed, opening) = {
            let live = self.lock();
            // While something waits, its entries are needed; and what comes from now on may
            // still go to the segment that is about to be closed.
            let needed = live.first_waiting().min(waiting).min(last + 1);
            let branch = live.numbers.branch;
            let mut opening = recover::opening(branch, view, live.last_committed.as_ref());
            let bound = Self::bound_now(&live);
            opening.extend((!bound.is_empty()).then_some(Entry::Op(bound)));
            (needed, opening)
        };
        if let Err(e) = self.journal.trim(needed, || opening) {
            tracing::warn!(error = %e, "the journal was not trimmed");
        }
    }
}
