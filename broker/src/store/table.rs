//! The records of one segment: in memory while the segment is written to (16 bytes a record, and 4 if its subject takes
//! turns with others), on disk once it is sealed.

mod entries;

pub(super) use entries::Entries;

use super::sealed::{Bits, SealedIndex, SubjectEntry};
use super::subjects::SubjectLists;

/// Subject of an entry whose record was removed.
pub(super) const REMOVED: u32 = u32::MAX;
/// Bit of an entry's length: the record has headers.
pub(super) const HAS_HEADERS: u32 = 1 << 31;

/// A record in its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Position, counted from the segment's base.
    pub(super) delta: u32,
    /// Offset in the file, in units of 8 bytes.
    pub(super) offset8: u32,
    /// Exact bytes of the frame, and `HAS_HEADERS`.
    pub(super) len: u32,
    /// In memory the slot of the subject, or `REMOVED`; on disk the subject's rank in the segment.
    pub(super) subject: u32,
    /// Bytes that a packed frame is shorter than if it were not packed; 0 if it is not.
    pub(super) saved: u32,
    pub(super) time: i64,
}

impl Entry {
    pub(super) fn is_live(&self) -> bool {
        self.subject != REMOVED
    }

    pub(super) fn has_headers(&self) -> bool {
        self.len & HAS_HEADERS != 0
    }
}

/// The entries of a segment.
#[derive(Debug)]
pub(super) enum Table {
    Memory(MemoryTable),
    Sealed(Box<SealedTable>),
}

/// Entries in memory, in the order of their positions.
#[derive(Debug)]
pub(super) struct MemoryTable {
    pub(super) entries: Entries,
    pub(super) lists: SubjectLists,
    /// Whether no entry is older than one before it.
    pub(super) is_in_time_order: bool,
}

impl Default for MemoryTable {
    fn default() -> Self {
        Self {
            entries: Entries::default(),
            lists: SubjectLists::default(),
            is_in_time_order: true,
        }
    }
}

/// Entries on disk.
#[derive(Debug)]
pub(super) struct SealedTable {
    pub(super) index: SealedIndex,
    /// Places of entries whose record was removed.
    pub(super) removed: Bits,
}

impl SealedTable {
    /// Records of a subject that are there.
    pub(super) fn count_of(&self, subject: SubjectEntry) -> u64 {
        if self.removed.is_unused() {
            return u64::from(subject.count);
        }
        if subject.count as usize == self.index.len() {
            return u64::from(subject.count) - self.removed.count_from(0);
        }
        let mut count = 0;
        self.index
            .for_places(subject, |place| count += u64::from(!self.removed.contains(place)));
        count
    }

    /// The first place at or after `from` whose record is there.
    pub(super) fn next_place(&self, from: usize) -> Option<usize> {
        let place = self.removed.next_missing(from);
        (place < self.index.len()).then_some(place)
    }
}

/// The records of one segment.
#[derive(Debug)]
pub(super) struct SegmentIndex {
    /// Position that deltas count from.
    pub(super) base: u64,
    pub(super) table: Table,
    /// Entries that are not removed.
    pub(super) live: u32,
    pub(super) live_bytes: u64,
    /// Highest time of any entry.
    pub(super) time_max: i64,
    /// All of it went at once, and its subjects are still counted, from this block of its list on.
    pub(super) owed: Option<usize>,
}

impl SegmentIndex {
    pub(super) fn new(base: u64) -> Self {
        Self {
            base,
            table: Table::Memory(MemoryTable::default()),
            live: 0,
            live_bytes: 0,
            time_max: i64::MIN,
            owed: None,
        }
    }

    pub(super) fn seq(&self, entry: &Entry) -> u64 {
        self.base + u64::from(entry.delta)
    }

    /// Number of entries.
    pub(super) fn len(&self) -> usize {
        match &self.table {
            Table::Memory(table) => table.entries.len(),
            Table::Sealed(table) => table.index.len(),
        }
    }

    /// Position of the last entry.
    pub(super) fn last_seq(&self) -> Option<u64> {
        match &self.table {
            Table::Memory(table) => table.entries.last().map(|entry| self.seq(&entry)),
            Table::Sealed(table) => (table.index.len() > 0).then_some(table.index.header.last),
        }
    }

    /// Number of entries below `seq`.
    pub(super) fn below(&self, seq: u64) -> usize {
        let table = match &self.table {
            Table::Memory(table) => table,
            Table::Sealed(table) => return table.index.below(seq),
        };
        let Some(delta) = seq.checked_sub(self.base) else {
            return 0;
        };
        // Without gaps an entry stands at its delta, with gaps before it.
        let guess = usize::try_from(delta)
            .unwrap_or(usize::MAX)
            .min(table.entries.len());
        match table.entries.get(guess) {
            Some(entry) if u64::from(entry.delta) == delta => guess,
            _ => table
                .entries
                .partition_point(guess, |entry| u64::from(entry.delta) < delta),
        }
    }

