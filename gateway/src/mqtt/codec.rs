//! The wire of MQTT 3.1.1 (and 3.1): bytes in, packets out, and back. No socket, no clock.
//!
//! Framing, PUBLISH and the acknowledgements are read here, without copying; `rmqtt-codec` reads CONNECT, SUBSCRIBE and
//! UNSUBSCRIBE, and what it lets pass is checked here: reserved flags, bytes left over, a password without a user name, NUL and
//! control characters. Every length is checked before memory is taken for it.
//!
//! Source: MQTT Version 3.1.1, OASIS Standard, chapters 2 and 3.

use std::num::NonZeroU16;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use rmqtt_codec::error::DecodeError;
use rmqtt_codec::v3;
use thiserror::Error;
use tokio_util::codec::Decoder;

use super::mapping::TOPIC_BYTES_MAX;
use super::packet::{
    ClientPacket, Connect, Outgoing, PacketId, Publish, QoS, Secret, ServerPacket, Version, Will,
};

/// Most bytes in CONNECT, and in SUBSCRIBE and UNSUBSCRIBE.
pub const CONTROL_BYTES_MAX: usize = 64 * 1024;
/// Most bytes before the payload of a PUBLISH that is let in: two lengths, topic, packet id.
const PUBLISH_HEADER_BYTES_MAX: usize = 2 + TOPIC_BYTES_MAX + 2;

const CONNECT: u8 = 1;
const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const PUBREC: u8 = 5;
const PUBREL: u8 = 6;
const PUBCOMP: u8 = 7;
const SUBSCRIBE: u8 = 8;
const UNSUBSCRIBE: u8 = 10;
const PINGREQ: u8 = 12;
const DISCONNECT: u8 = 14;

/// Why the bytes are not MQTT as it is spoken here. The connection is closed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProtocolError {
    /// The first packet is not CONNECT.
    #[error("first packet has type {packet_type}, not connect")]
    NotConnect {
        /// High four bits of the first byte.
        packet_type: u8,
    },
    /// CONNECT for a version that is not spoken here.
    #[error("protocol level {level} is not supported")]
    UnsupportedVersion {
        /// 5 for MQTT 5.
        level: u8,
    },
    /// CONNECT does not name MQTT.
    #[error("protocol name is not mqtt")]
    ProtocolName,
    /// Empty client id without a clean session: answered with CONNACK 2.
    #[error("client id is empty and the session is not clean")]
    ClientIdMissing,
    /// A packet type that clients don't send, or a reserved one.
    #[error("packet type {packet_type} is not for clients to send")]
    PacketType {
        /// High four bits of the first byte.
        packet_type: u8,
    },
    /// Reserved bits are set, or QoS 3, or DUP with QoS 0.
    #[error("reserved or contradictory flags in packet type {packet_type}")]
    Flags {
        /// High four bits of the first byte.
        packet_type: u8,
    },
    /// The remaining length, or a length inside, does not fit.
    #[error("a length does not fit in packet type {packet_type}")]
    Length {
        /// High four bits of the first byte.
        packet_type: u8,
    },
    /// Larger than the limit.
    #[error("packet is {len} bytes, the limit is {max}")]
    TooLarge {
        /// Remaining length.
        len: usize,
        /// Limit for this type of packet.
        max: usize,
    },
    /// Packet id 0.
    #[error("packet id is zero")]
    PacketIdZero,
    /// Text that is not UTF-8, or that holds NUL or a control character.
    #[error("text is not valid")]
    Text,
    /// Another violation that the codec behind found.
    #[error("malformed packet of type {packet_type}: {detail}")]
    Malformed {
        /// High four bits of the first byte.
        packet_type: u8,
        /// In the codec's words.
        detail: String,
    },
}

impl ProtocolError {
    /// Stable name, for counters.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::NotConnect { .. } => "not_connect",
            Self::UnsupportedVersion { .. } => "unsupported_version",
            Self::ProtocolName => "protocol_name",
            Self::ClientIdMissing => "client_id_missing",
            Self::PacketType { .. } => "packet_type",
            Self::Flags { .. } => "packet_flags",
            Self::Length { .. } => "packet_length",
            Self::TooLarge { .. } => "packet_too_large",
            Self::PacketIdZero => "packet_id_zero",
            Self::Text => "text",
            Self::Malformed { .. } => "malformed",
        }
    }
}

/// Reads packets of one connection.
#[derive(Debug)]
pub struct Codec {
    payload_bytes_max: usize,
    connected: bool,
}

