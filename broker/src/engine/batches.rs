//! Committing atomic batches: everything is checked first, then stored in one write.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::effect::{AckExtra, Effect, Outgoing};
use super::events::field;
use super::publish::{StoredMessage, StreamRecords, last_of_subject, remember, store_error, transformed};
use super::time::Now;
use super::{Engine, Timer};
use crate::api::error::ApiError;
use crate::env::Fs;
use crate::shard::inbox::ReplyTo;
use crate::store::{NewRecord, Record, Store, StreamState};
use crate::stream::batch::{Abandoned, Refused, Staged, Taken};
use crate::stream::config::{API_LEVEL, Retention};
use crate::stream::headers::{self, BATCH_COMMIT, BATCH_ID, PublishHeaders, STREAM_SOURCE};
use crate::stream::{Incoming, Records, Rollup, Shaped, Verdict};
use crate::types::{StreamId, StreamSeq};

/// Open batches of all streams.
const OPEN_MAX: usize = 1000;

/// The records of a stream as they would be with what a batch has before the message at hand.
struct Staging<'a, F: Fs> {
    records: StreamRecords<'a, F>,
    subjects: BTreeMap<String, (u64, Record)>,
    state: StreamState,
}

impl<F: Fs> Records for Staging<'_, F> {
    fn state(&self) -> StreamState {
        self.state
    }

    fn subject(&self, subject: &str) -> Option<(u64, u64)> {
        let stored = self.records.subject(subject);
        match self.subjects.get(subject) {
            Some((count, last)) => Some((stored.map_or(0, |(count, _)| count) + count, last.seq.0)),
            None => stored,
        }
    }

    fn last(&self, subject: &str) -> Result<Option<Record>, ApiError> {
        match self.subjects.get(subject) {
            Some((_, last)) => Ok(Some(last.clone())),
            None => self.records.last(subject),
        }
    }
}

/// A message of a batch, checked.
struct Ready {
    subject: String,
    headers: Bytes,
    payload: Bytes,
    rollup: Rollup,
    shaped: Option<Box<Shaped>>,
    last_of_subject: u64,
}

impl Engine {
    /// Takes a message of a batch; stores the batch if it is the last.
    #[expect(clippy::too_many_arguments, reason = "a message has that many parts")]
    pub(super) fn publish_batched<F: Fs>(
        &mut self,
        now: Now,
        id: StreamId,
        parsed: &PublishHeaders<'_>,
        message: Staged,
        reply: ReplyTo,
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) {
        if let ReplyTo::Local { .. } = reply {
            effects.push(Effect::PubRefused {
                stream: id,
                error: ApiError::ATOMIC_PUBLISH_DISABLED,
                reply,
            });
            return;
        }
        let batch_id = parsed.batch.id.unwrap_or_default();
        let outcome = match self.stage(now, id, parsed, message) {
            Ok(Taken::Staged) => {
                self.arm_batches(id);
                if let ReplyTo::Subject(to) = reply {
                    let message = Outgoing {
                        to,
                        ..Outgoing::default()
                    };
                    effects.push(Effect::Reply { message, after: None });
                }
                return;
            }
            Ok(Taken::Complete { messages, ends_apart }) => self
                .commit_batch(now, id, messages, ends_apart, store, effects)
                .map_err(Refused::from),
            Err(refused) => Err(refused),
        };
        match outcome {
            Ok((seq, count)) => effects.push(Effect::PubAck {
                stream: id,
                seq,
                is_duplicate: false,
                extra: Some(Box::new(AckExtra::Batch {
                    id: batch_id.to_owned(),
                    count,
                })),
                reply,
            }),
            Err(Refused { error, abandoned }) => {
                if let Some(abandoned) = abandoned {
                    self.tell_abandoned(now, id, batch_id, abandoned, effects);
                }
                effects.push(Effect::PubRefused {
                    stream: id,
                    error,
                    reply,
                });
            }
        }
    }

