//! Programs on two nodes that save one file in the ways that editors do, at once, while heads
//! travel all the time: no line is lost that nobody took away who had read it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use super::anything::{Rng, lines, number, viewed};
use super::*;
use crate::base::name::EntryName;
use crate::volume::Invalidate;
use crate::volume::live::Stale;

/// Edits from one look to the next.
const EDITS: usize = 10;
const LINES_MAX: usize = 60;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    InPlace,
    Renamed,
    Truncated,
    Append,
}

const ALL: [How; 4] = [How::InPlace, How::Renamed, How::Truncated, How::Append];

/// A kernel: it keeps names until it is told to forget them, hears of that late, and gives up
/// inodes and handles late, too.
struct Kernel {
    fs: Fs,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    names: BTreeMap<EntryName, Ino>,
    /// References to inodes that were handed out.
    lookups: BTreeMap<Ino, u64>,
    /// What it is yet to be told.
    told: Vec<EntryName>,
    /// Handles that programs have closed.
    closed: Vec<(Ino, bool)>,
}

impl Invalidate for Kernel {
    fn invalidate(&self, stale: &[Stale]) {
        let mut t = self.table.lock().unwrap();
        for s in stale {
            if let Stale::Entry { dir, name } = s
                && *dir == ROOT_INO
            {
                t.told.push(name.clone());
            }
        }
    }
}

impl Kernel {
    fn new(v: &Arc<Volume>) -> Arc<Self> {
        let k = Arc::new(Self {
            fs: fs(v),
            table: Mutex::default(),
        });
        v.watch(1, k.clone());
        k
    }

    fn lookup(&self, name: &EntryName) -> Option<Ino> {
        if let Some(ino) = self.table.lock().unwrap().names.get(name) {
            return Some(*ino);
        }
        let ino = self.fs.lookup(ROOT_INO, name.as_bytes()).unwrap()?.ino;
        self.knows(ino);
        self.table.lock().unwrap().names.insert(name.clone(), ino);
        Some(ino)
    }

    fn knows(&self, ino: Ino) {
        *self.table.lock().unwrap().lookups.entry(ino).or_default() += 1;
    }

    fn close(&self, ino: Ino, write: bool) {
        self.table.lock().unwrap().closed.push((ino, write));
    }

    /// What happens at some time.
    fn later(&self, held: &[Ino]) {
        let mut t = self.table.lock().unwrap();
        for name in std::mem::take(&mut t.told) {
            t.names.remove(&name);
        }
        let closed = std::mem::take(&mut t.closed);
        let named: BTreeSet<Ino> = t.names.values().copied().collect();
        let mut gone = Vec::new();
        t.lookups.retain(|ino, n| {
            let kept = named.contains(ino) || held.contains(ino);
            if !kept {
                gone.push((*ino, *n));
            }
            kept
        });
        drop(t);
        for (ino, write) in closed {
            self.fs.release(ino, write);
        }
        for (ino, n) in gone {
            self.fs.forget(ino, n);
        }
    }

    fn rename(&self, from: &EntryName, to: &EntryName) {
        let (a, b) = ((ROOT_INO, from.as_bytes()), (ROOT_INO, to.as_bytes()));
        self.fs.rename(a, b, RenameMode::Replace).unwrap();
        let mut t = self.table.lock().unwrap();
        match t.names.remove(from) {
            Some(ino) => t.names.insert(to.clone(), ino),
            None => t.names.remove(to),
        };
    }
}

struct Writer {
    k: Arc<Kernel>,
    rng: Rng,
    name: &'static str,
    count: u64,
    made: BTreeSet<String>,
    /// Lines that it read and took away.
    gone: BTreeSet<String>,
    blind: bool,
    told: Vec<String>,
}

fn text(of: &[String]) -> Vec<u8> {
    of.iter()
        .flat_map(|l| [l.as_bytes(), b"\n"].concat())
        .collect()
}

impl Writer {
    fn new(v: &Arc<Volume>, name: &'static str, seed: u64) -> Self {
        Self {
            k: Kernel::new(v),
            rng: Rng(seed),
            name,
            count: 0,
            made: BTreeSet::new(),
            gone: BTreeSet::new(),
            blind: false,
            told: Vec::new(),
        }
    }

    fn wait(&mut self) {
        match self.rng.below(10) {
            0..5 => {}
            5..8 => std::thread::sleep(Duration::from_micros(self.rng.below(300) as u64)),
            _ => std::thread::sleep(Duration::from_micros(self.rng.below(4_000) as u64)),
        }
    }

    fn read(&self, ino: Ino) -> Vec<String> {
        lines(&self.k.fs.read(ino, 0, u32::MAX).unwrap())
    }

