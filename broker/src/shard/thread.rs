//! The storage thread: takes everything queued, lets the engine decide, commits once for all of it,
//! then delivers and answers.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::inbox::{Inbox, JsOp, Taken};
use super::release::{Release, Routers};
use super::snapshots::Snapshots;
use super::view::ShardView;
use crate::accounts::Accounts;
use crate::engine::time::{Mono, Now, earliest};
use crate::engine::{Effect, Engine, EngineOptions, RecoverError};
use crate::env::{Clock, Fs};
use crate::store::{CommitReport, RecoveryReport, Store, StoreOptions};
use crate::types::MonoNanos;

/// Added to the monotonic clock, so that what happened before the start has a time too.
const MONO_BASE: u64 = 1 << 62;
/// Deliveries in one round while nobody publishes.
const DELIVERIES_IDLE: usize = 2048;
/// Deliveries between two looks at the inbox.
const DELIVERIES_STEP: usize = 256;
/// How long what comes while operations are done may join them, at most: as long as the last commit took, or this.
const JOIN_NS_MAX: u64 = 1_000_000;
/// Streams are settled when nothing was committed for so long,
const REST_NS: i64 = 300_000;
/// or so long after the first commit that has not been.
const SETTLE_NS: i64 = 5_000_000;

/// What the storage thread works with.
pub(crate) struct Shard<F: Fs, C: Clock> {
    store: Store<F>,
    engine: Engine,
    links: Links,
    clock: C,
    out: Routers,
    effects: Vec<Effect>,
    text: String,
    is_healthy: bool,
    /// How long the last commit took.
    commit_ns: u64,
    /// When committed streams are to be settled, if there are any that are not, and at the latest.
    settle_at: Option<(Mono, Mono)>,
}

/// What the storage thread shares with the rest of the broker.
#[derive(Clone, Debug)]
pub(crate) struct Links {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) accounts: Arc<Accounts>,
    pub(crate) view: Arc<ShardView>,
    pub(crate) snapshots: Arc<Snapshots>,
}

/// Tells the others when the thread ends, for whatever reason.
struct EndGuard(Links);

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.0.view.set_stopped();
        self.0.snapshots.end();
        self.0.inbox.close();
        // What is still queued after a panic is given up now, so that nobody waits for its completion.
        drop(self.0.inbox.take_all(Some(Duration::ZERO)));
    }
}

impl<F: Fs, C: Clock> Shard<F, C> {
    /// Opens the store and recovers everything in it. The router captures the streams' subjects
    /// when this returns.
    ///
    /// # Errors
    /// If the store cannot be opened, or holds a configuration that cannot be read.
    pub(crate) fn open(
        fs: F,
        dir: &Path,
        store_options: StoreOptions,
        engine_options: EngineOptions,
        clock: C,
        links: Links,
    ) -> Result<(Self, RecoveryReport), RecoverError> {
        let (mut store, report) = Store::open(fs, dir, store_options)?;
        let now = now(&clock);
        let mut engine = Engine::recover(engine_options, &mut store, now)?;
        engine.persist_all();
        engine.persist(&mut store);
        let commit = store.commit();
        if let Some((_, err)) = commit.failed.into_iter().next() {
            return Err(err.into());
        }
        for (account, id, subjects) in engine.captures() {
            let account = links
                .accounts
                .get(account)
                .expect("recovery has named the account");
            account.router.set_stream_subjects(id, subjects);
        }
        links.view.set_health(store.health());
        let shard = Self {
            store,
            engine,
            out: Routers::new(Arc::clone(&links.accounts)),
            links,
            clock,
            effects: Vec::new(),
            text: String::new(),
            is_healthy: true,
            commit_ns: 0,
            settle_at: None,
        };
        Ok((shard, report))
    }

    /// Starts the thread. It ends when the inbox is closed and everything in it is done.
    ///
    /// # Errors
    /// If the operating system gives no thread.
    pub(crate) fn spawn(self) -> io::Result<JoinHandle<()>> {
        std::thread::Builder::new()
            .name("tarn-storage".to_owned())
            .spawn(move || self.run())
    }

    fn run(mut self) {
        let guard = EndGuard(self.links.clone());
        loop {
            let taken = self.links.inbox.take_all(self.patience());
            let is_last = self.round(taken);
            if is_last {
                break;
            }
        }
        self.finish();
        drop(guard);
    }

    /// How long the thread may sleep. `None`: until something comes.
    fn patience(&self) -> Option<Duration> {
        if self.engine.has_ready() || self.engine.has_urgent() || self.out.has_captured() {
            return Some(Duration::ZERO);
        }
        let now = now(&self.clock).mono;
        let timer = self.engine.next_deadline();
        let tend = self.store.next_tend().map(|due| Mono(due.0));
        let due = earliest(earliest(timer, tend), self.settle_at.map(|(due, _)| due))?;
        Some(Duration::from_nanos(due.since(now)))
    }

    /// Does what was taken, commits and answers. Returns whether these were the last operations.
    fn round(&mut self, taken: Taken) -> bool {
        let now = now(&self.clock);
        self.engine.tick(now, &mut self.store, &mut self.effects);
        let captured = self.out.take_captured();
        let mut op_count = self.step(now, captured);
        let is_last = self.step_taken(now, taken, &mut op_count);
        self.links.view.took(op_count as u64);
        self.engine.persist(&mut self.store);
        if self.store.tend(now.wall, MonoNanos(now.mono.0)) {
            self.links.view.set_store_figures(self.store.figures());
        }
        self.commit();
        self.dispatch(now, op_count);
        self.settle();
        if let Some(asked) = self.links.snapshots.wanted() {
            let snapshot = self.engine.snapshot(now, &self.store);
            self.links.snapshots.publish(snapshot, asked);
        }
        is_last
    }

