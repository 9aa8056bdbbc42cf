//! From a publish to a row, through the real binary, over stops and kills.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::HeaderMap;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use tarn::audit::{self, GroupBy, ReadingRow};
use tarn_processor::read::open_rest;
use tokio::time::Instant;

use crate::process::{Tarn, config, get};

/// Publishes over MQTT with QoS 1 and returns once each is acknowledged.
async fn publish_mqtt(tarn: &Tarn, client_id: &str, messages: &[(&str, String)]) {
    let mut options = MqttOptions::new(client_id, tarn.mqtt.ip().to_string(), tarn.mqtt.port());
    options.set_keep_alive(Duration::from_secs(5));
    let (client, mut events) = AsyncClient::new(options, messages.len().max(1));
    for (topic, payload) in messages {
        client
            .publish(*topic, QoS::AtLeastOnce, false, payload.as_str())
            .await
            .expect("queued");
    }
    let mut acknowledged = 0;
    while acknowledged < messages.len() {
        let event = tokio::time::timeout(Duration::from_secs(10), events.poll())
            .await
            .expect("in time");
        if let Event::Incoming(Packet::PubAck(_)) = event.expect("the connection holds") {
            acknowledged += 1;
        }
    }
    client.disconnect().await.expect("queued");
}

/// Publishes over NATS with a message id and returns once each is acknowledged.
async fn publish_nats(tarn: &Tarn, messages: &[(&str, String, String)]) {
    let client = async_nats::connect(tarn.nats_url()).await.expect("NATS answers");
    let jetstream = async_nats::jetstream::new(client);
    for (subject, id, payload) in messages {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", id.as_str());
        let ack = jetstream.publish_with_headers((*subject).to_owned(), headers, payload.clone().into());
        ack.await.expect("sent").await.expect("acknowledged");
    }
}

async fn rows(catalog: &str) -> Vec<ReadingRow> {
    let table = open_rest(catalog, "readings")
        .await
        .expect("the catalog has the table");
    let mut found = Vec::new();
    audit::readings(&table, |row| found.push(row))
        .await
        .expect("the table can be read");
    found
}

/// The rows, once there are `count` of them. Fails after 20 seconds.
async fn rows_when(tarn: &Tarn, count: usize) -> Vec<ReadingRow> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let found = rows(&tarn.catalog()).await;
        if found.len() >= count {
            assert_eq!(found.len(), count, "more rows than were sent");
            return found;
        }
        assert!(Instant::now() < deadline, "{} rows of {count}", found.len());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn reading(value: f64, second: u32) -> String {
    format!("{{\"value\": {value}, \"unit\": \"C\", \"timestamp\": \"2025-07-15T10:30:{second:02}Z\"}}")
}

async fn assert_windows_equal_group_by(tarn: &Tarn, rows: Vec<ReadingRow>) {
    let mut groups = GroupBy::new(60_000_000);
    rows.into_iter().for_each(|row| groups.add(row));
    let table = open_rest(&tarn.catalog(), "readings_1m")
        .await
        .expect("the catalog has the table");
    let mut windows = Vec::new();
    audit::windows(&table, |row| windows.push(row))
        .await
        .expect("the table can be read");
    let check = groups.compare(windows);
    assert!(check.holds() && check.windows > 0, "{check:?}");
}

#[tokio::test]
async fn what_is_acknowledged_is_a_row_once_over_a_stop_and_a_kill() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let config = config(folder.path(), "");

    let tarn = Tarn::start(&config);
    let (ready, body) = get(tarn.http, "/readyz");
    assert_eq!(ready, 200, "{body}");
    publish_mqtt(
        &tarn,
        "m1",
        &[
            ("sensors/temperature/room1", reading(20.5, 1)),
            ("iot/sensors/temp/d1", reading(21.0, 2)),
        ],
    )
    .await;
    let twice = ("sensors.humidity.room1", "h-1".to_owned(), reading(40.0, 3));
    publish_nats(&tarn, &[twice.clone(), twice.clone()]).await;
    publish_nats(
        &tarn,
        &[(
            "sensors.temperature.room1",
            "bad-1".to_owned(),
            "{not json".to_owned(),
        )],
    )
    .await;
    rows_when(&tarn, 3).await;
    let (code, said) = tarn.stop();
    assert_eq!(code, Some(0), "{said}");

    let tarn = Tarn::start(&config);
    publish_nats(&tarn, &[twice]).await;
    publish_mqtt(&tarn, "m1", &[("sensors/temperature/room1", reading(22.5, 4))]).await;
    // Acknowledged and not waited for: the kill comes before the commit, most likely.
    tarn.kill();

    let tarn = Tarn::start(&config);
    let found = rows_when(&tarn, 4).await;
    let by_device: BTreeMap<(String, String), f64> = found
        .iter()
        .map(|row| {
            (
                (row.device_id.clone(), format!("{}@{}", row.sensor, row.ts)),
                row.value.unwrap_or_default(),
            )
        })
        .collect();
    assert_eq!(by_device.len(), 4, "{found:?}");
    assert_windows_equal_group_by(&tarn, found).await;
    let table = open_rest(&tarn.catalog(), "dead_letters")
        .await
        .expect("the catalog has the table");
    let mut refused = Vec::new();
    audit::dead_letters(&table, |row| refused.push(row))
        .await
        .expect("the table can be read");
    let [bad] = refused.as_slice() else {
        panic!("{refused:?}")
    };
    assert_eq!(
        (bad.reason.as_str(), bad.payload.as_slice()),
        ("invalid_json", b"{not json".as_slice())
    );
    let (code, said) = tarn.stop();
    assert_eq!(code, Some(0), "{said}");
}

