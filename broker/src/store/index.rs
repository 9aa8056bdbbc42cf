//! Where each record of a stream is, one table a segment, so that a whole segment goes at once.

mod owed;
mod remove;

use std::cell::Cell;
use std::collections::VecDeque;

use super::ranges::Ranges;
use super::record::HEADER_BYTES;
use super::sealed::{Bits, SealedIndex};
use super::subjects::{Merge, Subjects};
use super::table::{Entry, HAS_HEADERS, SealedTable, SegmentIndex, Table};

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Located {
    /// Number of the segment, counted from the first that is there.
    pub(super) segment: usize,
    pub(super) offset: u64,
    /// Exact bytes of the frame.
    pub(super) len: u32,
}

/// A record to be put into the index.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewEntry<'a> {
    pub(super) seq: u64,
    pub(super) time: i64,
    pub(super) subject: &'a str,
    pub(super) has_headers: bool,
    /// Exact bytes of the frame.
    pub(super) len: u32,
    /// Bytes that packing saved.
    pub(super) saved: u32,
    pub(super) offset: u64,
}

/// How nats-server counts a record's size beyond subject, headers and payload.
#[derive(Clone, Copy, Debug)]
pub(super) struct Overhead {
    pub(super) record: u64,
    pub(super) headers: u64,
}

impl Overhead {
    /// Size of the record of an entry, as if it were not packed.
    pub(super) fn size(self, entry: &Entry) -> u64 {
        let headers = if entry.has_headers() { self.headers } else { 0 };
        let stored = u64::from(entry.len & !HAS_HEADERS) - HEADER_BYTES as u64;
        stored + u64::from(entry.saved) + self.record + headers
    }
}

/// All records of a stream.
#[derive(Debug)]
pub(super) struct StreamIndex {
    pub(super) segments: VecDeque<SegmentIndex>,
    pub(super) subjects: Subjects,
    /// First record that is there, or `last + 1`.
    pub(super) first: u64,
    /// Highest position given.
    pub(super) last: u64,
    pub(super) last_time: i64,
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) overhead: Overhead,
    /// Segments whose subjects are still counted though all of their records are gone.
    owing: usize,
    /// A position and the time of its record: the first one's is asked for all the time.
    pub(super) known_time: Cell<Option<(u64, i64)>>,
}

impl StreamIndex {
    /// An index without records whose next position is `first`.
    pub(super) fn new(first: u64, overhead: Overhead) -> Self {
        Self {
            segments: VecDeque::new(),
            subjects: Subjects::default(),
            first,
            last: first.saturating_sub(1),
            last_time: 0,
            messages: 0,
            bytes: 0,
            overhead,
            owing: 0,
            known_time: Cell::new(None),
        }
    }

    /// Begins a segment whose records are at `base` or above.
    pub(super) fn add_segment(&mut self, base: u64) {
        self.segments.push_back(SegmentIndex::new(base));
    }

    /// Packs the lists of the last segment, which is full and stays in memory.
    pub(super) fn pack_last(&mut self) {
        if let Some(SegmentIndex {
            table: Table::Memory(full),
            ..
        }) = self.segments.back_mut()
        {
            full.lists.seal();
            full.entries.shrink_to_fit();
        }
    }

    /// Adds a record above all others to the last segment, which is in memory. Its position must be less than 2³² above
    /// the base.
    pub(super) fn push(&mut self, new: &NewEntry<'_>) {
        let Some(segment) = self.segments.back_mut() else {
            return;
        };
        let Table::Memory(table) = &mut segment.table else {
            unreachable!("records are appended to a segment that is not sealed");
        };
        let slot = self.subjects.add(new.subject, new.seq);
        let entry = Entry {
            delta: (new.seq - segment.base) as u32,
            offset8: (new.offset / 8) as u32,
            len: new.len | if new.has_headers { HAS_HEADERS } else { 0 },
            subject: slot,
            saved: new.saved,
            time: new.time,
        };
        table.is_in_time_order &= table.entries.last().is_none_or(|last| last.time <= new.time);
        table.lists.push(slot, table.entries.len() as u32);
        table.entries.push(entry);
        segment.live += 1;
        segment.time_max = segment.time_max.max(new.time);
        let size = self.overhead.size(&entry);
        if let Some(segment) = self.segments.back_mut() {
            segment.live_bytes += size;
        }
        if self.messages == 0 {
            self.first = new.seq;
        }
        self.messages += 1;
        self.bytes += size;
        self.last = new.seq;
        self.last_time = new.time;
    }

