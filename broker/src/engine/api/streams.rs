//! `$JS.API.STREAM.>`: creating, changing, describing and deleting streams.

use std::sync::Arc;

use crate::api::error::ApiError;
use crate::api::parse::{parse_optional, parse_stream};
use crate::api::pedantic;
use crate::api::time::JsonTime;
use crate::api::types::{
    ClusterInfo, LIST_PAGE, LostInfo, NAMES_PAGE, Page, PageRequest, PagedStreamInfo, PurgeRequest, Purged,
    SUBJECTS_PAGE, StreamInfo, StreamInfoRequest, StreamList, StreamNames, StreamStateInfo, Success,
};
use crate::consumer::config::ConsumerConfig;
use crate::consumer::pull::Status;
use crate::engine::effect::Effect;
use crate::engine::time::Now;
use crate::engine::{Engine, push_notices};
use crate::env::Fs;
use crate::store::{Backing, SeqRange, Store, StoreError, SubjectFilter};
use crate::stream::Stream;
use crate::stream::config::{Storage, StreamConfig, set_dynamic_metadata};
use crate::subject;
use crate::types::{StreamId, StreamSeq, UnixNanos};

/// Positions that an answer lists at most.
const POSITIONS_MAX: usize = 100_000;

impl Engine {
    pub(super) fn create_stream<F: Fs>(
        &mut self,
        now: Now,
        name: &str,
        payload: &[u8],
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) -> Result<StreamInfo, ApiError> {
        let (config, is_pedantic) = parse_stream(payload)?;
        if config.name != name {
            return Err(ApiError::STREAM_MISMATCH);
        }
        if is_pedantic {
            pedantic::check_stream(&config)?;
        }
        if name.contains(['\\', '/']) {
            return Err(ApiError::STREAM_PATH_SEPARATORS);
        }
        if config.sealed {
            return Err(ApiError::invalid_config(
                "stream configuration for create can not be sealed",
            ));
        }
        let mut config = config.normalize()?;
        config.adopt_origins(|name| self.stream_by_name(name).map(|stream| Arc::clone(&stream.config)))?;
        if self.is_restored(name) {
            return Err(ApiError::STREAM_NAME_EXIST);
        }
        if let Some(existing) = self.stream_by_name(name) {
            if *existing.config != config {
                return Err(ApiError::STREAM_NAME_EXIST);
            }
            let mut info = self.stream_info(now, existing, false, store);
            info.did_create = true;
            return Ok(info);
        }
        if self.streams.len() >= self.options.streams_max {
            return Err(ApiError::MAXIMUM_STREAMS);
        }
        self.check_quota(&config, None)?;
        self.check_overlap(&config, None)?;
        let backing = match config.storage {
            Storage::File => Backing::File,
            Storage::Memory => Backing::Memory,
        };
        let bytes = serde_json::to_vec(&config).map_err(ApiError::stream_create)?;
        let first_seq = StreamSeq(config.first_seq);
        let stored_name = self.options.accounts.stored_name(self.account, name);
        let id = store
            .create_stream(&stored_name, &bytes, backing, first_seq, now.wall)
            .map_err(|err| ApiError::stream_create(text_of(&err)))?;
        store.set_late(id, config.persists_late());
        store.set_packed(id, config.is_compressed());
        effects.push(Effect::Capture {
            stream: id,
            subjects: config.subjects.clone(),
        });
        let stream = Stream::new(id, self.account, config, now.wall);
        let mut info = self.stream_info(now, &stream, false, store);
        info.did_create = true;
        self.js_account().names.insert(stream.name.clone(), id);
        self.streams.insert(id, stream);
        self.changes += 1;
        self.index_copies();
        self.tell_stream(now, name, "create", effects);
        Ok(info)
    }

