//! Streams with a feature of their own, beside the plain ones: counters, atomic batches, schedules, delete markers,
//! mirrors and sources. Each feature knows what it asked for and holds the records that are there against that: after
//! each start, and once more at the end, when everything that must happen has had its time.

mod batches;
mod copies;
mod counters;
mod markers;
mod schedules;

use std::collections::BTreeMap;

use super::Run;
use super::answer::Answer;
use super::config::SECOND;
use super::world::{Got, World, op};
use crate::env::sim::SplitMix;
use crate::shard::inbox::{JsKind, JsOp};
use crate::store::Record;
use crate::types::UnixNanos;

/// Time in which everything that is due happens at the end.
const END_NS: u64 = 35 * SECOND as u64;
/// The same where the wall clock was set: schedules look at it once a minute.
const END_AFTER_JUMPS_NS: u64 = 130 * SECOND as u64;

/// A message to be published.
struct Wish {
    subject: String,
    /// Header lines, each with its end.
    headers: String,
    payload: String,
    /// What the answer is told under.
    token: u64,
}

/// What a feature's check may look at.
struct View<'a> {
    world: &'a World,
    wall: UnixNanos,
    has_jumped: bool,
    /// In some life the disk has failed or was full.
    was_troubled: bool,
    /// Everything that must happen has had its time.
    is_end: bool,
}

impl View<'_> {
    /// The records of a stream, in order.
    fn records(&self, stream: &str) -> Vec<Record> {
        let read = |seq| match self.world.record(stream, seq) {
            Ok(Some(record)) => record,
            unreadable => panic!("message {seq} of {stream} cannot be read: {unreadable:?}"),
        };
        self.world.positions(stream).into_iter().map(read).collect()
    }

    fn has(&self, stream: &str) -> bool {
        self.world.stream_names().iter().any(|name| name == stream)
    }
}

/// The value of a header of a stored message.
fn header(record: &Record, name: &str) -> Option<String> {
    let text = std::str::from_utf8(&record.headers).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.strip_prefix(':')?.trim().to_owned())
}

fn text(record: &Record) -> String {
    String::from_utf8_lossy(&record.payload).into_owned()
}

/// What became of something that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Acknowledged at this position, or found there after a restart.
    Stored(u64),
    /// It may be there or not.
    Unknown,
    /// It never appears.
    Refused,
}

impl Outcome {
    /// What an answer says. `may_be_refused`: there is a reason of JetStream's own.
    fn of(answer: &Answer, may_be_refused: bool, what: &str) -> Self {
        match answer {
            Answer::Value(value) => {
                let seq = value["seq"].as_u64();
                Self::Stored(seq.unwrap_or_else(|| panic!("{what}: {value} has no position")))
            }
            Answer::Refused { is_full: true, .. } => Self::Refused,
            Answer::Refused { is_disk: true, .. } | Answer::Missing => Self::Unknown,
            Answer::Refused { .. } => {
                assert!(may_be_refused, "{what}: {answer:?}");
                Self::Refused
            }
        }
    }
}

