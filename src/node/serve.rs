//! Objects over the wire: asking a peer for what is missing, and giving peers what they lack.
//!
//! A request is one frame, `length u32 le | version | postcard`; the answer is `count u32 le |
//! that many wanted ids which the peer has`, then, unless it has none, a pack stream. A peer
//! gives what it has of what is wanted: of several heads that were written at once perhaps no
//! peer has all. Invariant: what came is kept aside until its closure is complete and each head
//! says what its notice said.

use std::io::{self, Read, Write};
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio_util::io::SyncIoBridge;

use super::NodeInner;
use crate::base::id::{NodeId, Oid, VolumeName};
use crate::peers::{Handler, RecvStream, SendStream};
use crate::record::commit;
use crate::replicator::HeadNotice;
use crate::store::incoming;
use crate::store::objects::Objects;
use crate::volume::Volume;

const VERSION: u8 = 1;
/// Longest request.
const REQUEST_BYTES_MAX: u32 = 1 << 20;
/// Requests served at once; more wait.
const SERVED_AT_ONCE: usize = 8;

static PLACES: Semaphore = Semaphore::const_new(SERVED_AT_ONCE);

#[derive(Debug, Serialize, Deserialize)]
struct Want {
    volume: VolumeName,
    want: Vec<[u8; 20]>,
    have: Vec<[u8; 20]>,
}

fn raw(id: &Oid) -> [u8; 20] {
    <[u8; 20]>::try_from(id.as_slice()).unwrap_or([0; 20])
}

