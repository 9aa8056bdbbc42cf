//! One session of a source: the consumer is made anew, then pulled until something is wrong.

use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::pull::{BatchConfig, Config as PullConfig};
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy};
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{ConsumerError, ConsumerErrorKind, Info as StreamInfo, RetentionPolicy};
use async_nats::{Message, Subscriber, jetstream};
use futures::{FutureExt, StreamExt};
use tokio::time::{Instant, timeout};

use super::pull::{Delivery, DeliveryInfo, Pulls, Tracker};
use super::{
    CHUNK_BYTES_MAX, CHUNK_MESSAGES_MAX, Chunk, Delivered, Order, SessionId, Source, SourceEvent,
    SourceEventKind,
};
use crate::watermark::{StreamSeq, Watermark};

/// How long the server keeps a pull.
const PULL_EXPIRES: Duration = Duration::from_secs(30);
/// How often the server says that it is there while it has nothing.
const IDLE_HEARTBEAT: Duration = Duration::from_secs(5);
/// Silence after which the session ends: two heartbeats and a half.
const SILENCE_MAX: Duration = Duration::from_millis(12_500);
/// After this long without a message the consumer is asked whether it sent one that did not arrive.
const QUIET: Duration = Duration::from_secs(3);
/// Bytes of one pull, unless the server allows larger messages.
const PULL_BYTES: usize = 8 << 20;
/// See [`super`]: redelivery isn't relied on.
const ACK_WAIT: Duration = Duration::from_secs(600);

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    /// There is no such stream (yet).
    #[error("stream {stream} doesn't exist")]
    NoStream {
        /// Its name.
        stream: String,
    },
    /// The server did not answer, or refused.
    #[error("{what}: {detail}")]
    Request {
        /// What was asked for.
        what: &'static str,
        /// What came back.
        detail: String,
    },
    /// The stream drops messages when they are acknowledged or nobody waits for them, so that a consumer can't be made
    /// anew where the lake ends.
    #[error(
        "stream {stream} has retention {found:?}, tarn reads streams with limits retention: source it into one"
    )]
    Retention {
        /// Its name.
        stream: String,
        /// Its retention.
        found: RetentionPolicy,
    },
    /// Deliveries did not arrive.
    #[error("deliveries after {after} of the consumer did not arrive")]
    Gap {
        /// The last delivery that did, in the consumer's sequence.
        after: u64,
    },
    /// The connection was lost, or messages were dropped on their way.
    #[error("the connection broke")]
    Broken,
    /// Nothing came, not even a heartbeat.
    #[error("nothing came for {SILENCE_MAX:?}")]
    Silence,
    /// The server ended the pull for good.
    #[error("the server ended the pull: {status} {description}")]
    Ended {
        /// The status code.
        status: u16,
        /// Its text.
        description: String,
    },
}

impl SourceError {
    /// Nothing that an operator needs to know of each time.
    pub(super) fn is_expected_at_start(&self) -> bool {
        matches!(self, Self::NoStream { .. })
    }

    /// Whether deliveries went missing.
    pub(crate) fn is_gap(&self) -> bool {
        matches!(self, Self::Gap { .. })
    }

    fn request(what: &'static str, error: impl std::fmt::Display) -> Self {
        Self::Request {
            what,
            detail: error.to_string(),
        }
    }
}

/// How a session begins.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Start {
    /// Behind this message.
    pub(super) at: Watermark,
    /// Whether the lake holds what is before.
    pub(super) known: bool,
}

/// Where to begin in a stream as it is now: behind the order's place, unless it is another stream or one that lost what
/// it had.
pub(super) fn start(behind: Option<&Watermark>, created: String, last_seq: StreamSeq) -> Start {
    match behind {
        None => Start {
            at: Watermark {
                seq: StreamSeq(0),
                created,
            },
            known: false,
        },
        Some(behind) if behind.created != created => Start {
            at: Watermark {
                seq: StreamSeq(0),
                created,
            },
            known: false,
        },
        Some(behind) => Start {
            at: Watermark {
                seq: behind.seq.min(last_seq),
                created,
            },
            known: true,
        },
    }
}

