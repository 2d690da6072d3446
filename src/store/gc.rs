//! One well compressed pack out of all: what a person asks for when the disk fills.
//!
//! Invariant: no object goes. The new pack holds all objects of the packs that it replaces,
//! whether or not anything names them, so nothing has to be known of heads, journals, pushes or
//! peers that are being served; a pack is removed only when each of its objects is in a pack
//! that is durable. git writes into a directory of its own under `incoming/`, and what it wrote
//! is moved from there: a crash leaves what [`super::pack::sweep`] clears.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::repack::{git, index, indexes, quietly, remove, run, within};
use super::repo::Repo;
use crate::base::durable;

/// What a repository's objects take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Packs.
    pub packs: u64,
    /// Objects in them and beside them; one that is in two packs counts twice.
    pub objects: u64,
    /// Bytes on the disk, whole blocks, with indexes.
    pub bytes: u64,
}

/// Measures a repository.
///
/// # Errors
/// As the file system.
pub fn size(repo: &Path) -> io::Result<Size> {
    let mut out = Size::default();
    for i in indexes(repo)? {
        match index(&i) {
            Ok(i) => {
                out.packs += 1;
                out.objects += u64::from(i.num_objects());
            }
            // Rolled up since it was listed.
            Err(_) if !i.exists() => {}
            Err(e) => return Err(e),
        }
    }
    let mut dirs = vec![repo.join("objects")];
    while let Some(dir) = dirs.pop() {
        let is_loose = dir.file_name().is_some_and(|n| n.len() == 2);
        for e in fs::read_dir(&dir)? {
            let e = e?;
            match e.metadata() {
                Ok(m) if m.is_dir() => dirs.push(e.path()),
                Ok(m) => {
                    out.bytes += m.blocks() * 512;
                    out.objects += u64::from(is_loose);
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(out)
}

/// Makes one pack of all, and git's index of commits; before and after. Safe beside readers,
/// writers, git and a power cut; it waits for others that do such work, and gives way to
/// everything else on the processor.
///
/// # Errors
/// As the file system, or what git said. Nothing is lost then, and little is left to be cleared.
pub fn gc(repo: &Repo) -> io::Result<(Size, Size)> {
    let _one = repo.packing();
    quietly(|| {
        let before = size(repo.path())?;
        let scratch = tempfile::Builder::new()
            .prefix("gc-")
            .tempdir_in(repo.incoming_dir())?;
        let old = gather(repo, scratch.path())?;
        repo.replace_packs(|| {
            old.iter().try_for_each(|p| remove(p))?;
            if has_loose(repo.path())? {
                run(git(repo.path()).args(["prune-packed", "-q"]))?;
            }
            durable::sync_dir(&repo.pack_dir())
        })?;
        commit_graph(repo, scratch.path())?;
        Ok((before, size(repo.path())?))
    })?
}

/// Writes the one pack, durably; the indexes of packs that are in it.
fn gather(repo: &Repo, scratch: &Path) -> io::Result<Vec<PathBuf>> {
    let before = indexes(repo.path())?;
    let out = run(git(repo.path())
        .args(["-c", "pack.windowMemory=64m"])
        .args(["-c", "pack.deltaCacheSize=64m"])
        .args(["-c", "core.bigFileThreshold=16m"])
        .args(["pack-objects", "-q", "--non-empty", "--delta-base-offset"])
        .args(["--all", "--keep-unreachable", "--pack-loose-unreachable"])
        .arg("--honor-pack-keep")
        .arg(scratch.join("pack")))?;
    let mut new = BTreeSet::new();
    for hash in String::from_utf8_lossy(&out).split_whitespace() {
        let name = format!("pack-{hash}");
        new.insert(install(&scratch.join(&name), &repo.pack_dir().join(&name))?);
    }
    durable::sync_dir(&repo.pack_dir())?;
    let old: BTreeSet<PathBuf> = before.difference(&new).cloned().collect();
    within(old, &new)
}

/// Moves a pack to where it is seen, its index last.
fn install(from: &Path, to: &Path) -> io::Result<PathBuf> {
    let idx = to.with_extension("idx");
    // One of that name has these bytes.
    if idx.exists() {
        return Ok(idx);
    }
    for ext in ["pack", "rev", "idx"] {
        let from = from.with_extension(ext);
        if ext == "rev" && !from.exists() {
            continue;
        }
        File::open(&from)?.sync_all()?;
        fs::rename(&from, to.with_extension(ext))?;
    }
    Ok(idx)
}

/// git walks a long history several times faster by it. It may name any commit that is here, for
/// none goes.
fn commit_graph(repo: &Repo, scratch: &Path) -> io::Result<()> {
    let objects = scratch.join("objects");
    fs::create_dir(&objects)?;
    run(git(repo.path())
        .env("GIT_OBJECT_DIRECTORY", &objects)
        .env(
            "GIT_ALTERNATE_OBJECT_DIRECTORIES",
            std::path::absolute(repo.path().join("objects"))?,
        )
        .args(["commit-graph", "write", "--reachable"]))?;
    let from = objects.join("info/commit-graph");
    // No commits, no file.
    if !from.exists() {
        return Ok(());
    }
    let info = repo.path().join("objects/info");
    File::open(&from)?.sync_all()?;
    fs::rename(from, info.join("commit-graph"))?;
    durable::sync_dir(&info)
}

fn has_loose(repo: &Path) -> io::Result<bool> {
    for e in fs::read_dir(repo.join("objects"))? {
        if e?.file_name().len() == 2 {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::Oid;
    use crate::store::objects::{ObjectKind, Objects};

    /// Versions of one text, with nothing that names them.
    fn texts(repo: &Repo, n: u32) -> Vec<(Oid, Vec<u8>)> {
        let text = |i: u32| -> Vec<u8> {
            let lines = (0..400).map(|l| format!("line {} {l}\n", if l == i { i } else { 0 }));
            lines.collect::<String>().into_bytes()
        };
        let put = |i| {
            let t = text(i);
            (repo.put(ObjectKind::Blob, t.clone()).unwrap(), t)
        };
        (0..n).map(put).collect()
    }

    fn commit(repo: &Repo, tree: Oid, parent: Option<Oid>, n: usize) -> Oid {
        let parent = parent.map_or(String::new(), |p| format!("parent {p}\n"));
        let who = format!("a <a@b> {} +0000", 1_700_000_000 + n);
        let text = format!("tree {tree}\n{parent}author {who}\ncommitter {who}\n\nm\n");
        repo.put(ObjectKind::Commit, text.into_bytes()).unwrap()
    }

    fn verify(repo: &Repo, all: &[(Oid, Vec<u8>)]) {
        let fresh = Repo::open(repo.path()).unwrap();
        for (id, bytes) in all {
            for r in [repo, &fresh] {
                assert_eq!(&*r.get(id, ObjectKind::Blob).unwrap(), bytes);
            }
        }
        run(git(repo.path()).args(["fsck", "--strict", "--no-dangling"])).unwrap();
    }

    #[test]
    fn nothing_is_dropped_whether_or_not_it_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let repo = Repo::create(&dir.path().join("r")).unwrap();
        gc(&repo).unwrap();
        let mut all = texts(&repo, 40);
        // Some are named by a history with a ref, one lies loose.
        let mut at = None;
        for (n, (id, _)) in all.iter().take(10).enumerate() {
            let mut tree = b"100644 f\0".to_vec();
            tree.extend_from_slice(id.as_slice());
            let tree = repo.put(ObjectKind::Tree, tree).unwrap();
            at = Some(commit(&repo, tree, at, n));
        }
        repo.set_ref("refs/heads/main", at.as_ref()).unwrap();
        let loose = dir.path().join("loose");
        fs::write(&loose, b"loose").unwrap();
        run(git(repo.path()).args(["hash-object", "-w"]).arg(&loose)).unwrap();
        let id = crate::store::objects::id_of(ObjectKind::Blob, b"loose");
        all.push((id, b"loose".to_vec()));
        repo.refresh();
        let (before, after) = gc(&repo).unwrap();
        assert_eq!((before.packs, before.objects), (60, 61));
        assert_eq!((after.packs, after.objects), (1, 61));
        assert!(after.bytes < before.bytes / 4, "{before:?} {after:?}");
        assert!(!has_loose(repo.path()).unwrap() || size(repo.path()).unwrap() == after);
        assert!(repo.path().join("objects/info/commit-graph").exists());
        assert_eq!(fs::read_dir(repo.incoming_dir()).unwrap().count(), 0);
        verify(&repo, &all);
        let (again, same) = gc(&repo).unwrap();
        assert_eq!((again.objects, same.packs, same.objects), (61, 1, 61));
        verify(&repo, &all);
    }

    #[test]
    fn what_comes_meanwhile_and_what_is_held_back_stays() {
        let dir = tempfile::tempdir().unwrap();
        let repo = Repo::create(&dir.path().join("r")).unwrap();
        let mut all = texts(&repo, 20);
        let kept = indexes(repo.path()).unwrap().into_iter().next().unwrap();
        fs::write(kept.with_extension("keep"), b"").unwrap();
        std::thread::scope(|s| {
            let worker = s.spawn(|| gc(&repo).unwrap());
            for n in 0..30u8 {
                let bytes = vec![n; 5000];
                let id = repo.put(ObjectKind::Blob, bytes.clone()).unwrap();
                all.push((id, bytes));
                for (id, bytes) in &all {
                    assert_eq!(repo.size(id).unwrap(), bytes.len() as u64);
                }
            }
            worker.join().unwrap();
        });
        assert!(kept.exists());
        verify(&repo, &all);
    }

    #[test]
    fn a_failure_leaves_all_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let repo = Repo::create(&dir.path().join("r")).unwrap();
        let all = texts(&repo, 5);
        let missing = Oid::from([7; 20]);
        repo.set_ref("refs/heads/main", Some(&missing)).unwrap();
        gc(&repo).unwrap_err();
        assert_eq!(size(repo.path()).unwrap().packs, 5);
        assert_eq!(fs::read_dir(repo.incoming_dir()).unwrap().count(), 0);
        repo.set_ref("refs/heads/main", None).unwrap();
        verify(&repo, &all);
    }
}