/// Type, flags and lengths of the packet at the front of a buffer.
#[derive(Clone, Copy)]
struct Header {
    packet_type: u8,
    flags: u8,
    header_bytes: usize,
    remaining: usize,
}

impl Codec {
    /// A codec that awaits CONNECT first and lets in payloads up to `payload_bytes_max`.
    pub fn new(payload_bytes_max: usize) -> Self {
        Self {
            payload_bytes_max,
            connected: false,
        }
    }

    /// `Ok(None)`: more bytes are needed. `Err`: close the connection. Consumes whole packets only.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<ClientPacket>, ProtocolError> {
        let Some(header) = self.header(buf)? else {
            return Ok(None);
        };
        let total = header.header_bytes + header.remaining;
        if buf.len() < total {
            return Ok(None);
        }
        let frame = buf.split_to(total);
        let packet = match header.packet_type {
            PUBLISH => decode_publish(header, frame.freeze().slice(header.header_bytes..))?,
            CONNECT => ClientPacket::Connect(Box::new(decode_connect(header, frame)?)),
            SUBSCRIBE | UNSUBSCRIBE => decode_filters(header, frame)?,
            PINGREQ => ClientPacket::PingReq,
            DISCONNECT => ClientPacket::Disconnect,
            _ => decode_ack(header, &frame)?,
        };
        self.connected = true;
        Ok(Some(packet))
    }

    /// Checks all that can be checked before the packet is complete.
    fn header(&self, buf: &[u8]) -> Result<Option<Header>, ProtocolError> {
        let Some(&first) = buf.first() else {
            return Ok(None);
        };
        let (packet_type, flags) = (first >> 4, first & 0x0f);
        if !self.connected && packet_type != CONNECT {
            return Err(ProtocolError::NotConnect { packet_type });
        }
        let max = match packet_type {
            PUBLISH => self.payload_bytes_max + PUBLISH_HEADER_BYTES_MAX,
            CONNECT | SUBSCRIBE | UNSUBSCRIBE => CONTROL_BYTES_MAX,
            PUBACK | PUBREC | PUBREL | PUBCOMP => 2,
            PINGREQ | DISCONNECT => 0,
            _ => return Err(ProtocolError::PacketType { packet_type }),
        };
        let flags_fit = match packet_type {
            PUBLISH => flags & 0b0110 != 0b0110 && flags & 0b1110 != 0b1000,
            PUBREL | SUBSCRIBE | UNSUBSCRIBE => flags == 0b0010,
            _ => flags == 0,
        };
        if !flags_fit {
            return Err(ProtocolError::Flags { packet_type });
        }
        let Some((remaining, length_bytes)) = remaining_length(buf, packet_type)? else {
            return Ok(None);
        };
        if remaining > max {
            return Err(match packet_type {
                PUBLISH | CONNECT | SUBSCRIBE | UNSUBSCRIBE => {
                    ProtocolError::TooLarge { len: remaining, max }
                }
                _ => ProtocolError::Length { packet_type },
            });
        }
        if max == 2 && remaining != 2 {
            return Err(ProtocolError::Length { packet_type });
        }
        Ok(Some(Header {
            packet_type,
            flags,
            header_bytes: 1 + length_bytes,
            remaining,
        }))
    }
}

/// The variable-length integer after the first byte, and the bytes it takes.
fn remaining_length(buf: &[u8], packet_type: u8) -> Result<Option<(usize, usize)>, ProtocolError> {
    let mut value = 0;
    for (index, byte) in buf.iter().skip(1).take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    if buf.len() > 4 {
        Err(ProtocolError::Length { packet_type })
    } else {
        Ok(None)
    }
}

fn decode_publish(header: Header, mut body: Bytes) -> Result<ClientPacket, ProtocolError> {
    let length_error = ProtocolError::Length { packet_type: PUBLISH };
    let qos =
        QoS::from_bits((header.flags >> 1) & 0b11).ok_or(ProtocolError::Flags { packet_type: PUBLISH })?;
    let topic_len = usize::from(body.try_get_u16().map_err(|_| length_error.clone())?);
    if body.len() < topic_len {
        return Err(length_error);
    }
    let topic = body.split_to(topic_len);
    std::str::from_utf8(&topic).map_err(|_| ProtocolError::Text)?;
    let packet_id = match qos {
        QoS::AtMostOnce => None,
        _ => {
            let id = body.try_get_u16().map_err(|_| length_error)?;
            Some(NonZeroU16::new(id).ok_or(ProtocolError::PacketIdZero)?)
        }
    };
    let (dup, retain) = (header.flags & 0b1000 != 0, header.flags & 1 != 0);
    Ok(ClientPacket::Publish(Publish {
        dup,
        qos,
        retain,
        topic,
        packet_id,
        payload: body,
    }))
}

