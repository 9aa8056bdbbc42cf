//! Pulling a stream: one durable consumer each, made anew for every session at the place where the lake (or the batch
//! being filled) ends.
//!
//! A session delivers messages in the stream's order without a hole, or ends. It ends when deliveries are missing
//! (their consumer sequence jumps), when the connection was lost, when the server ends it, and when nothing comes for too
//! long. The pipeline then orders the next one behind the last message it took. So nothing depends on redelivery: the
//! consumer's acknowledgements tell operators and autoscalers how far the lake is, and free the messages of a work queue.
//!
//! While the pipeline waits for a commit nothing is pulled. What was delivered already may then pass `ack_wait` and come
//! again, since acknowledging in progress extends one message at a time: those are recognised by their sequence and passed
//! over.

mod pull;
mod session;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::{ConnectOptions, Event, HeaderMap, Subject};
use bytes::Bytes;
use tarn_schemas::UnixMicros;
use tokio::sync::{mpsc, watch};

use crate::config::{NatsAuth, NatsTarget, ProcessorConfig};
use crate::watermark::{StreamSeq, Watermark};

pub(crate) use session::SourceError;

/// Chunks between the sources and the pipeline.
pub(crate) const CHUNKS_MAX: usize = 4;
/// Messages of one chunk at most.
const CHUNK_MESSAGES_MAX: usize = 2_048;
/// Bytes of one chunk, beyond which no further message is taken.
const CHUNK_BYTES_MAX: usize = 1 << 20;
/// The first and the longest wait between attempts at a session.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// The longest wait between attempts to connect.
const RECONNECT_MAX: Duration = Duration::from_secs(2);

/// One message of a stream.
#[derive(Clone, Debug)]
pub(crate) struct Delivered {
    pub(crate) seq: StreamSeq,
    pub(crate) published: UnixMicros,
    pub(crate) subject: Subject,
    pub(crate) headers: Option<HeaderMap>,
    pub(crate) payload: Bytes,
    /// Where it is acknowledged, and with it all before it.
    pub(crate) ack: Subject,
}

impl Delivered {
    /// About what it takes in memory.
    pub(crate) fn bytes(&self) -> usize {
        let headers = self
            .headers
            .iter()
            .flat_map(HeaderMap::iter)
            .map(|(name, values)| {
                let values = values.iter().map(|value| value.as_str().len());
                AsRef::<str>::as_ref(name).len() + values.sum::<usize>()
            });
        self.payload.len() + self.subject.len() + headers.sum::<usize>()
    }
}

/// Numbers the sessions of one source, so that what an ended one left behind is told from what the next one says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SessionId(pub(crate) u64);

/// What a source tells the pipeline.
#[derive(Debug)]
pub(crate) struct SourceEvent {
    /// Which source: the stream's index in the configuration.
    pub(crate) stream: usize,
    pub(crate) session: SessionId,
    pub(crate) kind: SourceEventKind,
}

/// See [`SourceEvent`].
#[derive(Debug)]
pub(crate) enum SourceEventKind {
    /// Messages behind `at` follow. `at` is where the session was ordered to begin, unless the stream is another one
    /// now or lost messages.
    Opened {
        at: Watermark,
    },
    Messages(Chunk),
    /// The session is over.
    Ended {
        error: SourceError,
    },
}

/// Messages that follow each other.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    pub(crate) messages: Vec<Delivered>,
    /// Messages of the stream behind the last one.
    pub(crate) pending: u64,
    /// Messages that came again and were passed over.
    pub(crate) redelivered: u64,
    /// Messages between the delivered ones that the stream doesn't have any more.
    pub(crate) missing: u64,
}

/// What the pipeline orders of a source: a session behind `behind`; `None` for a stream that isn't in the lake yet.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) session: SessionId,
    pub(crate) behind: Option<Watermark>,
}

/// What is known of the connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ConnectionState {
    pub(crate) connected: bool,
    /// How often it was lost or dropped messages.
    pub(crate) breaks: u64,
}

/// A client and the state of its connection.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) client: async_nats::Client,
    pub(crate) state: watch::Receiver<ConnectionState>,
}

