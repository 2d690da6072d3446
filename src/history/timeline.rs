//! Walks over record commits, from the latest to the earliest.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashSet, VecDeque};
use std::sync::Arc;

use super::{History, Result, Step};
use crate::base::id::{NodeId, Oid};
use crate::base::stamp::{Dot, Stamp};
use crate::merge::view::{MERGE_HEADER, dot_of};
use crate::record::commit;
use crate::record::draft::Dots;
use crate::record::git_commit;

/// Commits in the order of their stamps, the latest first, each once.
pub(super) struct Walk<'a> {
    history: &'a History,
    heap: BinaryHeap<(Stamp, Oid)>,
    met: HashSet<Oid>,
}

impl Walk<'_> {
    pub(super) fn push(&mut self, id: Oid) -> Result<()> {
        if self.met.insert(id) {
            let step = self.history.step(&id)?;
            self.heap.push((step.stamp, id));
        }
        Ok(())
    }

    /// The next commit; what it was made on is walked only if it is told by [`Self::below`].
    pub(super) fn pop(&mut self) -> Result<Option<Arc<Step>>> {
        let Some((_, id)) = self.heap.pop() else {
            return Ok(None);
        };
        self.history.step(&id).map(Some)
    }

    pub(super) fn below(&mut self, step: &Step) -> Result<()> {
        for p in &step.frontier {
            self.push(*p)?;
        }
        Ok(())
    }

    /// The next commit, on the way to the first.
    pub(super) fn next(&mut self) -> Result<Option<Arc<Step>>> {
        let step = self.pop()?;
        if let Some(s) = &step {
            self.below(s)?;
        }
        Ok(step)
    }
}

/// Who did something, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The node.
    pub node: NodeId,
    /// Its name when it did, if the commit tells.
    pub name: Option<String>,
    /// Milliseconds since 1970, by its clock.
    pub time_ms: u64,
}

impl History {
    pub(super) fn walk(&self, heads: &[Oid]) -> Result<Walk<'_>> {
        let mut walk = Walk {
            history: self,
            heap: BinaryHeap::new(),
            met: HashSet::new(),
        };
        for h in heads {
            walk.push(*h)?;
        }
        Ok(walk)
    }

    /// What a commit tells of its author.
    pub(super) fn origin(&self, step: &Step) -> Origin {
        let name = step.content.and_then(|c| {
            let c = git_commit::read(&*self.repo, &c).ok()?;
            // A pushed commit has an author who is no node.
            dot_of(&c).filter(|d| *d == step.stamp.dot())?;
            let name = c.author.split(|b| *b == b'<').next()?.trim_ascii();
            Some(String::from_utf8_lossy(name).into_owned())
        });
        Origin {
            node: step.node,
            name,
            time_ms: step.stamp.hlc.wall_ms(),
        }
    }

    /// Author and first line of a content commit, if it came by git as it is.
    pub(super) fn pushed(&self, content: Oid) -> Option<(String, String)> {
        let c = git_commit::read(&*self.repo, &content).ok()?;
        let ours = dot_of(&c).is_some() || c.header(MERGE_HEADER).is_some();
        if ours || self.step(&content).is_ok() {
            return None;
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes.trim_ascii()).into_owned();
        let author = c.author.split(|b| *b == b'<').next()?;
        Some((text(author), text(c.message.split(|b| *b == b'\n').next()?)))
    }

    /// The id by which people name a commit: that of its content commit, unless an earlier commit
    /// has the same content, as when only a mode was changed; then its own.
    pub(super) fn name_of(&self, step: &Step) -> Result<Oid> {
        let Some(content) = step.content else {
            return Ok(step.id);
        };
        for p in &step.frontier {
            if self.step(p)?.content == Some(content) {
                return Ok(step.id);
            }
        }
        Ok(content)
    }

    /// The commits that these stamps name, as far as they are in the history of the heads. Costs
    /// what was committed since the earliest of them.
    pub(super) fn steps_of(
        &self,
        heads: &[Oid],
        stamps: &BTreeSet<Stamp>,
    ) -> Result<BTreeMap<Dot, Arc<Step>>> {
        let mut out = BTreeMap::new();
        let Some(first) = stamps.first() else {
            return Ok(out);
        };
        let mut walk = self.walk(heads)?;
        while out.len() < stamps.len()
            && let Some(step) = walk.pop()?
        {
            if step.stamp < *first {
                break;
            }
            if stamps.contains(&step.stamp) {
                out.insert(step.stamp.dot(), step.clone());
            }
            walk.below(&step)?;
        }
        Ok(out)
    }
}

/// Finds commits by their dots in the history of some heads.
#[derive(Debug)]
pub(super) struct Ancestry<'a> {
    history: &'a History,
    heads: Vec<Oid>,
}

impl<'a> Ancestry<'a> {
    pub(super) fn new(history: &'a History, heads: Vec<Oid>) -> Self {
        Self { history, heads }
    }
}

impl Dots for Ancestry<'_> {
    fn record_commit(&self, dot: Dot) -> crate::record::Result<Option<Oid>> {
        let mut queue: VecDeque<Oid> = self.heads.iter().copied().collect();
        let mut met: HashSet<Oid> = queue.iter().copied().collect();
        while let Some(id) = queue.pop_front() {
            let c = commit::decode(&*self.history.repo, &id)?;
            if c.head.stamp.dot() == dot {
                return Ok(Some(id));
            }
            // A commit that has not seen the dot has no ancestor that has.
            if c.head.has_seen(dot) {
                queue.extend(c.frontier.iter().copied().filter(|p| met.insert(*p)));
            }
        }
        Ok(None)
    }
}
