//! What programs do with files, on one node; and that it is the same after a restart.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{AtFlags, CWD, RenameFlags, Timespec, Timestamps};

use crate::harness::tree::{assert_same, manifest};
use crate::harness::{self, Lab, Node, git, rounds};

/// Files with more bytes are pointers in git.
const LARGE_ABOVE: u64 = 4 << 20;

/// Runs `what` on the folder of a node, then looks whether a restart shows the same, and whether
/// the store is as git wants it.
fn on_a_node(what: impl FnOnce(&Node)) {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let node = lab.first("n1");
    what(&node);
    let before = manifest(node.dir());
    let node = node.stop().start();
    let after = manifest(node.dir());
    assert_eq!(before, after, "after a restart");
    git::fsck(&node.repo("cell"));
    let clone = lab.path("clone");
    git::git(
        lab.path("").as_path(),
        &["clone", "-q", &node.url("cell"), "clone"],
    );
    for (path, e) in &before {
        if path.starts_with(".git") || e.content.is_empty() {
            continue;
        }
        let cloned = manifest_of(&clone, path);
        // What git-lfs would put the bytes in the place of.
        if node
            .at(path)
            .symlink_metadata()
            .is_ok_and(|m| m.is_file() && m.len() > LARGE_ABOVE)
        {
            let text = fs::read_to_string(clone.join(path)).expect("a pointer");
            assert!(text.starts_with("version https://git-lfs"), "{text}");
            continue;
        }
        assert_eq!(cloned, e.content, "{} in a clone", path.display());
    }
    node.stop();
}

fn manifest_of(dir: &Path, path: &Path) -> String {
    let at = dir.join(path);
    match fs::read_link(&at) {
        Ok(to) => format!("-> {}", to.display()),
        Err(_) => {
            fs::read(&at).map_or_else(|e| e.to_string(), |b| blake3::hash(&b).to_hex().to_string())
        }
    }
}

fn errno(r: std::io::Result<impl Sized>) -> Option<i32> {
    r.err().and_then(|e| e.raw_os_error())
}

#[test]
fn create_write_read() {
    on_a_node(|n| {
        fs::write(n.at("small"), "hello").expect("written");
        assert_eq!(n.read("small"), "hello");
        fs::write(n.at("empty"), "").expect("written");
        assert_eq!(n.at("empty").metadata().expect("there").len(), 0);
        let big: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
        fs::write(n.at("big"), &big).expect("written");
        assert!(fs::read(n.at("big")).expect("read") == big);

        let mut f = OpenOptions::new()
            .append(true)
            .open(n.at("small"))
            .expect("opened");
        f.write_all(b", world").expect("appended");
        assert_eq!(n.read("small"), "hello, world");

        let f = OpenOptions::new()
            .write(true)
            .open(n.at("small"))
            .expect("opened");
        f.write_all_at(b"HE", 0).expect("written");
        f.write_all_at(b"end", 100_000).expect("written");
        let holed = fs::read(n.at("small")).expect("read");
        assert_eq!(holed.len(), 100_003);
        assert!(holed.starts_with(b"HEllo, world\0\0") && holed.ends_with(b"\0end"));

        let new = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(n.at("small"));
        assert_eq!(errno(new), Some(libc::EEXIST));
        assert_eq!(errno(File::open(n.at("nothing"))), Some(libc::ENOENT));
        let below = fs::write(n.at("small/below"), "");
        assert_eq!(errno(below), Some(libc::ENOTDIR));
        let long = "x".repeat(256);
        assert_eq!(errno(fs::write(n.at(long), "")), Some(libc::ENAMETOOLONG));
        fs::write(n.at("n\u{e4}me with spaces, \"quotes\" and \n"), "odd").expect("written");
        fs::write(n.at("x".repeat(255)), "longest").expect("written");
    });
}

