//! The entries of the segment that is written to: 16 bytes each, as differences from the first of a group, where those fit.

use std::collections::BTreeMap;

use super::{Entry, HAS_HEADERS, REMOVED};

/// Entries that share what they are told apart from.
const GROUP: usize = 128;
/// Entries in one piece of memory: 1 MiB, which goes back to the system in one piece.
const SLAB: usize = 64 * 1024;
/// Longest frame of an entry in short form.
const SHORT_LEN_MAX: u32 = u16::MAX as u32 >> 1;
/// The same bit as `HAS_HEADERS` in a short length.
const SHORT_HAS_HEADERS: u16 = 1 << 15;

/// An entry, less the first of its group.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    delta: u16,
    offset8: u16,
    len: u16,
    /// The time's bits from the 33rd on.
    time_high: u16,
    time_low: u32,
    subject: u32,
}

impl Row {
    /// `None`: it does not fit.
    fn pack(entry: &Entry, first: &Entry) -> Option<Self> {
        let exact = entry.len & !HAS_HEADERS;
        let time = entry
            .time
            .checked_sub(first.time)
            .and_then(|time| u64::try_from(time).ok())?;
        let flag = if entry.len & HAS_HEADERS == 0 {
            0
        } else {
            SHORT_HAS_HEADERS
        };
        if exact > SHORT_LEN_MAX {
            return None;
        }
        Some(Self {
            delta: u16::try_from(entry.delta.checked_sub(first.delta)?).ok()?,
            offset8: u16::try_from(entry.offset8.checked_sub(first.offset8)?).ok()?,
            len: exact as u16 | flag,
            time_high: u16::try_from(time >> 32).ok()?,
            time_low: time as u32,
            subject: entry.subject,
        })
    }

    fn unpack(self, first: &Entry, saved: u32) -> Entry {
        let flag = if self.len & SHORT_HAS_HEADERS == 0 {
            0
        } else {
            HAS_HEADERS
        };
        let time = u64::from(self.time_high) << 32 | u64::from(self.time_low);
        Entry {
            delta: first.delta + u32::from(self.delta),
            offset8: first.offset8 + u32::from(self.offset8),
            len: u32::from(self.len & !SHORT_HAS_HEADERS) | flag,
            subject: self.subject,
            saved,
            time: first.time + time as i64,
        }
    }
}

/// Entries in the order of their positions.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Entries {
    slabs: Vec<Vec<Row>>,
    /// What the rows of each group are added to.
    firsts: Vec<Entry>,
    /// Groups with an entry that does not fit into a row, in full. Their rows say nothing.
    wide: BTreeMap<usize, Vec<Entry>>,
    /// What packing saved, for each entry up to the last that is packed.
    saved: Vec<u32>,
    len: usize,
}

impl Entries {
    pub(in super::super) fn len(&self) -> usize {
        self.len
    }

    pub(in super::super) fn push(&mut self, entry: Entry) {
        let group = self.len / GROUP;
        if self.len.is_multiple_of(GROUP) {
            self.firsts.push(entry);
        }
        let packed = match self.firsts.get(group) {
            Some(first) if !self.wide.contains_key(&group) => Row::pack(&entry, first),
            _ => None,
        };
        if packed.is_none() {
            if !self.wide.contains_key(&group) {
                let known: Vec<Entry> = (group * GROUP..self.len).filter_map(|at| self.get(at)).collect();
                self.wide.insert(group, known);
            }
            self.wide.entry(group).or_default().push(entry);
        }
        if self.len.is_multiple_of(SLAB) {
            // The first one grows with a small stream.
            let room = if self.slabs.is_empty() { 0 } else { SLAB };
            self.slabs.push(Vec::with_capacity(room));
        }
        if let Some(slab) = self.slabs.last_mut() {
            slab.push(packed.unwrap_or_default());
        }
        if entry.saved > 0 {
            self.saved.resize(self.len, 0);
            self.saved.push(entry.saved);
        }
        self.len += 1;
    }

    pub(in super::super) fn get(&self, place: usize) -> Option<Entry> {
        if place >= self.len {
            return None;
        }
        let group = place / GROUP;
        if !self.wide.is_empty()
            && let Some(entries) = self.wide.get(&group)
        {
            return entries.get(place % GROUP).copied();
        }
        let row = self.slabs.get(place / SLAB)?.get(place % SLAB)?;
        let saved = self.saved.get(place).copied().unwrap_or(0);
        Some(row.unpack(self.firsts.get(group)?, saved))
    }

    pub(in super::super) fn first(&self) -> Option<Entry> {
        self.get(0)
    }

    pub(in super::super) fn last(&self) -> Option<Entry> {
        self.get(self.len.checked_sub(1)?)
    }

