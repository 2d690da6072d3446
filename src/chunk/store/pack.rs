//! Packs: files that only grow, with chunks in frames, and beside each an index that says what
//! is in it for certain.
//!
//! Invariant: a record is in an index only after the frame that it names is durable. What a pack
//! holds behind that is read and checked when the pack is opened; what is not whole is cut off.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk;
use crate::base::format;
use crate::chunk::{ChunkId, PIECE_BYTES_MAX};

pub(super) const PACK_MAGIC: &[u8; 8] = b"cellfsP1";
pub(super) const INDEX_MAGIC: &[u8; 8] = b"cellfsI1";
const _: () = assert!(PACK_MAGIC[7] == b'0' + format::CHUNKS && INDEX_MAGIC[7] == PACK_MAGIC[7]);
/// Name, length and checksum before a chunk's bytes.
pub(super) const FRAME_HEAD: u64 = HEAD_BYTES as u64;
const HEAD_BYTES: usize = 40;
/// Bytes of a record of an index.
pub(super) const RECORD_BYTES: usize = 44;

/// What an index says: a chunk came, or went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) id: ChunkId,
    /// Where its frame begins.
    pub(super) at: u32,
    /// Bytes of the chunk.
    pub(super) len: u32,
    pub(super) gone: bool,
}

/// The bit of the length that says that the chunk went.
const GONE: u32 = 1 << 31;

impl Record {
    pub(super) fn frame(&self) -> u64 {
        FRAME_HEAD + u64::from(self.len)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let begin = out.len();
        out.extend_from_slice(&self.id.0);
        out.extend_from_slice(&self.at.to_le_bytes());
        let gone = if self.gone { GONE } else { 0 };
        out.extend_from_slice(&(self.len | gone).to_le_bytes());
        let crc = crc32fast::hash(out.get(begin..).unwrap_or_default());
        out.extend_from_slice(&crc.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
            return None;
        }
        let (id, body) = body.split_first_chunk::<32>()?;
        let (at, body) = body.split_first_chunk::<4>()?;
        let len = u32::from_le_bytes(*body.first_chunk::<4>()?);
        let r = Self {
            id: ChunkId(*id),
            at: u32::from_le_bytes(*at),
            len: len & !GONE,
            gone: len & GONE != 0,
        };
        ((1..=PIECE_BYTES_MAX).contains(&r.len) && r.at >= 8).then_some(r)
    }
}

pub(super) fn encode_records(records: &[Record]) -> Vec<u8> {
    let mut out = Vec::with_capacity(records.len() * RECORD_BYTES);
    records.iter().for_each(|r| r.encode(&mut out));
    out
}

pub(super) fn frame_head(id: &ChunkId, len: u32) -> [u8; HEAD_BYTES] {
    let mut out = [0; HEAD_BYTES];
    out[..32].copy_from_slice(&id.0);
    out[32..36].copy_from_slice(&len.to_le_bytes());
    let crc = crc32fast::hash(&out[..36]);
    out[36..].copy_from_slice(&crc.to_le_bytes());
    out
}

fn read_head(head: &[u8; HEAD_BYTES]) -> Option<(ChunkId, u32)> {
    let (body, crc) = head.split_last_chunk::<4>()?;
    let (id, len) = body.split_first_chunk::<32>()?;
    let len = u32::from_le_bytes(*len.first_chunk()?);
    let whole = crc32fast::hash(body) == u32::from_le_bytes(*crc);
    (whole && (1..=PIECE_BYTES_MAX).contains(&len)).then_some((ChunkId(*id), len))
}

pub(super) fn pack_path(dir: &Path, n: u32) -> PathBuf {
    dir.join(format!("packs/{n:08x}.pack"))
}

pub(super) fn index_path(dir: &Path, n: u32) -> PathBuf {
    dir.join(format!("packs/{n:08x}.index"))
}

/// A pack as the store has it in memory.
#[derive(Debug, Default)]
pub(super) struct Pack {
    /// Where the next frame goes.
    pub(super) end: u64,
    /// Where what is durable and in the index ends.
    pub(super) durable: u64,
    /// Bytes of frames that chunks are read from.
    pub(super) live: u64,
    /// Bytes of the index that are durable.
    pub(super) listed: u64,
    /// What the index does not say yet.
    pub(super) pending: Vec<Record>,
    /// Open while there is something that is not durable, so that no failed write is missed.
    pub(super) file: Option<Arc<File>>,
    /// Its name is not durable yet.
    pub(super) unnamed: bool,
}

/// The numbers of the packs in a directory.
pub(super) fn numbers(dir: &Path) -> io::Result<Vec<u32>> {
    let mut packs = Vec::new();
    let mut indices = Vec::new();
    for e in fs::read_dir(dir.join("packs"))? {
        let name = e?.file_name();
        let Some((stem, ext)) = name.to_str().and_then(|n| n.split_once('.')) else {
            continue;
        };
        let Ok(n) = u32::from_str_radix(stem, 16) else {
            continue;
        };
        match ext {
            "pack" => packs.push(n),
            "index" => indices.push(n),
            _ => {}
        }
    }
    packs.sort_unstable();
    for n in indices.iter().filter(|n| packs.binary_search(n).is_err()) {
        // Its pack was removed, or never became durable.
        disk::remove(&index_path(dir, *n))?;
    }
    Ok(packs)
}

