//! The crate's one clock function.

use chrono::{DateTime, Utc};

/// The wall clock.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place of this crate where the wall clock is read"
)]
pub(crate) fn now() -> DateTime<Utc> {
    Utc::now()
}
