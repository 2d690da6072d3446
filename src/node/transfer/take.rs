//! Asking members, and putting what comes into the store.
//!
//! Invariant: what came whole is put into the store and told to the core, also when nobody waits
//! for it any more: it was sent, and is not to be sent again.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::entry::Entry;
use super::{Message, Shared, lock};
use crate::base::id::{NodeId, Oid};
use crate::chunk::Piece;
use crate::chunk::store::ChunkError;
use crate::peers::RecvStream;
use crate::swarm::pieces::Holding;
use crate::swarm::wire::{
    ABSENT, AskHeld, AskPiece, BUSY, GIVEN, Request, holding_bytes_max, take_holding,
};
use crate::swarm::{Class, Failure, File};

/// An answer about what is held takes no longer.
const ANSWER: Duration = Duration::from_secs(9);
/// Bytes that are read at once: each shows that the peer is alive.
const STEP_BYTES: usize = 128 << 10;

async fn open(shared: &Shared, peer: NodeId, request: Request) -> io::Result<RecvStream> {
    let peers = shared
        .peers
        .get()
        .ok_or_else(|| io::Error::other("no peers yet"))?;
    let (mut to, answer) = peers.request(peer).await.map_err(io::Error::other)?;
    to.write_all(&request.encode()).await?;
    to.finish();
    Ok(answer)
}

/// Asks a peer what it holds of files, all of one volume.
pub(super) async fn ask_held(shared: Arc<Shared>, peer: NodeId, files: Vec<(File, Arc<Entry>)>) {
    let asked = timeout(ANSWER, read_held(&shared, peer, &files)).await;
    let told = match asked {
        Ok(Ok(told)) => Some(told),
        Ok(Err(e)) => {
            tracing::debug!(peer = %peer.short(), error = %e, "did not say what it holds");
            None
        }
        Err(_) => None,
    };
    let files = files.into_iter().map(|(file, _)| file).collect();
    shared.tell(Message::Held(peer, files, told)).await;
}

async fn read_held(
    shared: &Shared,
    peer: NodeId,
    files: &[(File, Arc<Entry>)],
) -> io::Result<Vec<Holding>> {
    let Some((_, first)) = files.first() else {
        return Ok(Vec::new());
    };
    let raw = |id: &Oid| <[u8; 20]>::try_from(id.as_slice()).unwrap_or([0; 20]);
    let ask = AskHeld {
        volume: first.name.0.clone(),
        heads: files.iter().map(|(_, e)| raw(&e.name.1)).collect(),
    };
    let mut answer = open(shared, peer, Request::Held(ask)).await?;
    let counts = files
        .iter()
        .map(|(_, e)| u32::try_from(e.pieces.len()).unwrap_or(0));
    let most = counts.clone().map(holding_bytes_max).sum();
    let bytes = answer.read_all(most).await?;
    let mut rest = bytes.as_slice();
    let told = counts.map(|n| take_holding(&mut rest, n));
    let told: Result<Vec<_>, _> = told.collect();
    told.map_err(io::Error::other)
}

/// Asks a peer for a piece and puts it into the store.
pub(super) async fn ask_piece(
    shared: Arc<Shared>,
    peer: NodeId,
    (file, entry): (File, Arc<Entry>),
    index: u32,
    class: Class,
) {
    let Some(piece) = entry.pieces.get(index as usize).copied() else {
        return;
    };
    let request = AskPiece::new(entry.name.0.clone(), class, piece.id);
    match read_piece(&shared, peer, request, &piece).await {
        // On its own: who cancels this task ends the reading, not what is done with what came.
        Ok(bytes) => {
            tokio::spawn(take_in(shared, peer, (file, entry), index, bytes));
        }
        Err(why) => {
            shared
                .tell(Message::Piece(peer, file, index, Err(why)))
                .await;
        }
    }
}

async fn read_piece(
    shared: &Shared,
    peer: NodeId,
    request: AskPiece,
    piece: &Piece,
) -> Result<Vec<u8>, Failure> {
    let cut = |e: io::Error| {
        tracing::debug!(peer = %peer.short(), error = %e, "a piece was cut off");
        Failure::Cut
    };
    let mut answer = open(shared, peer, Request::Piece(request))
        .await
        .map_err(cut)?;
    match answer.read_u8().await.map_err(cut)? {
        GIVEN => {}
        ABSENT => return Err(Failure::Absent),
        BUSY => return Err(Failure::Busy),
        _ => return Err(Failure::Lie),
    }
    let mut bytes = vec![0; piece.len as usize];
    for step in bytes.chunks_mut(STEP_BYTES) {
        answer.read_exact(step).await.map_err(cut)?;
        lock(&shared.alive).insert(peer);
    }
    match answer.read(&mut [0]).await.map_err(cut)? {
        0 => Ok(bytes),
        _ => Err(Failure::Lie),
    }
}

async fn take_in(
    shared: Arc<Shared>,
    peer: NodeId,
    (file, entry): (File, Arc<Entry>),
    index: u32,
    bytes: Vec<u8>,
) {
    let Ok(place) = shared.writers.acquire().await else {
        return;
    };
    let s = shared.clone();
    let work = tokio::task::spawn_blocking(move || store(&s, &entry, index, &bytes));
    let done = work.await.unwrap_or(Err(Failure::Disk));
    drop(place);
    shared.tell(Message::Piece(peer, file, index, done)).await;
}

/// Puts a piece into its container, or into a pack. Blocking.
fn store(shared: &Shared, entry: &Entry, index: u32, bytes: &[u8]) -> Result<(), Failure> {
    let volume = &entry.name.0;
    let piece = entry.pieces.get(index as usize).ok_or(Failure::Disk)?;
    let chunks = shared.library.chunks(volume).ok_or(Failure::Disk)?;
    // First, so that nobody is told in between.
    shared.comes(volume, piece.id, piece.len);
    let done = if entry.in_container.load(Ordering::Relaxed) {
        let fill = || chunks.fill(&entry.sha256, index, bytes);
        match fill() {
            // Somebody took it away.
            Err(ChunkError::Absent(..)) => {
                let begun = chunks.begin(entry.sha256, &entry.pieces);
                begun.and_then(|()| fill())
            }
            done => done,
        }
    } else {
        chunks.put(&piece.id, bytes).map(|_| ())
    };
    done.map_err(|e| match e {
        ChunkError::Mismatch(_) => Failure::Lie,
        e => {
            tracing::warn!(%volume, error = %e, "a piece that came was not kept");
            Failure::Disk
        }
    })
}

/// Fills in what of a container came otherwise, and makes all of it durable. Says whether all of
/// it is there. Blocking.
pub(super) fn finish(shared: &Shared, entry: &Entry) -> bool {
    let Some(chunks) = shared.library.chunks(&entry.name.0) else {
        return false;
    };
    let count = u32::try_from(entry.pieces.len()).unwrap_or(0);
    for index in 0..count {
        match chunks.fill_from_here(&entry.sha256, index) {
            Ok(true) => {}
            Ok(false) => return false,
            Err(e) => {
                tracing::warn!(volume = %entry.name.0, error = %e, "a file was not completed");
                return false;
            }
        }
    }
    shared.flush(&entry.name.0)
}