#[test]
fn read_and_write_at_random() {
    on_a_node(|n| {
        // Beyond what is kept in memory, so that both ways of keeping bytes are met.
        let mut model = vec![0u8; 300_000];
        let mut f = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(n.at("f"))
            .expect("made");
        let mut seed = 1u64;
        let mut next = |below: usize| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(seed >> 33).expect("small") % below
        };
        let mut len = 0;
        for round in 0..400u32 {
            let (at, size) = (next(290_000), next(10_000));
            let byte = u8::try_from(round % 251).expect("small");
            f.write_all_at(&vec![byte; size], at as u64)
                .expect("written");
            if size > 0 {
                model[at..at + size].fill(byte);
                len = len.max(at + size);
            }
            if round % 50 == 49 {
                let cut = next(300_000);
                f.set_len(cut as u64).expect("cut");
                model[cut.min(300_000)..].fill(0);
                len = cut;
                f.sync_all().expect("synced");
            }
            let (at, size) = (next(290_000), next(10_000));
            let mut buf = vec![0; size];
            let mut got = 0;
            while got < size {
                let k = f.read_at(&mut buf[got..], (at + got) as u64).expect("read");
                if k == 0 {
                    break;
                }
                got += k;
            }
            let end = (at + size).min(len).max(at);
            assert!(buf[..got] == model[at..end], "round {round} at {at}");
        }
        f.seek(SeekFrom::Start(0)).expect("sought");
        let mut all = Vec::new();
        f.read_to_end(&mut all).expect("read");
        assert!(all == model[..len]);
    });
}

#[test]
fn truncate() {
    on_a_node(|n| {
        fs::write(n.at("f"), "0123456789").expect("written");
        let f = OpenOptions::new()
            .write(true)
            .open(n.at("f"))
            .expect("opened");
        f.set_len(4).expect("cut");
        assert_eq!(n.read("f"), "0123");
        f.set_len(6).expect("stretched");
        assert_eq!(n.read("f"), "0123\0\0");
        drop(f);
        harness::run(
            std::process::Command::new("truncate")
                .args(["-s", "2"])
                .arg(n.at("f")),
        );
        assert_eq!(n.read("f"), "01");
        File::create(n.at("f")).expect("O_TRUNC");
        assert_eq!(n.at("f").metadata().expect("there").len(), 0);
    });
}

#[test]
fn rename_files_and_directories() {
    on_a_node(|n| {
        fs::write(n.at("a"), "a").expect("written");
        let ino = n.at("a").metadata().expect("there").ino();
        fs::rename(n.at("a"), n.at("b")).expect("renamed");
        assert_eq!(n.at("b").metadata().expect("there").ino(), ino);
        assert!(!n.at("a").exists());

        fs::write(n.at("c"), "c").expect("written");
        let mut held = File::open(n.at("b")).expect("opened");
        fs::rename(n.at("c"), n.at("b")).expect("renamed over");
        assert_eq!(n.read("b"), "c");
        let mut old = String::new();
        held.read_to_string(&mut old).expect("read");
        assert_eq!(old, "a", "a handle keeps the file that it opened");

        fs::create_dir_all(n.at("d/e")).expect("made");
        fs::write(n.at("d/e/f"), "f").expect("written");
        fs::rename(n.at("d"), n.at("D")).expect("renamed");
        assert_eq!(n.read("D/e/f"), "f");
        assert!(!n.at("d").exists());
        fs::create_dir(n.at("empty")).expect("made");
        fs::rename(n.at("D"), n.at("empty")).expect("over an empty directory");
        assert_eq!(n.read("empty/e/f"), "f");
        fs::create_dir_all(n.at("full/x")).expect("made");
        let over_full = fs::rename(n.at("empty"), n.at("full"));
        assert_eq!(errno(over_full), Some(libc::ENOTEMPTY));
        assert_eq!(
            errno(fs::rename(n.at("b"), n.at("full"))),
            Some(libc::EISDIR)
        );
        assert_eq!(
            errno(fs::rename(n.at("full"), n.at("b"))),
            Some(libc::ENOTDIR)
        );
        assert_eq!(
            errno(fs::rename(n.at("empty"), n.at("empty/e/below"))),
            Some(libc::EINVAL)
        );
        assert_eq!(
            errno(fs::rename(n.at("none"), n.at("b"))),
            Some(libc::ENOENT)
        );
        fs::rename(n.at("empty/e/f"), n.at("moved")).expect("to another directory");
        assert_eq!(n.read("moved"), "f");

        // As editors do: write beside, then rename over.
        for i in 0..20 {
            fs::write(n.at("b.tmp"), format!("{i}")).expect("written");
            fs::rename(n.at("b.tmp"), n.at("b")).expect("renamed over");
        }
        assert_eq!(n.read("b"), "19");
    });
}

