//! What keeps Tarn from starting. Each message names the thing and the next step.

use super::{DataDirError, StreamsError};
use crate::http::BindError;

/// Tarn could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The lake.
    #[error("the lake can't be opened: {0}")]
    Lake(#[from] tarn_processor::LakeError),
    /// The broker.
    #[error(transparent)]
    Broker(#[from] tarn_broker::server::StartError),
    /// The server that `nats.url` names, or the embedded one.
    #[error("no connection to the NATS server at {url}: {source}; is it running, and is nats.url right?")]
    Connect {
        /// Where.
        url: String,
        /// What the client says.
        source: async_nats::ConnectError,
    },
    /// The streams.
    #[error(transparent)]
    Streams(#[from] StreamsError),
    /// The subject patterns; the configuration is checked for this before.
    #[error(transparent)]
    Patterns(#[from] tarn_schemas::PatternError),
    /// The processor.
    #[error("the processor can't be started: {0}")]
    Processor(#[from] tarn_processor::StartError),
    /// The processor gave up.
    #[error("the processor can't work: {reason}")]
    ProcessorFailed {
        /// Why.
        reason: String,
    },
    /// MQTT.
    #[error("{0}; free the port, or set mqtt.listen (--mqtt-listen) to another address")]
    Mqtt(#[from] crate::mqtt::BindError),
    /// HTTP.
    #[error(transparent)]
    Http(#[from] BindError),
}

/// Tarn stopped, but not in order.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// The last commit failed.
    #[error(
        "the last commit to the tables failed ({reason}): {rows} rows stay in the stream and are read at the next start"
    )]
    Uncommitted {
        /// How many rows were read and not committed.
        rows: u64,
        /// Why.
        reason: String,
    },
    /// A part is still in use by another one.
    #[error(
        "{part} was still in use and was stopped without being drained; what was acknowledged is on disk"
    )]
    Busy {
        /// Which.
        part: &'static str,
    },
}
