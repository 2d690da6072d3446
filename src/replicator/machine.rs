//! One node's part in replication: which heads are believed, what is announced, fetched from
//! whom, given up and covered. What the node's tasks do around it is sockets, disk and clock;
//! the same machine runs in simulations.
//!
//! Invariants: nothing of a head is done before its signature is checked and its author's
//! membership; what is kept of what others say is bounded: packs by `CARRIED_MAX`, heads by
//! the replicator. One task owns it.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;

use lru::LruCache;

use super::cover::{Orphans, Turns};
use super::{HeadNotice, Input, Output, Replicator};
use crate::base::id::{BranchId, NodeId, Oid, VolumeName};
use crate::base::limit::CARRIED_PACK_BYTES_MAX;

/// A head that others do not gossip is announced again after this long, then after twice as long
/// each time.
const REPEAT_MS: u64 = 5_000;
/// Longest time between two such announcements.
const REPEAT_MS_MAX: u64 = 80_000;
/// So many others that gossip a head are enough, or all that are connected: one may be a liar, or
/// two machines under one key, of which only one is heard.
const VOUCHERS: usize = 3;
/// Packs of announcements that are kept until it is decided what to fetch.
const CARRIED_MAX: NonZeroUsize = NonZeroUsize::new(64).expect("64");

/// Who is who in the cell, at the moment of asking.
pub trait Cell {
    /// This node.
    fn me(&self) -> NodeId;

    /// Whether a node is a member.
    fn is_member(&self, node: NodeId) -> bool;

    /// Whether the notice's author signed it.
    fn is_signed(&self, head: &HeadNotice) -> bool;
}

/// What a volume shows.
#[derive(Debug, Clone)]
pub struct Frontier {
    /// Which volume.
    pub volume: VolumeName,
    /// For each branch, the last commit in it or below it.
    pub seen: Vec<(BranchId, u64)>,
    /// Its heads: who wrote each, and the commit.
    pub heads: Vec<(NodeId, Oid)>,
}

impl Frontier {
    fn shown(&self) -> Input {
        Input::Shown {
            volume: self.volume.clone(),
            seen: self.seen.clone(),
            heads: self.heads.clone(),
        }
    }
}

/// What happens to a node.
#[derive(Debug)]
pub enum Event {
    /// A commit of ours is durable; its pack, if it is small.
    Committed(HeadNotice, Option<Vec<u8>>),
    /// A volume was opened.
    Opened {
        /// What it shows.
        shown: Frontier,
        /// Notices of our own heads among those, and those kept from the last run.
        notices: Vec<HeadNotice>,
    },
    /// A peer announced a head.
    Announced {
        /// Who.
        from: NodeId,
        /// The head.
        head: HeadNotice,
        /// What the commit adds to its parents, perhaps.
        pack: Option<Vec<u8>>,
    },
    /// Heads are in a node's gossiped state.
    Gossiped {
        /// Whose.
        from: NodeId,
        /// The heads.
        heads: Vec<HeadNotice>,
    },
    /// A connection to a peer is up.
    Up(NodeId),
    /// It is down.
    Down(NodeId),
    /// A fetch is getting on.
    Alive(VolumeName),
    /// A fetch ended.
    Fetched {
        /// Its number.
        fetch: u64,
        /// What its volume shows now, if it is open.
        shown: Option<Frontier>,
        /// Whether what was asked for is here and shown.
        ok: bool,
        /// Notices whose commits turned out to be others.
        lies: Vec<HeadNotice>,
    },
    /// Time to look for heads that nobody vouches for.
    Look {
        /// What the volumes show.
        shown: Vec<Frontier>,
        /// Number of connected members whose ids are before ours.
        place: usize,
    },
    /// Time passed.
    Tick,
}

