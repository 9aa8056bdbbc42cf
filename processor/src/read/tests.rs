use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray, new_null_array};
use iceberg::expr::Reference;
use iceberg::spec::Datum;
use iceberg::writer::file_writer::{FileWriter, FileWriterBuilder, ParquetWriterBuilder};
use parquet::file::properties::WriterProperties;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;
use crate::catalog::LakeOptions;
use crate::commit::TableChange;
use crate::tables::TableSpec;

const DAY: i32 = 20_284;

async fn disk_lake() -> (tempfile::TempDir, Lake) {
    let dir = tempfile::tempdir().unwrap();
    let options = LakeOptions {
        warehouse: Warehouse::Local(dir.path().join("warehouse")),
        catalog: dir.path().join("catalog.db"),
    };
    let lake = Lake::open(options).await.unwrap();
    lake.ensure_table(&TableSpec::window("readings_1m"))
        .await
        .unwrap();
    (dir, lake)
}

/// A file of windows with these counts.
async fn windows(lake: &Lake, counts: &[i64]) -> DataFile {
    let spec = TableSpec::window("readings_1m");
    let schema = spec.arrow_schema();
    let start = vec![i64::from(DAY) * 86_400_000_000; counts.len()];
    let columns = schema.fields().iter().map(|field| -> ArrayRef {
        match field.name().as_str() {
            "window_start" | "window_end" => {
                Arc::new(TimestampMicrosecondArray::from(start.clone()).with_timezone("+00:00"))
            }
            "device_id" | "sensor" | "metric" => Arc::new(StringArray::from(vec!["x"; counts.len()])),
            "count" => Arc::new(Int64Array::from(counts.to_vec())),
            _ => new_null_array(field.data_type(), counts.len()),
        }
    });
    let batch = RecordBatch::try_new(schema.clone(), columns.collect()).unwrap();
    let output = lake
        .storage()
        .file_io()
        .new_output(lake.data_location(&spec.name, Some(DAY)))
        .unwrap();
    let builder = ParquetWriterBuilder::new(WriterProperties::default(), spec.schema.clone());
    let mut writer = builder.build(output).await.unwrap();
    writer.write(&batch).await.unwrap();
    let mut built = writer.close().await.unwrap();
    built[0]
        .content(DataContentType::Data)
        .partition(spec.partition(DAY))
        .partition_spec_id(0)
        .build()
        .unwrap()
}

async fn counts(table: &ReadTable, predicate: Predicate) -> Vec<i64> {
    let batches: Vec<RecordBatch> = table
        .scan_where(&["count"], predicate)
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    let column = |batch: &RecordBatch| {
        batch
            .column(0)
            .as_any()
            .downcast_ref::<Int64Array>()
            .unwrap()
            .clone()
    };
    let mut all: Vec<i64> = batches
        .iter()
        .flat_map(|batch| column(batch).values().to_vec())
        .collect();
    all.sort_unstable();
    all
}

async fn commit(lake: &Lake, add: Vec<DataFile>, remove: Vec<String>) {
    let epoch = lake.claim_writer().await.unwrap();
    let change = TableChange {
        table: "readings_1m".into(),
        add,
        remove,
        ..TableChange::default()
    };
    lake.commit(epoch, vec![change]).await.unwrap();
}

#[tokio::test]
async fn rows_come_back_and_an_older_view_stays_as_it_was() {
    let (_dir, lake) = disk_lake().await;
    let empty = lake.read_table("readings_1m").await.unwrap();
    assert_eq!(counts(&empty, Predicate::AlwaysTrue).await, Vec::<i64>::new());
    let (a, b) = (windows(&lake, &[1, 2]).await, windows(&lake, &[3]).await);
    let gone = a.file_path().to_owned();
    commit(&lake, vec![a, b], vec![]).await;
    let first = lake.read_table("readings_1m").await.unwrap();
    assert_eq!(counts(&first, Predicate::AlwaysTrue).await, [1, 2, 3]);
    let above = Reference::new("count").greater_than(Datum::long(1));
    assert_eq!(counts(&first, above).await, [2, 3]);
    let c = windows(&lake, &[20]).await;
    commit(&lake, vec![c], vec![gone.clone()]).await;
    let second = lake.read_table("readings_1m").await.unwrap();
    assert_eq!(counts(&second, Predicate::AlwaysTrue).await, [3, 20]);
    assert_eq!(counts(&first, Predicate::AlwaysTrue).await, [1, 2, 3]);
    let operations: Vec<String> = second
        .snapshots()
        .into_iter()
        .map(|snapshot| snapshot.operation)
        .collect();
    assert_eq!(operations, ["append", "overwrite"]);
    let files: Vec<FileInfo> = second.files().try_collect().await.unwrap();
    assert_eq!(files.len(), 2);
    for file in &files {
        assert_eq!((file.record_count, file.content), (1, DataContentType::Data));
        assert_eq!(file.partition, "window_start_day=2025-07-15");
        assert_ne!(file.location, gone);
        let size = std::fs::metadata(file.location.trim_start_matches("file://"))
            .unwrap()
            .len();
        assert_eq!(file.size_bytes, size);
    }
}

#[tokio::test]
async fn a_table_opens_through_the_rest_catalog() {
    let (_dir, lake) = disk_lake().await;
    let file = windows(&lake, &[5, 6]).await;
    commit(&lake, vec![file], vec![]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/catalog/", listener.local_addr().unwrap());
    let app = axum::Router::new().nest("/catalog", lake.rest_router());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, app).await.unwrap() });
    let table = open_rest(&uri, "readings_1m").await.unwrap();
    assert_eq!(counts(&table, Predicate::AlwaysTrue).await, [5, 6]);
    assert_eq!(table.properties()["tarn.format-version"], "1");
    let error = open_rest(&uri, "none").await.unwrap_err().to_string();
    assert!(
        error.ends_with("404 Not Found Table does not exist: iot.none"),
        "{error}"
    );
    tasks.shutdown().await;
    let error = open_rest(&uri, "readings_1m").await.unwrap_err();
    assert!(matches!(error, ReadError::Catalog { .. }), "{error}");
}

#[tokio::test]
async fn a_newer_table_is_refused() {
    let (_dir, lake) = disk_lake().await;
    let epoch = lake.claim_writer().await.unwrap();
    let mut change = TableChange {
        table: "readings_1m".into(),
        ..TableChange::default()
    };
    change
        .set_properties
        .insert("tarn.format-version".into(), "2".into());
    lake.commit(epoch, vec![change]).await.unwrap();
    let (_, lake) = (lake.clone(), Lake::open(reopened(&lake)).await.unwrap());
    let error = lake
        .ensure_table(&TableSpec::window("readings_1m"))
        .await
        .unwrap_err();
    expect_test::expect!["table readings_1m has format version 2, this version of tarn reads up to 1: upgrade tarn, or restore a backup made before the upgrade"].assert_eq(&error.to_string());
}

fn reopened(lake: &Lake) -> LakeOptions {
    let warehouse = std::path::PathBuf::from(lake.storage().root().trim_start_matches("file://"));
    let catalog = warehouse.parent().unwrap().join("catalog.db");
    LakeOptions {
        warehouse: Warehouse::Local(warehouse),
        catalog,
    }
}
