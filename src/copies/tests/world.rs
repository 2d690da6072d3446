//! Several nodes in one thread, in virtual time, each with a disk: messages that are lost, late,
//! twice and out of order, cuts of one way and of both, crashes at any moment, nodes that get
//! their copy back, nodes that are forgotten. After each event is looked whether what was allowed
//! is still covered by promises, and at each copy that goes whether enough are left.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::Chance;
use crate::base::id::NodeId;
use crate::copies::{Copies, Input, Output, Promises};

type File = u8;

const SECOND: u64 = 1000;
/// Time after which all has to be quiet when nothing goes wrong any more.
const PATIENCE: u64 = 400 * SECOND;

/// What a world is like.
#[derive(Debug, Clone, Default)]
pub(super) struct Plan {
    pub(super) nodes: usize,
    pub(super) files: u8,
    /// How many hold each file at first.
    pub(super) holders: usize,
    pub(super) wanted: u32,
    /// How long things go wrong.
    pub(super) storm: u64,
    /// One message in so many is lost, or comes twice; none if 0.
    pub(super) lost: u64,
    pub(super) twice: u64,
    /// One message, check, flush or deed in so many takes long.
    pub(super) late: u64,
    pub(super) cuts: u64,
    pub(super) crashes: u64,
    pub(super) fetches: u64,
    /// Up to three.
    pub(super) forgotten: u64,
}

#[derive(Debug)]
enum Event {
    /// A node hears something, or is told of what it began itself, if this is its run.
    Hears(usize, u64, Input<File>),
    /// The same from another node, whatever its run.
    Comes {
        to: usize,
        from: usize,
        said: Input<File>,
    },
    /// What a node promised is on its disk, and it goes on with what stood behind that.
    Flushed {
        node: usize,
        run: u64,
        version: u64,
        promises: Promises<File>,
        rest: Vec<Output<File>>,
    },
    /// What may be let go of goes.
    Goes(usize, u64, File),
    /// A node wants to let go.
    Tries(usize, File),
    Tick(usize, u64),
    Crash(usize),
    Start(usize),
    Cut(usize, usize),
    Link(usize, usize),
    Fetch(usize, File),
    Forget(usize),
    /// A node hears that another is no member any more.
    Learns(usize, usize),
    Calm,
}

/// What a node was told it may do.
#[derive(Debug)]
struct Going {
    attempt: u64,
    /// Whom it took for members then.
    members: BTreeSet<usize>,
}

struct Node {
    copies: Copies<File>,
    is_up: bool,
    run: u64,
    /// Its clock is so far ahead.
    ahead: u64,
    version: u64,
    disk: Promises<File>,
    disk_version: u64,
    holds: BTreeSet<File>,
    wants: BTreeSet<File>,
    knows_gone: BTreeSet<usize>,
    going: BTreeMap<File, Going>,
}

/// What happened in a world, to see that something did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) let_go: u64,
    pub(super) kept: u64,
    pub(super) promised: u64,
    pub(super) crashes_while_going: u64,
    pub(super) asked_beside_another: u64,
    pub(super) inquired: u64,
    /// Of each file, how many hold it in the end.
    pub(super) left: Vec<usize>,
}

pub(super) struct World {
    plan: Plan,
    pub(super) chance: Chance,
    now: u64,
    queue: BTreeMap<(u64, u64), Event>,
    queued: u64,
    nodes: Vec<Node>,
    cut: BTreeSet<(usize, usize)>,
    forgotten: BTreeSet<usize>,
    is_calm: bool,
    pub(super) seen: Seen,
    /// What went on, if somebody watches.
    pub(super) trace: Option<String>,
}

fn id(node: usize) -> NodeId {
    NodeId([u8::try_from(node).unwrap() + 1; 32])
}

fn index(id: NodeId) -> usize {
    usize::from(id.0[0]) - 1
}

