//! Storing messages.

use bytes::Bytes;

use super::effect::{AckExtra, Effect, Outgoing};
use super::time::Now;
use super::{AGE_CHECK_NS_MAX, AGE_CHECK_NS_MIN, Engine, Timer};
use crate::api::error::ApiError;
use crate::api::time;
use crate::env::Fs;
use crate::shard::inbox::{JsOp, ReplyTo, Resend};
use crate::store::{NewRecord, Record, Store, StoreError, StreamState, SubjectFilter};
use crate::stream::batch::Staged;
use crate::stream::config::Retention;
use crate::stream::dedupe::IdKind;
use crate::stream::fast::is_fast;
use crate::stream::headers::{self, PublishHeaders, RESEND_ID};
use crate::stream::{Incoming, Records, Rollup, Shaped, Stream, Verdict};
use crate::subject;
use crate::subject::transform::SubjectTransform;
use crate::types::{StreamId, StreamSeq};

pub(super) struct StreamRecords<'a, F: Fs> {
    pub(super) store: &'a Store<F>,
    pub(super) id: StreamId,
}

impl<F: Fs> Records for StreamRecords<'_, F> {
    fn state(&self) -> StreamState {
        self.store.state(self.id)
    }

    fn subject(&self, subject: &str) -> Option<(u64, u64)> {
        if !subject::is_literal(subject) {
            let filter = SubjectFilter::new(&[subject]);
            let last = self.store.last_match(self.id, &filter)?;
            return Some((self.store.count_matching(self.id, &filter, StreamSeq(1)), last.0));
        }
        self.store
            .subject(self.id, subject)
            .map(|summary| (summary.messages, summary.last.0))
    }

    fn last(&self, subject: &str) -> Result<Option<Record>, ApiError> {
        let Some(summary) = self.store.subject(self.id, subject) else {
            return Ok(None);
        };
        self.store
            .read(self.id, summary.last)
            .map_err(|err| store_error(&err))
    }
}

/// The error that a publisher gets when the store refused.
pub(crate) fn store_error(err: &StoreError) -> ApiError {
    match err {
        StoreError::NoSpace { .. } => ApiError::NO_STORAGE,
        StoreError::TooLarge { .. } => ApiError::store_failed("message too large"),
        err => ApiError::store_failed(err),
    }
}

/// A message stored, or found to be stored already.
pub(super) struct Stored {
    pub(super) seq: StreamSeq,
    pub(super) is_duplicate: bool,
    extra: Option<Box<AckExtra>>,
}

impl Stored {
    fn duplicate(seq: u64) -> Self {
        Self {
            seq: StreamSeq(seq),
            is_duplicate: true,
            extra: None,
        }
    }
}

/// What [`Engine::stored`] has to know of a message.
pub(super) struct StoredMessage<'a> {
    pub(super) seq: StreamSeq,
    pub(super) subject: &'a str,
    pub(super) headers: &'a [u8],
    pub(super) payload: &'a [u8],
    pub(super) rollup: Rollup,
    /// The last message of the subject before, 0 for none.
    pub(super) last_of_subject: u64,
}

impl Engine {
    pub(super) fn publish<F: Fs>(
        &mut self,
        now: Now,
        id: StreamId,
        op: JsOp,
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) {
        let JsOp {
            subject,
            mut reply,
            headers,
            payload,
            ..
        } = op;
        // The header belongs to the server: it tells repetitions after a restart.
        let headers = match memchr::memmem::find(&headers, RESEND_ID.as_bytes()) {
            Some(_) => headers::without_fields(&headers, |name| name == RESEND_ID).into(),
            None => headers,
        };
        let resend = match &mut reply {
            ReplyTo::Local { resend, .. } => resend.take(),
            ReplyTo::None | ReplyTo::Subject(_) => None,
        };
        let Some(stream) = self.streams.get(&id) else {
            effects.push(Effect::PubRefused {
                stream: id,
                error: ApiError::STREAM_NOT_FOUND,
                reply,
            });
            return;
        };
        let parsed = if headers.is_empty() {
            PublishHeaders::default()
        } else {
            PublishHeaders::parse(&headers)
        };
        if let ReplyTo::Subject(to) = &reply
            && reply.subject_str().is_some_and(is_fast)
        {
            let parts = Parts {
                subject: &subject,
                headers: &headers,
                payload: &payload,
                parsed: &parsed,
                resend: None,
            };
            return self.publish_fast(now, id, &parts, to, store, effects);
        }
        if stream.config.no_ack && !matches!(reply, ReplyTo::Local { .. }) {
            reply = ReplyTo::None;
        }
        if parsed.batch.id.is_some() {
            let staged = Staged {
                subject,
                headers: headers.clone(),
                payload,
            };
            return self.publish_batched(now, id, &parsed, staged, reply, store, effects);
        }
        let parts = Parts {
            subject: &subject,
            headers: &headers,
            payload: &payload,
            parsed: &parsed,
            resend: resend.as_ref(),
        };
        match self.store_message(now, id, &parts, store, effects) {
            Ok(Stored {
                seq,
                is_duplicate,
                extra,
            }) => {
                if !matches!(reply, ReplyTo::None) {
                    effects.push(Effect::PubAck {
                        stream: id,
                        seq,
                        is_duplicate,
                        extra,
                        reply,
                    });
                }
            }
            Err(error) => effects.push(Effect::PubRefused {
                stream: id,
                error,
                reply,
            }),
        }
    }

