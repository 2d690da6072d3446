//! Several swarms in one thread, in virtual time: links with latency and bandwidth, connections
//! that break, nodes that crash and lose what was not flushed, peers that lie, are silent or slow.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::sync::Arc;

use super::Chance;
use crate::base::id::NodeId;
use crate::swarm::pieces::{Holding, Pieces};
use crate::swarm::turns::Ticket;
use crate::swarm::{
    Class, Failure, File, Input, Output, READERS_MAX, Reader, Swarm, UNDER_WAY_BYTES_MAX,
    URGENT_BYTES_MAX, Why, peer,
};

/// Bytes that a link sends before it looks who is next.
const QUANTUM: u32 = 64 << 10;
const TICK_US: u64 = 50_000;
const FLUSH_US: u64 = 500_000;
/// Largest piece.
pub(super) const PIECE_MAX: u32 = 1 << 20;

/// How a node serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    Honest,
    /// One piece in so many is something else.
    Lies(u64),
    /// Says it has all, and has it not.
    Boasts,
    /// Takes requests and sends nothing, nor says what it holds, from a time on.
    Silent(u64),
}

/// What a peer asked for, and how much of it was sent.
type Line = BTreeMap<Class, VecDeque<(File, u32, u32)>>;

struct Sending {
    client: usize,
    class: Class,
    file: File,
    piece: u32,
    sent: u32,
}

pub(super) struct Node {
    pub(super) swarm: Swarm,
    /// Here, and here after a crash.
    pub(super) store: BTreeMap<File, Pieces>,
    durable: BTreeMap<File, Pieces>,
    /// Files that it wants.
    pub(super) wants: BTreeSet<File>,
    pub(super) manner: Manner,
    /// Bytes a millisecond.
    pub(super) up: u64,
    pub(super) down: u64,
    /// Microseconds until it begins to send what it was asked for.
    pub(super) thinks: u64,
    /// One piece in so many is not taken by its own disk.
    pub(super) disk_fails: u64,
    alive: bool,
    life: u32,
    queue: BTreeMap<usize, Line>,
    sending: Option<Sending>,
    last_client: usize,
    down_free: u64,
    /// What it asked for and has not got: of whom.
    asked: BTreeMap<(File, u32), BTreeSet<usize>>,
    readers: BTreeMap<Reader, (u64, File, u32)>,
    pub(super) seen: Seen,
}

/// What is counted of a node.
#[derive(Debug, Default, Clone)]
pub(super) struct Seen {
    /// Bytes that arrived, also of pieces that never did as a whole.
    pub(super) received: u64,
    /// Bytes that were sent to others.
    pub(super) sent: u64,
    /// Whole pieces that were there already.
    pub(super) twice: u64,
    pub(super) asks: u64,
    pub(super) cancels: u64,
    /// Ends of connections, its own crashes too.
    pub(super) cuts: u64,
    /// Bytes that a crash lost.
    pub(super) lost: u64,
    pub(super) lies: u64,
    pub(super) disk_faults: u64,
    pub(super) done_at: BTreeMap<File, u64>,
    /// How long readers waited, in microseconds.
    pub(super) waited: Vec<u64>,
    pub(super) stuck: Vec<(u64, File, Why)>,
    pub(super) under_way_max: u64,
    pub(super) window_max: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Tick,
    Flush,
    Question(Vec<File>),
    Answer(Vec<File>),
    AskFor(File, u32, u8),
    Thought(File, u32, u8),
    Cancel(File, u32),
    Quantum,
    Bytes(u32),
    Piece(File, u32, bool, u32),
    Refused(File, u32),
    /// From the plan.
    Cut,
    Link,
    Crash,
    Start,
    Need(Ticket, File, u32, u32, u32),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    at: u64,
    order: u64,
    to: usize,
    from: usize,
    /// Over which connection, or in which life.
    conn: u32,
    what: What,
}

pub(super) struct World {
    pub(super) nodes: Vec<Node>,
    pub(super) files: BTreeMap<File, Arc<[u32]>>,
    /// Microseconds one way.
    pub(super) latency: u64,
    pub(super) chance: Chance,
    conns: BTreeMap<(usize, usize), (u32, bool)>,
    events: BinaryHeap<Reverse<Event>>,
    order: u64,
    pub(super) now: u64,
    pub(super) steps: u64,
    pub(super) trace: blake3::Hasher,
    pub(super) watch: bool,
}

