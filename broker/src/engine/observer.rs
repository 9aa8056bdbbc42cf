//! A consumer together with what the engine keeps about it.

use crate::consumer::Consumer;
use crate::consumer::config::DeliverPolicy;
use crate::consumer::pace::Pace;
use crate::engine::recover::start_after_loss;
use crate::engine::time::{Mono, earliest};
use crate::env::Fs;
use crate::store::{Store, SubjectFilter};
use crate::types::{AccountId, StreamId, StreamSeq};

/// How often a push consumer without a listener looks for one: the longer it has had none, the rarer.
const BIND_POLL_NS_MIN: i64 = 20_000_000;
const BIND_POLL_NS_MAX: i64 = 500_000_000;

/// A consumer in the engine.
#[derive(Debug)]
pub(crate) struct Observer {
    pub(crate) consumer: Consumer,
    pub(crate) stream: StreamId,
    /// The stream's account.
    pub(crate) account: AccountId,
    pub(crate) filter: SubjectFilter,
    /// Whether the store knows it.
    pub(crate) is_stored: bool,
    /// Whether it stands in the queue of those that may deliver.
    pub(crate) is_ready: bool,
    /// When its timer fires.
    pub(crate) armed: Option<Mono>,
    /// Matching messages at or above the consumer's position, as far as counted.
    pending_count: u64,
    counted_through: u64,
    is_counted: bool,
    /// How fast messages may follow each other.
    pub(crate) pace: Pace,
    /// A message that could not be read, and how often.
    unreadable: (u64, u32),
}

impl Observer {
    /// A consumer of `stream`, which is one of `account`.
    pub(crate) fn new(consumer: Consumer, stream: StreamId, account: AccountId, is_stored: bool) -> Self {
        let filter = SubjectFilter::new(&consumer.config.filters());
        Self {
            pace: Pace::new(&consumer.config),
            consumer,
            stream,
            account,
            filter,
            is_stored,
            is_ready: false,
            armed: None,
            pending_count: 0,
            counted_through: 0,
            is_counted: false,
            unreadable: (0, 0),
        }
    }

    /// Takes the filter anew from the configuration.
    pub(crate) fn refilter(&mut self) {
        self.filter = SubjectFilter::new(&self.consumer.config.filters());
        self.consumer.refiltered();
        self.is_counted = false;
    }

    /// Whether messages could go out if there are any: somebody waits, or may have come to listen.
    pub(crate) fn may_deliver(&self) -> bool {
        self.consumer.is_wanted() || self.consumer.config.is_push()
    }

    /// How many messages the consumer has still to deliver for the first time.
    pub(crate) fn num_pending<F: Fs>(&mut self, store: &Store<F>) -> u64 {
        let last_seq = store.state(self.stream).last_seq.0;
        let skip_list = self.consumer.skip_list();
        // Behind the one that `last` found, nothing matches: it counts like any other.
        let is_per_subject = self.consumer.config.deliver_policy == DeliverPolicy::LastPerSubject;
        if is_per_subject && !skip_list.is_empty() {
            self.is_counted = false;
            let later = StreamSeq(self.consumer.resume_seq());
            return skip_list.len() as u64 + store.count_matching(self.stream, &self.filter, later);
        }
        if !self.is_counted {
            let from = StreamSeq(self.consumer.next_stream_seq());
            self.pending_count = store.count_matching(self.stream, &self.filter, from);
            self.counted_through = last_seq;
            self.is_counted = true;
        } else if self.counted_through < last_seq {
            let from = self.counted_through.max(self.consumer.next_stream_seq() - 1);
            self.pending_count += store.count_matching(self.stream, &self.filter, StreamSeq(from + 1));
            self.counted_through = last_seq;
        }
        self.pending_count
    }

    /// A message was delivered for the first time.
    pub(crate) fn count_delivered(&mut self) {
        self.pending_count = self.pending_count.saturating_sub(1);
    }

    /// A single message was removed from the stream.
    pub(crate) fn removed(&mut self, seq: u64) {
        self.consumer.forget(seq);
        if seq >= self.consumer.next_stream_seq() {
            self.is_counted = false;
        }
    }

    /// What is below `first_seq` has left the stream for good.
    pub(crate) fn sync(&mut self, StreamSeq(first_seq): StreamSeq) {
        if self.consumer.next_stream_seq() < first_seq {
            self.is_counted = false;
        }
        self.consumer.forget_below(first_seq);
    }

    /// What was counted no longer holds.
    pub(crate) fn uncount(&mut self) {
        self.is_counted = false;
    }

    /// Records above `last_seq` were not stored after all.
    pub(crate) fn rolled_back<F: Fs>(&mut self, last_seq: u64, store: &Store<F>) {
        self.is_counted = false;
        let config = &self.consumer.config;
        if let Some(state) = start_after_loss(config, &self.consumer.start(), self.stream, store) {
            self.consumer.start_anew(state);
        } else if config.deliver_policy != DeliverPolicy::ByStartSequence {
            self.consumer.rewind(last_seq + 1);
        }
    }

    /// Counts how often in a row a message could not be read.
    pub(crate) fn count_unreadable(&mut self, seq: u64) -> u32 {
        let before = if self.unreadable.0 == seq {
            self.unreadable.1
        } else {
            0
        };
        self.unreadable = (seq, before + 1);
        before + 1
    }

    /// Whether the consumer has still to deliver the message, or waits for its acknowledgement.
    pub(crate) fn needs(&self, seq: u64, subject: &str) -> bool {
        let consumer = &self.consumer;
        self.filter.matches(subject)
            && (seq >= consumer.next_stream_seq()
                || consumer.is_pending(seq)
                || consumer.skip_list().contains(&seq))
    }

    /// Whether the consumer was to deliver the message, and has nothing more to do with it.
    pub(crate) fn needs_no_more(&self, seq: u64, subject: &str) -> bool {
        self.filter.matches(subject) && !self.needs(seq, subject)
    }

    /// When the consumer wants to be looked at, if nothing else happens to it.
    pub(crate) fn next_deadline(&self, now: Mono) -> Option<Mono> {
        let unbound = self.consumer.config.is_push() && !self.consumer.is_push_bound();
        let unused_ns = i64::try_from(self.consumer.unused_ns(now)).unwrap_or(i64::MAX);
        let pause = (unused_ns / 8).clamp(BIND_POLL_NS_MIN, BIND_POLL_NS_MAX);
        let poll = unbound.then(|| now.after(pause));
        earliest(self.consumer.next_deadline(now), poll)
    }
}
