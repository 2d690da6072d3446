//! What two people who did not know of each other get: each case by name, with all that is
//! shown afterwards, byte for byte and name for name.
//!
//! Each outcome holds in whatever order the heads come together, at once or by way of seals, and
//! git's tree of it holds the same bytes. `W` is the later of two: (hybrid clock, branch, seq).

mod attributes;
mod content;
mod copies;
mod directories;
mod names;

use std::collections::BTreeSet;

use super::world::World;
use crate::base::id::{FileId, Oid};
use crate::merge::join::join;
use crate::merge::project::project;
use crate::merge::shown::{Role, Shown, lookup};
use crate::record::git_tree;
use crate::record::model::Kind;
use crate::record::state::State;

/// A history of one commit.
fn start(acts: &[&str]) -> (World, usize) {
    let mut w = World::default();
    let o = w.act(0, &[], 1, acts);
    (w, o)
}

/// A line for each entry: `path = bytes`, `path -> target`, `path/`; of a copy also what it is
/// a copy of.
fn listing(w: &World, state: &State) -> Vec<String> {
    let tree = w.tree(state);
    let line = |(path, s): (&String, &Shown)| {
        let what = match s.kind {
            Kind::Dir => "/".to_owned(),
            Kind::Symlink => format!(" -> {}", w.text(&s.blob)),
            _ => format!(" = {}", w.text(&s.blob)),
        };
        match &s.role {
            Role::Main => format!("{path}{what}"),
            Role::Copy { of } => format!("{path}{what}, copy of {of}"),
        }
    };
    tree.iter().map(line).collect()
}

/// Whoever has these heads shows exactly this.
fn shows(w: &mut World, heads: &[usize], expected: &[&str]) {
    let state = w.state(heads);
    let story = w.notes.join("\n");
    assert_eq!(listing(w, &state), expected, "\n{story}");
    for order in orders(heads) {
        let mixed = w.heads(&order);
        let again = join(w.src(), w, &mixed).expect("joins");
        assert_eq!(again, state, "in the order {order:?}\n{story}");
    }
    assert_found(w, &state);
    assert_in_git(w, &state);
    // By way of a seal of some of them, in one step or in several.
    for order in orders(heads) {
        let mut sealed = order[0];
        for (n, next) in order.iter().enumerate().skip(1) {
            let parents = [sealed, *next];
            let latest = parents.map(|p| w.heads[p].stamp.hlc.0 >> 16);
            sealed = w.seal(9, &parents, latest[0].max(latest[1]) + 1);
            let mut rest = order[n + 1..].to_vec();
            rest.push(sealed);
            let again = listing(w, &w.state(&rest));
            assert_eq!(again, expected, "sealed {:?}\n{story}", &order[..=n]);
        }
    }
}

fn orders(of: &[usize]) -> Vec<Vec<usize>> {
    if of.len() < 2 {
        return vec![of.to_vec()];
    }
    let mut out = Vec::new();
    for (n, first) in of.iter().enumerate() {
        let mut rest = of.to_vec();
        rest.remove(n);
        for mut order in orders(&rest) {
            order.insert(0, *first);
            out.push(order);
        }
    }
    out
}

/// Every entry is found by its name.
fn assert_found(w: &World, state: &State) {
    for s in w.tree(state).values() {
        let found = lookup(w.src(), state, &s.parents, &s.name);
        assert_eq!(found.expect("reads").as_ref(), Some(s));
    }
}

/// git's tree holds the same bytes under the same names.
fn assert_in_git(w: &World, state: &State) {
    let mut todo = vec![(
        String::new(),
        project(w.src(), None, state).expect("projects"),
    )];
    let mut found = BTreeSet::new();
    while let Some((dir, tree)) = todo.pop() {
        for e in git_tree::read(&w.objs, &tree).expect("a tree") {
            let path = format!("{dir}/{}", String::from_utf8_lossy(&e.name));
            if e.is_tree() {
                todo.push((path, e.id));
            } else {
                found.insert((path, e.id));
            }
        }
    }
    let tree = w.tree(state);
    let files = tree.iter().filter(|(_, s)| s.kind != Kind::Dir);
    let files: BTreeSet<(String, Oid)> = files.map(|(p, s)| (p.clone(), s.blob)).collect();
    assert_eq!(found, files);
}

/// The file at a path.
fn id(w: &World, commits: &[usize], path: &str) -> FileId {
    w.tree(&w.state(commits))[path].id()
}
