//! Timestamps as devices write them: RFC 3339, or Unix time in seconds, milliseconds, microseconds or nanoseconds.

use std::fmt;

use crate::reading::UnixMicros;
use crate::refusal::{Reason, Refusal, excerpt};

/// The first moment that is taken: 2000-01-01T00:00:00Z. A device without a clock starts in 1970 and counts from there.
pub const MIN: UnixMicros = UnixMicros(MIN_SECONDS * MICROS);
/// The first moment that isn't taken any more: 2200-01-01T00:00:00Z.
pub const MAX: UnixMicros = UnixMicros(MAX_SECONDS * MICROS);

const MIN_SECONDS: i64 = 946_684_800;
const MAX_SECONDS: i64 = 7_258_118_400;
const MICROS: i64 = 1_000_000;

/// Reads an RFC 3339 date-time: any offset, any number of fraction digits (beyond the sixth cut off), `T` or a space,
/// either case. A leap second counts as the second after it.
/// Errors with [`Reason::BadTimestamp`] or [`Reason::TimestampOutOfRange`].
/// Source: RFC 3339, section 5.6.
pub fn parse_rfc3339(text: &str) -> Result<UnixMicros, Refusal> {
    let bad = || {
        let what = if lacks_offset(text.as_bytes()) {
            "has no offset from UTC"
        } else {
            "is not RFC 3339"
        };
        Refusal::new(
            Reason::BadTimestamp,
            format!("timestamp \"{}\" {what}", excerpt(text)),
        )
    };
    let micros = rfc3339_micros(text.as_bytes()).ok_or_else(bad)?;
    in_range(micros, &text)
}

/// Reads Unix time. The unit is told by the magnitude: the years 2000 to 2200 are four ranges that don't overlap.
/// Nanoseconds are cut to microseconds. Errors with [`Reason::TimestampOutOfRange`].
pub fn parse_unix(number: i64) -> Result<UnixMicros, Refusal> {
    const KILO: i64 = 1_000;
    const MEGA: i64 = 1_000_000;
    const GIGA: i64 = 1_000_000_000;
    for (per_second, micros) in [
        (1, number.checked_mul(MICROS)),
        (KILO, number.checked_mul(KILO)),
        (MEGA, Some(number)),
        (GIGA, Some(number.div_euclid(KILO))),
    ] {
        if (MIN_SECONDS * per_second..MAX_SECONDS * per_second).contains(&number)
            && let Some(micros) = micros
        {
            return Ok(UnixMicros(micros));
        }
    }
    Err(out_of_range(&number))
}

/// Reads Unix time with a fraction, rounded to the microsecond. As [`parse_unix`] otherwise.
pub fn parse_unix_fraction(number: f64) -> Result<UnixMicros, Refusal> {
    for micros_per_unit in [1e6, 1e3, 1.0, 1e-3] {
        let micros = (number * micros_per_unit).round();
        if micros >= MIN.0 as f64 && micros < MAX.0 as f64 {
            return Ok(UnixMicros(micros as i64));
        }
    }
    Err(out_of_range(&number))
}

fn in_range(micros: i64, shown: &dyn fmt::Display) -> Result<UnixMicros, Refusal> {
    if (MIN.0..MAX.0).contains(&micros) {
        Ok(UnixMicros(micros))
    } else {
        Err(out_of_range(shown))
    }
}

fn out_of_range(shown: &dyn fmt::Display) -> Refusal {
    Refusal::new(
        Reason::TimestampOutOfRange,
        format!("timestamp {shown} is not in the years 2000 to 2199"),
    )
}

fn lacks_offset(text: &[u8]) -> bool {
    let mut with_offset = text.to_vec();
    with_offset.push(b'Z');
    rfc3339_micros(&with_offset).is_some()
}

