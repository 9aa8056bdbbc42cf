//! The packets of a publisher, in either version of MQTT, over rumqttc's codecs.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::{Error as V4Error, QoS, v4};
use rumqttc::v5::mqttbytes::{Error as V5Error, QoS as V5QoS, v5};

use super::target::{MqttTarget, MqttVersion};

/// More than a server has to say to a publisher.
const INCOMING_BYTES_MAX: usize = 64 << 10;
const OUTGOING_BYTES_MAX: usize = 16 << 20;

/// A message on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Publish {
    pub(crate) id: u16,
    pub(crate) number: u64,
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    pub(crate) is_dup: bool,
}

/// What a server says to a publisher.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Incoming {
    Accepted { receive_max: u16 },
    Rejected(String),
    PubAck { id: u16, refusal: Option<String> },
    PingResponse,
    Disconnected(String),
    Other,
}

/// The session is kept by the server, so that packet ids mean the same on the next connection.
pub(crate) fn write_connect(
    out: &mut BytesMut,
    target: &MqttTarget,
    client_id: &str,
    keep_alive: Duration,
) -> Result<(), String> {
    let keep_alive = u16::try_from(keep_alive.as_secs()).unwrap_or(u16::MAX);
    match target.version {
        MqttVersion::V4 => {
            let mut connect = v4::Connect::new(client_id);
            connect.keep_alive = keep_alive;
            connect.clean_session = false;
            if let Some((user, password)) = &target.login {
                connect.set_login(user.as_str(), password.as_str());
            }
            written(v4::Packet::Connect(connect).write(out, OUTGOING_BYTES_MAX))
        }
        MqttVersion::V5 => {
            let mut properties = v5::ConnectProperties::new();
            properties.session_expiry_interval = Some(3_600);
            let connect = v5::Connect {
                keep_alive,
                client_id: client_id.to_owned(),
                clean_start: false,
                properties: Some(properties),
            };
            let login = target
                .login
                .as_ref()
                .map(|(user, password)| v5::Login::new(user, password));
            written(v5::Packet::Connect(connect, None, login).write(out, None))
        }
    }
}

pub(crate) fn write_publish(
    version: MqttVersion,
    out: &mut BytesMut,
    publish: &Publish,
) -> Result<(), String> {
    match version {
        MqttVersion::V4 => {
            let mut packet =
                v4::Publish::from_bytes(publish.topic.as_str(), QoS::AtLeastOnce, publish.payload.clone());
            (packet.pkid, packet.dup) = (publish.id, publish.is_dup);
            written(packet.write(out))
        }
        MqttVersion::V5 => {
            let mut packet = v5::Publish::new(
                publish.topic.as_str(),
                V5QoS::AtLeastOnce,
                publish.payload.clone(),
                None,
            );
            (packet.pkid, packet.dup) = (publish.id, publish.is_dup);
            written(packet.write(out))
        }
    }
}

/// PINGREQ has no fields: it is the same in both versions.
pub(crate) fn write_ping(out: &mut BytesMut) {
    out.extend_from_slice(&[0xc0, 0x00]);
}

/// A normal goodbye, without properties: the same in both versions.
pub(crate) fn write_disconnect(out: &mut BytesMut) {
    out.extend_from_slice(&[0xe0, 0x00]);
}

fn written<E: std::fmt::Debug>(result: Result<usize, E>) -> Result<(), String> {
    result
        .map(|_| ())
        .map_err(|error| format!("packet can't be written: {error:?}"))
}

/// `Ok(None)`: more bytes are needed. Takes whole packets only.
pub(crate) fn read(version: MqttVersion, input: &mut BytesMut) -> Result<Option<Incoming>, String> {
    match version {
        MqttVersion::V4 => match v4::Packet::read(input, INCOMING_BYTES_MAX) {
            Ok(packet) => Ok(Some(from_v4(packet))),
            Err(V4Error::InsufficientBytes(_)) => Ok(None),
            Err(error) => Err(format!("the server's packet can't be read: {error:?}")),
        },
        MqttVersion::V5 => {
            let max = u32::try_from(INCOMING_BYTES_MAX).ok();
            match v5::Packet::read(input, max) {
                Ok(packet) => Ok(Some(from_v5(packet))),
                Err(V5Error::InsufficientBytes(_)) => Ok(None),
                Err(error) => Err(format!("the server's packet can't be read: {error:?}")),
            }
        }
    }
}

fn from_v4(packet: v4::Packet) -> Incoming {
    match packet {
        v4::Packet::ConnAck(ack) if ack.code == v4::ConnectReturnCode::Success => Incoming::Accepted {
            receive_max: u16::MAX,
        },
        v4::Packet::ConnAck(ack) => Incoming::Rejected(format!("{:?}", ack.code)),
        v4::Packet::PubAck(ack) => Incoming::PubAck {
            id: ack.pkid,
            refusal: None,
        },
        v4::Packet::PingResp => Incoming::PingResponse,
        _ => Incoming::Other,
    }
}

