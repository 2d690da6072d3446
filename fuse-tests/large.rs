//! Large files on real nodes: whole, changed, sparse, while nodes die, and when nobody has them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::harness::{self, Lab, Node, SOON, agree, rounds, wait_until};

pub(crate) const MIB: usize = 1 << 20;
/// All of a file of some 64 MiB comes within this time, also beside other tests.
const LONG: Duration = Duration::from_secs(60);

pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    getrandom::fill(&mut bytes).expect("noise");
    bytes
}

/// Bytes of large files that came to a node since it started.
pub(crate) fn came(node: &Node) -> u64 {
    node.status().transfer.map_or(0, |t| t.bytes_done)
}

/// What a directory takes on the disk.
fn disk(dir: &Path) -> u64 {
    let out = harness::run(std::process::Command::new("du").arg("-sk").arg(dir));
    let kib = out
        .split_whitespace()
        .next()
        .and_then(|n| n.parse::<u64>().ok());
    kib.expect("a number") * 1024
}

pub(crate) fn chunks(node: &Node) -> u64 {
    disk(&node.state().join("volumes/cell/chunks"))
}

/// All of it is here: nothing comes any more.
pub(crate) fn wait_for_all(node: &Node) {
    let rests = || {
        node.status()
            .transfer
            .is_none_or(|t| t.files + t.waiting == 0)
    };
    wait_until(LONG, rests, || format!("{:?}", node.status().transfer));
}

/// A version that came over another is in packs first, and a file of its own when nothing came over
/// it for a while: waits until the disks have been still for longer than that.
fn wait_for_rest(nodes: &[&Node]) {
    let sizes = || nodes.iter().map(|n| chunks(n)).collect::<Vec<u64>>();
    let (mut last, mut since) = (sizes(), Instant::now());
    let is_still = || {
        std::thread::sleep(Duration::from_millis(500));
        let now = sizes();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_secs(25)
    };
    wait_until(Duration::from_secs(120), is_still, || "a disk".to_owned());
}

fn wait_for_bytes(node: &Node, path: &str, bytes: &[u8]) {
    let is_it = || {
        let meta = fs::metadata(node.at(path));
        meta.is_ok_and(|m| m.len() == bytes.len() as u64)
            && fs::read(node.at(path)).is_ok_and(|b| b == bytes)
    };
    wait_until(LONG, is_it, || format!("{path} on {}", node.name()));
}

#[test]
fn what_is_the_same_in_a_large_file_is_kept_and_sent_once() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let nodes = lab.cell(2);
    let [a, b] = nodes.as_slice() else {
        unreachable!("two")
    };
    let mut bytes = noise(rounds("CELLFS_TEST_SAME_MIB", 48).max(24) * MIB);
    let len = bytes.len() as u64;
    a.write("large", &bytes);
    wait_for_bytes(b, "large", &bytes);
    wait_for_all(b);
    let once = came(b);
    assert!((len..len + len / 100).contains(&once), "{once} of {len}");
    // A change in the middle.
    bytes[20 * MIB..][..4096].copy_from_slice(&noise(4096));
    let file = File::options()
        .write(true)
        .open(a.at("large"))
        .expect("opened");
    file.write_all_at(&bytes[20 * MIB..][..4096], 20 * MIB as u64)
        .expect("written");
    drop(file);
    // Who reads does not wait until it is known what is like it.
    wait_until(LONG, || came(b) > once, || "a change".to_owned());
    wait_for_all(b);
    wait_for_bytes(b, "large", &bytes);
    let changed = came(b) - once;
    assert!(changed < 64 << 10, "{changed} bytes for 4 KiB");
    // One byte in front of all.
    bytes.insert(0, 7);
    a.write("large.new", &bytes);
    fs::rename(a.at("large.new"), a.at("large")).expect("renamed");
    wait_for_bytes(b, "large", &bytes);
    let moved = came(b) - once - changed;
    assert!(moved < 4 * MIB as u64, "{moved} bytes for one");
    eprintln!("{len} bytes: {changed} came for 4 KiB in the middle, {moved} for one byte in front");
    // The same once more, on either node.
    wait_for_all(b);
    wait_for_rest(&[a, b]);
    let before = (chunks(a), chunks(b), came(a), came(b));
    a.write("again", &bytes);
    wait_for_bytes(b, "again", &bytes);
    b.write("from there", &bytes);
    wait_for_bytes(a, "from there", &bytes);
    agree(&[a, b], "cell", SOON);
    wait_for_rest(&[a, b]);
    let after = (chunks(a), chunks(b), came(a), came(b));
    assert_eq!((after.2, after.3), (before.2, before.3), "sent again");
    for (after, before) in [(after.0, before.0), (after.1, before.1)] {
        assert!(after <= before + before / 100, "{before} became {after}");
    }
}

