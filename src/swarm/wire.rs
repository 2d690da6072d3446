//! What goes between nodes about large files.
//!
//! A request is one frame on a stream of its own, `length u32 le | kind | postcard`; what is
//! answered ends with the stream.
//!
//! | kind | asks | answer |
//! |---|---|---|
//! | 3 | what is held of files: volume, heads of manifests | for each, a [`Holding`] |
//! | 4 | a piece: volume, class, name, names of pieces that are like it | a byte; if it is [`GIVEN`], the bytes of the piece; if it is [`SPLICED`], a [`SplicedHead`] and a splice |
//!
//! 5 is what the node asks by ids of bytes.
//!
//! Pieces are asked for by their names, so that who answers needs no list of them: 32 bytes for a
//! piece of at least 64 KiB. What is held is told by numbers: a bit for each piece, or the lengths
//! of stretches, whichever is less.
//!
//! Who asks has the pieces that he says are like it. Who gives may have them too, and then tells
//! the piece by them ([`crate::chunk::splice`]) if that takes at most half as many bytes.
//!
//! Invariant: foreign bytes give an error or a value within the bounds here, never a panic, and
//! reserve no memory that they do not fill.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::pieces::{Holding, Pieces};
use super::{ASK_FILES_MAX, Class};
use crate::base::id::VolumeName;
use crate::chunk::ChunkId;
use crate::chunk::splice::{self, LIKES_MAX};

/// Kind of a request for what is held.
pub const KIND_HELD: u8 = 3;
/// Kind of a request for a piece.
pub const KIND_PIECE: u8 = 4;
/// Longest request behind its length.
pub const REQUEST_BYTES_MAX: usize = 4096;

/// First byte of an answer: the piece follows.
pub const GIVEN: u8 = 1;
/// First byte of an answer: it is not here.
pub const ABSENT: u8 = 0;
/// First byte of an answer: too much is asked for already.
pub const BUSY: u8 = 2;

/// First byte of an answer: how the piece is made of those that are like it follows.
pub const SPLICED: u8 = 3;

const NOTHING: u8 = 0;
const WHOLE: u8 = 1;
const STRETCHES: u8 = 2;
const BITS: u8 = 3;

/// Bytes that are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not {0}")]
pub struct BadWire(&'static str);

/// What is held of files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskHeld {
    /// Of which volume.
    pub volume: VolumeName,
    /// Of the files whose manifests have these heads.
    pub heads: Vec<[u8; 20]>,
}

/// A piece.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskPiece {
    /// Of which volume.
    pub volume: VolumeName,
    /// How urgent it is: 0 is most.
    class: u8,
    name: [u8; 32],
    /// Pieces that the asker holds and takes for like it.
    like: Vec<[u8; 32]>,
}

impl AskPiece {
    /// A request for a piece.
    #[must_use]
    pub fn new(volume: VolumeName, class: Class, piece: ChunkId) -> Self {
        let class = match class {
            Class::Urgent => 0,
            Class::Ahead => 1,
            Class::Background => 2,
        };
        Self {
            volume,
            class,
            name: piece.0,
            like: Vec::new(),
        }
    }

    /// The same, of somebody who holds pieces like it; [`LIKES_MAX`] of them count.
    #[must_use]
    pub fn like(mut self, pieces: impl IntoIterator<Item = ChunkId>) -> Self {
        self.like = pieces.into_iter().map(|p| p.0).take(LIKES_MAX).collect();
        self
    }

    /// How urgent it is.
    #[must_use]
    pub fn class(&self) -> Class {
        match self.class {
            0 => Class::Urgent,
            1 => Class::Ahead,
            _ => Class::Background,
        }
    }

    /// Which.
    #[must_use]
    pub fn piece(&self) -> ChunkId {
        ChunkId(self.name)
    }

    /// What the asker holds that is like it.
    pub fn likes(&self) -> impl Iterator<Item = ChunkId> + use<> {
        self.like.clone().into_iter().map(ChunkId)
    }
}

