//! `$JS.API.CONSUMER.>`: creating, changing, describing and deleting consumers.

use std::sync::Arc;

use super::streams::{is_empty_request, text_of};
use crate::api::error::ApiError;
use crate::api::parse::{parse, parse_optional};
use crate::api::pedantic;
use crate::api::time::JsonTime;
use crate::api::types::{
    Action, ConsumerInfo, ConsumerList, ConsumerNames, ConsumerRequest, LIST_PAGE, NAMES_PAGE, Page,
    PageRequest, PriorityGroupState, SequenceInfo, Success,
};
use crate::consumer::SeqPair;
use crate::consumer::config::{AckPolicy, ConsumerConfig};
use crate::consumer::pull::Status;
use crate::engine::effect::Effect;
use crate::engine::observer::Observer;
use crate::engine::recover::{StoredConsumer, starting_state};
use crate::engine::sourcing::identity;
use crate::engine::time::Now;
use crate::engine::{ConsumerId, Engine, push_notices};
use crate::env::Fs;
use crate::shard::inbox::JsOp;
use crate::store::{Store, StoreError};
use crate::stream::Stream;
use crate::stream::config::{NAME_BYTES_MAX, Retention, Storage, StreamConfig, set_dynamic_metadata};
use crate::stream::headers::{self, STREAM_IDENTITY};
use crate::subject;
use crate::types::{StreamId, UnixNanos};

impl Engine {
    /// `CONSUMER.CREATE.<stream>[.<consumer>[.<filter>]]`
    pub(super) fn create_consumer<F: Fs>(
        &mut self,
        now: Now,
        stream: &str,
        rest: &[&str],
        op: &JsOp,
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) -> Result<ConsumerInfo, ApiError> {
        let mut request: ConsumerRequest = parse(&op.payload)?;
        if request.stream_name != stream {
            return Err(ApiError::STREAM_MISMATCH);
        }
        if let Some((name, filter)) = rest.split_first() {
            if request.config.is_durable() && request.config.durable_name != *name {
                return Err(ApiError::DURABLE_NOT_MATCH_SUBJECT);
            }
            (*name).clone_into(&mut request.config.name);
            let filter = filter.join(".");
            if !filter.is_empty() && !request.config.filter_subjects.is_empty() {
                return Err(ApiError::MULTIPLE_FILTERS);
            }
            if !filter.is_empty() && request.config.filter_subject != filter {
                return Err(ApiError::FILTER_MISMATCH);
            }
        } else if request.config.is_durable() {
            return Err(ApiError::EPHEMERAL_WITH_DURABLE);
        }
        self.put_consumer(now, request, &op.headers, store, effects)
    }

    /// `CONSUMER.DURABLE.CREATE.<stream>.<consumer>`
    pub(super) fn create_durable<F: Fs>(
        &mut self,
        now: Now,
        stream: &str,
        name: &str,
        op: &JsOp,
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) -> Result<ConsumerInfo, ApiError> {
        let mut request: ConsumerRequest = parse(&op.payload)?;
        if request.stream_name != stream {
            return Err(ApiError::STREAM_MISMATCH);
        }
        if !request.config.is_durable() {
            return Err(ApiError::DURABLE_NOT_SET);
        }
        if request.config.durable_name != name {
            return Err(ApiError::DURABLE_NOT_MATCH_SUBJECT);
        }
        name.clone_into(&mut request.config.name);
        self.put_consumer(now, request, &op.headers, store, effects)
    }

