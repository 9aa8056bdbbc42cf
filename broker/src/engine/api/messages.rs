//! Single messages: `$JS.API.STREAM.MSG.{GET,DELETE}` and `$JS.API.DIRECT.GET`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::streams::{is_empty_request, text_of};
use crate::api::error::ApiError;
use crate::api::parse::{parse, parse_optional};
use crate::api::time::{self, JsonTime};
use crate::api::types::{MessageAnswer, MessageDeleteRequest, MessageGetRequest, StoredMessage, Success};
use crate::engine::Engine;
use crate::engine::effect::{Effect, Outgoing};
use crate::env::Fs;
use crate::shard::inbox::{JsOp, ReplyTo};
use crate::store::{Record, Store, StoreError, SubjectFilter, SubjectSummary};
use crate::stream::config::API_LEVEL;
use crate::stream::headers;
use crate::subject;
use crate::types::{StreamId, StreamSeq};

/// Messages and bytes that one direct request gets at most.
const DIRECT_BATCH_MAX: u64 = 1000;
const DIRECT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Subjects that one direct request gets the last messages of at most.
const DIRECT_SUBJECTS_MAX: usize = 1024;
/// What a direct request gets for a message that the disk does not give.
const UNREADABLE: &str = "500 Message Unreadable";

impl Engine {
    pub(super) fn get_message<F: Fs>(
        &self,
        name: &str,
        payload: &[u8],
        store: &Store<F>,
    ) -> Result<MessageAnswer, ApiError> {
        if is_empty_request(payload) {
            return Err(ApiError::BAD_REQUEST);
        }
        let request: MessageGetRequest = parse(payload)?;
        let has_last = !request.last_by_subj.is_empty();
        let has_next = !request.next_by_subj.is_empty();
        let has_start = request.start_time.is_some();
        let is_wrong = request.batch > 0
            || request.max_bytes > 0
            || (request.seq > 0 && (has_last || has_start))
            || (request.seq == 0 && !has_last && !has_next && !has_start)
            || (has_last && (has_start || has_next));
        if is_wrong {
            return Err(ApiError::BAD_REQUEST);
        }
        let stream = self.stream_by_name(name).ok_or(ApiError::STREAM_NOT_FOUND)?;
        let record = find(stream.id, &request, store)
            .map_err(|err| ApiError::stream_general(text_of(&err)))?
            .ok_or(ApiError::NO_MESSAGE)?;
        let message = StoredMessage {
            subject: record.subject.to_string(),
            seq: record.seq.0,
            hdrs: STANDARD.encode(&record.headers),
            data: STANDARD.encode(&record.payload),
            time: JsonTime(record.time),
        };
        Ok(MessageAnswer { message })
    }

    pub(super) fn delete_message<F: Fs>(
        &mut self,
        name: &str,
        payload: &[u8],
        store: &mut Store<F>,
    ) -> Result<Success, ApiError> {
        if is_empty_request(payload) {
            return Err(ApiError::BAD_REQUEST);
        }
        let request: MessageDeleteRequest = parse(payload)?;
        let stream = self.stream_by_name(name).ok_or(ApiError::STREAM_NOT_FOUND)?;
        if stream.config.sealed {
            return Err(ApiError::SEALED);
        }
        if stream.config.deny_delete {
            return Err(ApiError::message_delete("message delete not permitted"));
        }
        let id = stream.id;
        let seq = StreamSeq(request.seq);
        let last_seq = store.state(id).last_seq;
        if !store
            .remove(id, seq)
            .map_err(|err| ApiError::message_delete(text_of(&err)))?
        {
            let text = if seq > last_seq {
                "stream store EOF"
            } else {
                "no message found"
            };
            return Err(ApiError::message_delete(text));
        }
        self.message_removed(id, seq);
        Ok(Success { success: true })
    }

    /// Answers with the message itself, or with a status.
    /// Source: nats-server, `processDirectGetRequest`.
    pub(super) fn direct_get<F: Fs>(
        &mut self,
        name: &str,
        subject: Option<&str>,
        op: &JsOp,
        store: &Store<F>,
        effects: &mut Vec<Effect>,
    ) {
        let ReplyTo::Subject(to) = &op.reply else { return };
        // Records of this round may be in the answer: it waits for them to be durable.
        let after = self
            .stream_by_name(name)
            .and_then(|stream| awaited(stream.id, store));
        let mut send = |headers: Vec<u8>, payload: Bytes| {
            let message = Outgoing {
                to: to.clone(),
                headers: headers.into(),
                payload,
            };
            effects.push(Effect::Reply { message, after });
        };
        let status = |text: &str| format!("NATS/1.0 {text}\r\n\r\n").into_bytes();
        let stream = self
            .stream_by_name(name)
            .filter(|stream| stream.config.allow_direct);
        let Some(stream) = stream else {
            return send(
                headers::no_responders(op.subject_str()).into_bytes(),
                Bytes::new(),
            );
        };
        if headers::asks_above_level(&op.headers, API_LEVEL) {
            return send(status("412 Required Api Level"), Bytes::new());
        }
        if subject.is_some_and(|subject| !subject::is_valid_filter(subject)) {
            return send(
                headers::no_responders(op.subject_str()).into_bytes(),
                Bytes::new(),
            );
        }
        let request = match direct_request(subject, &op.payload) {
            Ok(request) => request,
            Err(text) => return send(status(text), Bytes::new()),
        };
        let (id, stream_name) = (stream.id, stream.name.clone());
        if request.batch != 0 || !request.multi_last.is_empty() {
            return direct_batch(id, &stream_name, &request, store, send);
        }
        match find(id, &request, store) {
            Ok(Some(record)) => {
                let block = if request.no_hdr {
                    Vec::new()
                } else {
                    direct_headers(&stream_name, &record)
                };
                send(block, record.payload);
            }
            Ok(None) => send(status("404 Message Not Found"), Bytes::new()),
            Err(_) => send(status(UNREADABLE), Bytes::new()),
        }
    }
}

