//! A virtual clock, generator and disk, all driven by seed.

mod disk;
mod faults;
mod file;
mod node;

use std::sync::{Arc, Mutex, PoisonError};

pub use disk::SimFs;
pub use file::{SimFile, SimLock};
pub use node::SECTOR_BYTES;

/// Takes a line about what happens on the disk, or to a broker that is simulated on it.
pub type Trace = fn(std::fmt::Arguments<'_>);

use super::{Clock, Rng};
use crate::types::{MonoNanos, UnixNanos};

/// `SplitMix64`: small, fast, good enough for salts and simulations. Not for keys.
#[derive(Clone, Debug)]
pub struct SplitMix {
    state: u64,
}

impl SplitMix {
    /// A generator that gives the same numbers for the same seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A number below `bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next_u64() % bound }
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

impl Rng for SplitMix {
    fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A clock that moves only when told to. Clones show the same time.
#[derive(Clone, Debug, Default)]
pub struct SimClock {
    time: Arc<Mutex<(UnixNanos, MonoNanos)>>,
}

impl SimClock {
    /// A clock that shows `now`.
    #[must_use]
    pub fn new(now: UnixNanos) -> Self {
        Self {
            time: Arc::new(Mutex::new((now, MonoNanos(0)))),
        }
    }

    /// Lets `nanos` pass.
    pub fn advance(&self, nanos: u64) {
        let mut time = self.time.lock().unwrap_or_else(PoisonError::into_inner);
        time.0 = time.0.saturating_add(i64::try_from(nanos).unwrap_or(i64::MAX));
        time.1 = MonoNanos(time.1.0.saturating_add(nanos));
    }

    /// Sets the wall clock `nanos` forward or back; monotonic time stays.
    pub fn jump(&self, nanos: i64) {
        let mut time = self.time.lock().unwrap_or_else(PoisonError::into_inner);
        time.0 = time.0.saturating_add(nanos);
    }
}

impl Clock for SimClock {
    fn now(&self) -> UnixNanos {
        self.time.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    fn monotonic(&self) -> MonoNanos {
        self.time.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_same_numbers() {
        let draw = |seed| {
            let mut rng = SplitMix::new(seed);
            [rng.next_u64(), rng.next_u64(), rng.below(10)]
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn clock_jumps_move_only_the_wall() {
        let clock = SimClock::new(UnixNanos(100));
        clock.advance(5);
        clock.clone().jump(-50);
        assert_eq!((clock.now(), clock.monotonic()), (UnixNanos(55), MonoNanos(5)));
    }
}
