//! Cost follows what changed: counted in objects that are read and written, not in time.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::world::name;
use crate::base::id::{BranchId, FileId, Oid};
use crate::base::stamp::{Dot, Hlc, Stamp};
use crate::merge::diff::diff;
use crate::merge::join::{Head, join};
use crate::merge::project::project;
use crate::merge::shown::{list, lookup};
use crate::record::cache::Cache;
use crate::record::change::{Change, SetField, apply};
use crate::record::draft::{Dots, NoDots};
use crate::record::model::Kind;
use crate::record::state::State;
use crate::record::{Result, Source};
use crate::store::objects::{Memory, Object, ObjectError, ObjectKind, Objects};

/// Objects that count how often they are asked.
#[derive(Default)]
struct Counted {
    inner: Memory,
    reads: AtomicUsize,
    writes: AtomicUsize,
}

impl Counted {
    fn take(&self) -> (usize, usize) {
        let reads = self.reads.swap(0, Ordering::Relaxed);
        (reads, self.writes.swap(0, Ordering::Relaxed))
    }
}

impl Objects for Counted {
    fn find(&self, id: &Oid) -> std::result::Result<Option<Object>, ObjectError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.inner.find(id)
    }

    fn put(&self, kind: ObjectKind, data: Vec<u8>) -> std::result::Result<Oid, ObjectError> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.inner.put(kind, data)
    }
}

fn file(n: u64) -> FileId {
    FileId { branch: 5, n }
}

fn stamp(branch: u64, seq: u64) -> Stamp {
    Stamp {
        hlc: Hlc(seq << 20),
        branch: BranchId(branch),
        seq,
    }
}

/// Directories of ten files each.
fn births(objs: &dyn Objects, dirs: u64, each: u64) -> Vec<Change> {
    let blob = objs.put(ObjectKind::Blob, b"x".to_vec()).expect("memory");
    let null = Oid::null(gix::hash::Kind::Sha1);
    let mut out = Vec::new();
    for d in 0..dirs {
        let dir = file(d * (each + 1));
        let born = |id, parent, at: String, kind, blob| Change::Born {
            id,
            parent,
            name: name(&at),
            kind,
            blob,
        };
        out.push(born(dir, FileId::ROOT, format!("dir{d}"), Kind::Dir, null));
        for f in 1..=each {
            let id = file(d * (each + 1) + f);
            out.push(born(id, dir, format!("file{f}"), Kind::File, blob));
            out.push(Change::Field {
                id,
                field: SetField::SetMtime(1),
            });
        }
    }
    out
}

fn head(state: State, at: Stamp, seen: &[(u64, u64)]) -> Head {
    let mut commit = [0; 20];
    commit[0] = u8::try_from(at.branch.0).expect("small");
    Head {
        commit: Oid::from(commit),
        stamp: at,
        state,
        seen: seen.iter().map(|(b, s)| (BranchId(*b), *s)).collect(),
        carried: Vec::new(),
    }
}

struct Unasked;

impl Dots for Unasked {
    fn record_commit(&self, dot: Dot) -> Result<Option<Oid>> {
        panic!("nothing is missing that {dot:?} could tell")
    }
}

#[test]
fn one_change_on_each_side_of_many_files_opens_a_few_nodes() {
    let objs = Counted::default();
    let cache = Cache::default();
    let src = Source::new(&objs, &cache);
    let changes = births(&objs, 909, 10);
    let empty = State::empty(src).expect("memory");
    let base = apply(src, &NoDots, &empty, stamp(1, 1), &changes).expect("applies");
    objs.take();
    let tree = project(src, None, &base).expect("projects");
    let blob = objs.put(ObjectKind::Blob, b"y".to_vec()).expect("memory");
    let write = |n: u64, at: Stamp| {
        let change = Change::Write {
            id: file(n),
            base: vec![stamp(1, 1).dot()],
            kind: Kind::File,
            blob,
        };
        apply(src, &Unasked, &base, at, &[change]).expect("applies")
    };
    objs.take();
    let cold = Cache::default();
    let a = write(1, stamp(2, 2));
    let (_, writes) = objs.take();
    assert!(writes <= 12, "one write made {writes} objects");
    let b = write(5_000, stamp(3, 3));
    let heads = [
        head(a, stamp(2, 2), &[(1, 1), (2, 2)]),
        head(b, stamp(3, 3), &[(1, 1), (3, 3)]),
    ];
    objs.take();
    let src = Source::new(&objs, &cold);
    let joined = join(src, &Unasked, &heads).expect("joins");
    let (reads, writes) = objs.take();
    assert!(reads <= 40 && writes <= 12, "{reads} {writes}");
    objs.take();
    let next = project(src, Some((&base, tree)), &joined).expect("projects");
    let (reads, writes) = objs.take();
    assert!(reads <= 60 && writes <= 4, "{reads} {writes}");
    assert_ne!(tree, next);
    objs.take();
    let changed = diff(src, &base, &joined, &|_| true).expect("reads");
    assert_eq!(changed.names.len(), 2);
    let dir = [file(0)];
    objs.take();
    let src = Source::new(&objs, &cache);
    let found = lookup(src, &joined, &dir, &name("file3")).expect("reads");
    assert_eq!(found.map(|s| s.id()), Some(file(3)));
    assert_eq!(list(src, &joined, &dir).expect("reads").len(), 10);
    let (reads, _) = objs.take();
    assert!(reads <= 12, "{reads}");
}