fn decode_ack(header: Header, frame: &[u8]) -> Result<ClientPacket, ProtocolError> {
    let packet_type = header.packet_type;
    let mut body = frame.get(header.header_bytes..).unwrap_or_default();
    let id = body
        .try_get_u16()
        .map_err(|_| ProtocolError::Length { packet_type })?;
    let id = NonZeroU16::new(id).ok_or(ProtocolError::PacketIdZero)?;
    match packet_type {
        PUBACK => Ok(ClientPacket::PubAck(id)),
        PUBREC => Ok(ClientPacket::PubRec(id)),
        PUBREL => Ok(ClientPacket::PubRel(id)),
        PUBCOMP => Ok(ClientPacket::PubComp(id)),
        _ => Err(ProtocolError::PacketType { packet_type }),
    }
}

fn decode_connect(header: Header, mut frame: BytesMut) -> Result<Connect, ProtocolError> {
    let version = protocol_version(frame.get(header.header_bytes..).unwrap_or_default())?;
    let v3::Packet::Connect(connect) = decode_behind(header, &mut frame)? else {
        return Err(ProtocolError::PacketType {
            packet_type: header.packet_type,
        });
    };
    let flags = [connect.username.is_some(), connect.password.is_some()];
    if flags == [false, true] {
        return Err(ProtocolError::Flags { packet_type: CONNECT });
    }
    let name_len = if version == Version::V31 { 6 } else { 4 };
    let mut len = 2 + name_len + 4 + 2 + connect.client_id.len();
    len += connect
        .last_will
        .as_ref()
        .map_or(0, |will| 4 + will.topic.len() + will.message.len());
    len += connect.username.as_ref().map_or(0, |name| 2 + name.len());
    len += connect.password.as_ref().map_or(0, |password| 2 + password.len());
    if len != header.remaining {
        return Err(ProtocolError::Length { packet_type: CONNECT });
    }
    let will = match connect.last_will {
        Some(will) => Some(Will {
            topic: will.topic.to_string(),
            payload: Bytes::copy_from_slice(&will.message),
            qos: qos(will.qos)?,
            retain: will.retain,
        }),
        None => None,
    };
    Ok(Connect {
        version,
        client_id: text(&connect.client_id)?,
        clean_session: connect.clean_session,
        keep_alive_s: connect.keep_alive,
        will,
        username: connect.username.as_deref().map(text).transpose()?,
        password: connect
            .password
            .map(|password| Secret(Bytes::copy_from_slice(&password))),
    })
}

/// Reads protocol name and level, which say how to read the rest.
fn protocol_version(mut body: &[u8]) -> Result<Version, ProtocolError> {
    let length_error = |_| ProtocolError::Length { packet_type: CONNECT };
    let len = usize::from(body.try_get_u16().map_err(length_error)?);
    let name = body
        .get(..len)
        .ok_or(ProtocolError::Length { packet_type: CONNECT })?;
    let level = body
        .get(len)
        .copied()
        .ok_or(ProtocolError::Length { packet_type: CONNECT })?;
    match (name, level) {
        (b"MQTT", 4) => Ok(Version::V311),
        (b"MQIsdp", 3) => Ok(Version::V31),
        (b"MQTT" | b"MQIsdp", level) => Err(ProtocolError::UnsupportedVersion { level }),
        _ => Err(ProtocolError::ProtocolName),
    }
}

fn decode_filters(header: Header, mut frame: BytesMut) -> Result<ClientPacket, ProtocolError> {
    // The codec behind masks the reserved bits of the requested QoS: they are looked at here.
    if header.packet_type == SUBSCRIBE {
        check_requested_qos(frame.get(header.header_bytes + 2..).unwrap_or_default())?;
    }
    match decode_behind(header, &mut frame)? {
        v3::Packet::Subscribe {
            packet_id,
            topic_filters,
        } => {
            let filters = topic_filters
                .into_iter()
                .map(|(filter, q)| Ok((filter.to_string(), qos(q)?)));
            Ok(ClientPacket::Subscribe {
                packet_id,
                filters: filters.collect::<Result<_, ProtocolError>>()?,
            })
        }
        v3::Packet::Unsubscribe {
            packet_id,
            topic_filters,
        } => {
            let filters = topic_filters
                .into_iter()
                .map(|filter| filter.to_string())
                .collect();
            Ok(ClientPacket::Unsubscribe { packet_id, filters })
        }
        _ => Err(ProtocolError::PacketType {
            packet_type: header.packet_type,
        }),
    }
}

