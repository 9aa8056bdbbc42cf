//! Subjects of one stream as small numbers, and where their records are.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};

use hashbrown::HashTable;

/// Names of subjects that are gone are cleared away once they take this many bytes, and half of all.
const GARBAGE_BYTES_MIN: usize = 64 * 1024;

/// Subjects that have a record, each in a numbered slot: 48 bytes and the name. Slots are used again once their subject
/// has no record.
#[derive(Debug, Default)]
pub(super) struct Subjects {
    /// Numbers of slots by name.
    by_name: HashTable<u32>,
    hasher: RandomState,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// The names one after the other.
    names: String,
    /// Bytes of names that are gone.
    garbage: usize,
    /// The slot used last: most streams see runs of one subject.
    recent: u32,
}

/// One subject.
#[derive(Debug)]
pub(super) struct Slot {
    name_at: u64,
    name_len: u16,
    /// From 1; rises each time the slot is used again.
    pub(super) generation: u32,
    /// Records that are there. 0: the slot is free.
    pub(super) count: u64,
    /// The first record is not below this position.
    pub(super) first_from: u64,
    /// Position of the last record.
    pub(super) last: u64,
}

impl Slot {
    fn name<'a>(&self, names: &'a str) -> &'a str {
        let at = self.name_at as usize;
        &names[at..at + usize::from(self.name_len)]
    }
}

impl Subjects {
    /// The slot of `name`, a new one if it has none, with the record at `seq` counted.
    pub(super) fn add(&mut self, name: &str, seq: u64) -> u32 {
        self.add_many(name, 1, seq, seq)
    }

    /// The slot of `name`, a new one if it has none, with `count` more records from `first` to `last`.
    pub(super) fn add_many(&mut self, name: &str, count: u64, first: u64, last: u64) -> u32 {
        let index = match self.slots.get(self.recent as usize) {
            Some(slot) if slot.count > 0 && slot.name(&self.names) == name => self.recent,
            _ => match self.index_of(name) {
                Some(index) => index,
                None => self.insert(name, first),
            },
        };
        self.recent = index;
        self.count_in(index, count, last);
        index
    }

    /// The slot of `name`, a new one if it has none, with a record at `seq` counted that was there before.
    pub(super) fn put_back(&mut self, name: &str, seq: u64) -> u32 {
        let index = match self.index_of(name) {
            Some(index) => index,
            None => self.insert(name, seq),
        };
        let slot = &mut self.slots[index as usize];
        slot.count += 1;
        slot.last = slot.last.max(seq);
        slot.first_from = slot.first_from.min(seq);
        index
    }

    fn count_in(&mut self, index: u32, count: u64, last: u64) {
        let slot = &mut self.slots[index as usize];
        slot.count += count;
        slot.last = slot.last.max(last);
    }

    fn insert(&mut self, name: &str, seq: u64) -> u32 {
        if self.garbage > GARBAGE_BYTES_MIN && self.garbage > self.names.len() / 2 {
            self.clear_away();
        }
        let mut slot = Slot {
            name_at: self.names.len() as u64,
            name_len: name.len() as u16,
            generation: 1,
            count: 0,
            first_from: seq,
            last: seq,
        };
        self.names.push_str(name);
        let index = match self.free.pop() {
            Some(index) => {
                let old = &mut self.slots[index as usize];
                slot.generation = ((old.generation + 1) & (u32::MAX >> 1)).max(1);
                *old = slot;
                index
            }
            None => {
                self.slots.push(slot);
                (self.slots.len() - 1) as u32
            }
        };
        let Self {
            by_name,
            hasher,
            slots,
            names,
            ..
        } = self;
        let hash_of = |index: &u32| hasher.hash_one(slots[*index as usize].name(names));
        by_name.insert_unique(hasher.hash_one(name), index, hash_of);
        index
    }

    /// Moves the names that still count together.
    fn clear_away(&mut self) {
        let mut names = String::with_capacity(self.names.len() - self.garbage);
        for slot in self.slots.iter_mut().filter(|slot| slot.count > 0) {
            let at = names.len() as u64;
            names.push_str(slot.name(&self.names));
            slot.name_at = at;
        }
        self.names = names;
        self.garbage = 0;
    }

    /// Takes `count` records off a slot. Returns whether the subject still has any.
    pub(super) fn take(&mut self, index: u32, count: u64) -> bool {
        let slot = &mut self.slots[index as usize];
        slot.count -= count;
        if slot.count > 0 {
            return true;
        }
        let hash = self.hasher.hash_one(slot.name(&self.names));
        self.garbage += usize::from(slot.name_len);
        if let Ok(found) = self.by_name.find_entry(hash, |other| *other == index) {
            found.remove();
        }
        self.free.push(index);
        false
    }

