//! JetStream: streams and consumers, fed with operations and time, answering with effects.
//!
//! Invariants:
//! - a publish is acknowledged by an effect that waits for the commit of its stream;
//! - consumers get nothing above the durable sequence;
//! - everything that reaches an output is walked in order: the same input gives the same output.

mod account;
mod acks;
mod api;
mod batches;
mod copied;
mod dispatch;
mod effect;
pub(crate) mod events;
mod fast;
mod features;
mod limits;
mod observer;
mod publish;
mod quota;
mod recover;
mod snapshot;
mod sourcing;
#[cfg(test)]
mod tests;
pub(crate) mod time;
mod transfers;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::accounts::names::AccountNames;
use crate::consumer::pull::{Notice, Status};
use crate::env::Fs;
use crate::nats::info::VERSION;
use crate::options::JetStreamTier;
use crate::shard::inbox::{JsKind, JsOp};
use crate::store::{CommitReport, Store};
use crate::stream::Stream;
use crate::types::{AccountId, StreamId, StreamSeq};
use account::JsAccount;
use observer::Observer;
use time::{Mono, Now};
use transfers::Transfers;

pub(crate) use dispatch::{Outlet, push_number, send_notice};
pub(crate) use effect::{AckExtra, Effect, Outgoing};
pub(crate) use publish::store_error;
pub(crate) use recover::RecoverError;
pub(crate) use snapshot::{AccountSnapshot, JsSnapshot, StreamSnapshot};
pub(crate) use sourcing::Origins;

/// How long a changed consumer may stay unsaved.
const PERSIST_NS: i64 = 250_000_000;
/// Consumers that are written in one round at most, beside those that somebody waits for: each costs a sync.
const STATES_A_ROUND: usize = 8;
/// How long a stream's age limit may be passed.
const AGE_CHECK_NS_MIN: i64 = 50_000_000;
/// And as seldom as this: the wall clock may be set.
const AGE_CHECK_NS_MAX: i64 = 60_000_000_000;

/// Handle of a consumer within one run. Never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ConsumerId(u64);

/// What the engine says about itself and where its bounds are.
#[derive(Clone, Debug)]
pub(crate) struct EngineOptions {
    /// The nats-server version that is acted.
    pub(crate) version: &'static str,
    /// Streams at most.
    pub(crate) streams_max: usize,
    /// Consumers at most, over all streams.
    pub(crate) consumers_max: usize,
    /// What the server calls itself.
    pub(crate) server_name: String,
    /// For the names of ephemeral consumers; different in each run.
    pub(crate) seed: u64,
    /// The names of accounts, and what each may use.
    pub(crate) accounts: Arc<AccountNames>,
    /// What all of them may use together.
    pub(crate) tier: JetStreamTier,
    /// The domain, as requests name it.
    pub(crate) domain: Option<String>,
}

impl EngineOptions {
    /// Bounds that are wide for a server of its own. `seed` is entropy, different in each run.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            version: VERSION,
            streams_max: 10_000,
            consumers_max: 100_000,
            server_name: String::new(),
            seed,
            accounts: Arc::new(AccountNames::new()),
            tier: JetStreamTier::default(),
            domain: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Consumer(ConsumerId),
    Age(StreamId),
    Expiry(StreamId),
    Batches(StreamId),
    Schedule(StreamId),
    Copy(StreamId),
    Transfers,
    Persist,
}

