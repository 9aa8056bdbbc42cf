//! Where rows go, and what is written.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::*;
use crate::window::{DAY_MICROS, Point, Series, SeriesHasher};

const LIMITS: Limits = Limits {
    file_rows_max: 4,
    open_rows_max: 8,
};

struct World {
    hasher: SeriesHasher,
    state: WindowState,
    locations: u32,
}

impl World {
    fn new() -> Self {
        Self {
            hasher: SeriesHasher::default(),
            state: WindowState::new(LIMITS, []),
            locations: 0,
        }
    }

    fn series(&self, device: &str) -> Arc<Series> {
        self.hasher.series(device, "s", "m")
    }

    fn delta(&self, rows: &[(i64, &str)]) -> WindowDelta {
        let mut delta = WindowDelta::new(10);
        for (ts, device) in rows {
            delta.add(
                &self.series(device),
                Point {
                    ts: UnixMicros(*ts),
                    value: 1.0,
                },
                None,
            );
        }
        delta
    }

    /// Applies and "writes"; returns the corrections and the rewrites.
    fn commit(&mut self, rows: &[(i64, &str)]) -> (Corrections, Vec<Rewrite>) {
        let corrections = self.state.apply(&self.delta(rows));
        let rewrites = self.state.rewrites();
        for rewrite in &rewrites {
            let mut closed = Vec::new();
            for rows in &rewrite.close {
                closed.push(ClosedFile::of(self.location(), rows));
            }
            self.state.replace(rewrite.day, None, closed);
            if !rewrite.keep.is_empty() {
                let location = self.location();
                self.state.opened_at(rewrite.day, location);
            }
        }
        self.state.trim();
        (corrections, rewrites)
    }

    fn location(&mut self) -> String {
        self.locations += 1;
        format!("f{}", self.locations)
    }
}

fn starts(rows: &[(Key, Aggregate)]) -> BTreeSet<i64> {
    rows.iter().map(|(key, _)| key.start.0).collect()
}

#[test]
fn the_open_file_is_replaced_at_each_commit_that_touches_it() {
    let mut world = World::new();
    let (_, first) = world.commit(&[(5, "a"), (15, "a")]);
    assert_eq!(
        (first[0].replaced.clone(), starts(&first[0].keep)),
        (None, BTreeSet::from([0, 10]))
    );
    let (_, second) = world.commit(&[(6, "a")]);
    assert_eq!(second[0].replaced, Some("f1".to_owned()));
    assert_eq!(second[0].keep.iter().map(|(_, row)| row.count).sum::<u64>(), 3);
    let (_, third) = world.commit(&[(DAY_MICROS + 1, "a")]);
    assert_eq!(
        (third.len(), third[0].day, third[0].replaced.clone()),
        (1, 1, None)
    );
}

#[test]
fn the_oldest_windows_are_closed_and_corrected_in_their_file() {
    let mut world = World::new();
    let rows: Vec<(i64, &str)> = (0..10).map(|window| (window * 10, "a")).collect();
    let (_, rewrites) = world.commit(&rows);
    let closed: Vec<_> = rewrites[0].close.iter().map(|rows| starts(rows)).collect();
    assert_eq!(
        closed,
        [BTreeSet::from([0, 10, 20, 30]), BTreeSet::from([40, 50])]
    );
    assert_eq!(starts(&rewrites[0].keep), BTreeSet::from([60, 70, 80, 90]));
    assert_eq!(world.state.open_rows(), 4);

    let (corrections, rewrites) = world.commit(&[(12, "a"), (45, "a"), (61, "a"), (55, "b")]);
    let certain: Vec<_> = corrections
        .certain
        .iter()
        .map(|((_, file), rows)| (file.as_str(), starts(rows)))
        .collect();
    assert_eq!(
        certain,
        [("f1", BTreeSet::from([10])), ("f2", BTreeSet::from([40]))]
    );
    assert!(corrections.ambiguous.is_empty());
    // Device "b" lies outside of the bounds of the closed files, so its late window is a new row of the open file.
    assert_eq!(starts(&rewrites[0].keep), BTreeSet::from([50, 60, 70, 80, 90]));
}

