//! A pull consumer that reads a whole stream, 1,000 messages a request, one request at a time.

use anyhow::ensure;
use async_nats::jetstream::{self, consumer};
use futures::StreamExt;

use super::each_round;
use crate::options::Options;
use crate::raw::{Raw, create_stream, fill};
use crate::report::{Goal, Table, Unit};
use crate::server::{Kind, now};

const BATCH: u64 = 1_000;

pub(super) fn pull(options: &Options) -> anyhow::Result<Vec<Table>> {
    let count = options.pull_messages;
    let table = |text: &str| Table::new(format!("pull in batches of 1,000, {text}"), Unit::PerSecond);
    let mut tables = [
        table("explicit acks, async-nats"),
        table("no acks, async-nats"),
        table("explicit acks, raw socket"),
        table("no acks, raw socket"),
    ];
    let kinds = [Kind::Tarn, Kind::NatsDefault, Kind::Null];
    each_round(options, &kinds, |kind, server| {
        let (name, port) = (kind.name(), server.port());
        let goal = (kind == Kind::NatsDefault).then_some(Goal::AtLeast(1.0));
        if kind != Kind::Null {
            create_stream(port, "file")?;
            fill(port, count)?;
            for (table, ack_policy) in [(0, consumer::AckPolicy::Explicit), (1, consumer::AckPolicy::None)] {
                tables[table].add(name, goal, pull_async(port, ack_policy, count)?);
            }
        }
        for (table, acks) in [(2, true), (3, false)] {
            tables[table].add(name, goal, pull_raw(kind, port, acks, count)?);
        }
        Ok(())
    })?;
    Ok(tables.into())
}

fn pull_async(port: u16, ack_policy: consumer::AckPolicy, count: u64) -> anyhow::Result<f64> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let context = jetstream::new(async_nats::connect(format!("127.0.0.1:{port}")).await?);
        let config = consumer::pull::Config {
            ack_policy,
            ..Default::default()
        };
        let stream = context.get_stream_no_info("BENCH").await?;
        let consumer = stream.create_consumer(config).await?;
        let began = now();
        let mut seen = 0;
        while seen < count {
            let mut batch = consumer.fetch().max_messages(BATCH as usize).messages().await?;
            let before = seen;
            while let Some(message) = batch.next().await {
                let message = message.map_err(|err| anyhow::anyhow!(err))?;
                if ack_policy == consumer::AckPolicy::Explicit {
                    message.ack().await.map_err(|err| anyhow::anyhow!(err))?;
                }
                seen += 1;
            }
            ensure!(seen > before, "a batch is empty after {seen} messages");
        }
        Ok(count as f64 / (now() - began).as_secs_f64())
    })
}

fn pull_raw(kind: Kind, port: u16, acks: bool, count: u64) -> anyhow::Result<f64> {
    let mut raw = Raw::connect(port)?;
    raw.subscribe("_INBOX.r.*", 1)?;
    raw.subscribe("_INBOX.p", 2)?;
    let policy = if acks { "explicit" } else { "none" };
    if kind != Kind::Null {
        let config = format!(
            r#"{{"stream_name":"BENCH","config":{{"durable_name":"{policy}","ack_policy":"{policy}"}}}}"#
        );
        raw.api(&format!("CONSUMER.DURABLE.CREATE.BENCH.{policy}"), &config)?;
    }
    let body = format!(r#"{{"batch":{BATCH},"no_wait":true}}"#);
    let consumer = if kind == Kind::Null { "C" } else { policy };
    let request = format!(
        "PUB $JS.API.CONSUMER.MSG.NEXT.BENCH.{consumer} _INBOX.p {}\r\n{body}\r\n",
        body.len()
    );
    let mut out = Vec::new();
    let mut seen = 0;
    let began = now();
    while seen < count {
        out.extend_from_slice(request.as_bytes());
        raw.write(&out)?;
        out.clear();
        let wanted = (seen + BATCH).min(count);
        while seen < wanted {
            raw.messages(|message| {
                if message.payload.is_empty() {
                    return;
                }
                seen += 1;
                if let Some(reply) = message.reply.filter(|_| acks) {
                    out.extend_from_slice(b"PUB ");
                    out.extend_from_slice(reply);
                    out.extend_from_slice(b" 0\r\n\r\n");
                }
            })?;
        }
    }
    raw.write(&out)?;
    raw.flush()?;
    Ok(count as f64 / (now() - began).as_secs_f64())
}
