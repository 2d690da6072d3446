//! JSON by keys of objects.
//!
//! What one side alone changed keeps its form, byte for byte; an object or list in which both
//! changed something is written anew, one entry a line with the indentation of the earlier
//! side, or in one line if it was in one there.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

use super::lines;
use super::value::DEPTH_MAX;

/// Whether this is a JSON text without doubled keys.
pub(super) fn is_valid(text: &[u8]) -> bool {
    parse(text).is_some()
}

/// Both sides' changes of the base, or `None` when both changed one thing.
pub(super) fn merge(a: &[u8], base: &[u8], b: &[u8]) -> Option<Vec<u8>> {
    let (left, was, right) = (parse(a)?, parse(base)?, parse(b)?);
    let text = std::str::from_utf8(a).ok()?;
    let merged = merge_nodes(Some(&was), &left, &right)?;
    let (start, end) = (text.len() - text.trim_start().len(), text.trim_end().len());
    let unit = indentation(text);
    let mut out = String::from(text.get(..start)?);
    write(&merged, &unit, 0, &mut out);
    out.push_str(text.get(end..)?);
    parse(out.as_bytes())?;
    Some(out.into_bytes())
}

/// A value with its text, as long as it is as one side wrote it.
#[derive(Clone, Debug)]
struct Node {
    raw: Option<String>,
    in_one_line: bool,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    /// By its text.
    Scalar(String),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

/// Without regard to form and order.
impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        match (&self.kind, &other.kind) {
            (Kind::Scalar(a), Kind::Scalar(b)) => a == b,
            (Kind::List(a), Kind::List(b)) => a == b,
            (Kind::Object(a), Kind::Object(b)) => a.len() == b.len() && by_key(a) == by_key(b),
            _ => false,
        }
    }
}

type Members = Vec<(String, Node)>;

fn by_key(members: &Members) -> BTreeMap<&String, &Node> {
    members.iter().map(|(k, v)| (k, v)).collect()
}

struct Pairs<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Vec<(String, &'de RawValue)>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut out = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    out.push(pair);
                }
                Ok(out)
            }
        }
        d.deserialize_map(All).map(Pairs)
    }
}

fn parse(text: &[u8]) -> Option<Node> {
    let raw: &RawValue = serde_json::from_slice(text).ok()?;
    node(raw.get(), 0)
}

fn node(raw: &str, depth: usize) -> Option<Node> {
    let raw = raw.trim();
    let kind = match raw.as_bytes().first()? {
        _ if depth > DEPTH_MAX => return None,
        b'{' => {
            let Pairs(pairs) = serde_json::from_str(raw).ok()?;
            let keys: BTreeSet<&String> = pairs.iter().map(|(k, _)| k).collect();
            if keys.len() < pairs.len() {
                return None;
            }
            let each = pairs
                .iter()
                .map(|(k, v)| Some((k.clone(), node(v.get(), depth + 1)?)));
            Kind::Object(each.collect::<Option<_>>()?)
        }
        b'[' => {
            let items: Vec<&RawValue> = serde_json::from_str(raw).ok()?;
            let each = items.iter().map(|v| node(v.get(), depth + 1));
            Kind::List(each.collect::<Option<_>>()?)
        }
        _ => Kind::Scalar(raw.to_owned()),
    };
    Some(Node {
        raw: Some(raw.to_owned()),
        in_one_line: !raw.contains('\n'),
        kind,
    })
}

fn merge_nodes(was: Option<&Node>, a: &Node, b: &Node) -> Option<Node> {
    if a == b || was == Some(b) {
        return Some(a.clone());
    }
    if was == Some(a) {
        return Some(b.clone());
    }
    let none = Members::new();
    let kind = match (was.map(|w| &w.kind), &a.kind, &b.kind) {
        (None, Kind::Object(a), Kind::Object(b)) => merge_objects(&none, a, b)?,
        (Some(Kind::Object(was)), Kind::Object(a), Kind::Object(b)) => merge_objects(was, a, b)?,
        (Some(Kind::List(was)), Kind::List(a), Kind::List(b)) => merge_lists(was, a, b)?,
        _ => return None,
    };
    Some(Node {
        raw: None,
        in_one_line: a.in_one_line,
        kind,
    })
}

