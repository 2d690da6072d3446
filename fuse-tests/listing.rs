//! Names in a directory: listed while others come and go, odd ones, and how programs hear of
//! changes; and what a folder does not have, which programs do without.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir, StatxFlags};
use rustix::io::Errno;

use crate::harness::{self, Lab, Node, SOON, agree, git, rounds, run, wait_until};

/// How often each name is listed, and at which cookies, read with little room at a time.
fn listed(dir: &File) -> BTreeMap<Vec<u8>, Vec<u64>> {
    let mut room = [MaybeUninit::uninit(); 2_000];
    let mut entries = RawDir::new(dir, &mut room);
    let mut out: BTreeMap<Vec<u8>, Vec<u64>> = BTreeMap::new();
    while let Some(e) = entries.next() {
        let e = e.expect("an entry");
        let name = e.file_name().to_bytes().to_vec();
        out.entry(name).or_default().push(e.next_entry_cookie());
    }
    out
}

#[test]
fn names_that_stay_are_listed_once_while_others_come_and_go() {
    if !harness::fuse() {
        return;
    }
    let entries = rounds("CELLFS_TEST_ENTRIES", 20_000);
    let lab = Lab::new();
    let nodes = lab.cell(2);
    let (a, b) = (&nodes[0], &nodes[1]);
    fs::create_dir(a.at("d")).expect("made");
    for i in 0..entries {
        File::create(a.at(format!("d/stays-{i:06}"))).expect("made");
    }
    wait_until(SOON, || b.at("d").exists(), || "b has no d".into());
    let done = AtomicBool::new(false);
    let churn = |n: &Node, who: &str| {
        for i in 0.. {
            let at = |i: usize| n.at(format!("d/{who}-{i}"));
            fs::write(at(i), "x").expect("written");
            if i >= 20 {
                fs::remove_file(at(i - 20)).expect("removed");
            }
            if i % 3 == 0 {
                fs::rename(at(i), n.at(format!("d/{who}-{i}.moved"))).expect("moved");
                fs::rename(n.at(format!("d/{who}-{i}.moved")), at(i)).expect("moved");
            }
            if done.load(Ordering::Relaxed) {
                return i;
            }
        }
        0
    };
    std::thread::scope(|s| {
        let others = [s.spawn(|| churn(a, "here")), s.spawn(|| churn(b, "there"))];
        for round in 0..5 {
            let all = listed(&File::open(a.at("d")).expect("opened"));
            let stays = all.iter().filter(|(n, _)| n.starts_with(b"stays-"));
            let wrong: Vec<_> = stays.clone().filter(|(_, c)| c.len() != 1).collect();
            assert!(wrong.is_empty(), "round {round}: {} twice", wrong.len());
            assert_eq!(stays.count(), entries, "round {round}");
            let dots = [&b"."[..], b".."].map(|n| all.get(n).map_or(0, Vec::len));
            assert_eq!(dots, [1, 1]);
            // From a cookie of then, a new descriptor lists what came after it.
            let mut cookies: Vec<(u64, &[u8])> = all
                .iter()
                .filter(|(n, _)| n.starts_with(b"stays-"))
                .map(|(n, c)| (c[0], n.as_slice()))
                .collect();
            let middle = cookies[cookies.len() / 2].0;
            cookies.retain(|(c, _)| *c > middle);
            let mut dir = File::open(a.at("d")).expect("opened");
            dir.seek(SeekFrom::Start(middle)).expect("sought");
            let rest = listed(&dir);
            let rest = rest.iter().filter(|(n, _)| n.starts_with(b"stays-"));
            let mut rest: Vec<(u64, &[u8])> = rest.map(|(n, c)| (c[0], n.as_slice())).collect();
            rest.sort_unstable();
            cookies.sort_unstable();
            assert!(
                rest == cookies,
                "round {round}: {} of {}",
                rest.len(),
                cookies.len()
            );
        }
        done.store(true, Ordering::Relaxed);
        for other in others {
            assert!(other.join().expect("no panic") > 0);
        }
    });
    for n in nodes {
        n.stop();
    }
}

