//! A folder, timed beside the disk that it is kept on (ext4) and bindfs: `packaging/bench.sh mount`
//! runs it.
//!
//! All that is compared lies on one disk, an ext4 image in memory where there are loop devices.
//! Each measurement is made on one system after the other, again and again, so that what else the
//! machine does meanwhile weighs on all of them. What a measurement needs is made before its clock
//! starts, and waited for until it is in commits and on the disk.

use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::mount::UnmountFlags;

use crate::harness::{self, Lab, Node, Setup, rounds, run};

mod work;

use work::{Work, World};

/// Megabytes below which memory is not used as a disk.
const MEMORY_MIN_MIB: u64 = 6 << 10;

#[test]
#[ignore = "takes minutes: packaging/bench.sh"]
fn beside_ext4_and_bindfs() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::with_patience(Duration::from_secs(2 * 3600));
    let disk = Disk::new(&lab);
    let world = World::new(&disk.dir);
    println!("{}; {world}", disk.what);
    let mut systems = vec![System::native(&disk), System::cellfs(&lab, &disk, None)];
    if let Some(other) = std::env::var_os("CELLFS_BENCH_BESIDE") {
        systems.push(System::cellfs(&lab, &disk, Some(other.into())));
    }
    systems.extend(System::bindfs(&lab, &disk));
    let only = std::env::var("CELLFS_BENCH_ONLY").unwrap_or_default();
    let only: Vec<&str> = only.split(',').filter(|o| !o.is_empty()).collect();
    let rounds = rounds("CELLFS_BENCH_ROUNDS", 5);
    println!("{}", heading(&systems));
    let mut below = Vec::new();
    for work in work::ALL {
        if !only.is_empty() && !only.iter().any(|o| work.name.starts_with(o)) {
            continue;
        }
        let taken = measure(work, &world, &mut systems, rounds);
        let (line, is_below) = row(work, &world, &taken, &systems);
        println!("{line}");
        if is_below {
            below.push(work.name);
        }
    }
    println!("cellfs is below its goal in: {}", below.join(", "));
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load at the end: {}", load.trim());
}

/// How long it took on each system, the rounds in order.
fn measure(
    work: &Work,
    world: &World,
    systems: &mut [System],
    rounds: usize,
) -> Vec<Vec<Duration>> {
    let mut taken = vec![Vec::new(); systems.len()];
    for s in systems.iter_mut() {
        s.used.clear();
    }
    for round in 0..rounds {
        for (s, times) in systems.iter_mut().zip(&mut taken) {
            (work.prepare)(world, s.root(), round);
            s.quiet();
            if work.fresh {
                s.fresh();
            }
            (work.warm)(world, s.root());
            let before = s.cpu();
            times.push((work.run)(world, s.root(), round));
            s.quiet();
            s.used.push(s.cpu() - before);
        }
    }
    taken
}

fn heading(systems: &[System]) -> String {
    let mut out = format!("{:<34}{:>14}", "", "ext4");
    for s in systems.iter().skip(1) {
        let _ = write!(out, "{:>18}", s.who);
    }
    let _ = write!(out, "{:>8}", "goal");
    for s in systems.iter().filter(|s| matches!(s.what, What::Cellfs(_))) {
        let _ = write!(
            out,
            "{:>9}",
            s.who.replace("cellfs", "CPU s").replace("CPU s, ", "")
        );
    }
    out
}

fn best(times: &[Duration]) -> f64 {
    times.iter().min().map_or(f64::NAN, Duration::as_secs_f64)
}

fn median(times: &[Duration]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort();
    let middle = sorted.get(sorted.len() / 2);
    middle.map_or(f64::NAN, Duration::as_secs_f64)
}