    fn put_consumer<F: Fs>(
        &mut self,
        now: Now,
        request: ConsumerRequest,
        headers: &[u8],
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) -> Result<ConsumerInfo, ApiError> {
        let ConsumerRequest {
            stream_name,
            config,
            action,
            pedantic,
        } = request;
        if config.name.contains(['\\', '/']) {
            return Err(ApiError::CONSUMER_PATH_SEPARATORS);
        }
        if config.num_replicas > 1 {
            return Err(ApiError::REPLICAS);
        }
        let stream = self
            .stream_by_name(&stream_name)
            .ok_or(ApiError::STREAM_NOT_FOUND)?;
        let (stream_id, stream_config) = (stream.id, Arc::clone(&stream.config));
        let identity = identity(stream.created);
        let mut config = config;
        if config.direct && config.sourcing && !config.name.is_empty() {
            self.fit_for_sourcing(&mut config, &stream_config);
        }
        let expected = headers::field(headers, STREAM_IDENTITY).unwrap_or_default();
        if config.is_for_copy() && !expected.is_empty() && expected != identity {
            return Err(ApiError::identity_mismatch(&identity));
        }
        if pedantic {
            pedantic::check_consumer(&config, &stream_config)?;
        }
        if let Some(observer) = self
            .find_consumer(&stream_name, config.given_name())
            .and_then(|id| self.consumers.get(&id))
        {
            let known = &observer.consumer.config;
            // A pause begins and ends with its own request.
            config.pause_until = known.pause_until;
            if config.sourcing && config.is_durable() {
                config.deliver_policy = known.deliver_policy;
                config.opt_start_seq = known.opt_start_seq;
                config.opt_start_time = known.opt_start_time;
            }
        }
        let mut config = config.normalize(&stream_config)?;
        if config.name.is_empty() {
            config.name = if config.is_durable() {
                config.durable_name.clone()
            } else {
                config.is_name_made_up = true;
                self.random_name()
            };
        }
        if config.name.len() > NAME_BYTES_MAX {
            return Err(ApiError::consumer_name_too_long(NAME_BYTES_MAX));
        }
        let name = config.name.clone();
        let known = self.find_consumer(&stream_name, &config.name);
        let changes_before = self.changes;
        let id = match (known, action) {
            (Some(id), action) => self.change_consumer(now, id, config, action, store)?,
            (None, Action::Update) => return Err(ApiError::CONSUMER_DOES_NOT_EXIST),
            (None, _) => self.new_consumer(now, stream_id, config, store)?,
        };
        self.resend_to_source(id, store);
        match known {
            None => self.tell_consumer(now, &stream_name, &name, "create", effects),
            Some(_) if self.changes != changes_before => {
                self.tell_consumer(now, &stream_name, &name, "modify", effects);
            }
            Some(_) => {}
        }
        self.mark_ready(id);
        self.rearm(now.mono, id);
        self.consumer_info(now, id, store)
    }

    /// A stream that copies another one asks for the same consumer each time. Where messages are kept for their consumers it
    /// lasts, and acknowledges what is stored; elsewhere each is a new one.
    /// Source: nats-server, `jsConsumerCreateRequest`.
    fn fit_for_sourcing(&mut self, config: &mut ConsumerConfig, stream: &StreamConfig) {
        if stream.retention == Retention::Limits {
            config.name = format!("{}-{}", config.name, self.random_name());
            return;
        }
        config.direct = false;
        config.durable_name.clone_from(&config.name);
        config.ack_policy = AckPolicy::FlowControl;
        (config.ack_wait, config.max_deliver, config.inactive_threshold) = (0, 0, 0);
    }

    /// The consumer of a stream that copies begins behind what that has acknowledged, each time that it is asked for.
    fn resend_to_source<F: Fs>(&mut self, id: ConsumerId, store: &mut Store<F>) {
        let Some(observer) = self.consumers.get_mut(&id) else {
            return;
        };
        let config = &observer.consumer.config;
        if !config.sourcing || config.ack_policy != AckPolicy::FlowControl {
            return;
        }
        let next = observer.consumer.ack_floor().stream + 1;
        observer.consumer.reset(next);
        observer.uncount();
        let stream_id = observer.stream;
        if observer.is_stored {
            self.urgent.insert(id);
        }
        self.retire_all(stream_id, store);
    }

