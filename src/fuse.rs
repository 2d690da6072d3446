//! The kernel's door: translates FUSE requests to calls of [`crate::fs`] and back. No semantics
//! live here.
//!
//! Invariants: attributes and names are cached by the kernel for ever and invalidated exactly,
//! by one thread per mount that holds no lock and serves no request (anything else deadlocks).
//! Threads: the kernel adapter's workers, one notifier.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileHandle, FileType, Filesystem, FopenFlags, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::fs::{
    Access, Allocate, DirEntry, Fs, Opened, RenameMode, Seek, SetAttr, SetXattr, Stat,
};
use crate::record::model::Kind;
use crate::volume::error::VolumeError;

mod backing;
mod mount;
mod notify;
mod reply;
mod wait;

use reply::{GENERATION, attr, caller, fail, file_type, ns, reply_empty, reply_entry, reply_xattr};

pub use mount::{Mount, MountError, detach};

/// The kernel may keep what it knows until told otherwise.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// What a name like `10min` means, it means for so long.
const A_WHILE: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
struct Adapter {
    fs: Fs,
    listings: Mutex<HashMap<u64, Arc<Vec<DirEntry>>>>,
    next_handle: AtomicU64,
    backings: Arc<backing::Backings>,
    waiters: wait::Waiters,
}

fn writes(flags: OpenFlags) -> bool {
    flags.0 & libc::O_ACCMODE != libc::O_RDONLY
}

impl Adapter {
    fn new(fs: Fs) -> Self {
        Self {
            fs,
            listings: Mutex::default(),
            next_handle: AtomicU64::new(1),
            backings: Arc::default(),
            waiters: wait::Waiters::default(),
        }
    }

    fn opener(&self) -> Opener {
        Opener {
            fs: self.fs.clone(),
            backings: self.backings.clone(),
        }
    }

    /// Answers a request about a file that may have to wait for bytes: here, or where that keeps
    /// nobody else from being served. With an error, `answer` only passes it on.
    fn in_turn(&self, ino: u64, answer: impl FnOnce(&Fs, crate::fs::Result<()>) + Send + 'static) {
        if !self.fs.may_wait(ino) {
            return answer(&self.fs, Ok(()));
        }
        let fs = self.fs.clone();
        self.waiters.give(move |may| match may {
            true => answer(&fs, Ok(())),
            false => answer(&fs, Err(VolumeError::TooMany)),
        });
    }
}

/// Opens files.
#[derive(Debug, Clone)]
struct Opener {
    fs: Fs,
    backings: Arc<backing::Backings>,
}

impl Opener {
    /// Opens a file, by the file itself if `direct`.
    fn open_file(&self, ino: u64, flags: OpenFlags, direct: bool, reply: ReplyOpen) {
        let write = writes(flags);
        let both = flags.0 & libc::O_ACCMODE == libc::O_RDWR;
        let access = Access {
            write,
            keeps: both || flags.0 & libc::O_APPEND != 0,
            direct,
        };
        let (handle, flags_) = match self.fs.open_as(ino, access) {
            // An inode's bytes change only through this kernel: its cache stays good.
            Ok(Opened::Bytes) => (0, FopenFlags::FOPEN_KEEP_CACHE),
            Ok(Opened::Afresh) => (0, FopenFlags::empty()),
            Ok(Opened::Uncached) => (0, FopenFlags::FOPEN_DIRECT_IO),
            Ok(Opened::Text(handle)) => (handle, FopenFlags::FOPEN_DIRECT_IO),
            Ok(Opened::Direct(file)) => {
                if let Err((e, reply)) = self.backings.answer(ino, &file, reply) {
                    tracing::info!(error = %e, "the kernel takes no files: all goes through this process");
                    self.backings.works(false);
                    drop(file);
                    self.fs.release(ino, write);
                    self.open_file(ino, flags, false, reply);
                }
                return;
            }
            Err(e) => return reply.error(fail("open", ino, &e)),
        };
        reply.opened(FileHandle(handle), flags_);
    }
}

