//! Ways through a manifest: from any offset on, all of it, and where two differ.
//!
//! Invariant: nothing here goes on after an entry that was not read; what failed can be asked
//! for again. Memory: a cursor holds one node of each level; a diff the names of the leaves that
//! differ. No threads.

use std::collections::HashSet;
use std::vec;

use super::{BadManifest, Child, Entries, Get, Head, ReadError, Side, kind};
use crate::base::id::Oid;
use crate::chunk::{Piece, Survey};

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

impl Place {
    /// Where in the file it ends.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.at + u64::from(self.piece.len)
    }
}

/// A node, and where what it lists begins.
#[derive(Debug, Clone, Copy)]
struct Spot {
    child: Child,
    index: u32,
    at: u64,
    side: Side,
}

fn open_top<E>(head: &Head, get: &mut Get<E>) -> Result<Entries, ReadError<E>> {
    let bytes = get(&head.top, kind(head.level)).map_err(ReadError::Get)?;
    let bad = |e| ReadError::Bad(head.top, e);
    let entries = Entries::decode(head.level, &bytes, Side::Top).map_err(bad)?;
    let (sum, _) = entries.sums();
    if sum != head.len {
        return Err(bad(BadManifest::Sum(sum, head.len)));
    }
    Ok(entries)
}

fn open<E>(s: &Spot, level: u8, get: &mut Get<E>) -> Result<Entries, ReadError<E>> {
    let c = &s.child;
    let bytes = get(&c.id, kind(level)).map_err(ReadError::Get)?;
    let bad = |e| ReadError::Bad(c.id, e);
    let entries = Entries::decode(level, &bytes, s.side).map_err(bad)?;
    let (sum, pieces) = entries.sums();
    if sum != c.bytes {
        return Err(bad(BadManifest::Sum(sum, c.bytes)));
    }
    if pieces != u64::from(c.pieces) {
        return Err(bad(BadManifest::Count(pieces, c.pieces.into())));
    }
    Ok(entries)
}

/// What of a node that is open comes next, and where.
#[derive(Debug)]
struct Frame {
    level: u8,
    side: Side,
    entries: Entries,
    next: usize,
    index: u32,
    at: u64,
    first: u32,
    begin: u64,
    end: u64,
}

enum Next {
    Piece(Place),
    Node(Spot),
    End,
}

impl Frame {
    fn new(level: u8, entries: Entries, spot: Option<&Spot>) -> Self {
        let (first, begin, side) = spot.map_or((0, 0, Side::Top), |s| (s.index, s.at, s.side));
        Self {
            level,
            side,
            next: 0,
            index: first,
            at: begin,
            first,
            begin,
            end: begin + entries.sums().0,
            entries,
        }
    }

    fn next(&self) -> Next {
        let (index, at) = (self.index, self.at);
        match &self.entries {
            Entries::Pieces(pieces) => pieces.get(self.next).map_or(Next::End, |p| {
                let piece = *p;
                Next::Piece(Place { index, at, piece })
            }),
            Entries::Children(children) => children.get(self.next).map_or(Next::End, |c| {
                let is_last = self.side != Side::Inner && self.next + 1 == children.len();
                let side = if is_last { Side::Last } else { Side::Inner };
                Next::Node(Spot {
                    child: *c,
                    index,
                    at,
                    side,
                })
            }),
        }
    }

    fn skip(&mut self) {
        let (bytes, pieces) = match &self.entries {
            Entries::Pieces(p) => p.get(self.next).map_or((0, 0), |p| (p.len.into(), 1)),
            Entries::Children(c) => c.get(self.next).map_or((0, 0), |c| (c.bytes, c.pieces)),
        };
        self.at += bytes;
        self.index += pieces;
        self.next += 1;
    }

    /// Goes to the entry that holds the byte at `offset`, or to the first or behind the last one.
    fn seek(&mut self, offset: u64) {
        (self.next, self.index, self.at) = (0, self.first, self.begin);
        loop {
            let end = match self.next() {
                Next::Piece(p) => p.end(),
                Next::Node(s) => s.at + s.child.bytes,
                Next::End => return,
            };
            if offset < end {
                return;
            }
            self.skip();
        }
    }
}

/// A place in a manifest. Nodes that are open stay so: the next piece, and one nearby, mostly
/// need no other.
#[derive(Debug)]
pub struct Cursor {
    head: Head,
    want: u64,
    stack: Vec<Frame>,
}

impl Cursor {
    /// Begins at the piece that holds the byte at `offset`. Opens nothing yet.
    #[must_use]
    pub fn new(head: &Head, offset: u64) -> Self {
        Self {
            head: *head,
            want: offset,
            stack: Vec::new(),
        }
    }

    /// Goes to the piece that holds the byte at `offset`, anywhere.
    pub fn seek(&mut self, offset: u64) {
        self.want = offset;
        let is_outside = |f: &Frame| f.side != Side::Top && !(f.begin..f.end).contains(&offset);
        while self.stack.last().is_some_and(is_outside) {
            self.stack.pop();
        }
        if let Some(f) = self.stack.last_mut() {
            f.seek(offset);
        }
    }