    /// Takes `count` records off a subject whose records are at `first` or above then. `false`: it has not as many.
    pub(super) fn take_off(&mut self, name: &str, count: u64, first: u64) -> bool {
        let Some(index) = self.index_of(name) else {
            return false;
        };
        if self.slot(index).count < count {
            return false;
        }
        if self.take(index, count) {
            let slot = self.slot_mut(index);
            slot.first_from = slot.first_from.max(first);
        }
        true
    }

    /// Makes room for `count` more subjects.
    pub(super) fn reserve(&mut self, count: usize) {
        let Self {
            by_name,
            hasher,
            slots,
            names,
            ..
        } = self;
        slots.reserve_exact(count);
        let hash_of = |index: &u32| hasher.hash_one(slots[*index as usize].name(names));
        by_name.reserve(count, hash_of);
    }

    pub(super) fn index_of(&self, name: &str) -> Option<u32> {
        let is_it = |index: &u32| self.name(*index) == name;
        self.by_name.find(self.hasher.hash_one(name), is_it).copied()
    }

    pub(super) fn slot(&self, index: u32) -> &Slot {
        &self.slots[index as usize]
    }

    pub(super) fn slot_mut(&mut self, index: u32) -> &mut Slot {
        &mut self.slots[index as usize]
    }

    /// The name of the subject in a slot that is in use.
    pub(super) fn name(&self, index: u32) -> &str {
        self.slots[index as usize].name(&self.names)
    }

    /// Number of subjects that have a record.
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Slots of subjects that have a record, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        let slots = self.slots.iter().enumerate();
        slots
            .filter(|(_, slot)| slot.count > 0)
            .map(|(index, _)| index as u32)
    }
}

/// Adds the subjects of many segments, each segment's in order: they are found by going along, not by asking for each.
#[derive(Debug, Default)]
pub(super) struct Merge {
    /// Slots in the order of their names.
    order: Vec<u32>,
    /// How far the segment has come.
    at: usize,
    /// Slots that the segment brought, in order.
    fresh: Vec<u32>,
}

impl Merge {
    /// As [`Subjects::add_many`]. The name is above the one before of the same segment.
    pub(super) fn add(&mut self, subjects: &mut Subjects, name: &str, count: u64, first: u64, last: u64) {
        while self
            .order
            .get(self.at)
            .is_some_and(|slot| subjects.name(*slot) < name)
        {
            self.at += 1;
        }
        let known = self.order.get(self.at).copied();
        let slot = match known.filter(|slot| subjects.name(*slot) == name) {
            Some(slot) => slot,
            None => {
                let slot = subjects.insert(name, first);
                self.fresh.push(slot);
                slot
            }
        };
        subjects.count_in(slot, count, last);
        // A segment may come after later ones, which are counted already.
        let slot = subjects.slot_mut(slot);
        slot.first_from = slot.first_from.min(first);
    }

    /// Ends a segment.
    pub(super) fn end_segment(&mut self, subjects: &Subjects) {
        self.at = 0;
        if self.fresh.is_empty() {
            return;
        }
        let old = std::mem::take(&mut self.order);
        let fresh = std::mem::take(&mut self.fresh);
        self.order.reserve_exact(old.len() + fresh.len());
        let mut fresh = fresh.into_iter().peekable();
        for slot in old {
            let name = subjects.name(slot);
            while let Some(before) = fresh.next_if(|other| subjects.name(*other) < name) {
                self.order.push(before);
            }
            self.order.push(slot);
        }
        self.order.extend(fresh);
    }
}

/// For each subject of one segment, which entries of the segment are its. May name entries that were removed since.
#[derive(Debug)]
pub(super) enum SubjectLists {
    /// Of the segment that is written to.
    Open(OpenLists),
    /// Of a full segment: slots in order, where each one's entries begin, and the entries of all one after the other.
    Sealed {
        slots: Box<[u32]>,
        starts: Box<[u32]>,
        entries: Box<[u32]>,
    },
}

/// Lists that grow: 12 bytes a subject, and 4 an entry where those of a subject are not one after the other.
#[derive(Debug, Default)]
pub(super) struct OpenLists {
    spans: HashMap<u32, Span, BuildHasherDefault<SlotHasher>>,
    /// Entries of the lists that are no runs, in blocks of powers of two.
    blocks: Vec<u32>,
    /// Where blocks are that nobody uses, by the power.
    free: Vec<Vec<u32>>,
}

/// Entries of one subject, ascending.
#[derive(Clone, Copy, Debug)]
struct Span {
    /// Of a run the first entry, otherwise where the block begins, which has room for the power of two not below the
    /// number of entries.
    start: u32,
    /// Number of entries, and `IN_BLOCK` unless they are a run: most streams with one subject, or few at a time.
    len: u32,
}

/// Bit of a span's length.
const IN_BLOCK: u32 = 1 << 31;

impl Span {
    fn len(self) -> u32 {
        self.len & !IN_BLOCK
    }
}

