//! The main job, timed beside an rsync daemon and Syncthing: `packaging/bench.sh` runs it.

mod large;
mod one_reader;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::tree::{assert_rsync_same, copy, manifest, real_tree};
use crate::harness::{self, Lab, Node, agree, cpu_seconds, free_port, memory_mib, rounds, run};

/// What one program did.
#[derive(Debug)]
struct Figures {
    who: String,
    copy: Duration,
    all: Duration,
    cpu: f64,
    memory: u64,
    edits: Vec<Duration>,
}

#[test]
#[ignore = "takes minutes: packaging/bench.sh"]
fn beside_rsync_and_syncthing() {
    let lab = Lab::with_patience(Duration::from_secs(900));
    let tree = lab.path("tree");
    let files = real_tree(&tree, rounds("CELLFS_TEST_FILES", 5_000));
    let bytes: u64 = manifest(&tree)
        .keys()
        .map(|p| tree.join(p).symlink_metadata().map_or(0, |m| m.len()))
        .sum();
    println!("{files} files, {:.1} MB", bytes as f64 / 1e6);
    let mut all = vec![cellfs(&lab, &tree)];
    all.extend(rsync(&lab, &tree));
    all.extend(syncthing(&lab, &tree));
    print!("{}", table(&all));
}

fn at(sorted: &[Duration], percent: usize) -> f64 {
    let n = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(n).map_or(f64::NAN, |d| d.as_secs_f64() * 1e3)
}

fn table(all: &[Figures]) -> String {
    let mut out = format!(
        "{:<22}{:>8}{:>10}{:>8}{:>9}{:>8}{:>12}{:>10}\n",
        "", "cp s", "all s", "CPU s", "RSS MiB", "edits", "median ms", "p99 ms"
    );
    for f in all {
        let mut e = f.edits.clone();
        e.sort();
        let _ = writeln!(
            out,
            "{:<22}{:>8.2}{:>10.2}{:>8.2}{:>9}{:>8}{:>12.1}{:>10.1}",
            f.who,
            f.copy.as_secs_f64(),
            f.all.as_secs_f64(),
            f.cpu,
            f.memory,
            e.len(),
            at(&e, 50),
            at(&e, 99),
        );
    }
    let Some((ours, rivals)) = all.split_first() else {
        return out;
    };
    let mut mine = ours.edits.clone();
    mine.sort();
    for f in rivals {
        let mut e = f.edits.clone();
        e.sort();
        let _ = writeln!(
            out,
            "{} / cellfs: all there {:.2}, CPU {:.2}, median edit {:.1}",
            f.who,
            f.all.as_secs_f64() / ours.all.as_secs_f64(),
            f.cpu / ours.cpu,
            at(&e, 50) / at(&mine, 50)
        );
    }
    out
}

/// Waits, without sleeping long, until `path` holds `text`.
fn seen(path: &Path, text: &str) {
    let end = Instant::now() + Duration::from_secs(60);
    while std::fs::read(path).map_or(true, |b| b != text.as_bytes()) {
        assert!(Instant::now() < end, "{text} did not come");
        std::thread::sleep(Duration::from_micros(100));
    }
}

fn cellfs(lab: &Lab, tree: &Path) -> Figures {
    let nodes = lab.cell(2);
    let pair: Vec<&Node> = nodes.iter().collect();
    let cpu_before: f64 = nodes.iter().map(Node::cpu).sum();
    let begin = Instant::now();
    copy(tree, &nodes[0].at("tree"));
    let copied = begin.elapsed();
    agree(&pair, "cell", Duration::from_secs(300));
    let all = begin.elapsed();
    let cpu: f64 = nodes.iter().map(Node::cpu).sum::<f64>() - cpu_before;
    assert_rsync_same(tree, &nodes[1].at("tree"));
    let edits = (0..200)
        .map(|i| {
            let text = format!("edit {i}");
            let begin = Instant::now();
            nodes[0].write("tree/edited", &text);
            seen(&nodes[1].at("tree/edited"), &text);
            begin.elapsed()
        })
        .collect();
    Figures {
        who: "cellfs".to_owned(),
        copy: copied,
        all,
        cpu,
        memory: nodes.iter().map(|n| n.memory_mib().1).max().unwrap_or(0),
        edits,
    }
}

/// Ends a rival, whatever happens.
struct Rival(Child);

