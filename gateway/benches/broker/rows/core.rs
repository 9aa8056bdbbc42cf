//! Messages that are not stored: to nobody, to one subscriber, to many.

use std::io::Read as _;
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;

use super::each_round;
use crate::options::Options;
use crate::raw::{PAYLOAD, Raw, SUBJECT, frame_of};
use crate::report::{Goal, Table, Unit};
use crate::server::{Kind, now};

/// Messages in one write.
const CHUNK: u64 = 256;
/// How far the publisher may be ahead of the slowest subscriber, in messages over all subscribers.
const AHEAD: u64 = 256 * 1024;
const PATIENCE: Duration = Duration::from_secs(60);
const KINDS: [Kind; 3] = [Kind::Tarn, Kind::NatsDefault, Kind::Null];

pub(super) fn publish(options: &Options) -> anyhow::Result<Vec<Table>> {
    let mut table = Table::new("core publish, no subscriber", Unit::PerSecond);
    each_round(options, &KINDS, |kind, server| {
        let goal = (kind == Kind::NatsDefault).then_some(Goal::AtLeast(1.0));
        table.add(
            kind.name(),
            goal,
            publish_to_nobody(server.port(), options.duration)?,
        );
        Ok(())
    })?;
    Ok(vec![table])
}

pub(super) fn pair(options: &Options) -> anyhow::Result<Vec<Table>> {
    fan_out(options, "core, one subscriber, deliveries", 1, 2.0)
}

pub(super) fn fanout_4(options: &Options) -> anyhow::Result<Vec<Table>> {
    fan_out(options, "core, 4 subscribers, deliveries", 4, 1.0)
}

pub(super) fn fanout_1000(options: &Options) -> anyhow::Result<Vec<Table>> {
    fan_out(options, "core, 1,000 subscribers, deliveries", 1_000, 1.0)
}

fn fan_out(options: &Options, title: &str, subscribers: u64, at_least: f64) -> anyhow::Result<Vec<Table>> {
    let mut table = Table::new(title, Unit::PerSecond);
    each_round(options, &KINDS, |kind, server| {
        let goal = (kind == Kind::NatsDefault).then_some(Goal::AtLeast(at_least));
        let rate = publish_to(subscribers, server.port(), options.duration)?;
        table.add(kind.name(), goal, rate);
        Ok(())
    })?;
    Ok(vec![table])
}

fn chunk() -> Vec<u8> {
    let mut one = format!("PUB {SUBJECT} {}\r\n", PAYLOAD.len()).into_bytes();
    one.extend_from_slice(&PAYLOAD);
    one.extend_from_slice(b"\r\n");
    one.repeat(CHUNK as usize)
}

fn publish_to_nobody(port: u16, duration: Duration) -> anyhow::Result<f64> {
    let mut raw = Raw::connect(port)?;
    let chunk = chunk();
    let mut sent = 0;
    let began = now();
    while now() - began < duration {
        raw.write(&chunk)?;
        sent += CHUNK;
    }
    raw.flush()?;
    Ok(sent as f64 / (now() - began).as_secs_f64())
}

/// Deliveries a second to `count` subscribers. All that is published is received: the publisher goes only so far ahead
/// of the slowest subscriber.
fn publish_to(count: u64, port: u16, duration: Duration) -> anyhow::Result<f64> {
    let receivers = Receivers::start(count, port)?;
    let mut raw = Raw::connect(port)?;
    let chunk = chunk();
    let ahead = (AHEAD / count).max(CHUNK);
    let mut sent = 0;
    let began = now();
    while now() - began < duration {
        raw.write(&chunk)?;
        sent += CHUNK;
        receivers.wait_for(sent.saturating_sub(ahead))?;
    }
    receivers.wait_for(sent)?;
    let rate = (sent * count) as f64 / (now() - began).as_secs_f64();
    receivers.stop()?;
    Ok(rate)
}

/// Subscribers, each a connection, served by one thread that only counts bytes: all messages are of one length.
struct Receivers {
    bytes: Arc<[AtomicU64]>,
    message_bytes: u64,
    failed: Arc<AtomicBool>,
    stop: tokio::sync::oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Receivers {
    fn start(count: u64, port: u16) -> anyhow::Result<Self> {
        let bytes: Arc<[AtomicU64]> = (0..count).map(|_| AtomicU64::new(0)).collect();
        let sockets = (0..count)
            .map(|_| subscribed(port))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let failed = Arc::new(AtomicBool::new(false));
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (counters, has_failed) = (Arc::clone(&bytes), Arc::clone(&failed));
        let thread = std::thread::spawn(move || {
            let work = async {
                let mut tasks = JoinSet::new();
                for (at, socket) in sockets.into_iter().enumerate() {
                    tasks.spawn(receive(socket, Arc::clone(&counters), at));
                }
                tokio::select! {
                    _ = tasks.join_next() => has_failed.store(true, Ordering::Relaxed),
                    _ = stopped => {}
                }
            };
            runtime.block_on(work);
        });
        let mut message = Vec::new();
        frame_of(&mut message, SUBJECT.as_bytes(), b"1", &PAYLOAD);
        Ok(Self {
            bytes,
            message_bytes: message.len() as u64,
            failed,
            stop,
            thread,
        })
    }

    /// Waits until every subscriber has `messages`.
    fn wait_for(&self, messages: u64) -> anyhow::Result<()> {
        let wanted = messages * self.message_bytes;
        let began = now();
        for counter in self.bytes.iter() {
            while counter.load(Ordering::Relaxed) < wanted {
                ensure!(!self.failed.load(Ordering::Relaxed), "a subscriber was cut off");
                ensure!(now() - began < PATIENCE, "a subscriber gets nothing any more");
                std::thread::sleep(Duration::from_micros(50));
            }
        }
        Ok(())
    }

    fn stop(self) -> anyhow::Result<()> {
        // If the thread has ended, joining it says so.
        self.stop.send(()).ok();
        self.thread
            .join()
            .ok()
            .context("the subscribers' thread panicked")
    }
}

/// A connection that is subscribed for certain, and nothing to be read from it but messages.
fn subscribed(port: u16) -> anyhow::Result<TcpStream> {
    use std::io::Write as _;
    let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.write_all(format!("CONNECT {{\"verbose\":false}}\r\nSUB {SUBJECT} 1\r\nPING\r\n").as_bytes())?;
    let mut held = Vec::new();
    let mut buffer = [0; 4096];
    while !held.ends_with(b"PONG\r\n") {
        let read = socket.read(&mut buffer)?;
        ensure!(read > 0, "the server closed a connection");
        held.extend_from_slice(&buffer[..read]);
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

async fn receive(socket: TcpStream, bytes: Arc<[AtomicU64]>, at: usize) -> std::io::Result<()> {
    let mut socket = tokio::net::TcpStream::from_std(socket)?;
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let read = socket.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        bytes[at].fetch_add(read as u64, Ordering::Relaxed);
    }
}
