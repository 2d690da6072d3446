//! Access control lists through a folder, on two nodes: who is let in, what is inherited, and
//! programs that carry lists.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use rustix::fs::{XattrFlags, listxattr, setxattr};
use rustix::io::Errno;

use crate::harness::{self, Lab, Node, SOON, agree, run, tool, wait_until};

/// `nobody`.
const USER: u32 = 65534;
/// Somebody else.
const OTHER: u32 = 54321;

/// Whether a line of shell succeeds as this user, who is in no other group.
fn may(user: u32, line: &str) -> bool {
    let id = [format!("--reuid={user}"), format!("--regid={user}")];
    let out = Command::new(tool("setpriv"))
        .args(id)
        .args(["--clear-groups", "sh", "-c", line])
        .output();
    out.expect("runs").status.success()
}

fn reads(user: u32, path: &Path) -> bool {
    may(user, &format!("cat {} > /dev/null", path.display()))
}

fn writes(user: u32, path: &Path) -> bool {
    may(user, &format!("printf x >> {}", path.display()))
}

fn setfacl(words: &[&str], path: &Path) {
    run(Command::new(tool("setfacl")).args(words).arg(path));
}

/// The list of a path in one line, numbers for names.
fn acl(path: &Path) -> String {
    let mut c = Command::new(tool("getfacl"));
    let text = run(c.args(["-cpnE"]).arg(path));
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The lists of all that is below a directory.
fn acls(dir: &Path) -> String {
    let mut c = Command::new(tool("getfacl"));
    let text = run(c.args(["-RpnE", "."]).current_dir(dir));
    let mut files: Vec<&str> = text.split("\n\n").collect();
    files.sort_unstable();
    files.join("\n\n")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").mode() & 0o7777
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("we may");
}

/// A folder's test directory that other users may enter.
fn lab() -> Lab {
    let lab = Lab::new();
    chmod(&lab.path(""), 0o755);
    lab
}

fn shows(node: &Node, path: &str, wanted: &str) {
    let at = node.at(path);
    let same = || at.exists() && acl(&at) == wanted;
    wait_until(SOON, same, || {
        format!("{} has {path} as {}", node.name(), acl(&at))
    });
}

#[test]
fn a_list_lets_in_and_keeps_out_on_all_nodes() {
    if !harness::fuse() {
        return;
    }
    let lab = lab();
    let nodes = lab.cell(2);
    let (a, b) = (&nodes[0], &nodes[1]);
    a.write("f", "f");
    a.write("open", "open");
    chmod(&a.at("f"), 0o640);
    a.settled();
    let there = || b.at("f").exists() && b.at("open").exists() && mode(&b.at("f")) == 0o640;
    wait_until(SOON, there, || "b lacks them".into());
    // Each kernel knows by now that there is no list.
    for n in [a, b] {
        assert!(!reads(USER, &n.at("f")));
        assert!(reads(USER, &n.at("open")));
    }
    setfacl(&["-m", "u:65534:rw,g::-"], &a.at("f"));
    setfacl(&["-m", "u:65534:-"], &a.at("open"));
    let wanted = "user::rw- user:65534:rw- group::--- mask::rw- other::---";
    for n in [a, b] {
        shows(n, "f", wanted);
        shows(
            n,
            "open",
            "user::rw- user:65534:--- group::r-- mask::r-- other::r--",
        );
        assert!(reads(USER, &n.at("f")) && writes(USER, &n.at("f")));
        assert!(!reads(OTHER, &n.at("f")));
        assert!(!reads(USER, &n.at("open")) && reads(OTHER, &n.at("open")));
        // The bits for the group are the mask.
        assert_eq!(mode(&n.at("f")), 0o660);
    }
    // A chmod changes the mask, and so what the list gives.
    chmod(&b.at("f"), 0o640);
    let wanted = "user::rw- user:65534:rw- group::--- mask::r-- other::---";
    for n in [b, a] {
        shows(n, "f", wanted);
        assert!(reads(USER, &n.at("f")) && !writes(USER, &n.at("f")));
    }
    chmod(&a.at("f"), 0o600);
    let shut = || !reads(USER, &b.at("f"));
    wait_until(SOON, shut, || acl(&b.at("f")));
    chmod(&a.at("f"), 0o660);
    wait_until(SOON, || writes(USER, &b.at("f")), || acl(&b.at("f")));
    // A list that says no more than bits is not kept, one that is taken away leaves the bits.
    setfacl(&["-b", "-m", "u::rwx,g::r,o::-"], &a.at("f"));
    setfacl(&["-x", "u:65534"], &b.at("open"));
    setfacl(&["-b"], &b.at("open"));
    setfacl(&["-k"], &b.at("open"));
    for n in [a, b] {
        shows(n, "f", "user::rwx group::r-- other::---");
        shows(n, "open", "user::rw- group::r-- other::r--");
        assert_eq!(mode(&n.at("f")), 0o740);
        assert!(reads(USER, &n.at("open")) && !reads(USER, &n.at("f")));
        for name in ["f", "open"] {
            let n = listxattr(n.at(name), &mut [0u8; 64][..]).expect("listed");
            assert_eq!(n, 0, "{name}");
        }
    }
    for n in nodes {
        n.stop();
    }
}

#[test]
fn what_is_made_in_a_directory_inherits_its_default_on_all_nodes() {
    if !harness::fuse() {
        return;
    }
    let lab = lab();
    let mut nodes = lab.cell(2);
    let (a, b) = (nodes.remove(0), nodes.remove(0));
    let make = |n: &Node, line: &str| {
        let line = format!("umask 077; cd {}; {line}", n.dir().display());
        run(Command::new("sh").args(["-ec", &line]));
    };
    fs::create_dir(a.at("d")).expect("made");
    chmod(&a.at("d"), 0o755);
    setfacl(&["-d", "-m", "u:65534:rwx,g::rx,o::-"], &a.at("d"));
    make(
        &a,
        "mkdir d/e; touch d/f; mkfifo d/p; ln -s f d/l; mkdir plain; touch plain/f",
    );
    let dir = "user::rwx user:65534:rwx group::r-x mask::rwx other::--- default:user::rwx \
               default:user:65534:rwx default:group::r-x default:mask::rwx default:other::---";
    let file = "user::rw- user:65534:rwx group::r-x mask::rw- \
                other::---";
    for n in [&a, &b] {
        shows(n, "d/e", dir);
        for name in ["d/f", "d/p"] {
            shows(n, name, file);
            assert_eq!(mode(&n.at(name)), 0o660, "{name}");
        }
        // Where nothing is inherited the umask counts.
        wait_until(SOON, || n.at("plain/f").exists(), || "not there".into());
        assert_eq!(
            (mode(&n.at("plain")), mode(&n.at("plain/f"))),
            (0o700, 0o600)
        );
    }
    // The next level, made on the other node; and by who is let in.
    make(
        &b,
        "mkdir d/e/g; touch d/e/f; cp plain/f d/e/cp; mkdir -m 711 d/e/m",
    );
    assert!(may(
        USER,
        &format!("umask 0; echo 1 > {}", b.at("d/e/g/by").display())
    ));
    assert!(!may(OTHER, &format!(": > {}", b.at("d/e/g/no").display())));
    for n in [&b, &a] {
        shows(n, "d/e/g", dir);
        shows(n, "d/e/f", file);
        shows(n, "d/e/g/by", file);
        wait_until(SOON, || n.at("d/e/m").exists(), || "not there".into());
        assert_eq!(
            (mode(&n.at("d/e/cp")), mode(&n.at("d/e/m"))),
            (0o600, 0o711)
        );
        assert_eq!(n.at("d/e/g/by").metadata().expect("there").uid(), USER);
    }
    // A new file in the place of one that was just removed begins anew.
    setfacl(&["-m", "u:54321:rw"], &a.at("d/f"));
    a.settled();
    fs::remove_file(a.at("d/f")).expect("removed");
    make(&a, "touch d/f");
    shows(&a, "d/f", file);
    agree(&[&a, &b], "cell", SOON);
    shows(&b, "d/f", file);
    let all = acls(a.dir());
    assert_eq!(acls(b.dir()), all);
    b.stop();
    // Without a commit, the journal has it.
    make(&a, "mkdir d/last; touch d/last/f");
    let a = a.kill().start();
    shows(&a, "d/last", dir);
    shows(&a, "d/last/f", file);
    let a = a.stop().start();
    shows(&a, "d/last", dir);
    shows(&a, "d/last/f", file);
    a.stop();
}

#[test]
fn programs_carry_lists() {
    if !harness::fuse() {
        return;
    }
    let lab = lab();
    let nodes = lab.cell(2);
    let (a, b) = (&nodes[0], &nodes[1]);
    let from = lab.dir("from");
    fs::create_dir_all(from.join("d/e")).expect("made");
    for name in ["f", "d/g", "d/e/h"] {
        fs::write(from.join(name), name).expect("written");
    }
    setfacl(&["-m", "u:65534:r,g:7:rwx"], &from.join("f"));
    setfacl(&["-R", "-m", "u:65534:rX,m:rx"], &from.join("d"));
    setfacl(&["-R", "-d", "-m", "u:54321:rwx"], &from.join("d"));
    let wanted = acls(&from);
    assert!(wanted.contains("default:user:54321:rwx"), "{wanted}");
    run(Command::new("cp").arg("-a").arg(&from).arg(a.at("cp")));
    let source = format!("{}/", from.display());
    run(Command::new(tool("rsync"))
        .arg("-aA")
        .arg(&source)
        .arg(a.at("rsync")));
    fs::create_dir(a.at("tar")).expect("made");
    let archive = lab.path("a.tar");
    let tar = |words: &[&str], dir: &Path| {
        let mut c = Command::new(tool("tar"));
        run(c
            .arg("--acls")
            .args(words)
            .arg(&archive)
            .arg("-C")
            .arg(dir)
            .arg("."));
    };
    tar(&["-cf"], &from);
    tar(&["-xpf"], &a.at("tar"));
    run(Command::new("cp")
        .arg("-r")
        .arg(&from)
        .arg(a.at("restored")));
    let text = lab.path("lists");
    fs::write(&text, &wanted).expect("written");
    let mut restore = Command::new(tool("setfacl"));
    restore.arg(format!("--restore={}", text.display()));
    run(restore.current_dir(a.at("restored")));
    agree(&[a, b], "cell", SOON);
    for n in [a, b] {
        for copy in ["cp", "rsync", "tar", "restored"] {
            assert_eq!(acls(&n.at(copy)), wanted, "{copy} on {}", n.name());
        }
    }
    // And out again, from the other node.
    let back = lab.path("back");
    run(Command::new("cp").arg("-a").arg(b.at("cp")).arg(&back));
    assert_eq!(acls(&back), wanted);
    let mut again = Command::new(tool("rsync"));
    let out = again
        .args(["-aAXnci", "--delete", &source])
        .arg(b.at("rsync"));
    let out = out.output().expect("runs");
    assert!(out.status.success() && out.stdout.is_empty(), "{out:?}");
    for n in nodes {
        n.stop();
    }
}

#[test]
fn what_is_no_list_is_refused() {
    if !harness::fuse() {
        return;
    }
    let lab = lab();
    let node = lab.first("n1");
    node.write("f", "f");
    let set = |name: &str, value: &[u8]| setxattr(node.at("f"), name, value, XattrFlags::empty());
    let access = "system.posix_acl_access";
    let some = b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x04\0\x05\0\xff\xff\xff\xff";
    let other = b"\x20\0\x04\0\xff\xff\xff\xff";
    for bytes in [&some[..], &some[..5], b"\x02", b"\x03\0\0\0", &[0xff; 100]] {
        let done = set(access, bytes);
        assert!(
            matches!(done, Err(Errno::INVAL | Errno::OPNOTSUPP)),
            "{done:?}"
        );
    }
    assert_eq!(set("system.posix_acl_other", b"x"), Err(Errno::OPNOTSUPP));
    let whole = [&some[..], &other[..]].concat();
    set(access, &whole).expect("a list");
    assert_eq!(mode(&node.at("f")), 0o754);
    let default = set("system.posix_acl_default", &whole);
    assert_eq!(default, Err(Errno::ACCESS), "a file has no default");
    // Only an owner may.
    let line = format!("setfacl -m u:65534:rwx {}", node.at("f").display());
    assert!(!may(USER, &line));
    chown(node.at("f"), Some(USER), Some(USER)).expect("we may");
    assert!(may(USER, &line));
    node.stop();
}

#[test]
fn the_past_has_the_lists_of_then_and_they_come_back() {
    if !harness::fuse() {
        return;
    }
    let lab = lab();
    let node = lab.first("n1");
    fs::create_dir(node.at("d")).expect("made");
    node.write("d/f", "f");
    setfacl(&["-m", "u:65534:-,g::-,g:7:rw"], &node.at("d/f"));
    setfacl(&["-d", "-m", "u:65534:r"], &node.at("d"));
    node.settled();
    let (list, default) = (acl(&node.at("d/f")), acl(&node.at("d")));
    let first = node.cell().heads[0].id.clone();
    setfacl(&["-b"], &node.at("d/f"));
    setfacl(&["-b"], &node.at("d"));
    fs::rename(node.at("d/f"), node.at("d/g")).expect("moved");
    fs::remove_file(node.at("d/g")).expect("removed");
    node.settled();
    let then = node.at(format!(".cellfs/at/{first}/d"));
    assert_eq!(
        (acl(&then.join("f")), acl(&then)),
        (list.clone(), default.clone())
    );
    // Others may read it by its bits.
    assert!(reads(OTHER, &then.join("f")));
    assert!(!reads(USER, &then.join("f")));
    let d = node.at("d").display().to_string();
    node.ask(&["restore", &d, "--at", &first]);
    wait_until(SOON, || node.at("d/f").exists(), || "not there".into());
    assert_eq!((acl(&node.at("d/f")), acl(&node.at("d"))), (list, default));
    node.stop();
}

#[test]
fn a_directory_with_the_bit_gives_its_group_to_what_is_made_in_it() {
    if !harness::fuse() {
        return;
    }
    let lab = lab();
    let nodes = lab.cell(2);
    let (a, b) = (&nodes[0], &nodes[1]);
    fs::create_dir(a.at("d")).expect("made");
    chown(a.at("d"), None, Some(7)).expect("we may");
    chmod(&a.at("d"), 0o2777);
    a.write("d/f", "f");
    fs::create_dir(a.at("d/e")).expect("made");
    assert!(!may(USER, &format!("touch {}/e/g", a.at("d").display())));
    chmod(&a.at("d/e"), 0o2777);
    assert!(may(
        USER,
        &format!("umask 022; mkdir {}/e/g", a.at("d").display())
    ));
    agree(&[a, b], "cell", SOON);
    for n in [a, b] {
        let found = ["d/f", "d/e", "d/e/g"].map(|p| {
            let m = n.at(p).metadata().expect("there");
            (m.gid(), m.uid(), m.mode() & 0o7777)
        });
        assert_eq!(found, [(7, 0, 0o644), (7, 0, 0o2777), (7, USER, 0o2755)]);
    }
    for n in nodes {
        n.stop();
    }
}
