//! A thread that does what must not hold up the storage thread: it writes the marks, reads for damage, and adds up
//! subjects. On a simulated
//! disk the same work is done at once, in the caller.

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::StoreError;
use super::census::{self, Taken, Task};
use super::meta::Pair;
use super::scrub::{Scrubbed, Target, scrub};
use crate::env::Fs;

/// Jobs and answers waiting at most.
const JOBS_MAX: usize = 4;
/// Longest pause between two blocks.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// What can be asked for.
pub(super) enum Job {
    /// Make this the content of the marks.
    Mark(Vec<u8>),
    /// Read these segments.
    Scrub(Vec<Target>),
    /// Add up the subjects of a stream's segments.
    Census(Box<Task>),
}

/// What came of a job.
pub(super) enum Done {
    Marked(Result<(), StoreError>),
    /// One segment was read.
    Scrubbed(Scrubbed),
    /// All segments of a job were read.
    ScrubbedAll,
    /// Subjects were added up, or not.
    Counted(Taken),
}

/// Does jobs, in a thread of its own where the file system allows it.
pub(super) struct Keeper<F: Fs> {
    place: Place<F>,
}

enum Place<F: Fs> {
    Here {
        work: Box<Work<F>>,
        done: Vec<Done>,
    },
    There {
        jobs: Option<SyncSender<Job>>,
        done: Option<Receiver<Done>>,
        thread: Option<JoinHandle<()>>,
    },
}

struct Work<F: Fs> {
    fs: F,
    marks: Pair<F>,
    /// 0: no pauses.
    bytes_per_second: u64,
}

impl<F: Fs> Keeper<F> {
    /// Takes over the marks of the store in `dir`.
    pub(super) fn start(
        fs: &F,
        dir: &Path,
        marks: Pair<F>,
        bytes_per_second: u64,
    ) -> Result<Self, StoreError> {
        let work = Work {
            fs: fs.clone(),
            marks,
            bytes_per_second,
        };
        if !fs.background() {
            let (work, done) = (Box::new(work), Vec::new());
            return Ok(Self {
                place: Place::Here { work, done },
            });
        }
        let (jobs, inbox) = sync_channel(JOBS_MAX);
        let (outbox, done) = sync_channel(JOBS_MAX);
        let thread = std::thread::Builder::new()
            .name("tarn-keeper".into())
            .spawn(move || work.run(&inbox, &outbox))
            .map_err(|err| StoreError::io("start the thread that looks after", dir, err))?;
        Ok(Self {
            place: Place::There {
                jobs: Some(jobs),
                done: Some(done),
                thread: Some(thread),
            },
        })
    }

    /// Hands a job over, or gives it back: not now, there is too much to do.
    pub(super) fn submit(&mut self, job: Job) -> Result<(), Job> {
        match &mut self.place {
            Place::Here { work, done } => {
                work.one(job, &mut |result| {
                    done.push(result);
                    true
                });
                Ok(())
            }
            Place::There { jobs: Some(jobs), .. } => jobs.try_send(job).map_err(|err| match err {
                TrySendError::Full(job) | TrySendError::Disconnected(job) => job,
            }),
            Place::There { jobs: None, .. } => Err(job),
        }
    }

    /// What came of a job since this was asked last.
    pub(super) fn poll(&mut self) -> Option<Done> {
        match &mut self.place {
            Place::Here { done, .. } => (!done.is_empty()).then(|| done.remove(0)),
            Place::There { done, .. } => done.as_ref()?.try_recv().ok(),
        }
    }
}

impl<F: Fs> Drop for Keeper<F> {
    fn drop(&mut self) {
        if let Place::There { jobs, done, thread } = &mut self.place {
            // Without either end the thread stops at its next step.
            (*jobs, *done) = (None, None);
            if let Some(thread) = thread.take()
                && thread.join().is_err()
            {
                tracing::error!("the thread that looks after the store panicked");
            }
        }
    }
}

impl<F: Fs> Work<F> {
    fn run(mut self, inbox: &Receiver<Job>, outbox: &SyncSender<Done>) {
        while let Ok(job) = inbox.recv() {
            match job {
                Job::Mark(body) => {
                    if outbox.send(self.mark(&body)).is_err() {
                        return;
                    }
                }
                Job::Scrub(targets) => {
                    if self.scrub_paced(&targets, inbox, outbox).is_none() {
                        return;
                    }
                }
                Job::Census(task) => {
                    if outbox.send(self.count(*task)).is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Reads slowly, and does other jobs in between. `None`: stop.
    fn scrub_paced(
        &mut self,
        targets: &[Target],
        inbox: &Receiver<Job>,
        outbox: &SyncSender<Done>,
    ) -> Option<()> {
        let fs = self.fs.clone();
        for target in targets {
            let mut is_over = false;
            let mut pace = |bytes| {
                is_over = self.pause(bytes, inbox, outbox).is_none();
                !is_over
            };
            let scrubbed = scrub(&fs, target, &mut pace);
            if is_over {
                return None;
            }
            if let Some(scrubbed) = scrubbed {
                outbox.send(Done::Scrubbed(scrubbed)).ok()?;
            }
        }
        outbox.send(Done::ScrubbedAll).ok()
    }

    /// Waits as long as `bytes` may take, or does a job that comes. `None`: stop.
    fn pause(&mut self, bytes: u64, inbox: &Receiver<Job>, outbox: &SyncSender<Done>) -> Option<()> {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second.max(1));
        let pause = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).min(PAUSE_MAX);
        let job = if self.bytes_per_second == 0 {
            inbox.try_recv().map_err(|err| err == TryRecvError::Disconnected)
        } else {
            inbox
                .recv_timeout(pause)
                .map_err(|err| err == RecvTimeoutError::Disconnected)
        };
        match job {
            Ok(Job::Mark(body)) => outbox.send(self.mark(&body)).ok(),
            Ok(Job::Census(task)) => outbox.send(self.count(*task)).ok(),
            // Only one is asked for at a time.
            Ok(Job::Scrub(_)) | Err(false) => Some(()),
            Err(true) => None,
        }
    }

    /// Does a job at once.
    fn one(&mut self, job: Job, outbox: &mut dyn FnMut(Done) -> bool) {
        match job {
            Job::Mark(body) => {
                let done = self.mark(&body);
                outbox(done);
            }
            Job::Scrub(targets) => {
                for target in &targets {
                    if let Some(scrubbed) = scrub(&self.fs, target, &mut |_| true) {
                        outbox(Done::Scrubbed(scrubbed));
                    }
                }
                outbox(Done::ScrubbedAll);
            }
            Job::Census(task) => {
                let done = self.count(*task);
                outbox(done);
            }
        }
    }

    fn count(&self, task: Task) -> Done {
        Done::Counted(census::take(&self.fs, task))
    }

    fn mark(&mut self, body: &[u8]) -> Done {
        Done::Marked(self.marks.write(body))
    }
}
