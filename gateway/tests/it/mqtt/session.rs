//! CONNECT, sessions that outlive connections, and the end of connections.

use std::time::Duration;

use super::raw::{Raw, connect, connect_with_will, frame, publish, published, text};
use super::{start, until};

const QOS1: u8 = 0b0010;
const DUP: u8 = 0b1000;

#[tokio::test]
async fn versions_are_told_apart_by_connect() {
    let (server, _) = start(|_| {}).await;
    let address = server.local_addr();
    for (name, level, first, body) in [
        ("MQTT", 4, 0x20, &[0, 0][..]),
        ("MQIsdp", 3, 0x20, &[0, 0]),
        ("MQTT", 5, 0x20, &[0, 0x84, 0]),
        ("MQTT", 6, 0x20, &[0, 1]),
    ] {
        let mut raw = Raw::open(address).await;
        let properties = if level == 5 { &[0][..] } else { &[] };
        raw.send(&frame(
            0x10,
            &[&text(name)[..], &[level, 2, 0, 0], properties, &text("v")].concat(),
        ))
        .await;
        assert_eq!(raw.packet().await, (first, body.to_vec()), "{name} {level}");
    }
    let mut raw = Raw::open(address).await;
    raw.send(&frame(
        0x10,
        &[&text("HTTP")[..], &[4, 2, 0, 0], &text("v")].concat(),
    ))
    .await;
    raw.closed().await;
}

#[tokio::test]
async fn names_that_could_widen_a_permission_are_rejected() {
    let (server, _) = start(|_| {}).await;
    for client_id in ["#", "a+b", "dev*", ">"] {
        let mut raw = Raw::open(server.local_addr()).await;
        raw.send(&connect(client_id, true, 0)).await;
        assert_eq!(raw.packet().await, (0x20, vec![0, 2]), "{client_id}");
        raw.closed().await;
    }
    let mut raw = Raw::open(server.local_addr()).await;
    raw.send(&connect("", false, 0)).await;
    assert_eq!(raw.packet().await, (0x20, vec![0, 2]));
    let (_one, present) = Raw::connect(server.local_addr(), "", true).await;
    let (_other, _) = Raw::connect(server.local_addr(), "", true).await;
    assert!(!present);
    assert_eq!(server.stats().sessions, 2);
}

#[tokio::test]
async fn a_handshake_has_its_time_and_its_size() {
    let (server, _) = start(|config| config.connect_timeout = Duration::from_millis(50)).await;
    let mut silent = Raw::open(server.local_addr()).await;
    silent.closed().await;
    let mut slow = Raw::open(server.local_addr()).await;
    slow.send(b"\x10\x0d\x00\x04MQ").await;
    slow.closed().await;
    assert_eq!(server.stats().closed.get("connect_timeout"), Some(&2));
    let mut large = Raw::open(server.local_addr()).await;
    large.send(b"\x10\x80\x80\x08").await;
    large.closed().await;
    assert_eq!(server.stats().closed.get("packet_too_large"), Some(&1));
    assert_eq!(server.stats().sessions, 0);
}

#[tokio::test]
async fn limits_on_connections_and_sessions_hold() {
    let (server, _) = start(|config| (config.connections_max, config.sessions_max) = (2, 1)).await;
    let (_first, _) = Raw::connect(server.local_addr(), "a", true).await;
    let mut second = Raw::open(server.local_addr()).await;
    second.send(&connect("b", true, 0)).await;
    assert_eq!(second.packet().await, (0x20, vec![0, 3]));
    let mut third = Raw::open(server.local_addr()).await;
    third.closed().await;
    assert_eq!(server.stats().closed.get("connections_max"), Some(&1));
}

#[tokio::test]
async fn the_same_client_id_takes_the_session_over() {
    let (server, broker) = start(|_| {}).await;
    let address = server.local_addr();
    // A slash in the id, and several connects in a row.
    let (mut first, present) = Raw::connect(address, "plant/dev", false).await;
    assert!(!present);
    first.subscribe("cmd/dev", 1).await;
    let (mut second, present) = Raw::connect(address, "plant/dev", false).await;
    assert!(present);
    first.closed().await;
    broker.publish_from_nats("cmd.dev", "on");
    assert_eq!(second.packet().await, published(QOS1, "cmd/dev", 1, "on"));
    let (mut third, present) = Raw::connect(address, "plant/dev", true).await;
    assert!(!present, "a clean session starts anew");
    second.closed().await;
    assert_eq!(third.until_pong().await, []);
    assert_eq!((server.stats().sessions, broker.subscription_count()), (1, 0));
    assert_eq!(server.stats().closed.get("taken_over"), Some(&2));
}

