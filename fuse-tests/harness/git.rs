//! Stock git, as people use it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::run;

/// `git`, untouched by this user's configuration.
pub(crate) fn command(dir: &Path, words: &[&str]) -> Command {
    let mut c = Command::new("git");
    c.arg("-C")
        .arg(dir)
        .args(words)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_AUTHOR_NAME", "A U Thor")
        .env("GIT_AUTHOR_EMAIL", "author@example.invalid")
        .env("GIT_COMMITTER_NAME", "C O Mitter")
        .env("GIT_COMMITTER_EMAIL", "committer@example.invalid")
        .stdin(Stdio::null());
    c
}

/// Runs git, which must succeed; what it printed, without the last line's end.
pub(crate) fn git(dir: &Path, words: &[&str]) -> String {
    run(&mut command(dir, words)).trim_end().to_owned()
}

/// Runs git, whatever comes of it.
pub(crate) fn try_git(dir: &Path, words: &[&str]) -> Output {
    command(dir, words).output().expect("git starts")
}

/// A new repository with branch `main`.
pub(crate) fn init(dir: PathBuf) -> PathBuf {
    std::fs::create_dir_all(&dir).expect("made");
    git(&dir, &["init", "-q", "-b", "main"]);
    dir
}

/// Commits all that is in the working tree; the commit's id.
pub(crate) fn commit_all(dir: &Path, message: &str) -> String {
    git(dir, &["add", "-A"]);
    git(dir, &["commit", "-q", "-m", message]);
    git(dir, &["rev-parse", "HEAD"])
}

/// Fails unless a node's repository is as stock git wants it.
pub(crate) fn fsck(repo: &Path) {
    let out = try_git(repo, &["fsck", "--strict", "--full", "--no-dangling"]);
    let said = String::from_utf8_lossy(&out.stderr);
    let told = String::from_utf8_lossy(&out.stdout);
    let bad = said
        .lines()
        .chain(told.lines())
        .any(|l| l.starts_with("error") || l.starts_with("missing") || l.starts_with("broken"));
    assert!(
        out.status.success() && !bad,
        "{}: {}\n{told}{said}",
        repo.display(),
        out.status
    );
}

/// Fails unless two repositories have the same value for a ref.
pub(crate) fn rev(repo: &Path, name: &str) -> Option<String> {
    let out = try_git(repo, &["rev-parse", "--verify", "--quiet", name]);
    out.status
        .success()
        .then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
}