    /// The next piece; none behind the last one. Opens a path of nodes at most.
    ///
    /// # Errors
    /// When a node is missing or wrong; the same piece is the next one then.
    pub fn next<E>(&mut self, get: &mut Get<E>) -> Result<Option<Place>, ReadError<E>> {
        if self.stack.is_empty() {
            let entries = open_top(&self.head, get)?;
            self.push(Frame::new(self.head.level, entries, None));
        }
        loop {
            let Some(f) = self.stack.last_mut() else {
                return Ok(None);
            };
            match f.next() {
                Next::Piece(place) => {
                    f.skip();
                    return Ok(Some(place));
                }
                Next::Node(spot) => {
                    let level = f.level - 1;
                    let entries = open(&spot, level, get)?;
                    self.push(Frame::new(level, entries, Some(&spot)));
                }
                Next::End if f.side == Side::Top => return Ok(None),
                Next::End => {
                    self.stack.pop();
                    if let Some(above) = self.stack.last_mut() {
                        above.skip();
                    }
                }
            }
        }
    }

    fn push(&mut self, mut f: Frame) {
        f.seek(self.want);
        self.stack.push(f);
    }
}

/// Reads a manifest as a whole. Look at the length first if it comes from somebody: the list takes
/// 36 bytes for each 64 KiB that the head says the file has.
///
/// # Errors
/// When a node is missing or wrong.
pub fn read<E>(head: &Head, get: &mut Get<E>) -> Result<Survey, ReadError<E>> {
    let mut cursor = Cursor::new(head, 0);
    let mut pieces = Vec::new();
    while let Some(place) = cursor.next(get)? {
        pieces.push(place.piece);
    }
    Ok(Survey {
        len: head.len,
        sha256: head.sha256,
        pieces,
    })
}

/// The piece that holds the byte at `offset`, if the file has one there. Opens a path of nodes.
///
/// # Errors
/// When a node on the path is missing or wrong.
pub fn piece_at<E>(
    head: &Head,
    offset: u64,
    get: &mut Get<E>,
) -> Result<Option<Place>, ReadError<E>> {
    if offset >= head.len {
        return Ok(None);
    }
    Cursor::new(head, offset).next(get)
}

/// All pieces of a file, in order, holding one node of each level at a time. Ends behind an
/// error.
pub fn pieces<'a, E: 'a>(
    head: &Head,
    get: &'a mut Get<'a, E>,
) -> impl Iterator<Item = Result<Place, ReadError<E>>> + use<'a, E> {
    let mut cursor = Some(Cursor::new(head, 0));
    std::iter::from_fn(move || {
        let next = cursor.as_mut()?.next(get).transpose();
        if !matches!(next, Some(Ok(_))) {
            cursor = None;
        }
        next
    })
}

/// The pieces of a file in leaves that another has not, in order.
#[derive(Debug)]
pub struct Diff {
    leaves: vec::IntoIter<Spot>,
    open: Option<Frame>,
    bytes: u64,
}

impl Diff {
    /// Bytes of all that there are, from the first on.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next piece.
    ///
    /// # Errors
    /// When a node is missing or wrong; the same piece is the next one then.
    pub fn next<E>(&mut self, get: &mut Get<E>) -> Result<Option<Place>, ReadError<E>> {
        loop {
            if let Some(f) = &mut self.open
                && let Next::Piece(place) = f.next()
            {
                f.skip();
                return Ok(Some(place));
            }
            let Some(spot) = self.leaves.as_slice().first() else {
                return Ok(None);
            };
            self.open = Some(Frame::new(0, open(spot, 0, get)?, Some(spot)));
            self.leaves.next();
        }
    }
}

/// The nodes below these.
fn below<E>(spots: &[Spot], level: u8, get: &mut Get<E>) -> Result<Vec<Spot>, ReadError<E>> {
    let mut out = Vec::new();
    for s in spots {
        list(Frame::new(level, open(s, level, get)?, Some(s)), &mut out);
    }
    Ok(out)
}

fn list(mut f: Frame, out: &mut Vec<Spot>) {
    while let Next::Node(s) = f.next() {
        out.push(s);
        f.skip();
    }
}

/// Where a new file differs from an old one: what of it a node may lack that has the old one.
/// Opens only nodes of both that the other has not, and no leaves. A piece that moved, or is near
/// one that changed, may be listed although the old file has it; none is left out.
///
/// # Errors
/// When a node that differs is missing or wrong.
pub fn diff<E>(old: &Head, new: &Head, get: &mut Get<E>) -> Result<Diff, ReadError<E>> {
    let (mut new_spots, mut old_spots) = (Vec::new(), Vec::new());
    if (old.top, old.level) != (new.top, new.level) {
        for (head, spots) in [(new, &mut new_spots), (old, &mut old_spots)] {
            list(Frame::new(head.level, open_top(head, get)?, None), spots);
        }
    }
    // The levels of what is listed.
    let (mut new_level, mut old_level) = (new.level - 1, old.level - 1);
    loop {
        if new_level == old_level {
            let ids = |s: &[Spot]| s.iter().map(|s| s.child.id).collect::<HashSet<Oid>>();
            let (has, wanted) = (ids(&old_spots), ids(&new_spots));
            new_spots.retain(|s| !has.contains(&s.child.id));
            old_spots.retain(|s| !wanted.contains(&s.child.id));
            if new_level == 0 {
                break;
            }
        }
        let (new_is, old_is) = (new_level, old_level);
        if new_is >= old_is {
            new_spots = below(&new_spots, new_level, get)?;
            new_level -= 1;
        }
        if old_is >= new_is {
            old_spots = below(&old_spots, old_level, get)?;
            old_level -= 1;
        }
    }
    let bytes = new_spots.iter().map(|s| s.child.bytes).sum();
    Ok(Diff {
        leaves: new_spots.into_iter(),
        open: None,
        bytes,
    })
}
