//! Which large files are to be kept here: what was said of paths, and what holds for all others.
//!
//! Of a path and all below it one can say that it is kept here, or that it is not. What was said
//! of the longest path that a file is at or below counts; of a file of which nothing was said
//! `--keep` decides. Invariant: what was said is durable before anybody is told. Threads: any.
//!
//! The file `pins` of a volume is `cellfsP1`, then for each path a `+` or `-`, the path from the
//! root, and a zero byte.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use crate::base::{durable, format};
use crate::config::Keep;
use crate::volume::VolumeResult;
use crate::volume::place::{Places, is_below};

const MAGIC: &[u8; 8] = b"cellfsP1";
const _: () = assert!(MAGIC[7] == b'0' + format::PINS);
/// Paths of which something may be said.
pub(in crate::node) const RULES_MAX: usize = 10_000;
/// The attribute of `.gitattributes` that says for which tags a file is.
const ATTRIBUTE: &str = "keep";

/// What was said of paths of a volume.
#[derive(Debug, Default)]
pub(in crate::node) struct Rules {
    path: PathBuf,
    said: BTreeMap<Vec<u8>, bool>,
}

/// Why a file is kept here or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::node) enum Reason {
    /// It is pinned, or was dropped, at this path.
    Said(Vec<u8>),
    /// It is for this tag of the node.
    Tag(String),
    /// It is for none of the node's tags: what it is for, if for any.
    NoTag(Option<String>),
    /// As `--keep` says.
    Keep(Keep),
}

impl Rules {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(e),
        };
        let said = if bytes.is_empty() {
            Some(BTreeMap::new())
        } else {
            parse(&bytes)
        };
        let said = said.ok_or_else(|| {
            let why = format!("{} is of another version, or damaged", path.display());
            io::Error::other(why)
        })?;
        let path = path.to_owned();
        Ok(Self { path, said })
    }

    /// Whether nothing was said.
    pub(super) fn is_empty(&self) -> bool {
        self.said.is_empty()
    }

    /// Says that a path is kept here, is not, or nothing any more; durable.
    pub(super) fn say(&mut self, path: &[u8], kept: Option<bool>) -> io::Result<()> {
        let mut said = self.said.clone();
        match kept {
            Some(kept) => {
                // What was said below it is of no more use.
                said.retain(|p, _| !is_below(p, path));
                said.insert(path.to_vec(), kept);
            }
            None => drop(said.remove(path)),
        }
        if said == self.said {
            return Ok(());
        }
        if said.len() > RULES_MAX {
            let why = format!("of more than {RULES_MAX} paths nothing can be said");
            return Err(io::Error::other(why));
        }
        let mut bytes = MAGIC.to_vec();
        for (path, kept) in &said {
            bytes.push(if *kept { b'+' } else { b'-' });
            bytes.extend_from_slice(path);
            bytes.push(0);
        }
        durable::replace(&self.path, &bytes, 0o600)?;
        self.said = said;
        Ok(())
    }

    /// What was said of the longest path that this one is at or below.
    fn of(&self, path: &[u8]) -> Option<(&[u8], bool)> {
        let all = self.said.iter().filter(|(above, _)| is_below(path, above));
        let longest = all.max_by_key(|(above, _)| above.len());
        longest.map(|(above, kept)| (above.as_slice(), *kept))
    }

    /// Whether a file at this path is to be kept, and why.
    pub(in crate::node) fn judge(
        &self,
        keep: Keep,
        tags: &BTreeSet<String>,
        path: &[u8],
        places: &mut Places<'_>,
    ) -> VolumeResult<(bool, Reason)> {
        if let Some((above, kept)) = self.of(path) {
            return Ok((kept, Reason::Said(above.to_vec())));
        }
        Ok(match keep {
            Keep::All => (true, Reason::Keep(keep)),
            Keep::Pinned => (false, Reason::Keep(keep)),
            Keep::Tagged => {
                let said = places.attribute(path, ATTRIBUTE)?;
                let ours = said.as_deref().into_iter().flat_map(|s| s.split(','));
                match ours.map(str::trim).find(|t| tags.contains(*t)) {
                    Some(tag) => (true, Reason::Tag(tag.to_owned())),
                    None => (false, Reason::NoTag(said)),
                }
            }
        })
    }
}

fn parse(bytes: &[u8]) -> Option<BTreeMap<Vec<u8>, bool>> {
    let mut rest = bytes.strip_prefix(MAGIC)?;
    let mut said = BTreeMap::new();
    while !rest.is_empty() {
        let end = rest.iter().position(|b| *b == 0)?;
        let (sign, path) = rest.get(..end)?.split_first()?;
        let kept = match sign {
            b'+' => true,
            b'-' => false,
            _ => return None,
        };
        said.insert(path.to_vec(), kept);
        rest = rest.get(end + 1..)?;
    }
    Some(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_path_counts_and_what_was_said_lasts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pins");
        let mut r = Rules::open(&path).unwrap();
        assert!(r.is_empty() && !path.exists());
        r.say(b"media", Some(false)).unwrap();
        r.say(b"media/now", Some(true)).unwrap();
        let r = Rules::open(&path).unwrap();
        for (path, said) in [
            ("media/a", Some(false)),
            ("media/now/b", Some(true)),
            ("media/now", Some(true)),
            ("mediaeval", None),
        ] {
            assert_eq!(r.of(path.as_bytes()).map(|(_, kept)| kept), said, "{path}");
        }
    }

    #[test]
    fn what_is_said_of_a_path_stands_over_what_was_said_below_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pins");
        let mut r = Rules::open(&path).unwrap();
        r.say(b"a/b", Some(true)).unwrap();
        r.say(b"ab", Some(true)).unwrap();
        r.say(b"a", Some(false)).unwrap();
        assert_eq!(r.of(b"a/b/c"), Some((&b"a"[..], false)));
        assert_eq!(r.of(b"ab"), Some((&b"ab"[..], true)));
        r.say(b"a", None).unwrap();
        assert_eq!(Rules::open(&path).unwrap().of(b"a/b/c"), None);
        r.say(b"", Some(true)).unwrap();
        assert_eq!(r.of(b"x"), Some((&b""[..], true)), "the root is above all");
    }

    #[test]
    fn what_is_no_list_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pins");
        for bytes in [&b"cellfsP9"[..], b"cellfsP1*a\0", b"cellfsP1+a", b"x"] {
            std::fs::write(&path, bytes).unwrap();
            assert!(Rules::open(&path).is_err(), "{bytes:?}");
        }
    }
}
