//! Making the index of a segment from its frames. The same frames give the same bytes.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Place;
use std::hash::{BuildHasher, RandomState};

use super::super::format::{DATA_START, PACKED_VERSION, SegmentHeader};
use super::super::pack::Bodies;
use super::super::ranges::Ranges;
use super::super::record::{self, Frame, HEADER_BYTES, Kind, padded};
use super::super::scan::Gap;
use super::super::state::Notes;
use super::super::table::{Entries, Entry, HAS_HEADERS};
use super::codec::close_block;
use super::header::{INDEX_HEADER_BYTES, IndexHeader, PARTS, Part};
use crate::leb128::{put, zigzag};

/// Entries in a block of entries.
pub(super) const ENTRIES_PER_BLOCK: usize = 256;
/// Subjects in a block of subjects.
pub(super) const SUBJECTS_PER_BLOCK: usize = 64;
/// Places in a block of postings.
pub(super) const POSTINGS_PER_BLOCK: usize = 1024;

/// Damaged places remembered at most.
const GAPS_MAX: usize = 64;

/// Gathers a segment's frames.
pub(in super::super) struct Builder {
    segment: SegmentHeader,
    segment_bytes: u64,
    notes: Notes,
    /// Their subjects are numbers of `names`.
    entries: Entries,
    names: Names,
    removals: Ranges,
    note_bytes: Vec<u8>,
    note_last: (u32, i64),
    scratch: Vec<u8>,
    bodies: Bodies,
    gaps: Vec<Gap>,
    /// Where the last frame of any kind ends.
    passed: u64,
    end: u64,
    last_seq: u64,
    time_max: i64,
    data_bytes: u64,
    with_headers: u32,
    lasting_notes: u32,
}

impl Builder {
    /// The index of a segment whose file has `segment_bytes`.
    pub(in super::super) fn new(segment: SegmentHeader, segment_bytes: u64, notes: Notes) -> Self {
        Self {
            segment,
            segment_bytes,
            notes,
            entries: Entries::default(),
            time_max: i64::MIN,
            names: Names::default(),
            removals: Ranges::default(),
            note_bytes: Vec::new(),
            note_last: (0, 0),
            scratch: Vec::new(),
            bodies: Bodies::default(),
            gaps: Vec::new(),
            passed: 0,
            end: 0,
            last_seq: segment.base_seq.saturating_sub(1),
            data_bytes: 0,
            with_headers: 0,
            lasting_notes: 0,
        }
    }

    /// Makes room for as many different subjects, so that they need not be put in order again as they become more.
    pub(in super::super) fn expect_subjects(&mut self, subjects: usize) {
        self.names.reserve(subjects);
    }

    /// Takes the next good frame, which lies at `offset`.
    pub(in super::super) fn push(&mut self, offset: u64, frame: &Frame<'_>) {
        let seq = frame.head.seq;
        let expected = self.passed.max(DATA_START);
        self.passed = offset + padded(frame.len()) as u64;
        if offset > expected && self.gaps.len() < GAPS_MAX {
            self.gaps.push(Gap {
                from: expected,
                to: offset,
                first: self.last_seq + 1,
                last: seq.saturating_sub(u64::from(frame.head.kind == Kind::Message)),
            });
        }
        if frame.head.kind == Kind::Settle {
            // It may not be there after a crash: nothing of it goes into the index.
            return;
        }
        self.end = self.passed;
        self.last_seq = self.last_seq.max(seq);
        match frame.head.kind {
            Kind::Settle => {}
            Kind::Remove => {
                for (first, last) in record::removals(frame.payload) {
                    self.removals.insert(first, last);
                }
            }
            Kind::Message => {
                let Ok(delta) = u32::try_from(seq - self.segment.base_seq) else {
                    return;
                };
                let has_headers = frame.has_headers();
                self.data_bytes += (frame.len() - HEADER_BYTES) as u64 + u64::from(frame.saved());
                self.time_max = self.time_max.max(frame.head.time);
                self.entries.push(Entry {
                    delta,
                    offset8: (offset / 8) as u32,
                    len: frame.len() as u32 | if has_headers { HAS_HEADERS } else { 0 },
                    subject: self.names.count(frame.subject, delta),
                    saved: frame.saved(),
                    time: frame.head.time,
                });
                if has_headers {
                    self.with_headers += 1;
                    self.note(delta, frame);
                }
            }
        }
    }

