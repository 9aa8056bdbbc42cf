//! One stream: what it takes in and in which order its checks come. Its records are in the store.

pub(crate) mod batch;
pub(crate) mod config;
pub(crate) mod counter;
mod cron;
pub(crate) mod dedupe;
pub(crate) mod fast;
mod features;
pub(crate) mod headers;
pub(crate) mod notes;
pub(crate) mod schedule;
mod shape;
pub(crate) mod source;
pub(crate) mod ttl;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::api::error::ApiError;
use crate::engine::time::{Mono, Now};
use crate::engine::{ConsumerId, Origins};
use crate::store::{Record, StreamState};
use crate::subject::transform::SubjectTransform;
use crate::types::{AccountId, StreamId, UnixNanos};
use batch::Batches;
use config::{Discard, StreamConfig};
use dedupe::{DuplicateWindow, IdKind};
use fast::FastBatches;
use headers::PublishHeaders;
use schedule::Schedules;
pub(crate) use shape::Shaped;
use ttl::Expiries;

/// Largest header block, in bytes.
pub(crate) const HEADER_BYTES_MAX: usize = u16::MAX as usize;

/// A stream without its records.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) id: StreamId,
    pub(crate) account: AccountId,
    pub(crate) name: Arc<str>,
    pub(crate) config: Arc<StreamConfig>,
    pub(crate) created: UnixNanos,
    pub(crate) duplicates: DuplicateWindow,
    /// When messages expire that say so themselves.
    pub(crate) expiries: Expiries,
    /// Messages that publish others later.
    pub(crate) schedules: Schedules,
    /// Batches that are not complete.
    pub(crate) batches: Batches,
    /// Batches whose messages are stored as they come.
    pub(crate) fast: FastBatches,
    /// What is done to the subjects that come in.
    pub(crate) transform: Option<SubjectTransform>,
    /// Under which subject what was stored is published once more.
    pub(crate) republish: Option<SubjectTransform>,
    /// What the stream copies.
    pub(crate) origins: Origins,
    /// Whether another stream copies this one.
    pub(crate) is_copied: bool,
    /// Id of the last message, empty if it had none.
    pub(crate) last_msg_id: String,
    /// The consumers by name.
    pub(crate) consumers: BTreeMap<Arc<str>, ConsumerId>,
    /// The beginning of each acknowledgement, up to the sequence.
    pub(crate) ack_prefix: Arc<str>,
}

/// What is to be done with a message.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Store it, in another shape if there is one.
    Store(Rollup, Option<Box<Shaped>>),
    /// It was stored before, as this sequence.
    Duplicate(u64),
}

/// Which older messages go when a message is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Rollup {
    #[default]
    None,
    /// Those of the same subject.
    Subject,
    /// All.
    All,
}

/// What the checks of a message need to know about the stream's records.
pub(crate) trait Records {
    /// The stream in figures.
    fn state(&self) -> StreamState;
    /// Number of records and last sequence of a subject, or of all that a wildcard covers.
    fn subject(&self, subject: &str) -> Option<(u64, u64)>;
    /// The last message of a subject.
    ///
    /// # Errors
    /// For the publisher, if there is one and it cannot be read.
    fn last(&self, subject: &str) -> Result<Option<Record>, ApiError>;
}

/// A message that wants to be stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Incoming<'a> {
    pub(crate) subject: &'a str,
    pub(crate) headers: &'a [u8],
    pub(crate) payload: &'a [u8],
}

impl Stream {
    /// A stream as it was created or recovered, without its consumers and duplicate window.
    pub(crate) fn new(id: StreamId, account: AccountId, config: StreamConfig, created: UnixNanos) -> Self {
        let name = serde_json::Value::from(config.name.as_str());
        Self {
            id,
            account,
            name: config.name.as_str().into(),
            created,
            duplicates: DuplicateWindow::new(config.duplicate_window),
            expiries: Expiries::default(),
            schedules: Schedules::default(),
            batches: Batches::default(),
            fast: FastBatches::default(),
            transform: shape::transform_of(&config),
            republish: shape::republish_of(&config),
            origins: Origins::new(&config),
            is_copied: false,
            last_msg_id: String::new(),
            consumers: BTreeMap::new(),
            ack_prefix: format!("{{\"stream\":{name},\"seq\":").into(),
            config: Arc::new(config),
        }
    }

