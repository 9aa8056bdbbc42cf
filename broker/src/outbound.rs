//! The way out of one connection: a byte queue with a bound, and the socket.
//!
//! Whoever has bytes for the connection writes them on the socket at once, without waiting, as long as nothing is queued;
//! what the socket does not take is queued for the connection's task. A connection that lets more than
//! `max_pending` bytes queue up, or takes nothing for `write_deadline`, is cut off as a slow consumer.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;

use tokio::sync::Notify;

use crate::auth::permissions::Replies;
use crate::env::Clock;
use crate::env::real::RealClock;

/// Names a connection or local client in one run of the broker. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

impl ClientId {
    /// The broker itself: the sender of what the engine sends.
    pub const BROKER: Self = Self(0);
}

/// Why a connection ended. The texts are those of nats-server's `/connz`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// The peer closed its end.
    #[error("Client Closed")]
    ClientClosed,
    /// Reading failed.
    #[error("Read Error")]
    ReadError,
    /// Writing failed.
    #[error("Write Error")]
    WriteError,
    /// Too many bytes waited to be sent.
    #[error("Slow Consumer (Pending Bytes)")]
    SlowConsumerPendingBytes,
    /// The peer took nothing for too long.
    #[error("Slow Consumer (Write Deadline)")]
    SlowConsumerWriteDeadline,
    /// The peer left pings unanswered.
    #[error("Stale Connection")]
    StaleConnection,
    /// The peer sent what is not NATS.
    #[error("Protocol Violation")]
    ProtocolViolation,
    /// A payload beyond `max_payload`.
    #[error("Maximum Message Payload Exceeded")]
    MaxPayloadExceeded,
    /// A control line beyond `max_control_line`.
    #[error("Maximum Control Line Exceeded")]
    MaxControlLineExceeded,
    /// The client did not show who it is, or may not come in.
    #[error("Authentication Failure")]
    AuthenticationViolation,
    /// The client did not show in time who it is.
    #[error("Authentication Timeout")]
    AuthenticationTimeout,
    /// The client's time is over.
    #[error("Authentication Expired")]
    AuthenticationExpired,
    /// The client may not subscribe to anything.
    #[error("Maximum Subscriptions Exceeded")]
    MaxSubscriptionsExceeded,
    /// More connections than the account allows.
    #[error("Maximum Account Connections Exceeded")]
    MaxAccountConnectionsExceeded,
    /// What the client may do has changed.
    #[error("Credentials Revoked")]
    Revocation,
    /// An operator ended it.
    #[error("Kicked")]
    Kicked,
    /// More connections than allowed.
    #[error("Maximum Connections Exceeded")]
    MaxConnectionsExceeded,
    /// The broker stops.
    #[error("Server Shutdown")]
    ServerShutdown,
}

/// Counters of the whole broker.
#[derive(Debug, Default)]
pub struct Counters {
    /// Messages received from clients.
    pub in_msgs: AtomicU64,
    /// Bytes of headers and payloads received.
    pub in_bytes: AtomicU64,
    /// Messages sent to clients.
    pub out_msgs: AtomicU64,
    /// Bytes of headers and payloads sent.
    pub out_bytes: AtomicU64,
    /// Connections cut off as slow consumers because of `max_pending`.
    pub slow_pending: AtomicU64,
    /// Connections cut off as slow consumers because of `write_deadline`.
    pub slow_deadline: AtomicU64,
    /// Connections cut off because they left pings unanswered.
    pub stale: AtomicU64,
    /// Connections since the start.
    pub total_connections: AtomicU64,
    /// Deliveries to local clients that were dropped because the client was full.
    pub local_dropped: AtomicU64,
}

/// Counters of one connection or local client.
#[derive(Debug, Default)]
pub struct ClientCounters {
    /// Messages received from it.
    pub in_msgs: AtomicU64,
    /// Bytes of headers and payloads received from it.
    pub in_bytes: AtomicU64,
    /// Messages sent to it.
    pub out_msgs: AtomicU64,
    /// Bytes of headers and payloads sent to it.
    pub out_bytes: AtomicU64,
    /// Its subscriptions now.
    pub subscriptions: AtomicU64,
}

impl ClientCounters {
    /// Counts messages sent, for the client and for the whole.
    pub(crate) fn count_out(&self, broker: &Counters, messages: u64, bytes: u64) {
        for counters in [&self.out_msgs, &broker.out_msgs] {
            counters.fetch_add(messages, Relaxed);
        }
        for counters in [&self.out_bytes, &broker.out_bytes] {
            counters.fetch_add(bytes, Relaxed);
        }
    }

