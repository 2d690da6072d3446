//! Large files whose bytes need not be here: what of them is here is a cache.
//!
//! A file that is not in the list counts as a copy, and its bytes stay until others have promised
//! to keep theirs ([`crate::copies`]); of one in it they may go at any time.
//!
//! Invariant: what is committed or added here is not in the list, durable, before anybody is told
//! that it lasts. That a file was put into the list may be forgotten by a crash: its copy counts
//! then as it did. Threads: any.
//!
//! The file `away` is `cellfsA1`, then records of 25 bytes: 1 if the file is away or 0 if it is
//! not any more, the head of its manifest, and the CRC-32 of both. What follows the last sound
//! record is cut off at the next opening.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Volume, VolumeResult};
use crate::base::id::Oid;
use crate::base::{durable, format};

const MAGIC: &[u8; 8] = b"cellfsA1";
const _: () = assert!(MAGIC[7] == b'0' + format::AWAY);
const RECORD_BYTES: usize = 25;
/// The file is written anew when it has so many records more than files.
const SLACK: u64 = 4096;

fn record(head: &Oid, is_away: bool) -> [u8; RECORD_BYTES] {
    let mut out = [0; RECORD_BYTES];
    let (body, sum) = out.split_at_mut(RECORD_BYTES - 4);
    if let Some((first, id)) = body.split_first_mut() {
        *first = u8::from(is_away);
        id.copy_from_slice(head.as_slice());
    }
    sum.copy_from_slice(&crc32fast::hash(body).to_le_bytes());
    out
}

fn parse(bytes: &[u8]) -> Option<(Oid, bool)> {
    let (body, sum) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(body) != u32::from_le_bytes(*sum) {
        return None;
    }
    let (first, id) = body.split_first()?;
    let id = <[u8; 20]>::try_from(id).ok()?;
    Some((Oid::from(id), *first == 1))
}

#[derive(Debug)]
struct List {
    heads: HashSet<Oid>,
    /// Where the next record goes; 0 while there is no file.
    end: u64,
    records: u64,
    /// The file may have more than it should.
    is_unsure: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Away {
    path: PathBuf,
    list: Mutex<List>,
}

impl Away {
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(e),
        };
        let mut list = List {
            heads: HashSet::new(),
            end: 0,
            records: 0,
            is_unsure: false,
        };
        if !bytes.is_empty() {
            let Some(records) = bytes.strip_prefix(MAGIC) else {
                let why = format!("{} is of another version, or damaged", path.display());
                return Err(io::Error::other(why));
            };
            list.end = MAGIC.len() as u64;
            for r in records.chunks(RECORD_BYTES) {
                let Some((head, is_away)) = parse(r) else {
                    break;
                };
                match is_away {
                    true => list.heads.insert(head),
                    false => list.heads.remove(&head),
                };
                list.end += RECORD_BYTES as u64;
                list.records += 1;
            }
            list.is_unsure = list.end < bytes.len() as u64;
        }
        let list = Mutex::new(list);
        Ok(Self { path, list })
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, heads: &[Oid], is_away: bool) -> io::Result<()> {
        let mut list = self.list();
        let is_news = |h: &&Oid| list.heads.contains(*h) != is_away;
        let new: Vec<Oid> = heads.iter().filter(is_news).copied().collect();
        if new.is_empty() {
            return Ok(());
        }
        // Also if the disk fails: who was allowed to let go does not count any more.
        if is_away {
            list.heads.extend(&new);
        }
        write(&self.path, &mut list, &new, is_away)?;
        if !is_away {
            for head in &new {
                list.heads.remove(head);
            }
        }
        Ok(())
    }
}

fn write(path: &Path, list: &mut List, new: &[Oid], is_away: bool) -> io::Result<()> {
    let is_long = list.records > list.heads.len() as u64 + SLACK;
    if list.end == 0 || list.is_unsure || is_long {
        let mut bytes = MAGIC.to_vec();
        let goes = |h: &&Oid| !is_away && new.contains(h);
        for head in list.heads.iter().filter(|h| !goes(h)) {
            bytes.extend_from_slice(&record(head, true));
        }
        durable::replace(path, &bytes, 0o600)?;
        list.end = bytes.len() as u64;
        list.records = (bytes.len() / RECORD_BYTES) as u64;
        list.is_unsure = false;
        return Ok(());
    }
    let bytes: Vec<u8> = new.iter().flat_map(|h| record(h, is_away)).collect();
    let file = File::options().write(true).open(path)?;
    // Until it is known that all of it is there, what is there is not known.
    list.is_unsure = true;
    file.write_all_at(&bytes, list.end)?;
    file.sync_all()?;
    list.is_unsure = false;
    list.end += bytes.len() as u64;
    list.records += new.len() as u64;
    Ok(())
}

