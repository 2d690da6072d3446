//! Two nodes on which programs do anything at all to a few files, and what their kernels, which
//! forget only what they are told to, go on to show. `CELLFS_SEED` and `CELLFS_HISTORIES` as for
//! the laws of merging.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::base::id::FileId;
use crate::base::name::EntryName;
use crate::merge::shown;
use crate::volume::Invalidate;
use crate::volume::error::VolumeError;
use crate::volume::inode::{Child, Inode};
use crate::volume::live::Stale;

/// Numbers that follow from a seed (splitmix64).
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) >> 1).unwrap() % n
    }
}

/// What a kernel has in its caches of the top directory.
#[derive(Default)]
struct Cached {
    names: BTreeMap<EntryName, Option<Ino>>,
    listing: Option<BTreeSet<EntryName>>,
    /// How often it was told to forget something: an answer that is older is not kept.
    told: u64,
}

pub(super) struct Kernel {
    pub(super) fs: Fs,
    cached: Mutex<Cached>,
}

impl Invalidate for Kernel {
    fn invalidate(&self, stale: &[Stale]) {
        let mut c = self.cached.lock().unwrap();
        c.told += 1;
        for s in stale {
            match s {
                Stale::Entry { dir, name } if *dir == ROOT_INO => {
                    c.names.remove(name);
                }
                Stale::Content { ino } if *ino == ROOT_INO => c.listing = None,
                _ => {}
            }
        }
    }
}

impl Kernel {
    pub(super) fn new(v: &Arc<Volume>) -> Arc<Self> {
        let k = Arc::new(Self {
            fs: fs(v),
            cached: Mutex::default(),
        });
        v.watch(1, k.clone());
        k
    }

    pub(super) fn lookup(&self, name: &EntryName) -> Option<Ino> {
        let told = {
            let c = self.cached.lock().unwrap();
            if let Some(known) = c.names.get(name) {
                return *known;
            }
            c.told
        };
        let found = self.fs.lookup(ROOT_INO, name.as_bytes());
        let found = found.unwrap_or_else(|e| panic!("{name}: {e}\n{}", viewed(&self.fs.volume)));
        let ino = found.map(|s| s.ino);
        let mut c = self.cached.lock().unwrap();
        if c.told == told {
            c.names.insert(name.clone(), ino);
        }
        ino
    }

    fn list(&self) -> BTreeSet<EntryName> {
        let told = {
            let c = self.cached.lock().unwrap();
            if let Some(known) = &c.listing {
                return known.clone();
            }
            c.told
        };
        let all = self.fs.list(ROOT_INO).unwrap();
        let names: BTreeSet<EntryName> = all.into_iter().map(|e| e.name).collect();
        let mut c = self.cached.lock().unwrap();
        if c.told == told {
            c.listing = Some(names.clone());
        }
        names
    }

    /// What it did itself it knows.
    pub(super) fn did(&self, names: &[&EntryName]) {
        let mut c = self.cached.lock().unwrap();
        c.listing = None;
        for n in names {
            c.names.remove(*n);
        }
    }

    /// All that is in its caches is what is shown.
    fn check(&self, about: &str) {
        let all = self.fs.list(ROOT_INO).unwrap();
        let now: BTreeSet<EntryName> = all.into_iter().map(|e| e.name).collect();
        let c = self.cached.lock().unwrap();
        if let Some(known) = &c.listing {
            assert_eq!(known, &now, "{about}: the listing");
        }
        for (name, ino) in &c.names {
            let found = self.fs.lookup(ROOT_INO, name.as_bytes()).unwrap();
            assert_eq!(*ino, found.map(|s| s.ino), "{about}: {name}");
        }
    }
}

/// A node with its programs.
struct Side {
    v: Arc<Volume>,
    k: Arc<Kernel>,
    name: &'static str,
    held: Vec<Ino>,
    count: u64,
    /// Lines that were written, and those that somebody who had read them took away.
    made: BTreeSet<String>,
    gone: BTreeSet<String>,
    /// A commit fell between a look and what was done next: nobody knows what that replaced.
    blind: bool,
    /// When it commits, if it does so between two calls of a program alone.
    commits: Option<Rng>,
}

