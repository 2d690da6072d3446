//! Writes packs: version 2 packs of whole objects with their index, both durable before either
//! has a name that git looks at.
//!
//! Invariant: a pack appears under `objects/pack` complete or not at all. The order is: pack
//! and index written under `incoming/`, both fsynced, pack renamed, index renamed, directory
//! fsynced. git and gix find a pack by its index, so a crash between the two renames leaves a
//! pack nobody sees; [`sweep`] removes such leftovers. A pack that is dropped on the way goes
//! away. After an fsync that failed, the kernel may have dropped what it could not write, and say
//! nothing when it is asked again: such a pack goes away, too, and its objects go into a new file.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::{Compress, Compression, FlushCompress, Status};
use tempfile::TempPath;

use super::objects::{Object, ObjectKind, id_of};
use crate::base::id::Oid;

/// Numbers the files that are being written, so that two writers never share one.
static SERIAL: AtomicU64 = AtomicU64::new(0);

/// A pack being written under `incoming/`.
pub struct PackWriter {
    out: BufWriter<File>,
    path: TempPath,
    hash: gix::hash::Hasher,
    offset: u64,
    announced: u32,
    entries: Vec<IndexEntry>,
    zlib: Compress,
    scratch: Vec<u8>,
}

impl std::fmt::Debug for PackWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackWriter")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy)]
struct IndexEntry {
    id: Oid,
    crc32: u32,
    offset: u64,
}

/// A whole pack, not yet durable: what came from a peer is checked before it costs an fsync.
#[derive(Debug)]
pub struct WrittenPack {
    file: File,
    pack: TempPath,
    checksum: Oid,
    /// Sorted by id.
    entries: Vec<IndexEntry>,
    bytes: u64,
}

/// A pack and its index, written and fsynced, not yet visible.
#[derive(Debug)]
pub struct SealedPack {
    pack: TempPath,
    idx: TempPath,
    name: String,
    entries: Vec<IndexEntry>,
    /// Size of the pack.
    pub bytes: u64,
}

impl PackWriter {
    /// Starts a pack of exactly `count` objects in the directory `incoming`.
    ///
    /// # Errors
    /// As the file system.
    pub fn create(incoming: &Path, count: u32) -> io::Result<Self> {
        fs::create_dir_all(incoming)?;
        let n = SERIAL.fetch_add(1, Ordering::Relaxed);
        let path = incoming.join(format!("{}-{n}.pack", std::process::id()));
        let mut options = File::options();
        let file = options
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        let path = TempPath::try_from_path(path)?;
        let mut w = Self {
            out: BufWriter::with_capacity(256 << 10, file),
            path,
            hash: gix::hash::hasher(gix::hash::Kind::Sha1),
            offset: 0,
            announced: count,
            entries: Vec::with_capacity(count as usize),
            zlib: Compress::new(Compression::new(1), true),
            scratch: Vec::new(),
        };
        let mut header = *b"PACK\0\0\0\x02\0\0\0\0";
        if let Some(n) = header.get_mut(8..12) {
            n.copy_from_slice(&count.to_be_bytes());
        }
        w.emit(&header)?;
        Ok(w)
    }

    fn emit(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.offset += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    /// Adds an object and returns its id.
    ///
    /// # Errors
    /// As the file system.
    pub fn add(&mut self, kind: ObjectKind, data: &[u8]) -> io::Result<Oid> {
        let id = id_of(kind, data);
        self.add_known(id, kind, data)?;
        Ok(id)
    }

    /// Adds an object whose id the caller has computed.
    ///
    /// # Errors
    /// As the file system.
    pub fn add_known(&mut self, id: Oid, kind: ObjectKind, data: &[u8]) -> io::Result<()> {
        let mut entry = std::mem::take(&mut self.scratch);
        entry.clear();
        write_entry_header(kind, data.len() as u64, &mut entry);
        self.zlib.reset();
        deflate(&mut self.zlib, data, &mut entry)?;
        let done = self.add_compressed(id, &entry);
        self.scratch = entry;
        done
    }

    /// Adds a finished entry: header and zlib stream, as it stands in a pack.
    ///
    /// # Errors
    /// As the file system.
    pub fn add_compressed(&mut self, id: Oid, entry: &[u8]) -> io::Result<()> {
        self.entries.push(IndexEntry {
            id,
            crc32: crc32fast::hash(entry),
            offset: self.offset,
        });
        self.emit(entry)
    }

    /// Writes the trailer and the index and fsyncs both.
    ///
    /// # Errors
    /// As [`Self::close`] and [`WrittenPack::seal`].
    pub fn finish(self) -> io::Result<SealedPack> {
        self.close()?.seal()
    }

    /// Writes the trailer.
    ///
    /// # Errors
    /// As the file system, or when more or fewer objects came than announced.
    pub fn close(mut self) -> io::Result<WrittenPack> {
        if self.entries.len() != self.announced as usize {
            let why = format!(
                "a pack announced with {} objects got {}",
                self.announced,
                self.entries.len()
            );
            return Err(io::Error::other(why));
        }
        let hash = std::mem::replace(&mut self.hash, gix::hash::hasher(gix::hash::Kind::Sha1));
        let checksum = hash.try_finalize().map_err(io::Error::other)?;
        self.out.write_all(checksum.as_slice())?;
        let bytes = self.offset + 20;
        let file = self
            .out
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        self.entries.sort_unstable_by_key(|e| e.id);
        Ok(WrittenPack {
            file,
            pack: self.path,
            checksum,
            entries: self.entries,
            bytes,
        })
    }
}

impl WrittenPack {
    /// Reads an object back; `None` when it is not in the pack.
    ///
    /// # Errors
    /// As the file system.
    pub fn read(&self, id: &Oid) -> io::Result<Option<Vec<u8>>> {
        let Ok(at) = self.entries.binary_search_by_key(id, |e| e.id) else {
            return Ok(None);
        };
        let offset = self.entries.get(at).map_or(0, |e| e.offset);
        let (_, data) = read_entry(&self.file, offset)?;
        Ok(Some(data))
    }

