//! Where each record of a stream is, in memory: 24 bytes a record and 4 for its subject, in one table a segment, so
//! that a whole segment goes at once.

use std::collections::{BTreeSet, VecDeque};

use super::record::HEADER_BYTES;
use super::subjects::{SubjectLists, Subjects};

/// Subject of an entry whose record was removed.
const REMOVED: u32 = u32::MAX;
/// Bit of an entry's length: the record has headers.
const HAS_HEADERS: u32 = 1 << 31;

/// A record in its segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// Position, counted from the segment's base.
    delta: u32,
    /// Offset in the file, in units of 8 bytes.
    offset8: u32,
    /// Exact bytes of the frame, and `HAS_HEADERS`.
    len: u32,
    /// Slot of the subject, or `REMOVED`.
    pub(super) subject: u32,
    pub(super) time: i64,
}

impl Entry {
    pub(super) fn is_live(&self) -> bool {
        self.subject != REMOVED
    }
}

/// The records of one segment.
#[derive(Debug)]
pub(super) struct SegmentIndex {
    /// Position that deltas count from.
    pub(super) base: u64,
    pub(super) entries: Vec<Entry>,
    pub(super) lists: SubjectLists,
    /// Entries that are not removed.
    pub(super) live: u32,
    live_bytes: u64,
    /// Highest time of any entry.
    pub(super) time_max: i64,
}

impl SegmentIndex {
    fn new(base: u64) -> Self {
        let lists = SubjectLists::default();
        Self {
            base,
            entries: Vec::new(),
            lists,
            live: 0,
            live_bytes: 0,
            time_max: i64::MIN,
        }
    }

    pub(super) fn seq(&self, entry: &Entry) -> u64 {
        self.base + u64::from(entry.delta)
    }

    /// Number of entries below `seq`.
    pub(super) fn below(&self, seq: u64) -> usize {
        let Some(delta) = seq.checked_sub(self.base) else {
            return 0;
        };
        // Without gaps an entry stands at its delta, with gaps before it.
        let guess = usize::try_from(delta)
            .unwrap_or(usize::MAX)
            .min(self.entries.len());
        match self.entries.get(guess) {
            Some(entry) if u64::from(entry.delta) == delta => guess,
            _ => self.entries[..guess].partition_point(|entry| u64::from(entry.delta) < delta),
        }
    }

    /// Entries of the subject in `slot` that are there, from position `from` on.
    pub(super) fn of_subject(&self, slot: u32, from: u64) -> impl DoubleEndedIterator<Item = u64> + '_ {
        let list = self.lists.get(slot);
        let start = list.partition_point(|&at| self.seq(&self.entries[at as usize]) < from);
        list[start..].iter().filter_map(move |&at| {
            let entry = &self.entries[at as usize];
            (entry.subject == slot).then(|| self.seq(entry))
        })
    }

    /// Whether no entry was removed, so that the lists are exact.
    pub(super) fn is_whole(&self) -> bool {
        self.live as usize == self.entries.len()
    }
}

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Located {
    /// Number of the segment, counted from the first that is there.
    pub(super) segment: usize,
    pub(super) offset: u64,
    /// Exact bytes of the frame.
    pub(super) len: u32,
    pub(super) subject: u32,
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
    pub(super) offset: u64,
}

