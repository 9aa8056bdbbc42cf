//! Errors of JetStream's newer features. Source: nats-server, `server/errors.json`.

use super::error::{ApiError, fixed, text};

impl ApiError {
    /// `JSMirrorMaxMessageSizeTooBigErr`
    pub(crate) const MIRROR_MAX_SIZE: Self =
        fixed(400, 10030, "stream mirror must have max message size >= source");
    /// `JSMirrorWithSourcesErr`
    pub(crate) const MIRROR_WITH_SOURCES: Self =
        fixed(400, 10031, "stream mirrors can not also contain other sources");
    /// `JSMirrorWithSubjectsErr`
    pub(crate) const MIRROR_WITH_SUBJECTS: Self =
        fixed(400, 10034, "stream mirrors can not contain subjects");
    /// `JSSourceMaxMessageSizeTooBigErr`
    pub(crate) const SOURCE_MAX_SIZE: Self =
        fixed(400, 10046, "stream source must have max message size >= target");
    /// `JSStreamMirrorNotUpdatableErr`
    pub(crate) const MIRROR_NOT_UPDATABLE: Self =
        fixed(400, 10055, "stream mirror configuration can not be updated");
    /// `JSSourceDuplicateDetected`
    pub(crate) const SOURCE_DUPLICATE: Self = fixed(400, 10140, "duplicate source configuration detected");
    /// `JSSourceInvalidStreamName`
    pub(crate) const SOURCE_INVALID_NAME: Self = fixed(400, 10141, "sourced stream name is invalid");
    /// `JSMirrorInvalidStreamName`
    pub(crate) const MIRROR_INVALID_NAME: Self = fixed(400, 10142, "mirrored stream name is invalid");
    /// `JSMirrorWithFirstSeqErr`
    pub(crate) const MIRROR_WITH_FIRST_SEQ: Self = fixed(
        400,
        10143,
        "stream mirrors can not have first sequence configured",
    );
    /// `JSSourceMultipleFiltersNotAllowed`
    pub(crate) const SOURCE_MULTIPLE_FILTERS: Self = fixed(
        400,
        10144,
        "source with multiple subject transforms cannot also have a single subject filter",
    );
    /// `JSSourceOverlappingSubjectFilters`
    pub(crate) const SOURCE_OVERLAPPING: Self = fixed(400, 10147, "source filters can not overlap");
    /// `JSMirrorMultipleFiltersNotAllowed`
    pub(crate) const MIRROR_MULTIPLE_FILTERS: Self = fixed(
        400,
        10150,
        "mirror with multiple subject transforms cannot also have a single subject filter",
    );
    /// `JSMirrorOverlappingSubjectFilters`
    pub(crate) const MIRROR_OVERLAPPING: Self = fixed(400, 10152, "mirror subject filters can not overlap");
    /// `JSMirrorWithCountersErr`
    pub(crate) const MIRROR_WITH_COUNTERS: Self =
        fixed(400, 10173, "stream mirrors can not also calculate counters");
    /// `JSMirrorWithAtomicPublishErr`
    pub(crate) const MIRROR_WITH_ATOMIC: Self =
        fixed(400, 10198, "stream mirrors can not also use atomic publishing");
    /// `JSMirrorWithBatchPublishErr`
    pub(crate) const MIRROR_WITH_BATCH: Self =
        fixed(400, 10209, "stream mirrors can not also use batch publishing");
    /// `JSMirrorWithMsgSchedulesErr`
    pub(crate) const MIRROR_WITH_SCHEDULES: Self =
        fixed(400, 10186, "stream mirrors can not also schedule messages");
    /// `JSSourceWithMsgSchedulesErr`
    pub(crate) const SOURCE_WITH_SCHEDULES: Self =
        fixed(400, 10187, "stream source can not also schedule messages");
    /// `JSMessageIncrMissingErr`
    pub(crate) const COUNTER_MISSING: Self = fixed(400, 10169, "message counter increment is missing");
    /// `JSMessageIncrPayloadErr`
    pub(crate) const COUNTER_PAYLOAD: Self = fixed(400, 10170, "message counter has payload");
    /// `JSMessageIncrInvalidErr`
    pub(crate) const COUNTER_INVALID: Self = fixed(400, 10171, "message counter increment is invalid");
    /// `JSMessageCounterBrokenErr`
    pub(crate) const COUNTER_BROKEN: Self = fixed(400, 10172, "message counter is broken");
    /// `JSAtomicPublishMissingSeqErr`
    pub(crate) const BATCH_MISSING_SEQ: Self = fixed(400, 10175, "atomic publish sequence is missing");
    /// `JSAtomicPublishIncompleteBatchErr`
    pub(crate) const BATCH_INCOMPLETE: Self = fixed(400, 10176, "atomic publish batch is incomplete");
    /// `JSAtomicPublishInvalidBatchIDErr`
    pub(crate) const BATCH_INVALID_ID: Self = fixed(400, 10179, "atomic publish batch ID is invalid");
    /// `JSAtomicPublishInvalidBatchCommitErr`
    pub(crate) const BATCH_INVALID_COMMIT: Self = fixed(400, 10200, "atomic publish batch commit is invalid");
    /// `JSAtomicPublishContainsDuplicateMessageErr`
    pub(crate) const BATCH_DUPLICATE: Self =
        fixed(400, 10201, "atomic publish batch contains duplicate message id");
    /// `JSAtomicPublishTooManyInflight`
    pub(crate) const BATCH_TOO_MANY: Self = fixed(429, 10210, "atomic publish too many inflight");
    /// `JSBatchPublishDisabledErr`
    pub(crate) const FAST_BATCH_DISABLED: Self = fixed(400, 10205, "batch publish is disabled");
    /// `JSBatchPublishInvalidPatternErr`
    pub(crate) const FAST_BATCH_PATTERN: Self = fixed(400, 10206, "batch publish pattern is invalid");
    /// `JSBatchPublishInvalidBatchIDErr`
    pub(crate) const FAST_BATCH_INVALID_ID: Self = fixed(400, 10207, "batch publish ID is invalid");
    /// `JSBatchPublishUnknownBatchIDErr`
    pub(crate) const FAST_BATCH_UNKNOWN: Self = fixed(400, 10208, "batch publish ID unknown");
    /// `JSBatchPublishTooManyInflight`
    pub(crate) const FAST_BATCH_TOO_MANY: Self = fixed(429, 10211, "batch publish too many inflight");
    /// `JSMessageSchedulesPatternInvalidErr`
    pub(crate) const SCHEDULE_PATTERN: Self = fixed(400, 10189, "message schedules pattern is invalid");
    /// `JSMessageSchedulesTargetInvalidErr`
    pub(crate) const SCHEDULE_TARGET: Self = fixed(400, 10190, "message schedules target is invalid");
    /// `JSMessageSchedulesTTLInvalidErr`
    pub(crate) const SCHEDULE_TTL: Self = fixed(400, 10191, "message schedules invalid per-message TTL");
    /// `JSMessageSchedulesRollupInvalidErr`
    pub(crate) const SCHEDULE_ROLLUP: Self = fixed(400, 10192, "message schedules invalid rollup");
    /// `JSMessageSchedulesSourceInvalidErr`
    pub(crate) const SCHEDULE_SOURCE: Self = fixed(400, 10203, "message schedules source is invalid");
    /// `JSMessageSchedulesSchedulerInvalidErr`
    pub(crate) const SCHEDULE_SCHEDULER: Self = fixed(400, 10212, "message schedules invalid scheduler");
    /// `JSMessageSchedulesTimeZoneInvalidErr`
    pub(crate) const SCHEDULE_TIME_ZONE: Self = fixed(400, 10223, "message schedules time zone is invalid");
    /// `JSMessageSourceHdrNotAllowedErr`
    pub(crate) const SOURCE_HEADER: Self = fixed(400, 10227, "message stream source header is not allowed");
    /// `JSConsumerPriorityPolicyWithoutGroup`
    pub(crate) const PRIORITY_WITHOUT_GROUP: Self = fixed(
        400,
        10159,
        "Setting PriorityPolicy requires at least one PriorityGroup to be set",
    );
    /// `JSConsumerInvalidPriorityGroupErr`
    pub(crate) const PRIORITY_INVALID_GROUP: Self = fixed(
        400,
        10160,
        "Provided priority group does not exist for this consumer",
    );
    /// `JSConsumerEmptyGroupName`
    pub(crate) const PRIORITY_EMPTY_GROUP: Self = fixed(400, 10161, "Group name cannot be an empty string");
    /// `JSConsumerInvalidGroupNameErr`
    pub(crate) const PRIORITY_GROUP_NAME: Self = fixed(
        400,
        10162,
        "Valid priority group name must match A-Z, a-z, 0-9, -_/=)+ and may not exceed 16 characters",
    );
    /// `JSConsumerPushWithPriorityGroupErr`
    pub(crate) const PRIORITY_PUSH: Self =
        fixed(400, 10178, "priority groups can not be used with push consumers");
    /// `JSConsumerPriorityGroupWithPolicyNone`
    pub(crate) const PRIORITY_POLICY_NONE: Self = fixed(
        400,
        10196,
        "consumer can not have priority groups when policy is none",
    );
    /// `JSConsumerPinnedTTLWithoutPriorityPolicyNone`
    pub(crate) const PINNED_TTL_POLICY_NONE: Self =
        fixed(400, 10197, "PinnedTTL cannot be set when PriorityPolicy is none");
    /// `JSSnapshotDeliverSubjectInvalidErr`
    pub(crate) const SNAPSHOT_DELIVER_SUBJECT: Self = fixed(400, 10015, "deliver subject not valid");
    /// `JSStreamNameExistRestoreFailedErr`
    pub(crate) const RESTORE_NAME_EXISTS: Self =
        fixed(400, 10130, "stream name already in use, cannot restore");
    /// `JSMirrorDurableConsumerCfgInvalid`
    pub(crate) const MIRROR_CONSUMER_INVALID: Self =
        fixed(400, 10213, "stream mirror consumer config is invalid");
    /// `JSMirrorConsumerRequiresAckFCErr`
    pub(crate) const MIRROR_CONSUMER_REQUIRES_FC: Self = fixed(
        400,
        10214,
        "stream mirror consumer requires flow control ack policy",
    );
    /// `JSSourceDurableConsumerCfgInvalid`
    pub(crate) const SOURCE_CONSUMER_INVALID: Self =
        fixed(400, 10215, "stream source consumer config is invalid");
    /// `JSSourceDurableConsumerDuplicateDetected`
    pub(crate) const SOURCE_CONSUMER_DUPLICATE: Self =
        fixed(400, 10216, "duplicate stream source consumer detected");
    /// `JSSourceConsumerRequiresAckFCErr`
    pub(crate) const SOURCE_CONSUMER_REQUIRES_FC: Self = fixed(
        400,
        10217,
        "stream source consumer requires flow control ack policy",
    );
    /// `JSSourceConsumerFlowControlStalledErr`
    pub(crate) const SOURCE_STALLED: Self =
        fixed(500, 10228, "stream source consumer stalled on flow control");
    /// The `err_code` of `JSConsumerStreamIdentityMismatchF`
    pub(crate) const IDENTITY_MISMATCH: u16 = 10225;

