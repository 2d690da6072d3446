//! What is asked of a peer, what it is given, and what of that is believed. The streams are
//! the callers'; what goes over them is decided here.
//!
//! Invariant: what came becomes part of what is here only when each head is the commit that its
//! author signed for and all that it needs is here or came with it.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::base::id::{BranchId, Oid};
use crate::record::cache::Cache;
use crate::record::commit::{self, RecordCommit, has_seen};
use crate::record::{RecordError, Source};
use crate::replicator::HeadNotice;
use crate::store::incoming::{self, IncomingError};
use crate::store::objects::{Object, ObjectError, Objects};

/// Why what came is not believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExchangeError {
    /// Not a pack that holds together with what is here.
    #[error("{0}")]
    Incoming(#[from] IncomingError),
    /// A commit is not there, or something that it needs to be read.
    #[error("a head is not here: {0}")]
    Commit(RecordError),
    /// What its branches and tags lead to cannot be read.
    #[error("the refs of a head: {0}")]
    Refs(RecordError),
    /// An answer to a question that was not asked.
    #[error("it sends what nobody asked for")]
    Unasked,
}

/// What heads that are here turned out to be.
#[derive(Debug, Default)]
pub struct Judged {
    /// Commits that are what their authors signed for.
    pub good: Vec<Oid>,
    /// What has to be here, with all that it needs, for those to be here: the commits and what
    /// their branches and tags lead to, since a tag is no commit's parent.
    pub roots: Vec<Oid>,
    /// Notices of something else. Whoever sent the commits is not to blame for them.
    pub lies: Vec<HeadNotice>,
}

/// Looks whether heads are the commits that their authors signed for.
///
/// # Errors
/// When a commit is missing, or something that it needs to be read.
pub fn judge(
    objs: &dyn Objects,
    cache: &Cache,
    heads: &[&HeadNotice],
) -> Result<Judged, ExchangeError> {
    let mut out = Judged::default();
    for head in heads {
        let c = match commit::decode(objs, &head.id) {
            Ok(c) => c,
            Err(e @ RecordError::Objects(ObjectError::Missing(_) | ObjectError::Store { .. })) => {
                return Err(ExchangeError::Commit(e));
            }
            Err(_) => {
                out.lies.push((*head).clone());
                continue;
            }
        };
        let same = c.head.node == head.node
            && c.head.stamp.branch == head.branch
            && c.head.stamp.seq == head.seq;
        if !same {
            out.lies.push((*head).clone());
            continue;
        }
        out.roots.extend(ref_values(objs, cache, &c)?);
        out.roots.push(head.id);
        out.good.push(head.id);
    }
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

/// The objects of a small pack that makes the closure of these heads complete where `held` is,
/// and what the heads turned out to be.
///
/// # Errors
/// See [`ExchangeError`].
pub fn believe(
    pack: &[u8],
    held: &dyn Objects,
    cache: &Cache,
    heads: &[&HeadNotice],
) -> Result<(Vec<(Oid, Object)>, Judged), ExchangeError> {
    let came = incoming::parse(pack)?;
    let judged = judge(&came.with(held), cache, heads)?;
    let objects = came.verified(held, &judged.roots)?;
    Ok((objects, judged))
}

/// The heads that a peer says it will send, and whether any of them is not here.
///
/// # Errors
/// When it says what was not asked.
pub fn promised<'a>(
    held: &dyn Objects,
    promised: &[Oid],
    want: &'a [HeadNotice],
) -> Result<(Vec<&'a HeadNotice>, bool), ExchangeError> {
    if !promised.iter().all(|i| want.iter().any(|w| w.id == *i)) {
        return Err(ExchangeError::Unasked);
    }
    let heads = want.iter().filter(|w| promised.contains(&w.id));
    let missing = promised.iter().any(|id| !held.has(id).unwrap_or(false));
    Ok((heads.collect(), missing))
}

/// Branches that a question names: more are left out, and more is sent than is needed.
const SEEN_MAX: usize = 32 << 10;

