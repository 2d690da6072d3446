//! A file that has its name only when it is whole.
//!
//! Until then it has none at all, so that nothing is left of it however the command ends; where the
//! file system has no such files, it has one beside, which goes away unless the command is killed.
//! No threads.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use tempfile::{Builder, NamedTempFile};

const MODE: u32 = 0o666;

#[derive(Debug)]
enum Bytes {
    Nameless(File),
    Named(NamedTempFile),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Beside {
    dir: PathBuf,
    out: PathBuf,
    bytes: Bytes,
}

fn builder() -> Builder<'static, 'static> {
    let mut b = Builder::new();
    b.prefix(".cellfs-get-");
    b
}

impl Beside {
    /// Begins a file that is to be there. The user's mask counts, as for others.
    pub(super) fn new(out: &Path) -> io::Result<Self> {
        let dir = match out.parent() {
            Some(p) if !p.as_os_str().is_empty() => p.to_owned(),
            _ => PathBuf::from("."),
        };
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&dir, flags, Mode::from_raw_mode(MODE));
        let bytes = match opened {
            Ok(fd) => Bytes::Nameless(fd.into()),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let mode = Permissions::from_mode(MODE);
                Bytes::Named(builder().permissions(mode).tempfile_in(&dir)?)
            }
            Err(e) => return Err(e.into()),
        };
        let out = out.to_owned();
        Ok(Self { dir, out, bytes })
    }

    pub(super) fn file(&self) -> &File {
        match &self.bytes {
            Bytes::Nameless(f) => f,
            Bytes::Named(f) => f.as_file(),
        }
    }

    /// Gives it its name, durable; with `force` also in the place of another file.
    pub(super) fn persist(self, force: bool) -> io::Result<()> {
        self.file().sync_all()?;
        let (dir, out) = (self.dir, self.out);
        match self.bytes {
            Bytes::Nameless(f) if force => {
                let named = builder().make_in(&dir, |path| link(&f, path))?;
                named.persist(out).map_err(|e| e.error)?;
            }
            Bytes::Nameless(f) => link(&f, &out)?,
            Bytes::Named(f) if force => {
                f.persist(out).map_err(|e| e.error)?;
            }
            Bytes::Named(f) => {
                f.persist_noclobber(out).map_err(|e| e.error)?;
            }
        }
        File::open(&dir)?.sync_all()
    }
}

/// Names a file that has no name.
fn link(f: &File, path: &Path) -> io::Result<()> {
    let from = format!("/proc/self/fd/{}", f.as_raw_fd());
    Ok(rustix::fs::linkat(
        CWD,
        from,
        CWD,
        path,
        AtFlags::SYMLINK_FOLLOW,
    )?)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn names(dir: &Path) -> usize {
        std::fs::read_dir(dir).unwrap().count()
    }

    #[test]
    fn a_file_is_there_when_it_is_whole_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let named = |out: &Path| Beside {
            dir: dir.path().to_owned(),
            out: out.to_owned(),
            bytes: Bytes::Named(builder().tempfile_in(dir.path()).unwrap()),
        };
        let nameless = |out: &Path| Beside::new(out).unwrap();
        let begin: [&dyn Fn(&Path) -> Beside; 2] = [&nameless, &named];
        for (n, begin) in begin.iter().enumerate() {
            drop(begin(&out));
            assert_eq!(names(dir.path()), 0);
            let b = begin(&out);
            b.file().write_all(b"one").unwrap();
            assert_eq!(names(dir.path()), n);
            b.persist(false).unwrap();
            let b = begin(&out);
            b.file().write_all(b"two").unwrap();
            let kind = b.persist(false).unwrap_err().kind();
            assert_eq!(kind, io::ErrorKind::AlreadyExists);
            assert_eq!(std::fs::read(&out).unwrap(), b"one");
            let b = begin(&out);
            b.file().write_all(b"two").unwrap();
            b.persist(true).unwrap();
            assert_eq!(std::fs::read(&out).unwrap(), b"two");
            assert_eq!(names(dir.path()), 1);
            std::fs::remove_file(&out).unwrap();
        }
        let lost = Beside::new(&dir.path().join("no/such")).unwrap_err();
        assert_eq!(lost.kind(), io::ErrorKind::NotFound);
    }
}
