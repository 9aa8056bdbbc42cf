//! What every file of the store begins with, and the header of segments. Layout: `FORMAT.md`.

use std::path::Path;

use super::StoreError;
use super::record::{u32_at, u64_at};

/// Version of the layout of all files but [`PACKED_VERSION`]'s.
pub(super) const VERSION: u32 = 1;
/// Version of segments that may hold packed frames, and of their indexes.
pub(super) const PACKED_VERSION: u32 = 2;
/// Bytes of the prefix that files of every version share.
pub(super) const PREFIX_BYTES: usize = 16;
/// Magic of segments.
pub(super) const SEGMENT_MAGIC: [u8; 8] = *b"TARNSEG\n";
/// Magic of metadata files.
pub(super) const META_MAGIC: [u8; 8] = *b"TARNMET\n";
/// Magic of indexes of segments.
pub(super) const INDEX_MAGIC: [u8; 8] = *b"TARNIDX\n";
/// Magic of lists of subjects.
pub(super) const SUBJECTS_MAGIC: [u8; 8] = *b"TARNSUB\n";
/// Where a segment's first frame begins.
pub(super) const DATA_START: u64 = 1024;
/// Where the second copy of a segment's header begins.
const SECOND_COPY: usize = 512;
const SEGMENT_HEADER_BYTES: usize = 60;

/// Magic, version, checksum of both.
pub(super) fn prefix(magic: [u8; 8], version: u32) -> [u8; PREFIX_BYTES] {
    let mut out = [0; PREFIX_BYTES];
    out[0..8].copy_from_slice(&magic);
    out[8..12].copy_from_slice(&version.to_le_bytes());
    let crc = crc32fast::hash(&out[0..12]);
    out[12..16].copy_from_slice(&crc.to_le_bytes());
    out
}

/// The newest version of files with this magic that this program reads.
fn newest(magic: [u8; 8]) -> u32 {
    match magic {
        SEGMENT_MAGIC | INDEX_MAGIC => PACKED_VERSION,
        _ => VERSION,
    }
}

/// The version that `bytes` begin with, if the prefix is undamaged.
///
/// # Errors
/// `NewerVersion` for an undamaged prefix of a version that this program does not read.
pub(super) fn check_prefix(bytes: &[u8], magic: [u8; 8], file: &Path) -> Result<Option<u32>, StoreError> {
    let undamaged = bytes.get(0..8) == Some(&magic[..])
        && bytes.get(0..12).map(crc32fast::hash) == u32_at(bytes, 12)
        && bytes.len() >= PREFIX_BYTES;
    let found = u32_at(bytes, 8).unwrap_or(0);
    let supported = newest(magic);
    if undamaged && found > supported {
        return Err(StoreError::NewerVersion {
            file: file.to_owned(),
            found,
            supported,
        });
    }
    Ok((undamaged && found > 0).then_some(found))
}

/// A segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    /// `VERSION`, or `PACKED_VERSION`: only then it may hold packed frames.
    pub(super) version: u32,
    /// Number of the segment in its stream; also its file name.
    pub(super) id: u64,
    /// No record in it has a lower position.
    pub(super) base_seq: u64,
    /// The stream's own number: files of an earlier stream of the same name are not taken for this one's.
    pub(super) incarnation: u64,
    /// Goes into the checksum of every frame in it.
    pub(super) salt: u32,
    /// It stands for all segments with numbers up to this one, also if they are still there. 0: for itself only.
    pub(super) through: u64,
}

impl SegmentHeader {
    /// Both copies, ready to be written at 0.
    pub(super) fn encode(&self) -> [u8; DATA_START as usize] {
        let mut copy = [0u8; SEGMENT_HEADER_BYTES];
        copy[0..16].copy_from_slice(&prefix(SEGMENT_MAGIC, self.version));
        copy[16..24].copy_from_slice(&self.id.to_le_bytes());
        copy[24..32].copy_from_slice(&self.base_seq.to_le_bytes());
        copy[32..40].copy_from_slice(&self.incarnation.to_le_bytes());
        copy[40..44].copy_from_slice(&self.salt.to_le_bytes());
        let crc = crc32fast::hash(&copy[0..44]);
        copy[44..48].copy_from_slice(&crc.to_le_bytes());
        if self.through > 0 {
            copy[48..56].copy_from_slice(&self.through.to_le_bytes());
            let crc = crc32fast::hash(&copy[0..56]);
            copy[56..60].copy_from_slice(&crc.to_le_bytes());
        }
        let mut out = [0; DATA_START as usize];
        out[..SEGMENT_HEADER_BYTES].copy_from_slice(&copy);
        out[SECOND_COPY..SECOND_COPY + SEGMENT_HEADER_BYTES].copy_from_slice(&copy);
        out
    }

