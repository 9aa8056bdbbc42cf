//! The embedded broker as the place where messages go.

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tarn_broker::local::{LocalClient, LocalDelivery, LocalMessage, SubId};
use tarn_broker::shard::inbox::{self, PubAck, PublishError};

use super::{
    Completion, Delivery, Ingest, IngestClient, IngestError, Message, SubscribeError, SubscriptionId,
};
use crate::mqtt::packet::QoS;

/// Header blocks by QoS; static, so that a publish takes no memory for them.
const HEADERS: [Bytes; 3] = [
    Bytes::from_static(b"NATS/1.0\r\nNmqtt-Pub:0\r\n\r\n"),
    Bytes::from_static(b"NATS/1.0\r\nNmqtt-Pub:1\r\n\r\n"),
    Bytes::from_static(b"NATS/1.0\r\nNmqtt-Pub:2\r\n\r\n"),
];
/// Subjects of [`super::FALLBACK_STREAM`] without the wildcard.
const FALLBACK_PREFIX: &str = "$MQTT.msgs.";

type Answers = tokio::sync::oneshot::Receiver<Vec<Result<PubAck, PublishError>>>;

/// Opens clients of the embedded broker.
pub struct LocalIngest {
    open: Box<dyn Fn(&str) -> LocalClient + Send + Sync>,
}

impl LocalIngest {
    /// `open` makes a local client with the name given.
    pub fn new(open: impl Fn(&str) -> LocalClient + Send + Sync + 'static) -> Self {
        Self { open: Box::new(open) }
    }
}

impl Ingest for LocalIngest {
    fn open(&self, name: &str) -> Box<dyn IngestClient> {
        Box::new(Client {
            client: (self.open)(name),
        })
    }
}

struct Client {
    client: LocalClient,
}

impl Client {
    async fn hand_over(&self, messages: Vec<Message>) -> Completion {
        let mut fallback_of = Vec::new();
        let mut fallback = Vec::new();
        for (index, message) in messages.iter().enumerate() {
            if !self.client.captured(&message.subject) {
                let subject = format!("{FALLBACK_PREFIX}{}", message.subject);
                fallback_of.push(index);
                fallback.push(Message {
                    subject,
                    ..message.clone()
                });
            }
        }
        let messages = messages.into_iter().map(local_message).collect();
        let answers = self.client.publish_durable(messages).await;
        if fallback.is_empty() {
            return async { settle(answers).await.into_iter().map(outcome).collect() }.boxed();
        }
        let fallback = fallback.into_iter().map(local_message).collect();
        let kept = self.client.publish_durable(fallback).await;
        async move { merge(settle(answers).await, &fallback_of, settle(kept).await) }.boxed()
    }
}

impl IngestClient for Client {
    fn publish(&self, messages: Vec<Message>) -> BoxFuture<'_, ()> {
        let messages = messages.into_iter().map(local_message).collect();
        self.client.publish(messages).boxed()
    }

    fn publish_durable(&self, messages: Vec<Message>) -> BoxFuture<'_, Completion> {
        self.hand_over(messages).boxed()
    }

    fn subscribe(&self, subject: &str) -> Result<SubscriptionId, SubscribeError> {
        match self.client.subscribe(subject, None) {
            Ok(id) => Ok(SubscriptionId(id.0)),
            Err(error) => Err(SubscribeError(error.to_string())),
        }
    }

    fn unsubscribe(&self, subscription: SubscriptionId) {
        self.client.unsubscribe(SubId(subscription.0));
    }

    fn deliveries(&self) -> BoxFuture<'_, Option<Vec<Delivery>>> {
        async { Some(self.client.recv().await?.into_iter().map(delivery).collect()) }.boxed()
    }

    fn dropped(&self) -> u64 {
        self.client.dropped()
    }
}

fn local_message(message: Message) -> LocalMessage {
    let [at_most_once, at_least_once, exactly_once] = &HEADERS;
    let headers = match message.qos {
        QoS::AtMostOnce => at_most_once,
        QoS::AtLeastOnce => at_least_once,
        QoS::ExactlyOnce => exactly_once,
    };
    let resend = message.resend.map(|resend| inbox::Resend {
        key: resend.key,
        is_resend: resend.is_resend,
    });
    LocalMessage {
        subject: message.subject,
        reply: None,
        headers: headers.clone(),
        payload: message.payload,
        resend,
    }
}

