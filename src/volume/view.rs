//! What all nodes with the same heads show.

use std::sync::Arc;

use crate::base::id::{BranchId, NodeId, Oid};
use crate::base::stamp::Stamp;
use crate::record::commit::{Carried, join_seen};
use crate::record::state::State;
use crate::store::objects::Memory;

/// A head: the last record commit of a branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadInfo {
    /// Who wrote it.
    pub node: NodeId,
    /// Branch, place and time.
    pub stamp: Stamp,
    /// The record commit.
    pub id: Oid,
    /// The content commit it describes; none before the first file.
    pub content: Option<Oid>,
    /// For each branch, the last commit that this head has seen.
    pub seen: Arc<Vec<(BranchId, u64)>>,
    /// Commits that it knows by their content only; sorted.
    pub carried: Arc<Vec<Carried>>,
    /// The records at this head.
    pub state: State,
}

/// See the module. A pure function of `heads`.
#[derive(Debug, Clone)]
pub struct View {
    /// The frontier, sorted by commit id.
    pub heads: Arc<Vec<HeadInfo>>,
    /// The merged records.
    pub state: State,
    /// The merged content tree.
    pub tree: Oid,
    /// The content commit: the head's own, or the derived merge; none for an empty volume.
    pub commit: Option<Oid>,
    /// Reads the repository, and holds what was derived and is not on disk.
    pub stage: Arc<Memory>,
}

impl View {
    /// For each branch, the last commit in the view; sorted by branch.
    #[must_use]
    pub fn seen(&self) -> Vec<(BranchId, u64)> {
        join_seen(self.heads.iter().map(|h| h.seen.as_slice()))
    }
}
