//! JetStream from a client's point of view, over the wire and in process, across restarts.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::{self, AckKind, stream};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use tarn_broker::local::LocalMessage;
use tarn_broker::server::{Broker, BrokerConfig, Health, StartError};
use tarn_broker::shard::inbox::{PublishError, Resend};
use tarn_broker::types::StreamSeq;

use crate::Server;

fn sensors() -> stream::Config {
    stream::Config {
        name: "SENSORS".into(),
        subjects: vec!["sensors.>".into()],
        ..stream::Config::default()
    }
}

async fn context(server: &Server) -> jetstream::Context {
    jetstream::new(server.client().await)
}

#[tokio::test]
async fn publishing_is_acknowledged_and_deduplicated() {
    let server = Server::start().await;
    let js = context(&server).await;
    let mut stream = js.create_stream(sensors()).await.unwrap();
    let mut live = server.client().await.subscribe("sensors.*").await.unwrap();
    for expected in 1..=3 {
        let ack = js.publish("sensors.a", "x".into()).await.unwrap().await.unwrap();
        assert_eq!(
            (ack.stream.as_str(), ack.sequence, ack.duplicate),
            ("SENSORS", expected, false)
        );
    }
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", "once");
    for duplicate in [false, true] {
        let publish = js
            .publish_with_headers("sensors.b", headers.clone(), "y".into())
            .await
            .unwrap();
        let ack = publish.await.unwrap();
        assert_eq!((ack.sequence, ack.duplicate), (4, duplicate));
    }
    let message = stream.get_raw_message(4).await.unwrap();
    assert_eq!(
        (message.subject.as_str(), &message.payload[..]),
        ("sensors.b", &b"y"[..])
    );
    let state = stream.info().await.unwrap().state.clone();
    assert_eq!(
        (state.messages, state.first_sequence, state.last_sequence),
        (4, 1, 4)
    );
    drop(live.next().await);
    server.broker.shutdown().await;
}

#[tokio::test]
async fn a_publish_that_no_stream_captures_has_no_responders() {
    let server = Server::start().await;
    let js = context(&server).await;
    let err = js
        .publish("nowhere", "x".into())
        .await
        .unwrap()
        .await
        .unwrap_err();
    assert_eq!(err.kind(), jetstream::context::PublishErrorKind::StreamNotFound);
}

#[tokio::test]
async fn a_pull_consumer_fetches_acknowledges_and_gets_again_what_was_refused() {
    let server = Server::start().await;
    let js = context(&server).await;
    let stream = js.create_stream(sensors()).await.unwrap();
    for number in 0..20_u32 {
        js.publish(format!("sensors.{}", number % 2), number.to_string().into())
            .await
            .unwrap()
            .await
            .unwrap();
    }
    let config = pull::Config {
        durable_name: Some("even".into()),
        filter_subject: "sensors.0".into(),
        ack_policy: AckPolicy::Explicit,
        ..pull::Config::default()
    };
    let mut consumer = stream.create_consumer(config).await.unwrap();
    let mut batch = consumer.fetch().max_messages(20).messages().await.unwrap();
    let mut got = Vec::new();
    while let Some(message) = batch.next().await {
        let message = message.unwrap();
        got.push(String::from_utf8(message.payload.to_vec()).unwrap());
        let kind = if message.payload == "4" {
            AckKind::Nak(None)
        } else {
            AckKind::Ack
        };
        message.ack_with(kind).await.unwrap();
    }
    assert_eq!(got, ["0", "2", "4", "6", "8", "10", "12", "14", "16", "18"]);
    let mut again = consumer
        .batch()
        .max_messages(1)
        .expires(Duration::from_secs(5))
        .messages()
        .await
        .unwrap();
    let message = again.next().await.unwrap().unwrap();
    assert_eq!(
        (&message.payload[..], message.info().unwrap().delivered),
        (&b"4"[..], 2)
    );
    message.double_ack().await.unwrap();
    let info = consumer.info().await.unwrap();
    // The last record, which the filter leaves out, counts as passed.
    assert_eq!(
        (
            info.num_pending,
            info.num_ack_pending,
            info.ack_floor.stream_sequence
        ),
        (0, 0, 20)
    );
}

#[tokio::test]
async fn a_continuous_pull_keeps_up_with_a_publisher() {
    let server = Server::start().await;
    let js = context(&server).await;
    let stream = js.create_stream(sensors()).await.unwrap();
    let config = pull::Config {
        durable_name: Some("all".into()),
        ack_policy: AckPolicy::All,
        ..pull::Config::default()
    };
    let consumer = stream.create_consumer(config).await.unwrap();
    let publishing = async {
        for round in 0..10_u32 {
            let mut acks = Vec::new();
            for number in 0..500_u32 {
                acks.push(
                    js.publish("sensors.a", (round * 500 + number).to_string().into())
                        .await
                        .unwrap(),
                );
            }
            for ack in acks {
                ack.await.unwrap();
            }
        }
    };
    let consuming = async {
        let mut messages = consumer.messages().await.unwrap().take(5000);
        let mut expected = 0;
        while let Some(message) = messages.try_next().await.unwrap() {
            assert_eq!(message.payload, expected.to_string());
            expected += 1;
            if expected % 1000 == 0 {
                message.ack().await.unwrap();
            }
        }
        assert_eq!(expected, 5000);
    };
    tokio::time::timeout(Duration::from_secs(60), async {
        tokio::join!(publishing, consuming)
    })
    .await
    .unwrap();
    assert!(server.broker.stats().shard.commits > 0);
}