    fn token(&mut self) -> String {
        self.count += 1;
        let line = format!("{}-{:06}", self.name, self.count);
        self.made.insert(line.clone());
        line
    }

    fn change(&mut self, seen: &[String]) -> Vec<String> {
        let mut all = seen.to_vec();
        let new = self.token();
        if all.len() > LINES_MAX {
            let from = self.rng.below(all.len() / 2);
            all.drain(from..from + all.len() / 2);
        }
        let at = self.rng.below(all.len() + 1);
        if at < all.len() && self.rng.below(3) == 0 {
            all[at] = new;
        } else {
            all.insert(at, new);
        }
        self.gone
            .extend(seen.iter().filter(|l| !all.contains(l)).cloned());
        all
    }

    fn sync(&mut self, ino: Ino) {
        if self.rng.below(5) == 0 {
            self.k.fs.fsync(ino).unwrap();
        }
    }

    /// What is known of an inode, for who reads the story.
    fn state(&self, ino: Ino) -> String {
        let live = self.k.fs.volume.lock();
        let told = live.inodes.get(&ino).map(|i| {
            let versions: Vec<_> = i
                .shown
                .versions
                .iter()
                .map(|v| (v.content.branch.0 % 1000, v.content.seq))
                .collect();
            let dirty = i.dirty.map(|d| d.settled);
            format!(
                "place {} removed {} born {} dirty {dirty:?} writers {} {versions:?}",
                i.place.is_some(),
                i.removed,
                i.born,
                i.writers
            )
        });
        format!("{told:?}")
    }

    fn edit(&mut self, how: How) {
        let k = self.k.clone();
        let f = &k.fs;
        let name = EntryName::new("f").unwrap();
        let ino = k.lookup(&name).expect("f");
        let size = |len: usize| SetAttr {
            size: Some(len as u64),
            ..SetAttr::default()
        };
        let before = self.count;
        let was = self.state(ino);
        let late = |k: &Kernel, rng: &mut Rng, held: &[Ino]| {
            if rng.below(3) == 0 {
                k.later(held);
            }
        };
        late(&k, &mut self.rng, &[ino]);
        match how {
            How::InPlace => {
                f.open(ino, true, false).unwrap();
                let seen = self.read(ino);
                let all = self.change(&seen);
                let same = seen.iter().zip(&all).take_while(|(a, b)| a == b).count();
                let end = if seen.len() == all.len() {
                    same + 1
                } else {
                    all.len()
                };
                self.wait();
                late(&k, &mut self.rng, &[ino]);
                let at = text(&all[..same]).len() as u64;
                f.write(ino, at, &text(&all[same..end])).unwrap();
                if all.len() < seen.len() {
                    f.setattr(ino, size(text(&all).len())).unwrap();
                }
                self.sync(ino);
                k.close(ino, true);
            }
            How::Renamed => {
                let before = (self.made.clone(), self.gone.clone());
                f.open(ino, false, false).unwrap();
                let seen = self.read(ino);
                let all = self.change(&seen);
                let tmp = EntryName::new(format!(".tmp-{}", self.name)).unwrap();
                let new = f.create(ROOT_INO, tmp.as_bytes(), 0o644, ME, true);
                let new = new.unwrap_or_else(|e| {
                    eprintln!("{e}: {tmp} {}\n{:#?}", viewed(&f.volume), self.told);
                    std::process::exit(1)
                });
                k.knows(new.ino);
                k.table.lock().unwrap().names.insert(tmp.clone(), new.ino);
                f.write(new.ino, 0, &text(&all)).unwrap();
                self.sync(new.ino);
                k.close(new.ino, true);
                self.wait();
                late(&k, &mut self.rng, &[ino, new.ino]);
                let now = f.lookup(ROOT_INO, name.as_bytes()).unwrap().expect("f").ino;
                k.knows(now);
                if now == ino {
                    k.rename(&tmp, &name);
                    self.blind |= f.getattr(ino).unwrap().nlink > 0;
                } else {
                    // A careful editor asks; it is told not to save.
                    f.unlink(ROOT_INO, tmp.as_bytes()).unwrap();
                    k.table.lock().unwrap().names.remove(&tmp);
                    (self.made, self.gone) = before;
                }
                k.close(ino, false);
            }
            How::Truncated => {
                f.open(ino, false, false).unwrap();
                let seen = self.read(ino);
                let all = self.change(&seen);
                let new = k.lookup(&name).expect("f");
                f.open(new, true, true).unwrap();
                self.wait();
                late(&k, &mut self.rng, &[ino, new]);
                f.write(new, 0, &text(&all)).unwrap();
                self.sync(new);
                k.close(new, true);
                k.close(ino, false);
                self.blind |= new != ino;
            }
            How::Append => {
                f.open(ino, true, false).unwrap();
                let line = self.token();
                self.wait();
                late(&k, &mut self.rng, &[ino]);
                let end = f.getattr(ino).unwrap().size;
                f.write(ino, end, &text(&[line])).unwrap();
                self.sync(ino);
                k.close(ino, true);
            }
        }
        let now = self.state(ino);
        self.told.push(format!(
            "{} {how:?} {ino} {} to {}, blind {} was {was} now {now}",
            self.name,
            before + 1,
            self.count,
            self.blind
        ));
    }
}

