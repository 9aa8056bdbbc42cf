//! `STREAM.RESTORE`: a stream made from an archive that comes in chunks, each of which is answered when it is worked in.

mod content;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use super::older::OlderReader;
use super::{LOOK_NS, RESTORES_MAX, SILENCE_NS, nobody_listens};
use crate::api::error::ApiError;
use crate::api::parse::parse;
use crate::api::time::JsonTime;
use crate::api::types::{Answer, StreamInfo};
use crate::archive::ArchiveError;
use crate::archive::entry::{EntryReader, MAGIC};
use crate::archive::s2::FrameReader;
use crate::consumer::config::ConsumerConfig;
use crate::consumer::state::ConsumerState;
use crate::engine::api::{is_empty_request, text_of};
use crate::engine::effect::{Effect, Outgoing};
use crate::engine::events::field;
use crate::engine::time::{Mono, Now};
use crate::engine::{Engine, RecoverError};
use crate::env::Fs;
use crate::shard::inbox::JsOp;
use crate::store::{Store, StoreError};
use crate::stream::config::StreamConfig;
use crate::types::{AccountId, StreamId, StreamSeq, UnixNanos};

/// Uncompressed bytes worked in before it is something else's turn, a block more or less.
const STEP_BYTES: usize = 1 << 20;
/// Chunks that wait to be worked in, in bytes. Clients wait for the answer to each.
const QUEUED_BYTES_MAX: usize = 8 << 20;
/// No sequence of an archive is higher, so that none overflows later.
const SEQ_MAX: u64 = 1 << 62;

/// Source: nats-server, `JSApiStreamRestoreRequest`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RestoreRequest {
    config: StreamConfig,
    /// Where the stream begins and ends, for archives that do not say so themselves.
    state: Value,
}

/// The answer to a request for a restore.
#[derive(Debug, Serialize)]
pub(in crate::engine) struct RestoreStarted {
    deliver_subject: String,
}

/// Why a restore ends without a stream.
#[derive(Debug, Error)]
pub(super) enum RestoreError {
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("state.json is not the first entry")]
    NoState,
    #[error("error in state.json: {0}")]
    State(serde_json::Error),
    #[error("stream names do not match")]
    OtherStream,
    #[error("unexpected content {0:?}")]
    Unexpected(String),
    #[error("the server that made it says: {0}")]
    Incomplete(String),
    #[error("expected consumer, found {0:?}")]
    NotAConsumer(String),
    #[error("consumer {name:?}: {reason}")]
    Consumer { name: String, reason: String },
    #[error("expected message sequence")]
    NoSequence,
    #[error("message sequence {0} out of order")]
    OutOfOrder(u64),
    #[error("message sequence {0} has no valid subject")]
    Subject(u64),
    #[error("message sequence {0} has malformed headers")]
    Headers(u64),
    #[error("message sequence {0} exceeds maximum message size")]
    TooLarge(u64),
    #[error("{}", .0.description)]
    Refused(ApiError),
    #[error("{}", text_of(.0))]
    Store(#[from] StoreError),
    #[error("too many chunks that were not answered yet")]
    Flood,
    #[error("each chunk requires a reply subject")]
    NoReply,
    #[error("stalled")]
    Stalled,
    #[error("the restored stream cannot be opened: {0}")]
    Recover(#[from] RecoverError),
}

/// What comes next in the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    State,
    /// So many consumers, then messages.
    Consumers(usize),
    Messages,
    /// Nothing that matters.
    End,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct ArchivedStream {
    first_seq: u64,
    last_seq: u64,
    consumer_count: usize,
}

#[derive(Debug)]
struct Chunk {
    payload: Bytes,
    reply: Bytes,
}

/// What the decompressed bytes are.
#[derive(Debug)]
enum Content {
    /// Too few to tell.
    Unknown(Vec<u8>),
    Entries(EntryReader),
    Older(Box<OlderReader>),
}

impl Default for Content {
    fn default() -> Self {
        Self::Unknown(Vec::new())
    }
}

impl Content {
    /// Where the next bytes are to be appended.
    fn buffer(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Unknown(bytes) => bytes,
            Self::Entries(entries) => entries.buffer(),
            Self::Older(older) => older.buffer(),
        }
    }

    /// Finds out what the bytes are, once there are enough.
    fn told(self) -> Self {
        match self {
            Self::Unknown(bytes) if bytes.starts_with(MAGIC) => {
                Self::Entries(EntryReader::starting_with(bytes))
            }
            Self::Unknown(bytes) if bytes.len() >= MAGIC.len() => {
                Self::Older(Box::new(OlderReader::starting_with(bytes)))
            }
            told => told,
        }
    }
}