    fn note(&mut self, delta: u32, frame: &Frame<'_>) {
        let time = frame.head.time;
        let Some(headers) = self.bodies.headers(frame) else {
            return;
        };
        self.scratch.clear();
        let Some(is_lasting) = (self.notes.make)(headers, &mut self.scratch) else {
            return;
        };
        let (last_delta, last_time) = self.note_last;
        put(&mut self.note_bytes, u64::from(delta - last_delta));
        put(&mut self.note_bytes, zigzag(time.wrapping_sub(last_time)));
        put(
            &mut self.note_bytes,
            (self.scratch.len() as u64) << 1 | u64::from(is_lasting),
        );
        self.note_bytes.extend_from_slice(&self.scratch);
        self.note_last = (delta, time);
        self.lasting_notes += u32::from(is_lasting);
    }

    /// Bytes between the frames, the first of them.
    pub(in super::super) fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// Number of records.
    pub(in super::super) fn records(&self) -> usize {
        self.entries.len()
    }

    /// Whether no frame came.
    pub(in super::super) fn is_empty(&self) -> bool {
        self.passed == 0
    }

    /// The bytes of the index file.
    pub(in super::super) fn finish(mut self) -> Vec<u8> {
        let order = self.names.sorted();
        let mut ranks = vec![0u32; order.len()];
        for (rank, number) in order.iter().enumerate() {
            ranks[*number as usize] = rank as u32;
        }
        // Memory is slow where it is asked here and there: what depends on nothing is fetched first, all of it at once.
        let names: Vec<Name> = order
            .iter()
            .map(|number| self.names.names[*number as usize])
            .collect();
        self.names.names = Vec::new();
        let mut starts = Vec::with_capacity(names.len());
        let mut start = 0;
        for name in &names {
            starts.push(start);
            start += name.count;
        }
        let mut out = vec![0; INDEX_HEADER_BYTES];
        let mut parts = [(0, 0); PARTS];
        let mut begun = (Part::Entries, out.len());
        let mut next = |out: &Vec<u8>, part: Part| {
            parts[begun.0 as usize] = (begun.1 as u64, (out.len() - begun.1) as u64);
            begun = (part, out.len());
        };
        let salt = self.segment.salt;
        let tells_packed = self.segment.version >= PACKED_VERSION;
        let directory = put_entries(&mut out, &self.entries, &ranks, salt, tells_packed);
        next(&out, Part::EntryDirectory);
        put_block(&mut out, &directory, salt);
        next(&out, Part::Subjects);
        let directory = self.put_subjects(&mut out, &names, &starts);
        next(&out, Part::SubjectDirectory);
        put_block(&mut out, &directory, salt);
        next(&out, Part::Postings);
        if order.len() > 1 {
            put_postings(&mut out, &postings(&self.entries, &ranks, starts), salt);
        }
        next(&out, Part::Removals);
        let removals: Vec<u8> = self
            .removals
            .iter()
            .flat_map(|(first, last)| [first.to_le_bytes(), last.to_le_bytes()])
            .flatten()
            .collect();
        put_block(&mut out, &removals, salt);
        next(&out, Part::Notes);
        put_block(&mut out, &self.note_bytes, salt);
        next(&out, Part::Notes);
        let header = self.header(order.len() as u32, parts);
        out[..INDEX_HEADER_BYTES].copy_from_slice(&header.encode());
        out
    }

    fn header(&self, subjects: u32, parts: [(u64, u64); PARTS]) -> IndexHeader {
        let seq =
            |entry: Option<Entry>| entry.map_or(0, |entry| self.segment.base_seq + u64::from(entry.delta));
        IndexHeader {
            segment: self.segment,
            notes_version: self.notes.version,
            segment_bytes: self.segment_bytes,
            end: self.end,
            last_seq: self.last_seq,
            first: seq(self.entries.first()),
            last: seq(self.entries.last()),
            time_max: self.time_max,
            last_time: self.entries.last().map_or(0, |entry| entry.time),
            data_bytes: self.data_bytes,
            entries: self.entries.len() as u32,
            subjects,
            with_headers: self.with_headers,
            lasting_notes: self.lasting_notes,
            parts,
        }
    }

