//! One device: its clock, its faults, its messages.

use bytes::Bytes;
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use tarn_schemas::UnixMicros;

use crate::faults::Faults;
use crate::message::{Body, ExpectedRow, Message, Wire};
use crate::profiles::{Behaviour, Profile};
use crate::world::World;

/// The finest step of a device's clock.
///
/// Readings on time have an even number of steps, late ones an odd number: they never meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Micro,
    Milli,
}

impl Step {
    fn micros(self) -> i64 {
        match self {
            Self::Micro => 1,
            Self::Milli => 1_000,
        }
    }
}

/// How a device writes its timestamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TimeForm {
    Rfc3339,
    Rfc3339Offset,
    UnixMillis,
    UnixMicros,
    UnixNanos,
    UnixSecondsFraction,
}

/// A simulated device.
#[derive(Debug)]
pub struct Device {
    index: u32,
    id: String,
    wire: Wire,
    subject: String,
    behaviour: Behaviour,
    rng: ChaCha8Rng,
    time_form: TimeForm,
    step: Step,
    /// Between two messages.
    interval_micros: i64,
    last: UnixMicros,
    late_count: i64,
    /// A message that goes out after the next one.
    held: Option<Message>,
}

/// How far before the start the late readings lie, at the least.
const LATE_MIN_MICROS: i64 = 60_000_000;
/// Late readings lie on this many places, each [`LATE_SPACING_MICROS`] from the next: up to four hours before the start.
const LATE_PLACES: i64 = 131_072;
const LATE_SPACING_MICROS: i64 = 110_000;

impl Device {
    pub(crate) fn new(world: &World, profile: Profile, index: u32, wire: Wire, interval_micros: i64) -> Self {
        let mut rng = world.rng(index);
        let behaviour = profile.behaviour(&mut rng, index);
        let id = format!("{}-{}-{index}", world.tag(), behaviour.place());
        let time_form = match rng.random_range(0..6) {
            0 => TimeForm::Rfc3339Offset,
            // Milliseconds have to be fine enough to keep the readings of a device apart.
            1 if interval_micros >= 50_000 => TimeForm::UnixMillis,
            2 => TimeForm::UnixMicros,
            3 => TimeForm::UnixNanos,
            4 => TimeForm::UnixSecondsFraction,
            _ => TimeForm::Rfc3339,
        };
        let prefix = if wire == Wire::Nats && rng.random() {
            "iot.sensors"
        } else {
            "sensors"
        };
        Self {
            index,
            subject: format!("{prefix}.{}.{id}", behaviour.sensor()),
            id,
            wire,
            behaviour,
            rng,
            time_form,
            step: if time_form == TimeForm::UnixMillis {
                Step::Milli
            } else {
                Step::Micro
            },
            interval_micros,
            last: UnixMicros(i64::MIN),
            late_count: 0,
            held: None,
        }
    }

    /// The next message, due at `at`. Its number is left at 0.
    pub(crate) fn next(&mut self, world: &World, faults: &Faults, at: UnixMicros) -> Message {
        if let Some(held) = self.held.take() {
            return held;
        }
        let is_duplicated = self.rng.random_bool(faults.duplicates);
        let fault: f64 = self.rng.random();
        let message = if fault < faults.malformed {
            self.malformed(world, at)
        } else if fault < faults.malformed + faults.late {
            let ts = self.late(world);
            self.good(world, at, &[ts])
        } else if fault < faults.malformed + faults.late + faults.out_of_order {
            let times = self.on_time(at, 2);
            let (earlier, later) = times.split_at(1);
            let held = self.good(world, at, earlier);
            self.held = Some(held);
            self.good(world, at, later)
        } else {
            let count = self.behaviour.readings_in_one_message();
            let times = self.on_time(at, count);
            self.good(world, at, &times)
        };
        Message {
            is_duplicated,
            ..message
        }
    }

    /// `count` moments, rising, after all that were given out before; the last is `at`, cut to the clock's step.
    fn on_time(&mut self, at: UnixMicros, count: i64) -> Vec<UnixMicros> {
        let pair = 2 * self.step.micros();
        let spacing = (self.interval_micros / 4).max(pair);
        let mut times = Vec::new();
        for earlier in (0..count).rev() {
            let due = (at.0 - earlier * spacing).div_euclid(pair) * pair;
            let ts = due.max(self.last.0.saturating_add(pair));
            self.last = UnixMicros(ts);
            times.push(self.last);
        }
        times
    }

    fn late(&mut self, world: &World) -> UnixMicros {
        let (lap, count) = (self.late_count / LATE_PLACES, self.late_count % LATE_PLACES);
        self.late_count += 1;
        // Odd, so that it goes to every place once before it comes back to the first.
        let place = count * 7_919 % LATE_PLACES;
        let pair = 2 * self.step.micros();
        let before = world.start().0 - LATE_MIN_MICROS - place * LATE_SPACING_MICROS - lap * pair;
        UnixMicros(before.div_euclid(pair) * pair + self.step.micros())
    }

