//! Everything that a `nats.conf` file and the command line can say, as plain data.
//!
//! Values are checked and complete: what was left out has nats-server's default, what was given by another name or in another
//! unit is in one form, default permissions have been given to the users that have none of their own. Source: nats-server 2.15,
//! "Configuration" in its documentation.

mod auth;
mod tls;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::server::Limits;

pub use self::auth::{
    AccountJetStream, AccountLimits, AccountOptions, AuthCallout, AuthOptions, ConnectionType, Credential,
    ExportKind, ExportOptions, ImportKind, ImportOptions, JetStreamTier, LatencySampling, MapDestination,
    OperatorOptions, Permissions, ResponsePermission, ResponseType, ServiceLatency, SubjectMapping,
    SubjectPermissions, UserOptions,
};
pub use self::tls::{CertPair, HandshakeFirst, TlsOptions, TlsVersion};

/// The account of clients that name none.
pub const GLOBAL_ACCOUNT: &str = "$G";
/// The system account, where no other is named.
pub const SYSTEM_ACCOUNT: &str = "$SYS";

/// Everything that can be said about one server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// What tells the file that says this from others: `sha256:…`; empty: there is none.
    pub config_digest: String,
    /// Its name in INFO; none: the server's id.
    pub server_name: Option<String>,
    /// `server_tags`, in lower case.
    pub tags: Vec<String>,
    /// `server_metadata`.
    pub metadata: BTreeMap<String, String>,
    /// Where clients connect.
    pub listen: HostPort,
    /// What INFO says instead of `listen`.
    pub client_advertise: Option<String>,
    /// Where monitoring is served.
    pub monitor: MonitorOptions,
    /// What peers may ask for.
    pub limits: Limits,
    /// Clients are told that headers are not understood.
    pub no_header_support: bool,
    /// How a lame duck goes.
    pub lame_duck: LameDuck,
    /// Who may connect, and what they may do.
    pub auth: AuthOptions,
    /// TLS on the client port.
    pub tls: Option<TlsOptions>,
    /// Clients may stay in plain text although there is TLS.
    pub allow_non_tls: bool,
    /// The WebSocket listener.
    pub websocket: Option<WebsocketOptions>,
    /// JetStream.
    pub jetstream: JetStreamOptions,
    /// Where log lines go, and which.
    pub log: LogOptions,
    /// Files that tell of the process.
    pub process: ProcessOptions,
    /// `default_js_domain`: the domain that an account's requests without one go to.
    pub default_js_domain: BTreeMap<String, String>,
    /// What was said that has no effect here, as sentences for the log.
    pub warnings: Vec<String>,
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// A name or an address, without brackets; empty: none was named.
    pub host: String,
    /// 0: any free one.
    pub port: u16,
}

impl Default for HostPort {
    fn default() -> Self {
        Self {
            host: String::new(),
            port: 4222,
        }
    }
}

impl fmt::Display for HostPort {
    /// `host:port`; an IPv6 address is in brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(f, "[{host}]:{port}")
        } else {
            write!(f, "{host}:{port}")
        }
    }
}

/// Where monitoring is served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MonitorOptions {
    /// In plain text.
    pub http: Option<HostPort>,
    /// Over TLS, with the client port's certificate.
    pub https: Option<HostPort>,
    /// Comes before each path; empty, or `/` and more.
    pub base_path: String,
    /// Ended connections that are remembered; none: 10,000.
    pub max_closed_clients: Option<usize>,
}

/// How a lame duck goes: after `grace_period` its connections end one by one over `duration`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LameDuck {
    /// Over which connections are closed, `grace_period` included.
    pub duration: Duration,
    /// How long clients have to go by themselves.
    pub grace_period: Duration,
}

impl Default for LameDuck {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(120),
            grace_period: Duration::from_secs(10),
        }
    }
}

