//! Fills a stream of a running NATS server and times its way into a lake:
//! `cargo run --release -p tarn-processor --example stream_to_lake -- nats://127.0.0.1:4222 /tmp/lake 1000000`
//!
//! Then reads the tables back and compares counts. Exits with an error if a row is missing or there twice.

use std::collections::{HashSet, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use async_nats::jetstream;
use futures::TryStreamExt;
use tarn_processor::storage::Warehouse;
use tarn_processor::{Lake, LakeOptions, NatsAuth, NatsTarget, Processor, ProcessorConfig};
use tokio::time::{Instant, sleep};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const STREAM: &str = "STREAM_TO_LAKE";
const PUBLISH_WINDOW: usize = 2_000;
const DEVICES: u64 = 1_000;
/// 2026-01-05T12:00:00Z
const BEGIN_MS: u64 = 1_767_614_400_000;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().ok_or("nats url missing")?;
    let dir = PathBuf::from(arguments.next().ok_or("directory missing")?);
    let count: u64 = arguments.next().unwrap_or_else(|| "1000000".to_owned()).parse()?;
    fill(&url, count).await?;

    let lake = Lake::open(LakeOptions {
        warehouse: Warehouse::Local(dir.join("warehouse")),
        catalog: dir.join("catalog.db"),
    })
    .await?;
    let nats = NatsTarget {
        url,
        auth: NatsAuth::None,
    };
    let began = Instant::now();
    let processor =
        Processor::start(ProcessorConfig::new(nats, vec![STREAM.to_owned()]), lake.clone()).await?;
    while processor
        .stats()
        .streams
        .first()
        .is_none_or(|stream| stream.watermark.0 < count)
    {
        if began.elapsed() > Duration::from_secs(600) {
            return Err(format!("not done: {:#?}", processor.stats()).into());
        }
        sleep(Duration::from_millis(20)).await;
    }
    let took = began.elapsed();
    let stats = processor.shutdown().await;
    println!(
        "{count} messages in {took:?}: {:.0} rows/s",
        count as f64 / took.as_secs_f64()
    );
    println!(
        "{} commits, {} files, {} bytes, {:?}",
        stats.commits, stats.files, stats.file_bytes, stats.windows
    );
    println!(
        "commit p50 {} ms, p99 {} ms",
        stats.commit_latency.p50_ms, stats.commit_latency.p99_ms
    );
    compare(&lake, count).await
}

async fn fill(url: &str, count: u64) -> Result<(), Failure> {
    let client = async_nats::connect(url).await?;
    let context = jetstream::new(client);
    let config = jetstream::stream::Config {
        name: STREAM.to_owned(),
        subjects: vec!["sensors.>".to_owned()],
        ..Default::default()
    };
    if context.delete_stream(STREAM).await.is_ok() {
        println!("the stream of an earlier run is gone");
    }
    context.create_stream(config).await?;
    let mut unacknowledged = VecDeque::new();
    for number in 0..count {
        let (device, ts) = (number % DEVICES, BEGIN_MS + number);
        let value = (number * 7919 % 4001) as f64 / 100.0;
        let payload = format!(
            r#"{{"value":{value},"unit":"C","timestamp":{ts},"location":"hall-{}"}}"#,
            device % 20
        );
        unacknowledged.push_back(
            context
                .publish(format!("sensors.temperature.device{device:04}"), payload.into())
                .await?,
        );
        if unacknowledged.len() >= PUBLISH_WINDOW
            && let Some(acknowledgement) = unacknowledged.pop_front()
        {
            acknowledgement.await?;
        }
    }
    for acknowledgement in unacknowledged {
        acknowledgement.await?;
    }
    Ok(())
}

async fn compare(lake: &Lake, count: u64) -> Result<(), Failure> {
    let mut seen = HashSet::new();
    let mut rows = lake.read_table("readings").await?.scan(&["stream_seq"]).await?;
    while let Some(batch) = rows.try_next().await? {
        for seq in batch.column(0).as_primitive::<Int64Type>().values() {
            if !seen.insert(*seq) {
                return Err(format!("message {seq} is there twice").into());
            }
        }
    }
    let mut in_windows = 0;
    let mut windows = 0;
    let mut rows = lake.read_table("readings_1m").await?.scan(&["count"]).await?;
    while let Some(batch) = rows.try_next().await? {
        windows += batch.num_rows();
        in_windows += batch
            .column(0)
            .as_primitive::<Int64Type>()
            .values()
            .iter()
            .sum::<i64>();
    }
    println!("{} readings, {windows} windows over {in_windows}", seen.len());
    match seen.len() as u64 == count && in_windows as u64 == count {
        true => Ok(()),
        false => Err("the tables don't hold what was published".into()),
    }
}
