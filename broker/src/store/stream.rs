//! One stream: its records, its log on disk, its consumers.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use super::StoreError;
use super::cache::ReadCache;
use super::census::Census;
use super::consumers::Consumer;
use super::format::{DATA_START, PACKED_VERSION, SegmentHeader, VERSION};
use super::index::{NewEntry, Overhead, StreamIndex};
use super::meta::{Pair, StreamBody};
use super::pack::Packer;
use super::prepare::Spares;
use super::quarantine::Quarantine;
use super::query::Query;
use super::ranges::Ranges;
use super::record::{self, FLAG_BATCH_START, FLAG_PACKED, HEADER_BYTES, Head, Kind, padded};
use super::seal::Sealer;
use super::segment::{self, Data, Segment};
use super::state::{Backing, NewRecord, StoreOptions, StreamMeta, StreamState};
use crate::env::sim::SplitMix;
use crate::env::{Fs, Rng};
use crate::types::{StreamId, StreamSeq, UnixNanos};

/// Room kept at the end of each segment for the mark that its last commit was completed: without it, damage to that
/// commit would be taken for a write that was never finished.
const SETTLE_BYTES: u64 = HEADER_BYTES as u64;

/// What all streams of a store use.
pub(super) struct Shared<F: Fs> {
    pub(super) fs: F,
    pub(super) options: StoreOptions,
    pub(super) spares: Spares<F>,
    pub(super) rng: SplitMix,
    pub(super) cache: RefCell<ReadCache>,
    pub(super) sealer: Sealer<F>,
    pub(super) packer: Packer,
}

/// A stream.
pub(super) struct Stream<F: Fs> {
    pub(super) id: StreamId,
    pub(super) meta: StreamMeta,
    pub(super) index: StreamIndex,
    /// The same segments as in the index.
    pub(super) segments: VecDeque<Segment<F>>,
    /// Segments at the front that are sealed.
    pub(super) sealed: usize,
    /// `None` for a stream in memory.
    pub(super) log: Option<Log<F>>,
    pub(super) consumers: BTreeMap<String, Consumer<F>>,
    /// The consumers whose state has changed since the last commit; some may be gone.
    pub(super) changed_consumers: Vec<String>,
    /// Whether all that these states may be about is durable.
    pub(super) states_due: bool,
    /// Highest position that is durable.
    pub(super) durable: u64,
    /// Time of the newest record ever stored up to there.
    pub(super) durable_time: i64,
    /// Highest position that is synced: `durable`, or less in a stream that is synced late.
    pub(super) synced: u64,
    /// Whether commits leave the sync to the background.
    pub(super) is_late: bool,
    /// Whether records are packed where that makes them smaller.
    pub(super) is_packed: bool,
    /// Whether the background is syncing.
    pub(super) is_syncing: bool,
    /// Positions whose record was lost to damage.
    pub(super) lost: Ranges,
    /// Records found damaged when read, to be taken out with the next commit.
    pub(super) damaged: RefCell<BTreeSet<u64>>,
    pub(super) quarantine: RefCell<Quarantine>,
    pub(super) census: Census,
    /// Why nothing is written any more.
    pub(super) failed: Option<String>,
    /// Whether the failure still has to be told with a commit, because something pending was given up with it.
    pub(super) unreported: bool,
    /// The disk was full; asked again only after the next commit.
    pub(super) refused: bool,
    /// The disk was full when room was last needed.
    pub(super) no_space: bool,
    /// What records that are not durable yet have pushed out.
    pub(super) undo: super::undo::Undo,
    /// Whether the store's list of streams to commit has it.
    pub(super) queued: bool,
}

/// The log of a stream on disk.
pub(super) struct Log<F: Fs> {
    pub(super) dir: PathBuf,
    pub(super) pair: Pair<F>,
    pub(super) incarnation: u64,
    pub(super) next_segment: u64,
    /// Where `buf` goes in the last segment. Everything before is durable, unless `unsynced`.
    pub(super) tail: u64,
    /// Frames not written yet.
    pub(super) buf: Vec<u8>,
    /// Frames not written yet of segments before the last.
    pub(super) full: Vec<Chunk>,
    /// Positions removed since the last commit.
    pub(super) to_remove: Ranges,
    /// Records below do not count after a restart, once the metadata says so.
    pub(super) floor: u64,
    pub(super) meta_dirty: bool,
    /// Segments without records, to be given up once the metadata says so.
    pub(super) dropped: Vec<Segment<F>>,
    /// Whether the end of the last commit is not marked yet.
    pub(super) unsettled: bool,
    /// Whether the last segment has frames before `tail` that are written, but not synced.
    pub(super) unsynced: bool,
    /// Whether a late sync of it has failed.
    pub(super) late_failed: Arc<std::sync::atomic::AtomicBool>,
    /// Removals to be logged once more, at a distance.
    pub(super) again: super::again::Again,
}

