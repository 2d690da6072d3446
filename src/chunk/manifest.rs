//! The list of a file's pieces as a tree of small blobs.
//!
//! Leaves list pieces, inner nodes list nodes, the root lists what is left when few are. Where a
//! node ends follows from the names in it, not from its place: what is inserted or removed
//! changes the nodes around it and those above, and no other.
//!
//! Invariants: equal surveys have equal roots. What is read back adds up: in each node to what
//! its parent says, in the root to the length of the file. Bytes of others never make it open
//! more than a few nodes for each piece of a file of that length, nor go deeper than
//! [`LEVELS_MAX`]. It does not check that others ended their nodes where we do. No threads.
//!
//! With n pieces, `write` and `read` take O(n), `piece_at` O(log n), `missing` O(log n) for each
//! change. Nodes have 16 to 256 entries, 64 in the mean; byte maps in `DESIGN.md`.

use std::collections::HashSet;

use super::{ChunkId, FILE_BYTES_MAX, PIECE_BYTES_MAX, PIECE_BYTES_MIN, Piece, Sha256, Survey};
use crate::base::format;
use crate::base::id::Oid;

/// Fewest entries of a node that is not the last of its level.
const ENTRIES_MIN: usize = 16;
/// Most entries of a node.
const ENTRIES_MAX: usize = 256;
/// Behind the fewest, one entry in so many ends its node.
const ENDS: u16 = 48;
/// Entries that the root takes itself.
const ROOT_ENTRIES_MAX: usize = 128;
/// Levels below the root at most: enough for [`FILE_BYTES_MAX`], whatever it is made of.
pub const LEVELS_MAX: u8 = 6;

/// Bytes of an entry: name and length of a piece.
const PIECE_BYTES: usize = 36;
/// Name, bytes and pieces of a node.
const CHILD_BYTES: usize = 32;
/// Version, level, length, SHA-256.
const ROOT_HEAD: usize = 42;
/// Longest node, root or not.
pub const NODE_BYTES_MAX: usize = ROOT_HEAD + ENTRIES_MAX * PIECE_BYTES;

/// What is wrong with a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadManifest {
    /// Of another version.
    #[error("version {0} of manifests is not known here")]
    Version(u8),
    /// Not a whole number of entries, or too many or few.
    #[error("a node of {0} bytes cannot be one")]
    Size(usize),
    /// A node of one level where one of another should be.
    #[error("a node of level {0} is out of place")]
    Level(u8),
    /// A piece, a node or a file of a length that none has.
    #[error("a length of {0} bytes cannot be one")]
    Length(u64),
    /// A node that does not hold what its parent says, or a root that does not hold its file.
    #[error("{0} bytes are listed where {1} should be")]
    Sum(u64, u64),
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

/// A piece and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its number among the pieces of the file.
    pub index: u32,
    /// Where in the file it begins.
    pub at: u64,
    /// The piece.
    pub piece: Piece,
}

/// What a root says of the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Bytes of the file.
    pub len: u64,
    /// Names the file.
    pub sha256: Sha256,
}

/// A node as its parent names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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

