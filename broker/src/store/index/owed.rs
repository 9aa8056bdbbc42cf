//! Subjects of segments that went whole. To take them off takes time, for which nobody waits: until it is done they are
//! counted, and what they are counted too much is told by the segment's list, which stays as long.
//!
//! Only sealed segments below the first record owe anything: the records that were there when they went. Those that had
//! been removed before are told by the places in `removed`, which stay as they were. A subject without a record may still
//! have a slot then: its last record is below the first of the stream.

use super::super::subjects::Slot;
use super::super::table::{SealedTable, Table};
use super::StreamIndex;

/// Places of records that are looked at in the time that a block of a list takes.
const PLACES_PER_BLOCK: usize = 1024;

impl StreamIndex {
    /// Whether subjects are counted that are gone.
    pub(in super::super) fn owes(&self) -> bool {
        self.owing > 0
    }

    /// Segments whose subjects are counted though they are gone.
    pub(in super::super) fn owing(&self) -> usize {
        self.owing
    }

    /// Whether a subject has a record.
    pub(in super::super) fn is_alive(&self, slot: &Slot) -> bool {
        slot.count > 0 && slot.last >= self.first
    }

    /// Number of subjects that have a record. While something is owed each subject is looked at.
    pub(in super::super) fn subjects_alive(&self) -> u64 {
        if !self.owes() {
            return self.subjects.len() as u64;
        }
        let slots = self.subjects.iter().map(|slot| self.subjects.slot(slot));
        slots.filter(|slot| self.is_alive(slot)).count() as u64
    }

    /// The lists that are owed, and from which block on.
    fn owed(&self) -> impl Iterator<Item = (&SealedTable, usize)> {
        let below = self
            .segments
            .iter()
            .take_while(|segment| segment.base < self.first);
        let owed = below.filter_map(|segment| match (&segment.table, segment.owed) {
            (Table::Sealed(table), Some(from)) => Some((&**table, from)),
            _ => None,
        });
        owed.take(self.owing)
    }

    /// What one subject is counted too much.
    pub(in super::super) fn owed_of(&self, name: &str) -> u64 {
        let owed = self
            .owed()
            .filter_map(|(table, from)| Some(table.count_of(table.index.find_from(name, from)?)));
        owed.sum()
    }

    /// Calls `visit` with subjects that begin with `prefix`, and what they are counted too much; with some more than
    /// once.
    pub(in super::super) fn for_owed(&self, prefix: &str, mut visit: impl FnMut(&str, u64)) {
        for (table, from) in self.owed() {
            table.index.for_subjects_from(prefix, from, |_, name, subject| {
                visit(name, table.count_of(subject))
            });
        }
    }

    /// Base of the segment after the one at `at`.
    pub(super) fn base_after(&self, at: usize) -> u64 {
        self.segments.get(at + 1).map_or(u64::MAX, |next| next.base)
    }

    /// Takes off what is owed, at most so many blocks of lists, or one.
    pub(in super::super) fn pay(&mut self, blocks: usize) {
        let mut left = blocks;
        let mut at = 0;
        while self.owing > 0 && left > 0 {
            let next_base = self.base_after(at);
            let Some(segment) = self.segments.get_mut(at) else {
                return;
            };
            let (Some(from), Table::Sealed(table)) = (segment.owed, &segment.table) else {
                at += 1;
                continue;
            };
            let subjects = &mut self.subjects;
            let mut looked_at = 0;
            let was_there = table.index.for_block(from, |name, subject| {
                if !table.removed.is_unused() {
                    looked_at += subject.count as usize;
                }
                let count = table.count_of(subject);
                if count > 0 {
                    subjects.take_off(name, count, next_base);
                }
            });
            left = left.saturating_sub(1 + looked_at / PLACES_PER_BLOCK);
            if was_there && from + 1 < table.index.blocks() {
                segment.owed = Some(from + 1);
            } else {
                segment.owed = None;
                self.owing -= 1;
            }
        }
    }
}
