//! What is traced: a volume that is written, killed and opened again, and a log beside it of
//! what was about to be done (`S path state`), was done (`D`) and was acknowledged (`A path`).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cellfs::base::id::{NodeId, Oid, VolumeName};
use cellfs::fs::{Caller, Fs, RenameMode, SetAttr, SetXattr};
use cellfs::record::model::Kind;
use cellfs::store::incoming;
use cellfs::volume::chain::Disk;
use cellfs::volume::inode::{Ino, ROOT_INO};
use cellfs::volume::view::HeadInfo;
use cellfs::volume::{Identity, Outlet, RefUpdate, Volume};

/// All of them, in order; each is a process of its own that dies at the end.
pub(crate) const PHASES: [fn(&Path); 3] = [first, second, third];

const ME: Caller = Caller {
    uid: 0,
    gid: 0,
    umask: 0,
};

struct Quiet;

impl Outlet for Quiet {
    fn committed(&self, _: &VolumeName, _: &HeadInfo, _: Option<Vec<u8>>) {}
}

pub(crate) fn open(dir: &Path, node: u8) -> Result<Arc<Volume>, String> {
    let who = Identity {
        node: NodeId([node; 32]),
        name: format!("n{node}"),
    };
    let name = "cell".parse().expect("a name");
    Volume::open(dir, name, who, Arc::new(Quiet)).map_err(|e| e.to_string())
}

pub(crate) fn mount(v: &Arc<Volume>) -> Fs {
    Fs::new(v.clone(), 1, false, ME)
}

/// The attribute that is set.
const XATTR: &[u8] = b"user.power";

/// What stands for the attribute of a file among what is shown.
fn attribute(path: &str) -> String {
    format!(":attribute of {path}")
}

/// Everything that is shown, also attributes: bytes of files, targets of links, none for directories.
pub(crate) fn shown(f: &Fs) -> Result<BTreeMap<String, Option<Vec<u8>>>, String> {
    let mut out = BTreeMap::new();
    let mut queue = vec![(String::new(), ROOT_INO)];
    let text = |e: cellfs::volume::error::VolumeError| e.to_string();
    while let Some((path, dir)) = queue.pop() {
        for e in f.list(dir).map_err(text)? {
            let here = format!("{path}{}", e.name);
            let found = f.lookup_entry(dir, &e).map_err(text)?;
            let s = found.ok_or_else(|| format!("{here} is listed and not there"))?;
            let bytes = match s.kind {
                Kind::Dir => {
                    queue.push((format!("{here}/"), s.ino));
                    None
                }
                Kind::Symlink => Some(f.readlink(s.ino).map_err(text)?),
                _ => Some(f.read(s.ino, 0, u32::MAX).map_err(text)?),
            };
            if s.kind == Kind::File
                && let Ok(value) = f.xattr(s.ino, XATTR)
            {
                out.insert(attribute(&here), Some(value));
            }
            out.insert(here, bytes);
        }
    }
    Ok(out)
}

/// The name of a state in the log; its bytes are kept in a file of that name.
pub(crate) fn state_name(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..24].to_owned()
}

struct Run {
    v: Arc<Volume>,
    f: Fs,
    log: RefCell<File>,
    states: PathBuf,
    /// What each file holds.
    files: RefCell<BTreeMap<String, Vec<u8>>>,
}

/// Writes a file by a call that is not traced, to keep the trace small.
fn keep(path: &Path, b: &[u8]) {
    if path.exists() {
        return;
    }
    let f = File::create(path).expect("made");
    let n = rustix::io::pwritev(&f, &[std::io::IoSlice::new(b)], 0).expect("kept");
    assert_eq!(n, b.len());
}

fn bytes(seed: u32, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(2_654_435_761).max(1);
    let step = |_| {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        (x & 0xff) as u8
    };
    (0..len).map(step).collect()
}

