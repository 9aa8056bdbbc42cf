//! Who gets a message: subscriptions of network and local clients, and the streams that capture its subject.
//!
//! A route is looked up once and remembered in the sender's [`OutBatch`] until any subscription or stream changes, so the
//! usual message costs one comparison and one copy for each receiver.

mod abroad;
mod lookup;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::auth::permissions::Permissions;
use crate::batch::{Delivery, OutBatch};
use crate::env::real::RealClock;
use crate::local::{LocalQueue, SubId};
use crate::outbound::{ClientCounters, ClientId, Counters, Outbound};
use crate::shard::inbox::JsKind;
use crate::sharing::answers::Answers;
use crate::sharing::{ServiceLink, Sharing};
use crate::subject::{self, SubIndex};
use crate::types::{AccountId, StreamId};

/// A message on its way.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Where it is sent: a literal subject.
    pub subject: &'a str,
    /// Where an answer may go.
    pub reply: Option<&'a str>,
    /// The header block, `NATS/1.0\r\n … \r\n\r\n`, or empty.
    pub headers: &'a [u8],
    /// The payload.
    pub payload: &'a [u8],
}

/// Where a subscription delivers to.
#[derive(Clone, Debug)]
pub enum Target {
    /// A connection.
    Connection(Arc<Outbound>),
    /// A client in this process.
    Local(Arc<LocalQueue>),
}

impl Target {
    /// The client.
    pub fn id(&self) -> ClientId {
        match self {
            Self::Connection(outbound) => outbound.id(),
            Self::Local(queue) => queue.id(),
        }
    }

    /// Bytes that wait for the client to take them.
    pub fn backlog_bytes(&self) -> usize {
        match self {
            Self::Connection(outbound) => outbound.backlog_bytes(),
            Self::Local(queue) => queue.backlog_bytes(),
        }
    }

    /// Whether the client takes no more.
    pub fn is_ended(&self) -> bool {
        match self {
            Self::Connection(outbound) => outbound.has_ended(),
            Self::Local(queue) => queue.is_closed(),
        }
    }

    /// Whether it is one of the broker's own.
    pub(crate) fn is_internal(&self) -> bool {
        match self {
            Self::Connection(_) => false,
            Self::Local(queue) => queue.is_internal(),
        }
    }

    fn checks_denials(&self) -> bool {
        match self {
            Self::Connection(outbound) => outbound.checks_denials(),
            Self::Local(_) => true,
        }
    }

    pub(crate) fn counters(&self) -> &ClientCounters {
        match self {
            Self::Connection(outbound) => &outbound.counters,
            Self::Local(queue) => queue.counters(),
        }
    }

    pub(crate) fn count_out(&self, messages: u64, bytes: u64) {
        match self {
            Self::Connection(outbound) => outbound.count_out(messages, bytes),
            Self::Local(queue) => queue.count_out(messages, bytes),
        }
    }

    pub(crate) async fn relieved(&self) {
        match self {
            Self::Connection(outbound) => outbound.relieved().await,
            Self::Local(queue) => queue.relieved().await,
        }
    }
}

/// One subscription.
#[derive(Debug)]
pub struct Subscription {
    target: Target,
    subject: Box<str>,
    queue: Option<Box<str>>,
    /// How the client names it.
    sid: Box<[u8]>,
    delivered: AtomicU64,
    /// Deliveries after which it ends; 0: never.
    max: AtomicU64,
    gone: AtomicBool,
    /// What the client may not get although the subject covers it.
    denials: Option<Arc<Permissions>>,
}

impl Subscription {
    /// What is subscribed to.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The queue group.
    pub fn queue(&self) -> Option<&str> {
        self.queue.as_deref()
    }

    /// The client's name for it.
    pub fn sid(&self) -> &[u8] {
        &self.sid
    }

    /// The client's name for it as text: that of a local client is a number.
    pub fn sid_text(&self) -> String {
        match &self.target {
            Target::Connection(_) => String::from_utf8_lossy(&self.sid).into_owned(),
            Target::Local(_) => SubId::of(self).0.to_string(),
        }
    }

