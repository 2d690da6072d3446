//! The list of a file's pieces as a tree of small git objects.
//!
//! Leaves are blobs that list pieces, what is above them are git trees whose entries are the
//! nodes below, in the order of the file. A small blob, the head, names the file and the top
//! tree. git walks all of it as it walks any directory: it is kept, packed and sent by git's own
//! rules, and `git fsck` finds nothing in it. Where a node ends follows from the names in it, not
//! from its place: what is inserted or removed changes the nodes around it and those above.
//!
//! Invariants: equal surveys have equal heads. What is read back adds up: in each node to what
//! its parent says, in the top to the length of the file. Bytes of others never make it open
//! more nodes than one for 16 pieces of a file of that length, nor go deeper than
//! [`LEVELS_MAX`]. No threads.
//!
//! With n pieces, [`write()`] and [`read`] take O(n), [`piece_at`] O(log n), [`diff`] O(log n) for
//! each change. Nodes have 16 to 256 entries, 64 in the mean; byte maps in `chunk/DESIGN.md`.

mod walk;

use std::convert::Infallible;
use std::sync::Arc;

pub use walk::{Cursor, Diff, Place, diff, piece_at, pieces, read};

use super::{ChunkId, FILE_BYTES_MAX, PIECE_BYTES_MAX, PIECE_BYTES_MIN, Piece, Sha256, Survey};
use crate::base::format;
use crate::base::id::Oid;

/// Fewest entries of a node that is not the last of its level.
const ENTRIES_MIN: usize = 16;
/// Most entries of a node.
const ENTRIES_MAX: usize = 256;
/// Behind the fewest, one entry in so many ends its node.
const ENDS: u16 = 48;
/// Most entries of the top, which ends nowhere.
const TOP_ENTRIES_MAX: usize = 128;
/// Levels above the leaves at most: enough for [`FILE_BYTES_MAX`], whatever it is made of.
pub const LEVELS_MAX: u8 = 6;

/// Bytes of a piece in a leaf: name and length.
const PIECE_BYTES: usize = 36;
/// Bytes of a head.
pub const HEAD_BYTES: usize = 62;
/// An entry of a tree says in its name which it is, and how many bytes and pieces are below.
const NAME_BYTES: usize = 26;
/// Longest node.
pub const NODE_BYTES_MAX: usize = 8 + ENTRIES_MAX * (28 + NAME_BYTES);

/// What a node is to git.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeKind {
    /// A head or a leaf.
    Blob,
    /// What is between them.
    Tree,
}

/// What is wrong with a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadManifest {
    /// Of another version.
    #[error("version {0} of manifests is not known here")]
    Version(u8),
    /// Not a whole number of entries, or too many or few.
    #[error("{0} bytes cannot be a head or node")]
    Size(usize),
    /// More or fewer levels than there can be, or entries of another level than they should be.
    #[error("nothing like that is at level {0}")]
    Level(u8),
    /// An entry of a tree whose name is not that of an entry there.
    #[error("entry {0} has a name that it cannot have")]
    Name(usize),
    /// A node that should have ended elsewhere.
    #[error("a node ends behind {0} entries, and should not")]
    End(usize),
    /// A piece, a node or a file of a length that none has.
    #[error("a length of {0} bytes cannot be one")]
    Length(u64),
    /// A node that does not hold the bytes that its parent says, or a top that does not hold its
    /// file.
    #[error("{0} bytes are listed where {1} should be")]
    Sum(u64, u64),
    /// A node that does not hold the pieces that its parent says.
    #[error("{0} pieces are listed where {1} should be")]
    Count(u64, u64),
}

/// Why a manifest was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError<E> {
    /// A node could not be got.
    #[error("a node of a manifest is missing")]
    Get(#[source] E),
    /// A node is wrong; which one.
    #[error("node {0} of a manifest is wrong")]
    Bad(Oid, #[source] BadManifest),
}

/// What the head says of the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Head {
    /// Bytes of the file.
    pub len: u64,
    /// Names the file.
    pub sha256: Sha256,
    /// The tree that all else is below.
    pub top: Oid,
    /// How many levels that tree is above the leaves; at least one.
    pub level: u8,
}

