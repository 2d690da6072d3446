//! Large files at their real sizes: small here, as large as a variable says. What they cost is
//! printed.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::SeekFrom;
use sha2::Digest;

use crate::harness::{self, Lab, Node, rounds, wait_until};
use crate::large::{MIB, came, chunks, noise, wait_for_all};

/// A node has no more memory than this, however large a file is.
const MEMORY_MIB: u64 = 300;
/// Bytes of one append, and of one place that is written in a sparse file.
const PART: usize = 64 << 10;

/// As long as a machine takes that does much else: all of a file of so many MiB comes within this.
fn patience(mib: usize) -> Duration {
    Duration::from_secs(120 + mib as u64 / 4)
}

/// Bytes that went through the loopback device of this network: what others send there counts.
fn loopback() -> u64 {
    let text = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let line = text.lines().find_map(|l| l.trim().strip_prefix("lo:"));
    let bytes = line.and_then(|l| l.split_whitespace().next()?.parse().ok());
    bytes.unwrap_or(0)
}

fn wait_for_len(node: &Node, path: &str, len: u64, within: Duration) {
    let is_there = || fs::metadata(node.at(path)).is_ok_and(|m| m.len() == len);
    wait_until(within, is_there, || format!("{path} on {}", node.name()));
}

/// All of it is here: it is seen, and nothing comes any more.
fn wait_for_file(node: &Node, path: &str, len: u64, within: Duration) {
    wait_for_len(node, path, len, within);
    let rests = || {
        let t = node.status().transfer;
        t.is_some_and(|t| t.files + t.waiting == 0)
    };
    wait_until(within, rests, || format!("{:?}", node.status().transfer));
}

fn sha256(path: &Path) -> String {
    let mut file = File::open(path).expect("opened");
    let mut hash = sha2::Sha256::new();
    let mut part = vec![0; MIB];
    loop {
        match file.read(&mut part).expect("read") {
            0 => return data_encoding::HEXLOWER.encode(&hash.finalize()),
            n => hash.update(&part[..n]),
        }
    }
}

fn assert_little_memory(nodes: &[&Node]) {
    for n in nodes {
        let (now, peak) = n.memory_mib();
        eprintln!("{}: {now} MiB of memory, {peak} at most", n.name());
        assert!(peak < MEMORY_MIB, "{peak} MiB on {}", n.name());
    }
}

#[test]
fn a_file_of_any_size_comes_whole_and_takes_no_memory() {
    if !harness::fuse() {
        return;
    }
    let mib = rounds("CELLFS_TEST_LARGE_MIB", 192);
    let lab = Lab::with_patience(4 * patience(mib));
    let nodes = lab.cell(2);
    let [a, b] = nodes.as_slice() else {
        unreachable!("two")
    };
    let (begin, wire) = (Instant::now(), loopback());
    let mut hash = sha2::Sha256::new();
    let mut file = File::create(a.at("large")).expect("made");
    for _ in 0..mib {
        let part = noise(MIB);
        hash.update(&part);
        file.write_all(&part).expect("written");
    }
    drop(file);
    let copied = begin.elapsed();
    let len = (mib * MIB) as u64;
    wait_for_file(b, "large", len, patience(mib));
    let (all, wire) = (begin.elapsed(), loopback() - wire);
    let name = data_encoding::HEXLOWER.encode(&hash.finalize());
    assert_eq!(sha256(&b.at("large")), name);
    let sent = came(b);
    eprintln!(
        "{mib} MiB: written {copied:.1?}, all there {all:.1?}, read and hashed {:.1?}; \
         {sent} bytes of pieces came, {wire} on the wire with all headers; {} and {} on the disks",
        begin.elapsed() - all,
        chunks(a),
        chunks(b),
    );
    assert!((len..len + len / 100).contains(&sent), "{sent} of {len}");
    assert_little_memory(&[a, b]);
}

