//! The errno of each error: the one place that decides it.

use crate::base::name::BadName;
use crate::journal::JournalError;
use crate::volume::error::VolumeError;

/// The errno that tells a program what happened.
#[must_use]
pub fn errno(e: &VolumeError) -> i32 {
    match e {
        VolumeError::NotFound => libc::ENOENT,
        VolumeError::Exists => libc::EEXIST,
        VolumeError::NotDir => libc::ENOTDIR,
        VolumeError::IsDir => libc::EISDIR,
        VolumeError::NotEmpty => libc::ENOTEMPTY,
        VolumeError::NoData => libc::ENODATA,
        VolumeError::NoRoom => libc::ENOSPC,
        VolumeError::Stale => libc::ESTALE,
        VolumeError::Invalid(_) => libc::EINVAL,
        VolumeError::TooLarge(_) => libc::EFBIG,
        VolumeError::PastEnd => libc::ENXIO,
        VolumeError::ReadOnly => libc::EROFS,
        VolumeError::Unsupported(_) => libc::EOPNOTSUPP,
        VolumeError::Name(BadName::TooLong(_)) => libc::ENAMETOOLONG,
        VolumeError::Name(BadName::Forbidden(_)) => libc::EINVAL,
        VolumeError::Journal(JournalError::Full) => libc::ENOSPC,
        VolumeError::Io(io) => match io.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => libc::ENOSPC,
            Some(libc::EMFILE | libc::ENFILE) => libc::EMFILE,
            _ => libc::EIO,
        },
        VolumeError::Chunks(_) if e.is_full() => libc::ENOSPC,
        VolumeError::Chunks(_)
        | VolumeError::Lacking { .. }
        | VolumeError::Unsupplied(_)
        | VolumeError::TooMany
        | VolumeError::Journal(_)
        | VolumeError::Objects(_)
        | VolumeError::Record(_)
        | VolumeError::Records(_)
        | VolumeError::Stopped => libc::EIO,
    }
}