#[tokio::test]
async fn many_takeovers_at_once_leave_one_connection() {
    let (server, _) = start(|_| {}).await;
    let address = server.local_addr();
    let connects = (0..20).map(|_| Raw::connect(address, "dev", false));
    let clients = futures::future::join_all(connects).await;
    let mut open = 0;
    for (mut client, _) in clients {
        client.send(b"\xc0\x00").await;
        open += usize::from(client.alive().await);
    }
    assert_eq!((open, server.stats().sessions), (1, 1));
}

#[tokio::test]
async fn a_session_that_stays_gets_what_came_meanwhile_and_what_was_not_acknowledged() {
    let (server, broker) = start(|_| {}).await;
    let address = server.local_addr();
    let (mut device, _) = Raw::connect(address, "dev", false).await;
    device.subscribe("cmd/#", 1).await;
    broker.publish_from_nats("cmd.a", "1");
    broker.publish_from_nats("cmd.a", "2");
    assert_eq!(device.packet().await, published(QOS1, "cmd/a", 1, "1"));
    assert_eq!(device.packet().await, published(QOS1, "cmd/a", 2, "2"));
    device.send(b"\x40\x02\x00\x01").await;
    device.until_pong().await;
    device.send(b"\xe0\x00").await;
    device.closed().await;
    offline(&server, 1).await;
    broker.publish_from_nats("cmd", "3");
    let (mut publisher, _) = Raw::connect(address, "other", true).await;
    publisher
        .send(&publish(0, "cmd/a", 0, "at most once, so lost"))
        .await;
    publisher.send(&publish(QOS1, "cmd/a", 5, "4")).await;
    publisher.until_pong().await;
    until(|| (server.stats().inflight, server.stats().queued) == (1, 2)).await;
    let (mut device, present) = Raw::connect(address, "dev", false).await;
    assert!(present);
    assert_eq!(device.packet().await, published(QOS1 | DUP, "cmd/a", 2, "2"));
    assert_eq!(device.packet().await, published(QOS1, "cmd", 3, "3"));
    assert_eq!(device.packet().await, published(QOS1, "cmd/a", 4, "4"));
    assert_eq!(device.until_pong().await, []);
}

#[tokio::test]
async fn a_session_ends_when_its_client_stays_away_too_long() {
    let (server, broker) = start(|config| config.session_expiry = Duration::from_millis(20)).await;
    let (mut device, _) = Raw::connect(server.local_addr(), "dev", false).await;
    device.subscribe("cmd/#", 1).await;
    device.send(b"\xe0\x00").await;
    device.closed().await;
    until(|| server.stats().sessions == 0).await;
    assert_eq!(
        (server.stats().sessions_expired, broker.subscription_count()),
        (1, 0)
    );
    let (_device, present) = Raw::connect(server.local_addr(), "dev", false).await;
    assert!(!present);
}

#[tokio::test]
async fn the_will_tells_of_an_end_without_goodbye() {
    let (server, _) = start(|_| {}).await;
    let address = server.local_addr();
    let (mut watcher, _) = Raw::connect(address, "watcher", true).await;
    watcher.subscribe("state/+", 1).await;
    let (polite, _) = Raw::connect_with(address, &connect_with_will("p", "state/p", "gone", 0)).await;
    let (mut broken, _) =
        Raw::connect_with(address, &connect_with_will("b", "state/b", "gone", 0b10_1000)).await;
    let mut polite = polite;
    polite.send(b"\xe0\x00").await;
    polite.closed().await;
    broken.send(b"\xff\xff").await;
    broken.closed().await;
    assert_eq!(watcher.packet().await, published(QOS1, "state/b", 1, "gone"));
    let (mut late, _) = Raw::connect(address, "late", true).await;
    late.subscribe("state/#", 0).await;
    assert_eq!(late.until_pong().await, [published(1, "state/b", 0, "gone")]);
    let mut refused = Raw::open(address).await;
    refused.send(&connect_with_will("x", "$SYS/x", "gone", 0)).await;
    assert_eq!(refused.packet().await, (0x20, vec![0, 5]));
}

#[tokio::test]
async fn silence_ends_the_connection_and_pings_keep_it() {
    let (server, _) = start(|_| {}).await;
    let (mut silent, _) = Raw::connect_with(server.local_addr(), &connect("silent", true, 1)).await;
    let (mut none, _) = Raw::connect(server.local_addr(), "none", true).await;
    silent.closed().await;
    assert_eq!(server.stats().closed.get("keep_alive"), Some(&1));
    assert_eq!(none.until_pong().await, []);
}

/// Waits until that many sessions are kept for clients that are away.
async fn offline(server: &tarn::mqtt::MqttServer, count: u64) {
    until(|| server.stats().sessions_offline == count).await;
}