/// A directory that is half read when half of its names go and as many others come.
#[test]
fn a_listing_that_changes_half_way_shows_once_what_stays() {
    if !harness::fuse() {
        return;
    }
    const NAMES: usize = 5_000;
    let lab = Lab::new();
    let node = lab.first("n1");
    let dir = node.at("d");
    fs::create_dir(&dir).expect("made");
    let old = |i: usize| format!("old-{i:05}");
    for i in 0..NAMES {
        File::create(dir.join(old(i))).expect("made");
    }
    for settled in [false, true] {
        if settled {
            node.settled();
        }
        let open = File::open(&dir).expect("opened");
        let mut room = [MaybeUninit::uninit(); 1_000];
        let mut entries = RawDir::new(&open, &mut room);
        let mut seen: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        let mut middle = 0;
        for n in 0.. {
            let Some(e) = entries.next() else {
                break;
            };
            let e = e.expect("an entry");
            let name = e.file_name().to_string_lossy().into_owned();
            seen.entry(name).or_default().push(e.next_entry_cookie());
            if n != NAMES / 2 {
                continue;
            }
            middle = e.next_entry_cookie();
            for i in (0..NAMES).step_by(2) {
                let new = dir.join(format!("new-{i:05}"));
                match i % 4 {
                    0 => fs::rename(dir.join(old(i)), new).expect("moved"),
                    _ => {
                        fs::remove_file(dir.join(old(i))).expect("removed");
                        File::create(new).expect("made");
                    }
                }
            }
        }
        let wrong: Vec<_> = seen.iter().filter(|(_, c)| c.len() != 1).collect();
        assert!(wrong.is_empty(), "{} are shown twice", wrong.len());
        let stay: Vec<String> = (1..NAMES).step_by(2).map(old).collect();
        let missing = stay.iter().filter(|n| !seen.contains_key(*n)).count();
        assert_eq!(missing, 0, "of {} that stay", stay.len());
        // Whoever opens it now and goes on from there finds the rest of what is there now.
        let mut again = File::open(&dir).expect("opened");
        again.seek(SeekFrom::Start(middle)).expect("sought");
        let rest = listed(&again);
        for name in &stay {
            let after = seen[name][0] > middle;
            assert_eq!(rest.contains_key(name.as_bytes()), after, "{name}");
        }
        assert!(!rest.contains_key(old(0).as_bytes()));
        again.rewind().expect("from the start");
        let now = listed(&again);
        assert_eq!(now.len(), NAMES + 2);
        assert!(now.values().all(|c| c.len() == 1));
        // As it was, for the next time.
        for i in (0..NAMES).step_by(2) {
            fs::rename(dir.join(format!("new-{i:05}")), dir.join(old(i))).expect("moved");
        }
    }
    node.stop();
}

#[test]
fn names_of_any_bytes_are_names_on_all_nodes() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let mut nodes = lab.cell(2);
    let (a, b) = (nodes.remove(0), nodes.remove(0));
    let long = [0xc3; 255];
    let mut all: Vec<Vec<u8>> = [
        &long[..],
        b"\xff\xfe",
        b"a\nb",
        b"-rf",
        b"\\",
        b" ",
        b"...",
        b"a\tb\x01",
        b"*",
        b"\"",
        b"con.txt.",
        b"\xed\xa0\x80",
    ]
    .map(<[u8]>::to_vec)
    .to_vec();
    for name in &all {
        let name = OsStr::from_bytes(name);
        fs::create_dir_all(a.at("d").join(name)).expect("made");
        fs::write(a.at("d").join(name).join(name), name.as_bytes()).expect("written");
        symlink(name, a.at("d").join(name).join("link")).expect("made");
    }
    let longer = OsStr::from_bytes(&[b'x'; 256]).to_owned();
    let errno = |r: std::io::Result<()>| r.expect_err("refused").raw_os_error();
    assert_eq!(
        errno(fs::write(a.at(&longer), "")),
        Some(libc::ENAMETOOLONG)
    );
    assert_eq!(
        errno(fs::rename(a.at("d"), a.at(&longer))),
        Some(libc::ENAMETOOLONG)
    );
    assert!(!a.at(&longer).exists());
    agree(&[&a, &b], "cell", SOON);
    all.sort_unstable();
    let whole = |dir: &Path| {
        let names = fs::read_dir(dir).expect("listed");
        let names = names.map(|e| e.expect("an entry").file_name().as_bytes().to_vec());
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        assert_eq!(names, all, "{}", dir.display());
        for name in &all {
            let name = OsStr::from_bytes(name);
            let at = dir.join(name);
            assert_eq!(fs::read(at.join(name)).expect("read"), name.as_bytes());
            assert_eq!(
                fs::read_link(at.join("link")).expect("a link"),
                Path::new(name)
            );
        }
    };
    whole(&a.at("d"));
    whole(&b.at("d"));
    let clone = lab.path("clone");
    git::git(&lab.path(""), &["clone", "-q", &b.url("cell"), "clone"]);
    whole(&clone.join("d"));
    let b = b.stop().start();
    whole(&b.at("d"));
    git::fsck(&b.repo("cell"));
    a.stop();
    b.stop();
}

/// What a watch of a directory tells, as (name, what).
fn told(watch: &std::os::fd::OwnedFd) -> Vec<(String, ReadFlags)> {
    let mut room = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(watch, &mut room);
    let mut out = Vec::new();
    while let Ok(e) = reader.next() {
        let name = e.file_name().map(|n| n.to_string_lossy().into_owned());
        out.push((name.unwrap_or_default(), e.events()));
    }
    out
}

