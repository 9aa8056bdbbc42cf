//! A snapshot's files: manifests and the manifest list.
//!
//! A removed file's manifest is written anew without it (as `EXISTING` the files that stay, as `DELETED` the one that
//! goes), as Iceberg's own writers do; the next snapshot leaves out manifests in which nothing is alive. Many small
//! manifests are merged into few, so that a scan's plan stays cheap.

use std::collections::{BTreeMap, HashMap, HashSet};

use iceberg::io::FileIO;
use iceberg::spec::{
    DataContentType, DataFile, FormatVersion, Manifest, ManifestContentType, ManifestEntry, ManifestFile,
    ManifestListWriter, ManifestWriter, ManifestWriterBuilder, Operation, PartitionSpecRef, Snapshot,
    SnapshotSummaryCollector, Summary, TableMetadata,
};
use iceberg::table::Table;
use iceberg::{Error, ErrorKind, Runtime, TableIdent};
use uuid::Uuid;

use super::metadata::change_time_ms;
use super::{CommitError, TableChange, Written};
use crate::catalog::{LakeError, LoadedTable};
use crate::tables::NAMESPACE;

/// As many small manifests of one kind are merged.
pub(super) const MERGE_MANIFESTS_MIN: usize = 100;

/// A manifest with this many live files is not merged again, and a merged one gets no more.
const MERGED_ENTRIES_MAX: usize = 10_000;

/// The partition spec of the files that Tarn writes: the one that its tables are created with.
const WRITE_SPEC_ID: i32 = 0;

/// Totals that each summary carries on: (total, added, removed).
const TOTALS: [(&str, &str, &str); 6] = [
    ("total-data-files", "added-data-files", "deleted-data-files"),
    ("total-delete-files", "added-delete-files", "removed-delete-files"),
    ("total-records", "added-records", "deleted-records"),
    ("total-files-size", "added-files-size", "removed-files-size"),
    (
        "total-position-deletes",
        "added-position-deletes",
        "removed-position-deletes",
    ),
    (
        "total-equality-deletes",
        "added-equality-deletes",
        "removed-equality-deletes",
    ),
];

/// Writes the manifests and the manifest list of the table after `change`. Every file is noted in `written` before
/// it is written.
pub(super) async fn write(
    file_io: &FileIO,
    before: &LoadedTable,
    change: &TableChange,
    written: &Written,
) -> Result<Snapshot, CommitError> {
    let metadata = &*before.metadata;
    if metadata.format_version() != FormatVersion::V2 {
        let found = metadata.format_version().to_string();
        return Err(CommitError::Format {
            table: change.table.clone(),
            found,
        });
    }
    let failed = |source| LakeError::Iceberg {
        table: change.table.clone(),
        source: Box::new(source),
    };
    let mut writer = SnapshotWriter::new(file_io, metadata, written);
    let mut old = writer
        .current_manifests(&change.table, before)
        .await
        .map_err(failed)?;
    let (rewritten, removed) = writer.remove(&mut old, &change.remove).await.map_err(failed)?;
    if let Some(location) = missing(&change.remove, &removed) {
        return Err(CommitError::NoSuchFile {
            table: change.table.clone(),
            location,
        });
    }
    let old = writer.merge(old).await.map_err(failed)?;
    let mut manifests = writer.add(&change.add).await.map_err(failed)?;
    manifests.extend(rewritten);
    manifests.extend(old);
    let list = writer.list(manifests).await.map_err(failed)?;
    let summary = summary(metadata, change, &removed);
    Ok(Snapshot::builder()
        .with_snapshot_id(writer.snapshot_id)
        .with_parent_snapshot_id(metadata.current_snapshot_id())
        .with_sequence_number(metadata.next_sequence_number())
        .with_timestamp_ms(change_time_ms(metadata))
        .with_manifest_list(list)
        .with_schema_id(metadata.current_schema_id())
        .with_summary(summary)
        .build())
}

