//! What was promised, and whether it was kept.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use cellfs::base::id::{NodeId, Oid};
use cellfs::base::stamp::Dot;
use cellfs::record::commit::{self, has_seen};
use cellfs::replicator::HeadNotice;
use cellfs::store::closure;
use cellfs::store::objects::Objects;
use cellfs::volume::view::HeadInfo;

use super::author::{Act, text, tokens, tree};
use super::node::Node;
use super::plan::Ms;
use super::world::World;

/// What was done, acknowledged and forgotten.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// What each commit that was tried was to do, at which machine. It came to be if it is in the history.
    tried: BTreeMap<Dot, (usize, Act)>,
    /// Which commit was announced under each name.
    announced: BTreeMap<Dot, Oid>,
    /// Tokens whose write was acknowledged: by which machine, when.
    acknowledged: Vec<(u64, usize, Ms)>,
    /// Machines that forgot what they did since.
    forgot: Vec<(usize, Ms)>,
    /// Nodes that are no members any more.
    pub(super) gone: BTreeSet<NodeId>,
    /// Nodes that came later.
    pub(super) joined: usize,
    /// What liars heard.
    pub(super) overheard: Vec<(HeadNotice, Option<Vec<u8>>)>,
}

impl Ledger {
    pub(super) fn tried(&mut self, dot: Dot, m: usize, act: Act) {
        self.tried.insert(dot, (m, act));
    }

    pub(super) fn tries(&self) -> usize {
        self.tried.len()
    }

    pub(super) fn acknowledged(&mut self, m: usize, now: Ms, act: &Act) {
        let all = act.wrote.iter().map(|t| (*t, m, now));
        self.acknowledged.extend(all);
    }

    pub(super) fn forgot(&mut self, m: usize, since: Ms) {
        self.forgot.push((m, since));
    }

    /// A name is given once, whatever a disk forgot.
    pub(super) fn announced(&mut self, head: &HeadNotice) -> Result<(), String> {
        let dot = Dot {
            branch: head.branch,
            seq: head.seq,
        };
        let first = *self.announced.entry(dot).or_insert(head.id);
        if first != head.id {
            return Err(format!("{} and {first} are both called {dot:?}", head.id));
        }
        Ok(())
    }

    pub(super) fn overheard(&mut self, head: HeadNotice, pack: Option<&Vec<u8>>) {
        self.overheard.push((head, pack.cloned()));
    }
}

/// Whether all that the heads of a node need is on its disk.
pub(super) fn heads_are_whole(n: &Node) -> Result<BTreeSet<Oid>, String> {
    let mut seen = HashSet::new();
    let run = n.run.as_ref().ok_or("it does not run")?;
    let mut stack: Vec<Oid> = run.view.heads.iter().map(|h| h.id).collect();
    while let Some(id) = stack.pop() {
        if !seen.insert(id) {
            continue;
        }
        let found = n.disk.find(&id).map_err(|e| e.to_string())?;
        let Some(o) = found else {
            return Err(format!("{}: a head without {id}", n.who.name));
        };
        closure::children(&id, &o, &mut stack).map_err(|e| e.to_string())?;
    }
    Ok(seen.into_iter().collect())
}

fn honest(w: &World) -> impl Iterator<Item = &Node> {
    w.nodes.iter().filter(|n| !n.liar && !n.left)
}

/// Whether all show the same; says who does not.
pub(super) fn agree(w: &World) -> Result<(), String> {
    let mut first: Option<&Node> = None;
    for n in honest(w) {
        let Some(run) = &n.run else {
            return Err(format!("{} does not run", n.who.name));
        };
        let Some(f) = first.and_then(|f| f.run.as_ref()) else {
            first = Some(n);
            continue;
        };
        let ids =
            |v: &cellfs::volume::view::View| -> Vec<Oid> { v.heads.iter().map(|h| h.id).collect() };
        let (a, b) = (&f.view, &run.view);
        let same = a.state == b.state && a.commit == b.commit && a.tree == b.tree;
        if !same || ids(a) != ids(b) {
            let heads = |v| {
                let short = |id: &Oid| id.to_string().chars().take(8).collect::<String>();
                ids(v).iter().map(short).collect::<Vec<_>>()
            };
            return Err(format!(
                "{} shows {:?} and {} shows {:?}",
                first.map_or("", |f| f.who.name.as_str()),
                heads(a),
                n.who.name,
                heads(b)
            ));
        }
    }
    Ok(())
}

/// Commits that honest nodes made so far.
pub(super) fn commits(w: &World) -> u64 {
    honest(w).map(|n| n.disk.commits()).sum()
}

