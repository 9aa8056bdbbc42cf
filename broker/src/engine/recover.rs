//! Coming back after a restart: streams, consumers and duplicate windows from the store.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::batches::drop_unfinished;
use super::features::recover_schedule;
use super::observer::Observer;
use super::publish::recall_last_msg_id;
use super::sourcing::POSITIONS;
use super::time::{Mono, Now};
use super::transfers::is_unfinished;
use super::{AGE_CHECK_NS_MIN, ConsumerId, Engine, EngineOptions, Timer};
use crate::api::time::JsonTime;
use crate::consumer::Consumer;
use crate::consumer::config::{ConsumerConfig, DeliverPolicy};
use crate::consumer::state::ConsumerState;
use crate::env::Fs;
use crate::store::{Store, StoreError, StreamMeta, SubjectFilter};
use crate::stream::Stream;
use crate::stream::config::StreamConfig;
use crate::stream::dedupe::IdKind;
use crate::stream::notes::Note;
use crate::types::{StreamId, StreamSeq, UnixNanos};

/// Why the engine cannot start on a store.
#[derive(Debug, Error)]
pub(crate) enum RecoverError {
    #[error("stream {stream} has a configuration that this server cannot read: {reason}")]
    StreamConfig {
        stream: String,
        reason: serde_json::Error,
    },
    #[error(
        "consumer {consumer} of stream {stream} has a configuration that this server cannot read: {reason}"
    )]
    ConsumerConfig {
        stream: String,
        consumer: String,
        reason: serde_json::Error,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What the store keeps as a consumer's configuration.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredConsumer {
    pub(super) created: JsonTime,
    pub(super) config: ConsumerConfig,
}

impl Engine {
    /// An engine for everything that the store holds. Consumers that are ahead of their stream pull
    /// the stream's last sequence up, so that no sequence is given twice.
    ///
    /// # Errors
    /// If a configuration cannot be read, or the store fails.
    pub(crate) fn recover<F: Fs>(
        options: EngineOptions,
        store: &mut Store<F>,
        now: Now,
    ) -> Result<Self, RecoverError> {
        let mut engine = Self::new(options);
        let metas: Vec<_> = store.streams().map(|(id, meta)| (id, meta.clone())).collect();
        for (id, meta) in metas {
            if is_unfinished(&meta) {
                tracing::warn!(stream = %meta.name, "a restore was interrupted: what it had stored is removed");
                store.delete_stream(id)?;
                continue;
            }
            engine.take_in(now, id, &meta, store)?;
        }
        engine.index_copies();
        Ok(engine)
    }

    /// Takes in a stream with all that the store holds of it.
    pub(super) fn take_in<F: Fs>(
        &mut self,
        now: Now,
        id: StreamId,
        meta: &StreamMeta,
        store: &mut Store<F>,
    ) -> Result<(), RecoverError> {
        let config: StreamConfig =
            serde_json::from_slice(&meta.config).map_err(|reason| RecoverError::StreamConfig {
                stream: meta.name.to_string(),
                reason,
            })?;
        let (account, _) = self.options.accounts.of_stored(&meta.name);
        store.set_late(id, config.persists_late());
        store.set_packed(id, config.is_compressed());
        let mut stream = Stream::new(id, account, config, meta.created);
        if stream.config.allow_atomic {
            drop_unfinished(id, store);
        }
        let ended = read_back(&mut stream, store, now);
        self.schedules_ended
            .extend(ended.into_iter().map(|(subject, by)| (id, subject, by)));
        self.arm_recovered(now, &stream);
        if let Some(next) = stream.expiries.next() {
            self.timers.insert((next, Timer::Expiry(id)));
        }
        self.recover_consumers(&mut stream, store, now)?;
        if stream.config.max_age > 0 {
            self.age_armed.insert(id);
            self.timers
                .insert((now.mono.after(AGE_CHECK_NS_MIN), Timer::Age(id)));
        }
        let js_account = self.accounts.entry(account).or_default();
        js_account.names.insert(stream.name.clone(), id);
        self.streams.insert(id, stream);
        self.enforce_recovered(id, store);
        Ok(())
    }

