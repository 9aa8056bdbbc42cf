//! A home: what its devices measure, and how they write it.

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use tarn_schemas::UnixMicros;

use crate::message::{ExpectedRow, Measured};
use crate::world::World;

const ROOMS: [&str; 10] = [
    "kitchen",
    "living-room",
    "bedroom",
    "bathroom",
    "hallway",
    "office",
    "nursery",
    "attic",
    "garage",
    "garden",
];

/// How one device of a home behaves.
#[derive(Clone, Debug)]
pub(crate) struct Behaviour {
    room: &'static str,
    kind: Kind,
    /// The unit as this device spells it.
    spelling: &'static str,
    /// How far this device is off, in units of its own.
    offset: f64,
    /// Noise with a memory.
    drift: f64,
    is_on: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// `{"value":21.5,"unit":"C","timestamp":…}`
    Thermometer,
    /// `{"device_id":…,"sensor":"humidity","value":48.1,"unit":"%","location":…,"timestamp":…}`
    Hygrometer,
    /// `{"temperature":21.5,"humidity":48.1,"battery":87,"ts":…}`: three rows
    Climate,
    /// `{"detected":true,"timestamp":…}`
    Motion,
    /// `{"state":"open","time":…}`: text
    Door,
    /// `[{"value":1.25,"unit":"kW","metric":"active_power","timestamp":…},…]`: several readings at once
    Meter,
}

const KINDS: [Kind; 6] = [
    Kind::Thermometer,
    Kind::Motion,
    Kind::Climate,
    Kind::Meter,
    Kind::Hygrometer,
    Kind::Door,
];

impl Behaviour {
    pub(crate) fn new(rng: &mut ChaCha8Rng, index: u32) -> Self {
        let kind = pick(&KINDS, index);
        let spellings: &[&str] = match kind {
            Kind::Thermometer => &["C", "celsius", "°C", "F"],
            Kind::Hygrometer => &["%", "percent"],
            Kind::Meter => &["W", "kW"],
            Kind::Climate | Kind::Motion | Kind::Door => &[""],
        };
        Self {
            room: pick(&ROOMS, rng.random()),
            kind,
            spelling: pick(spellings, rng.random()),
            offset: rng.random_range(-1.0..1.0),
            drift: 0.0,
            is_on: false,
        }
    }

    /// Where and what it is, for its name.
    pub(crate) fn place(&self) -> String {
        format!("{}-{}", self.room, self.sensor())
    }

