//! RFC 3339 times as Go prints them: UTC, nanoseconds, no trailing zeros.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::types::UnixNanos;

const NANOS_PER_SEC: i64 = 1_000_000_000;
const SECS_PER_DAY: i64 = 86_400;

/// A time in JSON. `UnixNanos(0)` is Go's zero time, `0001-01-01T00:00:00Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct JsonTime(pub(crate) UnixNanos);

impl JsonTime {
    /// Go's zero time.
    pub(crate) const ZERO: Self = Self(UnixNanos(0));

    /// Whether it is Go's zero time.
    pub(crate) fn is_zero(self) -> bool {
        self == Self::ZERO
    }
}

impl Serialize for JsonTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format(self.0))
    }
}

impl<'de> Deserialize<'de> for JsonTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text)
            .map(JsonTime)
            .ok_or_else(|| de::Error::custom(format!("parsing time {text:?} as RFC 3339")))
    }
}

/// `time` in RFC 3339 with as many fractional digits as needed, at most nine.
pub(crate) fn format(time: UnixNanos) -> String {
    if time.0 == 0 {
        return "0001-01-01T00:00:00Z".to_owned();
    }
    let secs = time.0.div_euclid(NANOS_PER_SEC);
    let nanos = time.0.rem_euclid(NANOS_PER_SEC);
    let (year, month, day) = civil_from_days(secs.div_euclid(SECS_PER_DAY));
    let second = secs.rem_euclid(SECS_PER_DAY);
    let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
    let mut out = format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}");
    if nanos != 0 {
        let digits = format!("{nanos:09}");
        out.push('.');
        out.push_str(digits.trim_end_matches('0'));
    }
    out.push('Z');
    out
}

/// Reads an RFC 3339 time with any offset; `None` if malformed or outside of what nanoseconds in an
/// `i64` can hold. Years up to 1 are Go's zero time.
pub(crate) fn parse(text: &str) -> Option<UnixNanos> {
    let bytes = text.as_bytes();
    let year = digits(bytes.get(0..4)?)?;
    let month = digits(bytes.get(5..7)?)?;
    let day = digits(bytes.get(8..10)?)?;
    let hour = digits(bytes.get(11..13)?)?;
    let minute = digits(bytes.get(14..16)?)?;
    let second = digits(bytes.get(17..19)?)?;
    let separators = [bytes[4], bytes[7], bytes[13], bytes[16]];
    if separators != *b"--::" || !matches!(bytes[10], b'T' | b't' | b' ') {
        return None;
    }
    let in_range = (1..=12).contains(&month) && (1..=31).contains(&day);
    if !in_range || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (nanos, rest) = fraction(bytes.get(19..)?)?;
    let offset_secs = offset(rest)?;
    if year <= 1 {
        return Some(UnixNanos(0));
    }
    let secs =
        days_from_civil(year, month, day) * SECS_PER_DAY + hour * 3600 + minute * 60 + second - offset_secs;
    let nanos = i128::from(secs) * i128::from(NANOS_PER_SEC) + i128::from(nanos);
    i64::try_from(nanos).ok().map(UnixNanos)
}

fn digits(bytes: &[u8]) -> Option<i64> {
    let mut value = 0_i64;
    for byte in bytes {
        if !byte.is_ascii_digit() {
            return None;
        }
        value = value * 10 + i64::from(byte - b'0');
    }
    Some(value)
}

/// Nanoseconds of an optional `.digits`, and what follows it.
fn fraction(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let Some(rest) = bytes.strip_prefix(b".") else {
        return Some((0, bytes));
    };
    let len = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if len == 0 {
        return None;
    }
    let digits = rest[..len].iter().map(|byte| i64::from(byte - b'0'));
    let padded = digits.chain(std::iter::repeat(0)).take(9);
    let nanos = padded.fold(0_i64, |nanos, digit| nanos * 10 + digit);
    Some((nanos, &rest[len..]))
}

