//! Locks on the files of one volume, in a file.
//!
//! Invariants: a path is locked once. Ids count up and are not used again. The file is replaced
//! whole and durable before a change is seen; when that fails, nothing changed. One that is
//! damaged is an error and stays as it is. Memory: all of it, [`LOCKS_MAX`] locks at most.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{LOCK_PATH_BYTES_MAX, LOCKS_MAX};
use crate::base::{calendar, durable, format};

/// A lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lock {
    /// Of the file, from the top of the volume.
    pub(super) path: String,
    /// When it was taken, in seconds since 1970.
    pub(super) since: i64,
    /// Whose it is.
    pub(super) owner: String,
}

impl Lock {
    /// As git-lfs has it.
    pub(super) fn shown(&self, id: u64) -> serde_json::Value {
        serde_json::json!({
            "id": id.to_string(),
            "path": self.path,
            "locked_at": calendar::show(self.since).replacen(' ', "T", 1),
            "owner": { "name": self.owner },
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    v: u8,
    next: u64,
    locks: BTreeMap<u64, Lock>,
}

/// Why there is no lock, or why it stays.
#[derive(Debug, thiserror::Error)]
pub(super) enum LockError {
    #[error("{} is locked already", .1.path)]
    Taken(u64, Lock),
    #[error("{0:?} is no path of a file")]
    Path(String),
    #[error("there are {LOCKS_MAX} locks on this volume, the most there may be")]
    Many,
    #[error("there is no lock {0}")]
    Absent(u64),
    #[error("the lock is of {0}; --force takes it away all the same")]
    Foreign(String),
    #[error("could not {0}")]
    Io(&'static str, #[source] io::Error),
}

/// Some of the locks.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) locks: Vec<(u64, Lock)>,
    /// Where the next page begins, if there is one.
    pub(super) next: Option<u64>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Locks {
    path: PathBuf,
    kept: Kept,
}

impl Locks {
    /// Reads the locks in a file, or none if there is no file.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let kept = match std::fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).map_err(io::Error::from),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Kept {
                v: format::LFS_LOCKS,
                next: 1,
                locks: BTreeMap::new(),
            }),
            Err(e) => Err(e),
        };
        let kept = kept.and_then(|k| match k.v {
            format::LFS_LOCKS => Ok(k),
            v => Err(io::Error::other(format!("version {v} is not known here"))),
        });
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        Ok(Self {
            path: path.to_owned(),
            kept: kept.map_err(named)?,
        })
    }

    fn write(&self) -> Result<(), LockError> {
        let text = serde_json::to_vec(&self.kept).map_err(io::Error::from);
        text.and_then(|t| durable::replace(&self.path, &t, 0o600))
            .map_err(|e| LockError::Io("write the locks", e))
    }

    /// Takes a lock.
    pub(super) fn lock(
        &mut self,
        path: &str,
        owner: &str,
        now: i64,
    ) -> Result<(u64, Lock), LockError> {
        if !is_path(path) {
            return Err(LockError::Path(path.chars().take(200).collect()));
        }
        if let Some((id, lock)) = self.kept.locks.iter().find(|(_, l)| l.path == path) {
            return Err(LockError::Taken(*id, lock.clone()));
        }
        if self.kept.locks.len() >= LOCKS_MAX {
            return Err(LockError::Many);
        }
        let (id, lock) = (
            self.kept.next,
            Lock {
                path: path.to_owned(),
                since: now,
                owner: owner.to_owned(),
            },
        );
        self.kept.locks.insert(id, lock.clone());
        self.kept.next += 1;
        if let Err(e) = self.write() {
            self.kept.locks.remove(&id);
            return Err(e);
        }
        Ok((id, lock))
    }

    /// Gives a lock back; that of somebody else only by force.
    pub(super) fn unlock(&mut self, id: u64, who: &str, force: bool) -> Result<Lock, LockError> {
        let lock = self.kept.locks.get(&id).ok_or(LockError::Absent(id))?;
        if lock.owner != who && !force {
            return Err(LockError::Foreign(lock.owner.clone()));
        }
        let lock = self.kept.locks.remove(&id).ok_or(LockError::Absent(id))?;
        if let Err(e) = self.write() {
            self.kept.locks.insert(id, lock);
            return Err(e);
        }
        Ok(lock)
    }

