//! The past and the conflicts of a volume, for people.

use std::collections::{BTreeMap, VecDeque};

use crate::base::id::{BranchId, FileId, NodeId};
use crate::control::failure::{Answer, Failure};
use crate::control::wire::{Conflict, LogEntry};
use crate::merge::shown::{self, Role};
use crate::volume::Volume;

/// Conflict copies listed at most.
const CONFLICTS_MAX: usize = 10_000;

/// Commits that lead to the view, newest first. Read by git: it knows best how to follow a
/// path.
pub(super) async fn log(v: &Volume, path: Option<String>, limit: u32) -> Answer<Vec<LogEntry>> {
    let heads: Vec<String> = v
        .view()
        .heads
        .iter()
        .filter_map(|h| h.content.map(|c| c.to_string()))
        .collect();
    if heads.is_empty() {
        return Ok(Vec::new());
    }
    let mut git = tokio::process::Command::new("git");
    git.env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .arg("--git-dir")
        .arg(v.repo().path())
        .args(["log", "--date-order", "--format=%H%x00%at%x00%an%x00%s"])
        .arg(format!("--max-count={limit}"))
        .args(heads)
        .arg("--");
    if let Some(p) = &path {
        git.arg(format!(":(top,literal){p}"));
    }
    let out = git.output().await.map_err(|e| {
        Failure::failed(format!("git cannot be run: {e}")).hint("apt-get install git")
    })?;
    if !out.status.success() {
        return Err(Failure::failed(
            String::from_utf8_lossy(&out.stderr).trim().to_owned(),
        ));
    }
    let text = String::from_utf8_lossy(&out.stdout);
    let entry = |line: &str| {
        let mut parts = line.split('\0');
        Some(LogEntry {
            id: parts.next()?.to_owned(),
            time: parts.next()?.parse().ok()?,
            author: parts.next()?.to_owned(),
            summary: parts.next()?.to_owned(),
            paths: Vec::new(),
        })
    };
    Ok(text.lines().filter_map(entry).collect())
}

/// All conflict copies in the view. Visits every directory.
pub(super) fn conflicts(v: &Volume) -> Answer<Vec<Conflict>> {
    let view = v.view();
    let src = crate::record::Source::new(&*view.stage, v.cache());
    let nodes: BTreeMap<BranchId, NodeId> = view
        .heads
        .iter()
        .map(|h| (h.stamp.branch, h.node))
        .collect();
    let mut out = Vec::new();
    let mut queue = VecDeque::from([(String::new(), vec![FileId::ROOT])]);
    while let Some((path, dirs)) = queue.pop_front() {
        let names = shown::list(src, &view.state, &dirs).map_err(Failure::failed)?;
        for s in names {
            let here = format!("{path}{}", s.name);
            if !s.dirs.is_empty() {
                queue.push_back((format!("{here}/"), s.dirs));
                continue;
            }
            let Role::Copy { of } = &s.role else { continue };
            let branch = s.versions.first().map(|v| v.content.branch);
            out.push(Conflict {
                path: format!("{path}{of}"),
                copy: here,
                kind: "edit".to_owned(),
                node: branch
                    .and_then(|b| nodes.get(&b))
                    .map(NodeId::to_string)
                    .unwrap_or_default(),
                time: s.mtime / 1_000_000_000,
            });
            if out.len() >= CONFLICTS_MAX {
                return Ok(out);
            }
        }
    }
    Ok(out)
}
