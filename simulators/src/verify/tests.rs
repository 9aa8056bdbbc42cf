use bytes::Bytes;

use super::*;
use crate::ledger::LedgerWriter;
use crate::message::{Body, ExpectedRow, Measured, Message, Wire};

const SUBJECT: &str = "sensors.climate.d1";

fn header() -> Header {
    Header {
        tarn_ledger: 1,
        profile: "home".into(),
        devices: 1,
        rate: 1.0,
        seed: 1,
        start: UnixMicros(0),
        fleet: "abcd".into(),
    }
}

fn message(number: u64, body: Body, payload: &'static str) -> Message {
    let (wire, subject, payload) = (Wire::Nats, SUBJECT.to_owned(), Bytes::from(payload));
    Message {
        number,
        device: 0,
        wire,
        subject,
        payload,
        body,
        is_duplicated: false,
    }
}

fn good(number: u64, ts: i64) -> Message {
    let row = |metric, measured| ExpectedRow {
        metric,
        ts: UnixMicros(ts),
        measured,
    };
    let rows = vec![
        row("temperature", Measured::Number(21.5)),
        row("state", Measured::Text("open".into())),
    ];
    message(
        number,
        Body::Good {
            device_id: "d1".into(),
            sensor: "climate",
            rows,
        },
        "{}",
    )
}

/// Message 0 is good and acknowledged, 1 malformed and acknowledged, 2 good and not, 3 malformed and not.
fn verification() -> Verification {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    let mut ledger = LedgerWriter::create(&path, &header()).unwrap();
    for message in [
        good(0, 10),
        message(1, Body::Malformed { kind: "not_json" }, "bad 1"),
        good(2, 20),
        message(3, Body::Malformed { kind: "not_json" }, "bad 3"),
    ] {
        ledger.sent(&message, UnixMicros(0)).unwrap();
    }
    ledger.acked(&[1, 0], UnixMicros(1)).unwrap();
    ledger.flush().unwrap();
    Verification::load(&path).unwrap()
}

fn temperature(ts: i64) -> StoredReading<'static> {
    StoredReading {
        device_id: "d1",
        sensor: "climate",
        metric: "temperature",
        ts: UnixMicros(ts),
        value: Some(21.5),
        text: None,
    }
}

fn state(ts: i64) -> StoredReading<'static> {
    StoredReading {
        metric: "state",
        value: None,
        text: Some("open"),
        ..temperature(ts)
    }
}