/// What who asks has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// His heads.
    pub heads: Vec<[u8; 20]>,
    /// The latest commit that he has of each branch, sorted by branch. A head that only he has
    /// says nothing to whom he asks, so after a cut these alone tell what both have.
    pub seen: Vec<(BranchId, u64)>,
}

impl Known {
    /// What is known to who has these heads, which cover `seen`.
    #[must_use]
    pub fn new(heads: impl IntoIterator<Item = Oid>, mut seen: Vec<(BranchId, u64)>) -> Self {
        seen.truncate(SEEN_MAX);
        Self {
            heads: heads.into_iter().map(|h| raw(&h)).collect(),
            seen,
        }
    }

    /// The heads alone: two commits of one name, or a head that says it has seen more than it
    /// has, make an answer to the rest useless. `None` if there is no more than that.
    #[must_use]
    pub fn without_seen(&self) -> Option<Self> {
        let heads = || self.heads.clone();
        (!self.seen.is_empty()).then(|| Self {
            heads: heads(),
            seen: Vec::new(),
        })
    }
}

/// The bytes of an id, as they are sent.
#[must_use]
pub fn raw(id: &Oid) -> [u8; 20] {
    <[u8; 20]>::try_from(id.as_slice()).unwrap_or([0; 20])
}

/// The commits at which the history of `want` meets what is seen already.
fn shared(held: &dyn Objects, want: &[Oid], seen: &[(BranchId, u64)]) -> Vec<Oid> {
    let mut out = Vec::new();
    if seen.is_empty() {
        return out;
    }
    let mut met: HashSet<Oid> = want.iter().copied().collect();
    let mut todo: Vec<Oid> = want.to_vec();
    while let Some(id) = todo.pop() {
        let Ok(c) = commit::decode(held, &id) else {
            continue;
        };
        // What is asked for is not there, whatever its name is.
        if has_seen(seen, c.head.stamp.dot()) && !want.contains(&id) {
            out.push(id);
        } else {
            todo.extend(c.frontier.into_iter().filter(|p| met.insert(*p)));
        }
    }
    out
}

/// What of `want` is here.
#[must_use]
pub fn held_of(held: &dyn Objects, want: &[Oid]) -> Vec<Oid> {
    let here = |id: &&Oid| held.has(id).unwrap_or(false);
    want.iter().filter(here).copied().collect()
}

