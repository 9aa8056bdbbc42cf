//! Reading records, and what happens when their bytes are not what was written.

use std::cell::RefCell;
use std::sync::Arc;

use bytes::Bytes;

use super::StoreError;
use super::cache::{ReadCache, Wanted};
use super::index::Located;
use super::pack;
use super::quarantine::Damage;
use super::record::{self, Frame, HEADER_BYTES, Kind};
use super::segment::{Data, Segment};
use super::state::{Record, SeqRange};
use super::stream::{Shared, Stream};
use crate::env::Fs;
use crate::types::{StreamSeq, UnixNanos};

impl<F: Fs> Stream<F> {
    pub(super) fn read(&self, shared: &Shared<F>, seq: u64) -> Result<Option<Record>, StoreError> {
        let Some(at) = self.index.locate(seq) else {
            return Ok(None);
        };
        let Some(segment) = self.segments.get(at.segment) else {
            return Ok(None);
        };
        let bytes = self.frame_bytes(&shared.cache, segment, at, seq)?;
        let found = record::decode(&bytes, segment.seed)
            .filter(|frame| frame.head.kind == Kind::Message && frame.head.seq == seq)
            .and_then(|frame| Some((frame, body(&bytes, &frame)?)));
        let Some((frame, (headers, payload))) = found else {
            self.note_damaged(shared, segment.id, at.offset, &bytes, seq);
            return Err(StoreError::Damaged {
                stream: Arc::clone(&self.meta.name),
                seq: StreamSeq(seq),
            });
        };
        Ok(Some(Record {
            seq: StreamSeq(seq),
            time: UnixNanos(frame.head.time),
            subject: shared.cache.borrow_mut().name(frame.subject),
            headers,
            payload,
        }))
    }

    /// Keeps the bytes of a damaged record aside, and lets it count as lost from the next commit on.
    fn note_damaged(&self, shared: &Shared<F>, segment: u64, offset: u64, bytes: &[u8], seq: u64) {
        if !self.damaged.borrow_mut().insert(seq) {
            return;
        }
        let damage = Damage {
            segment,
            offset,
            bytes,
            range: SeqRange {
                first: StreamSeq(seq),
                last: StreamSeq(seq),
            },
        };
        self.keep_aside(shared, &damage);
    }

    /// Copies damaged bytes to the stream's quarantine, if it is on disk.
    pub(super) fn keep_aside(&self, shared: &Shared<F>, damage: &Damage<'_>) {
        match &self.log {
            Some(log) => {
                self.quarantine
                    .borrow_mut()
                    .keep(&shared.fs, &self.meta.name, &log.dir, damage);
            }
            None => {
                tracing::error!(stream = %self.meta.name, seq = damage.range.first.0, "record in memory is damaged")
            }
        }
    }

    /// Lets a record that cannot be read count as lost from the next commit on, until the store is opened again.
    pub(super) fn give_up(&self, seq: u64) {
        if self.damaged.borrow_mut().insert(seq) {
            tracing::error!(stream = %self.meta.name, seq, "record cannot be read and counts as lost until a restart");
        }
    }

    fn frame_bytes(
        &self,
        cache: &RefCell<ReadCache>,
        segment: &Segment<F>,
        at: Located,
        seq: u64,
    ) -> Result<Bytes, StoreError> {
        let len = at.len as usize;
        let cut = |bytes: &[u8], start: u64| {
            let from = at
                .offset
                .checked_sub(start)
                .map_or(usize::MAX, |from| from as usize);
            bytes
                .get(from..from.saturating_add(len))
                .map(Bytes::copy_from_slice)
        };
        let opened;
        let (file, path) = match &segment.data {
            Data::Memory(bytes) => return Ok(cut(bytes, 0).unwrap_or_default()),
            Data::File { file, path } => (file, path.as_path()),
            Data::Sealed(sealed) => {
                let open = sealed.open();
                opened = open.map_err(|err| StoreError::io("open", sealed.path(), err))?;
                (&*opened, sealed.path())
            }
        };
        let Some(log) = &self.log else {
            return Ok(Bytes::new());
        };
        let is_last = self.segments.back().is_some_and(|last| last.id == segment.id);
        if is_last && let Some(bytes) = cut(&log.buf, log.tail) {
            return Ok(bytes);
        }
        for chunk in log.full.iter().filter(|chunk| chunk.segment == segment.id) {
            if let Some(bytes) = cut(&chunk.bytes, chunk.offset) {
                return Ok(bytes);
            }
        }
        let unwritten = log
            .full
            .iter()
            .find(|chunk| chunk.segment == segment.id)
            .map(|chunk| chunk.offset);
        let end = if is_last {
            log.tail
        } else {
            unwritten.unwrap_or(segment.end)
        };
        let wanted = Wanted {
            stream: self.id,
            segment: segment.id,
            seq,
            offset: at.offset,
            len,
            end,
        };
        cache
            .borrow_mut()
            .read(file, wanted)
            .map_err(|err| StoreError::io("read", path, err))
    }
}

/// Headers and payload of the frame in `bytes`. `None`: they are packed, and not what their lengths say.
fn body(bytes: &Bytes, frame: &Frame<'_>) -> Option<(Bytes, Bytes)> {
    let Some(lengths) = frame.packed else {
        let headers_at = HEADER_BYTES + frame.subject.len();
        let payload_at = headers_at + frame.headers.len();
        return Some((
            bytes.slice(headers_at..payload_at),
            bytes.slice(payload_at..frame.len()),
        ));
    };
    let mut headers = Bytes::from(pack::unpack(frame, lengths)?);
    let payload = headers.split_off(lengths.headers as usize);
    Some((headers, payload))
}
