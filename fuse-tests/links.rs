//! Files with several names, through the kernel.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use crate::harness::tree::assert_same;
use crate::harness::{self, Lab, SOON, agree, git, run, wait_until};

/// Inode, number of names and bytes.
fn found(at: &Path) -> Option<(u64, u64, String)> {
    let m = fs::symlink_metadata(at).ok()?;
    Some((m.ino(), m.nlink(), fs::read_to_string(at).ok()?))
}

fn names_of(at: &Path) -> u64 {
    fs::symlink_metadata(at).map_or(0, |m| m.nlink())
}

#[test]
fn names_of_a_file_are_one_file_on_all_nodes() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let mut nodes = lab.cell(2);
    let a = nodes.remove(0);
    let b = nodes.remove(0);
    fs::create_dir(a.at("d")).expect("made");
    a.write("f", "one");
    fs::hard_link(a.at("f"), a.at("d/g")).expect("linked");
    assert_eq!(found(&a.at("f")), found(&a.at("d/g")));
    a.write("d/g", "two");
    assert_eq!(a.read("f"), "two");
    let again = fs::hard_link(a.at("f"), a.at("d/g")).expect_err("taken");
    assert_eq!(again.raw_os_error(), Some(libc::EEXIST));
    a.settled();
    agree(&[&a, &b], "cell", SOON);
    let there = found(&b.at("f")).expect("there");
    assert_eq!((there.1, there.2.as_str()), (2, "two"));
    assert_eq!(found(&b.at("d/g")), Some(there));
    // What the other does to names is seen in what this kernel knows of the file.
    let kept = fs::File::open(a.at("d/g")).expect("opened");
    let names = || kept.metadata().map_or(0, |m| m.nlink());
    assert_eq!((names(), names_of(&a.at("f"))), (2, 2));
    fs::remove_file(b.at("f")).expect("removed");
    wait_until(SOON, || names() == 1, || format!("{} names", names()));
    assert!(found(&a.at("f")).is_none());
    fs::hard_link(b.at("d/g"), b.at("h")).expect("linked");
    wait_until(SOON, || names() == 2, || format!("{} names", names()));
    assert_eq!(found(&a.at("h")), found(&a.at("d/g")));
    // An edit by one name from elsewhere is seen by the other.
    b.write("h", "three");
    let by_other = || fs::read_to_string(a.at("d/g")).unwrap_or_default();
    wait_until(SOON, || by_other() == "three", by_other);
    drop(kept);
    // Names that are in no commit yet survive a crash; so does what was taken away.
    a.write("tmp", "late");
    fs::hard_link(a.at("tmp"), a.at("kept")).expect("linked");
    fs::remove_file(a.at("tmp")).expect("removed");
    fs::hard_link(a.at("h"), a.at("third")).expect("linked");
    fs::rename(a.at("d/g"), a.at("fourth")).expect("renamed");
    let a = a.kill().start();
    assert_eq!(a.read("kept"), "late");
    assert_eq!((names_of(&a.at("kept")), names_of(&a.at("h"))), (1, 3));
    assert!(found(&a.at("tmp")).is_none() && found(&a.at("d/g")).is_none());
    a.settled();
    agree(&[&a, &b], "cell", SOON);
    assert_same(a.dir(), b.dir());
    assert_eq!(found(&b.at("third")), found(&b.at("fourth")));
    let repo = a.repo("cell");
    assert_eq!([a, b].map(harness::Node::stop).len(), 2);
    git::fsck(&repo);
}

#[test]
fn programs_that_link_find_what_they_expect() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let a = lab.first("n1");
    let sh = |script: &str| {
        let mut c = Command::new("sh");
        c.args(["-euc", script]).current_dir(a.dir());
        c.env("GIT_CONFIG_GLOBAL", "/dev/null");
        run(&mut c)
    };
    // Git writes an object under a temporary name, links it, and removes the first name.
    sh("git init -q one && cd one && git config user.name n && git config user.email e");
    sh("cd one && for n in $(seq 60); do echo $n > $n; done && git add . && git commit -qm all");
    sh(
        "cd one && git fsck --strict --full && git status --porcelain > ../status && ! [ -s ../status ]",
    );
    // A local clone shares its objects by links.
    sh("git clone -q --local one two && cd two && git fsck --strict --full");
    let object = sh("cd two && find .git/objects -type f -path '*/??/*' | head -n 1");
    let object = a.at("two").join(object.trim());
    assert_eq!(names_of(&object), 2, "{object:?}");
    // A tree of links, and the tree it came from gone.
    sh("cp -al one three && rm -rf one && cd three && git fsck --strict --full && cat 1 60");
    assert_eq!(names_of(&a.at("three/1")), 1);
    // rsync keeps them, and sees no difference.
    sh("mkdir src && cd src && echo x > a && ln a b && mkdir d && ln a d/c && ln -s a l");
    sh("rsync -aH src/ dst/");
    let inode = |p: &str| found(&a.at(p)).map(|f| (f.0, f.1));
    assert_eq!(inode("dst/a"), inode("dst/d/c"));
    assert_eq!(inode("dst/a").map(|f| f.1), Some(3));
    assert_eq!(sh("rsync -naciH --delete src/ dst/"), "");
    sh("tar -cf t.tar src && mkdir out && tar -xf t.tar -C out");
    assert_eq!(inode("out/src/b").map(|f| f.1), Some(3));
    a.settled();
    let repo = a.repo("cell");
    a.stop();
    git::fsck(&repo);
}