    /// Adds a sealed segment whose records are all there and above all others. Without `merge` its subjects are counted
    /// already.
    pub(super) fn add_sealed(&mut self, index: SealedIndex, merge: Option<&mut Merge>) {
        let header = index.header;
        let base = header.segment.base_seq;
        let count = u64::from(header.entries);
        let bytes = header.data_bytes
            + count * self.overhead.record
            + u64::from(header.with_headers) * self.overhead.headers;
        if let Some(merge) = merge {
            let subjects = &mut self.subjects;
            index.for_subjects("", |_, name, subject| {
                let (first, last) = (base + u64::from(subject.first), base + u64::from(subject.last));
                merge.add(subjects, name, u64::from(subject.count), first, last);
            });
            merge.end_segment(subjects);
        }
        let table = SealedTable {
            index,
            removed: Bits::default(),
        };
        self.segments.push_back(SegmentIndex {
            base,
            table: Table::Sealed(Box::new(table)),
            live: header.entries,
            live_bytes: bytes,
            time_max: header.time_max,
            owed: None,
        });
        self.raise_last(header.last_seq.max(base.saturating_sub(1)));
        if header.entries == 0 {
            return;
        }
        if self.messages == 0 {
            self.first = header.first;
        }
        self.messages += count;
        self.bytes += bytes;
        self.last_time = header.last_time;
    }

    /// Puts the index of a full segment, made from its file, in place of what memory has. `false`: the file has not
    /// what memory has.
    pub(super) fn seal(&mut self, at: usize, index: SealedIndex) -> bool {
        let Some(segment) = self.segments.get_mut(at) else {
            return false;
        };
        let Table::Memory(memory) = &segment.table else {
            return true;
        };
        let mut removed = Bits::default();
        let mut live = 0;
        let base = segment.base;
        let is_same = memory.entries.len() == index.len()
            && memory.entries.first().map(|entry| base + u64::from(entry.delta)) == Some(index.header.first)
            && memory.entries.last().map(|entry| base + u64::from(entry.delta)) == Some(index.header.last);
        if is_same {
            live = segment.live;
            if !segment.is_whole() {
                let gone = memory.entries.from(0).filter(|(_, entry)| !entry.is_live());
                gone.for_each(|(place, _)| {
                    removed.insert(place, index.len());
                });
            }
        } else {
            let mut expected = memory.entries.from(0).map(|(_, entry)| entry).peekable();
            index.for_entries(0, index.len(), |place, entry| {
                while expected.next_if(|other| other.delta < entry.delta).is_some() {}
                match expected.next_if(|other| other.delta == entry.delta) {
                    Some(other) if other.is_live() => live += 1,
                    _ => {
                        removed.insert(place, index.len());
                    }
                }
                true
            });
        }
        if live != segment.live || index.is_broken() {
            return false;
        }
        segment.table = Table::Sealed(Box::new(SealedTable { index, removed }));
        true
    }

    /// Moves `last` up to `seq` if it is lower.
    pub(super) fn raise_last(&mut self, seq: u64) {
        self.last = self.last.max(seq);
        if self.messages == 0 {
            self.first = self.last + 1;
        }
    }

    /// The segment that has `seq`, if any has.
    pub(super) fn segment_of(&self, seq: u64) -> usize {
        self.segments
            .partition_point(|segment| segment.base <= seq)
            .saturating_sub(1)
    }

    pub(super) fn find(&self, seq: u64) -> Option<(usize, usize, Entry)> {
        let at = self.segment_of(seq);
        let segment = self.segments.get(at).filter(|segment| segment.live > 0)?;
        let place = segment.below(seq);
        let entry = segment.entry(place)?;
        (segment.seq(&entry) == seq).then_some((at, place, entry))
    }

