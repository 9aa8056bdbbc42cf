//! Clients in this process: they publish and subscribe as a connection would, without a socket. MQTT sessions use one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};

use crate::batch::{OutBatch, wait_for};
use crate::outbound::{ClientCounters, ClientId, Counters, STALL_BACKLOG_BYTES};
use crate::router::{Message, Router, Subscription, Target};
use crate::shard::inbox::{Completion, Inbox, JsKind, JsOp, PubAck, PublishError, ReplyTo, Resend};
use crate::subject;
use crate::types::AccountId;

/// Names a subscription of one [`LocalClient`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubId(pub u64);

impl SubId {
    pub(crate) fn of(subscription: &Subscription) -> Self {
        Self(
            subscription
                .sid()
                .try_into()
                .map(u64::from_le_bytes)
                .unwrap_or_default(),
        )
    }
}

/// A message to publish.
#[derive(Clone, Debug, Default)]
pub struct LocalMessage {
    /// A literal subject.
    pub subject: String,
    /// Where an answer may go.
    pub reply: Option<String>,
    /// The header block, `NATS/1.0\r\n … \r\n\r\n`, or empty.
    pub headers: Bytes,
    /// The payload.
    pub payload: Bytes,
    /// For [`LocalClient::publish_durable`]: how a repetition is recognised.
    pub resend: Option<Resend>,
}

/// A message for a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalDelivery {
    /// The subscription.
    pub sub: SubId,
    /// The message's subject: UTF-8.
    pub subject: Bytes,
    /// Where an answer may go: UTF-8.
    pub reply: Option<Bytes>,
    /// The header block, or empty.
    pub headers: Bytes,
    /// The payload.
    pub payload: Bytes,
}

impl LocalDelivery {
    pub(crate) fn memory_bytes(&self) -> usize {
        let reply = self.reply.as_ref().map_or(0, Bytes::len);
        size_of::<Self>() + self.subject.len() + reply + self.headers.len() + self.payload.len()
    }
}

/// Why a subscription was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// Not a valid subject or filter.
    #[error("{subject:?} is not a subject that can be subscribed to")]
    InvalidSubject {
        /// What was asked for.
        subject: String,
    },
    /// The broker is shutting down.
    #[error("the broker is shutting down")]
    Closed,
}

/// A client in this process. Shared by reference; [`Self::recv`] belongs to one task. Dropping it ends its subscriptions.
#[derive(Debug)]
pub struct LocalClient {
    name: String,
    router: Arc<Router>,
    inbox: Arc<Inbox>,
    queue: Arc<LocalQueue>,
    batch: Mutex<OutBatch>,
    subscriptions: Mutex<HashMap<SubId, Arc<Subscription>>>,
    next_sub: AtomicU64,
}

impl LocalClient {
    pub(crate) fn new(name: &str, router: Arc<Router>, inbox: Arc<Inbox>, queue: Arc<LocalQueue>) -> Self {
        Self {
            name: name.to_owned(),
            router,
            inbox,
            batch: Mutex::new(OutBatch::new(queue.id())),
            queue,
            subscriptions: Mutex::default(),
            next_sub: AtomicU64::new(1),
        }
    }

    /// What the client is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Names the client in this run.
    pub fn id(&self) -> ClientId {
        self.queue.id()
    }

    /// Publishes in order: to subscribers at once, and to the streams that capture the subjects, unacknowledged (MQTT QoS 0).
    /// Waits for room in the storage thread's inbox, and a little for subscribers that have fallen behind.
    /// Messages with a subject that cannot be published to go nowhere.
    pub async fn publish(&self, msgs: Vec<LocalMessage>) {
        let mut ops = Vec::new();
        let account = self.router.account();
        let (stalled, mut crossed) = self.route_all(msgs, |_, msg, bound| {
            if let Ok(kind) = bound {
                ops.push(operation(account, kind, msg, None));
            }
        });
        ops.append(&mut crossed);
        // A closed inbox means the broker stops: what nobody acknowledges may go.
        drop(self.inbox.send(ops).await);
        wait_for(stalled).await;
    }

