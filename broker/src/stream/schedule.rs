//! Schedules: messages that have others published later, once or again and again.
//! Source: ADR-51; nats-server, `scheduler.go`.

use std::collections::{BTreeMap, BTreeSet};

use jiff::tz::TimeZone;

use super::config::StreamConfig;
use super::cron::Cron;
use super::headers::{self, PublishHeaders, SCHEDULE_NEXT, SCHEDULER, ScheduleHeaders};
use super::ttl;
use crate::api::error::ApiError;
use crate::api::time;
use crate::store::Record;
use crate::subject;
use crate::types::UnixNanos;

/// Schedules of one stream at the same time; a further one is refused.
const SCHEDULES_MAX: usize = 1 << 20;
const SECOND_NS: i64 = 1_000_000_000;
/// What a message that has no successor says about it.
const PURGE: &str = "purge";

/// When a schedule fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fires {
    pub(crate) at: UnixNanos,
    pub(crate) repeats: bool,
}

/// The schedules of a stream, by subject: each subject has at most one.
#[derive(Debug, Default)]
pub(crate) struct Schedules {
    by_subject: BTreeMap<Box<str>, (u64, UnixNanos)>,
    due: BTreeSet<(UnixNanos, u64, Box<str>)>,
}

impl Schedules {
    /// Whether no further subject fits.
    pub(crate) fn is_full(&self) -> bool {
        self.by_subject.len() >= SCHEDULES_MAX
    }

    /// The message `seq` of `subject` fires at `at`, and no earlier message of the subject any more.
    pub(crate) fn set(&mut self, subject: &str, seq: u64, at: UnixNanos) {
        self.remove(subject);
        self.by_subject.insert(subject.into(), (seq, at));
        self.due.insert((at, seq, subject.into()));
    }

    /// The subject has no schedule any more.
    pub(crate) fn remove(&mut self, subject: &str) {
        if let Some((subject, (seq, at))) = self.by_subject.remove_entry(subject) {
            self.due.remove(&(at, seq, subject));
        }
    }

    /// The subject's schedule, if it has one, fires next at `at`.
    pub(crate) fn defer(&mut self, subject: &str, at: UnixNanos) {
        if let Some((seq, _)) = self.by_subject.get(subject).copied() {
            self.set(subject, seq, at);
        }
    }

    /// When the next one fires.
    pub(crate) fn next(&self) -> Option<UnixNanos> {
        self.due.first().map(|(at, ..)| *at)
    }

    /// Takes out the next schedule that is due at `now`: its subject, its sequence, and when it was to fire.
    pub(crate) fn pop_due(&mut self, now: UnixNanos) -> Option<(Box<str>, u64, UnixNanos)> {
        self.next().filter(|at| *at <= now)?;
        let (at, seq, subject) = self.due.pop_first()?;
        self.by_subject.remove(&subject);
        Some((subject, seq, at))
    }

    /// Forgets everything above `durable_seq`: it was not stored after all. The schedules it replaced are found again
    /// after a restart.
    pub(crate) fn roll_back(&mut self, durable_seq: u64) {
        let gone: Vec<Box<str>> = self
            .by_subject
            .iter()
            .filter(|(_, (seq, _))| *seq > durable_seq)
            .map(|(subject, _)| subject.clone())
            .collect();
        for subject in gone {
            self.remove(&subject);
        }
    }
}

/// When a pattern fires first after `after`; times that are past at `now` are skipped where it repeats.
///
/// # Errors
/// 10189 for what is no pattern, 10223 for what is no time zone.
pub(crate) fn fires(
    headers: &ScheduleHeaders<'_>,
    after: UnixNanos,
    now: UnixNanos,
) -> Result<Option<Fires>, ApiError> {
    let zone = match headers.time_zone {
        None => None,
        Some(name) => Some(time_zone(name).ok_or(ApiError::SCHEDULE_TIME_ZONE)?),
    };
    let Some(pattern) = headers.pattern else {
        return Ok(None);
    };
    pattern_fires(pattern, zone.as_ref(), after, now)
        .map(Some)
        .ok_or(ApiError::SCHEDULE_PATTERN)
}

fn time_zone(name: &str) -> Option<TimeZone> {
    if name.is_empty() || name.len() > 128 {
        return None;
    }
    TimeZone::get(name).ok()
}

fn pattern_fires(pattern: &str, zone: Option<&TimeZone>, after: UnixNanos, now: UnixNanos) -> Option<Fires> {
    if let Some(text) = pattern.strip_prefix("@at ") {
        let at = time::parse(text).filter(|_| zone.is_none())?;
        return Some(Fires { at, repeats: false });
    }
    let repeated = |at| Fires { at, repeats: true };
    if let Some(text) = pattern.strip_prefix("@every ") {
        let every = time::go_duration_ns(text).filter(|nanos| *nanos >= SECOND_NS && zone.is_none())?;
        let next = round_to_second(after).saturating_add(every);
        return Some(repeated(if next < now {
            round_to_second(now).saturating_add(every)
        } else {
            next
        }));
    }
    let cron = match pattern {
        "@yearly" | "@annually" => "0 0 0 1 1 *",
        "@monthly" => "0 0 0 1 * *",
        "@weekly" => "0 0 0 * * 0",
        "@daily" | "@midnight" => "0 0 0 * * *",
        "@hourly" => "0 0 * * * *",
        pattern => pattern,
    };
    let cron = Cron::parse(cron)?;
    let zone = zone.cloned().unwrap_or(TimeZone::UTC);
    let zone = &zone;
    let next = cron.next(after, zone)?;
    if next < now {
        return Some(repeated(cron.next(round_to_second(now), zone)?));
    }
    Some(repeated(next))
}

