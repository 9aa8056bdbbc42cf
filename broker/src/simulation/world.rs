//! The broker's core on a simulated disk, with a virtual clock and clients that are lists.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::consumer::Receiver;
use crate::engine::time::{Mono, Now};
use crate::engine::{Effect, Engine, EngineOptions, Outlet, RecoverError};
use crate::env::sim::{SimFs, Trace};
use crate::router::Message;
use crate::shard::inbox::{Completion, JsKind, JsOp, PubAck, PublishError, ReplyTo, Resend};
use crate::shard::release::Release;
use crate::store::{CommitReport, Record, RecoveryReport, Store, StoreError, StoreOptions, SubjectFilter};
use crate::types::{AccountId, MonoNanos, StreamId, StreamSeq, UnixNanos};

/// Where the store is on the simulated disk.
pub(super) const DIR: &str = "/store";
const START: i64 = 1_700_000_000_000_000_000;
const MONO_BASE: u64 = 1 << 62;
/// Deliveries before the next round.
const BUDGET: usize = 64;

/// A message that a client got.
#[derive(Clone, Debug)]
pub(super) struct Got {
    /// The subscription's subject.
    pub(super) to: String,
    pub(super) subject: String,
    pub(super) reply: String,
    pub(super) headers: Vec<u8>,
    pub(super) payload: Vec<u8>,
}

/// What the clients subscribe to and have got.
#[derive(Debug, Default)]
struct Clients {
    listening: BTreeSet<String>,
    captured: BTreeMap<StreamId, Vec<String>>,
    got: Vec<Got>,
    /// All receivers have fallen behind.
    are_busy: bool,
}

impl Outlet for Clients {
    fn enter(&mut self, _account: AccountId) {}

    fn is_wanted(&self, _subject: &str) -> bool {
        false
    }

    fn publish(&mut self, _message: &Message<'_>) {}

    fn ask(&mut self, _message: &Message<'_>) {}

    fn listen(&mut self, _hearing: u64, _subject: &str) {}

    fn unlisten(&mut self, _hearing: u64) {}

    fn receiver(&self, subject: &str) -> Receiver {
        match subject.starts_with("_INBOX.") || self.listening.contains(subject) {
            false => Receiver::Gone,
            true if self.are_busy => Receiver::Busy,
            true => Receiver::Ready,
        }
    }

    fn send(&mut self, to: &str, message: &Message<'_>) {
        self.got.push(Got {
            to: to.to_owned(),
            subject: message.subject.to_owned(),
            reply: message.reply.unwrap_or_default().to_owned(),
            headers: message.headers.to_vec(),
            payload: message.payload.to_vec(),
        });
    }

    fn answer(&mut self, message: &Message<'_>) {
        self.send(message.subject, message);
    }

    fn capture(&mut self, stream: StreamId, subjects: &[String]) {
        if subjects.is_empty() {
            self.captured.remove(&stream);
        } else {
            self.captured.insert(stream, subjects.to_vec());
        }
    }
}

struct Node {
    store: Store<SimFs>,
    engine: Engine,
}

type LocalAnswer = oneshot::Receiver<Vec<Result<PubAck, PublishError>>>;

/// A broker without sockets and threads: the engine, the store and the code that releases answers are the real ones.
pub(super) struct World {
    pub(super) fs: SimFs,
    pub(super) now: Now,
    seed: u64,
    lives: u64,
    node: Option<Node>,
    clients: Clients,
    effects: Vec<Effect>,
    hasher: crc32fast::Hasher,
    trace: Option<Trace>,
}

impl World {
    /// A disk without a store, and a clock.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            fs: SimFs::new(seed),
            now: Now {
                wall: UnixNanos(START),
                mono: Mono(MONO_BASE),
            },
            seed,
            lives: 0,
            node: None,
            clients: Clients::default(),
            effects: Vec::new(),
            hasher: crc32fast::Hasher::new(),
            trace: None,
        }
    }

    pub(super) fn set_trace(&mut self, trace: Option<Trace>) {
        self.trace = trace;
        self.fs.set_trace(trace);
    }

    /// Tells what happens, if anybody wants to know.
    pub(super) fn tell(&self, what: std::fmt::Arguments<'_>) {
        if let Some(trace) = self.trace {
            let seconds = self.now.mono.0.saturating_sub(MONO_BASE) as f64 / 1e9;
            trace(format_args!("{seconds:.6} {what}"));
        }
    }

    /// Tells where the streams are.
    pub(super) fn tell_streams(&self) {
        if let (Some(node), true) = (&self.node, self.trace.is_some()) {
            for (id, meta) in node.store.streams() {
                let (state, seqs) = (node.store.state(id), self.positions(&meta.name));
                self.tell(format_args!("stream {} {state:?} {seqs:?}", meta.name));
                for (name, _, state) in node.store.consumers(id) {
                    let state = state.escape_ascii();
                    self.tell(format_args!("consumer {name} of {}: {state}", meta.name));
                }
            }
        }
    }

