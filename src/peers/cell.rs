//! A node's membership on disk: which cell, the log of members, where they were last seen.
//!
//! Invariant: `<state>/cell/` holds either nothing or a log in which this node has a
//! certificate; every file is replaced whole ([`files`]) and carries a checksum.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::{PeersError, Refusal};
use super::files;
use super::key::{self, NodeKey};
use super::roll::{Roll, Standing};
use super::statement::{Body, Certificate, NODE_NAME_BYTES_MAX, Statement, is_good_name};
use super::ticket::ADDRS_MAX;
use super::wire;
use crate::base::clock;
use crate::base::durable;
use crate::base::id::NodeId;

/// Largest file of this room.
const FILE_BYTES_MAX: usize = 64 << 20;
/// Most nodes whose addresses are kept.
const BOOK_NODES_MAX: usize = 16_384;

/// Where members were seen.
pub(crate) type Book = BTreeMap<NodeId, Vec<SocketAddr>>;

/// The membership of this node, as read from disk or just won.
#[derive(Debug, Clone)]
pub struct Cell {
    pub(crate) me: NodeId,
    pub(crate) roll: Roll,
    pub(crate) book: Book,
    pub(crate) paths: Paths,
}

/// Files of `<state>/cell/`.
#[derive(Debug, Clone)]
pub(crate) struct Paths(PathBuf);

impl Paths {
    pub(crate) fn new(state_dir: &Path) -> Self {
        Self(state_dir.join("cell"))
    }
    pub(crate) fn dir(&self) -> &Path {
        &self.0
    }
    pub(crate) fn log(&self) -> PathBuf {
        self.0.join("log")
    }
    pub(crate) fn book(&self) -> PathBuf {
        self.0.join("addresses")
    }
    pub(crate) fn invites(&self) -> PathBuf {
        self.0.join("invites")
    }
    pub(crate) fn generation(&self) -> PathBuf {
        self.0.join("generation")
    }
}

/// The log as stored.
#[derive(Serialize, Deserialize)]
struct StoredLog {
    cell: NodeId,
    statements: Vec<Statement>,
}

impl Cell {
    /// Founds a cell: its id is this key's public half.
    ///
    /// # Errors
    /// The directory holds a membership already, or cannot be written.
    pub fn found(key: &NodeKey, state_dir: &Path, name: &str) -> Result<Self, PeersError> {
        Self::refuse_member(key, state_dir)?;
        let mut roll = Roll::new(key.node());
        let root = certificate(key, key.node(), key.node(), name)?;
        roll.add(vec![root])?;
        let cell = Self {
            me: key.node(),
            roll,
            book: Book::new(),
            paths: Paths::new(state_dir),
        };
        cell.store()?;
        Ok(cell)
    }

    /// Reads the membership from disk.
    ///
    /// # Errors
    /// [`PeersError::NoCell`] when there is none; a [`Refusal`] when this node left its cell
    /// or was forgotten.
    pub fn load(key: &NodeKey, state_dir: &Path) -> Result<Self, PeersError> {
        let cell = Self::read(key, state_dir)?.ok_or(PeersError::NoCell)?;
        match cell.roll.standing(key.node()) {
            Some(Standing::Member { .. }) => Ok(cell),
            Some(Standing::Forgotten { .. }) => Err(Refusal::Forgotten.into()),
            Some(Standing::Left { .. }) => Err(Refusal::Left.into()),
            None => Err(Refusal::VoidCertificate.into()),
        }
    }

    /// The cell's id: the founder's public key.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.roll.cell()
    }

    /// Refuses to overwrite a membership that still stands.
    pub(crate) fn refuse_member(key: &NodeKey, state_dir: &Path) -> Result<(), PeersError> {
        match Self::read(key, state_dir)? {
            Some(cell) if cell.roll.is_member(key.node()) => {
                Err(PeersError::AlreadyMember(cell.id()))
            }
            _ => Ok(()),
        }
    }

    fn read(key: &NodeKey, state_dir: &Path) -> Result<Option<Self>, PeersError> {
        let paths = Paths::new(state_dir);
        let Some(stored) = read_checked::<StoredLog>(&paths.log())? else {
            return Ok(None);
        };
        let mut roll = Roll::new(stored.cell);
        roll.add_own(stored.statements)?;
        let book = read_checked(&paths.book())?.unwrap_or_default();
        Ok(Some(Self {
            me: key.node(),
            roll,
            book,
            paths,
        }))
    }

    /// Writes log and addresses.
    pub(crate) fn store(&self) -> Result<(), PeersError> {
        files::private_dir(self.paths.dir())?;
        files::replace(&self.paths.book(), &book_bytes(&self.book))?;
        files::replace(&self.paths.log(), &log_bytes(&self.roll))
    }
}

