//! Programs that we did not write, in a folder while a second node writes other files: `fsx`,
//! SQLite, `rsync`, `tar`, `git`, `cargo`, `make`, `stress-ng`; and a file that is mapped.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{self, Lab, Node, SOON, agree, git, rounds, run, tool, wait_until};

/// Whether this is what a node wrote to one of the files beside: the same number twice, or nothing
/// yet.
fn is_whole(text: &str) -> bool {
    match text.trim_end().split_once(' ') {
        Some((one, two)) => text.ends_with('\n') && one == two && !one.is_empty(),
        None => text.is_empty(),
    }
}

/// Does this in a folder while another node writes beside it, and somebody reads in the folder what
/// comes from there: never half of a write, and never an error but for a node that was killed.
fn beside<T>(here: &Path, other: &Node, work: impl FnOnce() -> T) -> T {
    const FILES: u64 = 50;
    /// Ends the writer also when the work fails.
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let rate = rounds("CELLFS_TEST_BESIDE", 50) as u64;
    let done = AtomicBool::new(false);
    let is_done = || done.load(Ordering::Relaxed);
    std::thread::scope(|s| {
        let writer = s.spawn(|| {
            fs::create_dir_all(other.at("elsewhere")).expect("made");
            let began = Instant::now();
            for n in 0.. {
                other.write(&format!("elsewhere/{}", n % FILES), format!("{n} {n}\n"));
                if is_done() {
                    return n;
                }
                let due = began + Duration::from_micros(n * 1_000_000 / rate);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            0
        });
        let reader = s.spawn(|| {
            let mut came = 0;
            for n in 0.. {
                let path = here.join(format!("elsewhere/{}", n % FILES));
                match fs::read_to_string(&path) {
                    Ok(text) => {
                        assert!(is_whole(&text), "{}: {text:?}", path.display());
                        came += u64::from(!text.is_empty());
                    }
                    Err(e) => {
                        let known = [libc::ENOENT, libc::ENOTCONN, libc::ECONNABORTED];
                        let code = e.raw_os_error().unwrap_or(0);
                        assert!(known.contains(&code), "{}: {e}", path.display());
                    }
                }
                if is_done() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(7));
            }
            came
        });
        let began = Instant::now();
        let end = Done(&done);
        let out = work();
        drop(end);
        let wrote = writer.join().expect("written");
        let came = reader.join().expect("read");
        assert!(wrote > 0);
        eprintln!(
            "beside: {wrote} writes elsewhere in {:.1?}, {came} reads of them",
            began.elapsed()
        );
        out
    })
}

/// What takes longer than other tests when a variable says so, and ends then, too.
fn patient() -> Lab {
    let larger = std::env::vars_os().any(|(k, _)| {
        let key = k.to_string_lossy();
        ["FSX", "SQLITE", "STRESS_S", "MAPPED", "BESIDE"]
            .iter()
            .any(|v| key == format!("CELLFS_TEST_{v}"))
    });
    Lab::with_patience(Duration::from_secs(if larger { 24 * 3600 } else { 240 }))
}

fn script(name: &str) -> PathBuf {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuse-tests/programs");
    all.join(name)
}

fn python(name: &str) -> Command {
    let mut c = Command::new(tool("python3"));
    c.arg(script(name));
    c
}

/// Both nodes have the same, and their repositories are whole.
fn ends_well(nodes: Vec<Node>) {
    let all: Vec<&Node> = nodes.iter().collect();
    agree(&all, "cell", 2 * SOON);
    let repo = nodes[0].repo("cell");
    assert_eq!(nodes.into_iter().map(Node::stop).count(), 2);
    git::fsck(&repo);
}

const FSX: &str = "\
[weights]
close_open = 2
invalidate = 2
mapread = 10
mapwrite = 10
read = 10
write = 10
truncate = 5
fsync = 1
fdatasync = 1
posix_fallocate = 3
punch_hole = 3
sendfile = 3
posix_fadvise = 2
copy_file_range = 3
[opsize]
max = 65536
";

