//! pkt-lines: four hexadecimal digits of length, then the bytes.

use std::io::{self, Read, Write};

/// Longest pkt-line with its length, in bytes.
pub(super) const PKT_BYTES_MAX: usize = 65_520;

/// One pkt-line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pkt {
    /// `0000`.
    Flush,
    /// Its bytes, without the length.
    Data(Vec<u8>),
}

/// What the first bytes of a stream tell of its first pkt-line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum First<'a> {
    /// Not all of it is here.
    Partial,
    /// A flush or another line without bytes, or no pkt-line at all.
    Special,
    /// Its bytes, without the length.
    Data(&'a [u8]),
}

/// Looks at the first pkt-line without taking it.
pub(super) fn first(bytes: &[u8]) -> First<'_> {
    let Some(head) = bytes.get(..4) else {
        return First::Partial;
    };
    match length(head) {
        Some(n) if n >= 4 => bytes.get(4..n).map_or(First::Partial, First::Data),
        _ => First::Special,
    }
}

fn length(head: &[u8]) -> Option<usize> {
    let digits = std::str::from_utf8(head).ok()?;
    if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let n = usize::from_str_radix(digits, 16).ok()?;
    (n <= PKT_BYTES_MAX).then_some(n)
}

/// Reads one; `None` at the end of the stream.
pub(super) fn read(from: &mut impl Read) -> io::Result<Option<Pkt>> {
    let mut head = [0; 4];
    match from.read(&mut head)? {
        0 => return Ok(None),
        n => from.read_exact(head.get_mut(n..).unwrap_or_default())?,
    }
    match length(&head) {
        Some(0) => Ok(Some(Pkt::Flush)),
        Some(n) if n >= 4 => {
            let mut data = vec![0; n - 4];
            from.read_exact(&mut data)?;
            Ok(Some(Pkt::Data(data)))
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "not a pkt-line")),
    }
}

/// Writes one.
pub(super) fn write(to: &mut impl Write, data: &[u8]) -> io::Result<()> {
    let n = data.len() + 4;
    if n > PKT_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "too long for a pkt-line",
        ));
    }
    write!(to, "{n:04x}")?;
    to.write_all(data)
}

/// Writes `0000`.
pub(super) fn flush(to: &mut impl Write) -> io::Result<()> {
    to.write_all(b"0000")?;
    to.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_round_trip() {
        let mut bytes = Vec::new();
        write(&mut bytes, b"abc\n").expect("short");
        flush(&mut bytes).expect("memory");
        assert_eq!(bytes, b"0008abc\n0000");
        let mut from = bytes.as_slice();
        assert_eq!(
            read(&mut from).expect("good"),
            Some(Pkt::Data(b"abc\n".to_vec()))
        );
        assert_eq!(read(&mut from).expect("good"), Some(Pkt::Flush));
        assert_eq!(read(&mut from).expect("good"), None);
    }

    #[test]
    fn foreign_bytes_are_errors() {
        for bad in [&b"zzzz"[..], b"0003", b"ffff", b"+123", b"00", b"0009ab"] {
            assert!(read(&mut &*bad).is_err(), "{bad:?}");
        }
        assert!(write(&mut Vec::new(), &[0; PKT_BYTES_MAX]).is_err());
    }

    #[test]
    fn the_first_line_is_seen_when_it_is_all_here() {
        assert_eq!(first(b"00"), First::Partial);
        assert_eq!(first(b"0008ab"), First::Partial);
        assert_eq!(first(b"0006abcd"), First::Data(b"ab"));
        assert_eq!(first(b"0000"), First::Special);
        assert_eq!(first(b"PACK"), First::Special);
    }
}
