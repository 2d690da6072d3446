//! The past and the conflicts of a volume, for people.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::NodeInner;
use crate::base::id::Oid;
use crate::base::name::EntryName;
use crate::base::path::VolumePath;
use crate::control::failure::{Answer, Failure};
use crate::control::wire::{
    Changed, Checkout, Conflict, Conflicts, ConflictsOf, DiffOf, Differing, LogEntry, LogOf,
    Merges, MergesOf, PathOf, ResolveOf, RestoreOf, Take,
};
use crate::fs::now_of;
use crate::history::past::{Dir, Entry, Past};
use crate::history::{History, HistoryError, resolve};
use crate::record::model::Kind;
use crate::store::objects::{ObjectKind, Objects};
use crate::volume::{Amendment, Volume};

/// Conflicts in one answer.
const CONFLICTS_MAX: usize = 500;
/// Files of two states that are compared at a time.
const DIFFERING_MAX: usize = 1_000;

impl From<HistoryError> for Failure {
    fn from(e: HistoryError) -> Self {
        const LOG: &str = "cellfs log lists what was changed, and when";
        let f = Self::failed(&e);
        let word = |p: &VolumePath| p.for_shell();
        match &e {
            HistoryError::NoPath(_) | HistoryError::BeforeFirst { .. } | HistoryError::Empty => {
                f.hint(LOG)
            }
            HistoryError::NotNow(p) => f.hint(format!("what became of it: cellfs log {}", word(p))),
            HistoryError::NotThen { path, .. } => {
                f.hint(format!("when it was there: cellfs log {}", word(path)))
            }
            HistoryError::NoSpec(_) => {
                f.hint("times are like 2026-11-21T10:00 (UTC) or 10min; commits are in cellfs log")
            }
            HistoryError::Ambiguous { .. } => {
                f.hint("give more of the commit's id: cellfs log --json")
            }
            HistoryError::Future(_) => f.hint("times are UTC; how things are now is called main"),
            HistoryError::NoConflict(_) => f.hint("cellfs conflicts"),
            HistoryError::IsCopy { copy, of } => {
                f.hint(format!("cellfs resolve {} --take {}", word(of), word(copy)))
            }
            HistoryError::NoVersion { path, .. } | HistoryError::ManyVersions { path, .. } => f
                .hint(format!(
                    "cellfs resolve {} --take COPY, one of those that cellfs conflicts lists",
                    word(path)
                )),
            HistoryError::IsDirectory(p) | HistoryError::NotDirectory(p) => {
                f.hint(format!("move what is in the way: mv {} OTHER", word(p)))
            }
            HistoryError::NotFile(p) => f.hint(format!("cellfs log {}", word(p))),
            HistoryError::Own(_) => f.hint("take what you need from it: cp"),
            _ => f,
        }
    }
}

/// The same shape in another room's words.
fn same<T: Serialize, U: DeserializeOwned>(value: &T) -> Answer<U> {
    let value = serde_json::to_value(value).map_err(Failure::bug)?;
    serde_json::from_value(value).map_err(Failure::bug)
}

fn text(e: impl std::fmt::Display) -> Failure {
    Failure::failed(e)
}

impl NodeInner {
    fn history(&self, v: &Volume) -> History {
        let mut all = self
            .histories
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.entry(v.name().clone())
            .or_insert_with(|| History::new(v.repo().clone()))
            .clone()
    }

    /// Names of nodes by their ids.
    fn names(&self) -> BTreeMap<String, String> {
        let all = self.peers().map(|p| p.members()).unwrap_or_default();
        all.into_iter()
            .filter(|m| !m.name.is_empty())
            .map(|m| (m.node.to_string(), m.name))
            .collect()
    }

    /// A new directory that whoever asked removes.
    fn scratch(&self) -> Answer<PathBuf> {
        let all = self.state().join("tmp");
        fs::create_dir_all(&all).map_err(text)?;
        let dir = tempfile::Builder::new().tempdir_in(&all).map_err(text)?;
        Ok(dir.keep())
    }

