//! The log file: frames, segments, group fsync, recovery.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard};

use super::entry::Entry;
use crate::base::durable;

const MAGIC: &[u8; 8] = b"cellfsJ1";
const _: () = assert!(MAGIC[7] == b'0' + crate::base::format::JOURNAL);
/// A segment is closed and a new one begun above this size.
const SEGMENT_BYTES: u64 = 64 << 20;
/// A sync that has to make the file's new length durable writes so many zeros behind it, for what
/// comes next: to overwrite those costs the disk a fraction of what it costs to make a file longer.
const ROOM_BYTES: usize = 256 << 10;
/// Longest frame that recovery believes.
const FRAME_BYTES_MAX: u32 = 64 << 20;

/// Why the journal refused.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// A write or fsync failed before; see the module.
    #[error("the journal is poisoned since {0}; restart the node once the disk is sound")]
    Poisoned(String),
    /// The disk is full. The log is sound; the entry is not in it.
    #[error("no space left on the disk that holds the journal")]
    Full,
    /// The entry cannot be encoded.
    #[error("entry cannot be written: {0}")]
    Encode(String),
}

/// What recovery found.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Entries with their numbers, in order.
    pub entries: Vec<(u64, Entry)>,
    /// Bytes at the end that were no whole entry: the crash cut them.
    pub torn_bytes: u64,
}

#[derive(Debug)]
struct Tail {
    file: File,
    /// Bytes in the file that are whole frames.
    len: u64,
    /// Up to here the file has zeros behind them, unless they are longer by now.
    room: u64,
    /// Number of the next entry.
    next: u64,
    /// First numbers of all segments, oldest first; the last is being written.
    segments: Vec<u64>,
    poison: Option<String>,
    buf: Vec<u8>,
}

#[derive(Debug, Default)]
struct Durable {
    /// Entries below this number are durable.
    upto: u64,
    /// Someone is in the system call.
    busy: bool,
}

/// See [`crate::journal`].
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    tail: Mutex<Tail>,
    durable: Mutex<Durable>,
    synced: Condvar,
}

fn segment_path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:016x}.log"))
}

fn create_segment(dir: &Path, first: u64) -> io::Result<File> {
    let mut f = OpenOptions::new()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(segment_path(dir, first))?;
    f.write_all(MAGIC)?;
    f.sync_all()?;
    durable::sync_dir(dir)?;
    Ok(f)
}

/// The first frame: its entry, its size, and what follows. `None` when it is not whole.
fn read_frame(bytes: &[u8]) -> Option<(Entry, u64, &[u8])> {
    let (len, after) = bytes.split_first_chunk::<4>()?;
    let (crc, after) = after.split_first_chunk::<4>()?;
    let len = u32::from_le_bytes(*len);
    // 0: nothing was written there yet.
    if len == 0 || len > FRAME_BYTES_MAX {
        return None;
    }
    let (payload, after) = after.split_at_checked(len as usize)?;
    if crc32fast::hash(payload) != u32::from_le_bytes(*crc) {
        return None;
    }
    let e = postcard::from_bytes(payload).ok()?;
    Some((e, 8 + u64::from(len), after))
}

/// Whole entries of a segment, and the length of the sound part.
fn read_segment(bytes: &[u8]) -> (Vec<Entry>, u64) {
    let mut out = Vec::new();
    let Some(mut rest) = bytes.strip_prefix(MAGIC.as_slice()) else {
        return (out, 0);
    };
    let mut good = MAGIC.len() as u64;
    while let Some((e, size, after)) = read_frame(rest) {
        out.push(e);
        good += size;
        rest = after;
    }
    (out, good)
}