    /// Deliveries after which it ends, if that was said.
    pub fn max(&self) -> Option<u64> {
        Some(self.max.load(Ordering::Relaxed)).filter(|max| *max > 0)
    }

    /// Whose it is.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Messages delivered to it.
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Whether the client may have a message of this subject.
    pub(crate) fn may_deliver(&self, subject: &str) -> bool {
        match &self.denials {
            None => true,
            Some(permissions) => {
                !self.target.checks_denials() || permissions.may_deliver(subject, self.queue())
            }
        }
    }

    /// Whether it has been taken out of the router.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Lets the subscription end after `max` deliveries in all, those made counted. Returns whether it has had them already.
    pub(crate) fn limit(&self, max: u64) -> bool {
        let used_up = max <= self.delivered();
        self.max.store(if used_up { 0 } else { max }, Ordering::Relaxed);
        used_up
    }

    /// Counts a delivery.
    pub(crate) fn take_turn(&self) -> Turn {
        let delivered = self.delivered.fetch_add(1, Ordering::Relaxed) + 1;
        match self.max.load(Ordering::Relaxed) {
            0 => Turn::Deliver,
            max if delivered < max => Turn::Deliver,
            max if delivered == max => Turn::DeliverLast,
            _ => Turn::Skip,
        }
    }
}

/// What a subscription does with a message.
pub(crate) enum Turn {
    Deliver,
    DeliverLast,
    Skip,
}

/// Where a publish went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routed {
    /// Subscriptions that got it.
    pub receivers: usize,
    /// What the storage thread has to do with it, if anything.
    pub bound: Option<JsKind>,
}

/// The subscriptions and streams of an account. Shared.
#[derive(Debug, Default)]
pub struct Router {
    account: AccountId,
    /// How much of JetStream the account has, as a [`JetStreamUse`].
    jetstream: AtomicU8,
    /// The server's domain, as requests name it.
    domain: Option<Arc<str>>,
    /// Subscriptions of the broker's own clients.
    internal: AtomicUsize,
    generation: AtomicU64,
    tables: RwLock<Tables>,
    counters: Arc<Counters>,
    /// Whether there is anything in `sharing`.
    shares: AtomicBool,
    sharing: RwLock<Arc<Sharing>>,
    answers: Answers,
    clock: RealClock,
    inserts: AtomicU64,
    removes: AtomicU64,
    lookups: AtomicU64,
}

/// How much of JetStream an account has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum JetStreamUse {
    /// All of it.
    #[default]
    Full = 0,
    /// It is told that it has none.
    Told = 1,
    /// The same, whatever it asks: the system account.
    ToldAlways = 2,
    /// Nobody listens.
    Off = 3,
}

/// What has happened to a router since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouterChanges {
    /// Subscriptions added.
    pub inserts: u64,
    /// Subscriptions taken out.
    pub removes: u64,
    /// Subjects looked up because no sender remembered their route.
    pub lookups: u64,
}

#[derive(Debug, Default)]
struct Tables {
    subscriptions: SubIndex<Arc<Subscription>>,
    streams: SubIndex<StreamId>,
    stream_subjects: HashMap<StreamId, Vec<String>>,
}

/// The receivers of a subject.
#[derive(Debug, Default)]
pub(crate) struct Receivers {
    pub(crate) plain: Vec<Found>,
    pub(crate) queues: Vec<Vec<Found>>,
    pub(crate) bound: Option<JsKind>,
    /// What other accounts do with it besides.
    pub(crate) abroad: Option<Arc<Abroad>>,
    /// Any other valid last token has the same receivers.
    pub(crate) any_last_token: bool,
}

/// A subscription that gets a message.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) subscription: Arc<Subscription>,
    /// What the subject is called in the subscription's account, if that is another one.
    pub(crate) renamed: Option<Arc<str>>,
}

