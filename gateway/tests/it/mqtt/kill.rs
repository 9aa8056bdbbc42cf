//! `kill -9` under load: what was acknowledged is there, once, and what was resent with DUP is not there twice.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use async_nats::jetstream;
use futures::StreamExt;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::raw::{Raw, publish};

const QOS1: u8 = 0b0010;
const DUP: u8 = 0b1000;
const ROUNDS: u64 = 4;
const WINDOW: usize = 64;

/// The `tarn` command, serving MQTT over its broker.
struct Served {
    process: Child,
    mqtt: SocketAddr,
    nats: SocketAddr,
}

impl Served {
    async fn start(dir: &TempDir) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_tarn"))
            .args([
                "serve",
                "--only",
                "broker,gateway",
                "--nats-listen",
                "127.0.0.1:0",
            ])
            .args([
                "--mqtt-listen",
                "127.0.0.1:0",
                "--http-listen",
                "off",
                "--monitor-listen",
                "off",
            ])
            .arg("--data-dir")
            .arg(dir.path())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut addresses = BTreeMap::new();
        let ready = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if line == "tarn is ready" {
                    return;
                }
                let mut words = line.split_whitespace();
                if let (Some(name), Some(Ok(address))) = (words.next(), words.next().map(str::parse)) {
                    addresses.insert(name.to_owned(), address);
                }
            }
            panic!("tarn ended before it was ready");
        };
        timeout(Duration::from_secs(30), ready)
            .await
            .expect("ready in time");
        Self {
            process,
            mqtt: addresses["MQTT"],
            nats: addresses["NATS"],
        }
    }

    async fn kill(mut self) {
        self.process.kill().await.unwrap();
    }
}

/// A device that keeps up to [`WINDOW`] numbered messages on the way, and resends with DUP what was not acknowledged.
#[derive(Default)]
struct Device {
    next: u32,
    unacked: BTreeMap<u16, u32>,
    acked: BTreeSet<u32>,
}

impl Device {
    /// Publishes until the connection breaks.
    async fn run(&mut self, address: SocketAddr) {
        let Some(mut raw) = Raw::try_connect(address, "dev").await else {
            return;
        };
        for (id, number) in self.unacked.clone() {
            if !raw
                .try_send(&publish(QOS1 | DUP, "sensors/t/dev", id, &number.to_string()))
                .await
            {
                return;
            }
        }
        loop {
            while self.unacked.len() < WINDOW {
                let id = (1..)
                    .find(|id| !self.unacked.contains_key(id))
                    .expect("the window is small");
                self.unacked.insert(id, self.next);
                let sent = raw
                    .try_send(&publish(QOS1, "sensors/t/dev", id, &self.next.to_string()))
                    .await;
                self.next += 1;
                if !sent {
                    return;
                }
            }
            match raw.try_packet().await {
                Some((0x40, id)) => {
                    let id = u16::from_be_bytes([id[0], id[1]]);
                    self.acked.insert(
                        self.unacked
                            .remove(&id)
                            .expect("only what was sent is acknowledged"),
                    );
                }
                Some(other) => panic!("not a puback: {other:?}"),
                None => return,
            }
        }
    }
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_and_nothing_is_there_twice() {
    let dir = TempDir::new().unwrap();
    let mut device = Device::default();
    for round in 0..ROUNDS {
        let served = Served::start(&dir).await;
        let acked_before = device.acked.len();
        let address = served.mqtt;
        // How far it gets before the kill is up to the machine; that it gets somewhere is not.
        tokio::join!(device.run(address), async {
            sleep(Duration::from_millis(200 + 70 * round)).await;
            served.kill().await;
        });
        assert!(
            device.acked.len() > acked_before,
            "round {round} acknowledged something"
        );
    }
    let served = Served::start(&dir).await;
    let stored = stored(served.nats).await;
    for number in &device.acked {
        assert_eq!(stored.get(number), Some(&1), "message {number} was acknowledged");
    }
    assert!(stored.values().all(|count| *count == 1), "nothing is there twice");
    assert!(stored.len() <= device.acked.len() + device.unacked.len());
    served.kill().await;
}

/// How often each numbered message is in the stream.
async fn stored(nats: SocketAddr) -> BTreeMap<u32, usize> {
    let jetstream = jetstream::new(async_nats::connect(nats.to_string()).await.unwrap());
    let mut stream = jetstream.get_stream("SENSORS").await.unwrap();
    let count = usize::try_from(stream.info().await.unwrap().state.messages).unwrap();
    let config = jetstream::consumer::pull::Config {
        ack_policy: jetstream::consumer::AckPolicy::None,
        ..Default::default()
    };
    let consumer = stream.create_consumer(config).await.unwrap();
    let mut messages = consumer.messages().await.unwrap().take(count);
    let mut stored = BTreeMap::new();
    while let Some(message) = timeout(Duration::from_secs(30), messages.next())
        .await
        .expect("all in time")
    {
        let number = std::str::from_utf8(&message.unwrap().payload)
            .unwrap()
            .parse()
            .unwrap();
        *stored.entry(number).or_default() += 1;
    }
    stored
}
