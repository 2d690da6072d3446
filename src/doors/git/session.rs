//! The pushes that run: which volume a hook speaks for.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::repo;
use crate::base::id::VolumeName;

/// The pushes that run, by the secret that their hooks show.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<String, Push>>);

/// A push that runs.
#[derive(Clone, Debug)]
pub(super) struct Push {
    /// To where.
    pub(super) volume: VolumeName,
    /// The volume's repository.
    pub(super) repo: PathBuf,
    /// How many refs it wants to move, once the pre-receive hook has told.
    pub(super) announced: Option<usize>,
}

/// A push's place among those that run; dropped, its hooks are refused.
#[derive(Debug)]
pub(super) struct Session {
    key: String,
    all: Arc<Sessions>,
}

impl Session {
    pub(super) fn key(&self) -> &str {
        &self.key
    }
}

/// A push that was cut short: its hooks are refused from now on.
#[derive(Debug)]
pub(super) struct Stopped {
    repo: PathBuf,
    all: Arc<Sessions>,
}

impl Session {
    /// Has its hooks refused.
    pub(super) fn stop(self) -> Option<Stopped> {
        let repo = self.all.find(&self.key)?.repo;
        let all = Arc::clone(&self.all);
        Some(Stopped { repo, all })
    }
}

impl Stopped {
    /// Removes what its git left behind, unless another push to the repository runs.
    pub(super) fn sweep(self) {
        // Under the lock, so that none begins meanwhile.
        let running = self.all.lock();
        if running.values().any(|p| p.repo == self.repo) {
            return;
        }
        if let Err(error) = repo::sweep(&self.repo) {
            tracing::warn!(%error, "leftovers of a push remain");
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.all.lock().remove(&self.key);
    }
}

impl Sessions {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Push>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a push.
    pub(super) fn begin(self: &Arc<Self>, push: Push) -> io::Result<Session> {
        let mut key = [0; 16];
        getrandom::fill(&mut key).map_err(|e| io::Error::other(e.to_string()))?;
        let key = data_encoding::HEXLOWER.encode(&key);
        self.lock().insert(key.clone(), push);
        Ok(Session {
            key,
            all: Arc::clone(self),
        })
    }

    /// The push that a hook speaks for, while it runs.
    pub(super) fn find(&self, key: &str) -> Option<Push> {
        self.lock().get(key).cloned()
    }

    /// Notes how many refs a push wants to move.
    pub(super) fn announce(&self, key: &str, refs: usize) {
        if let Some(push) = self.lock().get_mut(key) {
            push.announced = Some(refs);
        }
    }
}