#[test]
fn rename_with_flags() {
    on_a_node(|n| {
        fs::write(n.at("a"), "a").expect("written");
        fs::write(n.at("b"), "b").expect("written");
        let (a, b) = (n.at("a"), n.at("b"));
        let no = rustix::fs::renameat_with(CWD, &a, CWD, &b, RenameFlags::NOREPLACE);
        assert_eq!(no, Err(rustix::io::Errno::EXIST));
        let exchange = |one: &str, other: &str| {
            let (one, other) = (n.at(one), n.at(other));
            rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)
        };
        let inodes = || ["a", "b"].map(|p| n.at(p).metadata().expect("there").ino());
        let before = inodes();
        exchange("a", "b").expect("exchanged");
        assert_eq!((n.read("a"), n.read("b")), ("b".into(), "a".into()));
        assert_eq!(inodes(), [before[1], before[0]]);
        fs::create_dir_all(n.at("d/e")).expect("made");
        fs::write(n.at("d/e/f"), "f").expect("written");
        exchange("a", "d").expect("exchanged");
        assert_eq!((n.read("d"), n.read("a/e/f")), ("b".into(), "f".into()));
        exchange("d", "a/e/f").expect("exchanged");
        assert_eq!((n.read("d"), n.read("a/e/f")), ("f".into(), "b".into()));
        exchange("a/e/f", "b").expect("exchanged");
        for (one, other, error) in [
            ("a", "a/e", rustix::io::Errno::INVAL),
            ("a", "nothing", rustix::io::Errno::NOENT),
            ("nothing", "a", rustix::io::Errno::NOENT),
        ] {
            assert_eq!(exchange(one, other), Err(error), "{one} and {other}");
        }
        n.settled();
        exchange("a/e", "b").expect("exchanged");
        assert_eq!((n.read("a/e"), n.read("b/f")), ("b".into(), "a".into()));
        let whiteout = rustix::fs::renameat_with(CWD, &a, CWD, &b, RenameFlags::WHITEOUT);
        assert_eq!(whiteout, Err(rustix::io::Errno::INVAL));
    });
}

/// What a file of zeros and bytes holds after room in it was set aside or given up, on ext4 too.
#[test]
fn room_and_holes() {
    use rustix::fs::FallocateFlags as F;
    on_a_node(|n| {
        let beside = tempfile::tempdir().expect("a directory");
        for len in [10u64, 5_000, 140_000, 3_000_000] {
            let bytes: Vec<u8> = (0..len).map(|b| b.to_le_bytes()[0] | 1).collect();
            let name = format!("f{len}");
            let paths = [n.at(&name), beside.path().join(&name)];
            for p in &paths {
                fs::write(p, &bytes).expect("written");
            }
            if len == 5_000 {
                n.settled();
            }
            let files = paths.each_ref().map(|p| {
                let f = OpenOptions::new().read(true).write(true).open(p);
                f.expect("opened")
            });
            let acts = [
                (F::KEEP_SIZE, len - 5, 1_000),
                (F::PUNCH_HOLE | F::KEEP_SIZE, 2, 4),
                (F::PUNCH_HOLE | F::KEEP_SIZE, len / 2, len),
                (F::ZERO_RANGE | F::KEEP_SIZE, len - 1, 1_000),
                (F::ZERO_RANGE, len / 3, len),
                (F::empty(), len, 100_000),
                (F::empty(), 0, 7),
                (F::PUNCH_HOLE | F::KEEP_SIZE, 1 << 40, 4_096),
            ];
            for (flags, at, count) in acts {
                let about = format!("{flags:?} of {count} at {at}, {len} bytes");
                for f in &files {
                    rustix::fs::fallocate(f, flags, at, count).expect(&about);
                    f.write_all_at(b"!", at.min(len)).expect("written");
                }
                let [here, there] = paths.each_ref().map(|p| fs::read(p).expect("read"));
                assert!(here == there, "{about}");
                assert_eq!(files[0].metadata().expect("there").len(), here.len() as u64);
            }
            let none = rustix::fs::fallocate(&files[0], F::COLLAPSE_RANGE, 0, 4_096);
            assert_eq!(none, Err(rustix::io::Errno::OPNOTSUPP));
        }
    });
}

#[test]
fn unlink_while_open() {
    on_a_node(|n| {
        let mut f = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(n.at("f"))
            .expect("made");
        f.write_all(b"still").expect("written");
        fs::remove_file(n.at("f")).expect("removed");
        assert!(!n.at("f").exists());
        f.write_all(b" here").expect("written");
        f.seek(SeekFrom::Start(0)).expect("sought");
        let mut all = String::new();
        f.read_to_string(&mut all).expect("read");
        assert_eq!(all, "still here");
        assert_eq!(f.metadata().expect("there").nlink(), 0);
        fs::write(n.at("f"), "another").expect("the name is free");
        f.write_all_at(b"X", 0).expect("written");
        assert_eq!(n.read("f"), "another");
        f.sync_all().expect("synced");
        drop(f);
        assert_eq!(n.read("f"), "another");
    });
}

