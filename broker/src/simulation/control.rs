//! Changing, pausing and setting back consumers, and lists of streams and consumers.

use serde_json::{Value, json};

use super::Run;
use super::answer::Answer;
use super::ask::{Ask, Request};
use super::config::{CONSUMERS, ConsumerConfig, Retention, SECOND, Sharing};
use super::consumers::Pause;
use crate::api::time::JsonTime;
use crate::shard::inbox::JsOp;
use crate::types::UnixNanos;

/// The longest pause that is asked for.
const PAUSE_NS_MAX: u64 = 6 * SECOND as u64;

/// What is done to a consumer.
#[derive(Clone, Debug)]
pub(super) enum Control {
    Update(ConsumerConfig),
    /// Set back to this position; 0: to what was acknowledged.
    Reset(u64),
    /// Paused until then; `None`: goes on.
    Pause(Option<UnixNanos>),
    /// Another client may be pinned.
    Unpin,
}

impl Run {
    /// A request about a consumer that is known.
    pub(super) fn control(&mut self, name: &'static str, slot: usize) -> (JsOp, Ask) {
        let consumer = CONSUMERS[slot];
        match self.rng.below(10) {
            9 => self.ask_control(name, consumer, "UNPIN", r#"{"group":"g"}"#, Control::Unpin),
            0..5 => self.update_consumer(name, slot),
            5..7 => {
                let known = self.streams[name].confirmed + 1;
                let seq = if self.rng.chance(60) {
                    1 + self.rng.below(known)
                } else {
                    0
                };
                let json = match seq {
                    0 if self.rng.chance(50) => String::new(),
                    seq => json!({"seq": seq}).to_string(),
                };
                self.ask_control(name, consumer, "RESET", &json, Control::Reset(seq))
            }
            _ => {
                let wait = self.rng.below(PAUSE_NS_MAX) as i64;
                let until = self
                    .rng
                    .chance(60)
                    .then(|| self.world.now.wall.saturating_add(wait));
                self.pause_consumer(name, consumer, until)
            }
        }
    }

    fn update_consumer(&mut self, name: &'static str, slot: usize) -> (JsOp, Ask) {
        let mark = self.mark();
        let stream = &self.streams[name];
        let config = stream.config.clone();
        let old = stream.consumers[CONSUMERS[slot]].config.clone();
        let new = old.changed(&mut self.rng, slot, &config, mark);
        // One that may have gone is not to be created by this.
        let json = new.json(&config, !new.is_durable || self.rng.chance(50));
        let subject = format!("CONSUMER.CREATE.{name}.{}", new.name);
        let request = Request::Control {
            consumer: new.name,
            control: Control::Update(new),
        };
        self.api(name, &subject, &json, request)
    }

    pub(super) fn pause_consumer(
        &mut self,
        name: &'static str,
        consumer: &'static str,
        until: Option<UnixNanos>,
    ) -> (JsOp, Ask) {
        let json = until.map_or_else(String::new, |until| {
            json!({"pause_until": JsonTime(until)}).to_string()
        });
        self.ask_control(name, consumer, "PAUSE", &json, Control::Pause(until))
    }

    fn ask_control(
        &mut self,
        name: &'static str,
        consumer: &'static str,
        verb: &str,
        json: &str,
        control: Control,
    ) -> (JsOp, Ask) {
        let request = Request::Control { consumer, control };
        self.api(name, &format!("CONSUMER.{verb}.{name}.{consumer}"), json, request)
    }

    /// Streams, or the consumers of one.
    pub(super) fn list(&mut self, name: &'static str) -> (JsOp, Ask) {
        match self.rng.below(4) {
            0 | 1 => self.ask_for_names(name),
            2 => self.api(name, "STREAM.LIST", "", Request::StreamList),
            _ => self.api(name, &format!("CONSUMER.LIST.{name}"), "", Request::ConsumerList),
        }
    }

    pub(super) fn judge_control(
        &mut self,
        name: &'static str,
        consumer: &'static str,
        control: Control,
        answer: &Answer,
    ) {
        let (now, is_troubled) = (self.world.now, self.is_troubled_for(name));
        let (last, _) = self.world.last_seq(name);
        let there = self.world.positions(name);
        let is_silent = matches!(answer, Answer::Missing);
        if self.consumer(name, consumer).is_none() {
            return;
        }
        // Nobody answers for a consumer that has gone.
        if is_silent && !is_troubled && matches!(control, Control::Reset(_)) {
            return self.gone(name, consumer);
        }
        if is_silent || matches!(answer, Answer::Refused { is_disk: true, .. }) {
            self.excuse(name, &control);
            if let Some(model) = self.consumer(name, consumer) {
                match control {
                    Control::Update(config) => model.configs_in_doubt.push(config),
                    Control::Reset(_) => model.may_be_set_back(),
                    Control::Pause(_) => model.pause = Pause::Unknown,
                    Control::Unpin => model.pin = None,
                }
            }
            return;
        }
        let stream = self.stream(name);
        let mut model = stream.consumers.remove(consumer).expect("a known consumer");
        let is_queue = stream.config.retention == Retention::WorkQueue;
        match (control, answer) {
            (Control::Update(config), Answer::Value(info)) => {
                assert_eq!(info["config"]["description"], config.mark.as_str());
                model.updated(config, last, now);
            }
            (Control::Reset(seq), Answer::Value(value)) => {
                let found = value["reset_seq"].as_u64().unwrap_or(0);
                assert!(
                    model.may_be_reset(seq),
                    "{consumer} of {name} is set back to {seq}"
                );
                assert!(
                    found > 0 && (seq == 0 || seq == found),
                    "{seq} is asked for: {value}"
                );
                if stream.config.retention != Retention::Limits {
                    // What it was done with may have left, and it does not remember that any more.
                    stream.forget(|seq| model.may_be_done(seq));
                }
                model.reset(stream, found, seq > 0, &there);
            }
            (Control::Pause(until), Answer::Value(value)) => {
                let wait = until.map_or(0, |until| until.since(now.wall).max(0));
                assert_eq!(value["paused"], wait > 0, "{value}");
                assert_eq!(value["pause_remaining"].as_i64().unwrap_or(0), wait, "{value}");
                model.pause = until.map_or(Pause::Never, |until| Pause::Until(until, 0));
                model.pause.arm(now);
            }
            (Control::Unpin, Answer::Value(value)) => {
                assert!(
                    model.config.sharing != Sharing::Turns,
                    "nobody is pinned: {value}"
                );
                model.pin = None;
            }
            (control, answer) => {
                let fits = match &control {
                    // Another consumer may have a filter that covers it.
                    Control::Update(_) => is_queue,
                    Control::Reset(seq) => !model.may_be_reset(*seq),
                    Control::Pause(_) => false,
                    Control::Unpin => model.config.sharing != Sharing::Pinned,
                };
                let has_gone = model.was_abandoned(now.mono.0);
                assert!(fits || has_gone, "{consumer} of {name}: {control:?}: {answer:?}");
                if !fits {
                    self.held.retain(|held| held.0 != name || held.1 != consumer);
                    return;
                }
            }
        }
        self.stream(name).consumers.insert(consumer, model);
    }

    /// Tells a consumer that may be paused to go on.
    pub(super) fn resume(&mut self, name: &'static str, consumer: &'static str) {
        let is_paused = self
            .consumer(name, consumer)
            .is_some_and(|model| model.may_be_paused());
        if is_paused {
            let (op, ask) = self.pause_consumer(name, consumer, None);
            self.round(vec![op], vec![ask]);
        }
    }

    pub(super) fn judge_info(&mut self, name: &'static str, consumer: &'static str, info: &Value) {
        let there = self.world.positions(name);
        let stream = self.stream(name);
        if let Some(mut model) = stream.consumers.remove(consumer) {
            assert_eq!(info["config"]["description"], model.config.mark.as_str());
            model.check_info(stream, info, &there, false);
            stream.consumers.insert(model.config.name, model);
        }
    }

    pub(super) fn judge_stream_list(&self, answer: &Answer) {
        let Answer::Value(list) = answer else { return };
        let listed = list["streams"].as_array().cloned().unwrap_or_default();
        for stream in self.streams.values().filter(|stream| stream.is_alive) {
            let own = |one: &&Value| one["config"]["name"] == stream.config.name;
            let found = listed.iter().find(own);
            let mark = found.map(|one| &one["config"]["description"]);
            assert!(
                mark.is_some_and(|mark| *mark == stream.config.mark.as_str()),
                "{}: {mark:?} is listed, not {}",
                stream.config.name,
                stream.config.mark
            );
        }
        let is_known = |one: &Value| {
            let name = one["config"]["name"].as_str().unwrap_or_default();
            let is_special = self
                .specials
                .as_ref()
                .is_some_and(|specials| specials.knows(name));
            is_special || self.streams.get(name).is_some_and(|stream| stream.is_alive)
        };
        assert!(
            listed.iter().all(is_known),
            "a stream that nobody created: {list}"
        );
    }

    pub(super) fn judge_consumer_list(&mut self, name: &'static str, answer: &Answer) {
        let Answer::Value(list) = answer else { return };
        let listed = list["consumers"].as_array().cloned().unwrap_or_default();
        for consumer in self.stream(name).consumers.keys().copied().collect::<Vec<_>>() {
            match listed.iter().find(|info| info["name"] == consumer) {
                Some(info) => self.judge_info(name, consumer, info),
                None => self.gone(name, consumer),
            }
        }
        let stream = self.stream(name);
        let is_known = |info: &Value| {
            info["name"]
                .as_str()
                .is_some_and(|name| stream.consumers.contains_key(name))
        };
        assert!(
            listed.iter().all(is_known),
            "a consumer that nobody created: {list}"
        );
    }
}
