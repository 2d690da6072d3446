//! How editors save, against edits from elsewhere.

use super::*;

fn rename(f: &Fs, from: &str, to: &str) {
    let (from, to) = ((ROOT_INO, from.as_bytes()), (ROOT_INO, to.as_bytes()));
    f.rename(from, to, RenameMode::Replace).unwrap();
}

fn lines(count: usize) -> String {
    (0..count).map(|n| format!("line {n}\n")).collect()
}

/// Both nodes show these lines of the one file, and nothing else is there.
fn both_have(a: &Fs, b: &Fs, name: &str, parts: &[&str]) {
    for f in [a, b] {
        let got = get(f, name);
        for part in parts {
            assert!(got.contains(part), "{part:?} in {name}");
        }
        let names: Vec<String> = manifest(f).into_keys().collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }
    assert_eq!(manifest(a), manifest(b));
}

#[test]
fn a_new_file_renamed_over_another_is_a_save_of_it() {
    // Small and large files; the commit falls before, between or after.
    for (count, between) in [(40, false), (40, true), (40_000, false), (40_000, true)] {
        let (da, db) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (a, b) = (volume(da.path(), 1), volume(db.path(), 2));
        let (fa, fb) = (fs(&a), fs(&b));
        let text = lines(count);
        put(&fa, "text", &text);
        sync(&a, &b);
        put(&fb, ".text.tmp", &text.replace("line 3\n", "LINE 3\n"));
        if between {
            b.flush_all().unwrap();
        }
        rename(&fb, ".text.tmp", "text");
        put(&fa, "text", &text.replace("line 33\n", "LINE 33\n"));
        sync(&a, &b);
        both_have(&fa, &fb, "text", &["LINE 3\n", "LINE 33\n"]);
        // And again, at once, as an editor does that is used: of the file that came of it.
        for round in 0..3 {
            let now = get(&fb, "text");
            let (old, new) = (format!("line {}\n", 10 + round), format!("B {round}\n"));
            put(&fb, ".text.tmp", &now.replace(&old, &new));
            rename(&fb, ".text.tmp", "text");
            let (old, new) = (format!("line {}\n", 20 + round), format!("A {round}\n"));
            put(&fa, "text", &get(&fa, "text").replace(&old, &new));
            sync(&a, &b);
            both_have(
                &fa,
                &fb,
                "text",
                &[&format!("A {round}\n"), &format!("B {round}\n")],
            );
        }
        a.stop().unwrap();
        b.stop().unwrap();
    }
}

#[test]
fn a_file_made_again_where_one_was_removed_can_be_removed_again() {
    for commits in 0..16 {
        let dir = tempfile::tempdir().unwrap();
        let v = volume(dir.path(), 1);
        let f = fs(&v);
        let maybe_commit = |n: u32| {
            if commits & (1 << n) != 0 {
                v.commit_now().unwrap();
            }
        };
        put(&f, "f", "one");
        maybe_commit(0);
        f.unlink(ROOT_INO, b"f").unwrap();
        maybe_commit(1);
        put(&f, "f", "two");
        maybe_commit(2);
        f.unlink(ROOT_INO, b"f").unwrap();
        maybe_commit(3);
        v.flush_all().unwrap();
        assert_eq!(manifest(&f), BTreeMap::new(), "commits {commits:b}");
        v.stop().unwrap();
    }
}

#[test]
fn what_is_written_to_a_file_moved_aside_survives_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let v = volume(dir.path(), 1);
    let f = fs(&v);
    put(&f, "f", "one");
    v.flush_all().unwrap();
    rename(&f, "f", "f~");
    put(&f, "f", "two");
    let aside = walk(&f, "f~");
    f.open(aside, true, false).unwrap();
    f.write(aside, 1, b"N").unwrap();
    f.fsync(aside).unwrap();
    drop(f);
    let v = crash(&v, dir.path(), 1);
    let f = fs(&v);
    assert_eq!((get(&f, "f~"), get(&f, "f")), ("oNe".into(), "two".into()));
    v.stop().unwrap();
}

#[test]
fn a_save_survives_a_crash_with_its_mode_and_its_bytes() {
    for count in [40, 40_000] {
        let dir = tempfile::tempdir().unwrap();
        let v = volume(dir.path(), 1);
        let f = fs(&v);
        put(&f, "text", "old");
        v.flush_all().unwrap();
        let text = lines(count);
        put(&f, "tmp", &text);
        let mode = SetAttr {
            mode: Some(0o640),
            ..SetAttr::default()
        };
        f.setattr(walk(&f, "tmp"), mode).unwrap();
        rename(&f, "tmp", "text");
        let ino = walk(&f, "text");
        f.fsync(ino).unwrap();
        let before = manifest(&f);
        assert_eq!(f.getattr(ino).unwrap().attr.mode, 0o640);
        drop(f);
        let v = crash(&v, dir.path(), 1);
        let f = fs(&v);
        assert!(get(&f, "text") == text, "{} lines", count);
        let (now, then) = (&manifest(&f)["/text"], &before["/text"]);
        assert_eq!((now.0, now.1), (then.0, then.1));
        v.stop().unwrap();
    }
}

