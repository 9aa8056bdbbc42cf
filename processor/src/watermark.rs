//! How far a stream is in the lake: a property of every table, moved in the transaction that adds the rows.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// Position of a message in one stream. The first message is 1; 0 means "none yet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StreamSeq(pub u64);

/// Up to and with which message a stream is in the lake, and which stream: one that was deleted and created again under
/// its name counts from 1 again and is told by its creation time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermark {
    /// The last message that is in the lake.
    pub seq: StreamSeq,
    /// When the stream was created, in RFC 3339 with nanoseconds, as its server tells it.
    pub created: String,
}

/// A watermark that isn't one.
#[derive(Debug, thiserror::Error)]
#[error("property {property} isn't a watermark: {source}")]
pub struct WatermarkError {
    /// The property's name.
    pub property: String,
    /// What was wrong.
    source: serde_json::Error,
}

/// What the names of all watermark properties begin with.
pub const WATERMARK_PREFIX: &str = "tarn.watermark.";

impl Watermark {
    /// Name of the table property and of the snapshot summary's entry that holds the watermark of `stream`.
    pub fn property(stream: &str) -> String {
        format!("{WATERMARK_PREFIX}{stream}")
    }

    /// The watermark of `stream` among a table's properties; `None` where it was never written.
    /// Errors where the property is there and can't be read: going on from 0 would double what is in the lake.
    pub fn read(properties: &HashMap<String, String>, stream: &str) -> Result<Option<Self>, WatermarkError> {
        let property = Self::property(stream);
        let Some(text) = properties.get(&property) else {
            return Ok(None);
        };
        serde_json::from_str(text)
            .map(Some)
            .map_err(|source| WatermarkError { property, source })
    }

    /// The property's text.
    pub fn to_text(&self) -> String {
        serde_json::json!({ "seq": self.seq, "created": self.created }).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_stable_and_reads_back() {
        let watermark = Watermark {
            seq: StreamSeq(42),
            created: "2026-01-02T03:04:05.000000006Z".to_owned(),
        };
        let text = watermark.to_text();
        expect_test::expect![[r#"{"created":"2026-01-02T03:04:05.000000006Z","seq":42}"#]].assert_eq(&text);
        let properties = HashMap::from([(Watermark::property("SENSORS"), text)]);
        assert_eq!(Watermark::read(&properties, "SENSORS").unwrap(), Some(watermark));
        assert!(Watermark::read(&properties, "OTHER").unwrap().is_none());
    }

    #[test]
    fn a_broken_watermark_is_an_error_and_not_a_fresh_start() {
        let properties = HashMap::from([(Watermark::property("S"), "17".to_owned())]);
        let error = Watermark::read(&properties, "S").unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("property tarn.watermark.S isn't a watermark: "),
            "{error}"
        );
    }
}
