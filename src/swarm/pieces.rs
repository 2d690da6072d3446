//! Sets of pieces of one file, and what a peer says that it holds of it.
//!
//! Invariant: a set has no member at or above its length. A bit for each piece of the file: 1 GiB
//! is 425 bytes, 1 TiB is 425 kB.

/// Some of the pieces of a file, by their numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pieces {
    words: Vec<u64>,
    len: u32,
    count: u32,
}

impl Pieces {
    /// None of so many.
    #[must_use]
    pub fn none(len: u32) -> Self {
        Self {
            words: vec![0; (len as usize).div_ceil(64)],
            len,
            count: 0,
        }
    }

    /// All of so many.
    #[must_use]
    pub fn all(len: u32) -> Self {
        let mut out = Self::none(len);
        out.words.fill(u64::MAX);
        if let Some(last) = out.words.last_mut()
            && !len.is_multiple_of(64)
        {
            *last = (1 << (len % 64)) - 1;
        }
        out.count = len;
        out
    }

    /// How many pieces the file has.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// How many of them are in the set.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether the set has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether the set has all.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.count == self.len
    }

    /// Whether a piece is in the set.
    #[must_use]
    pub fn has(&self, n: u32) -> bool {
        self.word(n as usize / 64) & (1 << (n % 64)) != 0
    }

    /// Puts a piece in; says whether it was not.
    pub fn insert(&mut self, n: u32) -> bool {
        self.set(n, true)
    }

    /// Takes a piece out; says whether it was in.
    pub fn remove(&mut self, n: u32) -> bool {
        self.set(n, false)
    }

    fn set(&mut self, n: u32, to: bool) -> bool {
        if n >= self.len || self.has(n) == to {
            return false;
        }
        if let Some(w) = self.words.get_mut(n as usize / 64) {
            *w ^= 1 << (n % 64);
        }
        if to {
            self.count += 1;
        } else {
            self.count -= 1;
        }
        true
    }

    /// The first piece of the set from a number on.
    #[must_use]
    pub fn next(&self, from: u32) -> Option<u32> {
        let first = from as usize / 64;
        let mut mask = u64::MAX << (from % 64);
        for (at, w) in self.words.iter().enumerate().skip(first) {
            let found = w & mask;
            if found != 0 {
                return u32::try_from(at * 64)
                    .ok()
                    .map(|n| n + found.trailing_zeros());
            }
            mask = u64::MAX;
        }
        None
    }

    /// The pieces of the set, in order, from a number on.
    pub fn iter_from(&self, from: u32) -> impl Iterator<Item = u32> + '_ {
        let mut at = Some(from);
        std::iter::from_fn(move || {
            let n = self.next(at?)?;
            at = n.checked_add(1);
            Some(n)
        })
    }

    /// Stretches of the set: first piece, and how many.
    pub fn runs(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let first = self.next(at)?;
            let mut end = first + 1;
            while self.has(end) {
                // Whole words at once: a long stretch is the usual case.
                let is_full = end.is_multiple_of(64) && self.word(end as usize / 64) == u64::MAX;
                end += if is_full { 64 } else { 1 };
            }
            at = end;
            Some((first, end - first))
        })
    }

    /// 64 pieces at once; none beyond the end.
    pub(super) fn word(&self, at: usize) -> u64 {
        self.words.get(at).copied().unwrap_or(0)
    }

    /// Words that there are.
    pub(super) fn words(&self) -> usize {
        self.words.len()
    }
}

/// What a peer holds of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holding {
    /// Nothing, or it does not know the file.
    Nothing,
    /// These pieces.
    Some(Pieces),
    /// All of it.
    Whole,
}

impl Holding {
    /// What this set is.
    #[must_use]
    pub fn of(pieces: Pieces) -> Self {
        if pieces.is_empty() {
            Self::Nothing
        } else if pieces.is_all() {
            Self::Whole
        } else {
            Self::Some(pieces)
        }
    }

    /// Whether a piece is among it.
    #[must_use]
    pub fn has(&self, n: u32) -> bool {
        match self {
            Self::Nothing => false,
            Self::Some(p) => p.has(n),
            Self::Whole => true,
        }
    }

    pub(super) fn word(&self, at: usize) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Some(p) => p.word(at),
            Self::Whole => u64::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_is_a_set(len in 0u32..300, puts in proptest::collection::vec((0u32..320, any::<bool>()), 0..200)) {
            let mut set = Pieces::none(len);
            let mut model = BTreeSet::new();
            for (n, to) in puts {
                if to {
                    prop_assert_eq!(set.insert(n), n < len && model.insert(n));
                } else {
                    prop_assert_eq!(set.remove(n), model.remove(&n));
                }
                model.retain(|n| *n < len);
            }
            prop_assert_eq!(set.count() as usize, model.len());
            prop_assert!(set.iter_from(0).eq(model.iter().copied()));
            prop_assert!(set.iter_from(70).eq(model.range(70..).copied()));
            let by_runs: Vec<u32> = set.runs().flat_map(|(n, count)| n..n + count).collect();
            prop_assert!(by_runs.into_iter().eq(model.iter().copied()));
            let gaps = set.runs().zip(set.runs().skip(1)).all(|((a, n), (b, _))| a + n < b);
            prop_assert!(gaps, "stretches touch");
        }
    }

    #[test]
    fn all_ends_where_the_file_does() {
        for len in [0, 1, 63, 64, 65, 128, 200] {
            let all = Pieces::all(len);
            assert!(all.iter_from(0).eq(0..len));
            assert!(all.is_all() && !all.has(len));
            assert_eq!(all.runs().count(), usize::from(len > 0));
        }
    }
}