impl Source {
    /// Returns whether messages came, and why the session ended; no error: the pipeline is gone.
    pub(super) async fn session(&self, order: &Order) -> (bool, Option<SourceError>) {
        let mut state = self.connection.state.clone();
        let connected = tokio::select! {
            connected = state.wait_for(|state| state.connected) => connected.map(|state| state.breaks),
            () = self.events.closed() => return (false, None),
        };
        let Ok(breaks) = connected else {
            return (false, Some(SourceError::Broken));
        };
        let mut delivered = false;
        let result = tokio::select! {
            biased;
            _ = state.wait_for(|state| state.breaks != breaks) => Err(SourceError::Broken),
            () = self.events.closed() => Ok(()),
            result = self.run_session(order, &mut delivered) => result,
        };
        (delivered, result.err())
    }

    async fn run_session(&self, order: &Order, delivered: &mut bool) -> Result<(), SourceError> {
        let (tracker, puller) = self.open(order).await?;
        match self
            .send(
                order.session,
                SourceEventKind::Opened {
                    at: puller.at.clone(),
                },
            )
            .await
        {
            Ok(()) => self.pull(order.session, tracker, puller, delivered).await,
            Err(Gone) => Ok(()),
        }
    }

    async fn open(&self, order: &Order) -> Result<(Tracker, Puller), SourceError> {
        let context = jetstream::new(self.connection.client.clone());
        let stream = context
            .get_stream(&self.stream)
            .await
            .map_err(|error| match error.kind() {
                GetStreamErrorKind::JetStream(error) if error.code() == 404 => SourceError::NoStream {
                    stream: self.stream.clone(),
                },
                _ => SourceError::request("stream info", error),
            })?;
        let info = stream.cached_info();
        let begin = self.begin(order, info)?;
        // A new consumer each time: its sequence of deliveries then begins at 1, and no pull of an earlier session,
        // or of anyone else, takes messages from this one unnoticed.
        match stream.delete_consumer(&self.consumer).await {
            Ok(_) => {}
            Err(error) if is_no_consumer(&error) => {}
            Err(error) => return Err(SourceError::request("deleting the consumer", error)),
        }
        let deliver_policy = match begin.at.seq.0 {
            0 => DeliverPolicy::All,
            seq => DeliverPolicy::ByStartSequence {
                start_sequence: seq + 1,
            },
        };
        let config = PullConfig {
            durable_name: Some(self.consumer.clone()),
            name: Some(self.consumer.clone()),
            description: Some("tarn: into the lake; acknowledged once committed".to_owned()),
            deliver_policy,
            ack_policy: AckPolicy::All,
            ack_wait: ACK_WAIT,
            max_ack_pending: self.ack_pending_max,
            ..PullConfig::default()
        };
        let consumer = stream
            .create_consumer(config)
            .await
            .map_err(|error| SourceError::request("creating the consumer", error))?;
        let inbox = self.connection.client.new_inbox();
        let replies = self
            .connection
            .client
            .subscribe(format!("{inbox}.*"))
            .await
            .map_err(|error| SourceError::request("subscribing", error))?;
        let tracker = Tracker::new(begin.known.then_some(begin.at.seq));
        Ok((
            tracker,
            Puller {
                at: begin.at,
                consumer,
                inbox,
                replies,
                pulls: Pulls::default(),
            },
        ))
    }

    fn begin(&self, order: &Order, info: &StreamInfo) -> Result<Start, SourceError> {
        let found = info.config.retention;
        if found != RetentionPolicy::Limits {
            return Err(SourceError::Retention {
                stream: self.stream.clone(),
                found,
            });
        }
        let begin = start(
            order.behind.as_ref(),
            created_text(info),
            StreamSeq(info.state.last_sequence),
        );
        if let Some(behind) = &order.behind {
            if behind.created != begin.at.created {
                tracing::warn!(
                    stream = self.stream,
                    was = behind.created,
                    is = begin.at.created,
                    "the stream was deleted and created again: reading the new one from its beginning"
                );
            } else if begin.at.seq < behind.seq {
                tracing::warn!(
                    stream = self.stream,
                    taken = behind.seq.0,
                    last = begin.at.seq.0,
                    "the stream lost messages that were read from it: going on behind its last one"
                );
            }
        }
        Ok(begin)
    }

