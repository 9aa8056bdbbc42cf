//! Fills a lake with known rows and serves its catalog, to be read by hand with any Iceberg engine:
//!
//! ```text
//! cargo run -p tarn-processor --example lake -- DIR COMMITS [PORT]
//! ```
//!
//! Every commit adds one file of readings and replaces the window table's one file. Prints how long commits took.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use arrow_array::builder::{MapBuilder, MapFieldNames, StringBuilder};
use arrow_array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, new_null_array,
};
use iceberg::spec::{DataContentType, DataFile};
use iceberg::writer::file_writer::{FileWriter, FileWriterBuilder, ParquetWriterBuilder};
use parquet::file::properties::WriterProperties;
use tarn_processor::catalog::{Lake, LakeOptions};
use tarn_processor::commit::TableChange;
use tarn_processor::storage::Warehouse;
use tarn_processor::tables::TableSpec;

const ROWS: i64 = 5_000;
const FIRST_DAY: i32 = 20_284;
const DAYS: i32 = 3;
const DAY_US: i64 = 86_400_000_000;

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().context("usage: lake DIR COMMITS [PORT]")?;
    let commits: i64 = args.next().context("how many commits?")?.parse()?;
    let port: u16 = args.next().map_or(Ok(0), |port| port.parse())?;
    let dir = Path::new(&dir);
    let options = LakeOptions {
        warehouse: Warehouse::Local(dir.join("warehouse")),
        catalog: dir.join("catalog.db"),
    };
    let lake = Lake::open(options).await?;
    let (readings, windows, letters) = (
        TableSpec::readings(),
        TableSpec::window("readings_1m"),
        TableSpec::dead_letters(),
    );
    for spec in [&readings, &windows, &letters] {
        lake.ensure_table(spec).await?;
    }
    let epoch = lake.claim_writer().await?;
    let mut hot: Vec<String> = Vec::new();
    let mut times = Vec::new();
    for number in 0..commits {
        let day = FIRST_DAY + (number % i64::from(DAYS)) as i32;
        let mark = BTreeMap::from([(
            "tarn.watermark.S".to_owned(),
            format!("{{\"seq\":{}}}", number * ROWS),
        )]);
        let change = |table: &TableSpec, add, remove| TableChange {
            table: table.name.clone(),
            add,
            remove,
            set_properties: mark.clone(),
            summary: mark.clone(),
        };
        let file = write(&lake, &readings, day, reading_rows(&readings, number, day)?).await?;
        let window = write(&lake, &windows, FIRST_DAY, window_rows(&windows, number)?).await?;
        let next_hot = vec![window.file_path().to_owned()];
        let changes = vec![
            change(&readings, vec![file], vec![]),
            change(&windows, vec![window], std::mem::replace(&mut hot, next_hot)),
            change(&letters, vec![], vec![]),
        ];
        let start = now();
        lake.commit(epoch, changes).await?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    if let (Some(middle), Some(last)) = (times.get(times.len() / 2), times.get(times.len() * 99 / 100)) {
        println!(
            "{} commits of three tables: p50 {middle:.1?}, p99 {last:.1?}",
            times.len()
        );
    }
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("http://{}/catalog", listener.local_addr()?);
    axum::serve(listener, axum::Router::new().nest("/catalog", lake.rest_router())).await?;
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a program that measures")]
fn now() -> Instant {
    Instant::now()
}

async fn write(lake: &Lake, spec: &TableSpec, day: i32, batch: RecordBatch) -> Result<DataFile> {
    let location = lake.data_location(&spec.name, Some(day));
    let output = lake.storage().file_io().new_output(&location)?;
    let mut writer = ParquetWriterBuilder::new(WriterProperties::default(), spec.schema.clone())
        .build(output)
        .await?;
    writer.write(&batch).await?;
    let mut built = writer.close().await?;
    let file = built.first_mut().context("one file")?;
    Ok(file
        .content(DataContentType::Data)
        .partition(spec.partition(day))
        .partition_spec_id(0)
        .build()?)
}

fn reading_rows(spec: &TableSpec, number: i64, day: i32) -> Result<RecordBatch> {
    let schema = spec.arrow_schema();
    let text = |make: &dyn Fn(i64) -> String| -> ArrayRef {
        Arc::new((0..ROWS).map(make).map(Some).collect::<StringArray>())
    };
    let times = |make: &dyn Fn(i64) -> i64| -> ArrayRef {
        let values = (0..ROWS).map(make).collect::<Vec<_>>();
        Arc::new(TimestampMicrosecondArray::from(values).with_timezone("+00:00"))
    };
    let arrow_schema::DataType::Map(entries, _) = schema.field_with_name("attributes")?.data_type() else {
        anyhow::bail!("attributes is a map");
    };
    let arrow_schema::DataType::Struct(pair) = entries.data_type() else {
        anyhow::bail!("of pairs")
    };
    let names = MapFieldNames {
        entry: "key_value".into(),
        key: "key".into(),
        value: "value".into(),
    };
    let mut attributes = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new())
        .with_keys_field(pair[0].clone())
        .with_values_field(pair[1].clone());
    for i in 0..ROWS {
        attributes.keys().append_value("room");
        attributes.values().append_value(format!("r{}", i % 7));
        attributes.append(i % 2 == 0)?;
    }
    let start = i64::from(day) * DAY_US;
    let columns: Vec<ArrayRef> = vec![
        text(&|i| format!("device{:04}", i % 100)),
        text(&|_| "temperature".to_owned()),
        text(&|_| "value".to_owned()),
        times(&|i| start + (number * ROWS + i) * 1000),
        Arc::new((0..ROWS).map(|i| (i % 50) as f64).collect::<Float64Array>()),
        new_null_array(&arrow_schema::DataType::Utf8, ROWS as usize),
        text(&|_| "Cel".to_owned()),
        new_null_array(&arrow_schema::DataType::Utf8, ROWS as usize),
        Arc::new(attributes.finish()),
        text(&|i| format!("sensors.temperature.device{:04}", i % 100)),
        Arc::new((0..ROWS).map(|i| number * ROWS + i + 1).collect::<Int64Array>()),
        times(&|i| start + (number * ROWS + i) * 1000 + 5),
    ];
    Ok(RecordBatch::try_new(schema, columns)?)
}

/// One window whose count is the number of all readings so far.
fn window_rows(spec: &TableSpec, number: i64) -> Result<RecordBatch> {
    let schema = spec.arrow_schema();
    let columns = schema.fields().iter().map(|field| -> ArrayRef {
        let start = i64::from(FIRST_DAY) * DAY_US;
        match field.name().as_str() {
            "window_start" => Arc::new(TimestampMicrosecondArray::from(vec![start]).with_timezone("+00:00")),
            "window_end" => Arc::new(TimestampMicrosecondArray::from(vec![start]).with_timezone("+00:00")),
            "device_id" | "sensor" | "metric" => Arc::new(StringArray::from(vec!["all"])),
            "count" => Arc::new(Int64Array::from(vec![(number + 1) * ROWS])),
            _ => new_null_array(field.data_type(), 1),
        }
    });
    Ok(RecordBatch::try_new(schema.clone(), columns.collect())?)
}
