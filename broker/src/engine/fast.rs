//! Storing the messages of fast batches, and telling their publishers how far they are.

use bytes::Bytes;
use serde_json::json;

use super::Engine;
use super::effect::{AckExtra, Effect, Outgoing};
use super::publish::{Parts, Stored};
use super::time::Now;
use crate::api::error::ApiError;
use crate::env::Fs;
use crate::shard::inbox::ReplyTo;
use crate::store::Store;
use crate::stream::config::API_LEVEL;
use crate::stream::fast::{Admitted, FastMessage, Outcome, Told};
use crate::stream::headers::{self, PublishHeaders};
use crate::types::{StreamId, StreamSeq};

/// Open fast batches of all streams.
const OPEN_MAX: usize = 50_000;

impl Engine {
    /// Takes a message of a fast batch, whose reply subject `to` says which and what it is.
    pub(super) fn publish_fast<F: Fs>(
        &mut self,
        now: Now,
        id: StreamId,
        parts: &Parts<'_>,
        to: &Bytes,
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) {
        let message = FastMessage::parse(std::str::from_utf8(to).unwrap_or_default());
        let mut told = Vec::new();
        let admitted = self.admit_fast(now, id, message.as_ref(), parts, &mut told);
        match (admitted, &message) {
            (Err(error), _) => told.push(Told::Error(error)),
            (Ok(Admitted::Store), Some(message)) => {
                let outcome = self.store_fast(now, id, parts, store, effects);
                if let Some(stream) = self.streams.get_mut(&id) {
                    let before = stream.fast.len();
                    stream.fast.stored(message, outcome, &mut told);
                    self.open_fast -= before - stream.fast.len();
                }
            }
            _ => {}
        }
        let is_silent = self.streams.get(&id).is_some_and(|stream| stream.config.no_ack);
        if !is_silent {
            let batch = message.map_or("", |message| message.id);
            effects.extend(told.into_iter().map(|told| tell(id, batch, to, told)));
        }
    }

    fn admit_fast(
        &mut self,
        now: Now,
        id: StreamId,
        message: Option<&FastMessage<'_>>,
        parts: &Parts<'_>,
        told: &mut Vec<Told>,
    ) -> Result<Admitted, ApiError> {
        let is_full = self.open_fast >= OPEN_MAX;
        let stream = self.streams.get_mut(&id).ok_or(ApiError::STREAM_NOT_FOUND)?;
        if stream.config.sealed {
            return Err(ApiError::SEALED);
        }
        stream.check_max_size(parts.headers.len() + parts.payload.len())?;
        if !stream.config.allow_batched {
            return Err(ApiError::FAST_BATCH_DISABLED);
        }
        let message = message.ok_or(ApiError::FAST_BATCH_PATTERN)?;
        let before = stream.fast.len();
        if headers::asks_above_level(parts.headers, API_LEVEL) {
            stream.fast.remove(message.id);
            self.open_fast -= before - stream.fast.len();
            return Err(ApiError::API_LEVEL);
        }
        let admitted = stream.fast.take(now.mono, message, is_full, told);
        let after = stream.fast.len();
        self.open_fast = self.open_fast + after - before;
        if after > before {
            self.arm_batches(id);
        }
        admitted
    }

    fn store_fast<F: Fs>(
        &mut self,
        now: Now,
        id: StreamId,
        parts: &Parts<'_>,
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        let without;
        let parsed;
        let mut parts = *parts;
        if parts.parsed.required_api_level.is_some() {
            without = headers::without_fields(parts.headers, |name| name == "Nats-Required-Api-Level");
            parsed = PublishHeaders::parse(&without);
            parts.headers = &without;
            parts.parsed = &parsed;
        }
        match self.store_message(now, id, &parts, store, effects) {
            Ok(Stored {
                seq, is_duplicate, ..
            }) if is_duplicate => Outcome::Duplicate(seq.0),
            Ok(Stored { seq, .. }) => Outcome::Stored(seq.0),
            Err(error) => Outcome::Refused(error),
        }
    }

    /// Ends the stream's fast batches without a word: what they stored may not be there, or there may be no more.
    pub(super) fn end_fast(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            self.open_fast -= stream.fast.len();
            stream.fast.clear();
        }
    }

    /// Ends those that got nothing for too long.
    pub(super) fn expire_fast(&mut self, now: Now, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            let before = stream.fast.len();
            stream.fast.expire(now.mono);
            self.open_fast -= before - stream.fast.len();
        }
        self.arm_batches(id);
    }
}

/// What a publisher is told, in nats-server's words.
fn tell(stream: StreamId, batch: &str, to: &Bytes, told: Told) -> Effect {
    let reply = || ReplyTo::Subject(to.clone());
    let extra = |count| {
        let id = batch.to_owned();
        Some(Box::new(AckExtra::Batch { id, count }))
    };
    let answer = |payload: serde_json::Value, after| Effect::Reply {
        message: Outgoing {
            to: to.clone(),
            headers: Bytes::new(),
            payload: payload.to_string().into(),
        },
        after,
    };
    match told {
        // It promises what is below: only once that is on disk.
        Told::Flow { seq, messages } => {
            answer(json!({"type": "ack", "seq": seq, "msgs": messages}), Some(stream))
        }
        Told::Gap { expected, seq } => answer(json!({"type": "gap", "last_seq": expected, "seq": seq}), None),
        Told::Refused { seq, error } => answer(json!({"type": "err", "seq": seq, "error": error}), None),
        Told::Done { stream_seq, count } => Effect::PubAck {
            stream,
            seq: StreamSeq(stream_seq),
            is_duplicate: false,
            extra: extra(count),
            reply: reply(),
        },
        Told::Duplicate { stream_seq, count } => Effect::PubAck {
            stream,
            seq: StreamSeq(stream_seq),
            is_duplicate: true,
            extra: extra(count),
            reply: reply(),
        },
        Told::Error(error) => Effect::PubRefused {
            stream,
            error,
            reply: reply(),
        },
    }
}
