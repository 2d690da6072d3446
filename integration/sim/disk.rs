//! A disk in memory: objects in packs, which last, and a journal of which only what was synced
//! is sure to be there after a crash. It can be told to die at its n-th use, to be cut back to an
//! older state, and to be copied.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use cellfs::base::id::Oid;
use cellfs::journal::Entry;
use cellfs::replicator::HeadNotice;
use cellfs::store::incoming;
use cellfs::store::objects::{Object, ObjectError, ObjectKind, Objects};
use cellfs::volume::VolumeResult;
use cellfs::volume::chain::Disk;

use super::plan::Rng;

/// All objects that any simulated disk has: equal ones are kept once.
pub(super) type Pool = Arc<Mutex<HashMap<Oid, Object>>>;

#[derive(Debug, Clone, Default)]
struct Inner {
    packs: HashMap<Oid, Object>,
    /// Objects that the journal alone holds.
    tail: HashMap<Oid, Object>,
    journal: BTreeMap<u64, Entry>,
    last: u64,
    synced: u64,
    /// Signed notices, kept as the node does: not synced.
    notices: Vec<HeadNotice>,
    /// It dies at this use from now.
    fuse: Option<u32>,
    dead: bool,
}

/// See the module.
pub(super) struct SimDisk {
    inner: Mutex<Inner>,
    pool: Pool,
    /// Head records that were ever written.
    commits: AtomicU64,
}

/// What of a disk a crash would leave.
#[derive(Debug, Clone)]
pub(super) struct Image(Inner);

impl SimDisk {
    pub(super) fn new(pool: Pool) -> Self {
        Self {
            inner: Mutex::default(),
            pool,
            commits: AtomicU64::new(0),
        }
    }

    pub(super) fn of(image: &Image, pool: Pool) -> Self {
        Self {
            inner: Mutex::new(image.0.clone()),
            pool,
            commits: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic under the lock")
    }

    /// Dies at its n-th use from now.
    pub(super) fn die_at(&self, n: u32) {
        self.lock().fuse = Some(n);
    }

    pub(super) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    pub(super) fn is_dead(&self) -> bool {
        self.lock().dead
    }

    /// What is sure to last.
    pub(super) fn image(&self) -> Image {
        let d = self.lock();
        let mut image = Inner {
            packs: d.packs.clone(),
            last: d.last,
            synced: d.synced,
            notices: d.notices.clone(),
            ..Inner::default()
        };
        let lasting = d.journal.range(..=d.synced);
        image.journal = lasting.map(|(n, e)| (*n, e.clone())).collect();
        image.restore();
        Image(image)
    }

    /// Power is lost: of what was not synced, some first part may be there.
    pub(super) fn crash(&self, rng: &mut Rng) {
        let mut d = self.lock();
        let unsynced = d.last.saturating_sub(d.synced);
        let kept = d.synced + rng.below(unsynced + 1);
        d.journal.retain(|n, _| *n <= kept);
        d.synced = kept;
        if rng.permille(500) {
            d.notices.clear();
        }
        d.restore();
    }

    /// Comes back as it was.
    pub(super) fn roll_back(&self, to: &Image) {
        *self.lock() = to.0.clone();
    }

    pub(super) fn entries(&self) -> Vec<(u64, Entry)> {
        let d = self.lock();
        d.journal.iter().map(|(n, e)| (*n, e.clone())).collect()
    }

    pub(super) fn notices(&self) -> Vec<HeadNotice> {
        self.lock().notices.clone()
    }

    pub(super) fn keep_notices(&self, notices: &[HeadNotice]) {
        self.lock().notices = notices.to_vec();
    }

    /// Whether a commit of ours would survive a crash now.
    pub(super) fn outlives_a_crash(&self, head: &Oid) -> bool {
        let d = self.lock();
        let mut lasting = d.journal.range(..=d.synced);
        lasting.any(|(_, e)| match e {
            Entry::Committed(c) => c.head == *head,
            Entry::Admitted(id) => id == head,
            _ => false,
        })
    }

    /// All that waits becomes durable; with `opening`, which stands for all that the journal said,
    /// it is begun anew.
    pub(super) fn settle(&self, opening: Option<Vec<Entry>>) {
        let mut d = self.lock();
        if d.dead {
            return;
        }
        let tail = std::mem::take(&mut d.tail);
        d.packs.extend(tail);
        if let Some(opening) = opening {
            d.journal.clear();
            for e in opening {
                d.last += 1;
                let n = d.last;
                d.journal.insert(n, e);
            }
        }
        d.synced = d.last;
    }

    pub(super) fn unsettled(&self) -> bool {
        let d = self.lock();
        d.synced < d.last || !d.tail.is_empty()
    }

    fn pooled(&self, objects: Vec<(Oid, Object)>) -> Vec<(Oid, Object)> {
        let mut pool = self.pool.lock().expect("no panic under the lock");
        let one = |(id, o): (Oid, Object)| (id, pool.entry(id).or_insert(o).clone());
        objects.into_iter().map(one).collect()
    }
}

impl Inner {
    /// As a restart does: what the journal alone holds goes into packs.
    fn restore(&mut self) {
        self.tail.clear();
        self.fuse = None;
        self.dead = false;
        self.last = self.journal.last_key_value().map_or(0, |(n, _)| *n);
        self.synced = self.last;
        for e in self.journal.values() {
            if let Entry::Objects(pack) = e {
                let came = incoming::parse(pack).expect("we wrote it");
                self.packs.extend(came.into_objects());
            }
        }
    }