fn dead(payload: &'static str) -> StoredDeadLetter<'static> {
    StoredDeadLetter {
        subject: SUBJECT,
        payload: payload.as_bytes(),
        reason: "invalid_json",
    }
}

/// The verdict on these rows, and what is not zero in it beyond the usual.
fn verdict(readings: &[StoredReading<'_>], dead_letters: &[StoredDeadLetter<'_>]) -> Verdict {
    let mut verification = verification();
    assert_eq!(verification.expected(), (2, 1));
    readings.iter().for_each(|reading| verification.reading(reading));
    dead_letters
        .iter()
        .for_each(|dead_letter| verification.dead_letter(dead_letter));
    let verdict = verification.finish();
    assert_eq!(
        (
            verdict.sent,
            verdict.acked,
            verdict.expected,
            verdict.dead_expected
        ),
        (4, 2, 2, 1)
    );
    assert_eq!(
        verdict.holds(),
        verdict.examples.is_empty(),
        "what doesn't hold is said: {verdict}"
    );
    verdict
}

#[test]
fn what_was_acknowledged_has_to_be_there_once() {
    let found = verdict(&[temperature(10), state(10)], &[dead("bad 1")]);
    assert!(found.holds(), "{found}");
    assert_eq!((found.stored, found.dead_lettered), (2, 1));
}

#[test]
fn what_was_not_acknowledged_may_be_there() {
    let readings = [state(20), temperature(10), temperature(20), state(10)];
    let found = verdict(&readings, &[dead("bad 3"), dead("bad 1")]);
    assert!(found.holds(), "{found}");
    assert_eq!(
        (found.stored, found.stored_unacked, found.dead_lettered),
        (4, 2, 2)
    );
}

#[test]
fn each_breach_is_found() {
    let all = [temperature(10), state(10)];
    let found = verdict(&[], &[dead("bad 1")]);
    assert_eq!((found.lost, found.torn, found.holds()), (2, 0, false));
    let found = verdict(&all[..1], &[dead("bad 1")]);
    assert_eq!((found.lost, found.torn, found.holds()), (1, 1, false));
    let found = verdict(&[all[0], all[1], temperature(20)], &[dead("bad 1")]);
    assert_eq!((found.lost, found.torn, found.holds()), (0, 1, false));
    let found = verdict(&[all[0], all[1], all[0], all[0]], &[dead("bad 1")]);
    assert_eq!((found.doubled, found.stored, found.holds()), (2, 2, false));
    let twice_unacked = [all[0], all[1], temperature(20), state(20), state(20)];
    let found = verdict(&twice_unacked, &[dead("bad 1")]);
    assert_eq!((found.doubled, found.holds()), (1, false));
    let found = verdict(&[all[0], all[1], temperature(11)], &[dead("bad 1")]);
    assert_eq!((found.unknown_rows, found.holds()), (1, false));
    let wrong = StoredReading {
        value: Some(21.500001),
        ..all[0]
    };
    let found = verdict(&[wrong, all[1]], &[dead("bad 1")]);
    assert_eq!((found.wrong, found.lost, found.holds()), (1, 0, false));
    let wrong = StoredReading {
        text: Some("shut"),
        ..all[1]
    };
    assert_eq!(verdict(&[all[0], wrong], &[dead("bad 1")]).wrong, 1);
    let wrong = StoredReading {
        value: None,
        ..all[0]
    };
    assert_eq!(verdict(&[wrong, all[1]], &[dead("bad 1")]).wrong, 1);

    let found = verdict(&all, &[]);
    assert_eq!((found.dead_lost, found.holds()), (1, false));
    let found = verdict(&all, &[dead("bad 1"), dead("bad 1")]);
    assert_eq!((found.dead_doubled, found.holds()), (1, false));
    let found = verdict(&all, &[dead("bad 1"), dead("{}")]);
    assert_eq!((found.unknown_dead, found.holds()), (1, false));
}

#[test]
fn others_do_not_count() {
    let foreign = StoredReading {
        device_id: "d2",
        ..temperature(10)
    };
    let foreign_dead = StoredDeadLetter {
        subject: "elsewhere",
        ..dead("bad 1")
    };
    let found = verdict(
        &[temperature(10), foreign, state(10)],
        &[foreign_dead, dead("bad 1")],
    );
    assert!(found.holds(), "{found}");
    assert_eq!((found.foreign_rows, found.foreign_dead), (1, 1));
}

#[test]
fn the_summary_is_for_people() {
    let found = verdict(&[temperature(10), temperature(10)], &[]);
    let expected = "\
messages                 4 sent                 2 acknowledged
readings                 2 expected             1 stored  (of them 0 not acknowledged)
                         1 lost                 1 doubled
                         0 wrong                0 unknown
                         1 messages stored in part
dead letters             1 expected             0 stored
                         1 lost                 0 doubled
                         0 unknown
  doubled: d1 climate temperature 1970-01-01T00:00:00.000010Z
  lost: rows of message 0
  stored in part: 1 of 2 rows of message 0
  dead letter lost: message 1
DOES NOT HOLD";
    assert_eq!(found.to_string(), expected);
}

#[test]
fn inconsistent_ledgers_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (index, message) in [
        (0, "message 7 was never sent"),
        (1, "message 0 was acknowledged already"),
        (2, "message 5 where 0 was due"),
        (3, "twice"),
    ] {
        let path = folder.path().join(index.to_string());
        let mut ledger = LedgerWriter::create(&path, &header()).unwrap();
        match index {
            0 => ledger.acked(&[7], UnixMicros(0)).unwrap(),
            1 => {
                ledger.sent(&good(0, 10), UnixMicros(0)).unwrap();
                ledger.acked(&[0, 0], UnixMicros(0)).unwrap();
            }
            2 => ledger.sent(&good(5, 10), UnixMicros(0)).unwrap(),
            _ => {
                ledger.sent(&good(0, 10), UnixMicros(0)).unwrap();
                ledger.sent(&good(1, 10), UnixMicros(0)).unwrap();
            }
        }
        ledger.flush().unwrap();
        let error = Verification::load(&path).err().unwrap().to_string();
        assert!(error.contains(message), "{error}");
    }
}
