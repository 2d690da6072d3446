//! Requests that wait for bytes of large files which are not on this node: they wait here, so that
//! the kernel adapter's threads serve everybody else.
//!
//! Invariant: at most [`THREADS_MAX`] wait at once and [`QUEUE_MAX`] for their turn; others are
//! told that the bytes are not to be had. Each ends, for who brings bytes has a deadline. Threads:
//! its own, which end when nothing is left to do.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Requests that wait at once.
const THREADS_MAX: usize = 16;
/// Requests that wait for that.
const QUEUE_MAX: usize = 1024;

/// What answers a request; false: at once, as there is no room to wait.
type Job = Box<dyn FnOnce(bool) + Send>;

#[derive(Default)]
struct State {
    threads: usize,
    queue: VecDeque<Job>,
}

/// See the module.
#[derive(Default, Clone)]
pub(super) struct Waiters(Arc<Mutex<State>>);

impl std::fmt::Debug for Waiters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiters").finish_non_exhaustive()
    }
}

impl Waiters {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does this on a thread that may wait.
    pub(super) fn give(&self, job: impl FnOnce(bool) + Send + 'static) {
        let mut s = self.lock();
        if s.queue.len() >= QUEUE_MAX {
            drop(s);
            return job(false);
        }
        s.queue.push_back(Box::new(job));
        if s.threads == THREADS_MAX {
            return;
        }
        s.threads += 1;
        drop(s);
        let me = self.clone();
        let spawned = std::thread::Builder::new()
            .name("fuse-wait".to_owned())
            .spawn(move || me.run());
        if let Err(e) = spawned {
            tracing::warn!(error = %e, "no thread to wait for bytes");
            let mut s = self.lock();
            s.threads -= 1;
            // Another thread takes what is there, or nobody does.
            let left = match s.threads {
                0 => std::mem::take(&mut s.queue),
                _ => VecDeque::new(),
            };
            drop(s);
            left.into_iter().for_each(|job| job(false));
        }
    }

    fn run(&self) {
        loop {
            let mut s = self.lock();
            let Some(job) = s.queue.pop_front() else {
                s.threads -= 1;
                return;
            };
            drop(s);
            job(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{channel, sync_channel};
    use std::time::Duration;

    use super::*;

    #[test]
    fn so_many_wait_at_once_and_the_others_are_told() {
        let w = Waiters::default();
        let (go, wait) = channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        let (done, all) = sync_channel(2 * QUEUE_MAX);
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let count = THREADS_MAX + QUEUE_MAX + 50;
        for _ in 0..count {
            let (wait, done) = (wait.clone(), done.clone());
            let (now, most) = (now.clone(), most.clone());
            w.give(move |may| {
                if may {
                    let n = now.fetch_add(1, Ordering::SeqCst) + 1;
                    most.fetch_max(n, Ordering::SeqCst);
                    let _ended = wait.lock().unwrap().recv();
                    now.fetch_sub(1, Ordering::SeqCst);
                }
                done.send(may).unwrap();
            });
        }
        drop(go);
        let soon = Duration::from_secs(20);
        let told: Vec<bool> = (0..count)
            .map(|_| all.recv_timeout(soon).unwrap())
            .collect();
        let refused = told.iter().filter(|may| !**may).count();
        // All of them, if no thread had begun by then.
        assert!((50..=50 + THREADS_MAX).contains(&refused), "{refused}");
        assert!(most.load(Ordering::SeqCst) <= THREADS_MAX);
        w.give(move |may| done.send(may).unwrap());
        assert!(all.recv_timeout(soon).unwrap(), "it goes on");
    }
}
