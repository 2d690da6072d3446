//! Merge drivers: how two versions of one file's bytes become one.
//!
//! A driver is chosen by path from `.gitattributes` (`merge=NAME`). Invariant: what comes out
//! follows from the bytes alone, whatever bytes come in: no driver reads a clock, a setting or
//! another file, none panics, and each result holds what both sides changed, or there is no
//! result and both versions stay. No threads.

pub mod attributes;
mod entries;
mod json;
mod lines;
#[cfg(test)]
mod tests;
mod toml;
mod value;
mod yaml;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Larger files are not merged.
pub const BYTES_MAX: usize = 1 << 20;
/// A NUL byte this near to the start means that a file is not text, as in git.
const SNIFF_BYTES: usize = 8000;

/// What is done with versions that were written without knowing of each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Driver {
    /// Lines that only one side changed are taken from it; if both changed the same ones, all
    /// versions stay, the latest under the name and the others as copies.
    #[default]
    Text,
    /// As text; where both changed the same lines, the lines of both, the earlier side's first.
    Union,
    /// The latest version alone. The others are in history only.
    Lww,
    /// No merge: all versions stay.
    Binary,
    /// As text, and if that fails by keys of objects.
    Json,
    /// As text, and if that fails by keys and tables.
    Toml,
    /// As text, and if that fails by keys of block mappings.
    Yaml,
    /// A name that means nothing here: no merge, which is the safe outcome.
    Unknown(String),
}

/// Names that `merge=` may have.
pub const NAMES: [&str; 7] = ["text", "union", "lww", "binary", "json", "toml", "yaml"];

impl Driver {
    /// The driver of that name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        match name {
            "text" => Self::Text,
            "union" => Self::Union,
            "lww" => Self::Lww,
            "binary" => Self::Binary,
            "json" => Self::Json,
            "toml" => Self::Toml,
            "yaml" => Self::Yaml,
            other => Self::Unknown(other.to_owned()),
        }
    }

    /// Both sides' changes of the base in one; `a` is the earlier side. `None`: they cannot be
    /// had in one. [`Driver::Lww`] is not decided here, for it has no base.
    #[must_use]
    pub fn merge(&self, a: &[u8], base: &[u8], b: &[u8]) -> Option<Vec<u8>> {
        if ![a, base, b].into_iter().all(is_text) {
            return None;
        }
        // A bug in a parser must not keep every node of a cell from showing anything: it counts
        // as a conflict, on every node alike.
        let merged = catch_unwind(AssertUnwindSafe(|| match self {
            Self::Text => lines::merge(a, base, b),
            Self::Union => lines::union(a, base, b),
            Self::Json => lines::merge(a, base, b)
                .filter(|m| json::is_valid(m))
                .or_else(|| json::merge(a, base, b)),
            Self::Toml => lines::merge(a, base, b)
                .filter(|m| toml::is_valid(m))
                .or_else(|| entries::merge::<toml::Toml>(a, base, b)),
            Self::Yaml => lines::merge(a, base, b)
                .filter(|m| yaml::is_valid(m))
                .or_else(|| entries::merge::<yaml::Yaml>(a, base, b)),
            Self::Lww | Self::Binary | Self::Unknown(_) => None,
        }));
        merged.ok().flatten()
    }
}

fn is_text(bytes: &[u8]) -> bool {
    bytes.len() <= BYTES_MAX && !bytes.iter().take(SNIFF_BYTES).any(|b| *b == 0)
}
