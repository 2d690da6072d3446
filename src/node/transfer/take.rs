//! Asking members, and putting what comes into the store.
//!
//! Invariant: what came whole is put into the store and told to the core, also when nobody waits
//! for it any more: it was sent, and is not to be sent again. What came as a splice is put together
//! first, of pieces that the store hashes when they are read; its name is looked at as that of any
//! piece. Should what it is made of not be here any more, the piece is asked for whole.

use std::fs::File as DiskFile;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use sha2::Digest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::entry::Entry;
use super::{Message, Name, Shared, lock};
use crate::base::id::{NodeId, Oid};
use crate::chunk::store::{ChunkError, Chunks};
use crate::chunk::{Piece, Sha256, splice};
use crate::peers::RecvStream;
use crate::swarm::pieces::Holding;
use crate::swarm::wire::{
    ABSENT, AskHeld, AskPiece, BUSY, GIVEN, Request, SPLICED, SplicedHead, holding_bytes_max,
    take_holding,
};
use crate::swarm::{Class, Failure, File};

/// An answer about what is held takes no longer.
const ANSWER: Duration = Duration::from_secs(9);
/// Bytes that are read at once: each shows that the peer is alive.
const STEP_BYTES: usize = 128 << 10;
/// Bytes of a file that are hashed at once.
const HASHED_BYTES: usize = 1 << 20;

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

/// A piece as it came.
enum Came {
    Whole(Vec<u8>),
    /// Made of pieces that are here.
    Spliced {
        of: Vec<Piece>,
        splice: Vec<u8>,
    },
}

/// Why a piece that came was not put into the store.
enum NotStored {
    Failed(Failure),
    /// What it is made of is not here any more.
    LikeIsGone,
}

/// Which piece of which file, asked of whom.
#[derive(Clone)]
struct Asked {
    peer: NodeId,
    file: File,
    entry: Arc<Entry>,
    index: u32,
    piece: Piece,
    class: Class,
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
    let chunks = shared.library.chunks(&entry.name.0);
    let is_here = |id: &_| chunks.as_ref().is_some_and(|c| c.has(id));
    let likes = entry.likes.of(&entry.place(index), is_here);
    let asked = Asked {
        peer,
        file,
        entry,
        index,
        piece,
        class,
    };
    // It came meanwhile for another file, or another version, that lists it too.
    if is_here(&asked.piece.id) && is_taken_from_here(&shared, &asked).await {
        let m = Message::Here(peer, file, index);
        return shared.tell(m).await;
    }
    match read_piece(&shared, &asked, &likes).await {
        // On its own: who cancels this task ends the reading, not what is done with what came.
        Ok(came) => {
            tokio::spawn(take_in(shared, asked, came));
        }
        Err(why) => tell(&shared, &asked, Err(why)).await,
    }
}

/// Whether a piece that is here is where it is wanted, too.
async fn is_taken_from_here(shared: &Arc<Shared>, of: &Asked) -> bool {
    if !of.entry.in_container {
        return true;
    }
    let Ok(_place) = shared.writers.acquire().await else {
        return false;
    };
    let (shared, of) = (shared.clone(), of.clone());
    let work = tokio::task::spawn_blocking(move || {
        let volume = &of.entry.name.0;
        let chunks = shared.library.chunks(volume)?;
        shared.comes(volume, of.piece.id, of.piece.len);
        // Should it fail, it comes as any other, and that says why.
        chunks.fill_from_here(&of.entry.sha256, of.index).ok()
    });
    matches!(work.await, Ok(Some(true)))
}

async fn tell(shared: &Shared, of: &Asked, done: Result<u32, Failure>) {
    let m = Message::Piece(of.peer, of.file, of.index, done);
    shared.tell(m).await;
}

