//! Questions to the index.

use std::collections::BTreeMap;

use super::filter::SubjectFilter;
use super::index::StreamIndex;
use super::ranges::Ranges;
use super::sealed::Bits;
use super::state::SubjectSummary;
use super::subjects::Slot;
use super::table::{Entry, MemoryTable, SealedTable, SegmentIndex, Table};
use crate::types::{StreamId, StreamSeq};

/// Entries in memory looked at one by one before the lists of subjects are asked.
const SCAN_MAX: usize = 256;
/// The same for entries on disk, whose subjects are dear to look up.
const SEALED_SCAN_MAX: usize = 16;

/// An index together with the stream's handle, for the memory of filters.
#[derive(Clone, Copy)]
pub(super) struct Query<'a> {
    pub(super) index: &'a StreamIndex,
    pub(super) stream: StreamId,
}

impl Query<'_> {
    fn wants(&self, filter: &SubjectFilter, slot: u32) -> bool {
        let generation = self.index.subjects.slot(slot).generation;
        filter.matches_cached(self.stream, slot, generation, self.index.subjects.name(slot))
    }

    /// Slots of the subjects that `filter` wants.
    fn wanted_slots<'a>(&'a self, filter: &'a SubjectFilter) -> impl Iterator<Item = u32> + 'a {
        let subjects = &self.index.subjects;
        subjects
            .iter()
            .filter(|&slot| self.index.is_alive(subjects.slot(slot)))
            .filter(|&slot| filter.matches(subjects.name(slot)))
    }

    /// The first record at or after `from` that `filter` wants.
    pub(super) fn next_match(&self, filter: &SubjectFilter, from: u64) -> Option<u64> {
        let from = from.max(self.index.first);
        if from > self.index.last || self.index.messages == 0 {
            return None;
        }
        if filter.is_all() {
            return self.index.next_live(from);
        }
        if let Some(literals) = filter.literals() {
            let slots = literals.filter_map(|name| self.index.subjects.index_of(name));
            return slots.filter_map(|slot| self.next_of(slot, from)).min();
        }
        let segments = self.index.segments.range(self.index.segment_of(from)..);
        segments
            .filter(|segment| segment.live > 0)
            .find_map(|segment| match &segment.table {
                Table::Memory(table) => self.next_in_memory(segment, table, filter, from),
                Table::Sealed(table) => next_in_sealed(table, filter, segment.below(from)),
            })
    }

    fn next_of(&self, slot: u32, from: u64) -> Option<u64> {
        let Slot {
            first_from,
            last,
            count,
            ..
        } = *self.index.subjects.slot(slot);
        let from = from.max(first_from);
        if from > last {
            return None;
        }
        if count == 1 || from == last {
            return Some(last);
        }
        let name = self.index.subjects.name(slot);
        let segments = self.index.segments.range(self.index.segment_of(from)..);
        segments
            .filter(|segment| segment.live > 0)
            .find_map(|segment| segment.next_of(slot, name, from))
    }

    fn next_in_memory(
        &self,
        segment: &SegmentIndex,
        table: &MemoryTable,
        filter: &SubjectFilter,
        from: u64,
    ) -> Option<u64> {
        let start = segment.below(from);
        let wanted = |(_, entry): &(usize, Entry)| entry.is_live() && self.wants(filter, entry.subject);
        // As many as asking each subject would cost.
        let end = (start + SCAN_MAX.max(table.lists.len())).min(table.entries.len());
        if let Some((_, entry)) = table.entries.range(start, end).find(wanted) {
            return Some(segment.seq(&entry));
        }
        if table.lists.len() < table.entries.len() - end {
            let from = table.entries.get(end).map(|entry| segment.seq(&entry))?;
            let slots = table
                .lists
                .slots()
                .filter(|&slot| self.index.subjects.slot(slot).count > 0 && self.wants(filter, slot));
            return slots
                .filter_map(|slot| segment.next_of(slot, self.index.subjects.name(slot), from))
                .min();
        }
        let mut entries = table.entries.from(end);
        entries.find(wanted).map(|(_, entry)| segment.seq(&entry))
    }

    /// The last record that `filter` wants.
    pub(super) fn last_match(&self, filter: &SubjectFilter) -> Option<u64> {
        let index = self.index;
        if index.messages == 0 {
            return None;
        }
        if let Some(literals) = filter.literals() {
            let slots = literals.filter_map(|name| index.subjects.index_of(name));
            let slots = slots.map(|slot| index.subjects.slot(slot));
            return slots
                .filter(|slot| index.is_alive(slot))
                .map(|slot| slot.last)
                .max();
        }
        let mut near = SCAN_MAX;
        for segment in index.segments.iter().rev().filter(|segment| segment.live > 0) {
            match &segment.table {
                Table::Memory(table) => {
                    let count = if filter.is_all() { usize::MAX } else { near };
                    let mut entries = table.entries.from(0).rev().take(count);
                    let wanted =
                        |(_, entry): &(usize, Entry)| entry.is_live() && self.wants(filter, entry.subject);
                    if let Some((_, entry)) = entries.find(wanted) {
                        return Some(segment.seq(&entry));
                    }
                    near = near.saturating_sub(table.entries.len());
                }
                Table::Sealed(table) if filter.is_all() => {
                    let place = (0..table.index.len())
                        .rev()
                        .find(|place| !table.removed.contains(*place))?;
                    return table.index.seq(place);
                }
                Table::Sealed(_) => near = 0,
            }
            if near == 0 && !filter.is_all() {
                break;
            }
        }
        self.wanted_slots(filter)
            .map(|slot| index.subjects.slot(slot).last)
            .max()
    }

    /// Records at or after `from` that `filter` wants.
    pub(super) fn count(&self, filter: &SubjectFilter, from: u64) -> u64 {
        let index = self.index;
        if from > index.last {
            return 0;
        }
        if from <= index.first {
            return self.count_all(filter);
        }
        // Counted from the nearer end.
        let at = index.segment_of(from);
        let (before, after) = (at + 1, index.segments.len() - at);
        if before < after {
            let below = index.segments.range(..=at);
            let below: u64 = below
                .map(|segment| self.count_in(segment, filter, 0, segment.below(from)))
                .sum();
            return self.count_all(filter).saturating_sub(below);
        }
        index
            .segments
            .range(at..)
            .map(|segment| self.count_in(segment, filter, segment.below(from), segment.len()))
            .sum()
    }

    fn count_all(&self, filter: &SubjectFilter) -> u64 {
        let index = self.index;
        match filter.literals() {
            _ if filter.is_all() => index.messages,
            Some(_) => {
                let slots = self.literal_slots(filter);
                slots.iter().map(|&slot| self.count_of(slot)).sum()
            }
            None => {
                let owed = self.owed(filter);
                let wanted = self.wanted_slots(filter);
                wanted
                    .map(|slot| index.subjects.slot(slot).count - owed.get(&slot).unwrap_or(&0))
                    .sum()
            }
        }
    }

    /// Records of the subject in `slot`.
    fn count_of(&self, slot: u32) -> u64 {
        let counted = self.index.subjects.slot(slot).count;
        if !self.index.owes() {
            return counted;
        }
        counted.saturating_sub(self.index.owed_of(self.index.subjects.name(slot)))
    }

    /// What subjects that `filter` wants are counted too much, by slot.
    fn owed(&self, filter: &SubjectFilter) -> BTreeMap<u32, u64> {
        let mut owed = BTreeMap::new();
        let subjects = &self.index.subjects;
        self.index.for_owed(filter.prefix(), |name, count| {
            if filter.matches(name)
                && let Some(slot) = subjects.index_of(name)
            {
                *owed.entry(slot).or_default() += count;
            }
        });
        owed
    }

    /// Slots of the subjects of a filter without wildcards.
    fn literal_slots(&self, filter: &SubjectFilter) -> Vec<u32> {
        let names = filter.literals().into_iter().flatten();
        let mut slots: Vec<u32> = names
            .filter_map(|name| self.index.subjects.index_of(name))
            .collect();
        slots.sort_unstable();
        slots.dedup();
        slots
    }

    /// Records from place `start` up to `end` of a segment that `filter` wants.
    fn count_in(&self, segment: &SegmentIndex, filter: &SubjectFilter, start: usize, end: usize) -> u64 {
        if segment.live == 0 || start >= end {
            return 0;
        }
        let is_all_of_it = start == 0 && end == segment.len();
        if filter.is_all() && is_all_of_it {
            return u64::from(segment.live);
        }
        if filter.is_all() && segment.is_whole() {
            return (end - start) as u64;
        }
        match &segment.table {
            Table::Memory(table) if filter.literals().is_some() => {
                let (from, to) = (table.seq_at(start, segment.base), table.seq_at(end, segment.base));
                let slots = self.literal_slots(filter);
                let counts = slots
                    .iter()
                    .map(|&slot| table.count_of(slot, segment.base, from, to));
                counts.sum()
            }
            Table::Memory(table) if is_all_of_it && segment.is_whole() && table.lists.len() < end => {
                let wanted = table
                    .lists
                    .slots()
                    .filter(|&slot| self.index.subjects.slot(slot).count > 0 && self.wants(filter, slot));
                wanted.map(|slot| table.lists.get(slot).len() as u64).sum()
            }
            Table::Memory(table) => {
                let wanted = table.entries.range(start, end);
                wanted
                    .filter(|(_, entry)| entry.is_live() && self.wants(filter, entry.subject))
                    .count() as u64
            }
            Table::Sealed(table) => {
                count_in_sealed(table, filter, start, end, is_all_of_it && segment.is_whole())
            }
        }
    }

    /// The first record whose time is `time` or later.
    pub(super) fn at_or_after(&self, time: i64) -> Option<u64> {
        let segments = self
            .index
            .segments
            .iter()
            .filter(|segment| segment.live > 0 && segment.time_max >= time);
        let mut found = segments.filter_map(|segment| match &segment.table {
            Table::Memory(table) => {
                let is_it = |(_, entry): &(usize, Entry)| entry.is_live() && entry.time >= time;
                let start = if table.is_in_time_order {
                    table
                        .entries
                        .partition_point(usize::MAX, |entry| entry.time < time)
                } else {
                    0
                };
                let mut entries = table.entries.from(start);
                entries.find(is_it).map(|(_, entry)| segment.seq(&entry))
            }
            Table::Sealed(table) => {
                let mut found = None;
                let start = table.index.before_time(time);
                table.index.for_entries(start, table.index.len(), |place, entry| {
                    if entry.time >= time && !table.removed.contains(place) {
                        found = Some(segment.seq(entry));
                    }
                    found.is_none()
                });
                found
            }
        });
        found.next()
    }

    /// One subject. `None`: it has no record.
    pub(super) fn subject(&self, name: &str) -> Option<SubjectSummary> {
        let slot = self.index.subjects.index_of(name)?;
        let is_alive = self.index.is_alive(self.index.subjects.slot(slot));
        is_alive.then(|| self.summary(slot, self.count_of(slot)))
    }

    fn summary(&self, slot: u32, messages: u64) -> SubjectSummary {
        let found = self.index.subjects.slot(slot);
        let first = self.next_of(slot, self.index.first).unwrap_or(found.last);
        SubjectSummary {
            subject: self.index.subjects.name(slot).into(),
            messages,
            first: StreamSeq(first),
            last: StreamSeq(found.last),
        }
    }

    /// The subjects that `filter` wants, sorted.
    pub(super) fn subjects(&self, filter: &SubjectFilter) -> Vec<SubjectSummary> {
        let owed = self.owed(filter);
        let summary = |slot| {
            let counted = self.index.subjects.slot(slot).count;
            self.summary(slot, counted - owed.get(&slot).unwrap_or(&0))
        };
        let mut out: Vec<_> = self.wanted_slots(filter).map(summary).collect();
        out.sort_unstable_by(|a, b| a.subject.cmp(&b.subject));
        out
    }

    /// The subjects that have more than `max` records, sorted.
    pub(super) fn subjects_above(&self, max: u64) -> Vec<String> {
        let subjects = &self.index.subjects;
        let above = subjects.iter().filter(|&slot| {
            let found = subjects.slot(slot);
            found.count > max && self.index.is_alive(found) && self.count_of(slot) > max
        });
        let mut out: Vec<String> = above.map(|slot| subjects.name(slot).to_owned()).collect();
        out.sort_unstable();
        out
    }

    /// Positions between the first and the last that hold no record.
    pub(super) fn deleted(&self) -> Ranges {
        let mut out = self.index.gaps(self.index.first);
        for segment in &self.index.segments {
            match &segment.table {
                Table::Memory(table) => {
                    let gone = table.entries.from(0).filter(|(_, entry)| !entry.is_live());
                    gone.map(|(_, entry)| segment.seq(&entry))
                        .for_each(|seq| out.insert(seq, seq));
                }
                Table::Sealed(table) => {
                    let mut next = table.removed.next(0);
                    while let Some(place) = next {
                        if let Some(seq) = table.index.seq(place) {
                            out.insert(seq, seq);
                        }
                        next = table.removed.next(place + 1);
                    }
                }
            }
        }
        let mut within = Ranges::default();
        for (first, last) in out.iter() {
            within.insert(first.max(self.index.first), last);
        }
        within
    }
}