impl Volume {
    /// Whether the bytes of a large file need not be here.
    #[must_use]
    pub fn is_away(&self, head: &Oid) -> bool {
        self.away.list().heads.contains(head)
    }

    /// All large files whose bytes need not be here.
    #[must_use]
    pub fn all_away(&self) -> Vec<Oid> {
        self.away.list().heads.iter().copied().collect()
    }

    /// From now on the bytes of these large files need not be here. Who calls this has it proven
    /// that others keep them, or that they were never here.
    ///
    /// # Errors
    /// As the disk; after a restart they count again then.
    pub fn give_away(&self, heads: &[Oid]) -> VolumeResult<()> {
        Ok(self.away.set(heads, true)?)
    }

    /// From now on these large files count as copies, durable: what is here of them stays.
    ///
    /// # Errors
    /// As the disk; then nothing is changed.
    pub fn take_back(&self, heads: &[Oid]) -> VolumeResult<()> {
        Ok(self.away.set(heads, false)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(n: u8) -> Oid {
        Oid::from([n; 20])
    }

    fn heads(a: &Away) -> Vec<Oid> {
        let mut all: Vec<Oid> = a.list().heads.iter().copied().collect();
        all.sort();
        all
    }

    #[test]
    fn what_is_away_is_known_after_a_restart_and_a_damaged_end_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("away");
        let a = Away::open(path.clone()).unwrap();
        assert!(heads(&a).is_empty() && !path.exists());
        a.set(&[head(1), head(2)], true).unwrap();
        a.set(&[head(3), head(2)], true).unwrap();
        a.set(&[head(1)], false).unwrap();
        let again = Away::open(path.clone()).unwrap();
        assert_eq!(heads(&again), [head(2), head(3)]);
        let whole = std::fs::read(&path).unwrap();
        for cut in 1..RECORD_BYTES {
            std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let cut = Away::open(path.clone()).unwrap();
            assert_eq!(heads(&cut), [head(1), head(2), head(3)]);
            // What comes next does not stand behind what was damaged.
            cut.set(&[head(9)], true).unwrap();
            cut.set(&[head(3)], false).unwrap();
            let again = Away::open(path.clone()).unwrap();
            assert_eq!(heads(&again), [head(1), head(2), head(9)]);
        }
        let mut other = whole;
        other[7] = b'9';
        std::fs::write(&path, other).unwrap();
        assert!(Away::open(path).is_err());
    }

    #[test]
    fn the_list_does_not_grow_with_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("away");
        let a = Away::open(path.clone()).unwrap();
        a.set(&[head(7)], true).unwrap();
        let all: Vec<Oid> = (0..200).map(head).filter(|h| *h != head(7)).collect();
        for _ in 0..50 {
            a.set(&all, true).unwrap();
            a.set(&all, false).unwrap();
        }
        let most = (SLACK + 600) * RECORD_BYTES as u64;
        assert!(std::fs::metadata(&path).unwrap().len() < most);
        assert_eq!(heads(&Away::open(path).unwrap()), [head(7)]);
    }

    #[test]
    fn what_the_disk_did_not_take_is_not_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("none/away");
        let a = Away::open(path.clone()).unwrap();
        assert!(a.set(&[head(1)], true).is_err());
        assert_eq!(heads(&a), [head(1)], "it does not count any more");
        assert!(a.set(&[head(1)], false).is_err());
        assert_eq!(heads(&a), [head(1)], "nothing says that it lasts");
        std::fs::create_dir(dir.path().join("none")).unwrap();
        a.set(&[head(1)], false).unwrap();
        a.set(&[head(2)], true).unwrap();
        assert_eq!(heads(&Away::open(path).unwrap()), [head(2)]);
    }
}
