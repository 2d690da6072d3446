//! The core that decides what to announce, what to fetch and from whom. No sockets, no disk,
//! no clock, no chance of its own: `handle(input, now) -> outputs`, the same for the same
//! inputs and seed.
//!
//! Invariants: a head is admitted only after its closure was fetched; what is wanted is
//! bounded by a few heads per branch; an unreachable or lying peer delays, but never ends, the
//! search. Callers bring time as milliseconds of any monotonic clock. One task owns it.
//! [`machine`] is all that a node decides around it, [`exchange`] what goes over the wire.

pub mod cover;
pub mod exchange;
pub mod machine;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;

use lru::LruCache;
use serde::{Deserialize, Serialize};

use crate::base::id::{BranchId, NodeId, Oid, VolumeName};
use crate::record::model::oid_bytes;

/// A head as it is told to others. Signed by its author over [`HeadNotice::signed_bytes`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HeadNotice {
    /// Which volume.
    pub volume: VolumeName,
    /// Who wrote it.
    pub node: NodeId,
    /// On which branch.
    pub branch: BranchId,
    /// Its place there.
    pub seq: u64,
    /// The record commit.
    #[serde(with = "oid_bytes")]
    pub id: Oid,
    /// The author's signature, 64 bytes.
    pub signature: Vec<u8>,
}

impl HeadNotice {
    /// What the signature is over.
    #[must_use]
    pub fn signed_bytes(&self, cell: &NodeId) -> Vec<u8> {
        let mut b = b"cellfs head 1\0".to_vec();
        b.extend_from_slice(&cell.0);
        b.extend_from_slice(self.volume.as_str().as_bytes());
        b.push(0);
        b.extend_from_slice(&self.branch.0.to_le_bytes());
        b.extend_from_slice(&self.seq.to_le_bytes());
        b.extend_from_slice(self.id.as_slice());
        b
    }
}

/// Notices in the gossiped state of one volume.
pub const GOSSIPED_HEADS_MAX: usize = 12;
/// First pause after a failed fetch; doubles up to [`RETRY_MS_MAX`].
const RETRY_MS: u64 = 50;
/// Longest pause between tries.
const RETRY_MS_MAX: u64 = 5_000;
/// A fetch without a sign of life for this long is given up, however long it has been alive.
const SILENT_MS_MAX: u64 = 20_000;
/// A peer that was silent for so long is left alone for this long: to find it silent again
/// would hold up the volume.
const SILENT_PAUSE_MS: u64 = 60_000;
/// Heads of one branch that are wanted at once. The last is enough if its author is honest; one
/// that is nowhere must not hide those that are.
const WANTED_OF_BRANCH_MAX: usize = 4;
/// Branches of one volume that may be wanted at once.
const WANTED_MAX: usize = 4096;
/// The same of one author: one that signs for what is not there keeps no others out.
const WANTED_OF_ONE_MAX: usize = 64;
/// Notices found false that are remembered.
const LIES_MAX: NonZeroUsize = NonZeroUsize::new(1024).expect("1024");

/// What happens.
#[derive(Debug, Clone)]
pub enum Input {
    /// A commit of ours is durable.
    Local(HeadNotice),
    /// A peer told of a head; signature and membership are checked.
    Heard {
        /// Who told.
        from: NodeId,
        /// The head.
        head: HeadNotice,
    },
    /// The view of a volume covers these commits, and these are its heads.
    Shown {
        /// Which volume.
        volume: VolumeName,
        /// For each branch, the last commit covered.
        seen: Vec<(BranchId, u64)>,
        /// The heads, by their authors.
        heads: Vec<(NodeId, Oid)>,
    },
    /// A connection to a peer is up.
    Up(NodeId),
    /// It is down.
    Down(NodeId),
    /// A node is no member any more: what it says it wrote is not wanted. What members have of
    /// it comes under heads of theirs (see [`cover`]).
    Gone(NodeId),
    /// Its author signed for a commit that says something else.
    False(HeadNotice),
    /// The fetch of this volume is getting on.
    Alive(VolumeName),
    /// A fetch ended.
    Fetched {
        /// Which volume.
        volume: VolumeName,
        /// From whom.
        from: NodeId,
        /// Whether what was asked for is here and shown.
        ok: bool,
    },
    /// Time passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Tell all peers.
    Announce(HeadNotice),
    /// Make this the volume's gossiped state.
    Gossip {
        /// Which volume.
        volume: VolumeName,
        /// Its heads.
        heads: Vec<HeadNotice>,
    },
    /// Stop the volume's fetch; nobody waits for its end.
    GiveUp(VolumeName),
    /// Ask a peer for the closure of these heads, then admit them.
    Fetch {
        /// Which volume.
        volume: VolumeName,
        /// From whom.
        from: NodeId,
        /// What is wanted.
        want: Vec<HeadNotice>,
    },
}

