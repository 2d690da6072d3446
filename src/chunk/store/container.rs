//! Containers: files that are the whole content of one large file, or become it, each with a
//! sidecar that says what its pieces are and which of them are there.
//!
//! Invariant: a sidecar says that a piece is there only after its bytes are durable. A sidecar
//! is made before its file is: one without a file is nothing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk;
use crate::base::format;
use crate::base::id::Oid;
use crate::chunk::{ChunkId, FILE_BYTES_MAX, PIECE_BYTES_MAX, Piece, Sha256, Survey};

const MAGIC: &[u8; 8] = b"cellfsC1";
const _: () = assert!(MAGIC[7] == b'0' + format::CHUNKS);
const HEAD_BYTES: usize = 52;
const MARK_BYTES: usize = 16;

/// So many pieces from one on are there, or are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) from: u32,
    pub(super) count: u32,
    pub(super) there: bool,
}

pub(super) fn encode_marks(marks: &[Mark]) -> Vec<u8> {
    let mut out = Vec::with_capacity(marks.len() * MARK_BYTES);
    for m in marks {
        let begin = out.len();
        out.extend_from_slice(&m.from.to_le_bytes());
        out.extend_from_slice(&m.count.to_le_bytes());
        out.extend_from_slice(&u32::from(m.there).to_le_bytes());
        let crc = crc32fast::hash(out.get(begin..).unwrap_or_default());
        out.extend_from_slice(&crc.to_le_bytes());
    }
    out
}

fn number(bytes: &mut &[u8]) -> Option<u32> {
    let (n, rest) = bytes.split_first_chunk::<4>()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*n))
}

fn decode_mark(bytes: &[u8], pieces: usize) -> Option<Mark> {
    let (mut body, crc) = bytes.split_last_chunk::<4>()?;
    if body.len() + 4 != MARK_BYTES || crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let m = Mark {
        from: number(&mut body)?,
        count: number(&mut body)?,
        there: number(&mut body)? == 1,
    };
    (u64::from(m.from) + u64::from(m.count) <= pieces as u64).then_some(m)
}

/// Marks that say that these pieces are there, in as few as it takes.
pub(super) fn marks_of(mut there: Vec<(u32, bool)>) -> Vec<Mark> {
    let mut out: Vec<Mark> = Vec::new();
    // The last word on each piece counts; sorting keeps the order of words on one piece.
    there.sort_by_key(|(n, _)| *n);
    for (n, there) in there {
        match out.last_mut() {
            Some(m) if m.from + m.count == n && m.there == there => m.count += 1,
            _ => out.push(Mark {
                from: n,
                count: 1,
                there,
            }),
        }
    }
    out
}

pub(super) fn data_path(dir: &Path, sha256: &Sha256) -> PathBuf {
    dir.join(format!("containers/{sha256}.data"))
}

pub(super) fn sidecar_path(dir: &Path, sha256: &Sha256) -> PathBuf {
    dir.join(format!("containers/{sha256}.pieces"))
}

/// A container as the store has it in memory: 48 bytes for each piece.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) sha256: Sha256,
    pub(super) len: u64,
    /// Each piece, and where it begins.
    pub(super) pieces: Vec<(Piece, u64)>,
    there: Vec<u64>,
    pub(super) count: u32,
    pub(super) bytes: u64,
    /// Bytes of the sidecar that are durable.
    pub(super) listed: u64,
    /// What the sidecar does not say yet.
    pub(super) pending: Vec<(u32, bool)>,
    /// Open while there is something that is not durable, so that no failed write is missed.
    pub(super) file: Option<Arc<File>>,
    /// How often a sync failed: what was written meanwhile is not certain.
    pub(super) faults: u32,
    /// It is being taken away: nothing that is only here counts as here.
    pub(super) leaving: bool,
    /// The head of the manifest of its pieces, once somebody asked.
    pub(super) head: Option<Oid>,
}

