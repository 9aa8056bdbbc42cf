//! The streams that must exist before traffic is accepted, and which of them the processor reads.
//!
//! A configured stream is made unless streams of the operator's own already capture its subjects; those are
//! used instead. A stream that Tarn made (its metadata says so) follows the configuration; any other is left as it is.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use futures::TryStreamExt;
use tarn_broker::subject;

use crate::config::StreamSettings;
use crate::ingest::{FALLBACK_STREAM, FALLBACK_SUBJECTS};

/// Metadata key of the streams that follow the configuration.
const MANAGED: &str = "tarn.managed";

/// Bounds of [`FALLBACK_STREAM`]: nothing reads it by itself, so it must not grow without end.
const FALLBACK_AGE_MAX: Duration = Duration::from_secs(24 * 3600);
const FALLBACK_BYTES_MAX: i64 = 1 << 30;

/// What is to be done about the streams, and which ones are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be created.
    pub create: Vec<Config>,
    /// To be updated: they follow the configuration and differ from it.
    pub update: Vec<Config>,
    /// The names of the streams that the processor reads, in order and without repetition.
    pub read: Vec<String>,
    /// What the operator should know.
    pub notes: Vec<String>,
}

/// The streams could not be made.
#[derive(Debug, thiserror::Error)]
#[error("{action} failed: {detail}; look at the broker's log above, and at `nats stream ls`")]
pub struct StreamsError {
    action: String,
    detail: String,
}

/// Makes the streams through the JetStream API. Returns the names to read and what the operator should know.
pub(super) async fn ensure(
    jetstream: &Context,
    configured: &[StreamSettings],
    with_mqtt: bool,
) -> Result<Plan, StreamsError> {
    let failed = |action: &str, detail: String| StreamsError {
        action: action.to_owned(),
        detail,
    };
    let existing: Vec<Config> = jetstream
        .streams()
        .map_ok(|info| info.config)
        .try_collect()
        .await
        .map_err(|err| failed("listing the streams", err.to_string()))?;
    let mut plan = plan(configured, &existing);
    if with_mqtt && !existing.iter().any(|stream| stream.name == FALLBACK_STREAM) {
        plan.create.push(fallback());
    }
    for config in &plan.create {
        let done = jetstream.create_stream(config.clone()).await;
        done.map_err(|err| failed(&format!("creating stream {}", config.name), err.to_string()))?;
    }
    for config in &plan.update {
        let done = jetstream.update_stream(config.clone()).await;
        done.map_err(|err| failed(&format!("updating stream {}", config.name), err.to_string()))?;
    }
    Ok(plan)
}

/// Decides, without doing anything. `existing` is what the broker has.
pub fn plan(configured: &[StreamSettings], existing: &[Config]) -> Plan {
    let mut plan = Plan::default();
    let mut read = BTreeSet::new();
    let mut use_stream = |plan: &mut Plan, name: &str| {
        if read.insert(name.to_owned()) {
            plan.read.push(name.to_owned());
        }
    };
    for wanted in configured {
        let same_name = existing.iter().find(|stream| stream.name == wanted.name);
        if let Some(stream) = same_name.filter(|stream| !is_managed(stream)) {
            for missing in uncovered(&wanted.subjects, &[stream]) {
                plan.notes
                    .push(not_covered(&missing, std::slice::from_ref(&stream.name)));
            }
            use_stream(&mut plan, &wanted.name);
            continue;
        }
        let others: Vec<&Config> = existing
            .iter()
            .filter(|stream| stream.name != wanted.name && !is_internal(stream))
            .filter(|stream| overlap_any(&stream.subjects, &wanted.subjects))
            .collect();
        let left: Vec<String> = wanted
            .subjects
            .iter()
            .filter(|mine| !overlap_any_one(&others, mine))
            .cloned()
            .collect();
        for other in &others {
            use_stream(&mut plan, &other.name);
            plan.notes.push(format!(
                "stream {} is used for {}",
                other.name,
                other.subjects.join(", ")
            ));
        }
        let names: Vec<String> = others.iter().map(|other| other.name.clone()).collect();
        let taken: Vec<String> = wanted
            .subjects
            .iter()
            .filter(|mine| !left.contains(mine))
            .cloned()
            .collect();
        for missing in uncovered(&taken, &others) {
            plan.notes.push(not_covered(&missing, &names));
        }
        if left.is_empty() {
            continue;
        }
        let target = config_of(wanted, left);
        match same_name {
            None => plan.create.push(target),
            Some(stream) if differs(stream, &target) => {
                plan.update.push(Config {
                    first_sequence: stream.first_sequence,
                    ..target
                });
            }
            Some(_) => {}
        }
        use_stream(&mut plan, &wanted.name);
    }
    plan
}

