//! The state that several heads make together (rules 1 to 8).
//!
//! A part of a record (a version, a place, a value of a ref) survives if some head has it and
//! every head that has seen it still has it: what a head has seen and no longer has, somebody
//! ended. Cost follows what differs between the heads: what is equal in all is not opened.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::id::{BranchId, FileId, Oid};
use crate::base::stamp::{Dot, Stamp};
use crate::record::commit::{self, Carried, RecordCommit, has_seen};
use crate::record::draft::{Dots, Draft};
use crate::record::model::{Content, Fields, Kind, Location, Lww, Record};
use crate::record::refs::{RefValue, Refs};
use crate::record::state::State;
use crate::record::{Result, Source, trie};

/// A record commit, as far as merging looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The commit.
    pub commit: Oid,
    /// Its name and time.
    pub stamp: Stamp,
    /// The state it pins.
    pub state: State,
    /// The latest commit it knows of each branch, itself included; sorted by branch.
    pub seen: Vec<(BranchId, u64)>,
    /// Commits it knows by their content only; sorted.
    pub carried: Vec<Carried>,
}

impl Head {
    fn has_seen(&self, dot: Dot) -> bool {
        has_seen(&self.seen, dot)
    }

    /// Whether the stamp is that of another commit of the same name: only a member that lies
    /// makes such.
    fn is_twin_of(&self, other: Stamp) -> bool {
        self.stamp.dot() == other.dot() && self.stamp != other
    }
}

impl From<&RecordCommit> for Head {
    fn from(c: &RecordCommit) -> Self {
        Self {
            commit: c.id,
            stamp: c.head.stamp,
            state: c.state,
            seen: c.head.seen.clone(),
            carried: c.head.carried.clone(),
        }
    }
}

/// The heads that are in the history of no other, each once, sorted by id.
#[must_use]
pub fn maximal(heads: &[Head]) -> Vec<&Head> {
    let mut by_id: BTreeMap<Oid, &Head> = BTreeMap::new();
    for h in heads {
        by_id.insert(h.commit, h);
    }
    let all: Vec<&Head> = by_id.into_values().collect();
    let below = |a: &Head, b: &Head| {
        // Two commits of one name see each other: a fork that is not told apart stays whole.
        a.commit != b.commit && b.has_seen(a.stamp.dot()) && !a.has_seen(b.stamp.dot())
    };
    all.iter()
        .filter(|a| !all.iter().any(|b| below(a, b)))
        .copied()
        .collect()
}

/// The state that the heads make together.
///
/// # Errors
/// When a state cannot be read or written.
pub fn join(src: Source<'_>, dots: &dyn Dots, heads: &[Head]) -> Result<State> {
    let heads = maximal(heads);
    let [first, rest @ ..] = heads.as_slice() else {
        return State::empty(src);
    };
    if rest.iter().all(|h| h.state == first.state) {
        return Ok(first.state);
    }
    let heads = Heads::of(src, dots, &heads)?;
    let mut draft = Draft::new(src, dots, first.state, None)?;
    let roots: Vec<Oid> = heads.all.iter().map(|h| h.state.ids).collect();
    trie::visit_differing(src, &roots, &mut |id, row: &[Option<&Record>]| {
        draft.set(id, Some(join_record(id, &heads, row)))
    })?;
    if rest.iter().any(|h| h.state.refs != first.state.refs) {
        let mut all = Vec::with_capacity(heads.all.len());
        for h in &heads.all {
            all.push(h.state.refs(src)?);
        }
        *draft.refs_mut()? = join_refs(&heads, &all);
    }
    draft.settle()?;
    draft.finish()
}

/// What makes a state together.
struct Heads<'a> {
    all: Vec<&'a Head>,
    /// For each, the commits of the others that it knows by their content; sorted. A content
    /// commit only claims which record it belongs to: one that the record does not name is none.
    carried: Vec<Vec<Dot>>,
}

