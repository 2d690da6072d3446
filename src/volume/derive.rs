//! From a set of heads to the view: pure but for reading objects.

use std::sync::Arc;

use super::view::{HeadInfo, View};
use super::{Volume, VolumeResult, dots};
use crate::base::id::Oid;
use crate::merge::{join, project, view as merge_view};
use crate::record::Source;
use crate::record::commit::{self, has_seen};
use crate::record::git_commit;
use crate::record::state::State;
use crate::store::objects::{Memory, Objects};

/// The view of no heads.
pub(super) fn empty(src: Source<'_>, stage: Arc<Memory>) -> VolumeResult<View> {
    let state = State::empty(src)?;
    let tree = project::project(src, None, &state)?;
    Ok(View {
        heads: Arc::default(),
        state,
        tree,
        commit: None,
        stage,
    })
}

/// Reads a head's record commit.
pub(super) fn read_head(src: Source<'_>, id: Oid) -> VolumeResult<HeadInfo> {
    let c = commit::decode(src.objs, &id)?;
    Ok(HeadInfo {
        node: c.head.node,
        stamp: c.head.stamp,
        id,
        content: c.head.content,
        seen: Arc::new(c.head.seen),
        state: c.state,
    })
}

/// The heads that no other head has in its history, sorted by id.
pub(super) fn maximal(mut heads: Vec<HeadInfo>) -> Vec<HeadInfo> {
    heads.sort_by_key(|h| h.id);
    heads.dedup_by_key(|h| h.id);
    let covered = |h: &HeadInfo| {
        let dot = h.stamp.dot();
        heads.iter().any(|o| o.id != h.id && has_seen(&o.seen, dot))
    };
    let keep: Vec<bool> = heads.iter().map(|h| !covered(h)).collect();
    let mut keep = keep.into_iter();
    heads.retain(|_| keep.next().unwrap_or(true));
    heads
}

/// The view of these maximal heads. Derived objects are in the view's stage.
pub(super) fn derive(volume: &Volume, heads: Vec<HeadInfo>) -> VolumeResult<View> {
    let below: Arc<dyn Objects> = volume.repo().clone();
    let stage = Arc::new(Memory::over(below));
    let src = volume.source_of(&*stage);
    let Some(first) = heads.first().cloned() else {
        return empty(src, stage.clone());
    };
    let alike = |h: &HeadInfo| h.content == first.content && h.state == first.state;
    let first_tree = match first.content {
        Some(c) => git_commit::read(src.objs, &c)?.tree,
        None => project::project(src, None, &first.state)?,
    };
    if heads.iter().all(alike) {
        return Ok(View {
            state: first.state,
            tree: first_tree,
            commit: first.content,
            heads: Arc::new(heads),
            stage,
        });
    }
    let found = dots::Ancestry::new(volume, &heads);
    let joined: Vec<join::Head> = heads
        .iter()
        .map(|h| join::Head {
            commit: h.id,
            stamp: h.stamp,
            state: h.state,
            seen: h.seen.as_ref().clone(),
            carried: Vec::new(),
        })
        .collect();
    let state = join::join(src, &found, &joined)?;
    let tree = project::project(src, Some((&first.state, first_tree)), &state)?;
    let mut contents: Vec<Oid> = heads.iter().filter_map(|h| h.content).collect();
    contents.sort_unstable();
    contents.dedup();
    let commit = merge_view::view(src.objs, &contents, tree)?;
    Ok(View {
        heads: Arc::new(heads),
        state,
        tree,
        commit,
        stage,
    })
}
