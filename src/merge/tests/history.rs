//! Random histories: several nodes that write, delete and move what they see.

use std::collections::{BTreeMap, BTreeSet};

use super::world::{World, name};
use crate::merge::shown::{Role, Shown};
use crate::record::change::Change;
use crate::record::conflict;
use crate::record::model::Kind;
use crate::record::state::State;

/// A small generator of numbers (splitmix64): equal on every machine.
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % (n.max(1) as u64)).expect("small")
    }

    pub(super) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(super) fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        from.get(self.below(from.len())).cloned()
    }
}

/// What an author expects to see after his commit: path to text, `/` for a directory.
pub(super) type Disk = BTreeMap<String, String>;

/// A history and what its authors expected.
pub(super) struct History {
    pub(super) world: World,
    pub(super) expected: Vec<(usize, Disk)>,
    pub(super) rng: Rng,
}

/// What files are like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Flavour {
    /// Single words: nothing merges.
    Words,
    /// Several lines: edits may merge.
    Texts,
    /// The same, and `.gitattributes` files that come, change and go.
    Drivers,
    /// Single words, and files with several names. Authors say nothing of what they expect.
    Links,
}

impl Flavour {
    fn has_texts(self) -> bool {
        matches!(self, Self::Texts | Self::Drivers)
    }
}

impl From<bool> for Flavour {
    fn from(texts: bool) -> Self {
        if texts { Self::Texts } else { Self::Words }
    }
}

const ATTRIBUTES: &str = ".gitattributes";
const RULES: [&str; 5] = [
    "* merge=union\n",
    "p merge=lww\n",
    "d/* merge=union\nq merge=lww\n",
    "* -merge\n",
    "*.x merge=union\n* merge=unheard-of\n",
];

/// A file with room for edits that do not touch each other.
const LINES: &str = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";

/// What a random author may do, with weights. The first that applies to what he sees is done.
const WEIGHTS: [(&str, usize); 11] = [
    ("link", 5),
    ("write", 6),
    ("create", 3),
    ("delete", 3),
    ("copy", 4),
    ("rename", 4),
    ("mkdir", 2),
    ("mvdir", 4),
    ("rmdir", 2),
    ("noop", 2),
    ("seal", 2),
];

impl History {
    /// The history of a seed.
    pub(super) fn random(seed: u64, flavour: Flavour) -> Self {
        let texts = flavour.has_texts();
        let mut h = Self {
            world: World::default(),
            expected: Vec::new(),
            rng: Rng(seed),
        };
        let nodes = 3 + h.rng.below(3);
        let steps = 6 + h.rng.below(9);
        let (p, q) = if texts { (LINES, LINES) } else { ("O", "O2") };
        let first = format!("+/p={p}");
        let root = h.world.act(0, &[], 1, &[&first, "^/d", "^/e"]);
        let base = h.world.act(0, &[root], 2, &[&format!("+/d/q={q}")]);
        let mut known = vec![BTreeSet::from([root, base]); nodes];
        let mut own = vec![base; nodes];
        for step in 0..steps {
            let node = h.rng.below(nodes);
            for other in own.clone() {
                if h.rng.chance(35) {
                    known[node].extend(h.world.ancestors[other].clone());
                }
            }
            let parents: Vec<usize> = h.world.maximal(&known[node]).into_iter().collect();
            let commit = h.step(node as u64 + 1, &parents, step, flavour);
            known[node].insert(commit);
            own[node] = commit;
        }
        h
    }

    pub(super) fn time_after(&mut self, parents: &[usize]) -> u64 {
        let latest = parents
            .iter()
            .map(|p| self.world.heads[*p].stamp.hlc.0 >> 16);
        latest.max().unwrap_or(0) + 1 + self.rng.below(4) as u64
    }

    fn step(&mut self, node: u64, parents: &[usize], step: usize, flavour: Flavour) -> usize {
        let time = self.time_after(parents);
        let state = self.world.state(parents);
        let sum: usize = WEIGHTS.iter().map(|(_, w)| w).sum();
        for _ in 0..8 {
            let mut at = self.rng.below(sum);
            let mut kind = "noop";
            for (what, weight) in WEIGHTS {
                if at < weight {
                    kind = what;
                    break;
                }
                at -= weight;
            }
            if kind == "seal" && parents.len() > 1 {
                return self.world.seal(node, parents, time);
            }
            if let Some((note, changes, disk)) = self.act(kind, &state, step, flavour) {
                let commit = self.world.commit(node, parents, time, &note, &changes);
                if flavour != Flavour::Links {
                    self.expected.push((commit, disk));
                }
                return commit;
            }
        }
        self.world.commit(node, parents, time, "nothing", &[])
    }

