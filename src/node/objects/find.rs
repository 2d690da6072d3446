//! Asking members for bytes by their id, and answering.
//!
//! A request is one frame on a stream of its own, `length u32 le | 5 | postcard`; the answer is a
//! byte, and if that is [`GIVEN`]: of a file the head of its manifest and a pack with all of the
//! manifest, of a git object a pack of it alone. A file's bytes are asked for by
//! [`crate::node::transfer`] then, of all who have some.
//!
//! Invariant: what a member gives is a whole manifest, or hashes to the id; what it says of a
//! file, that its pieces are that file, is for the caller to check. A member that says nothing is
//! given up.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_util::io::SyncIoBridge;

use crate::base::cid::Cid;
use crate::base::id::{NodeId, Oid, VolumeName};
use crate::base::limit::{FILE_BYTES_MAX, LOGGED_COMMIT_BYTES_MAX};
use crate::chunk::Sha256;
use crate::chunk::manifest::{self, HEAD_BYTES, Head};
use crate::node::NodeInner;
use crate::peers::{Peers, RecvStream, SendStream};
use crate::store::objects::{Object, ObjectKind, Objects, id_of};
use crate::store::{incoming, pack};
use crate::swarm::wire::{ABSENT, GIVEN};
use crate::volume::Volume;
use crate::volume::chain::Disk;

/// Kind of a request for bytes by their id.
pub(in crate::node) const KIND_FIND: u8 = 5;
/// Longest request behind its length.
const REQUEST_BYTES_MAX: usize = 512;
/// Whether it has something a member says within this time.
const ANSWER: Duration = Duration::from_secs(9);
/// A member from which nothing comes for this long is given up.
const STALLED: Duration = Duration::from_secs(20);
/// Packs up to this size go to the journal first.
const SMALL_PACK_BYTES: u64 = LOGGED_COMMIT_BYTES_MAX as u64;

#[derive(Debug, Serialize, Deserialize)]
struct Ask {
    volume: VolumeName,
    id: Cid,
}

/// What a member gives, behind the byte that says so. Reading blocks; not for the runtime's
/// threads.
pub(super) struct Given {
    from: RecvStream,
    runtime: Handle,
}

impl Read for Given {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = timeout(STALLED, self.from.read(buf));
        let silent = || io::Error::new(io::ErrorKind::TimedOut, "it said no more");
        self.runtime.block_on(read).map_err(|_| silent())?
    }
}

async fn ask(peers: &Peers, peer: NodeId, frame: &[u8]) -> io::Result<Option<Given>> {
    let (mut to, mut from) = peers.request(peer).await.map_err(io::Error::other)?;
    to.write_all(frame).await?;
    to.finish();
    let runtime = Handle::current();
    Ok((from.read_u8().await? == GIVEN).then_some(Given { from, runtime }))
}

impl NodeInner {
    /// What `take` makes of what the first member gives that it can take; if none does, what was
    /// asked of whom. `take` may wait.
    pub(super) async fn ask_members<T: Send + 'static>(
        &self,
        volume: &Volume,
        id: Cid,
        take: impl Fn(Given) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<T, String> {
        let Some(peers) = self.peers() else {
            return Err("the node is still starting".to_owned());
        };
        let connected = peers.connected();
        if connected.is_empty() {
            return Err("no other node is connected".to_owned());
        }
        let volume = volume.name().clone();
        let body = postcard::to_extend(&Ask { volume, id }, vec![KIND_FIND]);
        let body = body.map_err(|e| e.to_string())?;
        let mut frame = u32::try_from(body.len())
            .unwrap_or(u32::MAX)
            .to_le_bytes()
            .to_vec();
        frame.extend_from_slice(&body);
        let frame = &frame;
        let one = |(peer, _)| async move { (peer, timeout(ANSWER, ask(peers, peer, frame)).await) };
        let mut answers: FuturesUnordered<_> = connected.into_iter().map(one).collect();
        let take = Arc::new(take);
        let mut lack = 0;
        let mut why = Vec::new();
        while let Some((peer, answer)) = answers.next().await {
            let taken = match answer {
                Err(_) => Err("it does not answer".to_owned()),
                Ok(Err(e)) => Err(e.to_string()),
                Ok(Ok(None)) => {
                    lack += 1;
                    continue;
                }
                Ok(Ok(Some(given))) => {
                    let take = take.clone();
                    let work = tokio::task::spawn_blocking(move || take(given));
                    work.await.map_err(|e| e.to_string()).flatten()
                }
            };
            match taken {
                Ok(taken) => return Ok(taken),
                Err(e) => why.push(format!("node {}: {e}", peer.short())),
            }
        }
        match lack {
            0 => {}
            1 => why.insert(0, "the one other node that answers lacks it".to_owned()),
            n => why.insert(0, format!("{n} other nodes that answer lack it")),
        }
        Err(why.join("; "))
    }
}

