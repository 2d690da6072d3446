//! A host for the git door: a plain bare repository for each volume, two fixed tokens.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use cellfs::base::id::VolumeName;
use cellfs::doors::git::{Access, GitDoor, GitHost, GitRefusal, RefUpdate, repo};
use cellfs::doors::http::{self, Pages, Site};
use cellfs::doors::lfs::LfsDoor;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

pub(crate) const READ: &str = "read-token";
pub(crate) const WRITE: &str = "write-token";

#[derive(Clone, Debug)]
pub(crate) struct Pushed {
    pub(crate) updates: Vec<RefUpdate>,
    pub(crate) atomic: bool,
}

pub(crate) struct Host {
    pub(crate) dir: PathBuf,
    /// Whether no large file finds room.
    pub(crate) is_full: AtomicBool,
    hand_outs: AtomicUsize,
    pushes: Mutex<Vec<Pushed>>,
    refused: Mutex<Option<String>>,
    veto: Mutex<Option<String>>,
}

impl Host {
    pub(crate) fn pushes(&self) -> Vec<Pushed> {
        self.pushes.lock().expect("lock").clone()
    }

    pub(crate) fn handed_out(&self) -> usize {
        self.hand_outs.load(Ordering::SeqCst)
    }

    pub(crate) fn refuse(&self, name: &str) {
        *self.refused.lock().expect("lock") = Some(name.to_owned());
    }

    pub(crate) fn veto(&self, why: &str) {
        *self.veto.lock().expect("lock") = Some(why.to_owned());
    }

    fn path(&self, volume: &VolumeName) -> PathBuf {
        self.dir.join(format!("{volume}.git"))
    }

    fn judge(&self, repo: &Path, u: &RefUpdate) -> Result<(), String> {
        if self.refused.lock().expect("lock").as_deref() == Some(&u.name) {
            return Err("not this one".to_owned());
        }
        let mut c = Command::new("git");
        c.env("GIT_DIR", repo).stderr(Stdio::null());
        match u.new {
            Some(id) => c.args(["update-ref", &u.name, &id.to_string()]),
            None => c.args(["update-ref", "-d", &u.name]),
        };
        match c.status() {
            Ok(s) if s.success() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }
}

#[async_trait]
impl GitHost for Host {
    async fn access(&self, token: &str) -> Access {
        match token {
            READ => Access::Read,
            WRITE => Access::Write,
            _ => Access::None,
        }
    }

    async fn repo(&self, volume: &VolumeName, create: bool) -> Result<PathBuf, GitRefusal> {
        let path = self.path(volume);
        if create {
            let cellfs = Path::new(env!("CARGO_BIN_EXE_cellfs"));
            repo::create(&path, cellfs).map_err(|e| GitRefusal::Failed(e.to_string()))?;
        } else if !path.exists() {
            return Err(GitRefusal::NotFound(volume.clone()));
        }
        Ok(path)
    }

    async fn hand_out(&self, _: &VolumeName) -> Result<(), GitRefusal> {
        self.hand_outs.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn vet(&self, _: &VolumeName, _: &[RefUpdate]) -> Result<(), String> {
        self.veto.lock().expect("lock").clone().map_or(Ok(()), Err)
    }

    async fn push(
        &self,
        volume: &VolumeName,
        updates: Vec<RefUpdate>,
        atomic: bool,
    ) -> Vec<Result<(), String>> {
        let repo = self.path(volume);
        let refused = self.refused.lock().expect("lock").clone();
        let hit = updates.iter().any(|u| Some(&u.name) == refused.as_ref());
        let verdicts = if atomic && hit {
            updates
                .iter()
                .map(|_| Err("not this one".to_owned()))
                .collect()
        } else if updates.len() > 100 {
            many(&repo, &updates)
        } else {
            updates.iter().map(|u| self.judge(&repo, u)).collect()
        };
        let mut pushes = self.pushes.lock().expect("lock");
        pushes.push(Pushed { updates, atomic });
        verdicts
    }
}

fn many(repo: &Path, updates: &[RefUpdate]) -> Vec<Result<(), String>> {
    use std::io::Write;
    let mut child = Command::new("git")
        .args(["-c", "core.fsync=none", "update-ref", "--stdin"])
        .env("GIT_DIR", repo)
        .stdin(Stdio::piped())
        .spawn()
        .expect("git runs");
    let mut stdin = child.stdin.take().expect("piped");
    for u in updates {
        let new = u.new.expect("no deletions in bulk");
        writeln!(stdin, "update {} {new}", u.name).expect("fed");
    }
    drop(stdin);
    assert!(child.wait().expect("waited").success());
    updates.iter().map(|_| Ok(())).collect()
}

#[async_trait]
impl Pages for Host {
    fn node(&self) -> serde_json::Value {
        serde_json::json!({ "node": "abc" })
    }

