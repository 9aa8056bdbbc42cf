//! The tables' rows as values, streamed in the reader's batches.

use futures::TryStreamExt;
use futures::stream::BoxStream;
use tarn_processor::read::ReadTable;

use super::AuditError;
use super::columns::{bytes, double, long, optional, text, time};

/// One row of `readings`, as far as an audit needs it.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadingRow {
    /// Which device.
    pub device_id: String,
    /// Which sensor.
    pub sensor: String,
    /// Which measured field.
    pub metric: String,
    /// When, in microseconds since 1970.
    pub ts: i64,
    /// The number, if it is one.
    pub value: Option<f64>,
    /// The text, if it is one.
    pub text: Option<String>,
    /// The message it came in.
    pub stream_seq: i64,
}

/// One row of `dead_letters`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRow {
    /// Why it was refused: a stable name.
    pub reason: String,
    /// The same in words.
    pub detail: Option<String>,
    /// Where it was published.
    pub subject: String,
    /// The stream it stands in.
    pub stream: String,
    /// Its sequence there.
    pub stream_seq: i64,
    /// What was sent.
    pub payload: Vec<u8>,
    /// When it came, in microseconds since 1970.
    pub received_at: i64,
}

/// One row of a window table.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowRow {
    /// Where the window begins, in microseconds since 1970.
    pub window_start: i64,
    /// Where it ends.
    pub window_end: i64,
    /// Which device.
    pub device_id: String,
    /// Which sensor.
    pub sensor: String,
    /// Which measured field.
    pub metric: String,
    /// How many readings.
    pub count: i64,
    /// The smallest value.
    pub min: Option<f64>,
    /// The largest value.
    pub max: Option<f64>,
    /// Their mean.
    pub mean: Option<f64>,
    /// Their sum.
    pub sum: Option<f64>,
    /// Their sample standard deviation.
    pub stddev: Option<f64>,
    /// The value of the earliest reading.
    pub first: Option<f64>,
    /// The value of the latest reading.
    pub last: Option<f64>,
}

/// Calls `each` for every row of `readings`.
pub async fn readings(table: &ReadTable, mut each: impl FnMut(ReadingRow)) -> Result<(), AuditError> {
    const COLUMNS: [&str; 7] = [
        "device_id",
        "sensor",
        "metric",
        "ts",
        "value",
        "text",
        "stream_seq",
    ];
    let mut batches: BoxStream<'_, _> = table.scan(&COLUMNS).await?;
    while let Some(batch) = batches.try_next().await? {
        let (device, sensor, metric) = (
            text(&batch, "device_id")?,
            text(&batch, "sensor")?,
            text(&batch, "metric")?,
        );
        let (ts, value, seq) = (
            time(&batch, "ts")?,
            double(&batch, "value")?,
            long(&batch, "stream_seq")?,
        );
        let words = text(&batch, "text")?;
        for row in 0..batch.num_rows() {
            each(ReadingRow {
                device_id: device.value(row).to_owned(),
                sensor: sensor.value(row).to_owned(),
                metric: metric.value(row).to_owned(),
                ts: ts.value(row),
                value: optional(value, row, |array, row| array.value(row)),
                text: optional(words, row, |array, row| array.value(row).to_owned()),
                stream_seq: seq.value(row),
            });
        }
    }
    Ok(())
}

/// Calls `each` for every row of `dead_letters`.
pub async fn dead_letters(table: &ReadTable, mut each: impl FnMut(RefusedRow)) -> Result<(), AuditError> {
    const COLUMNS: [&str; 7] = [
        "reason",
        "detail",
        "subject",
        "stream",
        "stream_seq",
        "payload",
        "received_at",
    ];
    let mut batches: BoxStream<'_, _> = table.scan(&COLUMNS).await?;
    while let Some(batch) = batches.try_next().await? {
        let (reason, detail) = (text(&batch, "reason")?, text(&batch, "detail")?);
        let (subject, stream) = (text(&batch, "subject")?, text(&batch, "stream")?);
        let (seq, received) = (long(&batch, "stream_seq")?, time(&batch, "received_at")?);
        for row in 0..batch.num_rows() {
            each(RefusedRow {
                reason: reason.value(row).to_owned(),
                detail: optional(detail, row, |array, row| array.value(row).to_owned()),
                subject: subject.value(row).to_owned(),
                stream: stream.value(row).to_owned(),
                stream_seq: seq.value(row),
                payload: bytes(&batch, "payload", row)?.to_vec(),
                received_at: received.value(row),
            });
        }
    }
    Ok(())
}

/// Calls `each` for every row of a window table.
pub async fn windows(table: &ReadTable, mut each: impl FnMut(WindowRow)) -> Result<(), AuditError> {
    const COLUMNS: [&str; 13] = [
        "window_start",
        "window_end",
        "device_id",
        "sensor",
        "metric",
        "count",
        "min",
        "max",
        "mean",
        "sum",
        "stddev",
        "first",
        "last",
    ];
    let mut batches: BoxStream<'_, _> = table.scan(&COLUMNS).await?;
    while let Some(batch) = batches.try_next().await? {
        let (start, end) = (time(&batch, "window_start")?, time(&batch, "window_end")?);
        let (device, sensor, metric) = (
            text(&batch, "device_id")?,
            text(&batch, "sensor")?,
            text(&batch, "metric")?,
        );
        let count = long(&batch, "count")?;
        let (min, max) = (double(&batch, "min")?, double(&batch, "max")?);
        let (mean, sum, stddev) = (
            double(&batch, "mean")?,
            double(&batch, "sum")?,
            double(&batch, "stddev")?,
        );
        let (first, last) = (double(&batch, "first")?, double(&batch, "last")?);
        for row in 0..batch.num_rows() {
            let number = |array| {
                optional(array, row, |array: &arrow_array::Float64Array, row| {
                    array.value(row)
                })
            };
            each(WindowRow {
                window_start: start.value(row),
                window_end: end.value(row),
                device_id: device.value(row).to_owned(),
                sensor: sensor.value(row).to_owned(),
                metric: metric.value(row).to_owned(),
                count: count.value(row),
                min: number(min),
                max: number(max),
                mean: number(mean),
                sum: number(sum),
                stddev: number(stddev),
                first: number(first),
                last: number(last),
            });
        }
    }
    Ok(())
}