    /// Does what was taken, and what comes meanwhile: a client's window is handed over in parts, and one sync for all of
    /// it is sooner over than one for each. Who waits for the sync waits no longer for this than for the sync itself.
    fn step_taken(&mut self, now: Now, mut taken: Taken, op_count: &mut usize) -> bool {
        let until = self.clock.monotonic().0 + self.commit_ns.min(JOIN_NS_MAX);
        loop {
            *op_count += self.step(now, taken.batches.into_iter().flatten());
            if taken.closed || self.clock.monotonic().0 >= until || !self.links.inbox.has_batches() {
                return taken.closed;
            }
            taken = self.links.inbox.take_all(Some(Duration::ZERO));
        }
    }

    fn step(&mut self, now: Now, ops: impl IntoIterator<Item = JsOp>) -> usize {
        let mut count = 0;
        for op in ops {
            count += 1;
            self.engine.step(now, op, &mut self.store, &mut self.effects);
        }
        count
    }

    /// Has the streams settled that were committed a while ago: while one goes on, its next commit does as well.
    fn settle(&mut self) {
        if self.settle_at.is_none() && self.store.has_unsettled() {
            self.settle_later();
        }
        if self
            .settle_at
            .is_some_and(|(due, _)| now(&self.clock).mono >= due)
        {
            self.settle_at = None;
            self.store.settle();
        }
    }

    fn settle_later(&mut self) {
        let now = now(&self.clock).mono;
        let latest = self.settle_at.map_or(now.after(SETTLE_NS), |(_, latest)| latest);
        self.settle_at = Some((now.after(REST_NS).min(latest), latest));
    }

    /// Delivers: so much that consumers keep up with what is published, and more while nothing comes.
    fn dispatch(&mut self, now: Now, op_count: usize) {
        let mut budget = DELIVERIES_STEP.max(2 * op_count);
        let mut left = DELIVERIES_IDLE;
        loop {
            let delivered = self.engine.dispatch(now, &mut self.store, &mut self.out, budget);
            self.out.flush();
            left = left.saturating_sub(delivered);
            if delivered == 0 || left == 0 || self.links.inbox.has_batches() {
                return;
            }
            budget = DELIVERIES_STEP;
        }
    }

    /// Commits, and releases what waited for it: who published first, then who waits for the state of a consumer.
    fn commit(&mut self) {
        let before = self.clock.monotonic();
        let report = self.store.commit_records();
        if !report.committed.is_empty() || !report.failed.is_empty() {
            self.commit_ns = self.clock.monotonic().0.saturating_sub(before.0);
            self.links.view.committed(Duration::from_nanos(self.commit_ns));
            self.settle_later();
        }
        let effects = std::mem::take(&mut self.effects);
        let held = self.release(&report, effects);
        let report = self.store.commit_states();
        if !held.is_empty() || !report.failed.is_empty() {
            self.release(&report, held);
        }
    }

    /// Releases what the commit of `report` allows, and gives back what has to wait for the states of consumers.
    fn release(&mut self, report: &CommitReport, mut effects: Vec<Effect>) -> Vec<Effect> {
        self.engine.committed(report, &self.store);
        if self.store.take_health_changed() || !report.failed.is_empty() || !self.is_healthy {
            self.note_health();
        }
        if effects.is_empty() {
            return Vec::new();
        }
        let mut release = Release {
            engine: &self.engine,
            store: &self.store,
            report,
            outlet: &mut self.out,
            text: &mut self.text,
        };
        let held = release.all(&mut effects);
        self.out.flush();
        if self.effects.capacity() == 0 {
            self.effects = effects;
        }
        held
    }

    /// Shows how the store is, and tells the log when that turned.
    fn note_health(&mut self) {
        let health = self.store.health();
        let is_healthy = health.is_writable();
        if is_healthy != self.is_healthy {
            if is_healthy {
                tracing::info!("the store takes writes again");
            }
            for stream in &health.no_space {
                tracing::error!(
                    %stream,
                    "no space left: publishes are refused and reads go on; free some space on the disk of the store"
                );
            }
            for (stream, reason) in &health.read_only {
                tracing::error!(%stream, reason, "the stream is read-only until a restart");
            }
        }
        self.is_healthy = is_healthy;
        self.links.view.set_health(health);
    }

    /// Says goodbye to those who wait, writes everything and closes the store.
    fn finish(mut self) {
        let now = now(&self.clock);
        for op in self.out.take_captured() {
            self.engine.step(now, op, &mut self.store, &mut self.effects);
        }
        self.engine.shut_down(&mut self.effects);
        self.engine.persist(&mut self.store);
        self.engine.save_positions(&mut self.store);
        self.commit();
        for (_, err) in self.store.close().failed {
            tracing::error!(error = %err, "store was not closed cleanly");
        }
    }
}

fn now(clock: &impl Clock) -> Now {
    Now {
        wall: clock.now(),
        mono: Mono(clock.monotonic().0.saturating_add(MONO_BASE)),
    }
}
