//! Removals that stand and fall with a record: what a record pushes out is back if that record finds no room on the disk.

use std::collections::BTreeMap;

use super::StoreError;
use super::index::StreamIndex;
use super::ranges::Ranges;
use super::sealed::Bits;
use super::stream::Stream;
use super::table::{Entries, Entry, MemoryTable, REMOVED, Table};
use crate::env::Fs;

/// A buffer for names that grew beyond this is given back after the commit.
const NAMES_BYTES_MAX: usize = 256 * 1024;

/// What is to be put back should records that are not durable yet be refused. Bounded by what one batch removes.
#[derive(Debug, Default)]
pub(super) struct Undo {
    steps: Vec<Step>,
    /// Subjects of single records, one after the other.
    names: String,
    /// Removed in their own right since the first step.
    sure: Ranges,
    /// Everything below was removed in its own right since the first step.
    sure_below: u64,
    /// Everything below was purged in its own right since the first step.
    sure_floor: u64,
}

#[derive(Debug)]
enum Step {
    Record {
        by: u64,
        seq: u64,
        name_at: u32,
        name_len: u16,
    },
    Purge {
        by: u64,
        floor: u64,
        saved: Vec<Saved>,
    },
}

impl Step {
    fn by(&self) -> u64 {
        match self {
            Self::Record { by, .. } | Self::Purge { by, .. } => *by,
        }
    }
}

/// The records of one segment before they were removed.
#[derive(Debug)]
struct Saved {
    base: u64,
    kept: Kept,
}

#[derive(Debug)]
enum Kept {
    /// Of a segment in memory: the entries, and the subjects of the records that were there.
    Memory(Entries, BTreeMap<u32, Box<str>>),
    /// Of a sealed one: what was removed before.
    Sealed(Bits),
}

/// What was put back.
#[derive(Debug, Default)]
struct Undone {
    records: Ranges,
    floor: Option<u64>,
}

impl Undo {
    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// All records are durable: nothing is put back any more.
    pub(super) fn clear(&mut self) {
        if self.is_empty() {
            return;
        }
        let mut names = std::mem::take(&mut self.names);
        let mut steps = std::mem::take(&mut self.steps);
        names.clear();
        steps.clear();
        *self = Self::default();
        if names.capacity() <= NAMES_BYTES_MAX {
            (self.names, self.steps) = (names, steps);
        }
    }

    /// Where the records begin that count after a restart, as far as nothing depends on records that are not durable.
    pub(super) fn floor(&self, floor: u64) -> u64 {
        let before = self.steps.iter().find_map(|step| match step {
            Step::Purge { floor, .. } => Some(*floor),
            Step::Record { .. } => None,
        });
        before.map_or(floor, |before| before.max(self.sure_floor))
    }

    fn note(&mut self, by: u64, seq: u64, name: &str) {
        let (name_at, name_len) = (self.names.len() as u32, name.len() as u16);
        self.names.push_str(name);
        self.steps.push(Step::Record {
            by,
            seq,
            name_at,
            name_len,
        });
    }
}

impl StreamIndex {
    /// Removes the record at `seq`, to be put back if `by` is refused. `false`: it was not there.
    fn displace(&mut self, seq: u64, by: u64, undo: &mut Undo) -> bool {
        let noted = self.with_subject(seq, |name| undo.note(by, seq, name));
        if noted.is_none() {
            return false;
        }
        let was_there = self.remove(seq);
        if !was_there {
            undo.steps.pop();
        }
        was_there
    }

    /// Removes every record below `up_to`, to be put back if `by` is refused. Returns how many.
    fn displace_below(&mut self, up_to: u64, by: u64, floor: u64, undo: &mut Undo) -> u64 {
        let is_touched = |segment: &&super::table::SegmentIndex| segment.base < up_to && segment.live > 0;
        let saved = self.segments.iter().filter(is_touched).map(|segment| {
            let kept = match &segment.table {
                Table::Memory(table) => {
                    let live = table.entries.from(0).filter(|(_, entry)| entry.is_live());
                    let names =
                        live.map(|(_, entry)| (entry.subject, self.subjects.name(entry.subject).into()));
                    Kept::Memory(table.entries.clone(), names.collect())
                }
                Table::Sealed(table) => Kept::Sealed(table.removed.clone()),
            };
            Saved {
                base: segment.base,
                kept,
            }
        });
        let saved = saved.collect();
        undo.steps.push(Step::Purge { by, floor, saved });
        self.remove_below(up_to)
    }

