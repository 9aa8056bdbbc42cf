//! The store: streams of records on disk, with the index of what is complete on disk as well.
//!
//! Invariants:
//! - what [`Store::commit`] confirmed is there after any crash, and nothing is confirmed after a failed write or sync;
//! - a record is returned exactly as it was appended, or not at all;
//! - a position is never given to two records that were both committed, and `last_seq` never goes back;
//! - all input and output goes through [`Fs`].
//!
//! The layout of the files is in `FORMAT.md`.

mod again;
mod cache;
mod census;
mod commit;
mod commits;
mod compact;
mod consumers;
mod error;
mod filter;
mod format;
mod handles;
mod index;
mod keeper;
mod late;
mod marks;
mod meta;
mod names;
mod notes;
mod open;
mod pack;
mod prepare;
mod quarantine;
mod query;
mod ranges;
mod read;
mod record;
mod recover;
mod scan;
mod scrub;
mod seal;
mod sealed;
mod segment;
mod state;
mod stream;
mod subjects;
mod table;
mod tail;
mod tend;
#[cfg(test)]
mod tests;
mod undo;
mod verify;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

pub use error::StoreError;
pub use filter::SubjectFilter;
pub use state::{
    Backing, CommitReport, LostRange, NewRecord, Notes, Record, RecoveryReport, SeqRange, StoreFigures,
    StoreHealth, StoreOptions, StreamMeta, StreamState, SubjectSummary,
};

pub use verify::{Finding, Severity, StoreVerdict, StreamVerdict, VerifyProgress, verify};

use self::compact::Compaction;
use self::stream::{Shared, Stream};
use self::tend::Tending;
use crate::env::Fs;
use crate::types::{StreamId, StreamSeq, UnixNanos};

/// How often [`Store::read_patiently`] asks the disk.
const READ_TRIES: usize = 3;

/// All streams under one directory. Owned by one thread.
pub struct Store<F: Fs> {
    dir: PathBuf,
    shared: Shared<F>,
    streams: BTreeMap<StreamId, Stream<F>>,
    /// Streams with states of consumers that [`Store::commit_states`] has to make durable.
    states_due: Vec<StreamId>,
    next_id: u32,
    /// Streams that may have something to commit.
    queue: Vec<StreamId>,
    /// Whether something changed since [`Store::take_health_changed`] asked.
    health_changed: bool,
    /// Streams with records found damaged since the last commit.
    damaged: RefCell<BTreeSet<StreamId>>,
    /// Streams committed since they were last settled.
    unsettled: Vec<StreamId>,
    /// Streams that count subjects of segments that are gone.
    owing: Vec<StreamId>,
    tending: Tending<F>,
    compaction: Compaction<F>,
    /// Rounds of work that waited for segments to be sealed.
    held_back: u64,
    _lock: F::Lock,
}

impl<F: Fs> Store<F> {
    /// The stream, noted as one that may have something to commit.
    fn change(&mut self, id: StreamId) -> Result<(&mut Stream<F>, &mut Shared<F>), StoreError> {
        let stream = self.streams.get_mut(&id).ok_or(StoreError::NoSuchStream)?;
        if !stream.queued {
            stream.queued = true;
            self.queue.push(id);
        }
        Ok((stream, &mut self.shared))
    }

    /// All streams, in the order of their handles.
    pub fn streams(&self) -> impl Iterator<Item = (StreamId, &StreamMeta)> {
        self.streams.iter().map(|(id, stream)| (*id, &stream.meta))
    }

    /// Appends a record; durable after the next commit. An error leaves no trace.
    ///
    /// # Errors
    /// `NoSpace`, `ReadOnly`, `TooLarge`, `NoSuchStream`, or `Io`, after which the stream is read-only.
    pub fn append(&mut self, id: StreamId, record: &NewRecord<'_>) -> Result<StreamSeq, StoreError> {
        let (stream, shared) = self.change(id)?;
        let appended = stream.append(shared, record);
        if appended.as_ref().is_err_and(StoreError::is_no_space) {
            self.health_changed = true;
        }
        appended
    }

    /// Whether an append found the disk full, or damage was found, since this was asked last: a reason to look at
    /// [`Store::health`].
    pub fn take_health_changed(&mut self) -> bool {
        std::mem::take(&mut self.health_changed)
    }

