//! Windows: the running aggregate of one device, sensor and metric in one stretch of time. No IO here.
//!
//! An [`Aggregate`] is what GROUP BY would say about the readings that were added to it, in any number of pieces: adding
//! one by one and merging parts give the same, up to rounding. [`WindowDelta`] holds what one batch of readings adds;
//! [`state`] decides which file of the table each of its rows goes to; [`table`] reads and writes the files.

mod rebuild;
pub(crate) mod rows;
pub(crate) mod state;
pub(crate) mod table;

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::sync::Arc;

use tarn_schemas::UnixMicros;

/// Microseconds of a UTC day.
pub(crate) const DAY_MICROS: i64 = 86_400_000_000;

/// The UTC day of a moment, counted from 1970-01-01: the partition of its row.
pub(crate) fn day_of(ts: UnixMicros) -> i32 {
    i32::try_from(ts.0.div_euclid(DAY_MICROS)).expect("days of 64-bit microseconds fit 32 bits")
}

/// A value and its moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    pub(crate) ts: UnixMicros,
    pub(crate) value: f64,
}

/// What is known about the readings of one window. At least one reading is in it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Aggregate {
    pub(crate) count: u64,
    sum: f64,
    /// What rounding took from `sum` (Neumaier).
    compensation: f64,
    /// Sum of squared distances from the mean (Welford; merged after Chan).
    m2: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// The earliest; of several at one moment the one that came first.
    pub(crate) first: Point,
    /// The latest; of several at one moment the one that came last.
    pub(crate) last: Point,
    /// The unit of `last`.
    pub(crate) unit: Option<Arc<str>>,
}

impl Aggregate {
    /// Of one reading.
    pub(crate) fn of(point: Point, unit: Option<&str>) -> Self {
        Self {
            count: 1,
            sum: point.value,
            compensation: 0.0,
            m2: 0.0,
            min: point.value,
            max: point.value,
            first: point,
            last: point,
            unit: unit.map(Arc::from),
        }
    }

    /// As a table's row holds it: all but the compensation, which is in `sum` by then.
    pub(crate) fn restored(count: u64, sum: f64, m2: f64, range: (f64, f64), ends: (Point, Point)) -> Self {
        let ((min, max), (first, last)) = (range, ends);
        Self {
            count,
            sum,
            compensation: 0.0,
            m2,
            min,
            max,
            first,
            last,
            unit: None,
        }
    }

    /// Adds one reading that came after the ones in here.
    pub(crate) fn add(&mut self, point: Point, unit: Option<&str>) {
        self.merge_moments(1, point.value, 0.0, point.value, 0.0);
        self.min = self.min.min(point.value);
        self.max = self.max.max(point.value);
        if point.ts < self.first.ts {
            self.first = point;
        }
        if point.ts >= self.last.ts {
            self.last = point;
            if self.unit.as_deref() != unit {
                self.unit = unit.map(Arc::from);
            }
        }
    }

    /// Adds the readings of `later`, all of which came after the ones in here.
    pub(crate) fn merge(&mut self, later: &Self) {
        self.merge_moments(later.count, later.sum, later.compensation, later.mean(), later.m2);
        self.min = self.min.min(later.min);
        self.max = self.max.max(later.max);
        if later.first.ts < self.first.ts {
            self.first = later.first;
        }
        if later.last.ts >= self.last.ts {
            self.last = later.last;
            self.unit.clone_from(&later.unit);
        }
    }

    fn merge_moments(&mut self, count: u64, sum: f64, compensation: f64, mean: f64, m2: f64) {
        let distance = mean - self.mean();
        let (ours, theirs) = (self.count as f64, count as f64);
        self.m2 += m2 + distance * distance * (ours * theirs / (ours + theirs));
        self.count += count;
        let total = self.sum + sum;
        self.compensation += compensation
            + if self.sum.abs() >= sum.abs() {
                (self.sum - total) + sum
            } else {
                (sum - total) + self.sum
            };
        self.sum = total;
    }

    /// The sum. Infinite where the readings' sum leaves the range of 64-bit floats.
    pub(crate) fn sum(&self) -> f64 {
        if self.sum.is_finite() {
            self.sum + self.compensation
        } else {
            self.sum
        }
    }

    pub(crate) fn mean(&self) -> f64 {
        self.sum() / self.count as f64
    }

    pub(crate) fn m2(&self) -> f64 {
        self.m2
    }

    /// The sample standard deviation, as SQL's `stddev`: none of a single reading.
    pub(crate) fn stddev(&self) -> Option<f64> {
        (self.count > 1).then(|| (self.m2.max(0.0) / (self.count - 1) as f64).sqrt())
    }
}

