//! `cellfs status --follow`: a line on what comes of large files, until all of it is here.
//!
//! On a terminal the line is drawn again and again; elsewhere there is one a second.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use super::output::{Out, visible};
use super::screen::size;
use crate::control::client::Client;
use crate::control::failure::Answer;
use crate::control::wire::{Status, Transfer};

/// Times between two lines: drawn, and printed.
const DRAWN: Duration = Duration::from_millis(200);
const PRINTED: Duration = Duration::from_secs(1);
/// So often in a row nothing comes before it is the end: a file may follow the last.
const STILL: u32 = 3;
const BAR: u64 = 24;

pub(super) fn follow(state: &Path) -> Answer<()> {
    let mut client = Client::connect(state)?;
    let is_drawn = io::stdout().is_terminal();
    let mut out = Out::new();
    let mut begun = None;
    let mut still = 0;
    loop {
        let status = client.status()?;
        let t = status.transfer.clone().unwrap_or_default();
        let begun = *begun.get_or_insert(t.bytes_done);
        still = if t.files + t.waiting == 0 {
            still + 1
        } else {
            0
        };
        let text = match still {
            0 => line(&t, begun, &status),
            _ => format!("all is here; {} came", size(t.bytes_done - begun)),
        };
        let is_end = still >= STILL;
        if is_drawn {
            let mut terminal = io::stdout().lock();
            let end = if is_end { "\n" } else { "" };
            let _closed = write!(terminal, "\r\x1b[2K{}{end}", visible(&text));
            let _closed = terminal.flush();
        } else if still == 0 || is_end {
            out.line(visible(&text))?;
        }
        if is_end {
            return Ok(());
        }
        std::thread::sleep(if is_drawn { DRAWN } else { PRINTED });
    }
}

/// How far it is.
fn line(t: &Transfer, begun: u64, status: &Status) -> String {
    let done = t.bytes_done.saturating_sub(begun);
    let all = done + t.bytes_left;
    let part = |of: u64| done.saturating_mul(of).checked_div(all).unwrap_or(0);
    let full = part(BAR).min(BAR);
    let bar = |c: &str, n: u64| c.repeat(usize::try_from(n).unwrap_or(0));
    let mut text = format!(
        "[{}{}] {:>3}%  {} of {}",
        bar("#", full),
        bar(".", BAR - full),
        part(100),
        size(done),
        size(all)
    );
    let files = |n: u64| if n == 1 { "file" } else { "files" };
    text += &format!(", {} {}", t.files, files(t.files));
    if t.waiting > 0 {
        text += &format!(" and {} that wait", t.waiting);
    }
    let name = |node: &str| {
        let peer = status.peers.iter().find(|p| p.node == node);
        peer.map_or_else(|| super::show::short(node), |p| p.name.clone())
    };
    let from: Vec<String> = t
        .from
        .iter()
        .filter(|f| f.rate > 0)
        .map(|f| format!("{} {}/s", name(&f.node), size(f.rate)))
        .collect();
    if !from.is_empty() {
        text += &format!(", {}/s from {}", size(t.rate), from.join(", "));
    }
    if let Some(s) = t.seconds_left {
        text += &format!(", {s} s left");
    }
    if let Some(why) = t.stuck.first() {
        text += &format!("; {why}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::wire::{Peer, Source};

    #[test]
    fn a_line_says_how_far_it_is_and_who_gives() {
        let node = "a".repeat(64);
        let status = Status {
            peers: vec![Peer {
                node: node.clone(),
                name: "attic".to_owned(),
                ..Peer::default()
            }],
            ..Status::default()
        };
        let mut t = Transfer {
            files: 2,
            waiting: 3,
            bytes_done: 30_000_000,
            bytes_left: 60_000_000,
            rate: 5_000_000,
            seconds_left: Some(12),
            from: vec![
                Source {
                    node,
                    bytes_done: 1,
                    rate: 5_000_000,
                },
                Source::default(),
            ],
            stuck: Vec::new(),
        };
        assert_eq!(
            line(&t, 10_000_000, &status),
            "[######..................]  25%  20.0 MB of 80.0 MB, 2 files and 3 that wait, \
             5.0 MB/s from attic 5.0 MB/s, 12 s left"
        );
        t = Transfer {
            files: 1,
            stuck: vec!["nobody has it".to_owned()],
            ..Transfer::default()
        };
        assert_eq!(
            line(&t, 0, &status),
            "[........................]   0%  0 kB of 0 kB, 1 file; nobody has it"
        );
    }
}
