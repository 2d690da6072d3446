//! What differs between tries. Subtrees that are equal in all of them are never opened.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::id::Oid;
use crate::record::trie::key::Key;
use crate::record::trie::{Branch, Entry, Leaf, Link, Node, load, load_root};
use crate::record::{Result, Source};

/// What one of the tries has below the digits walked so far.
#[derive(Clone)]
enum Part<T: Entry> {
    Nothing,
    Stored(Link),
    /// A branch some of whose common digits were walked.
    Within(Arc<Branch>, usize),
    /// Entries of a leaf that have the digits walked.
    Some(Arc<Leaf<T>>, Vec<(Key, usize)>),
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
        Node::Leaf(leaf) => {
            let all = leaf.ids().iter().map(T::key).zip(0..).collect();
            Part::Some(leaf, all)
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

fn same<T: Entry>(a: &Part<T>, b: &Part<T>) -> bool {
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

/// An entry of one of the tries, as it is stored.
type Cell<'a, T> = Option<(&'a Leaf<T>, usize)>;

fn compare<T: Entry>(parts: &[Part<T>], f: &mut Visitor<'_, T>) -> Result<()> {
    if let Some(all) = aligned(parts) {
        let len = all.first().map_or(0, |(_, picked)| picked.len());
        let mut row: Vec<Cell<'_, T>> = Vec::with_capacity(all.len());
        for n in 0..len {
            row.clear();
            let at = |(leaf, picked): &(_, &[(Key, usize)])| Some((*leaf, picked.get(n)?.1));
            row.extend(all.iter().map(at));
            show(&row, f)?;
        }
        return Ok(());
    }
    let mut rows: BTreeMap<(Key, &T::Id), Vec<Cell<'_, T>>> = BTreeMap::new();
    for (n, p) in parts.iter().enumerate() {
        let Part::Some(leaf, picked) = p else {
            continue;
        };
        for (key, i) in picked {
            let Some(id) = leaf.ids().get(*i) else {
                continue;
            };
            let row = rows
                .entry((*key, id))
                .or_insert_with(|| vec![None; parts.len()]);
            if let Some(slot) = row.get_mut(n) {
                *slot = Some((leaf, *i));
            }
        }
    }
    rows.values().try_for_each(|row| show(row, f))
}

/// Entries of one part: where they are and their keys, in order.
type Picked<'a, T> = (&'a Leaf<T>, &'a [(Key, usize)]);

/// The entries of all parts, if they are of the same identities: then only bytes differ.
fn aligned<T: Entry>(parts: &[Part<T>]) -> Option<Vec<Picked<'_, T>>> {
    let mut out: Vec<Picked<'_, T>> = Vec::with_capacity(parts.len());
    for p in parts {
        let Part::Some(leaf, picked) = p else {
            return None;
        };
        out.push((leaf, picked));
    }
    let (first, of_first) = out.first().copied()?;
    let same = |(leaf, picked): &Picked<'_, T>| {
        let ids =
            |(a, b): (&(Key, usize), &(Key, usize))| leaf.ids().get(a.1) == first.ids().get(b.1);
        picked.len() == of_first.len() && picked.iter().zip(of_first).all(ids)
    };
    // In order, and none twice.
    let rises = |w: &[(Key, usize)]| match w {
        [a, b] => (a.0, first.ids().get(a.1)) < (b.0, first.ids().get(b.1)),
        _ => true,
    };
    (out.iter().skip(1).all(same) && of_first.windows(2).all(rises)).then_some(out)
}

/// Shows a row, unless all have the same.
fn show<T: Entry>(row: &[Cell<'_, T>], f: &mut Visitor<'_, T>) -> Result<()> {
    let alike = |a: &Cell<'_, T>, b: &Cell<'_, T>| match (a, b) {
        (None, None) => true,
        (Some((a, i)), Some((b, j))) => a.bytes(*i) == b.bytes(*j),
        _ => false,
    };
    if row.windows(2).all(|w| matches!(w, [a, b] if alike(a, b))) {
        return Ok(());
    }
    // Of many heads most have the same.
    let (mut known, mut values) = (Vec::<&Cell<'_, T>>::new(), Vec::<T>::new());
    let mut at: Vec<Option<usize>> = Vec::with_capacity(row.len());
    for cell in row {
        let found = known.iter().position(|k| alike(k, cell));
        let decoded = match (found, cell) {
            (None, Some((leaf, i))) => leaf.entry(*i)?,
            _ => None,
        };
        at.push(match decoded {
            Some(value) => {
                known.push(cell);
                values.push(value);
                Some(values.len() - 1)
            }
            None => found,
        });
    }
    let row_of: Vec<Option<&T>> = at.iter().map(|n| values.get((*n)?)).collect();
    if row_of.windows(2).all(|w| matches!(w, [a, b] if a == b)) {
        return Ok(());
    }
    let first = row.iter().flatten().next();
    match first.and_then(|(leaf, i)| leaf.ids().get(*i)) {
        Some(id) => f(id.clone(), &row_of),
        None => Ok(()),
    }
}