/// A restore that is under way.
#[derive(Debug)]
pub(super) struct Restore {
    account: AccountId,
    config: StreamConfig,
    started: UnixNanos,
    /// When the client was heard of last.
    active: Mono,
    bytes: u64,
    chunks: VecDeque<Chunk>,
    /// Where the chunk is answered that is being worked in.
    answer: Option<Bytes>,
    /// The client has sent everything, and waits here for the stream.
    end: Option<Bytes>,
    frames: FrameReader,
    content: Content,
    /// As the request has it.
    state: ArchivedStream,
    part: Part,
    stream: Option<StreamId>,
    last_seq: u64,
    /// Those that are in memory only: they begin with the stream.
    consumers: Vec<(ConsumerConfig, ConsumerState)>,
    /// All consumers, and the bytes that describe them.
    consumer_names: BTreeSet<String>,
    consumer_bytes: usize,
    /// Everything is in the store, and durable after the commit of this round.
    is_stored: bool,
    failed: Option<RestoreError>,
}

impl Restore {
    /// Whether there is something to do although no chunk comes.
    pub(super) fn is_working(&self) -> bool {
        self.answer.is_some() || !self.chunks.is_empty() || self.end.is_some() || self.failed.is_some()
    }

    fn queued_bytes(&self) -> usize {
        let bytes = |chunk: &Chunk| chunk.payload.len() + chunk.reply.len() + size_of::<Chunk>();
        self.chunks.iter().map(bytes).sum()
    }
}

impl Engine {
    /// `STREAM.RESTORE.<stream>`
    pub(in crate::engine) fn start_restore(
        &mut self,
        now: Now,
        name: &str,
        payload: &[u8],
        effects: &mut Vec<Effect>,
    ) -> Result<RestoreStarted, ApiError> {
        if is_empty_request(payload) {
            return Err(ApiError::BAD_REQUEST);
        }
        let mut request: RestoreRequest = parse(payload)?;
        if request.config.name.is_empty() {
            name.clone_into(&mut request.config.name);
        }
        if request.config.name != name {
            return Err(ApiError::STREAM_MISMATCH);
        }
        if name.contains(['\\', '/']) {
            return Err(ApiError::STREAM_PATH_SEPARATORS);
        }
        let mut config = request.config.normalize()?;
        config.adopt_origins(|name| self.stream_by_name(name).map(|stream| Arc::clone(&stream.config)))?;
        let is_taken = self.stream_by_name(name).is_some() || self.is_restored(name);
        if !is_taken {
            self.check_overlap(&config, None)?;
        }
        self.check_quota(&config, None)?;
        if is_taken {
            return Err(ApiError::RESTORE_NAME_EXISTS);
        }
        if self.streams.len() >= self.options.streams_max {
            return Err(ApiError::MAXIMUM_STREAMS);
        }
        if self.transfers.restores.len() >= RESTORES_MAX {
            return Err(ApiError::restore("too many restores at the same time"));
        }
        let token = self.transfer_token();
        let deliver_subject = format!("$JS.SNAPSHOT.RESTORE.{name}.{token}");
        let restore = Restore {
            account: self.account,
            config,
            started: now.wall,
            active: now.mono,
            bytes: 0,
            chunks: VecDeque::new(),
            answer: None,
            end: None,
            frames: FrameReader::default(),
            content: Content::default(),
            state: serde_json::from_value(request.state).unwrap_or_default(),
            part: Part::State,
            stream: None,
            last_seq: 0,
            consumers: Vec::new(),
            consumer_names: BTreeSet::new(),
            consumer_bytes: 0,
            is_stored: false,
            failed: None,
        };
        self.transfers.restores.insert(token, restore);
        self.arm_transfers(now, LOOK_NS);
        let mut fields = vec![field("stream", name)];
        fields.extend(self.transfer_fields());
        let subject = format!("$JS.EVENT.ADVISORY.STREAM.RESTORE_CREATE.{name}");
        self.tell(now, "advisory.v1.restore_create", subject, fields, effects);
        tracing::info!(stream = name, "restore begins");
        Ok(RestoreStarted { deliver_subject })
    }

    /// Whether a stream of this name is being restored in the account.
    pub(in crate::engine) fn is_restored(&self, name: &str) -> bool {
        let mut restores = self.transfers.restores.values();
        restores.any(|restore| restore.account == self.account && restore.config.name == name)
    }

    /// What streams will capture that are being restored in the account.
    pub(in crate::engine) fn restored_subjects(&self) -> impl Iterator<Item = &String> {
        let restores = self.transfers.restores.values();
        let own = restores.filter(|restore| restore.account == self.account);
        own.flat_map(|restore| &restore.config.subjects)
    }