    async fn status(&self) -> serde_json::Value {
        serde_json::json!({ "pid": 1 })
    }

    async fn may_read(&self, token: &str) -> bool {
        self.access(token).await >= Access::Read
    }
}

/// A host with its doors open on a port of this machine.
pub(crate) struct Served {
    pub(crate) addr: SocketAddr,
    pub(crate) host: Arc<Host>,
    stop: CancellationToken,
    serving: Option<tokio::task::JoinHandle<()>>,
    runtime: Runtime,
    _dir: tempfile::TempDir,
}

impl Served {
    pub(crate) fn start() -> Self {
        Self::start_with("127.0.0.1:0", |_| {})
    }

    /// On another address, with other settings.
    pub(crate) fn start_with(addr: &str, change: impl FnOnce(&mut Site)) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let host = Arc::new(Host {
            dir: dir.path().to_owned(),
            is_full: AtomicBool::new(false),
            hand_outs: AtomicUsize::new(0),
            pushes: Mutex::default(),
            refused: Mutex::default(),
            veto: Mutex::default(),
        });
        let runtime = Runtime::new().expect("runtime");
        let cellfs = Path::new(env!("CARGO_BIN_EXE_cellfs"));
        let stop = CancellationToken::new();
        let (addr, serving) = runtime.block_on(async {
            let door = GitDoor::open(host.clone(), &dir.path().join("door"), cellfs);
            let mut site = Site {
                pages: host.clone(),
                door: Arc::new(LfsDoor::before(Arc::new(door.expect("open")), host.clone())),
                tls: None,
                plain_http: false,
            };
            change(&mut site);
            let listener = http::bind(addr.parse().expect("an address"))
                .await
                .expect("bound");
            let addr = listener.local_addr().expect("bound");
            (
                addr,
                tokio::spawn(http::serve(listener, site, stop.clone())),
            )
        });
        Self {
            addr,
            host,
            stop,
            serving: Some(serving),
            runtime,
            _dir: dir,
        }
    }

    pub(crate) fn url(&self, token: &str, volume: &str) -> String {
        format!("http://cell:{token}@{}/{volume}.git", self.addr)
    }

    pub(crate) fn repo(&self, volume: &str) -> PathBuf {
        self.host.dir.join(format!("{volume}.git"))
    }

    pub(crate) fn repo_ref(&self, volume: &str, name: &str) -> Option<String> {
        let out = Command::new("git")
            .args(["rev-parse", "--verify", "--quiet", name])
            .env("GIT_DIR", self.repo(volume))
            .output()
            .expect("git runs");
        let id = String::from_utf8(out.stdout).expect("hex");
        out.status.success().then(|| id.trim().to_owned())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(serving) = self.serving.take() {
            let ended = self.runtime.block_on(serving);
            if !std::thread::panicking() {
                ended.expect("the server did not panic");
            }
        }
    }
}

/// Waits up to ten seconds.
pub(crate) fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is() {
        assert!(begin.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
