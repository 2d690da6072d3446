//! State of the members, by chitchat over our own links.
//!
//! Invariant: the truth about our own state is here (`own`); chitchat is fed from it and can
//! be restarted at any time with a higher generation, which is done when its loop dies. What
//! it knows of others is read into `seen`, one incarnation per node (the newest), and changes
//! are told from there; deletions too, which chitchat itself does not tell.
//!
//! chitchat's addresses are synthetic, made of node keys, so that a node which moves stays the
//! same member. Its `send` only queues on a link; its `recv` never fails. One task runs
//! chitchat, one observes it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chitchat::transport::{Socket, Transport};
use chitchat::{
    Chitchat, ChitchatConfig, ChitchatHandle, ChitchatId, ChitchatMessage, Deserializable,
    FailureDetectorConfig, Serializable, spawn_chitchat,
};
use data_encoding::BASE64URL_NOPAD;
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;

use super::core::{Core, lock};
use super::error::PeersError;
use super::events::Event;
use super::key::dice;
use crate::base::id::NodeId;

/// Longest key of a state.
pub const STATE_KEY_BYTES_MAX: usize = 256;
/// Longest value of a state.
pub const STATE_VALUE_BYTES_MAX: usize = 4 << 10;
/// Most keys of one node.
pub const STATE_KEYS_MAX: usize = 512;
/// Keys with this prefix are the room's own.
pub(crate) const KEY_OWN: &str = "peers/";
/// Addresses of the node, separated by commas.
pub(crate) const KEY_ADDRS: &str = "peers/addr";
/// Digest of the node's log.
pub(crate) const KEY_LOG: &str = "peers/log";
/// Present when the node is leaving or stopping.
pub(crate) const KEY_LEAVING: &str = "peers/leaving";
/// Prefix of nodes that wait for admission at the node.
pub(crate) const KEY_PENDING: &str = "peers/pending/";

/// Messages that wait for chitchat; full: the message is dropped, a later round repairs it.
const INBOX_MAX: usize = 1024;
/// Deleted keys and dead incarnations are remembered this long.
const GRACE: Duration = Duration::from_secs(15 * 60);
/// A dead gossip loop is restarted after this pause.
const RESTART_PAUSE: Duration = Duration::from_millis(500);
/// Peers that a change of our own state is pushed to at once.
const PUSH_PEERS: usize = 3;

/// What is known of one node's state.
#[derive(Debug, Clone, Default)]
struct Seen {
    generation: u64,
    version: u64,
    values: BTreeMap<String, String>,
}

/// The gossip of this node.
#[derive(Default)]
pub(crate) struct Gossip {
    own: Mutex<BTreeMap<String, String>>,
    seen: Mutex<BTreeMap<NodeId, Seen>>,
    alive: Mutex<BTreeSet<NodeId>>,
    directory: Mutex<HashMap<SocketAddr, NodeId>>,
    inbox: Mutex<Option<mpsc::Sender<(SocketAddr, ChitchatMessage)>>>,
    handle: Mutex<Option<Arc<ChitchatHandle>>>,
    /// Own state or others' changed.
    wake: Arc<Notify>,
}

/// The address by which chitchat knows a node.
fn synthetic(node: NodeId) -> SocketAddr {
    let hash = blake3::derive_key("cellfs 2026 gossip address", &node.0);
    let mut ip = [0xfd; 16];
    for (to, from) in ip.iter_mut().skip(1).zip(hash) {
        *to = from;
    }
    SocketAddr::new(Ipv6Addr::from(ip).into(), 1)
}

/// A short name for chitchat; the digest in every message holds all of them.
fn short_name(node: NodeId) -> String {
    let hash = blake3::derive_key("cellfs 2026 gossip name", &node.0);
    BASE64URL_NOPAD.encode(&hash)[..12].to_owned()
}

impl Gossip {
    /// Takes note of the nodes of the log.
    pub(crate) fn know(&self, nodes: impl Iterator<Item = NodeId>) {
        *lock(&self.directory) = nodes.map(|n| (synthetic(n), n)).collect();
        self.wake.notify_one();
    }