fn direct_request(subject: Option<&str>, payload: &[u8]) -> Result<MessageGetRequest, &'static str> {
    if let Some(subject) = subject {
        let request: MessageGetRequest = parse_optional(payload).map_err(|_| "408 Malformed Request")?;
        return Ok(MessageGetRequest {
            last_by_subj: subject.to_owned(),
            no_hdr: request.no_hdr,
            ..MessageGetRequest::default()
        });
    }
    if payload.trim_ascii().is_empty() {
        return Err("408 Empty Request");
    }
    let request: MessageGetRequest = parse(payload).map_err(|_| "408 Malformed Request")?;
    let has_last = !request.last_by_subj.is_empty();
    let has_next = !request.next_by_subj.is_empty();
    let has_multi = !request.multi_last.is_empty();
    let has_start = request.start_time.is_some();
    if request.seq == 0 && !has_last && !has_next && !has_multi && !has_start {
        return Err("408 Empty Request");
    }
    let is_wrong = (request.seq > 0 && (has_last || has_start))
        || (has_last && (has_start || has_next || has_multi || request.batch > 0))
        || (has_next && has_multi)
        || (request.up_to_seq > 0 && request.up_to_time.is_some());
    if is_wrong {
        Err("408 Bad Request")
    } else {
        Ok(request)
    }
}

fn find<F: Fs>(
    id: StreamId,
    request: &MessageGetRequest,
    store: &Store<F>,
) -> Result<Option<Record>, StoreError> {
    let position = || {
        let start = match request.start_time {
            Some(time) => store.seq_at_or_after(id, time.0)?,
            None => StreamSeq(request.seq),
        };
        if !request.last_by_subj.is_empty() {
            return store.last_match(id, &SubjectFilter::new(&[&request.last_by_subj]));
        }
        if request.next_by_subj.is_empty() {
            return Some(start);
        }
        let filter = SubjectFilter::new(&[&request.next_by_subj]);
        store.next_match(id, &filter, start.max(StreamSeq(1)))
    };
    let Some(seq) = position() else {
        return Ok(None);
    };
    match store.read(id, seq) {
        // What is damaged is lost; what the disk refuses is there.
        Err(StoreError::Damaged { .. }) => Ok(None),
        read => read,
    }
}

/// The stream whose commit an answer with its records waits for, if it has records that are not durable yet.
pub(super) fn awaited<F: Fs>(id: StreamId, store: &Store<F>) -> Option<StreamId> {
    (store.durable_seq(id) < store.state(id).last_seq).then_some(id)
}

fn direct_headers(stream: &str, record: &Record) -> Vec<u8> {
    let seq = record.seq.to_string();
    let time = time::format(record.time);
    let fields = [
        ("Nats-Stream", stream),
        ("Nats-Subject", &record.subject),
        ("Nats-Sequence", &seq),
        ("Nats-Time-Stamp", &time),
    ];
    let mut block = record.headers.to_vec();
    for (name, value) in fields {
        block = headers::with_field(&block, name, value);
    }
    block
}

