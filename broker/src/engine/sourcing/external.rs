//! Copying streams of other accounts: the server asks their JetStream API for a consumer, as a client would, and stores what
//! that sends. Where to go on is read from what is stored, so that each message is copied exactly once.
//! Source: nats-server, `setupMirrorConsumer`, `trySetupSourceConsumer`, `processInboundMirrorMsg`, `processInboundSourceMsg`.

use bytes::Bytes;

use super::link::{Created, Heartbeat, Link, Sent, State, consumer_of, set_start};
use super::position::known_position;
use super::{Origin, Origins, RETRY_NS};
use crate::api::error::ApiError;
use crate::engine::effect::{Effect, Outgoing};
use crate::engine::publish::store_error;
use crate::engine::time::Now;
use crate::engine::{Engine, Timer};
use crate::env::Fs;
use crate::shard::inbox::JsOp;
use crate::store::{Record, Store};
use crate::stream::headers::{self, STREAM_IDENTITY};
use crate::stream::source::{StreamSource, short_hash};
use crate::subject;
use crate::types::{StreamId, StreamSeq};

/// The beginning of a status message's headers.
const STATUS: &[u8] = b"NATS/1.0 100 ";

/// A copy: its stream, and whether that is a mirror.
#[derive(Clone, Copy)]
pub(super) struct Copy {
    pub(super) id: StreamId,
    pub(super) is_mirror: bool,
}

impl Engine {
    /// Does what is due for an origin in another account.
    pub(super) fn tend_link<F: Fs>(
        &mut self,
        now: Now,
        copy: Copy,
        origin: &mut Origin,
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) {
        if origin.next_seq == 0 && !load_position(copy, origin, store) {
            let due = now.mono.after(RETRY_NS);
            self.timers.insert((due, Timer::Copy(copy.id)));
            return;
        }
        let Some(link) = &mut origin.link else { return };
        if link.deadline() <= now.mono {
            match &link.state {
                State::Waiting { .. } => self.ask_for_consumer(now, copy, origin, effects),
                State::Asked { .. } => link.fail(now.mono),
                State::Copying { .. } => link.restart(),
            }
        }
        self.settle_link(copy, origin, effects);
    }

    /// Stops listening to what no longer counts, and sets the timer.
    fn settle_link(&mut self, copy: Copy, origin: &mut Origin, effects: &mut Vec<Effect>) {
        let Some(link) = &mut origin.link else { return };
        self.unlisten(link, effects);
        self.timers.insert((link.deadline(), Timer::Copy(copy.id)));
    }

    /// Stops listening to what no longer counts.
    fn unlisten(&mut self, link: &mut Link, effects: &mut Vec<Effect>) {
        for hearing in link.take_stale() {
            self.hearings.remove(&hearing);
            effects.push(Effect::Unlisten { hearing });
        }
    }

    /// Listens to `subject` for a copy.
    fn listen(&mut self, id: StreamId, subject: &str, effects: &mut Vec<Effect>) -> u64 {
        self.last_hearing += 1;
        self.hearings.insert(self.last_hearing, id);
        effects.push(Effect::Listen {
            hearing: self.last_hearing,
            subject: subject.to_owned(),
        });
        self.last_hearing
    }

    fn ask_for_consumer(&mut self, now: Now, copy: Copy, origin: &mut Origin, effects: &mut Vec<Effect>) {
        let (random, inbox) = (self.random_name(), format!("$JSC.R.{}", self.random_name()));
        let Some((source, consumer)) = self.source_of(copy, origin) else {
            return;
        };
        let Some(link) = &origin.link else { return };
        let deliver_subject = link.deliver_subject(copy.is_mirror, &random);
        let (request, payload) = match &link.given {
            Some(given) => (
                format!("CONSUMER.RESET.{}.{}", origin.name, given.name),
                Bytes::new(),
            ),
            None => {
                let account = self.options.accounts.name(self.account).unwrap_or_default();
                let stream = self.streams.get(&copy.id).map(|stream| stream.name.clone());
                let stream = stream.unwrap_or_default();
                let about = (&*stream, &*account, self.options.domain.as_deref());
                let mut config =
                    consumer_of(&source, copy.is_mirror, consumer, deliver_subject.clone(), about);
                let next_seq = if link.is_renewed { 0 } else { origin.next_seq };
                set_start(&mut config, &source, next_seq);
                let request = match config.filter_subject.as_str() {
                    "" => format!("CONSUMER.CREATE.{}", origin.name),
                    filter => format!("CONSUMER.CREATE.{}.{}.{filter}", origin.name, config.name),
                };
                let payload = serde_json::json!({ "stream_name": origin.name, "config": config });
                (request, Bytes::from(payload.to_string()))
            }
        };
        let to = link.api_subject(&request);
        let level = if copy.is_mirror { "4" } else { "5" };
        let mut block = headers::with_field(&[], "Nats-Required-Api-Level", level);
        if !copy.is_mirror {
            block = headers::with_field(&block, STREAM_IDENTITY, &origin.identity);
        }
        let hearing = self.listen(copy.id, &inbox, effects);
        // The filter is part of the subject, with its wildcards.
        if subject::is_valid_filter(&to) {
            effects.push(Effect::Ask {
                message: Outgoing {
                    to: to.into(),
                    headers: block.into(),
                    payload,
                },
                reply: Some(inbox.into()),
                after: None,
            });
        }
        if let Some(link) = &mut origin.link {
            link.ask(now.mono, hearing, deliver_subject);
        }
    }

