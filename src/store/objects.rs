//! The seam between those who read and write git objects and where the objects are.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

pub use gix::object::Kind as ObjectKind;

use crate::base::id::Oid;

/// A git object: its kind and its bytes without the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Blob, tree, commit or tag.
    pub kind: ObjectKind,
    /// The bytes.
    pub data: Arc<Vec<u8>>,
}

/// Why objects could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectError {
    /// Named by something that is here, but not here itself.
    #[error("object {0} is missing")]
    Missing(Oid),
    /// Here, but not what its reader can use.
    #[error("object {id} is not {expected}: {why}")]
    Malformed {
        /// The object.
        id: Oid,
        /// What the reader wanted.
        expected: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The store failed.
    #[error("the object store failed at {at}: {why}")]
    Store {
        /// What was being done.
        at: &'static str,
        /// What the store said.
        why: String,
    },
}

/// Somewhere to get objects from and put them to.
///
/// Putting the same bytes twice is free of effect; both calls return the same id.
pub trait Objects: Send + Sync {
    /// The object, or `None` when it is not here.
    ///
    /// # Errors
    /// When the store fails.
    fn find(&self, id: &Oid) -> Result<Option<Object>, ObjectError>;

    /// Keeps an object and returns its id.
    ///
    /// # Errors
    /// When the store fails.
    fn put(&self, kind: ObjectKind, data: Vec<u8>) -> Result<Oid, ObjectError>;

    /// Whether the object is here.
    ///
    /// # Errors
    /// When the store fails.
    fn has(&self, id: &Oid) -> Result<bool, ObjectError> {
        Ok(self.find(id)?.is_some())
    }

    /// Whether the object may be anything but a blob; `true` when that is not known.
    fn is_structure(&self, _id: &Oid) -> bool {
        true
    }

    /// The object's bytes, which must be there and of the kind.
    ///
    /// # Errors
    /// When it is missing or of another kind.
    fn get(&self, id: &Oid, kind: ObjectKind) -> Result<Arc<Vec<u8>>, ObjectError> {
        let o = self.find(id)?.ok_or(ObjectError::Missing(*id))?;
        if o.kind == kind {
            return Ok(o.data);
        }
        Err(ObjectError::Malformed {
            id: *id,
            expected: match kind {
                ObjectKind::Blob => "a blob",
                ObjectKind::Tree => "a tree",
                ObjectKind::Commit => "a commit",
                ObjectKind::Tag => "a tag",
            },
            why: format!("it is a {}", o.kind),
        })
    }
}

/// The id of an object.
#[must_use]
pub fn id_of(kind: ObjectKind, data: &[u8]) -> Oid {
    // The computation fails only on a detected SHA-1 collision attack; such bytes get an id
    // that nothing else has.
    gix::objs::compute_hash(gix::hash::Kind::Sha1, kind, data)
        .unwrap_or_else(|_| Oid::null(gix::hash::Kind::Sha1))
}

/// Objects in memory: the test twin of a repository, and the stage for objects that are
/// being made. With a base, what is not in memory is looked up there.
#[derive(Default)]
pub struct Memory {
    map: RwLock<HashMap<Oid, Object>>,
    base: Option<Arc<dyn Objects>>,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").finish_non_exhaustive()
    }
}

impl Memory {
    /// An empty stage before `base`: reads fall through, writes stay here.
    #[must_use]
    pub fn over(base: Arc<dyn Objects>) -> Self {
        Self {
            map: RwLock::default(),
            base: Some(base),
        }
    }

    /// The object, if it is in memory; the base is not asked.
    #[must_use]
    pub fn staged(&self, id: &Oid) -> Option<Object> {
        self.map.read().ok()?.get(id).cloned()
    }

    /// Keeps an object whose id the caller has computed; the base is not asked.
    pub fn keep(&self, id: Oid, o: Object) {
        if let Ok(mut m) = self.map.write() {
            m.entry(id).or_insert(o);
        }
    }

    /// All objects in memory.
    #[must_use]
    pub fn into_objects(self) -> Vec<(Oid, Object)> {
        let map = self.map.into_inner();
        let map = map.unwrap_or_else(std::sync::PoisonError::into_inner);
        map.into_iter().collect()
    }

    /// Number of objects in memory.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.read().map_or(0, |m| m.len())
    }

    /// Whether nothing is in memory.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Objects for Memory {
    fn find(&self, id: &Oid) -> Result<Option<Object>, ObjectError> {
        if let Some(o) = self.staged(id) {
            return Ok(Some(o));
        }
        self.base.as_ref().map_or(Ok(None), |b| b.find(id))
    }

    fn put(&self, kind: ObjectKind, data: Vec<u8>) -> Result<Oid, ObjectError> {
        let id = id_of(kind, &data);
        let known = match &self.base {
            Some(b) => b.has(&id)?,
            None => false,
        };
        if !known && let Ok(mut m) = self.map.write() {
            m.entry(id).or_insert_with(|| Object {
                kind,
                data: Arc::new(data),
            });
        }
        Ok(id)
    }

    fn has(&self, id: &Oid) -> Result<bool, ObjectError> {
        if self.staged(id).is_some() {
            return Ok(true);
        }
        self.base.as_ref().map_or(Ok(false), |b| b.has(id))
    }
}

/// Two places to read from.
pub struct Both {
    one: Arc<dyn Objects>,
    two: Arc<dyn Objects>,
}

impl std::fmt::Debug for Both {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Both").finish_non_exhaustive()
    }
}

impl Both {
    /// Reads `one`, then `two`; what is put goes to `two`.
    #[must_use]
    pub fn new(one: Arc<dyn Objects>, two: Arc<dyn Objects>) -> Self {
        Self { one, two }
    }
}

impl Objects for Both {
    fn find(&self, id: &Oid) -> Result<Option<Object>, ObjectError> {
        match self.one.find(id)? {
            Some(o) => Ok(Some(o)),
            None => self.two.find(id),
        }
    }

    fn put(&self, kind: ObjectKind, data: Vec<u8>) -> Result<Oid, ObjectError> {
        self.two.put(kind, data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_reads_through_and_keeps_only_what_is_new() {
        let base = Arc::new(Memory::default());
        let a = base.put(ObjectKind::Blob, b"a".to_vec()).expect("memory");
        let stage = Memory::over(base);
        assert_eq!(
            stage.put(ObjectKind::Blob, b"a".to_vec()).expect("memory"),
            a
        );
        assert!(stage.is_empty());
        let b = stage.put(ObjectKind::Blob, b"b".to_vec()).expect("memory");
        assert_eq!(stage.len(), 1);
        assert!(stage.has(&a).expect("memory") && stage.has(&b).expect("memory"));
        assert_eq!(b.to_string(), "63d8dbd40c23542e740659a7168a0ce3138ea748");
    }
}