pub(super) fn id(n: usize) -> NodeId {
    let mut bytes = [0; 32];
    bytes[0] = u8::try_from(n).unwrap();
    NodeId(bytes)
}

fn index(node: NodeId) -> usize {
    node.0[0].into()
}

fn class_of(n: u8) -> Class {
    match n {
        0 => Class::Urgent,
        1 => Class::Ahead,
        _ => Class::Background,
    }
}

impl World {
    pub(super) fn new(seed: u64, latency: u64) -> Self {
        Self {
            nodes: Vec::new(),
            files: BTreeMap::new(),
            latency,
            chance: Chance(seed),
            conns: BTreeMap::new(),
            events: BinaryHeap::new(),
            order: 0,
            now: 0,
            steps: 0,
            trace: blake3::Hasher::new(),
            watch: false,
        }
    }

    /// A file of pieces of these lengths.
    pub(super) fn file(&mut self, lens: Vec<u32>) -> File {
        let n = self.files.len() as u64;
        self.files.insert(n, lens.into());
        n
    }

    /// A node with so many bytes a millisecond up and down.
    pub(super) fn node(&mut self, up: u64, down: u64) -> usize {
        let n = self.nodes.len();
        let seed = self.chance.below(u64::MAX);
        self.nodes.push(Node {
            swarm: Swarm::new(seed),
            store: BTreeMap::new(),
            durable: BTreeMap::new(),
            wants: BTreeSet::new(),
            manner: Manner::Honest,
            up,
            down,
            thinks: 0,
            disk_fails: 0,
            alive: true,
            life: 0,
            queue: BTreeMap::new(),
            sending: None,
            last_client: 0,
            down_free: 0,
            asked: BTreeMap::new(),
            readers: BTreeMap::new(),
            seen: Seen::default(),
        });
        n
    }

    pub(super) fn gives(&mut self, n: usize, file: File, pieces: Pieces) {
        self.nodes[n].store.insert(file, pieces.clone());
        self.nodes[n].durable.insert(file, pieces);
    }

    pub(super) fn gives_all(&mut self, n: usize, file: File) {
        let len = u32::try_from(self.files[&file].len()).unwrap();
        self.gives(n, file, Pieces::all(len));
    }

    pub(super) fn total(&self, file: File) -> u64 {
        self.files[&file].iter().map(|l| u64::from(*l)).sum()
    }

    fn push(&mut self, at: u64, to: usize, from: usize, conn: u32, what: What) {
        self.order += 1;
        let order = self.order;
        self.events.push(Reverse(Event {
            at,
            order,
            to,
            from,
            conn,
            what,
        }));
    }

    pub(super) fn cut_at(&mut self, at: u64, a: usize, b: usize) {
        self.push(at, a, b, 0, What::Cut);
    }

    pub(super) fn link_at(&mut self, at: u64, a: usize, b: usize) {
        self.push(at, a, b, 0, What::Link);
    }

    pub(super) fn crash_at(&mut self, at: u64, n: usize) {
        self.push(at, n, n, 0, What::Crash);
    }

    pub(super) fn start_at(&mut self, at: u64, n: usize) {
        self.push(at, n, n, 0, What::Start);
    }

    /// A reader waits from then on for pieces, and will want some more after them.
    pub(super) fn need_at(
        &mut self,
        at: u64,
        n: usize,
        file: File,
        pieces: (u32, u32),
        ahead: u32,
    ) {
        self.order += 1;
        let reader = self.order;
        self.push(
            at,
            n,
            n,
            0,
            What::Need(reader, file, pieces.0, pieces.1, ahead),
        );
    }

    /// Starts all nodes and links them all.
    pub(super) fn begin(&mut self) {
        for n in 0..self.nodes.len() {
            self.start(n);
        }
        for a in 0..self.nodes.len() {
            for b in 0..a {
                self.link(a, b);
            }
        }
    }

