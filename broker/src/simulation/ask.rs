//! What clients ask for: making up requests at random.

use serde_json::json;

use super::Run;
use super::config::{AckPolicy, CONSUMERS, ConsumerConfig, KEYS, SECOND, STREAMS, Sharing, StreamConfig};
use super::consumers::Share;
use super::control::Control;
use super::names::Names;
use super::several::Several;
use super::streams::Sent;
use super::verdict::Asked;
use super::world::{local_publish, op};
use crate::api::time::JsonTime;
use crate::env::Rng;
use crate::shard::inbox::{JsKind, JsOp, PubAck, PublishError, Resend};
use crate::types::UnixNanos;

/// Which message a request wants.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    At(u64),
    LastOf(String),
    NextOf(u64, String),
    /// The first one from a time on, of a subject if there is one.
    Since(UnixNanos, String),
}

/// What an acknowledgement says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Ack,
    Term,
    Nak,
    NakDelay(u64),
    Progress,
    Next,
}

/// A request, as far as it must be known to judge the answer.
#[derive(Debug)]
pub(super) enum Request {
    Publish {
        sent: Sent,
        asked: Asked,
        local: Option<tokio::sync::oneshot::Receiver<Vec<Result<PubAck, PublishError>>>>,
    },
    CreateStream(StreamConfig),
    UpdateStream(StreamConfig),
    DeleteStream,
    Purge {
        seq: u64,
        keep: u64,
        subject: String,
    },
    DeleteMessage(u64),
    Get {
        wanted: Wanted,
        is_direct: bool,
    },
    Several(Several),
    StreamInfo,
    CreateConsumer(ConsumerConfig),
    DeleteConsumer(&'static str),
    ConsumerInfo(&'static str),
    StreamList,
    ConsumerList,
    Names(Names),
    Control {
        consumer: &'static str,
        control: Control,
    },
    Pull {
        consumer: &'static str,
        batch: u64,
        expires: Option<u64>,
        share: Share,
    },
    Ack {
        consumer: &'static str,
        seq: u64,
        word: Word,
    },
}

/// A request to a stream, with the subject that its answer goes to; empty: none.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) stream: &'static str,
    pub(super) inbox: String,
    pub(super) request: Request,
}

impl Run {
    pub(super) fn inbox(&mut self) -> String {
        self.requests += 1;
        format!("_INBOX.{}", self.requests)
    }

    pub(super) fn mark(&mut self) -> String {
        self.requests += 1;
        format!("mark {}", self.requests)
    }

    pub(super) fn api(
        &mut self,
        stream: &'static str,
        subject: &str,
        payload: &str,
        request: Request,
    ) -> (JsOp, Ask) {
        let inbox = self.inbox();
        let subject = format!("$JS.API.{subject}");
        let op = op(JsKind::Api, &subject, &inbox, b"", payload.as_bytes());
        let ask = Ask {
            stream,
            inbox,
            request,
        };
        (op, ask)
    }

    /// Creating, changing or deleting a stream or consumer. `None`: nothing fits.
    pub(super) fn structure(&mut self) -> Option<(JsOp, Ask)> {
        let slot = self.rng.below(STREAMS.len() as u64) as usize;
        let name = STREAMS[slot].0;
        let Some(stream) = self.streams.get(name).filter(|stream| stream.is_alive) else {
            let mark = self.mark();
            let config = StreamConfig::random(&mut self.rng, slot, mark);
            let (subject, json) = (format!("STREAM.CREATE.{name}"), config.json());
            return Some(self.api(name, &subject, &json, Request::CreateStream(config)));
        };
        let (config, last) = (stream.config.clone(), stream.last);
        let known: Vec<&'static str> = stream.consumers.keys().copied().collect();
        match self.rng.below(20) {
            0 => Some(self.api(name, &format!("STREAM.DELETE.{name}"), "", Request::DeleteStream)),
            1..4 => {
                let mark = self.mark();
                let new = config.changed(&mut self.rng, mark);
                let (subject, json) = (format!("STREAM.UPDATE.{name}"), new.json());
                Some(self.api(name, &subject, &json, Request::UpdateStream(new)))
            }
            4..6 => {
                let consumer = *known.get(self.rng.below(known.len() as u64) as usize)?;
                let subject = format!("CONSUMER.DELETE.{name}.{consumer}");
                Some(self.api(name, &subject, "", Request::DeleteConsumer(consumer)))
            }
            _ => {
                let slot = self.rng.below(CONSUMERS.len() as u64) as usize;
                if known.contains(&CONSUMERS[slot]) {
                    return Some(self.control(name, slot));
                }
                let mark = self.mark();
                let consumer = ConsumerConfig::random(&mut self.rng, slot, &config, last, mark);
                let subject = format!("CONSUMER.CREATE.{name}.{}", consumer.name);
                let json = consumer.json(&config, false);
                Some(self.api(name, &subject, &json, Request::CreateConsumer(consumer)))
            }
        }
    }

