//! Record commits: a git commit that pins a state, says who made it and what he had seen.
//!
//! Tree: `ids`, `names` and `refs` (the state) and `head` (a blob, [`Head`]). Parents: the
//! record commits of the frontier it was made on, sorted; then the content commit it
//! describes; then the tips of refs it changed, which keeps them alive, and a commit of the blobs
//! that it adds and its content does not show. Invariant: bytes follow from the parts alone, and a decoded commit agrees with itself.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::base::id::{BranchId, NodeId, Oid};
use crate::base::limit;
use crate::base::stamp::{Dot, Stamp};
use crate::record::git_commit::{EMAIL, GitCommit, NAME, identity, read};
use crate::record::git_tree::{self, FILE, TREE, TreeEntry};
use crate::record::model::{maybe_oid_bytes, oid_bytes};
use crate::record::state::State;
use crate::record::{RecordError, Result, trie};
use crate::store::objects::{ObjectKind, Objects};

const VERSION: u8 = crate::base::format::RECORDS;
const MESSAGE: &[u8] = b"record\n";
const KEEP_MESSAGE: &[u8] = b"keep\n";

/// A commit that is known by its content only: see [`Head::carried`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
pub struct Carried {
    /// The record commit, as the content commit names it.
    pub dot: Dot,
    /// The content commit.
    #[serde(with = "oid_bytes")]
    pub content: Oid,
}

/// What a record commit says besides the state.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Head {
    /// The commit's own name and time.
    pub stamp: Stamp,
    /// Who made it.
    pub node: NodeId,
    /// The content commit it describes; none before anything was written.
    #[serde(with = "maybe_oid_bytes")]
    pub content: Option<Oid>,
    /// Files born on the branch so far: the next id's number.
    pub births: u64,
    /// The latest commit known of each branch, itself included; sorted by branch.
    pub seen: Vec<(BranchId, u64)>,
    /// Commits whose content came by stock git ahead of their records; sorted.
    pub carried: Vec<Carried>,
    /// How many of the commit's parents are record commits.
    pub frontier: u32,
}

impl Head {
    /// Whether the commit named by the dot is in the history of this one.
    #[must_use]
    pub fn has_seen(&self, dot: Dot) -> bool {
        has_seen(&self.seen, dot)
    }
}

/// Whether a version vector, sorted by branch, covers a dot.
#[must_use]
pub fn has_seen(seen: &[(BranchId, u64)], dot: Dot) -> bool {
    seen.binary_search_by_key(&dot.branch, |(b, _)| *b)
        .is_ok_and(|i| seen.get(i).is_some_and(|(_, seq)| *seq >= dot.seq))
}

/// The least version vector that covers all of these.
#[must_use]
pub fn join_seen<'a>(
    vectors: impl IntoIterator<Item = &'a [(BranchId, u64)]>,
) -> Vec<(BranchId, u64)> {
    let mut all = std::collections::BTreeMap::new();
    for (branch, seq) in vectors.into_iter().flatten() {
        let max = all.entry(*branch).or_insert(*seq);
        *max = (*max).max(*seq);
    }
    all.into_iter().collect()
}

/// All that these know by content alone, but for what is seen by now: the last
/// [`limit::CARRIED_COMMITS_MAX`].
#[must_use]
pub fn join_carried<'a>(
    lists: impl IntoIterator<Item = &'a [Carried]>,
    seen: &[(BranchId, u64)],
) -> Vec<Carried> {
    let all: BTreeSet<Carried> = lists.into_iter().flatten().copied().collect();
    let mut out: Vec<Carried> = all.into_iter().collect();
    out.retain(|c| !has_seen(seen, c.dot));
    if out.len() > limit::CARRIED_COMMITS_MAX {
        out.sort_unstable_by_key(|c| std::cmp::Reverse((c.dot.seq, *c)));
        out.truncate(limit::CARRIED_COMMITS_MAX);
        out.sort_unstable();
    }
    out
}

