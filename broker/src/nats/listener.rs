//! The tokio shell around sessions: accepts connections, reads, writes what was queued, and keeps time.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accounts::{Account, Accounts, Traffic};
use crate::auth::gate::Gate;
use crate::batch::wait_for;
use crate::env::Clock;
use crate::env::real::RealClock;
use crate::local::{LocalClient, LocalQueue};
use crate::monitor::connz::ConnInfo;
use crate::nats::audit::note_who_asks;
use crate::nats::callout::QUESTIONS_MAX;
use crate::nats::codec::Codec;
use crate::nats::connections::{ClientName, Connection, Connections};
use crate::nats::door::{Guest, Port, enter};
use crate::nats::entry::Entry;
use crate::nats::info::{AuthInfo, ServerInfo};
use crate::nats::live::Live;
use crate::nats::session::{Received, Session, SessionLimits};
use crate::nats::transport::Socket;
use crate::outbound::{ClientId, CloseReason, Outbound, Progress};
use crate::router::Router;
use crate::server::Limits;
use crate::shard::inbox::Inbox;
use crate::system;
use crate::system::events::Events;
use crate::system::reloads::Reloads;
use crate::types::MonoNanos;

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) accounts: Arc<Accounts>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) gate: Gate,
    /// As the broker began; new connections have those of [`Shared::live`].
    pub(crate) limits: Limits,
    pub(crate) info: ServerInfo,
    live: RwLock<Arc<Live>>,
    pub(crate) connections: Connections,
    pub(crate) clock: RealClock,
    pub(crate) next_client: AtomicU64,
    next_internal: AtomicU64,
    pub(crate) locals: Mutex<Vec<Weak<LocalQueue>>>,
    /// Cancelled when nothing more is to be accepted or read.
    pub(crate) stop: CancellationToken,
    /// Cancelled when nothing more is to be accepted.
    pub(crate) lame_duck: CancellationToken,
    /// What is told to the system account.
    pub(crate) events: Events,
    /// Reloads that the system account is asked for.
    pub(crate) reloads: Reloads,
    /// Turns of questions to services that let users in.
    pub(crate) questions: Semaphore,
    /// Tasks of connections.
    pub(crate) tasks: TaskTracker,
    /// Sessions that may still hand something over.
    pub(crate) reading: TaskTracker,
}

/// How long a connection that ends may leave its last words untaken.
const FAREWELL_MAX: Duration = Duration::from_secs(1);
const READ_BYTES_MIN: usize = 4 << 10;
const READ_BYTES_MAX: usize = 64 << 10;
/// A read of this much is followed by a chance for other tasks.
const LONG_READ_BYTES: usize = 64 << 10;
/// How long accepting pauses after an error such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often the log says that accepting fails, at most.
const ACCEPT_LOG_NANOS: u64 = 10_000_000_000;

impl Shared {
    pub(crate) fn new(
        live: Live,
        info: ServerInfo,
        accounts: Arc<Accounts>,
        gate: Gate,
        events: Events,
    ) -> Self {
        let limits = live.limits.clone();
        let stop = CancellationToken::new();
        Self {
            accounts,
            gate,
            inbox: Arc::new(Inbox::new(limits.inbox_bytes)),
            limits,
            info,
            live: RwLock::new(Arc::new(live)),
            connections: Connections::default(),
            clock: RealClock::new(),
            next_client: AtomicU64::new(1),
            next_internal: AtomicU64::new(0),
            locals: Mutex::default(),
            lame_duck: stop.child_token(),
            stop,
            events,
            reloads: Reloads::default(),
            questions: Semaphore::new(QUESTIONS_MAX),
            tasks: TaskTracker::new(),
            reading: TaskTracker::new(),
        }
    }

    /// Settings for new connections.
    pub(crate) fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// New connections have other settings from now on.
    pub(crate) fn set_live(&self, live: Live) {
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(live);
    }

    /// One of the broker's own clients.
    pub(crate) fn internal_client(&self, account: &Account, name: &str) -> LocalClient {
        let queue = LocalQueue::internal(self.next_internal(), self.limits.max_pending_bytes);
        self.client_of(Arc::clone(&account.router), name, Arc::new(queue))
    }

    /// Ids of the broker's own clients count downwards, so that those of connections have no gaps.
    fn next_internal(&self) -> ClientId {
        ClientId(u64::MAX - self.next_internal.fetch_add(1, Relaxed))
    }