    /// Publishes in order, to subscribers at once and to the streams that capture the subjects. Waits as
    /// [`Self::publish`] does. The answers come together when each message is on disk or refused, in the order of `msgs`;
    /// a message that no stream captures is answered with [`PublishError::NoStream`].
    pub async fn publish_durable(
        &self,
        msgs: Vec<LocalMessage>,
    ) -> oneshot::Receiver<Vec<Result<PubAck, PublishError>>> {
        let (completion, answers) = Completion::new(msgs.len());
        let mut ops = Vec::new();
        let account = self.router.account();
        let (stalled, mut crossed) = self.route_all(msgs, |index, msg, bound| match bound {
            Ok(kind @ JsKind::Publish(_)) => {
                ops.push(operation(account, kind, msg, Some((&completion, index))));
            }
            Ok(kind) => {
                ops.push(operation(account, kind, msg, None));
                completion.resolve(index, Err(PublishError::NoStream));
            }
            Err(err) => completion.resolve(index, Err(err)),
        });
        drop(completion);
        ops.append(&mut crossed);
        // Operations that come back from a closed inbox answer `Closed` when they are dropped.
        drop(self.inbox.send(ops).await);
        wait_for(stalled).await;
        answers
    }

    /// Whether a stream captures `subject`.
    pub fn captured(&self, subject: &str) -> bool {
        self.router.captured_by(subject).is_some()
    }

    /// Subscribes to a subject or filter, as a member of a queue group if one is named.
    pub fn subscribe(&self, subject: &str, queue: Option<&str>) -> Result<SubId, SubscribeError> {
        if !subject::is_valid_filter(subject) {
            return Err(SubscribeError::InvalidSubject {
                subject: subject.to_owned(),
            });
        }
        if self.queue.is_closed() {
            return Err(SubscribeError::Closed);
        }
        let id = SubId(self.next_sub.fetch_add(1, Relaxed));
        let target = Target::Local(Arc::clone(&self.queue));
        let subscription = self
            .router
            .subscribe(&target, subject, queue, &id.0.to_le_bytes());
        lock(&self.subscriptions).insert(id, subscription);
        Ok(id)
    }

    /// Ends a subscription. Deliveries that were on their way still arrive.
    pub fn unsubscribe(&self, sub: SubId) {
        if let Some(subscription) = lock(&self.subscriptions).remove(&sub) {
            self.router.unsubscribe(&subscription);
        }
    }

    /// Everything that has arrived, in order; waits for something. `None`: the broker has stopped.
    ///
    /// What waits here is bounded by `max_pending`: publishers are held up a little from 1 MiB on; deliveries beyond the
    /// bound are dropped and counted ([`Self::dropped`], and `local_dropped` of the broker).
    pub async fn recv(&self) -> Option<Vec<LocalDelivery>> {
        self.queue.recv().await
    }

    /// Deliveries dropped because the client was full.
    pub fn dropped(&self) -> u64 {
        self.queue.dropped.load(Relaxed)
    }

    /// Routes each message and hands it on with what it is bound for. Gives the receivers that have fallen behind, and what
    /// there is to do for the storage thread in other accounts.
    fn route_all(
        &self,
        msgs: Vec<LocalMessage>,
        mut each: impl FnMut(u32, LocalMessage, Result<JsKind, PublishError>),
    ) -> (Vec<Target>, Vec<JsOp>) {
        let mut batch = lock(&self.batch);
        let (mut count, mut bytes) = (0, 0);
        for (index, mut msg) in (0_u32..).zip(msgs) {
            if self.router.shares()
                && let Some(mapped) = self.router.mapped(&msg.subject, batch.random())
            {
                msg.subject = mapped;
            }
            if !subject::is_valid_literal(&msg.subject) {
                each(index, msg, Err(PublishError::InvalidSubject));
                continue;
            }
            let view = Message {
                subject: &msg.subject,
                reply: msg.reply.as_deref(),
                headers: &msg.headers,
                payload: &msg.payload,
            };
            let routed = self.router.route_publish(&view, &mut batch);
            count += 1;
            bytes += (msg.headers.len() + msg.payload.len()) as u64;
            each(index, msg, routed.bound.ok_or(PublishError::NoStream));
        }
        batch.flush();
        self.queue.count_in(count, bytes);
        (batch.take_stalled(), batch.take_crossed())
    }
}

impl Drop for LocalClient {
    fn drop(&mut self) {
        for (_, subscription) in lock(&self.subscriptions).drain() {
            self.router.unsubscribe(&subscription);
        }
        self.queue.close();
    }
}