    async fn pull(
        &self,
        session: SessionId,
        mut tracker: Tracker,
        mut puller: Puller,
        delivered: &mut bool,
    ) -> Result<(), SourceError> {
        let mut unseen = None;
        let mut heard_at = Instant::now();
        loop {
            puller.request(self.pull_bytes()).await?;
            match timeout(QUIET, puller.replies.next()).await {
                Ok(Some(message)) => {
                    let (chunk, error) = puller.gather(message, &mut tracker);
                    if let Some(chunk) = chunk {
                        *delivered = true;
                        unseen = None;
                        if self
                            .send(session, SourceEventKind::Messages(chunk))
                            .await
                            .is_err()
                        {
                            return Ok(());
                        }
                    }
                    if let Some(error) = error {
                        return Err(error);
                    }
                    heard_at = Instant::now();
                }
                Err(_) if heard_at.elapsed() > SILENCE_MAX => return Err(SourceError::Silence),
                Ok(None) => return Err(SourceError::Broken),
                Err(_) => puller.look_for_lost(&tracker, &mut unseen).await?,
            }
        }
    }

    fn pull_bytes(&self) -> usize {
        PULL_BYTES.max(2 * self.connection.client.server_info().max_payload)
    }

    async fn send(&self, session: SessionId, kind: SourceEventKind) -> Result<(), Gone> {
        let event = SourceEvent {
            stream: self.index,
            session,
            kind,
        };
        self.events.send(event).await.map_err(|_| Gone)
    }
}

/// The pipeline doesn't listen any more.
struct Gone;

/// The consumer and what is outstanding on it.
struct Puller {
    at: Watermark,
    consumer: Consumer<PullConfig>,
    inbox: String,
    replies: Subscriber,
    pulls: Pulls,
}

impl Puller {
    /// Sends pulls until enough is outstanding.
    async fn request(&mut self, bytes_max: usize) -> Result<(), SourceError> {
        while let Some(id) = self.pulls.next() {
            let batch = BatchConfig {
                batch: super::pull::PULL_MESSAGES,
                max_bytes: bytes_max,
                expires: Some(PULL_EXPIRES),
                idle_heartbeat: IDLE_HEARTBEAT,
                ..BatchConfig::default()
            };
            let inbox = format!("{}.{id}", self.inbox).into();
            let sent = self.consumer.request_batch(batch, inbox).await;
            sent.map_err(|error| SourceError::request("pulling", error))?;
        }
        Ok(())
    }

    /// The message and those that arrived with it, as one chunk. On an error, the chunk is what came before it.
    fn gather(&mut self, first: Message, tracker: &mut Tracker) -> (Option<Chunk>, Option<SourceError>) {
        let mut chunk: Option<Chunk> = None;
        let (mut bytes, mut count, mut redelivered) = (0, 0, 0);
        let mut error = None;
        let mut next = Some(first);
        while let Some(message) = next {
            count += 1;
            match self.accept(message, tracker) {
                Ok(Accepted::Status) => {}
                Ok(Accepted::Again) => redelivered += 1,
                Ok(Accepted::Message {
                    delivered,
                    pending,
                    missing,
                }) => {
                    bytes += delivered.bytes();
                    let chunk = chunk.get_or_insert_default();
                    chunk.messages.push(delivered);
                    chunk.pending = pending;
                    chunk.missing += missing;
                }
                Err(found) => {
                    error = Some(found);
                    break;
                }
            }
            if bytes >= CHUNK_BYTES_MAX || count >= CHUNK_MESSAGES_MAX {
                break;
            }
            next = self.replies.next().now_or_never().flatten();
        }
        if let Some(chunk) = &mut chunk {
            chunk.redelivered = redelivered;
        }
        (chunk, error)
    }

