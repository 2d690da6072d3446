//! Members that lie: about what they have, what others wrote, and what they send.

use cellfs::base::id::{BranchId, Oid};
use cellfs::replicator::HeadNotice;
use cellfs::replicator::exchange::Known;
use cellfs::store::incoming;
use cellfs::store::objects::{Object, ObjectKind, id_of};
use cellfs::store::pack;

use super::node::{signature, volume};
use super::world::World;

impl World {
    fn random_id(&mut self) -> Oid {
        id_of(ObjectKind::Blob, &self.rng.next().to_le_bytes())
    }

    /// A notice by a liar, well signed.
    fn notice_by(&mut self, m: usize, branch: BranchId, seq: u64, id: Oid) -> HeadNotice {
        let mut n = HeadNotice {
            volume: volume(),
            node: self.nodes[m].id(),
            branch,
            seq,
            id,
            signature: Vec::new(),
        };
        n.signature = signature(n.node, &n);
        n
    }

    /// One lie.
    pub(super) fn lie(&mut self, m: usize) -> Result<(), String> {
        if !self.nodes[m].is_up() || self.nodes[m].mute {
            return Ok(());
        }
        let heard = self.rng.pick(&self.ledger.overheard);
        let id = self.random_id();
        let mut heads = Vec::new();
        let mut with = None;
        match (self.rng.below(7), heard) {
            // A head that nobody has.
            (0, _) => {
                let branch = BranchId(self.rng.below(3) + 1);
                let seq = self.rng.between(1, 1 << 40);
                heads.push(self.notice_by(m, branch, seq, id));
            }
            // Another one's head, signed by nobody.
            (1, Some((mut head, _))) => {
                head.seq += self.rng.between(1, 1000);
                head.id = id;
                heads.push(head);
            }
            // Another one's branch as its own, far ahead.
            (2, Some((head, _))) => {
                heads.push(self.notice_by(m, head.branch, head.seq + (1 << 30), id));
            }
            // What was said before, with a pack of something else.
            (3, Some((head, _))) => {
                heads.push(head);
                with = self.ledger.overheard.first().and_then(|(_, p)| p.clone());
            }
            // Another one's commit as its own.
            (4, Some((head, pack))) => {
                heads.push(self.notice_by(m, head.branch, head.seq + 1, head.id));
                with = pack;
            }
            // A commit that it made.
            (_, _) => {
                let (now, mut token) = (self.now, self.token);
                let n = &mut self.nodes[m];
                let acted = n.act(&mut self.rng, &mut token, now, true);
                self.token = token;
                acted.map_err(|e| e.to_string())?;
                let done = self.nodes[m].commit(now);
                self.done(m, done)?;
                let view = self.nodes[m].run.as_ref().map(|r| r.view.clone());
                let own = view.into_iter().flat_map(|v| v.heads.as_ref().clone());
                for h in own.collect::<Vec<_>>() {
                    heads.push(self.notice_by(m, h.stamp.branch, h.stamp.seq, h.id));
                }
            }
        }
        let with = with.map(std::sync::Arc::new);
        for head in &heads {
            self.flood(m, head, with.clone());
        }
        self.set_state(m, heads);
        Ok(())
    }

    /// A commit in another node's name, whose signature the liar does not have. Nothing of the
    /// liar comes after it: what it builds on it, it vouches for.
    pub(super) fn forge(&mut self) -> Result<(), String> {
        let m = self.plan.nodes - 1;
        if !self.nodes[m].is_up() {
            return Ok(());
        }
        let (now, mut token) = (self.now, self.token);
        let me = self.nodes[m].id();
        self.nodes[m].mute = true;
        self.nodes[m].who.node = self.nodes[0].id();
        let acted = self.nodes[m].act(&mut self.rng, &mut token, now, true);
        self.token = token;
        acted.map_err(|e| e.to_string())?;
        let done = self.nodes[m].commit(now);
        self.done(m, done)?;
        let view = self.nodes[m].run.as_ref().map(|r| r.view.clone());
        for h in view.into_iter().flat_map(|v| v.heads.as_ref().clone()) {
            let mut n = self.notice_by(m, h.stamp.branch, h.stamp.seq, h.id);
            // Well signed, in its own name: that is no notice of this commit either.
            let own = n.clone();
            n.node = h.node;
            n.signature = signature(me, &n);
            self.flood(m, &n, None);
            self.set_state(m, vec![n, own]);
        }
        Ok(())
    }

    /// What a liar answers; silence if `None`.
    pub(super) fn false_answer(
        &mut self,
        m: usize,
        want: &[Oid],
        have: &Known,
    ) -> Option<(Vec<Oid>, Vec<u8>)> {
        let (ids, good) = self.nodes[m].answer(want, have);
        let blob = |bytes: &[u8]| {
            let data = bytes.to_vec();
            let id = id_of(ObjectKind::Blob, &data);
            let o = Object {
                kind: ObjectKind::Blob,
                data: data.into(),
            };
            pack::encode(&[(id, o)]).expect("memory")
        };
        match self.rng.below(9) {
            0 => None,
            1 => Some((Vec::new(), Vec::new())),
            2 => Some((want.to_vec(), b"PACK and so on".to_vec())),
            3 => Some((want.to_vec(), blob(b"nothing"))),
            4 => Some((vec![self.random_id()], blob(b"unasked"))),
            5 => {
                let half = good.len() / 2;
                Some((ids, good.get(..half)?.to_vec()))
            }
            6 | 7 => Some((ids, self.with_more(good))),
            _ => Some((ids, good)),
        }
    }

    /// The same pack with a commit of another node in it, without what that needs.
    fn with_more(&mut self, good: Vec<u8>) -> Vec<u8> {
        let Some((head, Some(theirs))) = self.rng.pick(&self.ledger.overheard) else {
            return good;
        };
        let (Ok(own), Ok(theirs)) = (incoming::parse(&good), incoming::parse(&theirs)) else {
            return good;
        };
        let mut all = own.into_objects();
        let mut theirs = theirs.into_objects();
        theirs.retain(|(id, _)| *id == head.id && all.iter().all(|(o, _)| o != id));
        all.extend(theirs);
        all.sort_by_key(|(id, _)| *id);
        pack::encode(&all).expect("memory")
    }
}
