//! JetStream's errors: HTTP-like code, nats-server's own code, text.

use std::borrow::Cow;

use serde::Serialize;

use super::time;

/// An error as JetStream's API and publish acknowledgements carry it. Clients match on `err_code`.
/// Source: nats-server, `server/errors.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ApiError {
    /// HTTP-like class of the error.
    pub(crate) code: u16,
    /// nats-server's number of the error.
    pub(crate) err_code: u16,
    /// Text for people.
    pub(crate) description: Cow<'static, str>,
}

pub(super) const fn fixed(code: u16, err_code: u16, description: &'static str) -> ApiError {
    ApiError {
        code,
        err_code,
        description: Cow::Borrowed(description),
    }
}

pub(super) fn text(code: u16, err_code: u16, description: String) -> ApiError {
    ApiError {
        code,
        err_code,
        description: Cow::Owned(description),
    }
}

impl ApiError {
    /// `JSBadRequestErr`
    pub(crate) const BAD_REQUEST: Self = fixed(400, 10003, "bad request");
    /// `JSClusterRequiredErr`
    pub(crate) const CLUSTER_REQUIRED: Self = fixed(503, 10010, "JetStream clustering support required");
    /// `JSConsumerNotFoundErr`
    pub(crate) const CONSUMER_NOT_FOUND: Self = fixed(404, 10014, "consumer not found");
    /// `JSConsumerDurableNameNotMatchSubjectErr`
    pub(crate) const DURABLE_NOT_MATCH_SUBJECT: Self = fixed(
        400,
        10017,
        "consumer name in subject does not match durable name in request",
    );
    /// `JSConsumerDurableNameNotSetErr`
    pub(crate) const DURABLE_NOT_SET: Self = fixed(
        400,
        10018,
        "consumer expected to be durable but a durable name was not set",
    );
    /// `JSConsumerEphemeralWithDurableNameErr`
    pub(crate) const EPHEMERAL_WITH_DURABLE: Self = fixed(
        400,
        10020,
        "consumer expected to be ephemeral but a durable name was set in request",
    );
    /// `JSMaximumConsumersLimitErr`
    pub(crate) const MAXIMUM_CONSUMERS: Self = fixed(400, 10026, "maximum consumers limit reached");
    /// `JSMaximumStreamsLimitErr`
    pub(crate) const MAXIMUM_STREAMS: Self = fixed(400, 10027, "maximum number of streams reached");
    /// `JSNoMessageFoundErr`
    pub(crate) const NO_MESSAGE: Self = fixed(404, 10037, "no message found");
    /// `JSNotEmptyRequestErr`
    pub(crate) const NOT_EMPTY_REQUEST: Self = fixed(400, 10038, "expected an empty request payload");
    /// `JSStorageResourcesExceededErr`
    pub(crate) const NO_STORAGE: Self = fixed(500, 10047, "insufficient storage resources available");
    /// `JSAccountResourcesExceededErr`
    pub(crate) const ACCOUNT_RESOURCES_EXCEEDED: Self =
        fixed(400, 10002, "resource limits exceeded for account");
    /// `JSInsufficientResourcesErr`
    pub(crate) const INSUFFICIENT_RESOURCES: Self = fixed(503, 10023, "insufficient resources");
    /// `JSMemoryResourcesExceededErr`
    pub(crate) const NO_MEMORY: Self = fixed(500, 10028, "insufficient memory resources available");
    /// `JSNotEnabledForAccountErr`
    pub(crate) const NOT_ENABLED_FOR_ACCOUNT: Self = fixed(503, 10039, "JetStream not enabled for account");
    /// `JSStreamMaxBytesRequired`
    pub(crate) const MAX_BYTES_REQUIRED: Self = fixed(
        400,
        10113,
        "account requires a stream config to have max bytes set",
    );
    /// `JSStreamMaxStreamBytesExceeded`
    pub(crate) const MAX_STREAM_BYTES_EXCEEDED: Self = fixed(
        400,
        10122,
        "stream max bytes exceeds account limit max stream bytes",
    );
    /// `JSStreamMessageExceedsMaximumErr`
    pub(crate) const MESSAGE_TOO_LARGE: Self = fixed(400, 10054, "message size exceeds maximum allowed");
    /// `JSStreamMismatchErr`
    pub(crate) const STREAM_MISMATCH: Self =
        fixed(400, 10056, "stream name in subject does not match request");
    /// `JSStreamNameExistErr`
    pub(crate) const STREAM_NAME_EXIST: Self = fixed(
        400,
        10058,
        "stream name already in use with a different configuration",
    );
    /// `JSStreamNotFoundErr`
    pub(crate) const STREAM_NOT_FOUND: Self = fixed(404, 10059, "stream not found");
    /// `JSStreamNotMatchErr`
    pub(crate) const STREAM_NOT_MATCH: Self = fixed(400, 10060, "expected stream does not match");
    /// `JSStreamSubjectOverlapErr`
    pub(crate) const SUBJECT_OVERLAP: Self = fixed(400, 10065, "subjects overlap with an existing stream");
    /// `JSStreamReplicasNotSupportedErr`
    pub(crate) const REPLICAS: Self = fixed(500, 10074, "replicas > 1 not supported in non-clustered mode");
    /// `JSConsumerDeliverToWildcardsErr`
    pub(crate) const DELIVER_WILDCARDS: Self = fixed(400, 10079, "consumer deliver subject has wildcards");
    /// `JSConsumerPushMaxWaitingErr`
    pub(crate) const PUSH_MAX_WAITING: Self =
        fixed(400, 10080, "consumer in push mode can not set max waiting");
    /// `JSConsumerDeliverCycleErr`
    pub(crate) const DELIVER_CYCLE: Self = fixed(400, 10081, "consumer deliver subject forms a cycle");
    /// `JSConsumerMaxPendingAckPolicyRequiredErr`
    pub(crate) const MAX_PENDING_NEEDS_ACK: Self =
        fixed(400, 10082, "consumer requires ack policy for max ack pending");
    /// `JSConsumerSmallHeartbeatErr`
    pub(crate) const SMALL_HEARTBEAT: Self =
        fixed(400, 10083, "consumer idle heartbeat needs to be >= 100ms");
    /// `JSConsumerPullRequiresAckErr`
    pub(crate) const PULL_REQUIRES_ACK: Self = fixed(
        400,
        10084,
        "consumer in pull mode requires explicit ack policy on workqueue stream",
    );
    /// `JSConsumerPullWithRateLimitErr`
    pub(crate) const PULL_RATE_LIMIT: Self =
        fixed(400, 10086, "consumer in pull mode can not have rate limit set");
    /// `JSConsumerHBRequiresPushErr`
    pub(crate) const HEARTBEAT_REQUIRES_PUSH: Self = fixed(
        400,
        10088,
        "consumer idle heartbeat requires a push based consumer",
    );
    /// `JSConsumerFCRequiresPushErr`
    pub(crate) const FLOW_CONTROL_REQUIRES_PUSH: Self =
        fixed(400, 10089, "consumer flow control requires a push based consumer");
    /// `JSConsumerDirectRequiresPushErr`
    pub(crate) const DIRECT_REQUIRES_PUSH: Self =
        fixed(400, 10090, "consumer direct requires a push based consumer");
    /// `JSConsumerDirectRequiresEphemeralErr`
    pub(crate) const DIRECT_REQUIRES_EPHEMERAL: Self =
        fixed(400, 10091, "consumer direct requires an ephemeral consumer");
    /// `JSStreamHeaderExceedsMaximumErr`
    pub(crate) const HEADER_TOO_LARGE: Self = fixed(400, 10097, "header size exceeds maximum allowed of 64k");
    /// `JSConsumerWQRequiresExplicitAckErr`
    pub(crate) const WORKQUEUE_EXPLICIT_ACK: Self =
        fixed(400, 10098, "workqueue stream requires explicit ack");
    /// `JSConsumerWQMultipleUnfilteredErr`
    pub(crate) const WORKQUEUE_MULTIPLE_UNFILTERED: Self = fixed(
        400,
        10099,
        "multiple non-filtered consumers not allowed on workqueue stream",
    );
    /// `JSConsumerWQConsumerNotUniqueErr`
    pub(crate) const WORKQUEUE_NOT_UNIQUE: Self =
        fixed(400, 10100, "filtered consumer not unique on workqueue stream");
    /// `JSConsumerWQConsumerNotDeliverAllErr`
    pub(crate) const WORKQUEUE_NOT_DELIVER_ALL: Self =
        fixed(400, 10101, "consumer must be deliver all on workqueue stream");
    /// `JSConsumerWithFlowControlNeedsHeartbeats`
    pub(crate) const FLOW_CONTROL_NEEDS_HEARTBEATS: Self =
        fixed(400, 10108, "consumer with flow control also needs heartbeats");
    /// `JSStreamSealedErr`
    pub(crate) const SEALED: Self = fixed(400, 10109, "invalid operation on sealed stream");
    /// `JSConsumerInvalidDeliverSubject`
    pub(crate) const INVALID_DELIVER_SUBJECT: Self =
        fixed(400, 10112, "invalid push consumer deliver subject");
    /// `JSConsumerMaxRequestExpiresTooSmall`
    pub(crate) const MAX_EXPIRES_TOO_SMALL: Self =
        fixed(400, 10115, "consumer max request expires needs to be >= 1ms");
    /// `JSConsumerMaxDeliverBackoffErr`
    pub(crate) const MAX_DELIVER_BACKOFF: Self = fixed(
        400,
        10116,
        "max deliver is required to be > length of backoff values",
    );
    /// `JSConsumerReplicasExceedsStream`
    pub(crate) const CONSUMER_REPLICAS: Self =
        fixed(400, 10126, "consumer config replica count exceeds parent stream");
    /// `JSConsumerNameContainsPathSeparatorsErr`
    pub(crate) const CONSUMER_PATH_SEPARATORS: Self =
        fixed(400, 10127, "Consumer name can not contain path separators");
    /// `JSStreamNameContainsPathSeparatorsErr`
    pub(crate) const STREAM_PATH_SEPARATORS: Self =
        fixed(400, 10128, "Stream name can not contain path separators");
    /// `JSConsumerCreateFilterSubjectMismatchErr`
    pub(crate) const FILTER_MISMATCH: Self = fixed(
        400,
        10131,
        "Consumer create request did not match filtered subject from create subject",
    );
    /// `JSConsumerCreateDurableAndNameMismatch`
    pub(crate) const DURABLE_NAME_MISMATCH: Self = fixed(
        400,
        10132,
        "Consumer Durable and Name have to be equal if both are provided",
    );
    /// `JSReplicasCountCannotBeNegative`
    pub(crate) const NEGATIVE_REPLICAS: Self = fixed(400, 10133, "replicas count cannot be negative");
    /// `JSConsumerDuplicateFilterSubjects`
    pub(crate) const DUPLICATE_FILTERS: Self = fixed(
        400,
        10136,
        "consumer cannot have both FilterSubject and FilterSubjects specified",
    );
    /// `JSConsumerMultipleFiltersNotAllowed`
    pub(crate) const MULTIPLE_FILTERS: Self = fixed(
        400,
        10137,
        "consumer with multiple subject filters cannot use subject based API",
    );
    /// `JSConsumerOverlappingSubjectFilters`
    pub(crate) const OVERLAPPING_FILTERS: Self = fixed(400, 10138, "consumer subject filters cannot overlap");
    /// `JSConsumerEmptyFilter`
    pub(crate) const EMPTY_FILTER: Self =
        fixed(400, 10139, "consumer filter in FilterSubjects cannot be empty");
    /// `JSConsumerAlreadyExists`
    pub(crate) const CONSUMER_EXISTS: Self = fixed(400, 10148, "consumer already exists");
    /// `JSConsumerDoesNotExist`
    pub(crate) const CONSUMER_DOES_NOT_EXIST: Self = fixed(400, 10149, "consumer does not exist");
    /// `JSMessageTTLInvalidErr`
    pub(crate) const TTL_INVALID: Self = fixed(400, 10165, "invalid per-message TTL");
    /// `JSMessageTTLDisabledErr`
    pub(crate) const TTL_DISABLED: Self = fixed(400, 10166, "per-message TTL is disabled");
    /// `JSStreamTooManyRequests`
    pub(crate) const TOO_MANY_REQUESTS: Self = fixed(429, 10167, "too many requests");
    /// `JSMessageIncrDisabledErr`
    pub(crate) const COUNTER_DISABLED: Self = fixed(400, 10168, "message counters is disabled");
    /// `JSAtomicPublishDisabledErr`
    pub(crate) const ATOMIC_PUBLISH_DISABLED: Self = fixed(400, 10174, "atomic publish is disabled");
    /// `JSConsumerAckWaitNegativeErr`
    pub(crate) const ACK_WAIT_NEGATIVE: Self = fixed(400, 10183, "consumer ack wait needs to be positive");
    /// `JSConsumerBackOffNegativeErr`
    pub(crate) const BACKOFF_NEGATIVE: Self = fixed(400, 10184, "consumer backoff needs to be positive");
    /// `JSRequiredApiLevelErr`
    pub(crate) const API_LEVEL: Self = fixed(412, 10185, "JetStream minimum api level required");
    /// `JSMessageSchedulesDisabledErr`
    pub(crate) const SCHEDULES_DISABLED: Self = fixed(400, 10188, "message schedules is disabled");
    /// `JSStreamExpectedLastSeqPerSubjectInvalid`
    pub(crate) const EXPECTED_SUBJECT_WITHOUT_SEQ: Self = fixed(
        400,
        10193,
        "missing sequence for expected last sequence per subject",
    );

