//! What can go wrong in the store, with what an operator needs to act.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::types::StreamSeq;

/// Why the store refused or failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The directory cannot be created or written.
    #[error("store directory {path} is not writable: {source}")]
    Unwritable {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// Another process has the directory.
    #[error("store directory {path} is in use by another process")]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The directory holds no store.
    #[error(
        "{path} holds no store: it has no directory `streams`; name the directory that the broker keeps its streams in"
    )]
    NoStore {
        /// The directory.
        path: PathBuf,
    },
    /// A file was written by a newer program.
    #[error("{file} has format version {found}, this program reads up to {supported}: use the newer program")]
    NewerVersion {
        /// The file.
        file: PathBuf,
        /// Version in the file.
        found: u32,
        /// Newest version that this program reads.
        supported: u32,
    },
    /// A file that nothing can replace is damaged.
    #[error(
        "{file} is broken: {reason}; restore it from a backup, or move its directory away to go on without it"
    )]
    Broken {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// The disk is full. Reads go on; writes are accepted again once there is room.
    #[error("no space left for {path}")]
    NoSpace {
        /// What could not be written.
        path: PathBuf,
    },
    /// An earlier write or sync failed, so nothing can be promised for this stream until the store is reopened.
    #[error("stream {stream} is read-only until restart, because writing to disk failed")]
    ReadOnly {
        /// The stream.
        stream: Arc<str>,
    },
    /// The record does not fit into a segment, or its subject is longer than 65535 bytes.
    #[error("record of {len} bytes is larger than {max} bytes")]
    TooLarge {
        /// Bytes needed.
        len: u64,
        /// Bytes allowed.
        max: u64,
    },
    /// A record failed its checksum when read. It counts as lost from now on.
    #[error("record {seq} of stream {stream} is damaged")]
    Damaged {
        /// The stream.
        stream: Arc<str>,
        /// The record.
        seq: StreamSeq,
    },
    /// No stream has this handle.
    #[error("no such stream")]
    NoSuchStream,
    /// The name is taken.
    #[error("stream {name} exists already")]
    StreamExists {
        /// The name.
        name: String,
    },
    /// No consumer has this name.
    #[error("no consumer {name}")]
    NoSuchConsumer {
        /// The name.
        name: String,
    },
    /// A name is empty or longer than can be kept.
    #[error("name of {len} bytes cannot be kept, 1 to {max} are allowed")]
    BadName {
        /// Bytes in the name.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// The system failed in another way.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
}

impl StoreError {
    /// Wraps a failed operation on `path`. A full disk becomes [`StoreError::NoSpace`].
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace {
                path: path.to_owned(),
            },
            _ => Self::Io {
                action,
                path: path.to_owned(),
                source: Arc::new(source),
            },
        }
    }

    /// Whether trying again later, once there is room, can succeed.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::NoSpace { .. })
    }
}
