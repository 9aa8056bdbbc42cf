//! Where the storage thread leaves its latest picture of JetStream for monitoring.

use std::sync::{Arc, Mutex, PoisonError};

use crate::engine::JsSnapshot;

/// The latest snapshot. At most half a second old while JetStream is in use.
#[derive(Debug, Default)]
pub(crate) struct Snapshots {
    latest: Mutex<Arc<JsSnapshot>>,
}

impl Snapshots {
    /// The latest snapshot.
    pub(crate) fn latest(&self) -> Arc<JsSnapshot> {
        Arc::clone(&self.latest.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces it.
    pub(crate) fn publish(&self, snapshot: JsSnapshot) {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(snapshot);
    }
}
