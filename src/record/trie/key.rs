//! Keys: 192 bits, read as 64 octal digits.

use crate::base::id::FileId;
use crate::base::name::EntryName;

/// Digits of a key.
pub const DIGITS: usize = 64;
/// Digits that all names of one directory share: a zero bit and the 128 bits of its id.
pub const PARENT_DIGITS: usize = 43;

/// Where an entry is in its trie. Its order is the order of its digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key([u8; 24]);

impl Key {
    /// The place of a record: a zero bit, the id, zeros. The last six bits of the id are two
    /// whole digits, so that an aligned run of 64 ids shares a leaf.
    #[must_use]
    pub fn of_id(id: FileId) -> Self {
        Self::with_tail(id, 0)
    }

    /// The place of a name: a zero bit, the id of the directory, 63 bits of the name's hash.
    #[must_use]
    pub fn of_name(parent: FileId, name: &EntryName) -> Self {
        let hash = blake3::hash(name.as_bytes());
        let mut head = [0; 8];
        for (to, from) in head.iter_mut().zip(hash.as_bytes()) {
            *to = *from;
        }
        Self::with_tail(parent, u64::from_be_bytes(head) >> 1)
    }

    fn with_tail(id: FileId, tail63: u64) -> Self {
        let id = id.as_u128();
        let low = if id & 1 == 1 { 1 << 63 } else { 0 };
        let mut bytes = [0; 24];
        let (head, tail) = bytes.split_at_mut(16);
        head.copy_from_slice(&(id >> 1).to_be_bytes());
        tail.copy_from_slice(&(low | tail63).to_be_bytes());
        Self(bytes)
    }

    /// The `i`th digit, 0 to 7; 0 past the end.
    #[must_use]
    pub fn digit(&self, i: usize) -> u8 {
        let bit = i * 3;
        let byte = |n: usize| u16::from(self.0.get(n).copied().unwrap_or(0));
        let pair = (byte(bit / 8) << 8) | byte(bit / 8 + 1);
        u8::try_from((pair >> (13 - bit % 8)) & 7).unwrap_or(0)
    }

    /// How many digits from `from` on are equal in both keys, up to the end.
    #[must_use]
    pub fn common(&self, other: &Self, from: usize) -> usize {
        (from..DIGITS)
            .take_while(|i| self.digit(*i) == other.digit(*i))
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_spell_the_bits() {
        let key = Key::of_id(FileId {
            branch: u64::MAX,
            n: 0b101_001,
        });
        let digits: Vec<u8> = (0..DIGITS).map(|i| key.digit(i)).collect();
        assert_eq!(digits[..3], [3, 7, 7]);
        assert_eq!(digits[41..44], [5, 1, 0]);
        assert_eq!(key.digit(99), 0);
    }

    #[test]
    fn names_of_one_directory_share_their_prefix() {
        let dir = FileId { branch: 9, n: 7 };
        let a = Key::of_name(dir, &EntryName::new("a").expect("valid"));
        let b = Key::of_name(dir, &EntryName::new("b").expect("valid"));
        assert!(a.common(&b, 0) >= PARENT_DIGITS && a != b);
        assert!(Key::of_id(dir).common(&a, 0) >= PARENT_DIGITS);
    }
}
