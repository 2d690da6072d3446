//! A piece told by one that is like it: what is taken of that, and the bytes between.
//!
//! A splice is a list of steps, each of 12 bytes and what it brings (little-endian):
//!
//! | bytes | |
//! |---|---|
//! | 4 | how many bytes of the piece come next, as they are, behind the three numbers |
//! | 4, 4 | from where on, and how much, of what is like it is taken then |
//!
//! It ends where the piece is whole. What is like it may be several pieces, one behind the other.
//!
//! Who makes one looks for blocks of what is like it at every place of the piece, by a rolling
//! hash, and first where the last one would go on: what was overwritten in place, put in, taken
//! out or moved is found, however often. Invariants: what [`apply`] gives is the piece for every
//! splice that [`make`] made of it; foreign bytes give an error or some piece of the length that
//! was asked for, whose name then tells. Memory: what is like it by [`LIKE_BYTES_MAX`], an index of
//! an eighth of that, the piece and half of it. No threads.

/// Bytes that a splice takes from, together.
pub const LIKE_BYTES_MAX: usize = 2 << 20;
/// Pieces that those are, at most.
pub const LIKES_MAX: usize = 4;

/// Three numbers.
const STEP_BYTES: usize = 12;
/// What is looked for, and how far apart blocks begin of what is like the piece.
const BLOCK: usize = 128;
/// Where the last block would go on, so many equal bytes are worth a step.
const SAME: usize = 32;
/// Odd, and with bits everywhere.
const BASE: u64 = 0x2545_f491_4f6c_dd1d;
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Most bytes of a splice of a piece of this length: a longer one is not worth it.
#[must_use]
pub fn bytes_max(piece_len: usize) -> usize {
    piece_len / 2
}

