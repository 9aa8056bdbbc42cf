//! One connection: the tokio shell around a session. Reads in batches, one publish to the broker a batch; acknowledges in the
//! order of receipt; fetches deliveries only while there is room to write them.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::codec::{self, Codec};
use super::handshake::{self, Admitted};
use super::listener::Shared;
use super::packet::{QoS, ServerPacket};
use super::registry::{Claim, Takeover};
use super::seat::Seat;
use super::session::{CloseReason, Effect};
use crate::ingest::{Completion, IngestError, Message};

/// Read sizes: the first, and the largest that a busy connection grows to.
const READ_BYTES_MIN: usize = 2 * 1024;
const READ_BYTES_MAX: usize = 64 * 1024;
/// Bytes waiting to be written beyond which nothing more is fetched for the client.
const OUT_BYTES_HIGH: usize = 256 * 1024;
/// An emptied write buffer larger than this is given back.
const OUT_BYTES_KEPT: usize = 1024;
/// Retained messages looked at in one go.
const RETAINED_PAGE: usize = 256;
/// How long the last bytes may take to leave.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);
/// How often the keep-alive is looked at while nothing is read.
const PAUSED_RECHECK: Duration = Duration::from_secs(1);
/// When the session has no deadline of its own.
const NO_DEADLINE: Duration = Duration::from_secs(24 * 60 * 60);

/// A subscription whose retained messages are still being sent.
struct RetainedCursor {
    topic_filter: String,
    qos: QoS,
    after: String,
}

struct Connection<'a> {
    shared: &'a Shared,
    stream: TcpStream,
    codec: Codec,
    buf: BytesMut,
    read_bytes: usize,
    out: BytesMut,
    seat: Box<Seat>,
    effects: Vec<Effect>,
    /// Publishes of the batch being read, all above QoS 0 or all not.
    run: Vec<Message>,
    /// Batches handed to the broker, in order.
    pending: FuturesOrdered<Completion>,
    retained_due: VecDeque<RetainedCursor>,
    draining: bool,
    closing: Option<CloseReason>,
}

/// Serves one connection, and keeps its session afterwards if it is to stay.
pub(super) async fn serve(shared: Arc<Shared>, stream: TcpStream) {
    let open = OpenConnection(&shared);
    // Boxed: an idle session should not carry the handshake's state along.
    let admitted = tokio::select! {
        admitted = Box::pin(handshake::admit(&shared, stream)) => admitted,
        () = shared.drain.cancelled() => None,
    };
    let Some(Admitted {
        stream,
        codec,
        buf,
        out,
        mut claim,
        seat,
        effects,
    }) = admitted
    else {
        return;
    };
    let mut connection = Box::new(Connection {
        shared: &shared,
        stream,
        codec,
        buf,
        read_bytes: READ_BYTES_MIN,
        out,
        seat,
        effects,
        run: Vec::new(),
        pending: FuturesOrdered::new(),
        retained_due: VecDeque::new(),
        draining: false,
        closing: None,
    });
    let takeover = connection.run(&mut claim).await;
    let (mut seat, stays) = connection.finish().await;
    drop(open);
    if let Some(takeover) = takeover {
        return hand_over(takeover, stays.then_some(seat));
    }
    if !stays || shared.drain.is_cancelled() {
        return shared.registry.release(&claim);
    }
    seat.deliver_offline();
    Box::pin(keep_offline(&shared, claim, seat)).await;
}

/// Counts a connection as open until it is dropped.
struct OpenConnection<'a>(&'a Shared);

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        self.0.counters.connections.sub(1);
    }
}

fn hand_over(takeover: Takeover, seat: Option<Box<Seat>>) {
    let seat = seat.filter(|_| takeover.keep);
    if takeover.reply.send(seat).is_err() {
        tracing::debug!("mqtt session dropped: its new connection is gone");
    }
}

