//! Loss of power: at each change of the disk, what is left of those that were not synced.
//!
//! A file keeps its bytes as of its last sync, a directory its names as of its last sync. Of
//! the rest nothing may be left, all, or any part.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::tape::{self, Op};
use super::*;
use crate::chunk::manifest;

#[derive(Debug, Default, Clone)]
struct Bytes {
    kept: Vec<u8>,
    waiting: Vec<Op>,
}

fn apply(op: &Op, to: &mut Vec<u8>) {
    match op {
        Op::Write(_, at, b) => {
            let at = usize::try_from(*at).unwrap();
            if to.len() < at + b.len() {
                to.resize(at + b.len(), 0);
            }
            to[at..at + b.len()].copy_from_slice(b);
        }
        Op::Length(_, n) => to.resize(usize::try_from(*n).unwrap(), 0),
        _ => unreachable!("no change of bytes"),
    }
}

type Change = (PathBuf, Option<usize>);

#[derive(Debug, Default)]
struct Power {
    now: BTreeMap<PathBuf, usize>,
    kept: BTreeMap<PathBuf, usize>,
    waiting: Vec<Vec<Change>>,
    files: Vec<Bytes>,
}

fn rename(names: &mut BTreeMap<PathBuf, usize>, changes: &[Change]) {
    for (path, to) in changes {
        match to {
            Some(n) => names.insert(path.clone(), *n),
            None => names.remove(path),
        };
    }
}

impl Power {
    fn name(&mut self, changes: Vec<Change>) {
        rename(&mut self.now, &changes);
        self.waiting.push(changes);
    }

    fn step(&mut self, op: &Op) {
        match op {
            Op::Create(path) => match self.now.get(path) {
                Some(n) => self.files[*n].waiting.push(Op::Length(path.clone(), 0)),
                None => {
                    self.files.push(Bytes::default());
                    self.name(vec![(path.clone(), Some(self.files.len() - 1))]);
                }
            },
            Op::Write(path, ..) | Op::Length(path, _) => {
                let n = self.now[path];
                self.files[n].waiting.push(op.clone());
            }
            Op::Sync(path) => {
                let f = &mut self.files[self.now[path]];
                for op in f.waiting.drain(..) {
                    apply(&op, &mut f.kept);
                }
            }
            Op::SyncDir(dir) => {
                let here = |(p, _): &Change| p.parent() == Some(dir);
                for changes in std::mem::take(&mut self.waiting) {
                    if changes.iter().any(here) {
                        rename(&mut self.kept, &changes);
                    } else {
                        self.waiting.push(changes);
                    }
                }
            }
            Op::Rename(from, to) => {
                let n = self.now[from];
                self.name(vec![(from.clone(), None), (to.clone(), Some(n))]);
            }
            Op::Remove(path) => {
                if self.now.contains_key(path) {
                    self.name(vec![(path.clone(), None)]);
                }
            }
        }
    }

    /// Writes out what is left: of names and of bytes as `chance` says.
    fn leave(&self, base: &Path, to: &Path, chance: &mut dyn FnMut(bool) -> bool) {
        for sub in ["packs", "containers", "lost"] {
            fs::create_dir(to.join(sub)).unwrap();
        }
        let mut names = self.kept.clone();
        for changes in &self.waiting {
            if chance(true) {
                rename(&mut names, changes);
            }
        }
        for (path, n) in names {
            let f = &self.files[n];
            let mut bytes = f.kept.clone();
            for op in &f.waiting {
                if chance(false) {
                    apply(op, &mut bytes);
                }
            }
            fs::write(to.join(path.strip_prefix(base).unwrap()), bytes).unwrap();
        }
    }
}

#[derive(Debug, Default, Clone)]
struct Promise {
    /// Chunks that are there whatever happens.
    chunks: BTreeSet<u64>,
    /// Files that are complete containers.
    files: BTreeSet<Vec<u64>>,
}