#[derive(Debug, Clone)]
struct Wanted {
    head: HeadNotice,
    told_by: BTreeSet<NodeId>,
    /// In so many fetches.
    asked: u32,
}

#[derive(Debug, Default)]
struct Volume {
    /// Notices of all heads that the view has, or had before a commit of ours covered them.
    notices: BTreeMap<BranchId, HeadNotice>,
    seen: BTreeMap<BranchId, u64>,
    heads: BTreeMap<Oid, NodeId>,
    /// By who signed and the branch: what one signs as another's branch stands in nobody's way.
    wanted: BTreeMap<(NodeId, BranchId), Vec<Wanted>>,
    /// The fetch under way: from whom, and when it was last alive.
    fetch: Option<(NodeId, u64)>,
    /// Peers that failed lately, with the number of failures in a row and when to try again.
    failed: BTreeMap<NodeId, (u32, u64)>,
    gossiped: Vec<HeadNotice>,
}

impl Volume {
    /// All that is wanted, of each branch in order.
    fn wants(&self) -> impl Iterator<Item = &Wanted> {
        self.wanted.values().flatten()
    }

    fn keep_wanted(&mut self, keep: impl Fn(&HeadNotice) -> bool) {
        self.wanted.retain(|_, of_branch| {
            of_branch.retain(|w| keep(&w.head));
            !of_branch.is_empty()
        });
    }

    /// Whether a notice is of a head that is shown, by its author.
    fn shows(&self, n: &HeadNotice) -> bool {
        self.heads.get(&n.id) == Some(&n.node)
    }

    /// A peer did not give what was asked for; it rests for at least so long.
    fn fail(&mut self, peer: NodeId, now: u64, at_least: u64) {
        let (n, _) = self.failed.get(&peer).copied().unwrap_or_default();
        let pause = (RETRY_MS << n.min(10)).min(RETRY_MS_MAX).max(at_least);
        self.failed.insert(peer, (n + 1, now + pause));
    }
}

/// See the module.
#[derive(Debug)]
pub struct Replicator {
    volumes: BTreeMap<VolumeName, Volume>,
    up: BTreeSet<NodeId>,
    /// Notices that were found false, lest they be wanted whenever they are repeated.
    lies: LruCache<HeadNotice, ()>,
    chance: u64,
}

