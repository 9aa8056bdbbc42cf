//! Aggregates against a naive GROUP BY.

use proptest::prelude::*;

use super::*;

type Row = (i64, f64, Option<&'static str>);

fn close(a: f64, b: f64, scale: f64) -> bool {
    (a - b).abs() <= 1e-9 * scale.max(1.0)
}

/// Count, sum, mean, sample standard deviation, min, max, first and last, computed the long way.
fn assert_is_group_by(aggregate: &Aggregate, readings: &[Row]) {
    let values: Vec<f64> = readings.iter().map(|(_, value, _)| *value).collect();
    let count = values.len() as f64;
    let scale = values.iter().fold(0.0f64, |max, value| max.max(value.abs())) * count;
    let sum: f64 = values.iter().sum();
    let mean = sum / count;
    assert_eq!(aggregate.count as usize, values.len());
    assert!(close(aggregate.sum(), sum, scale), "{} {sum}", aggregate.sum());
    assert!(close(aggregate.mean(), mean, scale));
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    match aggregate.stddev() {
        None => assert_eq!(values.len(), 1),
        Some(stddev) => assert!(close(stddev, (squares / (count - 1.0)).sqrt(), scale)),
    }
    assert_eq!(
        aggregate.min,
        values.iter().copied().fold(f64::INFINITY, f64::min)
    );
    assert_eq!(
        aggregate.max,
        values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    );
    let first = readings.iter().min_by_key(|(ts, _, _)| *ts).unwrap();
    let last = readings.iter().max_by_key(|(ts, _, _)| *ts).unwrap();
    assert_eq!((aggregate.first.ts.0, aggregate.first.value), (first.0, first.1));
    assert_eq!((aggregate.last.ts.0, aggregate.last.value), (last.0, last.1));
    assert_eq!(aggregate.unit.as_deref(), last.2);
}

fn aggregate(readings: &[Row]) -> Aggregate {
    let point = |(ts, value, _): &Row| Point {
        ts: UnixMicros(*ts),
        value: *value,
    };
    let (head, tail) = readings.split_first().unwrap();
    let mut aggregate = Aggregate::of(point(head), head.2);
    for reading in tail {
        aggregate.add(point(reading), reading.2);
    }
    aggregate
}

fn reading() -> impl Strategy<Value = Row> {
    let unit = prop_oneof![Just(None), Just(Some("Cel")), Just(Some("K"))];
    (0i64..20, -1e6f64..1e6, unit)
}

proptest! {
    #[test]
    fn adding_one_by_one_is_group_by(readings in prop::collection::vec(reading(), 1..80)) {
        assert_is_group_by(&aggregate(&readings), &readings);
    }

    #[test]
    fn merging_parts_is_group_by(
        readings in prop::collection::vec(reading(), 2..80),
        cuts in prop::collection::vec(0usize..80, 0..6),
    ) {
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| 1 + cut % (readings.len() - 1)).collect();
        cuts.extend([0, readings.len()]);
        cuts.sort_unstable();
        cuts.dedup();
        let mut parts = cuts.windows(2).map(|ends| aggregate(&readings[ends[0]..ends[1]]));
        let mut whole = parts.next().unwrap();
        for part in parts {
            whole.merge(&part);
        }
        assert_is_group_by(&whole, &readings);
    }

    #[test]
    fn a_delta_has_one_row_for_each_window_and_series(
        readings in prop::collection::vec((0u8..3, -200i64..200, -9.0f64..9.0), 0..120),
    ) {
        let mut series = SeriesTable::new(SeriesHasher::default());
        let mut delta = WindowDelta::new(60);
        let mut naive: std::collections::BTreeMap<(i64, u8), Vec<Row>> = Default::default();
        for (device, ts, value) in &readings {
            let series = series.get(&format!("d{device}"), "s", "m");
            delta.add(&series, Point { ts: UnixMicros(*ts), value: *value }, None);
            naive.entry((ts.div_euclid(60) * 60, *device)).or_default().push((*ts, *value, None));
        }
        prop_assert_eq!(delta.rows().len(), naive.len());
        for ((start, device), readings) in naive {
            let series = series.get(&format!("d{device}"), "s", "m");
            let row = delta.rows().get(&Key { start: UnixMicros(start), series }).unwrap();
            assert_is_group_by(row, &readings);
        }
    }
}

#[test]
fn sums_do_not_lose_what_is_small() {
    let readings = [(0, 1e16, None), (1, 1.0, None), (2, 1.0, None), (3, -1e16, None)];
    assert_eq!(aggregate(&readings).sum(), 2.0);
}

#[test]
fn variance_is_stable_far_from_zero() {
    let readings = [
        (0, 1e9 + 4.0, None),
        (1, 1e9 + 7.0, None),
        (2, 1e9 + 13.0, None),
        (3, 1e9 + 16.0, None),
    ];
    assert!((aggregate(&readings).stddev().unwrap().powi(2) - 30.0).abs() < 1e-6);
}

#[test]
fn readings_at_one_moment_are_ordered_by_their_coming() {
    let mut early = aggregate(&[(5, 1.0, Some("a")), (5, 2.0, Some("b"))]);
    early.merge(&aggregate(&[(5, 3.0, Some("c"))]));
    assert_eq!(
        (early.first.value, early.last.value, early.unit.as_deref()),
        (1.0, 3.0, Some("c"))
    );
}

#[test]
fn days_and_windows_before_1970_round_down() {
    assert_eq!(
        (
            day_of(UnixMicros(-1)),
            day_of(UnixMicros(0)),
            day_of(UnixMicros(DAY_MICROS))
        ),
        (-1, 0, 1)
    );
    let mut delta = WindowDelta::new(60);
    let series = SeriesHasher::default().series("d", "s", "m");
    delta.add(
        &series,
        Point {
            ts: UnixMicros(-1),
            value: 1.0,
        },
        None,
    );
    assert_eq!(delta.rows().keys().next().unwrap().start, UnixMicros(-60));
}

#[test]
fn the_series_table_is_bounded_and_shares() {
    let mut table = SeriesTable::default();
    assert!(Arc::ptr_eq(&table.get("d", "s", "m"), &table.get("d", "s", "m")));
    for device in 0..=SeriesTable::ENTRIES_MAX {
        table.get(&device.to_string(), "s", "m");
    }
    assert!(table.by_hash.len() <= SeriesTable::ENTRIES_MAX);
}