/// What other accounts do with a message, besides delivering it.
#[derive(Debug, Default)]
pub(crate) struct Abroad {
    /// Services that are asked.
    pub(crate) services: Vec<Arc<ServiceLink>>,
    /// Streams that store it, and what its subject is called there.
    pub(crate) streams: Vec<(AccountId, StreamId, Arc<str>)>,
}

impl Router {
    /// The router of the account `$G`, without subscriptions or streams.
    pub fn new() -> Self {
        Self::default()
    }

    /// The router of an account, without subscriptions or streams.
    pub(crate) fn of(account: AccountId, counters: Arc<Counters>, domain: Option<Arc<str>>) -> Self {
        Self {
            account,
            counters,
            domain,
            ..Self::default()
        }
    }

    /// Says how much of JetStream the account has.
    pub(crate) fn set_jetstream(&self, jetstream: JetStreamUse) {
        self.jetstream.store(jetstream as u8, Ordering::Relaxed);
        self.changed();
    }

    /// The account whose subjects these are.
    pub fn account(&self) -> AccountId {
        self.account
    }

    /// Gives `msg` to its receivers through `out`; of each queue group one. Returns how many got it.
    /// Nothing is sent before [`OutBatch::flush`], unless a lot has gathered.
    pub fn route(&self, msg: &Message<'_>, out: &mut OutBatch) -> usize {
        self.route_publish(msg, out).receivers
    }

    /// Gives `msg` to the receivers of the subject `to`, who see it as published to its own subject: how JetStream delivers.
    pub fn route_to(&self, to: &str, msg: &Message<'_>, out: &mut OutBatch) -> usize {
        self.finish(out.deliver_to(self, to, msg)).receivers
    }

    /// As [`Self::route`], and tells whether the subject belongs to JetStream: to a stream, the API or acknowledgements.
    pub fn route_publish(&self, msg: &Message<'_>, out: &mut OutBatch) -> Routed {
        self.finish(out.deliver(self, msg))
    }

    /// Ends the subscriptions that had their last message.
    pub(crate) fn finish(&self, delivery: Delivery) -> Routed {
        for subscription in delivery.used_up {
            self.end(&subscription);
        }
        delivery.routed
    }

    /// Whether anyone is subscribed to `subject`, here or in an account that takes it.
    pub fn has_interest(&self, subject: &str) -> bool {
        self.read().subscriptions.has_match(subject) || self.has_interest_abroad(subject)
    }

    /// Whether anyone is subscribed to `subject` as it stands, without wildcards.
    pub(crate) fn is_subscribed(&self, subject: &str) -> bool {
        let mut found = false;
        self.read()
            .subscriptions
            .visit(subject, |held| found |= held.subject() == subject);
        found
    }

    /// The backlog of the slowest subscriber to `subject`; 0 without any.
    pub fn backlog_bytes(&self, subject: &str) -> usize {
        let own = self.own_backlog_bytes(subject);
        own.max(self.backlog_bytes_abroad(subject))
    }

    fn own_backlog_bytes(&self, subject: &str) -> usize {
        let mut slowest = 0;
        self.read()
            .subscriptions
            .visit(subject, |held| slowest = slowest.max(held.target.backlog_bytes()));
        slowest
    }

    /// Sets what stream `id` captures; nothing takes it out. The subjects of different streams must not overlap.
    pub fn set_stream_subjects(&self, id: StreamId, subjects: &[String]) {
        let mut tables = self.write();
        for subject in tables.stream_subjects.remove(&id).unwrap_or_default() {
            tables.streams.remove(&subject, |held| *held == id);
        }
        for subject in subjects {
            tables.streams.insert(subject, id);
        }
        if !subjects.is_empty() {
            tables.stream_subjects.insert(id, subjects.to_vec());
        }
        self.changed();
    }

    /// The stream that captures `subject`.
    pub fn captured_by(&self, subject: &str) -> Option<StreamId> {
        self.read().captured_by(subject).0
    }

    /// Adds a subscription of `target` to `filter`, which must be valid. `sid` is the client's name for it.
    pub fn subscribe(
        &self,
        target: &Target,
        filter: &str,
        queue: Option<&str>,
        sid: &[u8],
    ) -> Arc<Subscription> {
        self.subscribe_with(target, filter, queue, sid, None)
    }

