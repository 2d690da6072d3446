//! Pipes, sockets and devices: names that hold no bytes.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use crate::harness::{self, Lab, SOON, agree, wait_until};

fn make(at: &Path, kind: FileType, mode: u32, device: (u32, u32)) {
    let device = makedev(device.0, device.1);
    mknodat(CWD, at, kind, Mode::from_raw_mode(mode), device).expect("made");
}

/// What kind of thing is at a path, its permissions and its device number.
fn found(at: &Path) -> Option<(u32, u64)> {
    let m = fs::symlink_metadata(at).ok()?;
    Some((m.mode(), m.rdev()))
}

#[test]
fn pipes_and_sockets_work_and_devices_have_their_numbers_on_all_nodes() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let mut nodes = lab.cell(2);
    let a = nodes.remove(0);
    make(&a.at("pipe"), FileType::Fifo, 0o640, (0, 0));
    make(&a.at("null"), FileType::CharacterDevice, 0o600, (1, 3));
    make(&a.at("disk"), FileType::BlockDevice, 0o640, (259, 70_000));
    std::thread::scope(|s| {
        let pipe = a.at("pipe");
        s.spawn(move || {
            fs::OpenOptions::new()
                .write(true)
                .open(pipe)?
                .write_all(b"through")
        });
        assert_eq!(fs::read_to_string(a.at("pipe")).expect("read"), "through");
    });
    let listener = UnixListener::bind(a.at("socket")).expect("bound");
    let mut one = UnixStream::connect(a.at("socket")).expect("connected");
    one.write_all(b"hello").expect("sent");
    drop(one);
    let mut text = String::new();
    let (mut other, _) = listener.accept().expect("accepted");
    other.read_to_string(&mut text).expect("received");
    assert_eq!(text, "hello");

    let names = ["pipe", "null", "disk", "socket"];
    let before = names.map(|n| found(&a.at(n)));
    assert_eq!(before[0], Some((libc::S_IFIFO | 0o640, 0)));
    assert_eq!(before[1], Some((libc::S_IFCHR | 0o600, makedev(1, 3))));
    assert_eq!(
        before[2],
        Some((libc::S_IFBLK | 0o640, makedev(259, 70_000)))
    );
    let same = |dir: &Path| names.map(|n| found(&dir.join(n))) == before;
    let b = &nodes[0];
    wait_until(
        SOON,
        || same(b.dir()),
        || format!("{names:?} on the other node"),
    );
    // What is in no commit yet survives a crash.
    make(&a.at("late"), FileType::Fifo, 0o600, (0, 0));
    fs::rename(a.at("null"), a.at("zero")).expect("renamed");
    fs::remove_file(a.at("socket")).expect("removed");
    let a = a.kill().start();
    assert!(
        a.at("late")
            .metadata()
            .expect("there")
            .file_type()
            .is_fifo()
    );
    assert_eq!(found(&a.at("zero")), before[1]);
    assert_eq!(found(&a.at("socket")), None);
    // One that another is renamed over goes, whatever both are.
    a.write("file", "text");
    fs::rename(a.at("file"), a.at("late")).expect("renamed");
    fs::rename(a.at("pipe"), a.at("zero")).expect("renamed");
    agree(&[&a, b], "cell", SOON);
    b.wait_for("late", "text");
    wait_until(
        SOON,
        || found(&b.at("zero")) == before[0],
        || "a pipe over a device".into(),
    );
    assert_eq!(found(&b.at("pipe")), None);
    let error = fs::File::open(a.at("disk")).expect_err("no devices here");
    assert_eq!(error.raw_os_error(), Some(libc::EACCES));
}

#[test]
fn whatever_is_given_to_somebody_loses_the_bits_that_it_loses_on_a_disk() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let a = lab.first("a");
    let kinds = [
        FileType::RegularFile,
        FileType::Fifo,
        FileType::Socket,
        FileType::CharacterDevice,
        FileType::BlockDevice,
        FileType::Directory,
    ];
    let disk = lab.dir("disk");
    for kind in kinds {
        for bits in [0o6755, 0o4644, 0o2644, 0o2755] {
            let after = [a.dir(), &disk].map(|dir| {
                let at = dir.join(format!("{kind:?}-{bits:o}"));
                match kind {
                    FileType::Directory => fs::create_dir(&at).expect("made"),
                    _ => make(&at, kind, 0o600, (1, 3)),
                }
                fs::set_permissions(&at, fs::Permissions::from_mode(bits)).expect("set");
                assert_eq!(found(&at).map(|f| f.0 & 0o7777), Some(bits), "{kind:?}");
                std::os::unix::fs::chown(&at, Some(7), Some(8)).expect("given");
                found(&at).map(|f| f.0)
            });
            assert_eq!(after[0], after[1], "{kind:?} {bits:o}");
        }
    }
}
