//! Counters: each message holds the sum of all increments of its subject, however often the power fails.

use std::collections::{BTreeMap, BTreeSet};

use super::{Feature, Outcome, View, Wish, header, text};
use crate::env::sim::SplitMix;
use crate::simulation::answer::Answer;
use crate::types::UnixNanos;

const NAME: &str = "C";
const TOKEN: &str = "X-Token";

struct Increment {
    subject: String,
    by: i64,
    outcome: Outcome,
    /// As it was acknowledged or found.
    value: Option<i64>,
}

pub(super) struct Counters {
    max_per_subject: Option<usize>,
    asked: BTreeMap<u64, Increment>,
    /// The value of a subject, unless something without an answer may have changed it.
    values: BTreeMap<String, Option<i64>>,
}

impl Counters {
    pub(super) fn new(rng: &mut SplitMix) -> Self {
        Self {
            max_per_subject: rng.chance(50).then(|| 1 + rng.below(3) as usize),
            asked: BTreeMap::new(),
            values: BTreeMap::new(),
        }
    }
}

impl Feature for Counters {
    fn streams(&self) -> Vec<(&'static str, String)> {
        let max = self.max_per_subject.map_or(-1, |max| max as i64);
        let config = serde_json::json!({
            "name": NAME, "subjects": ["c.*"], "allow_msg_counter": true, "max_msgs_per_subject": max,
        });
        vec![(NAME, config.to_string())]
    }

    fn wishes(&mut self, rng: &mut SplitMix, _now: UnixNanos) -> Vec<Wish> {
        let count = 1 + rng.below(4);
        let wish = |_| {
            let token = self.asked.len() as u64 + 1;
            let subject = format!("c.{}", ["a", "b"][rng.below(2) as usize]);
            let by = rng.below(200) as i64 - 100;
            let increment = Increment {
                subject: subject.clone(),
                by,
                outcome: Outcome::Unknown,
                value: None,
            };
            self.asked.insert(token, increment);
            Wish {
                subject,
                headers: format!("Nats-Incr: {by}\r\n{TOKEN}: {token}\r\n"),
                payload: String::new(),
                token,
            }
        };
        (0..count).map(wish).collect()
    }

    fn answered(&mut self, token: u64, answer: &Answer) {
        let increment = self.asked.get_mut(&token).expect("it was asked");
        increment.outcome = Outcome::of(answer, false, "a counter");
        let known = self.values.entry(increment.subject.clone()).or_insert(Some(0));
        match (increment.outcome, answer) {
            (Outcome::Stored(_), Answer::Value(ack)) => {
                let value = ack["val"].as_str().and_then(|value| value.parse::<i64>().ok());
                let fits = known.is_none_or(|known| value == Some(known + increment.by));
                assert!(fits, "{ack} is not {known:?} and {}", increment.by);
                (increment.value, *known) = (value, value);
            }
            (Outcome::Unknown, _) => *known = None,
            _ => {}
        }
    }

    fn look(&mut self, view: &View<'_>) {
        if !view.has(NAME) {
            return;
        }
        let mut sums: BTreeMap<String, i64> = BTreeMap::new();
        let mut there: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
        for record in view.records(NAME) {
            let token = header(&record, TOKEN)
                .and_then(|token| token.parse().ok())
                .unwrap_or(0);
            let Some(increment) = self.asked.get_mut(&token) else {
                panic!("a counter that nobody sent: {record:?}")
            };
            let json: serde_json::Value = serde_json::from_str(&text(&record)).expect("a counter is JSON");
            let value = json["val"].as_str().and_then(|value| value.parse::<i64>().ok());
            match increment.outcome {
                Outcome::Stored(seq) => assert_eq!(
                    (seq, increment.value),
                    (record.seq.0, value),
                    "counter {token} has changed"
                ),
                Outcome::Unknown => increment.outcome = Outcome::Stored(record.seq.0),
                Outcome::Refused => panic!("counter {token} was refused: {record:?}"),
            }
            increment.value = value;
            let before = match self.max_per_subject {
                None => Some(sums.get(&increment.subject).copied().unwrap_or(0)),
                Some(_) => sums.get(&increment.subject).copied(),
            };
            let fits = before.is_none_or(|before| value == Some(before + increment.by));
            assert!(
                fits,
                "{value:?} follows {before:?} by {}: {record:?}",
                increment.by
            );
            sums.insert(increment.subject.clone(), value.unwrap_or(0));
            there
                .entry(increment.subject.clone())
                .or_default()
                .insert(record.seq.0);
        }
        for (token, increment) in &self.asked {
            let Outcome::Stored(seq) = increment.outcome else {
                continue;
            };
            let own = there.get(&increment.subject);
            let is_there = own.is_some_and(|own| own.contains(&seq));
            let newer = own.map_or(0, |own| own.range(seq..).count());
            let is_replaced = self.max_per_subject.is_some_and(|max| newer >= max);
            assert!(is_there || is_replaced, "counter {token} at {seq} is lost");
        }
        for (subject, value) in &mut self.values {
            *value = Some(sums.get(subject).copied().unwrap_or(0));
        }
    }
}
