//! Requests and answers of the JetStream API, with nats-server's field names.
//! Source: nats-server, `jetstream_api.go`, `stream.go`, `consumer.go`, `store.go`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::error::ApiError;
use super::time::JsonTime;
use crate::consumer::config::ConsumerConfig;
use crate::stream::config::{StreamConfig, is_false, is_zero, is_zero_u64};
use crate::stream::source::{ExternalStream, SubjectTransformConfig};

/// Names in one page of an answer.
pub(crate) const NAMES_PAGE: usize = 1024;
/// Infos in one page of an answer.
pub(crate) const LIST_PAGE: usize = 256;
/// Subjects in one page of a stream's info.
pub(crate) const SUBJECTS_PAGE: usize = 100_000;

/// An answer: its type, and an error or its fields.
#[derive(Debug, Serialize)]
pub(crate) struct Answer<T> {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<ApiError>,
    #[serde(flatten)]
    pub(crate) body: Option<T>,
}

impl<T: Serialize> Answer<T> {
    /// The answer as JSON. `kind` is the part of the type between `v1.` and `_response`.
    pub(crate) fn encode(kind: &str, result: Result<T, ApiError>) -> Vec<u8> {
        let type_name = format!("io.nats.jetstream.api.v1.{kind}_response");
        let encoded = match result {
            Ok(body) => serde_json::to_vec(&Answer {
                kind: type_name,
                error: None,
                body: Some(body),
            }),
            Err(error) => serde_json::to_vec(&Answer {
                kind: type_name,
                error: Some(error),
                body: error_body(kind),
            }),
        };
        encoded.expect("answers are maps with text keys")
    }
}

/// What nats-server says beside an error: the fields of the answer that are never left out.
fn error_body(kind: &str) -> Option<Value> {
    let zero_time = "0001-01-01T00:00:00Z";
    Some(match kind {
        "stream_names" => json!({"total": 0, "offset": 0, "limit": 0, "streams": null}),
        "stream_list" => json!({"total": 0, "offset": 0, "limit": 0, "streams": []}),
        "consumer_names" | "consumer_list" => json!({"total": 0, "offset": 0, "limit": 0, "consumers": []}),
        "stream_info" => json!({"total": 0, "offset": 0, "limit": 0}),
        "stream_purge" => json!({"purged": 0}),
        "stream_restore" => json!({"deliver_subject": ""}),
        "consumer_pause" => json!({"paused": false, "pause_until": zero_time}),
        "consumer_reset" => json!({"reset_seq": 0}),
        _ => return None,
    })
}

/// Request for a page of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PageRequest {
    pub(crate) offset: i64,
    /// Only streams that can have this subject.
    pub(crate) subject: String,
}

/// Which part of a list an answer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Page {
    pub(crate) total: usize,
    pub(crate) offset: usize,
    pub(crate) limit: usize,
}

impl Page {
    /// The page from `offset`, as a range of the list.
    pub(crate) fn range(total: usize, offset: i64, limit: usize) -> (Self, std::ops::Range<usize>) {
        let offset = usize::try_from(offset).unwrap_or(0);
        let start = offset.min(total);
        (
            Self {
                total,
                offset: start,
                limit,
            },
            start..total.min(start.saturating_add(limit)),
        )
    }
}

/// Done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Success {
    pub(crate) success: bool,
}

/// Names, a page of them.
#[derive(Debug, Serialize)]
pub(crate) struct StreamNames {
    #[serde(flatten)]
    pub(crate) page: Page,
    /// `null` if there are none, as nats-server has it.
    pub(crate) streams: Option<Vec<String>>,
}

/// Infos, a page of them.
#[derive(Debug, Serialize)]
pub(crate) struct StreamList {
    #[serde(flatten)]
    pub(crate) page: Page,
    pub(crate) streams: Vec<StreamInfo>,
}

/// Names, a page of them.
#[derive(Debug, Serialize)]
pub(crate) struct ConsumerNames {
    #[serde(flatten)]
    pub(crate) page: Page,
    pub(crate) consumers: Vec<String>,
}

/// Infos, a page of them.
#[derive(Debug, Serialize)]
pub(crate) struct ConsumerList {
    #[serde(flatten)]
    pub(crate) page: Page,
    pub(crate) consumers: Vec<ConsumerInfo>,
}

