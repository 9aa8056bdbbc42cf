//! The processor against Tarn's own broker, over its socket: what was published is in the tables once, whatever breaks.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, TimestampMicrosecondType};
use async_nats::jetstream;
use futures::{StreamExt, TryStreamExt};
use tarn_broker::server::{Broker, BrokerConfig};
use tarn_processor::stats::ProcessorState;
use tarn_processor::storage::Warehouse;
use tarn_processor::{
    Lake, LakeOptions, NatsAuth, NatsTarget, Processor, ProcessorConfig, ProcessorStats, WindowSpec,
};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

const STREAM: &str = "SENSORS";
const LONGEST: Duration = Duration::from_secs(60);
/// 2026-01-05T23:59:00Z: midnight is one minute away.
const BEGIN_MS: u64 = 1_767_657_540_000;

struct World {
    dir: TempDir,
    broker: Option<Broker>,
    /// `host:port`; fixed from the first start on.
    address: String,
    lake: Lake,
    published: BTreeSet<u64>,
    refused: BTreeSet<String>,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let warehouse = Warehouse::Local(dir.path().join("warehouse"));
        let lake = Lake::open(LakeOptions {
            warehouse,
            catalog: dir.path().join("catalog.db"),
        })
        .await
        .unwrap();
        let broker = Broker::start(BrokerConfig::new(dir.path().join("broker"), "127.0.0.1:0"))
            .await
            .unwrap();
        let address = broker.client_addr().to_string();
        let (published, refused) = (BTreeSet::new(), BTreeSet::new());
        let world = Self {
            dir,
            broker: Some(broker),
            address,
            lake,
            published,
            refused,
        };
        world.create_stream().await;
        world
    }

    async fn stop_broker(&mut self) {
        self.broker.take().unwrap().shutdown().await;
    }

    async fn start_broker(&mut self) {
        let config = BrokerConfig::new(self.dir.path().join("broker"), self.address.clone());
        self.broker = Some(Broker::start(config).await.unwrap());
    }

    async fn jetstream(&self) -> jetstream::Context {
        jetstream::new(async_nats::connect(&self.address).await.unwrap())
    }

    async fn create_stream(&self) {
        let config = jetstream::stream::Config {
            name: STREAM.to_owned(),
            subjects: vec!["sensors.>".to_owned()],
            ..Default::default()
        };
        self.jetstream().await.create_stream(config).await.unwrap();
    }

    /// Publishes readings with the values `from..to`, and a message that isn't one for every tenth.
    async fn publish(&mut self, from: u64, to: u64) {
        let context = self.jetstream().await;
        let mut acknowledgements = Vec::new();
        for number in from..to {
            let ts = BEGIN_MS + number * 500;
            let payload = format!(r#"{{"value":{number},"timestamp":{ts}}}"#);
            let subject = format!("sensors.temperature.d{}", number % 5);
            acknowledgements.push(context.publish(subject, payload.into()).await.unwrap());
            self.published.insert(number);
            if number % 10 == 0 {
                let payload = format!("not a reading {number}");
                acknowledgements.push(
                    context
                        .publish("sensors.temperature.d", payload.clone().into())
                        .await
                        .unwrap(),
                );
                self.refused.insert(payload);
            }
        }
        for acknowledgement in acknowledgements {
            acknowledgement.await.unwrap();
        }
    }

    /// The same, a thousand at a time.
    async fn publish_many(&mut self, to: u64) {
        for from in (0..to).step_by(1000) {
            self.publish(from, from + 1000).await;
        }
    }

    fn config(&self) -> ProcessorConfig {
        let nats = NatsTarget {
            url: format!("nats://{}", self.address),
            auth: NatsAuth::None,
        };
        let mut config = ProcessorConfig::new(nats, vec![STREAM.to_owned()]);
        config.commit_interval = Duration::from_millis(100);
        (
            config.rows_max,
            config.window_file_rows_max,
            config.window_open_rows_max,
        ) = (97, 20, 30);
        config
    }

    async fn processor(&self) -> Processor {
        Processor::start(self.config(), self.lake.clone()).await.unwrap()
    }

    /// The tables hold what was published, once, and the windows count it.
    async fn check(&self) {
        let readings = self.lake.read_table("readings").await.unwrap();
        let mut batches = readings.scan(&["value"]).await.unwrap();
        let mut values = Vec::new();
        while let Some(batch) = batches.try_next().await.unwrap() {
            let column = batch.column(0).as_primitive::<Float64Type>();
            values.extend(column.values().iter().map(|value| *value as u64));
        }
        let distinct: BTreeSet<u64> = values.iter().copied().collect();
        assert_eq!(
            (values.len(), distinct),
            (self.published.len(), self.published.clone())
        );

        let letters = self.lake.read_table("dead_letters").await.unwrap();
        let mut batches = letters.scan(&["payload"]).await.unwrap();
        let mut payloads = Vec::new();
        while let Some(batch) = batches.try_next().await.unwrap() {
            let column = batch.column(0).as_binary::<i64>();
            payloads.extend(
                column
                    .iter()
                    .map(|payload| String::from_utf8(payload.unwrap().to_vec()).unwrap()),
            );
        }
        assert_eq!(payloads.len(), self.refused.len());
        assert_eq!(payloads.into_iter().collect::<BTreeSet<_>>(), self.refused);
        self.check_windows("readings_1m", 60).await;
    }

    async fn check_windows(&self, table: &str, seconds: i64) {
        let mut expected: BTreeMap<(i64, String), (i64, f64)> = BTreeMap::new();
        for number in &self.published {
            let ts = i64::try_from(BEGIN_MS + number * 500).unwrap() * 1000;
            let start = ts.div_euclid(seconds * 1_000_000) * seconds * 1_000_000;
            let row = expected.entry((start, format!("d{}", number % 5))).or_default();
            (row.0, row.1) = (row.0 + 1, row.1 + *number as f64);
        }
        let table = self.lake.read_table(table).await.unwrap();
        let mut batches = table
            .scan(&["window_start", "device_id", "count", "sum"])
            .await
            .unwrap();
        let mut found = BTreeMap::new();
        while let Some(batch) = batches.try_next().await.unwrap() {
            for row in 0..batch.num_rows() {
                let start = batch
                    .column(0)
                    .as_primitive::<TimestampMicrosecondType>()
                    .value(row);
                let device = batch.column(1).as_string::<i32>().value(row).to_owned();
                let count = batch.column(2).as_primitive::<Int64Type>().value(row);
                let sum = batch.column(3).as_primitive::<Float64Type>().value(row);
                assert!(
                    found.insert((start, device), (count, sum)).is_none(),
                    "a window has two rows"
                );
            }
        }
        assert_eq!(found, expected);
    }
}