    fn stage(
        &mut self,
        now: Now,
        id: StreamId,
        parsed: &PublishHeaders<'_>,
        mut message: Staged,
    ) -> Result<Taken, Refused> {
        let is_full = self.open_batches >= OPEN_MAX;
        let stream = self.streams.get_mut(&id).ok_or(ApiError::STREAM_NOT_FOUND)?;
        if stream.config.sealed {
            return Err(ApiError::SEALED.into());
        }
        stream.check_max_size(message.headers.len() + message.payload.len())?;
        if !stream.config.allow_atomic {
            return Err(ApiError::ATOMIC_PUBLISH_DISABLED.into());
        }
        if is_full && parsed.batch.seq == Some("1") {
            return Err(ApiError::BATCH_TOO_MANY.into());
        }
        let is_level_ok = !headers::asks_above_level(&message.headers, API_LEVEL);
        if parsed.required_api_level.is_some() {
            let without = headers::without_fields(&message.headers, |name| name == "Nats-Required-Api-Level");
            message.headers = without.into();
        }
        // Copies: slices of the read buffer would hold all of it while the batch waits.
        let copy = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
        let message = Staged {
            subject: copy(&message.subject),
            headers: copy(&message.headers),
            payload: copy(&message.payload),
        };
        let before = stream.batches.len();
        let taken = stream.batches.take(now.mono, &parsed.batch, message, is_level_ok);
        self.open_batches = self.open_batches + stream.batches.len() - before;
        taken
    }

    /// Sets when a batch of the stream ends that gets nothing, atomic or fast.
    pub(super) fn arm_batches(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let due = [stream.batches.next_deadline(), stream.fast.next_deadline()];
        let timers = due.into_iter().flatten().map(|due| (due, Timer::Batches(id)));
        self.timers.extend(timers);
    }

    /// Gives up batches that got nothing for too long.
    pub(super) fn batches_due(&mut self, now: Now, id: StreamId, effects: &mut Vec<Effect>) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let account = stream.account;
        if stream.fast.len() > 0 {
            self.expire_fast(now, id);
        }
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let expired = stream.batches.expire(now.mono);
        self.open_batches -= expired.len();
        if !expired.is_empty() {
            self.enter(account, effects);
        }
        for batch in expired {
            self.tell_abandoned(now, id, &batch, Abandoned::Timeout, effects);
        }
        self.arm_batches(id);
    }

    fn tell_abandoned(
        &mut self,
        now: Now,
        id: StreamId,
        batch: &str,
        abandoned: Abandoned,
        effects: &mut Vec<Effect>,
    ) {
        let Some(name) = self.streams.get(&id).map(|stream| stream.name.clone()) else {
            return;
        };
        let subject = format!("$JS.EVENT.ADVISORY.STREAM.BATCH_ABANDONED.{name}");
        let fields = vec![
            field("account", &*self.account_name(self.account)),
            field("stream", &*name),
            field("batch", batch),
            field("reason", abandoned.reason()),
        ];
        self.tell(
            now,
            "advisory.v1.stream_batch_abandoned",
            subject,
            fields,
            effects,
        );
    }

    fn commit_batch<F: Fs>(
        &mut self,
        now: Now,
        id: StreamId,
        mut messages: Vec<Staged>,
        ends_apart: bool,
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) -> Result<(StreamSeq, u64), ApiError> {
        if ends_apart && let Some(last) = messages.last_mut() {
            last.headers = headers::with_field(&last.headers, BATCH_COMMIT, "1").into();
        }
        let ready = self.check_batch(now, id, &messages, store)?;
        let sizes = ready
            .iter()
            .map(|one| one.subject.len() + one.headers.len() + one.payload.len());
        store.reserve(id, sizes).map_err(|err| store_error(&err))?;
        let mut last_seq = StreamSeq(0);
        for one in &ready {
            let record = NewRecord {
                time: now.wall,
                subject: &one.subject,
                headers: &one.headers,
                payload: &one.payload,
            };
            last_seq = store.append(id, &record).map_err(|err| store_error(&err))?;
        }
        let first_seq = last_seq.0 + 1 - ready.len() as u64;
        for (index, one) in ready.iter().enumerate() {
            let seq = StreamSeq(first_seq + index as u64);
            if let Some(stream) = self.streams.get_mut(&id) {
                remember(stream, now, seq, &PublishHeaders::parse(&one.headers), None);
            }
            let stored = StoredMessage {
                seq,
                subject: &one.subject,
                headers: &one.headers,
                payload: &one.payload,
                rollup: one.rollup,
                last_of_subject: one.last_of_subject,
            };
            self.stored(now, id, &stored, one.shaped.as_deref(), store, effects);
            self.drop_unwanted(id, seq, store);
        }
        Ok((last_seq, ready.len() as u64))
    }

    /// Interest retention: nobody wants the message.
    fn drop_unwanted<F: Fs>(&mut self, id: StreamId, seq: StreamSeq, store: &mut Store<F>) {
        let is_interest = |id| {
            self.streams
                .get(id)
                .is_some_and(|stream| stream.config.retention == Retention::Interest)
        };
        if is_interest(&id) && !self.is_needed(id, seq.0, store) {
            self.remove_message(id, seq, store);
        }
    }

    fn check_batch<F: Fs>(
        &mut self,
        now: Now,
        id: StreamId,
        messages: &[Staged],
        store: &Store<F>,
    ) -> Result<Vec<Ready>, ApiError> {
        let mut staging = Staging {
            records: StreamRecords { store, id },
            subjects: BTreeMap::new(),
            state: store.state(id),
        };
        let mut ids = BTreeSet::new();
        let mut ready = Vec::with_capacity(messages.len());
        for message in messages {
            let random = self.next_random();
            let stream = self.streams.get_mut(&id).ok_or(ApiError::STREAM_NOT_FOUND)?;
            let subject = std::str::from_utf8(&message.subject).map_err(|_| ApiError::BAD_REQUEST)?;
            let subject = transformed(stream, subject, random).unwrap_or_else(|| subject.to_owned());
            let parsed = PublishHeaders::parse(&message.headers);
            if parsed.expected_last_msg_id.is_some() {
                return Err(ApiError::batch_header("Nats-Expected-Last-Msg-Id"));
            }
            if parsed.msg_id.is_some_and(|id| !ids.insert(id)) {
                return Err(ApiError::BATCH_DUPLICATE);
            }
            let incoming = Incoming {
                subject: &subject,
                headers: &message.headers,
                payload: &message.payload,
            };
            let (rollup, shaped) = match stream.check(now, incoming, &parsed, &staging)? {
                Verdict::Duplicate(_) => return Err(ApiError::BATCH_DUPLICATE),
                Verdict::Store(rollup, shaped) => (rollup, shaped),
            };
            let (headers, payload) = match &shaped {
                Some(shaped) => (shaped.headers.clone(), shaped.payload.clone()),
                None => (message.headers.clone(), message.payload.clone()),
            };
            let last_of_subject = last_of_subject(stream, &subject, store);
            let staged = staging.subjects.get(&subject).map(|(_, last)| last.seq.0);
            let one = Ready {
                last_of_subject: staged.unwrap_or(last_of_subject),
                subject,
                headers,
                payload,
                rollup,
                shaped,
            };
            staging.add(now, &one);
            ready.push(one);
        }
        Ok(ready)
    }
}

