//! Mirrors and sources: streams that copy others, of the same account or of another one ([`external`]).
//!
//! A copied record says where it came from: a mirror's by its own sequence, a source's by its `Nats-Stream-Source` header.
//! Where to go on after a restart is read from what is stored, so that each message is copied exactly once.
//! Source: nats-server, `processInboundMirrorMsg`, `processInboundSourceMsg`.

mod external;
mod link;
mod position;
mod shown;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use self::external::Copy;
use self::link::Link;
use self::position::next_to_copy;
use super::effect::Effect;
use super::publish::{StoredMessage, StreamRecords, append, last_of_subject, remember, store_error};
use super::time::{Mono, Now};
use super::{ConsumerId, Engine, Timer};
use crate::api::error::ApiError;
use crate::api::time;
use crate::env::Fs;
use crate::store::{NewRecord, Record, Store, StoreError, SubjectFilter};
use crate::stream::config::{Storage, StreamConfig};
use crate::stream::counter::{self, LastCounter};
use crate::stream::dedupe::IdKind;
use crate::stream::headers::{self, PublishHeaders, STREAM_SOURCE};
use crate::stream::source::{StreamSource, short_hash};
use crate::stream::{Incoming, Records, Rollup, Stream};
use crate::subject::transform::SubjectTransform;
use crate::types::{StreamId, StreamSeq, UnixNanos};

/// Messages that a stream copies in one step.
const COPIED_MAX: usize = 512;
/// When a stream that took nothing, or whose origin is not there, looks again.
pub(super) const RETRY_NS: i64 = 1_000_000_000;
/// How often a message that the disk does not give is asked for before it counts as lost.
const UNREADABLE_TRIES: u32 = 10;

/// What is kept of a stream's positions, as the state of a consumer that no client can name.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Positions {
    /// The copy's last sequence at that time: later records say themselves where they are from.
    last_seq: u64,
    /// The next sequence of each origin, and its identity.
    next: BTreeMap<String, (u64, String)>,
}

/// The name that [`Positions`] are kept under.
pub(super) const POSITIONS: &str = ".sources";

/// Where a stream stands with one origin.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(super) name: String,
    /// As `Nats-Stream-Source` has it.
    index_name: String,
    pub(super) filter: SubjectFilter,
    /// The consumer of the origin that is copied through, if the configuration names one.
    pub(super) consumer: Option<String>,
    /// Source filters and what becomes of their subjects; `None`: as they are.
    transforms: Vec<(String, Option<SubjectTransform>)>,
    /// The next position to look at; 0: not known yet.
    next_seq: u64,
    /// The last that was copied; 0: none, or not known since the restart.
    copied_seq: u64,
    /// Which stream it was; another one of the same name starts anew.
    pub(super) id: Option<StreamId>,
    /// Tells that stream from others of its name, also over restarts.
    identity: String,
    lag: u64,
    last_active: Option<Mono>,
    error: Option<ApiError>,
    /// It was copied, but how far has to be found out anew.
    is_unknown: bool,
    /// A message that could not be read, and how often.
    unreadable: (StreamSeq, u32),
    /// The way to it, if it is in another account.
    link: Option<Link>,
}

impl Origin {
    fn new(source: &StreamSource) -> Self {
        let filters: Vec<&str> = if source.subject_transforms.is_empty() {
            Some(source.filter_subject.as_str())
                .into_iter()
                .filter(|filter| !filter.is_empty())
                .collect()
        } else {
            fn all(src: &str) -> &str {
                if src.is_empty() { ">" } else { src }
            }
            source
                .subject_transforms
                .iter()
                .map(|transform| all(transform.src.as_str()))
                .collect()
        };
        let transforms = source.subject_transforms.iter().map(|transform| {
            let src = if transform.src.is_empty() {
                ">"
            } else {
                &transform.src
            };
            let built = SubjectTransform::new(src, &transform.dest).ok();
            (src.to_owned(), built.filter(|_| !transform.dest.is_empty()))
        });
        Self {
            name: source.name.clone(),
            index_name: source.index_name(),
            filter: SubjectFilter::new(&filters),
            consumer: source.consumer.as_ref().map(|consumer| consumer.name.clone()),
            transforms: transforms.collect(),
            next_seq: 0,
            copied_seq: 0,
            id: None,
            identity: String::new(),
            lag: 0,
            last_active: None,
            error: None,
            is_unknown: false,
            unreadable: (StreamSeq::NONE, 0),
            link: Link::of(source),
        }
    }

