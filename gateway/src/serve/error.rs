//! What keeps Tarn from starting. Each message names the thing and the next step.

use tarn_processor::LakeError;
use tarn_processor::catalog::CatalogError;

use super::{DataDirError, StreamsError};
use crate::http::BindError;

/// What to do about a lake that can't be opened, where its own message does not say.
pub(crate) fn next_step(error: &LakeError) -> &'static str {
    match error {
        LakeError::Catalog(CatalogError::Sqlite { .. }) => {
            "; if the file is damaged, restore a backup, or move it away: the tables are then made anew from what the \
             streams still hold"
        }
        LakeError::Iceberg { .. } | LakeError::Storage(_) => {
            "; if files of the warehouse are gone or damaged, restore it and the catalog from one backup"
        }
        _ => "",
    }
}

fn processor_step(error: &tarn_processor::StartError) -> &'static str {
    match error {
        tarn_processor::StartError::Lake(error) => next_step(error),
        _ => "",
    }
}

/// Tarn could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The lake.
    #[error("the lake can't be opened: {source}{}", next_step(.source))]
    Lake {
        /// What the lake says.
        #[from]
        source: LakeError,
    },
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
    #[error("the processor can't be started: {source}{}", processor_step(.source))]
    Processor {
        /// What it says.
        #[from]
        source: tarn_processor::StartError,
    },
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

impl ServeError {
    /// Whether another process listens where Tarn was to listen.
    pub fn is_port_in_use(&self) -> bool {
        match self {
            Self::Broker(tarn_broker::server::StartError::PortInUse { .. }) => true,
            Self::Mqtt(error) => error.is_port_in_use(),
            Self::Http(error) => error.is_port_in_use(),
            _ => false,
        }
    }
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
