//! Access control lists that were changed in two places, holes, and copies within a folder.

use super::*;
use crate::fs::{Seek, SetXattr, errno};

const ACCESS: &[u8] = b"system.posix_acl_access";

/// A list with one user in it.
fn list(owner: u16, user: u16, group: u16, mask: u16, others: u16) -> Vec<u8> {
    let mut out = 2u32.to_le_bytes().to_vec();
    let none = u32::MAX;
    for (tag, perm, id) in [
        (1u16, owner, none),
        (2, user, 1000),
        (4, group, none),
        (16, mask, none),
        (32, others, none),
    ] {
        out.extend(tag.to_le_bytes());
        out.extend(perm.to_le_bytes());
        out.extend(id.to_le_bytes());
    }
    out
}

fn chmod(f: &Fs, path: &str, mode: u32) {
    let set = SetAttr {
        mode: Some(mode),
        ..SetAttr::default()
    };
    f.setattr(walk(f, path), set).unwrap();
}

fn shown(f: &Fs, path: &str) -> (u32, Option<Vec<u8>>) {
    let ino = walk(f, path);
    let mode = f.getattr(ino).unwrap().attr.mode;
    (mode, f.xattr(ino, ACCESS).ok())
}

/// Either of the two may be the later one; both nodes show the same, and in it bits and list agree.
#[test]
fn a_list_set_here_and_bits_set_there_agree() {
    let dir = tempfile::tempdir().unwrap();
    let home = |n: &str| dir.path().join(n);
    let (a, b) = (volume(&home("a"), 1), volume(&home("b"), 2));
    let (fa, fb) = (fs(&a), fs(&b));
    for name in ["x", "y", "z"] {
        put(&fa, name, name);
    }
    let set = |f: &Fs, name: &str, acl: &[u8]| {
        f.set_xattr(walk(f, name), ACCESS, acl, SetXattr::Any)
            .unwrap();
    };
    set(&fa, "z", &list(6, 6, 4, 6, 0));
    sync(&a, &b);
    assert_eq!(shown(&fb, "z").0, 0o660);
    // The bits are later, the list is, and the list goes while the bits are set.
    set(&fa, "x", &list(6, 6, 4, 6, 0));
    a.flush_all().unwrap();
    chmod(&fb, "x", 0o604);
    chmod(&fb, "y", 0o604);
    chmod(&fb, "z", 0o640);
    b.flush_all().unwrap();
    set(&fa, "y", &list(7, 6, 5, 7, 1));
    fa.remove_xattr(walk(&fa, "z"), ACCESS).unwrap();
    sync(&a, &b);
    for f in [&fa, &fb] {
        assert_eq!(shown(f, "x"), (0o604, Some(list(6, 6, 4, 0, 4))));
        assert_eq!(shown(f, "y"), (0o771, Some(list(7, 6, 5, 7, 1))));
        assert_eq!(shown(f, "z"), (0o640, None));
    }
    // What is set is what is shown, so to set it again changes nothing.
    let before = a.journal().last();
    set(&fa, "x", &list(6, 6, 4, 0, 4));
    assert_eq!(a.journal().last(), before);
    // A list that says no more than bits ends one that was there.
    let bits = [
        &list(6, 0, 4, 0, 0)[..12],
        &list(6, 0, 4, 0, 0)[20..28],
        &list(6, 0, 4, 0, 4)[36..],
    ];
    set(&fa, "x", &bits.concat());
    assert_eq!(shown(&fa, "x"), (0o644, None));
    sync(&a, &b);
    assert_eq!(shown(&fb, "x"), (0o644, None));
    a.stop().unwrap();
    b.stop().unwrap();
}

#[test]
fn lists_that_are_none_are_refused_and_take_room() {
    let dir = tempfile::tempdir().unwrap();
    let v = volume(dir.path(), 1);
    let f = fs(&v);
    put(&f, "f", "f");
    let ino = walk(&f, "f");
    let no = |name: &[u8], value: &[u8]| {
        errno(&f.set_xattr(ino, name, value, SetXattr::Any).unwrap_err())
    };
    let good = list(7, 7, 7, 7, 7);
    assert_eq!(no(ACCESS, b""), libc::EINVAL);
    assert_eq!(no(ACCESS, &good[..good.len() - 1]), libc::EINVAL);
    assert_eq!(no(b"system.posix_acl_default", &good), libc::EINVAL);
    assert_eq!(no(b"system.posix_acl_", &good), libc::EOPNOTSUPP);
    let most = vec![0; (16 << 10) - 6];
    f.set_xattr(ino, b"user.x", &most, SetXattr::Any).unwrap();
    assert_eq!(no(ACCESS, &good), libc::ENOSPC);
    f.set_xattr(ino, b"user.x", b"", SetXattr::Any).unwrap();
    f.set_xattr(ino, ACCESS, &good, SetXattr::Create).unwrap();
    assert_eq!(
        f.xattrs(ino, false).unwrap(),
        [ACCESS, b"\0user.x\0"].concat()
    );
    f.remove_xattr(ino, ACCESS).unwrap();
    f.remove_xattr(ino, ACCESS).unwrap();
    v.stop().unwrap();
}

