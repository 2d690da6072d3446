//! The past of volumes without a kernel: what times mean, what comes back, what merges make.

use super::*;
use crate::base::clock;
use crate::base::path::VolumePath;
use crate::fs::now_of;
use crate::history::resolve::Take;
use crate::history::{History, HistoryError};
use crate::record::change::Change;
use crate::store::objects::{ObjectKind, Objects};
use crate::volume::Amendment;

fn history(v: &Volume) -> History {
    History::new(v.repo().clone())
}

fn path(p: &str) -> VolumePath {
    VolumePath::new(p.as_bytes()).unwrap()
}

fn amend(
    v: &Volume,
    make: impl FnOnce(
        &History,
        &crate::history::Now,
        &mut dyn FnMut() -> crate::base::id::FileId,
        &mut dyn FnMut(&Oid, Arc<Vec<u8>>) -> crate::history::Result<()>,
    ) -> crate::history::Result<Vec<Change>>
    + Send
    + 'static,
) -> crate::history::Result<Option<Oid>> {
    let h = history(v);
    let made = v.amend(move |view, stage, mint| {
        let mut keep = |_: &Oid, bytes: Arc<Vec<u8>>| {
            stage.put(ObjectKind::Blob, bytes.as_ref().clone())?;
            Ok(())
        };
        let changes = make(&h, &now_of(view), mint, &mut keep)?;
        Ok(Amendment {
            changes,
            message: "m".to_owned(),
            told: (),
        })
    });
    made.unwrap().map(|(_, commit)| commit)
}

pub(super) fn restore(v: &Volume, p: &str, at: &str) -> crate::history::Result<Option<Oid>> {
    let (p, at) = (path(p), at.to_owned());
    let past = history(v).at(&now_of(&v.view()), &at)?;
    amend(v, move |h, now, mint, keep| {
        Ok(h.restore(now, &p, (&past, &at), mint, keep)?.changes)
    })
}

pub(super) fn resolve(v: &Volume, p: &str, take: Take) -> crate::history::Result<Option<Oid>> {
    let p = path(p);
    amend(v, move |h, now, _, keep| h.resolve(now, &p, &take, keep))
}

/// The head, once all that was written is in it.
pub(super) fn head(v: &Volume) -> String {
    v.flush_all().unwrap();
    v.view().heads[0].id.to_string()
}

fn bytes_at(v: &Volume, spec: &str, p: &str) -> Option<String> {
    let past = history(v).at(&now_of(&v.view()), spec).unwrap();
    let e = past.find(&path(p)).unwrap()?;
    let bytes = past.bytes(&e.blob).unwrap();
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// All nodes learn what all others wrote.
fn meet(all: &[&Arc<Volume>]) {
    for _ in 0..2 {
        for a in all {
            a.flush_all().unwrap();
            for b in all.iter().filter(|b| !Arc::ptr_eq(a, b)) {
                pull(a, b);
            }
        }
    }
}

fn several<const N: usize>(dir: &Path) -> [Arc<Volume>; N] {
    std::array::from_fn(|n| {
        let n = u8::try_from(n + 1).unwrap();
        volume(&dir.join(n.to_string()), n)
    })
}

fn moment() -> String {
    std::thread::sleep(Duration::from_millis(20));
    let ms = i64::try_from(clock::now_ms()).unwrap();
    let text = crate::base::calendar::show(ms / 1000);
    std::thread::sleep(Duration::from_millis(20));
    format!("{}.{:03}Z", text.trim_end_matches('Z'), ms % 1000)
}

#[test]
fn a_commit_means_one_state_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let [a] = several::<1>(dir.path());
    let fa = fs(&a);
    put(&fa, "f", "1");
    let first = head(&a);
    let view = a.view().commit.unwrap().to_string();
    let mode = SetAttr {
        mode: Some(0o640),
        ..SetAttr::default()
    };
    fa.setattr(walk(&fa, "f"), mode).unwrap();
    let second = head(&a);
    assert_eq!(
        a.view().commit.unwrap().to_string(),
        view,
        "git sees no change"
    );
    let mode_at = |spec: &str| {
        let past = history(&a).at(&now_of(&a.view()), spec).unwrap();
        past.find(&path("f")).unwrap().unwrap().mode
    };
    for _ in 0..2 {
        assert_eq!(mode_at(&first), 0o644);
        assert_eq!(mode_at(&view), 0o644);
        assert_eq!(mode_at(&second), 0o640);
        put(&fa, "g", "2");
        a.flush_all().unwrap();
    }
}