#[test]
fn directories() {
    on_a_node(|n| {
        fs::create_dir(n.at("d")).expect("made");
        assert_eq!(errno(fs::create_dir(n.at("d"))), Some(libc::EEXIST));
        assert_eq!(errno(fs::create_dir(n.at("no/d"))), Some(libc::ENOENT));
        fs::write(n.at("d/f"), "").expect("written");
        assert_eq!(errno(fs::remove_dir(n.at("d"))), Some(libc::ENOTEMPTY));
        assert_eq!(errno(fs::remove_dir(n.at("d/f"))), Some(libc::ENOTDIR));
        assert_eq!(errno(fs::remove_file(n.at("d"))), Some(libc::EISDIR));
        fs::remove_file(n.at("d/f")).expect("removed");
        fs::remove_dir(n.at("d")).expect("removed");
        assert_eq!(errno(fs::remove_dir(n.at("d"))), Some(libc::ENOENT));
        fs::create_dir_all(n.at("a/b/c/d/e")).expect("made");
        fs::create_dir(n.at("empty")).expect("made");
        let up = n.at("a/b/../..").metadata().expect("there").ino();
        assert_eq!(up, n.dir().metadata().expect("there").ino());
        fs::remove_dir_all(n.at("a")).expect("removed");
        let names: Vec<_> = fs::read_dir(n.dir())
            .expect("listed")
            .map(|e| e.expect("an entry").file_name())
            .collect();
        assert_eq!(names, ["empty"]);
    });
}

#[test]
fn symlinks() {
    on_a_node(|n| {
        fs::write(n.at("target"), "t").expect("written");
        symlink("target", n.at("link")).expect("linked");
        assert_eq!(
            fs::read_link(n.at("link")).expect("a link"),
            Path::new("target")
        );
        assert_eq!(n.read("link"), "t");
        let long = "y/".repeat(2000);
        symlink(&long, n.at("long")).expect("linked");
        assert_eq!(
            fs::read_link(n.at("long")).expect("a link"),
            Path::new(&long)
        );
        symlink("/nowhere", n.at("dangling")).expect("linked");
        assert_eq!(errno(fs::read(n.at("dangling"))), Some(libc::ENOENT));
        let m = n.at("link").symlink_metadata().expect("there");
        assert!(m.is_symlink());
        assert_eq!(m.len(), 6);
        fs::rename(n.at("link"), n.at("moved")).expect("renamed");
        assert_eq!(n.read("moved"), "t");
        fs::remove_file(n.at("dangling")).expect("removed");
    });
}

#[test]
fn modes() {
    on_a_node(|n| {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o640)
            .open(n.at("f"))
            .expect("made");
        let mode = |p: &str| n.at(p).metadata().expect("there").mode() & 0o7777;
        assert_eq!(mode("f"), 0o640);
        for m in [0o600, 0o755, 0o444, 0o4755, 0o2711, 0o000, 0o644] {
            fs::set_permissions(n.at("f"), Permissions::from_mode(m)).expect("set");
            assert_eq!(mode("f"), m);
        }
        fs::create_dir(n.at("d")).expect("made");
        for m in [0o700, 0o1777, 0o2755, 0o750] {
            fs::set_permissions(n.at("d"), Permissions::from_mode(m)).expect("set");
            assert_eq!(mode("d"), m);
        }
        fs::write(n.at("x"), "#!/bin/sh\necho ran\n").expect("written");
        fs::set_permissions(n.at("x"), Permissions::from_mode(0o755)).expect("set");
        let said = harness::run(&mut std::process::Command::new(n.at("x")));
        assert_eq!(said, "ran\n");
    });
}

