//! The pushes that run: which volume a hook speaks for.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

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