impl Run {
    fn start(base: &Path) -> Self {
        let log = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(base.join("events"));
        let v = open(&base.join("volumes/cell"), 1).expect("opened");
        let f = mount(&v);
        let files = shown(&f).expect("shown");
        let files = files.into_iter().filter_map(|(p, b)| Some((p, b?)));
        Self {
            files: RefCell::new(files.collect()),
            f,
            v,
            log: RefCell::new(log.expect("a log")),
            states: base.join("states"),
        }
    }

    fn say(&self, line: &str) {
        let line = format!("{line}\n");
        self.log
            .borrow_mut()
            .write_all(line.as_bytes())
            .expect("logged");
    }

    /// About to be so; `None`: gone.
    fn will(&self, path: &str, to: Option<&[u8]>) {
        let name = match to {
            None => "-".to_owned(),
            Some(b) => {
                let name = state_name(b);
                keep(&self.states.join(&name), b);
                name
            }
        };
        self.say(&format!("S\t{path}\t{name}"));
        let mut files = self.files.borrow_mut();
        match to {
            Some(b) => files.insert(path.to_owned(), b.to_vec()),
            None => files.remove(path),
        };
    }

    fn will_be_dir(&self, path: &str) {
        self.say(&format!("S\t{path}\t/"));
    }

    fn done(&self) {
        self.say("D");
    }

    fn acked(&self, path: &str) {
        self.say(&format!("A\t{path}"));
    }

    fn now(&self, path: &str) -> Vec<u8> {
        self.files.borrow().get(path).cloned().expect(path)
    }

    fn walk(&self, path: &str) -> Ino {
        let parts = path.split('/').filter(|p| !p.is_empty());
        parts.fold(ROOT_INO, |dir, name| {
            self.f
                .lookup(dir, name.as_bytes())
                .expect("looked")
                .expect(path)
                .ino
        })
    }