    /// Anything that may be asked together with others. `None`: nothing fits.
    pub(super) fn traffic(&mut self) -> Option<(JsOp, Ask)> {
        let alive: Vec<&'static str> = self
            .streams
            .values()
            .filter(|stream| stream.is_alive)
            .map(|stream| stream.config.name)
            .collect();
        let name = *alive.get(self.rng.below(alive.len() as u64) as usize)?;
        match self.rng.below(100) {
            0..40 => self.publish(name),
            40..60 => self.pull(name),
            60..80 => self.acknowledge(name),
            80..84 => Some(self.purge(name)),
            84..88 => {
                let seq = self.some_seq(name);
                let subject = format!("STREAM.MSG.DELETE.{name}");
                let no_erase = self.rng.chance(50);
                let json = format!(r#"{{"seq":{seq},"no_erase":{no_erase}}}"#);
                Some(self.api(name, &subject, &json, Request::DeleteMessage(seq)))
            }
            88..94 => Some(self.get(name)),
            94..96 => Some(self.api(name, &format!("STREAM.INFO.{name}"), "", Request::StreamInfo)),
            96 => Some(self.list(name)),
            97 => {
                let consumer = self.some_consumer(name)?;
                let slot = CONSUMERS.iter().position(|known| *known == consumer)?;
                Some(self.control(name, slot))
            }
            _ => {
                let consumer = self.some_consumer(name)?;
                let subject = format!("CONSUMER.INFO.{name}.{consumer}");
                Some(self.api(name, &subject, "", Request::ConsumerInfo(consumer)))
            }
        }
    }

    fn some_consumer(&mut self, name: &str) -> Option<&'static str> {
        let known: Vec<&'static str> = self.streams.get(name)?.consumers.keys().copied().collect();
        known.get(self.rng.below(known.len() as u64) as usize).copied()
    }

    /// Often a message that is there, sometimes none.
    pub(super) fn some_seq(&mut self, name: &str) -> u64 {
        let stream = &self.streams[name];
        let live: Vec<u64> = stream.live().map(|(seq, _)| seq).collect();
        let beyond = stream.last + 2;
        match live.get(self.rng.below(live.len() as u64) as usize) {
            Some(seq) if self.rng.chance(85) => *seq,
            _ => 1 + self.rng.below(beyond),
        }
    }

    pub(super) fn subject(&mut self, name: &str) -> String {
        let key = KEYS[self.rng.below(KEYS.len() as u64) as usize];
        format!("{}.{key}", self.streams[name].config.tree)
    }

    fn payload(&mut self) -> Vec<u8> {
        self.requests += 1;
        let mut payload = format!("payload {} ", self.requests).into_bytes();
        let len = match self.rng.below(20) {
            0 => 600 + self.rng.below(2500),
            1..5 => self.rng.below(300),
            _ => self.rng.below(40),
        };
        let filler = self.rng.next_u64().to_le_bytes();
        payload.extend(filler.iter().cycle().take(len as usize));
        payload
    }

    fn asked(&mut self, name: &str, subject: &str) -> Asked {
        let mut asked = Asked::default();
        let stream = &self.streams[name];
        let (last, of_subject) = (stream.last, stream.of_subject(subject).last().copied());
        let (allow_ttl, allow_rollup) = (stream.config.allow_ttl, stream.config.allow_rollup);
        let off = u64::from(self.rng.chance(30));
        match self.rng.below(100) {
            0..12 => asked.expected_subject_seq = Some(of_subject.unwrap_or(0) + off),
            12..18 => asked.expected_last_seq = Some(last + off),
            18..20 => {
                let expected = if off == 0 { name } else { "other" };
                asked.expected_stream = Some(expected.to_owned());
            }
            20..28 if allow_rollup || self.rng.chance(10) => {
                asked.rollup = Some(if self.rng.chance(60) { "sub" } else { "all" });
            }
            28..36 if allow_ttl || self.rng.chance(10) => asked.ttl_seconds = Some(1 + self.rng.below(20)),
            _ => {}
        }
        if self.rng.chance(6) {
            let last = self.streams[name].last_id.clone().unwrap_or_default();
            let id = if off == 0 && !last.is_empty() {
                last
            } else {
                format!("id{}", self.rng.below(10))
            };
            asked.expected_last_id = Some(id);
        }
        if self.rng.chance(20) {
            asked.msg_id = Some(format!("id{}", self.rng.below(10)));
        }
        asked
    }

