//! The world of a simulation: virtual time, the network between the machines, and what happens
//! to them. One queue of events, ordered by time and then by number; one generator.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::sync::Arc;

use cellfs::base::id::{NodeId, Oid};
use cellfs::replicator::HeadNotice;
use cellfs::replicator::cover::Orphans;
use cellfs::replicator::exchange::Known;
use cellfs::replicator::machine::{Cell, Effect, Event};
use cellfs::volume::VolumeResult;

use super::author::Act;
use super::check::Ledger;
use super::disk::{Image, Pool, SimDisk};
use super::node::{Gossiped, Node, Roll, frontier};
use super::plan::{Ms, Plan, Rng, node_id};

/// A fetch of which nothing comes is found dead by the replicator after 20 s; one whose peer
/// says so, at once.
const TICK: Ms = 50;
pub(super) const LOOK: Ms = 500;
/// Commits that are tried in a run, for each machine: who commits for a commit of others, and is
/// answered so, has no end.
const COMMITS_OF_ONE_MAX: usize = 300;

/// What goes over the network.
#[derive(Debug, Clone)]
pub(super) enum Message {
    Announce {
        from: NodeId,
        head: HeadNotice,
        pack: Option<Arc<Vec<u8>>>,
    },
    States(Arc<Vec<(NodeId, Gossiped)>>),
    Ask {
        fetch: u64,
        asker: usize,
        /// How often it had started: who died waits for no answer, and counts anew.
        start: u64,
        want: Vec<Oid>,
        have: Known,
    },
    Answer {
        fetch: u64,
        ids: Vec<Oid>,
        pack: Arc<Vec<u8>>,
    },
}

/// What happens at a time. Machines are named by their numbers, and by their starts where an
/// event is for one run only.
#[derive(Debug)]
pub(super) enum What {
    Deliver {
        from: usize,
        to: usize,
        start: u64,
        message: Message,
    },
    Commit(usize, u64),
    Settle(usize, u64),
    Tick(usize, u64),
    Look(usize, u64),
    Gossip(usize, u64),
    Sweep(usize, u64),
    Fetched(usize, u64, u64, bool),
    Review(usize, usize),
    Act,
    Clone,
    Lie(usize),
    Forge,
    Partition(bool),
    Cut,
    Mend(usize, usize),
    Crash,
    Churn,
    Start(usize),
    Snapshot,
    Twin,
    Leave,
    Join,
    Told(usize, NodeId),
    Heal,
}

type Queued = Reverse<(Ms, u64, Slot)>;

/// An event in the queue, which compares by nothing but its place.
#[derive(Debug)]
struct Slot(What);

impl PartialEq for Slot {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Slot {}

impl PartialOrd for Slot {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Slot {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

/// What a run came to.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Report {
    pub(super) trace: u64,
    pub(super) steps: u64,
    pub(super) commits: u64,
    pub(super) crashes: u64,
    pub(super) frontier_max: usize,
    /// How long after the last write all agreed.
    pub(super) agreed_after: Ms,
}

/// See the module.
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) rng: Rng,
    pub(super) now: Ms,
    pub(super) nodes: Vec<Node>,
    pub(super) ledger: Ledger,
    pub(super) report: Report,
    pub(super) busy: bool,
    queue: BinaryHeap<Queued>,
    queued: u64,
    pub(super) pool: Pool,
    pub(super) group: Vec<u8>,
    pub(super) cuts: BTreeSet<(usize, usize)>,
    /// Connections that are up, with the starts of both sides.
    pub(super) up: BTreeMap<(usize, usize), (u64, u64)>,
    ticking: BTreeSet<usize>,
    pub(super) snapshots: Vec<(usize, Ms, Image, Option<Act>)>,
    /// Acts that were in no commit when their node crashed.
    pub(super) limbo: BTreeMap<usize, Act>,
    pub(super) ids: BTreeMap<NodeId, Vec<usize>>,
    members: Arc<BTreeSet<NodeId>>,
    trace: blake3::Hasher,
    /// A machine whose doings are printed.
    pub(super) watched: Option<usize>,
    /// The last token written.
    pub(super) token: u64,
}

