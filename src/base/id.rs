//! Identities: nodes, branches, files, volumes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::limit;

/// A git object id (SHA-1, collision-checked by git and gix alike).
pub type Oid = gix::ObjectId;

/// A node: its ed25519 public key. Never an address, never a host name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub [u8; 32]);

impl NodeId {
    /// The first ten hex digits: enough to tell the nodes of a cell apart on a screen.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string().chars().take(10).collect()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl FromStr for NodeId {
    type Err = BadId;

    fn from_str(s: &str) -> Result<Self, BadId> {
        let bytes = data_encoding::HEXLOWER
            .decode(s.to_ascii_lowercase().as_bytes())
            .map_err(|_| BadId("a node id", s.to_owned()))?;
        let key = <[u8; 32]>::try_from(bytes).map_err(|_| BadId("a node id", s.to_owned()))?;
        Ok(Self(key))
    }
}

/// Text that is not the id it should be.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{1:?} is not {0}")]
pub struct BadId(pub &'static str, pub String);

/// One linear chain of commits by one node: drawn at random, extended by nobody else.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug, Default,
)]
pub struct BranchId(pub u64);

impl fmt::Display for BranchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A file or directory, for life: kept through renames and edits, never used again.
///
/// `n` counts the files born on a branch, so that ids born together sort together; files
/// that came by stock git have a hash of their path in both halves.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug, Default,
)]
pub struct FileId {
    /// The branch that minted the id, or half of a hash.
    pub branch: u64,
    /// Place among the branch's births, or the other half of the hash.
    pub n: u64,
}

impl FileId {
    /// The root directory of every volume.
    pub const ROOT: Self = Self { branch: 0, n: 0 };

    /// The id as one number, in sort order.
    #[must_use]
    pub fn as_u128(self) -> u128 {
        (u128::from(self.branch) << 64) | u128::from(self.n)
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}.{:x}", self.branch, self.n)
    }
}

/// The name of a volume: what stands before `.git` in its URL.
///
/// ASCII letters, digits, `.`, `_` and `-`; no leading dot or dash; no `.git` or `.lock` end.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeName(String);

impl VolumeName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<VolumeName> for String {
    fn from(v: VolumeName) -> Self {
        v.0
    }
}

impl TryFrom<String> for VolumeName {
    type Error = BadId;

    fn try_from(s: String) -> Result<Self, BadId> {
        let ok = !s.is_empty()
            && s.len() <= limit::VOLUME_NAME_BYTES_MAX
            && s.bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
            && !s.starts_with(['.', '-'])
            && !s.contains("..")
            && ![".git", ".lock", "."].iter().any(|e| s.ends_with(e));
        if ok {
            Ok(Self(s))
        } else {
            Err(BadId(
                "a volume name (letters, digits, '.', '_', '-'; at most 100)",
                s,
            ))
        }
    }
}

impl FromStr for VolumeName {
    type Err = BadId;

    fn from_str(s: &str) -> Result<Self, BadId> {
        Self::try_from(s.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volume_names_are_parsed_at_the_edge() {
        for good in ["cell", "my-data", "a.b_c", "X1"] {
            assert!(good.parse::<VolumeName>().is_ok(), "{good}");
        }
        let long = "a".repeat(101);
        for bad in [
            "", ".", "..", "a/b", ".git", "x.git", "-x", "a..b", "x.lock", "é", &long,
        ] {
            assert!(bad.parse::<VolumeName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn node_ids_round_trip() {
        let id = NodeId([7; 32]);
        assert_eq!(id.to_string().parse::<NodeId>().ok(), Some(id));
        assert!("zz".parse::<NodeId>().is_err());
    }
}
