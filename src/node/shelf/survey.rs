//! The one thread that surveys what comes.
//!
//! A survey takes 28 MiB, which the allocator keeps for the thread that had them. On whichever
//! thread is free, that would be as much for each of many.
//!
//! Invariant: one survey runs at a time; the others wait in the order in which they came, those
//! who ask for them with them. The thread is started by the first, and stays.

use std::fs::File;
use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use crate::chunk::{Survey, cut};

struct Job {
    file: File,
    to: SyncSender<io::Result<Survey>>,
}

static JOBS: Mutex<Option<SyncSender<Job>>> = Mutex::new(None);

/// What a file is made of. Blocks.
pub(super) fn survey(file: File) -> io::Result<Survey> {
    let (to, done) = sync_channel(1);
    let mut job = Job { file, to };
    // A thread that died is followed by another one, once.
    for _ in 0..2 {
        let jobs = surveyor()?;
        match jobs.send(job) {
            Ok(()) => {
                let died = |_| io::Error::other("a survey died");
                return done.recv().map_err(died).flatten();
            }
            Err(unsent) => {
                job = unsent.0;
                let mut jobs = JOBS.lock().unwrap_or_else(PoisonError::into_inner);
                *jobs = None;
            }
        }
    }
    Err(io::Error::other("nobody surveys files"))
}

fn surveyor() -> io::Result<SyncSender<Job>> {
    let mut jobs = JOBS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(jobs) = &*jobs {
        return Ok(jobs.clone());
    }
    let (send, todo) = sync_channel::<Job>(0);
    let name = "cellfs-survey".to_owned();
    std::thread::Builder::new().name(name).spawn(move || {
        for job in todo {
            let done = cut::survey(&job.file);
            drop(job.file);
            // Who asked may have gone.
            let _ = job.to.send(done);
        }
    })?;
    *jobs = Some(send.clone());
    Ok(send)
}
