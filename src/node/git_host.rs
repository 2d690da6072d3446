//! The node behind the git door.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;

use super::NodeInner;
use crate::base::id::VolumeName;
use crate::doors::git::{Access, GitHost, GitRefusal, RefUpdate};
use crate::volume;

/// See the module.
#[derive(Debug)]
pub(super) struct Host(pub(super) Arc<NodeInner>);

fn failed(e: impl std::fmt::Display) -> GitRefusal {
    GitRefusal::Failed(e.to_string())
}

#[async_trait]
impl GitHost for Host {
    async fn access(&self, token: &str) -> Access {
        self.0.tokens.access(token)
    }

    async fn repo(&self, name: &VolumeName, create: bool) -> Result<PathBuf, GitRefusal> {
        if let Some(v) = self.0.volume(name) {
            return Ok(v.repo().path().to_owned());
        }
        if !create {
            return Err(GitRefusal::NotFound(name.clone()));
        }
        let n = name.clone();
        let v = self
            .0
            .blocking(move |node| node.open_volume(&n))
            .await
            .map_err(failed)?;
        Ok(v.repo().path().to_owned())
    }

    async fn hand_out(&self, name: &VolumeName) -> Result<(), GitRefusal> {
        let v = self
            .0
            .volume(name)
            .ok_or_else(|| GitRefusal::NotFound(name.clone()))?;
        tokio::task::spawn_blocking(move || v.hand_out())
            .await
            .map_err(failed)?
            .map_err(failed)?;
        Ok(())
    }

    async fn push(
        &self,
        name: &VolumeName,
        updates: Vec<RefUpdate>,
        atomic: bool,
    ) -> Vec<Result<(), String>> {
        let count = updates.len();
        let all = |why: String| vec![Err(why); count];
        if self.0.leaving.load(Ordering::SeqCst) {
            return all("this node is leaving the cell".to_owned());
        }
        let Some(v) = self.0.volume(name) else {
            return all(format!("there is no volume {name}"));
        };
        let updates = updates
            .into_iter()
            .map(|u| volume::RefUpdate {
                name: u.name,
                old: u.old,
                new: u.new,
            })
            .collect();
        let done = tokio::task::spawn_blocking(move || v.push(updates, atomic)).await;
        match done {
            Ok(Ok(verdicts)) => verdicts,
            Ok(Err(e)) => all(e.to_string()),
            Err(e) => all(e.to_string()),
        }
    }
}
