//! Rows in, Arrow out.

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};

use super::*;
use crate::tables::TableSpec;
use crate::window::{DAY_MICROS, SeriesHasher};

fn schemas() -> Schemas {
    Schemas {
        readings: TableSpec::readings().arrow_schema(),
        dead_letters: TableSpec::dead_letters().arrow_schema(),
        windows: Arc::from([60_000_000, 3_600_000_000]),
    }
}

fn batch(rows_max: usize, bytes_max: usize, partitions_max: usize) -> Batch {
    Batch::new(
        BatchLimits {
            rows_max,
            bytes_max,
            partitions_max,
        },
        schemas(),
    )
}

fn reading(ts: i64, value: Option<f64>) -> Reading {
    Reading {
        device_id: "d".to_owned(),
        sensor: "s".to_owned(),
        metric: "value".to_owned(),
        ts: UnixMicros(ts),
        value,
        text: value.is_none().then(|| "on".to_owned()),
        unit: None,
        location: None,
        attributes: BTreeMap::from([("a".to_owned(), "1".to_owned())]),
    }
}

fn origin(seq: u64) -> MessageOrigin<'static> {
    MessageOrigin {
        stream: "S",
        seq,
        subject: "sensors.s.d",
        published: UnixMicros(5_000),
        bytes: 10,
    }
}

#[test]
fn rows_are_split_by_day_and_windows_count_numbers_only() {
    let mut batch = batch(100, 1 << 20, 10);
    let mut series = SeriesTable::new(SeriesHasher::default());
    let rows = [
        reading(0, Some(1.0)),
        reading(DAY_MICROS - 1, None),
        reading(DAY_MICROS, Some(2.0)),
    ];
    batch.push_readings(&rows, origin(7), &mut series);
    let figures = batch.figures();
    assert_eq!(
        (figures.messages, figures.readings, figures.dead_letters),
        (1, 3, 0)
    );
    let sealed = batch.seal(UnixMicros(9)).unwrap();
    let days: Vec<_> = sealed
        .readings
        .iter()
        .map(|(day, rows)| (*day, rows.num_rows()))
        .collect();
    assert_eq!(days, [(0, 2), (1, 1)]);
    let first = &sealed.readings[0].1;
    assert_eq!(
        first
            .column_by_name("stream_seq")
            .unwrap()
            .as_primitive::<Int64Type>()
            .values(),
        &[7, 7]
    );
    let ingested_at = first
        .column_by_name("ingested_at")
        .unwrap()
        .as_primitive::<TimestampMicrosecondType>();
    assert_eq!(ingested_at.values(), &[9, 9]);
    assert_eq!(
        first.column_by_name("text").unwrap().as_string::<i32>().value(1),
        "on"
    );
    assert!(first.column_by_name("value").unwrap().is_null(1));
    assert_eq!(
        sealed
            .deltas
            .iter()
            .map(|delta| delta.rows().len())
            .collect::<Vec<_>>(),
        [2, 2]
    );
}

#[test]
fn a_batch_is_full_by_rows_bytes_or_days() {
    let mut series = SeriesTable::default();
    let mut by_rows = batch(2, 1 << 20, 10);
    by_rows.push_readings(&[reading(0, Some(1.0))], origin(1), &mut series);
    assert!(!by_rows.is_full());
    by_rows.push_readings(&[reading(0, Some(1.0))], origin(2), &mut series);
    assert!(by_rows.is_full());
    let mut by_bytes = batch(100, 80, 10);
    by_bytes.push_readings(&[reading(0, Some(1.0))], origin(1), &mut series);
    assert!(by_bytes.is_full());
    let mut by_days = batch(100, 1 << 20, 2);
    by_days.push_readings(
        &[reading(0, Some(1.0)), reading(DAY_MICROS, None)],
        origin(1),
        &mut series,
    );
    assert!(by_days.is_full());
}

#[test]
fn a_dead_letter_keeps_everything() {
    let mut batch = batch(100, 1 << 20, 10);
    let headers = vec![
        ("Nats-Msg-Id".to_owned(), "7".to_owned()),
        (String::new(), String::new()),
    ];
    let letter = DeadLetter {
        reason: "not_utf8",
        detail: "byte 0".to_owned(),
        payload: b"\xff\x00",
        headers,
    };
    batch.push_dead_letter(&letter, origin(3));
    batch.push_dead_letter(
        &DeadLetter {
            reason: "empty_payload",
            detail: String::new(),
            payload: b"",
            headers: vec![],
        },
        origin(4),
    );
    let sealed = batch.seal(UnixMicros(9)).unwrap();
    let (day, rows) = &sealed.dead_letters[0];
    assert_eq!((*day, rows.num_rows()), (0, 2));
    assert_eq!(
        rows.column_by_name("payload")
            .unwrap()
            .as_binary::<i64>()
            .value(0),
        b"\xff\x00"
    );
    let headers = rows.column_by_name("headers").unwrap().as_map();
    assert_eq!(headers.value(0).len(), 2);
    assert!(headers.is_null(1));
}

#[test]
fn publish_times_are_runs_of_milliseconds() {
    let mut times = PublishTimes::default();
    for micros in [1_000, 1_999, 2_000, 1_500] {
        times.add(UnixMicros(micros));
    }
    assert_eq!(
        times.ages(UnixMicros(11_000)).collect::<Vec<_>>(),
        [(10, 2), (9, 1), (10, 1)]
    );
    assert_eq!(
        times.ages(UnixMicros(0)).next(),
        Some((0, 2)),
        "a clock that went back gives no negative age"
    );
}

#[test]
fn headers_count_toward_the_bytes_of_a_batch() {
    let mut batch = batch(100_000, 64 << 10, 10);
    let decoder = tarn_schemas::Decoder::default();
    let mut decoder = crate::decode::MessageDecoder::new(decoder, SeriesTable::default());
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Note", "x".repeat(8 << 10).as_str());
    for seq in 1..=8 {
        assert!(!batch.is_full(), "before message {seq}");
        let message = crate::source::Delivered {
            seq: crate::watermark::StreamSeq(seq),
            published: UnixMicros(0),
            subject: "sensors.s.d".into(),
            headers: Some(headers.clone()),
            payload: bytes::Bytes::new(),
            ack: "".into(),
        };
        decoder.decode_into("S", &message, &mut batch);
    }
    assert!(batch.is_full(), "{:?}", batch.figures());
}

#[test]
fn a_day_with_one_row_takes_little_memory() {
    let mut batch = batch(100_000, 64 << 20, 10);
    let rows: Vec<_> = (0..10_000)
        .map(|day| reading(day * DAY_MICROS, Some(1.0)))
        .collect();
    batch.push_readings(&rows, origin(1), &mut SeriesTable::default());
    let sealed = batch.seal(UnixMicros(9)).unwrap();
    assert_eq!(sealed.readings.len(), 10_000);
    let bytes = sealed
        .readings
        .iter()
        .map(|(_, rows)| rows.get_array_memory_size());
    let bytes: usize = bytes.sum();
    assert!(bytes < 64 << 20, "one message takes {bytes} bytes");
}

#[test]
fn a_batch_is_full_before_its_columns_overflow() {
    let mut batch = batch(usize::MAX, usize::MAX, 10);
    let large = MessageOrigin {
        bytes: 1 << 29,
        ..origin(1)
    };
    let mut series = SeriesTable::default();
    batch.push_readings(&[reading(0, None)], large, &mut series);
    assert!(!batch.is_full());
    batch.push_readings(&[reading(0, None)], large, &mut series);
    assert!(batch.is_full());
}
