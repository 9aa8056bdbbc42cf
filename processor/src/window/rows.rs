//! Rows of a window table as Arrow, and back.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{
    Array, ArrayRef, Float64Array, Int64Array, PrimitiveArray, RecordBatch, StringArray,
    TimestampMicrosecondArray, new_null_array,
};
use arrow_schema::{ArrowError, SchemaRef};
use tarn_schemas::UnixMicros;

use super::{Aggregate, Key, Point, SeriesHasher};

/// Rows of a window table that can't be read as such.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RowsError {
    /// A column is missing.
    #[error("there is no column {column}")]
    Missing {
        /// Its name.
        column: &'static str,
    },
    /// A column has another type.
    #[error("column {column} has type {found}")]
    Type {
        /// Its name.
        column: &'static str,
        /// What was found.
        found: String,
    },
    /// A column that each row needs is null.
    #[error("column {column} is null in row {row}")]
    Null {
        /// Its name.
        column: &'static str,
        /// The row's number in its batch.
        row: usize,
    },
}

type Row = (Key, Aggregate);

/// The rows in the columns of `schema`, windows being `every` microseconds long. Columns that aren't Tarn's are null.
pub(crate) fn to_batch(schema: &SchemaRef, every: i64, rows: &[Row]) -> Result<RecordBatch, ArrowError> {
    let columns = schema.fields().iter().map(|field| {
        column(field.name(), every, rows).unwrap_or_else(|| new_null_array(field.data_type(), rows.len()))
    });
    RecordBatch::try_new(schema.clone(), columns.collect())
}

fn column(name: &str, every: i64, rows: &[Row]) -> Option<ArrayRef> {
    Some(match name {
        "window_start" => times(rows, |key, _| key.start.0),
        "window_end" => times(rows, |key, _| key.start.0.saturating_add(every)),
        "first_ts" => times(rows, |_, row| row.first.ts.0),
        "last_ts" => times(rows, |_, row| row.last.ts.0),
        "device_id" => names(rows, |key| &key.series.device_id),
        "sensor" => names(rows, |key| &key.series.sensor),
        "metric" => names(rows, |key| &key.series.metric),
        "unit" => Arc::new(StringArray::from_iter(
            rows.iter().map(|(_, row)| row.unit.as_deref()),
        )),
        "count" => Arc::new(Int64Array::from_iter_values(
            rows.iter()
                .map(|(_, row)| i64::try_from(row.count).unwrap_or(i64::MAX)),
        )),
        "min" => numbers(rows, |row| Some(row.min)),
        "max" => numbers(rows, |row| Some(row.max)),
        "mean" => numbers(rows, |row| Some(row.mean())),
        "sum" => numbers(rows, |row| Some(row.sum())),
        "stddev" => numbers(rows, Aggregate::stddev),
        "first" => numbers(rows, |row| Some(row.first.value)),
        "last" => numbers(rows, |row| Some(row.last.value)),
        "m2" => numbers(rows, |row| Some(row.m2())),
        _ => return None,
    })
}

fn times(rows: &[Row], value: impl Fn(&Key, &Aggregate) -> i64) -> ArrayRef {
    let values = rows.iter().map(|(key, row)| value(key, row));
    Arc::new(TimestampMicrosecondArray::from_iter_values(values).with_timezone("+00:00"))
}

fn names(rows: &[Row], value: impl Fn(&Key) -> &str) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(
        rows.iter().map(|(key, _)| value(key)),
    ))
}

fn numbers(rows: &[Row], value: impl Fn(&Aggregate) -> Option<f64>) -> ArrayRef {
    Arc::new(Float64Array::from_iter(rows.iter().map(|(_, row)| value(row))))
}

/// Adds the batch's rows to `out`. Errors where the batch isn't one of a window table.
pub(crate) fn from_batch(
    batch: &RecordBatch,
    hasher: &SeriesHasher,
    out: &mut Vec<Row>,
) -> Result<(), RowsError> {
    let columns = Columns { batch };
    let time = |name| columns.primitive::<TimestampMicrosecondType>(name);
    let number = |name| columns.primitive::<Float64Type>(name);
    let (start, first_ts, last_ts) = (time("window_start")?, time("first_ts")?, time("last_ts")?);
    let (device, sensor, metric) = (
        columns.text("device_id")?,
        columns.text("sensor")?,
        columns.text("metric")?,
    );
    let count = columns.primitive::<Int64Type>("count")?;
    let (min, max, sum, m2) = (number("min")?, number("max")?, number("sum")?, number("m2")?);
    let (first, last) = (number("first")?, number("last")?);
    let unit = columns.text("unit")?;
    out.reserve(batch.num_rows());
    for row in 0..batch.num_rows() {
        let series = hasher.series(device.get(row)?, sensor.get(row)?, metric.get(row)?);
        let ends = (
            Point {
                ts: UnixMicros(first_ts.get(row)?),
                value: first.get(row)?,
            },
            Point {
                ts: UnixMicros(last_ts.get(row)?),
                value: last.get(row)?,
            },
        );
        let range = (min.get(row)?, max.get(row)?);
        let count = u64::try_from(count.get(row)?).unwrap_or(0);
        let mut aggregate = Aggregate::restored(count, sum.get(row)?, m2.get(row)?, range, ends);
        aggregate.unit = unit.optional(row).map(Arc::from);
        out.push((
            Key {
                start: UnixMicros(start.get(row)?),
                series,
            },
            aggregate,
        ));
    }
    Ok(())
}