    /// What has gone through an account.
    pub(crate) fn traffic_of(&self, account: &Account) -> Traffic {
        let mut traffic = account.past();
        for connection in self.connections.all() {
            if connection
                .identity()
                .is_some_and(|held| held.account.name == account.name)
            {
                traffic.add(&connection.outbound.counters);
            }
        }
        traffic
    }

    fn client_of(&self, router: Arc<Router>, name: &str, queue: Arc<LocalQueue>) -> LocalClient {
        let mut locals = self.lock_locals();
        locals.retain(|held| held.strong_count() > 0);
        locals.push(Arc::downgrade(&queue));
        drop(locals);
        LocalClient::new(name, router, Arc::clone(&self.inbox), queue)
    }

    /// A client in this process.
    pub(crate) fn local_client(&self, name: &str) -> LocalClient {
        let counters = Arc::clone(self.accounts.counters());
        let queue = Arc::new(LocalQueue::new(
            self.next_client(),
            self.limits.max_pending_bytes,
            counters,
        ));
        let router = Arc::clone(&self.accounts.global().router);
        self.client_of(router, name, queue)
    }

    /// Tells a client that it should go elsewhere.
    pub(crate) fn tell_of_lame_duck(&self, connection: &Connection) {
        // Who has not said what it understands is not told.
        if connection.client.get().is_none() {
            return;
        }
        let info = ServerInfo {
            is_lame_duck: true,
            ..self.live().info.clone()
        };
        let auth = AuthInfo {
            is_required: self.gate.directory().is_required(),
            nonce: "",
        };
        let mut line = info.line(connection.id(), connection.peer.ip(), &auth);
        connection.outbound.push(&mut line);
    }

    /// Tells local clients that nothing more will come.
    pub(crate) fn close_locals(&self) {
        for queue in self.lock_locals().drain(..).filter_map(|held| held.upgrade()) {
            queue.close();
        }
    }

    fn lock_locals(&self) -> MutexGuard<'_, Vec<Weak<LocalQueue>>> {
        self.locals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn next_client(&self) -> ClientId {
        ClientId(self.next_client.fetch_add(1, Relaxed))
    }
}