/// Reads an id or number from the front; the caller has measured the bytes.
fn take<'a, const N: usize>(bytes: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(head)
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

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Pieces(pieces) => {
                for p in pieces {
                    out.extend_from_slice(&p.id.0);
                    out.extend_from_slice(&p.len.to_le_bytes());
                }
            }
            Self::Children(children) => {
                for c in children {
                    out.extend_from_slice(c.id.as_slice());
                    out.extend_from_slice(&c.bytes.to_le_bytes());
                    out.extend_from_slice(&c.pieces.to_le_bytes());
                }
            }
        }
    }

    /// The entries of a node of this level. `last`: nothing of the file is behind it.
    fn decode(level: u8, mut bytes: &[u8], last: bool) -> Result<Self, BadManifest> {
        let size = if level == 0 { PIECE_BYTES } else { CHILD_BYTES };
        let count = bytes.len() / size;
        if !bytes.len().is_multiple_of(size) || count > ENTRIES_MAX {
            return Err(BadManifest::Size(bytes.len()));
        }
        let cut = BadManifest::Size(bytes.len());
        if level == 0 {
            let mut out = Vec::with_capacity(count);
            for n in 1..=count {
                let id = ChunkId(*take(&mut bytes).ok_or(cut)?);
                let len = u32::from_le_bytes(*take(&mut bytes).ok_or(cut)?);
                let least = if last && n == count {
                    1
                } else {
                    PIECE_BYTES_MIN
                };
                if !(least..=PIECE_BYTES_MAX).contains(&len) {
                    return Err(BadManifest::Length(len.into()));
                }
                out.push(Piece { id, len });
            }
            return Ok(Self::Pieces(out));
        }
        let mut out = Vec::with_capacity(count);
        for n in 1..=count {
            let id = Oid::from(*take::<20>(&mut bytes).ok_or(cut)?);
            let len = u64::from_le_bytes(*take(&mut bytes).ok_or(cut)?);
            let pieces = u32::from_le_bytes(*take(&mut bytes).ok_or(cut)?);
            let short = u64::from(last && n == count);
            let least = u64::from(pieces).saturating_sub(short) * u64::from(PIECE_BYTES_MIN);
            let most = u64::from(pieces) * u64::from(PIECE_BYTES_MAX);
            if !(least.max(1)..=most.min(FILE_BYTES_MAX)).contains(&len) {
                return Err(BadManifest::Length(len));
            }
            let bytes = len;
            out.push(Child { id, bytes, pieces });
        }
        Ok(Self::Children(out))
    }
}

fn decode_root(mut bytes: &[u8]) -> Result<(Head, u8, Entries), BadManifest> {
    let cut = BadManifest::Size(bytes.len());
    let [version, level] = *take(&mut bytes).ok_or(cut)?;
    if version != format::MANIFESTS {
        return Err(BadManifest::Version(version));
    }
    if level > LEVELS_MAX {
        return Err(BadManifest::Level(level));
    }
    let len = u64::from_le_bytes(*take(&mut bytes).ok_or(cut)?);
    let sha256 = Sha256(*take(&mut bytes).ok_or(cut)?);
    if len > FILE_BYTES_MAX {
        return Err(BadManifest::Length(len));
    }
    let entries = Entries::decode(level, bytes, true)?;
    let (sum, _) = entries.sums();
    if sum != len {
        return Err(BadManifest::Sum(sum, len));
    }
    Ok((Head { len, sha256 }, level, entries))
}

/// A node below the root, which its parent says is at this level.
fn decode_node(c: &Child, level: u8, mut bytes: &[u8], last: bool) -> Result<Entries, BadManifest> {
    let [version, own] = *take(&mut bytes).ok_or(BadManifest::Size(bytes.len()))?;
    if version != format::MANIFESTS {
        return Err(BadManifest::Version(version));
    }
    if own != level {
        return Err(BadManifest::Level(own));
    }
    let entries = Entries::decode(level, bytes, last)?;
    let (sum, pieces) = entries.sums();
    if sum != c.bytes {
        return Err(BadManifest::Sum(sum, c.bytes));
    }
    if pieces != u64::from(c.pieces) {
        return Err(BadManifest::Sum(pieces, c.pieces.into()));
    }
    Ok(entries)
}

/// What a root's bytes say of the whole; opens nothing. For judging whether to read the rest.
///
/// # Errors
/// When these are the bytes of no root.
pub fn head(root: &[u8]) -> Result<Head, BadManifest> {
    decode_root(root).map(|(head, ..)| head)
}

/// Where nodes of such entries end: each is `from..to`.
fn nodes<T>(entries: &[T], key: impl Fn(&T) -> [u8; 2]) -> Vec<&[T]> {
    let mut out = Vec::with_capacity(entries.len() / 32 + 1);
    let mut rest = entries;
    while !rest.is_empty() {
        let most = rest.len().min(ENTRIES_MAX);
        let end = (ENTRIES_MIN..most).find(|n| {
            let ends = rest.get(n - 1).map(&key);
            ends.is_some_and(|k| u16::from_le_bytes(k) % ENDS == 0)
        });
        let (node, after) = rest.split_at(end.unwrap_or(most));
        out.push(node);
        rest = after;
    }
    out
}

