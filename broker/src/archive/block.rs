//! The files of nats-server's file store, as backups of version 2.14 and older hold them: blocks of messages, and the states
//! of consumers.
//!
//! A record of a block, little-endian: length of the whole with its highest bit set if there are headers (u32), sequence with
//! its highest bit set for an erased message and the one below for a note that a message was removed (u64), time in
//! nanoseconds (i64), length of the subject (u16), subject, length of the headers (u32, only if there are any), headers,
//! payload, HighwayHash-64 of all but the lengths. The key of the hash is SHA-256 of `<stream>-<block>`.
//! Source: nats-server, `filestore.go`.

use highway::{HighwayHash, HighwayHasher, Key};

use super::ArchiveError;
use super::feed::Feed;
use crate::leb128::{self, Leb128Error};

const HAS_HEADERS: u32 = 1 << 31;
const ERASED: u64 = 1 << 63;
const REMOVED: u64 = 1 << 62;
const HEAD_BYTES: usize = 22;
const HASH_BYTES: usize = 8;
/// Larger records are refused by nats-server as well.
const RECORD_BYTES_MAX: usize = 32 << 20;

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BlockRecord<'a> {
    Message {
        seq: u64,
        time: i64,
        subject: &'a str,
        headers: &'a [u8],
        payload: &'a [u8],
    },
    /// The sequence is used, and its message is not there.
    Gap(u64),
    /// A message in front of this record was removed, or, if there is none of that sequence, the stream goes on behind it.
    Removed(u64),
}

/// Reads the records of one block that comes in pieces. Holds one record at most, besides what came last.
#[derive(Debug)]
pub(crate) struct BlockReader {
    key: Key,
    feed: Feed,
}

impl BlockReader {
    /// A reader of this block of this stream.
    pub(crate) fn new(stream: &str, block: &str) -> Self {
        let name = format!("{stream}-{block}");
        let digest = ring::digest::digest(&ring::digest::SHA256, name.as_bytes());
        let mut key = [0; 4];
        for (word, bytes) in key.iter_mut().zip(digest.as_ref().chunks_exact(8)) {
            *word = bytes
                .iter()
                .rev()
                .fold(0, |word, byte| word << 8 | u64::from(*byte));
        }
        Self {
            key: Key(key),
            feed: Feed::default(),
        }
    }

    /// Takes in the next bytes of the block.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.feed.buffer().extend_from_slice(bytes);
    }

    /// Whether everything that came has been read.
    pub(crate) fn is_empty(&self) -> bool {
        self.feed.rest().is_empty()
    }

    /// Whether the next record is there as a whole.
    ///
    /// # Errors
    /// If it cannot be one.
    pub(crate) fn has_record(&self) -> Result<bool, ArchiveError> {
        let rest = self.feed.rest();
        let Some(head) = rest.first_chunk::<HEAD_BYTES>() else {
            return Ok(false);
        };
        let (len, subject, fields) = lengths(head);
        if len < HEAD_BYTES + subject + fields + HASH_BYTES || len > RECORD_BYTES_MAX {
            return Err(ArchiveError::Block);
        }
        Ok(rest.len() >= len)
    }

    /// The next record. `None`: more bytes are needed.
    ///
    /// # Errors
    /// If the bytes are no such block, or were changed.
    pub(crate) fn read(&mut self) -> Result<Option<BlockRecord<'_>>, ArchiveError> {
        if !self.has_record()? {
            return Ok(None);
        }
        let Some(head) = self.feed.rest().first_chunk::<HEAD_BYTES>() else {
            return Ok(None);
        };
        let (len, subject_len, fields) = lengths(head);
        let (head, body) = self.feed.take(len).split_at(HEAD_BYTES);
        let (body, hash) = body.split_at(body.len() - HASH_BYTES);
        let (subject, after) = body.split_at(subject_len);
        let content = &after[fields..];
        let mut hasher = HighwayHasher::new(self.key);
        for part in [&head[4..20], subject, content] {
            hasher.append(part);
        }
        if hasher.finalize64().to_le_bytes() != hash {
            return Err(ArchiveError::Checksum);
        }
        let seq = number(&head[4..12]);
        if seq & REMOVED != 0 {
            return Ok(Some(BlockRecord::Removed(seq & !REMOVED & !ERASED)));
        }
        if seq & ERASED != 0 || seq == 0 {
            return Ok(Some(BlockRecord::Gap(seq & !ERASED)));
        }
        let headers_len = match after.split_first_chunk::<4>() {
            Some((len, _)) if fields > 0 => u32::from_le_bytes(*len) as usize,
            _ => 0,
        };
        let (headers, payload) = content.split_at_checked(headers_len).ok_or(ArchiveError::Block)?;
        Ok(Some(BlockRecord::Message {
            seq,
            time: number(&head[12..20]).cast_signed(),
            subject: std::str::from_utf8(subject).map_err(|_| ArchiveError::Name)?,
            headers,
            payload,
        }))
    }
}

/// Lengths of the whole record, of its subject, and of the field that says how long its headers are.
fn lengths(head: &[u8; HEAD_BYTES]) -> (usize, usize, usize) {
    let word = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
    let subject = usize::from(u16::from_le_bytes([head[20], head[21]]));
    let fields = if word & HAS_HEADERS == 0 { 0 } else { 4 };
    ((word & !HAS_HEADERS) as usize, subject, fields)
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The state of a consumer: how far it has delivered, and what waits for its acknowledgement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoredState {
    /// Consumer and stream sequence.
    pub(crate) ack_floor: (u64, u64),
    /// Consumer and stream sequence.
    pub(crate) delivered: (u64, u64),
    /// Stream and consumer sequence.
    pub(crate) pending: Vec<(u64, u64)>,
    /// Stream sequence and how often it was delivered again.
    pub(crate) redelivered: Vec<(u64, u64)>,
}

const STATE_MAGIC: u8 = 22;
const STATE_VERSION: u8 = 2;

impl StoredState {
    /// Reads a state: after two bytes, LEB128 numbers.
    ///
    /// # Errors
    /// If the bytes are no state of this version.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, ArchiveError> {
        let [STATE_MAGIC, STATE_VERSION, rest @ ..] = bytes else {
            return Err(ArchiveError::Format);
        };
        let mut rest = rest;
        let mut next = || {
            leb128::take(&mut rest).map_err(|err| match err {
                Leb128Error::Short => ArchiveError::Truncated,
                Leb128Error::Malformed => ArchiveError::Number,
            })
        };
        let mut state = Self {
            ack_floor: (next()?, next()?),
            delivered: (next()?, next()?),
            ..Self::default()
        };
        let add = |number: u64, to: u64| number.checked_add(to).ok_or(ArchiveError::Number);
        let pending = next()?;
        if pending > 0 {
            next()?;
        }
        for _ in 0..pending {
            let stream_seq = add(next()?, state.ack_floor.1)?;
            let consumer_seq = add(next()?, state.ack_floor.0)?;
            next()?;
            state.pending.push((stream_seq, consumer_seq));
        }
        for _ in 0..next()? {
            let stream_seq = add(next()?, state.ack_floor.1)?;
            state.redelivered.push((stream_seq, next()?));
        }
        Ok(state)
    }
}

#[cfg(test)]
mod tests;
