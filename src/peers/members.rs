//! The list of members as people see it, and the room's housekeeping.
//!
//! Invariant: the list comes from the log (who), the links and gossip (whether alive) and the
//! pending lists of all nodes (who waits); it decides nothing. One task: every
//! [`HOUSE_PAUSE`] it republishes our own facts and asks linked peers whose log differs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use tokio::time::sleep;

use super::admit::{all_pending, tidy_pending};
use super::core::Core;
use super::gossip::{KEY_ADDRS, KEY_LOG};
use super::roll::{Roll, Standing};
use crate::base::id::NodeId;

/// Pause between rounds of housekeeping.
const HOUSE_PAUSE: Duration = Duration::from_secs(2);

/// How a member stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberState {
    /// This node.
    Us,
    /// Heard of lately, over a connection or through others.
    Alive,
    /// Not heard of for a while.
    Unreachable,
    /// It left by itself.
    Left,
    /// It was thrown out.
    Forgotten,
    /// It waits to be admitted with this code.
    Pending {
        /// The code to compare and to admit.
        code: String,
        /// The member at whose door it waits.
        at: NodeId,
    },
}

/// A line of `cellfs members`.
#[derive(Debug, Clone)]
pub struct Member {
    /// Who.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// How it stands.
    pub state: MemberState,
    /// Whether there is a connection to it now.
    pub connected: bool,
    /// Where it is, or was last.
    pub addr: Option<SocketAddr>,
    /// Round-trip time of the connection.
    pub rtt_ms: Option<f64>,
    /// Its release, as it said when it connected.
    pub version: Option<String>,
    /// Since when it stands so, by the clock of who stated it, in milliseconds since 1970.
    pub since_ms: u64,
    /// Its clock minus ours, as measured when it connected.
    pub clock_skew_ms: Option<i64>,
}

/// Everybody, members first by id, then those that wait.
pub(crate) fn list(core: &Core) -> Vec<Member> {
    let standings = core.with_roll(|r| r.standings().clone());
    let mut all: Vec<Member> = standings
        .into_iter()
        .map(|(node, standing)| line(core, node, standing))
        .collect();
    for (node, at, code, addr, name) in all_pending(core) {
        all.push(Member {
            node,
            name,
            state: MemberState::Pending { code, at },
            connected: false,
            addr: Some(addr),
            rtt_ms: None,
            version: None,
            since_ms: 0,
            clock_skew_ms: None,
        });
    }
    all
}

fn line(core: &Core, node: NodeId, standing: Standing) -> Member {
    let us = node == core.me;
    let link = core.link(node);
    let (name, since_ms, state) = match standing {
        Standing::Forgotten { name, since_ms } => (name, since_ms, MemberState::Forgotten),
        Standing::Left { name, since_ms } => (name, since_ms, MemberState::Left),
        Standing::Member { name, since_ms, .. } if us => (name, since_ms, MemberState::Us),
        Standing::Member { name, since_ms, .. } => {
            if link.is_some() || core.gossip.is_alive(node) {
                (name, since_ms, MemberState::Alive)
            } else {
                (name, since_ms, MemberState::Unreachable)
            }
        }
    };
    let addr = if us {
        core.own_addrs().first().copied()
    } else {
        let live = link.as_ref().and_then(|l| l.conn.addr());
        live.or_else(|| core.addrs_of(node).first().copied())
    };
    let rtt = link.as_ref().and_then(|l| l.conn.rtt());
    let ours = || env!("CARGO_PKG_VERSION").to_owned();
    Member {
        node,
        name,
        state,
        connected: link.is_some(),
        addr,
        rtt_ms: rtt.map(|d| d.as_secs_f64() * 1000.0),
        version: if us {
            Some(ours())
        } else {
            link.as_ref().map(|l| l.release.clone())
        },
        since_ms,
        clock_skew_ms: link.map(|l| l.skew_ms),
    }
}

/// Puts our addresses and the digest of our log into our state.
pub(crate) fn publish(core: &Core) {
    let addrs: Vec<String> = core.own_addrs().iter().map(ToString::to_string).collect();
    core.gossip.set_own(KEY_ADDRS, Some(addrs.join(",")));
    core.gossip.set_own(KEY_LOG, Some(digest(core)));
}

fn digest(core: &Core) -> String {
    HEXLOWER.encode(&core.with_roll(Roll::digest))
}

/// Repeats what must not depend on a single message.
pub(crate) async fn keep_house(core: Arc<Core>) {
    loop {
        tokio::select! {
            () = sleep(HOUSE_PAUSE) => {}
            () = core.stopped() => return,
        }
        publish(&core);
        tidy_pending(&core);
        let ours = digest(&core);
        for link in core.links() {
            let theirs = core.gossip.value(link.node, KEY_LOG);
            if theirs.is_some_and(|t| t != ours) {
                core.ask_log(&link, true);
            }
        }
    }
}