    /// The configuration of an origin, and the name of the consumer for it: always the same.
    /// Source: nats-server, `createSourcingConsumerHash`.
    fn source_of(&self, copy: Copy, origin: &Origin) -> Option<(StreamSource, String)> {
        let stream = self.streams.get(&copy.id)?;
        let sources = stream.config.mirror.iter().chain(&stream.config.sources);
        let source = sources
            .clone()
            .find(|source| source.index_name() == origin.index_name)?;
        let account = self.options.accounts.name(stream.account).unwrap_or_default();
        let mut id = format!("{} {account}", stream.name);
        if let Some(domain) = &self.options.domain {
            id = format!("{id} {domain}");
        }
        if copy.is_mirror {
            return Some((source.clone(), format!("JS_MIRROR_{}", short_hash(&id))));
        }
        id = short_hash(&id);
        if sources.filter(|other| other.name == source.name).count() > 1 {
            id = short_hash(&format!("{id} {}", origin.index_name));
        }
        Some((source.clone(), format!("JS_SRC_{id}")))
    }

    /// Something came in where a copy listens.
    pub(in crate::engine) fn heard<F: Fs>(
        &mut self,
        now: Now,
        hearing: u64,
        op: &JsOp,
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(&id) = self.hearings.get(&hearing) else {
            return;
        };
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let mut origins = std::mem::take(&mut stream.origins);
        let copy = Copy {
            id,
            is_mirror: origins.is_mirror,
        };
        let hears = |origin: &&mut Origin| origin.link.as_ref().is_some_and(|link| link.hears(hearing));
        if let Some(origin) = origins.list.iter_mut().find(hears) {
            match origin.link.as_mut().map(|link| &link.state) {
                Some(State::Asked { .. }) => self.answered(now, copy, origin, op, store, effects),
                Some(State::Copying { .. }) => self.received(now, copy, origin, op, store, effects),
                _ => {}
            }
            self.settle_link(copy, origin, effects);
        }
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.origins = origins;
        }
    }

    /// The answer to a request for a consumer.
    fn answered<F: Fs>(
        &mut self,
        now: Now,
        copy: Copy,
        origin: &mut Origin,
        op: &JsOp,
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) {
        let Ok(created) = serde_json::from_slice::<Created>(&op.payload) else {
            return;
        };
        let Some(link) = &mut origin.link else { return };
        let State::Asked { deliver_subject, .. } = &link.state else {
            return;
        };
        let mut subject = deliver_subject.clone();
        let identity = headers::field(&op.headers, STREAM_IDENTITY).unwrap_or_default();
        let is_other = |known: &str| !identity.is_empty() && !known.is_empty() && known != identity;
        match created.error {
            Some(error) if error.err_code == ApiError::IDENTITY_MISMATCH => {
                (link.is_renewed, origin.next_seq) = (true, 1);
                origin.identity.clear();
                return link.restart();
            }
            Some(error) => {
                origin.error = Some(ApiError::foreign(error.code, error.err_code, error.description));
                return link.fail(now.mono);
            }
            None => {}
        }
        let Some(config) = created.config else {
            origin.error = Some(ApiError::consumer_setup(
                copy.is_mirror,
                "invalid consumer create response",
            ));
            return link.fail(now.mono);
        };
        if link.given.is_some() && config.ack_policy != "flow_control" {
            origin.error = Some(if copy.is_mirror {
                ApiError::MIRROR_CONSUMER_REQUIRES_FC
            } else {
                ApiError::SOURCE_CONSUMER_REQUIRES_FC
            });
            return link.fail(now.mono);
        }
        if link.given.is_none() && !config.deliver_subject.is_empty() {
            subject = config.deliver_subject;
        }
        if is_other(&origin.identity) {
            origin.next_seq = 1;
        }
        if !copy.is_mirror {
            identity.clone_into(&mut origin.identity);
        }
        if copy.is_mirror
            && let Err(err) = store.raise_last_seq(copy.id, StreamSeq(created.delivered.stream_seq))
        {
            origin.error = Some(store_error(&err));
            return link.fail(now.mono);
        }
        origin.next_seq = origin.next_seq.max(created.delivered.stream_seq + 1);
        origin.error = None;
        let hearing = self.listen(copy.id, &subject, effects);
        if let Some(link) = &mut origin.link {
            link.begin(now.mono, hearing, created.name);
        }
    }

    /// Something that the consumer sent.
    fn received<F: Fs>(
        &mut self,
        now: Now,
        copy: Copy,
        origin: &mut Origin,
        op: &JsOp,
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(link) = &mut origin.link else { return };
        link.note_heard(now.mono);
        let State::Copying {
            consumer, delivered, ..
        } = &mut link.state
        else {
            return;
        };
        let reply = op.reply.subject_str().unwrap_or_default();
        if op.payload.is_empty() && op.headers.starts_with(STATUS) {
            if !reply.is_empty() {
                let got = (*delivered, origin.next_seq.saturating_sub(1));
                effects.push(flow_answer(reply, Some(got), copy, store));
                return;
            }
            match link.heartbeat(&op.headers) {
                Heartbeat::Lost => link.restart(),
                Heartbeat::Stalled(request) => {
                    if link.is_stalled() {
                        origin.error = Some(ApiError::SOURCE_STALLED);
                    }
                    effects.push(flow_answer(&request, None, copy, store));
                }
                Heartbeat::Well => clear_stalled(origin),
            }
            return;
        }
        let Some(sent) = Sent::parse(reply).filter(|sent| sent.consumer == consumer) else {
            return;
        };
        if sent.deliveries > 1 {
            return;
        }
        if sent.seq.0 < origin.next_seq {
            *delivered += u64::from(sent.consumer_seq == *delivered + 1);
            return;
        }
        if sent.consumer_seq != *delivered + 1 {
            if sent.consumer_seq > *delivered {
                link.restart();
            }
            return;
        }
        *delivered += 1;
        link.is_flowing();
        clear_stalled(origin);
        self.store_received(now, copy, origin, &sent, op, store, effects);
    }

    #[expect(clippy::too_many_arguments, reason = "copying has that many parts")]
    fn store_received<F: Fs>(
        &mut self,
        now: Now,
        copy: Copy,
        origin: &mut Origin,
        sent: &Sent<'_>,
        op: &JsOp,
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) {
        let record = Record {
            seq: sent.seq,
            time: sent.time,
            subject: op.subject_str().into(),
            headers: op.headers.clone(),
            payload: op.payload.clone(),
        };
        match self.copy_record(now, copy.id, origin, &record, copy.is_mirror, store, effects) {
            Ok(()) => {
                origin.next_seq = sent.seq.0 + 1;
                origin.copied_seq = sent.seq.0;
                origin.lag = sent.pending.saturating_sub(1);
                self.sources_dirty.insert(copy.id);
                self.arm_persist(now.mono);
            }
            Err(error) => {
                tracing::debug!(origin = %origin.name, error = %error.description, "a message was not copied");
                origin.error = Some(error);
                if let Some(link) = &mut origin.link {
                    link.restart();
                }
            }
        }
    }

    /// Origins that are no longer copied: nothing is listened to, and their consumers are deleted.
    pub(in crate::engine) fn end_links(&mut self, origins: &mut Origins, effects: &mut Vec<Effect>) {
        for mut origin in origins.ended.drain(..) {
            let Some(link) = &mut origin.link else { continue };
            if let State::Copying { consumer, .. } = &link.state
                && link.given.is_none()
            {
                let to = link.api_subject(&format!("CONSUMER.DELETE.{}.{consumer}", origin.name));
                effects.push(Effect::Ask {
                    message: Outgoing {
                        to: to.into(),
                        ..Outgoing::default()
                    },
                    reply: None,
                    after: None,
                });
            }
            link.end();
            self.unlisten(link, effects);
        }
    }
}

