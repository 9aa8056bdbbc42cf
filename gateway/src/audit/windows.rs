//! A GROUP BY of our own over `readings`, to hold a window table against. It shares no code with the processor.

use std::collections::BTreeMap;

use super::rows::{ReadingRow, WindowRow};

/// How far two sums of the same numbers, added in different order, may lie apart, relative to their size.
const TOLERANCE: f64 = 1e-9;

/// Window, device, sensor and metric.
type Key = (i64, String, String, String);

/// Aggregates over readings that come in any order. Memory grows with the number of windows.
#[derive(Debug)]
pub struct GroupBy {
    every_us: i64,
    groups: BTreeMap<Key, Group>,
}

#[derive(Debug, Default)]
struct Group {
    rows: i64,
    /// The values with their place, (time, stream sequence): two passes over them give the figures to compare with.
    values: Vec<((i64, i64), f64)>,
}

/// One thing that differs between a window table and the GROUP BY.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowDifference {
    /// Device, sensor, metric and window, in words.
    pub window: String,
    /// What differs.
    pub what: String,
}

/// A window table held against the GROUP BY.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WindowCheck {
    /// Rows of the window table.
    pub windows: u64,
    /// Number of differences.
    pub differences: u64,
    /// The first few of them.
    pub examples: Vec<WindowDifference>,
}

impl WindowCheck {
    /// Whether the table equals the GROUP BY.
    pub fn holds(&self) -> bool {
        self.differences == 0
    }

    fn differs(&mut self, key: &Key, what: String) {
        const EXAMPLES_MAX: usize = 5;
        self.differences += 1;
        if self.examples.len() < EXAMPLES_MAX {
            let (start, device, sensor, metric) = key;
            let window = format!("{device}/{sensor}/{metric} at {start}");
            self.examples.push(WindowDifference { window, what });
        }
    }
}

impl GroupBy {
    /// Windows of `every_us` microseconds, aligned to 1970.
    pub fn new(every_us: i64) -> GroupBy {
        GroupBy {
            every_us: every_us.max(1),
            groups: BTreeMap::new(),
        }
    }

    /// Counts one reading. One without a number (a text) belongs to no window.
    pub fn add(&mut self, row: ReadingRow) {
        let Some(value) = row.value else { return };
        let start = row.ts.div_euclid(self.every_us) * self.every_us;
        let group = self
            .groups
            .entry((start, row.device_id, row.sensor, row.metric))
            .or_default();
        group.rows += 1;
        group.values.push(((row.ts, row.stream_seq), value));
    }

    /// Holds `rows` of a window table against what was added.
    pub fn compare(mut self, rows: impl IntoIterator<Item = WindowRow>) -> WindowCheck {
        let mut check = WindowCheck::default();
        for row in rows {
            check.windows += 1;
            let key = (
                row.window_start,
                row.device_id.clone(),
                row.sensor.clone(),
                row.metric.clone(),
            );
            match self.groups.remove(&key) {
                Some(group) => {
                    for what in group.differences(&row, self.every_us) {
                        check.differs(&key, what);
                    }
                }
                None => check.differs(&key, "a second row, or one without readings".to_owned()),
            }
        }
        for key in self.groups.keys() {
            check.differs(key, "no row".to_owned());
        }
        check
    }
}

