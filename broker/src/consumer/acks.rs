//! Acknowledgements, and delivering again what was not acknowledged.

use std::collections::BTreeSet;

use super::config::AckPolicy;
use super::pending::Pending;
use super::state::PendingState;
use super::{AckVerb, Consumer, Event, SeqPair};
use crate::engine::time::{Mono, Now, earliest};

/// Shortest time between two looks at all pending messages; the engine's timers are this coarse.
const PENDING_CHECK_NS_MIN: i64 = 1_000_000;

/// Places in the redelivery queue that are kept beyond twice the pending messages.
const REDELIVER_SLACK: usize = 64;

impl Consumer {
    /// Messages below `first_seq` are gone from the stream. They are no longer waited for.
    pub(crate) fn forget_below(&mut self, first_seq: u64) {
        if self
            .pending
            .first()
            .is_some_and(|first| first.stream_seq < first_seq)
        {
            self.pending.remove_through(first_seq - 1, &mut Vec::new());
            self.is_dirty = true;
        }
        while self.skip_list.front().is_some_and(|seq| *seq < first_seq) {
            let seq = *self.skip_list.front().expect("a front was seen");
            self.skip(seq);
        }
        self.skip_to(first_seq);
    }

    /// A single message is gone from the stream.
    pub(crate) fn forget(&mut self, stream_seq: u64) {
        if self.pending.remove(stream_seq).is_some() {
            self.is_dirty = true;
        }
    }

    /// Takes an acknowledgement. `done` gets the messages that need no more delivery. Returns
    /// whether a reply is due: not for what was never delivered or needs no acknowledgement.
    pub(crate) fn ack(&mut self, now: Now, verb: AckVerb, at: SeqPair, done: &mut Vec<u64>) -> bool {
        self.last_used = now.mono;
        if at.stream == 0 || at.stream >= self.next_stream_seq {
            return false;
        }
        if self.config.ack_policy == AckPolicy::FlowControl {
            return false;
        }
        // The answer says that the message does not come again, also if it is behind the position only since it left the stream.
        self.is_dirty |= self.has_skipped;
        self.last_acked = now.wall;
        match verb {
            AckVerb::Ack => {
                self.sample(now.mono, at.stream);
                return self.settle(at, done);
            }
            AckVerb::Term => {
                if let Some(entry) = self.entry(at.stream) {
                    self.note(Event::Terminated(entry, String::new()));
                }
                return self.settle(at, done);
            }
            AckVerb::Nak { delay_ns } => {
                if let Some(entry) = self.entry(at.stream) {
                    self.note(Event::Nak(entry));
                }
                self.nak(now.mono, at.stream, delay_ns);
            }
            AckVerb::Progress => self.progress(now.mono, at.stream),
        }
        true
    }

    /// An answer to flow control says what the receiver has got: with the policy for it, that is the acknowledgement.
    /// Source: nats-server, `processFlowControl`.
    pub(crate) fn ack_by_flow_control(&mut self, now: Now, stream_seq: u64, done: &mut Vec<u64>) {
        if self.config.ack_policy == AckPolicy::FlowControl && (1..self.next_stream_seq).contains(&stream_seq)
        {
            self.last_used = now.mono;
            self.last_acked = now.wall;
            let at = SeqPair {
                consumer: 0,
                stream: stream_seq,
            };
            self.settle(at, done);
        }
    }

    fn entry(&self, stream_seq: u64) -> Option<PendingState> {
        let entry = self.pending.get(stream_seq)?;
        Some(PendingState {
            stream_seq: entry.stream_seq,
            consumer_seq: entry.consumer_seq,
            deliveries: entry.deliveries,
        })
    }

    /// Sampling: of every hundred acknowledgements, as many are told as the configuration says.
    fn sample(&mut self, now: Mono, stream_seq: u64) {
        let percent = self.config.sample_percent();
        if percent == 0 {
            return;
        }
        self.sampled += percent.min(100);
        if self.sampled < 100 {
            return;
        }
        self.sampled -= 100;
        let (Some(state), Some(entry)) = (self.entry(stream_seq), self.pending.get(stream_seq)) else {
            return;
        };
        let wait = u64::try_from(self.config.ack_wait_ns(entry.deliveries)).unwrap_or(0);
        let sent = Mono(entry.deadline.0.saturating_sub(wait));
        self.note(Event::Acked(state, now.since(sent)));
    }