fn rfc3339_micros(text: &[u8]) -> Option<i64> {
    // 1985-04-12T23:20:50.52+01:00
    let (date_time, rest) = text.split_at_checked(19)?;
    let [
        y1,
        y2,
        y3,
        y4,
        b'-',
        mo1,
        mo2,
        b'-',
        d1,
        d2,
        b'T' | b't' | b' ',
        h1,
        h2,
        b':',
        mi1,
        mi2,
        b':',
        s1,
        s2,
    ] = date_time
    else {
        return None;
    };
    let year = two(*y1, *y2)? * 100 + two(*y3, *y4)?;
    let (month, day) = (two(*mo1, *mo2)?, two(*d1, *d2)?);
    let (hour, minute, second) = (two(*h1, *h2)?, two(*mi1, *mi2)?, two(*s1, *s2)?);
    let is_leap_second = second == 60 && minute % 30 == 29;
    if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
        return None;
    }
    if hour > 23 || minute > 59 || (second > 59 && !is_leap_second) {
        return None;
    }
    let (fraction_micros, rest) = fraction(rest)?;
    let offset_seconds = offset(rest)?;
    let seconds =
        days_from_civil(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second - offset_seconds;
    Some(seconds * MICROS + fraction_micros)
}

fn two(tens: u8, ones: u8) -> Option<i64> {
    let digit = |b: u8| b.is_ascii_digit().then(|| i64::from(b - b'0'));
    Some(digit(tens)? * 10 + digit(ones)?)
}

/// `.52…` → microseconds, and what follows. No fraction is 0.
fn fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let Some(digits) = text.strip_prefix(b".") else {
        return Some((0, text));
    };
    let count = digits.iter().take_while(|b| b.is_ascii_digit()).count();
    let (digits, rest) = digits.split_at_checked(count)?;
    if digits.is_empty() {
        return None;
    }
    let micros = (0..6).fold(0, |sum, index| {
        sum * 10 + digits.get(index).map_or(0, |b| i64::from(b - b'0'))
    });
    Some((micros, rest))
}

/// `Z`, `+01:00` → seconds east of UTC.
fn offset(text: &[u8]) -> Option<i64> {
    match text {
        b"Z" | b"z" => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (two(*h1, *h2)?, two(*m1, *m2)?);
            let seconds = (hours <= 23 && minutes <= 59).then_some(hours * 3_600 + minutes * 60)?;
            Some(if *sign == b'-' { -seconds } else { seconds })
        }
        _ => None,
    }
}

fn days_in_month(year: i64, month: i64) -> i64 {
    let is_leap_year = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if is_leap_year => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 in the proleptic Gregorian calendar. The year starts in March, so that the leap day is its last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The inverse: year, month, day.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let year = year_of_era + era * 400;
    if month < 10 {
        (year, month + 3, day)
    } else {
        (year + 1, month - 9, day)
    }
}

