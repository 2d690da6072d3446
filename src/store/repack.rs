//! Keeps the number of packs small: each commit adds one, and every lookup asks them all.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::repo::Repo;
use crate::base::durable;

/// More packs than this are rolled up.
pub const PACKS_WANTED_MAX: usize = 200;

/// Number of visible packs of a repository.
///
/// # Errors
/// As the file system.
pub fn packs(repo: &Path) -> io::Result<usize> {
    Ok(indexes(repo)?.len())
}

pub(super) fn indexes(repo: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut out = BTreeSet::new();
    for e in fs::read_dir(repo.join("objects/pack"))? {
        let p = e?.path();
        if p.extension().is_some_and(|x| x == "idx") {
            out.insert(p);
        }
    }
    Ok(out)
}

/// Rolls small packs up into larger ones, so that few are left and most bytes are not copied.
/// Objects that nothing names are kept, too. Safe beside readers and writers, and at a power
/// cut: git does not sync the directory, so it is not left to git to remove the small packs.
///
/// # Errors
/// When git cannot be run, or what it said.
pub fn repack(repo: &Repo) -> io::Result<()> {
    let _one = repo.packing();
    quietly(|| {
        let old = roll_up(repo.path())?;
        repo.replace_packs(|| old.iter().try_for_each(|p| remove(p)))
    })?
}

/// Runs work on a thread that gives way to all others, and with it what the work starts.
pub(super) fn quietly<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let nice = || {
        if let Err(e) = rustix::process::setpriority_process(None, 19) {
            tracing::debug!(error = %e, "packs are rolled up at the usual priority");
        }
        work()
    };
    std::thread::scope(|s| {
        let thread = std::thread::Builder::new()
            .name("repack".to_owned())
            .spawn_scoped(s, nice)?;
        let died = |_| io::Error::other("the thread that rolls packs up died");
        thread.join().map_err(died)
    })
}

/// git on a repository, untouched by anybody's configuration, on one processor.
pub(super) fn git(repo: &Path) -> Command {
    let mut c = Command::new("git");
    c.env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .arg("--git-dir")
        .arg(repo)
        .args(["-c", "core.fsync=all", "-c", "pack.threads=1"])
        .stdin(Stdio::null());
    c
}

/// Runs git; what it printed.
pub(super) fn run(command: &mut Command) -> io::Result<Vec<u8>> {
    let out = command.output()?;
    if out.status.success() {
        return Ok(out.stdout);
    }
    let said = String::from_utf8_lossy(&out.stderr).trim().to_owned();
    Err(io::Error::other(format!("git: {said}")))
}

/// Writes the larger packs, durably; the indexes of packs that are in them.
fn roll_up(path: &Path) -> io::Result<Vec<PathBuf>> {
    let before = indexes(path)?;
    run(git(path).args(["-c", "core.multiPackIndex=false"]).args([
        "repack",
        "--geometric=2",
        "-q",
        "--no-write-bitmap-index",
    ]))?;
    durable::sync_dir(&path.join("objects/pack"))?;
    let new = indexes(path)?.difference(&before).cloned().collect();
    within(before, &new)
}

/// Those of the packs that may go: all of their objects are in the new ones.
pub(super) fn within(old: BTreeSet<PathBuf>, new: &BTreeSet<PathBuf>) -> io::Result<Vec<PathBuf>> {
    let mut larger = Vec::new();
    for p in new {
        larger.push(index(p)?);
    }
    let mut out = Vec::new();
    for p in old {
        if !p.with_extension("keep").exists() && is_within(&index(&p)?, &larger) {
            out.push(p);
        }
    }
    Ok(out)
}

/// Without its index nobody looks for the pack, so the index goes first.
pub(super) fn remove(index: &Path) -> io::Result<()> {
    for ext in ["idx", "rev", "pack"] {
        match fs::remove_file(index.with_extension(ext)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

type Index = gix_pack::index::File<gix_pack::MMap>;

pub(super) fn index(path: &Path) -> io::Result<Index> {
    Index::at(path, gix::hash::Kind::Sha1).map_err(io::Error::other)
}

fn is_within(old: &Index, new: &[Index]) -> bool {
    old.iter()
        .all(|e| new.iter().any(|n| n.lookup(e.oid).is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::objects::{ObjectKind, Objects};

    #[test]
    fn many_packs_become_few_and_readers_do_not_notice() {
        let dir = tempfile::tempdir().unwrap();
        let repo = Repo::create(&dir.path().join("r")).unwrap();
        let ids: Vec<_> = (0..60u32)
            .map(|n| {
                repo.put(ObjectKind::Blob, n.to_le_bytes().to_vec())
                    .unwrap()
            })
            .collect();
        assert_eq!(packs(repo.path()).unwrap(), 60);
        repack(&repo).unwrap();
        assert!(packs(repo.path()).unwrap() < 5);
        let fresh = Repo::open(repo.path()).unwrap();
        for (n, id) in (0..60u32).zip(&ids) {
            for r in [&repo, &fresh] {
                let got = r.get(id, ObjectKind::Blob).unwrap();
                assert_eq!(got.as_slice(), n.to_le_bytes());
            }
        }
    }

    #[test]
    fn objects_are_never_missing_while_packs_are_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let repo = Repo::create(&dir.path().join("r")).unwrap();
        // Too large to be kept in memory, so that each read looks in the packs.
        let bytes = |n: u8| vec![n; 70_000];
        let put = |n| repo.put(ObjectKind::Blob, bytes(n)).unwrap();
        let ids: Vec<_> = (0..20).map(put).collect();
        // From here on no pack is open, and the indexes know only the small ones.
        repo.refresh();
        let old = roll_up(repo.path()).unwrap();
        assert!(old.len() > 10);
        let (go, gone) = std::sync::mpsc::channel();
        std::thread::scope(|s| {
            let (ids, repo) = (&ids, &repo);
            let reader = s.spawn(move || {
                gone.recv().unwrap();
                for (n, id) in (0..20).zip(ids) {
                    assert_eq!(repo.size(id).unwrap(), 70_000);
                    assert!(repo.has(id).unwrap());
                    assert_eq!(*repo.get(id, ObjectKind::Blob).unwrap(), bytes(n));
                }
            });
            repo.replace_packs(|| {
                old.iter().try_for_each(|p| remove(p))?;
                go.send(()).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(100));
                Ok(())
            })
            .unwrap();
            reader.join().unwrap();
        });
    }
}
