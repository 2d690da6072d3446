//! A model of a disk that forgets what was not fsynced.
//!
//! A file keeps its bytes as of its last fsync, a directory its names as of its last fsync; a
//! new file is not in its directory before that directory was fsynced, and a removed one still
//! is. What an fsync keeps is what was there when it began.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::trace::{Arg, Call};

pub(crate) type Bytes = Arc<Vec<u8>>;

#[derive(Debug, Clone)]
enum Op {
    Write(u64, Bytes),
    Size(u64),
}

fn apply(op: &Op, to: &mut Vec<u8>) {
    match op {
        Op::Write(at, b) => {
            let at = usize::try_from(*at).expect("small");
            if to.len() < at + b.len() {
                to.resize(at + b.len(), 0);
            }
            to[at..at + b.len()].copy_from_slice(b);
        }
        Op::Size(n) => to.resize(usize::try_from(*n).expect("small"), 0),
    }
}

#[derive(Debug, Default, Clone)]
struct File {
    now: Bytes,
    kept: Bytes,
    waiting: Vec<Op>,
    pos: u64,
    /// Numbers of the two states, for comparing disks without comparing bytes.
    now_is: u64,
    kept_is: u64,
}

type Names = BTreeMap<OsString, usize>;
type NameOp = Vec<(OsString, Option<usize>)>;

#[derive(Debug, Default, Clone)]
struct Dir {
    now: Names,
    kept: Names,
    waiting: Vec<NameOp>,
}

#[derive(Debug, Clone)]
enum Node {
    File(File),
    Dir(Dir),
}

/// What survives of names that were not fsynced, and of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    /// Nothing of either: the disk that keeps no more than it must.
    Least,
    /// As `Least`, but files have the sizes they had, with zeros at the end.
    LeastZeros,
    /// All names, but bytes as in `Least`: a journal of metadata that runs ahead of data.
    Names,
    /// All names, and sizes with zeros at the end.
    NamesZeros,
    /// A part of everything, by this seed.
    Some(u64),
    /// Everything: the process was killed, the machine was not.
    All,
}

/// What a disk held: paths below the root with their bytes; none for directories.
#[derive(Debug, Default)]
pub(crate) struct Image {
    pub(crate) entries: Vec<(PathBuf, Option<Bytes>)>,
    /// Equal for equal disks.
    pub(crate) print: Option<u128>,
}

#[derive(Debug)]
pub(crate) struct Disk {
    root: PathBuf,
    nodes: Vec<Node>,
    states: u64,
    /// Fsyncs under way: what was waiting when they began.
    syncs: HashMap<usize, (usize, usize)>,
}

const ROOT: usize = 0;

fn is_dir_flag(a: Option<&Arg>) -> bool {
    a.is_some_and(|a| a.text.contains("O_DIRECTORY"))
}