    fn place<'a>(&self, path: &'a str) -> (Ino, &'a [u8]) {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        (self.walk(dir), name.as_bytes())
    }

    fn create(&self, path: &str) -> Ino {
        let (dir, name) = self.place(path);
        self.will(path, Some(b""));
        let ino = self
            .f
            .create(dir, name, 0o644, ME, true)
            .expect("created")
            .ino;
        self.done();
        ino
    }

    fn open(&self, path: &str, truncate: bool) -> Ino {
        let ino = self.walk(path);
        if truncate {
            self.will(path, Some(b""));
        }
        self.f.open(ino, true, truncate).expect("opened");
        if truncate {
            self.done();
        }
        ino
    }

    /// Writes in pieces, as the kernel does.
    fn write(&self, path: &str, ino: Ino, at: usize, data: &[u8]) {
        for (n, part) in data.chunks(128 << 10).enumerate() {
            let at = at + n * (128 << 10);
            let mut b = self.now(path);
            if b.len() < at + part.len() {
                b.resize(at + part.len(), 0);
            }
            b[at..at + part.len()].copy_from_slice(part);
            self.will(path, Some(&b));
            self.f.write(ino, at as u64, part).expect("written");
            self.done();
        }
    }

    fn fsync(&self, path: &str, ino: Ino) {
        self.f.fsync(ino).expect("synced");
        self.acked(path);
    }

    fn close(&self, ino: Ino) {
        self.f.release(ino, true);
    }

    /// Create or truncate, write, fsync if asked, close.
    fn put(&self, path: &str, data: &[u8], sync: bool) {
        let new = !self.files.borrow().contains_key(path);
        let ino = if new {
            self.create(path)
        } else {
            self.open(path, true)
        };
        self.write(path, ino, 0, data);
        if sync {
            self.fsync(path, ino);
        }
        self.close(ino);
    }

    fn rename(&self, old: &str, new: &str) {
        let (from, to) = (self.place(old), self.place(new));
        let b = self.now(old);
        self.will(old, None);
        self.will(new, Some(&b));
        self.f
            .rename(from, to, RenameMode::Replace)
            .expect("renamed");
        self.done();
    }

    fn unlink(&self, path: &str) {
        let (dir, name) = self.place(path);
        self.will(path, None);
        self.f.unlink(dir, name).expect("removed");
        self.done();
    }

    fn mkdir(&self, path: &str) {
        let (dir, name) = self.place(path);
        self.will_be_dir(path);
        self.f.mkdir(dir, name, 0o755, ME).expect("made");
        self.done();
    }

    fn rmdir(&self, path: &str) {
        let (dir, name) = self.place(path);
        self.will(path, None);
        self.f.rmdir(dir, name).expect("removed");
        self.done();
    }

    fn resize(&self, path: &str, len: usize) {
        let mut b = self.now(path);
        b.resize(len, 0);
        self.will(path, Some(&b));
        let set = SetAttr {
            size: Some(len as u64),
            ..SetAttr::default()
        };
        self.f.setattr(self.walk(path), set).expect("cut");
        self.done();
    }

    fn link(&self, old: &str, new: &str) {
        let (dir, name) = self.place(new);
        let b = self.now(old);
        self.will(new, Some(&b));
        self.f.link(self.walk(old), dir, name).expect("linked");
        self.done();
    }

    fn set(&self, path: &str, value: &[u8]) {
        self.will(&attribute(path), Some(value));
        let ino = self.walk(path);
        let how = SetXattr::Any;
        self.f.set_xattr(ino, XATTR, value, how).expect("set");
        self.done();
    }

    /// Writes by one name of a file, which is shown by the other, too.
    fn write_linked(&self, path: &str, other: &str, ino: Ino, at: usize, data: &[u8]) {
        let mut b = self.now(other);
        b.resize(b.len().max(at + data.len()), 0);
        b[at..at + data.len()].copy_from_slice(data);
        self.will(other, Some(&b));
        self.write(path, ino, at, data);
    }

    /// An fsync of a directory: all names are acknowledged, and these files with them.
    fn fsync_dir(&self, paths: &[&str]) {
        self.f.fsync_dir().expect("synced");
        for p in paths {
            self.acked(p);
        }
    }

    /// Everything is in a commit.
    fn commit(&self) {
        self.v.flush_all().expect("committed");
        self.acked("*");
    }

    /// Waits until the volume's thread has committed all but `left` files.
    fn settle(&self, left: usize) {
        let began = Instant::now();
        while self.v.dirty() > left && began.elapsed() < Duration::from_millis(800) {
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_millis(30));
    }

    /// What others wrote is about to be shown.
    fn will_show(&self, theirs: &BTreeMap<String, Option<Vec<u8>>>) {
        for (path, b) in theirs {
            match b {
                Some(b) if self.files.borrow().get(path) == Some(b) => {}
                Some(b) => self.will(path, Some(b)),
                None => self.will_be_dir(path),
            }
        }
    }
}

fn pull(from: &Volume, to: &Volume) {
    let ids = |v: &Volume| -> Vec<Oid> { v.view().heads.iter().map(|h| h.id).collect() };
    let want = ids(from);
    let mut stream = Vec::new();
    incoming::send(&**from.repo(), &want, &ids(to), &mut stream).expect("sent");
    if stream.get(8..12) != Some(&[0; 4]) {
        let came = incoming::receive(to.repo(), stream.as_slice()).expect("received");
        let held_lasts = || to.sync(to.last()).map_err(std::io::Error::other);
        came.admit(to.repo(), &want, held_lasts).expect("complete");
    }
    to.admit(want).expect("admitted");
}

fn first(base: &Path) {
    let r = Run::start(base);
    names_and_small_files(&r);
    large_files(&r);
    links_and_attributes(&r);
    shrinking_files(&r);
    held_files(&r);
    writes_during_commits(&r);
    peers(&r, base);
    push(&r);
    // Left for the next start: nothing of it was synced.
    let late = r.create("late");
    r.write("late", late, 0, b"late");
    r.mkdir("late-dir");
    r.rename("late", "late-dir/late");
    let big = r.create("late-big");
    r.write("late-big", big, 0, &bytes(9, 200_000));
    let a = r.open("a", false);
    r.write("a", a, 1, b"LATE");
    r.settle(3);
}