async fn read_piece(shared: &Shared, of: &Asked, likes: &[Piece]) -> Result<Came, Failure> {
    let (peer, entry, len) = (of.peer, &of.entry, of.piece.len);
    let cut = |e: io::Error| {
        tracing::debug!(peer = %peer.short(), error = %e, "a piece was cut off");
        Failure::Cut
    };
    let plain = AskPiece::new(entry.name.0.clone(), of.class, of.piece.id);
    let request = plain.like(likes.iter().map(|p| p.id));
    let mut answer = open(shared, peer, Request::Piece(request))
        .await
        .map_err(cut)?;
    let came = match answer.read_u8().await.map_err(cut)? {
        GIVEN => {
            let bytes = read_bytes(shared, peer, &mut answer, len).await;
            if !likes.is_empty() {
                entry.likes.told(false);
            }
            Came::Whole(bytes.map_err(cut)?)
        }
        SPLICED => {
            let mut head = [0; SplicedHead::BYTES];
            answer.read_exact(&mut head).await.map_err(cut)?;
            let head = SplicedHead::decode(head, likes.len(), len).map_err(|e| {
                tracing::debug!(peer = %peer.short(), error = %e, "not an answer");
                Failure::Lie
            })?;
            let splice = read_bytes(shared, peer, &mut answer, head.len).await;
            let splice = splice.map_err(cut)?;
            entry.likes.told(true);
            let used = likes.iter().enumerate();
            let used = used.filter(|(n, _)| head.used >> n & 1 == 1);
            let of = used.map(|(_, p)| *p).collect();
            Came::Spliced { of, splice }
        }
        ABSENT => return Err(Failure::Absent),
        BUSY => return Err(Failure::Busy),
        _ => return Err(Failure::Lie),
    };
    match answer.read(&mut [0]).await.map_err(cut)? {
        0 => Ok(came),
        _ => Err(Failure::Lie),
    }
}

async fn read_bytes(
    shared: &Shared,
    peer: NodeId,
    answer: &mut RecvStream,
    len: u32,
) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len as usize];
    for step in bytes.chunks_mut(STEP_BYTES) {
        answer.read_exact(step).await?;
        lock(&shared.alive).insert(peer);
    }
    Ok(bytes)
}

async fn take_in(shared: Arc<Shared>, of: Asked, came: Came) {
    let done = match put(&shared, &of, came).await {
        Err(NotStored::LikeIsGone) => match read_piece(&shared, &of, &[]).await {
            Ok(came) => put(&shared, &of, came).await,
            Err(why) => Err(NotStored::Failed(why)),
        },
        done => done,
    };
    let done = done.map_err(|e| match e {
        NotStored::Failed(why) => why,
        NotStored::LikeIsGone => Failure::Cut,
    });
    tell(&shared, &of, done).await;
}

/// Puts what came into the store; how many bytes that was.
async fn put(shared: &Arc<Shared>, of: &Asked, came: Came) -> Result<u32, NotStored> {
    let place = shared.writers.acquire().await;
    let _place = place.map_err(|_| NotStored::Failed(Failure::Disk))?;
    let (shared, of) = (shared.clone(), of.clone());
    let work = tokio::task::spawn_blocking(move || {
        let chunks = shared.library.chunks(&of.entry.name.0);
        let chunks = chunks.ok_or(NotStored::Failed(Failure::Disk))?;
        let (bytes, came) = match came {
            Came::Whole(bytes) => (bytes, of.piece.len),
            Came::Spliced { of: like, splice } => {
                let made = make(&chunks, &like, &splice, of.piece.len)?;
                (made, u32::try_from(splice.len()).unwrap_or(u32::MAX))
            }
        };
        let done = store(&shared, &chunks, &of.entry, of.index, &bytes);
        done.map_err(NotStored::Failed).map(|()| came)
    });
    let done = work.await;
    done.unwrap_or(Err(NotStored::Failed(Failure::Disk)))
}

/// The bytes that a splice makes of pieces that are here. Blocking.
fn make(chunks: &Chunks, of: &[Piece], splice: &[u8], len: u32) -> Result<Vec<u8>, NotStored> {
    let mut like = Vec::new();
    for p in of {
        match chunks.read(&p.id) {
            Ok(Some(bytes)) => like.extend_from_slice(&bytes),
            Ok(None) => return Err(NotStored::LikeIsGone),
            Err(e) => {
                tracing::warn!(chunk = %p.id, error = %e, "a piece is not made of what is here");
                return Err(NotStored::LikeIsGone);
            }
        }
    }
    splice::apply(&like, splice, len).map_err(|e| {
        tracing::debug!(error = %e, "not a splice");
        NotStored::Failed(Failure::Lie)
    })
}

