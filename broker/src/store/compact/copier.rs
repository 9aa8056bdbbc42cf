//! Who copies: a thread of its own where the file system allows that, otherwise the caller.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::super::StoreError;
use super::super::prepare::remove_quietly;
use super::super::seal::Sealing;
use super::copy::{Copied, Job, Refused, copy_or_clean};
use crate::env::Fs;

/// Longest pause between two blocks.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// What can be asked for.
pub(super) enum Task {
    Copy(Box<Job>),
    /// Make the names in this directory durable.
    Finish(PathBuf),
    /// Remove these files.
    Remove(Vec<PathBuf>),
}

/// What came of it.
pub(super) enum Done {
    Copied(Box<Job>, Result<Copied, Refused>),
    Finished(Result<(), StoreError>),
    Removed,
}

/// Does tasks, one at a time.
pub(super) struct Copier<F: Fs> {
    sealing: Sealing<F>,
    bytes_per_second: u64,
    /// Started with the first task.
    worker: Option<Worker>,
    /// Done at once, for want of a thread.
    done: Option<Done>,
}

struct Worker {
    tasks: Option<SyncSender<Task>>,
    done: Receiver<Done>,
    thread: Option<JoinHandle<()>>,
}

impl<F: Fs> Copier<F> {
    pub(super) fn new(sealing: Sealing<F>, bytes_per_second: u64) -> Self {
        Self {
            sealing,
            bytes_per_second,
            worker: None,
            done: None,
        }
    }

    /// Takes a task over; the one before is done. `false`: there can be no thread.
    pub(super) fn submit(&mut self, task: Task) -> bool {
        if !self.sealing.fs.background() {
            self.done = Some(one(&self.sealing, task, &mut |_| true));
            return true;
        }
        if self.worker.is_none() {
            self.worker = Worker::start(&self.sealing, self.bytes_per_second);
        }
        let tasks = self.worker.as_ref().and_then(|worker| worker.tasks.as_ref());
        tasks.is_some_and(|tasks| tasks.try_send(task).is_ok())
    }

    /// What came of the last task, once.
    pub(super) fn poll(&mut self) -> Option<Done> {
        let here = self.done.take();
        here.or_else(|| self.worker.as_ref()?.done.try_recv().ok())
    }
}

impl Worker {
    fn start<F: Fs>(sealing: &Sealing<F>, bytes_per_second: u64) -> Option<Self> {
        let (tasks, inbox) = sync_channel(1);
        let (outbox, done) = sync_channel(1);
        let sealing = sealing.clone();
        let thread = std::thread::Builder::new()
            .name("tarn-compact".into())
            .spawn(move || work(&sealing, bytes_per_second, &inbox, &outbox));
        match thread {
            Ok(thread) => Some(Self {
                tasks: Some(tasks),
                done,
                thread: Some(thread),
            }),
            Err(err) => {
                tracing::error!(error = %err, "cannot start the thread that compacts");
                None
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.tasks = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that compacts panicked");
        }
    }
}

fn work<F: Fs>(
    sealing: &Sealing<F>,
    bytes_per_second: u64,
    inbox: &Receiver<Task>,
    outbox: &SyncSender<Done>,
) {
    // Keeps the file that is replaced, so that its room is given back here and not where the name goes.
    let mut held = None;
    while let Ok(task) = inbox.recv() {
        if let Task::Copy(job) = &task {
            held = sealing.fs.open_read(job.target()).ok();
        } else {
            drop(held.take());
        }
        let done = one(sealing, task, &mut |bytes| pause(bytes, bytes_per_second, inbox));
        if outbox.send(done).is_err() {
            return;
        }
    }
    drop(held);
}

/// Waits as long as `bytes` may take. `false`: stop.
fn pause(bytes: u64, bytes_per_second: u64, inbox: &Receiver<Task>) -> bool {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_second.max(1));
    let pause = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).min(PAUSE_MAX);
    // Nothing is asked for while a copy is under way.
    !matches!(inbox.recv_timeout(pause), Err(RecvTimeoutError::Disconnected))
}

fn one<F: Fs>(sealing: &Sealing<F>, task: Task, pace: &mut dyn FnMut(u64) -> bool) -> Done {
    match task {
        Task::Copy(job) => {
            let copied = copy_or_clean(sealing, &job, pace);
            Done::Copied(job, copied)
        }
        Task::Finish(dir) => Done::Finished(sync_dir(&sealing.fs, &dir)),
        Task::Remove(files) => {
            files.iter().for_each(|path| remove_quietly(&sealing.fs, path));
            Done::Removed
        }
    }
}

fn sync_dir<F: Fs>(fs: &F, dir: &Path) -> Result<(), StoreError> {
    match fs.sync_dir(dir) {
        // The stream was deleted.
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(()),
        synced => synced.map_err(|err| StoreError::io("sync", dir, err)),
    }
}
