//! The two clocks of a step.

use crate::types::UnixNanos;

/// Nanoseconds on a clock that never goes back: timers, waits, expiries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Mono(pub(crate) u64);

impl Mono {
    /// Later by `nanos`; a negative wait is none.
    pub(crate) fn after(self, nanos: i64) -> Self {
        Self(self.0.saturating_add(u64::try_from(nanos).unwrap_or(0)))
    }

    /// Nanoseconds from `earlier` to here, 0 if it is not earlier.
    pub(crate) fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The time of a step, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Now {
    /// What records and answers carry.
    pub(crate) wall: UnixNanos,
    /// What timers run by.
    pub(crate) mono: Mono,
}

/// The earlier of two deadlines that may be missing.
pub(crate) fn earliest(a: Option<Mono>, b: Option<Mono>) -> Option<Mono> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
