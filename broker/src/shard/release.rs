//! Sending out what the engine decided, once the commit has succeeded.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use super::hearings::Hearings;
use crate::accounts::Accounts;
use crate::api::error::ApiError;
use crate::api::types::Answer;
use crate::batch::OutBatch;
use crate::consumer::Receiver;
use crate::engine::{AckExtra, Effect, Engine, Outgoing, Outlet, push_number, send_notice, store_error};
use crate::env::Fs;
use crate::outbound::ClientId;
use crate::router::{Message, Router};
use crate::shard::inbox::{JsKind, JsOp, PubAck, PublishError, ReplyTo};
use crate::store::{CommitReport, Store, StoreError};
use crate::types::{AccountId, StreamId, StreamSeq};

/// A receiver with more than this waiting gets no deliveries until it has less.
const BACKLOG_BYTES_MAX: usize = 4 << 20;

/// After so many answers, those who wait get what there is: they go on while the rest is written.
const HAND_OVER_EFFECTS: usize = 128;

/// The routers of all accounts, as the engine sees them: one at a time.
pub(super) struct Routers {
    accounts: Arc<Accounts>,
    ways: Vec<Way>,
    current: usize,
    /// Messages of the server's own that a stream captures.
    captured: Vec<JsOp>,
    hearings: Hearings,
}

/// The way to the clients of one account.
struct Way {
    router: Arc<Router>,
    out: OutBatch,
}

impl Routers {
    pub(super) fn new(accounts: Arc<Accounts>) -> Self {
        let mut routers = Self {
            accounts,
            ways: Vec::new(),
            current: 0,
            captured: Vec::new(),
            hearings: Hearings::default(),
        };
        routers.enter(AccountId::GLOBAL);
        routers
    }

    /// Hands over what has gathered for the clients of all accounts.
    pub(super) fn flush(&mut self) {
        for way in &mut self.ways {
            way.out.flush();
            self.captured.append(&mut way.out.take_crossed());
        }
    }

    /// Takes the messages of the server's own that streams capture, to be stored, and what came for streams that listen.
    pub(super) fn take_captured(&mut self) -> Vec<JsOp> {
        let mut captured = std::mem::take(&mut self.captured);
        self.hearings.take(&mut captured);
        captured
    }

    /// Whether messages of the server's own wait to be stored.
    pub(super) fn has_captured(&self) -> bool {
        !self.captured.is_empty() || self.hearings.has_some()
    }

    fn router(&self) -> &Router {
        &self.ways[self.current].router
    }
}

impl Outlet for Routers {
    fn enter(&mut self, account: AccountId) {
        let index = account.0 as usize;
        for id in self.ways.len()..=index {
            let id = AccountId(u32::try_from(id).unwrap_or(u32::MAX));
            let account = self.accounts.get(id).expect("names give handles without gaps");
            self.ways.push(Way {
                router: Arc::clone(&account.router),
                out: OutBatch::new(ClientId::BROKER),
            });
        }
        self.current = index;
    }

    fn receiver(&self, subject: &str) -> Receiver {
        let router = self.router();
        if !router.has_interest(subject) {
            Receiver::Gone
        } else if router.backlog_bytes(subject) > BACKLOG_BYTES_MAX {
            Receiver::Busy
        } else {
            Receiver::Ready
        }
    }

    fn is_awaited(&self, subject: &str) -> bool {
        self.router().is_subscribed(subject)
    }

    fn send(&mut self, to: &str, message: &Message<'_>) {
        let Way { router, out } = &mut self.ways[self.current];
        router.route_to(to, message, out);
    }

    fn answer(&mut self, message: &Message<'_>) {
        let Way { router, out } = &mut self.ways[self.current];
        router.route(message, out);
    }

    fn is_wanted(&self, subject: &str) -> bool {
        self.router().has_interest(subject) || self.router().captured_by(subject).is_some()
    }

    fn publish(&mut self, message: &Message<'_>) {
        let Way { router, out } = &mut self.ways[self.current];
        let routed = router.route_publish(message, out);
        if let Some(kind @ JsKind::Publish(_)) = routed.bound {
            let op = op_of(router, kind, message, ReplyTo::None);
            self.captured.push(op);
        }
    }

    fn hand_over(&mut self) {
        self.flush();
    }

    fn ask(&mut self, message: &Message<'_>) {
        let Way { router, out } = &mut self.ways[self.current];
        let routed = router.route_publish(message, out);
        let asks = |kind: &JsKind| matches!(kind, JsKind::Publish(_) | JsKind::Api | JsKind::Ack);
        if let Some(kind) = routed.bound.filter(asks) {
            let reply = message.reply.map_or(ReplyTo::None, |reply| {
                ReplyTo::Subject(Bytes::copy_from_slice(reply.as_bytes()))
            });
            let op = op_of(router, kind, message, reply);
            self.captured.push(op);
        }
    }

