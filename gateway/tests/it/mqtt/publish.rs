//! From the device to the disk.

use tarn::ingest::IngestError;
use tarn::mqtt::packet::QoS;

use super::fake::Disk;
use super::raw::{Raw, connect, frame, puback, publish};
use super::start;

const QOS1: u8 = 0b0010;
const DUP: u8 = 0b1000;

#[tokio::test]
async fn puback_waits_for_the_disk_and_keeps_the_order_of_receipt() {
    let (server, broker) = start(|_| {}).await;
    let (mut device, _) = Raw::connect(server.local_addr(), "dev", true).await;
    broker.set_disk(Disk::Holds);
    let ids = [9, 3, 7];
    for id in ids {
        device.send(&publish(QOS1, "sensors/t/dev", id, "22")).await;
    }
    device.send(&publish(0, "sensors/t/dev", 0, "qos 0")).await;
    // The ping was sent after the publishes, and its answer comes first: nothing was acknowledged ahead of the disk.
    assert_eq!(device.until_pong().await, []);
    assert_eq!(broker.handed_over().len(), 4);
    assert_eq!(server.stats().awaiting_store, 3);
    broker.set_disk(Disk::Works);
    for id in ids {
        assert_eq!(device.packet().await, puback(id));
    }
    let stats = server.stats();
    assert_eq!(
        (stats.publishes_in, stats.pubacks_out, stats.awaiting_store),
        ([1, 3], 3, 0)
    );
    server.shutdown().await;
}

#[tokio::test]
async fn a_store_that_refuses_means_no_puback_and_the_end_of_the_connection() {
    let (server, broker) = start(|_| {}).await;
    for (error, reason) in [
        (IngestError::NoSpace, "store_no_space"),
        (IngestError::ReadOnly, "store_read_only"),
        (IngestError::NoStream, "store_no_stream"),
    ] {
        broker.set_disk(Disk::Refuses(error));
        let (mut device, _) = Raw::connect(server.local_addr(), "dev", true).await;
        device
            .send(&[publish(QOS1, "a", 1, "x"), publish(QOS1, "a", 2, "y")].concat())
            .await;
        device.closed().await;
        assert_eq!(server.stats().closed.get(reason), Some(&1));
    }
    assert_eq!(
        (server.stats().pubacks_out, server.stats().awaiting_store),
        (0, 0)
    );
    broker.set_disk(Disk::Works);
    let (mut device, _) = Raw::connect(server.local_addr(), "dev", true).await;
    device.send(&publish(QOS1, "a", 1, "x")).await;
    assert_eq!(device.packet().await, puback(1));
}

#[tokio::test]
async fn a_resend_carries_the_key_of_the_first_and_says_so() {
    let (server, broker) = start(|_| {}).await;
    let (mut device, _) = Raw::connect(server.local_addr(), "dev", true).await;
    device.send(&publish(QOS1, "a", 1, "x")).await;
    device.send(&publish(QOS1 | DUP, "a", 1, "x")).await;
    device.send(&publish(QOS1, "a", 1, "other")).await;
    for _ in 0..3 {
        assert_eq!(device.packet().await, puback(1));
    }
    let resends: Vec<_> = broker
        .handed_over()
        .into_iter()
        .map(|message| message.resend.unwrap())
        .collect();
    assert_eq!(resends[0].key, resends[1].key);
    assert_ne!(resends[0].key, resends[2].key);
    assert_eq!(
        resends.iter().map(|resend| resend.is_resend).collect::<Vec<_>>(),
        [false, true, false]
    );
}

