//! The committer against a naive model, with crashes at every step; fencing; history; merging.

mod crashes;
pub(crate) mod fault;
mod model;

use std::collections::BTreeSet;

use futures::TryStreamExt;
use iceberg::spec::{DataContentType, DataFileBuilder, DataFileFormat};

use super::*;
use crate::catalog::sqlite::SqliteCatalog;
use crate::storage::{LakeStorage, Warehouse};
use crate::tables::TableSpec;

/// Rows of every file in these tests.
const ROWS: u64 = 10;

async fn memory_lake() -> (tempfile::TempDir, Lake) {
    let dir = tempfile::tempdir().unwrap();
    let catalog = SqliteCatalog::open(&dir.path().join("catalog.db")).await.unwrap();
    let lake = Lake::over(LakeStorage::open(Warehouse::Memory).unwrap(), catalog);
    for spec in specs() {
        lake.ensure_table(&spec).await.unwrap();
    }
    (dir, lake)
}

fn specs() -> [TableSpec; 3] {
    [
        TableSpec::readings(),
        TableSpec::window("readings_1m"),
        TableSpec::dead_letters(),
    ]
}

/// A data file that exists in name only: the committer does not look inside.
fn file(location: &str, day: i32) -> DataFile {
    DataFileBuilder::default()
        .content(DataContentType::Data)
        .file_path(location.to_owned())
        .file_format(DataFileFormat::Parquet)
        .partition(TableSpec::readings().partition(day))
        .record_count(ROWS)
        .file_size_in_bytes(1000)
        .build()
        .unwrap()
}

fn adding(table: &str, locations: &[&str]) -> TableChange {
    let add = locations.iter().map(|location| file(location, 20_000)).collect();
    TableChange {
        table: table.to_owned(),
        add,
        ..TableChange::default()
    }
}

fn replacing(table: &str, remove: &[&str], add: &[&str]) -> TableChange {
    let remove = remove.iter().map(|location| (*location).to_owned()).collect();
    TableChange {
        remove,
        ..adding(table, add)
    }
}

/// The live files as iceberg's own scan planner sees them.
async fn planned(lake: &Lake, table: &str) -> BTreeSet<String> {
    let loaded = lake.load(table).await.unwrap();
    let table = iceberg::table::Table::builder()
        .identifier(iceberg::TableIdent::from_strs([NAMESPACE, table]).unwrap())
        .metadata(loaded.metadata)
        .file_io(lake.inner.file_io.clone())
        .runtime(iceberg::Runtime::try_current().unwrap())
        .build()
        .unwrap();
    let tasks: Vec<_> = table
        .scan()
        .build()
        .unwrap()
        .plan_files()
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    let files: BTreeSet<String> = tasks.iter().map(|task| task.data_file_path.clone()).collect();
    assert_eq!(files.len(), tasks.len(), "a file is planned twice");
    files
}