fn missing(wanted: &[String], removed: &[DataFile]) -> Option<String> {
    let removed: HashSet<&str> = removed.iter().map(DataFile::file_path).collect();
    wanted
        .iter()
        .find(|location| !removed.contains(location.as_str()))
        .cloned()
}

struct SnapshotWriter<'a> {
    file_io: &'a FileIO,
    metadata: &'a TableMetadata,
    written: &'a Written,
    snapshot_id: i64,
    commit: Uuid,
    manifest_count: usize,
}

impl<'a> SnapshotWriter<'a> {
    fn new(file_io: &'a FileIO, metadata: &'a TableMetadata, written: &'a Written) -> Self {
        let snapshot_id = fresh_snapshot_id(metadata);
        Self {
            file_io,
            metadata,
            written,
            snapshot_id,
            commit: Uuid::now_v7(),
            manifest_count: 0,
        }
    }

    /// The current snapshot's manifests, newest first, without those in which nothing is alive.
    async fn current_manifests(&self, table: &str, before: &LoadedTable) -> Result<Vec<ManifestFile>, Error> {
        let Some(snapshot) = self.metadata.current_snapshot() else {
            return Ok(Vec::new());
        };
        let table = Table::builder()
            .identifier(TableIdent::from_strs([NAMESPACE, table])?)
            .metadata(before.metadata.clone())
            .file_io(self.file_io.clone())
            .runtime(Runtime::try_current()?)
            .disable_cache()
            .build()?;
        let list = table.manifest_list_reader(snapshot).load().await?;
        let mut manifests: Vec<ManifestFile> = list
            .consume_entries()
            .into_iter()
            .filter(|manifest| manifest.has_added_files() || manifest.has_existing_files())
            .collect();
        manifests.sort_by_key(|manifest| std::cmp::Reverse(manifest.sequence_number));
        Ok(manifests)
    }

    /// Takes the manifests that hold any of `locations` out of `manifests` and writes them anew without these.
    /// Returns the new manifests and the files that they mark as deleted.
    async fn remove(
        &mut self,
        manifests: &mut Vec<ManifestFile>,
        locations: &[String],
    ) -> Result<(Vec<ManifestFile>, Vec<DataFile>), Error> {
        let mut pending: HashSet<&str> = locations.iter().map(String::as_str).collect();
        let (mut kept, mut rewritten, mut removed) = (Vec::new(), Vec::new(), Vec::new());
        for file in std::mem::take(manifests) {
            if pending.is_empty() {
                kept.push(file);
                continue;
            }
            let manifest = file.load_manifest(self.file_io).await?;
            let found = removed.len();
            let gone = live(&manifest).filter(|entry| pending.remove(entry.file_path()));
            removed.extend(gone.map(|entry| entry.data_file().clone()));
            match removed.get(found..) {
                Some(gone) if !gone.is_empty() => {
                    rewritten.push(self.rewrite_without(&file, &manifest, gone).await?);
                }
                _ => kept.push(file),
            }
        }
        *manifests = kept;
        Ok((rewritten, removed))
    }

    async fn rewrite_without(
        &mut self,
        file: &ManifestFile,
        manifest: &Manifest,
        gone: &[DataFile],
    ) -> Result<ManifestFile, Error> {
        let gone: HashSet<&str> = gone.iter().map(DataFile::file_path).collect();
        let mut writer = self.manifest_writer(file.content, self.spec(file.partition_spec_id)?)?;
        for entry in live(manifest) {
            let position = Position::of(entry)?;
            if gone.contains(entry.file_path()) {
                writer.add_delete_file(
                    entry.data_file().clone(),
                    position.sequence_number,
                    position.file_sequence_number,
                )?;
            } else {
                position.add_existing(&mut writer, entry)?;
            }
        }
        writer.write_manifest_file().await
    }

