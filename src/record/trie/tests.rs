//! The trie is canonical, edits equal rebuilds, and diffs tell the truth.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, any, prop_oneof, proptest};
use proptest::strategy::{Just, Strategy};

use super::{Edit, Node, differing, edit, empty, get, load_root, visit};
use crate::base::id::{FileId, Oid};
use crate::base::name::EntryName;
use crate::record::cache::Cache;
use crate::record::model::Record;
use crate::record::state::{Placed, State};
use crate::record::trie::key::Key;
use crate::record::{Source, refs};
use crate::store::objects::{Memory, ObjectKind, Objects};

fn record(branch: u64, n: u64, mode: u32) -> Record {
    let mut r = Record::new(FileId { branch, n });
    r.fields.mode = Some(crate::record::model::Lww {
        stamp: crate::base::stamp::Stamp::default(),
        value: mode,
    });
    r
}

/// Ids in runs, apart, and apart in the last bits only.
fn ids() -> impl Strategy<Value = (u64, u64)> {
    let branch = prop_oneof![Just(0_u64), Just(7), Just(u64::MAX), any::<u64>()];
    let n = prop_oneof![0_u64..200, Just(u64::MAX), any::<u64>()];
    (branch, n)
}

fn build(src: Source<'_>, edits: Vec<Edit<Record>>) -> Oid {
    let root = empty::<Record>(src).expect("memory");
    edit(src, root, edits).expect("memory")
}

fn all(src: Source<'_>, root: Oid) -> Vec<Record> {
    let mut out = Vec::new();
    let any = Key::of_id(FileId::ROOT);
    visit(src, root, &any, 0, &mut |r: &Record| out.push(r.clone())).expect("memory");
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn equal_sets_of_entries_have_equal_ids_whatever_was_done_to_make_them(
        steps in vec(vec((ids(), 0_u32..3), 1..120), 1..8),
    ) {
        let (objs, cache) = (Memory::default(), Cache::default());
        let src = Source::new(&objs, &cache);
        let mut model: BTreeMap<FileId, Record> = BTreeMap::new();
        let mut root = empty::<Record>(src).expect("memory");
        let mut roots = vec![(root, model.clone())];
        for step in steps {
            let mut edits = Vec::new();
            for ((branch, n), what) in step {
                let r = record(branch, n, what);
                if what == 0 {
                    model.remove(&r.id);
                    edits.push(Edit::Remove(r.id));
                } else {
                    model.insert(r.id, r.clone());
                    edits.push(Edit::Put(r));
                }
            }
            root = edit(src, root, edits).expect("memory");
            roots.push((root, model.clone()));
        }
        let rebuilt = build(src, model.values().rev().cloned().map(Edit::Put).collect());
        assert_eq!(root, rebuilt);
        // A fresh cache: what was written reads as what was meant.
        let cache = Cache::default();
        let src = Source::new(&objs, &cache);
        assert_eq!(all(src, root), model.values().cloned().collect::<Vec<_>>());
        for (a, then) in &roots {
            let rows = differing::<Record>(src, &[*a, root]).expect("memory");
            let mut expected = Vec::new();
            let mut ids: Vec<FileId> = then.keys().chain(model.keys()).copied().collect();
            ids.sort_unstable();
            ids.dedup();
            for id in ids {
                let (x, y) = (then.get(&id).cloned(), model.get(&id).cloned());
                if x != y {
                    expected.push((id, vec![x, y]));
                }
            }
            assert_eq!(rows, expected);
        }
        let three: Vec<Oid> = roots.iter().map(|r| r.0).rev().take(3).collect();
        for (id, row) in differing::<Record>(src, &three).expect("memory") {
            for (root, seen) in three.iter().zip(row) {
                assert_eq!(get::<Record>(src, *root, &id).expect("memory"), seen);
            }
        }
    }

    #[test]
    fn removing_everything_leaves_the_empty_trie(
        some in vec(ids(), 1..300),
    ) {
        let (objs, cache) = (Memory::default(), Cache::default());
        let src = Source::new(&objs, &cache);
        let puts = some.iter().map(|(b, n)| Edit::Put(record(*b, *n, 1))).collect();
        let root = build(src, puts);
        let gone = some.iter().map(|(branch, n)| {
            Edit::<Record>::Remove(FileId { branch: *branch, n: *n })
        });
        let end = edit(src, root, gone).expect("memory");
        assert_eq!(end, empty::<Record>(src).expect("memory"));
    }
}