/// A line of the table: what ext4 did at its best; of what is compared its speed as a part of
/// that, best by best and median by median; what a node used of the processors at least. And whether ours misses its goal by both.
fn row(work: &Work, world: &World, taken: &[Vec<Duration>], systems: &[System]) -> (String, bool) {
    let (amount, unit) = (work.amount)(world);
    let native = taken.first().map_or(&[][..], Vec::as_slice);
    let rate = amount / best(native);
    let rate = if rate >= 10_000.0 {
        format!("{:.1} k {unit}", rate / 1e3)
    } else if rate >= 10.0 {
        format!("{rate:.0} {unit}")
    } else {
        format!("{rate:.2} {unit}")
    };
    let mut line = format!("{:<34}{rate:>14}", work.name);
    let mut is_below = false;
    for (n, times) in taken.iter().enumerate().skip(1) {
        let (b, m) = (best(native) / best(times), median(native) / median(times));
        let _ = write!(line, "{:>18}", format!("{b:.3} ({m:.3})"));
        is_below |= n == 1 && work.goal.is_some_and(|g| b.max(m) < g);
    }
    let goal = work.goal.map_or(String::new(), |g| format!("{g}"));
    let _ = write!(line, "{goal:>8}");
    for s in systems.iter().filter(|s| matches!(s.what, What::Cellfs(_))) {
        let least = s.used.iter().copied().fold(f64::INFINITY, f64::min);
        let _ = write!(line, "{least:>9.2}");
    }
    (line, is_below)
}

/// What all that is compared lies on.
#[derive(Debug)]
struct Disk {
    dir: PathBuf,
    what: String,
    /// Removed with its last user.
    _image: Option<tempfile::NamedTempFile>,
}

impl Disk {
    /// An image on a file system in memory, if that can be mounted; else a directory.
    fn new(lab: &Lab) -> Self {
        let dir = lab.mount_point("disk");
        let image = match Self::image(&dir) {
            Ok(image) => {
                let what = "an ext4 image in memory".to_owned();
                return Self {
                    dir,
                    what,
                    _image: Some(image),
                };
            }
            Err(why) => why,
        };
        let kind = run(Command::new("stat").args(["-f", "-c", "%T"]).arg(&dir));
        let what = format!(
            "no ext4 image in memory ({image}): a directory on {}, whatever else uses that disk",
            kind.trim()
        );
        Self {
            dir,
            what,
            _image: None,
        }
    }

    fn image(dir: &Path) -> Result<tempfile::NamedTempFile, String> {
        let memory = PathBuf::from("/dev/shm");
        let at = std::env::var_os("CELLFS_BENCH_MEMORY").map_or(memory, PathBuf::from);
        let room = rustix::fs::statvfs(&at).map_err(|e| format!("{}: {e}", at.display()))?;
        let mib = (room.f_bavail * room.f_frsize) >> 20;
        if mib < MEMORY_MIN_MIB {
            return Err(format!("{mib} MiB in {}", at.display()));
        }
        let image = tempfile::Builder::new()
            .prefix("cellfs-bench-")
            .tempfile_in(&at)
            .map_err(|e| e.to_string())?;
        image
            .as_file()
            .set_len((mib - 1024) << 20)
            .map_err(|e| e.to_string())?;
        let mut make = Command::new("mkfs.ext4");
        make.args(["-q", "-F", "-m", "0"])
            .args(["-E", "lazy_itable_init=0,lazy_journal_init=0"])
            .arg(image.path());
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop"]).arg(image.path()).arg(dir);
        for mut c in [make, mount] {
            let out = c.stdin(Stdio::null()).output();
            let out = out.map_err(|e| format!("{c:?}: {e}"))?;
            if !out.status.success() {
                return Err(String::from_utf8_lossy(&out.stderr).trim().to_owned());
            }
        }
        Ok(image)
    }

    fn sub(&self, name: &str) -> PathBuf {
        let dir = self.dir.join(name);
        std::fs::create_dir_all(&dir).expect("made");
        dir
    }
}

