//! From the broker to the device.

use super::raw::{Raw, frame, publish, published, text};
use super::start;

const QOS1: u8 = 0b0010;
const RETAIN: u8 = 0b0001;

#[tokio::test]
async fn nats_messages_reach_topics_and_internal_ones_never() {
    let (server, broker) = start(|_| {}).await;
    let (mut device, _) = Raw::connect(server.local_addr(), "device1", true).await;
    device.subscribe("cmd/device1", 1).await;
    broker.publish_from_nats("cmd.device1", "reboot");
    broker.publish_from_nats("cmd.device2", "not for this one");
    assert_eq!(device.packet().await, published(QOS1, "cmd/device1", 1, "reboot"));
    let (mut all, _) = Raw::connect(server.local_addr(), "all", true).await;
    all.subscribe("#", 0).await;
    all.subscribe("+/x", 0).await;
    for subject in [
        "$SYS.x",
        "$JS.API.INFO",
        "_INBOX.x",
        "$MQTT.msgs.a",
        "bad.#",
        "bad.\u{1}",
        "a.b",
    ] {
        broker.publish_from_nats(subject, "m");
    }
    assert_eq!(all.packet().await, published(0, "a/b", 0, "m"));
    assert_eq!(all.until_pong().await, []);
    let stats = server.stats();
    assert_eq!(stats.passed_over.get("topic_internal"), Some(&4));
    assert_eq!(stats.passed_over.get("topic_wildcard"), Some(&1));
}

#[tokio::test]
async fn grants_are_one_by_one() {
    let (server, _) = start(|_| {}).await;
    let (mut device, _) = Raw::connect(server.local_addr(), "dev", true).await;
    let mut body = vec![0, 1];
    for (filter, qos) in [
        ("a/#", 0),
        ("$SYS/#", 1),
        ("b/+", 2),
        ("c d", 0),
        ("$share/g/t", 0),
        ("*", 1),
    ] {
        body.extend([&text(filter)[..], &[qos]].concat());
    }
    device.send(&frame(0x82, &body)).await;
    assert_eq!(
        device.packet().await,
        (0x90, vec![0, 1, 0, 0x80, 1, 0x80, 0x80, 0x80])
    );
    assert_eq!(server.stats().subscriptions_refused, 4);
    device
        .send(&frame(0x82, &[&[0, 2][..], &text("a/#/b"), &[0]].concat()))
        .await;
    device.closed().await;
}

#[tokio::test]
async fn overlapping_subscriptions_give_one_copy_at_the_highest_qos() {
    let (server, broker) = start(|_| {}).await;
    let (mut device, _) = Raw::connect(server.local_addr(), "dev", true).await;
    for (filter, qos) in [("a/#", 0), ("a/b", 1), ("+/b", 0)] {
        device.subscribe(filter, qos).await;
    }
    broker.publish_from_nats("a.b", "x");
    broker.publish_from_nats("a.b", "");
    broker.publish_from_nats("a.b", "");
    broker.publish_from_nats("a", "parent");
    for packet in [
        published(QOS1, "a/b", 1, "x"),
        published(QOS1, "a/b", 2, ""),
        published(QOS1, "a/b", 3, ""),
        published(0, "a", 0, "parent"),
    ] {
        assert_eq!(device.packet().await, packet);
    }
    assert_eq!(device.until_pong().await, []);
    device
        .send(&frame(0xa2, &[&[0, 9][..], &text("a/b"), &text("a/#")].concat()))
        .await;
    assert_eq!(device.packet().await, (0xb0, vec![0, 9]));
    broker.publish_from_nats("a.b", "y");
    assert_eq!(device.packet().await, published(0, "a/b", 0, "y"));
    assert_eq!(broker.subscription_count(), 1);
}

