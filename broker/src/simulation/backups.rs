//! Backups: a client takes one of a stream, and makes the stream anew from it once that is gone.
//!
//! What a restored stream must hold is what was known of it when the backup was taken. A restore that is broken off leaves nothing.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::Run;
use super::ask::Request;
use super::config::{Retention, SECOND};
use super::consumers::read_tag;
use super::streams::{Fate, StreamModel};
use super::world::{Got, op};
use crate::shard::inbox::{JsKind, JsOp};

/// Rounds in which a transfer makes no progress, at most.
const ROUNDS: usize = 200;
/// How long a restore may be silent, and longer.
const SILENCE_NS: u64 = 7 * SECOND as u64;

/// A backup that a client keeps.
pub(super) struct Backup {
    name: &'static str,
    /// What a restore is asked for with.
    request: String,
    bytes: Vec<u8>,
    model: StreamModel,
}

impl Run {
    /// Takes a backup, or restores the one that was taken. Does nothing if neither is possible.
    pub(super) fn back_up_or_restore(&mut self) {
        match self.backup.take() {
            Some(backup) if !self.streams.contains_key(backup.name) => {
                self.restore(&backup);
                self.backup = Some(backup);
            }
            kept => {
                self.backup = kept;
                self.back_up();
            }
        }
    }

    fn back_up(&mut self) {
        let names: Vec<&'static str> = self.streams.keys().copied().collect();
        let name = names.get(self.rng.below(names.len() as u64) as usize);
        let Some(name) = name.copied() else { return };
        self.world.set_busy(false);
        self.come_to_rest();
        if !self.may_be_backed_up(name) {
            return;
        }
        let model = self.streams[name].clone();
        let is_whole = model.config.retention != Retention::Limits || self.rng.chance(70);
        let Some((request, bytes)) = self.take_backup(name, is_whole) else {
            return;
        };
        self.world
            .tell(format_args!("a backup of {name} has {} bytes", bytes.len()));
        let mut backup = Backup {
            name,
            request,
            bytes,
            model,
        };
        if !is_whole {
            backup.model.consumers.clear();
        }
        self.backup = Some(backup);
        if self.rng.chance(50) && !self.is_troubled() {
            let (op, ask) = self.api(name, &format!("STREAM.DELETE.{name}"), "", Request::DeleteStream);
            self.round(vec![op], vec![ask]);
            self.back_up_or_restore();
        }
    }

    /// Lets the broker do at once what it has to do.
    fn come_to_rest(&mut self) {
        for _ in 0..ROUNDS {
            self.round(Vec::new(), Vec::new());
            if !self.world.is_busy() {
                return;
            }
        }
    }

    /// Whether everything about the stream is known.
    fn may_be_backed_up(&self, name: &str) -> bool {
        let now = self.world.now.mono.0;
        let Some(stream) = self.streams.get(name) else {
            return false;
        };
        let is_known = stream.is_alive
            && !stream.is_in_doubt
            && !stream.is_sick
            && stream.damage == 0
            && stream.doubtful.is_empty()
            && stream.configs_in_doubt.is_empty()
            && stream.consumers_in_doubt.is_empty()
            && stream
                .messages
                .values()
                .all(|message| message.fate != Fate::Unknown);
        let are_known = stream.consumers.values().all(|consumer| consumer.is_known(now));
        is_known && are_known && !self.is_troubled() && !self.world.is_busy()
    }

    /// One round in which answers come to `inbox`; everything else is judged as ever.
    fn transfer_round(&mut self, ops: Vec<JsOp>, inbox: &str) -> Vec<Got> {
        self.expire();
        let got = self.world.round(ops);
        let (own, rest) = got.into_iter().partition(|one| one.to == inbox);
        let rest = self.judge_special(rest);
        self.judge(Vec::new(), rest);
        self.has_failed |= self.world.fs.troubles() > self.troubles;
        own
    }

    /// What a restore is asked for with, and the archive. `None`: the disk has failed.
    fn take_backup(&mut self, name: &'static str, with_consumers: bool) -> Option<(String, Vec<u8>)> {
        let (inbox, to) = (self.inbox(), self.inbox());
        let (chunk, window) = match self.rng.below(3) {
            0 => (0, 0),
            1 => (1024, 1024),
            _ => (1024, 4096),
        };
        let request = json!({"deliver_subject": to, "chunk_size": chunk, "window_size": window, "no_consumers": !with_consumers});
        let subject = format!("$JS.API.STREAM.SNAPSHOT.{name}");
        self.expire();
        let got = self.world.round(vec![op(
            JsKind::Api,
            &subject,
            &inbox,
            b"",
            request.to_string().as_bytes(),
        )]);
        let (mut chunks, rest): (Vec<Got>, Vec<Got>) = got.into_iter().partition(|one| one.to == to);
        let (answer, rest): (Vec<Got>, Vec<Got>) = rest.into_iter().partition(|one| one.to == inbox);
        let rest = self.judge_special(rest);
        self.judge(Vec::new(), rest);
        let answer = answer.first().map(|one| parse(&one.payload));
        let answer = answer.filter(|answer| answer["error"].is_null());
        let Some(answer) = answer else {
            assert!(self.is_troubled(), "no snapshot of {name} is taken");
            return None;
        };
        let kept = json!({"config": answer["config"], "state": answer["state"]}).to_string();
        let mut bytes = Vec::new();
        for _ in 0..ROUNDS {
            let mut acks = Vec::new();
            for chunk in chunks.drain(..) {
                bytes.extend_from_slice(&chunk.payload);
                if !chunk.reply.is_empty() {
                    acks.push(op(JsKind::Transfer, &chunk.reply, "", b"", b""));
                } else if chunk.payload.is_empty() {
                    let is_whole = chunk.headers.is_empty() || chunk.headers.starts_with(b"NATS/1.0 204");
                    assert!(is_whole || self.is_troubled(), "a snapshot of {name}: {chunk:?}");
                    return is_whole.then_some((kept, bytes));
                }
            }
            chunks = self.transfer_round(acks, &to);
        }
        panic!("a snapshot of {name} does not end")
    }