    /// Whether an object is in the pack.
    #[must_use]
    pub fn holds(&self, id: &Oid) -> bool {
        self.entries.binary_search_by_key(id, |e| e.id).is_ok()
    }

    /// Writes the index and fsyncs both: at the same time, so that the file system can make
    /// one commit of its own journal out of it.
    ///
    /// # Errors
    /// As the file system.
    pub fn seal(self) -> io::Result<SealedPack> {
        let idx = TempPath::try_from_path(self.pack.with_extension("idx"))?;
        let index = write_index(&idx, &self.entries, &self.checksum)?;
        std::thread::scope(|s| {
            let other = s.spawn(|| index.sync_all());
            let own = self.file.sync_all();
            let other = other
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the thread that syncs an index died")));
            own.and(other)
        })?;
        Ok(SealedPack {
            pack: self.pack,
            idx,
            name: format!("pack-{}", self.checksum),
            entries: self.entries,
            bytes: self.bytes,
        })
    }
}

impl SealedPack {
    /// Ids and offsets of what is in it, sorted by id.
    pub(super) fn offsets(&self) -> impl Iterator<Item = (Oid, u64)> + '_ {
        self.entries.iter().map(|e| (e.id, e.offset))
    }

    /// Where the pack is now.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.pack
    }

    /// Makes the pack visible, durably.
    ///
    /// # Errors
    /// As the file system. It is not visible then: the disk may have lost its names, so nothing
    /// is to be found in it. Who tries again writes other files.
    pub fn install(self, pack_dir: &Path) -> io::Result<()> {
        let to = |ext: &str| pack_dir.join(format!("{}.{ext}", self.name));
        let (pack, idx) = (to("pack"), to("idx"));
        // The same objects once more: what is there stays there.
        let known = idx.exists();
        let persist = |from: TempPath, to: &Path| from.persist(to).map_err(|e| e.error);
        let done = File::open(pack_dir).and_then(|dir| {
            persist(self.pack, &pack)?;
            persist(self.idx, &idx)?;
            dir.sync_all()
        });
        if done.is_err() && !known {
            for path in [idx, pack] {
                match fs::remove_file(&path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => {
                        tracing::warn!(path = %path.display(), error = %e, "a pack stays that may not last");
                    }
                    _ => {}
                }
            }
        }
        done
    }
}

/// Reads a file from an offset on, without moving a cursor that others share.
struct From<'a> {
    file: &'a File,
    at: u64,
}

impl Read for From<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = rustix::io::retry_on_intr(|| rustix::io::pread(self.file, &mut *buf, self.at))?;
        self.at += n as u64;
        Ok(n)
    }
}

/// Kind and size of a whole object in a pack, and where its zlib stream starts.
///
/// # Errors
/// As the file system, or when there is no whole object.
pub(super) fn read_entry_header(file: &File, offset: u64) -> io::Result<(ObjectKind, u64, u64)> {
    let mut head = [0; 16];
    let n = From { file, at: offset }.read(&mut head)?;
    let mut bytes = head.iter().take(n).copied().zip(1u64..);
    let short = || io::Error::other("a pack ends within a header");
    let (first, mut used) = bytes.next().ok_or_else(short)?;
    let kind = match (first >> 4) & 7 {
        1 => ObjectKind::Commit,
        2 => ObjectKind::Tree,
        3 => ObjectKind::Blob,
        4 => ObjectKind::Tag,
        _ => return Err(io::Error::other("not a whole object")),
    };
    let mut size = u64::from(first & 15);
    let (mut shift, mut more) = (4, first & 0x80 != 0);
    while more {
        let (b, n) = bytes.next().ok_or_else(short)?;
        size |= u64::from(b & 0x7f) << shift;
        shift += 7;
        more = b & 0x80 != 0;
        used = n;
    }
    Ok((kind, size, offset + used))
}

