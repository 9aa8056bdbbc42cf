use proptest::prelude::*;
use tokio_util::codec::Encoder;

use super::*;
use crate::mqtt::packet::ConnectCode;

const HELLO: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a";

fn decode_all(bytes: &[u8]) -> Result<Vec<ClientPacket>, ProtocolError> {
    let mut codec = Codec::new(1024 * 1024);
    let mut buf = BytesMut::from(bytes);
    let mut packets = Vec::new();
    while let Some(packet) = codec.decode(&mut buf)? {
        packets.push(packet);
    }
    Ok(packets)
}

fn after_hello(bytes: &[u8]) -> Result<ClientPacket, ProtocolError> {
    let packets = decode_all(&[HELLO, bytes].concat())?;
    Ok(packets.into_iter().nth(1).expect("a complete packet"))
}

#[test]
fn connect_is_read_in_full() {
    let bytes =
        b"\x10\x25\x00\x04MQTT\x04\xee\x00\x0a\x00\x02id\x00\x03w/t\x00\x04gone\x00\x04user\x00\x04pass";
    let packets = decode_all(bytes).unwrap();
    let expected = Connect {
        version: Version::V311,
        client_id: "id".into(),
        clean_session: true,
        keep_alive_s: 10,
        will: Some(Will {
            topic: "w/t".into(),
            payload: Bytes::from_static(b"gone"),
            qos: QoS::AtLeastOnce,
            retain: true,
        }),
        username: Some("user".into()),
        password: Some(Secret(Bytes::from_static(b"pass"))),
    };
    assert_eq!(packets, vec![ClientPacket::Connect(Box::new(expected))]);
    assert!(!format!("{packets:?}").contains("pass\""));
    let old = decode_all(b"\x10\x0f\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01a").unwrap();
    assert!(matches!(&old[..], [ClientPacket::Connect(c)] if c.version == Version::V31));
}

