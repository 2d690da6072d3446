//! Getting connected: the acceptor, and one dialler per member.
//!
//! Invariant: at most one dial per member is in flight, at most [`DIALS_AT_ONCE`] in all, and
//! tries go on forever, at most [`BACKOFF_MAX`] (plus the dial's own timeout) apart. At most
//! [`STRANGERS_MAX`] connections are unauthenticated at a time; more are turned away with one
//! packet, and from [`STRANGERS_EASY`] on strangers must prove their address first.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use super::core::{Core, lock};
use super::error::Refusal;
use super::events::Event;
use super::hello::{HELLO_TIMEOUT, Unmet};
use super::key::dice;
use super::link::{self, Link};
use super::transport::{ALPN_PEER, Close, Conn, Ended, Incoming};
use super::{admit, hello};
use crate::base::id::NodeId;

/// Dials in flight.
const DIALS_AT_ONCE: usize = 16;
/// The first pause after a failed dial; doubled each time.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest pause between dials.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Unauthenticated connections at a time.
const STRANGERS_MAX: usize = 256;
/// Unauthenticated connections from one address.
const STRANGERS_PER_ADDR_MAX: usize = 128;
/// Strangers that need not prove their address first.
const STRANGERS_EASY: usize = 64;
/// Two nodes that learn of each other at once: the one with the larger id waits this long.
const COURTESY: Duration = Duration::from_millis(150);

/// Accepts connections until the port closes.
pub(crate) async fn accept(core: Arc<Core>) {
    let slots = Arc::new(Semaphore::new(STRANGERS_MAX));
    let crowd = Crowd::default();
    loop {
        let incoming = tokio::select! {
            incoming = core.transport.accept() => incoming,
            () = core.stopped() => return,
        };
        let Some(incoming) = incoming else {
            return;
        };
        let incoming = if slots.available_permits() < STRANGERS_MAX - STRANGERS_EASY {
            match incoming.validated() {
                Some(incoming) => incoming,
                None => continue,
            }
        } else {
            incoming
        };
        let place = crowd.place(incoming.addr().map(|a| a.ip()));
        let slot = Arc::clone(&slots).try_acquire_owned();
        let (Some(place), Ok(slot)) = (place, slot) else {
            incoming.refuse();
            continue;
        };
        let slot = Slot {
            _place: place,
            _slot: slot,
        };
        let task_core = Arc::clone(&core);
        core.spawn(async move { answer(task_core, incoming, slot).await });
    }
}

/// A stranger's right to be here; given back when dropped.
pub(crate) struct Slot {
    _place: Place,
    _slot: OwnedSemaphorePermit,
}

/// Strangers by address, so that one address cannot take all slots.
#[derive(Debug, Default, Clone)]
struct Crowd(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One stranger of an address.
struct Place(Crowd, IpAddr);

impl Crowd {
    fn place(&self, ip: Option<IpAddr>) -> Option<Place> {
        let ip = ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let mut crowd = lock(&self.0);
        let count = crowd.entry(ip).or_default();
        if *count >= STRANGERS_PER_ADDR_MAX {
            return None;
        }
        *count += 1;
        Some(Place(self.clone(), ip))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut crowd = lock(&self.0.0);
        if let Some(count) = crowd.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                crowd.remove(&self.1);
            }
        }
    }
}

async fn answer(core: Arc<Core>, incoming: Incoming, slot: Slot) {
    let addr = incoming.addr();
    let conn = match timeout(HELLO_TIMEOUT, incoming.accept()).await {
        Ok(Ok(conn)) => conn,
        Ok(Err(error)) => return tracing::debug!(?addr, error, "a handshake failed"),
        Err(_) => return tracing::debug!(?addr, "a handshake took too long"),
    };
    if conn.is_join() {
        return admit::answer(core, conn, addr, slot).await;
    }
    match core.greet(&conn, false).await {
        Ok(met) => {
            drop(slot);
            let _ = serve(core, conn, met).await;
        }
        // Plain strangers must not be able to fill the log.
        Err(Unmet::Refusing(reason))
            if !matches!(
                reason,
                Refusal::Malformed | Refusal::NotMember | Refusal::Busy
            ) =>
        {
            tracing::info!(?addr, peer = ?conn.node(), %reason, "a node was refused");
        }
        Err(unmet) => tracing::debug!(?addr, peer = ?conn.node(), ?unmet, "no link"),
    }
}

