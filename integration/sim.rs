//! Many nodes in one thread, in virtual time, on a network and on disks that fail: the product's
//! own replication, commits and merges, with everything around them simulated (`sim/world.rs`).
//!
//! A run follows from its seed. While it is busy, people write, and what the seed's plan
//! (`sim/plan.rs`) has in store goes wrong: latency, loss, doubling, reordering, one-way cuts,
//! partitions, crashes at any use of a disk, disks rolled back, clocks that are off, machines that
//! share a key, members that lie, nodes that go for good and nodes that join. Then all is
//! healed, and all that was promised must hold (`sim/check.rs`).
//!
//! A failure prints the line that replays it. A bug that was found is mended in the product,
//! and its seed joins [`FOUND`].
//!
//! | variable | what it sets | without it | in full | tests |
//! |---|---|---|---|---|
//! | `CELLFS_TEST_SIM_SEEDS` | fresh seeds | what 4 s allow | 100,000 | `sim::fresh_seeds` |
//! | `CELLFS_TEST_SIM_FIRST` | the first of those | from the clock | | the same |
//! | `CELLFS_TEST_SIM_NODES` | nodes, of which 20 % crash in each minute | 30 for 1 minute | 1,000 for 10 minutes | `sim::nodes_that_come_and_go` |
//! | `CELLFS_TEST_SIM_SEED` | this seed alone | 300 fixed ones | | `sim::fixed_seeds` |
//! | `CELLFS_TEST_SIM_WATCH` | with that: prints what this machine hears and does | | | the same |

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

mod author;
mod check;
mod disk;
mod fate;
mod liar;
mod net;
mod node;
mod plan;
mod world;

use plan::Plan;
use world::{Report, World};

const FIXED: u64 = 300;
/// Seeds that once failed, and why.
const FOUND: &[(u64, &str)] = &[
    (
        117_654_968_664_075,
        "a member's lie about its own branch hid its real head from some",
    ),
    (
        117_654_949_855_245,
        "of two machines with one key, what one gossiped hid the other's head",
    ),
    (
        2_000_020,
        "a fetched pack outlived what it built on, which the journal held unsynced",
    ),
    (
        2_000_369,
        "the same: a head whose commit was here and not all that it needs",
    ),
    (
        5_000_054,
        "a head that a liar told one of two machines with one key alone stayed there",
    ),
    (5_004_268, "the same with many heads"),
    (
        7_000_837,
        "a save over a conflict copy was overwritten by what the save left beside it",
    ),
    (7_019_249, "the same"),
    (
        7_000_997,
        "a liar's own notice of a commit was taken for its author's, which one twin alone had",
    ),
    (
        7_009_629,
        "what a liar gossiped was heard by one of two machines with one key alone",
    ),
    (
        30_007_828,
        "the head before a commit was not known after a start",
    ),
    (30_041_775, "the same"),
    (30_051_964, "the same, and a commit named bytes of its view"),
    (30_056_738, "the same"),
    (
        60_098_839,
        "an answer to who had died was taken for one to what it asked in its next life (the \
         simulator was mistaken)",
    ),
];
const THREADS: u64 = 2;
const FAILURES_MAX: usize = 4;
const FRESH_MAX: u64 = 65_536;
const FRESH_FOR: Duration = Duration::from_secs(4);

