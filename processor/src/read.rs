//! Reading tables: rows as Arrow batches, snapshots, properties and files.

use std::collections::BTreeMap;

use arrow_array::RecordBatch;
use futures::stream::BoxStream;
use iceberg::table::Table;

use crate::catalog::{Lake, LakeError};
use crate::storage::StorageError;

/// Why a table can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The lake refused.
    #[error(transparent)]
    Lake(#[from] LakeError),
    /// A file of the warehouse could not be reached.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The catalog's answer was not what a REST catalog says.
    #[error("catalog {uri}: {detail}")]
    Catalog {
        /// The address asked.
        uri: String,
        /// What went wrong.
        detail: String,
    },
    /// Iceberg refused.
    #[error("table {table}: {source}")]
    Iceberg {
        /// The table.
        table: String,
        /// What Iceberg said.
        source: Box<iceberg::Error>,
    },
}

/// One table at one moment: what it reads does not change under it.
#[derive(Clone, Debug)]
pub struct ReadTable {
    table: Table,
}

/// One snapshot of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// The snapshot.
    pub snapshot_id: i64,
    /// The one before.
    pub parent_id: Option<i64>,
    /// When it was made, in milliseconds since 1970.
    pub timestamp_ms: i64,
    /// `append`, `overwrite`, `replace` or `delete`.
    pub operation: String,
    /// Figures and watermarks.
    pub summary: BTreeMap<String, String>,
}

/// One live file of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// Its location.
    pub location: String,
    /// Rows in it.
    pub record_count: u64,
    /// Its size.
    pub size_bytes: u64,
    /// Its partition as a path, such as `ts_day=2025-07-15`.
    pub partition: String,
}

/// Opens a table of the namespace `iot` through the REST catalog at `uri` (such as
/// `http://127.0.0.1:8181/catalog`). Its files must be on this machine's disk.
pub async fn open_rest(uri: &str, table: &str) -> Result<ReadTable, ReadError> {
    let _ = (uri, table);
    todo!()
}

impl Lake {
    /// The table as it is now.
    pub async fn read_table(&self, table: &str) -> Result<ReadTable, ReadError> {
        let _ = table;
        todo!()
    }
}

impl ReadTable {
    /// The rows' `columns`, in batches, in bounded memory. No order is promised.
    pub async fn scan(
        &self,
        columns: &[&str],
    ) -> Result<BoxStream<'static, Result<RecordBatch, ReadError>>, ReadError> {
        let _ = columns;
        todo!()
    }

    /// The table's properties.
    pub fn properties(&self) -> BTreeMap<String, String> {
        self.table.metadata().properties().clone().into_iter().collect()
    }

    /// The snapshots that the table still has, oldest first.
    pub fn snapshots(&self) -> Vec<SnapshotInfo> {
        todo!()
    }

    /// The live files, one manifest at a time in memory.
    pub fn files(&self) -> BoxStream<'static, Result<FileInfo, ReadError>> {
        todo!()
    }
}
