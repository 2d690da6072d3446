//! What goes between nodes about who may let go of a copy.
//!
//! A request is one frame on a stream of its own, `length u32 le | kind | postcard`; what is
//! answered ends with the stream.
//!
//! | kind | asks | answer |
//! |---|---|---|
//! | 6 | a promise, whether an attempt is on, what is here; or tells that an attempt is over: volume, head of the manifest, attempt, what | [`YES`] or [`NO`]; to [`What::Tell`] a [`Told`] |
//!
//! Invariant: foreign bytes give an error or a value within the bounds here, never a panic, and
//! reserve no memory that they do not fill.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::base::id::VolumeName;
use crate::base::limit::VOLUME_NAME_BYTES_MAX;

/// Kind of a request about a copy.
pub const KIND_COPY: u8 = 6;
/// Longest request behind its length: the kind, the name with its length, the head, the attempt,
/// what.
pub const REQUEST_BYTES_MAX: usize = 1 + (1 + VOLUME_NAME_BYTES_MAX) + 20 + 10 + 1;
/// Longest [`Told`].
pub const TOLD_BYTES_MAX: usize = 1 + 10 + 10;

/// An answer: it is promised; it is heard that the attempt is over; it is on.
pub const YES: u8 = 1;
/// An answer: it is not.
pub const NO: u8 = 0;

/// Bytes that are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not {0}")]
pub struct BadWire(&'static str);

/// A request about a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Of which volume.
    pub volume: VolumeName,
    /// Of the file whose manifest has this head.
    pub head: [u8; 20],
    /// For which attempt: of who asks, but for [`What::Inquire`] of who is asked. To
    /// [`What::Tell`] it is nothing.
    pub attempt: u64,
    /// What.
    pub what: What,
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// A promise to keep the copy.
    Promise,
    /// Nothing: the attempt is over.
    Release,
    /// Whether the attempt is on.
    Inquire,
    /// What of the file is there.
    Tell,
}

impl Ask {
    /// The frame, with its length.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Postcard fails on types without a length only; ours have one.
        let body = postcard::to_stdvec(self).unwrap_or_default();
        let len = u32::try_from(body.len() + 1).unwrap_or(u32::MAX);
        let mut out = len.to_le_bytes().to_vec();
        out.push(KIND_COPY);
        out.extend_from_slice(&body);
        out
    }

    /// What is behind the length.
    ///
    /// # Errors
    /// When it is no request about a copy.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadWire> {
        if bytes.len() > REQUEST_BYTES_MAX {
            return Err(BadWire("a request about a copy: it is too long"));
        }
        match bytes.split_first() {
            Some((&KIND_COPY, body)) => whole(body, "a request about a copy"),
            _ => Err(BadWire("a request of a known kind")),
        }
    }
}

/// An answer of one byte, as it is sent.
#[must_use]
pub fn encode_answer(yes: bool) -> [u8; 1] {
    [if yes { YES } else { NO }]
}

/// What an answer of one byte says.
///
/// # Errors
/// When it is not one.
pub fn decode_answer(bytes: &[u8]) -> Result<bool, BadWire> {
    match bytes {
        [YES] => Ok(true),
        [NO] => Ok(false),
        _ => Err(BadWire("a yes or a no")),
    }
}

/// What a node has of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Whether its copy counts as one.
    pub keeps: bool,
    /// Bytes of the file.
    pub len: u64,
    /// Bytes of it that are here.
    pub here: u64,
}

impl Told {
    /// As it is sent.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).unwrap_or_default()
    }

    /// What was answered.
    ///
    /// # Errors
    /// When it is not that, or more is there than the file has.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadWire> {
        if bytes.len() > TOLD_BYTES_MAX {
            return Err(BadWire("what is there of a file: it is too long"));
        }
        let told: Self = whole(bytes, "what is there of a file")?;
        if told.here > told.len {
            return Err(BadWire("what is there of a file: it is more than all"));
        }
        Ok(told)
    }
}

