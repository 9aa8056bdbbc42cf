//! What updates, resets and pauses do to a consumer.

use super::{AckPolicy, ConsumerConfig, ConsumerModel};
use crate::engine::time::Now;
use crate::simulation::config::{Start, are_wanted};
use crate::simulation::streams::StreamModel;
use crate::types::UnixNanos;

/// Until when nothing is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::simulation) enum Pause {
    Never,
    /// A time of the wall clock, and what that was on the other clock when it was last looked up.
    Until(UnixNanos, u64),
    /// A request for it had no definite answer.
    Unknown,
}

impl Pause {
    /// The wall clock is looked at: after a start, an update, or a request to pause.
    pub(in crate::simulation) fn arm(&mut self, now: Now) {
        if let Self::Until(until, due) = self {
            *due = now.mono.0 + u64::try_from(until.since(now.wall)).unwrap_or(0);
        }
    }
}

impl ConsumerModel {
    /// An update was made while the stream ended at `last`.
    pub(in crate::simulation) fn updated(&mut self, config: ConsumerConfig, last: u64, now: Now) {
        self.may_have_gone |= self.is_abandoned(now.mono.0);
        if config.keys != self.config.keys {
            let old = std::mem::take(&mut self.config.keys);
            self.filters.push((old, last));
            // It may stand anywhere up to the next message that it wanted.
            self.is_exact = false;
        }
        self.config = config;
        if let Some(max) = self.config.max_deliver {
            for story in self.stories.values_mut() {
                story.is_given_up |= story.deliveries >= max;
            }
        }
        self.pause.arm(now);
    }

    /// Whether it may have gone by the message when it had another filter.
    pub(in crate::simulation) fn may_have_passed(&self, seq: u64, subject: &str) -> bool {
        let mut filters = self.filters.iter();
        filters.any(|(keys, last)| seq <= *last && !are_wanted(keys, subject))
    }

    /// Whether it may be set back to a position; 0: to what was acknowledged.
    pub(in crate::simulation) fn may_be_reset(&self, seq: u64) -> bool {
        seq == 0
            || match self.config.start {
                Start::All => true,
                Start::Sequence(start) => seq >= start,
                Start::New | Start::Last | Start::LastPerSubject => false,
            }
    }

    /// It was set back, and begins anew at `seq`.
    pub(in crate::simulation) fn reset(
        &mut self,
        stream: &StreamModel,
        seq: u64,
        is_asked_for: bool,
        there: &[u64],
    ) {
        let is_known =
            stream.damage == 0 && !stream.is_sick && !self.is_free && self.config.ack != AckPolicy::None;
        assert!(
            is_asked_for || !is_known || self.is_settled_below(stream, seq.saturating_sub(1), there),
            "consumer {} of {} is set back to {seq}, beyond what waits for its acknowledgement",
            self.config.name,
            stream.config.name
        );
        self.start = seq;
        self.firsts = None;
        self.stories.clear();
        self.filters.clear();
        (self.next, self.durable_next, self.is_exact) = (seq, seq, true);
        (self.last_delivery, self.most_delivery, self.durable_delivery) = (Some(0), 0, 0);
    }

    /// A request to set it back had no definite answer.
    pub(in crate::simulation) fn may_be_set_back(&mut self) {
        self.is_free = true;
    }

    /// Whether it has to be told to go on.
    pub(in crate::simulation) fn may_be_paused(&self) -> bool {
        self.pause != Pause::Never
    }

    pub(super) fn check_pause(&self, now: u64, what: &str) {
        if let Pause::Until(_, due) = self.pause {
            assert!(now >= due, "{} ns before the end of the pause: {what}", due - now);
        }
    }
}