    fn listen(&mut self, hearing: u64, subject: &str) {
        let router = Arc::clone(&self.ways[self.current].router);
        self.hearings.begin(hearing, router, subject);
    }

    fn unlisten(&mut self, hearing: u64) {
        self.hearings.end(hearing);
    }

    fn capture(&mut self, stream: StreamId, subjects: &[String]) {
        self.router().set_stream_subjects(stream, subjects);
    }
}

/// A message of the server's own as an operation of the storage thread.
fn op_of(router: &Router, kind: JsKind, message: &Message<'_>, reply: ReplyTo) -> JsOp {
    JsOp {
        account: router.account(),
        kind,
        subject: Bytes::copy_from_slice(message.subject.as_bytes()),
        reply,
        headers: Bytes::copy_from_slice(message.headers),
        payload: Bytes::copy_from_slice(message.payload),
    }
}

/// A refused publish, as nats-server words it.
#[derive(Serialize)]
struct Refusal<'a> {
    error: &'a ApiError,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
}

/// Releases effects after one commit.
pub(crate) struct Release<'a, F: Fs, O: Outlet> {
    pub(crate) engine: &'a Engine,
    pub(crate) store: &'a Store<F>,
    pub(crate) report: &'a CommitReport,
    pub(crate) outlet: &'a mut O,
    pub(crate) text: &'a mut String,
}

