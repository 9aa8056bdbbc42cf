//! Core NATS with an unmodified client.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::{ConnectOptions, HeaderMap, RequestErrorKind};
use bytes::Bytes;
use futures::StreamExt;
use tarn_broker::local::LocalMessage;
use tarn_broker::outbound::CloseReason;
use tarn_broker::server::Broker;
use tarn_broker::server::{BrokerConfig, Limits, StartError};

use crate::Server;

const PATIENCE: Duration = Duration::from_secs(10);

async fn next(subscriber: &mut async_nats::Subscriber) -> async_nats::Message {
    tokio::time::timeout(PATIENCE, subscriber.next())
        .await
        .expect("a message in time")
        .expect("a message")
}

#[tokio::test]
async fn publish_and_subscribe_with_wildcards_and_headers() {
    let server = Server::start().await;
    let client = server.client().await;
    let info = client.server_info();
    assert_eq!(
        (info.version.as_str(), info.proto, info.headers, info.max_payload),
        ("2.15.2", 1, true, 1 << 20)
    );
    assert_eq!(
        (info.server_id.len(), info.client_id, info.jetstream),
        (56, 1, true)
    );
    let mut all = client.subscribe("sensors.>").await.unwrap();
    let mut one = client.subscribe("sensors.*.room1").await.unwrap();
    client.flush().await.unwrap();

    let mut headers = HeaderMap::new();
    headers.insert("A", "1");
    headers.append("A", "2");
    let other = server.client().await;
    other
        .publish_with_headers("sensors.temp.room1", headers.clone(), "21.5".into())
        .await
        .unwrap();
    other.publish("sensors.temp.room2", "20".into()).await.unwrap();
    other.flush().await.unwrap();

    let got = next(&mut one).await;
    assert_eq!(
        (got.subject.as_str(), &got.payload[..], got.headers.as_ref()),
        ("sensors.temp.room1", &b"21.5"[..], Some(&headers))
    );
    assert_eq!(next(&mut all).await.subject.as_str(), "sensors.temp.room1");
    assert_eq!(next(&mut all).await.subject.as_str(), "sensors.temp.room2");
    server.broker.shutdown().await;
}

#[tokio::test]
async fn request_reply_and_no_responders() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut service = client.subscribe("service").await.unwrap();
    client.flush().await.unwrap();
    let requester = server.client().await;
    let answering = async {
        let request = next(&mut service).await;
        client
            .publish(request.reply.unwrap(), "pong".into())
            .await
            .unwrap();
    };
    let (answer, ()) = tokio::join!(requester.request("service", "ping".into()), answering);
    assert_eq!(answer.unwrap().payload, "pong");
    let err = requester.request("nobody", "ping".into()).await.unwrap_err();
    assert_eq!(err.kind(), RequestErrorKind::NoResponders);
}

#[tokio::test]
async fn queue_groups_share() {
    let server = Server::start().await;
    let (one, other) = (server.client().await, server.client().await);
    let mut first = one.queue_subscribe("work", "q".to_owned()).await.unwrap();
    let mut second = other.queue_subscribe("work", "q".to_owned()).await.unwrap();
    let mut observer = one.subscribe("work").await.unwrap();
    one.flush().await.unwrap();
    other.flush().await.unwrap();
    let sender = server.client().await;
    for number in 0..400_u32 {
        sender.publish("work", number.to_string().into()).await.unwrap();
    }
    sender.flush().await.unwrap();
    let mut counts = BTreeMap::from([("first", 0), ("second", 0)]);
    for _ in 0..400 {
        let name = tokio::select! {
            message = next(&mut first) => { drop(message); "first" }
            message = next(&mut second) => { drop(message); "second" }
        };
        *counts.get_mut(name).unwrap() += 1;
    }
    for number in 0..400_u32 {
        assert_eq!(next(&mut observer).await.payload, number.to_string());
    }
    assert!(counts.values().all(|count| *count > 120), "{counts:?}");
}

#[tokio::test]
async fn a_million_bytes_and_many_messages_arrive_whole_and_in_order() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut subscriber = client.subscribe("bulk").await.unwrap();
    client.flush().await.unwrap();
    let sender = server.client().await;
    let sending = async {
        for number in 0..20_000_u32 {
            let len = if number % 1000 == 999 {
                1 << 20
            } else {
                (number % 300) as usize
            };
            let mut payload = number.to_le_bytes().to_vec();
            payload.resize(len.max(4), number as u8);
            sender.publish("bulk", payload.into()).await.unwrap();
        }
        sender.flush().await.unwrap();
    };
    let receiving = async {
        for number in 0..20_000_u32 {
            let payload = next(&mut subscriber).await.payload;
            assert_eq!(payload[..4], number.to_le_bytes());
            assert!(payload[4..].iter().all(|byte| *byte == number as u8));
        }
    };
    tokio::join!(sending, receiving);
    let stats = server.broker.stats();
    assert_eq!((stats.in_msgs, stats.out_msgs), (20_000, 20_000));
    assert_eq!(stats.in_bytes, stats.out_bytes);
    assert_eq!(stats.connections, 2);
}

