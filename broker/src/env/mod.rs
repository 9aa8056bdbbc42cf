//! The only door to time, disk and chance. Everything else takes these traits, so that clocks, crashes, torn writes
//! and full disks can be simulated by seed (`sim`) and run for real (`real`).

pub mod real;
pub mod sim;

use std::io;
use std::path::Path;

use crate::types::{MonoNanos, UnixNanos};

/// Source of time.
pub trait Clock: Send + 'static {
    /// Wall-clock time. It may jump in either direction.
    fn now(&self) -> UnixNanos;
    /// Time that never goes back.
    fn monotonic(&self) -> MonoNanos;
}

/// Source of chance.
pub trait Rng: Send + 'static {
    /// The next 64 bits.
    fn next_u64(&mut self) -> u64;
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// Name without the directory. Names that are not UTF-8 are left out of listings.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// A file system as the store needs it. All paths are used as given; nothing is followed or expanded.
///
/// Durability is POSIX's: `FsFile::sync_data` makes a file's bytes and length durable, `sync_dir` makes the names in
/// one directory durable (creations, renames into it and out of it, removals). Nothing else is promised after a crash.
pub trait Fs: Clone + Send + Sync + 'static {
    /// An open file.
    type File: FsFile;
    /// Held as long as the lock is.
    type Lock: Send + 'static;

    /// Creates a file for reading and writing. Errors with `AlreadyExists` if the name is taken.
    fn create(&self, path: &Path) -> io::Result<Self::File>;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Self::File>;
    /// Opens an existing file for reading only.
    fn open_read(&self, path: &Path) -> io::Result<Self::File> {
        self.open(path)
    }
    /// Renames a file, replacing the target if there is one.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// The entries of a directory, sorted by name.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;
    /// Creates a directory and its parents where missing.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Makes the names in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes bytes and length of each file durable, as [`FsFile::sync_data`] does: the outcomes, in the order of the
    /// files. All at once where the system gains by that; a simulation syncs one after the other.
    fn sync_files(&self, files: &[&Self::File]) -> Vec<io::Result<()>> {
        files.iter().map(|file| file.sync_data()).collect()
    }
    /// Makes every file and name under `dir` durable that can be seen now.
    fn sync_all(&self, dir: &Path) -> io::Result<()>;
    /// Bytes that can still be written under `dir`.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
    /// Takes an exclusive lock on the file at `path`, creating it if missing. `None`: another process has it.
    fn lock(&self, path: &Path) -> io::Result<Option<Self::Lock>>;
    /// As [`Fs::lock`], but an error if there is no such file, and without the right to write.
    fn lock_existing(&self, path: &Path) -> io::Result<Option<Self::Lock>> {
        self.lock(path)
    }
    /// Whether slow preparation may run on a thread of its own. A simulation says no, to stay deterministic.
    fn background(&self) -> bool;
}

/// An open file. Positions are given with each call; there is no cursor.
pub trait FsFile: Send + Sync + 'static {
    /// Reads at `offset` until `buf` is full or the file ends. Returns the number of bytes read.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`, growing the file if needed. After an error any part may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes bytes and length durable. After an error it is unknown which writes since the last sync are.
    fn sync_data(&self) -> io::Result<()>;
    /// Cuts the file or extends it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reserves room for the first `len` bytes and makes the file at least that long, so that writes into it do not
    /// run out of space where the file system can promise that.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}
