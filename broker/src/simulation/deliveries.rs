//! Holding deliveries, acknowledgements and status messages of consumers against what is known.

use super::Run;
use super::ask::Word;
use super::config::Retention;
use super::consumers::{self, read_tag};
use super::world::Got;

impl Run {
    /// An acknowledgement was sent, and `answered` if it was to be.
    pub(super) fn judge_ack(
        &mut self,
        name: &'static str,
        consumer: &'static str,
        seq: u64,
        word: Word,
        inbox: &str,
        answered: bool,
    ) {
        let (now, wall) = (self.world.now.mono.0, self.world.now.wall);
        let (is_troubled, has_jumped) = (self.is_troubled(), self.has_jumped);
        let stream = self.stream(name);
        let retention = stream.config.retention;
        let Some(model) = stream.consumers.get_mut(consumer) else {
            return;
        };
        match word {
            Word::Ack | Word::Term | Word::Next => {
                let done = model.acked(seq, now);
                if answered && word != Word::Next {
                    model.answered(seq);
                    if retention == Retention::WorkQueue && !is_troubled {
                        let keys = model.config.keys.clone();
                        for seq in done {
                            stream.done_with(seq, &keys, wall, has_jumped);
                        }
                    }
                } else if word == Word::Next {
                    model.requests.insert(
                        inbox.to_owned(),
                        consumers::Request {
                            left: 1,
                            expires: None,
                            share: consumers::Share::default(),
                        },
                    );
                }
            }
            Word::Nak => model.postponed(seq, now, now, false),
            Word::NakDelay(nanos) => model.postponed(seq, now, now + nanos, false),
            Word::Progress => {
                let due = now + model.wait_of(seq);
                model.postponed(seq, now, due, true);
            }
        }
        if answered
            && !matches!(word, Word::Ack | Word::Term | Word::Next)
            && !self.stream(name).consumers[consumer].config.in_memory
        {
            let stream = self.stream(name);
            if let Some(model) = stream.consumers.get_mut(consumer) {
                model.make_durable();
            }
        }
    }

    /// A consumer has delivered a message.
    pub(super) fn judge_delivery(&mut self, mut got: Got) {
        let Some((stream, consumer, tag)) = read_tag(&got.reply) else {
            panic!("{} is no acknowledgement", got.reply)
        };
        let now = self.world.now.mono.0;
        let Some(stream) = self.streams.get_mut(stream.as_str()) else {
            panic!("a delivery from a stream that is not there: {got:?}")
        };
        let Some((name, mut model)) = stream.consumers.remove_entry(consumer.as_str()) else {
            panic!("a delivery from a consumer that is not there: {got:?}")
        };
        let pin = consumers::take_pin(&mut got.headers);
        model.check_turn(&got.to, tag, pin, now, &self.ended);
        stream.adopt_delivered(tag.seq, &got, model.config.headers_only);
        model.delivered(stream, &got, tag, now);
        stream.consumers.insert(name, model);
        self.held.push((stream.config.name, name, tag.seq, got.reply));
        if self.held.len() > 64 {
            self.held.remove(0);
        }
    }

    /// Status messages: requests that are over, and flow control.
    pub(super) fn judge_status(&mut self, status: &Got) {
        if status.reply.starts_with("$JS.FC.") {
            self.flow.push(status.reply.clone());
        }
        if status.headers.starts_with(b"NATS/1.0 4") || status.headers.starts_with(b"NATS/1.0 5") {
            self.ended.push(status.to.clone());
        }
    }

    /// Forgets the pull requests that are over.
    pub(super) fn drop_ended(&mut self) {
        for inbox in std::mem::take(&mut self.ended) {
            for stream in self.streams.values_mut() {
                for model in stream.consumers.values_mut() {
                    model.requests.remove(&inbox);
                }
            }
        }
    }
}