/// A life, and from which change on what is promised.
fn live(dir: &Path) -> (Vec<Op>, Vec<(usize, Promise)>) {
    let mut log: Vec<(usize, Promise)> = Vec::new();
    let mut p = Promise::default();
    tape::record();
    let mut c = open(dir);
    let mut say = |p: &Promise| log.push((tape::len(), p.clone()));
    let given = dir.join("given");
    let adopt = |c: &Chunks, ns: &[u64]| {
        let (survey, bytes) = file_of(ns);
        let file = disk::create(&given).unwrap();
        disk::write(&given, &file, &bytes, 0).unwrap();
        c.adopt(&given, &survey, true).unwrap();
        survey.sha256
    };
    for n in 0..14 {
        c.put(&chunk(n).0, &chunk(n).1).unwrap();
        if n % 5 == 4 {
            c.flush().unwrap();
            p.chunks.extend(0..=n);
            say(&p);
        }
    }
    let first = adopt(&c, &[20, 21, 1]);
    p.chunks.extend((0..14).chain([20, 21]));
    p.files.insert(vec![20, 21, 1]);
    say(&p);
    // Killed, and opened again, with something that was not flushed.
    c.put(&chunk(14).0, &chunk(14).1).unwrap();
    drop(c);
    c = open(dir);
    c.put(&chunk(14).0, &chunk(14).1).unwrap();
    c.flush().unwrap();
    p.chunks.insert(14);
    say(&p);
    let gone = [2, 3, 4, 6, 7, 8];
    p.chunks.retain(|n| !gone.contains(n));
    say(&p);
    c.remove(&gone.map(|n| chunk(n).0)).unwrap();
    let (second, _) = file_of(&[20, 22, 23]);
    c.begin(second.sha256, &second.pieces).unwrap();
    for (index, n) in [(0, 20), (1, 22)] {
        c.fill(&second.sha256, index, &chunk(n).1).unwrap();
    }
    c.flush().unwrap();
    p.chunks.insert(22);
    say(&p);
    p.files.clear();
    say(&p);
    c.evict(&first, &mut |_| true).unwrap();
    c.fill(&second.sha256, 2, &chunk(23).1).unwrap();
    c.flush().unwrap();
    p.chunks.insert(23);
    p.files.insert(vec![20, 22, 23]);
    say(&p);
    c.put(&chunk(3).0, &chunk(3).1).unwrap();
    c.flush().unwrap();
    p.chunks.insert(3);
    say(&p);
    // One that is being filled, and comes as a whole: what packs have of it goes there.
    let (third, _) = file_of(&[10, 24, 25]);
    c.begin(third.sha256, &third.pieces).unwrap();
    c.fill(&third.sha256, 1, &chunk(24).1).unwrap();
    c.flush().unwrap();
    p.chunks.insert(24);
    say(&p);
    adopt(&c, &[10, 24, 25]);
    p.chunks.insert(25);
    p.files.insert(vec![10, 24, 25]);
    say(&p);
    c.reclaim().unwrap();
    // Another file of a name, with what packs had, and the file that the name is of.
    let (named, _) = file_of(&[26, 27]);
    let (other, _) = file_of(&[13, 28]);
    c.begin(named.sha256, &other.pieces).unwrap();
    for (index, n) in [(0, 13), (1, 28)] {
        c.fill(&named.sha256, index, &chunk(n).1).unwrap();
    }
    c.flush().unwrap();
    p.chunks.insert(28);
    say(&p);
    adopt(&c, &[26, 27]);
    p.chunks.extend([26, 27]);
    p.files.insert(vec![26, 27]);
    say(&p);
    (tape::stop(), log)
}

fn check(dir: &Path, p: &Promise, what: &str) {
    let c = open(dir);
    for n in 0..29 {
        let (id, bytes) = chunk(n);
        match c.read(&id) {
            Ok(Some(got)) => assert_eq!(got, bytes, "{what}: {n}"),
            got => assert!(!p.chunks.contains(&n), "{what}: {n}: {got:?}"),
        }
    }
    for ns in [
        vec![20, 21, 1],
        vec![20, 22, 23],
        vec![10, 24, 25],
        vec![26, 27],
    ] {
        let (survey, bytes) = file_of(&ns);
        // By its name alone it may be the other one.
        let head = manifest::name(&survey);
        let got = c.container_of(&survey.sha256, &head).unwrap();
        let is_complete = got.is_some_and(|(file, is_complete)| {
            if is_complete {
                let mut all = vec![0; bytes.len()];
                FileExt::read_exact_at(&file, &mut all, 0).unwrap();
                assert_eq!(all, bytes, "{what}: {ns:?}");
            }
            is_complete
        });
        assert!(is_complete || !p.files.contains(&ns), "{what}: {ns:?}");
    }
    // It takes what comes, whatever it thinks it has.
    for n in 0..29 {
        c.put(&chunk(n).0, &chunk(n).1).unwrap();
    }
    c.flush().unwrap();
    for n in 0..29 {
        assert_eq!(
            c.read(&chunk(n).0).unwrap(),
            Some(chunk(n).1),
            "{what}: {n}"
        );
    }
}

#[test]
fn a_loss_of_power_at_any_change_loses_nothing_that_was_flushed() {
    let dir = folder();
    let (ops, log) = live(dir.path());
    assert!(ops.len() > 120, "{}", ops.len());
    let mut power = Power::default();
    let mut seed = noise(9, 8).iter().fold(1u64, |s, b| s * 31 + u64::from(*b));
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        seed >> 63 == 0
    };
    let mut disks = 0;
    for n in 0..=ops.len() {
        let said = log.iter().rev().find(|(at, _)| *at <= n);
        let promise = said.map(|(_, p)| p.clone()).unwrap_or_default();
        for variant in ["nothing", "names", "all", "some", "others", "others again"] {
            let mut chance = |is_name| match variant {
                "nothing" => false,
                "names" => is_name,
                "all" => true,
                _ => random(),
            };
            let to = folder();
            power.leave(dir.path(), to.path(), &mut chance);
            check(
                to.path(),
                &promise,
                &format!("{variant} left at change {n}"),
            );
            disks += 1;
        }
        if let Some(op) = ops.get(n) {
            power.step(op);
        }
    }
    println!("{} changes, {disks} disks", ops.len());
}
