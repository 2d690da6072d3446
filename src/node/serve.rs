//! Objects over the wire: asking a peer for what is missing, and giving peers what they lack.
//!
//! A request is one frame, `length u32 le | version | postcard`; the answer is `count u32 le |
//! that many wanted ids which the peer has`, then, unless it has none, a pack stream. A peer
//! gives what it has of what is wanted: of several heads that were written at once perhaps no
//! peer has all. Invariant: what came is kept aside until its closure is complete and each head
//! says what its notice said. What is asked of large files' bytes goes to
//! [`super::transfer`], what is asked by ids of bytes to [`super::objects`].

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::sync::Semaphore;
use tokio_util::io::SyncIoBridge;

use super::fetching::{Answer, Fetching};
use super::{NodeInner, copies, objects, transfer};
use crate::base::id::{NodeId, Oid, VolumeName};
use crate::copies::wire::KIND_COPY;
use crate::peers::{Handler, RecvStream, SendStream};
use crate::replicator::HeadNotice;
use crate::replicator::exchange::{self, ExchangeError, Judged, Known, raw};
use crate::replicator::machine::Wanted;
use crate::store::incoming::{self, IncomingError};
use crate::store::objects::Objects;
use crate::swarm::wire::{KIND_HELD, KIND_PIECE};
use crate::volume::Volume;
use crate::volume::chain::Disk;

const VERSION: u8 = 2;
/// Longest request.
const REQUEST_BYTES_MAX: u32 = 1 << 20;
/// The first bytes of a request come within this time.
const FIRST_WORD: Duration = Duration::from_secs(10);
/// Requests served at once; more wait.
const SERVED_AT_ONCE: usize = 8;

static PLACES: Semaphore = Semaphore::const_new(SERVED_AT_ONCE);

#[derive(Debug, Serialize, Deserialize)]
struct Want {
    volume: VolumeName,
    want: Vec<[u8; 20]>,
    have: Known,
}