/// Accepts connections until the broker is a lame duck or stops.
pub(crate) async fn accept(listener: TcpListener, port: Port, shared: Arc<Shared>) {
    let mut log_again = None;
    loop {
        let accepted = tokio::select! {
            () = shared.lame_duck.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = enter(stream, peer, port, Arc::clone(&shared));
                shared.tasks.spawn(connection);
            }
            Err(err) => {
                let now = shared.clock.monotonic();
                if log_again.is_none_or(|again| now >= again) {
                    tracing::warn!(error = %err, "accepting a connection failed");
                    log_again = Some(MonoNanos(now.0 + ACCEPT_LOG_NANOS));
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves a connection whose transport stands.
pub(crate) async fn serve<S: Socket>(stream: Arc<S>, guest: Guest, shared: Arc<Shared>) {
    let info = guest.info();
    let Guest {
        id,
        peer,
        live,
        mut entry,
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
    let connection = Arc::new(connection);
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
    let mut session = Session::new(limits, router, Arc::clone(&outbound));
    if is_greeted {
        session.greeted(info);
    } else {
        session.greet(info);
    }
    tracing::debug!(conn = id.0, %peer, "connection opened");

    // Given to `join!` as they are: a variable of its own would make the task as much larger as the future is.
    tokio::join!(
        async {
            if shared
                .connections
                .insert(Arc::clone(&connection), live.limits.max_connections)
            {
                let held = shared.reading.token();
                let end = match entry.open(&mut session, &connection, &shared) {
                    None => {
                        read(
                            &mut session,
                            &*stream,
                            &connection,
                            &mut entry,
                            ping_interval,
                            &shared,
                        )
                        .await
                    }
                    end => end,
                };
                drop(held);
                if let Some(reason) = end {
                    outbound.finish(reason);
                }
            } else {
                session.say(b"-ERR 'maximum connections exceeded'\r\n");
                outbound.finish(CloseReason::MaxConnectionsExceeded);
            }
        },
        write(&outbound, &*stream, live.limits.write_deadline),
    );
    stream.goodbye();
    let now = shared.clock.now();
    shared.events.disconnected(&connection, now);
    shared.connections.remember(ConnInfo::closed(&connection, now));
    session.close();
    if let Some(identity) = connection.identity() {
        let was_slow = matches!(
            outbound.reason(),
            Some(CloseReason::SlowConsumerPendingBytes | CloseReason::SlowConsumerWriteDeadline)
        );
        identity.account.ended(&outbound.counters, was_slow);
    }
    connection.leave();
    shared.connections.remove(id);
    let reason = outbound.reason().map(tracing::field::display);
    tracing::debug!(conn = id.0, reason, "connection closed");
}

/// Reads until the connection ends, gives why; none when the broker stops: the connection is then still written to.
async fn read(
    session: &mut Session,
    stream: &impl Socket,
    connection: &Connection,
    entry: &mut Entry,
    ping_interval: Duration,
    shared: &Shared,
) -> Option<CloseReason> {
    let mut buf = ReadBuffer::default();
    let mut pings = tokio::time::interval(ping_interval);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pings.reset();
    let ended = connection.outbound.ended();
    loop {
        if ended.is_cancelled() || shared.stop.is_cancelled() {
            return ended.is_cancelled().then_some(CloseReason::ClientClosed);
        }
        let read = buf.try_read(stream);
        if stream.owes() {
            connection.outbound.wake_writer();
        }
        let count = match read {
            Ok(0) => return Some(CloseReason::ClientClosed),
            Ok(count) => count,
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => {
                buf.rest();
                tokio::select! {
                    end = wait(session, stream, &mut pings, ended, &shared.stop) => {
                        if end.is_some() {
                            return end;
                        }
                    }
                    () = entry.over(shared) => return Some(entry.end(session)),
                }
                continue;
            }
            Err(_) => return Some(CloseReason::ReadError),
        };
        let now = shared.clock.monotonic();
        connection.touch(now);
        if entry.is_over(now) {
            return Some(entry.end(session));
        }
        if buf.held.len() < buf.need_bytes {
            continue;
        }
        loop {
            let Received {
                mut ops,
                need_bytes,
                end,
                asks_who,
                asks_in,
            } = session.receive(&mut buf.held);
            buf.need_bytes = need_bytes;
            note_who_asks(&mut ops, connection, &shared.info.server_name);
            if shared.inbox.send(ops).await.is_err() {
                return Some(CloseReason::ServerShutdown);
            }
            introduce(session, connection);
            for reply in asks_who {
                session.answer_to(&reply, &system::user_info(shared, connection));
            }
            if end.is_some() {
                return end;
            }
            if !asks_in {
                break;
            }
            let end = Box::pin(entry.admit(session, connection, shared)).await;
            if end.is_some() {
                return end;
            }
        }
        let stalled = session.take_stalled();
        if !stalled.is_empty() {
            wait_for(stalled).await;
        } else if count >= LONG_READ_BYTES {
            tokio::task::yield_now().await;
        }
    }
}

/// Waits for something to read, pinging meanwhile. Gives the end of a stale connection.
async fn wait(
    session: &mut Session,
    stream: &impl Socket,
    pings: &mut Interval,
    ended: &CancellationToken,
    stop: &CancellationToken,
) -> Option<CloseReason> {
    tokio::select! {
        ready = stream.tcp().readable() => ready.is_err().then_some(CloseReason::ReadError),
        () = ended.cancelled() => None,
        () = stop.cancelled() => None,
        _ = pings.tick() => session.ping(),
    }
}

/// Notes who the client says it is.
fn introduce(session: &Session, connection: &Connection) {
    if let Some(options) = session.options() {
        connection.client.get_or_init(|| {
            connection.set_first_rtt();
            ClientName {
                name: options.name.clone(),
                lang: options.lang.clone(),
                version: options.version.clone(),
            }
        });
    }
}

/// Writes what is queued until the connection ends; what is queued then may take [`FAREWELL_MAX`] without progress.
async fn write(outbound: &Outbound, stream: &impl Socket, deadline: Duration) {
    let ended = outbound.ended();
    loop {
        match outbound.write_queued() {
            Progress::Ended => return,
            Progress::Idle => outbound.work().await,
            Progress::Blocked => {
                let has_ended = ended.is_cancelled();
                let wait = if has_ended {
                    deadline.min(FAREWELL_MAX)
                } else {
                    deadline
                };
                tokio::select! {
                    ready = tokio::time::timeout(wait, stream.tcp().writable()) => {
                        if ready.is_err() {
                            outbound.close_for_write_deadline();
                        }
                    }
                    () = ended.cancelled(), if !has_ended => {}
                }
            }
        }
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

    /// Nothing is there to be read: a quiet connection needs no buffer meanwhile.
    fn rest(&mut self) {
        if self.held.is_empty() && self.target_bytes == READ_BYTES_MIN {
            self.held = BytesMut::new();
        }
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