impl World {
    pub(super) fn new(plan: Plan) -> Self {
        let count = plan.nodes + plan.leavers;
        let mut w = Self {
            rng: Rng::new(plan.seed ^ 0x00C0_FFEE),
            now: 0,
            nodes: Vec::new(),
            ledger: Ledger::default(),
            report: Report::default(),
            busy: true,
            queue: BinaryHeap::new(),
            queued: 0,
            pool: Pool::default(),
            group: Vec::new(),
            cuts: BTreeSet::new(),
            up: BTreeMap::new(),
            ticking: BTreeSet::new(),
            snapshots: Vec::new(),
            limbo: BTreeMap::new(),
            ids: BTreeMap::new(),
            members: Arc::new((0..count).map(node_id).collect()),
            trace: blake3::Hasher::new(),
            watched: None,
            token: 0,
            plan,
        };
        for n in 0..w.plan.nodes {
            let disk = SimDisk::new(w.pool.clone());
            let m = w.add(disk, node_id(n));
            // Liars are the last ones.
            w.nodes[m].liar = n >= w.plan.nodes - w.plan.liars;
            let at = w.rng.below(200);
            w.after(at, What::Start(m));
        }
        w.faults();
        w
    }

    /// What the plan has in store.
    fn faults(&mut self) {
        let p = self.plan.clone();
        self.after(300, What::Act);
        self.after(p.busy, What::Heal);
        for (every, what) in [
            (p.partition_every, What::Partition(true)),
            (p.cut_every, What::Cut),
            (p.crash_every, What::Crash),
            (p.clone_every, What::Clone),
        ] {
            if every > 0 {
                let at = self.rng.below(2 * every);
                self.after(at, what);
            }
        }
        if p.churn > 0 {
            self.after(5_000, What::Churn);
        }
        if p.amnesia > 0 {
            self.after(p.busy / 4, What::Snapshot);
        }
        if p.forges && p.liars > 0 {
            self.after(p.busy * 3 / 4, What::Forge);
        }
        for _ in 0..p.twins {
            let at = self.rng.below(p.busy);
            self.after(at, What::Twin);
        }
        for _ in 0..p.leavers {
            let at = self.rng.between(p.busy / 3, p.busy);
            self.after(at, What::Leave);
            self.after(at + 3_000, What::Join);
        }
    }

    pub(super) fn add(&mut self, disk: SimDisk, id: NodeId) -> usize {
        let m = self.nodes.len();
        let skew = i64::try_from(self.rng.below(2 * self.plan.skew + 1)).expect("small");
        let skew = skew - i64::try_from(self.plan.skew).expect("small");
        let roll = Roll {
            me: id,
            members: self.members.clone(),
            gone: self.ledger.gone.clone(),
        };
        let node = Node::new(Arc::new(disk), roll, format!("node {m}"), skew);
        self.nodes.push(node);
        self.group.push(0);
        self.ids.entry(id).or_default().push(m);
        m
    }

    pub(super) fn after(&mut self, pause: Ms, what: What) {
        self.queued += 1;
        let at = self.now + pause;
        self.queue.push(Reverse((at, self.queued, Slot(what))));
    }

    pub(super) fn note(&mut self, what: &[u8], m: usize) {
        self.trace.update(&self.now.to_le_bytes());
        self.trace.update(&m.to_le_bytes());
        self.trace.update(what);
    }

    /// Prints what happens at the machine that is watched.
    fn watch(&self, m: usize, what: &dyn std::fmt::Debug) {
        if self.watched == Some(m) {
            println!("{} ms: {what:?}", self.now);
        }
    }

    /// Runs until this time. An error says which promise was broken.
    pub(super) fn run_until(&mut self, end: Ms) -> Result<(), String> {
        while let Some(Reverse((at, _, _))) = self.queue.peek()
            && *at <= end
        {
            let Some(Reverse((at, _, Slot(what)))) = self.queue.pop() else {
                break;
            };
            self.now = at;
            self.report.steps += 1;
            self.step(what)?;
            if self.ledger.tries() > COMMITS_OF_ONE_MAX * self.nodes.len() {
                return Err("commits without an end".to_owned());
            }
        }
        self.now = end;
        let hash = *self.trace.finalize().as_bytes();
        let (first, _) = hash.split_at(8);
        self.report.trace = u64::from_le_bytes(first.try_into().expect("eight bytes"));
        Ok(())
    }

    fn runs(&self, m: usize, start: u64) -> bool {
        let n = &self.nodes[m];
        n.is_up() && n.starts == start
    }

