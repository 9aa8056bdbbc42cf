//! Who waits for a consumer's messages, and handing them over.

use bytes::Bytes;

use super::config::AckPolicy;
use super::pending::Pending;
use super::priority::{Policy, Turn, check_request};
use super::pull::{Notice, PullLimits, PullRequest, Status};
use super::push::PushState;
use super::{Consumer, Delivery, Picked, Receiver};
use crate::engine::time::{Mono, Now, earliest};

/// Pull requests that wait at the same time, whatever the configuration says.
const WAITING_MAX: usize = 64 << 10;

impl Consumer {
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
        if let Err(status) = check_request(&request.priority, &self.config)
            .and_then(|()| self.check_pin(now, &request.priority))
        {
            return notices.push(Notice { reply, status });
        }
        if self.is_full() {
            self.expire_requests(now, notices);
        }
        if !self.is_full() {
            self.enqueue(request);
        } else if request.no_wait && request.expires.is_none() {
            // Others wait: there is nothing.
            notices.push(Notice {
                reply,
                status: Status::NoMessages,
            });
        } else if request.heartbeat_ns == 0 {
            notices.push(Notice {
                reply,
                status: Status::MaxWaiting,
            });
        }
    }

    fn is_full(&self) -> bool {
        let max = usize::try_from(self.config.max_waiting).unwrap_or(0);
        self.waiting.len() >= max.min(WAITING_MAX)
    }

    /// Whether somebody waits for messages.
    pub(crate) fn is_wanted(&self) -> bool {
        if self.config.is_push() {
            self.push.is_bound()
        } else {
            !self.waiting.is_empty()
        }
    }

    /// Looks for a receiver of a message of `size` bytes (subject, reply, headers and payload).
    /// Requests that cannot take it for good are ended. `receiver` tells how a subject's listener
    /// stands. `new_pin` is the name of a pin if one is due.
    pub(crate) fn pick(
        &mut self,
        now: Now,
        size: usize,
        pending: u64,
        new_pin: u128,
        mut receiver: impl FnMut(&Bytes) -> Receiver,
        notices: &mut Vec<Notice>,
    ) -> Picked {
        if self.config.is_push() {
            return self.push.pick(receiver);
        }
        let (mut busy_count, mut index) = (0, 0);
        while let Some(request) = self.waiting.get(index) {
            let is_over = request.expires.is_some_and(|expires| expires <= now.mono);
            let turn = self.turn(request, pending);
            let status = match turn {
                _ if is_over => Some(Status::RequestTimeout(request.unfilled())),
                Turn::Waits => {
                    index += 1;
                    continue;
                }
                Turn::Ends(status) => Some(status),
                Turn::Takes | Turn::TakesPin
                    if request.remaining_bytes.is_some_and(|bytes| bytes < size as u64) =>
                {
                    Some(Status::MaxBytesExceeded(request.unfilled()))
                }
                Turn::Takes | Turn::TakesPin => match receiver(&request.reply) {
                    Receiver::Ready => {
                        if turn == Turn::TakesPin {
                            self.pin_to(now, index, new_pin);
                        }
                        self.bring_forward(index);
                        return Picked::Ready;
                    }
                    Receiver::Busy => {
                        busy_count += 1;
                        index += 1;
                        continue;
                    }
                    Receiver::Gone => None,
                },
            };
            let request = self.waiting.remove(index).expect("a request was seen");
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

    /// Puts the request at `index` in front, and those before it behind the others where each has its turn.
    fn bring_forward(&mut self, index: usize) {
        if index == 0 {
            return;
        }
        if self.config.policy() == Policy::Prioritized {
            if let Some(request) = self.waiting.remove(index) {
                self.waiting.push_front(request);
            }
        } else {
            self.waiting.rotate_left(index);
        }
    }

    /// Delivers `stream_seq`, a message of `size` bytes, to the receiver that [`Self::pick`] found. The bytes are those of
    /// the headers, the payload, the reply subject, and the message's own subject in a pull consumer, where it is delivered
    /// to in a push consumer: so nats-server counts, and clients with it.
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
            let is_stalled = self.is_stalled();
            let notice = self
                .push
                .delivered(now.mono, size, &self.config, is_stalled, prefix);
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
            self.enqueue(request);
        }
        Delivery { reply, notice }
    }

    /// Ends pull requests that are over and sends the heartbeats that are due.
    pub(crate) fn expire_requests(&mut self, now: Mono, notices: &mut Vec<Notice>) {
        let (at, waiting_before) = (self.delivered(), self.waiting.len());
        self.expire_pin(now);
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
                // Who does not wait and has got something is not kept for more, also while acknowledgements are awaited.
                if request.no_wait && request.delivered > 0 {
                    notices.push(Notice {
                        reply: request.reply.clone(),
                        status: Status::NoMessages,
                    });
                    return false;
                }
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
        if self.waiting.len() < waiting_before {
            // Whoever waited has used the consumer until now.
            self.last_used = now;
        }
        if self.config.is_push() {
            let prefix = || format!("$JS.FC.{}.{}", self.stream, self.name);
            let awaits_ack = self.config.ack_policy == AckPolicy::FlowControl && self.pending.len() > 0;
            self.push
                .heartbeat(now, &self.config, at, awaits_ack.then_some(prefix), notices);
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

    /// Drops the requests nobody listens for any more, if they are what keeps the consumer.
    pub(crate) fn drop_gone(&mut self, mut receiver: impl FnMut(&Bytes) -> Receiver) {
        if self.inactive_ns().is_some() {
            self.waiting
                .retain(|request| receiver(&request.reply) != Receiver::Gone);
        }
    }

    /// How long the consumer may be unused, in nanoseconds; `None`: for ever.
    fn inactive_ns(&self) -> Option<i64> {
        Some(self.config.inactive_threshold).filter(|nanos| *nanos > 0)
    }

    /// Whether nobody has used the consumer for longer than it may be unused.
    pub(crate) fn is_abandoned(&self, now: Mono) -> bool {
        self.inactive_ns()
            .is_some_and(|nanos| self.last_used.after(nanos) <= now)
            && !self.is_wanted()
    }

    /// How long nobody has used the consumer, in nanoseconds.
    pub(crate) fn unused_ns(&self, now: Mono) -> u64 {
        now.since(self.last_used)
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
        let pause = earliest(self.paused_until, self.pin().map(|pin| pin.expires));
        let due = earliest(earliest(self.pending_check, requests), earliest(inactive, push));
        earliest(due, pause)
    }
}