    /// The entry at `place`, if its record is there. The subject is what the table's kind says.
    pub(super) fn entry(&self, place: usize) -> Option<Entry> {
        match &self.table {
            Table::Memory(table) => table.entries.get(place).filter(Entry::is_live),
            Table::Sealed(table) if table.removed.contains(place) => None,
            Table::Sealed(table) => table.index.entry(place),
        }
    }

    /// The first record at or after `from`.
    pub(super) fn next_live(&self, from: u64) -> Option<u64> {
        if self.live == 0 {
            return None;
        }
        let start = self.below(from);
        match &self.table {
            Table::Memory(table) => {
                let mut entries = table.entries.from(start);
                let (_, entry) = entries.find(|(_, entry)| entry.is_live())?;
                Some(self.seq(&entry))
            }
            Table::Sealed(table) => table.index.seq(table.next_place(start)?),
        }
    }

    /// The first record at or after `from` of the subject in `slot`, whose name is `name`.
    pub(super) fn next_of(&self, slot: u32, name: &str, from: u64) -> Option<u64> {
        match &self.table {
            Table::Memory(table) => table.of_subject(slot, self.base, from).next(),
            Table::Sealed(table) => {
                let subject = table.index.find(name)?;
                let place = table.index.next_of(subject, self.below(from), &table.removed)?;
                table.index.seq(place)
            }
        }
    }

    /// The last record at or below `upto` of the subject in `slot`, whose name is `name`.
    pub(super) fn last_of(&self, slot: u32, name: &str, upto: u64) -> Option<u64> {
        match &self.table {
            Table::Memory(table) => table
                .of_subject(slot, self.base, 0)
                .rev()
                .find(|&seq| seq <= upto),
            Table::Sealed(table) => {
                let subject = table.index.find(name)?;
                let end = self.below(upto.saturating_add(1));
                table
                    .index
                    .seq(table.index.last_of(subject, end, &table.removed)?)
            }
        }
    }

    /// Number of different subjects, if memory has them.
    pub(super) fn subjects_in_memory(&self) -> usize {
        match &self.table {
            Table::Memory(table) => table.lists.len(),
            Table::Sealed(_) => 0,
        }
    }

    /// Whether no entry was removed, so that the lists of subjects are exact.
    pub(super) fn is_whole(&self) -> bool {
        self.live as usize == self.len()
    }

    /// Calls `visit` with each position from `from` to `to` that has no entry.
    pub(super) fn for_gaps(&self, from: u64, to: u64, visit: &mut impl FnMut(u64, u64)) {
        let mut next = from;
        let mut skip_to = |first: u64, last: u64, after: u64| {
            let (first, last) = (first.max(next), last.min(to));
            if first <= last {
                visit(first, last);
            }
            next = next.max(after);
        };
        match &self.table {
            Table::Memory(table) => {
                let mut at = from;
                for (_, entry) in table.entries.from(self.below(from)) {
                    let seq = self.seq(&entry);
                    if seq > at {
                        skip_to(at, seq - 1, seq + 1);
                    }
                    at = seq + 1;
                }
                skip_to(at, to, at);
            }
            Table::Sealed(table) if table.index.len() == 0 => skip_to(from, to, to),
            Table::Sealed(table) => {
                let header = &table.index.header;
                if header.first > from {
                    skip_to(from, header.first - 1, header.first);
                }
                if header.last > from {
                    table.index.for_gaps(|first, last| skip_to(first, last, last + 1));
                }
                skip_to(header.last + 1, to, to);
            }
        }
    }
}

impl MemoryTable {
    /// Makes the lists of subjects anew, with the records that are there.
    pub(super) fn list_anew(&mut self) {
        let mut lists = SubjectLists::default();
        let live = self.entries.from(0).filter(|(_, entry)| entry.is_live());
        live.for_each(|(place, entry)| lists.push(entry.subject, place as u32));
        self.lists = lists;
    }

    /// Position of the entry at `place`; above all if there is none.
    pub(super) fn seq_at(&self, place: usize, base: u64) -> u64 {
        let entry = self.entries.get(place);
        entry.map_or(u64::MAX, |entry| base + u64::from(entry.delta))
    }

    /// Number of records of the subject in `slot` at position `from` or above, and below `to`.
    pub(super) fn count_of(&self, slot: u32, base: u64, from: u64, to: u64) -> u64 {
        let records = self.of_subject(slot, base, from);
        records.take_while(|seq| *seq < to).count() as u64
    }

    /// Records of the subject in `slot`, from position `from` on.
    pub(super) fn of_subject(
        &self,
        slot: u32,
        base: u64,
        from: u64,
    ) -> impl DoubleEndedIterator<Item = u64> + '_ {
        let list = self.lists.get(slot);
        let entry = move |number: usize| self.entries.get(list.at(number)? as usize);
        let seq = move |entry: &Entry| base + u64::from(entry.delta);
        let (mut start, mut end) = (0, list.len());
        while start < end {
            let middle = usize::midpoint(start, end);
            if entry(middle).is_some_and(|entry| seq(&entry) < from) {
                start = middle + 1;
            } else {
                end = middle;
            }
        }
        (start..list.len()).filter_map(move |number| {
            let entry = entry(number)?;
            (entry.subject == slot).then(|| seq(&entry))
        })
    }
}
