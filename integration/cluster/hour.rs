//! Five nodes, edits of all kinds on all of them, cuts, kills: for a while or for an hour.
//!
//! A run is made of rounds. In a round everybody edits while the network is cut in changing ways
//! and nodes are killed; at its end the cuts are healed, all nodes must come to show the same,
//! and each acknowledged line must be there, or taken away by somebody who had read it. At the
//! end of the run all of them must be in the history of each node, whose repository must pass
//! `git fsck --strict`.
//!
//! `CELLFS_TEST_HOUR_S=3600 cargo test --release --test integration an_hour -- --nocapture` is an
//! hour of it; `CELLFS_TEST_HOUR_SEED` repeats the choices of a run, though not its timing.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::{Duration, Instant};

use super::net::{Net, cell_with, namespaces};
use super::people::Person;
use crate::harness::account::{Losses, failures, forgotten, history, line, missing, none, shown};
use crate::harness::edits::{Ledger, Rng, Token};
use crate::harness::git::fsck;
use crate::harness::tree::same_soon;
use crate::harness::{Lab, Node, agree, rounds};

const NODES: usize = 5;
/// How long a round is.
const ROUND: Duration = Duration::from_secs(60);
/// Nodes that were cut off agree again within this.
const HEALED: Duration = Duration::from_secs(180);
/// What no node may exceed.
const FDS_MAX: usize = 1_000;
const MIB_MAX: u64 = 1_000;

/// The nodes of a run. Who uses a node's folder holds its gate, so that nobody writes to the
/// place where it is not mounted.
struct Cell {
    nodes: Vec<Mutex<Option<Node>>>,
    gates: Vec<RwLock<()>>,
}

impl Cell {
    fn all(&self) -> Vec<Node> {
        let take = |n: &Mutex<Option<Node>>| n.lock().expect("unpoisoned").take();
        self.nodes.iter().filter_map(take).collect()
    }

    fn put(&self, nodes: Vec<Node>) {
        for (at, n) in self.nodes.iter().zip(nodes) {
            *at.lock().expect("unpoisoned") = Some(n);
        }
    }

    /// Kills a node in the middle of whatever it does, and starts it again.
    fn kill(&self, i: usize) {
        let mut at = self.nodes[i].lock().expect("unpoisoned");
        let setup = at.take().expect("it runs").kill();
        let _closed = self.gates[i].write().expect("unpoisoned");
        *at = Some(setup.start());
    }
}

/// What goes wrong in a round, one thing after the other.
fn trouble(
    net: &Net,
    cell: &Cell,
    rng: &mut Rng,
    until: Instant,
    peaks: &mut Peaks,
) -> Vec<String> {
    let mut story = Vec::new();
    while Instant::now() < until {
        let (a, b) = (1 + rng.below(NODES), 1 + rng.below(NODES));
        let mask = rng.below(1 << NODES);
        let side = |i: usize| mask >> (i - 1) & 1;
        story.push(match rng.below(10) {
            0 | 1 => {
                net.only(|me, other| (me, other) != (a, b));
                format!("{a} does not hear {b}")
            }
            2 | 3 => {
                net.only(|me, other| side(me) == side(other));
                format!("cut {mask:05b}")
            }
            4 => {
                net.only(|me, other| me != a && other != a);
                format!("{a} alone")
            }
            5 => {
                net.only(|_, _| false);
                "all alone".to_owned()
            }
            6 => {
                cell.kill(a - 1);
                format!("kill {a}")
            }
            _ => {
                net.heal();
                "healed".to_owned()
            }
        });
        peaks.look(cell);
        let pause = Duration::from_millis(500 + rng.below(5_000) as u64);
        std::thread::sleep(pause.min(until.saturating_duration_since(Instant::now())));
    }
    story
}

/// The most memory and descriptors that any node had.
#[derive(Debug, Default)]
struct Peaks {
    mib: u64,
    fds: usize,
}

impl Peaks {
    fn look(&mut self, cell: &Cell) {
        for n in &cell.nodes {
            if let Some(n) = &*n.lock().expect("unpoisoned") {
                self.mib = self.mib.max(n.memory_mib().0);
                let fds = std::fs::read_dir(format!("/proc/{}/fd", n.pid()));
                self.fds = self.fds.max(fds.map_or(0, Iterator::count));
            }
        }
    }
}