/// A name may be gone by now that the kernel was not yet told of.
fn may(f: &Fs, done: crate::fs::Result<()>) {
    assert!(
        matches!(done, Ok(()) | Err(VolumeError::NotFound)),
        "{done:?}\n{}",
        viewed(&f.volume)
    );
}

pub(super) fn lines(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    text.lines().map(ToOwned::to_owned).collect()
}

impl Side {
    fn read(&self, ino: Ino) -> Vec<String> {
        lines(&self.k.fs.read(ino, 0, u32::MAX).unwrap())
    }

    fn token(&mut self, rng: &mut Rng) -> String {
        self.count += 1;
        let line = format!("{}-{}-{}", self.name, self.count, rng.below(10));
        self.made.insert(line.clone());
        line
    }

    fn changed(&mut self, rng: &mut Rng, ino: Ino) -> String {
        let mut all = self.read(ino);
        let seen = all.clone();
        let at = rng.below(all.len() + 1);
        let new = self.token(rng);
        if at < all.len() && rng.below(2) == 0 {
            all[at] = new;
        } else {
            all.insert(at, new);
        }
        self.gone
            .extend(seen.into_iter().filter(|l| !all.contains(l)));
        all.join("\n") + "\n"
    }

    /// Time passes between two calls.
    fn pause(&mut self) {
        if let Some(rng) = &mut self.commits
            && rng.below(3) == 0
        {
            self.v.commit_now().unwrap();
        }
    }

    fn names(&self, ino: Ino) -> u32 {
        self.k.fs.getattr(ino).map_or(0, |s| s.nlink)
    }

    /// Notes whether what was done ended this file, which had so many names.
    fn ended(&mut self, ino: Ino, names: u32) {
        self.blind |= self.names(ino) > names.saturating_sub(1);
    }

    /// Notes that a file is about to end, with what another inode of it has for a commit.
    fn ends(&mut self, ino: Option<Ino>) {
        let Some(ino) = ino else {
            return;
        };
        let same: Vec<Ino> = {
            let live = self.v.lock();
            let ids =
                |i: &Inode| -> BTreeSet<FileId> { i.shown.versions.iter().map(|v| v.id).collect() };
            let file = live.inodes.get(&ino).map(ids).unwrap_or_default();
            let is_it = |i: &&Inode| {
                let shares = !ids(i).is_disjoint(&file) && ids(i) != file;
                i.ino == ino || (i.dirty.is_some() && shares)
            };
            let all = live.inodes.values().filter(is_it);
            all.map(|i| i.ino).collect()
        };
        for ino in same {
            let all = self.read(ino);
            self.gone.extend(all);
        }
    }