fn names_and_small_files(r: &Run) {
    r.put("a", b"one", true);
    r.mkdir("d");
    r.put("d/x", b"x of d", true);
    let link = b"d/x";
    r.will("link", Some(link));
    r.f.symlink(ROOT_INO, b"link", link, ME).expect("linked");
    r.done();
    r.fsync_dir(&["link", "d"]);
    r.put("a", b"one and a half", true);
    r.commit();
    r.put("tmp", b"two", true);
    r.rename("tmp", "a");
    r.fsync_dir(&["a", "tmp"]);
    r.settle(0);
    r.put("tmp", b"three", false);
    r.rename("tmp", "a");
    r.fsync_dir(&["a", "tmp"]);
    r.resize("a", 2);
    r.resize("a", 9);
    let a = r.open("a", false);
    r.fsync("a", a);
    r.close(a);
    r.mkdir("e");
    r.put("e/f", b"short life", true);
    r.unlink("e/f");
    r.rmdir("e");
    r.fsync_dir(&["e/f", "e"]);
    r.put("gone", b"gone", true);
    r.commit();
    r.unlink("gone");
    r.fsync_dir(&["gone"]);
    r.mkdir("d/deep");
    r.rename("d/x", "d/deep/y");
    r.fsync_dir(&["d/x", "d/deep", "d/deep/y"]);
    r.settle(0);
}

/// Files that move to the overlay, between fsyncs of others that make the journal durable.
fn large_files(r: &Run) {
    let small = r.create("small");
    let sync_journal = |n: u32| {
        r.write("small", small, 0, &bytes(n, 20));
        r.fsync("small", small);
    };
    let other = r.create("other");
    r.write("other", other, 0, &bytes(1, 150_000));
    r.fsync("other", other);
    let sync_overlay = |n: u32| {
        r.write("other", other, 0, &bytes(n, 10));
        r.fsync("other", other);
    };
    // Born small and acknowledged, then grown.
    let big = r.create("big");
    r.write("big", big, 0, &bytes(2, 100_000));
    r.fsync("big", big);
    r.write("big", big, 100_000, &bytes(3, 100_000));
    sync_journal(1);
    sync_overlay(2);
    r.fsync("big", big);
    r.write("big", big, 10, b"over");
    sync_journal(3);
    r.commit();
    // Written on, open, after a commit.
    r.write("big", big, 1000, b"again");
    sync_journal(4);
    sync_overlay(5);
    r.fsync("big", big);
    r.settle(0);
    r.resize("big", 140_000);
    r.fsync("big", big);
    r.resize("big", 90_000);
    r.write("big", big, 90_000, &bytes(4, 20));
    r.fsync("big", big);
    r.close(big);
    // Committed and closed, then opened and grown.
    r.put("grow", &bytes(5, 120_000), true);
    r.commit();
    let grow = r.open("grow", false);
    r.write("grow", grow, 120_000, &bytes(6, 30_000));
    sync_journal(6);
    sync_overlay(7);
    r.fsync("grow", grow);
    r.close(grow);
    // Large from the first byte, replaced by a large one.
    r.put("new", &bytes(7, 300_000), true);
    r.put("tmp", &bytes(8, 200_000), true);
    r.rename("tmp", "new");
    r.fsync_dir(&["tmp", "new"]);
    r.close(small);
    r.close(other);
    r.commit();
    let new = r.open("new", true);
    r.write("new", new, 0, &bytes(10, 5));
    r.fsync("new", new);
    r.close(new);
}

/// Files with two names, and attributes, before and after commits.
fn links_and_attributes(r: &Run) {
    r.put("named", b"by one name", true);
    r.link("named", "twice");
    r.set("named", b"one");
    r.fsync_dir(&["named", "twice", &attribute("named")]);
    r.commit();
    let ino = r.open("twice", false);
    r.write_linked("twice", "named", ino, 3, b"the other");
    r.fsync("twice", ino);
    r.acked("named");
    r.close(ino);
    r.settle(0);
    r.set("named", b"two");
    r.fsync_dir(&[&attribute("named")]);
    r.will(&attribute("named"), None);
    r.unlink("named");
    r.fsync_dir(&["named", "twice"]);
    r.settle(0);
}

