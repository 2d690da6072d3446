//! What a swarm promises, in virtual time (`tests/world.rs`).
//!
//! | variable | what it sets | without it |
//! |---|---|---|
//! | `CELLFS_SWARM_SEEDS` | seeds of `whatever_goes_wrong` | 150 |
//! | `CELLFS_SWARM_FIRST` | the first of them | 1 |
//! | `CELLFS_SWARM_WATCH` | prints what goes on | |

mod seeds;
mod speed;
mod trouble;
mod world;

use world::{PIECE_MAX, World};

const MS: u64 = 1000;
const SECOND: u64 = 1_000_000;
const MB: u64 = 1 << 20;

/// Chance that is the same in every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n.max(1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// So many pieces as a file without repetition has.
fn usual(world: &mut World, count: usize) -> Vec<u32> {
    let len = |w: &mut World| (64 << 10) + u32::try_from(w.chance.below(512 << 10)).unwrap();
    let mut out: Vec<u32> = (0..count).map(|_| len(world)).collect();
    if let Some(last) = out.last_mut() {
        *last = (*last).min(PIECE_MAX) / 3;
    }
    out
}

/// Holders with a file of so many pieces, and one who wants it; each link has so many bytes a
/// millisecond.
fn one_who_wants(holders: usize, count: usize, rate: u64, latency: u64) -> (World, usize) {
    let mut w = World::new(7, latency);
    let lens = usual(&mut w, count);
    let file = w.file(lens);
    for _ in 0..holders {
        let n = w.node(rate, rate * 100);
        w.gives_all(n, file);
    }
    let n = w.node(rate, rate * 100);
    w.nodes[n].wants.insert(file);
    (w, n)
}