impl Adapter {
    /// The listing of an open directory; made anew when read from the start.
    fn listing(&self, ino: u64, fh: u64, offset: u64) -> crate::fs::Result<Arc<Vec<DirEntry>>> {
        let lock = || self.listings.lock().unwrap_or_else(PoisonError::into_inner);
        if offset > 0
            && let Some(l) = lock().get(&fh)
        {
            return Ok(l.clone());
        }
        let l = Arc::new(self.fs.list(ino)?);
        lock().insert(fh, l.clone());
        Ok(l)
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // FUSE_HANDLE_KILLPRIV_V2: it is for us to end set-id bits and capabilities, and the kernel
        // need not ask for those before each write.
        // Not FUSE_ATOMIC_O_TRUNC: with it the kernel drops a file's pages before it sees that it
        // must refuse, since somebody runs the file.
        let wanted = [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            // It enforces access control lists, and leaves it to us what new files inherit, so
            // also the umask.
            InitFlags::FUSE_POSIX_ACL,
            InitFlags::FUSE_DONT_MASK,
        ];
        for flag in wanted {
            if config.add_capabilities(flag).is_err() {
                tracing::debug!(?flag, "the kernel does not offer this");
            }
        }
        // What is below may not be stacked itself; we may be.
        let offered = config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok();
        self.backings
            .works(offered && config.set_max_stack_depth(1).is_ok());
        if config.set_max_background(64).is_err() {
            tracing::debug!("the kernel limits background requests");
        }
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let valid = if self.fs.may_keep(parent.0) {
            FOREVER
        } else {
            A_WHILE
        };
        match self.fs.lookup(parent.0, name.as_bytes()) {
            Ok(Some(s)) => reply.entry(&valid, &attr(&s), GENERATION),
            Ok(None) => {
                // Number 0 lets the kernel remember that there is no such name.
                let none = Stat {
                    ino: 0,
                    kind: Kind::File,
                    attr: crate::volume::inode::Attr {
                        mode: 0,
                        uid: None,
                        gid: None,
                        mtime: 0,
                        ctime: 0,
                        atime: 0,
                    },
                    size: 0,
                    blocks: 0,
                    nlink: 0,
                    uid: 0,
                    gid: 0,
                };
                reply.entry(&valid, &attr(&none), GENERATION);
            }
            Err(e) => reply.error(fail("lookup", parent.0, &e)),
        }
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.fs.forget(ino.0, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.fs.getattr(ino.0) {
            Ok(s) => reply.attr(&FOREVER, &attr(&s)),
            Err(e) => reply.error(fail("getattr", ino.0, &e)),
        }
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        // A new size brings the time of now along.
        let by_size = size.is_some() && matches!(mtime, Some(TimeOrNow::Now));
        let set = SetAttr {
            mode,
            uid,
            gid,
            size,
            atime: atime.map(ns),
            mtime: mtime.filter(|_| !by_size).map(ns),
        };
        // Who gives a file away, or makes it shorter, may not give set-id bits.
        let given = (uid.is_some() || gid.is_some()) && mode.is_none();
        let ended = match (given, size) {
            (true, _) => self.fs.end_privileges(ino.0, true),
            (false, Some(_)) => self.fs.end_privileges(ino.0, req.uid() != 0),
            (false, None) => Ok(()),
        };
        let ino = ino.0;
        let answer = move |fs: &Fs, may: crate::fs::Result<()>| match ended
            .and(may)
            .and_then(|()| fs.setattr(ino, set))
        {
            Ok(s) => reply.attr(&FOREVER, &attr(&s)),
            Err(e) => reply.error(fail("setattr", ino, &e)),
        };
        // Only what is left of a file that is cut is needed.
        match size {
            Some(len) if len > 0 => self.in_turn(ino, answer),
            _ => answer(&self.fs, Ok(())),
        }
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.fs.readlink(ino.0) {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(fail("readlink", ino.0, &e)),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let kind = match mode & libc::S_IFMT {
            libc::S_IFREG | 0 => Some(Kind::File),
            libc::S_IFIFO => Some(Kind::Fifo),
            libc::S_IFSOCK => Some(Kind::Socket),
            libc::S_IFCHR => Some(Kind::CharDevice(rdev)),
            libc::S_IFBLK => Some(Kind::BlockDevice(rdev)),
            _ => None,
        };
        let (name, who) = (name.as_bytes(), caller(req, umask));
        let r = match kind {
            Some(Kind::File) => self.fs.create(parent.0, name, mode, who, false),
            Some(kind) => self.fs.mknod(parent.0, name, kind, mode, who),
            None => Err(VolumeError::Invalid("a node of no known kind")),
        };
        reply_entry("mknod", parent.0, r, reply);
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let r = self
            .fs
            .mkdir(parent.0, name.as_bytes(), mode, caller(req, umask));
        reply_entry("mkdir", parent.0, r, reply);
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(
            "unlink",
            parent.0,
            self.fs.unlink(parent.0, name.as_bytes()),
            reply,
        );
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(
            "rmdir",
            parent.0,
            self.fs.rmdir(parent.0, name.as_bytes()),
            reply,
        );
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let target = target.as_os_str().as_bytes();
        let r = self
            .fs
            .symlink(parent.0, name.as_bytes(), target, caller(req, 0));
        reply_entry("symlink", parent.0, r, reply);
    }

    fn link(
        &self,
        _req: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let r = self.fs.link(ino.0, newparent.0, newname.as_bytes());
        reply_entry("link", ino.0, r, reply);
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (from, to) = (
            (parent.0, name.as_bytes()),
            (newparent.0, newname.as_bytes()),
        );
        let done = match flags {
            f if f.is_empty() => self.fs.rename(from, to, RenameMode::Replace),
            RenameFlags::RENAME_NOREPLACE => self.fs.rename(from, to, RenameMode::NoReplace),
            RenameFlags::RENAME_EXCHANGE => self.fs.exchange(from, to),
            _ => Err(VolumeError::Invalid("a way to rename")),
        };
        reply_empty("rename", parent.0, done, reply);
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (opener, direct) = (self.opener(), self.backings.may_work());
        let ino = ino.0;
        if !writes(flags) {
            return opener.open_file(ino, flags, direct, reply);
        }
        self.in_turn(ino, move |_, may| match may {
            Ok(()) => opener.open_file(ino, flags, direct, reply),
            Err(e) => reply.error(fail("open", ino, &e)),
        });
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let r = self
            .fs
            .create(parent.0, name.as_bytes(), mode, caller(req, umask), true);
        match r {
            Ok(s) => {
                let flags = FopenFlags::FOPEN_KEEP_CACHE;
                reply.created(&FOREVER, &attr(&s), GENERATION, FileHandle(1), flags);
            }
            Err(e) => reply.error(fail("create", parent.0, &e)),
        }
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (ino, fh) = (ino.0, fh.0);
        self.in_turn(ino, move |fs, may| {
            match may.and_then(|()| fs.read_by(ino, fh, offset, size)) {
                Ok(bytes) => reply.data(&bytes),
                Err(e) => reply.error(fail("read", ino, &e)),
            }
        });
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let ids = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let ended = self.fs.end_privileges(ino.0, ids);
        let ino = ino.0;
        if !self.fs.may_wait(ino) {
            return match ended.and_then(|()| self.fs.write(ino, offset, data)) {
                Ok(n) => reply.written(n),
                Err(e) => reply.error(fail("write", ino, &e)),
            };
        }
        let data = data.to_vec();
        self.in_turn(ino, move |fs, may| {
            let done = ended.and(may).and_then(|()| fs.write(ino, offset, &data));
            match done {
                Ok(n) => reply.written(n),
                Err(e) => reply.error(fail("write", ino, &e)),
            }
        });
    }

    fn fallocate(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        const ZERO_KEEP: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
        let what = match mode {
            0 => Ok(Allocate::Grow),
            libc::FALLOC_FL_KEEP_SIZE => Ok(Allocate::Keep),
            PUNCH => Ok(Allocate::Punch),
            libc::FALLOC_FL_ZERO_RANGE => Ok(Allocate::Zero),
            ZERO_KEEP => Ok(Allocate::ZeroKeep),
            _ => Err(VolumeError::Unsupported("this way to allocate")),
        };
        let (ino, is_other) = (ino.0, req.uid() != 0);
        self.in_turn(ino, move |fs, may| {
            let done = may.and(what).and_then(|what| {
                fs.end_privileges(ino, is_other)?;
                fs.allocate(ino, what, offset, length)
            });
            reply_empty("fallocate", ino, done, reply);
        });
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // The kernel need not tell of each close: the last one is what counts.
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        // A handle of `create` counts as a writer whatever its flags say.
        let write = writes(flags) || fh.0 == 1;
        if fh.0 == backing::HANDLE {
            self.backings.release(ino.0);
        }
        self.fs.release_by(ino.0, fh.0, write);
        reply.ok();
    }

    fn fsync(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply_empty("fsync", ino.0, self.fs.fsync(ino.0), reply);
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply_empty("fsyncdir", ino.0, self.fs.fsync_dir(), reply);
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let fh = self.next_handle.fetch_add(1, Ordering::Relaxed);
        let flags = FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE;
        reply.opened(FileHandle(fh), flags);
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let mut l = self.listings.lock().unwrap_or_else(PoisonError::into_inner);
        l.remove(&fh.0);
        drop(l);
        reply.ok();
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let list = match self.listing(ino.0, fh.0, offset) {
            Ok(l) => l,
            Err(e) => return reply.error(fail("readdir", ino.0, &e)),
        };
        let parent = self.fs.parent(ino.0).unwrap_or(ino.0);
        let dots = [(1, ino.0, "."), (2, parent, "..")];
        for (cookie, i, name) in dots.into_iter().filter(|d| d.0 > offset) {
            if reply.add(INodeNo(i), cookie, FileType::Directory, name) {
                return reply.ok();
            }
        }
        for e in list.iter().filter(|e| e.cookie > offset) {
            let name = OsStr::from_bytes(e.name.as_bytes());
            if reply.add(INodeNo(e.ino), e.cookie, file_type(e.kind), name) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let list = match self.listing(ino.0, fh.0, offset) {
            Ok(l) => l,
            Err(e) => return reply.error(fail("readdirplus", ino.0, &e)),
        };
        let here = match self.fs.getattr(ino.0) {
            Ok(s) => attr(&s),
            Err(e) => return reply.error(fail("readdirplus", ino.0, &e)),
        };
        // Entries with number 0 are listed without a reference.
        let mut given = false;
        for (cookie, name) in [(1, "."), (2, "..")] {
            if cookie > offset && reply.add(INodeNo(0), cookie, name, &FOREVER, &here, GENERATION) {
                return reply.ok();
            }
            given |= cookie > offset;
        }
        let rest = list.partition_point(|e| e.cookie <= offset);
        for e in list.iter().skip(rest) {
            let stat = match self.fs.lookup_entry(ino.0, e) {
                Ok(Some(s)) => s,
                Ok(None) => continue,
                // What was found has references now, which an error would lose: it is told first,
                // and the next request begins with what failed.
                Err(_) if given => break,
                Err(e) => return reply.error(fail("readdirplus", ino.0, &e)),
            };
            given = true;
            let name = OsStr::from_bytes(e.name.as_bytes());
            let a = attr(&stat);
            if reply.add(INodeNo(stat.ino), e.cookie, name, &FOREVER, &a, GENERATION) {
                self.fs.forget(stat.ino, 1);
                break;
            }
        }
        reply.ok();
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        match self.fs.xattr(ino.0, name.as_bytes()) {
            Ok(value) => reply_xattr(&value, size, reply),
            Err(e) => reply.error(fail("getxattr", ino.0, &e)),
        }
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        match self.fs.xattrs(ino.0, req.uid() == 0) {
            Ok(names) => reply_xattr(&names, size, reply),
            Err(e) => reply.error(fail("listxattr", ino.0, &e)),
        }
    }

    fn setxattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let how = match flags {
            libc::XATTR_CREATE => SetXattr::Create,
            libc::XATTR_REPLACE => SetXattr::Replace,
            _ => SetXattr::Any,
        };
        let done = self.fs.set_xattr(ino.0, name.as_bytes(), value, how);
        reply_empty("setxattr", ino.0, done, reply);
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let done = self.fs.remove_xattr(ino.0, name.as_bytes());
        reply_empty("removexattr", ino.0, done, reply);
    }

    fn lseek(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let what = match whence {
            libc::SEEK_DATA => Ok(Seek::Data),
            libc::SEEK_HOLE => Ok(Seek::Hole),
            _ => Err(VolumeError::Invalid("a way to seek")),
        };
        let at = u64::try_from(offset).map_err(|_| VolumeError::PastEnd);
        let found = what.and_then(|what| self.fs.seek(ino.0, fh.0, what, at?));
        let found = found.and_then(|n| i64::try_from(n).map_err(|_| VolumeError::PastEnd));
        match found {
            Ok(n) => reply.offset(n),
            Err(e) => reply.error(fail("lseek", ino.0, &e)),
        }
    }

    fn copy_file_range(
        &self,
        req: &Request,
        ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        _fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: fuser::CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let from = (ino_in.0, fh_in.0, offset_in);
        let to = (ino_out.0, offset_out);
        let ended = self.fs.end_privileges(ino_out.0, req.uid() != 0);
        let waits = [ino_out.0, ino_in.0]
            .into_iter()
            .find(|i| self.fs.may_wait(*i));
        self.in_turn(waits.unwrap_or(ino_out.0), move |fs, may| {
            let done = ended.and(may).and_then(|()| fs.copy_range(from, to, len));
            match done {
                Ok(n) => reply.written(n),
                Err(e) => reply.error(fail("copy_file_range", to.0, &e)),
            }
        });
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: fuser::IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: fuser::ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        match self.fs.statfs() {
            Ok(s) => {
                let block = u32::try_from(s.f_bsize).unwrap_or(4096);
                let fragment = u32::try_from(s.f_frsize).unwrap_or(block);
                reply.statfs(
                    s.f_blocks, s.f_bfree, s.f_bavail, s.f_files, s.f_ffree, block, 255, fragment,
                );
            }
            Err(e) => reply.error(fail("statfs", 0, &e)),
        }
    }
}
