//! What befalls machines: people write, power is lost, disks come back older than they were or
//! twice, nodes leave, and in the end all is healed.

use super::disk::SimDisk;
use super::world::{LOOK, What, World};

impl World {
    pub(super) fn act(&mut self) -> Result<(), String> {
        if !self.busy {
            return Ok(());
        }
        let next = self.rng.below(2 * self.plan.act_every + 1);
        self.after(next, What::Act);
        let Some(m) = self.some_honest() else {
            return Ok(());
        };
        // One act at a time: the one before is committed first.
        let now = self.now;
        let done = self.nodes[m].commit(now);
        self.done(m, done)?;
        let fsync = self.rng.permille(400);
        let mut token = self.token;
        let n = &mut self.nodes[m];
        let acted = n.act(&mut self.rng, &mut token, now, fsync);
        self.token = token;
        if let Ok(Some(act)) = &acted {
            self.ledger.acknowledged(m, now, act);
        }
        if acted.is_err() {
            return self.done(m, acted.map(|_| Vec::new()));
        }
        let start = self.nodes[m].starts;
        let pause = self.rng.below(120);
        self.after(pause, What::Commit(m, start));
        Ok(())
    }

    pub(super) fn crash(&mut self, m: usize) {
        self.note(b"crash", m);
        self.report.crashes += 1;
        self.account(m);
        let n = &mut self.nodes[m];
        // It may crash again while it starts.
        if let Some(run) = n.run.take() {
            self.limbo.remove(&m);
            if let Some(p) = run.pending {
                self.limbo.insert(m, p.act);
            }
        }
        n.disk.crash(&mut self.rng);
        let back = self.rng.permille(self.plan.amnesia);
        let older = self.snapshots.iter().rposition(|(of, ..)| *of == m);
        if let Some(at) = older.filter(|_| back) {
            let (_, when, image, limbo) = self.snapshots.swap_remove(at);
            self.nodes[m].disk.roll_back(&image);
            self.limbo.remove(&m);
            if let Some(act) = limbo {
                self.limbo.insert(m, act);
            }
            self.ledger.forgot(m, when);
        }
        self.review_all(m, false);
        let pause = self.rng.between(100, 6_000);
        self.after(pause, What::Start(m));
    }

    pub(super) fn start(&mut self, m: usize) -> Result<(), String> {
        if self.nodes[m].is_up() || self.nodes[m].left {
            return Ok(());
        }
        self.note(b"start", m);
        let now = self.now;
        let started = self.nodes[m].start(&mut self.rng, now);
        if started.is_err() {
            // Its disk died again while it started.
            let dead = self.nodes[m].disk.is_dead();
            return match started {
                Err(e) if !dead => Err(format!("machine {m} does not start: {e}")),
                _ => {
                    self.crash(m);
                    Ok(())
                }
            };
        }
        self.done(m, started)?;
        self.limbo.remove(&m);
        if self.nodes.len() < 100 {
            super::check::heads_are_whole(&self.nodes[m])?;
        }
        let start = self.nodes[m].starts;
        for (most, what) in [
            (1_000, What::Settle(m, start)),
            (LOOK, What::Look(m, start)),
            (self.plan.gossip_every, What::Gossip(m, start)),
            (self.plan.sweep_every, What::Sweep(m, start)),
        ] {
            let pause = self.rng.below(most);
            self.after(pause, what);
        }
        if self.nodes[m].liar {
            self.after(500, What::Lie(m));
        }
        self.review_all(m, true);
        Ok(())
    }

    /// A machine appears with a copy of another one's disk and key.
    pub(super) fn twin(&mut self) {
        let Some(of) = self.some_honest() else { return };
        let n = &self.nodes[of];
        let pending = n.run.as_ref().and_then(|r| r.pending.as_ref());
        let limbo = pending.map(|p| p.act.clone());
        let (id, image) = (n.id(), n.disk.image());
        let m = self.add(SimDisk::of(&image, self.pool.clone()), id);
        if let Some(act) = limbo {
            self.limbo.insert(m, act);
        }
        let pause = self.rng.below(2_000);
        self.after(pause, What::Start(m));
    }

    /// A node goes for good; the others hear of it at different times.
    pub(super) fn leave(&mut self) {
        let honest = (0..self.nodes.len()).filter(|m| {
            let n = &self.nodes[*m];
            let twins = self.ids.get(&n.id()).map_or(0, Vec::len);
            !n.liar && !n.left && twins == 1
        });
        let honest: Vec<usize> = honest.collect();
        if honest.len() < 3 {
            return;
        }
        let Some(m) = self.rng.pick(&honest) else {
            return;
        };
        let id = self.nodes[m].id();
        self.note(b"leave", m);
        self.nodes[m].left = true;
        self.nodes[m].run = None;
        self.limbo.remove(&m);
        self.ledger.forgot(m, 0);
        self.ledger.gone.insert(id);
        for other in 0..self.nodes.len() {
            let pause = self.rng.below(3_000);
            self.after(pause, What::Told(other, id));
        }
        self.review_all(m, false);
    }

    /// Nothing more is written, nothing more goes wrong.
    pub(super) fn heal(&mut self) {
        self.busy = false;
        self.plan.loss = 0;
        self.plan.deaf = 0;
        self.cuts.clear();
        self.group.fill(0);
        for m in 0..self.nodes.len() {
            let n = &self.nodes[m];
            if n.left {
                continue;
            }
            if n.is_up() {
                n.disk.settle(None);
                n.disk.die_at(u32::MAX);
            } else {
                self.after(10, What::Start(m));
            }
            self.review_all(m, true);
        }
    }
}
