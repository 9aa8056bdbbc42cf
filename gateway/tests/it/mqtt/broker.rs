//! MQTT over the real broker: what is acknowledged is in the stream, once, and NATS clients see what MQTT clients say.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::stream::Config;
use futures::StreamExt;
use tarn::ingest::{FALLBACK_STREAM, FALLBACK_SUBJECTS, LocalIngest};
use tarn::mqtt::{MqttConfig, MqttServer};
use tarn_broker::server::{Broker, BrokerConfig};
use tempfile::TempDir;

use super::raw::{Raw, puback, publish, published};

const QOS1: u8 = 0b0010;
const DUP: u8 = 0b1000;

/// Broker and front end over a directory that outlives them.
struct Stand {
    broker: Arc<Broker>,
    mqtt: MqttServer,
    nats: async_nats::Client,
    jetstream: jetstream::Context,
}

impl Stand {
    async fn start(dir: &TempDir) -> Self {
        let broker = Arc::new(
            Broker::start(BrokerConfig::new(dir.path(), "127.0.0.1:0"))
                .await
                .unwrap(),
        );
        let nats = async_nats::connect(broker.client_addr().to_string())
            .await
            .unwrap();
        let jetstream = jetstream::new(nats.clone());
        for (name, subjects) in [("SENSORS", "sensors.>"), (FALLBACK_STREAM, FALLBACK_SUBJECTS)] {
            let config = Config {
                name: name.into(),
                subjects: vec![subjects.into()],
                ..Config::default()
            };
            jetstream.get_or_create_stream(config).await.unwrap();
        }
        let opener = Arc::clone(&broker);
        let ingest = LocalIngest::new(move |name| opener.local_client(name));
        let config = MqttConfig {
            listen: "127.0.0.1:0".to_owned(),
            ..MqttConfig::default()
        };
        let mqtt = MqttServer::bind(config, Arc::new(ingest)).await.unwrap();
        Self {
            broker,
            mqtt,
            nats,
            jetstream,
        }
    }

    async fn stop(self) {
        self.mqtt.shutdown().await;
        drop(self.nats);
        Arc::into_inner(self.broker)
            .expect("the only owner")
            .shutdown()
            .await;
    }

    async fn device(&self, id: &str) -> Raw {
        Raw::connect(self.mqtt.local_addr(), id, true).await.0
    }

    /// Subject and payload of everything in a stream.
    async fn stored(&self, stream: &str) -> Vec<(String, String)> {
        let mut stream = self.jetstream.get_stream(stream).await.unwrap();
        let state = stream.info().await.unwrap().state.clone();
        let mut stored = Vec::new();
        if state.messages > 0 {
            for seq in state.first_sequence..=state.last_sequence {
                let message = stream.get_raw_message(seq).await.unwrap();
                let payload = String::from_utf8(message.payload.to_vec()).unwrap();
                stored.push((message.subject.to_string(), payload));
            }
        }
        stored
    }
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected
        .iter()
        .map(|(subject, payload)| ((*subject).to_owned(), (*payload).to_owned()))
        .collect()
}

#[tokio::test]
async fn what_is_acknowledged_is_stored_and_a_resend_is_not_stored_again() {
    let dir = TempDir::new().unwrap();
    let stand = Stand::start(&dir).await;
    let mut device = stand.device("dev").await;
    device.send(&publish(0, "sensors/t/dev", 0, "at most once")).await;
    device.send(&publish(QOS1, "sensors/t/dev", 1, "a")).await;
    device.send(&publish(QOS1, "sensors/t/dev", 2, "b")).await;
    assert_eq!(
        [device.packet().await, device.packet().await],
        [puback(1), puback(2)]
    );
    // The connection breaks before the acknowledgements arrive, as far as the device knows.
    let mut device = stand.device("dev").await;
    device.send(&publish(QOS1 | DUP, "sensors/t/dev", 1, "a")).await;
    device
        .send(&publish(QOS1 | DUP, "sensors/t/dev", 2, "never arrived before"))
        .await;
    device.send(&publish(QOS1, "sensors/t/dev", 3, "c")).await;
    for id in 1..=3 {
        assert_eq!(device.packet().await, puback(id));
    }
    // The same id and payload, and not a resend: a new reading.
    device.send(&publish(QOS1, "sensors/t/dev", 1, "a")).await;
    assert_eq!(device.packet().await, puback(1));
    let subject = "sensors.t.dev";
    let expected = [
        (subject, "at most once"),
        (subject, "a"),
        (subject, "b"),
        (subject, "never arrived before"),
        (subject, "c"),
        (subject, "a"),
    ];
    assert_eq!(stand.stored("SENSORS").await, pairs(&expected));
    stand.stop().await;
}

