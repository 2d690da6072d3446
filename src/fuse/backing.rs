//! Files that the kernel reads and writes by itself (FUSE passthrough): which it was handed.
//!
//! Invariant: all handles of an inode name one backing, which stays until the last is released:
//! the kernel refuses a second one. Threads: the kernel adapter's.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuser::{BackingId, FileHandle, FopenFlags, ReplyOpen};

use crate::volume::inode::Ino;
use crate::volume::spill::Spill;

/// Handles of files that the kernel has. The number tells nothing.
pub(super) const HANDLE: u64 = 2;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Backings {
    works: AtomicBool,
    open: Mutex<HashMap<Ino, (Arc<BackingId>, u32)>>,
}

impl Backings {
    /// The kernel offers it, or it turned out that it does not.
    pub(super) fn works(&self, works: bool) {
        self.works.store(works, Ordering::Release);
    }

    /// Whether files can be handed to the kernel, as far as is known.
    pub(super) fn may_work(&self) -> bool {
        self.works.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Ino, (Arc<BackingId>, u32)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers that the kernel has the file itself. Gives the question back if it cannot.
    pub(super) fn answer(
        &self,
        ino: Ino,
        file: &Spill,
        reply: ReplyOpen,
    ) -> Result<(), (io::Error, ReplyOpen)> {
        let id = {
            let mut open = self.lock();
            match open.entry(ino) {
                Entry::Occupied(mut known) => {
                    known.get_mut().1 += 1;
                    known.get().0.clone()
                }
                Entry::Vacant(new) => match reply.open_backing(file.file()) {
                    Ok(id) => new.insert((Arc::new(id), 1)).0.clone(),
                    Err(e) => return Err((e, reply)),
                },
            }
        };
        reply.opened_passthrough(FileHandle(HANDLE), FopenFlags::FOPEN_NOFLUSH, &id);
        Ok(())
    }

    /// A handle is gone, before the file system hears of it: nobody else has the file then.
    pub(super) fn release(&self, ino: Ino) {
        let mut open = self.lock();
        if let Entry::Occupied(mut known) = open.entry(ino) {
            known.get_mut().1 -= 1;
            if known.get().1 == 0 {
                known.remove();
            }
        }
    }
}
