//! Real nodes for tests: the `cellfs` program, each with a state directory and a folder.
//!
//! A [`Lab`] owns the nodes of one test. It ends them all and takes their mounts off, also when
//! the test fails; and it kills them when the test takes too long, which frees whatever waits
//! on a mount of theirs.

// Two test programs use it, neither all of it.
#![allow(dead_code)]

// Paths, because this file is found by a path too.
#[path = "harness/account.rs"]
pub(crate) mod account;
#[path = "harness/copies.rs"]
pub(crate) mod copies;
#[path = "harness/edits.rs"]
pub(crate) mod edits;
#[path = "harness/git.rs"]
pub(crate) mod git;
#[path = "harness/tree.rs"]
pub(crate) mod tree;

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use cellfs::control::wire::{Status, Volume};
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

/// For what normally takes far less than a second.
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// A test that takes longer is ended.
const PATIENCE: Duration = Duration::from_secs(240);

/// The program under test, possibly another build of it.
pub(crate) fn program() -> PathBuf {
    std::env::var_os("CELLFS_TEST_PROGRAM")
        .map_or_else(|| env!("CARGO_BIN_EXE_cellfs").into(), PathBuf::from)
}

/// Whether to run tests with mounts. Fails when there is no FUSE and nobody said so.
pub(crate) fn fuse() -> bool {
    if std::env::var_os("CELLFS_NO_FUSE").is_some_and(|v| v == "1") {
        eprintln!("skipped: CELLFS_NO_FUSE=1");
        return false;
    }
    assert!(
        Path::new("/dev/fuse").exists(),
        "this machine has no /dev/fuse; CELLFS_NO_FUSE=1 skips the tests that need it"
    );
    true
}

/// A program that tests need. Fails when it is not here.
pub(crate) fn tool(name: &str) -> PathBuf {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let ours = home.map(|h| h.join("bin").join(name));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut all = std::env::split_paths(&path).map(|d| d.join(name));
    let found = ours
        .filter(|p| p.exists())
        .or_else(|| all.find(|p| p.exists()));
    found.unwrap_or_else(|| panic!("{name} is not installed: packaging/setup.sh --for-tests"))
}

/// How often something is to be repeated: a default, or what an environment variable says.
pub(crate) fn rounds(variable: &str, default: usize) -> usize {
    std::env::var(variable)
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(default)
}

