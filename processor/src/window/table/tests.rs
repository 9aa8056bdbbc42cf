//! What a commit reads of a window table.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::*;
use crate::catalog::sqlite::SqliteCatalog;
use crate::commit::TableChange;
use crate::commit::tests::fault::counting;
use crate::storage::{LakeStorage, Warehouse};
use crate::tables::TableSpec;
use crate::window::{Point, merge_into};

const MINUTE: i64 = 60_000_000;

fn delta(hasher: &SeriesHasher, readings: impl Iterator<Item = (i64, String)>) -> WindowDelta {
    let mut delta = WindowDelta::new(MINUTE);
    for (minute, device) in readings {
        let point = Point {
            ts: UnixMicros(minute * MINUTE),
            value: 1.0,
        };
        delta.add(&hasher.series(&device, "s", "m"), point, None);
    }
    delta
}

/// Rows whose windows lie between those of two files, as after another writer's compaction, are looked for in both; the
/// files are read once for all of them.
#[tokio::test]
async fn each_file_is_looked_into_once() {
    let dir = tempfile::tempdir().unwrap();
    let reads = Arc::new(AtomicI64::new(0));
    let storage = counting(&LakeStorage::open(Warehouse::Memory).unwrap(), reads.clone());
    let catalog = SqliteCatalog::open(&dir.path().join("catalog.db")).await.unwrap();
    let lake = Lake::over(storage, catalog);
    let spec = TableSpec::window("w");
    lake.ensure_table(&spec).await.unwrap();
    let epoch = lake.claim_writer().await.unwrap();
    let (hasher, format) = (SeriesHasher::default(), FileFormat::new(spec));

    let mut expected = Rows::default();
    let mut change = TableChange {
        table: "w".to_owned(),
        ..TableChange::default()
    };
    for odd in 0..2 {
        let rows = delta(
            &hasher,
            (0..50).map(|n| (2 * n + odd, format!("d{:03}", 2 * n + odd))),
        );
        let rows: Vec<_> = rows.rows().clone().into_iter().collect();
        expected.extend(rows.iter().cloned());
        let batch = to_batch(&format.arrow, MINUTE, &rows).unwrap();
        change.add.push(format.write(&lake, 0, &[batch]).await.unwrap());
    }
    lake.commit(epoch, vec![change]).await.unwrap();

    let limits = Limits {
        file_rows_max: 10,
        open_rows_max: 10,
    };
    let mut table = WindowTable::new(format, MINUTE, limits, hasher.clone());
    let late = delta(&hasher, (5..60).map(|n| (n, format!("d{n:03}"))));
    for (key, row) in late.rows() {
        merge_into(&mut expected, key, row);
    }
    let done = table.prepare(&lake, &late, &mut Vec::new()).await.unwrap();
    assert!(reads.load(Ordering::SeqCst) <= 4, "{reads:?} reads of two files");

    assert_eq!(done.remove.len(), 2);
    let mut found = Rows::default();
    for file in &done.add {
        for (key, row) in table.load(&lake, file.file_path()).await.unwrap() {
            assert!(found.insert(key, row).is_none(), "a second row of a key");
        }
    }
    assert_eq!(found, expected);
}