    pub(super) fn update_stream<F: Fs>(
        &mut self,
        now: Now,
        name: &str,
        payload: &[u8],
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) -> Result<StreamInfo, ApiError> {
        let (config, is_pedantic) = parse_stream(payload)?;
        if is_pedantic {
            pedantic::check_stream(&config)?;
        }
        let is_mismatch = config.name != name;
        let mut config = config.normalize()?;
        if is_mismatch {
            return Err(ApiError::STREAM_MISMATCH);
        }
        let stream = self.stream_by_name(name).ok_or(ApiError::STREAM_NOT_FOUND)?;
        let (id, old) = (stream.id, Arc::clone(&stream.config));
        config.adopt_origins(|name| self.stream_by_name(name).map(|stream| Arc::clone(&stream.config)))?;
        old.check_update(&mut config)?;
        config.first_seq = old.first_seq;
        self.check_consumer_limits(id, &old, &config)?;
        self.check_quota(&config, Some(id))?;
        self.check_overlap(&config, Some(id))?;
        let bytes = serde_json::to_vec(&config).map_err(ApiError::stream_update)?;
        store
            .update_stream(id, &bytes)
            .map_err(|err| ApiError::stream_update(text_of(&err)))?;
        store.set_packed(id, config.is_compressed());
        effects.push(Effect::Capture {
            stream: id,
            subjects: config.subjects.clone(),
        });
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.set_config(config);
            if !stream.config.allow_batched {
                self.end_fast(id);
            }
        }
        self.changes += 1;
        self.index_copies();
        self.tell_stream(now, name, "modify", effects);
        self.enforce_limits(id, None, store);
        self.age_due(now, id, store, effects);
        self.retire_all(id, store);
        let stream = self.stream_by_name(name).ok_or(ApiError::STREAM_NOT_FOUND)?;
        Ok(self.stream_info(now, stream, false, store))
    }

    /// New limits for consumers must leave room for those that there are.
    fn check_consumer_limits(
        &self,
        id: StreamId,
        old: &StreamConfig,
        new: &StreamConfig,
    ) -> Result<(), ApiError> {
        let limits = new.consumer_limits;
        let is_over = |value: i64, limit: i64| limit > 0 && value > limit;
        if limits == old.consumer_limits {
            return Ok(());
        }
        let Some(stream) = self.streams.get(&id) else {
            return Ok(());
        };
        let violates = |consumer: &&Arc<ConsumerConfig>| {
            is_over(consumer.inactive_threshold, limits.inactive_threshold)
                || is_over(consumer.max_ack_pending, limits.max_ack_pending)
        };
        let observers = stream.consumers.values().filter_map(|id| self.consumers.get(id));
        let configs = observers.map(|observer| &observer.consumer.config);
        let names: Vec<&str> = configs
            .filter(violates)
            .map(|config| config.name.as_str())
            .collect();
        if names.is_empty() {
            return Ok(());
        }
        let names = names.join(", ");
        Err(ApiError::stream_update(format!(
            "change to limits violates consumers: {names}"
        )))
    }

    /// Whether another stream captures what `config` wants to.
    pub(in crate::engine) fn check_overlap(
        &self,
        config: &StreamConfig,
        own: Option<StreamId>,
    ) -> Result<(), ApiError> {
        let others = self.account_streams().filter(|stream| Some(stream.id) != own);
        let others = others.flat_map(|stream| &stream.config.subjects);
        for captured in others.chain(self.restored_subjects()) {
            if config
                .subjects
                .iter()
                .any(|subject| subject::overlaps(subject, captured))
            {
                return Err(ApiError::SUBJECT_OVERLAP);
            }
        }
        Ok(())
    }

    pub(super) fn delete_stream<F: Fs>(
        &mut self,
        now: Now,
        name: &str,
        payload: &[u8],
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) -> Result<Success, ApiError> {
        if !is_empty_request(payload) {
            return Err(ApiError::NOT_EMPTY_REQUEST);
        }
        let stream = self.stream_by_name(name).ok_or(ApiError::STREAM_NOT_FOUND)?;
        let id = stream.id;
        store
            .delete_stream(id)
            .map_err(|err| ApiError::stream_delete(text_of(&err)))?;
        effects.push(Effect::Capture {
            stream: id,
            subjects: Vec::new(),
        });
        self.js_account().names.remove(name);
        self.changes += 1;
        let Some(mut stream) = self.streams.remove(&id) else {
            return Ok(Success { success: true });
        };
        let mut notices = Vec::new();
        for consumer in stream.consumers.values() {
            if let Some(mut observer) = self.consumers.remove(consumer) {
                observer.consumer.end_all(&Status::ConsumerDeleted, &mut notices);
            }
        }
        push_notices(notices, effects);
        self.open_batches -= stream.batches.len();
        self.open_fast -= stream.fast.len();
        stream.origins.end();
        self.end_links(&mut stream.origins, effects);
        self.forget_copied(id);
        self.index_copies();
        self.tell_stream(now, name, "delete", effects);
        Ok(Success { success: true })
    }

    pub(super) fn purge_stream<F: Fs>(
        &mut self,
        name: &str,
        payload: &[u8],
        store: &mut Store<F>,
    ) -> Result<Purged, ApiError> {
        let request: PurgeRequest = parse_optional(payload)?;
        if request.seq > 0 && request.keep > 0 {
            return Err(ApiError::BAD_REQUEST);
        }
        let stream = self.stream_by_name(name).ok_or(ApiError::STREAM_NOT_FOUND)?;
        if stream.config.sealed {
            return Err(ApiError::SEALED);
        }
        if stream.config.deny_purge {
            return Err(ApiError::purge_failed("stream purge not permitted"));
        }
        let id = stream.id;
        self.changes += 1;
        let is_filtered = !request.filter.is_empty() && request.filter != ">";
        if is_filtered {
            return self.purge_filtered(id, &request, store);
        }
        let end = store.state(id).last_seq.next();
        let up_to = match (request.seq, request.keep) {
            (0, 0) => end,
            (0, keep) => nth_from_end(id, keep, store),
            (seq, _) => StreamSeq(seq),
        };
        if up_to > end {
            // The stream goes on at the number asked for.
            store
                .raise_last_seq(id, up_to.prev())
                .map_err(|err| ApiError::stream_general(text_of(&err)))?;
        }
        let purged = store
            .purge(id, up_to)
            .map_err(|err| ApiError::stream_general(text_of(&err)))?;
        if up_to >= end
            && let Some(stream) = self.streams.get_mut(&id)
        {
            stream.duplicates.clear();
        }
        self.move_front(id, up_to);
        let first_seq = self.first_for_sure(id, store);
        self.for_each_consumer(id, |observer| observer.sync(first_seq));
        Ok(Purged {
            success: true,
            purged,
        })
    }

    fn purge_filtered<F: Fs>(
        &mut self,
        id: StreamId,
        request: &PurgeRequest,
        store: &mut Store<F>,
    ) -> Result<Purged, ApiError> {
        if !subject::is_valid_filter(&request.filter) {
            return Ok(Purged {
                success: true,
                purged: 0,
            });
        }
        let filter = SubjectFilter::new(&[&request.filter]);
        let matching = store.count_matching(id, &filter, StreamSeq(1));
        let mut left = matching.saturating_sub(request.keep);
        let up_to = if request.seq == 0 {
            StreamSeq(u64::MAX)
        } else {
            StreamSeq(request.seq)
        };
        let mut purged = 0;
        store
            .settle_front(id)
            .map_err(|err| ApiError::stream_general(text_of(&err)))?;
        let mut next = store.next_match(id, &filter, StreamSeq(1));
        while let Some(seq) = next.filter(|seq| *seq < up_to && left > 0) {
            let was_there = store
                .remove(id, seq)
                .map_err(|err| ApiError::stream_general(text_of(&err)))?;
            self.message_removed(id, seq);
            purged += u64::from(was_there);
            left -= 1;
            next = store.next_match(id, &filter, seq.next());
        }
        Ok(Purged {
            success: true,
            purged,
        })
    }

    fn for_each_consumer(&mut self, id: StreamId, mut f: impl FnMut(&mut crate::engine::Observer)) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        for consumer in stream.consumers.values() {
            if let Some(observer) = self.consumers.get_mut(consumer) {
                f(observer);
            }
        }
    }

    pub(super) fn stream_info_page<F: Fs>(
        &mut self,
        now: Now,
        name: &str,
        payload: &[u8],
        store: &Store<F>,
    ) -> Result<PagedStreamInfo, ApiError> {
        let request: StreamInfoRequest = parse_optional(payload)?;
        let stream = self.stream_by_name(name).ok_or(ApiError::STREAM_NOT_FOUND)?;
        let mut info = self.stream_info(now, stream, request.deleted_details, store);
        info.domain.clone_from(&self.options.domain);
        info.cluster = Some(ClusterInfo {
            leader: self.options.server_name.clone(),
        });
        let mut page = Page {
            total: 0,
            offset: 0,
            limit: 0,
        };
        if !request.subjects_filter.is_empty() {
            let filter = SubjectFilter::new(&[&request.subjects_filter]);
            let subjects = store.subjects(stream.id, &filter);
            let (found, range) = Page::range(subjects.len(), request.offset, SUBJECTS_PAGE);
            if !subjects.is_empty() {
                page = found;
                page.offset = usize::try_from(request.offset).unwrap_or(0);
            }
            if !range.is_empty() {
                let counts = subjects[range]
                    .iter()
                    .map(|subject| (subject.subject.to_string(), subject.messages));
                info.state.subjects = Some(counts.collect());
            }
        }
        Ok(PagedStreamInfo { page, info })
    }

    /// A stream as the API describes it.
    pub(in crate::engine) fn stream_info<F: Fs>(
        &self,
        now: Now,
        stream: &Stream,
        with_deleted: bool,
        store: &Store<F>,
    ) -> StreamInfo {
        let mut config = StreamConfig::clone(&stream.config);
        set_dynamic_metadata(&mut config.metadata, self.options.version);
        let mut sources = self.source_infos(now, stream);
        let mirror = stream.origins.is_mirror.then(|| sources.pop()).flatten();
        StreamInfo {
            config,
            created: JsonTime(stream.created),
            state: state_info(stream, with_deleted, store),
            ts: JsonTime(now.wall),
            did_create: false,
            cluster: None,
            domain: None,
            mirror,
            sources,
        }
    }

    fn streams_with_subject(&self, subject: &str) -> Vec<&Stream> {
        let captures = |stream: &&Stream| {
            subject.is_empty()
                || stream
                    .config
                    .subjects
                    .iter()
                    .any(|own| subject::overlaps(own, subject))
        };
        self.account_streams().filter(captures).collect()
    }

    pub(super) fn stream_names(&self, payload: &[u8]) -> Result<StreamNames, ApiError> {
        let request: PageRequest = parse_optional(payload)?;
        let found = self.streams_with_subject(&request.subject);
        let (page, range) = Page::range(found.len(), request.offset, NAMES_PAGE);
        let names: Vec<String> = found[range]
            .iter()
            .map(|stream| stream.name.to_string())
            .collect();
        Ok(StreamNames {
            page,
            streams: (!names.is_empty()).then_some(names),
        })
    }

    pub(super) fn stream_list<F: Fs>(
        &self,
        now: Now,
        payload: &[u8],
        store: &Store<F>,
    ) -> Result<StreamList, ApiError> {
        let request: PageRequest = parse_optional(payload)?;
        let found = self.streams_with_subject(&request.subject);
        let (page, range) = Page::range(found.len(), request.offset, LIST_PAGE);
        let info = |stream: &&Stream| {
            let mut info = self.stream_info(now, stream, false, store);
            // Lists come without what is only true of the answering server.
            info.config = StreamConfig::clone(&stream.config);
            info
        };
        let streams = found[range].iter().map(info).collect();
        Ok(StreamList { page, streams })
    }
}