#[tokio::test]
async fn mqtt_and_nats_clients_reach_each_other() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let tarn = Tarn::start(&config(folder.path(), ""));
    let client = async_nats::connect(tarn.nats_url()).await.expect("NATS answers");
    let mut heard = client.subscribe("sensors.>").await.expect("subscribed");
    client.flush().await.expect("the server has it");
    publish_mqtt(&tarn, "m2", &[("sensors/temperature/room1", reading(1.0, 1))]).await;
    let message = tokio::time::timeout(Duration::from_secs(10), futures::StreamExt::next(&mut heard)).await;
    let message = message.expect("in time").expect("a message");
    assert_eq!(message.subject.as_str(), "sensors.temperature.room1");

    let options = MqttOptions::new("m3", tarn.mqtt.ip().to_string(), tarn.mqtt.port());
    let (mqtt, mut events) = AsyncClient::new(options, 10);
    mqtt.subscribe("cmd/device1", QoS::AtMostOnce)
        .await
        .expect("queued");
    let answer = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            match events.poll().await.expect("the connection holds") {
                Event::Incoming(Packet::SubAck(_)) => {
                    client.publish("cmd.device1", "on".into()).await.expect("sent");
                    client.flush().await.expect("the server has it");
                }
                Event::Incoming(Packet::Publish(publish)) => return publish,
                _ => {}
            }
        }
    });
    let publish = answer.await.expect("in time");
    assert_eq!(
        (publish.topic.as_str(), &publish.payload[..]),
        ("cmd/device1", b"on".as_slice())
    );
}

#[tokio::test]
async fn every_page_answers() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let tarn = Tarn::start(&config(folder.path(), ""));
    for (path, wanted) in [
        ("/", "<title>Tarn</title>"),
        ("/healthz", "ok"),
        ("/readyz", "\"ready\":true"),
        ("/api/v1/status", "\"version\""),
        ("/catalog/v1/config", "{"),
    ] {
        let (status, body) = get(tarn.http, path);
        assert_eq!(status, 200, "{path}: {body}");
        assert!(body.contains(wanted), "{path}: {body}");
    }
    let (status, metrics) = get(tarn.http, "/metrics");
    assert_eq!(status, 200);
    for name in [
        "tarn_up 1",
        "tarn_broker_connections ",
        "tarn_mqtt_pubacks_out_total 0",
        "tarn_processor_watermark{stream=\"SENSORS\"}",
    ] {
        assert!(metrics.contains(name), "{name} is missing in\n{metrics}");
    }
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");
    let (status, varz) = get(tarn.monitor, "/varz");
    assert_eq!(status, 200, "{varz}");
    assert!(varz.contains("\"server_id\""), "{varz}");
}

#[tokio::test]
async fn a_stream_of_the_operator_is_read_instead_of_a_second_one() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let config = config(folder.path(), "");
    let first = Tarn::start(&config);
    let client = async_nats::connect(first.nats_url()).await.expect("NATS answers");
    let jetstream = async_nats::jetstream::new(client);
    jetstream.delete_stream("SENSORS").await.expect("deleted");
    let own = async_nats::jetstream::stream::Config {
        name: "iot-sensors".to_owned(),
        subjects: vec!["sensors.>".to_owned()],
        ..Default::default()
    };
    jetstream.create_stream(own).await.expect("created");
    assert_eq!(first.stop().0, Some(0));

    let tarn = Tarn::start(&config);
    publish_nats(
        &tarn,
        &[
            ("sensors.temperature.a", "1".to_owned(), reading(1.0, 1)),
            ("iot.sensors.temp.b", "2".to_owned(), reading(2.0, 2)),
        ],
    )
    .await;
    rows_when(&tarn, 2).await;
    let client = async_nats::connect(tarn.nats_url()).await.expect("NATS answers");
    let jetstream = async_nats::jetstream::new(client);
    let mut made = jetstream.get_stream("SENSORS").await.expect("made for the rest");
    assert_eq!(made.info().await.expect("info").config.subjects, ["iot.>"]);
}

#[tokio::test]
async fn the_processor_runs_beside_a_broker_of_another_process() {
    let (front, back) = (
        tempfile::tempdir().expect("directory"),
        tempfile::tempdir().expect("directory"),
    );
    let broker = Tarn::start_with(&config(front.path(), ""), &["--only", "gateway,broker"]);
    publish_mqtt(&broker, "m1", &[("sensors/temperature/early", reading(1.0, 1))]).await;
    let url = broker.nats_url();
    let processor = Tarn::start_with(
        &config(back.path(), ""),
        &["--only", "processor", "--nats-url", &url],
    );
    assert_eq!(
        get(broker.http, "/catalog/v1/config").0,
        404,
        "the catalog is where the processor is"
    );
    publish_mqtt(&broker, "m1", &[("sensors/temperature/late", reading(2.0, 2))]).await;
    rows_when(&processor, 2).await;
    assert_eq!(processor.stop().0, Some(0));
    assert_eq!(broker.stop().0, Some(0));
}
