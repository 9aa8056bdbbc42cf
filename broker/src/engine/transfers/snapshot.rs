//! `STREAM.SNAPSHOT`: a stream and its consumers, sent as an archive in chunks that the client acknowledges.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::consumers::ArchivedConsumer;
use super::{LOOK_NS, SILENCE_NS, SNAPSHOTS_MAX};
use crate::api::error::ApiError;
use crate::api::parse::parse;
use crate::api::time::JsonTime;
use crate::api::types::StreamStateInfo;
use crate::archive::entry::{Entry, MAGIC};
use crate::archive::s2::FrameWriter;
use crate::consumer::Receiver;
use crate::engine::api::{is_empty_request, state_info};
use crate::engine::dispatch::Outlet;
use crate::engine::effect::Effect;
use crate::engine::events::{Fields, field};
use crate::engine::time::{Mono, Now};
use crate::engine::{ConsumerId, Engine};
use crate::env::Fs;
use crate::router::Message;
use crate::store::{Store, StoreError, SubjectFilter};
use crate::stream::config::StreamConfig;
use crate::subject;
use crate::types::{AccountId, StreamId, StreamSeq, UnixNanos};

const CHUNK_BYTES_DEFAULT: i64 = 128 << 10;
const CHUNK_BYTES: std::ops::RangeInclusive<i64> = 1 << 10..=1 << 20;
const WINDOW_BYTES_DEFAULT: i64 = 8 << 20;
const WINDOW_BYTES: std::ops::RangeInclusive<i64> = 1 << 10..=32 << 20;
/// A client that has not subscribed to the very subject that it named may do so within this time.
const INTEREST_NS: u64 = 2_000_000_000;
/// When a client that has not subscribed yet, or has a big backlog, is looked at again.
const BUSY_RETRY_NS: i64 = 2_000_000;
/// Uncompressed bytes made in one step at most, a record more or less.
const STEP_BYTES: usize = 512 << 10;

/// Source: nats-server, `JSApiStreamSnapshotRequest`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SnapshotRequest {
    deliver_subject: String,
    no_consumers: bool,
    chunk_size: i64,
    window_size: i64,
    /// Whether a message that cannot be read ends the snapshot instead of being left out.
    jsck: bool,
}

/// The answer to a request for a snapshot.
#[derive(Debug, Serialize)]
pub(in crate::engine) struct SnapshotStarted {
    config: StreamConfig,
    state: StreamStateInfo,
}

/// Why a snapshot ended before its end.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Broken {
    NoInterest,
    NoFlowResponse,
    Failed(String),
}

impl Broken {
    fn header(&self) -> String {
        match self {
            Self::NoInterest => "NATS/1.0 408 No Interest\r\n\r\n".to_owned(),
            Self::NoFlowResponse => "NATS/1.0 408 No Flow Response\r\n\r\n".to_owned(),
            Self::Failed(why) => format!("NATS/1.0 500 {why}\r\n\r\n"),
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::NoInterest => "no interest",
            Self::NoFlowResponse => "no flow response",
            Self::Failed(why) => why,
        }
    }
}

/// What is written next.
#[derive(Debug)]
enum Part {
    Consumers(VecDeque<(Arc<str>, ConsumerId)>),
    /// Messages from this sequence on.
    Messages(u64),
    /// Everything is written.
    Done,
}

/// A snapshot that is under way.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) account: AccountId,
    pub(super) is_ready: bool,
    stream: StreamId,
    name: Arc<str>,
    deliver: String,
    chunk_bytes: usize,
    /// Chunks that may be on their way at the same time, and those that are.
    window: usize,
    in_flight: usize,
    chunks: u64,
    /// Whether a subscription to the very subject has been there.
    was_awaited: bool,
    part: Part,
    last_seq: u64,
    is_strict: bool,
    out: FrameWriter,
    started: UnixNanos,
    /// When the client was heard of last, or a chunk was sent.
    active: Mono,
}

/// How a step ended.
enum Step {
    /// There may be more to send.
    More,
    /// There is nothing to do before the client says something.
    Waits,
    /// The client has too much to take in already.
    Busy,
    Ended(Result<(), Broken>),
}