    /// A chunk has come; an empty one says that it was the last.
    pub(super) fn restore_chunk<F: Fs>(
        &mut self,
        now: Now,
        token: &str,
        op: JsOp,
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) {
        let account = self.account;
        let restore = self.transfers.restores.get_mut(token);
        let Some(restore) = restore.filter(|restore| restore.account == account && restore.end.is_none())
        else {
            return nobody_listens(&op, effects);
        };
        restore.active = now.mono;
        let reply = op.reply.subject_str().map(str::to_owned);
        match reply {
            None => restore.failed = Some(RestoreError::NoReply),
            Some(reply) if op.payload.is_empty() => restore.end = Some(reply.into()),
            Some(reply) => {
                if restore.queued_bytes() + op.payload.len() > QUEUED_BYTES_MAX {
                    restore.failed = Some(RestoreError::Flood);
                }
                restore.bytes += op.payload.len() as u64;
                restore.chunks.push_back(Chunk {
                    // A copy: a slice of the read buffer would hold all of it while the chunk waits.
                    payload: Bytes::copy_from_slice(&op.payload),
                    reply: reply.into(),
                });
            }
        }
        self.work_on(now, token.to_owned(), store, effects);
    }

    /// Goes on with restores that have something to do.
    pub(in crate::engine) fn work_on_restores<F: Fs>(
        &mut self,
        now: Now,
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) {
        let working = self.transfers.restores.iter();
        let working: Vec<String> = working
            .filter(|(_, restore)| restore.is_working())
            .map(|(token, _)| token.clone())
            .collect();
        for token in working {
            let stored = self.transfers.restores.get(&token);
            if stored.is_some_and(|restore| restore.is_stored && restore.failed.is_none()) {
                self.complete_restore(now, &token, store, effects);
            } else {
                self.work_on(now, token, store, effects);
            }
        }
    }

    /// A commit failed: what was restored into the stream is not there.
    pub(in crate::engine) fn restore_failed(&mut self, id: StreamId, err: &StoreError) {
        let mut restores = self.transfers.restores.values_mut();
        if let Some(restore) = restores.find(|restore| restore.stream == Some(id)) {
            let error = ApiError::store_failed(text_of(err));
            restore.failed.get_or_insert(RestoreError::Refused(error));
        }
    }

    pub(super) fn drop_stalled_restores<F: Fs>(
        &mut self,
        now: Now,
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) {
        let is_stalled =
            |restore: &Restore| !restore.is_working() && now.mono.since(restore.active) >= SILENCE_NS;
        let stalled = self.transfers.restores.iter();
        let stalled: Vec<String> = stalled
            .filter(|(_, restore)| is_stalled(restore))
            .map(|(token, _)| token.clone())
            .collect();
        for token in stalled {
            if let Some(restore) = self.transfers.restores.remove(&token) {
                self.end_restore(now, restore, Err(RestoreError::Stalled), store, effects);
            }
        }
    }

    fn work_on<F: Fs>(&mut self, now: Now, token: String, store: &mut Store<F>, effects: &mut Vec<Effect>) {
        let Some(mut restore) = self.transfers.restores.remove(&token) else {
            return;
        };
        self.enter(restore.account, effects);
        let worked = match restore.failed.take() {
            Some(err) => Err(err),
            None => self.take_chunks(now, &mut restore, store, effects),
        };
        match worked {
            Ok(()) => {
                self.transfers.restores.insert(token, restore);
            }
            Err(err) => self.end_restore(now, restore, Err(err), store, effects),
        }
    }

    /// Works chunks in, one step's share.
    fn take_chunks<F: Fs>(
        &mut self,
        now: Now,
        restore: &mut Restore,
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), RestoreError> {
        let mut worked = 0;
        while worked < STEP_BYTES {
            if restore.part == Part::End {
                // What follows the end of the archive does not matter.
                restore.answer_chunk(effects);
                while let Some(chunk) = restore.chunks.pop_front() {
                    push_answer(&chunk.reply, Bytes::new(), effects);
                }
                break;
            }
            let buffer = restore.content.buffer();
            let before = buffer.len();
            if restore.frames.read(buffer)? {
                worked += buffer.len() - before;
                self.take_content(now, restore, store)?;
                continue;
            }
            restore.answer_chunk(effects);
            let Some(chunk) = restore.chunks.pop_front() else {
                break;
            };
            restore.frames.push(&chunk.payload);
            restore.answer = Some(chunk.reply);
        }
        let has_all = restore.end.is_some() && restore.chunks.is_empty() && restore.answer.is_none();
        if has_all && !restore.is_stored {
            let id = restore.stream.filter(|_| restore.part == Part::End);
            let id = id.ok_or(ArchiveError::Truncated)?;
            if store.state(id).last_seq.0 < restore.last_seq {
                store.raise_last_seq(id, StreamSeq(restore.last_seq))?;
            }
            restore.is_stored = true;
        }
        Ok(())
    }

