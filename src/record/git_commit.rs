//! git commits: parsed with every byte checked, written in one fixed shape.

use crate::base::id::Oid;
use crate::record::{RecordError, Result};
use crate::store::objects::{ObjectKind, Objects};

/// Name in commits that the product makes for itself.
pub const NAME: &str = "cellfs";
/// Address in commits that the product makes for itself.
pub const EMAIL: &str = "cellfs@localhost";

/// A commit, as far as we look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitCommit {
    /// Its tree.
    pub tree: Oid,
    /// Its parents.
    pub parents: Vec<Oid>,
    /// Who wrote it and when, as the header says it: `name <address> seconds zone`.
    pub author: Vec<u8>,
    /// Who committed it and when.
    pub committer: Vec<u8>,
    /// Other headers, in order, without continuation lines.
    pub extra: Vec<(Vec<u8>, Vec<u8>)>,
    /// What follows the blank line.
    pub message: Vec<u8>,
}

impl GitCommit {
    /// The value of another header, if it is there.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let found = self.extra.iter().find(|(n, _)| n == name.as_bytes());
        found.map(|(_, v)| v.as_slice())
    }

    /// Seconds since 1970 at which it was committed; 0 when the header does not tell.
    #[must_use]
    pub fn seconds(&self) -> i64 {
        let mut words = self.committer.rsplit(|b| *b == b' ');
        let _zone = words.next();
        words
            .next()
            .and_then(|w| std::str::from_utf8(w).ok()?.parse().ok())
            .unwrap_or(0)
    }

    /// The bytes of the commit.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = format!("tree {}\n", self.tree).into_bytes();
        for p in &self.parents {
            out.extend_from_slice(format!("parent {p}\n").as_bytes());
        }
        let mut line = |name: &[u8], value: &[u8]| {
            out.extend_from_slice(name);
            out.push(b' ');
            out.extend_from_slice(value);
            out.push(b'\n');
        };
        line(b"author", &self.author);
        line(b"committer", &self.committer);
        for (name, value) in &self.extra {
            line(name, value);
        }
        out.push(b'\n');
        out.extend_from_slice(&self.message);
        out
    }

    /// Keeps the commit.
    ///
    /// # Errors
    /// When the store fails.
    pub fn put(&self, objs: &dyn Objects) -> Result<Oid> {
        Ok(objs.put(ObjectKind::Commit, self.encode())?)
    }
}

/// An identity line: control characters and angle brackets are left out of name and address,
/// as git does, because they would end the field.
#[must_use]
pub fn identity(name: &str, email: &str, seconds: i64) -> Vec<u8> {
    let clean = |text: &str, default: &str| {
        let kept: String = text
            .chars()
            .filter(|c| !c.is_control() && !matches!(c, '<' | '>'))
            .collect();
        let kept = kept.trim().to_owned();
        if kept.is_empty() {
            default.to_owned()
        } else {
            kept
        }
    };
    format!(
        "{} <{}> {} +0000",
        clean(name, NAME),
        clean(email, EMAIL),
        seconds.max(0)
    )
    .into_bytes()
}

/// Reads a commit.
///
/// # Errors
/// When it is missing or not a commit.
pub fn read(objs: &dyn Objects, id: &Oid) -> Result<GitCommit> {
    let data = objs.get(id, ObjectKind::Commit)?;
    parse(&data).ok_or_else(|| RecordError::malformed(*id, "a commit", "its headers do not parse"))
}

/// The commit in these bytes, or `None` when there is none.
#[must_use]
pub fn parse(data: &[u8]) -> Option<GitCommit> {
    let mut rest = data;
    let tree = oid_line(&mut rest, b"tree ")?;
    let mut parents = Vec::new();
    while rest.starts_with(b"parent ") {
        parents.push(oid_line(&mut rest, b"parent ")?);
    }
    let author = next_line(&mut rest)?.strip_prefix(b"author ")?.to_vec();
    let committer = next_line(&mut rest)?.strip_prefix(b"committer ")?.to_vec();
    let mut extra = Vec::new();
    loop {
        let line = next_line(&mut rest)?;
        if line.is_empty() {
            break;
        }
        if line.starts_with(b" ") {
            continue;
        }
        let space = line.iter().position(|b| *b == b' ')?;
        let (name, value) = line.split_at_checked(space)?;
        extra.push((name.to_vec(), value.get(1..)?.to_vec()));
    }
    Some(GitCommit {
        tree,
        parents,
        author,
        committer,
        extra,
        message: rest.to_vec(),
    })
}

fn next_line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest.iter().position(|b| *b == b'\n')?;
    let (line, tail) = rest.split_at_checked(end)?;
    *rest = tail.get(1..)?;
    Some(line)
}

fn oid_line(rest: &mut &[u8], prefix: &[u8]) -> Option<Oid> {
    Oid::from_hex(next_line(rest)?.strip_prefix(prefix)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_read_back() {
        let c = GitCommit {
            tree: Oid::from([1; 20]),
            parents: vec![Oid::from([2; 20]), Oid::from([3; 20])],
            author: identity("A <x>\n", "a@b", 12),
            committer: identity("", "", -5),
            extra: vec![(b"cellfs-dot".to_vec(), b"1 2".to_vec())],
            message: b"m\n\nbody".to_vec(),
        };
        let bytes = c.encode();
        assert_eq!(parse(&bytes), Some(c.clone()));
        assert_eq!(c.header("cellfs-dot"), Some(&b"1 2"[..]));
        assert_eq!(c.author, b"A x <a@b> 12 +0000");
        assert_eq!(c.seconds(), 0);
        for cut in 0..bytes.len() - c.message.len() {
            assert_eq!(parse(&bytes[..cut]), None);
        }
    }
}