/// ADR-31: several messages, then an empty one with status 204.
fn direct_batch<F: Fs>(
    id: StreamId,
    name: &str,
    request: &MessageGetRequest,
    store: &Store<F>,
    mut send: impl FnMut(Vec<u8>, Bytes),
) {
    let bytes_max = usize::try_from(request.max_bytes)
        .ok()
        .filter(|bytes| *bytes > 0)
        .unwrap_or(DIRECT_BYTES_MAX);
    let wanted = if request.multi_last.is_empty() {
        batch_positions(id, request, store)
    } else {
        last_positions(id, request, store)
    };
    let wanted = match wanted {
        Ok(wanted) => wanted,
        Err(text) => return send(format!("NATS/1.0 {text}\r\n\r\n").into_bytes(), Bytes::new()),
    };
    // Of last messages the headers always come.
    let no_hdr = request.no_hdr && request.multi_last.is_empty();
    let (mut left, mut last, mut bytes) = (wanted.left, 0, 0);
    for seq in wanted.found {
        let record = match store.read(id, seq) {
            Ok(Some(record)) => record,
            Err(StoreError::Io { .. }) => {
                let status = format!("NATS/1.0 {UNREADABLE}\r\n\r\n");
                return send(status.into_bytes(), Bytes::new());
            }
            Ok(None) | Err(_) => continue,
        };
        if !no_hdr {
            left = left.saturating_sub(1);
        }
        let mut block = direct_headers(name, &record);
        block = headers::with_field(&block, "Nats-Num-Pending", &left.to_string());
        block = headers::with_field(&block, "Nats-Last-Sequence", &last.to_string());
        bytes += record.subject.len() + record.headers.len() + record.payload.len();
        last = seq.0;
        send(if no_hdr { Vec::new() } else { block }, record.payload);
        if bytes >= bytes_max {
            break;
        }
    }
    let mut end = format!("NATS/1.0 204 EOB\r\nNats-Num-Pending: {left}\r\nNats-Last-Sequence: {last}\r\n");
    if !request.multi_last.is_empty() {
        end.push_str(&format!("Nats-UpTo-Sequence: {}\r\n", wanted.up_to));
    }
    end.push_str("\r\n");
    send(end.into_bytes(), Bytes::new());
}

/// The last record of a subject that is not above `up_to`.
fn last_at_or_below<F: Fs>(
    id: StreamId,
    subject: &str,
    up_to: StreamSeq,
    store: &Store<F>,
) -> Option<StreamSeq> {
    let filter = SubjectFilter::new(&[subject]);
    let above = store.count_matching(id, &filter, up_to.next());
    // The least position from which on no more records follow than above `up_to`, is right behind the one looked for.
    let (mut low, mut high) = (0, up_to.0.checked_add(1)?);
    while low < high {
        let middle = low + (high - low) / 2;
        if store.count_matching(id, &filter, StreamSeq(middle)) > above {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low.checked_sub(1).filter(|seq| *seq > 0).map(StreamSeq)
}

/// What a request for several messages gets.
struct Wanted {
    found: Vec<StreamSeq>,
    /// How many there are, also beyond those found.
    left: u64,
    up_to: u64,
}

/// Messages from a position on, or the status where there are none.
fn batch_positions<F: Fs>(
    id: StreamId,
    request: &MessageGetRequest,
    store: &Store<F>,
) -> Result<Wanted, &'static str> {
    let last = store.state(id).last_seq;
    let start = match request.start_time {
        Some(time) => store.seq_at_or_after(id, time.0).unwrap_or(last.next()),
        None => StreamSeq(request.seq.max(1)),
    };
    let filter = if request.next_by_subj.is_empty() {
        SubjectFilter::all()
    } else {
        SubjectFilter::new(&[&request.next_by_subj])
    };
    let left = store.count_matching(id, &filter, start);
    if left == 0 {
        return Err("404 Message Not Found");
    }
    // A negative number asks for nothing but the end.
    let limit = u64::try_from(request.batch).unwrap_or(0).min(DIRECT_BATCH_MAX);
    let next = |from| store.next_match(id, &filter, from);
    let found = std::iter::successors(next(start), |seq| next(seq.next()))
        .take(usize::try_from(limit).unwrap_or(usize::MAX))
        .collect();
    Ok(Wanted {
        found,
        left,
        up_to: last.0,
    })
}

/// The last message of each subject, or the status where there are none, or too many.
/// Source: nats-server, `getDirectMulti`.
fn last_positions<F: Fs>(
    id: StreamId,
    request: &MessageGetRequest,
    store: &Store<F>,
) -> Result<Wanted, &'static str> {
    const NONE: &str = "404 No Results";
    let last = store.state(id).last_seq;
    let asked = match (request.up_to_seq, request.up_to_time) {
        (0, None) => last,
        (0, Some(time)) => store.seq_at_or_after(id, time.0).map_or(last, StreamSeq::prev),
        (seq, _) => StreamSeq(seq),
    };
    let up_to = asked.min(last);
    let filter = SubjectFilter::new(&request.multi_last);
    let subjects = store.subjects(id, &filter);
    let last_up_to = |subject: &SubjectSummary| {
        if subject.last <= up_to {
            Some(subject.last)
        } else {
            last_at_or_below(id, &subject.subject, up_to, store)
        }
    };
    let mut found: Vec<StreamSeq> = subjects.iter().filter_map(last_up_to).collect();
    if found.is_empty() {
        return Err(NONE);
    }
    if found.len() > DIRECT_SUBJECTS_MAX {
        return Err("413 Too Many Results");
    }
    // Those below where the client wants to begin are found and passed over.
    found.retain(|seq| seq.0 >= request.seq);
    found.sort_unstable();
    let left = found.len() as u64;
    if let Ok(limit) = usize::try_from(request.batch)
        && limit > 0
    {
        found.truncate(limit);
    }
    Ok(Wanted {
        found,
        left,
        up_to: asked.0,
    })
}
