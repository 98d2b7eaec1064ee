//! An ordered map that is cheap to clone and to change: clones share all that neither has changed since, and two of them
//! can be compared at the cost of what differs. That is what lets a snapshot of the whole mesh follow every small change.
//!
//! It is a list of sorted chunks. A change copies one chunk, and the list of chunks if that is shared: for 100,000 entries
//! some hundred pointers each.

use std::{borrow::Borrow, cmp::Ordering, fmt, ops::Index, slice, sync::Arc};

/// Entries of a chunk at most. Half as many when it has just been split.
const CHUNK: usize = 256;

type Chunk<K, V> = Vec<(K, V)>;

/// The map.
pub struct Map<K, V> {
    /// None is empty; all keys of one are less than all of the next.
    chunks: Arc<Vec<Arc<Chunk<K, V>>>>,
    len: usize,
}

/// What is different in another map, by key: what was there, and what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Difference<'m, K, V> {
    pub key: &'m K,
    pub before: Option<&'m V>,
    pub after: Option<&'m V>,
}

/// Entries in order.
pub struct Iter<'m, K, V> {
    chunk: slice::Iter<'m, (K, V)>,
    chunks: slice::Iter<'m, Arc<Chunk<K, V>>>,
}

struct Cursor<'m, K, V> {
    /// What is left of it.
    chunk: &'m [(K, V)],
    chunks: slice::Iter<'m, Arc<Chunk<K, V>>>,
}

// === impl Map ===

impl<K: Ord + Clone, V: Clone> Map<K, V> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.get_key_value(key).map(|(_, value)| value)
    }

    pub fn get_key_value<Q: Ord + ?Sized>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        let chunk = self.chunks.get(self.chunk_of(key))?;
        let (key, value) = chunk.get(find(chunk, key).ok()?)?;
        Some((key, value))
    }

    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// Gives what was there before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        // What comes in order needs no search.
        let last = self.chunks.last().and_then(|chunk| chunk.last());
        let at = if last.is_some_and(|(last, _)| *last < key) { self.chunks.len() - 1 } else { self.chunk_of(&key) };
        let chunks = Arc::make_mut(&mut self.chunks);
        let Some(chunk) = chunks.get_mut(at) else {
            chunks.push(Arc::new(vec![(key, value)]));
            self.len += 1;
            return None;
        };
        let chunk = Arc::make_mut(chunk);
        match find(chunk, &key) {
            Ok(index) => Some(std::mem::replace(&mut chunk[index].1, value)),
            Err(index) => {
                chunk.insert(index, (key, value));
                self.len += 1;
                if chunk.len() > CHUNK {
                    // What comes in order fills chunks whole.
                    let half = if index + 1 == chunk.len() { chunk.len() - 1 } else { chunk.len() / 2 };
                    let rest = chunk.split_off(half);
                    chunk.shrink_to_fit();
                    chunks.insert(at + 1, Arc::new(rest));
                }
                None
            }
        }
    }

    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let at = self.chunk_of(key);
        let index = find(self.chunks.get(at)?, key).ok()?;
        let chunks = Arc::make_mut(&mut self.chunks);
        let chunk = Arc::make_mut(&mut chunks[at]);
        let (_, value) = chunk.remove(index);
        self.len -= 1;
        let left = chunk.len();
        if left == 0 {
            chunks.remove(at);
        } else if chunks.get(at + 1).is_some_and(|next| left + next.len() <= CHUNK / 2) {
            let next = chunks.remove(at + 1);
            Arc::make_mut(&mut chunks[at]).extend(next.iter().cloned());
        }
        Some(value)
    }

    pub fn iter(&self) -> Iter<'_, K, V> {
        Iter { chunk: [].iter(), chunks: self.chunks.iter() }
    }

    pub fn keys(&self) -> impl Iterator<Item = &K> + Clone {
        self.iter().map(|(key, _)| key)
    }

    pub fn values(&self) -> impl Iterator<Item = &V> + Clone {
        self.iter().map(|(_, value)| value)
    }

    /// From the first key that isn't less.
    pub fn range_from<Q: Ord + ?Sized>(&self, key: &Q) -> Iter<'_, K, V>
    where
        K: Borrow<Q>,
    {
        let mut chunks = self.chunks[self.chunk_of(key).min(self.chunks.len())..].iter();
        let chunk = chunks.next().map_or(&[][..], |chunk| {
            let (Ok(index) | Err(index)) = find(chunk, key);
            &chunk[index..]
        });
        Iter { chunk: chunk.iter(), chunks }
    }

    /// Those whose keys begin so.
    pub fn beginning_with<P: AsRef<str>>(&self, prefix: P) -> impl Iterator<Item = (&K, &V)>
    where
        K: Borrow<str>,
    {
        self.range_from(prefix.as_ref()).take_while(move |(key, _)| (*key).borrow().starts_with(prefix.as_ref()))
    }

    /// Whether it is known without looking that both have the same entries.
    pub fn is_shared(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.chunks, &other.chunks)
    }

    /// The chunk that has the key, or would have it.
    fn chunk_of<Q: Ord + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        let after = self.chunks.partition_point(|chunk| chunk.first().is_some_and(|(first, _)| first.borrow() <= key));
        after.saturating_sub(1)
    }
}

