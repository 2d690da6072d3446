//! Which bytes of large files are on which node: not kept, pinned, for a tag, dropped, and never
//! fewer copies than are wanted.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::copies::{
    LONG, all, copy, keepers, noise, say, told, wait_for_copy, wait_for_drop, wait_for_file,
    wait_for_same,
};
use crate::harness::{self, Lab, Node, SOON, rounds, wait_until};

const MIB: usize = 1 << 20;

fn part(node: &Node, path: &str, at: usize, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let file = File::open(node.at(path)).expect("opened");
    file.read_exact_at(&mut bytes, at as u64).expect("read");
    bytes
}

#[test]
fn what_is_not_kept_is_fetched_when_it_is_read_and_comes_when_it_is_pinned() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let a = lab.first("a");
    let b = lab.node("b").join(&a.invite(1));
    let b = b.words(["--keep", "pinned"]).start();
    let bytes = noise(40 * MIB);
    let len = bytes.len() as u64;
    a.write("large", &bytes);
    wait_for_file(&b, "large", bytes.len());
    // Time for what should not come.
    std::thread::sleep(Duration::from_secs(2));
    let file = told(&b, "large");
    assert_eq!(
        (copy(&file, &a), copy(&file, &b)),
        ((true, len), (false, 0))
    );
    assert!(!file.kept && file.coming.is_some(), "{file:?}");
    assert!(part(&b, "large", 20 * MIB, 4096) == bytes[20 * MIB..][..4096]);
    let (keeps, here) = copy(&told(&b, "large"), &b);
    assert!(
        !keeps && here > 0 && here < len / 2,
        "{here} of {len} for 4 KiB"
    );
    // All that was read, and no promise that it stays: it does not count.
    assert!(fs::read(b.at("large")).expect("read") == bytes);
    assert_eq!(copy(&told(&b, "large"), &b), (false, len));
    let pinned = say(&b, "pin", "large").expect("pinned");
    assert_eq!((pinned.files, pinned.bytes), (1, len));
    assert!(b.ask(&["status", "--follow"]).contains("all is here"));
    wait_for_copy(&a, "large", &b, true);
    // What was said outlives the node, and another one may go then.
    let b = b.kill().start();
    wait_for_copy(&b, "large", &b, true);
    let why = b.ask(&["why", b.at("large").to_str().expect("UTF-8")]);
    assert!(
        why.contains("is to be kept here: that was said of large"),
        "{why}"
    );
    let dropped = wait_for_drop(&a, "large");
    assert_eq!(dropped.bytes_here, 0, "{dropped:?}");
    assert_eq!(copy(&told(&b, "large"), &a), (false, 0));
    assert!(
        fs::read(a.at("large")).expect("read") == bytes,
        "from there"
    );
    // Nothing is said any more: it goes as soon as another one keeps it.
    say(&b, "unpin", "large").expect("unpinned");
    say(&a, "pin", "").expect("pinned");
    wait_for_copy(&b, "large", &a, true);
    wait_for_copy(&a, "large", &b, false);
}

#[test]
fn what_is_written_where_it_is_not_kept_goes_when_another_has_it() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let b = lab
        .node("b")
        .words(["--keep", "pinned", "--cache-size", "9M"]);
    let b = b.start();
    let files: Vec<Vec<u8>> = (0..4).map(|_| noise(6 * MIB)).collect();
    for (n, bytes) in files.iter().enumerate() {
        b.write(&format!("f{n}"), bytes);
    }
    b.settled();
    // Nobody else has them.
    let refused = say(&b, "drop", "f0").expect_err("the only copy");
    assert!(
        refused.contains("0 other nodes have promised to keep a copy; 1 must"),
        "{refused}"
    );
    let out = b.try_ask(&["drop", b.at("f0").to_str().expect("UTF-8")]);
    assert_eq!(out.status.code(), Some(1));
    assert_eq!(copy(&told(&b, "f0"), &b), (true, 6 * MIB as u64));
    let a = lab.node("a").join(&b.invite(1)).start();
    for (n, bytes) in files.iter().enumerate() {
        let name = format!("f{n}");
        wait_for_file(&a, &name, bytes.len());
        wait_for_copy(&a, &name, &b, false);
        assert!(fs::read(a.at(&name)).expect("read") == *bytes);
    }
    // Two of them are more than the cache holds; none is open.
    let here = || -> u64 {
        let all = all(&b, "").files;
        all.iter().map(|f| copy(f, &b).1).sum()
    };
    wait_until(
        LONG,
        || here() <= 9 * MIB as u64,
        || format!("{} bytes", here()),
    );
    for (n, bytes) in files.iter().enumerate() {
        assert!(fs::read(b.at(format!("f{n}"))).expect("read") == *bytes);
    }
    // Who is the only one that keeps some does not leave.
    let refused = a.try_ask(&["leave"]);
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && why.contains("f0"), "{why}");
    // The same bytes, written once more: nobody has promised anything for these.
    a.stop();
    fs::remove_file(b.at("f1")).expect("removed");
    b.write("again", &files[1]);
    b.settled();
    assert_eq!(copy(&told(&b, "again"), &b), (true, 6 * MIB as u64));
}

