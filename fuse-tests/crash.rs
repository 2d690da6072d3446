//! kill -9 of a node while programs write: what fsync acknowledged is there afterwards.
//!
//! SIGKILL keeps what the kernel has; what a loss of power would take is shown by replaying
//! recorded writes, elsewhere.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use crate::harness::tree::assert_same;
use crate::harness::{self, Lab, agree, git, rounds, wait_until};

/// What a writer was promised: a path and what it holds, or that it is gone.
type Promises = Mutex<Vec<(PathBuf, Option<Vec<u8>>)>>;

/// Writes in ways that programs have until the folder dies; each step is promised when its
/// fsync returned.
fn write_until_it_dies(dir: &Path, round: usize, who: usize, promised: &Promises) {
    let promise = |path: &str, bytes: Option<&[u8]>| {
        promised
            .lock()
            .expect("unpoisoned")
            .push((path.into(), bytes.map(<[u8]>::to_vec)));
    };
    let step = || -> std::io::Result<()> {
        let synced = |path: &str, bytes: &[u8]| -> std::io::Result<()> {
            let mut f = File::create(dir.join(path))?;
            f.write_all(bytes)?;
            f.sync_all()
        };
        let below = format!("r{round}w{who}");
        fs::create_dir_all(dir.join(&below))?;
        for i in 0.. {
            let path = format!("{below}/f{i}");
            let size = [10, 4_000, 150_000, 0, 70_000][i % 5];
            let bytes = vec![b'a' + u8::try_from(i % 26).unwrap_or(0); size];
            synced(&path, &bytes)?;
            promise(&path, Some(&bytes));

            // Beside, then over, as editors save.
            let tmp = format!("{below}/tmp");
            let text = format!("version {i}");
            synced(&tmp, text.as_bytes())?;
            fs::rename(dir.join(&tmp), dir.join(format!("{below}/saved")))?;
            File::open(dir.join(&below))?.sync_all()?;
            promise(&format!("{below}/saved"), Some(text.as_bytes()));

            // A log grows.
            let mut log = OpenOptions::new()
                .create(true)
                .append(true)
                .open(dir.join(format!("{below}/log")))?;
            log.write_all(format!("{i:08}\n").as_bytes())?;
            log.sync_data()?;
            let all: String = (0..=i).map(|k| format!("{k:08}\n")).collect();
            promise(&format!("{below}/log"), Some(all.as_bytes()));

            // In place.
            if i % 5 == 4 {
                let f = OpenOptions::new()
                    .write(true)
                    .open(dir.join(format!("{below}/f{}", i - 2)))?;
                f.write_all_at(b"CHANGED", 100_000)?;
                f.sync_all()?;
                let mut bytes = vec![b'a' + u8::try_from((i - 2) % 26).unwrap_or(0); 150_000];
                bytes[100_000..100_007].copy_from_slice(b"CHANGED");
                promise(&format!("{below}/f{}", i - 2), Some(&bytes));
                let gone = format!("{below}/f{}", i - 4);
                fs::remove_file(dir.join(&gone))?;
                File::open(dir.join(&below))?.sync_all()?;
                promise(&gone, None);
            }
        }
        Ok(())
    };
    // The folder has died, which is how this ends.
    let _ = step();
}

/// Fails unless the last promise of each path is kept. What came after the last promise may be
/// there or not, so a log may have grown and a file may be in the middle of its next version.
fn check(dir: &Path, promised: &Promises) {
    let promised = promised.lock().expect("unpoisoned");
    let mut last = std::collections::BTreeMap::new();
    for (path, bytes) in promised.iter() {
        last.insert(path.clone(), bytes.clone());
    }
    for (path, bytes) in last {
        let is = fs::read(dir.join(&path));
        let name = path
            .file_name()
            .and_then(|n| n.to_str())
            .unwrap_or_default();
        match (bytes, is) {
            (None, Err(_)) => {}
            (None, Ok(_)) => panic!("{} is back", path.display()),
            (Some(_), Err(_)) if name.starts_with('f') && removed_next(&path, &promised) => {}
            (Some(_), Err(e)) => panic!("{}: {e}", path.display()),
            (Some(want), Ok(is)) => {
                let good = is == want
                    || (name == "log" && is.starts_with(&want))
                    || (name == "saved" && is.starts_with(b"version "))
                    || (is.len() == want.len() && differs_by_change(&is, &want));
                assert!(
                    good,
                    "{}: {} bytes {:.60} and not the {} {:.60} that were synced",
                    path.display(),
                    is.len(),
                    String::from_utf8_lossy(&is),
                    want.len(),
                    String::from_utf8_lossy(&want)
                );
            }
        }
    }
}

