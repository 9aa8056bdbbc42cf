//! An engine with everything around it simulated: disk, clocks and clients.

mod delivered;

use std::fmt::Write as _;
use std::path::Path;

use bytes::Bytes;
use serde_json::Value;

use super::abroad::Abroad;
use super::clients::Clients;
use crate::engine::time::{Mono, Now};
use crate::engine::{Effect, Engine, EngineOptions};
use crate::env::sim::SimFs;
use crate::shard::inbox::{Completion, JsKind, JsOp, PubAck, PublishError, ReplyTo, Resend};
use crate::shard::release::Release;
use crate::store::{Store, StoreOptions};
use crate::types::{AccountId, StreamId, UnixNanos};
pub(super) use delivered::Delivered;

const DIR: &str = "/store";
const START: i64 = 1_700_000_000_000_000_000;
const MONO_BASE: u64 = 1 << 62;

pub(super) struct World {
    pub(super) fs: SimFs,
    store: Option<Store<SimFs>>,
    engine: Engine,
    now: Now,
    clients: Clients,
    effects: Vec<Effect>,
    requests: u64,
    seed: u64,
    account: AccountId,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let fs = SimFs::new(seed);
        let now = Now {
            wall: UnixNanos(START),
            mono: Mono(MONO_BASE),
        };
        let (store, engine) = open(&fs, seed, now);
        Self {
            fs,
            store: Some(store),
            engine,
            now,
            clients: Clients::default(),
            effects: Vec::new(),
            requests: 0,
            seed,
            account: AccountId::GLOBAL,
        }
    }

    /// Clients take no more deliveries once they have more bytes than these.
    pub(super) fn busy_above(&mut self, bytes: usize) {
        self.clients.busy_above = Some(bytes);
    }

    fn store(&self) -> &Store<SimFs> {
        self.store.as_ref().unwrap()
    }

    /// Steps, commits, releases and delivers, as the storage thread does, until the server has nothing more for itself.
    fn round(&mut self, mut ops: Vec<JsOp>) {
        loop {
            self.round_once(ops);
            ops = self.clients.abroad.take();
            if ops.is_empty() {
                return;
            }
        }
    }

    fn round_once(&mut self, mut ops: Vec<JsOp>) {
        for op in &mut ops {
            op.account = self.account;
        }
        let Self {
            store,
            engine,
            effects,
            clients,
            now,
            ..
        } = self;
        let store = store.as_mut().unwrap();
        engine.tick(*now, store, effects);
        for op in ops {
            engine.step(*now, op, store, effects);
        }
        engine.persist(store);
        let mut effects = std::mem::take(effects);
        for step in [Store::commit_records, Store::commit_states] {
            let report = step(store);
            engine.committed(&report, store);
            let mut release = Release {
                engine,
                store,
                report: &report,
                outlet: clients,
                text: &mut String::new(),
            };
            effects = release.all(&mut effects);
        }
        assert!(effects.is_empty(), "nothing waits for a third step");
        let mut rounds = 0;
        while engine.has_ready() && rounds < 100 {
            rounds += 1;
            engine.dispatch(*now, store, clients, 16);
        }
    }

    /// What follows is asked in the account of this name.
    pub(super) fn enter(&mut self, account: &str) {
        self.account = self.engine.options.accounts.intern(account);
    }

    fn op(kind: JsKind, subject: &str, reply: ReplyTo, headers: &str, payload: &str) -> JsOp {
        let headers = if headers.is_empty() {
            String::new()
        } else {
            format!("NATS/1.0\r\n{headers}\r\n")
        };
        JsOp {
            account: AccountId::GLOBAL,
            kind,
            subject: Bytes::copy_from_slice(subject.as_bytes()),
            reply,
            headers: headers.into(),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
        }
    }

    fn inbox(&mut self) -> String {
        self.requests += 1;
        format!("_INBOX.{}", self.requests)
    }

    fn take_answer(&mut self, inbox: &str) -> Option<String> {
        let index = self.clients.got.iter().position(|got| got.to == *inbox)?;
        Some(self.clients.got.remove(index).text().to_owned())
    }

    pub(super) fn ask(&mut self, subject: &str, payload: &str) -> String {
        let inbox = self.inbox();
        let reply = ReplyTo::Subject(inbox.clone().into());
        self.round(vec![Self::op(JsKind::Api, subject, reply, "", payload)]);
        self.take_answer(&inbox).expect("requests are answered")
    }

    /// A request that has several answers: the headers of each.
    pub(super) fn ask_for_all(&mut self, subject: &str, payload: &str) -> Vec<String> {
        let inbox = self.inbox();
        let reply = ReplyTo::Subject(inbox.clone().into());
        self.round(vec![Self::op(JsKind::Api, subject, reply, "", payload)]);
        self.got(&inbox).into_iter().map(|got| got.headers).collect()
    }

    fn stream_of(&self, subject: &str) -> StreamId {
        let captures = |subjects: &[String]| subjects.iter().any(|own| crate::subject::matches(own, subject));
        let found = self
            .engine
            .captures()
            .find(|(account, _, subjects)| *account == self.account && captures(subjects));
        found.expect("a stream captures the subject").1
    }

    pub(super) fn publish(&mut self, subject: &str, headers: &str, payload: &str) -> String {
        let inbox = self.inbox();
        let kind = JsKind::Publish(self.stream_of(subject));
        let reply = ReplyTo::Subject(inbox.clone().into());
        self.round(vec![Self::op(kind, subject, reply, headers, payload)]);
        self.take_answer(&inbox).expect("publishes are answered")
    }

    /// Publishes with a reply subject of its own; the answers are in [`Self::got`].
    pub(super) fn publish_to(&mut self, reply: &str, subject: &str, headers: &str, payload: &str) {
        let kind = JsKind::Publish(self.stream_of(subject));
        let to = ReplyTo::Subject(reply.to_owned().into());
        self.round(vec![Self::op(kind, subject, to, headers, payload)]);
    }

    /// Appends, but the power may be cut before the commit.
    pub(super) fn publish_without_commit(&mut self, subject: &str, payload: &str) {
        let op = Self::op(
            JsKind::Publish(self.stream_of(subject)),
            subject,
            ReplyTo::None,
            "",
            payload,
        );
        self.engine
            .step(self.now, op, self.store.as_mut().unwrap(), &mut self.effects);
    }

    /// Publishes, but the power is cut before anything is answered: the commit may have been half done.
    pub(super) fn publish_and_cut(&mut self, subject: &str, headers: &str, payload: &str) {
        let kind = JsKind::Publish(self.stream_of(subject));
        let op = Self::op(kind, subject, ReplyTo::None, headers, payload);
        let store = self.store.as_mut().unwrap();
        self.engine.step(self.now, op, store, &mut self.effects);
        self.fs.fail_nth_sync(1);
        drop(store.commit());
    }

    pub(super) fn publish_resend(
        &mut self,
        subject: &str,
        key: &str,
        is_resend: bool,
    ) -> Result<PubAck, PublishError> {
        let (completion, mut receiver) = Completion::new(1);
        let resend = Some(Resend {
            key: key.into(),
            is_resend,
        });
        let kind = JsKind::Publish(self.stream_of(subject));
        self.round(vec![Self::op(
            kind,
            subject,
            ReplyTo::Local {
                completion,
                index: 0,
                resend,
            },
            "",
            "x",
        )]);
        receiver.try_recv().expect("publishes are answered").remove(0)
    }

    /// Publishes and asks the API in one round. Returns the API's answer.
    pub(super) fn publish_and_ask(
        &mut self,
        subject: &str,
        headers: &str,
        payload: &str,
        api: &str,
        request: &str,
    ) -> String {
        let inbox = self.inbox();
        let publish = Self::op(
            JsKind::Publish(self.stream_of(subject)),
            subject,
            ReplyTo::None,
            headers,
            payload,
        );
        let reply = ReplyTo::Subject(inbox.clone().into());
        let ask = Self::op(JsKind::Api, api, reply, "", request);
        self.round(vec![publish, ask]);
        self.take_answer(&inbox).unwrap_or_default()
    }

    /// Acknowledges, publishes and asks the API in one round, which may end without an answer.
    pub(super) fn ack_publish_and_ask(&mut self, delivered: &Delivered, subject: &str, api: &str) {
        let ops = [
            (JsKind::Ack, delivered.reply.as_str()),
            (JsKind::Publish(self.stream_of(subject)), subject),
            (JsKind::Api, api),
        ];
        let op = |(kind, subject)| Self::op(kind, subject, ReplyTo::Subject("_INBOX.x".into()), "", "");
        self.round(ops.into_iter().map(op).collect());
        self.got("_INBOX.x");
    }

    /// Publishes and creates the consumer `C` of stream `S` in one round, which may end without an answer.
    pub(super) fn create_in_one_round(&mut self, subjects: &[&str], request: &str) {
        let publish = |subject: &&str| {
            let kind = JsKind::Publish(self.stream_of(subject));
            Self::op(kind, subject, ReplyTo::None, "", "lost")
        };
        let mut ops: Vec<JsOp> = subjects.iter().map(publish).collect();
        let subject = "$JS.API.CONSUMER.CREATE.S.C";
        ops.push(Self::op(JsKind::Api, subject, ReplyTo::None, "", request));
        self.round(ops);
    }

    pub(super) fn has_consumer(&mut self, stream: &str, consumer: &str) -> bool {
        let info = self.ask(&format!("$JS.API.CONSUMER.INFO.{stream}.{consumer}"), "");
        !info.contains("error")
    }

    pub(super) fn pull(&mut self, stream: &str, consumer: &str, request: &str) {
        self.pull_to("_INBOX.pull", stream, consumer, request);
    }

    pub(super) fn pull_to(&mut self, inbox: &str, stream: &str, consumer: &str, request: &str) {
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}");
        let reply = ReplyTo::Subject(inbox.to_owned().into());
        self.round(vec![Self::op(JsKind::Api, &subject, reply, "", request)]);
    }

    pub(super) fn ack(&mut self, delivered: &Delivered, payload: &str) {
        self.round(vec![Self::op(
            JsKind::Ack,
            &delivered.reply,
            ReplyTo::None,
            "",
            payload,
        )]);
    }

    pub(super) fn ack_and_wait(&mut self, delivered: &Delivered, payload: &str) -> Option<String> {
        let inbox = self.inbox();
        let reply = ReplyTo::Subject(inbox.clone().into());
        self.round(vec![Self::op(JsKind::Ack, &delivered.reply, reply, "", payload)]);
        self.take_answer(&inbox)
    }

    /// Publishes and acknowledges in one round. Gives the answers to both.
    pub(super) fn publish_beside_ack(
        &mut self,
        subject: &str,
        delivered: &Delivered,
    ) -> (Option<String>, Option<String>) {
        let (publish, ack) = (self.inbox(), self.inbox());
        let kind = JsKind::Publish(self.stream_of(subject));
        let op = |kind, subject: &str, reply: &str| {
            Self::op(kind, subject, ReplyTo::Subject(reply.to_owned().into()), "", "")
        };
        self.round(vec![
            op(JsKind::Ack, &delivered.reply, &ack),
            op(kind, subject, &publish),
        ]);
        (self.take_answer(&publish), self.take_answer(&ack))
    }

    /// Sends a part of a backup, and takes the answer that comes before long.
    pub(super) fn transfer(&mut self, subject: &str, payload: &[u8]) -> Option<Delivered> {
        let inbox = self.inbox();
        let mut op = Self::op(
            JsKind::Transfer,
            subject,
            ReplyTo::Subject(inbox.clone().into()),
            "",
            "",
        );
        op.payload = Bytes::copy_from_slice(payload);
        self.round(vec![op]);
        self.settle();
        let index = self.clients.got.iter().position(|got| got.to == inbox)?;
        Some(self.clients.got.remove(index))
    }

    /// What was sent to this subject since the last call.
    pub(super) fn got(&mut self, to: &str) -> Vec<Delivered> {
        let (got, rest) = std::mem::take(&mut self.clients.got)
            .into_iter()
            .partition(|got| got.to == to);
        self.clients.got = rest;
        got
    }

    /// What the server published itself since the last call, but for what it says about each request.
    pub(super) fn published(&mut self) -> Vec<Delivered> {
        let mut published = std::mem::take(&mut self.clients.published);
        published.retain(|got| got.subject != "$JS.EVENT.ADVISORY.API");
        published
    }

    /// The stream messages that came since the last call.
    pub(super) fn deliveries(&mut self) -> Vec<Delivered> {
        let (deliveries, rest) = std::mem::take(&mut self.clients.got)
            .into_iter()
            .partition(|got| got.reply.starts_with("$JS.ACK."));
        self.clients.got = rest;
        deliveries
    }

    /// The status messages that came since the last call, as text.
    pub(super) fn statuses(&mut self) -> String {
        let mut text = String::new();
        for got in std::mem::take(&mut self.clients.got) {
            write!(text, "{}", got.headers.replace("\r\n", "\n")).unwrap();
        }
        text
    }

    /// The flow-control requests that came since the last call: where their answers go.
    pub(super) fn flow_requests(&mut self) -> Vec<String> {
        let (requests, rest): (Vec<_>, _) = std::mem::take(&mut self.clients.got)
            .into_iter()
            .partition(|got| got.reply.starts_with("$JS.FC."));
        self.clients.got = rest;
        requests.into_iter().map(|got| got.reply).collect()
    }

    /// Answers a flow-control request: everything up to `stream_seq` has come.
    pub(super) fn answer_flow(&mut self, request: &str, stream_seq: u64) {
        let headers = format!("Nats-Last-Consumer: {stream_seq}\r\nNats-Last-Stream: {stream_seq}\r\n");
        self.round(vec![Self::op(JsKind::Ack, request, ReplyTo::None, &headers, "")]);
    }

    pub(super) fn listen(&mut self, subject: &str) {
        self.clients.listening.insert(subject.to_owned());
    }

    /// Whether only a wildcard covers the subject of a listener.
    pub(super) fn set_covered(&mut self, subject: &str, is_covered: bool) {
        if is_covered {
            self.clients.covered.insert(subject.to_owned());
        } else {
            self.clients.covered.remove(subject);
        }
    }

    pub(super) fn unlisten(&mut self, subject: &str) {
        self.clients.listening.remove(subject);
    }

    /// Lets the engine do what is urgent, until nothing is.
    pub(super) fn settle(&mut self) {
        for _ in 0..1000 {
            self.round(Vec::new());
            if !self.engine.has_urgent() {
                return;
            }
        }
        panic!("there is always something urgent");
    }

    /// Lets time pass, stopping wherever a timer is due.
    pub(super) fn wait(&mut self, nanos: u64) {
        let end = self.now.mono.0 + nanos;
        self.round(Vec::new());
        for _ in 0..10_000 {
            let due = self.engine.next_deadline().filter(|due| due.0 <= end);
            let Some(due) = due else { break };
            self.advance_to(due.0.max(self.now.mono.0));
            self.round(Vec::new());
        }
        self.advance_to(end);
        self.round(Vec::new());
    }

    /// Lets time pass without a round.
    pub(super) fn pass(&mut self, nanos: u64) {
        self.advance_to(self.now.mono.0 + nanos);
    }

    fn advance_to(&mut self, mono: u64) {
        let nanos = mono - self.now.mono.0;
        self.now = Now {
            wall: self.now.wall.saturating_add(nanos as i64),
            mono: Mono(mono),
        };
    }

    pub(super) fn jump(&mut self, nanos: i64) {
        self.now.wall = self.now.wall.saturating_add(nanos);
    }

    /// Stops and starts again, in order.
    pub(super) fn restart(&mut self) {
        self.engine.persist_all();
        self.round(Vec::new());
        drop(self.store.take().unwrap().close());
        self.reopen();
    }

    /// Cuts the power and starts again.
    pub(super) fn crash(&mut self, seed: u64) {
        self.fs.crash(seed);
        drop(self.store.take());
        self.effects.clear();
        self.reopen();
    }

    /// Changes a stream's configuration in the store alone, without anything that follows from it.
    pub(super) fn set_stored(&mut self, stream: &str, field: &str, value: Value) {
        let store = self.store.as_mut().unwrap();
        let (id, meta) = store.streams().find(|(_, meta)| &*meta.name == stream).unwrap();
        let mut config: Value = serde_json::from_slice(&meta.config).unwrap();
        config[field] = value;
        store.update_stream(id, config.to_string().as_bytes()).unwrap();
    }

    fn reopen(&mut self) {
        self.clients.got.clear();
        self.clients.abroad = Abroad::default();
        let (store, engine) = open(&self.fs, self.seed, self.now);
        self.store = Some(store);
        self.engine = engine;
    }

    fn state(&mut self, stream: &str) -> Value {
        let info = self.ask(&format!("$JS.API.STREAM.INFO.{stream}"), "");
        serde_json::from_str::<Value>(&info).unwrap()["state"].clone()
    }

    pub(super) fn messages(&mut self, stream: &str) -> u64 {
        self.state(stream)["messages"].as_u64().unwrap()
    }

    pub(super) fn last_seq(&mut self, stream: &str) -> u64 {
        self.state(stream)["last_seq"].as_u64().unwrap()
    }

    /// What the server sends to itself is lost from now on, or not any more.
    pub(super) fn cut_abroad(&mut self, is_cut: bool) {
        self.clients.abroad.is_cut = is_cut;
    }

    /// All consumers, with those that other streams copy through.
    pub(super) fn consumer_count(&self) -> usize {
        self.engine.consumers.len()
    }

    pub(super) fn message(&self, stream: &str, seq: u64) -> Option<String> {
        let id = self.engine.stream_by_name(stream)?.id;
        let record = self.store().read(id, crate::types::StreamSeq(seq)).ok()??;
        Some(String::from_utf8(record.payload.to_vec()).unwrap())
    }

    pub(super) fn check_consumer_is_behind(&mut self, stream: &str, consumer: &str, seed: u64) {
        let last_seq = self.last_seq(stream);
        let info = self.ask(&format!("$JS.API.CONSUMER.INFO.{stream}.{consumer}"), "");
        let info: Value = serde_json::from_str(&info).unwrap();
        let delivered = info["delivered"]["stream_seq"].as_u64().unwrap();
        let floor = info["ack_floor"]["stream_seq"].as_u64().unwrap();
        assert!(
            delivered <= last_seq,
            "seed {seed}: consumer at {delivered}, stream at {last_seq}"
        );
        assert!(floor <= delivered, "seed {seed}: floor {floor} above {delivered}");
    }
}

fn open(fs: &SimFs, seed: u64, now: Now) -> (Store<SimFs>, Engine) {
    let (mut store, _) = Store::open(fs.clone(), Path::new(DIR), store_options(seed)).unwrap();
    let engine = Engine::recover(EngineOptions::new(seed), &mut store, now).unwrap();
    (store, engine)
}

/// Notes as the broker takes them.
fn store_options(seed: u64) -> StoreOptions {
    StoreOptions {
        notes: crate::stream::notes::NOTES,
        ..StoreOptions::new(seed)
    }
}