/// Files of the warehouse that no table's metadata names.
async fn orphans(lake: &Lake) -> BTreeSet<String> {
    let mut files = fault::stored(lake.storage()).await;
    let mut named = |location: &str| files.remove(lake.storage().path(location).unwrap().as_ref());
    for spec in specs() {
        let loaded = lake.load(&spec.name).await.unwrap();
        named(&loaded.metadata_location);
        for entry in loaded.metadata.metadata_log() {
            named(&entry.metadata_file);
        }
        for snapshot in loaded.metadata.snapshots() {
            let bytes = lake.storage().get(snapshot.manifest_list()).await.unwrap();
            named(snapshot.manifest_list());
            let version = iceberg::spec::FormatVersion::V2;
            let list = iceberg::spec::ManifestList::parse_with_version(&bytes, version).unwrap();
            for manifest in list.entries() {
                named(&manifest.manifest_path);
            }
        }
    }
    files
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn a_commit_moves_all_tables_and_carries_totals() {
    let (_dir, lake) = memory_lake().await;
    let epoch = lake.claim_writer().await.unwrap();
    let mut readings = adding("readings", &["m:/a", "m:/b"]);
    readings
        .set_properties
        .insert("tarn.watermark.S".into(), "1".into());
    readings.summary.insert("tarn.watermark.S".into(), "1".into());
    readings.summary.insert("added-records".into(), "a lie".into());
    let mut letters = TableChange {
        table: "dead_letters".into(),
        ..TableChange::default()
    };
    letters
        .set_properties
        .insert("tarn.watermark.S".into(), "1".into());
    let done = lake.commit(epoch, vec![readings, letters]).await.unwrap();
    assert!(done.tables[0].snapshot_id.is_some());
    assert_eq!(done.tables[1].snapshot_id, None);
    for table in ["readings", "dead_letters"] {
        let loaded = lake.load(table).await.unwrap();
        assert_eq!(loaded.metadata.properties()["tarn.watermark.S"], "1");
    }
    lake.commit(epoch, vec![replacing("readings", &["m:/a"], &["m:/c", "m:/d"])])
        .await
        .unwrap();
    let read = lake.read_table("readings").await.unwrap();
    let mut text = String::new();
    for snapshot in read.snapshots() {
        text.push_str(&format!("{}\n", snapshot.operation));
        for (key, value) in snapshot.summary {
            text.push_str(&format!("  {key}={value}\n"));
        }
    }
    expect_test::expect![[r#"
        append
          added-data-files=2
          added-files-size=2000
          added-records=20
          changed-partition-count=1
          tarn.watermark.S=1
          total-data-files=2
          total-delete-files=0
          total-equality-deletes=0
          total-files-size=2000
          total-position-deletes=0
          total-records=20
        overwrite
          added-data-files=2
          added-files-size=2000
          added-records=20
          changed-partition-count=1
          deleted-data-files=1
          deleted-records=10
          removed-files-size=1000
          total-data-files=3
          total-delete-files=0
          total-equality-deletes=0
          total-files-size=3000
          total-position-deletes=0
          total-records=30
    "#]]
    .assert_eq(&text);
    assert_eq!(planned(&lake, "readings").await, set(&["m:/b", "m:/c", "m:/d"]));
    assert_eq!(planned(&lake, "dead_letters").await, set(&[]));
}

#[tokio::test]
async fn a_removed_file_must_be_there() {
    let (_dir, lake) = memory_lake().await;
    let epoch = lake.claim_writer().await.unwrap();
    lake.commit(epoch, vec![adding("readings", &["m:/a"])])
        .await
        .unwrap();
    let changes = vec![
        adding("dead_letters", &["m:/x"]),
        replacing("readings", &["m:/gone"], &["m:/b"]),
    ];
    let error = lake.commit(epoch, changes).await.unwrap_err();
    assert!(
        matches!(&error, CommitError::NoSuchFile { location, .. } if location == "m:/gone"),
        "{error}"
    );
    assert!(error.is_certain());
    assert_eq!(planned(&lake, "readings").await, set(&["m:/a"]));
    assert_eq!(planned(&lake, "dead_letters").await, set(&[]));
    let twice = vec![adding("readings", &["m:/c"]), adding("readings", &["m:/d"])];
    let error = lake.commit(epoch, twice).await.unwrap_err();
    assert!(matches!(error, CommitError::NamedTwice { .. }), "{error}");
    let error = lake
        .commit(epoch, vec![adding("none", &["m:/d"])])
        .await
        .unwrap_err();
    assert!(
        matches!(error, CommitError::Lake(LakeError::NoSuchTable { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn a_stale_writer_is_fenced_and_leaves_no_files() {
    let (dir, first) = memory_lake().await;
    let catalog = SqliteCatalog::open(&dir.path().join("catalog.db")).await.unwrap();
    let second = Lake::over(first.storage().clone(), catalog);
    let old = first.claim_writer().await.unwrap();
    first
        .commit(old, vec![adding("readings", &["m:/a"])])
        .await
        .unwrap();
    let new = second.claim_writer().await.unwrap();
    let before = fault::stored(first.storage()).await;
    let error = first
        .commit(old, vec![adding("readings", &["m:/b"])])
        .await
        .unwrap_err();
    assert!(matches!(error, CommitError::Fenced { .. }), "{error}");
    assert_eq!(fault::stored(first.storage()).await, before);
    second
        .commit(new, vec![adding("readings", &["m:/c"])])
        .await
        .unwrap();
    assert_eq!(planned(&first, "readings").await, set(&["m:/a", "m:/c"]));
}

#[tokio::test]
async fn two_processes_of_one_epoch_rebase_on_each_other() {
    let (dir, first) = memory_lake().await;
    let catalog = SqliteCatalog::open(&dir.path().join("catalog.db")).await.unwrap();
    let second = Lake::over(first.storage().clone(), catalog);
    let epoch = first.claim_writer().await.unwrap();
    let (a, b) = futures::join!(
        first.commit(epoch, vec![adding("readings", &["m:/a"])]),
        second.commit(epoch, vec![adding("readings", &["m:/b"])]),
    );
    a.unwrap();
    b.unwrap();
    assert_eq!(planned(&first, "readings").await, set(&["m:/a", "m:/b"]));
    assert_eq!(orphans(&first).await, set(&[]));
}

#[tokio::test]
async fn a_commit_that_may_stand_keeps_its_files_and_says_so() {
    let (dir, lake) = memory_lake().await;
    let epoch = lake.claim_writer().await.unwrap();
    let before = fault::stored(lake.storage()).await;
    // A violation that SQLite only looks at when it commits.
    let saboteur = rusqlite::Connection::open(dir.path().join("catalog.db")).unwrap();
    saboteur
        .execute_batch(
            "CREATE TABLE parent (id INTEGER PRIMARY KEY);
             CREATE TABLE child (id INTEGER REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED);
             CREATE TRIGGER spoil AFTER UPDATE ON iceberg_tables BEGIN INSERT INTO child VALUES (7); END;",
        )
        .unwrap();
    let error = lake
        .commit(epoch, vec![adding("readings", &["m:/a"])])
        .await
        .unwrap_err();
    assert!(matches!(error, CommitError::Unknown(_)), "{error}");
    assert!(!error.is_certain());
    assert_eq!(planned(&lake, "readings").await, set(&[]));
    assert_eq!(fault::stored(lake.storage()).await.len(), before.len() + 3);
    saboteur.execute_batch("DROP TRIGGER spoil").unwrap();
    lake.commit(epoch, vec![adding("readings", &["m:/b"])])
        .await
        .unwrap();
    assert_eq!(planned(&lake, "readings").await, set(&["m:/b"]));
}

#[tokio::test]
async fn history_and_manifests_stay_bounded() {
    let (_dir, lake) = memory_lake().await;
    let epoch = lake.claim_writer().await.unwrap();
    let mut expected = BTreeSet::new();
    for i in 0..230 {
        let name = format!("m:/{i}");
        lake.commit(epoch, vec![adding("readings", &[&name])])
            .await
            .unwrap();
        expected.insert(name);
    }
    let loaded = lake.load("readings").await.unwrap();
    assert_eq!(loaded.metadata.snapshots().len(), metadata::SNAPSHOTS_MAX);
    assert_eq!(loaded.metadata.history().len(), metadata::SNAPSHOTS_MAX);
    assert_eq!(loaded.metadata.metadata_log().len(), 10);
    let stored = fault::stored(lake.storage()).await;
    let metadata_files = stored
        .iter()
        .filter(|path| path.contains("readings/") && path.ends_with(".json"));
    assert_eq!(metadata_files.count(), 11);
    let summary = &loaded
        .metadata
        .current_snapshot()
        .unwrap()
        .summary()
        .additional_properties;
    assert_eq!(summary["total-records"], (230 * ROWS).to_string());
    let read = lake.read_table("readings").await.unwrap();
    let manifests = read.manifest_count().await.unwrap();
    assert!(manifests <= snapshot::MERGE_MANIFESTS_MIN, "{manifests}");
    assert_eq!(planned(&lake, "readings").await, expected);
}

#[tokio::test]
async fn a_file_in_a_merged_manifest_can_be_removed() {
    let (_dir, lake) = memory_lake().await;
    let epoch = lake.claim_writer().await.unwrap();
    let names: Vec<String> = (0..103).map(|i| format!("m:/{i}")).collect();
    for name in &names {
        lake.commit(epoch, vec![adding("readings", &[name])])
            .await
            .unwrap();
    }
    lake.commit(
        epoch,
        vec![replacing("readings", &["m:/7", "m:/102"], &["m:/new"])],
    )
    .await
    .unwrap();
    lake.commit(epoch, vec![replacing("readings", &["m:/8"], &[])])
        .await
        .unwrap();
    let mut expected: BTreeSet<String> = names.into_iter().collect();
    for gone in ["m:/7", "m:/102", "m:/8"] {
        expected.remove(gone);
    }
    expected.insert("m:/new".to_owned());
    assert_eq!(planned(&lake, "readings").await, expected);
}

#[tokio::test]
async fn a_change_that_says_nothing_changes_nothing() {
    let (_dir, lake) = memory_lake().await;
    let epoch = lake.claim_writer().await.unwrap();
    let before = fault::stored(lake.storage()).await;
    let nothing = TableChange {
        table: "readings".into(),
        ..TableChange::default()
    };
    let done = lake.commit(epoch, vec![nothing]).await.unwrap();
    let at = lake.load("readings").await.unwrap().metadata_location;
    assert_eq!(done.tables[0].metadata_location, at);
    assert_eq!(fault::stored(lake.storage()).await, before);
}

#[tokio::test]
async fn a_clock_that_went_back_does_not_stop_commits() {
    let (_dir, lake) = memory_lake().await;
    let epoch = lake.claim_writer().await.unwrap();
    lake.commit(epoch, vec![adding("readings", &["m:/a"])])
        .await
        .unwrap();
    let mut loaded = lake.load("readings").await.unwrap();
    let mut ahead = serde_json::to_value(&*loaded.metadata).unwrap();
    let hour = loaded.metadata.last_updated_ms() + 3_600_000;
    ahead["last-updated-ms"] = hour.into();
    ahead["snapshots"][0]["timestamp-ms"] = hour.into();
    ahead["snapshot-log"][0]["timestamp-ms"] = hour.into();
    loaded.metadata = std::sync::Arc::new(serde_json::from_value(ahead).unwrap());
    lake.remember("readings", loaded);
    let mut mark = TableChange {
        table: "readings".into(),
        ..TableChange::default()
    };
    mark.set_properties.insert("k".into(), "v".into());
    lake.commit(epoch, vec![mark]).await.unwrap();
    lake.commit(epoch, vec![adding("readings", &["m:/b"])])
        .await
        .unwrap();
    let text = lake.load("readings").await.unwrap();
    let again: iceberg::spec::TableMetadata =
        serde_json::from_slice(&lake.storage().get(&text.metadata_location).await.unwrap()).unwrap();
    assert!(again.last_updated_ms() >= hour);
    assert_eq!(planned(&lake, "readings").await, set(&["m:/a", "m:/b"]));
}