/// A file that stays in memory while it is written, one that leaves it and comes back, and a large
/// one.
#[test]
fn fsx_finds_nothing() {
    if !harness::fuse() {
        return;
    }
    let program = tool("fsx");
    let steps = rounds("CELLFS_TEST_FSX", 2_000).to_string();
    let random = getrandom::u32().expect("randomness") as usize;
    let seed = rounds("CELLFS_TEST_FSX_SEED", random).to_string();
    let lab = patient();
    let nodes = lab.cell(2);
    let (a, b) = (&nodes[0], &nodes[1]);
    beside(a.dir(), b, || {
        let begin = |length: usize| {
            let config = lab.path(&format!("{length}.toml"));
            fs::write(&config, format!("flen = {length}\n{FSX}")).expect("written");
            let mut fsx = Command::new(&program);
            fsx.args(["-q", "-N", &steps, "-S", &seed, "-f"])
                .arg(config);
            fsx.arg("-P")
                .arg(lab.path(""))
                .arg(a.at(length.to_string()));
            fsx.stdout(Stdio::piped()).stderr(Stdio::piped());
            fsx.spawn().expect("it starts")
        };
        let running = [128 << 10, 200_000, 3_000_000].map(begin);
        for child in running {
            let out = child.wait_with_output().expect("it ends");
            let said = String::from_utf8_lossy(&out.stdout);
            let told = String::from_utf8_lossy(&out.stderr);
            let good = out.status.success() && said.contains("A-OK");
            assert!(good, "seed {seed}: {}\n{said}{told}", out.status);
        }
    });
    ends_well(nodes);
}

/// What runs is killed when the test ends, however it does.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn sqlite_loses_no_transaction() {
    if !harness::fuse() {
        return;
    }
    const MODES: [&str; 4] = ["wal", "delete", "truncate", "persist"];
    let lab = patient();
    let mut nodes = lab.cell(2);
    let b = nodes.pop().expect("two");
    let mut a = nodes.pop().expect("two");
    let acks = |mode: &str| lab.path(&format!("{mode}.acks"));
    let count = |mode: &str| {
        let text = fs::read_to_string(acks(mode)).unwrap_or_default();
        text.lines().count()
    };
    for n in 0..2 * rounds("CELLFS_TEST_SQLITE", 1) {
        let dir = a.dir().to_owned();
        a = beside(&dir, &b, || {
            let began = MODES.map(|mode| {
                let write = |who| {
                    let mut c = python("sqlite.py");
                    c.arg("write").arg(a.at(mode)).args([mode, who]);
                    c.arg(acks(mode)).stderr(Stdio::null());
                    Killed(c.spawn().expect("it starts"))
                };
                (mode, count(mode), ["one", "two"].map(write))
            });
            for (mode, before, _) in &began {
                let wrote = || count(mode) >= before + 20;
                wait_until(2 * SOON, wrote, || {
                    format!("{mode}: {} transactions", count(mode))
                });
            }
            // In turns the programs die and the node does.
            if n % 2 == 0 {
                drop(began);
                return a;
            }
            a.kill().start()
        });
        for mode in MODES {
            run(python("sqlite.py")
                .arg("check")
                .arg(a.at(mode))
                .arg(acks(mode)));
        }
    }
    ends_well(vec![a, b]);
}

/// The archive of a tree, with all that `tar` can know of it.
fn archive(dir: &Path, to: &Path) {
    run(Command::new(tool("tar"))
        .args(["--xattrs", "--xattrs-include=*", "--sort=name"])
        .arg("--pax-option=exthdr.name=%d/%f,delete=atime,delete=ctime")
        .arg("-C")
        .arg(dir)
        .args(["--warning=no-file-ignored", "-cf"])
        .arg(to)
        .arg("."));
}

/// Fails unless `rsync` and `tar` see the same in two trees.
fn assert_alike(lab: &Lab, a: &Path, b: &Path) {
    let slash = |p: &Path| format!("{}/", p.display());
    let said = run(Command::new(tool("rsync"))
        .args(["-naHXic", "--delete"])
        .args([slash(a), slash(b)]));
    let (x, y) = (a.display(), b.display());
    assert_eq!(said, "", "rsync would change {y} to be {x}");
    let tars = ["x.tar", "y.tar"].map(|n| lab.path(n));
    archive(a, &tars[0]);
    archive(b, &tars[1]);
    let same = fs::read(&tars[0]).expect("read") == fs::read(&tars[1]).expect("read");
    assert!(same, "tar sees other things in {x} than in {y}");
}

