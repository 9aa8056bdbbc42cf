//! A NATS connection of a fleet: JetStream publishes that are repeated under the same `Nats-Msg-Id` until they are
//! acknowledged.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::context::{ContextBuilder, PublishError};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, publish::PublishAck};
use async_nats::{Client, ConnectOptions, Event};
use futures::future::FutureExt as _;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::{sleep, timeout};

use crate::fleet::{Backoff, Link};
use crate::ledger::LedgerError;
use crate::message::Message;
use crate::stats::Stats;

/// After this a publish counts as lost and is repeated.
const ACK_TIMEOUT: Duration = Duration::from_secs(3);
const RECONNECT_MAX: Duration = Duration::from_millis(500);
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) struct NatsLink {
    url: String,
    link: Link,
}

impl NatsLink {
    pub(crate) fn new(url: String, link: Link) -> Self {
        Self { url, link }
    }

    /// Sends until the queue is closed and all is acknowledged.
    pub(crate) async fn run(mut self) -> Result<(), LedgerError> {
        let give_up = self.link.give_up.clone();
        let client = tokio::select! {
            client = self.connect() => client,
            () = give_up.cancelled() => return Ok(()),
        };
        let context = ContextBuilder::new()
            .timeout(ACK_TIMEOUT)
            .max_ack_inflight(2 * usize::from(self.link.window))
            .build(client.clone());
        let publisher = Arc::new(Publisher {
            context,
            stats: self.link.records.stats.clone(),
        });
        let mut in_flight = FuturesUnordered::new();
        let mut is_closing = false;
        while !(is_closing && in_flight.is_empty()) {
            tokio::select! {
                batch = self.link.batches.recv(), if !is_closing && in_flight.len() < usize::from(self.link.window) => {
                    match batch {
                        Some(batch) => in_flight.extend(
                            batch.into_iter().map(|message| publisher.clone().deliver(self.message_id(&message), message)),
                        ),
                        None => is_closing = true,
                    }
                }
                Some(number) = in_flight.next() => {
                    let mut numbers = vec![number];
                    while let Some(Some(number)) = in_flight.next().now_or_never() {
                        numbers.push(number);
                    }
                    self.link.records.acked(&numbers)?;
                }
                () = give_up.cancelled() => return Ok(()),
            }
        }
        if timeout(FLUSH_TIMEOUT, client.flush()).await.is_err() {
            tracing::debug!("nothing is in flight, the goodbye isn't needed");
        }
        Ok(())
    }

    /// Unlike that of any other message of any other fleet.
    fn message_id(&self, message: &Message) -> String {
        format!("{}-{}", self.link.name, message.number)
    }

    /// Tries until it succeeds; the client then reconnects by itself.
    async fn connect(&self) -> Client {
        let mut backoff = Backoff::default();
        let stats = &self.link.records.stats;
        loop {
            let events = stats.clone();
            let options = ConnectOptions::new()
                .name(&self.link.name)
                .max_reconnects(None)
                .ping_interval(Duration::from_secs(10))
                .reconnect_delay_callback(|attempts| {
                    let attempts = u32::try_from(attempts).unwrap_or(u32::MAX).min(10);
                    Duration::from_millis(25)
                        .saturating_mul(1 << attempts)
                        .min(RECONNECT_MAX)
                })
                .event_callback(move |event| {
                    note(&events, &event);
                    std::future::ready(())
                });
            let addresses: Vec<&str> = self.url.split(',').map(str::trim).collect();
            match options.connect(addresses.as_slice()).await {
                Ok(client) => return client,
                Err(error) => stats.note_error(format!("NATS: {error}")),
            }
            sleep(backoff.next()).await;
        }
    }
}

fn note(stats: &Stats, event: &Event) {
    match event {
        Event::Connected => stats.connects.add(1),
        Event::Disconnected => stats.disconnects.add(1),
        other => stats.note_error(format!("NATS: {other}")),
    }
}

struct Publisher {
    context: jetstream::Context,
    stats: Arc<Stats>,
}

impl Publisher {
    /// Publishes until it is acknowledged, and once more if it is to be a duplicate. Returns the message's number.
    async fn deliver(self: Arc<Self>, id: String, message: Message) -> u64 {
        let mut backoff = Backoff::default();
        let mut attempt = 0;
        while let Err(error) = self.publish(&id, &message).await {
            if attempt == 0 {
                self.stats.resent.add(1);
            }
            attempt += 1;
            self.stats.refused.add(usize::from(is_refusal(&error)));
            self.stats.note_error(format!("NATS publish: {error}"));
            sleep(backoff.next()).await;
        }
        if message.is_duplicated {
            self.stats.duplicated.add(1);
            match self.publish(&id, &message).await {
                Ok(ack) if ack.duplicate => self.stats.recognised.add(1),
                Ok(_) => self.stats.taken_anew.add(1),
                Err(error) => self
                    .stats
                    .note_error(format!("NATS publish of a duplicate: {error}")),
            }
        }
        message.number
    }

    async fn publish(&self, id: &str, message: &Message) -> Result<PublishAck, PublishError> {
        let publish = PublishMessage::build()
            .payload(message.payload.clone())
            .message_id(id);
        self.context
            .send_publish(message.subject.clone(), publish)
            .await?
            .await
    }
}

fn is_refusal(error: &PublishError) -> bool {
    use async_nats::jetstream::context::PublishErrorKind::{BrokenPipe, TimedOut};
    !matches!(error.kind(), TimedOut | BrokenPipe)
}