/// Waits until `what` holds; fails with what `otherwise` says.
pub(crate) fn wait_until(
    within: Duration,
    mut what: impl FnMut() -> bool,
    otherwise: impl FnOnce() -> String,
) -> Duration {
    let begin = Instant::now();
    loop {
        if what() {
            return begin.elapsed();
        }
        assert!(
            begin.elapsed() < within,
            "not within {within:?}: {}",
            otherwise()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs a command and fails unless it succeeds; its standard output.
pub(crate) fn run(command: &mut Command) -> String {
    let out = command.stdin(Stdio::null()).output().expect("it starts");
    assert!(
        out.status.success(),
        "{command:?}: {}\n{}{}",
        out.status,
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// A port that is free for UDP and TCP now. Below the range from which the system hands out
/// ports, so that no connection takes it while a node is down.
pub(crate) fn free_port() -> u16 {
    loop {
        let n = getrandom::u32().expect("randomness");
        let port = 12_000 + u16::try_from(n % 18_000).expect("small");
        let at = (Ipv4Addr::LOCALHOST, port);
        if TcpListener::bind(at).is_ok() && UdpSocket::bind(at).is_ok() {
            return port;
        }
    }
}

/// What runs, to be ended whatever happens.
#[derive(Debug, Default)]
struct Running {
    pids: Vec<u32>,
    dirs: Vec<PathBuf>,
}

/// The nodes of one test, and a directory for them.
#[derive(Debug)]
pub(crate) struct Lab {
    home: TempDir,
    running: Arc<Mutex<Running>>,
    done: Arc<AtomicBool>,
    logs: Mutex<Vec<PathBuf>>,
}

impl Lab {
    pub(crate) fn new() -> Self {
        Self::with_patience(PATIENCE)
    }

    pub(crate) fn with_patience(patience: Duration) -> Self {
        let running = Arc::new(Mutex::new(Running::default()));
        let done = Arc::new(AtomicBool::new(false));
        let (r, d) = (running.clone(), done.clone());
        std::thread::spawn(move || {
            let end = Instant::now() + patience;
            while Instant::now() < end {
                std::thread::sleep(Duration::from_millis(100));
                if d.load(Ordering::Relaxed) {
                    return;
                }
            }
            eprintln!("this test took more than {patience:?}: its nodes are killed");
            end_all(&r);
        });
        let home = tempfile::Builder::new()
            .prefix("cellfs-test-")
            .tempdir()
            .expect("a temporary directory");
        Self {
            home,
            running,
            done,
            logs: Mutex::default(),
        }
    }

    /// A directory that lives as long as the test.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// A new empty directory.
    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        let dir = self.path(name);
        std::fs::create_dir_all(&dir).expect("made");
        dir
    }

    /// A node that is not started yet.
    pub(crate) fn node(&self, name: &str) -> Setup {
        let log = self.path(&format!("{name}.log"));
        self.logs.lock().expect("unpoisoned").push(log.clone());
        let dir = self.dir(&format!("{name}.mnt"));
        self.running
            .lock()
            .expect("unpoisoned")
            .dirs
            .push(dir.clone());
        Setup {
            name: name.to_owned(),
            state: self.path(&format!("{name}.state")),
            dir,
            log,
            program: program(),
            wrap: Vec::new(),
            words: Vec::new(),
            listen: format!("127.0.0.1:{}", free_port()),
            join: None,
            mount: true,
            running: self.running.clone(),
        }
    }

    /// Starts a node with a folder, the first of a cell.
    pub(crate) fn first(&self, name: &str) -> Node {
        self.node(name).start()
    }

    /// `n` nodes of one cell.
    pub(crate) fn cell(&self, n: usize) -> Vec<Node> {
        let first = self.first("n1");
        let ticket = first.invite(n);
        let mut nodes = vec![first];
        let waiting: Vec<_> = (2..=n)
            .map(|i| self.node(&format!("n{i}")).join(&ticket).begin())
            .collect();
        nodes.extend(waiting.into_iter().map(Starting::ready));
        nodes
    }

    /// Ends a node in the background with the test, too; its process.
    pub(crate) fn adopt(&self, state: &Path) -> u32 {
        let pid = status(state).pid;
        self.running.lock().expect("unpoisoned").pids.push(pid);
        pid
    }

    /// Kills a node that was adopted, and waits until it is gone.
    pub(crate) fn kill(&self, pid: u32) {
        kill_9(pid);
        let gone = || !Path::new(&format!("/proc/{pid}")).exists();
        wait_until(SOON, gone, || format!("{pid} is still there"));
        let mut running = self.running.lock().expect("unpoisoned");
        running.pids.retain(|p| *p != pid);
    }

    /// Watches one more folder, to be unmounted at the end.
    pub(crate) fn mount_point(&self, name: &str) -> PathBuf {
        let dir = self.dir(name);
        self.running
            .lock()
            .expect("unpoisoned")
            .dirs
            .push(dir.clone());
        dir
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        end_all(&self.running);
        if std::thread::panicking() {
            if std::env::var_os("CELLFS_TEST_KEEP").is_some_and(|v| v == "1") {
                self.home.disable_cleanup(true);
            }
            for log in self.logs.lock().expect("unpoisoned").iter() {
                let text = std::fs::read(log).unwrap_or_default();
                let text = String::from_utf8_lossy(&text);
                let lines: Vec<&str> = text.lines().collect();
                let tail = lines.get(lines.len().saturating_sub(40)..).unwrap_or(&[]);
                eprintln!("---- {}\n{}", log.display(), tail.join("\n"));
            }
        }
    }
}

fn end_all(running: &Mutex<Running>) {
    let Ok(running) = running.lock() else { return };
    for pid in &running.pids {
        kill_9(*pid);
    }
    for dir in &running.dirs {
        while rustix::mount::unmount(dir, UnmountFlags::DETACH).is_ok() {}
    }
}

fn kill_9(pid: u32) {
    send(pid, Signal::KILL);
}

fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// How to start a node.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) name: String,
    pub(crate) state: PathBuf,
    pub(crate) dir: PathBuf,
    log: PathBuf,
    program: PathBuf,
    wrap: Vec<OsString>,
    words: Vec<OsString>,
    listen: String,
    join: Option<String>,
    mount: bool,
    running: Arc<Mutex<Running>>,
}

impl Setup {
    /// Joins a cell.
    pub(crate) fn join(mut self, ticket: &str) -> Self {
        self.join = Some(ticket.to_owned());
        self
    }

    /// Another address and port.
    pub(crate) fn listen(mut self, at: &str) -> Self {
        at.clone_into(&mut self.listen);
        self
    }

    /// Without a folder.
    pub(crate) fn serve(mut self) -> Self {
        self.mount = false;
        self
    }

    /// More words for the command line.
    pub(crate) fn words<S: Into<OsString>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.words.extend(words.into_iter().map(Into::into));
        self
    }

    /// Another build of the program.
    pub(crate) fn program(mut self, program: PathBuf) -> Self {
        self.program = program;
        self
    }

    /// A program that runs the node, as `strace` or `nsenter` do.
    pub(crate) fn under<S: Into<OsString>>(mut self, wrap: impl IntoIterator<Item = S>) -> Self {
        self.wrap = wrap.into_iter().map(Into::into).collect();
        self
    }

    /// Starts the node and waits until its folder answers.
    pub(crate) fn start(self) -> Node {
        self.begin().ready()
    }

    /// Starts the node and does not wait.
    pub(crate) fn begin(self) -> Starting {
        let mut line = self.wrap.clone();
        line.push(self.program.clone().into());
        line.push(if self.mount { "mount" } else { "serve" }.into());
        line.extend(["-f".into(), "--state".into(), self.state.clone().into()]);
        line.extend(["--name".into(), self.name.clone().into()]);
        line.extend(["--listen".into(), self.listen.clone().into()]);
        if let Some(ticket) = &self.join {
            line.extend(["--join".into(), ticket.into()]);
        }
        line.extend(self.words.iter().cloned());
        if self.mount {
            line.push(self.dir.clone().into());
        }
        let log = File::options()
            .append(true)
            .create(true)
            .open(&self.log)
            .expect("a log");
        let (first, rest) = line.split_first().expect("a program");
        let mut child = Command::new(first)
            .args(rest)
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("it starts");
        self.running
            .lock()
            .expect("unpoisoned")
            .pids
            .push(child.id());
        let out = BufReader::new(child.stdout.take().expect("piped"));
        let (told, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in out.lines() {
                let Ok(line) = line else { return };
                if told.send(line).is_err() {
                    return;
                }
            }
        });
        Starting {
            setup: self,
            child,
            lines,
        }
    }
}

/// A node that was started and perhaps is not ready.
#[derive(Debug)]
pub(crate) struct Starting {
    setup: Setup,
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Starting {
    /// Waits until the node said all it says when it is ready, its git URL last.
    pub(crate) fn ready(self) -> Node {
        let name = self.setup.name.clone();
        self.try_ready()
            .unwrap_or_else(|e| panic!("node {name} did not start: {e}"))
    }

    /// As [`Self::ready`]; how it ended, if it ended first.
    pub(crate) fn try_ready(mut self) -> Result<Node, String> {
        let end = Instant::now() + Duration::from_secs(60);
        let mut said = Vec::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    let last = line.starts_with("git ");
                    said.push(line);
                    if last {
                        break;
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => return Err("too slow".to_owned()),
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait().expect("a child");
                    return Err(status.to_string());
                }
            }
        }
        let mut setup = self.setup;
        // Members know one another by now; the ticket is used.
        setup.join = None;
        let pid = if setup.wrap.is_empty() {
            self.child.id()
        } else {
            match ask_status(&setup.state) {
                Ok(status) => status.pid,
                // It may have ended since.
                Err(e) => {
                    let ended = self.child.wait().expect("a child");
                    return Err(format!("{ended}, and {e}"));
                }
            }
        };
        let mut running = setup.running.lock().expect("unpoisoned");
        running.pids.push(pid);
        drop(running);
        let id = said
            .iter()
            .find_map(|l| l.strip_prefix("node "))
            .unwrap_or_default()
            .to_owned();
        Ok(Node {
            setup,
            child: self.child,
            pid,
            id,
            said,
        })
    }

    /// Waits for the end of a node that ends by itself; its exit code.
    pub(crate) fn end(mut self) -> Option<i32> {
        self.child.wait().expect("a child").code()
    }

    /// Where it writes its log.
    pub(crate) fn log_path(&self) -> PathBuf {
        self.setup.log.clone()
    }
}