/// Everything that must be so when all is quiet.
pub(super) fn all(w: &World) -> Result<(), String> {
    agree(w)?;
    let few = honest(w).take(if w.nodes.len() > 100 { 5 } else { usize::MAX });
    let mut objects = BTreeSet::new();
    for n in few {
        objects = heads_are_whole(n)?;
    }
    let Some(n) = honest(w).next() else {
        return Ok(());
    };
    let Some(run) = &n.run else { return Ok(()) };
    let branches: BTreeSet<_> = run.view.heads.iter().map(|h| h.stamp.branch).collect();
    if branches.len() != run.view.heads.len() {
        return Err("two heads of one branch".to_owned());
    }
    // A machine's earlier heads are below its last one, but for what it forgot.
    let most = w.nodes.len() + w.ledger.forgot.len();
    if branches.len() > most {
        return Err(format!("{} heads of {most} machines", branches.len()));
    }
    let seen = run.view.seen();
    history_is_meant(w, n)?;

    // Nothing that was acknowledged is lost.
    let all = tree(&run.view, &run.cache);
    let mut shown = BTreeSet::new();
    for s in all.values().filter(|s| s.dirs.is_empty()) {
        shown.extend(tokens(&text(&*run.view.stage, &s.blob)));
    }
    let (mut wrote, mut ended) = (BTreeSet::new(), BTreeSet::new());
    let came = w.ledger.tried.iter().filter(|(d, _)| has_seen(&seen, **d));
    for (_, (_, act)) in came {
        wrote.extend(act.wrote.iter().copied());
        ended.extend(act.ended.iter().copied());
        let missing = act.blobs.iter().find(|b| {
            let kind = cellfs::store::objects::ObjectKind::Blob;
            !objects.contains(&cellfs::store::objects::id_of(kind, b))
        });
        // An act that changed nothing leaves nothing.
        if missing.is_some() && act.wrote.iter().any(|t| shown.contains(t)) {
            return Err(format!("{} is shown and not in the history", act.note));
        }
    }
    let fixed = wrote.iter().map(|t| (*t, usize::MAX, 0));
    for (token, m, at) in w.ledger.acknowledged.iter().copied().chain(fixed) {
        let forgotten = w
            .ledger
            .forgot
            .iter()
            .any(|(of, when)| *of == m && *when <= at);
        if forgotten && !wrote.contains(&token) {
            continue;
        }
        if !shown.contains(&token) && !ended.contains(&token) {
            return Err(format!("t{token}, written at machine {m}, is lost"));
        }
    }
    Ok(())
}

/// No commit is in the history that nobody meant to make, and a seal changes nothing.
fn history_is_meant(w: &World, n: &Node) -> Result<(), String> {
    let run = n.run.as_ref().ok_or("it does not run")?;
    let mut met = BTreeSet::new();
    let mut stack: Vec<Oid> = run.view.heads.iter().map(|h| h.id).collect();
    while let Some(id) = stack.pop() {
        if !met.insert(id) {
            continue;
        }
        let c = commit::decode(&*n.disk, &id).map_err(|e| e.to_string())?;
        let dot = c.head.stamp.dot();
        let Some((by, _)) = w.ledger.tried.get(&dot) else {
            return Err(format!("commit {id} was made for nothing"));
        };
        if w.nodes[*by].id() != c.head.node {
            return Err(format!("commit {id} was made in the name of another"));
        }
        stack.extend(c.frontier);
    }
    Ok(())
}

/// A head for people: its commit, its author's machines, its place on its branch.
fn name_of(w: &World, h: &HeadInfo) -> String {
    let id = h.id.to_string();
    let by: Vec<usize> = (0..w.nodes.len())
        .filter(|m| w.nodes[*m].id() == h.node)
        .collect();
    let at = h.stamp.branch.0 % 1000;
    format!("{:.8} by {by:?} ..{at}/{}", id, h.stamp.seq)
}

/// What a run is about, for people.
pub(super) fn story(w: &World) -> String {
    let plan = format!("{:?}", w.plan);
    let nodes = w.nodes.iter().enumerate().map(|(m, n)| {
        let heads = n.run.iter().flat_map(|r| r.view.heads.iter());
        let heads: Vec<String> = heads.map(|h| name_of(w, h)).collect();
        let what = [(n.liar, "liar"), (n.left, "left"), (!n.is_up(), "down")];
        let what: Vec<&str> = what.iter().filter(|(is, _)| *is).map(|(_, s)| *s).collect();
        format!(
            "machine {m} {}: {} {what:?}",
            n.id().short(),
            heads.join(", ")
        )
    });
    let nodes: Vec<String> = nodes.collect();
    format!("{plan}\n{}", nodes.join("\n"))
}
