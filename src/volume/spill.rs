//! An overlay file: the bytes of one inode that are too many for memory.
//!
//! Invariant: its number names it in the journal and is used once while the node runs. While the
//! kernel hands programs the file itself, nobody is told of their writes: they are seen by the
//! file's times alone ([`Spill::changed`]). One that is sealed is written to by nobody: it is
//! becoming the container of a large file, or is one, by another name. Threads: any.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use crate::base::id::Oid;
use crate::base::{clock, sys};
use crate::chunk::{Sha256, Survey};

/// What is written within this long of another write may have the same time: two ticks of the
/// slowest clock that a kernel stamps files by, and some.
const TICKS: Duration = Duration::from_millis(25);

/// How often a file that somebody writes is looked at again.
const LOOKS_MAX: u32 = 2;

/// What a write changes about a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Modification, nanoseconds since 1970.
    pub mtime: i64,
    /// Change, nanoseconds since 1970.
    pub ctime: i64,
    /// Bytes.
    pub len: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Spill {
    /// Its name under `overlay/`.
    pub number: u64,
    path: PathBuf,
    /// Open for reading only: see [`Self::has_writers`].
    reader: File,
    writer: Mutex<Option<Arc<File>>>,
    watch: Mutex<Watch>,
    /// Asked where nobody may wait; set while [`Self::seal`] is held.
    sealed: AtomicBool,
    seal: Mutex<Seal>,
    /// It began as a copy of what is in chunks: most of it is.
    derived: AtomicBool,
    /// The journal has yet to hear that it holds the bytes again.
    untold: AtomicBool,
    look: Mutex<Look>,
}

/// What it is made of, while it is sealed.
#[derive(Debug, Default)]
struct Look {
    /// How often a seal was opened: what was read before says nothing any more.
    turn: u64,
    is_under_way: bool,
    /// None in it: it could not be read.
    found: Option<Option<Arc<Survey>>>,
}

/// Whether an overlay file may be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Seal {
    /// It may.
    #[default]
    Open,
    /// Not without saying so: somebody names its bytes.
    Sealed,
    /// Not at all: it is the container of this file, whose manifest has this head.
    Container(Sha256, Oid),
}

