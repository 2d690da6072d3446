//! Bytes by what they are: added without a name in the folder, got from here or from members.
//!
//! Files are those of the volume's [shelf](super::shelf), by SHA-256; git objects those of its
//! repository. What is not here is asked of all connected members ([`find`]); what they give of a
//! file stays here, a git object does not, as what it names would be missing.
//!
//! Invariants: an id is told when what it names is durable. What a member gave is known by its id
//! only after all of it was hashed. Threads: the runtime's; the disk is used on those that may wait.

mod find;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::AsyncWriteExt;

pub(super) use self::find::{KIND_FIND, serve};
use super::NodeInner;
use super::shelf::{Shelf, ShelfError};
use crate::base::cid::Cid;
use crate::base::id::Oid;
use crate::chunk::Sha256;
use crate::control::failure::{Answer, Failure};
use crate::control::flow::Flow;
use crate::control::wire::{AddTo, Added, Object, ObjectOf};
use crate::doors::lfs::Source;
use crate::store::objects::{self, Objects, id_of};
use crate::volume::Volume;

/// Bytes that are read at a time.
const STEP_BYTES: usize = 256 << 10;

fn full() -> Failure {
    Failure::failed("the disk of the node is full")
        .hint("make room on the disk of the state directory: cellfs status names it")
}

impl From<ShelfError> for Failure {
    fn from(e: ShelfError) -> Self {
        if e.is_full() {
            return full();
        }
        Self::failed(e)
    }
}

fn while_adding(e: io::Error) -> Failure {
    ShelfError::Io("keep what comes", e).into()
}

/// A file's bytes, as they are read.
struct Reading {
    /// Somewhere else while it is read from.
    source: Option<Box<dyn Source>>,
    at: u64,
}

#[async_trait]
impl Flow for Reading {
    async fn next(&mut self) -> Answer<Option<Bytes>> {
        let Some(mut source) = self.source.take() else {
            return Ok(None);
        };
        let at = self.at;
        let work = tokio::task::spawn_blocking(move || {
            let left = usize::try_from(source.len() - at).unwrap_or(usize::MAX);
            let read = match left {
                0 => Ok(Bytes::new()),
                _ => source.read(at, left.min(STEP_BYTES)),
            };
            (source, left, read)
        });
        let (source, left, read) = work.await.map_err(Failure::bug)?;
        let bytes = read.map_err(|e| Failure::failed(format!("its bytes cannot be read: {e}")))?;
        if bytes.is_empty() && left > 0 {
            return Err(Failure::failed("its bytes end before their length"));
        }
        self.source = Some(source);
        self.at += bytes.len() as u64;
        Ok(Some(bytes).filter(|b| !b.is_empty()))
    }
}

/// Bytes that are all in memory.
struct Once(Option<Bytes>);

#[async_trait]
impl Flow for Once {
    async fn next(&mut self) -> Answer<Option<Bytes>> {
        Ok(self.0.take().filter(|b| !b.is_empty()))
    }
}

fn nowhere(id: &Cid, volume: &Volume, why: &str) -> Failure {
    let volume = volume.name();
    Failure::failed(format!(
        "{id} is not in volume {volume} of this node; {why}"
    ))
    .hint("cellfs members shows who is connected")
}

/// A git object that is here.
fn git_object(volume: &Volume, id: &Oid) -> Answer<Option<objects::Object>> {
    let found = volume.repo().find(id).map_err(Failure::failed)?;
    match found {
        Some(o) if id_of(o.kind, &o.data) != *id => {
            let why = format!("git object {id} is damaged on this node");
            Err(Failure::failed(why).hint("git fsck in the volume's repository tells more"))
        }
        found => Ok(found),
    }
}

impl NodeInner {
    async fn shelf_of(&self, volume: &Arc<Volume>) -> Answer<Arc<Shelf>> {
        let v = volume.clone();
        self.blocking(move |n| Ok(n.shelf(&v)?)).await
    }

    /// See [`crate::control::node::Node::add`].
    pub(super) async fn add(&self, what: AddTo, bytes: &mut dyn Flow) -> Answer<Added> {
        let volume = self.known(what.volume)?;
        if self.leaving.load(Ordering::SeqCst) {
            return Err(Failure::failed("this node is leaving the cell"));
        }
        let shelf = self.shelf_of(&volume).await?;
        let s = shelf.clone();
        let coming = self.blocking(move |_| Ok(s.begin()?)).await?;
        let (file, path) = coming.into_parts();
        let mut file = tokio::fs::File::from_std(file);
        while let Some(part) = bytes.next().await? {
            file.write_all(&part).await.map_err(while_adding)?;
        }
        file.flush().await.map_err(while_adding)?;
        drop(file);
        let (sha256, length) = self.blocking(move |_| Ok(shelf.add(path)?)).await?;
        let id = Cid::File(sha256.0);
        Ok(Added { id, length })
    }

