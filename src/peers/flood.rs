//! Announcements: signed by their author, passed on eagerly, told once.
//!
//! Invariant: an announcement is verified before it is told or passed on; per author and
//! epoch it is told at most once, in whatever order copies arrive, within a window of
//! [`WINDOW`] numbers; older ones are dropped. Memory is bounded by the number of members.
//! Losses are repaired by state in gossip, not here. Plain data, no tasks.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::key::{self, NodeKey, dice};
use super::wire;
use crate::base::id::NodeId;

/// Largest payload.
pub const ANNOUNCE_BYTES_MAX: usize = 64 << 10;
/// How far announcements of one author may arrive out of order.
const WINDOW: u64 = 1024;
const WORDS: usize = 16;
/// Smallest number of peers to pass an announcement to.
const FANOUT_MIN: usize = 5;
const DOMAIN: &[u8] = b"cellfs announcement v1\0";

/// What its author signed.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Body {
    cell: NodeId,
    author: NodeId,
    /// Generation of the author's start.
    epoch: u64,
    number: u64,
    payload: Vec<u8>,
}

/// An announcement as it travels.
#[derive(Debug, Serialize, Deserialize)]
struct Signed {
    body: Vec<u8>,
    signature: ([u8; 32], [u8; 32]),
}

/// A verified announcement.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) author: NodeId,
    pub(crate) payload: Vec<u8>,
}

/// Signs an announcement; the result is what travels.
pub(crate) fn sign(
    key: &NodeKey,
    cell: NodeId,
    epoch: u64,
    number: u64,
    payload: Vec<u8>,
) -> Vec<u8> {
    let body = wire::encode(&Body {
        cell,
        author: key.node(),
        epoch,
        number,
        payload,
    });
    let signature = key.sign(&[DOMAIN, &body].concat());
    let (mut low, mut high) = ([0; 32], [0; 32]);
    for (to, from) in low.iter_mut().chain(high.iter_mut()).zip(signature) {
        *to = from;
    }
    wire::encode(&Signed {
        body,
        signature: (low, high),
    })
}

/// Numbers of one author's epoch that were heard.
#[derive(Debug, Clone)]
struct Window {
    epoch: u64,
    newest: u64,
    bits: [u64; WORDS],
}

impl Window {
    /// Whether the number is new.
    fn is_new(&self, epoch: u64, number: u64) -> bool {
        if epoch != self.epoch {
            return epoch > self.epoch;
        }
        number > self.newest || (self.newest - number < WINDOW && !self.bit(number))
    }

    fn note(&mut self, epoch: u64, number: u64) {
        if epoch > self.epoch {
            *self = Self {
                epoch,
                newest: number,
                bits: [0; WORDS],
            };
        }
        let first = (self.newest + 1).max(number.saturating_sub(WINDOW - 1));
        for n in first..=number {
            self.set(n, false);
        }
        self.newest = self.newest.max(number);
        self.set(number, true);
    }

    fn at(number: u64) -> (usize, u64) {
        let slot = number % WINDOW;
        (usize::try_from(slot / 64).unwrap_or(0), 1 << (slot % 64))
    }

    fn bit(&self, number: u64) -> bool {
        let (word, mask) = Self::at(number);
        self.bits.get(word).is_some_and(|w| w & mask != 0)
    }

    fn set(&mut self, number: u64, on: bool) {
        let (word, mask) = Self::at(number);
        if let Some(w) = self.bits.get_mut(word) {
            *w = if on { *w | mask } else { *w & !mask };
        }
    }
}

/// What was heard of whom.
#[derive(Debug, Default)]
pub(crate) struct Flood(HashMap<NodeId, Window>);

impl Flood {
    /// Checks foreign bytes: well formed, of this cell, by an author that `is_member`, signed,
    /// and not heard before. Notes it as heard.
    pub(crate) fn hear(
        &mut self,
        bytes: &[u8],
        cell: NodeId,
        is_member: impl Fn(NodeId) -> bool,
    ) -> Option<Heard> {
        let signed: Signed = wire::decode(bytes).ok()?;
        let body: Body = wire::decode(&signed.body).ok()?;
        let fits = body.cell == cell && body.payload.len() <= ANNOUNCE_BYTES_MAX;
        let window = self.0.get(&body.author);
        let fresh = window.is_none_or(|w| w.is_new(body.epoch, body.number));
        // The signature last: it costs most, and copies are many.
        if !fits || !fresh || !is_member(body.author) || !is_signed(&signed, body.author) {
            return None;
        }
        self.0
            .entry(body.author)
            .or_insert(Window {
                epoch: body.epoch,
                newest: body.number,
                bits: [0; WORDS],
            })
            .note(body.epoch, body.number);
        Some(Heard {
            author: body.author,
            payload: body.payload,
        })
    }

    /// Drops what is known of nodes that are no members.
    pub(crate) fn retain(&mut self, is_member: impl Fn(NodeId) -> bool) {
        self.0.retain(|node, _| is_member(*node));
    }
}

fn is_signed(signed: &Signed, author: NodeId) -> bool {
    let mut signature = [0; 64];
    let halves = signed.signature.0.iter().chain(&signed.signature.1);
    for (to, from) in signature.iter_mut().zip(halves) {
        *to = *from;
    }
    key::verify(author, &[DOMAIN, &signed.body].concat(), &signature)
}