#[tokio::test]
async fn a_resend_after_a_restart_is_recognised() {
    let dir = TempDir::new().unwrap();
    let stand = Stand::start(&dir).await;
    let mut device = stand.device("dev").await;
    device.send(&publish(QOS1, "sensors/t/dev", 7, "a")).await;
    assert_eq!(device.packet().await, puback(7));
    stand.stop().await;
    let stand = Stand::start(&dir).await;
    let mut device = stand.device("dev").await;
    device.send(&publish(QOS1 | DUP, "sensors/t/dev", 7, "a")).await;
    device.send(&publish(QOS1 | DUP, "sensors/t/dev", 8, "b")).await;
    assert_eq!(
        [device.packet().await, device.packet().await],
        [puback(7), puback(8)]
    );
    assert_eq!(
        stand.stored("SENSORS").await,
        pairs(&[("sensors.t.dev", "a"), ("sensors.t.dev", "b")])
    );
    stand.stop().await;
}

#[tokio::test]
async fn qos_1_without_a_stream_is_kept_in_the_fallback_and_delivered_live() {
    let dir = TempDir::new().unwrap();
    let stand = Stand::start(&dir).await;
    let mut live = stand.nats.subscribe("home.>").await.unwrap();
    stand.nats.flush().await.unwrap();
    let mut device = stand.device("dev").await;
    device.send(&publish(QOS1, "home/door", 1, "open")).await;
    device.send(&publish(QOS1, "sensors/t/dev", 2, "22")).await;
    device.send(&publish(QOS1 | DUP, "home/door", 1, "open")).await;
    device.send(&publish(0, "home/bell", 0, "ding")).await;
    for id in [1, 2, 1] {
        assert_eq!(device.packet().await, puback(id));
    }
    assert_eq!(
        stand.stored(FALLBACK_STREAM).await,
        pairs(&[("$MQTT.msgs.home.door", "open")])
    );
    assert_eq!(stand.stored("SENSORS").await, pairs(&[("sensors.t.dev", "22")]));
    let message = live.next().await.unwrap();
    assert_eq!(
        (&*message.subject, &message.payload[..]),
        ("home.door", &b"open"[..])
    );
    let headers = message.headers.unwrap();
    assert_eq!(headers.get("Nmqtt-Pub").unwrap().as_str(), "1");
    stand.stop().await;
}

#[tokio::test]
async fn nats_and_mqtt_hear_each_other() {
    let dir = TempDir::new().unwrap();
    let stand = Stand::start(&dir).await;
    let mut device = stand.device("device1").await;
    device.subscribe("cmd/device1", 1).await;
    device.subscribe("#", 0).await;
    let mut other = stand.device("device2").await;
    other.subscribe("sensors/+/device1", 0).await;
    stand.nats.publish("cmd.device1", "reboot".into()).await.unwrap();
    stand.nats.flush().await.unwrap();
    assert_eq!(device.packet().await, published(QOS1, "cmd/device1", 1, "reboot"));
    device.send(&publish(0, "sensors/t/device1", 0, "22")).await;
    assert_eq!(other.packet().await, published(0, "sensors/t/device1", 0, "22"));
    assert_eq!(
        device.packet().await,
        published(0, "sensors/t/device1", 0, "22"),
        "its own as well"
    );
    // JetStream's API and its answers cross no topic.
    assert_eq!(stand.stored("SENSORS").await.len(), 1);
    assert_eq!(device.until_pong().await, []);
    stand.stop().await;
}

#[tokio::test]
async fn many_devices_at_once_are_each_acknowledged_in_order() {
    let dir = TempDir::new().unwrap();
    let stand = Stand::start(&dir).await;
    let mut devices = tokio::task::JoinSet::new();
    for number in 0..20 {
        let mut device = stand.device(&format!("dev{number}")).await;
        devices.spawn(async move {
            let topic = format!("sensors/t/dev{number}");
            let batch: Vec<u8> = (1..=500)
                .flat_map(|id| publish(QOS1, &topic, id, &id.to_string()))
                .collect();
            device.send(&batch).await;
            for id in 1..=500 {
                assert_eq!(device.packet().await, puback(id));
            }
        });
    }
    tokio::time::timeout(Duration::from_secs(60), devices.join_all())
        .await
        .expect("all in time");
    let mut stream = stand.jetstream.get_stream("SENSORS").await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 10_000);
    assert_eq!(stand.mqtt.stats().awaiting_store, 0);
    stand.stop().await;
}