impl World {
    pub(super) fn new(seed: u64, plan: Plan) -> Self {
        let mut w = Self {
            chance: Chance(seed),
            now: 0,
            queue: BTreeMap::new(),
            queued: 0,
            nodes: Vec::new(),
            cut: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            is_calm: false,
            seen: Seen::default(),
            trace: None,
            plan,
        };
        for n in 0..w.plan.nodes {
            w.nodes.push(Node {
                copies: Copies::new(Promises::new()),
                is_up: true,
                run: 0,
                ahead: w.chance.below(1000 * SECOND),
                version: 0,
                disk: Promises::new(),
                disk_version: 0,
                holds: BTreeSet::new(),
                wants: BTreeSet::new(),
                knows_gone: BTreeSet::new(),
                going: BTreeMap::new(),
            });
            let at = w.chance.below(SECOND);
            w.at(at, Event::Tick(n, 0));
        }
        for f in 0..w.plan.files {
            let mut all: Vec<usize> = (0..w.plan.nodes).collect();
            for _ in 0..w.plan.holders {
                let n = w.chance.index(all.len());
                let n = all.swap_remove(n);
                w.nodes[n].holds.insert(f);
                if w.plan.holders <= 2 || !w.chance.one_in(5) {
                    w.nodes[n].wants.insert(f);
                    let at = w.chance.below(40);
                    w.at(at, Event::Tries(n, f));
                }
            }
        }
        w.plan_faults();
        let storm = w.plan.storm;
        w.at(storm, Event::Calm);
        w
    }

    fn plan_faults(&mut self) {
        let Plan {
            nodes,
            storm,
            cuts,
            crashes,
            fetches,
            forgotten,
            ..
        } = self.plan;
        for _ in 0..cuts {
            let (a, b) = (self.chance.index(nodes), self.chance.index(nodes));
            let at = self.chance.below(storm);
            let back = at + self.chance.below(storm);
            let both = self.chance.one_in(2);
            // All of one node, or a single way.
            let alone = self.chance.one_in(3);
            for other in (0..nodes).filter(|n| *n == b || alone) {
                for way in [(a, other), (other, a)]
                    .into_iter()
                    .take(1 + usize::from(both))
                {
                    self.at(at, Event::Cut(way.0, way.1));
                    self.at(back, Event::Link(way.0, way.1));
                }
            }
        }
        for _ in 0..crashes {
            let n = self.chance.index(nodes);
            let at = self.chance.below(storm);
            let back = at + self.chance.below(storm / 4);
            self.at(at, Event::Crash(n));
            self.at(back, Event::Start(n));
        }
        for _ in 0..fetches {
            let n = self.chance.index(nodes);
            let at = self.chance.below(storm);
            let f = u8::try_from(self.chance.below(u64::from(self.plan.files))).unwrap();
            self.at(at, Event::Fetch(n, f));
        }
        for _ in 0..forgotten {
            let n = self.chance.index(nodes);
            let at = self.chance.below(storm);
            self.at(at, Event::Forget(n));
        }
    }

    fn at(&mut self, at: u64, event: Event) {
        self.queued += 1;
        self.queue.insert((at, self.queued), event);
    }

    /// How long something takes: mostly not long.
    fn while_it_takes(&mut self) -> u64 {
        if !self.is_calm && self.plan.late > 0 && self.chance.one_in(self.plan.late) {
            let long = self.chance.one_of(&[SECOND, 5 * SECOND, self.plan.storm]);
            self.chance.below(long)
        } else {
            self.chance.below(40)
        }
    }

    fn goes_wrong(&mut self, one_in: u64) -> bool {
        !self.is_calm && one_in > 0 && self.chance.one_in(one_in)
    }

    /// Runs until all is quiet.
    pub(super) fn run(&mut self) -> Result<(), String> {
        while let Some(((at, _), event)) = self.queue.pop_first() {
            self.now = at;
            if let Some(trace) = &mut self.trace {
                writeln!(trace, "{at:>6} {event:?}").unwrap();
            }
            self.happens(event)?;
            self.look()?;
            if self.is_calm && self.is_quiet() {
                for f in 0..self.plan.files {
                    let left = self.members().filter(|n| n.holds.contains(&f)).count();
                    self.seen.left.push(left);
                }
                return Ok(());
            }
            if at > self.plan.storm + PATIENCE {
                break;
            }
        }
        let on = |n: &Node| (0..self.plan.files).any(|f| n.copies.is_on(&f));
        let who: Vec<_> = self
            .members()
            .map(|n| (on(n), n.copies.promises()))
            .collect();
        Err(format!("it does not get quiet: {who:?}"))
    }

    fn members(&self) -> impl Iterator<Item = &Node> {
        let all = self.nodes.iter().enumerate();
        all.filter(|(n, _)| !self.forgotten.contains(n))
            .map(|(_, node)| node)
    }

