//! Atomic batches: all messages of one are there, one behind the other, or none is.

use std::collections::BTreeMap;

use super::{Feature, Outcome, View, Wish, header, text};
use crate::env::sim::SplitMix;
use crate::simulation::answer::Answer;
use crate::types::UnixNanos;

const NAME: &str = "B";
const GROUP: &str = "X-Group";

struct Batch {
    payloads: Vec<String>,
    is_wrong: bool,
    /// Where its last message is.
    outcome: Outcome,
}

/// Batches, and single messages between them, by number.
#[derive(Default)]
pub(super) struct Batches {
    asked: BTreeMap<u64, Batch>,
}

impl Feature for Batches {
    fn streams(&self) -> Vec<(&'static str, String)> {
        let config = serde_json::json!({"name": NAME, "subjects": ["b.*"], "allow_atomic": true});
        vec![(NAME, config.to_string())]
    }

    fn wishes(&mut self, rng: &mut SplitMix, _now: UnixNanos) -> Vec<Wish> {
        let token = self.asked.len() as u64 + 1;
        let is_single = rng.chance(25);
        let count = match rng.below(8) {
            _ if is_single => 1,
            // As much as a segment of these small ones takes.
            0 => 10 + rng.below(10),
            _ => 2 + rng.below(6),
        };
        let (is_wrong, is_open) = (!is_single && rng.chance(15), !is_single && rng.chance(15));
        let mut batch = Batch {
            payloads: Vec::new(),
            is_wrong,
            // What is never committed never appears.
            outcome: if is_open {
                Outcome::Refused
            } else {
                Outcome::Unknown
            },
        };
        let mut wishes = Vec::new();
        for number in 1..=count {
            let filler = "x".repeat(rng.below(500) as usize);
            let payload = format!("{token} {number} {filler}");
            batch.payloads.push(payload.clone());
            let mut headers = format!("{GROUP}: {token}\r\n");
            if !is_single {
                headers.push_str(&format!(
                    "Nats-Batch-Id: {token}\r\nNats-Batch-Sequence: {number}\r\n"
                ));
            }
            let is_last = number == count;
            if is_last && !is_single && !is_open {
                headers.push_str("Nats-Batch-Commit: 1\r\n");
            }
            if is_last && is_wrong {
                headers.push_str("Nats-Expected-Last-Subject-Sequence: 999999\r\n");
            }
            wishes.push(Wish {
                subject: format!("b.{}", rng.below(3)),
                headers,
                payload,
                token: if is_last && !is_open { token } else { 0 },
            });
        }
        self.asked.insert(token, batch);
        wishes
    }

    fn answered(&mut self, token: u64, answer: &Answer) {
        let batch = self.asked.get_mut(&token).expect("it was asked");
        batch.outcome = Outcome::of(answer, batch.is_wrong, "a batch");
        if let (Outcome::Stored(seq), Answer::Value(ack)) = (batch.outcome, answer) {
            assert!(
                !batch.is_wrong,
                "batch {token} is stored at {seq}, in spite of its condition"
            );
            let count = ack["count"].as_u64().unwrap_or(1);
            assert_eq!(count, batch.payloads.len() as u64, "batch {token}: {ack}");
        }
    }

    fn look(&mut self, view: &View<'_>) {
        if !view.has(NAME) {
            return;
        }
        let mut found: BTreeMap<u64, Vec<(u64, String)>> = BTreeMap::new();
        for record in view.records(NAME) {
            let token = header(&record, GROUP)
                .and_then(|token| token.parse().ok())
                .unwrap_or(0);
            let parts = found.entry(token).or_default();
            parts.push((record.seq.0, text(&record)));
        }
        for (token, parts) in &found {
            let Some(batch) = self.asked.get_mut(token) else {
                panic!("batch {token} came from nowhere")
            };
            assert!(
                batch.outcome != Outcome::Refused,
                "batch {token} was refused: {parts:?}"
            );
            let texts: Vec<&String> = parts.iter().map(|(_, text)| text).collect();
            assert_eq!(texts, batch.payloads.iter().collect::<Vec<_>>(), "batch {token}");
            let last = parts.last().map_or(0, |(seq, _)| *seq);
            let is_together = parts
                .iter()
                .rev()
                .zip(0..)
                .all(|((seq, _), back)| *seq == last - back);
            assert!(is_together, "batch {token} has gaps");
            if let Outcome::Stored(seq) = batch.outcome {
                assert_eq!(seq, last, "batch {token} has moved");
            }
            batch.outcome = Outcome::Stored(last);
        }
        for (token, batch) in &self.asked {
            let is_missing = matches!(batch.outcome, Outcome::Stored(_)) && !found.contains_key(token);
            assert!(!is_missing, "batch {token} is lost");
        }
    }
}
