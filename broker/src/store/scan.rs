//! Going through a segment's frames, a window at a time.

use super::format::{DATA_START, SegmentHeader};
use super::pack::Bodies;
use super::record::{self, Frame, Kind, padded};
use crate::env::FsFile;

/// Bytes read at once.
const WINDOW_BYTES: usize = 1024 * 1024;
/// Bytes read at once where a part of a file cannot be read.
const SALVAGE_BYTES: usize = 4096;
/// The same where a part of those cannot.
const SECTOR_BYTES: usize = 512;
/// How often a sector is asked for.
const READ_TRIES: usize = 3;

/// No frame begins in bytes like these; most of a new segment is.
pub(super) const BLANK: [u8; 1024] = [0; 1024];

/// Bytes between good frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) from: u64,
    pub(super) to: u64,
    /// Positions that they may have held.
    pub(super) first: u64,
    pub(super) last: u64,
}

/// A part of a file in memory.
struct Window<'a, R: FsFile> {
    file: &'a R,
    len: u64,
    start: u64,
    bytes: Vec<u8>,
    is_whole: bool,
}

impl<R: FsFile> Window<'_, R> {
    /// `count` bytes from `at`, which the file has; zeros where it cannot be read.
    fn bytes(&mut self, at: u64, count: usize) -> &[u8] {
        let end = self.start + self.bytes.len() as u64;
        if at < self.start || at + count as u64 > end {
            self.start = at - at % SALVAGE_BYTES as u64;
            let wanted = WINDOW_BYTES.max((at - self.start) as usize + count);
            let there = usize::try_from(self.len - self.start).unwrap_or(usize::MAX);
            self.bytes.resize(wanted.min(there), 0);
            self.is_whole &= fill(&mut self.bytes, self.file, self.start);
        }
        let from = (at - self.start) as usize;
        &self.bytes[from..from + count]
    }
}

/// The first bytes of a file.
#[derive(Debug)]
pub(super) struct Read {
    /// Zeros where the disk refused.
    pub(super) bytes: Vec<u8>,
    /// Where it refused: first byte and the one after the last, ascending.
    pub(super) refused: Vec<(u64, u64)>,
}

impl Read {
    /// Whether the disk refused any byte from `from` up to `to`.
    pub(super) fn refuses(&self, from: usize, to: usize) -> bool {
        self.refused
            .iter()
            .any(|&(first, end)| first < to as u64 && (from as u64) < end)
    }
}

/// Reads the first `len` bytes of a file.
pub(super) fn read_all(file: &impl FsFile, len: u64) -> Read {
    let mut bytes = vec![0; len as usize];
    let mut refused = Vec::new();
    salvage(&mut bytes, file, 0, &mut refused);
    Read { bytes, refused }
}

/// Fills `bytes` with those at `offset` of a file, and zeros where it cannot be read. Returns whether it all was.
pub(super) fn fill(bytes: &mut [u8], file: &impl FsFile, offset: u64) -> bool {
    let mut refused = Vec::new();
    salvage(bytes, file, offset, &mut refused);
    refused.is_empty()
}

/// The same, and notes where it cannot be read.
fn salvage(bytes: &mut [u8], file: &impl FsFile, offset: u64, refused: &mut Vec<(u64, u64)>) {
    let is_read = |part: &mut [u8], offset| file.read_at(part, offset).is_ok_and(|count| count == part.len());
    if is_read(bytes, offset) {
        return;
    }
    for (number, part) in bytes.chunks_mut(SALVAGE_BYTES).enumerate() {
        let offset = offset + (number * SALVAGE_BYTES) as u64;
        if is_read(part, offset) {
            continue;
        }
        for (number, sector) in part.chunks_mut(SECTOR_BYTES).enumerate() {
            let offset = offset + (number * SECTOR_BYTES) as u64;
            if !(0..READ_TRIES).any(|_| is_read(sector, offset)) {
                tracing::warn!(offset, "a part of a segment cannot be read");
                sector.fill(0);
                refused.push((offset, offset + sector.len() as u64));
            }
        }
    }
}

/// Calls `visit` with the place of each good frame of a segment, in rising order of positions. What is no good frame is
/// passed over. Returns whether all of the file could be read.
pub(super) fn scan_file(
    file: &impl FsFile,
    len: u64,
    header: &SegmentHeader,
    mut visit: impl FnMut(u64, &Frame<'_>),
) -> bool {
    let mut window = Window {
        file,
        len,
        start: 0,
        bytes: Vec::new(),
        is_whole: true,
    };
    let mut bodies = Bodies::default();
    let mut last = header.base_seq.saturating_sub(1);
    let mut at = DATA_START;
    while at + record::HEADER_BYTES as u64 <= len {
        let frame_len = record::frame_len(window.bytes(at, record::HEADER_BYTES), header.salt);
        let whole = frame_len.filter(|frame_len| at + *frame_len as u64 <= len);
        let frame = whole.and_then(|frame_len| record::decode_body(window.bytes(at, frame_len), header.salt));
        if let Some(frame) = frame.filter(|frame| rises(frame, last) && bodies.is_good(frame)) {
            last = frame.head.seq;
            visit(at, &frame);
            at += padded(frame.len()) as u64;
            continue;
        }
        let is_blank = at + BLANK.len() as u64 <= len && window.bytes(at, BLANK.len()) == BLANK;
        at += if is_blank { BLANK.len() } else { record::ALIGN } as u64;
    }
    window.is_whole
}

/// Whether a frame can follow one of position `last`.
pub(super) fn rises(frame: &Frame<'_>, last: u64) -> bool {
    match frame.head.kind {
        Kind::Message => frame.head.seq > last,
        Kind::Remove | Kind::Settle => frame.head.seq >= last,
    }
}
