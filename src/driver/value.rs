//! What structured text means, without its form: the check on merges of the form.
//!
//! Entries of a map are merged one by one; scalars and lists are taken whole from the side that
//! changed them. An entry that one side removed and the other changed stays, changed.

use std::collections::{BTreeMap, BTreeSet};

/// How deep maps may be in each other.
pub(super) const DEPTH_MAX: usize = 100;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// Anything without parts, told apart by its type and its text.
    Scalar(String),
    /// A list.
    List(Vec<Self>),
    /// Values by key; the order does not matter.
    Map(BTreeMap<String, Self>),
}

/// Both sides' changes of the base, or `None` when both changed one thing.
pub(super) fn merge(base: Option<&Value>, a: &Value, b: &Value) -> Option<Value> {
    if a == b || base == Some(b) {
        return Some(a.clone());
    }
    if base == Some(a) {
        return Some(b.clone());
    }
    let (Value::Map(a), Value::Map(b)) = (a, b) else {
        return None;
    };
    let none = BTreeMap::new();
    let base = match base {
        Some(Value::Map(base)) => base,
        None => &none,
        Some(_) => return None,
    };
    let mut out = BTreeMap::new();
    let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    for key in keys {
        let was = base.get(key);
        let kept = match (a.get(key), b.get(key)) {
            (Some(x), Some(y)) => Some(merge(was, x, y)?),
            (Some(one), None) | (None, Some(one)) => (was != Some(one)).then(|| one.clone()),
            (None, None) => None,
        };
        out.extend(kept.map(|v| (key.clone(), v)));
    }
    Some(Value::Map(out))
}