/// A node as its parent names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Child {
    id: Oid,
    bytes: u64,
    pieces: u32,
}

#[derive(Debug)]
enum Entries {
    Pieces(Vec<Piece>),
    Children(Vec<Child>),
}

/// Where a node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// It is the top.
    Top,
    /// Nothing of the file is behind it.
    Last,
    /// Something is.
    Inner,
}

/// Where to get nodes: their bytes without git's header. Whoever answers should refuse what is
/// longer than [`NODE_BYTES_MAX`] before reading it.
pub type Get<'a, E> = dyn FnMut(&Oid, NodeKind) -> Result<Arc<Vec<u8>>, E> + 'a;

/// Reads an id or number from the front; the caller has measured the bytes.
fn take<'a, const N: usize>(bytes: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(head)
}

/// Whether a node may end behind an entry of this name.
fn ends(name: &[u8]) -> bool {
    let two = name.first_chunk().copied().unwrap_or_default();
    u16::from_le_bytes(two).is_multiple_of(ENDS)
}

/// git's mode of what a tree of this level lists, and the space behind it.
fn mode(level: u8) -> &'static [u8] {
    if level == 1 { b"100644 " } else { b"40000 " }
}

/// The number in the hexadecimal digits of a name, which are written in one way only.
fn hex<const N: usize>(bytes: &mut &[u8]) -> Option<u64> {
    take::<N>(bytes)?.iter().try_fold(0, |n: u64, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some((n << 4) | u64::from(digit))
    })
}

fn parse_name(mut name: &[u8]) -> Option<(u64, u64, u64)> {
    let index = hex::<4>(&mut name)?;
    let _dash = take::<1>(&mut name).filter(|c| **c == *b"-")?;
    let bytes = hex::<12>(&mut name)?;
    let _dash = take::<1>(&mut name).filter(|c| **c == *b"-")?;
    Some((index, bytes, hex::<8>(&mut name)?))
}

impl Entries {
    fn sums(&self) -> (u64, u64) {
        match self {
            Self::Pieces(p) => (p.iter().map(|p| u64::from(p.len)).sum(), p.len() as u64),
            Self::Children(c) => (
                c.iter().map(|c| c.bytes).sum(),
                c.iter().map(|c| u64::from(c.pieces)).sum(),
            ),
        }
    }

    fn name(&self, n: usize) -> &[u8] {
        match self {
            Self::Pieces(p) => p.get(n).map_or(&[], |p| &p.id.0),
            Self::Children(c) => c.get(n).map_or(&[], |c| c.id.as_slice()),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Pieces(p) => p.len(),
            Self::Children(c) => c.len(),
        }
    }

