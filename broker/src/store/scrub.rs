//! Reading sealed segments for no other reason than to find damage before somebody needs what is damaged.

use std::io;
use std::path::PathBuf;

use super::format::DATA_START;
use super::record::{self, HEADER_BYTES, Kind, padded, u32_at};
use crate::env::{Fs, FsFile};
use crate::types::StreamId;

/// Bytes read at once.
const BLOCK_BYTES: usize = 256 * 1024;
/// Bytes read at once where a block cannot be read.
const SALVAGE_BYTES: usize = 4096;
/// Places named of one segment; more of them are reported as one.
const GAPS_MAX: usize = 1024;
/// Zeros that are stepped over at once.
const BLANK: [u8; 1024] = [0; 1024];

/// A segment to be read.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) stream: StreamId,
    pub(super) segment: u64,
    pub(super) path: PathBuf,
    /// Goes into the checksums of its frames.
    pub(super) seed: u32,
    /// Lowest position in it, and in the next one.
    pub(super) base: u64,
    pub(super) next_base: u64,
}

/// A part of a segment without a good frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) offset: u64,
    pub(super) len: u64,
    /// Positions that it may have held.
    pub(super) first: u64,
    pub(super) last: u64,
    /// Whether the disk refused to give a part of it.
    pub(super) unreadable: bool,
}

/// What was found in a segment.
#[derive(Debug)]
pub(super) struct Scrubbed {
    pub(super) stream: StreamId,
    pub(super) segment: u64,
    /// Bytes read.
    pub(super) bytes: u64,
    pub(super) gaps: Vec<Gap>,
}

/// Reads a segment in blocks; `pace` is told the bytes of each, and says whether to go on. `None`: it was told to stop,
/// or the file is gone, as those of dropped segments are.
pub(super) fn scrub<F: Fs>(fs: &F, target: &Target, pace: &mut dyn FnMut(u64) -> bool) -> Option<Scrubbed> {
    let file = fs.open_read(&target.path).ok()?;
    let end = file.len().ok()?;
    let mut window = Window {
        file,
        end,
        start: DATA_START.min(end),
        bytes: Vec::new(),
        unreadable: None,
        read: 0,
        pace,
    };
    let mut gaps = Gaps {
        found: Vec::new(),
        open: None,
        next: target.base,
    };
    let mut at = window.start;
    while at + HEADER_BYTES as u64 <= end {
        window.need(at, BLANK.len())?;
        if let Some((seq, kind, len)) = window.frame(at, target.seed)?
            && seq + u64::from(kind != Kind::Message) >= gaps.next
        {
            gaps.close(
                at,
                seq - u64::from(kind == Kind::Message).min(seq),
                window.unreadable.take(),
            );
            gaps.next = seq + 1;
            at += len;
            window.unreadable = None;
            continue;
        }
        gaps.open.get_or_insert(at);
        let rest = window.at(at);
        let is_blank = rest.get(..BLANK.len()) == Some(&BLANK[..]);
        at += if is_blank { BLANK.len() } else { record::ALIGN } as u64;
    }
    if gaps.next < target.next_base {
        gaps.open.get_or_insert(at);
        gaps.close(end, target.next_base - 1, window.unreadable.take());
    }
    Some(Scrubbed {
        stream: target.stream,
        segment: target.segment,
        bytes: window.read,
        gaps: gaps.found,
    })
}

/// Where there was no good frame.
struct Gaps {
    found: Vec<Gap>,
    /// Where the one begins that is being read.
    open: Option<u64>,
    /// Lowest position that can follow.
    next: u64,
}

impl Gaps {
    /// Ends an open gap at `at`; it held nothing above `last`.
    fn close(&mut self, at: u64, last: u64, unreadable: Option<()>) {
        let Some(offset) = self.open.take() else { return };
        let gap = Gap {
            offset,
            len: at.saturating_sub(offset),
            first: self.next,
            last,
            unreadable: unreadable.is_some(),
        };
        let is_full = self.found.len() >= GAPS_MAX;
        match self.found.last_mut().filter(|_| is_full) {
            Some(before) => {
                before.len = at.saturating_sub(before.offset);
                before.last = last;
                before.unreadable |= gap.unreadable;
            }
            None => self.found.push(gap),
        }
    }
}

/// A part of the file in memory: a block, or a frame that is longer.
struct Window<'a, R: FsFile> {
    file: R,
    end: u64,
    /// Where `bytes` begin in the file.
    start: u64,
    bytes: Vec<u8>,
    /// Whether a part of what was read since the last good frame could not be read.
    unreadable: Option<()>,
    read: u64,
    pace: &'a mut dyn FnMut(u64) -> bool,
}

impl<R: FsFile> Window<'_, R> {
    /// Bytes in memory from `at` on.
    fn at(&self, at: u64) -> &[u8] {
        self.bytes.get((at - self.start) as usize..).unwrap_or_default()
    }

    /// Sees to it that `count` bytes from `at` on are in memory, unless the file ends before. `None`: stop.
    fn need(&mut self, at: u64, count: usize) -> Option<()> {
        while self.at(at).len() < count && self.start + (self.bytes.len() as u64) < self.end {
            let used = ((at - self.start) as usize).min(self.bytes.len());
            self.bytes.drain(..used);
            self.start += used as u64;
            let from = self.start + self.bytes.len() as u64;
            let len = (BLOCK_BYTES as u64).min(self.end - from) as usize;
            let filled = self.bytes.len();
            self.bytes.resize(filled + len, 0);
            if self.file.read_at(&mut self.bytes[filled..], from).is_err() {
                self.salvage(filled, from);
            }
            self.read += len as u64;
            if !(self.pace)(len as u64) {
                return None;
            }
        }
        Some(())
    }

    /// Reads a block in small parts; zeros stand for those that cannot be read.
    fn salvage(&mut self, filled: usize, from: u64) {
        for (number, part) in self.bytes[filled..].chunks_mut(SALVAGE_BYTES).enumerate() {
            let read: io::Result<usize> = self.file.read_at(part, from + (number * SALVAGE_BYTES) as u64);
            if read.is_err() {
                part.fill(0);
                self.unreadable = Some(());
            }
        }
    }

    /// Position, kind and padded length of the good frame at `at`, if there is one. `None`: stop.
    #[expect(clippy::option_option, reason = "the outer one is for `?`")]
    fn frame(&mut self, at: u64, seed: u32) -> Option<Option<(u64, Kind, u64)>> {
        let head = self.at(at);
        if !head.starts_with(&record::MARK) || !record::head_is_good(head, seed) {
            return Some(None);
        }
        let field = |at| u32_at(head, at).unwrap_or(0) as usize;
        let len = HEADER_BYTES + (field(12) >> 16) + field(32) + field(36);
        if len as u64 > self.end - at {
            return Some(None);
        }
        self.need(at, len)?;
        let frame = record::decode(self.at(at), seed);
        Some(frame.map(|frame| (frame.head.seq, frame.head.kind, padded(len) as u64)))
    }
}
