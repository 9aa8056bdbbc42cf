//! Delete markers: when the last message of a subject grows too old, a marker says so for a while.

use std::collections::BTreeMap;

use super::{Feature, Outcome, View, Wish, header, text};
use crate::env::sim::SplitMix;
use crate::simulation::answer::Answer;
use crate::simulation::config::SECOND;
use crate::types::UnixNanos;

const NAME: &str = "D";
const MAX_AGE: i64 = 5 * SECOND;
const MARKER_TTL: i64 = 4 * SECOND;
/// The broker looks for old messages a few times a second; a commit may take its time.
const SLACK: i64 = 2 * SECOND;

struct Sent {
    subject: String,
    time: UnixNanos,
    outcome: Outcome,
}

#[derive(Default)]
pub(super) struct Markers {
    asked: BTreeMap<u64, Sent>,
}

impl Feature for Markers {
    fn streams(&self) -> Vec<(&'static str, String)> {
        let config = serde_json::json!({
            "name": NAME, "subjects": ["d.*"], "max_age": MAX_AGE, "subject_delete_marker_ttl": MARKER_TTL,
        });
        vec![(NAME, config.to_string())]
    }

    fn wishes(&mut self, rng: &mut SplitMix, now: UnixNanos) -> Vec<Wish> {
        let token = self.asked.len() as u64 + 1;
        let subject = format!("d.{}", rng.below(6));
        let sent = Sent {
            subject: subject.clone(),
            time: now,
            outcome: Outcome::Unknown,
        };
        self.asked.insert(token, sent);
        vec![Wish {
            subject,
            headers: String::new(),
            payload: format!("message {token}"),
            token,
        }]
    }

    fn answered(&mut self, token: u64, answer: &Answer) {
        let sent = self.asked.get_mut(&token).expect("it was asked");
        sent.outcome = Outcome::of(answer, false, "a message with a marker");
    }

    fn look(&mut self, view: &View<'_>) {
        if !view.has(NAME) {
            return;
        }
        let mut there: BTreeMap<u64, bool> = BTreeMap::new();
        let mut newest: BTreeMap<String, u64> = BTreeMap::new();
        for record in view.records(NAME) {
            newest.insert(record.subject.to_string(), record.seq.0);
            let is_marker = header(&record, "Nats-Marker-Reason").as_deref() == Some("MaxAge");
            there.insert(record.seq.0, is_marker);
            if is_marker {
                assert!(record.payload.is_empty(), "{record:?}");
                continue;
            }
            let text = text(&record);
            let token = text.strip_prefix("message ").and_then(|token| token.parse().ok());
            let Some(sent) = self.asked.get_mut(&token.unwrap_or(0)) else {
                panic!("came from nowhere: {record:?}")
            };
            match sent.outcome {
                Outcome::Stored(seq) => assert_eq!(seq, record.seq.0, "{text} has moved"),
                Outcome::Unknown => sent.outcome = Outcome::Stored(record.seq.0),
                Outcome::Refused => panic!("{text} was refused"),
            }
        }
        if view.is_end {
            return assert!(there.is_empty(), "old messages or markers stay: {there:?}");
        }
        if view.has_jumped {
            return;
        }
        for (token, sent) in &self.asked {
            let Outcome::Stored(seq) = sent.outcome else {
                continue;
            };
            let age = view.wall.since(sent.time);
            let is_there = there.contains_key(&seq);
            assert!(is_there || age >= MAX_AGE, "message {token} at {seq} is lost");
            let is_marked = newest.get(&sent.subject).is_some_and(|newest| *newest > seq);
            let needs_marker = !is_there && age < MAX_AGE + MARKER_TTL - SLACK && !view.was_troubled;
            assert!(
                is_marked || !needs_marker,
                "message {token} at {seq} left no marker"
            );
        }
    }
}
