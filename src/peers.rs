//! The other nodes: who is a member, how to reach them, and what they say.
//!
//! What it does: lets nodes into the cell and keeps all others out ([`Cell`], tickets, codes,
//! the replicated membership log), keeps one encrypted connection to every member that can be
//! reached, floods signed announcements, replicates small state, and carries requests. What
//! travels in them is the owner's business: payloads are opaque here.
//!
//! Invariant: nobody without a valid certificate of the cell gets a byte beyond a refusal, and
//! what members and strangers send is bounded before it is stored. Every queue has a bound
//! and drops what is new when full; membership, state and announcements are repaired by later
//! rounds. No clock decides who may do what, but the expiry of a ticket at its issuer.
//!
//! Tasks, all on the caller's tokio runtime: acceptor, one dialler per member, five per live
//! connection, chitchat and its observer, housekeeping, and the writer of the log. They end at
//! [`Peers::shutdown`] or when [`Peers`] is dropped.

mod admit;
mod cell;
mod core;
mod dial;
mod error;
mod events;
mod files;
mod flood;
mod gossip;
mod grant;
mod hello;
mod invites;
mod join;
mod key;
mod link;
mod members;
mod nodeinfo;
mod pending;
mod proxy;
mod roll;
mod statement;
#[cfg(test)]
mod tests;
mod ticket;
mod transport;
mod wire;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;

use self::core::Core;
use self::events::Events;
use self::link::Ask;
use self::statement::{Body, CHAIN_MAX, Forget, HEADS_BYTES_MAX, KEEP_MAX, Leave, Statement};
use self::ticket::TICKET_NODES_MAX;
use self::transport::Transport;
use crate::base::clock;
use crate::base::id::NodeId;

pub use self::cell::Cell;
pub use self::error::{PeersError, Refusal};
pub use self::events::{EVENTS_MAX, Event};
pub use self::flood::ANNOUNCE_BYTES_MAX;
pub use self::gossip::{STATE_KEY_BYTES_MAX, STATE_KEYS_MAX, STATE_VALUE_BYTES_MAX};
pub use self::hello::PROTOCOL_VERSION;
pub use self::join::Confirm;
pub use self::key::{NodeKey, verify};
pub use self::members::{Member, MemberState};
pub use self::nodeinfo::{Found, NodeInfo, fetch_node_info};
pub use self::ticket::{NodeAddr, Ticket, Token};
pub use self::transport::{RecvStream, SendStream};

/// How long a leaving node waits for others to take note.
const LEAVE_LINGER: Duration = Duration::from_secs(2);

/// What a node is started with.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node's key.
    pub key: NodeKey,
    /// The node's state directory; `cell/` in it is ours.
    pub state_dir: PathBuf,
    /// The UDP address to listen on.
    pub listen: SocketAddr,
    /// What the node wants to be called, for display.
    pub name: String,
    /// Time between rounds of gossip.
    pub gossip_interval: Duration,
    /// Addresses to tell others; empty: those this machine knows of itself.
    pub advertise: Vec<SocketAddr>,
    /// Version of the peer protocol; [`PROTOCOL_VERSION`] but in tests.
    pub protocol: u16,
}

impl Config {
    /// A configuration with the usual values: gossip each 500 ms, own addresses.
    #[must_use]
    pub fn new(key: NodeKey, state_dir: PathBuf, listen: SocketAddr, name: &str) -> Self {
        Self {
            key,
            state_dir,
            listen,
            name: name.to_owned(),
            gossip_interval: Duration::from_millis(500),
            advertise: Vec::new(),
            protocol: PROTOCOL_VERSION,
        }
    }
}

/// The owner's side of requests.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Serves a request that a member opened with [`Peers::request`]. Ends the reply with
    /// [`SendStream::finish`] or `shutdown`; a reply dropped before is seen as broken off.
    async fn serve(&self, peer: NodeId, request: RecvStream, reply: SendStream);
}

/// The running room.
pub struct Peers {
    core: Arc<Core>,
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Peers({:?} of {:?})", self.core.me, self.core.cell)
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.core.cancel();
    }
}

impl Peers {
    /// Opens the port and starts all tasks on the current tokio runtime.
    ///
    /// # Errors
    /// The port is taken, or files of the state directory cannot be read or written.
    pub async fn start(
        config: Config,
        cell: Cell,
        handler: Arc<dyn Handler>,
    ) -> Result<(Arc<Self>, mpsc::Receiver<Event>), PeersError> {
        let transport = Transport::bind(&config.key, config.listen).await?;
        let (events, from) = Events::new();
        let core = Arc::new(Core::new(config, cell, transport, handler, events)?);
        core.gossip.know(
            core.with_roll(|r| r.standings().keys().copied().collect::<Vec<_>>())
                .into_iter(),
        );
        members::publish(&core);
        core.spawn(Arc::clone(&core).keep());
        core.spawn(dial::accept(Arc::clone(&core)));
        core.spawn(dial::keep_dialling(Arc::clone(&core)));
        core.spawn(gossip::supervise(Arc::clone(&core)));
        core.spawn(gossip::observe(Arc::clone(&core)));
        core.spawn(members::keep_house(Arc::clone(&core)));
        Ok((Arc::new(Self { core }), from))
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.core.me
    }

