//! Messages that streams make themselves: those of schedules, and delete markers.

use std::cell::Cell;

use super::effect::Effect;
use super::publish::{StoredMessage, append, last_of_subject, remember};
use super::time::Now;
use super::{AGE_CHECK_NS_MAX, AGE_CHECK_NS_MIN, Engine, Timer};
use crate::api::error::ApiError;
use crate::consumer::pull::go_duration;
use crate::env::Fs;
use crate::store::{NewRecord, Record, Store, StoreError, SubjectFilter};
use crate::stream::headers::{self, MARKER_REASON, PublishHeaders, ROLLUP, SCHEDULE_NEXT, SCHEDULER, TTL};
use crate::stream::{Rollup, Shaped, Stream, schedule};
use crate::types::{StreamId, StreamSeq, UnixNanos};

/// The wall clock may be set: schedules are looked at again after so long at most.
const SCHEDULE_CHECK_NS_MAX: i64 = 60_000_000_000;
/// Scheduled messages of one stream in one step.
const SCHEDULED_MAX: usize = 1024;
/// A schedule whose stream took nothing is tried again after so long.
const SCHEDULE_RETRY_NS: i64 = 1_000_000_000;

/// Whether a message says that its subject was deleted.
fn is_marker(block: &[u8]) -> bool {
    headers::field(block, MARKER_REASON).is_some() || headers::field(block, "KV-Operation") == Some("PURGE")
}

