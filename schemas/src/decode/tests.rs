use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use expect_test::{expect, expect_file};
use proptest::prelude::*;

use super::*;
use crate::limits::{ARRAY_ITEMS_MAX, ATTRIBUTES_MAX, DEPTH_MAX, FIELDS_MAX, TEXT_BYTES_MAX};
use crate::timestamp;

const SUBJECT: &str = "sensors.temperature.device001";
/// 2025-07-15T10:31:00Z
const ARRIVAL: UnixMicros = UnixMicros(1_752_575_460_000_000);

fn decode(subject: &str, payload: &[u8]) -> Result<Vec<Reading>, Refusal> {
    let kept = Reading {
        device_id: "kept".into(),
        sensor: "kept".into(),
        metric: "kept".into(),
        ts: ARRIVAL,
        value: Some(0.0),
        text: None,
        unit: None,
        location: None,
        attributes: BTreeMap::new(),
    };
    let mut out = vec![kept.clone()];
    let result = Decoder::default().decode(subject, payload, ARRIVAL, &mut out);
    assert_eq!(out.first(), Some(&kept), "what was in `out` stays");
    assert_eq!(
        result.is_err(),
        out.len() == 1,
        "refused messages add nothing, taken ones something"
    );
    result.map(|()| out.split_off(1))
}

fn reason(payload: &str) -> &'static str {
    match decode(SUBJECT, payload.as_bytes()) {
        Ok(readings) => panic!("{} readings", readings.len()),
        Err(refusal) => refusal.reason.as_str(),
    }
}

fn shown(result: Result<Vec<Reading>, Refusal>) -> String {
    let mut text = String::new();
    match result {
        Err(refusal) => writeln!(text, "{refusal}").unwrap(),
        Ok(readings) => {
            for r in readings {
                write!(text, "{} {} {} {}", r.device_id, r.sensor, r.metric, r.ts).unwrap();
                write!(
                    text,
                    " value={:?} text={:?} unit={:?} location={:?}",
                    r.value, r.text, r.unit, r.location
                )
                .unwrap();
                writeln!(text, " attributes={:?}", r.attributes).unwrap();
            }
        }
    }
    text
}

/// Each sample is `<name>.json`, with the subject in `<name>.subject` where it isn't the usual one; what becomes of it
/// is in `<name>.expected`.
fn check_samples(folder: &str, good: bool) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples").join(folder);
    let mut samples: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .collect();
    samples.sort();
    for sample in &samples {
        let payload = std::fs::read(sample).unwrap();
        let subject = std::fs::read_to_string(sample.with_extension("subject"));
        let result = decode(subject.as_deref().unwrap_or(SUBJECT), &payload);
        assert_eq!(result.is_ok(), good, "{}: {}", sample.display(), shown(result));
        expect_file![sample.with_extension("expected")].assert_eq(&shown(result));
    }
    samples.len()
}

#[test]
fn good_samples() {
    assert!(check_samples("good", true) >= 20);
}

#[test]
fn bad_samples() {
    assert!(check_samples("bad", false) >= 55);
}

#[test]
fn limits_are_met_exactly() {
    let array = |count: usize| format!("[{}]", vec!["{\"value\":1}"; count].join(","));
    assert_eq!(
        decode(SUBJECT, array(ARRAY_ITEMS_MAX).as_bytes()).unwrap().len(),
        ARRAY_ITEMS_MAX
    );
    assert_eq!(reason(&array(ARRAY_ITEMS_MAX + 1)), "too_many_readings");

    let object = |count: usize| {
        let fields: Vec<_> = (0..count).map(|i| format!("\"f{i}\":{i}")).collect();
        format!("{{{}}}", fields.join(","))
    };
    assert_eq!(
        decode(SUBJECT, object(FIELDS_MAX).as_bytes()).unwrap().len(),
        FIELDS_MAX
    );
    assert_eq!(reason(&object(FIELDS_MAX + 1)), "too_many_fields");
    let objects = |count: usize| format!("[{}]", vec![object(100); count].join(","));
    assert_eq!(
        decode(SUBJECT, objects(100).as_bytes()).unwrap().len(),
        READINGS_MAX
    );
    assert_eq!(reason(&objects(101)), "too_many_readings");

    let text = |bytes: usize| format!("{{\"value\":\"{}\"}}", "x".repeat(bytes));
    assert!(decode(SUBJECT, text(TEXT_BYTES_MAX).as_bytes()).is_ok());
    assert_eq!(reason(&text(TEXT_BYTES_MAX + 1)), "too_long");

    let attributes = |count: usize| {
        let attributes: Vec<_> = (0..count).map(|i| format!("\"a{i}\":{i}")).collect();
        format!("{{\"value\":1,\"attributes\":{{{}}}}}", attributes.join(","))
    };
    assert!(decode(SUBJECT, attributes(ATTRIBUTES_MAX).as_bytes()).is_ok());
    assert_eq!(reason(&attributes(ATTRIBUTES_MAX + 1)), "too_many_fields");

    let nested = |depth: usize| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
    assert!(decode(SUBJECT, nested(DEPTH_MAX).as_bytes()).is_ok());
    assert_eq!(reason(&nested(DEPTH_MAX + 1)), "too_deep");
    assert_eq!(reason(&format!("[{}]", nested(DEPTH_MAX))), "too_deep");
}

