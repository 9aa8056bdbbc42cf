//! A consumer's configuration: its JSON, defaults and checks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::api::error::ApiError;
use crate::api::time::JsonTime;
use crate::stream::config::{
    DESCRIPTION_BYTES_MAX, METADATA_BYTES_MAX, Retention, SUBJECTS_MAX, StreamConfig, is_false,
    is_valid_name, is_zero, is_zero_u64, set_static_metadata,
};
use crate::subject;

const ACK_WAIT_DEFAULT_NS: i64 = 30_000_000_000;
const MAX_WAITING_DEFAULT: i64 = 512;
const MAX_ACK_PENDING_DEFAULT: i64 = 1000;
/// An ephemeral consumer that nobody has used for so long is deleted.
const INACTIVE_DEFAULT_NS: i64 = 5_000_000_000;
const SHORTEST_HEARTBEAT_NS: i64 = 100_000_000;
const SHORTEST_EXPIRES_NS: i64 = 1_000_000;
/// How often a consumer is heard of whose messages are acknowledged by answers to flow control.
pub(crate) const FLOW_CONTROL_HEARTBEAT_NS: i64 = 1_000_000_000;

/// Where a consumer starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DeliverPolicy {
    #[default]
    All,
    Last,
    New,
    ByStartSequence,
    ByStartTime,
    LastPerSubject,
}

/// Which messages have to be acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AckPolicy {
    /// None: delivered is done.
    #[default]
    None,
    /// An acknowledgement covers everything delivered before.
    All,
    /// Each one.
    Explicit,
    /// An answer to flow control covers everything delivered before.
    FlowControl,
}

/// At which pace messages are delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ReplayPolicy {
    #[default]
    Instant,
    /// As far apart as they were stored, until all that was there is delivered.
    Original,
}

/// A consumer's configuration with nats-server's field names and order. Durations are nanoseconds.
/// Source: nats-server, `ConsumerConfig`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ConsumerConfig {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) durable_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) description: String,
    pub(crate) deliver_policy: DeliverPolicy,
    #[serde(skip_serializing_if = "is_zero_u64")]
    pub(crate) opt_start_seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) opt_start_time: Option<JsonTime>,
    pub(crate) ack_policy: AckPolicy,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) ack_wait: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) max_deliver: i64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) backoff: Vec<i64>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) filter_subject: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) filter_subjects: Vec<String>,
    pub(crate) replay_policy: ReplayPolicy,
    #[serde(skip_serializing_if = "is_zero_u64")]
    pub(crate) rate_limit_bps: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) sample_freq: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) max_waiting: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) max_ack_pending: i64,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) flow_control: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) headers_only: bool,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) max_batch: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) max_expires: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) max_bytes: i64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) deliver_subject: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) deliver_group: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) idle_heartbeat: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) inactive_threshold: i64,
    pub(crate) num_replicas: i64,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) mem_storage: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) direct: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) sourcing: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) metadata: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pause_until: Option<JsonTime>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) priority_groups: Vec<String>,
    #[serde(skip_serializing_if = "is_no_policy")]
    pub(crate) priority_policy: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) priority_timeout: i64,
    /// The server has made the name up: the configuration is shown without it.
    #[serde(skip)]
    pub(crate) is_name_made_up: bool,
}

fn is_no_policy(policy: &str) -> bool {
    policy.is_empty() || policy == "none"
}

impl ConsumerConfig {
    /// Whether messages are pushed to `deliver_subject` instead of pulled.
    pub(crate) fn is_push(&self) -> bool {
        !self.deliver_subject.is_empty()
    }

    /// The name that a request gives the consumer; empty: none.
    pub(crate) fn given_name(&self) -> &str {
        if self.name.is_empty() {
            &self.durable_name
        } else {
            &self.name
        }
    }

    /// Whether another stream copies through the consumer.
    pub(crate) fn is_for_copy(&self) -> bool {
        self.direct || self.sourcing
    }

    /// Whether the consumer stays when nobody uses it.
    pub(crate) fn is_durable(&self) -> bool {
        !self.durable_name.is_empty()
    }

    /// The subjects that the consumer wants; empty: all of the stream's.
    pub(crate) fn filters(&self) -> Vec<&str> {
        if self.filter_subject.is_empty() {
            self.filter_subjects.iter().map(String::as_str).collect()
        } else {
            vec![&self.filter_subject]
        }
    }

    /// Of a hundred acknowledgements, how many are told to those who listen.
    pub(crate) fn sample_percent(&self) -> u32 {
        self.sample_freq.trim_end_matches('%').parse().unwrap_or(0)
    }