/// A head whose closure is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The head.
    pub head: HeadNotice,
    /// The pack that came with its announcement.
    pub pack: Option<Vec<u8>>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Tell all peers.
    Announce {
        /// The head.
        head: HeadNotice,
        /// What goes with it.
        pack: Option<Vec<u8>>,
    },
    /// Make these the volume's gossiped state, or as many of the first as fit; keep them.
    Gossip {
        /// Which volume.
        volume: VolumeName,
        /// Its heads.
        heads: Vec<HeadNotice>,
    },
    /// Stop the volume's fetch; what it says afterwards counts for nothing.
    GiveUp(VolumeName),
    /// Show these heads: out of what came with them, else from the peer.
    Fetch {
        /// Its number, for [`Event::Fetched`].
        fetch: u64,
        /// Which volume.
        volume: VolumeName,
        /// From whom.
        from: NodeId,
        /// What is wanted.
        want: Vec<Wanted>,
    },
    /// Make a commit without changes on top of these.
    Cover {
        /// Which volume.
        volume: VolumeName,
        /// The heads.
        heads: Vec<Oid>,
        /// Why.
        orphans: Orphans,
    },
}

#[derive(Debug)]
struct UnderWay {
    volume: VolumeName,
    from: NodeId,
}

/// See the module.
#[derive(Debug)]
pub struct Machine {
    core: Replicator,
    turns: Turns,
    /// Small packs by head: of ours until it is announced, of others until it is fetched.
    carried: LruCache<Oid, Vec<u8>>,
    fetches: BTreeMap<u64, UnderWay>,
    last_fetch: u64,
    /// Heads that are shown.
    told: BTreeMap<Oid, Told>,
}

/// How far a head has got.
#[derive(Debug)]
struct Told {
    /// Others that gossip it, up to [`VOUCHERS`].
    by: BTreeSet<NodeId>,
    /// When it is announced again if they are too few, and how long after that.
    again: (u64, u64),
}