#[test]
fn rsync_and_tar_keep_everything() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let nodes = lab.cell(2);
    let (a, b) = (&nodes[0], &nodes[1]);
    let tree = lab.path("tree");
    run(python("tree.py").arg(&tree));
    let packed = lab.path("packed.tar");
    archive(&tree, &packed);
    beside(a.dir(), b, || {
        run(Command::new(tool("rsync"))
            .arg("-aHX")
            .arg(format!("{}/", tree.display()))
            .arg(a.at("copy")));
        assert_alike(&lab, &tree, &a.at("copy"));
        fs::create_dir(a.at("unpacked")).expect("made");
        run(Command::new(tool("tar"))
            .args(["--xattrs", "--xattrs-include=*", "--warning=no-timestamp"])
            .arg("-C")
            .arg(a.at("unpacked"))
            .arg("-xpf")
            .arg(&packed));
        // It does not pack sockets.
        fs::remove_file(a.at("copy/socket")).expect("removed");
        run(Command::new("touch")
            .args(["-r"])
            .args([&tree, &a.at("copy")]));
        assert_alike(&lab, &a.at("copy"), &a.at("unpacked"));
    });
    agree(&[a, b], "cell", 2 * SOON);
    for part in ["copy", "unpacked"] {
        // Attributes above a page may be told to a kernel a moment later.
        harness::tree::same_soon(&a.at(part), &b.at(part));
        assert_alike(&lab, &a.at(part), &b.at(part));
    }
    ends_well(nodes);
}

#[test]
fn git_works_in_a_folder() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let nodes = lab.cell(2);
    let (a, b) = (&nodes[0], &nodes[1]);
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let origin = git::init(lab.path("origin"));
    harness::tree::copy(&here.join("src"), &origin);
    let old = git::commit_all(&origin, "one");
    fs::remove_dir_all(origin.join("src/volume")).expect("removed");
    fs::rename(origin.join("src/fs"), origin.join("moved")).expect("renamed");
    harness::tree::copy(&here.join("fuse-tests"), &origin);
    let new = git::commit_all(&origin, "two");
    let folder = a.at("clone");
    beside(a.dir(), b, || {
        run(Command::new("git")
            .args(["clone", "-q", "--no-hardlinks"])
            .args([&origin, &folder]));
        let git = |words: &[&str]| git::git(&folder, words);
        let is_clean = || assert_eq!(git(&["status", "--porcelain"]), "");
        is_clean();
        for commit in [&old, &new] {
            git(&["checkout", "-q", commit]);
            is_clean();
        }
        git(&["worktree", "add", "-q", "../old", &old]);
        assert_eq!(git::git(&a.at("old"), &["status", "--porcelain"]), "");
        fs::write(folder.join("new"), "new").expect("written");
        git::commit_all(&folder, "three");
        git(&["rebase", "-q", "--onto", &old, &new, "HEAD"]);
        git(&["gc", "-q"]);
        is_clean();
        git::fsck(&folder);
    });
    agree(&[a, b], "cell", 2 * SOON);
    harness::tree::same_soon(&folder, &b.at("clone"));
    git::fsck(&b.at("clone"));
    ends_well(nodes);
}

#[test]
fn programs_are_built_in_a_folder() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let nodes = lab.cell(2);
    let (a, b) = (&nodes[0], &nodes[1]);
    let dir = a.at("project");
    fs::create_dir_all(dir.join("src")).expect("made");
    a.write(
        "project/Cargo.toml",
        "[package]\nname = \"told\"\nversion = \"0.0.0\"\nedition = \"2021\"\n[workspace]\n",
    );
    a.write("project/src/lib.rs", "pub const WHAT: &str = \"one\";\n");
    let main = "fn main() { println!(\"{}\", told::WHAT); }\n";
    a.write("project/src/main.rs", main);
    let units = 20;
    for n in 0..units {
        let text = format!("int unit{n}(void) {{ return {n}; }}\n");
        a.write(&format!("project/unit{n}.c"), text);
    }
    let names = |what: &str| (0..units).map(|n| format!("unit{n}{what}")).collect();
    let (calls, objects): (Vec<String>, Vec<String>) = (names("()"), names(".o"));
    let declared: String = calls.iter().map(|c| format!("int {c};\n")).collect();
    let sum = calls.join(" + ");
    let text = format!("{declared}int main(void) {{ return {sum} == 190 ? 7 : 1; }}\n");
    a.write("project/all.c", text);
    let rule = "all: all.o libunits.a\n\t$(CC) -o $@ $^\n";
    let text = format!("{rule}libunits.a: {}\n\tar rcs $@ $^\n", objects.join(" "));
    a.write("project/Makefile", text);
    beside(a.dir(), b, || {
        let cargo = |word: &str| {
            let out = Command::new(tool("cargo"))
                .args([word, "--offline"])
                .current_dir(&dir)
                .env("CARGO_TARGET_DIR", dir.join("target"))
                .output()
                .expect("it starts");
            let told = String::from_utf8_lossy(&out.stderr).into_owned();
            assert!(out.status.success(), "{told}");
            (String::from_utf8_lossy(&out.stdout).into_owned(), told)
        };
        assert_eq!(cargo("run").0, "one\n");
        let again = cargo("build").1;
        assert!(!again.contains("Compiling"), "{again}");
        a.write("project/src/lib.rs", "pub const WHAT: &str = \"two\";\n");
        assert_eq!(cargo("run").0, "two\n");
        let make = || run(Command::new(tool("make")).args(["-j2", "-C"]).arg(&dir));
        make();
        let ended = Command::new(dir.join("all")).status().expect("it runs");
        assert_eq!(ended.code(), Some(7));
        let again = make();
        assert!(again.contains("up to date"), "{again}");
    });
    agree(&[a, b], "cell", 2 * SOON);
    let built = b.at("project/target/debug/told");
    let says = || {
        Command::new(&built)
            .output()
            .is_ok_and(|o| o.stdout == b"two\n")
    };
    wait_until(SOON, says, || format!("{} does not run", built.display()));
    ends_well(nodes);
}