/// Why a fetch failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("connection: {0}")]
    Io(#[from] io::Error),
    #[error("peer: {0}")]
    Peer(#[from] crate::peers::PeersError),
    #[error("it was given up")]
    GivenUp,
    #[error("the peer has not got it")]
    NotHere,
    #[error("{0}")]
    Incoming(#[from] IncomingError),
    #[error("{0}")]
    Exchange(#[from] ExchangeError),
    #[error("{0}")]
    Volume(#[from] crate::volume::error::VolumeError),
    #[error("{0}")]
    Node(String),
}

impl FetchError {
    /// Whether something was missing in what came.
    fn is_of_what_came(&self) -> bool {
        let incomplete = matches!(self, Self::Incoming(IncomingError::Objects(_)));
        incomplete || matches!(self, Self::Exchange(_))
    }
}

/// Shows these heads: out of what came with their announcements, if that is enough, else by
/// fetching their closure from a peer.
pub(super) async fn fetch(
    node: &Arc<NodeInner>,
    name: &VolumeName,
    want: Vec<Wanted>,
    under_way: &Arc<Fetching>,
) -> Result<(), FetchError> {
    let opened = match node.volume(name) {
        Some(v) => Ok(v),
        None => {
            let name = name.clone();
            node.blocking(move |n| n.open_volume(&name)).await
        }
    };
    let volume = opened.map_err(|f| FetchError::Node(f.to_string()))?;
    let done = fetch_into(node, &volume, want, under_way).await;
    // Some of it may be here in any case.
    node.looks.ask(name);
    done
}

async fn fetch_into(
    node: &Arc<NodeInner>,
    volume: &Arc<Volume>,
    want: Vec<Wanted>,
    under_way: &Arc<Fetching>,
) -> Result<(), FetchError> {
    let (v, noted) = (Arc::clone(volume), Arc::clone(under_way));
    let rest = tokio::task::spawn_blocking(move || unpack(&v, want, &noted))
        .await
        .map_err(|e| FetchError::Node(e.to_string()))??;
    if rest.is_empty() {
        return Ok(());
    }
    ask(node, Arc::clone(volume), rest, under_way).await
}

/// Shows the heads whose packs came with them, and returns the others.
fn unpack(
    volume: &Volume,
    want: Vec<Wanted>,
    under_way: &Fetching,
) -> Result<Vec<HeadNotice>, FetchError> {
    let mut here = Vec::new();
    let mut rest = Vec::new();
    for Wanted { head, pack } in want {
        let Some(pack) = pack else {
            rest.push(head);
            continue;
        };
        match take(volume, pack, &head) {
            Ok(judged) => {
                here.extend(judged.good);
                under_way.found_false(judged.lies);
            }
            Err(e) => {
                // Most often its parents are not here yet.
                tracing::debug!(head = %head.id, error = %e, "an announcement's pack is of no use");
                rest.push(head);
            }
        }
    }
    if !here.is_empty() {
        volume.admit(here)?;
    }
    Ok(rest)
}

/// Takes in a small pack that makes the closure of this head complete.
fn take(volume: &Volume, pack: Vec<u8>, head: &HeadNotice) -> Result<Judged, FetchError> {
    let repo = &**volume.repo();
    if repo.has(&head.id).unwrap_or(false) {
        return Ok(exchange::judge(repo, volume.cache(), &[head])?);
    }
    let (objects, judged) = exchange::believe(&pack, repo, volume.cache(), &[head])?;
    volume.hold(pack, objects)?;
    Ok(judged)
}

/// Takes in a pack that makes the closure of these heads complete.
fn receive(
    volume: &Volume,
    from: impl Read,
    heads: &[&HeadNotice],
    under_way: &Fetching,
) -> Result<Judged, FetchError> {
    let repo = volume.repo();
    under_way.promised();
    let came = incoming::receive_watched(repo, from, &under_way.pack)?;
    under_way.is_here();
    let judged = exchange::judge(&came.with(repo), volume.cache(), heads)?;
    let held_lasts = || volume.sync(volume.last()).map_err(io::Error::other);
    came.admit(repo, &judged.roots, held_lasts)?;
    Ok(judged)
}

/// Fetches the closure of these heads from a peer and shows them.
async fn ask(
    node: &NodeInner,
    volume: Arc<Volume>,
    want: Vec<HeadNotice>,
    under_way: &Arc<Fetching>,
) -> Result<(), FetchError> {
    let view = volume.view();
    let have = Known::new(view.heads.iter().map(|h| h.id), view.seen());
    let plain = have.without_seen();
    match (ask_with(node, &volume, &want, have, under_way).await, plain) {
        (Err(e), Some(plain)) if e.is_of_what_came() => {
            tracing::debug!(error = %e, "not enough came, asking for more");
            under_way.again();
            ask_with(node, &volume, &want, plain, under_way).await
        }
        (done, _) => done,
    }
}

async fn ask_with(
    node: &NodeInner,
    volume: &Arc<Volume>,
    want: &[HeadNotice],
    have: Known,
    under_way: &Arc<Fetching>,
) -> Result<(), FetchError> {
    let (volume, want) = (Arc::clone(volume), want.to_vec());
    let peers = node
        .peers()
        .ok_or_else(|| FetchError::Node("no peers yet".to_owned()))?;
    let (to, answer) = tokio::select! {
        opened = peers.request(under_way.from) => opened?,
        () = under_way.given_up() => return Err(FetchError::GivenUp),
    };
    let answer = Answer::new(answer, under_way.clone());
    let under_way = under_way.clone();
    let request = Want {
        volume: volume.name().clone(),
        want: want.iter().map(|w| raw(&w.id)).collect(),
        have,
    };
    let work = tokio::task::spawn_blocking(move || {
        let mut to = SyncIoBridge::new(to);
        send_request(&mut to, &request)?;
        to.shutdown()?;
        let mut answer = SyncIoBridge::new(answer);
        let ids = read_ids(&mut answer, want.len())?;
        if ids.is_empty() {
            return Err(FetchError::NotHere);
        }
        let repo = &**volume.repo();
        let (heads, missing) = exchange::promised(repo, &ids, &want)?;
        let judged = if missing {
            receive(&volume, answer, &heads, &under_way)?
        } else {
            exchange::judge(repo, volume.cache(), &heads)?
        };
        under_way.is_here();
        under_way.found_false(judged.lies);
        volume.admit(judged.good)?;
        Ok(())
    });
    work.await.map_err(|e| FetchError::Node(e.to_string()))?
}

fn send_request(to: &mut dyn Write, request: &Want) -> io::Result<()> {
    let body = postcard::to_extend(request, vec![VERSION]).map_err(io::Error::other)?;
    let len = u32::try_from(body.len()).map_err(io::Error::other)?;
    to.write_all(&len.to_le_bytes())?;
    to.write_all(&body)
}

fn read_ids(from: &mut dyn Read, most: usize) -> io::Result<Vec<Oid>> {
    let mut count = [0; 4];
    from.read_exact(&mut count)?;
    let count = usize::try_from(u32::from_le_bytes(count)).map_err(io::Error::other)?;
    if count > most {
        return Err(io::Error::other("an answer of an impossible length"));
    }
    let mut ids = Vec::with_capacity(count);
    for _ in 0..count {
        let mut id = [0; 20];
        from.read_exact(&mut id)?;
        ids.push(Oid::from(id));
    }
    Ok(ids)
}

/// Reads the rest of a request, of which the length and the version were read.
fn read_request(len: u32, version: u8, from: &mut dyn Read) -> io::Result<Want> {
    if len == 0 || len > REQUEST_BYTES_MAX {
        return Err(io::Error::other("a request of an impossible length"));
    }
    if version != VERSION {
        return Err(io::Error::other("a request of another version"));
    }
    let mut body = vec![0; len as usize - 1];
    from.read_exact(&mut body)?;
    postcard::from_bytes(&body).map_err(io::Error::other)
}

/// Serves what members ask for.
#[derive(Debug)]
pub(super) struct Server(pub(super) std::sync::Weak<NodeInner>);

#[async_trait]
impl Handler for Server {
    async fn serve(&self, peer: NodeId, mut request: RecvStream, reply: SendStream) {
        let Some(node) = self.0.upgrade() else { return };
        let begin =
            async { io::Result::Ok((request.read_u32_le().await?, request.read_u8().await?)) };
        let Ok(Ok((len, kind))) = tokio::time::timeout(FIRST_WORD, begin).await else {
            return;
        };
        if let KIND_HELD | KIND_PIECE = kind {
            match transfer::read_request(len, kind, &mut request).await {
                Ok(r) => node.transfers.serve(peer, r, reply).await,
                Err(e) => tracing::debug!(peer = %peer.short(), error = %e, "not a request"),
            }
            return;
        }
        if kind == KIND_COPY {
            if let Err(e) = copies::serve(node, peer, len, request, reply).await {
                tracing::debug!(peer = %peer.short(), error = %e, "nothing was promised");
            }
            return;
        }
        let Ok(place) = PLACES.acquire().await else {
            return;
        };
        if kind == objects::KIND_FIND {
            if let Err(e) = objects::serve(node, len, request, reply).await {
                tracing::debug!(peer = %peer.short(), error = %e, "an object was not given");
            }
            return;
        }
        let done =
            tokio::task::spawn_blocking(move || answer(&node, (len, kind), request, reply)).await;
        drop(place);
        match done {
            Ok(Ok(n)) => tracing::debug!(peer = %peer.short(), objects = n, "served"),
            Ok(Err(e)) => tracing::debug!(peer = %peer.short(), error = %e, "not served"),
            Err(e) => tracing::error!(error = %e, "serving a peer died"),
        }
    }
}

fn answer(
    node: &NodeInner,
    (len, version): (u32, u8),
    request: RecvStream,
    reply: SendStream,
) -> io::Result<u32> {
    let request = read_request(len, version, &mut SyncIoBridge::new(request))?;
    let mut to = io::BufWriter::with_capacity(64 << 10, SyncIoBridge::new(reply));
    let want: Vec<Oid> = request.want.iter().map(|b| Oid::from(*b)).collect();
    let volume = node.volume(&request.volume);
    let want = match &volume {
        Some(v) => exchange::held_of(&**v.repo(), &want),
        None => Vec::new(),
    };
    let count = u32::try_from(want.len()).map_err(io::Error::other)?;
    to.write_all(&count.to_le_bytes())?;
    for id in &want {
        to.write_all(id.as_slice())?;
    }
    // A sign of life: to count what is missing may take long.
    to.flush()?;
    let sent = match volume {
        Some(v) if !want.is_empty() => {
            let sent = exchange::give(&**v.repo(), v.cache(), &want, &request.have, &mut to);
            sent.map_err(io::Error::other)?
        }
        _ => 0,
    };
    to.flush()?;
    let mut inner = to.into_inner().map_err(io::IntoInnerError::into_error)?;
    inner.shutdown()?;
    Ok(sent)
}