impl Machine {
    /// A machine whose choices follow from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            core: Replicator::new(seed),
            turns: Turns::default(),
            carried: LruCache::new(CARRIED_MAX),
            fetches: BTreeMap::new(),
            last_fetch: 0,
            told: BTreeMap::new(),
        }
    }

    /// Number of heads announced for a volume whose closure is not here.
    #[must_use]
    pub fn behind(&self, volume: &VolumeName) -> usize {
        self.core.behind(volume)
    }

    /// Takes an event at `now` (milliseconds of any monotonic clock) and returns what is to be
    /// done.
    pub fn handle(&mut self, event: Event, cell: &dyn Cell, now: u64) -> Vec<Effect> {
        let mut out = Vec::new();
        let mut give = |me: &mut Self, input| {
            let done = me.core.handle(input, now);
            out.extend(done.into_iter().map(|o| me.effect(o)));
        };
        match event {
            Event::Committed(head, pack) => {
                if let Some(pack) = pack {
                    self.carried.put(head.id, pack);
                }
                give(self, Input::Local(head));
            }
            Event::Opened { shown, notices } => {
                give(self, shown.shown());
                let from = cell.me();
                for head in notices {
                    give(self, Input::Heard { from, head });
                }
                give(self, shown.shown());
            }
            Event::Announced { from, head, pack } => {
                if believed(cell, &head) {
                    if let Some(pack) = pack.filter(|p| p.len() <= CARRIED_PACK_BYTES_MAX) {
                        self.carried.put(head.id, pack);
                    }
                    give(self, Input::Heard { from, head });
                }
            }
            Event::Gossiped { from, heads } => {
                for head in heads {
                    // A liar's own notice of the same commit tells nobody of it.
                    if let Some(told) = self.told.get_mut(&head.id)
                        && told.by.len() < VOUCHERS
                        && self.core.notice(&head.volume, &head.id) == Some(&head)
                    {
                        told.by.insert(from);
                    }
                    if self.core.is_news(from, &head) && believed(cell, &head) {
                        give(self, Input::Heard { from, head });
                    }
                }
            }
            Event::Up(peer) => give(self, Input::Up(peer)),
            Event::Down(peer) => give(self, Input::Down(peer)),
            Event::Alive(volume) => give(self, Input::Alive(volume)),
            Event::Fetched {
                fetch,
                shown,
                ok,
                lies,
            } => {
                for lie in lies {
                    tracing::warn!(author = %lie.node.short(), head = %lie.id, "a head is not what its author signed");
                    give(self, Input::False(lie));
                }
                if let Some(shown) = shown {
                    give(self, shown.shown());
                }
                // One that was given up is over already.
                if let Some(UnderWay { volume, from }) = self.fetches.remove(&fetch) {
                    give(self, Input::Fetched { volume, from, ok });
                }
            }
            Event::Look { shown, place } => {
                for author in self.core.wanted_authors() {
                    if !cell.is_member(author) {
                        give(self, Input::Gone(author));
                    }
                }
                if cell.is_member(cell.me()) {
                    out.extend(self.repeat(&shown, now));
                    let due = shown.iter().filter_map(|f| self.cover(f, cell, place, now));
                    let due: Vec<Effect> = due.collect();
                    out.extend(due);
                }
            }
            Event::Tick => give(self, Input::Tick),
        }
        out
    }

    /// What few others seem to have heard: the announcement was lost, and what we gossip may
    /// never be read, as when two machines have our name. Also what is not our own: its author
    /// may have told us alone.
    fn repeat(&mut self, shown: &[Frontier], now: u64) -> Vec<Effect> {
        let heads = shown
            .iter()
            .flat_map(|f| f.heads.iter().map(move |(_, id)| (f, *id)));
        let heads: Vec<(&Frontier, Oid)> = heads.collect();
        let ids: BTreeSet<Oid> = heads.iter().map(|(_, id)| *id).collect();
        self.told.retain(|id, _| ids.contains(id));
        let enough = self.core.connected().min(VOUCHERS);
        let mut out = Vec::new();
        for (f, id) in heads {
            let told = self.told.entry(id).or_insert_with(|| Told {
                by: BTreeSet::new(),
                again: (now + REPEAT_MS, REPEAT_MS),
            });
            let (at, pause) = told.again;
            if told.by.len() < enough
                && now >= at
                && let Some(head) = self.core.notice(&f.volume, &id)
            {
                let pause = (2 * pause).min(REPEAT_MS_MAX);
                told.again = (now + pause, pause);
                let head = head.clone();
                out.push(Effect::Announce { head, pack: None });
            }
        }
        out
    }

    /// What to cover, if anything is and it is our turn.
    fn cover(&mut self, f: &Frontier, cell: &dyn Cell, place: usize, now: u64) -> Option<Effect> {
        let others = || f.heads.iter().filter(|(node, _)| *node != cell.me());
        let strangers = others().filter(|(node, _)| !cell.is_member(*node));
        let strangers: Vec<Oid> = strangers.map(|(_, id)| *id).collect();
        let lost = others().filter(|(_, id)| !self.core.is_vouched(&f.volume, id));
        let lost: Vec<Oid> = lost.map(|(_, id)| *id).collect();
        let (orphans, heads) = match (strangers.is_empty(), lost.is_empty()) {
            (false, _) => (Orphans::OfStrangers, strangers),
            (true, false) => (Orphans::OfMembers, lost),
            (true, true) => (Orphans::None, Vec::new()),
        };
        let due = self.turns.due(&f.volume, orphans, place, now);
        due.then(|| Effect::Cover {
            volume: f.volume.clone(),
            heads,
            orphans,
        })
    }

    fn effect(&mut self, o: Output) -> Effect {
        match o {
            Output::Announce(head) => {
                let pack = self.carried.pop(&head.id);
                Effect::Announce { head, pack }
            }
            Output::Gossip { volume, heads } => Effect::Gossip { volume, heads },
            Output::GiveUp(volume) => {
                self.fetches.retain(|_, f| f.volume != volume);
                Effect::GiveUp(volume)
            }
            Output::Fetch { volume, from, want } => {
                self.last_fetch += 1;
                let fetch = self.last_fetch;
                let under_way = UnderWay {
                    volume: volume.clone(),
                    from,
                };
                self.fetches.insert(fetch, under_way);
                let carried = |head: HeadNotice| {
                    let pack = self.carried.pop(&head.id);
                    Wanted { head, pack }
                };
                Effect::Fetch {
                    fetch,
                    volume,
                    from,
                    want: want.into_iter().map(carried).collect(),
                }
            }
        }
    }
}

