use std::collections::{BTreeMap, HashMap, HashSet};

use proptest::prelude::*;
use tarn_schemas::{Decoder, Reading};

use super::*;
use crate::message::{Body, Measured};

const START: UnixMicros = UnixMicros(1_752_575_400_000_000);

fn config(count: u64, faults: Faults) -> TrafficConfig {
    TrafficConfig {
        profile: Profile::Home,
        devices: 30,
        rate: 300.0,
        count,
        seed: 7,
        start: START,
        faults,
        wires: vec![Wire::Mqtt, Wire::Nats],
    }
}

fn decode(message: &Message) -> Result<Vec<Reading>, tarn_schemas::Refusal> {
    let mut out = Vec::new();
    Decoder::default()
        .decode(&message.subject, &message.payload, START, &mut out)
        .map(|()| out)
}

#[test]
fn the_same_seed_gives_the_same_messages() {
    let config = config(3_000, Faults::TYPICAL);
    let first: Vec<_> = Traffic::new(&config).collect();
    assert!(Traffic::new(&config).eq(first.iter().cloned()));
    assert!(Traffic::new(&TrafficConfig { seed: 8, ..config }).ne(first));
}

#[test]
fn good_messages_decode_to_the_rows_they_claim() {
    for message in Traffic::new(&config(
        5_000,
        Faults {
            malformed: 0.0,
            ..Faults::TYPICAL
        },
    )) {
        let Body::Good {
            device_id,
            sensor,
            rows,
        } = &message.body
        else {
            panic!("{message:?}");
        };
        let readings = decode(&message).unwrap_or_else(|refusal| panic!("{refusal}: {message:?}"));
        assert_eq!(readings.len(), rows.len(), "{message:?}");
        for (reading, row) in readings.iter().zip(rows) {
            let measured = match (&reading.value, &reading.text) {
                (Some(value), None) => Measured::Number(*value),
                (None, Some(text)) => Measured::Text(text.clone()),
                _ => panic!("{reading:?}"),
            };
            assert_eq!(
                (&reading.device_id, &*reading.sensor, &*reading.metric),
                (device_id, *sensor, row.metric)
            );
            assert_eq!(
                (reading.ts, measured),
                (row.ts, row.measured.clone()),
                "{message:?}"
            );
        }
    }
}

#[test]
fn malformed_messages_are_refused_each_for_its_reason() {
    let mut reasons = BTreeMap::new();
    for message in Traffic::new(&config(
        2_000,
        Faults {
            malformed: 1.0,
            ..Faults::default()
        },
    )) {
        let Body::Malformed { kind } = message.body else {
            panic!("{message:?}");
        };
        let refusal = decode(&message).expect_err("malformed messages don't decode");
        let previous = reasons.insert(kind, refusal.reason.as_str());
        assert!(
            previous.is_none_or(|reason| reason == refusal.reason.as_str()),
            "{message:?}"
        );
    }
    let expected = [
        ("bad_timestamp", "bad_timestamp"),
        ("beyond_f64", "number_out_of_range"),
        ("cut_off", "invalid_json"),
        ("nan", "invalid_json"),
        ("no_value", "no_value"),
        ("not_json", "invalid_json"),
        ("not_utf8", "not_utf8"),
        ("uptime", "timestamp_out_of_range"),
        ("wrong_type", "wrong_type"),
    ];
    assert_eq!(reasons, expected.into());
}

#[test]
fn faults_come_in_their_shares() {
    let faults = Faults {
        duplicates: 0.1,
        late: 0.05,
        out_of_order: 0.04,
        malformed: 0.03,
    };
    let messages: Vec<_> = Traffic::new(&config(50_000, faults)).collect();
    let share = |count: usize| count as f64 / messages.len() as f64;
    let is_near = |share: f64, expected: f64| (share - expected).abs() < expected * 0.15;

    let duplicates = messages.iter().filter(|m| m.is_duplicated).count();
    assert!(is_near(share(duplicates), faults.duplicates), "{duplicates}");
    let malformed = messages
        .iter()
        .filter(|m| matches!(m.body, Body::Malformed { .. }))
        .count();
    assert!(is_near(share(malformed), faults.malformed), "{malformed}");

    let (mut late, mut out_of_order) = (0, 0);
    let mut newest = HashMap::new();
    for message in &messages {
        if let Body::Good { rows, .. } = &message.body {
            let ts = rows.iter().map(|row| row.ts).max().unwrap();
            let newest = newest.entry(message.device).or_insert(ts);
            if ts.0 < START.0 - 10_000_000 {
                late += 1;
            } else if ts < *newest {
                out_of_order += 1;
            }
            *newest = ts.max(*newest);
        }
    }
    assert!(is_near(share(late), faults.late), "{late}");
    assert!(
        is_near(share(out_of_order), faults.out_of_order),
        "{out_of_order}"
    );
}

#[test]
fn devices_take_turns_on_their_wires_at_the_rate() {
    let traffic = Traffic::new(&config(600, Faults::default()));
    assert_eq!(traffic.due(Duration::ZERO), 1);
    assert_eq!(traffic.due(Duration::from_millis(1_001)), 301);
    assert_eq!(traffic.due(Duration::from_secs(100)), 600);
    for (number, message) in (0..).zip(traffic) {
        assert_eq!((message.number, u64::from(message.device)), (number, number % 30));
        assert_eq!(
            message.wire,
            if message.device % 2 == 0 {
                Wire::Mqtt
            } else {
                Wire::Nats
            }
        );
        let prefix = if message.subject.starts_with("iot.") {
            "iot.sensors."
        } else {
            "sensors."
        };
        assert!(message.subject.starts_with(prefix));
        assert!(
            message.wire == Wire::Nats || prefix == "sensors.",
            "{}",
            message.subject
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn identities_are_unique(
        seed: u64,
        devices in 1u32..40,
        rate in 1.0f64..200_000.0,
        share in 0.0f64..0.33,
    ) {
        let faults = Faults { duplicates: share, late: share, out_of_order: share, malformed: share };
        let config = TrafficConfig { devices, rate, seed, ..config(2_000, faults) };
        let (mut rows_seen, mut malformed_seen) = (HashSet::new(), HashSet::new());
        for message in Traffic::new(&config) {
            match message.body {
                Body::Good { device_id, sensor, rows } => {
                    for row in rows {
                        prop_assert!(rows_seen.insert((device_id.clone(), sensor, row.metric, row.ts)));
                    }
                }
                Body::Malformed { .. } => {
                    prop_assert!(malformed_seen.insert((message.subject, message.payload)));
                }
            }
        }
    }
}
