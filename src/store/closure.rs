//! Which objects a set of commits needs, and which of them the other side lacks.
//!
//! Invariant: what [`missing`] lists, added to a store that holds the closure of `have`, makes
//! the closure of `want` complete. It may list an object that the other side has (bytes that
//! came back from deep history), never too few.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet};

use super::objects::{Object, ObjectError, ObjectKind, Objects};
use crate::base::id::Oid;

/// The parts of a commit that a walk needs.
#[derive(Debug, Clone)]
struct Links {
    tree: Oid,
    parents: Vec<Oid>,
    time: i64,
}

fn malformed(id: &Oid, expected: &'static str, why: impl ToString) -> ObjectError {
    ObjectError::Malformed {
        id: *id,
        expected,
        why: why.to_string(),
    }
}

fn links(objs: &dyn Objects, id: &Oid) -> Result<Links, ObjectError> {
    let data = objs.get(id, ObjectKind::Commit)?;
    let c = gix::objs::CommitRef::from_bytes(&data, gix::hash::Kind::Sha1)
        .map_err(|e| malformed(id, "a commit", e))?;
    Ok(Links {
        tree: c.tree(),
        parents: c.parents().collect(),
        time: c.committer().map(|s| s.seconds()).unwrap_or(0),
    })
}

/// Follows annotated tags to what they name; lists the tags on the way.
fn peel(objs: &dyn Objects, id: Oid, tags: &mut Vec<Oid>) -> Result<Option<Oid>, ObjectError> {
    let mut at = id;
    loop {
        let Some(o) = objs.find(&at)? else {
            return Ok(None);
        };
        match o.kind {
            ObjectKind::Tag => {
                let tag = gix::objs::TagRef::from_bytes(&o.data, gix::hash::Kind::Sha1)
                    .map_err(|e| malformed(&at, "a tag", e))?;
                tags.push(at);
                at = tag.target();
            }
            _ => return Ok(Some(at)),
        }
    }
}

/// The commit that an id names, directly or through tags; `None` when it names something else.
///
/// # Errors
/// When a tag on the way is malformed or missing.
pub fn peeled_commit(objs: &dyn Objects, id: Oid) -> Result<Option<Oid>, ObjectError> {
    let at = peel(objs, id, &mut Vec::new())?.ok_or(ObjectError::Missing(id))?;
    let kind = objs.find(&at)?.map(|o| o.kind);
    Ok((kind == Some(ObjectKind::Commit)).then_some(at))
}

/// A commit walk that stops where the other side's history starts.
struct Paint<'a> {
    objs: &'a dyn Objects,
    links: HashMap<Oid, Links>,
    theirs: HashSet<Oid>,
    queued: HashSet<(Oid, bool)>,
    heap: BinaryHeap<(i64, bool, Reverse<Oid>)>,
    wanted_in_queue: usize,
}

impl Paint<'_> {
    fn push(&mut self, id: Oid, theirs: bool) -> Result<(), ObjectError> {
        if !self.queued.insert((id, theirs)) {
            return Ok(());
        }
        let time = match self.links.get(&id) {
            Some(l) => l.time,
            None => {
                if self
                    .objs
                    .find(&id)?
                    .is_some_and(|o| o.kind != ObjectKind::Commit)
                {
                    return Ok(());
                }
                let l = links(self.objs, &id)?;
                let t = l.time;
                self.links.insert(id, l);
                t
            }
        };
        if !theirs {
            self.wanted_in_queue += 1;
        }
        // At equal times theirs go first, so that less is listed in vain.
        self.heap.push((time, theirs, Reverse(id)));
        Ok(())
    }

    /// The commits reachable from what was pushed as wanted and not from theirs.
    fn run(&mut self) -> Result<Vec<Oid>, ObjectError> {
        let mut ours = Vec::new();
        let mut oldest = i64::MAX;
        while let Some((time, theirs, Reverse(id))) = self.heap.pop() {
            if self.wanted_in_queue == 0 && (!theirs || time < oldest) {
                break;
            }
            if theirs {
                self.theirs.insert(id);
            } else {
                self.wanted_in_queue -= 1;
                if self.theirs.contains(&id) {
                    continue;
                }
                ours.push(id);
                oldest = oldest.min(time);
            }
            let parents = self.links.get(&id).map(|l| l.parents.clone());
            for p in parents.unwrap_or_default() {
                self.push(p, theirs)?;
            }
        }
        ours.retain(|c| !self.theirs.contains(c));
        Ok(ours)
    }
}