/// Attributes are repeated in each reading: a payload of 350 KiB would become 70 MiB.
#[test]
fn repetition_is_bounded() {
    let attributes: Vec<_> = (0..64)
        .map(|i| format!("\"a{i}\":\"{}\"", "x".repeat(4096)))
        .collect();
    let fields: Vec<_> = (0..256).map(|i| format!("\"f{i}\":1")).collect();
    let payload = format!(
        "{{\"attributes\":{{{}}},{}}}",
        attributes.join(","),
        fields.join(",")
    );
    assert_eq!(reason(&payload), "too_large");
}

#[test]
fn nesting_without_end_does_not_overflow_the_stack() {
    for unit in ["[", "{\"a\":", "[{\"a\":", "{\"attributes\":{\"a\":["] {
        let payload = unit.repeat(1_000_000 / unit.len());
        assert!(decode(SUBJECT, payload.as_bytes()).is_err());
    }
}

#[test]
fn details_quote_only_a_little() {
    let payload = format!("{{\"{}\": [1]}}", "k".repeat(200));
    let refusal = decode(SUBJECT, payload.as_bytes()).unwrap_err();
    expect![[r#"field "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk…" is an array, not a plain value"#]]
        .assert_eq(&refusal.detail);
}

#[test]
fn patterns_fill_in_what_the_payload_lacks() {
    let patterns = SubjectPatterns::parse(["home.<location>.<sensor>.<device>.<metric>"]).unwrap();
    let mut out = Vec::new();
    let subject = "home.kitchen.climate.d1.temperature";
    Decoder::new(patterns)
        .decode(subject, b"{\"value\":1}", ARRIVAL, &mut out)
        .unwrap();
    expect![[r#"
        d1 climate temperature 2025-07-15T10:31:00.000000Z value=Some(1.0) text=None unit=None location=Some("kitchen") attributes={}
    "#]]
    .assert_eq(&shown(Ok(out)));
}

/// What a device could send in one object, and what has to come out of it.
fn any_reading() -> impl Strategy<Value = Reading> {
    let name = "[a-z][a-z0-9_.-]{0,20}";
    let free = "\\PC{1,20}";
    let measured = prop_oneof![
        proptest::num::f64::NORMAL.prop_map(|number| (Some(number), None)),
        any::<i32>().prop_map(|number| (Some(f64::from(number)), None)),
        "\\PC{0,40}".prop_map(|text| (None, Some(text))),
    ];
    let attributes = proptest::collection::btree_map(free, "\\PC{0,20}", 0..4);
    let ts = timestamp::MIN.0..timestamp::MAX.0;
    let location = proptest::option::of(free);
    (name, name, name, ts, measured, location, attributes).prop_map(
        |(device_id, sensor, metric, ts, (value, text), location, attributes)| Reading {
            device_id,
            sensor,
            metric,
            ts: UnixMicros(ts),
            unit: value.map(|_| "lx".to_owned()),
            value,
            text,
            location,
            attributes,
        },
    )
}

fn as_payload(reading: &Reading) -> serde_json::Value {
    let mut object = serde_json::json!({
        "device_id": reading.device_id,
        "sensor": reading.sensor,
        "metric": reading.metric,
        "timestamp": reading.ts.to_string(),
        "attributes": reading.attributes,
        "location": reading.location,
        "unit": reading.unit.as_ref().map(|_| "Lux"),
    });
    object["value"] = match (reading.value, &reading.text) {
        (Some(value), _) => value.into(),
        (None, text) => text.clone().into(),
    };
    object
}

/// JSON-like text with a good chance of being nearly right.
fn json_soup() -> impl Strategy<Value = String> {
    let token = prop_oneof![
        Just("{"),
        Just("}"),
        Just("["),
        Just("]"),
        Just(":"),
        Just(","),
        Just("\"value\""),
        Just("\"ts\""),
        Just("\"unit\""),
        Just("\"F\""),
        Just("\"attributes\""),
        Just("\"device_id\""),
        Just("\"a\""),
        Just("\"\\u00e9\""),
        Just("1752575400"),
        Just("-1.5e300"),
        Just("true"),
        Just("null"),
        Just(" "),
    ];
    proptest::collection::vec(token, 0..40).prop_map(|tokens| tokens.concat())
}

proptest! {
    #[test]
    fn a_reading_survives_the_way(readings in proptest::collection::vec(any_reading(), 1..5)) {
        let payload = serde_json::Value::Array(readings.iter().map(as_payload).collect()).to_string();
        prop_assert_eq!(decode("elsewhere", payload.as_bytes()).unwrap(), readings.clone());
        let single = as_payload(&readings[0]).to_string();
        prop_assert_eq!(decode("elsewhere", single.as_bytes()).unwrap(), readings[..1].to_vec());
    }

    #[test]
    fn never_panics_on_bytes(payload in proptest::collection::vec(any::<u8>(), 0..200), subject in ".{0,40}") {
        let first = decode(&subject, &payload);
        prop_assert_eq!(decode(&subject, &payload), first);
    }

    #[test]
    fn never_panics_on_soup(payload in json_soup()) {
        if let Ok(readings) = decode(SUBJECT, payload.as_bytes()) {
            // Whatever is taken is JSON, and holds the invariants of a reading.
            prop_assert!(serde_json::from_str::<serde_json::Value>(&payload).is_ok());
            for reading in readings {
                prop_assert!(!reading.device_id.is_empty() && !reading.sensor.is_empty() && !reading.metric.is_empty());
                prop_assert!(reading.value.is_some() != reading.text.is_some());
                prop_assert!(reading.value.is_none_or(f64::is_finite));
                prop_assert!((timestamp::MIN..timestamp::MAX).contains(&reading.ts));
            }
        }
    }
}
