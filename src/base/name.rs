//! Names of directory entries.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::limit::NAME_BYTES_MAX;

/// The name at the top of every mounted folder under which the past and the conflicts are. No
/// file can have it there.
pub const OWN_NAME: &[u8] = b".cellfs";

/// One valid name in a directory: 1 to 255 bytes, any but `/` and NUL, not `.` or `..`.
///
/// The bytes need not be UTF-8.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct EntryName(Box<[u8]>);

/// Bytes that cannot name a directory entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Longer than 255 bytes.
    #[error("a name has at most 255 bytes, this one has {0}")]
    TooLong(usize),
    /// Empty, `.`, `..`, or with a `/` or a NUL in it.
    #[error("{0:?} cannot be the name of a file")]
    Forbidden(String),
}

impl EntryName {
    /// Parses the bytes of a name.
    ///
    /// # Errors
    /// [`BadName`] says what is wrong with the bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, BadName> {
        let bytes = bytes.into();
        if bytes.len() > NAME_BYTES_MAX {
            return Err(BadName::TooLong(bytes.len()));
        }
        let bad = matches!(bytes.as_slice(), b"" | b"." | b"..")
            || bytes.iter().any(|b| matches!(b, 0 | b'/'));
        if bad {
            return Err(BadName::Forbidden(
                String::from_utf8_lossy(&bytes).into_owned(),
            ));
        }
        Ok(Self(bytes.into_boxed_slice()))
    }

    /// The bytes of the name.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<Vec<u8>> for EntryName {
    type Error = BadName;

    fn try_from(v: Vec<u8>) -> Result<Self, BadName> {
        Self::new(v)
    }
}

impl From<EntryName> for Vec<u8> {
    fn from(n: EntryName) -> Self {
        n.0.into_vec()
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_linux_allows() {
        for good in [&b"a"[..], b"\xff\xfe", b"...", b"a\nb", &[b'x'; 255]] {
            assert!(EntryName::new(good).is_ok());
        }
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0", &[b'x'; 256]] {
            assert!(EntryName::new(bad).is_err());
        }
    }
}