/// All streams and consumers.
#[derive(Debug)]
pub(crate) struct Engine {
    options: EngineOptions,
    streams: BTreeMap<StreamId, Stream>,
    accounts: BTreeMap<AccountId, JsAccount>,
    /// The account whose request or event is being worked on.
    account: AccountId,
    /// The account that the last effects are for.
    effects_account: AccountId,
    consumers: BTreeMap<ConsumerId, Observer>,
    last_consumer_id: u64,
    timers: BTreeSet<(Mono, Timer)>,
    /// Consumers that may have something to deliver, in turn.
    ready: VecDeque<ConsumerId>,
    /// Consumers whose durable part has changed.
    dirty: BTreeSet<ConsumerId>,
    /// Those of them that somebody waits for.
    urgent: BTreeSet<ConsumerId>,
    /// Those of them whose time has come.
    due: VecDeque<ConsumerId>,
    is_persist_armed: bool,
    /// Streams that got records since the last commit.
    appended: Vec<StreamId>,
    /// Messages removed since the last commit in favour of newer ones: stream, sequence, and that of the newer one.
    displaced: Vec<(StreamId, StreamSeq, StreamSeq)>,
    /// Streams where that happened: the first position that may be back, should the newer ones not be stored.
    fronts: BTreeMap<StreamId, StreamSeq>,
    /// Schedules that had ended before the start and are still there, and what ended them.
    schedules_ended: Vec<(StreamId, String, StreamSeq)>,
    /// Schedules that are back because what replaced them was not stored.
    schedules_back: Vec<(StreamId, StreamSeq)>,
    age_armed: BTreeSet<StreamId>,
    /// Atomic batches that are not complete, of all streams.
    open_batches: usize,
    /// Fast batches, of all streams.
    open_fast: usize,
    /// The streams that copy a stream, by its account and name.
    copies: BTreeMap<(AccountId, Arc<str>), Vec<StreamId>>,
    /// Those that have something to copy.
    to_copy: BTreeSet<StreamId>,
    /// What was copied and is to leave its origin.
    copied: Vec<copied::Copied>,
    /// Streams whose positions in their sources have changed.
    sources_dirty: BTreeSet<StreamId>,
    /// Where streams listen for what other accounts send them.
    hearings: BTreeMap<u64, StreamId>,
    last_hearing: u64,
    /// Backups that are made and restored.
    transfers: Transfers,
    /// When the last tick was.
    ticked: Mono,
    random: u64,
    changes: u64,
}

impl Engine {
    fn new(options: EngineOptions) -> Self {
        Self {
            random: options.seed | 1,
            options,
            streams: BTreeMap::new(),
            accounts: BTreeMap::new(),
            account: AccountId::GLOBAL,
            effects_account: AccountId::GLOBAL,
            consumers: BTreeMap::new(),
            last_consumer_id: 0,
            timers: BTreeSet::new(),
            ready: VecDeque::new(),
            dirty: BTreeSet::new(),
            urgent: BTreeSet::new(),
            due: VecDeque::new(),
            is_persist_armed: false,
            appended: Vec::new(),
            displaced: Vec::new(),
            fronts: BTreeMap::new(),
            schedules_ended: Vec::new(),
            schedules_back: Vec::new(),
            age_armed: BTreeSet::new(),
            open_batches: 0,
            open_fast: 0,
            copies: BTreeMap::new(),
            to_copy: BTreeSet::new(),
            copied: Vec::new(),
            sources_dirty: BTreeSet::new(),
            hearings: BTreeMap::new(),
            last_hearing: 0,
            transfers: Transfers::default(),
            ticked: Mono(0),
            changes: 0,
        }
    }

    /// Takes one operation. What it brings about is appended to `effects`, to be released after the
    /// next commit.
    pub(crate) fn step<F: Fs>(
        &mut self,
        now: Now,
        mut op: JsOp,
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) {
        self.enter(op.account, effects);
        match op.kind {
            JsKind::Publish(id) => self.publish(now, id, op, store, effects),
            JsKind::Ack => self.ack(now, &op, store, effects),
            JsKind::Api => {
                if let Some(subject) = self.without_domain(&op.subject) {
                    op.subject = subject;
                }
                self.api(now, &op, store, effects);
            }
            JsKind::Transfer => self.transfer(now, op, store, effects),
            JsKind::Heard(hearing) => self.heard(now, hearing, &op, store, effects),
            JsKind::UserInfo => {}
        }
    }

    /// Does what is due at `now`.
    pub(crate) fn tick<F: Fs>(&mut self, now: Now, store: &mut Store<F>, effects: &mut Vec<Effect>) {
        self.ticked = now.mono;
        self.remove_ended_schedules(store);
        self.restore_schedules(now, store);
        while let Some(&(due, timer)) = self.timers.first() {
            if due > now.mono {
                break;
            }
            self.timers.pop_first();
            match timer {
                Timer::Consumer(id) => self.consumer_due(now, id, store, effects),
                Timer::Age(id) => self.age_due(now, id, store, effects),
                Timer::Expiry(id) => self.expiry_due(now, id, store, effects),
                Timer::Batches(id) => self.batches_due(now, id, effects),
                Timer::Schedule(id) => self.schedules_due(now, id, store, effects),
                Timer::Copy(id) => {
                    self.to_copy.insert(id);
                }
                Timer::Transfers => self.transfers_due(now, store, effects),
                Timer::Persist if self.due.is_empty() => {
                    self.is_persist_armed = false;
                    self.due.extend(std::mem::take(&mut self.dirty));
                    self.save_positions(store);
                }
                Timer::Persist => {
                    self.timers.insert((now.mono.after(PERSIST_NS), Timer::Persist));
                }
            }
        }
        self.retire_copied(now, store);
        self.copy(now, store, effects);
        self.work_on_restores(now, store, effects);
    }