impl<F: Fs> Staging<'_, F> {
    fn add(&mut self, now: Now, one: &Ready) {
        self.state.last_seq = self.state.last_seq.next();
        self.state.messages += 1;
        self.state.bytes += (one.subject.len() + one.headers.len() + one.payload.len()) as u64;
        let record = Record {
            seq: self.state.last_seq,
            time: now.wall,
            subject: one.subject.as_str().into(),
            headers: one.headers.clone(),
            payload: one.payload.clone(),
        };
        let count = self.subjects.get(&one.subject).map_or(0, |(count, _)| *count);
        self.subjects.insert(one.subject.clone(), (count + 1, record));
    }
}

/// Takes the beginning of a batch that was cut off by a crash out of the end of a stream: it was never acknowledged, and
/// a batch is stored as a whole or not at all.
pub(super) fn drop_unfinished<F: Fs>(id: StreamId, store: &mut Store<F>) {
    let last = store.state(id).last_seq;
    let batch_of = |seq: StreamSeq, store: &Store<F>| {
        let record = store.read_patiently(id, seq).ok().flatten()?;
        let has = |name| headers::field(&record.headers, name).is_some();
        let is_part = !has(BATCH_COMMIT) && !has(STREAM_SOURCE);
        headers::field(&record.headers, BATCH_ID)
            .filter(|_| is_part)
            .map(ToOwned::to_owned)
    };
    let Some(batch) = batch_of(last, store) else {
        return;
    };
    let mut seq = last;
    let mut count = 0_u64;
    while seq.0 > 0 && batch_of(seq, store).as_ref() == Some(&batch) {
        match store.remove(id, seq) {
            Ok(_) => count += 1,
            Err(err) => {
                tracing::error!(error = %err, "an unfinished batch was not removed");
                return;
            }
        }
        seq = seq.prev();
    }
    tracing::info!(count, "removed an unfinished batch that was never acknowledged");
}
