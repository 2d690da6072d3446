//! YAML by keys of block mappings.
//!
//! One document whose top is a block mapping. Sequences and everything in braces are taken
//! whole. Texts with anchors, aliases or tags are not cut: what they mean is not in one place.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use super::entries::{Document, Entry, Format, Lines};
use super::value::{DEPTH_MAX, Value};

/// The format.
pub(super) struct Yaml;

/// Whether this is a YAML text of one document.
pub(super) fn is_valid(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(|t| parse(t).is_some())
}

impl Format for Yaml {
    fn cut(text: &str) -> Option<Document> {
        let lines = Lines::of(text);
        let Node {
            kind: Kind::Map(members),
            ..
        } = parse(text)?
        else {
            return None;
        };
        let mut done = 0;
        let entries = cut(&lines, &members, &mut done)?;
        Some(Document {
            entries,
            tail: lines.between(done, lines.len()),
        })
    }

    fn value(text: &str) -> Option<Value> {
        value_of(&parse(text)?)
    }
}

/// A value with its place; lines are counted from 0.
struct Node {
    kind: Kind,
    /// Line and column where it starts.
    start: (usize, usize),
    /// The line after its last.
    end: usize,
    /// Its last lines may look like comments and be none.
    is_block_text: bool,
}

enum Kind {
    Scalar(String),
    List(Vec<Node>),
    /// Within lines of its own.
    Map(Vec<(Node, Node)>),
}

fn parse(text: &str) -> Option<Node> {
    let mut events: Vec<(Event<'_>, Span)> = Vec::new();
    for event in Parser::new_from_str(text) {
        events.push(event.ok()?);
    }
    let mut events = events
        .into_iter()
        .filter(|(e, _)| !matches!(e, Event::Nothing | Event::StreamStart | Event::StreamEnd));
    let (Event::DocumentStart(_), _) = events.next()? else {
        return None;
    };
    let root = node(&mut events, 0)?;
    let (Event::DocumentEnd, _) = events.next()? else {
        return None;
    };
    events.next().is_none().then_some(root)
}

fn node<'a>(events: &mut impl Iterator<Item = (Event<'a>, Span)>, depth: usize) -> Option<Node> {
    let first = events.next()?;
    node_from(first, events, depth)
}

fn node_from<'a>(
    (event, span): (Event<'a>, Span),
    events: &mut impl Iterator<Item = (Event<'a>, Span)>,
    depth: usize,
) -> Option<Node> {
    if depth > DEPTH_MAX {
        return None;
    }
    let mut end = line_after(&span);
    let (kind, is_block_text) = match event {
        Event::Scalar(text, style, 0, None) => {
            let is_block_text = matches!(style, ScalarStyle::Literal | ScalarStyle::Folded);
            // "1" is a text and 1 a number.
            let quoted = if style == ScalarStyle::Plain {
                "plain"
            } else {
                "text"
            };
            (Kind::Scalar(format!("{quoted}:{text}")), is_block_text)
        }
        Event::SequenceStart(0, None) => {
            let mut items = Vec::new();
            loop {
                match events.next()? {
                    (Event::SequenceEnd, span) => {
                        end = end.max(line_after(&span));
                        break;
                    }
                    first => items.push(node_from(first, events, depth + 1)?),
                }
            }
            let is_block_text = items.last().is_some_and(|n: &Node| n.is_block_text);
            (Kind::List(items), is_block_text)
        }
        Event::MappingStart(0, None) => {
            let mut members = Vec::new();
            loop {
                match events.next()? {
                    (Event::MappingEnd, span) => {
                        end = end.max(line_after(&span));
                        break;
                    }
                    first => {
                        let key = node_from(first, events, depth + 1)?;
                        members.push((key, node(events, depth + 1)?));
                    }
                }
            }
            let last: Option<&(Node, Node)> = members.last();
            let is_block_text = last.is_some_and(|(_, n)| n.is_block_text);
            (Kind::Map(members), is_block_text)
        }
        _ => return None,
    };
    Some(Node {
        kind,
        start: (span.start.line().saturating_sub(1), span.start.col()),
        end,
        is_block_text,
    })
}

/// A part that ends at the start of a line does not reach into it.
fn line_after(span: &Span) -> usize {
    let line = span.end.line().saturating_sub(1);
    if span.end.col() == 0 { line } else { line + 1 }
}

fn cut(lines: &Lines<'_>, members: &[(Node, Node)], done: &mut usize) -> Option<Vec<Entry>> {
    let mut out = Vec::new();
    for (i, (key, value)) in members.iter().enumerate() {
        let (from, column) = key.start;
        let Kind::Scalar(name) = &key.kind else {
            return None;
        };
        // The key begins its line: no dash, brace or question mark before it.
        let before: String = lines.get(from).chars().take(column).collect();
        if from < *done || before.chars().any(|c| c != ' ') {
            return None;
        }
        let above = lines.between(*done, from);
        let next = members.get(i + 1).map(|(k, _)| k.start.0);
        let inner = match &value.kind {
            Kind::Map(members) if value.start.0 > from => Some(members),
            _ => None,
        };
        let (own, inner) = if let Some(members) = inner {
            *done = from + 1;
            let own = lines.between(from, from + 1);
            (own, Some(cut(lines, members, done)?))
        } else {
            let mut end = value.end.max(from + 1).min(next.unwrap_or(lines.len()));
            while !value.is_block_text && end > from + 1 && is_blank(lines.get(end - 1)) {
                end -= 1;
            }
            *done = end;
            (lines.between(from, end), None)
        };
        out.push(Entry {
            key: name.clone(),
            above,
            own,
            inner,
        });
    }
    Some(out)
}

fn is_blank(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#')
}

fn value_of(node: &Node) -> Option<Value> {
    Some(match &node.kind {
        Kind::Scalar(text) => Value::Scalar(text.clone()),
        Kind::List(items) => Value::List(items.iter().map(value_of).collect::<Option<_>>()?),
        Kind::Map(members) => {
            let mut out = BTreeMap::new();
            for (key, value) in members {
                let Kind::Scalar(key) = &key.kind else {
                    return None;
                };
                if out.insert(key.clone(), value_of(value)?).is_some() {
                    return None;
                }
            }
            Value::Map(out)
        }
    })
}
