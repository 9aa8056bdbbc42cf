//! Storing messages.

use bytes::Bytes;

use super::effect::Effect;
use super::time::Now;
use super::{AGE_CHECK_NS_MIN, Engine, Timer};
use crate::api::error::ApiError;
use crate::env::Fs;
use crate::shard::inbox::{JsOp, ReplyTo, Resend};
use crate::store::{NewRecord, Store, StoreError, StreamState, SubjectFilter};
use crate::stream::config::Retention;
use crate::stream::dedupe::IdKind;
use crate::stream::headers::{self, PublishHeaders, RESEND_ID};
use crate::stream::{Incoming, Records, Rollup, Stream, Verdict};
use crate::subject;
use crate::types::{StreamId, StreamSeq};

struct StreamRecords<'a, F: Fs> {
    store: &'a Store<F>,
    id: StreamId,
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
struct Stored {
    seq: StreamSeq,
    is_duplicate: bool,
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
        if stream.config.no_ack && !matches!(reply, ReplyTo::Local { .. }) {
            reply = ReplyTo::None;
        }
        match self.store_message(now, id, &subject, &headers, &payload, resend.as_ref(), store) {
            Ok(Stored { seq, is_duplicate }) => {
                if !matches!(reply, ReplyTo::None) {
                    effects.push(Effect::PubAck {
                        stream: id,
                        seq,
                        is_duplicate,
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

    #[expect(clippy::too_many_arguments, reason = "a message has that many parts")]
    fn store_message<F: Fs>(
        &mut self,
        now: Now,
        id: StreamId,
        subject: &Bytes,
        headers: &Bytes,
        payload: &Bytes,
        resend: Option<&Resend>,
        store: &mut Store<F>,
    ) -> Result<Stored, ApiError> {
        let stream = self.streams.get_mut(&id).ok_or(ApiError::STREAM_NOT_FOUND)?;
        let subject = std::str::from_utf8(subject).map_err(|_| ApiError::BAD_REQUEST)?;
        let parsed = if headers.is_empty() {
            PublishHeaders::default()
        } else {
            PublishHeaders::parse(headers)
        };
        if let Some(Resend { key, is_resend: true }) = resend
            && let Some(seq) = stream.duplicates.find(now.mono, IdKind::Resend, key)
        {
            return Ok(Stored {
                seq: StreamSeq(seq),
                is_duplicate: true,
            });
        }
        let message = Incoming {
            subject,
            headers,
            payload,
        };
        let verdict = stream.check(now.mono, message, &parsed, &StreamRecords { store: &*store, id })?;
        let rollup = match verdict {
            Verdict::Duplicate(seq) => {
                return Ok(Stored {
                    seq: StreamSeq(seq),
                    is_duplicate: true,
                });
            }
            Verdict::Store(rollup) => rollup,
        };
        if resend.is_some() && stream.duplicates.is_full() {
            return Err(ApiError::TOO_MANY_REQUESTS);
        }
        let with_resend;
        let stored_headers: &[u8] = match resend {
            Some(resend) => {
                with_resend = headers::with_field(headers, RESEND_ID, &resend.key);
                &with_resend
            }
            None => headers,
        };
        let record = NewRecord {
            time: now.wall,
            subject,
            headers: stored_headers,
            payload,
        };
        let seq = append(stream, &record, store, &self.consumers)?;
        remember(stream, now, seq, &parsed, resend);
        if let Some(expires) = stream.note_expiry(now.mono, seq.0, &parsed) {
            self.timers.insert((expires, Timer::Expiry(id)));
        }
        if self.appended.last() != Some(&id) {
            self.appended.push(id);
        }
        self.changes += 1;
        self.after_append(now, id, seq, subject, rollup, store);
        Ok(Stored {
            seq,
            is_duplicate: false,
        })
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
            self.enforce_limits(id, Some(subject), store);
        }
        if max_age > 0 && self.age_armed.insert(id) {
            self.timers
                .insert((now.mono.after(max_age.max(AGE_CHECK_NS_MIN)), Timer::Age(id)));
        }
    }
}

/// Appends the record, or only takes a sequence for it if the stream keeps what somebody is
/// interested in and nobody is.
fn append<F: Fs>(
    stream: &Stream,
    record: &NewRecord<'_>,
    store: &mut Store<F>,
    consumers: &std::collections::BTreeMap<super::ConsumerId, super::Observer>,
) -> Result<StreamSeq, ApiError> {
    if stream.config.retention == Retention::Interest {
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

fn remember(
    stream: &mut Stream,
    now: Now,
    seq: StreamSeq,
    headers: &PublishHeaders<'_>,
    resend: Option<&Resend>,
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
    if let Some(resend) = resend {
        stream
            .duplicates
            .remember(now.mono, IdKind::Resend, &resend.key, seq.0);
    }
}
