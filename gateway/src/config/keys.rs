//! Every key that a configuration may hold. `docs/src/configuration.md` and `tarn check-config` are held to
//! this table by tests.

/// The known keys; `[]` stands for each element of a list of tables.
pub const KEYS: &[(&str, &str)] = &[
    ("data_dir", "where the broker, the catalog and the warehouse live"),
    (
        "allow_anonymous",
        "lets a listener bind to a non-loopback address without authentication",
    ),
    ("nats.listen", "client port of the embedded broker"),
    (
        "nats.url",
        "a NATS server or cluster to read from, instead of the embedded broker",
    ),
    (
        "store.scrub_rate",
        "bytes a second at which full segments are read for damage; 0: never",
    ),
    (
        "store.compact_rate",
        "bytes a second at which sparse segments are read to be compacted; 0: never",
    ),
    (
        "store.max_damaged",
        "bytes that each stream keeps of segments that cannot be read at all",
    ),
    (
        "monitor.listen",
        "nats-server's monitoring endpoints (`/varz`, `/jsz`, …); `off` to disable",
    ),
    ("mqtt.listen", "MQTT over TCP; `off` to disable"),
    (
        "http.listen",
        "status page, Iceberg REST catalog, `/metrics`, `/healthz`, `/readyz`",
    ),
    ("stream[].name", "name of a stream that must exist"),
    ("stream[].subjects", "subjects that the stream captures"),
    ("stream[].max_age", "records older than this are removed"),
    (
        "stream[].max_bytes",
        "the oldest records are removed beyond this size",
    ),
    (
        "stream[].max_messages",
        "the oldest records are removed beyond this number",
    ),
    (
        "stream[].duplicate_window",
        "how long a `Nats-Msg-Id` is remembered",
    ),
    ("lake.warehouse", "folder of the Iceberg tables"),
    ("lake.commit_interval", "time between two commits to the tables"),
    (
        "lake.commit_rows",
        "a commit is due at this many buffered rows, too",
    ),
    (
        "lake.commit_bytes",
        "a commit is due at this many buffered bytes, too",
    ),
    ("window[].table", "name of a table of aggregates"),
    ("window[].every", "length of its windows"),
    (
        "readings.subjects",
        "where `<sensor>` and `<device>` stand in a subject",
    ),
    (
        "log.level",
        "`error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,tarn_broker=debug`",
    ),
    (
        "log.format",
        "`auto` (text on a terminal, JSON elsewhere), `text` or `json`",
    ),
];

/// Whether `path` is a known key or a section that holds known keys.
pub(super) fn is_known(path: &str) -> bool {
    KEYS.iter().any(|(key, _)| {
        key.strip_prefix(path)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    })
}

/// The known key or section that looks most like `path`, if any is close.
pub(super) fn nearest(path: &str) -> Option<String> {
    let mut candidates: Vec<String> = Vec::new();
    for (key, _) in KEYS {
        candidates.push((*key).to_owned());
        if let Some((section, _)) = key.split_once(['.', '[']) {
            candidates.push(section.to_owned());
        }
    }
    let last = path.rsplit('.').next().unwrap_or(path);
    let closest = candidates
        .iter()
        .map(|candidate| (edit_distance(path, candidate), candidate))
        .min_by_key(|(distance, candidate)| (*distance, candidate.len()))?;
    if closest.0 <= 1 + path.len() / 5 {
        return Some(closest.1.clone());
    }
    // The right name in the wrong section.
    let same_name =
        |candidate: &&String| candidate.rsplit('.').next() == Some(last) && candidate.contains('.');
    let mut elsewhere = candidates.iter().filter(same_name);
    match (elsewhere.next(), elsewhere.next()) {
        (Some(only), None) => Some(only.clone()),
        _ => None,
    }
}

/// Levenshtein's distance, over bytes; the inputs are short keys.
fn edit_distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.bytes().enumerate() {
        let mut diagonal = i;
        let mut before = i + 1;
        for (cell, r) in row.iter_mut().skip(1).zip(right.bytes()) {
            let replaced = diagonal + usize::from(l != r);
            diagonal = *cell;
            *cell = replaced.min(before + 1).min(diagonal + 1);
            before = *cell;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_keys_and_sections() {
        for path in [
            "data_dir",
            "nats",
            "nats.listen",
            "stream",
            "stream[]",
            "stream[].name",
            "window[].every",
        ] {
            assert!(is_known(path), "{path}");
        }
        for path in [
            "nat",
            "nats.lis",
            "stream.name",
            "nats.listen.port",
            "data_dirs",
            "",
        ] {
            assert!(!is_known(path), "{path}");
        }
    }

    #[test]
    fn nearest_key() {
        for (path, expected) in [
            ("mqtt.lisen", Some("mqtt.listen")),
            ("mqt", Some("mqtt")),
            ("datadir", Some("data_dir")),
            ("stream[].subject", Some("stream[].subjects")),
            ("mqtt.commit_interval", Some("lake.commit_interval")),
            ("entirely.different", None),
        ] {
            assert_eq!(nearest(path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn distance_is_levenshtein() {
        for (left, right, distance) in [
            ("", "", 0),
            ("a", "", 1),
            ("", "abc", 3),
            ("kitten", "sitting", 3),
            ("listen", "lisen", 1),
        ] {
            assert_eq!(edit_distance(left, right), distance, "{left} {right}");
            assert_eq!(edit_distance(right, left), distance, "{right} {left}");
        }
    }
}