    /// Gives the stream its name, now that everything in it is durable.
    fn complete_restore<F: Fs>(
        &mut self,
        now: Now,
        token: &str,
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(mut restore) = self.transfers.restores.remove(token) else {
            return;
        };
        self.enter(restore.account, effects);
        let opened = self.open_restored(now, &mut restore, store, effects);
        self.end_restore(now, restore, opened, store, effects);
    }

    fn open_restored<F: Fs>(
        &mut self,
        now: Now,
        restore: &mut Restore,
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) -> Result<StreamInfo, RestoreError> {
        let id = restore.stream.ok_or(ArchiveError::Truncated)?;
        let bytes = serde_json::to_vec(&restore.config).map_err(RestoreError::State)?;
        store.update_stream(id, &bytes)?;
        let meta = store.streams().find(|(known, _)| *known == id);
        let meta = meta
            .map(|(_, meta)| meta.clone())
            .ok_or(StoreError::NoSuchStream)?;
        self.streams.remove(&id);
        self.take_in(now, id, &meta, store)?;
        if let Some(mut stream) = self.streams.remove(&id) {
            for (config, state) in restore.consumers.drain(..) {
                let name = config.name.as_str().into();
                let id = self.add_consumer(&mut stream, name, config, now.wall, state, false, now.mono);
                if let Some(observer) = self.consumers.get_mut(&id) {
                    observer.consumer.arm_pause(now);
                }
                self.rearm(now.mono, id);
            }
            self.streams.insert(id, stream);
        }
        effects.push(Effect::Capture {
            stream: id,
            subjects: restore.config.subjects.clone(),
        });
        self.changes += 1;
        self.index_copies();
        self.tell_stream(now, &restore.config.name, "create", effects);
        let stream = self.streams.get(&id).ok_or(StoreError::NoSuchStream)?;
        // From here on the stream is like any other.
        restore.stream = None;
        Ok(self.stream_info(now, stream, false, store))
    }

    /// Tells how a restore ended, and removes what a failed one has stored.
    fn end_restore<F: Fs>(
        &mut self,
        now: Now,
        restore: Restore,
        ended: Result<StreamInfo, RestoreError>,
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) {
        self.enter(restore.account, effects);
        let name = &*restore.config.name;
        let stream = &restore.config.name;
        match &ended {
            Ok(_) => tracing::info!(%stream, bytes = restore.bytes, "restore is complete"),
            Err(err) => tracing::warn!(%stream, bytes = restore.bytes, error = %err, "restore failed"),
        }
        if let Some(id) = restore.stream {
            self.forget_unfinished(id, name, store);
        }
        let is_stalled = matches!(ended, Err(RestoreError::Stalled));
        let mut fields = vec![
            field("stream", name),
            field("start", JsonTime(restore.started)),
            field("end", JsonTime(now.wall)),
            field("bytes", restore.bytes),
        ];
        fields.extend(self.transfer_fields());
        if !is_stalled {
            let subject = format!("$JS.EVENT.ADVISORY.STREAM.RESTORE_COMPLETE.{name}");
            self.tell(now, "advisory.v1.restore_complete", subject, fields, effects);
        }
        let result = ended.map_err(|err| match err {
            RestoreError::Refused(error) => error,
            err => ApiError::restore(err),
        });
        let answer = Bytes::from(Answer::encode("stream_create", result));
        let waiting = restore.chunks.into_iter().map(|chunk| chunk.reply);
        for reply in restore.answer.into_iter().chain(waiting).chain(restore.end) {
            push_answer(&reply, answer.clone(), effects);
        }
    }

    fn forget_unfinished<F: Fs>(&mut self, id: StreamId, name: &str, store: &mut Store<F>) {
        if let Some(stream) = self.streams.remove(&id) {
            for consumer in stream.consumers.values() {
                self.consumers.remove(consumer);
            }
        }
        self.js_account().names.remove(name);
        if let Err(err) = store.delete_stream(id) {
            tracing::warn!(stream = name, error = %err, "what a failed restore has stored is removed at the next start");
        }
    }
}

impl Restore {
    /// The chunk that was being worked in is through.
    fn answer_chunk(&mut self, effects: &mut Vec<Effect>) {
        if let Some(reply) = self.answer.take() {
            push_answer(&reply, Bytes::new(), effects);
        }
    }
}

fn push_answer(to: &Bytes, payload: Bytes, effects: &mut Vec<Effect>) {
    let message = Outgoing {
        to: to.clone(),
        headers: Bytes::new(),
        payload,
    };
    effects.push(Effect::Reply { message, after: None });
}