    /// The entries from place `from` on, with their places.
    pub(in super::super) fn from(&self, from: usize) -> impl DoubleEndedIterator<Item = (usize, Entry)> + '_ {
        self.range(from, self.len)
    }

    /// The entries from place `from` up to `to`, with their places.
    pub(in super::super) fn range(
        &self,
        from: usize,
        to: usize,
    ) -> impl DoubleEndedIterator<Item = (usize, Entry)> + '_ {
        (from..to.min(self.len)).filter_map(|place| Some((place, self.get(place)?)))
    }

    /// Number of entries below place `to` that come before all of which `is_before` does not hold.
    pub(in super::super) fn partition_point(&self, to: usize, is_before: impl Fn(&Entry) -> bool) -> usize {
        let (mut low, mut high) = (0, to.min(self.len));
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.get(middle).is_some_and(|entry| is_before(&entry)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// Marks the entry at `place` as one whose record was removed.
    pub(in super::super) fn remove(&mut self, place: usize) {
        self.set_subject(place, REMOVED);
    }

    /// Changes the subject of the entry at `place`.
    pub(in super::super) fn set_subject(&mut self, place: usize, subject: u32) {
        let wide = self.wide.get_mut(&(place / GROUP));
        if let Some(entry) = wide.and_then(|entries| entries.get_mut(place % GROUP)) {
            entry.subject = subject;
        } else if let Some(row) = self
            .slabs
            .get_mut(place / SLAB)
            .and_then(|slab| slab.get_mut(place % SLAB))
        {
            row.subject = subject;
        }
    }

    /// Forgets the entries from place `len` on.
    pub(in super::super) fn truncate(&mut self, len: usize) {
        if len >= self.len {
            return;
        }
        self.len = len;
        self.firsts.truncate(len.div_ceil(GROUP));
        self.saved.truncate(len);
        drop(self.wide.split_off(&len.div_ceil(GROUP)));
        if let Some(entries) = self.wide.get_mut(&(len / GROUP)) {
            entries.truncate(len % GROUP);
        }
        self.slabs.truncate(len.div_ceil(SLAB));
        if !len.is_multiple_of(SLAB)
            && let Some(slab) = self.slabs.last_mut()
        {
            slab.truncate(len % SLAB);
        }
    }

    /// Gives back the memory that is not needed as long as no entry is added.
    pub(in super::super) fn shrink_to_fit(&mut self) {
        if let Some(slab) = self.slabs.last_mut() {
            slab.shrink_to_fit();
        }
        self.firsts.shrink_to_fit();
        self.saved.shrink_to_fit();
    }
}

impl FromIterator<Entry> for Entries {
    fn from_iter<T: IntoIterator<Item = Entry>>(entries: T) -> Self {
        let mut out = Self::default();
        entries.into_iter().for_each(|entry| out.push(entry));
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Steps between entries: mostly small ones, some too large for a row.
    fn steps() -> impl Strategy<Value = Vec<(u32, u32, u32, bool, i64, u32)>> {
        let delta = prop_oneof![9 => 1u32..4, 1 => 1u32..70_000];
        let offset = prop_oneof![9 => 6u32..40, 1 => 6u32..90_000];
        let len = prop_oneof![9 => 40u32..300, 1 => 40u32..80_000];
        let time = prop_oneof![9 => 0i64..5_000_000_000, 1 => any::<i64>()];
        let saved = prop_oneof![3 => Just(0u32), 1 => 16u32..1_000_000];
        prop::collection::vec((delta, offset, len, any::<bool>(), time, saved), 0..700)
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_list(steps in steps(), removed in prop::collection::vec(any::<prop::sample::Index>(), 0..20), cut: prop::sample::Index) {
            let (mut entries, mut model) = (Entries::default(), Vec::new());
            let (mut delta, mut offset8, mut time) = (0u32, 0u32, 0i64);
            for (number, (step, width, len, has_headers, later, saved)) in steps.into_iter().enumerate() {
                delta += step;
                offset8 += width;
                time = time.wrapping_add(later);
                let len = len | if has_headers { HAS_HEADERS } else { 0 };
                let entry = Entry { delta, offset8, len, subject: number as u32 % 5, saved, time };
                entries.push(entry);
                model.push(entry);
            }
            let removed = if model.is_empty() { Vec::new() } else { removed };
            for index in removed {
                let place = index.index(model.len());
                entries.remove(place);
                model[place].subject = REMOVED;
            }
            let check = |entries: &Entries, model: &[Entry]| {
                assert_eq!(entries.len(), model.len());
                let all: Vec<Entry> = entries.from(0).map(|(_, entry)| entry).collect();
                assert_eq!(all, model);
                assert_eq!((entries.first(), entries.last()), (model.first().copied(), model.last().copied()));
                assert_eq!(entries.get(model.len()), None);
                let wanted = model.get(model.len() / 3).map_or(0, |entry| entry.delta);
                let expected = model.partition_point(|entry| entry.delta < wanted);
                assert_eq!(entries.partition_point(usize::MAX, |entry| entry.delta < wanted), expected);
            };
            check(&entries, &model);
            let cut = cut.index(model.len() + 1);
            entries.truncate(cut);
            model.truncate(cut);
            check(&entries, &model);
            let entry = Entry { delta: delta + 1, offset8: offset8 + 1, len: 40, subject: 0, saved: 0, time: 0 };
            entries.push(entry);
            model.push(entry);
            check(&entries, &model);
        }
    }

    #[test]
    fn a_row_is_16_bytes_and_slabs_follow_each_other() {
        assert_eq!(size_of::<Row>(), 16);
        let mut entries = Entries::default();
        for delta in 0..SLAB as u32 + 300 {
            entries.push(Entry {
                delta,
                offset8: delta * 20,
                len: 150,
                subject: 1,
                saved: 0,
                time: i64::from(delta),
            });
        }
        assert!(entries.wide.is_empty() && entries.slabs.len() == 2);
        for place in [0, GROUP, SLAB - 1, SLAB, SLAB + 299] {
            assert_eq!(entries.get(place).map(|entry| entry.delta), Some(place as u32));
        }
        entries.truncate(SLAB);
        assert_eq!(
            (entries.slabs.len(), entries.last().map(|entry| entry.delta)),
            (1, Some(SLAB as u32 - 1))
        );
    }
}