/// A record commit to be made.
#[derive(Clone, Debug)]
pub struct NewCommit {
    /// What it says; `frontier` is filled in.
    pub head: Head,
    /// The state it pins.
    pub state: State,
    /// The record commits it was made on.
    pub frontier: Vec<Oid>,
    /// Tips of refs that it changed.
    pub tips: Vec<Oid>,
}

/// A record commit that was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordCommit {
    /// Its id.
    pub id: Oid,
    /// What it says.
    pub head: Head,
    /// The state it pins.
    pub state: State,
    /// The record commits it was made on.
    pub frontier: Vec<Oid>,
    /// Commits that it keeps alive for refs, or keep-commits that do.
    pub tips: Vec<Oid>,
}

/// Makes a record commit and returns its id.
///
/// # Errors
/// When the frontier is too wide for one commit, or the store fails.
pub fn encode(objs: &dyn Objects, new: NewCommit) -> Result<Oid> {
    let NewCommit {
        mut head,
        state,
        mut frontier,
        mut tips,
    } = new;
    frontier.sort_unstable();
    frontier.dedup();
    tips.sort_unstable();
    tips.dedup();
    let count = frontier.len() + usize::from(head.content.is_some());
    // One parent is left for the chain that keeps tips.
    if count >= limit::PARENTS_MAX {
        return Err(RecordError::TooManyParents {
            count,
            max: limit::PARENTS_MAX - 1,
        });
    }
    head.frontier = u32::try_from(frontier.len()).unwrap_or(u32::MAX);
    let seconds = seconds(&head);
    if count + tips.len() > limit::PARENTS_MAX {
        tips = vec![keep_chain(objs, &tips, seconds)?];
    }
    let mut blob = vec![VERSION];
    blob.extend(postcard::to_stdvec(&head).map_err(RecordError::Encode)?);
    let entry = |name: &str, mode, id| TreeEntry {
        mode,
        name: name.into(),
        id,
    };
    let mode = |id: &Oid| -> Result<u32> {
        let is_tree = objs.find(id)?.is_some_and(|o| o.kind == ObjectKind::Tree);
        Ok(if is_tree { TREE } else { FILE })
    };
    let tree = git_tree::put(
        objs,
        vec![
            entry("head", FILE, objs.put(ObjectKind::Blob, blob)?),
            entry("ids", mode(&state.ids)?, state.ids),
            entry("names", mode(&state.names)?, state.names),
            entry("refs", FILE, state.refs),
        ],
    )?;
    let mut parents = frontier;
    parents.extend(head.content);
    parents.extend(tips);
    plain(tree, parents, seconds, MESSAGE).put(objs)
}

fn plain(tree: Oid, parents: Vec<Oid>, seconds: i64, message: &[u8]) -> GitCommit {
    let who = identity(NAME, EMAIL, seconds);
    GitCommit {
        tree,
        parents,
        author: who.clone(),
        committer: who,
        extra: Vec::new(),
        message: message.to_vec(),
    }
}

fn seconds(head: &Head) -> i64 {
    i64::try_from(head.stamp.hlc.wall_ms() / 1000).unwrap_or(i64::MAX)
}

/// Keeps any number of commits alive through one.
fn keep_chain(objs: &dyn Objects, tips: &[Oid], seconds: i64) -> Result<Oid> {
    let tree = git_tree::put(objs, Vec::new())?;
    let mut last: Option<Oid> = None;
    for group in tips.chunks(limit::PARENTS_MAX - 1) {
        let parents = group.iter().copied().chain(last).collect();
        last = Some(plain(tree, parents, seconds, KEEP_MESSAGE).put(objs)?);
    }
    Ok(last.unwrap_or(tree))
}

