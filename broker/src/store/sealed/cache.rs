//! Blocks of index files in memory, as many as fit into a budget.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::blocks::Block;

/// A block: number of its index, its kind, its number among those.
pub(super) type Key = (u64, u8, u32);

/// What one block costs besides its content.
const SLOT_BYTES: usize = 96;

/// A cache that all indexes of a store share.
#[derive(Clone, Debug)]
pub(in super::super) struct BlockCache {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    budget: usize,
    bytes: usize,
    places: HashMap<Key, usize>,
    slots: Vec<Slot>,
    /// The next slot that may have to go. One that was used since the hand last passed stays.
    hand: usize,
    indexes: u64,
}

#[derive(Debug)]
struct Slot {
    key: Key,
    block: Arc<Block>,
    bytes: usize,
    was_used: bool,
}

impl BlockCache {
    /// An empty cache of at most `budget` bytes.
    pub(in super::super) fn new(budget: usize) -> Self {
        let inner = Inner {
            budget,
            bytes: 0,
            places: HashMap::new(),
            slots: Vec::new(),
            hand: 0,
            indexes: 0,
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for another index.
    pub(super) fn next_index(&self) -> u64 {
        let mut inner = self.lock();
        inner.indexes += 1;
        inner.indexes
    }

    pub(super) fn get(&self, key: Key) -> Option<Arc<Block>> {
        let mut inner = self.lock();
        let at = *inner.places.get(&key)?;
        let slot = &mut inner.slots[at];
        slot.was_used = true;
        Some(Arc::clone(&slot.block))
    }

    pub(super) fn insert(&self, key: Key, block: &Arc<Block>) {
        let bytes = block.bytes() + SLOT_BYTES;
        let mut inner = self.lock();
        while inner.bytes + bytes > inner.budget && !inner.slots.is_empty() {
            inner.turn();
        }
        if inner.places.contains_key(&key) {
            return;
        }
        let at = inner.slots.len();
        inner.places.insert(key, at);
        inner.bytes += bytes;
        inner.slots.push(Slot {
            key,
            block: Arc::clone(block),
            bytes,
            was_used: false,
        });
    }

    #[cfg(test)]
    fn len_and_bytes(&self) -> (usize, usize) {
        let inner = self.lock();
        assert_eq!(inner.places.len(), inner.slots.len());
        (inner.slots.len(), inner.bytes)
    }
}

impl Inner {
    /// Moves the hand by one slot: the block there goes, or gets another chance.
    fn turn(&mut self) {
        let at = if self.hand < self.slots.len() {
            self.hand
        } else {
            0
        };
        if std::mem::take(&mut self.slots[at].was_used) {
            self.hand = at + 1;
            return;
        }
        let gone = self.slots.swap_remove(at);
        self.places.remove(&gone.key);
        self.bytes -= gone.bytes;
        if let Some(moved) = self.slots.get(at) {
            self.places.insert(moved.key, at);
        }
        self.hand = at + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_budget_holds() {
        let cache = BlockCache::new(40 * (SLOT_BYTES + 400));
        for number in 0..1000 {
            let block = Arc::new(Block::Postings(vec![number; 100]));
            cache.insert((1, 0, number), &block);
            assert!(cache.get((1, 0, 0)).is_some(), "after {number}");
            let (len, bytes) = cache.len_and_bytes();
            assert!(len <= 40 && bytes <= 40 * (SLOT_BYTES + 400));
        }
        assert!(cache.get((1, 0, 999)).is_some());
        assert!(cache.get((1, 0, 500)).is_none());
        assert!(cache.get((2, 0, 999)).is_none());
    }
}
