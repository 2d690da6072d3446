//! What the room promises: each rule by itself, and all of them in worlds in which all sorts of
//! things go wrong (`tests/world.rs`).
//!
//! | variable | what it sets | without it |
//! |---|---|---|
//! | `CELLFS_TEST_COPIES_SEEDS` | seeds of each test of worlds | 10,000 and 2,000 |
//! | `CELLFS_TEST_COPIES_FIRST` | the first of them | 1 |
//! | `CELLFS_TEST_COPIES_WATCH` | prints what went on in one that fails | |

mod rules;
mod seeds;
mod world;

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

    fn index(&mut self, of: usize) -> usize {
        usize::try_from(self.below(of as u64)).expect("it is below a usize")
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.index(of.len())]
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}