#[test]
fn a_sparse_file_of_more_than_2_gib_is_had_by_all() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let nodes = lab.cell(2);
    let [a, b] = nodes.as_slice() else {
        unreachable!("two")
    };
    let (at, text) = ((2 << 30) + 5, noise(3 * MIB));
    let file = File::create(a.at("sparse")).expect("made");
    file.write_all_at(b"begins", 0).expect("written");
    file.write_all_at(&text, at).expect("written");
    drop(file);
    let len = at + text.len() as u64;
    let is_there = || fs::metadata(b.at("sparse")).is_ok_and(|m| m.len() == len);
    wait_until(LONG, is_there, || {
        format!("{:?}", fs::metadata(b.at("sparse")))
    });
    let file = File::open(b.at("sparse")).expect("opened");
    let mut end = vec![0; text.len()];
    file.read_exact_at(&mut end, at).expect("read");
    assert!(end == text);
    let mut begin = [1; 10];
    file.read_exact_at(&mut begin, 0).expect("read");
    assert_eq!(&begin, b"begins\0\0\0\0");
    file.read_exact_at(&mut begin, 1 << 30).expect("read");
    assert_eq!(begin, [0; 10]);
    wait_for_all(b);
    assert!(came(b) < 8 * MIB as u64, "zeros were sent: {}", came(b));
    for n in [a, b] {
        assert!(
            chunks(n) < 16 * MIB as u64,
            "zeros take room on {}",
            n.name()
        );
        assert!(n.memory_mib().1 < 300, "{:?} MiB", n.memory_mib());
    }
}

#[test]
fn whoever_is_killed_while_large_files_come_they_come_whole() {
    if !harness::fuse() {
        return;
    }
    let rounds = rounds("CELLFS_TEST_LARGE_KILLS", 4);
    let lab = Lab::with_patience(Duration::from_secs(600 + 20 * rounds as u64));
    let mut nodes = lab.cell(2);
    let mut b = nodes.pop().expect("two");
    let mut a = nodes.pop().expect("one");
    let begin = Instant::now();
    for round in 0..rounds {
        let bytes = noise(24 * MIB + round * 1000);
        let name = format!("large{}", round % 3);
        a.write(&name, &bytes);
        // So that there is something to come: who dies before has it in the journal alone.
        a.settled();
        let mut random = [0; 2];
        getrandom::fill(&mut random).expect("noise");
        let pause = u64::from(u16::from_le_bytes(random)) % 300;
        std::thread::sleep(Duration::from_millis(pause));
        if round % 2 == 0 {
            b = b.kill().start();
        } else {
            a = a.kill().start();
        }
        wait_for_bytes(&b, &name, &bytes);
        assert!(fs::read(a.at(&name)).expect("read") == bytes, "{name}");
    }
    wait_for_all(&b);
    eprintln!("{rounds} kills in {:.0?}", begin.elapsed());
    for n in [&a, &b] {
        assert!(!n.log().contains("panicked"), "{}", n.log());
    }
}

#[test]
fn bytes_that_nobody_has_are_an_error_and_all_else_goes_on() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let a = lab.first("a");
    let bytes = noise(6 * MIB);
    a.write("large", &bytes);
    a.settled();
    // The disk loses it.
    let setup = a.stop();
    fs::remove_dir_all(setup.state.join("volumes/cell/chunks")).expect("removed");
    let a = setup.start();
    let b = lab.node("b").join(&a.invite(1)).start();
    assert_eq!(
        fs::metadata(b.at("large")).expect("seen").len(),
        bytes.len() as u64
    );
    let (path, begin) = (b.at("large"), Instant::now());
    let reader = std::thread::spawn(move || fs::read(path).map(|b| b.len()));
    let mut n = 0;
    while !reader.is_finished() {
        n += 1;
        let begin = Instant::now();
        b.write("small", format!("{n}"));
        a.wait_for("small", &format!("{n}"));
        assert!(begin.elapsed() < SOON, "others wait with it");
        std::thread::sleep(Duration::from_millis(200));
    }
    let read = reader.join().expect("no panic");
    let error = read.expect_err("nobody has it").raw_os_error();
    assert_eq!(error, Some(libc::EIO));
    assert!(
        n > 3 && begin.elapsed() < LONG,
        "{n} in {:?}",
        begin.elapsed()
    );
    // It is written anew, and there again.
    a.write("large", &bytes);
    wait_for_bytes(&b, "large", &bytes);
}