    fn accept(&mut self, message: Message, tracker: &mut Tracker) -> Result<Accepted, SourceError> {
        if message.status.is_some() && message.reply.is_none() {
            return self.status(&message).map(|()| Accepted::Status);
        }
        let Some(ack) = message.reply else {
            return Ok(Accepted::Status);
        };
        let Some(info) = DeliveryInfo::parse(&ack) else {
            return Ok(Accepted::Status);
        };
        self.pulls.delivered();
        match tracker.accept(&info) {
            Delivery::Gap => Err(SourceError::Gap {
                after: tracker.consumer_seq(),
            }),
            Delivery::Again => Ok(Accepted::Again),
            Delivery::Next { missing } => {
                let delivered = Delivered {
                    seq: info.stream_seq,
                    published: info.published,
                    subject: message.subject,
                    headers: message.headers,
                    payload: message.payload,
                    ack,
                };
                Ok(Accepted::Message {
                    delivered,
                    pending: info.pending,
                    missing,
                })
            }
        }
    }

    /// Source: ADR-37 and `processNextMsgReq` of nats-server: 100 heartbeat, 404 no messages, 408 the pull expired,
    /// 409 the pull or the consumer is over.
    fn status(&mut self, message: &Message) -> Result<(), SourceError> {
        let status = message.status.map_or(0, |status| status.as_u16());
        let description = message.description.clone().unwrap_or_default();
        let id = message
            .subject
            .rsplit('.')
            .next()
            .and_then(|id| id.parse().ok())
            .unwrap_or(0);
        let is_over = |text: &str| description.eq_ignore_ascii_case(text);
        match status {
            100 => Ok(()),
            404 | 408 => {
                self.pulls.ended(id);
                Ok(())
            }
            409 if is_over("Batch Completed") => {
                self.pulls.ended(id);
                Ok(())
            }
            409 if is_over("Message Size Exceeds MaxBytes") && self.pulls.ended(id) => Ok(()),
            _ => Err(SourceError::Ended { status, description }),
        }
    }

    /// Nothing came for a while: asks the consumer whether it delivered more than arrived. Deliveries may still be on
    /// their way, so they are missed only if they are not here one quiet stretch later.
    async fn look_for_lost(&self, tracker: &Tracker, unseen: &mut Option<u64>) -> Result<(), SourceError> {
        if unseen.is_some_and(|seq| seq > tracker.consumer_seq()) {
            return Err(SourceError::Gap {
                after: tracker.consumer_seq(),
            });
        }
        let info = self
            .consumer
            .get_info()
            .await
            .map_err(|error| SourceError::request("consumer info", error))?;
        *unseen = Some(info.delivered.consumer_sequence);
        Ok(())
    }
}

enum Accepted {
    Status,
    Again,
    Message {
        delivered: Delivered,
        pending: u64,
        missing: u64,
    },
}

fn is_no_consumer(error: &ConsumerError) -> bool {
    matches!(error.kind(), ConsumerErrorKind::JetStream(error) if error.error_code() == ErrorCode::CONSUMER_NOT_FOUND)
}

/// The stream's creation time in RFC 3339 with nanoseconds.
fn created_text(info: &StreamInfo) -> String {
    let nanos = i64::try_from(info.created.unix_timestamp_nanos()).unwrap_or(0);
    chrono::DateTime::from_timestamp_nanos(nanos).to_rfc3339_opts(chrono::SecondsFormat::Nanos, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seq: u64, created: &str) -> Watermark {
        Watermark {
            seq: StreamSeq(seq),
            created: created.to_owned(),
        }
    }

    #[test]
    fn a_session_begins_where_the_lake_ends() {
        let begin = start(Some(&at(10, "a")), "a".to_owned(), StreamSeq(30));
        assert_eq!(
            begin,
            Start {
                at: at(10, "a"),
                known: true
            }
        );
    }

    #[test]
    fn an_unknown_stream_begins_at_its_beginning() {
        assert_eq!(
            start(None, "a".to_owned(), StreamSeq(30)),
            Start {
                at: at(0, "a"),
                known: false
            }
        );
    }

    #[test]
    fn a_recreated_stream_is_read_from_its_beginning() {
        let begin = start(Some(&at(10, "a")), "b".to_owned(), StreamSeq(30));
        assert_eq!(
            begin,
            Start {
                at: at(0, "b"),
                known: false
            }
        );
    }

    #[test]
    fn a_stream_that_lost_its_end_goes_on_behind_what_it_has() {
        let begin = start(Some(&at(10, "a")), "a".to_owned(), StreamSeq(7));
        assert_eq!(
            begin,
            Start {
                at: at(7, "a"),
                known: true
            }
        );
    }
}
