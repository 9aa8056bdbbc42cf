//! The crate's one look at the wall clock. Everything below takes the time as an argument.

use tarn_schemas::UnixMicros;

/// The wall clock, in microseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "this is the crate's one clock function")]
pub(crate) fn now() -> UnixMicros {
    UnixMicros(chrono::Utc::now().timestamp_micros())
}