#[test]
fn an_hour_of_edits_cuts_and_kills() {
    if !namespaces() {
        return;
    }
    let length = Duration::from_secs(rounds("CELLFS_TEST_HOUR_S", 20) as u64);
    let seed = getrandom::u32().expect("randomness") as usize;
    let seed = rounds("CELLFS_TEST_HOUR_SEED", seed) as u64;
    eprintln!("CELLFS_TEST_HOUR_SEED={seed}");
    let lab = Lab::with_patience(length * 2 + Duration::from_secs(1_800));
    let net = Net::bridge(NODES);
    let nodes = cell_with(&net, &lab, &["--plain-http"]);
    nodes[0].write("README", "");
    let all: Vec<&Node> = nodes.iter().collect();
    agree(&all, "cell", HEALED);
    let ledger = Ledger::default();
    let mut people: Vec<Person<'_>> = (0..NODES)
        .map(|i| {
            let clone = lab.path(&format!("clone{i}"));
            Person::new(&ledger, &nodes[i], clone, net.inside(i + 1), seed)
        })
        .collect();
    let cell = Cell {
        nodes: (0..NODES).map(|_| Mutex::new(None)).collect(),
        gates: (0..NODES).map(|_| RwLock::new(())).collect(),
    };
    cell.put(nodes);
    let mut rng = Rng(seed);
    let mut peaks = Peaks::default();
    let mut losses = Losses::default();
    let end = Instant::now() + length;
    while Instant::now() < end {
        let until = end.min(Instant::now() + ROUND);
        let stop = AtomicBool::new(false);
        let story = std::thread::scope(|s| {
            for (i, p) in people.iter_mut().enumerate() {
                let (stop, gate) = (&stop, &cell.gates[i]);
                s.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        p.rest();
                        let _open = gate.read().expect("unpoisoned");
                        p.act();
                    }
                });
            }
            let story = trouble(&net, &cell, &mut rng, until, &mut peaks);
            stop.store(true, Ordering::Relaxed);
            story
        });
        net.heal();
        let nodes = cell.all();
        check(&ledger, &mut losses, &nodes, &story, &peaks, end);
        cell.put(nodes);
    }
    let book = ledger.book();
    eprintln!("{}", line(&book.counts));
    assert!(!book.made.is_empty(), "nobody wrote");
    let repos: Vec<PathBuf> = cell
        .all()
        .into_iter()
        .map(|n| {
            let repo = n.repo("cell");
            n.stop();
            repo
        })
        .collect();
    for repo in &repos {
        fsck(repo);
        let history = history(repo);
        none(
            "lines are in no commit",
            &forgotten(&book, &history, |who| who),
        );
        let mut fewer = history.clone();
        let is_known = |t: &&Token| fewer.contains(t) && !book.gone.contains_key(t);
        let dropped = *book.made.keys().find(is_known).expect("somebody wrote");
        assert!(fewer.remove(&dropped));
        let found = forgotten(&book, &fewer, |who| who);
        assert_eq!(found.len(), 1, "the check cannot fail");
    }
    eprintln!(
        "{} lines acknowledged, {} taken away by who had read them, {} blind edits; all in the \
         history of each node; at most {} MiB and {} descriptors; {} lines taken by blind edits",
        book.made.len(),
        book.gone.len(),
        book.blind.len(),
        peaks.mib,
        peaks.fds,
        losses.excused.len()
    );
    assert!(peaks.fds <= FDS_MAX && peaks.mib <= MIB_MAX, "{peaks:?}");
}

/// What must hold at the end of each round.
fn check(
    ledger: &Ledger,
    losses: &mut Losses,
    nodes: &[Node],
    story: &[String],
    peaks: &Peaks,
    end: Instant,
) {
    let all: Vec<&Node> = nodes.iter().collect();
    let took = agree(&all, "cell", HEALED);
    for n in &all[1..] {
        same_soon(all[0].dir(), n.dir());
    }
    let book = ledger.book();
    let shown = shown(all[0].dir());
    let left = end.saturating_duration_since(Instant::now());
    eprintln!(
        "{:>4} s left: the same after {took:.1?}; {} lines, {} files, {} copies, {} MiB, {} \
         descriptors; {}",
        left.as_secs(),
        shown.tokens.len(),
        shown.files,
        shown.copies,
        peaks.mib,
        peaks.fds,
        story.join(", ")
    );
    none("lines that nobody wrote", &shown.wrong);
    let lost = losses.look(&book, &shown.tokens, &all[0].repo("cell"));
    none("lines are lost", &lost);
    none("programs met errors", &failures(&book));
    // The check is one that can fail.
    if let Some(t) = shown
        .tokens
        .iter()
        .find(|t| book.made.contains_key(t) && !book.gone.contains_key(t))
    {
        let mut fewer = shown.tokens.clone();
        fewer.remove(t);
        let all = missing(&book, &shown.tokens).len();
        assert_eq!(missing(&book, &fewer).len(), all + 1);
    }
}
