//! The store: streams of records on disk, with an index in memory.
//!
//! Invariants:
//! - what [`Store::commit`] confirmed is there after any crash, and nothing is confirmed after a failed write or sync;
//! - a record is returned exactly as it was appended, or not at all;
//! - a position is never given to two records that were both committed, and `last_seq` never goes back;
//! - all input and output goes through [`Fs`](crate::env::Fs).

mod error;
mod filter;
mod state;

use std::path::Path;

pub use error::StoreError;
pub use filter::SubjectFilter;
pub use state::{
    Backing, CommitReport, LostRange, NewRecord, Record, RecoveryReport, SeqRange, StoreHealth, StoreOptions,
    StreamMeta, StreamState, SubjectSummary,
};

use crate::env::Fs;
use crate::types::{StreamId, StreamSeq, UnixNanos};

/// All streams under one directory. Owned by one thread.
pub struct Store<F: Fs> {
    #[expect(dead_code, reason = "bodies follow")]
    fs: F,
}

#[expect(unused_variables, reason = "bodies follow")]
#[expect(clippy::todo, reason = "bodies follow")]
#[allow(clippy::needless_pass_by_value, clippy::missing_errors_doc, reason = "bodies follow")]
impl<F: Fs> Store<F> {
    /// Opens or creates the store in `dir` and recovers every stream in it.
    pub fn open(fs: F, dir: &Path, options: StoreOptions) -> Result<(Self, RecoveryReport), StoreError> {
        todo!()
    }
    /// All streams, in the order of their handles.
    pub fn streams(&self) -> impl Iterator<Item = (StreamId, &StreamMeta)> {
        std::iter::empty()
    }
    /// Creates a stream whose first record gets `first_seq` (0 counts as 1). Durable on return.
    pub fn create_stream(
        &mut self,
        name: &str,
        config: &[u8],
        backing: Backing,
        first_seq: StreamSeq,
        created: UnixNanos,
    ) -> Result<StreamId, StoreError> {
        todo!()
    }
    /// Replaces the config. Durable on return.
    pub fn update_stream(&mut self, id: StreamId, config: &[u8]) -> Result<(), StoreError> {
        todo!()
    }
    /// Deletes the stream with its records and consumers. Durable on return.
    pub fn delete_stream(&mut self, id: StreamId) -> Result<(), StoreError> {
        todo!()
    }
    /// Appends a record; durable after the next commit. An error leaves no trace.
    pub fn append(&mut self, id: StreamId, record: &NewRecord<'_>) -> Result<StreamSeq, StoreError> {
        todo!()
    }
    /// Removes one record; durable after the next commit. `false`: it was not there.
    pub fn remove(&mut self, id: StreamId, seq: StreamSeq) -> Result<bool, StoreError> {
        todo!()
    }
    /// Removes every record below `seq`, for limits: cheap, and a crash may bring some of them back. Returns how many.
    pub fn remove_below(&mut self, id: StreamId, seq: StreamSeq) -> Result<u64, StoreError> {
        todo!()
    }
    /// Removes every record below `up_to`; durable after the next commit. Returns how many.
    pub fn purge(&mut self, id: StreamId, up_to: StreamSeq) -> Result<u64, StoreError> {
        todo!()
    }
    /// Moves `last_seq` up to `seq` if it is lower; durable after the next commit.
    pub fn raise_last_seq(&mut self, id: StreamId, seq: StreamSeq) -> Result<(), StoreError> {
        todo!()
    }
    /// Creates a consumer, or replaces the config of one and keeps its state. Durable on return.
    pub fn put_consumer(&mut self, id: StreamId, name: &str, config: &[u8]) -> Result<(), StoreError> {
        todo!()
    }
    /// Replaces a consumer's state; durable after the next commit, never before the records of that commit.
    pub fn put_consumer_state(&mut self, id: StreamId, name: &str, state: &[u8]) -> Result<(), StoreError> {
        todo!()
    }
    /// Deletes a consumer. Durable on return.
    pub fn delete_consumer(&mut self, id: StreamId, name: &str) -> Result<(), StoreError> {
        todo!()
    }
    /// Name, config and state of each consumer, in the order of names. A new consumer's state is empty.
    pub fn consumers(&self, id: StreamId) -> impl Iterator<Item = (&str, &[u8], &[u8])> {
        std::iter::empty()
    }
    /// Makes everything pending durable: one write and one sync for each stream that has something.
    pub fn commit(&mut self) -> CommitReport {
        todo!()
    }
    /// Notes in the log, without a sync, that the last commit was completed, so that damage in it is told from a torn
    /// write. Call it after the acknowledgements have left; costs one small write for each stream committed since.
    pub fn settle(&mut self) {
        todo!()
    }
    /// Commits, notes the clean end, and releases the directory.
    pub fn close(self) -> CommitReport {
        todo!()
    }
    /// Nothing above is ever delivered or acknowledged.
    pub fn durable_seq(&self, id: StreamId) -> StreamSeq {
        todo!()
    }
    /// The record at `seq`. `None`: there is none. `Damaged`: there was, and it counts as lost from the next commit on.
    pub fn read(&self, id: StreamId, seq: StreamSeq) -> Result<Option<Record>, StoreError> {
        todo!()
    }
    /// The stream in figures; zeros if there is no such stream. Cheap.
    pub fn state(&self, id: StreamId) -> StreamState {
        todo!()
    }
    /// Positions between first and last that hold no record, in order. Cost: the length of the stream.
    pub fn deleted(&self, id: StreamId) -> Vec<SeqRange> {
        todo!()
    }
    /// Positions lost to damage, in order.
    pub fn lost(&self, id: StreamId) -> Vec<SeqRange> {
        todo!()
    }
    /// The first record at or after `from` that `filter` wants.
    pub fn next_match(&self, id: StreamId, filter: &SubjectFilter, from: StreamSeq) -> Option<StreamSeq> {
        todo!()
    }
    /// The last record that `filter` wants.
    pub fn last_match(&self, id: StreamId, filter: &SubjectFilter) -> Option<StreamSeq> {
        todo!()
    }
    /// The first record whose time is `time` or later.
    pub fn seq_at_or_after(&self, id: StreamId, time: UnixNanos) -> Option<StreamSeq> {
        todo!()
    }
    /// Records at or after `from` that `filter` wants.
    pub fn count_matching(&self, id: StreamId, filter: &SubjectFilter, from: StreamSeq) -> u64 {
        todo!()
    }
    /// The subjects that `filter` wants and that have a record, sorted.
    pub fn subjects(&self, id: StreamId, filter: &SubjectFilter) -> Vec<SubjectSummary> {
        todo!()
    }
    /// One subject. `None`: it has no record. Cheap.
    pub fn subject(&self, id: StreamId, subject: &str) -> Option<SubjectSummary> {
        todo!()
    }
    /// Whether the store can be trusted with more.
    pub fn health(&self) -> StoreHealth {
        todo!()
    }
}