impl OpenLists {
    fn push(&mut self, slot: u32, entry: u32) {
        let Self { spans, blocks, free } = self;
        let span = match spans.entry(slot) {
            Entry::Vacant(place) => {
                place.insert(Span { start: entry, len: 1 });
                return;
            }
            Entry::Occupied(place) => place.into_mut(),
        };
        let len = span.len();
        if span.len & IN_BLOCK == 0 {
            if span.start + len == entry {
                span.len += 1;
                return;
            }
            let first = span.start;
            span.start = take_block(blocks, free, (len + 1).next_power_of_two());
            let list = &mut blocks[span.start as usize..][..len as usize];
            list.iter_mut().zip(first..).for_each(|(at, entry)| *at = entry);
        } else if len.is_power_of_two() {
            let full = span.start;
            span.start = take_block(blocks, free, 2 * len);
            blocks.copy_within(full as usize..(full + len) as usize, span.start as usize);
            free[len.trailing_zeros() as usize].push(full);
        }
        blocks[(span.start + len) as usize] = entry;
        span.len = (len + 1) | IN_BLOCK;
    }

    fn list(&self, span: Span) -> List<'_> {
        if span.len & IN_BLOCK == 0 {
            return List::Run {
                first: span.start,
                len: span.len,
            };
        }
        List::Many(&self.blocks[span.start as usize..][..span.len() as usize])
    }

    fn get(&self, slot: u32) -> List<'_> {
        self.spans
            .get(&slot)
            .map_or(List::Many(&[]), |span| self.list(*span))
    }
}

/// A block of `len`, a power of two.
fn take_block(blocks: &mut Vec<u32>, free: &mut Vec<Vec<u32>>, len: u32) -> u32 {
    let power = len.trailing_zeros() as usize;
    if free.len() <= power {
        free.resize_with(power + 1, Vec::new);
    }
    if let Some(start) = free[power].pop() {
        return start;
    }
    let start = blocks.len();
    blocks.resize(start + len as usize, 0);
    start as u32
}

/// Entries of one subject, ascending.
#[derive(Clone, Copy, Debug)]
pub(super) enum List<'a> {
    Run { first: u32, len: u32 },
    Many(&'a [u32]),
}

impl List<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Run { len, .. } => *len as usize,
            Self::Many(entries) => entries.len(),
        }
    }

    /// The entry with this number, counted from 0.
    pub(super) fn at(&self, number: usize) -> Option<u32> {
        match self {
            Self::Run { first, len } => (number < *len as usize).then(|| first + number as u32),
            Self::Many(entries) => entries.get(number).copied(),
        }
    }
}

impl Default for SubjectLists {
    fn default() -> Self {
        Self::Open(OpenLists::default())
    }
}

impl SubjectLists {
    /// Notes that `entry`, higher than all before, is of the subject in `slot`.
    pub(super) fn push(&mut self, slot: u32, entry: u32) {
        match self {
            Self::Open(lists) => lists.push(slot, entry),
            Self::Sealed { .. } => unreachable!("records are appended to the open segment only"),
        }
    }

    /// Packs the lists of a full segment.
    pub(super) fn seal(&mut self) {
        let Self::Open(lists) = self else { return };
        let mut slots: Vec<u32> = lists.spans.keys().copied().collect();
        slots.sort_unstable();
        let mut starts = Vec::with_capacity(slots.len() + 1);
        let mut entries = Vec::with_capacity(lists.spans.values().map(|span| span.len() as usize).sum());
        for slot in &slots {
            starts.push(entries.len() as u32);
            let list = lists.get(*slot);
            entries.extend((0..list.len()).filter_map(|number| list.at(number)));
        }
        starts.push(entries.len() as u32);
        *self = Self::Sealed {
            slots: slots.into(),
            starts: starts.into(),
            entries: entries.into(),
        };
    }

    /// Entries of the subject in `slot`, ascending.
    pub(super) fn get(&self, slot: u32) -> List<'_> {
        match self {
            Self::Open(lists) => lists.get(slot),
            Self::Sealed {
                slots,
                starts,
                entries,
            } => match slots.binary_search(&slot) {
                Ok(at) => List::Many(&entries[starts[at] as usize..starts[at + 1] as usize]),
                Err(_) => List::Many(&[]),
            },
        }
    }

    /// Slots that have a list, in no order that may reach an output.
    pub(super) fn slots(&self) -> impl Iterator<Item = u32> + '_ {
        let (open, sealed) = match self {
            Self::Open(lists) => (Some(lists.spans.keys().copied()), None),
            Self::Sealed { slots, .. } => (None, Some(slots.iter().copied())),
        };
        open.into_iter().flatten().chain(sealed.into_iter().flatten())
    }

    /// Number of slots that have a list.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Open(lists) => lists.spans.len(),
            Self::Sealed { slots, .. } => slots.len(),
        }
    }
}

/// Spreads slot numbers, which no peer chooses, over a table.
#[derive(Debug, Default)]
pub(super) struct SlotHasher(u64);

impl Hasher for SlotHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, slot: u32) {
        self.0 = (self.0 ^ u64::from(slot))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(32);
    }
}
