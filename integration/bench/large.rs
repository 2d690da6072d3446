//! One large file, and 4 KiB inside it, beside an rsync daemon and Syncthing.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::*;

const MIB: usize = 1 << 20;
const CHANGE: usize = 4096;

/// What one program did with the file.
struct Large {
    who: &'static str,
    /// Until the copy was made, until all was on the other side, and until a change was.
    copy: Duration,
    all: Duration,
    change: Duration,
    cpu: f64,
    memory: u64,
    /// Bytes through the loopback device, of the file and of the change.
    wire: (u64, u64),
}

/// Bytes that went through the loopback device.
fn loopback() -> u64 {
    let text = std::fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let line = text.lines().find_map(|l| l.trim().strip_prefix("lo:"));
    let bytes = line.and_then(|l| l.split_whitespace().next()?.parse().ok());
    bytes.expect("a loopback device")
}

fn make(path: &Path, mib: usize) {
    let file = File::create(path).expect("made");
    let mut part = vec![0; MIB];
    for n in 0..mib {
        getrandom::fill(&mut part).expect("noise");
        file.write_all_at(&part, (n * MIB) as u64).expect("written");
    }
    file.sync_all().expect("synced");
}

/// Writes over the middle of the file; what is there now.
fn change(path: &Path, at: u64) -> Vec<u8> {
    let mut new = vec![0; CHANGE];
    getrandom::fill(&mut new).expect("noise");
    let file = File::options().write(true).open(path).expect("opened");
    file.write_all_at(&new, at).expect("written");
    new
}

fn has(path: &Path, at: u64, bytes: &[u8]) -> bool {
    let mut found = vec![0; bytes.len()];
    File::open(path).is_ok_and(|f| f.read_exact_at(&mut found, at).is_ok()) && found == bytes
}

fn wait(what: &str, is: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(300);
    while !is() {
        assert!(Instant::now() < end, "{what}: it did not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn same(a: &Path, b: &Path) {
    run(Command::new("cmp").args([a, b]));
}

fn is_whole(path: &Path, len: u64) -> bool {
    path.metadata().is_ok_and(|m| m.len() == len)
}

#[test]
#[ignore = "takes minutes: packaging/bench.sh"]
fn a_large_file_beside_rsync_and_syncthing() {
    let lab = Lab::with_patience(Duration::from_secs(900));
    let mib = rounds("CELLFS_BENCH_FILE_MIB", 1024);
    let file = lab.path("large");
    make(&file, mib);
    println!("one file of {mib} MiB without repetition, and {CHANGE} bytes in the middle of it");
    let mut all = vec![by_cellfs(&lab, &file)];
    all.extend(by_rsync(&lab, &file));
    all.extend(by_syncthing(&lab, &file));
    println!(
        "{:<14}{:>8}{:>8}{:>8}{:>9}{:>11}{:>12}{:>12}",
        "", "cp s", "all s", "CPU s", "RSS MiB", "change ms", "wire MB", "change kB"
    );
    for f in &all {
        println!(
            "{:<14}{:>8.2}{:>8.2}{:>8.2}{:>9}{:>11.0}{:>12.1}{:>12.1}",
            f.who,
            f.copy.as_secs_f64(),
            f.all.as_secs_f64(),
            f.cpu,
            f.memory,
            f.change.as_secs_f64() * 1e3,
            f.wire.0 as f64 / 1e6,
            f.wire.1 as f64 / 1e3,
        );
    }
}

fn by_cellfs(lab: &Lab, file: &Path) -> Large {
    let nodes = lab.cell(2);
    let (from, to) = (nodes[0].at("large"), nodes[1].at("large"));
    let len = file.metadata().expect("there").len();
    let rests = || {
        let t = nodes[1].status().transfer;
        t.is_some_and(|t| t.files + t.waiting == 0 && t.bytes_left == 0)
    };
    let cpu: f64 = nodes.iter().map(Node::cpu).sum();
    let (begin, wire) = (Instant::now(), loopback());
    copy(file, &from);
    let copied = begin.elapsed();
    wait("cellfs", || is_whole(&to, len) && rests());
    let (all, wire) = (begin.elapsed(), loopback() - wire);
    let cpu = nodes.iter().map(Node::cpu).sum::<f64>() - cpu;
    same(file, &to);
    let memory = nodes.iter().map(|n| n.memory_mib().1).max().unwrap_or(0);
    std::thread::sleep(Duration::from_secs(2));
    let (begin, before) = (Instant::now(), loopback());
    let new = change(&from, len / 2);
    wait("cellfs", || has(&to, len / 2, &new));
    let changed = begin.elapsed();
    std::thread::sleep(Duration::from_millis(500));
    let change = loopback() - before;
    same(&from, &to);
    Large {
        who: "cellfs",
        copy: copied,
        all,
        change: changed,
        cpu,
        memory,
        wire: (wire, change),
    }
}

fn by_rsync(lab: &Lab, file: &Path) -> Option<Large> {
    let daemon = Daemon::start(lab)?;
    let (from, to) = (daemon.from.join("large"), daemon.to.join("large"));
    let len = file.metadata().expect("there").len();
    let begin = Instant::now();
    copy(file, &from);
    let copied = begin.elapsed();
    let cpu = children_cpu() + cpu_seconds(daemon.child.0.id());
    let wire = loopback();
    daemon.sync();
    let (all, wire) = (begin.elapsed(), loopback() - wire);
    let cpu = children_cpu() + cpu_seconds(daemon.child.0.id()) - cpu;
    same(file, &to);
    let (begin, before) = (Instant::now(), loopback());
    let new = change(&from, len / 2);
    daemon.sync();
    let changed = begin.elapsed();
    assert!(has(&to, len / 2, &new), "rsync");
    Some(Large {
        who: "rsync daemon",
        copy: copied,
        all,
        change: changed,
        cpu,
        memory: memory_mib(daemon.child.0.id()).1,
        wire: (wire, loopback() - before),
    })
}

fn by_syncthing(lab: &Lab, file: &Path) -> Option<Large> {
    let (a, b) = Syncthing::two(lab)?;
    let (from, to) = (a.folder.join("large"), b.folder.join("large"));
    let len = file.metadata().expect("there").len();
    let cpu = || -> f64 {
        let all = [&a, &b].into_iter().flat_map(Syncthing::pids);
        all.map(cpu_seconds).sum()
    };
    let (before, begin, wire) = (cpu(), Instant::now(), loopback());
    copy(file, &from);
    let copied = begin.elapsed();
    wait("Syncthing", || is_whole(&to, len));
    let (all, wire) = (begin.elapsed(), loopback() - wire);
    let cpu = cpu() - before;
    same(file, &to);
    let memory = [&a, &b].into_iter().flat_map(Syncthing::pids);
    let memory = memory.map(|p| memory_mib(p).1).max().unwrap_or(0);
    std::thread::sleep(Duration::from_secs(2));
    let (begin, before) = (Instant::now(), loopback());
    let new = change(&from, len / 2);
    wait("Syncthing", || has(&to, len / 2, &new));
    Some(Large {
        who: "Syncthing",
        copy: copied,
        all,
        change: begin.elapsed(),
        cpu,
        memory,
        wire: (wire, loopback() - before),
    })
}