    pub(super) fn store_message<F: Fs>(
        &mut self,
        now: Now,
        id: StreamId,
        parts: &Parts<'_>,
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) -> Result<Stored, ApiError> {
        let Parts {
            subject,
            headers,
            payload,
            parsed,
            resend,
        } = *parts;
        let random = self.next_random();
        if self.has_usage_limits()
            && let Some(stream) = self.streams.get(&id)
        {
            self.check_usage(stream, subject.len() + headers.len() + payload.len(), store)?;
        }
        let stream = self.streams.get_mut(&id).ok_or(ApiError::STREAM_NOT_FOUND)?;
        let subject = std::str::from_utf8(subject).map_err(|_| ApiError::BAD_REQUEST)?;
        let transformed = transformed(stream, subject, random);
        let subject = transformed.as_deref().unwrap_or(subject);
        let key = resend.map(|resend| headers::resend_value(&resend.key));
        if resend.is_some_and(|resend| resend.is_resend)
            && let Some(key) = &key
            && let Some(seq) = stream.duplicates.find(now.mono, IdKind::Resend, key)
        {
            return Ok(Stored::duplicate(seq));
        }
        let message = Incoming {
            subject,
            headers,
            payload,
        };
        let verdict = stream.check(now, message, parsed, &StreamRecords { store: &*store, id })?;
        let (rollup, shaped) = match verdict {
            Verdict::Duplicate(seq) => return Ok(Stored::duplicate(seq)),
            Verdict::Store(rollup, shaped) => (rollup, shaped),
        };
        let message = match &shaped {
            Some(shaped) => shaped.incoming(subject),
            None => message,
        };
        let with_resend;
        let stored_headers: &[u8] = match &key {
            Some(key) => {
                with_resend = headers::with_field(message.headers, RESEND_ID, key);
                &with_resend
            }
            None => message.headers,
        };
        let record = NewRecord {
            time: now.wall,
            subject,
            headers: stored_headers,
            payload: message.payload,
        };
        let last_of_subject = last_of_subject(stream, subject, store);
        let seq = append(stream, &record, store, &self.consumers)?;
        remember(stream, now, seq, parsed, key.as_deref());
        let stored = StoredMessage {
            seq,
            subject,
            headers: stored_headers,
            payload: message.payload,
            rollup,
            last_of_subject,
        };
        self.stored(now, id, &stored, shaped.as_deref(), store, effects);
        Ok(Stored {
            seq,
            is_duplicate: false,
            extra: shaped
                .and_then(|shaped| shaped.value)
                .map(|value| Box::new(AckExtra::Value(value))),
        })
    }

    /// Does what follows the storing of a message: expiry, schedules, limits, publishing it once more.
    pub(super) fn stored<F: Fs>(
        &mut self,
        now: Now,
        id: StreamId,
        stored: &StoredMessage<'_>,
        shaped: Option<&Shaped>,
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let seq = stored.seq;
        if stream.config.allow_msg_ttl {
            let parsed = PublishHeaders::parse(stored.headers);
            if let Some(expires) = stream.note_expiry(now.mono, seq.0, &parsed) {
                self.timers.insert((expires, Timer::Expiry(id)));
            }
        }
        if let Some(republish) = &stream.republish {
            let again = republish_effect(stream, republish, now, stored);
            effects.extend(again);
        }
        if stream.config.allow_msg_schedules {
            self.note_schedule(now, id, stored, shaped, store);
        }
        if self.appended.last() != Some(&id) {
            self.appended.push(id);
        }
        self.changes += 1;
        self.after_append(now, id, seq, stored.subject, stored.rollup, store);
    }

    fn after_append<F: Fs>(
        &mut self,
        now: Now,
        id: StreamId,
        seq: StreamSeq,
        subject: &str,
        rollup: Rollup,
        store: &mut Store<F>,
    ) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let (has_limits, max_age) = (stream.has_limits(), stream.config.max_age);
        if rollup != Rollup::None {
            self.roll_up(id, seq, subject, rollup, store);
        }
        if has_limits {
            self.enforce_limits(id, Some((seq, subject)), store);
        }
        if max_age > 0 && self.age_armed.insert(id) {
            let wait = max_age.clamp(AGE_CHECK_NS_MIN, AGE_CHECK_NS_MAX);
            self.timers.insert((now.mono.after(wait), Timer::Age(id)));
        }
    }
}

