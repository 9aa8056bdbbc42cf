//! Compaction: neighbouring sealed segments of which little is left are replaced by one with only what is left, in the
//! background.
//!
//! The new file is complete and durable elsewhere before it is renamed over the first of the old ones, so that after a
//! crash it is one or the other, and both say the same: what the copy left out was removed, durably, before copying
//! began. Its header says for which others it stands; they go once its name is durable. Layout, and what the next start
//! makes of it: `FORMAT.md`.

mod choose;
mod copier;
mod copy;
mod place;
mod removals;

use std::ops::Bound;
use std::path::PathBuf;

use self::copier::{Copier, Done, Task};
use self::copy::{Copied, Job, Refused};
use super::Store;
use super::prepare::remove_quietly;
use super::seal::Sealing;
use super::state::StoreOptions;
use super::stream::Stream;
use crate::env::Fs;
use crate::types::{MonoNanos, StreamId};

pub(super) use self::choose::is_regular;

/// How long nothing is tried after the disk refused.
const PAUSE_NS: u64 = 10 * 1_000_000_000;
/// How long the first segment of a stream must have been sparse: in queues it mostly goes whole soon.
const PATIENCE_NS: u64 = 3 * 1_000_000_000;

/// Compaction of all streams, one run of segments at a time.
pub(super) struct Compaction<F: Fs> {
    copier: Option<Copier<F>>,
    doing: Doing,
    /// When it was looked last.
    pub(super) now: MonoNanos,
    not_before: MonoNanos,
    /// The stream that had its turn last.
    cursor: StreamId,
}

/// What is under way. `Wanted` and `Copied` wait until nothing of the stream waits for a commit.
enum Doing {
    Nothing,
    /// The stream has a sparse run; its first segment, and when it is begun with.
    Wanted(StreamId, u64, MonoNanos),
    Copying,
    /// To be put in place.
    Copied(Box<Job>, Copied),
    /// The new name is being made durable; these segments are of no use then.
    Finishing(StreamId, Vec<PathBuf>),
    /// Files that are of no use are being removed.
    Removing,
}

impl<F: Fs> Compaction<F> {
    pub(super) fn new(sealing: &Sealing<F>, options: &StoreOptions) -> Self {
        let rate = options.compact_bytes_per_second;
        Self {
            copier: (rate > 0).then(|| Copier::new(sealing.clone(), rate)),
            doing: Doing::Nothing,
            now: MonoNanos(0),
            not_before: MonoNanos(0),
            cursor: StreamId(0),
        }
    }

    /// Whether something is under way.
    pub(super) fn is_busy(&self) -> bool {
        !matches!(self.doing, Doing::Nothing)
    }

    /// Whether the stream is synced as soon as nothing waits for a commit, to begin with a copy of it.
    pub(super) fn syncs(&self, id: StreamId) -> bool {
        matches!(self.doing, Doing::Wanted(of, _, from) if of == id && from <= self.now)
    }

    /// When it is looked again after the disk refused.
    pub(super) fn due(&self) -> Option<MonoNanos> {
        (self.not_before > self.now).then_some(self.not_before)
    }

    /// `false`: there is nobody who does it, now or later.
    fn submit(&mut self, task: Task) -> bool {
        let is_taken = self.copier.as_mut().is_some_and(|copier| copier.submit(task));
        if !is_taken {
            self.copier = None;
        }
        is_taken
    }
}

impl<F: Fs> Store<F> {
    /// Goes on with what is under way, and looks for the next run of sparse segments.
    pub(super) fn compact(&mut self) {
        let now = self.compaction.now;
        self.compact_after_commit();
        if self.compaction.is_busy() || self.compaction.copier.is_none() || self.compaction.not_before > now {
            return;
        }
        // A disk in trouble has enough to do.
        let mut streams = self.streams.values();
        if streams.any(|stream| stream.failed.is_some() || stream.no_space) {
            return;
        }
        let options = &self.shared.options;
        // In turn: in a busy queue segments look sparse all the time, and go before it comes to a copy.
        let cursor = self.compaction.cursor;
        let behind = self.streams.range((Bound::Excluded(cursor), Bound::Unbounded));
        let mut streams = behind.chain(self.streams.range(..=cursor));
        let found = streams.find_map(|(id, stream)| Some((*id, stream.sparse_run(options)?)));
        if let Some((id, run)) = found {
            let patience = if run.at == 0 { PATIENCE_NS } else { 0 };
            let from = MonoNanos(now.0.saturating_add(patience));
            self.compaction.cursor = id;
            self.compaction.doing = Doing::Wanted(id, run.first, from);
            self.compact_after_commit();
        }
    }

