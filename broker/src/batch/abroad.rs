//! Messages that go on in another account: requests to its services, and the answers.

use std::sync::Arc;

use bytes::Bytes;

use super::OutBatch;
use crate::engine::events::unique_id;
use crate::options::ResponseType;
use crate::router::{Abroad, Message, Router};
use crate::shard::inbox::{JsKind, JsOp, ReplyTo};
use crate::sharing::answers::{self, Answer};
use crate::sharing::latency::{Measured, Outcome, sample};
use crate::sharing::{HOPS_MAX, REQUEST_INFO, ServiceLink};
use crate::stream::headers;
use crate::types::{AccountId, MonoNanos};

/// Acknowledgements of JetStream go back as they are.
const ACK_PREFIX: &str = "$JS.ACK.";

/// How a message came into an account.
#[derive(Debug, Default)]
pub(super) struct Trail {
    /// The services that it has asked so far.
    exports: Vec<usize>,
    /// The account of who asked first, and what is told of it.
    asker: Option<(Arc<str>, bool)>,
}

impl Trail {
    /// Whether the message came from another account's request or answer.
    pub(super) fn is_abroad(&self) -> bool {
        !self.exports.is_empty()
    }
}

impl OutBatch {
    /// How far away the sender is, and what it is known by to services that are told who asks: fields of a JSON object,
    /// without braces.
    pub(crate) fn set_details(&mut self, rtt_nanos: u64, details: Option<String>) {
        self.rtt_nanos = rtt_nanos;
        self.details = details.map(Into::into);
    }

    /// Takes what has to be stored or asked of JetStream in other accounts, or under other names.
    pub(crate) fn take_crossed(&mut self) -> Vec<JsOp> {
        std::mem::take(&mut self.crossed)
    }

    /// Notes something for the storage thread.
    pub(crate) fn cross(&mut self, account: AccountId, kind: JsKind, subject: &str, msg: &Message<'_>) {
        let copy = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        self.crossed.push(JsOp {
            account,
            kind,
            subject: copy(subject),
            reply: msg
                .reply
                .map_or(ReplyTo::None, |reply| ReplyTo::Subject(copy(reply))),
            headers: Bytes::copy_from_slice(msg.headers),
            payload: Bytes::copy_from_slice(msg.payload),
        });
    }

    /// Does what other accounts want done with a message sent to `to`. Returns how many took it.
    pub(super) fn send_abroad(&mut self, abroad: &Abroad, to: &str, msg: &Message<'_>) -> usize {
        let mut receivers = 0;
        if !self.trail.is_abroad() {
            for (account, stream, renamed) in &abroad.streams {
                self.cross(*account, JsKind::Publish(*stream), renamed, msg);
                receivers += 1;
            }
        }
        for service in &abroad.services {
            receivers += self.ask(service, to, msg);
        }
        receivers
    }

    /// Publishes a request in the account of the service. Returns how many took it.
    fn ask(&mut self, service: &Arc<ServiceLink>, to: &str, msg: &Message<'_>) -> usize {
        let is_circle = self.trail.exports.contains(&service.export) || self.trail.exports.len() >= HOPS_MAX;
        let Some(router) = service.router.upgrade().filter(|_| !is_circle) else {
            return 0;
        };
        let Some(subject) = service.rename.apply(to) else {
            return 0;
        };
        let random = self.next_random() as u32;
        let subject = router.mapped(&subject, random).map_or(subject, Into::into);
        let asker = self
            .trail
            .asker
            .clone()
            .unwrap_or_else(|| (Arc::clone(&service.asker_name), service.share));
        let info = self.request_info(&asker, service);
        let measured = self.measured(service, &router, &info, msg.headers);
        let reply = msg.reply.map(|reply| match reply.strip_prefix(ACK_PREFIX) {
            Some(_) => reply.to_owned(),
            None => self.expect_answer(service, &router, reply, measured.clone()),
        });
        if let (Some(measured), None) = (&measured, &reply) {
            self.tell(&router, measured, Outcome::BadRequest);
        }
        let told = headers::set_field(msg.headers, REQUEST_INFO, &info);
        let request = Message {
            subject: &subject,
            reply: reply.as_deref(),
            headers: &told,
            payload: msg.payload,
        };
        let mut exports = self.trail.exports.clone();
        exports.push(service.export);
        let trail = Trail {
            exports,
            asker: Some(asker),
        };
        let receivers = self.publish_in(&router, trail, &subject, &request);
        if receivers == 0
            && let Some(reply) = reply.filter(|reply| reply.starts_with(answers::PREFIX))
        {
            if let Some(measured) = router.answers().take_measured(&reply) {
                self.tell(&router, &measured, Outcome::Unavailable);
            }
            router.answers().came(&reply, true, router.monotonic());
        }
        receivers
    }

