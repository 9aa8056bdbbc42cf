//! What came back to a request.

use serde_json::Value;

use crate::shard::inbox::{PubAck, PublishError};

/// What became of a request.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Value(Value),
    /// JetStream's code, and whether it says that the disk failed or is full.
    Refused {
        code: u64,
        is_disk: bool,
        is_full: bool,
    },
    /// None came.
    Missing,
}

impl Answer {
    /// Reads the answer to a request of a network client.
    pub(super) fn read(payload: &[u8]) -> Self {
        let value: Value = serde_json::from_slice(payload).expect("answers are JSON");
        let Some(error) = value.get("error") else {
            return Self::Value(value);
        };
        let code = error["err_code"].as_u64().unwrap_or(0);
        let text = error["description"].as_str().unwrap_or_default();
        let is_full = code == 10047 || text.contains("insufficient storage");
        let says_disk = ["read-only", "cannot ", "error creating store"]
            .iter()
            .any(|part| text.contains(part));
        Self::Refused {
            code,
            is_disk: is_full || says_disk,
            is_full,
        }
    }

    /// The answer that a publisher in this process got.
    pub(super) fn of_local(result: Result<PubAck, PublishError>) -> Self {
        match result {
            Ok(ack) => {
                let mut value = serde_json::json!({"stream": *ack.stream, "seq": ack.seq.0});
                if ack.duplicate {
                    value["duplicate"] = true.into();
                }
                Self::Value(value)
            }
            Err(PublishError::NoSpace) => Self::Refused {
                code: 10047,
                is_disk: true,
                is_full: true,
            },
            Err(PublishError::ReadOnly) => Self::Refused {
                code: 10077,
                is_disk: true,
                is_full: false,
            },
            Err(PublishError::Refused {
                err_code,
                description,
            }) => Self::Refused {
                code: u64::from(err_code),
                is_disk: description.contains("read-only") || description.contains("cannot "),
                is_full: false,
            },
            Err(_) => Self::Missing,
        }
    }

    /// Whether what was asked for was done.
    pub(super) fn is_ok(&self) -> bool {
        matches!(self, Self::Value(_))
    }
}