/// A stream in figures, as the API describes it.
pub(in crate::engine) fn state_info<F: Fs>(
    stream: &Stream,
    with_deleted: bool,
    store: &Store<F>,
) -> StreamStateInfo {
    let state = store.state(stream.id);
    let deleted = with_deleted.then(|| positions(&store.deleted(stream.id)));
    let lost = (state.lost > 0).then(|| LostInfo {
        msgs: positions(&store.lost(stream.id)),
        bytes: 0,
    });
    StreamStateInfo {
        messages: state.messages,
        bytes: state.bytes,
        first_seq: first_seq(&state),
        first_ts: JsonTime(if state.messages == 0 {
            UnixNanos(0)
        } else {
            state.first_time
        }),
        last_seq: state.last_seq.0,
        last_ts: JsonTime(state.last_time),
        num_subjects: store.num_subjects(stream.id),
        subjects: None,
        num_deleted: state.num_deleted,
        deleted: deleted.filter(|deleted| !deleted.is_empty()),
        lost,
        consumer_count: stream.consumers.len(),
    }
}

/// nats-server says 0 for a stream that never had a message.
fn first_seq(state: &crate::store::StreamState) -> u64 {
    if state.last_seq.0 == 0 {
        0
    } else {
        state.first_seq.0
    }
}

