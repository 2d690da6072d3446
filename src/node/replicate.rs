//! Runs the replication machine: gives it what happens, does what it decides.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::NodeInner;
use super::fetching::Fetching;
use crate::base::id::{NodeId, VolumeName};
use crate::peers::{self, Peers, STATE_VALUE_BYTES_MAX, verify};
use crate::replicator::HeadNotice;
use crate::replicator::machine::{Cell, Effect, Event, Frontier, Machine};
use crate::volume::view::{HeadInfo, View};

/// Messages that wait for the replicator; senders wait for room.
pub(super) const MESSAGES: usize = 1024;
/// Keys of the gossiped state under which the heads of volumes are.
pub(super) const GOSSIP_KEY: &str = "h/";
/// How often pauses between tries are looked at.
const TICK: Duration = Duration::from_millis(50);
/// How often gossiped states are read as a whole, for what an event may have missed.
const SWEEP: Duration = Duration::from_secs(2);
/// How often fetches are looked at for signs of life.
const ALIVE: Duration = Duration::from_secs(1);
/// How often heads that nobody vouches for are looked for.
const COVER: Duration = Duration::from_millis(500);
/// Version of announcements and of notices in gossip.
const VERSION: u8 = 1;

/// What is flooded when a commit is durable.
#[derive(Serialize, Deserialize)]
struct Announcement {
    head: HeadNotice,
    /// What the commit adds to its parents, as a pack, if it is little: saves a peer that has
    /// the parents from asking for it. It is checked like a pack that was asked for.
    pack: Option<Vec<u8>>,
}

/// What the replicator is told by the node.
#[derive(Debug)]
pub(super) enum Message {
    /// A commit of ours is durable; its pack, if it is small.
    Committed(VolumeName, HeadInfo, Option<Vec<u8>>),
    /// A volume was opened; heads known from the last run.
    Opened(VolumeName, Vec<HeadNotice>),
    /// A fetch ended.
    Fetched {
        volume: VolumeName,
        number: u64,
        fetch: Arc<Fetching>,
        ok: bool,
    },
}

fn frontier(volume: VolumeName, view: &View) -> Frontier {
    Frontier {
        volume,
        seen: view.seen(),
        heads: view.heads.iter().map(|h| (h.node, h.id)).collect(),
    }
}

/// The cell, as its own members see it.
struct Members<'a>(&'a Peers);

impl Cell for Members<'_> {
    fn me(&self) -> NodeId {
        self.0.node()
    }

    fn is_member(&self, node: NodeId) -> bool {
        self.0.is_member(node)
    }

    fn is_signed(&self, head: &HeadNotice) -> bool {
        let signature = <[u8; 64]>::try_from(head.signature.as_slice());
        signature.is_ok_and(|s| verify(head.node, &head.signed_bytes(&self.0.cell()), &s))
    }
}

/// Runs until the node stops.
pub(super) async fn run(
    node: Arc<NodeInner>,
    mut messages: mpsc::Receiver<Message>,
    mut events: mpsc::Receiver<peers::Event>,
) {
    let mut seed = [0; 8];
    if getrandom::fill(&mut seed).is_err() {
        tracing::warn!("no randomness; peers are chosen in a fixed order");
    }
    let mut r = Runner {
        node: &node,
        core: Machine::new(u64::from_le_bytes(seed)),
        seen_alive: BTreeMap::new(),
        began: Instant::now(),
    };
    let mut alive = tokio::time::interval(ALIVE);
    let mut cover = tokio::time::interval(COVER);
    let mut tick = tokio::time::interval(TICK);
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            () = node.stop.cancelled() => return,
            m = messages.recv() => match m {
                Some(m) => r.message(m),
                None => return,
            },
            e = events.recv() => match e {
                Some(e) => r.event(e),
                None => return,
            },
            _ = tick.tick() => r.give(Event::Tick),
            _ = sweep.tick() => r.sweep(),
            _ = cover.tick() => r.cover(),
            _ = alive.tick() => r.look_at_fetches(),
        }
    }
}

