//! Objects that a peer sends: a pack stream of whole objects, kept aside until it is checked.
//!
//! Invariants: nothing of a stream is visible before all of it is verified and durable; memory
//! is bounded by the trees and commits in it, not by the blobs; a stream that lies about a
//! size, a count or a checksum is refused before its bytes are believed.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::{Decompress, FlushDecompress, Status};

use super::check;
use super::closure::{self, verify};
use super::objects::{Memory, Object, ObjectError, ObjectKind, Objects};
use super::pack::{PackWriter, WrittenPack, write_entry_header};
use super::repo::Repo;
use crate::base::id::Oid;
use crate::base::limit::OBJECT_BYTES_MAX;

/// Blobs above this are hashed as they pass and not kept in memory.
const KEPT_BLOB_BYTES_MAX: u64 = 1 << 20;
/// Trees and commits larger than this are refused.
const STRUCTURE_BYTES_MAX: u64 = 256 << 20;
/// Most objects in one stream.
const OBJECTS_MAX: u32 = 50_000_000;

/// Why a stream was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IncomingError {
    /// Not a pack, or not one that we take.
    #[error("not a pack that can be taken: {0}")]
    Format(String),
    /// The connection or the disk failed.
    #[error("receiving objects: {0}")]
    Io(#[from] io::Error),
    /// An object is missing or malformed.
    #[error("the objects received do not hold together: {0}")]
    Objects(#[from] ObjectError),
}

/// A small pack in memory, checked for form.
#[derive(Debug)]
pub struct Small {
    ids: BTreeSet<Oid>,
    objects: Memory,
}

/// A received pack, checked for form, neither durable nor visible.
#[derive(Debug)]
pub struct Incoming {
    pack: WrittenPack,
    /// What is in it.
    pub ids: BTreeSet<Oid>,
    structure: Memory,
}

fn format(why: impl Into<String>) -> IncomingError {
    IncomingError::Format(why.into())
}

/// How many objects of a pack have come, for whoever watches.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    /// Objects that have come, and all that will; 0 while that is unknown.
    #[must_use]
    pub fn objects(&self) -> (u64, u64) {
        let done = self.done.load(Ordering::Relaxed);
        (done, self.total.load(Ordering::Relaxed))
    }

    /// Nothing has come.
    pub(crate) fn restart(&self) {
        self.done.store(0, Ordering::Relaxed);
        self.total.store(0, Ordering::Relaxed);
    }

    pub(crate) fn expect(&self, total: u32) {
        self.total.store(total.into(), Ordering::Relaxed);
    }

    pub(crate) fn came(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }
}

/// Receives a pack stream.
///
/// # Errors
/// See [`IncomingError`]; nothing is left behind then.
pub fn receive(repo: &Repo, from: impl Read) -> Result<Incoming, IncomingError> {
    receive_watched(repo, from, &Progress::default())
}

/// As [`receive`], counting what came.
///
/// # Errors
/// As [`receive`].
pub fn receive_watched(
    repo: &Repo,
    from: impl Read,
    progress: &Progress,
) -> Result<Incoming, IncomingError> {
    let mut w = None;
    let (ids, structure) = read(from, progress, |count| {
        Ok(w.insert(PackWriter::create(&repo.incoming_dir(), count)?))
    })?;
    let pack = w.ok_or_else(|| format("nothing came"))?.close()?;
    Ok(Incoming {
        pack,
        ids,
        structure,
    })
}

/// Reads a small pack into memory.
///
/// # Errors
/// See [`IncomingError`].
pub fn parse(bytes: &[u8]) -> Result<Small, IncomingError> {
    let mut kept = Kept;
    let (ids, objects) = read(bytes, &Progress::default(), |_| Ok(&mut kept))?;
    Ok(Small { ids, objects })
}

/// Where the entries of a stream go.
trait Sink {
    /// Whether blobs need not be kept in memory.
    const HOLDS_BLOBS: bool;
    fn entry(&mut self, id: Oid, entry: &[u8]) -> io::Result<()>;
}

impl Sink for PackWriter {
    const HOLDS_BLOBS: bool = true;
    fn entry(&mut self, id: Oid, entry: &[u8]) -> io::Result<()> {
        self.add_compressed(id, entry)
    }
}

/// All is kept in memory.
struct Kept;

