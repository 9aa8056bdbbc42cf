//! Clients as devices run them.

use std::time::Duration;

use rumqttc::{AsyncClient, Event, EventLoop, LastWill, MqttOptions, Packet, Publish, QoS};
use tokio::time::timeout;

use super::start;

async fn client(address: std::net::SocketAddr, id: &str, clean: bool) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new(id, address.ip().to_string(), address.port());
    options.set_keep_alive(Duration::from_secs(5));
    options.set_clean_session(clean);
    options.set_last_will(LastWill::new("state/gone", id, QoS::AtLeastOnce, false));
    let (client, mut events) = AsyncClient::new(options, 1_000);
    expect(&mut events, |packet| {
        matches!(packet, Packet::ConnAck(_)).then_some(())
    })
    .await;
    (client, events)
}

async fn expect<T>(events: &mut EventLoop, wanted: impl Fn(&Packet) -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Event::Incoming(packet) = events.poll().await.unwrap()
                && let Some(found) = wanted(&packet)
            {
                return found;
            }
        }
    };
    timeout(Duration::from_secs(10), wait)
        .await
        .expect("the packet in time")
}

fn incoming(packet: &Packet) -> Option<Publish> {
    if let Packet::Publish(publish) = packet {
        Some(publish.clone())
    } else {
        None
    }
}

#[tokio::test]
async fn rumqttc_publishes_subscribes_and_comes_back() {
    let (server, broker) = start(|_| {}).await;
    let (device, mut events) = client(server.local_addr(), "dev", false).await;
    device.subscribe("cmd/dev", QoS::ExactlyOnce).await.unwrap();
    expect(&mut events, |packet| {
        matches!(packet, Packet::SubAck(_)).then_some(())
    })
    .await;
    for value in 0..100 {
        device
            .publish("sensors/t/dev", QoS::AtLeastOnce, false, value.to_string())
            .await
            .unwrap();
    }
    for _ in 0..100 {
        expect(&mut events, |packet| {
            matches!(packet, Packet::PubAck(_)).then_some(())
        })
        .await;
    }
    assert_eq!(broker.handed_over().len(), 100);
    broker.publish_from_nats("cmd.dev", "reboot");
    let command = expect(&mut events, incoming).await;
    assert_eq!(
        (&command.topic[..], &command.payload[..], command.qos),
        ("cmd/dev", &b"reboot"[..], QoS::AtLeastOnce)
    );
    device.disconnect().await.unwrap();
    while events.poll().await.is_ok() {}
    let (_device, mut events) = client(server.local_addr(), "dev", false).await;
    broker.publish_from_nats("cmd.dev", "again");
    let command = expect(&mut events, |packet| {
        incoming(packet).filter(|publish| publish.payload == "again")
    })
    .await;
    assert_eq!(command.topic, "cmd/dev");
    server.shutdown().await;
}
