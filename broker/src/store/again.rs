//! Removals once more: their two frames lie side by side, so that one bad sector could take both and bring removed
//! records back. A third one follows where the log has gone on for a while.

use super::StoreError;
use super::ranges::Ranges;
use super::record::{self, RANGES_MAX};
use super::stream::{Shared, Stream};
use crate::env::Fs;

/// Bytes between the first frames of a removal and its last: more than a sector of any disk.
const DISTANCE_BYTES: u64 = 4096;

/// Removals that were logged lately.
#[derive(Debug, Default)]
pub(super) struct Again {
    /// To be written once the log has gone on from `at`.
    old: Ranges,
    /// Segment, and offset in it, behind the frames of `old`.
    at: (u64, u64),
    /// Logged behind `at`.
    young: Ranges,
}

impl Again {
    /// Notes that the frames of `ranges` were logged; the log now ends at `offset` of `segment`.
    pub(super) fn logged(&mut self, ranges: &Ranges, segment: u64, offset: u64) {
        let into = if self.old.is_empty() {
            self.at = (segment, offset);
            &mut self.old
        } else {
            &mut self.young
        };
        for (first, last) in ranges.iter() {
            into.insert(first, last);
        }
    }

    fn is_empty(&self) -> bool {
        self.old.is_empty() && self.young.is_empty()
    }

    /// What is due when the log goes on at `offset` of `segment`.
    fn take_due(&mut self, segment: u64, offset: u64) -> Option<Ranges> {
        let (before, from) = self.at;
        let is_far = segment != before || offset >= from + DISTANCE_BYTES;
        if self.old.is_empty() || !is_far {
            return None;
        }
        self.at = (segment, offset);
        Some(std::mem::replace(&mut self.old, std::mem::take(&mut self.young)))
    }

    /// Takes back what could not be logged.
    fn put_back(&mut self, due: &Ranges) {
        for (first, last) in due.iter() {
            self.old.insert(first, last);
        }
    }

    /// Everything, due or not.
    fn take_all(&mut self) -> Ranges {
        let mut all = std::mem::take(&mut self.old);
        for (first, last) in std::mem::take(&mut self.young).iter() {
            all.insert(first, last);
        }
        all
    }
}

impl<F: Fs> Stream<F> {
    /// Puts the removals that are due into the log once more.
    pub(super) fn log_again(&mut self, shared: &mut Shared<F>) -> Result<(), StoreError> {
        let (Some(log), Some(segment)) = (&mut self.log, self.segments.back()) else {
            return Ok(());
        };
        match log.again.take_due(segment.id, log.tail + log.buf.len() as u64) {
            Some(due) => self.unless_full(due, |stream, due| stream.log_once(shared, due)),
            None => Ok(()),
        }
    }

    /// Does something about removals that may wait for room: without it nobody else is refused, nor told that the disk
    /// is full, and they stay due.
    fn unless_full(
        &mut self,
        due: Ranges,
        act: impl FnOnce(&mut Self, &Ranges) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let before = (self.refused, self.no_space);
        let outcome = act(self, &due);
        if outcome.as_ref().is_err_and(StoreError::is_no_space) {
            (self.refused, self.no_space) = before;
            if let Some(log) = &mut self.log {
                log.again.put_back(&due);
            }
        }
        outcome
    }

    fn log_once(&mut self, shared: &mut Shared<F>, due: &Ranges) -> Result<(), StoreError> {
        let floor = self.log.as_ref().map_or(0, |log| log.floor);
        let ranges: Vec<(u64, u64)> = due.iter().filter(|&(_, last)| last >= floor).collect();
        for part in ranges.chunks(RANGES_MAX) {
            self.make_room(shared, record::removals_bytes(part.len()), 0)?;
            let last_seq = self.index.last;
            if let (Some(log), Some(segment)) = (&mut self.log, self.segments.back()) {
                let flags = log.flags();
                record::encode_removal(&mut log.buf, segment.seed, flags, last_seq, part);
            }
        }
        Ok(())
    }

    /// Brings the removals of a stream that nothing is written to at a distance from their first frames. Returns whether
    /// there is something to commit now.
    pub(super) fn again_at_rest(&mut self, shared: &mut Shared<F>) -> bool {
        let Some(log) = self.log.as_mut() else {
            return false;
        };
        if log.again.is_empty()
            || self.failed.is_some()
            || self.no_space
            || !log.buf.is_empty()
            || log.unsynced
        {
            return false;
        }
        let due = log.again.take_all();
        self.unless_full(due, |stream, due| stream.log_apart(shared, due))
            .is_ok()
    }

    /// Logs removals once, at a distance from what was logged last.
    fn log_apart(&mut self, shared: &mut Shared<F>, due: &Ranges) -> Result<(), StoreError> {
        let before = self.segments.back().map(|segment| segment.id);
        self.make_room(shared, DISTANCE_BYTES as usize, 0)?;
        if let (Some(log), Some(segment)) = (&mut self.log, self.segments.back())
            && before == Some(segment.id)
        {
            let filler = vec![0; DISTANCE_BYTES as usize - record::HEADER_BYTES];
            record::encode_settle(&mut log.buf, segment.seed, self.index.last, &filler);
        }
        self.log_once(shared, due)
    }
}
