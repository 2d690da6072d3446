//! From what people write for a moment of the past to the state of that moment.
//!
//! Branches and tags go before times, times before commit ids.

use std::sync::Arc;

use super::past::Past;
use super::timeline::Ancestry;
use super::{History, HistoryError, Now, Result};
use crate::base::id::Oid;
use crate::base::{calendar, clock};
use crate::merge::join::{self, Head};
use crate::merge::view::{MERGE_HEADER, dot_of};
use crate::record::commit;
use crate::record::git_commit;
use crate::store::closure::peeled_commit;
use crate::store::objects::{ObjectKind, Objects};

/// Ids named by who asked for too few digits.
const NAMED_MAX: usize = 5;

impl History {
    /// The past that a text names: a branch or tag, with `:` for each `/` of its name where a
    /// `/` cannot be, a time, or a commit id or the start of one.
    ///
    /// # Errors
    /// What is wrong with the text, or that there is no such past.
    pub fn at(&self, now: &Now, spec: &str) -> Result<Past> {
        if spec == "main" {
            return Ok(self.present(now));
        }
        if let Some(id) = self.by_ref(spec)? {
            return self.at_commit(now, id, spec);
        }
        let ms = i64::try_from(clock::now_ms()).unwrap_or(i64::MAX);
        if let Some((begin, last)) = calendar::parse(spec, ms) {
            // A day that was named may end later than now.
            if begin > ms {
                return Err(HistoryError::Future(spec.to_owned()));
            }
            return self.at_time(now, last);
        }
        let ids = self.commits_starting(now, spec)?;
        match ids.as_slice() {
            [] => Err(HistoryError::NoSpec(spec.to_owned())),
            [id] => self.at_commit(now, *id, spec),
            many => Err(HistoryError::Ambiguous {
                spec: spec.to_owned(),
                ids: many.iter().take(NAMED_MAX).map(Oid::to_string).collect(),
            }),
        }
    }

    /// What is shown at the moment.
    pub(crate) fn present(&self, now: &Now) -> Past {
        Past::records(self.clone(), now.state, now.stage.clone())
    }

    fn by_ref(&self, spec: &str) -> Result<Option<Oid>> {
        let name = spec.replace(':', "/");
        let odd = name.starts_with('/') || name.split('/').any(|p| matches!(p, "" | "." | ".."));
        if odd || name.contains('\0') {
            return Ok(None);
        }
        for kind in ["heads", "tags"] {
            if let Some(id) = self.repo.get_ref(&format!("refs/{kind}/{name}")) {
                return Ok(peeled_commit(&*self.repo, id)?);
            }
        }
        Ok(None)
    }

    fn commits_starting(&self, now: &Now, hex: &str) -> Result<Vec<Oid>> {
        let mut ids = self.repo.starting_with(hex)?;
        if let Some(view) = now.commit
            && hex.len() >= 4
            && view.to_string().starts_with(&hex.to_ascii_lowercase())
            && !ids.contains(&view)
        {
            // It may not be on disk.
            ids.push(view);
        }
        let mut out = Vec::new();
        for id in ids {
            let kind = now.stage.find(&id)?.map(|o| o.kind);
            if kind == Some(ObjectKind::Commit) {
                out.push(id);
            }
        }
        Ok(out)
    }

    /// What all nodes together had written by a time, in milliseconds since 1970, as far as it is
    /// known here.
    fn at_time(&self, now: &Now, at: i64) -> Result<Past> {
        let by = |ms: u64| i64::try_from(ms).is_ok_and(|ms| ms <= at);
        let mut walk = self.walk(&now.heads)?;
        let mut found = Vec::new();
        let mut first = None;
        let mut all = true;
        while let Some(step) = walk.pop()? {
            first = Some(step.stamp.hlc.wall_ms() / 1000);
            if by(step.stamp.hlc.wall_ms()) {
                found.push(step.id);
            } else {
                all = false;
                walk.below(&step)?;
            }
        }
        if all && !found.is_empty() {
            return Ok(self.present(now));
        }
        let first = first.ok_or(HistoryError::Empty)?;
        if found.is_empty() {
            let first = i64::try_from(first).unwrap_or(i64::MAX);
            return Err(HistoryError::BeforeFirst { first });
        }
        self.joined(&found)
    }

    /// What some record commits make together.
    pub(super) fn joined(&self, commits: &[Oid]) -> Result<Past> {
        if let [one] = commits {
            let state = self.step(one)?.state;
            return Ok(Past::records(self.clone(), state, self.stage()));
        }
        let mut heads = Vec::with_capacity(commits.len());
        for id in commits {
            heads.push(Head::from(&commit::decode(&*self.repo, id)?));
        }
        let stage = self.stage();
        let dots = Ancestry::new(self, commits.to_vec());
        let state = join::join(self.source(&*stage), &dots, &heads)?;
        Ok(Past::records(self.clone(), state, stage))
    }

    fn at_commit(&self, now: &Now, id: Oid, spec: &str) -> Result<Past> {
        if let Ok(step) = self.step(&id) {
            return Ok(Past::records(self.clone(), step.state, self.stage()));
        }
        if let Some(state) = self.described(now, id)? {
            return self.joined(&[state]);
        }
        if now.commit == Some(id) {
            return Ok(self.present(now));
        }
        // A commit of stock git that was never what a folder showed.
        let objs: Arc<dyn Objects> = self.repo.clone();
        let c = git_commit::read(&*objs, &id).map_err(|_| HistoryError::NoSpec(spec.to_owned()))?;
        Ok(Past::tree(self.clone(), c.tree, c.seconds()))
    }

    /// The first record commit that describes a content commit, also where later ones that
    /// changed only what git does not see describe it too: a name means one state for ever.
    fn described(&self, now: &Now, content: Oid) -> Result<Option<Oid>> {
        let c = git_commit::read(&*now.stage, &content)?;
        if let Some(dot) = dot_of(&c) {
            let found = Ancestry::new(self, now.heads.clone());
            return Ok(crate::record::draft::Dots::record_commit(&found, dot)?);
        }
        // It came by git: some commit took it in, not before it was made; clocks differ.
        let sealed = c.header(MERGE_HEADER).is_some();
        if sealed && !self.repo.has(&content)? {
            return Ok(None);
        }
        let mut last = None;
        let mut walk = self.walk(&now.heads)?;
        while let Some(step) = walk.next()? {
            if step.content == Some(content) {
                last = Some(step.id);
                if sealed {
                    break;
                }
            }
        }
        Ok(last)
    }
}