fn said(e: impl std::fmt::Display) -> String {
    e.to_string()
}

/// Takes the manifest of a file in, durable. Whether its pieces are that file it does not say.
pub(super) fn take_manifest(
    volume: &Volume,
    sha256: Sha256,
    mut given: impl Read,
) -> Result<Head, String> {
    let mut bytes = [0; HEAD_BYTES];
    given.read_exact(&mut bytes).map_err(said)?;
    let head = manifest::head(&bytes).map_err(said)?;
    if head.sha256 != sha256 {
        return Err("it gave another file".to_owned());
    }
    let want = [id_of(ObjectKind::Blob, &bytes), head.top];
    let repo = &**volume.repo();
    let is_here = |id| repo.has(id).map_err(said);
    if is_here(&want[0])? && is_here(&want[1])? {
        return Ok(head);
    }
    let mut small = Vec::new();
    let begin = given.by_ref().take(SMALL_PACK_BYTES);
    let n = { begin }.read_to_end(&mut small).map_err(said)?;
    if (n as u64) < SMALL_PACK_BYTES {
        let parsed = incoming::parse(&small).map_err(said)?;
        let objects = parsed.verified(repo, &want).map_err(said)?;
        volume.hold(small, objects).map_err(said)?;
        volume.sync(volume.last()).map_err(said)?;
    } else {
        let came = incoming::receive(repo, Read::chain(&small[..], given)).map_err(said)?;
        let held_lasts = || volume.sync(volume.last()).map_err(io::Error::other);
        came.admit(repo, &want, held_lasts).map_err(said)?;
    }
    Ok(head)
}

/// A git object that a member gives.
pub(super) fn take_object(id: &Oid, given: impl Read) -> Result<Object, String> {
    let mut bytes = Vec::new();
    let mut given = given.take(FILE_BYTES_MAX);
    given.read_to_end(&mut bytes).map_err(said)?;
    let parsed = incoming::parse(&bytes).map_err(said)?;
    let found = parsed.into_objects().into_iter().find(|(o, _)| o == id);
    found
        .map(|(_, o)| o)
        .ok_or_else(|| "it gave another object".to_owned())
}

/// Answers a member, of whose request the length and the kind were read.
pub(in crate::node) async fn serve(
    node: Arc<NodeInner>,
    len: u32,
    mut request: RecvStream,
    reply: SendStream,
) -> io::Result<()> {
    let len = len as usize;
    if !(1..=REQUEST_BYTES_MAX).contains(&len) {
        return Err(io::Error::other("a request of an impossible length"));
    }
    let mut body = vec![0; len - 1];
    timeout(STALLED, request.read_exact(&mut body)).await??;
    let ask: Ask = postcard::from_bytes(&body).map_err(io::Error::other)?;
    let work = tokio::task::spawn_blocking(move || {
        let mut to = io::BufWriter::with_capacity(64 << 10, SyncIoBridge::new(reply));
        give(&node, &ask, &mut to)?;
        to.flush()?;
        to.into_inner()
            .map_err(io::IntoInnerError::into_error)?
            .shutdown()
    });
    work.await.map_err(io::Error::other)?
}

fn give(node: &NodeInner, ask: &Ask, to: &mut dyn Write) -> io::Result<()> {
    let Some(volume) = node.volume(&ask.volume) else {
        return to.write_all(&[ABSENT]);
    };
    let repo = &**volume.repo();
    match ask.id {
        Cid::File(sha256) => {
            let shelf = node.shelf(&volume).map_err(io::Error::other)?;
            let chosen = shelf.choose(&Sha256(sha256));
            let Some(head) = chosen.map_err(io::Error::other)? else {
                return to.write_all(&[ABSENT]);
            };
            let bytes = head.encode();
            let want = [id_of(ObjectKind::Blob, &bytes), head.top];
            to.write_all(&[GIVEN])?;
            to.write_all(&bytes)?;
            let sent = incoming::send(repo, &want, &[], to);
            sent.map(drop).map_err(io::Error::other)
        }
        Cid::Git(id) => {
            let Some(object) = repo.find(&id).map_err(io::Error::other)? else {
                return to.write_all(&[ABSENT]);
            };
            to.write_all(&[GIVEN])?;
            to.write_all(&pack::encode(&[(id, object)])?)
        }
    }
}

#[cfg(test)]
mod tests;