#[test]
fn times() {
    on_a_node(|n| {
        fs::write(n.at("f"), "").expect("written");
        fs::create_dir(n.at("d")).expect("made");
        symlink("f", n.at("l")).expect("linked");
        let at = |s, ns| Timestamps {
            last_access: Timespec {
                tv_sec: 1,
                tv_nsec: 2,
            },
            last_modification: Timespec {
                tv_sec: s,
                tv_nsec: ns,
            },
        };
        for (path, s, ns) in [
            ("f", 1_000_000_000, 123_456_789),
            ("d", 981_173_106, 999_999_999),
            ("l", 1, 0),
            ("f", 4_102_444_800, 1),
            ("f", -86_400, 5),
        ] {
            rustix::fs::utimensat(CWD, n.at(path), &at(s, ns), AtFlags::SYMLINK_NOFOLLOW)
                .expect("set");
            let m = n.at(path).symlink_metadata().expect("there");
            assert_eq!((m.mtime(), m.mtime_nsec()), (s, ns), "{path}");
        }
        let before = SystemTime::now() - Duration::from_secs(2);
        fs::write(n.at("g"), "x").expect("written");
        let mtime = |p: &str| {
            n.at(p)
                .metadata()
                .expect("there")
                .modified()
                .expect("known")
        };
        assert!(mtime("g") > before);
        let dir_before = mtime("d");
        fs::write(n.at("d/new"), "").expect("written");
        assert!(mtime("d") > dir_before, "an entry changes its directory");
        let f = OpenOptions::new()
            .write(true)
            .open(n.at("g"))
            .expect("opened");
        f.set_modified(SystemTime::UNIX_EPOCH + Duration::from_nanos(1_500_000_000_000_000_007))
            .expect("set");
        drop(f);
        assert_eq!(n.at("g").metadata().expect("there").mtime_nsec(), 7);
    });
}

#[test]
fn many_entries() {
    let entries = rounds("CELLFS_TEST_ENTRIES", 20_000);
    on_a_node(|n| {
        fs::create_dir(n.at("d")).expect("made");
        let begin = Instant::now();
        for i in 0..entries {
            File::create(n.at(format!("d/entry-{i:06}"))).expect("made");
        }
        let made = begin.elapsed();
        let begin = Instant::now();
        let mut seen: Vec<String> = fs::read_dir(n.at("d"))
            .expect("listed")
            .map(|e| {
                e.expect("an entry")
                    .file_name()
                    .into_string()
                    .expect("UTF-8")
            })
            .collect();
        let listed = begin.elapsed();
        eprintln!("{entries} entries: made in {made:.1?}, listed in {listed:.1?}");
        seen.sort();
        assert_eq!(seen.len(), entries);
        assert!(
            seen.iter()
                .enumerate()
                .all(|(i, s)| *s == format!("entry-{i:06}"))
        );
        // What is removed while somebody lists must not hide what is not.
        let mut kept = 0;
        for (i, e) in fs::read_dir(n.at("d")).expect("listed").enumerate() {
            let e = e.expect("an entry");
            if i % 2 == 0 {
                fs::remove_file(e.path()).expect("removed");
            } else {
                kept += 1;
            }
        }
        let left = fs::read_dir(n.at("d")).expect("listed").count();
        assert_eq!(left, kept);
        assert_eq!(kept, entries / 2);
    });
}

#[test]
fn mapped_memory() {
    on_a_node(|n| {
        let script = r"
import mmap, sys
p = sys.argv[1]
with open(p, 'wb') as f: f.write(b'a' * 20000)
with open(p, 'r+b') as f:
    m = mmap.mmap(f.fileno(), 0)
    assert m[:3] == b'aaa'
    m[5:10] = b'BBBBB'
    m[19990:20000] = b'C' * 10
    m.flush()
    assert open(p, 'rb').read()[4:11] == b'aBBBBBa'
    f.seek(100); f.write(b'D'); f.flush()
    assert m[100:101] == b'D'
    m.close()
with open(p, 'rb') as f:
    m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
    assert m[5:10] == b'BBBBB' and m[19990:] == b'C' * 10 and m[100:101] == b'D'
# A mapping outlives the descriptor.
f = open(p, 'r+b'); m = mmap.mmap(f.fileno(), 0); f.close()
m[0:4] = b'last'; m.flush(); m.close()
";
        harness::run(
            std::process::Command::new("python3")
                .args(["-c", script])
                .arg(n.at("mapped")),
        );
        let all = fs::read(n.at("mapped")).expect("read");
        assert_eq!(all.len(), 20_000);
        assert_eq!(&all[..10], b"lastaBBBBB");
        assert_eq!(&all[19_990..], b"CCCCCCCCCC");
    });
}