impl Sink for Kept {
    const HOLDS_BLOBS: bool = false;
    fn entry(&mut self, _: Oid, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a pack stream: the ids in it, and all objects that the sink does not hold.
fn read<'a, S: Sink + 'a>(
    from: impl Read,
    progress: &Progress,
    sink: impl FnOnce(u32) -> Result<&'a mut S, IncomingError>,
) -> Result<(BTreeSet<Oid>, Memory), IncomingError> {
    let mut r = Stream {
        inner: BufReader::with_capacity(64 << 10, from),
        hash: gix::hash::hasher(gix::hash::Kind::Sha1),
    };
    let mut head = [0; 12];
    r.exact(&mut head)?;
    let [b'P', b'A', b'C', b'K', 0, 0, 0, 2, a, b, c, d] = head else {
        return Err(format("wrong header"));
    };
    let count = u32::from_be_bytes([a, b, c, d]);
    if count == 0 || count > OBJECTS_MAX {
        return Err(format(format!("{count} objects")));
    }
    progress.expect(count);
    let w = sink(count)?;
    let mut ids = BTreeSet::new();
    let objects = Memory::default();
    let mut entry = Vec::new();
    for _ in 0..count {
        let (id, kept) = r.object(w, &mut entry)?;
        if let Some(o) = kept {
            check::object(&id, o.kind, &o.data)?;
            if o.kind != ObjectKind::Blob || !S::HOLDS_BLOBS {
                objects.keep(id, o);
            }
        }
        if !ids.insert(id) {
            return Err(format("an object is in it twice"));
        }
        progress.came();
    }
    let ours = r
        .hash
        .clone()
        .try_finalize()
        .map_err(|e| format(e.to_string()))?;
    let mut theirs = [0; 20];
    r.inner.read_exact(&mut theirs)?;
    if ours != Oid::from(theirs) {
        return Err(format("its checksum is wrong"));
    }
    Ok((ids, objects))
}

struct Stream<R> {
    inner: BufReader<R>,
    hash: gix::hash::Hasher,
}

impl<R: Read> Stream<R> {
    fn exact(&mut self, buf: &mut [u8]) -> io::Result<()> {
        self.inner.read_exact(buf)?;
        self.hash.update(buf);
        Ok(())
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut b = [0];
        self.exact(&mut b)?;
        let [b] = b;
        Ok(b)
    }

    fn header(&mut self) -> Result<(ObjectKind, u64), IncomingError> {
        let first = self.byte()?;
        let kind = match (first >> 4) & 7 {
            1 => ObjectKind::Commit,
            2 => ObjectKind::Tree,
            3 => ObjectKind::Blob,
            4 => ObjectKind::Tag,
            _ => return Err(format("it holds deltas")),
        };
        let mut size = u64::from(first & 15);
        let (mut shift, mut more) = (4, first & 0x80 != 0);
        while more {
            let b = self.byte()?;
            if shift > 57 {
                return Err(format("a size without end"));
            }
            size |= u64::from(b & 0x7f) << shift;
            shift += 7;
            more = b & 0x80 != 0;
        }
        let max = match kind {
            ObjectKind::Blob => OBJECT_BYTES_MAX,
            _ => STRUCTURE_BYTES_MAX,
        };
        if size > max {
            return Err(format(format!("an object of {size} bytes")));
        }
        Ok((kind, size))
    }

    /// Copies one object into the pack; returns it too when it is small or structure.
    fn object<S: Sink>(
        &mut self,
        w: &mut S,
        entry: &mut Vec<u8>,
    ) -> Result<(Oid, Option<Object>), IncomingError> {
        let (kind, size) = self.header()?;
        entry.clear();
        write_entry_header(kind, size, entry);
        let mut hash = gix::hash::hasher(gix::hash::Kind::Sha1);
        hash.update(format!("{kind} {size}\0").as_bytes());
        let keep = kind != ObjectKind::Blob || size <= KEPT_BLOB_BYTES_MAX || !S::HOLDS_BLOBS;
        let mut kept = Vec::new();
        let mut z = Decompress::new(true);
        let mut out = vec![0; 64 << 10];
        loop {
            let input = self.inner.fill_buf()?;
            if input.is_empty() {
                return Err(format("it ends within an object"));
            }
            let (before_in, before_out) = (z.total_in(), z.total_out());
            let status = z
                .decompress(input, &mut out, FlushDecompress::None)
                .map_err(|e| format(e.to_string()))?;
            let used = usize::try_from(z.total_in() - before_in).unwrap_or(0);
            let made = usize::try_from(z.total_out() - before_out).unwrap_or(0);
            let (Some(raw), Some(data)) = (input.get(..used), out.get(..made)) else {
                return Err(format("zlib"));
            };
            entry.extend_from_slice(raw);
            self.hash.update(raw);
            hash.update(data);
            if z.total_out() > size {
                return Err(format("an object longer than it says"));
            }
            if keep {
                kept.extend_from_slice(data);
            }
            self.inner.consume(used);
            if status == Status::StreamEnd {
                break;
            }
            if used == 0 && made == 0 {
                return Err(format("zlib makes no progress"));
            }
        }
        if z.total_out() != size {
            return Err(format("an object shorter than it says"));
        }
        let id = hash.try_finalize().map_err(|e| format(e.to_string()))?;
        w.entry(id, entry)?;
        let object = keep.then(|| Object {
            kind,
            data: std::sync::Arc::new(kept),
        });
        Ok((id, object))
    }
}

/// Reads what came, then what is held.
pub struct With<'a> {
    ids: &'a BTreeSet<Oid>,
    objects: &'a Memory,
    pack: Option<&'a WrittenPack>,
    held: &'a dyn Objects,
}

impl std::fmt::Debug for With<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("With").finish_non_exhaustive()
    }
}

