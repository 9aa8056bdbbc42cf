//! Acknowledgements: `$JS.ACK.>` and what their payloads ask for.

use bytes::Bytes;

use super::effect::{Effect, Outgoing};
use super::time::Now;
use super::{ConsumerId, Engine, push_notices};
use crate::api::time::go_duration_ns;
use crate::consumer::pull::{Notice, Status};
use crate::consumer::{AckVerb, SeqPair};
use crate::env::Fs;
use crate::shard::inbox::{JsOp, ReplyTo};
use crate::store::Store;
use crate::stream::config::{API_LEVEL, Retention};
use crate::stream::headers;
use crate::types::StreamSeq;

/// The parts of an acknowledgement's subject that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct AckSubject<'a> {
    stream: &'a str,
    consumer: &'a str,
    at: SeqPair,
}

impl<'a> AckSubject<'a> {
    /// Reads `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>`
    /// or the same with `<domain>.<account hash>` before and anything after.
    fn parse(subject: &'a str) -> Option<Self> {
        let tokens = subject.strip_prefix("$JS.ACK.")?;
        let token_count = tokens.bytes().filter(|byte| *byte == b'.').count() + 1;
        let mut tokens = tokens.split('.').skip(match token_count {
            7 => 0,
            9.. => 2,
            _ => return None,
        });
        let (stream, consumer) = (tokens.next()?, tokens.next()?);
        let mut number = || tokens.next()?.parse::<u64>().ok();
        number()?;
        let at = SeqPair {
            stream: number()?,
            consumer: number()?,
        };
        Some(Self { stream, consumer, at })
    }
}

/// What an acknowledgement's payload asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Payload<'a> {
    Verb(AckVerb),
    /// Done, and send more.
    Next(&'a [u8]),
    Unknown,
}

impl<'a> Payload<'a> {
    fn parse(payload: &'a [u8]) -> Self {
        match payload {
            b"" | b"+ACK" | b"+OK" => Self::Verb(AckVerb::Ack),
            b"+WPI" => Self::Verb(AckVerb::Progress),
            _ => {
                if let Some(rest) = payload.strip_prefix(b"+NXT") {
                    Self::Next(rest)
                } else if let Some(rest) = payload.strip_prefix(b"-NAK") {
                    Self::Verb(AckVerb::Nak {
                        delay_ns: nak_delay_ns(rest).unwrap_or(0),
                    })
                } else if payload.starts_with(b"+TERM") {
                    Self::Verb(AckVerb::Term)
                } else {
                    Self::Unknown
                }
            }
        }
    }
}

#[derive(serde::Deserialize)]
struct NakOptions {
    delay: i64,
}

/// The delay of a `-NAK`: `{"delay":<nanoseconds>}` or a duration as Go writes it.
fn nak_delay_ns(text: &[u8]) -> Option<i64> {
    let text = text.trim_ascii();
    if text.first() == Some(&b'{') {
        return serde_json::from_slice::<NakOptions>(text)
            .ok()
            .map(|options| options.delay);
    }
    go_duration_ns(std::str::from_utf8(text).ok()?)
}

impl Engine {
    pub(super) fn ack<F: Fs>(
        &mut self,
        now: Now,
        op: &JsOp,
        store: &mut Store<F>,
        effects: &mut Vec<Effect>,
    ) {
        if op.subject.starts_with(b"$JS.FC.") {
            return self.flow_answered(now, op, store);
        }
        let Some(subject) = AckSubject::parse(op.subject_str()) else {
            return;
        };
        let Some(id) = self.find_consumer(subject.stream, subject.consumer) else {
            return;
        };
        let payload = Payload::parse(&op.payload);
        let verb = match payload {
            Payload::Verb(verb) => verb,
            Payload::Next(_) => AckVerb::Ack,
            Payload::Unknown => return,
        };
        let Some(observer) = self.consumers.get_mut(&id) else {
            return;
        };
        let mut done = Vec::new();
        let is_reply_due = observer.consumer.ack(now, verb, subject.at, &mut done);
        if verb == AckVerb::Term
            && let Some(reason) = op.payload.strip_prefix(b"+TERM ")
        {
            observer
                .consumer
                .set_term_reason(String::from_utf8_lossy(reason).trim());
        }
        let (stream, is_stored) = (observer.stream, observer.is_stored);
        if let Payload::Next(request) = payload
            && let ReplyTo::Subject(reply) = &op.reply
        {
            let mut notices = Vec::new();
            observer
                .consumer
                .pull(now.mono, reply.clone(), request, &mut notices);
            push_notices(notices, effects);
        } else if is_reply_due && let ReplyTo::Subject(reply) = &op.reply {
            let message = Outgoing {
                to: reply.clone(),
                ..Outgoing::default()
            };
            effects.push(Effect::Reply {
                message,
                after: is_stored.then_some(stream),
            });
            if is_stored {
                self.urgent.insert(id);
            }
        }
        self.tell_consumer_events(now, id, effects);
        self.note_dirty(now.mono, id);
        self.mark_ready(id);
        self.rearm(now.mono, id);
        if done.is_empty() && is_reply_due && matches!(verb, AckVerb::Ack | AckVerb::Term) {
            done.extend(self.settled_late(id, subject.at.stream, store));
        }
        if !done.is_empty() {
            self.retire(stream, &done, store);
        }
    }