impl Container {
    pub(super) fn new(sha256: Sha256, pieces: &[Piece]) -> Self {
        let mut at = 0;
        let pieces: Vec<_> = pieces
            .iter()
            .map(|p| {
                let begin = at;
                at += u64::from(p.len);
                (*p, begin)
            })
            .collect();
        Self {
            sha256,
            len: at,
            there: vec![0; pieces.len().div_ceil(64)],
            pieces,
            count: 0,
            bytes: 0,
            listed: 0,
            pending: Vec::new(),
            file: None,
            faults: 0,
            leaving: false,
            head: None,
        }
    }

    pub(super) fn total(&self) -> u32 {
        u32::try_from(self.pieces.len()).expect("a file has fewer")
    }

    pub(super) fn is_complete(&self) -> bool {
        self.count as usize == self.pieces.len()
    }

    pub(super) fn has(&self, index: u32) -> bool {
        let word = self.there.get(index as usize / 64);
        word.is_some_and(|w| w & (1 << (index % 64)) != 0)
    }

    pub(super) fn set(&mut self, index: u32, there: bool) {
        let Some((piece, _)) = self.pieces.get(index as usize) else {
            return;
        };
        if self.has(index) == there {
            return;
        }
        if let Some(w) = self.there.get_mut(index as usize / 64) {
            *w ^= 1 << (index % 64);
        }
        if there {
            self.count += 1;
            self.bytes += u64::from(piece.len);
        } else {
            self.count -= 1;
            self.bytes -= u64::from(piece.len);
        }
    }

    fn apply(&mut self, m: Mark) {
        for n in m.from..m.from + m.count {
            self.set(n, m.there);
        }
    }

    /// The pieces that are there, by their numbers.
    pub(super) fn present(&self) -> impl Iterator<Item = (u32, ChunkId)> + '_ {
        let all = (0u32..).zip(&self.pieces);
        all.filter(|(n, _)| self.has(*n))
            .map(|(n, (p, _))| (n, p.id))
    }

    /// The sidecar without marks.
    fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&self.len.to_le_bytes());
        out.extend_from_slice(&self.sha256.0);
        out.extend_from_slice(&self.total().to_le_bytes());
        for (p, _) in &self.pieces {
            out.extend_from_slice(&p.id.0);
            out.extend_from_slice(&p.len.to_le_bytes());
        }
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, _) = bytes.split_first_chunk::<HEAD_BYTES>()?;
        let rest = head.strip_prefix(MAGIC.as_slice())?;
        let (len, rest) = rest.split_first_chunk::<8>()?;
        let (sha256, mut count) = rest.split_first_chunk::<32>()?;
        let count = number(&mut count)? as usize;
        let end = HEAD_BYTES.checked_add(count.checked_mul(36)?)?;
        let (body, rest) = bytes.split_at_checked(end)?;
        let (crc, marks) = rest.split_first_chunk::<4>()?;
        if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
            return None;
        }
        let mut pieces = Vec::with_capacity(count);
        for entry in body.get(HEAD_BYTES..)?.chunks_exact(36) {
            let (id, mut len) = entry.split_first_chunk::<32>()?;
            let len = number(&mut len)?;
            let id = ChunkId(*id);
            pieces.push(Piece { id, len });
        }
        let len = u64::from_le_bytes(*len);
        if !adds_up(&pieces, len) {
            return None;
        }
        let mut c = Self::new(Sha256(*sha256), &pieces);
        c.listed = (end + 4) as u64;
        for m in marks.chunks(MARK_BYTES) {
            let Some(m) = decode_mark(m, count) else {
                break;
            };
            c.apply(m);
            c.listed += MARK_BYTES as u64;
        }
        Some(c)
    }

    /// Writes the sidecar beside its name, synced, with all pieces there or none. Nothing counts
    /// until it is published.
    pub(super) fn write_sidecar(&mut self, dir: &Path, all: bool) -> io::Result<()> {
        let mut bytes = self.encode();
        if all {
            let m = Mark {
                from: 0,
                count: self.total(),
                there: true,
            };
            bytes.extend_from_slice(&encode_marks(&[m]));
            self.apply(m);
        }
        let beside = sidecar_path(dir, &self.sha256).with_extension("new");
        let done = disk::create(&beside).and_then(|file| {
            disk::write(&beside, &file, &bytes, 0)?;
            disk::sync(&beside, &file)
        });
        if done.is_err() {
            let _first_error_counts = disk::remove(&beside);
        }
        self.listed = bytes.len() as u64;
        done
    }

    /// Gives the sidecar its name, durable.
    pub(super) fn publish_sidecar(&self, dir: &Path) -> io::Result<()> {
        let path = sidecar_path(dir, &self.sha256);
        let beside = path.with_extension("new");
        let done =
            disk::rename(&beside, &path).and_then(|()| disk::sync_dir(&dir.join("containers")));
        if done.is_err() {
            let _first_error_counts = (disk::remove(&beside), disk::remove(&path));
        }
        done
    }

    /// What it says that it is.
    pub(super) fn survey(&self) -> Survey {
        Survey {
            len: self.len,
            sha256: self.sha256,
            pieces: self.pieces.iter().map(|(p, _)| *p).collect(),
        }
    }

    /// Whether its list is this one.
    pub(super) fn is_of(&self, pieces: &[Piece]) -> bool {
        self.pieces.len() == pieces.len()
            && self.pieces.iter().zip(pieces).all(|((a, _), b)| a == b)
    }
}