    fn step(&mut self, rng: &mut Rng) -> String {
        self.pause();
        let k = self.k.clone();
        let f = &k.fs;
        let names: Vec<EntryName> = k.list().into_iter().collect();
        let name = match names.len() {
            0 => EntryName::new("f").unwrap(),
            n => names[rng.below(n)].clone(),
        };
        let Some(ino) = k.lookup(&name) else {
            let s = f
                .create(ROOT_INO, name.as_bytes(), 0o644, ME, true)
                .unwrap();
            k.did(&[&name]);
            self.pause();
            f.write(s.ino, 0, b"1\n2\n3\n4\n5\n6\n").unwrap();
            self.pause();
            f.release(s.ino, true);
            return format!("create {name}");
        };
        self.pause();
        match rng.below(14) {
            0 | 1 => {
                f.open(ino, true, false).unwrap();
                let text = self.changed(rng, ino);
                f.write(ino, 0, text.as_bytes()).unwrap();
                self.pause();
                let size = SetAttr {
                    size: Some(text.len() as u64),
                    ..SetAttr::default()
                };
                f.setattr(ino, size).unwrap();
                self.pause();
                f.release(ino, true);
                format!("write {name}")
            }
            2 => {
                let text = self.changed(rng, ino);
                f.open(ino, true, true).unwrap();
                self.pause();
                f.write(ino, 0, text.as_bytes()).unwrap();
                self.pause();
                f.release(ino, true);
                format!("truncate and write {name}")
            }
            3 | 4 => {
                let text = self.changed(rng, ino);
                let tmp = EntryName::new(".tmp").unwrap();
                // The other side's, whose rename is still to come: it is written anew.
                let theirs = f.lookup(ROOT_INO, b".tmp").unwrap();
                self.ends(theirs.map(|s| s.ino));
                put(f, ".tmp", &text);
                self.pause();
                let (from, to) = ((ROOT_INO, &b".tmp"[..]), (ROOT_INO, name.as_bytes()));
                let names = self.names(ino);
                if names <= 1 {
                    let kept = lines(text.as_bytes());
                    let before = self.gone.clone();
                    self.ends(Some(ino));
                    self.gone
                        .retain(|l| before.contains(l) || !kept.contains(l));
                }
                may(f, f.rename(from, to, RenameMode::Replace));
                k.did(&[&tmp, &name]);
                self.ended(ino, names);
                format!("save {name}")
            }
            5 if self.held.len() < 3 => {
                f.open(ino, true, false).unwrap();
                self.held.push(ino);
                format!("open {name}")
            }
            5 | 6 if !self.held.is_empty() => {
                let at = rng.below(self.held.len());
                f.release(self.held.remove(at), true);
                "close".to_owned()
            }
            7 | 8 if !self.held.is_empty() => {
                let at = rng.below(self.held.len());
                let ino = self.held[at];
                let end = f.getattr(ino).unwrap().size;
                let line = self.token(rng);
                f.write(ino, end, (line.clone() + "\n").as_bytes()).unwrap();
                if f.getattr(ino).unwrap().nlink == 0 {
                    // It goes with the last handle.
                    self.gone.insert(line);
                }
                format!("append to {ino}")
            }
            9 => {
                self.ends(Some(ino));
                let names = self.names(ino);
                may(f, f.unlink(ROOT_INO, name.as_bytes()));
                k.did(&[&name]);
                self.ended(ino, names);
                format!("rm {name}")
            }
            10 if name.as_bytes().len() < 60 => {
                let to = EntryName::new(format!("g{}", rng.below(3))).unwrap();
                // Two names of one file when it was looked at may be those of two files by now.
                let (moved, over) = (k.lookup(&name), k.lookup(&to));
                self.ends(over.filter(|o| Some(*o) != moved));
                let (from, target) = ((ROOT_INO, name.as_bytes()), (ROOT_INO, to.as_bytes()));
                match over {
                    Some(over) => {
                        let names = self.names(over);
                        may(f, f.rename(from, target, RenameMode::Replace));
                        match Some(over) == moved {
                            true => self.blind |= self.names(over) < names,
                            false => self.ended(over, names),
                        }
                    }
                    None => self.blind |= f.rename(from, target, RenameMode::NoReplace).is_err(),
                }
                k.did(&[&name, &to]);
                format!("mv {name} {to}")
            }
            11 => {
                let other = names[rng.below(names.len())].clone();
                may(
                    f,
                    f.exchange((ROOT_INO, name.as_bytes()), (ROOT_INO, other.as_bytes())),
                );
                k.did(&[&name, &other]);
                format!("exchange {name} {other}")
            }
            12 if name.as_bytes().len() < 60 => {
                let to = EntryName::new(format!("g{}", rng.below(3))).unwrap();
                let done = f.link(ino, ROOT_INO, to.as_bytes()).map(drop);
                let taken = matches!(done, Err(VolumeError::Exists));
                may(f, if taken { Ok(()) } else { done });
                k.did(&[&to]);
                format!("ln {name} {to}")
            }
            _ => {
                for n in k.list() {
                    k.lookup(&n);
                }
                "ls".to_owned()
            }
        }
    }
}

type Manifest = BTreeMap<String, (Kind, u32, i64, Vec<u8>)>;

