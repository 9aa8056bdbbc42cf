//! Records that go, one by one or many at a time.

use std::collections::BTreeSet;

use super::super::ranges::Ranges;
use super::super::sealed::Bits;
use super::super::table::{Entry, MemoryTable, SealedTable, Table};
use super::StreamIndex;

/// Records left of a sealed segment that are taken out at once when it goes.
const AT_ONCE_MAX: u32 = 8;

impl StreamIndex {
    /// Removes one record. `false`: it was not there.
    pub(in super::super) fn remove(&mut self, seq: u64) -> bool {
        let Some((at, place, entry)) = self.find(seq) else {
            return false;
        };
        let segment = &mut self.segments[at];
        let slot = match &mut segment.table {
            Table::Memory(table) => {
                table.entries.remove(place);
                entry.subject
            }
            Table::Sealed(table) => {
                let subjects = &self.subjects;
                let found = table
                    .index
                    .with_subject(entry.subject, |name| subjects.index_of(name));
                let Some(slot) = found.flatten() else {
                    return false;
                };
                table.removed.insert(place, table.index.len());
                slot
            }
        };
        let size = self.overhead.size(&entry);
        segment.live -= 1;
        segment.live_bytes -= size;
        self.messages -= 1;
        self.bytes -= size;
        self.take_records(slot, 1, seq);
        if seq == self.first {
            self.advance_first();
        }
        true
    }

    /// The first record to be kept if the oldest go until at most so many messages, with so many bytes, are left.
    pub(in super::super) fn first_within(&self, messages_max: u64, bytes_max: u64) -> u64 {
        let (mut messages, mut bytes) = (self.messages, self.bytes);
        let is_within = |messages, bytes| messages <= messages_max && bytes <= bytes_max;
        for segment in self.segments.iter().filter(|segment| segment.live > 0) {
            if is_within(messages, bytes) {
                return segment.base.max(self.first);
            }
            let (live, live_bytes) = (u64::from(segment.live), segment.live_bytes);
            if !is_within(messages - live, bytes - live_bytes) {
                (messages, bytes) = (messages - live, bytes - live_bytes);
                continue;
            }
            let mut kept = None;
            let mut take = |entry: &Entry| {
                kept = Some(segment.seq(entry)).filter(|_| is_within(messages, bytes));
                messages -= 1;
                bytes -= self.overhead.size(entry);
                kept.is_none()
            };
            match &segment.table {
                Table::Memory(table) => {
                    let mut live = table.entries.from(0).filter(|(_, entry)| entry.is_live());
                    live.find(|(_, entry)| !take(entry));
                }
                Table::Sealed(table) => {
                    let is_gone = |place| table.removed.contains(place);
                    let entries = 0..table.index.len();
                    let visit = |place, entry: &Entry| is_gone(place) || take(entry);
                    table.index.for_entries(entries.start, entries.end, visit);
                }
            }
            if let Some(kept) = kept {
                return kept;
            }
        }
        self.last + 1
    }

    /// Removes every record below `seq`. Returns how many. Full segments go whole.
    pub(in super::super) fn remove_below(&mut self, seq: u64) -> u64 {
        let removed = self.remove_below_and_owe(seq);
        self.pay(usize::MAX);
        removed
    }

    /// Removes every record below `seq`. Returns how many. Sealed segments go whole, however many subjects they have:
    /// those are counted until [`StreamIndex::pay`] has taken them off.
    pub(in super::super) fn remove_below_and_owe(&mut self, seq: u64) -> u64 {
        let before = self.messages;
        for at in 0..self.segments.len() {
            let segment = &self.segments[at];
            if segment.base >= seq {
                break;
            }
            let all_below = segment.last_seq().is_none_or(|last| last < seq);
            if all_below && at + 1 < self.segments.len() {
                self.clear_segment(at);
                continue;
            }
            if segment.live > 0 {
                let (start, end) = (segment.below(self.first), segment.below(seq));
                self.remove_places(at, start, end);
            }
        }
        if self.first < seq {
            self.first = seq.min(self.last + 1);
            self.advance_first();
        }
        before - self.messages
    }

    fn clear_segment(&mut self, at: usize) {
        let next_base = self.base_after(at);
        let segment = &mut self.segments[at];
        if segment.live == 0 {
            return;
        }
        let is_whole = segment.is_whole();
        match &segment.table {
            Table::Sealed(table) if !is_whole && segment.live <= AT_ONCE_MAX => {
                let removed = table.removed.clone();
                let len = table.index.len();
                self.remove_runs(at, |place| {
                    let from = removed.next_missing(place);
                    let to = removed.next(from).unwrap_or(len).min(len);
                    (from < to).then_some((from, to))
                });
            }
            Table::Sealed(_) => {
                segment.owed = Some(0);
                self.owing += 1;
            }
            Table::Memory(table) if is_whole => {
                let subjects = &mut self.subjects;
                for slot in table.lists.slots() {
                    let count = table.lists.get(slot).len() as u64;
                    if count > 0 && subjects.take(slot, count) {
                        let slot = subjects.slot_mut(slot);
                        slot.first_from = slot.first_from.max(next_base);
                    }
                }
            }
            Table::Memory(_) => {
                let len = segment.len();
                self.remove_places(at, 0, len);
            }
        }
        let segment = &self.segments[at];
        self.messages -= u64::from(segment.live);
        self.bytes -= segment.live_bytes;
        let segment = &mut self.segments[at];
        segment.live = 0;
        segment.live_bytes = 0;
        if let Table::Memory(table) = &mut segment.table {
            *table = MemoryTable::default();
        }
    }

