//! `tarn demo`: serves everything in this process, publishes as a fleet, and reads the tables back.
//!
//! Nothing is asked of the parts that a client could not ask: the fleet speaks MQTT and NATS over loopback, the
//! figures come from the Iceberg tables, and `readings_1m` is held against a GROUP BY of the demo's own.

mod folder;
mod lake;
mod ports;
mod progress;
mod report;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tarn_broker::server::Broker;
use tarn_simulators::ledger::LedgerError;
use tarn_simulators::{Faults, FleetConfig, FleetError, FleetReport, Protocol, Verdict};
use tokio::time::Instant;
use tracing::debug;

use crate::audit::{AuditError, WindowCheck};
use crate::config::{Settings, Span};
use crate::present::say;
use crate::serve::{Roles, ServeError, Server, StopError, reachable};
use folder::Folder;
use progress::Progress;

pub use lake::LakeFigures;

/// How long the tables may take to catch up with the streams, once nothing is published any more.
const CATCH_UP_MAX: Duration = Duration::from_secs(60);
const COMMIT_INTERVAL: Span = Span::seconds(2);

/// What a demo does.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// How many devices publish.
    pub devices: u32,
    /// For how long.
    pub duration: Duration,
    /// Messages a second over all devices.
    pub rate: f64,
    /// Where data goes; none: a temporary directory that is removed.
    pub data_dir: Option<PathBuf>,
    /// Leave everything running, and the data where it is.
    pub keep: bool,
    /// Seed of the fleet.
    pub seed: u64,
}

/// What a demo found.
#[derive(Debug)]
pub struct Outcome {
    /// What the fleet did.
    pub fleet: FleetReport,
    /// What the tables hold.
    pub lake: LakeFigures,
    /// The ledger held against the tables.
    pub verdict: Verdict,
    /// `readings_1m` held against the GROUP BY.
    pub windows: WindowCheck,
}

impl Outcome {
    /// Whether every promise held.
    pub fn holds(&self) -> bool {
        self.problems().is_empty()
    }
}