impl Paint<'_> {
    /// The commits in an order in which each comes after its parents.
    fn parents_first(&self, commits: &[Oid], ours: &HashSet<Oid>) -> Vec<Oid> {
        let mut out = Vec::with_capacity(commits.len());
        let mut met = HashSet::new();
        // Oldest first, so that the way back to what was met is short.
        let mut stack: Vec<(Oid, bool)> = commits.iter().map(|c| (*c, false)).collect();
        while let Some((id, parents_done)) = stack.pop() {
            if parents_done {
                out.push(id);
            } else if met.insert(id) {
                stack.push((id, true));
                let parents = self.links.get(&id).map_or(&[][..], |l| &l.parents);
                let new = parents
                    .iter()
                    .filter(|p| ours.contains(*p) && !met.contains(*p));
                stack.extend(new.map(|p| (*p, false)));
            }
        }
        out
    }
}

/// The objects that make the closure of `want` complete where that of `have` is held, commits
/// first. Entries of `have` that are not here are ignored.
///
/// # Errors
/// When an object of the closure of `want` is missing or malformed here.
pub fn missing(objs: &dyn Objects, want: &[Oid], have: &[Oid]) -> Result<Vec<Oid>, ObjectError> {
    let mut paint = Paint {
        objs,
        links: HashMap::new(),
        theirs: HashSet::new(),
        queued: HashSet::new(),
        heap: BinaryHeap::new(),
        wanted_in_queue: 0,
    };
    let mut scratch = Vec::new();
    for id in have {
        if let Some(c) = peel(objs, *id, &mut scratch)? {
            paint.push(c, true)?;
        }
    }
    let known_tags: HashSet<Oid> = scratch.into_iter().collect();
    let mut tags = Vec::new();
    let mut plain = Vec::new();
    for id in want {
        let c = peel(objs, *id, &mut tags)?.ok_or(ObjectError::Missing(*id))?;
        if objs.find(&c)?.is_some_and(|o| o.kind == ObjectKind::Commit) {
            paint.push(c, false)?;
        } else {
            plain.push(c);
        }
    }
    let commits = paint.run()?;
    let mut trees = TreeWalk {
        objs,
        listed: Vec::new(),
        seen: HashSet::new(),
        old: HashSet::new(),
    };
    let ours: HashSet<Oid> = commits.iter().copied().collect();
    // A tree is compared once, so what it is compared with must be listed before: by time alone
    // a child may come first, and two trees would each be taken for what the other leaves out.
    for c in paint.parents_first(&commits, &ours) {
        let Some(l) = paint.links.get(&c).cloned() else {
            continue;
        };
        let mut bases = Vec::new();
        for p in &l.parents {
            let tree = match paint.links.get(p) {
                Some(l) => l.tree,
                None => links(objs, p)?.tree,
            };
            bases.push((tree, !ours.contains(p)));
        }
        trees.compare(l.tree, &bases)?;
    }
    for id in plain {
        trees.compare_one(id)?;
    }
    tags.retain(|t| !known_tags.contains(t));
    let mut all = tags;
    all.extend(commits);
    let old = trees.old;
    all.extend(trees.listed.into_iter().filter(|id| !old.contains(id)));
    let mut once = HashSet::new();
    all.retain(|id| once.insert(*id));
    Ok(all)
}

struct TreeWalk<'a> {
    objs: &'a dyn Objects,
    listed: Vec<Oid>,
    seen: HashSet<Oid>,
    /// Everything named by the old trees that were opened.
    old: HashSet<Oid>,
}

/// Name -> (id, is a tree), submodules left out.
type Entries = BTreeMap<Vec<u8>, (Oid, bool)>;

fn entries(objs: &dyn Objects, id: &Oid) -> Result<Entries, ObjectError> {
    let data = objs.get(id, ObjectKind::Tree)?;
    let mut out = BTreeMap::new();
    for e in gix::objs::TreeRefIter::from_bytes(&data, gix::hash::Kind::Sha1) {
        let e = e.map_err(|e| malformed(id, "a tree", e))?;
        if !e.mode.is_commit() {
            out.insert(e.filename.to_vec(), (e.oid.to_owned(), e.mode.is_tree()));
        }
    }
    Ok(out)
}