    /// `JSConsumerCreateErrF`
    pub(crate) fn consumer_create(err: &str) -> Self {
        text(500, 10012, err.to_owned())
    }

    /// `JSInvalidJSONErr`
    pub(crate) fn invalid_json(err: impl std::fmt::Display) -> Self {
        text(400, 10025, format!("invalid JSON: {err}"))
    }

    /// `JSStreamCreateErrF`
    pub(crate) fn stream_create(err: impl std::fmt::Display) -> Self {
        text(500, 10049, err.to_string())
    }

    /// `JSStreamDeleteErrF`
    pub(crate) fn stream_delete(err: impl std::fmt::Display) -> Self {
        text(500, 10050, err.to_string())
    }

    /// `JSStreamGeneralErrorF`
    pub(crate) fn stream_general(err: impl std::fmt::Display) -> Self {
        text(500, 10051, err.to_string())
    }

    /// `JSStreamInvalidConfigF`
    pub(crate) fn invalid_config(err: impl std::fmt::Display) -> Self {
        text(500, 10052, err.to_string())
    }

    /// `JSStreamMsgDeleteFailedF`
    pub(crate) fn message_delete(err: impl std::fmt::Display) -> Self {
        text(500, 10057, err.to_string())
    }

    /// `JSStreamUpdateErrF`
    pub(crate) fn stream_update(err: impl std::fmt::Display) -> Self {
        text(500, 10069, err.to_string())
    }