    /// Notes the API level that a server needs for this consumer.
    pub(crate) fn set_required_level(&mut self) {
        let level = match self.ack_policy {
            AckPolicy::FlowControl => 4,
            _ => u32::from(self.pause_until.is_some() || !self.priority_groups.is_empty()),
        };
        set_static_metadata(&mut self.metadata, level);
    }

    /// How long a message waits for its acknowledgement after its `deliveries`th delivery, in
    /// nanoseconds.
    pub(crate) fn ack_wait_ns(&self, deliveries: u64) -> i64 {
        let index = usize::try_from(deliveries.saturating_sub(1)).unwrap_or(usize::MAX);
        match self.backoff.get(index).or(self.backoff.last()) {
            Some(wait) => *wait,
            None => self.ack_wait,
        }
    }

    /// Fills in the defaults, then checks everything.
    ///
    /// # Errors
    /// nats-server's error for the first check that fails; features that this server does not have
    /// are refused with 10052.
    pub(crate) fn normalize(mut self, stream: &StreamConfig) -> Result<Self, ApiError> {
        self.set_defaults(stream);
        self.check_names()?;
        self.check_unsupported()?;
        self.check_acks(stream)?;
        self.check_mode(stream)?;
        self.check_filters()?;
        self.check_start()?;
        self.check_workqueue(stream)?;
        self.set_required_level();
        Ok(self)
    }

    fn set_defaults(&mut self, stream: &StreamConfig) {
        if self.max_deliver == 0 || self.max_deliver < -1 {
            self.max_deliver = -1;
        }
        for value in [
            &mut self.max_waiting,
            &mut self.max_batch,
            &mut self.max_expires,
            &mut self.max_bytes,
            &mut self.idle_heartbeat,
            &mut self.inactive_threshold,
        ] {
            *value = (*value).max(0);
        }
        self.max_ack_pending = self.max_ack_pending.max(-1);
        self.set_priority_defaults();
        self.pause_until = self.pause_until.filter(|until| !until.is_zero());
        if !self.is_push() && self.max_waiting == 0 {
            self.max_waiting = MAX_WAITING_DEFAULT;
        }
        if self.ack_wait == 0 && matches!(self.ack_policy, AckPolicy::Explicit | AckPolicy::All) {
            self.ack_wait = ACK_WAIT_DEFAULT_NS;
        }
        if let Some(first) = self.backoff.first() {
            self.ack_wait = *first;
        }
        if self.max_ack_pending == 0 {
            self.max_ack_pending = stream.consumer_limits.max_ack_pending;
        }
        if self.inactive_threshold == 0 {
            self.inactive_threshold = stream.consumer_limits.inactive_threshold;
        }
        if self.inactive_threshold == 0 && !self.is_durable() {
            self.inactive_threshold = INACTIVE_DEFAULT_NS;
        }
        if self.max_ack_pending == 0 && self.ack_policy != AckPolicy::None {
            self.max_ack_pending = MAX_ACK_PENDING_DEFAULT;
        }
        if self.ack_policy == AckPolicy::FlowControl {
            self.flow_control = true;
            self.idle_heartbeat = FLOW_CONTROL_HEARTBEAT_NS;
        }
    }

    fn check_names(&self) -> Result<(), ApiError> {
        if !self.name.is_empty() && !is_valid_name(&self.name) {
            return Err(ApiError::invalid_config(
                "consumer name can not contain '.', '*', '>', '\\', '/'",
            ));
        }
        if self.is_durable() && !is_valid_name(&self.durable_name) {
            return Err(ApiError::invalid_config(
                "consumer durable name can not contain '.', '*', '>', '\\', '/'",
            ));
        }
        if self.description.len() > DESCRIPTION_BYTES_MAX {
            return Err(ApiError::consumer_description_too_long(DESCRIPTION_BYTES_MAX));
        }
        if self.is_durable() && !self.name.is_empty() && self.name != self.durable_name {
            return Err(ApiError::DURABLE_NAME_MISMATCH);
        }
        let metadata_bytes: usize = self.metadata.iter().map(|(k, v)| k.len() + v.len()).sum();
        if metadata_bytes > METADATA_BYTES_MAX {
            return Err(ApiError::consumer_metadata_too_long("128KB"));
        }
        Ok(())
    }

    fn check_unsupported(&self) -> Result<(), ApiError> {
        if self.num_replicas < 0 {
            return Err(ApiError::NEGATIVE_REPLICAS);
        }
        if self.num_replicas > 1 {
            return Err(ApiError::CONSUMER_REPLICAS);
        }
        self.check_priorities()
    }

