//! Where a stream's messages come from and go to besides publishers: transforms, republishing, mirrors, sources.

use serde::{Deserialize, Serialize};

use super::config::{is_false, is_valid_name, is_zero_u64};
use crate::api::time::JsonTime;
use crate::subject;

/// Letters of a hash in names.
const HASH_LETTERS: usize = 8;

/// A few letters that stand for a text.
/// Source: nats-server, `getHash`.
pub(crate) fn short_hash(text: &str) -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let hash = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    let letters = hash.as_ref().iter().take(HASH_LETTERS);
    letters
        .map(|byte| char::from(DIGITS[usize::from(byte % 62)]))
        .collect()
}

/// A transform as a configuration has it. An empty source covers everything, an empty destination changes nothing.
/// Source: nats-server, `SubjectTransformConfig`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SubjectTransformConfig {
    pub(crate) src: String,
    pub(crate) dest: String,
}

/// Messages that are stored are published once more, under another subject.
/// Source: nats-server, `RePublish`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RePublish {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) src: String,
    pub(crate) dest: String,
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) headers_only: bool,
}

/// A stream of another account or domain.
/// Source: nats-server, `ExternalStream`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ExternalStream {
    pub(crate) api: String,
    pub(crate) deliver: String,
}

/// The stream that another one copies from.
/// Source: nats-server, `StreamSource`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct StreamSource {
    pub(crate) name: String,
    #[serde(skip_serializing_if = "is_zero_u64")]
    pub(crate) opt_start_seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) opt_start_time: Option<JsonTime>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) filter_subject: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) subject_transforms: Vec<SubjectTransformConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) external: Option<ExternalStream>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) consumer: Option<StreamConsumerSource>,
}

/// A durable consumer that is to be used for copying.
/// Source: nats-server, `StreamConsumerSource`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct StreamConsumerSource {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) deliver_subject: String,
}

impl StreamConsumerSource {
    /// Whether a stream can copy through it: the consumer says itself where it begins and what it wants.
    pub(crate) fn fits(&self, source: &StreamSource) -> bool {
        is_valid_name(&self.name)
            && subject::is_valid_literal(&self.deliver_subject)
            && source.opt_start_seq == 0
            && source.opt_start_time.is_none()
            && source.filter_subject.is_empty()
    }
}

impl StreamSource {
    /// Tells two sources of one stream apart, and names the source in `Nats-Stream-Source`: stream, filters and
    /// destinations, with `>` for what is not set.
    /// Source: nats-server, `composeIName`.
    pub(crate) fn index_name(&self) -> String {
        let name = match &self.external {
            Some(external) => format!("{}:{}", self.name, short_hash(&external.api)),
            None => self.name.clone(),
        };
        let name = match &self.consumer {
            Some(consumer) => format!("{name}:C={}", short_hash(&consumer.name)),
            None => name,
        };
        let or_all = |text: &str| {
            if text.is_empty() {
                ">".to_owned()
            } else {
                text.replace(' ', "\x0c")
            }
        };
        let (filters, destinations) = if self.subject_transforms.is_empty() {
            (or_all(&self.filter_subject), ">".to_owned())
        } else {
            let join = |pick: fn(&SubjectTransformConfig) -> &str| {
                let all: Vec<String> = self
                    .subject_transforms
                    .iter()
                    .map(|transform| or_all(pick(transform)))
                    .collect();
                all.join("\x0c")
            };
            (
                join(|transform| &transform.src),
                join(|transform| &transform.dest),
            )
        };
        format!("{name} {filters} {destinations}")
    }
}
