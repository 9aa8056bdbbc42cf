//! Payloads → readings.

use std::borrow::Cow;
use std::collections::btree_map::Entry;

use crate::limits::{
    DEVICE_BYTES_MAX, LOCATION_BYTES_MAX, METRIC_BYTES_MAX, READING_BYTES_MAX, READINGS_MAX, SENSOR_BYTES_MAX,
};
use crate::object::{Measured, Object, checked_name, duplicate, read_objects};
use crate::reading::{Reading, UnixMicros};
use crate::refusal::{Reason, Refusal};
use crate::subject::{SubjectFields, SubjectPatterns};
use crate::unit;

/// Turns messages into readings.
///
/// A payload is a JSON object, or an array of them. In an object,
///
/// - `device_id`, `sensor` and `location` win over what the subject says; an integer `device_id` is taken as text;
/// - `timestamp` (or `ts`, or `time`) is RFC 3339 or Unix time in s, ms, µs or ns; without it the time of arrival counts;
/// - `value` is a reading whose metric is the field `metric`, else the subject's `<metric>`, else `value`;
/// - every other field is a reading of its own, with the field's name as its metric. The fields of an object inside of it
///   count too, with their path as the metric (`color.x`);
/// - numbers and booleans (1 and 0) go to [`Reading::value`], strings to [`Reading::text`]; null is no reading; an array as
///   a field is refused;
/// - `unit` belongs to `value` if there is one and it is a number, else to the only number among the fields. It is written
///   as its UCUM code, and the value converted where the unit table says so;
/// - `attributes` is an object of whatever else is to be kept with each reading: strings as they are, other values as
///   their JSON text, null left out;
/// - a `unit` or `metric` that belongs to no reading is kept as an attribute of that name.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    patterns: SubjectPatterns,
}

impl Decoder {
    /// A decoder that fills in from subjects what `patterns` find there.
    pub fn new(patterns: SubjectPatterns) -> Self {
        Self { patterns }
    }

    /// Adds the readings of one message to `out`; `arrival` is when the broker took it.
    /// A message that is refused adds none: `out` is as it was.
    pub fn decode(
        &self,
        subject: &str,
        payload: &[u8],
        arrival: UnixMicros,
        out: &mut Vec<Reading>,
    ) -> Result<(), Refusal> {
        let start = out.len();
        let mut message = Message {
            given: self.patterns.fields(subject),
            arrival,
            start,
            bytes: 0,
            out,
        };
        let result = message.take(subject, payload);
        if result.is_err() {
            out.truncate(start);
        }
        result
    }
}

/// One message while its readings are gathered.
struct Message<'a> {
    given: SubjectFields<'a>,
    arrival: UnixMicros,
    /// Length of `out` before this message.
    start: usize,
    /// Bytes of text in its readings so far.
    bytes: usize,
    out: &'a mut Vec<Reading>,
}