    /// `JSPedanticErrF`
    pub(crate) fn pedantic(what: &str) -> Self {
        text(400, 10157, format!("pedantic mode: {what}"))
    }

    /// `JSStreamWrongLastMsgIDErrF`
    pub(crate) fn wrong_last_msg_id(id: &str) -> Self {
        text(400, 10070, format!("wrong last msg ID: {id}"))
    }

    /// `JSStreamWrongLastSequenceErrF`
    pub(crate) fn wrong_last_sequence(seq: u64) -> Self {
        text(400, 10071, format!("wrong last sequence: {seq}"))
    }

    /// `JSStreamStoreFailedF`
    pub(crate) fn store_failed(err: impl std::fmt::Display) -> Self {
        text(503, 10077, err.to_string())
    }

    /// `JSConsumerInvalidPolicyErrF`
    pub(crate) fn consumer_policy(err: String) -> Self {
        text(400, 10094, err)
    }

    /// `JSConsumerInvalidSamplingErrF`
    pub(crate) fn sampling(err: impl std::fmt::Display) -> Self {
        text(
            400,
            10095,
            format!("failed to parse consumer sampling configuration: {err}"),
        )
    }

    /// `JSConsumerNameTooLongErrF`
    pub(crate) fn consumer_name_too_long(max: usize) -> Self {
        text(
            400,
            10102,
            format!("consumer name is too long, maximum allowed is {max}"),
        )
    }

