//! Paths of unix sockets: the kernel takes at most 107 bytes, state directories may be longer.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// A name for `dir/name` that the kernel accepts for a socket; valid while it lives.
#[derive(Debug)]
pub(crate) struct SocketPath {
    path: PathBuf,
    _dir: Option<File>,
}

impl SocketPath {
    /// The path itself when it is short enough, else one through an open descriptor of `dir`.
    pub(crate) fn new(dir: &Path, name: &str) -> io::Result<Self> {
        let plain = dir.join(name);
        if plain.as_os_str().len() <= 107 {
            return Ok(Self {
                path: plain,
                _dir: None,
            });
        }
        let file = File::open(dir)?;
        Ok(Self {
            path: PathBuf::from(format!("/proc/self/fd/{}/{name}", file.as_raw_fd())),
            _dir: Some(file),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}
