//! What large files are to this node: whether what is here of one counts as a copy.
//!
//! A file *counts* when all of it was here once, written, added or kept: its bytes stay until others
//! have promised to keep theirs ([`crate::copies`]), also if some of them were damaged since. It is
//! *away* when they have, or when never all of it was here and it is not wanted: what is here of it
//! is a cache, and may go at any time. Of all others nothing is known: they are on their way, or
//! were whole before this was noted.
//!
//! Invariant: what is committed or added here counts, durable, before anybody is told that it lasts.
//! That a file went away may be forgotten by a crash: it counts then as it did. Threads: any.
//!
//! The file `away` is `cellfsA1`, then records of 25 bytes: 1 if the file is away, 2 if it counts, 0
//! if nothing is known any more, the head of its manifest, and the CRC-32 of both. What follows the
//! last sound record is cut off at the next opening.

use std::collections::HashMap;
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

/// What a file is, if anything is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    Away,
    Counted,
}

fn record(head: &Oid, is: Option<Is>) -> [u8; RECORD_BYTES] {
    let mut out = [0; RECORD_BYTES];
    let (body, sum) = out.split_at_mut(RECORD_BYTES - 4);
    if let Some((first, id)) = body.split_first_mut() {
        *first = match is {
            None => 0,
            Some(Is::Away) => 1,
            Some(Is::Counted) => 2,
        };
        id.copy_from_slice(head.as_slice());
    }
    sum.copy_from_slice(&crc32fast::hash(body).to_le_bytes());
    out
}

fn parse(bytes: &[u8]) -> Option<(Oid, Option<Is>)> {
    let (body, sum) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(body) != u32::from_le_bytes(*sum) {
        return None;
    }
    let (first, id) = body.split_first()?;
    let id = <[u8; 20]>::try_from(id).ok()?;
    let is = match first {
        0 => None,
        1 => Some(Is::Away),
        2 => Some(Is::Counted),
        _ => return None,
    };
    Some((Oid::from(id), is))
}

#[derive(Debug)]
struct List {
    heads: HashMap<Oid, Is>,
    /// Where the next record goes; 0 while there is no file.
    end: u64,
    records: u64,
    /// The file may have more than it should.
    is_unsure: bool,
}

impl List {
    fn set(&mut self, head: Oid, is: Option<Is>) {
        match is {
            Some(is) => drop(self.heads.insert(head, is)),
            None => drop(self.heads.remove(&head)),
        }
    }
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
            heads: HashMap::new(),
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
                let Some((head, is)) = parse(r) else {
                    break;
                };
                list.set(head, is);
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

    fn is(&self, head: &Oid) -> Option<Is> {
        self.list().heads.get(head).copied()
    }

    /// Says what files are, of those that `of` is true of as they are.
    fn set(&self, heads: &[Oid], is: Option<Is>, of: fn(Option<Is>) -> bool) -> io::Result<()> {
        let mut list = self.list();
        let mut new: Vec<Oid> = heads.to_vec();
        new.sort_unstable();
        new.dedup();
        new.retain(|h| {
            let was = list.heads.get(h).copied();
            was != is && of(was)
        });
        if new.is_empty() {
            return Ok(());
        }
        // Also if the disk fails: who was allowed to let go does not count any more.
        if is == Some(Is::Away) {
            new.iter().for_each(|h| list.set(*h, is));
        }
        write(&self.path, &mut list, &new, is)?;
        new.iter().for_each(|h| list.set(*h, is));
        Ok(())
    }
}

