//! What goes into the store and what it says about itself.

use std::sync::Arc;

use bytes::Bytes;

use super::StoreError;
use crate::types::{StreamId, StreamSeq, UnixNanos};

/// Sizes and behaviour of a store.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// First segment of a stream, in bytes. Each next one is four times larger, up to `segment_bytes_max`.
    pub segment_bytes_min: u32,
    /// Largest segment, in bytes. Bounds the largest record.
    pub segment_bytes_max: u32,
    /// Free bytes on the disk that records leave for removals and consumer states.
    pub reserve_bytes: u64,
    /// Entropy for the salts of segments: different in each run.
    pub salt_seed: u64,
    /// Bytes of sealed segments read for damage in a second; 0: none are.
    pub scrub_bytes_per_second: u64,
    /// Nanoseconds from the end of one pass over all of them to the beginning of the next.
    pub scrub_interval_ns: u64,
    /// Bytes of sparse segments read in a second to copy what is left of them; 0: none are compacted.
    pub compact_bytes_per_second: u64,
    /// Bytes kept of each stream's segments that were set aside because neither of their headers can be read.
    pub damaged_bytes_max: u64,
    /// Memory for what was read lately of the indexes of sealed segments, in bytes.
    pub index_cache_bytes: usize,
    /// Records in full segments that are not sealed yet, so that memory has their index, 20 to 50 bytes each: beyond this
    /// many what is written waits, from half of it on a little each time.
    pub unsealed_records_max: u64,
    /// Subjects in the lists of sealed segments, all lists together, from which on they are added up in a file of their
    /// own, so that a start need not go through each list.
    pub census_subjects_min: u64,
    /// What to note of records, for [`Store::for_notes`](super::Store::for_notes).
    pub notes: Notes,
}

/// What is kept about records beside them, so that it can be had without reading them.
#[derive(Clone, Copy, Debug)]
pub struct Notes {
    /// Notes of another version are made anew.
    pub version: u32,
    /// Appends the note about a record with these headers, if there is one. Returns whether it counts as long as the
    /// record does, or only while the record is young.
    pub make: fn(headers: &[u8], out: &mut Vec<u8>) -> Option<bool>,
}

impl Notes {
    /// No notes.
    #[must_use]
    pub fn none() -> Self {
        Self {
            version: 0,
            make: |_, _| None,
        }
    }
}

impl StoreOptions {
    /// Segments from 256 KiB to 64 MiB, 8 MiB in reserve, read for damage once a day at 4 MiB a
    /// second, compacted at 16 MiB a second; 256 MiB of unreadable ones are kept of each stream. `salt_seed` is entropy, different in each run.
    #[must_use]
    pub fn new(salt_seed: u64) -> Self {
        Self {
            segment_bytes_min: 256 * 1024,
            segment_bytes_max: 64 * 1024 * 1024,
            reserve_bytes: 8 * 1024 * 1024,
            salt_seed,
            scrub_bytes_per_second: 4 * 1024 * 1024,
            scrub_interval_ns: 24 * 3600 * 1_000_000_000,
            compact_bytes_per_second: 16 * 1024 * 1024,
            damaged_bytes_max: 256 * 1024 * 1024,
            index_cache_bytes: 32 * 1024 * 1024,
            unsealed_records_max: 2 * 1024 * 1024,
            census_subjects_min: 200_000,
            notes: Notes::none(),
        }
    }
}

/// Where a stream is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// On disk, durable after commit.
    File,
    /// In memory, gone after a restart.
    Memory,
}

/// What a stream was created with.
#[derive(Clone, Debug)]
pub struct StreamMeta {
    /// Name as the creator gave it.
    pub name: Arc<str>,
    /// Opaque to the store.
    pub config: Arc<[u8]>,
    /// When it was created.
    pub created: UnixNanos,
    /// Where it is kept.
    pub backing: Backing,
}

/// A record to be stored.
#[derive(Clone, Copy, Debug)]
pub struct NewRecord<'a> {
    /// When it arrived.
    pub time: UnixNanos,
    /// Its subject, at most 65535 bytes.
    pub subject: &'a str,
    /// The header block as on the wire; empty if there is none.
    pub headers: &'a [u8],
    /// The payload.
    pub payload: &'a [u8],
}

/// A stored record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Position in the stream.
    pub seq: StreamSeq,
    /// When it arrived.
    pub time: UnixNanos,
    /// Its subject.
    pub subject: Arc<str>,
    /// The header block as on the wire; empty if there is none.
    pub headers: Bytes,
    /// The payload.
    pub payload: Bytes,
}