#[test]
fn holes_are_found_in_the_overlay_once_nobody_writes() {
    const MIB: u64 = 1 << 20;
    let dir = tempfile::tempdir().unwrap();
    let v = volume(dir.path(), 1);
    let f = fs(&v);
    let ino = f.create(ROOT_INO, b"f", 0o600, ME, true).unwrap().ino;
    f.write(ino, 4 * MIB, &[1; 4096]).unwrap();
    let set = SetAttr {
        size: Some(8 * MIB),
        ..SetAttr::default()
    };
    f.setattr(ino, set).unwrap();
    let blocks = f.getattr(ino).unwrap().blocks;
    assert!((8..=64).contains(&blocks), "{blocks} blocks");
    let seek = |f: &Fs, what, at| f.seek(ino, 0, what, at).map_err(|e| errno(&e));
    // A writer may have mapped bytes into a hole, of which nobody has told us.
    assert_eq!(seek(&f, Seek::Data, 5), Ok(5));
    assert_eq!(seek(&f, Seek::Hole, 5), Ok(8 * MIB));
    assert_eq!(seek(&f, Seek::Hole, 8 * MIB), Err(libc::ENXIO));
    let g = f.clone();
    let found = v.while_still(move || {
        g.release(ino, true);
        let at = 4 * MIB;
        [
            g.seek(ino, 0, Seek::Data, 5).unwrap() == at,
            g.seek(ino, 0, Seek::Hole, 5).unwrap() == 5,
            g.seek(ino, 0, Seek::Hole, at).unwrap() == at + 4096,
            errno(&g.seek(ino, 0, Seek::Data, 5 * MIB).unwrap_err()) == libc::ENXIO,
            errno(&g.seek(ino, 0, Seek::Hole, 8 * MIB).unwrap_err()) == libc::ENXIO,
        ]
    });
    assert_eq!(found.unwrap(), [true; 5]);
    // In a commit all of it is bytes.
    v.flush_all().unwrap();
    let again = walk(&f, "f");
    let seek = |what, at| f.seek(again, 0, what, at).map_err(|e| errno(&e));
    let data = seek(Seek::Data, 4 * MIB).unwrap();
    assert_eq!(data, 4 * MIB);
    assert_eq!(seek(Seek::Data, 9 * MIB), Err(libc::ENXIO));
    let no = f.seek(ROOT_INO, 0, Seek::Data, 0).unwrap_err();
    assert_eq!(errno(&no), libc::EISDIR);
    v.stop().unwrap();
}

#[test]
fn a_range_is_copied_within_files_and_between_them() {
    let dir = tempfile::tempdir().unwrap();
    let v = volume(dir.path(), 1);
    let f = fs(&v);
    let bytes: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    let from = f.create(ROOT_INO, b"from", 0o600, ME, true).unwrap().ino;
    for (i, piece) in bytes.chunks(1 << 20).enumerate() {
        f.write(from, (i as u64) << 20, piece).unwrap();
    }
    let to = f.create(ROOT_INO, b"to", 0o600, ME, true).unwrap().ino;
    let all = bytes.len() as u64;
    let copied = f.copy_range((from, 0, 0), (to, 7), all + 5).unwrap();
    assert_eq!(u64::from(copied), all);
    assert_eq!(f.copy_range((from, 0, all), (to, 0), 10).unwrap(), 0);
    assert_eq!(f.copy_range((from, 0, 8), (to, 1), 3).unwrap(), 3);
    assert_eq!(f.copy_range((to, 0, 7), (to, 7 + all), 100).unwrap(), 100);
    let mut wanted = vec![0; 7];
    wanted.extend(&bytes);
    wanted[1..4].copy_from_slice(&bytes[8..11]);
    wanted.extend(&bytes[..100]);
    let end = u32::try_from(wanted.len()).unwrap();
    assert!(f.read(to, 0, end + 1).unwrap() == wanted);
    let no = |r: super::super::Result<u32>| errno(&r.unwrap_err());
    let far = f.copy_range((from, 0, 0), (to, 1 << 40), 10);
    assert_eq!(no(far), libc::EFBIG);
    assert_eq!(
        no(f.copy_range((from, 0, 0), (ROOT_INO, 0), 10)),
        libc::EISDIR
    );
    for ino in [from, to] {
        f.release(ino, true);
    }
    v.flush_all().unwrap();
    fsck(&v);
    v.stop().unwrap();
}

