//! What the engine wants done outside of it.

use bytes::Bytes;

use super::events::Event;
use crate::api::error::ApiError;
use crate::consumer::pull::Notice;
use crate::shard::inbox::ReplyTo;
use crate::types::{AccountId, StreamId, StreamSeq};

/// A message to a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outgoing {
    /// Where it goes.
    pub(crate) to: Bytes,
    pub(crate) headers: Bytes,
    pub(crate) payload: Bytes,
}

/// What an acknowledgement says besides the sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AckExtra {
    /// A counter's value.
    Value(String),
    /// A batch and how many messages of it were stored.
    Batch { id: String, count: u64 },
}

/// Something to be done after the commit that follows the step.
#[derive(Debug)]
pub(crate) enum Effect {
    /// The effects that follow are for the clients of this account; before the first of these, for those of `$G`.
    Enter(AccountId),
    /// A message is stored (or was before): tell the publisher, unless the commit of the stream
    /// failed.
    PubAck {
        stream: StreamId,
        seq: StreamSeq,
        is_duplicate: bool,
        extra: Option<Box<AckExtra>>,
        reply: ReplyTo,
    },
    /// A message that the server itself publishes: for subscribers, and for the stream that captures its subject. With
    /// `after`, only if that record is stored.
    Publish {
        message: Outgoing,
        after: Option<(StreamId, StreamSeq)>,
    },
    /// An advisory or a metric.
    Event(Box<Event>),
    /// A message was refused.
    PubRefused {
        stream: StreamId,
        error: ApiError,
        reply: ReplyTo,
    },
    /// The answer to a request. With `after`, it holds only if the commit of that stream succeeded.
    Reply {
        message: Outgoing,
        after: Option<StreamId>,
    },
    /// The answer to a request of the API that was granted. If the commit of the stream fails, an error goes out instead.
    Answer {
        message: Outgoing,
        /// What the answer is called, for instance `stream_purge`.
        kind: String,
        after: StreamId,
    },
    /// A status message of a consumer.
    Status(Notice),
    /// A message that the server publishes as a client would, JetStream's API included. With `after`, only if that record is
    /// durable.
    Ask {
        message: Outgoing,
        /// Where an answer may go.
        reply: Option<Bytes>,
        after: Option<(StreamId, StreamSeq)>,
    },
    /// What is published to this subject comes back as [`crate::shard::inbox::JsKind::Heard`].
    Listen { hearing: u64, subject: String },
    /// Nothing more of that.
    Unlisten { hearing: u64 },
    /// What a stream captures has changed. Empty: nothing any more.
    Capture { stream: StreamId, subjects: Vec<String> },
}
