//! The checks of a stream, in their order and against a naive model of a stream.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::stream::headers::with_field;
use crate::types::StreamSeq;

const NOW: Now = Now {
    wall: UnixNanos(1),
    mono: Mono(1),
};

#[derive(Debug, Default)]
struct Kept {
    subjects: BTreeMap<String, Vec<u64>>,
    last_seq: u64,
    bytes: u64,
}

impl Kept {
    fn add(&mut self, subject: &str, bytes: u64) -> u64 {
        self.last_seq += 1;
        self.bytes += bytes;
        self.subjects
            .entry(subject.to_owned())
            .or_default()
            .push(self.last_seq);
        self.last_seq
    }
}

impl Records for Kept {
    fn state(&self) -> StreamState {
        StreamState {
            last_seq: StreamSeq(self.last_seq),
            messages: self.subjects.values().map(|seqs| seqs.len() as u64).sum(),
            bytes: self.bytes,
            ..StreamState::default()
        }
    }

    fn subject(&self, subject: &str) -> Option<(u64, u64)> {
        let seqs = self.subjects.get(subject)?;
        Some((seqs.len() as u64, *seqs.last()?))
    }

    fn last(&self, _subject: &str) -> Result<Option<Record>, ApiError> {
        Ok(None)
    }
}

fn stream(edit: impl FnOnce(&mut StreamConfig)) -> Stream {
    let mut config = StreamConfig {
        name: "S".to_owned(),
        subjects: vec![">".to_owned()],
        ..StreamConfig::default()
    };
    config.no_ack = true;
    edit(&mut config);
    Stream::new(
        StreamId(1),
        AccountId::GLOBAL,
        config.normalize().unwrap(),
        UnixNanos(1),
    )
}

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields
        .iter()
        .fold(Vec::new(), |block, (name, value)| with_field(&block, name, value))
}

fn check(
    stream: &mut Stream,
    subject: &str,
    fields: &[(&str, &str)],
    kept: &Kept,
) -> Result<Verdict, ApiError> {
    let headers = block(fields);
    let message = Incoming {
        subject,
        headers: &headers,
        payload: b"payload",
    };
    stream.check(NOW, message, &PublishHeaders::parse(&headers), kept)
}

fn code(result: Result<Verdict, ApiError>) -> u16 {
    result.map_or_else(|error| error.err_code, |_| 0)
}

#[test]
fn expectations_are_checked() {
    let mut stream = stream(|_| ());
    let mut kept = Kept::default();
    kept.add("a", 1);
    kept.add("b", 1);
    stream.last_msg_id = "m2".to_owned();
    type Fields<'a> = &'a [(&'a str, &'a str)];
    let cases: [(Fields<'_>, u16); 15] = [
        (&[("Nats-Expected-Stream", "S")], 0),
        (&[("Nats-Expected-Stream", "T")], 10060),
        (&[("Nats-Expected-Last-Sequence", "2")], 0),
        (&[("Nats-Expected-Last-Sequence", "1")], 10071),
        (&[("Nats-Expected-Last-Subject-Sequence", "1")], 0),
        (&[("Nats-Expected-Last-Subject-Sequence", "0")], 10071),
        (
            &[
                ("Nats-Expected-Last-Subject-Sequence", "2"),
                ("Nats-Expected-Last-Subject-Sequence-Subject", "b"),
            ],
            0,
        ),
        (&[("Nats-Expected-Last-Subject-Sequence-Subject", "b")], 10193),
        (&[("Nats-Expected-Last-Msg-Id", "m2")], 0),
        (&[("Nats-Expected-Last-Msg-Id", "m1")], 10070),
        (&[("Nats-Rollup", "sub")], 10111),
        (&[("Nats-TTL", "1s")], 10166),
        (&[("Nats-Incr", "1")], 10168),
        (&[("Nats-Schedule", "@every 1s")], 10188),
        (&[("Nats-Stream-Source", "S 1 > > a")], 10227),
    ];
    for (fields, expected) in cases {
        assert_eq!(
            code(check(&mut stream, "a", fields, &kept)),
            expected,
            "{fields:?}"
        );
    }
    let error = check(
        &mut stream,
        "none",
        &[("Nats-Expected-Last-Subject-Sequence", "4")],
        &kept,
    )
    .unwrap_err();
    assert_eq!(error.description, "wrong last sequence: 0");
}

#[test]
fn a_duplicate_is_named_before_its_other_headers_are_judged() {
    let mut stream = stream(|_| ());
    stream.duplicates.remember(Mono(0), IdKind::Message, "m", 7);
    let fields = [("Nats-Msg-Id", "m"), ("Nats-Expected-Last-Msg-Id", "other")];
    assert!(matches!(
        check(&mut stream, "a", &fields, &Kept::default()),
        Ok(Verdict::Duplicate(7))
    ));
}

#[test]
fn sizes_and_seals_refuse() {
    let mut small = stream(|config| config.max_msg_size = 6);
    assert_eq!(code(check(&mut small, "a", &[], &Kept::default())), 10054);
    let mut exact = stream(|config| config.max_msg_size = 7);
    assert_eq!(code(check(&mut exact, "a", &[], &Kept::default())), 0);
    let mut any = stream(|_| ());
    let long = "x".repeat(70_000);
    assert_eq!(
        code(check(&mut any, "a", &[("A", &long)], &Kept::default())),
        10097
    );
    let mut sealed = stream(|config| config.sealed = true);
    assert_eq!(code(check(&mut sealed, "a", &[], &Kept::default())), 10109);
}

#[test]
fn the_acknowledgement_begins_as_the_servers() {
    assert_eq!(&*stream(|_| ()).ack_prefix, "{\"stream\":\"S\",\"seq\":");
}

proptest! {
    /// With policy `new`, whatever is let in keeps the limits, and nothing is refused that fits.
    #[test]
    fn discard_new_keeps_the_limits(
        max_msgs in 1_i64..6,
        per_subject in 1_i64..4,
        publishes in proptest::collection::vec(0_u8..4, 0..30),
    ) {
        let mut stream = stream(|config| {
            config.discard = Discard::New;
            config.max_msgs = max_msgs;
            config.max_msgs_per_subject = per_subject;
            config.discard_new_per_subject = true;
        });
        let mut kept = Kept::default();
        for subject in publishes {
            let subject = subject.to_string();
            let count = kept.subjects.get(&subject).map_or(0, Vec::len) as i64;
            let total = kept.state().messages as i64;
            let fits = count < per_subject && total < max_msgs;
            let verdict = check(&mut stream, &subject, &[], &kept);
            prop_assert_eq!(verdict.is_ok(), fits);
            if fits {
                kept.add(&subject, 8);
            } else {
                prop_assert_eq!(verdict.unwrap_err().err_code, 10077);
            }
        }
    }
}
