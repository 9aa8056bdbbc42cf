//! Where device messages go, and where messages for devices come from: the embedded broker, or a NATS cluster, behind one trait.

use bytes::Bytes;
use futures::future::BoxFuture;
use thiserror::Error;

use crate::mqtt::packet::QoS;

mod local;

pub use local::LocalIngest;

/// The stream that keeps QoS 1 messages which no other stream captures.
pub const FALLBACK_STREAM: &str = "$MQTT_msgs";
/// The subjects of [`FALLBACK_STREAM`].
pub const FALLBACK_SUBJECTS: &str = "$MQTT.msgs.>";
/// The header that carries an MQTT message's QoS, as nats-server writes it.
pub const QOS_HEADER: &str = "Nmqtt-Pub";

/// One message from a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// NATS subject, already checked.
    pub subject: String,
    /// Payload.
    pub payload: Bytes,
    /// QoS at which it was published. Goes along in [`QOS_HEADER`].
    pub qos: QoS,
    /// For QoS above 0: what tells a resend apart.
    pub resend: Option<Resend>,
}

/// Recognises a message that is sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resend {
    /// The same for the same client, packet id, topic and payload.
    pub key: Box<str>,
    /// The sender says that it has sent the message before.
    pub is_resend: bool,
}

/// One message for a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Which subscription.
    pub subscription: SubscriptionId,
    /// NATS subject.
    pub subject: Bytes,
    /// What the publisher's [`QOS_HEADER`] says. `None`: not published over MQTT.
    pub published_qos: Option<QoS>,
    /// Payload: memory of its own, not a slice of a larger buffer, since a session may keep it for long.
    pub payload: Bytes,
}

/// A subscription of one [`IngestClient`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SubscriptionId(pub u64);

/// Why a message is not on disk.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IngestError {
    /// No room on disk, or the stream is full and refuses what is new.
    #[error("store has no room")]
    NoSpace,
    /// The store takes no more writes until it is reopened.
    #[error("store is read-only")]
    ReadOnly,
    /// No stream keeps the subject, not even the fallback.
    #[error("no stream keeps the subject")]
    NoStream,
    /// The stream refuses this message.
    #[error("stream refuses the message: {0}")]
    Refused(String),
    /// The broker is gone, or does not answer.
    #[error("broker is closed")]
    Closed,
}

impl IngestError {
    /// Stable name, for counters.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::NoSpace => "store_no_space",
            Self::ReadOnly => "store_read_only",
            Self::NoStream => "store_no_stream",
            Self::Refused(_) => "store_refused",
            Self::Closed => "store_closed",
        }
    }
}

/// Results in the order of the messages, one each. Resolves when each is on stable storage or has failed.
pub type Completion = BoxFuture<'static, Vec<Result<(), IngestError>>>;

/// Makes clients of the broker.
pub trait Ingest: Send + Sync + 'static {
    /// A client for one MQTT session; `name` shows in monitoring.
    fn open(&self, name: &str) -> Box<dyn IngestClient>;
}

/// One MQTT session's way to the broker. Dropping it ends its subscriptions.
pub trait IngestClient: Send + Sync {
    /// Hands over QoS 0 messages, in order. Awaits room only.
    fn publish(&self, messages: Vec<Message>) -> BoxFuture<'_, ()>;

    /// Hands over messages that are to be kept, in order. Awaits room only; the [`Completion`] awaits the disk.
    /// Subscribers receive each at once. A subject that no stream captures goes to [`FALLBACK_STREAM`].
    fn publish_durable(&self, messages: Vec<Message>) -> BoxFuture<'_, Completion>;

    /// Subscribes to a subject, wildcards included.
    fn subscribe(&self, subject: &str) -> Result<SubscriptionId, SubscribeError>;

    /// Ends a subscription. Deliveries already under way may still arrive.
    fn unsubscribe(&self, subscription: SubscriptionId);

    /// Awaits messages for this client, in order. `None`: the broker has closed. May be dropped and asked again.
    /// One message that several subscriptions match comes once for each, one after the other, with the same payload memory.
    fn deliveries(&self) -> BoxFuture<'_, Option<Vec<Delivery>>>;

    /// Messages dropped because the client did not fetch them in time, since it was opened.
    fn dropped(&self) -> u64;
}

/// The broker refuses a subscription.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("subscription refused: {0}")]
pub struct SubscribeError(pub String);