    /// As [`Self::subscribe`]; what `denials` denies is not delivered.
    pub(crate) fn subscribe_with(
        &self,
        target: &Target,
        filter: &str,
        queue: Option<&str>,
        sid: &[u8],
        denials: Option<Arc<Permissions>>,
    ) -> Arc<Subscription> {
        let subscription = Arc::new(Subscription {
            target: target.clone(),
            subject: filter.into(),
            queue: queue.map(Into::into),
            sid: sid.into(),
            delivered: AtomicU64::new(0),
            max: AtomicU64::new(0),
            gone: AtomicBool::new(false),
            denials,
        });
        let mut tables = self.write();
        tables.subscriptions.insert(filter, Arc::clone(&subscription));
        target.counters().subscriptions.fetch_add(1, Ordering::Relaxed);
        if target.is_internal() {
            self.internal.fetch_add(1, Ordering::Relaxed);
        }
        self.inserts.fetch_add(1, Ordering::Relaxed);
        self.changed();
        subscription
    }

    /// Takes a subscription out. Does nothing when it is out already.
    pub fn unsubscribe(&self, subscription: &Arc<Subscription>) {
        self.take_out(subscription);
    }

    /// As [`Self::unsubscribe`]; returns whether the subscription was there.
    fn take_out(&self, subscription: &Arc<Subscription>) -> bool {
        let mut tables = self.write();
        let is_there = tables
            .subscriptions
            .remove(&subscription.subject, |held| Arc::ptr_eq(held, subscription))
            .is_some();
        if is_there {
            subscription.gone.store(true, Ordering::Relaxed);
            if subscription.target.is_internal() {
                self.internal.fetch_sub(1, Ordering::Relaxed);
            }
            subscription
                .target
                .counters()
                .subscriptions
                .fetch_sub(1, Ordering::Relaxed);
            self.changed();
        }
        is_there
    }

    /// A plain subscription of `client` that covers `subject`: where the client waits for an answer.
    pub fn subscription_of(&self, client: ClientId, subject: &str) -> Option<Arc<Subscription>> {
        let mut found = None;
        self.read().subscriptions.visit(subject, |held| {
            if held.target.id() == client && held.queue.is_none() {
                found.get_or_insert_with(|| Arc::clone(held));
            }
        });
        found
    }

    /// All subscriptions.
    pub fn subscriptions(&self) -> Vec<Arc<Subscription>> {
        self.read().subscriptions.values().map(Arc::clone).collect()
    }

    /// How many subscriptions there are, without the broker's own.
    pub fn subscription_count(&self) -> usize {
        let internal = self.internal.load(Ordering::Relaxed);
        self.read().subscriptions.len().saturating_sub(internal)
    }

    /// What has happened since the start.
    pub fn changes(&self) -> RouterChanges {
        RouterChanges {
            inserts: self.inserts.load(Ordering::Relaxed),
            removes: self.removes.load(Ordering::Relaxed),
            lookups: self.lookups.load(Ordering::Relaxed),
        }
    }

    /// The broker's counters.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Changes with each change of subscriptions or streams.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Forgets all remembered routes.
    fn changed(&self) {
        self.generation.fetch_add(1, Ordering::Release);
        if self.shares() {
            self.tell_origins();
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    /// The stream of `subject` and whether any other valid last token would give the same. Subjects with wildcards are
    /// captured as nats-server does, their wildcards being tokens like others; malformed ones are not.
    fn captured_by(&self, subject: &str) -> (Option<StreamId>, bool) {
        let mut found = None;
        let any_last_token = self.streams.visit(subject, |id| {
            found.get_or_insert(*id);
        });
        if found.is_some() && !subject::is_valid_literal(subject) {
            return (found.filter(|_| subject::is_valid_filter(subject)), false);
        }
        (found, any_last_token)
    }
}

#[cfg(test)]
mod tests;