struct Runner<'a> {
    node: &'a Arc<NodeInner>,
    core: Machine,
    /// Bytes that had come of each fetch when it was looked at.
    seen_alive: BTreeMap<VolumeName, u64>,
    began: Instant,
}

impl Runner<'_> {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn give(&mut self, event: Event) {
        let Some(p) = self.node.peers() else { return };
        let now = self.now();
        for effect in self.core.handle(event, &Members(p), now) {
            self.carry_out(p, effect);
        }
        let mut behind = self
            .node
            .behind
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for v in self.node.all_volumes() {
            behind.insert(v.name().clone(), self.core.behind(v.name()));
        }
    }

    fn message(&mut self, m: Message) {
        match m {
            Message::Committed(volume, head, pack) => {
                // What is restored may be of large files that are not here any more.
                self.node.looks.ask(&volume);
                let notice = self.notice(volume, &head);
                self.give(Event::Committed(notice, pack));
            }
            Message::Opened(name, kept) => {
                let Some(v) = self.node.volume(&name) else {
                    return;
                };
                let view = v.view();
                let own = view.heads.iter().filter(|h| h.node == self.node.id());
                let mut notices: Vec<HeadNotice> =
                    own.map(|h| self.notice(name.clone(), h)).collect();
                notices.extend(kept);
                let shown = frontier(name, &view);
                self.give(Event::Opened { shown, notices });
            }
            Message::Fetched {
                volume,
                number,
                fetch,
                ok,
            } => {
                let v = self.node.volume(&volume);
                let shown = v.map(|v| frontier(volume.clone(), &v.view()));
                let mut fetches = self.node.fetches();
                let current = fetches.get(&volume);
                if current.is_some_and(|f| Arc::ptr_eq(f, &fetch)) {
                    fetches.remove(&volume);
                }
                drop(fetches);
                let lies = fetch.lies();
                self.give(Event::Fetched {
                    fetch: number,
                    shown,
                    ok,
                    lies,
                });
            }
        }
    }

    /// Tells the core which fetches are alive.
    fn look_at_fetches(&mut self) {
        let fetches = self.node.fetches().clone();
        self.seen_alive.retain(|v, _| fetches.contains_key(v));
        for (volume, fetch) in fetches {
            let seen = self.seen_alive.entry(volume.clone()).or_default();
            if fetch.is_alive_since(seen) {
                self.give(Event::Alive(volume));
            }
        }
    }

    fn notice(&self, volume: VolumeName, h: &HeadInfo) -> HeadNotice {
        let mut n = HeadNotice {
            volume,
            node: h.node,
            branch: h.stamp.branch,
            seq: h.stamp.seq,
            id: h.id,
            signature: Vec::new(),
        };
        if let Some(p) = self.node.peers() {
            n.signature = self.node.key.sign(&n.signed_bytes(&p.cell())).to_vec();
        }
        n
    }

    fn event(&mut self, e: peers::Event) {
        match e {
            peers::Event::Up { node, .. } => {
                self.give(Event::Up(node));
                self.sweep();
            }
            peers::Event::Down { node } => self.give(Event::Down(node)),
            peers::Event::Announce { author, payload } => {
                if let Some(Announcement { head, pack }) = decode(&payload) {
                    let from = author;
                    self.give(Event::Announced { from, head, pack });
                }
            }
            peers::Event::State { node, key, value } => {
                if let Some(value) = value {
                    self.state(node, &key, &value);
                }
            }
            peers::Event::Skew { node, seconds } => {
                let mut s = self
                    .node
                    .skews
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                s.insert(node, seconds);
            }
            peers::Event::Lagged { .. } => self.sweep(),
            peers::Event::Left { node, .. } if node == self.node.id() => {
                tracing::error!("this node is no member of the cell any more");
            }
            other => tracing::debug!(?other, "cell"),
        }
    }

    /// Reads all gossiped heads, for what an event may have missed.
    fn sweep(&mut self) {
        let Some(p) = self.node.peers() else { return };
        for (node, keys) in p.states() {
            for (key, value) in keys {
                self.state(node, &key, &value);
            }
        }
    }

    fn state(&mut self, node: NodeId, key: &str, value: &str) {
        if !key.starts_with(GOSSIP_KEY) || node == self.node.id() {
            return;
        }
        let (from, heads) = (node, gossiped(value));
        self.give(Event::Gossiped { from, heads });
    }

    /// Has the machine look for heads that nobody can vouch for any more.
    fn cover(&mut self) {
        let Some(p) = self.node.peers() else { return };
        let me = self.node.id();
        let place = p.connected().iter().filter(|(n, _)| *n < me).count();
        let volumes = self.node.all_volumes();
        let shown = volumes
            .iter()
            .map(|v| frontier(v.name().clone(), &v.view()));
        let shown = shown.collect();
        self.give(Event::Look { shown, place });
    }

    fn carry_out(&mut self, p: &Peers, effect: Effect) {
        match effect {
            Effect::Announce { head, pack } => {
                if let Some(b) = encode(&Announcement { head, pack })
                    && let Err(e) = p.announce(b)
                {
                    tracing::warn!(error = %e, "an announcement was not made");
                }
            }
            Effect::Gossip { volume, mut heads } => {
                self.node.save_notices(&volume, &heads);
                // What does not fit is found through the others' heads.
                while let Some(b) = encode(&heads) {
                    let text = data_encoding::BASE64.encode(&b);
                    if text.len() <= STATE_VALUE_BYTES_MAX {
                        if let Err(e) = p.set_state(&format!("{GOSSIP_KEY}{volume}"), &text) {
                            tracing::warn!(error = %e, "heads were not gossiped");
                        }
                        break;
                    }
                    heads.pop();
                }
            }
            Effect::GiveUp(volume) => {
                if let Some(fetch) = self.node.fetches().remove(&volume) {
                    tracing::info!(%volume, from = %fetch.from.short(), "a fetch was given up");
                    fetch.give_up();
                }
            }
            Effect::Cover {
                volume,
                heads,
                orphans,
            } => {
                let Some(v) = self.node.volume(&volume) else {
                    return;
                };
                tokio::task::spawn_blocking(move || match v.cover(heads) {
                    Ok(()) => tracing::info!(%volume, ?orphans, "covered heads"),
                    Err(e) => tracing::warn!(%volume, error = %e, "heads were not covered"),
                });
            }
            Effect::Fetch {
                fetch: number,
                volume,
                from,
                want,
            } => {
                let node = Arc::clone(self.node);
                let fetch = Arc::new(Fetching::new(from));
                self.node.fetches().insert(volume.clone(), fetch.clone());
                tokio::spawn(async move {
                    let ok = match super::serve::fetch(&node, &volume, want, &fetch).await {
                        Ok(()) => true,
                        Err(e) => {
                            tracing::debug!(%volume, from = %from.short(), error = %e, "fetch failed");
                            false
                        }
                    };
                    let m = Message::Fetched {
                        volume,
                        number,
                        fetch,
                        ok,
                    };
                    if node.core.send(m).await.is_err() {
                        tracing::debug!("a fetch after the end");
                    }
                });
            }
        }
    }
}

/// The heads in a gossiped value.
pub(super) fn gossiped(value: &str) -> Vec<HeadNotice> {
    let bytes = data_encoding::BASE64.decode(value.as_bytes());
    let heads = bytes.ok().and_then(|b| decode::<Vec<HeadNotice>>(&b));
    heads.unwrap_or_default()
}

fn encode<T: Serialize>(value: &T) -> Option<Vec<u8>> {
    postcard::to_extend(value, vec![VERSION]).ok()
}

fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let (version, rest) = bytes.split_first()?;
    if *version != VERSION {
        return None;
    }
    postcard::from_bytes(rest).ok()
}