    /// Sets or deletes a key of our own state; the observer feeds it to chitchat.
    pub(crate) fn set_own(&self, key: &str, value: Option<String>) {
        let mut own = lock(&self.own);
        let changed = match value {
            Some(value) if own.get(key) == Some(&value) => false,
            Some(value) => own.insert(key.to_owned(), value).is_none_or(|_| true),
            None => own.remove(key).is_some(),
        };
        if changed {
            self.wake.notify_one();
        }
    }

    /// Sets a key for the owner, within bounds.
    pub(crate) fn set(&self, key: &str, value: Option<String>) -> Result<(), PeersError> {
        let too_large = |what, bytes, max| Err(PeersError::TooLarge { what, bytes, max });
        if key.is_empty() || key.len() > STATE_KEY_BYTES_MAX || key.starts_with(KEY_OWN) {
            return too_large("a key of the state", key.len(), STATE_KEY_BYTES_MAX);
        }
        let bytes = value.as_ref().map_or(0, String::len);
        if bytes > STATE_VALUE_BYTES_MAX {
            return too_large("a value of the state", bytes, STATE_VALUE_BYTES_MAX);
        }
        let keys = lock(&self.own).len();
        if value.is_some() && keys >= STATE_KEYS_MAX && !lock(&self.own).contains_key(key) {
            return too_large("the state in keys", keys, STATE_KEYS_MAX);
        }
        self.set_own(key, value);
        Ok(())
    }

    /// The states of all nodes, our own among them, without the room's own keys.
    pub(crate) fn states(&self, me: NodeId) -> BTreeMap<NodeId, BTreeMap<String, String>> {
        let public = |values: &BTreeMap<String, String>| {
            let own = values.iter().filter(|(k, _)| !k.starts_with(KEY_OWN));
            own.map(|(k, v)| (k.clone(), v.clone())).collect()
        };
        let mut all: BTreeMap<_, _> = lock(&self.seen)
            .iter()
            .map(|(n, s)| (*n, public(&s.values)))
            .collect();
        all.insert(me, public(&lock(&self.own)));
        all
    }

    /// One value of a node's state.
    pub(crate) fn value(&self, node: NodeId, key: &str) -> Option<String> {
        lock(&self.seen).get(&node)?.values.get(key).cloned()
    }

    /// All values of other nodes under a prefix: node, rest of the key, value.
    pub(crate) fn with_prefix(&self, prefix: &str) -> Vec<(NodeId, String, String)> {
        let seen = lock(&self.seen);
        let alive = lock(&self.alive);
        let values = seen
            .iter()
            .filter(|(n, _)| alive.contains(n))
            .flat_map(|(n, s)| s.values.iter().map(|(k, v)| (*n, k, v)));
        values
            .filter_map(|(n, k, v)| Some((n, k.strip_prefix(prefix)?.to_owned(), v.clone())))
            .collect()
    }

    /// Whether the node has been heard of lately, directly or through others.
    pub(crate) fn is_alive(&self, node: NodeId) -> bool {
        lock(&self.alive).contains(&node)
    }

    /// Starts a round with a peer that has just been connected.
    pub(crate) fn meet(&self, node: NodeId) {
        self.push(&[node]);
        self.wake.notify_one();
    }

    /// Ends chitchat as a panic in it would.
    #[cfg(test)]
    pub(crate) fn kill(&self) {
        if let Some(handle) = &*lock(&self.handle) {
            handle.abort();
        }
    }

    fn push(&self, nodes: &[NodeId]) {
        let handle = lock(&self.handle).clone();
        for node in nodes {
            if let Some(handle) = &handle {
                let _ = handle.gossip(synthetic(*node));
            }
        }
    }
}

/// Takes a message from a link.
pub(crate) fn receive(core: &Core, from: NodeId, bytes: &[u8]) {
    match ChitchatMessage::deserialize(&mut &*bytes) {
        Ok(message) => {
            if let Some(inbox) = &*lock(&core.gossip.inbox) {
                let _ = inbox.try_send((synthetic(from), message));
            }
        }
        Err(error) => tracing::debug!(peer = ?from, %error, "gossip that is none"),
    }
}

/// chitchat's transport: our links.
struct Wire(Weak<Core>);

#[async_trait]
impl Transport for Wire {
    async fn open(&self, _: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let (to, inbox) = mpsc::channel(INBOX_MAX);
        if let Some(core) = self.0.upgrade() {
            *lock(&core.gossip.inbox) = Some(to);
        }
        let core = Weak::clone(&self.0);
        Ok(Box::new(Ends { core, inbox }))
    }
}

