//! What is timed: each by what it needs, and what it does.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::tree::real_tree;
use crate::harness::{rounds, run};

const MIB: usize = 1 << 20;
const PAGE: usize = 4096;

/// Something that is timed.
pub(super) struct Work {
    /// How the table calls it.
    pub(super) name: &'static str,
    /// Whether the mount is made anew before it.
    pub(super) fresh: bool,
    /// The least part of ext4's speed that was aimed at.
    pub(super) goal: Option<f64>,
    /// How much is done, and its unit for a second.
    pub(super) amount: fn(&World) -> (f64, &'static str),
    /// Makes what it needs.
    pub(super) prepare: fn(&World, &Path, usize),
    /// What was done on the same mount before, without a clock.
    pub(super) warm: fn(&World, &Path),
    /// Does it, and tells how long that took.
    pub(super) run: fn(&World, &Path, usize) -> Duration,
}

/// Sizes, and what all systems are given.
#[derive(Debug)]
pub(super) struct World {
    files: usize,
    large: usize,
    random: usize,
    loops: usize,
    threads: usize,
    entries: usize,
    /// A tree as a tar file, and the same as a git repository.
    tar: PathBuf,
    repository: PathBuf,
    /// Its bytes are what large files hold.
    bytes: Vec<u8>,
    /// Pages of a large file, in no order.
    pages: Vec<u64>,
    names: Vec<String>,
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} files of 4 KiB, a file of {} MiB, {} random pages, a tree of {} entries ({:.0} MB)",
            self.files,
            self.large / MIB,
            self.random,
            self.entries,
            self.bytes.len() as f64 / 1e6
        )
    }
}

fn timed(what: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    what();
    begin.elapsed()
}

/// The same numbers at each run.
fn numbers(mut seed: u64) -> impl Iterator<Item = u64> {
    std::iter::repeat_with(move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005);
        seed = seed.wrapping_add(1_442_695_040_888_963_407);
        seed >> 20
    })
}

fn shell(script: &str, at: &Path) {
    run(Command::new("sh").args(["-ec", script]).current_dir(at));
}

impl World {
    pub(super) fn new(disk: &Path) -> Self {
        let home = disk.join("given");
        let tree = home.join("tree");
        real_tree(&tree, rounds("CELLFS_BENCH_TREE", 4_500));
        let entries = run(Command::new("find").arg(&tree)).lines().count();
        let (tar, repository) = (home.join("tree.tar"), home.join("repository.tar"));
        shell("tar cf tree.tar tree", &home);
        let git = "git -c user.name=n -c user.email=e@example.invalid";
        shell(
            &format!(
                "git init -q tree; cd tree; git add -fA .; {git} commit -qm all; git gc -q; \
                 cd ..; tar cf repository.tar tree; rm -rf tree"
            ),
            &home,
        );
        let large = rounds("CELLFS_BENCH_LARGE_MIB", 128) * MIB;
        let random = rounds("CELLFS_BENCH_RANDOM", 10_000);
        let files = rounds("CELLFS_BENCH_SMALL", 5_000);
        let pages = (large / PAGE) as u64;
        Self {
            files,
            large,
            random,
            loops: rounds("CELLFS_BENCH_MAILS", 50),
            threads: rounds("CELLFS_BENCH_THREADS", 4),
            entries,
            bytes: fs::read(&tar).expect("a tar file"),
            tar,
            repository,
            pages: numbers(7).map(|n| n % pages).take(random).collect(),
            names: (0..files).map(|n| format!("file-{n:05}")).collect(),
        }
    }

    /// A piece of a large file; no two files are the same.
    fn piece(&self, n: usize, round: usize) -> Vec<u8> {
        let at = n * MIB % self.bytes.len();
        let mut piece = Vec::with_capacity(2 * MIB);
        piece.extend_from_slice(&self.bytes[at..self.bytes.len().min(at + MIB)]);
        while piece.len() < MIB {
            let more = (MIB - piece.len()).min(self.bytes.len());
            piece.extend_from_slice(&self.bytes[..more]);
        }
        let tag = format!("{n} {round}");
        for (to, b) in piece.iter_mut().zip(tag.bytes()) {
            *to = b;
        }
        piece
    }

    fn write_large(&self, mut to: &File, round: usize) -> Duration {
        let pieces: Vec<Vec<u8>> = (0..16).map(|n| self.piece(n, round)).collect();
        timed(|| {
            for n in 0..self.large / MIB {
                to.write_all(&pieces[n % pieces.len()]).expect("written");
            }
        })
    }
}