/// `2025-07-15T10:30:00.000000Z`.
pub(crate) fn write_rfc3339(at: UnixMicros, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let seconds = at.0.div_euclid(MICROS);
    let (year, month, day) = civil_from_days(seconds.div_euclid(86_400));
    let of_day = seconds.rem_euclid(86_400);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    let micros = at.0.rem_euclid(MICROS);
    write!(
        f,
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z"
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn micros(text: &str) -> i64 {
        parse_rfc3339(text)
            .unwrap_or_else(|refusal| panic!("{refusal}"))
            .0
    }

    #[test]
    fn the_limits_are_the_years_they_claim() {
        assert_eq!(MIN.to_string(), "2000-01-01T00:00:00.000000Z");
        assert_eq!(MAX.to_string(), "2200-01-01T00:00:00.000000Z");
    }

    #[test]
    fn rfc3339_forms() {
        let expected = 1_752_575_400_000_000;
        for text in [
            "2025-07-15T10:30:00Z",
            "2025-07-15t10:30:00z",
            "2025-07-15 10:30:00Z",
            "2025-07-15T12:30:00+02:00",
            "2025-07-15T00:00:00-10:30",
            "2025-07-15T10:30:00.0000009999999999999999Z",
            "2025-07-15T10:29:60Z",
        ] {
            assert_eq!(micros(text), expected, "{text}");
        }
        assert_eq!(micros("2025-07-15T10:30:00.5Z"), expected + 500_000);
        assert_eq!(micros("2025-07-15T10:30:00.123456789+00:00"), expected + 123_456);
    }

    #[test]
    fn what_is_not_rfc3339_is_refused() {
        for text in [
            "",
            "now",
            "2025-07-15",
            "2025-02-29T00:00:00Z",
            "2025-13-01T00:00:00Z",
            "2025-00-01T00:00:00Z",
            "2025-07-00T00:00:00Z",
            "2025-07-15T24:00:00Z",
            "2025-07-15T10:60:00Z",
            "2025-07-15T10:30:60Z",
            "2025-07-15T10:30:00.Z",
            "2025-07-15T10:30:00+2:00",
            "2025-07-15T10:30:00+24:00",
            "2025-07-15T10:30:00ZZ",
            "2025-07-15T10:30:00\u{661}Z",
            "+2025-07-15T10:30:00Z",
            "15/07/2025 10:30",
            "1752575400",
        ] {
            assert_eq!(
                parse_rfc3339(text).unwrap_err().reason,
                Reason::BadTimestamp,
                "{text}"
            );
        }
        assert_eq!(
            parse_rfc3339("2025-07-15T10:30:00").unwrap_err().to_string(),
            "bad_timestamp: timestamp \"2025-07-15T10:30:00\" has no offset from UTC"
        );
        for text in [
            "1970-01-01T00:00:00Z",
            "1999-12-31T23:59:59.999999Z",
            "2200-01-01T00:00:00Z",
        ] {
            assert_eq!(
                parse_rfc3339(text).unwrap_err().reason,
                Reason::TimestampOutOfRange,
                "{text}"
            );
        }
    }

    #[test]
    fn unix_units_are_told_by_magnitude() {
        for number in [
            1_752_575_400,
            1_752_575_400_000,
            1_752_575_400_000_000,
            1_752_575_400_000_000_999,
        ] {
            assert_eq!(
                parse_unix(number),
                Ok(UnixMicros(1_752_575_400_000_000)),
                "{number}"
            );
        }
        for edge in [MIN_SECONDS, MAX_SECONDS - 1] {
            for per_second in [1, 1_000, 1_000_000, 1_000_000_000] {
                assert_eq!(
                    parse_unix(edge * per_second),
                    Ok(UnixMicros(edge * MICROS)),
                    "{edge} × {per_second}"
                );
            }
        }
        for number in [
            0,
            -1,
            12_345,
            MIN_SECONDS - 1,
            MAX_SECONDS,
            MAX_SECONDS * 1_000_000_000,
            i64::MAX,
            i64::MIN,
        ] {
            assert_eq!(
                parse_unix(number).unwrap_err().reason,
                Reason::TimestampOutOfRange,
                "{number}"
            );
        }
        assert_eq!(
            parse_unix_fraction(1_752_575_400.25),
            Ok(UnixMicros(1_752_575_400_250_000))
        );
        assert_eq!(
            parse_unix_fraction(1_752_575_400_250.5),
            Ok(UnixMicros(1_752_575_400_250_500))
        );
        for number in [0.5, -1.5, 1e300, f64::MAX, f64::MIN] {
            assert!(parse_unix_fraction(number).is_err(), "{number}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_chrono(at in MIN.0..MAX.0, offset_minutes in -1439i32..1440, digits in 0usize..10) {
            let offset = chrono::FixedOffset::east_opt(offset_minutes * 60).unwrap();
            let moment = chrono::DateTime::from_timestamp_micros(at).unwrap().with_timezone(&offset);
            let fraction = format!("{:09}", at.rem_euclid(MICROS) * 1_000);
            let text = match digits {
                0 => moment.format("%Y-%m-%dT%H:%M:%S%:z").to_string(),
                _ => format!("{}.{}{}", moment.format("%Y-%m-%dT%H:%M:%S"), &fraction[..digits], moment.format("%:z")),
            };
            let chronos = chrono::DateTime::parse_from_rfc3339(&text).unwrap().timestamp_micros();
            prop_assert_eq!(parse_rfc3339(&text), Ok(UnixMicros(chronos)));
        }

        #[test]
        fn writes_what_it_reads(at in MIN.0..MAX.0) {
            prop_assert_eq!(parse_rfc3339(&UnixMicros(at).to_string()), Ok(UnixMicros(at)));
        }

        #[test]
        fn never_panics(text in ".{0,40}", number: i64, fraction: f64) {
            let results = (parse_rfc3339(&text).is_ok(), parse_unix(number).is_ok(), parse_unix_fraction(fraction).is_ok());
            prop_assert_ne!(results, (true, true, true));
        }
    }
}