    /// `JSConsumerStreamIdentityMismatchF`
    pub(crate) fn identity_mismatch(identity: &str) -> Self {
        let description = format!("consumer's stream identity does not match: {identity}");
        text(400, Self::IDENTITY_MISMATCH, description)
    }

    /// `JSMirrorConsumerSetupFailedErrF`, `JSSourceConsumerSetupFailedErrF`
    pub(crate) fn consumer_setup(is_mirror: bool, reason: &str) -> Self {
        text(500, if is_mirror { 10029 } else { 10045 }, reason.to_owned())
    }

    /// What another account has answered.
    pub(crate) fn foreign(code: u16, err_code: u16, description: String) -> Self {
        text(code, err_code, description)
    }

    /// `JSStreamInvalidExternalDeliverySubjErrF`
    pub(crate) fn external_deliver(prefix: &str) -> Self {
        let description = format!("stream external delivery prefix {prefix} must not contain wildcards");
        text(400, 10024, description)
    }

    /// `JSStreamExternalDelPrefixOverlapsErrF`
    pub(crate) fn external_deliver_overlaps(prefix: &str, subject: &str) -> Self {
        let description =
            format!("stream external delivery prefix {prefix} overlaps with stream subject {subject}");
        text(400, 10022, description)
    }

    /// `JSStreamExternalApiOverlapErrF`
    pub(crate) fn external_api_overlaps(prefix: &str, subject: &str) -> Self {
        let description = format!("stream external api prefix {prefix} must not overlap with {subject}");
        text(400, 10021, description)
    }