fn name(i: usize) -> EntryName {
    EntryName::new(format!("file-{i}")).expect("valid")
}

#[test]
fn a_listing_is_one_range_and_a_lookup_one_descent() {
    let (objs, cache) = (Memory::default(), Cache::default());
    let src = Source::new(&objs, &cache);
    let dir = |n| FileId { branch: 3, n };
    let mut edits = Vec::new();
    for i in 0..1000 {
        edits.push(Edit::Put(Placed {
            parent: dir(i as u64 % 3),
            name: name(i),
            id: FileId {
                branch: 4,
                n: i as u64,
            },
        }));
    }
    let names = edit(src, empty::<Placed>(src).expect("memory"), edits).expect("memory");
    let state = State {
        names,
        ids: empty::<Record>(src).expect("memory"),
        refs: refs::put(&objs, &refs::Refs::default()).expect("memory"),
    };
    assert_eq!(state.placed_in(src, dir(1)).expect("memory").len(), 333);
    assert_eq!(state.placed_in(src, dir(9)).expect("memory").len(), 0);
    let found = state.placed(src, dir(2), &name(500)).expect("memory");
    assert_eq!(found, [FileId { branch: 4, n: 500 }]);
    assert!(
        state
            .placed(src, dir(1), &name(500))
            .expect("memory")
            .is_empty()
    );
}

#[test]
fn more_edits_than_are_done_at_once_make_the_same_trie() {
    let (objs, cache) = (Memory::default(), Cache::default());
    let src = Source::new(&objs, &cache);
    let empty = empty::<Record>(src).expect("memory");
    let count = 40_000;
    let puts = (0..count).map(|n| Edit::Put(record(n % 7, n, 1)));
    let all = edit(src, empty, puts).expect("memory");
    let mut one_by_one = empty;
    for part in 0..8 {
        let puts = (part..count)
            .step_by(8)
            .map(|n| Edit::Put(record(n % 7, n, 1)));
        one_by_one = edit(src, one_by_one, puts).expect("memory");
    }
    assert_eq!(all, one_by_one);
    // Of several edits of one identity the last holds, wherever they are cut.
    let gone = (0..count).flat_map(|n| {
        let id = FileId { branch: n % 7, n };
        [Edit::Put(record(n % 7, n, 2)), Edit::Remove(id)]
    });
    assert_eq!(edit(src, all, gone).expect("memory"), empty);
}

#[test]
fn many_files_at_one_name_share_one_leaf() {
    let (objs, cache) = (Memory::default(), Cache::default());
    let src = Source::new(&objs, &cache);
    let at = |n| Placed {
        parent: FileId::ROOT,
        name: name(0),
        id: FileId { branch: 1, n },
    };
    let root = empty::<Placed>(src).expect("memory");
    let full = edit(src, root, (0..100).map(|n| Edit::Put(at(n)))).expect("memory");
    assert!(matches!(load_root::<Placed>(src, full), Ok(Node::Leaf(e)) if e.ids().len() == 100));
    let other = Placed {
        name: name(1),
        ..at(0)
    };
    let split = edit(src, full, vec![Edit::Put(other.clone())]).expect("memory");
    assert!(matches!(
        load_root::<Placed>(src, split),
        Ok(Node::Branch(_))
    ));
    let back = edit(src, split, vec![Edit::<Placed>::Remove(other)]).expect("memory");
    assert_eq!(back, full);
}

#[test]
fn foreign_bytes_are_refused_without_a_panic() {
    let (objs, cache) = (Memory::default(), Cache::default());
    let src = Source::new(&objs, &cache);
    let records: Vec<Edit<Record>> = (0..70).map(|n| Edit::Put(record(1, n * 999, 1))).collect();
    let root = build(src, records);
    let tree = objs.get(&root, ObjectKind::Tree).expect("a branch");
    let leaf = objs.put(ObjectKind::Blob, vec![9, 9, 9]).expect("memory");
    assert!(get::<Record>(src, leaf, &FileId::ROOT).is_err());
    for i in 0..tree.len() {
        let mut bytes = tree.to_vec();
        bytes[i] ^= 0x11;
        let id = objs.put(ObjectKind::Tree, bytes).expect("memory");
        // An error or a hole, but no panic.
        let _seen = get::<Record>(src, id, &FileId { branch: 1, n: 999 });
    }
}