impl Snapshot {
    pub(super) fn acknowledged(&mut self, now: Mono) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.active = now;
        self.is_ready = true;
    }

    fn put(&mut self, entry: &Entry<'_>) -> Result<usize, Broken> {
        let mut head = Vec::with_capacity(64 + entry.name.len());
        entry.put_head(&mut head);
        for bytes in [&head[..], entry.headers, entry.payload] {
            self.out
                .write(bytes)
                .map_err(|err| Broken::Failed(err.to_string()))?;
        }
        Ok(head.len() + entry.headers.len() + entry.payload.len())
    }

    fn send(&mut self, token: &str, chunk: &[u8], now: Mono, outlet: &mut impl Outlet) {
        self.chunks += 1;
        self.in_flight += 1;
        self.active = now;
        let (name, len, index) = (&self.name, chunk.len(), self.chunks);
        let reply = format!("$JS.SNAPSHOT.ACK.{name}.{token}.{len}.{index}");
        outlet.answer(&Message {
            subject: &self.deliver,
            reply: Some(&reply),
            headers: &[],
            payload: chunk,
        });
    }

    /// The last bytes, and the empty message that ends the snapshot.
    fn send_end(&mut self, ended: &Result<(), Broken>, outlet: &mut impl Outlet) {
        let rest = self.out.take(usize::MAX);
        let mut send = |headers: &str, payload: &[u8]| {
            outlet.answer(&Message {
                subject: &self.deliver,
                reply: None,
                headers: headers.as_bytes(),
                payload,
            });
        };
        if ended.is_ok() && !rest.is_empty() {
            send("", &rest);
        }
        match ended {
            Ok(()) if self.chunks == 0 => send("", &[]),
            Ok(()) => send("NATS/1.0 204\r\n\r\n", &[]),
            Err(broken) => send(&broken.header(), &[]),
        }
    }
}

impl Engine {
    /// `STREAM.SNAPSHOT.<stream>`
    pub(in crate::engine) fn start_snapshot<F: Fs>(
        &mut self,
        now: Now,
        name: &str,
        payload: &[u8],
        store: &Store<F>,
        effects: &mut Vec<Effect>,
    ) -> Result<SnapshotStarted, ApiError> {
        if is_empty_request(payload) {
            return Err(ApiError::BAD_REQUEST);
        }
        let stream = self.stream_by_name(name).ok_or(ApiError::STREAM_NOT_FOUND)?;
        let request: SnapshotRequest = parse(payload)?;
        if !subject::is_valid_literal(&request.deliver_subject) {
            return Err(ApiError::SNAPSHOT_DELIVER_SUBJECT);
        }
        if self.transfers.snapshots.len() >= SNAPSHOTS_MAX {
            return Err(ApiError::snapshot("too many snapshots at the same time"));
        }
        let mut state = state_info(stream, false, store);
        let mut consumers: VecDeque<_> = stream
            .consumers
            .iter()
            .map(|(name, id)| (name.clone(), *id))
            .collect();
        if request.no_consumers {
            consumers.clear();
        }
        let is_archived = |(_, id): &(Arc<str>, ConsumerId)| {
            let observer = self.consumers.get(id);
            observer.is_some_and(|observer| !observer.consumer.config.direct)
        };
        consumers.retain(is_archived);
        let config = StreamConfig::clone(&stream.config);
        let chunk_bytes = clamped(request.chunk_size, CHUNK_BYTES_DEFAULT, &CHUNK_BYTES);
        let window_bytes = clamped(request.window_size, WINDOW_BYTES_DEFAULT, &WINDOW_BYTES);
        let mut snapshot = Snapshot {
            account: self.account,
            is_ready: true,
            stream: stream.id,
            name: stream.name.clone(),
            deliver: request.deliver_subject,
            chunk_bytes,
            window: (window_bytes / chunk_bytes).max(1),
            in_flight: 0,
            chunks: 0,
            was_awaited: false,
            last_seq: state.last_seq,
            is_strict: request.jsck,
            out: FrameWriter::new(),
            started: now.wall,
            active: now.mono,
            part: Part::Done,
        };
        let answer = SnapshotStarted {
            config,
            state: state.clone(),
        };
        state.consumer_count = consumers.len();
        snapshot.part = Part::Consumers(consumers);
        let json = serde_json::to_vec(&state).map_err(ApiError::snapshot)?;
        let head = Entry {
            name: "state.json",
            time: now.wall.0,
            payload: &json,
            ..Entry::default()
        };
        snapshot.out.write(MAGIC).map_err(ApiError::snapshot)?;
        snapshot
            .put(&head)
            .map_err(|broken| ApiError::snapshot(broken.text()))?;
        let token = self.transfer_token();
        self.transfers.snapshots.insert(token, snapshot);
        self.arm_transfers(now, LOOK_NS);
        self.tell_snapshot_created(now, name, &answer.state, effects);
        tracing::info!(stream = name, "snapshot begins");
        Ok(answer)
    }