#[test]
fn one_window_start_beyond_the_bound_is_closed_by_device() {
    let mut world = World::new();
    let names: Vec<String> = (0..9).map(|device| format!("d{device}")).collect();
    let rows: Vec<(i64, &str)> = names.iter().map(|name| (5, name.as_str())).collect();
    let (_, rewrites) = world.commit(&rows);
    assert_eq!(
        rewrites[0].close.iter().map(Vec::len).collect::<Vec<_>>(),
        [4, 4, 1]
    );
    assert!(rewrites[0].keep.is_empty());
    assert_eq!((world.state.open_rows(), world.state.file_count()), (0, 3));
    let (corrections, _) = world.commit(&[(6, "d5")]);
    assert_eq!(corrections.certain.keys().next().unwrap().1, "f2");
}

#[test]
fn rows_that_several_files_cover_are_looked_for() {
    let hasher = SeriesHasher::default();
    let row = |start, device: &str| {
        let key = Key {
            start: UnixMicros(start),
            series: hasher.series(device, "s", "m"),
        };
        (
            key,
            Aggregate::of(
                Point {
                    ts: UnixMicros(start),
                    value: 1.0,
                },
                None,
            ),
        )
    };
    let files = [
        (0, ClosedFile::of("f1".to_owned(), &[row(0, "a"), row(50, "c")])),
        (0, ClosedFile::of("f2".to_owned(), &[row(20, "b"), row(30, "b")])),
        (
            0,
            ClosedFile {
                location: "f3".to_owned(),
                rows: 100,
                starts: None,
                devices: None,
            },
        ),
    ];
    let mut world = World {
        state: WindowState::new(LIMITS, files),
        hasher: hasher.clone(),
        locations: 9,
    };
    let (corrections, rewrites) = world.commit(&[(21, "b"), (51, "c")]);
    let mut found: Vec<_> = corrections
        .ambiguous
        .iter()
        .map(|(key, _, files)| (key.start.0, files.join(" ")))
        .collect();
    found.sort();
    assert_eq!(found, [(20, "f1 f2 f3".to_owned()), (50, "f1 f3".to_owned())]);
    assert!(rewrites.is_empty());
}

#[test]
fn after_a_restart_the_latest_file_of_a_touched_day_is_opened() {
    let closed = |location: &str, rows, low, high| ClosedFile {
        location: location.to_owned(),
        rows,
        starts: Some((UnixMicros(low), UnixMicros(high))),
        devices: None,
    };
    let files = [
        (0, closed("f1", 4, 0, 30)),
        (0, closed("f2", 2, 40, 50)),
        (1, closed("f3", 4, DAY_MICROS, DAY_MICROS)),
    ];
    let world = World {
        state: WindowState::new(LIMITS, files),
        ..World::new()
    };
    let delta = world.delta(&[(41, "a"), (DAY_MICROS, "a"), (2 * DAY_MICROS, "a")]);
    assert_eq!(
        world.state.to_open(&delta),
        BTreeMap::from([(0, "f2".to_owned())])
    );
}

#[test]
fn memory_is_bounded_however_wild_the_days_are() {
    let mut world = World::new();
    for day in 0..100 {
        world.commit(&[(day * DAY_MICROS, "a")]);
        assert!(world.state.open_rows() <= LIMITS.open_rows_max);
        assert!(world.state.open_days() <= OPEN_DAYS_MAX);
    }
    assert_eq!(world.state.file_count(), 100);
}

#[test]
fn a_corrected_file_is_split_when_it_has_doubled() {
    let world = World::new();
    let rows = |count| -> Vec<(Key, Aggregate)> {
        let rows: Vec<(i64, &str)> = (0..count).map(|window| (window * 10, "a")).collect();
        world
            .delta(&rows)
            .rows()
            .iter()
            .map(|(key, row)| (key.clone(), row.clone()))
            .collect()
    };
    assert_eq!(world.state.split(rows(8)).len(), 1);
    assert_eq!(
        world
            .state
            .split(rows(9))
            .iter()
            .map(Vec::len)
            .collect::<Vec<_>>(),
        [4, 4, 1]
    );
}