fn same([a, b]: &[Manifest; 2], about: &str) {
    let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let text = |m: &Manifest, n: &String| {
        let found = m.get(n);
        found.map(|e| (e.0, e.1, e.2, String::from_utf8_lossy(&e.3).into_owned()))
    };
    for n in names {
        let (x, y) = (text(a, n), text(b, n));
        assert!(x == y, "{n}: {x:?} and {y:?}\n{about}");
    }
}

/// Every line is there that nobody took away who had read it.
fn whole(shown: &Manifest, sides: &[Side; 2], about: &str) {
    if sides.iter().any(|s| s.blind) {
        return;
    }
    let all: BTreeSet<String> = shown.values().flat_map(|e| lines(&e.3)).collect();
    for line in sides.iter().flat_map(|s| &s.made) {
        let gone = sides.iter().any(|s| s.gone.contains(line));
        assert!(
            gone || all.contains(line),
            "{line} is lost\n{all:?}\n{about}"
        );
    }
}

/// What the view of a node has at the top.
pub(super) fn viewed(v: &Volume) -> String {
    let view = v.view();
    let all = shown::list(v.source(&view), &view.state, &[FileId::ROOT]).unwrap();
    let each = all
        .iter()
        .map(|s| format!("{} {:?} {}", s.name, s.id(), s.blob));
    let live = v.lock();
    let bound = live.inodes[&ROOT_INO].children.iter().map(|(name, c)| {
        let ino = match c {
            Child::Bound { ino, .. } => *ino,
            Child::Absent { .. } => 0,
        };
        let i = live.inodes.get(&ino);
        let i = i.map(|i| (i.id(), &i.shown.name, i.dirty, i.born, i.removed, i.opens));
        format!("{name} {c:?} {i:?}")
    });
    let bound: Vec<String> = bound.collect();
    let waits = (&live.stale, &live.overrides, &live.touched, &live.pending);
    let shown: Vec<String> = each.collect();
    format!(
        "view: {}\ntable: {}\n{waits:?}",
        shown.join(", "),
        bound.join(", ")
    )
}

/// Each name in the table leads to an inode that knows it.
fn is_sound(v: &Volume) -> Result<(), String> {
    let live = v.lock();
    for (name, c) in &live.inodes[&ROOT_INO].children {
        let Child::Bound { ino, .. } = c else {
            continue;
        };
        let Some(i) = live.inodes.get(ino) else {
            return Err(format!("{name} leads nowhere"));
        };
        if !i.places().any(|p| p == (ROOT_INO, name)) {
            return Err(format!("{name} leads to {:?}, {:?}", i.place, i.others));
        }
    }
    Ok(())
}

pub(super) fn number(name: &str, default: u64) -> u64 {
    let set = std::env::var(name).ok();
    set.and_then(|s| s.parse().ok()).unwrap_or(default)
}

/// Seeds that failed once: a copy that was moved kept the mark of one, a removal took away what
/// nobody had read, a link was that of another file with the same bytes.
const FOUND: [u64; 3] = [605, 671, 923];

#[test]
fn whatever_programs_do_both_nodes_and_their_kernels_show_the_same() {
    run(&FOUND.map(|seed| (seed, 0)), 0, |_| None);
}

/// Seeds that failed once, with those of their commits: a name that a file had elsewhere stayed
/// when it was moved here; what was written after a file's last name had gone went with it; a copy
/// that took the plain name and another one in one commit was a copy there; what was removed above a
/// copy put the bytes of one who was still writing to it in place of those shown; a file that got
/// its first name again showed the time that it had before; a save of a file whose bytes went into a
/// commit meanwhile took away what had come beside them; a program that saw two names of one file put
/// another file over it, which had come to one of them (the test was mistaken); a file that was moved
/// from two names in one commit kept both in the table; a rename of what was gone took its name from
/// what had come to the other one; of two names of one file, one was forgotten when it was moved over the
/// other.
const FOUND_STILL: [(u64, u64); 10] = [
    (298, 1),
    (63785, 2),
    (104_135, 3),
    (402_749, 6),
    (209_226, 4),
    (806_344, 8),
    (709_329, 7),
    (1_301_260, 12),
    (7_509_504, 7),
    (14_611_308, 14),
];

