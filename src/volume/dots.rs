//! Finds the record commit that a dot names, by walking back from the heads.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use super::view::HeadInfo;
use crate::base::id::Oid;
use crate::base::stamp::Dot;
use crate::record::Result;
use crate::record::commit;
use crate::record::draft::Dots;
use crate::store::objects::Objects;

/// The history of some heads. Asked only when a merge has to fill in what nobody asserts any
/// more, so a walk is fine.
pub(super) struct Ancestry {
    objects: Arc<dyn Objects>,
    heads: Vec<Oid>,
}

impl Ancestry {
    pub(super) fn new(objects: Arc<dyn Objects>, heads: &[HeadInfo]) -> Self {
        Self {
            objects,
            heads: heads.iter().map(|h| h.id).collect(),
        }
    }
}

impl Dots for Ancestry {
    fn record_commit(&self, dot: Dot) -> Result<Option<Oid>> {
        let mut queue: VecDeque<Oid> = self.heads.iter().copied().collect();
        let mut met: HashSet<Oid> = queue.iter().copied().collect();
        while let Some(id) = queue.pop_front() {
            let c = commit::decode(&*self.objects, &id)?;
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