struct Ends {
    core: Weak<Core>,
    inbox: mpsc::Receiver<(SocketAddr, ChitchatMessage)>,
}

#[async_trait]
impl Socket for Ends {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        if let Some(core) = self.core.upgrade() {
            let node = lock(&core.gossip.directory).get(&to).copied();
            if let Some(link) = node.and_then(|n| core.link(n)) {
                link.send_gossip(Bytes::from(message.serialize_to_vec()));
            }
        }
        Ok(())
    }

    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        match self.inbox.recv().await {
            Some(received) => Ok(received),
            // A new loop has taken over, or the node stops.
            None => std::future::pending().await,
        }
    }
}

/// Runs chitchat and starts it again when it dies.
pub(crate) async fn supervise(core: Arc<Core>) {
    let mut generation = core.generation;
    while !core.is_stopped() {
        match start(&core, generation).await {
            Ok(handle) => {
                let handle = Arc::new(handle);
                *lock(&core.gossip.handle) = Some(Arc::clone(&handle));
                let linked: Vec<NodeId> = core.links().iter().map(|l| l.node).collect();
                core.gossip.push(&linked);
                tokio::select! {
                    end = handle.termination_watcher() => {
                        tracing::error!(?end, "gossip stopped and is started again");
                    }
                    () = core.stopped() => handle.abort(),
                }
                *lock(&core.gossip.handle) = None;
            }
            Err(error) => tracing::error!(%error, "gossip did not start"),
        }
        generation += 1;
        tokio::select! {
            () = sleep(RESTART_PAUSE) => {}
            () = core.stopped() => return,
        }
    }
}

async fn start(core: &Arc<Core>, generation: u64) -> Result<ChitchatHandle, PeersError> {
    let addr = synthetic(core.me);
    let config = ChitchatConfig {
        chitchat_id: ChitchatId::new(short_name(core.me), generation, addr),
        cluster_id: core.cell.short(),
        gossip_interval: core.config.gossip_interval,
        listen_addr: addr,
        seed_nodes: Vec::new(),
        failure_detector_config: FailureDetectorConfig {
            phi_threshold: 8.0,
            sampling_window_size: 100,
            max_interval: Duration::from_secs(10),
            initial_interval: Duration::from_secs(5).min(10 * core.config.gossip_interval),
            dead_node_grace_period: GRACE,
        },
        marked_for_deletion_grace_period: GRACE,
        catchup_callback: None,
        extra_liveness_predicate: None,
    };
    let own: Vec<_> = lock(&core.gossip.own).clone().into_iter().collect();
    let handle = spawn_chitchat(config, own, &Wire(Arc::downgrade(core)))
        .await
        .map_err(|e| PeersError::Gossip(e.to_string()))?;
    let wake = Arc::clone(&core.gossip.wake);
    let chitchat = handle.chitchat();
    let chitchat = chitchat.lock().await;
    chitchat
        .subscribe_event("", move |_| wake.notify_one())
        .forever();
    Ok(handle)
}

/// Feeds our own state to chitchat and tells what changed in the others'.
pub(crate) async fn observe(core: Arc<Core>) {
    let gossip = &core.gossip;
    loop {
        tokio::select! {
            () = gossip.wake.notified() => {}
            () = sleep(core.config.gossip_interval) => reach_far(&core),
            () = core.stopped() => return,
        }
        let Some(handle) = lock(&gossip.handle).clone() else {
            continue;
        };
        let chitchat = handle.chitchat();
        let mut chitchat = chitchat.lock().await;
        let pushed = feed(&core, &mut chitchat);
        let changed = read(&core, &chitchat);
        let alive = live(&core, &chitchat);
        drop(chitchat);
        if pushed {
            let mut peers: Vec<NodeId> = core.links().iter().map(|l| l.node).collect();
            while peers.len() > PUSH_PEERS {
                peers.swap_remove(usize::try_from(dice(peers.len() as u64)).unwrap_or(0));
            }
            gossip.push(&peers);
        }
        tell_changes(&core, changed);
        tell_alive(&core, alive);
    }
}

