//! Checks that need more than one value, or more than a type.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use tarn_broker::subject;

use super::{Listen, Problem, Settings, StreamSettings};

pub(super) fn problems(settings: &Settings, file: Option<&Path>) -> Vec<Problem> {
    let mut found = Vec::new();
    if settings.data_dir.as_os_str().is_empty() {
        found.push(problem("data_dir", "is empty; name a folder, such as tarn-data"));
    }
    listeners(settings, file, &mut found);
    streams(&settings.stream, &mut found);
    lake(settings, &mut found);
    windows(settings, &mut found);
    log(settings, &mut found);
    if let Err(err) = tarn_schemas::SubjectPatterns::parse(&settings.readings.subjects) {
        found.push(problem("readings.subjects", err.to_string()));
    }
    found
}

fn problem(key: impl Into<String>, reason: impl Into<String>) -> Problem {
    Problem {
        source: None,
        key: Some(key.into()),
        reason: reason.into(),
    }
}

fn listeners(settings: &Settings, file: Option<&Path>, found: &mut Vec<Problem>) {
    let all = [
        ("nats.listen", &settings.nats.listen),
        ("monitor.listen", &settings.monitor.listen),
        ("mqtt.listen", &settings.mqtt.listen),
        ("http.listen", &settings.http.listen),
    ];
    if settings.nats.listen == Listen::Off && settings.nats.url.is_none() {
        found.push(problem(
            "nats.listen",
            "can't be off: the processor reads over it; set an address",
        ));
    }
    for (key, listen) in all {
        if !listen.is_loopback() && !settings.allow_anonymous {
            let place = match file {
                Some(path) => format!("at the top of {}", path.display()),
                None => "at the top of tarn.toml (or set TARN_ALLOW_ANONYMOUS=true)".to_owned(),
            };
            found.push(problem(
                key,
                format!(
                    "{listen} can be reached from other machines and no authentication is configured; \
                     bind to 127.0.0.1, or, if you mean it, add the line `allow_anonymous = true` {place}"
                ),
            ));
        }
    }
    for (index, (key, listen)) in all.iter().enumerate() {
        let fixed = |listen: &Listen| matches!(listen, Listen::At { port, .. } if *port != 0);
        if let Some((other, _)) = all
            .iter()
            .take(index)
            .find(|(_, other)| other == listen && fixed(other))
        {
            found.push(problem(
                *key,
                format!("{listen} is the address of {other} too; give each its own port"),
            ));
        }
    }
}

fn streams(streams: &[StreamSettings], found: &mut Vec<Problem>) {
    let mut names = BTreeSet::new();
    for (index, stream) in streams.iter().enumerate() {
        let key = |name: &str| format!("stream[{index}].{name}");
        let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '.' | '*' | '>' | '/' | '\\');
        if stream.name.is_empty() || stream.name.len() > 255 || stream.name.contains(bad) {
            found.push(problem(
                key("name"),
                format!(
                    "`{}` is not a stream name; use 1 to 255 characters without spaces and without . * > / \\",
                    stream.name
                ),
            ));
        }
        if !names.insert(&stream.name) {
            found.push(problem(key("name"), format!("`{}` is there twice", stream.name)));
        }
        if stream.subjects.is_empty() {
            found.push(problem(key("subjects"), "is empty; name at least one subject"));
        }
        for captured in &stream.subjects {
            if !subject::is_valid_filter(captured) {
                found.push(problem(
                    key("subjects"),
                    format!("`{captured}` is not a subject; write it like `sensors.>` or `sensors.*.room1`"),
                ));
            } else if captured.starts_with('$') {
                found.push(problem(
                    key("subjects"),
                    format!("`{captured}` belongs to the server"),
                ));
            }
            let taken = streams.iter().take(index).find(|other| {
                other
                    .subjects
                    .iter()
                    .any(|theirs| subject::overlaps(theirs, captured))
            });
            if let Some(other) = taken {
                let reason = format!("`{captured}` overlaps with what stream {} captures", other.name);
                found.push(problem(key("subjects"), reason));
            }
        }
        if stream
            .max_age
            .is_some_and(|age| age.duration() < Duration::from_millis(100))
        {
            found.push(problem(key("max_age"), "must be 100ms at least"));
        }
        if let (Some(window), Some(age)) = (stream.duplicate_window, stream.max_age)
            && window > age
        {
            found.push(problem(
                key("duplicate_window"),
                "must not be longer than max_age",
            ));
        }
    }
    if streams.is_empty() {
        found.push(problem(
            "stream",
            "is empty; name at least one stream to read from",
        ));
    }
}

fn lake(settings: &Settings, found: &mut Vec<Problem>) {
    let interval = settings.lake.commit_interval.duration();
    if interval < Duration::from_millis(100) || interval > Duration::from_secs(3600) {
        found.push(problem("lake.commit_interval", "must be between 100ms and 1h"));
    }
    if settings.lake.commit_rows == 0 {
        found.push(problem("lake.commit_rows", "must be 1 at least"));
    }
    if settings.lake.commit_bytes.bytes() < 64 << 10 {
        found.push(problem("lake.commit_bytes", "must be 64KiB at least"));
    }
    if let Some(warehouse) = &settings.lake.warehouse
        && warehouse.to_str().is_some_and(|text| text.contains("://"))
    {
        found.push(problem(
            "lake.warehouse",
            "must be a folder: object stores are not supported",
        ));
    }
}

/// Tables of the lake whose names a window can't have.
const OWN_TABLES: [&str; 2] = ["readings", "dead_letters"];

fn windows(settings: &Settings, found: &mut Vec<Problem>) {
    let mut names = BTreeSet::new();
    for (index, window) in settings.window.iter().enumerate() {
        let key = |name: &str| format!("window[{index}].{name}");
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if window.table.is_empty() || window.table.len() > 128 || !window.table.chars().all(fits) {
            let reason = format!("`{}` is not a table name; use a-z, 0-9 and _", window.table);
            found.push(problem(key("table"), reason));
        } else if OWN_TABLES.contains(&window.table.as_str()) || !names.insert(&window.table) {
            found.push(problem(
                key("table"),
                format!("`{}` is taken; choose another name", window.table),
            ));
        }
        let every = window.every.duration();
        let day = Duration::from_secs(24 * 3600);
        let divides_a_day = every.subsec_nanos() == 0
            && every.as_secs() > 0
            && every <= day
            && day.as_secs().is_multiple_of(every.as_secs());
        if !divides_a_day {
            found.push(problem(
                key("every"),
                "must be whole seconds that divide a day evenly, such as 1m or 6h",
            ));
        }
    }
}

fn log(settings: &Settings, found: &mut Vec<Problem>) {
    if let Err(err) = settings
        .log
        .level
        .parse::<tracing_subscriber::filter::EnvFilter>()
    {
        found.push(problem(
            "log.level",
            format!("`{}` is not a log filter: {err}", settings.log.level),
        ));
        return;
    }
    // A filter takes any other word for the name of a module, and nothing would be logged.
    let is_level = |word: &str| word.parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
    let mut parts = settings.log.level.split(',').map(str::trim);
    if let Some(word) = parts.find(|part| !part.contains(['=', '[', ':']) && !is_level(part)) {
        found.push(problem(
            "log.level",
            format!(
                "`{word}` is not a level; use error, warn, info, debug, trace or off, or a filter such as \
                 info,tarn_broker=debug"
            ),
        ));
    }
}
