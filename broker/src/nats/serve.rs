//! One connection's task: reads, writes what was queued, and keeps time. Ten thousand of them may idle, so what a connection
//! needs only now and then is in boxes that exist only then; the tests hold the sizes.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::{Sleep, sleep};

use crate::batch::wait_for;
use crate::env::Clock;
use crate::monitor::connz::ConnInfo;
use crate::nats::audit::note_who_asks;
use crate::nats::codec::Codec;
use crate::nats::connections::Connection;
use crate::nats::door::Guest;
use crate::nats::entry::Entry;
use crate::nats::listener::Shared;
use crate::nats::session::{Received, Session, SessionLimits};
use crate::nats::transport::Socket;
use crate::outbound::{CloseReason, Outbound, Progress};
use crate::shard::inbox::InboxClosed;
use crate::system;
use crate::types::MonoNanos;

/// How long a connection that ends may leave its last words untaken.
const FAREWELL_MAX: Duration = Duration::from_secs(1);
const READ_BYTES_MIN: usize = 4 << 10;
const READ_BYTES_MAX: usize = 64 << 10;
/// A read of this much is followed by a chance for other tasks.
const LONG_READ_BYTES: usize = 64 << 10;

/// Serves a connection whose transport stands.
pub(crate) async fn serve<S: Socket>(stream: Arc<S>, guest: Box<Guest>, shared: Arc<Shared>) {
    let mut writer = Writer::new(guest.live.limits.write_deadline);
    let mut talk = Talk::begin(stream, *guest, shared);
    let (stream, outbound) = (Arc::clone(&talk.stream), Arc::clone(&talk.connection.outbound));
    {
        let mut reading = pin!(talk.run());
        let (mut has_read, mut has_written) = (false, false);
        poll_fn(|cx| {
            let has_news = outbound.attend(cx.waker());
            has_read = has_read || reading.as_mut().poll(cx).is_ready();
            has_written = has_written || writer.poll(&outbound, &*stream, has_news, cx).is_ready();
            if has_read && has_written {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
    talk.end();
}

/// What a connection's task holds.
struct Talk<S> {
    stream: Arc<S>,
    shared: Arc<Shared>,
    connection: Arc<Connection>,
    session: Session,
    entry: Entry,
    buf: ReadBuffer,
    ping_interval: Duration,
    max_connections: usize,
}

impl<S: Socket> Talk<S> {
    fn begin(stream: Arc<S>, guest: Guest, shared: Arc<Shared>) -> Self {
        let info = guest.info();
        let Guest {
            id,
            peer,
            live,
            entry,
            transport,
            is_greeted,
            ping_interval,
            ..
        } = guest;
        let counters = Arc::clone(shared.accounts.counters());
        counters.total_connections.fetch_add(1, Relaxed);
        let outbound = Outbound::new(id, stream.clone(), live.limits.max_pending_bytes, counters);
        let outbound = Arc::new(if S::IS_LAYERED {
            outbound.layered()
        } else {
            outbound
        });
        let (now, start) = (shared.clock.monotonic(), shared.clock.now());
        let connection = Connection::new(peer, start, now, Arc::clone(&outbound)).on(transport);
        let limits = SessionLimits {
            codec: Codec {
                max_control_line_bytes: live.limits.max_control_line_bytes,
                max_payload_bytes: live.limits.max_payload_bytes,
            },
            max_subscriptions: live.limits.max_subscriptions,
            max_subscription_tokens: live.limits.max_subscription_tokens,
            ping_max: live.limits.ping_max,
        };
        let router = Arc::clone(&shared.accounts.global().router);
        let mut session = Session::new(limits, router, outbound);
        if is_greeted {
            session.greeted(info);
        } else {
            session.greet(info);
        }
        tracing::debug!(conn = id.0, %peer, "connection opened");
        Self {
            stream,
            shared,
            connection: Arc::new(connection),
            session,
            entry,
            buf: ReadBuffer::default(),
            ping_interval,
            max_connections: live.limits.max_connections,
        }
    }

    /// Reads until the connection ends, and says so.
    async fn run(&mut self) {
        let held = Arc::clone(&self.connection);
        if !self.shared.connections.insert(held, self.max_connections) {
            self.session.say(b"-ERR 'maximum connections exceeded'\r\n");
            let reason = CloseReason::MaxConnectionsExceeded;
            return self.connection.outbound.finish(reason);
        }
        let held = self.shared.reading.token();
        let end = match self.entry.open(&mut self.session, &self.connection, &self.shared) {
            None => self.read().await,
            end => end,
        };
        drop(held);
        if let Some(reason) = end {
            self.connection.outbound.finish(reason);
        }
    }

    /// Reads until the connection ends, gives why; none when the broker stops: the connection is then still written to.
    async fn read(&mut self) -> Option<CloseReason> {
        let mut next_ping = self.after(self.ping_interval);
        let mut alarm = pin!(sleep(self.until(next_ping)));
        loop {
            let has_ended = self.connection.outbound.has_ended();
            if has_ended || self.shared.is_stopping() {
                return has_ended.then_some(CloseReason::ClientClosed);
            }
            let read = self.buf.try_read(&*self.stream);
            if self.stream.owes() {
                self.connection.outbound.wake();
            }
            let count = match read {
                Ok(0) => return Some(CloseReason::ClientClosed),
                Ok(count) => count,
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {
                    if self.buf.rest() {
                        self.session.rest();
                    }
                    match self.wait(alarm.as_mut()).await {
                        Woken::ToRead => {}
                        Woken::InError => return Some(CloseReason::ReadError),
                        Woken::ByAlarm => {
                            if let Some(end) = self.look_after(&mut next_ping) {
                                return Some(end);
                            }
                            alarm.set(sleep(self.until(next_ping)));
                        }
                    }
                    continue;
                }
                Err(_) => return Some(CloseReason::ReadError),
            };
            let now = self.shared.clock.monotonic();
            self.connection.touch(now);
            if self.entry.is_over(now) {
                return Some(self.entry.end(&mut self.session));
            }
            if self.buf.is_short() {
                continue;
            }
            let deadline = self.entry.deadline();
            if let Some(end) = self.take_in().await {
                return Some(end);
            }
            if self.entry.deadline() != deadline {
                alarm.set(sleep(self.until(next_ping)));
            }
            let stalled = self.session.take_stalled();
            if !stalled.is_empty() {
                Box::pin(wait_for(stalled)).await;
            } else if count >= LONG_READ_BYTES {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Takes what was read: all whole operations. Returns the connection's end.
    async fn take_in(&mut self) -> Option<CloseReason> {
        loop {
            let Received {
                mut ops,
                need_bytes,
                end,
                asks_who,
                asks_in,
                has_more,
            } = self.session.receive(&mut self.buf.held);
            self.buf.need_bytes = need_bytes;
            note_who_asks(&mut ops, &self.connection, &self.shared.info.server_name);
            match self.shared.inbox.try_send(ops) {
                Ok(None) => {}
                Ok(Some(ops)) => {
                    if Box::pin(self.shared.inbox.send(ops)).await.is_err() {
                        return Some(CloseReason::ServerShutdown);
                    }
                }
                Err(InboxClosed(_)) => return Some(CloseReason::ServerShutdown),
            }
            self.introduce();
            for reply in asks_who {
                let info = system::user_info(&self.shared, &self.connection);
                self.session.answer_to(&reply, &info);
            }
            if end.is_some() {
                return end;
            }
            if has_more {
                continue;
            }
            if !asks_in {
                self.session.forget_options();
                return None;
            }
            let admitting = self
                .entry
                .admit(&mut self.session, &self.connection, &self.shared);
            let end = Box::pin(admitting).await;
            if end.is_some() {
                return end;
            }
        }
    }

    /// Notes who the client says it is.
    fn introduce(&self) {
        if let Some(options) = self.session.options() {
            self.connection.client.get_or_init(|| {
                self.connection.set_first_rtt();
                let connections = &self.shared.connections;
                connections.name(&options.name, &options.lang, &options.version)
            });
        }
    }

    /// Waits until there is something to do. What wakes the task without being one of these is for its other half.
    async fn wait(&self, mut alarm: Pin<&mut Sleep>) -> Woken {
        poll_fn(|cx| {
            if self.connection.outbound.has_ended() || self.shared.is_stopping() {
                return Poll::Ready(Woken::ToRead);
            }
            if let Poll::Ready(ready) = self.stream.tcp().poll_read_ready(cx) {
                return Poll::Ready(ready.map_or(Woken::InError, |()| Woken::ToRead));
            }
            alarm.as_mut().poll(cx).map(|()| Woken::ByAlarm)
        })
        .await
    }

    /// Sees to what is due: the end of a connection that has to go or is stale, or a ping.
    fn look_after(&mut self, next_ping: &mut MonoNanos) -> Option<CloseReason> {
        let now = self.shared.clock.monotonic();
        if self.entry.is_over(now) {
            return Some(self.entry.end(&mut self.session));
        }
        if now < *next_ping {
            return None;
        }
        *next_ping = self.after(self.ping_interval);
        self.session.ping()
    }

    fn after(&self, duration: Duration) -> MonoNanos {
        self.shared.clock.monotonic().after(duration)
    }

    /// How long it is until the next ping, or until the connection has to go if that is sooner.
    fn until(&self, next_ping: MonoNanos) -> Duration {
        let due = self.entry.deadline().map_or(next_ping, |at| at.min(next_ping));
        Duration::from_nanos(due.0.saturating_sub(self.shared.clock.monotonic().0))
    }

    /// The connection is over.
    fn end(mut self) {
        self.stream.goodbye();
        let (shared, connection) = (self.shared, self.connection);
        let outbound = &connection.outbound;
        outbound.dismiss();
        let now = shared.clock.now();
        shared.events.disconnected(&connection, now);
        shared.connections.remember(ConnInfo::closed(&connection, now));
        self.session.close();
        if let Some(identity) = connection.identity() {
            let was_slow = matches!(
                outbound.reason(),
                Some(CloseReason::SlowConsumerPendingBytes | CloseReason::SlowConsumerWriteDeadline)
            );
            identity.account.ended(&outbound.counters, was_slow);
        }
        connection.leave();
        shared.connections.remove(connection.id());
        let reason = outbound.reason().map(tracing::field::display);
        tracing::debug!(conn = connection.id().0, reason, "connection closed");
    }
}

/// What a waiting connection was woken for.
enum Woken {
    ToRead,
    InError,
    ByAlarm,
}

/// Writes what is queued until the connection ends; what is queued then may take [`FAREWELL_MAX`] without progress.
struct Writer {
    deadline: Duration,
    blocked: Option<Blocked>,
}

/// The socket is full: it takes more once the client reads.
struct Blocked {
    /// How long that may last.
    timer: Pin<Box<Sleep>>,
    /// These are the last words.
    is_farewell: bool,
}

impl Writer {
    fn new(deadline: Duration) -> Self {
        Self {
            deadline,
            blocked: None,
        }
    }

    /// Ready when nothing more will be written. `has_news` is what [`Outbound::attend`] has said.
    fn poll<S: Socket>(
        &mut self,
        outbound: &Outbound,
        stream: &S,
        has_news: bool,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        if self.blocked.is_none() && !has_news {
            return Poll::Pending;
        }
        while !self.is_blocked(outbound, stream, cx) {
            match outbound.write_queued() {
                Progress::Ended => return Poll::Ready(()),
                Progress::Idle => {
                    self.blocked = None;
                    return Poll::Pending;
                }
                Progress::Blocked => {
                    let is_farewell = outbound.has_ended();
                    let wait = if is_farewell {
                        self.deadline.min(FAREWELL_MAX)
                    } else {
                        self.deadline
                    };
                    self.blocked = Some(Blocked {
                        timer: Box::pin(sleep(wait)),
                        is_farewell,
                    });
                }
            }
        }
        Poll::Pending
    }

    /// Whether there is still nothing to be done but wait. Cuts off who has taken nothing for too long.
    fn is_blocked<S: Socket>(&mut self, outbound: &Outbound, stream: &S, cx: &mut Context<'_>) -> bool {
        let Some(blocked) = &mut self.blocked else {
            return false;
        };
        if outbound.has_ended() && !blocked.is_farewell {
            return false;
        }
        if stream.tcp().poll_write_ready(cx).is_ready() {
            return false;
        }
        if blocked.timer.as_mut().poll(cx).is_ready() {
            outbound.close_for_write_deadline();
            return false;
        }
        true
    }
}

/// What was read and not yet taken. Grows to what the connection brings at once, and shrinks again, so that quiet
/// connections cost little.
#[derive(Debug)]
struct ReadBuffer {
    held: BytesMut,
    need_bytes: usize,
    target_bytes: usize,
    short_reads: u32,
}

impl Default for ReadBuffer {
    fn default() -> Self {
        Self {
            held: BytesMut::new(),
            need_bytes: 1,
            target_bytes: READ_BYTES_MIN,
            short_reads: 0,
        }
    }
}

impl ReadBuffer {
    fn try_read(&mut self, stream: &impl Socket) -> io::Result<usize> {
        let missing = self.need_bytes.saturating_sub(self.held.len());
        // What a frame announces is reserved step by step, as it arrives.
        let wanted = self.target_bytes.max(missing.min(self.held.len()));
        if self.held.capacity() - self.held.len() < wanted / 2 {
            self.held.reserve(wanted);
        }
        let room = self.held.capacity() - self.held.len();
        let count = stream.try_read(&mut self.held)?;
        self.adapt(count, room);
        Ok(count)
    }

    /// Whether what is held is known to be no whole operation.
    fn is_short(&self) -> bool {
        self.held.len() < self.need_bytes
    }

    /// Nothing is there to be read: a quiet connection needs no buffer meanwhile. Returns whether it is one.
    fn rest(&mut self) -> bool {
        let is_quiet = self.held.is_empty() && self.target_bytes == READ_BYTES_MIN;
        if is_quiet {
            self.held = BytesMut::new();
        }
        is_quiet
    }

    fn adapt(&mut self, count: usize, room: usize) {
        if count == room {
            self.target_bytes = (self.target_bytes * 2).min(READ_BYTES_MAX);
            self.short_reads = 0;
        } else if count < self.target_bytes / 4 {
            self.short_reads += 1;
            if self.short_reads >= 8 {
                self.target_bytes = (self.target_bytes / 2).max(READ_BYTES_MIN);
                self.short_reads = 0;
            }
        } else {
            self.short_reads = 0;
        }
    }
}

#[cfg(test)]
mod tests;
