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

/// A time in seconds since 1970, as `2026-11-21 07:55:03Z`.
pub(super) fn time(seconds: i64) -> String {
    let days = seconds.div_euclid(86_400);
    let s = seconds.rem_euclid(86_400);
    // Howard Hinnant's civil_from_days; beyond what it can hold nobody reads a date.
    let z = days.clamp(-1_000_000_000, 1_000_000_000) + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}Z",
        s / 3_600,
        s / 60 % 60,
        s % 60
    )
}

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

    #[test]
    fn times_are_those_of_date() {
        assert_eq!(time(0), "1970-01-01 00:00:00Z");
        assert_eq!(time(951_827_696), "2000-02-29 12:34:56Z");
        assert_eq!(time(-1), "1969-12-31 23:59:59Z");
    }
}