/// Request for a stream's info.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct StreamInfoRequest {
    pub(crate) offset: i64,
    pub(crate) deleted_details: bool,
    pub(crate) subjects_filter: String,
}

/// A stream.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct StreamInfo {
    pub(crate) config: StreamConfig,
    pub(crate) created: JsonTime,
    pub(crate) state: StreamStateInfo,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mirror: Option<SourceInfo>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) sources: Vec<SourceInfo>,
    pub(crate) ts: JsonTime,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) did_create: bool,
    /// Only the info of one stream has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cluster: Option<ClusterInfo>,
    /// The same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) domain: Option<String>,
}

/// Who leads a stream: always this server.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ClusterInfo {
    pub(crate) leader: String,
}

/// How a stream stands with one that it copies.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SourceInfo {
    pub(crate) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) external: Option<ExternalStream>,
    /// Messages that are still to be copied.
    pub(crate) lag: u64,
    /// The last that was copied; a mirror has it as its own.
    #[serde(skip_serializing_if = "is_zero_u64")]
    pub(crate) seq: u64,
    /// Nanoseconds since the last was; -1: none was.
    pub(crate) active: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<ApiError>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) filter_subject: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) subject_transforms: Vec<SubjectTransformConfig>,
}

/// A stream, with the page of its subjects.
#[derive(Debug, Serialize)]
pub(crate) struct PagedStreamInfo {
    #[serde(flatten)]
    pub(crate) page: Page,
    #[serde(flatten)]
    pub(crate) info: StreamInfo,
}

/// A stream in figures.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct StreamStateInfo {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    pub(crate) first_seq: u64,
    pub(crate) first_ts: JsonTime,
    pub(crate) last_seq: u64,
    pub(crate) last_ts: JsonTime,
    #[serde(skip_serializing_if = "is_zero_u64")]
    pub(crate) num_subjects: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subjects: Option<BTreeMap<String, u64>>,
    #[serde(skip_serializing_if = "is_zero_u64")]
    pub(crate) num_deleted: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) deleted: Option<Vec<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lost: Option<LostInfo>,
    pub(crate) consumer_count: usize,
}

/// Records lost to damage.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LostInfo {
    pub(crate) msgs: Vec<u64>,
    pub(crate) bytes: u64,
}

/// Request to purge a stream.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PurgeRequest {
    pub(crate) seq: u64,
    pub(crate) filter: String,
    pub(crate) keep: u64,
}

/// How many messages a purge removed.
#[derive(Debug, Serialize)]
pub(crate) struct Purged {
    pub(crate) success: bool,
    pub(crate) purged: u64,
}

/// Request to delete a message.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct MessageDeleteRequest {
    pub(crate) seq: u64,
    /// Taken and without effect: what is deleted is not overwritten.
    pub(crate) no_erase: bool,
}

/// Request for a message.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct MessageGetRequest {
    pub(crate) seq: u64,
    pub(crate) last_by_subj: String,
    pub(crate) next_by_subj: String,
    pub(crate) batch: i64,
    pub(crate) max_bytes: i64,
    pub(crate) start_time: Option<JsonTime>,
    pub(crate) multi_last: Vec<String>,
    pub(crate) up_to_seq: u64,
    pub(crate) up_to_time: Option<JsonTime>,
    pub(crate) no_hdr: bool,
}

/// A stored message, headers and payload in Base64.
#[derive(Debug, Serialize)]
pub(crate) struct StoredMessage {
    pub(crate) subject: String,
    pub(crate) seq: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) hdrs: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) data: String,
    pub(crate) time: JsonTime,
}

/// Answer to [`MessageGetRequest`].
#[derive(Debug, Serialize)]
pub(crate) struct MessageAnswer {
    pub(crate) message: StoredMessage,
}

/// Request to create or update a consumer.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ConsumerRequest {
    pub(crate) stream_name: String,
    pub(crate) config: ConsumerConfig,
    pub(crate) action: Action,
    /// Nothing is adjusted silently.
    pub(crate) pedantic: bool,
}

/// What is meant by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    #[default]
    #[serde(rename = "")]
    CreateOrUpdate,
    Create,
    Update,
}

/// A position and when it was reached.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct SequenceInfo {
    pub(crate) consumer_seq: u64,
    pub(crate) stream_seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_active: Option<JsonTime>,
}

