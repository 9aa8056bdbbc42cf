//! [`Lake`]: opening, creating and loading tables. Commits are in [`crate::commit`].

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::NaiveDate;
use iceberg::MetadataLocation;
use iceberg::io::FileIO;
use iceberg::spec::{NestedFieldRef, SortOrder, TableMetadata, TableMetadataBuilder, TableMetadataRef};
use uuid::Uuid;

use super::sqlite::{CatalogError, SqliteCatalog};
use crate::storage::{LakeStorage, StorageError, Warehouse};
use crate::tables::{FORMAT_VERSION, FORMAT_VERSION_PROPERTY, NAMESPACE, TableSpec};

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
    /// The runtime is shutting down.
    #[error("interrupted by the end of the process")]
    Interrupted,
    /// There is no such table.
    #[error("there is no table {table} in the catalog")]
    NoSuchTable {
        /// The table.
        table: String,
    },
    /// The table was written by a newer version.
    #[error(
        "table {table} has format version {found}, this version of tarn reads up to {supported}: \
         upgrade tarn, or restore a backup made before the upgrade"
    )]
    TooNew {
        /// The table.
        table: String,
        /// The format version of the table.
        found: String,
        /// The newest format version that is understood.
        supported: u32,
    },
    /// The window table was made with windows of another length, which can't stand beside each other.
    #[error(
        "window table {table} has windows of {found} µs, {expected} µs are configured: give the new length a table of \
         its own"
    )]
    WindowLength {
        /// The table.
        table: String,
        /// The length that the table was made with, in microseconds.
        found: String,
        /// The configured length, in microseconds.
        expected: String,
    },
    /// The table exists with other columns than Tarn writes.
    #[error(
        "table {table} has no column {column} of type {expected} where tarn expects it: \
         rename that table, so that tarn can create its own"
    )]
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
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) storage: LakeStorage,
    pub(crate) file_io: FileIO,
    pub(crate) catalog: SqliteCatalog,
    /// The last metadata read or written of each table; it is used only while the catalog still points at it.
    loaded: Mutex<BTreeMap<String, LoadedTable>>,
    /// Held by the commit that is under way, so that commits of one process do not conflict.
    pub(crate) commit_turn: tokio::sync::Mutex<()>,
}

impl Lake {
    /// Opens the lake; creates the warehouse and the catalog when they are missing. A catalog that a newer version
    /// wrote is refused.
    pub async fn open(options: LakeOptions) -> Result<Self, LakeError> {
        let catalog = SqliteCatalog::open(&options.catalog).await?;
        let opened = tokio::task::spawn_blocking(move || LakeStorage::open(options.warehouse)).await;
        let storage = opened.map_err(|_| LakeError::Interrupted)??;
        Ok(Self::over(storage, catalog))
    }

