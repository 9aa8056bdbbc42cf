//! Direct requests for several messages: those from a position or a time on, or the last ones of subjects.
//! Source: ADR-31; nats-server, `getDirectRequest`, `getDirectMulti`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::Run;
use super::ask::{Ask, Request};
use super::streams::{Message, StreamModel, header};
use super::world::Got;
use crate::api::time::{self, JsonTime};
use crate::shard::inbox::JsOp;
use crate::types::UnixNanos;

/// A position or a time in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    At(u64),
    Since(UnixNanos),
}

/// Which messages a request wants.
#[derive(Clone, Debug)]
pub(super) struct Several {
    from: Mark,
    /// No more than so many; 0: as many as there are.
    batch: u64,
    /// Ends with the message that reaches so many bytes; 0: never.
    max_bytes: u64,
    which: Which,
}

#[derive(Clone, Debug)]
enum Which {
    /// All of this subject; empty: of all subjects.
    Each(String),
    /// The last one of each of these, at or below the position, or before the time.
    Last(Vec<String>, Option<Mark>),
}

impl Which {
    fn takes(&self, subject: &str) -> bool {
        let matches = |filter: &str| match filter.strip_suffix('*') {
            Some(tree) => subject.starts_with(tree),
            None => filter.is_empty() || filter == subject,
        };
        match self {
            Self::Each(filter) => matches(filter),
            Self::Last(filters, _) => filters.iter().any(|filter| matches(filter)),
        }
    }
}

/// What the answer must be.
struct Expected {
    seqs: Vec<u64>,
    /// Messages that it leaves out behind those.
    left: u64,
    /// What the end says that the last messages were looked for up to.
    up_to: Option<u64>,
}

impl StreamModel {
    /// The first message at or after a time.
    pub(super) fn since(&self, time: UnixNanos) -> Option<u64> {
        let mut live = self.live();
        live.find(|(_, message)| message.time >= time).map(|(seq, _)| seq)
    }

    /// What a request must get, or the status where that is nothing.
    fn several(&self, asked: &Several) -> Result<Expected, &'static str> {
        let own = |(_, message): &(u64, &Message)| asked.which.takes(&message.sent.subject);
        let (mut seqs, up_to): (Vec<u64>, _) = match &asked.which {
            Which::Each(_) => {
                let from = match asked.from {
                    Mark::At(seq) => Some(seq),
                    Mark::Since(time) => self.since(time),
                };
                let found = self.live().filter(own).map(|(seq, _)| seq);
                let found = found.filter(|seq| from.is_some_and(|from| *seq >= from));
                (found.collect(), None)
            }
            Which::Last(_, up_to) => {
                let end = match up_to {
                    None => self.last,
                    Some(Mark::At(seq)) => *seq,
                    Some(Mark::Since(time)) => self.since(*time).map_or(self.last, |seq| seq - 1),
                };
                let below = self.live().filter(own).filter(|(seq, _)| *seq <= end);
                let last: BTreeMap<&str, u64> = below
                    .map(|(seq, message)| (message.sent.subject.as_str(), seq))
                    .collect();
                let last: BTreeSet<u64> = last.into_values().collect();
                (last.into_iter().collect(), Some(end))
            }
        };
        if seqs.is_empty() {
            return Err(match asked.which {
                Which::Each(_) => "NATS/1.0 404 Message Not Found\r\n",
                Which::Last(..) => "NATS/1.0 404 No Results\r\n",
            });
        }
        if let (Which::Last(..), Mark::At(from)) = (&asked.which, asked.from) {
            seqs.retain(|seq| *seq >= from);
        }
        let mut bytes = 0;
        let size = |seq: &u64| {
            let sent = &self.messages[seq].sent;
            (sent.subject.len() + sent.headers.len() + sent.payload.len()) as u64
        };
        let fits = |seq: &u64| {
            let is_first_beyond = asked.max_bytes > 0 && bytes >= asked.max_bytes;
            bytes += size(seq);
            !is_first_beyond
        };
        let all = seqs.len();
        let most = if asked.batch == 0 {
            all
        } else {
            asked.batch as usize
        };
        let seqs: Vec<u64> = seqs.into_iter().take(most).take_while(fits).collect();
        Ok(Expected {
            left: (all - seqs.len()) as u64,
            seqs,
            up_to,
        })
    }
}

impl Run {
    /// A direct request for several messages.
    pub(super) fn ask_for_several(&mut self, name: &'static str) -> (JsOp, Ask) {
        let asked = Several {
            from: Mark::At(1),
            batch: 1 + self.rng.below(6),
            max_bytes: if self.rng.chance(20) {
                1 + self.rng.below(400)
            } else {
                0
            },
            which: Which::Each(String::new()),
        };
        let asked = match self.rng.below(2) {
            0 => Several {
                from: self.some_mark(name),
                which: Which::Each(if self.rng.chance(50) {
                    self.subject(name)
                } else {
                    String::new()
                }),
                ..asked
            },
            _ => {
                let count = self.rng.below(3);
                let mut subjects: Vec<String> = (0..count).map(|_| self.subject(name)).collect();
                if subjects.is_empty() {
                    subjects.push(format!("{}.*", self.streams[name].config.tree));
                }
                let up_to = self.rng.chance(60).then(|| self.some_mark(name));
                Several {
                    from: Mark::At(if self.rng.chance(30) {
                        self.some_seq(name)
                    } else {
                        0
                    }),
                    batch: if self.rng.chance(50) { 0 } else { asked.batch },
                    which: Which::Last(subjects, up_to),
                    ..asked
                }
            }
        };
        let json = json_of(&asked).to_string();
        self.api(
            name,
            &format!("DIRECT.GET.{name}"),
            &json,
            Request::Several(asked),
        )
    }

