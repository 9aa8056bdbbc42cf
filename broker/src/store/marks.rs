//! Marks: for each stream a position that was durably given, kept apart from the stream's own files, so that segments
//! that vanish from the end of a stream are missed. They follow in the background; acknowledgements do not wait for them.

use std::collections::BTreeMap;
use std::path::Path;

use super::meta::{Loaded, MetaKind, Pair};
use super::record::u64_at;
use super::state::RecoveryReport;
use super::{Store, StoreError};
use crate::env::Fs;
use crate::types::{StreamId, StreamSeq};

/// Name of the two files, without the number.
const STEM: &str = "marks";

/// Highest durable position as last seen, by the stream's incarnation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    by_incarnation: BTreeMap<u64, u64>,
    /// Whether they changed since they were last handed out.
    is_changed: bool,
}

impl Marks {
    /// Reads the marks of the store in `dir`. Marks that are gone are only a precaution less.
    pub(super) fn load<F: Fs>(
        fs: &F,
        dir: &Path,
        report: &mut RecoveryReport,
    ) -> Result<(Self, Pair<F>), StoreError> {
        let loaded = Pair::load(fs, dir, STEM, MetaKind::Marks)?;
        let Some(Loaded { pair, body, degraded }) = loaded else {
            let mut pair = Pair::new(fs, dir, STEM, MetaKind::Marks);
            pair.write_both(&[])?;
            fs.sync_dir(dir).map_err(|err| StoreError::io("sync", dir, err))?;
            return Ok((Self::default(), pair));
        };
        report.metadata_repaired += u64::from(degraded);
        Ok((Self::decode(&body), pair))
    }

    /// At least this position was given in the stream; 0 if nothing is known.
    pub(super) fn of(&self, incarnation: u64) -> u64 {
        self.by_incarnation.get(&incarnation).copied().unwrap_or(0)
    }

    /// Notes that `seq` is durable.
    pub(super) fn raise(&mut self, incarnation: u64, seq: u64) {
        let mark = self.by_incarnation.entry(incarnation).or_insert(0);
        if *mark < seq {
            *mark = seq;
            self.is_changed = true;
        }
    }

    /// Forgets a stream.
    pub(super) fn forget(&mut self, incarnation: u64) {
        self.is_changed |= self.by_incarnation.remove(&incarnation).is_some();
    }

    /// Forgets the streams that are not there.
    pub(super) fn retain(&mut self, is_there: impl Fn(u64) -> bool) {
        let before = self.by_incarnation.len();
        self.by_incarnation
            .retain(|incarnation, _| is_there(*incarnation));
        self.is_changed |= self.by_incarnation.len() != before;
    }

    /// What the file is to say, if it does not yet.
    pub(super) fn take_changed(&mut self) -> Option<Vec<u8>> {
        std::mem::take(&mut self.is_changed).then(|| self.encode())
    }

    /// What was handed out did not get to the disk.
    pub(super) fn set_changed(&mut self) {
        self.is_changed = true;
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.by_incarnation.len() * 16);
        for (incarnation, seq) in &self.by_incarnation {
            out.extend_from_slice(&incarnation.to_le_bytes());
            out.extend_from_slice(&seq.to_le_bytes());
        }
        out
    }

    pub(super) fn decode(body: &[u8]) -> Self {
        let pairs = body.chunks_exact(16);
        let by_incarnation = pairs
            .filter_map(|pair| Some((u64_at(pair, 0)?, u64_at(pair, 8)?)))
            .collect();
        Self {
            by_incarnation,
            is_changed: false,
        }
    }
}

impl<F: Fs> Store<F> {
    /// Moves `last_seq` up to `seq` if it is lower, since something durable refers to records up to there, which the log has
    /// lost: they count as lost, as those that the marks miss. For a start; durable after the next commit.
    ///
    /// # Errors
    /// As for [`Store::append`].
    pub fn raise_over_lost(&mut self, id: StreamId, seq: StreamSeq) -> Result<(), StoreError> {
        let (stream, shared) = self.change(id)?;
        let last = stream.index.last;
        if stream.durable < last {
            return stream.raise_last_seq(shared, seq.0);
        }
        stream.check_writable()?;
        if seq.0 > last {
            stream.lost.insert(last + 1, seq.0);
            stream.index.raise_last(seq.0);
            (stream.durable, stream.synced) = (seq.0, seq.0);
            if let Some(log) = &mut stream.log {
                log.meta_dirty = true;
            }
            self.health_changed = true;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_only_rise_and_are_written_when_they_did() {
        let mut marks = Marks::default();
        marks.raise(7, 5);
        marks.raise(9, 1);
        let body = marks.take_changed().unwrap();
        marks.raise(7, 4);
        assert_eq!(marks.take_changed(), None);
        let mut read = Marks::decode(&body);
        assert_eq!((read.of(7), read.of(9), read.of(1)), (5, 1, 0));
        read.retain(|incarnation| incarnation == 9);
        assert_eq!(
            (read.of(7), read.take_changed().map(|body| body.len())),
            (0, Some(16))
        );
    }
}
