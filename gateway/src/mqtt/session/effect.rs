//! What a session wants done.

use bytes::Bytes;

use crate::ingest::Message;
use crate::mqtt::packet::{QoS, ServerPacket};

/// One subscription of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilterId(pub u32);

/// A retained message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retained {
    /// Topic name.
    pub topic: String,
    /// Not empty.
    pub payload: Bytes,
    /// QoS at which it was published.
    pub qos: QoS,
}

/// What the shell is to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Write a packet.
    Send(ServerPacket),
    /// Publish. Above QoS 0 the outcome comes back through [`Session::completed`](super::Session::completed).
    Publish(Message),
    /// Publish the will. Its outcome does not come back.
    PublishWill(Message),
    /// Keep a message for subscribers to come; an empty payload ends that for the topic.
    Retain(Retained),
    /// Deliver what comes on these subjects as `filter`.
    Subscribe {
        /// New.
        filter: FilterId,
        /// The filter as the client wrote it.
        topic_filter: String,
    },
    /// End a subscription.
    Unsubscribe(FilterId),
    /// Bring the retained messages that match to [`Session::deliver_retained`](super::Session::deliver_retained).
    FindRetained {
        /// The filter as the client wrote it.
        topic_filter: String,
        /// The QoS granted.
        qos: QoS,
    },
    /// Write what is to be written and close the connection.
    Close(CloseReason),
}

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// DISCONNECT.
    Disconnect,
    /// The client closed the connection, or it broke.
    ConnectionLost,
    /// Nothing came for one and a half keep-alive intervals.
    KeepAlive,
    /// The same client id connected again.
    TakenOver,
    /// The client broke the protocol. The text is a stable name.
    Protocol(&'static str),
    /// The client asked for what is not to be had. The text is a stable name.
    Refused(&'static str),
    /// A message could not be stored. The text is a stable name.
    Store(&'static str),
    /// The client does not read what it subscribed to.
    Slow,
    /// The broker closed its side.
    BrokerClosed,
    /// This server ends.
    Shutdown,
}

impl CloseReason {
    /// Stable name, for counters.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disconnect => "disconnect",
            Self::ConnectionLost => "connection_lost",
            Self::KeepAlive => "keep_alive",
            Self::TakenOver => "taken_over",
            Self::Protocol(name) | Self::Refused(name) | Self::Store(name) => name,
            Self::Slow => "slow",
            Self::BrokerClosed => "broker_closed",
            Self::Shutdown => "shutdown",
        }
    }
}
