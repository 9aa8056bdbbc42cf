//! One publisher that keeps a window of messages unacknowledged in one stream.

use std::collections::VecDeque;
use std::future::IntoFuture;
use std::time::Duration;

use anyhow::Context;
use async_nats::jetstream;
use bytes::Bytes;

use super::each_round;
use crate::options::Options;
use crate::raw::{PAYLOAD, Raw, SUBJECT, create_stream, create_stream_of, publish_frame};
use crate::report::{Goal, Table, Unit, median};
use crate::server::{Kind, now};

const WINDOW: usize = 512;

pub(super) fn window_512(options: &Options) -> anyhow::Result<Vec<Table>> {
    let mut raw = Table::new("durable publish, window 512, raw socket", Unit::PerSecond);
    let mut library = Table::new("durable publish, window 512, async-nats", Unit::PerSecond);
    let goal = |kind| match kind {
        Kind::NatsAlways => Some(Goal::AtLeast(100.0)),
        Kind::NatsDefault => Some(Goal::AtLeast(2.5)),
        Kind::Tarn | Kind::Null => None,
    };
    let kinds = [Kind::Tarn, Kind::NatsAlways, Kind::NatsDefault, Kind::Null];
    each_round(options, &kinds, |kind, server| {
        prepare(kind, server.port(), "file")?;
        let rate = publish_raw(server.port(), SUBJECT, WINDOW, options.duration)?.rate;
        raw.add(kind.name(), goal(kind), rate);
        Ok(())
    })?;
    each_round(options, &kinds, |kind, server| {
        prepare(kind, server.port(), "file")?;
        library.add(
            kind.name(),
            goal(kind),
            publish_async(server.port(), options.duration)?,
        );
        Ok(())
    })?;
    Ok(vec![raw, library])
}

pub(super) fn single(options: &Options) -> anyhow::Result<Vec<Table>> {
    let mut table = Table::new("durable publish, one at a time, p50, raw socket", Unit::Micros);
    let kinds = [Kind::Tarn, Kind::NatsAlways, Kind::NatsDefault, Kind::Null];
    each_round(options, &kinds, |kind, server| {
        let goal = (kind == Kind::NatsAlways).then_some(Goal::AtMost(0.75));
        prepare(kind, server.port(), "file")?;
        let micros = publish_raw(server.port(), SUBJECT, 1, options.duration)?.cycle_micros;
        table.add(kind.name(), goal, micros);
        Ok(())
    })?;
    Ok(vec![table])
}

/// One at a time in one stream while another stream is kept as busy as it can be.
pub(super) fn beside(options: &Options) -> anyhow::Result<Vec<Table>> {
    let mut table = Table::new(
        "one at a time beside a busy stream, p50, raw socket",
        Unit::Micros,
    );
    let kinds = [Kind::Tarn, Kind::NatsAlways, Kind::NatsDefault];
    each_round(options, &kinds, |kind, server| {
        let port = server.port();
        create_stream(port, "file")?;
        create_stream_of(port, "BUSY", "busy.>", "file")?;
        let longer = options.duration * 2;
        let busy = std::thread::spawn(move || publish_raw(port, "busy.subject", WINDOW, longer));
        std::thread::sleep(options.duration / 5);
        let micros = publish_raw(port, SUBJECT, 1, options.duration)?.cycle_micros;
        busy.join().ok().context("the busy publisher panicked")??;
        table.add(kind.name(), None, micros);
        Ok(())
    })?;
    Ok(vec![table])
}

pub(super) fn memory(options: &Options) -> anyhow::Result<Vec<Table>> {
    let mut table = Table::new(
        "publish to memory storage, window 512, raw socket",
        Unit::PerSecond,
    );
    each_round(
        options,
        &[Kind::Tarn, Kind::NatsDefault, Kind::Null],
        |kind, server| {
            let goal = (kind == Kind::NatsDefault).then_some(Goal::AtLeast(2.5));
            prepare(kind, server.port(), "memory")?;
            let rate = publish_raw(server.port(), SUBJECT, WINDOW, options.duration)?.rate;
            table.add(kind.name(), goal, rate);
            Ok(())
        },
    )?;
    Ok(vec![table])
}

fn prepare(kind: Kind, port: u16, storage: &str) -> anyhow::Result<()> {
    match kind {
        Kind::Null => Ok(()),
        _ => create_stream(port, storage),
    }
}

struct Published {
    /// Acknowledgements a second.
    rate: f64,
    /// Median time from writing until something comes back: with a window of 1, from a publish to its acknowledgement.
    cycle_micros: f64,
}

/// Warms up for a fifth of `duration`, then counts.
fn publish_raw(port: u16, subject: &str, window: usize, duration: Duration) -> anyhow::Result<Published> {
    let mut raw = Raw::connect(port)?;
    let inbox = format!("_INBOX.{subject}");
    raw.subscribe(&inbox, 1)?;
    let one = publish_frame(subject, &inbox);
    let many = one.repeat(window);
    let (mut sent, mut seen) = (0_u64, 0_u64);
    let mut counted_from = None;
    let mut cycles = Vec::new();
    let began = now();
    loop {
        let written = now();
        let room = window - usize::try_from(sent - seen)?;
        raw.write(&many[..room * one.len()])?;
        sent += room as u64;
        seen += raw.count_acks()?;
        let at = now();
        match counted_from {
            None if at - began > duration / 5 => counted_from = Some((at, seen)),
            None => {}
            Some((from, before)) => {
                cycles.push((at - written).as_secs_f64() * 1e6);
                if at - from > duration {
                    return Ok(Published {
                        rate: (seen - before) as f64 / (at - from).as_secs_f64(),
                        cycle_micros: median(&cycles),
                    });
                }
            }
        }
    }
}

fn publish_async(port: u16, duration: Duration) -> anyhow::Result<f64> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let context = jetstream::new(async_nats::connect(format!("127.0.0.1:{port}")).await?);
        let payload = Bytes::from_static(&PAYLOAD);
        let mut pending = VecDeque::with_capacity(WINDOW);
        let mut count = 0_u64;
        let mut counted_from = None;
        let began = now();
        loop {
            while pending.len() < WINDOW {
                pending.push_back(context.publish(SUBJECT, payload.clone()).await?.into_future());
            }
            pending.pop_front().context("the window is empty")?.await?;
            count += 1;
            if !count.is_multiple_of(64) {
                continue;
            }
            let at = now();
            match counted_from {
                None if at - began > duration / 5 => counted_from = Some((at, count)),
                Some((from, before)) if at - from > duration => {
                    return Ok((count - before) as f64 / (at - from).as_secs_f64());
                }
                _ => {}
            }
        }
    })
}