/// The first record of a sealed segment at place `start` or after it that `filter`, which has wildcards, wants.
fn next_in_sealed(table: &SealedTable, filter: &SubjectFilter, start: usize) -> Option<u64> {
    let index = &table.index;
    let mut place = table.next_place(start)?;
    if !filter.has_places(index.number()) {
        for _ in 0..SEALED_SCAN_MAX {
            let entry = index.entry(place)?;
            if index.with_subject(entry.subject, |name| filter.matches(name))? {
                return index.seq(place);
            }
            place = table.next_place(place + 1)?;
        }
    }
    with_places(table, filter, |wanted| {
        let mut at = wanted.next(place)?;
        while table.removed.contains(at) {
            at = wanted.next(at + 1)?;
        }
        index.seq(at)
    })
}

fn count_in_sealed(
    table: &SealedTable,
    filter: &SubjectFilter,
    start: usize,
    end: usize,
    is_exact: bool,
) -> u64 {
    if filter.is_all() {
        let removed = table.removed.count_from(start) - table.removed.count_from(end);
        return (end - start) as u64 - removed;
    }
    if is_exact {
        let mut count = 0;
        for_wanted(table, filter, |subject| count += u64::from(subject.count));
        return count;
    }
    with_places(table, filter, |wanted| {
        wanted.count_without(&table.removed, start) - wanted.count_without(&table.removed, end)
    })
}

/// Calls `visit` with each subject of a sealed segment that `filter` wants.
fn for_wanted(
    table: &SealedTable,
    filter: &SubjectFilter,
    mut visit: impl FnMut(super::sealed::SubjectEntry),
) {
    if let Some(literals) = filter.literals() {
        let mut names: Vec<&str> = literals.collect();
        names.sort_unstable();
        names.dedup();
        names
            .into_iter()
            .filter_map(|name| table.index.find(name))
            .for_each(visit);
        return;
    }
    table.index.for_subjects(filter.prefix(), |_, name, subject| {
        if filter.matches(name) {
            visit(subject);
        }
    });
}

/// Calls `ask` with the places of a sealed segment whose subjects `filter` wants. The filter keeps them: a reader goes
/// on in the same segment.
fn with_places<T>(table: &SealedTable, filter: &SubjectFilter, ask: impl FnOnce(&Bits) -> T) -> T {
    let find = || {
        let mut wanted = Bits::default();
        let len = table.index.len();
        for_wanted(table, filter, |subject| {
            table.index.for_places(subject, |place| {
                wanted.insert(place, len);
            });
        });
        wanted
    };
    filter.with_places(table.index.number(), find, ask)
}
