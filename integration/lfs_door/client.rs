//! git with git-lfs as a client: a home of its own with git-lfs set up in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sha2::Digest;

use crate::git_door::{both, git};

/// Bytes that nothing else has.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    getrandom::fill(&mut bytes).expect("chance");
    bytes
}

/// The name of an object.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(bytes))
}

pub(crate) struct Client(tempfile::TempDir);

impl Client {
    pub(crate) fn new() -> Self {
        let client = Self(tempfile::tempdir().expect("tempdir"));
        let out = client.run(&client.home(), &["lfs", "install", "--skip-repo"]);
        let said = both(&out);
        assert!(
            out.status.success(),
            "git-lfs is not here; packaging/setup.sh --for-tests installs it: {said}"
        );
        client
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.0.path().to_owned()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, dir: &Path, words: &[&str]) -> Command {
        let mut c = git(dir, words);
        c.env("HOME", self.0.path())
            .env("GIT_SSL_NO_VERIFY", "1")
            .env("GIT_LFS_SKIP_PROGRESS", "1");
        c
    }

    pub(crate) fn run(&self, dir: &Path, words: &[&str]) -> Output {
        self.command(dir, words).output().expect("git runs")
    }

    /// What a success printed.
    pub(crate) fn ok(&self, dir: &Path, words: &[&str]) -> String {
        let out = self.run(dir, words);
        assert!(out.status.success(), "git {words:?}: {}", both(&out));
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        said.trim_end().to_owned()
    }

    /// All that a success printed.
    pub(crate) fn both(&self, dir: &Path, words: &[&str]) -> String {
        let out = self.run(dir, words);
        assert!(out.status.success(), "git {words:?}: {}", both(&out));
        both(&out)
    }

    /// What a failure printed.
    pub(crate) fn fails(&self, dir: &Path, words: &[&str]) -> String {
        let out = self.run(dir, words);
        let said = both(&out);
        assert!(!out.status.success(), "git {words:?} succeeded: {said}");
        said
    }

    /// What a success printed, with all that it sent and got.
    pub(crate) fn traced(&self, dir: &Path, words: &[&str]) -> String {
        let mut c = self.command(dir, words);
        c.env("GIT_TRACE", "1").env("GIT_CURL_VERBOSE", "1");
        let out = c.output().expect("git runs");
        let said = both(&out);
        assert!(out.status.success(), "git {words:?}: {said}");
        said
    }

    /// A new repository, in which `*.bin` are large files.
    pub(crate) fn repo(&self, name: &str) -> PathBuf {
        let dir = self.path(name);
        std::fs::create_dir(&dir).expect("made");
        self.ok(&dir, &["init", "-q"]);
        self.ok(&dir, &["lfs", "install", "--local"]);
        self.ok(&dir, &["lfs", "track", "*.bin"]);
        dir
    }

    pub(crate) fn commit(&self, repo: &Path, message: &str) {
        self.ok(repo, &["add", "-A"]);
        self.ok(repo, &["commit", "-q", "-m", message]);
    }
}
