//! TOML by keys and tables.

use toml_edit::{Document as Parsed, Item, Table};

use super::entries::{Document, Entry, Format, Lines};
use super::value::Value;

/// The format. Inline tables and arrays are taken whole; of an array of tables each element
/// goes by its number.
pub(super) struct Toml;

/// Whether this is a TOML text.
pub(super) fn is_valid(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(|t| Toml::value(t).is_some())
}

impl Format for Toml {
    fn cut(text: &str) -> Option<Document> {
        let parsed = Parsed::parse(text).ok()?;
        let mut found = Vec::new();
        find(parsed.as_table(), &mut Vec::new(), &mut found)?;
        let starts: Vec<usize> = text.match_indices('\n').map(|(i, _)| i + 1).collect();
        let line_of = |at: usize| starts.partition_point(|s| *s <= at);
        let mut at: Vec<(usize, usize, Found)> = found
            .into_iter()
            .map(|f| {
                (
                    line_of(f.span.start),
                    line_of(f.span.end.saturating_sub(1)) + 1,
                    f,
                )
            })
            .collect();
        at.sort_by_key(|(from, _, _)| *from);
        let lines = Lines::of(text);
        let mut out: Vec<Entry> = Vec::new();
        let mut done = 0;
        for (from, to, found) in at {
            if from < done {
                return None;
            }
            let entry = Entry {
                key: found.key,
                above: lines.between(done, from),
                own: lines.between(from, to),
                inner: found.is_table.then(Vec::new),
            };
            done = to;
            match out.last_mut().and_then(|last| last.inner.as_mut()) {
                Some(inner) if !found.is_table => inner.push(entry),
                _ => out.push(entry),
            }
        }
        Some(Document {
            entries: out,
            tail: lines.between(done, lines.len()),
        })
    }

    fn value(text: &str) -> Option<Value> {
        Some(value_of(&::toml::Value::Table(text.parse().ok()?)))
    }
}

/// Something that begins a line.
struct Found {
    key: String,
    span: std::ops::Range<usize>,
    is_table: bool,
}

/// All keys with a value and all headers below a table. `None`: something has no place.
fn find(table: &Table, path: &mut Vec<String>, out: &mut Vec<Found>) -> Option<()> {
    for (name, item) in table {
        path.push(name.to_owned());
        match item {
            Item::None => {}
            Item::Value(value) => {
                let key = table.key(name)?.span()?;
                out.push(Found {
                    key: joined(path),
                    span: key.start..value.span()?.end,
                    is_table: false,
                });
            }
            Item::Table(inner) => {
                if !inner.is_implicit() && !inner.is_dotted() {
                    out.push(header(path, inner)?);
                }
                find(inner, path, out)?;
            }
            Item::ArrayOfTables(all) => {
                for (i, inner) in all.iter().enumerate() {
                    path.push(format!("#{i}"));
                    out.push(header(path, inner)?);
                    find(inner, path, out)?;
                    path.pop();
                }
            }
        }
        path.pop();
    }
    Some(())
}

fn header(path: &[String], table: &Table) -> Option<Found> {
    Some(Found {
        key: format!("[{}", joined(path)),
        span: table.span()?,
        is_table: true,
    })
}

/// Told apart whatever is in the names.
fn joined(path: &[String]) -> String {
    path.iter().map(|p| format!("{}:{p}", p.len())).collect()
}

fn value_of(value: &::toml::Value) -> Value {
    match value {
        ::toml::Value::Table(table) => Value::Map(
            table
                .iter()
                .map(|(k, v)| (k.clone(), value_of(v)))
                .collect(),
        ),
        ::toml::Value::Array(items) => Value::List(items.iter().map(value_of).collect()),
        scalar => Value::Scalar(format!("{}:{scalar}", scalar.type_str())),
    }
}
