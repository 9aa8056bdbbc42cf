//! Settings: what may be configured, where it comes from, and what is refused.
//!
//! Precedence: command line, then `TARN_SECTION__KEY` in the environment, then the file, then the defaults
//! below. An unknown key is an error, wherever it stands.

mod check;
mod keys;
mod load;
mod values;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use keys::KEYS;
pub use load::{ConfigErrors, Flag, Loaded, Problem, Sources};
pub use values::{Listen, ServerUrl, Size, Span};

/// Everything that can be configured, with its defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where the broker's store, the catalog and (unless set elsewhere) the warehouse live.
    pub data_dir: PathBuf,
    /// The operator means it: listeners may bind to non-loopback addresses without authentication.
    pub allow_anonymous: bool,
    /// The NATS side.
    pub nats: Nats,
    /// The embedded broker's store.
    pub store: Store,
    /// nats-server's monitoring endpoints.
    pub monitor: Monitor,
    /// The MQTT side.
    pub mqtt: Mqtt,
    /// The HTTP side.
    pub http: Http,
    /// Streams that must exist before traffic is accepted.
    pub stream: Vec<StreamSettings>,
    /// The Iceberg tables.
    pub lake: LakeSettings,
    /// Tables of aggregates.
    pub window: Vec<Window>,
    /// What a reading's subject says.
    pub readings: Readings,
    /// Logging.
    pub log: Log,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            data_dir: PathBuf::from("tarn-data"),
            allow_anonymous: false,
            nats: Nats::default(),
            store: Store::default(),
            monitor: Monitor::default(),
            mqtt: Mqtt::default(),
            http: Http::default(),
            stream: vec![StreamSettings {
                name: "SENSORS".to_owned(),
                subjects: vec!["sensors.>".to_owned(), "iot.>".to_owned()],
                max_age: Some(Span::seconds(24 * 3600)),
                max_bytes: None,
                max_messages: None,
                duplicate_window: None,
            }],
            lake: LakeSettings::default(),
            window: vec![Window {
                table: "readings_1m".to_owned(),
                every: Span::seconds(60),
            }],
            readings: Readings::default(),
            log: Log::default(),
        }
    }
}

impl Settings {
    /// Folder of the broker's store.
    pub fn broker_dir(&self) -> PathBuf {
        self.data_dir.join("broker")
    }

    /// File of the embedded catalog.
    pub fn catalog_file(&self) -> PathBuf {
        self.data_dir.join("catalog.db")
    }

    /// Folder of the warehouse.
    pub fn warehouse_dir(&self) -> PathBuf {
        match &self.lake.warehouse {
            Some(dir) => dir.clone(),
            None => self.data_dir.join("warehouse"),
        }
    }

    /// The effective settings as TOML, secrets hidden.
    pub fn to_toml(&self) -> String {
        let mut shown = self.clone();
        shown.lake.warehouse = Some(self.warehouse_dir());
        toml::to_string_pretty(&shown).unwrap_or_else(|err| format!("# not representable as TOML: {err}\n"))
    }

    /// Reads and checks the settings from `sources`.
    pub fn load(sources: Sources) -> Result<Loaded, ConfigErrors> {
        load::load(sources)
    }

    /// What is wrong with the settings taken together; empty when they can be used. `file` is named in advice.
    pub fn problems(&self, file: Option<&Path>) -> Vec<Problem> {
        check::problems(self, file)
    }
}

/// `[nats]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Nats {
    /// Client port of the embedded broker.
    pub listen: Listen,
    /// A server or cluster to use instead of the embedded broker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<ServerUrl>,
}

impl Default for Nats {
    fn default() -> Self {
        Nats {
            listen: Listen::loopback(4222),
            url: None,
        }
    }
}

/// `[store]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// Bytes of full segments read for damage in a second; 0: none are.
    pub scrub_rate: Size,
    /// Bytes of sparse segments read in a second to copy what is left of them; 0: none are.
    pub compact_rate: Size,
    /// Bytes kept of each stream's unreadable segments.
    pub max_damaged: Size,
}

impl Default for Store {
    fn default() -> Self {
        Store {
            scrub_rate: Size::from(4 << 20),
            compact_rate: Size::from(16 << 20),
            max_damaged: Size::from(256 << 20),
        }
    }
}

/// `[monitor]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Monitor {
    /// Address of the monitoring endpoints.
    pub listen: Listen,
}

impl Default for Monitor {
    fn default() -> Self {
        Monitor {
            listen: Listen::loopback(8222),
        }
    }
}

/// `[mqtt]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mqtt {
    /// MQTT over TCP.
    pub listen: Listen,
}

impl Default for Mqtt {
    fn default() -> Self {
        Mqtt {
            listen: Listen::loopback(1883),
        }
    }
}

/// `[http]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Status page, catalog, metrics and health.
    pub listen: Listen,
}

impl Default for Http {
    fn default() -> Self {
        Http {
            listen: Listen::loopback(8181),
        }
    }
}

/// `[[stream]]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamSettings {
    /// Its name.
    pub name: String,
    /// What it captures.
    #[serde(deserialize_with = "values::list")]
    pub subjects: Vec<String>,
    /// Age at which records are removed; none: kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Span>,
    /// Size beyond which the oldest are removed; none: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<Size>,
    /// Number beyond which the oldest are removed; none: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_messages: Option<u64>,
    /// How long message ids are remembered; none: the broker's two minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duplicate_window: Option<Span>,
}

/// `[lake]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LakeSettings {
    /// Folder of the tables; none: `warehouse` under the data directory.
    pub warehouse: Option<PathBuf>,
    /// Time between two commits.
    pub commit_interval: Span,
    /// A commit is due at this many buffered rows, too.
    pub commit_rows: u64,
    /// A commit is due at this many buffered bytes, too.
    pub commit_bytes: Size,
}

impl Default for LakeSettings {
    fn default() -> Self {
        LakeSettings {
            warehouse: None,
            commit_interval: Span::seconds(10),
            commit_rows: 250_000,
            commit_bytes: Size::mebibytes(64),
        }
    }
}

/// `[[window]]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// The table's name.
    pub table: String,
    /// Length of a window.
    pub every: Span,
}

/// `[readings]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Readings {
    /// Patterns that take `<sensor>` and `<device>` from a subject, tried in order.
    #[serde(deserialize_with = "values::list")]
    pub subjects: Vec<String>,
}

impl Default for Readings {
    fn default() -> Self {
        Readings {
            subjects: vec![
                "sensors.<sensor>.<device>".to_owned(),
                "iot.sensors.<sensor>.<device>".to_owned(),
            ],
        }
    }
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// A level, or a filter of `tracing-subscriber`'s form.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Log {
            level: "info".to_owned(),
            format: LogFormat::Auto,
        }
    }
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// Text.
    Text,
    /// One JSON object a line.
    Json,
}

#[cfg(test)]
mod tests;