/// Comes before a splice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SplicedHead {
    /// A bit for each piece that the asker named: whether the splice takes from it. It takes from
    /// those as if they were one, in the order in which they were named.
    pub used: u8,
    /// The length of the splice.
    pub len: u32,
}

impl SplicedHead {
    /// How long it is.
    pub const BYTES: usize = 5;

    /// As it is sent.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let [a, b, c, d] = self.len.to_le_bytes();
        [self.used, a, b, c, d]
    }

    /// The head of an answer to a request for a piece of this length by so many that are like it.
    ///
    /// # Errors
    /// When the splice would be of others, or too long to be worth it.
    pub fn decode(bytes: [u8; Self::BYTES], likes: usize, piece_len: u32) -> Result<Self, BadWire> {
        let [used, a, b, c, d] = bytes;
        let len = u32::from_le_bytes([a, b, c, d]);
        if u32::from(used) >> likes.min(8) != 0 {
            return Err(BadWire("a splice of what was named"));
        }
        if len as usize > splice::bytes_max(piece_len as usize) {
            return Err(BadWire("a splice: it is too long"));
        }
        Ok(Self { used, len })
    }
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// What is held.
    Held(AskHeld),
    /// A piece.
    Piece(AskPiece),
}

impl Request {
    /// The frame, with its length.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, body) = match self {
            Self::Held(r) => (KIND_HELD, postcard::to_stdvec(r)),
            Self::Piece(r) => (KIND_PIECE, postcard::to_stdvec(r)),
        };
        // Postcard fails on types without a length only; ours have one.
        let body = body.unwrap_or_default();
        let len = u32::try_from(body.len() + 1).unwrap_or(u32::MAX);
        let mut out = len.to_le_bytes().to_vec();
        out.push(kind);
        out.extend_from_slice(&body);
        out
    }

    /// What is behind the length.
    ///
    /// # Errors
    /// When it is no request.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadWire> {
        if bytes.len() > REQUEST_BYTES_MAX {
            return Err(BadWire("a request: it is too long"));
        }
        match bytes.split_first() {
            Some((&KIND_HELD, body)) => {
                let r: AskHeld = whole(body)?;
                if r.heads.len() > ASK_FILES_MAX {
                    return Err(BadWire("a request: it is about too many files"));
                }
                Ok(Self::Held(r))
            }
            Some((&KIND_PIECE, body)) => {
                let r: AskPiece = whole(body)?;
                if r.like.len() > LIKES_MAX {
                    return Err(BadWire("a request: too many pieces are like it"));
                }
                Ok(Self::Piece(r))
            }
            _ => Err(BadWire("a request of a known kind")),
        }
    }
}

fn whole<T: DeserializeOwned>(body: &[u8]) -> Result<T, BadWire> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        _ => Err(BadWire("the body of a request")),
    }
}

/// Most bytes that tell what is held of a file of so many pieces.
#[must_use]
pub fn holding_bytes_max(pieces: u32) -> usize {
    1 + (pieces as usize).div_ceil(8)
}

fn put_number(out: &mut Vec<u8>, mut n: u32) {
    while n >= 0x80 {
        out.push(u8::try_from(n & 0x7f).unwrap_or(0) | 0x80);
        n >>= 7;
    }
    out.push(u8::try_from(n).unwrap_or(0));
}

fn number(bytes: &mut &[u8]) -> Result<u32, BadWire> {
    const BAD: BadWire = BadWire("a number");
    let mut out = 0u64;
    for shift in [0, 7, 14, 21, 28] {
        let (first, rest) = bytes.split_first().ok_or(BAD)?;
        *bytes = rest;
        out |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return u32::try_from(out).map_err(|_| BAD);
        }
    }
    Err(BAD)
}

