//! Messages that leave streams: limits, age, roll-ups, and those that nobody needs any more.

use super::effect::Effect;
use super::time::Now;
use super::{AGE_CHECK_NS_MAX, AGE_CHECK_NS_MIN, Engine, Timer};
use crate::env::Fs;
use crate::store::{CommitReport, Store, StoreError, SubjectFilter};
use crate::stream::config::Retention;
use crate::stream::{Rollup, Stream};
use crate::subject;
use crate::types::{StreamId, StreamSeq};

/// Messages read at the start of a stream to see which count, before older ones go. A crash brings few back.
const RECOVERED_READS_MAX: u64 = 10_000;

/// Reads the messages of a subject, so that those that are damaged count no more: they must not push out others. `false`:
/// there are more than may still be read, or one cannot be read for now.
fn is_readable<F: Fs>(id: StreamId, subject: &str, reads: &mut u64, store: &mut Store<F>) -> bool {
    let Some(summary) = store.subject(id, subject) else {
        return false;
    };
    let Some(left) = reads.checked_sub(summary.messages) else {
        return false;
    };
    *reads = left;
    let filter = SubjectFilter::new(&[subject]);
    let mut is_known = true;
    let mut next = Some(summary.first);
    while let Some(seq) = next {
        let read = store.read_patiently(id, seq);
        is_known &= matches!(read, Ok(_) | Err(StoreError::Damaged { .. }));
        next = store.next_match(id, &filter, seq.next());
    }
    store.take_out_damaged();
    is_known
}