/// A consumer.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ConsumerInfo {
    pub(crate) stream_name: String,
    pub(crate) name: String,
    pub(crate) created: JsonTime,
    pub(crate) config: ConsumerConfig,
    pub(crate) delivered: SequenceInfo,
    pub(crate) ack_floor: SequenceInfo,
    pub(crate) num_ack_pending: usize,
    pub(crate) num_redelivered: usize,
    pub(crate) num_waiting: usize,
    pub(crate) num_pending: u64,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) push_bound: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) paused: bool,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) pause_remaining: i64,
    pub(crate) ts: JsonTime,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) priority_groups: Vec<PriorityGroupState>,
}

/// A priority group and who is pinned in it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PriorityGroupState {
    pub(crate) group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) pinned_client_id: String,
    pub(crate) pinned_ts: JsonTime,
}

/// Request to pause a consumer.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PauseRequest {
    pub(crate) pause_until: Option<JsonTime>,
}

/// Until when a consumer is paused.
#[derive(Debug, Serialize)]
pub(crate) struct PauseAnswer {
    pub(crate) paused: bool,
    pub(crate) pause_until: JsonTime,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) pause_remaining: i64,
}

/// Request to let another client be pinned.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct UnpinRequest {
    pub(crate) group: String,
}

/// Done.
#[derive(Debug, Serialize)]
pub(crate) struct Unpinned {}

/// Request to set a consumer back.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ResetRequest {
    pub(crate) seq: u64,
}

/// A consumer that was set back.
#[derive(Debug, Serialize)]
pub(crate) struct ConsumerReset {
    #[serde(flatten)]
    pub(crate) info: ConsumerInfo,
    pub(crate) reset_seq: u64,
}

/// How often the API was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct ApiStats {
    pub(crate) level: u32,
    pub(crate) total: u64,
    pub(crate) errors: u64,
}

/// An account's bounds; -1: none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct AccountLimits {
    pub(crate) max_memory: i64,
    pub(crate) max_storage: i64,
    pub(crate) max_streams: i64,
    pub(crate) max_consumers: i64,
    pub(crate) max_ack_pending: i64,
    pub(crate) memory_max_stream_bytes: i64,
    pub(crate) storage_max_stream_bytes: i64,
    pub(crate) max_bytes_required: bool,
}

impl Default for AccountLimits {
    fn default() -> Self {
        Self {
            max_memory: -1,
            max_storage: -1,
            max_streams: -1,
            max_consumers: -1,
            max_ack_pending: -1,
            memory_max_stream_bytes: -1,
            storage_max_stream_bytes: -1,
            max_bytes_required: false,
        }
    }
}

/// What JetStream uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct AccountInfo {
    pub(crate) memory: u64,
    pub(crate) storage: u64,
    pub(crate) reserved_memory: u64,
    pub(crate) reserved_storage: u64,
    pub(crate) streams: usize,
    pub(crate) consumers: usize,
    pub(crate) limits: AccountLimits,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) domain: Option<String>,
    pub(crate) api: ApiStats,
}

impl AccountInfo {
    /// Adds what another account uses.
    pub(crate) fn add(&mut self, other: &Self) {
        self.memory += other.memory;
        self.storage += other.storage;
        self.reserved_memory += other.reserved_memory;
        self.reserved_storage += other.reserved_storage;
        self.streams += other.streams;
        self.consumers += other.consumers;
        self.api.level = other.api.level;
        self.api.total += other.api.total;
        self.api.errors += other.api.errors;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_hold_an_error_or_their_fields() {
        let ok = Answer::encode("stream_delete", Ok(Success { success: true }));
        assert_eq!(
            ok,
            br#"{"type":"io.nats.jetstream.api.v1.stream_delete_response","success":true}"#
        );
        let err = Answer::<Success>::encode("stream_delete", Err(ApiError::STREAM_NOT_FOUND));
        assert_eq!(
            String::from_utf8(err).unwrap(),
            r#"{"type":"io.nats.jetstream.api.v1.stream_delete_response","error":{"code":404,"err_code":10059,"description":"stream not found"}}"#
        );
    }

    #[test]
    fn pages_stay_within_the_list() {
        assert_eq!(Page::range(10, 0, 4).1, 0..4);
        assert_eq!(Page::range(10, 8, 4).1, 8..10);
        assert_eq!(Page::range(10, 99, 4).1, 10..10);
        assert_eq!(Page::range(10, -3, 4).1, 0..4);
    }
}