impl Drop for Rival {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn there(program: &str) -> bool {
    let out = Command::new(program).arg("--version").output();
    let there = out.is_ok_and(|o| o.status.success());
    if !there {
        println!("{program}: not installed, left out");
    }
    there
}

/// CPU seconds of this process's ended children.
fn children_cpu() -> f64 {
    let all = cpu_seconds(std::process::id());
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let rest = stat.rsplit_once(") ").map_or("", |(_, r)| r);
    let own: u32 = rest
        .split(' ')
        .skip(11)
        .take(2)
        .filter_map(|n| n.parse::<u32>().ok())
        .sum();
    all - f64::from(own) / 100.0
}

/// An rsync daemon, and what it is sent.
struct Daemon {
    child: Rival,
    port: u16,
    from: PathBuf,
    to: PathBuf,
}

impl Daemon {
    fn start(lab: &Lab) -> Option<Self> {
        if !there("rsync") {
            return None;
        }
        let (from, to) = (lab.dir("rsync.a"), lab.dir("rsync.b"));
        let port = free_port();
        let config = lab.path("rsyncd.conf");
        let text = format!(
            "use chroot = no\nmunge symlinks = no\nuid = {0}\ngid = {1}\n[b]\npath = {2}\nread only = no\n",
            rustix::process::getuid().as_raw(),
            rustix::process::getgid().as_raw(),
            to.display()
        );
        std::fs::write(&config, text).ok()?;
        let child = Command::new("rsync")
            .args(["--daemon", "--no-detach", "--address=127.0.0.1"])
            .arg(format!("--port={port}"))
            .arg(format!("--config={}", config.display()))
            .stdin(Stdio::null())
            .spawn()
            .ok()?;
        let child = Rival(child);
        std::thread::sleep(Duration::from_millis(500));
        let me = Self {
            child,
            port,
            from,
            to,
        };
        me.sync();
        Some(me)
    }

    fn sync(&self) {
        run(Command::new("rsync")
            .args(["-a", "--delete"])
            .arg(format!("{}/", self.from.display()))
            .arg(format!("rsync://127.0.0.1:{}/b/", self.port)));
    }
}

fn rsync(lab: &Lab, tree: &Path) -> Option<Figures> {
    let daemon = Daemon::start(lab)?;
    let (a, b) = (&daemon.from, &daemon.to);
    let begin = Instant::now();
    copy(tree, &a.join("tree"));
    let copied = begin.elapsed();
    let before = children_cpu() + cpu_seconds(daemon.child.0.id());
    daemon.sync();
    let all = begin.elapsed();
    std::thread::sleep(Duration::from_millis(100));
    let cpu = children_cpu() + cpu_seconds(daemon.child.0.id()) - before;
    assert_rsync_same(a, b);
    let edits = (0..50)
        .map(|i| {
            let text = format!("edit {i:04} {}", "x".repeat(i));
            let begin = Instant::now();
            std::fs::write(a.join("tree/edited"), &text).expect("written");
            daemon.sync();
            seen(&b.join("tree/edited"), &text);
            begin.elapsed()
        })
        .collect();
    Some(Figures {
        who: "rsync daemon".to_owned(),
        copy: copied,
        all,
        cpu,
        memory: memory_mib(daemon.child.0.id()).1,
        edits,
    })
}

const KEY: &str = "benchmark";

struct Syncthing {
    child: Rival,
    gui: u16,
    listen: u16,
    folder: PathBuf,
    id: String,
}

impl Syncthing {
    fn start(program: &str, lab: &Lab, name: &str) -> Self {
        let home = lab.dir(&format!("{name}.home"));
        let (gui, listen) = (free_port(), free_port());
        let log = std::fs::File::create(lab.path(&format!("{name}.log"))).expect("a log");
        let child = Command::new(program)
            .args(["serve", "--no-browser", "--no-restart"])
            .arg(format!("--home={}", home.display()))
            .arg(format!("--gui-address=127.0.0.1:{gui}"))
            .arg(format!("--gui-apikey={KEY}"))
            .env("STNOUPGRADE", "1")
            .env("STNODEFAULTFOLDER", "1")
            .env("HOME", &home)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a copy"))
            .stderr(log)
            .spawn()
            .expect("it starts");
        let mut s = Self {
            child: Rival(child),
            gui,
            listen,
            folder: lab.dir(&format!("{name}.folder")),
            id: String::new(),
        };
        harness::wait_until(
            Duration::from_secs(60),
            || s.try_get("/rest/system/status").is_some(),
            || "Syncthing does not answer".to_owned(),
        );
        let status = s.get("/rest/system/status");
        status["myID"]
            .as_str()
            .unwrap_or_default()
            .clone_into(&mut s.id);
        s
    }

    fn curl(&self, method: &str, path: &str, body: Option<&serde_json::Value>) -> Command {
        let mut c = Command::new("curl");
        c.args(["-sf", "-X", method, "-H", &format!("X-API-Key: {KEY}")]);
        if let Some(b) = body {
            c.args(["-H", "Content-Type: application/json", "-d", &b.to_string()]);
        }
        c.arg(format!("http://127.0.0.1:{}{path}", self.gui));
        c
    }

    fn try_get(&self, path: &str) -> Option<serde_json::Value> {
        let out = self.curl("GET", path, None).output().ok()?;
        serde_json::from_slice(&out.stdout).ok()
    }

