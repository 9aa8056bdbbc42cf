//! Commits: several tables move together, or none does.

use std::collections::BTreeMap;

use iceberg::spec::DataFile;

use crate::catalog::{Lake, LakeError, WriterEpoch};

/// What a commit does to one table.
#[derive(Clone, Debug, Default)]
pub struct TableChange {
    /// The table's name.
    pub table: String,
    /// Files that become part of the table; they are on stable storage already.
    pub add: Vec<DataFile>,
    /// Locations of files that stop being part of it. The files themselves stay for older snapshots.
    pub remove: Vec<String>,
    /// Table properties to set.
    pub set_properties: BTreeMap<String, String>,
    /// Further entries of the snapshot's summary. Without files there is no snapshot, and these are dropped.
    pub summary: BTreeMap<String, String>,
}

/// What a commit did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// One for each change, in the same order.
    pub tables: Vec<CommittedTable>,
}

/// Where a commit left one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedTable {
    /// The table's name.
    pub table: String,
    /// The snapshot that was made; none when only properties changed.
    pub snapshot_id: Option<i64>,
    /// The table's metadata file.
    pub metadata_location: String,
}

/// Why a commit did not happen.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Another writer claimed the lake: this one must stop.
    #[error("writer epoch {held} was taken over by {current}")]
    Fenced {
        /// The epoch of this writer.
        held: u64,
        /// The epoch that the catalog has.
        current: u64,
    },
    /// Others changed the tables again and again while this commit was prepared.
    #[error("table {table} was changed by others during each of {attempts} attempts")]
    Conflict {
        /// The table.
        table: String,
        /// How often the commit was tried.
        attempts: u32,
    },
    /// A file to remove is not part of the table (any more).
    #[error("table {table} has no file {location} to remove")]
    NoSuchFile {
        /// The table.
        table: String,
        /// The file.
        location: String,
    },
    /// Nothing was changed.
    #[error(transparent)]
    Lake(#[from] LakeError),
    /// The catalog failed in such a way that the commit may or may not stand: read the tables again.
    #[error("the outcome of the commit is unknown: {0}")]
    Unknown(LakeError),
}

impl Lake {
    /// Changes all tables in one catalog transaction: when this returns, every change is visible and on stable
    /// storage, or (on any error but [`CommitError::Unknown`]) none is. Commits of others are rebased upon.
    pub async fn commit(&self, epoch: WriterEpoch, changes: Vec<TableChange>) -> Result<Committed, CommitError> {
        let _ = (epoch, changes);
        todo!()
    }
}