fn simulate(plan: Plan, watched: Option<usize>) -> Result<Report, String> {
    let mut w = World::new(plan);
    w.watched = watched;
    let done = catch_unwind(AssertUnwindSafe(|| to_the_end(&mut w)));
    let done = done.unwrap_or_else(|e| {
        let text = e.downcast_ref::<String>().cloned();
        let text = text.or_else(|| e.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Err(format!("a panic: {}", text.unwrap_or_default()))
    });
    done.map_err(|e| format!("{e}\nat {} ms\n{}", w.now, check::story(&w)))
}

/// Runs until all agree and nothing happens any more.
fn to_the_end(w: &mut World) -> Result<Report, String> {
    let busy = w.plan.busy;
    w.run_until(busy + 200)?;
    let last = busy + w.plan.settle;
    loop {
        w.run_until(w.now + 250)?;
        let agreed = check::agree(w);
        let at = w.now;
        if agreed.is_ok() {
            // What follows from the heal itself, as a head whose notice is lost, may still come.
            let before = check::commits(w);
            w.run_until(w.now + w.plan.quiet)?;
            if check::agree(w).is_ok() && before == check::commits(w) {
                check::all(w)?;
                let mut report = w.report;
                report.commits = before;
                report.agreed_after = at - busy;
                return Ok(report);
            }
        }
        if w.now > last {
            agreed?;
            return Err("commits without an end while nobody writes".to_owned());
        }
    }
}

fn line(seed: u64) -> String {
    format!("CELLFS_TEST_SIM_SEED={seed} cargo test --test integration sim::fixed -- --nocapture")
}

fn set(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs all these seeds; the reports summed up. Stops after some failures.
fn run_all(seeds: std::ops::Range<u64>, until: Option<Instant>) -> (u64, Report) {
    let next = AtomicU64::new(seeds.start);
    let failed: Mutex<Vec<String>> = Mutex::default();
    let sum = Mutex::new((0, Report::default()));
    std::thread::scope(|s| {
        for _ in 0..THREADS {
            s.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    let late = until.is_some_and(|t| Instant::now() > t);
                    if seed >= seeds.end
                        || late
                        || failed.lock().expect("alive").len() >= FAILURES_MAX
                    {
                        return;
                    }
                    match simulate(Plan::of(seed), None) {
                        Ok(r) => {
                            let mut sum = sum.lock().expect("alive");
                            sum.0 += 1;
                            sum.1.steps += r.steps;
                            sum.1.commits += r.commits;
                            sum.1.frontier_max = sum.1.frontier_max.max(r.frontier_max);
                            sum.1.agreed_after = sum.1.agreed_after.max(r.agreed_after);
                        }
                        Err(e) => {
                            let text = format!("{}\n{e}", line(seed));
                            failed.lock().expect("alive").push(text);
                        }
                    }
                }
            });
        }
    });
    let sum = sum.into_inner().expect("alive");
    let failed = failed.into_inner().expect("alive");
    let ran = sum.0 + failed.len() as u64;
    assert!(failed.is_empty(), "of {ran} seeds:\n{}", failed.join("\n"));
    sum
}

#[test]
fn fixed_seeds_keep_all_promises() {
    if let Some(seed) = set("CELLFS_TEST_SIM_SEED") {
        let watched = set("CELLFS_TEST_SIM_WATCH").and_then(|m| usize::try_from(m).ok());
        match simulate(Plan::of(seed), watched) {
            Ok(r) => return println!("{r:?}"),
            Err(e) => panic!("{}\n{e}", line(seed)),
        }
    }
    let (runs, r) = run_all(0..FIXED, None);
    println!("{runs} runs, {} steps, {} commits", r.steps, r.commits);
    assert_eq!(runs, FIXED);
    assert!(r.frontier_max > 3, "nothing was ever written at once");
}

#[test]
fn seeds_that_once_failed_keep_all_promises() {
    for (seed, why) in FOUND {
        let done = simulate(Plan::of(*seed), None);
        assert!(done.is_ok(), "{}\n{why}\n{:?}", line(*seed), done.err());
    }
}

#[test]
fn fresh_seeds_keep_all_promises() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let by_clock = now.map_or(0, |d| d.as_secs()) << 16;
    let first = set("CELLFS_TEST_SIM_FIRST").unwrap_or(by_clock);
    let seeds = set("CELLFS_TEST_SIM_SEEDS");
    let until = Instant::now() + FRESH_FOR;
    println!("fresh seeds from {first}");
    let until = seeds.is_none().then_some(until);
    let (runs, r) = run_all(first..first + seeds.unwrap_or(FRESH_MAX), until);
    println!(
        "{runs} seeds from {first}: {} steps, {} commits, at most {} heads at once, agreed after \
         at most {} ms",
        r.steps, r.commits, r.frontier_max, r.agreed_after
    );
}

#[test]
fn a_seed_tells_the_same_story_twice() {
    for seed in [1, 5, 9] {
        let runs = [(); 2].map(|()| simulate(Plan::of(seed), None).map(|r| (r.trace, r.steps)));
        assert_eq!(runs[0], runs[1], "{}", line(seed));
    }
}

#[test]
fn nodes_that_come_and_go_agree_in_the_end() {
    let (nodes, busy) = match set("CELLFS_TEST_SIM_NODES") {
        Some(n) => (n, 600_000),
        None => (30, 60_000),
    };
    let nodes = usize::try_from(nodes).expect("a number of nodes");
    let began = Instant::now();
    let r = simulate(Plan::large(1, nodes, 200, busy), None).unwrap_or_else(|e| panic!("{e}"));
    println!("{nodes} nodes in {:.1?}: {r:?}", began.elapsed());
    assert!(r.crashes > 0, "nothing went wrong");
}
