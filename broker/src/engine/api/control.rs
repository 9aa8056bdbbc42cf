//! `$JS.API.CONSUMER.{PAUSE,UNPIN,RESET}`.

use std::sync::Arc;

use super::consumers::save;
use crate::api::error::ApiError;
use crate::api::parse::{parse, parse_optional};
use crate::api::time::JsonTime;
use crate::api::types::{ConsumerReset, PauseAnswer, PauseRequest, ResetRequest, UnpinRequest, Unpinned};
use crate::consumer::config::{ConsumerConfig, DeliverPolicy};
use crate::consumer::priority::is_group_name;
use crate::engine::effect::Effect;
use crate::engine::events::field;
use crate::engine::time::Now;
use crate::engine::{ConsumerId, Engine};
use crate::env::Fs;
use crate::store::Store;
use crate::types::UnixNanos;

impl Engine {
    fn consumer_of(&self, stream: &str, consumer: &str) -> Result<ConsumerId, ApiError> {
        self.stream_by_name(stream).ok_or(ApiError::STREAM_NOT_FOUND)?;
        self.find_consumer(stream, consumer)
            .ok_or(ApiError::CONSUMER_NOT_FOUND)
    }

    /// Pauses a consumer until a time, or lets it go on.
    pub(super) fn pause_consumer<F: Fs>(
        &mut self,
        now: Now,
        stream: &str,
        consumer: &str,
        payload: &[u8],
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) -> Result<PauseAnswer, ApiError> {
        let request: PauseRequest = parse_optional(payload)?;
        let id = self.consumer_of(stream, consumer)?;
        let observer = self.consumers.get(&id).ok_or(ApiError::CONSUMER_NOT_FOUND)?;
        let until = request.pause_until.filter(|until| !until.is_zero());
        let mut config = ConsumerConfig::clone(&observer.consumer.config);
        config.pause_until = until;
        config.set_required_level();
        if observer.is_stored {
            save(store, observer.stream, observer.consumer.created, &config, &[])?;
        }
        if let Some(observer) = self.consumers.get_mut(&id) {
            observer.consumer.set_config(Arc::new(config));
            observer.consumer.arm_pause(now);
        }
        self.changes += 1;
        self.tell_pause(now, id, effects);
        self.mark_ready(id);
        self.rearm(now.mono, id);
        let remaining = until.map_or(0, |until| until.0.since(now.wall).max(0));
        Ok(PauseAnswer {
            paused: remaining > 0,
            pause_until: until.unwrap_or(JsonTime::ZERO),
            pause_remaining: remaining,
        })
    }

    /// Says whether a consumer is paused.
    pub(in crate::engine) fn tell_pause(&mut self, now: Now, id: ConsumerId, effects: &mut Vec<Effect>) {
        let Some(observer) = self.consumers.get(&id) else {
            return;
        };
        let consumer = &observer.consumer;
        let until = consumer.config.pause_until.unwrap_or(JsonTime::ZERO);
        let (stream, name) = (consumer.stream.clone(), consumer.name.clone());
        let subject = format!("$JS.EVENT.ADVISORY.CONSUMER.PAUSE.{stream}.{name}");
        let fields = vec![
            field("stream", &*stream),
            field("consumer", &*name),
            field("paused", until.0 > now.wall),
            field("pause_until", until),
        ];
        self.tell(now, "advisory.v1.consumer_pause", subject, fields, effects);
    }

    /// Lets another client be pinned.
    pub(super) fn unpin_consumer(
        &mut self,
        now: Now,
        stream: &str,
        consumer: &str,
        payload: &[u8],
        effects: &mut Vec<Effect>,
    ) -> Result<Unpinned, ApiError> {
        if payload.is_empty() {
            return Err(ApiError::no_json());
        }
        let request: UnpinRequest = parse(payload)?;
        if request.group.is_empty() {
            return Err(ApiError::no_group());
        }
        if !is_group_name(&request.group) {
            return Err(ApiError::PRIORITY_GROUP_NAME);
        }
        let id = self.consumer_of(stream, consumer)?;
        let observer = self.consumers.get_mut(&id).ok_or(ApiError::CONSUMER_NOT_FOUND)?;
        if !observer.consumer.config.priority_groups.contains(&request.group) {
            return Err(ApiError::PRIORITY_INVALID_GROUP);
        }
        observer.consumer.unpin("admin");
        self.tell_consumer_events(now, id, effects);
        self.mark_ready(id);
        Ok(Unpinned {})
    }

    /// Sets a consumer back to a sequence, or to what was acknowledged.
    pub(super) fn reset_consumer<F: Fs>(
        &mut self,
        now: Now,
        stream: &str,
        consumer: &str,
        payload: &[u8],
        store: &mut Store<F>,
    ) -> Result<ConsumerReset, ApiError> {
        let request: ResetRequest = parse_optional(payload)?;
        let id = self.consumer_of(stream, consumer)?;
        let observer = self.consumers.get_mut(&id).ok_or(ApiError::CONSUMER_NOT_FOUND)?;
        let config = &observer.consumer.config;
        let seq = match (request.seq, config.deliver_policy) {
            (0, _) => observer.consumer.ack_floor().stream + 1,
            (seq, DeliverPolicy::All) => seq,
            (seq, DeliverPolicy::ByStartSequence) if seq < config.opt_start_seq => {
                return Err(ApiError::consumer_reset("below start seq"));
            }
            (seq, DeliverPolicy::ByStartSequence) => seq,
            (seq, DeliverPolicy::ByStartTime) => {
                let time = config.opt_start_time.map_or(UnixNanos(0), |time| time.0);
                let first = store.seq_at_or_after(observer.stream, time);
                let first = first.unwrap_or(store.state(observer.stream).last_seq.next());
                if seq < first.0 {
                    return Err(ApiError::consumer_reset("below start time"));
                }
                seq
            }
            _ => return Err(ApiError::consumer_reset("not allowed")),
        };
        observer.consumer.reset(seq);
        observer.uncount();
        let (is_stored, stream_id) = (observer.is_stored, observer.stream);
        if is_stored {
            self.urgent.insert(id);
        }
        self.changes += 1;
        self.retire_all(stream_id, store);
        self.mark_ready(id);
        self.rearm(now.mono, id);
        Ok(ConsumerReset {
            info: self.consumer_info(now, id, store)?,
            reset_seq: seq,
        })
    }
}