fn whole<T: DeserializeOwned>(body: &[u8], what: &'static str) -> Result<T, BadWire> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        _ => Err(BadWire(what)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [What; 4] = [What::Promise, What::Release, What::Inquire, What::Tell];

    fn ask(volume: &str, attempt: u64, what: What) -> Ask {
        Ask {
            volume: volume.parse().unwrap(),
            head: [7; 20],
            attempt,
            what,
        }
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Ask::decode(&bytes);
            let _ = decode_answer(&bytes);
            if let Ok(told) = Told::decode(&bytes) {
                prop_assert!(told.here <= told.len);
            }
            if let Some(kind) = bytes.first_mut() {
                *kind = KIND_COPY;
            }
            let _ = Ask::decode(&bytes);
        }

        #[test]
        fn damaged_requests_never_panic(at in 0usize..60, flip in any::<u8>(), cut in 0usize..60) {
            for what in ALL {
                let mut bytes = ask("cell", u64::MAX / 3, what).encode().split_off(4);
                let n = bytes.len();
                bytes[at % n] ^= flip;
                bytes.truncate(n - cut % n);
                let _ = Ask::decode(&bytes);
            }
        }

        #[test]
        fn what_is_said_round_trips(
            volume in "[a-z]{1,100}", head in any::<[u8; 20]>(), attempt in any::<u64>(), what in 0usize..4,
            keeps in any::<bool>(), len in any::<u64>(), here in any::<u64>(),
        ) {
            let ask = Ask { head, ..ask(&volume, attempt, ALL[what]) };
            let bytes = ask.encode();
            let (first, body) = bytes.split_at(4);
            prop_assert_eq!(first, u32::try_from(body.len()).unwrap().to_le_bytes());
            prop_assert_eq!(Ask::decode(body), Ok(ask));
            let told = Told { keeps, len, here: here.min(len) };
            prop_assert_eq!(Told::decode(&told.encode()), Ok(told));
            prop_assert_eq!(decode_answer(&encode_answer(keeps)), Ok(keeps));
        }
    }

    #[test]
    fn the_longest_are_within_their_bounds_and_no_longer_ones_are_taken() {
        let longest = ask(&"v".repeat(VOLUME_NAME_BYTES_MAX), u64::MAX, What::Tell);
        let mut bytes = longest.encode().split_off(4);
        assert_eq!(bytes.len(), REQUEST_BYTES_MAX);
        assert_eq!(Ask::decode(&bytes), Ok(longest));
        bytes.push(0);
        assert!(Ask::decode(&bytes).is_err());
        let told = Told {
            keeps: true,
            len: u64::MAX,
            here: u64::MAX,
        };
        let mut bytes = told.encode();
        assert_eq!(bytes.len(), TOLD_BYTES_MAX);
        assert_eq!(Told::decode(&bytes), Ok(told));
        bytes.push(0);
        assert!(Told::decode(&bytes).is_err());
    }

    #[test]
    fn what_is_something_else_is_refused() {
        let good = ask("cell", 5, What::Promise).encode().split_off(4);
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            Ask::decode(&bytes)
        };
        assert!(with(0, 5).is_err(), "another kind");
        assert!(with(good.len() - 1, 4).is_err(), "another question");
        assert!(with(2, b'/').is_err(), "no volume's name");
        let longer = [good.as_slice(), &[0]].concat();
        assert!(Ask::decode(&longer).is_err());
        assert!(Ask::decode(&good[..good.len() - 1]).is_err());
        assert!(Ask::decode(&[]).is_err());
        for bytes in [&[][..], &[2], &[1, 1]] {
            assert!(decode_answer(bytes).is_err(), "{bytes:?}");
        }
        let more = Told {
            keeps: true,
            len: 9,
            here: 10,
        };
        assert!(Told::decode(&more.encode()).is_err());
        assert!(Told::decode(&[2, 9, 9]).is_err());
        assert!(Told::decode(&[1, 9, 9, 0]).is_err());
    }
}
