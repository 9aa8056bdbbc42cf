//! Where the storage thread leaves a picture of JetStream when monitoring asks for one.

use std::sync::atomic::{AtomicU64, Ordering::AcqRel, Ordering::Acquire};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::inbox::Inbox;
use crate::engine::JsSnapshot;

/// How long monitoring waits for a storage thread that is busy before it shows the last picture instead.
const PATIENCE: Duration = Duration::from_secs(2);

/// The picture that was taken last, and who waits for the next. Nothing is taken while nobody asks.
#[derive(Debug)]
pub(crate) struct Snapshots {
    latest: Mutex<Arc<JsSnapshot>>,
    /// Counts those who have asked.
    asked: AtomicU64,
    /// Of those who have asked, how many have got a picture that was taken after they did.
    answered: watch::Sender<u64>,
}

impl Default for Snapshots {
    fn default() -> Self {
        Self {
            latest: Mutex::default(),
            asked: AtomicU64::new(0),
            answered: watch::Sender::new(0),
        }
    }
}

impl Snapshots {
    /// A picture that is taken now; the last one if the storage thread has ended or does not answer within two seconds.
    pub(crate) async fn take(&self, inbox: &Inbox) -> Arc<JsSnapshot> {
        let mut answered = self.answered.subscribe();
        let place = self.asked.fetch_add(1, AcqRel) + 1;
        inbox.wake();
        let taken = tokio::time::timeout(PATIENCE, answered.wait_for(|count| *count >= place)).await;
        if !matches!(taken, Ok(Ok(_))) {
            tracing::warn!("the storage thread is busy: monitoring shows what was true before");
        }
        Arc::clone(&self.latest.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Who waits for a picture: what [`Self::publish`] answers. None: nobody.
    pub(crate) fn wanted(&self) -> Option<u64> {
        let asked = self.asked.load(Acquire);
        (asked > *self.answered.borrow()).then_some(asked)
    }

    /// Shows `snapshot` to those who had asked when [`Self::wanted`] said `asked`.
    pub(crate) fn publish(&self, snapshot: JsSnapshot, asked: u64) {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(snapshot);
        self.answered.send_replace(asked);
    }

    /// There will be no more: nobody waits any longer.
    pub(crate) fn end(&self) {
        self.answered.send_replace(u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_messages(messages: u64) -> JsSnapshot {
        JsSnapshot {
            messages,
            ..JsSnapshot::default()
        }
    }

    #[tokio::test]
    async fn who_asks_gets_a_picture_that_was_taken_afterwards() {
        let (snapshots, inbox) = (Snapshots::default(), Inbox::new(100));
        snapshots.publish(with_messages(1), 0);
        assert_eq!(snapshots.wanted(), None);
        let mut first = Box::pin(snapshots.take(&inbox));
        assert!(futures::poll!(&mut first).is_pending());
        let asked = snapshots.wanted().unwrap();
        let mut second = Box::pin(snapshots.take(&inbox));
        assert!(futures::poll!(&mut second).is_pending());
        snapshots.publish(with_messages(2), asked);
        assert_eq!(first.await.messages, 2);
        assert!(
            futures::poll!(&mut second).is_pending(),
            "it asked after that picture was begun"
        );
        let asked = snapshots.wanted().unwrap();
        snapshots.publish(with_messages(3), asked);
        assert_eq!(second.await.messages, 3);
        assert_eq!(snapshots.wanted(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_storage_thread_that_has_ended_or_hangs_keeps_nobody_waiting() {
        let (snapshots, inbox) = (Snapshots::default(), Inbox::new(100));
        snapshots.publish(with_messages(1), 0);
        assert_eq!(snapshots.take(&inbox).await.messages, 1);
        snapshots.end();
        assert_eq!(snapshots.take(&inbox).await.messages, 1);
    }
}