/// Large files that become shorter, in the overlay and out of it.
fn shrinking_files(r: &Run) {
    r.put("shrinks", &bytes(30, 260_000), true);
    r.resize("shrinks", 150_000);
    let ino = r.open("shrinks", false);
    r.fsync("shrinks", ino);
    r.write("shrinks", ino, 150_000, &bytes(31, 20_000));
    r.fsync("shrinks", ino);
    r.close(ino);
    r.commit();
    r.resize("shrinks", 1_000);
    let ino = r.open("shrinks", false);
    r.fsync("shrinks", ino);
    r.close(ino);
    r.settle(0);
    let ino = r.open("shrinks", true);
    r.write("shrinks", ino, 0, &bytes(32, 140_000));
    r.fsync("shrinks", ino);
    r.close(ino);
    r.commit();
}

/// Files that stay open while others are committed.
fn held_files(r: &Run) {
    r.put("held", b"held: first version, committed", true);
    r.commit();
    let held = r.open("held", false);
    r.write("held", held, 0, b"HELD");
    let born = r.create("born-held");
    r.write("born-held", born, 0, b"born, not closed");
    r.put("free", b"free", true);
    r.settle(2);
    r.write("held", held, 10, b"SECOND");
    r.fsync("held", held);
    r.put("free", b"free again", true);
    r.settle(0);
    r.write("born-held", born, 3, b"e");
    r.fsync("born-held", born);
    r.rename("born-held", "renamed-held");
    r.close(held);
    r.close(born);
    r.put("free", b"free at last", true);
    r.settle(0);
}

/// Writes that meet the commit of the write before.
fn writes_during_commits(r: &Run) {
    let ino = r.create("race");
    r.write("race", ino, 0, &[b'.'; 40]);
    r.close(ino);
    for n in 0..20u8 {
        let ino = r.open("race", false);
        r.write("race", ino, n as usize, &[b'a' + n]);
        r.fsync("race", ino);
        r.close(ino);
        std::thread::sleep(Duration::from_micros(500 * u64::from(n % 8)));
    }
    let ino = r.create("race-big");
    r.write("race-big", ino, 0, &bytes(11, 140_000));
    for n in 0..6u8 {
        r.write("race-big", ino, 1000 * n as usize, &[n; 100]);
        r.fsync("race-big", ino);
        std::thread::sleep(Duration::from_millis(u64::from(n)));
    }
    r.close(ino);
}

/// Another node's edits come in, are merged with ours, and what was merged is edited.
fn peers(r: &Run, base: &Path) {
    let text: String = (0..40).map(|n| format!("line {n}\n")).collect();
    r.put("text", text.as_bytes(), true);
    r.commit();
    let b = open(&base.join("other"), 2).expect("opened");
    pull(&r.v, &b);
    let other = Run {
        f: mount(&b),
        v: b.clone(),
        log: RefCell::new(File::create("/dev/null").expect("null")),
        states: r.states.clone(),
        files: RefCell::new(r.files.borrow().clone()),
    };
    other.put(
        "text",
        text.replace("line 3\n", "LINE 3\n").as_bytes(),
        false,
    );
    other.put("theirs", b"of the other node", false);
    b.flush_all().expect("committed");
    let mine = text.replace("line 33\n", "LINE 33\n");
    r.put("text", mine.as_bytes(), true);
    r.commit();
    let merged = mine.replace("line 3\n", "LINE 3\n");
    let mut theirs = BTreeMap::from([("theirs".to_owned(), other.now("theirs"))]);
    theirs.insert("text".to_owned(), merged.into_bytes());
    let theirs = theirs.into_iter().map(|(p, b)| (p, Some(b))).collect();
    r.will_show(&theirs);
    pull(&b, &r.v);
    r.done();
    // The merged bytes are in no object yet.
    let ino = r.open("text", false);
    r.write("text", ino, 0, b"Line");
    r.fsync("text", ino);
    // More comes while it is open.
    other.put("theirs", b"of the other node, again", false);
    b.flush_all().expect("committed");
    r.will("theirs", Some(b"of the other node, again"));
    pull(&b, &r.v);
    r.done();
    r.write("text", ino, 7, b"L");
    r.fsync("text", ino);
    r.close(ino);
    r.settle(0);
    b.stop().expect("stopped");
}

