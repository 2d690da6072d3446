//! An overlay file: the bytes of one inode that are too many for memory.
//!
//! Invariant: its number names it in the journal and is used once while the node runs. While the
//! kernel hands programs the file itself, nobody is told of their writes: they are seen by the
//! file's times alone ([`Spill::changed`]). Threads: any.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::base::{clock, sys};

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
        Ok(Self {
            number,
            reader: File::open(&path)?,
            path,
            writer: Mutex::default(),
            watch: Mutex::default(),
        })
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
