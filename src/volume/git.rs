//! The volume as stock git sees it: commits handed out, pushes taken in, refs on disk.
//!
//! Invariants: what was handed out stays an ancestor of what is handed out later on this node;
//! `refs/heads/main` is the commit last handed out or last pushed, so a push is refused only
//! for another client's push, never for writes through a mount.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fs::File;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::chain::{self, Fixed, Reach, Sealed};
use super::derive;
use super::view::{HeadInfo, View};
use super::worker::Worker;
use super::{Volume, VolumeResult};
use crate::base::clock;
use crate::base::id::Oid;
use crate::base::name::OWN_NAME;
use crate::base::stamp::{Dot, Stamp};
use crate::merge::ahead::Ahead;
use crate::merge::{project, stock, view as merge_view};
use crate::record::change;
use crate::record::change::Change;
use crate::record::commit as record_commit;
use crate::record::git_commit;
use crate::record::git_tree;
use crate::record::model::Kind;
use crate::store::objects::{Memory, ObjectKind, Objects};

/// The branch that mounts show.
pub(super) const MAIN: &str = "refs/heads/main";
/// At most one new seal is handed out in this time.
const SEAL_EVERY: Duration = Duration::from_millis(200);

/// A ref that a git client wants to move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefUpdate {
    /// Full name.
    pub name: String,
    /// Where the client believes it to be; `None`: not there.
    pub old: Option<Oid>,
    /// Where it should be; `None`: removed.
    pub new: Option<Oid>,
}

/// Commits of content, latest first.
type Passed = Vec<(Oid, git_commit::GitCommit)>;

/// What became of it: an error text is shown to the client.
pub type RefVerdict = Result<(), String>;

/// Which record commit describes a content commit, as far as was looked.
#[derive(Debug, Default)]
pub(super) struct Described {
    by_content: HashMap<Oid, Oid>,
    met: HashSet<Oid>,
}

impl Described {
    /// Looks at all record commits in the history of these heads.
    fn extend(&mut self, volume: &Volume, heads: &[HeadInfo]) -> VolumeResult<()> {
        let mut queue: VecDeque<Oid> = heads.iter().map(|h| h.id).collect();
        while let Some(id) = queue.pop_front() {
            if !self.met.insert(id) {
                continue;
            }
            let c = record_commit::decode(&**volume.repo(), &id)?;
            if let Some(content) = c.head.content {
                // The first one met is the latest that describes it.
                self.by_content.entry(content).or_insert(id);
            }
            queue.extend(c.frontier);
        }
        Ok(())
    }
}

/// State of the git side that outlives a request.
#[derive(Debug, Default)]
pub(super) struct GitSide {
    described: Mutex<Described>,
    sealed: Mutex<Option<Instant>>,
}