#[test]
fn files_are_kept_by_the_nodes_with_their_tag() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let a = lab.first("a");
    let ticket = a.invite(2);
    let begin = |name| {
        let node = lab.node(name).join(&ticket);
        node.words(["--keep", "tagged"]).start()
    };
    let (b, c) = (begin("b"), begin("c"));
    b.ask(&["tags", "--set", "ssd,berlin"]);
    a.write(
        ".gitattributes",
        "*.bin keep=archive,ssd\n*.iso keep=archive\n",
    );
    let (bin, iso) = (noise(5 * MIB), noise(5 * MIB));
    a.write("x.bin", &bin);
    a.write("x.iso", &iso);
    for n in [&b, &c] {
        wait_for_file(n, "x.bin", bin.len());
        wait_for_file(n, "x.iso", iso.len());
    }
    wait_for_copy(&a, "x.bin", &b, true);
    let [on_bin, on_iso] = ["x.bin", "x.iso"].map(|f| told(&a, f));
    assert!(!copy(&on_iso, &b).0 && !copy(&on_bin, &c).0 && !copy(&on_iso, &c).0);
    for n in [&b, &c] {
        assert!(fs::read(n.at("x.bin")).expect("read") == bin);
        assert!(fs::read(n.at("x.iso")).expect("read") == iso);
    }
    // All see what the others are for.
    let tags = || a.ask(&["tags"]);
    wait_until(SOON, || tags().contains("berlin, ssd"), tags);
    assert!(b.try_ask(&["tags", "--set", "a b"]).status.code() == Some(2));
    // Other rules, other tags.
    a.write(".gitattributes", "*.iso keep=ssd\n");
    wait_for_copy(&a, "x.iso", &b, true);
    wait_for_copy(&a, "x.bin", &b, false);
    b.ask(&["tags", "--clear"]);
    wait_for_copy(&a, "x.iso", &b, false);
}

#[test]
fn what_the_disk_damaged_comes_again_from_another_node() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let nodes = lab.cell(2);
    let [a, b] = nodes.as_slice() else {
        unreachable!("two")
    };
    let bytes = noise(12 * MIB);
    a.write("large", &bytes);
    wait_for_file(b, "large", bytes.len());
    wait_for_copy(b, "large", b, true);
    let containers = b.state().join("volumes/cell/chunks/containers");
    let all = fs::read_dir(containers).expect("listed");
    let data = all.map(|e| e.expect("an entry").path());
    let data: Vec<_> = data
        .filter(|p| p.extension().is_some_and(|e| e == "data"))
        .collect();
    let file = File::options().read(true).write(true).open(&data[0]);
    let file = file.expect("opened");
    for at in [MIB as u64, 7 * MIB as u64] {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("read");
        file.write_all_at(&[byte[0] ^ 1], at).expect("damaged");
    }
    let told = b.ask(&["scrub"]);
    assert!(told.contains("2 pieces, which come again"), "{told}");
    wait_for_copy(b, "large", b, true);
    let mut same = vec![0; bytes.len()];
    let is_same = || {
        file.read_exact_at(&mut same, 0).expect("read");
        same == bytes
    };
    wait_until(LONG, is_same, || "it stays damaged".to_owned());
    assert!(b.ask(&["scrub"]).contains("nothing"));
    assert!(fs::read(b.at("large")).expect("read") == bytes);
}

fn signal(node: &Node, signal: Signal) {
    let pid = i32::try_from(node.pid()).ok().and_then(Pid::from_raw);
    kill_process(pid.expect("a process"), signal).expect("it runs");
}

/// Both are told to drop the same file at once; one is stopped for a while, or dies.
#[test]
fn two_that_drop_at_once_leave_one_copy() {
    if !harness::fuse() {
        return;
    }
    let rounds = rounds("CELLFS_TEST_DROPS", 3);
    let lab = Lab::with_patience(Duration::from_secs(300 + 60 * rounds as u64));
    let a = lab.first("a");
    let b = lab.node("b").join(&a.invite(1)).start();
    let mut nodes = [a, b];
    let mut outcomes = [0; 3];
    for round in 0..rounds {
        let name = format!("f{round}");
        let bytes = noise(5 * MIB);
        nodes[round % 2].write(&name, &bytes);
        for n in &nodes {
            wait_for_file(n, &name, bytes.len());
        }
        for n in [0, 1] {
            wait_for_copy(&nodes[1 - n], &name, &nodes[n], true);
        }
        let mut random = [0; 4];
        getrandom::fill(&mut random).expect("randomness");
        let [trouble, which, pause, skew] = random.map(usize::from);
        let which = which % 2;
        let went: Vec<bool> = std::thread::scope(|s| {
            let drops = nodes.each_ref().map(|node| {
                let name = name.as_str();
                let late = node.id == nodes[1].id;
                s.spawn(move || {
                    if late {
                        std::thread::sleep(Duration::from_millis(skew as u64 * 2));
                    }
                    say(node, "drop", name).is_ok()
                })
            });
            std::thread::sleep(Duration::from_millis(pause as u64 * 2));
            match trouble % 3 {
                0 => {}
                1 => {
                    signal(&nodes[which], Signal::STOP);
                    std::thread::sleep(Duration::from_millis(500));
                    signal(&nodes[which], Signal::CONT);
                }
                _ => signal(&nodes[which], Signal::KILL),
            }
            drops.map(|d| d.join().expect("no panic")).to_vec()
        });
        if trouble % 3 == 2 {
            let [a, b] = nodes;
            nodes = match which {
                0 => [a.kill().start(), b],
                _ => [a, b.kill().start()],
            };
        }
        assert!(went.iter().filter(|w| **w).count() < 2, "both went");
        outcomes[went.iter().filter(|w| **w).count()] += 1;
        // Whoever kept it has all of it, and it can be read everywhere.
        let keepers = || keepers(&nodes, &name, bytes.len());
        assert!(keepers() >= 1, "{:?}", told(&nodes[0], &name));
        wait_for_same(&nodes, &name, &bytes);
        assert!(keepers() >= 1, "later");
    }
    eprintln!(
        "{rounds} rounds: none went {}, one {}",
        outcomes[0], outcomes[1]
    );
}