    /// The cell: the founder's public key.
    #[must_use]
    pub fn cell(&self) -> NodeId {
        self.core.cell
    }

    /// The generation of this start: larger than that of any start before.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.core.generation
    }

    /// The UDP address that we listen on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.core.transport.local_addr()
    }

    /// What `GET /v1/node` answers, and nothing else may be added.
    #[must_use]
    pub fn node_info(&self) -> NodeInfo {
        NodeInfo {
            node: self.core.me.to_string(),
            addresses: self.core.own_addrs(),
            protocol: self.core.config.protocol,
        }
    }

    /// Signs bytes with the node's key. The caller puts a domain in front.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.core.key().sign(message)
    }

    /// Signs a payload and floods it to all members.
    ///
    /// # Errors
    /// The payload is above [`ANNOUNCE_BYTES_MAX`].
    pub fn announce(&self, payload: Vec<u8>) -> Result<(), PeersError> {
        if payload.len() > ANNOUNCE_BYTES_MAX {
            return Err(PeersError::TooLarge {
                what: "an announcement",
                bytes: payload.len(),
                max: ANNOUNCE_BYTES_MAX,
            });
        }
        self.core.announce(payload);
        Ok(())
    }

    /// Opens a stream both ways to a member; its [`Handler`] serves the other end.
    ///
    /// # Errors
    /// There is no connection to it now, or it broke.
    pub async fn request(&self, peer: NodeId) -> Result<(SendStream, RecvStream), PeersError> {
        let link = self.core.link(peer).ok_or(PeersError::NotConnected(peer))?;
        link.ask(Ask::Owner)
            .await
            .map_err(|_| PeersError::NotConnected(peer))
    }

    /// Members that are connected now, the nearest first, with their round-trip times.
    #[must_use]
    pub fn connected(&self) -> Vec<(NodeId, Duration)> {
        let mut all: Vec<_> = self
            .core
            .links()
            .iter()
            .map(|l| (l.node, l.conn.rtt().unwrap_or(Duration::MAX)))
            .collect();
        all.sort_by_key(|(_, rtt)| *rtt);
        all
    }

    /// Bytes that were sent over the connection to a member, of whatever kind.
    #[cfg(test)]
    pub(crate) fn sent(&self, to: NodeId) -> u64 {
        self.core.link(to).map_or(0, |l| l.conn.sent())
    }

    /// Sets a key of this node's state, which all members will see.
    ///
    /// # Errors
    /// Key or value are too large, there are too many keys, or the key is reserved.
    pub fn set_state(&self, key: &str, value: &str) -> Result<(), PeersError> {
        self.core.gossip.set(key, Some(value.to_owned()))
    }

    /// Deletes a key of this node's state.
    ///
    /// # Errors
    /// The key cannot be one.
    pub fn delete_state(&self, key: &str) -> Result<(), PeersError> {
        self.core.gossip.set(key, None)
    }

    /// The states of all members as known here, those out of reach too.
    #[must_use]
    pub fn states(&self) -> BTreeMap<NodeId, BTreeMap<String, String>> {
        self.core.gossip.states(self.core.me)
    }

    /// Everybody in the cell, those that left or were forgotten or wait for admission too.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        members::list(&self.core)
    }

    /// Whether a node is a member by the log as known here.
    #[must_use]
    pub fn is_member(&self, node: NodeId) -> bool {
        self.core.is_member(node)
    }

    /// The opaque heads given to [`Self::forget`] for a forgotten node, one per statement.
    #[must_use]
    pub fn forgotten_heads(&self, node: NodeId) -> Vec<Vec<u8>> {
        self.core.with_roll(|r| r.forgotten_heads(node))
    }

    /// Makes a ticket for `uses` nodes. `addrs` replace this node's own addresses in it.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub async fn invite(
        &self,
        uses: u32,
        expires: Duration,
        addrs: &[SocketAddr],
    ) -> Result<Ticket, PeersError> {
        self.may_invite()?;
        let token = Token::draw(self.core.me)?;
        let now_s = clock::now_ms() / 1000;
        let expires_s = now_s.saturating_add(expires.as_secs());
        let mut invites = self.core.invites.lock().await;
        invites.issue(token, uses, expires_s, now_s).await?;
        drop(invites);
        Ok(self.ticket(token, expires_s, addrs))
    }

    /// A ticket for one node, to be shown to whoever has not asked for one: the last such
    /// ticket, while nobody has used it and it is good for `at_least`, or a new one.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub async fn shown_invite(
        &self,
        expires: Duration,
        at_least: Duration,
    ) -> Result<Ticket, PeersError> {
        self.may_invite()?;
        let now_s = clock::now_ms() / 1000;
        let mut invites = self.core.invites.lock().await;
        let (token, expires_s) = match invites.shown(now_s.saturating_add(at_least.as_secs())) {
            Some(shown) => shown,
            None => {
                let token = Token::draw(self.core.me)?;
                let expires_s = now_s.saturating_add(expires.as_secs());
                invites.issue(token, 1, expires_s, now_s).await?;
                invites.show(token).await?;
                (token, expires_s)
            }
        };
        drop(invites);
        Ok(self.ticket(token, expires_s, &[]))
    }

    fn may_invite(&self) -> Result<(), PeersError> {
        let core = &self.core;
        if core.with_roll(|r| r.depth(core.me).is_none_or(|d| d >= CHAIN_MAX)) {
            return Err(Refusal::ChainTooLong.into());
        }
        Ok(())
    }

    fn ticket(&self, token: Token, expires_s: u64, addrs: &[SocketAddr]) -> Ticket {
        let core = &self.core;
        let own = if addrs.is_empty() {
            core.own_addrs()
        } else {
            addrs.to_vec()
        };
        let mut nodes = vec![
            NodeAddr {
                node: core.me,
                addrs: own,
            }
            .bounded(),
        ];
        for (node, _) in self.connected() {
            let addrs = core.addrs_of(node);
            if nodes.len() < TICKET_NODES_MAX && !addrs.is_empty() {
                nodes.push(NodeAddr { node, addrs });
            }
        }
        Ticket {
            cell: core.cell,
            issuer: core.me,
            nodes,
            token,
            expires_s,
        }
    }

    /// Admits the node that shows this code, wherever in the cell it waits.
    ///
    /// # Errors
    /// No node waits with this code, or the log cannot be written.
    pub async fn admit(&self, code: &str) -> Result<NodeId, PeersError> {
        admit::admit(&self.core, code).await
    }

    /// Throws a node out for good. `heads` is an opaque note on its last heads that count.
    ///
    /// # Errors
    /// The node is unknown or this one, the note is too large, or the log cannot be written.
    pub async fn forget(&self, node: NodeId, heads: Vec<u8>) -> Result<(), PeersError> {
        let core = &self.core;
        if node == core.me {
            return Err(PeersError::ForgetSelf);
        }
        if heads.len() > HEADS_BYTES_MAX {
            return Err(PeersError::TooLarge {
                what: "the note on heads",
                bytes: heads.len(),
                max: HEADS_BYTES_MAX,
            });
        }
        let keep = core.with_roll(|r| r.standing(node).map(|_| r.signed_by(node)));
        let keep = self.bounded_keep(keep.ok_or(PeersError::NoSuchMember(node))?);
        let body = Body::Forget(Forget {
            cell: core.cell,
            subject: node,
            by: core.me,
            time_ms: clock::now_ms(),
            heads,
            keep,
        });
        core.learn(vec![Statement::sign(core.key(), &body)], None);
        core.save().await
    }

    /// Leaves the cell: tells the others, waits shortly until they know, and stops.
    ///
    /// # Errors
    /// The log cannot be written.
    pub async fn leave(&self) -> Result<(), PeersError> {
        let core = &self.core;
        let (ends, keep) = core.with_roll(|r| (r.certificates_of(core.me), r.signed_by(core.me)));
        let (ends, keep) = (self.bounded_keep(ends), self.bounded_keep(keep));
        let body = Body::Leave(Leave {
            cell: core.cell,
            subject: core.me,
            time_ms: clock::now_ms(),
            ends,
            keep,
        });
        core.gossip
            .set_own(gossip::KEY_LEAVING, Some("1".to_owned()));
        core.learn(vec![Statement::sign(core.key(), &body)], None);
        core.save().await?;
        // Each member closes its link when it has read the statement.
        let _ = tokio::time::timeout(LEAVE_LINGER, async {
            let mut changes = core.changes.subscribe();
            while !core.links().is_empty() && changes.changed().await.is_ok() {}
        })
        .await;
        core.shut().await;
        Ok(())
    }

    /// Stops: peers see this node go at once, and it stays a member.
    pub async fn shutdown(&self) {
        self.core.shut().await;
    }

    /// Cuts (or mends) the connection to a node from this side: for tests and experiments.
    pub fn set_cut(&self, node: NodeId, on: bool) {
        self.core.set_cut(node, on);
    }

    /// Cuts a list of statements to what fits; those about connected nodes are kept first. (A
    /// node that signed thousands must still be forgettable; what does not fit is void.)
    fn bounded_keep(&self, mut keep: Vec<statement::StatementId>) -> Vec<statement::StatementId> {
        if keep.len() > KEEP_MAX {
            tracing::warn!(
                statements = keep.len(),
                kept = KEEP_MAX,
                "not all can be kept"
            );
            let connected: HashSet<_> = self
                .connected()
                .into_iter()
                .flat_map(|(n, _)| self.core.with_roll(|r| r.certificates_of(n)))
                .collect();
            keep.sort_by_key(|id| !connected.contains(id));
            keep.truncate(KEEP_MAX);
        }
        keep
    }
}
