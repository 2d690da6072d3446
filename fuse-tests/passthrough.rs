//! Large files that the kernel hands to programs past the node.
//!
//! What programs do is done by `programs/passed.py`: a mapping of Rust's would be unsafe, one of
//! Python's would keep a descriptor.

#[path = "passthrough/bits.rs"]
mod bits;
#[path = "passthrough/mapped.rs"]
mod mapped;
#[path = "passthrough/names.rs"]
mod names;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use cellfs::control::wire::Status;

use crate::harness::{self, Lab, Node, SOON, agree, git, tool, wait_until};
use crate::ordinary_user::{Device, USER, User};

const LINE: usize = 50;
/// Lines of a file that writers get by themselves, and one that readers get, too.
const MANY: usize = 4_000;
const MORE: usize = 25_000;
/// A file that nobody is looking at any more is let go within this, and some.
const LET_GO: Duration = Duration::from_millis(800);

/// Lines without zeros.
fn lines(many: usize) -> Vec<u8> {
    let all: String = (0..many).map(|n| format!("{n:->49}\n")).collect();
    all.into_bytes()
}

/// A program that is told what to do.
struct Program(Child, ChildStdin, BufReader<ChildStdout>);

impl Program {
    fn new() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuse-tests/programs/passed.py");
        let mut c = Command::new(tool("python3"));
        c.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut c = c.spawn().expect("it starts");
        let (to, from) = (c.stdin.take(), c.stdout.take());
        let from = BufReader::new(from.expect("piped"));
        Self(c, to.expect("piped"), from)
    }

    /// One that has a file open as `f`.
    fn with(path: &Path, way: &str) -> Self {
        let mut p = Self::new();
        p.open("f", path, way);
        p
    }

    fn open(&mut self, name: &str, path: &Path, way: &str) {
        self.tell(&format!("open {name} {} {way}", path.display()));
    }

    fn begin(&mut self, line: &str) {
        writeln!(self.1, "{line}").expect("told");
    }

    /// What it found, or the error.
    fn end(&mut self) -> Result<String, String> {
        let mut answer = String::new();
        self.2.read_line(&mut answer).expect("answered");
        match answer.trim_end().split_once(' ') {
            Some(("error", name)) => Err(name.to_owned()),
            Some(("ok", found)) => Ok(found.to_owned()),
            _ if answer == "ok \n" => Ok(String::new()),
            _ => panic!("{answer:?}"),
        }
    }

    fn ask(&mut self, line: &str) -> Result<String, String> {
        self.begin(line);
        self.end()
    }

    fn tell(&mut self, line: &str) -> String {
        self.ask(line).unwrap_or_else(|e| panic!("{line}: {e}"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads that a process made so far: each request of the kernel is one.
fn requests(pid: u32) -> u64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).expect("it runs");
    let n = io.lines().find_map(|l| l.strip_prefix("syscr: "));
    n.and_then(|n| n.parse().ok()).expect("a number")
}

/// Writes a file and waits until it is in a commit.
fn made(node: &Node, name: &str, many: usize) -> Vec<u8> {
    let bytes = lines(many);
    node.write(name, &bytes);
    node.settled();
    bytes
}

fn has(node: &Node, name: &str, bytes: &[u8]) -> bool {
    fs::read(node.at(name)).is_ok_and(|is| is == bytes)
}

/// Waits until all of them show these bytes.
fn shown(nodes: &[&Node], name: &str, bytes: &[u8]) {
    for node in nodes {
        let is = || fs::read(node.at(name)).map(|b| b.len());
        wait_until(
            SOON,
            || has(node, name, bytes),
            || format!("{name} on {} has {:?} other bytes", node.name(), is()),
        );
    }
}

fn ends_well(nodes: Vec<Node>) {
    let all: Vec<&Node> = nodes.iter().collect();
    agree(&all, "cell", 2 * SOON);
    let repo = nodes[0].repo("cell");
    nodes.into_iter().for_each(|n| drop(n.stop()));
    git::fsck(&repo);
}

const BURST: u64 = 4_000;
const PAGES: u64 = 300;

/// How many requests writes and uncached reads of a file raise.
fn raised(pid: u32, write: &Path, read: &Path, as_user: bool) -> (u64, u64) {
    let (mut p, mut q) = (Program::new(), Program::new());
    if as_user {
        p.tell(&format!("user {USER}"));
        q.tell(&format!("user {USER}"));
    }
    p.open("f", write, "both");
    q.open("f", write, "both");
    let before = requests(pid);
    p.tell(&format!("burst f {BURST} written-past-the-node"));
    let writes = requests(pid) - before;
    assert_eq!(q.tell("pread f 0 21"), "written-past-the-node");
    drop((p, q));
    let mut p = Program::new();
    if as_user {
        p.tell(&format!("user {USER}"));
    }
    p.open("f", read, "direct");
    let before = requests(pid);
    p.tell(&format!("uncached f {PAGES}"));
    (writes, requests(pid) - before)
}

#[test]
fn large_files_are_written_and_read_past_the_node_and_small_ones_are_not() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let node = lab.first("n1");
    made(&node, "written", MANY);
    made(&node, "read", MORE);
    made(&node, "small", 2_000);
    let (writes, reads) = raised(node.pid(), &node.at("written"), &node.at("read"), false);
    assert!(writes < BURST / 4, "{writes} requests for {BURST} writes");
    assert!(reads < PAGES / 2, "{reads} requests for {PAGES} reads");
    let small = node.at("small");
    let (writes, reads) = raised(node.pid(), &small, &small, false);
    assert!(writes >= BURST, "{writes} requests for {BURST} writes");
    assert!(reads >= 20, "{reads} requests for all of a small file");
    let written = fs::read(node.at("written")).expect("read");
    assert!(written.starts_with(b"written-past-the-nodewritten-past-the-node"));
    node.settled();
    node.stop();
}