#[test]
fn bad_connects_are_refused() {
    use ProtocolError as E;
    for (bytes, error) in [
        (
            &b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01a"[..],
            E::UnsupportedVersion { level: 5 },
        ),
        (
            b"\x10\x0d\x00\x04MQTT\x06\x02\x00\x3c\x00\x01a",
            E::UnsupportedVersion { level: 6 },
        ),
        (b"\x10\x0d\x00\x04MQTX\x04\x02\x00\x3c\x00\x01a", E::ProtocolName),
        (
            b"\x10\x0d\x00\x04MQTT\x04\x03\x00\x3c\x00\x01a",
            E::Flags { packet_type: 1 },
        ),
        (
            b"\x11\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a",
            E::Flags { packet_type: 1 },
        ),
        (
            b"\x10\x0c\x00\x04MQTT\x04\x00\x00\x3c\x00\x00",
            E::ClientIdMissing,
        ),
        (
            b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x01ax",
            E::Length { packet_type: 1 },
        ),
        (
            b"\x10\x10\x00\x04MQTT\x04\x42\x00\x3c\x00\x01a\x00\x01p",
            E::Flags { packet_type: 1 },
        ),
        (
            b"\x10\x0d\x00\x04MQTT\x04\x0a\x00\x3c\x00\x01a",
            E::Flags { packet_type: 1 },
        ),
        (b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01\x00", E::Text),
        (b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01\xff", E::Text),
        (
            b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x09a",
            E::Length { packet_type: 1 },
        ),
        (
            b"\x10\xff\xff\xff\x7f",
            E::TooLarge {
                len: 268_435_455,
                max: CONTROL_BYTES_MAX,
            },
        ),
        (b"\x10\xff\xff\xff\xff\x7f", E::Length { packet_type: 1 }),
        (b"\x30\x03\x00\x01a", E::NotConnect { packet_type: 3 }),
        (b"GET / HTTP/1.1\r\n", E::NotConnect { packet_type: 4 }),
    ] {
        assert_eq!(decode_all(bytes), Err(error), "{bytes:x?}");
    }
}

#[test]
fn bad_packets_are_refused() {
    use ProtocolError as E;
    for (bytes, error) in [
        (&b"\x36\x05\x00\x01a\x00\x01"[..], E::Flags { packet_type: 3 }),
        (b"\x38\x03\x00\x01a", E::Flags { packet_type: 3 }),
        (b"\x32\x05\x00\x01a\x00\x00", E::PacketIdZero),
        (b"\x32\x03\x00\x01a", E::Length { packet_type: 3 }),
        (b"\x30\x03\x00\x02a", E::Length { packet_type: 3 }),
        (b"\x30\x03\x00\x01\xff", E::Text),
        (
            b"\x30\x85\x84\x41",
            E::TooLarge {
                len: 1_065_477,
                max: 1_049_092,
            },
        ),
        (b"\x40\x03\x00\x01\x00", E::Length { packet_type: 4 }),
        (b"\x40\x01\x00", E::Length { packet_type: 4 }),
        (b"\x40\x02\x00\x00", E::PacketIdZero),
        (b"\x60\x02\x00\x01", E::Flags { packet_type: 6 }),
        (b"\x80\x06\x00\x01\x00\x01a\x00", E::Flags { packet_type: 8 }),
        (b"\x82\x06\x00\x01\x00\x01a\x04", E::Flags { packet_type: 8 }),
        (b"\x82\x06\x00\x01\x00\x01a\xff", E::Flags { packet_type: 8 }),
        (b"\x82\x05\x00\x01\x00\x01a", E::Length { packet_type: 8 }),
        (
            b"\xa2\x05\x00\x00\x00\x01a",
            E::Malformed {
                packet_type: 10,
                detail: "Malformed packet".into(),
            },
        ),
        (b"\xc0\x01\x00", E::Length { packet_type: 12 }),
        (b"\xc1\x00", E::Flags { packet_type: 12 }),
        (b"\xe0\x01\x00", E::Length { packet_type: 14 }),
        (b"\x20\x02\x00\x00", E::PacketType { packet_type: 2 }),
        (b"\xd0\x00", E::PacketType { packet_type: 13 }),
        (b"\xf0\x00", E::PacketType { packet_type: 15 }),
        (b"\x00\x00", E::PacketType { packet_type: 0 }),
    ] {
        assert_eq!(after_hello(bytes), Err(error), "{bytes:x?}");
    }
    for bytes in [
        &b"\x82\x02\x00\x01"[..],
        b"\xa2\x02\x00\x01",
        b"\x82\x05\x00\x01\x00\x00\x00",
    ] {
        assert!(
            matches!(after_hello(bytes), Err(E::Malformed { .. })),
            "{bytes:x?}"
        );
    }
}

#[test]
fn a_length_is_refused_before_the_packet_is_here() {
    let mut codec = Codec::new(10);
    let mut buf = BytesMut::from(HELLO);
    assert!(codec.decode(&mut buf).unwrap().is_some());
    buf.extend_from_slice(b"\x30\xff\xff\x7f");
    assert!(matches!(
        codec.decode(&mut buf),
        Err(ProtocolError::TooLarge { .. })
    ));
}

#[test]
fn server_packets_have_the_bytes_of_the_standard() {
    let id = NonZeroU16::new(0x1234).unwrap();
    let publish = Outgoing {
        dup: true,
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: Bytes::from_static(b"a/b"),
        packet_id: Some(id),
        payload: Bytes::from_static(b"hi"),
    };
    let granted = vec![Some(QoS::AtLeastOnce), None, Some(QoS::AtMostOnce)];
    for (packet, bytes) in [
        (
            ServerPacket::ConnAck {
                session_present: true,
                code: ConnectCode::Accepted,
            },
            &b"\x20\x02\x01\x00"[..],
        ),
        (ServerPacket::Publish(publish), b"\x3a\x09\x00\x03a/b\x12\x34hi"),
        (ServerPacket::PubAck(id), b"\x40\x02\x12\x34"),
        (
            ServerPacket::SubAck {
                packet_id: id,
                granted,
            },
            b"\x90\x05\x12\x34\x01\x80\x00",
        ),
        (ServerPacket::UnsubAck(id), b"\xb0\x02\x12\x34"),
        (ServerPacket::PingResp, b"\xd0\x00"),
    ] {
        let mut out = BytesMut::new();
        encode(&packet, &mut out);
        assert_eq!(&out[..], bytes, "{packet:?}");
    }
}

fn any_behind() -> impl Strategy<Value = v3::Packet> {
    use rmqtt_codec::types::{Publish as BehindPublish, QoS as BehindQoS};
    let qos = prop_oneof![
        Just(BehindQoS::AtMostOnce),
        Just(BehindQoS::AtLeastOnce),
        Just(BehindQoS::ExactlyOnce)
    ];
    let id = (1u16..).prop_map(|id| NonZeroU16::new(id).unwrap());
    let publish = (
        qos.clone(),
        id.clone(),
        any::<[bool; 2]>(),
        "[a-z/é]{1,20}",
        any::<Vec<u8>>(),
    )
        .prop_map(|(qos, id, [dup, retain], topic, payload)| {
            let above = qos != BehindQoS::AtMostOnce;
            v3::Packet::Publish(Box::new(BehindPublish {
                dup: dup && above,
                retain,
                qos,
                topic: topic.into(),
                packet_id: above.then_some(id),
                payload: payload.into(),
                properties: None,
            }))
        });
    prop_oneof![
        4 => publish,
        1 => id.clone().prop_map(|packet_id| v3::Packet::PublishAck { packet_id }),
        1 => (id.clone(), proptest::collection::vec(("[a-z/+]{1,9}", qos), 1..5)).prop_map(|(packet_id, filters)| {
            let topic_filters = filters.into_iter().map(|(filter, qos)| (filter.into(), qos)).collect();
            v3::Packet::Subscribe { packet_id, topic_filters }
        }),
        1 => (id, proptest::collection::vec("[a-z/+]{1,9}", 1..5)).prop_map(|(packet_id, filters)| {
            v3::Packet::Unsubscribe { packet_id, topic_filters: filters.into_iter().map(Into::into).collect() }
        }),
        1 => Just(v3::Packet::PingRequest),
        1 => Just(v3::Packet::Disconnect),
    ]
}

/// What our codec must make of a packet that the codec behind wrote.
fn expected(packet: &v3::Packet) -> ClientPacket {
    match packet.clone() {
        v3::Packet::Publish(publish) => ClientPacket::Publish(Publish {
            dup: publish.dup,
            qos: qos(publish.qos).unwrap(),
            retain: publish.retain,
            topic: Bytes::copy_from_slice(publish.topic.as_bytes()),
            packet_id: publish.packet_id,
            payload: publish.payload,
        }),
        v3::Packet::PublishAck { packet_id } => ClientPacket::PubAck(packet_id),
        v3::Packet::Subscribe {
            packet_id,
            topic_filters,
        } => ClientPacket::Subscribe {
            packet_id,
            filters: topic_filters
                .into_iter()
                .map(|(f, q)| (f.to_string(), qos(q).unwrap()))
                .collect(),
        },
        v3::Packet::Unsubscribe {
            packet_id,
            topic_filters,
        } => ClientPacket::Unsubscribe {
            packet_id,
            filters: topic_filters.into_iter().map(|f| f.to_string()).collect(),
        },
        v3::Packet::PingRequest => ClientPacket::PingReq,
        v3::Packet::Disconnect => ClientPacket::Disconnect,
        other => panic!("not generated: {other:?}"),
    }
}

proptest! {
    #[test]
    fn packets_of_another_encoder_are_read_however_they_are_cut(
        packets in proptest::collection::vec(any_behind(), 1..8),
        cuts in proptest::collection::vec(1usize..40, 1..20),
    ) {
        let mut wire = BytesMut::from(HELLO);
        for packet in &packets {
            v3::Codec::default().encode(packet.clone(), &mut wire).unwrap();
        }
        let mut codec = Codec::new(1024);
        let mut buf = BytesMut::new();
        let mut read = Vec::new();
        let mut cuts = cuts.iter().cycle();
        while !wire.is_empty() {
            let cut = wire.len().min(*cuts.next().unwrap());
            buf.extend_from_slice(&wire.split_to(cut));
            while let Some(packet) = codec.decode(&mut buf).unwrap() {
                read.push(packet);
            }
        }
        prop_assert!(buf.is_empty());
        prop_assert_eq!(&read[1..], &packets.iter().map(expected).collect::<Vec<_>>()[..]);
    }

    #[test]
    fn no_bytes_make_it_panic_or_read_past_the_packet(bytes in any::<Vec<u8>>(), hello in any::<bool>()) {
        let mut codec = Codec::new(1024);
        let mut buf = BytesMut::from(if hello { HELLO } else { b"" });
        buf.extend_from_slice(&bytes);
        let mut before = buf.len();
        while let Ok(Some(_)) = codec.decode(&mut buf) {
            prop_assert!(buf.len() < before);
            before = buf.len();
        }
    }

    #[test]
    fn a_changed_connect_does_not_make_it_panic(at in 0usize..39, byte in any::<u8>()) {
        let mut bytes =
            *b"\x10\x25\x00\x04MQTT\x04\xee\x00\x0a\x00\x02id\x00\x03w/t\x00\x04gone\x00\x04user\x00\x04pass";
        bytes[at] = byte;
        drop(decode_all(&bytes));
    }

    #[test]
    fn what_the_encoder_writes_another_codec_reads(topic in "[a-z/]{1,9}", payload in any::<Vec<u8>>(), id in 1u16..) {
        let publish = Outgoing {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: true,
            topic: topic.clone().into(),
            packet_id: NonZeroU16::new(id),
            payload: payload.clone().into(),
        };
        let mut out = BytesMut::new();
        encode(&ServerPacket::Publish(publish), &mut out);
        prop_assert!(out.len() <= publish_bytes_max(topic.len(), payload.len()));
        let (packet, _) = v3::Codec::default().decode(&mut out).unwrap().unwrap();
        let v3::Packet::Publish(read) = packet else { panic!("not a publish") };
        prop_assert_eq!(&*read.topic, &topic[..]);
        prop_assert_eq!(&read.payload[..], &payload[..]);
        prop_assert_eq!(read.packet_id.unwrap().get(), id);
        prop_assert!(out.is_empty());
    }
}