#[test]
fn who_has_the_new_file_open_goes_on_writing_to_the_saved_one() {
    let dir = tempfile::tempdir().unwrap();
    let v = volume(dir.path(), 1);
    let f = fs(&v);
    put(&f, "text", "old");
    v.flush_all().unwrap();
    let reader = walk(&f, "text");
    f.open(reader, false, false).unwrap();
    put(&f, "tmp", "new");
    let ino = walk(&f, "tmp");
    f.open(ino, true, false).unwrap();
    rename(&f, "tmp", "text");
    f.write(ino, 3, b" and more").unwrap();
    v.flush_all().unwrap();
    f.write(ino, 12, b"!").unwrap();
    f.release(ino, true);
    v.flush_all().unwrap();
    assert_eq!(get(&f, "text"), "new and more!");
    assert_eq!(walk(&f, "text"), ino);
    // Who has the old one open keeps it.
    assert_eq!(f.read(reader, 0, 100).unwrap(), b"old");
    v.stop().unwrap();
}

#[test]
fn a_file_moved_aside_or_removed_and_made_again_is_the_file_that_it_was() {
    // Commits fall between any of the steps, and the backup stays or goes.
    for mask in 0..32_u32 {
        let (da, db) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (a, b) = (volume(da.path(), 1), volume(db.path(), 2));
        let (fa, fb) = (fs(&a), fs(&b));
        let text = lines(40);
        put(&fa, "text", &text);
        sync(&a, &b);
        let commit = |bit: u32| {
            if mask & (1 << bit) != 0 {
                b.flush_all().unwrap();
            }
        };
        let (aside, kept) = (mask & 8 != 0, mask & 16 != 0);
        if aside {
            rename(&fb, "text", "text~");
        } else {
            fb.unlink(ROOT_INO, b"text").unwrap();
        }
        commit(0);
        put(&fb, "text", &text.replace("line 3\n", "LINE 3\n"));
        commit(1);
        if aside && !kept {
            fb.unlink(ROOT_INO, b"text~").unwrap();
        }
        commit(2);
        put(&fa, "text", &text.replace("line 33\n", "LINE 33\n"));
        sync(&a, &b);
        if aside && kept {
            assert_eq!(get(&fa, "text~"), text, "{mask}");
            fa.unlink(ROOT_INO, b"text~").unwrap();
            sync(&a, &b);
        }
        eprintln!(
            "{mask} {:?} {:?}",
            manifest(&fa).into_keys().collect::<Vec<_>>(),
            manifest(&fb).into_keys().collect::<Vec<_>>()
        );
        both_have(&fa, &fb, "text", &["LINE 3\n", "LINE 33\n"]);
        a.stop().unwrap();
        b.stop().unwrap();
    }
}

#[test]
fn a_backup_and_a_new_file_survive_a_crash() {
    for between in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let v = volume(dir.path(), 1);
        let f = fs(&v);
        put(&f, "text", "old");
        v.flush_all().unwrap();
        rename(&f, "text", "text~");
        if between {
            v.flush_all().unwrap();
        }
        put(&f, "text", "new");
        f.fsync(walk(&f, "text")).unwrap();
        drop(f);
        let v = crash(&v, dir.path(), 1);
        let f = fs(&v);
        assert_eq!(
            (get(&f, "text"), get(&f, "text~")),
            ("new".into(), "old".into())
        );
        assert_eq!(manifest(&f).len(), 2);
        v.stop().unwrap();
    }
}

#[test]
fn an_edited_file_that_was_removed_made_again_and_removed_stays_gone() {
    let dir = tempfile::tempdir().unwrap();
    let v = volume(dir.path(), 1);
    let f = fs(&v);
    for text in ["first", "second"] {
        put(&f, "f", text);
        v.flush_all().unwrap();
    }
    f.unlink(ROOT_INO, b"f").unwrap();
    v.flush_all().unwrap();
    // Nothing is committed in between.
    let still = v.clone();
    let (began, go_on) = (std::sync::mpsc::channel(), std::sync::mpsc::channel::<()>());
    let held = std::thread::spawn(move || {
        still.while_still(move || {
            began.0.send(()).unwrap();
            go_on.1.recv().unwrap();
        })
    });
    began.1.recv().unwrap();
    put(&f, "f", "third");
    f.unlink(ROOT_INO, b"f").unwrap();
    go_on.0.send(()).unwrap();
    held.join().unwrap().unwrap();
    v.flush_all().unwrap();
    assert_eq!(manifest(&f).keys().collect::<Vec<_>>(), [""; 0]);
    v.stop().unwrap();
}

