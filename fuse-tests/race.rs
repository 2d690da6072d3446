//! One file is edited through two folders at once, in the ways that programs save and write.
//!
//! What cannot be merged, records that both write or the same last line, is kept in copies: one for
//! each version that nobody had seen who wrote on. A log that others edit elsewhere makes hardly any.
//!
//! `CELLFS_TEST_RACE_ROUNDS` sets how long they go on.
//!
//! Commits fall anywhere. Every so many rounds all stop, both nodes must come to show the same,
//! and each acknowledged line must be in the file or in a listed copy, unless a writer who had
//! read it took it away; at the end all are in the history of both nodes.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::Duration;

use crate::harness::account::{Losses, failures, forgotten, history, line, none, shown};
use crate::harness::edits::{ALL, How, LINE, Ledger, Token, Writer, files};
use crate::harness::tree::same_soon;
use crate::harness::{self, Lab, Node, SOON, agree, git, rounds, wait_until};

/// Rounds from one look to the next.
const STEP: usize = 10;

fn all_rounds(default: usize) -> usize {
    rounds("CELLFS_TEST_RACE_ROUNDS", default)
}

/// Two nodes and what is known of what was written to them.
struct Race<'a> {
    nodes: &'a [Node],
    ledger: &'a Ledger,
    most_copies: usize,
    told: Duration,
    losses: Losses,
}

impl<'a> Race<'a> {
    fn new(nodes: &'a [Node], ledger: &'a Ledger) -> Self {
        Self {
            nodes,
            ledger,
            most_copies: 0,
            told: Duration::ZERO,
            losses: Losses::default(),
        }
    }

    fn writer(&self, id: u16) -> Writer<'a> {
        let mut w = Writer::new(self.ledger, id, 0, seed());
        w.dawdles = true;
        w
    }

    /// All stopped: what must hold. The copies that there are.
    fn look(&mut self, about: &str) -> Vec<PathBuf> {
        let both = [&self.nodes[0], &self.nodes[1]];
        agree(&both, "cell", SOON);
        let told = same_soon(both[0].dir(), both[1].dir());
        self.told = self.told.max(told);
        let shown = shown(both[0].dir());
        none(&format!("lines that nobody wrote, {about}"), &shown.wrong);
        let book = self.ledger.book();
        let repo = both[0].repo("cell");
        let lost = self.losses.look(&book, &shown.tokens, &repo);
        none(&format!("lines are lost, {about}"), &lost);
        none("programs met errors", &failures(&book));
        let all = files(both[0].dir()).into_iter();
        let copies: Vec<PathBuf> = all.filter(|p| is_copy(p)).collect();
        let listed = both[1].ask(&["conflicts", "--json"]);
        for c in &copies {
            let name = c.file_name().unwrap_or_default().to_string_lossy();
            assert!(listed.contains(&*name), "{name} is not in {listed}");
        }
        self.most_copies = self.most_copies.max(copies.len());
        copies
    }
}

/// All that was acknowledged is in the history of both.
fn end(nodes: Vec<Node>, ledger: &Ledger, most_copies: usize) {
    let book = ledger.book();
    eprintln!(
        "{}; {} lines, {} taken away, at most {most_copies} copies at once",
        line(&book.counts),
        book.made.len(),
        book.gone.len(),
    );
    for n in nodes {
        let repo = n.repo("cell");
        n.stop();
        git::fsck(&repo);
        // The third writer is at the first node.
        let forgotten = forgotten(&book, &history(&repo), |who| who % 2);
        none("lines are in no commit", &forgotten);
    }
}

fn seed() -> u64 {
    let seed = rounds(
        "CELLFS_TEST_RACE_SEED",
        getrandom::u32().expect("randomness") as usize,
    );
    eprintln!("CELLFS_TEST_RACE_SEED={seed}");
    seed as u64
}

fn is_copy(path: &Path) -> bool {
    path.to_string_lossy().contains(".conflict-")
}

/// Each does its part once a round, both at the same moment.
fn rounds_of<A: Send, B: Send>(
    (a, b): (&mut A, &mut B),
    here: impl Fn(&mut A) + Send,
    there: impl Fn(&mut B) + Send,
) {
    let start = Barrier::new(2);
    let start = &start;
    std::thread::scope(|s| {
        s.spawn(move || {
            for _ in 0..STEP {
                start.wait();
                here(a);
            }
        });
        s.spawn(move || {
            for _ in 0..STEP {
                start.wait();
                there(b);
            }
        });
    });
}

fn lab(count: usize) -> Lab {
    Lab::with_patience(Duration::from_secs(240 + count as u64))
}

#[test]
fn two_editors_of_one_file() {
    if !harness::fuse() {
        return;
    }
    let count = all_rounds(320);
    let lab = lab(count);
    let nodes = lab.cell(2);
    let ledger = Ledger::default();
    let mut race = Race::new(&nodes, &ledger);
    let (mut a, mut b) = (race.writer(1), race.writer(2));
    let (at_a, at_b) = (nodes[0].at("f"), nodes[1].at("f"));
    a.fill(&at_a, 30, false).expect("written");
    race.look("at first");
    for step in 0..count.div_ceil(STEP) {
        let (ha, hb) = (ALL[step % 4], ALL[step / 4 % 4]);
        rounds_of(
            (&mut a, &mut b),
            |w| w.edit(&at_a, ha).expect("saved"),
            |w| w.edit(&at_b, hb).expect("saved"),
        );
        for copy in race.look(&format!("{ha:?} against {hb:?}")) {
            a.remove(&copy).expect("removed");
        }
    }
    let most = race.most_copies;
    end(nodes, &ledger, most);
}

