//! S2 and snappy streams: reading both, writing snappy, which every reader of S2 takes.
//!
//! Source: the snappy framing format and block format (google/snappy, `framing_format.txt`, `format_description.txt`),
//! and the extension that S2 makes of it: another stream identifier, blocks of up to 4 MiB, and copies that repeat the
//! last offset.

use std::io::{self, Write};

use snap::write::FrameEncoder;

use super::ArchiveError;

/// What a block may become when it is decompressed.
const BLOCK_BYTES_MAX: usize = 4 << 20;
/// What a chunk may take in the stream: a block that did not get smaller, with room for its literals and checksum.
const CHUNK_BYTES_MAX: usize = BLOCK_BYTES_MAX + BLOCK_BYTES_MAX / 6 + 64;

const CHUNK_COMPRESSED: u8 = 0x00;
const CHUNK_UNCOMPRESSED: u8 = 0x01;
const CHUNK_SKIPPABLE_FIRST: u8 = 0x80;
const CHUNK_IDENTIFIER: u8 = 0xff;
const IDENTIFIERS: [&[u8]; 2] = [b"S2sTwO", b"sNaPpY"];
/// A chunk's type and length.
const CHUNK_HEADER_BYTES: usize = 4;
const CHECKSUM_BYTES: usize = 4;

/// Decompresses a stream that comes in pieces. Holds one chunk at most.
#[derive(Debug, Default)]
pub(crate) struct FrameReader {
    pending: Vec<u8>,
    at: usize,
    is_identified: bool,
}

impl FrameReader {
    /// Takes in the next bytes of the stream.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.pending.drain(..self.at);
        self.at = 0;
        self.pending.extend_from_slice(bytes);
    }

    /// Appends the next block to `out`. `false`: more bytes are needed.
    ///
    /// # Errors
    /// If the bytes are no such stream. Nothing more can be read then.
    pub(crate) fn read(&mut self, out: &mut Vec<u8>) -> Result<bool, ArchiveError> {
        while let Some((kind, body)) = self.next_chunk()? {
            if kind == CHUNK_IDENTIFIER {
                if !IDENTIFIERS.contains(&&self.pending[body.clone()]) {
                    return Err(ArchiveError::NotCompressed);
                }
                self.is_identified = true;
                self.at = body.end;
                continue;
            }
            if !self.is_identified {
                return Err(ArchiveError::NotCompressed);
            }
            if kind >= CHUNK_SKIPPABLE_FIRST {
                self.at = body.end;
                continue;
            }
            read_block(kind, &self.pending[body.clone()], out)?;
            self.at = body.end;
            return Ok(true);
        }
        Ok(false)
    }

    /// The next whole chunk: its type and where its body is.
    fn next_chunk(&self) -> Result<Option<(u8, std::ops::Range<usize>)>, ArchiveError> {
        let rest = &self.pending[self.at..];
        let Some((&[kind, a, b, c], after)) = rest.split_first_chunk::<CHUNK_HEADER_BYTES>() else {
            return Ok(None);
        };
        if !self.is_identified && kind != CHUNK_IDENTIFIER {
            return Err(ArchiveError::NotCompressed);
        }
        let len = u32::from_le_bytes([a, b, c, 0]) as usize;
        if len > CHUNK_BYTES_MAX {
            return Err(ArchiveError::BlockTooLarge {
                len,
                max: CHUNK_BYTES_MAX,
            });
        }
        let start = self.at + CHUNK_HEADER_BYTES;
        Ok((after.len() >= len).then(|| (kind, start..start + len)))
    }
}

fn read_block(kind: u8, body: &[u8], out: &mut Vec<u8>) -> Result<(), ArchiveError> {
    let (checksum, data) = body
        .split_first_chunk::<CHECKSUM_BYTES>()
        .ok_or(ArchiveError::Block)?;
    let start = out.len();
    match kind {
        CHUNK_COMPRESSED => decompress(data, out)?,
        CHUNK_UNCOMPRESSED if data.len() <= BLOCK_BYTES_MAX => out.extend_from_slice(data),
        _ => return Err(ArchiveError::Block),
    }
    if masked_crc(&out[start..]) == u32::from_le_bytes(*checksum) {
        Ok(())
    } else {
        Err(ArchiveError::Checksum)
    }
}