fn operation(
    account: AccountId,
    kind: JsKind,
    msg: LocalMessage,
    slot: Option<(&Arc<Completion>, u32)>,
) -> JsOp {
    let reply = match (slot, msg.reply) {
        (Some((completion, index)), _) => ReplyTo::Local {
            completion: Arc::clone(completion),
            index,
            resend: msg.resend,
        },
        (None, Some(reply)) => ReplyTo::Subject(reply.into()),
        (None, None) => ReplyTo::None,
    };
    JsOp {
        account,
        kind,
        subject: msg.subject.into(),
        reply,
        headers: msg.headers,
        payload: msg.payload,
    }
}

/// What waits for a local client.
#[derive(Debug)]
pub struct LocalQueue {
    id: ClientId,
    max_pending_bytes: usize,
    state: Mutex<LocalState>,
    backlog_bytes: AtomicUsize,
    closed: AtomicBool,
    arrived: Notify,
    relief: Notify,
    dropped: AtomicU64,
    counters: ClientCounters,
    broker: Arc<Counters>,
    /// The broker's own: it does not count as somebody's.
    is_internal: bool,
}

#[derive(Debug, Default)]
struct LocalState {
    deliveries: Vec<LocalDelivery>,
    bytes: usize,
}

impl LocalQueue {
    pub(crate) fn new(id: ClientId, max_pending_bytes: usize, broker: Arc<Counters>) -> Self {
        Self {
            id,
            max_pending_bytes,
            state: Mutex::default(),
            backlog_bytes: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            arrived: Notify::new(),
            relief: Notify::new(),
            dropped: AtomicU64::new(0),
            counters: ClientCounters::default(),
            broker,
            is_internal: false,
        }
    }

    /// The queue of one of the broker's own clients, whose messages are nobody's: they are not counted.
    pub(crate) fn internal(id: ClientId, max_pending_bytes: usize) -> Self {
        Self {
            is_internal: true,
            ..Self::new(id, max_pending_bytes, Arc::default())
        }
    }

    pub(crate) fn is_internal(&self) -> bool {
        self.is_internal
    }

    pub(crate) fn id(&self) -> ClientId {
        self.id
    }

    pub(crate) fn counters(&self) -> &ClientCounters {
        &self.counters
    }

    pub(crate) fn backlog_bytes(&self) -> usize {
        self.backlog_bytes.load(Relaxed)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    /// Queues deliveries, which come back empty; those beyond the bound are dropped and counted.
    pub(crate) fn push(&self, deliveries: &mut Vec<LocalDelivery>) {
        let mut state = lock(&self.state);
        if self.is_closed() {
            deliveries.clear();
            return;
        }
        for delivery in deliveries.drain(..) {
            let bytes = delivery.memory_bytes();
            if state.bytes + bytes > self.max_pending_bytes {
                self.dropped.fetch_add(1, Relaxed);
                self.broker.local_dropped.fetch_add(1, Relaxed);
                continue;
            }
            state.bytes += bytes;
            state.deliveries.push(delivery);
        }
        self.backlog_bytes.store(state.bytes, Relaxed);
        drop(state);
        self.arrived.notify_one();
    }

    pub(crate) fn close(&self) {
        // Under the lock, so that nothing is queued afterwards.
        let state = lock(&self.state);
        self.closed.store(true, Relaxed);
        drop(state);
        self.arrived.notify_one();
        self.relief.notify_waiters();
    }

    pub(crate) async fn relieved(&self) {
        loop {
            let notified = self.relief.notified();
            if self.backlog_bytes() <= STALL_BACKLOG_BYTES / 2 || self.is_closed() {
                return;
            }
            notified.await;
        }
    }

    async fn recv(&self) -> Option<Vec<LocalDelivery>> {
        loop {
            if let Some(taken) = self.take() {
                return taken;
            }
            self.arrived.notified().await;
        }
    }

    /// `None`: nothing there yet; `Some(None)`: nothing will come.
    pub(crate) fn take(&self) -> Option<Option<Vec<LocalDelivery>>> {
        let mut state = lock(&self.state);
        if state.deliveries.is_empty() {
            return self.is_closed().then_some(None);
        }
        state.bytes = 0;
        let deliveries = std::mem::take(&mut state.deliveries);
        drop(state);
        self.backlog_bytes.store(0, Relaxed);
        self.relief.notify_waiters();
        Some(Some(deliveries))
    }

    pub(crate) fn count_out(&self, count: u64, bytes: u64) {
        self.counters.count_out(&self.broker, count, bytes);
    }

    fn count_in(&self, count: u64, bytes: u64) {
        self.counters.count_in(&self.broker, count, bytes);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