/// Frames that belong at `offset` of a segment.
pub(super) struct Chunk {
    pub(super) segment: u64,
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
    /// Highest position once they are durable.
    pub(super) last_seq: u64,
    /// Time of the newest record then.
    pub(super) last_time: i64,
}

impl<F: Fs> Log<F> {
    /// Flags of the next frame: the first one after a commit, or in a segment, says that all before it is durable.
    pub(super) fn flags(&self) -> u8 {
        if self.buf.is_empty() && !self.unsynced {
            FLAG_BATCH_START
        } else {
            0
        }
    }
}

/// How nats-server counts sizes, by backing.
pub(super) fn overhead(backing: Backing) -> Overhead {
    match backing {
        Backing::File => Overhead {
            record: 30,
            headers: 4,
        },
        Backing::Memory => Overhead {
            record: 16,
            headers: 0,
        },
    }
}

impl<F: Fs> Stream<F> {
    /// A stream without records.
    pub(super) fn new(id: StreamId, meta: StreamMeta, first: u64, log: Option<Log<F>>) -> Self {
        let index = StreamIndex::new(first, overhead(meta.backing));
        Self {
            id,
            durable: index.last,
            durable_time: index.last_time,
            synced: index.last,
            is_late: false,
            is_packed: false,
            is_syncing: false,
            index,
            meta,
            segments: VecDeque::new(),
            sealed: 0,
            log,
            consumers: BTreeMap::new(),
            changed_consumers: Vec::new(),
            states_due: false,
            lost: Ranges::default(),
            damaged: RefCell::default(),
            quarantine: RefCell::default(),
            census: Census::default(),
            failed: None,
            unreported: false,
            refused: false,
            no_space: false,
            undo: super::undo::Undo::default(),
            queued: false,
        }
    }

    /// An error if nothing may be written any more.
    pub(super) fn check_writable(&self) -> Result<(), StoreError> {
        match self.failed {
            Some(_) => Err(StoreError::ReadOnly {
                stream: Arc::clone(&self.meta.name),
            }),
            None => Ok(()),
        }
    }