/// Why a fetch failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("connection: {0}")]
    Io(#[from] io::Error),
    #[error("peer: {0}")]
    Peer(#[from] crate::peers::PeersError),
    #[error("the peer has not got it")]
    NotHere,
    #[error("{0}")]
    Incoming(#[from] incoming::IncomingError),
    #[error("{0}")]
    Volume(#[from] crate::volume::error::VolumeError),
    #[error("a head is not what its author signed: {0}")]
    Lie(String),
    #[error("{0}")]
    Node(String),
}

/// A head whose closure is wanted.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) head: HeadNotice,
    /// The pack that came with its announcement.
    pub(super) pack: Option<Vec<u8>>,
}

/// Shows these heads: out of what came with their announcements, if that is enough, else by
/// fetching their closure from a peer.
pub(super) async fn fetch(
    node: &Arc<NodeInner>,
    name: &VolumeName,
    from: NodeId,
    want: Vec<Wanted>,
) -> Result<(), FetchError> {
    let opened = match node.volume(name) {
        Some(v) => Ok(v),
        None => {
            let name = name.clone();
            node.blocking(move |n| n.open_volume(&name)).await
        }
    };
    let volume = opened.map_err(|f| FetchError::Node(f.to_string()))?;
    let v = Arc::clone(&volume);
    let rest = tokio::task::spawn_blocking(move || unpack(&v, want))
        .await
        .map_err(|e| FetchError::Node(e.to_string()))??;
    if rest.is_empty() {
        return Ok(());
    }
    ask(node, volume, from, rest).await
}

/// Shows the heads whose packs came with them, and returns the others.
fn unpack(volume: &Volume, want: Vec<Wanted>) -> Result<Vec<HeadNotice>, FetchError> {
    let mut here = Vec::new();
    let mut rest = Vec::new();
    for Wanted { head, pack } in want {
        let Some(pack) = pack else {
            rest.push(head);
            continue;
        };
        match take(volume, pack, &head) {
            Ok(()) => here.push(head.id),
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
fn take(volume: &Volume, pack: Vec<u8>, head: &HeadNotice) -> Result<(), FetchError> {
    let repo = volume.repo();
    if repo.has(&head.id).unwrap_or(false) {
        return Ok(());
    }
    let came = incoming::parse(&pack)?;
    let with = came.with(repo);
    check_head(&with, head)?;
    let mut roots = ref_values(volume, &with, &head.id)?;
    roots.push(head.id);
    let objects = came.verified(repo, &roots)?;
    volume.hold(pack, objects)?;
    Ok(())
}

/// Takes in a pack that makes the closure of these heads complete.
fn receive(volume: &Volume, from: impl Read, heads: &[&HeadNotice]) -> Result<(), FetchError> {
    let repo = volume.repo();
    let came = incoming::receive(repo, from)?;
    let mut roots: Vec<Oid> = heads.iter().map(|w| w.id).collect();
    let with = came.with(repo);
    for w in heads {
        check_head(&with, w)?;
        roots.extend(ref_values(volume, &with, &w.id)?);
    }
    came.admit(repo, &roots)?;
    Ok(())
}

/// Fetches the closure of these heads from a peer and shows them.
async fn ask(
    node: &NodeInner,
    volume: Arc<Volume>,
    from: NodeId,
    want: Vec<HeadNotice>,
) -> Result<(), FetchError> {
    let peers = node
        .peers()
        .ok_or_else(|| FetchError::Node("no peers yet".to_owned()))?;
    let (to, answer) = peers.request(from).await?;
    let view = volume.view();
    let request = Want {
        volume: volume.name().clone(),
        want: want.iter().map(|w| raw(&w.id)).collect(),
        have: view.heads.iter().map(|h| raw(&h.id)).collect(),
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
        if !ids.iter().all(|i| want.iter().any(|w| w.id == *i)) {
            return Err(FetchError::Lie("it sends what nobody asked for".to_owned()));
        }
        let repo = volume.repo();
        let missing = |w: &&HeadNotice| ids.contains(&w.id) && !repo.has(&w.id).unwrap_or(false);
        let missing: Vec<&HeadNotice> = want.iter().filter(missing).collect();
        if !missing.is_empty() {
            receive(&volume, answer, &missing)?;
        }
        volume.admit(ids)?;
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

/// What the branches and tags of a head point to. A tag is no commit's parent, so it is asked
/// for and checked beside the head.
fn ref_values(volume: &Volume, objs: &dyn Objects, head: &Oid) -> Result<Vec<Oid>, FetchError> {
    let c = commit::decode(objs, head).map_err(|e| FetchError::Lie(e.to_string()))?;
    Ok(volume.ref_values(objs, &c.state)?)
}

/// A head must be the commit that its author signed for.
fn check_head(came: &dyn Objects, w: &HeadNotice) -> Result<(), FetchError> {
    let c = commit::decode(came, &w.id).map_err(|e| FetchError::Lie(e.to_string()))?;
    let same = c.head.node == w.node
        && c.head.stamp.branch == w.branch
        && c.head.stamp.seq == w.seq
        && c.head.has_seen(c.head.stamp.dot());
    if same {
        return Ok(());
    }
    Err(FetchError::Lie(w.id.to_string()))
}

fn read_request(from: &mut dyn Read) -> io::Result<Want> {
    let mut len = [0; 4];
    from.read_exact(&mut len)?;
    let len = u32::from_le_bytes(len);
    if len == 0 || len > REQUEST_BYTES_MAX {
        return Err(io::Error::other("a request of an impossible length"));
    }
    let mut body = vec![0; len as usize];
    from.read_exact(&mut body)?;
    match body.split_first() {
        Some((&VERSION, rest)) => postcard::from_bytes(rest).map_err(io::Error::other),
        _ => Err(io::Error::other("a request of another version")),
    }
}

/// Serves what members ask for.
#[derive(Debug)]
pub(super) struct Server(pub(super) std::sync::Weak<NodeInner>);

#[async_trait]
impl Handler for Server {
    async fn serve(&self, peer: NodeId, request: RecvStream, reply: SendStream) {
        let Some(node) = self.0.upgrade() else { return };
        let Ok(place) = PLACES.acquire().await else {
            return;
        };
        let done = tokio::task::spawn_blocking(move || answer(&node, request, reply)).await;
        drop(place);
        match done {
            Ok(Ok(n)) => tracing::debug!(peer = %peer.short(), objects = n, "served"),
            Ok(Err(e)) => tracing::debug!(peer = %peer.short(), error = %e, "not served"),
            Err(e) => tracing::error!(error = %e, "serving a peer died"),
        }
    }
}

fn answer(node: &NodeInner, request: RecvStream, reply: SendStream) -> io::Result<u32> {
    let request = read_request(&mut SyncIoBridge::new(request))?;
    let mut to = io::BufWriter::with_capacity(64 << 10, SyncIoBridge::new(reply));
    let ids = |v: &[[u8; 20]]| -> Vec<Oid> { v.iter().map(|b| Oid::from(*b)).collect() };
    let (mut want, have) = (ids(&request.want), ids(&request.have));
    let volume = node.volume(&request.volume);
    match &volume {
        Some(v) => want.retain(|w| v.repo().has(w).unwrap_or(false)),
        None => want.clear(),
    }
    let count = u32::try_from(want.len()).map_err(io::Error::other)?;
    to.write_all(&count.to_le_bytes())?;
    for id in &want {
        to.write_all(id.as_slice())?;
    }
    let sent = match volume {
        Some(v) if !want.is_empty() => {
            let values = |ids: &[Oid]| -> Vec<Oid> {
                let held = ids.iter().filter(|i| v.repo().has(i).unwrap_or(false));
                held.flat_map(|i| ref_values(&v, &**v.repo(), i).unwrap_or_default())
                    .collect()
            };
            let (more, less) = (values(&want), values(&have));
            want.extend(more);
            let have = [have, less].concat();
            incoming::send(v.repo(), &want, &have, &mut to).map_err(io::Error::other)?
        }
        _ => 0,
    };
    to.flush()?;
    let mut inner = to.into_inner().map_err(io::IntoInnerError::into_error)?;
    inner.shutdown()?;
    Ok(sent)
}
