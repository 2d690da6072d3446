//! Power loss: a workload is traced, and at every point of the trace the disk is put back as a
//! power cut could have left it; the volume must open, and miss nothing that was acknowledged.

mod check;
mod disk;
mod trace;
mod workload;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use check::{Promises, Recoveries, judge};
use disk::{Disk, Image, Variant};
use trace::{Call, Step, Trace};

const ENV_BASE: &str = "CELLFS_POWER_BASE";
const ENV_PHASE: &str = "CELLFS_POWER_PHASE";
/// The disks that keep more than they must are looked at after each so many calls; this many
/// are told by `CELLFS_POWER_EVERY`.
const EVERY: usize = 17;

#[test]
#[ignore = "the program that the test traces"]
fn program() {
    let Some(base) = std::env::var_os(ENV_BASE).map(PathBuf::from) else {
        return;
    };
    if let Ok(n) = std::env::var(ENV_PHASE) {
        let n: usize = n.parse().expect("a number");
        workload::PHASES[n](&base);
        // As a kill would end it.
        std::process::exit(0);
    }
    for n in 0..workload::PHASES.len() {
        let done = again()
            .env(ENV_PHASE, n.to_string())
            .status()
            .expect("runs");
        assert!(done.success(), "phase {n}");
    }
}

fn again() -> Command {
    let mut c = Command::new(std::env::current_exe().expect("a test program"));
    c.args([
        "--exact",
        "power::program",
        "--ignored",
        "--nocapture",
        "--test-threads=1",
    ]);
    c
}

/// Runs the workload under strace, in a directory of its own.
fn record() -> (tempfile::TempDir, PathBuf, Trace) {
    for _ in 0..5 {
        let dir = tempfile::tempdir().expect("tempdir");
        let base = dir.path().canonicalize().expect("there");
        let trace = record_in(&base);
        // A thread that was within a call when its process ended: once more.
        if trace.cut == 0 {
            return (dir, base, trace);
        }
    }
    panic!("each run ended within a call");
}

fn record_in(base: &Path) -> Trace {
    std::fs::create_dir(base.join("states")).expect("made");
    let program = again();
    let done = Command::new("strace")
        .args(["-f", "-y", "-xx", "--seccomp-bpf", "-s", "16777216", "-e"])
        .arg(format!("trace={}", trace::CALLS))
        .arg("-o")
        .arg(base.join("trace"))
        .arg(program.get_program())
        .args(program.get_args())
        .env(ENV_BASE, base)
        .output()
        .expect("strace is needed: apt-get install strace");
    assert!(
        done.status.success(),
        "{}{}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
    trace::read(&base.join("trace"))
}

struct Job {
    at: usize,
    variant: Variant,
    image: Image,
    promises: std::sync::Arc<Promises>,
}

#[derive(Default)]
struct Found {
    prefixes: usize,
    disks: usize,
    recoveries: usize,
    wrong: BTreeMap<usize, Vec<String>>,
}

/// Replays a trace; `struck` names the calls that are left out. After each call the disk that
/// keeps least is looked at; after every `every`th the others too. A `control` looks at the
/// former alone, now and then, until something is wrong.
fn replay(
    base: &Path,
    t: &Trace,
    struck: &dyn Fn(&Call) -> bool,
    every: usize,
    control: bool,
) -> (Found, Disk) {
    let mut disk = Disk::new(base);
    let mut promises = std::sync::Arc::new(Promises::default());
    let recoveries = Recoveries::default();
    let (disks, wrong) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    let mut prefixes = 0;
    let events = base.join("events");
    let ours = |c: &Call| -> bool {
        // Only what is below `volumes` is the disk; the rest is the test's own.
        let here = base.join("volumes");
        let is = |p: &Path| p.starts_with(&here) || p == base;
        let mut paths = c.args.iter().flat_map(|a| {
            let direct = a.path.clone();
            let named = (!a.bytes.is_empty()).then(|| {
                use std::os::unix::ffi::OsStrExt;
                PathBuf::from(std::ffi::OsStr::from_bytes(
                    &a.bytes[..a.bytes.len().min(4096)],
                ))
            });
            direct.into_iter().chain(named)
        });
        paths.any(|p| is(&p))
    };
    let (send, receive) = std::sync::mpsc::sync_channel::<Job>(8);
    let receive = Mutex::new(receive);
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                loop {
                    let job = receive.lock().expect("lock").recv();
                    let Ok(job) = job else { return };
                    let cell = recoveries.of(&job.image);
                    let got = cell.get().expect("recovered");
                    disks.fetch_add(1, Ordering::Relaxed);
                    let mut found = judge(&job.promises, job.variant, got);
                    for f in &mut found {
                        *f = format!("{:?}: {f}", job.variant);
                    }
                    if !found.is_empty() {
                        let mut w = wrong.lock().expect("lock");
                        w.entry(job.at).or_insert_with(Vec::new).extend(found);
                    }
                }
            });
        }
        let send = send;
        let mut changes = 0;
        for step in &t.steps {
            let (Step::Began(n) | Step::Ended(n)) = *step;
            let c = &t.calls[n];
            if struck(c) {
                continue;
            }
            if *step == Step::Began(n) {
                disk.began(n, c);
                continue;
            }
            let mut look = false;
            if c.name == "write" && c.args[0].path.as_deref() == Some(events.as_path()) {
                let p = std::sync::Arc::make_mut(&mut promises);
                for line in String::from_utf8_lossy(&c.args[1].bytes).lines() {
                    p.line(line, &base.join("states"));
                    look |= line.starts_with('A');
                }
            } else if ours(c) && disk.ended(n, c) {
                look = true;
            }
            if !look {
                continue;
            }
            changes += 1;
            if control && changes % every != 0 {
                continue;
            }
            if control && !wrong.lock().expect("lock").is_empty() {
                break;
            }
            prefixes += 1;
            let others = [
                Variant::LeastZeros,
                Variant::Names,
                Variant::NamesZeros,
                Variant::Some(n as u64),
                Variant::All,
            ];
            let more = !control && (changes % every == 0 || is_sync(c, "/overlay"));
            let others = if more { &others[..] } else { &[] };
            for variant in [&[Variant::Least], others].concat() {
                let image = disk.image(variant);
                let promises = promises.clone();
                send.send(Job {
                    at: n,
                    variant,
                    image,
                    promises,
                })
                .expect("sent");
            }
        }
        drop(send);
    });
    let found = Found {
        prefixes,
        disks: disks.into_inner(),
        recoveries: recoveries.count(),
        wrong: wrong.into_inner().expect("lock"),
    };
    println!(
        "{} prefixes, {} disks, {} of them different, {} paths acknowledged, {} prefixes wrong",
        found.prefixes,
        found.disks,
        found.recoveries,
        promises.acknowledged(),
        found.wrong.len()
    );
    (found, disk)
}

