//! Whose turn it is to cover heads for which nobody can vouch any more.
//!
//! A head travels by its author's signature, which counts while the author is a member. Of a
//! node that left or was forgotten the others have what they took in before, and no way to
//! prove it to those who join later. So a member that has such a head among its heads makes a
//! commit without changes on top: that is the member's own head, and has all below it.
//!
//! One such commit is enough. The connected members take turns by their ids: the first waits
//! a second, each one after it two seconds longer, and who meanwhile hears of the commit
//! has nothing left to cover. Invariant: a commit too many does no harm and begets none: it is
//! alike all others on the same heads, and its author is a member.

use std::collections::BTreeMap;

use crate::base::id::VolumeName;

/// How long the first in turn waits: what its author last said may still be on its way.
const FIRST_MS: u64 = 1_000;
/// How much longer each next one waits.
const STEP_MS: u64 = 2_000;
/// How much longer all wait when the author is a member, whose notice was only lost.
const MEMBER_MS: u64 = 10_000;

/// A volume's heads without a voucher, as a node sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orphans {
    /// None.
    None,
    /// Heads of members, whose signed notices are not here.
    OfMembers,
    /// Heads of nodes that are no members.
    OfStrangers,
}

/// Since when each volume has heads to cover.
#[derive(Debug, Default)]
pub struct Turns {
    since: BTreeMap<VolumeName, (Orphans, u64)>,
}

impl Turns {
    /// Whether to cover the volume's heads now. `place` is the number of connected members
    /// that come before this node. Once due, the turn begins anew: a failed try is repeated.
    pub fn due(&mut self, volume: &VolumeName, orphans: Orphans, place: usize, now: u64) -> bool {
        if orphans == Orphans::None {
            self.since.remove(volume);
            return false;
        }
        let entry = self.since.entry(volume.clone()).or_insert((orphans, now));
        if entry.0 != orphans {
            *entry = (orphans, now);
        }
        let steps = u64::try_from(place).unwrap_or(u64::MAX);
        let mut pause = STEP_MS.saturating_mul(steps).saturating_add(FIRST_MS);
        if orphans == Orphans::OfMembers {
            pause = pause.saturating_add(MEMBER_MS);
        }
        if now.saturating_sub(entry.1) < pause {
            return false;
        }
        entry.1 = now;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_in_turn_covers_and_the_next_only_if_it_does_not() {
        let name: VolumeName = "cell".parse().unwrap();
        let (mut first, mut second) = (Turns::default(), Turns::default());
        let of = Orphans::OfStrangers;
        for now in [0, 500, 999] {
            assert!(!first.due(&name, of, 0, now) && !second.due(&name, of, 1, now));
        }
        assert!(first.due(&name, of, 0, 1_000));
        assert!(!second.due(&name, of, 1, 1_000));
        // The first one's commit came: there is nothing to cover any more, at no time.
        assert!(!second.due(&name, Orphans::None, 1, 1_500));
        assert!(!second.due(&name, of, 1, 3_100));
        // It did not come.
        assert!(second.due(&name, of, 1, 6_100));
        assert!(!second.due(&name, of, 1, 6_200), "one try at a time");
        assert!(second.due(&name, of, 1, 9_100), "a failed try is repeated");
    }

    #[test]
    fn a_members_own_notice_is_waited_for_longer() {
        let name: VolumeName = "cell".parse().unwrap();
        let mut t = Turns::default();
        assert!(!t.due(&name, Orphans::OfMembers, 0, 0));
        assert!(!t.due(&name, Orphans::OfMembers, 0, 10_000));
        // It leaves: a new wait, a short one.
        assert!(!t.due(&name, Orphans::OfStrangers, 0, 10_500));
        assert!(t.due(&name, Orphans::OfStrangers, 0, 11_500));
        assert!(!t.due(&name, Orphans::OfMembers, 0, 12_000));
        assert!(t.due(&name, Orphans::OfMembers, 0, 23_000));
    }
}