    /// Takes the records that were found damaged out of their streams, and counts them.
    pub(super) fn take_out_damaged(&mut self) {
        for id in self.damaged.take() {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.take_out_damaged();
                self.health_changed = true;
            }
        }
    }

    /// Sees to it that records of these sizes (subject, headers and payload together) fit in the stream's current segment, so
    /// that they become durable in one write if they are appended now.
    ///
    /// # Errors
    /// As for [`Store::append`].
    pub fn reserve(&mut self, id: StreamId, sizes: impl Iterator<Item = usize>) -> Result<(), StoreError> {
        let (stream, shared) = self.change(id)?;
        stream.reserve(shared, sizes)
    }

    /// Removes one record; durable after the next commit. `false`: it was not there.
    ///
    /// # Errors
    /// `ReadOnly`, `NoSuchStream`.
    pub fn remove(&mut self, id: StreamId, seq: StreamSeq) -> Result<bool, StoreError> {
        self.change(id)?.0.remove(seq.0)
    }

    /// Removes every record below `seq`, for limits: cheap, and a crash may bring some of them back. Returns how many.
    ///
    /// # Errors
    /// `ReadOnly`, `NoSuchStream`.
    pub fn remove_below(&mut self, id: StreamId, seq: StreamSeq) -> Result<u64, StoreError> {
        let removed = self.change(id)?.0.remove_below(seq.0);
        self.note_owing(id);
        removed
    }

    /// The first record to be kept if the oldest go until at most so many messages, with so many bytes, are left.
    pub fn first_within(&self, id: StreamId, messages_max: u64, bytes_max: u64) -> StreamSeq {
        let stream = self.streams.get(&id);
        StreamSeq(stream.map_or(0, |stream| stream.index.first_within(messages_max, bytes_max)))
    }

    /// Lets what limits have removed stay away from the next commit on, whatever happens then. To be called when a subject is
    /// rolled up or purged: otherwise a crash could bring back an older record of it.
    ///
    /// # Errors
    /// `ReadOnly`, `NoSuchStream`.
    pub fn settle_front(&mut self, id: StreamId) -> Result<(), StoreError> {
        self.change(id)?.0.settle_front();
        Ok(())
    }

    /// Removes every record below `up_to`; durable after the next commit. Returns how many.
    ///
    /// # Errors
    /// `ReadOnly`, `NoSuchStream`.
    pub fn purge(&mut self, id: StreamId, up_to: StreamSeq) -> Result<u64, StoreError> {
        self.change(id)?.0.purge(up_to.0)
    }

    /// Removes one record in favour of `by`, a record appended since the last commit: durable as [`Store::remove`] says,
    /// but if the commit that holds `by` finds no room for it, the removed record is back. `false`: it was not there.
    ///
    /// # Errors
    /// `ReadOnly`, `NoSuchStream`.
    pub fn displace(&mut self, id: StreamId, seq: StreamSeq, by: StreamSeq) -> Result<bool, StoreError> {
        self.change(id)?.0.displace(seq.0, by.0)
    }

    /// Removes the first record in favour of `by`, for limits: as [`Store::displace`], but a crash may bring it back.
    /// `false`: there is none.
    ///
    /// # Errors
    /// `ReadOnly`, `NoSuchStream`.
    pub fn displace_first(&mut self, id: StreamId, by: StreamSeq) -> Result<bool, StoreError> {
        let displaced = self.change(id)?.0.displace_first(by.0);
        self.note_owing(id);
        displaced
    }

    /// Removes every record below `by` in favour of `by`, as [`Store::displace`]. Returns how many.
    ///
    /// # Errors
    /// `ReadOnly`, `NoSuchStream`.
    pub fn displace_all(&mut self, id: StreamId, by: StreamSeq) -> Result<u64, StoreError> {
        self.change(id)?.0.displace_all(by.0)
    }

    /// Moves `last_seq` up to `seq` if it is lower; durable after the next commit.
    ///
    /// # Errors
    /// As for [`Store::append`].
    pub fn raise_last_seq(&mut self, id: StreamId, seq: StreamSeq) -> Result<(), StoreError> {
        let (stream, shared) = self.change(id)?;
        stream.raise_last_seq(shared, seq.0)
    }

    /// Creates a consumer, or replaces the config of one and keeps its state. Durable on return.
    ///
    /// # Errors
    /// `NoSpace`, `ReadOnly`, `NoSuchStream`, `BadName`, or `Io`, after which the stream is read-only.
    pub fn put_consumer(&mut self, id: StreamId, name: &str, config: &[u8]) -> Result<(), StoreError> {
        self.create_consumer(id, name, config, &[])
    }

    /// The same; a new consumer has `state` from its first byte on disk. It may be about records that are not durable yet,
    /// and that a crash takes.
    ///
    /// # Errors
    /// As for [`Store::put_consumer`].
    pub fn create_consumer(
        &mut self,
        id: StreamId,
        name: &str,
        config: &[u8],
        state: &[u8],
    ) -> Result<(), StoreError> {
        let (stream, shared) = self.change(id)?;
        stream.put_consumer(shared, name, config, state)
    }

    /// Replaces a consumer's state; durable after the next commit, never before the records of that commit.
    ///
    /// # Errors
    /// `ReadOnly`, `NoSuchStream`, `NoSuchConsumer`.
    pub fn put_consumer_state(&mut self, id: StreamId, name: &str, state: &[u8]) -> Result<(), StoreError> {
        self.change(id)?.0.put_consumer_state(name, state)
    }

    /// Deletes a consumer. Durable on return.
    ///
    /// # Errors
    /// `ReadOnly`, `NoSuchStream`, `NoSuchConsumer`, or `Io`, after which the stream is read-only.
    pub fn delete_consumer(&mut self, id: StreamId, name: &str) -> Result<(), StoreError> {
        self.change(id)?.0.delete_consumer(name)
    }

    /// Name, config and state of each consumer, in the order of names. A new consumer's state is empty.
    pub fn consumers(&self, id: StreamId) -> impl Iterator<Item = (&str, &[u8], &[u8])> {
        let consumers = self
            .streams
            .get(&id)
            .into_iter()
            .flat_map(|stream| stream.consumers.values());
        consumers.map(|one| (one.body.name.as_str(), &one.body.config[..], one.state()))
    }

    /// Nothing above is ever delivered or acknowledged; all up to it is durable, but in streams that
    /// [`Store::set_late`] was called for. 0 if there is no such stream.
    pub fn durable_seq(&self, id: StreamId) -> StreamSeq {
        self.streams
            .get(&id)
            .map_or(StreamSeq::NONE, |stream| StreamSeq(stream.durable))
    }

    /// Whether all that was given to the stream before the commit of `report` is durable. It is not if that commit
    /// failed, nor if the stream was read-only before: then it took nothing, and the commit has nothing to report.
    pub fn is_settled(&self, report: &CommitReport, id: StreamId) -> bool {
        let has_failed = report.failed.iter().any(|(failed, _)| *failed == id);
        !has_failed && self.streams.get(&id).is_none_or(|stream| stream.failed.is_none())
    }

    /// Why nothing is written to the stream any more. `None`: it takes writes, or there is no such stream.
    pub fn failure(&self, id: StreamId) -> Option<StoreError> {
        self.streams.get(&id)?.check_writable().err()
    }

    /// The record at `seq`. `None`: there is none.
    ///
    /// # Errors
    /// `Damaged`: there was one, and it counts as lost from the next commit on. `NoSuchStream`. `Io`.
    pub fn read(&self, id: StreamId, seq: StreamSeq) -> Result<Option<Record>, StoreError> {
        let stream = self.streams.get(&id).ok_or(StoreError::NoSuchStream)?;
        let read = stream.read(&self.shared, seq.0);
        if matches!(read, Err(StoreError::Damaged { .. })) {
            self.damaged.borrow_mut().insert(id);
        }
        read
    }

    /// Shows the subject of the record at `seq`, without reading the record. `None`: there is none, or its index cannot be
    /// read, which makes the stream read-only with the next commit.
    pub fn with_subject<T>(&self, id: StreamId, seq: StreamSeq, show: impl FnOnce(&str) -> T) -> Option<T> {
        self.streams.get(&id)?.index.with_subject(seq.0, show)
    }

    /// [`Store::read`] once more if the disk refuses, for what cannot wait: a start.
    ///
    /// # Errors
    /// As for [`Store::read`].
    pub fn read_patiently(&self, id: StreamId, seq: StreamSeq) -> Result<Option<Record>, StoreError> {
        for _ in 1..READ_TRIES {
            match self.read(id, seq) {
                Err(StoreError::Io { .. }) => {}
                read => return read,
            }
        }
        self.read(id, seq)
    }

    /// Lets a record that the disk does not give count as lost from the next commit on, until the store is opened
    /// again.
    pub fn give_up(&self, id: StreamId, seq: StreamSeq) {
        if let Some(stream) = self.streams.get(&id) {
            stream.give_up(seq.0);
            self.damaged.borrow_mut().insert(id);
        }
    }

    /// The stream in figures; zeros if there is no such stream. Cheap.
    pub fn state(&self, id: StreamId) -> StreamState {
        self.streams.get(&id).map(Stream::state).unwrap_or_default()
    }

    /// Positions between first and last that hold no record, in order. Cost: the length of the stream.
    pub fn deleted(&self, id: StreamId) -> Vec<SeqRange> {
        self.streams
            .get(&id)
            .map(|stream| stream.query().deleted().to_vec())
            .unwrap_or_default()
    }

    /// Positions lost to damage, in order.
    pub fn lost(&self, id: StreamId) -> Vec<SeqRange> {
        self.streams
            .get(&id)
            .map(|stream| stream.lost.to_vec())
            .unwrap_or_default()
    }

    /// The first record at or after `from` that `filter` wants.
    pub fn next_match(&self, id: StreamId, filter: &SubjectFilter, from: StreamSeq) -> Option<StreamSeq> {
        self.streams
            .get(&id)?
            .query()
            .next_match(filter, from.0)
            .map(StreamSeq)
    }

    /// The last record that `filter` wants.
    pub fn last_match(&self, id: StreamId, filter: &SubjectFilter) -> Option<StreamSeq> {
        self.streams.get(&id)?.query().last_match(filter).map(StreamSeq)
    }

    /// The first record whose time is `time` or later.
    pub fn seq_at_or_after(&self, id: StreamId, time: UnixNanos) -> Option<StreamSeq> {
        self.streams.get(&id)?.query().at_or_after(time.0).map(StreamSeq)
    }

    /// Records at or after `from` that `filter` wants.
    pub fn count_matching(&self, id: StreamId, filter: &SubjectFilter, from: StreamSeq) -> u64 {
        self.streams
            .get(&id)
            .map_or(0, |stream| stream.query().count(filter, from.0))
    }

    /// The subjects that `filter` wants and that have a record, sorted.
    pub fn subjects(&self, id: StreamId, filter: &SubjectFilter) -> Vec<SubjectSummary> {
        self.streams
            .get(&id)
            .map(|stream| stream.query().subjects(filter))
            .unwrap_or_default()
    }

    /// One subject. `None`: it has no record. Cheap.
    pub fn subject(&self, id: StreamId, subject: &str) -> Option<SubjectSummary> {
        self.streams.get(&id)?.query().subject(subject)
    }

    /// The subjects with more than `max` records, sorted. Cost: a look at each subject in memory, and nothing is read.
    pub fn subjects_above(&self, id: StreamId, max: u64) -> Vec<String> {
        self.streams
            .get(&id)
            .map(|stream| stream.query().subjects_above(max))
            .unwrap_or_default()
    }

    /// Number of subjects that have a record.
    pub fn num_subjects(&self, id: StreamId) -> u64 {
        self.streams
            .get(&id)
            .map_or(0, |stream| stream.index.subjects_alive())
    }

    /// Whether the store can be trusted with more.
    pub fn health(&self) -> StoreHealth {
        let mut health = StoreHealth::default();
        let options = &self.shared.options;
        let needed = options.reserve_bytes + u64::from(options.segment_bytes_min);
        let is_full = self
            .shared
            .fs
            .free_bytes(&self.dir)
            .is_ok_and(|free| free < needed);
        for stream in self.streams.values() {
            if let Some(reason) = &stream.failed {
                health.read_only.push((stream.meta.name.clone(), reason.clone()));
            }
            if stream.no_space && is_full {
                health.no_space.push(stream.meta.name.clone());
            }
            health.lost += stream.lost.count();
        }
        health
    }
}