fn ask_status(state: &Path) -> Result<Status, String> {
    let out = cellfs(state, &["status", "--json"]);
    serde_json::from_slice(&out.stdout).map_err(|e| format!("{e}: {out:?}"))
}

fn status(state: &Path) -> Status {
    ask_status(state).unwrap_or_else(|e| panic!("{e}"))
}

/// Runs a command of `cellfs` on a state directory.
pub(crate) fn cellfs(state: &Path, words: &[&str]) -> Output {
    Command::new(program())
        .args(words)
        .env("CELLFS_STATE", state)
        .stdin(Stdio::null())
        .output()
        .expect("it starts")
}

/// A node that runs.
#[derive(Debug)]
pub(crate) struct Node {
    setup: Setup,
    child: Child,
    pid: u32,
    /// Its id.
    pub(crate) id: String,
    /// The lines that it printed when it was ready.
    pub(crate) said: Vec<String>,
}

impl Node {
    /// A path in its folder.
    pub(crate) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.setup.dir.join(path)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.setup.dir
    }

    pub(crate) fn state(&self) -> &Path {
        &self.setup.state
    }

    pub(crate) fn name(&self) -> &str {
        &self.setup.name
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.setup.log).unwrap_or_default()
    }

    /// The bare repository of a volume.
    pub(crate) fn repo(&self, volume: &str) -> PathBuf {
        self.state().join("volumes").join(volume).join("git")
    }

    /// Runs a command on it, whatever comes of it.
    pub(crate) fn try_ask(&self, words: &[&str]) -> Output {
        cellfs(&self.setup.state, words)
    }

    /// Runs a command on it that must succeed; what it printed.
    pub(crate) fn ask(&self, words: &[&str]) -> String {
        let out = self.try_ask(words);
        assert!(
            out.status.success(),
            "cellfs {words:?} on {}: {out:?}",
            self.name()
        );
        String::from_utf8(out.stdout)
            .expect("UTF-8")
            .trim_end()
            .to_owned()
    }

    /// A ticket for so many nodes.
    pub(crate) fn invite(&self, uses: usize) -> String {
        self.ask(&["invite", "--uses", &uses.max(1).to_string()])
    }

    /// A git URL that may push.
    pub(crate) fn url(&self, volume: &str) -> String {
        self.ask(&["url", "--write", "--volume", volume])
    }

    pub(crate) fn status(&self) -> Status {
        status(&self.setup.state)
    }

    /// The volume `cell` as `status` has it.
    pub(crate) fn cell(&self) -> Volume {
        self.volume("cell")
    }

    pub(crate) fn volume(&self, name: &str) -> Volume {
        let all = self.status().volumes;
        all.into_iter().find(|v| v.name == name).unwrap_or_default()
    }

    pub(crate) fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.at(path), bytes)
            .unwrap_or_else(|e| panic!("{}:{path}: {e}", self.name()));
    }

    pub(crate) fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.at(path))
            .unwrap_or_else(|e| panic!("{}:{path}: {e}", self.name()))
    }

    /// Whether a file holds these bytes.
    pub(crate) fn has(&self, path: &str, bytes: &str) -> bool {
        std::fs::read(self.at(path)).is_ok_and(|b| b == bytes.as_bytes())
    }

    /// Waits until a file holds these bytes.
    pub(crate) fn wait_for(&self, path: &str, bytes: &str) {
        wait_until(
            SOON,
            || self.has(path, bytes),
            || {
                let is = std::fs::read_to_string(self.at(path));
                let is = is.map(|s| s.chars().take(200).collect::<String>());
                format!("{path} on {} is {is:?}", self.name())
            },
        );
    }

    /// Waits until a path is not there.
    pub(crate) fn wait_gone(&self, path: &str) {
        wait_until(
            SOON,
            || self.at(path).symlink_metadata().is_err(),
            || format!("{path} is still on {}", self.name()),
        );
    }

    /// Waits until all that was written is in commits.
    pub(crate) fn settled(&self) {
        wait_until(
            SOON,
            || self.status().volumes.iter().all(|v| v.dirty == 0),
            || format!("{} is dirty: {:?}", self.name(), self.cell()),
        );
    }

    /// Kills the node at once and leaves its dead mount.
    pub(crate) fn kill(mut self) -> Setup {
        kill_9(self.pid);
        self.child.wait().expect("a child");
        self.forget();
        self.setup
    }

    /// Ends the node, which may have died already; whether it ended in order.
    pub(crate) fn end(mut self) -> bool {
        send(self.pid, Signal::TERM);
        let status = self.child.wait().expect("a child");
        self.forget();
        status.success()
    }

    /// Ends the node in order.
    pub(crate) fn stop(mut self) -> Setup {
        send(self.pid, Signal::TERM);
        let status = self.child.wait().expect("a child");
        self.forget();
        assert!(
            status.success(),
            "{} ended with {status}\n{}",
            self.setup.name,
            self.log()
        );
        self.setup
    }

    /// CPU seconds that it used.
    pub(crate) fn cpu(&self) -> f64 {
        cpu_seconds(self.pid)
    }

    /// Memory in use, and its peak, in MiB.
    pub(crate) fn memory_mib(&self) -> (u64, u64) {
        memory_mib(self.pid)
    }

    /// Its pid may belong to somebody else from now on.
    fn forget(&self) {
        let mut running = self.setup.running.lock().expect("unpoisoned");
        running
            .pids
            .retain(|p| *p != self.pid && *p != self.child.id());
    }
}