    /// How far it was copied is to be found out anew.
    pub(super) fn forget_position(&mut self) {
        self.id = None;
        self.is_unknown = true;
        if let Some(link) = &mut self.link {
            self.next_seq = 0;
            link.restart();
        }
    }

    /// When something came of it last.
    fn active(&self) -> Option<Mono> {
        self.link.as_ref().map_or(self.last_active, Link::heard_last)
    }

    /// Counts how often in a row a message could not be read.
    fn count_unreadable(&mut self, seq: StreamSeq) -> u32 {
        let before = if self.unreadable.0 == seq {
            self.unreadable.1
        } else {
            0
        };
        self.unreadable = (seq, before + 1);
        before + 1
    }

    fn subject(&self, subject: &str, random: u64) -> String {
        let applied = self
            .transforms
            .iter()
            .find(|(source, _)| crate::subject::matches(source, subject))
            .and_then(|(_, transform)| transform.as_ref()?.apply(subject, random as u32));
        applied.unwrap_or_else(|| subject.to_owned())
    }

    /// `<stream> <sequence> <filter> <transform> <subject> <identity>`
    fn header(&self, record: &Record) -> String {
        let mut parts = self.index_name.splitn(3, ' ');
        let mut part = || parts.next().unwrap_or_default();
        let (name, filter, transform) = (part(), part(), part());
        let (seq, subject, identity) = (record.seq.0, &record.subject, &self.identity);
        let header = format!("{name} {seq} {filter} {transform} {subject} {identity}");
        header.trim_end().to_owned()
    }
}

/// What a stream copies.
#[derive(Debug, Default)]
pub(crate) struct Origins {
    pub(crate) is_mirror: bool,
    pub(super) list: Vec<Origin>,
    /// Those that are no longer copied.
    ended: Vec<Origin>,
}

impl Origins {
    /// The origins of a configuration, with nothing known about them.
    pub(crate) fn new(config: &StreamConfig) -> Self {
        Self {
            is_mirror: config.mirror.is_some(),
            list: config
                .mirror
                .iter()
                .chain(&config.sources)
                .map(Origin::new)
                .collect(),
            ended: Vec::new(),
        }
    }

    /// Takes over what is known about origins that stay.
    pub(crate) fn change(&mut self, config: &StreamConfig) {
        let mut old: BTreeMap<String, Origin> = std::mem::take(&mut self.list)
            .into_iter()
            .map(|origin| (origin.index_name.clone(), origin))
            .collect();
        *self = Self::new(config);
        for origin in &mut self.list {
            if let Some(known) = old.remove(&origin.index_name) {
                *origin = known;
            }
        }
        self.ended = old.into_values().collect();
    }

    /// None of them is copied any more.
    pub(super) fn end(&mut self) {
        self.ended.append(&mut self.list);
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty() && self.ended.is_empty()
    }
}

/// Tells a stream from others of its name: a hash of when it was created.
/// Source: nats-server, `stream.identity`.
pub(super) fn identity(created: UnixNanos) -> String {
    short_hash(&time::format(created))
}

impl Engine {
    /// Streams that copy are looked at after each commit that gave their origins records.
    pub(super) fn mark_copies(&mut self, origin: StreamId) {
        let Some(stream) = self.streams.get(&origin).filter(|stream| stream.is_copied) else {
            return;
        };
        let (account, name) = (stream.account, stream.name.clone());
        if let Some(copies) = self.copies.get(&(account, name)) {
            self.to_copy.extend(copies.iter().copied());
        }
    }