/// Waits until the processor's figures satisfy `done`.
async fn until(processor: &Processor, what: &str, done: impl Fn(&ProcessorStats) -> bool) {
    let began = Instant::now();
    while !done(&processor.stats()) {
        assert!(began.elapsed() < LONGEST, "{what}: {:#?}", processor.stats());
        sleep(Duration::from_millis(10)).await;
    }
}

fn watermark(stats: &ProcessorStats) -> u64 {
    stats.streams[0].watermark.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_published_is_in_the_tables_once_over_restarts() {
    let mut world = World::new().await;
    world.publish(0, 300).await;
    let processor = world.processor().await;
    until(&processor, "the first messages", |stats| watermark(stats) == 330).await;
    world.publish(300, 400).await;
    let stats = processor.shutdown().await;
    assert_eq!(stats.state, ProcessorState::Stopped);
    world.publish(400, 450).await;

    let processor = world.processor().await;
    until(&processor, "the rest", |stats| watermark(stats) == 495).await;
    let stats = processor.shutdown().await;
    assert!(
        stats.publish_to_commit.count >= 55,
        "{:?}",
        stats.publish_to_commit
    );
    assert_eq!(stats.streams[0].expired, 0);
    world.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_at_any_moment_nothing_is_lost_or_doubled() {
    let mut world = World::new().await;
    world.publish(0, 200).await;
    for rows in [1, 97, 98, 150] {
        let processor = world.processor().await;
        until(&processor, "some", |stats| {
            stats.messages + stats.buffered_rows >= rows || watermark(stats) == 220
        })
        .await;
        drop(processor);
    }
    let processor = world.processor().await;
    until(&processor, "all", |stats| watermark(stats) == 220).await;
    processor.shutdown().await;
    world.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broker_may_come_late_and_go_away() {
    let mut world = World::new().await;
    world.publish(0, 100).await;
    world.stop_broker().await;
    let processor = world.processor().await;
    sleep(Duration::from_millis(300)).await;
    world.start_broker().await;
    until(&processor, "the first messages", |stats| watermark(stats) == 110).await;
    world.publish(100, 150).await;
    world.stop_broker().await;
    world.start_broker().await;
    world.publish(150, 200).await;
    until(&processor, "all", |stats| watermark(stats) == 220).await;
    assert!(processor.stats().streams[0].sessions >= 2);
    processor.shutdown().await;
    world.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recreated_stream_is_read_from_its_beginning() {
    let mut world = World::new().await;
    world.publish(0, 100).await;
    let processor = world.processor().await;
    until(&processor, "the first stream", |stats| watermark(stats) == 110).await;
    world.jetstream().await.delete_stream(STREAM).await.unwrap();
    world.create_stream().await;
    world.publish(100, 150).await;
    until(&processor, "the second stream", |stats| stats.messages == 165).await;
    assert_eq!(watermark(&processor.shutdown().await), 55);
    world.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_someone_else_pulls_are_read_all_the_same() {
    let mut world = World::new().await;
    let processor = world.processor().await;
    until(&processor, "a session", |stats| stats.streams[0].connected).await;
    let context = world.jetstream().await;
    let stream = context.get_stream(STREAM).await.unwrap();
    let consumer: jetstream::consumer::PullConsumer = stream.get_consumer("tarn-lake").await.unwrap();
    // The processor's pulls are served first, so the thief waits beside them and gets the messages in between.
    let wait = Duration::from_secs(30);
    let mut stolen = consumer
        .batch()
        .max_messages(50)
        .expires(wait)
        .messages()
        .await
        .unwrap();
    world.publish_many(9_000).await;
    until(&processor, "all", |stats| watermark(stats) == 9_900).await;
    assert!(stolen.next().await.is_some());
    assert!(processor.shutdown().await.streams[0].gaps >= 1);
    world.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_processors_one_goes_on() {
    let mut world = World::new().await;
    world.publish(0, 100).await;
    let first = world.processor().await;
    until(&first, "the first messages", |stats| watermark(stats) == 110).await;
    let second = world.processor().await;
    world.publish(100, 300).await;
    until(&second, "all", |stats| watermark(stats) == 330).await;
    until(&first, "the loser's end", |stats| {
        stats.state == ProcessorState::Failed || watermark(stats) == 110
    })
    .await;
    second.shutdown().await;
    let first = first.shutdown().await;
    assert_eq!(first.streams[0].watermark.0, 110, "{first:#?}");
    world.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_table_that_is_added_later_is_made_from_the_readings() {
    let mut world = World::new().await;
    world.publish(0, 400).await;
    let processor = world.processor().await;
    until(&processor, "the first messages", |stats| watermark(stats) == 440).await;
    processor.shutdown().await;

    let mut config = world.config();
    let window = |table: &str, seconds| WindowSpec {
        table: table.to_owned(),
        every: Duration::from_secs(seconds),
    };
    // The second round leaves `readings_2d` out, the third has it again.
    for two_days in [true, false, true] {
        config.windows = vec![window("readings_1m", 60), window("readings_30s", 30)];
        if two_days {
            config.windows.push(window("readings_2d", 172_800));
        }
        let processor = Processor::start(config.clone(), world.lake.clone())
            .await
            .unwrap();
        let next = world.published.len() as u64;
        world.publish(next, next + 30).await;
        let last = (next + 30) * 11 / 10;
        until(&processor, "the next ones", |stats| watermark(stats) == last).await;
        processor.shutdown().await;
        world.check_windows("readings_30s", 30).await;
        if two_days {
            world.check_windows("readings_2d", 172_800).await;
        }
    }
    world.check().await;
}
