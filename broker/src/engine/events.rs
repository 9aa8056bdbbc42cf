//! Advisories and metrics: what JetStream tells those who listen on `$JS.EVENT.>`.
//! Source: nats-server, `jetstream_events.go`.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};

use super::dispatch::Outlet;
use super::effect::Effect;
use super::time::Now;
use super::{ConsumerId, Engine};
use crate::api::{AUDIT_SUBJECT, time};
use crate::consumer;
use crate::consumer::state::PendingState;
use crate::router::Message;
use crate::shard::inbox::JsOp;
use crate::sharing::REQUEST_INFO;
use crate::stream::headers;
use crate::types::{AccountId, UnixNanos};

/// Digits and letters of an event's id.
const ID_LETTERS: usize = 22;

/// Something to be told, if anybody listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// Where it goes.
    pub(crate) subject: String,
    /// Its type, without `io.nats.jetstream.`.
    kind: &'static str,
    id: u128,
    time: UnixNanos,
    fields: Fields,
}

/// Names and values, in their order.
pub(super) type Fields = Vec<(&'static str, Content)>;

/// The value of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Json(Value),
    /// Bytes shown as text.
    Text(Bytes),
}

impl Event {
    /// Publishes the event, if anybody listens.
    pub(crate) fn tell(&self, outlet: &mut impl Outlet) {
        if outlet.is_wanted(&self.subject) {
            outlet.publish(&Message {
                subject: &self.subject,
                reply: None,
                headers: &[],
                payload: &self.encode(),
            });
        }
    }

    /// The event as JSON.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = format!(
            "{{\"type\":\"io.nats.jetstream.{}\",\"id\":\"{}\",\"timestamp\":\"{}\"",
            self.kind,
            unique_id(self.id),
            time::format(self.time)
        );
        for (name, value) in &self.fields {
            let value = match value {
                Content::Json(value) => value.to_string(),
                Content::Text(bytes) => Value::from(String::from_utf8_lossy(bytes)).to_string(),
            };
            write!(out, ",\"{name}\":{value}").expect("writing to a string does not fail");
        }
        out.push('}');
        out.into_bytes()
    }
}

/// Letters and digits as nats-server's ids have them.
pub(crate) fn unique_id(mut random: u128) -> String {
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut letter = || {
        let letter = ALPHABET[(random % 62) as usize];
        random /= 62;
        char::from(letter)
    };
    (0..ID_LETTERS).map(|_| letter()).collect()
}

/// A field of an event.
pub(super) fn field(name: &'static str, value: impl Serialize) -> (&'static str, Content) {
    (
        name,
        Content::Json(serde_json::to_value(value).unwrap_or(Value::Null)),
    )
}

impl Engine {
    /// Tells an event to the current account's listeners after the next commit.
    pub(super) fn tell(
        &mut self,
        now: Now,
        kind: &'static str,
        subject: String,
        fields: Fields,
        effects: &mut Vec<Effect>,
    ) {
        let event = self.event(now, kind, subject, fields);
        effects.push(Effect::Event(Box::new(event)));
    }

    /// Something that happens now.
    pub(super) fn event(&mut self, now: Now, kind: &'static str, subject: String, fields: Fields) -> Event {
        let id = u128::from(self.next_random()) << 64 | u128::from(self.next_random());
        let mut fields = fields;
        if let Some(domain) = &self.options.domain {
            fields.push(field("domain", domain));
        }
        Event {
            subject,
            kind,
            id,
            time: now.wall,
            fields,
        }
    }

    pub(super) fn account_name(&self, account: AccountId) -> Arc<str> {
        self.options.accounts.name(account).unwrap_or_default()
    }

    /// A request to the API was answered.
    pub(super) fn tell_api(&mut self, now: Now, op: &JsOp, response: &Bytes, effects: &mut Vec<Effect>) {
        let client = self.who_asks(op);
        let mut fields = vec![
            field("server", &self.options.server_name),
            field("client", client),
            ("subject", Content::Text(op.subject.clone())),
        ];
        if !op.payload.is_empty() {
            fields.push(("request", Content::Text(op.payload.clone())));
        }
        fields.push(("response", Content::Text(response.clone())));
        let subject = AUDIT_SUBJECT.to_owned();
        self.tell(now, "advisory.v1.api_audit", subject, fields, effects);
    }

    /// What is known of who made a request: its account alone, if nothing else is.
    fn who_asks(&self, op: &JsOp) -> Map<String, Value> {
        let account = self.account_name(self.account);
        let told = headers::field(&op.headers, REQUEST_INFO);
        let mut client: Map<String, Value> = told
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        let asks_from = client
            .entry("acc")
            .or_insert_with(|| account.as_ref().into())
            .clone();
        if asks_from != *account {
            client.insert("svc".to_owned(), account.as_ref().into());
        }
        if told.is_some() {
            let server = &self.options.server_name;
            client.insert("server".to_owned(), server.as_str().into());
        }
        client
    }