/// Reads a whole object of a pack.
///
/// # Errors
/// As the file system, or when there is no whole object.
pub(super) fn read_entry(file: &File, offset: u64) -> io::Result<(ObjectKind, Vec<u8>)> {
    let (kind, size, at) = read_entry_header(file, offset)?;
    let mut data = Vec::with_capacity(usize::try_from(size).map_err(io::Error::other)?);
    let from = io::BufReader::new(From { file, at });
    flate2::bufread::ZlibDecoder::new(from).read_to_end(&mut data)?;
    if data.len() as u64 != size {
        return Err(io::Error::other(
            "an object of another size than its pack says",
        ));
    }
    Ok((kind, data))
}

/// Removes what a crash left behind: everything under `incoming`, and packs and indexes of which
/// only one survived.
///
/// # Errors
/// As the file system.
pub fn sweep(incoming: &Path, pack_dir: &Path) -> io::Result<()> {
    fs::create_dir_all(incoming)?;
    for e in fs::read_dir(incoming)? {
        let p = e?.path();
        if p.is_dir() {
            // A git that outlived its node may still write into it; names are never used twice.
            if let Err(e) = fs::remove_dir_all(&p) {
                tracing::warn!(path = %p.display(), error = %e, "not cleared");
            }
        } else {
            remove(&p)?;
        }
    }
    for e in fs::read_dir(pack_dir)? {
        let p = e?.path();
        let without = |own: &str, other: &str| {
            p.extension().is_some_and(|x| x == own) && !p.with_extension(other).exists()
        };
        let lone = without("pack", "idx") || without("idx", "pack") || without("rev", "pack");
        let temporary = p
            .file_name()
            .map(std::ffi::OsStr::to_string_lossy)
            .is_some_and(|n| n.starts_with("tmp_") || n.starts_with(".tmp-"));
        if lone || temporary {
            remove(&p)?;
        }
    }
    Ok(())
}

/// A git that outlived its node removes its own as well.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// A pack of these objects, in memory.
///
/// # Errors
/// More objects than a pack can hold.
pub fn encode(objects: &[(Oid, Object)]) -> io::Result<Vec<u8>> {
    let count = u32::try_from(objects.len()).map_err(io::Error::other)?;
    let mut out = b"PACK\0\0\0\x02".to_vec();
    out.extend_from_slice(&count.to_be_bytes());
    let mut z = Compress::new(Compression::new(1), true);
    for (_, o) in objects {
        write_entry_header(o.kind, o.data.len() as u64, &mut out);
        z.reset();
        deflate(&mut z, &o.data, &mut out)?;
    }
    let mut hash = gix::hash::hasher(gix::hash::Kind::Sha1);
    hash.update(&out);
    let sum = hash.try_finalize().map_err(io::Error::other)?;
    out.extend_from_slice(sum.as_slice());
    Ok(out)
}

/// The type and size that open a pack entry.
pub fn write_entry_header(kind: ObjectKind, size: u64, out: &mut Vec<u8>) {
    let code: u8 = match kind {
        ObjectKind::Commit => 1,
        ObjectKind::Tree => 2,
        ObjectKind::Blob => 3,
        ObjectKind::Tag => 4,
    };
    let low = |n: u64, mask: u64| u8::try_from(n & mask).unwrap_or(0);
    let mut byte = (code << 4) | low(size, 0x0f);
    let mut rest = size >> 4;
    while rest > 0 {
        out.push(byte | 0x80);
        byte = low(rest, 0x7f);
        rest >>= 7;
    }
    out.push(byte);
}

pub(super) fn deflate(z: &mut Compress, data: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let start = z.total_in();
    loop {
        let done = usize::try_from(z.total_in() - start).map_err(io::Error::other)?;
        let rest = data.get(done..).unwrap_or_default();
        out.reserve((rest.len() / 2).max(256));
        let status = z
            .compress_vec(rest, out, FlushCompress::Finish)
            .map_err(io::Error::other)?;
        if status == Status::StreamEnd {
            return Ok(());
        }
    }
}