    /// What is told of how long a request takes, if that is measured.
    fn measured(
        &mut self,
        service: &ServiceLink,
        router: &Router,
        info: &str,
        headers: &[u8],
    ) -> Option<Measured> {
        let latency = service.latency.as_ref()?;
        let trace = sample(latency, headers, self.random())?;
        Some(Measured {
            subject: latency.subject.as_str().into(),
            account: Arc::clone(&service.account_name),
            requestor: info.into(),
            requestor_rtt_nanos: self.rtt_nanos,
            trace,
            asked_at: router.now(),
            asked: router.monotonic(),
        })
    }

    /// Tells in the service's account how a measured request ended.
    fn tell(&mut self, router: &Router, measured: &Measured, outcome: Outcome<'_>) {
        let now = router.now();
        let id = u128::from(now.0.unsigned_abs()) << 64 | self.next_random() as u128;
        let payload = measured.metric(outcome, &unique_id(id), now);
        let metric = Message {
            subject: &measured.subject,
            reply: None,
            headers: &[],
            payload: &payload,
        };
        let origin = self.origin;
        let nested = self
            .abroad
            .entry(router.account())
            .or_insert_with(|| Box::new(Self::new(origin)));
        nested.echo = true;
        let before = std::mem::take(&mut nested.trail);
        let delivery = nested.deliver_to(router, metric.subject, &metric);
        nested.trail = before;
        let routed = router.finish(delivery);
        let mut crossed = nested.take_crossed();
        self.pending_bytes += std::mem::take(&mut nested.pending_bytes);
        self.crossed.append(&mut crossed);
        if let Some(kind @ JsKind::Publish(_)) = routed.bound {
            self.cross(router.account(), kind, metric.subject, &metric);
        }
    }

    /// What a measured answer tells of who gave it: JSON.
    fn responder(&self, measured: &Measured) -> String {
        let account = serde_json::Value::from(&*measured.account);
        match &self.details {
            Some(details) => format!("{{\"acc\":{account},{details}}}"),
            None => format!("{{\"acc\":{account}}}"),
        }
    }

    /// Passes on what is sent to an answer's subject. Returns how many took it.
    pub(super) fn pass_answer(
        &mut self,
        router: &Router,
        to: &str,
        answer: &Answer,
        msg: &Message<'_>,
    ) -> usize {
        let Some(asker) = answer
            .router
            .upgrade()
            .filter(|_| self.trail.exports.len() < HOPS_MAX)
        else {
            return 0;
        };
        let passed = Message {
            // What JetStream delivers keeps its subject.
            subject: if msg.subject == to {
                &answer.to
            } else {
                msg.subject
            },
            ..*msg
        };
        let mut exports = self.trail.exports.clone();
        exports.push(usize::MAX);
        let trail = Trail { exports, asker: None };
        let came = router.monotonic();
        let receivers = self.publish_in(&asker, trail, &answer.to, &passed);
        if let Some(measured) = router.answers().take_measured(to) {
            let outcome = Outcome::Answered {
                responder: &self.responder(&measured),
                responder_rtt_nanos: self.rtt_nanos,
                came,
                gone: router.monotonic(),
            };
            self.tell(router, &measured, outcome);
        }
        let is_empty = msg.headers.is_empty() && msg.payload.is_empty();
        let is_last = receivers == 0 || answer.response == ResponseType::Singleton || is_empty;
        router.answers().came(to, is_last, router.monotonic());
        receivers
    }

