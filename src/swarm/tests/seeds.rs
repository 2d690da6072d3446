//! Random worlds in which all sorts of things go wrong for a while. While one honest holder stays,
//! all comes.

use super::world::Manner;
use super::*;
use crate::swarm::pieces::Pieces;

fn set(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What a seed has in store.
fn world_of(seed: u64) -> World {
    let mut c = Chance(seed);
    let latency = [MS / 5, 2 * MS, 15 * MS, 80 * MS][usize::try_from(c.below(4)).unwrap()];
    let mut w = World::new(seed ^ 0x5eed, latency);
    w.watch = std::env::var_os("CELLFS_SWARM_WATCH").is_some();
    for _ in 0..=c.below(4) {
        let count = 1 + usize::try_from(c.below(150)).unwrap();
        let mut lens = usual(&mut w, count);
        if c.one_in(4) {
            lens = vec![PIECE_MAX; count / 4 + 1];
        }
        w.file(lens);
    }
    let files: Vec<u64> = w.files.keys().copied().collect();
    let speed = |c: &mut Chance| [500, 3_000, 25_000][usize::try_from(c.below(3)).unwrap()];
    // One that has all and stays.
    let rate = speed(&mut c);
    let n = w.node(rate, rate * 4);
    for f in &files {
        w.gives_all(n, *f);
    }
    for _ in 0..1 + c.below(6) {
        let rate = speed(&mut c);
        let n = w.node(rate, rate * 4);
        w.nodes[n].manner = match c.below(10) {
            0 => Manner::Lies(1 + c.below(20)),
            1 => Manner::Boasts,
            2 => Manner::Silent(c.below(20) * SECOND),
            _ => Manner::Honest,
        };
        for f in &files {
            let count = u32::try_from(w.files[f].len()).unwrap();
            match c.below(4) {
                0 => w.gives_all(n, *f),
                1 => {
                    let mut some = Pieces::none(count);
                    (0..count).filter(|_| c.one_in(2)).for_each(|p| {
                        some.insert(p);
                    });
                    w.gives(n, *f, some);
                }
                _ => {}
            }
            if w.nodes[n].manner == Manner::Honest && !c.one_in(4) {
                w.nodes[n].wants.insert(*f);
            }
        }
        if c.one_in(5) {
            w.nodes[n].disk_fails = 5 + c.below(50);
        }
    }
    plan_faults(&mut w, &mut c);
    w
}

fn plan_faults(w: &mut World, c: &mut Chance) {
    let count = w.nodes.len() as u64;
    let any = |c: &mut Chance| usize::try_from(c.below(count)).unwrap();
    for _ in 0..c.below(30) {
        let at = c.below(20 * SECOND);
        let back = at + c.below(5 * SECOND);
        let (a, b) = (any(c), any(c));
        if a != b {
            w.cut_at(at, a, b);
            w.link_at(back, a, b);
        }
    }
    for _ in 0..c.below(6) {
        let n = any(c);
        let at = c.below(20 * SECOND);
        let back = at + c.below(5 * SECOND);
        if n != 0 {
            w.crash_at(at, n);
            w.start_at(back, n);
            (0..w.nodes.len())
                .filter(|p| *p != n)
                .for_each(|p| w.link_at(back + MS, n, p));
        }
    }
    for _ in 0..c.below(40) {
        let n = any(c);
        let files = w.files.len() as u64;
        let f = c.below(files);
        let pieces = w.files[&f].len() as u64;
        let first = u32::try_from(c.below(pieces)).unwrap();
        let end = first + 1 + u32::try_from(c.below(pieces - u64::from(first))).unwrap();
        w.need_at(c.below(25 * SECOND), n, f, (first, end), 4);
    }
    // At last all are there and linked.
    let end = 26 * SECOND;
    for n in 0..w.nodes.len() {
        w.start_at(end, n);
        (0..n).for_each(|p| w.link_at(end + MS, n, p));
    }
}

fn check(seed: u64) -> [u8; 32] {
    let mut w = world_of(seed);
    let most: u64 = w.files.keys().map(|f| w.total(*f)).sum();
    let wanters = w.nodes.iter().filter(|n| !n.wants.is_empty()).count() as u64;
    w.begin();
    // At the pace of the slowest, all of it from one to all; and time for those who rest.
    let pace = w.nodes[0].up;
    let until = 26 * SECOND + most * wanters / pace * MS * 2 + 90 * SECOND;
    let all = w.run(until);
    let line = format!(
        "CELLFS_SWARM_FIRST={seed} CELLFS_SWARM_SEEDS=1 CELLFS_SWARM_WATCH=1 cargo test --lib \
         swarm::tests::seeds"
    );
    for (n, node) in w.nodes.iter().enumerate() {
        let lacks = node.wants.iter().filter(|f| !w.has_all(n, **f)).count();
        assert_eq!(
            lacks, 0,
            "{line}\nnode {n} lacks files at {} of {until}",
            w.now
        );
        let s = &node.seen;
        let had = |f: &u64| {
            node.store.get(f).map_or(0, |p| {
                p.iter_from(0)
                    .map(|i| u64::from(w.files[f][i as usize]))
                    .sum::<u64>()
            })
        };
        let have: u64 = node.store.keys().map(had).sum();
        let again = s.received.saturating_sub(have + s.lost);
        // Of what was cancelled most had not begun.
        let readers = s.waited.len() as u64;
        let events = 2 * s.cuts + 64 * s.lies + s.disk_faults + 2 * readers + 10;
        assert!(
            again <= events * u64::from(PIECE_MAX) + have / 10,
            "{line}\nnode {n}: {again} bytes for nothing of {have}, {s:?}"
        );
        let pieces: u64 = w.files.values().map(|l| l.len() as u64).sum();
        assert!(
            s.cancels <= 20 + pieces / 4 + 70 * (s.cuts + s.lies) + 16 * readers,
            "{line}\nnode {n}: {} cancelled of {pieces} pieces",
            s.cancels
        );
    }
    assert!(all, "{line}");
    *w.trace.finalize().as_bytes()
}

#[test]
fn whatever_goes_wrong_all_comes_while_an_honest_holder_stays() {
    let first = set("CELLFS_SWARM_FIRST").unwrap_or(1);
    let count = set("CELLFS_SWARM_SEEDS").unwrap_or(150);
    for seed in first..first + count {
        check(seed);
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [5, 77, 1234] {
        assert_eq!(check(seed), check(seed), "{seed}");
    }
}