    fn recover_consumers<F: Fs>(
        &mut self,
        stream: &mut Stream,
        store: &mut Store<F>,
        now: Now,
    ) -> Result<(), RecoverError> {
        let stored: Vec<(String, Vec<u8>, Vec<u8>)> = store
            .consumers(stream.id)
            .filter(|(name, ..)| *name != POSITIONS)
            .map(|(name, config, state)| (name.to_owned(), config.to_vec(), state.to_vec()))
            .collect();
        for (name, config, state) in stored {
            let StoredConsumer { created, config } =
                serde_json::from_slice(&config).map_err(|reason| RecoverError::ConsumerConfig {
                    stream: stream.name.to_string(),
                    consumer: name.clone(),
                    reason,
                })?;
            let (state, is_anew) = recovered_state(stream, &name, &config, &state, store);
            let delivered = state.next_stream_seq.saturating_sub(1);
            let last_seq = store.state(stream.id).last_seq.0;
            if state.next_consumer_seq > 1 && delivered > last_seq {
                tracing::error!(
                    stream = %stream.name, consumer = %name, first = last_seq + 1, last = delivered,
                    "consumer is ahead of its stream: the stream lost records to damage on disk; check the disk"
                );
                store.raise_over_lost(stream.id, StreamSeq(delivered))?;
            }
            let id = self.add_consumer(stream, name.into(), config, created.0, state, true, now.mono);
            if let Some(observer) = self.consumers.get_mut(&id) {
                observer.consumer.arm_pause(now);
                if is_anew {
                    let state = observer.consumer.start();
                    observer.consumer.start_anew(state);
                }
            }
            self.note_dirty(now.mono, id);
            self.rearm(now.mono, id);
        }
        Ok(())
    }

    /// Takes a consumer in.
    #[expect(clippy::too_many_arguments, reason = "a consumer has that many parts")]
    pub(super) fn add_consumer(
        &mut self,
        stream: &mut Stream,
        name: Arc<str>,
        config: ConsumerConfig,
        created: UnixNanos,
        state: ConsumerState,
        is_stored: bool,
        now: Mono,
    ) -> ConsumerId {
        self.last_consumer_id += 1;
        let id = ConsumerId(self.last_consumer_id);
        let consumer = Consumer::new(
            stream.name.clone(),
            name.clone(),
            Arc::new(config),
            created,
            state,
            now,
        );
        self.consumers
            .insert(id, Observer::new(consumer, stream.id, stream.account, is_stored));
        stream.consumers.insert(name, id);
        self.changes += 1;
        self.rearm(now, id);
        self.mark_ready(id);
        id
    }
}

/// The state as it was written, or where the consumer starts if nothing usable was, or what it was to start at is gone; and
/// whether it is another one than what was written.
fn recovered_state<F: Fs>(
    stream: &Stream,
    name: &str,
    config: &ConsumerConfig,
    state: &[u8],
    store: &Store<F>,
) -> (ConsumerState, bool) {
    let anew = || (starting_state(config, stream.id, store), true);
    if state.is_empty() {
        return anew();
    }
    match ConsumerState::decode(state) {
        Ok(state) => match start_after_loss(config, &state, stream.id, store) {
            Some(other) => (other, true),
            None => (state, false),
        },
        Err(err) => {
            tracing::error!(stream = %stream.name, consumer = %name, error = %err, "consumer starts anew");
            anew()
        }
    }
}