    fn check_acks(&self, stream: &StreamConfig) -> Result<(), ApiError> {
        if self.backoff.iter().any(|wait| *wait < 0) {
            return Err(ApiError::BACKOFF_NEGATIVE);
        }
        if self.ack_wait < 0 {
            return Err(ApiError::ACK_WAIT_NEGATIVE);
        }
        if self.ack_policy == AckPolicy::FlowControl {
            self.check_flow_control_acks()?;
        }
        let steps = i64::try_from(self.backoff.len()).unwrap_or(i64::MAX);
        if steps > 0 && self.max_deliver != -1 && steps > self.max_deliver {
            return Err(ApiError::MAX_DELIVER_BACKOFF);
        }
        let limits = stream.consumer_limits;
        if limits.max_ack_pending > 0 && self.max_ack_pending > limits.max_ack_pending {
            return Err(ApiError::max_ack_pending_excess(limits.max_ack_pending));
        }
        if limits.inactive_threshold > 0 && self.inactive_threshold > limits.inactive_threshold {
            return Err(ApiError::inactive_threshold_excess(limits.inactive_threshold));
        }
        if !self.sample_freq.is_empty() {
            let percent = self.sample_freq.strip_suffix('%').unwrap_or(&self.sample_freq);
            match percent.parse::<i64>() {
                Ok(0..) => {}
                Ok(_) => return Err(ApiError::sampling("<nil>")),
                Err(_) => {
                    let text = format!("strconv.Atoi: parsing {percent:?}: invalid syntax");
                    return Err(ApiError::sampling(text));
                }
            }
        }
        Ok(())
    }

    /// Who acknowledges by answering flow control is pushed to, and gets each message once.
    fn check_flow_control_acks(&self) -> Result<(), ApiError> {
        if !self.is_push() {
            return Err(ApiError::FC_ACK_REQUIRES_PUSH);
        }
        if self.max_ack_pending <= 0 {
            return Err(ApiError::FC_ACK_REQUIRES_MAX_PENDING);
        }
        if self.ack_wait != 0 || !self.backoff.is_empty() {
            return Err(ApiError::FC_ACK_REQUIRES_NO_ACK_WAIT);
        }
        if self.max_deliver > 0 {
            return Err(ApiError::FC_ACK_REQUIRES_NO_MAX_DELIVER);
        }
        Ok(())
    }

    fn check_mode(&self, stream: &StreamConfig) -> Result<(), ApiError> {
        if self.is_push() {
            self.check_push(stream)
        } else {
            self.check_pull(stream)
        }
    }

    fn check_push(&self, stream: &StreamConfig) -> Result<(), ApiError> {
        if self
            .deliver_subject
            .split('.')
            .any(|token| matches!(token, "*" | ">"))
        {
            return Err(ApiError::DELIVER_WILDCARDS);
        }
        if !subject::is_valid_filter(&self.deliver_subject) {
            return Err(ApiError::INVALID_DELIVER_SUBJECT);
        }
        if stream
            .subjects
            .iter()
            .any(|captured| subject::overlaps(captured, &self.deliver_subject))
        {
            return Err(ApiError::DELIVER_CYCLE);
        }
        if self.max_waiting != 0 {
            return Err(ApiError::PUSH_MAX_WAITING);
        }
        if self.max_ack_pending > 0 && self.ack_policy == AckPolicy::None {
            return Err(ApiError::MAX_PENDING_NEEDS_ACK);
        }
        if self.idle_heartbeat > 0 && self.idle_heartbeat < SHORTEST_HEARTBEAT_NS {
            return Err(ApiError::SMALL_HEARTBEAT);
        }
        if self.flow_control && self.idle_heartbeat == 0 {
            return Err(ApiError::FLOW_CONTROL_NEEDS_HEARTBEATS);
        }
        if self.direct && self.is_durable() {
            return Err(ApiError::DIRECT_REQUIRES_EPHEMERAL);
        }
        Ok(())
    }

    fn check_pull(&self, stream: &StreamConfig) -> Result<(), ApiError> {
        if self.ack_policy == AckPolicy::None && stream.retention == Retention::WorkQueue {
            return Err(ApiError::PULL_REQUIRES_ACK);
        }
        if self.rate_limit_bps > 0 {
            return Err(ApiError::PULL_RATE_LIMIT);
        }
        if self.idle_heartbeat > 0 {
            return Err(ApiError::HEARTBEAT_REQUIRES_PUSH);
        }
        if self.flow_control {
            return Err(ApiError::FLOW_CONTROL_REQUIRES_PUSH);
        }
        if self.max_expires != 0 && self.max_expires < SHORTEST_EXPIRES_NS {
            return Err(ApiError::MAX_EXPIRES_TOO_SMALL);
        }
        if self.direct {
            return Err(ApiError::DIRECT_REQUIRES_PUSH);
        }
        Ok(())
    }

