//! The thread that seals, and how far behind it is.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Sealing;
use crate::env::Fs;
use crate::store::StoreError;
use crate::store::format::SegmentHeader;
use crate::store::sealed::SealedIndex;
use crate::types::StreamId;

/// Segments that wait for the thread at most; those beyond wait in their streams.
const WAITING_MAX: usize = 64;

/// A segment to be sealed.
pub(in super::super) struct Job {
    pub(in super::super) stream: StreamId,
    pub(in super::super) header: SegmentHeader,
    pub(in super::super) path: PathBuf,
    /// What memory has of it.
    pub(in super::super) records: usize,
    pub(in super::super) subjects: usize,
}

/// A segment whose index was made, or not.
pub(in super::super) struct Done {
    pub(in super::super) job: Job,
    pub(in super::super) index: Result<Option<SealedIndex>, StoreError>,
}

/// Seals segments.
pub(in super::super) struct Sealer<F: Fs> {
    pub(in super::super) sealing: Sealing<F>,
    worker: Option<Worker>,
    waiting: usize,
    /// Records in the segments that wait.
    records: u64,
    records_max: u64,
}

/// How far behind sealing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behind {
    /// Nobody has to wait.
    No,
    /// Who writes has to slow down.
    Somewhat,
    /// Memory has as much as it may.
    TooFar,
}

struct Worker {
    jobs: Option<SyncSender<Job>>,
    done: Receiver<Done>,
    thread: Option<JoinHandle<()>>,
}

impl<F: Fs> Sealer<F> {
    pub(in super::super) fn start(sealing: Sealing<F>, records_max: u64) -> Result<Self, StoreError> {
        let worker = if sealing.fs.background() {
            Some(Worker::start(sealing.clone())?)
        } else {
            None
        };
        Ok(Self {
            sealing,
            worker,
            waiting: 0,
            records: 0,
            records_max,
        })
    }

    /// Whether another segment may be handed over.
    pub(in super::super) fn has_room(&self) -> bool {
        self.waiting < WAITING_MAX
    }

    /// Whether segments are being sealed in the background.
    pub(in super::super) fn is_busy(&self) -> bool {
        self.waiting > 0
    }

    /// Seals a segment, at once or in the background; then [`Sealer::take_done`] has it.
    pub(in super::super) fn seal(&mut self, job: Job) -> Option<Done> {
        let Some(jobs) = self.worker.as_ref().and_then(|worker| worker.jobs.as_ref()) else {
            return Some(seal(&self.sealing, job));
        };
        let records = job.records as u64;
        match jobs.try_send(job) {
            Ok(()) => {
                self.waiting += 1;
                self.records += records;
                None
            }
            Err(err) => {
                let (std::sync::mpsc::TrySendError::Full(job)
                | std::sync::mpsc::TrySendError::Disconnected(job)) = err;
                Some(seal(&self.sealing, job))
            }
        }
    }

    /// A segment that was sealed in the background, if there is one.
    pub(in super::super) fn take_done(&mut self) -> Option<Done> {
        if self.waiting == 0 {
            return None;
        }
        let done = self.worker.as_ref()?.done.try_recv().ok()?;
        self.took(&done);
        Some(done)
    }

    fn took(&mut self, done: &Done) {
        self.waiting -= 1;
        self.records -= done.job.records as u64;
    }

    pub(super) fn behind(&self) -> Behind {
        let is_beyond =
            |part| self.records > self.records_max / part || self.waiting >= WAITING_MAX / part as usize;
        if is_beyond(1) {
            Behind::TooFar
        } else if is_beyond(2) {
            Behind::Somewhat
        } else {
            Behind::No
        }
    }

    /// Waits for a segment that is being sealed in the background. `None`: it takes longer than `at_most`, or none is.
    pub(super) fn wait(&mut self, at_most: Option<Duration>) -> Option<Done> {
        if self.waiting == 0 {
            return None;
        }
        let done = &self.worker.as_ref()?.done;
        let done = match at_most {
            Some(at_most) => done.recv_timeout(at_most).ok()?,
            None => done.recv().ok()?,
        };
        self.took(&done);
        Some(done)
    }

    #[cfg(test)]
    pub(in super::super) fn records_waiting(&self) -> u64 {
        self.records
    }
}

fn seal<F: Fs>(sealing: &Sealing<F>, job: Job) -> Done {
    let index = sealing.make(job.header, &job.path, job.subjects);
    Done {
        index: index.map(|opened| opened.index),
        job,
    }
}

impl Worker {
    fn start<F: Fs>(sealing: Sealing<F>) -> Result<Self, StoreError> {
        let (jobs, inbox) = sync_channel::<Job>(WAITING_MAX);
        let (outbox, done) = sync_channel(2 * WAITING_MAX);
        let thread = std::thread::Builder::new()
            .name("tarn-seal".into())
            .spawn(move || {
                while let Ok(job) = inbox.recv() {
                    if outbox.send(seal(&sealing, job)).is_err() {
                        return;
                    }
                }
            })
            .map_err(|err| StoreError::io("start the thread that seals", Path::new("segments"), err))?;
        Ok(Self {
            jobs: Some(jobs),
            done,
            thread: Some(thread),
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that seals segments panicked");
        }
    }
}
