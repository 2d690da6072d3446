//! Our merge beside git's: of two commits that git merges cleanly, the same tree must come out.
//!
//! Without more, merges that this test makes up. `CELLFS_TEST_ORACLE=REPOSITORY` takes the last
//! two-parent merges of a history instead, `CELLFS_TEST_ORACLE_MERGES` of them (500), and
//! tells each difference: release builds take a second each for some thousand files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use cellfs::base::id::{BranchId, NodeId, Oid};
use cellfs::base::stamp::{Dot, Hlc, Stamp};
use cellfs::merge::ahead::Ahead;
use cellfs::merge::join::{Head, join};
use cellfs::merge::project::project;
use cellfs::merge::stock::{Stock, meant};
use cellfs::record::cache::Cache;
use cellfs::record::change::apply;
use cellfs::record::commit::{self, NewCommit, join_seen};
use cellfs::record::draft::Dots;
use cellfs::record::git_tree;
use cellfs::record::state::State;
use cellfs::record::{Result, Source};
use cellfs::store::objects::{Memory, Object, ObjectError, ObjectKind, Objects};

use crate::harness::{Lab, rounds};

/// The objects of a repository, read only.
struct Repository(gix::ThreadSafeRepository);

impl Objects for Repository {
    fn find(&self, id: &Oid) -> std::result::Result<Option<Object>, ObjectError> {
        let repo = self.0.to_thread_local();
        let Ok(Some(o)) = repo.try_find_object(*id) else {
            return Ok(None);
        };
        let kind = match o.kind {
            gix::object::Kind::Blob => ObjectKind::Blob,
            gix::object::Kind::Tree => ObjectKind::Tree,
            gix::object::Kind::Commit => ObjectKind::Commit,
            gix::object::Kind::Tag => ObjectKind::Tag,
        };
        let data = Arc::new(o.detach().data);
        Ok(Some(Object { kind, data }))
    }

    fn put(&self, _: ObjectKind, _: Vec<u8>) -> std::result::Result<Oid, ObjectError> {
        panic!("the history is only read")
    }
}

/// The record commits of one merge.
#[derive(Default)]
struct Known(BTreeMap<Dot, Oid>);

impl Dots for Known {
    fn record_commit(&self, dot: Dot) -> Result<Option<Oid>> {
        Ok(self.0.get(&dot).copied())
    }
}

/// Runs git; its output and whether it said yes.
fn git(repo: &Path, args: &[&str]) -> (String, bool) {
    let out = Command::new("git")
        .arg("-C")
        .arg(repo)
        .args(args)
        .output()
        .expect("git runs");
    let text = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    (text, out.status.success())
}

fn oid(hex: &str) -> Oid {
    Oid::from_hex(hex.as_bytes()).expect("an id")
}

struct Merger {
    objs: Memory,
    cache: Cache,
    known: Known,
    /// Commits made so far.
    made: u64,
}

impl Merger {
    fn new(objects: &Arc<Repository>) -> Self {
        Self {
            objs: Memory::over(objects.clone()),
            cache: Cache::default(),
            known: Known::default(),
            made: 0,
        }
    }

    fn src(&self) -> Source<'_> {
        Source::new(&self.objs, &self.cache)
    }

    /// What a commit of stock git with this tree makes of what these heads show, as a head.
    fn commit(&mut self, on: &[Head], tree: Oid) -> Head {
        self.made += 1;
        let branch = self.made;
        let src = self.src();
        let base = match on {
            [] => State::empty(src).expect("memory"),
            _ => join(src, &self.known, on).expect("joins"),
        };
        let stamp = Stamp {
            hlc: Hlc(branch << 20),
            branch: BranchId(branch),
            seq: 1,
        };
        let stock = Stock {
            base: &base,
            base_tree: project(src, None, &base).expect("projects"),
            commit: tree,
            tree,
            now: &base,
            ahead: &Ahead::default(),
        };
        let meant = meant(src, stock).expect("reads");
        let state = apply(src, &self.known, &base, stamp, &meant.changes).expect("applies");
        let own = [(stamp.branch, stamp.seq)];
        let before = on.iter().map(|h| h.seen.as_slice());
        let new = NewCommit {
            head: commit::Head {
                stamp,
                node: NodeId([0; 32]),
                content: None,
                births: 0,
                seen: join_seen(before.chain([&own[..]])),
                carried: Vec::new(),
                frontier: 0,
            },
            state,
            frontier: on.iter().map(|h| h.commit).collect(),
            tips: Vec::new(),
        };
        let id = commit::encode(&self.objs, new).expect("encodes");
        self.known.0.insert(stamp.dot(), id);
        Head::from(&commit::decode(&self.objs, &id).expect("decodes"))
    }
}

