//! Messages with a time to live of their own.
//! Source: ADR-43; nats-server, `parseMessageTTL`.

use std::collections::BTreeSet;

use crate::api::error::ApiError;
use crate::api::time::go_duration_ns;
use crate::engine::time::Mono;

/// Messages with a time to live in one stream at the same time; a further one is refused.
const EXPIRIES_MAX: usize = 4 << 20;
const SECOND_NS: i64 = 1_000_000_000;

/// When the messages of a stream expire that say so themselves.
#[derive(Debug, Default)]
pub(crate) struct Expiries {
    due: BTreeSet<(Mono, u64)>,
    /// Messages that never expire, not even of age.
    stay: BTreeSet<u64>,
}

impl Expiries {
    /// Whether no further message fits.
    pub(crate) fn is_full(&self) -> bool {
        self.due.len() + self.stay.len() >= EXPIRIES_MAX
    }

    /// Message `seq` never expires.
    pub(crate) fn keep(&mut self, seq: u64) {
        self.stay.insert(seq);
    }

    /// Whether message `seq` never expires.
    pub(crate) fn stays(&self, seq: u64) -> bool {
        self.stay.contains(&seq)
    }

    /// Whether any message never expires.
    pub(crate) fn has_staying(&self) -> bool {
        !self.stay.is_empty()
    }

    /// Messages below `first_seq` are gone.
    pub(crate) fn forget_below(&mut self, first_seq: u64) {
        self.stay = self.stay.split_off(&first_seq);
    }

    /// Message `seq` is gone.
    pub(crate) fn forget(&mut self, seq: u64) {
        self.stay.remove(&seq);
    }

    /// Message `seq` expires at `at`. Returns whether it is the first to.
    pub(crate) fn insert(&mut self, at: Mono, seq: u64) -> bool {
        self.due.insert((at, seq));
        self.due.first() == Some(&(at, seq))
    }

    /// When the next message expires.
    pub(crate) fn next(&self) -> Option<Mono> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes out a message that has expired by `now`. It may be gone already.
    pub(crate) fn pop_due(&mut self, now: Mono) -> Option<u64> {
        self.next().filter(|at| *at <= now)?;
        self.due.pop_first().map(|(_, seq)| seq)
    }

    /// Forgets everything above `durable_seq`: it was not stored after all.
    pub(crate) fn roll_back(&mut self, durable_seq: u64) {
        self.due.retain(|(_, seq)| *seq <= durable_seq);
        self.stay.retain(|seq| *seq <= durable_seq);
    }
}

/// What a `Nats-TTL` header says: nanoseconds, or `None` for `never`.
///
/// # Errors
/// 10165 unless it is `never`, whole seconds or a duration of at least a second as Go writes it.
pub(crate) fn parse(text: &str) -> Result<Option<i64>, ApiError> {
    if text.eq_ignore_ascii_case("never") {
        return Ok(None);
    }
    let nanos = match text.parse::<u32>() {
        // To Go a bare 0 is a duration, and too short.
        Ok(0) => return Err(ApiError::TTL_INVALID),
        Ok(seconds) => i64::from(seconds) * SECOND_NS,
        Err(_) => {
            let nanos = go_duration_ns(text).filter(|nanos| *nanos >= SECOND_NS);
            nanos.ok_or(ApiError::TTL_INVALID)? / SECOND_NS * SECOND_NS
        }
    };
    Ok(Some(nanos).filter(|nanos| *nanos > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_to_live_are_read_as_the_server_reads_them() {
        assert_eq!(parse("5"), Ok(Some(5 * SECOND_NS)));
        assert_eq!(parse("1m30s"), Ok(Some(90 * SECOND_NS)));
        assert_eq!(parse("1500ms"), Ok(Some(SECOND_NS)));
        assert_eq!(parse("never"), Ok(None));
        for wrong in ["0", "-1", "500ms", "soon", ""] {
            assert_eq!(parse(wrong), Err(ApiError::TTL_INVALID), "{wrong}");
        }
    }

    #[test]
    fn what_is_due_comes_out_in_order() {
        let mut expiries = Expiries::default();
        assert!(expiries.insert(Mono(20), 1));
        assert!(expiries.insert(Mono(10), 2));
        assert!(!expiries.insert(Mono(30), 3));
        expiries.roll_back(2);
        assert_eq!(expiries.pop_due(Mono(9)), None);
        assert_eq!(expiries.pop_due(Mono(25)), Some(2));
        assert_eq!(expiries.pop_due(Mono(25)), Some(1));
        assert_eq!(expiries.next(), None);
    }
}