    fn change_consumer<F: Fs>(
        &mut self,
        now: Now,
        id: ConsumerId,
        config: ConsumerConfig,
        action: Action,
        store: &mut Store<F>,
    ) -> Result<ConsumerId, ApiError> {
        let observer = self.consumers.get(&id).ok_or(ApiError::CONSUMER_NOT_FOUND)?;
        let old = Arc::clone(&observer.consumer.config);
        if config == *old {
            return Ok(id);
        }
        if action == Action::Create {
            return Err(ApiError::CONSUMER_EXISTS);
        }
        old.check_update(&config)?;
        let (stream, created, is_stored) = (observer.stream, observer.consumer.created, observer.is_stored);
        self.check_workqueue(stream, &config, Some(id))?;
        if is_stored {
            save(store, stream, created, &config, &[])?;
        }
        let has_other_filter = old.filters() != config.filters();
        if let Some(observer) = self.consumers.get_mut(&id) {
            observer.consumer.set_config(Arc::new(config));
            observer.consumer.arm_pause(now);
            if has_other_filter {
                observer.refilter();
            }
        }
        self.note_dirty(now.mono, id);
        self.changes += 1;
        Ok(id)
    }

    fn new_consumer<F: Fs>(
        &mut self,
        now: Now,
        stream_id: StreamId,
        config: ConsumerConfig,
        store: &mut Store<F>,
    ) -> Result<ConsumerId, ApiError> {
        let stream = self.streams.get(&stream_id).ok_or(ApiError::STREAM_NOT_FOUND)?;
        let is_limited = !config.is_for_copy();
        let count = self.limited_consumers(stream);
        let is_over_stream_limit = usize::try_from(stream.config.max_consumers).is_ok_and(|max| count >= max);
        self.check_consumer_quota(&config, is_limited.then_some(count))?;
        if (is_limited && is_over_stream_limit) || self.consumers.len() >= self.options.consumers_max {
            return Err(ApiError::MAXIMUM_CONSUMERS);
        }
        self.check_workqueue(stream_id, &config, None)?;
        let is_stored = stream.config.storage == Storage::File && !config.mem_storage && !config.direct;
        let state = starting_state(&config, stream_id, store);
        if is_stored {
            let mut bytes = Vec::new();
            state.encode(&mut bytes);
            save(store, stream_id, now.wall, &config, &bytes)?;
        }
        let mut stream = self
            .streams
            .remove(&stream_id)
            .ok_or(ApiError::STREAM_NOT_FOUND)?;
        let name = config.name.as_str().into();
        let id = self.add_consumer(&mut stream, name, config, now.wall, state, is_stored, now.mono);
        self.streams.insert(stream_id, stream);
        if let Some(observer) = self.consumers.get_mut(&id) {
            observer.consumer.arm_pause(now);
        }
        self.note_dirty(now.mono, id);
        Ok(id)
    }

    /// On a work queue, each message goes to one consumer: their filters must not overlap.
    fn check_workqueue(
        &self,
        id: StreamId,
        config: &ConsumerConfig,
        own: Option<ConsumerId>,
    ) -> Result<(), ApiError> {
        let Some(stream) = self.streams.get(&id) else {
            return Ok(());
        };
        if stream.config.retention != Retention::WorkQueue || config.is_for_copy() {
            return Ok(());
        }
        let others = stream.consumers.values().filter(|other| Some(**other) != own);
        let others = others.filter_map(|other| self.consumers.get(other));
        let others: Vec<&Observer> = others
            .filter(|other| !other.consumer.config.is_for_copy())
            .collect();
        if others.is_empty() {
            return Ok(());
        }
        let filters = config.filters();
        if filters.is_empty() {
            return Err(ApiError::WORKQUEUE_MULTIPLE_UNFILTERED);
        }
        for other in others {
            let theirs = other.consumer.config.filters();
            let collides = |filter: &&str| theirs.iter().any(|their| subject::overlaps(their, filter));
            if theirs.is_empty() || filters.iter().any(collides) {
                return Err(ApiError::WORKQUEUE_NOT_UNIQUE);
            }
        }
        Ok(())
    }

