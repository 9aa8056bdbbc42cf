//! The headers of a message: the ones that JetStream acts on, and adding others.

/// First line of a header block.
pub(crate) const VERSION_LINE: &str = "NATS/1.0\r\n";
/// Header that names a message for duplicate detection.
pub(crate) const MSG_ID: &str = "Nats-Msg-Id";
/// Header under which a local client's [`Resend`](crate::shard::inbox::Resend) key is stored.
pub(crate) const RESEND_ID: &str = "Tarn-Resend-Id";

/// Header that adds to a counter.
pub(crate) const INCREMENT: &str = "Nats-Incr";
/// Header with what a counter got from each of its stream's sources.
pub(crate) const COUNTER_SOURCES: &str = "Nats-Counter-Sources";
/// Header that names a batch.
pub(crate) const BATCH_ID: &str = "Nats-Batch-Id";
/// Header of a batch's last message.
pub(crate) const BATCH_COMMIT: &str = "Nats-Batch-Commit";
/// Header with a schedule's pattern.
pub(crate) const SCHEDULE: &str = "Nats-Schedule";
/// Header of a scheduled message: the subject of its schedule.
pub(crate) const SCHEDULER: &str = "Nats-Scheduler";
/// Header of a scheduled message: when the next one comes, or `purge`.
pub(crate) const SCHEDULE_NEXT: &str = "Nats-Schedule-Next";
/// Header of a message that was copied from another stream.
pub(crate) const STREAM_SOURCE: &str = "Nats-Stream-Source";
/// Tells a stream from others of its name, where one is copied.
pub(crate) const STREAM_IDENTITY: &str = "Nats-Stream-Identity";
/// Header that rolls messages up.
pub(crate) const ROLLUP: &str = "Nats-Rollup";
/// Header with a message's time to live.
pub(crate) const TTL: &str = "Nats-TTL";
/// Header of a delete marker: why there is one.
pub(crate) const MARKER_REASON: &str = "Nats-Marker-Reason";

/// What a publisher asks for in headers.
/// Source: nats-server, `stream.go`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PublishHeaders<'a> {
    pub(crate) msg_id: Option<&'a str>,
    pub(crate) resend_id: Option<&'a str>,
    pub(crate) expected_stream: Option<&'a str>,
    pub(crate) expected_last_seq: Option<&'a str>,
    pub(crate) expected_last_msg_id: Option<&'a str>,
    pub(crate) expected_last_subject_seq: Option<&'a str>,
    pub(crate) expected_last_subject: Option<&'a str>,
    pub(crate) rollup: Option<&'a str>,
    pub(crate) required_api_level: Option<&'a str>,
    pub(crate) ttl: Option<&'a str>,
    pub(crate) increment: Option<&'a str>,
    pub(crate) batch: BatchHeaders<'a>,
    pub(crate) schedule: ScheduleHeaders<'a>,
    pub(crate) stream_source: Option<&'a str>,
}

/// What marks a message as part of a batch. Source: ADR-50.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BatchHeaders<'a> {
    pub(crate) id: Option<&'a str>,
    pub(crate) seq: Option<&'a str>,
    /// Present, though it may be empty.
    pub(crate) commit: Option<&'a str>,
}

/// What makes a message a schedule for others. Source: ADR-51.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ScheduleHeaders<'a> {
    pub(crate) pattern: Option<&'a str>,
    /// Present, though it may be empty.
    pub(crate) time_zone: Option<&'a str>,
    pub(crate) ttl: Option<&'a str>,
    pub(crate) rollup: Option<&'a str>,
    pub(crate) target: Option<&'a str>,
    pub(crate) source: Option<&'a str>,
    pub(crate) scheduler: Option<&'a str>,
    pub(crate) next: Option<&'a str>,
}