    /// Where the record at `seq` is. `None`: there is none.
    pub(super) fn locate(&self, seq: u64) -> Option<Located> {
        let (segment, _, entry) = self.find(seq)?;
        Some(Located {
            segment,
            offset: u64::from(entry.offset8) * 8,
            len: entry.len & !HAS_HEADERS,
        })
    }

    /// Shows the subject of the record at `seq`. `None`: there is none, or the index cannot be read.
    pub(super) fn with_subject<T>(&self, seq: u64, show: impl FnOnce(&str) -> T) -> Option<T> {
        let (segment, _, entry) = self.find(seq)?;
        match &self.segments.get(segment)?.table {
            Table::Memory(_) => Some(show(self.subjects.name(entry.subject))),
            Table::Sealed(table) => table.index.with_subject(entry.subject, show),
        }
    }

    /// The last record at or below `upto` of the subject in `slot`.
    fn last_of(&self, slot: u32, upto: u64) -> Option<u64> {
        let name = self.subjects.name(slot);
        let first = self.segment_of(self.subjects.slot(slot).first_from);
        let last = self.segment_of(upto).min(self.segments.len().checked_sub(1)?);
        let segments = self.segments.range(first.min(last)..=last);
        segments
            .rev()
            .filter(|segment| segment.live > 0)
            .find_map(|segment| segment.last_of(slot, name, upto))
    }

    /// The first record at or after `from`.
    pub(super) fn next_live(&self, from: u64) -> Option<u64> {
        let start = self.segment_of(from).min(self.segments.len());
        self.segments
            .range(start..)
            .find_map(|segment| segment.next_live(from))
    }

    /// Drops the first segment if it has no record, owes nothing and is not the last. Returns whether it did.
    pub(super) fn pop_dead_front(&mut self) -> bool {
        let is_dead = |segment: &SegmentIndex| segment.live == 0 && segment.owed.is_none();
        let dead = self.segments.len() > 1 && self.segments.front().is_some_and(is_dead);
        if dead {
            self.segments.pop_front();
        }
        dead
    }

    /// Puts one sealed segment, which has the same records, in place of `count` neighbours from `at` on.
    pub(super) fn replace_segments(&mut self, at: usize, count: usize, table: SealedTable) {
        let old = self.segments.range(at..at + count);
        let merged = SegmentIndex {
            base: table.index.header.segment.base_seq,
            live: old.clone().map(|segment| segment.live).sum(),
            live_bytes: old.map(|segment| segment.live_bytes).sum(),
            time_max: table.index.header.time_max,
            table: Table::Sealed(Box::new(table)),
            owed: None,
        };
        self.segments.drain(at..at + count);
        self.segments.insert(at, merged);
    }

    /// Time of the record at `seq`.
    pub(super) fn time_of(&self, seq: u64) -> Option<i64> {
        if let Some((_, time)) = self.known_time.get().filter(|known| known.0 == seq) {
            return Some(time);
        }
        let (.., entry) = self.find(seq)?;
        self.known_time.set(Some((seq, entry.time)));
        Some(entry.time)
    }

    /// Positions from `from` to the last that have no entry: not even one whose record was removed.
    pub(super) fn gaps(&self, from: u64) -> Ranges {
        let mut out = Ranges::default();
        let mut next = from;
        for (at, segment) in self.segments.iter().enumerate() {
            let end = self
                .segments
                .get(at + 1)
                .map_or(self.last, |after| after.base.saturating_sub(1));
            if next < segment.base {
                out.insert(next, segment.base - 1);
            }
            segment.for_gaps(next.max(segment.base), end, &mut |first, last| {
                out.insert(first, last)
            });
            next = next.max(end.saturating_add(1));
        }
        if next <= self.last {
            out.insert(next, self.last);
        }
        out
    }

    /// Whether a sealed segment's records and its index can both not be read.
    pub(super) fn is_broken(&self) -> bool {
        self.segments.iter().any(|segment| match &segment.table {
            Table::Memory(_) => false,
            Table::Sealed(table) => table.index.is_broken(),
        })
    }
}

#[cfg(test)]
mod tests;