#[test]
fn a_time_means_what_all_had_written_by_then() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b] = several::<2>(dir.path());
    let (fa, fb) = (fs(&a), fs(&b));
    let early = moment();
    put(&fa, "f", "1");
    a.flush_all().unwrap();
    let one = moment();
    put(&fb, "g", "2");
    b.flush_all().unwrap();
    let two = moment();
    put(&fa, "f", "3");
    a.flush_all().unwrap();
    // What b wrote while a did not know of it belongs to the time when it was written.
    assert_eq!(bytes_at(&a, &two, "g"), None);
    meet(&[&a, &b]);
    put(&fb, "f", "4");
    meet(&[&a, &b]);
    for v in [&a, &b] {
        assert_eq!(bytes_at(v, &one, "f").as_deref(), Some("1"));
        assert_eq!(bytes_at(v, &one, "g"), None);
        assert_eq!(bytes_at(v, &two, "g").as_deref(), Some("2"));
        assert_eq!(bytes_at(v, &two, "f").as_deref(), Some("1"));
        assert_eq!(bytes_at(v, "0s", "f").as_deref(), Some("4"));
        let before = history(v).at(&now_of(&v.view()), &early);
        assert!(
            matches!(before, Err(HistoryError::BeforeFirst { .. })),
            "{before:?}"
        );
        let key = |spec: &str| history(v).at(&now_of(&v.view()), spec).unwrap().key();
        assert_eq!(key(&two), key(&two));
        assert_ne!(key(&one), key(&two));
    }
    let key = |v: &Volume| history(v).at(&now_of(&v.view()), &two).unwrap().key();
    assert_eq!(key(&a), key(&b));
    let empty = volume(&dir.path().join("empty"), 9);
    let none = history(&empty).at(&now_of(&empty.view()), "1h");
    assert!(matches!(none, Err(HistoryError::Empty)), "{none:?}");
}

#[test]
fn what_was_is_restored_whatever_happened_since() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b] = several::<2>(dir.path());
    let f = fs(&a);
    let mut seed = 7u64;
    let mut random = |n: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % n
    };
    let top = f.mkdir(ROOT_INO, b"d", 0o755, ME).unwrap().ino;
    put(&f, "d/0", "first");
    let names = ["0", "1", "2", "x", "y"];
    let mut commits = Vec::new();
    // Directories two deep, in which everything moves about.
    for round in 0..60 {
        for _ in 0..5 {
            let all: Vec<(Ino, String)> = std::iter::once((top, "d".to_owned()))
                .chain(f.list(top).unwrap().into_iter().filter_map(|e| {
                    let s = f.lookup_entry(top, &e).unwrap()?;
                    (s.kind == Kind::Dir).then(|| (s.ino, format!("d/{}", e.name)))
                }))
                .collect();
            let pick = |r: u64| &all[usize::try_from(r).unwrap() % all.len()];
            let (dir, to) = (pick(random(97)).clone(), pick(random(89)).clone());
            let name = names[usize::try_from(random(5)).unwrap()];
            let other = names[usize::try_from(random(5)).unwrap()];
            let there = f.lookup(dir.0, name.as_bytes()).unwrap();
            match (random(6), there) {
                (0, None) if dir.0 == top => drop(f.mkdir(dir.0, name.as_bytes(), 0o750, ME)),
                (0 | 1, None) => put(&f, &format!("{}/{name}", dir.1), &format!("{round} {name}")),
                (1, Some(s)) if s.kind == Kind::File => {
                    put(&f, &format!("{}/{name}", dir.1), &format!("{round} again"));
                }
                (2, Some(s)) if s.kind == Kind::File => f.unlink(dir.0, name.as_bytes()).unwrap(),
                (2, Some(_)) => drop(f.rmdir(dir.0, name.as_bytes())),
                (3, Some(s)) => {
                    let set = SetAttr {
                        mode: Some(if random(2) == 0 { 0o700 } else { 0o711 }),
                        ..SetAttr::default()
                    };
                    f.setattr(s.ino, set).unwrap();
                }
                (_, Some(s)) if s.kind == Kind::File || to.0 == top => {
                    let (from, to) = ((dir.0, name.as_bytes()), (to.0, other.as_bytes()));
                    drop(f.rename(from, to, RenameMode::NoReplace));
                }
                _ => {}
            }
        }
        let id = head(&a);
        // Times of directories are those of then, but for what the restore itself puts there.
        let facts = |f: &Fs| {
            let all = manifest(f).into_iter();
            all.map(|(p, (k, m, _, b))| (p, (k, m, b)))
                .collect::<BTreeMap<_, _>>()
        };
        commits.push((id, facts(&f)));
        if round % 3 == 2 {
            let back = usize::try_from(random(commits.len() as u64)).unwrap();
            let (id, was) = &commits[back];
            let done = restore(&a, if random(2) == 0 { "d" } else { "" }, id);
            done.unwrap_or_else(|e| panic!("round {round}, {id}: {e}"));
            assert_eq!(facts(&f), *was, "round {round}");
            assert!(
                restore(&a, "d", id).unwrap().is_none(),
                "again in round {round}"
            );
        }
    }
    for (id, was) in &commits {
        let past = history(&a).at(&now_of(&a.view()), id).unwrap();
        for (p, (kind, mode, bytes)) in was {
            let e = past.find(&path(p)).unwrap().expect(p);
            assert_eq!((e.kind, e.mode), (*kind, *mode), "{p}");
            if e.kind == Kind::File {
                assert_eq!(*past.bytes(&e.blob).unwrap(), *bytes, "{p}");
            }
        }
    }
    meet(&[&a, &b]);
    assert_eq!(manifest(&fs(&b)), manifest(&f));
    fsck(&a);
}