    pub(super) fn publish(&mut self, name: &'static str) -> Option<(JsOp, Ask)> {
        let subject = self.subject(name);
        let stream_id = self.world.stream_of(&subject)?;
        let payload = self.payload();
        if self.rng.chance(15) {
            return Some(self.publish_local(name, stream_id, subject, payload));
        }
        let asked = self.asked(name, &subject);
        let mut block = String::new();
        let mut field = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                block.push_str(&format!("{name}: {value}\r\n"));
            }
        };
        let text = |number: Option<u64>| number.map(|number| number.to_string());
        field("Nats-Msg-Id", asked.msg_id.clone());
        field("Nats-Expected-Stream", asked.expected_stream.clone());
        field("Nats-Expected-Last-Sequence", text(asked.expected_last_seq));
        field(
            "Nats-Expected-Last-Subject-Sequence",
            text(asked.expected_subject_seq),
        );
        field("Nats-Expected-Last-Msg-Id", asked.expected_last_id.clone());
        field("Nats-Rollup", asked.rollup.map(str::to_owned));
        field("Nats-TTL", text(asked.ttl_seconds));
        let headers = match block.as_str() {
            "" if self.rng.chance(90) => Vec::new(),
            block => format!("NATS/1.0\r\n{block}A: b\r\n\r\n").into_bytes(),
        };
        let is_silent = headers.is_empty() && self.rng.chance(10);
        let inbox = if is_silent { String::new() } else { self.inbox() };
        let op = op(JsKind::Publish(stream_id), &subject, &inbox, &headers, &payload);
        let sent = Sent {
            subject,
            headers,
            payload,
        };
        let request = Request::Publish {
            sent,
            asked,
            local: None,
        };
        Some((
            op,
            Ask {
                stream: name,
                inbox,
                request,
            },
        ))
    }

    /// As the MQTT front end does: with a key that tells a repetition.
    fn publish_local(
        &mut self,
        name: &'static str,
        stream: crate::types::StreamId,
        subject: String,
        payload: Vec<u8>,
    ) -> (JsOp, Ask) {
        let mut asked = Asked::default();
        let mut headers = Vec::new();
        if self.rng.chance(80) {
            let key = format!("client {}", self.rng.below(6));
            headers = format!("NATS/1.0\r\nTarn-Resend-Id: {key}\r\n\r\n").into_bytes();
            asked.resend = Some((key, self.rng.chance(40)));
        }
        let resend = asked.resend.clone().map(|(key, is_resend)| Resend {
            key: key.into(),
            is_resend,
        });
        let (op, answer) = local_publish(stream, &subject, &payload, resend);
        let sent = Sent {
            subject,
            headers,
            payload,
        };
        let request = Request::Publish {
            sent,
            asked,
            local: Some(answer),
        };
        let ask = Ask {
            stream: name,
            inbox: String::new(),
            request,
        };
        (op, ask)
    }

    fn purge(&mut self, name: &'static str) -> (JsOp, Ask) {
        let subject = if self.rng.chance(50) {
            self.subject(name)
        } else {
            String::new()
        };
        let (seq, keep) = match self.rng.below(4) {
            0 => (0, 0),
            1 => (self.some_seq(name), 0),
            _ => (0, self.rng.below(5)),
        };
        let json = format!(r#"{{"filter":"{subject}","seq":{seq},"keep":{keep}}}"#);
        let request = Request::Purge { seq, keep, subject };
        self.api(name, &format!("STREAM.PURGE.{name}"), &json, request)
    }

    fn get(&mut self, name: &'static str) -> (JsOp, Ask) {
        let (seq, subject) = (self.some_seq(name), self.subject(name));
        let is_direct = self.streams[name].config.allow_direct && self.rng.chance(70);
        if is_direct && self.rng.chance(40) {
            return self.ask_for_several(name);
        }
        let (json, wanted) = match self.rng.below(4) {
            0 => (format!(r#"{{"seq":{seq}}}"#), Wanted::At(seq)),
            1 => (
                format!(r#"{{"last_by_subj":"{subject}"}}"#),
                Wanted::LastOf(subject),
            ),
            2 => (
                format!(r#"{{"seq":{seq},"next_by_subj":"{subject}"}}"#),
                Wanted::NextOf(seq, subject),
            ),
            _ => {
                let time = self.some_time(name);
                let subject = if self.rng.chance(50) {
                    subject
                } else {
                    String::new()
                };
                let json = json!({"start_time": JsonTime(time), "next_by_subj": subject});
                (json.to_string(), Wanted::Since(time, subject))
            }
        };
        let subject = if is_direct { "DIRECT.GET" } else { "STREAM.MSG.GET" };
        let request = Request::Get { wanted, is_direct };
        self.api(name, &format!("{subject}.{name}"), &json, request)
    }

    fn pull(&mut self, name: &'static str) -> Option<(JsOp, Ask)> {
        let consumer = self.some_consumer(name)?;
        let config = &self.streams[name].consumers[consumer].config;
        if let Some(subject) = config.deliver_subject.clone() {
            let listens = self.world.listens(&subject);
            self.world.listen(&subject, !listens || self.rng.chance(70));
            return None;
        }
        let (sharing, pin) = (config.sharing, self.streams[name].consumers[consumer].pin.clone());
        let batch = 1 + self.rng.below(6);
        let share = self.share(sharing, pin.map(|pin| pin.id));
        let more = share.json();
        let (json, expires) = match self.rng.below(4) {
            0 => (format!(r#"{{"batch":{batch},"no_wait":true{more}}}"#), None),
            1 => {
                let nanos = SECOND as u64 / 2 + self.rng.below(10 * SECOND as u64);
                let json = format!(r#"{{"batch":{batch},"expires":{nanos}{more}}}"#);
                (json, Some(self.world.now.mono.0 + nanos))
            }
            _ if more.is_empty() => (batch.to_string(), None),
            _ => (format!(r#"{{"batch":{batch}{more}}}"#), None),
        };
        let subject = format!("CONSUMER.MSG.NEXT.{name}.{consumer}");
        let request = Request::Pull {
            consumer,
            batch,
            expires,
            share,
        };
        Some(self.api(name, &subject, &json, request))
    }

    /// What a pull request says about other clients; now and then what does not fit.
    fn share(&mut self, sharing: Sharing, pin: Option<String>) -> Share {
        let mut share = Share::of(sharing);
        if sharing != Sharing::Turns && self.rng.chance(5) {
            share.has_group = false;
        }
        match sharing {
            Sharing::Turns => {}
            Sharing::Overflow if self.rng.chance(40) => share.min_pending = 1 + self.rng.below(6),
            Sharing::Overflow if self.rng.chance(40) => share.min_ack_pending = 1 + self.rng.below(3),
            Sharing::Overflow => {}
            Sharing::Prioritized => share.priority = self.rng.below(4),
            Sharing::Pinned if self.rng.chance(50) => share.pin = pin.unwrap_or_default(),
            Sharing::Pinned if self.rng.chance(5) => share.pin = "unknown".to_owned(),
            Sharing::Pinned => {}
        }
        share
    }

    fn acknowledge(&mut self, name: &'static str) -> Option<(JsOp, Ask)> {
        let held: Vec<usize> = (0..self.held.len())
            .filter(|index| self.held[*index].0 == name)
            .collect();
        let index = *held.get(self.rng.below(held.len() as u64) as usize)?;
        let (_, consumer, seq, reply) = if self.rng.chance(90) {
            self.held.swap_remove(index)
        } else {
            self.held[index].clone()
        };
        let stream = &self.streams[name];
        let ack = stream.consumers.get(consumer)?.config.ack;
        let word = match self.rng.below(20) {
            0..12 => Word::Ack,
            12 => Word::Term,
            13..15 => Word::Nak,
            15 => Word::NakDelay(self.rng.below(5 * SECOND as u64)),
            16..18 => Word::Progress,
            _ if ack == AckPolicy::None => Word::Ack,
            _ => Word::Next,
        };
        let payload = match word {
            Word::Ack => "+ACK".to_owned(),
            Word::Term => "+TERM".to_owned(),
            Word::Nak => "-NAK".to_owned(),
            Word::NakDelay(nanos) => format!("-NAK {{\"delay\":{nanos}}}"),
            Word::Progress => "+WPI".to_owned(),
            Word::Next => "+NXT".to_owned(),
        };
        let wants_answer = word == Word::Next || self.rng.chance(50);
        let inbox = if wants_answer { self.inbox() } else { String::new() };
        let op = op(JsKind::Ack, &reply, &inbox, b"", payload.as_bytes());
        let request = Request::Ack { consumer, seq, word };
        let ask = Ask {
            stream: name,
            inbox,
            request,
        };
        Some((op, ask))
    }
}