/// Tells what is held of a file.
pub fn put_holding(out: &mut Vec<u8>, what: &Holding) {
    let pieces = match what {
        Holding::Nothing => return out.push(NOTHING),
        Holding::Whole => return out.push(WHOLE),
        Holding::Some(pieces) => pieces,
    };
    let bits = (pieces.len() as usize).div_ceil(8);
    let mut stretches = Vec::new();
    let mut count = 0;
    let mut end = 0;
    for (first, n) in pieces.runs() {
        put_number(&mut stretches, first - end);
        put_number(&mut stretches, n);
        (end, count) = (first + n, count + 1);
        if stretches.len() >= bits {
            break;
        }
    }
    let mut head = Vec::new();
    put_number(&mut head, count);
    if head.len() + stretches.len() < bits {
        out.push(STRETCHES);
        out.extend_from_slice(&head);
        out.extend_from_slice(&stretches);
    } else {
        out.push(BITS);
        let byte = |n: usize| pieces.word(n / 8).to_le_bytes()[n % 8];
        out.extend((0..bits).map(byte));
    }
}

/// What is held of a file of so many pieces, from the front of these bytes.
///
/// # Errors
/// When they do not say it.
pub fn take_holding(bytes: &mut &[u8], len: u32) -> Result<Holding, BadWire> {
    const BAD: BadWire = BadWire("what is held of a file");
    let (kind, rest) = bytes.split_first().ok_or(BAD)?;
    *bytes = rest;
    let mut pieces = Pieces::none(len);
    match *kind {
        NOTHING => return Ok(Holding::Nothing),
        WHOLE => return Ok(Holding::Whole),
        STRETCHES => {
            let mut end = 0u32;
            for _ in 0..number(bytes)? {
                let first = end.checked_add(number(bytes)?).ok_or(BAD)?;
                end = first.checked_add(number(bytes)?).ok_or(BAD)?;
                if end > len || end == first {
                    return Err(BAD);
                }
                (first..end).for_each(|n| {
                    pieces.insert(n);
                });
            }
        }
        BITS => {
            let n = (len as usize).div_ceil(8);
            let (bits, rest) = bytes.split_at_checked(n).ok_or(BAD)?;
            *bytes = rest;
            for (at, byte) in (0u32..).step_by(8).zip(bits) {
                for bit in (0..8).filter(|b| byte & (1 << b) != 0) {
                    if at + bit >= len {
                        return Err(BAD);
                    }
                    pieces.insert(at + bit);
                }
            }
        }
        _ => return Err(BAD),
    }
    Ok(Holding::of(pieces))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn volume() -> VolumeName {
        "cell".parse().unwrap()
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), len in 0u32..2000) {
            let _ = Request::decode(&bytes);
            let mut rest = bytes.as_slice();
            if let Ok(Holding::Some(p)) = take_holding(&mut rest, len) {
                prop_assert!(p.len() == len && p.next(0).is_some());
            }
        }

        #[test]
        fn damaged_requests_never_panic(at in 0usize..60, flip in any::<u8>(), cut in 0usize..60) {
            let plain = AskPiece::new(volume(), Class::Ahead, ChunkId([7; 32]));
            for r in [
                Request::Piece(plain.clone().like([ChunkId([5; 32]), ChunkId([6; 32])])),
                Request::Piece(plain),
                Request::Held(AskHeld { volume: volume(), heads: vec![[3; 20]; 2] }),
            ] {
                let mut bytes = r.encode().split_off(4);
                let n = bytes.len();
                bytes[at % n] ^= flip;
                bytes.truncate(n - cut % n);
                let _ = Request::decode(&bytes);
            }
        }

        #[test]
        fn foreign_heads_of_splices_are_within_their_bounds(
            bytes in any::<[u8; SplicedHead::BYTES]>(), likes in 0usize..10, len in any::<u32>(),
        ) {
            if let Ok(head) = SplicedHead::decode(bytes, likes, len) {
                prop_assert!(head.len <= len / 2);
                prop_assert!((likes..8).all(|n| head.used >> n & 1 == 0));
                prop_assert_eq!(head.encode(), bytes);
            }
        }

        #[test]
        fn what_is_held_round_trips_and_is_short(len in 1u32..3000, runs in proptest::collection::vec((0u32..3000, 0u32..400), 0..20)) {
            let mut pieces = Pieces::none(len);
            for (first, n) in &runs {
                for p in *first..first + n {
                    pieces.insert(p);
                }
            }
            let what = Holding::of(pieces.clone());
            let mut bytes = vec![9, 9];
            put_holding(&mut bytes, &what);
            prop_assert!(bytes.len() - 2 <= holding_bytes_max(len));
            prop_assert!(bytes.len() - 2 <= 3 + 4 * pieces.runs().count());
            bytes.push(77);
            let mut rest = &bytes[2..];
            prop_assert_eq!(take_holding(&mut rest, len), Ok(what));
            prop_assert_eq!(rest, [77]);
        }
    }

    #[test]
    fn requests_round_trip_and_are_small() {
        let piece = AskPiece::new(volume(), Class::Background, ChunkId([8; 32]));
        assert_eq!(
            (piece.class(), piece.piece()),
            (Class::Background, ChunkId([8; 32]))
        );
        let like = |n| (0..n).map(|n| ChunkId([n; 32]));
        let spliced = piece.clone().like(like(3));
        assert!(spliced.likes().eq(like(3)));
        // More than count are not sent.
        let most = piece.clone().like(like(20));
        assert_eq!(most.likes().count(), LIKES_MAX);
        for r in [
            Request::Piece(piece),
            Request::Piece(spliced),
            Request::Piece(most),
            Request::Held(AskHeld {
                volume: volume(),
                heads: vec![[1; 20]; ASK_FILES_MAX],
            }),
        ] {
            let bytes = r.encode();
            assert!(bytes.len() <= REQUEST_BYTES_MAX);
            let (len, body) = bytes.split_at(4);
            assert_eq!(len, u32::try_from(body.len()).unwrap().to_le_bytes());
            assert_eq!(Request::decode(body), Ok(r));
        }
        // With the byte before it and the one of the answer: 1.001 of the smallest pieces.
        let piece = AskPiece::new(volume(), Class::Urgent, ChunkId([8; 32]));
        assert!((Request::Piece(piece).encode().len() + 2) * 1000 <= 64 << 10);
    }

    #[test]
    fn what_is_out_of_bounds_is_refused() {
        let held = |n| AskHeld {
            volume: volume(),
            heads: vec![[1; 20]; n],
        };
        let many = Request::Held(held(ASK_FILES_MAX + 1)).encode().split_off(4);
        assert!(Request::decode(&many).is_err());
        assert!(Request::decode(&vec![KIND_HELD; REQUEST_BYTES_MAX + 1]).is_err());
        let mut piece = AskPiece::new(volume(), Class::Ahead, ChunkId([8; 32]));
        for (likes, is_good) in [(LIKES_MAX, true), (LIKES_MAX + 1, false)] {
            piece.like = vec![[1; 32]; likes];
            let bytes = Request::Piece(piece.clone()).encode().split_off(4);
            assert_eq!(Request::decode(&bytes).is_ok(), is_good);
        }
        let head = |used, len: u32| SplicedHead { used, len }.encode();
        assert!(SplicedHead::decode(head(0b11, 50), 2, 100).is_ok());
        assert!(SplicedHead::decode(head(0b100, 50), 2, 100).is_err());
        assert!(SplicedHead::decode(head(0b11, 51), 2, 100).is_err());
        for (bytes, len) in [
            (&[STRETCHES, 1, 0, 9][..], 8),
            (&[STRETCHES, 2, 0, 1, 0, 0], 8),
            (&[STRETCHES, 1, 0xff, 0xff, 0xff, 0xff, 0x0f, 2], 8),
            (&[STRETCHES, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], 8),
            (&[STRETCHES, 2, 0, 1], 8),
            (&[BITS, 0xff], 7),
            (&[BITS, 0xff], 9),
            (&[4], 9),
            (&[], 9),
        ] {
            assert!(take_holding(&mut &*bytes, len).is_err(), "{bytes:?}");
        }
        let none = take_holding(&mut &[STRETCHES, 0][..], 8);
        assert_eq!(none, Ok(Holding::Nothing));
    }
}
