//! One pass over a payload's JSON: objects come out, their known fields told apart from the measured ones.
//!
//! The parser is serde_json's; it calls the visitors here, which never go deeper than [`DEPTH_MAX`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::limits::{
    ARRAY_ITEMS_MAX, ATTRIBUTE_NAME_BYTES_MAX, ATTRIBUTE_VALUE_BYTES_MAX, ATTRIBUTES_MAX, DEPTH_MAX,
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

/// Hands each object of `text` to `take`: the payload itself, or each element of it where it is an array.
/// Stops at the first refusal, its own or `take`'s.
pub(crate) fn read_objects<'de>(
    text: &'de str,
    take: &mut dyn FnMut(Object<'de>) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let mut refusal = None;
    let mut json = serde_json::Deserializer::from_str(text);
    let payload = Payload {
        take,
        refusal: &mut refusal,
        is_element: false,
    };
    let result = payload.deserialize(&mut json).and_then(|()| json.end());
    match (refusal, result) {
        (Some(refusal), _) => Err(refusal),
        (None, Err(err)) => Err(json_refusal(&err)),
        (None, Ok(())) => Ok(()),
    }
}

fn json_refusal(err: &serde_json::Error) -> Refusal {
    let message = err.to_string();
    // serde_json gives this one no category of its own; a sample holds the text.
    let reason = if message.starts_with("number out of range") {
        Reason::NumberOutOfRange
    } else if message.starts_with("recursion limit exceeded") {
        Reason::TooDeep
    } else {
        Reason::InvalidJson
    };
    Refusal::new(reason, message)
}

/// Leaves the refusal for [`read_objects`] and stops the parser.
fn refuse<T, E: serde::de::Error>(slot: &mut Option<Refusal>, refusal: Refusal) -> Result<T, E> {
    *slot = Some(refusal);
    Err(E::custom("refused"))
}

/// The payload, or an element of its array.
struct Payload<'w, 'de> {
    take: &'w mut dyn FnMut(Object<'de>) -> Result<(), Refusal>,
    refusal: &'w mut Option<Refusal>,
    is_element: bool,
}

impl<'de> Payload<'_, 'de> {
    fn not_an_object<E: serde::de::Error>(self, found: &str) -> Result<(), E> {
        let what = if self.is_element {
            "an element of the array"
        } else {
            "the payload"
        };
        refuse(
            self.refusal,
            Refusal::new(Reason::NotAnObject, format!("{what} is {found}, not an object")),
        )
    }
}

