//! Random commits over several tables, with a crash at a random write, against sets of names.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::catalog::sqlite::SqliteCatalog;

const TABLES: [&str; 3] = ["readings", "readings_1m", "dead_letters"];

/// One commit: what happens to each table, and whether the process dies on the way.
#[derive(Clone, Debug)]
struct Step {
    tables: Vec<TableStep>,
    crash: Option<Crash>,
}

#[derive(Clone, Debug)]
struct TableStep {
    table: usize,
    add: usize,
    /// Picks of live files, by position.
    remove: Vec<prop::sample::Index>,
    mark: bool,
}

#[derive(Clone, Debug)]
struct Crash {
    /// Writes and deletions that still work.
    at: i64,
    after_it_was_done: bool,
}

fn table_step(table: usize) -> impl Strategy<Value = TableStep> {
    (
        0..4_usize,
        prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        any::<bool>(),
    )
        .prop_map(move |(add, remove, mark)| TableStep {
            table,
            add,
            remove,
            mark,
        })
}

fn step() -> impl Strategy<Value = Step> {
    let tables = prop::sample::subsequence(vec![0, 1, 2], 1..=3)
        .prop_flat_map(|tables| tables.into_iter().map(table_step).collect::<Vec<_>>());
    let crash = (0..16_i64, any::<bool>()).prop_map(|(at, after_it_was_done)| Crash {
        at,
        after_it_was_done,
    });
    (tables, prop::option::weighted(0.4, crash)).prop_map(|(tables, crash)| Step { tables, crash })
}

/// What a table should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Expected {
    files: BTreeSet<String>,
    mark: Option<String>,
}

type Model = BTreeMap<&'static str, Expected>;

fn plan(step: &Step, number: usize, model: &Model) -> (Vec<TableChange>, Model) {
    let mut after = model.clone();
    let mut changes = Vec::new();
    for table_step in &step.tables {
        let table = TABLES[table_step.table];
        let expected = after.entry(table).or_default();
        let mut remove = BTreeSet::new();
        for pick in &table_step.remove {
            if !expected.files.is_empty() {
                remove.insert(
                    expected
                        .files
                        .iter()
                        .nth(pick.index(expected.files.len()))
                        .unwrap()
                        .clone(),
                );
            }
        }
        let added: Vec<String> = (0..table_step.add)
            .map(|i| format!("m:/{table}/{number}-{i}"))
            .collect();
        expected.files.retain(|file| !remove.contains(file));
        expected.files.extend(added.iter().cloned());
        let add = added
            .iter()
            .map(|name| file(name, i32::try_from(number).unwrap()));
        let mut change = TableChange {
            table: table.to_owned(),
            add: add.collect(),
            remove: remove.into_iter().collect(),
            ..TableChange::default()
        };
        if table_step.mark {
            change
                .set_properties
                .insert("mark".to_owned(), number.to_string());
            expected.mark = Some(number.to_string());
        }
        changes.push(change);
    }
    (changes, after)
}

async fn observed(lake: &Lake) -> Model {
    let mut model = Model::new();
    for table in TABLES {
        let mark = lake
            .load(table)
            .await
            .unwrap()
            .metadata
            .properties()
            .get("mark")
            .cloned();
        model.insert(
            table,
            Expected {
                files: planned(lake, table).await,
                mark,
            },
        );
    }
    model
}

async fn totals_hold(lake: &Lake, model: &Model) {
    for table in TABLES {
        let loaded = lake.load(table).await.unwrap();
        let Some(snapshot) = loaded.metadata.current_snapshot() else {
            continue;
        };
        let summary = &snapshot.summary().additional_properties;
        let count = model[table].files.len() as u64;
        assert_eq!(summary["total-data-files"], count.to_string(), "{table}");
        assert_eq!(summary["total-records"], (count * ROWS).to_string(), "{table}");
    }
}

async fn run(steps: Vec<Step>) {
    let (dir, sound) = memory_lake().await;
    let mut model: Model = TABLES
        .into_iter()
        .map(|table| (table, Expected::default()))
        .collect();
    for (number, step) in steps.iter().enumerate() {
        let (changes, after) = plan(step, number, &model);
        let storage = match &step.crash {
            Some(crash) => fault::failing(sound.storage(), crash.at, crash.after_it_was_done),
            None => sound.storage().clone(),
        };
        // A new process each time: nothing is remembered but what is stored.
        let catalog = SqliteCatalog::open(&dir.path().join("catalog.db")).await.unwrap();
        let lake = Lake::over(storage, catalog);
        let epoch = lake.claim_writer().await.unwrap();
        let outcome = lake.commit(epoch, changes).await;
        let stored = fault::stored(sound.storage()).await;
        let now = observed(&sound).await;
        match outcome {
            Ok(_) => assert_eq!(now, after, "step {number}: committed, but not all of it is there"),
            Err(error) => {
                assert!(step.crash.is_some(), "step {number}: {error}");
                assert!(error.is_certain());
                assert_eq!(
                    now, model,
                    "step {number}: failed ({error}), but something changed"
                );
            }
        }
        for table in TABLES {
            let location = sound.load(table).await.unwrap().metadata_location;
            let path = sound.storage().path(&location).unwrap().to_string();
            assert!(
                stored.contains(&path),
                "step {number}: the metadata of {table} was deleted"
            );
        }
        model = now;
        totals_hold(&sound, &model).await;
    }
    if steps.iter().all(|step| step.crash.is_none()) {
        assert_eq!(orphans(&sound).await, set(&[]));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn tables_move_together_or_not_at_all(steps in prop::collection::vec(step(), 1..14)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(run(steps));
    }
}