    /// Writes the subjects in order. Returns the directory: for each block its offset, its first posting and its first
    /// subject.
    fn put_subjects(&self, out: &mut Vec<u8>, names: &[Name], starts: &[u32]) -> Vec<u8> {
        let mut directory = Vec::new();
        let mut bytes = Vec::new();
        let blocks = names.chunks(SUBJECTS_PER_BLOCK);
        for (block, first_posting) in blocks.zip(starts.iter().step_by(SUBJECTS_PER_BLOCK)) {
            let at = out.len();
            bytes.clear();
            for name in block {
                bytes.extend_from_slice(name.bytes(&self.names.bytes));
            }
            let mut before: &[u8] = &[];
            let mut rest = &bytes[..];
            put(&mut directory, at as u64);
            put(&mut directory, u64::from(*first_posting));
            for (number, found) in block.iter().enumerate() {
                let (name, behind) = rest.split_at(found.len as usize);
                rest = behind;
                if number == 0 {
                    put(&mut directory, name.len() as u64);
                    directory.extend_from_slice(name);
                }
                let shared = name.iter().zip(before).take_while(|(a, b)| a == b).count();
                put(out, shared as u64);
                put(out, (name.len() - shared) as u64);
                out.extend_from_slice(&name[shared..]);
                put(out, u64::from(found.count));
                put(out, u64::from(found.first));
                put(out, u64::from(found.last - found.first));
                before = name;
            }
            close_block(out, at, self.segment.salt);
        }
        directory
    }
}

/// The places of all subjects by rank, ascending in each; those of a rank begin at `starts`.
fn postings(entries: &Entries, ranks: &[u32], starts: Vec<u32>) -> Vec<u32> {
    let mut next = starts;
    let mut places = vec![0; entries.len()];
    for (place, entry) in entries.from(0) {
        let at = &mut next[ranks[entry.subject as usize] as usize];
        places[*at as usize] = place as u32;
        *at += 1;
    }
    places
}

/// Writes the entries. Returns the directory: for each block its offset, its first delta, and the highest time of any
/// entry up to its end.
fn put_entries(
    out: &mut Vec<u8>,
    entries: &Entries,
    ranks: &[u32],
    salt: u32,
    tells_packed: bool,
) -> Vec<u8> {
    let mut directory = Vec::new();
    let mut time_max = i64::MIN;
    for start in (0..entries.len()).step_by(ENTRIES_PER_BLOCK) {
        let at = out.len();
        let (mut delta, mut place8, mut time) = (0, 0, 0i64);
        let mut first_delta = 0;
        for (place, entry) in entries.range(start, start + ENTRIES_PER_BLOCK) {
            if place == start {
                first_delta = entry.delta;
            }
            put(out, u64::from(entry.delta - delta));
            put(out, zigzag(i64::from(entry.offset8) - place8));
            let exact = entry.len & !HAS_HEADERS;
            let has_headers = u64::from(entry.has_headers());
            let is_packed = u64::from(entry.saved > 0);
            match tells_packed {
                true => put(out, u64::from(exact) << 2 | is_packed << 1 | has_headers),
                false => put(out, u64::from(exact) << 1 | has_headers),
            }
            if tells_packed && entry.saved > 0 {
                put(out, u64::from(entry.saved));
            }
            put(out, u64::from(ranks[entry.subject as usize]));
            put(out, zigzag(entry.time.wrapping_sub(time)));
            delta = entry.delta + 1;
            place8 = i64::from(entry.offset8) + padded(exact as usize) as i64 / 8;
            time = entry.time;
            time_max = time_max.max(entry.time);
        }
        close_block(out, at, salt);
        put(&mut directory, at as u64);
        put(&mut directory, u64::from(first_delta));
        put(&mut directory, zigzag(time_max));
    }
    directory
}

fn put_postings(out: &mut Vec<u8>, postings: &[u32], salt: u32) {
    for block in postings.chunks(POSTINGS_PER_BLOCK) {
        let at = out.len();
        block
            .iter()
            .for_each(|place| out.extend_from_slice(&place.to_le_bytes()));
        close_block(out, at, salt);
    }
}