/// A log is appended to through one descriptor while it is edited elsewhere, and perhaps here
/// too; the most copies that there were, and how many edits replaced what nobody had read.
fn log_against(how: &[How], tail: usize, also_here: bool) -> (usize, usize) {
    let count = all_rounds(100);
    let lab = lab(count);
    let nodes = lab.cell(2);
    let ledger = Ledger::default();
    let mut race = Race::new(&nodes, &ledger);
    let [mut a, mut b, mut c] = [1, 2, 3].map(|id| race.writer(id));
    for w in [&mut b, &mut c] {
        (w.tail, w.most, w.greed) = (tail, usize::MAX, 10);
    }
    // At the log's own node nobody may move the place where it is written just now.
    c.greed = 100;
    let (at_a, at_b) = (nodes[0].at("log"), nodes[1].at("log"));
    a.fill(&at_a, 100, false).expect("written");
    race.look("at first");
    let held = OpenOptions::new().append(true).open(&at_a).expect("opened");
    for step in 0..count.div_ceil(STEP) {
        let how = how[step % how.len()];
        let log = |a: &mut Writer<'_>| {
            a.log(&at_a, &held).expect("logged");
        };
        if also_here {
            std::thread::scope(|s| {
                s.spawn(|| {
                    for _ in 0..STEP {
                        c.edit(&at_a, How::InPlace).expect("saved");
                    }
                });
                rounds_of((&mut a, &mut b), log, |w| {
                    w.edit(&at_b, how).expect("saved");
                });
            });
        } else {
            rounds_of((&mut a, &mut b), log, |w| {
                w.edit(&at_b, how).expect("saved");
            });
        }
        race.look(&format!("a log against {how:?}"));
    }
    // What is written through the descriptor reaches the file that has the name.
    let last = a.log(&at_a, &held).expect("logged");
    held.sync_all().expect("synced");
    let among = |path: &Path| fs::read(path).is_ok_and(|t| has(&t, last));
    if tail > 0 {
        for at in [&at_a, &at_b] {
            wait_until(
                SOON,
                || among(at),
                || format!("{last:?} is not in {}", at.display()),
            );
        }
    }
    race.look("at last");
    let most = race.most_copies;
    drop(held);
    end(nodes, &ledger, most);
    (most, ledger.book().blind.len())
}

fn has(text: &[u8], token: Token) -> bool {
    let line = token.line();
    text.split(|b| *b == b'\n').any(|l| *l == line[..LINE - 1])
}

/// Copies that may be there for a while.
const COPIES_MAX: usize = 3;

#[test]
fn a_log_held_open_goes_into_the_file_that_others_edit() {
    if !harness::fuse() {
        return;
    }
    let edits = [How::InPlace, How::Renamed, How::Truncated];
    let (most, blind) = log_against(&edits, 30, false);
    // Who replaces lines that he never saw, while the log goes on below them, makes one more.
    let allowed = COPIES_MAX + blind;
    assert!(most <= allowed, "{most} copies, {blind} blind edits");
}

#[test]
fn a_log_held_open_while_others_append() {
    if !harness::fuse() {
        return;
    }
    log_against(&ALL, 0, false);
}

#[test]
fn a_log_held_open_while_others_edit_here_and_there() {
    if !harness::fuse() {
        return;
    }
    let edits = [How::InPlace, How::Renamed, How::Truncated];
    log_against(&edits, 30, true);
}

const RECORDS: usize = 64;

#[test]
fn a_file_of_records_held_open_on_both_sides() {
    if !harness::fuse() {
        return;
    }
    let count = all_rounds(100);
    let lab = lab(count);
    let nodes = lab.cell(2);
    let ledger = Ledger::default();
    let mut race = Race::new(&nodes, &ledger);
    let (mut a, mut b) = (race.writer(1), race.writer(2));
    let paths = [nodes[0].at("db"), nodes[1].at("db")];
    a.fill(&paths[0], RECORDS, true).expect("written");
    race.look("at first");
    let open = |p: &PathBuf| {
        let f = OpenOptions::new().read(true).write(true).open(p);
        f.expect("opened")
    };
    let held = open(&paths[0]);
    let mut mine = vec![0; (RECORDS + 1) * LINE];
    held.read_exact_at(&mut mine, 0).expect("read");
    for step in 0..count.div_ceil(STEP) {
        let mut here = (&mut a, &mut mine);
        rounds_of(
            (&mut here, &mut b),
            |(a, mine)| {
                let at = 1 + a.rng.below(RECORDS);
                let [_, new] = a.record(&paths[0], &held, at).expect("written");
                mine[at * LINE..][..LINE].copy_from_slice(&new.line());
                // Nobody else's bytes are ever seen through it.
                let mut now = vec![0; mine.len()];
                held.read_exact_at(&mut now, 0).expect("read");
                assert!(now == **mine, "a mix of versions");
            },
            |b| {
                let at = 1 + b.rng.below(RECORDS);
                let f: File = open(&paths[1]);
                b.record(&paths[1], &f, at).expect("written");
            },
        );
        race.look(&format!("records, step {step}"));
    }
    race.look("at last");
    let most = race.most_copies;
    drop(held);
    end(nodes, &ledger, most);
}