    /// Nothing is on or promised, and nobody wants to let go of what he may.
    fn is_quiet(&self) -> bool {
        let is_idle = |n: &Node| {
            let mut files = 0..self.plan.files;
            let is_on = files.any(|f| n.copies.is_on(&f));
            n.is_up && !is_on && n.copies.promises().is_empty() && n.going.is_empty()
        };
        let is_settled = |f: File| {
            let holders = || self.members().filter(|n| n.holds.contains(&f));
            let is_wish = holders().any(|n| n.wants.contains(&f));
            !is_wish || holders().count() <= self.plan.wanted as usize
        };
        self.members().all(is_idle) && (0..self.plan.files).all(is_settled)
    }

    /// Whether a node keeps a file for an attempt of another, also if it crashes now.
    fn keeps_for(&self, node: usize, file: File, who: usize, attempt: u64) -> bool {
        let n = &self.nodes[node];
        let has =
            |p: &Promises<File>| p.get(&file).and_then(|to| to.get(&id(who))) == Some(&attempt);
        n.holds.contains(&file) && has(&n.disk) && (!n.is_up || has(n.copies.promises()))
    }

    /// What holds after each event.
    fn look(&self) -> Result<(), String> {
        for (who, n) in self.nodes.iter().enumerate() {
            for f in n.copies.promises().keys() {
                if n.is_up && n.copies.is_on(f) {
                    return Err(format!("node {who} has an attempt on what it promised"));
                }
            }
            if self.forgotten.contains(&who) {
                continue;
            }
            for (f, going) in &n.going {
                let others = going.members.iter().filter(|o| **o != who);
                let keep = others.filter(|o| self.keeps_for(**o, *f, who, going.attempt));
                let keep = keep.count();
                if keep < self.plan.wanted as usize {
                    return Err(format!("node {who} may let go, and only {keep} keep it"));
                }
            }
        }
        Ok(())
    }

    /// A copy goes.
    fn let_go(&mut self, node: usize, file: File) -> Result<u64, String> {
        let going = self.nodes[node].going.remove(&file);
        let going = going.expect("it may");
        let others = going.members.iter().filter(|o| **o != node);
        let left = others
            .filter(|o| self.nodes[**o].holds.contains(&file))
            .count();
        if left < self.plan.wanted as usize && !self.forgotten.contains(&node) {
            return Err(format!("node {node} lets go, and {left} are left"));
        }
        if self.nodes[node].holds.remove(&file) {
            self.seen.let_go += 1;
        }
        Ok(going.attempt)
    }

