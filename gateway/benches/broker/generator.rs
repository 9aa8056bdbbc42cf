//! The load: one publisher that keeps `window` publishes unacknowledged.

use std::collections::VecDeque;
use std::future::IntoFuture;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use async_nats::jetstream::{self, stream};
use bytes::Bytes;
use tokio::runtime::Runtime;

const PAYLOAD: [u8; 128] = [b'x'; 128];
const SUBJECT: &str = "bench.subject";

#[derive(Clone, Copy)]
pub(crate) enum Generator {
    /// The ordinary client.
    AsyncNats,
    /// A bare socket and prepared bytes: its own limit lies far higher.
    Raw,
}

impl FromStr for Generator {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "async-nats" => Ok(Self::AsyncNats),
            "raw" => Ok(Self::Raw),
            _ => bail!("no such generator: {name} (async-nats, raw)"),
        }
    }
}

impl Generator {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AsyncNats => "async-nats",
            Self::Raw => "raw",
        }
    }

    /// Creates the stream, warms up for a fifth of `duration`, then counts. Returns acknowledgements a second.
    pub(crate) fn run(
        self,
        runtime: &Runtime,
        port: u16,
        window: usize,
        duration: Duration,
    ) -> anyhow::Result<f64> {
        runtime.block_on(create_stream(port))?;
        match self {
            Self::AsyncNats => runtime.block_on(publish_async(port, window, duration)),
            Self::Raw => publish_raw(port, window, duration),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
fn now() -> Instant {
    Instant::now()
}

async fn create_stream(port: u16) -> anyhow::Result<()> {
    let client = async_nats::connect(format!("127.0.0.1:{port}")).await?;
    let config = stream::Config {
        name: "BENCH".to_owned(),
        subjects: vec!["bench.>".to_owned()],
        ..Default::default()
    };
    jetstream::new(client).create_stream(config).await?;
    Ok(())
}

async fn publish_async(port: u16, window: usize, duration: Duration) -> anyhow::Result<f64> {
    let context = jetstream::new(async_nats::connect(format!("127.0.0.1:{port}")).await?);
    let payload = Bytes::from_static(&PAYLOAD);
    let mut pending = VecDeque::with_capacity(window);
    let mut count = 0_u64;
    let mut counted_from = None;
    let began = now();
    loop {
        while pending.len() < window {
            pending.push_back(context.publish(SUBJECT, payload.clone()).await?.into_future());
        }
        pending.pop_front().context("the window is empty")?.await?;
        count += 1;
        if count.is_multiple_of(64) {
            let at = now();
            match counted_from {
                None if at - began > duration / 5 => counted_from = Some((at, count)),
                Some((from, before)) if at - from > duration => {
                    return Ok((count - before) as f64 / (at - from).as_secs_f64());
                }
                _ => {}
            }
        }
    }
}

fn publish_raw(port: u16, window: usize, duration: Duration) -> anyhow::Result<f64> {
    let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    socket.write_all(
        b"CONNECT {\"verbose\":false,\"headers\":true,\"no_responders\":true}\r\nSUB _INBOX.r.* 1\r\n",
    )?;
    let mut one = format!("PUB {SUBJECT} _INBOX.r.1 {}\r\n", PAYLOAD.len()).into_bytes();
    one.extend_from_slice(&PAYLOAD);
    one.extend_from_slice(b"\r\n");
    let many = one.repeat(window);
    let mut acks = AckCounter::default();
    let mut buffer = vec![0; 256 * 1024];
    let (mut sent, mut counted_from) = (0_u64, None);
    let began = now();
    loop {
        let room = window - usize::try_from(sent - acks.seen)?;
        socket.write_all(&many[..room * one.len()])?;
        sent += room as u64;
        let read = socket.read(&mut buffer)?;
        ensure!(read > 0, "the server closed the connection");
        acks.scan(&buffer[..read])?;
        let at = now();
        match counted_from {
            None if at - began > duration / 5 => counted_from = Some((at, acks.seen)),
            Some((from, before)) if at - from > duration => {
                return Ok((acks.seen - before) as f64 / (at - from).as_secs_f64());
            }
            _ => {}
        }
    }
}

/// Counts PubAcks by the closing brace of their JSON, of which each has one; an error of any kind ends the run.
#[derive(Default)]
struct AckCounter {
    seen: u64,
    tail: Vec<u8>,
}

impl AckCounter {
    fn scan(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        // The INFO line is the only other thing with braces; it comes first and whole.
        let bytes = match bytes.strip_prefix(b"INFO ") {
            Some(rest) => rest.splitn(2, |b| *b == b'\n').nth(1).unwrap_or_default(),
            None => bytes,
        };
        self.seen += bytes.iter().filter(|b| **b == b'}').count() as u64;
        self.tail.extend_from_slice(&bytes[..bytes.len().min(64)]);
        let error = ["-ERR", "err_code"]
            .iter()
            .find(|text| contains(&self.tail, text.as_bytes()));
        ensure!(
            error.is_none(),
            "the server refused: {}",
            String::from_utf8_lossy(bytes)
        );
        self.tail.clear();
        Ok(())
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
