//! The laws on random histories. `CELLFS_HISTORIES` sets how many are tried; a failure names
//! its seed.

use std::collections::BTreeSet;

use super::history::{Disk, Flavour, History, disk_of};
use super::world::{World, name};
use crate::base::id::{FileId, Oid};
use crate::merge::join::join;
use crate::merge::shown::{Role, list, lookup};
use crate::record::conflict;
use crate::record::draft::mark;
use crate::record::model::{Kind, Record};
use crate::record::state::{CONTESTED, DISPLACED, Placed, State, listed};
use crate::record::trie::{self, Edit};

fn histories(default: u64) -> u64 {
    let set = std::env::var("CELLFS_HISTORIES").ok();
    set.and_then(|s| s.parse().ok()).unwrap_or(default)
}

/// Seeds of histories that broke a law once.
const FOUND: [u64; 8] = [
    118_277, 121_332, 200_012, 200_829, 408_345, 425_895, 710_383, 718_973,
];

/// Which histories are tried.
fn seeds(count: u64) -> Vec<u64> {
    let set = std::env::var("CELLFS_SEED").ok();
    match set.and_then(|s| s.parse::<u64>().ok()) {
        Some(first) => (first..first + histories(count)).collect(),
        None => (0..histories(count)).chain(FOUND).collect(),
    }
}

const ALL: [Flavour; 4] = [
    Flavour::Words,
    Flavour::Texts,
    Flavour::Drivers,
    Flavour::Links,
];

/// Tells which history broke a law, and how it went.
macro_rules! law {
    ($h:expr, $holds:expr, $($said:tt)+) => {
        if !$holds {
            panic!("{}\n{}", format!($($said)+), $h.world.notes.join("\n"));
        }
    };
}

pub(super) fn for_all(
    count: u64,
    flavour: impl Into<Flavour>,
    mut check: impl FnMut(&mut History, &[Vec<usize>], u64),
) {
    let flavour = flavour.into();
    for seed in seeds(count) {
        let mut h = History::random(seed, flavour);
        let all: BTreeSet<usize> = (0..h.world.heads.len()).collect();
        let mut sets = vec![h.world.maximal(&all)];
        for _ in 0..2 {
            let some = (0..2 + h.rng.below(3))
                .map(|_| h.rng.below(all.len()))
                .collect();
            sets.push(h.world.maximal(&some));
        }
        let sets: Vec<Vec<usize>> = sets.into_iter().map(|s| s.into_iter().collect()).collect();
        check(&mut h, &sets, seed);
    }
}

#[test]
fn order_repetition_and_ancestors_of_heads_do_not_matter() {
    for flavour in [Flavour::Words, Flavour::Drivers, Flavour::Links] {
        for_all(150, flavour, |h, sets, seed| {
            for set in sets {
                let w = &h.world;
                let state = w.state(set);
                let mut mixed = w.heads(set);
                mixed.reverse();
                let turn = h.rng.below(mixed.len());
                mixed.rotate_left(turn);
                mixed.extend(w.heads(&set[..1]));
                for head in set {
                    let below: Vec<usize> = w.ancestors[*head].iter().copied().collect();
                    mixed.extend(w.heads(&[h.rng.pick(&below).expect("itself at least")]));
                }
                let again = join(w.src(), w, &mixed).expect("joins");
                law!(h, again == state, "seed {seed} heads {set:?}");
            }
        });
    }
}

#[test]
fn a_seal_changes_nothing() {
    for texts in ALL {
        for_all(150, texts, |h, sets, seed| {
            for set in sets.iter().filter(|s| s.len() > 1) {
                let state = h.world.state(set);
                let sealed: Vec<usize> = set.iter().copied().filter(|_| h.rng.chance(60)).collect();
                if sealed.len() < 2 {
                    continue;
                }
                let time = h.time_after(&sealed);
                let mut heads: Vec<usize> = set.clone();
                heads.retain(|c| !sealed.contains(c));
                heads.push(h.world.seal(9, &sealed, time));
                let w = &h.world;
                let again = w.state(&heads);
                let (a, b) = (w.tree(&state), w.tree(&again));
                let (a, b) = (disk_of(w, &a), disk_of(w, &b));
                law!(
                    h,
                    a == b,
                    "seed {seed} {set:?} sealed {sealed:?}: {b:?} for {a:?}"
                );
                let same = differing(w, &state, &again);
                law!(
                    h,
                    same.is_empty(),
                    "seed {seed} {set:?} sealed {sealed:?}: {same:#?}"
                );
                law!(h, again.names == state.names, "seed {seed} names");
            }
        });
    }
}