/// What receive-pack does, and then what the node does.
fn push(r: &Run) {
    let git = |dir: &Path, args: &[&str], input: &[u8]| {
        let mut c = Command::new("git");
        // Absolute names: the trace is read without working directories.
        c.arg("--git-dir").arg(dir).current_dir("/");
        c.args(["-c", "core.fsync=all"]).args(args);
        for who in ["AUTHOR", "COMMITTER"] {
            c.env(format!("GIT_{who}_NAME"), "t")
                .env(format!("GIT_{who}_EMAIL"), "t@t");
        }
        let mut child = c
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("git");
        child
            .stdin
            .take()
            .expect("piped")
            .write_all(input)
            .expect("fed");
        let out = child.wait_with_output().expect("git");
        assert!(out.status.success(), "{args:?}");
        out.stdout
    };
    let line = |b: Vec<u8>| String::from_utf8(b).expect("text").trim().to_owned();
    let client = r.states.with_file_name("client");
    fs::create_dir_all(&client).expect("made");
    git(&client, &["init", "-q", "--bare"], b"");
    for n in 0..2 {
        let blob = line(git(
            &client,
            &["hash-object", "-w", "--stdin"],
            format!("pushed {n}").as_bytes(),
        ));
        let tree = line(git(
            &client,
            &["mktree"],
            format!("100644 blob {blob}\tf\n").as_bytes(),
        ));
        let commit = line(git(&client, &["commit-tree", "-m", "pushed", &tree], b""));
        let ids = format!("{commit}\n{tree}\n{blob}\n");
        let pack = git(&client, &["pack-objects", "--stdout", "-q"], ids.as_bytes());
        let repo = r.v.repo().path().to_owned();
        git(&repo, &["index-pack", "--stdin", "--strict"], &pack);
        let name = format!("refs/heads/pushed-{n}");
        let update = RefUpdate {
            name: name.clone(),
            old: None,
            new: Some(Oid::from_hex(commit.as_bytes()).expect("an id")),
        };
        r.will(&format!(":{name}"), Some(commit.as_bytes()));
        let said = r.v.push(vec![update], false).expect("pushed");
        assert_eq!(said, [Ok(())]);
        r.done();
        r.acked(&format!(":{name}"));
    }
}

/// After a crash: numbers of overlay files begin anew, and git clients come.
fn second(base: &Path) {
    let r = Run::start(base);
    r.v.hand_out().expect("handed out");
    push_nothing(&r);
    for n in 0..3 {
        r.put(&format!("second-{n}"), &bytes(20 + n, 150_000), true);
    }
    let small = r.create("small-2");
    r.write("small-2", small, 0, b"small");
    r.fsync("small-2", small);
    r.close(small);
    r.settle(0);
}

/// A push that moves a ref before anything was committed in this run.
fn push_nothing(r: &Run) {
    let name = ":refs/heads/pushed-0";
    let at = r.v.repo().get_ref(&name[1..]);
    let update = RefUpdate {
        name: name[1..].to_owned(),
        old: at,
        new: None,
    };
    r.will(name, None);
    let said = r.v.push(vec![update], false).expect("pushed");
    assert_eq!(said, [Ok(())]);
    r.done();
    r.acked(name);
}

/// Packs are rolled up.
fn third(base: &Path) {
    let r = Run::start(base);
    cellfs::store::repack::repack(r.v.repo()).expect("rolled up");
    r.v.repo().refresh();
    r.put("third", b"third", true);
    r.v.stop().expect("stopped");
}