    /// See [`crate::control::node::Node::get`].
    pub(super) async fn get(&self, what: ObjectOf) -> Answer<(u64, Box<dyn Flow>)> {
        let volume = self.known(what.volume)?;
        match what.id {
            Cid::File(sha256) => {
                let source = self.file(&volume, Sha256(sha256)).await?;
                let length = source.len();
                let source = Some(source);
                Ok((length, Box::new(Reading { source, at: 0 })))
            }
            Cid::Git(id) => {
                let found = self.git(&volume, id).await?.0;
                let bytes = Bytes::from_owner(Whole(found.data));
                Ok((bytes.len() as u64, Box::new(Once(Some(bytes)))))
            }
        }
    }

    /// The bytes of a file, brought if need be.
    async fn file(&self, volume: &Arc<Volume>, sha256: Sha256) -> Answer<Box<dyn Source>> {
        let shelf = self.shelf_of(volume).await?;
        let s = shelf.clone();
        let here = self.blocking(move |_| Ok(known(&s, &sha256)?));
        let before = match here.await? {
            Some(Ok(source)) => return Ok(source),
            Some(Err(e)) => format!("{e}; "),
            None => String::new(),
        };
        let v = volume.clone();
        let take = move |given| {
            let head = find::take_manifest(&v, sha256, given)?;
            shelf.check_in(&head).map_err(|e| e.to_string())?;
            Ok(shelf.listed(&head))
        };
        let id = Cid::File(sha256.0);
        let brought = self.ask_members(volume, id, take).await;
        brought.map_err(|why| nowhere(&id, volume, &format!("{before}{why}")))
    }

    /// A git object, and whether it is here.
    async fn git(&self, volume: &Arc<Volume>, id: Oid) -> Answer<(objects::Object, bool)> {
        let v = volume.clone();
        let here = self.blocking(move |_| git_object(&v, &id));
        if let Some(o) = here.await? {
            return Ok((o, true));
        }
        let take = move |given| find::take_object(&id, given);
        let brought = self.ask_members(volume, Cid::Git(id), take).await;
        let object = brought.map_err(|why| nowhere(&Cid::Git(id), volume, &why))?;
        Ok((object, false))
    }

    /// See [`crate::control::node::Node::object`].
    pub(super) async fn object(&self, what: ObjectOf) -> Answer<Object> {
        let volume = self.known(what.volume)?;
        let id = what.id;
        let sha256 = match id {
            Cid::File(sha256) => Sha256(sha256),
            Cid::Git(git) => {
                let (o, is_here) = self.git(&volume, git).await?;
                let length = o.data.len() as u64;
                return Ok(Object {
                    id,
                    kind: o.kind.to_string(),
                    length,
                    length_here: if is_here { length } else { 0 },
                    pieces: None,
                    pieces_here: None,
                });
            }
        };
        let shelf = self.shelf_of(&volume).await?;
        let head = match shelf.head(&sha256) {
            Some(head) => head,
            None => {
                let v = volume.clone();
                let take = move |given| find::take_manifest(&v, sha256, given);
                let told = self.ask_members(&volume, id, take).await;
                told.map_err(|why| nowhere(&id, &volume, &why))?
            }
        };
        let part = self.blocking(move |_| Ok(shelf.part(&head)?)).await?;
        Ok(Object {
            id,
            kind: "file".to_owned(),
            length: head.len,
            length_here: part.bytes_here,
            pieces: Some(part.pieces),
            pieces_here: Some(part.pieces_here),
        })
    }
}

/// The bytes of a file whose manifest is known here, or why they cannot be had.
fn known(shelf: &Arc<Shelf>, sha256: &Sha256) -> Result<Option<Known>, ShelfError> {
    if let Some(source) = shelf.source(sha256, false)? {
        return Ok(Some(Ok(source)));
    }
    let Some(head) = shelf.choose(sha256)? else {
        return Ok(None);
    };
    let begun = shelf.begin_to_bring(&head);
    Ok(Some(begun.map(|()| shelf.listed(&head))))
}

type Known = Result<Box<dyn Source>, ShelfError>;

/// Bytes that others may hold, too.
struct Whole(Arc<Vec<u8>>);

impl AsRef<[u8]> for Whole {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
