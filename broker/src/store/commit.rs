//! Making a stream's changes durable.
//!
//! Order: frames, segment by segment, each synced before the next is written; then the metadata, then the files that
//! the metadata no longer needs. The states of consumers come in a step of their own, so that nobody who published waits
//! for them; they are never newer than the records.
//!
//! A commit has two halves, [`Stream::begin_commit`] and [`Stream::complete_commit`], and the sync of the last frames
//! between them, so that the files of all streams are synced at once: who publishes to a quiet stream does not wait for
//! the sync of a busy one on top of its own.

use std::path::Path;

use super::StoreError;
use super::compact;
use super::consumers::Consumer;
use super::prepare::remove_quietly;
use super::record::{self, HEADER_BYTES, RANGES_MAX};
use super::seal::index_path;
use super::segment::{Data, Segment};
use super::stream::{Chunk, Log, Shared, Stream};
use crate::env::{Fs, FsFile};

/// A write buffer that grew beyond this is given back after the commit.
const BUFFER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Why frames could not be made durable.
enum FlushError {
    /// Nothing of the batch counts: it may be tried again.
    RolledBack(StoreError),
    /// Nothing can be promised any more.
    Fatal(StoreError),
}

/// How far the first half of a commit came.
pub(super) enum Begun {
    /// There is no second half: nothing was pending (`None`), it needed no sync, or it failed.
    Over(Option<Result<(), StoreError>>),
    /// Frames are written.
    Written(Written),
}

/// A commit between its halves.
#[derive(Default)]
pub(super) struct Written {
    /// The last frames, if they are to be synced.
    last: Option<Chunk>,
    /// Why removals could not be logged.
    refused: Option<StoreError>,
    /// The records of the batch are forgotten because of that.
    is_rolled_back: bool,
}

impl<F: Fs> Stream<F> {
    /// Writes everything pending but the states of consumers. What is not over then has to be synced
    /// ([`Stream::to_sync`]) and completed.
    pub(super) fn begin_commit(&mut self, shared: &mut Shared<F>) -> Begun {
        self.queued = false;
        self.refused = false;
        if self.log.is_none() {
            let pending = self.durable < self.index.last || self.has_states();
            self.durable = self.index.last;
            self.durable_time = self.index.last_time;
            for name in self.changed_consumers.drain(..) {
                self.consumers.get_mut(&name).map(Consumer::settle);
            }
            self.drop_dead();
            return Begun::Over(pending.then_some(Ok(())));
        }
        if self.failed.is_none() && !self.is_dirty() {
            return Begun::Over(None);
        }
        let begun = match self.check_writable() {
            Ok(()) => self.write_log(shared),
            Err(_) if !self.unreported => return Begun::Over(None),
            Err(err) => Err(err),
        };
        match begun {
            Ok(written) => Begun::Written(written),
            Err(err) => Begun::Over(Some(self.end_commit(Err(err)))),
        }
    }

    /// The file that a commit waits for, and its path.
    pub(super) fn to_sync(&self, written: &Written) -> Option<(&F::File, &Path)> {
        self.file(written.last.as_ref()?.segment)
    }

    /// The other half of a commit: `synced` is what came of syncing the file of [`Stream::to_sync`].
    pub(super) fn complete_commit(
        &mut self,
        shared: &mut Shared<F>,
        written: Written,
        synced: Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let outcome = match synced {
            Ok(()) => self.complete_log(shared, written),
            Err(err) => Err(self.fail(err)),
        };
        self.end_commit(outcome)
    }

    fn end_commit(&mut self, outcome: Result<(), StoreError>) -> Result<(), StoreError> {
        self.unreported = false;
        // What found no room here says nothing about what comes next.
        self.refused = false;
        outcome
    }

    /// Takes the records that were found damaged out of the index, and counts them as lost.
    pub(super) fn take_out_damaged(&mut self) {
        for seq in self.damaged.take() {
            if self.index.remove(seq) {
                self.lost.insert(seq, seq);
            }
        }
    }

    fn has_states(&self) -> bool {
        !self.changed_consumers.is_empty()
    }

    fn is_dirty(&self) -> bool {
        let log_dirty = self.log.as_ref().is_some_and(|log| {
            !log.buf.is_empty() || !log.full.is_empty() || !log.to_remove.is_empty() || log.meta_dirty
        });
        log_dirty || self.has_states()
    }