    fn encode(&self, level: u8) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Pieces(pieces) => {
                out.push(format::MANIFESTS);
                for p in pieces {
                    out.extend_from_slice(&p.id.0);
                    out.extend_from_slice(&p.len.to_le_bytes());
                }
            }
            Self::Children(children) => {
                for (n, c) in children.iter().enumerate() {
                    out.extend_from_slice(mode(level));
                    let name = format!("{n:04x}-{:012x}-{:08x}\0", c.bytes, c.pieces);
                    out.extend_from_slice(name.as_bytes());
                    out.extend_from_slice(c.id.as_slice());
                }
            }
        }
        out
    }

    fn decode(level: u8, bytes: &[u8], side: Side) -> Result<Self, BadManifest> {
        let entries = if level == 0 {
            Self::decode_leaf(bytes, side)?
        } else {
            Self::decode_tree(level, bytes, side)?
        };
        let count = entries.len();
        let most = if side == Side::Top {
            TOP_ENTRIES_MAX
        } else {
            ENTRIES_MAX
        };
        if count > most || (count == 0 && side != Side::Top) {
            return Err(BadManifest::Size(bytes.len()));
        }
        if side != Side::Top {
            let cut = (ENTRIES_MIN..count).find(|n| ends(entries.name(n - 1)));
            let is_end = cut.is_none()
                && (side == Side::Last
                    || count == ENTRIES_MAX
                    || (count >= ENTRIES_MIN && ends(entries.name(count - 1))));
            if !is_end {
                return Err(BadManifest::End(count));
            }
        }
        Ok(entries)
    }

    fn decode_leaf(bytes: &[u8], side: Side) -> Result<Self, BadManifest> {
        let size = BadManifest::Size(bytes.len());
        let (version, body) = bytes.split_first().ok_or(size)?;
        if *version != format::MANIFESTS {
            return Err(BadManifest::Version(*version));
        }
        let count = body.len() / PIECE_BYTES;
        if !body.len().is_multiple_of(PIECE_BYTES) || count > ENTRIES_MAX {
            return Err(size);
        }
        let mut out = Vec::with_capacity(count);
        for (n, mut entry) in body.chunks_exact(PIECE_BYTES).enumerate() {
            let id = ChunkId(*take(&mut entry).ok_or(size)?);
            let len = u32::from_le_bytes(*take(&mut entry).ok_or(size)?);
            let is_last = side != Side::Inner && n + 1 == count;
            let least = if is_last { 1 } else { PIECE_BYTES_MIN };
            if !(least..=PIECE_BYTES_MAX).contains(&len) {
                return Err(BadManifest::Length(len.into()));
            }
            out.push(Piece { id, len });
        }
        Ok(Self::Pieces(out))
    }

    fn decode_tree(level: u8, bytes: &[u8], side: Side) -> Result<Self, BadManifest> {
        let mode = mode(level);
        let size = mode.len() + NAME_BYTES + 1 + 20;
        let count = bytes.len() / size;
        if !bytes.is_empty() && !bytes.starts_with(mode) {
            return Err(BadManifest::Level(level));
        }
        if !bytes.len().is_multiple_of(size) || count > ENTRIES_MAX {
            return Err(BadManifest::Size(bytes.len()));
        }
        let mut out = Vec::with_capacity(count);
        for (n, entry) in bytes.chunks_exact(size).enumerate() {
            let mut rest = entry.strip_prefix(mode).ok_or(BadManifest::Level(level))?;
            let bad = BadManifest::Name(n);
            let (index, bytes, pieces) = parse_name(rest).ok_or(bad)?;
            rest = rest.get(NAME_BYTES..).unwrap_or_default();
            let nul = take::<1>(&mut rest).ok_or(bad)?;
            let id = Oid::from(*take::<20>(&mut rest).ok_or(bad)?);
            if index != n as u64 || *nul != [0] {
                return Err(bad);
            }
            let short = u64::from(side != Side::Inner && n + 1 == count);
            let least = pieces.saturating_sub(short) * u64::from(PIECE_BYTES_MIN);
            let most = pieces * u64::from(PIECE_BYTES_MAX);
            if !(least.max(1)..=most.min(FILE_BYTES_MAX)).contains(&bytes) {
                return Err(BadManifest::Length(bytes));
            }
            let pieces = u32::try_from(pieces).map_err(|_| bad)?;
            out.push(Child { id, bytes, pieces });
        }
        Ok(Self::Children(out))
    }
}

/// What a head's bytes say of the whole; opens nothing. For judging whether to read the rest.
///
/// # Errors
/// When these are the bytes of no head.
pub fn head(bytes: &[u8]) -> Result<Head, BadManifest> {
    let size = BadManifest::Size(bytes.len());
    let mut rest = bytes;
    let [version] = *take(&mut rest).ok_or(size)?;
    if version != format::MANIFESTS {
        return Err(BadManifest::Version(version));
    }
    let [level] = *take(&mut rest).ok_or(size)?;
    let len = u64::from_le_bytes(*take(&mut rest).ok_or(size)?);
    let sha256 = Sha256(*take(&mut rest).ok_or(size)?);
    let top = Oid::from(*take::<20>(&mut rest).ok_or(size)?);
    if !rest.is_empty() {
        return Err(size);
    }
    if !(1..=LEVELS_MAX).contains(&level) {
        return Err(BadManifest::Level(level));
    }
    if len > FILE_BYTES_MAX {
        return Err(BadManifest::Length(len));
    }
    Ok(Head {
        len,
        sha256,
        top,
        level,
    })
}

