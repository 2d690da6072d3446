//! Giving members what they ask for.
//!
//! Invariants: pieces are read and sent in the turns of [`Turns`]. On a connection what is urgent
//! goes first, and of the rest what was asked for first: when it breaks, one piece at most has
//! come in part. A piece that the asker has something like is told by that if it is here too and
//! it is worth it; it waits no round trip longer. Nothing is held back from control and gossip, whose streams go before these.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use super::entry::{each_some, head_of};
use super::{Shared, Transfers, lock};
use crate::base::id::{NodeId, Oid, VolumeName};
use crate::chunk::ChunkId;
use crate::chunk::splice::{self, LIKE_BYTES_MAX};
use crate::chunk::store::Chunks;
use crate::peers::{RecvStream, SendStream};
use crate::swarm::Class;
use crate::swarm::pieces::{Holding, Pieces};
use crate::swarm::turns::{Ticket, Turns};
use crate::swarm::wire::{
    ABSENT, AskHeld, AskPiece, BUSY, GIVEN, REQUEST_BYTES_MAX, Request, SPLICED, SplicedHead,
    put_holding,
};

/// A peer that takes nothing for this long is given up.
const STALLED: Duration = Duration::from_secs(20);
/// Bytes that are written at once: a peer shows by each that it takes them.
const STEP_BYTES: usize = 256 << 10;
/// Questions for what is held that are worked on at a time.
const QUESTIONS: usize = 2;
/// Pieces that are looked for at once.
const LOOK_UPS: usize = 4096;
/// Streams of one class have priorities in a band of this width.
const BAND: u64 = 1 << 28;

/// What is given, and who waits for it.
#[derive(Debug)]
pub(super) struct Given {
    line: Mutex<Line>,
    next: AtomicU64,
    questions: Semaphore,
}

#[derive(Debug, Default)]
struct Line {
    turns: Turns,
    waiting: HashMap<Ticket, oneshot::Sender<()>>,
}

impl Default for Given {
    fn default() -> Self {
        Self {
            line: Mutex::default(),
            next: AtomicU64::new(0),
            questions: Semaphore::new(QUESTIONS),
        }
    }
}

/// A place in the line, given back when it is dropped.
struct Place<'a> {
    given: &'a Given,
    peer: NodeId,
    ticket: Ticket,
    is_served: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut line = lock(&self.given.line);
        // Who was called and did not hear it any more was served all the same.
        let was_called = line.waiting.remove(&self.ticket).is_none();
        if self.is_served || was_called {
            line.turns.leave(self.peer);
        } else {
            line.turns.withdraw(self.peer, self.ticket);
        }
        line.call();
    }
}

impl Line {
    fn call(&mut self) {
        while let Some(ticket) = self.turns.call() {
            if let Some(waits) = self.waiting.remove(&ticket) {
                // Who does not wait any more gives its place back by itself.
                let _is_heard = waits.send(());
            }
        }
    }
}

impl Given {
    /// Waits for a turn; none if too many wait.
    async fn turn(&self, peer: NodeId, class: Class) -> Option<Place<'_>> {
        let ticket = self.next.fetch_add(1, Ordering::Relaxed);
        let (tell, called) = oneshot::channel();
        let mut place = {
            let mut line = lock(&self.line);
            if !line.turns.enter(peer, class, ticket) {
                return None;
            }
            line.waiting.insert(ticket, tell);
            let place = Place {
                given: self,
                peer,
                ticket,
                is_served: false,
            };
            line.call();
            place
        };
        called.await.ok()?;
        place.is_served = true;
        Some(place)
    }
}

impl Transfers {
    /// Answers what a member asks.
    pub async fn serve(&self, peer: NodeId, request: Request, reply: SendStream) {
        let done = match request {
            Request::Held(ask) => held(&self.shared, ask, reply).await,
            Request::Piece(ask) => piece(&self.shared, peer, &ask, reply).await,
        };
        if let Err(e) = done {
            tracing::debug!(peer = %peer.short(), error = %e, "not given");
        }
    }
}