impl Journal {
    /// Opens the journal in `dir` and reads what is in it.
    ///
    /// # Errors
    /// As the file system. A torn end is no error: it was never acknowledged.
    pub fn open(dir: &Path) -> io::Result<(Self, Recovered)> {
        durable::dirs(dir)?;
        let mut segments: Vec<u64> = fs::read_dir(dir)?
            .filter_map(|e| {
                let n = e.ok()?.file_name().into_string().ok()?;
                u64::from_str_radix(n.strip_suffix(".log")?, 16).ok()
            })
            .collect();
        segments.sort_unstable();
        let mut found = Recovered::default();
        let mut next = 1;
        let mut good = 0;
        let mut kept = Vec::new();
        for first in segments {
            let path = segment_path(dir, first);
            let gap = !kept.is_empty() && (first != next || found.torn_bytes > 0);
            if gap {
                // What stands behind a tear was appended after it and is not a prefix.
                found.torn_bytes += fs::metadata(&path)?.len();
                fs::remove_file(&path)?;
                durable::sync_dir(dir)?;
                continue;
            }
            let mut bytes = Vec::new();
            File::open(&path)?.read_to_end(&mut bytes)?;
            let (entries, len) = read_segment(&bytes);
            let rest = usize::try_from(len).map_or(None, |len| bytes.get(len..));
            let rest = rest.unwrap_or_default();
            if rest.iter().any(|b| *b != 0) {
                found.torn_bytes += rest.len() as u64;
            }
            good = len;
            next = first;
            for e in entries {
                found.entries.push((next, e));
                next += 1;
            }
            kept.push(first);
        }
        let file = match kept.last() {
            Some(first) if good > 0 => {
                let mut f = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(segment_path(dir, *first))?;
                f.set_len(good)?;
                f.seek(SeekFrom::End(0))?;
                f.sync_all()?;
                f
            }
            _ => {
                kept.retain(|k| *k != next);
                kept.push(next);
                good = MAGIC.len() as u64;
                create_segment(dir, next)?
            }
        };
        let tail = Tail {
            file,
            len: good,
            room: good,
            next,
            segments: kept,
            poison: None,
            buf: Vec::new(),
        };
        let journal = Self {
            dir: dir.to_owned(),
            tail: Mutex::new(tail),
            durable: Mutex::new(Durable {
                upto: next,
                busy: false,
            }),
            synced: Condvar::new(),
        };
        Ok((journal, found))
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        // A thread that died while appending left at most a torn frame, which the length hides.
        self.tail
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Appends an entry and returns its number. It survives the death of the process, not yet
    /// of the machine.
    ///
    /// # Errors
    /// See [`JournalError`]; the entry is then not in the log.
    pub fn append(&self, entry: &Entry) -> Result<u64, JournalError> {
        let mut t = self.tail();
        if let Some(why) = &t.poison {
            return Err(JournalError::Poisoned(why.clone()));
        }
        let mut buf = std::mem::take(&mut t.buf);
        buf.clear();
        buf.extend_from_slice(&[0; 8]);
        let mut buf =
            postcard::to_extend(entry, buf).map_err(|e| JournalError::Encode(e.to_string()))?;
        let (head, payload) = buf.split_at_mut(8);
        let len = u32::try_from(payload.len())
            .ok()
            .filter(|l| *l <= FRAME_BYTES_MAX)
            .ok_or_else(|| JournalError::Encode(format!("{} bytes", payload.len())))?;
        let crc = crc32fast::hash(payload);
        if let Some((l, c)) = head.split_first_chunk_mut::<4>() {
            l.copy_from_slice(&len.to_le_bytes());
            c.copy_from_slice(&crc.to_le_bytes());
        }
        let done = t.file.write_all(&buf);
        t.buf = buf;
        match done {
            Ok(()) => {
                t.len += 8 + u64::from(len);
                let n = t.next;
                t.next += 1;
                Ok(n)
            }
            Err(e) => Err(cut_back(&mut t, &e)),
        }
    }

    /// Number of the last entry appended.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.tail().next - 1
    }

    /// Why the journal is poisoned, if it is.
    #[must_use]
    pub fn poisoned(&self) -> Option<String> {
        self.tail().poison.clone()
    }