fn offset(bytes: &[u8]) -> Option<i64> {
    match bytes {
        b"Z" | b"z" => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let secs = digits(&[*h1, *h2])? * 3600 + digits(&[*m1, *m2])? * 60;
            Some(if *sign == b'+' { secs } else { -secs })
        }
        _ => None,
    }
}

/// Days since 1970-01-01 of a date in the proleptic Gregorian calendar.
/// Source: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The inverse of [`days_from_civil`]: year, month, day.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 {
        month_index + 3
    } else {
        month_index - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// Reads a duration as Go writes it, `1h2m3.5s`, in nanoseconds. `None` if malformed.
pub(crate) fn go_duration_ns(mut text: &str) -> Option<i64> {
    let mut total = 0.0;
    while !text.is_empty() {
        let number_len = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, rest) = text.split_at(number_len);
        let unit_len = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let (unit, rest) = rest.split_at(unit_len);
        let unit_ns = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * unit_ns;
        text = rest;
    }
    Some(total as i64)
}

/// Nanoseconds as Go prints a duration: `1m30s`, `1.5s`, `100ms`.
pub(crate) fn go_duration(nanos: i64) -> String {
    let total = nanos.unsigned_abs();
    let sign = if nanos < 0 { "-" } else { "" };
    let decimal = |unit: u64| {
        let fraction = format!("{:0width$}", total % unit, width = unit.ilog10() as usize);
        let fraction = fraction.trim_end_matches('0');
        let point = if fraction.is_empty() { "" } else { "." };
        format!("{}{point}{fraction}", total / unit)
    };
    match total {
        0 => "0s".to_owned(),
        1..1_000 => format!("{sign}{total}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", decimal(1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", decimal(1_000_000)),
        _ => {
            let minutes = total / 60_000_000_000;
            let seconds = total % 60_000_000_000;
            let fraction = format!("{:09}", seconds % 1_000_000_000);
            let fraction = fraction.trim_end_matches('0');
            let point = if fraction.is_empty() { "" } else { "." };
            let seconds = format!("{}{point}{fraction}s", seconds / 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}"),
                (0, minutes) => format!("{sign}{minutes}m{seconds}"),
                (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_times_print_as_go_prints_them() {
        let cases = [
            (0, "0001-01-01T00:00:00Z"),
            (1, "1970-01-01T00:00:00.000000001Z"),
            (951_782_400_000_000_000, "2000-02-29T00:00:00Z"),
            (1_795_250_203_120_000_000, "2026-11-21T08:36:43.12Z"),
            (-1_000_000_000, "1969-12-31T23:59:59Z"),
        ];
        for (nanos, text) in cases {
            assert_eq!(format(UnixNanos(nanos)), text);
            assert_eq!(parse(text), Some(UnixNanos(nanos)));
        }
    }

    #[test]
    fn offsets_are_taken_off() {
        assert_eq!(parse("2000-02-29T02:30:00+02:30"), parse("2000-02-29T00:00:00Z"));
        assert_eq!(parse("2000-02-28T23:00:00-01:00"), parse("2000-02-29T00:00:00Z"));
    }

    #[test]
    fn malformed_times_are_refused() {
        for text in [
            "",
            "2000",
            "2000-02-29",
            "2000-13-01T00:00:00Z",
            "2000-02-29T00:00:00",
            "2000-02-29T00:00:00.Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn durations_print_as_go_prints_them() {
        let cases = [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (100_000_000, "100ms"),
            (1_000_000_000, "1s"),
            (90_500_000_000, "1m30.5s"),
            (3_600_000_000_000, "1h0m0s"),
            (-5, "-5ns"),
        ];
        for (nanos, text) in cases {
            assert_eq!(go_duration(nanos), text);
        }
    }

    proptest! {
        #[test]
        fn every_time_survives(nanos in any::<i64>()) {
            prop_assume!(nanos != 0);
            prop_assert_eq!(parse(&format(UnixNanos(nanos))), Some(UnixNanos(nanos)));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            parse(&text);
        }
    }
}
