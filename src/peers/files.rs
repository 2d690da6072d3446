//! Small private files, replaced whole or not at all.
//!
//! Invariant: after [`replace`] returns, the new bytes survive power loss; a reader sees the
//! old file or the new one, never a mix. Files are mode 0600, directories 0700. Blocking:
//! async callers use [`replace_soon`].

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::error::PeersError;
use crate::base::durable;

/// Makes a directory (and its parents) that only we can enter.
pub(crate) fn private_dir(path: &Path) -> Result<(), PeersError> {
    durable::dirs_with(path, 0o700).map_err(|e| PeersError::file("create", path, e))
}

/// Replaces a file: write beside it, fsync, rename, fsync the directory.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), PeersError> {
    durable::replace(path, bytes, 0o600).map_err(|e| PeersError::file("write", path, e))
}

/// [`replace`] on a blocking thread.
pub(crate) async fn replace_soon(path: PathBuf, bytes: Vec<u8>) -> Result<(), PeersError> {
    tokio::task::spawn_blocking(move || replace(&path, &bytes))
        .await
        .map_err(|_| PeersError::Stopping)?
}

/// Reads a file of at most `max` bytes; `None` when there is none.
pub(crate) fn read(path: &Path, max: usize) -> Result<Option<Vec<u8>>, PeersError> {
    let file = match File::open(path) {
        Ok(f) => f,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(PeersError::file("open", path, e)),
    };
    let mut bytes = Vec::new();
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit)
        .read_to_end(&mut bytes)
        .map_err(|e| PeersError::file("read", path, e))?;
    if bytes.len() > max {
        return Err(PeersError::Damaged {
            path: path.to_path_buf(),
            why: format!("longer than {max} bytes"),
        });
    }
    Ok(Some(bytes))
}

/// Says that a file could be read but not understood.
pub(crate) fn damaged(path: &Path, why: impl ToString) -> PeersError {
    PeersError::Damaged {
        path: path.to_path_buf(),
        why: why.to_string(),
    }
}
