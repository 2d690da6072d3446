//! Deriving the view of a large tree, timed beside git's merge: `packaging/bench.sh` runs it.
//!
//! The tree is made of the product's own commits. *cold* is a repository just opened, with empty
//! caches and no pack open: what a node pays once after it started. *warm* is a node that has
//! derived other views of the tree and wrote one of the sides: what the others wrote is read for
//! the first time. The files are in the page cache in all cases. git is a process for each merge, as
//! it always is, on the same trees, rolled into one pack. Processor time of less than some
//! milliseconds is too short for the kernel to tell.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cellfs::base::id::{BranchId, FileId, NodeId, Oid};
use cellfs::base::name::EntryName;
use cellfs::base::stamp::{Dot, Hlc, Stamp};
use cellfs::journal::Entry;
use cellfs::merge::diff::diff;
use cellfs::record::Source;
use cellfs::record::cache::Cache;
use cellfs::record::change::{Change, SetField};
use cellfs::record::model::Kind;
use cellfs::record::state::State;
use cellfs::store::objects::{Memory, Object, ObjectKind, Objects};
use cellfs::store::repo::Repo;
use cellfs::volume::chain::{self, Deed, Desk, Disk, Reach};
use cellfs::volume::derive;
use cellfs::volume::view::{HeadInfo, View};
use cellfs::volume::{Identity, VolumeResult};

use crate::harness::{Lab, git, rounds, run};

/// Directories: these at the top, each with 99 in it.
const TOPS: u64 = 50;
const BELOW: u64 = 99;
const DIRS: u64 = TOPS * (BELOW + 1);

/// A repository whose journal forgets: all is in packs before anything is timed.
pub(super) struct Bench {
    pub(super) repo: Arc<Repo>,
    cache: Cache,
    entries: AtomicU64,
}

impl Disk for Bench {
    fn hold(&self, _: Vec<u8>, objects: Vec<(Oid, Object)>) -> VolumeResult<()> {
        let n = self.entries.fetch_add(1, Ordering::Relaxed);
        self.repo.hold(objects, || VolumeResult::Ok(n))
    }

    fn flush(&self, objects: Vec<(Oid, Object)>) -> VolumeResult<()> {
        Ok(self.repo.flush(objects)?)
    }

    fn append(&self, _: &Entry) -> VolumeResult<u64> {
        Ok(self.entries.fetch_add(1, Ordering::Relaxed))
    }

    fn last(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    fn sync(&self, _: u64) -> VolumeResult<()> {
        Ok(())
    }
}

pub(super) fn stamp(branch: u64, seq: u64) -> Stamp {
    Stamp {
        hlc: Hlc((1_700_000_000_000 + branch * 1000 + seq) << 16),
        branch: BranchId(branch),
        seq,
    }
}

/// The commit of all files.
pub(super) const BASE: Dot = Dot {
    branch: BranchId(1),
    seq: 1,
};

fn id(n: u64) -> FileId {
    FileId { branch: 1, n }
}

/// Where files begin among the ids.
const FIRST: u64 = DIRS + 1;

/// A file of the tree.
pub(super) fn file(n: u64) -> FileId {
    id(FIRST + n)
}

impl Bench {
    pub(super) fn open(path: &std::path::Path) -> Self {
        Self {
            repo: Arc::new(Repo::create(path).expect("a repository")),
            cache: Cache::default(),
            entries: AtomicU64::new(1),
        }
    }

    fn objects(&self) -> Arc<dyn Objects> {
        self.repo.clone()
    }

    pub(super) fn commit(
        &self,
        base: &View,
        at: Stamp,
        stage: &Memory,
        changes: &[Change],
    ) -> View {
        let who = Identity {
            node: NodeId([7; 32]),
            name: "bench".to_owned(),
        };
        let desk = Desk {
            objects: self.objects(),
            cache: &self.cache,
            who: &who,
            disk: self,
        };
        let deed = Deed {
            stamp: at,
            births: 0,
            changes,
            message: "bench\n",
        };
        let sealed = chain::change(&desk, base, stage, &deed).expect("applies");
        let fixed = chain::fix(&desk, base, stage, sealed, Reach::default()).expect("lasts");
        fixed.view
    }