    fn act(
        &mut self,
        kind: &str,
        state: &State,
        step: usize,
        flavour: Flavour,
    ) -> Option<(String, Vec<Change>, Disk)> {
        let tree = self.world.tree(state);
        let mut disk = disk_of(&self.world, &tree);
        let files: Vec<String> = paths(&tree, |s| s.kind != Kind::Dir);
        let copies: Vec<String> = paths(&tree, |s| s.role != Role::Main);
        let dirs: Vec<String> = paths(&tree, |s| s.kind == Kind::Dir);
        let free = |names: &[&str], rng: &mut Rng| {
            let mut all = vec![String::new()];
            all.extend(dirs.iter().filter(|d| d.matches('/').count() < 3).cloned());
            let dir = rng.pick(&all)?;
            let path = format!("{dir}/{}", rng.pick(names)?);
            (!tree.contains_key(&path)).then_some(path)
        };
        let w = &mut self.world;
        let rng = &mut self.rng;
        let texts = flavour.has_texts();
        let rules = flavour == Flavour::Drivers && rng.chance(30);
        match kind {
            "write" => {
                let path = rng.pick(&files)?;
                let text = if path.ends_with(ATTRIBUTES) {
                    rng.pick(&RULES)?.to_owned()
                } else {
                    new_text(rng, &disk[&path], step, texts)
                };
                let changes = w.write(state, &path, &text);
                disk.insert(path.clone(), text.clone());
                Some((format!("write {path}={text:?}"), changes, disk))
            }
            "create" => {
                let names: &[&str] = if rules { &[ATTRIBUTES] } else { &["p", "q"] };
                let path = free(names, rng)?;
                let text = if rules {
                    rng.pick(&RULES)?.to_owned()
                } else if rng.chance(80) {
                    format!("v{step}")
                } else {
                    "O".into()
                };
                let changes = w.create(state, &path, Some(&text));
                disk.insert(path.clone(), text.clone());
                Some((format!("create {path}={text}"), changes, disk))
            }
            "delete" | "rmdir" => {
                let path = rng.pick(if kind == "delete" { &files } else { &dirs })?;
                let changes = w.delete(state, &path);
                disk.retain(|p, _| *p != path && !p.starts_with(&format!("{path}/")));
                Some((format!("rm -r {path}"), changes, disk))
            }
            "copy" => {
                let path = rng.pick(&copies)?;
                if rng.chance(50) {
                    let changes = w.delete(state, &path);
                    disk.remove(&path);
                    return Some((format!("rm copy {path}"), changes, disk));
                }
                let text = format!("v{step}");
                let changes = w.write(state, &path, &text);
                disk.insert(path.clone(), text.clone());
                Some((format!("edit copy {path}={text}"), changes, disk))
            }
            "rename" => {
                let from = rng.pick(&files)?;
                let to = free(&["p", "q"], rng).or_else(|| rng.pick(&files))?;
                if to == from {
                    return None;
                }
                let changes = w.rename(state, &from, &to);
                follow(&mut disk, &tree, &from, &to);
                Some((format!("mv {from} {to}"), changes, disk))
            }
            "link" if flavour == Flavour::Links => {
                let from = rng.pick(&files)?;
                let to = free(&["p", "q", "r"], rng)?;
                let changes = w.link(state, &from, &to);
                Some((format!("ln {from} {to}"), changes, disk))
            }
            "link" => None,
            "mkdir" => {
                let path = free(&["d", "e", "p"], rng)?;
                let changes = w.create(state, &path, None);
                disk.insert(path.clone(), "/".into());
                Some((format!("mkdir {path}"), changes, disk))
            }
            "mvdir" => {
                let from = rng.pick(&dirs)?;
                let to = free(&["d", "e", "p"], rng)?;
                if format!("{to}/").starts_with(&format!("{from}/")) {
                    return None;
                }
                let changes = w.rename(state, &from, &to);
                for (path, text) in disk.clone() {
                    if let Some(rest) = path.strip_prefix(&from)
                        && (rest.is_empty() || rest.starts_with('/'))
                    {
                        disk.remove(&path);
                        disk.insert(format!("{to}{rest}"), text);
                    }
                }
                Some((format!("mvdir {from} {to}"), changes, disk))
            }
            _ => Some(("nothing".into(), Vec::new(), disk)),
        }
    }
}

fn new_text(rng: &mut Rng, old: &str, step: usize, texts: bool) -> String {
    if texts && old.contains('\n') && rng.chance(90) {
        let mut lines: Vec<String> = old.lines().map(str::to_owned).collect();
        let at = rng.below(lines.len());
        lines[at] = format!("{step}");
        return lines.join("\n") + "\n";
    }
    match rng.below(4) {
        0 => format!("v{}", rng.below(step + 1)),
        _ => format!("v{step}"),
    }
}

pub(super) fn disk_of(world: &World, tree: &BTreeMap<String, Shown>) -> Disk {
    let text = |s: &Shown| match s.kind {
        Kind::Dir => "/".to_owned(),
        _ => world.text(&s.blob),
    };
    tree.iter().map(|(p, s)| (p.clone(), text(s))).collect()
}

fn paths(tree: &BTreeMap<String, Shown>, keep: impl Fn(&Shown) -> bool) -> Vec<String> {
    let kept = tree.iter().filter(|(_, s)| keep(s));
    kept.map(|(p, _)| p.clone()).collect()
}

/// A moved file takes its other versions along: their copies are expected beside the target.
fn follow(disk: &mut Disk, tree: &BTreeMap<String, Shown>, from: &str, to: &str) {
    let moved = &tree[from];
    let keeper = match moved.role {
        Role::Main => moved.versions.first(),
        Role::Copy { .. } => moved.versions.iter().find(|v| v.first),
    };
    let over = tree.get(to).map(|s| s.versions.clone()).unwrap_or_default();
    let text = disk.remove(from).expect("it is there");
    if let Some(keeper) = keeper
        && !over
            .first()
            .is_some_and(|v| moved.versions.iter().any(|m| m.id == v.id))
    {
        for (n, (path, s)) in tree.iter().enumerate() {
            let follows = s.versions.iter().any(|v| v.id == keeper.id);
            let stays = s.versions.iter().any(|v| v.id != keeper.id);
            if s.role == Role::Main || path == from || path == to || !follows {
                continue;
            }
            let (dir, last) = to.rsplit_once('/').expect("absolute");
            let hex = format!("{:08x}", n + 0x1000);
            let there = format!("{dir}/{}", conflict::name(&name(last), &hex));
            let bytes = disk[path].clone();
            if !stays {
                disk.remove(path);
            }
            disk.insert(there, bytes);
        }
    }
    disk.insert(to.to_owned(), text);
}
