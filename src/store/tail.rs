//! Objects of small commits, from when the log that the caller keeps holds them until they are
//! in a pack.
//!
//! A pack costs two files, two renames and two rounds of fsync, several milliseconds; a line in
//! a log costs one fsync. So small commits go to the log, and now and then one pack takes all of
//! them. Invariant: an object is here from before it is named until its pack is durable. Plain
//! data; the repository guards it.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::objects::Object;
use crate::base::id::Oid;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Tail {
    objects: HashMap<Oid, Object>,
    batches: VecDeque<Batch>,
    bytes: usize,
}

#[derive(Debug)]
struct Batch {
    /// Where the log holds it.
    entry: u64,
    since: Instant,
    ids: Vec<Oid>,
}

/// How much waits for a pack.
#[derive(Debug, Clone, Copy)]
pub struct Waiting {
    /// The log's first entry that is still needed.
    pub entry: u64,
    /// Since when that waits.
    pub since: Instant,
    /// Size of all objects in bytes, not compressed.
    pub bytes: usize,
}

impl Tail {
    pub(super) fn find(&self, id: &Oid) -> Option<&Object> {
        self.objects.get(id)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = &Oid> {
        self.objects.keys()
    }

    pub(super) fn add(&mut self, entry: u64, objects: Vec<(Oid, Object)>) {
        let ids = objects.iter().map(|(id, _)| *id).collect();
        for (id, o) in objects {
            let len = o.data.len();
            if self.objects.insert(id, o).is_none() {
                self.bytes += len;
            }
        }
        self.batches.push_back(Batch {
            entry,
            since: Instant::now(),
            ids,
        });
    }

    pub(super) fn waiting(&self) -> Option<Waiting> {
        let first = self.batches.front()?;
        Some(Waiting {
            entry: first.entry,
            since: first.since,
            bytes: self.bytes,
        })
    }

    /// All batches there are, for a pack; their number, to be given to [`Self::settled`].
    pub(super) fn all(&self) -> (usize, Vec<(Oid, Object)>) {
        let objects = self.objects.iter().map(|(id, o)| (*id, o.clone()));
        (self.batches.len(), objects.collect())
    }

    /// The first `batches` are in a durable pack.
    pub(super) fn settled(&mut self, batches: usize) {
        for b in self.batches.drain(..batches.min(self.batches.len())) {
            for id in b.ids {
                if let Some(o) = self.objects.remove(&id) {
                    self.bytes -= o.data.len();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::objects::{Object, ObjectKind, Objects, id_of};
    use super::super::repack::packs;
    use super::super::repo::Repo;
    use crate::base::id::Oid;

    fn blob(n: u8) -> (Oid, Object) {
        let data = vec![n; 100];
        let o = Object {
            kind: ObjectKind::Blob,
            data: data.clone().into(),
        };
        (id_of(ObjectKind::Blob, &data), o)
    }

    #[test]
    fn held_objects_are_read_at_once_and_one_pack_takes_them_all() {
        let dir = tempfile::tempdir().unwrap();
        let repo = Repo::create(&dir.path().join("r")).unwrap();
        for n in 0..20 {
            repo.hold(vec![blob(n), blob(n + 1)], || Ok::<_, ()>(u64::from(n) + 7))
                .unwrap();
        }
        let w = repo.waiting().unwrap();
        assert_eq!((w.entry, w.bytes), (7, 2100));
        assert_eq!(packs(repo.path()).unwrap(), 0);
        for n in 0..=20 {
            assert_eq!(repo.size(&blob(n).0).unwrap(), 100);
            assert!(repo.has(&blob(n).0).unwrap());
            assert_eq!(repo.find(&blob(n).0).unwrap().unwrap(), blob(n).1);
        }
        repo.settle().unwrap();
        assert!(repo.waiting().is_none());
        assert_eq!(packs(repo.path()).unwrap(), 1);
        let fresh = Repo::open(repo.path()).unwrap();
        for n in 0..=20 {
            for r in [&repo, &fresh] {
                assert_eq!(r.find(&blob(n).0).unwrap().unwrap(), blob(n).1);
            }
        }
    }

    #[test]
    fn what_is_not_in_the_log_is_not_held_and_what_no_pack_took_still_waits() {
        let dir = tempfile::tempdir().unwrap();
        let repo = Repo::create(&dir.path().join("r")).unwrap();
        assert_eq!(repo.hold(vec![blob(1)], || Err("full")), Err("full"));
        assert!(!repo.has(&blob(1).0).unwrap() && repo.waiting().is_none());
        repo.hold(vec![blob(2)], || Ok::<_, ()>(1)).unwrap();
        std::fs::remove_dir_all(repo.pack_dir()).unwrap();
        repo.settle().unwrap_err();
        assert_eq!(repo.waiting().unwrap().entry, 1);
        assert!(repo.has(&blob(2).0).unwrap());
        std::fs::create_dir(repo.pack_dir()).unwrap();
        repo.settle().unwrap();
        assert!(repo.has(&blob(2).0).unwrap() && repo.waiting().is_none());
    }
}
