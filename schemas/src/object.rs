//! What one JSON object says: its known fields told apart from the measured ones.

mod attributes;
mod json;

use std::borrow::Cow;
use std::collections::BTreeMap;

pub(crate) use json::read_objects;

use crate::limits::{
    DEVICE_BYTES_MAX, FIELDS_MAX, LOCATION_BYTES_MAX, METRIC_BYTES_MAX, SENSOR_BYTES_MAX, TEXT_BYTES_MAX,
    UNIT_BYTES_MAX,
};
use crate::reading::UnixMicros;
use crate::refusal::{Reason, Refusal, excerpt};
use crate::timestamp;

/// What one JSON object says.
#[derive(Debug, Default)]
pub(crate) struct Object<'de> {
    pub(crate) device_id: Option<Cow<'de, str>>,
    pub(crate) sensor: Option<Cow<'de, str>>,
    pub(crate) metric: Option<Cow<'de, str>>,
    pub(crate) unit: Option<Cow<'de, str>>,
    pub(crate) location: Option<Cow<'de, str>>,
    pub(crate) ts: Option<UnixMicros>,
    pub(crate) attributes: BTreeMap<String, String>,
    /// The field `value`.
    pub(crate) value: Option<Measured<'de>>,
    /// All other measured fields by their dotted path, in the payload's order, each path once.
    pub(crate) fields: Vec<(Cow<'de, str>, Measured<'de>)>,
    seen: u8,
}

#[derive(Debug)]
pub(crate) enum Measured<'de> {
    Number(f64),
    Flag(bool),
    Text(Cow<'de, str>),
}

#[derive(Clone, Copy, PartialEq)]
enum Known {
    Value,
    Timestamp,
    Device,
    Sensor,
    Metric,
    Unit,
    Location,
}

impl Known {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "value" => Self::Value,
            "timestamp" | "ts" | "time" => Self::Timestamp,
            "device_id" => Self::Device,
            "sensor" => Self::Sensor,
            "metric" => Self::Metric,
            "unit" => Self::Unit,
            "location" => Self::Location,
            _ => return None,
        })
    }
}

impl<'de> Object<'de> {
    fn put_known(&mut self, known: Known, name: &str, scalar: Scalar<'de>) -> Result<(), Refusal> {
        let bit = 1u8 << known as u8;
        if self.seen & bit != 0 {
            return Err(duplicate(name));
        }
        self.seen |= bit;
        if matches!(scalar, Scalar::Null) {
            return Ok(());
        }
        match known {
            Known::Value => self.value = measured(name, scalar)?,
            Known::Timestamp => self.ts = Some(moment(name, scalar)?),
            Known::Device => self.device_id = Some(identifier(name, scalar, DEVICE_BYTES_MAX)?),
            Known::Sensor => self.sensor = Some(checked_name(name, string(name, scalar)?, SENSOR_BYTES_MAX)?),
            Known::Metric => self.metric = Some(checked_name(name, string(name, scalar)?, METRIC_BYTES_MAX)?),
            Known::Unit => self.unit = nonempty(name, string(name, scalar)?, UNIT_BYTES_MAX)?,
            Known::Location => self.location = nonempty(name, string(name, scalar)?, LOCATION_BYTES_MAX)?,
        }
        Ok(())
    }

    fn put_measured(&mut self, path: Cow<'de, str>, scalar: Scalar<'de>) -> Result<(), Refusal> {
        let path = checked_name("a field's name", path, METRIC_BYTES_MAX)?;
        if let Some(value) = measured(&path, scalar)? {
            if self.fields.len() == FIELDS_MAX {
                let detail = format!("an object has more than {FIELDS_MAX} measured fields");
                return Err(Refusal::new(Reason::TooManyFields, detail));
            }
            self.fields.push((path, value));
        }
        Ok(())
    }

    fn check_unique(&self) -> Result<(), Refusal> {
        if self.fields.len() < 2 {
            return Ok(());
        }
        let mut paths: Vec<&str> = self.fields.iter().map(|(path, _)| &**path).collect();
        paths.sort_unstable();
        match paths.windows(2).find(|pair| pair.first() == pair.last()) {
            Some(pair) => Err(duplicate(pair.first().copied().unwrap_or_default())),
            None => Ok(()),
        }
    }
}