    /// Returns when all entries up to `number` are durable.
    ///
    /// # Errors
    /// When an fsync failed, now or before.
    pub fn sync(&self, number: u64) -> Result<(), JournalError> {
        let lock = |m| -> MutexGuard<'_, Durable> {
            Mutex::lock(m).unwrap_or_else(std::sync::PoisonError::into_inner)
        };
        let mut d = lock(&self.durable);
        loop {
            if let Some(why) = self.poisoned() {
                return Err(JournalError::Poisoned(why));
            }
            if d.upto > number {
                return Ok(());
            }
            if !d.busy {
                break;
            }
            d = self
                .synced
                .wait(d)
                .unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        d.busy = true;
        drop(d);
        let (file, next) = {
            let mut t = self.tail();
            make_room(&mut t);
            (t.file.try_clone(), t.next)
        };
        let done = file.and_then(|f| f.sync_data());
        if let Err(e) = &done {
            self.poison(&format!("an fsync failed: {e}"));
        }
        let mut d = lock(&self.durable);
        d.busy = false;
        if done.is_ok() {
            d.upto = d.upto.max(next);
        }
        drop(d);
        self.synced.notify_all();
        match self.poisoned() {
            Some(why) => Err(JournalError::Poisoned(why)),
            None => Ok(()),
        }
    }

    /// Whether an entry is on disk for good.
    #[must_use]
    pub fn is_durable(&self, number: u64) -> bool {
        let d = self.durable.lock();
        d.unwrap_or_else(std::sync::PoisonError::into_inner).upto > number
    }

    /// Stops all further appends.
    pub fn poison(&self, why: &str) {
        tracing::error!(why, "journal poisoned");
        let mut t = self.tail();
        t.poison.get_or_insert_with(|| why.to_owned());
    }

    /// Drops segments that hold only entries below `first_needed`, and starts a new segment
    /// with `opening` when the current one is long. The opening entries stand for all that the
    /// dropped segments said.
    ///
    /// # Errors
    /// As [`Journal::append`].
    pub fn trim(
        &self,
        first_needed: u64,
        opening: impl FnOnce() -> Vec<Entry>,
    ) -> Result<(), JournalError> {
        if self.tail().len < SEGMENT_BYTES {
            return Ok(());
        }
        let first = {
            let mut t = self.tail();
            let first = t.next;
            match create_segment(&self.dir, first) {
                Ok(f) => {
                    // The old file's entries become durable before the new one is used.
                    if let Err(e) = t.file.set_len(t.len).and_then(|()| t.file.sync_data()) {
                        t.poison = Some(format!("an fsync failed: {e}"));
                        return Err(JournalError::Poisoned(e.to_string()));
                    }
                    t.file = f;
                    t.len = MAGIC.len() as u64;
                    t.room = t.len;
                    t.segments.push(first);
                    first
                }
                Err(e) => return Err(classify(&e)),
            }
        };
        let mut last = first;
        for e in opening() {
            last = self.append(&e)?;
        }
        self.sync(last)?;
        self.drop_before(first_needed.min(first));
        Ok(())
    }

    fn drop_before(&self, needed: u64) {
        loop {
            let old = match *self.tail().segments {
                [old, next, ..] if next <= needed => old,
                _ => return,
            };
            // One by one: were a later one to go before an earlier, recovery would see a gap.
            let gone = fs::remove_file(segment_path(&self.dir, old))
                .and_then(|()| durable::sync_dir(&self.dir));
            if let Err(e) = gone {
                tracing::warn!(error = %e, "an old journal segment stays");
                return;
            }
            self.tail().segments.retain(|s| *s != old);
        }
    }
}

/// Zeros behind the frames, if there are none. Where they cannot be written, the frames stay the
/// end of the file.
fn make_room(t: &mut Tail) {
    if t.len <= t.room {
        return;
    }
    t.room = match t.file.write_all_at(&[0; ROOM_BYTES], t.len) {
        Ok(()) => t.len + ROOM_BYTES as u64,
        Err(e) => {
            tracing::debug!(error = %e, "no room behind the journal");
            t.len
        }
    };
}

fn classify(e: &io::Error) -> JournalError {
    match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => JournalError::Full,
        _ => JournalError::Poisoned(e.to_string()),
    }
}