#[test]
fn whichever_commits_fall_between_calls_both_nodes_show_the_same() {
    let commits = number("CELLFS_COMMITS", 1);
    run(&FOUND_STILL, commits, |seed| Some(Rng(seed)));
}

/// Small files are cut into chunks, too: they are copied beside one another, not merged.
#[test]
fn whatever_programs_do_to_large_files_both_nodes_show_the_same() {
    ABOVE.set(20);
    run(&[], 0, |_| None);
    run(&[], number("CELLFS_COMMITS", 1), |seed| Some(Rng(seed)));
}

/// `commits` says when there are commits, by a seed of each node; if it does not, time does.
fn run(found: &[(u64, u64)], mixed: u64, commits: impl Fn(u64) -> Option<Rng>) {
    let first = number("CELLFS_SEED", 0);
    let fresh = (first..first + number("CELLFS_HISTORIES", 10)).map(|seed| (seed, mixed));
    for (seed, mixed) in found.iter().copied().chain(fresh) {
        // Seen if it fails.
        eprintln!("seed {seed}");
        let mut rng = Rng(seed);
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let mut n = 0;
        let mut sides = dirs.each_ref().map(|dir| {
            n += 1;
            let v = volume(dir.path(), n);
            let k = Kernel::new(&v);
            let commits = commits((seed + u64::from(n)) ^ mixed);
            if commits.is_some() {
                v.be_still();
            }
            Side {
                v,
                k,
                held: Vec::new(),
                name: ["", "a", "b"][usize::from(n)],
                count: 0,
                made: BTreeSet::new(),
                gone: BTreeSet::new(),
                blind: false,
                commits,
            }
        });
        let mut story = Vec::new();
        for _ in 0..60 {
            let side = rng.below(2);
            let did = match rng.below(20) {
                0 => {
                    sides[side].v.flush_all().unwrap();
                    "flush".to_owned()
                }
                1 | 2 => {
                    sides[side].v.commit_now().unwrap();
                    "commit".to_owned()
                }
                3..=5 => {
                    sides[side].v.settle().unwrap();
                    pull(&sides[side].v, &sides[1 - side].v);
                    "tells".to_owned()
                }
                6 => {
                    std::thread::sleep(Duration::from_millis(rng.below(5) as u64));
                    continue;
                }
                7 => {
                    sync(&sides[0].v, &sides[1].v);
                    let shown = sides.each_ref().map(|s| manifest(&s.k.fs));
                    let about = format!("seed {seed}\n{}", story.join("\n"));
                    let about =
                        format!("{}\n{}\n{about}", viewed(&sides[0].v), viewed(&sides[1].v));
                    same(&shown, &about);
                    whole(&shown[0], &sides, &about);
                    sides.iter().for_each(|s| s.k.check(&about));
                    "sync".to_owned()
                }
                _ => sides[side].step(&mut rng),
            };
            story.push(format!("{}: {did}", ["a", "b"][side]));
            for s in &sides {
                if let Err(e) = is_sound(&s.v) {
                    panic!("{e}\n{}\nseed {seed}\n{}", viewed(&s.v), story.join("\n"));
                }
            }
            if std::env::var_os("CELLFS_WATCH").is_some() {
                let last = story.last().unwrap();
                eprintln!("{last}\n  {}", viewed(&sides[side].v).replace('\n', "\n  "));
            }
        }
        for s in &mut sides {
            for ino in std::mem::take(&mut s.held) {
                s.k.fs.release(ino, true);
            }
        }
        sync(&sides[0].v, &sides[1].v);
        let shown = sides.each_ref().map(|s| manifest(&s.k.fs));
        let about = format!("seed {seed}\n{}", story.join("\n"));
        let about = format!("{}\n{}\n{about}", viewed(&sides[0].v), viewed(&sides[1].v));
        same(&shown, &about);
        whole(&shown[0], &sides, &about);
        for s in &sides {
            s.k.check(&about);
            assert_eq!(s.v.lock().dirty_count(), 0, "{about}");
            s.v.unwatch(1);
            s.v.stop().unwrap();
        }
    }
}