    /// Counts messages received, for the client and for the whole.
    pub(crate) fn count_in(&self, broker: &Counters, messages: u64, bytes: u64) {
        for counters in [&self.in_msgs, &broker.in_msgs] {
            counters.fetch_add(messages, Relaxed);
        }
        for counters in [&self.in_bytes, &broker.in_bytes] {
            counters.fetch_add(bytes, Relaxed);
        }
    }
}

/// Writing without waiting: what an [`Outbound`] needs of a socket.
pub trait TryWrite: Send + Sync {
    /// Writes what fits of `chunks` and returns how many bytes that was; `WouldBlock` when nothing does.
    fn try_write_vectored(&self, chunks: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Passes on what was taken and is held back by a layer such as TLS; `WouldBlock` when some of it stays.
    fn try_flush(&self) -> io::Result<()> {
        Ok(())
    }
}

impl TryWrite for tokio::net::TcpStream {
    fn try_write_vectored(&self, chunks: &[IoSlice<'_>]) -> io::Result<usize> {
        Self::try_write_vectored(self, chunks)
    }
}

/// One connection's way out.
pub struct Outbound {
    id: ClientId,
    max_pending_bytes: usize,
    queue: Mutex<Queue>,
    backlog_bytes: AtomicUsize,
    owner: Mutex<Owner>,
    /// Wakes publishers that wait for the backlog to shrink.
    relief: Notify,
    has_ended: AtomicBool,
    accepts_headers: AtomicBool,
    /// A subscription covers subjects that are denied: each delivery is looked at.
    checks_denials: AtomicBool,
    /// The requests that the client got and may answer, if its permissions are of that kind.
    replies: OnceLock<Box<Answerable>>,
    /// What went in and out.
    pub counters: ClientCounters,
    broker: Arc<Counters>,
}

/// The connection's task.
#[derive(Default)]
struct Owner {
    task: Option<Waker>,
    /// There is something that it has not looked at yet.
    has_news: bool,
}

struct Answerable {
    requests: Mutex<Replies>,
    clock: RealClock,
}

struct Queue {
    /// Given up when the connection has ended, so that whoever still holds the `Outbound` does not hold the socket.
    socket: Option<Arc<dyn TryWrite>>,
    chunks: VecDeque<Vec<u8>>,
    /// Bytes of the first chunk that are already written.
    written: usize,
    bytes: usize,
    /// Something lies on the socket that may hold back what it took.
    is_layered: bool,
    /// Why the connection ends, once it does.
    reason: Option<CloseReason>,
    /// Whether what is queued is still to be sent after `reason` was set.
    flush_first: bool,
}

/// How far writing the queue came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing is queued.
    Idle,
    /// The socket is full: it takes more once the client reads.
    Blocked,
    /// The connection has ended; nothing more will be written.
    Ended,
}

/// Publishers to a connection wait a little once this much is queued for it.
pub const STALL_BACKLOG_BYTES: usize = 1 << 20;
const COALESCE_BYTES: usize = 64 << 10;
const CHUNKS_A_WRITE: usize = 64;

impl Outbound {
    /// The way out of connection `id` over `socket`.
    pub fn new(
        id: ClientId,
        socket: Arc<dyn TryWrite>,
        max_pending_bytes: usize,
        broker: Arc<Counters>,
    ) -> Self {
        Self {
            id,
            max_pending_bytes,
            queue: Mutex::new(Queue {
                socket: Some(socket),
                chunks: VecDeque::new(),
                written: 0,
                bytes: 0,
                is_layered: false,
                reason: None,
                flush_first: false,
            }),
            backlog_bytes: AtomicUsize::new(0),
            owner: Mutex::default(),
            relief: Notify::new(),
            has_ended: AtomicBool::new(false),
            accepts_headers: AtomicBool::new(false),
            checks_denials: AtomicBool::new(false),
            replies: OnceLock::new(),
            counters: ClientCounters::default(),
            broker,
        }
    }

    /// What is written may be held back by a layer on the socket, such as TLS.
    #[must_use]
    pub fn layered(self) -> Self {
        self.lock().is_layered = true;
        self
    }

    /// Wakes the connection's task: there is something to write, or to end.
    pub fn wake(&self) {
        let mut owner = self.lock_owner();
        // Who has not looked at the last news yet was woken for it.
        let task = (!owner.has_news).then(|| owner.task.clone()).flatten();
        owner.has_news = true;
        drop(owner);
        if let Some(task) = task {
            task.wake();
        }
    }

