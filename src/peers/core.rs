//! What all tasks of the room share: the log, the links, the address book.
//!
//! Invariant: locks here are held for plain data only, never across an await, and one at a
//! time (where two meet: gossip's or the flood's first, then the roll's). A change of the log is told,
//! passed on, enforced on the links and scheduled for disk in one place, [`Core::learn`].

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::cell::{self, Book, Cell, Paths};
use super::error::{PeersError, Refusal};
use super::events::{Event, Events};
use super::flood::{self, Flood};
use super::gossip::Gossip;
use super::hello::{Greeter, Hello, judge};
use super::invites::Invites;
use super::key::NodeKey;
use super::link::{Control, Link};
use super::pending::Pending;
use super::roll::{Roll, Standing};
use super::statement::{Statement, StatementId};
use super::ticket::ADDRS_MAX;
use super::transport::{Close, Transport};
use super::{Config, Handler, files};
use crate::base::clock;
use crate::base::id::NodeId;

/// Clocks farther apart than this are reported.
const SKEW_REPORT_S: i64 = 300;
/// The log on disk follows changes after this pause, so that a burst is written once.
const KEEP_PAUSE: Duration = Duration::from_millis(50);

/// The shared state.
pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) me: NodeId,
    pub(crate) cell: NodeId,
    pub(crate) generation: u64,
    pub(crate) transport: Transport,
    pub(crate) gossip: Gossip,
    pub(crate) invites: tokio::sync::Mutex<Invites>,
    pub(crate) pending: Mutex<Pending>,
    pub(crate) events: Events,
    handler: Arc<dyn Handler>,
    paths: Paths,
    roll: Mutex<Roll>,
    book: Mutex<Book>,
    links: Mutex<BTreeMap<NodeId, Arc<Link>>>,
    flood: Mutex<Flood>,
    announced: AtomicU64,
    /// Nodes that are neither dialled nor accepted: a cut made on purpose.
    cut: Mutex<HashSet<NodeId>>,
    /// Counts changes of links, members and addresses; diallers watch it.
    pub(crate) changes: watch::Sender<u64>,
    unsaved: Notify,
    disk: tokio::sync::Mutex<()>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Locks plain data; a panic elsewhere does not spread.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Core {
    pub(crate) fn new(
        config: Config,
        cell: Cell,
        transport: Transport,
        handler: Arc<dyn Handler>,
        events: Events,
    ) -> Result<Self, PeersError> {
        let generation = cell::next_generation(&cell.paths)?;
        Ok(Self {
            me: cell.me,
            cell: cell.id(),
            generation,
            transport,
            gossip: Gossip::default(),
            invites: tokio::sync::Mutex::new(Invites::load(cell.paths.invites())?),
            pending: Mutex::default(),
            events,
            handler,
            paths: cell.paths,
            roll: Mutex::new(cell.roll),
            book: Mutex::new(cell.book),
            links: Mutex::default(),
            flood: Mutex::default(),
            announced: AtomicU64::new(0),
            cut: Mutex::default(),
            changes: watch::channel(0).0,
            unsaved: Notify::new(),
            disk: tokio::sync::Mutex::new(()),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            config,
        })
    }

    // Tasks.

    /// Starts a task that [`Core::shut`] waits for.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.start(task).abort_handle()
    }

    fn start(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = task => {}
                // Links say goodbye by themselves; everything else just ends.
                () = async { stop.cancelled().await; tokio::time::sleep(Duration::from_secs(2)).await } => {}
            }
        })
    }

    /// Waits until the room is shutting down.
    pub(crate) async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Whether the room is shutting down.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Tells all tasks to end.
    pub(crate) fn cancel(&self) {
        self.stop.cancel();
    }

    /// Ends all tasks, writes what is unsaved, closes the port.
    pub(crate) async fn shut(&self) {
        self.stop.cancel();
        self.tasks.close();
        let _ = tokio::time::timeout(Duration::from_secs(3), self.tasks.wait()).await;
        if let Err(error) = self.save().await {
            tracing::error!(%error, "could not store the membership");
        }
        self.transport.close().await;
    }

    pub(crate) fn handler(&self) -> &Arc<dyn Handler> {
        &self.handler
    }

    pub(crate) fn key(&self) -> &NodeKey {
        &self.config.key
    }

    /// Wakes those that wait for a change of links, members, addresses or visitors.
    pub(crate) fn changed(&self) {
        self.changes.send_modify(|n| *n += 1);
    }

    // The log.

    /// Reads the log.
    pub(crate) fn with_roll<T>(&self, read: impl FnOnce(&Roll) -> T) -> T {
        read(&lock(&self.roll))
    }

    /// Whether a node is a member.
    pub(crate) fn is_member(&self, node: NodeId) -> bool {
        lock(&self.roll).is_member(node)
    }

    /// Adds statements, tells what changed, passes them on, and enforces them.
    pub(crate) fn learn(&self, statements: Vec<Statement>, from: Option<NodeId>) {
        let (added, before, after) = {
            let mut roll = lock(&self.roll);
            let before = roll.standings().clone();
            let added = roll.add(statements).unwrap_or_else(|error| {
                tracing::error!(%error, "statements were dropped");
                Vec::new()
            });
            (added, before, roll.standings().clone())
        };
        if added.is_empty() {
            return;
        }
        for link in self.links() {
            if Some(link.node) != from {
                link.send_statements(added.clone());
            }
        }
        self.unsaved.notify_one();
        self.tell_standings(&before, &after);
        lock(&self.flood).retain(|n| matches!(after.get(&n), Some(Standing::Member { .. })));
        for link in self.links() {
            match after.get(&link.node) {
                Some(Standing::Member { .. }) => {}
                Some(Standing::Forgotten { .. }) => link.conn.refuse(&Refusal::Forgotten),
                Some(Standing::Left { .. }) => link.conn.close(Close::NotMember),
                None => link.conn.refuse(&Refusal::VoidCertificate),
            }
        }
        self.gossip.know(after.keys().copied());
        self.changed();
    }

    fn tell_standings(
        &self,
        before: &BTreeMap<NodeId, Standing>,
        after: &BTreeMap<NodeId, Standing>,
    ) {
        let was = |n: &NodeId| matches!(before.get(n), Some(Standing::Member { .. }));
        for (&node, standing) in after {
            let (graceful, reason) = match standing {
                Standing::Member { name, .. } => {
                    if !was(&node) {
                        let name = name.clone();
                        self.events.tell(Event::Joined { node, name });
                    }
                    continue;
                }
                Standing::Left { .. } => (true, "it left the cell"),
                Standing::Forgotten { .. } => (false, "it was forgotten"),
            };
            if was(&node) {
                let reason = reason.to_owned();
                self.events.tell(Event::Left {
                    node,
                    graceful,
                    reason,
                });
            }
        }
        for &node in before.keys().filter(|n| was(n) && !after.contains_key(n)) {
            self.events.tell(Event::Left {
                node,
                graceful: false,
                reason: "a forgotten node had let it in".to_owned(),
            });
        }
    }

    /// Writes log and addresses.
    pub(crate) async fn save(&self) -> Result<(), PeersError> {
        let _one_at_a_time = self.disk.lock().await;
        let log = cell::log_bytes(&lock(&self.roll));
        let book = cell::book_bytes(&lock(&self.book));
        files::replace_soon(self.paths.log(), log).await?;
        files::replace_soon(self.paths.book(), book).await
    }

    /// Follows changes with writes.
    pub(crate) async fn keep(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.unsaved.notified() => {}
                () = self.stopped() => return,
            }
            tokio::time::sleep(KEEP_PAUSE).await;
            if let Err(error) = self.save().await {
                tracing::error!(%error, "could not store the membership");
            }
        }
    }

    /// Asks a peer for the statements we lack.
    pub(crate) fn ask_log(&self, link: &Link, ask: bool) {
        let ids = self.with_roll(|r| r.statements().map(|(id, _)| half(id)).collect());
        link.send_control(Control::Have { ids, ask });
    }

    /// Answers [`Self::ask_log`].
    pub(crate) fn answer_have(&self, link: &Link, theirs: &[[u8; 16]], ask: bool) {
        let theirs: HashSet<_> = theirs.iter().collect();
        let (missing, common, all) = self.with_roll(|r| {
            let missing: Vec<_> = r
                .statements()
                .filter(|(id, _)| !theirs.contains(&half(id)))
                .map(|(_, s)| s.clone())
                .collect();
            let all = r.statements().count();
            let common = all - missing.len();
            (missing, common, all)
        });
        tracing::debug!(peer = ?link.node, lacks = missing.len(), has = all, "compared logs");
        link.send_statements(missing);
        if ask && theirs.len() > common {
            self.ask_log(link, false);
        }
    }

    // Links.

    /// All links.
    pub(crate) fn links(&self) -> Vec<Arc<Link>> {
        lock(&self.links).values().cloned().collect()
    }

    /// The link to a node.
    pub(crate) fn link(&self, node: NodeId) -> Option<Arc<Link>> {
        lock(&self.links).get(&node).cloned()
    }

    /// Makes a greeted connection the link to its node; false when another one serves.
    pub(crate) fn raise(&self, link: &Arc<Link>, hello: &Hello) -> bool {
        let old = {
            let mut links = lock(&self.links);
            if let Some(old) = links.get(&link.node)
                && !link.beats(old, self.me)
            {
                return false;
            }
            links.insert(link.node, Arc::clone(link))
        };
        link.conn.trust();
        if let Some(old) = &old {
            old.conn.close(Close::Duplicate);
        }
        let (node, addr) = (link.node, link.conn.addr());
        self.note_addrs(node, addr, &hello.addrs);
        if old.as_ref().is_none_or(|o| o.boot != link.boot) {
            if old.is_some() {
                self.events.tell(Event::Down { node });
            }
            self.events.tell(Event::Up { node, addr });
            let seconds = link.skew_ms / 1000;
            if seconds.abs() > SKEW_REPORT_S {
                tracing::warn!(peer = ?node, seconds, "clocks differ");
                self.events.tell(Event::Skew { node, seconds });
            }
        }
        self.learn(hello.chain.clone(), Some(node));
        if !self.is_member(node) {
            // Forgotten between the greeting and here.
            link.conn.refuse(&Refusal::Forgotten);
        }
        if hello.digest != self.with_roll(Roll::digest) {
            self.ask_log(link, true);
        }
        self.changed();
        true
    }

    /// Forgets a link whose connection ended.
    pub(crate) fn drop_link(&self, link: &Arc<Link>) {
        let gone = {
            let mut links = lock(&self.links);
            let current = links.get(&link.node).is_some_and(|l| Arc::ptr_eq(l, link));
            current && links.remove(&link.node).is_some()
        };
        if gone {
            let node = link.node;
            self.events.tell(Event::Down { node });
            self.changed();
        }
    }

    /// Cuts or mends the connection to a node from this side.
    pub(crate) fn set_cut(&self, node: NodeId, on: bool) {
        let mut cut = lock(&self.cut);
        if on {
            cut.insert(node);
        } else {
            cut.remove(&node);
        }
        drop(cut);
        if on && let Some(link) = self.link(node) {
            link.conn.close(Close::Shutdown);
        }
        self.changed();
    }

    /// Whether the node is cut off on purpose.
    pub(crate) fn is_cut(&self, node: NodeId) -> bool {
        lock(&self.cut).contains(&node)
    }

    /// Our greeting, and how we judge that of others.
    pub(crate) async fn greet(
        &self,
        conn: &super::transport::Conn,
        dialled: bool,
    ) -> Result<super::hello::Met, super::hello::Unmet> {
        let hello = {
            let roll = lock(&self.roll);
            Hello {
                cell: self.cell,
                chain: roll.chain(self.me),
                addrs: self.own_addrs(),
                boot: self.generation,
                digest: roll.digest(),
                release: env!("CARGO_PKG_VERSION").to_owned(),
                wall_ms: clock::now_ms(),
            }
        };
        let greeter = Greeter {
            version: self.config.protocol,
            hello,
            judge: &|node, hello| {
                if self.is_cut(node) {
                    return Err(Refusal::Busy);
                }
                self.with_roll(|r| judge(r, node, hello))
            },
        };
        if dialled {
            greeter.dialled(conn).await
        } else {
            greeter.accepted(conn).await
        }
    }

    // Addresses.

    /// Where others find us.
    pub(crate) fn own_addrs(&self) -> Vec<SocketAddr> {
        if self.config.advertise.is_empty() {
            return self.transport.addrs();
        }
        let mut addrs = self.config.advertise.clone();
        addrs.truncate(ADDRS_MAX);
        addrs
    }

    /// Where a node may be found.
    pub(crate) fn addrs_of(&self, node: NodeId) -> Vec<SocketAddr> {
        lock(&self.book).get(&node).cloned().unwrap_or_default()
    }

    /// Notes where a node was seen (first) and where it says it is.
    pub(crate) fn note_addrs(&self, node: NodeId, seen: Option<SocketAddr>, said: &[SocketAddr]) {
        let mut addrs: Vec<SocketAddr> = Vec::new();
        for addr in seen.iter().chain(said) {
            if addrs.len() < ADDRS_MAX && !addrs.contains(addr) && addr.port() != 0 {
                addrs.push(*addr);
            }
        }
        if addrs.is_empty() {
            return;
        }
        let old = lock(&self.book).insert(node, addrs.clone());
        if old.as_ref() != Some(&addrs) {
            self.unsaved.notify_one();
            self.changed();
        }
    }

    // Announcements.

    /// Signs and sends an announcement.
    pub(crate) fn announce(&self, payload: Vec<u8>) {
        let number = self.announced.fetch_add(1, Ordering::AcqRel);
        let bytes = flood::sign(self.key(), self.cell, self.generation, number, payload);
        // Hear it ourselves first, so that its echo is not told.
        let _ = lock(&self.flood).hear(&bytes, self.cell, |_| true);
        self.spread(Bytes::from(bytes), None, None);
    }

    /// Takes an announcement from a peer.
    pub(crate) fn hear(&self, bytes: &[u8], from: Option<NodeId>) {
        let heard = lock(&self.flood).hear(bytes, self.cell, |n| self.is_member(n));
        let Some(heard) = heard else {
            return;
        };
        self.spread(Bytes::copy_from_slice(bytes), from, Some(heard.author));
        self.events.tell(Event::Announce {
            author: heard.author,
            payload: heard.payload,
        });
    }

    fn spread(&self, bytes: Bytes, from: Option<NodeId>, author: Option<NodeId>) {
        // In the order of ids; those who know it already are skipped after the choice, so that
        // the ring stays whole.
        let peers: Vec<_> = self
            .links()
            .into_iter()
            .map(|l| (l.conn.rtt().map_or(u128::MAX, |d| d.as_micros()), l))
            .collect();
        let place = peers.partition_point(|(_, l)| l.node < self.me);
        for link in flood::choose(&peers, place, peers.len() + 1) {
            if Some(link.node) == from || Some(link.node) == author {
                continue;
            }
            link.send_announce(bytes.clone());
        }
    }
}

fn half(id: &StatementId) -> [u8; 16] {
    id.first_chunk().copied().unwrap_or_default()
}