fn write(path: &Path, list: &mut List, new: &[Oid], is: Option<Is>) -> io::Result<()> {
    let is_long = list.records > list.heads.len() as u64 + SLACK;
    if list.end == 0 || list.is_unsure || is_long {
        let mut bytes = MAGIC.to_vec();
        for (head, was) in &list.heads {
            if new.binary_search(head).is_err() {
                bytes.extend_from_slice(&record(head, Some(*was)));
            }
        }
        if is.is_some() {
            bytes.extend(new.iter().flat_map(|h| record(h, is)));
        }
        durable::replace(path, &bytes, 0o600)?;
        list.end = bytes.len() as u64;
        list.records = (bytes.len() / RECORD_BYTES) as u64;
        list.is_unsure = false;
        return Ok(());
    }
    let bytes: Vec<u8> = new.iter().flat_map(|h| record(h, is)).collect();
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
    /// Whether what is here of a large file may go at any time.
    #[must_use]
    pub fn is_away(&self, head: &Oid) -> bool {
        self.away.is(head) == Some(Is::Away)
    }

    /// Whether all of a large file was here once, and its bytes stay until others keep them.
    #[must_use]
    pub fn is_counted(&self, head: &Oid) -> bool {
        self.away.is(head) == Some(Is::Counted)
    }

    /// All large files that count.
    #[must_use]
    pub fn all_counted(&self) -> Vec<Oid> {
        let list = self.away.list();
        let counted = list.heads.iter().filter(|(_, is)| **is == Is::Counted);
        counted.map(|(head, _)| *head).collect()
    }

    /// All large files that are away.
    #[must_use]
    pub fn all_away(&self) -> Vec<Oid> {
        let list = self.away.list();
        let away = list.heads.iter().filter(|(_, is)| **is == Is::Away);
        away.map(|(head, _)| *head).collect()
    }

    /// From now on these large files are away, but for those that count by now: what was written
    /// here meanwhile stays. Who calls this saw that they were not all here.
    ///
    /// # Errors
    /// As the disk; after a restart nothing is known of them then.
    pub fn forgo(&self, heads: &[Oid]) -> VolumeResult<()> {
        let unknown = |was: Option<Is>| was.is_none();
        Ok(self.away.set(heads, Some(Is::Away), unknown)?)
    }

    /// From now on these large files are away. Who calls this has it proven that others keep them.
    ///
    /// # Errors
    /// As the disk; after a restart they count again then.
    pub fn give_away(&self, heads: &[Oid]) -> VolumeResult<()> {
        Ok(self.away.set(heads, Some(Is::Away), |_| true)?)
    }

    /// These large files are not away any more: what comes of them stays.
    ///
    /// # Errors
    /// As the disk; then nothing is changed.
    pub fn take_back(&self, heads: &[Oid]) -> VolumeResult<()> {
        let away = |was| was == Some(Is::Away);
        Ok(self.away.set(heads, None, away)?)
    }

    /// All of these large files is here: they count from now on, durable, but for those that are
    /// away.
    ///
    /// # Errors
    /// As the disk; then nothing is changed.
    pub fn count_in(&self, heads: &[Oid]) -> VolumeResult<()> {
        let unknown = |was: Option<Is>| was.is_none();
        Ok(self.away.set(heads, Some(Is::Counted), unknown)?)
    }

    /// This large file was written or added here: it counts from now on, durable, whatever it was.
    ///
    /// # Errors
    /// As the disk; then nothing is changed.
    pub fn has_written(&self, head: &Oid) -> VolumeResult<()> {
        Ok(self.away.set(&[*head], Some(Is::Counted), |_| true)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(n: u8) -> Oid {
        Oid::from([n; 20])
    }

    fn all(a: &Away, is: Is) -> Vec<Oid> {
        let list = a.list();
        let of = list.heads.iter().filter(|(_, i)| **i == is);
        let mut all: Vec<Oid> = of.map(|(h, _)| *h).collect();
        all.sort();
        all
    }

    fn any(_: Option<Is>) -> bool {
        true
    }

    const AWAY: Option<Is> = Some(Is::Away);
    const COUNTED: Option<Is> = Some(Is::Counted);

    #[test]
    fn what_files_are_is_known_after_a_restart_and_a_damaged_end_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("away");
        let a = Away::open(path.clone()).unwrap();
        assert!(a.list().heads.is_empty() && !path.exists());
        a.set(&[head(1), head(2)], AWAY, any).unwrap();
        a.set(&[head(4), head(2)], COUNTED, any).unwrap();
        a.set(&[head(3), head(2)], AWAY, any).unwrap();
        a.set(&[head(1)], None, any).unwrap();
        let again = Away::open(path.clone()).unwrap();
        assert_eq!(all(&again, Is::Away), [head(2), head(3)]);
        assert_eq!(all(&again, Is::Counted), [head(4)]);
        let whole = std::fs::read(&path).unwrap();
        for cut in 1..RECORD_BYTES {
            std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let cut = Away::open(path.clone()).unwrap();
            assert_eq!(all(&cut, Is::Away), [head(1), head(2), head(3)]);
            // What comes next does not stand behind what was damaged.
            cut.set(&[head(9)], COUNTED, any).unwrap();
            cut.set(&[head(3)], None, any).unwrap();
            let again = Away::open(path.clone()).unwrap();
            assert_eq!(all(&again, Is::Away), [head(1), head(2)]);
            assert_eq!(all(&again, Is::Counted), [head(4), head(9)]);
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
        a.set(&[head(7)], AWAY, any).unwrap();
        let many: Vec<Oid> = (0..200).map(head).filter(|h| *h != head(7)).collect();
        for _ in 0..50 {
            a.set(&many, AWAY, any).unwrap();
            a.set(&many, None, any).unwrap();
        }
        let most = (SLACK + 600) * RECORD_BYTES as u64;
        assert!(std::fs::metadata(&path).unwrap().len() < most);
        assert_eq!(all(&Away::open(path).unwrap(), Is::Away), [head(7)]);
    }

    #[test]
    fn what_the_disk_did_not_take_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("none/away");
        let a = Away::open(path.clone()).unwrap();
        assert!(a.set(&[head(1)], AWAY, any).is_err());
        assert_eq!(a.is(&head(1)), AWAY, "it does not count any more");
        for is in [None, COUNTED] {
            assert!(a.set(&[head(1), head(3)], is, any).is_err());
            assert_eq!(a.is(&head(1)), AWAY, "nothing says that it lasts");
            assert_eq!(a.is(&head(3)), None);
        }
        std::fs::create_dir(dir.path().join("none")).unwrap();
        a.set(&[head(1)], COUNTED, any).unwrap();
        a.set(&[head(2)], AWAY, any).unwrap();
        let again = Away::open(path).unwrap();
        assert_eq!((again.is(&head(1)), again.is(&head(2))), (COUNTED, AWAY));
    }
}