fn round_to_second(time: UnixNanos) -> UnixNanos {
    UnixNanos(
        time.0
            .saturating_add(SECOND_NS / 2)
            .div_euclid(SECOND_NS)
            .saturating_mul(SECOND_NS),
    )
}

/// Checks what a publisher says about schedules. Returns when the message fires, if it is one; it then rolls up its
/// subject.
///
/// # Errors
/// As nats-server gives them: 10166, 10188 to 10192, 10203, 10223.
pub(crate) fn check(
    subject: &str,
    headers: &PublishHeaders<'_>,
    config: &StreamConfig,
    now: UnixNanos,
) -> Result<Option<Fires>, ApiError> {
    let schedule = &headers.schedule;
    let fires = match fires(schedule, now, now) {
        Err(error) if config.allow_msg_schedules => return Err(error),
        Err(_) => return Err(ApiError::SCHEDULES_DISABLED),
        Ok(None) => return Ok(None),
        Ok(Some(_)) if !config.allow_msg_schedules => return Err(ApiError::SCHEDULES_DISABLED),
        Ok(Some(fires)) => fires,
    };
    if let Some(text) = schedule.ttl {
        ttl::parse(text).map_err(|_| ApiError::SCHEDULE_TTL)?;
    }
    if schedule.rollup.is_some_and(|rollup| rollup != "sub") {
        return Err(ApiError::SCHEDULE_ROLLUP);
    }
    if schedule.ttl.is_some() && !config.allow_msg_ttl {
        return Err(ApiError::TTL_DISABLED);
    }
    let captured = |subject: &str| config.subjects.iter().any(|own| subject::overlaps(own, subject));
    let target = schedule.target.unwrap_or_default();
    if !subject::is_valid_literal(target) || target == subject || !captured(target) {
        return Err(ApiError::SCHEDULE_TARGET);
    }
    if let Some(source) = schedule.source
        && (source == target || source == subject || !subject::is_valid_literal(source) || !captured(source))
    {
        return Err(ApiError::SCHEDULE_SOURCE);
    }
    if headers.rollup.is_some_and(|rollup| rollup != "sub") {
        return Err(ApiError::SCHEDULE_ROLLUP);
    }
    Ok(Some(fires))
}

/// Checks the headers by which a publisher ends a schedule: `Nats-Schedule-Next: purge` with `Nats-Scheduler`. Returns the
/// subject whose schedule ends. `is_schedule` says whether the last message of a subject is one.
///
/// # Errors
/// 10212, or 10188 where the stream has no schedules.
pub(crate) fn check_end<'a>(
    subject: &str,
    schedule: &ScheduleHeaders<'a>,
    config: &StreamConfig,
    is_schedule: impl FnOnce(&str) -> Result<Option<bool>, ApiError>,
) -> Result<Option<&'a str>, ApiError> {
    let invalid = Err(ApiError::SCHEDULE_SCHEDULER);
    let Some(next) = schedule.next else {
        return if schedule.scheduler.is_some() {
            invalid
        } else {
            Ok(None)
        };
    };
    let scheduler = schedule.scheduler.unwrap_or_default();
    if next != PURGE || !subject::is_valid_literal(scheduler) || scheduler == subject {
        return invalid;
    }
    if !config.allow_msg_schedules {
        return Err(ApiError::SCHEDULES_DISABLED);
    }
    if is_schedule(scheduler)? == Some(false) {
        return invalid;
    }
    Ok(Some(scheduler))
}

/// A message that a schedule publishes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Scheduled {
    pub(crate) target: String,
    pub(crate) headers: Vec<u8>,
    pub(crate) payload: bytes::Bytes,
    /// When the schedule fires again; `None`: never, it is removed.
    pub(crate) next: Option<UnixNanos>,
}

/// What the schedule `record`, due at `due`, publishes. `last` gives the last message of a subject. `None`: it is no usable
/// schedule.
pub(crate) fn scheduled(
    record: &Record,
    due: UnixNanos,
    now: UnixNanos,
    last: impl FnOnce(&str) -> Option<Record>,
) -> Option<Scheduled> {
    let parsed = PublishHeaders::parse(&record.headers).schedule;
    parsed.pattern?;
    let fires = fires(&parsed, due, now).ok()??;
    let target = parsed.target?.to_owned();
    let source = parsed.source.and_then(last);
    let content = source.as_ref().unwrap_or(record);
    let is_dropped = |name: &str| {
        name.starts_with("Nats-Schedule")
            || name.starts_with("Nats-Expected-")
            || [headers::MSG_ID, headers::TTL, headers::ROLLUP].contains(&name)
    };
    let mut block = headers::without_fields(&content.headers, is_dropped);
    block = headers::with_field(&block, SCHEDULER, &record.subject);
    let next = fires.repeats.then_some(fires.at);
    let next_text = next.map_or_else(|| PURGE.to_owned(), time::format);
    block = headers::with_field(&block, SCHEDULE_NEXT, &next_text);
    if let Some(ttl) = parsed.ttl {
        block = headers::with_field(&block, headers::TTL, ttl);
    }
    if let Some(rollup) = parsed.rollup {
        block = headers::with_field(&block, headers::ROLLUP, rollup);
    }
    Some(Scheduled {
        target,
        headers: block,
        payload: content.payload.clone(),
        next,
    })
}
