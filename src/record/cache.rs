//! Decoded nodes of the tries, the most recently used ones. A node never changes, so nothing
//! here is ever out of date, and losing it costs time only.

use std::num::NonZeroUsize;
use std::sync::Mutex;

use lru::LruCache;

use crate::base::id::Oid;
use crate::record::model::Record;
use crate::record::state::Placed;
use crate::record::trie::Node;

/// Nodes kept of each of the two tries: a leaf of 64 records or names takes about 8 kB.
const NODES: usize = 4096;

/// Decoded nodes of both tries. Shared by threads.
pub struct Cache {
    pub(crate) ids: Mutex<LruCache<Oid, Node<Record>>>,
    pub(crate) names: Mutex<LruCache<Oid, Node<Placed>>>,
}

impl Cache {
    /// A cache of at most `nodes` nodes of each trie.
    #[must_use]
    pub fn new(nodes: NonZeroUsize) -> Self {
        Self {
            ids: Mutex::new(LruCache::new(nodes)),
            names: Mutex::new(LruCache::new(nodes)),
        }
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self::new(NonZeroUsize::new(NODES).unwrap_or(NonZeroUsize::MIN))
    }
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").finish_non_exhaustive()
    }
}