impl Engine {
    /// Removes the oldest messages that are beyond the stream's limits; `new` is the message just stored, and its
    /// subject, `None` all.
    pub(super) fn enforce_limits<F: Fs>(
        &mut self,
        id: StreamId,
        new: Option<(StreamSeq, &str)>,
        store: &mut Store<F>,
    ) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let config = stream.config.clone();
        if let Ok(max) = u64::try_from(config.max_msgs_per_subject) {
            match new {
                Some((by, subject)) => self.enforce_subject(id, subject, max, Some(by), store),
                None => {
                    for subject in store.subjects_above(id, max) {
                        self.enforce_subject(id, &subject, max, None, store);
                    }
                }
            }
        }
        self.enforce_stream(id, new.map(|(by, _)| by), store);
    }

    /// Removes again what a crash brought back beyond the stream's limits. The limit of a subject comes first: a message
    /// that a newer one had replaced must not push out the only one of another subject.
    pub(super) fn enforce_recovered<F: Fs>(&mut self, id: StreamId, store: &mut Store<F>) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        if let Ok(max) = u64::try_from(stream.config.max_msgs_per_subject) {
            let mut reads = RECOVERED_READS_MAX;
            for subject in store.subjects_above(id, max) {
                if is_readable(id, &subject, &mut reads, store) {
                    self.enforce_subject(id, &subject, max, None, store);
                }
            }
        }
        self.enforce_stream(id, None, store);
    }

    /// Removes the oldest messages that are beyond the limits of the stream as a whole, in favour of `by`.
    fn enforce_stream<F: Fs>(&mut self, id: StreamId, by: Option<StreamSeq>, store: &mut Store<F>) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let config = &stream.config;
        let messages_max = u64::try_from(config.max_msgs).unwrap_or(u64::MAX);
        let bytes_max = u64::try_from(config.max_bytes).unwrap_or(u64::MAX);
        loop {
            let state = store.state(id);
            let is_within = state.messages <= messages_max && state.bytes <= bytes_max;
            if is_within || state.messages == 0 {
                break;
            }
            let removed = match by {
                Some(by) => {
                    self.note_front(id, state.first_seq);
                    store.displace_first(id, by)
                }
                None => {
                    let kept = store.first_within(id, messages_max, bytes_max);
                    store.remove_below(id, kept).map(|count| count > 0)
                }
            };
            match removed {
                Ok(true) => {}
                Ok(false) => break,
                Err(err) => {
                    self.removal_failed(id, &err);
                    break;
                }
            }
        }
    }

    fn enforce_subject<F: Fs>(
        &mut self,
        id: StreamId,
        subject: &str,
        max: u64,
        by: Option<StreamSeq>,
        store: &mut Store<F>,
    ) {
        while let Some(summary) = store.subject(id, subject) {
            if summary.messages <= max {
                break;
            }
            let was_there = match by {
                Some(by) => self.displace_message(id, summary.first, by, store),
                None => self.remove_message(id, summary.first, store),
            };
            if !was_there {
                break;
            }
        }
    }

    pub(super) fn roll_up<F: Fs>(
        &mut self,
        id: StreamId,
        seq: StreamSeq,
        subject: &str,
        rollup: Rollup,
        store: &mut Store<F>,
    ) {
        if rollup == Rollup::All {
            self.note_front(id, store.state(id).first_seq);
            if let Err(err) = store.displace_all(id, seq) {
                self.removal_failed(id, &err);
            }
            return;
        }
        if let Err(err) = store.settle_front(id) {
            self.removal_failed(id, &err);
            return;
        }
        if !subject::is_literal(subject) {
            // It covers all subjects that its wildcards match.
            let filter = SubjectFilter::new(&[subject]);
            while let Some(first) = store.next_match(id, &filter, StreamSeq(1)) {
                if first >= seq || !self.displace_message(id, first, seq, store) {
                    break;
                }
            }
            return;
        }
        while let Some(summary) = store.subject(id, subject) {
            if summary.first >= seq || !self.displace_message(id, summary.first, seq, store) {
                break;
            }
        }
    }

    /// Removes one message and lets the consumers know. Returns whether it was there.
    pub(super) fn remove_message<F: Fs>(
        &mut self,
        id: StreamId,
        seq: StreamSeq,
        store: &mut Store<F>,
    ) -> bool {
        match store.remove(id, seq) {
            Ok(was_there) => {
                self.message_removed(id, seq);
                was_there
            }
            Err(err) => {
                self.removal_failed(id, &err);
                false
            }
        }
    }

    /// Removes one message in favour of `by`, just stored: it is back if `by` finds no room on the disk, so the consumers
    /// hear of it after the commit. Returns whether it was there.
    pub(super) fn displace_message<F: Fs>(
        &mut self,
        id: StreamId,
        seq: StreamSeq,
        by: StreamSeq,
        store: &mut Store<F>,
    ) -> bool {
        self.note_front(id, store.state(id).first_seq);
        match store.displace(id, seq, by) {
            Ok(true) => {
                self.changes += 1;
                self.uncount_consumers(id, seq);
                self.displaced.push((id, seq, by));
                true
            }
            Ok(false) => false,
            Err(err) => {
                self.removal_failed(id, &err);
                false
            }
        }
    }

    /// Records go in favour of one that is not durable yet; the stream began at `first_seq` before.
    fn note_front(&mut self, id: StreamId, first_seq: StreamSeq) {
        self.fronts.entry(id).or_insert(first_seq);
    }

    /// Everything below `up_to` has left a stream, whatever becomes of records that are not durable.
    pub(super) fn move_front(&mut self, id: StreamId, up_to: StreamSeq) {
        if let Some(front) = self.fronts.get_mut(&id) {
            *front = up_to.max(*front);
        }
    }

    /// Where a stream begins, also if records that are not durable yet are refused.
    pub(super) fn first_for_sure<F: Fs>(&self, id: StreamId, store: &Store<F>) -> StreamSeq {
        let first = store.state(id).first_seq;
        self.fronts.get(&id).map_or(first, |front| first.min(*front))
    }

    fn uncount_consumers(&mut self, id: StreamId, seq: StreamSeq) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        for consumer in stream.consumers.values() {
            if let Some(observer) = self.consumers.get_mut(consumer)
                && seq.0 >= observer.consumer.next_stream_seq()
            {
                observer.uncount();
            }
        }
    }

    /// After a commit: lets the consumers know of the messages that are gone for newer ones, and takes up again what
    /// those had ended that are not durable after all.
    pub(super) fn settle_displaced<F: Fs>(&mut self, report: &CommitReport, store: &Store<F>) {
        self.fronts.clear();
        for (id, seq, by) in std::mem::take(&mut self.displaced) {
            let has_failed = report.failed.iter().any(|(failed, _)| *failed == id);
            if has_failed && by > store.durable_seq(id) {
                let has_schedules = |stream: &Stream| stream.config.allow_msg_schedules;
                if self.streams.get(&id).is_some_and(has_schedules) {
                    self.schedules_back.push((id, seq));
                }
            } else {
                self.message_removed(id, seq);
            }
        }
    }

    /// Lets the consumers of a stream know that a message is gone.
    pub(super) fn message_removed(&mut self, id: StreamId, seq: StreamSeq) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        self.changes += 1;
        if stream.expiries.has_staying()
            && let Some(stream) = self.streams.get_mut(&id)
        {
            stream.expiries.forget(seq.0);
        }
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        for consumer in stream.consumers.values() {
            if let Some(observer) = self.consumers.get_mut(consumer) {
                observer.removed(seq.0);
            }
        }
    }

    fn removal_failed(&self, id: StreamId, err: &StoreError) {
        if let Some(stream) = self.streams.get(&id) {
            tracing::warn!(stream = %stream.name, error = %err, "messages were not removed");
        }
    }

    /// Removes what is older than the stream's `max_age`, and sets the timer for the next.
    pub(super) fn age_due<F: Fs>(
        &mut self,
        now: Now,
        id: StreamId,
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) {
        self.age_armed.remove(&id);
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let max_age = stream.config.max_age;
        if max_age <= 0 {
            return;
        }
        if stream.expiries.has_staying() || stream.config.subject_delete_marker_ttl > 0 {
            return self.age_each(now, id, max_age, store, effects);
        }
        let oldest_kept = now.wall.saturating_add(-max_age);
        let state = store.state(id);
        if state.messages > 0 && state.first_time <= oldest_kept {
            let just_after = oldest_kept.saturating_add(1);
            let first_kept = store
                .seq_at_or_after(id, just_after)
                .unwrap_or(state.last_seq.next());
            self.changes += 1;
            if let Err(err) = store.remove_below(id, first_kept) {
                self.removal_failed(id, &err);
            }
        }
        let state = store.state(id);
        if state.messages > 0 {
            let wait = state.first_time.saturating_add(max_age).since(now.wall);
            self.age_armed.insert(id);
            self.timers.insert((
                now.mono.after(wait.clamp(AGE_CHECK_NS_MIN, AGE_CHECK_NS_MAX)),
                Timer::Age(id),
            ));
        }
    }

    /// Removes the messages whose own time to live has ended, and sets the timer for the next.
    pub(super) fn expiry_due<F: Fs>(
        &mut self,
        now: Now,
        id: StreamId,
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(stream) = self.streams.get(&id) {
            self.enter(stream.account, effects);
        }
        while let Some(seq) = self
            .streams
            .get_mut(&id)
            .and_then(|stream| stream.expiries.pop_due(now.mono))
        {
            self.expire_message(now, id, StreamSeq(seq), store, effects);
        }
        if let Some(next) = self.streams.get(&id).and_then(|stream| stream.expiries.next()) {
            self.timers.insert((next, Timer::Expiry(id)));
        }
    }

    /// Takes messages that a consumer is done with out of a stream that keeps no more than needed.
    pub(super) fn retire<F: Fs>(&mut self, id: StreamId, done: &[u64], store: &mut Store<F>) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let retention = stream.config.retention;
        if retention == Retention::Limits {
            return;
        }
        for seq in done.iter().copied() {
            if retention == Retention::WorkQueue || !self.is_needed(id, seq, store) {
                self.remove_message(id, StreamSeq(seq), store);
            }
        }
    }

    /// Whether a consumer of the stream has still to deliver a message or waits for its
    /// acknowledgement.
    pub(super) fn is_needed<F: Fs>(&self, id: StreamId, seq: u64, store: &Store<F>) -> bool {
        let Some(stream) = self.streams.get(&id) else {
            return false;
        };
        let is_needed = store.with_subject(id, StreamSeq(seq), |subject| {
            let needs = |consumer| {
                self.consumers
                    .get(consumer)
                    .is_some_and(|observer| observer.needs(seq, subject))
            };
            stream.consumers.values().any(needs) || self.is_to_be_copied(id, seq, subject)
        });
        // What cannot be told from the index may be needed.
        is_needed.unwrap_or(true)
    }

    /// Interest retention: removes everything that no consumer needs, after one has gone.
    pub(super) fn retire_all<F: Fs>(&mut self, id: StreamId, store: &mut Store<F>) {
        let is_interest = self
            .streams
            .get(&id)
            .is_some_and(|stream| stream.config.retention == Retention::Interest);
        if !is_interest {
            return;
        }
        let all = SubjectFilter::all();
        let mut next = store.next_match(id, &all, StreamSeq(1));
        while let Some(seq) = next {
            if !self.is_needed(id, seq.0, store) {
                self.remove_message(id, seq, store);
            }
            next = store.next_match(id, &all, seq.next());
        }
    }
}
