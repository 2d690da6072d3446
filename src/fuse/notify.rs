//! Tells the kernel what it must forget: one thread that holds no lock and serves no request.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::mpsc::{SyncSender, sync_channel};

use fuser::{INodeNo, Notifier};

use crate::volume::Invalidate;
use crate::volume::live::Stale;

/// Lists that may wait; a sender waits for room, since a lost notice would be stale for ever.
const QUEUE: usize = 1024;

/// Hands notices to the thread.
#[derive(Debug)]
pub(super) struct Notices {
    to: SyncSender<Vec<Stale>>,
}

impl Notices {
    /// Starts the thread. It ends when this is dropped.
    pub(super) fn start(notifier: Notifier) -> io::Result<Self> {
        let (to, inbox) = sync_channel::<Vec<Stale>>(QUEUE);
        std::thread::Builder::new()
            .name("fuse-notify".to_owned())
            .spawn(move || {
                while let Ok(list) = inbox.recv() {
                    for s in list {
                        notify(&notifier, &s);
                    }
                }
            })?;
        Ok(Self { to })
    }
}

fn notify(n: &Notifier, s: &Stale) {
    let done = match s {
        Stale::Entry { dir, name } => {
            n.inval_entry(INodeNo(*dir), OsStr::from_bytes(name.as_bytes()))
        }
        // Of a directory this drops the cached listing, of a file nothing but attributes:
        // bytes never change under an inode.
        Stale::Attr { ino } => n.inval_inode(INodeNo(*ino), 0, 0),
    };
    if let Err(e) = done
        && e.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!(error = %e, ?s, "the kernel refused a notice");
    }
}

impl Invalidate for Notices {
    fn invalidate(&self, stale: &[Stale]) {
        if self.to.send(stale.to_vec()).is_err() {
            tracing::debug!("notices after the end of a mount");
        }
    }
}
