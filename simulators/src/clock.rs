//! The one place that reads the clock.

use std::time::{SystemTime, UNIX_EPOCH};

use tarn_schemas::UnixMicros;

#[expect(clippy::disallowed_methods, reason = "this is the crate's one clock function")]
pub(crate) fn now() -> UnixMicros {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMicros(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
}
