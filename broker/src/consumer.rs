//! One consumer: what it delivers next, to whom, and what still has to be acknowledged.
//!
//! A state machine without input or output: the engine looks messages up and sends them. The
//! acknowledgement floor is not stored: it stands right before the first pending message, or
//! before the next delivery if nothing is pending.

mod acks;
pub(crate) mod config;
pub(crate) mod pace;
pub(crate) mod pending;
pub(crate) mod priority;
pub(crate) mod pull;
pub(crate) mod push;
mod receivers;
pub(crate) mod state;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::engine::time::{Mono, Now};
use crate::types::UnixNanos;
use config::{AckPolicy, ConsumerConfig, DeliverPolicy};
use pending::{Pending, PendingWindow};
use priority::Pin;
use pull::{Notice, PullRequest};
use push::PushState;
use state::{ConsumerState, PendingState};

/// Messages that wait for their acknowledgement at the same time, whatever the configuration says.
const PENDING_MAX: usize = 4 << 20;

/// What a consumer would deliver next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// This message, once more.
    Redeliver(u64),
    /// This message, if it still exists.
    Exactly(u64),
    /// The first match at or after this position.
    From(u64),
    /// Nothing until something is acknowledged.
    Stalled,
}

/// Whether a receiver takes a message now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Receiver {
    /// Yes.
    Ready,
    /// Not before its backlog has gone down.
    Busy,
    /// Nobody listens.
    Gone,
}

/// The outcome of looking for a receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Picked {
    /// There is one: [`Consumer::deliver`] goes there.
    Ready,
    /// All have too big a backlog.
    Busy,
    /// Nobody waits.
    Nobody,
}

/// A message that was handed to a receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    /// Where it goes.
    pub(crate) reply: Bytes,
    /// Follows the message.
    pub(crate) notice: Option<Notice>,
}

/// Positions in the consumer's deliveries and in the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SeqPair {
    pub(crate) consumer: u64,
    pub(crate) stream: u64,
}

/// What an acknowledgement says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AckVerb {
    /// Done.
    Ack,
    /// Deliver it again, after so many nanoseconds.
    Nak { delay_ns: i64 },
    /// Still working on it.
    Progress,
    /// Never deliver it again.
    Term,
}

/// Something that happened to a consumer and that listeners may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A message was delivered as often as it may be.
    MaxDeliver { stream_seq: u64, deliveries: u64 },
    /// A message was refused for now.
    Nak(PendingState),
    /// A message was refused for good.
    Terminated(PendingState, String),
    /// A message was acknowledged so many nanoseconds after it was delivered.
    Acked(PendingState, u64),
    /// A client gets everything from now on.
    Pinned(Pin),
    /// It does no more.
    Unpinned { group: String, reason: &'static str },
}

/// Letters of a reason for refusing a message that are told.
const REASON_CHARS_MAX: usize = 1024;
/// Events that wait to be told, at most.
const EVENTS_MAX: usize = 4096;

/// A consumer of a stream.
#[derive(Debug)]
pub(crate) struct Consumer {
    pub(crate) stream: Arc<str>,
    pub(crate) name: Arc<str>,
    pub(crate) config: Arc<ConsumerConfig>,
    pub(crate) created: UnixNanos,
    next_stream_seq: u64,
    next_consumer_seq: u64,
    skip_list: VecDeque<u64>,
    resume_seq: u64,
    pending: PendingWindow,
    redeliver: VecDeque<u64>,
    waiting: VecDeque<PullRequest>,
    push: PushState,
    pin: Option<Pin>,
    paused_until: Option<Mono>,
    sampled: u32,
    pub(super) events: Vec<Event>,
    pending_check: Option<Mono>,
    last_used: Mono,
    /// Wall time of the last delivery, 0 if there was none.
    pub(crate) last_delivered: UnixNanos,
    /// Wall time of the last acknowledgement, 0 if there was none.
    pub(crate) last_acked: UnixNanos,
    is_dirty: bool,
    /// The position has moved past what is no longer there since the durable part was last taken. That alone is written with
    /// the next change.
    has_skipped: bool,
}

impl Consumer {
    /// A consumer in `state`, with nothing but the durable part known. Pending messages wait for
    /// their acknowledgement anew.
    pub(crate) fn new(
        stream: Arc<str>,
        name: Arc<str>,
        config: Arc<ConsumerConfig>,
        created: UnixNanos,
        state: ConsumerState,
        now: Mono,
    ) -> Self {
        let mut consumer = Self {
            stream,
            name,
            created,
            next_stream_seq: state.next_stream_seq.max(1),
            next_consumer_seq: state.next_consumer_seq.max(1),
            skip_list: state.skip_list.into(),
            resume_seq: state.resume_seq,
            pending: PendingWindow::default(),
            redeliver: VecDeque::new(),
            waiting: VecDeque::new(),
            push: PushState::new(&config.deliver_subject),
            pin: None,
            paused_until: None,
            sampled: 0,
            events: Vec::new(),
            pending_check: None,
            last_used: now,
            last_delivered: UnixNanos(0),
            last_acked: UnixNanos(0),
            is_dirty: true,
            has_skipped: false,
            config,
        };
        for PendingState {
            stream_seq,
            consumer_seq,
            deliveries,
        } in state.pending
        {
            let deadline = now.after(consumer.config.ack_wait_ns(deliveries));
            consumer.pending.push(Pending {
                stream_seq,
                consumer_seq,
                deliveries,
                deadline,
                queued: false,
            });
            consumer.check_pending_at(deadline);
        }
        consumer
    }

