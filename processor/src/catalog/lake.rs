//! [`Lake`]: opening, creating and loading tables. Commits are in [`crate::commit`].

use std::path::PathBuf;
use std::sync::Arc;

use iceberg::spec::{TableMetadata, TableMetadataBuilder, TableMetadataRef};

use super::sqlite::CatalogError;
use crate::storage::{LakeStorage, StorageError, Warehouse};
use crate::tables::TableSpec;

/// Where a lake is.
#[derive(Clone, Debug)]
pub struct LakeOptions {
    /// The tables' files.
    pub warehouse: Warehouse,
    /// The catalog's SQLite file, created when missing. It stays outside of the warehouse.
    pub catalog: PathBuf,
}

/// The right to commit: a later [`Lake::claim_writer`] takes it away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WriterEpoch(pub(crate) u64);

/// A table as it was when it was loaded.
#[derive(Clone, Debug)]
pub struct LoadedTable {
    /// Schema, snapshots, properties.
    pub metadata: TableMetadataRef,
    /// The metadata file that this was read from.
    pub metadata_location: String,
}

/// Why the lake can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LakeError {
    /// The catalog refused.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A file could not be read or written.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Iceberg refused.
    #[error("table {table}: {source}")]
    Iceberg {
        /// The table.
        table: String,
        /// What Iceberg said.
        source: Box<iceberg::Error>,
    },
    /// There is no such table.
    #[error("there is no table {table} in the catalog")]
    NoSuchTable {
        /// The table.
        table: String,
    },
    /// The table was written by a newer version.
    #[error("table {table} has format version {found}, this version of tarn reads up to {supported}: upgrade tarn, or restore a backup made before the upgrade")]
    TooNew {
        /// The table.
        table: String,
        /// The format version of the table.
        found: String,
        /// The newest format version that is understood.
        supported: u32,
    },
    /// The table exists with other columns than Tarn writes.
    #[error("table {table} has no column {column} of type {expected}: rename that table, so that tarn can create its own")]
    Columns {
        /// The table.
        table: String,
        /// The column's name.
        column: String,
        /// The type that the column should have.
        expected: String,
    },
}

/// Tables in a warehouse behind one catalog. Cheap to clone; all clones are one lake.
#[derive(Clone, Debug)]
pub struct Lake {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    storage: LakeStorage,
}

impl Lake {
    /// Opens the lake; creates the warehouse and the catalog when they are missing. A catalog that a newer version
    /// wrote is refused.
    pub async fn open(options: LakeOptions) -> Result<Self, LakeError> {
        let _ = options;
        todo!()
    }

    /// Takes the right to commit; every earlier epoch loses it.
    pub async fn claim_writer(&self) -> Result<WriterEpoch, LakeError> {
        todo!()
    }

    /// Creates the table when it is missing; otherwise checks that its columns are those of `spec`.
    pub async fn ensure_table(&self, spec: &TableSpec) -> Result<(), LakeError> {
        let _ = spec;
        todo!()
    }

    /// The table as the catalog has it now.
    pub async fn load(&self, table: &str) -> Result<LoadedTable, LakeError> {
        let _ = table;
        todo!()
    }

    /// The warehouse.
    pub fn storage(&self) -> &LakeStorage {
        &self.inner.storage
    }

    /// A fresh location for a data file of the table, below the folder of its partition's UTC day.
    pub fn data_location(&self, table: &str, partition_day: Option<i32>) -> String {
        let _ = (table, partition_day);
        todo!()
    }

    /// The reading side of Iceberg's REST catalog, to be nested under `/catalog`.
    pub fn rest_router(&self) -> axum::Router {
        todo!()
    }
}

/// The metadata of a table that is created as `spec` says, below `location`.
pub fn new_table_metadata(spec: &TableSpec, location: &str) -> iceberg::Result<TableMetadata> {
    let built = TableMetadataBuilder::new(
        (*spec.schema).clone(),
        spec.partition_spec(),
        iceberg::spec::SortOrder::unsorted_order(),
        location.to_owned(),
        spec.format_version(),
        spec.properties.clone(),
    )?
    .build()?;
    Ok(built.metadata)
}
