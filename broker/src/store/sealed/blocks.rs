//! Blocks of an index file, decoded.

use super::super::format::PACKED_VERSION;
use super::super::record::padded;
use super::super::table::{Entry, HAS_HEADERS};
use super::build::SUBJECTS_PER_BLOCK;
use super::codec::Cursor;
use crate::leb128::unzigzag;

/// A block as it is kept in memory.
#[derive(Debug)]
pub(super) enum Block {
    Entries(Vec<Entry>),
    EntryDirectory(Vec<EntryPlace>),
    Subjects(SubjectBlock),
    SubjectDirectory(SubjectDirectory),
    Postings(Vec<u32>),
}

impl Block {
    /// Memory that it takes, about.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Entries(entries) => size_of_val(&entries[..]),
            Self::EntryDirectory(places) => size_of_val(&places[..]),
            Self::Subjects(block) => block.names.len() + size_of_val(&block.subjects[..]),
            Self::SubjectDirectory(directory) => directory.names.len() + size_of_val(&directory.blocks[..]),
            Self::Postings(places) => size_of_val(&places[..]),
        }
    }
}

/// Where a block of entries is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntryPlace {
    pub(super) offset: u64,
    /// Of its first entry.
    pub(super) delta: u32,
    /// Highest time of any entry of the segment up to the block's end.
    pub(super) time_max: i64,
}

/// One subject of a segment. The deltas are of its first and its last record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct SubjectEntry {
    pub(in super::super) count: u32,
    pub(in super::super) first: u32,
    pub(in super::super) last: u32,
    /// Where its postings begin.
    pub(in super::super) postings: u32,
}

/// Subjects in order.
#[derive(Clone, Debug, Default)]
pub(super) struct SubjectBlock {
    /// The names one after the other.
    names: String,
    /// Where each name ends, and the subject.
    subjects: Vec<(u32, SubjectEntry)>,
}

impl SubjectBlock {
    pub(super) fn len(&self) -> usize {
        self.subjects.len()
    }

    pub(super) fn get(&self, number: usize) -> Option<(&str, SubjectEntry)> {
        let (end, subject) = self.subjects.get(number)?;
        let start = number.checked_sub(1).map_or(0, |before| self.subjects[before].0);
        Some((&self.names[start as usize..*end as usize], *subject))
    }

    /// Number of subjects below `name`.
    pub(super) fn below(&self, name: &str) -> usize {
        let mut low = 0;
        let mut high = self.len();
        while low < high {
            let middle = usize::midpoint(low, high);
            match self.get(middle) {
                Some((other, _)) if other < name => low = middle + 1,
                _ => high = middle,
            }
        }
        low
    }

    pub(super) fn decode(content: &[u8], first_posting: u32) -> Option<Self> {
        let mut cursor = Cursor::new(content);
        let mut out = Self::default();
        let mut name = Vec::new();
        let mut postings = first_posting;
        while !cursor.is_at_end() {
            let (shared, fresh) = (cursor.small()? as usize, cursor.small()? as usize);
            if shared > name.len() || out.len() == SUBJECTS_PER_BLOCK {
                return None;
            }
            name.truncate(shared);
            name.extend_from_slice(cursor.take(fresh)?);
            out.names.push_str(std::str::from_utf8(&name).unwrap_or_default());
            let count = cursor.small()?;
            let first = cursor.small()?;
            let last = first.checked_add(cursor.small()?)?;
            let subject = SubjectEntry {
                count,
                first,
                last,
                postings,
            };
            out.subjects.push((out.names.len() as u32, subject));
            postings = postings.checked_add(count)?;
        }
        Some(out)
    }
}

/// Where the blocks of subjects are, and with which subject each begins.
#[derive(Debug, Default)]
pub(super) struct SubjectDirectory {
    names: String,
    blocks: Vec<SubjectPlace>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct SubjectPlace {
    pub(super) offset: u64,
    pub(super) first_posting: u32,
    /// Where its first name ends.
    end: u32,
}

impl SubjectDirectory {
    pub(super) fn len(&self) -> usize {
        self.blocks.len()
    }

    pub(super) fn place(&self, number: usize) -> Option<SubjectPlace> {
        self.blocks.get(number).copied()
    }

    fn first_name(&self, number: usize) -> &str {
        let start = number.checked_sub(1).map_or(0, |before| self.blocks[before].end);
        &self.names[start as usize..self.blocks[number].end as usize]
    }

    /// The block that has `name`, if any has.
    pub(super) fn block_of(&self, name: &str) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.first_name(middle) <= name {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low.saturating_sub(1)
    }

    pub(super) fn decode(content: &[u8]) -> Option<Self> {
        let mut cursor = Cursor::new(content);
        let mut out = Self::default();
        while !cursor.is_at_end() {
            let offset = cursor.number()?;
            let first_posting = cursor.small()?;
            let len = cursor.small()? as usize;
            let name = cursor.take(len)?;
            out.names.push_str(std::str::from_utf8(name).unwrap_or_default());
            out.blocks.push(SubjectPlace {
                offset,
                first_posting,
                end: out.names.len() as u32,
            });
        }
        Some(out)
    }
}

/// Entries in an index of `version`.
pub(super) fn decode_entries(content: &[u8], version: u32) -> Option<Vec<Entry>> {
    let tells_packed = version >= PACKED_VERSION;
    let mut cursor = Cursor::new(content);
    let mut out = Vec::new();
    let (mut delta, mut place8, mut time) = (0u32, 0i64, 0i64);
    while !cursor.is_at_end() {
        let at = delta.checked_add(cursor.small()?)?;
        let offset8 = place8.checked_add(unzigzag(cursor.number()?))?;
        let len = cursor.number()?;
        let (len, has_headers) = (len >> 1, len & 1 == 1);
        let (len, saved) = match tells_packed {
            true if len & 1 == 1 => (len >> 1, cursor.small()?),
            true => (len >> 1, 0),
            false => (len, 0),
        };
        let exact = u32::try_from(len).ok()?;
        let subject = cursor.small()?;
        time = time.wrapping_add(unzigzag(cursor.number()?));
        out.push(Entry {
            delta: at,
            offset8: u32::try_from(offset8).ok()?,
            len: exact | if has_headers { HAS_HEADERS } else { 0 },
            subject,
            saved,
            time,
        });
        delta = at.wrapping_add(1);
        place8 = offset8 + padded(exact as usize) as i64 / 8;
    }
    Some(out)
}

pub(super) fn decode_entry_directory(content: &[u8]) -> Option<Vec<EntryPlace>> {
    let mut cursor = Cursor::new(content);
    let mut out = Vec::new();
    while !cursor.is_at_end() {
        out.push(EntryPlace {
            offset: cursor.number()?,
            delta: cursor.small()?,
            time_max: unzigzag(cursor.number()?),
        });
    }
    Some(out)
}

pub(super) fn decode_postings(content: &[u8]) -> Option<Vec<u32>> {
    let (places, rest) = content.as_chunks::<4>();
    rest.is_empty()
        .then(|| places.iter().map(|place| u32::from_le_bytes(*place)).collect())
}