    fn step(&mut self, what: What) -> Result<(), String> {
        match what {
            What::Deliver {
                from,
                to,
                start,
                message,
            } if self.reaches(from, to) && self.runs(to, start) => {
                return self.deliver(from, to, message);
            }
            What::Commit(m, start) if self.runs(m, start) => {
                self.note(b"commit", m);
                let done = self.nodes[m].commit(self.now);
                return self.done(m, done);
            }
            What::Settle(m, start) if self.runs(m, start) => {
                self.nodes[m].settle(&mut self.rng);
                let next = self.rng.between(50, 1_000);
                self.after(next, What::Settle(m, start));
            }
            What::Tick(m, start) => {
                self.ticking.remove(&m);
                if self.runs(m, start) {
                    return self.tell(m, Event::Tick);
                }
            }
            What::Look(m, start) if self.runs(m, start) => {
                self.after(LOOK, What::Look(m, start));
                return self.look(m);
            }
            What::Gossip(m, start) if self.runs(m, start) => self.gossip(m, start),
            What::Sweep(m, start) if self.runs(m, start) => {
                self.after(self.plan.sweep_every, What::Sweep(m, start));
                return self.sweep(m);
            }
            What::Fetched(m, start, fetch, ok) if self.runs(m, start) => {
                return self.fetched(m, fetch, ok);
            }
            What::Review(a, b) => return self.review(a, b),
            What::Act => return self.act(),
            What::Clone if self.busy => {
                let next = self.rng.below(2 * self.plan.clone_every);
                self.after(next, What::Clone);
                if let Some(m) = self.some_honest() {
                    self.note(b"clone", m);
                    let done = self.nodes[m].hand_out(self.now);
                    return self.done(m, done);
                }
            }
            What::Lie(m) if self.busy => {
                let next = self.rng.between(100, 1_500);
                self.after(next, What::Lie(m));
                return self.lie(m);
            }
            What::Forge => return self.forge(),
            What::Partition(on) if self.busy => self.partition(on),
            What::Cut if self.busy => self.cut(),
            What::Mend(a, b) => {
                self.cuts.remove(&(a, b));
                self.review_later(a, b);
            }
            What::Crash if self.busy => {
                let next = self.rng.below(2 * self.plan.crash_every);
                self.after(next, What::Crash);
                if let Some(m) = self.some_honest() {
                    if self.rng.permille(500) {
                        let uses = u32::try_from(self.rng.below(12)).expect("small");
                        self.nodes[m].disk.die_at(uses);
                    } else {
                        self.crash(m);
                    }
                }
            }
            What::Churn if self.busy => {
                let nodes = self.nodes.len() as u64;
                let a_minute = (nodes * self.plan.churn / 1000).max(1);
                self.after(60_000 / a_minute, What::Churn);
                if let Some(m) = self.some_honest() {
                    self.crash(m);
                }
            }
            What::Start(m) => return self.start(m),
            What::Snapshot if self.busy => {
                let next = self.rng.between(500, 5_000);
                self.after(next, What::Snapshot);
                if let Some(m) = self.some_honest() {
                    let n = &self.nodes[m];
                    let pending = n.run.as_ref().and_then(|r| r.pending.as_ref());
                    let limbo = pending.map(|p| p.act.clone());
                    self.snapshots.push((m, self.now, n.disk.image(), limbo));
                }
            }
            What::Twin if self.busy => self.twin(),
            What::Leave => self.leave(),
            What::Join => {
                let id = node_id(self.plan.nodes + self.ledger.joined);
                self.ledger.joined += 1;
                let m = self.add(SimDisk::new(self.pool.clone()), id);
                return self.start(m);
            }
            What::Told(m, gone) => {
                self.nodes[m].roll.gone.insert(gone);
            }
            What::Heal => self.heal(),
            _ => {}
        }
        Ok(())
    }

    /// An honest machine that runs.
    pub(super) fn some_honest(&mut self) -> Option<usize> {
        let fit = (0..self.nodes.len()).filter(|m| {
            let n = &self.nodes[*m];
            n.is_up() && !n.liar
        });
        let fit: Vec<usize> = fit.collect();
        self.rng.pick(&fit)
    }

    /// Gives a machine an event and carries out what it decides.
    pub(super) fn tell(&mut self, m: usize, event: Event) -> Result<(), String> {
        self.watch(m, &event);
        let effects = self.nodes[m].give(event, self.now);
        self.carry_out(m, effects)
    }