    pub(super) fn delete_consumer<F: Fs>(
        &mut self,
        now: Now,
        stream: &str,
        consumer: &str,
        payload: &[u8],
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) -> Result<Success, ApiError> {
        if !is_empty_request(payload) {
            return Err(ApiError::NOT_EMPTY_REQUEST);
        }
        self.stream_by_name(stream).ok_or(ApiError::STREAM_NOT_FOUND)?;
        let id = self
            .find_consumer(stream, consumer)
            .ok_or(ApiError::CONSUMER_NOT_FOUND)?;
        self.remove_consumer(now, id, store, effects)
            .map_err(|err| ApiError::stream_general(text_of(&err)))?;
        Ok(Success { success: true })
    }

    /// Takes a consumer out, from the store too, and tells those who wait for its messages.
    pub(in crate::engine) fn remove_consumer<F: Fs>(
        &mut self,
        now: Now,
        id: ConsumerId,
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        let Some(observer) = self.consumers.get(&id) else {
            return Ok(());
        };
        let stream_id = observer.stream;
        if observer.is_stored {
            store.delete_consumer(stream_id, &observer.consumer.name)?;
        }
        let Some(mut observer) = self.consumers.remove(&id) else {
            return Ok(());
        };
        if let Some(stream) = self.streams.get_mut(&stream_id) {
            stream.consumers.remove(&observer.consumer.name);
        }
        self.dirty.remove(&id);
        self.urgent.remove(&id);
        self.changes += 1;
        let mut notices = Vec::new();
        observer.consumer.end_all(&Status::ConsumerDeleted, &mut notices);
        push_notices(notices, effects);
        let consumer = &observer.consumer;
        self.tell_consumer(now, &consumer.stream, &consumer.name, "delete", effects);
        self.retire_all(stream_id, store);
        Ok(())
    }

    pub(super) fn consumer_info_of<F: Fs>(
        &mut self,
        now: Now,
        stream: &str,
        consumer: &str,
        payload: &[u8],
        store: &Store<F>,
    ) -> Result<ConsumerInfo, ApiError> {
        if !is_empty_request(payload) {
            return Err(ApiError::NOT_EMPTY_REQUEST);
        }
        self.stream_by_name(stream).ok_or(ApiError::STREAM_NOT_FOUND)?;
        let id = self
            .find_consumer(stream, consumer)
            .ok_or(ApiError::CONSUMER_NOT_FOUND)?;
        self.consumer_info(now, id, store)
    }

    /// How many consumers of a stream count against its limit: not those that other streams copy through.
    fn limited_consumers(&self, stream: &Stream) -> usize {
        let held = stream.consumers.values().filter_map(|id| self.consumers.get(id));
        held.filter(|observer| !observer.consumer.config.is_for_copy())
            .count()
    }

    /// The consumers that are told of: not those that other streams copy through.
    pub(in crate::engine) fn listed_consumers(&self, stream: &Stream) -> Vec<(Arc<str>, ConsumerId)> {
        let is_direct = |id| {
            self.consumers
                .get(id)
                .is_some_and(|observer| observer.consumer.config.direct)
        };
        let listed = stream.consumers.iter().filter(|(_, id)| !is_direct(id));
        listed.map(|(name, id)| (Arc::clone(name), *id)).collect()
    }

    pub(super) fn consumer_names(&self, stream: &str, payload: &[u8]) -> Result<ConsumerNames, ApiError> {
        let request: PageRequest = parse_optional(payload)?;
        let stream = self.stream_by_name(stream).ok_or(ApiError::STREAM_NOT_FOUND)?;
        let listed = self.listed_consumers(stream);
        let (page, range) = Page::range(listed.len(), request.offset, NAMES_PAGE);
        let names = listed.into_iter().skip(range.start).take(range.len());
        Ok(ConsumerNames {
            page,
            consumers: names.map(|(name, _)| name.to_string()).collect(),
        })
    }

