//! A stream's configuration: its JSON, defaults and checks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::source::{RePublish, StreamSource, SubjectTransformConfig};
use crate::api::error::ApiError;
use crate::subject;

/// Leaves room for as many records as a stream can ever take, so that no sequence overflows.
const FIRST_SEQ_MAX: u64 = 1 << 62;
/// Longest name of a stream or consumer, in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 255;
/// Longest description of a stream or consumer, in bytes.
pub(crate) const DESCRIPTION_BYTES_MAX: usize = 4 * 1024;
/// Keys and values of the metadata of a stream or consumer together, in bytes.
pub(crate) const METADATA_BYTES_MAX: usize = 128 * 1024;

/// Subjects of a stream or filters of a consumer: each is compared with each other.
pub(crate) const SUBJECTS_MAX: usize = 2048;

const REQUIRED_LEVEL_KEY: &str = "_nats.req.level";
const SERVER_VERSION_KEY: &str = "_nats.ver";
const SERVER_LEVEL_KEY: &str = "_nats.level";
/// The JetStream API level that this server implements.
pub(crate) const API_LEVEL: u32 = 5;

const SECOND_NS: i64 = 1_000_000_000;
/// How long messages are told from their repetitions unless the stream says otherwise.
pub(crate) const DUPLICATE_WINDOW_DEFAULT_NS: i64 = 120 * SECOND_NS;
const SHORTEST_NS: i64 = 100_000_000;
const REPLICAS_MAX: i64 = 5;

/// When messages leave a stream of themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Retention {
    /// When a limit is passed.
    #[default]
    Limits,
    /// When every consumer that wants it has acknowledged it.
    Interest,
    /// When one consumer has acknowledged it.
    WorkQueue,
}

/// What happens at a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Discard {
    /// The oldest message goes.
    #[default]
    Old,
    /// The new message is refused.
    New,
}

/// Where a stream's messages are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Storage {
    /// On disk, synced before the acknowledgement.
    #[default]
    File,
    /// In memory: gone after a restart.
    Memory,
}

/// Compression of messages on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Compression {
    #[default]
    None,
    S2,
}

/// Defaults and limits for the consumers of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ConsumerLimits {
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) inactive_threshold: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) max_ack_pending: i64,
}

/// A stream's configuration with nats-server's field names and order. Durations are nanoseconds;
/// -1 means "no limit".
/// Source: nats-server, `StreamConfig`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct StreamConfig {
    pub(crate) name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) description: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) subjects: Vec<String>,
    pub(crate) retention: Retention,
    pub(crate) max_consumers: i64,
    pub(crate) max_msgs: i64,
    pub(crate) max_bytes: i64,
    pub(crate) max_age: i64,
    pub(crate) max_msgs_per_subject: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) max_msg_size: i64,
    pub(crate) discard: Discard,
    pub(crate) storage: Storage,
    pub(crate) num_replicas: i64,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) no_ack: bool,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) duplicate_window: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) placement: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mirror: Option<StreamSource>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) sources: Vec<StreamSource>,
    pub(crate) compression: Compression,
    #[serde(skip_serializing_if = "is_zero_u64")]
    pub(crate) first_seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subject_transform: Option<SubjectTransformConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) republish: Option<RePublish>,
    pub(crate) allow_direct: bool,
    pub(crate) mirror_direct: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) discard_new_per_subject: bool,
    pub(crate) sealed: bool,
    pub(crate) deny_delete: bool,
    pub(crate) deny_purge: bool,
    pub(crate) allow_rollup_hdrs: bool,
    pub(crate) consumer_limits: ConsumerLimits,
    pub(crate) allow_msg_ttl: bool,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) subject_delete_marker_ttl: i64,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) allow_msg_counter: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) allow_atomic: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) allow_msg_schedules: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) persist_mode: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) allow_batched: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) metadata: BTreeMap<String, String>,
}

/// For serde: fields that Go's `omitempty` leaves out.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
pub(crate) fn is_zero(value: &i64) -> bool {
    *value == 0
}

/// For serde: fields that Go's `omitempty` leaves out.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
pub(crate) fn is_zero_u64(value: &u64) -> bool {
    *value == 0
}

/// For serde: fields that Go's `omitempty` leaves out.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
pub(crate) fn is_false(value: &bool) -> bool {
    !*value
}