fn merge_objects(was: &Members, a: &Members, b: &Members) -> Option<Kind> {
    let (old, left, right) = (by_key(was), by_key(a), by_key(b));
    let mut out = Members::new();
    for (key, x) in a {
        let before = old.get(key).copied();
        match right.get(key) {
            Some(y) => out.push((key.clone(), merge_nodes(before, x, y)?)),
            None if before == Some(x) => {}
            None => out.push((key.clone(), x.clone())),
        }
    }
    // What only the other side has goes after what it has before it.
    let mut at = None;
    for (key, y) in b {
        if let Some(i) = out.iter().position(|(k, _)| k == key) {
            at = Some(i);
        } else if !left.contains_key(key) && old.get(key).copied() != Some(y) {
            let i = at.map_or(0, |i| i + 1);
            let is_new = |k: &String| !old.contains_key(k) && !right.contains_key(k);
            let own = out.iter().skip(i).take_while(|(k, _)| is_new(k)).count();
            out.insert(i + own, (key.clone(), y.clone()));
            at = Some(i + own);
        }
    }
    Some(Kind::Object(out))
}

/// Lists of one length item by item; others as lines are merged, an item a line.
fn merge_lists(was: &[Node], a: &[Node], b: &[Node]) -> Option<Kind> {
    if was.len() == a.len() && a.len() == b.len() {
        let each = was.iter().zip(a).zip(b);
        let merged = each.map(|((was, a), b)| merge_nodes(Some(was), a, b));
        return Some(Kind::List(merged.collect::<Option<_>>()?));
    }
    let mut texts: BTreeMap<String, Node> = BTreeMap::new();
    let mut all = [was, a, b].map(|items| {
        let mut out = String::new();
        for item in items {
            let mut line = String::new();
            write_plain(item, &mut line);
            out.push_str(&line);
            out.push('\n');
            texts.entry(line).or_insert_with(|| item.clone());
        }
        out
    });
    let [was, a, b] = &mut all;
    let merged = lines::merge(a.as_bytes(), was.as_bytes(), b.as_bytes())?;
    let merged = String::from_utf8(merged).ok()?;
    let items = merged.lines().map(|line| texts.get(line).cloned());
    Some(Kind::List(items.collect::<Option<_>>()?))
}

/// Without white space, members sorted: the same for equal values.
fn write_plain(node: &Node, out: &mut String) {
    match &node.kind {
        Kind::Scalar(text) => out.push_str(text),
        Kind::List(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                write_plain(item, out);
            }
            out.push(']');
        }
        Kind::Object(members) => {
            out.push('{');
            for (i, (key, value)) in by_key(members).into_iter().enumerate() {
                out.push_str(if i > 0 { "," } else { "" });
                write_key(key, out);
                out.push(':');
                write_plain(value, out);
            }
            out.push('}');
        }
    }
}

fn write_key(key: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(key).to_string());
}

fn write(node: &Node, unit: &str, depth: usize, out: &mut String) {
    if let Some(raw) = &node.raw {
        return out.push_str(raw);
    }
    let spread = !node.in_one_line;
    let item = |first: bool, out: &mut String| {
        if spread {
            out.push_str(if first { "\n" } else { ",\n" });
            out.push_str(&unit.repeat(depth + 1));
        } else {
            out.push_str(if first { "" } else { ", " });
        }
    };
    let end = |is_empty: bool, out: &mut String| {
        if spread && !is_empty {
            out.push('\n');
            out.push_str(&unit.repeat(depth));
        }
    };
    match &node.kind {
        Kind::Scalar(text) => out.push_str(text),
        Kind::List(items) => {
            out.push('[');
            for (i, value) in items.iter().enumerate() {
                item(i == 0, out);
                write(value, unit, depth + 1, out);
            }
            end(items.is_empty(), out);
            out.push(']');
        }
        Kind::Object(members) => {
            out.push('{');
            for (i, (key, value)) in members.iter().enumerate() {
                item(i == 0, out);
                write_key(key, out);
                out.push_str(": ");
                write(value, unit, depth + 1, out);
            }
            end(members.is_empty(), out);
            out.push('}');
        }
    }
}

/// The white space before the first indented line.
fn indentation(text: &str) -> String {
    let indent = text.lines().find_map(|line| {
        let rest = line.trim_start_matches([' ', '\t']);
        let white = line.get(..line.len() - rest.len())?;
        (!white.is_empty() && !rest.is_empty()).then(|| white.to_owned())
    });
    let in_one_line = !text.trim().contains('\n');
    indent.unwrap_or_else(|| if in_one_line { "  " } else { "" }.to_owned())
}