impl Worker<'_> {
    /// See [`Volume::hand_out`].
    pub(super) fn hand_out(&mut self) -> VolumeResult<Option<Oid>> {
        self.commit(false)?;
        let v = self.volume;
        let view = v.view();
        let Some(commit) = view.commit else {
            return Ok(None);
        };
        if !v.repo().has(&commit)? {
            let recent = {
                let s = v.git.sealed.lock().unwrap_or_else(PoisonError::into_inner);
                s.is_some_and(|t| t.elapsed() < SEAL_EVERY)
            };
            if recent && let Some(last) = v.repo().get_ref(MAIN) {
                return Ok(Some(last));
            }
            self.seal(&view)?;
            let mut s = v.git.sealed.lock().unwrap_or_else(PoisonError::into_inner);
            *s = Some(Instant::now());
        }
        self.settle()?;
        v.repo().set_ref(MAIN, Some(&commit))?;
        Ok(Some(commit))
    }

    /// A record commit without operations whose content is the view itself: the same bytes on
    /// every node, so that a later view descends from what a client was given.
    pub(super) fn seal(&mut self, view: &View) -> VolumeResult<()> {
        let (stamp, births) = self.next_stamp();
        let stage = Memory::over(view.stage.clone());
        self.publish(view, &stage, Sealed::seal(view, stamp, births))
    }

    pub(super) fn next_stamp(&self) -> (Stamp, u64) {
        let mut live = self.volume.lock();
        let stamp = live.numbers.next(clock::now_ms());
        live.numbers.took(stamp);
        (stamp, live.numbers.births)
    }

    /// Makes a commit that holds nothing of the journal the head, and tells the node.
    pub(super) fn publish(
        &mut self,
        before: &View,
        stage: &Memory,
        sealed: Sealed,
    ) -> VolumeResult<()> {
        let reach = Reach::of(self.volume.lock().last_committed.as_ref());
        let fixed = chain::fix(&self.volume.desk(), before, stage, sealed, reach)?;
        let Fixed {
            view,
            head,
            pack,
            record,
        } = fixed;
        let mut stale = Vec::new();
        {
            let mut live = self.volume.lock();
            live.last_committed = Some(record);
            live.view = view.clone();
            if view.state != before.state {
                self.reconcile_all(&mut live, before, &view, &mut stale)?;
            }
        }
        self.volume
            .outlet
            .committed(self.volume.name(), &head, pack);
        if !stale.is_empty() {
            self.volume.tell(None, stale);
        }
        Ok(())
    }

    /// See [`Volume::push`].
    pub(super) fn push(
        &mut self,
        updates: &[RefUpdate],
        atomic: bool,
    ) -> VolumeResult<Vec<RefVerdict>> {
        self.commit(false)?;
        let v = self.volume;
        // What git wrote becomes durable before anything names it.
        File::open(v.repo().pack_dir())?.sync_all()?;
        let base = v.view();
        let stage = Memory::over(base.stage.clone());
        let mut verdicts = Vec::with_capacity(updates.len());
        let mut changes = Vec::new();
        let mut main = None;
        for u in updates {
            let verdict = self.judge(u).and_then(|()| self.leaves_own_name(&base, u));
            if verdict.is_ok() {
                if u.name == MAIN {
                    main = u.new;
                } else {
                    changes.push(self.ref_change(&base, u)?);
                }
            }
            verdicts.push(verdict);
        }
        if atomic && verdicts.iter().any(Result::is_err) {
            let all =
                |v: RefVerdict| v.and_then(|()| Err("not all could be: atomic push".to_owned()));
            return Ok(verdicts.into_iter().map(all).collect());
        }
        if changes.is_empty() && main.is_none() {
            return Ok(verdicts);
        }
        let src = v.source_of(&stage);
        let mut pushed = None;
        let mut carried = Vec::new();
        if let Some(q) = main {
            let (bases, passed) = self.bases_of(&base, q)?;
            let ahead = Ahead::read(src.objs, &passed)?;
            let from = derive::derive(v.repo().clone(), v.cache(), bases)?;
            let tree = git_commit::read(src.objs, &q)?.tree;
            if from.commit != Some(q) {
                let meant = stock::meant(
                    src,
                    stock::Stock {
                        base: &from.state,
                        base_tree: from.tree,
                        commit: q,
                        tree,
                        now: &base.state,
                        ahead: &ahead,
                    },
                )?;
                for path in meant.refused {
                    let path = String::from_utf8_lossy(&path).into_owned();
                    tracing::warn!(path, "a pushed name cannot be shown; git keeps it");
                }
                changes.extend(meant.changes);
                pushed = Some(q);
                carried = ahead.commits;
            }
        }
        if changes.is_empty() && pushed.is_none() {
            return Ok(verdicts);
        }
        let (stamp, births) = self.next_stamp();
        let dots = super::dots::Ancestry::new(v.repo().clone(), &base.heads);
        let state = change::apply(src, &dots, &base.state, stamp, &changes)?;
        let tree = project::project(src, Some((&base.state, base.tree)), &state)?;
        let content = self.content_of_push(&base, &stage, stamp, tree, pushed)?;
        let s = Sealed {
            stamp,
            births,
            content,
            state,
            tree,
            carried,
            // The pushed commit has them.
            kept: None,
        };
        self.publish(&base, &stage, s)?;
        self.pushed = (changes.iter())
            .filter_map(|c| match c {
                Change::Born { id, kind, blob, .. } | Change::Write { id, kind, blob, .. }
                    if *kind == Kind::File =>
                {
                    Some((*id, stamp.dot(), *blob))
                }
                _ => None,
            })
            .collect();
        // The push is durable in any case: a git client sees it a little later then.
        if self.settle_or_warn()
            && let Some(q) = pushed
        {
            let follows = match v.repo().get_ref(MAIN) {
                Some(old) => is_ancestor(&**v.repo(), old, q)?,
                None => true,
            };
            v.repo()
                .set_ref(MAIN, if follows { Some(&q) } else { content.as_ref() })?;
        }
        Ok(verdicts)
    }

    /// Pointers that a push brought, and what they point to is a container here, become large files,
    /// by a commit after it: whoever has its record knows that the bytes are to be had.
    pub(super) fn promote(&mut self) -> VolumeResult<()> {
        let pushed = std::mem::take(&mut self.pushed);
        let v = self.volume;
        if pushed.is_empty() || !v.has_chunks() {
            return Ok(());
        }
        let done = self.amend(|_, stage, _| {
            let mut changes = Vec::new();
            for (id, dot, blob) in &pushed {
                if let Some(head) = v.meant_by(stage, blob)? {
                    changes.push(Change::Write {
                        id: *id,
                        base: vec![*dot],
                        kind: Kind::Large,
                        blob: head,
                    });
                }
            }
            Ok::<_, super::error::VolumeError>(super::Amendment {
                changes,
                message: "large files of a push\n".to_owned(),
                told: (),
            })
        })?;
        done.map(drop)
    }

    /// Whether an update may be: refusals are texts for the client.
    fn judge(&self, u: &RefUpdate) -> RefVerdict {
        let repo = self.volume.repo();
        let known = u.name.starts_with("refs/heads/") || u.name.starts_with("refs/tags/");
        if !known || u.name.contains("..") || u.name.ends_with(".lock") || u.name.ends_with('/') {
            return Err("only refs/heads/ and refs/tags/ are kept".to_owned());
        }
        if u.name == MAIN {
            let Some(new) = u.new else {
                return Err("main is what the mounts show; it cannot be deleted".to_owned());
            };
            let is_commit = repo.find(&new).ok().flatten().map(|o| o.kind);
            if is_commit != Some(ObjectKind::Commit) {
                return Err("main must be a commit".to_owned());
            }
            return Ok(());
        }
        let now = repo.get_ref(&u.name);
        if now != u.old {
            return Err("fetch first: another client moved it".to_owned());
        }
        Ok(())
    }

    /// The folder keeps one name at its top for itself: what is pushed there could not be seen.
    /// What has it already, from before there was such a name, may keep it.
    fn leaves_own_name(&self, base: &View, u: &RefUpdate) -> RefVerdict {
        let (true, Some(new)) = (u.name == MAIN, u.new) else {
            return Ok(());
        };
        let repo = &**self.volume.repo();
        let has = |tree: Oid| git_tree::find(repo, &tree, OWN_NAME).is_ok_and(|e| e.is_some());
        let pushed = git_commit::read(repo, &new).map(|c| c.tree);
        if pushed.is_ok_and(has) && !has(base.tree) {
            return Err(
                ".cellfs at the top is the folder's own name; use another: git mv .cellfs NAME"
                    .to_owned(),
            );
        }
        Ok(())
    }

    fn ref_change(&self, base: &View, u: &RefUpdate) -> VolumeResult<Change> {
        let refs = base.state.refs(self.volume.source(base))?;
        let seen: Vec<Dot> = refs
            .0
            .get(&u.name)
            .map(|vs| vs.iter().map(|v| v.stamp.dot()).collect())
            .unwrap_or_default();
        Ok(Change::Ref {
            name: u.name.clone(),
            base: seen,
            to: u.new,
        })
    }

    /// The record commits of the latest ancestors of a pushed commit that have records, and the
    /// commits above them that say which record belongs to them, which is not here.
    fn bases_of(&self, base: &View, pushed: Oid) -> VolumeResult<(Vec<HeadInfo>, Passed)> {
        let v = self.volume;
        let mut d = v
            .git
            .described
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        d.extend(v, &base.heads)?;
        let src = v.source(base);
        let seen = base.seen();
        let mut found = Vec::new();
        let mut passed = Vec::new();
        let mut queue = VecDeque::from([pushed]);
        let mut met = HashSet::from([pushed]);
        while let Some(id) = queue.pop_front() {
            // The latest head that shows a commit is the best description of it.
            let head = base
                .heads
                .iter()
                .find(|h| h.content == Some(id))
                .map(|h| h.id);
            if let Some(r) = head.or_else(|| d.by_content.get(&id).copied()) {
                found.push(derive::read_head(src, r)?);
                continue;
            }
            let commit = git_commit::read(src.objs, &id)?;
            queue.extend(commit.parents.iter().copied().filter(|p| met.insert(*p)));
            if merge_view::dot_of(&commit).is_some_and(|d| !record_commit::has_seen(&seen, d)) {
                passed.push((id, commit));
            }
        }
        Ok((derive::maximal(found), passed))
    }

    /// The pushed commit itself when it is the whole story, else a merge of it and the view.
    fn content_of_push(
        &self,
        base: &View,
        stage: &Memory,
        stamp: Stamp,
        tree: Oid,
        pushed: Option<Oid>,
    ) -> VolumeResult<Option<Oid>> {
        let Some(q) = pushed else {
            return Ok(base.commit);
        };
        let contents: BTreeSet<Oid> = base.heads.iter().filter_map(|h| h.content).collect();
        let mut within = true;
        for c in &contents {
            within = within && is_ancestor(stage, *c, q)?;
        }
        if within && git_commit::read(stage, &q)?.tree == tree {
            return Ok(Some(q));
        }
        let mut parents: Vec<Oid> = contents.into_iter().collect();
        parents.push(q);
        let who = self.volume.who();
        let new = merge_view::NewContent {
            tree,
            parents,
            dot: stamp.dot(),
            name: &who.name,
            email: &who.email(),
            seconds: i64::try_from(stamp.hlc.wall_ms() / 1000).unwrap_or(i64::MAX),
            message: "merge a push",
            placed: Vec::new(),
        };
        Ok(Some(merge_view::mint(stage, new)?))
    }
}

