//! What the connections of a fleet share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::ledger::{LedgerError, LedgerWriter};
use crate::message::Message;
use crate::stats::Stats;

/// What one connection is given.
pub(crate) struct Link {
    /// Unlike that of any other connection, the same in each run of the same fleet.
    pub(crate) name: String,
    pub(crate) batches: mpsc::Receiver<Vec<Message>>,
    pub(crate) records: Records,
    /// Cancelled: end at once, whatever isn't acknowledged.
    pub(crate) give_up: CancellationToken,
    pub(crate) window: u16,
}

/// Ledger and counters. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Records {
    ledger: Option<Arc<Mutex<LedgerWriter>>>,
    pub(crate) stats: Arc<Stats>,
}

impl Records {
    pub(crate) fn new(ledger: Option<LedgerWriter>) -> Self {
        Self {
            ledger: ledger.map(|ledger| Arc::new(Mutex::new(ledger))),
            stats: Arc::default(),
        }
    }

    /// Notes messages before they are sent. They are in the operating system's hands on return, and acknowledgements
    /// noted before are, too.
    pub(crate) fn sent(&self, messages: &[Message]) -> Result<(), LedgerError> {
        if let Some(mut ledger) = self.ledger() {
            let now = clock::now();
            for message in messages {
                ledger.sent(message, now)?;
            }
            ledger.flush()?;
        }
        self.stats.sent.add(messages.len());
        Ok(())
    }

    /// Notes acknowledgements. They reach the operating system with the next messages, or [`Records::flush`].
    pub(crate) fn acked(&self, numbers: &[u64]) -> Result<(), LedgerError> {
        if let Some(mut ledger) = self.ledger() {
            ledger.acked(numbers, clock::now())?;
        }
        self.stats.acked.add(numbers.len());
        Ok(())
    }

    pub(crate) fn flush(&self) -> Result<(), LedgerError> {
        self.ledger().map_or(Ok(()), |mut ledger| ledger.flush())
    }

    fn ledger(&self) -> Option<MutexGuard<'_, LedgerWriter>> {
        self.ledger
            .as_ref()
            .map(|ledger| ledger.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Pauses between attempts: twice as long each time, up to a second.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    attempts: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(25);
    const LONGEST: Duration = Duration::from_secs(1);

    pub(crate) fn next(&mut self) -> Duration {
        let pause = Self::FIRST
            .saturating_mul(1 << self.attempts.min(10))
            .min(Self::LONGEST);
        self.attempts += 1;
        pause
    }

    pub(crate) fn reset(&mut self) {
        self.attempts = 0;
    }
}