    /// Puts back what was removed for records above `durable`, which are gone already.
    fn put_back(&mut self, undo: &Undo, durable: u64) -> Undone {
        let mut undone = Undone::default();
        for step in undo.steps.iter().rev().take_while(|step| step.by() > durable) {
            match step {
                Step::Record {
                    seq,
                    name_at,
                    name_len,
                    ..
                } => {
                    let name_at = *name_at as usize;
                    let name = &undo.names[name_at..name_at + usize::from(*name_len)];
                    if *seq <= durable && !undo.sure.contains(*seq) && self.restore(*seq, name) {
                        undone.records.insert(*seq, *seq);
                    }
                }
                Step::Purge { floor, saved, .. } => {
                    undone.floor = Some(*floor);
                    for one in saved {
                        self.restore_saved(one, durable, &undo.sure);
                    }
                }
            }
        }
        self.repack_lists();
        undone
    }

    /// Puts the records of a segment back.
    fn restore_saved(&mut self, saved: &Saved, durable: u64, is_sure: &Ranges) {
        let at = self.segment_of(saved.base);
        let base = saved.base;
        let Some(segment) = self.segments.get_mut(at).filter(|segment| segment.base == base) else {
            return;
        };
        if let Table::Sealed(table) = &mut segment.table
            && segment.live == 0
        {
            // A segment that goes as a whole does not say of each record that it is gone.
            let len = table.index.len();
            table.removed.insert_range(0, len, len);
        }
        let mut back: Vec<(u64, Box<str>)> = Vec::new();
        match (&mut segment.table, &saved.kept) {
            (table, Kept::Memory(entries, names)) => {
                let count =
                    entries.partition_point(usize::MAX, |entry| base + u64::from(entry.delta) <= durable);
                let entries = || entries.range(0, count).map(|(_, entry)| entry);
                let live = entries().filter_map(|entry| {
                    let name = names.get(&entry.subject)?;
                    Some((base + u64::from(entry.delta), name.clone()))
                });
                back.extend(live);
                if let Table::Memory(table) = table
                    && table.entries.len() < count
                {
                    let removed = entries().map(|entry| Entry {
                        subject: REMOVED,
                        ..entry
                    });
                    *table = MemoryTable {
                        is_in_time_order: entries().is_sorted_by_key(|entry| entry.time),
                        entries: removed.collect(),
                        ..MemoryTable::default()
                    };
                }
            }
            (Table::Sealed(table), Kept::Sealed(before)) => {
                let index = &table.index;
                index.for_entries(0, index.len(), |place, entry| {
                    if !before.contains(place)
                        && let Some(name) = index.with_subject(entry.subject, |name| Box::from(name))
                    {
                        back.push((base + u64::from(entry.delta), name));
                    }
                    true
                });
            }
            (Table::Memory(_), Kept::Sealed(_)) => {}
        }
        for (seq, name) in back {
            if !is_sure.contains(seq) {
                self.restore(seq, &name);
            }
        }
    }