fn large_amount(w: &World) -> (f64, &'static str) {
    (w.large as f64 / 1e6, "MB/s")
}

fn random_amount(w: &World) -> (f64, &'static str) {
    (w.random as f64, "/s")
}

fn files_amount(w: &World) -> (f64, &'static str) {
    (w.files as f64, "/s")
}

fn entries_amount(w: &World) -> (f64, &'static str) {
    (w.entries as f64, "/s")
}

fn once(_: &World) -> (f64, &'static str) {
    (1.0, "/s")
}

fn mails(w: &World) -> (f64, &'static str) {
    ((w.loops * w.threads) as f64, "/s")
}

fn nothing(_: &World, _: &Path) {}

fn nothing_before(_: &World, _: &Path, _: usize) {}

// Large files.

fn have_large(w: &World, at: &Path, _: usize) {
    let path = at.join("large");
    if !path.exists() {
        w.write_large(&File::create(path).expect("made"), 0);
    }
}

fn no_new(_: &World, at: &Path, _: usize) {
    let _ = fs::remove_file(at.join("new"));
}

fn write_new(w: &World, at: &Path, round: usize) -> Duration {
    let begin = Instant::now();
    let file = File::create(at.join("new")).expect("made");
    let made = begin.elapsed();
    let wrote = w.write_large(&file, round);
    made + wrote + timed(|| drop(file))
}

fn overwrite(w: &World, at: &Path, round: usize) -> Duration {
    let file = OpenOptions::new().write(true).open(at.join("large"));
    let file = file.expect("opened");
    w.write_large(&file, round + 1) + timed(|| drop(file))
}

fn read_large(_: &World, at: &Path, _: usize) -> Duration {
    let mut buffer = vec![0; MIB];
    timed(|| {
        let mut file = File::open(at.join("large")).expect("opened");
        while file.read(&mut buffer).expect("read") > 0 {}
    })
}

fn have_read(w: &World, at: &Path) {
    read_large(w, at, 0);
}

/// Somebody looked at its end: a large file that was committed has to be unpacked for that.
fn have_looked(w: &World, at: &Path) {
    let file = File::open(at.join("large")).expect("opened");
    file.read_at(&mut [0], w.large as u64 - 1).expect("read");
}

fn read_pages(w: &World, at: &Path, _: usize) -> Duration {
    let mut buffer = [0; PAGE];
    let file = File::open(at.join("large")).expect("opened");
    timed(|| {
        for page in &w.pages {
            let n = file.read_at(&mut buffer, page * PAGE as u64);
            assert_eq!(n.expect("read"), PAGE);
        }
    })
}

fn have_read_pages(w: &World, at: &Path) {
    read_pages(w, at, 0);
}

fn write_pages(w: &World, at: &Path, round: usize) -> Duration {
    let buffer = [u8::try_from(round % 251).expect("small"); PAGE];
    let file = OpenOptions::new().write(true).open(at.join("large"));
    let file = file.expect("opened");
    let wrote = timed(|| {
        for page in &w.pages {
            file.write_all_at(&buffer, page * PAGE as u64)
                .expect("written");
        }
    });
    wrote + timed(|| drop(file))
}

/// Runs Python, which prints seconds.
fn python(script: &str, at: &Path) -> Duration {
    let said = run(Command::new("python3").args(["-c", script]).current_dir(at));
    let seconds = said.trim().parse::<f64>();
    Duration::from_secs_f64(seconds.expect("seconds"))
}

const MAP: &str = "
import mmap, os, time
f = os.open('large', os.O_RDONLY)
begin = time.perf_counter()
m = mmap.mmap(f, 0, prot=mmap.PROT_READ)
n = 0
for at in range(0, len(m), 1 << 16):
    n += len(m[at:at + (1 << 16)])
print(time.perf_counter() - begin)
";

fn map_large(_: &World, at: &Path, _: usize) -> Duration {
    python(MAP, at)
}

fn have_mapped(_: &World, at: &Path) {
    python(MAP, at);
}

// Many small files.

fn no_made(_: &World, at: &Path, _: usize) {
    let _ = fs::remove_dir_all(at.join("made"));
    fs::create_dir(at.join("made")).expect("made");
}

