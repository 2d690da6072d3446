//! Where a file is cut, and the names of what lies between the cuts.
//!
//! FastCDC, 2020 edition, normalization level 1. The cut points are a format: two nodes that cut
//! one content differently share nothing, so tests pin them.
//!
//! Invariant: from a cut on, where the next one is follows from the bytes behind it alone: those
//! up to the next cut and two more, or all up to the end. Everything here rests on that: a hole
//! of zeros need not be read, and cutting anew ends where a new cut meets an old one.
//!
//! Memory: three blocks of 3 MiB and what is left of one, 10 MiB at most. Threads: the caller's
//! reads, cuts and hashes pieces; a second one, which ends with the call, hashes the whole.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use fastcdc::v2020::{Normalization, select_masks};
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use sha2::Digest;

use super::{ChunkId, FILE_BYTES_MAX, Piece, Sha256, Survey};
use super::{PIECE_BYTES_MAX, PIECE_BYTES_MIN, PIECE_BYTES_USUAL};

/// Bytes read at once.
const BLOCK_BYTES: usize = 2 << 20;
/// Blocks that exist at most.
const BLOCKS: usize = 3;
/// Zeros to hash, few enough to stay in the nearest cache.
static ZEROS: [u8; 16 << 10] = [0; 16 << 10];

/// Sizes that pieces have. Only tests have others than the format's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cutter {
    min: usize,
    usual: usize,
    max: usize,
    mask_strict: u64,
    mask_loose: u64,
}

impl Cutter {
    pub(crate) fn new(min: u32, usual: u32, max: u32) -> Self {
        let (mask_strict, mask_loose) = select_masks(usual as usize, Normalization::Level1);
        Self {
            min: min as usize,
            usual: usual as usize,
            max: max as usize,
            mask_strict,
            mask_loose,
        }
    }

    /// That of the format.
    pub(crate) fn standard() -> Self {
        Self::new(PIECE_BYTES_MIN, PIECE_BYTES_USUAL, PIECE_BYTES_MAX)
    }

    /// Length of the first piece of bytes that go on for `max`, or to the end of the file.
    fn first(&self, bytes: &[u8]) -> usize {
        let (_, len) = fastcdc::v2020::cut(
            bytes,
            self.min,
            self.usual,
            self.max,
            self.mask_strict,
            self.mask_loose,
            self.mask_strict << 1,
            self.mask_loose << 1,
        );
        len
    }

    /// Cuts off the first piece. The bytes must not be none.
    fn piece<'a>(&self, bytes: &'a [u8]) -> (Piece, &'a [u8]) {
        let (piece, rest) = bytes.split_at(self.first(bytes));
        let named = Piece {
            id: ChunkId::of(piece),
            len: u32::try_from(piece.len()).expect("at most the largest piece"),
        };
        (named, rest)
    }

    /// Cuts off all pieces that what may follow cannot change; what is left is shorter than a
    /// largest piece. With `last`, nothing follows and nothing is left.
    fn pieces<'a>(&self, mut bytes: &'a [u8], last: bool, out: &mut Vec<Piece>) -> &'a [u8] {
        while !bytes.is_empty() && (last || bytes.len() >= self.max) {
            let (piece, rest) = self.piece(bytes);
            out.push(piece);
            bytes = rest;
        }
        bytes
    }

    fn zeros(&self) -> Piece {
        self.piece(&vec![0; self.max]).0
    }
}

/// Where a file has bytes and where it has holes. The file system is asked once for each run: some
/// look through all of it to answer.
struct Runs<'a> {
    file: &'a File,
    len: u64,
    is_hole: bool,
    end: u64,
}

/// A run of a file.
enum Run {
    Bytes(Range<u64>),
    Zeros(Range<u64>),
}

impl<'a> Runs<'a> {
    fn of(file: &'a File, len: u64) -> Self {
        Self {
            file,
            len,
            is_hole: false,
            end: 0,
        }
    }

    /// What begins at `at`, which is below the length and not below that of the last call. A file
    /// system that knows no holes has none.
    fn at(&mut self, at: u64) -> io::Result<Run> {
        if at >= self.end {
            (self.is_hole, self.end) = self.ask(at)?;
        }
        let r = at..self.end;
        Ok(if self.is_hole {
            Run::Zeros(r)
        } else {
            Run::Bytes(r)
        })
    }