/// Streams with one feature.
trait Feature {
    /// Names and configurations, in the order in which they are created.
    fn streams(&self) -> Vec<(&'static str, String)>;
    /// Messages to be published in one round, once all streams are there.
    fn wishes(&mut self, rng: &mut SplitMix, now: UnixNanos) -> Vec<Wish>;
    /// The answer to a message has come, or not. What nobody waits for has token 0 and is not told.
    fn answered(&mut self, token: u64, answer: &Answer);
    /// Holds what is there against what must and may be. Panics if it does not fit.
    fn look(&mut self, view: &View<'_>);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Absent,
    /// A restart may find it.
    InDoubt,
    Alive,
}

enum Open {
    Create(&'static str),
    Publish { feature: usize, token: u64 },
}

/// All streams with features.
pub(super) struct Specials {
    rng: SplitMix,
    features: Vec<Box<dyn Feature>>,
    presence: BTreeMap<&'static str, Presence>,
    open: BTreeMap<String, Open>,
    requests: u64,
    was_troubled: bool,
}

impl Specials {
    /// What a seed has of them: one in four has streams with features.
    pub(super) fn of(seed: u64) -> Option<Self> {
        if seed % 4 != 1 {
            return None;
        }
        let mut rng = SplitMix::new(seed ^ 0x5bec_1a15);
        let all: [Box<dyn Feature>; 5] = [
            Box::new(counters::Counters::new(&mut rng)),
            Box::new(batches::Batches::default()),
            Box::new(schedules::Schedules::default()),
            Box::new(markers::Markers::default()),
            Box::new(copies::Copies::new(&mut rng)),
        ];
        let mut features: Vec<_> = all.into_iter().filter(|_| rng.chance(40)).collect();
        if features.is_empty() {
            features.push(Box::new(copies::Copies::new(&mut rng)));
        }
        let names = features.iter().flat_map(|feature| feature.streams());
        Some(Self {
            rng,
            presence: names.map(|(name, _)| (name, Presence::Absent)).collect(),
            features,
            open: BTreeMap::new(),
            requests: 0,
            was_troubled: false,
        })
    }

    /// Whether a stream is one of them.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.presence.contains_key(name)
    }

    fn inbox(&mut self, open: Open) -> String {
        self.requests += 1;
        let inbox = format!("_INBOX.special.{}", self.requests);
        self.open.insert(inbox.clone(), open);
        inbox
    }

    /// The requests of one round.
    fn ops(&mut self, world: &World) -> Vec<JsOp> {
        let index = self.rng.below(self.features.len() as u64) as usize;
        let missing = self.features[index]
            .streams()
            .into_iter()
            .find(|(name, _)| self.presence[name] != Presence::Alive);
        if let Some((name, config)) = missing {
            if self.presence[name] == Presence::InDoubt {
                return Vec::new();
            }
            let inbox = self.inbox(Open::Create(name));
            let subject = format!("$JS.API.STREAM.CREATE.{name}");
            return vec![op(JsKind::Api, &subject, &inbox, b"", config.as_bytes())];
        }
        let wishes = self.features[index].wishes(&mut self.rng, world.now.wall);
        let publish = |wish: Wish| {
            let inbox = self.inbox(Open::Publish {
                feature: index,
                token: wish.token,
            });
            let headers = match wish.headers.as_str() {
                "" => String::new(),
                lines => format!("NATS/1.0\r\n{lines}\r\n"),
            };
            let stream = world.stream_of(&wish.subject).expect("the stream is there");
            let (headers, payload) = (headers.as_bytes(), wish.payload.as_bytes());
            op(JsKind::Publish(stream), &wish.subject, &inbox, headers, payload)
        };
        wishes.into_iter().map(publish).collect()
    }

    fn judge(&mut self, inbox: &str, open: Open, got: Option<&Got>, is_troubled: bool) {
        let answer = match got {
            None => Answer::Missing,
            Some(got) if got.payload.is_empty() => Answer::Value(serde_json::Value::Null),
            Some(got) => Answer::read(&got.payload),
        };
        let blames_disk = matches!(answer, Answer::Missing | Answer::Refused { is_disk: true, .. });
        assert!(
            is_troubled || !blames_disk,
            "{inbox}: {answer:?} without any trouble of the disk"
        );
        match open {
            Open::Create(name) => {
                let presence = match &answer {
                    Answer::Value(_) => Presence::Alive,
                    _ if blames_disk => Presence::InDoubt,
                    answer => panic!("{name} is not created: {answer:?}"),
                };
                self.presence.insert(name, presence);
            }
            Open::Publish { token: 0, .. } => {}
            Open::Publish { feature, token } => self.features[feature].answered(token, &answer),
        }
    }
}

impl Run {
    /// Requests to the streams with features, to be asked together with the others of a round.
    pub(super) fn special_ops(&mut self) -> Vec<JsOp> {
        let Some(specials) = &mut self.specials else {
            return Vec::new();
        };
        if specials.rng.chance(50) {
            specials.ops(&self.world)
        } else {
            Vec::new()
        }
    }

    /// Takes the answers to them out of what a round brought.
    pub(super) fn judge_special(&mut self, got: Vec<Got>) -> Vec<Got> {
        let is_troubled = self.is_troubled();
        let Some(specials) = &mut self.specials else {
            return got;
        };
        specials.was_troubled |= is_troubled;
        let (mine, rest): (Vec<_>, Vec<_>) = got
            .into_iter()
            .partition(|one| one.to.starts_with("_INBOX.special."));
        let mut mine: BTreeMap<String, Got> = mine.into_iter().map(|one| (one.to.clone(), one)).collect();
        let mut open: Vec<_> = std::mem::take(&mut specials.open).into_iter().collect();
        // As they were asked: their numbers have different lengths.
        open.sort_by_key(|(inbox, _)| inbox.len());
        for (inbox, open) in open {
            let got = mine.remove(&inbox);
            specials.judge(&inbox, open, got.as_ref(), is_troubled);
        }
        rest
    }

    /// Looks at the streams with features after a start, or at the end.
    pub(super) fn look_special(&mut self, is_end: bool) {
        let is_troubled = self.is_troubled();
        let Some(specials) = &mut self.specials else {
            return;
        };
        specials.open.clear();
        specials.was_troubled |= is_troubled;
        let view = View {
            world: &self.world,
            wall: self.world.now.wall,
            has_jumped: self.has_jumped,
            was_troubled: specials.was_troubled,
            is_end,
        };
        for (name, presence) in &mut specials.presence {
            let is_there = view.has(name);
            assert!(
                is_there || *presence != Presence::Alive,
                "stream {name} has vanished"
            );
            *presence = if is_there {
                Presence::Alive
            } else {
                Presence::Absent
            };
        }
        // What is found while the disk fails is not certain to stay.
        if !is_troubled {
            for feature in &mut specials.features {
                feature.look(&view);
            }
        }
    }

    /// Lets everything happen that is due, also what waits for a wall clock that was set back, and looks.
    pub(super) fn drain_special(&mut self) {
        if self.specials.is_none() {
            return;
        }
        if self.has_jumped {
            for _ in 0..=self.jumps_back {
                self.world.jump(super::life::DAY);
            }
        }
        self.pass(if self.has_jumped {
            END_AFTER_JUMPS_NS
        } else {
            END_NS
        });
        self.look_special(true);
    }
}