/// Writes the index of a pack whose entries are sorted; not durable.
fn write_index(path: &Path, entries: &[IndexEntry], pack: &Oid) -> io::Result<File> {
    let mut b = Vec::with_capacity(1032 + entries.len() * 28 + 40);
    b.extend_from_slice(b"\xfftOc\0\0\0\x02");
    let mut seen = 0u32;
    let mut rest = entries.iter().peekable();
    for first in 0..=255u8 {
        while rest.next_if(|e| e.id.first_byte() <= first).is_some() {
            seen += 1;
        }
        b.extend_from_slice(&seen.to_be_bytes());
    }
    for e in entries.iter() {
        b.extend_from_slice(e.id.as_slice());
    }
    for e in entries.iter() {
        b.extend_from_slice(&e.crc32.to_be_bytes());
    }
    let mut far = Vec::new();
    for e in entries.iter() {
        let small = u32::try_from(e.offset).ok().filter(|o| *o < 1 << 31);
        let word = small.unwrap_or_else(|| {
            far.push(e.offset);
            u32::try_from(far.len() - 1).unwrap_or(0) | 1 << 31
        });
        b.extend_from_slice(&word.to_be_bytes());
    }
    for o in far {
        b.extend_from_slice(&o.to_be_bytes());
    }
    b.extend_from_slice(pack.as_slice());
    let mut h = gix::hash::hasher(gix::hash::Kind::Sha1);
    h.update(&b);
    b.extend_from_slice(h.try_finalize().map_err(io::Error::other)?.as_slice());
    let mut f = File::create(path)?;
    f.write_all(&b)?;
    Ok(f)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn git_accepts_our_packs() {
        let dir = tempfile::tempdir().unwrap();
        let repo = crate::store::repo::Repo::create(&dir.path().join("r")).unwrap();
        let mut w = PackWriter::create(&repo.incoming_dir(), 3).unwrap();
        let blob = w.add(ObjectKind::Blob, b"hello\n").unwrap();
        let big: Vec<u8> = (0..300_000u32).flat_map(|n| n.to_le_bytes()).collect();
        w.add(ObjectKind::Blob, &big).unwrap();
        let mut tree = b"100644 a\0".to_vec();
        tree.extend_from_slice(blob.as_slice());
        w.add(ObjectKind::Tree, &tree).unwrap();
        let sealed = w.finish().unwrap();
        repo.install(sealed).unwrap();
        let out = Command::new("git")
            .args(["fsck", "--strict", "--full"])
            .current_dir(repo.path())
            .output()
            .unwrap();
        assert!(out.status.success(), "{out:?}");
        use crate::store::objects::Objects;
        assert_eq!(
            repo.get(&blob, ObjectKind::Blob).unwrap().as_slice(),
            b"hello\n"
        );
    }

    #[test]
    fn a_pack_that_could_not_be_installed_is_nowhere_and_what_was_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let repo = crate::store::repo::Repo::create(&dir.path().join("r")).unwrap();
        let sealed = |data: &[u8]| {
            let mut w = PackWriter::create(&repo.incoming_dir(), 1).unwrap();
            w.add(ObjectKind::Blob, data).unwrap();
            w.finish().unwrap()
        };
        let names = || {
            let all = fs::read_dir(repo.pack_dir()).unwrap();
            all.map(|e| e.unwrap().file_name()).collect::<Vec<_>>()
        };
        // Its index cannot have its name.
        let pack = sealed(b"one");
        let name = repo.pack_dir().join(format!("{}.idx", pack.name));
        fs::remove_file(&pack.idx).unwrap();
        pack.install(&repo.pack_dir()).unwrap_err();
        assert!(names().is_empty() && !name.exists(), "{:?}", names());
        // The same objects, when they are there already.
        sealed(b"one").install(&repo.pack_dir()).unwrap();
        let before = names();
        let pack = sealed(b"one");
        fs::remove_file(&pack.idx).unwrap();
        pack.install(&repo.pack_dir()).unwrap_err();
        assert_eq!(names(), before);
        assert_eq!(fs::read_dir(repo.incoming_dir()).unwrap().count(), 0);
    }

    #[test]
    fn a_short_pack_is_refused_and_a_sweep_clears_leftovers() {
        let dir = tempfile::tempdir().unwrap();
        let repo = crate::store::repo::Repo::create(&dir.path().join("r")).unwrap();
        let w = PackWriter::create(&repo.incoming_dir(), 1).unwrap();
        assert!(w.finish().is_err());
        let lone = repo.pack_dir().join("pack-0000.pack");
        fs::write(&lone, b"x").unwrap();
        sweep(&repo.incoming_dir(), &repo.pack_dir()).unwrap();
        assert!(!lone.exists());
        assert_eq!(fs::read_dir(repo.incoming_dir()).unwrap().count(), 0);
    }
}