    fn ask(&self, at: u64) -> io::Result<(bool, u64)> {
        let len = self.len;
        match rustix::fs::seek(self.file, SeekFrom::Data(at)) {
            Ok(data) if data > at => Ok((true, data.min(len))),
            Ok(_) => {
                let hole = rustix::fs::seek(self.file, SeekFrom::Hole(at));
                Ok((false, hole.unwrap_or(len).clamp(at + 1, len)))
            }
            Err(Errno::NXIO) if self.file.metadata()?.len() >= len => Ok((true, len)),
            Err(Errno::NXIO) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok((false, len)),
            Err(e) => Err(e.into()),
        }
    }
}

fn length(file: &File) -> io::Result<u64> {
    let len = file.metadata()?.len();
    if len > FILE_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("{len} bytes are more than the {FILE_BYTES_MAX} of the longest file"),
        ));
    }
    Ok(len)
}

/// What the thread that hashes the whole gets.
enum Part {
    /// A block, and where in it new bytes are.
    Bytes(Arc<Vec<u8>>, Range<usize>),
    Zeros(u64),
}

fn hash_zeros(hash: &mut sha2::Sha256, mut len: u64) {
    while len > 0 {
        let n = len.min(ZEROS.len() as u64);
        let n = usize::try_from(n).unwrap_or(ZEROS.len());
        hash.update(&ZEROS[..n]);
        len -= n as u64;
    }
}

/// Hashes what comes, and gives the blocks back.
fn hash_whole(parts: &Receiver<Part>, back: &SyncSender<Arc<Vec<u8>>>) -> Sha256 {
    let mut hash = sha2::Sha256::new();
    for part in parts {
        match part {
            Part::Zeros(len) => hash_zeros(&mut hash, len),
            Part::Bytes(block, fresh) => {
                hash.update(block.get(fresh).unwrap_or_default());
                // Nobody waits for blocks at the end.
                let _nobody = back.send(block);
            }
        }
    }
    Sha256(hash.finalize().into())
}

/// The blocks that a survey reads into, one after the other.
struct Blocks {
    made: usize,
    back: Receiver<Arc<Vec<u8>>>,
}

impl Blocks {
    /// A block of some bytes; waits for one that the other thread has done with.
    fn next(&mut self) -> io::Result<Vec<u8>> {
        if self.made == BLOCKS {
            let block = self.back.recv().map_err(|_| died())?;
            return Ok(Arc::try_unwrap(block).expect("this thread keeps none"));
        }
        self.made += 1;
        Ok(vec![0; BLOCK_BYTES + PIECE_BYTES_MAX as usize])
    }
}

fn died() -> io::Error {
    io::Error::other("the thread that hashes the file died")
}

/// Reads a file once: its length, the name of the whole, and its pieces.
///
/// Who writes to the file meanwhile gets the survey of some mixture of what was there, but all
/// of it of the same. Takes as long as the slower of two: cutting and hashing the pieces, or
/// hashing the whole. Holes are not read; their zeros are hashed for the whole. The position of
/// `file` moves.
///
/// # Errors
/// As the file system; when the file became shorter; when it is longer than
/// [`FILE_BYTES_MAX`].
pub fn survey(file: &File) -> io::Result<Survey> {
    survey_with(&Cutter::standard(), file, &mut |_, _| Ok(()))
}

/// The same, and hands out each piece with its bytes, in order, but for the largest piece of zeros:
/// whoever keeps them has exactly what the survey names, whoever wrote to the file meanwhile.
///
/// # Errors
/// As [`survey`] and `each`, whose first error ends it.
pub fn survey_into(file: &File, each: &mut Each<'_>) -> io::Result<Survey> {
    survey_with(&Cutter::standard(), file, each)
}

/// What is done with a piece and its bytes.
pub type Each<'a> = dyn FnMut(&Piece, &[u8]) -> io::Result<()> + 'a;