    /// Names the task that [`Self::wake`] wakes. Returns whether there has been anything new since it was asked last: to be
    /// asked before anything else is looked at, so that nothing is missed.
    pub fn attend(&self, task: &Waker) -> bool {
        let mut owner = self.lock_owner();
        if !owner.task.as_ref().is_some_and(|held| held.will_wake(task)) {
            owner.task = Some(task.clone());
        }
        std::mem::take(&mut owner.has_news)
    }

    /// The connection's task is over: nobody is woken any more.
    pub fn dismiss(&self) {
        self.lock_owner().task = None;
    }

    /// The connection.
    pub fn id(&self) -> ClientId {
        self.id
    }

    /// Sends `data`, which comes back empty: written, queued, or discarded because the connection has ended.
    pub fn push(&self, data: &mut Vec<u8>) {
        let mut queue = self.lock();
        if queue.reason.is_some() || data.is_empty() {
            data.clear();
            return;
        }
        let mut written = 0;
        while queue.bytes == 0 && written < data.len() {
            match queue.write_now(&[IoSlice::new(&data[written..])]) {
                Ok(count) if count > 0 => written += count,
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => break,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => {
                    data.clear();
                    return self.end(queue, CloseReason::WriteError);
                }
            }
        }
        let rest = data.len() - written;
        if rest == 0 {
            data.clear();
            if queue.is_layered && queue.holds_back() {
                self.wake();
            }
            return;
        }
        if queue.bytes + rest > self.max_pending_bytes {
            data.clear();
            self.broker.slow_pending.fetch_add(1, Relaxed);
            tracing::warn!(
                conn = self.id.0,
                "Slow Consumer Detected: MaxPending of {} Exceeded",
                self.max_pending_bytes
            );
            return self.end(queue, CloseReason::SlowConsumerPendingBytes);
        }
        queue.append(data, written);
        self.backlog_bytes.store(queue.bytes, Relaxed);
        drop(queue);
        self.wake();
    }

    /// Writes queued bytes until the queue is empty or the socket full. For the connection's task.
    pub fn write_queued(&self) -> Progress {
        let mut queue = self.lock();
        if queue.reason.is_some() && !queue.flush_first {
            return Progress::Ended;
        }
        while queue.bytes > 0 {
            match queue.write_front() {
                Ok(count) if count > 0 => queue.advance(count),
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {
                    self.publish_backlog(queue.bytes);
                    return Progress::Blocked;
                }
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => {
                    self.end(queue, CloseReason::WriteError);
                    return Progress::Ended;
                }
            }
        }
        self.publish_backlog(0);
        if queue.is_layered && queue.holds_back() {
            return Progress::Blocked;
        }
        if queue.reason.is_some() {
            queue.socket = None;
            return Progress::Ended;
        }
        Progress::Idle
    }

    /// Waits until the backlog is at most half of [`STALL_BACKLOG_BYTES`] or the connection has ended.
    pub async fn relieved(&self) {
        loop {
            let notified = self.relief.notified();
            if self.backlog_bytes() <= STALL_BACKLOG_BYTES / 2 || self.has_ended() {
                return;
            }
            notified.await;
        }
    }

    /// Bytes that wait to be sent.
    pub fn backlog_bytes(&self) -> usize {
        self.backlog_bytes.load(Relaxed)
    }

    /// Ends the connection now; what is queued is discarded. The first reason stands.
    pub fn close(&self, reason: CloseReason) {
        self.end(self.lock(), reason);
    }

    /// Cuts the connection off because it took nothing for the write deadline. One that ends already is not counted.
    pub fn close_for_write_deadline(&self) {
        if let Some(reason) = self.reason() {
            return self.close(reason);
        }
        self.broker.slow_deadline.fetch_add(1, Relaxed);
        tracing::warn!(
            conn = self.id.0,
            bytes = self.backlog_bytes(),
            "Slow Consumer Detected: WriteDeadline Exceeded"
        );
        self.close(CloseReason::SlowConsumerWriteDeadline);
    }

    /// Ends the connection once what is queued is sent; takes nothing new. The first reason stands.
    pub fn finish(&self, reason: CloseReason) {
        let mut queue = self.lock();
        if queue.reason.is_none() {
            queue.reason = Some(reason);
            queue.flush_first = true;
        }
        drop(queue);
        self.has_ended.store(true, Release);
        self.wake();
        self.relief.notify_waiters();
    }

    /// Whether the connection has ended, for whatever reason.
    pub fn has_ended(&self) -> bool {
        self.has_ended.load(Acquire)
    }