    /// Merges the small manifests when there are many.
    async fn merge(&mut self, manifests: Vec<ManifestFile>) -> Result<Vec<ManifestFile>, Error> {
        let mut kept = Vec::new();
        let mut small: BTreeMap<(i32, bool), Vec<ManifestFile>> = BTreeMap::new();
        for manifest in manifests {
            if live_count(&manifest) >= MERGED_ENTRIES_MAX {
                kept.push(manifest);
                continue;
            }
            let is_data = manifest.content == ManifestContentType::Data;
            small
                .entry((manifest.partition_spec_id, is_data))
                .or_default()
                .push(manifest);
        }
        for group in small.into_values() {
            if group.len() < MERGE_MANIFESTS_MIN {
                kept.extend(group);
            } else {
                self.merge_group(group, &mut kept).await?;
            }
        }
        Ok(kept)
    }

    async fn merge_group(
        &mut self,
        group: Vec<ManifestFile>,
        out: &mut Vec<ManifestFile>,
    ) -> Result<(), Error> {
        let mut open: Option<ManifestWriter> = None;
        let mut count = 0;
        for file in group {
            let manifest = file.load_manifest(self.file_io).await?;
            for entry in live(&manifest) {
                let mut writer = match open.take() {
                    Some(writer) => writer,
                    None => self.manifest_writer(file.content, self.spec(file.partition_spec_id)?)?,
                };
                Position::of(entry)?.add_existing(&mut writer, entry)?;
                count += 1;
                if count == MERGED_ENTRIES_MAX {
                    out.push(writer.write_manifest_file().await?);
                    count = 0;
                } else {
                    open = Some(writer);
                }
            }
        }
        if let Some(writer) = open {
            out.push(writer.write_manifest_file().await?);
        }
        Ok(())
    }

    /// Writes the manifests of the added files: one for data, one for deletes.
    async fn add(&mut self, files: &[DataFile]) -> Result<Vec<ManifestFile>, Error> {
        let (data, deletes): (Vec<&DataFile>, Vec<&DataFile>) = files
            .iter()
            .partition(|file| file.content_type() == DataContentType::Data);
        let mut manifests = Vec::new();
        for (content, files) in [
            (ManifestContentType::Data, data),
            (ManifestContentType::Deletes, deletes),
        ] {
            if files.is_empty() {
                continue;
            }
            let spec = self.spec(WRITE_SPEC_ID)?;
            let fields = spec.fields().len();
            let mut writer = self.manifest_writer(content, spec)?;
            for file in files {
                if file.partition().fields().len() != fields {
                    let text = format!("{} does not name the table's partition", file.file_path());
                    return Err(Error::new(ErrorKind::DataInvalid, text));
                }
                // Below zero: the sequence number is that of the snapshot.
                writer.add_file(file.clone(), -1)?;
            }
            manifests.push(writer.write_manifest_file().await?);
        }
        Ok(manifests)
    }

    async fn list(&self, manifests: Vec<ManifestFile>) -> Result<String, Error> {
        let file = format!("snap-{}-0-{}.avro", self.snapshot_id, self.commit);
        let location = self.metadata_file(&file);
        self.written.add(location.clone());
        let output = self.file_io.new_output(&location)?.writer().await?;
        let parent = self.metadata.current_snapshot_id();
        let sequence = self.metadata.next_sequence_number();
        let mut writer = ManifestListWriter::v2(output, self.snapshot_id, parent, sequence);
        writer.add_manifests(manifests.into_iter())?;
        writer.close().await?;
        Ok(location)
    }

    fn manifest_writer(
        &mut self,
        content: ManifestContentType,
        spec: PartitionSpecRef,
    ) -> Result<ManifestWriter, Error> {
        let location = self.metadata_file(&format!("{}-m{}.avro", self.commit, self.manifest_count));
        self.manifest_count += 1;
        self.written.add(location.clone());
        let output = self.file_io.new_output(&location)?;
        let schema = self.metadata.current_schema().clone();
        let builder = ManifestWriterBuilder::new(output, Some(self.snapshot_id), schema, (*spec).clone());
        Ok(match content {
            ManifestContentType::Data => builder.build_v2_data(),
            ManifestContentType::Deletes => builder.build_v2_deletes(),
        })
    }