impl Objects for With<'_> {
    fn find(&self, id: &Oid) -> Result<Option<Object>, ObjectError> {
        if let Some(o) = self.objects.staged(id) {
            return Ok(Some(o));
        }
        let Some(pack) = self.pack.filter(|_| self.ids.contains(id)) else {
            return self.held.find(id);
        };
        let read = pack.read(id).map_err(|e| ObjectError::Store {
            at: "reading what a peer sent",
            why: e.to_string(),
        })?;
        Ok(read.map(|data| Object {
            kind: ObjectKind::Blob,
            data: std::sync::Arc::new(data),
        }))
    }

    fn is_structure(&self, id: &Oid) -> bool {
        self.objects.staged(id).is_some()
    }

    fn put(&self, _: ObjectKind, _: Vec<u8>) -> Result<Oid, ObjectError> {
        Err(ObjectError::Store {
            at: "checking what a peer sent",
            why: "nothing can be put here".to_owned(),
        })
    }
}

impl Incoming {
    /// Checks that with what is held the closure of `want` is complete, has `held_lasts` make
    /// that durable which is held so far, and then makes what came durable and visible: no pack
    /// outlives what it builds on.
    ///
    /// # Errors
    /// Names what is missing or wrong; nothing is visible then.
    pub fn admit(
        self,
        repo: &Repo,
        want: &[Oid],
        held_lasts: impl FnOnce() -> io::Result<()>,
    ) -> Result<(), IncomingError> {
        let with = self.with(repo);
        verify(&with, repo, want, &self.ids)?;
        held_lasts()?;
        repo.install(self.pack.seal()?)?;
        Ok(())
    }

    /// Reads what came, and what is held where it is not among it.
    #[must_use]
    pub fn with<'a>(&'a self, repo: &'a Repo) -> With<'a> {
        With {
            ids: &self.ids,
            objects: &self.structure,
            pack: Some(&self.pack),
            held: repo,
        }
    }
}

impl Small {
    /// Checks that with what is held the closure of `want` is complete, and returns what came.
    ///
    /// # Errors
    /// Names what is missing or wrong.
    pub fn verified(
        self,
        held: &dyn Objects,
        want: &[Oid],
    ) -> Result<Vec<(Oid, Object)>, IncomingError> {
        verify(&self.with(held), held, want, &self.ids)?;
        Ok(self.objects.into_objects())
    }

    /// The objects, without a look at what they name.
    #[must_use]
    pub fn into_objects(self) -> Vec<(Oid, Object)> {
        self.objects.into_objects()
    }

    /// Reads what came, and what is held where it is not among it.
    #[must_use]
    pub fn with<'a>(&'a self, held: &'a dyn Objects) -> With<'a> {
        With {
            ids: &self.ids,
            objects: &self.objects,
            pack: None,
            held,
        }
    }
}