    fn start(&mut self, n: usize) {
        self.nodes[n].alive = true;
        self.nodes[n].life += 1;
        let life = self.nodes[n].life;
        let seed = self.chance.below(u64::MAX);
        self.nodes[n].swarm = Swarm::new(seed);
        self.nodes[n].store = self.nodes[n].durable.clone();
        for file in self.nodes[n].wants.clone() {
            let lens = self.files[&file].clone();
            let mut lacking = Pieces::all(u32::try_from(lens.len()).unwrap());
            let here = self.nodes[n].store.get(&file).cloned().unwrap_or_default();
            for p in here.iter_from(0) {
                lacking.remove(p);
            }
            let keep = true;
            self.give(
                n,
                Input::Open {
                    file,
                    lens,
                    lacking,
                    keep,
                },
            );
        }
        let at = self.now + self.chance.below(TICK_US);
        self.push(at, n, n, life, What::Tick);
        self.push(self.now + FLUSH_US, n, n, life, What::Flush);
    }

    fn crash(&mut self, n: usize) {
        for other in 0..self.nodes.len() {
            if other != n {
                self.cut(n, other);
            }
        }
        let node = &mut self.nodes[n];
        node.alive = false;
        node.life += 1;
        node.readers.clear();
        for (file, pieces) in &node.store {
            let kept = node.durable.get(file).cloned().unwrap_or_default();
            let lost = pieces.iter_from(0).filter(|p| !kept.has(*p));
            let lens = &self.files[file];
            node.seen.lost += lost.map(|p| u64::from(lens[p as usize])).sum::<u64>();
        }
    }

    fn conn(&self, a: usize, b: usize) -> (u32, bool) {
        self.conns
            .get(&(a.min(b), a.max(b)))
            .copied()
            .unwrap_or_default()
    }

    fn link(&mut self, a: usize, b: usize) {
        let (n, up) = self.conn(a, b);
        if up || !self.nodes[a].alive || !self.nodes[b].alive {
            return;
        }
        self.conns.insert((a.min(b), a.max(b)), (n + 1, true));
        self.give(a, Input::Up(id(b)));
        self.give(b, Input::Up(id(a)));
    }

    fn cut(&mut self, a: usize, b: usize) {
        let (n, up) = self.conn(a, b);
        if !up {
            return;
        }
        self.conns.insert((a.min(b), a.max(b)), (n + 1, false));
        for (x, y) in [(a, b), (b, a)] {
            self.nodes[x].queue.remove(&y);
            if self.nodes[x]
                .sending
                .as_ref()
                .is_some_and(|s| s.client == y)
            {
                self.nodes[x].sending = None;
            }
            for of in self.nodes[x].asked.values_mut() {
                of.remove(&y);
            }
            self.nodes[x].seen.cuts += 1;
            if self.nodes[x].alive {
                self.give(x, Input::Down(id(y)));
            }
        }
        self.pump(a);
        self.pump(b);
    }

    fn give(&mut self, n: usize, input: Input) {
        if self.watch {
            eprintln!("{:>12} {n} <- {input:?}", self.now);
        }
        let now = self.now / 1000;
        let outputs = self.nodes[n].swarm.handle(input, now);
        let node = &mut self.nodes[n];
        let under_way = node.swarm.under_way();
        assert!(
            under_way <= UNDER_WAY_BYTES_MAX + URGENT_BYTES_MAX,
            "{under_way} under way"
        );
        node.seen.under_way_max = node.seen.under_way_max.max(under_way);
        for output in outputs {
            self.carry_out(n, output);
        }
    }