/// A commit that keeps blobs and trees alive, to be one of [`NewCommit::tips`]: versions that the
/// commit adds and that its content shows merged with others, or as pointers.
///
/// # Errors
/// When the store fails.
pub fn keep_alive(
    objs: &dyn Objects,
    blobs: BTreeSet<Oid>,
    trees: BTreeSet<Oid>,
    head: Stamp,
) -> Result<Oid> {
    let entry = |mode| {
        move |id: Oid| TreeEntry {
            mode,
            name: id.to_string().into(),
            id,
        }
    };
    let blobs = blobs.into_iter().map(entry(FILE));
    let all = blobs.chain(trees.into_iter().map(entry(TREE)));
    let tree = git_tree::put(objs, all.collect())?;
    let seconds = i64::try_from(head.hlc.wall_ms() / 1000).unwrap_or(i64::MAX);
    plain(tree, Vec::new(), seconds, KEEP_MESSAGE).put(objs)
}

/// The state that a record commit pins, without a look at the rest.
///
/// # Errors
/// When it cannot be read.
pub fn state_of(objs: &dyn Objects, id: &Oid) -> Result<State> {
    Ok(parts(objs, *id, &read(objs, id)?)?.0)
}

fn parts(objs: &dyn Objects, id: Oid, commit: &GitCommit) -> Result<(State, Oid)> {
    let bad = |why| RecordError::Commit { id, why };
    let entries = git_tree::read(objs, &commit.tree)?;
    let [head, ids, names, refs] = entries.as_slice() else {
        return Err(bad("its tree has not four entries"));
    };
    let named = [
        (head, "head", false),
        (ids, "ids", true),
        (names, "names", true),
        (refs, "refs", false),
    ];
    for (e, name, may_be_tree) in named {
        let fits = e.mode == FILE || (may_be_tree && e.is_tree());
        if e.name != name.as_bytes() || !fits {
            return Err(bad("its tree has other entries"));
        }
    }
    let state = State {
        ids: ids.id,
        names: names.id,
        refs: refs.id,
    };
    Ok((state, head.id))
}

/// Reads a record commit and checks that it agrees with itself.
///
/// # Errors
/// When it is missing, or anything about it is not as [`encode`] makes it.
pub fn decode(objs: &dyn Objects, id: &Oid) -> Result<RecordCommit> {
    let bad = |why| RecordError::Commit { id: *id, why };
    let commit = read(objs, id)?;
    let (state, head_id) = parts(objs, *id, &commit)?;
    let blob = objs.get(&head_id, ObjectKind::Blob)?;
    let Some((&VERSION, body)) = blob.split_first() else {
        return Err(bad(
            "another version of cellfs wrote it, in a format that this one does not read (see `cellfs version`)",
        ));
    };
    let (head, rest): (Head, _) =
        postcard::take_from_bytes(body).map_err(|_| bad("its head does not parse"))?;
    if !rest.is_empty() {
        return Err(bad("bytes follow its head"));
    }
    check_head(&head).map_err(bad)?;
    let frontier_len = usize::try_from(head.frontier).unwrap_or(usize::MAX);
    let (frontier, others) = commit
        .parents
        .split_at_checked(frontier_len)
        .ok_or_else(|| bad("it has fewer parents than its frontier"))?;
    if !frontier.is_sorted_by(|a, b| a < b) {
        return Err(bad("its frontier is not sorted"));
    }
    let tips = match head.content {
        None => others,
        Some(content) => others
            .strip_prefix(&[content])
            .ok_or_else(|| bad("its content commit is not among its parents"))?,
    };
    let expected = plain(commit.tree, commit.parents.clone(), seconds(&head), MESSAGE);
    if commit != expected || commit.parents.len() > limit::PARENTS_MAX {
        return Err(bad("its headers are not those of a record commit"));
    }
    Ok(RecordCommit {
        id: *id,
        state,
        frontier: frontier.to_vec(),
        tips: tips.to_vec(),
        head,
    })
}

