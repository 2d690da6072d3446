//! The network between the machines: connections, announcements that are lost, doubled and
//! overtaken, gossip, partitions and one-way cuts.

use std::sync::Arc;

use cellfs::base::id::NodeId;
use cellfs::peers::STATE_VALUE_BYTES_MAX;
use cellfs::replicator::HeadNotice;
use cellfs::replicator::machine::Event;

use super::node::Gossiped;
use super::world::{Message, What, World};

impl World {
    pub(super) fn reaches(&self, from: usize, to: usize) -> bool {
        self.group[from] == self.group[to] && !self.cuts.contains(&(from, to))
    }

    pub(super) fn is_connected(&self, a: usize, b: usize) -> bool {
        self.up.contains_key(&(a.min(b), a.max(b)))
    }

    pub(super) fn send(&mut self, from: usize, to: usize, message: Message) {
        let mean = self.plan.latency;
        let mut pause = 1 + self.rng.below(2 * mean);
        if self.rng.permille(20) {
            pause += self.rng.below(20 * mean);
        }
        let start = self.nodes[to].starts;
        let deliver = What::Deliver {
            from,
            to,
            start,
            message,
        };
        self.after(pause, deliver);
    }

    /// Tells all connected members, as far as the network lets it.
    pub(super) fn flood(&mut self, m: usize, head: &HeadNotice, pack: Option<Arc<Vec<u8>>>) {
        if self.rng.permille(self.plan.deaf) {
            return;
        }
        let from = self.nodes[m].id();
        for to in 0..self.nodes.len() {
            if to == m || !self.is_connected(m, to) || self.rng.permille(self.plan.loss) {
                continue;
            }
            let message = Message::Announce {
                from,
                head: head.clone(),
                pack: pack.clone(),
            };
            if self.rng.permille(self.plan.doubled) {
                self.send(m, to, message.clone());
            }
            self.send(m, to, message);
        }
    }

    /// Sets what a node gossips: as many of the first as fit.
    pub(super) fn set_state(&mut self, m: usize, mut heads: Vec<HeadNotice>) {
        self.nodes[m].disk.keep_notices(&heads);
        let size = |h: &Vec<HeadNotice>| {
            let bytes = postcard::to_stdvec(h).map_or(usize::MAX, |b| b.len() + 1);
            bytes.div_ceil(3).saturating_mul(4)
        };
        while size(&heads) > STATE_VALUE_BYTES_MAX {
            heads.pop();
        }
        let n = &mut self.nodes[m];
        let (id, start) = (n.id(), n.starts);
        let Some(run) = &mut n.run else { return };
        let before = run.states.get(&id).map_or(0, |s| s.version.1);
        let state = Gossiped {
            version: (start, before + 1),
            heads: Arc::new(heads),
        };
        run.states.insert(id, state);
    }

    pub(super) fn gossip(&mut self, m: usize, start: u64) {
        self.after(self.plan.gossip_every, What::Gossip(m, start));
        let Some(run) = &self.nodes[m].run else {
            return;
        };
        let states: Vec<(NodeId, Gossiped)> =
            run.states.iter().map(|(n, s)| (*n, s.clone())).collect();
        let states = Arc::new(states);
        let count = self.nodes.len();
        for _ in 0..2 {
            let to = self.rng.index(count);
            // Both ways, as a handshake.
            if to != m && self.is_connected(m, to) && !self.rng.permille(self.plan.loss) {
                self.send(m, to, Message::States(states.clone()));
                if let Some(run) = &self.nodes[to].run {
                    let theirs = run.states.iter().map(|(n, s)| (*n, s.clone()));
                    let theirs = Message::States(Arc::new(theirs.collect()));
                    self.send(to, m, theirs);
                }
            }
        }
    }

