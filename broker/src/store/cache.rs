//! Reading ahead for readers that go through a stream in order.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::env::FsFile;
use crate::types::StreamId;

/// Bytes read at once for a reader that goes in order.
const BLOCK_BYTES: u64 = 256 * 1024;
/// Blocks kept: bounds the cache to 4 MiB.
const BLOCKS_MAX: usize = 16;
/// A read at most this far behind the last one of the same stream goes in order.
const STRIDE_MAX: u64 = 64;
/// Subjects remembered; a power of two.
const NAMES: usize = 256;
/// Readers remembered.
const READERS_MAX: usize = 32;

/// Blocks of segments, most recently used last.
#[derive(Default)]
pub(super) struct ReadCache {
    blocks: VecDeque<Block>,
    /// Stream and position of recent reads.
    readers: VecDeque<(StreamId, u64)>,
    /// Subjects of recent reads, each in a place that depends on its bytes.
    names: Vec<Arc<str>>,
}

struct Block {
    stream: StreamId,
    segment: u64,
    start: u64,
    bytes: Bytes,
}

/// What to read: `len` bytes at `offset` of a segment whose synced bytes end at `end`.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub(super) stream: StreamId,
    pub(super) segment: u64,
    pub(super) seq: u64,
    pub(super) offset: u64,
    pub(super) len: usize,
    pub(super) end: u64,
}

impl ReadCache {
    /// The bytes wanted, from a block or from the file. Fewer than wanted if the file ends before.
    pub(super) fn read(&mut self, file: &impl FsFile, wanted: Wanted) -> io::Result<Bytes> {
        let in_order = self.notes_in_order(wanted.stream, wanted.seq);
        let end = wanted.offset + wanted.len as u64;
        let found = self.blocks.iter().rposition(|block| {
            block.stream == wanted.stream
                && block.segment == wanted.segment
                && block.start <= wanted.offset
                && block.start + block.bytes.len() as u64 >= end
        });
        if let Some(at) = found
            && let Some(block) = self.blocks.remove(at)
        {
            let from = (wanted.offset - block.start) as usize;
            let bytes = block.bytes.slice(from..from + wanted.len);
            self.blocks.push_back(block);
            return Ok(bytes);
        }
        let ahead = BLOCK_BYTES.min(wanted.end.saturating_sub(wanted.offset)) as usize;
        if !in_order || ahead <= wanted.len {
            return read_exactly(file, wanted.offset, wanted.len);
        }
        let Ok(bytes) = read_exactly(file, wanted.offset, ahead) else {
            // One sector that cannot be read must not cost the records around it.
            return read_exactly(file, wanted.offset, wanted.len);
        };
        let out = bytes.slice(..wanted.len.min(bytes.len()));
        if self.blocks.len() == BLOCKS_MAX {
            self.blocks.pop_front();
        }
        let (stream, segment, start) = (wanted.stream, wanted.segment, wanted.offset);
        self.blocks.push_back(Block {
            stream,
            segment,
            start,
            bytes,
        });
        Ok(out)
    }

    /// Whether a read goes on where an earlier one of the stream was. Remembers it.
    fn notes_in_order(&mut self, stream: StreamId, seq: u64) -> bool {
        let follows =
            |(of, last): &(StreamId, u64)| *of == stream && *last < seq && seq - *last <= STRIDE_MAX;
        let found = self.readers.iter().position(follows);
        if let Some(at) = found {
            self.readers.remove(at);
        } else if self.readers.len() == READERS_MAX {
            self.readers.pop_front();
        }
        self.readers.push_back((stream, seq));
        found.is_some()
    }

    /// A subject's name, shared with earlier reads where it can be.
    pub(super) fn name(&mut self, name: &[u8]) -> Arc<str> {
        if self.names.is_empty() {
            self.names = vec![Arc::default(); NAMES];
        }
        let tail = name.last_chunk::<8>().map_or(0, |tail| u64::from_le_bytes(*tail));
        let hash = (tail ^ name.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let place = &mut self.names[(hash >> 32) as usize % NAMES];
        if place.as_bytes() != name {
            *place = std::str::from_utf8(name).unwrap_or_default().into();
        }
        Arc::clone(place)
    }

    /// Forgets the blocks of a stream.
    pub(super) fn forget(&mut self, stream: StreamId) {
        self.blocks.retain(|block| block.stream != stream);
    }
}

fn read_exactly(file: &impl FsFile, offset: u64, len: usize) -> io::Result<Bytes> {
    let mut buf = vec![0; len];
    let count = file.read_at(&mut buf, offset)?;
    buf.truncate(count);
    Ok(buf.into())
}
