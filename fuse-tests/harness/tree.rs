//! Trees to copy, and what is in a folder.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::run;

/// How long a kernel may show what it was told to forget.
const TOLD: Duration = Duration::from_secs(5);

/// What is at a path, as `ls` and `cat` show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) mode: u32,
    pub(crate) mtime: (i64, i64),
    pub(crate) content: String,
}

/// Everything below `dir`: modes, times and content.
pub(crate) fn manifest(dir: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut all = BTreeMap::new();
    walk(dir, Path::new(""), &mut all);
    all
}

fn walk(dir: &Path, below: &Path, all: &mut BTreeMap<PathBuf, Entry>) {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    for entry in entries {
        let entry = entry.expect("an entry");
        let (path, name) = (entry.path(), below.join(entry.file_name()));
        let meta = path
            .symlink_metadata()
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let content = if meta.is_symlink() {
            let to = std::fs::read_link(&path).expect("a link");
            format!("-> {}", to.display())
        } else if meta.is_file() {
            let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            assert_eq!(bytes.len() as u64, meta.len(), "{}", path.display());
            blake3::hash(&bytes).to_hex().to_string()
        } else {
            String::new()
        };
        if meta.is_dir() {
            walk(&path, &name, all);
        }
        let e = Entry {
            mode: meta.mode(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            content,
        };
        all.insert(name, e);
    }
}

/// Fails and names the paths in which two folders differ.
pub(crate) fn assert_same(a: &Path, b: &Path) {
    let (x, y) = (manifest(a), manifest(b));
    if x == y {
        return;
    }
    let mut differ: Vec<String> = x
        .keys()
        .chain(y.keys())
        .filter(|k| x.get(*k) != y.get(*k))
        .map(|k| format!("{}: {:?} and {:?}", k.display(), x.get(k), y.get(k)))
        .collect();
    differ.sort();
    differ.dedup();
    let n = differ.len();
    differ.truncate(20);
    panic!(
        "{} and {} differ in {n} paths:\n{}",
        a.display(),
        b.display(),
        differ.join("\n")
    );
}

/// As [`assert_same`], for folders that were written to a moment ago: their kernels are told what
/// is new just after the nodes know it. How long that took.
pub(crate) fn same_soon(a: &Path, b: &Path) -> Duration {
    let begin = Instant::now();
    while manifest(a) != manifest(b) && begin.elapsed() < TOLD {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_same(a, b);
    begin.elapsed()
}

/// Fails unless `rsync` finds nothing to change in `b`: by content, mode, time and links.
pub(crate) fn assert_rsync_same(a: &Path, b: &Path) {
    let slash = |p: &Path| format!("{}/", p.display());
    let said = run(Command::new("rsync")
        .args(["-naci", "--delete"])
        .args([slash(a), slash(b)]));
    let lines: Vec<&str> = said.lines().collect();
    assert!(
        lines.is_empty(),
        "rsync would change {} paths: {:#?}",
        lines.len(),
        lines.iter().take(20).collect::<Vec<_>>()
    );
}

/// Copies as people do.
pub(crate) fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-a").arg(from).arg(to));
}

/// A tree of at least so many files, of real sources, with symlinks, in `to`.
pub(crate) fn real_tree(to: &Path, files: usize) -> usize {
    std::fs::create_dir_all(to).expect("made");
    let mut roots = sources();
    roots.sort();
    let mut have = 0;
    for root in roots {
        if have >= files {
            break;
        }
        let n = count(&root);
        // One huge package would make the tree, and the test, much larger than asked for.
        if n > files {
            continue;
        }
        copy(&root, to);
        have += n;
    }
    assert!(
        have >= files,
        "only {have} files of sources on this machine; CELLFS_TEST_TREE names more"
    );
    for (name, target) in [
        ("link", "Cargo.toml"),
        ("dangling", "no/such/place"),
        ("up", ".."),
    ] {
        std::os::unix::fs::symlink(target, to.join(name)).expect("linked");
    }
    have
}

/// Directories of sources: what a variable names, else what cargo unpacked, and documentation.
fn sources() -> Vec<PathBuf> {
    if let Some(dir) = std::env::var_os("CELLFS_TEST_TREE") {
        return vec![dir.into()];
    }
    let home = std::env::var_os("CARGO_HOME").map_or_else(
        || Path::new(&std::env::var_os("HOME").unwrap_or_default()).join(".cargo"),
        PathBuf::from,
    );
    let mut found = Vec::new();
    for registry in entries(&home.join("registry/src")) {
        found.extend(entries(&registry));
    }
    found.extend(entries(Path::new("/usr/share/doc")));
    found
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let Ok(all) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    all.filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.is_dir() && !p.is_symlink())
        .filter(|p| {
            let name = p.file_name().unwrap_or_default();
            // What git keeps to itself is another test's matter.
            name.as_bytes() != b".git"
        })
        .collect()
}

fn count(dir: &Path) -> usize {
    let Ok(all) = std::fs::read_dir(dir) else {
        return 0;
    };
    all.filter_map(Result::ok)
        .map(|e| match e.file_type() {
            Ok(t) if t.is_dir() => count(&e.path()),
            _ => 1,
        })
        .sum()
}
