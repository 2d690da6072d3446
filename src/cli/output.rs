//! Standard output: lines, aligned tables, JSON. A reader who has gone ends the command.

use std::fmt::Display;
use std::io::{self, Write};

use serde::Serialize;

use crate::control::failure::{Answer, Code, Failure};

/// Standard output.
#[derive(Debug)]
pub(super) struct Out(io::Stdout);

impl Out {
    pub(super) fn new() -> Self {
        Self(io::stdout())
    }

    /// Prints a line.
    pub(super) fn line(&mut self, text: impl Display) -> Answer<()> {
        let mut out = self.0.lock();
        writeln!(out, "{text}")
            .and_then(|()| out.flush())
            .map_err(|e| match e.kind() {
                io::ErrorKind::BrokenPipe => Failure::new(Code::BrokenPipe, e),
                _ => Failure::failed(format!("standard output: {e}")),
            })
    }

    /// Prints JSON with the version of its form: the object's own keys, or one key.
    pub(super) fn json(&mut self, key: Option<&str>, value: &impl Serialize) -> Answer<()> {
        let bug = |e| Failure::bug(format!("no JSON: {e}"));
        let value = serde_json::to_value(value).map_err(bug)?;
        let mut object = match (key, value) {
            (None, serde_json::Value::Object(o)) => o,
            (key, other) => {
                let mut o = serde_json::Map::new();
                o.insert(key.unwrap_or("value").to_owned(), other);
                o
            }
        };
        object.insert("v".to_owned(), 1.into());
        let text = serde_json::to_string_pretty(&object).map_err(bug)?;
        self.line(text)
    }

    /// Prints rows under headings, each column as wide as its widest cell.
    pub(super) fn table(&mut self, headings: &[&str], rows: &[Vec<String>]) -> Answer<()> {
        if rows.is_empty() {
            return Ok(());
        }
        self.line(aligned(headings, rows))
    }
}

fn aligned(headings: &[&str], rows: &[Vec<String>]) -> String {
    let mut width: Vec<usize> = headings.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (w, cell) in width.iter_mut().zip(row) {
            *w = (*w).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, w) in cells.zip(&width) {
            let w = *w;
            text += &format!("{:<w$}  ", visible(cell));
        }
        text.truncate(text.trim_end().len());
        text
    };
    let mut lines = Vec::new();
    if headings.iter().any(|h| !h.is_empty()) {
        lines.push(line(&mut headings.iter().copied()));
    }
    lines.extend(rows.iter().map(|r| line(&mut r.iter().map(String::as_str))));
    lines.join("\n")
}

/// Text from elsewhere, without what would steer the terminal.
pub(super) fn visible(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

pub(super) use crate::base::calendar::show as time;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_and_do_not_steer_the_terminal() {
        let rows = [
            vec!["a".to_owned(), "bcd".to_owned()],
            vec!["\x1b[31mlong".to_owned(), "e".to_owned()],
        ];
        assert_eq!(
            aligned(&["X", "Y"], &rows),
            "X          Y\na          bcd\n?[31mlong  e"
        );
    }
}
