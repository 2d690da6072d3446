//! The git-lfs door: the large files of volumes, for unmodified git-lfs.
//!
//! `/VOLUME.git/info/lfs` is git-lfs's server for the repository `/VOLUME.git`: the batch
//! request, the basic transfer, with ranges and a check of what came, and locks on files. It
//! stands before another door, to which all other requests go. Where the bytes are is the node's
//! business ([`LfsHost`]); locks are kept here, in a file for each volume, and are of this node
//! alone.
//!
//! Invariants: an object is given to the host only when all of it came and it hashes to its
//! name; what did not come whole leaves nothing behind. A change of the locks is durable before
//! it is answered. Memory for each request is bounded: [`PIECES`] pieces of a transfer, or one
//! small JSON body. Transfers are bounded in number, and end when the other side stalls.

mod batch;
mod locking;
mod locks;
mod range;
mod room;
mod route;
mod transfer;
mod wire;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{Request, Response};
use tempfile::TempPath;
use tokio::sync::{Mutex, Semaphore};

use super::git::Access;
use super::http::{Body, Door, Peer};
use crate::base::id::{BadId, VolumeName};

/// Most uploads at once; further ones wait.
pub const UPLOADS_MAX: usize = 16;
/// Most downloads at once; further ones wait.
pub const DOWNLOADS_MAX: usize = 64;
/// Most objects in one batch request. git-lfs asks for 100.
pub const BATCH_OBJECTS_MAX: usize = 1_000;
/// Largest body of a request that is JSON.
pub const JSON_BYTES_MAX: usize = 1 << 20;
/// Largest object.
pub const OBJECT_BYTES_MAX: u64 = 1 << 40;
/// Most locks on the files of one volume.
pub const LOCKS_MAX: usize = 10_000;
/// Longest path that can be locked.
pub const LOCK_PATH_BYTES_MAX: usize = 4096;
/// Most locks in one answer.
pub const LOCKS_LISTED_MAX: usize = 1_000;

/// Time for a transfer to begin, and for a JSON body to come.
const PATIENCE: Duration = Duration::from_secs(60);
/// The other side moves no byte for so long: it is taken for gone.
const STALL: Duration = Duration::from_secs(300);
/// Size of a piece of a transfer.
const PIECE: usize = 64 << 10;
/// Pieces of a transfer between disk and network.
pub const PIECES: usize = 4;

/// The name of an object: the SHA-256 of its bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LfsId(pub [u8; 32]);

impl LfsId {
    /// The object without bytes. It is always here, and nowhere.
    pub const EMPTY: Self = Self([
        0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9,
        0x24, 0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52,
        0xb8, 0x55,
    ]);
}

impl fmt::Display for LfsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for LfsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for LfsId {
    type Err = BadId;

    fn from_str(s: &str) -> Result<Self, BadId> {
        let bytes = data_encoding::HEXLOWER.decode(s.as_bytes());
        let bytes = bytes.ok().and_then(|b| <[u8; 32]>::try_from(b).ok());
        let bad = || BadId("a SHA-256", s.chars().take(80).collect());
        bytes.map(Self).ok_or_else(bad)
    }
}

/// What is here of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// All of it, and how long it is.
    Here(u64),
    /// It is known how long it is, but not all of its bytes are here.
    Partly(u64),
    /// The same, and other nodes that are connected may have them.
    Near(u64),
    /// Nothing is known of it.
    Absent,
}

/// Why the host did not do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LfsRefusal {
    /// There is no such volume.
    #[error("there is no volume {0}")]
    NotFound(VolumeName),
    /// An object is not here.
    #[error("object {0} is not on this node")]
    Absent(LfsId),
    /// Only a part of an object is here.
    #[error("not all of object {0} is on this node")]
    Partly(LfsId),
    /// What came is not what its name says.
    #[error("the bytes that came are not those of object {0}")]
    Wrong(LfsId),
    /// No room on the disk.
    #[error("the disk of this node is full")]
    Full,
    /// Not now, and why; to be tried again.
    #[error("{0}")]
    Busy(String),
    /// The node failed.
    #[error("{0}")]
    Failed(String),
}

/// The bytes of an object that is here. Reading blocks.
pub trait Source: Send {
    /// How many there are.
    fn len(&self) -> u64;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// At least one and at most so many bytes from one on, which is below the length.
    ///
    /// # Errors
    /// As the disk. What was read before was right.
    fn read(&mut self, at: u64, most: usize) -> io::Result<Bytes>;
}

/// The node, as the git-lfs door sees it.
#[async_trait]
pub trait LfsHost: Send + Sync + 'static {
    /// What a token allows, as for git. Compares in constant time, or by a hash.
    async fn access(&self, token: &str) -> Access;

    /// A directory of the volume for this door, private to the node, on the file system that
    /// the objects are on. With `create`, a volume that does not exist is made: git-lfs sends
    /// objects before git sends what names them.
    async fn dir(&self, volume: &VolumeName, create: bool) -> Result<PathBuf, LfsRefusal>;

    /// What is here of these objects, in their order. For who sends what is not here nothing counts
    /// that is not `proven`: to be what it is called, by a hash of all of it.
    async fn presence(
        &self,
        volume: &VolumeName,
        ids: Vec<LfsId>,
        proven: bool,
    ) -> Result<Vec<Presence>, LfsRefusal>;

    /// The bytes of an object.
    async fn open(&self, volume: &VolumeName, id: LfsId) -> Result<Box<dyn Source>, LfsRefusal>;

    /// Takes over a file in [`LfsHost::dir`] as the bytes of this object, durable. They hash to
    /// its name, and nobody writes to the file.
    async fn take(&self, volume: &VolumeName, id: LfsId, file: TempPath) -> Result<(), LfsRefusal>;
}

/// The git-lfs door of a node.
pub struct LfsDoor {
    host: Arc<dyn LfsHost>,
    /// Who answers what is not for git-lfs.
    behind: Arc<dyn Door>,
    uploads: Arc<Semaphore>,
    downloads: Arc<Semaphore>,
    rooms: Mutex<HashMap<VolumeName, Arc<room::Room>>>,
}

impl fmt::Debug for LfsDoor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LfsDoor").finish_non_exhaustive()
    }
}

impl LfsDoor {
    /// Stands before another door.
    #[must_use]
    pub fn before(behind: Arc<dyn Door>, host: Arc<dyn LfsHost>) -> Self {
        Self {
            host,
            behind,
            uploads: Arc::new(Semaphore::new(UPLOADS_MAX)),
            downloads: Arc::new(Semaphore::new(DOWNLOADS_MAX)),
            rooms: Mutex::default(),
        }
    }
}

#[async_trait]
impl Door for LfsDoor {
    async fn call(&self, request: Request<Incoming>, peer: Peer) -> Response<Body> {
        if route::is_lfs(request.uri().path()) {
            route::call(self, request, peer).await
        } else {
            self.behind.call(request, peer).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_64_small_hexadecimal_digits() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(LfsId::EMPTY.to_string(), empty);
        assert_eq!(empty.parse::<LfsId>().ok(), Some(LfsId::EMPTY));
        for bad in [
            "",
            "..",
            "../../../../etc/passwd",
            &empty.to_uppercase(),
            &empty[1..],
            &format!("{empty}0"),
            &format!("{}/", &empty[1..]),
            &format!("{}é", &empty[2..]),
        ] {
            assert!(bad.parse::<LfsId>().is_err(), "{bad}");
        }
    }
}