/// CPU seconds of a process so far, with its ended children.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = stat.rsplit_once(") ").map_or("", |(_, r)| r);
    let ticks: u32 = rest
        .split(' ')
        .skip(11)
        .take(4)
        .filter_map(|n| n.parse::<u32>().ok())
        .sum();
    f64::from(ticks) / 100.0
}

/// Memory in use of a process, and its peak, in MiB.
pub(crate) fn memory_mib(pid: u32) -> (u64, u64) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let of = |key: &str| {
        text.lines()
            .find_map(|l| l.strip_prefix(key))
            .and_then(|v| v.trim().trim_end_matches(" kB").parse::<u64>().ok())
            .unwrap_or(0)
            / 1024
    };
    (of("VmRSS:"), of("VmHWM:"))
}

/// Waits until all nodes show the same commit of a volume and have nothing left to do.
pub(crate) fn agree(nodes: &[&Node], volume: &str, within: Duration) -> Duration {
    let mut last = Vec::new();
    let begin = Instant::now();
    loop {
        last.clear();
        last.extend(nodes.iter().map(|n| n.volume(volume)));
        let same = last
            .iter()
            .all(|v| v.view.is_some() && v.view == last[0].view && v.dirty == 0 && v.behind == 0);
        if same {
            return begin.elapsed();
        }
        assert!(
            begin.elapsed() < within,
            "no agreement within {within:?}:\n{}",
            last.iter()
                .zip(nodes)
                .map(|(v, n)| format!(
                    "{}: view {:?} dirty {} behind {} heads {:?}",
                    n.name(),
                    v.view,
                    v.dirty,
                    v.behind,
                    v.heads
                        .iter()
                        .map(|h| (&h.node[..6], h.seq, &h.id[..8]))
                        .collect::<Vec<_>>()
                ))
                .collect::<Vec<_>>()
                .join("\n")
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