fn positions(ranges: &[SeqRange]) -> Vec<u64> {
    ranges
        .iter()
        .flat_map(|range| range.first.0..=range.last.0)
        .take(POSITIONS_MAX)
        .collect()
}

/// The position that exactly the last `keep` messages are at or above.
fn nth_from_end<F: Fs>(id: StreamId, keep: u64, store: &Store<F>) -> StreamSeq {
    let state = store.state(id);
    let all = SubjectFilter::all();
    let (mut low, mut high) = (state.first_seq.0, state.last_seq.0 + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        if store.count_matching(id, &all, StreamSeq(middle)) > keep {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    StreamSeq(low)
}

/// Nothing, or an empty object.
pub(in crate::engine) fn is_empty_request(payload: &[u8]) -> bool {
    let payload = payload.trim_ascii();
    let is_empty_object = |fields: serde_json::Map<String, serde_json::Value>| fields.is_empty();
    payload.is_empty() || serde_json::from_slice(payload).is_ok_and(is_empty_object)
}

/// A store error without paths: clients learn what, the log says where.
pub(in crate::engine) fn text_of(err: &StoreError) -> String {
    tracing::warn!(error = %err, "store refused a request");
    match err {
        StoreError::NoSpace { .. } => "insufficient storage resources available".to_owned(),
        StoreError::ReadOnly { .. } => err.to_string(),
        _ => "error creating store for stream".to_owned(),
    }
}
