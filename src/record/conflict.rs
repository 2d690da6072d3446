//! Names of conflict copies: `stem.conflict-<hex>.ext`.
//!
//! Invariant: the name follows from the plain name and the hex digits alone, a copy of a copy
//! gets no second suffix, and the result is a valid name.

use crate::base::id::FileId;
use crate::base::limit::NAME_BYTES_MAX;
use crate::base::name::EntryName;

const MARK: &[u8] = b".conflict-";
/// Hex digits in a copy's name, unless that name is taken.
pub const HEX: usize = 8;
/// An extension that is longer counts as part of the stem.
const EXTENSION_MAX: usize = 32;

/// The name of a copy of what could not have the name `of`.
#[must_use]
pub fn name(of: &EntryName, hex: &str) -> EntryName {
    let plain = parse(of).map_or_else(|| of.as_bytes().to_vec(), |(plain, _)| plain);
    let dot = plain.iter().rposition(|b| *b == b'.').filter(|at| {
        let extension = plain.len() - at - 1;
        *at > 0 && (1..=EXTENSION_MAX).contains(&extension)
    });
    let (stem, extension) = plain.split_at(dot.unwrap_or(plain.len()));
    let room = NAME_BYTES_MAX.saturating_sub(MARK.len() + hex.len() + extension.len());
    let bytes = [shorten(stem, room), MARK, hex.as_bytes(), extension].concat();
    EntryName::new(bytes).unwrap_or_else(|_| of.clone())
}

/// Cuts before a character of UTF-8, never within.
fn shorten(stem: &[u8], room: usize) -> &[u8] {
    let mut end = stem.len().min(room);
    while end < stem.len() && end > 0 && stem.get(end).is_some_and(|b| b & 0xC0 == 0x80) {
        end -= 1;
    }
    stem.get(..end).unwrap_or(stem)
}

/// The plain name and the hex digits of a name that looks like a copy's.
#[must_use]
pub fn parse(name: &EntryName) -> Option<(Vec<u8>, String)> {
    let bytes = name.as_bytes();
    let at = bytes.windows(MARK.len()).rposition(|w| w == MARK)?;
    let (stem, rest) = bytes.split_at_checked(at)?;
    let rest = rest.get(MARK.len()..)?;
    let digits = rest
        .iter()
        .take_while(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        .count();
    let (hex, extension) = rest.split_at_checked(digits)?;
    let fits = match extension {
        [] => true,
        [b'.', tail @ ..] => !tail.is_empty() && !tail.contains(&b'.'),
        _ => false,
    };
    if stem.is_empty() || digits < HEX || !fits {
        return None;
    }
    let hex = String::from_utf8(hex.to_vec()).ok()?;
    Some(([stem, extension].concat(), hex))
}

/// Whether a copy's name may stand for a plain name that was cut to make room.
#[must_use]
pub fn may_be_cut(name: &EntryName) -> bool {
    name.as_bytes().len() + 4 > NAME_BYTES_MAX
}

/// The name in the root directory of a file whose place is not known or cannot be had.
#[must_use]
pub fn lost(id: FileId, was: Option<&EntryName>) -> EntryName {
    let hash = blake3::hash(&id.as_u128().to_be_bytes()).to_hex();
    let hex = hash.as_str().get(..HEX).unwrap_or("00000000");
    match was {
        Some(was) => name(was, hex),
        None => EntryName::new(format!("lost.conflict-{hex}"))
            .unwrap_or_else(|_| unreachable!("letters, digits and a dash are a name")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(s: &str) -> EntryName {
        EntryName::new(s).expect("valid")
    }

    #[test]
    fn a_copy_keeps_its_extension_and_gets_one_suffix() {
        let long = format!("{}.txt", "é".repeat(125));
        for (plain, copy) in [
            ("a.txt", "a.conflict-01234567.txt"),
            ("a.tar.gz", "a.tar.conflict-01234567.gz"),
            ("a", "a.conflict-01234567"),
            (".rc", ".rc.conflict-01234567"),
            ("a.", "a..conflict-01234567"),
            ("a.conflict-76543210.txt", "a.conflict-01234567.txt"),
        ] {
            assert_eq!(name(&entry(plain), "01234567"), entry(copy));
        }
        let cut = name(&entry(&long), "01234567");
        assert!(cut.as_bytes().len() <= 255 && may_be_cut(&cut));
        assert!(std::str::from_utf8(cut.as_bytes()).is_ok());
    }

    #[test]
    fn the_plain_name_is_read_from_a_copy() {
        for plain in ["a.txt", "a.tar.gz", "a", ".rc", "a.b.c.d", "a."] {
            let copy = name(&entry(plain), "0123456789");
            let parsed = parse(&copy).expect("a copy");
            assert_eq!(parsed, (plain.as_bytes().to_vec(), "0123456789".into()));
        }
        for other in ["a", "a.conflict-", "a.conflict-123", "a.conflict-01234567x"] {
            assert_eq!(parse(&entry(other)), None, "{other}");
        }
    }

    #[test]
    fn the_lost_have_a_name() {
        assert!(parse(&lost(FileId::ROOT, None)).is_some());
        assert!(parse(&lost(FileId::ROOT, Some(&entry("x.c")))).is_some());
    }
}