/// A device, sensor and metric. The hash is taken once, with the keys of the [`SeriesHasher`] that made it.
#[derive(Debug)]
pub(crate) struct Series {
    hash: u64,
    pub(crate) device_id: Box<str>,
    pub(crate) sensor: Box<str>,
    pub(crate) metric: Box<str>,
}

impl Series {
    fn is(&self, device_id: &str, sensor: &str, metric: &str) -> bool {
        *self.device_id == *device_id && *self.sensor == *sensor && *self.metric == *metric
    }

    pub(crate) fn names(&self) -> (&str, &str, &str) {
        (&self.device_id, &self.sensor, &self.metric)
    }
}

impl PartialEq for Series {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.names() == other.names()
    }
}

impl Eq for Series {}

/// Makes [`Series`]. Peers choose device names, so the hash is keyed: they can't choose collisions. Series of one
/// window table must come from clones of one hasher.
#[derive(Clone, Debug, Default)]
pub(crate) struct SeriesHasher(RandomState);

impl SeriesHasher {
    fn hash(&self, device_id: &str, sensor: &str, metric: &str) -> u64 {
        self.0.hash_one((device_id, sensor, metric))
    }

    /// A series of its own, not shared with any other.
    pub(crate) fn series(&self, device_id: &str, sensor: &str, metric: &str) -> Arc<Series> {
        let hash = self.hash(device_id, sensor, metric);
        Arc::new(Series {
            hash,
            device_id: device_id.into(),
            sensor: sensor.into(),
            metric: metric.into(),
        })
    }
}

/// Series seen lately, so that readings share them. Bounded: emptied when full.
#[derive(Debug, Default)]
pub(crate) struct SeriesTable {
    hasher: SeriesHasher,
    by_hash: HashMap<u64, Arc<Series>, BuildHasherDefault<HashedAlready>>,
}

impl SeriesTable {
    const ENTRIES_MAX: usize = 200_000;

    pub(crate) fn new(hasher: SeriesHasher) -> Self {
        Self {
            hasher,
            by_hash: HashMap::default(),
        }
    }

    /// The shared series of these names. Two that collide in 64 bits take turns, which is slower and as right.
    pub(crate) fn get(&mut self, device_id: &str, sensor: &str, metric: &str) -> Arc<Series> {
        let hash = self.hasher.hash(device_id, sensor, metric);
        if let Some(series) = self.by_hash.get(&hash)
            && series.is(device_id, sensor, metric)
        {
            return series.clone();
        }
        if self.by_hash.len() >= Self::ENTRIES_MAX {
            self.by_hash.clear();
        }
        let series = self.hasher.series(device_id, sensor, metric);
        self.by_hash.insert(hash, series.clone());
        series
    }
}

/// One row of a window table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) start: UnixMicros,
    pub(crate) series: Arc<Series>,
}

impl Key {
    /// The partition of the row.
    pub(crate) fn day(&self) -> i32 {
        day_of(self.start)
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let start = (self.start.0 as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        state.write_u64(self.series.hash ^ start ^ (start >> 32));
    }
}

/// Passes on what [`Series`] hashed with its keys.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HashedAlready(u64);

impl Hasher for HashedAlready {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 ^= hash;
    }
}

/// Rows of a window table by their key.
pub(crate) type Rows = HashMap<Key, Aggregate, BuildHasherDefault<HashedAlready>>;

/// What a batch of readings adds to one window table.
#[derive(Clone, Debug)]
pub(crate) struct WindowDelta {
    every: i64,
    rows: Rows,
}

impl WindowDelta {
    /// Nothing yet, for windows of `every` microseconds.
    pub(crate) fn new(every: i64) -> Self {
        Self {
            every,
            rows: Rows::default(),
        }
    }

    /// Adds a reading that came after all that are in here.
    pub(crate) fn add(&mut self, series: &Arc<Series>, point: Point, unit: Option<&str>) {
        let start = UnixMicros(point.ts.0.div_euclid(self.every) * self.every);
        let key = Key {
            start,
            series: series.clone(),
        };
        self.rows
            .entry(key)
            .and_modify(|aggregate| aggregate.add(point, unit))
            .or_insert_with(|| Aggregate::of(point, unit));
    }

    pub(crate) fn rows(&self) -> &Rows {
        &self.rows
    }
}

/// Adds `later` to the row of `key`.
pub(crate) fn merge_into(rows: &mut Rows, key: &Key, later: &Aggregate) {
    match rows.get_mut(key) {
        Some(aggregate) => aggregate.merge(later),
        None => {
            rows.insert(key.clone(), later.clone());
        }
    }
}

#[cfg(test)]
mod tests;
