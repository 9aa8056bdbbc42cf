//! The headers of a message: the ones that JetStream acts on, and adding others.

use crate::api::error::ApiError;

/// First line of a header block.
pub(crate) const VERSION_LINE: &str = "NATS/1.0\r\n";
/// Header that names a message for duplicate detection.
pub(crate) const MSG_ID: &str = "Nats-Msg-Id";
/// Header under which a local client's [`Resend`](crate::shard::inbox::Resend) key is stored.
pub(crate) const RESEND_ID: &str = "Tarn-Resend-Id";

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
    increment: Option<&'a str>,
    batch: Option<&'a str>,
    schedule: Option<&'a str>,
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
                "Nats-Rollup" => &mut headers.rollup,
                "Nats-Required-Api-Level" => &mut headers.required_api_level,
                "Nats-TTL" => &mut headers.ttl,
                "Nats-Incr" => &mut headers.increment,
                "Nats-Batch-Id" => &mut headers.batch,
                "Nats-Schedule" => &mut headers.schedule,
                _ => continue,
            };
            if slot.is_none() && !value.is_empty() {
                *slot = Some(value);
            }
        }
        headers
    }

    /// Headers that ask for what no stream of this server does are refused, not passed over.
    ///
    /// # Errors
    /// The error that nats-server gives where the stream does not allow the feature.
    pub(crate) fn check_unsupported(&self) -> Result<(), ApiError> {
        let refusals = [
            (self.batch, ApiError::ATOMIC_PUBLISH_DISABLED),
            (self.increment, ApiError::COUNTER_DISABLED),
            (self.schedule, ApiError::SCHEDULES_DISABLED),
        ];
        match refusals.into_iter().find(|(value, _)| value.is_some()) {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
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
        assert_eq!(headers.check_unsupported(), Ok(()));
        let batch = PublishHeaders::parse(b"NATS/1.0\r\nNats-Batch-Id: b\r\n\r\n");
        assert_eq!(batch.check_unsupported().unwrap_err().err_code, 10174);
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