/// Connects in the background, for as long as it takes. Errors where the target can't be one.
pub(crate) async fn connect(target: &NatsTarget) -> Result<Connection, async_nats::ConnectError> {
    let (sender, state) = watch::channel(ConnectionState::default());
    let watcher = Arc::new(Watcher {
        url: target.url.clone(),
        sender,
        is_reported: AtomicBool::new(false),
    });
    let options = ConnectOptions::new()
        .name("tarn-processor")
        .retry_on_initial_connect()
        .ping_interval(Duration::from_secs(10))
        .reconnect_delay_callback(|attempt| {
            let exponent = u32::try_from(attempt.min(6)).unwrap_or(6);
            (Duration::from_millis(50) * 2u32.pow(exponent)).min(RECONNECT_MAX)
        })
        .event_callback(move |event| {
            watcher.note(&event);
            std::future::ready(())
        });
    let options = match target.auth.clone() {
        NatsAuth::None => options,
        NatsAuth::Token(token) => options.token(token),
        NatsAuth::UserPassword { user, password } => options.user_and_password(user, password),
    };
    let addresses: Vec<&str> = target.url.split(',').map(str::trim).collect();
    Ok(Connection {
        client: options.connect(addresses).await?,
        state,
    })
}

struct Watcher {
    url: String,
    sender: watch::Sender<ConnectionState>,
    /// Whether it was said already that the server can't be reached.
    is_reported: AtomicBool,
}

impl Watcher {
    fn note(&self, event: &Event) {
        let url = self.url.as_str();
        match event {
            Event::Connected => {
                self.is_reported.store(false, Ordering::Relaxed);
                self.sender.send_modify(|state| state.connected = true);
                tracing::info!(url, "connected to NATS");
            }
            Event::Disconnected => {
                self.sender.send_modify(|state| {
                    *state = ConnectionState {
                        connected: false,
                        breaks: state.breaks + 1,
                    }
                });
                tracing::warn!(url, "connection to NATS lost, reconnecting");
            }
            Event::SlowConsumer(subscription) => {
                self.sender.send_modify(|state| state.breaks += 1);
                tracing::warn!(
                    url,
                    subscription,
                    "messages from NATS were dropped, reading them again"
                );
            }
            Event::ServerError(error) => tracing::warn!(url, %error, "NATS server reports an error"),
            Event::ClientError(error) if !self.is_reported.swap(true, Ordering::Relaxed) => {
                tracing::warn!(url, %error, "NATS can't be reached, trying until it can");
            }
            Event::ClientError(error) => tracing::debug!(url, %error, "NATS can't be reached"),
            Event::LameDuckMode | Event::Draining | Event::Closed => {
                tracing::info!(url, %event, "NATS connection")
            }
        }
    }
}

/// One stream's source. Runs until the pipeline is gone.
pub(crate) struct Source {
    index: usize,
    stream: String,
    consumer: String,
    ack_pending_max: i64,
    connection: Connection,
    events: mpsc::Sender<SourceEvent>,
}

impl Source {
    /// Of the stream at `index` of the configuration.
    pub(crate) fn new(
        config: &ProcessorConfig,
        index: usize,
        connection: &Connection,
        events: mpsc::Sender<SourceEvent>,
    ) -> Self {
        let in_memory = 4 * i64::try_from(config.rows_max).unwrap_or(i64::MAX / 4);
        Self {
            index,
            stream: config.streams.get(index).cloned().unwrap_or_default(),
            consumer: config.consumer.clone(),
            ack_pending_max: in_memory.max(1_000_000),
            connection: connection.clone(),
            events,
        }
    }

    /// Runs the ordered sessions, one after the other. Waits longer each time that one fails at once.
    pub(crate) async fn run(self, mut orders: mpsc::Receiver<Order>) {
        let mut wait = RETRY_MIN;
        while let Some(order) = orders.recv().await {
            let session = order.session;
            let (delivered, error) = self.session(&order).await;
            let Some(error) = error else { return };
            wait = if delivered { RETRY_MIN } else { wait };
            if error.is_expected_at_start() {
                tracing::debug!(stream = self.stream, %error, "stream can't be read yet");
            } else {
                tracing::warn!(stream = self.stream, %error, "reading the stream again");
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.events.closed() => return,
            }
            wait = (wait * 2).min(RETRY_MAX);
            let kind = SourceEventKind::Ended { error };
            if self
                .events
                .send(SourceEvent {
                    stream: self.index,
                    session,
                    kind,
                })
                .await
                .is_err()
            {
                return;
            }
        }
    }
}