fn differing(w: &World, a: &State, b: &State) -> Vec<(FileId, Vec<Option<Record>>)> {
    trie::differing::<Record>(w.src(), &[a.ids, b.ids]).expect("reads")
}

#[test]
fn no_write_is_lost_and_what_was_ended_stays_ended() {
    for flavour in [Flavour::Words, Flavour::Links] {
        let mut back = 0;
        for_all(200, flavour, |h, sets, seed| {
            for set in sets {
                let w = &h.world;
                let state = w.state(set);
                let mut shown: BTreeSet<Oid> = w.tree(&state).values().map(|s| s.blob).collect();
                // Bytes that went into a merged text are in it.
                for r in state.records(w.src()).expect("reads") {
                    let text = r.filled.text.as_ref();
                    let text = text.map(|t| t.versions.clone()).unwrap_or_default();
                    let within = r.content.iter().filter(|c| text.contains(&c.stamp.dot()));
                    shown.extend(within.map(|c| c.blob));
                    // Somebody unlinked each of the names, nobody the last one.
                    let hidden = r.place().is_none() || !r.filled.content.is_empty();
                    if hidden && r.filled.links == 0 {
                        let ended = r.content.iter().filter(|c| !c.gone_from.is_empty());
                        shown.extend(ended.map(|c| c.blob));
                    }
                }
                let past: BTreeSet<usize> = set
                    .iter()
                    .flat_map(|c| w.ancestors[*c].iter().copied())
                    .collect();
                let (mut strong, mut weak) = (BTreeSet::new(), BTreeSet::new());
                for c in &past {
                    for (id, blob, wrote) in &w.written[*c] {
                        let ended = past.iter().any(|k| {
                            k != c
                                && w.ancestors[*k].contains(c)
                                && w.ended[*k].contains(&(*id, *blob))
                        });
                        if !ended {
                            weak.insert(*blob);
                            if *wrote {
                                strong.insert(*blob);
                            }
                        }
                    }
                }
                let lost: Vec<String> = strong.difference(&shown).map(|b| w.text(b)).collect();
                law!(
                    h,
                    lost.is_empty(),
                    "seed {seed} heads {set:?} lost {lost:?}"
                );
                let null = Oid::null(gix::hash::Kind::Sha1);
                if shown.iter().any(|b| *b != null && !weak.contains(b)) {
                    back += 1;
                }
            }
        });
        // A move that outlives the bytes which it moved brings them back: rare, and nothing is lost.
        assert!(back <= histories(200) / 50 + 1, "{back} came back");
    }
}

/// Plain entries, and per plain name the texts beside it that differ from it.
fn outline(disk: &Disk) -> BTreeSet<(String, bool, String)> {
    let split = |path: &str| {
        let (dir, last) = path.rsplit_once('/').expect("absolute");
        conflict::parse(&name(last))
            .map(|(plain, _)| format!("{dir}/{}", String::from_utf8_lossy(&plain)))
    };
    disk.iter()
        .filter_map(|(path, text)| match split(path) {
            None => Some((path.clone(), true, text.clone())),
            Some(plain) if disk.get(&plain) == Some(text) => None,
            Some(plain) => Some((plain, false, text.clone())),
        })
        .collect()
}

#[test]
fn an_author_sees_what_he_did() {
    for texts in [false, true] {
        for_all(200, texts, |h, _, seed| {
            for (commit, disk) in &h.expected {
                let seen = h.world.disk(&[*commit]);
                let (a, b) = (outline(&seen), outline(disk));
                law!(
                    h,
                    a == b,
                    "seed {seed} c{commit}: unexpected {:?}, missing {:?}",
                    a.difference(&b).collect::<Vec<_>>(),
                    b.difference(&a).collect::<Vec<_>>()
                );
            }
        });
    }
}

#[test]
fn work_elsewhere_changes_nothing_here() {
    for texts in [false, true] {
        for_all(150, texts, |h, sets, seed| {
            for set in sets {
                let before = h.world.disk(set);
                let on: Vec<usize> = set.iter().copied().filter(|_| h.rng.chance(60)).collect();
                for on in [set.clone(), on] {
                    if on.is_empty() {
                        continue;
                    }
                    let time = h.time_after(&on);
                    let own = h.world.act(9, &on, time, &["+/zz=zz"]);
                    let mut heads = set.clone();
                    heads.retain(|c| !on.contains(c));
                    heads.push(own);
                    let mut after = h.world.disk(&heads);
                    after.remove("/zz");
                    law!(
                        h,
                        after == before,
                        "seed {seed} heads {set:?} on {on:?}: {before:?} {after:?}"
                    );
                }
            }
        });
    }
}