impl<'a> Heads<'a> {
    fn of(src: Source<'_>, dots: &dyn Dots, all: &[&'a Head]) -> Result<Self> {
        let mut carried = Vec::with_capacity(all.len());
        for h in all {
            let mut own = Vec::new();
            for c in h.carried.iter().filter(|c| !h.has_seen(c.dot)) {
                if !all.iter().any(|o| o.has_seen(c.dot)) {
                    continue;
                }
                if let Some(id) = dots.record_commit(c.dot)?
                    && commit::decode(src.objs, &id)?.head.content == Some(c.content)
                {
                    own.push(c.dot);
                }
            }
            own.sort_unstable();
            carried.push(own);
        }
        Ok(Self {
            all: all.to_vec(),
            carried,
        })
    }

    /// The parts of these lists, one of each head, that every head has which has seen them. With
    /// `in_git`, content alone is enough to have seen a part.
    fn survivors<T: Clone>(
        &self,
        lists: &[&[T]],
        stamp: fn(&T) -> Stamp,
        in_git: impl Fn(&T) -> bool,
    ) -> Vec<T> {
        let mut parts: BTreeMap<Stamp, &T> = BTreeMap::new();
        for part in lists.iter().copied().flatten() {
            parts.entry(stamp(part)).or_insert(part);
        }
        let heads = || self.all.iter().zip(&self.carried).zip(lists);
        let survives = |at: Stamp, in_git: bool| {
            heads().all(|((h, carried), list)| {
                let carried = in_git && carried.binary_search(&at.dot()).is_ok();
                let seen = carried || h.has_seen(at.dot()) && !h.is_twin_of(at);
                !seen || list.iter().any(|p| stamp(p) == at)
            })
        };
        parts
            .into_iter()
            .filter(|(at, part)| survives(*at, in_git(part)))
            .map(|(_, part)| part.clone())
            .collect()
    }
}

/// The parts that survive. What stands in for missing ones is derived later.
fn join_record(id: FileId, heads: &Heads<'_>, row: &[Option<&Record>]) -> Record {
    let empty = Record::new(id);
    let rows: Vec<&Record> = row.iter().map(|r| r.unwrap_or(&empty)).collect();
    let contents: Vec<&[Content]> = rows.iter().map(|r| r.content.as_slice()).collect();
    let locations: Vec<&[Location]> = rows.iter().map(|r| r.location.as_slice()).collect();
    let mut record = Record::new(id);
    // git shows files; it tells nothing of directories, which are more than what is in them.
    let in_git =
        |c: &Content| c.kind != Kind::Dir && (c.kind.is_in_git() || c.kind.target().is_some());
    record.content = heads.survivors(&contents, |c| c.stamp, in_git);
    for c in &mut record.content {
        // Marks only grow.
        let same = contents.iter().copied().flatten();
        let same = same.filter(|o| o.stamp == c.stamp);
        let all = |marks: fn(&Content) -> &[Dot]| -> Vec<Dot> {
            let all = same.clone().flat_map(marks).copied();
            all.collect::<BTreeSet<Dot>>().into_iter().collect()
        };
        let copy_at = all(|c| &c.copy_at);
        let gone_from = all(|c| &c.gone_from);
        (c.copy_at, c.gone_from) = (copy_at, gone_from);
    }
    let mut kinds = contents.iter().copied().flatten().peekable();
    let is_file = kinds.peek().is_some() && kinds.all(in_git);
    record.location = heads.survivors(&locations, |l| l.stamp, |_| is_file);
    record.fields = rows
        .iter()
        .fold(Fields::default(), |sum, r| join_fields(&sum, &r.fields));
    record
}

/// Per field, the later value.
#[must_use]
pub fn join_fields(a: &Fields, b: &Fields) -> Fields {
    Fields {
        mode: later(a.mode, b.mode),
        mtime: later(a.mtime, b.mtime),
        uid: later(a.uid, b.uid),
        gid: later(a.gid, b.gid),
        xattrs: if a.xattrs == b.xattrs {
            a.xattrs.clone()
        } else {
            let names: BTreeSet<_> = a.xattrs.keys().chain(b.xattrs.keys()).collect();
            let of = |f: &Fields, name| f.xattrs.get(name).cloned();
            let each = names.into_iter().filter_map(|name| {
                let value = later(of(a, name), of(b, name))?;
                Some((name.clone(), value))
            });
            each.collect()
        },
    }
}

fn later<T: Ord>(a: Option<Lww<T>>, b: Option<Lww<T>>) -> Option<Lww<T>> {
    match (a, b) {
        (Some(a), Some(b)) => {
            // Equal stamps have equal values unless a peer lies; then the larger, for all.
            let first = (a.stamp, &a.value) >= (b.stamp, &b.value);
            Some(if first { a } else { b })
        }
        (a, b) => a.or(b),
    }
}

fn join_refs(heads: &Heads<'_>, all: &[Refs]) -> Refs {
    let names: BTreeSet<&String> = all.iter().flat_map(|r| r.0.keys()).collect();
    let mut out = Refs::default();
    for name in names {
        let lists: Vec<&[RefValue]> = all
            .iter()
            .map(|r| r.0.get(name).map_or(&[][..], Vec::as_slice))
            .collect();
        let mut left = heads.survivors(&lists, |v| v.stamp, |_| false);
        left.sort_unstable_by(|a, b| b.cmp(a));
        if !left.is_empty() {
            out.0.insert(name.clone(), left);
        }
    }
    out
}
