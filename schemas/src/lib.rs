//! What a sensor reading is: fields, units, timestamps, and the decoding of payloads into readings.
//!
//! Bytes in, values out: nothing here touches a socket, a clock, a file or a lock.
//!
//! Invariants:
//!
//! 1. A message is taken whole or refused whole: [`Decoder::decode`] adds all of its readings or none.
//! 2. The same subject, payload and arrival time always give the same readings or the same refusal, so that a stream
//!    that is read again gives the same rows.
//! 3. No input makes it panic, recurse without bound, or take memory without bound: every limit is in [`limits`].
//! 4. Every reading has a non-empty device, sensor and metric, a timestamp in [`timestamp::MIN`]`..`[`timestamp::MAX`],
//!    and exactly one of `value` (finite) and `text`.

mod decode;
pub mod limits;
mod object;
mod reading;
mod refusal;
mod subject;
pub mod timestamp;
pub mod unit;

pub use decode::Decoder;
pub use reading::{Reading, UnixMicros};
pub use refusal::{Reason, Refusal};
pub use subject::{PatternError, SubjectFields, SubjectPatterns};
