//! The processor: sources, batches and commits put together.

use crate::catalog::{Lake, LakeError};
use crate::config::{ConfigError, ProcessorConfig};
use crate::stats::ProcessorStats;

/// Why a processor can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings are wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The tables can't be opened or claimed.
    #[error(transparent)]
    Lake(#[from] LakeError),
}

/// A running processor. Dropping it stops it without a last commit, which loses nothing: what was not committed is
/// read again.
#[derive(Debug)]
pub struct Processor {
    stats: ProcessorStats,
}

impl Processor {
    /// Claims the lake, creates missing tables and starts to read. Returns as soon as that is done, whether the NATS
    /// server is there or not: it is waited for in the background, see [`ProcessorStats`].
    pub async fn start(config: ProcessorConfig, lake: Lake) -> Result<Self, StartError> {
        config.validate()?;
        let _ = lake;
        todo!()
    }

    /// What it did and where it stands.
    pub fn stats(&self) -> ProcessorStats {
        self.stats.clone()
    }

    /// Stops reading, commits what it has, and returns the last figures.
    pub async fn shutdown(self) -> ProcessorStats {
        todo!()
    }
}
