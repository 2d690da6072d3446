//! Commits of content: those that authors make, and the one that is the view of many heads.
//!
//! Invariant: the view commit's bytes follow from the content commits and the tree alone, so
//! every node names a merge by the same id.

use std::collections::BTreeSet;

use crate::base::id::{BranchId, FileId, Oid};
use crate::base::limit;
use crate::base::name::EntryName;
use crate::base::stamp::Dot;
use crate::record::change::Change;
use crate::record::git_commit::{self, EMAIL, GitCommit, NAME, identity};
use crate::record::{RecordError, Result};
use crate::store::objects::Objects;

/// Name of the header that tells a merge and its rules' version.
pub const MERGE_HEADER: &str = "cellfs-merge";
/// Version of the rules. A change of any result needs another one.
pub const MERGE_VERSION: &str = "2";
const _: () = assert!(MERGE_VERSION.as_bytes()[0] == b'0' + crate::base::format::MERGE);
/// Name of the header that ties a content commit to its record.
pub const DOT_HEADER: &str = "cellfs-dot";

/// Name of the header that tells which files are new or moved.
pub const IDS_HEADER: &str = "cellfs-ids";

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
    /// Files that are new or moved: see [`placed_by`].
    pub placed: Vec<(u32, FileId)>,
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
    let mut extra = vec![(DOT_HEADER.into(), dot.into_bytes())];
    if (1..=limit::NAMED_IDS_MAX).contains(&new.placed.len()) {
        let ids = encode_ids(new.dot.branch, &new.placed)?;
        extra.push((IDS_HEADER.into(), ids));
    }
    let commit = GitCommit {
        tree: new.tree,
        parents: parents.into_iter().collect(),
        author: who.clone(),
        committer: who,
        extra,
        message,
    };
    commit.put(objs)
}

/// Which files these changes put somewhere, each with a hash of its directory's id and of its
/// name: who has the content without its records knows the files by that.
#[must_use]
pub fn placed_by(changes: &[Change]) -> Vec<(u32, FileId)> {
    let placed = changes.iter().filter_map(|c| match c {
        Change::Born {
            id,
            parent,
            name,
            kind,
            ..
        } if kind.is_in_git() => Some((place_hash(*parent, name), *id)),
        Change::Move {
            id, parent, name, ..
        } => Some((place_hash(*parent, name), *id)),
        _ => None,
    });
    placed.take(limit::NAMED_IDS_MAX + 1).collect()
}

/// See [`placed_by`].
#[must_use]
pub fn place_hash(parent: FileId, name: &EntryName) -> u32 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&parent.as_u128().to_be_bytes());
    hasher.update(name.as_bytes());
    let mut out = [0; 4];
    hasher.finalize_xof().fill(&mut out);
    u32::from_be_bytes(out)
}

/// Hash, number, branch if it is another than the commit's.
type Id = (u32, u64, Option<u64>);

fn encode_ids(branch: BranchId, placed: &[(u32, FileId)]) -> Result<Vec<u8>> {
    let ids: Vec<Id> = placed
        .iter()
        .map(|(hash, id)| (*hash, id.n, (id.branch != branch.0).then_some(id.branch)))
        .collect();
    let bytes = postcard::to_stdvec(&ids).map_err(RecordError::Encode)?;
    Ok(data_encoding::BASE64_NOPAD.encode(&bytes).into_bytes())
}

/// What [`placed_by`] said when the commit was made; nothing if it does not parse.
#[must_use]
pub fn ids_of(commit: &GitCommit) -> Vec<(u32, FileId)> {
    let (Some(dot), Some(text)) = (dot_of(commit), commit.header(IDS_HEADER)) else {
        return Vec::new();
    };
    let bytes = data_encoding::BASE64_NOPAD.decode(text);
    let ids: Option<Vec<Id>> = bytes.ok().and_then(|b| postcard::from_bytes(&b).ok());
    let id = |(hash, n, branch): Id| {
        let branch = branch.unwrap_or(dot.branch.0);
        (hash, FileId { branch, n })
    };
    ids.unwrap_or_default().into_iter().map(id).collect()
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
        let id = |branch, n| FileId { branch, n };
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
                    placed: vec![(7, id(5, seq)), (8, id(6, 1))],
                };
                mint(&objs, new).expect("memory")
            })
            .collect();
        let dots = made
            .iter()
            .map(|m| dot_of(&git_commit::read(&objs, m).expect("a commit")));
        assert_eq!(dots.flatten().map(|d| d.seq).collect::<Vec<_>>(), [1, 2, 3]);
        let named = ids_of(&git_commit::read(&objs, &made[2]).expect("a commit"));
        assert_eq!(named, [(7, id(5, 3)), (8, id(6, 1))]);
        let back: Vec<Oid> = made.iter().rev().chain(&made).copied().collect();
        let one = view(&objs, &made, tree).expect("memory").expect("a view");
        assert_eq!(view(&objs, &back, tree).expect("memory"), Some(one));
        let commit = git_commit::read(&objs, &one).expect("a commit");
        assert_eq!(commit.seconds(), 103);
        assert_eq!(commit.header(MERGE_HEADER), Some(MERGE_VERSION.as_bytes()));
        assert_eq!(
            view(&objs, &made[..1], tree).expect("memory"),
            Some(made[0])
        );
        assert_eq!(view(&objs, &[], tree).expect("memory"), None);
    }
}