impl Replicator {
    /// A core whose choices follow from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            volumes: BTreeMap::new(),
            up: BTreeSet::new(),
            lies: LruCache::new(LIES_MAX),
            chance: seed | 1,
        }
    }

    /// Number of branches with heads announced whose closure is not here.
    #[must_use]
    pub fn behind(&self, volume: &VolumeName) -> usize {
        self.volumes.get(volume).map_or(0, |v| v.wanted.len())
    }

    /// Number of peers that a connection is up to.
    #[must_use]
    pub fn connected(&self) -> usize {
        self.up.len()
    }

    /// Who wrote the heads that are wanted.
    #[must_use]
    pub fn wanted_authors(&self) -> BTreeSet<NodeId> {
        let wanted = self.volumes.values().flat_map(|v| v.wanted.keys());
        wanted.map(|(author, _)| *author).collect()
    }

    /// Whether the author's signed notice of a head is here, to be passed on.
    #[must_use]
    pub fn is_vouched(&self, volume: &VolumeName, head: &Oid) -> bool {
        self.notice(volume, head).is_some()
    }

    /// The author's signed notice of a head, if it is here.
    #[must_use]
    pub fn notice(&self, volume: &VolumeName, head: &Oid) -> Option<&HeadNotice> {
        let v = self.volumes.get(volume)?;
        v.notices.values().find(|n| n.id == *head)
    }

    /// Whether to hear of this head would change anything: to check a signature is dear, and
    /// most of what is gossiped is known.
    #[must_use]
    pub fn is_news(&self, from: NodeId, head: &HeadNotice) -> bool {
        let Some(v) = self.volumes.get(&head.volume) else {
            return true;
        };
        if v.seen.get(&head.branch).is_some_and(|n| *n >= head.seq) {
            return v.shows(head) && v.notices.get(&head.branch) != Some(head);
        }
        let of_branch = v.wanted.get(&(head.node, head.branch));
        match of_branch.and_then(|all| all.iter().find(|w| w.head == *head)) {
            Some(w) => !w.told_by.contains(&from),
            None => !self.lies.contains(head),
        }
    }

    /// Takes an input at `now` (milliseconds) and returns what is to be done.
    pub fn handle(&mut self, input: Input, now: u64) -> Vec<Output> {
        let mut out = Vec::new();
        match input {
            Input::Local(head) => self.local(head, &mut out),
            Input::Heard { from, head } => self.heard(from, head),
            Input::Shown {
                volume,
                seen,
                heads,
            } => self.shown(volume, seen, heads, &mut out),
            Input::Up(peer) => {
                self.up.insert(peer);
                for v in self.volumes.values_mut() {
                    v.failed.remove(&peer);
                }
            }
            Input::Down(peer) => {
                self.up.remove(&peer);
            }
            Input::Alive(volume) => {
                let v = self.volumes.get_mut(&volume);
                if let Some((_, alive)) = v.and_then(|v| v.fetch.as_mut()) {
                    *alive = now;
                }
            }
            Input::Gone(node) => {
                for v in self.volumes.values_mut() {
                    v.keep_wanted(|h| h.node != node);
                }
            }
            Input::False(head) => {
                if let Some(v) = self.volumes.get_mut(&head.volume) {
                    v.keep_wanted(|h| *h != head);
                }
                self.lies.put(head, ());
            }
            Input::Fetched { volume, from, ok } => self.fetched(&volume, from, ok, now),
            Input::Tick => {}
        }
        self.plan(now, &mut out);
        out
    }

    fn local(&mut self, head: HeadNotice, out: &mut Vec<Output>) {
        let v = self.volumes.entry(head.volume.clone()).or_default();
        v.notices.insert(head.branch, head.clone());
        let at = v.seen.entry(head.branch).or_default();
        *at = (*at).max(head.seq);
        // All earlier heads are in its history.
        v.heads = BTreeMap::from([(head.id, head.node)]);
        let name = head.volume.clone();
        out.push(Output::Announce(head));
        self.gossip(&name, out);
    }

    fn heard(&mut self, from: NodeId, head: HeadNotice) {
        if self.lies.contains(&head) {
            return;
        }
        let v = self.volumes.entry(head.volume.clone()).or_default();
        let known = v.seen.get(&head.branch).copied().unwrap_or(0);
        if head.seq <= known {
            if v.shows(&head) {
                v.notices.insert(head.branch, head);
            }
            return;
        }
        let by_author = (head.node, BranchId(0))..=(head.node, BranchId(u64::MAX));
        let room =
            v.wanted.len() < WANTED_MAX && v.wanted.range(by_author).count() < WANTED_OF_ONE_MAX;
        let key = (head.node, head.branch);
        if !room && !v.wanted.contains_key(&key) {
            return;
        }
        let of_branch = v.wanted.entry(key).or_default();
        if let Some(w) = of_branch.iter_mut().find(|w| w.head == head) {
            w.told_by.insert(from);
            return;
        }
        if of_branch.len() == WANTED_OF_BRANCH_MAX {
            // The one that was asked for most often and nobody had; else the earliest.
            let tried = of_branch.iter().map(|w| w.asked).max().unwrap_or(0);
            if let Some(at) = of_branch.iter().position(|w| w.asked == tried) {
                of_branch.remove(at);
            }
        }
        let at = of_branch.partition_point(|w| w.head.seq < head.seq);
        let wanted = Wanted {
            head,
            told_by: BTreeSet::from([from]),
            asked: 0,
        };
        of_branch.insert(at, wanted);
    }

    fn shown(
        &mut self,
        name: VolumeName,
        seen: Vec<(BranchId, u64)>,
        heads: Vec<(NodeId, Oid)>,
        out: &mut Vec<Output>,
    ) {
        let v = self.volumes.entry(name.clone()).or_default();
        for (b, n) in seen {
            let at = v.seen.entry(b).or_default();
            *at = (*at).max(n);
        }
        v.heads = heads.into_iter().map(|(node, id)| (id, node)).collect();
        let (seen, heads) = (&v.seen, &v.heads);
        let got = |h: &HeadNotice| seen.get(&h.branch).is_some_and(|n| *n >= h.seq);
        let shown = |n: &HeadNotice| heads.get(&n.id) == Some(&n.node);
        for w in v.wanted.values().flatten() {
            if got(&w.head) && shown(&w.head) {
                v.notices.insert(w.head.branch, w.head.clone());
            }
        }
        v.wanted.retain(|_, of_branch| {
            of_branch.retain(|w| !got(&w.head));
            !of_branch.is_empty()
        });
        v.notices.retain(|_, n| shown(n));
        self.gossip(&name, out);
    }

    fn gossip(&mut self, name: &VolumeName, out: &mut Vec<Output>) {
        let Some(v) = self.volumes.get_mut(name) else {
            return;
        };
        let shown = v.notices.values().filter(|n| v.shows(n));
        let heads: Vec<HeadNotice> = shown.take(GOSSIPED_HEADS_MAX).cloned().collect();
        if heads != v.gossiped && !heads.is_empty() {
            v.gossiped.clone_from(&heads);
            out.push(Output::Gossip {
                volume: name.clone(),
                heads,
            });
        }
    }

    fn fetched(&mut self, name: &VolumeName, from: NodeId, ok: bool, now: u64) {
        let Some(v) = self.volumes.get_mut(name) else {
            return;
        };
        if v.fetch.is_some_and(|(p, _)| p == from) {
            v.fetch = None;
        }
        if ok {
            v.failed.remove(&from);
        } else {
            v.fail(from, now, 0);
        }
    }

    fn chance(&mut self, below: usize) -> usize {
        // xorshift64*: enough to spread load, and the same in every run of a seed.
        self.chance ^= self.chance >> 12;
        self.chance ^= self.chance << 25;
        self.chance ^= self.chance >> 27;
        let n = self.chance.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(n).unwrap_or(0) % below.max(1)
    }

    /// Starts a fetch for each volume that lacks something and has none under way.
    fn plan(&mut self, now: u64, out: &mut Vec<Output>) {
        let names: Vec<VolumeName> = self.volumes.keys().cloned().collect();
        for name in names {
            let roll = self.chance(1 << 20);
            let Some(v) = self.volumes.get_mut(&name) else {
                continue;
            };
            if let Some((peer, alive)) = v.fetch {
                let silent = now.saturating_sub(alive) > SILENT_MS_MAX;
                if self.up.contains(&peer) && !silent {
                    continue;
                }
                if silent {
                    v.fail(peer, now, SILENT_PAUSE_MS);
                }
                v.fetch = None;
                out.push(Output::GiveUp(name.clone()));
            }
            let Some(peer) = choose(v, &self.up, now, roll) else {
                continue;
            };
            v.fetch = Some((peer, now));
            for w in v.wanted.values_mut().flatten() {
                w.asked = w.asked.saturating_add(1);
            }
            out.push(Output::Fetch {
                volume: name,
                from: peer,
                want: v.wants().map(|w| w.head.clone()).collect(),
            });
        }
    }
}

