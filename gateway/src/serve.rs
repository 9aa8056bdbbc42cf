//! The composition root: what is started in which order, and drained in reverse.
//!
//! Start: data directory → lake → broker → streams → processor → MQTT → HTTP. Traffic is accepted only when what is
//! behind it stands. A failure on the way stops what was started already.

mod data_dir;
mod error;
mod roles;
mod streams;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tarn_broker::options::StoreUpkeep;
use tarn_broker::server::{Broker, BrokerConfig};
use tarn_processor::stats::ProcessorState;
use tarn_processor::storage::Warehouse;
use tarn_processor::{Lake, LakeOptions, NatsAuth, NatsTarget, Processor, ProcessorConfig, WindowSpec};
use tarn_schemas::SubjectPatterns;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::config::{Listen, Settings};
use crate::http::{self, HttpServer, Parts};
use crate::ingest::LocalIngest;
use crate::mqtt::{MqttConfig, MqttServer};

pub use data_dir::{DataDir, DataDirError, FREE_BYTES_MIN, free_bytes};
pub(crate) use error::next_step;
pub use error::{ServeError, StopError};
pub use roles::{Role, Roles, RolesError};
pub use streams::{Plan, StreamsError, plan};

/// How long a start waits for the processor to read.
const FIRST_READ_MAX: Duration = Duration::from_secs(10);
/// How long a part that was told to stop may hold on to another.
const RELEASE_MAX: Duration = Duration::from_secs(5);

/// Tarn, running: every role that was asked for.
#[derive(Default)]
pub struct Server {
    data_dir: Option<DataDir>,
    lake: Option<Lake>,
    broker: Option<Arc<Broker>>,
    processor: Option<Arc<Processor>>,
    mqtt: Option<Arc<MqttServer>>,
    http: Option<HttpServer>,
    lines: Vec<String>,
}

impl Server {
    /// Starts `roles`. When this errs, nothing is left running.
    pub async fn start(settings: &Settings, roles: Roles) -> Result<Server, ServeError> {
        let mut server = Server::default();
        match server.start_all(settings, roles).await {
            Ok(()) => Ok(server),
            Err(error) => {
                if let Err(second) = server.shutdown().await {
                    warn!(error = %second, "what had been started did not stop in order");
                }
                Err(error)
            }
        }
    }

    async fn start_all(&mut self, settings: &Settings, roles: Roles) -> Result<(), ServeError> {
        self.data_dir = Some(DataDir::claim(&settings.data_dir)?);
        if roles.processor {
            self.start_lake(settings).await?;
        }
        if roles.broker {
            self.start_broker(settings).await?;
        }
        let read = self.ensure_streams(settings, roles).await?;
        if roles.processor {
            self.start_processor(settings, read).await?;
        }
        if roles.gateway {
            self.start_mqtt(settings).await?;
        }
        self.start_http(settings).await
    }

    async fn start_lake(&mut self, settings: &Settings) -> Result<(), ServeError> {
        let dir = settings.warehouse_dir();
        let options = LakeOptions {
            warehouse: Warehouse::Local(dir.clone()),
            catalog: settings.catalog_file(),
        };
        self.lake = Some(Lake::open(options).await?);
        info!(warehouse = %dir.display(), "lake is open");
        Ok(())
    }

    async fn start_broker(&mut self, settings: &Settings) -> Result<(), ServeError> {
        let mut config = BrokerConfig {
            monitor_listen: settings.monitor.listen.address(),
            ..BrokerConfig::new(settings.broker_dir(), settings.nats.listen.to_string())
        };
        config.jetstream.upkeep = StoreUpkeep {
            scrub_bytes_per_second: Some(settings.store.scrub_rate.bytes()),
            compact_bytes_per_second: Some(settings.store.compact_rate.bytes()),
            damaged_bytes_max: Some(settings.store.max_damaged.bytes()),
        };
        let broker = Broker::start(config).await?;
        self.lines.push(line("NATS", broker.client_addr(), ""));
        if let Some(address) = broker.monitor_addr() {
            self.lines
                .push(line("monitoring", address, " (http: /varz /jsz /connz)"));
        }
        self.broker = Some(Arc::new(broker));
        Ok(())
    }

