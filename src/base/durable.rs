//! Directories and small files that survive a power cut once the call returns.
//!
//! A new name is on disk only when its directory was fsynced; that of a directory made with
//! its parents, only when each parent was. What exists is synced too: an earlier run may have
//! died between making it and syncing it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        Some(_) => Path::new("."),
        None => path,
    }
}

/// Makes the names in a directory durable.
///
/// # Errors
/// As the file system.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Makes a directory and the parents that it lacks.
///
/// # Errors
/// As the file system.
pub fn dirs(path: &Path) -> io::Result<()> {
    dirs_with(path, 0o777)
}

/// As [`dirs`], with permissions for what is made.
///
/// # Errors
/// As the file system.
pub fn dirs_with(path: &Path, mode: u32) -> io::Result<()> {
    let up = parent(path);
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => {}
        Err(e) if e.kind() == ErrorKind::NotFound && up != path => {
            dirs_with(up, mode)?;
            return dirs_with(path, mode);
        }
        Err(e) if path.is_dir() => {
            // Who may use a directory may not always read the one above it.
            tracing::trace!(path = %path.display(), error = %e, "directory is there");
            return match sync_dir(up) {
                Err(e) if e.kind() == ErrorKind::PermissionDenied => Ok(()),
                done => done,
            };
        }
        Err(e) => return Err(e),
    }
    sync_dir(up)
}

/// Writes a file whole or not at all: beside it, fsync, rename, fsync of the directory.
///
/// # Errors
/// As the file system. The old file is there then, or the new one.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".new");
    let beside = path.with_file_name(name);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    sync_dir(parent(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_made_with_their_parents_and_twice_is_once() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        dirs(&deep).unwrap();
        dirs(&deep).unwrap();
        let file = deep.join("f");
        replace(&file, b"one", 0o600).unwrap();
        replace(&file, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"two");
        assert_eq!(fs::read_dir(&deep).unwrap().count(), 1);
        assert!(dirs(&file.join("x")).is_err());
    }
}
