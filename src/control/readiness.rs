//! How a node that starts tells its starter how it goes, and when it is ready.
//!
//! The starter is a terminal (`-f`, `serve`), or the `cellfs mount` that runs the node in
//! the background: then JSON lines go over a socket that is the node's standard input, and
//! one line comes back when a person has compared the pairing code.
//!
//! Invariant: exactly one of ready and failed is told, once; a starter that is slow or gone
//! never blocks the node. A starter that goes before the node is ready takes it down.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::LINE_BYTES_MAX;
use super::failure::{Answer, Failure};
use super::wire::SyncProgress;

/// Lines that wait for a slow starter; progress beyond it is dropped.
const LINES_QUEUED: usize = 64;
/// How long the last line may take to be written.
const FLUSH: Duration = Duration::from_secs(2);

/// What a person wants to know of a node that is ready, or of a folder just mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The node's id.
    pub node: String,
    /// A ticket for the next node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join: Option<String>,
    /// The volume's git URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The folder, if one is mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
}

/// One line of a node that starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Event {
    /// The folder answers.
    Ready(Ready),
    /// It never will.
    Failed(Failure),
    /// Compare this code with what the cell shows; the answer is awaited.
    Confirm {
        /// The pairing code.
        code: String,
    },
    /// How far the first sync is.
    Sync(SyncProgress),
    /// One line for a person.
    Note {
        /// The line.
        text: String,
    },
}

/// The starter's reply to [`Event::Confirm`]; `None` when there is nobody to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmed {
    /// What the person said.
    pub confirmed: Option<bool>,
}

/// Who started the node.
pub trait Starter: Send + Sync {
    /// Shows an event; must not block for long.
    fn tell(&self, event: &Event);
    /// Shows a code and waits until somebody has compared it; `None` when nobody can.
    fn ask(&self, code: &str) -> Option<bool>;
}

/// A node's line to its starter. Clones share it.
#[derive(Clone)]
pub struct Readiness {
    starter: Arc<dyn Starter>,
    told: Arc<AtomicBool>,
    yes: Option<String>,
}

impl std::fmt::Debug for Readiness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Readiness")
            .field("told", &self.told)
            .finish_non_exhaustive()
    }
}

impl Readiness {
    /// A line to `starter`; a pairing code equal to `yes` is confirmed without asking.
    #[must_use]
    pub fn new(starter: Arc<dyn Starter>, yes: Option<String>) -> Self {
        Self {
            starter,
            told: Arc::default(),
            yes,
        }
    }

    /// The folder answers (or, without one, the node does). Also tells systemd.
    pub fn ready(&self, ready: Ready) {
        if !self.told.swap(true, Ordering::SeqCst) {
            notify_systemd(&format!("READY=1\nSTATUS=node {}", ready.node));
            self.starter.tell(&Event::Ready(ready));
        }
    }

    /// The node cannot run. Told once; nothing after [`Self::ready`].
    pub fn failed(&self, failure: Failure) {
        if !self.told.swap(true, Ordering::SeqCst) {
            self.starter.tell(&Event::Failed(failure));
        }
    }

    /// Whether [`Self::ready`] or [`Self::failed`] was called.
    #[must_use]
    pub fn is_told(&self) -> bool {
        self.told.load(Ordering::SeqCst)
    }

    /// How far the first sync is. May be called often.
    pub fn sync(&self, progress: SyncProgress) {
        self.starter.tell(&Event::Sync(progress));
    }

    /// One line for the person who waits.
    pub fn note(&self, text: impl Into<String>) {
        self.starter.tell(&Event::Note { text: text.into() });
    }