    fn check_filters(&self) -> Result<(), ApiError> {
        if !self.filter_subject.is_empty() && !self.filter_subjects.is_empty() {
            return Err(ApiError::DUPLICATE_FILTERS);
        }
        if self.filter_subjects.iter().any(String::is_empty) {
            return Err(ApiError::EMPTY_FILTER);
        }
        let filters = self.filters();
        if filters.len() > SUBJECTS_MAX {
            return Err(ApiError::invalid_config(format!(
                "more than {SUBJECTS_MAX} filter subjects"
            )));
        }
        for (index, filter) in filters.iter().enumerate() {
            if !subject::is_valid_filter(filter) {
                return Err(ApiError::invalid_config("invalid subject"));
            }
            let overlaps = |(other_index, other): (usize, &&str)| {
                other_index != index && subject::is_subset(filter, other)
            };
            if filters.iter().enumerate().any(overlaps) {
                return Err(ApiError::OVERLAPPING_FILTERS);
            }
        }
        Ok(())
    }

    fn check_start(&self) -> Result<(), ApiError> {
        let conflict = |policy: &str, start: &str| {
            Err(ApiError::consumer_policy(format!(
                "consumer delivery policy is deliver {policy}, but optional start {start} is also set"
            )))
        };
        let missing = |policy: &str, what: &str| {
            Err(ApiError::consumer_policy(format!(
                "consumer delivery policy is deliver {policy}, but optional {what} is not set"
            )))
        };
        let (seq, time) = (self.opt_start_seq != 0, self.opt_start_time.is_some());
        match self.deliver_policy {
            DeliverPolicy::ByStartSequence if !seq => missing("by start sequence", "start sequence"),
            DeliverPolicy::ByStartSequence if time => conflict("by start sequence", "time"),
            DeliverPolicy::ByStartTime if !time => missing("by start time", "start time"),
            DeliverPolicy::ByStartTime if seq => conflict("by start time", "start sequence"),
            DeliverPolicy::ByStartSequence | DeliverPolicy::ByStartTime => Ok(()),
            policy => {
                let policy_name = match policy {
                    DeliverPolicy::All => "all",
                    DeliverPolicy::Last => "last",
                    DeliverPolicy::New => "new",
                    _ => "last per subject",
                };
                if seq {
                    return conflict(policy_name, "sequence");
                }
                if time {
                    return conflict(policy_name, "time");
                }
                if policy == DeliverPolicy::LastPerSubject && self.filters().is_empty() {
                    return missing(policy_name, "filter subject");
                }
                Ok(())
            }
        }
    }

    fn check_workqueue(&self, stream: &StreamConfig) -> Result<(), ApiError> {
        if stream.retention != Retention::WorkQueue || self.is_for_copy() {
            return Ok(());
        }
        if !matches!(self.ack_policy, AckPolicy::Explicit | AckPolicy::FlowControl) {
            return Err(ApiError::WORKQUEUE_EXPLICIT_ACK);
        }
        if self.deliver_policy != DeliverPolicy::All {
            return Err(ApiError::WORKQUEUE_NOT_DELIVER_ALL);
        }
        Ok(())
    }

    /// Checks an update of `self` to `new` (already normalized).
    ///
    /// # Errors
    /// 10012 with nats-server's text for what an update may not change.
    pub(crate) fn check_update(&self, new: &ConsumerConfig) -> Result<(), ApiError> {
        let refused = [
            (
                self.deliver_policy != new.deliver_policy,
                "deliver policy can not be updated",
            ),
            (
                self.mem_storage != new.mem_storage,
                "storage type can not be updated",
            ),
            (self.direct != new.direct, "direct can not be updated"),
            (self.sourcing != new.sourcing, "sourcing can not be updated"),
            (
                self.opt_start_seq != new.opt_start_seq,
                "start sequence can not be updated",
            ),
            (
                self.opt_start_time != new.opt_start_time,
                "start time can not be updated",
            ),
            (self.ack_policy != new.ack_policy, "ack policy can not be updated"),
            (
                self.replay_policy != new.replay_policy,
                "replay policy can not be updated",
            ),
            (
                self.idle_heartbeat != new.idle_heartbeat,
                "heart beats can not be updated",
            ),
            (
                self.flow_control != new.flow_control,
                "flow control can not be updated",
            ),
            (
                !self.is_push() && new.is_push(),
                "can not update pull consumer to push based",
            ),
            (
                self.is_push() && !new.is_push(),
                "can not update push consumer to pull based",
            ),
            (
                self.max_waiting != new.max_waiting,
                "max waiting can not be updated",
            ),
        ];
        match refused.iter().find(|(found, _)| *found) {
            Some((_, text)) => Err(ApiError::consumer_create(text)),
            None => Ok(()),
        }
    }
}