#[test]
fn a_sparse_file_written_all_over_comes_as_what_was_written() {
    if !harness::fuse() {
        return;
    }
    let mib = rounds("CELLFS_TEST_SPARSE_MIB", 1024);
    let lab = Lab::with_patience(4 * patience(mib));
    let nodes = lab.cell(2);
    let [a, b] = nodes.as_slice() else {
        unreachable!("two")
    };
    let len = (mib * MIB) as u64;
    let count = (mib / 100).max(8);
    // One place in each part of the file, anywhere in it, so that none meets another.
    let stride = len / count as u64;
    let places = (0..count as u64).map(|n| {
        let chance = u64::from_le_bytes(noise(8).try_into().expect("8 bytes"));
        let at = n * stride + chance % (stride - PART as u64);
        (at, noise(PART))
    });
    let places: Vec<(u64, Vec<u8>)> = places.collect();
    let (begin, wire) = (Instant::now(), loopback());
    let file = File::create(a.at("sparse")).expect("made");
    for (at, bytes) in &places {
        file.write_all_at(bytes, *at).expect("written");
    }
    file.set_len(len).expect("its length");
    drop(file);
    let copied = begin.elapsed();
    wait_for_file(b, "sparse", len, patience(mib));
    let (all, wire) = (begin.elapsed(), loopback() - wire);
    let file = File::open(b.at("sparse")).expect("opened");
    let mut part = vec![0; PART];
    for (at, bytes) in &places {
        file.read_exact_at(&mut part, *at).expect("read");
        assert!(part == *bytes, "at {at}");
        // What is before and behind it was not written.
        let behind = at + PART as u64;
        let end = (at / stride + 1) * stride;
        let rest = usize::try_from(end - behind).unwrap_or(PART).min(PART);
        file.read_exact_at(&mut part[..rest], behind).expect("read");
        assert!(part[..rest].iter().all(|b| *b == 0), "behind {at}");
        let before = usize::try_from(at % stride).unwrap_or(PART).min(PART);
        let from = at - before as u64;
        file.read_exact_at(&mut part[..before], from).expect("read");
        assert!(part[..before].iter().all(|b| *b == 0), "before {at}");
    }
    // Where the data is that this node tells of, and so where it is not.
    let mut data = 0;
    let mut at = 0;
    while let Ok(from) = rustix::fs::seek(&file, SeekFrom::Data(at)) {
        at = rustix::fs::seek(&file, SeekFrom::Hole(from)).expect("a hole or the end");
        data += at - from;
    }
    let looked = begin.elapsed();
    let same = sha256(&a.at("sparse")) == sha256(&b.at("sparse"));
    eprintln!(
        "{mib} MiB with {count} places of {PART} bytes: written {copied:.1?}, all there {all:.1?}, \
         both read and hashed {:.1?}; {} bytes of pieces came, {wire} on the wire with all headers; \
         {} and {} on the disks; {data} bytes of it are told to be data",
        begin.elapsed() - looked,
        came(b),
        chunks(a),
        chunks(b),
    );
    assert!(same);
    // A place meets two pieces at most, of 1 MiB at most.
    let most = (count as u64 * 2 + 2) << 20;
    assert!(came(b) < most, "zeros were sent: {}", came(b));
    for n in [a, b] {
        assert!(chunks(n) < 2 * most, "zeros take room on {}", n.name());
    }
    assert_little_memory(&[a, b]);
}

#[test]
fn a_file_that_grows_is_seen_as_what_was_written_so_far() {
    if !harness::fuse() {
        return;
    }
    let seconds = rounds("CELLFS_TEST_GROW_S", 10);
    let lab = Lab::with_patience(Duration::from_secs(300 + 2 * seconds as u64));
    let nodes = lab.cell(2);
    let [a, b] = nodes.as_slice() else {
        unreachable!("two")
    };
    // What is written is beside, too: it may be more than memory holds.
    let mut beside = File::options();
    let beside = beside.read(true).write(true).create_new(true);
    let beside = &beside.open(lab.path("written")).expect("made");
    let (written, is_done) = (AtomicU64::new(0), AtomicBool::new(false));
    let wire = loopback();
    let (mut looks, mut lens, mut waited) = (0, Vec::new(), Duration::ZERO);
    std::thread::scope(|s| {
        s.spawn(|| {
            let mut file = File::create(a.at("grows")).expect("made");
            let begin = Instant::now();
            let mut next = begin;
            while begin.elapsed() < Duration::from_secs(seconds as u64) {
                let part = noise(PART);
                let at = written.load(Ordering::SeqCst);
                beside.write_all_at(&part, at).expect("written");
                written.store(at + PART as u64, Ordering::SeqCst);
                file.write_all(&part).expect("appended");
                next += Duration::from_millis(50);
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            is_done.store(true, Ordering::SeqCst);
        });
        while !is_done.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(100));
            let begin = Instant::now();
            let Ok(file) = File::open(b.at("grows")) else {
                continue;
            };
            let len = file.metadata().expect("a length").len();
            let most = written.load(Ordering::SeqCst);
            assert!(len <= most, "{len} of {most}");
            let before = lens.last().copied().unwrap_or(0);
            assert!(len >= before, "{before} became {len}");
            // All of it at first; then the end, and a part somewhere.
            let chance = u64::from_le_bytes(noise(8).try_into().expect("8 bytes"));
            let parts = [
                (0, 4 << 20),
                (chance % len.max(1), 1 << 20),
                (len.saturating_sub(4 << 20), 4 << 20),
            ];
            for (from, count) in parts {
                let count = usize::try_from((len - from).min(count)).expect("small");
                let (mut is, mut was) = (vec![0; count], vec![1; count]);
                file.read_exact_at(&mut is, from).expect("read");
                beside.read_exact_at(&mut was, from).expect("read");
                assert!(is == was, "{count} bytes at {from} of {len}");
            }
            waited = waited.max(begin.elapsed());
            looks += 1;
            lens.push(len);
        }
    });
    let len = written.load(Ordering::SeqCst);
    wait_for_file(b, "grows", len, patience(1024));
    wait_for_all(b);
    let wire = loopback() - wire;
    assert_eq!(sha256(&b.at("grows")), sha256(&lab.path("written")));
    lens.dedup();
    eprintln!(
        "{len} bytes in {seconds} s: {looks} looks at {} lengths, the longest {waited:.1?}; {} bytes of \
         pieces came, {wire} on the wire with all headers; {} and {} on the disks",
        lens.len(),
        came(b),
        chunks(a),
        chunks(b),
    );
    // Not a copy of all of it for each of the versions.
    for n in [a, b] {
        let (is, most) = (chunks(n), 3 * len + (8 << 20));
        assert!(is < most, "{is} bytes on {} for {len}", n.name());
    }
    assert!(lens.len() > 2, "nothing was seen of it: {lens:?}");
    assert_little_memory(&[a, b]);
}
