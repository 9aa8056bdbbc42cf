//! Which segments are worth compacting.
//!
//! A copy is written only if it can be expected to free at least as many bytes as it writes, so all compaction together
//! writes about as much as was ever appended at most. Small segments beside sparse ones are taken along; so at most about twice the bytes that are left
//! stay on disk, besides the segments at the end.

use super::super::format::{DATA_START, PACKED_VERSION};
use super::super::sealed::IndexHeader;
use super::super::segment::Data;
use super::super::state::StoreOptions;
use super::super::stream::Stream;
use super::super::table::Table;
use crate::env::Fs;

/// Segments replaced by one at most.
const RUN_MAX: usize = 64;
/// Bytes of a frame that are not counted in a stream's size, with the padding and the removal of what was before it.
const FRAME_BYTES: u64 = 48;

/// Neighbouring segments that are worth one copy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// Number of the first.
    pub(super) first: u64,
    /// Where in the stream it is.
    pub(super) at: usize,
    pub(super) count: usize,
    /// Bytes that the copy takes, about.
    pub(super) estimate: u64,
}

impl<F: Fs> Stream<F> {
    /// Whether nothing waits for a commit.
    pub(super) fn is_quiet(&self) -> bool {
        let is_clean = self.log.as_ref().is_some_and(|log| {
            log.buf.is_empty() && log.full.is_empty() && log.to_remove.is_empty() && !log.meta_dirty
        });
        is_clean
            && self.failed.is_none()
            && !self.no_space
            && self.undo.is_empty()
            && self.damaged.borrow().is_empty()
            && self.durable == self.index.last
    }

    /// Whether the segment can be copied: sealed, and without a record that was lost, which must not be taken for
    /// removed. One behind it has records: the time of the newest is taken from there.
    pub(super) fn is_compactable(&self, at: usize) -> bool {
        let next = self.index.segments.get(at + 1).map(|next| next.base);
        let (Some(segment), Some(found), Some(next)) =
            (self.segments.get(at), self.index.segments.get(at), next)
        else {
            return false;
        };
        matches!((&segment.data, &found.table), (Data::Sealed(_), Table::Sealed(_)))
            && found.owed.is_none()
            && self
                .lost
                .within(found.base, next.saturating_sub(1))
                .next()
                .is_none()
            && self
                .index
                .segments
                .range(at + 1..)
                .rev()
                .any(|after| after.len() > 0)
    }

    /// The first neighbours that are worth a copy.
    pub(super) fn sparse_run(&self, options: &StoreOptions) -> Option<Run> {
        let sealed = self.sealed.min(self.segments.len().saturating_sub(1));
        (0..sealed).find_map(|at| self.run_at(at, sealed, u64::from(options.segment_bytes_max)))
    }

    /// As many segments from `at` on, below `end`, as are worth one copy of at most `max` bytes.
    fn run_at(&self, at: usize, end: usize, max: u64) -> Option<Run> {
        let mut best = None;
        let (mut bytes, mut read, mut estimate) = (0, 0, DATA_START);
        let first = self.segments.get(at)?.id;
        for number in at..end.min(at + RUN_MAX) {
            let (segment, found) = (&self.segments[number], &self.index.segments[number]);
            let left = self.estimate(number);
            let is_small = segment.end <= max / 2;
            let is_sparse = left.saturating_mul(2) <= segment.end;
            if !(is_small || is_sparse) || !self.is_compactable(number) || self.goes_soon(number) {
                break;
            }
            bytes += segment.end;
            read += if found.live > 0 { segment.end } else { 0 };
            estimate += left;
            let last = found.last_seq().unwrap_or(found.base);
            let is_too_long = last - self.index.segments[at].base > u64::from(u32::MAX);
            if number > at && (estimate > max || read > max.saturating_mul(4) || is_too_long) {
                break;
            }
            if estimate.saturating_mul(2) <= bytes {
                let count = number + 1 - at;
                best = Some(Run {
                    first,
                    at,
                    count,
                    estimate,
                });
            }
        }
        best
    }

    /// Whether the segment is the first and loses its records in their order, as those of queues and of streams with
    /// limits do: then it goes whole.
    fn goes_soon(&self, at: usize) -> bool {
        let Some(found) = self.index.segments.get(at).filter(|_| at == 0) else {
            return false;
        };
        found.len() - found.live as usize == found.below(self.index.first)
    }

    /// Bytes that what is left of a segment takes in a copy, about.
    fn estimate(&self, at: usize) -> u64 {
        let (segment, found) = (&self.segments[at], &self.index.segments[at]);
        let left = found.live_bytes + FRAME_BYTES * u64::from(found.live);
        let left = match &found.table {
            Table::Sealed(table) if segment.version >= PACKED_VERSION => as_packed(left, &table.index.header),
            _ => left,
        };
        match segment.tried_at {
            u64::MAX => left,
            0 => segment.end,
            // It says itself how many bytes they take.
            before => left.max(segment.end.saturating_mul(found.live_bytes) / before),
        }
    }
}

/// What is left of a segment, in bytes as they count unpacked, by how far its records are packed on the whole.
fn as_packed(left: u64, header: &IndexHeader) -> u64 {
    let unpacked = header.data_bytes + FRAME_BYTES * u64::from(header.entries);
    let stored = header.end.saturating_sub(DATA_START);
    if unpacked <= stored {
        return left;
    }
    let left = u128::from(left) * u128::from(stored) / u128::from(unpacked);
    u64::try_from(left).unwrap_or(u64::MAX)
}

/// Whether files of this length are made for segments, so that one can be used again.
pub(in super::super) fn is_regular(bytes: u64, options: &StoreOptions) -> bool {
    let max = u64::from(options.segment_bytes_max);
    let mut size = u64::from(options.segment_bytes_min.min(options.segment_bytes_max)).max(1);
    while size < max && size < bytes {
        size = size.saturating_mul(4).min(max);
    }
    size == bytes
}
