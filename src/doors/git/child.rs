//! One git process for one request: fed from the request, drained into the answer.
//!
//! The process leads a group of its own; when the client goes, stalls or errs, its input
//! ends, its hooks are refused, and soon after the group is killed.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::body::Input;
use super::session::Session;
use super::{hook, repo};

/// Neither side moves a byte for so long: the client is taken for gone.
const STALL: Duration = Duration::from_secs(300);
/// From each way of ending a process to the next, rougher one.
const GRACE: Duration = Duration::from_secs(5);
/// For a client that still sends what git no longer reads.
const LINGER: Duration = Duration::from_secs(10);
/// Size of a read from git.
const PIECE: usize = 64 << 10;
/// Pieces between git and a slow client.
const PIECES: usize = 4;

/// What to run.
pub(super) struct Run<'a> {
    pub(super) args: &'a [&'a str],
    pub(super) repo: &'a Path,
    /// The client's `Git-Protocol`.
    pub(super) protocol: Option<&'a str>,
    /// Of a push: the directory of `hook.sock`, and its place among those that run.
    pub(super) push: Option<(&'a Path, Session)>,
    pub(super) permit: OwnedSemaphorePermit,
}

/// Pieces of git's output; an error when it failed.
pub(super) type Output = Receiver<io::Result<Bytes>>;

/// Starts git; it runs to its end, or until the output is dropped.
pub(super) fn start(run: Run<'_>, input: Option<Input>) -> io::Result<Output> {
    let mut command = repo::git();
    command
        .args(run.args)
        .arg(run.repo)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(protocol) = run.protocol {
        command.env("GIT_PROTOCOL", protocol);
    }
    let push = run.push.map(|(dir, session)| {
        command.env(hook::ENV_DIR, dir);
        command.env(hook::ENV_PUSH, session.key());
        session
    });
    let mut child = Command::from(command)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    if let Some(stderr) = child.stderr.take() {
        tokio::spawn(log(stderr));
    }
    let (send, output) = channel(PIECES);
    let group = child
        .id()
        .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let group = Group { child, group, push };
    tokio::spawn(async move {
        let kept = run.permit;
        if let Err(error) = drive(group, input, &send).await {
            tracing::debug!(%error, "a git process was cut short");
            let _ = tokio::time::timeout(LINGER, send.send(Err(error))).await;
        }
        drop(kept);
    });
    Ok(output)
}

/// A git process and its children.
struct Group {
    child: Child,
    group: Option<Pid>,
    push: Option<Session>,
}

impl Group {
    /// Ends it before its time. Its standard input is closed by now.
    async fn end(mut self, stdout: Option<ChildStdout>) {
        let push = self.push.take().and_then(Session::stop);
        if push.is_some() {
            // A receive-pack that a signal ends leaves its quarantine behind; one whose
            // input ends, or whose hook is refused, does not. It must be able to say so.
            let _ = tokio::time::timeout(GRACE, async {
                if let Some(mut stdout) = stdout {
                    let _ = tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await;
                }
                self.child.wait().await
            })
            .await;
        }
        if let Some(group) = self.group
            && matches!(self.child.try_wait(), Ok(None))
        {
            let _ = kill_process_group(group, Signal::TERM);
            if tokio::time::timeout(GRACE, self.child.wait())
                .await
                .is_err()
            {
                let _ = kill_process_group(group, Signal::KILL);
                let _ = self.child.wait().await;
            }
        }
        if let Some(push) = push {
            push.sweep();
        }
    }
}

/// When a byte last moved.
#[derive(Clone)]
struct Pulse {
    begin: Instant,
    last_ms: Arc<AtomicU64>,
}

impl Pulse {
    fn new() -> Self {
        Self {
            begin: Instant::now(),
            last_ms: Arc::default(),
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn beat(&self) {
        self.last_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// Returns when none did for [`STALL`].
    async fn stalled(&self) {
        let limit = u64::try_from(STALL.as_millis()).unwrap_or(u64::MAX);
        loop {
            let silent = self.now_ms() - self.last_ms.load(Ordering::Relaxed).min(self.now_ms());
            if silent >= limit {
                return;
            }
            tokio::time::sleep(Duration::from_millis(limit - silent)).await;
        }
    }
}

async fn drive(
    mut group: Group,
    input: Option<Input>,
    send: &Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    let (stdin, mut stdout) = (group.child.stdin.take(), group.child.stdout.take());
    let done = {
        let pulse = Pulse::new();
        let feed = feed(input, stdin, &pulse);
        let drain = drain(stdout.as_mut(), send, &pulse);
        tokio::pin!(feed, drain);
        let mut fed = false;
        let done = loop {
            tokio::select! {
                done = &mut feed, if !fed => {
                    fed = true;
                    if let Err(e) = done {
                        break Err(e);
                    }
                }
                done = &mut drain => break done,
                () = send.closed() => break Err(io::Error::other("the client has gone")),
                () = pulse.stalled() => break Err(io::ErrorKind::TimedOut.into()),
            }
        };
        if done.is_ok() && !fed {
            // An answer cut off while the client sends would never be read.
            let _ = tokio::time::timeout(LINGER, feed).await;
        }
        done
    };
    if let Err(e) = done {
        group.end(stdout).await;
        return Err(e);
    }
    let status = group.child.wait().await?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("git ended with {status}")))
    }
}

/// Request to git. When git has read enough, the rest is read and dropped.
async fn feed(
    input: Option<Input>,
    mut stdin: Option<ChildStdin>,
    pulse: &Pulse,
) -> io::Result<()> {
    let Some(mut input) = input else {
        return Ok(());
    };
    while let Some(piece) = input.next().await? {
        pulse.beat();
        if let Some(pipe) = &mut stdin
            && pipe.write_all(&piece).await.is_err()
        {
            stdin = None;
        }
        pulse.beat();
    }
    Ok(())
}

/// git to answer.
async fn drain(
    stdout: Option<&mut ChildStdout>,
    send: &Sender<io::Result<Bytes>>,
    pulse: &Pulse,
) -> io::Result<()> {
    let Some(stdout) = stdout else {
        return Ok(());
    };
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(PIECE);
        if stdout.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        pulse.beat();
        send.send(Ok(buffer.split().freeze()))
            .await
            .map_err(|_| io::Error::other("the client has gone"))?;
        pulse.beat();
    }
}

/// What git says on standard error goes to the log, line by line, each bounded.
async fn log(stderr: impl tokio::io::AsyncRead + Unpin) {
    let mut lines = BufReader::new(stderr);
    loop {
        let mut line = Vec::new();
        match (&mut lines).take(4_096).read_until(b'\n', &mut line).await {
            Ok(n) if n > 0 => {
                let line = String::from_utf8_lossy(&line);
                tracing::info!(target: "cellfs::git", "{}", line.trim_end());
            }
            _ => return,
        }
    }
}