    /// All files and directories in one commit.
    pub(super) fn tree(&self, files: u64) -> View {
        let empty = derive::derive(self.objects(), &self.cache, Vec::new()).expect("nothing");
        let stage = Memory::over(empty.stage.clone());
        let null = Oid::null(gix::hash::Kind::Sha1);
        let mut changes = Vec::new();
        let mut born = |n: u64, parent, name: String, kind, blob| {
            let name = EntryName::new(name).expect("a name");
            let id = id(n);
            changes.push(Change::Born {
                id,
                parent,
                name,
                kind,
                blob,
            });
            let field = SetField::SetMtime(1_700_000_000_000_000_000);
            changes.push(Change::Field { id, field });
        };
        for d in 0..DIRS {
            let (top, sub) = (d / (BELOW + 1), d % (BELOW + 1));
            let parent = if sub == 0 {
                FileId::ROOT
            } else {
                id(top * (BELOW + 1) + 1)
            };
            born(d + 1, parent, format!("dir{d}"), Kind::Dir, null);
        }
        for f in 0..files {
            let text = format!("file {f}\nof some\nlines\n").into_bytes();
            let blob = stage.put(ObjectKind::Blob, text).expect("memory");
            let dir = id(f * DIRS / files + 1);
            born(FIRST + f, dir, format!("file{f}.txt"), Kind::File, blob);
        }
        self.commit(&empty, stamp(1, 1), &stage, &changes)
    }

    /// One commit that edits these files.
    fn edit(&self, base: &View, branch: u64, files: impl Iterator<Item = u64>) -> HeadInfo {
        let stage = Memory::over(base.stage.clone());
        let mut changes = Vec::new();
        for f in files {
            let text = format!("file {f}\nof some\nlines\nby {branch}\n").into_bytes();
            let blob = stage.put(ObjectKind::Blob, text).expect("memory");
            let id = file(f);
            changes.push(Change::Write {
                id,
                base: vec![BASE],
                kind: Kind::File,
                blob,
            });
            let field = SetField::SetMtime(1_700_000_001_000_000_000);
            changes.push(Change::Field { id, field });
        }
        let view = self.commit(base, stamp(branch, 1), &stage, &changes);
        view.heads.first().expect("its head").clone()
    }

    fn head(&self, id: Oid) -> HeadInfo {
        let objects = self.objects();
        derive::read_head(Source::new(&*objects, &self.cache), id).expect("a head")
    }

    /// The first head is one's own; the others come. Time on the clock, of the processor, and
    /// of finding the names that changed; what is shown.
    fn derive(&self, base: &State, heads: &[Oid]) -> (Took, View) {
        let (own, others) = heads.split_first().expect("a head");
        let own = vec![self.head(*own)];
        let from = derive::derive(self.objects(), &self.cache, own).expect("a view");
        // Who wrote it has what it changed at hand.
        let src = Source::new(&*from.stage, &self.cache);
        diff(src, base, &from.state, &|_| true).expect("reads");
        let (begin, cpu) = (Instant::now(), own_cpu());
        let to = derive::grow(self.objects(), &self.cache, &from, others);
        let to = to.expect("derives").expect("news");
        let (wall, cpu) = (begin.elapsed(), own_cpu().saturating_sub(cpu));
        let begin = Instant::now();
        let src = Source::new(&*to.stage, &self.cache);
        let changed = diff(src, &from.state, &to.state, &|_| true).expect("reads");
        assert!(!changed.names.is_empty());
        let names = begin.elapsed();
        (Took { wall, cpu, names }, to)
    }
}

#[derive(Clone, Copy)]
struct Took {
    wall: Duration,
    cpu: Duration,
    names: Duration,
}

/// Processor time of this thread.
fn own_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let ns = text.split(' ').next().and_then(|n| n.parse().ok());
    Duration::from_nanos(ns.unwrap_or_default())
}

/// What is merged: heads, the first of them one's own.
struct Case {
    name: &'static str,
    rounds: Vec<Vec<HeadInfo>>,
}

/// Files spread over all, no two cases or sides alike.
fn spread(files: u64, count: u64, turn: u64) -> impl Iterator<Item = u64> {
    let step = files / count;
    (0..count).map(move |i| i * step + turn % step)
}

fn cases(b: &Bench, base: &View, files: u64) -> Vec<Case> {
    let mut branch = 1;
    let mut edit = |count: u64, turn: u64| {
        branch += 1;
        b.edit(base, branch, spread(files, count, turn))
    };
    let mut pairs = |name, n: u64, count: u64| {
        let rounds = (0..n)
            .map(|r| {
                let at = r * 7919 + count;
                vec![edit(count, at), edit(count, at + files / count / 2)]
            })
            .collect();
        Case { name, rounds }
    };
    let mut all = vec![
        pairs("1 change on each side", 21, 1),
        pairs("500 changes on each side", 7, 500),
        pairs("1,000 changes on each side", 7, 1000),
    ];
    let many = |r: u64| {
        let heads = 0..64u64;
        heads
            .map(|h| edit(1, r * 7919 + h * (files / 64) + 3))
            .collect()
    };
    let rounds = (0..7).map(many).collect();
    all.push(Case {
        name: "64 heads of 1 change",
        rounds,
    });
    all
}