    /// Carries out what an action of a node led to; a node whose disk died crashes.
    pub(super) fn done(&mut self, m: usize, done: VolumeResult<Vec<Effect>>) -> Result<(), String> {
        match done {
            Ok(effects) => self.carry_out(m, effects),
            Err(_) if self.nodes[m].disk.is_dead() => {
                self.crash(m);
                Ok(())
            }
            Err(e) => Err(format!("machine {m} at {} ms: {e}", self.now)),
        }
    }

    pub(super) fn account(&mut self, m: usize) {
        for (dot, act) in std::mem::take(&mut self.nodes[m].tried) {
            self.note(&dot.branch.0.to_le_bytes(), m);
            let left = || self.limbo.get(&m).cloned().unwrap_or_default();
            let act = act.unwrap_or_else(left);
            self.ledger.tried(dot, m, act);
        }
    }

    fn carry_out(&mut self, m: usize, effects: Vec<Effect>) -> Result<(), String> {
        self.account(m);
        let mut queue: VecDeque<Effect> = effects.into();
        while let Some(effect) = queue.pop_front() {
            self.watch(m, &effect);
            if self.nodes[m].liar {
                continue;
            }
            match effect {
                Effect::Announce { head, pack } => {
                    if !self.nodes[m].disk.outlives_a_crash(&head.id) {
                        return Err(format!(
                            "machine {m} announced {} before it was durable",
                            head.id
                        ));
                    }
                    self.ledger.announced(&head)?;
                    self.flood(m, &head, pack.map(Arc::new));
                }
                Effect::Gossip { heads, .. } => self.set_state(m, heads),
                Effect::GiveUp(_) => {
                    // What it says afterwards counts for nothing, and may come.
                    if self.rng.permille(500)
                        && let Some(run) = &mut self.nodes[m].run
                    {
                        run.fetches.clear();
                    }
                }
                Effect::Fetch {
                    fetch, from, want, ..
                } => {
                    let now = self.now;
                    match self.nodes[m].unpack(want, now) {
                        Ok((rest, more)) => {
                            self.account(m);
                            queue.extend(more);
                            self.ask(m, fetch, from, rest);
                        }
                        Err(e) => return self.done(m, Err(e)),
                    }
                }
                Effect::Cover { heads, orphans, .. } => {
                    self.may_cover(m, &heads, orphans)?;
                    let now = self.now;
                    match self.nodes[m].cover(&heads, now) {
                        Ok(more) => {
                            self.account(m);
                            queue.extend(more);
                        }
                        Err(e) => return self.done(m, Err(e)),
                    }
                }
            }
        }
        let n = &self.nodes[m];
        if let Some(run) = &n.run {
            // What people see here, they see after a loss of power.
            let own = run.view.heads.iter();
            let own = own.filter(|h| h.stamp.branch == run.numbers.branch);
            if let Some(h) = own.clone().find(|h| !n.disk.outlives_a_crash(&h.id)) {
                return Err(format!("machine {m} shows {} before it is durable", h.id));
            }
            let heads = run.view.heads.len();
            self.report.frontier_max = self.report.frontier_max.max(heads);
            let behind = run.machine.behind(&super::node::volume());
            if behind > 4096 || run.fetches.len() > 64 {
                return Err(format!("machine {m}: a queue without a bound"));
            }
            if behind > 0 && self.ticking.insert(m) {
                let start = n.starts;
                self.after(TICK, What::Tick(m, start));
            }
        }
        Ok(())
    }

    /// Merges are not published: a commit without changes is for heads that members can vouch
    /// for no more.
    fn may_cover(&self, m: usize, heads: &[Oid], orphans: Orphans) -> Result<(), String> {
        let n = &self.nodes[m];
        let mut shown = n.run.iter().flat_map(|r| r.view.heads.iter());
        let of_members = shown.find(|h| heads.contains(&h.id) && n.roll.is_member(h.node));
        match of_members.filter(|_| orphans == Orphans::OfStrangers) {
            Some(h) => Err(format!("machine {m} covers {}, a member's head", h.id)),
            None => Ok(()),
        }
    }