    fn write_log(&mut self, shared: &mut Shared<F>) -> Result<Written, StoreError> {
        let removals = self.log_removals(shared);
        if self.failed.is_some() {
            return removals.map(|()| Written::default());
        }
        if let Err(refused) = removals {
            // Records may have been stored in the room that the removals made: they must not be durable sooner. States may
            // be about these records; a purge may be what makes room.
            let is_rolled_back = self.index.last > self.durable;
            if is_rolled_back {
                self.forget_frames(shared).map_err(|err| self.fail(err))?;
            }
            return Ok(Written {
                refused: Some(refused),
                is_rolled_back,
                ..Written::default()
            });
        }
        // A precaution: it can wait for room.
        if let Err(err) = self.log_again(shared)
            && self.failed.is_some()
        {
            return Err(err);
        }
        match self.write_frames(shared) {
            Ok(last) => Ok(Written {
                last,
                ..Written::default()
            }),
            Err(FlushError::Fatal(err)) => Err(self.fail(err)),
            // Metadata and states wait as well: they may be about records that are gone.
            Err(FlushError::RolledBack(err)) => {
                self.no_space = true;
                Err(err)
            }
        }
    }

    fn complete_log(&mut self, shared: &mut Shared<F>, written: Written) -> Result<(), StoreError> {
        if let Some(chunk) = written.last {
            self.synced_frames(&chunk);
            self.wrote_last(chunk);
        }
        let mut outcome = written.refused.map_or(Ok(()), Err);
        self.undo.clear();
        self.drop_dead();
        if outcome.is_ok()
            && let (Some(log), Some(last)) = (&mut self.log, self.segments.back())
        {
            log.again.logged(&log.to_remove, last.id, log.tail);
            log.to_remove.clear();
        }
        if self.log.as_ref().is_some_and(|log| log.meta_dirty) {
            self.sync_written()?;
        }
        match self.commit_meta(shared) {
            Ok(()) => {}
            Err(err) if err.is_no_space() => outcome = Err(err),
            Err(err) => return Err(self.fail(err)),
        }
        self.no_space = outcome.is_err();
        self.states_due = self.has_states() && !written.is_rolled_back;
        self.hand_over_full(shared);
        if self.index.is_broken() {
            let err = self.broken();
            return Err(self.fail(err));
        }
        outcome
    }

    /// Makes the states of consumers durable, if the records that they may be about are.
    pub(super) fn commit_states(&mut self) -> Result<(), StoreError> {
        if !std::mem::take(&mut self.states_due) {
            return Ok(());
        }
        if let Err(err) = self.sync_written() {
            self.unreported = false;
            return Err(err);
        }
        match self.commit_consumers() {
            Ok(()) => Ok(()),
            Err(err) if err.is_no_space() => {
                self.no_space = true;
                Err(err)
            }
            Err(err) => {
                let err = self.fail(err);
                self.unreported = false;
                Err(err)
            }
        }
    }

    /// Puts the removals since the last commit into the log.
    fn log_removals(&mut self, shared: &mut Shared<F>) -> Result<(), StoreError> {
        let Some(log) = &self.log else { return Ok(()) };
        let ranges: Vec<(u64, u64)> = log.to_remove.iter().collect();
        for part in ranges.chunks(RANGES_MAX) {
            self.make_room(shared, record::removals_bytes(part.len()), 0)?;
            let last_seq = self.index.last;
            if let (Some(log), Some(segment)) = (&mut self.log, self.segments.back()) {
                let flags = log.flags();
                record::encode_removals(&mut log.buf, segment.seed, flags, last_seq, part);
            }
        }
        Ok(())
    }

    /// Forgets the frames that are not written yet, as if the first of them had found no room.
    fn forget_frames(&mut self, shared: &Shared<F>) -> Result<(), StoreError> {
        let Some(log) = &self.log else { return Ok(()) };
        let end = self.segments.back().map(|last| (last.id, log.tail));
        let first = log.full.first().map(|chunk| (chunk.segment, chunk.offset));
        match first.or(end) {
            Some((segment, offset)) => self.end_at(shared, segment, offset),
            None => Ok(()),
        }
    }

    /// Writes the frames that are not yet, and syncs all but the last, which is given back if it is to be synced.
    fn write_frames(&mut self, shared: &Shared<F>) -> Result<Option<Chunk>, FlushError> {
        let Some(log) = &mut self.log else {
            return Ok(None);
        };
        let end = self.segments.back().map(|segment| segment.id);
        let mut chunks = std::mem::take(&mut log.full);
        if !log.buf.is_empty()
            && let Some(last) = self.segments.back()
        {
            let bytes = std::mem::take(&mut log.buf);
            chunks.push(Chunk {
                segment: last.id,
                offset: log.tail,
                bytes,
                last_seq: self.index.last,
                last_time: self.index.last_time,
            });
        }
        let last = chunks.pop();
        for chunk in &chunks {
            if self.write_chunk(shared, chunk)? {
                self.sync_chunk(chunk)?;
            }
        }
        let Some(chunk) = last else { return Ok(None) };
        let is_there = self.write_chunk(shared, &chunk)?;
        let is_late = self.is_late && Some(chunk.segment) == end;
        if is_there && !is_late {
            return Ok(Some(chunk));
        }
        if is_there {
            self.written_frames(&chunk);
            if let Some(log) = &mut self.log {
                log.unsynced = true;
            }
        }
        self.wrote_last(chunk);
        Ok(None)
    }