/// Bytes that are no splice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no splice: {0}")]
pub struct BadSplice(&'static str);

fn hash(block: &[u8]) -> u64 {
    let add = |h: u64, b: &u8| h.wrapping_mul(BASE).wrapping_add(u64::from(*b));
    block.iter().fold(0, add)
}

/// What the first of a block's bytes adds to its hash.
const FIRST: u64 = {
    let (mut power, mut n) = (1u64, 1);
    while n < BLOCK {
        power = power.wrapping_mul(BASE);
        n += 1;
    }
    power
};

/// The hash of the block one byte further on.
fn roll(hash: u64, goes: u8, comes: u8) -> u64 {
    let less = hash.wrapping_sub(FIRST.wrapping_mul(u64::from(goes)));
    less.wrapping_mul(BASE).wrapping_add(u64::from(comes))
}

/// Where blocks are, by their hashes: one of those that share a slot.
struct Index {
    slots: Vec<u32>,
    shift: u32,
}

impl Index {
    fn of(like: &[u8]) -> Self {
        let bits = (like.len() / BLOCK * 4).max(2).next_power_of_two().ilog2();
        let mut index = Self {
            slots: vec![u32::MAX; 1 << bits],
            shift: 64 - bits,
        };
        for (at, block) in (0u32..).step_by(BLOCK).zip(like.chunks_exact(BLOCK)) {
            let slot = index.slot(hash(block));
            if let Some(s) = index.slots.get_mut(slot).filter(|s| **s == u32::MAX) {
                *s = at;
            }
        }
        index
    }

    fn slot(&self, hash: u64) -> usize {
        usize::try_from(hash.wrapping_mul(SPREAD) >> self.shift).unwrap_or(0)
    }

    fn find(&self, hash: u64) -> Option<usize> {
        let at = self.slots.get(self.slot(hash)).copied();
        at.filter(|at| *at != u32::MAX).map(|at| at as usize)
    }
}

/// How many bytes two have in common in front.
fn in_front(a: &[u8], b: &[u8]) -> usize {
    const STEP: usize = 64;
    let steps = a.chunks_exact(STEP).zip(b.chunks_exact(STEP));
    let same = steps.take_while(|(a, b)| a == b).count() * STEP;
    let rest = a.iter().skip(same).zip(b.iter().skip(same));
    same + rest.take_while(|(a, b)| a == b).count()
}

/// The same at their ends.
fn behind(a: &[u8], b: &[u8]) -> usize {
    let all = a.iter().rev().zip(b.iter().rev());
    all.take_while(|(a, b)| a == b).count()
}

fn number(n: usize) -> [u8; 4] {
    u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes()
}

fn put(out: &mut Vec<u8>, new: &[u8], from: usize, count: usize) {
    for n in [new.len(), from, count] {
        out.extend_from_slice(&number(n));
    }
    out.extend_from_slice(new);
}

/// A splice of a piece, if there is one of at most so many bytes. Of what is like it,
/// [`LIKE_BYTES_MAX`] count.
#[must_use]
pub fn make(like: &[u8], piece: &[u8], most: usize) -> Option<Vec<u8>> {
    let like = like.get(..LIKE_BYTES_MAX).unwrap_or(like);
    let index = Index::of(like);
    let mut out = Vec::new();
    // What is told of the piece, and what of the other would come next.
    let (mut told, mut next) = (0, 0);
    let mut at = 0;
    let mut rolled: Option<u64> = None;
    while at < piece.len() {
        let rest = piece.get(at..)?;
        let here = next + (at - told);
        let is_same = |n| match (rest.get(..n), like.get(here..here + n)) {
            (Some(a), Some(b)) => a == b,
            _ => false,
        };
        let found = if is_same(8) && is_same(SAME) {
            Some(here)
        } else {
            let block = rest.get(..BLOCK);
            let h = block.map(|b| rolled.unwrap_or_else(|| hash(b)));
            rolled = h.and_then(|h| Some(roll(h, *rest.first()?, *rest.get(BLOCK)?)));
            let there = h.and_then(|h| index.find(h));
            there.filter(|from| like.get(*from..from + BLOCK) == block)
        };
        let Some(from) = found else {
            at += 1;
            if out.len() + (at - told) > most {
                return None;
            }
            continue;
        };
        let back = behind(piece.get(told..at)?, like.get(..from)?);
        let count = in_front(rest, like.get(from..)?);
        put(
            &mut out,
            piece.get(told..at - back)?,
            from - back,
            back + count,
        );
        at += count;
        (told, next, rolled) = (at, from + count, None);
        if out.len() > most {
            return None;
        }
    }
    if told < piece.len() {
        put(&mut out, piece.get(told..)?, 0, 0);
    }
    (out.len() <= most).then_some(out)
}

/// The piece of this length that a splice makes of what is like it.
///
/// # Errors
/// When it makes none.
pub fn apply(like: &[u8], splice: &[u8], len: u32) -> Result<Vec<u8>, BadSplice> {
    const SHORT: BadSplice = BadSplice("it ends too early");
    const LONG: BadSplice = BadSplice("it makes too much");
    let len = len as usize;
    let mut out = Vec::with_capacity(len);
    let mut left = splice;
    while out.len() < len {
        let (head, behind) = left.split_at_checked(STEP_BYTES).ok_or(SHORT)?;
        let mut numbers = head.as_chunks::<4>().0.iter();
        let mut number = || {
            numbers
                .next()
                .map_or(0, |n| u32::from_le_bytes(*n) as usize)
        };
        let (new, from, count) = (number(), number(), number());
        let (new, behind) = behind.split_at_checked(new).ok_or(SHORT)?;
        let end = from.checked_add(count).ok_or(LONG)?;
        let taken = like
            .get(from..end)
            .ok_or(BadSplice("it takes what is not there"))?;
        if new.len() + count > len - out.len() {
            return Err(LONG);
        }
        if new.is_empty() && count == 0 {
            return Err(BadSplice("a step does nothing"));
        }
        out.extend_from_slice(new);
        out.extend_from_slice(taken);
        left = behind;
    }
    match left {
        [] => Ok(out),
        _ => Err(LONG),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes without repetition.
    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        let mut hash = blake3::Hasher::new();
        hash.update(&seed.to_le_bytes());
        hash.finalize_xof().fill(&mut out);
        out
    }

    fn len(bytes: &[u8]) -> u32 {
        u32::try_from(bytes.len()).unwrap()
    }

    /// The length of a splice, which makes the piece.
    fn told(like: &[u8], piece: &[u8]) -> Option<usize> {
        let splice = make(like, piece, bytes_max(piece.len()))?;
        assert!(splice.len() <= bytes_max(piece.len()));
        assert!(apply(like, &splice, len(piece)).unwrap() == piece);
        Some(splice.len())
    }

    #[derive(Debug, Clone)]
    enum Edit {
        Insert(usize, usize),
        Delete(usize, usize),
        Overwrite(usize, usize),
    }

    fn edit() -> impl Strategy<Value = Edit> {
        (0..3, 0usize..1 << 20, 1usize..6000).prop_map(|(kind, at, n)| match kind {
            0 => Edit::Insert(at, n),
            1 => Edit::Delete(at, n),
            _ => Edit::Overwrite(at, n),
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn edits_cost_what_they_bring_and_a_little(
            size in 1000usize..300_000,
            edits in proptest::collection::vec(edit(), 0..6),
            period in prop_oneof![Just(usize::MAX), 1usize..5000],
        ) {
            let like = noise(1, size.min(period)).into_iter().cycle().take(size).collect::<Vec<_>>();
            let mut piece = like.clone();
            let mut brings = 0;
            for (n, e) in edits.iter().enumerate() {
                let place = |at: usize| at % (piece.len() + 1);
                match *e {
                    Edit::Insert(at, n_bytes) => {
                        let at = place(at);
                        piece.splice(at..at, noise(2 + n as u64, n_bytes));
                        brings += n_bytes;
                    }
                    Edit::Delete(at, n_bytes) => {
                        let at = place(at);
                        let end = (at + n_bytes).min(piece.len());
                        piece.drain(at..end);
                    }
                    Edit::Overwrite(at, n_bytes) => {
                        let at = place(at);
                        let end = (at + n_bytes).min(piece.len());
                        piece.splice(at..end, noise(2 + n as u64, end - at));
                        brings += end - at;
                    }
                }
            }
            // Between two edits a part of a block may not be found, and needs a step of its own.
            let most = brings + (edits.len() + 1) * (STEP_BYTES + 2 * BLOCK);
            match told(&like, &piece) {
                Some(n) => prop_assert!(n <= most, "{n} of {most}"),
                None => prop_assert!(most > bytes_max(piece.len()), "{most} would do"),
            }
        }

        #[test]
        fn foreign_bytes_never_panic(
            like in proptest::collection::vec(any::<u8>(), 0..60),
            splice in proptest::collection::vec(prop_oneof![Just(0), 0..20u8, any::<u8>()], 0..80),
            size in 0u32..80,
        ) {
            if let Ok(piece) = apply(&like, &splice, size) {
                prop_assert_eq!(len(&piece), size);
            }
        }

        #[test]
        fn a_damaged_splice_gives_an_error_or_as_many_bytes(
            at in 0usize..5000, flip in 1u8.., cut in 0usize..5000,
        ) {
            let like = noise(1, 20_000);
            let mut piece = like.clone();
            piece[9000..9100].fill(3);
            piece.splice(700..800, noise(2, 50));
            let good = make(&like, &piece, 10_000).unwrap();
            let mut bad = good.clone();
            bad[at % good.len()] ^= flip;
            bad.truncate(good.len() - cut % good.len() / 2);
            if let Ok(made) = apply(&like, &bad, len(&piece)) {
                prop_assert_eq!(made.len(), piece.len());
            }
        }
    }

    #[test]
    fn two_small_changes_far_apart_cost_two_small_changes() {
        let like = noise(1, 1 << 20);
        let mut piece = like.clone();
        piece[1000..5096].copy_from_slice(&noise(2, 4096));
        piece[900_000..904_096].copy_from_slice(&noise(3, 4096));
        let n = told(&like, &piece).unwrap();
        assert!(n <= 2 * 4096 + 3 * STEP_BYTES, "{n}");
    }

    #[test]
    fn one_piece_is_told_by_two_and_two_by_one() {
        let all = noise(1, 600_000);
        let mut whole = all.clone();
        whole[300_000..304_096].copy_from_slice(&noise(2, 4096));
        // The cut between both went.
        let n = told(&all, &whole).unwrap();
        assert!(n < 4200, "{n}");
        // A cut came: neither begins where the other does.
        for part in [&whole[..302_000], &whole[302_000..]] {
            let n = told(&all, part).unwrap();
            assert!(n < 2300, "{n}");
        }
    }

    #[test]
    fn what_moved_is_found() {
        let like = noise(1, 400_000);
        let piece = [&like[250_000..], &like[..250_000]].concat();
        let n = told(&like, &piece).unwrap();
        assert!(n <= 2 * (STEP_BYTES + BLOCK), "{n}");
    }

    #[test]
    fn what_is_not_alike_is_told_whole() {
        assert_eq!(told(&noise(1, 300_000), &noise(2, 300_000)), None);
        assert_eq!(told(&[], &noise(2, 3000)), None);
        assert_eq!(told(&noise(1, 3000), &[7]), None);
        // Half of it is.
        let half = [noise(1, 150_000), noise(2, 150_000)].concat();
        assert_eq!(told(&noise(1, 300_000), &half), None);
    }

    #[test]
    fn the_ends_of_what_is_alike_are() {
        let like = noise(1, 70_000);
        for cut in [0, 1, 11, 31, 32, 127, 128, 129] {
            let n = told(&like, &like[cut..]).unwrap();
            assert!(n <= STEP_BYTES + BLOCK, "{n} without {cut} in front");
            let n = told(&like, &like[..like.len() - cut]).unwrap();
            assert!(n <= STEP_BYTES, "{n} without {cut} at the end");
        }
        assert_eq!(told(&vec![0; 1 << 20], &vec![0; 1 << 20]), Some(STEP_BYTES));
    }

    #[test]
    fn no_more_is_taken_from_than_may_be() {
        let like = noise(1, LIKE_BYTES_MAX + 300_000);
        assert_eq!(told(&like, &like[LIKE_BYTES_MAX..]), None);
        assert!(told(&like, &like[LIKE_BYTES_MAX - 300_000..LIKE_BYTES_MAX]).is_some());
    }

    #[test]
    fn what_is_no_splice_is_refused() {
        let like = [1, 2, 3, 4];
        let step = |new: u32, from: u32, count: u32, bytes: &[u8]| {
            let numbers = [new, from, count].map(u32::to_le_bytes).concat();
            [&numbers, bytes].concat()
        };
        let good = step(1, 2, 2, &[9]);
        assert_eq!(apply(&like, &good, 3), Ok(vec![9, 3, 4]));
        assert_eq!(apply(&like, &[], 0), Ok(Vec::new()));
        for (splice, len) in [
            (good.clone(), 2),
            (good.clone(), 4),
            (good.clone(), 0),
            (good[..5].to_vec(), 3),
            (good[..12].to_vec(), 3),
            ([&good[..], &[0]].concat(), 3),
            (step(0, 3, 2, &[]), 2),
            (step(0, u32::MAX, u32::MAX, &[]), 2),
            (step(u32::MAX, 0, 0, &[5]), 2),
            ([step(0, 0, 0, &[]), good.clone()].concat(), 3),
        ] {
            assert!(apply(&like, &splice, len).is_err(), "{splice:?} {len}");
        }
    }
}