    async fn ensure_streams(&mut self, settings: &Settings, roles: Roles) -> Result<Vec<String>, ServeError> {
        let target = self.nats_target(settings);
        let client = connect(&target).await?;
        let jetstream = async_nats::jetstream::new(client.clone());
        let plan = streams::ensure(&jetstream, &settings.stream, roles.broker).await?;
        self.lines
            .extend(plan.notes.iter().map(|note| format!("note: {note}")));
        if let Err(error) = client.drain().await {
            warn!(%error, "the connection that made the streams did not close in order");
        }
        Ok(plan.read)
    }

    async fn start_processor(&mut self, settings: &Settings, read: Vec<String>) -> Result<(), ServeError> {
        let Some(lake) = self.lake.clone() else {
            return Ok(());
        };
        let windows = settings.window.iter().map(|window| WindowSpec {
            table: window.table.clone(),
            every: window.every.duration(),
        });
        let config = ProcessorConfig {
            patterns: SubjectPatterns::parse(&settings.readings.subjects)?,
            windows: windows.collect(),
            commit_interval: settings.lake.commit_interval.duration(),
            rows_max: usize::try_from(settings.lake.commit_rows).unwrap_or(usize::MAX),
            bytes_max: usize::try_from(settings.lake.commit_bytes.bytes()).unwrap_or(usize::MAX),
            ..ProcessorConfig::new(self.nats_target(settings), read)
        };
        self.lines.push(format!(
            "processor    {} → {} every {}",
            config.streams.join(", "),
            settings.warehouse_dir().display(),
            settings.lake.commit_interval
        ));
        let processor = Arc::new(Processor::start(config, lake).await?);
        self.processor = Some(Arc::clone(&processor));
        self.until_it_reads(&processor).await
    }