    fn some_mark(&mut self, name: &str) -> Mark {
        if self.rng.chance(50) {
            return Mark::At(self.some_seq(name));
        }
        Mark::Since(self.some_time(name))
    }

    /// When a message of the stream came, or a moment around that.
    pub(super) fn some_time(&mut self, name: &str) -> UnixNanos {
        let seq = self.some_seq(name);
        let message = self.streams[name].messages.get(&seq);
        let time = message.map_or(self.world.now.wall, |message| message.time);
        time.saturating_add(self.rng.below(3) as i64 - 1)
    }

    /// Whether what the oracle knows of a stream tells what a read must find.
    pub(super) fn knows_what_is_read(&self, name: &str, by_time: bool) -> bool {
        let stream = &self.streams[name];
        // Where the clock was set, the messages are not in the order of their times.
        !stream.is_loose() && stream.damage == 0 && !(by_time && self.has_jumped)
    }

    pub(super) fn judge_several(&mut self, name: &'static str, asked: &Several, got: &[Got]) {
        let Some(end) = got.last() else {
            return self.excuse(name, asked);
        };
        if end.headers.starts_with(b"NATS/1.0 500") {
            return self.excuse(name, asked);
        }
        let by_time = matches!(asked.from, Mark::Since(_))
            || matches!(&asked.which, Which::Last(_, Some(Mark::Since(_))));
        if !self.knows_what_is_read(name, by_time) {
            return;
        }
        let stream = &self.streams[name];
        let what = format!("{asked:?} of {name}");
        let expected = match stream.several(asked) {
            Ok(expected) => expected,
            Err(status) => {
                assert!(end.headers.starts_with(status.as_bytes()), "{what}: {end:?}");
                return;
            }
        };
        let seqs: Vec<u64> = got[..got.len() - 1]
            .iter()
            .map(|one| number(one, "Nats-Sequence"))
            .collect();
        assert_eq!(seqs, expected.seqs, "{what}");
        let mut before = 0;
        for (index, (one, seq)) in got.iter().zip(&seqs).enumerate() {
            let sent = &stream.messages[seq].sent;
            let text = |name: &str| header(&one.headers, name).unwrap_or_default();
            assert_eq!(one.payload, sent.payload, "{seq}: {what}");
            assert_eq!(text("Nats-Subject"), sent.subject, "{seq}: {what}");
            assert_eq!(text("Nats-Stream"), name, "{seq}: {what}");
            let own = sent.headers.strip_suffix(b"\r\n").unwrap_or_default();
            assert!(one.headers.starts_with(own), "headers of {seq}: {what}");
            let time = &stream.messages[seq].time;
            assert!(
                self.has_jumped || text("Nats-Time-Stamp") == time::format(*time),
                "{seq}: {what}"
            );
            let left = (seqs.len() - index - 1) as u64 + expected.left;
            assert_eq!(number(one, "Nats-Num-Pending"), left, "{seq}: {what}");
            assert_eq!(number(one, "Nats-Last-Sequence"), before, "{seq}: {what}");
            before = *seq;
        }
        assert!(
            end.headers.starts_with(b"NATS/1.0 204 EOB\r\n"),
            "{what}: {end:?}"
        );
        let ends = (number(end, "Nats-Num-Pending"), number(end, "Nats-Last-Sequence"));
        assert_eq!(ends, (expected.left, before), "the end: {what}");
        if let Some(up_to) = expected.up_to {
            assert_eq!(number(end, "Nats-UpTo-Sequence"), up_to, "the end: {what}");
        }
    }
}

/// The number in a header.
fn number(got: &Got, name: &str) -> u64 {
    let text = header(&got.headers, name);
    let number = text.and_then(|text| text.parse().ok());
    number.unwrap_or_else(|| panic!("{got:?} has no {name}"))
}

fn json_of(asked: &Several) -> Value {
    let mut json = json!({});
    let mut set = |name: &str, value: Value| json[name] = value;
    match asked.from {
        Mark::At(0) => {}
        Mark::At(seq) => set("seq", seq.into()),
        Mark::Since(time) => set("start_time", json!(JsonTime(time))),
    }
    if asked.batch > 0 {
        set("batch", asked.batch.into());
    }
    if asked.max_bytes > 0 {
        set("max_bytes", asked.max_bytes.into());
    }
    match &asked.which {
        Which::Each(subject) if subject.is_empty() => {}
        Which::Each(subject) => set("next_by_subj", json!(subject)),
        Which::Last(subjects, up_to) => {
            set("multi_last", json!(subjects));
            match up_to {
                None => {}
                Some(Mark::At(seq)) => set("up_to_seq", json!(seq)),
                Some(Mark::Since(time)) => set("up_to_time", json!(JsonTime(*time))),
            }
        }
    }
    json
}