pub(crate) fn survey_with(cutter: &Cutter, file: &File, each: &mut Each<'_>) -> io::Result<Survey> {
    let len = length(file)?;
    let (give, parts) = sync_channel(BLOCKS);
    let (back, blocks) = sync_channel(BLOCKS);
    std::thread::scope(|s| {
        let whole = std::thread::Builder::new()
            .name("cellfs-sha256".to_owned())
            .spawn_scoped(s, move || hash_whole(&parts, &back))?;
        let mut blocks = Blocks {
            made: 0,
            back: blocks,
        };
        let pieces = read_pieces(cutter, (file, len), &mut blocks, &give, each);
        drop(give);
        drop(blocks);
        let sha256 = whole.join().map_err(|_| died())?;
        Ok(Survey {
            len,
            sha256,
            pieces: pieces?,
        })
    })
}

fn read_pieces(
    cutter: &Cutter,
    (file, len): (&File, u64),
    blocks: &mut Blocks,
    give: &SyncSender<Part>,
    each: &mut Each<'_>,
) -> io::Result<Vec<Piece>> {
    let give = |part| give.send(part).map_err(|_| died());
    let mut out = Vec::new();
    // What no cut ends yet: shorter than a largest piece.
    let mut rest: Vec<u8> = Vec::new();
    let mut at = 0;
    let mut runs = Runs::of(file, len);
    while at < len {
        match runs.at(at)? {
            Run::Zeros(r) => {
                at = r.end;
                give(Part::Zeros(r.end - r.start))?;
                cut_zeros(
                    cutter,
                    r.end - r.start,
                    at == len,
                    &mut rest,
                    &mut out,
                    each,
                )?;
            }
            Run::Bytes(r) => {
                let mut block = blocks.next()?;
                let (before, fresh) = block.split_at_mut(rest.len());
                before.copy_from_slice(&rest);
                let want = usize::try_from(r.end - at).map_or(BLOCK_BYTES, |n| n.min(BLOCK_BYTES));
                file.read_exact_at(&mut fresh[..want], at)?;
                at += want as u64;
                let end = rest.len() + want;
                let block = Arc::new(block);
                give(Part::Bytes(block.clone(), rest.len()..end))?;
                let known = out.len();
                let left = cutter.pieces(&block[..end], at == len, &mut out);
                hand_out(&block[..end], &out[known..], each)?;
                rest.clear();
                rest.extend_from_slice(left);
            }
        }
    }
    Ok(out)
}

/// Hands out pieces that bytes begin with.
fn hand_out(mut bytes: &[u8], pieces: &[Piece], each: &mut Each<'_>) -> io::Result<()> {
    for p in pieces {
        let (piece, rest) = bytes.split_at(p.len as usize);
        each(p, piece)?;
        bytes = rest;
    }
    Ok(())
}

/// Cuts what is left of what came before, and so many zeros behind it.
fn cut_zeros(
    cutter: &Cutter,
    mut zeros: u64,
    last: bool,
    rest: &mut Vec<u8>,
    out: &mut Vec<Piece>,
    each: &mut Each<'_>,
) -> io::Result<()> {
    let mut of_zeros = 0;
    while zeros > 0 {
        if rest.is_empty() && zeros >= cutter.max as u64 {
            let piece = cutter.zeros();
            let n = (zeros - cutter.max as u64) / u64::from(piece.len) + 1;
            out.extend(std::iter::repeat_n(piece, usize::try_from(n).unwrap_or(0)));
            zeros -= n * u64::from(piece.len);
            continue;
        }
        let n = zeros.min((cutter.max - rest.len()) as u64);
        zeros -= n;
        let n = usize::try_from(n).unwrap_or(0);
        of_zeros += n;
        rest.resize(rest.len() + n, 0);
        let known = out.len();
        let left = cutter.pieces(rest, last && zeros == 0, out).len();
        hand_out(rest, &out[known..], each)?;
        rest.drain(..rest.len() - left);
        if left <= of_zeros && zeros > 0 {
            // The cut is within the hole: count what is behind it among the zeros again.
            zeros += left as u64;
            of_zeros = 0;
            rest.clear();
        }
    }
    Ok(())
}