/// Where a consumer that has delivered nothing starts instead, if it was to start with records which were in the stream when it
/// was created and are not any more. One that found nothing to start with still starts with what is stored from now on.
pub(in crate::engine) fn start_after_loss<F: Fs>(
    config: &ConsumerConfig,
    state: &ConsumerState,
    id: StreamId,
    store: &Store<F>,
) -> Option<ConsumerState> {
    let end = store.state(id).last_seq.next().0;
    let is_skip_gone = state.skip_list.last().is_some_and(|seq| *seq >= end);
    let is_beyond = state.next_stream_seq > end || is_skip_gone;
    let is_said = config.deliver_policy == DeliverPolicy::ByStartSequence;
    if state.next_consumer_seq > 1 || is_said || !is_beyond {
        return None;
    }
    let found_nothing = state.skip_list.is_empty() && state.resume_seq > 0;
    Some(match found_nothing {
        true => ConsumerState {
            next_stream_seq: end,
            resume_seq: end,
            ..state.clone()
        },
        false => starting_state(config, id, store),
    })
}

/// Where a new consumer starts.
/// Source: nats-server, `selectStartingSeqNo`.
pub(in crate::engine) fn starting_state<F: Fs>(
    config: &ConsumerConfig,
    id: StreamId,
    store: &Store<F>,
) -> ConsumerState {
    let filter = SubjectFilter::new(&config.filters());
    let state = store.state(id);
    let end = state.last_seq.next();
    let mut start = ConsumerState {
        next_consumer_seq: 1,
        ..ConsumerState::default()
    };
    let next = match config.deliver_policy {
        DeliverPolicy::All => state.first_seq,
        DeliverPolicy::New => end,
        DeliverPolicy::ByStartSequence => StreamSeq(config.opt_start_seq).max(state.first_seq.min(end)),
        DeliverPolicy::ByStartTime => {
            let time = config.opt_start_time.map_or(UnixNanos(0), |time| time.0);
            store.seq_at_or_after(id, time).unwrap_or(end)
        }
        policy @ (DeliverPolicy::Last | DeliverPolicy::LastPerSubject) => {
            let mut last: Vec<u64> = match policy {
                DeliverPolicy::Last => store
                    .last_match(id, &filter)
                    .map(|seq| seq.0)
                    .into_iter()
                    .collect(),
                _ => store
                    .subjects(id, &filter)
                    .iter()
                    .map(|subject| subject.last.0)
                    .collect(),
            };
            last.sort_unstable();
            let first = last.first().map_or(end, |seq| StreamSeq(*seq));
            start.skip_list = last;
            start.resume_seq = end.0;
            first
        }
    };
    start.next_stream_seq = next.0.max(1);
    start
}

/// Remembers the ids of the messages that are younger than the duplicate window, and, where messages
/// may have a time to live, when each of the stream's ends.
///
/// Returns the subjects of schedules that have ended and are there, and what ended them.
fn read_back<F: Fs>(stream: &mut Stream, store: &Store<F>, now: Now) -> Vec<(String, StreamSeq)> {
    let mut ended = Vec::new();
    let window_start = now.wall.saturating_add(-stream.config.duplicate_window);
    store.for_notes(stream.id, window_start, |seq, time, note| {
        let Note {
            headers,
            has_schedule,
        } = Note::decode(note);
        let age_ns = u64::try_from(now.wall.since(time)).unwrap_or(0);
        let at = Mono(now.mono.0.saturating_sub(age_ns));
        stream.note_expiry(at, seq.0, &headers);
        if has_schedule
            && stream.config.allow_msg_schedules
            && let Ok(Some(record)) = store.read_patiently(stream.id, seq)
        {
            let scheduler = recover_schedule(stream, &record, now);
            let is_there = |subject: &String| {
                let found = store.subject(stream.id, subject);
                found.is_some_and(|summary| summary.first < seq)
            };
            ended.extend(scheduler.filter(is_there).map(|subject| (subject, seq)));
        }
        if time < window_start {
            return;
        }
        if let Some(id) = headers.msg_id {
            stream.duplicates.remember(at, IdKind::Message, id, seq.0);
        }
        if let Some(id) = headers.resend_id {
            stream.duplicates.remember(at, IdKind::Resend, id, seq.0);
        }
    });
    recall_last_msg_id(stream, store);
    ended
}