#[test]
fn an_ordinary_user_has_the_same_through_the_node() {
    if !harness::fuse() {
        return;
    }
    let _device = Device::open_to_all();
    let lab = Lab::new();
    let user = User::new(&lab);
    let dir = lab.mount_point("mnt");
    chown(&dir, Some(USER), Some(USER)).expect("we may");
    user.mount(&dir);
    let node = lab.adopt(&user.state);
    let mut p = Program::new();
    p.tell(&format!("user {USER}"));
    let folder = dir.display();
    user.sh(&format!(
        "cd {folder}; yes no zeros in here | head -c 2000000 > f; cp f g"
    ));
    let clean = || {
        let said = user.cellfs(&["status", "--json"]);
        let status: Status = serde_json::from_str(&said).expect("JSON");
        status.volumes.iter().all(|v| v.dirty == 0)
    };
    wait_until(SOON, clean, || "it is dirty".to_owned());
    let (writes, reads) = raised(node, &dir.join("g"), &dir.join("f"), true);
    assert!(writes >= BURST, "{writes} requests for {BURST} writes");
    assert!(reads > 0, "{reads} requests for {PAGES} reads");
    p.open("f", &dir.join("f"), "both");
    p.tell("map m f");
    p.tell("close f");
    p.tell("store m 1000000 STORED");
    p.tell("msync m");
    assert_eq!(p.tell("load m 1000000 6"), "STORED");
    assert_eq!(
        user.sh(&format!(
            "dd if={folder}/f bs=1 skip=1000000 count=6 2>/dev/null"
        )),
        "STORED"
    );
    p.tell("munmap m");
    lab.kill(node);
    user.mount(&dir);
    lab.adopt(&user.state);
    assert_eq!(
        user.sh(&format!(
            "dd if={folder}/f bs=1 skip=1000000 count=6 2>/dev/null"
        )),
        "STORED"
    );
    user.cellfs(&["umount", "--all"]);
}

#[test]
fn a_folder_that_is_mounted_twice_has_one_file() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let nodes = lab.cell(2);
    let (a, b) = (&nodes[0], &nodes[1]);
    let mut bytes = made(a, "f", MORE);
    agree(&[a, b], "cell", SOON);
    let second = lab.mount_point("second");
    a.ask(&["mount", &second.display().to_string()]);
    let mut p = Program::with(&a.at("f"), "both");
    let mut q = Program::with(&second.join("f"), "both");
    let before = requests(a.pid());
    p.tell("burst f 2000 through-the-first");
    q.tell("burst f 1000 through-the-other");
    let raised = requests(a.pid()) - before;
    assert!(raised < 1_000, "{raised} requests for 3000 writes");
    assert_eq!(p.tell("pread f 0 17"), "through-the-other");
    assert_eq!(q.tell("pread f 17000 17"), "through-the-first");
    let word = |b: &mut [u8], n: usize, w: &str| {
        for i in 0..n {
            b[i * w.len()..(i + 1) * w.len()].copy_from_slice(w.as_bytes());
        }
    };
    word(&mut bytes, 2_000, "through-the-first");
    word(&mut bytes, 1_000, "through-the-other");
    assert!(has(a, "f", &bytes));
    // What one makes longer is longer in the other, within the time that a look takes.
    p.tell(&format!("pwrite f {} LONGER", bytes.len()));
    let long = bytes.len() as u64 + 6;
    assert_eq!(q.tell(&format!("pread f {} 10", bytes.len())), "LONGER");
    let took = wait_until(
        SOON,
        || fs::metadata(second.join("f")).is_ok_and(|m| m.len() == long),
        || "the other mount has the old size".to_owned(),
    );
    eprintln!("the new size is in the other mount after {took:?}");
    bytes.extend_from_slice(b"LONGER");
    // Mapped by the one, written by the other.
    q.tell("map m f");
    q.tell("close f");
    q.tell("store m 100 MAPPED");
    assert_eq!(p.tell("pread f 100 6"), "MAPPED");
    p.tell("pwrite f 200 PWRITTEN");
    assert_eq!(q.tell("load m 200 8"), "PWRITTEN");
    bytes[100..106].copy_from_slice(b"MAPPED");
    bytes[200..208].copy_from_slice(b"PWRITTEN");
    drop((p, q));
    shown(&[a, b], "f", &bytes);
    assert!(fs::read(second.join("f")).expect("read") == bytes);
    a.ask(&["umount", &second.display().to_string()]);
    ends_well(nodes);
}