    fn spec(&self, id: i32) -> Result<PartitionSpecRef, Error> {
        let spec = self.metadata.partition_spec_by_id(id).cloned();
        spec.ok_or_else(|| Error::new(ErrorKind::DataInvalid, format!("there is no partition spec {id}")))
    }

    fn metadata_file(&self, name: &str) -> String {
        format!("{}/metadata/{name}", self.metadata.location())
    }
}

fn live(manifest: &Manifest) -> impl Iterator<Item = &ManifestEntry> {
    manifest
        .entries()
        .iter()
        .map(|entry| &**entry)
        .filter(|entry| entry.is_alive())
}

fn live_count(manifest: &ManifestFile) -> usize {
    let unknown_is_many = |count: Option<u32>| count.map_or(MERGED_ENTRIES_MAX, |count| count as usize);
    unknown_is_many(manifest.added_files_count) + unknown_is_many(manifest.existing_files_count)
}

/// When a file came into the table; kept when its manifest is written anew.
struct Position {
    snapshot_id: i64,
    sequence_number: i64,
    file_sequence_number: Option<i64>,
}

impl Position {
    fn of(entry: &ManifestEntry) -> Result<Self, Error> {
        let lacking = || {
            let text = format!(
                "the manifest entry of {} has no snapshot or sequence number",
                entry.file_path()
            );
            Error::new(ErrorKind::DataInvalid, text)
        };
        Ok(Self {
            snapshot_id: entry.snapshot_id().ok_or_else(lacking)?,
            sequence_number: entry.sequence_number().ok_or_else(lacking)?,
            file_sequence_number: entry.file_sequence_number,
        })
    }

    fn add_existing(&self, writer: &mut ManifestWriter, entry: &ManifestEntry) -> Result<(), Error> {
        let file = entry.data_file().clone();
        writer.add_existing_file(
            file,
            self.snapshot_id,
            self.sequence_number,
            self.file_sequence_number,
        )
    }
}

fn fresh_snapshot_id(metadata: &TableMetadata) -> i64 {
    loop {
        let (high, low) = Uuid::new_v4().as_u64_pair();
        let id = (high ^ low).cast_signed() & i64::MAX;
        if id > 0 && metadata.snapshot_by_id(id).is_none() {
            return id;
        }
    }
}

fn summary(metadata: &TableMetadata, change: &TableChange, removed: &[DataFile]) -> Summary {
    let mut collector = SnapshotSummaryCollector::default();
    let (schema, spec) = (metadata.current_schema(), metadata.default_partition_spec());
    for file in &change.add {
        collector.add_file(file, schema.clone(), spec.clone());
    }
    for file in removed {
        collector.remove_file(file, schema.clone(), spec.clone());
    }
    // Figures win over entries of the caller's with the same key.
    let mut entries: HashMap<String, String> = change.summary.clone().into_iter().collect();
    entries.extend(collector.build());
    let previous = metadata
        .current_snapshot()
        .map(|snapshot| &snapshot.summary().additional_properties);
    for (total, added, removed) in TOTALS {
        let figure = |key: &str| {
            entries
                .get(key)
                .and_then(|text| text.parse::<u64>().ok())
                .unwrap_or(0)
        };
        // A snapshot of another writer may lack a total; then it is unknown from there on.
        let before = match previous {
            None => Some(0),
            Some(entries) => entries.get(total).and_then(|text| text.parse::<u64>().ok()),
        };
        let after = before.and_then(|count| (count + figure(added)).checked_sub(figure(removed)));
        if let Some(after) = after {
            entries.insert(total.to_owned(), after.to_string());
        }
    }
    let operation = match (change.add.is_empty(), change.remove.is_empty()) {
        (_, true) => Operation::Append,
        (true, false) => Operation::Delete,
        (false, false) => Operation::Overwrite,
    };
    Summary {
        operation,
        additional_properties: entries,
    }
}