    /// `JSConsumerStoreFailedErrF`
    pub(crate) fn consumer_store(err: impl std::fmt::Display) -> Self {
        text(500, 10104, format!("error creating store for consumer: {err}"))
    }

    /// `JSConsumerDescriptionTooLongErrF`
    pub(crate) fn consumer_description_too_long(max: usize) -> Self {
        text(
            400,
            10107,
            format!("consumer description is too long, maximum allowed is {max}"),
        )
    }

    /// `JSStreamPurgeFailedF`
    pub(crate) fn purge_failed(err: impl std::fmt::Display) -> Self {
        text(500, 10110, err.to_string())
    }

    /// `JSStreamRollupFailedF`
    pub(crate) fn rollup_failed(err: impl std::fmt::Display) -> Self {
        text(500, 10111, err.to_string())
    }

    /// `JSConsumerMaxPendingAckExcessErrF`
    pub(crate) fn max_ack_pending_excess(limit: i64) -> Self {
        text(
            400,
            10121,
            format!("consumer max ack pending exceeds system limit of {limit}"),
        )
    }

    /// `JSConsumerMetadataLengthErrF`
    pub(crate) fn consumer_metadata_too_long(limit: &str) -> Self {
        text(
            400,
            10135,
            format!("consumer metadata exceeds maximum size of {limit}"),
        )
    }

    /// `JSConsumerInactiveThresholdExcess`
    pub(crate) fn inactive_threshold_excess(limit: i64) -> Self {
        text(
            400,
            10153,
            format!(
                "consumer inactive threshold exceeds system limit of {}",
                time::go_duration(limit)
            ),
        )
    }
}