    pub(super) fn query(&self) -> Query<'_> {
        Query {
            index: &self.index,
            stream: self.id,
        }
    }

    /// What the metadata file is to say.
    pub(super) fn body(&self, log: &Log<F>) -> StreamBody {
        StreamBody {
            deleted: false,
            incarnation: log.incarnation,
            created: self.meta.created.0,
            floor: self.undo.floor(log.floor).min(self.durable + 1),
            last_seq: self.durable,
            last_time: self.durable_time,
            name: self.meta.name.to_string(),
            config: self.meta.config.to_vec(),
        }
    }

    pub(super) fn append(
        &mut self,
        shared: &mut Shared<F>,
        record: &NewRecord<'_>,
    ) -> Result<StreamSeq, StoreError> {
        self.check_writable()?;
        let len = HEADER_BYTES as u64
            + record.subject.len() as u64
            + record.headers.len() as u64
            + record.payload.len() as u64;
        let max = u64::from(shared.options.segment_bytes_max) - DATA_START - SETTLE_BYTES;
        if len.next_multiple_of(8) > max || record.subject.len() > usize::from(u16::MAX) {
            return Err(StoreError::TooLarge { len, max });
        }
        let len = len as usize;
        let seq = self.index.last + 1;
        self.make_room(shared, padded(len), shared.options.reserve_bytes)?;
        let Some(segment) = self.segments.back_mut() else {
            return Err(StoreError::NoSuchStream);
        };
        let (buf, start, flags) = match (&mut self.log, &mut segment.data) {
            (Some(log), _) => {
                let flags = log.flags();
                (&mut log.buf, log.tail, flags)
            }
            (None, Data::Memory(bytes)) => (bytes, 0, 0),
            (None, Data::File { .. } | Data::Sealed(_)) => return Err(StoreError::NoSuchStream),
        };
        let offset = start + buf.len() as u64;
        let packed = if self.is_packed && segment.version >= PACKED_VERSION {
            shared.packer.pack(record.headers, record.payload)
        } else {
            None
        };
        let (flag, headers, payload) = match &packed {
            Some((lengths, block)) => (FLAG_PACKED, &lengths[..], *block),
            None => (0, record.headers, record.payload),
        };
        let head = Head {
            kind: Kind::Message,
            flags: flags | flag,
            seq,
            time: record.time.0,
        };
        let saved = record.headers.len() + record.payload.len() - headers.len() - payload.len();
        record::encode(
            buf,
            segment.seed,
            head,
            record.subject.as_bytes(),
            headers,
            payload,
        );
        self.index.push(&NewEntry {
            seq,
            time: record.time.0,
            subject: record.subject,
            has_headers: !record.headers.is_empty(),
            len: (len - saved) as u32,
            saved: saved as u32,
            offset,
        });
        Ok(StreamSeq(seq))
    }

    /// Sees to it that the last segment has room for records with these bytes of subject, headers and payload.
    pub(super) fn reserve(
        &mut self,
        shared: &mut Shared<F>,
        sizes: impl Iterator<Item = usize>,
    ) -> Result<(), StoreError> {
        self.check_writable()?;
        let need: usize = sizes.map(|size| padded(HEADER_BYTES + size)).sum();
        let max = u64::from(shared.options.segment_bytes_max) - DATA_START;
        if need as u64 > max {
            return Err(StoreError::TooLarge {
                len: need as u64,
                max,
            });
        }
        self.make_room(shared, need, shared.options.reserve_bytes)
    }

    /// Sees to it that the last segment has room for `need` more bytes, whose records are above all others.
    pub(super) fn make_room(
        &mut self,
        shared: &mut Shared<F>,
        need: usize,
        reserve: u64,
    ) -> Result<(), StoreError> {
        let base = self.index.last + 1;
        if let (Some(segment), Some(table)) = (self.segments.back(), self.index.segments.back()) {
            let used = match (&self.log, &segment.data) {
                (Some(log), _) => log.tail + log.buf.len() as u64,
                (None, Data::Memory(bytes)) => bytes.len() as u64,
                (None, Data::File { .. } | Data::Sealed(_)) => segment.end,
            };
            if used + need as u64 + SETTLE_BYTES <= segment.end && base - table.base <= u64::from(u32::MAX) {
                return Ok(());
            }
        }
        self.roll(shared, need, base, reserve)
    }

    /// Begins the next segment.
    fn roll(
        &mut self,
        shared: &mut Shared<F>,
        need: usize,
        base: u64,
        reserve: u64,
    ) -> Result<(), StoreError> {
        let (min, max) = (shared.options.segment_bytes_min, shared.options.segment_bytes_max);
        let least = need as u64 + SETTLE_BYTES + DATA_START;
        let before = self.segments.back().map_or(0, |segment| segment.end);
        let mut bytes = u64::from(min).max(before.saturating_mul(4).min(u64::from(max)));
        while bytes < least {
            bytes = bytes.saturating_mul(4);
        }
        let bytes = bytes.min(u64::from(max)) as u32;
        if self.log.is_none() {
            let data = Data::Memory(Vec::new());
            let id = self.segments.back().map_or(1, |segment| segment.id + 1);
            self.segments.push_back(Segment {
                id,
                version: VERSION,
                seed: 0,
                end: u64::from(bytes),
                data,
                is_handed_over: false,
                through: 0,
                tried_at: u64::MAX,
            });
            self.index.pack_last();
            self.index.add_segment(base);
            return Ok(());
        }
        let least = (least as u32).max(min.min(bytes));
        // Nothing that is not synced may be behind the beginning of a segment.
        self.sync_written()?;
        match self.new_segment(shared, bytes, least, base, reserve) {
            Ok(()) => {
                self.no_space = false;
                let next = bytes.saturating_mul(4).min(max);
                shared.spares.expect(next, shared.options.reserve_bytes);
                Ok(())
            }
            Err(err) if err.is_no_space() => {
                self.refused = true;
                self.no_space = true;
                Err(err)
            }
            Err(err) => Err(self.fail(err)),
        }
    }

    fn new_segment(
        &mut self,
        shared: &mut Shared<F>,
        bytes: u32,
        least: u32,
        base: u64,
        reserve: u64,
    ) -> Result<(), StoreError> {
        let Some(log) = &mut self.log else { return Ok(()) };
        if self.refused {
            return Err(StoreError::NoSpace {
                path: log.dir.clone(),
            });
        }
        let spare = shared.spares.take(bytes, least, reserve)?;
        let header = SegmentHeader {
            version: if self.is_packed { PACKED_VERSION } else { VERSION },
            id: log.next_segment,
            base_seq: base,
            incarnation: log.incarnation,
            salt: shared.rng.next_u64() as u32,
            through: 0,
        };
        log.next_segment += 1;
        let segment = segment::create(&shared.fs, &log.dir, spare, &header)?;
        if !log.buf.is_empty()
            && let Some(last) = self.segments.back()
        {
            let bytes = std::mem::take(&mut log.buf);
            let last_seq = self.index.last;
            log.full.push(Chunk {
                segment: last.id,
                offset: log.tail,
                bytes,
                last_seq,
                last_time: self.index.last_time,
            });
        }
        log.tail = DATA_START;
        self.segments.push_back(segment);
        self.index.add_segment(base);
        Ok(())
    }

    pub(super) fn remove(&mut self, seq: u64) -> Result<bool, StoreError> {
        self.check_writable()?;
        self.remove_for_sure(seq);
        if !self.index.remove(seq) {
            return Ok(false);
        }
        if let Some(log) = &mut self.log {
            log.to_remove.insert(seq, seq);
        }
        self.drop_dead();
        Ok(true)
    }

    pub(super) fn remove_below(&mut self, seq: u64) -> Result<u64, StoreError> {
        self.check_writable()?;
        self.remove_below_for_sure(seq, false);
        // What may be put back is taken off at once, and so is what makes room.
        if self.log.is_none() || !self.undo.is_empty() || self.no_space {
            let removed = self.index.remove_below(seq);
            self.drop_dead();
            return Ok(removed);
        }
        let owing = self.index.owing();
        let removed = self.index.remove_below_and_owe(seq);
        let floor = self.index.first.min(self.durable + 1);
        if let Some(log) = self.log.as_mut().filter(|_| self.index.owing() > owing)
            && log.floor < floor
        {
            // The files stay for a while, but nothing in them counts after a restart.
            log.floor = floor;
            log.meta_dirty = true;
        }
        self.drop_dead();
        Ok(removed)
    }

    /// Lets what limits took from the front stay away: it is removed for good with the next commit. Not while records are
    /// missing: those may be there the next time the stream is opened.
    pub(super) fn settle_front(&mut self) {
        let first = self.index.first;
        let Some(log) = self.log.as_mut().filter(|_| self.lost.is_empty()) else {
            return;
        };
        // What the metadata is to say comes after the frames of the same commit: the power may fail between them.
        let floor = if log.meta_dirty { 1 } else { log.floor };
        if floor < first {
            log.to_remove.insert(floor, first - 1);
        }
    }

    pub(super) fn purge(&mut self, up_to: u64) -> Result<u64, StoreError> {
        self.check_writable()?;
        let up_to = up_to.min(self.index.last + 1);
        self.remove_below_for_sure(up_to, true);
        let removed = self.index.remove_below(up_to);
        if let Some(log) = &mut self.log
            && log.floor < up_to
        {
            log.floor = up_to;
            log.meta_dirty = true;
        }
        self.drop_dead();
        Ok(removed)
    }

    pub(super) fn raise_last_seq(&mut self, shared: &mut Shared<F>, seq: u64) -> Result<(), StoreError> {
        self.check_writable()?;
        let last = self.index.last;
        if seq <= last {
            return Ok(());
        }
        if self.log.is_some() {
            self.make_room(shared, record::removals_bytes(1), 0)?;
            if let (Some(log), Some(segment)) = (&mut self.log, self.segments.back()) {
                let flags = log.flags();
                record::encode_removals(&mut log.buf, segment.seed, flags, seq, &[(last + 1, seq)]);
            }
        }
        self.index.raise_last(seq);
        Ok(())
    }

    /// Gives up segments at the front that have no record left, unless what the next commit brings decides that.
    pub(super) fn drop_dead(&mut self) {
        if !self.undo.is_empty() || self.log.as_ref().is_some_and(|log| !log.full.is_empty()) {
            return;
        }
        while self.index.pop_dead_front() {
            let Some(segment) = self.segments.pop_front() else {
                return;
            };
            self.sealed = self.sealed.saturating_sub(1);
            self.census.is_stirred = true;
            if let Some(log) = &mut self.log {
                log.floor = log.floor.max(self.index.first);
                log.meta_dirty = true;
                log.dropped.push(segment);
            }
        }
    }

    pub(super) fn state(&self) -> StreamState {
        let index = &self.index;
        let span = (index.last + 1).saturating_sub(index.first);
        StreamState {
            first_seq: StreamSeq(index.first),
            last_seq: StreamSeq(index.last),
            first_time: UnixNanos(index.time_of(index.first).unwrap_or(0)),
            last_time: UnixNanos(index.last_time),
            messages: index.messages,
            bytes: index.bytes,
            num_deleted: if index.messages == 0 {
                0
            } else {
                span - index.messages
            },
            lost: self.lost.count(),
        }
    }
}
