//! From which length on a file is cut, as `.gitattributes` says.

use super::large::{CUT, bytes, kind, noise, put_bytes};
use super::*;
use crate::chunk::pointer::parse_pointer;
use crate::record::git_tree;
use crate::store::objects::{ObjectKind, Objects};

fn pointer_of(v: &Volume, name: &str) -> Option<u64> {
    let view = v.view();
    let e = git_tree::find(&*view.stage, &view.tree, name.as_bytes());
    let blob = view.stage.get(&e.unwrap().unwrap().id, ObjectKind::Blob);
    parse_pointer(&blob.unwrap()).map(|(_, len)| len)
}

const RULES: &str = "*.lfs filter=lfs diff=lfs merge=lfs -text\n*.big large=1M\n*.odd large=much\n";

#[test]
fn what_is_for_git_lfs_is_cut_whatever_its_length_and_stays_so() {
    ABOVE.set(CUT);
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("v");
    let mut v = volume(&home, 1);
    put(&fs(&v), ".gitattributes", RULES);
    v.flush_all().unwrap();
    // In memory, in an overlay file, and above what is cut anyway.
    let mut files: Vec<(String, Vec<u8>)> = [1, 5_000, 90_000, 300_000]
        .map(|n| (format!("{n}.lfs"), noise(n as u64, n)))
        .into();
    {
        let f = fs(&v);
        for (name, content) in &files {
            put_bytes(&f, name, content);
        }
        put_bytes(&f, "none.lfs", b"");
        v.flush_all().unwrap();
        assert_eq!(kind(&v, "none.lfs"), Kind::File);
    }
    for round in 0..4 {
        for (name, content) in &files {
            assert_eq!(kind(&v, name), Kind::Large, "{name}, {round}");
            assert_eq!(pointer_of(&v, name), Some(content.len() as u64));
            assert!(bytes(&fs(&v), name) == *content, "{name}, {round}");
        }
        fsck(&v);
        let f = fs(&v);
        for (n, (name, content)) in files.iter_mut().enumerate() {
            // Written anew, in place, at the end, and by a file that is renamed over it.
            *content = noise((round * 10 + n) as u64 + 100, content.len() + 1);
            match round {
                0 => drop(put_bytes(&f, name, content)),
                1 => {
                    let ino = walk(&f, name);
                    f.open(ino, true, false).unwrap();
                    f.write(ino, 0, content).unwrap();
                    f.release(ino, true);
                }
                _ => {
                    put_bytes(&f, "new", content);
                    let to = (ROOT_INO, name.as_bytes());
                    f.rename((ROOT_INO, b"new"), to, RenameMode::Replace)
                        .unwrap();
                }
            }
        }
        if round == 3 {
            drop(f);
            // What a crash leaves in the journal is committed by the same rule.
            v = crash(&v, &home, 1);
        } else {
            v.flush_all().unwrap();
        }
    }
    for (name, content) in &files {
        assert_eq!(kind(&v, name), Kind::Large, "{name}");
        assert!(bytes(&fs(&v), name) == *content, "{name}");
    }
    v.stop().unwrap();
}

#[test]
fn a_length_that_is_said_of_a_path_counts_there() {
    ABOVE.set(CUT);
    let dir = tempfile::tempdir().unwrap();
    let v = volume(&dir.path().join("v"), 1);
    let f = fs(&v);
    put(&f, ".gitattributes", RULES);
    f.mkdir(ROOT_INO, b"sub", 0o755, ME).unwrap();
    put(&f, "sub/.gitattributes", "*.big large=100k\n");
    v.flush_all().unwrap();
    let sizes = [200_000, 2_000_000];
    for n in sizes {
        for name in ["x.big", "x.odd", "x"] {
            put_bytes(&f, &format!("{n}{name}"), &noise(n as u64, n));
        }
    }
    let sub = walk(&f, "sub");
    let made = f.create(sub, b"y.big", 0o644, ME, true).unwrap();
    f.write(made.ino, 0, &noise(7, 200_000)).unwrap();
    f.release(made.ino, true);
    v.flush_all().unwrap();
    let is = |name: &str| kind(&v, name);
    assert_eq!(
        (is("200000x.big"), is("2000000x.big")),
        (Kind::File, Kind::Large)
    );
    for name in ["200000x.odd", "200000x", "2000000x.odd", "sub/y.big"] {
        assert_eq!(is(name), Kind::Large, "{name}");
    }
    for n in sizes {
        assert!(bytes(&f, &format!("{n}x.big")) == noise(n as u64, n));
    }
    // Where nothing is ever cut, nothing is.
    ABOVE.set(NEVER);
    let plain = volume(&dir.path().join("plain"), 1);
    let f = fs(&plain);
    put(&f, ".gitattributes", RULES);
    plain.flush_all().unwrap();
    put_bytes(&f, "x.lfs", b"text");
    plain.flush_all().unwrap();
    assert_eq!(kind(&plain, "x.lfs"), Kind::File);
    drop(f);
    for v in [v, plain] {
        v.stop().unwrap();
    }
}