    /// Writes frames. Returns whether their segment is still there.
    fn write_chunk(&mut self, shared: &Shared<F>, chunk: &Chunk) -> Result<bool, FlushError> {
        let Some((file, path)) = self.file(chunk.segment) else {
            return Ok(false);
        };
        let Err(err) = file.write_at(&chunk.bytes, chunk.offset) else {
            return Ok(true);
        };
        let err = StoreError::io("write", path, err);
        if !err.is_no_space() || erase(file, chunk).is_err() {
            return Err(FlushError::Fatal(err));
        }
        Err(match self.end_at(shared, chunk.segment, chunk.offset) {
            Ok(()) => FlushError::RolledBack(err),
            Err(err) => FlushError::Fatal(err),
        })
    }

    fn sync_chunk(&mut self, chunk: &Chunk) -> Result<(), FlushError> {
        if let Some((file, path)) = self.file(chunk.segment)
            && let Err(err) = file.sync_data()
        {
            return Err(FlushError::Fatal(StoreError::io("sync", path, err)));
        }
        self.synced_frames(chunk);
        Ok(())
    }

    /// The file of a segment that may still be written to, also if nothing in it is alive any more.
    fn file(&self, id: u64) -> Option<(&F::File, &Path)> {
        let dropped = self.log.iter().flat_map(|log| &log.dropped);
        let segments = self.segments.iter().rev().chain(dropped);
        segments.filter(|segment| segment.id == id).find_map(file_of)
    }

    fn written_frames(&mut self, chunk: &Chunk) {
        self.durable = self.durable.max(chunk.last_seq);
        self.durable_time = chunk.last_time;
    }

    fn synced_frames(&mut self, chunk: &Chunk) {
        self.written_frames(chunk);
        self.synced = self.durable;
        let is_end = self.segments.back().is_some_and(|end| end.id == chunk.segment);
        if let Some(log) = self.log.as_mut().filter(|_| is_end) {
            log.unsynced = false;
        }
    }

    /// The frames of a commit are written: the log ends behind them, unless a segment was begun since, without a frame
    /// in it.
    fn wrote_last(&mut self, mut chunk: Chunk) {
        let is_end = self.segments.back().is_some_and(|end| end.id == chunk.segment);
        let Some(log) = &mut self.log else { return };
        if is_end {
            log.tail = chunk.offset + chunk.bytes.len() as u64;
            log.unsettled = !log.unsynced;
        }
        if chunk.bytes.capacity() <= BUFFER_BYTES_MAX {
            chunk.bytes.clear();
            log.buf = chunk.bytes;
        }
    }

    /// Forgets what is not durable, and lets the log end at `offset` of `segment`: segments begun behind it are removed,
    /// since they begin above the position that comes next.
    fn end_at(&mut self, shared: &Shared<F>, segment: u64, offset: u64) -> Result<(), StoreError> {
        let Some(keep) = self.segments.iter().position(|one| one.id == segment) else {
            return Err(StoreError::ReadOnly {
                stream: self.meta.name.clone(),
            });
        };
        let begun = self.segments.split_off(keep + 1);
        self.index.truncate_above(self.durable);
        self.index.segments.truncate(keep + 1);
        self.roll_back();
        if let Some(log) = &mut self.log {
            log.tail = offset;
            if begun.is_empty() {
                return Ok(());
            }
            for path in begun.iter().rev().filter_map(Segment::path) {
                shared
                    .fs
                    .remove(path)
                    .map_err(|err| StoreError::io("remove", path, err))?;
            }
            shared
                .fs
                .sync_dir(&log.dir)
                .map_err(|err| StoreError::io("sync", &log.dir, err))?;
        }
        Ok(())
    }

    /// Forgets what is not durable.
    fn roll_back(&mut self) {
        self.index.truncate_above(self.durable);
        self.index.last_time = self.durable_time;
        self.undo();
        if let Some(log) = &mut self.log {
            log.buf.clear();
            log.full.clear();
            log.to_remove.truncate_above(self.durable);
            log.floor = log.floor.min(self.durable + 1);
        }
    }