fn is_managed(stream: &Config) -> bool {
    stream.metadata.get(MANAGED).is_some_and(|value| value == "true")
}

/// Streams of the server's own, such as those that hold MQTT sessions.
fn is_internal(stream: &Config) -> bool {
    stream.name.starts_with('$')
}

fn overlap_any(theirs: &[String], mine: &[String]) -> bool {
    theirs
        .iter()
        .any(|one| mine.iter().any(|other| subject::overlaps(one, other)))
}

fn overlap_any_one(streams: &[&Config], mine: &str) -> bool {
    streams.iter().any(|stream| {
        stream
            .subjects
            .iter()
            .any(|theirs| subject::overlaps(theirs, mine))
    })
}

/// The wanted subjects that no single subject of `streams` takes in full.
fn uncovered(wanted: &[String], streams: &[&Config]) -> Vec<String> {
    let covered = |mine: &String| {
        streams.iter().any(|stream| {
            stream
                .subjects
                .iter()
                .any(|theirs| subject::is_subset(mine, theirs))
        })
    };
    wanted.iter().filter(|mine| !covered(mine)).cloned().collect()
}

fn not_covered(missing: &str, streams: &[String]) -> String {
    format!(
        "{missing} is not captured in full by {}: what is published outside of it does not reach the tables; \
         widen its subjects, or name its own under [[stream]]",
        streams.join(", ")
    )
}

fn config_of(wanted: &StreamSettings, subjects: Vec<String>) -> Config {
    Config {
        name: wanted.name.clone(),
        subjects,
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        discard: DiscardPolicy::Old,
        num_replicas: 1,
        max_consumers: -1,
        max_age: wanted.max_age.map(|age| age.duration()).unwrap_or_default(),
        max_bytes: limit(wanted.max_bytes.map(|size| size.bytes())),
        max_messages: limit(wanted.max_messages),
        max_messages_per_subject: -1,
        duplicate_window: duplicate_window(wanted),
        metadata: [(MANAGED.to_owned(), "true".to_owned())].into(),
        ..Config::default()
    }
}

/// As the server would default it: two minutes, or the age limit where that is shorter.
fn duplicate_window(wanted: &StreamSettings) -> Duration {
    let default = Duration::from_secs(120);
    match (wanted.duplicate_window, wanted.max_age) {
        (Some(window), _) => window.duration(),
        (None, Some(age)) => age.duration().min(default),
        (None, None) => default,
    }
}

/// JetStream's -1 is "no limit".
fn limit(value: Option<u64>) -> i64 {
    value.map_or(-1, |value| i64::try_from(value).unwrap_or(i64::MAX))
}

/// Whether what the configuration decides differs. Everything else is the server's or the operator's.
fn differs(existing: &Config, target: &Config) -> bool {
    let unlimited = |value: i64| if value <= 0 { -1 } else { value };
    existing.subjects != target.subjects
        || existing.max_age != target.max_age
        || unlimited(existing.max_bytes) != unlimited(target.max_bytes)
        || unlimited(existing.max_messages) != unlimited(target.max_messages)
        || existing.duplicate_window != target.duplicate_window
}