/// Paths at which two trees differ, with what each has there.
fn differences(objs: &dyn Objects, a: Oid, b: Oid) -> Vec<String> {
    let mut out = Vec::new();
    let mut todo = vec![(String::new(), Some(a), Some(b))];
    while let Some((path, a, b)) = todo.pop() {
        let read = |t: Option<Oid>| -> BTreeMap<Vec<u8>, git_tree::TreeEntry> {
            let all = t.map_or_else(Vec::new, |t| git_tree::read(objs, &t).expect("a tree"));
            all.into_iter().map(|e| (e.name.clone(), e)).collect()
        };
        let (a, b) = (read(a), read(b));
        let names: std::collections::BTreeSet<&Vec<u8>> = a.keys().chain(b.keys()).collect();
        for name in names {
            let (x, y) = (a.get(name), b.get(name));
            if x == y {
                continue;
            }
            let at = format!("{path}/{}", String::from_utf8_lossy(name));
            let tree = |e: Option<&git_tree::TreeEntry>| e.filter(|e| e.is_tree()).map(|e| e.id);
            if tree(x).is_some() || tree(y).is_some() {
                todo.push((at, tree(x), tree(y)));
            } else {
                let say = |e: Option<&git_tree::TreeEntry>| {
                    e.map_or_else(
                        || "nothing".to_owned(),
                        |e| format!("{:o} {}", e.mode, e.id),
                    )
                };
                out.push(format!("{at}: ours {}, git's {}", say(x), say(y)));
            }
        }
    }
    out
}

/// What became of all merges.
#[derive(Debug, Default)]
struct Tally {
    /// git merged cleanly and so did we, to the same tree.
    equal: usize,
    /// git asks, and we have a tree.
    asked: usize,
    /// The same, but git had to make up a base of several.
    equal_of_several: usize,
    /// git merged cleanly, to another tree.
    differ: Vec<String>,
    /// The same on several bases. Where these conflict with one another, git goes on with a base
    /// that has conflict markers in it; we have no base then, and both sides are kept.
    /// And as all that is known here of the history is the bases and one commit below them, what was
    /// undone between these and done again on one side looks undone on the other.
    differ_of_several: Vec<String>,
}

fn compare(repo: &Path, merges: &[[String; 3]]) -> Tally {
    let open = gix::open::Options::isolated();
    let objects = Arc::new(Repository(
        gix::ThreadSafeRepository::open_opts(repo, open).expect("a repository"),
    ));
    let mut tally = Tally::default();
    for [merge, one, two] in merges {
        let (bases, _) = git(repo, &["merge-base", "--all", one, two]);
        let bases: Vec<&str> = bases.lines().collect();
        let (theirs, clean) = git(repo, &["merge-tree", "--write-tree", one, two]);
        if !clean {
            tally.asked += 1;
            continue;
        }
        let tree = |c: &str| oid(&git(repo, &["rev-parse", &format!("{c}^{{tree}}")]).0);
        let mut merger = Merger::new(&objects);
        let several = bases.len() > 1;
        let mut below = Vec::new();
        if several {
            let args = [&["merge-base", "--octopus"][..], &bases].concat();
            let (root, found) = git(repo, &args);
            below.extend(found.then(|| merger.commit(&[], tree(&root))));
        }
        let bases: Vec<Head> = bases
            .iter()
            .map(|b| merger.commit(&below, tree(b)))
            .collect();
        let heads = [one, two].map(|c| merger.commit(&bases, tree(c)));
        let src = merger.src();
        let joined = join(src, &merger.known, &heads).expect("joins");
        let ours = project(src, None, &joined).expect("projects");
        let theirs = oid(theirs.lines().next().expect("a tree"));
        if ours == theirs {
            tally.equal += usize::from(!several);
            tally.equal_of_several += usize::from(several);
            continue;
        }
        let all = differences(&merger.objs, ours, theirs).join("\n  ");
        let list = match several {
            true => &mut tally.differ_of_several,
            false => &mut tally.differ,
        };
        list.push(format!("{merge} of {one} and {two}:\n  {all}"));
    }
    tally
}