#[tokio::test]
async fn reads_of_any_size_make_whole_messages_in_order() {
    let (server, broker) = start(|_| {}).await;
    let (mut device, _) = Raw::connect(server.local_addr(), "dev", true).await;
    let large = "x".repeat(1024 * 1024);
    let mut bytes = Vec::new();
    for id in 1..=2_000u16 {
        bytes.extend(publish(QOS1, "a/b", id, &id.to_string()));
    }
    bytes.extend(publish(QOS1, "a/b", 2_001, &large));
    let mut expected = 1;
    for part in bytes.chunks(100_003) {
        device.send(part).await;
    }
    while expected <= 2_001 {
        assert_eq!(device.packet().await, puback(expected));
        expected += 1;
    }
    let messages = broker.handed_over();
    assert_eq!(messages.len(), 2_001);
    for (index, message) in messages.iter().take(2_000).enumerate() {
        assert_eq!((&message.subject[..], message.qos), ("a.b", QoS::AtLeastOnce));
        assert_eq!(message.payload, (index + 1).to_string());
    }
    assert_eq!(messages[2_000].payload, large);
}

#[tokio::test]
async fn what_is_refused_closes_the_connection_and_is_counted() {
    let (server, broker) = start(|_| {}).await;
    for (bytes, reason) in [
        (publish(0b0100, "a", 1, "x"), "qos2"),
        (publish(0, "$SYS/broker", 0, "x"), "topic_internal"),
        (
            publish(0, "$JS/API/STREAM/PURGE/SENSORS", 0, "x"),
            "topic_internal",
        ),
        (publish(0, "_INBOX/1", 0, "x"), "topic_internal"),
        (publish(0, "a b", 0, "x"), "topic_character"),
        (publish(QOS1, "a\r\nPUB b 0\r\n", 1, "x"), "topic_character"),
        (publish(QOS1, "a\u{7f}", 1, "x"), "topic_character"),
        (publish(0, "a\0b", 0, "x"), "topic_nul"),
        (publish(0, "a/>", 0, "x"), "topic_nats_wildcard"),
        (publish(0, "a/+", 0, "x"), "topic_wildcard"),
        (publish(0, &"a/".repeat(16), 0, "x"), "topic_too_deep"),
        (publish(0, &"a".repeat(513), 0, "x"), "topic_too_long"),
        (
            publish(QOS1, "a", 1, &"x".repeat(1024 * 1024 + 600)),
            "packet_too_large",
        ),
        (frame(0x36, b"\0\x01a\0\x01"), "packet_flags"),
        (connect("dev", true, 0), "second_connect"),
        (frame(0xf0, b""), "packet_type"),
    ] {
        let before = server.stats().closed.get(reason).copied().unwrap_or_default();
        let (mut device, _) = Raw::connect(server.local_addr(), "dev", true).await;
        device.send(&bytes).await;
        device.closed().await;
        assert_eq!(server.stats().closed.get(reason), Some(&(before + 1)), "{reason}");
    }
    assert_eq!(broker.handed_over(), []);
}

#[tokio::test]
async fn shutdown_finishes_what_was_read() {
    let (server, broker) = start(|_| {}).await;
    let address = server.local_addr();
    let (mut device, _) = Raw::connect(address, "dev", true).await;
    let (mut idle, _) = Raw::connect(address, "idle", false).await;
    broker.set_disk(Disk::Holds);
    device
        .send(&[publish(QOS1, "a", 1, "x"), publish(QOS1, "a", 2, "y")].concat())
        .await;
    assert_eq!(device.until_pong().await, []);
    let mut stopping = tokio::task::JoinSet::new();
    stopping.spawn(server.shutdown());
    idle.closed().await;
    // The idle one is gone, so the drain is under way; the busy one is still there, and gets its answers.
    broker.set_disk(Disk::Works);
    assert_eq!(device.packet().await, puback(1));
    assert_eq!(device.packet().await, puback(2));
    device.closed().await;
    stopping.join_all().await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_drain_that_takes_too_long_is_cut_off() {
    let (server, broker) = start(|config| config.drain_timeout = std::time::Duration::from_millis(50)).await;
    let (mut device, _) = Raw::connect(server.local_addr(), "dev", true).await;
    broker.set_disk(Disk::Holds);
    device.send(&publish(QOS1, "a", 1, "x")).await;
    assert_eq!(device.until_pong().await, []);
    server.shutdown().await;
    device.closed().await;
}
