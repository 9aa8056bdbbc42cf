//! Streams that ask for less: what is committed to them is written, but synced later, within about a second, by a thread
//! of its own where the file system allows that. Whatever refers to their records (metadata, states of consumers,
//! marks, later segments) is written after they are synced.

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::segment::Data;
use super::stream::Stream;
use super::{Store, StoreError};
use crate::env::{Fs, FsFile};
use crate::types::{StreamId, StreamSeq};

/// Files waiting to be synced at most; the others wait in their streams.
const JOBS_MAX: usize = 64;

/// The end of a log to be synced.
struct Job {
    stream: StreamId,
    segment: u64,
    path: PathBuf,
    /// Where the log ended.
    tail: u64,
    /// Highest position up to there.
    last_seq: u64,
    /// Set if it fails.
    failed: Arc<AtomicBool>,
}

/// What came of it.
struct Done {
    job: Job,
    outcome: Result<(), StoreError>,
}

/// Syncs files without holding up the storage thread.
pub(super) struct Syncer<F: Fs> {
    fs: F,
    worker: Option<Worker>,
    /// Synced at once, for want of a thread.
    done: Vec<Done>,
    waiting: usize,
}

struct Worker {
    jobs: Option<SyncSender<Job>>,
    done: Receiver<Done>,
    thread: Option<JoinHandle<()>>,
}

fn sync<F: Fs>(fs: &F, job: Job) -> Done {
    let synced = fs.open(&job.path).and_then(|file| file.sync_data());
    // A segment that is gone by now was synced when the next one was begun.
    if synced
        .as_ref()
        .is_err_and(|err| err.kind() != ErrorKind::NotFound)
    {
        job.failed.store(true, Ordering::Release);
    }
    let outcome = synced.map_err(|err| StoreError::io("sync", &job.path, err));
    Done { job, outcome }
}

impl<F: Fs> Syncer<F> {
    /// The thread is started with the first job.
    pub(super) fn new(fs: &F) -> Self {
        Self {
            fs: fs.clone(),
            worker: None,
            done: Vec::new(),
            waiting: 0,
        }
    }

    /// Whether something is being synced.
    pub(super) fn is_busy(&self) -> bool {
        self.waiting > 0
    }

    /// Takes a job. `false`: not now.
    fn submit(&mut self, job: Job) -> bool {
        if self.waiting >= JOBS_MAX {
            return false;
        }
        if !self.fs.background() {
            let done = sync(&self.fs, job);
            self.done.push(done);
            self.waiting += 1;
            return true;
        }
        if self.worker.is_none() {
            self.worker = Worker::start(&self.fs);
        }
        let jobs = self.worker.as_ref().and_then(|worker| worker.jobs.as_ref());
        let is_taken = jobs.is_some_and(|jobs| jobs.try_send(job).is_ok());
        self.waiting += usize::from(is_taken);
        is_taken
    }

    fn poll(&mut self) -> Option<Done> {
        let threads = self
            .worker
            .as_ref()
            .and_then(|worker| worker.done.try_recv().ok());
        let done = self.done.pop().or(threads)?;
        self.waiting -= 1;
        Some(done)
    }
}