    /// Shows the pairing code and waits, maybe for minutes, until the person who started the
    /// node has compared it. Blocking: call it on a thread that may wait.
    ///
    /// # Errors
    /// Refused when the codes differ, or when nobody can be asked.
    pub fn confirm(&self, code: &str) -> Answer<()> {
        if let Some(yes) = &self.yes {
            if bare(yes) == bare(code) {
                self.note(format!(
                    "pairing code {code}, as given by --yes: let this node in with \
                     `cellfs admit {code}` on a node of the cell"
                ));
                return Ok(());
            }
            return Err(Failure::refused(format!(
                "the pairing code is {code}, not {yes} as --yes says"
            ))
            .hint("compare it with what `cellfs members` shows on a node of the cell"));
        }
        match self.starter.ask(code) {
            Some(true) => Ok(()),
            Some(false) => Err(Failure::refused("the pairing code was not confirmed")
                .hint("compare it with what `cellfs members` shows on a node of the cell, then mount again")),
            None => Err(Failure::refused(format!(
                "pairing code {code} was not confirmed: there is no terminal to ask on"
            ))
            .hint(format!(
                "when `cellfs members` on a node of the cell shows the same code, mount again with: --yes {code}"
            ))),
        }
    }
}

/// A code as it compares: letters and digits, without case.
fn bare(code: &str) -> String {
    code.chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_lowercase())
        .collect()
}

/// Tells systemd, when it started us with `Type=notify`.
fn notify_systemd(state: &str) {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let addr = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        name => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name)),
    };
    let sent = addr.and_then(|addr| {
        let socket = UnixDatagram::unbound()?;
        socket.send_to_addr(state.as_bytes(), &addr)
    });
    if let Err(error) = sent {
        tracing::warn!(%error, "systemd could not be told");
    }
}

/// The background node's end of the line to its starter.
#[derive(Debug)]
pub struct Pipe {
    lines: SyncSender<Vec<u8>>,
    written: Mutex<Receiver<()>>,
    replies: Mutex<Receiver<Confirmed>>,
    ended: Arc<AtomicBool>,
}

impl Pipe {
    /// Takes the line from standard input.
    ///
    /// # Errors
    /// When standard input is not a socket.
    pub fn from_stdin() -> io::Result<Self> {
        let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        Self::new(stream)
    }

    fn new(stream: UnixStream) -> io::Result<Self> {
        // Proves that it is a socket.
        stream.local_addr()?;
        let ended = Arc::new(AtomicBool::new(false));
        let (reply, replies) = sync_channel(1);
        let (read, done) = (stream.try_clone()?, Arc::clone(&ended));
        thread("starter-in", move || listen(read, &reply, &done))?;
        let (lines, queue) = sync_channel(LINES_QUEUED);
        let (done, written) = sync_channel(1);
        thread("starter-out", move || speak(stream, &queue, &done))?;
        Ok(Self {
            lines,
            written: Mutex::new(written),
            replies: Mutex::new(replies),
            ended,
        })
    }
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(run).map(drop)
}

/// Takes in replies; ends the node when its starter goes too early.
fn listen(stream: UnixStream, replies: &SyncSender<Confirmed>, ended: &AtomicBool) {
    let mut read = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        let got = (&mut read).take(4096).read_until(b'\n', &mut line);
        if !matches!(got, Ok(n) if n > 0) {
            break;
        }
        if let Ok(reply) = serde_json::from_slice(&line)
            && replies.try_send(reply).is_err()
        {
            break;
        }
    }
    if !ended.load(Ordering::SeqCst) {
        tracing::warn!("the command that started this node has gone; ending");
        let me = rustix::process::getpid();
        let _ = rustix::process::kill_process(me, rustix::process::Signal::TERM);
    }
}

/// Writes lines, however slowly they are read, until the last one.
fn speak(mut stream: UnixStream, queue: &Receiver<Vec<u8>>, written: &SyncSender<()>) {
    while let Ok(line) = queue.recv() {
        // An empty line is the end.
        if line.is_empty() || stream.write_all(&line).is_err() {
            break;
        }
    }
    let _ = stream.shutdown(std::net::Shutdown::Both);
    let _ = written.try_send(());
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // The line ends from this side: the starter is not to blame.
        self.ended.store(true, Ordering::SeqCst);
    }
}