/// After a failed write: cut what was written of the frame, or poison the log.
fn cut_back(t: &mut Tail, e: &io::Error) -> JournalError {
    t.room = t.len;
    let cut = t
        .file
        .set_len(t.len)
        .and_then(|()| t.file.seek(SeekFrom::Start(t.len)).map(|_| ()));
    let full = matches!(classify(e), JournalError::Full);
    if cut.is_ok() && full {
        return JournalError::Full;
    }
    let why = format!("a write failed: {e}");
    t.poison = Some(why.clone());
    JournalError::Poisoned(why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::FileId;
    use crate::journal::Patch;
    use proptest::prelude::{ProptestConfig, any, proptest};

    fn bytes(n: u64) -> Entry {
        Entry::Op(vec![Patch::Bytes {
            id: FileId { branch: 1, n },
            at: n,
            data: vec![u8::try_from(n % 251).unwrap(); 10],
            mtime: 0,
        }])
    }

    #[test]
    fn what_was_appended_is_recovered_and_numbering_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let (j, r) = Journal::open(dir.path()).unwrap();
        assert!(r.entries.is_empty());
        for n in 1..=20 {
            assert_eq!(j.append(&bytes(n)).unwrap(), n);
        }
        j.sync(20).unwrap();
        drop(j);
        let (j, r) = Journal::open(dir.path()).unwrap();
        let want: Vec<_> = (1..=20).map(|n| (n, bytes(n))).collect();
        assert_eq!(r.entries, want);
        assert_eq!(j.append(&bytes(21)).unwrap(), 21);
    }

    #[test]
    fn segments_turn_over_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let (j, _) = Journal::open(dir.path()).unwrap();
        let big = Entry::Op(vec![Patch::Bytes {
            id: FileId::ROOT,
            at: 0,
            data: vec![1; 33 << 20],
            mtime: 0,
        }]);
        j.append(&big).unwrap();
        j.append(&big).unwrap();
        j.trim(3, || vec![bytes(7)]).unwrap();
        assert_eq!(j.append(&bytes(8)).unwrap(), 4);
        drop(j);
        let (_, r) = Journal::open(dir.path()).unwrap();
        assert_eq!(r.entries, vec![(3, bytes(7)), (4, bytes(8))]);
    }

    #[test]
    fn room_behind_the_entries_is_no_torn_end() {
        let dir = tempfile::tempdir().unwrap();
        let (j, _) = Journal::open(dir.path()).unwrap();
        for n in 1..=3 {
            assert_eq!(j.append(&bytes(n)).unwrap(), n);
            j.sync(n).unwrap();
        }
        let path = segment_path(dir.path(), 1);
        assert!(fs::metadata(&path).unwrap().len() > ROOM_BYTES as u64);
        drop(j);
        let (j, r) = Journal::open(dir.path()).unwrap();
        let want: Vec<_> = (1..=3).map(|n| (n, bytes(n))).collect();
        assert_eq!((r.entries, r.torn_bytes), (want, 0));
        assert_eq!(j.append(&bytes(4)).unwrap(), 4);
        j.sync(4).unwrap();
        drop(j);
        // What did reach the disk behind what did not is no entry.
        let mut all = fs::read(&path).unwrap();
        let at = all.len() - 100;
        all[at] = 7;
        fs::write(&path, &all).unwrap();
        let (_, r) = Journal::open(dir.path()).unwrap();
        assert_eq!(r.entries.len(), 4);
        assert!(r.torn_bytes > 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn any_cut_and_any_flip_leave_a_prefix(at in any::<proptest::sample::Index>(), flip in 0u8..=255) {
            let dir = tempfile::tempdir().unwrap();
            let (j, _) = Journal::open(dir.path()).unwrap();
            for n in 1..=8 { j.append(&bytes(n)).unwrap(); }
            drop(j);
            let path = segment_path(dir.path(), 1);
            let mut b = fs::read(&path).unwrap();
            let i = at.index(b.len());
            if flip == 0 { b.truncate(i); } else { b[i] ^= flip; }
            fs::write(&path, &b).unwrap();
            let (j, r) = Journal::open(dir.path()).unwrap();
            for (k, (n, e)) in r.entries.iter().enumerate() {
                assert_eq!(*n, k as u64 + 1);
                assert_eq!(*e, bytes(*n));
            }
            let n = j.append(&bytes(99)).unwrap();
            drop(j);
            let (_, again) = Journal::open(dir.path()).unwrap();
            assert_eq!(again.entries.len(), r.entries.len() + 1);
            assert_eq!(again.entries.last().unwrap().0, n);
        }
    }
}
