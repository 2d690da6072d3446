//! Tells the kernel what it must forget: one thread that holds no lock and serves no request.
//!
//! Who hands notices in never waits, since workers of other mounts do: what waits is a set of
//! names and inodes, so it is bounded by what the kernel can know.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use fuser::{INodeNo, Notifier};

use crate::volume::Invalidate;
use crate::volume::live::Stale;

/// A kernel that takes longer is not waited for.
const SETTLED_WITHIN: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
struct Waiting {
    stale: BTreeSet<Stale>,
    /// Some are being told.
    busy: bool,
    ended: bool,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    more: Condvar,
}

/// Hands notices to the thread, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Notices(Arc<Shared>);

impl Notices {
    /// Starts the thread.
    pub(super) fn start(notifier: Notifier) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("fuse-notify".to_owned())
            .spawn(move || {
                while let Some(all) = theirs.next() {
                    for s in all {
                        notify(&notifier, &s);
                    }
                }
            })?;
        Ok(Self(shared))
    }
}

impl Shared {
    /// All that waits, once something does; `None` at the end.
    fn next(&self) -> Option<BTreeSet<Stale>> {
        let mut w = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        w.busy = false;
        self.more.notify_all();
        while w.stale.is_empty() && !w.ended {
            w = self.more.wait(w).unwrap_or_else(PoisonError::into_inner);
        }
        w.busy = true;
        (!w.ended).then(|| std::mem::take(&mut w.stale))
    }
}

impl Drop for Notices {
    fn drop(&mut self) {
        let mut w = self
            .0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        w.ended = true;
        self.0.more.notify_all();
    }
}

fn notify(n: &Notifier, s: &Stale) {
    let done = match s {
        Stale::Entry { dir, name } => {
            n.inval_entry(INodeNo(*dir), OsStr::from_bytes(name.as_bytes()))
        }
        // A negative offset leaves the cached pages alone.
        Stale::Attr { ino } => n.inval_inode(INodeNo(*ino), -1, 0),
        Stale::Content { ino } => n.inval_inode(INodeNo(*ino), 0, 0),
    };
    if let Err(e) = done
        && e.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!(error = %e, ?s, "the kernel refused a notice");
    }
}

impl Invalidate for Notices {
    fn invalidate(&self, stale: &[Stale]) {
        let mut w = self
            .0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        w.stale.extend(stale.iter().cloned());
        self.0.more.notify_all();
    }

    fn settled(&self) {
        let w = self
            .0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let waits = |w: &mut Waiting| !w.ended && (w.busy || !w.stale.is_empty());
        let waited = self.0.more.wait_timeout_while(w, SETTLED_WITHIN, waits);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}
