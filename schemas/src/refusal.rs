//! Why a message is not readings.

use std::fmt;

/// Why a message was refused. The names of [`Reason::as_str`] stand in `dead_letters.reason` and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The payload has no bytes.
    EmptyPayload,
    /// The payload isn't UTF-8.
    NotUtf8,
    /// The payload isn't JSON.
    InvalidJson,
    /// A number doesn't fit a 64-bit float.
    NumberOutOfRange,
    /// Objects and arrays are nested too deeply.
    TooDeep,
    /// An array, or the message as a whole, has too many readings.
    TooManyReadings,
    /// An object has too many fields.
    TooManyFields,
    /// A string is longer than its field allows.
    TooLong,
    /// The readings together would take too much memory.
    TooLarge,
    /// The payload, or an element of its array, isn't an object.
    NotAnObject,
    /// Two fields have the same name or the same meaning.
    DuplicateKey,
    /// A field has a type that it can't have.
    WrongType,
    /// Nothing was measured: no field with a value.
    NoValue,
    /// Neither the payload nor the subject names the device.
    MissingDevice,
    /// Neither the payload nor the subject names the sensor.
    MissingSensor,
    /// A device, sensor or metric name is empty or has control characters.
    BadName,
    /// The timestamp can't be read.
    BadTimestamp,
    /// The timestamp can be read and is outside the years that are taken.
    TimestampOutOfRange,
}

impl Reason {
    /// All reasons there are.
    pub const ALL: [Self; 18] = [
        Self::EmptyPayload,
        Self::NotUtf8,
        Self::InvalidJson,
        Self::NumberOutOfRange,
        Self::TooDeep,
        Self::TooManyReadings,
        Self::TooManyFields,
        Self::TooLong,
        Self::TooLarge,
        Self::NotAnObject,
        Self::DuplicateKey,
        Self::WrongType,
        Self::NoValue,
        Self::MissingDevice,
        Self::MissingSensor,
        Self::BadName,
        Self::BadTimestamp,
        Self::TimestampOutOfRange,
    ];

    /// The stable name, in snake case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EmptyPayload => "empty_payload",
            Self::NotUtf8 => "not_utf8",
            Self::InvalidJson => "invalid_json",
            Self::NumberOutOfRange => "number_out_of_range",
            Self::TooDeep => "too_deep",
            Self::TooManyReadings => "too_many_readings",
            Self::TooManyFields => "too_many_fields",
            Self::TooLong => "too_long",
            Self::TooLarge => "too_large",
            Self::NotAnObject => "not_an_object",
            Self::DuplicateKey => "duplicate_key",
            Self::WrongType => "wrong_type",
            Self::NoValue => "no_value",
            Self::MissingDevice => "missing_device",
            Self::MissingSensor => "missing_sensor",
            Self::BadName => "bad_name",
            Self::BadTimestamp => "bad_timestamp",
            Self::TimestampOutOfRange => "timestamp_out_of_range",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refused message: the reason, and what exactly was wrong, in words for the operator. The detail never quotes more
/// than a short piece of the payload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Refusal {
    /// The kind.
    pub reason: Reason,
    /// What was wrong, and where.
    pub detail: String,
}

impl Refusal {
    pub(crate) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }
}

/// At most 40 characters of `text`, escaped, for a detail.
pub(crate) fn excerpt(text: &str) -> String {
    const SHOWN_CHARS: usize = 40;
    let mut shown = String::new();
    for (index, c) in text.chars().enumerate() {
        if index == SHOWN_CHARS {
            shown.push('…');
            break;
        }
        shown.extend(c.escape_debug());
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_snake_case() {
        let mut names: Vec<_> = Reason::ALL.iter().map(|r| r.as_str()).collect();
        assert!(
            names
                .iter()
                .all(|n| n.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c == '8'))
        );
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Reason::ALL.len());
    }

    #[test]
    fn excerpts_are_short_and_printable() {
        assert_eq!(excerpt("a\u{1b}[0m\n"), "a\\u{1b}[0m\\n");
        assert_eq!(excerpt(&"é".repeat(41)).chars().count(), 41);
    }
}
