//! A disk that fails: the first fsync, write, rename and so on of a running node fails, then the
//! second, until a run has so few. `strace` makes them fail, and counts for each thread by itself.
//!
//! Once or until the disk is sound again; with EIO or for want of room. Each time: what was
//! acknowledged is there, before and after a `kill -9`; reads go on; the node goes on, or says in
//! `status` that its journal is poisoned and refuses all writes.

mod ledger;

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, XattrFlags, setxattr};

use crate::harness::{self, Lab, Node, SOON, git, rounds, wait_until};
use ledger::{At, Ledger, XATTR};

/// What fails, and how.
#[derive(Clone, Copy, Debug)]
struct Fault {
    calls: &'static str,
    error: &'static str,
    /// From then on, until the disk is sound again.
    stays: bool,
    /// Calls on other files than those of the volume would not be the disk's.
    paths: bool,
}

/// Paths below a volume, as many as a short run may have.
fn paths(node: &Node) -> Vec<PathBuf> {
    let volume = node.state().join("volumes/cell");
    let pid = node.pid();
    let mut out: Vec<PathBuf> = fs::read_dir(volume.join("journal"))
        .expect("a journal")
        .map(|e| e.expect("an entry").path())
        .collect();
    out.extend((0..80).map(|n| volume.join(format!("overlay/{n}"))));
    for n in 0..200 {
        out.extend(["pack", "idx"].map(|x| volume.join(format!("git/incoming/{pid}-{n}.{x}"))));
    }
    out
}

/// strace on a node that runs.
struct Tracer {
    child: Child,
    log: PathBuf,
}