/// Writes what `want`, all of it here, needs and who has `have` lacks. Returns how many objects:
/// hardly more than he lacks, also when both sides went on apart.
///
/// # Errors
/// As the store and the writer.
pub fn give(
    held: &dyn Objects,
    cache: &Cache,
    want: &[Oid],
    have: &Known,
    to: &mut dyn std::io::Write,
) -> Result<u32, IncomingError> {
    let with_refs = |ids: &[Oid]| -> Vec<Oid> {
        let here = held_of(held, ids);
        let values = here.iter().flat_map(|id| {
            let c = commit::decode(held, id).map_err(ExchangeError::Commit);
            let values = c.and_then(|c| ref_values(held, cache, &c));
            values.unwrap_or_default()
        });
        let values: Vec<Oid> = values.collect();
        ids.iter().copied().chain(values).collect()
    };
    let mut bases: Vec<Oid> = have.heads.iter().map(|h| Oid::from(*h)).collect();
    bases.extend(shared(held, want, &have.seen));
    incoming::send(held, &with_refs(want), &with_refs(&bases), to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{BranchId, NodeId};
    use crate::base::stamp::Stamp;
    use crate::record::state::State;
    use crate::record::{git_commit, git_tree};
    use crate::store::objects::{Memory, ObjectKind, id_of};
    use crate::store::{closure, pack};

    #[test]
    fn a_head_is_believed_only_if_it_is_what_its_author_signed_for() {
        let (objs, cache) = (Memory::default(), Cache::default());
        let stamp = Stamp {
            branch: BranchId(1),
            seq: 1,
            ..Stamp::default()
        };
        let head = commit::Head {
            stamp,
            node: NodeId([1; 32]),
            content: None,
            births: 0,
            seen: vec![(BranchId(1), 1)],
            carried: Vec::new(),
            frontier: 0,
        };
        let new = commit::NewCommit {
            head,
            state: State::empty(Source::new(&objs, &cache)).unwrap(),
            frontier: Vec::new(),
            tips: Vec::new(),
        };
        let id = commit::encode(&objs, new).unwrap();
        let good = HeadNotice {
            volume: "cell".parse().unwrap(),
            node: NodeId([1; 32]),
            branch: BranchId(1),
            seq: 1,
            id,
            signature: Vec::new(),
        };
        let by_another = HeadNotice {
            node: NodeId([2; 32]),
            ..good.clone()
        };
        let of_another_branch = HeadNotice {
            branch: BranchId(2),
            ..good.clone()
        };
        let later = HeadNotice {
            seq: 2,
            ..good.clone()
        };
        let no_commit = HeadNotice {
            id: objs.put(ObjectKind::Blob, b"x".to_vec()).unwrap(),
            ..good.clone()
        };
        for lie in [by_another, of_another_branch, later, no_commit] {
            let judged = judge(&objs, &cache, &[&lie, &good]).unwrap();
            assert_eq!(judged.lies, [lie]);
            assert_eq!((judged.good, judged.roots), (vec![id], vec![id]));
        }
        let missing = HeadNotice {
            id: id_of(ObjectKind::Blob, b"not here"),
            ..good.clone()
        };
        let judged = judge(&objs, &cache, &[&good, &missing]);
        assert!(matches!(judged, Err(ExchangeError::Commit(_))));
    }

    #[test]
    fn a_small_pack_is_believed_only_if_nothing_is_missing() {
        let (objs, cache) = (Memory::default(), Cache::default());
        let src = Source::new(&objs, &cache);
        let stamp = Stamp {
            branch: BranchId(1),
            seq: 1,
            ..Stamp::default()
        };
        let blob = objs.put(ObjectKind::Blob, b"bytes".to_vec()).unwrap();
        let entry = git_tree::TreeEntry {
            mode: git_tree::FILE,
            name: b"file".to_vec(),
            id: blob,
        };
        let tree = git_tree::put(&objs, vec![entry]).unwrap();
        let who = git_commit::identity("a", "a@b", 0);
        let content = git_commit::GitCommit {
            tree,
            parents: Vec::new(),
            author: who.clone(),
            committer: who,
            extra: Vec::new(),
            message: b"m\n".to_vec(),
        };
        let head = commit::Head {
            stamp,
            node: NodeId([1; 32]),
            content: Some(content.put(&objs).unwrap()),
            births: 0,
            seen: vec![(BranchId(1), 1)],
            carried: Vec::new(),
            frontier: 0,
        };
        let new = commit::NewCommit {
            head,
            state: State::empty(src).unwrap(),
            frontier: Vec::new(),
            tips: Vec::new(),
        };
        let id = commit::encode(&objs, new).unwrap();
        let notice = HeadNotice {
            volume: "cell".parse().unwrap(),
            node: NodeId([1; 32]),
            branch: BranchId(1),
            seq: 1,
            id,
            signature: Vec::new(),
        };
        let ids = closure::missing(&objs, &[id], &[]).unwrap();
        let object = |id: &Oid| (*id, objs.find(id).unwrap().unwrap());
        let all: Vec<(Oid, Object)> = ids.iter().map(object).collect();
        assert!(all.len() > 4, "{}", all.len());
        let given = |left_out: Option<Oid>| {
            let some: Vec<(Oid, Object)> = all
                .iter()
                .filter(|(id, _)| Some(*id) != left_out)
                .cloned()
                .collect();
            let pack = pack::encode(&some).unwrap();
            believe(&pack, &Memory::default(), &cache, &[&notice])
        };
        let (objects, judged) = given(None).unwrap();
        assert_eq!((objects.len(), judged.good), (all.len(), vec![id]));
        for (left_out, object) in &all {
            let kind = object.kind;
            assert!(given(Some(*left_out)).is_err(), "without a {kind:?}");
        }
    }
}