fn median(all: &[Duration]) -> Duration {
    let mut all = all.to_vec();
    all.sort();
    all.get(all.len() / 2).copied().unwrap_or_default()
}

fn ms(d: Duration) -> String {
    format!("{:.2}", d.as_secs_f64() * 1e3)
}

/// What git makes of the same heads, and how long it takes. More than two are merged one by one.
fn by_git(repo: &std::path::Path, heads: &[HeadInfo]) -> (Duration, String) {
    let contents: Vec<String> = heads
        .iter()
        .map(|h| h.content.expect("content").to_string())
        .collect();
    let (first, rest) = contents.split_first().expect("a head");
    let begin = Instant::now();
    let (mut tip, mut tree) = (first.clone(), String::new());
    for (n, other) in rest.iter().enumerate() {
        tree = git::git(repo, &["merge-tree", "--write-tree", &tip, other]);
        tree.truncate(tree.trim_end().len());
        if n + 1 < rest.len() {
            let parents = ["-p", tip.as_str(), "-p", other.as_str()];
            let words = ["commit-tree", "-m", "m", &tree];
            tip = git::git(repo, &[&words[..], &parents[..]].concat());
            tip.truncate(tip.trim_end().len());
        }
    }
    (begin.elapsed(), tree)
}

#[test]
#[ignore = "takes minutes: packaging/bench.sh"]
fn beside_git_merge_tree() {
    let lab = Lab::with_patience(Duration::from_secs(900));
    let files = rounds("CELLFS_BENCH_FILES", 100_000) as u64;
    let path = lab.path("repo");
    let begin = Instant::now();
    let writer = Bench::open(&path);
    let base = writer.tree(files);
    println!(
        "{files} files in {DIRS} directories, committed in {:.1} s",
        begin.elapsed().as_secs_f64()
    );
    let cases = cases(&writer, &base, files);
    writer.repo.settle().expect("a pack");
    drop(writer);
    // What git merges: the content alone, in one pack.
    let rival = lab.path("rival.git");
    for (n, h) in cases
        .iter()
        .flat_map(|c| c.rounds.iter().flatten())
        .enumerate()
    {
        let refs = path.join(format!("refs/heads/b{n}"));
        std::fs::write(refs, format!("{}\n", h.content.expect("content"))).expect("a ref");
    }
    run(std::process::Command::new("git")
        .args(["clone", "-q", "--bare", "--no-local"])
        .arg(&path)
        .arg(&rival));
    git::git(&rival, &["repack", "-adq"]);
    git::git(&rival, &["commit-graph", "write", "--reachable"]);
    println!(
        "{:<28}{:>9}{:>10}{:>9}{:>10}{:>9}{:>10}{:>12}",
        "median ms", "cold", "warm", "cpu", "slowest", "names", "git", "git / warm"
    );
    let cold = |case: &Case| {
        let each = case.rounds.iter().take(5).map(|heads| {
            let ids: Vec<Oid> = heads.iter().map(|h| h.id).collect();
            let fresh = Bench::open(&path);
            let begin = Instant::now();
            let view = derive::grow(
                fresh.objects(),
                &fresh.cache,
                &derive::derive(fresh.objects(), &fresh.cache, Vec::new()).expect("nothing"),
                &ids,
            );
            assert!(view.expect("derives").is_some());
            begin.elapsed()
        });
        median(&each.collect::<Vec<_>>())
    };
    for case in &cases {
        let cold = cold(case);
        let reader = Bench::open(&path);
        let (mut took, mut gits) = (Vec::new(), Vec::new());
        for (n, heads) in case.rounds.iter().enumerate() {
            let ids: Vec<Oid> = heads.iter().map(|h| h.id).collect();
            let (t, view) = reader.derive(&base.state, &ids);
            let (by, tree) = by_git(&rival, heads);
            assert_eq!(tree, view.tree.to_string(), "git merges to the same tree");
            // The first warms both.
            if n > 0 {
                took.push(t);
                gits.push(by);
            }
        }
        let of = |f: fn(&Took) -> Duration| took.iter().map(f).collect::<Vec<_>>();
        let (warm, git) = (median(&of(|t| t.wall)), median(&gits));
        println!(
            "{:<28}{:>9}{:>10}{:>9}{:>10}{:>9}{:>10}{:>12.1}",
            case.name,
            ms(cold),
            ms(warm),
            ms(median(&of(|t| t.cpu))),
            ms(of(|t| t.wall).into_iter().max().unwrap_or_default()),
            ms(median(&of(|t| t.names))),
            ms(git),
            git.as_secs_f64() / warm.as_secs_f64(),
        );
    }
}
