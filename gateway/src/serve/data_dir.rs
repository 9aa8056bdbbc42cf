//! The data directory: made if missing, written to for proof, checked for room, and held by one process.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// Below this much free space nothing is started: the broker could not take traffic for long.
pub const FREE_BYTES_MIN: u64 = 64 << 20;

const LOCK_FILE: &str = "tarn.lock";
const PROBE_FILE: &str = "tarn.probe";

/// The data directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// It can't be made or written to.
    #[error(
        "data directory {} can't be written: {source}; {}, or set data_dir (--data-dir) to another directory",
        .dir.display(), way_to_write(.source)
    )]
    Unwritable {
        /// The directory.
        dir: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// There is too little room.
    #[error(
        "data directory {} has {} left and needs {} at least; free some space, or set data_dir (--data-dir) to \
         a larger disk",
        .dir.display(), mebibytes(*.free_bytes), mebibytes(FREE_BYTES_MIN)
    )]
    Full {
        /// The directory.
        dir: PathBuf,
        /// What is free.
        free_bytes: u64,
    },
    /// Another process has it.
    #[error(
        "data directory {} is in use by another tarn{}; stop that one, or set data_dir (--data-dir) to another \
         directory",
        .dir.display(), .owner.as_ref().map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The other's process id, if it could be read.
        owner: Option<u32>,
    },
}

fn way_to_write(why: &io::Error) -> &'static str {
    match why.kind() {
        io::ErrorKind::ReadOnlyFilesystem => "mount that disk for writing",
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => "move away the file of that name",
        _ => "give this user the right to write there",
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// The data directory, held by this process until dropped.
#[derive(Debug)]
pub struct DataDir {
    _lock: File,
}

impl DataDir {
    /// Makes `dir` if it is missing, checks it, and takes it for this process.
    pub fn claim(dir: &Path) -> Result<DataDir, DataDirError> {
        let unwritable = |source: io::Error| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DataDirError::Full {
                dir: dir.to_owned(),
                free_bytes: 0,
            },
            _ => DataDirError::Unwritable {
                dir: dir.to_owned(),
                source,
            },
        };
        fs::create_dir_all(dir).map_err(unwritable)?;
        let lock = lock(dir).map_err(|err| match err {
            LockError::Io(source) => unwritable(source),
            LockError::Held(owner) => DataDirError::InUse {
                dir: dir.to_owned(),
                owner,
            },
        })?;
        let free_bytes = free_bytes(dir).map_err(unwritable)?;
        if free_bytes < FREE_BYTES_MIN {
            return Err(DataDirError::Full {
                dir: dir.to_owned(),
                free_bytes,
            });
        }
        probe(dir).map_err(unwritable)?;
        Ok(DataDir { _lock: lock })
    }
}

enum LockError {
    Io(io::Error),
    Held(Option<u32>),
}

fn lock(dir: &Path) -> Result<File, LockError> {
    let path = dir.join(LOCK_FILE);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(LockError::Io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let owner = file
                .read_to_string(&mut text)
                .ok()
                .and_then(|_| text.trim().parse().ok());
            return Err(LockError::Held(owner));
        }
        Err(TryLockError::Error(source)) => return Err(LockError::Io(source)),
    }
    // The id is for the message above only: the lock is what counts, and it ends with the process.
    let written = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(std::process::id().to_string().as_bytes()));
    written.map_err(LockError::Io)?;
    Ok(file)
}

/// What an unprivileged process may still write under `dir`.
pub fn free_bytes(dir: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Writes, syncs and removes a block: rights and read-only mounts show here instead of under traffic.
fn probe(dir: &Path) -> io::Result<()> {
    let path = dir.join(PROBE_FILE);
    let mut file = File::create(&path)?;
    let written = file.write_all(&[0; 4096]).and_then(|()| file.sync_all());
    fs::remove_file(&path)?;
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_directory_is_made_and_held_by_one() {
        let root = tempfile::tempdir().expect("temporary directory");
        let dir = root.path().join("a/b");
        let first = DataDir::claim(&dir).expect("free");
        let second = DataDir::claim(&dir).expect_err("held").to_string();
        assert!(
            second.contains(&format!(
                "in use by another tarn (process {})",
                std::process::id()
            )),
            "{second}"
        );
        drop(first);
        DataDir::claim(&dir).expect("free again");
        assert!(!dir.join(PROBE_FILE).exists());
    }

    #[test]
    fn a_file_in_its_place_is_named() {
        let root = tempfile::tempdir().expect("temporary directory");
        let path = root.path().join("data");
        fs::write(&path, b"").expect("write");
        let refused = DataDir::claim(&path).expect_err("not a directory").to_string();
        assert!(
            refused.contains("can't be written") && refused.contains("data_dir"),
            "{refused}"
        );
    }

    #[test]
    fn a_full_disk_says_how_much_is_left() {
        let full = DataDirError::Full {
            dir: "/data".into(),
            free_bytes: 3 << 20,
        };
        assert_eq!(
            full.to_string(),
            "data directory /data has 3 MiB left and needs 64 MiB at least; free some space, or set data_dir \
             (--data-dir) to a larger disk"
        );
    }
}