    /// Finds out anew which streams copy which.
    pub(super) fn index_copies(&mut self) {
        self.copies.clear();
        for stream in self.streams.values() {
            for origin in stream.origins.list.iter().filter(|origin| origin.link.is_none()) {
                let key = (stream.account, origin.name.as_str().into());
                self.copies.entry(key).or_default().push(stream.id);
            }
            if !stream.origins.is_empty() {
                self.to_copy.insert(stream.id);
            }
        }
        for stream in self.streams.values_mut() {
            stream.is_copied = self.copies.contains_key(&(stream.account, stream.name.clone()));
        }
    }

    /// Copies what has become durable in origins since the last time.
    pub(super) fn copy<F: Fs>(&mut self, now: Now, store: &mut Store<F>, effects: &mut Vec<Effect>) {
        for id in std::mem::take(&mut self.to_copy) {
            let Some(stream) = self.streams.get_mut(&id) else {
                continue;
            };
            let mut origins = std::mem::take(&mut stream.origins);
            let account = stream.account;
            self.enter(account, effects);
            self.end_links(&mut origins, effects);
            let is_mirror = origins.is_mirror;
            for origin in &mut origins.list {
                if origin.link.is_some() {
                    self.tend_link(now, Copy { id, is_mirror }, origin, store, effects);
                } else {
                    self.copy_from(now, id, origin, is_mirror, store, effects);
                }
            }
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.origins = origins;
            }
        }
    }

    fn copy_from<F: Fs>(
        &mut self,
        now: Now,
        id: StreamId,
        origin: &mut Origin,
        is_mirror: bool,
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(origin_id) = self.id_of(&origin.name) else {
            origin.id = None;
            origin.error = Some(ApiError::STREAM_NOT_FOUND);
            return;
        };
        let through = match self.copied_through(origin, is_mirror) {
            Ok(through) => through,
            Err(error) => {
                origin.forget_position();
                return self.copy_later(now, id, origin, error);
            }
        };
        origin.error = None;
        if origin.id != Some(origin_id) {
            origin.id = Some(origin_id);
            let created = self
                .streams
                .get(&origin_id)
                .map_or(UnixNanos(0), |stream| stream.created);
            origin.identity = identity(created);
            match self.start_of(id, origin, origin_id, (is_mirror, through), store) {
                Ok(start) => {
                    origin.next_seq = start;
                    origin.is_unknown = false;
                    let first = self.configured_start(id, origin, origin_id, store);
                    self.retire_copied_before(origin_id, &origin.filter, first..start, store);
                }
                Err(err) => {
                    origin.forget_position();
                    return self.copy_later(now, id, origin, store_error(&err));
                }
            }
        }
        let durable = store.durable_seq(origin_id);
        let mut done = Vec::new();
        for count in 0.. {
            let from = StreamSeq(origin.next_seq);
            let next = store
                .next_match(origin_id, &origin.filter, from)
                .filter(|seq| *seq <= durable);
            let Some(seq) = next else {
                origin.next_seq = origin.next_seq.max(durable.0 + 1);
                break;
            };
            if count == COPIED_MAX {
                self.to_copy.insert(id);
                break;
            }
            let copied = match store.read(origin_id, seq) {
                Ok(Some(record)) => self
                    .copy_record(now, id, origin, &record, is_mirror, store, effects)
                    .map(|()| {
                        done.push(seq.0);
                        origin.copied_seq = seq.0;
                    }),
                // What the disk refuses may be there a moment later.
                Err(err @ StoreError::Io { .. }) if origin.count_unreadable(seq) < UNREADABLE_TRIES => {
                    Err(store_error(&err))
                }
                Err(StoreError::Io { .. }) => {
                    store.give_up(origin_id, seq);
                    Ok(())
                }
                Ok(None) | Err(_) => Ok(()),
            };
            if let Err(error) = copied {
                self.copy_later(now, id, origin, error);
                break;
            }
            origin.next_seq = seq.0 + 1;
            origin.last_active = Some(now.mono);
        }
        origin.lag = store.count_matching(origin_id, &origin.filter, StreamSeq(origin.next_seq));
        if !done.is_empty() {
            self.sources_dirty.insert(id);
            self.arm_persist(now.mono);
            self.note_copied(origin_id, id, through, done, store);
        }
    }

    /// A message was not copied: it is tried again.
    fn copy_later(&mut self, now: Now, id: StreamId, origin: &mut Origin, error: ApiError) {
        tracing::debug!(origin = %origin.name, error = %error.description, "a message was not copied");
        origin.error = Some(error);
        self.timers.insert((now.mono.after(RETRY_NS), Timer::Copy(id)));
    }

    /// Whether a stream has still to copy the message.
    pub(super) fn is_to_be_copied(&self, id: StreamId, seq: u64, subject: &str) -> bool {
        let Some(stream) = self.streams.get(&id).filter(|stream| stream.is_copied) else {
            return false;
        };
        let copies = self.copies.get(&(stream.account, stream.name.clone()));
        let mut copies = copies
            .into_iter()
            .flatten()
            .filter_map(|copy| self.streams.get(copy));
        copies.any(|copy| {
            let mut origins = copy.origins.list.iter();
            origins.any(|origin| {
                let is_it = origin.link.is_none() && *origin.name == *stream.name;
                is_it && origin.next_seq <= seq && origin.filter.matches(subject)
            })
        })
    }

    /// Writes down how far streams have copied.
    pub(crate) fn save_positions<F: Fs>(&mut self, store: &mut Store<F>) {
        let mut later = BTreeSet::new();
        for id in std::mem::take(&mut self.sources_dirty) {
            let Some(stream) = self.streams.get(&id) else {
                continue;
            };
            if stream.config.storage == Storage::Memory || stream.origins.is_mirror {
                continue;
            }
            if stream.origins.list.iter().any(|origin| origin.is_unknown) {
                // What would be written now would not say how far that one was copied.
                later.insert(id);
                continue;
            }
            let is_known =
                |origin: &&Origin| origin.id.is_some() || (origin.link.is_some() && origin.next_seq > 0);
            let next = stream.origins.list.iter().filter(is_known);
            let positions = Positions {
                last_seq: store.state(id).last_seq.0,
                next: next
                    .map(|origin| {
                        let position = (origin.next_seq, origin.identity.clone());
                        (origin.index_name.clone(), position)
                    })
                    .collect(),
            };
            let saved = serde_json::to_vec(&positions).map_err(|err| err.to_string());
            let saved = saved.and_then(|bytes| {
                let is_known = store.consumers(id).any(|(name, ..)| name == POSITIONS);
                let put = if is_known {
                    store.put_consumer_state(id, POSITIONS, &bytes)
                } else {
                    store.create_consumer(id, POSITIONS, b"{}", &bytes)
                };
                put.map_err(|err| err.to_string())
            });
            if let Err(error) = saved {
                tracing::warn!(stream = %stream.name, error, "positions in sources were not written");
            }
        }
        self.sources_dirty.append(&mut later);
    }

    /// Where to start: behind what the copy has already, or where the configuration says.
    fn start_of<F: Fs>(
        &self,
        id: StreamId,
        origin: &Origin,
        origin_id: StreamId,
        (is_mirror, through): (bool, Option<ConsumerId>),
        store: &Store<F>,
    ) -> Result<u64, StoreError> {
        let known = if is_mirror {
            Some(store.state(id).last_seq.0)
                .filter(|seq| *seq > 0)
                .map(|seq| seq + 1)
        } else {
            next_to_copy(id, origin, store)?
        };
        if let Some(next) = known {
            return Ok(next);
        }
        if let Some(observer) = through.and_then(|through| self.consumers.get(&through)) {
            return Ok(observer.consumer.ack_floor().stream + 1);
        }
        Ok(self.configured_start(id, origin, origin_id, store))
    }

    /// Where the configuration says that a copy begins.
    fn configured_start<F: Fs>(
        &self,
        id: StreamId,
        origin: &Origin,
        origin_id: StreamId,
        store: &Store<F>,
    ) -> u64 {
        let config = self.streams.get(&id).map(|stream| &stream.config);
        let source = config
            .into_iter()
            .flat_map(|config| config.mirror.iter().chain(&config.sources))
            .find(|source| source.index_name() == origin.index_name);
        let Some(source) = source else { return 1 };
        match source.opt_start_time.filter(|_| source.opt_start_seq == 0) {
            Some(time) => store
                .seq_at_or_after(origin_id, time.0)
                .map_or(store.state(origin_id).last_seq.0 + 1, |seq| seq.0),
            None => source.opt_start_seq.max(1),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "copying has that many parts")]
    fn copy_record<F: Fs>(
        &mut self,
        now: Now,
        id: StreamId,
        origin: &Origin,
        record: &Record,
        is_mirror: bool,
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), ApiError> {
        let random = self.next_random();
        let subject = origin.subject(&record.subject, random);
        let stream = self.streams.get_mut(&id).ok_or(ApiError::STREAM_NOT_FOUND)?;
        if stream.config.sealed {
            return Err(ApiError::SEALED);
        }
        let mut block = record.headers.to_vec();
        let mut payload = record.payload.clone();
        if is_mirror && headers::field(&block, headers::BATCH_ID).is_some() {
            block = headers::without_fields(&block, |name| name.starts_with("Nats-Batch-"));
        }
        if !is_mirror {
            let is_dropped = |name: &str| {
                name == STREAM_SOURCE || name.starts_with("Nats-Expected-") || name.starts_with("Nats-Batch-")
            };
            block = headers::without_fields(&block, is_dropped);
            block = headers::with_field(&block, STREAM_SOURCE, &origin.header(record));
            if stream.config.allow_msg_counter {
                let last = StreamRecords { store, id }.last(&subject)?;
                let last = last.as_ref().map(|last| LastCounter {
                    headers: &last.headers,
                    payload: &last.payload,
                });
                let counted = counter::add_sourced(&block, &payload, &origin.name, &record.subject, last)?;
                (block, payload) = (counted.headers, counted.payload.into());
            }
        }
        let parsed = PublishHeaders::parse(&block);
        let message = Incoming {
            subject: &subject,
            headers: &block,
            payload: &payload,
        };
        let rollup = {
            let records = super::publish::StreamRecords { store: &*store, id };
            stream.check_copied(message, &parsed, &records)?
        };
        let is_known = |stream: &mut Stream| {
            let id = parsed.msg_id?;
            stream.duplicates.find(now.mono, IdKind::Message, id)
        };
        if !is_mirror && is_known(stream).is_some() {
            return Ok(());
        }
        if is_mirror && record.seq.prev() > store.state(id).last_seq {
            store
                .raise_last_seq(id, record.seq.prev())
                .map_err(|err| super::store_error(&err))?;
        }
        let new = NewRecord {
            time: if is_mirror { record.time } else { now.wall },
            subject: &subject,
            headers: &block,
            payload: &payload,
        };
        let last_of_subject = last_of_subject(stream, &subject, store);
        let seq = append(stream, &new, store, &self.consumers)?;
        remember(stream, now, seq, &parsed, None);
        let stored = StoredMessage {
            seq,
            subject: &subject,
            headers: &block,
            payload: &payload,
            rollup,
            last_of_subject,
        };
        self.stored(now, id, &stored, None, store, effects);
        Ok(())
    }
}

impl Stream {
    /// Checks a message that was copied from another stream: only what concerns this one. Returns what it rolls up.
    ///
    /// # Errors
    /// As for messages that are published.
    fn check_copied(
        &self,
        message: Incoming<'_>,
        headers: &PublishHeaders<'_>,
        records: &impl crate::stream::Records,
    ) -> Result<Rollup, ApiError> {
        self.check_fits(message, records)?;
        Ok(match headers.rollup {
            Some("sub") if self.config.allow_rollup_hdrs => Rollup::Subject,
            Some("all") if self.config.allow_rollup_hdrs => Rollup::All,
            _ => Rollup::None,
        })
    }
}
