//! One bare repository: reading by gix, writing by whole packs, refs as plain files.
//!
//! Invariant: objects are only ever added. Threads: any; handles of gix are pooled, since one
//! handle serves one thread at a time.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use gix::odb::store::init::{Options, Slots};
use gix_pack::Find;

use super::objects::{Object, ObjectError, ObjectKind, Objects};
use super::pack::{PackWriter, SealedPack, read_entry, read_entry_header, sweep};
use super::tail::{Tail, Waiting};
use crate::base::bytes_lru::BytesLru;
use crate::base::durable;
use crate::base::id::Oid;

mod prefix;

type Handle = gix::odb::Cache<gix::odb::store::Handle<Arc<gix::odb::Store>>>;

/// Packs that one store can have open. gix fixes the number when a store is opened.
const PACKS_MAX: u16 = 8192;
/// Objects up to this size are kept decoded.
const CACHED_OBJECT_BYTES_MAX: usize = 64 << 10;
/// Room for decoded objects.
const CACHED_BYTES_MAX: usize = 32 << 20;
/// What the cache needs for one besides.
const CACHED_EACH: usize = 128;
/// Packs and objects that may be young at a time.
const YOUNG_PACKS_MAX: usize = 64;
const YOUNG_OBJECTS_MAX: usize = 100_000;
/// Memory for delta bases, per handle.
const DELTA_CACHE_BYTES: usize = 16 << 20;

/// See the module.
pub struct Repo {
    path: PathBuf,
    store: Arc<gix::odb::Store>,
    idle: Mutex<Idle>,
    recent: Mutex<BytesLru<Oid, Object>>,
    young: RwLock<Young>,
    tail: RwLock<Tail>,
    /// Held while what waits is written.
    settling: Mutex<()>,
    /// Held while packs are made of packs.
    packing: Mutex<()>,
    /// Locked for writing while packs are replaced: a miss meanwhile does not count.
    replacing: RwLock<()>,
}

/// Handles that nobody uses, all of them made since gix last looked for packs. One that is older
/// tells by an address in memory whether it is outdated, and an address may come again: it would
/// miss what came since.
#[derive(Default)]
struct Idle {
    looked: u64,
    handles: Vec<Handle>,
}

/// Packs that were installed since gix last looked: it looks at every pack each time, which
/// would cost more than a commit.
#[derive(Default)]
struct Young {
    packs: Vec<Arc<File>>,
    at: HashMap<Oid, (usize, u64)>,
}

impl std::fmt::Debug for Repo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repo")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

fn store_error(at: &'static str) -> impl Fn(Box<dyn std::error::Error>) -> ObjectError {
    move |e| ObjectError::Store {
        at,
        why: e.to_string(),
    }
}

impl Repo {
    /// Creates a bare repository, or completes one that a crash left half made.
    ///
    /// # Errors
    /// As the file system.
    pub fn create(path: &Path) -> io::Result<Self> {
        for d in [
            "objects/pack",
            "objects/info",
            "refs/heads",
            "refs/tags",
            "info",
            "incoming",
        ] {
            durable::dirs(&path.join(d))?;
        }
        let config = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n";
        write_once(&path.join("config"), config.as_bytes())?;
        // Last: a directory without HEAD is no repository.
        write_once(&path.join("HEAD"), b"ref: refs/heads/main\n")?;
        Self::open(path)
    }

    /// Opens a repository and clears what a crash left in it.
    ///
    /// # Errors
    /// As the file system.
    pub fn open(path: &Path) -> io::Result<Self> {
        sweep(&path.join("incoming"), &path.join("objects/pack"))?;
        let options = Options {
            slots: Slots::Given(PACKS_MAX),
            ..Options::default()
        };
        let store = gix::odb::Store::at_opts(
            path.join("objects"),
            gix::hash::Kind::Sha1,
            &mut std::iter::empty(),
            options,
        )?;
        let repo = Self {
            path: path.to_owned(),
            store: Arc::new(store),
            idle: Mutex::default(),
            recent: Mutex::new(BytesLru::new(CACHED_BYTES_MAX)),
            young: RwLock::default(),
            tail: RwLock::default(),
            settling: Mutex::default(),
            packing: Mutex::default(),
            replacing: RwLock::default(),
        };
        // All packs there are, before somebody looks for an object: of two that load packs at once,
        // one may miss what the other loads.
        repo.refresh();
        Ok(repo)
    }

