//! Delivering messages to those who wait for them.

use bytes::Bytes;

use super::observer::Observer;
use super::time::{Mono, Now};
use super::{ConsumerId, Engine, arm};
use crate::consumer::pull::{Notice, Status};
use crate::consumer::{Next, Picked, Receiver};
use crate::env::Fs;
use crate::router::Message;
use crate::store::{Record, Store, StoreError};
use crate::stream::headers;
use crate::types::{AccountId, StreamId, StreamSeq};

/// Messages that one consumer delivers before it is another's turn.
const TURN_MESSAGES: usize = 64;
/// Bytes that it delivers before that, and before the backlog of its receivers is looked at again.
const TURN_BYTES: usize = 1 << 20;
/// When receivers with a big backlog are asked again.
const BUSY_RETRY_NS: i64 = 2_000_000;
/// When a message that the disk did not give is asked for again.
const UNREADABLE_RETRY_NS: i64 = 500_000_000;
/// How often it is asked for before it counts as lost.
const UNREADABLE_TRIES: u32 = 10;

/// Where deliveries go.
pub(crate) trait Outlet {
    /// Whether anybody listens to a message of the server's own, or a stream captures it.
    fn is_wanted(&self, subject: &str) -> bool;
    /// Sends a message of the server's own to all who want it.
    fn publish(&mut self, message: &Message<'_>);
    /// What follows is for the clients of this account.
    fn enter(&mut self, account: AccountId);
    /// How the listener of a subject stands.
    fn receiver(&self, subject: &str) -> Receiver;
    /// Whether anybody is subscribed to the very subject, not to a wildcard that covers it.
    fn is_awaited(&self, subject: &str) -> bool {
        self.receiver(subject) != Receiver::Gone
    }
    /// Sends `message` to the listeners of `to`, as what was published to its own subject.
    fn send(&mut self, to: &str, message: &Message<'_>);
    /// Publishes the answer to a request.
    fn answer(&mut self, message: &Message<'_>);
    /// Hands over what has gathered, if this outlet gathers.
    fn hand_over(&mut self) {}
    /// Publishes a message as a client would: it may ask JetStream's API, here or in another account.
    fn ask(&mut self, message: &Message<'_>);
    /// Listens to a subject; what comes is to be stepped with `hearing`.
    fn listen(&mut self, hearing: u64, subject: &str);
    /// Listens no longer.
    fn unlisten(&mut self, hearing: u64);
    /// Stream `stream` captures `subjects` from now on.
    fn capture(&mut self, stream: StreamId, subjects: &[String]);
}

/// How a consumer's turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// There is nothing to do until something happens.
    Done,
    /// There may be more.
    More,
    /// The receivers have to catch up first.
    Busy,
    /// The consumer is not to be that fast.
    NotBefore(Mono),
    /// The disk does not give the next message.
    Unreadable,
}

/// Memory that deliveries need again and again.
#[derive(Debug, Default)]
struct Scratch {
    ack_subject: String,
    notices: Vec<Notice>,
    last_receiver: Option<(Bytes, Receiver)>,
    /// Bytes delivered in this turn.
    bytes: usize,
    done: Vec<u64>,
    /// For the names of pins.
    seed: u64,
}

impl Engine {
    /// Delivers at most `budget` messages to waiting consumers, in turn, and one chunk of each snapshot that is under way.
    /// Returns how many, a chunk counted as a turn. Consumers that may have more stay ready.
    pub(crate) fn dispatch<F: Fs>(
        &mut self,
        now: Now,
        store: &mut Store<F>,
        outlet: &mut impl Outlet,
        budget: usize,
    ) -> usize {
        let mut delivered = 0;
        let mut scratch = Scratch {
            seed: self.next_random(),
            ..Scratch::default()
        };
        while delivered < budget {
            let Some(id) = self.ready.pop_front() else { break };
            let Some(observer) = self.consumers.get_mut(&id) else {
                continue;
            };
            observer.is_ready = false;
            scratch.last_receiver = None;
            scratch.bytes = 0;
            let limit = TURN_MESSAGES.min(budget - delivered);
            outlet.enter(observer.account);
            let (turn, count) = take_turn(observer, now, store, outlet, limit, &mut scratch);
            delivered += count;
            let events = observer.consumer.take_events();
            let account = observer.account;
            let names = (observer.consumer.stream.clone(), observer.consumer.name.clone());
            let stream = observer.stream;
            match turn {
                Turn::Done => {}
                Turn::More => self.mark_ready(id),
                Turn::Busy => self.retry(now, id, BUSY_RETRY_NS),
                Turn::NotBefore(due) => {
                    let wait_ns = i64::try_from(due.since(now.mono)).unwrap_or(i64::MAX);
                    self.retry(now, id, wait_ns);
                }
                Turn::Unreadable => self.retry(now, id, UNREADABLE_RETRY_NS),
            }
            for event in events {
                let event = self.consumer_event(now, account, &names, event);
                event.tell(outlet);
            }
            self.note_dirty(now.mono, id);
            self.rearm(now.mono, id);
            if !scratch.done.is_empty() {
                let done = std::mem::take(&mut scratch.done);
                self.retire(stream, &done, store);
            }
        }
        delivered + TURN_MESSAGES * self.send_snapshots(now, store, outlet)
    }

    fn retry(&mut self, now: Now, id: ConsumerId, after_ns: i64) {
        if let Some(observer) = self.consumers.get_mut(&id) {
            arm(&mut self.timers, observer, id, Some(now.mono.after(after_ns)));
        }
    }
}

fn take_turn<F: Fs>(
    observer: &mut Observer,
    now: Now,
    store: &Store<F>,
    outlet: &mut impl Outlet,
    limit: usize,
    scratch: &mut Scratch,
) -> (Turn, usize) {
    bind(observer, now, outlet);
    observer.sync(store.state(observer.stream).first_seq);
    let mut count = 0;
    let turn = loop {
        if count == limit || scratch.bytes >= TURN_BYTES {
            break Turn::More;
        }
        match deliver_next(observer, now, store, outlet, scratch) {
            Step::Delivered => count += 1,
            Step::Skipped => {}
            Step::End(turn) => break turn,
        }
    };
    send_notices(outlet, &mut scratch.notices);
    if count == 0 {
        let receiver = |reply: &Bytes| outlet.receiver(std::str::from_utf8(reply).unwrap_or_default());
        observer.consumer.drop_gone(receiver);
    }
    (turn, count)
}

/// Finds out whether a push consumer has a listener.
fn bind(observer: &mut Observer, now: Now, outlet: &impl Outlet) {
    let config = observer.consumer.config.clone();
    if !config.is_push() {
        return;
    }
    let is_bound = outlet.receiver(&config.deliver_subject) != Receiver::Gone;
    if is_bound {
        observer.consumer.touch(now.mono);
    }
    observer
        .consumer
        .push_state()
        .set_bound(is_bound, now.mono, &config);
}

enum Step {
    Delivered,
    Skipped,
    End(Turn),
}

fn deliver_next<F: Fs>(
    observer: &mut Observer,
    now: Now,
    store: &Store<F>,
    outlet: &mut impl Outlet,
    scratch: &mut Scratch,
) -> Step {
    if !observer.consumer.is_wanted() || observer.consumer.is_paused(now.mono) {
        return Step::End(Turn::Done);
    }
    let durable = store.durable_seq(observer.stream).0;
    let next = observer.consumer.next();
    let seq = match next {
        Next::Stalled => return Step::End(Turn::Done),
        Next::Redeliver(seq) => seq,
        Next::Exactly(seq) if seq <= durable => seq,
        Next::Exactly(_) => return Step::End(Turn::Done),
        Next::From(from) => match store.next_match(observer.stream, &observer.filter, StreamSeq(from)) {
            Some(seq) if seq.0 <= durable => seq.0,
            _ => {
                observer.consumer.skip_to(durable + 1);
                observer.pace.caught_up();
                observer.consumer.end_no_wait(&mut scratch.notices);
                return Step::End(Turn::Done);
            }
        },
    };
    let is_redelivery = matches!(next, Next::Redeliver(_));
    let record = match store.read(observer.stream, StreamSeq(seq)) {
        Ok(Some(record)) => record,
        Ok(None) => {
            observer.consumer.skip(seq);
            return Step::Skipped;
        }
        Err(err) => return undeliverable(observer, store, seq, &err),
    };
    if matches!(next, Next::Exactly(_)) && !observer.filter.matches(&record.subject) {
        // The filter was changed since the consumer was created.
        observer.consumer.skip(seq);
        return Step::Skipped;
    }
    if let Some(due) = observer.pace.due(now.mono, record.time, !is_redelivery) {
        return Step::End(Turn::NotBefore(due));
    }
    deliver(observer, now, store, outlet, &record, is_redelivery, scratch)
}

/// A message that the store has and does not give. What the disk refuses may be there a moment later, so that is tried
/// again for a while; what is damaged is not.
fn undeliverable<F: Fs>(observer: &mut Observer, store: &Store<F>, seq: u64, err: &StoreError) -> Step {
    if matches!(err, StoreError::Io { .. }) {
        let tries = observer.count_unreadable(seq);
        if tries < UNREADABLE_TRIES {
            tracing::warn!(consumer = %observer.consumer.name, seq, tries, error = %err, "message cannot be read yet");
            return Step::End(Turn::Unreadable);
        }
        store.give_up(observer.stream, StreamSeq(seq));
    }
    tracing::error!(consumer = %observer.consumer.name, seq, error = %err, "message cannot be delivered");
    observer.consumer.skip(seq);
    observer.uncount();
    Step::Skipped
}

fn deliver<F: Fs>(
    observer: &mut Observer,
    now: Now,
    store: &Store<F>,
    outlet: &mut impl Outlet,
    record: &Record,
    is_redelivery: bool,
    scratch: &mut Scratch,
) -> Step {
    let seq = record.seq.0;
    let pending = observer
        .num_pending(store)
        .saturating_sub(u64::from(!is_redelivery));
    let (consumer_seq, deliveries) = observer.consumer.prospect(seq);
    write_ack_subject(
        &mut scratch.ack_subject,
        observer,
        record,
        consumer_seq,
        deliveries,
        pending,
    );
    let sized;
    let (headers, payload): (&[u8], &[u8]) = if observer.consumer.config.headers_only {
        sized = headers::with_field(
            &record.headers,
            "Nats-Msg-Size",
            &record.payload.len().to_string(),
        );
        (&sized, &[])
    } else {
        (&record.headers, &record.payload)
    };
    let without_subject = scratch.ack_subject.len() + headers.len() + payload.len();
    let size = record.subject.len() + without_subject;
    let last_receiver = &mut scratch.last_receiver;
    let receiver = |subject: &Bytes| match last_receiver {
        Some((known, receiver)) if known == subject => *receiver,
        _ => {
            let receiver = outlet.receiver(std::str::from_utf8(subject).unwrap_or_default());
            *last_receiver = Some((subject.clone(), receiver));
            receiver
        }
    };
    let new_pin = pin_seed(scratch.seed, record.seq.0, consumer_seq);
    match observer
        .consumer
        .pick(now, size, pending + 1, new_pin, receiver, &mut scratch.notices)
    {
        Picked::Ready => {}
        Picked::Busy => return Step::End(Turn::Busy),
        Picked::Nobody => return Step::End(Turn::Done),
    }
    send_notices(outlet, &mut scratch.notices);
    scratch.bytes += size;
    let config = &observer.consumer.config;
    let counted = if config.is_push() {
        config.deliver_subject.len() + without_subject
    } else {
        size
    };
    let delivery = observer.consumer.deliver(now, seq, counted);
    let rate = observer.consumer.config.rate_limit_bps;
    observer.pace.delivered(now.mono, record.time, size, rate);
    if !is_redelivery {
        observer.count_delivered();
    }
    if observer.consumer.is_done_when_delivered() {
        scratch.done.push(seq);
    }
    let with_pin;
    let headers = match observer.consumer.pin() {
        Some(pin) => {
            with_pin = headers::with_field(headers, "Nats-Pin-Id", &pin.id);
            &with_pin
        }
        None => headers,
    };
    let message = Message {
        subject: &record.subject,
        reply: Some(&scratch.ack_subject),
        headers,
        payload,
    };
    outlet.send(std::str::from_utf8(&delivery.reply).unwrap_or_default(), &message);
    scratch.notices.extend(delivery.notice);
    send_notices(outlet, &mut scratch.notices);
    Step::Delivered
}

/// Spreads what is known over the name of a pin; pins need not be unpredictable.
fn pin_seed(seed: u64, stream_seq: u64, consumer_seq: u64) -> u128 {
    let high = seed
        .wrapping_add(consumer_seq)
        .wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let low = seed
        .rotate_left(32)
        .wrapping_add(stream_seq)
        .wrapping_mul(0x94d0_49bb_1331_11eb);
    u128::from(high) << 64 | u128::from(low)
}

/// `$JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<time>.<pending>`
fn write_ack_subject(
    out: &mut String,
    observer: &Observer,
    record: &Record,
    consumer_seq: u64,
    deliveries: u64,
    pending: u64,
) {
    out.clear();
    out.push_str("$JS.ACK.");
    out.push_str(&observer.consumer.stream);
    out.push('.');
    out.push_str(&observer.consumer.name);
    let time = u64::try_from(record.time.0).unwrap_or(0);
    for number in [deliveries, record.seq.0, consumer_seq, time, pending] {
        out.push('.');
        push_number(out, number);
    }
}

/// Appends a number in decimal, without the formatting machinery.
pub(crate) fn push_number(out: &mut String, mut number: u64) {
    let mut digits = [b'0'; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.push_str(std::str::from_utf8(&digits[start..]).expect("digits are ASCII"));
}

fn send_notices(outlet: &mut impl Outlet, notices: &mut Vec<Notice>) {
    for Notice { reply, status } in notices.drain(..) {
        send_notice(outlet, &reply, &status);
    }
}

/// Sends a status message.
pub(crate) fn send_notice(outlet: &mut impl Outlet, reply: &Bytes, status: &Status) {
    let to = std::str::from_utf8(reply).unwrap_or_default();
    let answer_to = match status {
        Status::FlowControl { answer_to } => Some(answer_to.as_str()),
        _ => None,
    };
    let headers = status.header_block();
    let message = Message {
        subject: to,
        reply: answer_to,
        headers: headers.as_bytes(),
        payload: &[],
    };
    outlet.send(to, &message);
}