/// How nats-server counts a record's size beyond subject, headers and payload.
#[derive(Clone, Copy, Debug)]
pub(super) struct Overhead {
    pub(super) record: u64,
    pub(super) headers: u64,
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
    overhead: Overhead,
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
        }
    }

    fn size(&self, entry_len: u32) -> u64 {
        let headers = if entry_len & HAS_HEADERS == 0 {
            0
        } else {
            self.overhead.headers
        };
        u64::from(entry_len & !HAS_HEADERS) - HEADER_BYTES as u64 + self.overhead.record + headers
    }

    /// Begins a segment whose records are at `base` or above.
    pub(super) fn add_segment(&mut self, base: u64) {
        if let Some(full) = self.segments.back_mut() {
            full.lists.seal();
            full.entries.shrink_to_fit();
        }
        self.segments.push_back(SegmentIndex::new(base));
    }

    /// Adds a record above all others to the last segment. Its position must be less than 2³² above the base.
    pub(super) fn push(&mut self, new: &NewEntry<'_>) {
        let Some(segment) = self.segments.back_mut() else {
            return;
        };
        let slot = self.subjects.add(new.subject, new.seq);
        let entry = Entry {
            delta: (new.seq - segment.base) as u32,
            offset8: (new.offset / 8) as u32,
            len: new.len | if new.has_headers { HAS_HEADERS } else { 0 },
            subject: slot,
            time: new.time,
        };
        segment.lists.push(slot, segment.entries.len() as u32);
        segment.entries.push(entry);
        segment.live += 1;
        segment.time_max = segment.time_max.max(new.time);
        let size = self.size(entry.len);
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

    fn find(&self, seq: u64) -> Option<(usize, usize)> {
        let at = self.segment_of(seq);
        let segment = self.segments.get(at)?;
        let pos = segment.below(seq);
        let entry = segment.entries.get(pos)?;
        (segment.seq(entry) == seq && entry.is_live()).then_some((at, pos))
    }

    /// Where the record at `seq` is. `None`: there is none.
    pub(super) fn locate(&self, seq: u64) -> Option<Located> {
        let (segment, pos) = self.find(seq)?;
        let entry = &self.segments[segment].entries[pos];
        Some(Located {
            segment,
            offset: u64::from(entry.offset8) * 8,
            len: entry.len & !HAS_HEADERS,
            subject: entry.subject,
        })
    }

    /// Removes one record. `false`: it was not there.
    pub(super) fn remove(&mut self, seq: u64) -> bool {
        let Some((at, pos)) = self.find(seq) else {
            return false;
        };
        self.remove_entry(at, pos);
        if seq == self.first {
            self.advance_first();
        }
        true
    }

    fn remove_entry(&mut self, at: usize, pos: usize) {
        let segment = &mut self.segments[at];
        let entry = &mut segment.entries[pos];
        let (slot, len) = (entry.subject, entry.len);
        let seq = segment.base + u64::from(entry.delta);
        entry.subject = REMOVED;
        segment.live -= 1;
        let size = self.size(len);
        self.segments[at].live_bytes -= size;
        self.messages -= 1;
        self.bytes -= size;
        if !self.subjects.take(slot, 1) {
            return;
        }
        if self.subjects.slot(slot).last == seq {
            self.subjects.slot_mut(slot).last = self.last_of(slot, seq.saturating_sub(1)).unwrap_or(0);
        }
        let subject = self.subjects.slot_mut(slot);
        if subject.count == 1 {
            subject.first_from = subject.last;
        } else if subject.first_from == seq {
            subject.first_from = seq + 1;
        }
    }

    /// The last record at or below `upto` of the subject in `slot`.
    fn last_of(&self, slot: u32, upto: u64) -> Option<u64> {
        let segments = self
            .segments
            .range(..=self.segment_of(upto).min(self.segments.len().checked_sub(1)?));
        segments
            .rev()
            .find_map(|segment| segment.of_subject(slot, 0).rev().find(|&seq| seq <= upto))
    }

    fn advance_first(&mut self) {
        let from = self.first;
        self.first = if self.messages == 0 {
            self.last + 1
        } else {
            self.next_live(from).unwrap_or(self.last + 1)
        };
    }

    /// The first record at or after `from`.
    pub(super) fn next_live(&self, from: u64) -> Option<u64> {
        let start = self.segment_of(from).min(self.segments.len());
        self.segments
            .range(start..)
            .filter(|segment| segment.live > 0)
            .find_map(|segment| {
                let entry = segment.entries[segment.below(from)..]
                    .iter()
                    .find(|entry| entry.is_live())?;
                Some(segment.seq(entry))
            })
    }

    /// Removes every record below `seq`. Returns how many. Full segments go whole.
    pub(super) fn remove_below(&mut self, seq: u64) -> u64 {
        let before = self.messages;
        for at in 0..self.segments.len() {
            let segment = &self.segments[at];
            if segment.base >= seq {
                break;
            }
            let all_below = segment
                .entries
                .last()
                .is_none_or(|entry| segment.seq(entry) < seq);
            if all_below && at + 1 < self.segments.len() {
                self.clear_segment(at);
                continue;
            }
            if segment.live > 0 {
                let start = segment.below(self.first);
                for pos in start..segment.below(seq) {
                    if self.segments[at].entries[pos].is_live() {
                        self.remove_entry(at, pos);
                    }
                }
            }
        }
        if self.first < seq {
            self.first = seq.min(self.last + 1);
            self.advance_first();
        }
        before - self.messages
    }

    fn clear_segment(&mut self, at: usize) {
        let next_base = self.segments.get(at + 1).map_or(u64::MAX, |next| next.base);
        let segment = &mut self.segments[at];
        if segment.live == 0 {
            return;
        }
        for slot in segment.lists.slots() {
            let count = if segment.is_whole() {
                segment.lists.get(slot).len() as u64
            } else {
                segment.of_subject(slot, 0).count() as u64
            };
            if count > 0 && self.subjects.take(slot, count) {
                let slot = self.subjects.slot_mut(slot);
                slot.first_from = slot.first_from.max(next_base);
            }
        }
        self.messages -= u64::from(segment.live);
        self.bytes -= segment.live_bytes;
        segment.live = 0;
        segment.live_bytes = 0;
        segment.entries = Vec::new();
        segment.lists = SubjectLists::default();
    }

    /// Forgets every position above `seq`, as if never given.
    pub(super) fn truncate_above(&mut self, seq: u64) {
        let mut touched = BTreeSet::new();
        let count = self.segments.len();
        for at in (0..count).rev() {
            let segment = &mut self.segments[at];
            let keep = segment.below(seq + 1);
            if keep == segment.entries.len() && segment.base <= seq && at + 1 < count {
                break;
            }
            let cut = segment.entries.split_off(keep);
            for entry in cut.iter().filter(|entry| entry.is_live()) {
                let size = self.size(entry.len);
                self.segments[at].live -= 1;
                self.segments[at].live_bytes -= size;
                self.messages -= 1;
                self.bytes -= size;
                if self.subjects.take(entry.subject, 1) {
                    touched.insert(entry.subject);
                } else {
                    touched.remove(&entry.subject);
                }
            }
            let segment = &mut self.segments[at];
            let mut lists = SubjectLists::default();
            for (pos, entry) in segment
                .entries
                .iter()
                .enumerate()
                .filter(|(_, entry)| entry.is_live())
            {
                lists.push(entry.subject, pos as u32);
            }
            segment.lists = lists;
        }
        for slot in touched {
            self.subjects.slot_mut(slot).last = self.last_of(slot, seq).unwrap_or(0);
        }
        self.last = self.last.min(seq);
        self.first = self.first.min(self.last + 1);
        self.advance_first();
    }

    /// Drops the first segment if it has no record and is not the last. Returns whether it did.
    pub(super) fn pop_dead_front(&mut self) -> bool {
        let dead = self.segments.len() > 1 && self.segments.front().is_some_and(|segment| segment.live == 0);
        if dead {
            self.segments.pop_front();
        }
        dead
    }

    /// Time of the record at `seq`.
    pub(super) fn time_of(&self, seq: u64) -> Option<i64> {
        let (segment, pos) = self.find(seq)?;
        Some(self.segments[segment].entries[pos].time)
    }

    /// Positions of all records, also of removed ones whose entry is still there, ascending.
    pub(super) fn known(&self) -> impl Iterator<Item = u64> + '_ {
        self.segments
            .iter()
            .flat_map(|segment| segment.entries.iter().map(|entry| segment.seq(entry)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const SUBJECTS: [&str; 3] = ["a", "b", "c"];

    #[derive(Clone, Debug)]
    enum Op {
        Push(usize),
        Skip(u64),
        Segment,
        Remove(u64),
        RemoveBelow(u64),
        Truncate(u64),
        DropFront,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            8 => (0..3usize).prop_map(Op::Push),
            1 => (0..5u64).prop_map(Op::Skip),
            2 => Just(Op::Segment),
            4 => (0..60u64).prop_map(Op::Remove),
            1 => (0..60u64).prop_map(Op::RemoveBelow),
            1 => (0..60u64).prop_map(Op::Truncate),
            1 => Just(Op::DropFront),
        ]
    }

    fn apply(index: &mut StreamIndex, model: &mut BTreeMap<u64, &'static str>, op: &Op) {
        match *op {
            Op::Push(subject) => {
                let (seq, subject) = (index.last + 1, SUBJECTS[subject]);
                let new = NewEntry {
                    seq,
                    time: 0,
                    subject,
                    has_headers: false,
                    len: 50,
                    offset: 8 * seq,
                };
                index.push(&new);
                model.insert(seq, subject);
            }
            Op::Skip(count) => index.raise_last(index.last + count),
            Op::Segment => index.add_segment(index.last + 1),
            Op::Remove(seq) => assert_eq!(index.remove(seq), model.remove(&seq).is_some()),
            Op::RemoveBelow(seq) => {
                let before = model.len();
                model.retain(|&other, _| other >= seq);
                assert_eq!(index.remove_below(seq), (before - model.len()) as u64);
            }
            Op::Truncate(seq) => {
                // What is taken back and goes on is in the last segment.
                let seq = seq.max(index.segments.back().map_or(0, |segment| segment.base - 1));
                index.truncate_above(seq);
                model.retain(|&other, _| other <= seq);
            }
            Op::DropFront => {
                index.pop_dead_front();
            }
        }
    }

    fn check(index: &StreamIndex, model: &BTreeMap<u64, &'static str>) {
        assert_eq!(index.messages, model.len() as u64);
        assert_eq!(index.bytes, model.len() as u64 * 10);
        assert_eq!(
            index.first,
            model.keys().next().copied().unwrap_or(index.last + 1)
        );
        for name in SUBJECTS {
            let of: Vec<u64> = model
                .iter()
                .filter(|(_, subject)| **subject == name)
                .map(|(seq, _)| *seq)
                .collect();
            let slot = index.subjects.index_of(name);
            assert_eq!(slot.is_some(), !of.is_empty());
            let Some(slot) = slot else { continue };
            assert_eq!(index.subjects.slot(slot).last, of[of.len() - 1]);
            assert!(index.subjects.slot(slot).first_from <= of[0]);
            let found: Vec<u64> = index
                .segments
                .iter()
                .flat_map(|segment| segment.of_subject(slot, 0))
                .collect();
            assert_eq!(found, of);
        }
        for seq in 0..=index.last + 1 {
            assert_eq!(
                index.locate(seq).map(|at| at.offset),
                model.get(&seq).map(|_| seq * 8)
            );
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_map(ops in prop::collection::vec(op(), 0..120), cut in 0..60u64) {
            let mut index = StreamIndex::new(1, Overhead { record: 0, headers: 0 });
            index.add_segment(1);
            let mut model: BTreeMap<u64, &'static str> = BTreeMap::new();
            for op in &ops {
                apply(&mut index, &mut model, op);
                check(&index, &model);
            }
            // A stream that failed gives up more than its last segment, and takes no more.
            let cut = cut.max(index.segments[0].base - 1);
            index.truncate_above(cut);
            model.retain(|&seq, _| seq <= cut);
            check(&index, &model);
        }
    }
}