    fn good(&mut self, world: &World, at: UnixMicros, times: &[UnixMicros]) -> Message {
        let mut rows: Vec<ExpectedRow> = Vec::new();
        let mut objects: Vec<String> = Vec::new();
        for ts in times {
            let shown = self.show(*ts);
            let id = &self.id;
            objects.push(
                self.behaviour
                    .measure(world, &mut self.rng, id, *ts, at, &shown, &mut rows),
            );
        }
        let payload = match objects.as_slice() {
            [object] => object.clone(),
            objects => format!("[{}]", objects.join(",")),
        };
        let body = Body::Good {
            device_id: self.id.clone(),
            sensor: self.behaviour.sensor(),
            rows,
        };
        self.message(payload.into(), body)
    }

    fn malformed(&mut self, world: &World, at: UnixMicros) -> Message {
        // The moment is spent on this message: it makes its payload unlike any other.
        let times = self.on_time(at, 1);
        let serial = times.first().map_or(0, |ts| ts.0 - world.start().0);
        let (kind, payload) = malformed(self.rng.random_range(0..MALFORMED_KINDS), &self.id, serial);
        self.message(payload, Body::Malformed { kind })
    }

    fn message(&self, payload: Bytes, body: Body) -> Message {
        let (device, wire, subject) = (self.index, self.wire, self.subject.clone());
        Message {
            number: 0,
            device,
            wire,
            subject,
            payload,
            body,
            is_duplicated: false,
        }
    }

    /// The timestamp as JSON.
    fn show(&self, ts: UnixMicros) -> String {
        match self.time_form {
            TimeForm::Rfc3339 => format!("\"{ts}\""),
            TimeForm::Rfc3339Offset => {
                let shifted = UnixMicros(ts.0 + 2 * 3_600_000_000).to_string();
                format!("\"{}+02:00\"", shifted.trim_end_matches('Z'))
            }
            TimeForm::UnixMillis => (ts.0 / 1_000).to_string(),
            TimeForm::UnixMicros => ts.0.to_string(),
            TimeForm::UnixNanos => format!("{}000", ts.0),
            TimeForm::UnixSecondsFraction => format!("{}.{:06}", ts.0 / 1_000_000, ts.0 % 1_000_000),
        }
    }
}

const MALFORMED_KINDS: u32 = 9;

/// A payload that is no reading, for a reason that differs by `kind`; `id` and `serial` make it unique.
fn malformed(kind: u32, id: &str, serial: i64) -> (&'static str, Bytes) {
    let text = |kind, text: String| (kind, Bytes::from(text));
    match kind {
        0 => text(
            "cut_off",
            format!(r#"{{"note":"{id} {serial}","value":21.5,"unit":"#),
        ),
        1 => text("not_json", format!("ERR {id} {serial}: sensor not ready")),
        2 => text(
            "wrong_type",
            format!(r#"{{"note":"{id} {serial}","value":[21.5]}}"#),
        ),
        3 => text(
            "bad_timestamp",
            format!(r#"{{"value":21.5,"timestamp":"{id} {serial}"}}"#),
        ),
        4 => text(
            "uptime",
            format!(r#"{{"note":"{id} {serial}","value":21.5,"timestamp":4711}}"#),
        ),
        5 => text("nan", format!(r#"{{"note":"{id} {serial}","value":NaN}}"#)),
        6 => text(
            "beyond_f64",
            format!(r#"{{"note":"{id} {serial}","value":1e999}}"#),
        ),
        7 => text(
            "no_value",
            format!(r#"{{"location":"{id} {serial}","unit":"C","value":null}}"#),
        ),
        _ => {
            let mut payload = format!(r#"{{"note":"{id} {serial}","value":21.5,"location":"K"#).into_bytes();
            payload.extend(b"\xfcche\"}");
            ("not_utf8", payload.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_readings_never_meet() {
        let world = World::new(1, UnixMicros(1_752_575_400_000_000));
        let mut device = Device::new(&world, Profile::Home, 0, Wire::Mqtt, 1_000);
        let count = 2 * LATE_PLACES + 10;
        let times: std::collections::HashSet<_> = (0..count).map(|_| device.late(&world).0).collect();
        assert_eq!(times.len() as i64, count);
        let (first, last) = (times.iter().min().unwrap(), times.iter().max().unwrap());
        assert!(world.start().0 - last >= 59_000_000);
        assert!(world.start().0 - first < 5 * 3_600_000_000);
        assert!(times.iter().all(|ts| ts % 2 == 1));
    }

    #[test]
    fn moments_rise_however_fast_they_are_asked_for() {
        let world = World::new(1, UnixMicros(1_752_575_400_000_000));
        let mut device = Device::new(&world, Profile::Home, 0, Wire::Mqtt, 1);
        let mut last = i64::MIN;
        for count in [1, 3, 2, 1, 3] {
            for ts in device.on_time(world.start(), count) {
                assert!(ts.0 > last && ts.0 % 2 == 0);
                last = ts.0;
            }
        }
    }
}
