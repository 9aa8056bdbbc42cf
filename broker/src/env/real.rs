//! The operating system's clock, disk and entropy.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{FallocateFlags, FlockOperation};

use super::{Clock, DirEntry, Fs, FsFile, Rng};
use crate::types::{MonoNanos, UnixNanos};

/// What the machine has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Bytes of memory; 0: unknown.
    pub memory_bytes: u64,
    /// Bytes that are free on the disk of a folder; 0: unknown.
    pub free_disk_bytes: u64,
}

impl Machine {
    /// What there is now, for files in `dir`.
    #[must_use]
    pub fn of(dir: &Path) -> Self {
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total_kib: Option<u64> = meminfo.lines().find_map(|line| {
            let (number, _unit) = line.strip_prefix("MemTotal:")?.trim().split_once(' ')?;
            number.parse().ok()
        });
        let disk = rustix::fs::statvfs(dir);
        Self {
            memory_bytes: total_kib.unwrap_or(0).saturating_mul(1024),
            free_disk_bytes: disk.map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize)),
        }
    }
}

/// The system's clocks.
#[derive(Clone, Copy, Debug)]
pub struct RealClock {
    start: Instant,
}

impl RealClock {
    /// A clock whose monotonic time starts at 0 now.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one clock that the ban points to"
    )]
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Default for RealClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for RealClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one clock that the ban points to"
    )]
    fn now(&self) -> UnixNanos {
        let nanos = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |nanos| -nanos),
        };
        UnixNanos(nanos)
    }

    fn monotonic(&self) -> MonoNanos {
        MonoNanos(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

/// The kernel's entropy, stretched with `SplitMix64`. Not for keys or tokens.
#[derive(Clone, Debug)]
pub struct RealRng {
    state: super::sim::SplitMix,
}

impl RealRng {
    /// Seeded by the kernel.
    ///
    /// # Errors
    /// When the kernel refuses to give entropy.
    pub fn new() -> io::Result<Self> {
        let mut seed = [0u8; 8];
        let mut filled = 0;
        while filled < seed.len() {
            filled += rustix::rand::getrandom(&mut seed[filled..], rustix::rand::GetRandomFlags::empty())?;
        }
        Ok(Self {
            state: super::sim::SplitMix::new(u64::from_le_bytes(seed)),
        })
    }
}

impl Rng for RealRng {
    fn next_u64(&mut self) -> u64 {
        self.state.next_u64()
    }
}

/// The system's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFs;

impl Fs for RealFs {
    type File = RealFile;
    type Lock = File;

    fn create(&self, path: &Path) -> io::Result<RealFile> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map(RealFile)
    }

    fn open(&self, path: &Path) -> io::Result<RealFile> {
        OpenOptions::new().read(true).write(true).open(path).map(RealFile)
    }

    fn open_read(&self, path: &Path) -> io::Result<RealFile> {
        File::open(path).map(RealFile)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string() {
                entries.push(DirEntry {
                    name,
                    is_dir: entry.file_type()?.is_dir(),
                });
            }
        }
        entries.sort_unstable();
        Ok(entries)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn sync_files(&self, files: &[&RealFile]) -> Vec<io::Result<()>> {
        let lanes = files.len().clamp(1, SYNC_LANES_MAX);
        let mut lanes = files.chunks(files.len().div_ceil(lanes).max(1));
        let own = lanes.next().unwrap_or_default();
        std::thread::scope(|scope| {
            let others: Vec<_> = lanes.map(|lane| (lane, spawn_lane(scope, lane))).collect();
            let mut synced = sync_lane(own);
            for (lane, thread) in others {
                synced.extend(match thread {
                    Some(thread) => thread.join().unwrap_or_else(|_| lost(lane)),
                    None => sync_lane(lane),
                });
            }
            synced
        })
    }

    fn sync_all(&self, dir: &Path) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        rustix::fs::syncfs(File::open(dir)?)?;
        #[cfg(not(target_os = "linux"))]
        rustix::fs::sync();
        Ok(())
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<File>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        flock(file)
    }

    fn lock_existing(&self, path: &Path) -> io::Result<Option<File>> {
        flock(File::open(path)?)
    }

    fn background(&self) -> bool {
        true
    }
}

/// Files synced at once at most. The kernel makes one flush of the disk of those that wait together, so that a few lanes
/// are as good as many.
const SYNC_LANES_MAX: usize = 8;

fn sync_lane(files: &[&RealFile]) -> Vec<io::Result<()>> {
    files.iter().map(|file| file.sync_data()).collect()
}

/// `None`: the system gives no thread.
fn spawn_lane<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    files: &'scope [&'scope RealFile],
) -> Option<ScopedJoinHandle<'scope, Vec<io::Result<()>>>> {
    let thread = std::thread::Builder::new().name("tarn-sync".into());
    thread.spawn_scoped(scope, move || sync_lane(files)).ok()
}

/// What a lane that panicked has to say: nothing is known of its files.
fn lost(files: &[&RealFile]) -> Vec<io::Result<()>> {
    let unknown = || Err(io::Error::other("the thread that syncs panicked"));
    files.iter().map(|_| unknown()).collect()
}

fn flock(file: File) -> io::Result<Option<File>> {
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(err) => Err(err.into()),
    }
}

/// A file of the system.
#[derive(Debug)]
pub struct RealFile(File);

impl FsFile for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.0.read_at(&mut buf[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(err) if err.kind() == ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, len) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) if self.len()? < len => {
                self.set_len(len)
            }
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
            Err(err) => Err(err.into()),
        }
    }

    fn len(&self) -> io::Result<u64> {
        self.0.metadata().map(|meta| meta.len())
    }
}
