//! What the fuzz targets run: bytes in, and nothing but an answer out.

use std::path::Path;

use super::world::{DIR, World, op};
use crate::env::sim::SimFs;
use crate::shard::inbox::{JsKind, JsOp};
use crate::store::{Backing, NewRecord, Store, StoreOptions};
use crate::subject::is_valid_literal;
use crate::types::{StreamSeq, UnixNanos};

/// Records that the segment holds before it is changed.
const RECORDS: u64 = 6;
/// Time that passes at once, at most: a year.
const STEP_NANOS_MAX: u64 = 365 * 86_400 * 1_000_000_000;

/// Changes a stored segment, or puts other bytes in its place, and opens the store again: nothing may panic. The first
/// byte says which. No record may be other than it was written where only bursts that a checksum always finds are changed.
///
/// # Panics
/// If the store breaks its word.
pub fn segment(bytes: &[u8]) {
    let Some((&mode, bytes)) = bytes.split_first() else {
        return;
    };
    let (is_whole, is_packed) = (mode % 2 == 1, mode & 2 == 2);
    let fs = written(is_packed);
    let files = fs.files().into_iter().map(|(path, _)| path);
    let segments = files.filter(|path| path.extension().is_some_and(|ext| ext == "seg"));
    let segments = segments.collect::<Vec<_>>();
    assert!(!segments.is_empty(), "records are in segments");
    for path in segments {
        fs.edit(&path, |content| match is_whole {
            true => *content = bytes.to_vec(),
            false => change(content, bytes),
        });
    }
    let Ok((store, _)) = Store::open(fs, Path::new(DIR), options()) else {
        return;
    };
    for (id, _) in store.streams() {
        for seq in 1..=store.state(id).last_seq.0.min(RECORDS) {
            if let Ok(Some(record)) = store.read(id, StreamSeq(seq)) {
                assert!(
                    is_whole || *record.payload == payload_of(seq),
                    "record {seq} has changed"
                );
            }
        }
    }
}

fn options() -> StoreOptions {
    StoreOptions {
        segment_bytes_min: 4096,
        segment_bytes_max: 4096,
        reserve_bytes: 0,
        ..StoreOptions::new(1)
    }
}

fn payload_of(seq: u64) -> [u8; 80] {
    [seq as u8; 80]
}

/// A disk with a stream of [`RECORDS`] records, packed or not, left by a program that was killed.
fn written(is_packed: bool) -> SimFs {
    let fs = SimFs::new(1);
    let (mut store, _) = Store::open(fs.clone(), Path::new(DIR), options()).expect("an empty disk");
    let id = store
        .create_stream("S", b"{}", Backing::File, StreamSeq(1), UnixNanos(0))
        .expect("an empty store");
    store.set_packed(id, is_packed);
    for seq in 1..=RECORDS {
        let record = NewRecord {
            time: UnixNanos(seq as i64),
            subject: "s",
            headers: b"",
            payload: &payload_of(seq),
        };
        store.append(id, &record).expect("there is room");
        assert!(store.commit().failed.is_empty());
    }
    drop(store);
    fs.kill();
    fs
}

/// Pieces of two bytes of place, one of length and as many that are written there: at most four bytes, and no two so near
/// that they could be in one record. More could be a forgery, which no checksum finds.
fn change(content: &mut [u8], mut bytes: &[u8]) {
    let mut places: Vec<usize> = Vec::new();
    while let [high, low, len, rest @ ..] = bytes {
        let at = usize::from(u16::from_be_bytes([*high, *low])) % content.len().max(1);
        let len = usize::from(*len % 5).min(rest.len()).min(content.len() - at);
        if places.iter().all(|place| place.abs_diff(at) >= 256) {
            content[at..at + len].copy_from_slice(&rest[..len]);
            places.push(at);
        }
        bytes = &rest[len..];
    }
}

/// Runs lines of text as requests: `p subject|headers|payload`, `a subject|payload` for the API, `k subject|payload` for
/// acknowledgements, `w` to let time pass, `r` to crash and start again. What the router would not pass on is left out.
///
/// # Panics
/// If the broker does.
pub fn engine(text: &str) {
    let mut world = World::new(1);
    drop(world.open().expect("an empty disk"));
    let config =
        br#"{"name":"S","subjects":["s.>"],"allow_rollup_hdrs":true,"allow_msg_ttl":true,"allow_direct":true}"#;
    let create = op(JsKind::Api, "$JS.API.STREAM.CREATE.S", "_INBOX.1", b"", config);
    let consumer = br#"{"stream_name":"S","config":{"durable_name":"C","ack_policy":"explicit"}}"#;
    let durable = op(
        JsKind::Api,
        "$JS.API.CONSUMER.DURABLE.CREATE.S.C",
        "_INBOX.1",
        b"",
        consumer,
    );
    world.round(vec![create, durable]);
    for line in text.lines().take(200) {
        line_of(&mut world, line);
    }
}

fn line_of(world: &mut World, line: &str) {
    let (verb, rest) = line.split_at_checked(1).unwrap_or_default();
    let rest = rest.trim_start();
    let (subject, body) = rest.split_once('|').unwrap_or((rest, ""));
    match verb {
        "p" | "a" | "k" => {
            if let Some(request) = request(world, verb, subject, body) {
                world.round(vec![request]);
            }
        }
        "w" => {
            let next = world
                .next_deadline()
                .unwrap_or(0)
                .max(world.now.mono.0 + 1_000_000);
            world.advance_to(next.min(world.now.mono.0 + STEP_NANOS_MAX));
            world.round(Vec::new());
        }
        "r" => {
            world.drop_node();
            world.fs.crash(rest.len() as u64);
            drop(world.open().expect("what the broker wrote it can read"));
        }
        _ => {}
    }
}

fn request(world: &World, verb: &str, subject: &str, body: &str) -> Option<JsOp> {
    if !is_valid_literal(subject) {
        return None;
    }
    match verb {
        "p" => {
            let (headers, payload) = body.split_once('|').unwrap_or(("", body));
            let block = match headers {
                "" => String::new(),
                fields => format!("NATS/1.0\r\n{}\r\n\r\n", fields.replace("\\n", "\r\n")),
            };
            let kind = JsKind::Publish(world.stream_of(subject)?);
            Some(op(
                kind,
                subject,
                "_INBOX.1",
                block.as_bytes(),
                payload.as_bytes(),
            ))
        }
        "a" if subject.starts_with("$JS.API.") => {
            Some(op(JsKind::Api, subject, "_INBOX.1", b"", body.as_bytes()))
        }
        "k" if subject.starts_with("$JS.ACK.") || subject.starts_with("$JS.FC.") => {
            Some(op(JsKind::Ack, subject, "_INBOX.1", b"", body.as_bytes()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn segments_survive_the_seeds() {
        super::segment(include_bytes!("../../../fuzz/seeds/segment/first"));
        super::segment(include_bytes!("../../../fuzz/seeds/segment/header"));
        super::segment(include_bytes!("../../../fuzz/seeds/segment/whole"));
    }

    #[test]
    fn the_engine_survives_the_seeds() {
        super::engine(include_str!("../../../fuzz/seeds/engine/requests"));
        super::engine(include_str!("../../../fuzz/seeds/engine/more"));
    }
}
