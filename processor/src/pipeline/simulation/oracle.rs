//! What was published, and what the tables must then hold.

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, TimestampMicrosecondType};
use futures::TryStreamExt;
use tarn_schemas::UnixMicros;

use crate::catalog::Lake;
use crate::watermark::{StreamSeq, Watermark};

/// 2026-01-05T23:55:00Z: midnight falls into the run.
const BEGIN: i64 = 1_767_657_300_000_000;
const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;

/// One message, and what its rows are.
#[derive(Clone, Debug)]
pub(super) struct Published {
    pub(super) seq: StreamSeq,
    pub(super) published: UnixMicros,
    pub(super) subject: String,
    pub(super) payload: String,
    rows: Vec<Row>,
}

/// Device, metric, time, value, text.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    device: String,
    metric: &'static str,
    ts: i64,
    value: Option<f64>,
    text: Option<String>,
}

#[derive(Default)]
pub(super) struct Oracle {
    messages: Vec<Published>,
    clock: i64,
}

impl Oracle {
    /// The last message.
    pub(super) fn last(&self) -> StreamSeq {
        self.messages
            .last()
            .map(|message| message.seq)
            .unwrap_or_default()
    }

    /// Messages after `seq`.
    pub(super) fn behind(&self, seq: StreamSeq) -> impl Iterator<Item = &Published> {
        self.messages.iter().filter(move |message| message.seq > seq)
    }