/// Merge, first and second parent of the last merges of a history.
fn last_merges(repo: &Path, count: usize) -> Vec<[String; 3]> {
    let args = [
        "log",
        "--min-parents=2",
        "--max-parents=2",
        "--format=%H %P",
    ];
    let number = format!("-n{count}");
    let (all, _) = git(repo, &[&args[..], &[&number]].concat());
    let line = |l: &str| -> Option<[String; 3]> {
        let ids: Vec<String> = l.split(' ').map(str::to_owned).collect();
        ids.try_into().ok()
    };
    all.lines().filter_map(line).collect()
}

#[test]
fn clean_merges_are_those_of_git() {
    if let Some(repo) = std::env::var_os("CELLFS_TEST_ORACLE") {
        let count = rounds("CELLFS_TEST_ORACLE_MERGES", 500);
        let merges = last_merges(&PathBuf::from(&repo), count);
        let tally = compare(&PathBuf::from(repo), &merges);
        println!("{} merges: {tally:#?}", merges.len());
        assert!(tally.equal > 0 && tally.differ.is_empty(), "see above");
        return;
    }
    let lab = Lab::new();
    let repo = lab.path("repo");
    let merges = made_up(&repo, 40);
    let tally = compare(&repo, &merges);
    assert!(
        tally.differ.is_empty() && tally.differ_of_several.is_empty(),
        "{tally:#?}"
    );
    assert!(
        tally.equal >= 20 && tally.equal_of_several >= 15,
        "{tally:?}"
    );
}

/// Merges of two sides that edit, add, remove, rename and change modes, and of what the two made
/// of each other.
fn made_up(repo: &Path, count: u64) -> Vec<[String; 3]> {
    std::fs::create_dir_all(repo).expect("a directory");
    assert!(git(repo, &["init", "-q"]).1);
    let mut seed = 7_u64;
    let mut below = move |n: u64| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % n
    };
    let write = |path: String, text: String| {
        let path = repo.join(path);
        std::fs::create_dir_all(path.parent().expect("in the repository")).expect("a directory");
        std::fs::write(path, text).expect("writes");
    };
    let commit = |message: &str| {
        let who = ["-c", "user.name=a", "-c", "user.email=a@b"];
        assert!(git(repo, &["add", "-A"]).1);
        let args = ["commit", "-q", "--allow-empty", "-m", message];
        assert!(git(repo, &[&who[..], &args[..]].concat()).1);
        git(repo, &["rev-parse", "HEAD"]).0
    };
    for file in 0..20 {
        let lines: String = (0..30).map(|l| format!("{file} {l}\n")).collect();
        write(format!("d{}/f{file}", file % 4), lines);
    }
    let base = commit("base");
    let mut out = Vec::new();
    for n in 0..count {
        let sides = [0, 1].map(|side| {
            assert!(git(repo, &["checkout", "-q", "--detach", &base]).1);
            for step in 0..1 + below(4) {
                let file = below(20);
                let path = format!("d{}/f{file}", file % 4);
                let Ok(text) = std::fs::read_to_string(repo.join(&path)) else {
                    continue;
                };
                match below(8) {
                    0 => std::fs::remove_file(repo.join(&path)).expect("removes"),
                    1 => write(
                        format!("d{}/new{side}{step}", below(6)),
                        format!("{n} {side}\n"),
                    ),
                    2 => {
                        let to = repo.join(format!("moved{file}"));
                        std::fs::rename(repo.join(&path), to).expect("moves");
                    }
                    _ => {
                        let at = below(30);
                        let old = format!("{file} {at}\n");
                        write(path, text.replace(&old, &format!("{n} {side} {step}\n")));
                    }
                }
            }
            commit("side")
        });
        let [one, two] = sides;
        // Each merges the other, and goes on in a file that both have.
        let crossed = [[&one, &two], [&two, &one]].map(|[on, other]| {
            assert!(git(repo, &["checkout", "-q", "--detach", on]).1);
            let who = ["-c", "user.name=a", "-c", "user.email=a@b"];
            let merge = ["merge", "-q", "--no-edit", other];
            if !git(repo, &[&who[..], &merge[..]].concat()).1 {
                assert!(git(repo, &["merge", "--abort"]).1);
                return None;
            }
            write(format!("crossed{}", below(9)), format!("{n}\n"));
            let file = below(20);
            let path = format!("d{}/f{file}", file % 4);
            if let Ok(text) = std::fs::read_to_string(repo.join(&path)) {
                let old = format!("{file} {}\n", below(30));
                write(path, text.replace(&old, &format!("{n} on {on}\n")));
            }
            Some(commit("crossed"))
        });
        out.push([format!("made up {n}"), one, two]);
        if let [Some(one), Some(two)] = crossed {
            out.push([format!("made up {n}, crossed"), one, two]);
        }
    }
    out
}