/// Of `stress-ng`, those that verify what files do, and end soon: not `link` and `dirdeep`, which
/// give one file thousands of names.
const STRESSORS: &str = "chmod chown copy-file dentry dir dup fallocate fcntl filename flock \
    fstat getdent hdd io iomix lockf mmap open readahead rename seek sendfile symlink sync-file \
    utime xattr";

#[test]
fn stress_ng_finds_nothing() {
    if !harness::fuse() {
        return;
    }
    let program = tool("stress-ng");
    let lab = patient();
    let nodes = lab.cell(2);
    let (a, b) = (&nodes[0], &nodes[1]);
    let seconds = rounds("CELLFS_TEST_STRESS_S", 1).to_string();
    fs::create_dir(a.at("stress")).expect("made");
    beside(a.dir(), b, || {
        // By fours: each is to run for a while, not to have all of the machine.
        let names: Vec<&str> = STRESSORS.split_whitespace().collect();
        for some in names.chunks(4) {
            let mut stress = Command::new(&program);
            for name in some {
                stress.args([&format!("--{name}"), "1"]);
            }
            stress.args(["--timeout", &seconds, "--verify", "--temp-path"]);
            stress.arg(a.at("stress"));
            stress.args(["--hdd-bytes", "8m", "--fallocate-bytes", "8m"]);
            stress.args(["--seek-size", "8m", "--readahead-bytes", "8m"]);
            stress.args(["--sync-file-bytes", "8m", "--iomix-bytes", "8m"]);
            stress.args(["--copy-file-bytes", "128m"]);
            run(&mut stress);
        }
        let left: Vec<_> = fs::read_dir(a.at("stress")).expect("read").collect();
        assert!(left.is_empty(), "{left:?}");
    });
    ends_well(nodes);
}

/// A program that has a file mapped, and no descriptor of it.
struct Mapper(Child, ChildStdin, BufReader<ChildStdout>);

impl Mapper {
    fn new(path: &Path) -> Self {
        let mut c = python("mapped.py");
        c.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut c = c.spawn().expect("it starts");
        let (to, from) = (c.stdin.take(), c.stdout.take());
        let from = BufReader::new(from.expect("piped"));
        let mut mapper = Self(c, to.expect("piped"), from);
        mapper.tell(&format!("map {}", path.display()));
        mapper
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.1, "{line}").expect("told");
        let mut answer = String::new();
        self.2.read_line(&mut answer).expect("answered");
        assert_eq!(answer, "ok\n", "{line}");
    }
}

impl Drop for Mapper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Synced,
    EditedThere,
    Evicted,
    Killed,
}

fn orders(of: &[Event]) -> Vec<Vec<Event>> {
    if of.is_empty() {
        return vec![Vec::new()];
    }
    let with = |first: &Event| {
        let rest: Vec<Event> = of.iter().filter(|e| *e != first).copied().collect();
        let begin = move |mut o: Vec<Event>| {
            o.insert(0, *first);
            o
        };
        orders(&rest).into_iter().map(begin).collect::<Vec<_>>()
    };
    of.iter().flat_map(with).collect()
}