    /// Publishes a message of a kind, `skip` sequences further on than it need be.
    pub(super) fn publish(
        &mut self,
        skip: u64,
        kind: u64,
        offset: u64,
        device: u64,
        value: f64,
        late_days: u64,
    ) {
        let seq = StreamSeq(self.last().0 + 1 + skip / 2);
        self.clock += 1;
        let late = i64::try_from(late_days).unwrap() * DAY;
        let ts = BEGIN + i64::try_from(offset).unwrap() * SECOND - late + self.clock;
        let device = format!("d{device}");
        let row = |metric, ts, value, text| Row {
            device: device.clone(),
            metric,
            ts,
            value,
            text,
        };
        let (payload, rows) = match kind {
            0 => (format!("not json {}", self.clock), Vec::new()),
            1 => (
                format!(r#"{{"timestamp":{ts},"value":"on"}}"#),
                vec![row("value", ts, None, Some("on".to_owned()))],
            ),
            2 => {
                let second = ts + 61 * SECOND;
                let payload =
                    format!(r#"[{{"timestamp":{ts},"value":{value}}},{{"timestamp":{second},"value":1}}]"#);
                (
                    payload,
                    vec![
                        row("value", ts, Some(value), None),
                        row("value", second, Some(1.0), None),
                    ],
                )
            }
            3 => {
                let payload = format!(r#"{{"timestamp":{ts},"humidity":{value},"lit":true}}"#);
                (
                    payload,
                    vec![
                        row("humidity", ts, Some(value), None),
                        row("lit", ts, Some(1.0), None),
                    ],
                )
            }
            _ => (
                format!(r#"{{"timestamp":{ts},"value":{value}}}"#),
                vec![row("value", ts, Some(value), None)],
            ),
        };
        let subject = format!("sensors.temperature.{device}");
        self.messages.push(Published {
            seq,
            published: UnixMicros(ts),
            subject,
            payload,
            rows,
        });
    }

    /// Holds all tables against the messages up to the watermark that they all have; returns it.
    pub(super) async fn check(&self, lake: &Lake, stream: &str, window_table: &str) -> StreamSeq {
        let mut watermarks = BTreeSet::new();
        for table in ["readings", "dead_letters", window_table] {
            let properties = lake
                .read_table(table)
                .await
                .unwrap()
                .properties()
                .into_iter()
                .collect();
            watermarks.insert(
                Watermark::read(&properties, stream)
                    .unwrap()
                    .map(|at| at.seq)
                    .unwrap_or_default(),
            );
        }
        assert_eq!(
            watermarks.len(),
            1,
            "the tables' watermarks differ: {watermarks:?}"
        );
        let at = watermarks.pop_first().unwrap();
        let messages: Vec<&Published> = self.messages.iter().filter(|message| message.seq <= at).collect();
        check_readings(lake, &messages).await;
        check_dead_letters(lake, &messages).await;
        check_windows(lake, window_table, &messages).await;
        at
    }
}

async fn batches(lake: &Lake, table: &str, columns: &[&str]) -> Vec<RecordBatch> {
    let table = lake.read_table(table).await.unwrap();
    table.scan(columns).await.unwrap().try_collect().await.unwrap()
}

fn texts(batch: &RecordBatch, column: &str) -> Vec<Option<String>> {
    let column = batch.column_by_name(column).unwrap().as_string::<i32>();
    column.iter().map(|text| text.map(str::to_owned)).collect()
}

fn numbers(batch: &RecordBatch, column: &str) -> Vec<Option<f64>> {
    batch
        .column_by_name(column)
        .unwrap()
        .as_primitive::<Float64Type>()
        .iter()
        .collect()
}

fn longs(batch: &RecordBatch, column: &str) -> Vec<i64> {
    batch
        .column_by_name(column)
        .unwrap()
        .as_primitive::<Int64Type>()
        .values()
        .to_vec()
}

fn times(batch: &RecordBatch, column: &str) -> Vec<i64> {
    batch
        .column_by_name(column)
        .unwrap()
        .as_primitive::<TimestampMicrosecondType>()
        .values()
        .to_vec()
}

async fn check_readings(lake: &Lake, messages: &[&Published]) {
    let columns = [
        "device_id",
        "metric",
        "ts",
        "value",
        "text",
        "stream_seq",
        "subject",
        "sensor",
    ];
    let mut found = Vec::new();
    for batch in batches(lake, "readings", &columns).await {
        let (devices, metrics, ts) = (
            texts(&batch, "device_id"),
            texts(&batch, "metric"),
            times(&batch, "ts"),
        );
        let (values, text, seqs) = (
            numbers(&batch, "value"),
            texts(&batch, "text"),
            longs(&batch, "stream_seq"),
        );
        let sensors = texts(&batch, "sensor");
        for row in 0..batch.num_rows() {
            assert_eq!(sensors[row].as_deref(), Some("temperature"));
            found.push(format!(
                "{} {:?} {:?} {} {:?} {:?}",
                seqs[row], devices[row], metrics[row], ts[row], values[row], text[row]
            ));
        }
    }
    let mut expected = Vec::new();
    for message in messages {
        for row in &message.rows {
            let (device, metric) = (Some(&row.device), Some(row.metric));
            expected.push(format!(
                "{} {device:?} {metric:?} {} {:?} {:?}",
                message.seq.0, row.ts, row.value, row.text
            ));
        }
    }
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

async fn check_dead_letters(lake: &Lake, messages: &[&Published]) {
    let mut found = Vec::new();
    for batch in batches(
        lake,
        "dead_letters",
        &["stream_seq", "payload", "reason", "stream"],
    )
    .await
    {
        let payloads = batch.column_by_name("payload").unwrap().as_binary::<i64>();
        for (row, seq) in longs(&batch, "stream_seq").into_iter().enumerate() {
            let payload = String::from_utf8(payloads.value(row).to_vec()).unwrap();
            found.push((
                seq,
                payload,
                texts(&batch, "reason")[row].clone(),
                texts(&batch, "stream")[row].clone(),
            ));
        }
    }
    found.sort();
    let dead = messages.iter().filter(|message| message.rows.is_empty());
    let expected: Vec<_> = dead
        .map(|message| {
            let seq = i64::try_from(message.seq.0).unwrap();
            (
                seq,
                message.payload.clone(),
                Some("invalid_json".to_owned()),
                Some("SENSORS".to_owned()),
            )
        })
        .collect();
    assert_eq!(found, expected);
}

/// Count, sum, min, max, first, last, mean, stddev.
type Figures = (i64, [f64; 6], Option<f64>);

async fn check_windows(lake: &Lake, table: &str, messages: &[&Published]) {
    let mut groups: BTreeMap<(i64, String, String), Vec<(i64, f64)>> = BTreeMap::new();
    for row in messages.iter().flat_map(|message| &message.rows) {
        let Some(value) = row.value else { continue };
        let start = row.ts.div_euclid(60 * SECOND) * 60 * SECOND;
        groups
            .entry((start, row.device.clone(), row.metric.to_owned()))
            .or_default()
            .push((row.ts, value));
    }
    let expected: BTreeMap<_, Figures> = groups
        .into_iter()
        .map(|(key, rows)| (key, figures(rows)))
        .collect();
    let columns = [
        "window_start",
        "window_end",
        "device_id",
        "metric",
        "count",
        "sum",
        "min",
        "max",
        "first",
        "last",
        "mean",
        "stddev",
    ];
    let mut found: BTreeMap<(i64, String, String), Figures> = BTreeMap::new();
    for batch in batches(lake, table, &columns).await {
        let (starts, ends) = (times(&batch, "window_start"), times(&batch, "window_end"));
        let (devices, metrics) = (texts(&batch, "device_id"), texts(&batch, "metric"));
        let figures: Vec<_> = ["sum", "min", "max", "first", "last", "mean"]
            .iter()
            .map(|column| numbers(&batch, column))
            .collect();
        let (counts, stddev) = (longs(&batch, "count"), numbers(&batch, "stddev"));
        for row in 0..batch.num_rows() {
            assert_eq!(ends[row], starts[row] + 60 * SECOND);
            let key = (
                starts[row],
                devices[row].clone().unwrap(),
                metrics[row].clone().unwrap(),
            );
            let values = std::array::from_fn(|index| figures[index][row].unwrap());
            let second = found.insert(key.clone(), (counts[row], values, stddev[row]));
            assert!(second.is_none(), "{key:?} has two rows");
        }
    }
    assert_eq!(
        found.keys().collect::<Vec<_>>(),
        expected.keys().collect::<Vec<_>>()
    );
    for (key, (count, values, stddev)) in &found {
        let (expected_count, expected_values, expected_stddev) = &expected[key];
        assert_eq!(count, expected_count, "{key:?}");
        for (value, expected) in values.iter().zip(expected_values) {
            assert!(
                (value - expected).abs() < 1e-9,
                "{key:?}: {values:?} {expected_values:?}"
            );
        }
        assert_eq!(stddev.is_some(), expected_stddev.is_some(), "{key:?}");
        assert!(
            (stddev.unwrap_or(0.0) - expected_stddev.unwrap_or(0.0)).abs() < 1e-6,
            "{key:?}"
        );
    }
}

fn figures(mut rows: Vec<(i64, f64)>) -> Figures {
    rows.sort_by_key(|(ts, _)| *ts);
    let values: Vec<f64> = rows.iter().map(|(_, value)| *value).collect();
    let count = values.len() as f64;
    let sum: f64 = values.iter().sum();
    let min = values.iter().copied().fold(f64::INFINITY, f64::min);
    let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let squares: f64 = values.iter().map(|value| (value - sum / count).powi(2)).sum();
    let stddev = (values.len() > 1).then(|| (squares / (count - 1.0)).sqrt());
    (
        i64::try_from(values.len()).unwrap(),
        [sum, min, max, values[0], values[values.len() - 1], sum / count],
        stddev,
    )
}