impl<'de> DeserializeSeed<'de> for Payload<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Payload<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object, or an array of objects")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let mut object = Object::default();
        let depth = if self.is_element { 2 } else { 1 };
        Fields {
            object: &mut object,
            refusal: self.refusal,
            path: "",
            depth,
        }
        .read(map)?;
        match object.check_unique().and_then(|()| (self.take)(object)) {
            Ok(()) => Ok(()),
            Err(refusal) => refuse(self.refusal, refusal),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        if self.is_element {
            return self.not_an_object("an array");
        }
        for count in 0.. {
            let element = Payload {
                take: self.take,
                refusal: self.refusal,
                is_element: true,
            };
            if seq.next_element_seed(element)?.is_none() {
                break;
            }
            if count == ARRAY_ITEMS_MAX {
                let detail = format!("the array has more than {ARRAY_ITEMS_MAX} elements");
                return refuse(self.refusal, Refusal::new(Reason::TooManyReadings, detail));
            }
        }
        Ok(())
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.not_an_object("null")
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<(), E> {
        self.not_an_object("a boolean")
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<(), E> {
        self.not_an_object("a number")
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<(), E> {
        self.not_an_object("a number")
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<(), E> {
        self.not_an_object("a number")
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<(), E> {
        self.not_an_object("a string")
    }
}

/// The fields of an object, or of an object inside of it at `path`.
struct Fields<'w, 'de> {
    object: &'w mut Object<'de>,
    refusal: &'w mut Option<Refusal>,
    path: &'w str,
    depth: usize,
}

impl<'de> Fields<'_, 'de> {
    fn read<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(Text)? {
            let taken = if !self.path.is_empty() {
                self.measured(&mut map, Cow::Owned(format!("{}.{key}", self.path)))?
            } else if &*key == "attributes" {
                let seed = Attributes {
                    object: self.object,
                    refusal: self.refusal,
                };
                map.next_value_seed(seed)?;
                Ok(())
            } else if let Some(known) = Known::of(&key) {
                match map.next_value_seed(Leaf {
                    refusal: self.refusal,
                    name: &key,
                    nested: None,
                })? {
                    Some(scalar) => self.object.put_known(known, &key, scalar),
                    None => Ok(()),
                }
            } else {
                self.measured(&mut map, key)?
            };
            if let Err(refusal) = taken {
                return refuse(self.refusal, refusal);
            }
        }
        Ok(())
    }

    /// The outer error is the parser's.
    fn measured<A: MapAccess<'de>>(
        &mut self,
        map: &mut A,
        path: Cow<'de, str>,
    ) -> Result<Result<(), Refusal>, A::Error> {
        let nested = Some((&mut *self.object, self.depth + 1));
        match map.next_value_seed(Leaf {
            refusal: self.refusal,
            name: &path,
            nested,
        })? {
            Some(scalar) => Ok(self.object.put_measured(path, scalar)),
            None => Ok(Ok(())),
        }
    }
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

/// The value of the field `name`. Gives `None` for an object where `nested` says where its fields go.
struct Leaf<'w, 'de> {
    refusal: &'w mut Option<Refusal>,
    name: &'w str,
    nested: Option<(&'w mut Object<'de>, usize)>,
}

impl<'de> DeserializeSeed<'de> for Leaf<'_, 'de> {
    type Value = Option<Scalar<'de>>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Leaf<'_, 'de> {
    type Value = Option<Scalar<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let Some((object, depth)) = self.nested else {
            return refuse(self.refusal, wrong_type(self.name, "a plain value", "an object"));
        };
        if depth > DEPTH_MAX {
            let detail = format!("objects are nested more than {DEPTH_MAX} deep");
            return refuse(self.refusal, Refusal::new(Reason::TooDeep, detail));
        }
        Fields {
            object,
            refusal: self.refusal,
            path: self.name,
            depth,
        }
        .read(map)?;
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Self::Value, A::Error> {
        refuse(self.refusal, wrong_type(self.name, "a plain value", "an array"))
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
        Ok(Some(Scalar::Null))
    }

    fn visit_bool<E: serde::de::Error>(self, flag: bool) -> Result<Self::Value, E> {
        Ok(Some(Scalar::Bool(flag)))
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Self::Value, E> {
        Ok(Some(Scalar::Signed(number)))
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Self::Value, E> {
        Ok(Some(Scalar::Unsigned(number)))
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Self::Value, E> {
        Ok(Some(Scalar::Float(number)))
    }

    fn visit_borrowed_str<E: serde::de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Some(Scalar::Text(Cow::Borrowed(text))))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(Scalar::Text(Cow::Owned(text.to_owned()))))
    }
}

/// A key, borrowed from the payload where it has no escapes.
struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Text {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E: serde::de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

/// The field `attributes`: strings as they are, null left out, anything else as its JSON text.
struct Attributes<'w, 'de> {
    object: &'w mut Object<'de>,
    refusal: &'w mut Option<Refusal>,
}

const SEEN_ATTRIBUTES: u8 = 1 << 7;

impl<'de> DeserializeSeed<'de> for Attributes<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        if self.object.seen & SEEN_ATTRIBUTES != 0 {
            return refuse(self.refusal, duplicate("attributes"));
        }
        self.object.seen |= SEEN_ATTRIBUTES;
        json.deserialize_any(self)
    }
}

impl<'de> Attributes<'_, 'de> {
    fn wrong_type<E: serde::de::Error>(self, found: &str) -> Result<(), E> {
        refuse(self.refusal, wrong_type("attributes", "an object", found))
    }
}

impl<'de> Visitor<'de> for Attributes<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key_seed(Text)? {
            let raw: &'de RawValue = map.next_value()?;
            let value = match attribute(&name, raw.get()) {
                Ok(Some(value)) => value,
                Ok(None) => continue,
                Err(refusal) => return refuse(self.refusal, refusal),
            };
            if self.object.attributes.len() == ATTRIBUTES_MAX {
                let detail = format!("there are more than {ATTRIBUTES_MAX} attributes");
                return refuse(self.refusal, Refusal::new(Reason::TooManyFields, detail));
            }
            if self
                .object
                .attributes
                .insert(name.clone().into_owned(), value)
                .is_some()
            {
                return refuse(self.refusal, duplicate(&name));
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        self.wrong_type("an array")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<(), E> {
        self.wrong_type("a boolean")
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<(), E> {
        self.wrong_type("a number")
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<(), E> {
        self.wrong_type("a number")
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<(), E> {
        self.wrong_type("a number")
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<(), E> {
        self.wrong_type("a string")
    }
}

fn attribute(name: &Cow<'_, str>, json: &str) -> Result<Option<String>, Refusal> {
    within(
        "an attribute's name",
        Cow::Borrowed(name),
        ATTRIBUTE_NAME_BYTES_MAX,
    )?;
    let value = match json.as_bytes().first() {
        Some(b'n') => return Ok(None),
        Some(b'"') => serde_json::from_str(json).map_err(|err| json_refusal(&err))?,
        // The payload, the object and `attributes` are around it; the payload may be an array.
        Some(b'{' | b'[') if depth(json) + 3 > DEPTH_MAX => {
            let detail = format!(
                "attribute \"{}\" is nested more than {DEPTH_MAX} deep",
                excerpt(name)
            );
            return Err(Refusal::new(Reason::TooDeep, detail));
        }
        _ => json.to_owned(),
    };
    within(name, Cow::Owned(value), ATTRIBUTE_VALUE_BYTES_MAX).map(|value| Some(value.into_owned()))
}

/// How deep the arrays and objects of valid JSON are nested.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}