    /// Where the repository is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where packs are written before they are visible.
    #[must_use]
    pub fn incoming_dir(&self) -> PathBuf {
        self.path.join("incoming")
    }

    /// Where visible packs are.
    #[must_use]
    pub fn pack_dir(&self) -> PathBuf {
        self.path.join("objects/pack")
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A handle, and how often gix had looked for packs before it was made.
    fn handle(&self) -> (u64, Handle) {
        let (looked, idle) = {
            let mut idle = self.idle();
            (idle.looked, idle.handles.pop())
        };
        let made = || {
            let mut h = self.store.to_cache_arc();
            h.set_pack_cache(|| {
                Box::new(gix_pack::cache::lru::MemoryCappedHashmap::new(
                    DELTA_CACHE_BYTES,
                ))
            });
            // A miss must not cost a directory scan: `refresh` says when there is news.
            h.refresh_never();
            h
        };
        (looked, idle.unwrap_or_else(made))
    }

    fn give_back(&self, (looked, h): (u64, Handle)) {
        let mut idle = self.idle();
        if idle.looked == looked {
            idle.handles.push(h);
        }
    }

    /// Looks for packs that came since: after an install, and after git wrote some.
    pub fn refresh(&self) {
        // gix rescans on a miss in this mode, so miss on purpose.
        let h = self.store.to_cache_arc();
        let miss = Oid::from([0x5a; 20]);
        let mut young = self.young.write().unwrap_or_else(PoisonError::into_inner);
        let _known = h.contains(&miss);
        let old = {
            let mut idle = self.idle();
            idle.looked += 1;
            std::mem::take(&mut idle.handles)
        };
        *young = Young::default();
        drop(young);
        drop(old);
    }

    /// Waits until nobody else makes packs of packs, and keeps others from it.
    pub(super) fn packing(&self) -> MutexGuard<'_, ()> {
        self.packing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes packs whose objects are in other packs, too: `remove` does it. Readers do not
    /// notice.
    ///
    /// # Errors
    /// As `remove`.
    pub fn replace_packs(&self, remove: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        self.refresh();
        let _alone = self
            .replacing
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let done = remove();
        self.refresh();
        done
    }

    /// How often gix looked for packs; waits while some are replaced.
    fn looked(&self) -> u64 {
        let _still = self.replacing.read();
        self.idle().looked
    }

    /// Looks in the packs, and once more if gix looked for packs while this looked in vain.
    fn look<T>(
        &self,
        mut inside: impl FnMut(&Handle) -> Result<Option<T>, ObjectError>,
    ) -> Result<Option<T>, ObjectError> {
        loop {
            let (before, h) = self.handle();
            let found = inside(&h);
            self.give_back((before, h));
            if matches!(found, Ok(Some(_))) || self.looked() == before {
                return found;
            }
        }
    }

    /// The pack and offset of an object that was installed lately.
    fn young(&self, id: &Oid) -> Option<(Arc<File>, u64)> {
        let y = self.young.read().unwrap_or_else(PoisonError::into_inner);
        let (pack, offset) = y.at.get(id)?;
        Some((y.packs.get(*pack)?.clone(), *offset))
    }

    /// Makes a sealed pack visible, durably.
    ///
    /// # Errors
    /// As the file system.
    pub fn install(&self, pack: SealedPack) -> io::Result<()> {
        let file = Arc::new(File::open(pack.path())?);
        let offsets: Vec<(Oid, u64)> = pack.offsets().collect();
        if let Err(e) = pack.install(&self.pack_dir()) {
            // Somebody may have looked while it was there.
            self.refresh();
            return Err(e);
        }
        let many = {
            let mut y = self.young.write().unwrap_or_else(PoisonError::into_inner);
            let n = y.packs.len();
            y.packs.push(file);
            y.at.extend(offsets.into_iter().map(|(id, at)| (id, (n, at))));
            y.packs.len() >= YOUNG_PACKS_MAX || y.at.len() >= YOUNG_OBJECTS_MAX
        };
        if many {
            self.refresh();
        }
        Ok(())
    }

    fn remember(&self, id: &Oid, kind: ObjectKind, data: Vec<u8>) -> Object {
        let o = Object {
            kind,
            data: Arc::new(data),
        };
        if o.data.len() <= CACHED_OBJECT_BYTES_MAX
            && let Ok(mut r) = self.recent.lock()
        {
            r.put(*id, o.clone(), o.data.len() + CACHED_EACH);
        }
        o
    }

    /// Size of an object in bytes, from its header.
    ///
    /// # Errors
    /// When it is missing or the store fails.
    pub fn size(&self, id: &Oid) -> Result<u64, ObjectError> {
        if let Ok(r) = self.recent.lock()
            && let Some(o) = r.peek(id)
        {
            return Ok(o.data.len() as u64);
        }
        if let Some(o) = self.held(id) {
            return Ok(o.data.len() as u64);
        }
        if let Some((file, at)) = self.young(id) {
            let (_, size, _) = read_entry_header(&file, at)
                .map_err(|e| store_error("reading a header")(e.into()))?;
            return Ok(size);
        }
        let found = self.look(|h| {
            let header = gix::odb::Header::try_header(h, id);
            header.map_err(|e| store_error("reading a header")(e.to_string().into()))
        })?;
        found.map_or(Err(ObjectError::Missing(*id)), |header| Ok(header.size()))
    }

    /// Takes objects that `log` makes safe; it returns the number of its entry. They can be
    /// read from now on, by this process alone until [`Self::settle`].
    ///
    /// # Errors
    /// Those of `log`; nothing is taken then.
    pub fn hold<E>(
        &self,
        objects: Vec<(Oid, Object)>,
        log: impl FnOnce() -> Result<u64, E>,
    ) -> Result<(), E> {
        // Under the lock, so that whoever trims the log and asks what waits does not miss it.
        let mut tail = self.tail.write().unwrap_or_else(PoisonError::into_inner);
        tail.add(log()?, objects);
        Ok(())
    }

    /// What was taken by [`Self::hold`] and is in no pack yet.
    #[must_use]
    pub fn waiting(&self) -> Option<Waiting> {
        let tail = self.tail.read().unwrap_or_else(PoisonError::into_inner);
        tail.waiting()
    }

    /// Writes all that waits as one pack, durably.
    ///
    /// # Errors
    /// As the file system; all of it still waits then.
    pub fn settle(&self) -> io::Result<()> {
        let _one = self.settling.lock().unwrap_or_else(PoisonError::into_inner);
        let (batches, objects) = {
            let tail = self.tail.read().unwrap_or_else(PoisonError::into_inner);
            tail.all()
        };
        if batches == 0 {
            return Ok(());
        }
        self.flush(objects)?;
        let mut tail = self.tail.write().unwrap_or_else(PoisonError::into_inner);
        tail.settled(batches);
        Ok(())
    }

    fn held(&self, id: &Oid) -> Option<Object> {
        let tail = self.tail.read().unwrap_or_else(PoisonError::into_inner);
        tail.find(id).cloned()
    }

    /// Makes objects durable in one pack.
    ///
    /// # Errors
    /// As the file system; nothing is visible then.
    pub fn flush(&self, objects: Vec<(Oid, Object)>) -> io::Result<()> {
        if objects.is_empty() {
            return Ok(());
        }
        let count = u32::try_from(objects.len()).map_err(io::Error::other)?;
        let mut w = PackWriter::create(&self.incoming_dir(), count)?;
        for (id, o) in &objects {
            w.add_known(*id, o.kind, &o.data)?;
        }
        let sealed = w.finish()?;
        self.install(sealed)?;
        if let Ok(mut recent) = self.recent.lock() {
            for (id, o) in objects {
                if o.data.len() <= CACHED_OBJECT_BYTES_MAX {
                    let bytes = o.data.len() + CACHED_EACH;
                    recent.put(id, o, bytes);
                }
            }
        }
        Ok(())
    }

    /// Sets or removes a ref file. Refs are a projection of the head records, so they are
    /// replaced atomically but not fsynced.
    ///
    /// # Errors
    /// As the file system.
    pub fn set_ref(&self, name: &str, to: Option<&Oid>) -> io::Result<()> {
        let path = self.path.join(name);
        let Some(id) = to else {
            return match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
                _ => Ok(()),
            };
        };
        let text = format!("{id}\n");
        if fs::read(&path).is_ok_and(|old| old == text.as_bytes()) {
            return Ok(());
        }
        let dir = path.parent().unwrap_or(&self.path);
        fs::create_dir_all(dir)?;
        let mut t = tempfile::NamedTempFile::new_in(self.incoming_dir())?;
        t.write_all(text.as_bytes())?;
        t.persist(&path)?;
        Ok(())
    }