    fn ask(&mut self, m: usize, fetch: u64, from: NodeId, rest: Vec<HeadNotice>) {
        let start = self.nodes[m].starts;
        if rest.is_empty() {
            return self.after(1, What::Fetched(m, start, fetch, true));
        }
        let peers = self.ids.get(&from).cloned().unwrap_or_default();
        let peers: Vec<usize> = peers
            .into_iter()
            .filter(|p| self.is_connected(m, *p))
            .collect();
        let lost = self.rng.permille(self.plan.loss / 4);
        let Some(to) = self.rng.pick(&peers).filter(|_| !lost) else {
            // A refusal, or silence.
            if self.rng.permille(800) {
                self.after(100, What::Fetched(m, start, fetch, false));
            }
            return;
        };
        let Some(run) = &mut self.nodes[m].run else {
            return;
        };
        let have = Known::new(run.view.heads.iter().map(|h| h.id), run.view.seen());
        self.question(m, to, fetch, (rest, have));
    }

    fn question(
        &mut self,
        m: usize,
        to: usize,
        fetch: u64,
        (rest, have): (Vec<HeadNotice>, Known),
    ) {
        let message = Message::Ask {
            fetch,
            asker: m,
            start: self.nodes[m].starts,
            want: rest.iter().map(|w| w.id).collect(),
            have: have.clone(),
        };
        if let Some(run) = &mut self.nodes[m].run {
            run.fetches.insert(fetch, (rest, have));
            self.send(m, to, message);
        }
    }

    fn fetched(&mut self, m: usize, fetch: u64, ok: bool) -> Result<(), String> {
        let shown = self.nodes[m].run.as_mut().map(|r| {
            r.fetches.remove(&fetch);
            frontier(&r.view)
        });
        let lies = std::mem::take(&mut self.nodes[m].lies);
        let event = Event::Fetched {
            fetch,
            shown,
            ok,
            lies,
        };
        self.tell(m, event)
    }

    fn look(&mut self, m: usize) -> Result<(), String> {
        let me = self.nodes[m].id();
        let Some(run) = &self.nodes[m].run else {
            return Ok(());
        };
        let shown = vec![frontier(&run.view)];
        let before = (0..self.nodes.len()).filter(|p| self.nodes[*p].id() < me);
        let place = before.filter(|p| self.is_connected(m, *p)).count();
        self.tell(m, Event::Look { shown, place })
    }

    fn deliver(&mut self, from: usize, to: usize, message: Message) -> Result<(), String> {
        match message {
            Message::Announce { from, head, pack } => {
                self.note(head.id.as_slice(), to);
                if self.nodes[to].liar {
                    self.ledger.overheard(head, pack.as_deref());
                    return Ok(());
                }
                // What bears one's own name is not heard.
                if from == self.nodes[to].id() {
                    return Ok(());
                }
                let pack = pack.map(|p| p.as_ref().clone());
                self.tell(to, Event::Announced { from, head, pack })
            }
            Message::States(states) => self.learn(to, &states),
            Message::Ask {
                fetch,
                asker,
                start,
                want,
                have,
            } => {
                self.note(b"ask", to);
                if self.nodes[asker].starts != start {
                    return Ok(());
                }
                let (ids, pack) = match self.nodes[to].liar {
                    true => match self.false_answer(to, &want, &have) {
                        Some(answer) => answer,
                        None => return Ok(()),
                    },
                    false => self.nodes[to].answer(&want, &have),
                };
                let pack = Arc::new(pack);
                self.send(to, asker, Message::Answer { fetch, ids, pack });
                Ok(())
            }
            Message::Answer { fetch, ids, pack } => {
                self.note(b"answer", to);
                let run = self.nodes[to].run.as_mut();
                let Some((want, known)) = run.and_then(|r| r.fetches.remove(&fetch)) else {
                    return Ok(());
                };
                let now = self.now;
                match self.nodes[to].receive(&want, &ids, &pack, now) {
                    Ok((ok, effects)) => {
                        if let (false, Some(known)) = (ok, known.without_seen()) {
                            self.carry_out(to, effects)?;
                            self.question(to, from, fetch, (want, known));
                            return Ok(());
                        }
                        if !ok && !self.nodes[from].liar && !ids.is_empty() {
                            return Err(format!("machine {to} refused what {from} gave"));
                        }
                        self.carry_out(to, effects)?;
                        self.fetched(to, fetch, ok)
                    }
                    Err(e) => self.done(to, Err(e)),
                }
            }
        }
    }
}
