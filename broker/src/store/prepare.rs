//! Files ready to become segments: zeroed in advance, so that syncing them has no metadata to write, or taken over from
//! segments that retention dropped. Large ones are made by a thread of their own where the file system allows it.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::StoreError;
use crate::env::{Fs, FsFile};

/// Largest file zeroed by the thread that needs it; larger ones that nobody prepared are only allocated.
const INLINE_ZERO_BYTES_MAX: u32 = 1024 * 1024;
/// Bytes zeroed between two syncs, so that preparing does not hold up the commits of others.
const ZERO_STEP_BYTES: usize = 1024 * 1024;
/// Files of one size kept ready at most.
const READY_MAX: usize = 2;
/// Jobs waiting for the thread at most.
const JOBS_MAX: usize = 64;

/// A file that can become a segment.
pub(super) struct Spare<F: Fs> {
    pub(super) file: F::File,
    pub(super) path: PathBuf,
    pub(super) bytes: u32,
}

/// Makes and keeps spares in a directory of their own.
pub(super) struct Spares<F: Fs> {
    fs: F,
    dir: PathBuf,
    next: u64,
    pool: Arc<Mutex<Pool>>,
    worker: Option<Worker>,
}

#[derive(Default)]
struct Pool {
    /// Size and path, oldest first.
    ready: VecDeque<(u32, PathBuf)>,
    /// Sizes being made.
    coming: Vec<u32>,
}

struct Worker {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

enum Job {
    Make { path: PathBuf, bytes: u32 },
    Retire { old: PathBuf, path: PathBuf, bytes: u32 },
}

fn lock(pool: &Mutex<Pool>) -> MutexGuard<'_, Pool> {
    pool.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    fn wants(&self, bytes: u32) -> bool {
        let ready = self.ready.iter().filter(|(size, _)| *size == bytes).count();
        ready + self.coming.iter().filter(|size| **size == bytes).count() < READY_MAX
    }
}

impl<F: Fs> Spares<F> {
    /// Empties or creates `dir`.
    pub(super) fn open(fs: &F, dir: &Path) -> Result<Self, StoreError> {
        fs.create_dir_all(dir)
            .map_err(|err| StoreError::io("create", dir, err))?;
        for entry in fs.list(dir).map_err(|err| StoreError::io("list", dir, err))? {
            let path = dir.join(entry.name);
            fs.remove(&path)
                .map_err(|err| StoreError::io("remove", &path, err))?;
        }
        let pool = Arc::new(Mutex::new(Pool::default()));
        let worker = if fs.background() {
            Some(Worker::start(fs, dir, &pool)?)
        } else {
            None
        };
        Ok(Self {
            fs: fs.clone(),
            dir: dir.to_owned(),
            next: 0,
            pool,
            worker,
        })
    }

    /// A name in the directory of spares, which is emptied at each start.
    pub(super) fn next_path(&mut self) -> PathBuf {
        self.next += 1;
        self.dir.join(format!("{:08x}", self.next))
    }

    /// A spare of `bytes`, or, if there is not that much room, of a quarter of it and so on, but not below `least`.
    /// `reserve` bytes of the disk are left alone. The caller syncs the file.
    ///
    /// # Errors
    /// `NoSpace` if there is no room; `Io` if the system fails otherwise.
    pub(super) fn take(&mut self, bytes: u32, least: u32, reserve: u64) -> Result<Spare<F>, StoreError> {
        let mut size = bytes;
        loop {
            if let Some(spare) = self.take_ready(size) {
                return Ok(spare);
            }
            match self.make(size, reserve) {
                Err(StoreError::NoSpace { .. }) if size / 4 >= least => size /= 4,
                Err(StoreError::NoSpace { .. }) if self.drop_ready() => size = bytes,
                made => return made,
            }
        }
    }

    fn take_ready(&self, bytes: u32) -> Option<Spare<F>> {
        let path = {
            let mut pool = lock(&self.pool);
            let at = pool.ready.iter().position(|(size, _)| *size == bytes)?;
            pool.ready.remove(at)?.1
        };
        let file = self.fs.open(&path).ok()?;
        Some(Spare { file, path, bytes })
    }

    fn make(&mut self, bytes: u32, reserve: u64) -> Result<Spare<F>, StoreError> {
        let path = self.next_path();
        if self
            .fs
            .free_bytes(&self.dir)
            .is_ok_and(|free| free < u64::from(bytes) + reserve)
        {
            return Err(StoreError::NoSpace { path });
        }
        let zero = bytes <= INLINE_ZERO_BYTES_MAX;
        match make_file(&self.fs, &path, bytes, zero) {
            Ok(file) => Ok(Spare { file, path, bytes }),
            Err(err) => {
                remove_quietly(&self.fs, &path);
                Err(StoreError::io("create", &path, err))
            }
        }
    }

    /// Removes the spares that are ready, for their room. Returns whether there were any.
    fn drop_ready(&self) -> bool {
        let ready = std::mem::take(&mut lock(&self.pool).ready);
        for (_, path) in &ready {
            remove_quietly(&self.fs, path);
        }
        !ready.is_empty()
    }

