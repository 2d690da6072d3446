//! What the room tells its owner.
//!
//! Invariant: telling never blocks the network. The queue is bounded ([`EVENTS_MAX`]); when it
//! is full, new events are dropped and counted, and [`Event::Lagged`] says how many before the
//! next one that fits: the owner then reads `members()` and `states()` afresh.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use super::error::Refusal;
use crate::base::id::NodeId;

/// Most events that wait for the owner.
pub const EVENTS_MAX: usize = 4096;

/// Something happened in the cell.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A connection to the node stands.
    Up {
        /// Who.
        node: NodeId,
        /// Where it is now.
        addr: Option<SocketAddr>,
    },
    /// The connection to the node is gone.
    Down {
        /// Who.
        node: NodeId,
    },
    /// The node is heard of, over a connection or through others.
    Alive {
        /// Who.
        node: NodeId,
    },
    /// Nobody has heard of the node for a while. It stays a member.
    Lost {
        /// Who.
        node: NodeId,
    },
    /// A node became a member.
    Joined {
        /// Who.
        node: NodeId,
        /// Its name.
        name: String,
    },
    /// A node is no member any more.
    Left {
        /// Who. This node itself when it was forgotten.
        node: NodeId,
        /// Whether it left by itself.
        graceful: bool,
        /// In words.
        reason: String,
    },
    /// A member announced something; each announcement is told once.
    Announce {
        /// Who signed it.
        author: NodeId,
        /// What.
        payload: Vec<u8>,
    },
    /// A key of a member's state changed; `None` when it was deleted.
    State {
        /// Whose.
        node: NodeId,
        /// Which.
        key: String,
        /// The new value.
        value: Option<String>,
    },
    /// The list of nodes that wait for admission changed.
    Pending,
    /// The clock of a node is far from ours. Nothing is refused for it.
    Skew {
        /// Whose.
        node: NodeId,
        /// Its clock minus ours.
        seconds: i64,
    },
    /// A member that we dialled refuses us.
    Refused {
        /// Who refuses.
        node: NodeId,
        /// Why.
        reason: Refusal,
    },
    /// The owner was too slow and missed this many events.
    Lagged {
        /// How many.
        missed: u64,
    },
}

/// The sending end.
#[derive(Debug)]
pub(crate) struct Events {
    to: mpsc::Sender<Event>,
    missed: AtomicU64,
}

impl Events {
    /// A queue.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Event>) {
        let (to, from) = mpsc::channel(EVENTS_MAX);
        let missed = AtomicU64::new(0);
        (Self { to, missed }, from)
    }

    /// Tells the owner, or counts what it missed.
    pub(crate) fn tell(&self, event: Event) {
        let missed = self.missed.swap(0, Ordering::AcqRel);
        if missed > 0 && self.to.try_send(Event::Lagged { missed }).is_err() {
            self.missed.fetch_add(missed + 1, Ordering::AcqRel);
            return;
        }
        if self.to.try_send(event).is_err() {
            self.missed.fetch_add(1, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_owner_learns_that_it_missed_something() {
        let (events, mut from) = Events::new();
        for _ in 0..EVENTS_MAX + 3 {
            events.tell(Event::Pending);
        }
        for _ in 0..EVENTS_MAX {
            assert_eq!(from.try_recv(), Ok(Event::Pending));
        }
        events.tell(Event::Pending);
        assert_eq!(from.try_recv(), Ok(Event::Lagged { missed: 3 }));
        assert_eq!(from.try_recv(), Ok(Event::Pending));
    }
}