/// The name of a whole file: what [`survey`] finds, without its pieces. Holes are not read.
///
/// # Errors
/// As [`survey`].
pub fn sha256(file: &File) -> io::Result<Sha256> {
    let len = length(file)?;
    let mut hash = sha2::Sha256::new();
    let mut buf = Vec::new();
    let mut at = 0;
    let mut runs = Runs::of(file, len);
    while at < len {
        match runs.at(at)? {
            Run::Zeros(r) => {
                hash_zeros(&mut hash, r.end - at);
                at = r.end;
            }
            Run::Bytes(r) => {
                let n = usize::try_from(r.end - at).map_or(1 << 20, |n| n.min(1 << 20));
                buf.resize(n, 0);
                file.read_exact_at(&mut buf, at)?;
                hash.update(&buf);
                at += n as u64;
            }
        }
    }
    Ok(Sha256(hash.finalize().into()))
}

/// Ranges in order that do not touch.
fn in_order(changed: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut sorted: Vec<_> = changed.iter().filter(|r| !r.is_empty()).cloned().collect();
    sorted.sort_unstable_by_key(|r| r.start);
    let mut out: Vec<Range<u64>> = Vec::with_capacity(sorted.len());
    for r in sorted {
        match out.last_mut() {
            Some(last) if last.end >= r.start => last.end = last.end.max(r.end),
            _ => out.push(r),
        }
    }
    out
}

/// Bytes of a file around a place, read a few pieces at a time.
struct Window<'a> {
    file: &'a File,
    len: u64,
    at: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// So many bytes from `at` on, or all to the end. It only ever moves forward.
    fn from(&mut self, at: u64, want: usize) -> io::Result<&[u8]> {
        let past = usize::try_from(at - self.at).unwrap_or(usize::MAX);
        self.bytes.drain(..past.min(self.bytes.len()));
        self.at = at;
        let have = self.bytes.len();
        let to_end = usize::try_from(self.len - at).unwrap_or(usize::MAX);
        if have < want.min(to_end) {
            self.bytes.resize(to_end.min(2 * want), 0);
            if let Some(fresh) = self.bytes.get_mut(have..) {
                self.file.read_exact_at(fresh, at + have as u64)?;
            }
        }
        Ok(&self.bytes)
    }
}

/// The pieces of a file that had the pieces `old`, when it differs in these ranges at most; its
/// length may differ, too. What [`survey`] finds, but only what changed is read, and what
/// follows it until a cut meets an old one: some pieces for each range, and a copy of the list.
///
/// # Errors
/// As [`survey`].
pub fn resurvey(file: &File, old: &[Piece], changed: &[Range<u64>]) -> io::Result<Vec<Piece>> {
    resurvey_with(&Cutter::standard(), file, old, changed)
}

fn resurvey_with(
    cutter: &Cutter,
    file: &File,
    old: &[Piece],
    changed: &[Range<u64>],
) -> io::Result<Vec<Piece>> {
    let len = length(file)?;
    let was: u64 = old.iter().map(|p| u64::from(p.len)).sum();
    let mut changed = changed.to_vec();
    changed.push(was.min(len)..was.max(len));
    let changed = in_order(&changed);
    // A cut was found where it is by looking at two bytes behind it at most.
    let same = |from: u64, end: u64| {
        let first = changed.partition_point(|r| r.end <= from);
        changed.get(first).is_none_or(|r| r.start >= end + 2)
    };
    let mut window = Window {
        file,
        len,
        at: 0,
        bytes: Vec::new(),
    };
    let mut zeros = None;
    let mut runs = Runs::of(file, len);
    let mut out = Vec::with_capacity(old.len());
    let (mut at, mut olds, mut old_at) = (0, old.iter(), 0);
    let mut next = olds.next();
    while at < len {
        while let Some(p) = next
            && old_at < at
        {
            old_at += u64::from(p.len);
            next = olds.next();
        }
        let kept = next.filter(|_| old_at == at).copied();
        let piece = match kept {
            Some(p) if at + u64::from(p.len) <= len && same(at, at + u64::from(p.len)) => p,
            _ => match runs.at(at)? {
                Run::Zeros(r) if r.end - at >= cutter.max as u64 => {
                    *zeros.get_or_insert_with(|| cutter.zeros())
                }
                _ => cutter.piece(window.from(at, cutter.max)?).0,
            },
        };
        out.push(piece);
        at += u64::from(piece.len);
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