    fn carry_out(&mut self, n: usize, output: Output) {
        if self.watch {
            eprintln!("{:>12} {n} -> {output:?}", self.now);
        }
        let late = self.now + self.latency;
        match output {
            Output::AskHolds { peer, files } => {
                let (conn, up) = self.conn(n, index(peer));
                assert!(up, "a question to who is not connected");
                self.push(late, index(peer), n, conn, What::Question(files));
            }
            Output::Ask {
                peer,
                file,
                piece,
                class,
            } => {
                let (conn, up) = self.conn(n, index(peer));
                assert!(up, "asked of who is not connected");
                let node = &mut self.nodes[n];
                node.seen.asks += 1;
                let of = node.asked.entry((file, piece)).or_default();
                assert!(of.insert(index(peer)), "asked twice of one");
                let most = if class == Class::Urgent { 2 } else { 1 };
                assert!(of.len() <= most, "{class:?} asked of {of:?}");
                let here = node.store.get(&file).is_some_and(|s| s.has(piece));
                assert!(!here, "asked for what is here");
                let of_one = node.asked.values().filter(|o| o.contains(&index(peer)));
                assert!(of_one.count() <= peer::ASKS_MAX, "too much asked of one");
                self.push(
                    late,
                    index(peer),
                    n,
                    conn,
                    What::AskFor(file, piece, class as u8),
                );
            }
            Output::Cancel { peer, file, piece } => {
                let (conn, up) = self.conn(n, index(peer));
                self.nodes[n].seen.cancels += 1;
                if let Some(of) = self.nodes[n].asked.get_mut(&(file, piece)) {
                    of.remove(&index(peer));
                }
                if up {
                    self.push(late, index(peer), n, conn, What::Cancel(file, piece));
                }
            }
            Output::Ready(reader) => {
                if let Some((since, file, first)) = self.nodes[n].readers.remove(&reader) {
                    let here = self.nodes[n].store.get(&file).is_some_and(|s| s.has(first));
                    assert!(here, "ready, and not here");
                    let waited = self.now - since;
                    self.nodes[n].seen.waited.push(waited);
                }
            }
            Output::Done(file) => {
                let all = self.nodes[n].store.get(&file).is_some_and(Pieces::is_all);
                assert!(all, "done, and not all here");
                let now = self.now;
                self.nodes[n].seen.done_at.insert(file, now);
            }
            Output::Stuck(file, why) => {
                let now = self.now;
                self.nodes[n].seen.stuck.push((now, file, why));
            }
        }
    }

    /// Sends on, if there is something to send and the line is free.
    fn pump(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        if node.sending.is_some() || !node.alive {
            return;
        }
        let last = node.last_client;
        let lines = node.queue.iter().filter_map(|(client, line)| {
            let (class, _) = line.iter().find(|(_, q)| !q.is_empty())?;
            Some((*class, *client <= last, *client))
        });
        let Some((class, _, client)) = lines.min() else {
            return;
        };
        let q = node.queue.get_mut(&client).and_then(|l| l.get_mut(&class));
        let Some((file, piece, sent)) = q.and_then(VecDeque::pop_front) else {
            return;
        };
        node.last_client = client;
        node.sending = Some(Sending {
            client,
            class,
            file,
            piece,
            sent,
        });
        self.send_quantum(n);
    }

    fn send_quantum(&mut self, n: usize) {
        let node = &self.nodes[n];
        let Some(s) = &node.sending else { return };
        let len = self.files[&s.file][s.piece as usize];
        let part = QUANTUM.min(len - s.sent);
        let at = self.now + (u64::from(part) * 1000).div_ceil(node.up);
        self.push(at, n, n, node.life, What::Quantum);
    }

    fn quantum(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        let Some(s) = &mut node.sending else {
            self.pump(n);
            return;
        };
        let len = self.files[&s.file][s.piece as usize];
        let part = QUANTUM.min(len - s.sent);
        s.sent += part;
        node.seen.sent += u64::from(part);
        let (client, file, piece, is_all) = (s.client, s.file, s.piece, s.sent == len);
        let lies = match node.manner {
            Manner::Lies(n) => self.chance.one_in(n),
            _ => false,
        };
        let (conn, _) = self.conn(n, client);
        let there = &mut self.nodes[client];
        let begins = there.down_free.max(self.now + self.latency);
        there.down_free = begins + (u64::from(part) * 1000).div_ceil(there.down);
        let at = there.down_free;
        if is_all {
            self.nodes[n].sending = None;
            self.push(at, client, n, conn, What::Piece(file, piece, !lies, part));
            self.pump(n);
        } else {
            self.push(at, client, n, conn, What::Bytes(part));
            // What is more urgent goes first, also in the middle of a piece.
            let node = &mut self.nodes[n];
            let has_urgent = |l: &Line| l.get(&Class::Urgent).is_some_and(|q| !q.is_empty());
            if node.queue.values().any(has_urgent)
                && let Some(s) = node.sending.take()
            {
                let line = node.queue.entry(s.client).or_default();
                let rest = line.entry(s.class).or_default();
                rest.push_front((s.file, s.piece, s.sent));
                self.pump(n);
            } else {
                self.send_quantum(n);
            }
        }
    }