impl<'a> PublishHeaders<'a> {
    /// Reads a header block. The first of several headers with one name counts; empty values count
    /// as none.
    pub(crate) fn parse(block: &'a [u8]) -> Self {
        let mut headers = Self::default();
        for (name, value) in fields(block) {
            let slot = match name {
                MSG_ID => &mut headers.msg_id,
                RESEND_ID => &mut headers.resend_id,
                "Nats-Expected-Stream" => &mut headers.expected_stream,
                "Nats-Expected-Last-Sequence" => &mut headers.expected_last_seq,
                "Nats-Expected-Last-Msg-Id" => &mut headers.expected_last_msg_id,
                "Nats-Expected-Last-Subject-Sequence" => &mut headers.expected_last_subject_seq,
                "Nats-Expected-Last-Subject-Sequence-Subject" => &mut headers.expected_last_subject,
                ROLLUP => &mut headers.rollup,
                "Nats-Required-Api-Level" => &mut headers.required_api_level,
                TTL => &mut headers.ttl,
                INCREMENT => &mut headers.increment,
                BATCH_ID => &mut headers.batch.id,
                "Nats-Batch-Sequence" => &mut headers.batch.seq,
                BATCH_COMMIT => {
                    headers.batch.commit.get_or_insert(value);
                    continue;
                }
                SCHEDULE => &mut headers.schedule.pattern,
                "Nats-Schedule-Time-Zone" => {
                    headers.schedule.time_zone.get_or_insert(value);
                    continue;
                }
                "Nats-Schedule-TTL" => &mut headers.schedule.ttl,
                "Nats-Schedule-Rollup" => &mut headers.schedule.rollup,
                "Nats-Schedule-Target" => &mut headers.schedule.target,
                "Nats-Schedule-Source" => &mut headers.schedule.source,
                SCHEDULER => &mut headers.schedule.scheduler,
                SCHEDULE_NEXT => &mut headers.schedule.next,
                STREAM_SOURCE => &mut headers.stream_source,
                _ => continue,
            };
            if slot.is_none() && !value.is_empty() {
                *slot = Some(value);
            }
        }
        headers
    }
}

/// Name and value of each header of a block, values without surrounding white space. Lines that are
/// not headers or not UTF-8 are passed over.
pub(crate) fn fields(block: &[u8]) -> impl Iterator<Item = (&str, &str)> {
    block.split(|byte| *byte == b'\n').skip(1).filter_map(|line| {
        let (name, value) = std::str::from_utf8(line).ok()?.split_once(':')?;
        Some((name, value.trim()))
    })
}

/// `block` with a header added at its end; an empty block becomes one.
pub(crate) fn with_field(block: &[u8], name: &str, value: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(block.len() + VERSION_LINE.len() + name.len() + value.len() + 6);
    match block.strip_suffix(b"\r\n") {
        Some(open) => out.extend_from_slice(open),
        None => out.extend_from_slice(VERSION_LINE.as_bytes()),
    }
    for part in [name, ": ", value, "\r\n\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    out
}

/// `block` without the headers that `is_unwanted` names; empty if none is left.
pub(crate) fn without_fields(block: &[u8], is_unwanted: impl Fn(&str) -> bool) -> Vec<u8> {
    let mut out = VERSION_LINE.as_bytes().to_vec();
    for line in block.split_inclusive(|byte| *byte == b'\n').skip(1) {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        let is_end = line == b"\r\n";
        if !is_end && !std::str::from_utf8(name).is_ok_and(&is_unwanted) {
            out.extend_from_slice(line);
        }
    }
    if out.len() == VERSION_LINE.len() {
        return Vec::new();
    }
    out.extend_from_slice(b"\r\n");
    out
}

/// `key` as it can stand in a header and is read back from one: what would end the line or be trimmed is escaped.
pub(crate) fn resend_value(key: &str) -> std::borrow::Cow<'_, str> {
    let is_plain = |c: char| !c.is_control() && c != '%';
    if key.chars().all(is_plain) && key.trim() == key && !key.is_empty() {
        return key.into();
    }
    let mut out = String::from("%");
    for c in key.chars() {
        if is_plain(c) && !c.is_whitespace() {
            out.push(c);
        } else {
            out.push_str(&format!("%{:x};", u32::from(c)));
        }
    }
    out.into()
}

