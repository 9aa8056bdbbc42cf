//! What a copy is made of, and putting it in place.

use std::path::Path;

use super::super::StoreError;
use super::super::format::{DATA_START, SegmentHeader};
use super::super::seal::index_path;
use super::super::sealed::Bits;
use super::super::segment::{Data, Segment};
use super::super::stream::{Shared, Stream};
use super::super::table::{SealedTable, SegmentIndex, Table};
use super::choose::Run;
use super::copy::{Copied, Earlier, Job, Source};
use crate::env::{Fs, FsFile, Rng};

impl<F: Fs> Stream<F> {
    /// The job of copying a run. `None`: it cannot be copied.
    pub(super) fn compaction_job(&mut self, shared: &mut Shared<F>, run: Run) -> Option<Job> {
        let log = self.log.as_ref()?;
        let sources: Option<Vec<Source>> = (run.at..run.at + run.count).map(|at| self.source(at)).collect();
        let sources = sources?;
        let (first, last) = (sources.first()?, sources.last()?);
        let new = SegmentHeader {
            version: sources.iter().map(|source| source.header.version).max()?,
            salt: shared.rng.next_u64() as u32,
            through: if run.count > 1 { last.header.id } else { 0 }
                .max(last.header.through)
                .max(first.header.through),
            ..first.header
        };
        let earlier = (0..run.at).filter_map(|at| {
            let source = self.source(at)?;
            Some(Earlier {
                header: source.header,
                path: source.path,
                end: source.next_base.saturating_sub(1),
            })
        });
        Some(Job {
            stream: self.id,
            new,
            copy: shared.spares.next_path(),
            copy_index: shared.spares.next_path(),
            last_seq: sources.iter().map(|source| source.last_seq).max()?,
            floor: log.floor.min(self.durable + 1),
            earlier: earlier.collect(),
            sources,
            estimate: run.estimate,
            reserve: shared.options.reserve_bytes,
        })
    }

    fn source(&self, at: usize) -> Option<Source> {
        let (segment, found) = (self.segments.get(at)?, self.index.segments.get(at)?);
        let Table::Sealed(table) = &found.table else {
            return None;
        };
        let header = table.index.header;
        // Where all went at once it was not noted for each.
        let removed = (found.live > 0).then(|| table.removed.clone());
        let is_known = removed.as_ref().is_none_or(|removed| {
            table.index.len() - (removed.count_from(0) as usize).min(table.index.len()) == found.live as usize
        });
        is_known.then_some(Source {
            header: header.segment,
            path: segment.path()?.to_owned(),
            bytes: segment.end,
            next_base: self.index.segments.get(at + 1)?.base,
            last_seq: header.last_seq,
            entries: table.index.len(),
            removed,
        })
    }

    /// Notes that a copy of these segments is no use.
    pub(super) fn tried_in_vain(&mut self, job: &Job) {
        for (segment, found) in self.segments.iter_mut().zip(&self.index.segments) {
            if job.sources.iter().any(|source| source.header.id == segment.id) {
                segment.tried_at = found.live_bytes;
            }
        }
    }

    /// Puts a copy in place of its sources. `false`: it is no use any more.
    ///
    /// # Errors
    /// It is unknown which of the two is in place.
    pub(super) fn put_in_place(
        &mut self,
        shared: &Shared<F>,
        job: &Job,
        copied: Copied,
    ) -> Result<bool, StoreError> {
        let sealing = &shared.sealer.sealing;
        let count = job.sources.len();
        let Some(at) = self.segments.iter().position(|segment| segment.id == job.new.id) else {
            return Ok(false);
        };
        if at + count >= self.segments.len() || !(at..at + count).all(|at| self.is_compactable(at)) {
            return Ok(false);
        }
        let Some(index) = sealing.adopt(job.new, job.target(), Some(copied.index))? else {
            return Ok(false);
        };
        let header = index.header;
        let Some(removed) = carry_over(job, self.index.segments.range(at..at + count), index.len()) else {
            return Ok(false);
        };
        let live: u32 = self
            .index
            .segments
            .range(at..at + count)
            .map(|segment| segment.live)
            .sum();
        let is_same = index.len().checked_sub(removed.count_from(0) as usize) == Some(live as usize)
            && (header.segment, header.segment_bytes, header.last_seq)
                == (job.new, copied.bytes, job.last_seq);
        if !is_same {
            return Ok(false);
        }
        if let Err(err) = shared.fs.rename(&job.copy, job.target()) {
            match salt_of(&shared.fs, job.target(), job.new.id) {
                Some(salt) if salt == job.new.salt => {}
                Some(_) => return Ok(false),
                None => return Err(StoreError::io("replace", job.target(), err)),
            }
        }
        // From here on the old segments are of no use.
        let mut in_use = index;
        if let Err(err) = shared.fs.rename(&job.copy_index, &index_path(job.target())) {
            tracing::warn!(path = %job.target().display(), error = %err, "the index of a compacted segment stays in memory");
        } else if let Ok(Some(on_disk)) = sealing.adopt(job.new, job.target(), None)
            && on_disk.header == header
        {
            in_use = on_disk;
        }
        let table = SealedTable {
            index: in_use,
            removed,
        };
        self.index.replace_segments(at, count, table);
        self.segments.drain(at..at + count);
        let segment = Segment {
            id: job.new.id,
            version: job.new.version,
            seed: job.new.salt,
            end: copied.bytes,
            data: Data::Sealed(sealing.handles.lazy(job.target().to_owned())),
            is_handed_over: true,
            through: job.new.through,
            tried_at: self.index.segments[at].live_bytes,
        };
        self.segments.insert(at, segment);
        self.sealed = self.sealed.saturating_sub(count - 1);
        tracing::info!(stream = %self.meta.name, segment = job.new.id, segments = count,
            from = job.sources.iter().map(|source| source.bytes).sum::<u64>(), to = copied.bytes,
            "compacted segments");
        self.census.is_stirred = true;
        Ok(true)
    }
}

/// The places of a copy whose records were removed since the copy was begun. `None`: the segments are not those that
/// were copied.
fn carry_over<'a>(job: &Job, segments: impl Iterator<Item = &'a SegmentIndex>, len: usize) -> Option<Bits> {
    let mut removed = Bits::default();
    let mut new = 0;
    for (source, found) in job.sources.iter().zip(segments) {
        let Table::Sealed(table) = &found.table else {
            return None;
        };
        if table.index.header.segment != source.header {
            return None;
        }
        let Some(before) = &source.removed else { continue };
        let mut old = before.next_missing(0);
        while old < source.entries {
            if found.live == 0 || table.removed.contains(old) {
                removed.insert(new, len);
            }
            new += 1;
            old = before.next_missing(old + 1);
        }
    }
    (new == len).then_some(removed)
}

/// The salt of the segment at `path`.
fn salt_of<F: Fs>(fs: &F, path: &Path, id: u64) -> Option<u32> {
    let file = fs.open_read(path).ok()?;
    let mut head = [0; DATA_START as usize];
    let count = file.read_at(&mut head, 0).ok()?;
    let (header, _) = SegmentHeader::decode(&head[..count], id, path).ok()??;
    Some(header.salt)
}