/// Where git sees a head.
pub(super) fn head_ref(h: &HeadInfo) -> String {
    format!("refs/cellfs/heads/{}", h.stamp.branch)
}

/// Whether `old` is `new` or in its history.
pub(super) fn is_ancestor(objs: &dyn Objects, old: Oid, new: Oid) -> VolumeResult<bool> {
    let mut queue = VecDeque::from([new]);
    let mut met = HashSet::from([new]);
    while let Some(id) = queue.pop_front() {
        if id == old {
            return Ok(true);
        }
        let parents = git_commit::read(objs, &id)?.parents;
        queue.extend(parents.into_iter().filter(|p| met.insert(*p)));
    }
    Ok(false)
}

impl Volume {
    /// Writes branches and tags as git shows them.
    pub(super) fn project_refs(&self, view: &View, before: &View) {
        if let Err(e) = self.try_project_refs(view, before) {
            tracing::warn!(volume = %self.name, error = %e, "refs were not written");
        }
    }

    /// After a crash: refs are not synced one by one, so that any may be damaged, lost or
    /// outdated. Those that the view has are written, those that it has not are removed.
    pub(super) fn restore_refs(&self, view: &View) -> VolumeResult<()> {
        let mut shown = self.shown_refs(view)?;
        for h in view.heads.iter() {
            shown.insert(head_ref(h), h.id);
        }
        for (name, id) in self.repo.refs()? {
            let sound = match id {
                Some(id) => self.repo.has(&id)?,
                None => false,
            };
            if !sound || (name != MAIN && !shown.contains_key(&name)) {
                self.repo.set_ref(&name, None)?;
            }
        }
        for (name, id) in &shown {
            self.repo.set_ref(name, Some(id))?;
        }
        Ok(())
    }

    fn shown_refs(&self, view: &View) -> VolumeResult<BTreeMap<String, Oid>> {
        let refs = view.state.refs(self.source(view))?;
        let shown = refs.shown(|a, b| is_ancestor(&*view.stage, *a, *b))?;
        Ok(shown.into_iter().collect())
    }

    fn try_project_refs(&self, view: &View, before: &View) -> VolumeResult<()> {
        let (new, old) = (self.shown_refs(view)?, self.shown_refs(before)?);
        for (name, id) in &new {
            self.repo.set_ref(name, Some(id))?;
        }
        for name in old.keys().filter(|n| !new.contains_key(*n)) {
            self.repo.set_ref(name, None)?;
        }
        Ok(())
    }
}
