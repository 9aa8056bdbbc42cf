//! Making a window table from `readings`: one that was added to the configuration, or was left out of it for a while.
//!
//! Readings are scanned day by day, and windows are written as soon as no later day can add to them, so that memory holds
//! the windows of about one day. The files that the table had are replaced in the same commit.

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, TimestampMicrosecondType};
use arrow_array::{Array, RecordBatch};
use futures::TryStreamExt;
use iceberg::expr::Reference;
use iceberg::spec::{DataFile, Datum, Literal, PrimitiveLiteral};
use tarn_schemas::UnixMicros;

use super::table::{WindowChange, WindowError, WindowTable};
use super::{Aggregate, DAY_MICROS, Key, Point, SeriesHasher, SeriesTable, WindowDelta};
use crate::catalog::Lake;
use crate::read::ReadTable;
use crate::tables::READINGS;

/// What is read of `readings`.
const COLUMNS: [&str; 6] = ["device_id", "sensor", "metric", "ts", "value", "unit"];

impl WindowTable {
    /// Writes the files that the table needs to be the GROUP BY of all of `readings`, and names those it has now for
    /// removal. Files that were written are added to `written`, also on an error. Forgets the table.
    pub(crate) async fn rebuild(
        &mut self,
        lake: &Lake,
        hasher: &SeriesHasher,
        written: &mut Vec<String>,
    ) -> Result<WindowChange, WindowError> {
        self.forget();
        let readings = lake.read_table(READINGS).await?;
        let mut change = WindowChange {
            remove: self.locations(lake).await?,
            ..WindowChange::default()
        };
        let mut days = days(&readings).await?.into_iter().peekable();
        let mut series = SeriesTable::new(hasher.clone());
        let mut open = WindowDelta::new(self.every());
        while let Some(day) = days.next() {
            add_day(&readings, day, &mut series, &mut open).await?;
            let next = days.peek().map(|day| start_of(*day));
            for (day, rows) in open.take_ended(next) {
                self.write_closed(lake, day, rows, &mut change, written).await?;
            }
        }
        Ok(change)
    }
}

impl WindowDelta {
    /// Takes the windows out that end before `next`; all of them where nothing comes any more. By day.
    fn take_ended(&mut self, next: Option<UnixMicros>) -> BTreeMap<i32, Vec<(Key, Aggregate)>> {
        let every = self.every;
        let ended = |key: &Key| next.is_none_or(|next| key.start.0.saturating_add(every) <= next.0);
        let mut days: BTreeMap<i32, Vec<_>> = BTreeMap::new();
        for (key, row) in self.rows.extract_if(|key, _| ended(key)) {
            days.entry(key.day()).or_default().push((key, row));
        }
        days
    }
}

fn start_of(day: i32) -> UnixMicros {
    UnixMicros(i64::from(day) * DAY_MICROS)
}

/// The days that have readings.
async fn days(readings: &ReadTable) -> Result<BTreeSet<i32>, WindowError> {
    let files: Vec<DataFile> = readings.data_files().try_collect().await?;
    files.iter().map(day_of_file).collect()
}

fn day_of_file(file: &DataFile) -> Result<i32, WindowError> {
    match file.partition().iter().next() {
        Some(Some(Literal::Primitive(PrimitiveLiteral::Int(day)))) => Ok(*day),
        _ => Err(WindowError::Partition {
            table: READINGS.to_owned(),
            location: file.file_path().to_owned(),
        }),
    }
}

async fn add_day(
    readings: &ReadTable,
    day: i32,
    series: &mut SeriesTable,
    delta: &mut WindowDelta,
) -> Result<(), WindowError> {
    let bound = |day| Datum::timestamptz_micros(start_of(day).0);
    let of_day = Reference::new("ts").greater_than_or_equal_to(bound(day));
    let of_day = of_day.and(Reference::new("ts").less_than(bound(day + 1)));
    let mut batches = readings.scan_where(&COLUMNS, of_day).await?;
    while let Some(batch) = batches.try_next().await? {
        add_batch(&batch, series, delta).ok_or_else(|| WindowError::Readings { day })?;
    }
    Ok(())
}

/// `None` where the columns aren't those of `readings`.
fn add_batch(batch: &RecordBatch, series: &mut SeriesTable, delta: &mut WindowDelta) -> Option<()> {
    let text = |name| batch.column_by_name(name)?.as_string_opt::<i32>();
    let (device, sensor, metric, unit) = (
        text("device_id")?,
        text("sensor")?,
        text("metric")?,
        text("unit")?,
    );
    let ts = batch
        .column_by_name("ts")?
        .as_primitive_opt::<TimestampMicrosecondType>()?;
    let value = batch.column_by_name("value")?.as_primitive_opt::<Float64Type>()?;
    for row in (0..batch.num_rows()).filter(|row| !value.is_null(*row)) {
        let series = series.get(device.value(row), sensor.value(row), metric.value(row));
        let point = Point {
            ts: UnixMicros(ts.value(row)),
            value: value.value(row),
        };
        let unit = (!unit.is_null(row)).then(|| unit.value(row));
        delta.add(&series, point, unit);
    }
    Some(())
}
