//! Repositories as the git door needs them: bare, with their own settings and our hooks.
//!
//! Nothing here depends on the user's or the system's git configuration.

use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// File of our settings, included by the repository's `config`.
const SETTINGS_NAME: &str = "cellfs.config";

/// Settings of every repository that the door serves.
///
/// Refs are moved by the node alone (`procReceiveRefs`), and what git puts on disk is synced
/// before (`fsync`, and `unpackLimit`, since loose objects are not). Pushed objects are
/// checked as `fsck --strict` does, but for faults in old history that harm nobody: people
/// push repositories that have them, and `fsck` here knows of the same exceptions.
const SETTINGS: &str = "\
# Written by cellfs at each start; changes here are lost.
[core]
	fsync = all
	fsyncMethod = fsync
[gc]
	auto = 0
[maintenance]
	auto = false
[http]
	receivepack = true
[transfer]
	hideRefs = refs/cellfs
	unpackLimit = 1
	fsckObjects = true
[uploadpack]
	allowAnySHA1InWant = true
	allowFilter = true
[receive]
	procReceiveRefs = refs
	unpackLimit = 1
	autogc = false
	denyDeletes = false
	denyNonFastForwards = false
	advertiseAtomic = true
	advertisePushOptions = true
";

/// Faults that old repositories have, and that stay warnings.
const OLD_FAULTS: [&str; 8] = [
    "badTimezone",
    "badEmail",
    "missingEmail",
    "missingNameBeforeEmail",
    "missingSpaceBeforeDate",
    "missingSpaceBeforeEmail",
    "zeroPaddedDate",
    "zeroPaddedFilemode",
];

/// Why a repository cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepoError {
    /// git is not installed.
    #[error("git cannot be run: {0}")]
    NoGit(#[source] std::io::Error),
    /// git failed.
    #[error("git failed on {}: {why}", path.display())]
    Git {
        /// The repository.
        path: PathBuf,
        /// What git said.
        why: String,
    },
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// git with an environment of our own.
pub(super) fn git() -> Command {
    let mut command = Command::new("git");
    command
        .env_clear()
        .env(
            "PATH",
            std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into()),
        )
        .env("LC_ALL", "C")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        // The state directory is ours, whoever owns it on disk.
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .stdin(Stdio::null());
    command
}

/// The version of git, such as `2.47.3`.
///
/// # Errors
/// When git is not installed.
pub fn git_version() -> Result<String, RepoError> {
    let out = git().arg("--version").output().map_err(RepoError::NoGit)?;
    let text = String::from_utf8_lossy(&out.stdout);
    Ok(text.split(' ').nth(2).unwrap_or("").trim().to_owned())
}

/// Makes a bare repository with the branch `main`, unless it is there, and configures it.
/// It appears whole, durable and configured, or not at all.
///
/// # Errors
/// When git fails or the disk does.
pub fn create(path: &Path, cellfs: &Path) -> Result<(), RepoError> {
    if path.join("HEAD").exists() {
        return configure(path, cellfs);
    }
    let parent = path.parent().unwrap_or_else(|| Path::new("."));
    let stage = tempfile::Builder::new()
        .prefix(".new-")
        .tempdir_in(parent)
        .map_err(io(parent))?;
    let made = stage.path().join("git");
    run(
        path,
        git()
            .args(["init", "--quiet", "--bare", "--template=", "-b", "main"])
            .args(["--object-format=sha1", "--ref-format=files", "--"])
            .arg(&made),
    )?;
    configure(&made, cellfs)?;
    sync_tree(&made).map_err(io(&made))?;
    match std::fs::rename(&made, path) {
        // Somebody else was faster.
        Err(_) if path.join("HEAD").exists() => Ok(()),
        done => done.and_then(|()| sync(parent)).map_err(io(path)),
    }
}

/// Settings and hooks, durable; what is right already is left alone. `cellfs` is the program
/// that the hooks run.
///
/// # Errors
/// When git fails or the disk does.
pub fn configure(path: &Path, cellfs: &Path) -> Result<(), RepoError> {
    let mut settings = SETTINGS.to_owned();
    for section in ["receive \"fsck\"", "fsck"] {
        settings += &format!("[{section}]\n");
        for fault in OLD_FAULTS {
            settings += &format!("\t{fault} = warn\n");
        }
    }
    let mut changed = put(&path.join(SETTINGS_NAME), settings.as_bytes(), 0o644)?;
    let config = path.join("config");
    let text = std::fs::read_to_string(&config).map_err(io(&config))?;
    if !text.contains(SETTINGS_NAME) {
        // Not by `git config`, which renames a file that it has not synced.
        let with = format!("{}\n[include]\n\tpath = {SETTINGS_NAME}\n", text.trim_end());
        changed |= put(&config, with.as_bytes(), 0o644)?;
    }
    let hooks = path.join("hooks");
    std::fs::create_dir_all(&hooks).map_err(io(&hooks))?;
    for name in ["pre-receive", "proc-receive"] {
        let program = cellfs.display().to_string().replace('\'', r"'\''");
        let script = format!("#!/bin/sh\nexec '{program}' hook {name}\n");
        changed |= put(&hooks.join(name), script.as_bytes(), 0o755)?;
    }
    if changed {
        for file in [&config, &hooks, path] {
            sync(file).map_err(io(file))?;
        }
    }
    Ok(())
}

