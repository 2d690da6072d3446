//! Holes in files, the room that files take, and copies within a folder: what programs are told is
//! what readers see.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;

use rustix::fs::{FallocateFlags, copy_file_range};
use rustix::io::Errno;

use crate::harness::{self, Lab, SOON, agree, run, wait_until};

const MIB: u64 = 1 << 20;

/// The bytes that are not in a hole, as programs find them.
fn extents(f: &File) -> Vec<(u64, u64)> {
    let end = f.metadata().expect("there").len();
    let mut out = Vec::new();
    let mut at = 0;
    while let Ok(from) = rustix::fs::seek(f, rustix::fs::SeekFrom::Data(at)) {
        at = rustix::fs::seek(f, rustix::fs::SeekFrom::Hole(from)).expect("an end");
        out.push((from, at));
        if at >= end {
            break;
        }
    }
    out
}

#[test]
fn no_program_takes_bytes_for_a_hole() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let node = lab.first("n1");
    let path = node.at("sparse");
    let mut f = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .expect("made");
    f.set_len(16 * MIB).expect("set");
    f.write_all_at(&[7; 4096], 8 * MIB).expect("written");
    let m = f.metadata().expect("there");
    assert!(m.blocks() < 256, "{} blocks", m.blocks());
    let du = run(Command::new("du").arg("-k").arg(&path));
    let kib: u64 = du
        .split_whitespace()
        .next()
        .and_then(|n| n.parse().ok())
        .expect("a number");
    assert!(kib < 128, "{du}");
    let end = rustix::fs::seek(&f, rustix::fs::SeekFrom::Hole(16 * MIB));
    assert_eq!(end, Err(Errno::NXIO));
    let end = rustix::fs::seek(&f, rustix::fs::SeekFrom::Data(20 * MIB));
    assert_eq!(end, Err(Errno::NXIO));
    // What somebody maps into a hole, and the kernel has told nobody of, is copied.
    let script = "import mmap, subprocess, sys\n\
        p, to = sys.argv[1:]\n\
        f = open(p, 'r+b'); m = mmap.mmap(f.fileno(), 0); f.close()\n\
        m[3 << 20:(3 << 20) + 6] = b'mapped'\n\
        subprocess.run(['cp', '--sparse=auto', p, to + '.cp'], check=True)\n\
        subprocess.run(['tar', '-Scf', to + '.tar', '-C', '/', p[1:]], check=True)\n\
        m.close()";
    let copy = lab.path("copy");
    run(Command::new("python3")
        .args(["-c", script])
        .arg(&path)
        .arg(&copy));
    let mut wanted = Vec::new();
    f.read_to_end(&mut wanted).expect("read");
    assert_eq!(&wanted[3 << 20..(3 << 20) + 6], b"mapped");
    assert!(fs::read(lab.path("copy.cp")).expect("read") == wanted);
    let unpacked = Command::new("tar")
        .arg("-xOf")
        .arg(lab.path("copy.tar"))
        .output()
        .expect("runs");
    assert!(unpacked.stdout == wanted);
    drop(f);
    // Also when nobody writes, before a commit has it and afterwards.
    for settled in [false, true] {
        if settled {
            node.settled();
        }
        let f = File::open(&path).expect("opened");
        let found = extents(&f);
        let is_in = |at: u64| found.iter().any(|(from, to)| (*from..*to).contains(&at));
        assert!(is_in(3 * MIB) && is_in(8 * MIB + 4095), "{found:?}");
        for words in [
            &["--sparse=auto"][..],
            &["--sparse=always"],
            &["--reflink=auto"],
        ] {
            for to in [lab.path("again"), node.at("again")] {
                run(Command::new("cp").args(words).arg(&path).arg(&to));
                assert!(fs::read(&to).expect("read") == wanted, "{words:?}");
                fs::remove_file(&to).expect("removed");
            }
        }
    }
    node.stop();
}

/// A large file that is opened again is written to past the node, where the kernel can.
#[test]
fn what_is_written_past_the_node_is_found_and_copied() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let nodes = lab.cell(2);
    let (a, b) = (&nodes[0], &nodes[1]);
    let old: Vec<u8> = (0..8 * MIB).map(|n| n.to_le_bytes()[1] | 1).collect();
    a.write("large", &old);
    a.settled();
    let mut wanted = old;
    let open = |name: &str| {
        let mut how = File::options();
        how.read(true).write(true).create(true).truncate(false);
        how.open(a.at(name)).expect("opened")
    };
    let f = open("large");
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&f, flags, MIB, 4 * MIB).expect("punched");
    wanted[1 << 20..5 << 20].fill(0);
    f.write_all_at(b"past", 3 * MIB).expect("written");
    f.write_all_at(b"the end", 9 * MIB).expect("written");
    f.set_len(10 * MIB).expect("set");
    wanted.resize(10 << 20, 0);
    wanted[3 << 20..(3 << 20) + 4].copy_from_slice(b"past");
    wanted[9 << 20..(9 << 20) + 7].copy_from_slice(b"the end");
    assert_eq!(f.metadata().expect("there").len(), 10 * MIB);
    let found = extents(&f);
    let is_in = |at: u64| found.iter().any(|(from, to)| (*from..*to).contains(&at));
    assert!(
        [0, 3 * MIB, 8 * MIB - 1, 9 * MIB].map(is_in) == [true; 4],
        "{found:?}"
    );
    // Into a new file, and within the file, while it is open.
    let to = open("copy");
    let copy = |from: &File, mut at: u64, to: &File, mut to_at: u64, mut len: u64| {
        while len > 0 {
            let room = usize::try_from(len).expect("fits");
            let n = copy_file_range(from, Some(&mut at), to, Some(&mut to_at), room);
            let n = n.expect("copied") as u64;
            assert!(n > 0, "nothing copied at {at}");
            len -= n;
        }
    };
    copy(&f, 0, &to, 0, 10 * MIB);
    copy(&f, 3 * MIB, &f, 6 * MIB, 1_000_000);
    let copied = wanted.clone();
    wanted.copy_within(3 << 20..(3 << 20) + 1_000_000, 6 << 20);
    for (name, wanted) in [("large", &wanted), ("copy", &copied)] {
        assert!(&fs::read(a.at(name)).expect("read") == wanted, "{name}");
    }
    let again = lab.path("again");
    run(Command::new("cp").arg(a.at("large")).arg(&again));
    assert!(fs::read(&again).expect("read") == wanted);
    drop((f, to));
    agree(&[a, b], "cell", SOON);
    for (name, wanted) in [("large", &wanted), ("copy", &copied)] {
        let same = || fs::read(b.at(name)).is_ok_and(|all| &all == wanted);
        wait_until(SOON, same, || format!("b has another {name}"));
    }
    for n in nodes {
        n.stop();
    }
}