    /// Takes the next step of what is under way, if it can be taken.
    pub(super) fn compact_after_commit(&mut self) {
        if !self.compaction.is_busy() {
            return;
        }
        self.take_compacted();
        let id = match &self.compaction.doing {
            Doing::Wanted(id, _, from) if *from <= self.compaction.now => *id,
            Doing::Copied(job, _) => job.stream,
            _ => return,
        };
        // While a sync is under way it is not known whether another one proves anything.
        let is_syncing = |stream: &Stream<F>| self.compaction.syncs(id) && stream.is_syncing;
        let is_ready = |stream: &Stream<F>| stream.is_quiet() && !is_syncing(stream);
        if !self.streams.get(&id).is_none_or(is_ready) {
            return;
        }
        match std::mem::replace(&mut self.compaction.doing, Doing::Nothing) {
            Doing::Wanted(id, first, _) => self.begin_to_copy(id, first),
            Doing::Copied(job, copied) => self.put_in_place(job, copied),
            doing => self.compaction.doing = doing,
        }
    }

    /// Takes what the thread has done.
    fn take_compacted(&mut self) {
        let Some(done) = self.compaction.copier.as_mut().and_then(Copier::poll) else {
            return;
        };
        match (
            done,
            std::mem::replace(&mut self.compaction.doing, Doing::Nothing),
        ) {
            (Done::Copied(job, Ok(copied)), _) => self.compaction.doing = Doing::Copied(job, copied),
            (Done::Copied(job, Err(refused)), _) => self.refused_to_compact(&job, refused),
            (Done::Finished(Ok(())), Doing::Finishing(id, others)) => self.remove_replaced(id, others),
            (Done::Finished(Err(err)), _) => {
                // What is left out of later copies depends on what the earlier ones left out: both have to be durable.
                tracing::error!(error = %err, "segments are not compacted until restart");
                self.compaction.copier = None;
            }
            (Done::Finished(Ok(())) | Done::Removed, _) => {}
        }
    }

    fn begin_to_copy(&mut self, id: StreamId, first: u64) {
        let options = &self.shared.options;
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let Some(run) = stream.sparse_run(options).filter(|run| run.first == first) else {
            return;
        };
        // A copy leaves out what was removed: that has to be durable, also where syncs come late.
        if stream.sync_written().is_err() {
            self.tell_failure(id);
            return;
        }
        if let Some(job) = stream.compaction_job(&mut self.shared, run)
            && self.compaction.submit(Task::Copy(Box::new(job)))
        {
            self.compaction.doing = Doing::Copying;
        }
    }

    /// Sees to it that the failure of a stream is told with the next commit.
    fn tell_failure(&mut self, id: StreamId) {
        self.health_changed = true;
        if let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.queued) {
            stream.queued = true;
            self.queue.push(id);
        }
    }

    fn put_in_place(&mut self, job: Box<Job>, copied: Copied) {
        let bytes = copied.bytes;
        let placed = match self.streams.get_mut(&job.stream) {
            Some(stream) => stream.put_in_place(&self.shared, &job, copied),
            None => Ok(false),
        };
        match placed {
            Ok(true) => {}
            Ok(false) => {
                let files = vec![job.copy.clone(), job.copy_index.clone()];
                if self.compaction.submit(Task::Remove(files)) {
                    self.compaction.doing = Doing::Removing;
                }
                return;
            }
            Err(err) => {
                if let Some(stream) = self.streams.get_mut(&job.stream) {
                    stream.fail(err);
                }
                self.tell_failure(job.stream);
                return;
            }
        }
        self.shared.cache.borrow_mut().forget(job.stream);
        let before = job.sources.iter().map(|source| source.bytes).sum();
        self.tending.compacted(job.sources.len() as u64, before, bytes);
        let dir = job.target().parent().unwrap_or(job.target()).to_owned();
        if self.compaction.submit(Task::Finish(dir)) {
            let others = job.sources.into_iter().skip(1).map(|source| source.path);
            self.compaction.doing = Doing::Finishing(job.stream, others.collect());
        }
    }

    /// Moves segments that another one stands for out of their stream's directory, to be removed.
    fn remove_replaced(&mut self, id: StreamId, others: Vec<PathBuf>) {
        if others.is_empty() || !self.streams.contains_key(&id) {
            return;
        }
        let fs = &self.shared.fs;
        let mut moved = Vec::with_capacity(others.len());
        for path in others {
            let aside = self.shared.spares.next_path();
            remove_quietly(fs, &super::seal::index_path(&path));
            match fs.rename(&path, &aside) {
                Ok(()) => moved.push(aside),
                // It stays until the next start.
                Err(err) => {
                    tracing::warn!(path = %path.display(), error = %err, "cannot remove a segment that was compacted")
                }
            }
        }
        if self.compaction.submit(Task::Remove(moved)) {
            self.compaction.doing = Doing::Removing;
        }
    }

    fn refused_to_compact(&mut self, job: &Job, refused: Refused) {
        if let Refused::Failed(err) = &refused {
            tracing::warn!(error = %err, "cannot compact segments yet");
            self.compaction.not_before = MonoNanos(self.compaction.now.0.saturating_add(PAUSE_NS));
            return;
        }
        // They are not tried again before much more of them is gone.
        if let Some(stream) = self.streams.get_mut(&job.stream) {
            stream.tried_in_vain(job);
        }
        if let Refused::Damaged(found) = refused {
            self.scrubbed(&found);
        }
    }
}