    pub(super) fn settle(&mut self, at: SeqPair, done: &mut Vec<u64>) -> bool {
        match self.config.ack_policy {
            AckPolicy::Explicit => {
                if self.pending.remove(at.stream).is_some() {
                    done.push(at.stream);
                    self.is_dirty = true;
                }
            }
            AckPolicy::All | AckPolicy::FlowControl => {
                if self.pending.remove_through(at.stream, done) > 0 {
                    self.is_dirty = true;
                }
            }
            AckPolicy::None => return false,
        }
        true
    }

    pub(super) fn nak(&mut self, now: Mono, stream_seq: u64, delay_ns: i64) {
        let Some(entry) = self.pending.get_mut(stream_seq) else {
            return;
        };
        if delay_ns > 0 {
            entry.deadline = now.after(delay_ns);
            entry.queued = false;
            let deadline = entry.deadline;
            self.check_pending_at(deadline);
        } else if !entry.queued {
            entry.deadline = now;
            self.queue_redelivery(now, stream_seq);
        }
    }

    pub(super) fn progress(&mut self, now: Mono, stream_seq: u64) {
        let Some(entry) = self.pending.get_mut(stream_seq) else {
            return;
        };
        entry.deadline = now.after(self.config.ack_wait_ns(entry.deliveries));
        let deadline = entry.deadline;
        self.check_pending_at(deadline);
    }

    /// Puts a pending message on the redelivery queue, or gives it up after its last delivery.
    pub(super) fn queue_redelivery(&mut self, now: Mono, stream_seq: u64) {
        let Some(entry) = self.pending.get_mut(stream_seq) else {
            return;
        };
        let max = u64::try_from(self.config.max_deliver).unwrap_or(u64::MAX);
        if entry.deliveries >= max {
            let deliveries = entry.deliveries;
            self.note(Event::MaxDeliver {
                stream_seq,
                deliveries,
            });
            self.pending.remove(stream_seq);
            self.is_dirty = true;
            return;
        }
        entry.queued = true;
        entry.deadline = now.after(self.config.ack_wait_ns(entry.deliveries));
        self.redeliver.push_back(stream_seq);
        // A delayed NAK leaves its old place behind.
        if self.redeliver.len() > 2 * self.pending.len() + REDELIVER_SLACK {
            let mut seen = BTreeSet::new();
            let pending = &self.pending;
            self.redeliver
                .retain(|seq| pending.get(*seq).is_some_and(|entry| entry.queued) && seen.insert(*seq));
        }
    }

    /// Gives up what is queued for redelivery and was delivered as often as it may be by now: an update may have lowered that.
    pub(super) fn give_up_queued(&mut self) {
        let max = u64::try_from(self.config.max_deliver).unwrap_or(u64::MAX);
        let is_over = |entry: &&Pending| entry.queued && entry.deliveries >= max;
        let over: Vec<(u64, u64)> = self
            .pending
            .iter()
            .filter(is_over)
            .map(|entry| (entry.stream_seq, entry.deliveries))
            .collect();
        for (stream_seq, deliveries) in over {
            self.note(Event::MaxDeliver {
                stream_seq,
                deliveries,
            });
            self.pending.remove(stream_seq);
            self.is_dirty = true;
        }
    }

    pub(super) fn check_pending_at(&mut self, deadline: Mono) {
        self.pending_check = earliest(self.pending_check, Some(deadline));
    }

    /// Queues what was not acknowledged in time for redelivery, oldest first.
    /// Source: JetStream consumer `ack_wait`, `max_deliver`, `backoff`.
    pub(crate) fn expire_pending(&mut self, now: Mono) {
        if self.pending_check.is_none_or(|check| check > now) {
            return;
        }
        if self.config.ack_policy == AckPolicy::FlowControl {
            self.pending_check = None;
            return;
        }
        let mut due = Vec::new();
        let mut next = None;
        for entry in self.pending.iter().filter(|entry| !entry.queued) {
            if entry.deadline <= now {
                due.push(entry.stream_seq);
            } else {
                next = earliest(next, Some(entry.deadline));
            }
        }
        for seq in due {
            self.queue_redelivery(now, seq);
        }
        // Looking at all pending messages costs time in proportion to them: the more, the rarer.
        let pause = PENDING_CHECK_NS_MIN + 100 * self.pending.len() as i64;
        self.pending_check = next.map(|next| next.max(now.after(pause)));
    }
}