fn key_of(bytes: &[u8]) -> [u8; 2] {
    bytes.first_chunk().copied().unwrap_or_default()
}

/// Writes the manifest of a file: `put` takes each node, root last, and names it.
///
/// # Errors
/// Those of `put`.
pub fn write<E>(survey: &Survey, put: &mut dyn FnMut(Vec<u8>) -> Result<Oid, E>) -> Result<Oid, E> {
    let mut node = |level: u8, entries: Entries| {
        let (bytes, pieces) = entries.sums();
        let mut out = vec![format::MANIFESTS, level];
        entries.encode(&mut out);
        put(out).map(|id| Child {
            id,
            bytes,
            pieces: u32::try_from(pieces).expect("a file has fewer"),
        })
    };
    let (level, top) = if survey.pieces.len() <= ROOT_ENTRIES_MAX {
        (0, Entries::Pieces(survey.pieces.clone()))
    } else {
        let mut level = 1;
        let mut children = Vec::new();
        for n in nodes(&survey.pieces, |p| key_of(&p.id.0)) {
            children.push(node(0, Entries::Pieces(n.to_vec()))?);
        }
        while children.len() > ROOT_ENTRIES_MAX {
            let mut above = Vec::new();
            for n in nodes(&children, |c| key_of(c.id.as_slice())) {
                above.push(node(level, Entries::Children(n.to_vec()))?);
            }
            children = above;
            level += 1;
        }
        (level, Entries::Children(children))
    };
    let mut out = vec![format::MANIFESTS, level];
    out.extend_from_slice(&survey.len.to_le_bytes());
    out.extend_from_slice(&survey.sha256.0);
    top.encode(&mut out);
    put(out)
}

type Get<'a, E> = dyn FnMut(&Oid) -> Result<Vec<u8>, E> + 'a;

fn open_root<E>(root: &Oid, get: &mut Get<E>) -> Result<(Head, u8, Entries), ReadError<E>> {
    let bytes = get(root).map_err(ReadError::Get)?;
    decode_root(&bytes).map_err(|e| ReadError::Bad(*root, e))
}

fn open<E>(c: &Child, level: u8, last: bool, get: &mut Get<E>) -> Result<Entries, ReadError<E>> {
    let bytes = get(&c.id).map_err(ReadError::Get)?;
    decode_node(c, level, &bytes, last).map_err(|e| ReadError::Bad(c.id, e))
}

/// Reads a manifest. Look at its [`head`] first if it comes from somebody: the list takes 36
/// bytes for each 64 KiB that the file says it has.
///
/// # Errors
/// When a node is missing or wrong.
pub fn read<E>(root: &Oid, get: &mut Get<E>) -> Result<Survey, ReadError<E>> {
    let (head, mut level, mut entries) = open_root(root, get)?;
    loop {
        let children = match entries {
            Entries::Pieces(pieces) => {
                return Ok(Survey {
                    len: head.len,
                    sha256: head.sha256,
                    pieces,
                });
            }
            Entries::Children(children) => children,
        };
        level -= 1;
        let (mut pieces, mut below) = (Vec::new(), Vec::new());
        for (n, c) in children.iter().enumerate() {
            match open(c, level, n + 1 == children.len(), get)? {
                Entries::Pieces(p) => pieces.extend(p),
                Entries::Children(c) => below.extend(c),
            }
        }
        entries = if level == 0 {
            Entries::Pieces(pieces)
        } else {
            Entries::Children(below)
        };
    }
}