impl Head {
    /// The bytes of the head, as [`head`] reads them.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![format::MANIFESTS, self.level];
        out.extend_from_slice(&self.len.to_le_bytes());
        out.extend_from_slice(&self.sha256.0);
        out.extend_from_slice(self.top.as_slice());
        out
    }
}

/// Where nodes of such entries end: each is `from..to`.
fn nodes<T>(entries: &[T], ends: impl Fn(&T) -> bool) -> Vec<&[T]> {
    let mut out = Vec::with_capacity(entries.len() / 32 + 1);
    let mut rest = entries;
    while !rest.is_empty() {
        let most = rest.len().min(ENTRIES_MAX);
        let end = (ENTRIES_MIN..most).find(|n| rest.get(n - 1).is_some_and(&ends));
        let (node, after) = rest.split_at(end.unwrap_or(most));
        out.push(node);
        rest = after;
    }
    out
}

/// Writes the manifest of a file: `put` keeps each node for git, head last, and names it. Gives
/// the names of head and top. With `put`s that only hash it says what they would be.
///
/// # Errors
/// Those of `put`.
pub fn write<E>(
    survey: &Survey,
    put: &mut dyn FnMut(NodeKind, Vec<u8>) -> Result<Oid, E>,
) -> Result<(Oid, Oid), E> {
    let mut children = Vec::new();
    for pieces in nodes(&survey.pieces, |p| ends(&p.id.0)) {
        children.push(node(0, Entries::Pieces(pieces.to_vec()), put)?);
    }
    let mut level = 1;
    while children.len() > TOP_ENTRIES_MAX {
        let mut above = Vec::new();
        for below in nodes(&children, |c| ends(c.id.as_slice())) {
            above.push(node(level, Entries::Children(below.to_vec()), put)?);
        }
        children = above;
        level += 1;
    }
    let top = node(level, Entries::Children(children), put)?.id;
    let head = Head {
        len: survey.len,
        sha256: survey.sha256,
        top,
        level,
    };
    Ok((put(NodeKind::Blob, head.encode())?, top))
}

/// The name of the head that [`write()`] would write: equal for equal pieces, length and SHA-256, for no
/// others.
#[must_use]
pub fn name(survey: &Survey) -> Oid {
    let mut put = |kind, bytes: Vec<u8>| {
        let kind = match kind {
            NodeKind::Blob => gix::object::Kind::Blob,
            NodeKind::Tree => gix::object::Kind::Tree,
        };
        // It fails only on a detected SHA-1 collision attack, whose bytes get a name that none has.
        let id = gix::objs::compute_hash(gix::hash::Kind::Sha1, kind, &bytes);
        Ok::<_, Infallible>(id.unwrap_or_else(|_| Oid::null(gix::hash::Kind::Sha1)))
    };
    match write(survey, &mut put) {
        Ok((head, _)) => head,
        Err(never) => match never {},
    }
}

fn node<E>(
    level: u8,
    entries: Entries,
    put: &mut dyn FnMut(NodeKind, Vec<u8>) -> Result<Oid, E>,
) -> Result<Child, E> {
    let (bytes, pieces) = entries.sums();
    let id = put(kind(level), entries.encode(level))?;
    Ok(Child {
        id,
        bytes,
        pieces: u32::try_from(pieces).expect("a file has fewer"),
    })
}

fn kind(level: u8) -> NodeKind {
    if level == 0 {
        NodeKind::Blob
    } else {
        NodeKind::Tree
    }
}

#[cfg(test)]
mod tests;