    /// Forgets every position above `seq`, as if never given. Sealed segments are durable and stay.
    pub(in super::super) fn truncate_above(&mut self, seq: u64) {
        let mut touched = BTreeSet::new();
        let count = self.segments.len();
        let overhead = self.overhead;
        for at in (0..count).rev() {
            let segment = &mut self.segments[at];
            let keep = segment.below(seq + 1);
            if keep == segment.len() && segment.base <= seq && at + 1 < count {
                break;
            }
            let Table::Memory(table) = &mut segment.table else {
                break;
            };
            let cut: Vec<Entry> = table.entries.from(keep).map(|(_, entry)| entry).collect();
            table.entries.truncate(keep);
            table.list_anew();
            for entry in cut.iter().filter(|entry| entry.is_live()) {
                let size = overhead.size(entry);
                segment.live -= 1;
                segment.live_bytes -= size;
                self.messages -= 1;
                self.bytes -= size;
                if self.subjects.take(entry.subject, 1) {
                    touched.insert(entry.subject);
                } else {
                    touched.remove(&entry.subject);
                }
            }
        }
        for slot in touched {
            self.subjects.slot_mut(slot).last = self.last_of(slot, seq).unwrap_or(0);
        }
        self.last = self.last.min(seq);
        self.first = self.first.min(self.last + 1);
        self.advance_first();
        self.known_time.set(None);
    }

    /// Removes the records in all of `ranges`.
    pub(in super::super) fn remove_ranges(&mut self, ranges: &Ranges) {
        for at in 0..self.segments.len() {
            let segment = &self.segments[at];
            let (Some(last), true) = (segment.last_seq(), segment.live > 0) else {
                continue;
            };
            let len = segment.len();
            let mut fresh = Bits::default();
            for (first, last) in ranges.within(segment.base, last) {
                let (from, to) = (segment.below(first), segment.below(last.saturating_add(1)));
                fresh.insert_range(from, to, len);
            }
            if fresh.next(0).is_some() {
                self.remove_set(at, &fresh);
            }
        }
        self.advance_first();
    }

    fn advance_first(&mut self) {
        let from = self.first;
        self.first = if self.messages == 0 {
            self.last + 1
        } else {
            self.next_live(from).unwrap_or(self.last + 1)
        };
    }

    /// Removes the records of a segment from place `from` up to `to`.
    fn remove_places(&mut self, at: usize, from: usize, to: usize) {
        let to = to.min(self.segments[at].len());
        let from = from.min(to);
        self.remove_runs(at, |place| (place < to).then(|| (place.max(from), to)));
    }

    /// Removes the records of a segment at the places in `fresh`.
    fn remove_set(&mut self, at: usize, fresh: &Bits) {
        let len = self.segments[at].len();
        self.remove_runs(at, |place| {
            let from = fresh.next(place).filter(|from| *from < len)?;
            Some((from, fresh.next_missing(from).min(len)))
        });
    }

    /// Removes the records of a segment in the runs of places that `next_run` gives, each from a place on.
    fn remove_runs(&mut self, at: usize, next_run: impl Fn(usize) -> Option<(usize, usize)>) {
        // By slot, or, of a sealed segment, by rank.
        let mut gone: Vec<(u32, u32)> = Vec::new();
        let mut bytes = 0u64;
        let overhead = self.overhead;
        let segment = &mut self.segments[at];
        let base = segment.base;
        let mut take = |entry: &Entry| {
            bytes += overhead.size(entry);
            gone.push((entry.subject, entry.delta));
        };
        let mut run = next_run(0);
        while let Some((from, to)) = run {
            match &mut segment.table {
                Table::Memory(table) => {
                    for place in from..to {
                        if let Some(entry) = table.entries.get(place).filter(Entry::is_live) {
                            take(&entry);
                            table.entries.remove(place);
                        }
                    }
                }
                Table::Sealed(table) => {
                    let SealedTable { index, removed } = &mut **table;
                    index.for_entries(from, to, |place, entry| {
                        if !removed.contains(place) {
                            take(entry);
                        }
                        true
                    });
                    removed.insert_range(from, to, index.len());
                }
            }
            run = next_run(to);
        }
        segment.live -= gone.len() as u32;
        segment.live_bytes -= bytes;
        self.messages -= gone.len() as u64;
        self.bytes -= bytes;
        // In the order of the list of subjects: each of its blocks is read once.
        gone.sort_unstable();
        for of_subject in gone.chunk_by(|a, b| a.0 == b.0) {
            let Some(&(number, delta)) = of_subject.last() else {
                continue;
            };
            let slot = match &self.segments[at].table {
                Table::Memory(_) => Some(number),
                Table::Sealed(table) => {
                    let slot_of = |name: &str| self.subjects.index_of(name);
                    table.index.with_subject(number, slot_of).flatten()
                }
            };
            if let Some(slot) = slot {
                self.take_records(slot, of_subject.len() as u64, base + u64::from(delta));
            }
        }
    }

    /// Takes `count` records off a subject, the highest of which was at `highest`. Their entries are marked already.
    fn take_records(&mut self, slot: u32, count: u64, highest: u64) {
        if !self.subjects.take(slot, count) {
            return;
        }
        if self.subjects.slot(slot).last == highest {
            self.subjects.slot_mut(slot).last = self.last_of(slot, highest.saturating_sub(1)).unwrap_or(0);
        }
        let subject = self.subjects.slot_mut(slot);
        if subject.count == 1 {
            subject.first_from = subject.last;
        } else if count == 1 && subject.first_from == highest {
            subject.first_from = highest + 1;
        }
    }
}