/// `block` with one header of this name, at its end.
pub(crate) fn set_field(block: &[u8], name: &str, value: &str) -> Vec<u8> {
    with_field(&without_fields(block, |other| other == name), name, value)
}

/// The value of a header.
pub(crate) fn field<'a>(block: &'a [u8], name: &str) -> Option<&'a str> {
    fields(block)
        .find(|(other, _)| *other == name)
        .map(|(_, value)| value)
}

/// The header block of the answer to a request that nobody is subscribed to: how nats-server answers
/// requests to consumers and streams that it does not have.
pub(crate) fn no_responders(subject: &str) -> String {
    format!("NATS/1.0 503\r\nNats-Subject: {subject}\r\n\r\n")
}

/// Whether a request asks for a newer JetStream API than `level`.
pub(crate) fn asks_above_level(block: &[u8], level: u32) -> bool {
    if block.is_empty() {
        return false;
    }
    let required = PublishHeaders::parse(block).required_api_level;
    required.is_some_and(|text| text.parse().map_or(true, |wanted: u32| wanted > level))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_headers_are_found_and_others_passed_over() {
        let block = b"NATS/1.0\r\nNats-Msg-Id: a b \r\nX: y\r\nNats-Msg-Id: second\r\nNats-Rollup:sub\r\nNats-TTL:\r\n\r\n";
        let headers = PublishHeaders::parse(block);
        assert_eq!(headers.msg_id, Some("a b"));
        assert_eq!(headers.rollup, Some("sub"));
        assert_eq!(headers.ttl, None);
    }

    #[test]
    fn added_headers_are_read_back() {
        let first = with_field(b"", RESEND_ID, "k1");
        assert_eq!(first, b"NATS/1.0\r\nTarn-Resend-Id: k1\r\n\r\n");
        let second = with_field(&first, MSG_ID, "m");
        assert_eq!(
            second,
            b"NATS/1.0\r\nTarn-Resend-Id: k1\r\nNats-Msg-Id: m\r\n\r\n"
        );
    }

    #[test]
    fn a_resend_key_stays_one_line() {
        assert_eq!(resend_value("client 1/7"), "client 1/7");
        for key in ["", " a", "a\r\nNats-Rollup: all", "50%", "a\n"] {
            let value = resend_value(key);
            assert!(
                value.trim() == value && !value.contains(['\r', '\n']),
                "{value:?}"
            );
        }
        assert_ne!(resend_value("a\n"), resend_value("a%a;"));
    }

    #[test]
    fn headers_are_taken_out_and_replaced() {
        let block = b"NATS/1.0\r\nA: 1\r\nB: 2\r\nA: 3\r\n\r\n";
        assert_eq!(
            without_fields(block, |name| name == "A"),
            b"NATS/1.0\r\nB: 2\r\n\r\n"
        );
        assert_eq!(without_fields(block, |_| true), b"");
        assert_eq!(set_field(block, "A", "4"), b"NATS/1.0\r\nB: 2\r\nA: 4\r\n\r\n");
        assert_eq!(field(block, "A"), Some("1"));
        assert_eq!(field(block, "C"), None);
    }

    #[test]
    fn newer_api_levels_are_noticed() {
        assert!(!asks_above_level(b"", 5));
        assert!(!asks_above_level(
            b"NATS/1.0\r\nNats-Required-Api-Level: 5\r\n\r\n",
            5
        ));
        assert!(asks_above_level(
            b"NATS/1.0\r\nNats-Required-Api-Level: 6\r\n\r\n",
            5
        ));
        assert!(asks_above_level(
            b"NATS/1.0\r\nNats-Required-Api-Level: x\r\n\r\n",
            5
        ));
    }

    proptest! {
        #[test]
        fn no_block_panics(block in proptest::collection::vec(any::<u8>(), 0..200)) {
            PublishHeaders::parse(&block);
            with_field(&block, "A", "b");
        }
    }
}
