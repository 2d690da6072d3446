//! One segment as it stands on the disk: frames, and what is behind the last whole one.
//!
//! Behind it is nothing, or zeros, or what a crash left of entries that were never synced; or the
//! disk gave back other bytes than it got. The last is told from the others by whole frames that
//! follow. Invariant: nothing here panics, whatever the bytes, and what a frame's checksum does not
//! vouch for is no entry. Plain functions; no threads.

use super::entry::Entry;

pub(super) const MAGIC: &[u8; 8] = b"cellfsJ1";
const _: () = assert!(MAGIC[7] == b'0' + crate::base::format::JOURNAL);
/// Longest frame that recovery believes.
pub(super) const FRAME_BYTES_MAX: u32 = 64 << 20;
/// Frames are looked for behind damage: no longer ones, and by no more work than this.
const SOUGHT_BYTES_MAX: u32 = 256 << 10;
const SEARCH_BYTES_MAX: u64 = 1 << 30;
/// Entries begin with their kind.
const KINDS: u8 = 5;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Segment {
    /// Whole entries, from the first on.
    pub(super) entries: Vec<Entry>,
    /// Length of the part that they are in.
    pub(super) good: u64,
    /// What is behind it.
    pub(super) rest: Rest,
}

/// What is behind the last whole entry.
#[derive(Debug, Default, PartialEq)]
pub(super) enum Rest {
    /// Nothing, or zeros.
    #[default]
    Empty,
    /// So many bytes that are no whole entry.
    Torn(u64),
    /// Bytes that are no entry, and then entries.
    Damaged(Vec<Entry>),
    /// It was written by another version of the program.
    Foreign,
}

/// The first frame: its entry, its size, and what follows. `None` when it is not whole.
fn read_frame(bytes: &[u8], longest: u32) -> Option<(Entry, u64, &[u8])> {
    let (len, after) = bytes.split_first_chunk::<4>()?;
    let (crc, after) = after.split_first_chunk::<4>()?;
    let len = u32::from_le_bytes(*len);
    // 0: nothing was written there yet.
    if len == 0 || len > longest {
        return None;
    }
    let (payload, after) = after.split_at_checked(len as usize)?;
    if *payload.first()? >= KINDS || crc32fast::hash(payload) != u32::from_le_bytes(*crc) {
        return None;
    }
    let e = postcard::from_bytes(payload).ok()?;
    Some((e, 8 + u64::from(len), after))
}

/// Whole frames from the beginning on, their length, and what follows.
fn read_frames(mut rest: &[u8]) -> (Vec<Entry>, u64, &[u8]) {
    let (mut out, mut good) = (Vec::new(), 0);
    while let Some((e, size, after)) = read_frame(rest, FRAME_BYTES_MAX) {
        out.push(e);
        good += size;
        rest = after;
    }
    (out, good, rest)
}

/// Reads a segment.
pub(super) fn read(bytes: &[u8]) -> Segment {
    if bytes.iter().all(|b| *b == 0) {
        return Segment::default();
    }
    let mut good = 0;
    let mut entries = Vec::new();
    let mut rest = bytes;
    if let Some(after) = bytes.strip_prefix(MAGIC.as_slice()) {
        let (found, len, behind) = read_frames(after);
        (entries, good, rest) = (found, MAGIC.len() as u64 + len, behind);
    } else if let Some(name) = MAGIC.split_last().map(|(_, name)| name)
        && bytes.len() >= MAGIC.len()
        && bytes.starts_with(name)
    {
        let rest = Rest::Foreign;
        return Segment {
            entries,
            good,
            rest,
        };
    }
    let zeros = rest.iter().rev().take_while(|b| **b == 0).count();
    let written = rest.len() - zeros;
    let rest = if written == 0 {
        Rest::Empty
    } else {
        match behind_damage(rest) {
            Some(entries) => Rest::Damaged(entries),
            None => Rest::Torn(written as u64),
        }
    };
    Segment {
        entries,
        good,
        rest,
    }
}

/// Entries that follow bytes that are none. `None` when there are none; none at all when it took
/// too long to look for them.
fn behind_damage(mut bytes: &[u8]) -> Option<Vec<Entry>> {
    let mut out = Vec::new();
    let mut work = 0;
    loop {
        match next_frame(bytes, &mut work) {
            Next::At(at) => {
                let (found, _, rest) = read_frames(bytes.get(at..).unwrap_or_default());
                out.extend(found);
                bytes = rest;
            }
            Next::TooLong => return Some(out),
            Next::None => return (!out.is_empty()).then_some(out),
        }
    }
}

enum Next {
    At(usize),
    None,
    TooLong,
}

/// Where the next whole frame begins behind one that is not whole.
fn next_frame(bytes: &[u8], work: &mut u64) -> Next {
    // Its length may be right.
    if let Some(len) = bytes.first_chunk::<4>()
        && let Some(at) = (u32::from_le_bytes(*len) as usize).checked_add(8)
        && let Some(behind) = bytes.get(at..)
        && read_frame(behind, FRAME_BYTES_MAX).is_some()
    {
        return Next::At(at);
    }
    for at in 1..bytes.len() {
        let Some(here) = bytes.get(at..) else { break };
        let Some(len) = here.first_chunk::<4>().map(|l| u32::from_le_bytes(*l)) else {
            break;
        };
        if len == 0 || len > SOUGHT_BYTES_MAX || here.get(8).is_none_or(|kind| *kind >= KINDS) {
            continue;
        }
        *work += u64::from(len);
        if *work > SEARCH_BYTES_MAX {
            return Next::TooLong;
        }
        if read_frame(here, SOUGHT_BYTES_MAX).is_some() {
            return Next::At(at);
        }
    }
    Next::None
}
