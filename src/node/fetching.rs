//! Fetches under way: how far each is, whether it is alive, and how it is ended.
//!
//! Invariant: a fetch that was given up reads nothing more from its peer, and what it says
//! afterwards counts for nothing. Work of our own on what came, which may take long, is never
//! taken for a peer's silence.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::base::id::NodeId;
use crate::control::wire::SyncProgress;
use crate::replicator::HeadNotice;
use crate::store::incoming::Progress;

/// A peer that has said what it will send may take this long to find out what that is.
const COUNTING: Duration = Duration::from_secs(600);

/// A fetch under way. Shared by its task, the replicator's task and who asks for the status.
#[derive(Debug)]
pub(super) struct Fetching {
    /// From whom.
    pub(super) from: NodeId,
    /// The pack that comes.
    pub(super) pack: Progress,
    bytes: AtomicU64,
    began: Instant,
    /// The peer has said which heads it will send.
    promised: AtomicBool,
    /// All has come, and is being checked and taken in.
    here: AtomicBool,
    given_up: CancellationToken,
    /// Notices whose commits turned out to be others.
    lies: Mutex<Vec<HeadNotice>>,
}

impl Fetching {
    pub(super) fn new(from: NodeId) -> Self {
        Self {
            from,
            pack: Progress::default(),
            bytes: AtomicU64::new(0),
            began: Instant::now(),
            promised: AtomicBool::new(false),
            here: AtomicBool::new(false),
            given_up: CancellationToken::new(),
            lies: Mutex::default(),
        }
    }

    /// Takes note of notices whose commits turned out to be others.
    pub(super) fn found_false(&self, lies: Vec<HeadNotice>) {
        let mut all = self.lies.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(lies);
    }

    /// What was noted so far.
    pub(super) fn lies(&self) -> Vec<HeadNotice> {
        std::mem::take(&mut *self.lies.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends the fetch: its next read fails.
    pub(super) fn give_up(&self) {
        self.given_up.cancel();
    }

    /// Returns when the fetch was given up.
    pub(super) async fn given_up(&self) {
        self.given_up.cancelled().await;
    }

    /// The same is asked for anew.
    pub(super) fn again(&self) {
        self.promised.store(false, Ordering::Relaxed);
        self.here.store(false, Ordering::Relaxed);
        self.pack.restart();
    }

    /// The peer has said which heads it will send; the pack follows.
    pub(super) fn promised(&self) {
        self.promised.store(true, Ordering::Relaxed);
    }

    /// Nothing more is awaited from the peer.
    pub(super) fn is_here(&self) {
        self.here.store(true, Ordering::Relaxed);
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether there is a sign of life since `bytes` had come.
    pub(super) fn is_alive_since(&self, bytes: &mut u64) -> bool {
        let before = std::mem::replace(bytes, self.bytes());
        let (done, total) = self.pack.objects();
        let all_came = total > 0 && done == total;
        let counting = self.promised.load(Ordering::Relaxed) && total == 0;
        *bytes != before
            || self.here.load(Ordering::Relaxed)
            || all_came
            || (counting && self.began.elapsed() < COUNTING)
    }

    /// For people.
    pub(super) fn progress(&self) -> SyncProgress {
        let (objects_done, objects_total) = self.pack.objects();
        SyncProgress {
            objects_done,
            objects_total,
            bytes_done: self.bytes(),
            from: self.from.to_string(),
        }
    }
}

/// What a peer answers: counts bytes, and ends when the fetch is given up.
pub(super) struct Answer<R> {
    inner: R,
    fetch: Arc<Fetching>,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<R> Answer<R> {
    pub(super) fn new(inner: R, fetch: Arc<Fetching>) -> Self {
        let ended = Box::pin(fetch.given_up.clone().cancelled_owned());
        Self {
            inner,
            fetch,
            ended,
        }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Answer<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ended.as_mut().poll(cx).is_ready() {
            let why = "given up: the peer is gone or silent";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        let came = u64::try_from(buf.filled().len() - before).unwrap_or(0);
        self.fetch.bytes.fetch_add(came, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_given_up_fetch_stops_waiting_for_its_peer() {
        let (mut peer, here) = tokio::io::duplex(64);
        let fetch = Arc::new(Fetching::new(NodeId([1; 32])));
        let mut answer = Answer::new(here, fetch.clone());
        peer.write_all(b"12345").await.unwrap();
        let mut seen = 0;
        assert!(!fetch.is_alive_since(&mut seen));
        answer.read_exact(&mut [0; 5]).await.unwrap();
        assert!(fetch.is_alive_since(&mut seen) && !fetch.is_alive_since(&mut seen));
        assert_eq!(fetch.progress().bytes_done, 5);
        let waits = tokio::spawn(async move { answer.read_exact(&mut [0; 1]).await });
        tokio::task::yield_now().await;
        fetch.give_up();
        let why = waits.await.unwrap().expect_err("nothing was sent");
        assert_eq!(why.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn only_waiting_for_bytes_is_silence() {
        let fetch = Fetching::new(NodeId([1; 32]));
        let mut seen = 0;
        assert!(!fetch.is_alive_since(&mut seen), "asked");
        fetch.promised();
        assert!(fetch.is_alive_since(&mut seen), "the peer counts");
        fetch.pack.expect(2);
        assert!(!fetch.is_alive_since(&mut seen), "the pack has begun");
        fetch.pack.came();
        assert!(!fetch.is_alive_since(&mut seen));
        fetch.pack.came();
        assert!(fetch.is_alive_since(&mut seen), "the pack is being synced");
    }
}
