//! One pass over a payload's JSON. The parser is serde_json's; it calls the visitors here, which never go deeper than
//! [`DEPTH_MAX`].

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::attributes::Attributes;
use super::{Known, Object, Scalar, wrong_type};
use crate::limits::{ARRAY_ITEMS_MAX, DEPTH_MAX};
use crate::refusal::{Reason, Refusal};

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

pub(super) fn json_refusal(err: &serde_json::Error) -> Refusal {
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
pub(super) fn refuse<T, E: serde::de::Error>(slot: &mut Option<Refusal>, refusal: Refusal) -> Result<T, E> {
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
pub(super) struct Text;

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