    /// The header in the first bytes of a segment, and whether one of its copies is unusable. A copy counts only if it
    /// carries `id`. `None`: no copy is usable.
    pub(super) fn decode(bytes: &[u8], id: u64, file: &Path) -> Result<Option<(Self, bool)>, StoreError> {
        let mut found = None;
        let mut usable = 0;
        for at in [0, SECOND_COPY] {
            let copy = bytes.get(at..at + SEGMENT_HEADER_BYTES).unwrap_or_default();
            let Some(version) = check_prefix(copy, SEGMENT_MAGIC, file)? else {
                continue;
            };
            if let Some(header) = Self::decode_copy(copy, version)
                && header.id == id
            {
                found.get_or_insert(header);
                usable += 1;
            }
        }
        Ok(found.map(|header| (header, usable < 2)))
    }

    fn decode_copy(copy: &[u8], version: u32) -> Option<Self> {
        if crc32fast::hash(copy.get(0..44)?) != u32_at(copy, 44)? {
            return None;
        }
        let through = u64_at(copy, 48)?;
        let stands_for_others = copy.get(48..60)?.iter().any(|byte| *byte != 0);
        if stands_for_others && crc32fast::hash(copy.get(0..56)?) != u32_at(copy, 56)? {
            return None;
        }
        Some(Self {
            version,
            id: u64_at(copy, 16)?,
            base_seq: u64_at(copy, 24)?,
            incarnation: u64_at(copy, 32)?,
            salt: u32_at(copy, 40)?,
            through,
        })
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn golden_segment_header() {
        let header = SegmentHeader {
            version: VERSION,
            id: 3,
            base_seq: 100,
            incarnation: 0x1122_3344_5566_7788,
            salt: 9,
            through: 0,
        };
        let bytes = header.encode();
        let hex: Vec<String> = bytes[..48].iter().map(|byte| format!("{byte:02x}")).collect();
        expect!["54 41 52 4e 53 45 47 0a 01 00 00 00 38 04 14 d5 03 00 00 00 00 00 00 00 64 00 00 00 00 00 00 00 88 77 66 55 44 33 22 11 09 00 00 00 f3 41 63 71"].assert_eq(&hex.join(" "));
        assert_eq!(bytes[..48], bytes[512..560]);
        let file = Path::new("f");
        assert_eq!(
            SegmentHeader::decode(&bytes, 3, file).unwrap(),
            Some((header, false))
        );
        assert_eq!(SegmentHeader::decode(&bytes, 4, file).unwrap(), None);
        let packed = SegmentHeader {
            version: PACKED_VERSION,
            ..header
        };
        let bytes_of_packed = packed.encode();
        assert_eq!(bytes_of_packed[8..12], PACKED_VERSION.to_le_bytes());
        assert_eq!(bytes_of_packed[16..48], bytes[16..48]);
        assert_eq!(
            SegmentHeader::decode(&bytes_of_packed, 3, file).unwrap(),
            Some((packed, false))
        );
        let merged = SegmentHeader { through: 7, ..header };
        let with_others = merged.encode();
        assert_eq!(with_others[..48], bytes[..48]);
        let hex: Vec<String> = with_others[48..60]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        expect!["07 00 00 00 00 00 00 00 76 cf 10 71"].assert_eq(&hex.join(" "));
        assert_eq!(
            SegmentHeader::decode(&with_others, 3, file).unwrap(),
            Some((merged, false))
        );
    }

    #[test]
    fn one_damaged_copy_is_enough_to_go_on_and_is_noticed() {
        let header = SegmentHeader {
            version: VERSION,
            id: 3,
            base_seq: 100,
            incarnation: 5,
            salt: 9,
            through: 0,
        };
        for (through, bit) in [0, 7]
            .into_iter()
            .flat_map(|through| (0..60 * 8).map(move |bit| (through, bit)))
        {
            let header = SegmentHeader { through, ..header };
            let mut bytes = header.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let read = SegmentHeader::decode(&bytes, 3, Path::new("f")).unwrap();
            assert_eq!(read, Some((header, true)), "bit {bit}");
            bytes[700] ^= 1;
            bytes[512 + bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                SegmentHeader::decode(&bytes, 3, Path::new("f")).unwrap(),
                None,
                "bit {bit} twice"
            );
        }
    }

    #[test]
    fn a_newer_version_is_named() {
        let bytes = prefix(META_MAGIC, VERSION + 1);
        let err = check_prefix(&bytes, META_MAGIC, Path::new("/x/meta.0")).unwrap_err();
        expect!["/x/meta.0 has format version 2, this program reads up to 1: use the newer program"]
            .assert_eq(&err.to_string());
        let check = |version| check_prefix(&prefix(META_MAGIC, version), META_MAGIC, Path::new("f")).unwrap();
        assert_eq!((check(VERSION), check(0)), (Some(VERSION), None));
        assert_eq!(check_prefix(&[], META_MAGIC, Path::new("f")).unwrap(), None);
    }
}