/// Heads travel until told to stop.
fn travel(from: &Volume, to: &Volume, stop: &AtomicBool, seed: u64) {
    let mut rng = Rng(seed);
    while !stop.load(Ordering::Acquire) {
        from.settle().unwrap();
        pull(from, to);
        std::thread::sleep(Duration::from_micros(rng.below(3_000) as u64));
    }
}

fn round(v: [&Arc<Volume>; 2], w: &mut [Writer; 2], hows: [How; 2], seed: u64) {
    let stop = AtomicBool::new(false);
    let start = Barrier::new(2);
    let (stop, start) = (&stop, &start);
    std::thread::scope(|s| {
        s.spawn(move || travel(v[0], v[1], stop, seed));
        s.spawn(move || travel(v[1], v[0], stop, !seed));
        let [a, b] = w;
        let run = move |w: &mut Writer, how| {
            for _ in 0..EDITS {
                start.wait();
                w.edit(how);
            }
        };
        let first = s.spawn(move || run(a, hows[0]));
        let second = s.spawn(move || run(b, hows[1]));
        let done = (first.join(), second.join());
        stop.store(true, Ordering::Release);
        done.0.unwrap();
        done.1.unwrap();
    });
}

#[test]
fn no_line_is_lost_when_two_save_one_file_at_once() {
    let first = number("CELLFS_SEED", 0);
    for seed in first..first + number("CELLFS_HISTORIES", 3) {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [a, b] = [volume(dirs[0].path(), 1), volume(dirs[1].path(), 2)];
        let mut w = [Writer::new(&a, "a", seed), Writer::new(&b, "b", seed + 1)];
        let begin: Vec<String> = (0..30).map(|_| w[0].token()).collect();
        put(&fs(&a), "f", &String::from_utf8(text(&begin)).unwrap());
        sync(&a, &b);
        let mut excused = BTreeSet::new();
        let mut blind_looks = 0;
        for n in 0..16 {
            let hows = [ALL[n % 4], ALL[n / 4 % 4]];
            round([&a, &b], &mut w, hows, seed + n as u64);
            w.iter().for_each(|w| w.k.later(&[]));
            sync(&a, &b);
            let shown = manifest(&w[0].k.fs);
            assert_eq!(shown, manifest(&w[1].k.fs));
            let all: BTreeMap<String, Vec<String>> = shown
                .iter()
                .map(|(n, e)| (n.clone(), lines(&e.3)))
                .collect();
            let there: BTreeSet<&String> = all.values().flatten().collect();
            let gone = |l: &String| w.iter().any(|w| w.gone.contains(l));
            let made = w.iter().flat_map(|w| &w.made);
            let lost: Vec<String> = made
                .filter(|l| !there.contains(l) && !gone(l) && !excused.contains(*l))
                .cloned()
                .collect();
            let blind = w.iter().any(|w| w.blind);
            assert!(
                lost.is_empty() || blind,
                "seed {seed}, {hows:?}: {lost:?}\n{:#?}\n{all:#?}",
                w.each_ref().map(|w| &w.told),
            );
            excused.extend(lost);
            blind_looks += usize::from(blind);
            for w in &mut w {
                w.blind = false;
                w.told.clear();
            }
            for copy in shown.keys().filter(|n| n.contains(".conflict-")) {
                let name = EntryName::new(copy.trim_start_matches('/')).unwrap();
                let lines = all[copy].clone();
                w[0].gone.extend(lines);
                w[0].k.fs.unlink(ROOT_INO, name.as_bytes()).unwrap();
                w[0].k.table.lock().unwrap().names.remove(&name);
            }
            sync(&a, &b);
        }
        eprintln!("seed {seed}: {blind_looks} of 16 looks after blind edits");
        for (v, w) in [&a, &b].into_iter().zip(&w) {
            assert_eq!(v.lock().dirty_count(), 0);
            v.unwatch(1);
            drop(w.k.clone());
            v.stop().unwrap();
        }
    }
}