    pub(super) fn clear_scratch(&self) {
        let dir = self.state().join("tmp");
        if let Err(e) = fs::remove_dir_all(&dir)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(dir = %dir.display(), error = %e, "not removed");
        }
    }

    pub(super) fn conflicts(&self, what: &ConflictsOf) -> Answer<Conflicts> {
        let v = self.known(what.volume.clone())?;
        let all = self.history(&v).conflicts(&now_of(&v.view()))?;
        let below = |p: &VolumePath| {
            let (p, top) = (p.as_bytes(), what.below.as_bytes());
            top.is_empty()
                || p.strip_prefix(top)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        let hits: Vec<_> = all.iter().filter(|c| below(&c.path)).collect();
        let skip = usize::try_from(what.skip).unwrap_or(usize::MAX);
        let names = self.names();
        let mut out = Vec::new();
        for c in hits.iter().skip(skip).take(CONFLICTS_MAX) {
            out.push(named(same(c)?, &names));
        }
        Ok(Conflicts {
            conflicts: out,
            total: hits.len() as u64,
        })
    }

    pub(super) fn resolve(&self, what: ResolveOf) -> Answer<Changed> {
        let v = self.known(what.of.volume.clone())?;
        let history = self.history(&v);
        let path = what.of.path.clone();
        let names = self.names();
        // Members are known by their names of today.
        let take = match &what.take {
            Take::Main => Some(resolve::Take::Main),
            Take::Copy(p) => {
                let name = p.names().pop();
                Some(resolve::Take::Copy(name.ok_or_else(|| {
                    Failure::usage("--take needs the name of a copy").hint("cellfs conflicts")
                })?))
            }
            Take::Node(n) => {
                let by_name = names.iter().find(|(_, name)| *name == n);
                Some(resolve::Take::Node(
                    by_name.map_or_else(|| n.clone(), |(id, _)| id.clone()),
                ))
            }
            Take::Edited { .. } => None,
        };
        let edited = match &what.take {
            Take::Edited { file, seen } => {
                if !file.starts_with(self.state().join("tmp")) {
                    return Err(Failure::usage("a file that the node did not make"));
                }
                Some((fs::read(file).map_err(text)?, seen.clone()))
            }
            _ => None,
        };
        let at = path.clone();
        let made = v.amend(move |view, stage, _| {
            let now = now_of(view);
            let take = match (take, edited) {
                (Some(take), _) => take,
                (None, Some((bytes, seen))) => {
                    if history.seen(&now, &at)? != seen {
                        return Err(Failure::failed(format!(
                            "{at} was changed while you edited it"
                        ))
                        .hint("your text is kept; edit again: cellfs resolve --edit"));
                    }
                    resolve::Take::Bytes(stage.put(ObjectKind::Blob, bytes).map_err(text)?)
                }
                (None, None) => return Err(Failure::bug("nothing to take")),
            };
            let mut keep = |_: &Oid, bytes: Arc<Vec<u8>>| {
                stage.put(ObjectKind::Blob, bytes.as_ref().clone())?;
                Ok(())
            };
            let changes = history.resolve(&now, &at, &take, &mut keep)?;
            Ok(Amendment {
                changes,
                message: format!("resolve {at}"),
                told: (),
            })
        });
        let ((), commit) = made.map_err(text)??;
        Ok(Changed {
            path,
            commit: commit.map(|c| c.to_string()),
            changed: 1,
            ..Changed::default()
        })
    }

    pub(super) fn checkout(&self, what: &PathOf) -> Answer<Checkout> {
        let v = self.known(what.volume.clone())?;
        let history = self.history(&v);
        let now = now_of(&v.view());
        let conflict: Conflict = same(&history.conflict(&now, &what.path)?)?;
        let conflict = named(conflict, &self.names());
        let seen = history.seen(&now, &what.path)?;
        let past = history.at(&now, "main")?;
        let dir = self.scratch()?;
        let mut files = Vec::new();
        for (n, version) in conflict.main.iter().chain(&conflict.copies).enumerate() {
            let e = past.find(&version.path)?;
            let e = e.ok_or_else(|| Failure::failed("it was changed meanwhile"))?;
            let file = dir.join(format!("version-{n}"));
            match e.dir {
                Some(_) => fs::write(&file, b""),
                None if e.kind == Kind::Large => {
                    let to = fs::File::create(&file).map_err(text)?;
                    v.write_out(&e.blob, &to).map_err(text)?;
                    Ok(())
                }
                None => fs::write(&file, past.bytes(&e.blob)?.as_slice()),
            }
            .map_err(text)?;
            files.push(file);
        }
        let result = dir.join("result");
        fs::write(&result, b"").map_err(text)?;
        Ok(Checkout {
            conflict,
            dir,
            files,
            result,
            seen,
        })
    }

    pub(super) fn merges(&self, what: &MergesOf) -> Answer<Merges> {
        let v = self.known(what.volume.clone())?;
        let limit = usize::try_from(what.limit).unwrap_or(usize::MAX);
        let found = self
            .history(&v)
            .merges(&now_of(&v.view()), v.name().as_str(), limit)?;
        let mut found: Merges = same(&found)?;
        let names = self.names();
        for s in found.merges.iter_mut().flat_map(|m| &mut m.sides) {
            rename(&mut s.name, &s.node, &names);
        }
        Ok(found)
    }

    pub(super) fn diff(&self, what: &DiffOf) -> Answer<Differing> {
        let v = self.known(what.of.volume.clone())?;
        let history = self.history(&v);
        let now = now_of(&v.view());
        let (a, b) = (history.at(&now, &what.a)?, history.at(&now, &what.b)?);
        let path = &what.of.path;
        let (x, y) = (a.find(path)?, b.find(path)?);
        if x.is_none() && y.is_none() {
            return Err(HistoryError::NotThen {
                path: path.clone(),
                when: format!("{} and at {}", what.a, what.b),
            }
            .into());
        }
        let paths = differing(path, (&a, x), (&b, y))?;
        let dir = self.scratch()?;
        for (path, x, y) in &paths {
            for (side, past, e) in [("a", &a, x), ("b", &b, y)] {
                if let Some(e) = e {
                    let to = dir.join(side).join(OsStr::from_bytes(path.as_bytes()));
                    write_out(&to, past, e)?;
                }
            }
        }
        Ok(Differing {
            dir,
            paths: paths.into_iter().map(|(p, ..)| p).collect(),
        })
    }

    pub(super) fn restore(&self, what: RestoreOf) -> Answer<Changed> {
        let v = self.known(what.of.volume.clone())?;
        let history = self.history(&v);
        let path = what.of.path.clone();
        // Before what waits is committed: `1s` is a second before the command.
        let past = history.at(&now_of(&v.view()), &what.at)?;
        let (at, spec) = (path.clone(), what.at);
        let made = v.amend(move |view, stage, mint| {
            let now = now_of(view);
            let mut keep = |_: &Oid, bytes: Arc<Vec<u8>>| {
                stage.put(ObjectKind::Blob, bytes.as_ref().clone())?;
                Ok(())
            };
            let done = history.restore(&now, &at, (&past, &spec), mint, &mut keep)?;
            let shown = if at.is_root() {
                "all".to_owned()
            } else {
                at.to_string()
            };
            Ok::<_, Failure>(Amendment {
                message: format!("restore {shown} as of {spec}"),
                told: (done.made, done.changed, done.removed),
                changes: done.changes,
            })
        });
        let ((made, changed, removed), commit) = made.map_err(text)??;
        Ok(Changed {
            path,
            commit: commit.map(|c| c.to_string()),
            made,
            changed,
            removed,
        })
    }

    /// The history of one file; `None` if the path is a directory.
    pub(super) fn file_log(&self, what: &LogOf) -> Answer<Option<Vec<LogEntry>>> {
        let v = self.known(what.volume.clone())?;
        let Some(path) = what.path.as_ref().filter(|p| !p.is_root()) else {
            return Ok(None);
        };
        let limit = usize::try_from(what.limit).unwrap_or(usize::MAX);
        let events = match self.history(&v).file(&now_of(&v.view()), path, limit) {
            Ok(events) => events,
            Err(HistoryError::NotFile(_)) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let names = self.names();
        let entry = |e: crate::history::file::Event| {
            let mut author = e.author;
            if e.message.is_none() {
                rename(&mut author, &e.node, &names);
            }
            let mut summary = e.what.join(", ");
            if let Some(from) = &e.from {
                summary += &format!(" from {from}");
            }
            if let Some(message) = &e.message {
                summary += &format!(": {message}");
            }
            LogEntry {
                id: e.id,
                time: e.time,
                author,
                summary,
                node: Some(e.node),
                what: e.what.iter().map(|w| (*w).to_owned()).collect(),
                path: Some(e.path),
                from: e.from,
            }
        };
        Ok(Some(events.into_iter().map(entry).collect()))
    }
}

/// What a member is called today goes before what it was called when it wrote.
fn rename(name: &mut String, node: &str, names: &BTreeMap<String, String>) {
    if let Some(n) = names.get(node) {
        name.clone_from(n);
    } else if name.is_empty() {
        *name = node.chars().take(10).collect();
    }
}

fn named(mut c: Conflict, names: &BTreeMap<String, String>) -> Conflict {
    for v in c.main.iter_mut().chain(&mut c.copies) {
        rename(&mut v.name, &v.node, names);
    }
    c
}

/// A path that differs, and what it is on both sides.
type Pair = (VolumePath, Option<Entry>, Option<Entry>);

/// The files and links in which two states of a path differ.
fn differing(
    path: &VolumePath,
    (a, x): (&Past, Option<Entry>),
    (b, y): (&Past, Option<Entry>),
) -> Answer<Vec<Pair>> {
    let mut out = Vec::new();
    let mut todo = vec![(path.clone(), x, y)];
    while let Some((path, x, y)) = todo.pop() {
        let dir = |e: &Option<Entry>| e.as_ref().and_then(|e| e.dir.clone());
        if dir(&x).is_some() || dir(&y).is_some() {
            let list = |past: &Past, d: Option<Dir>| -> Answer<BTreeMap<EntryName, Entry>> {
                let all = d.map(|d| past.list(&d)).transpose()?.unwrap_or_default();
                Ok(all.into_iter().map(|e| (e.name.clone(), e)).collect())
            };
            let (mut l, r) = (list(a, dir(&x))?, list(b, dir(&y))?);
            for (name, e) in r {
                let other = l.remove(&name);
                todo.push((path.join(&name), other, Some(e)));
            }
            for (name, e) in l {
                todo.push((path.join(&name), Some(e), None));
            }
        }
        let file = |e: Option<Entry>| e.filter(|e| e.dir.is_none());
        let (x, y) = (file(x), file(y));
        let facts = |e: &Option<Entry>| {
            let e = e.as_ref()?;
            Some((e.kind, e.blob, e.mode & 0o100))
        };
        if facts(&x) != facts(&y) {
            out.push((path, x, y));
        }
        if out.len() > DIFFERING_MAX {
            let what = format!("more than {DIFFERING_MAX} files differ");
            return Err(Failure::failed(what).hint("name one of the directories in it"));
        }
    }
    out.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(out)
}

fn write_out(to: &Path, past: &Past, e: &Entry) -> Answer<()> {
    if let Some(above) = to.parent() {
        fs::create_dir_all(above).map_err(text)?;
    }
    // Nobody reads a difference of large files line by line.
    let bytes = past.git_bytes(e)?;
    if e.kind == Kind::Symlink {
        return symlink(OsStr::from_bytes(&bytes), to).map_err(text);
    }
    fs::write(to, bytes.as_slice()).map_err(text)?;
    let mode = if e.mode & 0o100 == 0 { 0o644 } else { 0o755 };
    fs::set_permissions(to, fs::Permissions::from_mode(mode)).map_err(text)
}

/// Commits that lead to the view, newest first. Read by git: it knows best how to follow what is
/// below a path.
pub(super) async fn log(v: &Volume, path: Option<VolumePath>, limit: u32) -> Answer<Vec<LogEntry>> {
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
    if let Some(p) = path.filter(|p| !p.is_root()) {
        let spec = [b":(top,literal)", p.as_bytes()].concat();
        git.arg(OsStr::from_bytes(&spec));
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
            ..LogEntry::default()
        })
    };
    Ok(text.lines().filter_map(entry).collect())
}