    /// Replaces the configuration by an update that was checked.
    pub(crate) fn set_config(&mut self, config: StreamConfig) {
        self.duplicates.set_window(config.duplicate_window);
        self.transform = shape::transform_of(&config);
        self.republish = shape::republish_of(&config);
        self.origins.change(&config);
        self.config = Arc::new(config);
    }

    /// Checks a message in nats-server's order.
    ///
    /// # Errors
    /// The error for the publisher; nothing is to be stored then.
    /// Source: nats-server, `processJetStreamMsg`.
    pub(crate) fn check(
        &mut self,
        now: Now,
        message: Incoming<'_>,
        headers: &PublishHeaders<'_>,
        records: &impl Records,
    ) -> Result<Verdict, ApiError> {
        if self.config.sealed {
            return Err(ApiError::SEALED);
        }
        let mut rollup = Rollup::None;
        let mut shaped = None;
        if !message.headers.is_empty() || self.config.allow_msg_counter {
            counter::check(headers, message.payload, self.config.allow_msg_counter)?;
            self.check_expected(message.subject, headers, records)?;
            shaped = self.shape(now.wall, message, headers, records)?;
            if let Some(id) = headers.msg_id {
                if let Some(seq) = self.duplicates.find(now.mono, IdKind::Message, id) {
                    return Ok(Verdict::Duplicate(seq));
                }
                if self.duplicates.is_full() {
                    return Err(ApiError::TOO_MANY_REQUESTS);
                }
            }
            if let Some(id) = headers.expected_last_msg_id
                && id != self.last_msg_id
            {
                return Err(ApiError::wrong_last_msg_id(&self.last_msg_id));
            }
            rollup = self.rollup(headers)?;
            if shaped.as_ref().is_some_and(|shaped| shaped.fires.is_some()) {
                rollup = Rollup::Subject;
            }
        }
        let stored = match &shaped {
            Some(shaped) => shaped.incoming(message.subject),
            None => message,
        };
        self.check_fits(stored, records)?;
        Ok(Verdict::Store(rollup, shaped))
    }

    fn check_expected(
        &self,
        subject: &str,
        headers: &PublishHeaders<'_>,
        records: &impl Records,
    ) -> Result<(), ApiError> {
        self.check_ttl(headers)?;
        if headers.expected_stream.is_some_and(|name| name != &*self.name) {
            return Err(ApiError::STREAM_NOT_MATCH);
        }
        match (
            headers.expected_last_subject_seq.map(parse_seq),
            headers.expected_last_subject,
        ) {
            (Some(expected), other_subject) => {
                let last = records
                    .subject(other_subject.unwrap_or(subject))
                    .map_or(0, |(_, last)| last);
                if last != expected {
                    return Err(ApiError::wrong_last_sequence(last));
                }
            }
            (None, Some(_)) => return Err(ApiError::EXPECTED_SUBJECT_WITHOUT_SEQ),
            (None, None) => {}
        }
        if let Some(expected) = headers.expected_last_seq.map(parse_seq) {
            let last = records.state().last_seq.0;
            if last != expected {
                return Err(ApiError::wrong_last_sequence(last));
            }
        }
        Ok(())
    }

    fn check_ttl(&self, headers: &PublishHeaders<'_>) -> Result<(), ApiError> {
        let Some(text) = headers.ttl else { return Ok(()) };
        let asks_for_one = ttl::parse(text)?.is_some() || text.eq_ignore_ascii_case("never");
        if asks_for_one && !self.config.allow_msg_ttl {
            return Err(ApiError::TTL_DISABLED);
        }
        if self.expiries.is_full() {
            Err(ApiError::TOO_MANY_REQUESTS)
        } else {
            Ok(())
        }
    }