/// The connected peer that most likely has most of what is wanted: authors first, then those
/// who told of it, then anybody; among equals by chance.
fn choose(v: &Volume, up: &BTreeSet<NodeId>, now: u64, roll: usize) -> Option<NodeId> {
    if v.wanted.is_empty() {
        return None;
    }
    let rested = |p: &&NodeId| v.failed.get(p).is_none_or(|(_, at)| *at <= now);
    let score = |p: &NodeId| {
        let tellers = v.wants().filter(|w| w.told_by.contains(p)).count();
        let authored = v.wants().filter(|w| w.head.node == *p).count();
        // Who failed goes behind those who did not.
        let failed = v.failed.get(p).map_or(0, |(n, _)| *n);
        (std::cmp::Reverse(failed), authored + tellers)
    };
    let best = up.iter().filter(rested).map(score).max()?;
    let equals: Vec<&NodeId> = up
        .iter()
        .filter(rested)
        .filter(|p| score(p) == best)
        .collect();
    equals.get(roll % equals.len().max(1)).map(|p| **p)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId([n; 32])
    }

    fn head(author: u8, branch: u64, seq: u64) -> HeadNotice {
        let mut id = [author; 20];
        id[0] = u8::try_from(seq).unwrap();
        HeadNotice {
            volume: "cell".parse().unwrap(),
            node: node(author),
            branch: BranchId(branch),
            seq,
            id: Oid::from(id),
            signature: Vec::new(),
        }
    }

    fn fetches(out: &[Output]) -> Vec<(NodeId, Vec<u64>)> {
        let f = |o: &Output| match o {
            Output::Fetch { from, want, .. } => Some((*from, want.iter().map(|w| w.seq).collect())),
            _ => None,
        };
        out.iter().filter_map(f).collect()
    }

    #[test]
    fn a_local_commit_is_announced_and_gossiped() {
        let mut r = Replicator::new(1);
        let out = r.handle(Input::Local(head(1, 7, 1)), 0);
        assert!(matches!(
            out.as_slice(),
            [Output::Announce(_), Output::Gossip { .. }]
        ));
    }

    #[test]
    fn heads_that_come_during_a_fetch_go_into_the_next_one_together() {
        let mut r = Replicator::new(1);
        r.handle(Input::Up(node(2)), 0);
        let hear = |seq| Input::Heard {
            from: node(2),
            head: head(2, 7, seq),
        };
        assert_eq!(fetches(&r.handle(hear(1), 0)), vec![(node(2), vec![1])]);
        assert!(fetches(&r.handle(hear(2), 0)).is_empty());
        assert!(fetches(&r.handle(hear(3), 0)).is_empty());
        r.handle(
            Input::Shown {
                volume: "cell".parse().unwrap(),
                seen: vec![(BranchId(7), 1)],
                heads: vec![(node(2), head(2, 7, 1).id)],
            },
            1,
        );
        let done = Input::Fetched {
            volume: "cell".parse().unwrap(),
            from: node(2),
            ok: true,
        };
        assert_eq!(fetches(&r.handle(done, 1)), vec![(node(2), vec![2, 3])]);
    }

    #[test]
    fn a_head_that_is_nowhere_hides_none_that_is() {
        let mut r = Replicator::new(1);
        r.handle(Input::Up(node(3)), 0);
        let failed = || Input::Fetched {
            volume: "cell".parse().unwrap(),
            from: node(3),
            ok: false,
        };
        let hear = |seq| Input::Heard {
            from: node(3),
            head: head(2, 7, seq),
        };
        // Its author signs for one that it never made, then for others.
        let mut now = 0;
        for lie in [9, 10, 11, 12, 13, 14] {
            r.handle(hear(lie), now);
            r.handle(failed(), now);
            now += 10_000;
            r.handle(Input::Tick, now);
            r.handle(failed(), now);
        }
        r.handle(hear(2), now);
        for again in [14, 15] {
            r.handle(hear(again), now);
        }
        let wanted = fetches(&r.handle(Input::Tick, now + 10_000));
        let [(_, wanted)] = wanted.as_slice() else {
            panic!("one fetch: {wanted:?}");
        };
        assert!(
            wanted.contains(&2) && wanted.len() <= WANTED_OF_BRANCH_MAX,
            "{wanted:?}"
        );
    }

    #[test]
    fn a_failing_peer_is_left_for_another_and_tried_again_later() {
        let mut r = Replicator::new(1);
        r.handle(Input::Up(node(2)), 0);
        r.handle(Input::Up(node(3)), 0);
        let out = r.handle(
            Input::Heard {
                from: node(2),
                head: head(2, 7, 1),
            },
            0,
        );
        assert_eq!(fetches(&out), vec![(node(2), vec![1])]);
        let fail = |n| Input::Fetched {
            volume: "cell".parse().unwrap(),
            from: node(n),
            ok: false,
        };
        assert_eq!(fetches(&r.handle(fail(2), 1)), vec![(node(3), vec![1])]);
        assert!(fetches(&r.handle(fail(3), 2)).is_empty(), "both rest");
        assert!(!fetches(&r.handle(Input::Tick, 60)).is_empty());
    }

    #[test]
    fn a_silent_fetch_is_given_up_and_a_slow_one_is_not() {
        let mut r = Replicator::new(1);
        let name: VolumeName = "cell".parse().unwrap();
        r.handle(Input::Up(node(2)), 0);
        r.handle(Input::Up(node(3)), 0);
        let (from, first) = (node(2), head(2, 7, 1));
        let head = |seq| head(2, 7, seq);
        r.handle(Input::Heard { from, head: first }, 0);
        // Alive for an hour.
        for now in (10_000..3_600_000).step_by(10_000) {
            r.handle(Input::Alive(name.clone()), now);
            assert_eq!(r.handle(Input::Tick, now + 9_000), vec![]);
        }
        let last = 3_590_000;
        assert_eq!(r.handle(Input::Tick, last + SILENT_MS_MAX), vec![]);
        let now = last + SILENT_MS_MAX + 1;
        let out = r.handle(Input::Tick, now);
        assert_eq!(out.first(), Some(&Output::GiveUp(name.clone())));
        assert_eq!(fetches(&out), vec![(node(3), vec![1])]);
        // The other one has it not; the silent one rests all the same.
        let failed = |n| Input::Fetched {
            volume: name.clone(),
            from: node(n),
            ok: false,
        };
        let out = r.handle(failed(3), now);
        assert!(fetches(&out).is_empty());
        assert_eq!(fetches(&r.handle(Input::Tick, now + 60)).len(), 1);
        r.handle(failed(3), now + 60);
        // What comes from elsewhere meanwhile is fetched from there.
        let (from, head) = (node(3), head(2));
        let out = r.handle(Input::Heard { from, head }, now + 200);
        assert_eq!(fetches(&out), vec![(node(3), vec![1, 2])]);
        // Who is gone is not waited for.
        let out = r.handle(Input::Down(node(3)), now + 300);
        assert_eq!(out, vec![Output::GiveUp(name)]);
    }

    #[test]
    fn heads_of_who_is_no_member_any_more_are_not_wanted() {
        let mut r = Replicator::new(1);
        let name: VolumeName = "cell".parse().unwrap();
        for (author, branch) in [(2, 7), (3, 8)] {
            let head = head(author, branch, 1);
            let from = node(author);
            r.handle(Input::Heard { from, head }, 0);
        }
        assert_eq!(r.behind(&name), 2);
        r.handle(Input::Gone(node(3)), 0);
        assert_eq!(r.wanted_authors(), BTreeSet::from([node(2)]));
        assert_eq!(
            fetches(&r.handle(Input::Up(node(4)), 0)),
            vec![(node(4), vec![1])]
        );
    }

    #[test]
    fn a_head_that_is_covered_is_not_wanted() {
        let mut r = Replicator::new(1);
        r.handle(Input::Up(node(2)), 0);
        let name: VolumeName = "cell".parse().unwrap();
        r.handle(
            Input::Shown {
                volume: name.clone(),
                seen: vec![(BranchId(7), 5)],
                heads: vec![],
            },
            0,
        );
        let out = r.handle(
            Input::Heard {
                from: node(2),
                head: head(2, 7, 5),
            },
            0,
        );
        assert!(fetches(&out).is_empty());
        assert_eq!(r.behind(&name), 0);
    }
}
