//! The last life: no faults, and everything that must come out comes out.

use super::Run;
use super::ask::Request;
use super::config::SECOND;
use super::consumers::Share;
use super::world::op;
use crate::shard::inbox::JsKind;

/// Rounds of pulling and waiting.
const ROUNDS: usize = 12;

impl Run {
    /// Pulls and listens until every consumer has delivered all that it must, then writes once to each stream.
    pub(super) fn drain(&mut self) {
        self.world.set_busy(false);
        for name in self.streams.keys().copied().collect::<Vec<_>>() {
            for consumer in self.streams[name].consumers.keys().copied().collect::<Vec<_>>() {
                self.drain_consumer(name, consumer);
            }
        }
        self.write_once();
    }

    fn drain_consumer(&mut self, name: &'static str, consumer: &'static str) {
        self.held.clear();
        self.resume(name, consumer);
        for _ in 0..ROUNDS {
            let owed = self.owed(name, consumer);
            if owed.is_empty() {
                break;
            }
            let Some(model) = self.streams[name].consumers.get(consumer) else {
                break;
            };
            let longest = model.config.waits.iter().copied().max().unwrap_or(0) as u64;
            match model.config.deliver_subject.clone() {
                Some(subject) => self.world.listen(&subject, true),
                None => self.ask_for(name, consumer, owed.len() as u64 + 50),
            }
            self.settle_held();
            self.pass(longest.min(6 * SECOND as u64) + SECOND as u64);
            self.settle_held();
        }
        let owed = self.owed(name, consumer);
        let is_damaged = self.streams[name].damage > 0;
        assert!(
            owed.is_empty() || is_damaged,
            "consumer {consumer} of {name} never delivers {owed:?}: {:?}",
            self.streams[name].consumers.get(consumer)
        );
    }

    fn owed(&self, name: &str, consumer: &str) -> Vec<u64> {
        let stream = &self.streams[name];
        let now = self.world.now.mono.0;
        let Some(model) = stream
            .consumers
            .get(consumer)
            .filter(|model| !model.was_abandoned(now))
        else {
            return Vec::new();
        };
        let must = stream
            .live()
            .filter(|(seq, message)| !message.is_back && model.must_deliver(*seq, &message.sent.subject));
        must.map(|(seq, _)| seq).collect()
    }

    fn ask_for(&mut self, name: &'static str, consumer: &'static str, batch: u64) {
        let subject = format!("CONSUMER.MSG.NEXT.{name}.{consumer}");
        let share = self
            .streams
            .get(name)
            .and_then(|stream| stream.consumers.get(consumer))
            .map(|model| Share::of(model.config.sharing))
            .unwrap_or_default();
        let json = format!(r#"{{"batch":{batch}{}}}"#, share.json());
        let request = Request::Pull {
            consumer,
            batch,
            expires: None,
            share,
        };
        let (op, ask) = self.api(name, &subject, &json, request);
        self.round(vec![op], vec![ask]);
    }

    /// Acknowledges everything that was delivered.
    fn settle_held(&mut self) {
        while !self.held.is_empty() || !self.flow.is_empty() {
            let mut ops = Vec::new();
            let mut asks = Vec::new();
            for (stream, consumer, seq, reply) in std::mem::take(&mut self.held) {
                let inbox = self.inbox();
                ops.push(op(JsKind::Ack, &reply, &inbox, b"", b"+ACK"));
                let request = Request::Ack {
                    consumer,
                    seq,
                    word: super::ask::Word::Ack,
                };
                asks.push(super::ask::Ask {
                    stream,
                    inbox,
                    request,
                });
            }
            for answer in std::mem::take(&mut self.flow) {
                ops.push(op(JsKind::Ack, &answer, "", b"", b""));
            }
            self.round(ops, asks);
        }
    }

    /// Time passes, with a round whenever a timer is due.
    pub(super) fn pass(&mut self, nanos: u64) {
        let end = self.world.now.mono.0 + nanos;
        while self.world.now.mono.0 < end {
            let now = self.world.now.mono.0;
            let due = self.world.next_deadline().unwrap_or(end).clamp(now, end);
            let due = if self.world.is_busy() { now } else { due };
            self.world.advance_to(due + 100_000);
            self.round(Vec::new(), Vec::new());
        }
    }

    /// Every stream takes another message, or refuses it for a reason of its own.
    fn write_once(&mut self) {
        for name in self.streams.keys().copied().collect::<Vec<_>>() {
            let requests: Vec<_> = (0..2).filter_map(|_| self.publish(name)).collect();
            let (ops, asks) = requests.into_iter().unzip();
            self.round(ops, asks);
        }
    }
}