fn delivery(local: LocalDelivery) -> Delivery {
    Delivery {
        subscription: SubscriptionId(local.sub.0),
        published_qos: published_qos(&local.headers),
        subject: local.subject,
        payload: local.payload,
    }
}

/// The QoS that a header block names.
fn published_qos(headers: &[u8]) -> Option<QoS> {
    if headers.is_empty() {
        return None;
    }
    let name = super::QOS_HEADER.as_bytes();
    let line = headers
        .split(|byte| *byte == b'\n')
        .find(|line| line.starts_with(name))?;
    let value = line
        .get(name.len()..)?
        .trim_ascii_start()
        .strip_prefix(b":")?
        .trim_ascii();
    match value {
        [digit] => QoS::from_bits(digit.wrapping_sub(b'0')),
        _ => None,
    }
}

/// A broker that goes away answers nothing, which is as good as [`PublishError::Closed`]: an empty list.
async fn settle(answers: Answers) -> Vec<Result<PubAck, PublishError>> {
    answers.await.unwrap_or_default()
}

fn outcome(result: Result<PubAck, PublishError>) -> Result<(), IngestError> {
    match result {
        Ok(_) => Ok(()),
        Err(PublishError::NoStream) => Err(IngestError::NoStream),
        Err(PublishError::NoSpace) => Err(IngestError::NoSpace),
        Err(PublishError::ReadOnly) => Err(IngestError::ReadOnly),
        Err(PublishError::Closed) => Err(IngestError::Closed),
        Err(other) => Err(IngestError::Refused(other.to_string())),
    }
}

/// Where the first try found no stream, what became of the message in the fallback stream.
fn merge(
    first: Vec<Result<PubAck, PublishError>>,
    fallback_of: &[usize],
    kept: Vec<Result<PubAck, PublishError>>,
) -> Vec<Result<(), IngestError>> {
    let mut outcomes: Vec<_> = first.into_iter().map(outcome).collect();
    for (index, kept) in fallback_of.iter().zip(kept) {
        if let Some(slot) = outcomes.get_mut(*index)
            && *slot == Err(IngestError::NoStream)
        {
            *slot = outcome(kept);
        }
    }
    outcomes
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_qos_header_is_read_as_nats_server_and_others_write_it() {
        for (headers, qos) in [
            (&b""[..], None),
            (b"NATS/1.0\r\nNmqtt-Pub:0\r\n\r\n", Some(QoS::AtMostOnce)),
            (b"NATS/1.0\r\nNmqtt-Pub: 1\r\n\r\n", Some(QoS::AtLeastOnce)),
            (b"NATS/1.0\r\nA: b\r\nNmqtt-Pub:2\r\n\r\n", Some(QoS::ExactlyOnce)),
            (b"NATS/1.0\r\nNmqtt-Pub:3\r\n\r\n", None),
            (b"NATS/1.0\r\nNmqtt-Pub:11\r\n\r\n", None),
            (b"NATS/1.0\r\nNmqtt-Public:1\r\n\r\n", None),
            (b"NATS/1.0\r\nA: b\r\n\r\n", None),
        ] {
            assert_eq!(published_qos(headers), qos, "{headers:?}");
        }
        for (block, qos) in HEADERS.iter().zip([0, 1, 2]) {
            assert_eq!(published_qos(block), QoS::from_bits(qos));
        }
    }

    #[test]
    fn the_fallback_answers_for_messages_that_no_stream_captures() {
        let ack = || {
            Ok(PubAck {
                stream: Arc::from("S"),
                seq: tarn_broker::types::StreamSeq(1),
                duplicate: false,
            })
        };
        let first = vec![
            ack(),
            Err(PublishError::NoStream),
            ack(),
            Err(PublishError::NoStream),
        ];
        let kept = vec![ack(), Err(PublishError::NoSpace), Err(PublishError::NoSpace)];
        let merged = merge(first, &[1, 2, 3], kept);
        assert_eq!(merged, [Ok(()), Ok(()), Ok(()), Err(IngestError::NoSpace)]);
        assert_eq!(
            merge(vec![Err(PublishError::NoStream)], &[], vec![]),
            [Err(IngestError::NoStream)]
        );
        assert_eq!(merge(vec![], &[0], vec![ack()]), []);
    }
}