#[test]
fn inotify_tells_what_is_done_in_this_folder() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let node = lab.first("n1");
    fs::create_dir(node.at("d")).expect("made");
    let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).expect("a watch");
    let dir = node.at("d");
    inotify::add_watch(&watch, &dir, WatchFlags::ALL_EVENTS).expect("watched");
    let expect = |what: &[(&str, ReadFlags)]| {
        let all = told(&watch);
        let quiet = ReadFlags::OPEN | ReadFlags::ACCESS | ReadFlags::CLOSE_NOWRITE;
        let all: Vec<_> = all.iter().filter(|(_, e)| !quiet.intersects(*e)).collect();
        let all: Vec<(&str, ReadFlags)> = all.iter().map(|(n, e)| (n.as_str(), *e)).collect();
        assert_eq!(all, what);
    };
    let mut f = File::create(dir.join("f")).expect("made");
    expect(&[("f", ReadFlags::CREATE)]);
    f.write_all(b"x").expect("written");
    drop(f);
    expect(&[("f", ReadFlags::MODIFY), ("f", ReadFlags::CLOSE_WRITE)]);
    // The node's own doings, as commits, are nobody's.
    node.settled();
    fs::read(dir.join("f")).expect("read");
    expect(&[]);
    fs::rename(dir.join("f"), dir.join("g")).expect("moved");
    expect(&[("f", ReadFlags::MOVED_FROM), ("g", ReadFlags::MOVED_TO)]);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(dir.join("g"), mode).expect("set");
    expect(&[("g", ReadFlags::ATTRIB)]);
    fs::create_dir(dir.join("e")).expect("made");
    expect(&[("e", ReadFlags::CREATE | ReadFlags::ISDIR)]);
    fs::hard_link(dir.join("g"), dir.join("h")).expect("linked");
    symlink("g", dir.join("l")).expect("linked");
    let names: Vec<_> = told(&watch)
        .into_iter()
        .filter(|(_, e)| *e == ReadFlags::CREATE)
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    fs::remove_file(dir.join("l")).expect("removed");
    fs::remove_dir(dir.join("e")).expect("removed");
    expect(&[
        ("l", ReadFlags::DELETE),
        ("e", ReadFlags::DELETE | ReadFlags::ISDIR),
    ]);
    node.stop();
}

#[test]
fn find_newer_finds_what_changed_here_and_there() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let nodes = lab.cell(2);
    let (a, b) = (&nodes[0], &nodes[1]);
    fs::create_dir(a.at("d")).expect("made");
    for name in ["d/old", "d/changed", "d/there", "mark"] {
        std::thread::sleep(Duration::from_millis(10));
        a.write(name, name);
    }
    agree(&[a, b], "cell", SOON);
    std::thread::sleep(Duration::from_millis(10));
    a.write("d/changed", "more");
    b.write("d/there", "more");
    File::options()
        .write(true)
        .open(b.at("d/old"))
        .expect("opened, and no more");
    a.settled();
    b.settled();
    agree(&[a, b], "cell", SOON);
    for n in [a, b] {
        let line = "find d -type f -newer mark | sort | tr '\\n' ' '";
        let found = run(Command::new("sh").args(["-c", line]).current_dir(n.dir()));
        assert_eq!(found.trim(), "d/changed d/there", "{}", n.name());
        let m = n.at("d/changed").metadata().expect("there");
        assert!(m.ctime() >= m.mtime(), "{}", n.name());
    }
    for n in nodes {
        n.stop();
    }
}

#[test]
fn what_a_folder_has_not_programs_do_without() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let node = lab.first("n1");
    let flags = OFlags::TMPFILE | OFlags::RDWR;
    let none = rustix::fs::openat(CWD, node.dir(), flags, Mode::from_raw_mode(0o600));
    assert_eq!(none.err(), Some(Errno::OPNOTSUPP));
    let script = "import sys, tempfile\n\
        f = tempfile.TemporaryFile(dir=sys.argv[1]); f.write(b'x'); f.seek(0)\n\
        assert f.read() == b'x'";
    run(Command::new("python3").args(["-c", script]).arg(node.dir()));
    assert_eq!(fs::read_dir(node.dir()).expect("listed").count(), 0);
    // When a file was made nobody is told.
    node.write("f", "f");
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let s = rustix::fs::statx(CWD, node.at("f"), AtFlags::empty(), wanted).expect("there");
    let has = StatxFlags::from_bits_retain(s.stx_mask);
    assert!(has.contains(StatxFlags::BASIC_STATS) && !has.contains(StatxFlags::BTIME));
    node.stop();
}