/// Makes a greeted connection a link and runs it to its end; false when another one serves.
async fn serve(core: Arc<Core>, conn: Conn, met: hello::Met) -> bool {
    let hello = met.hello.clone();
    let (link, queues, control) = Link::new(conn, met);
    if !core.raise(&link, &hello) {
        link.conn.close(Close::Duplicate);
        return false;
    }
    core.gossip.meet(link.node);
    let ended = link::run(Arc::clone(&core), Arc::clone(&link), queues, control).await;
    tracing::debug!(peer = ?link.node, ?ended, "link ended");
    core.drop_link(&link);
    if let Ended::Refused(reason) = ended {
        let node = link.node;
        core.events.tell(Event::Refused { node, reason });
    }
    true
}

/// Keeps one dialler per member.
pub(crate) async fn keep_dialling(core: Arc<Core>) {
    let slots = Arc::new(Semaphore::new(DIALS_AT_ONCE));
    let dialled: Arc<Mutex<HashSet<NodeId>>> = Arc::default();
    let mut changes = core.changes.subscribe();
    loop {
        let members: Vec<NodeId> = core.with_roll(|r| {
            let all = r.standings().keys().copied();
            all.filter(|n| *n != core.me && r.is_member(*n)).collect()
        });
        for node in members {
            if !lock(&dialled).insert(node) {
                continue;
            }
            let (task_core, slots) = (Arc::clone(&core), Arc::clone(&slots));
            let dialled = Arc::clone(&dialled);
            core.spawn(async move {
                dialler(&task_core, node, slots).await;
                lock(&dialled).remove(&node);
                // It may have become a member again meanwhile.
                task_core.changed();
            });
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = core.stopped() => return,
        }
    }
}

async fn dialler(core: &Arc<Core>, node: NodeId, slots: Arc<Semaphore>) {
    if core.me > node {
        sleep(COURTESY).await;
    }
    let mut backoff = BACKOFF_MIN;
    let mut refused = None;
    let mut changes = core.changes.subscribe();
    while !core.is_stopped() && core.is_member(node) {
        let addrs = core.addrs_of(node);
        if core.link(node).is_some() || addrs.is_empty() || core.is_cut(node) {
            backoff = BACKOFF_MIN;
            tokio::select! {
                _ = changes.changed() => {}
                () = core.stopped() => return,
            }
            continue;
        }
        let started = Instant::now();
        let dial = async {
            let _slot = slots.acquire().await;
            core.transport.dial(node, &addrs, ALPN_PEER).await
        };
        // Who ends does not wait for those that do not answer.
        let conn = tokio::select! {
            conn = dial => conn,
            () = core.stopped() => return,
        };
        match conn {
            Ok(conn) => dialled(core, conn, &mut refused).await,
            Err(error) => tracing::debug!(peer = ?node, error, "could not dial"),
        }
        // What lived for a while was good: start over with short pauses.
        if started.elapsed() > 2 * BACKOFF_MAX {
            backoff = BACKOFF_MIN;
        }
        tokio::select! {
            () = sleep(jittered(backoff)) => {}
            () = core.stopped() => return,
        }
        backoff = (2 * backoff).min(BACKOFF_MAX);
    }
}

async fn dialled(core: &Arc<Core>, conn: Conn, refused: &mut Option<Refusal>) {
    let node = conn.node();
    match core.greet(&conn, true).await {
        Ok(met) => {
            *refused = None;
            let _ = serve(Arc::clone(core), conn, met).await;
        }
        // Told once, however often it is tried.
        Err(Unmet::Refused(reason))
            if reason != Refusal::Busy && refused.as_ref() != Some(&reason) =>
        {
            *refused = Some(reason.clone());
            tracing::warn!(peer = ?node, %reason, "a member refuses this node");
            core.events.tell(Event::Refused { node, reason });
        }
        Err(unmet) => tracing::debug!(peer = ?node, ?unmet, "no link"),
    }
}

fn jittered(pause: Duration) -> Duration {
    let ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(ms / 2 + dice(ms / 2 + 1))
}