/// How many peers an announcement is passed to in a cell of `nodes`: max(5, 3 log10 N).
pub(crate) fn fanout(nodes: usize) -> usize {
    let mut log = 0;
    // In thirds of a decade: 3 log10 N, rounded down.
    for step in [3, 5, 10, 22, 47, 100, 216, 465, 1000, 2155, 4642, 10_000] {
        if nodes >= step {
            log += 1;
        }
    }
    FANOUT_MIN.max(log)
}

/// Chooses whom to tell, out of `peers` in the order of their ids with round-trip times:
/// the neighbours of `place` on the ring of ids, then the nearest, then some at random.
///
/// The ring is what makes sure that everybody is told where all are connected to all: peers
/// drawn afresh for each announcement would miss one node in e^fanout.
pub(crate) fn choose<T: Clone>(peers: &[(u128, T)], place: usize, nodes: usize) -> Vec<T> {
    let want = fanout(nodes);
    let count = peers.len();
    if count <= want {
        return peers.iter().map(|(_, p)| p.clone()).collect();
    }
    let mut rest: Vec<usize> = (0..count).collect();
    let mut chosen = vec![place % count, (place + count - 1) % count];
    rest.retain(|at| !chosen.contains(at));
    rest.sort_by_key(|at| peers.get(*at).map(|(rtt, _)| *rtt));
    let mut far = rest.split_off((want - chosen.len()).div_ceil(2).min(rest.len()));
    chosen.append(&mut rest);
    while chosen.len() < want && !far.is_empty() {
        let at = usize::try_from(dice(far.len() as u64)).unwrap_or(0);
        chosen.push(far.swap_remove(at));
    }
    let peer = |at: usize| peers.get(at).map(|(_, p)| p.clone());
    chosen.into_iter().filter_map(peer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_announcement_is_heard_once_in_any_order() {
        let key = NodeKey::from_seed([1; 32]);
        let cell = key.node();
        let mut flood = Flood::default();
        let bytes: Vec<_> = (0..100).map(|n| sign(&key, cell, 1, n, vec![7])).collect();
        let mut heard = 0;
        for step in [7, 3, 1] {
            for at in (0..100).step_by(step).rev() {
                heard += usize::from(flood.hear(&bytes[at], cell, |_| true).is_some());
            }
        }
        assert_eq!(heard, 100);
        // A new epoch starts over, and the old one is over.
        assert!(
            flood
                .hear(&sign(&key, cell, 2, 0, vec![]), cell, |_| true)
                .is_some()
        );
        assert!(
            flood
                .hear(&sign(&key, cell, 1, 500, vec![]), cell, |_| true)
                .is_none()
        );
        // Far ahead, then too far behind.
        assert!(
            flood
                .hear(&sign(&key, cell, 2, 9_000, vec![]), cell, |_| true)
                .is_some()
        );
        assert!(
            flood
                .hear(&sign(&key, cell, 2, 8_500, vec![]), cell, |_| true)
                .is_some()
        );
        assert!(
            flood
                .hear(&sign(&key, cell, 2, 1, vec![]), cell, |_| true)
                .is_none()
        );
    }

    #[test]
    fn forged_and_foreign_announcements_are_dropped() {
        let (key, other) = (NodeKey::from_seed([1; 32]), NodeKey::from_seed([2; 32]));
        let cell = key.node();
        let mut flood = Flood::default();
        let good = sign(&key, cell, 1, 1, vec![1, 2, 3]);
        assert!(flood.hear(&good, other.node(), |_| true).is_none());
        assert!(flood.hear(&good, cell, |_| false).is_none());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(flood.hear(&bad, cell, |_| true).is_none(), "byte {at}");
        }
        assert!(flood.hear(&good, cell, |_| true).is_some());
    }

    #[test]
    fn the_fanout_grows_slowly_and_mixes_near_and_far() {
        assert_eq!(fanout(2), 5);
        assert_eq!(fanout(64), 5);
        assert_eq!(fanout(1000), 9);
        let peers: Vec<_> = (0..50_u128).map(|n| (n, n)).collect();
        let chosen = choose(&peers, 30, 51);
        assert_eq!(chosen.len(), 5);
        assert!(chosen.starts_with(&[30, 29, 0, 1]));
        assert!(choose(&peers, 50, 51).starts_with(&[0, 49]));
        assert_eq!(choose(&peers[..3], 1, 4).len(), 3);
    }

    #[test]
    fn nobody_is_missed_where_all_are_connected() {
        for nodes in [2_usize, 7, 12, 64, 300] {
            let rtt = |a: usize, b: usize| ((a * 7919 + b * 104_729) % 1000) as u128;
            let mut told = vec![false; nodes];
            let mut queue = vec![0];
            told[0] = true;
            while let Some(at) = queue.pop() {
                let others = (0..nodes).filter(|o| *o != at);
                let peers: Vec<_> = others.map(|o| (rtt(at, o), o)).collect();
                for next in choose(&peers, at, nodes) {
                    if !std::mem::replace(&mut told[next], true) {
                        queue.push(next);
                    }
                }
            }
            assert!(told.iter().all(|t| *t), "{nodes} nodes");
        }
    }
}