/// The demo could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The data directory holds something already.
    #[error("{} holds a lake already, and a demo counts from zero; name an empty or new directory", .0.display())]
    NotEmpty(PathBuf),
    /// The temporary directory.
    #[error("the directory {} can't be made: {source}; name another with --data-dir", .dir.display())]
    Folder {
        /// Which.
        dir: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Tarn did not start.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// Tarn did not stop in order.
    #[error(transparent)]
    Stop(#[from] StopError),
    /// The fleet could not publish.
    #[error("the fleet failed: {0}")]
    Fleet(#[from] FleetError),
    /// Tarn did not acknowledge everything.
    #[error("{count} messages were not acknowledged; the last error was: {last_error}")]
    Unacknowledged {
        /// How many.
        count: u64,
        /// What a connection of the fleet said last.
        last_error: String,
    },
    /// The tables did not catch up.
    #[error("after {} s the tables had not caught up with the streams: {reason}", CATCH_UP_MAX.as_secs())]
    Behind {
        /// Where they stand.
        reason: String,
    },
    /// The streams can't be asked.
    #[error("the stream {stream} can't be looked at: {reason}")]
    Stream {
        /// Which.
        stream: String,
        /// Why.
        reason: String,
    },
    /// The tables can't be read.
    #[error("the tables can't be read: {0}")]
    Audit(#[from] AuditError),
    /// The ledger can't be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// A demo whose server runs.
pub struct Demo {
    options: DemoOptions,
    folder: Folder,
    server: Server,
}

impl Demo {
    /// Starts everything on loopback; where a usual port is taken, a free one is used, and a line says so.
    pub async fn start(options: DemoOptions) -> Result<Demo, DemoError> {
        let folder = Folder::prepare(options.data_dir.as_deref(), options.keep)?;
        let mut settings = Settings {
            data_dir: folder.path().to_owned(),
            ..Settings::default()
        };
        settings.lake.commit_interval = COMMIT_INTERVAL;
        let server = Self::serve(&mut settings).await?;
        say!("Tarn serves from {}", folder.path().display());
        for line in server.lines() {
            say!("  {line}");
        }
        Ok(Demo {
            options,
            folder,
            server,
        })
    }

    /// Starts the server. A port that another process takes between the look and the start is left to it.
    async fn serve(settings: &mut Settings) -> Result<Server, DemoError> {
        let mut attempts_left = ports::LISTENERS;
        loop {
            for note in ports::choose(settings) {
                say!("{note}");
            }
            match Server::start(settings, Roles::ALL).await {
                Err(error) if error.is_port_in_use() && attempts_left > 0 => attempts_left -= 1,
                started => return Ok(started?),
            }
        }
    }

    /// Publishes, waits until the tables caught up, and reads them back.
    pub async fn run(&self) -> Result<Outcome, DemoError> {
        let ledger = self.folder.path().join("demo-ledger.jsonl");
        let config = self.fleet(&ledger);
        say!(
            "\n{} devices publish over MQTT (QoS 1) and NATS for {} s, with duplicates, late, out-of-order and malformed \
             messages",
            self.options.devices,
            self.options.duration.as_secs()
        );
        let progress = Progress::start("publishing", self.options.duration);
        let fleet = tarn_simulators::run(config, |now| {
            let committed = self
                .server
                .processor()
                .map(|processor| processor.stats().messages)
                .unwrap_or_default();
            progress.tell(now.acked, committed);
        })
        .await?;
        progress.finish();
        if fleet.unacked > 0 {
            return Err(DemoError::Unacknowledged {
                count: fleet.unacked,
                last_error: fleet.progress.last_error.unwrap_or_else(|| "none".to_owned()),
            });
        }
        self.wait_for_tables().await?;
        let Some(tables) = self.server.lake() else {
            return Err(DemoError::Behind {
                reason: "there is no lake".to_owned(),
            });
        };
        let audit = lake::read_back(tables, &ledger).await?;
        let processor = self
            .server
            .processor()
            .map(|processor| processor.stats())
            .unwrap_or_default();
        Ok(Outcome {
            fleet,
            lake: LakeFigures {
                publish_to_commit: processor.publish_to_commit,
                ..audit.figures
            },
            verdict: audit.verdict,
            windows: audit.windows,
        })
    }

    fn fleet(&self, ledger: &Path) -> FleetConfig {
        let address = |address: Option<SocketAddr>| address.map(|address| reachable(address).to_string());
        let mqtt = address(self.server.mqtt_addr()).unwrap_or_default();
        let nats = address(self.server.broker().map(Broker::client_addr)).unwrap_or_default();
        FleetConfig {
            devices: self.options.devices,
            rate: self.options.rate,
            duration: self.options.duration,
            protocol: Protocol::Mixed,
            mqtt_url: format!("mqtt://{mqtt}"),
            nats_url: format!("nats://{nats}"),
            seed: self.options.seed,
            ledger: Some(ledger.to_owned()),
            faults: Faults::TYPICAL,
            ..FleetConfig::default()
        }
    }

    /// Returns once everything that the streams hold is in the tables.
    async fn wait_for_tables(&self) -> Result<(), DemoError> {
        let began = Instant::now();
        let waiting = Progress::spinner("waiting for the last commit");
        let result = loop {
            let behind = self.behind().await?;
            match behind {
                None => break Ok(()),
                Some(reason) if began.elapsed() > CATCH_UP_MAX => break Err(DemoError::Behind { reason }),
                Some(reason) => debug!(reason, "tables are behind"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        waiting.finish();
        result
    }

    /// What is missing in the tables, in words; `None` when they have all that the streams hold.
    async fn behind(&self) -> Result<Option<String>, DemoError> {
        let Some(processor) = self.server.processor() else {
            return Ok(Some("no processor runs".to_owned()));
        };
        for stream in processor.stats().streams {
            let last = self.last_seq(&stream.name).await?;
            if stream.watermark.0 < last {
                let stats = processor.stats();
                let error = stats
                    .last_error
                    .map(|error| format!("; {error}"))
                    .unwrap_or_default();
                return Ok(Some(format!(
                    "stream {} is in the tables through {} of {last}, the processor is {:?} and took {}{error}",
                    stream.name, stream.watermark.0, stats.state, stream.delivered.0
                )));
            }
        }
        Ok(None)
    }

    async fn last_seq(&self, stream: &str) -> Result<u64, DemoError> {
        let failed = |reason: String| DemoError::Stream {
            stream: stream.to_owned(),
            reason,
        };
        let Some(broker) = self.server.broker() else {
            return Ok(0);
        };
        let url = format!("nats://{}", reachable(broker.client_addr()));
        let client = async_nats::connect(url)
            .await
            .map_err(|err| failed(err.to_string()))?;
        let jetstream = async_nats::jetstream::new(client);
        let mut handle = jetstream
            .get_stream(stream)
            .await
            .map_err(|err| failed(err.to_string()))?;
        let info = handle.info().await.map_err(|err| failed(err.to_string()))?;
        Ok(info.state.last_sequence)
    }

    /// Where the data is.
    pub fn data_dir(&self) -> &Path {
        self.folder.path()
    }

    /// Prints what was found and how to connect.
    pub fn report(&self, outcome: &Outcome) {
        report::print(outcome);
        if let Some(address) = self.server.http_addr() {
            let how = match (self.options.keep, self.folder.is_temporary()) {
                (true, _) => String::new(),
                (false, true) => "; run with --keep to leave it there".to_owned(),
                (false, false) => format!(
                    "; it ends with the demo: `tarn serve --data-dir {}` serves it again",
                    self.folder.path().display()
                ),
            };
            report::connect(&format!("http://{}/catalog", reachable(address)), &how);
        }
    }

    /// Stops everything; removes the data if it is temporary.
    pub async fn stop(self) -> Result<(), DemoError> {
        self.server.shutdown().await?;
        drop(self.folder);
        Ok(())
    }
}