impl Message<'_> {
    fn take(&mut self, subject: &str, payload: &[u8]) -> Result<(), Refusal> {
        if payload.is_empty() {
            return Err(Refusal::new(Reason::EmptyPayload, "the payload is empty"));
        }
        let text = std::str::from_utf8(payload).map_err(|err| {
            Refusal::new(
                Reason::NotUtf8,
                format!("the payload is not UTF-8 from byte {} on", err.valid_up_to()),
            )
        })?;
        read_objects(text, &mut |object| self.take_object(subject, object))?;
        if self.out.len() == self.start {
            return Err(Refusal::new(Reason::NoValue, "the array is empty"));
        }
        Ok(())
    }

    fn take_object(&mut self, subject: &str, mut object: Object<'_>) -> Result<(), Refusal> {
        if object.value.is_none() && object.fields.is_empty() {
            return Err(Refusal::new(
                Reason::NoValue,
                "the object has no field with a measured value",
            ));
        }
        let device = name(
            object.device_id.take(),
            &self.given.device,
            "the device",
            DEVICE_BYTES_MAX,
        )?
        .ok_or_else(|| missing(Reason::MissingDevice, "device_id", subject))?;
        let sensor = name(
            object.sensor.take(),
            &self.given.sensor,
            "the sensor",
            SENSOR_BYTES_MAX,
        )?
        .ok_or_else(|| missing(Reason::MissingSensor, "sensor", subject))?;
        let location = name(
            object.location.take(),
            &self.given.location,
            "the location",
            LOCATION_BYTES_MAX,
        )?;
        let unit_at = object.unit.as_ref().and_then(|_| unit_position(&object));
        let unit = object.unit.take();
        if unit_at.is_none() {
            keep_as_attribute(&mut object, "unit", unit.clone())?;
        }
        if object.value.is_some() {
            let metric = name(
                object.metric.take(),
                &self.given.metric,
                "the metric",
                METRIC_BYTES_MAX,
            )?
            .unwrap_or(Cow::Borrowed("value"));
            if object.fields.iter().any(|(path, _)| *path == metric) {
                return Err(duplicate(&metric));
            }
            // `value` comes first, the fields follow in the payload's order.
            let value = object
                .value
                .take()
                .map(|value| (Cow::Owned(metric.into_owned()), value));
            object.fields.splice(0..0, value);
        } else {
            let metric = object.metric.take();
            keep_as_attribute(&mut object, "metric", metric)?;
        }
        let head = Reading {
            device_id: device.into_owned(),
            sensor: sensor.into_owned(),
            metric: String::new(),
            ts: object.ts.unwrap_or(self.arrival),
            value: None,
            text: None,
            unit: None,
            location: location.map(Cow::into_owned),
            attributes: object.attributes,
        };
        let fields = object.fields.into_iter().enumerate();
        let rows = fields.map(|(index, field)| (field, unit.as_deref().filter(|_| unit_at == Some(index))));
        self.take_rows(head, rows)
    }

    fn take_rows<'f>(
        &mut self,
        head: Reading,
        rows: impl ExactSizeIterator<Item = ((Cow<'f, str>, Measured<'f>), Option<&'f str>)>,
    ) -> Result<(), Refusal> {
        let head_bytes = head.device_id.len()
            + head.sensor.len()
            + head.location.as_ref().map_or(0, String::len)
            + head
                .attributes
                .iter()
                .map(|(name, value)| name.len() + value.len())
                .sum::<usize>();
        if self.out.len() - self.start + rows.len() > READINGS_MAX {
            let detail = format!("the message has more than {READINGS_MAX} readings");
            return Err(Refusal::new(Reason::TooManyReadings, detail));
        }
        let mut head = Some(head);
        let last = rows.len().saturating_sub(1);
        for (index, ((metric, measured), unit)) in rows.enumerate() {
            let text_bytes = if let Measured::Text(text) = &measured {
                text.len()
            } else {
                0
            };
            self.bytes += head_bytes + metric.len() + text_bytes;
            if self.bytes > READING_BYTES_MAX {
                let detail =
                    format!("the message's readings hold more than {READING_BYTES_MAX} bytes of text");
                return Err(Refusal::new(Reason::TooLarge, detail));
            }
            // The last row takes the head itself, so that the common single row copies nothing.
            let row = if index == last { head.take() } else { head.clone() };
            let mut row = row.expect("the head is taken by the last row only");
            row.metric = metric.into_owned();
            match measured {
                Measured::Flag(flag) => row.value = Some(f64::from(u8::from(flag))),
                Measured::Text(text) => row.text = Some(text.into_owned()),
                Measured::Number(number) => (row.value, row.unit) = in_unit(number, unit)?,
            }
            self.out.push(row);
        }
        Ok(())
    }
}

/// Where in the list of readings, `value` first, the unit belongs.
fn unit_position(object: &Object<'_>) -> Option<usize> {
    let is_number = |measured: &Measured<'_>| matches!(measured, Measured::Number(_));
    if let Some(value) = &object.value {
        return is_number(value).then_some(0);
    }
    let mut numbers = object
        .fields
        .iter()
        .enumerate()
        .filter(|(_, (_, measured))| is_number(measured));
    let (index, _) = numbers.next()?;
    numbers.next().is_none().then_some(index)
}

fn in_unit(number: f64, sent: Option<&str>) -> Result<(Option<f64>, Option<String>), Refusal> {
    let Some(sent) = sent else {
        return Ok((Some(number), None));
    };
    let Some(unit) = unit::lookup(sent) else {
        return Ok((Some(number), Some(sent.to_owned())));
    };
    let value = unit.convert(number);
    if !value.is_finite() {
        let detail = format!("{number:e} {sent} is out of range in {}", unit.code);
        return Err(Refusal::new(Reason::NumberOutOfRange, detail));
    }
    Ok((Some(value), Some(unit.code.clone())))
}

/// The payload's name, checked when it was read, or the subject's, checked here.
fn name<'a>(
    payload: Option<Cow<'a, str>>,
    subject: &Option<Cow<'a, str>>,
    what: &str,
    bytes_max: usize,
) -> Result<Option<Cow<'a, str>>, Refusal> {
    match (payload, subject) {
        (Some(name), _) => Ok(Some(name)),
        (None, Some(name)) => checked_name(what, name.clone(), bytes_max).map(Some),
        (None, None) => Ok(None),
    }
}

fn missing(reason: Reason, field: &str, subject: &str) -> Refusal {
    let subject = crate::refusal::excerpt(subject);
    Refusal::new(
        reason,
        format!("the payload has no {field}, and subject \"{subject}\" fits no pattern that gives it"),
    )
}

fn keep_as_attribute(
    object: &mut Object<'_>,
    name: &str,
    value: Option<Cow<'_, str>>,
) -> Result<(), Refusal> {
    let Some(value) = value else {
        return Ok(());
    };
    match object.attributes.entry(name.to_owned()) {
        Entry::Occupied(_) => Err(duplicate(name)),
        Entry::Vacant(entry) => {
            entry.insert(value.into_owned());
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