#[tokio::test]
async fn local_clients_and_connections_hear_each_other() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut subscriber = client.subscribe("from.local").await.unwrap();
    client.flush().await.unwrap();
    let local = server.broker.local_client("test");
    let sub = local.subscribe("from.net.*", None).unwrap();
    assert!(local.subscribe("not..valid", None).is_err());
    client
        .publish_with_reply("from.net.x", "reply", "hello".into())
        .await
        .unwrap();
    let got = local.recv().await.unwrap();
    assert_eq!(got.len(), 1);
    assert_eq!(
        (got[0].sub, &got[0].subject[..], got[0].reply.as_deref()),
        (sub, &b"from.net.x"[..], Some(&b"reply"[..]))
    );
    let message = LocalMessage {
        subject: "from.local".into(),
        payload: Bytes::from_static(b"hi"),
        ..LocalMessage::default()
    };
    let answers = local.publish_durable(vec![message]).await;
    assert_eq!(next(&mut subscriber).await.payload, "hi");
    assert_eq!(
        answers.await.unwrap().len(),
        1,
        "no stream captures it, and that is said"
    );
    assert!(!local.captured("from.local"));
    local.unsubscribe(sub);
    client.publish("from.net.x", "late".into()).await.unwrap();
    client.flush().await.unwrap();
    server.broker.shutdown().await;
    assert_eq!(local.recv().await, None);
}

#[tokio::test]
async fn a_subscriber_that_takes_nothing_is_cut_off() {
    let limits = Limits {
        max_pending_bytes: 4 << 20,
        ..Limits::default()
    };
    let server = Server::with_limits(limits).await;
    let mut stuck = tokio::net::TcpStream::connect(server.broker.client_addr())
        .await
        .unwrap();
    tokio::io::AsyncWriteExt::write_all(
        &mut stuck,
        b"CONNECT {\"verbose\":false}\r\nSUB flood 1\r\nPING\r\n",
    )
    .await
    .unwrap();
    let sender = server.client().await;
    let mut healthy = sender.subscribe("flood").await.unwrap();
    sender.flush().await.unwrap();
    let payload = Bytes::from(vec![7; 256 << 10]);
    let mut sent = 0;
    while server.broker.stats().slow_consumers == 0 {
        sender.publish("flood", payload.clone()).await.unwrap();
        sent += 1;
        drop(next(&mut healthy).await);
        assert!(sent < 1000, "never cut off");
    }
    assert_eq!(server.broker.stats().slow_consumers, 1);
    sender.publish("flood", "after".into()).await.unwrap();
    assert_eq!(next(&mut healthy).await.payload, "after");
    assert_eq!(
        CloseReason::SlowConsumerPendingBytes.to_string(),
        "Slow Consumer (Pending Bytes)"
    );
}

#[tokio::test]
async fn clients_reconnect_after_a_restart_and_hear_of_the_end() {
    let server = Server::start().await;
    let addr = server.broker.client_addr();
    let (events, mut seen) = tokio::sync::mpsc::channel(8);
    let options = ConnectOptions::new().event_callback(move |event| {
        let events = events.clone();
        async move { drop(events.send(event).await) }
    });
    let client = options.connect(addr.to_string()).await.unwrap();
    let mut subscriber = client.subscribe("a").await.unwrap();
    client.flush().await.unwrap();
    server.broker.shutdown().await;
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(BrokerConfig::new(dir.path(), addr.to_string()))
        .await
        .unwrap();
    let mut connected = 0;
    while connected < 2 {
        let event = tokio::time::timeout(PATIENCE, seen.recv())
            .await
            .unwrap()
            .unwrap();
        connected += usize::from(matches!(event, async_nats::Event::Connected));
    }
    client.publish("a", "again".into()).await.unwrap();
    assert_eq!(next(&mut subscriber).await.payload, "again");
    broker.shutdown().await;
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let server = Server::start().await;
    let dir = tempfile::tempdir().unwrap();
    let taken = server.broker.client_addr().to_string();
    let err = Broker::start(BrokerConfig::new(dir.path(), taken.clone()))
        .await
        .unwrap_err();
    assert!(
        matches!(&err, StartError::PortInUse { address, .. } if *address == taken),
        "{err}"
    );
    assert!(err.to_string().contains("nats.listen") && err.to_string().contains(&taken));
}