    /// Puts a record that was removed back; its subject is `name`. `false`: its segment does not know it, or it is there.
    fn restore(&mut self, seq: u64, name: &str) -> bool {
        let at = self.segment_of(seq);
        let Some(segment) = self.segments.get_mut(at) else {
            return false;
        };
        let place = segment.below(seq);
        let base = segment.base;
        let entry = match &mut segment.table {
            Table::Memory(table) => {
                let is_it = |entry: &Entry| base + u64::from(entry.delta) == seq && !entry.is_live();
                let Some(entry) = table.entries.get(place).filter(is_it) else {
                    return false;
                };
                table
                    .entries
                    .set_subject(place, self.subjects.put_back(name, seq));
                entry
            }
            Table::Sealed(table) => {
                let entry = table.index.entry(place).filter(|_| table.removed.contains(place));
                let Some(entry) = entry.filter(|entry| base + u64::from(entry.delta) == seq) else {
                    return false;
                };
                table.removed.remove(place);
                self.subjects.put_back(name, seq);
                entry
            }
        };
        let size = self.overhead.size(&entry);
        segment.live += 1;
        segment.live_bytes += size;
        self.messages += 1;
        self.bytes += size;
        self.first = self.first.min(seq);
        self.known_time.set(None);
        true
    }

    /// Makes the lists of subjects anew where records were put back.
    fn repack_lists(&mut self) {
        let count = self.segments.len();
        for (at, segment) in self.segments.iter_mut().enumerate() {
            let Table::Memory(table) = &mut segment.table else {
                continue;
            };
            table.list_anew();
            if at + 1 < count {
                table.lists.seal();
            }
        }
    }
}

impl<F: Fs> Stream<F> {
    /// Removes a record in favour of `by`, which is not durable yet.
    pub(super) fn displace(&mut self, seq: u64, by: u64) -> Result<bool, StoreError> {
        self.check_writable()?;
        let Some(log) = self.log.as_mut().filter(|_| by > self.durable) else {
            return self.remove(seq);
        };
        if !self.index.displace(seq, by, &mut self.undo) {
            return Ok(false);
        }
        log.to_remove.insert(seq, seq);
        Ok(true)
    }

    /// Removes the first record in favour of `by`, which is not durable yet. A crash may bring it back.
    pub(super) fn displace_first(&mut self, by: u64) -> Result<bool, StoreError> {
        self.check_writable()?;
        let first = self.index.first;
        if self.log.is_none() || by <= self.durable {
            return Ok(self.remove_below(first + 1)? > 0);
        }
        Ok(self.index.displace(first, by, &mut self.undo))
    }

    /// Removes every record below `by`, which is not durable yet.
    pub(super) fn displace_all(&mut self, by: u64) -> Result<u64, StoreError> {
        self.check_writable()?;
        let Some(log) = self.log.as_mut().filter(|_| by > self.durable) else {
            return self.purge(by);
        };
        let removed = self.index.displace_below(by, by, log.floor, &mut self.undo);
        if log.floor < by {
            log.floor = by;
            log.meta_dirty = true;
        }
        Ok(removed)
    }

    /// Notes that the record is removed whatever becomes of others.
    pub(super) fn remove_for_sure(&mut self, seq: u64) {
        if !self.undo.is_empty() {
            self.undo.sure.insert(seq, seq);
        }
    }

    /// Notes that all records below are removed, or purged, whatever becomes of others.
    pub(super) fn remove_below_for_sure(&mut self, seq: u64, is_purge: bool) {
        if self.undo.is_empty() {
            return;
        }
        self.undo.sure_below = self.undo.sure_below.max(seq);
        if is_purge {
            self.undo.sure_floor = self.undo.sure_floor.max(seq);
        }
    }

    /// Puts back what records that are not durable have pushed out. They are out of the index already.
    pub(super) fn undo(&mut self) {
        if self.undo.is_empty() {
            return;
        }
        let undone = self.index.put_back(&self.undo, self.durable);
        if let Some(log) = &mut self.log {
            let mut to_remove = Ranges::default();
            for (first, last) in log.to_remove.iter() {
                undone.records.subtract_from(first, last, &mut to_remove);
            }
            for (first, last) in self.undo.sure.iter() {
                to_remove.insert(first, last.min(self.durable));
            }
            log.to_remove = to_remove;
            if let Some(floor) = undone.floor {
                log.floor = floor.max(self.undo.sure_floor);
            }
        }
        if self.undo.sure_below > 0 {
            self.index
                .remove_below(self.undo.sure_below.min(self.durable + 1));
        }
        self.undo.clear();
    }
}