/// Whether these can be the pieces of a file of this length.
pub(super) fn adds_up(pieces: &[Piece], len: u64) -> bool {
    let fit = |p: &Piece| (1..=PIECE_BYTES_MAX).contains(&p.len);
    len <= FILE_BYTES_MAX
        && pieces.iter().all(fit)
        && pieces.iter().map(|p| u64::from(p.len)).sum::<u64>() == len
}

/// Opens what is in a directory of containers. What is of no use, but not ours to remove, goes
/// to `lost`.
pub(super) fn open_all(dir: &Path) -> io::Result<Vec<Container>> {
    let mut out = Vec::new();
    let mut kinds: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for e in fs::read_dir(dir.join("containers"))? {
        let Ok(name) = e?.file_name().into_string() else {
            continue;
        };
        if let Some((stem, ext)) = name.split_once('.') {
            kinds
                .entry(stem.to_owned())
                .or_default()
                .push(ext.to_owned());
        }
    }
    for (stem, kinds) in kinds {
        let Ok(sha256) = stem.parse::<Sha256>() else {
            continue;
        };
        let (data, sidecar) = (data_path(dir, &sha256), sidecar_path(dir, &sha256));
        let has = |kind: &str| kinds.iter().any(|k| k == kind);
        if has("new") {
            disk::remove(&sidecar.with_extension("new"))?;
        }
        if !has("data") {
            disk::remove(&sidecar)?;
            continue;
        }
        let read = if has("pieces") {
            fs::read(&sidecar)?
        } else {
            Vec::new()
        };
        let Some(mut c) = Container::decode(&read).filter(|c| c.sha256 == sha256) else {
            tracing::error!(%sha256, "the list of a large file's pieces is damaged; the file is in lost/");
            for path in [&data, &sidecar].into_iter().filter(|p| p.exists()) {
                let name = path.file_name().unwrap_or_default();
                disk::rename(path, &dir.join("lost").join(name))?;
            }
            continue;
        };
        let beside = disk::open(&sidecar)?;
        if c.listed < read.len() as u64 {
            disk::set_len(&sidecar, &beside, c.listed)?;
        }
        // Who was killed may have written it and not synced it.
        disk::sync(&sidecar, &beside)?;
        if fs::metadata(&data)?.len() != c.len {
            // Made and never filled, or damaged: nothing in it is certain.
            disk::set_len(&data, &disk::open(&data)?, c.len)?;
            let present: Vec<u32> = c.present().map(|(n, _)| n).collect();
            for n in present {
                c.set(n, false);
                c.pending.push((n, false));
            }
        }
        out.push(c);
    }
    Ok(out)
}

/// Bytes of a piece in a container, as they are.
pub(super) fn read(dir: &Path, sha256: &Sha256, at: u64, len: u32) -> io::Result<Vec<u8>> {
    let file = File::open(data_path(dir, sha256))?;
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}
