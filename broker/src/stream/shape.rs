//! What a stream's features make of a message before it is stored: sums of counters, schedules, the subject's transform.

use bytes::Bytes;

use super::config::StreamConfig;
use super::counter::{self, LastCounter};
use super::headers::{self, PublishHeaders, ROLLUP, TTL};
use super::schedule::{self, Fires};
use super::{Incoming, Records, Stream, ttl};
use crate::api::error::ApiError;
use crate::subject::transform::SubjectTransform;
use crate::types::UnixNanos;

const SECOND_NS: i64 = 1_000_000_000;

/// A message as it is stored, where that is not as it was published.
#[derive(Debug)]
pub(crate) struct Shaped {
    pub(crate) headers: Bytes,
    pub(crate) payload: Bytes,
    /// When it has another message published, if it is a schedule.
    pub(crate) fires: Option<Fires>,
    /// The subject whose schedule ends with it.
    pub(crate) ends_schedule: Option<String>,
    /// The counter's value with it.
    pub(crate) value: Option<String>,
}

impl Shaped {
    /// The message to be stored under `subject`.
    pub(crate) fn incoming<'a>(&'a self, subject: &'a str) -> Incoming<'a> {
        Incoming {
            subject,
            headers: &self.headers,
            payload: &self.payload,
        }
    }
}

/// The transform of what comes in. A configuration that was checked has a valid one.
pub(super) fn transform_of(config: &StreamConfig) -> Option<SubjectTransform> {
    let transform = config.subject_transform.as_ref()?;
    SubjectTransform::new(&transform.src, &transform.dest).ok()
}

/// The transform of what is published once more.
pub(super) fn republish_of(config: &StreamConfig) -> Option<SubjectTransform> {
    let republish = config.republish.as_ref()?;
    SubjectTransform::new(&republish.src, &republish.dest).ok()
}

impl Stream {
    /// Does what the stream's features do with a message. `None`: it is stored as it is.
    ///
    /// # Errors
    /// nats-server's error for the first check that fails.
    pub(super) fn shape(
        &self,
        now: UnixNanos,
        message: Incoming<'_>,
        headers: &PublishHeaders<'_>,
        records: &impl Records,
    ) -> Result<Option<Box<Shaped>>, ApiError> {
        let config = &*self.config;
        if headers.stream_source.is_some() {
            return Err(ApiError::SOURCE_HEADER);
        }
        let fires = schedule::check(message.subject, headers, config, now)?;
        let is_schedule = |subject: &str| {
            let record = records.last(subject)?;
            Ok(record.map(|record| headers::field(&record.headers, headers::SCHEDULE).is_some()))
        };
        let ends = schedule::check_end(message.subject, &headers.schedule, config, is_schedule)?;
        if fires.is_some() && self.schedules.is_full() {
            return Err(ApiError::TOO_MANY_REQUESTS);
        }
        let longer_ttl = self.marker_ttl_secs(headers);
        if fires.is_none() && ends.is_none() && longer_ttl.is_none() && headers.increment.is_none() {
            return Ok(None);
        }
        let mut shaped = Shaped {
            headers: Bytes::copy_from_slice(message.headers),
            payload: Bytes::copy_from_slice(message.payload),
            fires,
            ends_schedule: ends.map(ToOwned::to_owned),
            value: None,
        };
        if fires.is_some() && headers.rollup.is_none() {
            shaped.headers = headers::with_field(&shaped.headers, ROLLUP, "sub").into();
        }
        if let Some(seconds) = longer_ttl {
            shaped.headers = headers::set_field(&shaped.headers, TTL, &seconds.to_string()).into();
        }
        if let Some(increment) = headers.increment {
            let last = records.last(message.subject)?;
            let last = last.as_ref().map(|record| LastCounter {
                headers: &record.headers,
                payload: &record.payload,
            });
            let counted = counter::add(message.headers, increment, last)?;
            shaped.headers = counted.headers.into();
            shaped.payload = counted.payload.into();
            shaped.value = Some(counted.value);
        }
        Ok(Some(Box::new(shaped)))
    }

    /// Where delete markers are left behind, no message lives shorter than they do: the time to live to be set instead.
    fn marker_ttl_secs(&self, headers: &PublishHeaders<'_>) -> Option<i64> {
        let config = &*self.config;
        if config.subject_delete_marker_ttl == 0 || config.max_msgs_per_subject == 1 {
            return None;
        }
        let asked = ttl::parse(headers.ttl?).ok().flatten()? / SECOND_NS;
        let least = config.subject_delete_marker_ttl / SECOND_NS;
        (asked < least).then_some(least)
    }
}
