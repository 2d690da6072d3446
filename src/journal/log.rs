//! The log file: frames, segments, group fsync, recovery.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard};

use super::entry::Entry;
use super::segment::{self, FRAME_BYTES_MAX, MAGIC, Rest};
use crate::base::durable;

/// A segment is closed and a new one begun above this size; in tests often.
const SEGMENT_BYTES: u64 = if cfg!(test) { 4 << 10 } else { 64 << 20 };
/// A sync that has to make the file's new length durable writes so many zeros behind it, for what
/// comes next: to overwrite those costs the disk a fraction of what it costs to make a file longer.
const ROOM_BYTES: usize = 256 << 10;
/// Where segments go that the disk damaged, below the journal.
const DAMAGED_DIR: &str = "damaged";

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
    /// Where the disk gave back something else than it got. The entries are then those before,
    /// and of those behind the ones that hold by themselves: objects and heads.
    pub damage: Option<Damage>,
}

/// The first place where the journal is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The segment.
    pub file: PathBuf,
    /// Where the first byte is that is no entry.
    pub offset: u64,
    /// Operations that are known to have been behind it, in this segment and in later ones. They
    /// may build on some that are not known, so they are not replayed.
    pub cut: u64,
    /// Where this segment and later ones will be kept, once all is recovered.
    pub kept: PathBuf,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} is damaged at byte {}; {} operations behind it are not replayed; it is kept in {}",
            self.file.display(),
            self.offset,
            self.cut,
            self.kept.display()
        )
    }
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
    /// Those of them that are not removed, but kept aside.
    damaged: Vec<u64>,
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
    let done = f
        .write_all(MAGIC)
        .and_then(|()| f.sync_all())
        .and_then(|()| durable::sync_dir(dir));
    if let Err(e) = done {
        // Entries go on in the segment before it.
        if let Err(e) = fs::remove_file(segment_path(dir, first)) {
            tracing::debug!(error = %e, first, "an empty journal segment stays");
        }
        return Err(e);
    }
    Ok(f)
}

fn damaged_path(dir: &Path, first: u64) -> PathBuf {
    segment_path(&dir.join(DAMAGED_DIR), first)
}

/// What all segments together say.
#[derive(Debug, Default)]
struct Replay {
    found: Recovered,
    /// Number of the next entry.
    next: u64,
    /// Segments that stay.
    kept: Vec<u64>,
    /// Length of the sound part of the last one.
    good: u64,
    damaged: Vec<u64>,
}