    /// `JSConsumerAckFCRequiresPushErr`
    pub(crate) const FC_ACK_REQUIRES_PUSH: Self = fixed(
        400,
        10218,
        "flow control ack policy requires a push based consumer",
    );
    /// `JSConsumerAckFCRequiresFCErr`
    pub(crate) const FC_ACK_REQUIRES_FC: Self =
        fixed(400, 10219, "flow control ack policy requires flow control");
    /// `JSConsumerAckFCRequiresMaxAckPendingErr`
    pub(crate) const FC_ACK_REQUIRES_MAX_PENDING: Self =
        fixed(400, 10220, "flow control ack policy requires max ack pending");
    /// `JSConsumerAckFCRequiresNoAckWaitErr`
    pub(crate) const FC_ACK_REQUIRES_NO_ACK_WAIT: Self =
        fixed(400, 10221, "flow control ack policy requires unset ack wait");
    /// `JSConsumerAckFCRequiresNoMaxDeliverErr`
    pub(crate) const FC_ACK_REQUIRES_NO_MAX_DELIVER: Self =
        fixed(400, 10222, "flow control ack policy requires unset max deliver");

    /// `JSSourceInvalidSubjectFilter`
    pub(crate) fn source_invalid_filter(err: impl std::fmt::Display) -> Self {
        text(400, 10145, format!("source transform source: {err}"))
    }

