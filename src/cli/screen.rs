//! What a person sees while a node starts, and how the person is asked.

use std::collections::VecDeque;
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
/// The rate is taken over about this time.
const PACE: Duration = Duration::from_secs(4);
/// Time between two drawings.
const FRAME: Duration = Duration::from_millis(34);

/// The terminal, if there is one, of the person who starts a node.
#[derive(Debug)]
pub(super) struct Screen {
    begin: Instant,
    drawn: Mutex<Option<Instant>>,
    pace: Mutex<Pace>,
}

/// Bytes per second over the last while.
#[derive(Debug, Default)]
struct Pace(VecDeque<(Instant, u64)>);

impl Pace {
    /// So many bytes are here; the rate, once there is something to tell.
    fn at(&mut self, now: Instant, bytes: u64) -> Option<u64> {
        if self.0.back().is_some_and(|(_, b)| *b > bytes) {
            // Another fetch.
            self.0.clear();
        }
        while self.0.len() > 1 && self.0.front().is_some_and(|(t, _)| now - *t > PACE) {
            self.0.pop_front();
        }
        let due = self.0.back().is_none_or(|(t, _)| now - *t >= PACE / 16);
        if due {
            self.0.push_back((now, bytes));
        }
        let (first, before) = *self.0.front()?;
        let ms = u64::try_from((now - first).as_millis()).ok()?;
        (bytes - before).saturating_mul(1000).checked_div(ms)
    }
}

impl Screen {
    pub(super) fn new() -> Self {
        Self {
            begin: Instant::now(),
            drawn: Mutex::new(None),
            pace: Mutex::default(),
        }
    }

    fn draw(&self, p: &SyncProgress) {
        let (Ok(mut drawn), Ok(mut pace)) = (self.drawn.lock(), self.pace.lock()) else {
            return;
        };
        let rate = pace.at(Instant::now(), p.bytes_done);
        let due = drawn.map_or(self.begin + QUIET, |d| d + FRAME);
        if Instant::now() < due || !io::stderr().is_terminal() {
            return;
        }
        *drawn = Some(Instant::now());
        let _ = write!(io::stderr(), "\r\x1b[2Ksyncing: {}", progress(p, rate));
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

/// How far a fetch is, in words; `rate` in bytes per second.
pub(super) fn progress(p: &SyncProgress, rate: Option<u64>) -> String {
    let done = p.objects_done.min(p.objects_total);
    let Some(percent) = (done * 100).checked_div(p.objects_total) else {
        return "waiting for what is missing".to_owned();
    };
    let rate = rate.map_or_else(String::new, |r| format!(", {}/s", size(r)));
    format!(
        "{percent}%, {done} of {} objects, {}{rate}",
        p.objects_total,
        size(p.bytes_done)
    )
}

pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{} kB", bytes / 1_000),
        1_000_000..100_000_000 => {
            format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10)
        }
        _ => format!("{} MB", bytes / 1_000_000),
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
        if !io::stdin().is_terminal() {
            // The refusal that follows shows the code.
            return None;
        }
        let mut err = io::stderr();
        let _ = writeln!(
            err,
            "pairing code: {}\n`cellfs members` on a node of the cell must show the same code; \
             let this node in there with: cellfs admit CODE",
            visible(code)
        );
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
        assert_eq!(
            progress(&p, Some(345_000)),
            "25%, 50 of 200 objects, 12.3 MB, 345 kB/s"
        );
        p.objects_total = 0;
        assert_eq!(progress(&p, None), "waiting for what is missing");
    }

    #[test]
    fn the_rate_is_that_of_the_last_while() {
        let mut pace = Pace::default();
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        assert_eq!(pace.at(at(0), 0), None);
        assert_eq!(pace.at(at(1_000), 1_000_000), Some(1_000_000));
        for s in 2..=60 {
            pace.at(at(s * 1_000), 1_000_000 + (s - 1) * 5_000);
        }
        let rate = pace.at(at(61_000), 1_300_000).expect("a rate");
        assert!((4_900..5_100).contains(&rate), "{rate}");
        assert!(pace.0.len() < 40);
        assert_eq!(pace.at(at(62_000), 10), None, "another fetch");
    }
}