fn check_requested_qos(mut filters: &[u8]) -> Result<(), ProtocolError> {
    while filters.remaining() >= 2 {
        let len = usize::from(filters.get_u16());
        if filters
            .get(len)
            .is_some_and(|requested| requested & 0b1111_1100 != 0)
        {
            return Err(ProtocolError::Flags {
                packet_type: SUBSCRIBE,
            });
        }
        filters = filters.get(len + 1..).unwrap_or_default();
    }
    Ok(())
}

fn decode_behind(header: Header, frame: &mut BytesMut) -> Result<v3::Packet, ProtocolError> {
    let packet_type = header.packet_type;
    match v3::Codec::default().decode(frame) {
        Ok(Some((packet, _))) => Ok(packet),
        Ok(None) | Err(DecodeError::InvalidLength) => Err(ProtocolError::Length { packet_type }),
        Err(DecodeError::InvalidClientId) => Err(ProtocolError::ClientIdMissing),
        Err(DecodeError::Utf8Error) => Err(ProtocolError::Text),
        Err(DecodeError::ConnectReservedFlagSet | DecodeError::InvalidConnectFlags) => {
            Err(ProtocolError::Flags { packet_type })
        }
        Err(other) => Err(ProtocolError::Malformed {
            packet_type,
            detail: other.to_string(),
        }),
    }
}

fn qos(behind: rmqtt_codec::types::QoS) -> Result<QoS, ProtocolError> {
    QoS::from_bits(behind.value()).ok_or(ProtocolError::Flags {
        packet_type: SUBSCRIBE,
    })
}

fn text(text: impl AsRef<str>) -> Result<String, ProtocolError> {
    let text = text.as_ref();
    if text.chars().any(char::is_control) {
        Err(ProtocolError::Text)
    } else {
        Ok(text.to_owned())
    }
}

/// Appends `packet` to `out`.
pub fn encode(packet: &ServerPacket, out: &mut BytesMut) {
    match packet {
        ServerPacket::ConnAck {
            session_present,
            code,
        } => {
            out.put_slice(&[0x20, 2, u8::from(*session_present), code.byte()]);
        }
        ServerPacket::Publish(publish) => encode_publish(publish, out),
        ServerPacket::PubAck(id) => encode_id(0x40, *id, out),
        ServerPacket::SubAck { packet_id, granted } => {
            out.put_u8(0x90);
            put_remaining_length(2 + granted.len(), out);
            out.put_u16(packet_id.get());
            out.extend(granted.iter().map(|granted| granted.map_or(0x80, QoS::bits)));
        }
        ServerPacket::UnsubAck(id) => encode_id(0xb0, *id, out),
        ServerPacket::PingResp => out.put_slice(&[0xd0, 0]),
    }
}

/// CONNACK of MQTT 5 with reason 0x84, unsupported protocol version, and no properties.
pub const CONNACK_V5_UNSUPPORTED: &[u8] = &[0x20, 3, 0, 0x84, 0];

/// Bytes that [`encode`] takes for a PUBLISH, at most.
pub fn publish_bytes_max(topic_bytes: usize, payload_bytes: usize) -> usize {
    1 + 4 + 2 + topic_bytes + 2 + payload_bytes
}

fn encode_publish(publish: &Outgoing, out: &mut BytesMut) {
    let id_bytes = if publish.packet_id.is_some() { 2 } else { 0 };
    let remaining = 2 + publish.topic.len() + id_bytes + publish.payload.len();
    out.reserve(5 + remaining);
    out.put_u8(0x30 | u8::from(publish.dup) << 3 | publish.qos.bits() << 1 | u8::from(publish.retain));
    put_remaining_length(remaining, out);
    let topic_len =
        u16::try_from(publish.topic.len()).expect("topics come from the mapping, which limits them");
    out.put_u16(topic_len);
    out.put_slice(&publish.topic);
    if let Some(id) = publish.packet_id {
        out.put_u16(id.get());
    }
    out.put_slice(&publish.payload);
}

fn encode_id(first: u8, id: PacketId, out: &mut BytesMut) {
    let [high, low] = id.get().to_be_bytes();
    out.put_slice(&[first, 2, high, low]);
}

fn put_remaining_length(mut len: usize, out: &mut BytesMut) {
    loop {
        let low = u8::try_from(len & 0x7f).expect("seven bits");
        len >>= 7;
        if len == 0 {
            return out.put_u8(low);
        }
        out.put_u8(low | 0x80);
    }
}

#[cfg(test)]
mod tests;
