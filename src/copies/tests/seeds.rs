//! Worlds by their seeds. Copies never get fewer than are wanted by letting go; when nothing goes
//! wrong any more no promise stays, and whoever may let go does.

use super::Chance;
use super::world::{Plan, Seen, World};

fn set(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Two nodes with the only copies, which both want to let go of at once.
fn two(seed: u64) -> Plan {
    let mut c = Chance(seed);
    Plan {
        nodes: 2,
        files: 1,
        holders: 2,
        wanted: 1,
        storm: 4000 + c.below(8000),
        lost: c.one_of(&[0, 10, 4]),
        twice: c.one_of(&[0, 3]),
        late: c.one_of(&[0, 10, 3]),
        cuts: c.below(5),
        crashes: c.one_of(&[0, 1, 3]),
        ..Plan::default()
    }
}

/// All sorts.
fn mixed(seed: u64) -> Plan {
    let mut c = Chance(seed);
    let nodes = 2 + c.index(6);
    let often = |c: &mut Chance, n: u64| if c.one_in(2) { 0 } else { 1 + c.below(n) };
    Plan {
        nodes,
        files: 1 + u8::try_from(c.below(2)).unwrap(),
        holders: 1 + c.index(nodes),
        wanted: 1 + u32::try_from(c.below(3)).unwrap(),
        storm: 5000 + c.below(15_000),
        lost: c.one_of(&[0, 20, 8, 3]),
        twice: c.one_of(&[0, 10, 2]),
        late: c.one_of(&[0, 30, 10, 3]),
        cuts: often(&mut c, 10),
        crashes: often(&mut c, 8),
        fetches: often(&mut c, 8),
        forgotten: if c.one_in(4) { 1 + c.below(2) } else { 0 },
    }
}

fn run(seed: u64, plan: fn(u64) -> Plan, test: &str) -> Seen {
    let mut w = World::new(seed ^ 0xc0_b1e5, plan(seed));
    let done = w.run();
    if let Err(what) = &done {
        if set("CELLFS_TEST_COPIES_WATCH").is_some() {
            let mut again = World::new(seed ^ 0xc0_b1e5, plan(seed));
            again.trace = Some(String::new());
            let again_done = again.run();
            assert_eq!(again_done, done, "a seed is always the same world");
            eprintln!("{:?}\n{}", plan(seed), again.trace.unwrap());
        }
        panic!(
            "{what}: CELLFS_TEST_COPIES_FIRST={seed} CELLFS_TEST_COPIES_SEEDS=1 \
             CELLFS_TEST_COPIES_WATCH=1 cargo test --lib copies::tests::seeds::{test}"
        );
    }
    w.seen
}

fn seeds(usual: u64) -> (u64, std::ops::Range<u64>) {
    let first = set("CELLFS_TEST_COPIES_FIRST").unwrap_or(1);
    let count = set("CELLFS_TEST_COPIES_SEEDS").unwrap_or(usual);
    (count, first..first + count)
}

fn add(all: &mut Seen, seen: &Seen) {
    all.let_go += seen.let_go;
    all.kept += seen.kept;
    all.promised += seen.promised;
    all.crashes_while_going += seen.crashes_while_going;
    all.asked_beside_another += seen.asked_beside_another;
    all.inquired += seen.inquired;
}

#[test]
fn of_two_who_let_go_of_the_last_two_copies_one_keeps_his() {
    let (count, seeds) = seeds(10_000);
    let mut all = Seen::default();
    for seed in seeds {
        let name = "of_two_who_let_go_of_the_last_two_copies_one_keeps_his";
        let seen = run(seed, two, name);
        assert_eq!(seen.left, [1], "seed {seed}");
        add(&mut all, &seen);
    }
    // What is to be met is met.
    if count >= 10_000 {
        assert_eq!(all.let_go, count);
        let met = [all.kept, all.promised];
        assert!(met.iter().all(|n| *n > count / 2), "{all:?}");
        let met = [
            all.crashes_while_going,
            all.asked_beside_another,
            all.inquired,
        ];
        assert!(met.iter().all(|n| *n > count / 100), "{all:?}");
    }
}

#[test]
fn whatever_goes_wrong_enough_copies_stay_and_who_may_lets_go() {
    let (count, seeds) = seeds(2000);
    let mut all = Seen::default();
    for seed in seeds {
        let name = "whatever_goes_wrong_enough_copies_stay_and_who_may_lets_go";
        add(&mut all, &run(seed, mixed, name));
    }
    if count >= 2000 {
        let met = [all.kept, all.promised, all.let_go];
        assert!(met.iter().all(|n| *n > count / 2), "{all:?}");
        let met = [
            all.crashes_while_going,
            all.asked_beside_another,
            all.inquired,
        ];
        assert!(met.iter().all(|n| *n > count / 100), "{all:?}");
    }
}

#[test]
fn a_seed_is_always_the_same_world() {
    let trace = |seed| {
        let mut w = World::new(seed, mixed(seed));
        w.trace = Some(String::new());
        w.run().unwrap();
        w.trace
    };
    for seed in 1..20 {
        assert_eq!(trace(seed), trace(seed));
    }
}
