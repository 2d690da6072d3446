//! One daemon per state directory: `<state>/lock`, held with `flock` for the daemon's life.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::failure::{Code, Failure};
use crate::base::durable;

/// The right to be the node of a state directory. Dropped, or when the process dies, the
/// right is free again; nothing stale remains.
#[derive(Debug)]
pub struct StateLock {
    dir: PathBuf,
    _file: File,
}

/// Why a state directory cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another daemon has it.
    #[error("state {} is in use by process {}", dir.display(), pid.map_or_else(|| "unknown".to_owned(), |p| p.to_string()))]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// Who, as far as the lock file says.
        pid: Option<u32>,
    },
    /// It cannot be made or opened.
    #[error("state {} cannot be used: {source}", dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl From<LockError> for Failure {
    fn from(e: LockError) -> Self {
        let f = Self::new(Code::Failed, &e);
        match e {
            LockError::InUse { dir, .. } => f.hint(format!(
                "cellfs status --state {0} shows that node; choose another --state DIR for a second one",
                dir.display()
            )),
            LockError::Io { .. } => f.hint("choose a directory that you may write: --state DIR"),
        }
    }
}

impl StateLock {
    /// Makes the directory (mode 0700) if it is not there, and takes it.
    ///
    /// # Errors
    /// When another process has it, or it cannot be made.
    pub fn take(dir: &Path) -> Result<Self, LockError> {
        let io = |source| LockError::Io {
            dir: dir.to_owned(),
            source,
        };
        durable::dirs_with(dir, 0o700).map_err(io)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(dir.join("lock"))
            .map_err(io)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(LockError::InUse {
                    dir: dir.to_owned(),
                    pid: read_pid(&mut file),
                });
            }
            Err(e) => return Err(io(e.into())),
        }
        file.set_len(0).map_err(io)?;
        writeln!(file, "{}", std::process::id()).map_err(io)?;
        Ok(Self {
            dir: dir.to_owned(),
            _file: file,
        })
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Which process holds the directory, if one does.
    #[must_use]
    pub fn holder(dir: &Path) -> Option<u32> {
        let mut file = File::open(dir.join("lock")).ok()?;
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Err(rustix::io::Errno::WOULDBLOCK) => read_pid(&mut file),
            _ => None,
        }
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_refused_by_name_and_the_lock_dies_with_its_holder() {
        let dir = tempfile::tempdir().expect("tempdir");
        let state = dir.path().join("a/b");
        let first = StateLock::take(&state).expect("free");
        let again = StateLock::take(&state).expect_err("taken");
        let me = std::process::id();
        assert_eq!(
            again.to_string(),
            format!("state {} is in use by process {me}", state.display())
        );
        assert_eq!(StateLock::holder(&state), Some(me));
        drop(first);
        assert_eq!(StateLock::holder(&state), None);
        assert!(StateLock::take(&state).is_ok());
    }
}