/// Whether `name` may name a stream or consumer: it becomes a subject token and a folder.
pub(crate) fn is_valid_name(name: &str) -> bool {
    !name.is_empty()
        && !name
            .chars()
            .any(|c| matches!(c, '.' | '*' | '>' | '\\' | '/') || c.is_whitespace() || c.is_control())
}

/// Takes off what only responses carry, and notes the API level that the asset needs.
pub(crate) fn set_static_metadata(metadata: &mut BTreeMap<String, String>, level: u32) {
    metadata.remove(SERVER_VERSION_KEY);
    metadata.remove(SERVER_LEVEL_KEY);
    metadata.insert(REQUIRED_LEVEL_KEY.to_owned(), level.to_string());
}

/// Adds what only responses carry: the server's version and API level.
pub(crate) fn set_dynamic_metadata(metadata: &mut BTreeMap<String, String>, version: &str) {
    metadata.insert(SERVER_VERSION_KEY.to_owned(), version.to_owned());
    metadata.insert(SERVER_LEVEL_KEY.to_owned(), API_LEVEL.to_string());
}

impl StreamConfig {
    /// Fills in the defaults and checks everything that concerns this configuration alone.
    /// Overlap with other streams is the caller's to check.
    ///
    /// # Errors
    /// nats-server's error for the first check that fails.
    pub(crate) fn normalize(mut self) -> Result<Self, ApiError> {
        self.check_name()?;
        self.check_replicas()?;
        for limit in [
            &mut self.max_msgs,
            &mut self.max_msgs_per_subject,
            &mut self.max_bytes,
            &mut self.max_msg_size,
            &mut self.max_consumers,
        ] {
            if *limit <= 0 {
                *limit = -1;
            }
        }
        self.normalize_times()?;
        self.check_policies()?;
        self.normalize_features()?;
        self.check_origins()?;
        self.check_subjects()?;
        self.check_transforms()?;
        self.normalize_placement()?;
        let level = self.required_level();
        set_static_metadata(&mut self.metadata, level);
        Ok(self)
    }

    /// Placement is for clusters: it is kept as it was sent.
    fn normalize_placement(&mut self) -> Result<(), ApiError> {
        let Some(Value::Object(placement)) = &self.placement else {
            return Ok(());
        };
        if placement.get("preferred").is_some_and(|server| server != "") {
            return Err(ApiError::invalid_config(
                "preferred server not permitted in placement",
            ));
        }
        if placement.is_empty() {
            self.placement = None;
        }
        Ok(())
    }

    fn check_name(&self) -> Result<(), ApiError> {
        if !is_valid_name(&self.name) {
            return Err(ApiError::invalid_config(
                "stream name is required and can not contain '.', '*', '>', '\\', '/'",
            ));
        }
        if self.name.len() > NAME_BYTES_MAX {
            return Err(ApiError::invalid_config(format!(
                "stream name is too long, maximum allowed is {NAME_BYTES_MAX}"
            )));
        }
        if self.description.len() > DESCRIPTION_BYTES_MAX {
            return Err(ApiError::invalid_config(format!(
                "stream description is too long, maximum allowed is {DESCRIPTION_BYTES_MAX}"
            )));
        }
        if self.first_seq > FIRST_SEQ_MAX {
            return Err(ApiError::invalid_config(format!(
                "first sequence can not be above {FIRST_SEQ_MAX}"
            )));
        }
        let metadata_bytes: usize = self.metadata.iter().map(|(k, v)| k.len() + v.len()).sum();
        if metadata_bytes > METADATA_BYTES_MAX {
            return Err(ApiError::invalid_config(format!(
                "stream metadata exceeds maximum size of {METADATA_BYTES_MAX} bytes"
            )));
        }
        Ok(())
    }

    fn check_replicas(&mut self) -> Result<(), ApiError> {
        if self.num_replicas == 0 {
            self.num_replicas = 1;
        }
        if self.num_replicas > REPLICAS_MAX {
            return Err(ApiError::invalid_config(format!(
                "maximum replicas is {REPLICAS_MAX}"
            )));
        }
        if self.num_replicas < 0 {
            return Err(ApiError::NEGATIVE_REPLICAS);
        }
        if self.num_replicas > 1 {
            return Err(ApiError::REPLICAS);
        }
        if self.mirror_direct && self.mirror.is_none() {
            return Err(ApiError::invalid_config(
                "stream has no mirror but does have mirror direct",
            ));
        }
        Ok(())
    }