fn make_files(w: &World, dir: &Path, round: usize) -> Duration {
    let mut buffer = w.piece(0, round);
    buffer.truncate(PAGE);
    let paths: Vec<PathBuf> = w.names.iter().map(|n| dir.join(n)).collect();
    timed(|| {
        for path in &paths {
            let mut file = File::create_new(path).expect("made");
            file.write_all(&buffer).expect("written");
        }
    })
}

fn create(w: &World, at: &Path, round: usize) -> Duration {
    make_files(w, &at.join("made"), round)
}

fn have_made(w: &World, at: &Path, round: usize) {
    no_made(w, at, round);
    make_files(w, &at.join("made"), round);
}

fn unlink(w: &World, at: &Path, _: usize) -> Duration {
    let dir = at.join("made");
    let paths: Vec<PathBuf> = w.names.iter().map(|n| dir.join(n)).collect();
    timed(|| {
        for path in &paths {
            fs::remove_file(path).expect("removed");
        }
    })
}

fn have_files(w: &World, at: &Path, _: usize) {
    let dir = at.join("files");
    if !dir.exists() {
        fs::create_dir(&dir).expect("made");
        make_files(w, &dir, 0);
    }
}

fn stat(w: &World, at: &Path, _: usize) -> Duration {
    let dir = at.join("files");
    let paths: Vec<PathBuf> = w.names.iter().map(|n| dir.join(n)).collect();
    timed(|| {
        for path in &paths {
            path.symlink_metadata().expect("there");
        }
    })
}

fn have_statted(w: &World, at: &Path) {
    stat(w, at, 0);
}

fn open_files(w: &World, at: &Path, _: usize) -> Duration {
    let dir = at.join("files");
    let paths: Vec<PathBuf> = w.names.iter().map(|n| dir.join(n)).collect();
    let mut buffer = [0; PAGE];
    timed(|| {
        for path in &paths {
            let mut file = File::open(path).expect("opened");
            assert_eq!(file.read(&mut buffer).expect("read"), PAGE);
        }
    })
}

fn have_opened(w: &World, at: &Path) {
    open_files(w, at, 0);
}

fn missing(w: &World, at: &Path, _: usize) -> Duration {
    let dir = at.join("files");
    let paths: Vec<PathBuf> = w
        .names
        .iter()
        .map(|n| dir.join(format!("no-{n}")))
        .collect();
    timed(|| {
        for path in &paths {
            assert!(path.symlink_metadata().is_err());
        }
    })
}

fn have_missed(w: &World, at: &Path) {
    missing(w, at, 0);
}

