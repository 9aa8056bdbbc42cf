//! Why a broker did not start.

use std::path::{Path, PathBuf};

use crate::auth::gate::GateError;
use crate::engine::RecoverError;
use crate::store::StoreError;

/// Why a broker did not start. Each message names the thing and the next step.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An operator's tokens are not to be believed.
    #[error("{0}")]
    Operator(#[from] crate::auth::operator::OperatorError),
    /// Another process listens there.
    #[error("{setting} = \"{address}\": the port is in use; stop what listens there or set another address")]
    PortInUse {
        /// The setting.
        setting: &'static str,
        /// Its value.
        address: String,
    },
    /// The address cannot be listened at.
    #[error("{setting} = \"{address}\": cannot listen there ({source}); set an address of this machine")]
    Listen {
        /// The setting.
        setting: &'static str,
        /// Its value.
        address: String,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The operating system gives no randomness.
    #[error("the operating system gives no randomness: {source}")]
    Entropy {
        /// What it says.
        source: std::io::Error,
    },
    /// The operating system gives no thread.
    #[error("the operating system gives no thread for the store: {source}; allow this user more of them")]
    Thread {
        /// What it says.
        source: std::io::Error,
    },
    /// Certificates and what belongs to them can't be used.
    #[error("{0}")]
    Tls(#[from] crate::tls::TlsError),
    /// The store directory or a file in it cannot be used.
    #[error("{path}: {problem}; {next_step}")]
    Store {
        /// The directory or the file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
        /// What to do.
        next_step: &'static str,
    },
}

impl From<GateError> for StartError {
    fn from(err: GateError) -> Self {
        match err {
            GateError::Entropy => Self::Entropy {
                source: std::io::ErrorKind::Other.into(),
            },
            GateError::Operator(err) => Self::Operator(err),
        }
    }
}

impl StartError {
    /// What opening the store in `dir` came to.
    pub(super) fn of_store(dir: &Path, err: RecoverError) -> Self {
        let err = match err {
            RecoverError::Store(err) => err,
            unreadable => {
                return Self::Store {
                    path: dir.to_owned(),
                    problem: unreadable.to_string(),
                    next_step: "start the version that wrote it, or restore a backup",
                };
            }
        };
        let (path, problem, next_step) = match err {
            StoreError::Unwritable { path, source } => (
                path,
                format!("not writable: {source}"),
                "give this user the right to write there, or set another directory",
            ),
            StoreError::Locked { path } => (
                path,
                "in use by another process".to_owned(),
                "stop that process, or set another directory",
            ),
            StoreError::NoSpace { path } => (
                path,
                "no space left".to_owned(),
                "free space on that disk, or set a directory on another",
            ),
            StoreError::NewerVersion {
                file,
                found,
                supported,
            } => (
                file,
                format!("has format version {found}, this version reads up to {supported}"),
                "start the newer version",
            ),
            StoreError::Broken { file, reason } => (
                file,
                format!("is broken: {reason}"),
                "restore it from a backup, or move its directory away to go on without it",
            ),
            StoreError::Io { action, path, source } => (
                path,
                format!("cannot {action}: {source}"),
                "look at the disk, or set another directory",
            ),
            other => (
                dir.to_owned(),
                other.to_string(),
                "restore a backup, or set another directory",
            ),
        };
        Self::Store {
            path,
            problem,
            next_step,
        }
    }
}
