//! Reading tables: rows as Arrow batches, snapshots, properties and files.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use arrow_array::RecordBatch;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use iceberg::expr::Predicate;
use iceberg::spec::{DataContentType, DataFile, ManifestFile, PartitionSpecRef, SchemaRef, TableMetadata};
use iceberg::table::Table;
use iceberg::{Runtime, TableIdent};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::catalog::{Lake, LakeError, LoadedTable};
use crate::storage::{LakeStorage, StorageError, Warehouse};
use crate::tables::NAMESPACE;

/// The longest answer of a catalog that is read.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;

/// How long a catalog may take for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Rows in one batch of a scan, at most.
const BATCH_ROWS: usize = 8192;

/// Files that a scan reads at once.
const SCAN_FILES: usize = 2;

/// Why a table can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The lake refused.
    #[error(transparent)]
    Lake(#[from] LakeError),
    /// A file of the warehouse could not be reached.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The catalog could not be asked, or its answer was not what a REST catalog says.
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
    /// Data, or deletes that apply to data files.
    pub content: DataContentType,
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
    let uri = uri.trim_end_matches('/');
    let client = reqwest::Client::builder().timeout(ANSWER_TIMEOUT).build();
    let client = client.map_err(|error| refused(uri, error))?;
    let config: Config = ask(&client, &format!("{uri}/v1/config")).await?;
    let prefix = config.overrides.get("prefix").or(config.defaults.get("prefix"));
    let prefix = prefix.map(|prefix| format!("{prefix}/")).unwrap_or_default();
    let address = format!("{uri}/v1/{prefix}namespaces/{NAMESPACE}/tables/{table}?snapshots=all");
    let loaded: LoadTable = ask(&client, &address).await?;
    let opened = tokio::task::spawn_blocking(|| LakeStorage::open(Warehouse::Local("/".into()))).await;
    let storage = opened.map_err(|_| LakeError::Interrupted)??;
    let loaded = LoadedTable {
        metadata: loaded.metadata.into(),
        metadata_location: loaded.metadata_location,
    };
    ReadTable::new(table, loaded, &storage)
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    defaults: BTreeMap<String, String>,
    #[serde(default)]
    overrides: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct LoadTable {
    #[serde(default)]
    metadata_location: String,
    metadata: TableMetadata,
}

async fn ask<T: DeserializeOwned>(client: &reqwest::Client, uri: &str) -> Result<T, ReadError> {
    let mut answer = client
        .get(uri)
        .send()
        .await
        .map_err(|error| refused(uri, error))?;
    let status = answer.status();
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| refused(uri, error))? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(refused(
                uri,
                format!("the answer is longer than {ANSWER_BYTES_MAX} bytes"),
            ));
        }
        body.extend_from_slice(&chunk);
    }
    if !status.is_success() {
        return Err(refused(uri, format!("{status} {}", error_message(&body))));
    }
    serde_json::from_slice(&body).map_err(|error| refused(uri, error))
}

/// The message of an error in Iceberg's form, or nothing.
fn error_message(body: &[u8]) -> String {
    let answer: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    answer
        .pointer("/error/message")
        .and_then(|text| text.as_str())
        .unwrap_or_default()
        .to_owned()
}

fn refused(uri: &str, detail: impl std::fmt::Display) -> ReadError {
    ReadError::Catalog {
        uri: uri.to_owned(),
        detail: detail.to_string(),
    }
}

impl Lake {
    /// The table as it is now.
    pub async fn read_table(&self, table: &str) -> Result<ReadTable, ReadError> {
        let loaded = self.load(table).await?;
        ReadTable::new(table, loaded, self.storage())
    }
}

impl ReadTable {
    fn new(table: &str, loaded: LoadedTable, storage: &LakeStorage) -> Result<Self, ReadError> {
        let build = || {
            Table::builder()
                .identifier(TableIdent::from_strs([NAMESPACE, table])?)
                .metadata(loaded.metadata)
                .metadata_location(loaded.metadata_location)
                .file_io(storage.file_io())
                .runtime(Runtime::try_current()?)
                .readonly(true)
                .disable_cache()
                .build()
        };
        let failed = |source| ReadError::Iceberg {
            table: table.to_owned(),
            source: Box::new(source),
        };
        Ok(Self {
            table: build().map_err(failed)?,
        })
    }

