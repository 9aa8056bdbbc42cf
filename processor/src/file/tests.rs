//! What a data file says about itself.

use std::collections::BTreeMap;

use arrow_array::types::TimestampMicrosecondType;
use expect_test::expect;
use iceberg::spec::{Literal, PrimitiveLiteral};
use tarn_schemas::{Reading, UnixMicros};

use super::*;
use crate::batch::ReadingRows;

const DAY: i64 = 86_400_000_000;

fn reading(number: i64) -> Reading {
    Reading {
        device_id: format!("device{:03}", number % 7),
        sensor: "temperature".to_owned(),
        metric: "value".to_owned(),
        ts: UnixMicros(20_000 * DAY + number),
        value: (number % 3 != 0).then_some(number as f64 / 2.0),
        text: (number % 3 == 0).then(|| "x".repeat(70)),
        unit: None,
        location: Some("attic".to_owned()),
        attributes: BTreeMap::from([("floor".to_owned(), "3".to_owned())]),
    }
}

fn batch(format: &FileFormat, count: i64) -> RecordBatch {
    let mut rows = ReadingRows::new(&format.arrow);
    for number in 0..count {
        rows.push(&reading(number), "sensors.temperature.d", 100 + number as u64);
    }
    rows.finish(&format.arrow, UnixMicros(20_001 * DAY)).unwrap()
}

fn described(file: &DataFile) -> String {
    let mut text = format!(
        "rows {} partition {:?} offsets {:?}\n",
        file.record_count(),
        file.partition()
            .iter()
            .map(|value| value.cloned())
            .collect::<Vec<_>>(),
        file.split_offsets().unwrap()
    );
    let ids: std::collections::BTreeSet<_> = file.value_counts().keys().collect();
    for id in ids {
        let bound =
            |bounds: &HashMap<i32, Datum>| bounds.get(id).map_or("-".to_owned(), |datum| datum.to_string());
        text.push_str(&format!(
            "{id}: values {} nulls {} nans {} bounds {} .. {}\n",
            file.value_counts()[id],
            file.null_value_counts()
                .get(id)
                .map_or("-".to_owned(), u64::to_string),
            file.nan_value_counts()
                .get(id)
                .map_or("-".to_owned(), u64::to_string),
            bound(file.lower_bounds()),
            bound(file.upper_bounds()),
        ));
    }
    text
}