fn check_head(head: &Head) -> std::result::Result<(), &'static str> {
    if head.stamp.seq == 0 {
        return Err("it is before the first of its branch");
    }
    if !head.seen.is_sorted_by(|a, b| a.0 < b.0) || !head.carried.is_sorted_by(|a, b| a < b) {
        return Err("what it saw is not sorted");
    }
    if !head.seen.contains(&(head.stamp.branch, head.stamp.seq)) {
        return Err("it has not seen itself");
    }
    Ok(())
}

/// Whether all objects of a state can be read as what they should be. It opens everything.
///
/// # Errors
/// What cannot be read.
pub fn check_state(src: crate::record::Source<'_>, state: &State) -> Result<()> {
    let all = trie::key::Key::of_id(crate::base::id::FileId::ROOT);
    trie::visit::<crate::record::model::Record>(src, state.ids, &all, 0, &mut |_| {})?;
    trie::visit::<crate::record::state::Placed>(src, state.names, &all, 0, &mut |_| {})?;
    state.refs(src).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::stamp::Hlc;
    use crate::record::{Source, cache::Cache};
    use crate::store::objects::Memory;

    fn new(objs: &Memory, frontier: Vec<Oid>, tips: Vec<Oid>) -> NewCommit {
        let branch = BranchId(7);
        NewCommit {
            head: Head {
                stamp: Stamp {
                    hlc: Hlc::default().tick(5_000),
                    branch,
                    seq: 2,
                },
                node: NodeId([9; 32]),
                content: Some(Oid::from([8; 20])),
                births: 3,
                seen: vec![(branch, 2)],
                carried: Vec::new(),
                frontier: 0,
            },
            state: State::empty(Source::new(objs, &Cache::default())).expect("memory"),
            frontier,
            tips,
        }
    }

    fn oids(n: u8) -> Vec<Oid> {
        (0..n).rev().map(|i| Oid::from([i; 20])).collect()
    }

    #[test]
    fn a_record_commit_is_read_back_whole() {
        let objs = Memory::default();
        let id = encode(&objs, new(&objs, oids(3), oids(2))).expect("encodes");
        let back = decode(&objs, &id).expect("decodes");
        assert_eq!(back.frontier.len(), 3);
        assert!(back.frontier.is_sorted());
        assert_eq!(back.tips.len(), 2);
        assert_eq!(back.head.births, 3);
        assert_eq!(state_of(&objs, &id).expect("reads"), back.state);
        assert!(back.head.has_seen(back.head.stamp.dot()));
    }

    #[test]
    fn many_tips_hang_on_a_chain() {
        let objs = Memory::default();
        let id = encode(&objs, new(&objs, oids(3), oids(200))).expect("encodes");
        let back = decode(&objs, &id).expect("decodes");
        let mut kept = 0;
        let mut next = back.tips.first().copied();
        while let Some(keep) = next {
            let c = read(&objs, &keep).expect("a keep-commit");
            assert!(c.parents.len() <= limit::PARENTS_MAX);
            next = c
                .parents
                .last()
                .copied()
                .filter(|p| objs.has(p).expect("memory"));
            kept += c.parents.len() - usize::from(next.is_some());
        }
        assert_eq!(kept, 200);
        assert!(encode(&objs, new(&objs, oids(63), vec![])).is_err());
    }

    #[test]
    fn a_commit_that_contradicts_itself_is_refused() {
        let objs = Memory::default();
        let id = encode(&objs, new(&objs, oids(3), oids(2))).expect("encodes");
        let good = read(&objs, &id).expect("reads");
        let spoil: [fn(&mut GitCommit); 5] = [
            |c| c.parents.truncate(2),
            |c| c.parents[3] = Oid::from([77; 20]),
            |c| c.parents.swap(0, 1),
            |c| c.message = b"other\n".to_vec(),
            |c| c.author = identity("a", "b", 1),
        ];
        for f in spoil {
            let mut c = good.clone();
            f(&mut c);
            let id = c.put(&objs).expect("memory");
            assert!(matches!(
                decode(&objs, &id),
                Err(RecordError::Commit { .. })
            ));
        }
    }
}