    fn used(&mut self) -> VolumeResult<()> {
        if let Some(n) = &mut self.fuse {
            if *n == 0 {
                self.dead = true;
            }
            *n = n.saturating_sub(1);
        }
        if self.dead {
            return Err(std::io::Error::other("the disk is dead").into());
        }
        Ok(())
    }

    fn append(&mut self, entry: Entry) -> u64 {
        self.last += 1;
        self.journal.insert(self.last, entry);
        self.last
    }
}

impl Disk for SimDisk {
    fn hold(&self, pack: Vec<u8>, objects: Vec<(Oid, Object)>) -> VolumeResult<()> {
        let objects = self.pooled(objects);
        let mut d = self.lock();
        d.used()?;
        d.append(Entry::Objects(pack));
        d.tail.extend(objects);
        Ok(())
    }

    fn flush(&self, objects: Vec<(Oid, Object)>) -> VolumeResult<()> {
        let objects = self.pooled(objects);
        let mut d = self.lock();
        d.used()?;
        d.packs.extend(objects);
        Ok(())
    }

    fn append(&self, entry: &Entry) -> VolumeResult<u64> {
        let mut d = self.lock();
        d.used()?;
        if matches!(entry, Entry::Committed(_)) {
            self.commits.fetch_add(1, Ordering::Relaxed);
        }
        Ok(d.append(entry.clone()))
    }

    fn last(&self) -> u64 {
        self.lock().last
    }

    fn sync(&self, number: u64) -> VolumeResult<()> {
        let mut d = self.lock();
        d.used()?;
        d.synced = d.synced.max(number);
        Ok(())
    }
}

impl Objects for SimDisk {
    fn find(&self, id: &Oid) -> Result<Option<Object>, ObjectError> {
        let d = self.lock();
        Ok(d.tail.get(id).or_else(|| d.packs.get(id)).cloned())
    }

    fn put(&self, _: ObjectKind, _: Vec<u8>) -> Result<Oid, ObjectError> {
        Err(ObjectError::Store {
            at: "a simulated disk",
            why: "objects come by packs".to_owned(),
        })
    }

    fn has(&self, id: &Oid) -> Result<bool, ObjectError> {
        let d = self.lock();
        Ok(d.tail.contains_key(id) || d.packs.contains_key(id))
    }
}