/// The piece that holds the byte at `offset`, if the file has one there. Opens a path of nodes.
///
/// # Errors
/// When a node on the path is missing or wrong.
pub fn piece_at<E>(
    root: &Oid,
    offset: u64,
    get: &mut Get<E>,
) -> Result<Option<Place>, ReadError<E>> {
    let (head, mut level, mut entries) = open_root(root, get)?;
    if offset >= head.len {
        return Ok(None);
    }
    let (mut at, mut index, mut last) = (0, 0, true);
    loop {
        let children = match entries {
            Entries::Pieces(pieces) => {
                for piece in pieces {
                    let end = at + u64::from(piece.len);
                    if offset < end {
                        return Ok(Some(Place { index, at, piece }));
                    }
                    at = end;
                    index += 1;
                }
                return Ok(None);
            }
            Entries::Children(children) => children,
        };
        let mut inside = None;
        for (n, c) in children.iter().enumerate() {
            if offset < at + c.bytes {
                last &= n + 1 == children.len();
                inside = Some(c);
                break;
            }
            at += c.bytes;
            index += c.pieces;
        }
        let Some(c) = inside else { return Ok(None) };
        level -= 1;
        entries = open(c, level, last, get)?;
    }
}

/// A node of the new file, and where what it lists begins.
struct Spot {
    child: Child,
    index: u32,
    at: u64,
    last: bool,
}

/// A level of the new file: nodes that the old one may lack, pieces that it may lack.
#[derive(Default)]
struct Level {
    spots: Vec<Spot>,
    places: Vec<Place>,
}

impl Level {
    fn add(&mut self, entries: Entries, mut index: u32, mut at: u64, last: bool) {
        match entries {
            Entries::Pieces(pieces) => {
                for piece in pieces {
                    self.places.push(Place { index, at, piece });
                    at += u64::from(piece.len);
                    index += 1;
                }
            }
            Entries::Children(children) => {
                let count = children.len();
                for (n, child) in children.into_iter().enumerate() {
                    self.spots.push(Spot {
                        child,
                        index,
                        at,
                        last: last && n + 1 == count,
                    });
                    at += child.bytes;
                    index += child.pieces;
                }
            }
        }
    }

    fn below<E>(self, level: u8, get: &mut Get<E>) -> Result<Self, ReadError<E>> {
        let mut out = Self::default();
        for s in self.spots {
            out.add(open(&s.child, level, s.last, get)?, s.index, s.at, s.last);
        }
        Ok(out)
    }
}

/// The pieces of the file of one root that the file of another has not, in order. Opens only
/// nodes that differ. A piece that moved from one node to another may be listed although the
/// old file has it; none is left out.
///
/// # Errors
/// When a node that differs is missing or wrong.
pub fn missing<E>(
    new_root: &Oid,
    old_root: &Oid,
    get: &mut Get<E>,
) -> Result<Vec<Place>, ReadError<E>> {
    if new_root == old_root {
        return Ok(Vec::new());
    }
    let (mut new, mut old) = (Level::default(), Level::default());
    let (_, mut new_level, entries) = open_root(new_root, get)?;
    new.add(entries, 0, 0, true);
    let (_, mut old_level, entries) = open_root(old_root, get)?;
    old.add(entries, 0, 0, true);
    loop {
        if new_level == old_level {
            let has: HashSet<Oid> = old.spots.iter().map(|s| s.child.id).collect();
            let wanted: HashSet<Oid> = new.spots.iter().map(|s| s.child.id).collect();
            new.spots.retain(|s| !has.contains(&s.child.id));
            old.spots.retain(|s| !wanted.contains(&s.child.id));
            if new_level == 0 {
                break;
            }
        }
        let (new_is, old_is) = (new_level, old_level);
        if new_is >= old_is {
            new_level -= 1;
            new = new.below(new_level, get)?;
        }
        if old_is >= new_is {
            old_level -= 1;
            old = old.below(old_level, get)?;
        }
    }
    let has: HashSet<ChunkId> = old.places.iter().map(|p| p.piece.id).collect();
    new.places.retain(|p| !has.contains(&p.piece.id));
    Ok(new.places)
}

#[cfg(test)]
mod tests;
