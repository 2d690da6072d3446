//! Extended attributes through a folder, on two nodes; and what a write takes away from a file.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use rustix::fs::{XattrFlags, getxattr, lgetxattr, listxattr, lsetxattr, removexattr, setxattr};
use rustix::io::Errno;

use crate::harness::{self, Lab, Node, SOON, agree, run, wait_until};

fn set(path: &Path, name: &str, value: &[u8]) -> Result<(), Errno> {
    setxattr(path, name, value, XattrFlags::empty())
}

fn get(path: &Path, name: &str) -> Result<Vec<u8>, Errno> {
    let mut room = vec![0; 64 << 10];
    let n = getxattr(path, name, room.as_mut_slice())?;
    room.truncate(n);
    Ok(room)
}

fn all(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut room = vec![0; 64 << 10];
    let n = match listxattr(path, room.as_mut_slice()) {
        // The file itself is still on its way.
        Err(Errno::NOENT) => return BTreeMap::new(),
        n => n.expect("listed"),
    };
    let names = room[..n].split(|b| *b == 0).filter(|n| !n.is_empty());
    let names = names.map(|n| String::from_utf8_lossy(n).into_owned());
    let each = names.filter_map(|n| match get(path, &n) {
        // Another node took it away meanwhile.
        Err(Errno::NODATA) => None,
        value => Some((n, value.expect("is there"))),
    });
    each.collect()
}

#[test]
fn attributes_are_kept_merged_and_replicated() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let nodes = lab.cell(2);
    let (a, b) = (&nodes[0], &nodes[1]);
    a.write("f", "f");
    fs::create_dir(a.at("d")).expect("made");
    let f = a.at("f");
    assert_eq!(get(&f, "user.x"), Err(Errno::NODATA));
    assert_eq!(removexattr(&f, "user.x"), Err(Errno::NODATA));
    let replaced = setxattr(&f, "user.x", b"1", XattrFlags::REPLACE);
    assert_eq!(replaced, Err(Errno::NODATA));
    set(&f, "user.x", b"one").expect("set");
    let created = setxattr(&f, "user.x", b"2", XattrFlags::CREATE);
    assert_eq!(created, Err(Errno::EXIST));
    assert_eq!(getxattr(&f, "user.x", &mut [0u8; 2][..]), Err(Errno::RANGE));
    let long = vec![7; 8 << 10];
    set(&f, "user.long", &long).expect("set");
    set(&f, "user.empty", b"").expect("set");
    set(&f, "trusted.x", b"\0\xff").expect("root may");
    assert_eq!(set(&f, "user.more", &long), Err(Errno::NOSPC));
    set(&a.at("d"), "user.dir", b"dir").expect("set");
    set(&a.at(""), "user.top", b"top").expect("set");
    let wanted = all(&f);
    assert_eq!(wanted.len(), 4, "{:?}", wanted.keys());
    a.settled();
    let same = || all(&b.at("f")) == wanted && get(&b.at(""), "user.top").is_ok();
    wait_until(SOON, same, || format!("{:?}", all(&b.at("f")).keys()));
    assert_eq!(get(&b.at("d"), "user.dir").expect("there"), b"dir");
    // Each by itself: what is set here and there is set.
    set(&f, "user.here", b"a").expect("set");
    set(&b.at("f"), "user.there", b"b").expect("set");
    removexattr(b.at("f"), "user.long").expect("removed");
    a.settled();
    b.settled();
    let names = [
        "trusted.x",
        "user.empty",
        "user.here",
        "user.there",
        "user.x",
    ];
    let both = || {
        let found = [a, b].map(|n| all(&n.at("f")));
        found[0] == found[1] && found[0].keys().eq(names.iter())
    };
    wait_until(SOON, both, || format!("{:?}", all(&f).keys()));
    agree(&[a, b], "cell", SOON);
    // An ordinary file has them, a symbolic link and a device have not.
    symlink("f", a.at("l")).expect("made");
    let refused = lsetxattr(a.at("l"), "user.x", b"1", XattrFlags::empty());
    assert_eq!(refused, Err(Errno::PERM));
    let none = lgetxattr(a.at("l"), "user.x", &mut [0u8; 8][..]);
    assert!(matches!(none, Err(Errno::NODATA | Errno::PERM)), "{none:?}");
    for n in nodes {
        n.stop();
    }
}