#[derive(Debug, Default)]
struct Watch {
    on: bool,
    /// The times when its bytes were last known.
    noted: Option<Times>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Spill {
    /// A new one, empty.
    ///
    /// # Errors
    /// As the file system.
    pub fn create(dir: &Path, number: u64) -> io::Result<Self> {
        let path = dir.join(number.to_string());
        let writer = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .open(&path)?;
        let new = Self::open(dir, number)?;
        *lock(&new.writer) = Some(Arc::new(writer));
        Ok(new)
    }

    /// One that is there.
    ///
    /// # Errors
    /// As the file system.
    pub fn open(dir: &Path, number: u64) -> io::Result<Self> {
        let path = dir.join(number.to_string());
        let reader = File::open(&path)?;
        Ok(Self::new(path, number, reader, Seal::Open))
    }

    /// The file of a container, to be read. It has no name in the overlay, but will have this one
    /// when somebody writes to it.
    #[must_use]
    pub fn container(dir: &Path, number: u64, file: File, of: (Sha256, Oid)) -> Self {
        let path = dir.join(number.to_string());
        Self::new(path, number, file, Seal::Container(of.0, of.1))
    }

    fn new(path: PathBuf, number: u64, reader: File, seal: Seal) -> Self {
        Self {
            number,
            path,
            reader,
            writer: Mutex::default(),
            watch: Mutex::default(),
            sealed: AtomicBool::new(seal != Seal::Open),
            seal: Mutex::new(seal),
            derived: AtomicBool::new(false),
            untold: AtomicBool::new(false),
            look: Mutex::default(),
        }
    }

    /// From now on nobody writes to it unless he opens the seal. False if somebody has it in hand.
    /// Under the table's lock, as writes are.
    pub fn seal(&self) -> bool {
        let mut s = match self.seal.try_lock() {
            Ok(s) => s,
            Err(TryLockError::Poisoned(s)) => s.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        if *s == Seal::Open {
            lock(&self.writer).take();
            *s = Seal::Sealed;
            self.sealed.store(true, Ordering::Release);
        }
        true
    }

    /// Whether a writer has to open the seal first.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    /// How it is sealed, which stays so as long as this is kept. Waits for who changes it; not under
    /// the table's lock.
    pub fn sealed(&self) -> MutexGuard<'_, Seal> {
        lock(&self.seal)
    }

    /// Opens the seal: it may be written to. What it was is out of the way.
    pub fn open_seal(&self, mut seal: MutexGuard<'_, Seal>) {
        if matches!(*seal, Seal::Container(..)) {
            self.set_derived();
        }
        let turn = lock(&self.look).turn + 1;
        *lock(&self.look) = Look {
            turn,
            ..Look::default()
        };
        *seal = Seal::Open;
        self.untold.store(true, Ordering::Release);
        self.sealed.store(false, Ordering::Release);
    }

    /// Somebody begins to read what it is made of, who says so with this number; none if that is
    /// known or another one does. For one that is sealed.
    pub fn begin_look(&self) -> Option<u64> {
        let mut look = lock(&self.look);
        let begins = !look.is_under_way && look.found.is_none();
        look.is_under_way |= begins;
        begins.then_some(look.turn)
    }

    /// What it is made of, if nobody opened the seal since; none if it could not be read.
    pub fn end_look(&self, turn: u64, found: Option<Survey>) {
        let mut look = lock(&self.look);
        if look.turn == turn {
            look.is_under_way = false;
            look.found = Some(found.map(Arc::new));
        }
    }

    /// Whether it was read since it was sealed, or could not be.
    #[must_use]
    pub fn was_looked_at(&self) -> bool {
        lock(&self.look).found.is_some()
    }

    /// What it is made of, if that is known. What counts is that it is sealed still.
    #[must_use]
    pub fn survey(&self) -> Option<Arc<Survey>> {
        lock(&self.look).found.clone().flatten()
    }

    /// The container that it is, and the head of its manifest, as far as that is known without
    /// waiting.
    #[must_use]
    pub fn contained(&self) -> Option<(Sha256, Oid)> {
        let s = match self.seal.try_lock() {
            Ok(s) => s,
            Err(TryLockError::Poisoned(s)) => s.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        match *s {
            Seal::Container(sha256, head) => Some((sha256, head)),
            _ => None,
        }
    }

    /// It holds what is in chunks, or most of that.
    pub fn set_derived(&self) {
        self.derived.store(true, Ordering::Release);
    }

    /// See [`Self::set_derived`].
    #[must_use]
    pub fn is_derived(&self) -> bool {
        self.derived.load(Ordering::Acquire)
    }

    /// Whether the journal has to be told that this holds the bytes, even if it was before.
    #[must_use]
    pub fn is_untold(&self) -> bool {
        self.untold.load(Ordering::Acquire)
    }

    /// The journal was told.
    pub fn told(&self) {
        self.untold.store(false, Ordering::Release);
    }

    /// To read from, and to make its bytes durable.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.reader
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// To write to.
    ///
    /// # Errors
    /// As the file system.
    pub fn writer(&self) -> io::Result<Arc<File>> {
        if self.is_sealed() {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        let mut w = lock(&self.writer);
        if let Some(f) = &*w {
            return Ok(f.clone());
        }
        let f = OpenOptions::new().write(true).open(&self.path)?;
        let f = Arc::new(f);
        *w = Some(f.clone());
        Ok(f)
    }

    /// Bytes in it.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.reader.metadata().map_or(0, |m| m.len())
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its times now.
    ///
    /// # Errors
    /// As the file system.
    pub fn times(&self) -> io::Result<Times> {
        let m = self.reader.metadata()?;
        let ns = |s: i64, n: i64| s.saturating_mul(1_000_000_000).saturating_add(n);
        Ok(Times {
            mtime: ns(m.mtime(), m.mtime_nsec()),
            ctime: ns(m.ctime(), m.ctime_nsec()),
            len: m.len(),
        })
    }

    /// Its bytes are known as of these times.
    pub fn note(&self, times: Times) {
        let noted = Some(times);
        *lock(&self.watch) = Watch { on: true, noted };
    }

    /// Whether programs may write to it by themselves, or might once.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        lock(&self.watch).on
    }

    /// The times, if somebody wrote since they were noted.
    ///
    /// # Errors
    /// As the file system.
    pub fn changed(&self) -> io::Result<Option<Times>> {
        let now = self.times()?;
        Ok((lock(&self.watch).noted != Some(now)).then_some(now))
    }

    /// Notes its times such that each later write changes them: what is mapped is written back
    /// first, since the next store to a page that waits for that changes no time. While somebody
    /// writes on and on nothing is noted, and the file counts as changed after it.
    ///
    /// # Errors
    /// As the file system.
    pub fn begin_snapshot(&self) -> io::Result<()> {
        lock(&self.watch).noted = None;
        for _ in 0..LOOKS_MAX {
            self.reader.sync_data()?;
            let t = self.times()?;
            let age = clock::now_ns().saturating_sub(t.mtime.max(t.ctime));
            let ticks = i64::try_from(TICKS.as_nanos()).unwrap_or(i64::MAX);
            // Times of the future are nobody's clock: no waiting makes them older.
            if !(0..ticks).contains(&age) {
                self.note(t);
                return Ok(());
            }
            std::thread::sleep(TICKS);
            if self.times()? == t {
                self.note(t);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether a program can write to it still, by a mapping that outlived its descriptor. For
    /// one whose descriptors are closed.
    ///
    /// # Errors
    /// As [`sys::has_writers`].
    pub fn has_writers(&self) -> io::Result<bool> {
        lock(&self.writer).take();
        sys::has_writers(&self.reader)
    }
}