/// The WebSocket listener.
#[derive(Clone, Debug, PartialEq)]
pub struct WebsocketOptions {
    /// Where it listens.
    pub listen: HostPort,
    /// What INFO says instead of `listen`.
    pub advertise: Option<String>,
    /// Its certificate; none only with `no_tls`.
    pub tls: Option<TlsOptions>,
    /// In plain text, on purpose.
    pub no_tls: bool,
    /// Browsers' `Origin` must be the host that was asked.
    pub same_origin: bool,
    /// Browsers' `Origin` must be one of these, if there are any.
    pub allowed_origins: Vec<String>,
    /// Messages may be compressed.
    pub compression: bool,
    /// How long the upgrade may take.
    pub handshake_timeout: Duration,
    /// Sent with the answer to the upgrade.
    pub headers: BTreeMap<String, String>,
    /// The cookie with the user's JWT.
    pub jwt_cookie: Option<String>,
    /// The cookie with the user's name.
    pub user_cookie: Option<String>,
    /// The cookie with the password.
    pub pass_cookie: Option<String>,
    /// The cookie with the token.
    pub token_cookie: Option<String>,
    /// How often a connection is pinged.
    pub ping_interval: Option<Duration>,
}

impl Default for WebsocketOptions {
    fn default() -> Self {
        Self {
            listen: HostPort {
                host: String::new(),
                port: 0,
            },
            advertise: None,
            tls: None,
            no_tls: false,
            same_origin: false,
            allowed_origins: Vec::new(),
            compression: false,
            handshake_timeout: Duration::from_secs(2),
            headers: BTreeMap::new(),
            jwt_cookie: None,
            user_cookie: None,
            pass_cookie: None,
            token_cookie: None,
            ping_interval: None,
        }
    }
}

/// JetStream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JetStreamOptions {
    /// Whether there is any.
    pub enabled: bool,
    /// Where streams are kept; none: the default folder.
    pub store_dir: Option<PathBuf>,
    /// Bytes that memory streams may use; none: a share of the machine's memory.
    pub max_memory_bytes: Option<u64>,
    /// Bytes that file streams may use; none: a share of the disk.
    pub max_file_bytes: Option<u64>,
    /// Its domain.
    pub domain: Option<String>,
    /// Requests with fields that do not exist are answered all the same.
    pub lenient: bool,
    /// Upper bounds of what streams and consumers ask for.
    pub limits: JetStreamLimits,
    /// What the store may do besides, and keep.
    pub upkeep: StoreUpkeep,
}

/// What the store may do besides taking and giving messages. None: what it does by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreUpkeep {
    /// Bytes of full segments read for damage in a second; 0: none are.
    pub scrub_bytes_per_second: Option<u64>,
    /// Bytes of sparse segments read in a second to copy what is left of them; 0: none are.
    pub compact_bytes_per_second: Option<u64>,
    /// Bytes kept of each stream's segments that cannot be read at all.
    pub damaged_bytes_max: Option<u64>,
}

/// Upper bounds of what streams and consumers ask for. None: no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JetStreamLimits {
    /// Unacknowledged messages of one consumer.
    pub max_ack_pending: Option<i64>,
    /// Messages of one pull request.
    pub max_request_batch: Option<i64>,
    /// A stream's duplicate window.
    pub duplicate_window: Option<Duration>,
    /// Atomic batches open at a time in one stream.
    pub batch_max_inflight_per_stream: Option<i64>,
    /// Atomic batches open at a time.
    pub batch_max_inflight_total: Option<i64>,
    /// Messages of one atomic batch.
    pub batch_max_msgs: Option<i64>,
    /// After which an atomic batch that does not go on is given up.
    pub batch_timeout: Option<Duration>,
}

/// Where log lines go, and which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// A file; none: standard error.
    pub file: Option<PathBuf>,
    /// The file is put aside once it is larger; 0: never.
    pub size_limit_bytes: u64,
    /// Files kept when they are put aside, the one in use included; 0: all.
    pub files_max: u64,
    /// `[DBG]` lines.
    pub debug: bool,
    /// `[TRC]` lines.
    pub trace: bool,
    /// Lines have a time.
    pub time: bool,
    /// That time is UTC.
    pub time_utc: bool,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            file: None,
            size_limit_bytes: 0,
            files_max: 0,
            debug: false,
            trace: false,
            time: true,
            time_utc: false,
        }
    }
}

/// Files that tell of the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessOptions {
    /// Holds the process id.
    pub pid_file: Option<PathBuf>,
    /// Where `nats-server_<pid>.ports` is written.
    pub ports_file_dir: Option<PathBuf>,
}

/// A password or a token: it is not printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}
