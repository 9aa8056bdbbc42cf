//! Pedantic requests: what the server would otherwise adjust silently is refused.
//! Source: nats-server, `checkStreamCfg` and `setConsumerConfigDefaults` with `pedantic`.

use crate::api::error::ApiError;
use crate::consumer::config::{AckPolicy, ConsumerConfig, FLOW_CONTROL_HEARTBEAT_NS};
use crate::stream::config::{DUPLICATE_WINDOW_DEFAULT_NS, StreamConfig};

/// Checks a stream's configuration as it was sent.
///
/// # Errors
/// 10157 for the first field that would be adjusted; 10052 where nats-server says that.
pub(crate) fn check_stream(config: &StreamConfig) -> Result<(), ApiError> {
    let limits = [
        ("max_msgs", config.max_msgs),
        ("max_msgs_per_subject", config.max_msgs_per_subject),
        ("max_bytes", config.max_bytes),
        ("max_msg_size", config.max_msg_size),
        ("max_consumers", config.max_consumers),
    ];
    for (name, value) in limits {
        if value < -1 {
            return Err(ApiError::pedantic(&format!("{name} must be set to -1")));
        }
    }
    if config
        .republish
        .as_ref()
        .is_some_and(|republish| republish.src.is_empty())
    {
        return Err(ApiError::pedantic("republish source can not be empty"));
    }
    let has_own_window = config.mirror.is_none() && config.sources.is_empty();
    let is_short = config.max_age > 0 && config.max_age < DUPLICATE_WINDOW_DEFAULT_NS;
    if config.duplicate_window == 0 && has_own_window && is_short {
        return Err(ApiError::pedantic(
            "duplicate window cannot be bigger than max age",
        ));
    }
    let markers = config.subject_delete_marker_ttl > 0;
    let refused = [
        (
            markers && !config.allow_msg_ttl,
            "subject delete marker cannot be set if message TTLs are disabled",
        ),
        (
            markers && !config.allow_rollup_hdrs,
            "subject delete marker cannot be set if roll-ups are disabled",
        ),
        (
            config.allow_msg_schedules && !config.allow_rollup_hdrs,
            "message scheduling cannot be set if roll-ups are disabled",
        ),
    ];
    match refused.iter().find(|(found, _)| *found) {
        Some((_, text)) => Err(ApiError::invalid_config(*text)),
        None => Ok(()),
    }
}

/// Checks a consumer's configuration as it was sent.
///
/// # Errors
/// 10157 for the first field that would be adjusted; 10219 and 10052 where nats-server says that.
pub(crate) fn check_consumer(config: &ConsumerConfig, stream: &StreamConfig) -> Result<(), ApiError> {
    let limits = stream.consumer_limits;
    let refused = [
        (config.max_deliver < -1, "max_deliver must be set to -1"),
        (config.max_waiting < 0, "max_waiting must not be negative"),
        (config.max_ack_pending < -1, "max_ack_pending must be set to -1"),
        (config.max_batch < 0, "max_batch must not be negative"),
        (config.max_expires < 0, "max_expires must not be negative"),
        (config.max_bytes < 0, "max_bytes must not be negative"),
        (config.idle_heartbeat < 0, "idle_heartbeat must not be negative"),
        (
            config.inactive_threshold < 0,
            "inactive_threshold must not be negative",
        ),
        (
            config.priority_timeout < 0,
            "priority_timeout must not be negative",
        ),
        (
            config
                .backoff
                .first()
                .is_some_and(|first| *first != sent_ack_wait(config)),
            "first backoff value has to equal batch AckWait",
        ),
        (
            config.max_ack_pending == 0 && limits.max_ack_pending > 0,
            "max_ack_pending must be set if it's configured in stream limits",
        ),
        (
            config.inactive_threshold == 0 && limits.inactive_threshold > 0,
            "inactive_threshold must be set if it's configured in stream limits",
        ),
    ];
    match refused.iter().find(|(found, _)| *found) {
        Some((_, text)) => Err(ApiError::pedantic(text)),
        None => check_flow_control_acks(config),
    }
}

/// What is set by itself for who acknowledges by answering flow control has to be asked for.
/// Source: nats-server, `checkConsumerCfg`.
fn check_flow_control_acks(config: &ConsumerConfig) -> Result<(), ApiError> {
    if config.ack_policy != AckPolicy::FlowControl || !config.is_push() {
        return Ok(());
    }
    if !config.flow_control {
        return Err(ApiError::FC_ACK_REQUIRES_FC);
    }
    if config.idle_heartbeat != FLOW_CONTROL_HEARTBEAT_NS {
        return Err(ApiError::invalid_config(
            "flow control ack policy heartbeat needs to be 1s",
        ));
    }
    Ok(())
}

/// The acknowledgement wait with its default.
fn sent_ack_wait(config: &ConsumerConfig) -> i64 {
    match (config.ack_wait, config.ack_policy) {
        (0, AckPolicy::Explicit | AckPolicy::All) => 30_000_000_000,
        (wait, _) => wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_adjusted_is_refused() {
        assert_eq!(check_stream(&StreamConfig::default()), Ok(()));
        let adjusted = StreamConfig {
            max_msgs: -5,
            ..StreamConfig::default()
        };
        let error = check_stream(&adjusted).unwrap_err();
        assert_eq!(
            (error.err_code, &*error.description),
            (10157, "pedantic mode: max_msgs must be set to -1")
        );
        let consumer = ConsumerConfig {
            backoff: vec![5],
            ..ConsumerConfig::default()
        };
        let error = check_consumer(&consumer, &StreamConfig::default()).unwrap_err();
        assert_eq!(error.err_code, 10157);
    }

    #[test]
    fn acknowledging_by_flow_control_asks_for_it() {
        let mut consumer = ConsumerConfig {
            ack_policy: AckPolicy::FlowControl,
            ..ConsumerConfig::default()
        };
        let stream = StreamConfig::default();
        let code =
            |consumer: &ConsumerConfig| check_consumer(consumer, &stream).map_err(|error| error.err_code);
        // Without a subject to push to, that is what is wrong.
        assert_eq!(code(&consumer), Ok(()));
        consumer.deliver_subject = "out".to_owned();
        assert_eq!(code(&consumer), Err(10219));
        consumer.flow_control = true;
        assert_eq!(code(&consumer), Err(10052));
        consumer.idle_heartbeat = FLOW_CONTROL_HEARTBEAT_NS;
        assert_eq!(code(&consumer), Ok(()));
    }
}