impl<K: Ord, V: PartialEq> Map<K, V> {
    /// All that is different in `after`, in order of keys. Chunks that both share aren't looked into.
    pub fn differences<'m>(&'m self, after: &'m Self) -> Vec<Difference<'m, K, V>> {
        let mut differences = Vec::new();
        let (mut old, mut new) = (Cursor::new(self), Cursor::new(after));
        loop {
            old.fill();
            new.fill();
            if std::ptr::eq(old.chunk, new.chunk) {
                if old.chunk.is_empty() {
                    return differences;
                }
                (old.chunk, new.chunk) = (&[], &[]);
                continue;
            }
            let order = match (old.chunk.first(), new.chunk.first()) {
                (Some((old, _)), Some((new, _))) => old.cmp(new),
                (Some(_), None) => Ordering::Less,
                (None, _) => Ordering::Greater,
            };
            let before = if order.is_le() { old.next() } else { None };
            let after = if order.is_ge() { new.next() } else { None };
            let Some((key, _)) = after.or(before) else { return differences };
            let (before, after) = (before.map(|(_, value)| value), after.map(|(_, value)| value));
            if before != after {
                differences.push(Difference { key, before, after });
            }
        }
    }
}

fn find<K: Ord + Borrow<Q>, V, Q: Ord + ?Sized>(chunk: &Chunk<K, V>, key: &Q) -> Result<usize, usize> {
    chunk.binary_search_by(|(other, _)| other.borrow().cmp(key))
}

/// As for every map: for keys that are known to be there.
impl<K: Ord + Clone + Borrow<Q>, V: Clone, Q: Ord + ?Sized> Index<&Q> for Map<K, V> {
    type Output = V;

    fn index(&self, key: &Q) -> &V {
        self.get(key).expect("whoever indexes a map knows its keys")
    }
}

impl<K, V> Default for Map<K, V> {
    fn default() -> Self {
        Self { chunks: Arc::default(), len: 0 }
    }
}

impl<K, V> Clone for Map<K, V> {
    fn clone(&self) -> Self {
        Self { chunks: Arc::clone(&self.chunks), len: self.len }
    }
}

impl<K: Ord, V: PartialEq> PartialEq for Map<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.differences(other).is_empty()
    }
}

impl<K: Ord, V: Eq> Eq for Map<K, V> {}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for Map<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for Map<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        map.extend(entries);
        map
    }
}

