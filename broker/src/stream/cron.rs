//! Cron patterns with six fields: second, minute, hour, day of the month, month, day of the week.
//! Source: ADR-51.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use crate::types::UnixNanos;

const NANOS: i64 = 1_000_000_000;
/// Years that are looked through for a match.
const YEARS_MAX: i16 = 5;
/// A field that was written as `*` or `?`.
const STAR: u64 = 1 << 63;
const PATTERN_BYTES_MAX: usize = 1024;

/// A checked pattern: a bit for each value of a field that matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cron {
    seconds: u64,
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
}

struct Bounds {
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const SIXTY: Bounds = Bounds {
    min: 0,
    max: 59,
    names: &[],
};
const HOURS: Bounds = Bounds {
    min: 0,
    max: 23,
    names: &[],
};
const DAYS: Bounds = Bounds {
    min: 1,
    max: 31,
    names: &[],
};
const MONTHS: Bounds = Bounds {
    min: 1,
    max: 12,
    names: &[
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ],
};
const WEEKDAYS: Bounds = Bounds {
    min: 0,
    max: 6,
    names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
};

impl Cron {
    /// `None`: no pattern.
    pub(super) fn parse(pattern: &str) -> Option<Self> {
        if pattern.len() > PATTERN_BYTES_MAX {
            return None;
        }
        let fields: Vec<&str> = pattern.split_whitespace().collect();
        let [seconds, minutes, hours, days, months, weekdays] = fields.as_slice() else {
            return None;
        };
        Some(Self {
            seconds: parse_field(seconds, &SIXTY)?,
            minutes: parse_field(minutes, &SIXTY)?,
            hours: parse_field(hours, &HOURS)?,
            days: parse_field(days, &DAYS)?,
            months: parse_field(months, &MONTHS)?,
            weekdays: parse_field(weekdays, &WEEKDAYS)?,
        })
    }

    /// The first time after `after` that matches in `zone`, if there is one within five years. A time of day that the
    /// clock jumps over counts as the time it jumps to; one that comes twice counts once.
    pub(super) fn next(&self, after: UnixNanos, zone: &TimeZone) -> Option<UnixNanos> {
        let start = Timestamp::from_second(after.0.div_euclid(NANOS).checked_add(1)?).ok()?;
        let mut at = zone.to_datetime(start);
        let last_year = at.year().checked_add(YEARS_MAX)?;
        loop {
            let local = self.next_local(at, last_year)?;
            let time = zone.to_zoned(local).ok()?.timestamp();
            if time >= start {
                return Some(UnixNanos(time.as_second().checked_mul(NANOS)?));
            }
            at = local.checked_add(1.second()).ok()?;
        }
    }

    /// The first local time at or after `at` that matches.
    fn next_local(&self, at: DateTime, last_year: i16) -> Option<DateTime> {
        let mut date = at.date();
        let mut from = (
            u32::from(at.hour() as u8),
            u32::from(at.minute() as u8),
            u32::from(at.second() as u8),
        );
        while date.year() <= last_year {
            if !has(self.months, u32::from(date.month() as u8)) {
                date = date.last_of_month().tomorrow().ok()?;
            } else if let Some((hour, minute, second)) =
                self.matches_day(date).then(|| self.next_time(from)).flatten()
            {
                return Some(date.at(hour as i8, minute as i8, second as i8, 0));
            } else {
                date = date.tomorrow().ok()?;
            }
            from = (0, 0, 0);
        }
        None
    }

    fn matches_day(&self, date: Date) -> bool {
        let day = has(self.days, u32::from(date.day() as u8));
        let weekday = has(
            self.weekdays,
            u32::from(date.weekday().to_sunday_zero_offset() as u8),
        );
        if (self.days | self.weekdays) & STAR > 0 {
            day && weekday
        } else {
            day || weekday
        }
    }