    /// A message that is no longer waited for is done with as well once it is acknowledged: it was delivered as often as it
    /// may be, or a limit had removed it and a crash brought it back.
    fn settled_late<F: Fs>(&self, id: ConsumerId, seq: u64, store: &Store<F>) -> Option<u64> {
        let observer = self.consumers.get(&id)?;
        let stream = self.streams.get(&observer.stream)?;
        if stream.config.retention == Retention::Limits {
            return None;
        }
        let is_done = store.with_subject(observer.stream, StreamSeq(seq), |subject| {
            observer.needs_no_more(seq, subject)
        });
        is_done?.then_some(seq)
    }

    fn flow_answered<F: Fs>(&mut self, now: Now, op: &JsOp, store: &mut Store<F>) {
        let subject = op.subject_str();
        let mut tokens = subject.split('.').skip(2);
        let (Some(stream), Some(consumer)) = (tokens.next(), tokens.next()) else {
            return;
        };
        let Some(id) = self.find_consumer(stream, consumer) else {
            return;
        };
        let Some(observer) = self.consumers.get_mut(&id) else {
            return;
        };
        if !observer.consumer.push_state().flow_answered(subject) {
            return;
        }
        let mut done = Vec::new();
        let got = headers::field(&op.headers, "Nats-Last-Stream").and_then(|seq| seq.parse().ok());
        if let Some(seq) = got {
            observer.consumer.ack_by_flow_control(now, seq, &mut done);
        }
        let stream = observer.stream;
        self.note_dirty(now.mono, id);
        self.mark_ready(id);
        if !done.is_empty() {
            self.retire(stream, &done, store);
        }
    }

    /// `$JS.API.CONSUMER.MSG.NEXT.<stream>.<consumer>`
    pub(super) fn next_messages(
        &mut self,
        now: Now,
        stream: &str,
        consumer: &str,
        op: &JsOp,
        effects: &mut Vec<Effect>,
    ) {
        let ReplyTo::Subject(reply) = &op.reply else {
            return;
        };
        let Some(id) = self.find_consumer(stream, consumer) else {
            let headers = Bytes::from(headers::no_responders(op.subject_str()));
            let message = Outgoing {
                to: reply.clone(),
                headers,
                payload: Bytes::new(),
            };
            effects.push(Effect::Reply { message, after: None });
            return;
        };
        let Some(observer) = self.consumers.get_mut(&id) else {
            return;
        };
        let mut notices = Vec::new();
        if headers::asks_above_level(&op.headers, API_LEVEL) {
            notices.push(Notice {
                reply: reply.clone(),
                status: Status::ApiLevel,
            });
        } else {
            observer
                .consumer
                .pull(now.mono, reply.clone(), &op.payload, &mut notices);
        }
        push_notices(notices, effects);
        self.mark_ready(id);
        self.rearm(now.mono, id);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_forms_of_subjects_are_read() {
        let expected = Some(AckSubject {
            stream: "S",
            consumer: "C",
            at: SeqPair {
                stream: 20,
                consumer: 30,
            },
        });
        assert_eq!(
            AckSubject::parse("$JS.ACK.S.C.1.20.30.1700000000000000000.4"),
            expected
        );
        assert_eq!(
            AckSubject::parse("$JS.ACK._.hash.S.C.1.20.30.1700000000000000000.4"),
            expected
        );
        assert_eq!(
            AckSubject::parse("$JS.ACK._.hash.S.C.1.20.30.1700000000000000000.4.rnd"),
            expected
        );
        assert_eq!(AckSubject::parse("$JS.ACK.S.C.1.20"), None);
        assert_eq!(AckSubject::parse("$JS.ACK.S.C.1.x.30.17.4"), None);
    }

    #[test]
    fn payloads_are_read() {
        let nak = |delay_ns| Payload::Verb(AckVerb::Nak { delay_ns });
        let cases: [(&[u8], Payload<'_>); 11] = [
            (b"", Payload::Verb(AckVerb::Ack)),
            (b"+ACK", Payload::Verb(AckVerb::Ack)),
            (b"+OK", Payload::Verb(AckVerb::Ack)),
            (b"+WPI", Payload::Verb(AckVerb::Progress)),
            (b"+TERM not for us", Payload::Verb(AckVerb::Term)),
            (b"-NAK", nak(0)),
            (b"-NAK {\"delay\": 5000}", nak(5000)),
            (b"-NAK 1m2.5s", nak(62_500_000_000)),
            (b"-NAK nonsense", nak(0)),
            (b"+NXT 5", Payload::Next(b" 5")),
            (b"hello", Payload::Unknown),
        ];
        for (payload, expected) in cases {
            assert_eq!(Payload::parse(payload), expected, "{}", payload.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(subject in "\\$JS\\.ACK\\.[a-z0-9.]{0,40}", payload in proptest::collection::vec(any::<u8>(), 0..20)) {
            AckSubject::parse(&subject);
            Payload::parse(&payload);
            let nak = [b"-NAK ".as_slice(), &payload].concat();
            Payload::parse(&nak);
        }
    }
}
