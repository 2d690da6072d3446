//! What is asked of a peer, what it is given, and what of that is believed. The streams are
//! the callers'; what goes over them is decided here.
//!
//! Invariant: what came becomes part of what is here only when each head is the commit that its
//! author signed for and all that it needs is here or came with it.

use crate::base::id::Oid;
use crate::record::cache::Cache;
use crate::record::commit::{self, RecordCommit};
use crate::record::{RecordError, Source};
use crate::replicator::HeadNotice;
use crate::store::incoming::{self, IncomingError};
use crate::store::objects::{Object, Objects};

/// Why what came is not believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExchangeError {
    /// Not a pack that holds together with what is here.
    #[error("{0}")]
    Incoming(#[from] IncomingError),
    /// The commit is not there, or none that anybody could have signed.
    #[error("a head is no commit of records: {0}")]
    Commit(RecordError),
    /// The commit is there and says another thing than its notice.
    #[error("a head is not what its author signed: {0}")]
    Lie(Oid),
    /// What its branches and tags lead to cannot be read.
    #[error("the refs of a head: {0}")]
    Refs(RecordError),
    /// An answer to a question that was not asked.
    #[error("it sends what nobody asked for")]
    Unasked,
}

fn read(objs: &dyn Objects, id: &Oid) -> Result<RecordCommit, ExchangeError> {
    commit::decode(objs, id).map_err(ExchangeError::Commit)
}

/// What has to be here, with all that it needs, for this head to be here: the commit and what
/// its branches and tags lead to, since a tag is no commit's parent.
///
/// # Errors
/// When the head cannot be read, or its author signed for another.
pub fn roots(
    objs: &dyn Objects,
    cache: &Cache,
    head: &HeadNotice,
) -> Result<Vec<Oid>, ExchangeError> {
    let c = read(objs, &head.id)?;
    let same = c.head.node == head.node
        && c.head.stamp.branch == head.branch
        && c.head.stamp.seq == head.seq
        && c.head.has_seen(c.head.stamp.dot());
    if !same {
        return Err(ExchangeError::Lie(head.id));
    }
    let mut out = ref_values(objs, cache, &c)?;
    out.push(head.id);
    Ok(out)
}

fn ref_values(
    objs: &dyn Objects,
    cache: &Cache,
    c: &RecordCommit,
) -> Result<Vec<Oid>, ExchangeError> {
    let values = c.state.ref_values(Source::new(objs, cache));
    values.map_err(ExchangeError::Refs)
}

/// The objects of a small pack that makes the closure of these heads complete where `held` is.
///
/// # Errors
/// See [`ExchangeError`].
pub fn believe(
    pack: &[u8],
    held: &dyn Objects,
    cache: &Cache,
    heads: &[&HeadNotice],
) -> Result<Vec<(Oid, Object)>, ExchangeError> {
    let came = incoming::parse(pack)?;
    let with = came.with(held);
    let mut all = Vec::new();
    for head in heads {
        all.extend(roots(&with, cache, head)?);
    }
    Ok(came.verified(held, &all)?)
}

/// Of what a peer says it will send, the heads that are not here.
///
/// # Errors
/// When it says what was not asked.
pub fn still_missing<'a>(
    held: &dyn Objects,
    promised: &[Oid],
    want: &'a [HeadNotice],
) -> Result<Vec<&'a HeadNotice>, ExchangeError> {
    if !promised.iter().all(|i| want.iter().any(|w| w.id == *i)) {
        return Err(ExchangeError::Unasked);
    }
    let missing = |w: &&HeadNotice| promised.contains(&w.id) && !held.has(&w.id).unwrap_or(false);
    Ok(want.iter().filter(missing).collect())
}

/// What of `want` is here.
#[must_use]
pub fn held_of(held: &dyn Objects, want: &[Oid]) -> Vec<Oid> {
    let here = |id: &&Oid| held.has(id).unwrap_or(false);
    want.iter().filter(here).copied().collect()
}

/// Writes what `want`, all of it here, needs and who has `have` lacks. Returns how many objects.
///
/// # Errors
/// As the store and the writer.
pub fn give(
    held: &dyn Objects,
    cache: &Cache,
    want: &[Oid],
    have: &[Oid],
    to: &mut dyn std::io::Write,
) -> Result<u32, IncomingError> {
    let with_refs = |ids: &[Oid]| -> Vec<Oid> {
        let here = held_of(held, ids);
        let values = here.iter().flat_map(|id| {
            let c = read(held, id);
            let values = c.and_then(|c| ref_values(held, cache, &c));
            values.unwrap_or_default()
        });
        let values: Vec<Oid> = values.collect();
        ids.iter().copied().chain(values).collect()
    };
    incoming::send(held, &with_refs(want), &with_refs(have), to)
}
