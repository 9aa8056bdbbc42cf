//! A writer that is killed at every step of a commit, and killed again at every step of its next try.
//!
//! The writer does what the pipeline does: after a start it reads the watermark, and commits what lies above it. In the
//! end every file is in its table once, whatever was killed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use object_store::memory::InMemory;

use super::*;
use crate::catalog::sqlite::SqliteCatalog;

/// Commits before the one that is disturbed: so many that it also deletes an old metadata file of each table.
const BEFORE: usize = 12;

/// A lake after [`BEFORE`] commits, to be copied.
struct Base {
    dir: tempfile::TempDir,
    store: Arc<InMemory>,
}

impl Base {
    async fn new() -> Self {
        let base = Self {
            dir: tempfile::tempdir().unwrap(),
            store: Arc::new(InMemory::new()),
        };
        let storage = LakeStorage::over(Warehouse::Memory, "memory://", base.store.clone());
        let lake = open(storage, &base.dir.path().join("catalog.db")).await;
        for spec in specs() {
            lake.ensure_table(&spec).await.unwrap();
        }
        let epoch = lake.claim_writer().await.unwrap();
        for number in 0..BEFORE {
            lake.commit(epoch, changes(number)).await.unwrap();
        }
        base
    }

    /// A copy with a life of its own.
    fn copy(&self) -> (tempfile::TempDir, LakeStorage) {
        let dir = tempfile::tempdir().unwrap();
        for name in ["catalog.db", "catalog.db-wal"] {
            let from = self.dir.path().join(name);
            if from.exists() {
                std::fs::copy(from, dir.path().join(name)).unwrap();
            }
        }
        (
            dir,
            LakeStorage::over(Warehouse::Memory, "memory://", Arc::new(self.store.fork())),
        )
    }
}

async fn open(storage: LakeStorage, catalog: &Path) -> Lake {
    Lake::over(storage, SqliteCatalog::open(catalog).await.unwrap())
}

/// The commit of one number: readings are added, the window table's file is replaced, the dead letters' watermark moves.
fn changes(number: usize) -> Vec<TableChange> {
    let hot = |number: usize| format!("m:/hot{number}");
    let gone: Vec<String> = number.checked_sub(1).map(hot).into_iter().collect();
    let gone: Vec<&str> = gone.iter().map(String::as_str).collect();
    let mut changes = vec![
        adding("readings", &[&format!("m:/readings{number}")]),
        replacing("readings_1m", &gone, &[&hot(number)]),
        TableChange {
            table: "dead_letters".into(),
            ..TableChange::default()
        },
    ];
    for change in &mut changes {
        change
            .set_properties
            .insert("watermark".into(), number.to_string());
    }
    changes
}

/// The watermark, the same in all tables.
async fn watermark(lake: &Lake) -> usize {
    let mut marks = BTreeSet::new();
    for spec in specs() {
        marks.insert(lake.load(&spec.name).await.unwrap().metadata.properties()["watermark"].clone());
    }
    assert_eq!(
        marks.len(),
        1,
        "the tables are at different watermarks: {marks:?}"
    );
    marks.first().unwrap().parse().unwrap()
}

/// One life of the writer: reads the watermark, commits up to and with `BEFORE`. Returns whether it got that far.
async fn live(storage: LakeStorage, catalog: &Path) -> bool {
    let lake = open(storage, catalog).await;
    let epoch = lake.claim_writer().await.unwrap();
    match watermark(&lake).await {
        BEFORE => true,
        mark => lake.commit(epoch, changes(mark + 1)).await.is_ok(),
    }
}

async fn holds(lake: &Lake) {
    assert_eq!(watermark(lake).await, BEFORE);
    let readings: BTreeSet<String> = (0..=BEFORE)
        .map(|number| format!("m:/readings{number}"))
        .collect();
    assert_eq!(planned(lake, "readings").await, readings);
    assert_eq!(
        planned(lake, "readings_1m").await,
        set(&[&format!("m:/hot{BEFORE}")])
    );
    assert_eq!(planned(lake, "dead_letters").await, set(&[]));
}

/// Lives that end at each of `deaths` (step, and whether that step was done), then an undisturbed one.
async fn run(base: &Base, deaths: &[(i64, bool)]) {
    let (dir, storage) = base.copy();
    let catalog = dir.path().join("catalog.db");
    for (at, after_it_was_done) in deaths {
        live(fault::failing(&storage, *at, *after_it_was_done), &catalog).await;
    }
    assert!(live(storage.clone(), &catalog).await, "after {deaths:?}");
    holds(&open(storage, &catalog).await).await;
}

/// How many writes and deletions the disturbed commit makes.
async fn steps(base: &Base) -> i64 {
    let (dir, storage) = base.copy();
    let left = Arc::new(AtomicI64::new(i64::MAX));
    let storage = fault::failing_when(&storage, left.clone(), false);
    assert!(live(storage, &dir.path().join("catalog.db")).await);
    i64::MAX - left.load(Ordering::SeqCst)
}

#[tokio::test]
async fn killed_at_any_step_each_file_is_in_once() {
    let base = Base::new().await;
    let steps = steps(&base).await;
    expect_test::expect!["11"].assert_eq(&steps.to_string());
    run(&base, &[]).await;
    for at in 0..steps {
        run(&base, &[(at, false)]).await;
        run(&base, &[(at, true)]).await;
        run(&base, &[(at, false), ((at + 5) % steps, true)]).await;
        run(&base, &[(at, true), ((at + 8) % steps, false)]).await;
    }
}

#[tokio::test]
#[ignore = "takes minutes without optimisation: all pairs of deaths"]
async fn killed_at_any_step_and_again_at_any_step_each_file_is_in_once() {
    let base = Base::new().await;
    let steps = steps(&base).await;
    let deaths: Vec<(i64, bool)> = (0..steps).flat_map(|at| [(at, false), (at, true)]).collect();
    for first in &deaths {
        for second in &deaths {
            run(&base, &[*first, *second]).await;
        }
    }
}