fn fallback() -> Config {
    Config {
        name: FALLBACK_STREAM.to_owned(),
        subjects: vec![FALLBACK_SUBJECTS.to_owned()],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        discard: DiscardPolicy::Old,
        num_replicas: 1,
        max_consumers: -1,
        max_age: FALLBACK_AGE_MAX,
        max_bytes: FALLBACK_BYTES_MAX,
        max_messages: -1,
        max_messages_per_subject: -1,
        ..Config::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Settings, Span};

    fn existing(name: &str, subjects: &[&str]) -> Config {
        Config {
            name: name.to_owned(),
            subjects: subjects.iter().map(|s| (*s).to_owned()).collect(),
            ..Config::default()
        }
    }

    fn sensors() -> Vec<StreamSettings> {
        Settings::default().stream
    }

    fn created(plan: &Plan) -> Vec<(&str, Vec<&str>)> {
        plan.create
            .iter()
            .map(|config| {
                (
                    config.name.as_str(),
                    config.subjects.iter().map(String::as_str).collect(),
                )
            })
            .collect()
    }

    #[test]
    fn an_empty_broker_gets_the_configured_stream() {
        let plan = plan(&sensors(), &[]);
        assert_eq!(created(&plan), [("SENSORS", vec!["sensors.>", "iot.>"])]);
        assert_eq!(plan.read, ["SENSORS"]);
        assert_eq!(plan.notes, Vec::<String>::new());
    }

    #[test]
    fn a_stream_of_the_operator_is_used_and_the_rest_is_made() {
        let plan = plan(&sensors(), &[existing("iot-sensors", &["sensors.>"])]);
        assert_eq!(created(&plan), [("SENSORS", vec!["iot.>"])]);
        assert_eq!(plan.read, ["iot-sensors", "SENSORS"]);
        assert_eq!(plan.notes, ["stream iot-sensors is used for sensors.>"]);
    }

    #[test]
    fn two_streams_that_cover_all_leave_nothing_to_make() {
        let plan = plan(
            &sensors(),
            &[existing("a", &["sensors.>", "other"]), existing("b", &["iot.>"])],
        );
        assert_eq!(created(&plan), []);
        assert_eq!(plan.read, ["a", "b"]);
    }

    #[test]
    fn a_gap_is_told() {
        let plan = plan(&sensors(), &[existing("temp", &["sensors.temperature.*"])]);
        assert_eq!(created(&plan), [("SENSORS", vec!["iot.>"])]);
        assert_eq!(plan.read, ["temp", "SENSORS"]);
        assert!(
            plan.notes
                .iter()
                .any(|note| note.starts_with("sensors.> is not captured in full by temp")),
            "{plan:?}"
        );
    }

    #[test]
    fn what_tarn_made_follows_the_configuration_and_nothing_else_does() {
        let first = plan(&sensors(), &[]);
        let again = plan(&sensors(), &first.create);
        assert_eq!(
            (again.create.len(), again.update.len(), again.read),
            (0, 0, vec!["SENSORS".to_owned()])
        );

        let mut changed = sensors();
        changed
            .iter_mut()
            .for_each(|stream| stream.max_age = Some(Span::seconds(60)));
        let followed = plan(&changed, &first.create);
        assert_eq!(
            followed
                .update
                .iter()
                .map(|config| config.max_age)
                .collect::<Vec<_>>(),
            [Duration::from_secs(60)]
        );
        assert_eq!(followed.create, []);

        let foreign = plan(&changed, &[existing("SENSORS", &["sensors.>", "iot.>"])]);
        assert_eq!((foreign.create.len(), foreign.update.len()), (0, 0));
        assert_eq!(foreign.read, ["SENSORS"]);
    }

    #[test]
    fn internal_streams_are_not_read() {
        let plan = plan(&sensors(), &[fallback(), existing("$X", &["sensors.>"])]);
        assert_eq!(plan.read, ["SENSORS"]);
    }
}