    /// The first time of day at or after `from`.
    fn next_time(&self, from: (u32, u32, u32)) -> Option<(u32, u32, u32)> {
        let (hour, minute, second) = from;
        let first = |bits: u64| first_from(bits, 0);
        if has(self.hours, hour) {
            if has(self.minutes, minute)
                && let Some(second) = first_from(self.seconds, second)
            {
                return Some((hour, minute, second));
            }
            if let Some(minute) = first_from(self.minutes, minute + 1) {
                return Some((hour, minute, first(self.seconds)?));
            }
        }
        let hour = first_from(self.hours, hour + 1)?;
        Some((hour, first(self.minutes)?, first(self.seconds)?))
    }
}

fn has(bits: u64, value: u32) -> bool {
    bits & (1 << value) > 0
}

fn first_from(bits: u64, value: u32) -> Option<u32> {
    let rest = (bits & !STAR).checked_shr(value)? << value;
    (rest != 0).then(|| rest.trailing_zeros())
}

fn parse_field(field: &str, bounds: &Bounds) -> Option<u64> {
    let mut bits = 0;
    for part in field.split(',').filter(|part| !part.is_empty()) {
        bits |= parse_range(part, bounds)?;
    }
    Some(bits)
}

fn parse_range(text: &str, bounds: &Bounds) -> Option<u64> {
    let (range, step) = match text.split_once('/') {
        Some((range, step)) => (range, Some(step.parse::<u32>().ok()?)),
        None => (text, None),
    };
    let value = |text: &str| {
        let named = bounds
            .names
            .iter()
            .position(|name| name.eq_ignore_ascii_case(text));
        match named {
            Some(index) => Some(index as u32 + bounds.min),
            None => text.parse::<u32>().ok(),
        }
    };
    let mut star = 0;
    let (start, mut end, is_single) = match range.split_once('-') {
        _ if range == "*" || range == "?" => {
            star = STAR;
            (bounds.min, bounds.max, true)
        }
        None => (value(range)?, value(range)?, true),
        Some((low, high)) => (value(low)?, value(high)?, false),
    };
    if step.is_some() && is_single {
        end = bounds.max;
    }
    let step = step.unwrap_or(1);
    if step > 1 {
        star = 0;
    }
    if start < bounds.min || end > bounds.max || start > end || step == 0 {
        return None;
    }
    let values = (start..=end).step_by(step as usize);
    Some(values.fold(star, |bits, value| bits | 1 << value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn next(pattern: &str, after: &str, zone: &str) -> String {
        let zone = TimeZone::get(zone).unwrap();
        let after: Timestamp = after.parse().unwrap();
        let found = Cron::parse(pattern)
            .unwrap()
            .next(UnixNanos(after.as_second() * NANOS), &zone);
        found.map_or("none".to_owned(), |time| {
            Timestamp::from_second(time.0 / NANOS).unwrap().to_string()
        })
    }

    #[test]
    fn patterns_match_when_they_say() {
        let cases = [
            ("* * * * * *", "2025-01-01T00:00:00Z", "2025-01-01T00:00:01Z"),
            ("0 */15 * * * *", "2025-01-01T00:14:59Z", "2025-01-01T00:15:00Z"),
            ("0 0 0 1 1 *", "2025-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
            (
                "0 0 12 * * MON-FRI",
                "2025-01-03T12:00:00Z",
                "2025-01-06T12:00:00Z",
            ),
            ("0 0 0 29 feb *", "2025-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("5,10 30 6 13 * 5", "2025-01-01T00:00:00Z", "2025-01-03T06:30:05Z"),
            ("0 0 0 31 2 *", "2025-01-01T00:00:00Z", "none"),
        ];
        for (pattern, after, expected) in cases {
            assert_eq!(next(pattern, after, "UTC"), expected, "{pattern}");
        }
    }

    #[test]
    fn zones_have_their_own_midnight() {
        let midnight = "0 0 0 * * *";
        assert_eq!(
            next(midnight, "2025-07-01T00:00:00Z", "Europe/Amsterdam"),
            "2025-07-01T22:00:00Z"
        );
        assert_eq!(
            next("0 30 2 * * *", "2025-03-30T00:30:00Z", "Europe/Amsterdam"),
            "2025-03-30T01:30:00Z"
        );
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for pattern in [
            "",
            "* * * * *",
            "60 * * * * *",
            "*/0 * * * * *",
            "5-1 * * * * *",
            "* * * * * x",
            "1/2/3 * * * * *",
        ] {
            assert_eq!(Cron::parse(pattern), None, "{pattern}");
        }
    }

    fn field(max: u32) -> impl Strategy<Value = String> {
        prop_oneof![
            3 => Just("*".to_owned()),
            2 => (0..=max).prop_map(|value| value.to_string()),
            1 => (0..=max / 2, max / 2..=max).prop_map(|(low, high)| format!("{low}-{high}")),
            1 => (2..9_u32).prop_map(|step| format!("*/{step}")),
        ]
    }

    proptest! {
        #[test]
        fn the_next_time_is_the_first_that_matches(
            fields in (field(59), field(59), field(23)), day in 0_u32..7, after in 1_700_000_000_i64..1_800_000_000
        ) {
            let pattern = format!("{} {} {} * * {day}-6", fields.0, fields.1, fields.2);
            let cron = Cron::parse(&pattern).unwrap();
            let found = cron.next(UnixNanos(after * NANOS), &TimeZone::UTC).unwrap().0 / NANOS;
            let matches = |second: i64| {
                let at = TimeZone::UTC.to_datetime(Timestamp::from_second(second).unwrap());
                has(cron.seconds, at.second() as u32)
                    && has(cron.minutes, at.minute() as u32)
                    && has(cron.hours, at.hour() as u32)
                    && has(cron.weekdays, at.weekday().to_sunday_zero_offset() as u32)
            };
            prop_assert!(matches(found));
            prop_assert!(found > after);
            // Not every second of a week: the naive model looks at the last hour before.
            prop_assert!((after.max(found - 3600) + 1..found).all(|second| !matches(second)));
        }

        #[test]
        fn no_text_panics(text in "[-0-9*/?, a-z]{0,30}") {
            if let Some(cron) = Cron::parse(&text) {
                cron.next(UnixNanos(0), &TimeZone::UTC);
            }
        }
    }
}