    fn consumer_due<F: Fs>(
        &mut self,
        now: Now,
        id: ConsumerId,
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) {
        if !self.enter_stream_of(id, effects) {
            return;
        }
        let Some(observer) = self.consumers.get_mut(&id) else {
            return;
        };
        observer.armed = None;
        observer.consumer.expire_pending(now.mono);
        let mut notices = Vec::new();
        observer.consumer.expire_requests(now.mono, &mut notices);
        push_notices(notices, effects);
        if observer.consumer.take_resumed(now.mono) {
            self.tell_pause(now, id, effects);
        }
        self.tell_consumer_events(now, id, effects);
        let Some(observer) = self.consumers.get(&id) else {
            return;
        };
        if observer.consumer.is_abandoned(now.mono) {
            if let Err(err) = self.remove_consumer(now, id, store, effects) {
                tracing::warn!(error = %err, "abandoned consumer was not deleted");
            }
            return;
        }
        self.note_dirty(now.mono, id);
        self.mark_ready(id);
        self.rearm(now.mono, id);
    }

    /// Writes the states of consumers that are due to the store; they are durable after the commit.
    pub(crate) fn persist<F: Fs>(&mut self, store: &mut Store<F>) {
        let mut ids = std::mem::take(&mut self.urgent);
        for id in self.due.drain(..self.due.len().min(STATES_A_ROUND)) {
            ids.insert(id);
        }
        for id in ids {
            self.dirty.remove(&id);
            let Some(observer) = self.consumers.get_mut(&id) else {
                continue;
            };
            if !observer.consumer.take_dirty() {
                continue;
            }
            let mut bytes = Vec::new();
            observer.consumer.state().encode(&mut bytes);
            let name = &observer.consumer.name;
            if let Err(err) = store.put_consumer_state(observer.stream, name, &bytes) {
                tracing::warn!(consumer = %name, error = %err, "consumer state was not written");
            }
        }
    }

    /// All changed consumers are to be written with the next commit.
    pub(crate) fn persist_all(&mut self) {
        self.urgent.append(&mut self.dirty);
        self.urgent.extend(self.due.drain(..));
    }

    /// Takes note of a commit: new records can be delivered, records of failed streams are forgotten.
    pub(crate) fn committed<F: Fs>(&mut self, report: &CommitReport, store: &Store<F>) {
        for (id, err) in &report.failed {
            let Some(stream) = self.streams.get_mut(id) else {
                continue;
            };
            tracing::error!(stream = %stream.name, error = %err, "commit failed");
            publish::recall_last_msg_id(stream, store);
            stream.duplicates.roll_back(store.durable_seq(*id).0);
            stream.expiries.roll_back(store.durable_seq(*id).0);
            stream.schedules.roll_back(store.durable_seq(*id).0);
            let last_seq = store.state(*id).last_seq.0;
            for consumer in stream.consumers.values() {
                if let Some(observer) = self.consumers.get_mut(consumer) {
                    observer.rolled_back(last_seq, store);
                    // What is to be written of it may be about records that are forgotten.
                    if observer.is_stored && observer.consumer.is_dirty() {
                        self.urgent.insert(*consumer);
                    }
                }
            }
        }
        self.settle_displaced(report, store);
        for (id, err) in &report.failed {
            self.forget_copied(*id);
            self.restore_failed(*id, err);
            self.end_fast(*id);
        }
        for id in std::mem::take(&mut self.appended) {
            self.mark_copies(id);
            let Some(stream) = self.streams.get(&id) else {
                continue;
            };
            for consumer in stream.consumers.values() {
                mark_ready(&mut self.consumers, &mut self.ready, *consumer);
            }
        }
    }

