//! Counters of a running fleet.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Shared by all connections of a fleet.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    pub(crate) sent: Counter,
    pub(crate) acked: Counter,
    pub(crate) resent: Counter,
    pub(crate) duplicated: Counter,
    pub(crate) recognised: Counter,
    pub(crate) taken_anew: Counter,
    pub(crate) connects: Counter,
    pub(crate) disconnects: Counter,
    pub(crate) refused: Counter,
    last_error: Mutex<Option<String>>,
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Where a fleet stands. Counts messages unless it says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Since the start.
    pub elapsed: Duration,
    /// How many there are to be sent.
    pub total: u64,
    /// Sent, each counted once.
    pub sent: u64,
    /// Acknowledged.
    pub acked: u64,
    /// Sent again because no acknowledgement came.
    pub resent: u64,
    /// Sent again on purpose.
    pub duplicated: u64,
    /// Duplicates that the server said it had already (NATS only: MQTT has no word for it).
    pub recognised: u64,
    /// Duplicates that the server took for something new: it then has them twice (NATS only).
    pub taken_anew: u64,
    /// Connections that stand.
    pub connections: u64,
    /// Connections that broke, on purpose or not.
    pub disconnects: u64,
    /// Answers that refused a message. It is sent again.
    pub refused: u64,
    /// The last error of any connection.
    pub last_error: Option<String>,
}

impl Stats {
    pub(crate) fn note_error(&self, error: String) {
        tracing::debug!(%error, "connection of a simulated device");
        if let Ok(mut last) = self.last_error.lock() {
            *last = Some(error);
        }
    }

    pub(crate) fn progress(&self, elapsed: Duration, total: u64) -> Progress {
        Progress {
            elapsed,
            total,
            sent: self.sent.get(),
            acked: self.acked.get(),
            resent: self.resent.get(),
            duplicated: self.duplicated.get(),
            recognised: self.recognised.get(),
            taken_anew: self.taken_anew.get(),
            connections: self.connects.get().saturating_sub(self.disconnects.get()),
            disconnects: self.disconnects.get(),
            refused: self.refused.get(),
            last_error: self.last_error.lock().ok().and_then(|last| last.clone()),
        }
    }
}
