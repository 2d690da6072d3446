//! A link: the one live connection to a member, with its tasks and queues.
//!
//! Invariant: there is at most one link per member; of two connections the one whose dialler
//! has the smaller id serves, of two by the same dialler the newer, and a restarted peer's
//! always. Queues to a link are bounded and drop what is new when full: state, membership
//! and announcements are repaired by later rounds, so a slow peer never slows the others.
//!
//! Tasks per link: one writer and one reader of control frames, one writer of messages, one
//! acceptor of messages and one of requests; all end with the connection.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::core::Core;
use super::flood::ANNOUNCE_BYTES_MAX;
use super::hello::Met;
use super::statement::Statement;
use super::transport::{Close, Conn, Ended, RecvStream, SendStream};
use super::wire::{read_frame, write_frame};
use super::{gossip, proxy};
use crate::base::id::NodeId;

/// Control frames that wait for a slow peer; full: the frame is dropped.
const CONTROL_QUEUE_MAX: usize = 64;
/// Gossip messages that wait; full: dropped.
const GOSSIP_QUEUE_MAX: usize = 64;
/// Announcements that wait; full: dropped.
const ANNOUNCE_QUEUE_MAX: usize = 256;
/// Messages of one peer that are read at the same time.
const MESSAGES_AT_ONCE: usize = 16;
/// A message or the head of a request must arrive in this time.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest control frame.
pub(crate) const CONTROL_BYTES_MAX: usize = 4 << 20;
/// Statements are sent in frames of about this size.
const STATEMENTS_FRAME_BYTES: usize = 1 << 20;
/// Largest message: an announcement with its frame, or chitchat's largest.
const MESSAGE_BYTES_MAX: usize = ANNOUNCE_BYTES_MAX + 4096;

/// What travels on the control stream.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Control {
    /// Statements that the other side may lack.
    Statements(Vec<Statement>),
    /// First halves of the ids of all statements here: send what is not among them. `ask`:
    /// and tell me what you have if I lack something.
    Have { ids: Vec<[u8; 16]>, ask: bool },
}

/// First byte of a message stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Gossip = 1,
    Announce = 2,
}

/// First byte of a stream both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// For the owner's handler.
    Owner = 1,
    /// A join to redeem, passed on.
    Join = 2,
}

/// A live connection to a member.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) node: NodeId,
    pub(crate) conn: Conn,
    pub(crate) boot: u64,
    pub(crate) skew_ms: i64,
    pub(crate) release: String,
    control: mpsc::Sender<Control>,
    gossip: mpsc::Sender<Bytes>,
    announce: mpsc::Sender<Bytes>,
}

/// The receiving ends of a link's queues.
pub(crate) struct Queues {
    control: mpsc::Receiver<Control>,
    gossip: mpsc::Receiver<Bytes>,
    announce: mpsc::Receiver<Bytes>,
}

impl Link {
    /// A link over a greeted connection, its queues and its control stream.
    pub(crate) fn new(conn: Conn, met: Met) -> (Arc<Self>, Queues, (SendStream, RecvStream)) {
        let (control, control_from) = mpsc::channel(CONTROL_QUEUE_MAX);
        let (gossip, gossip_from) = mpsc::channel(GOSSIP_QUEUE_MAX);
        let (announce, announce_from) = mpsc::channel(ANNOUNCE_QUEUE_MAX);
        let link = Self {
            node: conn.node(),
            conn,
            boot: met.hello.boot,
            skew_ms: met.skew_ms,
            release: met.hello.release,
            control,
            gossip,
            announce,
        };
        let queues = Queues {
            control: control_from,
            gossip: gossip_from,
            announce: announce_from,
        };
        (Arc::new(link), queues, met.control)
    }

    /// Whether this connection should serve rather than `old`.
    pub(crate) fn beats(&self, old: &Self, me: NodeId) -> bool {
        let dialler = |l: &Self| if l.conn.is_dialler() { me } else { l.node };
        match self.boot.cmp(&old.boot) {
            std::cmp::Ordering::Equal => dialler(self) <= dialler(old),
            newer => newer.is_gt(),
        }
    }

    /// Queues a control frame.
    pub(crate) fn send_control(&self, frame: Control) {
        let _ = self.control.try_send(frame);
    }

    /// Queues statements, in frames of bounded size.
    pub(crate) fn send_statements(&self, statements: Vec<Statement>) {
        let mut frame = Vec::new();
        let mut bytes = 0;
        for statement in statements {
            bytes += statement.len();
            frame.push(statement);
            if bytes > STATEMENTS_FRAME_BYTES {
                self.send_control(Control::Statements(std::mem::take(&mut frame)));
                bytes = 0;
            }
        }
        if !frame.is_empty() {
            self.send_control(Control::Statements(frame));
        }
    }

    /// Queues a gossip message.
    pub(crate) fn send_gossip(&self, message: Bytes) {
        let _ = self.gossip.try_send(message);
    }

