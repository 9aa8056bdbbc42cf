//! The processor: sources, batches and commits put together.

mod coordinator;
mod run;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod throughput;
mod writer;

use tarn_schemas::Decoder;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use writer::{RebuildError, WatermarksError};

use crate::catalog::{Lake, LakeError};
use crate::config::{ConfigError, ProcessorConfig};
use crate::decode::MessageDecoder;
use crate::source::{self, CHUNKS_MAX, Source};
use crate::stats::{ProcessorStats, Recorder};
use crate::window::{SeriesHasher, SeriesTable};
use run::{Run, RunParts};
use writer::LakeWriter;

/// Why a processor can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings are wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The tables can't be opened or claimed.
    #[error(transparent)]
    Lake(#[from] LakeError),
    /// The tables don't say how far they are, or not the same.
    #[error(transparent)]
    Watermarks(#[from] WatermarksError),
    /// A window table could not be made from the readings.
    #[error(transparent)]
    Rebuild(#[from] RebuildError),
    /// The NATS address can't be one.
    #[error("nats url {url}: {detail}")]
    Nats {
        /// As configured.
        url: String,
        /// What was wrong.
        detail: String,
    },
}

/// A running processor. Dropping it stops it without a last commit, which loses nothing: what was not committed is
/// read again.
#[derive(Debug)]
pub struct Processor {
    stats: Recorder,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Processor {
    /// Takes the lake over from any earlier processor, creates missing tables and starts to read. Returns as soon as
    /// that is done (and window tables that are new have been made from the readings), whether the NATS server is there or not: it is waited for in the background, see
    /// [`ProcessorStats`].
    pub async fn start(config: ProcessorConfig, lake: Lake) -> Result<Self, StartError> {
        config.validate()?;
        let hasher = SeriesHasher::default();
        let mut writer = LakeWriter::claim(lake, &config, &hasher).await?;
        writer.rebuild_windows(&hasher).await?;
        let watermarks = writer.watermarks(&config.streams).await?;
        let connection = source::connect(&config.nats)
            .await
            .map_err(|error| StartError::Nats {
                url: config.nats.url.clone(),
                detail: error.to_string(),
            })?;
        let tables: Vec<String> = config.windows.iter().map(|window| window.table.clone()).collect();
        let stats = Recorder::new(&config.streams, &tables);
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let (events, received) = mpsc::channel(CHUNKS_MAX);
        let mut orders = Vec::new();
        for index in 0..config.streams.len() {
            let (sender, ordered) = mpsc::channel(1);
            orders.push(sender);
            tasks.spawn(Source::new(&config, index, &connection, events.clone()).run(ordered));
        }
        let decoder = MessageDecoder::new(Decoder::new(config.patterns.clone()), SeriesTable::new(hasher));
        let parts = RunParts {
            client: connection.client,
            events: received,
            orders,
            writer,
            decoder,
            watermarks,
        };
        tasks.spawn(Run::new(&config, parts, stats.clone()).run(stop.clone()));
        Ok(Self { stats, stop, tasks })
    }

    /// What it did and where it stands.
    pub fn stats(&self) -> ProcessorStats {
        self.stats.snapshot()
    }

    /// Stops reading, commits what it has, and returns the last figures. A commit that keeps failing is given up after
    /// three attempts; what it held is read again after the next start.
    pub async fn shutdown(mut self) -> ProcessorStats {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a task of the processor ended badly");
            }
        }
        self.stats.snapshot()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::catalog::LakeOptions;
    use crate::config::{NatsAuth, NatsTarget};
    use crate::storage::Warehouse;

    #[tokio::test]
    async fn it_stops_while_the_server_can_not_be_reached() {
        let dir = tempfile::tempdir().unwrap();
        let lake = Lake::open(LakeOptions {
            warehouse: Warehouse::Memory,
            catalog: dir.path().join("catalog.db"),
        });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let nats = NatsTarget {
            url: format!("nats://{}", listener.local_addr().unwrap()),
            auth: NatsAuth::None,
        };
        drop(listener);
        let config = ProcessorConfig::new(nats, vec!["SENSORS".to_owned()]);
        let processor = Processor::start(config, lake.await.unwrap()).await.unwrap();
        let stopped = tokio::time::timeout(Duration::from_secs(10), processor.shutdown());
        stopped.await.expect("the processor stops");
    }
}