impl TreeWalk<'_> {
    /// Lists what `new` has and none of `bases` has at the same path. A base comes with
    /// whether the other side holds it.
    fn compare(&mut self, new: Oid, bases: &[(Oid, bool)]) -> Result<(), ObjectError> {
        let mut stack = vec![(new, bases.to_vec())];
        while let Some((new, bases)) = stack.pop() {
            if bases.iter().any(|(b, _)| *b == new) || !self.seen.insert(new) {
                continue;
            }
            self.listed.push(new);
            let mut old = Vec::new();
            for (b, theirs) in &bases {
                let e = entries(self.objs, b)?;
                if *theirs {
                    self.old.insert(*b);
                    self.old.extend(e.values().map(|(id, _)| *id));
                }
                old.push((e, *theirs));
            }
            for (name, (id, is_tree)) in entries(self.objs, &new)? {
                let before: Vec<(Oid, bool, bool)> = old
                    .iter()
                    .filter_map(|(o, theirs)| o.get(&name).map(|(b, t)| (*b, *t, *theirs)))
                    .collect();
                if before.iter().any(|(b, _, _)| *b == id) {
                    continue;
                }
                if is_tree {
                    let trees = before.iter().filter(|(_, t, _)| *t);
                    stack.push((id, trees.map(|(b, _, theirs)| (*b, *theirs)).collect()));
                } else if self.seen.insert(id) {
                    self.listed.push(id);
                }
            }
        }
        Ok(())
    }

    fn compare_one(&mut self, id: Oid) -> Result<(), ObjectError> {
        match self.objs.find(&id)?.map(|o| o.kind) {
            Some(ObjectKind::Tree) => self.compare(id, &[]),
            Some(_) => {
                if self.seen.insert(id) {
                    self.listed.push(id);
                }
                Ok(())
            }
            None => Err(ObjectError::Missing(id)),
        }
    }
}

/// Pushes the ids that an object names, submodules left out.
///
/// # Errors
/// When the object is malformed.
pub fn children(id: &Oid, o: &Object, out: &mut Vec<Oid>) -> Result<(), ObjectError> {
    match o.kind {
        ObjectKind::Blob => {}
        ObjectKind::Tag => {
            let t = gix::objs::TagRef::from_bytes(&o.data, gix::hash::Kind::Sha1)
                .map_err(|e| malformed(id, "a tag", e))?;
            out.push(t.target());
        }
        ObjectKind::Commit => {
            let c = gix::objs::CommitRef::from_bytes(&o.data, gix::hash::Kind::Sha1)
                .map_err(|e| malformed(id, "a commit", e))?;
            out.push(c.tree());
            out.extend(c.parents());
        }
        ObjectKind::Tree => {
            for e in gix::objs::TreeRefIter::from_bytes(&o.data, gix::hash::Kind::Sha1) {
                let e = e.map_err(|e| malformed(id, "a tree", e))?;
                if !e.mode.is_commit() {
                    out.push(e.oid.to_owned());
                }
            }
        }
    }
    Ok(())
}

