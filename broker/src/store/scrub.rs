//! Reading sealed segments for no other reason than to find damage before somebody needs what is damaged.

use std::io;
use std::path::PathBuf;

use super::format::DATA_START;
use super::pack::Bodies;
use super::record::{self, Frame, HEADER_BYTES, Kind, padded, u32_at};
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

/// What reading a segment in order meets.
pub(super) enum Met<'a> {
    /// A good frame.
    Frame(&'a Frame<'a>),
    /// A part without a good frame.
    Gap(Gap),
}

/// Reads a segment in blocks; `pace` is told the bytes of each, and says whether to go on. `None`: it was told to stop,
/// or the file is gone, as those of dropped segments are.
pub(super) fn scrub<F: Fs>(fs: &F, target: &Target, pace: &mut dyn FnMut(u64) -> bool) -> Option<Scrubbed> {
    let mut gaps: Vec<Gap> = Vec::new();
    let bytes = walk(fs, target, pace, &mut |met| {
        let Met::Gap(gap) = met else { return };
        let is_full = gaps.len() >= GAPS_MAX;
        match gaps.last_mut().filter(|_| is_full) {
            Some(before) => {
                before.len = (gap.offset + gap.len).saturating_sub(before.offset);
                before.last = gap.last;
                before.unreadable |= gap.unreadable;
            }
            None => gaps.push(gap),
        }
    })?;
    Some(Scrubbed {
        stream: target.stream,
        segment: target.segment,
        bytes,
        gaps,
    })
}

/// Reads a segment as [`scrub`] does, and tells `meet` what is in it, in order. Returns the bytes read.
pub(super) fn walk<F: Fs>(
    fs: &F,
    target: &Target,
    pace: &mut dyn FnMut(u64) -> bool,
    meet: &mut dyn FnMut(Met<'_>),
) -> Option<u64> {
    let file = fs.open_read(&target.path).ok()?;
    let end = file.len().ok()?;
    let mut window = Window {
        file,
        end,
        start: DATA_START.min(end),
        bytes: Vec::new(),
        unreadable: false,
        read: 0,
        pace,
    };
    let mut gap = OpenGap {
        offset: None,
        next: target.base,
    };
    let mut bodies = Bodies::default();
    let mut at = window.start;
    while at + HEADER_BYTES as u64 <= end {
        window.need(at, BLANK.len())?;
        window.need_frame(at, target.seed)?;
        let found = record::decode(window.at(at), target.seed);
        let rising = found.filter(|frame| {
            frame.head.seq + u64::from(frame.head.kind != Kind::Message) >= gap.next && bodies.is_good(frame)
        });
        let Some(frame) = rising else {
            gap.offset.get_or_insert(at);
            let is_blank = window.at(at).get(..BLANK.len()) == Some(&BLANK[..]);
            at += if is_blank { BLANK.len() } else { record::ALIGN } as u64;
            continue;
        };
        let seq = frame.head.seq;
        let last = seq - u64::from(frame.head.kind == Kind::Message).min(seq);
        if let Some(gap) = gap.close(at, last, window.unreadable) {
            meet(Met::Gap(gap));
        }
        meet(Met::Frame(&frame));
        let len = padded(frame.len()) as u64;
        gap.next = seq + 1;
        window.unreadable = false;
        at += len;
    }
    if gap.next < target.next_base {
        gap.offset.get_or_insert(at);
        if let Some(gap) = gap.close(end, target.next_base - 1, window.unreadable) {
            meet(Met::Gap(gap));
        }
    }
    Some(window.read)
}

/// A part without a good frame that is being read.
struct OpenGap {
    /// Where it begins, if there is one.
    offset: Option<u64>,
    /// Lowest position that can follow.
    next: u64,
}

impl OpenGap {
    /// Ends it at `at`; it held nothing above `last`.
    fn close(&mut self, at: u64, last: u64, unreadable: bool) -> Option<Gap> {
        let offset = self.offset.take()?;
        Some(Gap {
            offset,
            len: at.saturating_sub(offset),
            first: self.next,
            last,
            unreadable,
        })
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
    unreadable: bool,
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
                self.unreadable = true;
            }
        }
    }

    /// Sees to it that the frame that may begin at `at` is in memory as a whole. `None`: stop.
    fn need_frame(&mut self, at: u64, seed: u32) -> Option<()> {
        let head = self.at(at);
        if !head.starts_with(&record::MARK) || !record::head_is_good(head, seed) {
            return Some(());
        }
        let field = |at| u32_at(head, at).unwrap_or(0) as usize;
        let len = HEADER_BYTES + (field(12) >> 16) + field(32) + field(36);
        if len as u64 > self.end - at {
            return Some(());
        }
        self.need(at, len)
    }
}
