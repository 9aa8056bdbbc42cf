//! Schedules: each fires once, not before its time, and leaves nothing but its message.

use std::collections::BTreeMap;

use super::{Feature, Outcome, View, Wish, text};
use crate::env::sim::SplitMix;
use crate::simulation::answer::Answer;
use crate::simulation::config::SECOND;
use crate::types::UnixNanos;

const NAME: &str = "T";

struct Schedule {
    due: UnixNanos,
    outcome: Outcome,
    has_fired: bool,
}

/// Schedules by number, each with subjects of its own.
#[derive(Default)]
pub(super) struct Schedules {
    asked: BTreeMap<u64, Schedule>,
}

impl Feature for Schedules {
    fn streams(&self) -> Vec<(&'static str, String)> {
        let config =
            serde_json::json!({"name": NAME, "subjects": ["t.*", "at.*"], "allow_msg_schedules": true});
        vec![(NAME, config.to_string())]
    }

    fn wishes(&mut self, rng: &mut SplitMix, now: UnixNanos) -> Vec<Wish> {
        let token = self.asked.len() as u64 + 1;
        let due = now.saturating_add(rng.below(20) as i64 * SECOND);
        let time = jiff::Timestamp::from_nanosecond(i128::from(due.0)).expect("a time of our time");
        let schedule = Schedule {
            due,
            outcome: Outcome::Unknown,
            has_fired: false,
        };
        self.asked.insert(token, schedule);
        vec![Wish {
            subject: format!("at.{token}"),
            headers: format!("Nats-Schedule: @at {time}\r\nNats-Schedule-Target: t.{token}\r\n"),
            payload: format!("schedule {token}"),
            token,
        }]
    }

    fn answered(&mut self, token: u64, answer: &Answer) {
        let schedule = self.asked.get_mut(&token).expect("it was asked");
        schedule.outcome = Outcome::of(answer, false, "a schedule");
    }

    fn look(&mut self, view: &View<'_>) {
        if !view.has(NAME) {
            return;
        }
        let mut waiting = BTreeMap::new();
        let mut fired = BTreeMap::new();
        for record in view.records(NAME) {
            let subject = record.subject.to_string();
            let (kind, number) = subject.split_once('.').expect("both have two tokens");
            let token: u64 = number.parse().unwrap_or(0);
            let Some(schedule) = self.asked.get_mut(&token) else {
                panic!("schedule {token} came from nowhere")
            };
            assert!(
                schedule.outcome != Outcome::Refused,
                "schedule {token} was refused: {record:?}"
            );
            assert_eq!(text(&record), format!("schedule {token}"));
            let place = if kind == "at" { &mut waiting } else { &mut fired };
            let other = place.insert(token, record.seq.0);
            assert_eq!(
                other, None,
                "there are two messages of schedule {token}: {record:?}"
            );
            match schedule.outcome {
                Outcome::Stored(seq) if kind == "at" => assert_eq!(seq, record.seq.0, "schedule {token}"),
                Outcome::Stored(_) => {}
                _ => schedule.outcome = Outcome::Stored(record.seq.0),
            }
            if kind == "t" {
                assert!(
                    record.time >= schedule.due,
                    "schedule {token} fired early: {record:?}"
                );
                schedule.has_fired = true;
            }
        }
        for (token, schedule) in &self.asked {
            if !matches!(schedule.outcome, Outcome::Stored(_)) {
                continue;
            }
            let (waits, has_fired) = (waiting.contains_key(token), fired.contains_key(token));
            assert!(waits || has_fired, "schedule {token} is lost");
            assert!(
                has_fired || !schedule.has_fired,
                "the message of schedule {token} is lost"
            );
            assert!(has_fired || !view.is_end, "schedule {token} has not fired");
            assert!(!waits || !view.is_end, "schedule {token} has fired and stays");
        }
    }
}