/// Reads how far an origin was copied before the start. Returns whether that is known.
fn load_position<F: Fs>(copy: Copy, origin: &mut Origin, store: &Store<F>) -> bool {
    let known = if copy.is_mirror {
        Ok(Some((store.state(copy.id).last_seq.0 + 1, String::new())))
    } else {
        known_position(copy.id, &origin.index_name, store)
    };
    match known {
        Ok(known) => {
            (origin.next_seq, origin.identity) = known.unwrap_or((1, String::new()));
            origin.is_unknown = false;
        }
        Err(err) => {
            origin.is_unknown = true;
            origin.error = Some(store_error(&err));
        }
    }
    !origin.is_unknown
}

/// The answer to a flow-control request. It says what has come where that is an acknowledgement, so what it is about must be
/// stored; who hears nothing asks again.
fn flow_answer<F: Fs>(to: &str, got: Option<(u64, u64)>, copy: Copy, store: &Store<F>) -> Effect {
    let block = got.map_or_else(String::new, |(consumer_seq, seq)| {
        format!("NATS/1.0\r\nNats-Last-Consumer: {consumer_seq}\r\nNats-Last-Stream: {seq}\r\n\r\n")
    });
    Effect::Ask {
        message: Outgoing {
            to: to.to_owned().into(),
            headers: block.into(),
            payload: Bytes::new(),
        },
        reply: None,
        after: got.map(|_| (copy.id, store.state(copy.id).last_seq)),
    }
}

fn clear_stalled(origin: &mut Origin) {
    if origin.error.as_ref() == Some(&ApiError::SOURCE_STALLED) {
        origin.error = None;
    }
}
