//! One consumer: what it delivers next, to whom, and what still has to be acknowledged.
//!
//! A state machine without input or output: the engine looks messages up and sends them. The
//! acknowledgement floor is not stored: it stands right before the first pending message, or
//! before the next delivery if nothing is pending.

pub(crate) mod config;
pub(crate) mod pending;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod state;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::engine::time::{Mono, Now, earliest};
use crate::types::UnixNanos;
use config::{AckPolicy, ConsumerConfig};
use pending::{Pending, PendingWindow};
use pull::{Notice, PullLimits, PullRequest, Status};
use push::PushState;
use state::{ConsumerState, PendingState};

/// An ephemeral consumer that nobody has used for so long is deleted.
const INACTIVE_DEFAULT_NS: i64 = 5_000_000_000;
/// Shortest time between two looks at all pending messages; the engine's timers are this coarse.
const PENDING_CHECK_NS_MIN: i64 = 1_000_000;

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
    pending_check: Option<Mono>,
    last_used: Mono,
    /// Wall time of the last delivery, 0 if there was none.
    pub(crate) last_delivered: UnixNanos,
    /// Wall time of the last acknowledgement, 0 if there was none.
    pub(crate) last_acked: UnixNanos,
    is_dirty: bool,
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
            pending_check: None,
            last_used: now,
            last_delivered: UnixNanos(0),
            last_acked: UnixNanos(0),
            is_dirty: true,
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

    /// Deliver policy `last_per_subject`: what is left of the messages found at the start.
    pub(crate) fn skip_list(&self) -> &VecDeque<u64> {
        &self.skip_list
    }

    /// Deliver policy `last_per_subject`: where to go on behind the skip list.
    pub(crate) fn resume_seq(&self) -> u64 {
        self.resume_seq
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

    /// How many pull requests wait.
    pub(crate) fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    /// The push side; unused in a pull consumer.
    pub(crate) fn push_state(&mut self) -> &mut PushState {
        &mut self.push
    }

    /// Whether somebody may listen to the push consumer.
    pub(crate) fn is_push_bound(&self) -> bool {
        self.push.is_bound()
    }

    /// Replaces the configuration by an update that was checked.
    pub(crate) fn set_config(&mut self, config: Arc<ConsumerConfig>) {
        if config.deliver_subject != self.config.deliver_subject {
            self.push = PushState::new(&config.deliver_subject);
        }
        self.config = config;
    }

    /// Takes a pull request, or refuses it with a status.
    pub(crate) fn pull(&mut self, now: Mono, reply: Bytes, payload: &[u8], notices: &mut Vec<Notice>) {
        self.last_used = now;
        if self.config.is_push() {
            notices.push(Notice {
                reply,
                status: Status::PushBased,
            });
            return;
        }
        let limits = PullLimits {
            max_batch: self.config.max_batch,
            max_expires: self.config.max_expires,
            max_bytes: self.config.max_bytes,
        };
        let request = match PullRequest::parse(reply.clone(), payload, limits, now) {
            Ok(request) => request,
            Err(status) => return notices.push(Notice { reply, status }),
        };
        if self.is_full() {
            self.expire_requests(now, notices);
        }
        if !self.is_full() {
            self.waiting.push_back(request);
        } else if request.heartbeat_ns == 0 {
            notices.push(Notice {
                reply,
                status: Status::MaxWaiting,
            });
        }
    }

    fn is_full(&self) -> bool {
        self.waiting.len() >= usize::try_from(self.config.max_waiting).unwrap_or(0)
    }

    /// What would be delivered next. Says nothing about whether somebody waits for it.
    pub(crate) fn next(&mut self) -> Next {
        while let Some(&seq) = self.redeliver.front() {
            if self.pending.get(seq).is_some_and(|entry| entry.queued) {
                return Next::Redeliver(seq);
            }
            self.redeliver.pop_front();
        }
        let max = usize::try_from(self.config.max_ack_pending).unwrap_or(0);
        if self.config.ack_policy != AckPolicy::None && max > 0 && self.pending.len() >= max {
            return Next::Stalled;
        }
        match self.skip_list.front() {
            Some(&seq) => Next::Exactly(seq),
            None => Next::From(self.next_stream_seq),
        }
    }

    /// Whether somebody waits for messages.
    pub(crate) fn is_wanted(&self) -> bool {
        if self.config.is_push() {
            self.push.is_bound()
        } else {
            !self.waiting.is_empty()
        }
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

    /// Looks for a receiver of a message of `size` bytes (subject, reply, headers and payload).
    /// Requests that cannot take it for good are ended. `receiver` tells how a subject's listener
    /// stands.
    pub(crate) fn pick(
        &mut self,
        now: Mono,
        size: usize,
        mut receiver: impl FnMut(&Bytes) -> Receiver,
        notices: &mut Vec<Notice>,
    ) -> Picked {
        if self.config.is_push() {
            return self.push.pick(receiver);
        }
        let mut busy_count = 0;
        while busy_count < self.waiting.len() {
            let Some(request) = self.waiting.front() else {
                break;
            };
            let status = if request.expires.is_some_and(|expires| expires <= now) {
                Some(Status::RequestTimeout(request.unfilled()))
            } else if request.remaining_bytes.is_some_and(|bytes| bytes < size as u64) {
                Some(Status::MaxBytesExceeded(request.unfilled()))
            } else {
                match receiver(&request.reply) {
                    Receiver::Ready => return Picked::Ready,
                    Receiver::Busy => {
                        busy_count += 1;
                        self.waiting.rotate_left(1);
                        continue;
                    }
                    Receiver::Gone => None,
                }
            };
            let request = self.waiting.pop_front().expect("a front request was seen");
            notices.extend(status.map(|status| Notice {
                reply: request.reply,
                status,
            }));
        }
        if busy_count > 0 {
            Picked::Busy
        } else {
            Picked::Nobody
        }
    }

    /// Delivers `stream_seq`, a message of `size` bytes, to the receiver that [`Self::pick`] found.
    ///
    /// # Panics
    /// If nobody waits, or if a message below the consumer's position is neither pending nor next
    /// on the skip list.
    pub(crate) fn deliver(&mut self, now: Now, stream_seq: u64, size: usize) -> Delivery {
        let consumer_seq = self.next_consumer_seq;
        self.next_consumer_seq += 1;
        self.last_used = now.mono;
        self.last_delivered = now.wall;
        self.is_dirty = true;
        if let Some(entry) = self.pending.get_mut(stream_seq) {
            entry.deliveries += 1;
            entry.queued = false;
            entry.deadline = now.mono.after(self.config.ack_wait_ns(entry.deliveries));
            let deadline = entry.deadline;
            self.check_pending_at(deadline);
        } else {
            self.advance_past(stream_seq);
            if self.config.ack_policy != AckPolicy::None {
                let deadline = now.mono.after(self.config.ack_wait_ns(1));
                self.pending.push(Pending {
                    stream_seq,
                    consumer_seq,
                    deliveries: 1,
                    deadline,
                    queued: false,
                });
                self.check_pending_at(deadline);
            }
        }
        if self.config.is_push() {
            let prefix = || format!("$JS.FC.{}.{}", self.stream, self.name);
            let notice = self.push.delivered(now.mono, size, &self.config, prefix);
            return Delivery {
                reply: self.push.deliver_subject().clone(),
                notice,
            };
        }
        self.fill_request(now.mono, size as u64)
    }

    fn fill_request(&mut self, now: Mono, size: u64) -> Delivery {
        let mut request = self
            .waiting
            .pop_front()
            .expect("a receiver was picked before delivering");
        request.remaining -= 1;
        request.delivered += 1;
        if let Some(bytes) = &mut request.remaining_bytes {
            *bytes -= size;
        }
        if request.heartbeat_ns > 0 {
            request.next_heartbeat = Some(now.after(request.heartbeat_ns));
        }
        let reply = request.reply.clone();
        let is_full = request.remaining == 0 || request.remaining_bytes == Some(0);
        let notice = (is_full && request.remaining_bytes.is_some_and(|bytes| bytes > 0)).then(|| Notice {
            reply: reply.clone(),
            status: Status::BatchCompleted(request.unfilled()),
        });
        if !is_full {
            self.waiting.push_back(request);
        }
        Delivery { reply, notice }
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
        }
    }

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
    /// whether it was about something that was pending (or, with policy `all`, already covered):
    /// then a reply is due.
    pub(crate) fn ack(&mut self, now: Now, verb: AckVerb, at: SeqPair, done: &mut Vec<u64>) -> bool {
        self.last_used = now.mono;
        if at.stream == 0 || at.stream >= self.next_stream_seq {
            return false;
        }
        self.last_acked = now.wall;
        match verb {
            AckVerb::Ack | AckVerb::Term => self.settle(at, done),
            AckVerb::Nak { delay_ns } => self.nak(now.mono, at.stream, delay_ns),
            AckVerb::Progress => self.progress(now.mono, at.stream),
        }
    }

    fn settle(&mut self, at: SeqPair, done: &mut Vec<u64>) -> bool {
        match self.config.ack_policy {
            AckPolicy::Explicit => {
                if self.pending.remove(at.stream).is_some() {
                    done.push(at.stream);
                    self.is_dirty = true;
                }
            }
            AckPolicy::All => {
                if self.pending.remove_through(at.stream, done) > 0 {
                    self.is_dirty = true;
                }
            }
            AckPolicy::None | AckPolicy::FlowControl => return false,
        }
        true
    }

    fn nak(&mut self, now: Mono, stream_seq: u64, delay_ns: i64) -> bool {
        let Some(entry) = self.pending.get_mut(stream_seq) else {
            return false;
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
        true
    }

    fn progress(&mut self, now: Mono, stream_seq: u64) -> bool {
        let Some(entry) = self.pending.get_mut(stream_seq) else {
            return false;
        };
        entry.deadline = now.after(self.config.ack_wait_ns(entry.deliveries));
        let deadline = entry.deadline;
        self.check_pending_at(deadline);
        true
    }

    /// Puts a pending message on the redelivery queue, or gives it up after its last delivery.
    fn queue_redelivery(&mut self, now: Mono, stream_seq: u64) {
        let Some(entry) = self.pending.get_mut(stream_seq) else {
            return;
        };
        let max = u64::try_from(self.config.max_deliver).unwrap_or(u64::MAX);
        if entry.deliveries >= max {
            self.pending.remove(stream_seq);
            self.is_dirty = true;
            return;
        }
        entry.queued = true;
        entry.deadline = now.after(self.config.ack_wait_ns(entry.deliveries));
        self.redeliver.push_back(stream_seq);
    }

    fn check_pending_at(&mut self, deadline: Mono) {
        self.pending_check = earliest(self.pending_check, Some(deadline));
    }

    /// Queues what was not acknowledged in time for redelivery, oldest first.
    /// Source: JetStream consumer `ack_wait`, `max_deliver`, `backoff`.
    pub(crate) fn expire_pending(&mut self, now: Mono) {
        if self.pending_check.is_none_or(|check| check > now) {
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

    /// Ends pull requests that are over and sends the heartbeats that are due.
    pub(crate) fn expire_requests(&mut self, now: Mono, notices: &mut Vec<Notice>) {
        let at = self.delivered();
        self.waiting.retain_mut(|request| {
            if request.expires.is_some_and(|expires| expires <= now) {
                let status = Status::RequestTimeout(request.unfilled());
                notices.push(Notice {
                    reply: request.reply.clone(),
                    status,
                });
                return false;
            }
            if request.next_heartbeat.is_some_and(|due| due <= now) {
                request.next_heartbeat = Some(now.after(request.heartbeat_ns));
                let status = Status::IdleHeartbeat {
                    consumer_seq: at.consumer,
                    stream_seq: at.stream,
                    stalled_on: None,
                };
                notices.push(Notice {
                    reply: request.reply.clone(),
                    status,
                });
            }
            true
        });
        if self.config.is_push() {
            self.push.heartbeat(now, &self.config, at, notices);
        }
    }

    /// Everything there is has been delivered: requests that do not wait are over.
    pub(crate) fn end_no_wait(&mut self, notices: &mut Vec<Notice>) {
        self.waiting.retain(|request| {
            let is_over = request.no_wait && (request.expires.is_none() || request.delivered > 0);
            if is_over {
                notices.push(Notice {
                    reply: request.reply.clone(),
                    status: Status::NoMessages,
                });
            }
            !is_over
        });
    }

    /// Ends all pull requests, for instance because the consumer is deleted.
    pub(crate) fn end_all(&mut self, status: &Status, notices: &mut Vec<Notice>) {
        for request in self.waiting.drain(..) {
            notices.push(Notice {
                reply: request.reply,
                status: status.clone(),
            });
        }
    }

    /// Drops the requests nobody listens for any more.
    pub(crate) fn drop_gone(&mut self, mut receiver: impl FnMut(&Bytes) -> Receiver) {
        self.waiting
            .retain(|request| receiver(&request.reply) != Receiver::Gone);
    }

    /// How long the consumer may be unused, in nanoseconds; `None`: for ever.
    fn inactive_ns(&self) -> Option<i64> {
        match self.config.inactive_threshold {
            0 if self.config.is_durable() => None,
            0 => Some(INACTIVE_DEFAULT_NS),
            threshold => Some(threshold),
        }
    }

    /// Whether nobody has used the consumer for longer than it may be unused.
    pub(crate) fn is_abandoned(&self, now: Mono) -> bool {
        self.inactive_ns()
            .is_some_and(|nanos| self.last_used.after(nanos) <= now)
            && !self.is_wanted()
    }

    /// Counts as use, for instance because a push consumer's subject has a listener.
    pub(crate) fn touch(&mut self, now: Mono) {
        self.last_used = now;
    }

    /// When the consumer wants to be looked at, if nothing else happens to it.
    pub(crate) fn next_deadline(&self, now: Mono) -> Option<Mono> {
        let requests = self.waiting.iter().filter_map(PullRequest::deadline).min();
        let inactive = self.inactive_ns().map(|nanos| {
            let due = self.last_used.after(nanos);
            if due > now { due } else { now.after(nanos) }
        });
        let push = if self.config.is_push() {
            self.push.next_deadline()
        } else {
            None
        };
        earliest(earliest(self.pending_check, requests), earliest(inactive, push))
    }
}