fn put_block(out: &mut Vec<u8>, content: &[u8], salt: u32) {
    let at = out.len();
    out.extend_from_slice(content);
    close_block(out, at, salt);
}

/// Different byte strings, numbered in the order of their coming.
#[derive(Default)]
struct Names {
    bytes: Vec<u8>,
    names: Vec<Name>,
    numbers: HashTable<u32>,
    hasher: RandomState,
    recent: u32,
}

/// A subject, with the deltas of its first and its last record.
#[derive(Clone, Copy)]
struct Name {
    start: u32,
    len: u32,
    count: u32,
    first: u32,
    last: u32,
}

impl Name {
    fn bytes<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.start as usize..][..self.len as usize]
    }
}

impl Names {
    fn get(&self, number: u32) -> &[u8] {
        self.names[number as usize].bytes(&self.bytes)
    }

    fn reserve(&mut self, count: usize) {
        let Self {
            bytes,
            names,
            numbers,
            hasher,
            ..
        } = self;
        names.reserve(count);
        numbers.reserve(count, |number| {
            hasher.hash_one(names[*number as usize].bytes(bytes))
        });
    }

    /// The number of a name, of which another record is at `delta`.
    fn count(&mut self, name: &[u8], delta: u32) -> u32 {
        let number = self.number_of(name, delta);
        let found = &mut self.names[number as usize];
        found.count += 1;
        found.last = delta;
        number
    }

    fn number_of(&mut self, name: &[u8], delta: u32) -> u32 {
        if (self.recent as usize) < self.names.len() && self.get(self.recent) == name {
            return self.recent;
        }
        let Self {
            bytes,
            names,
            numbers,
            hasher,
            ..
        } = self;
        let found = numbers.entry(
            hasher.hash_one(name),
            |number| names[*number as usize].bytes(bytes) == name,
            |number| hasher.hash_one(names[*number as usize].bytes(bytes)),
        );
        self.recent = match found {
            Place::Occupied(place) => *place.get(),
            Place::Vacant(place) => {
                let number = names.len() as u32;
                place.insert(number);
                names.push(Name {
                    start: bytes.len() as u32,
                    len: name.len() as u32,
                    count: 0,
                    first: delta,
                    last: delta,
                });
                bytes.extend_from_slice(name);
                number
            }
        };
        self.recent
    }

    /// The numbers in the order of their names.
    fn sorted(&mut self) -> Vec<u32> {
        // Nobody asks for a number any more.
        self.numbers = HashTable::new();
        let shared = self.shared_prefix();
        let mut order: Vec<(u128, u32)> = (0..self.names.len() as u32)
            .map(|number| (leading(&self.get(number)[shared..]), number))
            .collect();
        // Most names differ within what is kept beside their number: comparing those needs no other memory.
        order.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| self.get(a.1).cmp(self.get(b.1))));
        order.into_iter().map(|(_, number)| number).collect()
    }

    /// How many bytes all names begin with.
    fn shared_prefix(&self) -> usize {
        if self.names.is_empty() {
            return 0;
        }
        let first = self.get(0);
        (1..self.names.len() as u32).fold(first.len(), |shared, number| {
            let pairs = first[..shared].iter().zip(self.get(number));
            pairs.take_while(|(a, b)| a == b).count()
        })
    }
}

/// The first bytes of a name as a number of the same order; of two that are equal the names have to be compared.
fn leading(name: &[u8]) -> u128 {
    let mut bytes = [0; 16];
    let len = name.len().min(bytes.len());
    bytes[..len].copy_from_slice(&name[..len]);
    u128::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn names_come_in_the_order_of_their_bytes(
            prefix in "[a-z.]{0,20}",
            ends in prop::collection::vec(prop::collection::vec(prop_oneof![Just(0u8), Just(b'.'), any::<u8>()], 0..24), 0..60),
        ) {
            let mut names = Names::default();
            let mut expected = std::collections::BTreeSet::new();
            for end in &ends {
                let name = [prefix.as_bytes(), end].concat();
                names.count(&name, 0);
                expected.insert(name);
            }
            let sorted: Vec<Vec<u8>> = names.sorted().iter().map(|number| names.get(*number).to_vec()).collect();
            prop_assert_eq!(sorted, expected.into_iter().collect::<Vec<_>>());
        }
    }
}