/// Whether the step after the last promise removes this file.
fn removed_next(path: &Path, promised: &[(PathBuf, Option<Vec<u8>>)]) -> bool {
    let last = promised
        .iter()
        .rev()
        .find(|(p, _)| p.parent() == path.parent() && p.to_string_lossy().contains("/f"));
    last.is_some_and(|(_, b)| b.as_ref().is_some_and(|b| b.len() == 150_000))
}

/// Whether only the write in place that was under way may be the difference.
fn differs_by_change(is: &[u8], want: &[u8]) -> bool {
    is.len() == 150_000 && is[..100_000] == want[..100_000] && is[100_007..] == want[100_007..]
}

#[test]
fn killed_while_writing() {
    if !harness::fuse() {
        return;
    }
    let kills = rounds("CELLFS_TEST_KILLS", 10);
    let lab = Lab::with_patience(Duration::from_secs(120 + 10 * kills as u64));
    let mut nodes = lab.cell(2);
    let other = nodes.pop().expect("two");
    let mut node = nodes.pop().expect("one");
    let promised = Promises::default();
    let mut total = 0;
    for round in 0..kills {
        let dir = node.dir().to_owned();
        let setup = std::thread::scope(|s| {
            for who in 0..2 {
                let (dir, promised) = (&dir, &promised);
                s.spawn(move || write_until_it_dies(dir, round, who, promised));
            }
            // At no particular moment.
            std::thread::sleep(Duration::from_millis(50 + (round as u64 * 137) % 700));
            node.kill()
        });
        git::fsck(&setup.state.join("volumes/cell/git"));
        node = setup.start();
        check(node.dir(), &promised);
        total = promised.lock().expect("unpoisoned").len();
        if round % 5 == 4 || round + 1 == kills {
            agree(&[&node, &other], "cell", Duration::from_secs(60));
            check(other.dir(), &promised);
            assert_same(node.dir(), other.dir());
        }
    }
    eprintln!("{kills} kills, {total} promises kept");
    assert!(total > kills, "hardly anything was written: {total}");
    for n in [node, other] {
        let repo = n.repo("cell");
        n.stop();
        git::fsck(&repo);
    }
}

#[test]
fn what_was_closed_and_not_synced_survives_a_kill_too() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let mut node = lab.first("n1");
    for round in 0..5 {
        for i in 0..50 {
            node.write(&format!("r{round}-{i}"), format!("{round} {i}"));
        }
        fs::rename(
            node.at(format!("r{round}-0")),
            node.at(format!("r{round}-x")),
        )
        .expect("renamed");
        let setup = node.kill();
        node = setup.start();
        for i in 1..50 {
            assert_eq!(node.read(&format!("r{round}-{i}")), format!("{round} {i}"));
        }
        assert_eq!(node.read(&format!("r{round}-x")), format!("{round} 0"));
        assert!(!node.at(format!("r{round}-0")).exists());
    }
    node.settled();
    git::fsck(&node.repo("cell"));
}

#[test]
fn a_receiver_that_is_killed_gets_the_rest_later() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let mut nodes = lab.cell(2);
    let mut b = nodes.pop().expect("two");
    let a = nodes.pop().expect("one");
    for round in 0..5u64 {
        let dir = a.dir().to_owned();
        b = std::thread::scope(|s| {
            s.spawn(move || {
                for i in 0..300 {
                    fs::write(dir.join(format!("r{round}-{i}")), vec![b'x'; i * 10])
                        .expect("written");
                }
            });
            std::thread::sleep(Duration::from_millis(100 + round * 50));
            let setup = b.kill();
            git::fsck(&setup.state.join("volumes/cell/git"));
            setup.start()
        });
        wait_until(
            Duration::from_secs(60),
            || b.at(format!("r{round}-299")).exists(),
            || format!("round {round}: {:?} {:?}", a.cell(), b.cell()),
        );
        agree(&[&a, &b], "cell", Duration::from_secs(60));
    }
    assert_same(a.dir(), b.dir());
    git::fsck(&b.repo("cell"));
}