/// A small generator: the same numbers for the same seed.
fn next(seed: &mut u64) -> u64 {
    *seed = seed
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

impl Disk {
    /// An empty directory, durable, at `root`.
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            nodes: vec![Node::Dir(Dir::default())],
            states: 0,
            syncs: HashMap::new(),
        }
    }

    fn below<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        path.strip_prefix(&self.root).ok()
    }

    fn find(&self, path: &Path) -> Option<usize> {
        let mut at = ROOT;
        for c in self.below(path)?.components() {
            let Component::Normal(name) = c else {
                return None;
            };
            let Node::Dir(d) = &self.nodes[at] else {
                return None;
            };
            at = *d.now.get(name)?;
        }
        Some(at)
    }

    fn place(&self, path: &Path) -> Option<(usize, OsString)> {
        self.below(path)?;
        Some((self.find(path.parent()?)?, path.file_name()?.to_owned()))
    }

    fn dir(&mut self, n: usize) -> &mut Dir {
        let Node::Dir(d) = &mut self.nodes[n] else {
            panic!("no directory")
        };
        d
    }

    fn file(&mut self, path: &Path) -> Option<&mut File> {
        let n = self.find(path)?;
        match &mut self.nodes[n] {
            Node::File(f) => Some(f),
            Node::Dir(_) => None,
        }
    }

    fn names(&mut self, dir: usize, op: NameOp) {
        let d = self.dir(dir);
        for (name, to) in &op {
            match to {
                Some(n) => d.now.insert(name.clone(), *n),
                None => d.now.remove(name),
            };
        }
        d.waiting.push(op);
    }

    fn add(&mut self, path: &Path, node: Node) -> bool {
        let Some((dir, name)) = self.place(path) else {
            return false;
        };
        self.nodes.push(node);
        let n = self.nodes.len() - 1;
        self.names(dir, vec![(name, Some(n))]);
        true
    }

    fn change(&mut self, path: &Path, op: Op) -> bool {
        self.states += 1;
        let state = self.states;
        let Some(f) = self.file(path) else {
            return false;
        };
        apply(&op, Arc::make_mut(&mut f.now));
        f.waiting.push(op);
        f.now_is = state;
        true
    }

    /// A call begins.
    pub(crate) fn began(&mut self, index: usize, c: &Call) {
        if matches!(c.name.as_str(), "fsync" | "fdatasync")
            && let Some(path) = c.args.first().and_then(|a| a.path.as_deref())
            && let Some(n) = self.find(path)
        {
            let waiting = match &self.nodes[n] {
                Node::File(f) => f.waiting.len(),
                Node::Dir(d) => d.waiting.len(),
            };
            self.syncs.insert(index, (n, waiting));
        }
    }

    fn sync(&mut self, index: usize) -> bool {
        let Some((n, count)) = self.syncs.remove(&index) else {
            return false;
        };
        match &mut self.nodes[n] {
            Node::Dir(d) => {
                let count = count.min(d.waiting.len());
                for (name, to) in d.waiting.drain(..count).flatten() {
                    match to {
                        Some(n) => d.kept.insert(name, n),
                        None => d.kept.remove(&name),
                    };
                }
            }
            Node::File(f) => {
                let count = count.min(f.waiting.len());
                if count == f.waiting.len() {
                    f.kept = f.now.clone();
                    f.kept_is = f.now_is;
                    f.waiting.clear();
                } else {
                    let kept = Arc::make_mut(&mut f.kept);
                    for op in f.waiting.drain(..count) {
                        apply(&op, kept);
                    }
                    self.states += 1;
                    f.kept_is = self.states;
                }
            }
        }
        true
    }

    /// A call ended. Tells whether it changed the disk, or what would survive.
    pub(crate) fn ended(&mut self, index: usize, c: &Call) -> bool {
        if c.ret < 0 {
            return false;
        }
        let arg = |n: usize| c.args.get(n);
        let fd = arg(0).and_then(|a| a.path.clone());
        let plain = |n: usize| arg(n).map(|a| path(None, a));
        let at = |n: usize| Some(path(arg(n)?.path.as_deref(), arg(n + 1)?));
        let number = |n: usize| arg(n).and_then(|a| a.text.parse::<u64>().ok());
        let changed = match c.name.as_str() {
            "open" => self.open(plain(0), arg(1), c),
            "openat" => self.open(at(0), arg(2), c),
            "creat" => panic!("creat is not modelled"),
            "write" | "writev" => fd.map(|p| self.append(&p, c)),
            "pwrite64" => fd.map(|p| {
                let bytes = arg(1).map(|a| a.bytes.clone()).unwrap_or_default();
                assert_eq!(
                    usize::try_from(c.ret).ok(),
                    Some(bytes.len()),
                    "a short write"
                );
                self.change(&p, Op::Write(number(3).expect("offset"), Arc::new(bytes)))
            }),
            "lseek" => {
                let to = c.ret.unsigned_abs();
                fd.and_then(|p| self.file(&p).map(|f| f.pos = to));
                None
            }
            "ftruncate" => fd.map(|p| self.change(&p, Op::Size(number(1).expect("length")))),
            "truncate" => plain(0).map(|p| self.change(&p, Op::Size(number(1).expect("length")))),
            "mkdir" => plain(0).map(|p| self.add(&p, Node::Dir(Dir::default()))),
            "mkdirat" => at(0).map(|p| self.add(&p, Node::Dir(Dir::default()))),
            "unlink" | "rmdir" => plain(0).map(|p| self.remove(&p)),
            "unlinkat" => at(0).map(|p| self.remove(&p)),
            "rename" => plain(0).zip(plain(1)).map(|(a, b)| self.rename(&a, &b)),
            "renameat" | "renameat2" => at(0).zip(at(2)).map(|(a, b)| self.rename(&a, &b)),
            "link" => plain(0).zip(plain(1)).map(|(a, b)| self.link(&a, &b)),
            "linkat" => at(0).zip(at(2)).map(|(a, b)| self.link(&a, &b)),
            "fsync" | "fdatasync" => Some(self.sync(index)),
            other => {
                let ours = |a: &Arg| a.path.as_deref().is_some_and(|p| self.below(p).is_some());
                assert!(!c.args.iter().any(ours), "{other} is not modelled");
                None
            }
        };
        changed.unwrap_or(false)
    }

    fn open(&mut self, path: Option<PathBuf>, flags: Option<&Arg>, c: &Call) -> Option<bool> {
        let path = c.ret_path.clone().or(path)?;
        let has = |f: &str| flags.is_some_and(|a| a.text.split('|').any(|x| x == f));
        assert!(
            !(has("O_TMPFILE") || has("O_APPEND") && self.below(&path).is_some()),
            "not modelled: {path:?} {flags:?}"
        );
        if is_dir_flag(flags) || !(has("O_WRONLY") || has("O_RDWR")) {
            return None;
        }
        if self.find(&path).is_none() {
            return Some(has("O_CREAT") && self.add(&path, Node::File(File::default())));
        }
        self.file(&path)?.pos = 0;
        if has("O_TRUNC") && !self.file(&path)?.now.is_empty() {
            return Some(self.change(&path, Op::Size(0)));
        }
        None
    }

    fn append(&mut self, path: &Path, c: &Call) -> bool {
        let Some(f) = self.file(path) else {
            return false;
        };
        let mut bytes = c.args[1].bytes.clone();
        bytes.truncate(usize::try_from(c.ret).expect("a length"));
        let at = f.pos;
        f.pos += bytes.len() as u64;
        self.change(path, Op::Write(at, Arc::new(bytes)))
    }

    fn remove(&mut self, path: &Path) -> bool {
        let Some((dir, name)) = self.place(path) else {
            return false;
        };
        self.names(dir, vec![(name, None)]);
        true
    }

    fn link(&mut self, old: &Path, new: &Path) -> bool {
        let (Some(n), Some((dir, name))) = (self.find(old), self.place(new)) else {
            return false;
        };
        self.names(dir, vec![(name, Some(n))]);
        true
    }

    fn rename(&mut self, old: &Path, new: &Path) -> bool {
        let Some((to, new_name)) = self.place(new) else {
            assert!(self.below(old).is_none(), "moved out: {old:?}");
            return false;
        };
        let n = self.find(old).expect("moved from within");
        let (from, old_name) = self.place(old).expect("moved from within");
        if from == to {
            self.names(to, vec![(old_name, None), (new_name, Some(n))]);
        } else {
            self.names(to, vec![(new_name, Some(n))]);
            self.names(from, vec![(old_name, None)]);
        }
        true
    }

    /// The disk after a crash now.
    pub(crate) fn image(&self, v: Variant) -> Image {
        let mut out = Image::default();
        let mut print = blake3::Hasher::new();
        let mut seed = match v {
            Variant::Some(s) => s,
            _ => 0,
        };
        self.walk(ROOT, Path::new(""), v, &mut seed, &mut out, &mut print);
        let hash = print.finalize();
        let half = hash.as_bytes().first_chunk::<16>().expect("16");
        out.print = (!matches!(v, Variant::Some(_))).then(|| u128::from_le_bytes(*half));
        out
    }

    fn walk(
        &self,
        n: usize,
        path: &Path,
        v: Variant,
        seed: &mut u64,
        out: &mut Image,
        print: &mut blake3::Hasher,
    ) {
        print.update(path.as_os_str().as_encoded_bytes());
        match &self.nodes[n] {
            Node::File(f) => {
                let short = f.kept.len() < f.now.len();
                let (bytes, state, len) = match v {
                    Variant::All => (f.now.clone(), f.now_is, f.now.len()),
                    Variant::LeastZeros | Variant::NamesZeros if short => {
                        let mut b = f.kept.as_ref().clone();
                        b.resize(f.now.len(), 0);
                        (Arc::new(b), f.kept_is, f.now.len())
                    }
                    Variant::Some(_) => (f.part(path, seed), 0, 0),
                    _ => (f.kept.clone(), f.kept_is, f.kept.len()),
                };
                print.update(&[1]);
                print.update(&state.to_le_bytes());
                print.update(&(len as u64).to_le_bytes());
                out.entries.push((path.to_owned(), Some(bytes)));
            }
            Node::Dir(d) => {
                print.update(&[2]);
                if n != ROOT {
                    out.entries.push((path.to_owned(), None));
                }
                let names = match v {
                    Variant::Least | Variant::LeastZeros => d.kept.clone(),
                    Variant::Names | Variant::NamesZeros | Variant::All => d.now.clone(),
                    Variant::Some(_) => {
                        let mut names = d.kept.clone();
                        for (name, to) in d
                            .waiting
                            .iter()
                            .filter(|_| next(seed).is_multiple_of(2))
                            .flatten()
                        {
                            match to {
                                Some(n) => names.insert(name.clone(), *n),
                                None => names.remove(name),
                            };
                        }
                        names
                    }
                };
                for (name, child) in names {
                    self.walk(child, &path.join(name), v, seed, out, print);
                }
                print.update(&[3]);
            }
        }
    }

    /// The bytes, for a comparison with the real disk.
    pub(crate) fn now(&self) -> BTreeMap<PathBuf, Option<Bytes>> {
        self.image(Variant::All).entries.into_iter().collect()
    }
}

impl File {
    /// A part of what was not fsynced: any part, but of overlay files the beginning, so that
    /// they are as they were at some time.
    fn part(&self, path: &Path, seed: &mut u64) -> Bytes {
        let mut out = self.kept.as_ref().clone();
        let overlay = path.components().any(|c| c.as_os_str() == "overlay");
        let first = usize::try_from(next(seed) % (self.waiting.len() as u64 + 1)).unwrap_or(0);
        for (n, op) in self.waiting.iter().enumerate() {
            if (overlay && n < first) || (!overlay && next(seed).is_multiple_of(2)) {
                apply(op, &mut out);
            }
        }
        Arc::new(out)
    }
}

fn path(dir: Option<&Path>, a: &Arg) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    let p = Path::new(std::ffi::OsStr::from_bytes(&a.bytes));
    let p = match dir {
        Some(d) => d.join(p),
        None => p.to_owned(),
    };
    p.components().collect()
}
