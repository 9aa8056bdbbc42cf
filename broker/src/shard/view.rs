//! What the storage thread lets others see of itself: health and figures, without asking it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::store::{StoreFigures, StoreHealth};

/// Upper bounds of the buckets that commits are counted in by how long they took; a last bucket takes the rest.
pub const COMMIT_BUCKETS_MICROS: [u64; 14] = [
    50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000,
];
const BUCKETS: usize = COMMIT_BUCKETS_MICROS.len() + 1;

/// Written by the storage thread, read by monitoring.
#[derive(Debug, Default)]
pub struct ShardView {
    health: Mutex<StoreHealth>,
    store: Mutex<StoreFigures>,
    stopped: AtomicBool,
    commits: AtomicU64,
    commit_nanos: AtomicU64,
    commit_buckets: [AtomicU64; BUCKETS],
    operations: AtomicU64,
}

/// Figures of the storage thread since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardFigures {
    /// Commits: a write and a sync of all that was queued.
    pub commits: u64,
    /// Time spent in them.
    pub commit_time: Duration,
    /// Commits by how long they took: bucket `i` holds those of at most `COMMIT_BUCKETS_MICROS[i]` and more than the bound
    /// before; the last holds the rest.
    pub commit_buckets: [u64; BUCKETS],
    /// Operations taken from the inbox.
    pub operations: u64,
}

impl ShardView {
    /// Counts a commit.
    pub fn committed(&self, took: Duration) {
        self.commits.fetch_add(1, Relaxed);
        self.commit_nanos
            .fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = COMMIT_BUCKETS_MICROS.partition_point(|bound| *bound < micros);
        self.commit_buckets[bucket].fetch_add(1, Relaxed);
    }

    /// Counts operations taken from the inbox.
    pub fn took(&self, operations: u64) {
        self.operations.fetch_add(operations, Relaxed);
    }

    /// Sets the store's health, when it has changed.
    pub fn set_health(&self, health: StoreHealth) {
        *self.health.lock().unwrap_or_else(PoisonError::into_inner) = health;
    }

    /// Sets what the store has done in the background.
    pub fn set_store_figures(&self, figures: StoreFigures) {
        *self.store.lock().unwrap_or_else(PoisonError::into_inner) = figures;
    }

    /// What the store has done in the background.
    pub fn store_figures(&self) -> StoreFigures {
        *self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that the storage thread has ended, for whatever reason.
    pub fn set_stopped(&self) {
        self.stopped.store(true, Relaxed);
    }

    /// The store's health.
    pub fn health(&self) -> StoreHealth {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the storage thread has ended.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Relaxed)
    }

    /// The figures now.
    pub fn figures(&self) -> ShardFigures {
        ShardFigures {
            commits: self.commits.load(Relaxed),
            commit_time: Duration::from_nanos(self.commit_nanos.load(Relaxed)),
            commit_buckets: std::array::from_fn(|bucket| self.commit_buckets[bucket].load(Relaxed)),
            operations: self.operations.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_fall_into_the_bucket_of_their_bound() {
        let view = ShardView::default();
        for micros in [0, 50, 51, 1_000_000, 1_000_001] {
            view.committed(Duration::from_micros(micros));
        }
        let figures = view.figures();
        assert_eq!(figures.commits, 5);
        assert_eq!((figures.commit_buckets[0], figures.commit_buckets[1]), (2, 1));
        assert_eq!(
            (
                figures.commit_buckets[BUCKETS - 2],
                figures.commit_buckets[BUCKETS - 1]
            ),
            (1, 1)
        );
    }
}