impl<K: Ord + Clone, V: Clone> Extend<(K, V)> for Map<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl<'m, K, V> IntoIterator for &'m Map<K, V> {
    type Item = (&'m K, &'m V);
    type IntoIter = Iter<'m, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        Iter { chunk: [].iter(), chunks: self.chunks.iter() }
    }
}

// === impl Iter ===

impl<K, V> Clone for Iter<'_, K, V> {
    fn clone(&self) -> Self {
        Self { chunk: self.chunk.clone(), chunks: self.chunks.clone() }
    }
}

impl<'m, K, V> Iterator for Iter<'m, K, V> {
    type Item = (&'m K, &'m V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.chunk.next() {
                return Some((key, value));
            }
            self.chunk = self.chunks.next()?.iter();
        }
    }
}

// === impl Cursor ===

impl<'m, K, V> Cursor<'m, K, V> {
    fn new(map: &'m Map<K, V>) -> Self {
        Self { chunk: &[], chunks: map.chunks.iter() }
    }

    /// Goes on to the next chunk if there is nothing left of this one.
    fn fill(&mut self) {
        if self.chunk.is_empty() {
            self.chunk = self.chunks.next().map_or(&[], |chunk| chunk);
        }
    }

    fn next(&mut self) -> Option<&'m (K, V)> {
        let (first, rest) = self.chunk.split_first()?;
        self.chunk = rest;
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Numbers that look random, the same ones each time.
    fn numbers(seed: u64) -> impl Iterator<Item = u64> {
        std::iter::successors(Some(seed), |n| Some(n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1)))
            .map(|n| n >> 33)
    }

    #[test]
    fn it_is_what_an_ordinary_map_is() {
        let (mut map, mut wanted) = (Map::default(), BTreeMap::new());
        let mut numbers = numbers(1);
        for round in 0..40_000_u64 {
            let key = numbers.next().unwrap() % 5_000;
            if numbers.next().unwrap().is_multiple_of(3) {
                assert_eq!(map.remove(&key), wanted.remove(&key));
            } else {
                assert_eq!(map.insert(key, round), wanted.insert(key, round));
            }
        }
        assert_eq!(map.len(), wanted.len());
        assert!(map.iter().eq(wanted.iter()));
        for key in 0..5_001 {
            assert_eq!(map.get(&key), wanted.get(&key));
            assert!(map.range_from(&key).take(3).eq(wanted.range(key..).take(3)));
        }
        for key in 0..5_000 {
            map.remove(&key);
            assert!(map.chunks.len() <= 1 + 4 * map.len().div_ceil(CHUNK));
        }
        assert!(map.is_empty() && map.iter().next().is_none() && map.range_from(&0).next().is_none());
    }

    #[test]
    fn differences_are_all_that_was_changed() {
        let mut numbers = numbers(2);
        let mut before: Map<u64, u64> = (0..3_000).map(|key| (key * 3, 0)).collect();
        for round in 1..300 {
            let mut after = before.clone();
            for _ in 0..round % 7 {
                let key = numbers.next().unwrap() % 10_000;
                match numbers.next().unwrap() % 3 {
                    0 => after.remove(&key),
                    1 => after.insert(key, round),
                    // Into a chunk that grows.
                    _ => after.insert(5_000 + key % 100, round),
                };
            }
            let wanted: Vec<_> = (0..10_000_u64)
                .filter(|key| before.get(key) != after.get(key))
                .map(|key| (key, before.get(&key).copied(), after.get(&key).copied()))
                .collect();
            let found = before.differences(&after);
            let found: Vec<_> = found.iter().map(|d| (*d.key, d.before.copied(), d.after.copied())).collect();
            assert_eq!(found, wanted, "round {round}");
            assert_eq!(before == after, wanted.is_empty());
            before = after;
        }
    }

    #[test]
    fn what_comes_in_order_fills_chunks() {
        let map: Map<usize, ()> = (0..10 * CHUNK).map(|key| (key, ())).collect();
        assert_eq!(map.chunks.len(), 10);
    }
}