impl Tracer {
    fn attach(node: &Node, fault: Fault, k: usize, log: PathBuf) -> Self {
        let mut c = Command::new("strace");
        c.args(["-f", "-o"]).arg(&log);
        if fault.paths {
            for p in paths(node) {
                c.arg("-P").arg(p);
            }
        }
        let (calls, error) = (fault.calls, fault.error);
        let plus = if fault.stays { "+" } else { "" };
        let child = c
            .args(["-e", &format!("trace={calls}"), "-e"])
            .arg(format!("inject={calls}:error={error}:when={k}{plus}"))
            .args(["-p", &node.pid().to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("strace is installed: apt-get install strace");
        let tasks = PathBuf::from(format!("/proc/{}/task", node.pid()));
        let traced = || {
            let all = fs::read_dir(&tasks).expect("it runs");
            let is = |p: PathBuf| {
                let text = fs::read_to_string(p.join("status")).unwrap_or_default();
                !text.contains("TracerPid:\t0\n")
            };
            all.flatten().all(|e| is(e.path()))
        };
        wait_until(SOON, traced, || "strace is not attached".to_owned());
        Self { child, log }
    }

    /// The disk is sound again. How many calls failed.
    fn detach(mut self) -> usize {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("told");
        self.child.wait().expect("ended");
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        text.matches("(INJECTED)").count()
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Somebody who writes and notes what he was told.
struct Writer<'a> {
    dir: &'a Path,
    ledger: &'a mut Ledger,
    /// Errors that programs got.
    failed: Vec<(String, io::Error)>,
}

impl Writer<'_> {
    /// Notes what a call said; errors that a disk does not make are those of an earlier failure.
    fn said<T>(&mut self, what: &str, said: io::Result<T>) -> Option<T> {
        match said {
            Ok(t) => Some(t),
            Err(e) => {
                self.failed.push((what.to_owned(), e));
                None
            }
        }
    }

    fn open(&mut self, path: &str, options: &OpenOptions) -> Option<File> {
        let done = options.open(self.dir.join(path));
        self.said(&format!("open {path}"), done)
    }

    fn create(&mut self, path: &str) -> Option<(File, Vec<usize>)> {
        let file = self.ledger.fresh();
        let mut options = OpenOptions::new();
        let f = self.open(path, options.write(true).create_new(true));
        self.ledger.name(path, At::File(file), f.is_some());
        f.map(|f| (f, vec![file]))
    }

    fn write(&mut self, f: &File, files: &[usize], at: usize, bytes: &[u8]) {
        let done = f.write_all_at(bytes, at as u64);
        let done = self.said(&format!("write {at} {}", bytes.len()), done);
        self.ledger.change(files, done.is_some(), |v| {
            if v.bytes.len() < at + bytes.len() {
                v.bytes.resize(at + bytes.len(), 0);
            }
            v.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        });
    }

    fn sync(&mut self, f: &File) {
        let done = f.sync_all();
        self.said("fsync", done);
    }

    fn put(&mut self, path: &str, bytes: &[u8]) {
        if let Some((f, files)) = self.create(path) {
            self.write(&f, &files, 0, bytes);
            self.sync(&f);
        }
    }

    /// A file that is there, to be written.
    fn edit(&mut self, path: &str) -> Option<(File, Vec<usize>)> {
        let f = self.open(path, OpenOptions::new().write(true))?;
        Some((f, self.ledger.files(path)))
    }

    fn append(&mut self, path: &str, bytes: &[u8]) {
        let files = &self.ledger.files(path)[..];
        if let Some(mut f) = self.open(path, OpenOptions::new().append(true)) {
            let done = f.write_all(bytes);
            let done = self.said("append", done);
            self.ledger.change(files, done.is_some(), |v| {
                v.bytes.extend_from_slice(bytes);
            });
            self.sync(&f);
        }
    }

    fn cut(&mut self, path: &str, len: usize) {
        if let Some((f, files)) = &self.edit(path) {
            let done = f.set_len(len as u64);
            let done = self.said(&format!("cut {len}"), done);
            let cut = |v: &mut ledger::Version| v.bytes.resize(len, 0);
            self.ledger.change(files, done.is_some(), cut);
            self.sync(f);
        }
    }

    /// Opened to be emptied, then written.
    fn anew(&mut self, path: &str, bytes: &[u8]) {
        let files = &self.ledger.files(path)[..];
        let f = self.open(path, OpenOptions::new().write(true).truncate(true));
        let empty = |v: &mut ledger::Version| v.bytes.clear();
        self.ledger.change(files, f.is_some(), empty);
        if let Some(f) = f {
            self.write(&f, files, 0, bytes);
            self.sync(&f);
        }
    }

    fn punch(&mut self, path: &str, at: usize, len: usize) {
        if let Some((f, files)) = &self.edit(path) {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let done = rustix::fs::fallocate(f, flags, at as u64, len as u64);
            let done = self.said("punch", done.map_err(io::Error::from));
            self.ledger.change(files, done.is_some(), |v| {
                let end = v.bytes.len().min(at + len);
                if at < end {
                    v.bytes[at..end].fill(0);
                }
            });
            self.sync(f);
        }
    }

    fn set(&mut self, path: &str, value: &[u8]) {
        let files = &self.ledger.files(path)[..];
        let done = setxattr(self.dir.join(path), XATTR, value, XattrFlags::empty());
        let done = self.said("setxattr", done.map_err(io::Error::from));
        self.ledger.change(files, done.is_some(), |v| {
            v.xattr = Some(value.to_vec());
        });
    }

    fn mkdir(&mut self, path: &str) {
        let done = fs::create_dir(self.dir.join(path));
        let done = self.said("mkdir", done);
        self.ledger.name(path, At::Dir, done.is_some());
    }

    fn rename(&mut self, from: &str, to: &str) {
        let done = fs::rename(self.dir.join(from), self.dir.join(to));
        let done = self.said(&format!("rename {from} {to}"), done).is_some();
        let mut is = self.ledger.at(from);
        is.retain(|a| *a != At::Nothing);
        self.ledger.name_any(to, is, done);
        self.ledger.name(from, At::Nothing, done);
    }

    fn rename_dir(&mut self, from: &str, to: &str) {
        let done = fs::rename(self.dir.join(from), self.dir.join(to));
        let done = self.said(&format!("rename {from} {to}"), done).is_some();
        self.ledger.moved_dir(from, to, done);
    }

    fn link(&mut self, from: &str, to: &str) {
        let done = fs::hard_link(self.dir.join(from), self.dir.join(to));
        let done = self.said("link", done).is_some();
        let files = self.ledger.files(from).into_iter();
        self.ledger
            .name_any(to, files.map(At::File).collect(), done);
    }

    fn unlink(&mut self, path: &str) {
        let done = fs::remove_file(self.dir.join(path));
        let done = self.said(&format!("unlink {path}"), done).is_some();
        self.ledger.name(path, At::Nothing, done);
    }

    fn sync_dir(&mut self, path: &str) {
        let done = File::open(self.dir.join(path)).and_then(|d| d.sync_all());
        self.said("fsync of a directory", done);
    }
}

fn noise(seed: usize, len: usize) -> Vec<u8> {
    let mut x = 0x9e37_79b9_7f4a_7c15_u64 ^ (seed as u64) << 20 | 1;
    let step = |_| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.to_le_bytes()[3]
    };
    (0..len).map(step).collect()
}

/// Time for the committer, whose calls fail too.
fn pause(node: &Node) {
    let end = Instant::now() + Duration::from_millis(400);
    while Instant::now() < end && node.cell().dirty > 0 {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// All kinds of changes, below a directory of their own; the errors that came.
fn work(node: &Node, ledger: &mut Ledger, below: &str, seed: usize) -> Vec<(String, io::Error)> {
    let mut w = Writer {
        dir: node.dir(),
        ledger,
        failed: Vec::new(),
    };
    let p = |name: &str| format!("{below}/{name}");
    w.mkdir(below);
    w.put(&p("small"), &noise(seed, 900));
    w.put(&p("large"), &noise(seed + 1, 300_000));
    w.append(&p("small"), b"appended");
    if let Some((f, files)) = w.edit(&p("large")) {
        w.write(&f, &files, 100_000, &noise(seed + 2, 50_000));
        w.sync(&f);
    }
    pause(node);
    w.set(&p("small"), b"one");
    w.cut(&p("large"), 200_000);
    w.append(&p("large"), &noise(seed + 3, 10_000));
    w.cut(&p("small"), 500);
    w.link(&p("small"), &p("link"));
    w.append(&p("link"), b"by its other name");
    w.put(&p("new"), &noise(seed + 4, 1_200));
    w.rename(&p("new"), &p("saved"));
    w.put(&p("new-large"), &noise(seed + 5, 180_000));
    pause(node);
    w.rename(&p("new-large"), &p("large"));
    w.put(&p("short-lived"), b"soon gone");
    w.unlink(&p("short-lived"));
    w.mkdir(&p("dir"));
    w.put(&p("dir/inner"), &noise(seed + 6, 3_000));
    w.sync_dir(below);
    w.anew(&p("saved"), &noise(seed + 7, 700));
    w.punch(&p("large"), 10_000, 100_000);
    w.anew(&p("large"), &noise(seed + 8, 150_000));
    w.rename_dir(&p("dir"), &p("moved"));
    w.set(&p("link"), b"two");
    w.unlink(&p("small"));
    w.cut(&p("large"), 20);
    w.put(&p("again"), &noise(seed + 9, 140_000));
    w.cut(&p("again"), 400_000);
    w.sync_dir(below);
    pause(node);
    w.failed
}

fn is_poisoned(node: &Node) -> bool {
    node.cell().journal.starts_with("poisoned")
}

/// One node, at whose disk things fail again and again.
struct Patient {
    lab: Lab,
    node: Option<Node>,
    ledger: Ledger,
    points: usize,
    poisoned: usize,
}

impl Patient {
    fn new() -> Self {
        let lab = Lab::with_patience(Duration::from_secs(3_600));
        let node = Some(lab.first("n"));
        Self {
            lab,
            node,
            ledger: Ledger::default(),
            points: 0,
            poisoned: 0,
        }
    }

    fn holds(&self, node: &Node, below: &str, when: &str) {
        let wrong = self.ledger.wrong(node.dir(), below);
        assert!(wrong.is_empty(), "{when}:\n{}", wrong.join("\n"));
    }

    /// One point; whether anything failed at it.
    fn point(&mut self, fault: Fault, k: usize) -> bool {
        let node = self.node.take().expect("it runs");
        let below = format!("p{}", self.points);
        let log_before = node.log().len();
        self.points += 1;
        let tracer = Tracer::attach(&node, fault, k, self.lab.path("trace"));
        let failed = work(&node, &mut self.ledger, &below, self.points * 100);
        let what = format!("{fault:?} from {k} in {below}, errors {failed:?}");
        self.holds(&node, &below, &format!("{what}: while the disk fails"));
        let injected = tracer.detach();
        for (call, e) in &failed {
            let known = [
                libc::EIO,
                libc::ENOSPC,
                libc::ENOENT,
                libc::EEXIST,
                libc::ENOTDIR,
            ];
            let code = e.raw_os_error().unwrap_or(0);
            assert!(known.contains(&code), "{what}: {call}: {e}");
        }
        let log = node.log();
        let log = &log[log_before..];
        assert!(!log.contains("panicked"), "{what}:\n{log}");
        let late = node.at(format!("late-{below}"));
        let try_late = || {
            let mut f = File::create(&late)?;
            f.write_all(b"late")?;
            f.sync_all()
        };
        if is_poisoned(&node) {
            self.poisoned += 1;
            assert!(!failed.is_empty(), "{what}: poisoned, and nobody was told");
            let refused = try_late().expect_err("a poisoned journal takes no writes");
            assert_eq!(refused.raw_os_error(), Some(libc::EIO), "{what}: {refused}");
        } else {
            // The disk is sound: all goes on, and nothing is left to complain of.
            try_late().unwrap_or_else(|e| panic!("{what}: {e}, and the disk is sound"));
            let mended = || {
                let s = node.status();
                s.warnings.is_empty() && s.volumes.iter().all(|v| v.dirty == 0)
            };
            wait_until(SOON, mended, || {
                format!("{what}: {:?} {:?}", node.status().warnings, node.cell())
            });
        }
        self.holds(&node, &below, &format!("{what}: when it is sound"));
        let setup = node.kill();
        git::fsck(&setup.state.join("volumes/cell/git"));
        let node = setup.start();
        self.holds(&node, &below, &format!("{what}: after a kill"));
        try_late().unwrap_or_else(|e| panic!("{what}: after a kill: {e}"));
        self.node = Some(node);
        injected > 0
    }

    /// Some of the points, or all when the variable says up to where.
    fn sweep(&mut self, fault: Fault, sample: &[usize]) {
        let began = Instant::now();
        let most = rounds("CELLFS_TEST_FAULTS", 0);
        let all: Vec<usize> = (1..=most).collect();
        let points = if most > 0 { &all[..] } else { sample };
        let (before, poisoned) = (self.points, self.poisoned);
        for k in points {
            if !self.point(fault, *k) {
                assert!(*k > 1, "{fault:?}: nothing failed");
                break;
            }
        }
        eprintln!(
            "{fault:?}: {} points, {} of them poison, {:.1?}",
            self.points - before,
            self.poisoned - poisoned,
            began.elapsed()
        );
    }

    fn end(mut self) {
        let node = self.node.take().expect("it runs");
        self.holds(&node, "", "at the end");
        node.settled();
        let repo = node.repo("cell");
        node.stop();
        git::fsck(&repo);
    }
}

fn faults(calls: &'static str, paths: bool, sample: &[(&'static str, bool, &[usize])]) {
    if !harness::fuse() {
        return;
    }
    let mut p = Patient::new();
    for (error, stays, points) in sample {
        let fault = Fault {
            calls,
            error,
            stays: *stays,
            paths,
        };
        p.sweep(fault, points);
    }
    p.end();
}

#[test]
fn an_fsync_that_fails() {
    let once: &[usize] = &[1, 2, 4, 7];
    faults(
        "fsync,fdatasync",
        false,
        &[
            ("EIO", false, once),
            ("ENOSPC", false, &[3]),
            ("EIO", true, &[2, 5]),
        ],
    );
}

#[test]
fn a_write_that_fails() {
    faults(
        "write,pwrite64,writev",
        true,
        &[
            ("EIO", false, &[1, 6, 11]),
            ("ENOSPC", false, &[2, 5, 9]),
            ("ENOSPC", true, &[1, 4, 13]),
        ],
    );
}

#[test]
fn a_name_that_fails() {
    faults(
        "rename,renameat,renameat2,unlink,unlinkat,mkdir,openat",
        false,
        &[("EIO", false, &[1, 2, 5]), ("ENOSPC", true, &[1, 3])],
    );
}

#[test]
fn a_size_that_fails() {
    faults(
        "ftruncate,fallocate",
        false,
        &[("EIO", false, &[1, 2]), ("ENOSPC", true, &[1])],
    );
}

/// What a start finds: files in commits and in the journal alone, and one that programs wrote to
/// by themselves.
fn leave(node: &Node) -> Vec<(&'static str, Vec<u8>)> {
    let mut large = noise(7, 600_000);
    node.write("large", &large);
    node.write("done", "done");
    node.settled();
    let f = File::options()
        .write(true)
        .open(node.at("large"))
        .expect("it opens");
    let more = noise(8, 5_000);
    f.write_all_at(&more, 100_000).expect("written");
    large[100_000..105_000].copy_from_slice(&more);
    f.sync_all().expect("synced");
    let mut small = File::create(node.at("small")).expect("made");
    small.write_all(b"small").expect("written");
    small.sync_all().expect("synced");
    vec![
        ("large", large),
        ("done", b"done".to_vec()),
        ("small", b"small".to_vec()),
    ]
}

#[test]
fn a_start_for_which_there_is_no_room_shows_all_and_goes_on_when_there_is() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::with_patience(Duration::from_secs(3_600));
    let (mut waited, mut k) = (0, 0);
    loop {
        k += 1;
        let node = lab.first(&format!("n{k}"));
        let files = leave(&node);
        let setup = node.kill();
        let log = lab.path("trace");
        let _ = fs::remove_file(&log);
        // The volume's own thread tries again and again, and counts its calls anew.
        let calls = "write,pwrite64,writev";
        let inject = format!("inject={calls}:error=ENOSPC:when={k}..{}", k + 3);
        let mut strace: Vec<OsString> = vec!["strace".into(), "-f".into(), "-o".into()];
        strace.push(log.clone().into());
        strace.extend(["-e".into(), format!("trace={calls}").into()]);
        strace.extend(["-e".into(), inject.into()]);
        for segment in fs::read_dir(setup.state.join("volumes/cell/journal")).expect("a journal") {
            strace.extend(["-P".into(), segment.expect("an entry").path().into()]);
        }
        let node = setup.under(strace).start();
        let holds = |node: &Node, when: &str| {
            for (name, bytes) in &files {
                let is =
                    fs::read(node.at(name)).unwrap_or_else(|e| panic!("{k}: {name} {when}: {e}"));
                assert!(is == *bytes, "{k}: {name} {when} has other bytes");
            }
            let names = fs::read_dir(node.dir()).expect("a folder").count();
            assert!(names <= files.len() + 1, "{k}: {names} names {when}");
        };
        holds(&node, "at once");
        let writes = || {
            let done = File::create(node.at("late")).and_then(|mut f| {
                f.write_all(b"late")?;
                f.sync_all()
            });
            waited += usize::from(done.is_err());
            done.is_ok()
        };
        wait_until(SOON, writes, || {
            format!("{k}: {:?}", node.status().warnings)
        });
        holds(&node, "when there is room");
        let text = fs::read_to_string(&log).unwrap_or_default();
        let failed = text.contains("(INJECTED)");
        assert!(!node.log().contains("panicked"), "{k}");
        let mut setup = node.kill();
        git::fsck(&setup.state.join("volumes/cell/git"));
        setup = setup.under(Vec::<OsString>::new());
        let node = setup.start();
        holds(&node, "after a kill");
        assert_eq!(node.read("late"), "late", "{k}");
        node.stop();
        if !failed {
            break;
        }
    }
    assert!(k > 3, "{k}: so few writes");
    eprintln!("{k} points, {waited} writes had to wait");
}
