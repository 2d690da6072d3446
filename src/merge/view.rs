//! Commits of content: those that authors make, and the one that is the view of many heads.
//!
//! Invariant: the view commit's bytes follow from the content commits and the tree alone, so
//! every node names a merge by the same id.

use std::collections::BTreeSet;

use crate::base::id::{BranchId, Oid};
use crate::base::stamp::Dot;
use crate::record::Result;
use crate::record::git_commit::{self, EMAIL, GitCommit, NAME, identity};
use crate::store::objects::Objects;

/// Name of the header that tells a merge and its rules' version.
pub const MERGE_HEADER: &str = "cellfs-merge";
/// Version of the rules. A change of any result needs another one.
pub const MERGE_VERSION: &str = "1";
const _: () = assert!(MERGE_VERSION.as_bytes()[0] == b'0' + crate::base::format::MERGE);
/// Name of the header that ties a content commit to its record.
pub const DOT_HEADER: &str = "cellfs-dot";

const MERGE_MESSAGE: &[u8] = b"Merge\n";

/// The commit that shows what these content commits make together: itself, if it is one.
/// `tree` is the projection of the joined state. `None` if there is no content yet.
///
/// # Errors
/// When a commit cannot be read or written.
pub fn view(objs: &dyn Objects, contents: &[Oid], tree: Oid) -> Result<Option<Oid>> {
    let parents: BTreeSet<Oid> = contents.iter().copied().collect();
    if parents.len() < 2 {
        return Ok(parents.first().copied());
    }
    let mut seconds = 0;
    for p in &parents {
        seconds = git_commit::read(objs, p)?.seconds().max(seconds);
    }
    let who = identity(NAME, EMAIL, seconds);
    let commit = GitCommit {
        tree,
        parents: parents.into_iter().collect(),
        author: who.clone(),
        committer: who,
        extra: vec![(MERGE_HEADER.into(), MERGE_VERSION.into())],
        message: MERGE_MESSAGE.to_vec(),
    };
    commit.put(objs).map(Some)
}

/// A content commit to be made for a batch of an author's own changes.
#[derive(Clone, Debug)]
pub struct NewContent<'a> {
    /// The projection of the state.
    pub tree: Oid,
    /// The content commits of the frontier, or the view of it.
    pub parents: Vec<Oid>,
    /// The record commit that will describe it.
    pub dot: Dot,
    /// The author's name.
    pub name: &'a str,
    /// The author's address.
    pub email: &'a str,
    /// Seconds since 1970.
    pub seconds: i64,
    /// What was done.
    pub message: &'a str,
}

/// Makes a content commit.
///
/// # Errors
/// When the store fails.
pub fn mint(objs: &dyn Objects, new: NewContent<'_>) -> Result<Oid> {
    let parents: BTreeSet<Oid> = new.parents.into_iter().collect();
    let who = identity(new.name, new.email, new.seconds);
    // A NUL would end the message for git and is an error to fsck.
    let mut message = new.message.replace('\0', "").into_bytes();
    if !message.ends_with(b"\n") {
        message.push(b'\n');
    }
    let dot = format!("{} {}", new.dot.branch, new.dot.seq);
    let commit = GitCommit {
        tree: new.tree,
        parents: parents.into_iter().collect(),
        author: who.clone(),
        committer: who,
        extra: vec![(DOT_HEADER.into(), dot.into_bytes())],
        message,
    };
    commit.put(objs)
}

/// The record that describes a content commit, if the commit says so.
#[must_use]
pub fn dot_of(commit: &GitCommit) -> Option<Dot> {
    let text = std::str::from_utf8(commit.header(DOT_HEADER)?).ok()?;
    let (branch, seq) = text.split_once(' ')?;
    Some(Dot {
        branch: BranchId(u64::from_str_radix(branch, 16).ok()?),
        seq: seq.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::git_tree;
    use crate::store::objects::Memory;

    #[test]
    fn a_view_has_the_same_bytes_in_any_order_and_one_head_is_its_own_view() {
        let objs = Memory::default();
        let tree = git_tree::put(&objs, Vec::new()).expect("memory");
        let made: Vec<Oid> = (1..4)
            .map(|seq| {
                let new = NewContent {
                    tree,
                    parents: Vec::new(),
                    dot: Dot {
                        branch: BranchId(5),
                        seq,
                    },
                    name: "A",
                    email: "a@b",
                    seconds: 100 + i64::try_from(seq).expect("small"),
                    message: "m",
                };
                mint(&objs, new).expect("memory")
            })
            .collect();
        let dots = made
            .iter()
            .map(|m| dot_of(&git_commit::read(&objs, m).expect("a commit")));
        assert_eq!(dots.flatten().map(|d| d.seq).collect::<Vec<_>>(), [1, 2, 3]);
        let back: Vec<Oid> = made.iter().rev().chain(&made).copied().collect();
        let one = view(&objs, &made, tree).expect("memory").expect("a view");
        assert_eq!(view(&objs, &back, tree).expect("memory"), Some(one));
        let commit = git_commit::read(&objs, &one).expect("a commit");
        assert_eq!(commit.seconds(), 103);
        assert_eq!(commit.header(MERGE_HEADER), Some(&b"1"[..]));
        assert_eq!(
            view(&objs, &made[..1], tree).expect("memory"),
            Some(made[0])
        );
        assert_eq!(view(&objs, &[], tree).expect("memory"), None);
    }
}
