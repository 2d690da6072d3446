//! Runs the replicator: gives it what happens, does what it decides.

use std::num::NonZeroUsize;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::NodeInner;
use super::serve::Wanted;
use crate::base::id::{BranchId, NodeId, Oid, VolumeName};
use crate::base::limit::CARRIED_PACK_BYTES_MAX;
use crate::peers::{Event, STATE_VALUE_BYTES_MAX, verify};
use crate::replicator::{HeadNotice, Input, Output, Replicator};
use crate::volume::view::{HeadInfo, View};

/// Messages that wait for the replicator; senders wait for room.
pub(super) const MESSAGES: usize = 1024;
/// How often pauses between tries are looked at.
const TICK: Duration = Duration::from_millis(50);
/// How often gossiped states are read as a whole, for what an event may have missed.
const SWEEP: Duration = Duration::from_secs(2);
/// Version of announcements and of notices in gossip.
const VERSION: u8 = 1;
/// Packs of announcements that are kept until it is decided what to fetch.
const CARRIED_MAX: NonZeroUsize = NonZeroUsize::new(64).expect("64");

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
        from: NodeId,
        ok: bool,
    },
}

fn shown(volume: VolumeName, view: &View) -> Input {
    let mut seen: std::collections::BTreeMap<BranchId, u64> = std::collections::BTreeMap::new();
    for h in view.heads.iter() {
        for (b, n) in h.seen.iter() {
            let at = seen.entry(*b).or_default();
            *at = (*at).max(*n);
        }
    }
    let heads: Vec<Oid> = view.heads.iter().map(|h| h.id).collect();
    Input::Shown {
        volume,
        seen: seen.into_iter().collect(),
        heads,
    }
}

/// Runs until the node stops.
pub(super) async fn run(
    node: Arc<NodeInner>,
    mut messages: mpsc::Receiver<Message>,
    mut events: mpsc::Receiver<Event>,
) {
    let mut seed = [0; 8];
    if getrandom::fill(&mut seed).is_err() {
        tracing::warn!("no randomness; peers are chosen in a fixed order");
    }
    let mut r = Runner {
        node: &node,
        core: Replicator::new(u64::from_le_bytes(seed)),
        carried: LruCache::new(CARRIED_MAX),
        began: Instant::now(),
    };
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
            _ = tick.tick() => r.give(Input::Tick),
            _ = sweep.tick() => r.sweep(),
        }
    }
}

struct Runner<'a> {
    node: &'a Arc<NodeInner>,
    core: Replicator,
    /// Small packs by head: of ours until it is announced, of others until it is fetched.
    carried: LruCache<Oid, Vec<u8>>,
    began: Instant,
}

impl Runner<'_> {
    fn give(&mut self, input: Input) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let out = self.core.handle(input, now);
        for o in out {
            self.carry_out(o);
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
                let notice = self.notice(volume, &head);
                if let Some(pack) = pack {
                    self.carried.put(notice.id, pack);
                }
                self.give(Input::Local(notice));
            }
            Message::Opened(name, notices) => {
                let Some(v) = self.node.volume(&name) else {
                    return;
                };
                let view = v.view();
                self.give(shown(name.clone(), &view));
                let own = view.heads.iter().filter(|h| h.node == self.node.id());
                let own: Vec<HeadNotice> = own.map(|h| self.notice(name.clone(), h)).collect();
                let me = self.node.id();
                for head in own.into_iter().chain(notices) {
                    self.give(Input::Heard { from: me, head });
                }
                self.give(shown(name, &view));
            }
            Message::Fetched { volume, from, ok } => {
                if let Some(v) = self.node.volume(&volume) {
                    let input = shown(volume.clone(), &v.view());
                    self.give(input);
                }
                self.give(Input::Fetched { volume, from, ok });
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

    fn event(&mut self, e: Event) {
        match e {
            Event::Up { node, .. } => {
                self.give(Input::Up(node));
                self.sweep();
            }
            Event::Down { node } => self.give(Input::Down(node)),
            Event::Announce { author, payload } => {
                if let Some(Announcement { head, pack }) = decode(&payload) {
                    if let Some(pack) = pack.filter(|p| p.len() <= CARRIED_PACK_BYTES_MAX) {
                        self.carried.put(head.id, pack);
                    }
                    self.hear(author, head);
                }
            }
            Event::State { node, key, value } => {
                if let Some(value) = value {
                    self.state(node, &key, &value);
                }
            }
            Event::Skew { node, seconds } => {
                let mut s = self
                    .node
                    .skews
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                s.insert(node, seconds);
            }
            Event::Lagged { .. } => self.sweep(),
            Event::Left { node, .. } if node == self.node.id() => {
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
        if !key.starts_with("h/") || node == self.node.id() {
            return;
        }
        let Ok(bytes) = data_encoding::BASE64.decode(value.as_bytes()) else {
            return;
        };
        for head in decode::<Vec<HeadNotice>>(&bytes).unwrap_or_default() {
            self.hear(node, head);
        }
    }

    /// Believes a head only if its author is a member and signed it.
    fn hear(&mut self, from: NodeId, head: HeadNotice) {
        let Some(p) = self.node.peers() else { return };
        let signature = <[u8; 64]>::try_from(head.signature.as_slice());
        let good = p.is_member(head.node)
            && signature.is_ok_and(|s| verify(head.node, &head.signed_bytes(&p.cell()), &s));
        if !good {
            tracing::debug!(author = %head.node.short(), "a head that nobody vouches for");
            return;
        }
        self.give(Input::Heard { from, head });
    }

    fn carry_out(&mut self, o: Output) {
        let Some(p) = self.node.peers() else { return };
        match o {
            Output::Announce(head) => {
                let pack = self.carried.pop(&head.id);
                if let Some(b) = encode(&Announcement { head, pack })
                    && let Err(e) = p.announce(b)
                {
                    tracing::warn!(error = %e, "an announcement was not made");
                }
            }
            Output::Gossip { volume, mut heads } => {
                self.node.save_notices(&volume, &heads);
                // What does not fit is found through the others' heads.
                while let Some(b) = encode(&heads) {
                    let text = data_encoding::BASE64.encode(&b);
                    if text.len() <= STATE_VALUE_BYTES_MAX {
                        if let Err(e) = p.set_state(&format!("h/{volume}"), &text) {
                            tracing::warn!(error = %e, "heads were not gossiped");
                        }
                        break;
                    }
                    heads.pop();
                }
            }
            Output::Fetch { volume, from, want } => {
                let node = Arc::clone(self.node);
                let mut carried = |head: HeadNotice| {
                    let pack = self.carried.pop(&head.id);
                    Wanted { head, pack }
                };
                let want = want.into_iter().map(&mut carried).collect();
                tokio::spawn(async move {
                    let ok = match super::serve::fetch(&node, &volume, from, want).await {
                        Ok(()) => true,
                        Err(e) => {
                            tracing::debug!(%volume, from = %from.short(), error = %e, "fetch failed");
                            false
                        }
                    };
                    let m = Message::Fetched { volume, from, ok };
                    if node.core.send(m).await.is_err() {
                        tracing::debug!("a fetch after the end");
                    }
                });
            }
        }
    }
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