    fn get(&self, path: &str) -> serde_json::Value {
        self.try_get(path).unwrap_or_default()
    }

    fn send(&self, method: &str, path: &str, body: &serde_json::Value) {
        run(&mut self.curl(method, path, Some(body)));
    }

    fn pair(&self, other: &Self) {
        let options = serde_json::json!({
            "listenAddresses": [format!("tcp://127.0.0.1:{}", self.listen)],
            "globalAnnounceEnabled": false,
            "localAnnounceEnabled": false,
            "relaysEnabled": false,
            "natEnabled": false,
            "crashReportingEnabled": false,
            "urAccepted": -1,
            "autoUpgradeIntervalH": 0,
            "reconnectionIntervalS": 1,
        });
        self.send("PATCH", "/rest/config/options", &options);
        let device = serde_json::json!({
            "deviceID": other.id,
            "addresses": [format!("tcp://127.0.0.1:{}", other.listen)],
        });
        self.send("POST", "/rest/config/devices", &device);
        let folder = serde_json::json!({
            "id": "bench",
            "path": self.folder,
            "fsWatcherEnabled": true,
            "fsWatcherDelayS": 1,
            "rescanIntervalS": 3600,
            "devices": [{"deviceID": self.id}, {"deviceID": other.id}],
        });
        self.send("POST", "/rest/config/folders", &folder);
    }

    /// With the process that it forks.
    fn pids(&self) -> Vec<u32> {
        let id = self.child.0.id();
        let mut all = vec![id];
        // Any of its threads may have forked.
        let threads = std::fs::read_dir(format!("/proc/{id}/task"));
        for t in threads.into_iter().flatten().filter_map(Result::ok) {
            let children = std::fs::read_to_string(t.path().join("children"));
            let children = children.unwrap_or_default();
            all.extend(
                children
                    .split_whitespace()
                    .filter_map(|p| p.parse::<u32>().ok()),
            );
        }
        all
    }

    /// Two that share a folder, if there is one.
    fn two(lab: &Lab) -> Option<(Self, Self)> {
        let program =
            std::env::var("CELLFS_BENCH_SYNCTHING").unwrap_or_else(|_| "syncthing".to_owned());
        if !there(&program) || !there("curl") {
            return None;
        }
        let a = Self::start(&program, lab, "st.a");
        let b = Self::start(&program, lab, "st.b");
        a.pair(&b);
        b.pair(&a);
        let first = a.folder.join("first");
        std::fs::write(&first, "first").expect("written");
        seen_within(&b.folder.join("first"), "first", Duration::from_secs(90));
        Some((a, b))
    }

    fn version(&self) -> String {
        let version = self.get("/rest/system/version");
        version["version"].as_str().unwrap_or_default().to_owned()
    }

    fn cpu(&self) -> f64 {
        self.pids().into_iter().map(cpu_seconds).sum()
    }

    fn memory(&self) -> u64 {
        let all = self.pids().into_iter().map(|p| memory_mib(p).1);
        all.max().unwrap_or(0)
    }
}

impl Drop for Syncthing {
    fn drop(&mut self) {
        let mut c = self.curl("POST", "/rest/system/shutdown", None);
        let _ = c.output();
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn syncthing(lab: &Lab, tree: &Path) -> Option<Figures> {
    let (a, b) = Syncthing::two(lab)?;
    let want = manifest(tree);
    let count = want.values().filter(|e| !e.content.is_empty()).count() as u64 + 1;
    let before = a.cpu() + b.cpu();
    let begin = Instant::now();
    copy(tree, &a.folder.join("tree"));
    let copied = begin.elapsed();
    harness::wait_until(
        Duration::from_secs(300),
        || {
            let s = b.get("/rest/db/status?folder=bench");
            let n = |k: &str| s[k].as_u64().unwrap_or(u64::MAX);
            let have = n("localFiles").saturating_add(n("localSymlinks"));
            have >= count && n("needTotalItems") == 0 && s["state"] == "idle"
        },
        || b.get("/rest/db/status?folder=bench").to_string(),
    );
    let all = begin.elapsed();
    let cpu = a.cpu() + b.cpu() - before;
    let edits = (0..20)
        .map(|i| {
            let text = format!("edit {i}");
            let begin = Instant::now();
            std::fs::write(a.folder.join("tree/edited"), &text).expect("written");
            seen(&b.folder.join("tree/edited"), &text);
            begin.elapsed()
        })
        .collect();
    Some(Figures {
        who: format!("Syncthing {}", a.version()),
        copy: copied,
        all,
        cpu,
        memory: a.memory().max(b.memory()),
        edits,
    })
}

fn seen_within(path: &Path, text: &str, within: Duration) {
    harness::wait_until(
        within,
        || std::fs::read(path).is_ok_and(|b| b == text.as_bytes()),
        || format!("{} did not come", path.display()),
    );
}
