//! How fast a consumer's messages may follow each other: as they once came, and within a rate.
//! Source: JetStream consumer `replay_policy`, `rate_limit_bps`.

use super::config::{ConsumerConfig, ReplayPolicy};
use crate::engine::time::Mono;
use crate::types::UnixNanos;

const SECOND_NS: u128 = 1_000_000_000;

/// The pace of one consumer.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Whether what lay in the stream is replayed at its own pace.
    is_replaying: bool,
    /// The last message replayed: when it was stored, and when it was delivered.
    last: Option<(UnixNanos, Mono)>,
    /// The rate allows nothing before.
    not_before: Mono,
}

impl Pace {
    /// The pace of a consumer that begins to deliver.
    pub(crate) fn new(config: &ConsumerConfig) -> Self {
        Self {
            is_replaying: config.replay_policy == ReplayPolicy::Original,
            last: None,
            not_before: Mono(0),
        }
    }

    /// When a message stored at `stored` may be delivered; none: now.
    pub(crate) fn due(&self, now: Mono, stored: UnixNanos, is_first_delivery: bool) -> Option<Mono> {
        let replay = match self.last {
            Some((last_stored, delivered)) if self.is_replaying && is_first_delivery => {
                delivered.after(stored.0.saturating_sub(last_stored.0).max(0))
            }
            _ => now,
        };
        Some(replay.max(self.not_before)).filter(|due| *due > now)
    }

    /// A message of `bytes`, stored at `stored`, was delivered.
    pub(crate) fn delivered(&mut self, now: Mono, stored: UnixNanos, bytes: usize, bits_per_second: u64) {
        if self.is_replaying {
            self.last = Some((stored, now));
        }
        if bits_per_second > 0 {
            let nanos = bytes as u128 * 8 * SECOND_NS / u128::from(bits_per_second);
            let nanos = i64::try_from(nanos).unwrap_or(i64::MAX);
            self.not_before = self.not_before.max(now).after(nanos);
        }
    }

    /// Everything that was there is delivered: what comes goes out as it comes.
    pub(crate) fn caught_up(&mut self) {
        self.is_replaying = false;
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(replay_policy: ReplayPolicy) -> Pace {
        Pace::new(&ConsumerConfig {
            replay_policy,
            ..ConsumerConfig::default()
        })
    }

    #[test]
    fn messages_are_replayed_as_far_apart_as_they_came() {
        let mut pace = pace(ReplayPolicy::Original);
        assert_eq!(pace.due(Mono(5), UnixNanos(1000), true), None);
        pace.delivered(Mono(5), UnixNanos(1000), 10, 0);
        assert_eq!(pace.due(Mono(6), UnixNanos(1070), true), Some(Mono(75)));
        assert_eq!(pace.due(Mono(75), UnixNanos(1070), true), None);
        assert_eq!(pace.due(Mono(6), UnixNanos(1070), false), None);
        pace.caught_up();
        assert_eq!(pace.due(Mono(6), UnixNanos(9000), true), None);
    }

    #[test]
    fn a_rate_holds_messages_back() {
        let mut pace = pace(ReplayPolicy::Instant);
        pace.delivered(Mono(0), UnixNanos(1), 1000, 8000);
        assert_eq!(pace.due(Mono(1), UnixNanos(2), true), Some(Mono(1_000_000_000)));
        assert_eq!(pace.due(Mono(1_000_000_000), UnixNanos(2), true), None);
    }
}