/// The model's idea of the disk at the end must be the disk.
fn compare(base: &Path, disk: &Disk) {
    let model = disk.now();
    let mut real = BTreeMap::new();
    let mut queue = vec![base.join("volumes")];
    while let Some(p) = queue.pop() {
        let name = p.strip_prefix(base).expect("below").to_owned();
        if p.is_dir() {
            queue.extend(
                std::fs::read_dir(&p)
                    .expect("read")
                    .map(|e| e.expect("read").path()),
            );
            real.insert(name, None);
        } else {
            real.insert(
                name,
                Some(std::sync::Arc::new(std::fs::read(&p).expect("read"))),
            );
        }
    }
    let names = |m: &BTreeMap<PathBuf, Option<disk::Bytes>>| m.keys().cloned().collect::<Vec<_>>();
    let only = |a: Vec<PathBuf>, b: Vec<PathBuf>| -> Vec<PathBuf> {
        a.into_iter().filter(|p| !b.contains(p)).collect()
    };
    assert_eq!(
        (
            only(names(&model), names(&real)),
            only(names(&real), names(&model))
        ),
        (Vec::new(), Vec::new()),
        "names that only the model or only the disk has"
    );
    for (p, b) in &real {
        assert!(model[p] == *b, "the model has other bytes of {p:?}");
    }
}

fn describe(t: &Trace, found: &Found) -> String {
    let mut out = String::new();
    for (at, wrong) in found.wrong.iter().take(12) {
        let c = &t.calls[*at];
        let place = c.args.iter().find_map(|a| a.path.clone());
        out += &format!("after call {at}, {} {place:?}:\n", c.name);
        for w in wrong.iter().take(6) {
            out += &format!("    {w}\n");
        }
    }
    out
}

fn is_sync(c: &Call, below: &str) -> bool {
    let path = c.args.first().and_then(|a| a.path.as_deref());
    c.name.contains("sync") && path.is_some_and(|p| p.to_string_lossy().contains(below))
}

#[test]
fn nothing_acknowledged_is_lost_by_power_loss_at_any_point() {
    let (dir, base, t) = record();
    if std::env::var_os("CELLFS_POWER_KEEP").is_some() {
        std::mem::forget(dir);
        println!("{}", base.display());
    }
    let every = std::env::var("CELLFS_POWER_EVERY")
        .ok()
        .and_then(|n| n.parse().ok());
    let (found, disk) = replay(&base, &t, &|_| false, every.unwrap_or(EVERY), false);
    print!("{}", describe(&t, &found));
    compare(&base, &disk);
    assert!(found.wrong.is_empty(), "{}", describe(&t, &found));
    assert!(found.prefixes > 300, "too little was traced");
    // The check sees something: without these fsyncs, something acknowledged is lost.
    for below in ["/objects/pack", "/journal", "/overlay"] {
        let (found, _) = replay(&base, &t, &|c| is_sync(c, below), 20, true);
        assert!(
            !found.wrong.is_empty(),
            "nothing is lost without fsyncs of {below}"
        );
    }
}