/// CRC-32C, turned and shifted so that it differs from a checksum inside the data.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Appends what a block holds to `out`.
///
/// # Errors
/// If the block is malformed or larger than [`BLOCK_BYTES_MAX`]. Takes no more memory than it says, and that only as far
/// as it is filled.
pub(crate) fn decompress(mut block: &[u8], out: &mut Vec<u8>) -> Result<(), ArchiveError> {
    let len = take_length(&mut block)?;
    let start = out.len();
    let mut offset = 0;
    while let Some((&tag, rest)) = block.split_first() {
        block = rest;
        let copied = match tag & 3 {
            0 => {
                let count = literal_length(tag, &mut block)?;
                let (literal, rest) = block.split_at_checked(count).ok_or(ArchiveError::Block)?;
                if out.len() - start + count > len {
                    return Err(ArchiveError::Block);
                }
                out.extend_from_slice(literal);
                block = rest;
                continue;
            }
            1 => short_copy(tag, &mut block, &mut offset)?,
            2 => {
                offset = number::<2>(&mut block)?;
                1 + usize::from(tag >> 2)
            }
            _ => {
                offset = number::<4>(&mut block)?;
                1 + usize::from(tag >> 2)
            }
        };
        let done = out.len() - start;
        if offset == 0 || offset > done || copied > len - done {
            return Err(ArchiveError::Block);
        }
        copy_back(out, offset, copied);
    }
    if out.len() - start == len {
        Ok(())
    } else {
        Err(ArchiveError::Block)
    }
}

/// Repeats `count` bytes that stand `offset` before the end. They may overlap with what they become.
fn copy_back(out: &mut Vec<u8>, offset: usize, mut count: usize) {
    while count > 0 {
        let from = out.len() - offset;
        let step = count.min(offset);
        out.extend_from_within(from..from + step);
        count -= step;
    }
}

/// How long the block is when decompressed.
fn take_length(block: &mut &[u8]) -> Result<usize, ArchiveError> {
    let mut len = 0_usize;
    for shift in (0..35).step_by(7) {
        let (&byte, rest) = block.split_first().ok_or(ArchiveError::Block)?;
        *block = rest;
        len |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return if len <= BLOCK_BYTES_MAX {
                Ok(len)
            } else {
                Err(ArchiveError::BlockTooLarge {
                    len,
                    max: BLOCK_BYTES_MAX,
                })
            };
        }
    }
    Err(ArchiveError::Block)
}

fn literal_length(tag: u8, block: &mut &[u8]) -> Result<usize, ArchiveError> {
    let len = match tag >> 2 {
        60 => number::<1>(block)?,
        61 => number::<2>(block)?,
        62 => number::<3>(block)?,
        63 => number::<4>(block)?,
        len => usize::from(len),
    };
    Ok(len + 1)
}

/// A copy with an offset of eleven bits, or, if those are 0, one that repeats the last offset.
fn short_copy(tag: u8, block: &mut &[u8], offset: &mut usize) -> Result<usize, ArchiveError> {
    let low = number::<1>(block)?;
    let new_offset = usize::from(tag >> 5) << 8 | low;
    let len = usize::from(tag >> 2 & 7);
    if new_offset > 0 {
        *offset = new_offset;
        return Ok(len + 4);
    }
    let len = match len {
        5 => number::<1>(block)? + 4,
        6 => number::<2>(block)? + (1 << 8),
        7 => number::<3>(block)? + (1 << 16),
        len => len,
    };
    Ok(len + 4)
}

/// A number of `N` bytes, the lowest first.
fn number<const N: usize>(block: &mut &[u8]) -> Result<usize, ArchiveError> {
    let (bytes, rest) = block.split_first_chunk::<N>().ok_or(ArchiveError::Block)?;
    *block = rest;
    Ok(bytes
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | usize::from(*byte)))
}

/// Compresses a stream, in blocks of 64 KiB.
pub(crate) struct FrameWriter {
    frames: FrameEncoder<Vec<u8>>,
}

impl std::fmt::Debug for FrameWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrameWriter").finish_non_exhaustive()
    }
}

impl FrameWriter {
    pub(crate) fn new() -> Self {
        Self {
            frames: FrameEncoder::new(Vec::new()),
        }
    }

    /// Takes in the next bytes.
    ///
    /// # Errors
    /// None that memory can give; the type is the encoder's.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.frames.write_all(bytes)
    }

    /// Compresses what was taken in and did not fill a block.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.frames.flush()
    }

    /// Bytes that [`Self::take`] can give.
    pub(crate) fn ready_bytes(&self) -> usize {
        self.frames.get_ref().len()
    }

    /// Takes the next `count` compressed bytes, or all if there are fewer.
    pub(crate) fn take(&mut self, count: usize) -> Vec<u8> {
        let ready = self.frames.get_mut();
        let rest = ready.split_off(count.min(ready.len()));
        std::mem::replace(ready, rest)
    }
}

#[cfg(test)]
mod tests;