    /// `JSSourceInvalidTransformDestination`
    pub(crate) fn source_transform(err: impl std::fmt::Display) -> Self {
        text(400, 10146, format!("source transform: {err}"))
    }

    /// `JSMirrorInvalidSubjectFilter`
    pub(crate) fn mirror_invalid_filter(err: impl std::fmt::Display) -> Self {
        text(400, 10151, format!("mirror transform source: {err}"))
    }

    /// `JSMirrorInvalidTransformDestination`
    pub(crate) fn mirror_transform(err: impl std::fmt::Display) -> Self {
        text(400, 10154, format!("mirror transform: {err}"))
    }

    /// `JSStreamTransformInvalidSource`
    pub(crate) fn transform_source(err: impl std::fmt::Display) -> Self {
        text(400, 10155, format!("stream transform source: {err}"))
    }

    /// `JSStreamTransformInvalidDestination`
    pub(crate) fn transform_destination(err: impl std::fmt::Display) -> Self {
        text(400, 10156, format!("stream transform: {err}"))
    }

    /// `JSAtomicPublishUnsupportedHeaderBatchErr`
    pub(crate) fn batch_header(header: impl std::fmt::Display) -> Self {
        text(
            400,
            10177,
            format!("atomic publish unsupported header used: {header}"),
        )
    }

    /// `JSAtomicPublishTooLargeBatchErrF`
    pub(crate) fn batch_too_large(size: impl std::fmt::Display) -> Self {
        text(400, 10199, format!("atomic publish batch is too large: {size}"))
    }

    /// `JSStreamSnapshotErrF`
    pub(crate) fn snapshot(err: impl std::fmt::Display) -> Self {
        text(500, 10064, format!("snapshot failed: {err}"))
    }

    /// `JSStreamRestoreErrF`
    pub(crate) fn restore(err: impl std::fmt::Display) -> Self {
        text(500, 10062, format!("restore failed: {err}"))
    }

    /// `JSInvalidJSONErr`, of a request that is empty.
    pub(crate) fn no_json() -> Self {
        text(
            400,
            10025,
            "invalid JSON: unexpected end of JSON input".to_owned(),
        )
    }

    /// `JSInvalidJSONErr`, of a consumer with an unknown priority policy.
    pub(crate) fn unknown_policy(policy: &str) -> Self {
        text(
            400,
            10025,
            format!("invalid JSON: unknown priority policy: {policy:?}"),
        )
    }

    /// `JSInvalidJSONErr`, of a request to unpin that names no group.
    pub(crate) fn no_group() -> Self {
        text(
            400,
            10025,
            "invalid JSON: consumer group not specified".to_owned(),
        )
    }

    /// `JSConsumerInvalidResetErr`
    pub(crate) fn consumer_reset(err: impl std::fmt::Display) -> Self {
        text(400, 10204, format!("invalid reset: {err}"))
    }
}
