//! What is derived from states, on random histories: git trees, differences, stock commits.

use std::collections::{BTreeMap, BTreeSet};

use super::history::{Disk, Flavour, History, disk_of};
use super::laws::for_all;
use super::world::World;
use crate::base::id::{BranchId, FileId, Oid};
use crate::base::name::EntryName;
use crate::base::stamp::{Hlc, Stamp};
use crate::merge::ahead::Ahead;
use crate::merge::diff::diff;
use crate::merge::project::project;
use crate::merge::shown::{Role, Shown};
use crate::merge::stock::{Stock, meant};
use crate::record::change::apply;
use crate::record::git_tree;
use crate::record::model::Kind;
use crate::record::state::State;

/// States of a history, some with several heads.
fn states(h: &mut History, sets: &[Vec<usize>]) -> Vec<State> {
    let mut out: Vec<State> = sets.iter().map(|s| h.world.state(s)).collect();
    for _ in 0..4 {
        let commit = h.rng.below(h.world.heads.len());
        out.push(h.world.state(&[commit]));
    }
    out
}

/// What a git tree holds, by path.
fn files(w: &World, tree: Oid) -> Disk {
    let mut out = Disk::new();
    let mut todo = vec![(String::new(), tree)];
    while let Some((path, tree)) = todo.pop() {
        for e in git_tree::read(&w.objs, &tree).expect("a tree") {
            let at = format!("{path}/{}", String::from_utf8_lossy(&e.name));
            if e.is_tree() {
                todo.push((at, e.id));
            } else {
                out.insert(at, w.text(&e.id));
            }
        }
    }
    out
}

#[test]
fn a_tree_made_from_another_is_the_tree_made_from_nothing() {
    for flavour in [Flavour::Drivers, Flavour::Links] {
        for_all(120, flavour, |h, sets, seed| {
            let states = states(h, sets);
            let w = &h.world;
            let mut trees = Vec::new();
            for state in &states {
                let tree = project(w.src(), None, state).expect("projects");
                let mut disk = disk_of(w, &w.tree(state));
                disk.retain(|_, text| text != "/");
                assert_eq!(files(w, tree), disk, "seed {seed}");
                trees.push(tree);
            }
            for (a, old) in states.iter().zip(&trees) {
                for (b, new) in states.iter().zip(&trees) {
                    let tree = project(w.src(), Some((a, *old)), b).expect("projects");
                    let (is, want) = (files(w, tree), files(w, *new));
                    assert!(
                        tree == *new,
                        "seed {seed}: {is:?} for {want:?} from {:?}\n{}",
                        files(w, *old),
                        w.notes.join("\n")
                    );
                }
            }
        });
    }
}

type Listing = BTreeMap<(FileId, EntryName), Shown>;

fn listing(w: &World, state: &State) -> Listing {
    let tree = w.tree(state);
    let entries = tree.into_values().map(|s| {
        let dir = s.parents.first().copied().unwrap_or(FileId::ROOT);
        ((dir, s.name.clone()), s)
    });
    entries.collect()
}

/// All ids of a directory in a state; none if this id does not stand for it there.
fn unified_if_placed(w: &World, state: &State, dir: FileId) -> Vec<FileId> {
    let record = state.record(w.src(), dir).expect("reads");
    if dir != FileId::ROOT && record.and_then(|r| r.place()).is_none() {
        return Vec::new();
    }
    let group = crate::merge::shown::unified(w.src(), state, dir).expect("reads");
    if group.first() == Some(&dir) {
        group
    } else {
        Vec::new()
    }
}

#[test]
fn differences_turn_one_listing_into_the_other() {
    for flavour in [Flavour::Drivers, Flavour::Links] {
        for_all(120, flavour, |h, sets, seed| {
            let states = states(h, sets);
            let w = &h.world;
            for a in &states {
                for b in &states {
                    let (before, after) = (listing(w, a), listing(w, b));
                    let mut patched = before.clone();
                    let all = diff(w.src(), a, b, &|_| true).expect("reads");
                    // Who knows few directories is told of those alone.
                    let some = |id: FileId| (id.n ^ seed).is_multiple_of(3);
                    let few = diff(w.src(), a, b, &some).expect("reads").names;
                    let want = all.names.iter().filter(|c| {
                        let groups = [a, b].map(|s| unified_if_placed(w, s, c.dir));
                        groups.iter().flatten().any(|d| some(*d))
                    });
                    assert!(few.iter().eq(want), "seed {seed}\n{}", w.notes.join("\n"));
                    for c in all.names {
                        let key = (c.dir, c.name.clone());
                        assert_eq!(before.get(&key), c.before.as_ref(), "seed {seed}");
                        assert_ne!(c.before, c.after, "seed {seed}");
                        patched.remove(&key);
                        patched.extend(c.after.map(|s| (key, s)));
                    }
                    assert!(patched == after, "seed {seed}\n{}", w.notes.join("\n"));
                }
            }
        });
    }
}

