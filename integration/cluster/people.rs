//! People who edit in a node's folder and push to its git door.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::harness::Node;
use crate::harness::edits::{ALL, Edit, Ledger, Rng, Writer, files};
use crate::harness::git;

/// Above so many files more are removed than made.
const FILES: usize = 60;
const DIRS: usize = 10;
/// Above so many copies they are cleared away now and then.
const COPIES: usize = 10;

/// Somebody at one node.
#[derive(Debug)]
pub(super) struct Person<'a> {
    writer: Writer<'a>,
    name: String,
    dir: PathBuf,
    url: String,
    clone: PathBuf,
    inside: [OsString; 2],
}

impl<'a> Person<'a> {
    pub(super) fn new(
        ledger: &'a Ledger,
        node: &Node,
        clone: PathBuf,
        inside: [OsString; 2],
        seed: u64,
    ) -> Self {
        let id: u16 = node.name()[1..].parse().expect("a number");
        Self {
            writer: Writer::new(ledger, id, 0, seed),
            name: node.name().to_owned(),
            dir: node.dir().to_owned(),
            url: node.url("cell"),
            clone,
            inside,
        }
    }

    fn rng(&mut self) -> &mut Rng {
        &mut self.writer.rng
    }

    /// Thinks before the next edit.
    pub(super) fn rest(&mut self) {
        let ms = self.rng().below(1_000) as u64;
        std::thread::sleep(Duration::from_millis(ms));
    }

