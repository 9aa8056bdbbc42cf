//! Commits of all streams that have something to commit, at once.

use std::io;
use std::path::Path;

use super::commit::{Begun, Written};
use super::state::CommitReport;
use super::{Store, StoreError};
use crate::env::Fs;
use crate::types::StreamId;

impl<F: Fs> Store<F> {
    /// Makes everything pending durable: one write and one sync for each stream that has something, then the states of
    /// consumers.
    pub fn commit(&mut self) -> CommitReport {
        let mut report = self.commit_records();
        let states = self.commit_states();
        report
            .committed
            .retain(|id| !states.failed.iter().any(|(failed, _)| failed == id));
        report.failed.extend(states.failed);
        report
    }

    /// Makes everything pending durable but the states of consumers; [`Store::commit_states`] has to follow.
    pub fn commit_records(&mut self) -> CommitReport {
        self.take_out_damaged();
        self.take_sealed();
        let mut report = CommitReport::default();
        let mut queue = std::mem::take(&mut self.queue);
        queue.sort_unstable();
        let mut written = Vec::new();
        for id in queue.drain(..) {
            let Some(stream) = self.streams.get_mut(&id) else {
                continue;
            };
            match stream.begin_commit(&mut self.shared) {
                Begun::Written(half) => written.push((id, half)),
                Begun::Over(outcome) => self.committed(id, outcome, &mut report),
            }
        }
        queue.append(&mut self.queue);
        self.queue = queue;
        let synced = self.sync_begun(&written);
        for ((id, half), synced) in written.into_iter().zip(synced) {
            if let Some(stream) = self.streams.get_mut(&id) {
                let outcome = stream.complete_commit(&mut self.shared, half, synced);
                self.committed(id, Some(outcome), &mut report);
            }
        }
        report
    }

    /// Syncs what commits have written, all at once, and says what came of each.
    fn sync_begun(&self, begun: &[(StreamId, Written)]) -> Vec<Result<(), StoreError>> {
        let files: Vec<_> = begun
            .iter()
            .map(|(id, half)| self.streams.get(id)?.to_sync(half))
            .collect();
        let to_sync: Vec<&F::File> = files.iter().flatten().map(|(file, _)| *file).collect();
        let mut synced = self.shared.fs.sync_files(&to_sync).into_iter();
        let outcome = |file: &Option<(&F::File, &Path)>| match file {
            Some((_, path)) => synced
                .next()
                .unwrap_or_else(|| Err(io::Error::other("the outcome of a sync is missing")))
                .map_err(|err| StoreError::io("sync", path, err)),
            None => Ok(()),
        };
        files.iter().map(outcome).collect()
    }

    fn committed(
        &mut self,
        id: StreamId,
        outcome: Option<Result<(), StoreError>>,
        report: &mut CommitReport,
    ) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        match outcome {
            Some(Ok(())) => {
                report.committed.push(id);
                self.tending.stir(id);
            }
            Some(Err(err)) => {
                if stream.failed.is_none() {
                    stream.queued = true;
                    self.queue.push(id);
                }
                report.failed.push((id, err));
            }
            None => {}
        }
        if stream.states_due {
            self.states_due.push(id);
        }
        if stream.log.as_ref().is_some_and(|log| log.unsettled) {
            self.unsettled.push(id);
        }
    }

    /// Whether states of consumers of the stream wait for [`Store::commit_states`].
    pub fn has_states_due(&self, id: StreamId) -> bool {
        self.streams.get(&id).is_some_and(|stream| stream.states_due)
    }

    /// Makes the states of consumers durable, a write and a sync for each that has changed. Reports the streams where that
    /// failed.
    pub fn commit_states(&mut self) -> CommitReport {
        let mut report = CommitReport::default();
        for id in std::mem::take(&mut self.states_due) {
            let Some(stream) = self.streams.get_mut(&id) else {
                continue;
            };
            if let Err(err) = stream.commit_states() {
                if stream.failed.is_none() && !stream.queued {
                    stream.queued = true;
                    self.queue.push(id);
                }
                report.failed.push((id, err));
            }
        }
        // Not before: a failure here must not take with it what was reported as committed.
        self.compact_after_commit();
        report
    }

    /// Whether there is something for [`Store::settle`] to do.
    pub fn has_unsettled(&self) -> bool {
        !self.unsettled.is_empty()
    }

    /// Notes in the log, without a sync, that the last commit was completed, so that damage in it is told from a torn
    /// write. Call it after the acknowledgements have left; costs one small write for each stream committed since.
    pub fn settle(&mut self) {
        for id in self.unsettled.drain(..) {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.settle();
                if stream.unreported && !stream.queued {
                    stream.queued = true;
                    self.queue.push(id);
                }
            }
        }
    }

    /// Commits, notes the clean end of each stream, and releases the directory.
    pub fn close(mut self) -> CommitReport {
        let mut report = self.commit();
        for (id, _) in &report.failed {
            // They may be about records that were refused; nobody is there any more to say otherwise.
            if let Some(stream) = self.streams.get_mut(id) {
                stream.give_up_states();
            }
        }
        for (&id, stream) in &mut self.streams {
            if let Err(err) = stream.sync_written() {
                stream.unreported = false;
                report.failed.push((id, err));
            }
            if stream.again_at_rest(&mut self.shared) && !stream.queued {
                stream.queued = true;
                self.queue.push(id);
            }
        }
        report.failed.extend(self.commit().failed);
        for (id, stream) in &mut self.streams {
            if stream.log.is_some()
                && stream.failed.is_none()
                && let Err(err) = stream.close(&mut self.shared)
            {
                report.failed.push((*id, err));
            }
        }
        report
    }
}
