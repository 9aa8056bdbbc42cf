//! A table's next metadata file: properties, the new snapshot, and what falls out of history.

use std::collections::BTreeMap;
use std::str::FromStr;

use iceberg::spec::{MAIN_BRANCH, Snapshot, TableMetadata};
use iceberg::{Error, ErrorKind, MetadataLocation, Result};
use serde_json::{Value, json};

use crate::catalog::LoadedTable;
use crate::clock;

/// Snapshots that stay in a table's metadata.
pub(super) const SNAPSHOTS_MAX: usize = 100;

const DELETE_EXPIRED_METADATA: &str = "write.metadata.delete-after-commit.enabled";
const PREVIOUS_VERSIONS_MAX: &str = "write.metadata.previous-versions-max";
const PREVIOUS_VERSIONS_MAX_DEFAULT: usize = 100;

pub(super) struct NextMetadata {
    pub(super) metadata: TableMetadata,
    pub(super) location: MetadataLocation,
    /// Metadata files that nothing names any more once the table is here.
    pub(super) expired_metadata: Vec<String>,
}

/// The time of the next change of the table: the wall clock's, or that of the last change when the clock went back,
/// because readers refuse history that runs backwards.
pub(super) fn change_time_ms(before: &TableMetadata) -> i64 {
    (clock::now().0 / 1000).max(before.last_updated_ms())
}

/// The metadata after `before` with `properties` set and, if given, `snapshot` as the current one.
pub(super) fn next(
    before: &LoadedTable,
    snapshot: Option<Snapshot>,
    properties: &BTreeMap<String, String>,
) -> Result<NextMetadata> {
    let metadata = match snapshot {
        Some(snapshot) => with_snapshot(before, snapshot, properties)?,
        None => with_properties(before, properties)?,
    };
    let location = MetadataLocation::from_str(&before.metadata_location)
        .unwrap_or_else(|_| MetadataLocation::new_with_metadata(metadata.location(), &metadata))
        .with_next_version()
        .with_new_metadata(&metadata);
    let expired_metadata = expired(&before.metadata, &metadata);
    Ok(NextMetadata {
        metadata,
        location,
        expired_metadata,
    })
}

fn with_snapshot(
    before: &LoadedTable,
    snapshot: Snapshot,
    properties: &BTreeMap<String, String>,
) -> Result<TableMetadata> {
    let old = &before.metadata;
    let excess = snapshots_to_forget(old);
    let properties = properties.clone().into_iter().collect();
    let built = (**old)
        .clone()
        .into_builder(Some(before.metadata_location.clone()))
        .set_properties(properties)?
        .set_branch_snapshot(snapshot, MAIN_BRANCH)?
        .remove_snapshots(&excess)
        .build()?;
    Ok(built.metadata)
}

/// The oldest snapshots, so that with one more there are no more than [`SNAPSHOTS_MAX`]. Those that a branch or tag
/// names stay.
fn snapshots_to_forget(metadata: &TableMetadata) -> Vec<i64> {
    let count = metadata.snapshots().len();
    let excess = (count + 1).saturating_sub(SNAPSHOTS_MAX);
    if excess == 0 {
        return Vec::new();
    }
    let mut by_age: Vec<(i64, i64)> = metadata
        .snapshots()
        .map(|snapshot| (snapshot.sequence_number(), snapshot.snapshot_id()))
        .collect();
    by_age.sort_unstable();
    let named = named_snapshots(metadata);
    by_age
        .into_iter()
        .map(|(_, id)| id)
        .filter(|id| !named.contains(id))
        .take(excess)
        .collect()
}

/// The snapshots that a branch or a tag names, but for `main`, which moves on.
fn named_snapshots(metadata: &TableMetadata) -> Vec<i64> {
    let value = serde_json::to_value(metadata).unwrap_or_default();
    let refs = value.get("refs").and_then(Value::as_object);
    let others = refs
        .into_iter()
        .flatten()
        .filter(|(name, _)| name.as_str() != MAIN_BRANCH);
    others
        .filter_map(|(_, name)| name.get("snapshot-id")?.as_i64())
        .collect()
}

/// Only properties change. Written as JSON because Iceberg's builder takes the wall clock here, and refuses to go on
/// when that went back.
fn with_properties(before: &LoadedTable, properties: &BTreeMap<String, String>) -> Result<TableMetadata> {
    let old = &before.metadata;
    let mut value = serde_json::to_value(&**old)?;
    let fields = value
        .as_object_mut()
        .ok_or_else(|| Error::new(ErrorKind::Unexpected, "table metadata is not a JSON object"))?;
    let all = fields.entry("properties").or_insert_with(|| json!({}));
    if let Some(all) = all.as_object_mut() {
        all.extend(
            properties
                .iter()
                .map(|(key, text)| (key.clone(), Value::from(text.as_str()))),
        );
    }
    let versions_max = previous_versions_max(old);
    let log = fields.entry("metadata-log").or_insert_with(|| json!([]));
    if let Some(log) = log.as_array_mut() {
        let entry = json!({
            "metadata-file": before.metadata_location,
            "timestamp-ms": old.last_updated_ms(),
        });
        log.push(entry);
        log.drain(..log.len().saturating_sub(versions_max));
    }
    fields.insert("last-updated-ms".to_owned(), Value::from(change_time_ms(old)));
    Ok(serde_json::from_value(value)?)
}

fn previous_versions_max(metadata: &TableMetadata) -> usize {
    let set = metadata
        .properties()
        .get(PREVIOUS_VERSIONS_MAX)
        .and_then(|text| text.parse().ok());
    set.unwrap_or(PREVIOUS_VERSIONS_MAX_DEFAULT).max(1)
}

fn expired(before: &TableMetadata, after: &TableMetadata) -> Vec<String> {
    if after
        .properties()
        .get(DELETE_EXPIRED_METADATA)
        .map(String::as_str)
        != Some("true")
    {
        return Vec::new();
    }
    let named = |file: &str| {
        after
            .metadata_log()
            .iter()
            .any(|entry| entry.metadata_file == file)
    };
    let logged = before.metadata_log().iter().map(|entry| &entry.metadata_file);
    logged.filter(|file| !named(file)).cloned().collect()
}