    /// The lake of a warehouse and a catalog that are open.
    pub(crate) fn over(storage: LakeStorage, catalog: SqliteCatalog) -> Self {
        let inner = Inner {
            file_io: storage.file_io(),
            storage,
            catalog,
            loaded: Mutex::default(),
            commit_turn: tokio::sync::Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Takes the right to commit; every earlier epoch loses it.
    pub async fn claim_writer(&self) -> Result<WriterEpoch, LakeError> {
        Ok(WriterEpoch(self.inner.catalog.claim_writer().await?))
    }

    /// Creates the table when it is missing; otherwise checks that its columns are those of `spec`.
    pub async fn ensure_table(&self, spec: &TableSpec) -> Result<(), LakeError> {
        if self.inner.catalog.pointer(NAMESPACE, &spec.name).await?.is_none() {
            let failed = |source| LakeError::Iceberg {
                table: spec.name.clone(),
                source: Box::new(source),
            };
            let location = self.table_location(&spec.name);
            let metadata = new_table_metadata(spec, &location).map_err(failed)?;
            let file = MetadataLocation::new_with_metadata(&location, &metadata);
            metadata
                .write_to(&self.inner.file_io, &file)
                .await
                .map_err(failed)?;
            if !self.inner.catalog.create(&spec.name, &file.to_string()).await? {
                self.inner.storage.delete(&file.to_string()).await?;
            }
        }
        let loaded = self.load(&spec.name).await?;
        check_columns(spec, &loaded.metadata)
    }

    /// The table as the catalog has it now.
    pub async fn load(&self, table: &str) -> Result<LoadedTable, LakeError> {
        let mut location = self.pointer(table).await?;
        if let Some(loaded) = self.cached(table, &location) {
            return Ok(loaded);
        }
        let metadata = loop {
            let failed = match TableMetadata::read_from(&self.inner.file_io, &location).await {
                Ok(metadata) => break Arc::new(metadata),
                Err(error) => error,
            };
            // Ten commits in the meantime delete the metadata file that the catalog pointed at.
            let now = self.pointer(table).await?;
            if now == location {
                return Err(LakeError::Iceberg {
                    table: table.to_owned(),
                    source: Box::new(failed),
                });
            }
            location = now;
        };
        check_version(table, &metadata)?;
        let loaded = LoadedTable {
            metadata,
            metadata_location: location,
        };
        self.remember(table, loaded.clone());
        Ok(loaded)
    }

    /// The names of all tables, sorted.
    pub async fn table_names(&self) -> Result<Vec<String>, LakeError> {
        Ok(self.inner.catalog.tables(NAMESPACE).await?)
    }

    /// The warehouse.
    pub fn storage(&self) -> &LakeStorage {
        &self.inner.storage
    }

    /// A fresh location for a data file of the table, below the folder of its partition's UTC day (counted from
    /// 1970-01-01).
    pub fn data_location(&self, table: &str, partition_day: Option<i32>) -> String {
        let folder = match partition_day {
            Some(day) => format!("data/day={}", day_name(day)),
            None => "data".to_owned(),
        };
        format!(
            "{}/{folder}/{}.parquet",
            self.table_location(table),
            Uuid::now_v7()
        )
    }

    /// The reading side of Iceberg's REST catalog, to be nested under `/catalog`.
    pub fn rest_router(&self) -> axum::Router {
        super::rest_server::router(self.clone())
    }

    pub(crate) fn remember(&self, table: &str, loaded: LoadedTable) {
        self.lock_loaded().insert(table.to_owned(), loaded);
    }

    fn table_location(&self, table: &str) -> String {
        format!("{}/{NAMESPACE}/{table}", self.inner.storage.root())
    }

    async fn pointer(&self, table: &str) -> Result<String, LakeError> {
        let pointer = self.inner.catalog.pointer(NAMESPACE, table).await?;
        pointer.ok_or_else(|| LakeError::NoSuchTable {
            table: table.to_owned(),
        })
    }

    fn cached(&self, table: &str, location: &str) -> Option<LoadedTable> {
        self.lock_loaded()
            .get(table)
            .filter(|loaded| loaded.metadata_location == location)
            .cloned()
    }

    fn lock_loaded(&self) -> MutexGuard<'_, BTreeMap<String, LoadedTable>> {
        self.inner.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `2025-07-15` for a day counted from 1970-01-01; the number itself outside of the calendar.
fn day_name(day: i32) -> String {
    match NaiveDate::from_epoch_days(day) {
        Some(date) => date.format("%Y-%m-%d").to_string(),
        None => day.to_string(),
    }
}

fn check_version(table: &str, metadata: &TableMetadata) -> Result<(), LakeError> {
    let Some(found) = metadata.properties().get(FORMAT_VERSION_PROPERTY) else {
        return Ok(());
    };
    match found.parse::<u32>() {
        Ok(version) if version <= FORMAT_VERSION => Ok(()),
        _ => Err(LakeError::TooNew {
            table: table.to_owned(),
            found: found.clone(),
            supported: FORMAT_VERSION,
        }),
    }
}

fn check_columns(spec: &TableSpec, metadata: &TableMetadata) -> Result<(), LakeError> {
    for column in spec.schema.as_struct().fields() {
        let found = metadata.current_schema().field_by_name(&column.name);
        let same = |field: &&NestedFieldRef| field.id == column.id && field.field_type == column.field_type;
        if found.filter(same).is_none() {
            return Err(LakeError::Columns {
                table: spec.name.clone(),
                column: column.name.clone(),
                expected: column.field_type.to_string(),
            });
        }
    }
    Ok(())
}

/// The metadata of a table that is created as `spec` says, below `location`.
pub fn new_table_metadata(spec: &TableSpec, location: &str) -> iceberg::Result<TableMetadata> {
    let built = TableMetadataBuilder::new(
        (*spec.schema).clone(),
        spec.partition_spec(),
        SortOrder::unsorted_order(),
        location.to_owned(),
        spec.format_version(),
        spec.properties.clone(),
    )?
    .build()?;
    Ok(built.metadata)
}