    /// Restores the backup, or breaks that off.
    fn restore(&mut self, backup: &Backup) {
        let name = backup.name;
        let inbox = self.inbox();
        let subject = format!("$JS.API.STREAM.RESTORE.{name}");
        let ask = op(JsKind::Api, &subject, &inbox, b"", backup.request.as_bytes());
        let answer = self.transfer_round(vec![ask], &inbox);
        let answer = answer.first().map_or(Value::Null, |one| parse(&one.payload));
        let Some(to) = answer["deliver_subject"].as_str().map(str::to_owned) else {
            assert!(self.is_troubled(), "{name} is not restored: {answer}");
            self.ends_early = true;
            return;
        };
        let size = 300 + self.rng.below(2000) as usize;
        let breaks_off = self.rng.chance(20);
        for chunk in backup.bytes.chunks(size) {
            if breaks_off && self.rng.chance(40) {
                return self.break_off();
            }
            let answer = self.send_chunk(&to, chunk);
            if !answer
                .as_ref()
                .is_some_and(|one| one.payload.is_empty() && one.headers.is_empty())
            {
                assert!(self.is_troubled(), "{name} is not restored: {answer:?}");
                // It is not complete: a restart removes it.
                self.ends_early = true;
                return;
            }
        }
        if breaks_off {
            return self.break_off();
        }
        self.finish_restore(backup, &to);
    }

    /// The client says nothing any more: the broker waits for a while, or a restart comes before.
    fn break_off(&mut self) {
        self.world.tell(format_args!("the restore is broken off"));
        if self.rng.chance(50) {
            self.ends_early = true;
        } else {
            self.pass(SILENCE_NS);
        }
    }

    fn send_chunk(&mut self, to: &str, chunk: &[u8]) -> Option<Got> {
        let inbox = self.inbox();
        let mut got = self.transfer_round(vec![op(JsKind::Transfer, to, &inbox, b"", chunk)], &inbox);
        for _ in 0..ROUNDS {
            if !got.is_empty() || !self.world.is_busy() {
                break;
            }
            got = self.transfer_round(Vec::new(), &inbox);
        }
        got.pop()
    }

    /// The client has sent everything; the answer says whether the stream is there.
    fn finish_restore(&mut self, backup: &Backup, to: &str) {
        let name = backup.name;
        let inbox = self.inbox();
        let mut ops = vec![op(JsKind::Transfer, to, &inbox, b"", b"")];
        for _ in 0..ROUNDS {
            self.expire();
            let got = self.world.round(std::mem::take(&mut ops));
            self.has_failed |= self.world.fs.troubles() > self.troubles;
            let (own, rest): (Vec<Got>, Vec<Got>) = got.into_iter().partition(|one| one.to == inbox);
            // Nothing but headers says that nobody restores the stream any more.
            let answer = own.first();
            let is_ok = |one: &Got| !one.payload.is_empty() && parse(&one.payload)["error"].is_null();
            let is_restored = answer.is_some_and(is_ok);
            if is_restored {
                self.take_in_restored(backup, &rest);
            }
            let rest = self.judge_special(rest);
            self.judge(Vec::new(), rest);
            if is_restored {
                return self.look_at_restored(name);
            }
            if answer.is_some() || self.is_troubled() {
                assert!(self.is_troubled(), "{name} is not restored: {answer:?}");
                // All of it may be there, or nothing.
                let mut model = restored(&backup.model);
                (model.is_alive, model.is_in_doubt) = (false, true);
                self.streams.insert(name, model);
                self.ends_early = true;
                return;
            }
        }
        panic!("the restore of {name} does not end")
    }

    fn take_in_restored(&mut self, backup: &Backup, got: &[Got]) {
        let delivered: BTreeSet<(String, u64)> = got
            .iter()
            .filter_map(|one| read_tag(&one.reply))
            .map(|(stream, _, tag)| (stream, tag.seq))
            .collect();
        let mut model = restored(&backup.model);
        for consumer in model.consumers.values_mut() {
            consumer.restored(self.world.now);
        }
        model.look(&self.world, &delivered, self.has_jumped, true);
        model.reopened(&self.world, self.has_jumped);
        self.streams.insert(backup.name, model);
    }

    fn look_at_restored(&mut self, name: &'static str) {
        let consumers = self.api(name, &format!("CONSUMER.LIST.{name}"), "", Request::ConsumerList);
        let info = self.api(name, &format!("STREAM.INFO.{name}"), "", Request::StreamInfo);
        let (ops, asks) = [consumers, info].into_iter().unzip();
        self.round(ops, asks);
    }
}

/// What is restored: what was there, and nothing that a crash might have brought back.
fn restored(model: &StreamModel) -> StreamModel {
    let mut model = model.clone();
    model.messages.retain(|_, message| message.fate == Fate::Live);
    model.is_in_doubt = false;
    model
}

fn parse(payload: &[u8]) -> Value {
    serde_json::from_slice(payload).expect("answers are JSON")
}