#[tokio::test]
async fn a_restart_keeps_streams_consumers_and_positions() {
    let server = Server::start().await;
    let js = context(&server).await;
    let stream = js.create_stream(sensors()).await.unwrap();
    let config = pull::Config {
        durable_name: Some("d".into()),
        ..pull::Config::default()
    };
    let consumer = stream.create_consumer(config).await.unwrap();
    for number in 0..10_u32 {
        js.publish("sensors.a", number.to_string().into())
            .await
            .unwrap()
            .await
            .unwrap();
    }
    let mut batch = consumer.fetch().max_messages(4).messages().await.unwrap();
    while let Some(message) = batch.next().await {
        message.unwrap().double_ack().await.unwrap();
    }
    let server = server.restart().await;
    let js = context(&server).await;
    let mut stream = js.get_stream("SENSORS").await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 10);
    let consumer: jetstream::consumer::PullConsumer = stream.get_consumer("d").await.unwrap();
    let mut batch = consumer.fetch().max_messages(1).messages().await.unwrap();
    let message = batch.next().await.unwrap().unwrap();
    assert_eq!(
        (&message.payload[..], message.info().unwrap().stream_sequence),
        (&b"4"[..], 5)
    );
    let ack = js.publish("sensors.a", "x".into()).await.unwrap().await.unwrap();
    assert_eq!(ack.sequence, 11);
}

#[tokio::test]
async fn local_publishes_are_on_disk_when_answered_and_resends_are_recognised() {
    let server = Server::start().await;
    let js = context(&server).await;
    let mut stream = js.create_stream(sensors()).await.unwrap();
    let local = server.broker.local_client("mqtt");
    assert!(local.captured("sensors.a") && !local.captured("other"));
    let message = |subject: &str, is_resend| LocalMessage {
        subject: subject.to_owned(),
        payload: Bytes::from_static(b"x"),
        resend: Some(Resend {
            key: "device1:7".into(),
            is_resend,
        }),
        ..LocalMessage::default()
    };
    let batch = vec![
        message("sensors.a", false),
        message("other", false),
        message("not valid", false),
    ];
    let answers = local.publish_durable(batch).await.await.unwrap();
    let ack = answers[0].as_ref().unwrap();
    assert_eq!(
        (&*ack.stream, ack.seq, ack.duplicate),
        ("SENSORS", StreamSeq(1), false)
    );
    assert_eq!(
        answers[1..],
        [Err(PublishError::NoStream), Err(PublishError::InvalidSubject)]
    );
    let answers = local
        .publish_durable(vec![message("sensors.a", true), message("sensors.a", false)])
        .await
        .await
        .unwrap();
    let seqs: Vec<_> = answers
        .iter()
        .map(|ack| ack.as_ref().map(|ack| (ack.seq.0, ack.duplicate)).unwrap())
        .collect();
    assert_eq!(seqs, [(1, true), (2, false)]);
    local.publish(vec![message("sensors.a", false)]).await;
    let mut messages = 0;
    while messages < 3 {
        messages = stream.info().await.unwrap().state.messages;
    }
    assert_eq!(server.broker.health(), Health::Ok);
    server.broker.shutdown().await;
    let answers = local
        .publish_durable(vec![message("sensors.a", false)])
        .await
        .await
        .unwrap();
    assert_eq!(answers, [Err(PublishError::Closed)]);
}

#[tokio::test]
async fn streams_are_listed_updated_purged_and_deleted() {
    let server = Server::start().await;
    let js = context(&server).await;
    js.create_stream(sensors()).await.unwrap();
    for _ in 0..5 {
        js.publish("sensors.a", "x".into()).await.unwrap().await.unwrap();
    }
    let names: Vec<String> = js.stream_names().try_collect().await.unwrap();
    assert_eq!(names, ["SENSORS"]);
    let wider = stream::Config {
        subjects: vec!["sensors.>".into(), "iot.>".into()],
        ..sensors()
    };
    js.update_stream(wider).await.unwrap();
    assert_eq!(
        js.publish("iot.a", "y".into())
            .await
            .unwrap()
            .await
            .unwrap()
            .sequence,
        6
    );
    let stream = js.get_stream("SENSORS").await.unwrap();
    assert_eq!(stream.purge().filter("sensors.a").await.unwrap().purged, 5);
    js.delete_stream("SENSORS").await.unwrap();
    assert!(js.publish("iot.a", "z".into()).await.unwrap().await.is_err());
    assert!(js.get_stream("SENSORS").await.is_err());
}

#[tokio::test]
async fn a_store_in_use_is_named() {
    let server = Server::start().await;
    let err = Broker::start(BrokerConfig::new(server.store_dir(), "127.0.0.1:0"))
        .await
        .unwrap_err();
    let StartError::Store {
        problem, next_step, ..
    } = &err
    else {
        panic!("{err}")
    };
    assert_eq!(
        (problem.as_str(), *next_step),
        (
            "in use by another process",
            "stop that process, or set another directory"
        )
    );
    assert!(err.to_string().contains(&*server.store_dir().to_string_lossy()));
}

#[tokio::test]
async fn a_store_directory_that_is_a_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, "").unwrap();
    let err = Broker::start(BrokerConfig::new(&path, "127.0.0.1:0"))
        .await
        .unwrap_err();
    assert!(
        matches!(&err, StartError::Store { .. }) && err.to_string().contains("file"),
        "{err}"
    );
}