impl Engine {
    /// Takes note of what a stored message means for the stream's schedules.
    pub(super) fn note_schedule<F: Fs>(
        &mut self,
        now: Now,
        id: StreamId,
        stored: &StoredMessage<'_>,
        shaped: Option<&Shaped>,
        store: &mut Store<F>,
    ) {
        let Some(shaped) = shaped else { return };
        if let Some(fires) = shaped.fires {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.schedules.set(stored.subject, stored.seq.0, fires.at);
            }
            self.arm_schedules(now, id);
        }
        if let Some(subject) = &shaped.ends_schedule {
            self.end_schedule(id, subject, stored.seq, store);
        }
    }

    /// Removes a schedule, which the message `by` ends: all messages of its subject.
    fn end_schedule<F: Fs>(&mut self, id: StreamId, subject: &str, by: StreamSeq, store: &mut Store<F>) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.schedules.remove(subject);
        }
        while let Some(summary) = store.subject(id, subject) {
            if !self.displace_message(id, summary.first, by, store) {
                break;
            }
        }
    }

    /// Takes up the schedules again that messages had ended which were not stored after all.
    pub(super) fn restore_schedules<F: Fs>(&mut self, now: Now, store: &Store<F>) {
        for (id, seq) in std::mem::take(&mut self.schedules_back) {
            if let Some(stream) = self.streams.get_mut(&id)
                && let Ok(Some(record)) = store.read(id, seq)
            {
                resume_schedule(stream, &record, now);
                self.arm_schedules(now, id);
            }
        }
    }

    /// Sets the timer for the next schedule.
    pub(super) fn arm_schedules(&mut self, now: Now, id: StreamId) {
        let next = self.streams.get(&id).and_then(|stream| stream.schedules.next());
        if let Some(next) = next {
            let wait = next.since(now.wall).clamp(0, SCHEDULE_CHECK_NS_MAX);
            self.timers.insert((now.mono.after(wait), Timer::Schedule(id)));
        }
    }

    /// Stores the messages of schedules that are due, and sets the timer for the next.
    pub(super) fn schedules_due<F: Fs>(
        &mut self,
        now: Now,
        id: StreamId,
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(stream) = self.streams.get(&id) {
            self.enter(stream.account, effects);
        }
        for _ in 0..SCHEDULED_MAX {
            let Some(stream) = self.streams.get_mut(&id) else {
                return;
            };
            let Some((subject, seq, due)) = stream.schedules.pop_due(now.wall) else {
                break;
            };
            self.fire(now, id, (&subject, seq, due), store, effects);
        }
        self.arm_schedules(now, id);
    }

    fn fire<F: Fs>(
        &mut self,
        now: Now,
        id: StreamId,
        (subject, seq, due): (&str, u64, UnixNanos),
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) {
        let is_refused = Cell::new(false);
        let read = |seq| match store.read(id, seq) {
            Err(StoreError::Io { .. }) => {
                is_refused.set(true);
                None
            }
            read => read.ok().flatten(),
        };
        let last = |subject: &str| read(store.subject(id, subject)?.last);
        let record = read(StreamSeq(seq));
        let scheduled = record.and_then(|record| schedule::scheduled(&record, due, now.wall, last));
        if is_refused.get() {
            return self.fire_later(now, id, subject, seq);
        }
        let Some(scheduled) = scheduled else {
            return;
        };
        let parts = (
            scheduled.target.as_str(),
            &scheduled.headers[..],
            &scheduled.payload[..],
        );
        let stored = match self.store_own(now, id, parts, store, effects) {
            Ok(stored) => stored,
            Err(error) => {
                tracing::warn!(subject, error = %error.description, "a scheduled message was not stored");
                return self.fire_later(now, id, subject, seq);
            }
        };
        match scheduled.next {
            Some(next) => {
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.schedules.set(subject, seq, next);
                }
            }
            None => self.end_schedule(id, subject, stored, store),
        }
    }

    fn fire_later(&mut self, now: Now, id: StreamId, subject: &str, seq: u64) {
        if let Some(stream) = self.streams.get_mut(&id) {
            let due = now.wall.saturating_add(SCHEDULE_RETRY_NS);
            stream.schedules.set(subject, seq, due);
        }
    }

    /// Stores a message (subject, headers, payload) that the stream made itself.
    fn store_own<F: Fs>(
        &mut self,
        now: Now,
        id: StreamId,
        (subject, headers, payload): (&str, &[u8], &[u8]),
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) -> Result<StreamSeq, ApiError> {
        let stream = self.streams.get_mut(&id).ok_or(ApiError::STREAM_NOT_FOUND)?;
        let record = NewRecord {
            time: now.wall,
            subject,
            headers,
            payload,
        };
        let last_of_subject = last_of_subject(stream, subject, store);
        let seq = append(stream, &record, store, &self.consumers)?;
        let parsed = PublishHeaders::parse(headers);
        remember(stream, now, seq, &parsed, None);
        let stored = StoredMessage {
            seq,
            subject,
            headers,
            payload,
            rollup: if parsed.rollup == Some("sub") {
                Rollup::Subject
            } else {
                Rollup::None
            },
            last_of_subject,
        };
        self.stored(now, id, &stored, None, store, effects);
        Ok(seq)
    }

    /// Removes a message that has expired; leaves a delete marker if it was its subject's last and the stream wants that.
    pub(super) fn expire_message<F: Fs>(
        &mut self,
        now: Now,
        id: StreamId,
        seq: StreamSeq,
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) {
        let ttl = self
            .streams
            .get(&id)
            .map_or(0, |stream| stream.config.subject_delete_marker_ttl);
        if ttl > 0
            && let Some(record) = last_of_its_subject(id, seq, store)
            && self.leave_marker(now, id, &record, ttl, store, effects)
        {
            return;
        }
        self.remove_message(id, seq, store);
    }

    fn leave_marker<F: Fs>(
        &mut self,
        now: Now,
        id: StreamId,
        record: &Record,
        ttl_ns: i64,
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let mut block = Vec::new();
        for (name, value) in [
            (MARKER_REASON, "MaxAge"),
            (TTL, &go_duration(ttl_ns / 1_000_000_000 * 1_000_000_000)),
            (ROLLUP, "sub"),
        ] {
            block = headers::with_field(&block, name, value);
        }
        match self.store_own(now, id, (&record.subject, &block, &[]), store, effects) {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(error = %error.description, "a delete marker was not stored");
                false
            }
        }
    }

    /// As [`Self::age_due`], message by message: some stay for ever, or leave delete markers.
    pub(super) fn age_each<F: Fs>(
        &mut self,
        now: Now,
        id: StreamId,
        max_age: i64,
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) {
        let first_seq = self.first_for_sure(id, store);
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let account = stream.account;
        stream.expiries.forget_below(first_seq.0);
        self.enter(account, effects);
        let oldest_kept = now.wall.saturating_add(-max_age);
        let all = SubjectFilter::all();
        let end = store.state(id).last_seq;
        let mut from = StreamSeq(1);
        let mut next_time = None;
        while let Some(seq) = store.next_match(id, &all, from).filter(|seq| *seq <= end) {
            from = seq.next();
            let stays = |stream: &Stream| stream.expiries.stays(seq.0);
            if self.streams.get(&id).is_none_or(stays) {
                continue;
            }
            let record = match store.read(id, seq) {
                Ok(Some(record)) => record,
                Err(StoreError::Io { .. }) => {
                    // To be looked at again.
                    next_time.get_or_insert(now.wall.saturating_add(-max_age));
                    continue;
                }
                Ok(None) | Err(_) => continue,
            };
            if record.time > oldest_kept {
                next_time.get_or_insert(record.time);
                break;
            }
            self.expire_message(now, id, seq, store, effects);
        }
        if let Some(time) = next_time {
            let wait = time.saturating_add(max_age).since(now.wall);
            self.age_armed.insert(id);
            self.timers.insert((
                now.mono.after(wait.clamp(AGE_CHECK_NS_MIN, AGE_CHECK_NS_MAX)),
                Timer::Age(id),
            ));
        }
    }
}