/// The kernel hands such a file to programs, who have all of its bytes from the file itself.
#[test]
fn a_file_that_programs_have_is_looked_into_while_they_write() {
    use std::os::unix::fs::FileExt;

    use crate::fs::{Access, Allocate, Opened};
    const MIB: u64 = 1 << 20;
    let dir = tempfile::tempdir().unwrap();
    let v = volume(dir.path(), 1);
    let f = fs(&v);
    let old = vec![1; 4 << 20];
    put(&f, "f", std::str::from_utf8(&old).unwrap());
    v.flush_all().unwrap();
    let ino = walk(&f, "f");
    let access = Access {
        write: true,
        keeps: true,
        direct: true,
    };
    let Opened::Direct(s) = f.open_as(ino, access).unwrap() else {
        panic!("not handed over");
    };
    let program = std::fs::OpenOptions::new().write(true).open(s.path());
    let program = program.unwrap();
    f.allocate(ino, Allocate::Punch, MIB, 2 * MIB).unwrap();
    program.write_all_at(b"past", 2 * MIB).unwrap();
    program.write_all_at(b"the end", 6 * MIB).unwrap();
    let seek = |what, at| f.seek(ino, 0, what, at).map_err(|e| errno(&e));
    assert_eq!(seek(Seek::Hole, 0), Ok(MIB));
    assert_eq!(seek(Seek::Data, MIB), Ok(2 * MIB));
    assert_eq!(seek(Seek::Data, 5 * MIB), Ok(6 * MIB));
    assert_eq!(seek(Seek::Hole, 6 * MIB + 7), Err(libc::ENXIO));
    let to = f.create(ROOT_INO, b"to", 0o600, ME, true).unwrap().ino;
    let all = f.copy_range((ino, 0, 0), (to, 0), 10 * MIB).unwrap();
    assert_eq!(u64::from(all), 6 * MIB + 7);
    assert_eq!(f.copy_range((to, 0, 0), (ino, 5 * MIB), 9).unwrap(), 9);
    // Another name tells the time of the latest write, too.
    let before = f.getattr(ino).unwrap().attr.mtime;
    std::thread::sleep(Duration::from_millis(30));
    program.write_all_at(b"later", 7 * MIB).unwrap();
    let linked = f.link(ino, ROOT_INO, b"other").unwrap();
    assert!(linked.attr.mtime > before);
    assert_eq!(linked.size, 7 * MIB + 5);
    let mut wanted = old;
    wanted[1 << 20..3 << 20].fill(0);
    wanted.resize((6 << 20) + 7, 0);
    wanted[2 << 20..(2 << 20) + 4].copy_from_slice(b"past");
    wanted[6 << 20..].copy_from_slice(b"the end");
    assert!(f.read(to, 0, u32::MAX).unwrap() == wanted);
    wanted.resize((7 << 20) + 5, 0);
    wanted[5 << 20..(5 << 20) + 9].fill(1);
    wanted[7 << 20..].copy_from_slice(b"later");
    drop((program, s));
    f.release(ino, true);
    f.release(to, true);
    v.flush_all().unwrap();
    assert!(f.read(walk(&f, "f"), 0, u32::MAX).unwrap() == wanted);
    fsck(&v);
    v.stop().unwrap();
}

/// Who sees that a file takes no room at all looks no further.
#[test]
fn what_has_bytes_takes_room() {
    let dir = tempfile::tempdir().unwrap();
    let v = volume(dir.path(), 1);
    let f = fs(&v);
    for (name, size) in [(&b"one"[..], 1), (b"many", 1 << 20)] {
        let ino = f.create(ROOT_INO, name, 0o600, ME, true).unwrap().ino;
        assert_eq!(f.getattr(ino).unwrap().blocks, 0);
        let set = SetAttr {
            size: Some(size),
            ..SetAttr::default()
        };
        assert_eq!(f.setattr(ino, set).unwrap().blocks, 1);
        f.release(ino, true);
    }
    v.stop().unwrap();
}