/// Collects QoS 1 messages for a client that is away, until it comes back or its time is over.
async fn keep_offline(shared: &Shared, mut claim: Claim, mut seat: Box<Seat>) {
    let counters = &shared.counters;
    counters.sessions_offline.add(1);
    let mut expiry = pin!(sleep(shared.config.session_expiry));
    let takeover = loop {
        tokio::select! {
            takeover = &mut claim.takeover => break takeover.ok(),
            fetched = seat.client.deliveries() => match fetched {
                Some(deliveries) => {
                    seat.fetched(deliveries);
                    seat.deliver_offline();
                }
                None => break None,
            },
            () = &mut expiry => {
                counters.sessions_expired.add(1);
                break None;
            }
            () = shared.drain.cancelled() => break None,
        }
    };
    counters.sessions_offline.sub(1);
    match takeover {
        Some(takeover) => hand_over(takeover, Some(seat)),
        None => shared.registry.release(&claim),
    }
}

impl Connection<'_> {
    /// Runs until the connection is to close; returns the request if another connection takes the session.
    async fn run(&mut self, claim: &mut Claim) -> Option<Takeover> {
        self.apply().await;
        self.decode().await;
        let shared = self.shared;
        let mut drain = pin!(shared.drain.cancelled());
        let mut timer = pin!(sleep_until(Instant::now()));
        loop {
            self.pump();
            self.seat.count_levels();
            if self.draining && self.pending.is_empty() && self.out.is_empty() {
                self.close(CloseReason::Shutdown);
            }
            if self.closing.is_some() {
                return None;
            }
            let may_read = !self.draining && self.seat.session.awaiting_count() < shared.config.awaiting_max;
            if timer.is_elapsed() {
                // While nothing is read, the client's silence says nothing: the deadline is looked at again later.
                let later = Instant::now() + if may_read { NO_DEADLINE } else { PAUSED_RECHECK };
                let deadline = self.seat.session.deadline().filter(|_| may_read);
                timer.as_mut().reset(deadline.unwrap_or(later));
            }
            let may_fetch = self.may_deliver() && !self.seat.has_due() && self.retained_due.is_empty();
            tokio::select! {
                takeover = &mut claim.takeover => {
                    self.close(CloseReason::TakenOver);
                    return takeover.ok();
                }
                Some(outcomes) = self.pending.next() => self.completed(&outcomes),
                ready = self.stream.readable(), if may_read => match ready {
                    Ok(()) => self.read().await,
                    Err(_) => self.close(CloseReason::ConnectionLost),
                },
                ready = self.stream.writable(), if !self.out.is_empty() => {
                    if ready.is_err() {
                        self.close(CloseReason::ConnectionLost);
                    }
                }
                fetched = self.seat.client.deliveries(), if may_fetch => match fetched {
                    Some(deliveries) => self.seat.fetched(deliveries),
                    None => self.close(CloseReason::BrokerClosed),
                },
                () = &mut timer => self.tick(may_read).await,
                () = &mut drain, if !self.draining => self.draining = true,
            }
        }
    }

    /// Ends the session's connection. Returns the session, and whether it stays.
    async fn finish(mut self: Box<Self>) -> (Box<Seat>, bool) {
        let reason = self.closing.unwrap_or(CloseReason::ConnectionLost);
        let abandoned = self.seat.session.awaiting_count() as u64;
        self.shared.counters.awaiting_store.sub(abandoned);
        self.shared
            .counters
            .closed(reason, self.seat.session.client().as_str());
        if reason != CloseReason::ConnectionLost {
            let farewell = async {
                self.stream.write_all(&self.out).await?;
                self.stream.shutdown().await
            };
            drop(timeout(FAREWELL_TIMEOUT, farewell).await);
        }
        self.effects.clear();
        let stays = self.seat.session.detach(reason, &mut self.effects);
        for effect in std::mem::take(&mut self.effects) {
            match effect {
                Effect::Retain(message) => self.shared.retained.put(message),
                Effect::PublishWill(will) => self.publish_will(will).await,
                _ => {}
            }
        }
        (self.seat, stays)
    }

    async fn publish_will(&mut self, will: Message) {
        if will.qos == QoS::AtMostOnce {
            return self.seat.client.publish(vec![will]).await;
        }
        let outcomes = self.seat.client.publish_durable(vec![will]).await.await;
        if !matches!(outcomes.as_slice(), [Ok(())]) {
            self.shared.counters.closed(
                CloseReason::Store("will_not_stored"),
                self.seat.session.client().as_str(),
            );
        }
    }

    fn close(&mut self, reason: CloseReason) {
        self.closing.get_or_insert(reason);
    }

    async fn tick(&mut self, may_read: bool) {
        if !may_read {
            return;
        }
        // It may have sent something while this task was held up.
        self.read().await;
        self.seat.session.tick(Instant::now(), &mut self.effects);
        self.apply().await;
    }

    async fn read(&mut self) {
        self.buf.reserve(self.read_bytes);
        match self.stream.try_read_buf(&mut self.buf) {
            Ok(0) => self.close(CloseReason::ConnectionLost),
            Ok(bytes) => {
                self.shared.counters.bytes_in.add(bytes as u64);
                if bytes >= self.read_bytes {
                    self.read_bytes = (self.read_bytes * 4).min(READ_BYTES_MAX);
                } else if bytes < self.read_bytes / 8 {
                    self.read_bytes = (self.read_bytes / 2).max(READ_BYTES_MIN);
                }
                self.decode().await;
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => self.close(CloseReason::ConnectionLost),
        }
    }

    /// Takes every whole packet that has been read.
    async fn decode(&mut self) {
        let now = Instant::now();
        while self.closing.is_none() {
            match self.codec.decode(&mut self.buf) {
                Ok(Some(packet)) => {
                    self.seat.session.packet(packet, now, &mut self.effects);
                    self.apply().await;
                }
                Ok(None) => break,
                Err(error) => self.close(CloseReason::Protocol(error.as_str())),
            }
        }
        self.publish_run().await;
        if self.buf.is_empty() {
            // The payloads of the batch keep its memory; an idle connection has none.
            self.buf = BytesMut::new();
        }
    }

    /// Does what the session wants done, in order.
    async fn apply(&mut self) {
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            if self.closing.is_some() {
                break;
            }
            match effect {
                Effect::Publish(message) => {
                    self.count_in(&message);
                    let durable = message.qos > QoS::AtMostOnce;
                    if self
                        .run
                        .first()
                        .is_some_and(|first| (first.qos > QoS::AtMostOnce) != durable)
                    {
                        self.publish_run().await;
                    }
                    self.run.push(message);
                }
                Effect::Subscribe { filter, topic_filter } => {
                    // What this client published before does not match what it subscribes to now.
                    self.publish_run().await;
                    if self.seat.subscribe(filter, &topic_filter).is_err() {
                        self.close(CloseReason::BrokerClosed);
                    }
                }
                effect => self.emit(effect),
            }
        }
        self.effects = effects;
    }

    fn count_in(&self, message: &Message) {
        let counters = &self.shared.counters;
        let [at_most_once, above] = &counters.publishes_in;
        if message.qos == QoS::AtMostOnce {
            at_most_once.add(1);
        } else {
            above.add(1);
            counters.awaiting_store.add(1);
        }
    }

    /// Does what needs no waiting.
    fn emit(&mut self, effect: Effect) {
        match effect {
            Effect::Send(packet) => self.send(&packet),
            Effect::Retain(message) => self.shared.retained.put(message),
            Effect::Unsubscribe(filter) => self.seat.unsubscribe(filter),
            Effect::FindRetained { topic_filter, qos } => {
                self.retained_due.push_back(RetainedCursor {
                    topic_filter,
                    qos,
                    after: String::new(),
                });
            }
            Effect::Close(reason) => self.close(reason),
            Effect::Publish(_) | Effect::PublishWill(_) | Effect::Subscribe { .. } => {
                unreachable!("comes from packets only, which `apply` takes, or from `finish`")
            }
        }
    }

    fn send(&mut self, packet: &ServerPacket) {
        let counters = &self.shared.counters;
        let [at_most_once, above] = &counters.publishes_out;
        match packet {
            ServerPacket::Publish(publish) if publish.qos == QoS::AtMostOnce => at_most_once.add(1),
            ServerPacket::Publish(_) => above.add(1),
            ServerPacket::PubAck(_) => counters.pubacks_out.add(1),
            ServerPacket::SubAck { granted, .. } => {
                let refused = granted.iter().filter(|granted| granted.is_none()).count();
                counters.subscriptions_refused.add(refused as u64);
            }
            _ => {}
        }
        codec::encode(packet, &mut self.out);
    }

    async fn publish_run(&mut self) {
        if self.run.is_empty() {
            return;
        }
        let run = std::mem::take(&mut self.run);
        if run.first().is_some_and(|first| first.qos == QoS::AtMostOnce) {
            self.seat.client.publish(run).await;
        } else {
            let expected = run.len();
            let completion = self.seat.client.publish_durable(run).await;
            self.pending.push_back(Box::pin(async move {
                let mut outcomes = completion.await;
                // A broker that went away gives fewer answers than it was asked for.
                outcomes.resize(expected, Err(IngestError::Closed));
                outcomes
            }));
        }
    }

    fn completed(&mut self, outcomes: &[Result<(), IngestError>]) {
        self.shared.counters.awaiting_store.sub(outcomes.len() as u64);
        for outcome in outcomes {
            self.seat.session.completed(outcome, &mut self.effects);
            self.emit_all();
        }
    }

    fn emit_all(&mut self) {
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            // Nothing follows a refused message: not the acknowledgement of a later one either.
            if self.closing.is_none() {
                self.emit(effect);
            }
        }
        self.effects = effects;
    }

    fn may_deliver(&self) -> bool {
        !self.draining && self.out.len() < OUT_BYTES_HIGH && self.seat.session.wants_deliveries()
    }

    /// Writes until the socket or the client's window is full, or nothing is due.
    fn pump(&mut self) {
        loop {
            self.fill_out();
            self.flush();
            let due = self.seat.has_due() || !self.retained_due.is_empty();
            if !due || !self.may_deliver() || self.closing.is_some() {
                return;
            }
        }
    }

    /// Brings what is due to the session while there is room: retained messages first, as they are the older ones.
    fn fill_out(&mut self) {
        while self.may_deliver() && self.closing.is_none() {
            if let Some(cursor) = self.retained_due.pop_front() {
                self.send_retained(cursor);
            } else if self.seat.has_due() {
                self.seat.deliver_next(&mut self.effects);
                self.emit_all();
            } else {
                return;
            }
        }
    }

    fn send_retained(&mut self, mut cursor: RetainedCursor) {
        let (found, next) = self
            .shared
            .retained
            .page(&cursor.topic_filter, &cursor.after, RETAINED_PAGE);
        for message in found {
            self.seat
                .session
                .deliver_retained(&message, cursor.qos, &mut self.effects);
            self.emit_all();
        }
        if let Some(after) = next {
            cursor.after = after;
            self.retained_due.push_front(cursor);
        }
    }

    fn flush(&mut self) {
        while !self.out.is_empty() {
            match self.stream.try_write(&self.out) {
                Ok(0) => return self.close(CloseReason::ConnectionLost),
                Ok(bytes) => {
                    self.shared.counters.bytes_out.add(bytes as u64);
                    self.out.advance(bytes);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(_) => return self.close(CloseReason::ConnectionLost),
            }
        }
        if self.out.capacity() > OUT_BYTES_KEPT {
            self.out = BytesMut::new();
        }
    }
}

#[cfg(test)]
mod tests {
    fn future_bytes<A, B, F>(_: impl Fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_connection_is_small() {
        let task = future_bytes(super::serve);
        let kept = size_of::<super::Connection<'static>>() + size_of::<super::Seat>();
        assert!(task + kept <= 3 * 1024, "{task} + {kept} bytes");
    }
}