/// A closed range of positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SeqRange {
    /// First position.
    pub first: StreamSeq,
    /// Last position, included.
    pub last: StreamSeq,
}

impl SeqRange {
    /// Number of positions.
    #[must_use]
    pub fn count(&self) -> u64 {
        (self.last.0 + 1).saturating_sub(self.first.0)
    }
}

/// A stream in figures. Includes records that are appended but not committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamState {
    /// First record that is there; `last_seq + 1` if there is none.
    pub first_seq: StreamSeq,
    /// Highest position ever given. Never goes back.
    pub last_seq: StreamSeq,
    /// Time of the first record; 0 if there is none.
    pub first_time: UnixNanos,
    /// Time of the newest record ever stored; 0 if there was none.
    pub last_time: UnixNanos,
    /// Records that are there.
    pub messages: u64,
    /// Their size as nats-server counts it.
    pub bytes: u64,
    /// Positions between first and last that hold no record.
    pub num_deleted: u64,
    /// Positions whose record was lost to damage since the store was opened, or found so when opening it.
    pub lost: u64,
}

/// One subject of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectSummary {
    /// The subject.
    pub subject: Arc<str>,
    /// Its records.
    pub messages: u64,
    /// Position of the first.
    pub first: StreamSeq,
    /// Position of the last.
    pub last: StreamSeq,
}

/// What a commit brought. A stream in neither list had nothing to commit.
#[derive(Debug, Default)]
#[must_use]
pub struct CommitReport {
    /// Streams whose records, removals, purges and consumer states are now durable.
    pub committed: Vec<StreamId>,
    /// Streams that failed. Records above `durable_seq` of a stream that failed with `NoSpace` are rolled back: gone
    /// as if never appended, their positions free again, and what they pushed out is back. Its removals and purges in
    /// their own right and its consumer states stay pending and go out with a later commit. After any other error the
    /// stream is read-only until the store is reopened.
    pub failed: Vec<(StreamId, StoreError)>,
}

/// What opening the store found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Streams opened.
    pub streams: u64,
    /// Records found.
    pub records: u64,
    /// Bytes of unfinished writes that were cut from the ends of logs.
    pub torn_bytes: u64,
    /// Records lost to damage, by stream.
    pub lost: Vec<LostRange>,
    /// Metadata files of which one of two copies was unusable.
    pub metadata_repaired: u64,
    /// Indexes of segments that were missing or unusable, and made anew from the segment.
    pub indexes_rebuilt: u64,
    /// Segments that were set aside as unreadable and have gone because there were too many.
    pub set_aside_removed: u64,
}

/// Records lost to damage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostRange {
    /// The stream.
    pub stream: Arc<str>,
    /// Their positions.
    pub range: SeqRange,
}

/// What the background has done since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreFigures {
    /// Bytes of sealed segments read for damage.
    pub scrubbed_bytes: u64,
    /// Passes over all sealed segments.
    pub scrub_passes: u64,
    /// When the last one ended; 0 if none has.
    pub scrub_pass_ended: UnixNanos,
    /// Records found damaged by that.
    pub scrub_damaged: u64,
    /// Records that the disk did not give to that.
    pub scrub_unreadable: u64,
    /// Sparse segments, and small ones beside them, replaced by what was left of them.
    pub compacted_segments: u64,
    /// Bytes written for that.
    pub compacted_bytes: u64,
    /// Bytes of disk given back by that.
    pub compaction_freed_bytes: u64,
    /// Files with damaged bytes kept aside, as far as counted.
    pub quarantined_files: u64,
    /// Their bytes.
    pub quarantined_bytes: u64,
    /// Rounds of work that waited because segments filled faster than they were sealed.
    pub held_back: u64,
    /// Unreadable segments that were set aside, and removed when the store was opened because there were too many.
    pub set_aside_removed: u64,
}

/// Whether the store can be trusted with more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreHealth {
    /// Streams that refuse writes until reopened, with the reason.
    pub read_only: Vec<(Arc<str>, String)>,
    /// Streams whose last append or commit found the disk full.
    pub no_space: Vec<Arc<str>>,
    /// Records lost to damage, over all streams.
    pub lost: u64,
}

impl StoreHealth {
    /// Whether every stream accepts writes.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.read_only.is_empty() && self.no_space.is_empty()
    }
}