/// Reads the rest of a request, of which the length and the kind were read.
pub async fn read_request(len: u32, kind: u8, from: &mut RecvStream) -> io::Result<Request> {
    let len = len as usize;
    if len == 0 || len > REQUEST_BYTES_MAX {
        return Err(io::Error::other("a request of an impossible length"));
    }
    let mut bytes = vec![kind; len];
    let rest = bytes.get_mut(1..).unwrap_or_default();
    timeout(STALLED, from.read_exact(rest)).await??;
    Request::decode(&bytes).map_err(io::Error::other)
}

async fn held(shared: &Arc<Shared>, ask: AskHeld, mut reply: SendStream) -> io::Result<()> {
    let place = shared.given.questions.acquire().await;
    let _place = place.map_err(io::Error::other)?;
    let s = shared.clone();
    let work = tokio::task::spawn_blocking(move || {
        let mut out = Vec::new();
        for head in &ask.heads {
            put_holding(&mut out, &holding(&s, &ask.volume, &Oid::from(*head)));
        }
        out
    });
    let answer = work.await.map_err(io::Error::other)?;
    timeout(STALLED, reply.write_all(&answer)).await??;
    reply.finish();
    Ok(())
}

/// What is held here of a file, durable.
fn holding(shared: &Shared, volume: &VolumeName, head: &Oid) -> Holding {
    let (objs, chunks) = (
        shared.library.objects(volume),
        shared.library.chunks(volume),
    );
    let (Some(objs), Some(chunks)) = (objs, chunks) else {
        return Holding::Nothing;
    };
    let Ok(head) = head_of(&*objs, head) else {
        return Holding::Nothing;
    };
    let mut lacks = Vec::new();
    let count = each_some(&*objs, &head, LOOK_UPS, |first, some| {
        let number = |n: usize| first + u32::try_from(n).unwrap_or(0);
        lacks.extend(chunks.lacks(some, some.len()).into_iter().map(number));
        let all = lock(&shared.unflushed);
        let Some(u) = all
            .get(volume)
            .filter(|u| u.since.is_some() || u.flushing.is_some())
        else {
            return;
        };
        for (n, p) in some.iter().enumerate() {
            let is_flushing = u.flushing.as_ref().is_some_and(|f| f.contains(&p.id));
            if is_flushing || u.ids.contains(&p.id) {
                lacks.push(number(n));
            }
        }
    });
    let Ok(count) = count else {
        return Holding::Nothing;
    };
    let mut pieces = Pieces::all(count);
    for n in lacks {
        pieces.remove(n);
    }
    Holding::of(pieces)
}

/// What is sent before what, of one connection: below all else, by class, in the order of asking.
fn priority(class: Class, ticket: Ticket) -> i32 {
    let band = match class {
        Class::Urgent => 0,
        Class::Ahead => 1,
        Class::Background => 2,
    };
    let below = 1 + band * BAND + ticket % BAND;
    i32::try_from(below).map_or(i32::MIN, |n| -n)
}