    /// Publishes `msg` in another account. Returns how many took it.
    fn publish_in(&mut self, router: &Router, trail: Trail, to: &str, msg: &Message<'_>) -> usize {
        let (origin, echo, details) = (self.origin, self.echo, self.details.clone());
        let is_request = trail.asker.is_some();
        let nested = self
            .abroad
            .entry(router.account())
            .or_insert_with(|| Box::new(Self::new(origin)));
        nested.echo = echo;
        nested.details = details;
        nested.rtt_nanos = self.rtt_nanos;
        let before = std::mem::replace(&mut nested.trail, trail);
        let delivery = nested.deliver_to(router, to, msg);
        nested.trail = before;
        let routed = router.finish(delivery);
        // What is answered may be stored, but asks nothing of JetStream in the requester's name.
        let may_take = |kind: &JsKind| match kind {
            JsKind::Publish(_) => true,
            JsKind::Api | JsKind::Ack | JsKind::Transfer => is_request,
            JsKind::UserInfo | JsKind::Heard(_) => false,
        };
        let mut crossed = nested.take_crossed();
        self.pending_bytes += std::mem::take(&mut nested.pending_bytes);
        self.crossed.append(&mut crossed);
        match routed.bound.filter(may_take) {
            Some(kind) => {
                let plain;
                // The audit of JetStream's API tells who asks; nothing else has use for it.
                let is_told = kind != JsKind::Api && headers::field(msg.headers, REQUEST_INFO).is_some();
                let stored = if is_told {
                    plain = headers::without_fields(msg.headers, |name| name == REQUEST_INFO);
                    Message {
                        headers: &plain,
                        ..*msg
                    }
                } else {
                    *msg
                };
                self.cross(router.account(), kind, to, &stored);
                routed.receivers + 1
            }
            None => routed.receivers,
        }
    }

    /// A subject for the answer to a request that wants it at `reply`.
    fn expect_answer(
        &mut self,
        service: &ServiceLink,
        router: &Router,
        reply: &str,
        measured: Option<Measured>,
    ) -> String {
        let mut subject = answers::PREFIX.to_owned();
        push_letters(&mut subject, u64::from(router.account().0));
        subject.push('.');
        push_letters(&mut subject, self.next_random() as u64);
        push_letters(&mut subject, router.answers().next_number());
        let now = router.monotonic();
        let patience_nanos = u64::try_from(service.threshold.as_nanos()).unwrap_or(u64::MAX);
        let answer = Answer {
            router: service.asker.clone(),
            to: reply.into(),
            response: service.response,
            due: MonoNanos(now.0.saturating_add(patience_nanos)),
            measured: measured.map(Box::new),
            patience_nanos,
        };
        router.answers().expect(&subject, answer, now);
        subject
    }

    /// What a service is told of who asks.
    fn request_info(&self, (asker, share): &(Arc<str>, bool), service: &ServiceLink) -> String {
        let mut info = format!("{{\"acc\":{}", serde_json::Value::from(&**asker));
        if *asker != service.asker_name {
            info.push_str(&format!(
                ",\"svc\":{}",
                serde_json::Value::from(&*service.asker_name)
            ));
        }
        match self.details.as_ref().filter(|_| *share) {
            Some(details) => info.push_str(&format!(",{details}")),
            None if self.rtt_nanos > 0 => info.push_str(&format!(",\"rtt\":{}", self.rtt_nanos)),
            None => {}
        }
        info.push('}');
        info
    }
}

/// Six letters and digits for a number.
fn push_letters(text: &mut String, mut number: u64) {
    const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    for _ in 0..6 {
        text.push(char::from(LETTERS[(number % 62) as usize]));
        number /= 62;
    }
}
