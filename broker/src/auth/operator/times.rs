//! Times of the day at which a user may come.

use jiff::civil::Time;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Zoned};

use crate::auth::jwt::TimeRange;
use crate::types::UnixNanos;

/// Until when somebody may stay who comes at `now`; none: for ever. `None`: he may not come.
pub(super) fn until(ranges: &[TimeRange], zone: &str, now: UnixNanos) -> Option<Option<UnixNanos>> {
    if ranges.is_empty() {
        return Some(None);
    }
    let zone = match zone {
        "" => TimeZone::system(),
        name => TimeZone::get(name).ok()?,
    };
    let now = Timestamp::from_nanosecond(i128::from(now.0)).ok()?.to_zoned(zone);
    let mut latest = None;
    for range in ranges {
        let (start, end) = (time(&range.start)?, time(&range.end)?);
        latest = latest.max(end_of(&now, start, end));
    }
    Some(Some(latest?))
}

fn time(text: &str) -> Option<Time> {
    Time::strptime("%H:%M:%S", text).ok()
}

/// When the range ends in which `now` is, if it is in it. It may reach over midnight.
fn end_of(now: &Zoned, start: Time, end: Time) -> Option<UnixNanos> {
    let at = |time: Time| {
        now.date()
            .to_datetime(time)
            .to_zoned(now.time_zone().clone())
            .ok()
    };
    let (start_today, end_today) = (at(start)?, at(end)?);
    let is_over_midnight = start_today > end_today;
    let end = if end_today > *now && (is_over_midnight || start_today < *now) {
        end_today
    } else if is_over_midnight && start_today < *now {
        end_today.checked_add(1.day()).ok()?
    } else {
        return None;
    };
    let nanos = i64::try_from(end.timestamp().as_nanosecond()).ok()?;
    Some(UnixNanos(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_may_reach_over_midnight() {
        let until = |start: &str, end: &str, now: &str| {
            let range = TimeRange {
                start: start.to_owned(),
                end: end.to_owned(),
            };
            let now: Timestamp = now.parse().unwrap();
            let until = until(&[range], "UTC", UnixNanos(now.as_nanosecond() as i64))?;
            let end = Timestamp::from_nanosecond(i128::from(until?.0)).unwrap();
            Some(end.to_string())
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            until("11:00:00", "22:00:00", "2026-01-02T13:00:00Z"),
            some("2026-01-02T22:00:00Z")
        );
        assert_eq!(until("11:00:00", "22:00:00", "2026-01-02T23:00:00Z"), None);
        assert_eq!(
            until("22:00:00", "06:00:00", "2026-01-02T05:00:00Z"),
            some("2026-01-02T06:00:00Z")
        );
        assert_eq!(
            until("22:00:00", "06:00:00", "2026-01-02T23:30:00Z"),
            some("2026-01-03T06:00:00Z")
        );
        assert_eq!(until("22:00:00", "06:00:00", "2026-01-02T12:00:00Z"), None);
        assert_eq!(until("nonsense", "06:00:00", "2026-01-02T05:00:00Z"), None);
    }
}
