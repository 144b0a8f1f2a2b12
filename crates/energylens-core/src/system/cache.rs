//! A cache of at most so many bytes: the least recently used entry is evicted first.

use std::fmt;
use std::hash::{BuildHasherDefault, Hash};

use lru::LruCache;

use crate::system::hash::KeyHasher;
use crate::system::per_process::PerProcess;

/// Bytes that an entry takes besides its value.
const ENTRY_BYTES: usize = 256;

/// Values by key, each with its bytes.
type Latest<K, V> = LruCache<K, (V, usize), BuildHasherDefault<KeyHasher>>;

/// Values, made at the first, and the bytes of all.
struct Entries<K: Hash + Eq, V> {
    latest: Option<Latest<K, V>>,
    bytes: usize,
}

impl<K: Hash + Eq, V> Entries<K, V> {
    const NONE: Self = Self { latest: None, bytes: 0 };
}

/// Values by key, of so many bytes in all at most.
pub struct Cache<K: Hash + Eq, V> {
    most_bytes: usize,
    entries: PerProcess<Entries<K, V>>,
}

impl<K: Hash + Eq, V> fmt::Debug for Cache<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("most_bytes", &self.most_bytes).finish_non_exhaustive()
    }
}

impl<K: Hash + Eq, V: Clone> Cache<K, V> {
    /// Nothing yet.
    pub const fn new(most_bytes: usize) -> Self {
        Self { most_bytes, entries: PerProcess::new() }
    }

    /// The value of a key, which is then the latest used; `bytes` are what it takes from now on.
    pub fn get(&self, key: &K, bytes: impl FnOnce(&V) -> usize) -> Option<V> {
        self.with(|entries| {
            let (value, counted) = entries.latest.as_mut()?.get_mut(key)?;
            let now = bytes(value) + ENTRY_BYTES;
            entries.bytes += now.saturating_sub(*counted);
            *counted = now.max(*counted);
            let value = value.clone();
            Some((value, self.shrink(entries)))
        })
        .flatten()
        .map(|(value, _out)| value)
    }

    /// Keeps a value of so many bytes.
    pub fn put(&self, key: K, value: V, bytes: usize) {
        let bytes = bytes + ENTRY_BYTES;
        // What is evicted is dropped after unlocking.
        let _out = self.with(|entries| {
            let latest =
                entries.latest.get_or_insert_with(|| Latest::unbounded_with_hasher(BuildHasherDefault::default()));
            let before = latest.put(key, (value, bytes));
            entries.bytes = entries.bytes + bytes - before.as_ref().map_or(0, |(_, counted)| *counted);
            (before, self.shrink(entries))
        });
    }

    /// Entries, and their bytes.
    pub fn size(&self) -> (usize, usize) {
        self.with(|entries| (entries.latest.as_ref().map_or(0, Latest::len), entries.bytes)).unwrap_or_default()
    }

    /// Takes out what there is no room for.
    fn shrink(&self, entries: &mut Entries<K, V>) -> Vec<V> {
        let mut out = Vec::new();
        while entries.bytes > self.most_bytes {
            let Some((_, (value, bytes))) = entries.latest.as_mut().and_then(Latest::pop_lru) else { break };
            entries.bytes -= bytes;
            out.push(value);
        }
        out
    }

    fn with<R>(&self, work: impl FnOnce(&mut Entries<K, V>) -> R) -> Option<R> {
        self.entries.with(|| Entries::NONE, work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_goes_first() {
        let cache: Cache<u64, u64> = Cache::new(3 * (100 + ENTRY_BYTES));
        (0..3).for_each(|key| cache.put(key, 10 * key, 100));
        assert_eq!(cache.get(&0, |_| 100), Some(0));
        cache.put(3, 30, 100);
        assert_eq!([0, 1, 2, 3].map(|key| cache.get(&key, |_| 100)), [Some(0), None, Some(20), Some(30)]);
        assert_eq!(cache.size(), (3, 3 * (100 + ENTRY_BYTES)));
        // One that grows drives others out, and one that is put again counts once.
        assert_eq!(cache.get(&3, |_| 200), Some(30));
        assert_eq!(cache.size(), (2, 300 + 2 * ENTRY_BYTES));
        cache.put(3, 31, 50);
        assert_eq!(cache.size(), (2, 150 + 2 * ENTRY_BYTES));
    }

    #[test]
    fn no_more_bytes_than_allowed_whatever_comes() {
        let cache: Cache<u64, Vec<u8>> = Cache::new(1 << 16);
        for key in 0..10_000 {
            cache.put(key, Vec::new(), (key % 977) as usize);
            assert!(cache.size().1 <= 1 << 16);
        }
        assert_eq!(cache.get(&9_999, Vec::len), Some(Vec::new()));
        cache.put(1, Vec::new(), 1 << 17);
        assert_eq!(cache.size(), (0, 0));
    }
}