    /// A stream was created, changed or deleted.
    pub(super) fn tell_stream(
        &mut self,
        now: Now,
        stream: &str,
        action: &'static str,
        effects: &mut Vec<Effect>,
    ) {
        let verb = past(action);
        let subject = format!("$JS.EVENT.ADVISORY.STREAM.{verb}.{stream}");
        let fields = vec![field("stream", stream), field("action", action)];
        self.tell(now, "advisory.v1.stream_action", subject, fields, effects);
    }

    /// A consumer was created or deleted.
    pub(super) fn tell_consumer(
        &mut self,
        now: Now,
        stream: &str,
        consumer: &str,
        action: &'static str,
        effects: &mut Vec<Effect>,
    ) {
        let verb = past(action);
        let subject = format!("$JS.EVENT.ADVISORY.CONSUMER.{verb}.{stream}.{consumer}");
        let fields = vec![
            field("stream", stream),
            field("consumer", consumer),
            field("action", action),
        ];
        self.tell(now, "advisory.v1.consumer_action", subject, fields, effects);
    }
}

impl Engine {
    /// What happened to a consumer, for those who listen.
    pub(super) fn consumer_event(
        &mut self,
        now: Now,
        account: AccountId,
        (stream, consumer): &(Arc<str>, Arc<str>),
        event: consumer::Event,
    ) -> Event {
        use consumer::Event as Happened;
        let mut fields = vec![field("stream", &**stream), field("consumer", &**consumer)];
        let message = |state: PendingState| {
            [
                field("consumer_seq", state.consumer_seq),
                field("stream_seq", state.stream_seq),
                field("deliveries", state.deliveries),
            ]
        };
        let (kind, word) = match event {
            Happened::MaxDeliver {
                stream_seq,
                deliveries,
            } => {
                fields.extend([field("stream_seq", stream_seq), field("deliveries", deliveries)]);
                ("advisory.v1.max_deliver", "ADVISORY.CONSUMER.MAX_DELIVERIES")
            }
            Happened::Nak(state) => {
                fields.extend(message(state));
                ("advisory.v1.nak", "ADVISORY.CONSUMER.MSG_NAKED")
            }
            Happened::Terminated(state, reason) => {
                fields.extend(message(state));
                if !reason.is_empty() {
                    fields.push(field("reason", reason));
                }
                ("advisory.v1.terminated", "ADVISORY.CONSUMER.MSG_TERMINATED")
            }
            Happened::Acked(state, nanos) => {
                fields.extend(message(state));
                fields.push(field("ack_time", nanos));
                ("metric.v1.consumer_ack", "METRIC.CONSUMER.ACK")
            }
            Happened::Pinned(pin) => {
                fields.insert(0, field("account", &*self.account_name(account)));
                fields.extend([field("group", pin.group), field("pinned_id", pin.id)]);
                ("advisory.v1.consumer_group_pinned", "ADVISORY.CONSUMER.PINNED")
            }
            Happened::Unpinned { group, reason } => {
                fields.insert(0, field("account", &*self.account_name(account)));
                fields.extend([field("group", group), field("reason", reason)]);
                (
                    "advisory.v1.consumer_group_unpinned",
                    "ADVISORY.CONSUMER.UNPINNED",
                )
            }
        };
        Event {
            subject: format!("$JS.EVENT.{word}.{stream}.{consumer}"),
            kind,
            id: u128::from(self.next_random()) << 64 | u128::from(self.next_random()),
            time: now.wall,
            fields,
        }
    }

    /// Tells what happened to a consumer since the last time.
    pub(super) fn tell_consumer_events(&mut self, now: Now, id: ConsumerId, effects: &mut Vec<Effect>) {
        let Some(observer) = self.consumers.get_mut(&id) else {
            return;
        };
        let names = (observer.consumer.stream.clone(), observer.consumer.name.clone());
        let account = observer.account;
        for event in observer.consumer.take_events() {
            let event = self.consumer_event(now, account, &names, event);
            effects.push(Effect::Event(Box::new(event)));
        }
    }
}

fn past(action: &str) -> &'static str {
    match action {
        "create" => "CREATED",
        "delete" => "DELETED",
        _ => "UPDATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_written_as_the_server_writes_them() {
        let event = Event {
            subject: "s".to_owned(),
            kind: "advisory.v1.stream_action",
            id: 61,
            time: UnixNanos(1_700_000_000_000_000_000),
            fields: vec![field("stream", "S\""), field("action", "create")],
        };
        expect_test::expect![[r#"{"type":"io.nats.jetstream.advisory.v1.stream_action","id":"z000000000000000000000","timestamp":"2023-11-14T22:13:20Z","stream":"S\"","action":"create"}"#]]
        .assert_eq(std::str::from_utf8(&event.encode()).unwrap());
    }
}