    /// Does one thing. What fails is in the ledger as such.
    pub(super) fn act(&mut self) {
        let files = self.plain();
        let dirs = self.dirs();
        let dice = self.rng().below(100);
        let file = self.pick(&files);
        let dir = self.pick(&dirs).unwrap_or_else(|| self.dir.clone());
        let crowded = files.len() > FILES;
        let copies: Vec<PathBuf> = files.iter().filter(|f| is_copy(f)).cloned().collect();
        let done = match (dice, file) {
            (0..=1, _) => self.push(),
            (2..=40, _) if copies.len() > COPIES => match self.pick(&copies) {
                Some(copy) => self.writer.remove(&copy),
                None => Ok(()),
            },
            (2..=4, _) => self.directory(&dirs, &dir),
            (5..=12, None) | (5..=9, Some(_)) if !crowded => {
                let path = dir.join(self.name());
                self.writer.create(&path)
            }
            (5..=9, Some(file)) => self.writer.remove(&file),
            (10..=11, Some(file)) => self.writer.remove(&file),
            (12..=14, Some(file)) => {
                let to = dir.join(self.name());
                self.writer.rename(&file, &to)
            }
            (15, Some(file)) => match self.pick(&files) {
                Some(to) if to != file => self.writer.rename(&file, &to),
                _ => Ok(()),
            },
            (_, Some(file)) => {
                let how = ALL[self.rng().below(ALL.len())];
                self.writer.edit(&file, how)
            }
            (_, None) => Ok(()),
        };
        // The ledger has it; a folder that died is nobody's to wait for.
        if done.is_err() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn pick(&mut self, from: &[PathBuf]) -> Option<PathBuf> {
        let at = self.rng().below(from.len());
        from.get(at).cloned()
    }

    /// A new name, also one that somebody else may think of.
    fn name(&mut self) -> String {
        let n = self.rng().below(40);
        format!("{}{n}.txt", ["note", "list", "plan"][n % 3])
    }

    fn plain(&self) -> Vec<PathBuf> {
        let hidden = |p: &Path| {
            let name = p.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with('.') || name == "README"
        };
        let all = files(&self.dir).into_iter();
        all.filter(|p| !hidden(p)).collect()
    }

    /// The directories, the folder itself first.
    fn dirs(&self) -> Vec<PathBuf> {
        let mut found = vec![self.dir.clone()];
        let mut at = 0;
        while let Some(dir) = found.get(at).cloned() {
            at += 1;
            let Ok(entries) = fs::read_dir(dir) else {
                continue;
            };
            for e in entries.filter_map(Result::ok) {
                if e.file_type().is_ok_and(|t| t.is_dir()) {
                    found.push(e.path());
                }
            }
        }
        found
    }

    /// Makes, moves or removes a directory.
    fn directory(&mut self, dirs: &[PathBuf], into: &Path) -> io::Result<()> {
        let name = format!("dir{}", self.rng().below(12));
        let to = into.join(name);
        let dice = self.rng().below(3);
        let Some(dir) = self.pick(dirs).filter(|d| *d != self.dir) else {
            return note(&mut self.writer, "mkdir", &to, fs::create_dir(&to));
        };
        if dirs.len() > DIRS || dice == 0 {
            for file in files(&dir) {
                self.writer.remove(&file)?;
            }
            return note(&mut self.writer, "rmdir", &dir, fs::remove_dir(&dir));
        }
        if dice == 1 {
            return note(&mut self.writer, "mkdir", &to, fs::create_dir(&to));
        }
        note(&mut self.writer, "mvdir", &to, fs::rename(&dir, &to))
    }

    fn git(&self, words: &[&str]) -> io::Result<()> {
        let plain = git::command(&self.clone, words);
        let mut c = Command::new("nsenter");
        c.args(self.inside.get(1..).expect("a namespace"))
            .arg("git")
            .args(plain.get_args());
        for (key, value) in plain.get_envs() {
            c.env(key, value.unwrap_or_default());
        }
        let out = c.output()?;
        if out.status.success() {
            return Ok(());
        }
        Err(io::Error::other(
            String::from_utf8_lossy(&out.stderr).into_owned(),
        ))
    }

    /// Edits a few files of a clone and pushes that.
    fn push(&mut self) -> io::Result<()> {
        if !self.clone.join(".git").is_dir() {
            fs::create_dir_all(&self.clone)?;
            let url = self.url.clone();
            let made = self
                .git(&["init", "-q", "-b", "main"])
                .and_then(|()| self.git(&["config", "gc.autoDetach", "false"]))
                .and_then(|()| self.git(&["remote", "add", "origin", &url]));
            made?;
        }
        let pulled = self
            .git(&["fetch", "-q", "origin", "main"])
            .and_then(|()| self.git(&["reset", "-q", "--hard", "FETCH_HEAD"]))
            .and_then(|()| self.git(&["clean", "-qfdx"]));
        let path = self.clone.clone();
        note(&mut self.writer, "pull", &path, pulled)?;
        let known: Vec<PathBuf> = files(&path)
            .into_iter()
            .filter(|p| !p.components().any(|c| c.as_os_str() == ".git"))
            .filter(|p| p.file_name().is_some_and(|n| n != "README"))
            .collect();
        let mut edits: Vec<Edit> = Vec::new();
        for _ in 0..=self.rng().below(3) {
            match self.pick(&known) {
                Some(p) if self.rng().percent(80) => edits.push(self.writer.edit_outside(&p)?),
                _ => {
                    let p = path.join(self.name());
                    if !p.exists() {
                        edits.push(self.writer.create_outside(&p)?);
                    }
                }
            }
        }
        let pushed = self
            .git(&["add", "-A"])
            .and_then(|()| self.git(&["commit", "-q", "--allow-empty", "-m", "by git"]))
            .and_then(|()| self.git(&["push", "-q", "origin", "HEAD:main"]));
        if let Err(e) = &pushed {
            eprintln!("push to {}: {e}", self.name);
        }
        for e in &edits {
            let done = pushed.as_ref().map(|()| true);
            let done = done.map_err(|e| io::Error::new(e.kind(), e.to_string()));
            let _ = self.writer.enter("push", &path, e, done);
        }
        pushed
    }
}

fn is_copy(path: &Path) -> bool {
    path.to_string_lossy().contains(".conflict-")
}

/// Enters what takes no line away.
fn note(writer: &mut Writer<'_>, what: &str, path: &Path, done: io::Result<()>) -> io::Result<()> {
    writer.enter(what, path, &Edit::default(), done.map(|()| true))
}
