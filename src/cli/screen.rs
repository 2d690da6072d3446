//! What a person sees while a node starts, and how the person is asked.

use std::io::{self, BufRead, IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::output::{Out, visible};
use super::paths::quoted;
use crate::control::failure::Answer;
use crate::control::readiness::{Event, Ready, Starter};
use crate::control::wire::SyncProgress;

/// A wait shorter than this shows no progress.
const QUIET: Duration = Duration::from_millis(250);
/// Time between two drawings.
const FRAME: Duration = Duration::from_millis(34);

/// The terminal, if there is one, of the person who starts a node.
#[derive(Debug)]
pub(super) struct Screen {
    begin: Instant,
    drawn: Mutex<Option<Instant>>,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self {
            begin: Instant::now(),
            drawn: Mutex::new(None),
        }
    }

    fn draw(&self, p: &SyncProgress) {
        let Ok(mut drawn) = self.drawn.lock() else {
            return;
        };
        let due = drawn.map_or(self.begin + QUIET, |d| d + FRAME);
        if Instant::now() < due || !io::stderr().is_terminal() {
            return;
        }
        *drawn = Some(Instant::now());
        let _ = write!(io::stderr(), "\r\x1b[2K{}", progress_line(p));
    }

    /// Takes the progress line away before anything else is written.
    fn clear(&self) {
        if let Ok(mut drawn) = self.drawn.lock()
            && drawn.take().is_some()
        {
            let _ = write!(io::stderr(), "\r\x1b[2K");
        }
    }
}

fn progress_line(p: &SyncProgress) -> String {
    let mb = p.bytes_done / 1_000_000;
    let done = p.objects_done.min(p.objects_total);
    match (done * 100).checked_div(p.objects_total) {
        None if p.objects_done == 0 => "syncing".to_owned(),
        None => format!("syncing: {} objects, {mb} MB", p.objects_done),
        Some(percent) => format!(
            "syncing: {percent}% ({done} of {} objects, {mb} MB)",
            p.objects_total
        ),
    }
}

impl Starter for Screen {
    fn tell(&self, event: &Event) {
        match event {
            Event::Sync(p) => self.draw(p),
            Event::Note { text } => {
                self.clear();
                let _ = writeln!(io::stderr(), "{}", visible(text));
            }
            Event::Ready(ready) => {
                self.clear();
                let _ = facts(ready);
            }
            // Told by the command's end.
            Event::Failed(_) => self.clear(),
            Event::Confirm { .. } => {}
        }
    }

    fn ask(&self, code: &str) -> Option<bool> {
        self.clear();
        let mut err = io::stderr();
        let _ = writeln!(
            err,
            "pairing code: {}\n`cellfs members` on a node of the cell must show the same code; \
             let this node in there with: cellfs admit CODE",
            visible(code)
        );
        if !io::stdin().is_terminal() {
            return None;
        }
        let _ = write!(err, "The same code there? [y/N] ");
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer).ok()?;
        let answer = answer.trim().to_ascii_lowercase();
        Some(matches!(answer.as_str(), "y" | "yes"))
    }
}

/// Prints what to know of a node that is ready, the git URL last.
pub(super) fn facts(ready: &Ready) -> Answer<()> {
    let mut out = Out::new();
    out.line(format_args!("node {}", ready.node))?;
    if let Some(ticket) = &ready.join {
        let dir = ready
            .dir
            .as_deref()
            .map_or_else(|| "DIR".to_owned(), quoted);
        out.line(format_args!("join cellfs mount {dir} --join {ticket}"))?;
    }
    if let Some(url) = &ready.url {
        out.line(format_args!("git {url}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_one_short_line() {
        let mut p = SyncProgress {
            objects_done: 50,
            objects_total: 200,
            bytes_done: 12_345_678,
            from: String::new(),
        };
        assert_eq!(progress_line(&p), "syncing: 25% (50 of 200 objects, 12 MB)");
        p.objects_total = 0;
        assert_eq!(progress_line(&p), "syncing: 50 objects, 12 MB");
    }
}