/// Runs a program, whose output nobody reads.
fn program(line: &[&str], at: &Path) -> Duration {
    let mut c = Command::new(line[0]);
    c.args(&line[1..])
        .current_dir(at)
        .env("GIT_OPTIONAL_LOCKS", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    timed(|| assert!(c.status().expect("it starts").success(), "{line:?}"))
}

fn list(_: &World, at: &Path, _: usize) -> Duration {
    program(&["ls", "-l", "files"], at)
}

fn have_listed(w: &World, at: &Path) {
    list(w, at, 0);
}

// A tree.

fn no_tree(_: &World, at: &Path, _: usize) {
    let _ = fs::remove_dir_all(at.join("untar"));
    fs::create_dir(at.join("untar")).expect("made");
}

fn untar(w: &World, at: &Path, _: usize) -> Duration {
    let tar = w.tar.to_str().expect("UTF-8");
    program(&["tar", "xf", tar], &at.join("untar"))
}

fn have_untarred(w: &World, at: &Path, round: usize) {
    no_tree(w, at, round);
    untar(w, at, round);
}

fn remove_tree(_: &World, at: &Path, _: usize) -> Duration {
    program(&["rm", "-rf", "untar"], at)
}

fn have_tree(w: &World, at: &Path, _: usize) {
    let dir = at.join("tree");
    if !dir.exists() {
        fs::create_dir(&dir).expect("made");
        program(&["tar", "xf", w.tar.to_str().expect("UTF-8")], &dir);
    }
}

fn grep(_: &World, at: &Path, _: usize) -> Duration {
    // Some package's documentation says so, or the last file does not.
    program(&["sh", "-c", "grep -rc nobody-wrote-this tree || true"], at)
}

fn have_grepped(w: &World, at: &Path) {
    grep(w, at, 0);
}

fn find(_: &World, at: &Path, _: usize) -> Duration {
    program(&["find", "tree", "-newer", "."], at)
}

fn have_found(w: &World, at: &Path) {
    find(w, at, 0);
}

fn have_repository(w: &World, at: &Path, _: usize) {
    let dir = at.join("repository");
    if !dir.exists() {
        fs::create_dir(&dir).expect("made");
        program(&["tar", "xf", w.repository.to_str().expect("UTF-8")], &dir);
        run(Command::new("git")
            .args(["-c", "safe.directory=*", "status"])
            .current_dir(dir.join("tree")));
    }
}

fn git_status(_: &World, at: &Path, _: usize) -> Duration {
    let line = ["git", "-c", "safe.directory=*", "status"];
    program(&line, &at.join("repository/tree"))
}

fn have_status(w: &World, at: &Path) {
    git_status(w, at, 0);
}

// Databases and mail.

const DATABASE: &str = "
import os, sqlite3, sys, time
mode = 'MODE'
for f in ('db', 'db-wal', 'db-shm', 'db-journal'):
    if os.path.exists(f): os.unlink(f)
begin = time.perf_counter()
db = sqlite3.connect('db', isolation_level=None)
db.execute('pragma journal_mode=' + mode)
db.execute('create table t (k integer primary key, v text)')
for n in range(200):
    db.execute('begin')
    for m in range(10):
        db.execute('insert into t (v) values (?)', ('value %d ' % n * 8,))
    db.execute('commit')
db.execute('begin')
db.executemany('insert into t (v) values (?)', (('row %d ' % n * 12,) for n in range(50000)))
db.execute('commit')
db.execute('create index i on t (v)')
for n in range(100):
    db.execute('update t set v = ? where k = ?', ('new %d' % n, n * 500 + 1))
assert db.execute('pragma integrity_check').fetchone()[0] == 'ok'
db.close()
print(time.perf_counter() - begin)
";

fn sqlite_wal(_: &World, at: &Path, _: usize) -> Duration {
    python(&DATABASE.replace("MODE", "wal"), at)
}

fn sqlite_rollback(_: &World, at: &Path, _: usize) -> Duration {
    python(&DATABASE.replace("MODE", "delete"), at)
}

/// What a mail server does, as filebench has it: a mail comes, is answered, read, and another one
/// is deleted.
fn mail(w: &World, at: &Path, _: usize) -> Duration {
    let dir = at.join("mail");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir(&dir).expect("made");
    let piece = &w.piece(0, 0)[..16 << 10];
    let one = |thread: usize| {
        let mut buffer = vec![0; 64 << 10];
        let path = |n: usize| dir.join(format!("{thread}-{n}"));
        for n in 0..w.loops {
            let mut f = File::create_new(path(n)).expect("made");
            f.write_all(piece).expect("written");
            f.sync_all().expect("synced");
            drop(f);
            let mut f = OpenOptions::new().read(true).append(true).open(path(n));
            let f = f.as_mut().expect("opened");
            while f.read(&mut buffer).expect("read") > 0 {}
            f.write_all(piece).expect("written");
            f.sync_all().expect("synced");
            fs::read(path(n)).expect("read");
            if n >= 8 {
                fs::remove_file(path(n - 8)).expect("removed");
            }
        }
    };
    timed(|| {
        std::thread::scope(|s| {
            for t in 0..w.threads {
                s.spawn(move || one(t));
            }
        });
    })
}

/// All of it, in the order of the table.
pub(super) const ALL: &[Work] = &[
    Work {
        name: "write 1 MiB pieces, new file",
        fresh: false,
        goal: Some(0.9),
        amount: large_amount,
        prepare: no_new,
        warm: nothing,
        run: write_new,
    },
    Work {
        name: "overwrite",
        fresh: false,
        goal: Some(0.9),
        amount: large_amount,
        prepare: have_large,
        warm: nothing,
        run: overwrite,
    },
    Work {
        name: "read 1 MiB pieces, first",
        fresh: true,
        goal: Some(0.9),
        amount: large_amount,
        prepare: have_large,
        warm: have_looked,
        run: read_large,
    },
    Work {
        name: "read again",
        fresh: false,
        goal: Some(0.9),
        amount: large_amount,
        prepare: have_large,
        warm: have_read,
        run: read_large,
    },
    Work {
        name: "mmap read, first",
        fresh: true,
        goal: Some(0.9),
        amount: large_amount,
        prepare: have_large,
        warm: have_looked,
        run: map_large,
    },
    Work {
        name: "mmap read again",
        fresh: false,
        goal: Some(0.9),
        amount: large_amount,
        prepare: have_large,
        warm: have_mapped,
        run: map_large,
    },
    Work {
        name: "random read of 4 KiB, first",
        fresh: true,
        goal: Some(0.85),
        amount: random_amount,
        prepare: have_large,
        warm: have_looked,
        run: read_pages,
    },
    Work {
        name: "random read again",
        fresh: false,
        goal: Some(0.85),
        amount: random_amount,
        prepare: have_large,
        warm: have_read_pages,
        run: read_pages,
    },
    Work {
        name: "random write of 4 KiB",
        fresh: false,
        goal: Some(0.9),
        amount: random_amount,
        prepare: have_large,
        warm: nothing,
        run: write_pages,
    },
    Work {
        name: "create, write, close",
        fresh: false,
        goal: Some(0.19),
        amount: files_amount,
        prepare: no_made,
        warm: nothing,
        run: create,
    },
    Work {
        name: "unlink",
        fresh: false,
        goal: None,
        amount: files_amount,
        prepare: have_made,
        warm: nothing,
        run: unlink,
    },
    Work {
        name: "stat, first",
        fresh: true,
        goal: None,
        amount: files_amount,
        prepare: have_files,
        warm: nothing,
        run: stat,
    },
    Work {
        name: "stat again",
        fresh: false,
        goal: Some(0.85),
        amount: files_amount,
        prepare: have_files,
        warm: have_statted,
        run: stat,
    },
    Work {
        name: "ls -l, first",
        fresh: true,
        goal: None,
        amount: files_amount,
        prepare: have_files,
        warm: nothing,
        run: list,
    },
    Work {
        name: "ls -l again",
        fresh: false,
        goal: None,
        amount: files_amount,
        prepare: have_files,
        warm: have_listed,
        run: list,
    },
    Work {
        name: "open, read, close, first",
        fresh: true,
        goal: None,
        amount: files_amount,
        prepare: have_files,
        warm: nothing,
        run: open_files,
    },
    Work {
        name: "open, read, close again",
        fresh: false,
        goal: Some(0.12),
        amount: files_amount,
        prepare: have_files,
        warm: have_opened,
        run: open_files,
    },
    Work {
        name: "names that are not there, first",
        fresh: true,
        goal: None,
        amount: files_amount,
        prepare: have_files,
        warm: nothing,
        run: missing,
    },
    Work {
        name: "names that are not there, again",
        fresh: false,
        goal: None,
        amount: files_amount,
        prepare: have_files,
        warm: have_missed,
        run: missing,
    },
    Work {
        name: "tar x",
        fresh: false,
        goal: Some(0.125),
        amount: entries_amount,
        prepare: no_tree,
        warm: nothing,
        run: untar,
    },
    Work {
        name: "rm -rf",
        fresh: false,
        goal: None,
        amount: entries_amount,
        prepare: have_untarred,
        warm: nothing,
        run: remove_tree,
    },
    Work {
        name: "grep -r, first",
        fresh: true,
        goal: None,
        amount: entries_amount,
        prepare: have_tree,
        warm: nothing,
        run: grep,
    },
    Work {
        name: "grep -r again",
        fresh: false,
        goal: None,
        amount: entries_amount,
        prepare: have_tree,
        warm: have_grepped,
        run: grep,
    },
    Work {
        name: "find, first",
        fresh: true,
        goal: None,
        amount: entries_amount,
        prepare: have_tree,
        warm: nothing,
        run: find,
    },
    Work {
        name: "find again",
        fresh: false,
        goal: None,
        amount: entries_amount,
        prepare: have_tree,
        warm: have_found,
        run: find,
    },
    Work {
        name: "git status again",
        fresh: false,
        goal: None,
        amount: entries_amount,
        prepare: have_repository,
        warm: have_status,
        run: git_status,
    },
    Work {
        name: "SQLite, WAL",
        fresh: false,
        goal: None,
        amount: once,
        prepare: nothing_before,
        warm: nothing,
        run: sqlite_wal,
    },
    Work {
        name: "SQLite, rollback journal",
        fresh: false,
        goal: None,
        amount: once,
        prepare: nothing_before,
        warm: nothing,
        run: sqlite_rollback,
    },
    Work {
        name: "mail: create, append, fsync, read",
        fresh: false,
        goal: Some(0.5),
        amount: mails,
        prepare: nothing_before,
        warm: nothing,
        run: mail,
    },
];