#[test]
fn states_are_whole() {
    for flavour in [Flavour::Drivers, Flavour::Links] {
        for_all(200, flavour, |h, sets, seed| {
            let commits = (0..h.world.heads.len()).map(|c| vec![c]);
            for set in commits.chain(sets.iter().cloned()) {
                let w = &h.world;
                let state = w.state(&set);
                let records = state.records(w.src()).expect("reads");
                law!(
                    h,
                    state.names == rebuilt_names(w, &state, &records),
                    "seed {seed} {set:?}"
                );
                let tree = w.tree(&state);
                let shown: BTreeSet<FileId> = tree
                    .values()
                    .flat_map(|s| s.versions.iter().map(|v| v.id))
                    .collect();
                let names = tree.values().flat_map(|s| s.link.iter().map(|l| l.id));
                let shown: BTreeSet<FileId> = shown.into_iter().chain(names).collect();
                for r in &records {
                    let unlinked = r.place().is_none() && r.filled.links == 0;
                    let is_shown = shown.contains(&r.id) || unlinked && flavour == Flavour::Links;
                    law!(h, is_shown, "seed {seed} {set:?} hides {r:?}");
                }
                // Every entry is found by its name, and nothing else is.
                for (path, s) in &tree {
                    let found = lookup(w.src(), &state, &s.parents, &s.name).expect("reads");
                    law!(
                        h,
                        found.as_ref() == Some(s),
                        "seed {seed} {set:?} {path}: {found:?}"
                    );
                }
                for other in [
                    "nothing",
                    "p.conflict-00000000",
                    "p.conflict-0000000000000000",
                ] {
                    let found = lookup(w.src(), &state, &[FileId::ROOT], &name(other));
                    law!(
                        h,
                        found.expect("reads").is_none(),
                        "seed {seed} {set:?} {other}"
                    );
                }
            }
        });
    }
}

fn rebuilt_names(w: &World, state: &State, records: &[Record]) -> Oid {
    let mut edits: Vec<Edit<Placed>> = records
        .iter()
        .filter_map(Record::place)
        .map(Edit::Put)
        .collect();
    for id in listed(w.src(), state, DISPLACED).expect("reads") {
        edits.push(Edit::Put(mark(DISPLACED, id)));
    }
    edits.extend(records.iter().filter_map(Record::link_entry).map(Edit::Put));
    let contested = records.iter().filter(|r| r.is_contested());
    edits.extend(contested.map(|r| Edit::Put(mark(CONTESTED, r.id))));
    let empty = trie::empty::<Placed>(w.src()).expect("memory");
    trie::edit(w.src(), empty, edits).expect("memory")
}

#[test]
fn directories_hold_names_of_their_own() {
    // A listing never shows two entries of one name, whatever collided.
    for_all(50, false, |h, sets, seed| {
        for set in sets {
            let w = &h.world;
            let state = w.state(set);
            for s in w.tree(&state).values().filter(|s| s.kind == Kind::Dir) {
                let all = list(w.src(), &state, &s.dirs).expect("lists");
                law!(
                    h,
                    all.is_sorted_by(|a, b| a.name < b.name),
                    "seed {seed} {set:?}"
                );
            }
        }
    });
}

#[test]
fn the_histories_are_hard_enough() {
    // The laws above say little if nothing ever collides.
    let (mut copies, mut merged, mut standing_in, mut fallen_back) = (0, 0, 0, 0);
    for texts in [false, true] {
        for_all(200, texts, |h, sets, _| {
            let w = &h.world;
            for set in sets {
                let state = w.state(set);
                let tree = w.tree(&state);
                copies += usize::from(tree.values().any(|s| s.role != Role::Main));
                merged += usize::from(tree.values().any(|s| s.merged));
                let records = state.records(w.src()).expect("reads");
                standing_in += usize::from(records.iter().any(|r| !r.has_dots()));
                let moved = listed(w.src(), &state, DISPLACED).expect("reads");
                fallen_back += usize::from(!moved.is_empty());
            }
        });
    }
    let count = usize::try_from(histories(200)).expect("small");
    let all = [copies, merged, standing_in, fallen_back];
    assert!(
        copies > count / 4 && merged > count / 20 && standing_in > count / 20,
        "{all:?}"
    );
    assert!(fallen_back > 0, "{all:?}");
}