    fn commit_meta(&mut self, shared: &mut Shared<F>) -> Result<(), StoreError> {
        let Some(log) = &self.log else { return Ok(()) };
        if !log.meta_dirty {
            return Ok(());
        }
        let body = self.body(log).encode();
        let Some(log) = &mut self.log else { return Ok(()) };
        log.pair.write_both(&body)?;
        log.meta_dirty = false;
        for segment in log.dropped.drain(..) {
            if let Some(path) = segment.path().map(Path::to_owned) {
                if segment.is_handed_over && !self.census.names(segment.id) {
                    remove_quietly(&shared.fs, &index_path(&path));
                }
                let is_regular = compact::is_regular(segment.end, &shared.options);
                shared
                    .spares
                    .retire(path, if is_regular { segment.end as u32 } else { 0 });
            }
        }
        Ok(())
    }

    /// Stops all writing: it is unknown what of the last writes is on disk. Gives the error back.
    pub(super) fn fail(&mut self, err: StoreError) -> StoreError {
        tracing::error!(stream = %self.meta.name, error = %err, "stream is read-only until restart");
        self.failed = Some(err.to_string());
        self.unreported = true;
        self.roll_back();
        if let Some(log) = &mut self.log {
            log.to_remove.clear();
            log.meta_dirty = false;
            log.unsettled = false;
        }
        self.give_up_states();
        err
    }

    /// Forgets the states of consumers that are not durable.
    pub(super) fn give_up_states(&mut self) {
        self.states_due = false;
        for name in self.changed_consumers.drain(..) {
            if let Some(consumer) = self.consumers.get_mut(&name) {
                consumer.pending = None;
            }
        }
    }

    /// Marks the end of the last commit, without a sync: the next one brings it to disk, and it serves a restart
    /// before that as well unless the power fails. The next frame takes its place.
    pub(super) fn settle(&mut self) {
        let last_seq = self.index.last;
        let Some(log) = self
            .log
            .as_mut()
            .filter(|log| log.unsettled && log.buf.is_empty() && !log.unsynced)
        else {
            return;
        };
        let Some(segment) = self.segments.back() else {
            return;
        };
        let Some((file, path)) = file_of(segment) else {
            return;
        };
        log.unsettled = false;
        if log.tail + HEADER_BYTES as u64 > segment.end {
            return;
        }
        let mut frame = Vec::with_capacity(HEADER_BYTES);
        record::encode_settle(&mut frame, segment.seed, last_seq, &[]);
        if let Err(err) = file.write_at(&frame, log.tail) {
            let err = StoreError::io("write", path, err);
            self.fail(err);
        }
    }

    /// Notes the clean end of a stream that is committed: settled, and with its first position.
    pub(super) fn close(&mut self, shared: &mut Shared<F>) -> Result<(), StoreError> {
        self.check_writable()?;
        self.sync_written()?;
        self.settle();
        if let Some((file, path)) = self.segments.back().and_then(file_of) {
            file.sync_data()
                .map_err(|err| StoreError::io("sync", path, err))?;
        }
        let first = self.index.first;
        // What could not be read when the stream was opened may be there the next time.
        let is_known = self.lost.is_empty();
        if let Some(log) = self.log.as_mut().filter(|log| is_known && log.floor < first) {
            log.floor = first;
            log.meta_dirty = true;
        }
        self.commit_meta(shared)
    }
}

fn file_of<F: Fs>(segment: &Segment<F>) -> Option<(&F::File, &std::path::Path)> {
    match &segment.data {
        Data::File { file, path } => Some((file, path)),
        Data::Sealed(_) | Data::Memory(_) => None,
    }
}

/// Overwrites what a failed write may have left, so that it is never read as frames.
fn erase(file: &impl FsFile, chunk: &Chunk) -> std::io::Result<()> {
    let end = chunk.offset + chunk.bytes.len() as u64;
    let there = file.len()?.min(end).saturating_sub(chunk.offset);
    file.write_at(&vec![0; there as usize], chunk.offset)?;
    file.sync_data()
}

impl<F: Fs> Log<F> {
    /// The log of a stream that has no segment yet.
    pub(super) fn new(
        dir: std::path::PathBuf,
        pair: super::meta::Pair<F>,
        incarnation: u64,
        floor: u64,
    ) -> Self {
        Self {
            dir,
            pair,
            incarnation,
            next_segment: 1,
            tail: 0,
            buf: Vec::new(),
            full: Vec::new(),
            to_remove: super::ranges::Ranges::default(),
            floor,
            meta_dirty: false,
            dropped: Vec::new(),
            unsettled: false,
            unsynced: false,
            late_failed: std::sync::Arc::default(),
            again: super::again::Again::default(),
        }
    }
}