fn from_v5(packet: v5::Packet) -> Incoming {
    match packet {
        v5::Packet::ConnAck(ack) if ack.code == v5::ConnectReturnCode::Success => {
            let receive_max = ack.properties.and_then(|properties| properties.receive_max);
            Incoming::Accepted {
                receive_max: receive_max.unwrap_or(u16::MAX),
            }
        }
        v5::Packet::ConnAck(ack) => Incoming::Rejected(format!("{:?}", ack.code)),
        v5::Packet::PubAck(ack) => {
            let is_taken = matches!(
                ack.reason,
                v5::PubAckReason::Success | v5::PubAckReason::NoMatchingSubscribers
            );
            Incoming::PubAck {
                id: ack.pkid,
                refusal: (!is_taken).then(|| format!("{:?}", ack.reason)),
            }
        }
        v5::Packet::PingResp(_) => Incoming::PingResponse,
        v5::Packet::Disconnect(disconnect) => Incoming::Disconnected(format!("{:?}", disconnect.reason_code)),
        _ => Incoming::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(is_dup: bool) -> Publish {
        Publish {
            id: 258,
            number: 0,
            topic: "a/b".into(),
            payload: "x".into(),
            is_dup,
        }
    }

    #[test]
    fn publishes_are_qos_1_and_say_whether_they_are_resent() {
        for (version, is_dup, expected) in [
            (MqttVersion::V4, false, b"\x32\x08\x00\x03a/b\x01\x02x".as_slice()),
            (MqttVersion::V4, true, b"\x3a\x08\x00\x03a/b\x01\x02x"),
            (MqttVersion::V5, false, b"\x32\x09\x00\x03a/b\x01\x02\x00x"),
            (MqttVersion::V5, true, b"\x3a\x09\x00\x03a/b\x01\x02\x00x"),
        ] {
            let mut out = BytesMut::new();
            write_publish(version, &mut out, &publish(is_dup)).unwrap();
            assert_eq!(&out[..], expected, "{version:?} {is_dup}");
        }
    }

    #[test]
    fn connects_ask_for_a_kept_session() {
        let target = |version| MqttTarget::parse("mqtt://u:p@h", version).unwrap();
        let mut out = BytesMut::new();
        write_connect(&mut out, &target(MqttVersion::V4), "c", Duration::from_secs(20)).unwrap();
        assert_eq!(
            &out[..],
            b"\x10\x13\x00\x04MQTT\x04\xc0\x00\x14\x00\x01c\x00\x01u\x00\x01p"
        );
        out.clear();
        write_connect(&mut out, &target(MqttVersion::V5), "c", Duration::from_secs(20)).unwrap();
        assert_eq!(
            &out[..],
            b"\x10\x19\x00\x04MQTT\x05\xc0\x00\x14\x05\x11\x00\x00\x0e\x10\x00\x01c\x00\x01u\x00\x01p"
        );
    }

    #[test]
    fn answers_are_told_apart() {
        for (version, bytes, expected) in [
            (
                MqttVersion::V4,
                b"\x20\x02\x01\x00".as_slice(),
                Incoming::Accepted {
                    receive_max: u16::MAX,
                },
            ),
            (
                MqttVersion::V4,
                b"\x20\x02\x00\x05",
                Incoming::Rejected("NotAuthorized".into()),
            ),
            (
                MqttVersion::V4,
                b"\x40\x02\x01\x02",
                Incoming::PubAck {
                    id: 258,
                    refusal: None,
                },
            ),
            (MqttVersion::V4, b"\xd0\x00", Incoming::PingResponse),
            (
                MqttVersion::V5,
                b"\x20\x06\x00\x00\x03\x21\x00\x0a",
                Incoming::Accepted { receive_max: 10 },
            ),
            (
                MqttVersion::V5,
                b"\x40\x03\x01\x02\x10",
                Incoming::PubAck {
                    id: 258,
                    refusal: None,
                },
            ),
            (
                MqttVersion::V5,
                b"\x40\x04\x01\x02\x97\x00",
                Incoming::PubAck {
                    id: 258,
                    refusal: Some("QuotaExceeded".into()),
                },
            ),
            (
                MqttVersion::V5,
                b"\xe0\x02\x8b\x00",
                Incoming::Disconnected("ServerShuttingDown".into()),
            ),
        ] {
            for cut in 0..bytes.len() {
                assert_eq!(
                    read(version, &mut BytesMut::from(&bytes[..cut])),
                    Ok(None),
                    "{bytes:x?} {cut}"
                );
            }
            let mut input = BytesMut::from(bytes);
            assert_eq!(read(version, &mut input), Ok(Some(expected)));
            assert!(input.is_empty());
        }
    }
}
