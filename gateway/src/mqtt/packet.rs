//! MQTT packets as the rest of the gateway sees them: independent of the wire and of the codec behind it.

use std::num::NonZeroU16;

use bytes::Bytes;

/// Packet identifier. Zero does not exist on the wire.
pub type PacketId = NonZeroU16;

/// Protocol version, as CONNECT names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1 (`MQIsdp`, level 3).
    V31,
    /// MQTT 3.1.1 (`MQTT`, level 4).
    V311,
}

/// Quality of service. Ordered: `AtMostOnce` < `AtLeastOnce` < `ExactlyOnce`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QoS {
    /// 0
    #[default]
    AtMostOnce,
    /// 1
    AtLeastOnce,
    /// 2
    ExactlyOnce,
}

impl QoS {
    /// The two bits of the wire; `None` for 3.
    pub fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }

    /// The two bits of the wire.
    pub fn bits(self) -> u8 {
        match self {
            Self::AtMostOnce => 0,
            Self::AtLeastOnce => 1,
            Self::ExactlyOnce => 2,
        }
    }
}

/// CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// Version of the protocol for the rest of the connection.
    pub version: Version,
    /// As sent: may be empty.
    pub client_id: String,
    /// Start without a former session, and leave none behind.
    pub clean_session: bool,
    /// Seconds; 0 means none.
    pub keep_alive_s: u16,
    /// Published when the connection ends without DISCONNECT.
    pub will: Option<Will>,
    /// User name.
    pub username: Option<String>,
    /// Password.
    pub password: Option<Secret>,
}

/// A will message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// Topic name, not checked yet.
    pub topic: String,
    /// Payload.
    pub payload: Bytes,
    /// QoS of its publication.
    pub qos: QoS,
    /// Retained.
    pub retain: bool,
}

/// Bytes that never reach a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Bytes);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// PUBLISH from a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Sent before, as far as the client knows.
    pub dup: bool,
    /// QoS.
    pub qos: QoS,
    /// To be kept for subscribers to come.
    pub retain: bool,
    /// UTF-8, a slice of what was read. Its grammar isn't checked yet.
    pub topic: Bytes,
    /// `Some` exactly when `qos` is above 0.
    pub packet_id: Option<PacketId>,
    /// A slice of what was read.
    pub payload: Bytes,
}

/// What a client sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientPacket {
    /// CONNECT
    Connect(Box<Connect>),
    /// PUBLISH
    Publish(Publish),
    /// PUBACK
    PubAck(PacketId),
    /// PUBREC
    PubRec(PacketId),
    /// PUBREL
    PubRel(PacketId),
    /// PUBCOMP
    PubComp(PacketId),
    /// SUBSCRIBE
    Subscribe {
        /// Echoed by SUBACK.
        packet_id: PacketId,
        /// At least one. Not checked for grammar yet.
        filters: Vec<(String, QoS)>,
    },
    /// UNSUBSCRIBE
    Unsubscribe {
        /// Echoed by UNSUBACK.
        packet_id: PacketId,
        /// At least one.
        filters: Vec<String>,
    },
    /// PINGREQ
    PingReq,
    /// DISCONNECT
    Disconnect,
}

/// CONNACK return codes of MQTT 3.1.1, section 3.2.2.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectCode {
    /// 0
    Accepted,
    /// 1
    UnacceptableVersion,
    /// 2
    IdentifierRejected,
    /// 3
    Unavailable,
    /// 4
    BadCredentials,
    /// 5
    NotAuthorized,
}

impl ConnectCode {
    /// The byte of the wire.
    pub fn byte(self) -> u8 {
        match self {
            Self::Accepted => 0,
            Self::UnacceptableVersion => 1,
            Self::IdentifierRejected => 2,
            Self::Unavailable => 3,
            Self::BadCredentials => 4,
            Self::NotAuthorized => 5,
        }
    }
}

/// PUBLISH to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Sent before in this session.
    pub dup: bool,
    /// QoS granted.
    pub qos: QoS,
    /// Comes from the retained messages, on subscribing.
    pub retain: bool,
    /// Topic name.
    pub topic: Bytes,
    /// `Some` exactly when `qos` is above 0.
    pub packet_id: Option<PacketId>,
    /// Payload.
    pub payload: Bytes,
}

/// What the server sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerPacket {
    /// CONNACK
    ConnAck {
        /// Only ever true with [`ConnectCode::Accepted`].
        session_present: bool,
        /// Return code.
        code: ConnectCode,
    },
    /// PUBLISH
    Publish(Outgoing),
    /// PUBACK
    PubAck(PacketId),
    /// SUBACK, one code a filter: the QoS granted, or `None` for a refusal (0x80).
    SubAck {
        /// Of the SUBSCRIBE.
        packet_id: PacketId,
        /// In the order of the SUBSCRIBE.
        granted: Vec<Option<QoS>>,
    },
    /// UNSUBACK
    UnsubAck(PacketId),
    /// PINGRESP
    PingResp,
}