/// Makes an empty pack and its index.
pub(super) fn create(dir: &Path, n: u32) -> io::Result<Pack> {
    let (path, index) = (pack_path(dir, n), index_path(dir, n));
    let made = disk::create(&path).and_then(|file| {
        disk::write(&path, &file, PACK_MAGIC, 0)?;
        let beside = disk::create(&index)?;
        disk::write(&index, &beside, INDEX_MAGIC, 0)?;
        Ok(file)
    });
    match made {
        Ok(file) => Ok(Pack {
            end: 8,
            durable: 8,
            listed: 8,
            file: Some(Arc::new(file)),
            unnamed: true,
            ..Pack::default()
        }),
        Err(e) => {
            // What stays is an empty pack, or an index without one: opening clears both.
            let _first_error_counts = (disk::remove(&path), disk::remove(&index));
            Err(e)
        }
    }
}

/// Opens a pack: what its index says is in it, in order, and what follows in the pack and is
/// whole. Reads the index and what is behind it, nothing else. `None` if it is not one of ours.
pub(super) fn open(dir: &Path, n: u32) -> io::Result<Option<(Pack, Vec<Record>)>> {
    let (path, index) = (pack_path(dir, n), index_path(dir, n));
    let file = disk::open(&path)?;
    let size = file.metadata()?.len();
    let mut magic = [0; 8];
    if size < 8 || file.read_exact_at(&mut magic, 0).is_err() || magic != *PACK_MAGIC {
        return Ok(None);
    }
    let bytes = match fs::read(&index) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        other => other?,
    };
    let mut records = Vec::new();
    let mut pack = Pack {
        durable: 8,
        ..Pack::default()
    };
    if let Some(body) = bytes.strip_prefix(INDEX_MAGIC.as_slice()) {
        pack.listed = 8;
        for r in body.chunks(RECORD_BYTES) {
            let Some(r) = Record::decode(r) else { break };
            let end = u64::from(r.at) + r.frame();
            if end > size {
                // A pack that lost its end: other frames will be there.
                break;
            }
            pack.listed += RECORD_BYTES as u64;
            pack.durable = pack.durable.max(end);
            records.push(r);
        }
    }
    if pack.listed == 0 {
        let beside = disk::create(&index)?;
        disk::write(&index, &beside, INDEX_MAGIC, 0)?;
        pack.listed = 8;
    } else {
        let beside = disk::open(&index)?;
        if pack.listed < bytes.len() as u64 {
            disk::set_len(&index, &beside, pack.listed)?;
        }
        // Who was killed may have written it and not synced it.
        disk::sync(&index, &beside)?;
    }
    pack.end = pack.durable;
    let mut bytes = vec![0; PIECE_BYTES_MAX as usize];
    let mut head = [0; HEAD_BYTES];
    while size - pack.end >= FRAME_HEAD {
        file.read_exact_at(&mut head, pack.end)?;
        let Some((id, len)) = read_head(&head) else {
            break;
        };
        let (begin, end) = (
            pack.end + FRAME_HEAD,
            pack.end + FRAME_HEAD + u64::from(len),
        );
        let (Some(bytes), Ok(at)) = (bytes.get_mut(..len as usize), u32::try_from(pack.end)) else {
            break;
        };
        if end > size {
            break;
        }
        file.read_exact_at(bytes, begin)?;
        if ChunkId::of(bytes) == id {
            pack.pending.push(Record {
                id,
                at,
                len,
                gone: false,
            });
        }
        pack.end = end;
    }
    if pack.end < size {
        disk::set_len(&path, &file, pack.end)?;
    }
    if !pack.pending.is_empty() {
        pack.file = Some(Arc::new(file));
    }
    records.extend_from_slice(&pack.pending);
    Ok(Some((pack, records)))
}

/// What the index of a pack says, as far as it can be read.
pub(super) fn records(dir: &Path, n: u32, listed: u64) -> Vec<Record> {
    let bytes = fs::read(index_path(dir, n)).unwrap_or_default();
    let listed = usize::try_from(listed).unwrap_or(usize::MAX);
    let bytes = bytes.get(..listed).unwrap_or(&bytes);
    let body = bytes.strip_prefix(INDEX_MAGIC.as_slice()).unwrap_or(&[]);
    body.chunks(RECORD_BYTES)
        .map_while(Record::decode)
        .collect()
}

/// Bytes of a chunk in a pack, as they are.
pub(super) fn read(dir: &Path, n: u32, at: u32, len: u32) -> io::Result<Vec<u8>> {
    let file = File::open(pack_path(dir, n))?;
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, u64::from(at) + FRAME_HEAD)?;
    Ok(bytes)
}

/// Packs by their numbers.
pub(super) type Packs = BTreeMap<u32, Pack>;