/// Puts a piece into its container, or into a pack. Blocking.
fn store(
    shared: &Shared,
    chunks: &Chunks,
    entry: &Entry,
    index: u32,
    bytes: &[u8],
) -> Result<(), Failure> {
    let volume = &entry.name.0;
    let piece = entry.pieces.get(index as usize).ok_or(Failure::Disk)?;
    // First, so that nobody is told in between.
    shared.comes(volume, piece.id, piece.len);
    let put = || chunks.put(&piece.id, bytes).map(drop);
    let fill = || chunks.fill(&entry.sha256, index, bytes);
    let filled = match entry.in_container {
        false => put(),
        true => match fill() {
            // Somebody took it away.
            Err(ChunkError::Absent(..)) => chunks
                .begin(entry.sha256, &entry.pieces)
                .and_then(|is_its_own| if is_its_own { fill() } else { put() }),
            filled => filled,
        },
    };
    let done = match filled {
        // These are not its bytes, or another file has its name by now.
        Err(ChunkError::Mismatch(_)) => put(),
        done => done,
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
/// it is there; where another file keeps its name, in packs. Blocking.
pub(super) fn finish(shared: &Shared, entry: &Entry) -> bool {
    let Some(chunks) = shared.library.chunks(&entry.name.0) else {
        return false;
    };
    let done = match entry.is_late {
        true => Ok(()),
        false => complete(&chunks, entry),
    };
    if let Err(e) = done {
        tracing::warn!(volume = %entry.name.0, error = %e, "a file was not completed");
        return false;
    }
    let is_whole = chunks.lacks(&entry.pieces, 1).is_empty() && shared.flush(&entry.name.0);
    if is_whole {
        shared.library.is_whole(&entry.name.0, &entry.name.1);
    }
    is_whole
}

fn complete(chunks: &Chunks, entry: &Entry) -> Result<(), ChunkError> {
    if !claim(chunks, entry)? {
        return Ok(());
    }
    let count = u32::try_from(entry.pieces.len()).unwrap_or(0);
    for index in 0..count {
        if !chunks.fill_from_here(&entry.sha256, index)? {
            break;
        }
    }
    Ok(())
}

/// Makes a container of a version, all of which is here, and of older ones no more. Blocking.
pub(super) fn ripen(shared: &Shared, name: &Name, olds: &[Oid]) {
    let (volume, head) = name;
    let work = || {
        let Some(chunks) = shared.library.chunks(volume) else {
            return Ok(());
        };
        let entry = match Entry::load(&*shared.library, name, None) {
            Ok((entry, lacking)) if lacking.is_empty() => entry,
            // It is not wanted any more, or comes again.
            _ => return Ok(()),
        };
        complete(&chunks, &entry)?;
        chunks.flush()?;
        for old in olds.iter().filter(|o| *o != head) {
            shared.library.replaces(volume, old, head);
        }
        // What is in the container now need not be in packs.
        chunks.reclaim().map(drop)
    };
    if let Err(e) = work() {
        tracing::warn!(%volume, %head, error = %e, "a version is not made a container");
    }
}

/// Makes sure that the container of a file, all of which is here, is for its pieces. One of other
/// pieces keeps the name unless it is not what it is called and these are.
fn claim(chunks: &Chunks, entry: &Entry) -> Result<bool, ChunkError> {
    let sha256 = &entry.sha256;
    if chunks.begin(*sha256, &entry.pieces)? {
        return Ok(true);
    }
    let (volume, head) = &entry.name;
    let mut hash = sha2::Sha256::new();
    for p in &entry.pieces {
        let bytes = chunks.read(&p.id)?;
        hash.update(bytes.ok_or(ChunkError::Lacking(p.id))?);
    }
    if *sha256 != Sha256(hash.finalize().into()) {
        tracing::warn!(%volume, %head, "a large file is not what its list says");
        return Ok(false);
    }
    if let Some((file, true)) = chunks.container(sha256)?
        && is_file(&file, sha256)
    {
        return Ok(false);
    }
    tracing::warn!(%volume, %head, "another file was called by the name of this one");
    match chunks.evict(sha256, &mut |_| true) {
        Ok(_) | Err(ChunkError::Absent(..)) => {}
        Err(e) => return Err(e),
    }
    chunks.begin(*sha256, &entry.pieces)
}

/// Whether a file is the one of this name. One that cannot be read is not.
fn is_file(file: &DiskFile, sha256: &Sha256) -> bool {
    let mut hash = sha2::Sha256::new();
    let mut step = vec![0; HASHED_BYTES];
    let mut at = 0;
    loop {
        match file.read_at(&mut step, at) {
            Ok(0) => return *sha256 == Sha256(hash.finalize().into()),
            Ok(n) => {
                hash.update(step.get(..n).unwrap_or_default());
                at += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => {
                tracing::warn!(error = %e, "a container cannot be read");
                return false;
            }
        }
    }
}