/// A new certificate by `issuer`.
pub(crate) fn certificate(
    issuer: &NodeKey,
    cell: NodeId,
    subject: NodeId,
    name: &str,
) -> Result<Statement, PeersError> {
    let body = Body::Certificate(Certificate {
        cell,
        subject,
        issuer: issuer.node(),
        serial: u64::from_le_bytes(key::random()?),
        time_ms: clock::now_ms(),
        name: good_name(name, subject),
    });
    Ok(Statement::sign(issuer, &body))
}

/// The name itself, or one made of the node id where the name cannot be shown.
pub(crate) fn good_name(name: &str, node: NodeId) -> String {
    let mut name: String = name.chars().filter(|c| !c.is_control()).collect();
    while name.len() > NODE_NAME_BYTES_MAX {
        name.pop();
    }
    if is_good_name(&name) {
        name
    } else {
        node.short()
    }
}

/// The file form of a log.
pub(crate) fn log_bytes(roll: &Roll) -> Vec<u8> {
    checked_bytes(&StoredLog {
        cell: roll.cell(),
        statements: roll.statements().map(|(_, s)| s.clone()).collect(),
    })
}

/// The file form of an address book.
pub(crate) fn book_bytes(book: &Book) -> Vec<u8> {
    let bounded: Book = book
        .iter()
        .take(BOOK_NODES_MAX)
        .map(|(n, a)| (*n, a.iter().take(ADDRS_MAX).copied().collect()))
        .collect();
    checked_bytes(&bounded)
}

/// A value with a checksum before it.
pub(crate) fn checked_bytes<T: Serialize>(value: &T) -> Vec<u8> {
    let body = wire::encode(value);
    [&blake3::hash(&body).as_bytes()[..], &body].concat()
}

/// Reads what [`checked_bytes`] made.
pub(crate) fn read_checked<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, PeersError> {
    let Some(bytes) = files::read(path, FILE_BYTES_MAX)? else {
        return Ok(None);
    };
    let (sum, body) = bytes
        .split_first_chunk::<32>()
        .ok_or_else(|| files::damaged(path, "too short"))?;
    if blake3::hash(body).as_bytes() != sum {
        return Err(files::damaged(path, "its checksum is wrong"));
    }
    let value = wire::decode(body).map_err(|e| files::damaged(path, e))?;
    Ok(Some(value))
}

/// Draws the generation of this start: above the last one and not below the wall clock.
pub(crate) fn next_generation(paths: &Paths) -> Result<u64, PeersError> {
    let path = paths.generation();
    let last: u64 = read_checked(&path)?.unwrap_or(0);
    let next = last.saturating_add(1).max(clock::now_ms() / 1000);
    match durable::replace(&path, &checked_bytes(&next), 0o600) {
        // The clock will do, unless it is set back before the next start.
        Err(e) if e.kind() == ErrorKind::StorageFull => {
            tracing::warn!(error = %e, "the number of this start is not kept");
        }
        done => done.map_err(|e| PeersError::file("write", &path, e))?,
    }
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_founded_once_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let key = NodeKey::draw().unwrap();
        assert!(matches!(
            Cell::load(&key, dir.path()),
            Err(PeersError::NoCell)
        ));
        let cell = Cell::found(&key, dir.path(), "one").unwrap();
        let again = Cell::load(&key, dir.path()).unwrap();
        assert_eq!(again.id(), cell.id());
        assert_eq!(again.roll.digest(), cell.roll.digest());
        assert!(matches!(
            Cell::found(&key, dir.path(), "one"),
            Err(PeersError::AlreadyMember(_))
        ));
        let a = next_generation(&cell.paths).unwrap();
        let b = next_generation(&cell.paths).unwrap();
        assert!(b > a && a >= 1_700_000_000);
        let log = cell.paths.log();
        let mut bytes = std::fs::read(&log).unwrap();
        bytes[40] ^= 1;
        std::fs::write(&log, bytes).unwrap();
        let error = Cell::load(&key, dir.path()).unwrap_err();
        assert!(error.to_string().contains("damaged"), "{error}");
    }

    #[test]
    fn names_are_made_showable() {
        let node = NodeId([3; 32]);
        assert_eq!(good_name("a\nb", node), "ab");
        assert_eq!(good_name("", node), node.short());
        assert_eq!(good_name(&"é".repeat(60), node).len(), 64);
    }
}