    /// Starts the broker. What the storage thread does at its start is done.
    pub(super) fn open(&mut self) -> Result<RecoveryReport, RecoverError> {
        self.lives += 1;
        let salt = self.seed.wrapping_mul(1000).wrapping_add(self.lives);
        let options = StoreOptions {
            segment_bytes_min: 4096,
            segment_bytes_max: 16384,
            reserve_bytes: 0,
            notes: crate::stream::notes::NOTES,
            census_subjects_min: 16,
            ..StoreOptions::new(salt)
        };
        let (mut store, report) = Store::open(self.fs.clone(), Path::new(DIR), options)?;
        let mut engine = Engine::recover(EngineOptions::new(salt), &mut store, self.now)?;
        engine.persist_all();
        engine.persist(&mut store);
        if let Some((_, err)) = store.commit().failed.into_iter().next() {
            return Err(err.into());
        }
        self.clients.captured = engine
            .captures()
            .map(|(_, id, subjects)| (id, subjects.to_vec()))
            .collect();
        self.node = Some(Node { store, engine });
        Ok(report)
    }

    /// Ends the program without telling it: nothing is written any more.
    pub(super) fn drop_node(&mut self) {
        self.node = None;
        self.effects.clear();
        self.clients.got.clear();
        self.clients.captured.clear();
    }

    /// Stops in order. Returns whether everything could be written.
    pub(super) fn close(&mut self) -> bool {
        let Some(mut node) = self.node.take() else {
            return false;
        };
        node.engine.shut_down(&mut self.effects);
        node.engine.persist(&mut node.store);
        let report = node.store.commit();
        let is_committed = report.failed.is_empty();
        let is_closed = node.store.close().failed.is_empty();
        self.drop_node();
        is_committed && is_closed
    }

    /// One round of the storage thread: steps, commits, releases and delivers. Returns what clients got.
    pub(super) fn round(&mut self, ops: Vec<JsOp>) -> Vec<Got> {
        for op in &ops {
            let reply = match &op.reply {
                ReplyTo::Subject(reply) => reply.escape_ascii().to_string(),
                ReplyTo::Local { resend, .. } => format!("{resend:?}"),
                other => format!("{other:?}"),
            };
            self.tell(format_args!(
                "> {:?} {} [{reply}] {} {}",
                op.kind,
                op.subject.escape_ascii(),
                op.headers.escape_ascii(),
                short(&op.payload)
            ));
        }
        let node = self.node.as_mut().expect("the broker runs");
        let Node { store, engine } = node;
        engine.tick(self.now, store, &mut self.effects);
        for op in ops {
            engine.step(self.now, op, store, &mut self.effects);
        }
        engine.persist(store);
        store.tend(self.now.wall, MonoNanos(self.now.mono.0));
        let report = store.commit_records();
        let effects = std::mem::take(&mut self.effects);
        let held = release(engine, store, &report, &mut self.clients, effects);
        let report = store.commit_states();
        release(engine, store, &report, &mut self.clients, held);
        engine.dispatch(self.now, store, &mut self.clients, BUDGET);
        store.settle();
        let got = std::mem::take(&mut self.clients.got);
        for one in &got {
            self.tell(format_args!(
                "< {} {} [{}] {} {}",
                one.to,
                one.subject,
                one.reply,
                one.headers.escape_ascii(),
                short(&one.payload)
            ));
            for part in [
                one.to.as_bytes(),
                one.subject.as_bytes(),
                one.reply.as_bytes(),
                &one.headers,
                &one.payload,
            ] {
                self.hasher.update(part);
                self.hasher.update(&[0xff]);
            }
        }
        got
    }

    /// Whether the broker runs.
    pub(super) fn is_running(&self) -> bool {
        self.node.is_some()
    }

    /// Whether another round would do something now.
    pub(super) fn is_busy(&self) -> bool {
        self.node
            .as_ref()
            .is_some_and(|node| node.engine.has_ready() || node.engine.has_urgent())
    }