/// Descriptors of a node but for those of its cache, which keeps some, and those of overlay files.
fn descriptors(pid: u32) -> (usize, usize) {
    let all = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs");
    let links = all.filter_map(|e| fs::read_link(e.ok()?.path()).ok());
    let links: Vec<String> = links.map(|l| l.to_string_lossy().into_owned()).collect();
    let of = |dir: &str| links.iter().filter(|l| l.contains(dir)).count();
    (links.len() - of("/cache/"), of("/overlay/"))
}

/// Waits until a node has about as many as before: connections come and go.
fn none_left(node: &Node, before: usize) {
    let good = || {
        let (all, overlay) = descriptors(node.pid());
        overlay == 0 && all <= before + 5
    };
    let is = || format!("{:?} descriptors, {before} before", descriptors(node.pid()));
    wait_until(SOON, good, is);
}

/// Bytes of files that have no name any more and that somebody holds, on a disk of its own.
fn held(top: &Path) -> u64 {
    let v = rustix::fs::statvfs(top).expect("mounted");
    let used = (v.f_blocks - v.f_bfree) * v.f_frsize;
    let named = harness::run(Command::new("du").args(["-s", "-B1", "--"]).arg(top));
    let named = named.split_whitespace().next().and_then(|n| n.parse().ok());
    used.saturating_sub(named.expect("a number"))
}

#[test]
fn thousands_of_opens_leave_no_descriptors_and_no_files_in_the_kernel() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let disk = lab.mount_point("n1.state");
    harness::run(
        Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=900m", "none"])
            .arg(&disk),
    );
    // What has no name is seen.
    let scratch = disk.join("scratch");
    fs::write(&scratch, lines(MORE)).expect("written");
    let file = fs::File::open(&scratch).expect("opened");
    fs::remove_file(&scratch).expect("removed");
    assert!(held(&disk) > 1 << 20, "{}", held(&disk));
    drop(file);
    let node = lab.first("n1");
    let names: Vec<String> = (0..30).map(|n| format!("f{n}")).collect();
    for name in &names {
        node.write(name, lines(MORE));
    }
    node.settled();
    // One open of each, so that what stays from a first open does not count.
    let opens = |many: usize| {
        let mut all: Vec<Program> = (0..6).map(|_| Program::new()).collect();
        for (n, name) in names.iter().enumerate() {
            for (k, p) in all.iter_mut().enumerate() {
                let way = ["read", "both", "append"][(n + k) % 3];
                p.begin(&format!("opens {} {way} {many}", node.at(name).display()));
            }
        }
        for p in &mut all {
            names.iter().for_each(|_| drop(p.end().expect("opened")));
        }
    };
    opens(1);
    wait_until(
        SOON,
        || descriptors(node.pid()).1 == 0,
        || "overlay files stay open".to_owned(),
    );
    let (before, _) = descriptors(node.pid());
    opens(17);
    none_left(&node, before);
    let mut p = Program::new();
    for (n, name) in names.iter().enumerate() {
        p.open(&format!("f{n}"), &node.at(name), "both");
        p.tell(&format!("pwrite f{n} 0 CHANGED"));
    }
    for name in &names {
        fs::remove_file(node.at(name)).expect("removed");
    }
    drop(p);
    wait_until(
        SOON,
        || held(&disk) < 1 << 20,
        || format!("{} bytes are held", held(&disk)),
    );
    none_left(&node, before);
    node.stop();
}
