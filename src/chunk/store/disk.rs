//! Each change that the store makes to the disk is one of these calls, so that tests can see
//! their order, let one of them fail, and put together what a loss of power leaves.
//!
//! Invariant: nothing else in [`crate::chunk::store`] writes, names or removes a file of the
//! store. Threads: any.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::io::Errno;

use crate::base::durable;

/// A file that is empty now, whatever it was.
pub(super) fn create(path: &Path) -> io::Result<File> {
    #[cfg(test)]
    tape::note(tape::Op::Create(path.to_owned()))?;
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
}

/// Opens a file that is there, to change it.
pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

pub(super) fn write(path: &Path, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    #[cfg(test)]
    if let Err(e) = tape::note(tape::Op::Write(path.to_owned(), at, bytes.to_vec())) {
        // As a full disk does it: some of the bytes are written.
        file.write_all_at(&bytes[..bytes.len() / 2], at)?;
        return Err(e);
    }
    let _only_for_tests = path;
    file.write_all_at(bytes, at)
}

/// Zeros, for which the disk keeps no blocks if it can do that.
pub(super) fn zeros(path: &Path, file: &File, at: u64, len: u32) -> io::Result<()> {
    use rustix::fs::FallocateFlags as Flags;
    #[cfg(test)]
    tape::note(tape::Op::Write(path.to_owned(), at, vec![0; len as usize]))?;
    let flags = Flags::PUNCH_HOLE | Flags::KEEP_SIZE;
    match rustix::fs::fallocate(file, flags, at, len.into()) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            let _only_for_tests = path;
            file.write_all_at(&vec![0; len as usize], at)
        }
        done => done.map_err(Into::into),
    }
}

/// Says by the time of its last change that a file was used now. Nothing rests on it.
pub(super) fn touch(path: &Path) -> io::Result<()> {
    let at = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
    let times = Timestamps {
        last_access: at(UTIME_OMIT),
        last_modification: at(UTIME_NOW),
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::empty()).map_err(Into::into)
}

pub(super) fn set_len(path: &Path, file: &File, len: u64) -> io::Result<()> {
    #[cfg(test)]
    tape::note(tape::Op::Length(path.to_owned(), len))?;
    let _only_for_tests = path;
    file.set_len(len)
}

pub(super) fn sync(path: &Path, file: &File) -> io::Result<()> {
    #[cfg(test)]
    tape::note(tape::Op::Sync(path.to_owned()))?;
    let _only_for_tests = path;
    file.sync_data()
}

pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    #[cfg(test)]
    tape::note(tape::Op::SyncDir(path.to_owned()))?;
    durable::sync_dir(path)
}

pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(test)]
    tape::note(tape::Op::Rename(from.to_owned(), to.to_owned()))?;
    fs::rename(from, to)
}

/// Removes a file; one that is not there is removed.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    #[cfg(test)]
    tape::note(tape::Op::Remove(path.to_owned()))?;
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(super) mod tape {
    use std::cell::RefCell;
    use std::path::PathBuf;

    use super::io;

    #[derive(Debug, Clone)]
    pub(crate) enum Op {
        Create(PathBuf),
        Write(PathBuf, u64, Vec<u8>),
        Length(PathBuf, u64),
        Sync(PathBuf),
        SyncDir(PathBuf),
        Rename(PathBuf, PathBuf),
        Remove(PathBuf),
    }

    #[derive(Default)]
    struct Tape {
        ops: Vec<Op>,
        keep: bool,
        /// The change that fails, counted from now, and how.
        fails: Option<(usize, io::ErrorKind)>,
    }

    thread_local! {
        static TAPE: RefCell<Tape> = RefCell::default();
    }

    pub(super) fn note(op: Op) -> io::Result<()> {
        TAPE.with_borrow_mut(|t| {
            if let Some((n, kind)) = &mut t.fails {
                if *n == 0 {
                    let kind = *kind;
                    t.fails = None;
                    return Err(kind.into());
                }
                *n -= 1;
            }
            if t.keep {
                t.ops.push(op);
            }
            Ok(())
        })
    }

    /// From now on the changes that this thread makes are kept.
    pub(crate) fn record() {
        TAPE.with_borrow_mut(|t| t.keep = true);
    }

    /// How many were kept so far.
    pub(crate) fn len() -> usize {
        TAPE.with_borrow(|t| t.ops.len())
    }

    /// What was kept; nothing is any more.
    pub(crate) fn stop() -> Vec<Op> {
        TAPE.take().ops
    }

    /// Lets the `n`th change from now fail. Says whether the last one that should has not yet.
    pub(crate) fn fail(n: Option<(usize, io::ErrorKind)>) -> bool {
        TAPE.with_borrow_mut(|t| std::mem::replace(&mut t.fails, n))
            .is_some()
    }
}