    /// When a timer is due next.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.node.as_ref()?.engine.next_deadline().map(|due| due.0)
    }

    /// Lets time pass up to `mono`.
    pub(super) fn advance_to(&mut self, mono: u64) {
        let nanos = mono.saturating_sub(self.now.mono.0);
        self.now = Now {
            wall: self.now.wall.saturating_add(nanos as i64),
            mono: Mono(self.now.mono.0 + nanos),
        };
    }

    /// Sets the wall clock forward or back.
    pub(super) fn jump(&mut self, nanos: i64) {
        self.tell(format_args!("the wall clock jumps by {nanos} ns"));
        self.now.wall = self.now.wall.saturating_add(nanos);
    }

    /// Lets the receivers of deliveries fall behind, or catch up.
    pub(super) fn set_busy(&mut self, are_busy: bool) {
        self.clients.are_busy = are_busy;
    }

    /// Subscribes to a subject, or ends that.
    pub(super) fn listen(&mut self, subject: &str, listens: bool) {
        if listens {
            self.clients.listening.insert(subject.to_owned());
        } else {
            self.clients.listening.remove(subject);
        }
    }

    /// Whether a client subscribes to the subject.
    pub(super) fn listens(&self, subject: &str) -> bool {
        self.clients.listening.contains(subject)
    }

    /// The stream that captures a subject, as the router would know it.
    pub(super) fn stream_of(&self, subject: &str) -> Option<StreamId> {
        let captures = |subjects: &[String]| subjects.iter().any(|own| crate::subject::matches(own, subject));
        let mut found = self.clients.captured.iter();
        found.find(|(_, subjects)| captures(subjects)).map(|(id, _)| *id)
    }

    /// The streams on disk and in memory, by name.
    pub(super) fn stream_names(&self) -> Vec<String> {
        let node = self.node.as_ref().expect("the broker runs");
        node.store
            .streams()
            .map(|(_, meta)| meta.name.to_string())
            .collect()
    }

    /// The configuration of a stream, as it is kept.
    pub(super) fn config(&self, stream: &str) -> serde_json::Value {
        let node = self.node.as_ref().expect("the broker runs");
        let found = node.store.streams().find(|(_, meta)| *meta.name == *stream);
        let config = found.map(|(_, meta)| meta.config.clone()).unwrap_or_default();
        serde_json::from_slice(&config).expect("configurations are JSON")
    }

    fn id(&self, stream: &str) -> StreamId {
        let node = self.node.as_ref().expect("the broker runs");
        let found = node.store.streams().find(|(_, meta)| *meta.name == *stream);
        found.expect("the stream exists").0
    }

    /// The last position of a stream, and its lost records.
    pub(super) fn last_seq(&self, stream: &str) -> (u64, u64) {
        let node = self.node.as_ref().expect("the broker runs");
        let state = node.store.state(self.id(stream));
        (state.last_seq.0, state.lost)
    }

    /// Messages and bytes of a stream.
    pub(super) fn size(&self, stream: &str) -> (u64, u64) {
        let node = self.node.as_ref().expect("the broker runs");
        let state = node.store.state(self.id(stream));
        (state.messages, state.bytes)
    }

    /// The positions that hold a record.
    pub(super) fn positions(&self, stream: &str) -> Vec<u64> {
        let node = self.node.as_ref().expect("the broker runs");
        let (id, all) = (self.id(stream), SubjectFilter::all());
        let mut found = Vec::new();
        let mut next = node.store.next_match(id, &all, StreamSeq(0));
        while let Some(seq) = next {
            found.push(seq.0);
            next = node.store.next_match(id, &all, seq.next());
        }
        found
    }

    /// The record at a position.
    pub(super) fn record(&self, stream: &str, seq: u64) -> Result<Option<Record>, StoreError> {
        let node = self.node.as_ref().expect("the broker runs");
        self.fs.spare_reads(true);
        let record = node.store.read(self.id(stream), StreamSeq(seq));
        self.fs.spare_reads(false);
        record
    }

    /// Counts what was got in another way into the outputs.
    pub(super) fn note(&mut self, output: &impl std::fmt::Debug) {
        self.hasher.update(format!("{output:?}").as_bytes());
    }

    /// A checksum over the disk, and one over everything that clients got.
    pub(super) fn fingerprint(&self) -> (u32, u32) {
        (self.fs.fingerprint(), self.hasher.clone().finalize())
    }
}

/// The beginning of a payload, readable.
fn short(payload: &[u8]) -> String {
    let start = &payload[..payload.len().min(400)];
    format!("{} ({} bytes)", start.escape_ascii(), payload.len())
}

/// Releases what a commit allows, and gives back what has to wait for the states of consumers.
fn release(
    engine: &mut Engine,
    store: &Store<SimFs>,
    report: &CommitReport,
    clients: &mut Clients,
    mut effects: Vec<Effect>,
) -> Vec<Effect> {
    engine.committed(report, store);
    let mut text = String::new();
    let mut release = Release {
        engine,
        store,
        report,
        outlet: clients,
        text: &mut text,
    };
    release.all(&mut effects)
}

/// An operation of a network client; `reply` may be empty.
pub(super) fn op(kind: JsKind, subject: &str, reply: &str, headers: &[u8], payload: &[u8]) -> JsOp {
    let reply = match reply {
        "" => ReplyTo::None,
        reply => ReplyTo::Subject(Bytes::copy_from_slice(reply.as_bytes())),
    };
    JsOp {
        account: AccountId::GLOBAL,
        kind,
        subject: Bytes::copy_from_slice(subject.as_bytes()),
        reply,
        headers: Bytes::copy_from_slice(headers),
        payload: Bytes::copy_from_slice(payload),
    }
}

/// A publish of a client in this process, and where its answer comes.
pub(super) fn local_publish(
    stream: StreamId,
    subject: &str,
    payload: &[u8],
    resend: Option<Resend>,
) -> (JsOp, LocalAnswer) {
    let (completion, answer) = Completion::new(1);
    let mut op = op(JsKind::Publish(stream), subject, "", b"", payload);
    op.reply = ReplyTo::Local {
        completion,
        index: 0,
        resend,
    };
    (op, answer)
}
