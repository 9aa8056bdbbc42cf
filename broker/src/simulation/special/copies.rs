//! A mirror, and a stream with two sources, one of which is a work queue: each message is copied once.

use std::collections::{BTreeMap, BTreeSet};

use super::{Feature, Outcome, View, Wish, text};
use crate::env::sim::SplitMix;
use crate::simulation::answer::Answer;
use crate::types::UnixNanos;

const ORIGIN: &str = "O";
const QUEUE: &str = "W";
const MIRROR: &str = "MO";
const SOURCED: &str = "SO";

struct Sent {
    is_queued: bool,
    outcome: Outcome,
}

pub(super) struct Copies {
    /// Copies are made before their origins, which then come later.
    is_early: bool,
    asked: BTreeMap<u64, Sent>,
}

impl Copies {
    pub(super) fn new(rng: &mut SplitMix) -> Self {
        Self {
            is_early: rng.chance(30),
            asked: BTreeMap::new(),
        }
    }
}

fn read(text: &str) -> u64 {
    let number = text.strip_prefix("copy ").and_then(|text| text.split(' ').next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

impl Feature for Copies {
    fn streams(&self) -> Vec<(&'static str, String)> {
        let mut streams = vec![
            (ORIGIN, serde_json::json!({"name": ORIGIN, "subjects": ["o.*"]})),
            (
                QUEUE,
                serde_json::json!({"name": QUEUE, "subjects": ["w.*"], "retention": "workqueue"}),
            ),
            (
                MIRROR,
                serde_json::json!({"name": MIRROR, "mirror": {"name": ORIGIN}}),
            ),
            (
                SOURCED,
                serde_json::json!({"name": SOURCED, "sources": [{"name": ORIGIN}, {"name": QUEUE}]}),
            ),
        ];
        if self.is_early {
            streams.rotate_left(2);
        }
        let text = |(name, config): (_, serde_json::Value)| (name, config.to_string());
        streams.into_iter().map(text).collect()
    }

    fn wishes(&mut self, rng: &mut SplitMix, _now: UnixNanos) -> Vec<Wish> {
        let count = 1 + rng.below(4);
        let wish = |_| {
            let token = self.asked.len() as u64 + 1;
            let is_queued = rng.chance(50);
            let sent = Sent {
                is_queued,
                outcome: Outcome::Unknown,
            };
            self.asked.insert(token, sent);
            let filler = "y".repeat(rng.below(300) as usize);
            Wish {
                subject: if is_queued { "w.x" } else { "o.x" }.to_owned(),
                headers: String::new(),
                payload: format!("copy {token} {filler}"),
                token,
            }
        };
        (0..count).map(wish).collect()
    }

    fn answered(&mut self, token: u64, answer: &Answer) {
        let sent = self.asked.get_mut(&token).expect("it was asked");
        sent.outcome = Outcome::of(answer, false, "a message to be copied");
    }

    fn look(&mut self, view: &View<'_>) {
        let texts = |stream: &str| -> Vec<(u64, String)> {
            if !view.has(stream) {
                return Vec::new();
            }
            let records = view.records(stream).into_iter();
            records.map(|record| (record.seq.0, text(&record))).collect()
        };
        let (origin, queue, mirror, sourced) = (texts(ORIGIN), texts(QUEUE), texts(MIRROR), texts(SOURCED));
        for (seq, text) in origin.iter().chain(&queue) {
            let Some(sent) = self.asked.get_mut(&read(text)) else {
                panic!("{text} came from nowhere")
            };
            match sent.outcome {
                Outcome::Stored(own) => assert_eq!(own, *seq, "{text} has moved"),
                Outcome::Unknown => sent.outcome = Outcome::Stored(*seq),
                Outcome::Refused => panic!("{text} was refused"),
            }
        }
        let origin: BTreeMap<u64, String> = origin.into_iter().collect();
        for (seq, text) in &mirror {
            assert_eq!(origin.get(seq), Some(text), "the mirror has another {seq}");
        }
        let mut copied = BTreeSet::new();
        let mut last = 0;
        for (seq, text) in &sourced {
            let token = read(text);
            let Some(sent) = self.asked.get(&token) else {
                panic!("{text} came from nowhere")
            };
            assert!(copied.insert(token), "{text} is copied twice, again as {seq}");
            assert!(
                sent.outcome != Outcome::Refused,
                "{text} was refused and is copied"
            );
            if let (false, Outcome::Stored(own)) = (sent.is_queued, sent.outcome) {
                assert_eq!(origin.get(&own), Some(text), "a copy of what is not there");
                assert!(own > last, "{text} is copied out of order");
                last = own;
            }
        }
        let queued: BTreeSet<u64> = queue.iter().map(|(_, text)| read(text)).collect();
        for (token, sent) in &self.asked {
            let Outcome::Stored(seq) = sent.outcome else {
                continue;
            };
            let is_copied = copied.contains(token);
            let is_there = if sent.is_queued {
                queued.contains(token)
            } else {
                origin.contains_key(&seq)
            };
            assert!(
                is_there || (sent.is_queued && is_copied),
                "message {token} at {seq} is lost"
            );
            assert!(
                is_copied || !view.is_end || !view.has(SOURCED),
                "message {token} at {seq} is not copied"
            );
        }
        if view.is_end && view.has(MIRROR) {
            assert_eq!(mirror.len(), origin.len(), "the mirror has {mirror:?}");
        }
        if view.is_end && view.has(SOURCED) {
            assert!(queued.is_empty(), "{queued:?} are copied and stay in the queue");
        }
    }
}