    /// Why the connection ended, if it has.
    pub fn reason(&self) -> Option<CloseReason> {
        self.lock().reason
    }

    pub(crate) fn count_out(&self, messages: u64, bytes: u64) {
        self.counters.count_out(&self.broker, messages, bytes);
    }

    /// Says whether the client understands HMSG; without it headers are stripped.
    pub fn set_accepts_headers(&self, accepts: bool) {
        self.accepts_headers.store(accepts, Relaxed);
    }

    /// From now on, each delivery is held against what is denied to the client.
    pub(crate) fn check_denials(&self) {
        self.checks_denials.store(true, Relaxed);
    }

    pub(crate) fn checks_denials(&self) -> bool {
        self.checks_denials.load(Relaxed)
    }

    /// From now on, the client may answer the requests that it gets.
    pub(crate) fn set_replies(&self, replies: Replies) {
        // A client that connects twice keeps what it may answer already.
        self.replies.get_or_init(|| {
            Box::new(Answerable {
                requests: Mutex::new(replies),
                clock: RealClock::new(),
            })
        });
    }

    /// A request is delivered that wants its answer at `reply`.
    pub(crate) fn note_request(&self, reply: &str) {
        if let Some(answerable) = self.replies.get() {
            let now = answerable.clock.monotonic();
            answerable.lock().asked(reply, now);
        }
    }

    /// Whether the client may publish to `subject` because it was asked to; it counts as an answer.
    pub(crate) fn may_answer(&self, subject: &str) -> bool {
        self.replies.get().is_some_and(|answerable| {
            let now = answerable.clock.monotonic();
            answerable.lock().may_answer(subject, now)
        })
    }

    /// Whether the client understands HMSG.
    pub fn accepts_headers(&self) -> bool {
        self.accepts_headers.load(Relaxed)
    }

    fn end(&self, mut queue: MutexGuard<'_, Queue>, reason: CloseReason) {
        queue.reason.get_or_insert(reason);
        queue.flush_first = false;
        queue.chunks = VecDeque::new();
        queue.bytes = 0;
        queue.socket = None;
        drop(queue);
        self.backlog_bytes.store(0, Relaxed);
        self.has_ended.store(true, Release);
        self.wake();
        self.relief.notify_waiters();
    }

    fn publish_backlog(&self, bytes: usize) {
        self.backlog_bytes.store(bytes, Relaxed);
        if bytes <= STALL_BACKLOG_BYTES / 2 {
            self.relief.notify_waiters();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_owner(&self) -> MutexGuard<'_, Owner> {
        self.owner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answerable {
    fn lock(&self) -> MutexGuard<'_, Replies> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Outbound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbound")
            .field("id", &self.id)
            .field("backlog_bytes", &self.backlog_bytes)
            .finish()
    }
}

impl Queue {
    /// Queues `data[from..]` and empties `data`. Small pieces join the last chunk, so that the number of chunks stays small.
    fn append(&mut self, data: &mut Vec<u8>, from: usize) {
        let rest = &data[from..];
        self.bytes += rest.len();
        match self.chunks.back_mut() {
            Some(last) if last.len() + rest.len() <= COALESCE_BYTES => last.extend_from_slice(rest),
            _ if from > 0 || data.len() < data.capacity() / 2 => self.chunks.push_back(rest.to_vec()),
            _ => self.chunks.push_back(std::mem::take(data)),
        }
        data.clear();
    }

    fn write_now(&self, chunks: &[IoSlice<'_>]) -> io::Result<usize> {
        self.socket
            .as_ref()
            .map_or(Err(io::ErrorKind::BrokenPipe.into()), |socket| {
                socket.try_write_vectored(chunks)
            })
    }

    /// Whether a layer still holds something back. What goes wrong shows at the next write.
    fn holds_back(&self) -> bool {
        let flushed = self.socket.as_ref().map_or(Ok(()), |socket| socket.try_flush());
        flushed.is_err_and(|err| err.kind() == io::ErrorKind::WouldBlock)
    }

    fn write_front(&self) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); CHUNKS_A_WRITE];
        let mut count = 0;
        for (slot, chunk) in slices.iter_mut().zip(&self.chunks) {
            *slot = IoSlice::new(if count == 0 { &chunk[self.written..] } else { chunk });
            count += 1;
        }
        self.write_now(&slices[..count])
    }

    fn advance(&mut self, mut count: usize) {
        self.bytes -= count;
        while let Some(first) = self.chunks.front() {
            let left = first.len() - self.written;
            if count < left {
                self.written += count;
                return;
            }
            count -= left;
            self.written = 0;
            self.chunks.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
