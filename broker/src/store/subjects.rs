//! Subjects of one stream as small numbers, and where their records are.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

/// Subjects that have a record, each in a numbered slot. Slots are used again once their subject has no record.
#[derive(Debug, Default)]
pub(super) struct Subjects {
    by_name: HashMap<Arc<str>, u32>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// The slot used last: most streams see runs of one subject.
    recent: u32,
}

/// One subject.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) name: Arc<str>,
    /// From 1; rises each time the slot is used again.
    pub(super) generation: u32,
    /// Records that are there. 0: the slot is free.
    pub(super) count: u64,
    /// The first record is not below this position.
    pub(super) first_from: u64,
    /// Position of the last record.
    pub(super) last: u64,
}

impl Subjects {
    /// The slot of `name`, a new one if it has none, with the record at `seq` counted.
    pub(super) fn add(&mut self, name: &str, seq: u64) -> u32 {
        let index = match self.slots.get(self.recent as usize) {
            Some(slot) if slot.count > 0 && *slot.name == *name => self.recent,
            _ => match self.by_name.get(name) {
                Some(&index) => index,
                None => self.insert(name, seq),
            },
        };
        self.recent = index;
        let slot = &mut self.slots[index as usize];
        slot.count += 1;
        slot.last = seq;
        index
    }

    fn insert(&mut self, name: &str, seq: u64) -> u32 {
        let name: Arc<str> = name.into();
        let index = match self.free.pop() {
            Some(index) => {
                let slot = &mut self.slots[index as usize];
                slot.name = Arc::clone(&name);
                slot.generation = (slot.generation + 1) & (u32::MAX >> 1);
                slot.generation = slot.generation.max(1);
                slot.first_from = seq;
                index
            }
            None => {
                let slot = Slot {
                    name: Arc::clone(&name),
                    generation: 1,
                    count: 0,
                    first_from: seq,
                    last: seq,
                };
                self.slots.push(slot);
                (self.slots.len() - 1) as u32
            }
        };
        self.by_name.insert(name, index);
        index
    }

    /// Takes `count` records off a slot. Returns whether the subject still has any.
    pub(super) fn take(&mut self, index: u32, count: u64) -> bool {
        let slot = &mut self.slots[index as usize];
        slot.count -= count;
        if slot.count > 0 {
            return true;
        }
        self.by_name.remove(&slot.name);
        self.free.push(index);
        false
    }

    pub(super) fn index_of(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    pub(super) fn slot(&self, index: u32) -> &Slot {
        &self.slots[index as usize]
    }

    pub(super) fn slot_mut(&mut self, index: u32) -> &mut Slot {
        &mut self.slots[index as usize]
    }

    /// Number of subjects that have a record.
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Subjects that have a record, in the order of their slots.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Slot)> {
        self.slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| slot.count > 0)
            .map(|(index, slot)| (index as u32, slot))
    }
}

/// For each subject of one segment, which entries of the segment are its. May name entries that were removed since.
#[derive(Debug)]
pub(super) enum SubjectLists {
    /// Of the segment that is written to.
    Open(HashMap<u32, Vec<u32>, BuildHasherDefault<SlotHasher>>),
    /// Of a full segment: slots in order, where each one's entries begin, and the entries of all one after the other.
    Sealed {
        slots: Box<[u32]>,
        starts: Box<[u32]>,
        entries: Box<[u32]>,
    },
}

impl Default for SubjectLists {
    fn default() -> Self {
        Self::Open(HashMap::default())
    }
}

impl SubjectLists {
    /// Notes that `entry`, higher than all before, is of the subject in `slot`.
    pub(super) fn push(&mut self, slot: u32, entry: u32) {
        match self {
            Self::Open(lists) => lists.entry(slot).or_default().push(entry),
            Self::Sealed { .. } => unreachable!("records are appended to the open segment only"),
        }
    }

    /// Packs the lists of a full segment.
    pub(super) fn seal(&mut self) {
        let Self::Open(lists) = self else { return };
        let mut slots: Vec<u32> = lists.keys().copied().collect();
        slots.sort_unstable();
        let mut starts = Vec::with_capacity(slots.len() + 1);
        let mut entries = Vec::with_capacity(lists.values().map(Vec::len).sum());
        for slot in &slots {
            starts.push(entries.len() as u32);
            entries.extend_from_slice(lists.get(slot).map_or(&[], Vec::as_slice));
        }
        starts.push(entries.len() as u32);
        *self = Self::Sealed {
            slots: slots.into(),
            starts: starts.into(),
            entries: entries.into(),
        };
    }

    /// Entries of the subject in `slot`, ascending.
    pub(super) fn get(&self, slot: u32) -> &[u32] {
        match self {
            Self::Open(lists) => lists.get(&slot).map_or(&[], Vec::as_slice),
            Self::Sealed {
                slots,
                starts,
                entries,
            } => match slots.binary_search(&slot) {
                Ok(at) => &entries[starts[at] as usize..starts[at + 1] as usize],
                Err(_) => &[],
            },
        }
    }

    /// Slots that have a list, in no order that may reach an output.
    pub(super) fn slots(&self) -> impl Iterator<Item = u32> + '_ {
        let (open, sealed) = match self {
            Self::Open(lists) => (Some(lists.keys().copied()), None),
            Self::Sealed { slots, .. } => (None, Some(slots.iter().copied())),
        };
        open.into_iter().flatten().chain(sealed.into_iter().flatten())
    }

    /// Number of slots that have a list.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Open(lists) => lists.len(),
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
