//! The server as a client of another account's JetStream: what it listens to, and what it asks.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::world::Delivered;
use crate::router::Message;
use crate::shard::inbox::{JsKind, JsOp, ReplyTo};
use crate::types::AccountId;

/// How JetStream's API is called from there.
pub(super) const API: &str = "far.API.";

/// What is listened to, and what waits for the next round.
#[derive(Debug, Default)]
pub(super) struct Abroad {
    hearings: BTreeMap<u64, String>,
    waiting: Vec<JsOp>,
    /// What the server sends is lost.
    pub(super) is_cut: bool,
}

impl Abroad {
    pub(super) fn listen(&mut self, hearing: u64, subject: &str) {
        self.hearings.insert(hearing, subject.to_owned());
    }

    pub(super) fn unlisten(&mut self, hearing: u64) {
        self.hearings.remove(&hearing);
    }

    /// Whether the server listens there.
    pub(super) fn hears(&self, subject: &str) -> bool {
        self.hearings.values().any(|held| held == subject)
    }

    /// A message was sent.
    pub(super) fn sent(&mut self, delivered: &Delivered) {
        if self.is_cut {
            return;
        }
        for (hearing, subject) in &self.hearings {
            if subject == delivered.to() {
                self.waiting.push(op(
                    JsKind::Heard(*hearing),
                    &delivered.subject,
                    Some(delivered.reply()),
                    delivered.headers().to_owned().into(),
                    delivered.payload().to_vec().into(),
                ));
            }
        }
    }

    /// The server asks.
    pub(super) fn asked(&mut self, message: &Message<'_>) {
        let (kind, subject) = match message.subject.strip_prefix(API) {
            Some(request) => (JsKind::Api, format!("$JS.API.{request}")),
            None if message.subject.starts_with("$JS.FC.") => (JsKind::Ack, message.subject.to_owned()),
            None => return,
        };
        if !self.is_cut {
            let headers = Bytes::copy_from_slice(message.headers);
            let payload = Bytes::copy_from_slice(message.payload);
            self.waiting
                .push(op(kind, &subject, message.reply, headers, payload));
        }
    }

    /// What is to be stepped next.
    pub(super) fn take(&mut self) -> Vec<JsOp> {
        std::mem::take(&mut self.waiting)
    }
}

fn op(kind: JsKind, subject: &str, reply: Option<&str>, headers: Bytes, payload: Bytes) -> JsOp {
    let reply = reply.filter(|reply| !reply.is_empty());
    JsOp {
        account: AccountId::GLOBAL,
        kind,
        subject: Bytes::copy_from_slice(subject.as_bytes()),
        reply: reply.map_or(ReplyTo::None, |reply| ReplyTo::Subject(reply.to_owned().into())),
        headers,
        payload,
    }
}