/// Writes the objects that `want` needs and `have` lacks as a pack stream. Returns how many.
///
/// # Errors
/// As the store and the writer.
pub fn send(
    held: &dyn Objects,
    want: &[Oid],
    have: &[Oid],
    to: &mut dyn io::Write,
) -> Result<u32, IncomingError> {
    let ids = closure::missing(held, want, have)?;
    let count = u32::try_from(ids.len()).map_err(|_| format("too many objects"))?;
    let mut out = Hashed {
        to,
        hash: gix::hash::hasher(gix::hash::Kind::Sha1),
    };
    let mut head = b"PACK\0\0\0\x02".to_vec();
    head.extend_from_slice(&count.to_be_bytes());
    out.put(&head)?;
    let mut z = flate2::Compress::new(flate2::Compression::new(1), true);
    let mut entry = Vec::new();
    for id in ids {
        let o = held.find(&id)?.ok_or(ObjectError::Missing(id))?;
        entry.clear();
        write_entry_header(o.kind, o.data.len() as u64, &mut entry);
        z.reset();
        super::pack::deflate(&mut z, &o.data, &mut entry)?;
        out.put(&entry)?;
    }
    let sum = out.hash.try_finalize().map_err(|e| format(e.to_string()))?;
    out.to.write_all(sum.as_slice())?;
    Ok(count)
}

struct Hashed<'a> {
    to: &'a mut dyn io::Write,
    hash: gix::hash::Hasher,
}

impl Hashed<'_> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.to.write_all(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{ProptestConfig, any, proptest};

    fn two_repos() -> (tempfile::TempDir, Repo, Repo) {
        let dir = tempfile::tempdir().unwrap();
        let a = Repo::create(&dir.path().join("a")).unwrap();
        let b = Repo::create(&dir.path().join("b")).unwrap();
        (dir, a, b)
    }

    fn commit(r: &Repo, text: &[u8]) -> Oid {
        let blob = r.put(ObjectKind::Blob, text.to_vec()).unwrap();
        let mut t = b"100644 f\0".to_vec();
        t.extend_from_slice(blob.as_slice());
        let tree = r.put(ObjectKind::Tree, t).unwrap();
        let c = format!("tree {tree}\nauthor a <a@b> 1 +0000\ncommitter a <a@b> 1 +0000\n\nm\n");
        r.put(ObjectKind::Commit, c.into_bytes()).unwrap()
    }

    fn fsck(r: &Repo) {
        let out = std::process::Command::new("git")
            .args(["fsck", "--strict", "--full"])
            .current_dir(r.path())
            .output()
            .unwrap();
        assert!(out.status.success(), "{out:?}");
    }

    #[test]
    fn what_one_store_sends_another_admits() {
        let (_d, a, b) = two_repos();
        let big = vec![7; 3 << 20];
        let c = commit(&a, &big);
        let mut stream = Vec::new();
        assert_eq!(send(&a, &[c], &[], &mut stream).unwrap(), 3);
        let progress = Progress::default();
        let i = receive_watched(&b, stream.as_slice(), &progress).unwrap();
        assert_eq!(progress.objects(), (3, 3));
        assert!(
            !b.has(&c).unwrap(),
            "nothing is visible before it is admitted"
        );
        i.admit(&b, &[c], || Ok(())).unwrap();
        assert!(b.has(&c).unwrap());
        fsck(&b);
    }

    #[test]
    fn a_closure_with_a_hole_is_refused() {
        let (_d, a, b) = two_repos();
        let c = commit(&a, b"x");
        let mut w = PackWriter::create(&a.incoming_dir(), 1).unwrap();
        let o = a.find(&c).unwrap().unwrap();
        w.add(o.kind, &o.data).unwrap();
        let sealed = w.finish().unwrap();
        let stream = std::fs::read(sealed.path()).unwrap();
        let i = receive(&b, stream.as_slice()).unwrap();
        assert!(i.admit(&b, &[c], || Ok(())).is_err());
        assert!(!b.has(&c).unwrap());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn damaged_streams_are_refused_without_a_panic(
            at in any::<proptest::sample::Index>(), flip in 0u8..=255
        ) {
            let (_d, a, b) = two_repos();
            let c = commit(&a, b"some text");
            let mut s = Vec::new();
            send(&a, &[c], &[], &mut s).unwrap();
            let i = at.index(s.len());
            if flip == 0 { s.truncate(i); } else { s[i] ^= flip; }
            assert!(receive(&b, s.as_slice()).is_err());
        }
    }
}