    pub(super) fn learn(&mut self, m: usize, states: &[(NodeId, Gossiped)]) -> Result<(), String> {
        let me = self.nodes[m].id();
        let mut news = Vec::new();
        if let Some(run) = &mut self.nodes[m].run {
            for (node, s) in states.iter().filter(|(n, _)| *n != me) {
                let known = run.states.get(node).map(|k| k.version);
                if known.is_none_or(|k| k < s.version) {
                    run.states.insert(*node, s.clone());
                    news.push((*node, s.heads.clone()));
                }
            }
        }
        for (from, heads) in news {
            let heads = heads.as_ref().clone();
            self.tell(m, Event::Gossiped { from, heads })?;
        }
        Ok(())
    }

    pub(super) fn sweep(&mut self, m: usize) -> Result<(), String> {
        let me = self.nodes[m].id();
        let Some(run) = &self.nodes[m].run else {
            return Ok(());
        };
        let all = run.states.iter().filter(|(n, _)| **n != me);
        let all: Vec<(NodeId, Arc<Vec<HeadNotice>>)> =
            all.map(|(n, s)| (*n, s.heads.clone())).collect();
        for (from, heads) in all {
            let heads = heads.as_ref().clone();
            self.tell(m, Event::Gossiped { from, heads })?;
        }
        Ok(())
    }

    pub(super) fn review_later(&mut self, a: usize, b: usize) {
        let pause = self.rng.between(20, 4_000);
        self.after(pause, What::Review(a.min(b), a.max(b)));
    }

    /// Brings a connection to what the network and the machines allow, and tells both sides.
    pub(super) fn review(&mut self, a: usize, b: usize) -> Result<(), String> {
        let (id_a, id_b) = (self.nodes[a].id(), self.nodes[b].id());
        if id_a == id_b {
            return Ok(());
        }
        let both = self.nodes[a].is_up() && self.nodes[b].is_up();
        let should = both && self.reaches(a, b) && self.reaches(b, a);
        let starts = (self.nodes[a].starts, self.nodes[b].starts);
        let is = self.up.get(&(a, b)).copied();
        if is == Some(starts) && should {
            return Ok(());
        }
        if is.is_some() {
            self.up.remove(&(a, b));
            // A twin may still be there under the name.
            for (m, other) in [(a, id_b), (b, id_a)] {
                let same = self.ids.get(&other).cloned().unwrap_or_default();
                if !same.iter().any(|p| self.is_connected(m, *p)) {
                    self.tell(m, Event::Down(other))?;
                }
            }
        }
        if should {
            self.up.insert((a, b), starts);
            for (m, other) in [(a, id_b), (b, id_a)] {
                if !self.nodes[m].roll.gone.contains(&other) {
                    self.tell(m, Event::Up(other))?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn review_all(&mut self, m: usize, soon: bool) {
        for other in 0..self.nodes.len() {
            if other == m {
                continue;
            }
            if soon {
                let pause = self.rng.between(5, 300);
                self.after(pause, What::Review(m.min(other), m.max(other)));
            } else {
                self.review_later(m, other);
            }
        }
    }

    pub(super) fn partition(&mut self, on: bool) {
        let old = self.group.clone();
        for g in &mut self.group {
            *g = u8::from(on && self.rng.permille(500));
        }
        for a in 0..old.len() {
            for b in 0..a {
                if (old[a] == old[b]) != (self.group[a] == self.group[b]) {
                    self.review_later(a, b);
                }
            }
        }
        let next = match on {
            true => self.rng.between(500, 8_000),
            false => self.rng.below(2 * self.plan.partition_every),
        };
        self.after(next, What::Partition(!on));
    }

    /// One direction between two machines is lost for a while.
    pub(super) fn cut(&mut self) {
        let next = self.rng.below(2 * self.plan.cut_every);
        self.after(next, What::Cut);
        let count = self.nodes.len();
        let (a, b) = (self.rng.index(count), self.rng.index(count));
        if a != b {
            self.cuts.insert((a, b));
            self.review_later(a, b);
            let pause = self.rng.between(300, 6_000);
            self.after(pause, What::Mend(a, b));
        }
    }
}
