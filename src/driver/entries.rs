//! Merge of text whose lines are entries with keys: formatting and comments stay as they are.
//!
//! A format cuts its text into entries, each with the comments above it; entries that differ
//! are taken whole, with their lines, from the side that changed them. What comes out is parsed
//! again and must mean what the values merge to; else there is no result.

use std::collections::{BTreeMap, BTreeSet};

use super::value::{self, Value};

/// A format that can be cut into entries. Invariant: the lines of a document, in order, are the
/// text.
pub(super) trait Format {
    /// The text's entries, or `None` when it has a form that cannot be cut.
    fn cut(text: &str) -> Option<Document>;
    /// What the text means, or `None` when it is not of the format.
    fn value(text: &str) -> Option<Value>;
}

/// A text, cut.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Document {
    pub(super) entries: Vec<Entry>,
    /// What follows the last entry.
    pub(super) tail: String,
}

/// Lines that belong together.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    /// What tells it from the others beside it.
    pub(super) key: String,
    /// Comments and empty lines above it.
    pub(super) above: String,
    /// Its own lines.
    pub(super) own: String,
    /// Entries in it; nothing, if it is not made of such.
    pub(super) inner: Option<Vec<Self>>,
}

impl Entry {
    fn write(&self, out: &mut String) {
        for part in [&self.above, &self.own] {
            end_line(out);
            out.push_str(part);
        }
        for entry in self.inner.iter().flatten() {
            entry.write(out);
        }
    }
}

/// Only the last line of a text may lack its end.
fn end_line(out: &mut String) {
    if !out.is_empty() && !out.ends_with('\n') {
        out.push('\n');
    }
}

/// Both sides' changes of the base, by entries.
pub(super) fn merge<F: Format>(a: &[u8], base: &[u8], b: &[u8]) -> Option<Vec<u8>> {
    let [a, base, b] = [a, base, b].map(std::str::from_utf8);
    let (a, base, b) = (a.ok()?, base.ok()?, b.ok()?);
    let meant = value::merge(Some(&F::value(base)?), &F::value(a)?, &F::value(b)?)?;
    let (a, base, b) = (F::cut(a)?, F::cut(base)?, F::cut(b)?);
    let merged = Document {
        entries: merge_lists(&base.entries, &a.entries, &b.entries)?,
        tail: either(&base.tail, &a.tail, &b.tail)?.clone(),
    };
    let mut out = String::new();
    for entry in &merged.entries {
        entry.write(&mut out);
    }
    if !merged.tail.is_empty() {
        end_line(&mut out);
        out.push_str(&merged.tail);
    }
    (F::value(&out)? == meant).then(|| out.into_bytes())
}

/// The one that changed, if not both did.
fn either<'a, T: PartialEq>(base: &T, a: &'a T, b: &'a T) -> Option<&'a T> {
    if a == b || b == base {
        return Some(a);
    }
    (a == base).then_some(b)
}

fn merge_lists(base: &[Entry], a: &[Entry], b: &[Entry]) -> Option<Vec<Entry>> {
    let (old, left, right) = (by_key(base)?, by_key(a)?, by_key(b)?);
    let mut out: Vec<Entry> = Vec::new();
    for x in a {
        let was = old.get(&x.key).copied();
        match right.get(&x.key) {
            Some(y) => out.push(merge_entry(was, x, y)?),
            // Removed there: gone, unless it was changed here.
            None if was == Some(x) => {}
            None => out.push(x.clone()),
        }
    }
    // What only the other side has goes after what it has before it.
    let mut at = 0;
    let mut placed: BTreeSet<&String> = BTreeSet::new();
    for y in b {
        if let Some(i) = out.iter().position(|e| e.key == y.key) {
            at = i + 1;
        } else if !left.contains_key(&y.key) && old.get(&y.key).copied() != Some(y) {
            // Behind what this side put at the same place.
            while out
                .get(at)
                .is_some_and(|e| is_new(e, &old, &right) && !placed.contains(&e.key))
            {
                at += 1;
            }
            out.insert(at, y.clone());
            placed.insert(&y.key);
            at += 1;
        }
    }
    Some(out)
}

fn is_new(e: &Entry, old: &BTreeMap<&String, &Entry>, right: &BTreeMap<&String, &Entry>) -> bool {
    !old.contains_key(&e.key) && !right.contains_key(&e.key)
}

fn merge_entry(was: Option<&Entry>, x: &Entry, y: &Entry) -> Option<Entry> {
    if x == y || was == Some(y) {
        return Some(x.clone());
    }
    if was == Some(x) {
        return Some(y.clone());
    }
    let (Some(left), Some(right)) = (&x.inner, &y.inner) else {
        return None;
    };
    let none = Entry {
        key: x.key.clone(),
        above: String::new(),
        own: String::new(),
        inner: Some(Vec::new()),
    };
    let was = was.unwrap_or(&none);
    Some(Entry {
        key: x.key.clone(),
        above: either(&was.above, &x.above, &y.above)?.clone(),
        own: either(&was.own, &x.own, &y.own)?.clone(),
        inner: Some(merge_lists(was.inner.as_deref()?, left, right)?),
    })
}

/// The entries by key, if no two have the same.
fn by_key(entries: &[Entry]) -> Option<BTreeMap<&String, &Entry>> {
    let all: BTreeMap<&String, &Entry> = entries.iter().map(|e| (&e.key, e)).collect();
    (all.len() == entries.len()).then_some(all)
}

/// Lines of a text, each with its end.
pub(super) struct Lines<'a>(Vec<&'a str>);

impl<'a> Lines<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        Self(text.split_inclusive('\n').collect())
    }

    /// The line with this number, counted from 0.
    pub(super) fn get(&self, n: usize) -> &'a str {
        self.0.get(n).copied().unwrap_or_default()
    }

    /// The lines from one number up to, without, another.
    pub(super) fn between(&self, from: usize, to: usize) -> String {
        self.0
            .get(from..to.min(self.0.len()))
            .unwrap_or_default()
            .concat()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
