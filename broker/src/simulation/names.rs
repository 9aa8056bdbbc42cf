//! Names of streams and of consumers, a page at a time, and lists of the streams that take a subject.

use serde_json::{Value, json};

use super::Run;
use super::answer::Answer;
use super::ask::{Ask, Request};
use crate::shard::inbox::JsOp;

/// What is to be named.
#[derive(Clone, Debug)]
pub(super) enum Names {
    /// Streams behind so many, in the order of their names.
    Streams(usize),
    /// Streams that take this subject; in full, or by name alone.
    With(String, bool),
    /// Consumers behind so many.
    Consumers(usize),
}

impl Run {
    pub(super) fn ask_for_names(&mut self, name: &'static str) -> (JsOp, Ask) {
        let offset = self.rng.below(3) as usize;
        let names = match self.rng.below(3) {
            0 => Names::Streams(offset),
            1 => Names::With(self.subject(name), self.rng.chance(50)),
            _ => Names::Consumers(offset),
        };
        let (subject, json) = match &names {
            Names::Streams(0) => ("STREAM.NAMES".to_owned(), String::new()),
            Names::Streams(offset) => ("STREAM.NAMES".to_owned(), json!({"offset": offset}).to_string()),
            Names::With(subject, is_list) => {
                let what = if *is_list { "STREAM.LIST" } else { "STREAM.NAMES" };
                (what.to_owned(), json!({"subject": subject}).to_string())
            }
            Names::Consumers(offset) => (
                format!("CONSUMER.NAMES.{name}"),
                json!({"offset": offset}).to_string(),
            ),
        };
        self.api(name, &subject, &json, Request::Names(names))
    }

    pub(super) fn judge_names(&mut self, name: &'static str, names: &Names, answer: &Answer) {
        let Answer::Value(value) = answer else { return };
        match names {
            Names::Streams(offset) => self.judge_stream_names(*offset, value),
            Names::With(subject, is_list) => {
                let named = if *is_list {
                    listed(value, "streams", "/config/name")
                } else {
                    listed(value, "streams", "")
                };
                assert_eq!(named, [name], "streams that take {subject}: {value}");
            }
            Names::Consumers(offset) => self.judge_consumer_names(name, *offset, value),
        }
    }

    fn judge_stream_names(&self, offset: usize, value: &Value) {
        let named = listed(value, "streams", "");
        let total = value["total"].as_u64().unwrap_or(0) as usize;
        assert_eq!(named.len(), total.saturating_sub(offset), "{value}");
        assert!(named.is_sorted(), "{value}");
        let is_alive = |name: &str| self.streams.get(name).is_some_and(|stream| stream.is_alive);
        let is_special = |name: &str| {
            let specials = self.specials.as_ref();
            specials.is_some_and(|specials| specials.knows(name))
        };
        for name in &named {
            assert!(
                is_alive(name) || is_special(name),
                "{name} was never created: {value}"
            );
        }
        let left_out: Vec<&str> = self
            .streams
            .keys()
            .copied()
            .filter(|name| is_alive(name) && !named.contains(name))
            .collect();
        let is_before = |name: &&str| named.first().is_none_or(|first| name < first);
        assert!(
            left_out.len() <= offset && left_out.iter().all(is_before),
            "streams are left out: {value}"
        );
    }

    fn judge_consumer_names(&mut self, name: &'static str, offset: usize, value: &Value) {
        let named = listed(value, "consumers", "");
        let named: Vec<String> = named.into_iter().map(str::to_owned).collect();
        let total = value["total"].as_u64().unwrap_or(0) as usize;
        assert_eq!(named.len(), total.saturating_sub(offset), "{value}");
        assert!(named.is_sorted(), "{value}");
        let known: Vec<&'static str> = self.stream(name).consumers.keys().copied().collect();
        for one in &named {
            assert!(known.contains(&one.as_str()), "{one} was never created: {value}");
        }
        let missing = known
            .iter()
            .filter(|one| !named.iter().any(|named| named == *one));
        if offset == 0 {
            for one in missing {
                self.gone(name, one);
            }
        } else if total == known.len() {
            let first = named.first().map_or("~", String::as_str);
            assert!(
                missing.copied().all(|one| one < first),
                "consumers are left out: {value}"
            );
        }
    }
}

/// What the entries of an answer are called; `path` leads there within an entry.
fn listed<'a>(value: &'a Value, key: &str, path: &str) -> Vec<&'a str> {
    let entries = value[key].as_array().map(Vec::as_slice).unwrap_or_default();
    let name = |entry: &'a Value| entry.pointer(path).and_then(Value::as_str);
    entries.iter().filter_map(name).collect()
}