async fn piece(
    shared: &Arc<Shared>,
    peer: NodeId,
    ask: &AskPiece,
    mut reply: SendStream,
) -> io::Result<()> {
    let (id, class) = (ask.piece(), ask.class());
    let Some(place) = shared.given.turn(peer, class).await else {
        timeout(STALLED, reply.write_all(&[BUSY])).await??;
        reply.finish();
        return Ok(());
    };
    let chunks = shared.library.chunks(&ask.volume);
    let bytes = match &chunks {
        Some(chunks) => {
            let chunks = chunks.clone();
            let work = tokio::task::spawn_blocking(move || read(&chunks, &id));
            work.await.map_err(io::Error::other)?
        }
        None => None,
    };
    let spliced = match (&bytes, chunks) {
        (Some(bytes), Some(chunks)) => splice(shared, chunks, ask, bytes).await?,
        _ => None,
    };
    reply.set_priority(priority(class, place.ticket));
    let (head, body) = match (spliced, bytes) {
        (Some((used, splice)), _) => {
            let len = u32::try_from(splice.len()).map_err(io::Error::other)?;
            let head = SplicedHead { used, len }.encode();
            ([&[SPLICED], &head[..]].concat(), Arc::new(splice))
        }
        (None, Some(bytes)) => (vec![GIVEN], bytes),
        (None, None) => (vec![ABSENT], Arc::default()),
    };
    timeout(STALLED, reply.write_all(&head)).await??;
    for step in body.chunks(STEP_BYTES) {
        timeout(STALLED, reply.write_all(step)).await??;
    }
    reply.finish();
    Ok(())
}

/// A piece, if it is here. Blocking.
fn read(chunks: &Chunks, id: &ChunkId) -> Option<Arc<Vec<u8>>> {
    let read = chunks.read(id).unwrap_or_else(|e| {
        tracing::warn!(chunk = %id, error = %e, "a chunk that a peer wants was not read");
        None
    });
    read.map(Arc::new)
}

/// A piece told by what the asker has that is like it and is here too, and which of that it is, if
/// it is worth it.
async fn splice(
    shared: &Shared,
    chunks: Arc<Chunks>,
    ask: &AskPiece,
    piece: &Arc<Vec<u8>>,
) -> io::Result<Option<(u8, Vec<u8>)>> {
    let likes = ask.likes();
    if likes.size_hint().0 == 0 {
        return Ok(None);
    }
    let permit = shared.splicers.acquire().await;
    let _permit = permit.map_err(io::Error::other)?;
    let piece = piece.clone();
    let work = tokio::task::spawn_blocking(move || {
        let (mut used, mut like) = (0, Vec::new());
        for (n, id) in likes.enumerate() {
            let found = read(&chunks, &id);
            if let Some(l) = found.filter(|l| like.len() + l.len() <= LIKE_BYTES_MAX) {
                like.extend_from_slice(&l);
                used |= 1 << n;
            }
        }
        let most = splice::bytes_max(piece.len());
        let made = (used != 0).then(|| splice::make(&like, &piece, most));
        made.flatten().map(|made| (used, made))
    });
    work.await.map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::swarm::turns::{SERVED_OF_ONE_MAX, WAITING_OF_ONE_MAX};

    #[tokio::test]
    async fn places_come_back_whatever_becomes_of_who_waits() {
        let given = Given::default();
        let peer = NodeId([1; 32]);
        for _ in 0..3 {
            let mut served = Vec::new();
            for _ in 0..SERVED_OF_ONE_MAX {
                served.push(given.turn(peer, Class::Background).await.expect("room"));
            }
            let mut waits: Vec<_> = (0..WAITING_OF_ONE_MAX)
                .map(|_| Box::pin(given.turn(peer, Class::Background)))
                .collect();
            for w in &mut waits {
                assert!(futures::poll!(w).is_pending());
            }
            assert!(
                given.turn(peer, Class::Urgent).await.is_none(),
                "too many wait"
            );
            // Called, and gone before it heard it.
            drop(served.pop());
            drop(waits);
            drop(served);
            let line = lock(&given.line);
            assert!(line.waiting.is_empty());
            assert!(line.turns.is_empty(), "{:?}", line.turns);
        }
    }

    #[test]
    fn what_is_urgent_goes_first_and_the_rest_in_turn() {
        let order = [
            (Class::Urgent, 0),
            (Class::Urgent, 7),
            (Class::Ahead, 1),
            (Class::Background, 0),
            (Class::Background, 99),
        ];
        let all = order.map(|(class, n)| priority(class, n));
        assert!(all.is_sorted_by(|a, b| a > b) && all[0] < 0, "{all:?}");
    }
}
