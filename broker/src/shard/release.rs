//! Sending out what the engine decided, once the commit has succeeded.

use std::sync::Arc;

use serde::Serialize;

use crate::accounts::Accounts;
use crate::api::error::ApiError;
use crate::batch::OutBatch;
use crate::consumer::Receiver;
use crate::engine::{Effect, Engine, Outgoing, Outlet, push_number, send_notice, store_error};
use crate::env::Fs;
use crate::outbound::ClientId;
use crate::router::{Message, Router};
use crate::shard::inbox::{PubAck, PublishError, ReplyTo};
use crate::store::{CommitReport, Store, StoreError};
use crate::types::{AccountId, StreamId, StreamSeq};

/// A receiver with more than this waiting gets no more deliveries for now.
const BACKLOG_BYTES_MAX: usize = 4 << 20;

/// The routers of all accounts, as the engine sees them: one at a time.
pub(super) struct Routers {
    accounts: Arc<Accounts>,
    ways: Vec<Way>,
    current: usize,
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
        };
        routers.enter(AccountId::GLOBAL);
        routers
    }

    /// Hands over what has gathered for the clients of all accounts.
    pub(super) fn flush(&mut self) {
        for way in &mut self.ways {
            way.out.flush();
        }
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

    fn send(&mut self, to: &str, message: &Message<'_>) {
        let Way { router, out } = &mut self.ways[self.current];
        router.route_to(to, message, out);
    }

    fn answer(&mut self, message: &Message<'_>) {
        let Way { router, out } = &mut self.ways[self.current];
        router.route(message, out);
    }

    fn capture(&mut self, stream: StreamId, subjects: &[String]) {
        self.router().set_stream_subjects(stream, subjects);
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
        for effect in effects.drain(..) {
            match effect {
                Effect::Enter(entered) => account = entered,
                Effect::Reply {
                    after: Some(stream), ..
                } if self.store.has_states_due(stream) => {
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
                reply,
            } => {
                match self
                    .failure(stream)
                    .filter(|_| seq > self.store.durable_seq(stream))
                {
                    None => self.acknowledge(stream, seq, is_duplicate, reply),
                    Some(err) => {
                        let local = commit_error(err);
                        self.refuse(stream, &store_error(err), local, reply);
                    }
                }
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
            Effect::Status(notice) => send_notice(self.outlet, &notice.reply, &notice.status),
            Effect::Capture { stream, subjects } => self.outlet.capture(stream, &subjects),
        }
    }

    fn failure(&self, stream: StreamId) -> Option<&StoreError> {
        self.report
            .failed
            .iter()
            .find(|(id, _)| *id == stream)
            .map(|(_, err)| err)
    }

    fn acknowledge(&mut self, stream: StreamId, seq: StreamSeq, is_duplicate: bool, reply: ReplyTo) {
        match reply {
            ReplyTo::None => {}
            ReplyTo::Subject(to) => {
                let Some(prefix) = self.engine.ack_prefix(stream) else {
                    return;
                };
                self.text.clear();
                self.text.push_str(prefix);
                push_number(self.text, seq.0);
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