    fn normalize_times(&mut self) -> Result<(), ApiError> {
        if self.max_age < 0 {
            return Err(ApiError::invalid_config("max age can not be negative"));
        }
        if self.max_age != 0 && self.max_age < SHORTEST_NS {
            return Err(ApiError::invalid_config("max age needs to be >= 100ms"));
        }
        if self.duplicate_window == 0 && !self.copies() {
            self.duplicate_window = match self.max_age {
                0 => DUPLICATE_WINDOW_DEFAULT_NS,
                age => age.min(DUPLICATE_WINDOW_DEFAULT_NS),
            };
        }
        if self.duplicate_window < 0 {
            return Err(ApiError::invalid_config("duplicates window can not be negative"));
        }
        if self.max_age != 0 && self.duplicate_window > self.max_age {
            return Err(ApiError::invalid_config(
                "duplicates window can not be larger then max age",
            ));
        }
        if self.duplicate_window > 0 && self.duplicate_window < SHORTEST_NS {
            return Err(ApiError::invalid_config("duplicates window needs to be >= 100ms"));
        }
        Ok(())
    }

    fn check_policies(&self) -> Result<(), ApiError> {
        if self.deny_purge && self.allow_rollup_hdrs {
            return Err(ApiError::invalid_config("roll-ups require the purge permission"));
        }
        if self.discard_new_per_subject {
            if self.discard != Discard::New {
                return Err(ApiError::invalid_config(
                    "discard new per subject requires discard new policy to be set",
                ));
            }
            if self.max_msgs_per_subject <= 0 {
                return Err(ApiError::invalid_config(
                    "discard new per subject requires max msgs per subject > 0",
                ));
            }
        }
        Ok(())
    }

    fn check_subjects(&mut self) -> Result<(), ApiError> {
        if self.subjects.len() > SUBJECTS_MAX {
            return Err(ApiError::invalid_config(format!(
                "more than {SUBJECTS_MAX} subjects"
            )));
        }
        if self.subjects.is_empty() && !self.copies() {
            self.subjects.push(self.name.clone());
        }
        for (index, subject) in self.subjects.iter().enumerate() {
            if !subject::is_valid_filter(subject) {
                return Err(ApiError::invalid_config("invalid subject"));
            }
            if !self.no_ack {
                check_reserved(subject)?;
            }
            let mut later = self.subjects.iter().skip(index + 1);
            if let Some(other) = later.find(|other| subject::overlaps(other, subject)) {
                return Err(ApiError::invalid_config(format!(
                    "subject {subject:?} overlaps with {other:?}"
                )));
            }
        }
        Ok(())
    }

    /// Checks an update of `self` to `new` (already normalized), adjusting `new` where the stream
    /// gets sealed.
    ///
    /// # Errors
    /// nats-server's error for what an update may not change.
    pub(crate) fn check_update(&self, new: &mut StreamConfig) -> Result<(), ApiError> {
        if new.name != self.name {
            return Err(ApiError::invalid_config(
                "stream configuration name must match original",
            ));
        }
        let workqueue = [new.retention, self.retention].contains(&Retention::WorkQueue);
        let refused = [
            (
                new.storage != self.storage,
                "stream configuration update can not change storage type",
            ),
            (
                new.retention != self.retention && workqueue,
                "stream configuration update can not change retention policy to/from workqueue",
            ),
            (
                self.sealed && !new.sealed,
                "stream configuration update can not unseal a sealed stream",
            ),
            (
                self.deny_delete && !new.deny_delete,
                "stream configuration update can not cancel deny message deletes",
            ),
            (
                self.deny_purge && !new.deny_purge,
                "stream configuration update can not cancel deny purge",
            ),
            (
                self.allow_msg_ttl && !new.allow_msg_ttl,
                "message TTL status can not be disabled",
            ),
            (
                self.allow_msg_counter != new.allow_msg_counter,
                "stream configuration update can not change message counter setting",
            ),
            (
                self.allow_msg_schedules && !new.allow_msg_schedules,
                "message schedules can not be disabled",
            ),
            (
                self.persist_mode != new.persist_mode,
                "stream configuration update can not change persist mode",
            ),
        ];
        if new.mirror.is_some() && new.mirror != self.mirror {
            return Err(ApiError::MIRROR_NOT_UPDATABLE);
        }
        if let Some((_, text)) = refused.iter().find(|(found, _)| *found) {
            return Err(ApiError::invalid_config(*text));
        }
        if new.sealed {
            new.max_age = 0;
            new.discard = Discard::New;
            new.deny_delete = true;
            new.deny_purge = true;
            new.allow_rollup_hdrs = false;
        }
        Ok(())
    }
}