    /// All ref files; those that do not hold an id, without one.
    ///
    /// # Errors
    /// As the file system.
    pub fn refs(&self) -> io::Result<Vec<(String, Option<Oid>)>> {
        let mut out = Vec::new();
        let mut queue = vec!["refs".to_owned()];
        while let Some(at) = queue.pop() {
            for e in fs::read_dir(self.path.join(&at))? {
                let e = e?;
                let Ok(name) = e.file_name().into_string() else {
                    continue;
                };
                let name = format!("{at}/{name}");
                if e.file_type()?.is_dir() {
                    queue.push(name);
                } else {
                    let id = self.get_ref(&name);
                    out.push((name, id));
                }
            }
        }
        Ok(out)
    }

    /// Reads a ref file.
    #[must_use]
    pub fn get_ref(&self, name: &str) -> Option<Oid> {
        let text = fs::read(self.path.join(name)).ok()?;
        Oid::from_hex(text.trim_ascii_end()).ok()
    }
}

fn write_once(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    durable::replace(path, bytes, 0o666)
}

impl Objects for Repo {
    fn find(&self, id: &Oid) -> Result<Option<Object>, ObjectError> {
        if let Ok(mut r) = self.recent.lock()
            && let Some(o) = r.get(id)
        {
            return Ok(Some(o.clone()));
        }
        if let Some(o) = self.held(id) {
            return Ok(Some(o));
        }
        if let Some((file, at)) = self.young(id) {
            let (kind, data) =
                read_entry(&file, at).map_err(|e| store_error("reading an object")(e.into()))?;
            return Ok(Some(self.remember(id, kind, data)));
        }
        let mut buf = Vec::new();
        let found = self.look(|h| {
            buf.clear();
            match Find::try_find(h, id, &mut buf) {
                Ok(f) => Ok(f.map(|(d, _)| d.kind)),
                Err(e) => Err(store_error("reading an object")(e.to_string().into())),
            }
        })?;
        let Some(kind) = found else { return Ok(None) };
        Ok(Some(self.remember(id, kind, buf)))
    }

