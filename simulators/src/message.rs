//! What a device sends, and what has to become of it.

use bytes::Bytes;
use tarn_schemas::UnixMicros;

/// How a message travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// MQTT, QoS 1.
    Mqtt,
    /// JetStream publish.
    Nats,
}

impl Wire {
    /// As the ledger writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::Nats => "nats",
        }
    }
}

/// One message of a fleet.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Its place in the order of sending, from 0.
    pub number: u64,
    /// Index of the device that sends it.
    pub device: u32,
    /// How it travels.
    pub wire: Wire,
    /// NATS subject; the MQTT topic is the same with `/` for `.`.
    pub subject: String,
    /// The bytes.
    pub payload: Bytes,
    /// What has to become of it.
    pub body: Body,
    /// Whether it is to be sent twice.
    pub is_duplicated: bool,
}

impl Message {
    /// The MQTT topic.
    pub fn topic(&self) -> String {
        self.subject.replace('.', "/")
    }
}

/// What has to become of a message.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// Rows in `readings`.
    Good {
        /// `device_id`.
        device_id: String,
        /// `sensor`.
        sensor: &'static str,
        /// Never empty.
        rows: Vec<ExpectedRow>,
    },
    /// A row in `dead_letters`.
    Malformed {
        /// What is wrong with it.
        kind: &'static str,
    },
}

/// One row that a good message has to become.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpectedRow {
    /// `metric`.
    pub metric: &'static str,
    /// `ts`.
    pub ts: UnixMicros,
    /// `value` or `text`.
    pub measured: Measured,
}

/// A measured value, in the unit that the table holds it in.
#[derive(Clone, Debug, PartialEq)]
pub enum Measured {
    /// Goes to `value`.
    Number(f64),
    /// Goes to `text`.
    Text(String),
}