#[test]
fn three_who_wrote_at_once_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let all = several::<3>(dir.path());
    let [a, b, c] = &all;
    put(&fs(a), "f", "base");
    put(&fs(a), "t", "1\n2\n3\n4\n5\n6\n7\n");
    meet(&[a, b, c]);
    for (n, v) in all.iter().enumerate() {
        put(&fs(v), "f", &format!("by {n}"));
        let text =
            "1\n2\n3\n4\n5\n6\n7\n".replace(&format!("{}\n", 3 * n + 1), &format!("by {n}\n"));
        put(&fs(v), "t", &text);
        fs(v).mkdir(ROOT_INO, b"dir", 0o755, ME).unwrap();
        put(&fs(v), &format!("dir/{n}"), "x");
        put(&fs(v), "dir/same", &format!("new {n}"));
        v.flush_all().unwrap();
    }
    meet(&[a, b, c]);
    for v in &all {
        assert_eq!(get(&fs(v), "t"), "by 0\n2\n3\nby 1\n5\n6\nby 2\n");
        let h = history(v);
        let now = now_of(&v.view());
        let found = h.conflicts(&now).unwrap();
        let paths: Vec<String> = found.iter().map(|c| c.path.to_string()).collect();
        assert_eq!(paths, ["dir/same", "f"]);
        for c in found.iter() {
            assert_eq!(c.copies.len(), 2);
            let who = c.main.iter().chain(&c.copies).map(|v| v.name.as_str());
            assert_eq!(who.collect::<std::collections::BTreeSet<_>>().len(), 3);
        }
        let merges = h.merges(&now, "cell", 100).unwrap();
        let told: std::collections::BTreeSet<_> = merges
            .merges
            .iter()
            .filter(|m| m.sides.len() == 3)
            .map(|m| (m.what, m.path.to_string()))
            .collect();
        let expected = [
            ("copy", "dir/same"),
            ("copy", "f"),
            ("directory", "dir"),
            ("text", "t"),
        ];
        let expected = expected.map(|(w, p)| (w, p.to_owned()));
        assert_eq!(told, expected.into());
    }
    let copy = history(b).conflicts(&now_of(&b.view())).unwrap()[1].copies[1]
        .path
        .clone();
    let name = copy.names().pop().unwrap();
    let bytes = get(&fs(b), &copy.to_string());
    resolve(b, "f", Take::Copy(name)).unwrap();
    resolve(c, "dir/same", Take::Main).unwrap();
    meet(&[a, b, c]);
    for v in &all {
        assert_eq!(get(&fs(v), "f"), bytes);
        assert!(history(v).conflicts(&now_of(&v.view())).unwrap().is_empty());
        assert_eq!(fs(v).list(ROOT_INO).unwrap().len(), 3);
    }
    let settled = resolve(a, "f", Take::Main);
    assert!(
        matches!(settled, Err(HistoryError::NoConflict(_))),
        "{settled:?}"
    );
}

#[test]
fn merged_texts_have_no_conflict_markers() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b] = several::<2>(dir.path());
    let mut seed = 3u64;
    let mut random = |n: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from((seed >> 33) % n).unwrap()
    };
    let mut merged = 0;
    for round in 0..40 {
        let name = format!("f{round}");
        let base: Vec<String> = (0..12).map(|i| format!("line {i}")).collect();
        put(&fs(&a), &name, &(base.join("\n") + "\n"));
        meet(&[&a, &b]);
        for (n, v) in [&a, &b].into_iter().enumerate() {
            let mut lines = base.clone();
            for _ in 0..=random(2) {
                let at = random(lines.len() as u64);
                match random(3) {
                    0 => drop(lines.remove(at)),
                    1 => lines.insert(at, format!("new of {n}")),
                    _ => lines[at] = format!("by {n}"),
                }
            }
            put(&fs(v), &name, &(lines.join("\n") + "\n"));
        }
        meet(&[&a, &b]);
        assert_eq!(manifest(&fs(&a)), manifest(&fs(&b)));
        let all = fs(&a).list(ROOT_INO).unwrap();
        let own = all.iter().filter(|e| e.name.to_string().starts_with(&name));
        merged += usize::from(own.count() == 1);
        for e in all {
            let text = get(&fs(&a), &e.name.to_string());
            for line in text.lines() {
                for mark in ["<<<<<<<", "=======", ">>>>>>>", "|||||||"] {
                    assert!(!line.starts_with(mark), "round {round}: {text}");
                }
            }
        }
    }
    assert!((5..40).contains(&merged), "{merged} of 40 were merged");
}