fn last_of_its_subject<F: Fs>(id: StreamId, seq: StreamSeq, store: &Store<F>) -> Option<Record> {
    let record = store.read(id, seq).ok().flatten()?;
    let summary = store.subject(id, &record.subject)?;
    (summary.messages == 1 && summary.last == seq && !is_marker(&record.headers)).then_some(record)
}

/// Reads a record of a stream with schedules back, in the order of sequences: sets what it schedules, and what it says
/// about the schedule that made it. Returns the subject of one that it has ended.
pub(super) fn recover_schedule(stream: &mut Stream, record: &Record, now: Now) -> Option<String> {
    if !stream.config.allow_msg_schedules {
        return None;
    }
    let parsed = PublishHeaders::parse(&record.headers).schedule;
    if let Some(pattern) = parsed.pattern {
        // A time that has passed while nobody was there is not skipped: the schedule fires once, now.
        let fires = if pattern.starts_with("@at ") {
            schedule::fires(&parsed, record.time, now.wall)
        } else {
            schedule::fires(&parsed, record.time, record.time)
        };
        if let Ok(Some(fires)) = fires {
            stream.schedules.set(&record.subject, record.seq.0, fires.at);
        }
    }
    let of = |name| headers::field(&record.headers, name);
    let (scheduler, next) = (of(SCHEDULER)?, of(SCHEDULE_NEXT)?);
    match crate::api::time::parse(next) {
        Some(at) => {
            stream.schedules.defer(scheduler, at);
            None
        }
        None => {
            stream.schedules.remove(scheduler);
            Some(scheduler.to_owned())
        }
    }
}

/// Takes up a schedule that nothing replaces after all: what repeats fires next after `now`, anything else when it says.
fn resume_schedule(stream: &mut Stream, record: &Record, now: Now) {
    let parsed = PublishHeaders::parse(&record.headers).schedule;
    let after = if parsed.pattern.is_some_and(|pattern| pattern.starts_with("@at ")) {
        record.time
    } else {
        now.wall
    };
    if let Ok(Some(fires)) = schedule::fires(&parsed, after, now.wall) {
        stream.schedules.set(&record.subject, record.seq.0, fires.at);
    }
}

impl Engine {
    /// Removes the schedules that had ended before the last start, and whose removal a full disk or a crash prevented.
    pub(super) fn remove_ended_schedules<F: Fs>(&mut self, store: &mut Store<F>) {
        for (id, subject, by) in std::mem::take(&mut self.schedules_ended) {
            while let Some(summary) = store.subject(id, &subject).filter(|summary| summary.first < by) {
                if !self.remove_message(id, summary.first, store) {
                    break;
                }
            }
        }
    }

    /// Sets the timer of a stream's schedules after a start.
    pub(super) fn arm_recovered(&mut self, now: Now, stream: &Stream) {
        if let Some(next) = stream.schedules.next() {
            let wait = next.since(now.wall).clamp(0, SCHEDULE_CHECK_NS_MAX);
            self.timers
                .insert((now.mono.after(wait), Timer::Schedule(stream.id)));
        }
    }
}
