//! What differs between tries. Subtrees that are equal in all of them are never opened.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::id::Oid;
use crate::record::trie::key::Key;
use crate::record::trie::{Branch, Entry, Link, Node, load, load_root};
use crate::record::{Result, Source};

/// What one of the tries has below the digits walked so far.
#[derive(Clone)]
enum Part<T> {
    Nothing,
    Stored(Link),
    /// A branch some of whose common digits were walked.
    Within(Arc<Branch>, usize),
    /// Entries of a leaf that have the digits walked.
    Some(Arc<Vec<T>>, Vec<(Key, usize)>),
}

/// One identity and what each of the tries has for it.
pub type Row<T> = (<T as Entry>::Id, Vec<Option<T>>);

/// Is shown an identity and what each of the tries has for it.
type Visitor<'a, T> = dyn FnMut(<T as Entry>::Id, &[Option<&T>]) -> Result<()> + 'a;

/// The entries that are not the same in all of these tries, in order.
///
/// # Errors
/// When a trie cannot be read.
pub fn differing<T: Entry>(src: Source<'_>, roots: &[Oid]) -> Result<Vec<Row<T>>> {
    let mut out = Vec::new();
    visit_differing(src, roots, &mut |id, row: &[Option<&T>]| {
        out.push((id, row.iter().map(|e| e.cloned()).collect()));
        Ok(())
    })?;
    Ok(out)
}

/// Shows the entries of [`differing`] one by one: there may be as many as files.
///
/// # Errors
/// When a trie cannot be read; as `f`.
pub fn visit_differing<T: Entry>(
    src: Source<'_>,
    roots: &[Oid],
    f: &mut Visitor<'_, T>,
) -> Result<()> {
    if roots.windows(2).all(|w| matches!(w, [a, b] if a == b)) {
        return Ok(());
    }
    let mut parts = Vec::with_capacity(roots.len());
    for root in roots {
        parts.push(part(load_root(src, *root)?));
    }
    walk(src, parts, 0, f)
}

fn part<T: Entry>(node: Node<T>) -> Part<T> {
    match node {
        Node::Leaf(entries) => {
            let all = entries.iter().map(Entry::place).zip(0..).collect();
            Part::Some(entries, all)
        }
        Node::Branch(b) => Part::Within(b, 0),
    }
}

fn walk<T: Entry>(
    src: Source<'_>,
    mut parts: Vec<Part<T>>,
    depth: usize,
    f: &mut Visitor<'_, T>,
) -> Result<()> {
    if parts.windows(2).all(|w| matches!(w, [a, b] if same(a, b))) {
        return Ok(());
    }
    for p in &mut parts {
        if let Part::Stored(link) = p {
            *p = part(load(src, *link, depth)?);
        }
    }
    if !parts.iter().any(|p| matches!(p, Part::Within(..))) {
        return compare(&parts, f);
    }
    let mut below: Vec<Vec<Part<T>>> = (0..8).map(|_| Vec::new()).collect();
    for p in parts {
        for (row, p) in below.iter_mut().zip(step(p, depth)) {
            row.push(p);
        }
    }
    for row in below {
        walk(src, row, depth + 1, f)?;
    }
    Ok(())
}

fn same<T>(a: &Part<T>, b: &Part<T>) -> bool {
    match (a, b) {
        (Part::Nothing, Part::Nothing) => true,
        (Part::Stored(a), Part::Stored(b)) => a == b,
        (Part::Within(a, n), Part::Within(b, m)) => n == m && Arc::ptr_eq(a, b),
        _ => false,
    }
}

/// The part, split by the next digit.
fn step<T: Entry>(part: Part<T>, depth: usize) -> [Part<T>; 8] {
    let mut out: [Part<T>; 8] = std::array::from_fn(|_| Part::Nothing);
    match part {
        Part::Nothing | Part::Stored(_) => {}
        Part::Within(b, used) => match b.skip.get(used) {
            Some(d) => {
                if let Some(slot) = out.get_mut(usize::from(*d)) {
                    *slot = Part::Within(b, used + 1);
                }
            }
            None => {
                for (slot, kid) in out.iter_mut().zip(&b.kids) {
                    *slot = kid.map_or(Part::Nothing, Part::Stored);
                }
            }
        },
        Part::Some(entries, picked) => {
            let mut split: [Vec<(Key, usize)>; 8] = Default::default();
            for (key, i) in picked {
                if let Some(s) = split.get_mut(usize::from(key.digit(depth))) {
                    s.push((key, i));
                }
            }
            for (slot, picked) in out.iter_mut().zip(split) {
                if !picked.is_empty() {
                    *slot = Part::Some(Arc::clone(&entries), picked);
                }
            }
        }
    }
    out
}

fn compare<T: Entry>(parts: &[Part<T>], f: &mut Visitor<'_, T>) -> Result<()> {
    let mut rows: BTreeMap<(Key, T::Id), Vec<Option<&T>>> = BTreeMap::new();
    for (n, p) in parts.iter().enumerate() {
        let Part::Some(entries, picked) = p else {
            continue;
        };
        for (key, i) in picked {
            let Some(e) = entries.get(*i) else { continue };
            let row = rows
                .entry((*key, e.id()))
                .or_insert_with(|| vec![None; parts.len()]);
            if let Some(slot) = row.get_mut(n) {
                *slot = Some(e);
            }
        }
    }
    for ((_, id), row) in rows {
        if !row.windows(2).all(|w| matches!(w, [a, b] if a == b)) {
            f(id, &row)?;
        }
    }
    Ok(())
}
