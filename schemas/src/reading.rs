//! The reading itself.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::timestamp;

/// A moment: microseconds since 1970-01-01T00:00:00Z, as an Iceberg `timestamptz` holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMicros(pub i64);

/// RFC 3339 in UTC with six digits of fraction.
impl fmt::Display for UnixMicros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        timestamp::write_rfc3339(*self, f)
    }
}

/// One measured value of one device: a row of the table `readings`, without what the stream adds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// Which device measured. Never empty.
    pub device_id: String,
    /// Which sensor of it, or which kind of sensor. Never empty.
    pub sensor: String,
    /// What was measured: the name of the payload's field, `value` where it has no other. Never empty.
    pub metric: String,
    /// When it was measured; the time of arrival where the payload doesn't say.
    pub ts: UnixMicros,
    /// A number, or a boolean as 1 and 0. Finite. `None` where `text` holds the value.
    pub value: Option<f64>,
    /// A measured string. `None` where `value` holds the value.
    pub text: Option<String>,
    /// UCUM code of `value`'s unit, or the unit as sent where the unit table doesn't know it.
    pub unit: Option<String>,
    /// Where the device stands.
    pub location: Option<String>,
    /// Whatever else the payload says about the reading.
    pub attributes: BTreeMap<String, String>,
}
