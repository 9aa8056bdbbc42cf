//! The field `attributes`.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::json::{Text, json_refusal, refuse};
use super::{Object, duplicate, within, wrong_type};
use crate::limits::{ATTRIBUTE_NAME_BYTES_MAX, ATTRIBUTE_VALUE_BYTES_MAX, ATTRIBUTES_MAX, DEPTH_MAX};
use crate::refusal::{Reason, Refusal, excerpt};

/// The field `attributes`: strings as they are, null left out, anything else as its JSON text.
pub(super) struct Attributes<'w, 'de> {
    pub(super) object: &'w mut Object<'de>,
    pub(super) refusal: &'w mut Option<Refusal>,
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

fn attribute(name: &str, json: &str) -> Result<Option<String>, Refusal> {
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