    /// Says that a spare of `bytes` will be needed. Small ones are made when needed.
    pub(super) fn expect(&mut self, bytes: u32, reserve: u64) {
        if bytes <= INLINE_ZERO_BYTES_MAX || self.worker.is_none() || !lock(&self.pool).wants(bytes) {
            return;
        }
        if self
            .fs
            .free_bytes(&self.dir)
            .is_ok_and(|free| free < 4 * u64::from(bytes) + reserve)
        {
            return;
        }
        let path = self.next_path();
        lock(&self.pool).coming.push(bytes);
        if self.send(Job::Make { path, bytes }).is_err() {
            forget_coming(&self.pool, bytes);
        }
    }

    /// Takes over or removes the file of a segment that is no longer needed; removes it in any case if `bytes` is 0.
    /// Nothing durable may depend on it.
    pub(super) fn retire(&mut self, old: PathBuf, bytes: u32) {
        let path = self.next_path();
        if let Err(Job::Retire { old, path, bytes }) = self.send(Job::Retire { old, path, bytes }) {
            retire(&self.fs, &self.dir, &self.pool, &old, &path, bytes);
        }
    }

    /// Hands a job to the thread; gives it back if there is none or it has too much to do.
    fn send(&self, job: Job) -> Result<(), Job> {
        match self.worker.as_ref().and_then(|worker| worker.jobs.as_ref()) {
            Some(jobs) => jobs.try_send(job).map_err(|err| match err {
                std::sync::mpsc::TrySendError::Full(job)
                | std::sync::mpsc::TrySendError::Disconnected(job) => job,
            }),
            None => Err(job),
        }
    }
}

impl Worker {
    fn start<F: Fs>(fs: &F, dir: &Path, pool: &Arc<Mutex<Pool>>) -> Result<Self, StoreError> {
        let (jobs, inbox) = sync_channel(JOBS_MAX);
        let (fs, dir_owned, pool) = (fs.clone(), dir.to_owned(), Arc::clone(pool));
        let thread = std::thread::Builder::new()
            .name("tarn-prepare".into())
            .spawn(move || work(&fs, &dir_owned, &pool, &inbox))
            .map_err(|err| StoreError::io("start the thread that prepares", dir, err))?;
        Ok(Self {
            jobs: Some(jobs),
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
            tracing::error!("the thread that prepares segments panicked");
        }
    }
}

fn work<F: Fs>(fs: &F, dir: &Path, pool: &Mutex<Pool>, inbox: &Receiver<Job>) {
    while let Ok(job) = inbox.recv() {
        match job {
            Job::Make { path, bytes } => {
                let made = make_file(fs, &path, bytes, true).and_then(|file| file.sync_data());
                forget_coming(pool, bytes);
                match made {
                    Ok(()) => lock(pool).ready.push_back((bytes, path)),
                    Err(err) => {
                        tracing::warn!(path = %path.display(), error = %err, "cannot prepare a segment");
                        remove_quietly(fs, &path);
                    }
                }
            }
            Job::Retire { old, path, bytes } => retire(fs, dir, pool, &old, &path, bytes),
        }
    }
}

fn forget_coming(pool: &Mutex<Pool>, bytes: u32) {
    let mut pool = lock(pool);
    if let Some(at) = pool.coming.iter().position(|size| *size == bytes) {
        pool.coming.swap_remove(at);
    }
}

fn make_file<F: Fs>(fs: &F, path: &Path, bytes: u32, zero: bool) -> std::io::Result<F::File> {
    let file = fs.create(path)?;
    file.allocate(u64::from(bytes))?;
    if zero {
        let zeros = vec![0; ZERO_STEP_BYTES.min(bytes as usize)];
        let mut at = 0;
        while at < bytes as usize {
            let step = zeros.len().min(bytes as usize - at);
            file.write_at(&zeros[..step], at as u64)?;
            at += step;
            if at < bytes as usize {
                file.sync_data()?;
            }
        }
    }
    Ok(file)
}

/// Moves `old` to `path` in `dir` as a spare if one of its size is wanted, otherwise removes it. It counts as a spare
/// only when both directories are synced: were it written to before, a crash could show the new content under the
/// old name.
fn retire<F: Fs>(fs: &F, dir: &Path, pool: &Mutex<Pool>, old: &Path, path: &Path, bytes: u32) {
    let Some(home) = old.parent().filter(|_| bytes > 0 && lock(pool).wants(bytes)) else {
        remove_quietly(fs, old);
        return;
    };
    let moved = fs
        .rename(old, path)
        .and_then(|()| fs.sync_dir(home))
        .and_then(|()| fs.sync_dir(dir));
    match moved {
        Ok(()) => lock(pool).ready.push_back((bytes, path.to_owned())),
        Err(err) => {
            tracing::warn!(path = %old.display(), error = %err, "cannot take over an old segment");
            remove_quietly(fs, path);
        }
    }
}

/// Removes a file that nothing depends on. It goes at the next start if it cannot go now.
pub(super) fn remove_quietly<F: Fs>(fs: &F, path: &Path) {
    match fs.remove(path) {
        Ok(()) => {}
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => {}
        Err(err) => tracing::warn!(path = %path.display(), error = %err, "cannot remove a file"),
    }
}
