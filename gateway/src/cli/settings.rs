//! The flags that every command with a configuration shares.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;

use super::Failure;
use crate::config::{Flag, Loaded, Settings, Sources};

const DEFAULT_FILE: &str = "tarn.toml";
const HEADING: &str = "Settings (each also as TARN_SECTION__KEY and in the file)";

/// Where the settings come from.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct SettingsArgs {
    /// Configuration file [default: tarn.toml, if there is one]
    #[arg(short, long, env = "TARN_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Broker, catalog and warehouse live here [data_dir]
    #[arg(long, value_name = "DIR", help_heading = HEADING)]
    data_dir: Option<String>,
    /// NATS client port [nats.listen]
    #[arg(long, value_name = "HOST:PORT", help_heading = HEADING)]
    nats_listen: Option<String>,
    /// Read from this NATS server or cluster instead of the embedded broker [nats.url]
    #[arg(long, value_name = "URL", help_heading = HEADING)]
    nats_url: Option<String>,
    /// NATS monitoring port [monitor.listen]
    #[arg(long, value_name = "HOST:PORT|off", help_heading = HEADING)]
    monitor_listen: Option<String>,
    /// MQTT port [mqtt.listen]
    #[arg(long, value_name = "HOST:PORT|off", help_heading = HEADING)]
    mqtt_listen: Option<String>,
    /// Status page, catalog, metrics, health [http.listen]
    #[arg(long, value_name = "HOST:PORT|off", help_heading = HEADING)]
    http_listen: Option<String>,
    /// Folder of the Iceberg tables [lake.warehouse]
    #[arg(long, value_name = "DIR", help_heading = HEADING)]
    warehouse: Option<String>,
    /// Time between two commits to the tables [lake.commit_interval]
    #[arg(long, value_name = "DURATION", help_heading = HEADING)]
    commit_interval: Option<String>,
    /// Listen on non-loopback addresses without authentication [allow_anonymous]
    #[arg(long, help_heading = HEADING)]
    allow_anonymous: bool,
    /// error, warn, info, debug, trace or a filter [log.level]
    #[arg(long, value_name = "LEVEL", help_heading = HEADING)]
    log_level: Option<String>,
}

impl SettingsArgs {
    /// Reads and checks the settings: flags, environment, file, defaults.
    pub(super) fn load(&self) -> Result<Loaded, Failure> {
        let file = self.config.clone().or_else(|| {
            let usual = PathBuf::from(DEFAULT_FILE);
            usual.exists().then_some(usual)
        });
        Ok(Settings::load(Sources {
            file,
            environment: environment()?,
            flags: self.flags(),
        })?)
    }

    fn flags(&self) -> Vec<Flag> {
        let allow = self.allow_anonymous.then(|| "true".to_owned());
        let all = [
            ("--data-dir", "data_dir", &self.data_dir),
            ("--nats-listen", "nats.listen", &self.nats_listen),
            ("--nats-url", "nats.url", &self.nats_url),
            ("--monitor-listen", "monitor.listen", &self.monitor_listen),
            ("--mqtt-listen", "mqtt.listen", &self.mqtt_listen),
            ("--http-listen", "http.listen", &self.http_listen),
            ("--warehouse", "lake.warehouse", &self.warehouse),
            ("--commit-interval", "lake.commit_interval", &self.commit_interval),
            ("--allow-anonymous", "allow_anonymous", &allow),
            ("--log-level", "log.level", &self.log_level),
        ];
        let set = |(name, key, value): (&'static str, &'static str, &Option<String>)| {
            value.clone().map(|value| Flag { name, key, value })
        };
        all.into_iter().filter_map(set).collect()
    }
}

/// The `TARN_` part of the environment.
fn environment() -> Result<BTreeMap<String, String>, Failure> {
    let mut found = BTreeMap::new();
    for (name, value) in std::env::vars_os() {
        let Some(name) = name.to_str().filter(|name| name.starts_with("TARN_")) else {
            continue;
        };
        match value.into_string() {
            Ok(value) => found.insert(name.to_owned(), value),
            Err(_) => return Err(Failure::Usage(format!("{name}: the value is not UTF-8"))),
        };
    }
    Ok(found)
}
