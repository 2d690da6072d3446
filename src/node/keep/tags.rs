//! The tags of this node, which say what it is for: paths are kept by nodes with some tag.
//!
//! Invariant: what was set is durable before members hear of it. Threads: any.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::base::durable;

/// The key of a node's state under which members see its tags.
pub(in crate::node) const KEY: &str = "tags";
/// The key under which they see what it keeps.
pub(in crate::node) const KEY_KEEPS: &str = "keeps";
/// Tags of a node.
const TAGS_MAX: usize = 32;
const TAG_BYTES_MAX: usize = 64;

/// See the module. The file has one tag on each line.
#[derive(Debug)]
pub(in crate::node) struct Tags {
    path: PathBuf,
    own: Mutex<BTreeSet<String>>,
}

/// What is wrong with a tag.
fn fault(tag: &str) -> Option<String> {
    let is_good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let good = (1..=TAG_BYTES_MAX).contains(&tag.len()) && tag.chars().all(is_good);
    let shown = tag.escape_debug();
    (!good).then(|| {
        format!("'{shown}' is no tag: 1 to {TAG_BYTES_MAX} letters, digits, '.', '_' and '-'")
    })
}

/// What members were told.
pub(in crate::node) fn parse(told: &str) -> Vec<String> {
    let all = told.split(',').filter(|t| fault(t).is_none());
    all.take(TAGS_MAX).map(str::to_owned).collect()
}

impl Tags {
    pub(in crate::node) fn open(path: PathBuf) -> io::Result<Self> {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(e),
        };
        let own: BTreeSet<String> = text.lines().map(str::to_owned).collect();
        if let Some(why) = own.iter().find_map(|t| fault(t)) {
            return Err(io::Error::other(format!("{}: {why}", path.display())));
        }
        let own = Mutex::new(own);
        Ok(Self { path, own })
    }

    /// Those of this node.
    pub(in crate::node) fn own(&self) -> BTreeSet<String> {
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        own.clone()
    }

    /// As members are told.
    pub(in crate::node) fn told(&self) -> String {
        self.own().into_iter().collect::<Vec<_>>().join(",")
    }

    /// Gives the node other tags. Blocking.
    pub(in crate::node) fn set(&self, tags: Vec<String>) -> Result<(), String> {
        if let Some(why) = tags.iter().find_map(|t| fault(t)) {
            return Err(why);
        }
        let tags: BTreeSet<String> = tags.into_iter().collect();
        if tags.len() > TAGS_MAX {
            return Err(format!("a node has at most {TAGS_MAX} tags"));
        }
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let text: String = tags.iter().map(|t| format!("{t}\n")).collect();
        durable::replace(&self.path, text.as_bytes(), 0o600).map_err(|e| e.to_string())?;
        *own = tags;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_last_and_what_is_no_tag_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tags");
        let t = Tags::open(path.clone()).unwrap();
        t.set(vec!["ssd".into(), "eu-1".into(), "ssd".into()])
            .unwrap();
        let again = Tags::open(path.clone()).unwrap();
        assert_eq!((again.told().as_str(), again.own()), ("eu-1,ssd", t.own()));
        for bad in ["", "a b", "a,b", "ü", &"x".repeat(65)] {
            assert!(t.set(vec![bad.to_owned()]).is_err(), "{bad}");
        }
        assert!(t.set((0..33).map(|n| format!("t{n}")).collect()).is_err());
        assert_eq!(t.told(), "eu-1,ssd");
        t.set(Vec::new()).unwrap();
        assert_eq!(t.told(), "");
        assert_eq!(parse("a,b c,,d"), ["a", "d"]);
        std::fs::write(&path, "a b\n").unwrap();
        assert!(Tags::open(path).is_err());
    }
}