impl<F: Fs, O: Outlet> Release<'_, F, O> {
    /// Does what the effects say, and gives back those that have to wait for the states of consumers.
    pub(crate) fn all(&mut self, effects: &mut Vec<Effect>) -> Vec<Effect> {
        let mut held = Vec::new();
        let mut account = AccountId::GLOBAL;
        self.outlet.enter(account);
        for (index, effect) in effects.drain(..).enumerate() {
            if index > 0 && index.is_multiple_of(HAND_OVER_EFFECTS) {
                self.outlet.hand_over();
            }
            match effect {
                Effect::Enter(entered) => account = entered,
                Effect::Reply {
                    after: Some(stream), ..
                }
                | Effect::Answer { after: stream, .. }
                    if self.store.has_states_due(stream) =>
                {
                    held.extend([Effect::Enter(account), effect]);
                    continue;
                }
                _ => {}
            }
            self.effect(effect);
        }
        held
    }

    /// Does what the effect says, or, if it waited for a commit that failed, says that.
    fn effect(&mut self, effect: Effect) {
        match effect {
            Effect::Enter(account) => self.outlet.enter(account),
            Effect::PubAck {
                stream,
                seq,
                is_duplicate,
                extra,
                reply,
            } => {
                match self
                    .failure(stream)
                    .filter(|_| seq > self.store.durable_seq(stream))
                {
                    None => self.acknowledge(stream, seq, is_duplicate, extra.as_deref(), reply),
                    Some(err) => {
                        let local = commit_error(err);
                        self.refuse(stream, &store_error(err), local, reply);
                    }
                }
            }
            Effect::Publish { message, after } => {
                let is_lost =
                    |(stream, seq)| self.failure(stream).is_some() && seq > self.store.durable_seq(stream);
                if !after.is_some_and(is_lost) {
                    self.publish(&message);
                }
            }
            Effect::Event(event) => {
                event.tell(self.outlet);
            }
            Effect::PubRefused { stream, error, reply } => {
                let local = local_error(&error);
                self.refuse(stream, &error, local, reply);
            }
            Effect::Reply { message, after } => {
                if after.is_none_or(|stream| self.store.is_settled(self.report, stream)) {
                    self.send(&message);
                }
            }
            Effect::Answer { message, kind, after } => {
                if self.store.is_settled(self.report, after) {
                    self.send(&message);
                } else {
                    let payload = self.refusal(&kind, after).into();
                    self.send(&Outgoing { payload, ..message });
                }
            }
            Effect::Status(notice) => send_notice(self.outlet, &notice.reply, &notice.status),
            Effect::Ask {
                message,
                reply,
                after,
            } => {
                if after.is_none_or(|(stream, seq)| self.store.durable_seq(stream) >= seq) {
                    self.outlet.ask(&Message {
                        subject: std::str::from_utf8(&message.to).unwrap_or_default(),
                        reply: reply.as_deref().and_then(|reply| std::str::from_utf8(reply).ok()),
                        headers: &message.headers,
                        payload: &message.payload,
                    });
                }
            }
            Effect::Listen { hearing, subject } => self.outlet.listen(hearing, &subject),
            Effect::Unlisten { hearing } => self.outlet.unlisten(hearing),
            Effect::Capture { stream, subjects } => self.outlet.capture(stream, &subjects),
        }
    }

    /// The answer to a request that the store did not make durable.
    fn refusal(&self, kind: &str, stream: StreamId) -> Vec<u8> {
        let failed_before = self.store.failure(stream);
        let err = self.failure(stream).or(failed_before.as_ref());
        let error = err.map_or_else(|| ApiError::store_failed("the stream is read-only"), store_error);
        Answer::<()>::encode(kind, Err(error))
    }

    fn failure(&self, stream: StreamId) -> Option<&StoreError> {
        self.report
            .failed
            .iter()
            .find(|(id, _)| *id == stream)
            .map(|(_, err)| err)
    }

    fn acknowledge(
        &mut self,
        stream: StreamId,
        seq: StreamSeq,
        is_duplicate: bool,
        extra: Option<&AckExtra>,
        reply: ReplyTo,
    ) {
        match reply {
            ReplyTo::None => {}
            ReplyTo::Subject(to) => {
                let Some(prefix) = self.engine.ack_prefix(stream) else {
                    return;
                };
                self.text.clear();
                self.text.push_str(prefix);
                push_number(self.text, seq.0);
                if let Some(domain) = self.engine.domain() {
                    self.text.push_str(",\"domain\":");
                    self.text.push_str(&serde_json::Value::from(domain).to_string());
                }
                if let Some(extra) = extra {
                    push_extra(self.text, extra);
                }
                self.text.push_str(if is_duplicate {
                    ",\"duplicate\": true}"
                } else {
                    "}"
                });
                let to = std::str::from_utf8(&to).unwrap_or_default();
                let message = Message {
                    subject: to,
                    reply: None,
                    headers: &[],
                    payload: self.text.as_bytes(),
                };
                self.outlet.answer(&message);
            }
            ReplyTo::Local {
                completion, index, ..
            } => {
                let result = match self.engine.stream_name(stream) {
                    Some(name) => Ok(PubAck {
                        stream: name.clone(),
                        seq,
                        duplicate: is_duplicate,
                    }),
                    None => Err(PublishError::NoStream),
                };
                completion.resolve(index, result);
            }
        }
    }

    fn refuse(&mut self, stream: StreamId, error: &ApiError, local: PublishError, reply: ReplyTo) {
        match reply {
            ReplyTo::None => {}
            ReplyTo::Subject(to) => {
                let stream = self.engine.stream_name(stream).map(|name| &**name);
                let refusal = Refusal {
                    error,
                    stream,
                    seq: stream.map(|_| 0),
                };
                let payload = serde_json::to_vec(&refusal).expect("a refusal is a map with text keys");
                self.send(&Outgoing {
                    to,
                    headers: bytes::Bytes::new(),
                    payload: payload.into(),
                });
            }
            ReplyTo::Local {
                completion, index, ..
            } => completion.resolve(index, Err(local)),
        }
    }

    fn publish(&mut self, outgoing: &Outgoing) {
        let to = std::str::from_utf8(&outgoing.to).unwrap_or_default();
        let message = Message {
            subject: to,
            reply: None,
            headers: &outgoing.headers,
            payload: &outgoing.payload,
        };
        self.outlet.publish(&message);
    }

    fn send(&mut self, outgoing: &Outgoing) {
        let to = std::str::from_utf8(&outgoing.to).unwrap_or_default();
        let message = Message {
            subject: to,
            reply: None,
            headers: &outgoing.headers,
            payload: &outgoing.payload,
        };
        self.outlet.answer(&message);
    }
}

/// Adds what an acknowledgement says besides the sequence.
fn push_extra(text: &mut String, extra: &AckExtra) {
    match extra {
        AckExtra::Value(value) => {
            text.push_str(",\"val\":\"");
            text.push_str(value);
            text.push('"');
        }
        AckExtra::Batch { id, count } => {
            text.push_str(",\"batch\":");
            text.push_str(&serde_json::Value::from(id.as_str()).to_string());
            text.push_str(",\"count\":");
            push_number(text, *count);
        }
    }
}

fn commit_error(err: &StoreError) -> PublishError {
    if err.is_no_space() {
        PublishError::NoSpace
    } else {
        PublishError::ReadOnly
    }
}

fn local_error(error: &ApiError) -> PublishError {
    if *error == ApiError::NO_STORAGE {
        PublishError::NoSpace
    } else if *error == ApiError::STREAM_NOT_FOUND {
        PublishError::NoStream
    } else {
        PublishError::Refused {
            err_code: error.err_code,
            description: error.description.to_string(),
        }
    }
}