#[test]
fn a_readings_file_is_described_as_it_is() {
    let format = FileFormat::new(TableSpec::readings());
    let batches = [batch(&format, 10)];
    let (bytes, metadata) = format.encode(&batches).unwrap();
    let nans = nan_counts(&format.arrow, &batches);
    let file = format
        .describe("memory:///f.parquet", 20_000, bytes.len(), &metadata, nans)
        .unwrap();
    assert_eq!(file.file_size_in_bytes(), bytes.len() as u64);
    assert_eq!(
        file.partition().iter().next().unwrap(),
        Some(&Literal::Primitive(PrimitiveLiteral::Int(20_000)))
    );
    assert!(file.column_sizes().values().sum::<u64>() < bytes.len() as u64);
    expect![[r#"
        rows 10 partition [Some(Primitive(Int(20000)))] offsets [4]
        1: values 10 nulls 0 nans - bounds "device000" .. "device006"
        2: values 10 nulls 0 nans - bounds "temperature" .. "temperature"
        3: values 10 nulls 0 nans - bounds "value" .. "value"
        4: values 10 nulls 0 nans - bounds 2024-10-04 00:00:00 UTC .. 2024-10-04 00:00:00.000009 UTC
        5: values 10 nulls 4 nans 0 bounds 0.5 .. 4
        6: values 10 nulls 6 nans - bounds "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" .. "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxy"
        7: values 10 nulls 10 nans - bounds - .. -
        8: values 10 nulls 0 nans - bounds "attic" .. "attic"
        10: values 10 nulls 0 nans - bounds "sensors.temperature.d" .. "sensors.temperature.d"
        11: values 10 nulls 0 nans - bounds 100 .. 109
        12: values 10 nulls 0 nans - bounds 2024-10-05 00:00:00 UTC .. 2024-10-05 00:00:00 UTC
        13: values 10 nulls 0 nans - bounds - .. -
        14: values 10 nulls 0 nans - bounds - .. -
    "#]].assert_eq(&described(&file));
}

#[test]
fn encodings_are_the_measured_ones() {
    let format = FileFormat::new(TableSpec::readings());
    let (_, metadata) = format.encode(&[batch(&format, 2_000)]).unwrap();
    let group = metadata.row_group(0);
    let mut text = String::new();
    for column in group.columns() {
        let encodings: Vec<String> = column.encodings().map(|encoding| encoding.to_string()).collect();
        text.push_str(&format!(
            "{} {} {}\n",
            column.column_path(),
            encodings.join(" "),
            column.compression()
        ));
    }
    expect![[r#"
        "device_id" PLAIN RLE RLE_DICTIONARY ZSTD(ZstdLevel(3))
        "sensor" PLAIN RLE RLE_DICTIONARY ZSTD(ZstdLevel(3))
        "metric" PLAIN RLE RLE_DICTIONARY ZSTD(ZstdLevel(3))
        "ts" RLE DELTA_BINARY_PACKED ZSTD(ZstdLevel(3))
        "value" PLAIN RLE RLE_DICTIONARY ZSTD(ZstdLevel(3))
        "text" PLAIN RLE RLE_DICTIONARY ZSTD(ZstdLevel(3))
        "unit" PLAIN RLE RLE_DICTIONARY ZSTD(ZstdLevel(3))
        "location" PLAIN RLE RLE_DICTIONARY ZSTD(ZstdLevel(3))
        "attributes.key_value.key" PLAIN RLE RLE_DICTIONARY ZSTD(ZstdLevel(3))
        "attributes.key_value.value" PLAIN RLE RLE_DICTIONARY ZSTD(ZstdLevel(3))
        "subject" PLAIN RLE RLE_DICTIONARY ZSTD(ZstdLevel(3))
        "stream_seq" RLE DELTA_BINARY_PACKED ZSTD(ZstdLevel(3))
        "ingested_at" RLE DELTA_BINARY_PACKED ZSTD(ZstdLevel(3))
    "#]]
    .assert_eq(&text);
}

#[test]
fn an_arrow_reader_gets_the_field_ids_and_the_rows_back() {
    let format = FileFormat::new(TableSpec::readings());
    let written = batch(&format, 100);
    let (bytes, _) = format.encode(std::slice::from_ref(&written)).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
    let ids: Vec<_> = reader
        .schema()
        .fields()
        .iter()
        .map(|field| field_id(field).unwrap())
        .collect();
    assert_eq!(ids, (1..=12).collect::<Vec<_>>());
    let read = reader.build().unwrap().next().unwrap().unwrap();
    assert_eq!(read.num_rows(), 100);
    let ts = |batch: &RecordBatch| {
        batch
            .column(3)
            .as_primitive::<TimestampMicrosecondType>()
            .values()
            .to_vec()
    };
    assert_eq!(ts(&read), ts(&written));
    for name in ["device_id", "value", "text", "stream_seq"] {
        assert_eq!(
            read.column_by_name(name).unwrap(),
            written.column_by_name(name).unwrap(),
            "{name}"
        );
    }
}

#[test]
fn bounds_of_several_row_groups_hold_for_all() {
    let mut figures = ColumnFigures::default();
    figures.widen(1, Datum::long(5), Datum::long(9));
    figures.widen(1, Datum::long(3), Datum::long(7));
    assert_eq!(
        (figures.lower[&1].clone(), figures.upper[&1].clone()),
        (Datum::long(3), Datum::long(9))
    );
    figures.unbound(1);
    figures.widen(1, Datum::long(0), Datum::long(10));
    assert!(figures.lower.is_empty() && figures.upper.is_empty());
}

#[test]
fn nan_is_counted_and_bounds_nothing() {
    let format = FileFormat::new(TableSpec::window("w"));
    let (hasher, point) = (crate::window::SeriesHasher::default(), |value| {
        crate::window::Point {
            ts: UnixMicros(0),
            value,
        }
    });
    let row = |device: &str, value| {
        let key = crate::window::Key {
            start: UnixMicros(0),
            series: hasher.series(device, "s", "m"),
        };
        (key, crate::window::Aggregate::of(point(value), None))
    };
    let rows = [row("a", f64::NAN), row("b", 2.0)];
    let batches = [crate::window::rows::to_batch(&format.arrow, 60, &rows).unwrap()];
    let (bytes, metadata) = format.encode(&batches).unwrap();
    let nans = nan_counts(&format.arrow, &batches);
    let file = format
        .describe("memory:///f", 0, bytes.len(), &metadata, nans)
        .unwrap();
    let sum = format.schema.field_id_by_name("sum").unwrap();
    assert_eq!(file.nan_value_counts()[&sum], 1);
    assert_eq!(
        (
            file.lower_bounds()[&sum].clone(),
            file.upper_bounds()[&sum].clone()
        ),
        (Datum::double(2.0), Datum::double(2.0))
    );
}