    fn put(&self, kind: ObjectKind, data: Vec<u8>) -> Result<Oid, ObjectError> {
        let id = super::objects::id_of(kind, &data);
        if self.has(&id)? {
            return Ok(id);
        }
        let fail = |e: io::Error| store_error("writing an object")(e.into());
        let mut w = PackWriter::create(&self.incoming_dir(), 1).map_err(fail)?;
        w.add_known(id, kind, &data).map_err(fail)?;
        self.install(w.finish().map_err(fail)?).map_err(fail)?;
        Ok(id)
    }

    fn has(&self, id: &Oid) -> Result<bool, ObjectError> {
        if self.recent.lock().is_ok_and(|r| r.contains(id)) {
            return Ok(true);
        }
        if self.held(id).is_some() || self.young(id).is_some() {
            return Ok(true);
        }
        let known = self.look(|h| Ok(h.contains(id).then_some(())))?;
        Ok(known.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_look_at_once_find_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r");
        let repo = Repo::create(&path).unwrap();
        let put = |n: u32| repo.put(ObjectKind::Blob, n.to_le_bytes().to_vec());
        let ids: Vec<_> = (0..40).map(|n| put(n).unwrap()).collect();
        for _ in 0..60 {
            let fresh = Repo::open(&path).unwrap();
            std::thread::scope(|s| {
                for n in 0..6 {
                    let (ids, fresh) = (&ids, &fresh);
                    let look = move || {
                        let all = ids.iter().cycle().skip(n * 7).take(ids.len());
                        all.filter(|id| !fresh.has(id).unwrap()).count()
                    };
                    s.spawn(move || assert_eq!(look(), 0, "objects were missing"));
                }
            });
        }
    }
}
