//! From a set of heads to the view: pure but for reading objects. Invariant: the view follows
//! from the heads alone; an object that is missing is an error, never a view without it.

use std::sync::Arc;

use super::view::{HeadInfo, View};
use super::{VolumeResult, dots};
use crate::base::id::Oid;
use crate::merge::{join, project, view as merge_view};
use crate::record::Source;
use crate::record::cache::Cache;
use crate::record::commit::{self, has_seen};
use crate::record::git_commit;
use crate::record::state::State;
use crate::store::objects::{Memory, Objects};

/// The view of no heads.
fn empty(src: Source<'_>, stage: Arc<Memory>) -> VolumeResult<View> {
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
///
/// # Errors
/// When it is not here, or no record commit.
pub fn read_head(src: Source<'_>, id: Oid) -> VolumeResult<HeadInfo> {
    let c = commit::decode(src.objs, &id)?;
    Ok(HeadInfo {
        node: c.head.node,
        stamp: c.head.stamp,
        id,
        content: c.head.content,
        seen: Arc::new(c.head.seen),
        carried: Arc::new(c.head.carried),
        state: c.state,
    })
}

/// The heads that no other head has in its history, sorted by id.
#[must_use]
pub fn maximal(mut heads: Vec<HeadInfo>) -> Vec<HeadInfo> {
    heads.sort_by_key(|h| h.id);
    heads.dedup_by_key(|h| h.id);
    // Two commits of one name, of a member that lies, see each other: both stay.
    let below = |h: &HeadInfo, o: &HeadInfo| {
        o.id != h.id && has_seen(&o.seen, h.stamp.dot()) && !has_seen(&h.seen, o.stamp.dot())
    };
    let covered = |h: &HeadInfo| heads.iter().any(|o| below(h, o));
    let keep: Vec<bool> = heads.iter().map(|h| !covered(h)).collect();
    let mut keep = keep.into_iter();
    heads.retain(|_| keep.next().unwrap_or(true));
    heads
}

/// The view that also has these heads; `None` when they change nothing.
///
/// # Errors
/// When an object of theirs is missing or malformed.
pub fn grow(
    objects: Arc<dyn Objects>,
    cache: &Cache,
    base: &View,
    ids: &[Oid],
) -> VolumeResult<Option<View>> {
    let src = Source::new(&*base.stage, cache);
    let mut heads = base.heads.as_ref().clone();
    let before = heads.len();
    for id in ids {
        if !heads.iter().any(|h| h.id == *id) {
            heads.push(read_head(src, *id)?);
        }
    }
    if heads.len() == before {
        return Ok(None);
    }
    let heads = maximal(heads);
    if heads == *base.heads {
        return Ok(None);
    }
    derive(objects, cache, heads).map(Some)
}

/// The view of these maximal heads. Derived objects are in the view's stage.
///
/// # Errors
/// When an object of theirs is missing or malformed.
pub fn derive(
    objects: Arc<dyn Objects>,
    cache: &Cache,
    heads: Vec<HeadInfo>,
) -> VolumeResult<View> {
    let stage = Arc::new(Memory::over(objects.clone()));
    let src = Source::new(&*stage, cache);
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
    let found = dots::Ancestry::new(objects, &heads);
    let joined: Vec<join::Head> = heads
        .iter()
        .map(|h| join::Head {
            commit: h.id,
            stamp: h.stamp,
            state: h.state,
            seen: h.seen.as_ref().clone(),
            carried: h.carried.as_ref().clone(),
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