    fn happen(&mut self, e: Event) {
        let over_conn = matches!(
            e.what,
            What::Question(_)
                | What::Answer(_)
                | What::AskFor(..)
                | What::Thought(..)
                | What::Cancel(..)
                | What::Bytes(_)
                | What::Piece(..)
                | What::Refused(..)
        );
        if over_conn && self.conn(e.to, e.from) != (e.conn, true) {
            return;
        }
        let own = matches!(e.what, What::Tick | What::Flush | What::Quantum);
        if own && self.nodes[e.to].life != e.conn {
            return;
        }
        let (n, from, late) = (e.to, e.from, self.now + self.latency);
        match e.what {
            What::Tick => {
                self.give(n, Input::Tick);
                let window = self.nodes[n].swarm.paces(self.now / 1000);
                let most = window.iter().map(|p| p.window).max().unwrap_or(0);
                self.nodes[n].seen.window_max = self.nodes[n].seen.window_max.max(most);
                self.push(self.now + TICK_US, n, n, e.conn, What::Tick);
            }
            What::Flush => {
                self.nodes[n].durable = self.nodes[n].store.clone();
                self.push(self.now + FLUSH_US, n, n, e.conn, What::Flush);
            }
            What::Question(files) => {
                if !self.is_silent(n) {
                    self.push(late, from, n, e.conn, What::Answer(files));
                }
            }
            What::Answer(files) => {
                for file in files {
                    let boasts = self.nodes[from].manner == Manner::Boasts;
                    let held = self.nodes[from].durable.get(&file).cloned();
                    let what = if boasts {
                        Holding::Whole
                    } else {
                        held.map_or(Holding::Nothing, Holding::of)
                    };
                    self.give(
                        n,
                        Input::Holds {
                            peer: id(from),
                            file,
                            what,
                        },
                    );
                }
            }
            What::AskFor(file, piece, class) => {
                let has = self.nodes[n].store.get(&file).is_some_and(|s| s.has(piece));
                if self.is_silent(n) {
                } else if has && self.nodes[n].thinks > 0 {
                    let at = self.now + self.nodes[n].thinks;
                    self.push(at, n, from, e.conn, What::Thought(file, piece, class));
                } else if has {
                    self.queue(n, from, file, piece, class);
                } else {
                    self.push(late, from, n, e.conn, What::Refused(file, piece));
                }
            }
            What::Thought(file, piece, class) => self.queue(n, from, file, piece, class),
            What::Cancel(file, piece) => {
                if let Some(line) = self.nodes[n].queue.get_mut(&from) {
                    for q in line.values_mut() {
                        q.retain(|w| (w.0, w.1) != (file, piece));
                    }
                }
                let is_it = |s: &Sending| (s.client, s.file, s.piece) == (from, file, piece);
                if self.nodes[n].sending.as_ref().is_some_and(is_it) {
                    // Its quantum still ends, and finds the next.
                    self.nodes[n].sending = None;
                }
            }
            What::Quantum => self.quantum(n),
            What::Bytes(len) => {
                let r = &mut self.nodes[n].seen.received;
                *r += u64::from(len);
                self.give(n, Input::Alive(id(from)));
            }
            What::Piece(file, piece, good, len) => {
                let r = &mut self.nodes[n].seen.received;
                *r += u64::from(len);
                self.arrive(n, from, file, piece, good);
            }
            What::Refused(file, piece) => self.fail(n, from, file, piece, Failure::Absent),
            What::Cut => self.cut(n, from),
            What::Link => self.link(n, from),
            What::Crash => {
                if self.nodes[n].alive {
                    self.crash(n);
                }
            }
            What::Start => {
                if !self.nodes[n].alive {
                    self.start(n);
                }
            }
            What::Need(reader, file, first, end, ahead) => {
                if self.nodes[n].alive && self.nodes[n].wants.contains(&file) {
                    self.nodes[n]
                        .readers
                        .insert(reader, (self.now, file, first));
                    assert!(self.nodes[n].readers.len() < READERS_MAX);
                    let pieces = first..end;
                    let ahead = end..end + ahead;
                    let deadline = self.now / 1000 + 30_000;
                    self.give(
                        n,
                        Input::Need {
                            reader,
                            file,
                            pieces,
                            ahead,
                            deadline,
                        },
                    );
                }
            }
        }
    }