    /// The locks from an id on that are wanted, in the order of their ids.
    pub(super) fn list(
        &self,
        from: u64,
        most: usize,
        is_wanted: impl Fn(u64, &Lock) -> bool,
    ) -> Page {
        let all = self.kept.locks.range(from..);
        let mut wanted = all.filter(|(id, l)| is_wanted(**id, l));
        let locks = wanted
            .by_ref()
            .take(most)
            .map(|(id, l)| (*id, l.clone()))
            .collect();
        Page {
            locks,
            next: wanted.next().map(|(id, _)| *id),
        }
    }
}

/// Whether a text can be the path of a file from the top of a volume.
fn is_path(path: &str) -> bool {
    let is_name = |n: &str| !n.is_empty() && n != "." && n != "..";
    path.len() <= LOCK_PATH_BYTES_MAX && !path.contains('\0') && path.split('/').all(is_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &tempfile::TempDir) -> Locks {
        Locks::open(&dir.path().join("locks")).unwrap()
    }

    #[test]
    fn a_path_is_locked_once_and_locks_outlive_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let mut locks = open(&dir);
        let (id, lock) = locks.lock("a/b", "anna", 7).unwrap();
        assert_eq!(
            lock.shown(id),
            serde_json::json!({
                "id": "1", "path": "a/b", "locked_at": "1970-01-01T00:00:07Z",
                "owner": { "name": "anna" },
            })
        );
        let mut locks = open(&dir);
        let again = locks.lock("a/b", "ben", 8);
        assert!(matches!(again, Err(LockError::Taken(1, l)) if l == lock));
        assert!(matches!(locks.unlock(1, "ben", false), Err(LockError::Foreign(o)) if o == "anna"));
        assert!(matches!(
            locks.unlock(2, "ben", true),
            Err(LockError::Absent(2))
        ));
        assert_eq!(locks.unlock(1, "ben", true).unwrap(), lock);
        // An id is never of two locks.
        let mut locks = open(&dir);
        assert_eq!(locks.lock("a/b", "ben", 8).unwrap().0, 2);
        assert_eq!(locks.unlock(2, "ben", false).unwrap().owner, "ben");
    }

    #[test]
    fn pages_show_each_lock_once_also_when_some_go_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let mut locks = open(&dir);
        for n in 0..10 {
            locks.lock(&format!("f{n}"), "anna", n).unwrap();
        }
        let mut seen = Vec::new();
        let mut from = 0;
        loop {
            let page = locks.list(from, 3, |_, l| l.path != "f4");
            seen.extend(page.locks.iter().map(|(id, _)| *id));
            let Some(next) = page.next else { break };
            from = next;
            // The one that the next page begins with.
            let _ = locks.unlock(next, "anna", false);
        }
        assert_eq!(seen, [1, 2, 3, 6, 7, 8, 10]);
        assert_eq!(locks.list(0, 3, |id, _| id == 4).locks.len(), 0);
        assert_eq!(locks.list(0, 3, |id, _| id == 8).next, None);
    }

    #[test]
    fn what_no_file_is_called_is_not_locked() {
        let dir = tempfile::tempdir().unwrap();
        let mut locks = open(&dir);
        let long = "a".repeat(LOCK_PATH_BYTES_MAX + 1);
        for bad in ["", "/a", "a/", "a//b", "../a", "a/./b", "a\0b", &long] {
            let done = locks.lock(bad, "anna", 0);
            assert!(matches!(done, Err(LockError::Path(_))), "{bad}");
        }
    }

    #[test]
    fn a_damaged_file_is_an_error_and_a_lock_that_was_not_written_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("locks");
        for bad in [&b"{"[..], b"[]", b"{\"v\":2,\"next\":1,\"locks\":{}}"] {
            std::fs::write(&path, bad).unwrap();
            let said = Locks::open(&path).unwrap_err().to_string();
            assert!(said.contains("locks"), "{said}");
            assert_eq!(std::fs::read(&path).unwrap(), bad);
        }
        std::fs::remove_file(&path).unwrap();
        let mut locks = open(&dir);
        locks.lock("a", "anna", 0).unwrap();
        std::fs::create_dir(dir.path().join("locks.new")).unwrap();
        assert!(matches!(
            locks.lock("b", "anna", 0),
            Err(LockError::Io(_, _))
        ));
        assert!(matches!(
            locks.unlock(1, "anna", false),
            Err(LockError::Io(_, _))
        ));
        let paths = |l: &Locks| -> Vec<String> {
            let page = l.list(0, 9, |_, _| true);
            page.locks.into_iter().map(|(_, l)| l.path).collect()
        };
        assert_eq!(paths(&locks), ["a"]);
        assert_eq!(paths(&open(&dir)), ["a"]);
    }
}