    /// The processor connects in the background; devices are let in once it reads. A server that keeps it waiting keeps
    /// nobody else: it is told, and `/readyz` goes on telling.
    async fn until_it_reads(&mut self, processor: &Processor) -> Result<(), ServeError> {
        let deadline = Instant::now() + FIRST_READ_MAX;
        loop {
            let stats = processor.stats();
            let Some(problem) = http::processor_problem(&stats) else {
                return Ok(());
            };
            if stats.state == ProcessorState::Failed {
                return Err(ServeError::ProcessorFailed { reason: problem });
            }
            if Instant::now() > deadline {
                self.lines
                    .push(format!("note: the processor is not reading yet: {problem}"));
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn start_mqtt(&mut self, settings: &Settings) -> Result<(), ServeError> {
        let (Some(broker), Some(listen)) = (&self.broker, settings.mqtt.listen.address()) else {
            return Ok(());
        };
        let broker = Arc::clone(broker);
        let ingest = LocalIngest::new(move |name| broker.local_client(name));
        let server = MqttServer::bind(
            MqttConfig {
                listen,
                ..MqttConfig::default()
            },
            Arc::new(ingest),
        )
        .await?;
        self.lines.push(line("MQTT", server.local_addr(), ""));
        self.mqtt = Some(Arc::new(server));
        Ok(())
    }

    async fn start_http(&mut self, settings: &Settings) -> Result<(), ServeError> {
        let Listen::At { .. } = settings.http.listen else {
            return Ok(());
        };
        let parts = Parts {
            broker: self.broker.clone(),
            processor: self.processor.clone(),
            mqtt: self.mqtt.clone(),
            lake: self.lake.clone(),
        };
        let server = HttpServer::bind(&settings.http.listen.to_string(), parts).await?;
        let what = if self.lake.is_some() {
            " (status page; Iceberg REST catalog: /catalog)"
        } else {
            ""
        };
        self.lines.push(line("HTTP", server.local_addr(), what));
        self.http = Some(server);
        Ok(())
    }

    /// The embedded broker over loopback, or the server that `nats.url` names.
    fn nats_target(&self, settings: &Settings) -> NatsTarget {
        if let Some(broker) = &self.broker {
            return NatsTarget {
                url: format!("nats://{}", reachable(broker.client_addr())),
                auth: NatsAuth::None,
            };
        }
        let Some(url) = &settings.nats.url else {
            return NatsTarget {
                url: format!("nats://{}", settings.nats.listen),
                auth: NatsAuth::None,
            };
        };
        let auth = match url.login() {
            None => NatsAuth::None,
            Some((token, None)) => NatsAuth::Token(token),
            Some((user, Some(password))) => NatsAuth::UserPassword { user, password },
        };
        NatsTarget {
            url: url.without_secrets(),
            auth,
        }
    }

    /// One line for each listener, in order of start, and what else an operator should know.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// The lake, if the processor runs here.
    pub fn lake(&self) -> Option<&Lake> {
        self.lake.as_ref()
    }

    /// The broker, if it runs here.
    pub fn broker(&self) -> Option<&Broker> {
        self.broker.as_deref()
    }

    /// The processor, if it runs here.
    pub fn processor(&self) -> Option<&Processor> {
        self.processor.as_deref()
    }

    /// Where MQTT is listened for.
    pub fn mqtt_addr(&self) -> Option<SocketAddr> {
        self.mqtt.as_ref().map(|server| server.local_addr())
    }

    /// Where HTTP is listened for.
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(HttpServer::local_addr)
    }

    /// Stops accepting, drains in reverse order of start, commits what was read, syncs and closes the store.
    /// Errs with what was not done in order; the rest is stopped all the same.
    pub async fn shutdown(mut self) -> Result<(), StopError> {
        if let Some(http) = self.http.take() {
            http.shutdown().await;
        }
        let mut failed = None;
        match alone(self.mqtt.take(), "MQTT").await {
            Ok(Some(mqtt)) => mqtt.shutdown().await,
            Ok(None) => {}
            Err(error) => failed = Some(error),
        }
        match alone(self.processor.take(), "the processor").await {
            Ok(Some(processor)) => {
                let stats = processor.shutdown().await;
                if stats.buffered_rows > 0 {
                    let reason = stats
                        .last_error
                        .unwrap_or_else(|| "no reason was given".to_owned());
                    failed.get_or_insert(StopError::Uncommitted {
                        rows: stats.buffered_rows,
                        reason,
                    });
                }
            }
            Ok(None) => {}
            Err(error) => {
                failed.get_or_insert(error);
            }
        }
        match alone(self.broker.take(), "the broker").await {
            Ok(Some(broker)) => broker.shutdown().await,
            Ok(None) => {}
            Err(error) => {
                failed.get_or_insert(error);
            }
        }
        drop(self.lake.take());
        drop(self.data_dir.take());
        failed.map_or(Ok(()), Err)
    }
}

/// Waits until nothing else holds a part: what did (HTTP; MQTT's clients of the broker) has been told to stop before.
async fn alone<T>(shared: Option<Arc<T>>, part: &'static str) -> Result<Option<T>, StopError> {
    let Some(mut shared) = shared else { return Ok(None) };
    let deadline = Instant::now() + RELEASE_MAX;
    loop {
        shared = match Arc::try_unwrap(shared) {
            Ok(value) => return Ok(Some(value)),
            Err(_) if Instant::now() > deadline => return Err(StopError::Busy { part }),
            Err(shared) => shared,
        };
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn line(name: &str, address: SocketAddr, what: &str) -> String {
    format!("{name:<12} {address}{what}")
}

/// An address that this machine can connect to where a listener has a wildcard.
pub fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        let loopback: std::net::IpAddr = match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        };
        address.set_ip(loopback);
    }
    address
}

async fn connect(target: &NatsTarget) -> Result<async_nats::Client, ServeError> {
    let options = async_nats::ConnectOptions::new().name("tarn");
    let options = match target.auth.clone() {
        NatsAuth::None => options,
        NatsAuth::Token(token) => options.token(token),
        NatsAuth::UserPassword { user, password } => options.user_and_password(user, password),
    };
    let failed = |source| ServeError::Connect {
        url: target.url.clone(),
        source,
    };
    options.connect(target.url.as_str()).await.map_err(failed)
}
