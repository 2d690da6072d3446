//! Mounting and unmounting.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};

use super::Adapter;
use super::notify::Notices;
use crate::base::mount_options::MountOptions;
use crate::fs::{Caller, Fs};
use crate::volume::{MountId, Volume};

/// Threads that answer the kernel.
const WORKERS: usize = 4;

/// Why a folder could not be mounted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// No FUSE on this machine.
    #[error("this machine has no FUSE: {0}")]
    NoFuse(String),
    /// The kernel or fusermount3 refused.
    #[error("cannot mount on {}: {why}", dir.display())]
    Refused {
        /// Where.
        dir: PathBuf,
        /// Why.
        why: String,
    },
}

/// A mounted volume. Dropping it leaves the mount to [`Mount::unmount`].
#[derive(Debug)]
pub struct Mount {
    id: MountId,
    dir: PathBuf,
    volume: Arc<Volume>,
    options: MountOptions,
    session: Option<BackgroundSession>,
}

impl Mount {
    /// Mounts a volume on `dir` and returns when the kernel answers for it.
    ///
    /// # Errors
    /// See [`MountError`].
    pub fn new(
        volume: Arc<Volume>,
        dir: &Path,
        id: MountId,
        options: MountOptions,
    ) -> Result<Self, MountError> {
        if !Path::new("/dev/fuse").exists() {
            return Err(MountError::NoFuse("/dev/fuse does not exist".to_owned()));
        }
        let refused = |e: io::Error| MountError::Refused {
            dir: dir.to_owned(),
            why: e.to_string(),
        };
        let owner = Caller {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            umask: 0,
        };
        let fs = Fs::new(volume.clone(), id, options.read_only, owner);
        let source = format!("cellfs:{}", volume.name());
        let mut config = Config::default();
        config.n_threads = Some(WORKERS);
        config.clone_fd = true;
        let session = if owner.uid == 0 {
            config.acl = SessionACL::All;
            let device = mount_as_root(dir, &source, options).map_err(refused)?;
            Session::from_fd(Adapter::new(fs), device, SessionACL::All, config)
        } else {
            config.acl = match options.allow_other {
                true => SessionACL::All,
                false => SessionACL::Owner,
            };
            config.mount_options = by_helper(source, options);
            Session::new(Adapter::new(fs), dir, &config)
        };
        let session = session.map_err(refused)?;
        let session = session.spawn().map_err(refused)?;
        let notices = Notices::start(session.notifier()).map_err(refused)?;
        volume.watch(id, Arc::new(notices));
        Ok(Self {
            id,
            dir: dir.to_owned(),
            volume,
            options,
            session: Some(session),
        })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The volume that is mounted.
    #[must_use]
    pub fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    /// Whether writes are refused.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.options.read_only
    }

    /// Whether the kernel still sends requests: false after a `umount` by somebody else.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.session
            .as_ref()
            .is_some_and(|s| !s.guard.is_finished())
    }

    /// Takes the folder away. Programs that still have files open keep them until they close
    /// them or the node ends.
    ///
    /// # Errors
    /// As `umount2`.
    pub fn unmount(mut self) -> io::Result<()> {
        let done = if self.is_alive() {
            detach(&self.dir)
        } else {
            Ok(())
        };
        self.volume.unwatch(self.id);
        if let Some(s) = self.session.take() {
            // Its destructor would unmount once more, by then perhaps somebody else's mount,
            // and would wait for open files.
            std::mem::forget(s);
        }
        done
    }
}

/// Detaches whatever is mounted on `dir`, also when it is in use or dead.
///
/// # Errors
/// As `umount2`, or what `fusermount3` said.
pub fn detach(dir: &Path) -> io::Result<()> {
    match rustix::mount::unmount(dir, UnmountFlags::DETACH) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::PERM) => {
            let out = Command::new("fusermount3")
                .args(["-u", "-z", "--"])
                .arg(dir)
                .output()?;
            if out.status.success() {
                return Ok(());
            }
            Err(io::Error::other(
                String::from_utf8_lossy(&out.stderr).trim().to_owned(),
            ))
        }
        Err(e) => Err(e.into()),
    }
}

/// The same for `fusermount3`, by whom an ordinary user mounts.
fn by_helper(source: String, options: MountOptions) -> Vec<MountOption> {
    let mut out = vec![
        MountOption::FSName(source),
        MountOption::Subtype("cellfs".to_owned()),
        MountOption::DefaultPermissions,
        match options.read_only {
            true => MountOption::RO,
            false => MountOption::RW,
        },
    ];
    for (wanted, option) in [
        (options.no_exec, MountOption::NoExec),
        (options.no_atime, MountOption::NoAtime),
        (
            options.no_dir_atime,
            MountOption::CUSTOM("nodiratime".to_owned()),
        ),
        (options.sync, MountOption::Sync),
    ] {
        out.extend(wanted.then_some(option));
    }
    out
}

/// Mounts as root, with a type of our own (`fuse.cellfs`) by which others know the mount; the
/// adapter's own way leaves it a plain `fuse`.
fn mount_as_root(dir: &Path, source: &str, options: MountOptions) -> io::Result<OwnedFd> {
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let data = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other",
        device.as_raw_fd()
    );
    let data = CString::new(data).map_err(io::Error::other)?;
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    for (wanted, flag) in [
        (options.read_only, MountFlags::RDONLY),
        (options.no_exec, MountFlags::NOEXEC),
        (options.no_atime, MountFlags::NOATIME),
        (options.no_dir_atime, MountFlags::NODIRATIME),
        (options.sync, MountFlags::SYNCHRONOUS),
    ] {
        if wanted {
            flags |= flag;
        }
    }
    rustix::mount::mount(source, dir, "fuse.cellfs", flags, data.as_c_str())?;
    Ok(device)
}