    fn happens(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Hears(node, run, input) => {
                if self.nodes[node].is_up && self.nodes[node].run == run {
                    self.hears(node, input);
                }
            }
            Event::Comes { to, from, said } => {
                let n = &self.nodes[to];
                if n.is_up && !n.knows_gone.contains(&from) && !self.cut.contains(&(from, to)) {
                    self.hears(to, said);
                }
            }
            Event::Flushed {
                node,
                run,
                version,
                promises,
                rest,
            } => {
                let n = &mut self.nodes[node];
                if n.is_up && n.run == run {
                    if version > n.disk_version {
                        (n.disk, n.disk_version) = (promises, version);
                    }
                    self.carry_out(node, rest);
                }
            }
            Event::Goes(node, run, file) => {
                if self.nodes[node].run == run && self.nodes[node].is_up {
                    let attempt = if self.goes_wrong(8) {
                        let going = self.nodes[node].going.remove(&file);
                        going.expect("it may").attempt
                    } else {
                        self.let_go(node, file)?
                    };
                    self.hears(node, Input::Done { file, attempt });
                    self.tries_later(node, file);
                }
            }
            Event::Tries(node, file) => self.tries(node, file),
            Event::Tick(node, run) => {
                if self.nodes[node].run == run && self.nodes[node].is_up {
                    self.hears(node, Input::Tick);
                    let next = self.now + SECOND + self.chance.below(SECOND);
                    self.at(next, Event::Tick(node, run));
                }
            }
            Event::Crash(node) => self.crash(node)?,
            Event::Start(node) => self.start(node),
            Event::Cut(a, b) => {
                if !self.is_calm && a != b {
                    self.cut.insert((a, b));
                }
            }
            Event::Link(a, b) => {
                self.cut.remove(&(a, b));
            }
            Event::Fetch(node, file) => {
                if !self.is_calm && self.members().any(|n| n.holds.contains(&file)) {
                    self.nodes[node].holds.insert(file);
                    if self.chance.one_in(2) {
                        self.nodes[node].wants.insert(file);
                        self.tries_later(node, file);
                    }
                }
            }
            Event::Forget(node) => {
                let is_enough = self.is_calm || self.forgotten.len() > 2;
                if !is_enough && self.forgotten.insert(node) {
                    for n in 0..self.plan.nodes {
                        let at = self.now + self.while_it_takes();
                        self.at(at, Event::Learns(n, node));
                    }
                }
            }
            Event::Learns(node, gone) => self.learns(node, gone),
            Event::Calm => self.calm(),
        }
        Ok(())
    }

    fn hears(&mut self, node: usize, input: Input<File>) {
        if let Input::Asked {
            peer,
            file,
            attempt,
        } = &input
        {
            let to = self.nodes[node].copies.promises().get(file);
            let old = to.and_then(|to| to.get(peer));
            self.seen.asked_beside_another += u64::from(old.is_some_and(|old| old != attempt));
        }
        let now = self.now + self.nodes[node].ahead;
        let out = self.nodes[node].copies.handle(input, now);
        self.carry_out(node, out);
    }

    fn carry_out(&mut self, node: usize, outputs: Vec<Output<File>>) {
        let run = self.nodes[node].run;
        let peer_is = id(node);
        let mut outputs = outputs.into_iter();
        while let Some(output) = outputs.next() {
            match output {
                Output::Ask {
                    peer,
                    file,
                    attempt,
                } => {
                    self.say(
                        node,
                        peer,
                        Input::Asked {
                            peer: peer_is,
                            file,
                            attempt,
                        },
                    );
                    if self.goes_wrong(2) {
                        let at = self.now + 5 * SECOND;
                        let input = Input::Answered {
                            peer,
                            file,
                            attempt,
                            promised: false,
                        };
                        self.at(at, Event::Hears(node, run, input));
                    }
                }
                Output::Check {
                    peer,
                    file,
                    attempt,
                } => {
                    // What it sees is what is there when it begins.
                    let sound = self.nodes[node].holds.contains(&file);
                    let input = Input::Checked {
                        peer,
                        file,
                        attempt,
                        sound,
                    };
                    let at = self.now + self.while_it_takes();
                    self.at(at, Event::Hears(node, run, input));
                }
                Output::Note => {
                    self.nodes[node].version += 1;
                    let at = self.now + self.while_it_takes();
                    self.may_crash_before(node, at);
                    let n = &self.nodes[node];
                    let event = Event::Flushed {
                        node,
                        run,
                        version: n.version,
                        promises: n.copies.promises().clone(),
                        rest: outputs.collect(),
                    };
                    self.at(at, event);
                    return;
                }
                Output::Answer {
                    peer,
                    file,
                    attempt,
                    promised,
                } => {
                    self.seen.promised += u64::from(promised);
                    if promised && self.plan.forgotten > 0 && self.goes_wrong(20) {
                        let at = self.now + self.chance.below(SECOND / 4);
                        self.at(at, Event::Forget(node));
                    }
                    self.say(
                        node,
                        peer,
                        Input::Answered {
                            peer: peer_is,
                            file,
                            attempt,
                            promised,
                        },
                    );
                }
                Output::Go { file, attempt } => {
                    let gone = &self.nodes[node].knows_gone;
                    let members = (0..self.plan.nodes).filter(|n| !gone.contains(n)).collect();
                    let going = Going { attempt, members };
                    self.nodes[node].going.insert(file, going);
                    let takes = if self.chance.one_in(3) {
                        0
                    } else {
                        self.while_it_takes()
                    };
                    // Longer than any promise would be kept by a clock.
                    let is_slow = self.plan.late > 0 && self.goes_wrong(20);
                    let takes = takes + u64::from(is_slow) * self.chance.below(120 * SECOND);
                    self.may_crash_before(node, self.now + takes);
                    self.at(self.now + takes, Event::Goes(node, run, file));
                }
                Output::Release {
                    peer,
                    file,
                    attempt,
                } => self.say(
                    node,
                    peer,
                    Input::Released {
                        peer: peer_is,
                        file,
                        attempt,
                    },
                ),
                Output::Inquire {
                    peer,
                    file,
                    attempt,
                } => {
                    self.seen.inquired += 1;
                    self.say(
                        node,
                        peer,
                        Input::Inquired {
                            peer: peer_is,
                            file,
                            attempt,
                        },
                    );
                }
                Output::On {
                    peer,
                    file,
                    attempt,
                    on,
                } => self.say(
                    node,
                    peer,
                    Input::IsOn {
                        peer: peer_is,
                        file,
                        attempt,
                        on,
                    },
                ),
                Output::Kept { file, .. } => {
                    self.seen.kept += 1;
                    self.tries_later(node, file);
                }
            }
        }
    }

    /// Crashes come also when they hurt most.
    fn may_crash_before(&mut self, node: usize, at: u64) {
        if self.plan.crashes > 0 && self.goes_wrong(8) {
            let at = self.now + self.chance.below(at + 1 - self.now);
            self.at(at, Event::Crash(node));
            let back = at + self.chance.below(3 * SECOND);
            self.at(back, Event::Start(node));
        }
    }

    fn say(&mut self, from: usize, to: NodeId, said: Input<File>) {
        let to = index(to);
        let times = 1 + u64::from(self.goes_wrong(self.plan.twice));
        for _ in 0..times {
            if !self.cut.contains(&(from, to)) && !self.goes_wrong(self.plan.lost) {
                let at = self.now + 1 + self.while_it_takes();
                let said = said.clone();
                self.at(at, Event::Comes { to, from, said });
            }
        }
    }

    fn tries(&mut self, node: usize, file: File) {
        let n = &self.nodes[node];
        let may = n.is_up && n.holds.contains(&file) && n.wants.contains(&file);
        if !may || (n.copies.is_on(&file) && !self.chance.one_in(4)) {
            return;
        }
        let mut peers: Vec<NodeId> = (0..self.plan.nodes)
            .filter(|o| !n.knows_gone.contains(o))
            .map(id)
            .collect();
        if self.chance.one_in(2) {
            peers.extend_from_within(..);
        } else {
            peers.retain(|p| *p != id(node));
        }
        let input = Input::LetGo {
            file,
            attempt: self.chance.below(u64::MAX),
            wanted: if self.plan.wanted == 1 && self.chance.one_in(2) {
                0
            } else {
                self.plan.wanted
            },
            peers,
            until: self.now + n.ahead + SECOND / 2 + self.chance.below(8 * SECOND),
        };
        self.hears(node, input);
    }

    fn tries_later(&mut self, node: usize, file: File) {
        let at = self.now + self.chance.below(6 * SECOND);
        self.at(at, Event::Tries(node, file));
    }

    fn crash(&mut self, node: usize) -> Result<(), String> {
        if self.is_calm || !self.nodes[node].is_up {
            return Ok(());
        }
        let going: Vec<File> = self.nodes[node].going.keys().copied().collect();
        for f in going {
            self.seen.crashes_while_going += 1;
            // It was done, and the crash came before anybody heard of it.
            if self.chance.one_in(2) {
                self.let_go(node, f)?;
            }
        }
        let n = &mut self.nodes[node];
        n.going.clear();
        n.is_up = false;
        n.run += 1;
        Ok(())
    }

    fn start(&mut self, node: usize) {
        let ahead = self.chance.below(1000 * SECOND);
        let n = &mut self.nodes[node];
        if n.is_up {
            return;
        }
        n.is_up = true;
        n.ahead = ahead;
        n.copies = Copies::new(n.disk.clone());
        n.version = n.disk_version;
        let run = n.run;
        let wants: Vec<File> = n.wants.iter().copied().collect();
        let gone: Vec<usize> = n.knows_gone.iter().copied().collect();
        for o in gone {
            self.hears(node, Input::Gone(id(o)));
        }
        self.at(self.now, Event::Tick(node, run));
        for f in wants {
            self.tries_later(node, f);
        }
    }

    fn learns(&mut self, node: usize, gone: usize) {
        if node != gone && self.nodes[node].knows_gone.insert(gone) && self.nodes[node].is_up {
            self.hears(node, Input::Gone(id(gone)));
        }
    }

    /// Nothing goes wrong from now on, and all hear what there is to hear.
    fn calm(&mut self) {
        self.is_calm = true;
        self.cut.clear();
        let forgotten: Vec<usize> = self.forgotten.iter().copied().collect();
        for n in 0..self.plan.nodes {
            if self.forgotten.contains(&n) {
                self.nodes[n].is_up = false;
                self.nodes[n].run += 1;
                continue;
            }
            self.start(n);
            for gone in &forgotten {
                self.learns(n, *gone);
            }
            let wants: Vec<File> = self.nodes[n].wants.iter().copied().collect();
            for f in wants {
                self.tries_later(n, f);
            }
        }
    }
}