    /// Notes when the message just stored as `seq` at `at` expires. Returns the time if it is the
    /// first to expire.
    pub(crate) fn note_expiry(&mut self, at: Mono, seq: u64, headers: &PublishHeaders<'_>) -> Option<Mono> {
        let Some(nanos) = ttl::parse(headers.ttl?).ok()? else {
            if headers.ttl.is_some_and(|text| text.eq_ignore_ascii_case("never")) {
                self.expiries.keep(seq);
            }
            return None;
        };
        let expires = at.after(nanos);
        (self.config.allow_msg_ttl && self.expiries.insert(expires, seq)).then_some(expires)
    }

    fn rollup(&self, headers: &PublishHeaders<'_>) -> Result<Rollup, ApiError> {
        let Some(value) = headers.rollup else {
            return Ok(Rollup::None);
        };
        if !self.config.allow_rollup_hdrs || self.config.deny_purge {
            return Err(ApiError::rollup_failed("rollup not permitted"));
        }
        match value {
            "sub" => Ok(Rollup::Subject),
            "all" => Ok(Rollup::All),
            _ => Err(ApiError::rollup_failed(format!(
                "rollup value invalid: {value:?}"
            ))),
        }
    }

    /// Checks a message against the stream's limits.
    ///
    /// # Errors
    /// If it is too large, or there is no room and the new message is to be refused.
    pub(crate) fn check_fits(&self, message: Incoming<'_>, records: &impl Records) -> Result<(), ApiError> {
        self.check_size(message)?;
        if self.config.discard == Discard::New {
            self.check_room(message, records)?;
        }
        Ok(())
    }

    /// Checks the bytes of headers and payload against the largest message that the stream takes.
    ///
    /// # Errors
    /// 10054 if there are more.
    pub(crate) fn check_max_size(&self, bytes: usize) -> Result<(), ApiError> {
        if usize::try_from(self.config.max_msg_size).is_ok_and(|max| bytes > max) {
            return Err(ApiError::MESSAGE_TOO_LARGE);
        }
        Ok(())
    }

    fn check_size(&self, message: Incoming<'_>) -> Result<(), ApiError> {
        self.check_max_size(message.headers.len() + message.payload.len())?;
        if message.headers.len() > HEADER_BYTES_MAX {
            return Err(ApiError::HEADER_TOO_LARGE);
        }
        Ok(())
    }

    /// Discard policy `new`: whether the message fits.
    fn check_room(&self, message: Incoming<'_>, records: &impl Records) -> Result<(), ApiError> {
        let config = &*self.config;
        let per_subject = u64::try_from(config.max_msgs_per_subject);
        let mut replaces_one = false;
        if let Ok(max) = per_subject
            && records
                .subject(message.subject)
                .is_some_and(|(count, _)| count >= max)
        {
            if config.discard_new_per_subject {
                return Err(ApiError::store_failed("maximum messages per subject exceeded"));
            }
            replaces_one = true;
        }
        let state = records.state();
        if u64::try_from(config.max_msgs).is_ok_and(|max| state.messages >= max) && !replaces_one {
            return Err(ApiError::store_failed("maximum messages exceeded"));
        }
        let bytes = (message.subject.len() + message.headers.len() + message.payload.len()) as u64;
        if u64::try_from(config.max_bytes).is_ok_and(|max| state.bytes + bytes > max) && !replaces_one {
            return Err(ApiError::store_failed("maximum bytes exceeded"));
        }
        Ok(())
    }

    /// Whether storing a message may push others out.
    pub(crate) fn has_limits(&self) -> bool {
        let config = &*self.config;
        config.max_msgs > 0 || config.max_bytes > 0 || config.max_msgs_per_subject > 0
    }
}

/// What is no number is a sequence that no message has, as in nats-server.
fn parse_seq(text: &str) -> u64 {
    text.parse().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
