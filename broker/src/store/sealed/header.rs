//! What an index file begins with: which segment it is of, what that segment holds, and where the file's parts are.

use std::path::Path;

use super::super::StoreError;
use super::super::format::{INDEX_MAGIC, PREFIX_BYTES, SegmentHeader, check_prefix, prefix};
use super::super::record::{u32_at, u64_at};

/// Bytes of the header.
pub(super) const INDEX_HEADER_BYTES: usize = 256;
const CRC_AT: usize = INDEX_HEADER_BYTES - 4;
const PARTS_AT: usize = 128;

/// The parts of an index file, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Entries = 0,
    EntryDirectory = 1,
    Subjects = 2,
    SubjectDirectory = 3,
    Postings = 4,
    Removals = 5,
    Notes = 6,
}

/// Number of parts.
pub(super) const PARTS: usize = 7;

/// What a sealed segment holds, in figures. Stays in memory while the segment exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct IndexHeader {
    pub(in super::super) segment: SegmentHeader,
    /// Of the program's way to make notes.
    pub(in super::super) notes_version: u32,
    /// Length of the segment's file.
    pub(in super::super) segment_bytes: u64,
    /// Where its last frame ends.
    pub(in super::super) end: u64,
    /// Highest position that any frame names as given.
    pub(in super::super) last_seq: u64,
    /// Positions of the first and the last record; 0 if there is none.
    pub(in super::super) first: u64,
    pub(in super::super) last: u64,
    /// Highest time of a record.
    pub(in super::super) time_max: i64,
    /// Time of the last record.
    pub(in super::super) last_time: i64,
    /// Bytes of subjects, headers and payloads, before packing.
    pub(in super::super) data_bytes: u64,
    /// Records.
    pub(in super::super) entries: u32,
    pub(in super::super) subjects: u32,
    /// Records that have headers.
    pub(in super::super) with_headers: u32,
    /// Notes that count as long as their record.
    pub(in super::super) lasting_notes: u32,
    /// Offset and length of each part.
    pub(super) parts: [(u64, u64); PARTS],
}

impl IndexHeader {
    pub(super) fn part(&self, part: Part) -> (u64, u64) {
        self.parts[part as usize]
    }

    /// Whether the records' positions have no gap, so that places can be computed.
    pub(in super::super) fn is_gapless(&self) -> bool {
        self.entries > 0 && self.last - self.first == u64::from(self.entries) - 1
    }

    /// A number that is another one if another segment, or the same with other records, is indexed.
    pub(in super::super) fn fingerprint(&self) -> u32 {
        let of_the_records = Self {
            notes_version: 0,
            lasting_notes: 0,
            parts: Default::default(),
            ..*self
        };
        crc32fast::hash(&of_the_records.encode()[..CRC_AT])
    }

    pub(super) fn encode(&self) -> [u8; INDEX_HEADER_BYTES] {
        let mut out = [0; INDEX_HEADER_BYTES];
        out[..PREFIX_BYTES].copy_from_slice(&prefix(INDEX_MAGIC, self.segment.version));
        let longs = [
            (16, self.segment.id),
            (24, self.segment.base_seq),
            (32, self.segment.incarnation),
            (48, self.segment_bytes),
            (56, self.end),
            (64, self.last_seq),
            (72, self.first),
            (80, self.last),
            (88, self.time_max as u64),
            (96, self.last_time as u64),
            (104, self.data_bytes),
            (240, self.segment.through),
        ];
        let parts = self.parts.iter().enumerate().flat_map(|(number, part)| {
            let at = PARTS_AT + 16 * number;
            [(at, part.0), (at + 8, part.1)]
        });
        for (at, value) in longs.into_iter().chain(parts) {
            out[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        let shorts = [
            (40, self.segment.salt),
            (44, self.notes_version),
            (112, self.entries),
            (116, self.subjects),
            (120, self.with_headers),
            (124, self.lasting_notes),
        ];
        for (at, value) in shorts {
            out[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        let crc = crc32fast::hash(&out[..CRC_AT]);
        out[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The header at the start of a file. `Ok(None)`: it is damaged, or of an older version: the index is made anew.
    ///
    /// # Errors
    /// `NewerVersion`.
    pub(super) fn decode(bytes: &[u8], file: &Path) -> Result<Option<Self>, StoreError> {
        Ok(check_prefix(bytes, INDEX_MAGIC, file)?.and_then(|version| Self::decode_fields(bytes, version)))
    }

    fn decode_fields(bytes: &[u8], version: u32) -> Option<Self> {
        if crc32fast::hash(bytes.get(..CRC_AT)?) != u32_at(bytes, CRC_AT)? {
            return None;
        }
        let mut parts = [(0, 0); PARTS];
        for (number, part) in parts.iter_mut().enumerate() {
            let at = PARTS_AT + 16 * number;
            *part = (u64_at(bytes, at)?, u64_at(bytes, at + 8)?);
        }
        Some(Self {
            segment: SegmentHeader {
                version,
                id: u64_at(bytes, 16)?,
                base_seq: u64_at(bytes, 24)?,
                incarnation: u64_at(bytes, 32)?,
                salt: u32_at(bytes, 40)?,
                through: u64_at(bytes, 240)?,
            },
            notes_version: u32_at(bytes, 44)?,
            segment_bytes: u64_at(bytes, 48)?,
            end: u64_at(bytes, 56)?,
            last_seq: u64_at(bytes, 64)?,
            first: u64_at(bytes, 72)?,
            last: u64_at(bytes, 80)?,
            time_max: u64_at(bytes, 88)? as i64,
            last_time: u64_at(bytes, 96)? as i64,
            data_bytes: u64_at(bytes, 104)?,
            entries: u32_at(bytes, 112)?,
            subjects: u32_at(bytes, 116)?,
            with_headers: u32_at(bytes, 120)?,
            lasting_notes: u32_at(bytes, 124)?,
            parts,
        })
    }
}
