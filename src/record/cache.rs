//! Decoded nodes of the tries, the most recently used ones. A node never changes, so nothing
//! here is ever out of date, and losing it costs time only.

use std::sync::Mutex;

use crate::base::bytes_lru::BytesLru;
use crate::base::id::Oid;
use crate::record::model::Record;
use crate::record::state::Placed;
use crate::record::trie::Node;

/// Room for nodes of each of the two tries: a leaf of 64 records or names takes about 10 kB, more
/// if its files have several versions.
const BYTES_MAX: usize = 32 << 20;

/// Decoded nodes of both tries. Shared by threads.
pub struct Cache {
    pub(crate) ids: Mutex<BytesLru<Oid, Node<Record>>>,
    pub(crate) names: Mutex<BytesLru<Oid, Node<Placed>>>,
}

impl Cache {
    /// A cache of at most `max` bytes of each trie.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            ids: Mutex::new(BytesLru::new(max)),
            names: Mutex::new(BytesLru::new(max)),
        }
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self::new(BYTES_MAX)
    }
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").finish_non_exhaustive()
    }
}
