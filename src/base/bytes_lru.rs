//! A cache that is bounded by what it holds in bytes, not by how many values it has.

use std::hash::Hash;

use lru::LruCache;

/// Of the room, one value may take this part.
const PART: usize = 8;

/// The most recently used values that fit.
#[derive(Debug)]
pub struct BytesLru<K: Hash + Eq, V> {
    values: LruCache<K, (V, usize)>,
    bytes: usize,
    max: usize,
}

impl<K: Hash + Eq, V> BytesLru<K, V> {
    /// A cache of at most `max` bytes.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            values: LruCache::unbounded(),
            bytes: 0,
            max,
        }
    }

    /// A value, which is the most recently used one from now on.
    pub fn get(&mut self, key: &K) -> Option<&V> {
        self.values.get(key).map(|(v, _)| v)
    }

    /// A value, as if nobody had asked.
    #[must_use]
    pub fn peek(&self, key: &K) -> Option<&V> {
        self.values.peek(key).map(|(v, _)| v)
    }

    /// Whether it is here.
    #[must_use]
    pub fn contains(&self, key: &K) -> bool {
        self.values.contains(key)
    }

    /// Keeps a value of so many bytes; one that would take much of the room is not kept.
    pub fn put(&mut self, key: K, value: V, bytes: usize) {
        if bytes > self.max / PART {
            return;
        }
        self.bytes += bytes;
        if let Some((_, old)) = self.values.push(key, (value, bytes)) {
            self.bytes -= old.1;
        }
        while self.bytes > self.max
            && let Some((_, (_, old))) = self.values.pop_lru()
        {
            self.bytes -= old;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_go_when_there_is_no_room() {
        let mut c = BytesLru::new(80);
        for n in 0..8 {
            c.put(n, n, 10);
        }
        assert_eq!(c.get(&0), Some(&0));
        c.put(8, 8, 10);
        assert_eq!((c.peek(&0), c.peek(&1), c.bytes), (Some(&0), None, 80));
        c.put(2, 20, 5);
        assert_eq!((c.peek(&2), c.bytes), (Some(&20), 75));
        c.put(9, 9, 11);
        assert!(!c.contains(&9), "too large");
    }
}