/// A file system that is timed.
#[derive(Debug)]
struct System {
    who: String,
    root: PathBuf,
    disk: File,
    what: What,
    /// Processor seconds of a node for what was measured last, with its commits, by rounds.
    used: Vec<f64>,
}

#[derive(Debug)]
enum What {
    Native,
    /// `None` while it is started again.
    Cellfs(Option<Box<Node>>),
    Bindfs(PathBuf, Option<Child>),
}

impl System {
    fn new(who: &str, root: PathBuf, disk: &Disk, what: What) -> Self {
        Self {
            who: who.to_owned(),
            root,
            disk: File::open(&disk.dir).expect("opened"),
            what,
            used: Vec::new(),
        }
    }

    fn native(disk: &Disk) -> Self {
        Self::new("ext4", disk.sub("native"), disk, What::Native)
    }

    fn cellfs(lab: &Lab, disk: &Disk, other: Option<PathBuf>) -> Self {
        let who = other.as_ref().map_or("cellfs", |_| "cellfs, other");
        let mut setup: Setup = lab.node(&who.replace(", ", "-"));
        setup.state = disk.sub("states").join(setup.name.clone());
        if let Some(program) = other {
            setup = setup.program(program);
        }
        let node = setup.start();
        let root = node.dir().to_owned();
        Self::new(who, root, disk, What::Cellfs(Some(Box::new(node))))
    }

    fn bindfs(lab: &Lab, disk: &Disk) -> Option<Self> {
        let there = Command::new("bindfs").arg("--version").output();
        if !there.is_ok_and(|o| o.status.success()) {
            println!("bindfs: not installed, left out");
            return None;
        }
        let (from, root) = (disk.sub("bound"), lab.mount_point("bindfs"));
        let mut s = Self::new("bindfs", root, disk, What::Bindfs(from, None));
        s.fresh();
        Some(s)
    }

    fn root(&self) -> &Path {
        &self.root
    }

    fn cpu(&self) -> f64 {
        match &self.what {
            What::Cellfs(Some(node)) => node.cpu(),
            _ => 0.0,
        }
    }

    /// Nothing that was done before is left to do.
    fn quiet(&self) {
        if let What::Cellfs(Some(node)) = &self.what {
            node.settled();
            // Packs are written, and git is shown them, when nothing came for a while.
            std::thread::sleep(Duration::from_millis(150));
        }
        rustix::fs::syncfs(&self.disk).expect("synced");
    }

    /// A process and a mount that know nothing yet. The disk below stays as it is.
    fn fresh(&mut self) {
        let root = self.root.clone();
        match &mut self.what {
            What::Native => {}
            What::Cellfs(node) => {
                let setup = node.take().expect("it runs").stop();
                *node = Some(Box::new(setup.start()));
            }
            What::Bindfs(from, child) => {
                end(&root, child.take());
                let new = Command::new("bindfs")
                    .arg("-f")
                    .arg(from)
                    .arg(&root)
                    .spawn();
                *child = Some(new.expect("it starts"));
                let is_there = || {
                    let (here, above) = (root.metadata(), root.join("..").metadata());
                    let device = |m: std::io::Result<std::fs::Metadata>| {
                        m.map(|m| std::os::unix::fs::MetadataExt::dev(&m)).ok()
                    };
                    device(here) != device(above)
                };
                harness::wait_until(harness::SOON, is_there, || "no mount".to_owned());
            }
        }
    }
}

/// Takes a mount off, and waits for its process.
fn end(root: &Path, child: Option<Child>) {
    let Some(mut child) = child else { return };
    let _ = rustix::mount::unmount(root, UnmountFlags::DETACH);
    let since = Instant::now();
    while child.try_wait().is_ok_and(|s| s.is_none()) {
        if since.elapsed() > Duration::from_secs(10) {
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Drop for System {
    fn drop(&mut self) {
        if let What::Bindfs(_, child) = &mut self.what {
            end(&self.root, child.take());
        }
    }
}