    /// When [`Self::tick`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Mono> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// Whether consumer states wait to be written and committed.
    pub(crate) fn has_urgent(&self) -> bool {
        let to_write = !self.urgent.is_empty() || !self.due.is_empty();
        let to_store =
            !self.to_copy.is_empty() || !self.schedules_back.is_empty() || !self.schedules_ended.is_empty();
        to_write || to_store || self.transfers.is_working()
    }

    /// Whether something may be delivered now.
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty() || self.transfers.may_send()
    }

    /// JetStream's domain.
    pub(crate) fn domain(&self) -> Option<&str> {
        self.options.domain.as_deref()
    }

    /// The beginning of a stream's acknowledgements, up to the sequence.
    pub(crate) fn ack_prefix(&self, id: StreamId) -> Option<&Arc<str>> {
        self.streams.get(&id).map(|stream| &stream.ack_prefix)
    }

    /// The name of a stream.
    pub(crate) fn stream_name(&self, id: StreamId) -> Option<&Arc<str>> {
        self.streams.get(&id).map(|stream| &stream.name)
    }

    /// What each stream captures: for the routers, after a start.
    pub(crate) fn captures(&self) -> impl Iterator<Item = (AccountId, StreamId, &[String])> {
        self.streams
            .values()
            .map(|stream| (stream.account, stream.id, stream.config.subjects.as_slice()))
    }

    /// Tells everybody who waits that the server stops.
    pub(crate) fn shut_down(&mut self, effects: &mut Vec<Effect>) {
        let ids: Vec<ConsumerId> = self.consumers.keys().copied().collect();
        for id in ids {
            self.enter_stream_of(id, effects);
            let mut notices = Vec::new();
            if let Some(observer) = self.consumers.get_mut(&id) {
                observer.consumer.end_all(&Status::ServerShutdown, &mut notices);
            }
            push_notices(notices, effects);
        }
        self.persist_all();
    }

    fn mark_ready(&mut self, id: ConsumerId) {
        mark_ready(&mut self.consumers, &mut self.ready, id);
    }

    fn rearm(&mut self, now: Mono, id: ConsumerId) {
        let Some(observer) = self.consumers.get_mut(&id) else {
            return;
        };
        let deadline = observer.next_deadline(now);
        arm(&mut self.timers, observer, id, deadline);
    }

    /// A consumer has changed: it is written within [`PERSIST_NS`].
    fn note_dirty(&mut self, now: Mono, id: ConsumerId) {
        let Some(observer) = self.consumers.get(&id) else {
            return;
        };
        if observer.is_stored && observer.consumer.is_dirty() {
            self.dirty.insert(id);
            self.changes += 1;
            self.arm_persist(now);
        }
    }

    fn arm_persist(&mut self, now: Mono) {
        if !self.is_persist_armed {
            self.is_persist_armed = true;
            self.timers.insert((now.after(PERSIST_NS), Timer::Persist));
        }
    }

    /// Splitmix: names of ephemeral consumers need not be unpredictable.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn mark_ready(
    consumers: &mut BTreeMap<ConsumerId, Observer>,
    ready: &mut VecDeque<ConsumerId>,
    id: ConsumerId,
) {
    if let Some(observer) = consumers.get_mut(&id)
        && !observer.is_ready
        && observer.may_deliver()
    {
        observer.is_ready = true;
        ready.push_back(id);
    }
}

/// Sets a consumer's timer. One that is set already is only moved forward: it may fire early.
fn arm(
    timers: &mut BTreeSet<(Mono, Timer)>,
    observer: &mut Observer,
    id: ConsumerId,
    deadline: Option<Mono>,
) {
    let Some(deadline) = deadline else { return };
    match observer.armed {
        Some(armed) if armed <= deadline => return,
        Some(armed) => {
            timers.remove(&(armed, Timer::Consumer(id)));
        }
        None => {}
    }
    observer.armed = Some(deadline);
    timers.insert((deadline, Timer::Consumer(id)));
}

/// Appends status messages to effects.
fn push_notices(notices: Vec<Notice>, effects: &mut Vec<Effect>) {
    effects.extend(notices.into_iter().map(Effect::Status));
}