#[test]
fn attributes_survive_a_kill_and_go_with_the_file_that_is_saved() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let node = lab.first("n1");
    for name in ["f", "g", "new"] {
        node.write(name, name);
    }
    node.settled();
    set(&node.at("f"), "user.old", b"old").expect("set");
    set(&node.at("g"), "user.kept", b"kept").expect("set");
    node.settled();
    set(&node.at("new"), "user.new", b"new").expect("set");
    // As editors save: the name has the attributes of the file that came.
    fs::rename(node.at("new"), node.at("f")).expect("renamed");
    fs::rename(node.at("g"), node.at("h")).expect("renamed");
    // Made again, it has none; what was moved aside keeps its own.
    for name in ["made", "aside"] {
        node.write(name, name);
        set(&node.at(name), "user.kept", b"kept").expect("set");
    }
    node.settled();
    fs::remove_file(node.at("made")).expect("removed");
    node.write("made", "again");
    fs::rename(node.at("aside"), node.at("aside~")).expect("renamed");
    node.write("aside", "again");
    let again = |node: &Node| {
        for name in ["made", "aside"] {
            assert_eq!(all(&node.at(name)).len(), 0, "{name}");
        }
        assert_eq!(all(&node.at("aside~")).len(), 1);
    };
    again(&node);
    let setup = node.kill();
    let node = setup.start();
    again(&node);
    let one = |k: &str| BTreeMap::from([(format!("user.{k}"), k.as_bytes().to_vec())]);
    assert_eq!(all(&node.at("f")), one("new"));
    assert_eq!(all(&node.at("h")), one("kept"));
    node.settled();
    let setup = node.stop();
    let node = setup.start();
    again(&node);
    assert_eq!(all(&node.at("f")), one("new"));
    assert_eq!(all(&node.at("h")), one("kept"));
    node.stop();
}

#[test]
fn cp_and_rsync_carry_attributes() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let node = lab.first("n1");
    let from = lab.path("from");
    fs::create_dir_all(from.join("d")).expect("made");
    for (i, name) in ["a", "d/b"].into_iter().enumerate() {
        fs::write(from.join(name), name).expect("written");
        if let Err(e) = set(&from.join(name), "user.n", &[u8::try_from(i).expect("few")]) {
            panic!("the machine's own file system has no attributes: {e}");
        }
    }
    run(Command::new("cp")
        .args(["-a", "--preserve=xattr"])
        .arg(&from)
        .arg(node.at("cp")));
    let (source, target) = (format!("{}/", from.display()), node.at("rsync"));
    run(Command::new("rsync").arg("-aHX").arg(&source).arg(&target));
    for (i, name) in ["a", "d/b"].into_iter().enumerate() {
        for copy in ["cp", "rsync"] {
            let found = get(&node.at(copy).join(name), "user.n").expect("there");
            assert_eq!(usize::from(found[0]), i, "{copy}/{name}");
        }
    }
    let mut again = Command::new("rsync");
    again
        .args(["-aHXnci", "--delete"])
        .arg(&source)
        .arg(&target);
    let out = again.output().expect("runs");
    assert!(out.status.success() && out.stdout.is_empty(), "{out:?}");
    node.stop();
}

/// Runs a line of shell as `nobody`.
fn as_nobody(line: &str) -> io::Result<bool> {
    let out = Command::new("setpriv")
        .args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "sh",
            "-c",
            line,
        ])
        .status()?;
    Ok(out.success())
}

#[test]
fn who_writes_to_a_file_takes_its_privileges_away() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let node = lab.first("n1");
    // A large one that is opened again is written to past the node.
    for (name, len) in [("f", 10), ("large", 3_000_000)] {
        node.write(name, vec![b'x'; len]);
        privileges_end(&node, name);
    }
    node.stop();
}

fn privileges_end(node: &Node, name: &str) {
    let f = node.at(name);
    let path = f.display().to_string();
    let mode = || fs::metadata(&f).expect("there").mode() & 0o7777;
    // A file's capabilities, revision 2, none of them set.
    let mut none = vec![0u8; 20];
    none[3] = 2;
    let arm = || {
        node.settled();
        fs::set_permissions(&f, Permissions::from_mode(0o6777)).expect("set");
        set(&f, "security.capability", &none).expect("root may");
    };
    for line in [
        format!("python3 -c \"open('{path}', 'r+b').write(b'x')\""),
        format!("printf x >> {path}"),
        format!("printf x | dd of={path} conv=notrunc 2>&1"),
        format!("truncate -s 5 {path}"),
        format!("fallocate -l 50 {path}"),
        format!(": > {path}"),
    ] {
        arm();
        assert!(as_nobody(&line).expect("runs"), "{line}");
        assert_eq!(mode(), 0o777, "{line}");
        assert_eq!(get(&f, "security.capability"), Err(Errno::NODATA), "{line}");
    }
    // Root keeps the bits by a write, nobody by giving the file away.
    arm();
    fs::write(&f, "root").expect("written");
    assert_eq!(mode(), 0o6777);
    assert_eq!(get(&f, "security.capability"), Err(Errno::NODATA));
    arm();
    run(Command::new("chown").args(["1:1", &path]));
    assert_eq!(mode(), 0o777);
    assert_eq!(get(&f, "security.capability"), Err(Errno::NODATA));
}