impl Group {
    fn differences(mut self, row: &WindowRow, every_us: i64) -> Vec<String> {
        let mut found = Vec::new();
        if row.count != self.rows {
            found.push(format!("count {} instead of {}", row.count, self.rows));
        }
        if row.window_end != row.window_start + every_us {
            found.push(format!("window_end {}", row.window_end));
        }
        self.values.sort_by_key(|a| a.0);
        let numbers = || self.values.iter().map(|(_, value)| *value);
        let count = self.values.len() as f64;
        let sum: f64 = numbers().sum();
        let mean = sum / count;
        let size = numbers().map(f64::abs).fold(0.0, f64::max);
        let squares: f64 = numbers().map(|value| (value - mean).powi(2)).sum();
        let stddev = (self.values.len() > 1).then(|| (squares / (count - 1.0)).sqrt());
        let min = numbers().reduce(f64::min);
        let max = numbers().reduce(f64::max);
        let mut compare = |name: &str, found_value: Option<f64>, expected: Option<f64>, slack: f64| {
            let same = match (found_value, expected) {
                (Some(a), Some(b)) => (a - b).abs() <= slack,
                (None, None) => true,
                _ => false,
            };
            if !same {
                found.push(format!("{name} {found_value:?} instead of {expected:?}"));
            }
        };
        let slack = TOLERANCE * size;
        compare("min", row.min, min, 0.0);
        compare("max", row.max, max, 0.0);
        compare("sum", row.sum, Some(sum), slack * count);
        compare("mean", row.mean, Some(mean), slack);
        // A difference of squares loses half of the digits where the values are close to each other.
        compare(
            "stddev",
            row.stddev,
            stddev,
            TOLERANCE.sqrt() * 1e-2 * size.max(f64::MIN_POSITIVE),
        );
        for (name, stored, end) in [
            ("first", row.first, self.values.first()),
            ("last", row.last, self.values.last()),
        ] {
            let at_end = end.map(|(place, _)| *place);
            // One message may hold several readings with the same time: any of them will do.
            let fits = self
                .values
                .iter()
                .any(|(place, value)| Some(*place) == at_end && Some(*value) == stored);
            if !fits {
                found.push(format!("{name} {stored:?}"));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(ts: i64, value: f64) -> ReadingRow {
        ReadingRow {
            device_id: "d".to_owned(),
            sensor: "s".to_owned(),
            metric: "value".to_owned(),
            ts,
            value: Some(value),
            text: None,
            stream_seq: 1,
        }
    }

    fn window() -> WindowRow {
        WindowRow {
            window_start: 60,
            window_end: 120,
            device_id: "d".to_owned(),
            sensor: "s".to_owned(),
            metric: "value".to_owned(),
            count: 2,
            min: Some(1.0),
            max: Some(3.0),
            mean: Some(2.0),
            sum: Some(4.0),
            stddev: Some(2f64.sqrt()),
            first: Some(3.0),
            last: Some(1.0),
        }
    }

    fn grouped() -> GroupBy {
        let mut groups = GroupBy::new(60);
        groups.add(reading(119, 1.0));
        groups.add(reading(60, 3.0));
        groups.add(ReadingRow {
            value: None,
            ..reading(61, 0.0)
        });
        groups
    }

    #[test]
    fn the_same_figures_hold() {
        let check = grouped().compare([window()]);
        assert!(check.holds(), "{check:?}");
        assert_eq!(check.windows, 1);
    }

    #[test]
    fn each_figure_that_differs_is_found() {
        type Change = fn(&mut WindowRow);
        let changes: [Change; 10] = [
            |row| row.count = 3,
            |row| row.min = None,
            |row| row.max = Some(3.1),
            |row| row.mean = Some(2.1),
            |row| row.sum = Some(4.1),
            |row| row.stddev = Some(1.0),
            |row| row.first = Some(1.0),
            |row| row.last = None,
            |row| row.window_end = 121,
            |row| row.stddev = None,
        ];
        for (index, change) in changes.iter().enumerate() {
            let mut row = window();
            change(&mut row);
            assert_eq!(grouped().compare([row]).differences, 1, "change {index}");
        }
    }

    #[test]
    fn missing_and_doubled_rows_are_found() {
        assert_eq!(grouped().compare([]).examples[0].what, "no row");
        let doubled = grouped().compare([window(), window()]);
        assert_eq!(doubled.differences, 1);
        assert_eq!(doubled.examples[0].what, "a second row, or one without readings");
    }
}