    /// The rows' `columns`, in batches, in bounded memory. No order is promised.
    pub async fn scan(
        &self,
        columns: &[&str],
    ) -> Result<BoxStream<'static, Result<RecordBatch, ReadError>>, ReadError> {
        self.scan_where(columns, Predicate::AlwaysTrue).await
    }

    /// The same, of the rows that `predicate` holds for.
    pub async fn scan_where(
        &self,
        columns: &[&str],
        predicate: Predicate,
    ) -> Result<BoxStream<'static, Result<RecordBatch, ReadError>>, ReadError> {
        let mut scan = self
            .table
            .scan()
            .select(columns)
            .with_batch_size(Some(BATCH_ROWS))
            .with_concurrency_limit(SCAN_FILES);
        if predicate != Predicate::AlwaysTrue {
            scan = scan.with_filter(predicate);
        }
        let name = self.name();
        let failed = move |source| ReadError::Iceberg {
            table: name.clone(),
            source: Box::new(source),
        };
        let batches = scan.build().map_err(&failed)?.to_arrow().await.map_err(&failed)?;
        Ok(batches.map_err(failed).boxed())
    }

    /// Schema, partition spec and history.
    pub fn metadata(&self) -> &TableMetadata {
        self.table.metadata()
    }

    /// The metadata file that this was read from.
    pub fn metadata_location(&self) -> &str {
        self.table.metadata_location().unwrap_or_default()
    }

    /// The table's properties.
    pub fn properties(&self) -> BTreeMap<String, String> {
        self.table.metadata().properties().clone().into_iter().collect()
    }

    /// The snapshots that the table still has, oldest first.
    pub fn snapshots(&self) -> Vec<SnapshotInfo> {
        let mut snapshots: Vec<_> = self.table.metadata().snapshots().collect();
        snapshots.sort_by_key(|snapshot| (snapshot.sequence_number(), snapshot.snapshot_id()));
        let info = |snapshot: &iceberg::spec::SnapshotRef| SnapshotInfo {
            snapshot_id: snapshot.snapshot_id(),
            parent_id: snapshot.parent_snapshot_id(),
            timestamp_ms: snapshot.timestamp_ms(),
            operation: snapshot.summary().operation.as_str().to_owned(),
            summary: snapshot
                .summary()
                .additional_properties
                .clone()
                .into_iter()
                .collect(),
        };
        snapshots.into_iter().map(info).collect()
    }

    /// The live files, one manifest at a time in memory.
    pub fn files(&self) -> BoxStream<'static, Result<FileInfo, ReadError>> {
        let schema = self.table.metadata().current_schema().clone();
        let describe = move |(spec, file): (PartitionSpecRef, DataFile)| file_info(&schema, &spec, &file);
        self.files_with_specs().map_ok(describe).boxed()
    }

    /// The live files with their bounds and counts, one manifest at a time in memory.
    pub fn data_files(&self) -> BoxStream<'static, Result<DataFile, ReadError>> {
        self.files_with_specs().map_ok(|(_, file)| file).boxed()
    }

    /// How many manifests a scan's plan reads at most.
    pub async fn manifest_count(&self) -> Result<usize, ReadError> {
        let walk = Walk {
            table: self.table.clone(),
            manifests: None,
            files: VecDeque::new(),
        };
        let failed = |source| ReadError::Iceberg {
            table: self.name(),
            source: Box::new(source),
        };
        Ok(walk.list().await.map_err(failed)?.len())
    }

    fn files_with_specs(&self) -> BoxStream<'static, Result<(PartitionSpecRef, DataFile), ReadError>> {
        let name = self.name();
        let failed = move |source| ReadError::Iceberg {
            table: name.clone(),
            source: Box::new(source),
        };
        let walk = Walk {
            table: self.table.clone(),
            manifests: None,
            files: VecDeque::new(),
        };
        stream::try_unfold(walk, |mut walk| async {
            Ok(walk.next().await?.map(|file| (file, walk)))
        })
        .map_err(failed)
        .boxed()
    }

    fn name(&self) -> String {
        self.table.identifier().name().to_owned()
    }
}

fn file_info(schema: &SchemaRef, spec: &PartitionSpecRef, file: &DataFile) -> FileInfo {
    FileInfo {
        location: file.file_path().to_owned(),
        content: file.content_type(),
        record_count: file.record_count(),
        size_bytes: file.file_size_in_bytes(),
        partition: spec.partition_to_path(file.partition(), schema.clone()),
    }
}

/// A walk over the current snapshot's files.
struct Walk {
    table: Table,
    /// `None`: the manifest list is still to be read.
    manifests: Option<VecDeque<ManifestFile>>,
    files: VecDeque<(PartitionSpecRef, DataFile)>,
}

impl Walk {
    async fn next(&mut self) -> iceberg::Result<Option<(PartitionSpecRef, DataFile)>> {
        loop {
            if let Some(file) = self.files.pop_front() {
                return Ok(Some(file));
            }
            let Some(manifests) = &mut self.manifests else {
                self.manifests = Some(self.list().await?);
                continue;
            };
            let Some(manifest) = manifests.pop_front() else {
                return Ok(None);
            };
            let default = self.table.metadata().default_partition_spec();
            let spec = self
                .table
                .metadata()
                .partition_spec_by_id(manifest.partition_spec_id);
            let spec = spec.unwrap_or(default).clone();
            let loaded = manifest.load_manifest(self.table.file_io()).await?;
            let live = loaded.entries().iter().filter(|entry| entry.is_alive());
            self.files
                .extend(live.map(|entry| (spec.clone(), entry.data_file().clone())));
        }
    }

    async fn list(&self) -> iceberg::Result<VecDeque<ManifestFile>> {
        let Some(snapshot) = self.table.metadata().current_snapshot() else {
            return Ok(VecDeque::new());
        };
        let list = self.table.manifest_list_reader(snapshot).load().await?;
        Ok(list.consume_entries().into_iter().collect())
    }
}

#[cfg(test)]
mod tests;