const LINE: usize = 50;

fn lines(many: usize) -> Vec<u8> {
    let all: String = (0..many).map(|n| format!("{n:0>49}\n")).collect();
    all.into_bytes()
}

/// A file is mapped, its descriptor closed, and stored to; then all of this happens in each order.
#[test]
fn a_mapped_file_keeps_what_was_synced() {
    if !harness::fuse() {
        return;
    }
    use Event::{EditedThere, Evicted, Killed, Synced};
    let lab = patient();
    let mut nodes = lab.cell(2);
    let b = nodes.pop().expect("two");
    let mut a = nodes.pop().expect("two");
    let all = orders(&[Synced, EditedThere, Evicted, Killed]);
    let step = all.len() / rounds("CELLFS_TEST_MAPPED", 4).clamp(1, all.len());
    let first = getrandom::u32().expect("randomness") as usize % step;
    for (n, order) in all.into_iter().enumerate().skip(first).step_by(step) {
        // In memory, at the border, in an overlay file.
        let made = [100, 2_621, 2_622, 10_000].map(|many| {
            let name = format!("mapped{n}-{many}");
            let old = lines(many);
            a.write(&name, &old);
            (name, old)
        });
        agree(&[&a, &b], "cell", SOON);
        let mut mappers = Vec::new();
        for (name, old) in &made {
            let mut mapper = Mapper::new(&a.at(name));
            let mut new = old.clone();
            let at = old.len() - LINE * 2;
            new[at..at + 5].copy_from_slice(b"STORE");
            mapper.tell(&format!("store {at} STORE"));
            mappers.push((mapper, new));
        }
        let mut is_synced = false;
        for event in &order {
            match event {
                Synced => {
                    is_synced |= !mappers.is_empty();
                    mappers.iter_mut().for_each(|(m, _)| m.tell("msync"));
                }
                Evicted => mappers.iter_mut().for_each(|(m, _)| m.tell("evict")),
                EditedThere => edit_there(&a, &b, &made),
                Killed => {
                    mappers.clear();
                    a = a.kill().start();
                }
            }
            for (mapper, new) in &mut mappers {
                let copy = lab.path("mapping");
                mapper.tell(&format!("read {}", copy.display()));
                let same = fs::read(copy).expect("read") == *new;
                assert!(same, "{order:?}: the mapping is another after {event:?}");
            }
        }
        drop(mappers);
        a.settled();
        agree(&[&a, &b], "cell", 2 * SOON);
        for (name, old) in &made {
            for node in [&a, &b] {
                let found = |what: &[u8]| versions(node, name, old.len(), what);
                let good = || (!is_synced || found(b"STORE")) && found(b"THERE");
                wait_until(SOON, good, || format!("{order:?}: {name} lacks some"));
            }
        }
    }
    ends_well(vec![a, b]);
}

/// Changes a line of each file on `b` that the mapping does not, and waits until `a` shows it.
fn edit_there(a: &Node, b: &Node, made: &[(String, Vec<u8>)]) {
    for (name, _) in made {
        let path = b.at(name);
        let file = fs::OpenOptions::new().write(true).open(path);
        let file = file.expect("opened");
        std::os::unix::fs::FileExt::write_all_at(&file, b"THERE", 0).expect("written");
    }
    for (name, _) in made {
        let shows = || fs::read(a.at(name)).is_ok_and(|is| is.starts_with(b"THERE"));
        // One that is written to here stays what it is until its writer is done.
        let begin = Instant::now();
        while !shows() && begin.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Whether these bytes are in the file or in a copy beside it, which are as long as it was and have
/// no zeros that nobody wrote.
fn versions(node: &Node, name: &str, len: usize, what: &[u8]) -> bool {
    let entries = fs::read_dir(node.dir()).expect("read");
    let names = entries.map(|e| e.expect("read").file_name());
    let of_it = names.filter(|n| {
        let n = n.to_string_lossy();
        n == name || n.starts_with(&format!("{name}.conflict-"))
    });
    let mut is_there = false;
    for n in of_it {
        let is = fs::read(node.at(&n)).expect("read");
        assert_eq!(is.len(), len, "{n:?} on {}", node.name());
        assert!(!is.contains(&0), "{n:?} on {} has zeros", node.name());
        is_there |= is.windows(what.len()).any(|w| w == what);
    }
    is_there
}