/// The parts of a publish.
#[derive(Clone, Copy)]
pub(super) struct Parts<'a> {
    subject: &'a [u8],
    pub(super) headers: &'a [u8],
    pub(super) payload: &'a [u8],
    pub(super) parsed: &'a PublishHeaders<'a>,
    resend: Option<&'a Resend>,
}

/// The subject that the stream's transform makes of `subject`, if it is another one.
pub(super) fn transformed(stream: &Stream, subject: &str, random: u64) -> Option<String> {
    stream.transform.as_ref()?.apply(subject, random as u32)
}

/// The last message of a subject, if it matters: for gap detection of what is published once more.
pub(super) fn last_of_subject<F: Fs>(stream: &Stream, subject: &str, store: &Store<F>) -> u64 {
    if stream.republish.is_none() {
        return 0;
    }
    store
        .subject(stream.id, subject)
        .map_or(0, |summary| summary.last.0)
}

/// The message that is published once more, under another subject.
fn republish_effect(
    stream: &Stream,
    republish: &SubjectTransform,
    now: Now,
    stored: &StoredMessage<'_>,
) -> Option<Effect> {
    let to = republish.apply(stored.subject, 0)?;
    if !subject::is_valid_literal(&to) {
        return None;
    }
    let headers_only = stream
        .config
        .republish
        .as_ref()
        .is_some_and(|config| config.headers_only);
    let mut block = stored.headers.to_vec();
    let fields = [
        ("Nats-Stream", stream.name.to_string()),
        ("Nats-Subject", stored.subject.to_owned()),
        ("Nats-Sequence", stored.seq.0.to_string()),
        ("Nats-Time-Stamp", time::format(now.wall)),
        ("Nats-Last-Sequence", stored.last_of_subject.to_string()),
    ];
    for (name, value) in &fields {
        block = headers::with_field(&block, name, value);
    }
    if headers_only {
        block = headers::with_field(&block, "Nats-Msg-Size", &stored.payload.len().to_string());
    }
    let payload: &[u8] = if headers_only { &[] } else { stored.payload };
    let message = Outgoing {
        to: to.into(),
        headers: block.into(),
        payload: Bytes::copy_from_slice(payload),
    };
    Some(Effect::Publish {
        message,
        after: Some((stream.id, stored.seq)),
    })
}

/// Appends the record, or only takes a sequence for it if the stream keeps what somebody is
/// interested in and nobody is.
pub(super) fn append<F: Fs>(
    stream: &Stream,
    record: &NewRecord<'_>,
    store: &mut Store<F>,
    consumers: &std::collections::BTreeMap<super::ConsumerId, super::Observer>,
) -> Result<StreamSeq, ApiError> {
    if stream.config.retention == Retention::Interest && !stream.is_copied {
        let wants = |id| {
            consumers
                .get(id)
                .is_some_and(|observer: &super::Observer| observer.filter.matches(record.subject))
        };
        if !stream.consumers.values().any(wants) {
            let seq = store.state(stream.id).last_seq.next();
            store
                .raise_last_seq(stream.id, seq)
                .map_err(|err| store_error(&err))?;
            return Ok(seq);
        }
    }
    store.append(stream.id, record).map_err(|err| store_error(&err))
}

/// Takes the id of the last message from the stream: after a start, and after messages were not stored after all. It counts however
/// old the message is, and is forgotten if that is not there any more.
/// Source: nats-server, `rebuildDedupe`.
pub(super) fn recall_last_msg_id<F: Fs>(stream: &mut Stream, store: &Store<F>) {
    let last = store.state(stream.id).last_seq;
    let record = store.read_patiently(stream.id, last).ok().flatten();
    let parsed = record
        .as_ref()
        .map(|record| PublishHeaders::parse(&record.headers));
    let id = parsed.and_then(|parsed| parsed.msg_id);
    stream.last_msg_id = id.unwrap_or_default().to_owned();
}

pub(super) fn remember(
    stream: &mut Stream,
    now: Now,
    seq: StreamSeq,
    headers: &PublishHeaders<'_>,
    resend_key: Option<&str>,
) {
    match headers.msg_id {
        Some(msg_id) => {
            stream
                .duplicates
                .remember(now.mono, IdKind::Message, msg_id, seq.0);
            msg_id.clone_into(&mut stream.last_msg_id);
        }
        None => stream.last_msg_id.clear(),
    }
    if let Some(key) = resend_key {
        stream.duplicates.remember(now.mono, IdKind::Resend, key, seq.0);
    }
}