impl Starter for Pipe {
    fn tell(&self, event: &Event) {
        let last = matches!(event, Event::Ready(_) | Event::Failed(_));
        if self.ended.fetch_or(last, Ordering::SeqCst) {
            return;
        }
        let Ok(mut line) = serde_json::to_vec(event) else {
            return;
        };
        line.push(b'\n');
        if matches!(event, Event::Sync(_)) {
            // The next one says the same and more.
            let _ = self.lines.try_send(line);
            return;
        }
        // What must be read is worth a wait, but not for ever.
        let begin = Instant::now();
        while let Err(TrySendError::Full(back)) = self.lines.try_send(line) {
            if begin.elapsed() > FLUSH {
                return;
            }
            line = back;
            std::thread::sleep(Duration::from_millis(10));
        }
        if last
            && self.lines.try_send(Vec::new()).is_ok()
            && let Ok(written) = self.written.lock()
        {
            let _ = written.recv_timeout(FLUSH);
        }
    }

    fn ask(&self, code: &str) -> Option<bool> {
        let replies = self.replies.lock().ok()?;
        self.tell(&Event::Confirm {
            code: code.to_owned(),
        });
        replies.recv().ok()?.confirmed
    }
}

/// The starter's end of the line to a background node.
#[derive(Debug)]
pub struct Watch {
    stream: BufReader<UnixStream>,
}

impl Watch {
    /// Makes the line: our end, and the end to be the node's standard input.
    ///
    /// # Errors
    /// When the system has no socket left.
    pub fn pair() -> io::Result<(Self, std::os::fd::OwnedFd)> {
        let (ours, theirs) = UnixStream::pair()?;
        let stream = BufReader::new(ours);
        Ok((Self { stream }, theirs.into()))
    }

    /// The next event; `None` when the node has gone, or speaks nonsense.
    ///
    /// # Errors
    /// When the line breaks.
    pub fn next_event(&mut self) -> io::Result<Option<Event>> {
        let mut line = Vec::new();
        let limit = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX);
        (&mut self.stream)
            .take(limit)
            .read_until(b'\n', &mut line)?;
        Ok(serde_json::from_slice(&line).ok())
    }

    /// Replies to [`Event::Confirm`].
    ///
    /// # Errors
    /// When the line breaks.
    pub fn reply(&mut self, confirmed: Option<bool>) -> io::Result<()> {
        let mut line = serde_json::to_vec(&Confirmed { confirmed })?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_background_node_tells_asks_and_is_told() {
        let (mut watch, fd) = Watch::pair().expect("socketpair");
        let pipe = Pipe::new(UnixStream::from(fd)).expect("pipe");
        let line = Readiness::new(Arc::new(pipe), None);
        let node = std::thread::spawn({
            let line = line.clone();
            move || {
                line.sync(SyncProgress::default());
                let confirmed = [line.confirm("AB-12"), line.confirm("AB-12")];
                line.ready(Ready::default());
                line.failed(Failure::failed("not told"));
                confirmed
            }
        });
        let mut events = Vec::new();
        let mut replies = [Some(true), None].into_iter();
        while let Some(event) = watch.next_event().expect("line") {
            if matches!(event, Event::Confirm { .. }) {
                watch.reply(replies.next().flatten()).expect("line");
            }
            events.push(event);
        }
        let [first, second] = node.join().expect("node");
        assert!(first.is_ok() && line.is_told());
        assert!(second.is_err_and(|f| f.hint.is_some_and(|h| h.contains("--yes AB-12"))));
        assert_eq!(events.last(), Some(&Event::Ready(Ready::default())));
        assert_eq!(events.len(), 4);
    }

    #[test]
    fn yes_compares_without_asking() {
        struct Nobody;
        impl Starter for Nobody {
            fn tell(&self, _: &Event) {}
            fn ask(&self, _: &str) -> Option<bool> {
                None
            }
        }
        let line = Readiness::new(Arc::new(Nobody), Some("ab12 cd34".to_owned()));
        assert!(line.confirm("AB12-CD34").is_ok());
        let refused = line.confirm("AB12-CD35").expect_err("another code");
        assert_eq!(refused.code, super::super::failure::Code::Refused);
    }
}