    /// The durable part.
    pub(crate) fn state(&self) -> ConsumerState {
        let durable = |entry: &Pending| PendingState {
            stream_seq: entry.stream_seq,
            consumer_seq: entry.consumer_seq,
            deliveries: entry.deliveries,
        };
        ConsumerState {
            next_stream_seq: self.next_stream_seq,
            next_consumer_seq: self.next_consumer_seq,
            skip_list: self.skip_list.iter().copied().collect(),
            resume_seq: self.resume_seq,
            pending: self.pending.iter().map(durable).collect(),
        }
    }

    /// Whether the durable part has changed since this was last asked.
    pub(crate) fn take_dirty(&mut self) -> bool {
        self.has_skipped &= !self.is_dirty;
        std::mem::take(&mut self.is_dirty)
    }

    /// Whether the durable part has changed since [`Self::take_dirty`].
    pub(crate) fn is_dirty(&self) -> bool {
        self.is_dirty
    }

    /// The last delivery.
    pub(crate) fn delivered(&self) -> SeqPair {
        SeqPair {
            consumer: self.next_consumer_seq - 1,
            stream: self.next_stream_seq - 1,
        }
    }

    /// Everything up to here is acknowledged.
    pub(crate) fn ack_floor(&self) -> SeqPair {
        match self.pending.first() {
            Some(first) => SeqPair {
                consumer: first.consumer_seq - 1,
                stream: first.stream_seq - 1,
            },
            None => self.delivered(),
        }
    }

    /// The first position not looked at yet; below it, only pending messages and the skip list
    /// are delivered.
    pub(crate) fn next_stream_seq(&self) -> u64 {
        self.next_stream_seq
    }

    /// Deliver policies `last` and `last_per_subject`: what is left of the messages found at the start.
    pub(crate) fn skip_list(&self) -> &VecDeque<u64> {
        &self.skip_list
    }

    /// Deliver policies `last` and `last_per_subject`: where to go on behind the skip list.
    pub(crate) fn resume_seq(&self) -> u64 {
        self.resume_seq
    }

    /// The durable part without what is pending: all that there is before the first delivery.
    pub(crate) fn start(&self) -> ConsumerState {
        ConsumerState {
            next_stream_seq: self.next_stream_seq,
            next_consumer_seq: self.next_consumer_seq,
            skip_list: self.skip_list.iter().copied().collect(),
            resume_seq: self.resume_seq,
            pending: Vec::new(),
        }
    }

    /// Takes another start, as long as nothing was delivered.
    pub(crate) fn start_anew(&mut self, state: ConsumerState) {
        self.next_stream_seq = state.next_stream_seq.max(1);
        self.skip_list = state.skip_list.into();
        self.resume_seq = state.resume_seq;
        self.is_dirty = true;
    }

    /// Nothing at or above `stream_seq` was stored after all: what comes there is new.
    pub(crate) fn rewind(&mut self, stream_seq: u64) {
        if self.next_stream_seq > stream_seq && self.skip_list.is_empty() {
            assert!(
                self.pending.iter().all(|entry| entry.stream_seq < stream_seq),
                "nothing undurable is delivered"
            );
            self.next_stream_seq = stream_seq;
            self.is_dirty = true;
        }
        self.resume_seq = self.resume_seq.min(stream_seq);
    }

    /// Whether a message needs nothing more once it is delivered.
    pub(crate) fn is_done_when_delivered(&self) -> bool {
        self.config.ack_policy == AckPolicy::None
    }

    /// How many messages wait for their acknowledgement.
    pub(crate) fn pending_count(&self) -> usize {
        self.pending.len()
    }

    /// Whether the message waits for its acknowledgement.
    pub(crate) fn is_pending(&self, stream_seq: u64) -> bool {
        self.pending.get(stream_seq).is_some()
    }

    /// How many pending messages were delivered more than once.
    pub(crate) fn redelivered_count(&self) -> usize {
        self.pending.iter().filter(|entry| entry.deliveries > 1).count()
    }

    /// Replaces the configuration by an update that was checked.
    pub(crate) fn set_config(&mut self, config: Arc<ConsumerConfig>) {
        if config.deliver_subject != self.config.deliver_subject {
            self.push = PushState::new(&config.deliver_subject);
        }
        self.config = config;
        self.give_up_queued();
    }

