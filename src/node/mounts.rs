//! Folders of this node.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::NodeInner;
use crate::base::id::VolumeName;
use crate::base::mount_options::MountOptions;
use crate::control::failure::{Answer, Failure};
use crate::fuse::{Mount, MountError};
use crate::volume::Volume;

impl From<MountError> for Failure {
    fn from(e: MountError) -> Self {
        let f = Self::failed(&e);
        match e {
            MountError::NoFuse(_) => f.hint("load the module: modprobe fuse"),
            MountError::Refused { .. } => {
                f.hint("ordinary users need fusermount3: apt-get install fuse3")
            }
        }
    }
}

impl NodeInner {
    /// Mounts a volume on a folder and returns when it answers. Blocking.
    pub(super) fn mount(
        &self,
        dir: &Path,
        name: &VolumeName,
        mut options: MountOptions,
    ) -> Answer<()> {
        options.read_only |= self.options.read_only;
        self.forget_ended();
        if self.leaving.load(Ordering::SeqCst) {
            return Err(Failure::failed("this node is leaving the cell"));
        }
        {
            let mounts = self.mounts.lock().unwrap_or_else(PoisonError::into_inner);
            if mounts.iter().any(|m| m.dir() == dir) {
                return Err(
                    Failure::failed(format!("{} is mounted already", dir.display()))
                        .hint(format!("cellfs umount {}", dir.display())),
                );
            }
        }
        let v: Arc<Volume> = self.open_volume(name)?;
        let m = Mount::new(v, dir, self.mount_number(), options)?;
        std::fs::metadata(dir)
            .map_err(|e| Failure::failed(format!("{} does not answer: {e}", dir.display())))?;
        let mut mounts = self.mounts.lock().unwrap_or_else(PoisonError::into_inner);
        mounts.push(m);
        Ok(())
    }

    /// Takes a folder away. Blocking.
    pub(super) fn unmount(&self, dir: &Path) -> Answer<()> {
        let found = {
            let mut mounts = self.mounts.lock().unwrap_or_else(PoisonError::into_inner);
            let at = mounts.iter().position(|m| m.dir() == dir);
            at.map(|i| mounts.remove(i))
        };
        let m = found.ok_or_else(|| {
            Failure::failed(format!("{} is not mounted by this node", dir.display()))
                .hint("cellfs status")
        })?;
        let v = m.volume().clone();
        m.unmount()
            .map_err(|e| Failure::failed(format!("{}: {e}", dir.display())))?;
        v.flush_all()
            .map_err(|e| Failure::failed(format!("what was written is only in the journal: {e}")))
    }

    /// Drops mounts that somebody else took away.
    fn forget_ended(&self) {
        let mut mounts = self.mounts.lock().unwrap_or_else(PoisonError::into_inner);
        let (alive, ended): (Vec<_>, Vec<_>) = mounts.drain(..).partition(Mount::is_alive);
        *mounts = alive;
        drop(mounts);
        for m in ended {
            if let Err(e) = m.unmount() {
                tracing::debug!(error = %e, "an ended mount");
            }
        }
    }

    /// Takes all folders away.
    pub(super) fn unmount_all(&self) {
        let all = {
            let mut mounts = self.mounts.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *mounts)
        };
        for m in all {
            let dir = m.dir().to_owned();
            if let Err(e) = m.unmount() {
                tracing::warn!(dir = %dir.display(), error = %e, "not unmounted");
            }
        }
    }
}