/// Removes what git processes left behind that died with the machine: quarantines and
/// unfinished packs. Only when no push runs, such as at a node's start.
///
/// # Errors
/// When the disk fails.
pub fn sweep(path: &Path) -> Result<(), RepoError> {
    let objects = path.join("objects");
    for (dir, prefix) in [
        (objects.clone(), "tmp_objdir-"),
        (objects.join("pack"), "tmp_"),
    ] {
        let entries = match std::fs::read_dir(&dir) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            other => other.map_err(io(&dir))?,
        };
        for entry in entries {
            let entry = entry.map_err(io(&dir))?;
            if !entry.file_name().to_string_lossy().starts_with(prefix) {
                continue;
            }
            let file = entry.path();
            let removed = entry.file_type().and_then(|t| match t.is_dir() {
                true => std::fs::remove_dir_all(&file),
                false => std::fs::remove_file(&file),
            });
            match removed {
                // Its maker, which outlived the node, removes it as well.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                removed => removed.map_err(io(&file))?,
            }
        }
    }
    Ok(())
}

fn run(path: &Path, command: &mut Command) -> Result<(), RepoError> {
    let out = command.output().map_err(RepoError::NoGit)?;
    if out.status.success() {
        return Ok(());
    }
    Err(RepoError::Git {
        path: path.to_owned(),
        why: String::from_utf8_lossy(&out.stderr).trim().to_owned(),
    })
}

/// Writes a file whole or not at all, if it is not so already. Its directory is to be synced
/// when it was written.
fn put(path: &Path, bytes: &[u8], mode: u32) -> Result<bool, RepoError> {
    if std::fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(false);
    }
    let write = || -> std::io::Result<bool> {
        let dir = path.parent().unwrap_or_else(|| Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(bytes)?;
        file.as_file()
            .set_permissions(Permissions::from_mode(mode))?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(true)
    };
    match write() {
        Err(e) if e.kind() == std::io::ErrorKind::StorageFull && path.exists() => {
            // The next start will; what was there works as it did before.
            tracing::warn!(path = %path.display(), error = %e, "not brought up to date");
            Ok(false)
        }
        done => done.map_err(io(path)),
    }
}

fn sync(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

/// Syncs all files and directories of a small tree.
fn sync_tree(dir: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            sync(&entry.path())?;
        }
    }
    sync(dir)
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> RepoError {
    let path = path.to_owned();
    move |source| RepoError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(repo: &Path, key: &str) -> String {
        let mut c = git();
        c.args(["config", "--get", key]).env("GIT_DIR", repo);
        String::from_utf8(c.output().expect("git").stdout).expect("text")
    }

    #[test]
    fn creating_twice_is_creating_once() {
        let dir = tempfile::tempdir().expect("tempdir");
        let repo = dir.path().join("v.git");
        create(&repo, Path::new("/it's/cellfs")).expect("made");
        let config = std::fs::read(repo.join("config")).expect("there");
        create(&repo, Path::new("/it's/cellfs")).expect("made");
        assert_eq!(std::fs::read(repo.join("config")).expect("there"), config);
        assert_eq!(setting(&repo, "receive.procReceiveRefs"), "refs\n");
        assert_eq!(setting(&repo, "receive.fsck.zeroPaddedFilemode"), "warn\n");
        assert_eq!(setting(&repo, "fsck.badTimezone"), "warn\n");
        let hook = std::fs::read_to_string(repo.join("hooks/proc-receive")).expect("there");
        assert_eq!(
            hook,
            "#!/bin/sh\nexec '/it'\\''s/cellfs' hook proc-receive\n"
        );
    }

    #[test]
    fn gix_opens_what_git_made() {
        let dir = tempfile::tempdir().expect("tempdir");
        let repo = dir.path().join("v.git");
        create(&repo, Path::new("/cellfs")).expect("made");
        let opened = gix::open_opts(&repo, gix::open::Options::isolated()).expect("opened");
        assert!(opened.is_bare());
        let head = opened.head_name().expect("read").expect("symbolic");
        assert_eq!(head.as_bstr(), "refs/heads/main");
    }

    #[test]
    fn leftovers_of_dead_pushes_are_swept() {
        let dir = tempfile::tempdir().expect("tempdir");
        let repo = dir.path().join("v.git");
        create(&repo, Path::new("/cellfs")).expect("made");
        let stale = repo.join("objects/tmp_objdir-incoming-abc/pack");
        std::fs::create_dir_all(&stale).expect("made");
        std::fs::write(repo.join("objects/pack/tmp_pack_x"), "").expect("made");
        std::fs::write(repo.join("objects/pack/pack-x.keep"), "").expect("made");
        sweep(&repo).expect("swept");
        assert!(!stale.exists() && !repo.join("objects/pack/tmp_pack_x").exists());
        assert!(repo.join("objects/pack/pack-x.keep").exists());
    }
}