/// chitchat talks to three live nodes at random; where some of them are not linked to us, its
/// rounds go nowhere. One round with a linked peer per interval keeps state flowing.
fn reach_far(core: &Core) {
    let links = core.links();
    let alive = lock(&core.gossip.alive).clone();
    if alive.iter().any(|n| links.iter().all(|l| l.node != *n)) {
        let at = usize::try_from(dice(links.len() as u64)).unwrap_or(0);
        if let Some(link) = links.get(at) {
            core.gossip.push(&[link.node]);
        }
    }
}

/// Makes chitchat's copy of our state equal to ours; true when it changed.
fn feed(core: &Core, chitchat: &mut Chitchat) -> bool {
    let own = lock(&core.gossip.own).clone();
    let state = chitchat.self_node_state();
    let before = state.max_version();
    let gone: Vec<String> = state
        .key_values()
        .filter(|(k, _)| !own.contains_key(*k))
        .map(|(k, _)| k.to_owned())
        .collect();
    for key in gone {
        state.delete(&key);
    }
    for (key, value) in own {
        state.set(key, value);
    }
    state.max_version() != before
}

/// Changed keys of a node, with the values before and now.
type Changes = Vec<(NodeId, String, Option<String>)>;

/// Reads what changed since the last time.
fn read(core: &Core, chitchat: &Chitchat) -> Changes {
    let directory = lock(&core.gossip.directory).clone();
    let mut seen = lock(&core.gossip.seen);
    seen.retain(|n, _| core.is_member(*n));
    let mut changes = Changes::new();
    for (id, state) in chitchat.node_states() {
        let Some(&node) = directory.get(&id.gossip_advertise_addr) else {
            continue;
        };
        if node == core.me || !core.is_member(node) {
            continue;
        }
        let version = state.max_version();
        let old = seen.entry(node).or_default();
        let news = (id.generation_id, version) > (old.generation, old.version);
        if version == 0 || !news {
            continue;
        }
        let values: BTreeMap<String, String> = state
            .key_values()
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect();
        for (key, value) in &values {
            if old.values.get(key) != Some(value) {
                changes.push((node, key.clone(), Some(value.clone())));
            }
        }
        for key in old.values.keys().filter(|k| !values.contains_key(*k)) {
            changes.push((node, key.clone(), None));
        }
        *old = Seen {
            generation: id.generation_id,
            version,
            values,
        };
    }
    changes
}

/// The members that are heard of, over a link or by gossip.
fn live(core: &Core, chitchat: &Chitchat) -> BTreeSet<NodeId> {
    let directory = lock(&core.gossip.directory).clone();
    let seen = lock(&core.gossip.seen);
    let leaving = |n: &NodeId| {
        let values = seen.get(n).map(|s| &s.values);
        values.is_some_and(|v| v.contains_key(KEY_LEAVING))
    };
    let newest = |n: &NodeId, generation| seen.get(n).is_none_or(|s| s.generation <= generation);
    let heard = chitchat.live_nodes().filter_map(|id| {
        let node = directory.get(&id.gossip_advertise_addr)?;
        (newest(node, id.generation_id) && !leaving(node)).then_some(*node)
    });
    let linked = core.links().into_iter().map(|l| l.node);
    heard
        .chain(linked)
        .filter(|n| *n != core.me && core.is_member(*n))
        .collect()
}

fn tell_changes(core: &Core, changes: Changes) {
    for (node, key, value) in changes {
        if key == KEY_ADDRS {
            let said: Vec<SocketAddr> = value
                .iter()
                .flat_map(|v| v.split(',').filter_map(|a| a.parse().ok()))
                .collect();
            let seen = core.link(node).and_then(|l| l.conn.addr());
            core.note_addrs(node, seen, &said);
        } else if key.starts_with(KEY_PENDING) {
            core.events.tell(Event::Pending);
        } else if !key.starts_with(KEY_OWN) {
            core.events.tell(Event::State { node, key, value });
        }
    }
}

fn tell_alive(core: &Core, now: BTreeSet<NodeId>) {
    let before = std::mem::replace(&mut *lock(&core.gossip.alive), now.clone());
    for &node in now.difference(&before) {
        core.events.tell(Event::Alive { node });
    }
    for &node in before.difference(&now) {
        core.events.tell(Event::Lost { node });
    }
}