    fn tell_snapshot_created(
        &mut self,
        now: Now,
        stream: &str,
        state: &StreamStateInfo,
        effects: &mut Vec<Effect>,
    ) {
        let mut fields = vec![field("stream", stream), field("state", state)];
        fields.extend(self.transfer_fields());
        let subject = format!("$JS.EVENT.ADVISORY.STREAM.SNAPSHOT_CREATE.{stream}");
        self.tell(now, "advisory.v1.snapshot_create", subject, fields, effects);
    }

    /// Who asked, and where.
    pub(super) fn transfer_fields(&self) -> Fields {
        let account = self.account_name(self.account);
        let mut fields = vec![field("client", serde_json::json!({ "acc": &*account }))];
        if let Some(domain) = &self.options.domain {
            fields.push(field("domain", domain));
        }
        fields
    }

    /// Sends one chunk if the client takes it. Returns whether one was sent.
    pub(super) fn send_snapshot<F: Fs>(
        &mut self,
        now: Now,
        token: &str,
        store: &Store<F>,
        outlet: &mut impl Outlet,
    ) -> bool {
        let Some(mut snapshot) = self.transfers.snapshots.remove(token) else {
            return false;
        };
        outlet.enter(snapshot.account);
        let step = self
            .step_snapshot(now, token, &mut snapshot, store, outlet)
            .unwrap_or_else(|broken| Step::Ended(Err(broken)));
        match step {
            Step::Ended(ended) => {
                snapshot.send_end(&ended, outlet);
                self.tell_snapshot_complete(now, &snapshot, &ended, outlet);
                return true;
            }
            Step::More => {}
            Step::Waits | Step::Busy => snapshot.is_ready = false,
        }
        let is_busy = matches!(step, Step::Busy);
        self.transfers.snapshots.insert(token.to_owned(), snapshot);
        self.arm_transfers(now, if is_busy { BUSY_RETRY_NS } else { LOOK_NS });
        matches!(step, Step::More)
    }

    fn step_snapshot<F: Fs>(
        &self,
        now: Now,
        token: &str,
        snapshot: &mut Snapshot,
        store: &Store<F>,
        outlet: &mut impl Outlet,
    ) -> Result<Step, Broken> {
        let silent_ns = now.mono.since(snapshot.active);
        let is_awaited = outlet.is_awaited(&snapshot.deliver);
        if !is_awaited && snapshot.was_awaited {
            return Err(Broken::NoInterest);
        }
        snapshot.was_awaited |= is_awaited;
        // Clients subscribe when they have the answer. The wildcard of their other requests takes nothing for a backup.
        if !is_awaited && snapshot.chunks == 0 && silent_ns < INTEREST_NS {
            return Ok(Step::Busy);
        }
        match outlet.receiver(&snapshot.deliver) {
            Receiver::Gone => return Err(Broken::NoInterest),
            Receiver::Busy if silent_ns < SILENCE_NS => return Ok(Step::Busy),
            Receiver::Busy => return Err(Broken::NoFlowResponse),
            Receiver::Ready => {}
        }
        if snapshot.in_flight >= snapshot.window {
            return if silent_ns < SILENCE_NS {
                Ok(Step::Waits)
            } else {
                Err(Broken::NoFlowResponse)
            };
        }
        self.fill(now, snapshot, store)?;
        if snapshot.out.ready_bytes() >= snapshot.chunk_bytes {
            let chunk = snapshot.out.take(snapshot.chunk_bytes);
            snapshot.send(token, &chunk, now.mono, outlet);
            return Ok(Step::More);
        }
        Ok(match snapshot.part {
            Part::Done => Step::Ended(Ok(())),
            _ => Step::More,
        })
    }