struct Columns<'a> {
    batch: &'a RecordBatch,
}

impl<'a> Columns<'a> {
    fn find(&self, name: &'static str) -> Result<&'a ArrayRef, RowsError> {
        self.batch
            .column_by_name(name)
            .ok_or(RowsError::Missing { column: name })
    }

    fn primitive<T: arrow_array::ArrowPrimitiveType>(
        &self,
        name: &'static str,
    ) -> Result<Column<&'a PrimitiveArray<T>>, RowsError> {
        let array = self.find(name)?;
        let typed = array
            .as_primitive_opt::<T>()
            .ok_or_else(|| type_error(name, array))?;
        Ok(Column { name, array: typed })
    }

    fn text(&self, name: &'static str) -> Result<Column<&'a StringArray>, RowsError> {
        let array = self.find(name)?;
        let typed = array
            .as_string_opt::<i32>()
            .ok_or_else(|| type_error(name, array))?;
        Ok(Column { name, array: typed })
    }
}

fn type_error(column: &'static str, array: &ArrayRef) -> RowsError {
    RowsError::Type {
        column,
        found: array.data_type().to_string(),
    }
}

struct Column<A> {
    name: &'static str,
    array: A,
}

impl<T: arrow_array::ArrowPrimitiveType> Column<&PrimitiveArray<T>> {
    fn get(&self, row: usize) -> Result<T::Native, RowsError> {
        match self.array.is_null(row) {
            true => Err(RowsError::Null {
                column: self.name,
                row,
            }),
            false => Ok(self.array.value(row)),
        }
    }
}

impl<'a> Column<&'a StringArray> {
    fn get(&self, row: usize) -> Result<&'a str, RowsError> {
        self.optional(row).ok_or(RowsError::Null {
            column: self.name,
            row,
        })
    }

    fn optional(&self, row: usize) -> Option<&'a str> {
        (!self.array.is_null(row)).then(|| self.array.value(row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::TableSpec;

    fn row(hasher: &SeriesHasher, start: i64, device: &str, unit: Option<&str>) -> Row {
        let key = Key {
            start: UnixMicros(start),
            series: hasher.series(device, "s", "m"),
        };
        let mut row = Aggregate::of(
            Point {
                ts: UnixMicros(start + 3),
                value: 1.5,
            },
            unit,
        );
        row.add(
            Point {
                ts: UnixMicros(start + 1),
                value: 4.0,
            },
            None,
        );
        (key, row)
    }

    #[test]
    fn rows_come_back_as_they_were() {
        let hasher = SeriesHasher::default();
        let rows = vec![row(&hasher, 0, "a", Some("Cel")), row(&hasher, 60, "b", None)];
        let schema = TableSpec::window("w").arrow_schema();
        let batch = to_batch(&schema, 60, &rows).unwrap();
        let mut back = Vec::new();
        from_batch(&batch, &hasher, &mut back).unwrap();
        assert_eq!(back, rows);
    }

    #[test]
    fn a_row_without_its_state_is_an_error() {
        let schema = TableSpec::window("w").arrow_schema();
        let hasher = SeriesHasher::default();
        let batch = to_batch(&schema, 60, &[row(&hasher, 0, "a", None)]).unwrap();
        let index = schema.index_of("m2").unwrap();
        let mut columns = batch.columns().to_vec();
        columns[index] = new_null_array(schema.field(index).data_type(), 1);
        let broken = RecordBatch::try_new(schema.clone(), columns).unwrap();
        let error = from_batch(&broken, &hasher, &mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "column m2 is null in row 0");
        let missing = batch.project(&[0]).unwrap();
        let error = from_batch(&missing, &hasher, &mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "there is no column first_ts");
    }
}