    /// Queues an announcement.
    pub(crate) fn send_announce(&self, message: Bytes) {
        let _ = self.announce.try_send(message);
    }

    /// Opens a stream both ways of this kind.
    pub(crate) async fn ask(&self, kind: Ask) -> std::io::Result<(SendStream, RecvStream)> {
        let (mut send, recv) = self.conn.open_bi().await?;
        send.write_all(&[kind as u8]).await?;
        Ok((send, recv))
    }
}

/// Runs a link until its connection ends; says how it ended.
pub(crate) async fn run(
    core: Arc<Core>,
    link: Arc<Link>,
    queues: Queues,
    control: (SendStream, RecvStream),
) -> Ended {
    let (control_send, control_recv) = control;
    let tasks = [
        core.spawn(write_control(control_send, queues.control)),
        core.spawn(read_control(
            Arc::clone(&core),
            Arc::clone(&link),
            control_recv,
        )),
        core.spawn(write_messages(
            Arc::clone(&link),
            queues.gossip,
            queues.announce,
        )),
        core.spawn(accept_messages(Arc::clone(&core), Arc::clone(&link))),
        core.spawn(accept_requests(Arc::clone(&core), Arc::clone(&link))),
    ];
    let ended = tokio::select! {
        ended = link.conn.ended() => ended,
        () = core.stopped() => {
            link.conn.close(Close::Shutdown);
            Ended::Closed(Close::Shutdown)
        }
    };
    for task in tasks {
        task.abort();
    }
    ended
}

async fn write_control(mut send: SendStream, mut queue: mpsc::Receiver<Control>) {
    while let Some(frame) = queue.recv().await {
        if write_frame(&mut send, &frame).await.is_err() {
            return;
        }
    }
}

async fn read_control(core: Arc<Core>, link: Arc<Link>, mut recv: RecvStream) {
    loop {
        match read_frame::<Control>(&mut recv, CONTROL_BYTES_MAX).await {
            Ok(Control::Statements(statements)) => core.learn(statements, Some(link.node)),
            Ok(Control::Have { ids, ask }) => core.answer_have(&link, &ids, ask),
            Err(error) => {
                tracing::debug!(peer = ?link.node, %error, "control stream ended");
                link.conn.close(Close::Protocol);
                return;
            }
        }
    }
}

async fn write_messages(
    link: Arc<Link>,
    mut gossip: mpsc::Receiver<Bytes>,
    mut announce: mpsc::Receiver<Bytes>,
) {
    loop {
        let (kind, message) = tokio::select! {
            biased;
            Some(m) = announce.recv() => (Kind::Announce, m),
            Some(m) = gossip.recv() => (Kind::Gossip, m),
            else => return,
        };
        let written = async {
            let mut send = link.conn.open_uni().await?;
            send.write_all(&[kind as u8]).await?;
            send.write_all(&message).await?;
            send.finish();
            std::io::Result::Ok(())
        };
        if let Err(error) = written.await {
            tracing::debug!(peer = ?link.node, %error, "could not send a message");
            return;
        }
    }
}

async fn accept_messages(core: Arc<Core>, link: Arc<Link>) {
    let slots = Arc::new(Semaphore::new(MESSAGES_AT_ONCE));
    while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
        let Ok(mut recv) = link.conn.accept_uni().await else {
            return;
        };
        let (core, node) = (Arc::clone(&core), link.node);
        let task = async move {
            let read = timeout(MESSAGE_TIMEOUT, recv.read_all(MESSAGE_BYTES_MAX)).await;
            if let Ok(Ok(bytes)) = read {
                message(&core, node, &bytes);
            }
            drop(slot);
        };
        Arc::clone(&link).spawn_on(task);
    }
}

fn message(core: &Arc<Core>, from: NodeId, bytes: &[u8]) {
    match bytes.split_first() {
        Some((1, body)) => gossip::receive(core, from, body),
        Some((2, body)) => core.hear(body, Some(from)),
        _ => tracing::debug!(peer = ?from, "a message of unknown kind"),
    }
}

async fn accept_requests(core: Arc<Core>, link: Arc<Link>) {
    // QUIC bounds the number of requests open at a time.
    while let Ok((send, mut recv)) = link.conn.accept_bi().await {
        let (core, node) = (Arc::clone(&core), link.node);
        let task = async move {
            let kind = timeout(MESSAGE_TIMEOUT, recv.read_u8()).await;
            match kind {
                Ok(Ok(1)) => core.handler().serve(node, recv, send).await,
                Ok(Ok(2)) => proxy::redeem_for(&core, node, recv, send).await,
                _ => tracing::debug!(peer = ?node, "a request of unknown kind"),
            }
        };
        Arc::clone(&link).spawn_on(task);
    }
}

impl Link {
    /// Runs a task that ends with the connection.
    fn spawn_on(self: Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(async move {
            tokio::select! {
                () = task => {}
                _ = self.conn.ended() => {}
            }
        });
    }
}