/// A head is believed only if its author is a member and signed it.
fn believed(cell: &dyn Cell, head: &HeadNotice) -> bool {
    let good = cell.is_member(head.node) && cell.is_signed(head);
    if !good {
        tracing::debug!(author = %head.node.short(), "a head that nobody vouches for");
    }
    good
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Two;

    impl Cell for Two {
        fn me(&self) -> NodeId {
            NodeId([1; 32])
        }

        fn is_member(&self, node: NodeId) -> bool {
            node.0[0] <= 2
        }

        fn is_signed(&self, head: &HeadNotice) -> bool {
            head.signature == head.node.0
        }
    }

    fn head(author: u8, seq: u64) -> HeadNotice {
        HeadNotice {
            volume: "cell".parse().unwrap(),
            node: NodeId([author; 32]),
            branch: BranchId(u64::from(author)),
            seq,
            id: Oid::from([author; 20]),
            signature: vec![author; 32],
        }
    }

    fn up(m: &mut Machine, peers: &[u8]) {
        for p in peers {
            m.handle(Event::Up(NodeId([*p; 32])), &Two, 0);
        }
    }

    fn gossiped(m: &mut Machine, from: u8, head: HeadNotice) {
        let (from, heads) = (NodeId([from; 32]), vec![head]);
        m.handle(Event::Gossiped { from, heads }, &Two, 0);
    }

    fn look(m: &mut Machine, now: u64) -> Vec<Effect> {
        let shown = vec![Frontier {
            volume: "cell".parse().unwrap(),
            seen: vec![(BranchId(1), 1)],
            heads: vec![(NodeId([1; 32]), head(1, 1).id)],
        }];
        m.handle(Event::Look { shown, place: 0 }, &Two, now)
    }

    #[test]
    fn a_head_that_few_gossip_is_announced_again() {
        let again = vec![Effect::Announce {
            head: head(1, 1),
            pack: None,
        }];
        for peers in [&[2_u8][..], &[2, 3], &[2, 3, 4], &[2, 3, 4, 5, 6]] {
            let mut m = Machine::new(1);
            up(&mut m, peers);
            m.handle(Event::Committed(head(1, 1), None), &Two, 0);
            assert_eq!(look(&mut m, 0), vec![]);
            assert_eq!(look(&mut m, REPEAT_MS - 1), vec![]);
            assert_eq!(look(&mut m, REPEAT_MS), again);
            assert_eq!(look(&mut m, 3 * REPEAT_MS - 1), vec![]);
            assert_eq!(look(&mut m, 3 * REPEAT_MS), again);
            let mut other = head(2, 1);
            other.id = head(1, 1).id;
            let mut now = 10_000_000;
            for p in peers.iter().take(VOUCHERS) {
                assert_eq!(look(&mut m, now), again, "{p} of {peers:?}");
                now += REPEAT_MS_MAX;
                gossiped(&mut m, *p, head(1, 1));
                gossiped(&mut m, *p, head(1, 1));
                gossiped(&mut m, 7, other.clone());
            }
            assert_eq!(look(&mut m, now), vec![], "{peers:?}");
        }
    }

    #[test]
    fn who_is_alone_announces_nothing_twice() {
        let mut m = Machine::new(1);
        m.handle(Event::Committed(head(1, 1), None), &Two, 0);
        assert_eq!(look(&mut m, 0), vec![]);
        assert_eq!(look(&mut m, 9 * REPEAT_MS), vec![]);
        up(&mut m, &[2]);
        assert_eq!(look(&mut m, 10 * REPEAT_MS).len(), 1);
    }

    #[test]
    fn what_no_member_signed_is_not_believed() {
        let mut m = Machine::new(1);
        let volume: VolumeName = "cell".parse().unwrap();
        let mut forged = head(2, 1);
        forged.signature = vec![1; 32];
        for head in [forged, head(3, 1)] {
            let (from, pack) = (NodeId([2; 32]), Some(vec![0; 9]));
            m.handle(
                Event::Announced {
                    from,
                    head: head.clone(),
                    pack,
                },
                &Two,
                0,
            );
            m.handle(
                Event::Gossiped {
                    from,
                    heads: vec![head],
                },
                &Two,
                0,
            );
        }
        assert_eq!((m.behind(&volume), m.carried.len()), (0, 0));
        let (from, head) = (NodeId([2; 32]), head(2, 1));
        m.handle(
            Event::Announced {
                from,
                head,
                pack: None,
            },
            &Two,
            0,
        );
        assert_eq!(m.behind(&volume), 1);
    }
}