impl Worker {
    fn start<F: Fs>(fs: &F) -> Option<Self> {
        let (jobs, inbox) = sync_channel::<Job>(JOBS_MAX);
        let (outbox, done) = sync_channel(JOBS_MAX);
        let fs = fs.clone();
        let thread = std::thread::Builder::new()
            .name("tarn-sync".into())
            .spawn(move || {
                while let Ok(job) = inbox.recv() {
                    if outbox.send(sync(&fs, job)).is_err() {
                        return;
                    }
                }
            });
        match thread {
            Ok(thread) => Some(Self {
                jobs: Some(jobs),
                done,
                thread: Some(thread),
            }),
            Err(err) => {
                tracing::error!(error = %err, "cannot start the thread that syncs");
                None
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that syncs panicked");
        }
    }
}

impl<F: Fs> Store<F> {
    /// Whether commits to the stream leave out the sync, which then follows within about a second. A power cut may
    /// take what was committed since the last one, never more, and never something from the middle. Not kept over a
    /// restart; a stream in memory has nothing to sync.
    pub fn set_late(&mut self, id: StreamId, is_late: bool) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.is_late = is_late;
        }
    }

    /// Up to here no power cut takes anything. At or below [`Store::durable_seq`]. 0 if there is no such stream.
    pub fn synced_seq(&self, id: StreamId) -> StreamSeq {
        self.streams
            .get(&id)
            .map_or(StreamSeq::NONE, |stream| StreamSeq(stream.synced))
    }

    /// Takes over what was synced, and has the rest synced.
    pub(super) fn sync_late(&mut self) {
        while let Some(Done { job, outcome }) = self.tending.syncer.poll() {
            let Some(stream) = self.streams.get_mut(&job.stream) else {
                continue;
            };
            match stream.synced_late(&job, outcome) {
                Ok(true) => self.unsettled.push(job.stream),
                Ok(false) => {}
                Err(_) if !stream.queued => {
                    // So that the failure is told.
                    stream.queued = true;
                    self.queue.push(job.stream);
                    self.health_changed = true;
                }
                Err(_) => self.health_changed = true,
            }
            self.tending.stir(job.stream);
        }
        for (&id, stream) in &mut self.streams {
            let Some(job) = stream.job(id) else { continue };
            if self.compaction.syncs(id) && !stream.no_space {
                self.tending.stir(id);
                continue;
            }
            stream.is_syncing = self.tending.syncer.submit(job);
            if !stream.is_syncing {
                self.tending.stir(id);
            }
        }
    }
}

impl<F: Fs> Stream<F> {
    /// Syncs what was written without, now. An error makes the stream read-only.
    pub(super) fn sync_written(&mut self) -> Result<(), StoreError> {
        let Some(log) = self.log.as_mut().filter(|log| log.unsynced) else {
            return Ok(());
        };
        let Some(Data::File { file, path }) = self.segments.back().map(|segment| &segment.data) else {
            return Ok(());
        };
        let mut synced = file.sync_data();
        if synced.is_ok() && log.late_failed.load(Ordering::Acquire) {
            // A sync that succeeds after one that failed proves nothing.
            synced = Err(io::Error::other("a sync before has failed"));
        }
        if let Err(err) = synced {
            let err = StoreError::io("sync", path, err);
            return Err(self.fail(err));
        }
        log.unsynced = false;
        log.unsettled = true;
        self.synced = self.durable;
        Ok(())
    }

    /// What is to be synced, if something is.
    fn job(&self, id: StreamId) -> Option<Job> {
        let log = self.log.as_ref().filter(|log| log.unsynced)?;
        if self.is_syncing || self.failed.is_some() {
            return None;
        }
        let segment = self.segments.back()?;
        Some(Job {
            stream: id,
            segment: segment.id,
            path: segment.path()?.to_owned(),
            tail: log.tail,
            last_seq: self.durable,
            failed: Arc::clone(&log.late_failed),
        })
    }

    /// Takes over what came of a job. Returns whether everything is synced, and nothing says so in the log.
    fn synced_late(&mut self, job: &Job, outcome: Result<(), StoreError>) -> Result<bool, StoreError> {
        self.is_syncing = false;
        let (Some(log), Some(segment)) = (&mut self.log, self.segments.back()) else {
            return Ok(false);
        };
        // A segment that is no longer the last was synced when the next one was begun.
        if self.failed.is_some() || segment.id != job.segment {
            return Ok(false);
        }
        // Also if it was synced again since: a sync that succeeds after one that failed proves nothing.
        if let Err(err) = outcome {
            return Err(self.fail(err));
        }
        if !log.unsynced {
            return Ok(false);
        }
        self.synced = self.synced.max(job.last_seq);
        if log.tail != job.tail {
            return Ok(false);
        }
        log.unsynced = false;
        log.unsettled = true;
        Ok(true)
    }
}