/// A stream that acknowledges must not capture requests to the server itself.
fn check_reserved(subject: &str) -> Result<(), ApiError> {
    if subject == ">" {
        return Err(ApiError::invalid_config(
            "capturing all subjects requires no-ack to be true",
        ));
    }
    let jetstream = ["$JS.>", "$JSC.>", "$NRG.>"];
    if jetstream.iter().any(|space| subject::overlaps(subject, space))
        && !subject::is_subset(subject, "$JS.EVENT.>")
    {
        return Err(ApiError::invalid_config(
            "subjects that overlap with jetstream api require no-ack to be true",
        ));
    }
    if subject::overlaps(subject, "$SYS.>") && !subject::is_subset(subject, "$SYS.ACCOUNT.>") {
        return Err(ApiError::invalid_config(
            "subjects that overlap with system api require no-ack to be true",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(edit: impl FnOnce(&mut StreamConfig)) -> Result<StreamConfig, ApiError> {
        let mut config = StreamConfig {
            name: "S".to_owned(),
            ..StreamConfig::default()
        };
        edit(&mut config);
        config.normalize()
    }

    #[test]
    fn defaults_print_as_the_server_prints_them() {
        let config = config(|_| ()).unwrap();
        expect_test::expect![[r#"{"name":"S","subjects":["S"],"retention":"limits","max_consumers":-1,"max_msgs":-1,"max_bytes":-1,"max_age":0,"max_msgs_per_subject":-1,"max_msg_size":-1,"discard":"old","storage":"file","num_replicas":1,"duplicate_window":120000000000,"compression":"none","allow_direct":false,"mirror_direct":false,"sealed":false,"deny_delete":false,"deny_purge":false,"allow_rollup_hdrs":false,"consumer_limits":{},"allow_msg_ttl":false,"metadata":{"_nats.req.level":"0"}}"#]]
        .assert_eq(&serde_json::to_string(&config).unwrap());
    }

    #[test]
    fn normalizing_twice_changes_nothing() {
        let once = config(|c| c.max_age = 5 * SECOND_NS).unwrap();
        assert_eq!(once.duplicate_window, 5 * SECOND_NS);
        assert_eq!(once.clone().normalize().unwrap(), once);
    }

    #[test]
    fn refusals_carry_the_servers_codes() {
        type Edit = fn(&mut StreamConfig);
        let cases: [(Edit, u16); 12] = [
            (|c| c.name = String::new(), 10052),
            (|c| c.name = "a.b".to_owned(), 10052),
            (|c| c.name = "a".repeat(256), 10052),
            (|c| c.num_replicas = 3, 10074),
            (|c| c.num_replicas = -1, 10133),
            (|c| c.mirror = Some(StreamSource::default()), 10142),
            (|c| c.max_age = 1, 10052),
            (|c| c.subjects = vec!["a..b".to_owned()], 10052),
            (|c| c.subjects = vec![">".to_owned()], 10052),
            (|c| c.subjects = vec!["$JS.API.>".to_owned()], 10052),
            (|c| c.subjects = vec!["a.*".to_owned(), "a.b".to_owned()], 10052),
            (|c| c.discard_new_per_subject = true, 10052),
        ];
        for (index, (edit, code)) in cases.into_iter().enumerate() {
            assert_eq!(config(edit).unwrap_err().err_code, code, "case {index}");
        }
    }

    #[test]
    fn updates_keep_what_is_fixed() {
        let old = config(|c| c.deny_delete = true).unwrap();
        let mut unlock = config(|_| ()).unwrap();
        assert_eq!(old.check_update(&mut unlock).unwrap_err().err_code, 10052);
        let mut memory = config(|c| {
            c.deny_delete = true;
            c.storage = Storage::Memory;
        })
        .unwrap();
        assert_eq!(old.check_update(&mut memory).unwrap_err().err_code, 10052);
        let mut sealed = config(|c| {
            c.deny_delete = true;
            c.sealed = true;
        })
        .unwrap();
        old.check_update(&mut sealed).unwrap();
        assert!(sealed.deny_purge);
        assert_eq!(sealed.discard, Discard::New);
    }
}
