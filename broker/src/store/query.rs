//! Questions to the index.

use super::filter::SubjectFilter;
use super::index::{SegmentIndex, StreamIndex};
use super::ranges::Ranges;
use super::state::SubjectSummary;
use super::subjects::Slot;
use crate::types::{StreamId, StreamSeq};

/// Entries looked at one by one before the lists of subjects are asked.
const SCAN_MAX: usize = 256;

/// An index together with the stream's handle, for the memory of filters.
#[derive(Clone, Copy)]
pub(super) struct Query<'a> {
    pub(super) index: &'a StreamIndex,
    pub(super) stream: StreamId,
}

impl Query<'_> {
    fn wants(&self, filter: &SubjectFilter, slot: u32) -> bool {
        let subject = self.index.subjects.slot(slot);
        filter.matches_cached(self.stream, slot, subject.generation, &subject.name)
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
            .find_map(|segment| self.next_in(segment, filter, from))
    }

    fn next_of(&self, slot: u32, from: u64) -> Option<u64> {
        let Slot { first_from, last, .. } = *self.index.subjects.slot(slot);
        let from = from.max(first_from);
        if from > last {
            return None;
        }
        let segments = self.index.segments.range(self.index.segment_of(from)..);
        segments
            .filter(|segment| segment.live > 0)
            .find_map(|segment| segment.of_subject(slot, from).next())
    }

    fn next_in(&self, segment: &SegmentIndex, filter: &SubjectFilter, from: u64) -> Option<u64> {
        let start = segment.below(from);
        let wanted = |entry: &&super::index::Entry| entry.is_live() && self.wants(filter, entry.subject);
        let end = (start + SCAN_MAX).min(segment.entries.len());
        if let Some(entry) = segment.entries[start..end].iter().find(wanted) {
            return Some(segment.seq(entry));
        }
        if segment.lists.len() < segment.entries.len() - end {
            let from = segment.entries.get(end).map(|entry| segment.seq(entry))?;
            let slots = segment
                .lists
                .slots()
                .filter(|&slot| self.index.subjects.slot(slot).count > 0 && self.wants(filter, slot));
            return slots
                .filter_map(|slot| segment.of_subject(slot, from).next())
                .min();
        }
        segment.entries[end..]
            .iter()
            .find(wanted)
            .map(|entry| segment.seq(entry))
    }

    /// The last record that `filter` wants.
    pub(super) fn last_match(&self, filter: &SubjectFilter) -> Option<u64> {
        if self.index.messages == 0 {
            return None;
        }
        if let Some(literals) = filter.literals() {
            let slots = literals.filter_map(|name| self.index.subjects.index_of(name));
            return slots.map(|slot| self.index.subjects.slot(slot).last).max();
        }
        let entries = self
            .index
            .segments
            .iter()
            .rev()
            .filter(|segment| segment.live > 0);
        let mut entries = entries.flat_map(|segment| {
            segment
                .entries
                .iter()
                .rev()
                .map(|entry| (segment.seq(entry), entry.is_live(), entry.subject))
        });
        let near = if filter.is_all() { usize::MAX } else { SCAN_MAX };
        let found = entries
            .by_ref()
            .take(near)
            .find(|&(_, live, slot)| live && self.wants(filter, slot));
        if let Some((seq, ..)) = found {
            return Some(seq);
        }
        let wanted = self
            .index
            .subjects
            .iter()
            .filter(|&(slot, _)| self.wants(filter, slot));
        wanted.map(|(_, slot)| slot.last).max()
    }

    /// Records at or after `from` that `filter` wants.
    pub(super) fn count(&self, filter: &SubjectFilter, from: u64) -> u64 {
        let index = self.index;
        if from <= index.first {
            return match filter.literals() {
                _ if filter.is_all() => index.messages,
                Some(literals) => {
                    let mut slots: Vec<u32> = literals
                        .filter_map(|name| index.subjects.index_of(name))
                        .collect();
                    slots.sort_unstable();
                    slots.dedup();
                    slots.iter().map(|&slot| index.subjects.slot(slot).count).sum()
                }
                None => {
                    let wanted = index
                        .subjects
                        .iter()
                        .filter(|&(slot, _)| self.wants(filter, slot));
                    wanted.map(|(_, slot)| slot.count).sum()
                }
            };
        }
        if from > index.last {
            return 0;
        }
        index
            .segments
            .range(index.segment_of(from)..)
            .map(|segment| self.count_in(segment, filter, from))
            .sum()
    }

    fn count_in(&self, segment: &SegmentIndex, filter: &SubjectFilter, from: u64) -> u64 {
        let start = segment.below(from);
        if segment.live == 0 {
            return 0;
        }
        if start == 0 && filter.is_all() {
            return u64::from(segment.live);
        }
        if segment.is_whole()
            && (filter.is_all() || start == 0 && segment.lists.len() < segment.entries.len())
        {
            if filter.is_all() {
                return (segment.entries.len() - start) as u64;
            }
            let wanted = segment
                .lists
                .slots()
                .filter(|&slot| self.index.subjects.slot(slot).count > 0 && self.wants(filter, slot));
            return wanted.map(|slot| segment.lists.get(slot).len() as u64).sum();
        }
        let wanted = segment.entries[start..].iter();
        wanted
            .filter(|entry| entry.is_live() && self.wants(filter, entry.subject))
            .count() as u64
    }

    /// The first record whose time is `time` or later.
    pub(super) fn at_or_after(&self, time: i64) -> Option<u64> {
        let segments = self
            .index
            .segments
            .iter()
            .filter(|segment| segment.live > 0 && segment.time_max >= time);
        let mut found = segments.filter_map(|segment| {
            let entry = segment
                .entries
                .iter()
                .find(|entry| entry.is_live() && entry.time >= time)?;
            Some(segment.seq(entry))
        });
        found.next()
    }

    /// One subject.
    pub(super) fn subject(&self, slot: u32) -> SubjectSummary {
        let found = self.index.subjects.slot(slot);
        let first = self.next_of(slot, self.index.first).unwrap_or(found.last);
        SubjectSummary {
            subject: found.name.clone(),
            messages: found.count,
            first: StreamSeq(first),
            last: StreamSeq(found.last),
        }
    }

    /// The subjects that `filter` wants, sorted.
    pub(super) fn subjects(&self, filter: &SubjectFilter) -> Vec<SubjectSummary> {
        let wanted = self
            .index
            .subjects
            .iter()
            .filter(|&(slot, _)| self.wants(filter, slot));
        let mut out: Vec<_> = wanted.map(|(slot, _)| self.subject(slot)).collect();
        out.sort_unstable_by(|a, b| a.subject.cmp(&b.subject));
        out
    }

    /// Positions between the first and the last that hold no record.
    pub(super) fn deleted(&self) -> Ranges {
        let mut out = Ranges::default();
        let mut next = self.index.first;
        for segment in &self.index.segments {
            for entry in segment.entries.iter().filter(|entry| entry.is_live()) {
                let seq = segment.seq(entry);
                if seq > next {
                    out.insert(next, seq - 1);
                }
                next = seq + 1;
            }
        }
        if next <= self.index.last {
            out.insert(next, self.index.last);
        }
        out
    }
}