    /// Another filter counts. Deliver policy `last` goes on from the message that it found: what follows may match now.
    pub(crate) fn refiltered(&mut self) {
        if self.config.deliver_policy == DeliverPolicy::Last
            && let Some(first) = self.skip_list.front()
        {
            self.next_stream_seq = *first;
            self.skip_list.clear();
            self.is_dirty = true;
        }
    }

    /// Sets when the consumer goes on, from its configuration.
    pub(crate) fn arm_pause(&mut self, now: Now) {
        let wait = self.config.pause_until.map_or(0, |until| until.0.since(now.wall));
        self.paused_until = (wait > 0).then(|| now.mono.after(wait));
    }

    /// Whether nothing is to be delivered for now.
    pub(crate) fn is_paused(&self, now: Mono) -> bool {
        self.paused_until.is_some_and(|until| until > now)
    }

    /// Whether the pause has just ended.
    pub(crate) fn take_resumed(&mut self, now: Mono) -> bool {
        self.paused_until.take_if(|until| *until <= now).is_some()
    }

    /// Begins anew at a position: nothing is pending, deliveries count from 1.
    pub(crate) fn reset(&mut self, stream_seq: u64) {
        self.next_stream_seq = stream_seq.max(1);
        self.next_consumer_seq = 1;
        self.skip_list.clear();
        self.resume_seq = self.next_stream_seq;
        self.pending = PendingWindow::default();
        self.redeliver.clear();
        self.pending_check = None;
        (self.last_delivered, self.last_acked) = (UnixNanos(0), UnixNanos(0));
        self.is_dirty = true;
    }

    /// A stream has copied `count` messages up to `stream_seq` as this consumer: they count as delivered and acknowledged.
    pub(crate) fn copied(&mut self, now: Now, stream_seq: u64, count: u64) {
        self.skip_list.clear();
        self.pending = PendingWindow::default();
        self.redeliver.clear();
        self.next_stream_seq = self.next_stream_seq.max(stream_seq + 1);
        self.next_consumer_seq += count;
        (self.last_delivered, self.last_acked) = (now.wall, now.wall);
        self.last_used = now.mono;
        self.is_dirty = true;
    }

    /// What happened since this was last asked.
    pub(crate) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Why the message was refused for good that was refused last.
    pub(crate) fn set_term_reason(&mut self, text: &str) {
        if let Some(Event::Terminated(_, reason)) = self.events.last_mut() {
            *reason = text.chars().take(REASON_CHARS_MAX).collect();
        }
    }

    fn note(&mut self, event: Event) {
        if self.events.len() < EVENTS_MAX {
            self.events.push(event);
        }
    }

    /// What would be delivered next. Says nothing about whether somebody waits for it.
    pub(crate) fn next(&mut self) -> Next {
        while let Some(&seq) = self.redeliver.front() {
            if self.pending.get(seq).is_some_and(|entry| entry.queued) {
                return Next::Redeliver(seq);
            }
            self.redeliver.pop_front();
        }
        if self.is_stalled() {
            return Next::Stalled;
        }
        match self.skip_list.front() {
            Some(&seq) => Next::Exactly(seq),
            None => Next::From(self.next_stream_seq),
        }
    }

    /// Whether as many messages wait for their acknowledgement as may.
    fn is_stalled(&self) -> bool {
        let configured = usize::try_from(self.config.max_ack_pending)
            .ok()
            .filter(|max| *max > 0);
        let max = configured.map_or(PENDING_MAX, |max| max.min(PENDING_MAX));
        self.config.ack_policy != AckPolicy::None && self.pending.len() >= max
    }

    /// The number that the delivery of `stream_seq` will have among the consumer's, and how often
    /// the message will have been delivered with it.
    pub(crate) fn prospect(&self, stream_seq: u64) -> (u64, u64) {
        let deliveries = self
            .pending
            .get(stream_seq)
            .map_or(1, |entry| entry.deliveries + 1);
        (self.next_consumer_seq, deliveries)
    }

    /// Moves the position past a message that is delivered for the first time or no longer there.
    fn advance_past(&mut self, stream_seq: u64) {
        if self.skip_list.front() == Some(&stream_seq) {
            self.skip_list.pop_front();
            self.next_stream_seq = stream_seq + 1;
            if self.skip_list.is_empty() {
                self.next_stream_seq = self.resume_seq.max(stream_seq + 1);
            }
        } else {
            assert!(self.skip_list.is_empty(), "the skip list is delivered first");
            assert!(stream_seq >= self.next_stream_seq, "consumers move forward");
            self.next_stream_seq = stream_seq + 1;
        }
    }

    /// The message that [`Self::next`] named does not exist (any more): go on behind it.
    pub(crate) fn skip(&mut self, stream_seq: u64) {
        self.is_dirty = true;
        if self.pending.remove(stream_seq).is_none() {
            self.advance_past(stream_seq);
        }
    }

    /// Nothing that matches is below `stream_seq`: go on there.
    pub(crate) fn skip_to(&mut self, stream_seq: u64) {
        if self.skip_list.is_empty() && stream_seq > self.next_stream_seq {
            self.next_stream_seq = stream_seq;
            self.has_skipped = true;
        }
    }
}
