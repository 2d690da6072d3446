//! A volume of a million files, and a directory of two hundred thousand: how long things take, and
//! how much memory both nodes have by then. `packaging/bench.sh big` runs it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{self, Lab, Node, rounds};

/// Files of one directory of the million.
const FILES_A_DIRECTORY: usize = 20;
/// Who makes files at once.
const MAKERS: usize = 2;

struct Pair {
    nodes: Vec<Node>,
}

impl Pair {
    /// Does something and prints what it took; memory is of now and at most, each node's, in MiB.
    fn timed<T>(&self, what: &str, act: impl FnOnce(&Self) -> T) -> T {
        let begin = Instant::now();
        let done = act(self);
        let ms = begin.elapsed().as_secs_f64() * 1e3;
        let memory: Vec<String> = (self.nodes.iter())
            .map(|n| {
                let (now, most) = n.memory_mib();
                format!("{now} ({most})")
            })
            .collect();
        println!("{what:<52}{ms:>12.0} ms{:>28}", memory.join(", "));
        done
    }

    fn here(&self) -> &Path {
        self.nodes[0].dir()
    }

    fn there(&self) -> &Path {
        self.nodes[1].dir()
    }

    /// An edit of one node's, until the other shows it.
    fn edit(&self, what: &str, from: &Path, to: &Path, path: &str) {
        let mut times: Vec<f64> = (0..5)
            .map(|n| {
                let text = format!("{what} {n}");
                let begin = Instant::now();
                fs::write(from.join(path), &text).expect("written");
                let end = begin + Duration::from_secs(600);
                while fs::read(to.join(path)).map_or(true, |b| b != text.as_bytes()) {
                    assert!(Instant::now() < end, "{path} did not come");
                    std::thread::sleep(Duration::from_micros(200));
                }
                begin.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        times.sort_by(f64::total_cmp);
        println!("{what:<52}{:>12.0} ms, the median of 5", times[2]);
    }
}

fn make(dir: &Path, files: usize) {
    let dirs = files.div_ceil(FILES_A_DIRECTORY);
    std::thread::scope(|s| {
        for maker in 0..MAKERS {
            s.spawn(move || {
                for d in (0..dirs).filter(|d| d % MAKERS == maker) {
                    let at = dir.join(directory(d));
                    fs::create_dir_all(&at).expect("made");
                    for f in 0..FILES_A_DIRECTORY {
                        let text = format!("file {f} of directory {d}\n");
                        fs::write(at.join(format!("f{f}")), text).expect("written");
                    }
                }
            });
        }
    });
}

fn directory(d: usize) -> String {
    format!("a{}/b{}/c{d}", d % 50, d / 50 % 20)
}

fn shell(words: &[&str], dir: &Path) {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg(dir).stdout(Stdio::null());
    assert!(command.status().expect("it runs").success(), "{words:?}");
}

#[test]
#[ignore = "takes minutes: packaging/bench.sh"]
fn a_volume_of_a_million_files() {
    if !harness::fuse() {
        return;
    }
    let files = rounds("CELLFS_BENCH_BIG_FILES", 1_000_000);
    let wide = rounds("CELLFS_BENCH_WIDE_FILES", 200_000);
    let lab = Lab::with_patience(Duration::from_secs(6 * 3_600));
    let pair = Pair { nodes: lab.cell(2) };
    println!("{:<52}{:>15}{:>28}", "", "", "MiB now (at most)");
    let whole = |p: &Pair| {
        harness::agree(
            &[&p.nodes[0], &p.nodes[1]],
            "cell",
            Duration::from_secs(3_600),
        )
    };
    pair.timed(
        &format!("{files} files, {FILES_A_DIRECTORY} in a directory, made"),
        |p| {
            make(p.here(), files);
        },
    );
    pair.timed("until both nodes have all", whole);
    pair.timed(&format!("{wide} files in one directory, made"), |p| {
        let dir = p.here().join("wide");
        fs::create_dir(&dir).expect("made");
        for f in 0..wide {
            fs::write(dir.join(format!("f{f}")), f.to_string()).expect("written");
        }
    });
    pair.timed("until both nodes have all", whole);
    let begin = Instant::now();
    let stopped: Vec<_> = pair.nodes.into_iter().map(Node::stop).collect();
    println!(
        "{:<52}{:>12.0} ms",
        "both nodes stopped",
        begin.elapsed().as_secs_f64() * 1e3
    );
    let begin = Instant::now();
    let nodes: Vec<Node> = stopped.into_iter().map(harness::Setup::start).collect();
    let pair = Pair { nodes };
    println!(
        "{:<52}{:>12.0} ms",
        "and mounted again",
        begin.elapsed().as_secs_f64() * 1e3
    );
    let one = directory(files / FILES_A_DIRECTORY / 2);
    pair.timed("first ls of the top", |p| shell(&["ls"], p.here()));
    pair.timed("first ls of a small directory", |p| {
        shell(&["ls"], &p.here().join(&one));
    });
    pair.timed("first ls of the wide directory", |p| {
        shell(&["ls", "-U"], &p.here().join("wide"));
    });
    pair.timed("and again", |p| {
        shell(&["ls", "-U"], &p.here().join("wide"));
    });
    let small = format!("{one}/f3");
    pair.edit(
        "an edit in a small directory, read there",
        pair.here(),
        pair.there(),
        &small,
    );
    pair.edit(
        "an edit there, read here",
        pair.there(),
        pair.here(),
        &small,
    );
    pair.edit(
        "an edit in the wide directory, read there",
        pair.here(),
        pair.there(),
        "wide/f7",
    );
    pair.timed("ls -l of the wide directory", |p| {
        shell(&["ls", "-l"], &p.here().join("wide"));
    });
    pair.timed("find, of all", |p| shell(&["find"], p.here()));
    pair.timed("and again", |p| shell(&["find"], p.here()));
    pair.edit(
        "an edit in a small directory after it, read there",
        pair.here(),
        pair.there(),
        &small,
    );
    pair.timed("rm -rf of a fiftieth", |p| {
        fs::remove_dir_all(p.here().join("a1")).expect("gone");
    });
    pair.timed("until both nodes have it", whole);
    assert!(!pair.there().join("a1").exists(), "it is gone there");
}