/// What a program writes to a mapping of its own is nobody else's, whether the file's bytes go
/// through the node or past it.
#[test]
fn a_private_mapping_changes_no_file() {
    on_a_node(|n| {
        let script = r"
import mmap, os, sys
p, size = sys.argv[1], int(sys.argv[2])
if not os.path.exists(p):
    with open(p, 'wb') as f: f.write(b'a' * size)
for mode in ['rb', 'r+b']:
    f = open(p, mode); m = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY); f.close()
    m[5:10] = b'BBBBB'; m[size - 1:] = b'C'
    assert m[:11] == b'aaaaaBBBBBa'
    with open(p, 'r+b') as f: f.seek(size // 2); f.write(b'D')
    assert m[size // 2:size // 2 + 1] == b'D'
    assert open(p, 'rb').read() == b'a' * (size // 2) + b'D' + b'a' * (size - size // 2 - 1)
    with open(p, 'r+b') as f: f.seek(size // 2); f.write(b'a')
    m.close()
assert open(p, 'rb').read() == b'a' * size
";
        for size in [20_000, 3_000_000] {
            let path = n.at(format!("private-{size}"));
            for _ in 0..2 {
                let mut python = std::process::Command::new("python3");
                python.args(["-c", script]).arg(&path);
                harness::run(python.arg(size.to_string()));
                n.settled();
            }
        }
    });
}

#[test]
fn statfs_and_fsync() {
    on_a_node(|n| {
        let s = rustix::fs::statvfs(n.dir()).expect("answers");
        assert!(s.f_blocks > 0 && s.f_bavail > 0 && s.f_bsize > 0);
        assert_eq!(s.f_namemax, 255);
        harness::run(std::process::Command::new("df").arg(n.dir()));

        let mut f = File::create(n.at("f")).expect("made");
        f.write_all(b"durable").expect("written");
        f.sync_all().expect("fsync");
        f.sync_data().expect("fdatasync");
        fs::create_dir(n.at("d")).expect("made");
        let d = File::open(n.at("d")).expect("opened");
        d.sync_all().expect("fsync of a directory");
        File::open(n.dir())
            .expect("opened")
            .sync_all()
            .expect("fsync of the root");
        rustix::fs::syncfs(&f).expect("syncfs");
        let ro = File::open(n.at("f")).expect("opened");
        ro.sync_all().expect("fsync of a file opened for reading");
    });
}

#[test]
fn what_is_not_there_says_so() {
    on_a_node(|n| {
        fs::write(n.at("f"), "x").expect("written");
        // Either it works or the error is one that programs know.
        match fs::hard_link(n.at("f"), n.at("g")) {
            Ok(()) => assert_eq!(n.read("g"), "x"),
            Err(e) => assert!(
                e.kind() == ErrorKind::Unsupported
                    || [libc::EPERM, libc::ENOSYS, libc::EOPNOTSUPP]
                        .contains(&e.raw_os_error().unwrap_or(0)),
                "{e}"
            ),
        }
    });
}

#[test]
fn ordinary_programs() {
    on_a_node(|n| {
        let script = r#"
set -e
cd "$1"
mkdir src && printf 'one\ntwo\n' > src/a.txt && cp src/a.txt src/b.txt
sed -i s/two/2/ src/b.txt
grep -rq 2 src
tar cf t.tar src && mkdir out && tar xf t.tar -C out
diff -r src out/src
rm -r src
mv out kept
find . -type f | sort > list
ls -lR > /dev/null
touch -d '2001-02-03 04:05:06.789 UTC' list
dd if=/dev/zero of=zeros bs=4096 count=64 conv=fsync 2>/dev/null
python3 -c 'import sqlite3; c=sqlite3.connect("db"); c.execute("create table t(x)"); c.executemany("insert into t values(?)", [(i,) for i in range(1000)]); c.commit(); assert c.execute("select count(*) from t").fetchone()[0]==1000; c.close()'
"#;
        harness::run(
            std::process::Command::new("sh")
                .args(["-c", script, "sh"])
                .arg(n.dir()),
        );
        assert_eq!(n.read("kept/src/b.txt"), "one\n2\n");
    });
}

#[test]
fn a_folder_and_its_copy_are_the_same() {
    on_a_node(|n| {
        let tmp = tempfile::tempdir().expect("tempdir");
        let from = tmp.path().join("from");
        fs::create_dir_all(from.join("a/b")).expect("made");
        fs::write(from.join("a/b/c"), "c").expect("written");
        fs::set_permissions(from.join("a/b/c"), Permissions::from_mode(0o751)).expect("set");
        symlink("b/c", from.join("a/l")).expect("linked");
        fs::create_dir(from.join("empty")).expect("made");
        harness::tree::copy(&from, &n.at("to"));
        assert_same(&from, &n.at("to"));
    });
}
