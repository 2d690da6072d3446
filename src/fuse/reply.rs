//! Words of the kernel: what is answered, in its types, and what it asks with, in ours.
//!
//! Invariant: an error is said once, to the log and to the kernel. No threads.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileType, Generation, INodeNo, ReplyEmpty, ReplyEntry, ReplyXattr, Request,
    TimeOrNow,
};

use super::FOREVER;
use crate::base::clock;
use crate::fs::{Caller, Result, Stat, errno};
use crate::record::model::Kind;
use crate::volume::error::VolumeError;

pub(super) fn fail(op: &'static str, ino: u64, e: &VolumeError) -> Errno {
    let n = errno(e);
    if n == libc::EIO {
        tracing::error!(op, ino, error = %e, "an operation failed");
    } else {
        tracing::debug!(op, ino, error = %e, errno = n, "refused");
    }
    Errno::from_i32(n)
}

fn time(ns: i64) -> SystemTime {
    let d = Duration::from_nanos(ns.unsigned_abs());
    let t = if ns >= 0 {
        UNIX_EPOCH.checked_add(d)
    } else {
        UNIX_EPOCH.checked_sub(d)
    };
    t.unwrap_or(UNIX_EPOCH)
}

pub(super) fn ns(t: TimeOrNow) -> i64 {
    match t {
        TimeOrNow::Now => clock::now_ns(),
        TimeOrNow::SpecificTime(t) => match t.duration_since(UNIX_EPOCH) {
            Ok(d) => i64::try_from(d.as_nanos()).unwrap_or(i64::MAX),
            // fuser takes the nanoseconds from the seconds when these are negative; the kernel
            // means them to be added.
            Err(e) => {
                let (s, n) = (e.duration().as_secs(), e.duration().subsec_nanos());
                i64::try_from(s)
                    .ok()
                    .and_then(|s| s.checked_mul(-1_000_000_000)?.checked_add(n.into()))
                    .unwrap_or(i64::MIN)
            }
        },
    }
}

pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::Dir | Kind::Gitlink => FileType::Directory,
        Kind::File | Kind::Large => FileType::RegularFile,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice(_) => FileType::CharDevice,
        Kind::BlockDevice(_) => FileType::BlockDevice,
        // What such a name shows is the file's kind.
        Kind::Link(_) => FileType::RegularFile,
    }
}

pub(super) fn attr(s: &Stat) -> FileAttr {
    FileAttr {
        ino: INodeNo(s.ino),
        size: s.size,
        blocks: s.blocks,
        atime: time(s.attr.atime),
        mtime: time(s.attr.mtime),
        ctime: time(s.attr.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(s.kind),
        perm: u16::try_from(s.attr.mode & 0o7777).unwrap_or(0),
        nlink: s.nlink,
        uid: s.uid,
        gid: s.gid,
        rdev: match s.kind {
            Kind::CharDevice(n) | Kind::BlockDevice(n) => n,
            _ => 0,
        },
        blksize: 4096,
        flags: 0,
    }
}

pub(super) fn caller(req: &Request, umask: u32) -> Caller {
    Caller {
        uid: req.uid(),
        gid: req.gid(),
        umask,
    }
}

pub(super) const GENERATION: Generation = Generation(0);

pub(super) fn reply_entry(op: &'static str, ino: u64, r: Result<Stat>, reply: ReplyEntry) {
    match r {
        Ok(s) => reply.entry(&FOREVER, &attr(&s), GENERATION),
        Err(e) => reply.error(fail(op, ino, &e)),
    }
}

pub(super) fn reply_empty(op: &'static str, ino: u64, r: Result<()>, reply: ReplyEmpty) {
    match r {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(fail(op, ino, &e)),
    }
}

/// With no room offered, the kernel asks for the length.
pub(super) fn reply_xattr(value: &[u8], size: u32, reply: ReplyXattr) {
    let len = u32::try_from(value.len()).unwrap_or(u32::MAX);
    match size {
        0 => reply.size(len),
        _ if len > size => reply.error(Errno::ERANGE),
        _ => reply.data(value),
    }
}