    pub(crate) fn sensor(&self) -> &'static str {
        match self.kind {
            Kind::Thermometer => "temperature",
            Kind::Hygrometer => "humidity",
            Kind::Climate => "climate",
            Kind::Motion => "motion",
            Kind::Door => "door",
            Kind::Meter => "power",
        }
    }

    pub(crate) fn readings_in_one_message(&self) -> i64 {
        if self.kind == Kind::Meter { 3 } else { 1 }
    }

    /// The JSON object of one reading, whose rows are added to `rows`. `at` is when it is measured, `ts` what the device
    /// says about that, as `shown`.
    #[expect(clippy::too_many_arguments, reason = "what a reading is made of; one caller")]
    pub(crate) fn measure(
        &mut self,
        world: &World,
        rng: &mut ChaCha8Rng,
        device_id: &str,
        ts: UnixMicros,
        at: UnixMicros,
        shown: &str,
        rows: &mut Vec<ExpectedRow>,
    ) -> String {
        self.drift = self.drift * 0.95 + rng.random_range(-0.2..0.2);
        let mut row = |metric, measured| rows.push(ExpectedRow { metric, ts, measured });
        let spelling = self.spelling;
        match self.kind {
            Kind::Thermometer => {
                let celsius = self.celsius(world, at);
                let fahrenheit = celsius * 9.0 / 5.0 + 32.0;
                let value = decimal(if spelling == "F" { fahrenheit } else { celsius }, 2);
                let stored = if spelling == "F" {
                    (value.number - 32.0) * 5.0 / 9.0
                } else {
                    value.number
                };
                row("value", Measured::Number(stored));
                format!(
                    r#"{{"value":{},"unit":"{spelling}","timestamp":{shown}}}"#,
                    value.text
                )
            }
            Kind::Hygrometer => {
                let value = decimal(self.humidity(world, at), 1);
                row("value", Measured::Number(value.number));
                let (value, room) = (value.text, self.room);
                format!(
                    r#"{{"device_id":"{device_id}","sensor":"humidity","value":{value},"unit":"{spelling}","location":"{room}","timestamp":{shown}}}"#
                )
            }
            Kind::Climate => {
                let temperature = decimal(self.celsius(world, at), 2);
                let humidity = decimal(self.humidity(world, at), 1);
                let battery = decimal(87.0 + self.offset * 10.0, 0);
                row("temperature", Measured::Number(temperature.number));
                row("humidity", Measured::Number(humidity.number));
                row("battery", Measured::Number(battery.number));
                let (temperature, humidity, battery) = (temperature.text, humidity.text, battery.text);
                format!(
                    r#"{{"temperature":{temperature},"humidity":{humidity},"battery":{battery},"ts":{shown}}}"#
                )
            }
            Kind::Motion => {
                self.toggle(rng, world.activity(at), 0.4);
                row("detected", Measured::Number(f64::from(u8::from(self.is_on))));
                format!(r#"{{"detected":{},"timestamp":{shown}}}"#, self.is_on)
            }
            Kind::Door => {
                self.toggle(rng, world.activity(at) * 0.2, 0.5);
                let state = if self.is_on { "open" } else { "closed" };
                row("state", Measured::Text(state.to_owned()));
                format!(r#"{{"state":"{state}","time":{shown}}}"#)
            }
            Kind::Meter => {
                let watts = self.watts(world, rng, at);
                let value = if spelling == "kW" {
                    decimal(watts / 1_000.0, 3)
                } else {
                    decimal(watts, 1)
                };
                row("active_power", Measured::Number(value.number));
                let value = value.text;
                format!(
                    r#"{{"value":{value},"unit":"{spelling}","metric":"active_power","timestamp":{shown}}}"#
                )
            }
        }
    }

    /// Indoors follows outdoors a little.
    fn celsius(&self, world: &World, at: UnixMicros) -> f64 {
        let outdoor = world.outdoor_celsius(at);
        let share = if matches!(self.room, "garden" | "garage" | "attic") {
            0.9
        } else {
            0.15
        };
        21.0 + (outdoor - 21.0) * share + self.offset + self.drift
    }

    fn humidity(&self, world: &World, at: UnixMicros) -> f64 {
        let base = if self.room == "bathroom" { 60.0 } else { 47.0 };
        let value = base - (world.outdoor_celsius(at) - 12.0) * 0.8 + self.offset * 5.0 + self.drift * 4.0;
        value.clamp(5.0, 100.0)
    }

    /// A base load, and an appliance now and then.
    fn watts(&mut self, world: &World, rng: &mut ChaCha8Rng, at: UnixMicros) -> f64 {
        self.toggle(rng, world.activity(at) * 0.1, 0.1);
        let appliance = if self.is_on { 1_800.0 } else { 0.0 };
        (70.0 + self.offset * 30.0 + self.drift * 20.0).max(1.0) + appliance
    }

    fn toggle(&mut self, rng: &mut ChaCha8Rng, chance_on: f64, chance_off: f64) {
        let chance = if self.is_on { chance_off } else { chance_on };
        self.is_on ^= rng.random_bool(chance);
    }
}

/// A number as written, and the float nearest to that.
struct Decimal {
    text: String,
    number: f64,
}

fn decimal(value: f64, digits: usize) -> Decimal {
    let text = format!("{value:.digits$}");
    let number = text.parse().unwrap_or(value);
    Decimal { text, number }
}

fn pick<T: Copy>(choices: &[T], number: u32) -> T {
    choices[number as usize % choices.len()]
}