#[tokio::test]
async fn qos_is_the_lower_of_publication_and_grant() {
    let (server, _) = start(|_| {}).await;
    let (mut device, _) = Raw::connect(server.local_addr(), "dev", true).await;
    device.subscribe("one", 1).await;
    device.subscribe("zero", 0).await;
    let (mut publisher, _) = Raw::connect(server.local_addr(), "pub", true).await;
    for topic in ["one", "zero"] {
        publisher.send(&publish(0, topic, 0, "0")).await;
        publisher.send(&publish(QOS1, topic, 1, "1")).await;
    }
    publisher.until_pong().await;
    for packet in [
        published(0, "one", 0, "0"),
        published(QOS1, "one", 1, "1"),
        published(0, "zero", 0, "0"),
        published(0, "zero", 0, "1"),
    ] {
        assert_eq!(device.packet().await, packet);
    }
}

#[tokio::test]
async fn the_in_flight_window_holds_back_what_the_device_has_not_acknowledged() {
    let (server, broker) = start(|config| config.session.inflight_max = 2).await;
    let (mut device, _) = Raw::connect(server.local_addr(), "dev", true).await;
    device.subscribe("cmd", 1).await;
    for payload in ["1", "2", "3", "4", "5"] {
        broker.publish_from_nats("cmd", payload);
    }
    let two = [published(QOS1, "cmd", 1, "1"), published(QOS1, "cmd", 2, "2")];
    assert_eq!([device.packet().await, device.packet().await], two);
    assert_eq!(device.until_pong().await, []);
    assert_eq!(
        (server.stats().inflight, server.stats().publishes_out),
        (2, [0, 2])
    );
    device.send(b"\x40\x02\x00\x02").await;
    assert_eq!(device.packet().await, published(QOS1, "cmd", 3, "3"));
    device.send(b"\x40\x02\x00\x01\x40\x02\x00\x03").await;
    assert_eq!(device.packet().await, published(QOS1, "cmd", 4, "4"));
    assert_eq!(device.packet().await, published(QOS1, "cmd", 5, "5"));
    device.send(b"\x40\x02\x00\x04").await;
    assert_eq!(device.until_pong().await, []);
    let stats = server.stats();
    assert_eq!((stats.inflight, stats.queued, stats.queue_dropped), (1, 0, 0));
    device.send(b"\xe0\x00").await;
    device.closed().await;
    super::until(|| server.stats().inflight == 0).await;
}

#[tokio::test]
async fn retained_messages_come_first_and_an_empty_one_ends_them() {
    let (server, _) = start(|_| {}).await;
    let (mut publisher, _) = Raw::connect(server.local_addr(), "pub", true).await;
    for (topic, payload) in [
        ("state/a", "old"),
        ("state/a", "new"),
        ("state/b", "b"),
        ("state/c", "c"),
        ("other", "o"),
    ] {
        publisher.send(&publish(QOS1 | RETAIN, topic, 1, payload)).await;
    }
    publisher.send(&publish(RETAIN, "state/c", 0, "")).await;
    publisher.until_pong().await;
    let (mut device, _) = Raw::connect(server.local_addr(), "dev", true).await;
    device.subscribe("state/#", 1).await;
    assert_eq!(
        device.packet().await,
        published(QOS1 | RETAIN, "state/a", 1, "new")
    );
    assert_eq!(device.packet().await, published(QOS1 | RETAIN, "state/b", 2, "b"));
    publisher.send(&publish(RETAIN, "state/a", 0, "live")).await;
    assert_eq!(
        device.packet().await,
        published(0, "state/a", 0, "live"),
        "to those there, without the flag"
    );
    assert_eq!(device.until_pong().await, []);
    assert_eq!(server.stats().retained_count, 3);
}

#[tokio::test]
async fn a_device_that_does_not_read_is_not_fetched_for() {
    let (server, broker) = start(|_| {}).await;
    let (mut slow, _) = Raw::connect(server.local_addr(), "slow", true).await;
    slow.subscribe("flood", 0).await;
    let payload = "x".repeat(10_000);
    for _ in 0..3_000 {
        broker.publish_from_nats("flood", &payload);
    }
    // 30 MB were sent to it. What it did not read stays with the broker, whose bound it is; the rest is served as usual.
    let (mut other, _) = Raw::connect(server.local_addr(), "other", true).await;
    assert_eq!(other.until_pong().await, []);
    for _ in 0..3_000 {
        let (first, body) = slow.packet().await;
        assert_eq!((first, body.len()), (0x30, 7 + payload.len()));
    }
    assert_eq!(slow.until_pong().await, []);
}