#[test]
fn a_stock_commit_is_shown_as_it_was_made() {
    let mut exact = 0;
    let mut all = 0;
    for flavour in [Flavour::Drivers, Flavour::Links] {
        for_all(120, flavour, |h, sets, seed| {
            let states = states(h, sets);
            let w = &h.world;
            let stamp = Stamp {
                hlc: Hlc(1 << 40),
                branch: BranchId(99),
                seq: 1,
            };
            for base in &states {
                for wanted in &states {
                    let stock = Stock {
                        base,
                        base_tree: project(w.src(), None, base).expect("projects"),
                        commit: base.ids,
                        tree: project(w.src(), None, wanted).expect("projects"),
                        now: base,
                        ahead: &Ahead::default(),
                    };
                    let meant = meant(w.src(), stock).expect("reads");
                    assert!(meant.refused.is_empty());
                    let state = apply(w.src(), w, base, stamp, &meant.changes).expect("applies");
                    let tree = project(w.src(), None, &state).expect("projects");
                    all += 1;
                    exact += usize::from(tree == stock.tree);
                    let (made, wanted_files) = (files(w, tree), files(w, stock.tree));
                    let copies = w.tree(base).values().any(|s| s.role != Role::Main);
                    // Other attributes merge anew what several versions are shown as.
                    let rules = |tree| {
                        let rules = files(w, tree).into_iter();
                        let rules = rules.filter(|(path, _)| path.ends_with(".gitattributes"));
                        rules.collect::<Disk>()
                    };
                    let ruled = || rules(stock.base_tree) != rules(stock.tree);
                    assert!(
                        tree == stock.tree || copies || ruled(),
                        "seed {seed}: {made:?} for {wanted_files:?} on {:?}\n{:?}\n{}",
                        disk_of(w, &w.tree(base)),
                        meant.changes,
                        w.notes.join("\n")
                    );
                    // Whatever copies do to names, all bytes are there.
                    let texts = |d: &Disk| d.values().cloned().collect::<BTreeSet<String>>();
                    assert!(
                        ruled() || texts(&made).is_superset(&texts(&wanted_files)),
                        "seed {seed}: {made:?} for {wanted_files:?} on {:?}\n{:?}\n{}",
                        disk_of(w, &w.tree(base)),
                        meant.changes,
                        w.notes.join("\n")
                    );
                }
            }
        });
    }
    assert!(exact * 100 >= all * 95, "{exact} of {all}");
}

#[test]
fn trees_follow_modes_links_and_refused_names() {
    let mut w = World::default();
    let o = w.act(0, &[], 1, &["+/run=x", "+/.git=x", "^/d", "^/empty"]);
    let o = w.act(0, &[o], 2, &["+/d/git~1=y"]);
    let state = w.state(&[o]);
    let run = &w.tree(&state)["/run"];
    let mode = crate::record::change::SetField::SetMode(0o700);
    let changes = crate::merge::intent::set_fields(run, &[mode]);
    let c = w.commit(0, &[o], 3, "chmod", &changes);
    let tree = project(w.src(), None, &w.state(&[c])).expect("projects");
    let entries = git_tree::read(&w.objs, &tree).expect("a tree");
    let found: Vec<(String, u32)> = entries
        .iter()
        .map(|e| (String::from_utf8_lossy(&e.name).into_owned(), e.mode))
        .collect();
    let expected = [
        ("%2Egit", git_tree::FILE),
        ("d", git_tree::TREE),
        ("run", git_tree::EXECUTABLE),
    ];
    assert_eq!(found, expected.map(|(n, m)| (n.to_owned(), m)));
    assert!(files(&w, tree).contains_key("/d/%67it~1"));
    // What git sends back without a change means nothing.
    let base = w.state(&[c]);
    let stock = Stock {
        base: &base,
        base_tree: tree,
        commit: tree,
        tree,
        now: &base,
        ahead: &Ahead::default(),
    };
    assert_eq!(meant(w.src(), stock).expect("reads").changes, []);
    assert!(w.tree(&base).values().any(|s| s.kind == Kind::Dir));
}