/// Checks that all that `want` and the `new` objects name is among these or in `held`, which has
/// only objects whose closure is complete; `objs` can read the new ones. A new object that
/// nothing wanted names is checked, too: it would count as held from then on.
///
/// # Errors
/// Names the first object that is missing or malformed.
pub fn verify(
    objs: &dyn Objects,
    held: &dyn Objects,
    want: &[Oid],
    new: &BTreeSet<Oid>,
) -> Result<(), ObjectError> {
    let roots = new.iter().chain(want);
    let mut stack: Vec<(Oid, Option<ObjectKind>)> = roots.map(|id| (*id, None)).collect();
    let mut seen = HashSet::new();
    while let Some((id, expected)) = stack.pop() {
        if !seen.insert((id, expected)) {
            continue;
        }
        if !new.contains(&id) {
            if held.has(&id)? {
                continue;
            }
            return Err(ObjectError::Missing(id));
        }
        if expected == Some(ObjectKind::Blob) && !objs.is_structure(&id) {
            // Its bytes were hashed when they came: there is nothing more to check in a blob.
            continue;
        }
        let o = objs.find(&id)?.ok_or(ObjectError::Missing(id))?;
        if expected.is_some_and(|k| k != o.kind) {
            return Err(malformed(&id, "what its parent says", o.kind));
        }
        match o.kind {
            ObjectKind::Blob => {}
            ObjectKind::Tag => {
                let t = gix::objs::TagRef::from_bytes(&o.data, gix::hash::Kind::Sha1)
                    .map_err(|e| malformed(&id, "a tag", e))?;
                stack.push((t.target(), Some(t.target_kind)));
            }
            ObjectKind::Commit => {
                let l = links(objs, &id)?;
                stack.push((l.tree, Some(ObjectKind::Tree)));
                stack.extend(l.parents.iter().map(|p| (*p, Some(ObjectKind::Commit))));
            }
            ObjectKind::Tree => {
                super::check::tree(&id, &o.data)?;
                for (child, is_tree) in entries(objs, &id)?.into_values() {
                    let kind = if is_tree {
                        ObjectKind::Tree
                    } else {
                        ObjectKind::Blob
                    };
                    stack.push((child, Some(kind)));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::objects::Memory;

    fn blob(m: &Memory, s: &str) -> Oid {
        m.put(ObjectKind::Blob, s.as_bytes().to_vec()).unwrap()
    }

    fn tree(m: &Memory, es: &[(&str, &str, Oid)]) -> Oid {
        let mut b = Vec::new();
        for (mode, name, id) in es {
            b.extend_from_slice(format!("{mode} {name}\0").as_bytes());
            b.extend_from_slice(id.as_slice());
        }
        m.put(ObjectKind::Tree, b).unwrap()
    }

    fn commit(m: &Memory, t: Oid, parents: &[Oid], time: u64) -> Oid {
        let mut s = format!("tree {t}\n");
        for p in parents {
            s += &format!("parent {p}\n");
        }
        s += &format!("author a <a@b> {time} +0000\ncommitter a <a@b> {time} +0000\n\nm\n");
        m.put(ObjectKind::Commit, s.into_bytes()).unwrap()
    }

    #[test]
    fn only_what_changed_is_missing_and_moves_cost_no_blob() {
        let m = Memory::default();
        let (a, b, c) = (blob(&m, "a"), blob(&m, "b"), blob(&m, "c"));
        let sub = tree(&m, &[("100644", "x", a)]);
        let t1 = tree(&m, &[("40000", "d", sub), ("100644", "f", b)]);
        let c1 = commit(&m, t1, &[], 1);
        let t2 = tree(
            &m,
            &[("40000", "d", sub), ("100644", "g", b), ("100644", "h", c)],
        );
        let c2 = commit(&m, t2, &[c1], 1);
        let got: BTreeSet<Oid> = missing(&m, &[c2], &[c1]).unwrap().into_iter().collect();
        assert_eq!(got, BTreeSet::from([c2, t2, c]));
        let all = missing(&m, &[c2], &[]).unwrap();
        assert_eq!(all.len(), 8);
        let new: BTreeSet<Oid> = all.into_iter().collect();
        verify(&m, &Memory::default(), &[c2], &new).unwrap();
        let fewer: BTreeSet<Oid> = new.iter().copied().filter(|i| *i != a).collect();
        assert!(matches!(
            verify(&m, &Memory::default(), &[c2], &fewer),
            Err(ObjectError::Missing(id)) if id == a
        ));
    }

    #[test]
    fn a_tree_that_comes_back_is_whole_whatever_the_clocks_say() {
        let m = Memory::default();
        let t = |a: &str, b: &str| {
            let (a, b) = (blob(&m, a), blob(&m, b));
            tree(&m, &[("100644", "a", a), ("100644", "b", b)])
        };
        let c1 = commit(&m, t("old", "1"), &[], 5);
        let c2 = commit(&m, t("new", "1"), &[c1], 5);
        // Made by a clock that is behind.
        let c3 = commit(&m, t("new", "2"), &[c2], 1);
        let c4 = commit(&m, t("new", "1"), &[c3], 1);
        let merge = commit(&m, t("new", "3"), &[c4, c2], 9);
        let all: BTreeSet<Oid> = missing(&m, &[merge], &[]).unwrap().into_iter().collect();
        verify(&m, &Memory::default(), &[merge], &all).unwrap();
    }

    #[test]
    fn a_side_branch_that_they_have_is_not_walked_again() {
        let m = Memory::default();
        let t = |n: u32| tree(&m, &[("100644", "f", blob(&m, &n.to_string()))]);
        let root = commit(&m, t(0), &[], 1);
        let left = commit(&m, t(1), &[root], 1);
        let right = commit(&m, t(2), &[root], 1);
        let merge = commit(&m, t(3), &[left, right], 1);
        let top = commit(&m, t(4), &[merge], 1);
        let got = missing(&m, &[top], &[left, right]).unwrap();
        assert_eq!(got.len(), 6, "two commits with a tree and a blob each");
        assert!(missing(&m, &[left], &[top]).unwrap().is_empty());
    }
}