    /// Writes until a chunk is ready, the step has done its share, or everything is written.
    fn fill<F: Fs>(&self, now: Now, snapshot: &mut Snapshot, store: &Store<F>) -> Result<(), Broken> {
        if !self.streams.contains_key(&snapshot.stream) {
            return Err(Broken::Failed("stream deleted".to_owned()));
        }
        let mut written = 0;
        while snapshot.out.ready_bytes() < snapshot.chunk_bytes && written < STEP_BYTES {
            written += match &mut snapshot.part {
                Part::Consumers(consumers) => match consumers.pop_front() {
                    Some((name, id)) => self.archive_consumer(now, snapshot, &name, id)?,
                    None => {
                        snapshot.part = Part::Messages(1);
                        0
                    }
                },
                Part::Messages(from) => {
                    let from = *from;
                    put_message(snapshot, from, store)?
                }
                Part::Done => return Ok(()),
            };
        }
        Ok(())
    }

    fn archive_consumer(
        &self,
        now: Now,
        snapshot: &mut Snapshot,
        name: &str,
        id: ConsumerId,
    ) -> Result<usize, Broken> {
        let Some(observer) = self.consumers.get(&id) else {
            return Err(Broken::Failed(format!("consumer {name} deleted")));
        };
        let archived = ArchivedConsumer::of(&observer.consumer, snapshot.last_seq, now.wall);
        let json = serde_json::to_vec(&archived).map_err(|err| Broken::Failed(err.to_string()))?;
        snapshot.put(&Entry {
            name: &format!("consumers/{name}"),
            time: now.wall.0,
            payload: &json,
            ..Entry::default()
        })
    }

    fn tell_snapshot_complete(
        &mut self,
        now: Now,
        snapshot: &Snapshot,
        ended: &Result<(), Broken>,
        outlet: &mut impl Outlet,
    ) {
        self.account = snapshot.account;
        let stream = &*snapshot.name;
        let mut fields = vec![
            field("stream", stream),
            field("start", JsonTime(snapshot.started)),
            field("end", JsonTime(now.wall)),
        ];
        fields.extend(self.transfer_fields());
        match ended {
            Ok(()) => tracing::info!(stream, "snapshot is complete"),
            Err(broken) => {
                tracing::warn!(stream, error = broken.text(), "snapshot failed");
                fields.push(field("error", broken.text()));
            }
        }
        let subject = format!("$JS.EVENT.ADVISORY.STREAM.SNAPSHOT_COMPLETE.{stream}");
        let event = self.event(now, "advisory.v1.snapshot_complete", subject, fields);
        event.tell(outlet);
    }
}

/// Writes the first message at or after `from`, or the end. A damaged message is left out, unless the client wants to hear
/// of that; one that the disk does not give ends the snapshot.
fn put_message<F: Fs>(snapshot: &mut Snapshot, from: u64, store: &Store<F>) -> Result<usize, Broken> {
    let next = store.next_match(snapshot.stream, &SubjectFilter::all(), StreamSeq(from));
    let Some(seq) = next.filter(|seq| seq.0 <= snapshot.last_seq) else {
        let written = snapshot.put(&Entry::default())?;
        snapshot
            .out
            .flush()
            .map_err(|err| Broken::Failed(err.to_string()))?;
        snapshot.part = Part::Done;
        return Ok(written);
    };
    snapshot.part = Part::Messages(seq.0 + 1);
    match store.read(snapshot.stream, seq) {
        Ok(Some(record)) => snapshot.put(&Entry {
            name: &record.subject,
            time: record.time.0,
            seq: seq.0,
            headers: &record.headers,
            payload: &record.payload,
        }),
        Ok(None) => Ok(0),
        Err(err) => unreadable(snapshot, seq, &err),
    }
}

fn unreadable(snapshot: &Snapshot, seq: StreamSeq, err: &StoreError) -> Result<usize, Broken> {
    tracing::error!(stream = %snapshot.name, seq = seq.0, error = %err, "a snapshot finds a message that cannot be read");
    if snapshot.is_strict || !matches!(err, StoreError::Damaged { .. }) {
        return Err(Broken::Failed(format!("message {} cannot be read", seq.0)));
    }
    Ok(0)
}

fn clamped(asked: i64, default: i64, range: &std::ops::RangeInclusive<i64>) -> usize {
    let asked = if asked == 0 { default } else { asked };
    let bytes = asked.clamp(*range.start(), *range.end());
    usize::try_from(bytes).expect("sizes between 1 KiB and 32 MiB fit")
}