pub(crate) fn duplicate(name: &str) -> Refusal {
    Refusal::new(
        Reason::DuplicateKey,
        format!("field \"{}\" is given twice", excerpt(name)),
    )
}

fn wrong_type(name: &str, expected: &str, found: &str) -> Refusal {
    Refusal::new(
        Reason::WrongType,
        format!("field \"{}\" is {found}, not {expected}", excerpt(name)),
    )
}

/// `None` for null: nothing was measured.
fn measured<'de>(name: &str, scalar: Scalar<'de>) -> Result<Option<Measured<'de>>, Refusal> {
    Ok(Some(match scalar {
        Scalar::Null => return Ok(None),
        Scalar::Bool(flag) => Measured::Flag(flag),
        Scalar::Signed(number) => Measured::Number(number as f64),
        Scalar::Unsigned(number) => Measured::Number(number as f64),
        Scalar::Float(number) => Measured::Number(number),
        Scalar::Text(text) => Measured::Text(within(name, text, TEXT_BYTES_MAX)?),
    }))
}

fn moment(name: &str, scalar: Scalar<'_>) -> Result<UnixMicros, Refusal> {
    match scalar {
        Scalar::Text(text) => timestamp::parse_rfc3339(&text),
        Scalar::Signed(number) => timestamp::parse_unix(number),
        // Beyond i64 it is out of range in every unit, as i64::MAX is.
        Scalar::Unsigned(number) => timestamp::parse_unix(i64::try_from(number).unwrap_or(i64::MAX)),
        Scalar::Float(number) => timestamp::parse_unix_fraction(number),
        Scalar::Bool(_) | Scalar::Null => Err(wrong_type(name, "a timestamp", scalar.kind())),
    }
}

fn string<'de>(name: &str, scalar: Scalar<'de>) -> Result<Cow<'de, str>, Refusal> {
    match scalar {
        Scalar::Text(text) => Ok(text),
        other => Err(wrong_type(name, "a string", other.kind())),
    }
}

/// A string, or an integer that is used as one.
fn identifier<'de>(name: &str, scalar: Scalar<'de>, bytes_max: usize) -> Result<Cow<'de, str>, Refusal> {
    match scalar {
        Scalar::Text(text) => checked_name(name, text, bytes_max),
        Scalar::Unsigned(number) => Ok(Cow::Owned(number.to_string())),
        other => Err(wrong_type(name, "a string", other.kind())),
    }
}

pub(crate) fn checked_name<'de>(
    what: &str,
    text: Cow<'de, str>,
    bytes_max: usize,
) -> Result<Cow<'de, str>, Refusal> {
    if text.is_empty() {
        return Err(Refusal::new(Reason::BadName, format!("{what} is empty")));
    }
    if text.bytes().any(|b| b < b' ' || b == 0x7f) {
        let detail = format!("{what} \"{}\" has control characters", excerpt(&text));
        return Err(Refusal::new(Reason::BadName, detail));
    }
    within(what, text, bytes_max)
}

fn nonempty<'de>(
    name: &str,
    text: Cow<'de, str>,
    bytes_max: usize,
) -> Result<Option<Cow<'de, str>>, Refusal> {
    if text.is_empty() {
        Ok(None)
    } else {
        within(name, text, bytes_max).map(Some)
    }
}

fn within<'de>(name: &str, text: Cow<'de, str>, bytes_max: usize) -> Result<Cow<'de, str>, Refusal> {
    if text.len() <= bytes_max {
        return Ok(text);
    }
    let detail = format!(
        "{} is {} bytes long, at most {bytes_max} are allowed",
        excerpt(name),
        text.len()
    );
    Err(Refusal::new(Reason::TooLong, detail))
}

/// Any value that is neither an object nor an array.
#[derive(Debug)]
enum Scalar<'de> {
    Null,
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    Text(Cow<'de, str>),
}

impl Scalar<'_> {
    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Signed(_) | Self::Unsigned(_) | Self::Float(_) => "a number",
            Self::Text(_) => "a string",
        }
    }
}