    fn queue(&mut self, n: usize, from: usize, file: File, piece: u32, class: u8) {
        let line = self.nodes[n].queue.entry(from).or_default();
        let of_class = line.entry(class_of(class)).or_default();
        of_class.push_back((file, piece, 0));
        self.pump(n);
    }

    fn is_silent(&self, n: usize) -> bool {
        matches!(self.nodes[n].manner, Manner::Silent(since) if since <= self.now)
    }

    fn fail(&mut self, n: usize, from: usize, file: File, piece: u32, why: Failure) {
        if let Some(of) = self.nodes[n].asked.get_mut(&(file, piece)) {
            of.remove(&from);
        }
        let peer = id(from);
        self.give(
            n,
            Input::Failed {
                peer,
                file,
                piece,
                why,
            },
        );
    }

    fn arrive(&mut self, n: usize, from: usize, file: File, piece: u32, good: bool) {
        let fails = self.nodes[n].disk_fails;
        if !good {
            self.nodes[n].seen.lies += 1;
            self.fail(n, from, file, piece, Failure::Lie);
            return;
        }
        if fails > 0 && self.chance.one_in(fails) {
            self.nodes[n].seen.disk_faults += 1;
            self.fail(n, from, file, piece, Failure::Disk);
            return;
        }
        let len = u64::from(self.files[&file][piece as usize]);
        let count = u32::try_from(self.files[&file].len()).unwrap();
        let node = &mut self.nodes[n];
        let here = node
            .store
            .entry(file)
            .or_insert_with(|| Pieces::none(count));
        if !here.insert(piece) {
            node.seen.twice += len;
        }
        if let Some(of) = node.asked.get_mut(&(file, piece)) {
            of.remove(&from);
        }
        self.give(
            n,
            Input::Came {
                peer: id(from),
                file,
                piece,
                bytes: u32::try_from(len).unwrap(),
            },
        );
    }

    /// A node wants of a file what its readers wait for, and no more.
    pub(super) fn reads_only(&mut self, n: usize, file: File) {
        let lens = self.files[&file].clone();
        let lacking = Pieces::all(u32::try_from(lens.len()).unwrap());
        self.nodes[n].wants.insert(file);
        let keep = false;
        self.give(
            n,
            Input::Open {
                file,
                lens,
                lacking,
                keep,
            },
        );
    }

    /// Whether all nodes that are alive have all that they want.
    pub(super) fn is_quiet(&self) -> bool {
        self.nodes.iter().filter(|n| n.alive).all(|n| {
            let has = |f: &File| n.store.get(f).is_some_and(Pieces::is_all);
            n.wants.iter().all(has)
        })
    }

    /// Lets time pass until all is there, or for so long at most. Says whether it is.
    pub(super) fn run(&mut self, until: u64) -> bool {
        while let Some(Reverse(e)) = self.events.pop() {
            if e.at > until {
                self.events.push(Reverse(e));
                break;
            }
            self.now = e.at;
            self.steps += 1;
            for n in [e.at, e.order, e.to as u64, e.from as u64] {
                self.trace.update(&n.to_le_bytes());
            }
            let may_end = matches!(
                e.what,
                What::Piece(..) | What::Cut | What::Crash | What::Start
            );
            let is_planned = |e: &Reverse<Event>| {
                matches!(
                    e.0.what,
                    What::Cut | What::Link | What::Crash | What::Start | What::Need(..)
                )
            };
            self.happen(e);
            if may_end && self.is_quiet() && !self.events.iter().any(is_planned) {
                return true;
            }
        }
        self.is_quiet()
    }

    pub(super) fn has_all(&self, n: usize, file: File) -> bool {
        self.nodes[n].store.get(&file).is_some_and(Pieces::is_all)
    }
}