/// Reads the segments with these first numbers, which are sorted.
fn replay(dir: &Path, segments: Vec<u64>) -> io::Result<Replay> {
    let mut r = Replay {
        next: 1,
        ..Replay::default()
    };
    let last = segments.last().copied();
    let mut upto = 0;
    for first in segments {
        let path = segment_path(dir, first);
        let mut bytes = Vec::new();
        File::open(&path)?.read_to_end(&mut bytes)?;
        let s = segment::read(&bytes);
        if s.rest == Rest::Foreign {
            let why = format!("{} was written by another version", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let is_next = r.kept.is_empty() || first == r.next;
        if s.entries.is_empty() && s.rest == Rest::Empty && !(is_next && Some(first) == last) {
            // It was made, and the one before it went on.
            fs::remove_file(&path)?;
            durable::sync_dir(dir)?;
            continue;
        }
        let (good, is_last) = (s.good, Some(first) == last);
        let (behind, damaged) = match s.rest {
            Rest::Damaged(entries) => (entries, true),
            // What others follow was synced.
            Rest::Torn(n) => {
                r.found.torn_bytes += n;
                (Vec::new(), !is_last)
            }
            Rest::Empty | Rest::Foreign => (Vec::new(), false),
        };
        // Without the entries that were before it, all of it is behind damage.
        let sound = match is_next && r.found.damage.is_none() {
            true => s.entries.len(),
            false => 0,
        };
        if !is_next || damaged {
            r.found.damage.get_or_insert_with(|| Damage {
                file: path,
                offset: if is_next { good } else { 0 },
                cut: 0,
                kept: dir.join(DAMAGED_DIR),
            });
        }
        let mut number = first.max(r.next);
        for (n, e) in s.entries.into_iter().chain(behind).enumerate() {
            if let Entry::Committed(c) = &e {
                upto = upto.max(c.upto);
            }
            match (&e, &mut r.found.damage) {
                (Entry::Op(_), Some(d)) if n >= sound => d.cut += 1,
                _ => r.found.entries.push((number, e)),
            }
            number += 1;
        }
        r.next = r.next.max(number);
        if r.found.damage.is_some() {
            r.damaged.push(first);
        }
        r.good = good;
        r.kept.push(first);
    }
    if r.found.damage.is_some() {
        // How many entries are gone is not known: what comes is none that a head says it has.
        r.next = r.next.max(upto + 1);
    }
    Ok(r)
}

impl Journal {
    /// Opens the journal in `dir` and reads what is in it.
    ///
    /// # Errors
    /// As the file system, and when another version of the program wrote it. A torn end is no
    /// error: it was never acknowledged. Nor is damage, which is told: see [`Recovered`].
    pub fn open(dir: &Path) -> io::Result<(Self, Recovered)> {
        durable::dirs(dir)?;
        let mut segments: Vec<u64> = fs::read_dir(dir)?
            .filter_map(|e| {
                let n = e.ok()?.file_name().into_string().ok()?;
                u64::from_str_radix(n.strip_suffix(".log")?, 16).ok()
            })
            .collect();
        segments.sort_unstable();
        let Replay {
            found,
            next,
            kept: mut segments,
            mut good,
            damaged,
        } = replay(dir, segments)?;
        let file = match segments.last() {
            Some(first) if good > 0 && found.damage.is_none() => {
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
                segments.retain(|k| *k != next);
                segments.push(next);
                good = MAGIC.len() as u64;
                create_segment(dir, next)?
            }
        };
        let tail = Tail {
            file,
            len: good,
            room: good,
            next,
            segments,
            damaged,
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
        let first = self.begin_segment()?;
        let mut last = first;
        for e in opening() {
            last = self.append(&e)?;
        }
        self.sync(last)?;
        self.drop_before(first_needed.min(first));
        Ok(())
    }

    /// Begins anew with entries that stand for all that there is. What a failed fsync left in the
    /// memory of the machine alone is not built on; what is damaged is kept aside.
    ///
    /// # Errors
    /// As [`Journal::append`]; what was there is there still.
    pub fn renew(&self, opening: Vec<Entry>) -> Result<(), JournalError> {
        let first = self.begin_segment()?;
        let mut last = first;
        for e in opening {
            last = self.append(&e)?;
        }
        self.sync(last)?;
        self.drop_before(first);
        Ok(())
    }

    /// Entries go to a new segment from now on; its first number.
    pub(super) fn begin_segment(&self) -> Result<u64, JournalError> {
        let mut t = self.tail();
        let first = t.next;
        if t.segments.last() == Some(&first) {
            // There is nothing in the one that is written.
            return Ok(first);
        }
        let file = create_segment(&self.dir, first).map_err(|e| classify(&e))?;
        // The old file's entries become durable before the new one is used.
        if let Err(e) = t.file.set_len(t.len).and_then(|()| t.file.sync_data()) {
            t.poison = Some(format!("an fsync failed: {e}"));
            return Err(JournalError::Poisoned(e.to_string()));
        }
        t.file = file;
        t.len = MAGIC.len() as u64;
        t.room = t.len;
        t.segments.push(first);
        Ok(first)
    }

    fn keep_aside(&self, old: u64) -> io::Result<()> {
        let to = damaged_path(&self.dir, old);
        let dir = self.dir.join(DAMAGED_DIR);
        durable::dirs(&dir)?;
        fs::rename(segment_path(&self.dir, old), to)?;
        durable::sync_dir(&dir)
    }

    fn drop_before(&self, needed: u64) {
        loop {
            let old = match *self.tail().segments {
                [old, next, ..] if next <= needed => old,
                _ => return,
            };
            // One by one: were a later one to go before an earlier, recovery would see a gap.
            let gone = match self.tail().damaged.contains(&old) {
                true => self.keep_aside(old),
                false => fs::remove_file(segment_path(&self.dir, old)),
            };
            let gone = gone.and_then(|()| durable::sync_dir(&self.dir));
            if let Err(e) = gone {
                tracing::warn!(error = %e, "an old journal segment stays");
                return;
            }
            self.tail().segments.retain(|s| *s != old);
        }
    }
}

/// Zeros behind the frames, if there are none. Where there is no room for them, the frames stay
/// the end of the file; a disk that fails otherwise fails here as at any write.
fn make_room(t: &mut Tail) {
    if t.len <= t.room {
        return;
    }
    t.room = match t.file.write_all_at(&[0; ROOM_BYTES], t.len) {
        Ok(()) => t.len + ROOM_BYTES as u64,
        Err(e) => {
            tracing::debug!(error = %e, "no room behind the journal");
            if !matches!(classify(&e), JournalError::Full) {
                t.poison
                    .get_or_insert_with(|| format!("a write failed: {e}"));
            }
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
            data: vec![1; usize::try_from(SEGMENT_BYTES).unwrap() / 2 + 1],
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
            let Ok((j, r)) = Journal::open(dir.path()) else {
                // The number of the format.
                assert_eq!(i, 7);
                return Ok(());
            };
            for (k, (n, e)) in r.entries.iter().enumerate() {
                assert_eq!(*n, k as u64 + 1);
                assert_eq!(*e, bytes(*n));
            }
            let n = j.append(&bytes(99)).unwrap();
            drop(j);
            let (_, again) = Journal::open(dir.path()).unwrap();
            if r.damage.is_none() {
                assert_eq!(again.entries.len(), r.entries.len() + 1);
                assert_eq!(again.entries.last().unwrap().0, n);
            }
        }
    }
}
