//! Content that came ahead of its records.

use super::world::World;
use crate::base::id::Oid;
use crate::record::commit::{Carried, join_carried};

/// `/p=v1` in one commit; `/p=v1 and more` in another, which knows the first by content alone.
fn bridged(claim: Oid) -> (World, usize, usize) {
    let mut w = World::default();
    let o = w.act(0, &[], 1, &["+/p=O", "^/d"]);
    w.content = Some(Oid::from([7; 20]));
    let a = w.act(1, &[o], 3, &["=/p=v1", "^/e"]);
    w.content = None;
    let b = w.act(2, &[o], 4, &["=/p=v1 and more"]);
    w.heads[b].carried = vec![Carried {
        dot: w.heads[a].stamp.dot(),
        content: claim,
    }];
    (w, a, b)
}

#[test]
fn what_came_ahead_is_not_there_twice_and_directories_are_not_ended_by_it() {
    let (w, a, b) = bridged(Oid::from([7; 20]));
    for heads in [[a, b], [b, a]] {
        let disk = w.disk(&heads);
        assert_eq!(disk["/p"], "v1 and more");
        let paths: Vec<&str> = disk.keys().map(String::as_str).collect();
        assert_eq!(paths, ["/d", "/e", "/p"]);
    }
}

#[test]
fn a_claim_that_no_record_confirms_ends_nothing() {
    let (w, a, b) = bridged(Oid::from([8; 20]));
    let disk = w.disk(&[a, b]);
    assert!(disk.values().any(|t| t == "v1"), "{disk:?}");
    assert!(disk.values().any(|t| t == "v1 and more"), "{disk:?}");
}

#[test]
fn what_is_seen_is_carried_no_more() {
    let (w, a, b) = bridged(Oid::from([7; 20]));
    let list = w.heads[b].carried.clone();
    let both = [list.as_slice(), &list];
    assert_eq!(join_carried(both, &w.heads[b].seen), list);
    assert_eq!(join_carried(both, &w.heads[a].seen), []);
}
