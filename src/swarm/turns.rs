//! Who is served next: what readers wait for before all else, and peers in turn.
//!
//! Invariants: at most [`SERVED_MAX`] are served at once, of one peer [`SERVED_OF_ONE_MAX`], and
//! at most [`WAITING_OF_ONE_MAX`] of one peer wait; more are refused. Of one peer what came first
//! goes first. A peer that asks for much keeps no other waiting for more than its turn. No threads.

use std::collections::{BTreeMap, VecDeque};

use super::Class;
use crate::base::id::NodeId;

/// Pieces that are read and sent at a time: each is in memory.
pub const SERVED_MAX: usize = 16;
/// Of those, for one peer.
pub const SERVED_OF_ONE_MAX: usize = 4;
/// Pieces that wait for one peer: more than it asks for at a time.
pub const WAITING_OF_ONE_MAX: usize = 128;

/// A request, by a number that its owner gave it.
pub type Ticket = u64;

#[derive(Debug, Default)]
struct Line {
    waiting: BTreeMap<Class, VecDeque<Ticket>>,
    served: usize,
}

impl Line {
    fn first(&self) -> Option<Class> {
        let there = |(_, q): &(&Class, &VecDeque<Ticket>)| !q.is_empty();
        self.waiting.iter().find(there).map(|(c, _)| *c)
    }

    fn len(&self) -> usize {
        self.waiting.values().map(VecDeque::len).sum()
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Turns {
    lines: BTreeMap<NodeId, Line>,
    /// Whose turn it was last.
    last: Option<NodeId>,
    served: usize,
}

impl Turns {
    /// A request of a peer waits from now on. Says whether it may.
    pub fn enter(&mut self, peer: NodeId, class: Class, ticket: Ticket) -> bool {
        let line = self.lines.entry(peer).or_default();
        if line.len() >= WAITING_OF_ONE_MAX {
            return false;
        }
        line.waiting.entry(class).or_default().push_back(ticket);
        true
    }

    /// A request that waits is not to be served.
    pub fn withdraw(&mut self, peer: NodeId, ticket: Ticket) {
        if let Some(line) = self.lines.get_mut(&peer) {
            for q in line.waiting.values_mut() {
                q.retain(|t| *t != ticket);
            }
        }
        self.sweep(peer);
    }

    /// One of a peer's requests was served.
    pub fn leave(&mut self, peer: NodeId) {
        if let Some(line) = self.lines.get_mut(&peer)
            && line.served > 0
        {
            line.served -= 1;
            self.served -= 1;
        }
        self.sweep(peer);
    }

    /// Whether nobody waits or is served.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    fn sweep(&mut self, peer: NodeId) {
        let idle = |l: &Line| l.served == 0 && l.len() == 0;
        if self.lines.get(&peer).is_some_and(idle) {
            self.lines.remove(&peer);
        }
    }

    /// The next request to serve, if there is one and room for it.
    pub fn call(&mut self) -> Option<Ticket> {
        if self.served >= SERVED_MAX {
            return None;
        }
        let may = self
            .lines
            .iter()
            .filter(|(_, l)| l.served < SERVED_OF_ONE_MAX);
        let last = self.last;
        // The most urgent; of several peers the one behind whose turn it was.
        let (class, _, peer) = may
            .filter_map(|(n, l)| Some((l.first()?, Some(*n) <= last, *n)))
            .min()?;
        let line = self.lines.get_mut(&peer)?;
        let ticket = line.waiting.get_mut(&class)?.pop_front()?;
        line.served += 1;
        self.served += 1;
        self.last = Some(peer);
        Some(ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u8) -> NodeId {
        NodeId([n; 32])
    }

    #[test]
    fn peers_are_served_in_turn_whatever_one_asks_for() {
        let mut t = Turns::default();
        for n in 0..100 {
            assert!(t.enter(peer(1), Class::Background, n));
        }
        assert!(t.enter(peer(2), Class::Background, 1000));
        assert!(t.enter(peer(3), Class::Background, 1001));
        let first: Vec<_> = std::iter::from_fn(|| t.call()).take(3).collect();
        assert_eq!(first, [0, 1000, 1001]);
        let more = std::iter::from_fn(|| t.call()).count();
        assert_eq!(more, SERVED_OF_ONE_MAX - 1, "one peer has but its share");
    }

    #[test]
    fn what_a_reader_waits_for_goes_first() {
        let mut t = Turns::default();
        t.enter(peer(1), Class::Background, 1);
        t.enter(peer(1), Class::Ahead, 2);
        t.enter(peer(2), Class::Background, 3);
        t.enter(peer(2), Class::Urgent, 4);
        t.enter(peer(1), Class::Urgent, 5);
        let order: Vec<_> = std::iter::from_fn(|| t.call()).collect();
        assert_eq!(order, [5, 4, 2, 3, 1]);
    }

    #[test]
    fn what_waits_and_what_is_served_is_bounded() {
        let mut t = Turns::default();
        for p in 0..40 {
            for n in 0..WAITING_OF_ONE_MAX as u64 {
                assert!(t.enter(peer(p), Class::Background, n));
            }
            assert!(!t.enter(peer(p), Class::Urgent, 0));
        }
        assert_eq!(std::iter::from_fn(|| t.call()).count(), SERVED_MAX);
        t.leave(peer(0));
        assert!(t.call().is_some() && t.call().is_none());
        for p in 0..40 {
            for n in 0..WAITING_OF_ONE_MAX as u64 {
                t.withdraw(peer(p), n);
            }
            for _ in 0..SERVED_OF_ONE_MAX {
                t.leave(peer(p));
            }
        }
        assert!(t.is_empty() && t.served == 0, "{t:?}");
    }
}