#[test]
fn a_save_of_the_bytes_that_were_there_before_the_last_one_is_a_change() {
    let dir = tempfile::tempdir().unwrap();
    let v = volume(dir.path(), 1);
    let f = fs(&v);
    put(&f, "f", "first");
    v.flush_all().unwrap();
    let save = |text: &str| {
        put(&f, "tmp", text);
        f.rename((ROOT_INO, b"tmp"), (ROOT_INO, b"f"), RenameMode::Replace)
            .unwrap();
    };
    // The commit of the other bytes is under way when these come, in some of the rounds.
    for round in 0..60 {
        save(&format!("second {round}"));
        std::thread::sleep(Duration::from_micros(100 * round));
        save("first");
        v.flush_all().unwrap();
        let ino = f.lookup(ROOT_INO, b"f").unwrap().unwrap().ino;
        let view = v.view();
        let name = crate::base::name::EntryName::new("f").unwrap();
        let dirs = [crate::base::id::FileId::ROOT];
        let shown = crate::merge::shown::lookup(v.source(&view), &view.state, &dirs, &name);
        let blob = shown.unwrap().unwrap().blob;
        assert_eq!(f.read(ino, 0, 100).unwrap(), b"first", "round {round}");
        assert_eq!(v.repo().size(&blob).unwrap(), 5, "round {round}");
    }
    v.stop().unwrap();
}

#[test]
fn a_copy_that_becomes_a_file_of_its_own_keeps_its_mode() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (a, b) = (volume(dirs[0].path(), 1), volume(dirs[1].path(), 2));
    let (fa, fb) = (fs(&a), fs(&b));
    put(&fa, "f", "one\n");
    let set = SetAttr {
        mode: Some(0o750),
        ..SetAttr::default()
    };
    fa.setattr(walk(&fa, "f"), set).unwrap();
    sync(&a, &b);
    put(&fa, "f", "here\n");
    put(&fb, "f", "there\n");
    sync(&a, &b);
    let copy = manifest(&fa).into_keys().find(|n| n.contains("conflict"));
    let copy = copy.unwrap().trim_start_matches('/').to_owned();
    fa.link(walk(&fa, &copy), ROOT_INO, b"linked").unwrap();
    let from = (ROOT_INO, copy.as_bytes());
    fa.rename(from, (ROOT_INO, b"moved"), RenameMode::NoReplace)
        .unwrap();
    sync(&a, &b);
    for f in [&fa, &fb] {
        for name in ["f", "moved", "linked"] {
            let stat = f.getattr(walk(f, name)).unwrap();
            assert_eq!(stat.attr.mode, 0o750, "{name}");
        }
    }
    a.stop().unwrap();
    b.stop().unwrap();
}

#[test]
fn a_file_that_was_removed_here_and_moved_there_is_not_what_is_made_at_its_name() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (a, b) = (volume(dirs[0].path(), 1), volume(dirs[1].path(), 2));
    let (fa, fb) = (fs(&a), fs(&b));
    put(&fa, "f", "old");
    sync(&a, &b);
    let (from, to) = ((ROOT_INO, b"f".as_slice()), (ROOT_INO, b"g".as_slice()));
    fb.rename(from, to, RenameMode::NoReplace).unwrap();
    fa.unlink(ROOT_INO, b"f").unwrap();
    sync(&a, &b);
    assert_eq!(get(&fa, "g"), "old");
    put(&fa, "f", "new");
    sync(&a, &b);
    for f in [&fa, &fb] {
        assert_eq!(manifest(f).into_keys().collect::<Vec<_>>(), ["/f", "/g"]);
        assert_eq!((get(f, "f"), get(f, "g")), ("new".into(), "old".into()));
    }
    a.stop().unwrap();
    b.stop().unwrap();
}

#[test]
fn a_file_that_was_removed_here_and_linked_there_is_not_what_is_made_at_its_name() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (a, b) = (volume(dirs[0].path(), 1), volume(dirs[1].path(), 2));
    let (fa, fb) = (fs(&a), fs(&b));
    put(&fa, "f", "old");
    sync(&a, &b);
    fb.link(walk(&fb, "f"), ROOT_INO, b"g").unwrap();
    fa.unlink(ROOT_INO, b"f").unwrap();
    sync(&a, &b);
    let names: Vec<String> = manifest(&fa).into_keys().collect();
    assert_eq!(names, ["/g"]);
    put(&fa, "f", "new");
    sync(&a, &b);
    for f in [&fa, &fb] {
        assert_eq!((get(f, "f"), get(f, "g")), ("new".into(), "old".into()));
        assert_eq!(f.getattr(walk(f, "g")).unwrap().nlink, 1);
    }
    a.stop().unwrap();
    b.stop().unwrap();
}
