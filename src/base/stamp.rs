//! Stamps and dots: which commit did an operation, and which operation is later.

use serde::{Deserialize, Serialize};

use super::id::BranchId;

/// A hybrid logical clock reading: milliseconds since 1970 in the upper 48 bits, a counter
/// in the lower 16. Later than every reading that its maker had seen.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug, Default,
)]
pub struct Hlc(pub u64);

impl Hlc {
    /// The next reading of a clock that has seen `self` and whose wall says `wall_ms`.
    #[must_use]
    pub fn tick(self, wall_ms: u64) -> Self {
        Self((wall_ms << 16).max(self.0.saturating_add(1)))
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub fn wall_ms(self) -> u64 {
        self.0 >> 16
    }
}

/// Names a commit of a branch, and through it each operation which that commit did.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug, Default,
)]
pub struct Dot {
    /// The branch.
    pub branch: BranchId,
    /// The commit's place on it, from 1.
    pub seq: u64,
}

/// A dot with its time. Its order is W of the merge rules: later clock, then branch, then seq;
/// it is total, equal on every node, and agrees with causality.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug, Default,
)]
pub struct Stamp {
    /// When, by the hybrid clock of the commit's author.
    pub hlc: Hlc,
    /// Which branch.
    pub branch: BranchId,
    /// Which commit of it.
    pub seq: u64,
}

impl Stamp {
    /// The stamp without its time.
    #[must_use]
    pub fn dot(self) -> Dot {
        Dot {
            branch: self.branch,
            seq: self.seq,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_is_later_than_all_it_saw_even_when_the_wall_goes_back() {
        let a = Hlc::default().tick(1_000);
        let b = a.tick(500);
        let c = b.tick(2_000);
        assert!(a < b && b < c);
        assert_eq!((a.wall_ms(), c.wall_ms()), (1_000, 2_000));
    }
}
