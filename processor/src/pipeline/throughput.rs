//! How many rows a second one core decodes, aggregates, encodes, syncs and commits:
//! `cargo test --release -p tarn-processor --lib throughput -- --ignored --nocapture`

use std::time::Duration;

use tarn_schemas::{Decoder, SubjectPatterns, UnixMicros};
use tokio::time::Instant;

use super::writer::LakeWriter;
use crate::batch::{Batch, BatchLimits};
use crate::catalog::{Lake, LakeOptions};
use crate::config::{NatsAuth, NatsTarget, ProcessorConfig};
use crate::decode::MessageDecoder;
use crate::source::Delivered;
use crate::storage::Warehouse;
use crate::watermark::{StreamSeq, Watermark};
use crate::window::{SeriesHasher, SeriesTable};

const ROWS: u64 = 2_000_000;
const DEVICES: u64 = 1_000;
/// 2026-01-05T12:00:00Z
const BEGIN_MS: u64 = 1_767_614_400_000;

fn message(number: u64) -> Delivered {
    let (device, ts) = (number % DEVICES, BEGIN_MS + number);
    let value = (number * 7919 % 4001) as f64 / 100.0;
    let location = device % 20;
    let payload = format!(r#"{{"value":{value},"unit":"C","timestamp":{ts},"location":"hall-{location}"}}"#);
    Delivered {
        seq: StreamSeq(number + 1),
        published: UnixMicros(i64::try_from(ts * 1000).unwrap()),
        subject: format!("sensors.temperature.device{device:04}").into(),
        headers: None,
        payload: payload.into(),
        ack: "".into(),
    }
}

#[tokio::test]
#[ignore = "measures; needs --release"]
async fn rows_per_second_of_one_core() {
    let dir = tempfile::tempdir().unwrap();
    let options = LakeOptions {
        warehouse: Warehouse::Local(dir.path().join("warehouse")),
        catalog: dir.path().join("catalog.db"),
    };
    let lake = Lake::open(options).await.unwrap();
    let nats = NatsTarget {
        url: "unused".to_owned(),
        auth: NatsAuth::None,
    };
    let (config, hasher) = (
        ProcessorConfig::new(nats, vec!["S".to_owned()]),
        SeriesHasher::default(),
    );
    let mut writer = LakeWriter::claim(lake, &config, &hasher).await.unwrap();
    let limits = BatchLimits {
        rows_max: config.rows_max,
        bytes_max: config.bytes_max,
        partitions_max: config.partitions_max,
    };
    let series = SeriesTable::new(hasher);
    let mut decoder = MessageDecoder::new(Decoder::new(SubjectPatterns::default()), series);
    let (mut decoding, mut committing) = (Duration::ZERO, Duration::ZERO);
    let mut number = 0;
    while number < ROWS {
        let messages: Vec<Delivered> = (number..number + 250_000).map(message).collect();
        number += 250_000;
        let mut batch = Batch::new(limits, writer.schemas());
        let began = Instant::now();
        for message in &messages {
            decoder.decode_into("S", message, &mut batch);
        }
        decoding += began.elapsed();
        let began = Instant::now();
        let sealed = batch.seal(UnixMicros(0)).unwrap();
        let watermark = Watermark {
            seq: StreamSeq(number),
            created: String::new(),
        };
        writer
            .commit(&sealed, &[("S".to_owned(), watermark)])
            .await
            .unwrap();
        committing += began.elapsed();
    }
    let rate = |time: Duration| ROWS as f64 / time.as_secs_f64();
    println!(
        "decode and aggregate {:.0} rows/s, encode, sync and commit {:.0} rows/s, together {:.0} rows/s",
        rate(decoding),
        rate(committing),
        rate(decoding + committing)
    );
}
