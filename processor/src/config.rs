//! What a processor reads, how it batches, and which window tables it keeps.

use std::time::Duration;

use tarn_schemas::SubjectPatterns;

/// Settings of one processor. `ProcessorConfig::new` gives the defaults.
#[derive(Clone, Debug)]
pub struct ProcessorConfig {
    /// Where the streams are.
    pub nats: NatsTarget,
    /// Names of the streams to read. Each has its own watermark.
    pub streams: Vec<String>,
    /// Name of the durable consumer on each stream. It belongs to the processor, which deletes and creates it as needed.
    pub consumer: String,
    /// What subjects say about the readings on them.
    pub patterns: SubjectPatterns,
    /// Window tables to keep.
    pub windows: Vec<WindowSpec>,
    /// The longest that a message waits for its commit to begin.
    pub commit_interval: Duration,
    /// Rows after which a commit begins early.
    pub rows_max: usize,
    /// Bytes of payload after which a commit begins early.
    pub bytes_max: usize,
    /// Day partitions after which a commit begins early. One commit opens at most this many files a table, and those of
    /// one message more, so that wild timestamps cost more commits instead of more open files.
    pub partitions_max: usize,
    /// Rows of one closed file of a window table: the cost of correcting one of its windows.
    pub window_file_rows_max: usize,
    /// Rows of a window table that are held in memory, and replaced in the table at each commit that touches them.
    pub window_open_rows_max: usize,
}

/// A NATS server or cluster, and who we are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsTarget {
    /// `nats://host:port`, or several of them separated by commas.
    pub url: String,
    /// How we log in.
    pub auth: NatsAuth,
}

/// How a client logs in.
#[derive(Clone, PartialEq, Eq, Default)]
pub enum NatsAuth {
    /// Not at all.
    #[default]
    None,
    /// By token.
    Token(String),
    /// By name and password.
    UserPassword {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
}

/// Never shows a secret.
impl std::fmt::Debug for NatsAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Token(_) => f.write_str("Token"),
            Self::UserPassword { user, .. } => write!(f, "UserPassword({user})"),
        }
    }
}

/// One window table: `table` holds one row for each `every` of each device, sensor and metric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowSpec {
    /// Name of the table.
    pub table: String,
    /// Length of a window. Windows begin at multiples of it since 1970-01-01T00:00:00Z.
    pub every: Duration,
}

impl WindowSpec {
    /// `readings_1m`.
    pub fn per_minute() -> Self {
        Self {
            table: "readings_1m".to_owned(),
            every: Duration::from_secs(60),
        }
    }

    /// Length of a window in microseconds.
    pub(crate) fn every_micros(&self) -> i64 {
        i64::try_from(self.every.as_micros()).unwrap_or(i64::MAX)
    }
}

/// Why a processor can't start with its settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No stream to read.
    #[error("no stream is configured")]
    NoStreams,
    /// The same stream twice.
    #[error("stream {stream} is named twice")]
    RepeatedStream {
        /// Its name.
        stream: String,
    },
    /// A window that can't be kept.
    #[error("window table {table}: a window must last at least 1 s and at most 366 days")]
    WindowLength {
        /// The table.
        table: String,
    },
    /// A window table whose name is taken.
    #[error("window table {table} is named twice or has the name of another table")]
    RepeatedTable {
        /// The table.
        table: String,
    },
    /// A setting that must not be zero is.
    #[error("{setting} must be more than 0")]
    Zero {
        /// Its name.
        setting: &'static str,
    },
}

impl ProcessorConfig {
    /// The defaults: a commit every 10 s, at 250,000 rows or at 64 MiB, and the table `readings_1m`.
    pub fn new(nats: NatsTarget, streams: Vec<String>) -> Self {
        Self {
            nats,
            streams,
            consumer: "tarn-lake".to_owned(),
            patterns: SubjectPatterns::default(),
            windows: vec![WindowSpec::per_minute()],
            commit_interval: Duration::from_secs(10),
            rows_max: 250_000,
            bytes_max: 64 << 20,
            partitions_max: 64,
            window_file_rows_max: 50_000,
            window_open_rows_max: 100_000,
        }
    }

    /// Checks what the types can't.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.streams.is_empty() {
            return Err(ConfigError::NoStreams);
        }
        for (index, stream) in self.streams.iter().enumerate() {
            if self.streams.iter().take(index).any(|other| other == stream) {
                return Err(ConfigError::RepeatedStream {
                    stream: stream.clone(),
                });
            }
        }
        for (index, window) in self.windows.iter().enumerate() {
            let table = || window.table.clone();
            let taken = ["readings", "dead_letters"].contains(&window.table.as_str());
            if taken
                || self
                    .windows
                    .iter()
                    .take(index)
                    .any(|other| other.table == window.table)
            {
                return Err(ConfigError::RepeatedTable { table: table() });
            }
            if !(Duration::from_secs(1)..=Duration::from_secs(366 * 86_400)).contains(&window.every) {
                return Err(ConfigError::WindowLength { table: table() });
            }
        }
        let numbers = [
            ("rows_max", self.rows_max),
            ("bytes_max", self.bytes_max),
            ("partitions_max", self.partitions_max),
            ("window_file_rows_max", self.window_file_rows_max),
            ("window_open_rows_max", self.window_open_rows_max),
        ];
        match numbers.iter().find(|(_, number)| *number == 0) {
            Some((setting, _)) => Err(ConfigError::Zero { setting }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ProcessorConfig {
        let nats = NatsTarget {
            url: "nats://127.0.0.1:4222".to_owned(),
            auth: NatsAuth::None,
        };
        ProcessorConfig::new(nats, vec!["SENSORS".to_owned()])
    }

    #[test]
    fn the_defaults_are_valid() {
        config().validate().unwrap();
    }

    #[test]
    fn names_are_unique() {
        let mut repeated = config();
        repeated.streams.push("SENSORS".to_owned());
        assert_eq!(
            repeated.validate(),
            Err(ConfigError::RepeatedStream {
                stream: "SENSORS".to_owned()
            })
        );
        let mut taken = config();
        taken.windows.push(WindowSpec {
            table: "readings".to_owned(),
            every: Duration::from_secs(60),
        });
        assert_eq!(
            taken.validate(),
            Err(ConfigError::RepeatedTable {
                table: "readings".to_owned()
            })
        );
    }

    #[test]
    fn numbers_are_checked() {
        let mut short = config();
        short.windows[0].every = Duration::from_millis(999);
        assert!(matches!(short.validate(), Err(ConfigError::WindowLength { .. })));
        let mut zero = config();
        zero.bytes_max = 0;
        assert_eq!(zero.validate(), Err(ConfigError::Zero { setting: "bytes_max" }));
    }

    #[test]
    fn secrets_are_not_shown() {
        let auth = NatsAuth::UserPassword {
            user: "lake".to_owned(),
            password: "hunter2".to_owned(),
        };
        assert_eq!(format!("{auth:?}"), "UserPassword(lake)");
        assert_eq!(format!("{:?}", NatsAuth::Token("hunter2".to_owned())), "Token");
    }
}
