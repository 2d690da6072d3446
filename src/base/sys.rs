//! System calls for which no library has a safe function. The only unsafe code of the product.
//!
//! Invariant: each block says why it is sound. No threads.

#![expect(unsafe_code, reason = "see the module")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Whether anybody can write to a file: by a descriptor, or by a mapping whose descriptor is
/// closed. `file` must be open for reading only. The answer stays true while nobody opens the file.
///
/// # Errors
/// As `fcntl`; file systems without leases have none.
pub fn has_writers(file: &File) -> io::Result<bool> {
    // SAFETY: the descriptor is open as long as `file` is, and F_SETLEASE takes a number.
    let set = |to: libc::c_int| match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, to) }
    {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    match set(libc::F_RDLCK) {
        Ok(()) => {
            set(libc::F_UNLCK)?;
            Ok(false)
        }
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(e) => Err(e),
    }
}