    pub(super) fn consumer_list<F: Fs>(
        &mut self,
        now: Now,
        stream: &str,
        payload: &[u8],
        store: &Store<F>,
    ) -> Result<ConsumerList, ApiError> {
        let request: PageRequest = parse_optional(payload)?;
        let stream = self.stream_by_name(stream).ok_or(ApiError::STREAM_NOT_FOUND)?;
        let listed = self.listed_consumers(stream);
        let (page, range) = Page::range(listed.len(), request.offset, LIST_PAGE);
        let ids = listed.into_iter().skip(range.start).take(range.len());
        let ids: Vec<ConsumerId> = ids.map(|(_, id)| id).collect();
        let listed = |id| {
            let mut info = self.consumer_info(now, id, store)?;
            // Lists come without what is only true of the answering server.
            if let Some(observer) = self.consumers.get(&id) {
                info.config
                    .metadata
                    .clone_from(&observer.consumer.config.metadata);
            }
            Ok(info)
        };
        let consumers: Result<_, _> = ids.into_iter().map(listed).collect();
        Ok(ConsumerList {
            page,
            consumers: consumers?,
        })
    }

    /// A consumer as the API describes it.
    pub(in crate::engine) fn consumer_info<F: Fs>(
        &mut self,
        now: Now,
        id: ConsumerId,
        store: &Store<F>,
    ) -> Result<ConsumerInfo, ApiError> {
        let version = self.options.version;
        let observer = self.consumers.get(&id).ok_or(ApiError::CONSUMER_NOT_FOUND)?;
        let first_seq = self.first_for_sure(observer.stream, store);
        let observer = self.consumers.get_mut(&id).ok_or(ApiError::CONSUMER_NOT_FOUND)?;
        observer.sync(first_seq);
        let num_pending = observer.num_pending(store);
        let consumer = &observer.consumer;
        let mut config = ConsumerConfig::clone(&consumer.config);
        set_dynamic_metadata(&mut config.metadata, version);
        if config.is_name_made_up {
            config.name.clear();
        }
        let until = consumer.config.pause_until.map_or(UnixNanos(0), |until| until.0);
        let pause_remaining = until.since(now.wall).max(0);
        let pin = consumer.pin();
        let groups = config.priority_groups.first().map(|group| PriorityGroupState {
            group: group.clone(),
            pinned_client_id: pin.map(|pin| pin.id.clone()).unwrap_or_default(),
            pinned_ts: pin.map_or(JsonTime::ZERO, |pin| JsonTime(pin.since)),
        });
        let position = |at: SeqPair, time: UnixNanos| SequenceInfo {
            consumer_seq: at.consumer,
            stream_seq: at.stream,
            last_active: (time.0 != 0).then_some(JsonTime(time)),
        };
        Ok(ConsumerInfo {
            stream_name: consumer.stream.to_string(),
            name: consumer.name.to_string(),
            created: JsonTime(consumer.created),
            config,
            delivered: position(consumer.delivered(), consumer.last_delivered),
            ack_floor: position(consumer.ack_floor(), consumer.last_acked),
            num_ack_pending: consumer.pending_count(),
            num_redelivered: consumer.redelivered_count(),
            num_waiting: consumer.waiting_count(),
            num_pending,
            push_bound: consumer.is_push_bound(),
            paused: pause_remaining > 0,
            pause_remaining,
            ts: JsonTime(now.wall),
            priority_groups: groups.into_iter().collect(),
        })
    }

    /// Eight letters and digits, as nats-server names ephemeral consumers.
    pub(in crate::engine) fn random_name(&mut self) -> String {
        const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let mut random = self.next_random();
        let mut letter = || {
            let letter = ALPHABET[(random % 62) as usize];
            random /= 62;
            char::from(letter)
        };
        (0..8).map(|_| letter()).collect()
    }
}

/// Puts a configuration on disk, with `state` if the consumer is new: where it starts must not be worked out again later.
pub(in crate::engine) fn save<F: Fs>(
    store: &mut Store<F>,
    stream: StreamId,
    created: UnixNanos,
    config: &ConsumerConfig,
    state: &[u8],
) -> Result<(), ApiError> {
    let stored = StoredConsumer {
        created: JsonTime(created),
        config: config.clone(),
    };
    let bytes = serde_json::to_vec(&stored).map_err(ApiError::consumer_store)?;
    store
        .create_consumer(stream, &config.name, &bytes, state)
        .map_err(|err| ApiError::consumer_store(text_of(&err)))
}
